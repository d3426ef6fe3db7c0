"""One reader for a zip, a zip within a zip and a folder.

`read_entries` gives a table of what is in it, from the directory alone; `Reader` gives the bytes of one entry, checked.

* A zip's central directory is read at once and walked; fixed fields become columns without an object an entry.
* A stored zip within a zip is read in place, at an offset of the outer file.
* A deflated zip within a zip can only be read forward: `read_entries` keeps its tail, `Reader` inflates up to what is
  asked for, and `extracted` writes it to one temporary file for whoever reads all of it in any order.

Nothing here trusts a size: reads are bounded by the file, inflation by the stated size, tables by the directory.
Format: PKWARE APPNOTE 6.3.10.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
import struct
import tempfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, BinaryIO, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from conversion.errors import ReleaseError

try:  # libdeflate: several times as fast as zlib
    from deflate import DeflateError, crc32, deflate_decompress
except ImportError:  # a platform without its wheel
    crc32, deflate_decompress, DeflateError = zlib.crc32, None, zlib.error

ENTRIES = pa.schema([
    ("name", pa.string()),  # decoded, with slashes
    ("file", pa.binary()),  # folder: the path within it as the system has it; zip: null
    ("offset", pa.int64()),  # zip: of the local header in the file, bytes; folder: modification time, ns
    ("packed", pa.int64()),  # bytes
    ("size", pa.int64()),  # bytes
    ("crc", pa.uint32()),  # folder: null
    ("method", pa.uint16()),
    ("problem", pa.string()),  # why it cannot be read, null where it can
])  # fmt: skip

STORED, DEFLATED = 0, 8
END, END_SIZE = b"PK\x05\x06", 22
END64, LOCATOR64, LOCATOR64_SIZE = b"PK\x06\x06", b"PK\x06\x07", 20
CENTRAL, CENTRAL_SIZE = b"PK\x01\x02", 46
LOCAL, LOCAL_SIZE = b"PK\x03\x04", 30
FULL = 0xFFFFFFFF  # the true number is in the zip64 extra field
TAIL = 192 << 20  # bytes kept of a deflated inner zip: room for the directory of 1.5 million entries
LARGEST = 1 << 30  # bytes of one entry read at once; no image is near
EXPANSION = 1032  # deflate cannot do more
AHEAD = LOCAL_SIZE + 512  # bytes read before the data: the header with a usual name and extra field
CHUNK = 1 << 20  # bytes

JUNK = r"(^|/)(__MACOSX/|\._[^/]*$|Thumbs\.db$|\.DS_Store$|desktop\.ini$)"
UNSAFE = r"(^|/)\.\.(/|$)|^/|^[A-Za-z]:|\x00"

_CENTRAL = np.dtype([("signature", "S4"), ("made", "<u2"), ("needed", "<u2"), ("flags", "<u2"), ("method", "<u2"),
                     ("time", "<u4"), ("crc", "<u4"), ("packed", "<u4"), ("size", "<u4"), ("name", "<u2"),
                     ("extra", "<u2"), ("comment", "<u2"), ("disk", "<u2"), ("internal", "<u2"), ("external", "<u4"),
                     ("offset", "<u4")])  # fmt: skip


class ArchiveError(ReleaseError):
    """A container cannot be used as a whole. Example: a zip whose end is missing because its download stopped."""

    def __init__(self, label: str, detail: str, remedy: str) -> None:
        super().__init__(f"{label}: {detail}. {remedy}")
        self.label, self.detail, self.remedy = label, detail, remedy


class DamagedEntry(Exception):
    """One entry cannot be used; the rest can. `reason` is the report's code, `detail` a sentence for a person."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason, self.detail = reason, detail


@dataclass(frozen=True)
class Inner:
    """The entry of a deflated inner zip in the outer one."""

    offset: int  # of its local header, bytes
    packed: int
    size: int
    crc: int


@dataclass(frozen=True)
class Archive:
    """Where one container's bytes are; picklable."""

    path: str  # the zip file or folder on disk
    label: str  # what messages call it: MMM-RS.zip/Inria.zip
    kind: Literal["zip", "folder"]
    start: int = 0  # where the zip begins within `path`, bytes
    length: int | None = None  # bytes of the zip; None for all of the file
    inside: Inner | None = None


