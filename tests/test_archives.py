"""Reading zips, zips within zips and folders: against `zipfile` and Info-ZIP, whole and with every kind of damage."""

import contextlib
import errno
import io
import lzma
import os
import pickle
import random
import shutil
import stat
import struct
import subprocess
import threading
import zipfile
import zlib
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from conversion import archives
from conversion.archives import (
    DAMAGE,
    Archive,
    ArchiveError,
    DamagedEntry,
    Entry,
    Reader,
    content_id,
    explain,
    extracted,
    inner_archive,
    read_entries,
)
from conversion.errors import OutputError, ReleaseError
from tests.releases import RawEntry, changed, raw_zip

STORED, DEFLATED = zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED
FILES = {
    "Inria_dataset/4096/a.jpg": b"\xff\xd8" + bytes(range(256)) * 40,
    "Inria_dataset/4096/b.jpg": random.Random(1).randbytes(3000),
    "Inria_dataset/empty.jpg": b"",
    "MMM-RS_Inria.json": b'[{"image": "a.jpg"}]' * 500,
}


@pytest.fixture(params=["libdeflate", "zlib"])
def _inflate_with(request, monkeypatch):
    """With and without the `deflate` package."""
    if request.param == "zlib":
        monkeypatch.setattr(archives.sources, "deflate_decompress", None)
        monkeypatch.setattr(archives.sources, "crc32", zlib.crc32)


with_either_inflate = pytest.mark.usefixtures("_inflate_with")


def zipped(files, method=STORED, **options) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method, **options) as file:
        for name, data in files.items():
            file.writestr(name, data)
    return buffer.getvalue()


def on_disk(tmp_path, data: bytes, name="Inria.zip") -> Archive:
    path = tmp_path / name
    path.write_bytes(data)
    return Archive(str(path), f"MMM-RS/{name}", "zip")


def rows(archive) -> list[dict]:
    return read_entries(archive).to_pylist()


def contents(archive) -> dict[str, bytes]:
    with Reader(archive) as reader:
        return {row["name"]: bytes(reader.read(Entry.of(row))[0]) for row in rows(archive)}


def streamed(archive) -> dict[str, bytes]:
    members = {}
    for row in rows(archive):
        with Reader(archive).stream(Entry.of(row)) as stream:
            members[row["name"]] = stream.read()
    return members


def damage(archive, row=0) -> str:
    """The reason why an entry cannot be read, the same whether read whole or as a stream."""
    row = rows(archive)[row] if isinstance(row, int) else row
    with pytest.raises(DamagedEntry) as whole, Reader(archive) as reader:
        reader.read(Entry.of(row))
    with pytest.raises(DamagedEntry) as stream, Reader(archive).stream(Entry.of(row)) as file:
        while file.read(1000):
            pass
    assert whole.value.reason == stream.value.reason
    assert whole.value.detail
    return whole.value.reason


def problems(archive) -> dict[str, str | None]:
    return {row["name"]: row["problem"] for row in rows(archive)}


def patched(data: bytes, offset: int, form: str, *values) -> bytes:
    raw = bytearray(data)
    struct.pack_into("<" + form, raw, offset, *values)
    return bytes(raw)


def local(data: bytes, name: str) -> int:
    with zipfile.ZipFile(io.BytesIO(data)) as file:
        return file.getinfo(name).header_offset


def central(data: bytes, name: str) -> int:
    """Where an entry's row in the directory begins."""
    raw = name.encode()
    offset = data.index(b"PK\1\2")
    while data[offset + 46 : offset + 46 + len(raw)] != raw:
        offset = data.index(b"PK\1\2", offset + 1)
    return offset


def payload(data: bytes, name: str) -> int:
    offset = local(data, name)
    return offset + 30 + sum(struct.unpack_from("<2H", data, offset + 26))


# --- whole archives --------------------------------------------------------------------------------------------------


@with_either_inflate
@pytest.mark.parametrize("method", [STORED, DEFLATED])
def test_a_zip_gives_what_zipfile_gives(tmp_path, method):
    data = zipped(FILES, method)
    archive = on_disk(tmp_path, data)
    table = read_entries(archive)
    assert table.schema == archives.SCHEMA
    with zipfile.ZipFile(archive.path) as reference:
        for row, info in zip(table.to_pylist(), reference.infolist(), strict=True):
            assert row == {
                "name": info.filename,
                "file": None,
                "offset": info.header_offset,
                "packed": info.compress_size,
                "size": info.file_size,
                "crc": info.CRC,
                "method": info.compress_type,
                "flags": info.flag_bits,
                "problem": None,
            }
    assert contents(archive) == streamed(archive) == FILES


def test_the_crc_is_returned_with_the_bytes(tmp_path):
    archive = on_disk(tmp_path, zipped(FILES))
    with Reader(archive) as reader:
        for row in rows(archive):
            data, crc = reader.read(Entry.of(row))
            assert crc == row["crc"] == zlib.crc32(data)


def test_a_zip_of_info_zip(tmp_path):
    if not shutil.which("zip"):
        pytest.skip("needs zip")
    for name, data in FILES.items():
        path = tmp_path / "in" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    subprocess.run(["zip", "-qr", "../x.zip", "."], cwd=tmp_path / "in", check=True)
    assert contents(Archive(str(tmp_path / "x.zip"), "x.zip", "zip")) == FILES


@with_either_inflate
def test_a_zip_written_to_a_pipe_has_its_sizes_after_the_data(tmp_path):
    class Pipe(io.RawIOBase):
        data = b""

        def writable(self):
            return True

        def write(self, piece):
            self.data += bytes(piece)
            return len(piece)

    for method in STORED, DEFLATED:
        pipe = Pipe()
        with zipfile.ZipFile(pipe, "w", method) as file:
            for name, data in FILES.items():
                file.writestr(name, data)
        assert contents(on_disk(tmp_path, pipe.data)) == FILES


@with_either_inflate
@pytest.mark.parametrize("method", [STORED, DEFLATED])
def test_zip64(tmp_path, monkeypatch, method):
    monkeypatch.setattr(zipfile, "ZIP64_LIMIT", 100)
    monkeypatch.setattr(zipfile, "ZIP_FILECOUNT_LIMIT", 2)
    data = zipped(FILES, method)
    assert b"PK\6\6" in data
    assert struct.unpack_from("<I", data, central(data, "MMM-RS_Inria.json") + 42) == (0xFFFFFFFF,)
    archive = on_disk(tmp_path, data)
    assert contents(archive) == streamed(archive) == FILES
    assert contents(on_disk(tmp_path, b"junk before" + data)) == FILES


def test_zip64_local_headers_of_a_stream(tmp_path):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as file, file.open("a.jpg", "w", force_zip64=True) as sink:
        sink.write(b"abc")
    data = patched(buffer.getvalue(), 18, "Q", 2**64 - 1)  # both sizes are in the extra field; Python 3.10 repeats them
    assert contents(on_disk(tmp_path, data)) == {"a.jpg": b"abc"}
    assert damage(on_disk(tmp_path, patched(data, 30 + 5 + 4, "Q", 4))) == "bad_local_header"


def test_a_comment_and_bytes_before_the_zip_do_no_harm(tmp_path):
    buffer = io.BytesIO(b"#!/bin/sh\n" * 50)
    with zipfile.ZipFile(buffer, "a") as file:
        file.comment = b"PK\5 no end record" * 3000
        for name, data in FILES.items():
            file.writestr(name, data)
    assert contents(on_disk(tmp_path, buffer.getvalue())) == FILES
    assert contents(on_disk(tmp_path, b"more" + buffer.getvalue())) == FILES


