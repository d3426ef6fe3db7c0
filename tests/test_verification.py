"""What is stored is right, or the verification says what is not: each fault alone, named with its file."""

from __future__ import annotations

import errno
import io
import json
import shutil
import struct
import subprocess
import tarfile
import zlib
from pathlib import Path
from unittest import mock

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from conversion import archives, layout, manifest, placed, release, verification
from conversion.errors import OutputError, UsageError, VerificationError
from mmm_rs import subset_totals
from mmm_rs_cli import cli
from tests import releases
from tests.conversions import convert, verify
from tests.converted import described
from tests.converted import write as write_converted
from tests.test_output import file_system

SHARD = "data/SEN1-2/train-00001-of-00004.tar"
INDEX = "index/SEN1-2.parquet"


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    chosen = [subset for subset in releases.small() if subset.name in ("SEN1-2", "GID")]
    return releases.zips_stored(chosen, tmp_path_factory.mktemp("release"))


@pytest.fixture(scope="module")
def converted(source, tmp_path_factory):
    out = tmp_path_factory.mktemp("converted") / "out"
    convert(source, out)
    return out


@pytest.fixture
def out(converted, tmp_path):
    return Path(shutil.copytree(converted, tmp_path / "out"))


def faults(out: Path, release=None) -> list[str]:
    with pytest.raises(VerificationError) as caught:
        verify(out, release)
    return str(caught.value).splitlines()


def only_fault(out: Path, name: str, *says: str) -> None:
    """One line, which names the file and what is wrong with it."""
    lines = faults(out)
    assert len(lines) == 1, lines
    assert lines[0].startswith(f"{out / name}: ")
    for part in says:
        assert part in lines[0]


def edit_manifest(out: Path, change, digest: bool = True) -> None:
    """By someone who knows that the digest has to fit, or not."""
    document = json.loads((out / layout.MANIFEST).read_bytes())
    change(document)
    if digest:
        document["digest"] = manifest.manifest_digest(document)
    (out / layout.MANIFEST).write_text(json.dumps(document))


def admit(out: Path, name: str) -> None:
    """Make the manifest say what a changed shard is, sums and all, so that only what it holds can tell."""
    import hashlib

    def change(document):
        row = next(shard for shard in document["shards"] if shard["name"] == name)
        data = (out / name).read_bytes()
        row["bytes"], row["sha256"] = len(data), hashlib.sha256(data).hexdigest()
        document["subsets"] = subset_totals(document["shards"])

    edit_manifest(out, change)
    from dataset_card.card import write as write_card

    with mock.patch.object(placed.Place, "fits", return_value=True):  # a card that does not mind damaged images
        write_card(out)


def edit_index(out: Path, change) -> None:
    """Change rows of an index and let the manifest say its checksum, so that only what it holds can tell."""
    rows = pq.read_table(out / INDEX)
    pq.write_table(pa.Table.from_pylist(change(rows.to_pylist()), rows.schema), out / INDEX)
    edit_manifest(out, lambda document: document["files"].update({INDEX: described(out / INDEX)}))


def test_what_was_converted_is_right(converted, source):
    result = verify(converted, source)
    assert (result.shards, result.samples, result.images) == (7, 7, 11)
    assert result.compared == result.images


