"""One reader for a zip, a zip within a zip and a folder.

How it works:
- `read_entries` reads a zip's central directory (never its data) into a table, a row a file. Fixed fields become numpy
  columns and names one Arrow buffer, so a million entries cost a second and no Python object each.
- What the directory alone shows to be unusable keeps its row and gets a `problem`, so that nothing is lost silently.
- `Reader` reads one entry with one system call and returns it only if header, length and CRC32 agree with the
  directory.
- A zip stored in a zip is read in place. A deflated one is inflated forward, without a file, for its directory and for
  streams; `extracted` inflates it once to a file for reads in any order.

Formats: PKWARE's APPNOTE.TXT 6.3.10 (zip, zip64), Info-ZIP's extrafld.txt (Unicode path, 0x7075), RFC 1951 (deflate).

Limits: only methods 0 (stored) and 8 (deflated); a directory of at most 512 MiB, or 192 MiB in a deflated inner zip; an
entry read whole is at most 256 MiB (streams have no limit).
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import io
import os
import re
import stat
import struct
import zlib
from array import array
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Literal, Protocol, cast

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from conversion.errors import OutputError, ReleaseError

try:  # several times as fast as zlib, for both
    from deflate import DeflateError, crc32, deflate_decompress
except ImportError:
    from zlib import crc32  # type: ignore[assignment]

    deflate_decompress = None  # type: ignore[assignment]

MiB = 1 << 20
LATEST_VERSION = 63  # of the format, in tenths: the last that APPNOTE.TXT defines
LARGEST_DIRECTORY = 512 * MiB  # about five million entries
TAIL = 192 * MiB  # what is kept of a deflated inner zip while looking for its directory: two million entries
LARGEST_ENTRY = 256 * MiB  # read whole; above what any image that Pillow opens takes
LONGEST_NAME = 4096  # bytes; no file system that we know takes a longer path
BLOCK = 4 * MiB  # of a directory, read at once; an entry in it takes at most 0.2 MB
CHUNK = 1 * MiB  # of a stream; blocks of 0.5 to 1 MB are the fastest to copy
KEPT_BUFFER = 16 * MiB  # a larger scratch buffer is not kept for the next read
DEFLATE_RATIO = 1032  # the most that deflate can expand: 258 bytes from two bits (zlib's technical notes)

STORED, DEFLATED = 0, 8
METHODS = {
    1: "shrink",
    2: "reduce",
    3: "reduce",
    4: "reduce",
    5: "reduce",
    6: "implode",
    9: "deflate64",
    10: "PKWARE implode",
    12: "bzip2",
    14: "lzma",
    16: "CMPSC",
    18: "terse",
    19: "LZ77",
    20: "zstd (old)",
    93: "zstd",
    94: "mp3",
    95: "xz",
    96: "jpeg",
    97: "wavpack",
    98: "ppmd",
    99: "AES encryption",
}

# What the directory alone shows to be wrong, by falling weight: the first that holds is an entry's `problem`.
PROBLEMS = {
    "unsafe_name": "its name is absolute, leads outside, is empty, unreadable or too long, or holds a NUL",
    "link": "it is a symbolic link, which is not followed",
    "not_a_file": "it is a device, a pipe or a socket",
    "encrypted": "it is encrypted",
    "unsupported_version": "it asks for a reader of a later version of the format than 6.3",
    "unsupported_compression": "it is compressed by a method that is not read",
    "bad_directory_entry": "its fields in the directory contradict each other",
    "size_mismatch": "its stated size is not possible for its compressed size",
    "bad_local_header": "there is no entry where the directory says",
    "overlap": "its bytes reach into the next entry or out of the archive",
    "unreadable_folder": "it is a folder that may not be read",
}
_PROBLEM = {code: number for number, code in enumerate(PROBLEMS)}

SCHEMA = pa.schema(
    [
        ("name", pa.string()),
        ("file", pa.binary()),
        ("offset", pa.int64()),
        ("packed", pa.int64()),
        ("size", pa.int64()),
        ("crc", pa.uint32()),
        ("method", pa.uint16()),
        ("flags", pa.uint16()),
        ("problem", pa.string()),
    ]
)
DAMAGE = (
    b"damage"  # key in a table's metadata: what is wrong with the archive as a whole, where it is read all the same
)


class ArchiveError(ReleaseError):
    """A whole archive cannot be read. Its text is `<label>: <detail>. <remedy>`, one line."""

    def __init__(self, label: str, detail: str, remedy: str) -> None:
        super().__init__(label, detail, remedy)
        self.label, self.detail, self.remedy = label, detail, remedy

    def __str__(self) -> str:
        return f"{self.label}: {self.detail}. {self.remedy}"


class DamagedEntry(ReleaseError):
    """One entry cannot be read whole.

    `reason` is one of crc_mismatch, truncated, bad_local_header, size_mismatch, inflate_error, too_large, missing_file,
    read_error; `detail` says it for people. Callers make a row of the report of it.
    """

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(reason, detail)
        self.reason, self.detail = reason, detail

    def __str__(self) -> str:
        return f"{self.reason}: {self.detail}"


@dataclass(frozen=True)
class Inner:
    """The deflated entry that holds an inner zip, as the directory of the zip around it states it. Bytes."""

    offset: int
    packed: int
    size: int
    crc: int
    method: int


@dataclass(frozen=True)
class Archive:
    """Where one container's bytes are. Picklable.

    path: zip file or folder on disk. label: what messages call it, e.g. "MMM-RS.zip/MMM-RS/Inria.zip". start, length:
    the bytes of the zip within `path`, where it is stored in another. inside: a deflated inner zip, which must be
    inflated to be read; offsets of its entries count from its own first byte.
    """

    path: str
    label: str
    kind: Literal["zip", "folder"]
    start: int = 0
    length: int | None = None
    inside: Inner | None = None


def explain(problem: str, method: int) -> str:
    """A `problem` of the table as a sentence, with the compression's name where that is the problem."""
    if problem == "unsupported_compression":
        return f"it is compressed with {METHODS.get(method, 'an unknown method')} (method {method}), which is not read"
    return PROBLEMS[problem]


# --- bytes, wherever they are ----------------------------------------------------------------------------------------


class _Source(Protocol):
    """Random access to the bytes that an archive's offsets point into."""

    def into(self, view: memoryview, offset: int) -> int:
        """Fill the view from `offset` and return the number of bytes; fewer only at the end."""

    def close(self) -> None: ...


class _File:
    """A regular file. Raises OSError."""

    def __init__(self, path: str | bytes, folder: int | None = None, follow: bool = True) -> None:
        # Without O_NONBLOCK, opening a pipe would wait for its writer.
        flags = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | (0 if follow else os.O_NOFOLLOW)
        self.fd = os.open(path, flags, dir_fd=folder)
        status = os.fstat(self.fd)
        self.size = status.st_size
        if not stat.S_ISREG(status.st_mode):
            self.close()
            raise OSError(errno.EINVAL, "it is not a regular file")

    def into(self, view: memoryview, offset: int) -> int:
        got = _preadv(self.fd, (view,), offset)
        while got < len(view):
            more = _preadv(self.fd, (view[got:],), offset + got)
            if not more:
                break
            got += more
        return got

    def close(self) -> None:
        fd, self.fd = self.fd, -1
        if fd >= 0:
            os.close(fd)