# --- the directory ---------------------------------------------------------------------------------------------------


def read_entries(archive: Archive) -> pa.Table:
    """All files in a container, columns ENTRIES: a zip in the order of its directory, a folder sorted by name.

    Directories and the junk of other systems are left out. Raises ArchiveError.
    """
    try:
        return _walk(archive) if archive.kind == "folder" else _read_directory(archive)
    except OSError as error:
        raise ArchiveError(archive.label, f"cannot be read: {error.strerror or error}",
                           "Mend its permissions or the disk") from None  # fmt: skip


def _walk(archive: Archive) -> pa.Table:
    files, sizes, times = [], [], []
    seen = set()
    folders = [b""]
    root = os.fsencode(archive.path)
    while folders:
        folder = folders.pop()
        where = os.stat(os.path.join(root, folder))
        if (where.st_dev, where.st_ino) in seen:  # a link to a folder above
            continue
        seen.add((where.st_dev, where.st_ino))
        with os.scandir(os.path.join(root, folder)) as entries:
            for entry in entries:
                name = folder + b"/" + entry.name if folder else entry.name
                try:
                    if entry.is_dir():
                        folders.append(name)
                    elif entry.is_file():
                        stat = entry.stat()
                        files.append(name)
                        sizes.append(stat.st_size)
                        times.append(stat.st_mtime_ns)
                except OSError:  # gone meanwhile, or a loop of links
                    continue
    raw = pa.array(files, pa.binary())
    table = pa.table({"name": _decoded(raw, None), "file": raw, "offset": pa.array(times, pa.int64()),
                      "packed": pa.array(sizes, pa.int64()), "size": pa.array(sizes, pa.int64()),
                      "crc": pa.nulls(len(files), pa.uint32()), "method": pa.array(np.zeros(len(files), np.uint16)),
                      "problem": pa.nulls(len(files), pa.string())}, schema=ENTRIES)  # fmt: skip
    return _without_junk(table).sort_by("name")


def _read_directory(archive: Archive) -> pa.Table:
    with contextlib.closing(_bytes_of(archive)) as file:
        directory, shift, base = _directory_bytes(archive, file)
    heads, raw, extras = _split(archive, directory)
    fields = heads.view(_CENTRAL).reshape(-1)
    packed, size = fields["packed"].astype(np.int64), fields["size"].astype(np.int64)
    offset = fields["offset"].astype(np.int64)
    for row in np.flatnonzero((packed == FULL) | (size == FULL) | (offset == FULL)):
        packed[row], size[row], offset[row] = _zip64(extras(int(row)), packed[row], size[row], offset[row])
    names = _decoded(raw, fields["flags"], extras)
    problem = _problems(fields, names, offset, packed, base - shift, raw)
    table = pa.table({"name": names, "file": pa.nulls(len(names), pa.binary()), "offset": pa.array(offset + shift),
                      "packed": pa.array(packed), "size": pa.array(size), "crc": pa.array(fields["crc"].copy()),
                      "method": pa.array(fields["method"].copy()), "problem": problem}, schema=ENTRIES)  # fmt: skip
    keep = pc.invert(pc.ends_with(table["name"], "/"))
    return _without_junk(table.filter(keep) if not pc.all(keep).as_py() else table)