def test_a_zip_without_entries(tmp_path):
    table = read_entries(on_disk(tmp_path, zipped({})))
    assert table.schema == archives.SCHEMA
    assert table.num_rows == 0


def test_a_directory_longer_than_a_block(tmp_path, monkeypatch):
    monkeypatch.setattr(archives.directory, "BLOCK", 1 << 18)
    files = {f"{'folder' * 20}/{number:06d}.jpg": b"%d" % number for number in range(4000)}
    archive = on_disk(tmp_path, zipped(files))
    assert contents(archive) == files


def test_a_row_of_the_directory_inside_a_name_is_not_taken_for_one(tmp_path):
    files = {"a\1PK\1\2" + "x" * 60 + ".jpg": b"one", "b.jpg": b"two"}
    assert contents(on_disk(tmp_path, zipped(files))) == files


def test_local_headers_with_long_extra_fields_are_read_again(tmp_path):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as file:
        for name, data in FILES.items():
            info = zipfile.ZipInfo(name)
            info.extra = struct.pack("<2H", 0x9999, 3000) + bytes(3000)
            file.writestr(info, data)
    assert contents(on_disk(tmp_path, buffer.getvalue())) == FILES


def test_an_archive_and_its_errors_can_be_pickled():
    archive = Archive("a", "b", "zip", inside=Entry(1, 2, 3, 4, 8))
    assert pickle.loads(pickle.dumps(archive)) == archive
    for error in ArchiveError("x.zip", "it is empty", "Download it again"), DamagedEntry("truncated", "why"):
        again = pickle.loads(pickle.dumps(error))
        assert isinstance(again, ReleaseError)
        assert str(again) == str(error)