def _preadv_by_pread(fd: int, views: tuple[memoryview], offset: int) -> int:
    data = os.pread(fd, len(views[0]), offset)
    views[0][: len(data)] = data
    return len(data)


_preadv = getattr(os, "preadv", _preadv_by_pread)  # macOS before 11 has only pread


class _Inflating:
    """A deflated inner zip, inflated forward. A read before the last one's start begins anew.

    Raises DamagedEntry and OSError. The CRC32 of the whole is not checked here: each entry's own is, and one damaged
    image shall not cost the others.
    """

    def __init__(self, path: str, inner: Inner) -> None:
        self.inner, self.file = inner, _File(path)
        self.begin()

    def begin(self) -> None:
        self.window, self.at = bytearray(), 0  # the window's first byte is at `at`
        self.chunks = _inner_chunks(self.file, self.inner)

    def into(self, view: memoryview, offset: int) -> int:
        if offset < self.at:
            self.begin()
        end = offset + len(view)
        while self.at + len(self.window) < end:
            chunk = next(self.chunks, None)
            if chunk is None:
                break
            self.window += chunk
            past = min(offset - self.at, len(self.window))
            # A megabyte is kept: the next entry's header was read as the slack of this one.
            if past > 2 * CHUNK:
                del self.window[: past - CHUNK]
                self.at += past - CHUNK
        first = offset - self.at
        data = memoryview(self.window)[first : first + len(view)]
        view[: len(data)] = data
        return len(data)

    def close(self) -> None:
        self.file.close()


class _Tail:
    """The last bytes of a deflated inner zip."""

    def __init__(self, archive: Archive) -> None:
        assert archive.inside
        self.head = b""
        kept: deque[bytes] = deque()
        held = total = self.crc = 0
        with contextlib.closing(_File(archive.path)) as file:
            for chunk in _inner_chunks(file, archive.inside):
                if not total:
                    self.head = chunk[:64]
                kept.append(chunk)
                held, total = held + len(chunk), total + len(chunk)
                self.crc = crc32(chunk, self.crc)
                while held - len(kept[0]) >= TAIL:
                    held -= len(kept.popleft())
        self.at, self.data, self.label = total - held, b"".join(kept), archive.label

    def into(self, view: memoryview, offset: int) -> int:
        if offset < self.at:
            if not offset and len(view) <= len(self.head):
                view[:] = self.head[: len(view)]
                return len(view)
            raise ArchiveError(
                self.label,
                f"its directory is larger than {TAIL // MiB} MiB, the most that is read inside a compressed zip",
                "Unzip the outer zip first",
            )
        data = self.data[offset - self.at : offset - self.at + len(view)]
        view[: len(data)] = data
        return len(data)

    def close(self) -> None:
        self.data = b""


def _read(source: _Source, offset: int, length: int) -> bytearray:
    data = bytearray(length)
    got = source.into(memoryview(data), offset)
    del data[got:]
    return data


def _open(archive: Archive) -> _Source:
    return _Inflating(archive.path, archive.inside) if archive.inside else _File(archive.path)


def _inner_chunks(source: _Source, inner: Inner) -> Iterator[bytes]:
    begin = _data_offset(source, inner.offset, inner.packed, inner.size, inner.crc, inner.method, "")
    return _inflated(_pieces(source, begin, inner.packed), inner.size)


def _pieces(source: _Source, offset: int, length: int) -> Iterator[bytes]:
    while length:
        data = bytes(_read(source, offset, min(length, CHUNK)))
        if not data:
            raise DamagedEntry("truncated", f"the file ends {length} bytes before this entry does")
        yield data
        offset, length = offset + len(data), length - len(data)


def _inflated(pieces: Iterable[bytes], size: int) -> Iterator[bytes]:
    """Inflate to exactly `size` bytes, in chunks of at most CHUNK."""
    engine = zlib.decompressobj(-zlib.MAX_WBITS)
    total = 0
    for piece in pieces:
        more = True
        while more and not engine.eof:
            try:
                data = engine.decompress(piece, CHUNK)
            except zlib.error as error:
                raise DamagedEntry("inflate_error", f"the compressed data is damaged ({error})") from None
            piece = engine.unconsumed_tail
            total += len(data)
            if total > size:
                raise DamagedEntry("size_mismatch", f"it inflates to more than the stated {size} bytes")
            if data:
                yield data
            more = bool(piece) or len(data) == CHUNK  # a full chunk: the engine may hold more
        if engine.eof:
            break
    if not engine.eof:
        raise DamagedEntry("inflate_error", "the compressed data ends early")
    if total < size:
        raise DamagedEntry("size_mismatch", f"it inflates to {total} bytes, {size} are stated")


def _checked(chunks: Iterable[bytes], crc: int) -> Iterator[bytes]:
    """The chunks; the last one only after the CRC32 of all was found right."""
    found, last = 0, b""
    for chunk in chunks:
        if last:
            yield last
        found, last = crc32(chunk, found), chunk
    if found != crc:
        raise _crc_mismatch(found, crc)
    yield last


def _crc_mismatch(found: int, crc: int) -> DamagedEntry:
    return DamagedEntry("crc_mismatch", f"the CRC32 of its bytes is {found:08x}, the directory says {crc:08x}")


# --- local headers ---------------------------------------------------------------------------------------------------

_LOCAL = struct.Struct("<4s5H3I2H")
_LOCAL_SIGNATURE = b"PK\3\4"
_ENCRYPTED, _DESCRIPTOR, _PATCHED, _STRONGLY, _UTF8, _MASKED = 1, 1 << 3, 1 << 5, 1 << 6, 1 << 11, 1 << 13
_FULL = 0xFFFFFFFF  # of a 32-bit field: the value is in the zip64 extra field


def _data_offset(source: _Source, offset: int, packed: int, size: int, crc: int, method: int, name: str) -> int:
    """Where the data of the entry at `offset` begins. Raises DamagedEntry where its header is not the directory's."""
    head = _read(source, offset, _LOCAL.size)
    if len(head) < _LOCAL.size:
        raise DamagedEntry("truncated", "the file ends before this entry")
    if not head.startswith(_LOCAL_SIGNATURE):
        raise DamagedEntry("bad_local_header", "there is no entry where the directory says")
    length = sum(_LOCAL.unpack(head)[9:])
    head += _read(source, offset + _LOCAL.size, length)
    if len(head) < _LOCAL.size + length:
        raise DamagedEntry("truncated", "the file ends within this entry's header")
    _check_header(head, packed, size, crc, method, name)
    return offset + len(head)