def _directory_bytes(archive: Archive, file: _Bytes) -> tuple[bytes, int, int]:
    """(the central directory, what to add to its offsets, where it starts); positions are absolute in the file."""
    if file.length < END_SIZE:
        raise _no_end(archive)
    tail = file.tail(min(file.length, (1 << 16) + END_SIZE))
    at = tail.rfind(END)
    if at < 0 or at + END_SIZE > len(tail):
        raise _no_end(archive)
    end = struct.unpack_from("<4s4H2LH", tail, at)
    position = file.length - len(tail) + at
    disk, count, length, start = end[1], end[4], end[5], end[6]
    locator = file.read(position - LOCATOR64_SIZE, LOCATOR64_SIZE) if position >= LOCATOR64_SIZE else b""
    if locator.startswith(LOCATOR64):
        _, disk64, where, disks = struct.unpack("<4sLQL", locator)
        record = file.read(where, 56)
        if not record.startswith(END64):  # something stands before the zip: the record is just before its locator
            where = position - LOCATOR64_SIZE - 56
            record = file.read(where, 56) if where >= 0 else b""
        if len(record) < 56 or not record.startswith(END64):
            raise ArchiveError(archive.label, "its zip64 directory is missing", "Download it again")
        disk = disk64 if disks > 1 else 0
        count, length, start = struct.unpack_from("<QQQ", record, 32)
        position = where
    if disk not in (0, 0xFFFF):
        raise ArchiveError(archive.label, "it is the last part of an archive in several parts",
                           "Get all parts and join them with `zip -s 0 X.zip --out Y.zip`")  # fmt: skip
    begin = position - length
    if begin < 0 or start > begin:
        raise ArchiveError(archive.label, "its directory is cut: its beginning is missing", "Download it again")
    directory = file.read(begin, length)
    if count and not directory.startswith(CENTRAL):
        raise ArchiveError(archive.label, "its directory is damaged or encrypted",
                           "Download it again, or unzip it with its password")  # fmt: skip
    return directory, archive.start + begin - start, archive.start + begin


def _no_end(archive: Archive) -> ArchiveError:
    return ArchiveError(archive.label, "it is no whole zip: its end is missing, so the download was cut short or it is "
                        "one part of several", "Download it again")  # fmt: skip


def _split(archive: Archive, directory: bytes) -> tuple[np.ndarray, pa.Array, Any]:
    """(the fixed fields, a row of 46 bytes an entry; the raw names; a function that gives an entry's extra field)."""
    starts, chunks, names = [], [], []  # type: ignore[var-annotated]
    at, end, lengths = 0, len(directory), struct.Struct("<HHH").unpack_from
    while at + CENTRAL_SIZE <= end:
        name, extra, comment = lengths(directory, at + 28)
        starts.append(at)
        names.append(directory[at + CENTRAL_SIZE : at + CENTRAL_SIZE + name])
        at += CENTRAL_SIZE + name + extra + comment
        if len(names) == 1 << 16:
            chunks.append(pa.array(names, pa.binary()))
            names = []
    chunks.append(pa.array(names, pa.binary()))
    where = np.array(starts, np.int64)
    heads = np.frombuffer(directory, np.uint8)[where[:, None] + np.arange(CENTRAL_SIZE)]
    if at != end or (heads[:, :4] != np.frombuffer(CENTRAL, np.uint8)).any():
        raise ArchiveError(archive.label, "its directory is damaged", "Download it again")

    def extra_of(row: int) -> bytes:
        name, extra, _ = lengths(directory, starts[row] + 28)
        begin = starts[row] + CENTRAL_SIZE + name
        return directory[begin : begin + extra]

    return np.ascontiguousarray(heads), pa.concat_arrays(chunks), extra_of


def _extra_fields(extra: bytes) -> Iterator[tuple[int, bytes]]:
    at = 0
    while at + 4 <= len(extra):
        kind, length = struct.unpack_from("<HH", extra, at)
        yield kind, extra[at + 4 : at + 4 + length]
        at += 4 + length


def _zip64(extra: bytes, packed: int, size: int, offset: int) -> tuple[int, int, int]:
    for kind, data in _extra_fields(extra):
        if kind == 1:
            numbers = iter(struct.unpack_from(f"<{len(data) // 8}Q", data))
            size = next(numbers, FULL) if size == FULL else size
            packed = next(numbers, FULL) if packed == FULL else packed
            offset = next(numbers, FULL) if offset == FULL else offset
    return tuple(min(int(value), 1 << 62) for value in (packed, size, offset))  # type: ignore[return-value]