# --- shards ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("where", range(12))
def test_one_flipped_byte_in_any_shard(where, out):
    shards = sorted(out.glob("data/*/*.tar"))
    shard = shards[where % len(shards)]
    releases.flip_bit(shard, (shard.stat().st_size - 1) * where // 11)  # header, image, text, JSON, padding, end
    only_fault(out, shard.relative_to(out).as_posix(), "sha256", "Download it again")


def test_a_missing_shard(out):
    (out / SHARD).unlink()
    only_fault(out, SHARD, "is missing")


@pytest.mark.parametrize("name", ["train-00004-of-00004.tar", "train-00001-of-00004.tar.bak", "notes.txt"])
def test_an_extra_file_among_the_shards(name, out):
    shutil.copy(out / SHARD, (out / SHARD).with_name(name))
    only_fault(out, f"data/SEN1-2/{name}", "not in the manifest")


def test_what_other_tools_leave_beside_shards_is_passed_over_and_named(out):
    (out / f"{SHARD}.idx").write_bytes(b"x")
    (out / "data" / "SEN1-2" / ".nv-meta").mkdir()
    (out / "data" / "SEN1-2" / ".nv-meta" / "split.yaml").write_bytes(b"x")
    (out / "thesis.docx").write_bytes(b"x")
    verified = verify(out)
    assert verified.passed_over == ("data/SEN1-2/.nv-meta", f"{SHARD}.idx")
    assert verified.others == ("thesis.docx",)


@pytest.mark.parametrize("what", ["assets/pairs.png", "assets/samples.webp", "assets/samples-SEN1-2.webp"])
@pytest.mark.parametrize("kept", [None, 0, 0.5])
def test_a_picture_of_the_card_that_is_missing_or_cut(out, what, kept):
    assert what in (out / "README.md").read_text()
    data = (out / what).read_bytes()
    (out / what).unlink()
    if kept is not None:
        (out / what).write_bytes(data[: int(kept * len(data))])
    only_fault(out, what, "is missing" if kept is None else "is not a whole picture", f"Run `mmm-rs card {out}`")
    assert cli.main(["card", str(out)]) == 0
    assert (out / what).read_bytes() == data
    verify(out)


def test_a_picture_of_the_card_that_would_fill_the_memory(out):
    data = (out / "assets/pairs.png").read_bytes()
    header = b"IHDR" + struct.pack(">II", 60_000, 60_000) + data[24:29]
    (out / "assets/pairs.png").write_bytes(data[:12] + header + struct.pack(">I", zlib.crc32(header)) + data[33:])
    only_fault(out, "assets/pairs.png", "is not a whole picture")


def test_a_croissant_file_that_is_damaged_or_says_something_else(out):
    right = (out / "croissant.json").read_text()
    shard = next(file for file in json.loads(right)["distribution"] if "sha256" in file)
    for wrong in ("", right[: len(right) // 2], right.replace(shard["sha256"], "0" * 64), "[" * 100_000):
        (out / "croissant.json").write_text(wrong)
        only_fault(out, "croissant.json", "is not what manifest and index say", f"Run `mmm-rs card {out}`")
    assert cli.main(["card", str(out)]) == 0
    assert (out / "croissant.json").read_text() == right
    verify(out)


def test_a_shard_of_another_name(out):
    (out / SHARD).rename(out / "data/SEN1-2/train-00009-of-00004.tar")
    assert [fault.split(": ")[1].split(".")[0] for fault in faults(out)] == ["is missing", "is not in the manifest"]


def boundaries(shard: Path) -> list[int]:
    with tarfile.open(shard) as tar:
        return [member.offset for member in tar.getmembers()]


@pytest.mark.parametrize("admitted", [False, True])
def test_a_shard_cut_at_the_boundary_of_a_member(admitted, out):
    shard = out / SHARD
    end = boundaries(shard)[-2]
    shard.write_bytes(shard.read_bytes()[:end] + bytes(1024 if admitted else 0))
    if admitted:
        admit(out, SHARD)
        assert any("samples" in fault or "no json" in fault for fault in faults(out))
    else:
        only_fault(out, SHARD, f"has {end} bytes")


def rewritten(shard: Path, change) -> bytes:
    """The shard with its members as `change` gives them."""
    with tarfile.open(shard) as tar:
        members = change([(member.name, tar.extractfile(member).read()) for member in tar])
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


CHANGED_MEMBERS = {
    "an image changed": lambda members: [(n, d + b"x" if n.endswith(".sar.jpg") else d) for n, d in members],
    "a prompt changed": lambda members: [(n, d.upper() if n.endswith(".txt") else d) for n, d in members],
    "an image cut": lambda members: [(n, d[:-9] if n.endswith(".sar.jpg") else d) for n, d in members],
    "a label changed": lambda members: [(n, d.replace(b'"low"', b'"high"')) for n, d in members],
    "an image missing": lambda members: [(n, d) for n, d in members if not n.endswith(".sar.jpg")],
    "a member too many": lambda members: [*members, ("SEN1-2/stray.cls", b"7")],
    "another order": lambda members: members[::-1],
    "a member twice": lambda members: [*members, members[-1]],
}


@pytest.mark.parametrize("what", CHANGED_MEMBERS)
def test_members_are_compared_with_the_index_even_where_the_manifest_fits(what, out):
    (out / SHARD).write_bytes(rewritten(out / SHARD, CHANGED_MEMBERS[what]))
    admit(out, SHARD)
    lines = faults(out)
    assert lines and all(str(out / SHARD) in fault for fault in lines)


def test_a_file_that_is_no_tar_even_where_the_manifest_fits(out):
    (out / SHARD).write_bytes(b"this is no tar" * 100)
    edit_manifest(out, lambda document: None)
    lines = faults(out)
    assert len(lines) == 1 and SHARD in lines[0]


# --- index -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("column", ["rgb_offset", "sar_offset", "rgb_size", "sar_crc32"])
@pytest.mark.parametrize("by", [-1, 1])
def test_an_index_row_off_by_one(column, by, out):
    edit_index(
        out,
        lambda rows: [row | {column: row[column] + by} if not position else row for position, row in enumerate(rows)],
    )
    described, *lines = faults(out)
    assert described.startswith(
        f"{out}/croissant.json: is not what manifest and index say"
    )  # it has the index's sha256
    assert len(lines) == 1 and "the index says" in lines[0]


CHANGED_ROWS = {
    "a row missing": lambda rows: rows[1:],
    "a row twice": lambda rows: [rows[0], *rows],
    "another order": lambda rows: rows[::-1],
    "another key": lambda rows: [rows[0] | {"key": "SEN1-2/other"}, *rows[1:]],
    "another shard": lambda rows: [rows[0] | {"shard": rows[-1]["shard"]}, *rows[1:]],
    "a shard that is none": lambda rows: [rows[0] | {"shard": "data/SEN1-2/other.tar"}, *rows[1:]],
    "another prompt": lambda rows: [rows[0] | {"sar_prompt": "a lake"}, *rows[1:]],
    "another label": lambda rows: [rows[0] | {"gsd_level": "high"}, *rows[1:]],
    "another source": lambda rows: [rows[0] | {"source": {"rgb": "a.jpg", "nir": None, "sar": None}}, *rows[1:]],
    "another split": lambda rows: [rows[0] | {"split": "validation"}, *rows[1:]],
    "another width": lambda rows: [rows[0] | {"rgb_width": 7}, *rows[1:]],
}


@pytest.mark.parametrize("what", CHANGED_ROWS)
def test_a_changed_row_of_the_index(what, out):
    edit_index(out, CHANGED_ROWS[what])
    assert any("SEN1-2" in fault and "ndex" in fault for fault in faults(out))


def test_a_missing_index(out):
    (out / INDEX).unlink()
    assert any(str(out / INDEX) in fault and "is missing" in fault for fault in faults(out))


@pytest.mark.parametrize("data", [b"", b"PAR1", b"x" * 1000])
def test_an_index_that_cannot_be_read(data, out):
    (out / INDEX).write_bytes(data)
    assert any(str(out / INDEX) in fault and "cannot be read" in fault for fault in faults(out))


def test_an_index_of_a_subset_that_is_not_there(out):
    shutil.copy(out / INDEX, out / "index/Inria.parquet")
    assert any(str(out / "index/Inria.parquet") in fault and "not in the manifest" in fault for fault in faults(out))


# --- manifest, report, card ------------------------------------------------------------------------------------------


def first_shard(document):
    return document["shards"][0]


EDITS = {
    "a digest of a shard": lambda document: first_shard(document).update(sha256="0" * 64),
    "bytes": lambda document: first_shard(document).update(bytes=1),
    "samples": lambda document: first_shard(document).update(samples=2),
    "pairs": lambda document: first_shard(document)["pairs"].update(rgb=9),
    "a total": lambda document: document["subsets"]["GID"].update(samples=4),
    "a split": lambda document: document["subsets"]["GID"]["splits"]["train"].update(samples=4),
    "a digest of a subset": lambda document: document["subsets"]["GID"].update(digest="0" * 64),
    "a shard less": lambda document: document["shards"].pop(),
    "a shard more": lambda document: document["shards"].append(first_shard(document) | {"name": "data/GID/other.tar"}),
}


@pytest.mark.parametrize("what", EDITS)
@pytest.mark.parametrize("digest", [False, True])
def test_an_edited_manifest(what, digest, out):
    edit_manifest(out, EDITS[what], digest)
    lines = faults(out)
    if not digest:
        assert len(lines) == 1 and lines[0].startswith(f"{out / layout.MANIFEST}: was edited or damaged")


@pytest.mark.parametrize("data", [b"", b"{", b"[]", b"null", b"{}", b"\xff\xfe"])
def test_a_manifest_that_is_none(data, out):
    (out / layout.MANIFEST).write_bytes(data)
    assert str(out / layout.MANIFEST) in faults(out)[0]


def test_no_manifest(out):
    (out / layout.MANIFEST).unlink()
    assert "an unfinished conversion continues with the same command" in faults(out)[0]


def edit_card(out: Path, old: str, new: str) -> None:
    card = (out / "README.md").read_text(encoding="utf-8")
    assert old in card
    (out / "README.md").write_text(card.replace(old, new, 1), encoding="utf-8")


@pytest.mark.parametrize("old", ["num_examples: 4", "num_bytes: ", "download_size: ", "| `SEN1-2` | 4 |"])
def test_a_card_whose_counts_differ(old, out):
    edit_card(out, old, old.replace("4", "5") if "4" in old and "num_bytes" not in old else old + "1")
    lines = faults(out)
    assert all(f"{out}/README.md: " in fault and f"mmm-rs card {out}" in fault for fault in lines)


def test_no_card(out):
    (out / "README.md").unlink()
    assert str(out / "README.md") in faults(out)[0]


def test_a_report_that_does_not_balance(out):
    path = out / "report/summary.json"
    summary = json.loads(path.read_bytes())
    summary["subsets"]["GID"]["images"]["published"] += 1
    path.write_text(json.dumps(summary))
    assert any(str(path) in fault and "does not balance" in fault for fault in faults(out))


@pytest.mark.parametrize(
    "text", ["[]", "3", '{"subsets": []}', '{"subsets": {"GID": 3}}', '{"subsets": {}, "total": []}']
)
def test_a_summary_that_is_something_else(out, text):
    path = out / "report/summary.json"
    path.write_text(text)
    assert any(str(path) in fault for fault in faults(out))


def test_a_report_with_a_row_less(out):
    path = out / "report/unpublished.parquet"
    pq.write_table(pq.read_table(path).slice(1), path)
    assert any(str(path) in fault for fault in faults(out))


# --- the release -----------------------------------------------------------------------------------------------------


def test_an_image_that_is_not_the_releases(converted, source, tmp_path):
    """The image is whole in both, but not the same."""
    chosen = [subset for subset in releases.small() if subset.name in ("SEN1-2", "GID")]
    path = next(iter(chosen[0].images))
    other = chosen[0].with_files(**{path: releases.picture("another")})
    lines = faults(converted, releases.zips_stored([other, chosen[1]], tmp_path / "release"))
    assert len(lines) == 1 and f"differs from the release's {path}" in lines[0]


def test_an_image_that_the_release_does_not_have(converted, tmp_path):
    chosen = [subset for subset in releases.small() if subset.name in ("SEN1-2", "GID")]
    path = next(iter(chosen[0].images))
    files = {name: data for name, data in chosen[0].files.items() if name != path}
    less = releases.Subset("SEN1-2", files, {})
    lines = faults(converted, releases.zips_stored([less, chosen[1]], tmp_path / "release"))
    assert len(lines) == 1 and f"the release has no image {path}" in lines[0]


def test_an_inner_zip_is_inflated_once_and_its_images_are_read_forward(tmp_path, monkeypatch):
    path = releases.one_zip_of_deflated_zips([releases.many("GID", 60)], tmp_path / "release")
    convert(path, tmp_path / "out")
    inflated, read = [], {}
    chunks, read_entry = archives.inner.inner_chunks, archives.Reader.read

    def counted(source, inner):
        inflated.append(inner)
        return chunks(source, inner)

    def noted(self, entry):
        read.setdefault(id(self), (self, []))[1].append(entry.offset)
        return read_entry(self, entry)

    listing = release.find(path, exclude=tmp_path / "out")
    monkeypatch.setattr(release, "find", lambda *_, **__: listing)  # which inflates too, to read the directory
    monkeypatch.setattr(archives.inner, "inner_chunks", counted)
    monkeypatch.setattr(archives.Reader, "read", noted)
    before = {path.name for path in (tmp_path / "out").iterdir()}
    assert verify(tmp_path / "out", path).compared == 60
    assert len(inflated) == 1
    assert len(read) == 32 and all(offsets == sorted(offsets) for _, offsets in read.values())
    assert {path.name for path in (tmp_path / "out").iterdir()} == before


def test_of_the_index_only_the_rows_of_the_shards_in_hand_are_held(out, monkeypatch):
    asked, batches = [], pq.ParquetFile.iter_batches

    def noted(self, size=65_536, row_groups=None, columns=None, **options):
        if columns is None:  # whole rows, not the column that says which shard they are of
            numbers = range(self.num_row_groups) if row_groups is None else row_groups
            asked.append(sum(self.metadata.row_group(number).num_rows for number in numbers))
        return batches(self, size, row_groups, columns, **options)

    def whole(*_, **__):
        raise AssertionError("the whole index was read")

    monkeypatch.setattr(pq.ParquetFile, "iter_batches", noted)
    table = pq.read_table
    monkeypatch.setattr(
        pq, "read_table", lambda path, **rest: whole() if Path(path).parent.name == "index" else table(path, **rest)
    )
    assert verify(out).samples == 7
    assert set(asked) == {1} and len(asked) >= 7


@pytest.mark.parametrize("file", ["shard", "index"])
def test_too_many_open_files_are_the_machines_fault_and_not_a_damaged_file(file, out, monkeypatch):
    def exhaust(path, *_, **__):
        raise OSError(errno.EMFILE, "Too many open files", str(path))

    if file == "shard":
        monkeypatch.setattr(verification, "open", exhaust, raising=False)
    else:
        monkeypatch.setattr(verification.pq, "ParquetFile", exhaust)
    with pytest.raises(OutputError, match=r"Too many open files\. Allow more open files \(`ulimit -n 4096`\)"):
        verify(out)


# --- every field of a sample's JSON ----------------------------------------------------------------------------------


def change_json(out: Path, change) -> None:
    """Change the JSON of a shard's first sample in its place, and let the manifest say what the shard then is."""
    with tarfile.open(out / SHARD) as tar:
        member = next(member for member in tar if member.name.endswith(".json"))
        fields = json.loads(tar.extractfile(member).read())
    text = json.dumps(change(fields), separators=(",", ":"), ensure_ascii=False).encode()
    data = bytearray((out / SHARD).read_bytes())
    data[member.offset_data : member.offset_data + member.size] = text.ljust(member.size)
    (out / SHARD).write_bytes(data)
    admit(out, SHARD)


FIELDS = ["subset", "source", "caption", "category", "weather", "satellite", "gsd", "gsd_level", "gsd_level_derived"]
FIELDS += ["cloud_cover", "annotation", "labels"]


@pytest.mark.parametrize("field", FIELDS)
def test_a_field_that_is_not_what_the_index_says(field, out):
    change_json(out, lambda fields: fields | {field: 0})
    only_fault(out, SHARD, "JSON", field)


@pytest.mark.parametrize("field", FIELDS)
def test_a_field_that_is_not_there(field, out):
    change_json(out, lambda fields: {name: value for name, value in fields.items() if name != field})
    only_fault(out, SHARD, "JSON", field)


@pytest.mark.parametrize("content", [{}, [], None, 0, "subset"])
def test_json_that_says_nothing(content, out):
    change_json(out, lambda fields: content)
    lines = faults(out)
    assert lines and all(line.startswith(f"{out / SHARD}: ") and "JSON" in line for line in lines)


def test_a_label_of_one_modality_that_is_not_what_the_index_says(out):
    def change(fields):
        fields["labels"]["sar"]["satellite"] = "GF2"
        return fields

    change_json(out, change)
    only_fault(out, SHARD, "JSON", "labels")


# --- a folder that cannot be written ---------------------------------------------------------------------------------


def test_the_release_is_compared_where_the_folder_cannot_be_written(tmp_path):
    """Zips within a deflated zip are inflated for that, to the folder's disk if it can be written."""
    source = releases.one_zip_of_deflated_zips(releases.small()[:1], tmp_path / "release")
    with file_system(tmp_path / "disk") as disk:
        convert(source, disk / "out")
        subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
        verified = verify(disk / "out", source)
        assert verified.compared == verified.images > 0
        subprocess.run(["mount", "-o", "remount,rw", str(disk)], check=True)


# --- an earlier format -----------------------------------------------------------------------------------------------


def test_a_folder_of_format_1_0_is_right(tmp_path):
    written = write_converted(tmp_path / "out", version="1.0")
    cli.main(["card", str(tmp_path / "out")])
    assert verify(tmp_path / "out").samples == len(written)


def test_a_release_that_has_more_than_was_converted_is_not_verified(clean_release, tmp_path):
    inria = clean_release["Inria"]
    name, *_ = inria.images
    less = {path: data for path, data in inria.files.items() if path != name}
    convert(releases.put(tmp_path / "less", {"Inria.zip": releases.zipped(less)}), tmp_path / "out")
    assert verify(tmp_path / "out", tmp_path / "less").compared == 4
    more = releases.zips_stored([inria], tmp_path / "more")
    with pytest.raises(VerificationError, match=f"{name}: .* 1 in the release .* neither published nor in the report"):
        verify(tmp_path / "out", more)


def test_a_mistyped_release_is_told_before_the_shards_are_read(reference, tmp_path):
    calls = []
    with pytest.raises(UsageError, match="no such file or folder"):
        verify(reference, tmp_path / "nothing", progress=lambda *progress: calls.append(progress))
    assert calls == []