def test_readers_of_one_archive_work_in_several_threads(tmp_path):
    files = {f"{number}.jpg": random.Random(number).randbytes(5000 + number) for number in range(200)}
    archive = on_disk(tmp_path, zipped(files, DEFLATED))
    results = []
    threads = [threading.Thread(target=lambda: results.append(contents(archive))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == [files] * 4


def test_readers_and_streams_leave_no_descriptor_open(tmp_path):
    archive = on_disk(tmp_path, zipped(FILES, DEFLATED))
    before = os.listdir("/dev/fd")
    for _ in range(3):
        contents(archive)
        row = rows(archive)[0]
        Reader(archive).read(Entry.of(row))
        Reader(archive).stream(Entry.of(row)).read(10)
        Reader(archive).stream(Entry.of(row))
    assert len(os.listdir("/dev/fd")) == len(before)


# --- more than 4 GiB without zip64 -----------------------------------------------------------------------------------


def modulo_zip(files: dict[str, bytes], wrap: int, method=STORED, before=b"", holes=()) -> bytes:
    """A zip as macOS's Archive Utility writes it: offsets and sizes modulo 2**32, here modulo `wrap`.

    `before`: bytes before the zip. `holes`: numbers of entries before which `wrap` bytes belong to no entry.
    """
    data, directory = bytearray(before), b""
    for number, (name, content) in enumerate(files.items()):
        data += bytes(wrap * holes.count(number))
        offset, raw, packed = len(data) - len(before), name.encode(), content
        if method == DEFLATED:
            engine = zlib.compressobj(wbits=-zlib.MAX_WBITS)
            packed = engine.compress(content) + engine.flush()
        stated = zlib.crc32(content), len(packed) % wrap, len(content) % wrap
        flags, local = (8, (0, 0, 0)) if method == DEFLATED else (0, stated)
        data += struct.pack("<4s5H3I2H", b"PK\3\4", 20, flags, method, 0, 33, *local, len(raw), 0) + raw + packed
        if flags:
            data += struct.pack("<4s3I", b"PK\7\x08", *stated)
        directory += struct.pack("<4s6H3I", b"PK\1\2", 0x315, 20, flags, method, 0, 33, *stated)
        directory += struct.pack("<5H2I", len(raw), 0, 0, 0, 0, 0o100644 << 16, offset % wrap) + raw
    start = (len(data) - len(before)) % wrap
    end = struct.pack("<4s4H2IH", b"PK\5\6", 0, 0, len(files), len(files), len(directory), start, 0)
    return bytes(data) + directory + end


sizes = st.lists(st.integers(0, 40_000) | st.sampled_from([0, 1, 8192, 8191]), min_size=1, max_size=12)


@settings(max_examples=80, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(sizes, st.sampled_from([STORED, DEFLATED]), st.integers(0, 300), st.lists(st.integers(0, 11), max_size=2))
def test_offsets_and_sizes_modulo_4_gib_are_unwrapped(tmp_path, monkeypatch, sizes, method, before, holes):
    """With a modulus of 8 KiB, so that small files show it: entries of any size, bytes before the zip, holes in it."""
    holes = [number for number in holes if not number or sizes[min(number, len(sizes)) - 1] < 8000]
    monkeypatch.setattr(archives.sources, "WRAP", 8192)
    files = {f"{number}.jpg": random.Random(number).randbytes(size) for number, size in enumerate(sizes)}
    archive = on_disk(tmp_path, modulo_zip(files, 8192, method, bytes(before), holes))
    assert problems(archive) == dict.fromkeys(files)
    assert contents(archive) == streamed(archive) == files


def test_a_text_that_shrinks_below_4_gib_is_streamed_whole(tmp_path, monkeypatch):
    monkeypatch.setattr(archives.sources, "WRAP", 8192)
    files = {"a.json": b"[" + b" " * 900_000 + b"]", "b.jpg": random.Random(1).randbytes(20_000)}
    assert streamed(on_disk(tmp_path, modulo_zip(files, 8192, DEFLATED))) == files


@pytest.mark.parametrize("method", [STORED, DEFLATED])
def test_a_zip_of_more_than_4_gib_in_such_a_zip(tmp_path, monkeypatch, method):
    monkeypatch.setattr(archives.sources, "WRAP", 8192)
    files = {f"{number}.jpg": random.Random(number).randbytes(5000) for number in range(20)}
    outer = on_disk(tmp_path, modulo_zip({"a.txt": b"x", "Inria.zip": modulo_zip(files, 8192)}, 8192, method))
    archive = inner_archive(outer, read_entries(outer), 1)
    assert bool(archive.inside) == (method == DEFLATED)
    assert contents(archive) == streamed(archive) == files
    with extracted(archive, tmp_path) as plain:
        assert contents(plain) == files


def test_one_damaged_header_does_not_cost_the_other_entries_of_such_a_zip(tmp_path, monkeypatch):
    monkeypatch.setattr(archives.sources, "WRAP", 8192)
    files = {f"{number}.jpg": random.Random(number).randbytes(3000) for number in range(40)}
    whole = modulo_zip(files, 8192)
    for name in files:
        start = whole.index(b"PK\3\4" + whole[4:14] + struct.pack("<I", zlib.crc32(files[name])))
        archive = on_disk(tmp_path, patched(whole, start, "I", 0))
        assert {row["name"]: row["problem"] for row in rows(archive)} == dict.fromkeys(files)
        assert damage(archive, list(files).index(name)) == "bad_local_header"


def test_a_zip_behind_4_gib_of_other_bytes_is_no_such_zip(tmp_path, monkeypatch):
    monkeypatch.setattr(archives.sources, "WRAP", 8192)
    assert contents(on_disk(tmp_path, bytes(100_000) + zipped(FILES))) == FILES


def test_a_sparse_zip_of_more_than_4_gib(tmp_path):
    """The real modulus: a hole of 4 GiB, which takes no place on the disk."""
    files = {"a.jpg": b"first", "b.jpg": b"second", "c.jpg": b"third"}
    data = modulo_zip(files, 1 << 32)
    second = data.index(b"PK\3\4", 1)
    path = tmp_path / "x.zip"
    with open(path, "wb") as file:
        file.write(data[:second])
        file.seek(1 << 32, os.SEEK_CUR)
        file.write(data[second:])
    assert path.stat().st_blocks < 100
    assert contents(Archive(str(path), "x.zip", "zip")) == files


# --- names -----------------------------------------------------------------------------------------------------------


def raw_named(names: list[bytes], flag=0) -> bytes:
    """A zip whose names are these bytes: written under stand-ins of the same length."""
    stand_ins = [f"{number:03d}".encode().ljust(len(name), b"_") for number, name in enumerate(names)]
    data = zipped({stand_in.decode(): b"%d" % number for number, stand_in in enumerate(stand_ins)})
    for stand_in, name in zip(stand_ins, names, strict=True):
        data = data.replace(stand_in, name)
    if flag:
        for signature, field in ((b"PK\3\4", 6), (b"PK\1\2", 8)):
            start = data.find(signature)
            while start >= 0:
                data = patched(data, start + field, "H", flag)
                start = data.find(signature, start + 1)
    return data


@pytest.mark.parametrize("encoding", ["utf-8", "gbk", "gb18030"])
def test_names_without_a_flag_are_read_in_the_encoding_that_fits_all(tmp_path, encoding):
    names = ["数据/武汉_1.jpg", "数据/北京.jpg", "plain.jpg"]
    assert list(contents(on_disk(tmp_path, raw_named([name.encode(encoding) for name in names])))) == names


@pytest.mark.parametrize("name", ["Zürich.jpg", "São Paulo é.jpg", "Besançon/côté.jpg", "ß.jpg", "Malmö ä å.jpg"])
def test_western_names_are_not_read_as_chinese(tmp_path, name):
    """Nearly all bytes are some character of GB 18030, if a rare one."""
    raw = name.encode("cp850")  # as cp437 in these letters, but for ã
    assert raw.decode("gb18030", "replace") != name
    assert list(contents(on_disk(tmp_path, raw_named([raw, b"plain.jpg"])))) == [raw.decode("cp437"), "plain.jpg"]


def test_names_of_neither_are_read_as_cp437(tmp_path):
    assert list(contents(on_disk(tmp_path, raw_named([b"\x81ber.jpg", b"caf\x82\xff"])))) == ["über.jpg", "café\xa0"]


def test_flagged_names_are_utf8_beside_others_that_are_not(tmp_path):
    data = raw_named(["数".encode(), "据.jpg".encode("gbk")])
    data = patched(data, 6, "H", 1 << 11)
    data = patched(data, data.index(b"PK\1\2") + 8, "H", 1 << 11)
    assert list(contents(on_disk(tmp_path, data))) == ["数", "据.jpg"]


def test_a_name_that_is_not_the_utf8_it_claims_to_be_is_unsafe(tmp_path):
    archive = on_disk(tmp_path, raw_named([b"\xff\xfe.jpg", b"good.jpg"], flag=1 << 11))
    assert list(problems(archive).values()) == ["unsafe_name", None]


def test_the_unicode_path_of_info_zip_wins_where_its_crc_fits(tmp_path):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as file:
        for name, of in (("one.jpg", b"one.jpg"), ("two.jpg", b"other")):
            info = zipfile.ZipInfo(name)
            field = b"\1" + struct.pack("<I", zlib.crc32(of)) + f"数/{name}".encode()
            info.extra = struct.pack("<2H2s2H", 0x9999, 2, b"xx", 0x7075, len(field)) + field
            file.writestr(info, b"data")
    assert list(contents(on_disk(tmp_path, buffer.getvalue()))) == ["数/one.jpg", "two.jpg"]


def test_backslashes_become_slashes_after_decoding(tmp_path):
    assert "誠".encode("gb18030").endswith(b"\x5c")
    names = [b"Inria_dataset\\4096\\a.jpg", "誠\\b.jpg".encode("gb18030")]
    assert list(contents(on_disk(tmp_path, raw_named(names)))) == ["Inria_dataset/4096/a.jpg", "誠/b.jpg"]


def test_needless_dots_and_slashes_are_taken_out(tmp_path):
    names = [b"./a/b.jpg", b"a//c.jpg", b"a/././d.jpg", b"a./e.jpg", b".f.jpg"]
    plain = ["a/b.jpg", "a/c.jpg", "a/d.jpg", "a./e.jpg", ".f.jpg"]
    assert list(contents(on_disk(tmp_path, raw_named(names)))) == plain


def test_folders_and_junk_have_no_row(tmp_path):
    junk = [
        "__MACOSX/a.jpg",
        "x/__MACOSX/._a.jpg",
        "x/._a.jpg",
        "._b",
        "Thumbs.db",
        "x/THUMBS.DB",
        ".DS_Store",
        "x/.DS_Store",
        "desktop.ini",
        "x/Desktop.ini",
        "x/",
        "x/y/",
    ]
    kept = ["x/a.jpg", "a._b.jpg", "MyThumbs.db", "x/desktop.ini.jpg", "MACOSX/a.jpg", "DS_Store"]
    archive = on_disk(tmp_path, zipped({name: b"" if name.endswith("/") else b"x" for name in junk + kept}))
    assert list(contents(archive)) == kept


@pytest.mark.parametrize(
    "name",
    [
        b"../a.jpg",
        b"x/../../a.jpg",
        b"x/..",
        b"..\\a.jpg",
        b"/etc/a.jpg",
        b"\\a.jpg",
        b"C:/a.jpg",
        b"c:a.jpg",
        b"\\\\server\\a.jpg",
        b"a\0.jpg",
        b"a" * 4097 + b".jpg",
    ],
)
def test_names_that_lead_outside_are_marked(tmp_path, name):
    archive = on_disk(tmp_path, raw_named([name, b"a..b/good..jpg"]))
    assert [row["problem"] for row in rows(archive)] == ["unsafe_name", None]


def test_an_empty_name_is_marked(tmp_path):
    data = zipped({"a": b"x", "b.jpg": b"y"})
    data = patched(patched(data, 26, "2H", 0, 1), data.index(b"PK\1\2") + 28, "2H", 0, 1)  # its one letter turns extra
    assert problems(on_disk(tmp_path, data)) == {"": "unsafe_name", "b.jpg": None}


def test_equal_names_keep_their_rows(tmp_path):
    with pytest.warns(UserWarning, match="Duplicate"):
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w") as file:
            file.writestr("a.jpg", b"one")
            file.writestr("a.jpg", b"two")
    archive = on_disk(tmp_path, buffer.getvalue())
    with Reader(archive) as reader:
        assert [bytes(reader.read(Entry.of(row))[0]) for row in rows(archive)] == [b"one", b"two"]


# --- entries that the directory shows to be unusable -----------------------------------------------------------------


def test_links_and_devices_are_marked(tmp_path):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as file:
        kinds = {"link": stat.S_IFLNK, "pipe": stat.S_IFIFO, "folder": stat.S_IFDIR, "a": stat.S_IFREG}
        for name, kind in kinds.items():
            info = zipfile.ZipInfo(name)
            info.create_system, info.external_attr = 3, (kind | 0o644) << 16
            file.writestr(info, b"/etc/passwd")
    assert problems(on_disk(tmp_path, buffer.getvalue())) == {"link": "link", "pipe": "not_a_file", "a": None}


@pytest.mark.parametrize(("method", "named"), [(zipfile.ZIP_BZIP2, "bzip2"), (zipfile.ZIP_LZMA, "lzma")])
def test_other_methods_are_named(tmp_path, method, named):
    archive = on_disk(tmp_path, zipped({"a.jpg": b"x" * 100}, method))
    row = rows(archive)[0]
    assert row["problem"] == "unsupported_compression"
    assert named in explain(row["problem"], row["method"])
    assert damage(archive, row) == "bad_local_header"


@pytest.mark.parametrize(("method", "named"), [(9, "deflate64"), (93, "zstd"), (77, "method 77")])
def test_methods_that_zipfile_cannot_write_are_named_too(method, named):
    assert named in explain("unsupported_compression", method)


def test_every_problem_has_an_explanation():
    for problem in archives.PROBLEMS:
        assert explain(problem, 0)


def test_encrypted_entries_are_marked(tmp_path):
    data = zipped(FILES)
    name = "Inria_dataset/4096/a.jpg"
    data = patched(patched(data, central(data, name) + 8, "H", 1), local(data, name) + 6, "H", 1)
    assert problems(on_disk(tmp_path, data)) == dict.fromkeys(FILES) | {name: "encrypted"}


def test_encrypted_entries_of_info_zip_are_marked(tmp_path):
    if not shutil.which("zip"):
        pytest.skip("needs zip")
    (tmp_path / "a.jpg").write_bytes(b"x" * 100)
    subprocess.run(["zip", "-qP", "secret", "x.zip", "a.jpg"], cwd=tmp_path, check=True)
    assert problems(Archive(str(tmp_path / "x.zip"), "x.zip", "zip")) == {"a.jpg": "encrypted"}


def test_entries_of_a_later_version_of_the_format_are_marked(tmp_path):
    data = zipped(FILES)
    name = "Inria_dataset/4096/a.jpg"
    codes = problems(on_disk(tmp_path, patched(data, central(data, name) + 6, "B", 64)))
    assert codes == dict.fromkeys(FILES) | {name: "unsupported_version"}


def test_overlapping_entries_are_marked(tmp_path):
    data = zipped(FILES)
    first = "Inria_dataset/4096/a.jpg"
    longer = len(FILES[first]) + 500
    data = patched(data, central(data, first) + 20, "2I", longer, longer)
    codes = problems(on_disk(tmp_path, data))
    assert codes == dict.fromkeys(FILES) | {first: "overlap"}


def test_a_bomb_of_entries_that_share_their_bytes_is_defused(tmp_path):
    """Many rows for the same bytes: at most one is left, so the work is bounded by the file's size."""
    data = zipped({"000.jpg": b"\0" * 100_000}, DEFLATED)
    directory = data.index(b"PK\1\2")
    row, end = data[directory : data.index(b"PK\5\6")], data[data.index(b"PK\5\6") :]
    many = b"".join(row[:46] + b"%03d.jpg" % number for number in range(300))
    data = data[:directory] + many + patched(end, 8, "2HI", 300, 300, len(many))
    codes = list(problems(on_disk(tmp_path, data)).values())
    assert codes.count("overlap") == 299


def test_an_entry_that_reaches_out_of_the_archive_is_marked(tmp_path):
    last = list(FILES)[-1]
    data = zipped(FILES)
    size = len(FILES[last]) + 100
    assert problems(on_disk(tmp_path, patched(data, central(data, last) + 20, "2I", size, size)))[last] == "overlap"
    away = on_disk(tmp_path, patched(data, central(data, last) + 42, "I", 1 << 31))
    assert problems(away)[last] == "bad_local_header"


def test_a_wrong_offset_into_a_whole_entry_does_not_cost_that_one(tmp_path):
    data = zipped(FILES)
    wrong = "Inria_dataset/4096/b.jpg"
    archive = on_disk(tmp_path, patched(data, central(data, wrong) + 42, "I", 2000))
    assert problems(archive) == dict.fromkeys(FILES) | {wrong: "bad_local_header"}


@with_either_inflate
@pytest.mark.parametrize(
    ("method", "packed", "size"), [(STORED, 10_242, 4), (DEFLATED, 50, 1 << 31), (DEFLATED, 50, 0xFFFFFFFF)]
)
def test_sizes_that_cannot_be_are_marked_before_any_memory_is_asked_for(tmp_path, method, packed, size):
    data = zipped(FILES, method)
    name = "Inria_dataset/4096/a.jpg"
    archive = on_disk(tmp_path, patched(data, central(data, name) + 20, "2I", packed, size))
    row = rows(archive)[0]
    assert row["problem"] == "size_mismatch"
    with Reader(archive) as reader, pytest.raises(DamagedEntry):
        reader.read(Entry.of(row))


def test_zip64_values_that_are_missing_or_absurd_are_marked(tmp_path, monkeypatch):
    monkeypatch.setattr(zipfile, "ZIP64_LIMIT", 100)
    data = zipped({"a.jpg": bytes(500), "b.jpg": bytes(500)})
    offset = central(data, "b.jpg")
    extra = offset + 46 + 5
    assert problems(on_disk(tmp_path, patched(data, extra + 2, "H", 8)))["b.jpg"] == "bad_directory_entry"
    assert problems(on_disk(tmp_path, patched(data, extra + 4, "Q", 1 << 63)))["b.jpg"] == "bad_directory_entry"


@pytest.mark.parametrize("extra", [b"\r\0\xff\xff", b"\0\0\0\1", b"\x0a\0\2\0ab\x99\x99\1\0"])
def test_an_extra_field_longer_than_its_place_costs_that_entry_alone(tmp_path, extra):
    """Both referees reject the entry; they reject the whole zip with it."""
    good, bad = RawEntry(b"a.jpg", b"one"), RawEntry(b"b.jpg", b"two", central={"extra": extra})
    data = raw_zip([good, bad])
    assert problems(on_disk(tmp_path, data)) == {"a.jpg": None, "b.jpg": "bad_directory_entry"}
    assert {content for _, content in readable(on_disk(tmp_path, data)).values()} == {b"one"}
    with pytest.raises(zipfile.BadZipFile, match="Corrupt extra field"):
        zipfile.ZipFile(io.BytesIO(data))
    padded = raw_zip([good, replace(bad, central={"extra": b"\r\0\1\0x" + bytes(3)})])
    assert contents(on_disk(tmp_path, padded)) == {"a.jpg": b"one", "b.jpg": b"two"}


@pytest.mark.parametrize(("flag", "problem"), [(1 << 5, "bad_directory_entry"), (1 << 6, "encrypted")])
def test_patches_and_strong_encryption_are_not_taken_for_plain_data(tmp_path, flag, problem):
    data = raw_zip([RawEntry(b"a.jpg", b"one"), RawEntry(b"b.jpg", b"two", central={"flags": flag})])
    assert problems(on_disk(tmp_path, data)) == {"a.jpg": None, "b.jpg": problem}
    with zipfile.ZipFile(io.BytesIO(data)) as file, pytest.raises(NotImplementedError):
        file.read("b.jpg")


def test_an_entry_is_judged_by_itself_where_another_one_bars_the_referees(tmp_path):
    """Of two of one name `unzip` stops at the first, `zipfile` at the directory; the second is whole."""
    first = RawEntry(b"1", local={"packed": 1}, central={"extra": b"\0\0\0\1"})
    data = raw_zip([first, RawEntry(b"1", b"whole")])
    archive = on_disk(tmp_path, data)
    assert accepted_by_zipfile(data) == {}
    assert list(readable(archive).values()) == [("1", b"whole")]
    assert_not_accepted_alone_nor_read_differently(archive, data)


# --- entries that turn out damaged -----------------------------------------------------------------------------------


@with_either_inflate
@pytest.mark.parametrize("method", [STORED, DEFLATED])
def test_a_flipped_bit_is_noticed(tmp_path, method):
    data = zipped(FILES, method)
    offset = payload(data, "Inria_dataset/4096/b.jpg") + 1500
    archive = on_disk(tmp_path, patched(data, offset, "B", data[offset] ^ 4))
    assert damage(archive, 1) in {"crc_mismatch", "inflate_error", "size_mismatch"}
    with Reader(archive) as reader:
        row = rows(archive)[0]
        assert reader.read(Entry.of(row))[0] == FILES[row["name"]]


def test_a_zeroed_block_is_noticed(tmp_path):
    data = zipped(FILES)
    offset = payload(data, "Inria_dataset/4096/b.jpg")
    assert damage(on_disk(tmp_path, data[:offset] + bytes(512) + data[offset + 512 :]), 1) == "crc_mismatch"


def test_a_file_cut_after_planning_is_truncated(tmp_path):
    archive = on_disk(tmp_path, zipped(FILES))
    row = rows(archive)[0]
    for keep in (5000, 40, 10, 0):
        os.truncate(archive.path, keep)
        assert damage(archive, row) == "truncated"


def test_a_vanished_archive_is_an_error_of_the_archive(tmp_path):
    archive = on_disk(tmp_path, zipped(FILES))
    row = rows(archive)[0]
    os.unlink(archive.path)
    with pytest.raises(ArchiveError, match=r"MMM-RS/Inria\.zip: it cannot be read .*No such file"):
        Reader(archive).read(Entry.of(row))


@pytest.mark.parametrize("method", [STORED, DEFLATED])
@pytest.mark.parametrize(
    ("field", "form", "value"),
    [(0, "I", 0x04034B51), (6, "H", 1), (8, "H", 12), (14, "I", 1), (18, "I", 7), (22, "I", 7), (30, "B", ord("X"))],
)
def test_a_local_header_that_contradicts_the_directory_is_noticed(tmp_path, method, field, form, value):
    data = zipped({"a.jpg": b"some bytes" * 9, "b.jpg": b"x"}, method)
    assert damage(on_disk(tmp_path, patched(data, field, form, value))) == "bad_local_header"


@pytest.mark.parametrize("length", [4, 6, 60000])
def test_a_local_name_of_another_length_is_noticed(tmp_path, length):
    data = zipped({"a.jpg": b"some bytes" * 9, "b.jpg": b"x" * 70000})
    assert damage(on_disk(tmp_path, patched(data, 26, "H", length))) in {"bad_local_header", "crc_mismatch"}


def test_a_local_header_without_sizes_is_taken(tmp_path):
    data = zipped({"a.jpg": b"some bytes"})
    assert contents(on_disk(tmp_path, patched(data, 14, "3I", 0, 0, 0))) == {"a.jpg": b"some bytes"}


@with_either_inflate
@pytest.mark.parametrize("stated", [0, 10_241, 10_243, 200_000])
def test_an_entry_that_inflates_to_another_size_is_noticed(tmp_path, stated):
    data = zipped(FILES, DEFLATED)
    name = "Inria_dataset/4096/a.jpg"
    assert len(FILES[name]) == 10_242
    data = patched(data, central(data, name) + 24, "I", stated)
    data = patched(data, local(data, name) + 22, "I", stated)
    assert damage(on_disk(tmp_path, data)) == "size_mismatch"


def test_a_folder_that_header_and_directory_name_differently_is_damage(tmp_path):
    """`zipfile` rejects it; what a reader makes of the path may lack its first folders, or have more."""
    name = "Inria_dataset/4096/a.jpg"
    data = zipped(FILES)
    for wrong in "Inria_dataset/5096/a.jpg", "Inria_dataset/4096x/.jpg":
        offset = central(data, name) + 46
        archive = on_disk(tmp_path, data[:offset] + wrong.encode() + data[offset + len(wrong) :])
        assert damage(archive, 0) == "bad_local_header"
        with zipfile.ZipFile(archive.path) as file, pytest.raises(zipfile.BadZipFile):
            file.read(wrong)
    archive = on_disk(tmp_path, data)
    with Reader(archive) as reader:
        for path in name, "4096/a.jpg", "a.jpg", "MMM-RS/Inria_dataset/4096/a.jpg":
            assert reader.read(Entry.of(rows(archive)[0] | {"name": path}))[0] == FILES[name]
        for path in "096/a.jpg", "MMM-RS/Inria_dataset/4097/a.jpg":
            assert damage(archive, rows(archive)[0] | {"name": path}) == "bad_local_header"


@with_either_inflate
def test_a_bomb_is_not_inflated(tmp_path, monkeypatch):
    monkeypatch.setattr(archives.reader, "LARGEST_ENTRY", 10_000)
    archive = on_disk(tmp_path, zipped({"a.jpg": bytes(10_001), "b.jpg": bytes(10_000)}, DEFLATED))
    first, second = rows(archive)
    with Reader(archive) as reader:
        with pytest.raises(DamagedEntry, match="too_large"):
            reader.read(Entry.of(first))
        assert len(reader.read(Entry.of(second))[0]) == 10_000


@with_either_inflate
def test_compressed_data_that_ends_early_is_noticed(tmp_path):
    whole = zipped({"a.jpg": random.Random(2).randbytes(5000)}, DEFLATED)
    data = patched(whole, 18, "I", 4000)
    assert damage(on_disk(tmp_path, patched(data, central(data, "a.jpg") + 20, "I", 4000))) == "inflate_error"


@with_either_inflate
def test_damage_in_a_stream_never_looks_like_its_end(tmp_path):
    archive = on_disk(tmp_path, patched(zipped(FILES), 10_000, "B", 77))
    with Reader(archive).stream(Entry.of(rows(archive)[0])) as stream:
        for _ in range(3):
            with pytest.raises(DamagedEntry, match="crc_mismatch"):
                stream.read()


def test_a_stream_takes_little_memory_and_checks_the_crc_before_its_last_bytes(tmp_path, monkeypatch):
    monkeypatch.setattr(archives.sources, "CHUNK", 1000)
    data = zipped(FILES)
    archive = on_disk(tmp_path, patched(data, payload(data, "MMM-RS_Inria.json") + 9_999, "B", 1))
    received = b""
    with Reader(archive).stream(Entry.of(rows(archive)[3])) as stream, pytest.raises(DamagedEntry):
        while piece := stream.read(100):
            received += piece
    assert received == FILES["MMM-RS_Inria.json"][:9000]


def test_a_disk_error_is_damage_of_the_entry(tmp_path, monkeypatch):
    archive = on_disk(tmp_path, zipped(FILES))
    row = rows(archive)[0]

    def fail(*_):
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(archives.sources, "preadv", fail)
    assert damage(archive, row) == "read_error"


@pytest.mark.parametrize("kind", ["zip", "folder"])
def test_too_many_open_files_are_not_damage_of_an_entry(tmp_path, monkeypatch, kind):
    """Else whole images would go to the report as damaged."""
    archive = on_disk(tmp_path, zipped(FILES)) if kind == "zip" else folder(tmp_path)
    entry = Entry.of(rows(archive)[0])
    opened = os.open

    def exhaust(path, *rest, **more):
        if str(os.fsdecode(path)).endswith((".zip", ".jpg")):
            raise OSError(errno.EMFILE, "Too many open files", path)
        return opened(path, *rest, **more)

    monkeypatch.setattr(os, "open", exhaust)
    with pytest.raises(OutputError, match=r"Too many open files\. Allow more open files"):
        Reader(archive).read(entry)
    with pytest.raises(OutputError, match="Too many open files"), Reader(archive).stream(entry) as stream:
        stream.read()


# --- archives that cannot be read at all -----------------------------------------------------------------------------


def refused(archive) -> str:
    with pytest.raises(ArchiveError) as error:
        read_entries(archive)
    message = str(error.value)
    assert message == f"{archive.label}: {error.value.detail}. {error.value.remedy}"
    assert "\n" not in message
    assert error.value.remedy
    return message


@pytest.mark.parametrize(
    ("name", "data", "says"),
    [
        ("a.zip", b"", "it is empty"),
        ("a.zip", zipped(FILES)[:9000], "truncated"),
        ("a.zip", zipped(FILES)[:-10], "truncated"),
        ("a.zip", zipped(FILES).replace(b"PK\5\6", b"PK\5\7"), "truncated"),
        ("a.zip", zipped(FILES)[:9000] + bytes(9000), "truncated"),
        ("a.zip", bytes(100_000), "not finished"),
        ("a.zip.crdownload", zipped(FILES)[:9000], "not finished"),
        ("a.zip.baiduyun.p.downloading", bytes(70), "not finished"),
        ("a.z01", b"PK\7\x08" + zipped(FILES)[:9000], "several parts"),
        ("a.zip", b"PK\7\x08" + zipped(FILES)[:9000], "several parts"),
        ("a.zip.001", zipped(FILES)[:9000], "several parts"),
        ("a.zip.002", zipped(FILES)[9000:], "several parts"),
        ("a.zip", zipped(FILES)[9000:], "9000 bytes are missing"),
        ("a.zip", b"7z\xbc\xaf\x27\x1c" + bytes(100), "a 7z archive"),
        ("a.zip", b"Rar!\x1a\x07" + bytes(100), "a RAR archive"),
        ("a.zip", b"\n<!DOCTYPE html><html>", "a web page"),
        ("a.zip", b"anything", "it is not a zip"),
    ],
)
def test_what_is_wrong_with_an_archive_is_said(tmp_path, name, data, says):
    assert says in refused(on_disk(tmp_path, data, name))


def test_a_split_zip_is_recognised_by_its_disk_numbers(tmp_path):
    data = zipped(FILES)
    end = data.index(b"PK\5\6")
    assert "several parts" in refused(on_disk(tmp_path, patched(data, end + 4, "2H", 2, 2)))


def test_a_split_zip_of_info_zip_is_recognised(tmp_path):
    if not shutil.which("zip"):
        pytest.skip("needs zip")
    (tmp_path / "a.jpg").write_bytes(random.Random(3).randbytes(200_000))
    subprocess.run(["zip", "-q0", "-s", "64k", "x.zip", "a.jpg"], cwd=tmp_path, check=True)
    for name in "x.zip", "x.z01", "x.z02":
        assert "several parts" in refused(Archive(str(tmp_path / name), name, "zip"))


def test_a_damaged_directory_is_refused(tmp_path):
    data = zipped(FILES)
    second = central(data, "Inria_dataset/4096/b.jpg")
    for field, form, value in ((0, "B", 0), (28, "H", 5), (30, "H", 60_000)):
        damaged = on_disk(tmp_path, patched(data, second + field, form, value))
        assert "its directory is damaged after" in refused(damaged)


@pytest.mark.parametrize("count", [3, 5])
def test_a_directory_with_more_or_fewer_entries_than_stated_is_refused(tmp_path, count):
    data = zipped(FILES)
    message = refused(on_disk(tmp_path, patched(data, data.index(b"PK\5\6") + 8, "2H", count, count)))
    assert f"lists 4 entries, its end record says {count}" in message


def test_a_contradicting_or_missing_zip64_record_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(zipfile, "ZIP_FILECOUNT_LIMIT", 2)
    data = zipped(FILES)
    record = data.index(b"PK\6\6")
    archive = on_disk(tmp_path, patched(data, data.index(b"PK\5\6") + 10, "H", 3))
    assert "contradict" in refused(archive)
    assert "zip64" in refused(on_disk(tmp_path, patched(data, record, "I", 0)))
    assert "several parts" in refused(on_disk(tmp_path, patched(data, data.index(b"PK\6\7") + 16, "I", 2)))


def test_an_encrypted_directory_is_refused(tmp_path):
    data = zipped(FILES)
    masked = patched(data, data.index(b"PK\1\2") + 8, "H", 1 << 13 | 1)
    assert "directory is encrypted" in refused(on_disk(tmp_path, masked))
    scrambled = data.replace(b"PK\1\2", b"PK\6\x08", 1)
    assert "directory is encrypted" in refused(on_disk(tmp_path, scrambled))


def test_a_directory_over_the_limit_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(archives.end, "LARGEST_DIRECTORY", 100)
    assert "more than the 100 that are read" in refused(on_disk(tmp_path, zipped(FILES)))


def test_missing_and_forbidden_files_are_named(tmp_path):
    assert "No such file" in refused(Archive(str(tmp_path / "a.zip"), "a.zip", "zip"))
    assert "No such file" in refused(Archive(str(tmp_path / "a"), "a", "folder"))
    assert "not a regular file" in refused(Archive(str(tmp_path), "a", "zip"))
    os.mkfifo(tmp_path / "pipe")
    assert "not a regular file" in refused(Archive(str(tmp_path / "pipe"), "a", "zip"))


def test_a_file_without_permission_is_named_with_the_remedy(tmp_path, monkeypatch):
    def forbid(path, *_, **__):
        raise PermissionError(errno.EACCES, "Permission denied", path)

    monkeypatch.setattr(os, "open", forbid)
    assert refused(Archive("/x/a.zip", "a.zip", "zip")) == (
        "a.zip: it cannot be read (/x/a.zip: Permission denied). Give yourself the permission to read it"
    )


# --- zips within zips ------------------------------------------------------------------------------------------------


def nested(tmp_path, outer=STORED, inner=STORED, files=FILES) -> Archive:
    data = zipped({"MMM-RS/readme.txt": b"x" * 999, "MMM-RS/Inria.zip": zipped(files, inner)}, outer)
    archive = on_disk(tmp_path, data, "MMM-RS.zip")
    return inner_archive(archive, read_entries(archive), 1)


@pytest.mark.parametrize("inner", [STORED, DEFLATED])
def test_a_stored_inner_zip_is_read_in_place(tmp_path, inner):
    archive = nested(tmp_path, STORED, inner)
    assert archive.label == "MMM-RS/MMM-RS.zip/MMM-RS/Inria.zip"
    assert archive.path.endswith("MMM-RS.zip")
    assert archive.start
    assert archive.inside is None
    assert contents(archive) == streamed(archive) == FILES


@with_either_inflate
@pytest.mark.parametrize("inner", [STORED, DEFLATED])
def test_a_deflated_inner_zip_is_read_without_a_file_of_its_own(tmp_path, inner):
    archive = nested(tmp_path, DEFLATED, inner)
    assert archive.inside
    assert contents(archive) == streamed(archive) == FILES
    assert os.listdir(tmp_path) == ["MMM-RS.zip"]


def test_a_deflated_inner_zip_is_read_in_any_order(tmp_path, monkeypatch):
    monkeypatch.setattr(archives.sources, "CHUNK", 1000)
    files = {f"{number}.jpg": random.Random(number).randbytes(3000) for number in range(50)}
    archive = nested(tmp_path, DEFLATED, STORED, files)
    order = rows(archive)
    random.Random(0).shuffle(order)
    with Reader(archive) as reader:
        for row in order:
            assert reader.read(Entry.of(row))[0] == files[row["name"]]


def test_a_deflated_inner_zip_is_extracted_to_one_file_for_a_while(tmp_path):
    archive, folder = nested(tmp_path, DEFLATED), tmp_path / "work"
    folder.mkdir()
    with extracted(archive, folder) as plain:
        assert len(list(folder.iterdir())) == 1
        assert plain.inside is None
        assert plain.label == archive.label
        assert read_entries(plain).equals(read_entries(archive))
        assert contents(plain) == FILES
    assert not list(folder.iterdir())
    with pytest.raises(KeyboardInterrupt), extracted(archive, folder):
        raise KeyboardInterrupt
    assert not list(folder.iterdir())


def test_what_a_killed_run_extracted_is_replaced(tmp_path):
    archive = nested(tmp_path, DEFLATED)
    with extracted(archive, tmp_path) as plain:
        name = os.path.basename(plain.path)
    (tmp_path / name).write_bytes(b"half" * 100_000)
    with extracted(archive, tmp_path) as plain:
        assert contents(plain) == FILES
    assert os.listdir(tmp_path) == ["MMM-RS.zip"]


def test_an_archive_that_needs_no_inflating_is_not_extracted(tmp_path):
    archive = nested(tmp_path)
    with extracted(archive, tmp_path) as same:
        assert same == archive
    assert os.listdir(tmp_path) == ["MMM-RS.zip"]


def test_a_folder_that_cannot_be_written_is_named(tmp_path):
    archive = nested(tmp_path, DEFLATED)
    with pytest.raises(OutputError, match="cannot be written"), extracted(archive, tmp_path / "nowhere"):
        pass


def test_damage_in_a_deflated_inner_zip(tmp_path):
    archive = nested(tmp_path, DEFLATED, STORED, {f"{n}.jpg": random.Random(n).randbytes(9000) for n in range(9)})
    with open(archive.path, "r+b") as file:
        file.seek(archive.inside.offset + archive.inside.packed // 2)
        file.write(bytes(3))
    # Random bytes are put into deflate's stored blocks, so one image is damaged and the others are not.
    outcomes = []
    with Reader(archive) as reader:
        for row in rows(archive):
            try:
                reader.read(Entry.of(row))
                outcomes.append("whole")
            except DamagedEntry as error:
                outcomes.append(error.reason)
    assert sorted(outcomes) == ["crc_mismatch"] + ["whole"] * 8
    cut = replace(archive, inside=archive.inside._replace(packed=archive.inside.packed - 100))
    assert "its header says" in refused(cut)
    with open(archive.path, "r+b") as file:
        file.truncate(archive.inside.offset + 5000)
    assert "cannot be inflated (the file ends" in refused(archive)
    with pytest.raises(ArchiveError, match="cannot be inflated"), extracted(archive, tmp_path):
        pass
    assert os.listdir(tmp_path) == ["MMM-RS.zip"]


def test_damage_that_renames_an_entry_in_a_deflated_inner_zip_is_told(tmp_path):
    """Where deflate makes the directory's name a copy of the header's, one damaged bit changes both; only the CRC32 of
    the inner zip shows it."""
    inner = zipped({"111": b"abc"})
    engine = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    damaged = engine.compress(inner.replace(b"111", b"Q11")) + engine.flush()
    readings = []
    for payload in None, damaged:
        outer = on_disk(tmp_path, raw_zip([RawEntry(b"Inria.zip", inner, DEFLATED, payload=payload)]), "MMM-RS.zip")
        archive = inner_archive(outer, read_entries(outer), 0)
        readings.append((contents(archive), (read_entries(archive).schema.metadata or {}).get(DAMAGE)))
    assert readings[0] == ({"111": b"abc"}, None)
    assert readings[1][0] == {"Q11": b"abc"}
    assert readings[1][1].decode().endswith(f"the directory says {zlib.crc32(inner):08x}")


def test_a_directory_too_large_for_the_window_is_refused_with_the_remedy(tmp_path, monkeypatch):
    monkeypatch.setattr(archives.inner, "TAIL", 80_000)
    monkeypatch.setattr(archives.sources, "CHUNK", 1000)
    archive = nested(tmp_path, DEFLATED, STORED, {f"{number:0100d}.jpg": b"" for number in range(1000)})
    assert refused(archive).endswith(". Unzip the outer zip first")
    assert "truncated" in refused(nested_bytes(tmp_path, zipped({"a.jpg": bytes(190_000)})[:180_000]))


def nested_bytes(tmp_path, inner: bytes) -> Archive:
    archive = on_disk(tmp_path, zipped({"Inria.zip": inner}, DEFLATED), "MMM-RS.zip")
    return inner_archive(archive, read_entries(archive), 0)


def test_inner_archives_that_cannot_be_opened_are_refused(tmp_path):
    data = zipped({"a.zip": zipped(FILES)})
    archive = on_disk(tmp_path, data)
    entries = read_entries(archive)
    on_disk(tmp_path, patched(data, 0, "I", 0))
    with pytest.raises(ArchiveError, match=r"Inria\.zip/a\.zip: there is no entry"):
        inner_archive(archive, entries, 0)
    two = nested(tmp_path, DEFLATED, STORED, {"a.zip": zipped(FILES)})
    with pytest.raises(ArchiveError, match="Unzip the outer zip first"):
        inner_archive(two, read_entries(two), 0)
    other = on_disk(tmp_path, zipped({"a.zip": zipped(FILES)}, zipfile.ZIP_BZIP2))
    with pytest.raises(ArchiveError, match="bzip2"):
        inner_archive(other, read_entries(other), 0)


# --- folders ---------------------------------------------------------------------------------------------------------


def folder(tmp_path, files=FILES) -> Archive:
    for name, data in files.items():
        path = os.path.join(os.fsencode(tmp_path), b"in", os.fsencode(name))
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "wb") as file:
            file.write(data)
    return Archive(str(tmp_path / "in"), "in", "folder")


@with_either_inflate
def test_a_folder_is_read_like_a_zip(tmp_path):
    archive = folder(tmp_path)
    table = read_entries(archive)
    assert table.schema == archives.SCHEMA
    assert table["name"].to_pylist() == sorted(FILES)
    assert table["file"].to_pylist() == [name.encode() for name in sorted(FILES)]
    assert table["size"].to_pylist() == [len(FILES[name]) for name in sorted(FILES)]
    assert table["crc"].null_count == len(FILES)
    assert contents(archive) == streamed(archive) == FILES
    with Reader(archive) as reader:
        for row in table.to_pylist():
            assert reader.read(Entry.of(row))[1] == zlib.crc32(FILES[row["name"]])


def test_an_empty_folder(tmp_path):
    archive = folder(tmp_path, {"x/.DS_Store": b""})
    assert read_entries(archive).num_rows == 0
    os.unlink(tmp_path / "in/x/.DS_Store")
    assert read_entries(archive).schema == archives.SCHEMA


def test_names_in_a_folder_are_decoded_each_by_itself(tmp_path):
    names = ["数据.jpg".encode(), "武汉.jpg".encode("gbk"), b"Inria_dataset\\4096\\a.jpg", b"\xff\xff"]
    try:
        archive = folder(tmp_path, {os.fsdecode(name): name for name in names})
    except OSError:
        pytest.skip("this file system takes only UTF-8 names")
    expected = {"数据.jpg": names[0], "武汉.jpg": names[1], "Inria_dataset/4096/a.jpg": names[2], "\xa0\xa0": names[3]}
    assert contents(archive) == expected


def test_junk_links_and_pipes_in_a_folder(tmp_path):
    archive = folder(tmp_path, FILES | {"__MACOSX/._a.jpg": b"", "Inria_dataset/Thumbs.db": b""})
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside/secret.jpg").write_bytes(b"x")
    os.symlink(tmp_path / "outside/secret.jpg", tmp_path / "in/link.jpg")
    os.symlink(tmp_path / "outside", tmp_path / "in/linked")
    os.mkfifo(tmp_path / "in/pipe.jpg")
    marked = {"link.jpg": "link", "linked": "link", "pipe.jpg": "not_a_file"}
    assert problems(archive) == dict.fromkeys(FILES) | marked


def test_files_that_change_after_planning_are_noticed(tmp_path):
    archive = folder(tmp_path)
    row = rows(archive)[0]
    path = tmp_path / "in" / row["name"]
    for data in (b"shorter", path.read_bytes() + b"longer"):
        path.write_bytes(data)
        assert damage(archive, row) == "size_mismatch"
    path.unlink()
    assert damage(archive, row) == "missing_file"
    os.symlink("/etc/hostname", path)
    assert damage(archive, row) == "read_error"


def test_a_zip_in_a_folder_is_an_archive(tmp_path):
    archive = folder(tmp_path, {"x/Inria.zip": zipped(FILES)})
    inner = inner_archive(archive, read_entries(archive), 0)
    assert inner.label == "in/x/Inria.zip"
    assert contents(inner) == FILES


# --- has the source changed? -----------------------------------------------------------------------------------------


def test_the_content_id_changes_with_the_source_only(tmp_path):
    zip_file, in_folder = on_disk(tmp_path, zipped(FILES)), folder(tmp_path)
    for archive, touched in ((zip_file, zip_file.path), (in_folder, tmp_path / "in/MMM-RS_Inria.json")):
        table = read_entries(archive)
        first = content_id(archive, table)
        assert first == content_id(archive, read_entries(archive))
        assert first == content_id(archive, pa.concat_tables([table.slice(0, 2), table.slice(2)]))
        assert first == content_id(archive, table.append_column("type", pc.utf8_upper(table["name"])))
        assert first != content_id(archive, table.slice(1))
        status = os.stat(touched)
        os.utime(touched, ns=(status.st_atime_ns, status.st_mtime_ns + 1))
        assert first != content_id(archive, table)
        os.unlink(touched)
        with pytest.raises(ArchiveError, match="No such file"):
            content_id(archive, table)


# --- random zips and random damage -----------------------------------------------------------------------------------


# What `zipfile` and the decompressors behind it raise for a damaged zip, or for one of a kind that they cannot read.
REFUSALS = (zipfile.BadZipFile, zlib.error, lzma.LZMAError, struct.error, EOFError, OSError, ValueError, RuntimeError)


def accepted_by_zipfile(data: bytes) -> dict[int, bytes]:
    """Header offset -> content of what `zipfile` reads without complaint."""
    accepted = {}
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as file:
            for info in file.infolist():
                try:
                    accepted[info.header_offset] = file.read(info)
                except REFUSALS:
                    continue
    except REFUSALS:
        return {}
    return accepted


def accepted_by_unzip(data: bytes, path) -> bool:
    """Whether `unzip -t` finds an entry of this zip whole; it is put under `path` for that."""
    path.write_bytes(data)
    run = subprocess.run(["unzip", "-t", str(path)], capture_output=True, stdin=subprocess.DEVNULL)
    return any(line.rstrip().endswith(b" OK") for line in run.stdout.splitlines())


def listed(data: bytes, path) -> bool:
    """Whether `zipfile` or `unzip` finds the directory of this zip, whatever they think of its entries."""
    with contextlib.suppress(Exception), zipfile.ZipFile(io.BytesIO(data)):
        return True
    path.write_bytes(data)
    run = subprocess.run(["unzip", "-Z1", str(path)], capture_output=True, stdin=subprocess.DEVNULL)
    return bool(run.stdout)


def alone(data: bytes, offset: int):
    """The zip with each row of its directory that can be about the entry at `offset`, and no other row.

    Both referees give up a whole zip for one entry's sake: `zipfile` for an extra field in the directory, `unzip` for a
    size in a header. So each entry that we read is shown to them by itself.
    """
    start = data.find(b"PK\1\2")
    while 0 <= start <= len(data) - 46:
        row = data[start : start + 46 + sum(struct.unpack_from("<3H", data, start + 28))]
        (stated,) = struct.unpack_from("<I", data, start + 42)
        before = 0 if stated == 0xFFFFFFFF else offset - stated  # bytes before the zip
        if 0 <= before <= start:
            yield data[:start] + row + struct.pack("<4s4H2IH", b"PK\5\6", 0, 0, 1, 1, len(row), start - before, 0)
        start = data.find(b"PK\1\2", start + 1)


def assert_not_accepted_alone_nor_read_differently(archive, data: bytes) -> None:
    """What we read is what `zipfile` reads; where it reads nothing, `unzip` at least finds it whole."""
    ours, theirs = readable(archive), accepted_by_zipfile(data)
    spare = Path(archive.path + ".alone")
    for offset, (_, content) in ours.items():
        if offset in theirs:
            assert content == theirs[offset]
        elif shutil.which("unzip"):
            assert listed(data, spare)
            assert any(
                accepted_by_zipfile(lone).get(offset) == content or accepted_by_unzip(lone, spare)
                for lone in alone(data, offset)
            )


def readable(archive) -> dict[int, tuple[str, bytes]]:
    """Header offset -> name and content of what we read without complaint."""
    try:
        table = read_entries(archive)
    except ArchiveError:
        return {}
    entries = {}
    with Reader(archive) as reader:
        for row in table.to_pylist():
            if row["problem"] is None:
                try:
                    entries[row["offset"]] = row["name"], bytes(reader.read(Entry.of(row))[0])
                except DamagedEntry:
                    continue
    return entries


def random_zips(names):
    return st.builds(
        lambda files, method, prefix: prefix + zipped(files, method),
        st.dictionaries(names, st.binary(max_size=300), max_size=5),
        st.sampled_from([STORED, DEFLATED]),
        st.sampled_from([b"", b"", b"junk"]),
    )


characters = st.characters(exclude_characters="\0/\\:", exclude_categories=["Cs"])
any_names = st.text(characters, min_size=1, max_size=12).filter(
    lambda name: name.strip(".") and not name.startswith("._") and "\ufffd" not in name
)
plain_names = st.text("abc123", min_size=1, max_size=4)  # which `unzip` takes as they are
mutations = st.lists(
    st.tuples(st.floats(0, 1), st.integers(0, 255), st.sampled_from(["set", "flip", "cut", "copy"])),
    min_size=1,
    max_size=4,
)
SHORT = settings(
    max_examples=60, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@SHORT
@given(random_zips(any_names))
def test_random_zips_are_read_as_zipfile_reads_them(tmp_path, data):
    ours = {offset: content for offset, (_, content) in readable(on_disk(tmp_path, data)).items()}
    assert ours == accepted_by_zipfile(data)


@SHORT
@given(random_zips(plain_names), mutations)
def test_random_damage_is_never_accepted_alone_nor_read_differently(tmp_path, data, changes):
    damaged = changed(data, changes)
    assert_not_accepted_alone_nor_read_differently(on_disk(tmp_path, damaged), damaged)