def _decoded(raw: pa.Array, flags: np.ndarray | None, extra_of: Any = None) -> pa.Array:
    """Names as text. Without the UTF-8 flag the archive decides as a whole: UTF-8 if all are, else GB18030, else cp437."""
    try:
        names = raw.cast(pa.string())
    except pa.ArrowInvalid:
        names = None
    if names is None or (extra_of is not None and not pc.all(pc.string_is_ascii(names)).as_py()):
        data = raw.to_pylist()
        encoding = "utf-8" if names is not None else _encoding(data, flags)
        text = []
        for row, name in enumerate(data):
            flagged = flags is not None and flags[row] & 0x800
            plain = name.decode("utf-8" if flagged else encoding, "replace")
            text.append((_unicode_path(extra_of(row), name) if extra_of and not name.isascii() else None) or plain)
        names = pa.array(text, pa.string())
    return pc.replace_substring(names, "\\", "/")


def _encoding(names: list[bytes], flags: np.ndarray | None) -> str:
    for encoding in ("utf-8", "gb18030"):
        try:
            for row, name in enumerate(names):
                if flags is None or not flags[row] & 0x800:
                    name.decode(encoding)
        except UnicodeDecodeError:
            continue
        return encoding
    return "cp437"


def _unicode_path(extra: bytes, name: bytes) -> str | None:
    """Info-ZIP's Unicode path, where it belongs to this name."""
    for kind, data in _extra_fields(extra):
        if kind == 0x7075 and len(data) > 5 and data[0] == 1 and struct.unpack_from("<L", data, 1)[0] == zlib.crc32(name):
            return data[5:].decode("utf-8", "replace")
    return None


def _problems(fields: np.ndarray, names: pa.Array, offset: np.ndarray, packed: np.ndarray, limit: int,
              raw: pa.Array) -> pa.Array:  # fmt: skip
    """Why entries cannot be read, null where they can. `limit`: where the directory starts, as their offsets count."""
    problem = np.full(len(fields), None)
    order = np.argsort(offset, kind="stable")
    length = pc.binary_length(raw).to_numpy(zero_copy_only=False).astype(np.int64)
    end = (offset + LOCAL_SIZE + length + packed)[order]
    clash = np.flatnonzero(end > np.append(offset[order][1:], limit))
    problem[order[clash]] = "overlap"
    problem[order[np.minimum(clash + 1, len(order) - 1)]] = "overlap" if len(clash) else None
    if len(clash) and clash[-1] == len(order) - 1:  # reaches into the directory: only this one is wrong
        problem[order[-1]] = "overlap"
    unix = fields["made"] >> 8 == 3
    problem[unix & (fields["external"] >> 28 == 0o12)] = "link"
    problem[~np.isin(fields["method"], (STORED, DEFLATED))] = "unsupported_compression"
    problem[fields["flags"] & 1 != 0] = "encrypted"
    problem[pc.match_substring_regex(names, UNSAFE).to_numpy(zero_copy_only=False)] = "unsafe_name"
    return pa.array(problem, pa.string())


def _without_junk(table: pa.Table) -> pa.Table:
    junk = pc.match_substring_regex(table["name"], JUNK)
    return table.filter(pc.invert(junk)) if pc.any(junk).as_py() else table


def inner_archive(archive: Archive, entries: pa.Table, row: int) -> Archive:
    """The zip that is entry `row` of a zip."""
    entry = entries.slice(row, 1).to_pylist()[0]
    label = f"{archive.label}/{entry['name']}"
    if entry["method"] == DEFLATED:
        return Archive(archive.path, label, "zip",
                       inside=Inner(entry["offset"], entry["packed"], entry["size"], entry["crc"]))  # fmt: skip
    with contextlib.closing(_bytes_of(Archive(archive.path, label, "zip"))) as file:
        head = file.read(entry["offset"], LOCAL_SIZE)
    if not head.startswith(LOCAL) or len(head) < LOCAL_SIZE:
        raise ArchiveError(label, "its entry in the outer archive is damaged", "Download the outer archive again")
    name, extra = struct.unpack_from("<HH", head, 26)
    return Archive(archive.path, label, "zip", entry["offset"] + LOCAL_SIZE + name + extra, entry["packed"])