def _check_header(head: bytes | bytearray, packed: int, size: int, crc: int, method: int, name: str) -> None:
    """Raise DamagedEntry where a local header contradicts the directory. `head` starts with the whole header."""
    signature, _, flags, its_method, _, _, its_crc, its_packed, its_size, n, m = _LOCAL.unpack_from(head)
    if signature != _LOCAL_SIGNATURE:
        raise DamagedEntry("bad_local_header", "there is no entry where the directory says")
    if its_method != method:
        raise DamagedEntry("bad_local_header", f"its header says method {its_method}, the directory {method}")
    if flags & _ENCRYPTED:
        raise DamagedEntry("bad_local_header", "its header says that it is encrypted, the directory does not")
    extra = bytes(head[_LOCAL.size + n : _LOCAL.size + n + m])
    stated = (its_crc, its_packed, its_size)
    if not flags & _DESCRIPTOR and stated != (0, 0, 0):  # else the values follow the data, or the writer left them out
        if _FULL in (its_packed, its_size):
            wide = _extra(extra, 1) or b""
            values = iter(struct.unpack(f"<{len(wide) // 8}Q", wide[: len(wide) // 8 * 8]))
            its_size = next(values, its_size) if its_size == _FULL else its_size
            its_packed = next(values, its_packed) if its_packed == _FULL else its_packed
        if (its_crc, its_packed, its_size) != (crc, packed, size):
            raise DamagedEntry(
                "bad_local_header",
                f"its header says {its_packed} bytes, {its_size} inflated, CRC32 "
                f"{its_crc:08x}; the directory says {packed}, {size}, {crc:08x}",
            )
    if name:
        raw = bytes(head[_LOCAL.size : _LOCAL.size + n])
        if not any(_same_end(other, name) for other in _readings(raw, extra)):
            raise DamagedEntry("bad_local_header", f"its header names another file, {raw[:200]!r}")


def _same_end(one: str, other: str) -> bool:
    """Whether two paths are alike from their last part back, as far as the shorter of them goes."""
    parts, others = ([part for part in re.split(r"[/\\]", path) if part not in ("", ".")] for path in (one, other))
    shorter = min(len(parts), len(others))
    return shorter > 0 and parts[-shorter:] == others[-shorter:]


def _readings(raw: bytes, extra: bytes) -> Iterator[str]:
    """What a raw name can be read as."""
    if unicode := _unicode_path(raw, extra):
        yield unicode
    for encoding in ("utf-8", "gb18030", "cp437"):
        with contextlib.suppress(UnicodeDecodeError):
            yield raw.decode(encoding)


def _extra(extra: bytes, wanted: int) -> bytes | None:
    """The content of the first extra field of one kind."""
    at = 0
    while at + 4 <= len(extra):
        kind, length = struct.unpack_from("<2H", extra, at)
        if kind == wanted:
            return extra[at + 4 : at + 4 + length]
        at += 4 + length
    return None


def _unicode_path(raw: bytes, extra: bytes) -> str | None:
    """Info-ZIP's Unicode path, if there is one and it belongs to this raw name."""
    field = _extra(extra, 0x7075)
    if field and len(field) > 5 and field[0] == 1 and int.from_bytes(field[1:5], "little") == zlib.crc32(raw):
        with contextlib.suppress(UnicodeDecodeError):
            return field[5:].decode("utf-8")
    return None


# --- the directory of a zip ------------------------------------------------------------------------------------------

_END = struct.Struct("<4s4H2IH")
_LOCATOR = struct.Struct("<4sIQI")
_END64 = struct.Struct("<4sQ2H2I4Q")
_CENTRAL = np.dtype(
    [
        ("signature", "S4"),
        ("made_by", "<u2"),
        ("needed", "u1"),
        ("needs", "u1"),
        ("flags", "<u2"),
        ("method", "<u2"),
        ("time", "<u4"),
        ("crc", "<u4"),
        ("packed", "<u4"),
        ("size", "<u4"),
        ("name", "<u2"),
        ("extra", "<u2"),
        ("comment", "<u2"),
        ("disk", "<u2"),
        ("internal", "<u2"),
        ("external", "<u4"),
        ("offset", "<u4"),
    ]
)
_CENTRAL_SIGNATURE = b"PK\1\2"

_PART = re.compile(r"\.(z\d\d|zip\.\d{2,3}|part\d+)$", re.IGNORECASE)
_DOWNLOADING = re.compile(r"\.(downloading|crdownload|part|partial|aria2|quark|tmp|download)$", re.IGNORECASE)
_OTHER_FORMATS = {
    b"7z\xbc\xaf": "a 7z archive",
    b"Rar!": "a RAR archive",
    b"\x1f\x8b": "a gzip file",
    b"\xfd7zXZ": "an xz file",
    b"BZh": "a bzip2 file",
    b"\x28\xb5\x2f\xfd": "a zstd file",
    b"%PDF": "a PDF",
    b"<": "a web page",
}
_AGAIN = "Download it again"
_JOIN = "Get all its parts and join them: `zip -s 0 X.zip --out Y.zip` for .z01, `cat X.zip.* > X.zip` for .001"


@dataclass(frozen=True)
class _Directory:
    at: int  # of the first byte, in the source
    size: int  # bytes
    count: int  # of entries, as the end record states it
    wide: bool  # zip64: the count is exact, else modulo 65,536
    base: int  # what the offsets of entries are counted from, in the source


def read_entries(archive: Archive) -> pa.Table:
    """The files of an archive or folder, with columns as in SCHEMA.

    name: logical name, decoded, separated by "/"; no directories, no junk. file: in a folder the real relative path,
    as `os.fsencode` gives it; null in a zip. offset: of the local header, absolute within the archive's `path` (in a
    deflated inner zip within that zip); 0 in a folder. packed, size: bytes. crc: CRC32, null in a folder. problem:
    null, or a key of PROBLEMS. Rows in the order of the directory; a folder's sorted by `file`.

    A deflated inner zip whose own CRC32 is wrong is read all the same, for each entry has one. But none covers names,
    and where deflate made the directory's copy of a name from the header's, damage can change both alike: the table's
    metadata tell of it, under DAMAGE.

    Raises ArchiveError.
    """
    try:
        if archive.kind == "folder":
            return _walk(archive)
        with contextlib.closing(_Tail(archive) if archive.inside else _File(archive.path)) as source:
            first = archive.start
            if archive.inside:
                last = archive.inside.size
            else:
                size = cast(_File, source).size
                last = size if archive.length is None else min(size, first + archive.length)
            directory = _find_directory(source, archive, first, last)
            blocks = list(_blocks(source, directory, archive.label))
            # Of a deflated inner zip only the end is at hand: its local headers cannot be looked at.
            table = _table(blocks, directory, archive.label, None if archive.inside else source)
            if isinstance(source, _Tail) and archive.inside and source.crc != archive.inside.crc:
                return table.replace_schema_metadata({DAMAGE: _crc_mismatch(source.crc, archive.inside.crc).detail})
            return table
    except DamagedEntry as error:
        raise ArchiveError(archive.label, f"it cannot be inflated ({error.detail})", _AGAIN) from None
    except OSError as error:
        raise _unreadable(archive.label, error) from None


def _unreadable(label: str, error: OSError) -> ArchiveError:
    detail = f"it cannot be read ({error.strerror or error})"
    if error.filename is not None:
        detail = f"it cannot be read ({os.fsdecode(error.filename)}: {error.strerror})"
    if error.errno in (errno.EACCES, errno.EPERM):
        return ArchiveError(label, detail, "Give yourself the permission to read it")
    if error.errno == errno.ENOENT:
        return ArchiveError(label, detail, "Put it back")
    return ArchiveError(label, detail, "Copy it to another disk or download it again")


def _find_directory(source: _Source, archive: Archive, first: int, last: int) -> _Directory:
    """Read the records at the end of the zip in bytes [first, last). The rules are those of `zipfile`."""
    label = archive.label
    tail_at = max(first, last - _END.size - 0xFFFF - _LOCATOR.size - _END64.size)
    tail = _read(source, tail_at, max(last - tail_at, 0))
    at = len(tail) - _END.size
    if not (at >= 0 and tail[at:].startswith(b"PK\5\6") and tail.endswith(b"\0\0")):
        at = tail.rfind(b"PK\5\6", max(0, len(tail) - _END.size - 0xFFFF))
        if at < 0 or at + _END.size > len(tail):
            raise _no_end(source, label, first, last)
    _, disk, start_disk, here, count, size, offset, _ = _END.unpack_from(tail, at)
    parts = _PART.search(label) is not None
    multi_part = ArchiveError(label, "it is one part of a zip in several parts", _JOIN)
    end_at, wide = tail_at + at, False
    if at >= _LOCATOR.size and tail[at - _LOCATOR.size :].startswith(b"PK\6\7"):
        _, _, end64, disks = _LOCATOR.unpack_from(tail, at - _LOCATOR.size)
        if disks > 1:
            raise multi_part
        # The record stands where the locator says, or, with other bytes before the zip, just before the locator.
        beside = end_at - _LOCATOR.size - _END64.size
        for where in (first + end64, beside):
            if not first <= where <= beside:
                continue
            record = bytes(_read(source, where, _END64.size))
            if record.startswith(b"PK\6\6"):
                narrow = (disk, start_disk, here, count, size, offset)
                _, _, _, _, *fields = _END64.unpack(record)
                if any(
                    a not in (b, limit)
                    for a, b, limit in zip(narrow, fields, (0xFFFF,) * 4 + (_FULL,) * 2, strict=True)
                ):
                    raise ArchiveError(label, "its two end records contradict each other", _AGAIN)
                disk, start_disk, here, count, size, offset = fields
                end_at, wide = where, True
                break
        else:
            raise ArchiveError(label, "its zip64 end record is missing, so it is damaged", _AGAIN)
    if disk or start_disk or here != count:
        raise multi_part
    directory_at = end_at - size
    base = directory_at - offset
    if directory_at < first or base < first:
        if parts:
            raise multi_part
        raise ArchiveError(
            label,
            f"{first - min(base, directory_at)} bytes are missing in it: its directory is not "
            "where its end record says",
            _AGAIN,
        )
    if size > LARGEST_DIRECTORY:
        raise ArchiveError(
            label,
            f"its directory takes {size} bytes, more than the {LARGEST_DIRECTORY} that are read",
            "Unzip it and give the folder",
        )
    return _Directory(directory_at, size, count, wide, base)


def _no_end(source: _Source, label: str, first: int, last: int) -> ArchiveError:
    """Why there is no end record."""
    head = bytes(_read(source, first, min(max(last - first, 0), 64)))
    if _DOWNLOADING.search(label):
        return ArchiveError(label, "its download is not finished", "Let it finish or download it again")
    if _PART.search(label) or head.startswith((b"PK\7\x08PK\3\4", b"PK00PK\3\4")):
        return ArchiveError(label, "it is one part of a zip in several parts", _JOIN)
    if not head:
        return ArchiveError(label, "it is empty", _AGAIN)
    if head.startswith(b"PK\3\4"):
        return ArchiveError(label, "it is truncated: the directory at its end is missing", _AGAIN)
    if not head.strip(b"\0"):
        return ArchiveError(label, "it starts with zeros and has no directory: its download is not finished", _AGAIN)
    for start, what in _OTHER_FORMATS.items():
        if head.lstrip(b"\xef\xbb\xbf \r\n\t").startswith(start):
            remedy = f"{_AGAIN}; the site sent a page instead" if start == b"<" else "Unpack it and give the folder"
            return ArchiveError(label, f"it is not a zip but {what}", remedy)
    return ArchiveError(label, "it is not a zip", _AGAIN)


@dataclass(frozen=True)
class _Block:
    """Some entries of a directory, as columns."""

    names: pa.Array  # raw, binary
    columns: dict[str, np.ndarray]  # offset, packed, size, crc, method, flags, as in SCHEMA, and what follows
    # ends: of the data, at the least; problem: index into PROBLEMS or -1; folder: mask, by the file's type
    unicode: dict[int, str]  # row -> its Unicode path, where it has one


def _blocks(source: _Source, directory: _Directory, label: str) -> Iterator[_Block]:
    """Read the directory block by block into one buffer, so that memory stays small and in the processor's cache."""
    buffer = bytearray(min(BLOCK, directory.size))
    view, at, end, held, intact = memoryview(buffer), directory.at, directory.at + directory.size, 0, 0
    while at < end or held:
        filled = held + source.into(view[held : held + min(end - at, len(buffer) - held)], at)
        at += filled - held
        starts, used = _walk_directory(buffer, filled)
        fields = _gather(np.frombuffer(buffer, np.uint8), starts, _CENTRAL.itemsize).view(_CENTRAL).reshape(-1)
        bad = np.flatnonzero(fields["signature"] != _CENTRAL_SIGNATURE)
        if (not intact and buffer.startswith(b"PK\6\x08")) or np.any(fields["flags"] & _MASKED):
            remedy = "Unzip it with its password and give the folder"
            raise ArchiveError(label, "its directory is encrypted", remedy)
        intact += int(bad[0]) if len(bad) else len(starts)
        if len(bad) or not used:
            raise ArchiveError(label, f"its directory is damaged after {intact} entries", _AGAIN)
        yield _block(buffer, starts, fields, directory.base)
        held = filled - used
        buffer[:held] = buffer[used:filled]


def _walk_directory(raw: bytearray, end: int) -> tuple[np.ndarray, int]:
    """Where each whole entry begins in `raw[:end]`, int64, and where the last one ends."""
    # All signatures at once. Where each entry's lengths lead to the next signature, that is what the walk would find.
    data = np.frombuffer(raw, np.uint8, end)
    at = np.flatnonzero(data[: max(end - 45, 0)] == 0x50)
    at = at[(data[at + 1] == 0x4B) & (data[at + 2] == 1) & (data[at + 3] == 2)]
    if len(at) and at[0] == 0:
        following = at + 46 + _gather(data, at + 28, 6).view("<u2").sum(axis=1, dtype=np.int64)
        if np.array_equal(following[:-1], at[1:]):
            return (at, int(following[-1])) if following[-1] <= end else (at[:-1], int(at[-1]))
    starts = array("q")
    append, lengths = starts.append, struct.Struct("<3H").unpack_from
    here, last = 0, end - _CENTRAL.itemsize
    while here <= last:
        n, m, k = lengths(raw, here + 28)
        if here + 46 + n + m + k > end:
            break
        append(here)
        here += 46 + n + m + k
    return np.array(starts, np.int64), here


def _block(raw: bytearray, starts: np.ndarray, fields: np.ndarray, base: int) -> _Block:
    data = np.frombuffer(raw, np.uint8)
    name_at = starts + _CENTRAL.itemsize
    name_end = name_at + fields["name"]
    extra_end = name_end + fields["extra"]
    packed, size, offset = (fields[column].astype(np.int64) for column in ("packed", "size", "offset"))
    wide_at, wide_length, unicode, overrun = _extra_fields(data, name_end, extra_end)
    contradicts = _widen(data, (size, packed, offset), wide_at, wide_length) | overrun
    offset += base
    kind = fields["external"] >> np.uint32(28)
    on_unix = np.isin(fields["made_by"] >> 8, (3, 19))  # Unix and macOS write the file's type
    method, compressed = fields["method"], fields["method"] == DEFLATED
    possible = np.where(compressed, packed * DEFLATE_RATIO + DEFLATE_RATIO >= size, packed == size)
    problem = np.full(len(starts), -1, np.int8)
    for code, holds in (
        ("size_mismatch", ~possible),
        ("bad_directory_entry", contradicts | (fields["flags"] & _PATCHED != 0)),  # a patch of what is nowhere
        ("unsupported_compression", ~compressed & (method != STORED)),
        ("unsupported_version", fields["needed"] > LATEST_VERSION),
        ("encrypted", fields["flags"] & (_ENCRYPTED | _STRONGLY) != 0),
        ("not_a_file", on_unix & ~np.isin(kind, (0, 4, 8, 10))),
        ("link", kind == 10),
    ):
        problem[holds] = _PROBLEM[code]
    paths = {}
    for row in np.flatnonzero(unicode).tolist():
        raw_name, extra = raw[name_at[row] : name_end[row]], raw[name_end[row] : extra_end[row]]
        if (path := _unicode_path(bytes(raw_name), bytes(extra))) is not None:
            paths[row] = path
    columns = {
        "offset": offset,
        "packed": packed,
        "size": size,
        "crc": fields["crc"].copy(),
        "method": method.copy(),
        "flags": fields["flags"].copy(),
        "ends": offset + _LOCAL.size + fields["name"] + packed,
        "problem": problem,
        "folder": on_unix & (kind == 4),
    }
    return _Block(_slices(raw, name_at, name_end), columns, paths)


def _table(blocks: list[_Block], directory: _Directory, label: str, source: _Source | None) -> pa.Table:
    count = sum(len(block.names) for block in blocks)
    if count != directory.count if directory.wide else (count - directory.count) % 65536:
        raise ArchiveError(label, f"its directory lists {count} entries, its end record says {directory.count}", _AGAIN)
    if not count:
        return SCHEMA.empty_table()
    keeps, unsafes, texts = zip(*(_names(text) for text in _decode(blocks)), strict=True)
    # Taken out of the blocks, so that a column is not held twice.
    columns = {name: np.concatenate([block.columns.pop(name) for block in blocks]) for name in list(blocks[0].columns)}
    problem = columns["problem"]
    for code, rows in _conflicts(columns["offset"], columns["ends"], directory.at, source):
        problem[rows[problem[rows] < 0]] = _PROBLEM[code]
    problem[np.concatenate(unsafes)] = _PROBLEM["unsafe_name"]
    keep = np.concatenate(keeps) & ~columns["folder"]
    table = pa.Table.from_arrays(
        [
            pa.chunked_array(texts),
            pa.nulls(count, pa.binary()),
            *(pa.array(columns[name]) for name in ("offset", "packed", "size", "crc", "method", "flags")),
            _codes(problem),
        ],
        schema=SCHEMA,
    )
    return table if keep.all() else table.filter(pa.array(keep))


def _gather(data: np.ndarray, starts: np.ndarray, width: int) -> np.ndarray:
    """Rows of `width` bytes at `starts`, without an index for every byte."""
    if not len(starts):
        return np.empty((0, width), np.uint8)
    return np.lib.stride_tricks.sliding_window_view(data, width)[starts]


def _slices(raw: bytearray, begins: np.ndarray, ends: np.ndarray) -> pa.Array:
    """Slices of a buffer as a binary array: the buffer is read as slice, gap, slice, gap..., the slices are taken."""
    offsets = np.stack([begins, ends], axis=1).reshape(-1).astype(np.int32)
    alternating = pa.Array.from_buffers(
        pa.binary(), len(offsets) - 1, [None, pa.py_buffer(offsets), pa.py_buffer(raw)], null_count=0
    )
    return alternating.take(pa.array(np.arange(0, len(offsets) - 1, 2)))


def _codes(problem: np.ndarray) -> pa.Array:
    return pa.array(list(PROBLEMS), pa.string()).take(pa.array(problem, mask=problem < 0))


def _extra_fields(data: np.ndarray, begins: np.ndarray, ends: np.ndarray) -> tuple[np.ndarray, ...]:
    """Walk the extra fields of all entries at once, one field a round.

    Returns where each entry's zip64 values begin (-1: none) and their length in bytes; and masks: which entries have a
    Unicode path, and which a field that is longer than what holds it.
    """
    wide_at, wide_length = np.full(len(begins), -1, np.int64), np.zeros(len(begins), np.int64)
    unicode, overrun = np.zeros(len(begins), bool), np.zeros(len(begins), bool)
    rows = np.flatnonzero(begins + 4 <= ends)
    at = begins[rows]
    while len(rows):
        head = _gather(data, at, 4).view("<u2")
        kind, length = head[:, 0], head[:, 1].astype(np.int64)
        unicode[rows[kind == 0x7075]] = True
        wide = (kind == 1) & (wide_at[rows] < 0)
        wide_at[rows[wide]] = at[wide] + 4
        wide_length[rows[wide]] = np.minimum(length[wide], ends[rows[wide]] - at[wide] - 4)
        at = at + 4 + length
        overrun[rows[at > ends[rows]]] = True
        going = at + 4 <= ends[rows]
        rows, at = rows[going], at[going]
    return wide_at, wide_length, unicode, overrun


def _widen(data: np.ndarray, columns: tuple[np.ndarray, ...], at: np.ndarray, length: np.ndarray) -> np.ndarray:
    """Put zip64 values in the place of full 32-bit fields, in place. Returns a mask: entries that lack them."""
    bad = np.zeros(len(at), bool)
    at, left = at.copy(), length.copy()
    for column in columns:
        full = (column == _FULL) & (at >= 0)
        bad |= full & (left < 8)
        rows = np.flatnonzero(full & (left >= 8))
        values = _gather(data, at[rows], 8).view("<u8").reshape(-1)
        huge = values >= 1 << 62
        bad[rows[huge]] = True
        column[rows] = np.where(huge, 0, values).astype(np.int64)
        at[rows] += 8
        left[rows] -= 8
    return bad


def _conflicts(
    offset: np.ndarray, ends: np.ndarray, limit: int, source: _Source | None
) -> Iterator[tuple[str, np.ndarray]]:
    """Rows that claim bytes of others, by problem. The rest share no byte: the work of reading all is bounded.

    A damaged offset often points into a whole entry: where no local header stands, nothing is overlapped.
    """
    order = np.argsort(offset, kind="stable")
    first, second = _overlapping(offset, ends, limit, order)
    if source and len(first):
        rows = np.unique(np.concatenate([first, second]))
        real = [0 <= offset[row] < limit and _read(source, int(offset[row]), 4) == _LOCAL_SIGNATURE for row in rows]
        unreal = rows[~np.array(real)]
        yield "bad_local_header", unreal
        first, _ = _overlapping(offset, ends, limit, order[~np.isin(order, unreal)])
    yield "overlap", first


def _overlapping(offset: np.ndarray, ends: np.ndarray, limit: int, order: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Of the rows in `order`, by offset: those that reach into the next one or past `limit`, and these next ones."""
    following = np.minimum(np.append(offset[order[1:]], limit), limit)
    at = np.flatnonzero(ends[order] > following)
    return order[at], order[at[at + 1 < len(order)] + 1]


# --- names -----------------------------------------------------------------------------------------------------------

_JUNK = r"(^|/)(__MACOSX/|\._[^/]*$|(?i:thumbs\.db|\.ds_store|desktop\.ini)$)"
_OUTSIDE = r"^/|^[A-Za-z]:|(^|/)\.\.(/|$)|[\x00\x{FFFD}]|^$"


def _decode(blocks: list[_Block]) -> list[pa.Array]:
    """The names of all blocks as text. Where a name claims to be UTF-8 and is not, it holds a replacement character.

    A Unicode path wins, then the UTF-8 flag. All others of one archive have one encoding: UTF-8, else GB18030, else
    cp437, the first in which all can be read.
    """
    try:
        texts = [block.names.cast(pa.string()) for block in blocks]
    except pa.ArrowInvalid:
        flagged = [block.columns["flags"] & _UTF8 != 0 for block in blocks]
        encoding = _encoding(block.names.filter(pa.array(~flags)) for block, flags in zip(blocks, flagged, strict=True))
        texts = [
            pa.array(
                [
                    name.decode("utf-8", "replace") if flag else name.decode(encoding)
                    for name, flag in zip(block.names.to_pylist(), flags.tolist(), strict=True)
                ],
                pa.string(),
            )
            for block, flags in zip(blocks, flagged, strict=True)
        ]
    for number, block in enumerate(blocks):
        if block.unicode:
            mask = np.zeros(len(block.names), bool)
            mask[list(block.unicode)] = True
            values = pa.array(list(block.unicode.values()), pa.string())
            texts[number] = pc.replace_with_mask(texts[number], pa.array(mask), values)
    return texts


def _encoding(arrays: Iterable[pa.Array]) -> str:
    """The first encoding in which all raw names can be read. One array at a time becomes Python objects."""
    possible = ["utf-8", "gb18030"]
    for names in arrays:
        joined = b"\n".join(names.to_pylist())  # a line feed is no part of a longer character in either
        for encoding in possible[:]:
            try:
                joined.decode(encoding)
            except UnicodeDecodeError:
                possible.remove(encoding)
    return possible[0] if possible else "cp437"


def _names(text: pa.Array) -> tuple[np.ndarray, np.ndarray, pa.Array]:
    """Which entries are files that count, which names are unsafe, and the names with plain slashes."""
    ends, data = _characters(text)
    if b"\\" in data:
        text = pc.replace_substring(text, "\\", "/")
        ends, data = _characters(text)
    # A regular expression over a million names takes half a second: only names that can match are looked at.
    length = np.diff(ends)
    codes = np.frombuffer(data + b"\0\0", np.uint8)  # so that an empty last name has a character too
    first, second, last = codes[ends[:-1]], codes[ends[:-1] + 1], codes[np.maximum(ends[1:] - 1, 0)]
    after_dot = set(np.unique(codes[1:][codes[:-1] == ord(".")]).tolist())
    slashes = codes == ord("/")
    everywhere = ord(".") in after_dot or b"\0" in data or b"\xef\xbf\xbd" in data
    unsafe = _matches(text, _OUTSIDE, everywhere | (first == 47) | (second == 58) | (length == 0))
    unsafe |= length > LONGEST_NAME
    junk = _matches(text, _JUNK, (ord("_") in after_dot or b"__MACOSX" in data) | np.isin(last, list(b"bBeEiI")))
    keep = ~(junk | ((last == 47) & (length > 0)))
    if ord("/") in after_dot:
        text = pc.replace_substring_regex(text, r"(^|/)(\./)+", r"\1")
    if np.any(slashes[1:] & slashes[:-1]):
        text = pc.replace_substring_regex(text, "/+", "/")
    return keep, unsafe, text


def _characters(text: pa.Array) -> tuple[np.ndarray, bytes]:
    """The bytes of all names, one after another, and where each begins in them; the last number is their end."""
    _, offsets, data = text.buffers()
    ends = np.frombuffer(offsets, np.int32)[text.offset : text.offset + len(text) + 1]
    return ends - ends[0], data.slice(ends[0], ends[-1] - ends[0]).to_pybytes() if data is not None else b""


def _matches(text: pa.Array, pattern: str, candidates: np.ndarray) -> np.ndarray:
    """Mask of the names that match, of those in the mask `candidates`."""
    result = np.zeros(len(text), bool)
    rows = np.flatnonzero(candidates)
    result[rows] = _mask(pc.match_substring_regex(text.take(pa.array(rows)), pattern))
    return result


def _mask(values: pa.Array) -> np.ndarray:
    return values.to_numpy(zero_copy_only=False)


# --- folders ---------------------------------------------------------------------------------------------------------


def _walk(archive: Archive) -> pa.Table:
    """All files of a folder. Links are not followed."""
    tables: list[pa.Table] = []
    files: list[bytes] = []
    sizes, problems = array("q"), array("b")

    def flush() -> None:
        tables.append(
            pa.table(
                {
                    "file": pa.array(files, pa.binary()),
                    "size": pa.array(np.array(sizes, np.int64)),
                    "problem": pa.array(np.array(problems, np.int8)),
                }
            )
        )
        files.clear()
        del sizes[:], problems[:]

    root = os.fsencode(archive.path)
    folders = [b""]
    while folders:
        folder = folders.pop()
        try:
            entries = os.scandir(os.path.join(root, folder))
        except OSError:
            if not folder:
                raise
            files.append(folder[:-1])  # such as `lost+found`, which only the system may read
            sizes.append(0)
            problems.append(_PROBLEM["unreadable_folder"])
            continue
        with entries:
            for entry in entries:
                path = folder + entry.name
                if entry.is_dir(follow_symlinks=False):
                    folders.append(path + b"/")
                    continue
                files.append(path)
                if entry.is_file(follow_symlinks=False):
                    try:
                        sizes.append(entry.stat(follow_symlinks=False).st_size)
                    except FileNotFoundError:  # deleted meanwhile
                        files.pop()
                        continue
                    problems.append(-1)
                else:
                    sizes.append(0)
                    problems.append(_PROBLEM["link" if entry.is_symlink() else "not_a_file"])
                if len(files) == 1 << 16:
                    flush()
    flush()
    found = pa.concat_tables(tables).combine_chunks()
    found = found.take(pc.sort_indices(found["file"])).combine_chunks()
    count = found.num_rows
    if not count:
        return SCHEMA.empty_table()
    file = found["file"].chunk(0)
    try:
        text = file.cast(pa.string())
    except pa.ArrowInvalid:  # each by itself: a folder can hold what several tools unpacked
        text = pa.array([path.decode(_encoding([pa.array([path])])) for path in file.to_pylist()], pa.string())
    keep, unsafe, text = _names(text)
    problem = found["problem"].to_numpy().copy()
    problem[unsafe] = _PROBLEM["unsafe_name"]
    zeros = np.zeros(count, np.int64)
    columns = [
        text,
        file,
        pa.array(zeros),
        found["size"].chunk(0),
        found["size"].chunk(0),
        pa.nulls(count, pa.uint32()),
        pa.array(zeros.astype(np.uint16)),
        pa.array(zeros.astype(np.uint16)),
        _codes(problem),
    ]
    table = pa.Table.from_arrays(columns, schema=SCHEMA)
    return table if keep.all() else table.filter(pa.array(keep))


# --- archives within archives ----------------------------------------------------------------------------------------


def inner_archive(archive: Archive, entries: pa.Table, row: int) -> Archive:
    """The zip that is entry number `row` of an archive.

    Raises ArchiveError where its header is damaged, or where it lies in a compressed inner zip.
    """
    entry = entries.slice(row, 1).to_pylist()[0]
    label = f"{archive.label}/{entry['name']}"
    if archive.kind == "folder":
        return Archive(os.path.join(archive.path, os.fsdecode(entry["file"])), label, "zip")
    if archive.inside:
        raise ArchiveError(label, "it is a zip within a compressed zip within a zip", "Unzip the outer zip first")
    if entry["problem"]:
        raise ArchiveError(label, explain(entry["problem"], entry["method"]), "Unzip the outer zip first")
    inner = Inner(*(entry[column] for column in ("offset", "packed", "size", "crc", "method")))
    if inner.method != STORED:
        return Archive(archive.path, label, "zip", inside=inner)
    try:
        with contextlib.closing(_File(archive.path)) as source:
            begin = _data_offset(source, inner.offset, inner.packed, inner.size, inner.crc, inner.method, entry["name"])
    except DamagedEntry as error:
        raise ArchiveError(label, error.detail, "Download the outer zip again") from None
    except OSError as error:
        raise _unreadable(label, error) from None
    return Archive(archive.path, label, "zip", start=begin, length=inner.size)


@contextlib.contextmanager
def extracted(archive: Archive, folder: str | os.PathLike[str]) -> Iterator[Archive]:
    """Inflate a deflated inner zip to one file in `folder` and yield an archive over it; delete the file at the end.

    The file's name follows from the archive, so that what a killed run left is replaced, not added to. Needs
    `archive.inside.size` bytes of disk. An archive that needs no inflating is yielded as it is.

    Raises ArchiveError where it cannot be inflated, OutputError where it cannot be written.
    """
    if archive.inside is None:
        yield archive
        return
    identity = hashlib.sha256(f"{archive.path}\0{archive.inside.offset}".encode("utf-8", "surrogateescape"))
    path = Path(folder, f"inner-{identity.hexdigest()[:16]}.zip")
    try:
        try:
            source = _File(archive.path)
        except OSError as error:
            raise _unreadable(archive.label, error) from None
        try:
            with contextlib.closing(source), open(path, "wb", buffering=0) as sink:
                for chunk in _inner_chunks(source, archive.inside):
                    rest = memoryview(chunk)
                    while rest:
                        rest = rest[sink.write(rest) :]
        except DamagedEntry as error:
            raise ArchiveError(archive.label, f"it cannot be inflated ({error.detail})", _AGAIN) from None
        except OSError as error:
            raise OutputError(
                f"{path}: cannot be written: {error.strerror or error}. Free disk space or mend the "
                "folder, then run the same command again"
            ) from None
        yield Archive(str(path), archive.label, "zip", length=archive.inside.size)
    finally:
        path.unlink(missing_ok=True)


def content_id(archive: Archive, entries: pa.Table) -> str:
    """A digest (64 hex digits) that changes when the source changes: path, size and time of change of the zip, or of
    every file of the folder, and the entries' columns. `entries` may be part of `read_entries` and have more columns.

    Raises ArchiveError where the source cannot be read any more.
    """
    digest = hashlib.sha256(
        repr((archive.path, archive.kind, archive.start, archive.length, archive.inside)).encode(
            "utf-8", "surrogateescape"
        )
    )
    try:
        if archive.kind == "folder":
            times = array("q")
            root = os.open(archive.path, os.O_RDONLY | os.O_CLOEXEC)
            try:
                for file in entries["file"].to_pylist():
                    times.append(os.stat(file, dir_fd=root, follow_symlinks=False).st_mtime_ns)
            finally:
                os.close(root)
            digest.update(times)
        else:
            status = os.stat(archive.path)
            digest.update(f"{status.st_size} {status.st_mtime_ns}".encode())
    except OSError as error:
        raise _unreadable(archive.label, error) from None
    for column in SCHEMA:
        digest.update(column.name.encode())
        _digest(digest, entries[column.name].combine_chunks())
    return digest.hexdigest()


def _digest(digest: Any, values: pa.Array) -> None:
    """Values, not buffers: these differ with how the array was made."""
    digest.update(np.packbits(_mask(pc.is_null(values))))
    if pa.types.is_integer(values.type):
        digest.update(np.ascontiguousarray(values.fill_null(0).to_numpy(zero_copy_only=False)))
        return
    digest.update(np.ascontiguousarray(pc.binary_length(values).fill_null(0).to_numpy(zero_copy_only=False)))
    filled = values.fill_null(b"" if pa.types.is_binary(values.type) else "")
    _, offsets, data = filled.buffers()
    if data is not None and len(filled):
        ends = np.frombuffer(offsets, np.int32)[filled.offset : filled.offset + len(filled) + 1]
        digest.update(memoryview(data)[ends[0] : ends[-1]])


# --- reading entries -------------------------------------------------------------------------------------------------


class Reader:
    """Reads entries of one archive, in any order; fastest in the order of their offsets.

    One thread at a time uses a reader; several readers of one archive can work side by side. A deflated inner zip is
    inflated forward, and again from its start for an entry that lies before the last one: use `extracted` for such.
    """

    def __init__(self, archive: Archive) -> None:
        self.archive = archive
        self._source: _Source | None = None
        self._root = -1
        self._slack = 256  # bytes read for the header; grows to what the archive's headers need
        self._buffer = bytearray(MiB // 4)
        self._view = memoryview(self._buffer)

    def __enter__(self) -> Reader:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __del__(self) -> None:
        self.close()

    def close(self) -> None:
        source, self._source = self._source, None
        if source:
            source.close()
        root, self._root = self._root, -1
        if root >= 0:
            os.close(root)

    def read(
        self,
        *,
        offset: int,
        packed: int,
        size: int,
        crc: int | None,
        method: int,
        file: bytes | None = None,
        name: str = "",
    ) -> tuple[memoryview, int]:
        """The bytes of one entry, valid until the next read, and their CRC32. Arguments as in the entries' row; `name`
        is compared with the local header's from its last part back, so a path from any folder on will do.

        Raises DamagedEntry; ArchiveError where the archive itself is gone.
        """
        if packed > LARGEST_ENTRY or size > LARGEST_ENTRY:
            raise DamagedEntry("too_large", f"it takes {max(size, packed)} bytes, over the limit of {LARGEST_ENTRY}")
        if self.archive.kind == "folder":
            data = self._read_file(cast(bytes, file), size)
            found = crc32(data)
            if crc is not None and found != crc:
                raise _crc_mismatch(found, crc)
            return data, found
        view, buffer = self._room(self._slack + packed)
        try:
            got = (self._source or self._open()).into(view, offset)
            if got < _LOCAL.size:
                raise DamagedEntry("truncated", "the file ends before this entry")
            signature, _, flags, its_method, _, _, its_crc, its_packed, its_size, n, m = _LOCAL.unpack_from(buffer)
            begin = 30 + n + m
            if signature != _LOCAL_SIGNATURE:
                raise DamagedEntry("bad_local_header", "there is no entry where the directory says")
            if begin + packed > len(view):  # a header longer than any before: read again with room for it
                self._slack = begin + 64
                view, buffer = self._room(self._slack + packed)
                got = cast(_Source, self._source).into(view, offset)
        except OSError as error:
            raise DamagedEntry("read_error", f"it cannot be read ({error.strerror or error})") from None
        end = begin + packed
        if end > got:
            if begin <= got:  # the header is there: what it says comes first
                _check_header(buffer, packed, size, cast(int, crc), method, name)
            raise DamagedEntry("truncated", f"the file ends {end - got} bytes before this entry does")
        its_end = name.encode()
        if not (
            its_crc == crc
            and its_packed == packed
            and its_size == size
            and its_method == method
            and not flags & 1
            and buffer.endswith(its_end, 30, 30 + n)
            and (n == len(its_end) or not name or buffer[29 + n - len(its_end)] in b"/\\")
        ):
            _check_header(buffer, packed, size, cast(int, crc), method, name)
        data = view[begin:end]
        if method == DEFLATED:
            data = _inflate(data, size)
        elif method != STORED:
            raise DamagedEntry("bad_local_header", explain("unsupported_compression", method))
        elif packed != size:
            raise DamagedEntry("size_mismatch", f"{packed} bytes are stored, {size} are stated")
        found = crc32(data)
        if found != crc:
            raise _crc_mismatch(found, cast(int, crc))
        return data, found

    def stream(
        self,
        *,
        offset: int,
        packed: int,
        size: int,
        crc: int | None,
        method: int,
        file: bytes | None = None,
        name: str = "",
    ) -> BinaryIO:
        """One entry as a readable file, in bounded memory; it has a file descriptor of its own and outlives the reader.

        Reading raises DamagedEntry as soon as damage shows, a wrong CRC32 before the last bytes are given out.
        """

        def chunks() -> Iterator[bytes]:
            if self.archive.kind == "folder":
                yield from self._file_chunks(cast(bytes, file), size, crc)
                return
            try:
                source = _open(self.archive)
            except OSError as error:
                raise _unreadable(self.archive.label, error) from None
            with contextlib.closing(source):
                begin = _data_offset(source, offset, packed, size, cast(int, crc), method, name)
                pieces = _pieces(source, begin, packed)
                if method == DEFLATED:
                    pieces = _inflated(pieces, size)
                elif method != STORED:
                    raise DamagedEntry("bad_local_header", explain("unsupported_compression", method))
                elif packed != size:
                    raise DamagedEntry("size_mismatch", f"{packed} bytes are stored, {size} are stated")
                yield from _checked(pieces, cast(int, crc))

        return io.BufferedReader(_Stream(chunks), CHUNK)

    def _open(self) -> _Source:
        try:
            self._source = _open(self.archive)
        except OSError as error:
            raise _unreadable(self.archive.label, error) from None
        return self._source

    def _room(self, need: int) -> tuple[memoryview, bytearray]:
        """A view of `need` bytes and the buffer that it is a view of."""
        if need <= len(self._buffer):
            return self._view[:need], self._buffer
        buffer = bytearray(need + need // 4)
        view = memoryview(buffer)
        if len(buffer) <= KEPT_BUFFER:
            self._buffer, self._view = buffer, view
        return view[:need], buffer

    def _opened_file(self, file: bytes) -> _File:
        if self._root < 0:
            try:
                self._root = os.open(self.archive.path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            except OSError as error:
                raise _unreadable(self.archive.label, error) from None
        try:
            return _File(file, self._root, follow=False)
        except FileNotFoundError:
            raise DamagedEntry("missing_file", "the file is gone since it was planned") from None
        except OSError as error:
            raise DamagedEntry("read_error", f"it cannot be read ({error.strerror or error})") from None

    def _read_file(self, file: bytes, size: int) -> memoryview:
        view, _ = self._room(size + 1)  # one more: to notice a file that has grown
        with contextlib.closing(self._opened_file(file)) as source:
            try:
                got = _preadv(source.fd, (view,), 0)
                if got < size:
                    got = source.into(view, 0)
            except OSError as error:
                raise DamagedEntry("read_error", f"it cannot be read ({error.strerror or error})") from None
        if got != size:
            raise _changed(size)
        return view[:size]

    def _file_chunks(self, file: bytes, size: int, crc: int | None) -> Iterator[bytes]:
        with contextlib.closing(self._opened_file(file)) as source:
            if source.size != size:
                raise _changed(size)
            pieces = _pieces(source, 0, size)
            yield from pieces if crc is None else _checked(pieces, crc)


def _changed(size: int) -> DamagedEntry:
    return DamagedEntry("size_mismatch", f"the file has changed since it was planned: it is not {size} bytes long")


def _inflate(data: memoryview, size: int) -> memoryview:
    """Inflate to exactly `size` bytes."""
    if size > len(data) * DEFLATE_RATIO + DEFLATE_RATIO:
        raise DamagedEntry("size_mismatch", f"{len(data)} bytes cannot inflate to the stated {size}")
    if deflate_decompress is not None and size:  # it takes a size of 0 as "nothing to do" and checks nothing
        with contextlib.suppress(DeflateError):
            result = deflate_decompress(data, size)
            if len(result) == size:
                return memoryview(result)
    # Says what is wrong. In pieces, because the engine copies what it has not used of each.
    pieces = (bytes(data[at : at + CHUNK]) for at in range(0, len(data), CHUNK))
    return memoryview(b"".join(_inflated(pieces, size)))


class _Stream(io.RawIOBase):
    """Chunks as a file. Once damage was found, every further read says so: it must never look like the end."""

    def __init__(self, chunks: Callable[[], Iterator[bytes]]) -> None:
        self._chunks = iter(chunks())
        self._rest = memoryview(b"")
        self._error: Exception | None = None

    def readable(self) -> bool:
        return True

    def readinto(self, target: Any) -> int:
        if self._error:
            raise self._error
        try:
            while not self._rest:
                self._rest = memoryview(next(self._chunks))
        except StopIteration:
            return 0
        except OSError as error:
            self._error = DamagedEntry("read_error", f"it cannot be read ({error.strerror or error})")
        except ReleaseError as error:
            self._error = error
        if self._error:
            raise self._error
        count = min(len(target), len(self._rest))
        target[:count] = self._rest[:count]
        self._rest = self._rest[count:]
        return count

    def close(self) -> None:
        if not self.closed:
            cast(Any, self._chunks).close()
        super().close()