def content_id(archive: Archive, entries: pa.Table) -> str:
    """A digest that changes when the container does: its size, its time, and all that its directory says."""
    digest = hashlib.sha256(archive.label.encode())
    if archive.kind == "zip":
        stat = os.stat(archive.path)
        digest.update(b"%d %d %d" % (stat.st_size, stat.st_mtime_ns, archive.start))
    for name in ("name", "offset", "packed", "size", "crc"):
        for chunk in pa.concat_tables([entries.select([name])]).combine_chunks()[name].chunks:
            sink = pa.BufferOutputStream()
            with pa.ipc.new_stream(sink, pa.schema([(name, chunk.type)])) as writer:
                writer.write_batch(pa.RecordBatch.from_arrays([chunk], names=[name]))
            digest.update(sink.getvalue())
    return digest.hexdigest()


# --- bytes -----------------------------------------------------------------------------------------------------------


class _Bytes:
    """The bytes of a zip on disk, or of one that lies stored in another; positions count from its own start."""

    def __init__(self, archive: Archive) -> None:
        self.fd = os.open(archive.path, os.O_RDONLY)
        self.start = archive.start
        self.length = os.fstat(self.fd).st_size - self.start
        if archive.length is not None:
            self.length = min(self.length, archive.length)

    def read(self, at: int, count: int) -> bytes:
        return os.pread(self.fd, max(0, min(count, self.length - at)), self.start + at) if at >= 0 else b""

    def tail(self, count: int) -> bytes:
        return self.read(self.length - count, count)

    def close(self) -> None:
        os.close(self.fd)


class _Inflated:
    """The bytes of a deflated zip in a zip. Going back means to begin again."""

    def __init__(self, archive: Archive) -> None:
        assert archive.inside
        self.archive, self.inner, self.length = archive, archive.inside, archive.inside.size
        self.fd = os.open(archive.path, os.O_RDONLY)
        self.end = b""  # the last bytes, once they were seen
        self._begin()

    def _begin(self) -> None:
        self.chunks = _inflate(self.fd, self.inner, self.archive.label)
        self.chunk, self.at = b"", 0  # the present chunk and where it starts

    def read(self, at: int, count: int) -> bytes:
        count = min(count, self.length - at)
        if self.end and at >= self.length - len(self.end):
            begin = at - (self.length - len(self.end))
            return self.end[begin : begin + count]
        if at < self.at:
            self._begin()
        parts = []
        while count > 0:
            if at >= self.at + len(self.chunk):
                self.at += len(self.chunk)
                self.chunk = next(self.chunks, b"")
                if not self.chunk:
                    break
                continue
            part = self.chunk[at - self.at : at - self.at + count]
            parts.append(part)
            at, count = at + len(part), count - len(part)
        return b"".join(parts)

    def tail(self, count: int) -> bytes:
        kept, total = [], 0  # type: ignore[var-annotated]
        for chunk in _inflate(self.fd, self.inner, self.archive.label):
            kept.append(chunk)
            total += len(chunk)
            while total - len(kept[0]) >= TAIL:
                total -= len(kept.pop(0))
        self.end = b"".join(kept)
        return self.end[-count:]

    def close(self) -> None:
        os.close(self.fd)


def _bytes_of(archive: Archive) -> Any:
    return _Inflated(archive) if archive.inside else _Bytes(archive)


def _inflate(fd: int, inner: Inner, label: str) -> Iterator[bytes]:
    """The content of a deflated inner zip, a chunk at a time; its size and CRC are checked at the end."""
    head = os.pread(fd, LOCAL_SIZE, inner.offset)
    wrong = ArchiveError(label, "it is damaged within its archive", "Download the outer archive again")
    if len(head) < LOCAL_SIZE or not head.startswith(LOCAL):
        raise wrong
    name, extra = struct.unpack_from("<HH", head, 26)
    at = inner.offset + LOCAL_SIZE + name + extra
    end, total, crc = at + inner.packed, 0, 0
    inflater = zlib.decompressobj(-15)
    pending = b""
    while not inflater.eof and (pending or at < end):
        if not pending:
            pending = os.pread(fd, min(CHUNK, end - at), at)
            at += len(pending)
            if not pending:
                break
        try:
            chunk = inflater.decompress(pending, CHUNK)
        except zlib.error:
            raise wrong from None
        pending = inflater.unconsumed_tail
        total, crc = total + len(chunk), crc32(chunk, crc)
        if total > inner.size:
            raise wrong
        if chunk:
            yield chunk
    if total != inner.size or crc != inner.crc:
        raise wrong


@contextlib.contextmanager
def extracted(archive: Archive, folder: str | os.PathLike[str]) -> Iterator[Archive]:
    """A deflated inner zip as a file in `folder`, for as long as the context lasts. Raises ArchiveError, OSError."""
    assert archive.inside
    with tempfile.NamedTemporaryFile(dir=folder, prefix=".inner-", suffix=".tmp") as file:
        with contextlib.closing(_Inflated(archive)) as source:
            for chunk in source.chunks:
                file.write(chunk)
        file.flush()
        yield Archive(file.name, archive.label, "zip")


class Reader:
    """Reads the entries of one container, in one thread."""

    def __init__(self, archive: Archive) -> None:
        self.archive = archive
        self._scratch = bytearray(1 << 18)
        self._view = memoryview(self._scratch)
        self._inflated = _Inflated(archive) if archive.inside else None
        try:
            self._fd = os.open(archive.path, os.O_RDONLY)
        except OSError as error:
            raise ArchiveError(archive.label, f"cannot be read: {error.strerror}", "Put it back") from None

    def __enter__(self) -> Reader:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
            if self._inflated:
                self._inflated.close()

    def read(self, *, offset: int, packed: int, size: int, crc: int | None, method: int, file: bytes | None,
             name: str) -> tuple[memoryview, int]:  # fmt: skip
        """The content of one entry and its CRC-32. The view is valid until the next read.

        Raises DamagedEntry: `missing_file`, `read_error`, `bad_local_header`, `truncated`, `size_mismatch`,
        `inflate_error`, `crc_mismatch`, `too_large`.
        """
        if packed > LARGEST or size > LARGEST:
            raise DamagedEntry("too_large", f"{size} bytes are more than any image has")
        try:
            data = self._read_file(file, size) if file is not None else self._read_entry(offset, packed, method)
        except OSError as error:
            raise DamagedEntry("read_error", f"the system could not read it: {error.strerror or error}") from None
        if method == DEFLATED:
            data = _inflated(data, size)
        elif len(data) != size:
            raise DamagedEntry("size_mismatch", f"{len(data)} bytes are there, {size} are stated")
        found = crc32(data)
        if crc is not None and found != crc:
            raise DamagedEntry("crc_mismatch", f"its CRC-32 is {found:08x}, the archive states {crc:08x}")
        return data, found

    def _room(self, count: int) -> memoryview:
        if count > len(self._scratch):
            self._scratch = bytearray(count * 5 // 4)
            self._view = memoryview(self._scratch)
        return self._view[:count]

    def _read_file(self, file: bytes, size: int) -> memoryview:
        try:
            fd = os.open(os.path.join(os.fsencode(self.archive.path), file), os.O_RDONLY)
        except FileNotFoundError:
            raise DamagedEntry("missing_file", "the file is gone") from None
        try:
            room = self._room(size + 1)  # one more, to see that it did not grow
            got = 0
            while got < len(room) and (more := os.readv(fd, [room[got:]])):
                got += more
            return room[:got]
        finally:
            os.close(fd)

    def _read_entry(self, offset: int, packed: int, method: int) -> memoryview:
        data, skip = self._at(offset, AHEAD + packed), LOCAL_SIZE
        if len(data) < LOCAL_SIZE or data[:4] != LOCAL:
            raise DamagedEntry("bad_local_header", f"no entry starts at byte {offset}")
        if data[8] | data[9] << 8 != method:
            raise DamagedEntry("bad_local_header", "the entry and the directory state different compressions")
        skip += (data[26] | data[27] << 8) + (data[28] | data[29] << 8)
        if skip > AHEAD:
            data, skip = self._at(offset + skip, packed), 0
        data = data[skip : skip + packed]
        if len(data) < packed:
            raise DamagedEntry("truncated", f"{len(data)} of {packed} bytes are there")
        return data

    def _at(self, offset: int, count: int) -> memoryview:
        if self._inflated:
            return memoryview(self._inflated.read(offset, count))
        room = self._room(count)
        got = os.preadv(self._fd, [room], offset)
        while got < count and (more := os.preadv(self._fd, [room[got:]], offset + got)):
            got += more
        return room[:got]

    def stream(self, *, offset: int, packed: int, size: int, crc: int | None, method: int, file: bytes | None,
               name: str) -> BinaryIO:  # fmt: skip
        """The content of one entry as a file, in bounded memory. Its CRC is checked when its end is read.

        Closing it closes the reader. Reading raises DamagedEntry.
        """
        if file is not None:
            try:
                return open(os.path.join(os.fsencode(self.archive.path), file), "rb")
            except OSError as error:
                raise DamagedEntry("read_error", f"the system could not read it: {error.strerror}") from None
            finally:
                self.close()
        data = self._at(offset, LOCAL_SIZE)
        if len(data) < LOCAL_SIZE or data[:4] != LOCAL:
            raise DamagedEntry("bad_local_header", f"no entry starts at byte {offset}")
        begin = offset + LOCAL_SIZE + (data[26] | data[27] << 8) + (data[28] | data[29] << 8)
        return io.BufferedReader(_EntryStream(self, begin, packed, size, crc, method), CHUNK)  # type: ignore[return-value]


class _EntryStream(io.RawIOBase):
    def __init__(self, reader: Reader, at: int, packed: int, size: int, crc: int | None, method: int) -> None:
        self.reader, self.at, self.end, self.size, self.crc = reader, at, at + packed, size, crc
        self.inflater = zlib.decompressobj(-15) if method == DEFLATED else None
        self.pending, self.total, self.found = b"", 0, 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        data = b""
        while not data:
            if not self.pending and self.at < self.end:
                self.pending = bytes(self.reader._at(self.at, min(CHUNK, self.end - self.at)))
                if not self.pending:
                    raise DamagedEntry("truncated", f"it ends {self.end - self.at} bytes early")
                self.at += len(self.pending)
            if self.inflater is None:
                data, self.pending = self.pending[: len(buffer)], self.pending[len(buffer) :]
            elif not self.inflater.eof:
                try:
                    data = self.inflater.decompress(self.pending, len(buffer))
                except zlib.error as error:
                    raise DamagedEntry("inflate_error", str(error)) from None
                self.pending = self.inflater.unconsumed_tail
            if not data and not self.pending and (self.at >= self.end or (self.inflater and self.inflater.eof)):
                break
            if not data and self.inflater and self.inflater.eof:
                break
        self.total, self.found = self.total + len(data), crc32(data, self.found)
        if self.total > self.size or (not data and self.total != self.size):
            raise DamagedEntry("size_mismatch", f"{self.total} bytes are there, {self.size} are stated")
        if not data and self.crc is not None and self.found != self.crc:
            raise DamagedEntry("crc_mismatch", f"its CRC-32 is {self.found:08x}, the archive states {self.crc:08x}")
        buffer[: len(data)] = data
        return len(data)

    def close(self) -> None:
        self.reader.close()
        super().close()


def _inflated(data: memoryview, size: int) -> memoryview:
    if size > len(data) * EXPANSION + 64:
        raise DamagedEntry("size_mismatch", f"{len(data)} compressed bytes cannot hold the {size} that are stated")
    try:
        if deflate_decompress is not None:
            return memoryview(deflate_decompress(data, size))
        inflater = zlib.decompressobj(-15)
        result = inflater.decompress(data, size + 1)
        if not inflater.eof or len(result) != size:
            raise DamagedEntry("size_mismatch", f"it inflates to other than the {size} bytes that are stated")
        return memoryview(result)
    except (zlib.error, DeflateError) as error:
        raise DamagedEntry("inflate_error", f"it does not inflate to the {size} bytes that are stated: {error}") from None
