"""The records at the end of a zip, which say where its directory is, or what a file without them is instead."""

from __future__ import annotations

import re
import shlex
import struct
from dataclasses import dataclass

from conversion.archives.headers import FULL
from conversion.archives.model import AGAIN, ArchiveError, MiB
from conversion.archives.sources import Source, read_at
from conversion.findings import LFS_POINTER, PROBLEMS, REMEDIES

LARGEST_DIRECTORY = 512 * MiB  # about five million entries

_END = struct.Struct("<4s4H2IH")
_LOCATOR = struct.Struct("<4sIQI")
_WIDE_END = struct.Struct("<4sQ2H2I4Q")
_LONGEST_COMMENT = 0xFFFF  # bytes

# The name of one part of a zip in several. `X.zip.1` is not one, but a second download of it.
PART = re.compile(r"\.(z\d\d|zip\.\d{2,3})$", re.IGNORECASE)

# Ends of the names that programs give to a download as long as it is not finished, in small letters.
UNFINISHED = (
    ".crdownload",  # Chrome, Edge
    ".part",  # Firefox
    ".partial",  # Internet Explorer, rclone
    ".download",  # Safari
    ".opdownload",  # Opera
    ".fdmdownload",  # Free Download Manager
    ".aria2",  # beside the file itself
    ".filepart",  # WinSCP
    ".incomplete",  # huggingface_hub
    ".downloading",  # Baidu, as `.baiduyun.p.downloading`, and others
    ".quark",
    ".xltd",  # Xunlei (Thunder)
    ".xltd.cfg",
    ".td",
    ".td.cfg",
    ".jc!",  # FlashGet
    ".bc!",  # BitComet
    ".!qb",  # qBittorrent
    ".!ut",  # uTorrent
    ".!bt",
    ".!sync",  # Resilio
    ".lftp-pget-status",
    ".tmp",
    ".temp",
)
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


@dataclass(frozen=True)
class Directory:
    """Where a zip's directory is. Positions count from the first byte of the source."""

    first: int  # of the zip's own bytes; others may precede them
    start: int
    size: int  # bytes
    count: int  # of entries, as the end record states it
    wide: bool  # zip64: the count is exact, else modulo 65,536
    base: int  # what the offsets of entries are counted from


@dataclass(frozen=True)
class _End:
    """What an end record states."""

    position: int  # of the record itself, in the source: the directory ends here
    wide: bool
    disk: int
    directory_disk: int
    entries_here: int
    entries: int
    size: int
    offset: int


def find_directory(source: Source, label: str, first: int, last: int) -> Directory:
    """Read the records at the end of the zip in bytes [first, last). The rules are those of `zipfile`."""
    tail_start = max(first, last - _END.size - _LONGEST_COMMENT - _LOCATOR.size - _WIDE_END.size)
    tail = read_at(source, tail_start, max(last - tail_start, 0))
    where = _end_position(tail)
    if where < 0:
        raise _no_end(source, label, first, last)
    _, *fields, _ = _END.unpack_from(tail, where)
    end = _End(tail_start + where, False, *fields)
    if where >= _LOCATOR.size and tail.startswith(b"PK\6\7", where - _LOCATOR.size):
        end = _wide_end(source, label, first, end, *_LOCATOR.unpack_from(tail, where - _LOCATOR.size)[2:])
    if end.disk or end.directory_disk or end.entries_here != end.entries:
        raise one_part(label)
    start = end.position - end.size
    base = start - end.offset
    if start < first or base < first:
        if PART.search(label):
            raise one_part(label)
        missing = first - min(base, start)
        raise ArchiveError(
            label, f"{missing} bytes are missing in it: its directory is not where its end record says", AGAIN
        )
    if end.size > LARGEST_DIRECTORY:
        raise ArchiveError(
            label,
            f"its directory takes {end.size} bytes, more than the {LARGEST_DIRECTORY} that are read",
            "Unzip it and give the folder",
        )
    return Directory(first, start, end.size, end.entries, end.wide, base)


def _end_position(tail: bytearray) -> int:
    """Where the end record begins in the last bytes of a zip, -1 for nowhere."""
    where = len(tail) - _END.size
    if where >= 0 and tail.startswith(b"PK\5\6", where) and tail.endswith(b"\0\0"):
        return where
    where = tail.rfind(b"PK\5\6", max(0, len(tail) - _END.size - _LONGEST_COMMENT))
    return where if where + _END.size <= len(tail) else -1


def _wide_end(source: Source, label: str, first: int, end: _End, offset: int, disks: int) -> _End:
    """The zip64 record, which the locator says to be at `offset`. Where more bytes precede the zip than the locator
    knows of, it stands right before the locator."""
    if disks > 1:
        raise one_part(label)
    beside = end.position - _LOCATOR.size - _WIDE_END.size
    for position in (first + offset, beside):
        record = bytes(read_at(source, position, _WIDE_END.size)) if first <= position <= beside else b""
        if record.startswith(b"PK\6\6"):
            _, _, _, _, *fields = _WIDE_END.unpack(record)
            wide = _End(position, True, *fields)
            if not _agree(end, wide):
                raise ArchiveError(label, "its two end records contradict each other", AGAIN)
            return wide
    raise ArchiveError(label, "its zip64 end record is missing, so it is damaged", AGAIN)


def _agree(end: _End, wide: _End) -> bool:
    """Whether each narrow field is that of the wide record, or full, which means: see there."""
    shorts = ("disk", "directory_disk", "entries_here", "entries")
    limits = dict.fromkeys(shorts, 0xFFFF) | {"size": FULL, "offset": FULL}
    return all(getattr(end, name) in (getattr(wide, name), limit) for name, limit in limits.items())


def one_part(label: str) -> ArchiveError:
    """What is said of one part of a split zip, the last one too."""
    name = label.rsplit("/", 1)[-1]
    stem = re.sub(r"\.zip$", "", PART.sub("", name), flags=re.IGNORECASE)
    if re.search(r"\.zip\.\d+$", name, re.IGNORECASE):
        command = f"cat {shlex.quote(stem)}.zip.* > {shlex.quote(stem)}.zip"
    else:
        command = f"zip -s 0 {shlex.quote(stem)}.zip --out {shlex.quote(stem)}_joined.zip"
    remedy = f"Get all its parts and join them: `{command}`"
    return ArchiveError(label, "it is one part of a zip in several parts", remedy, "multi_part")


def _no_end(source: Source, label: str, first: int, last: int) -> ArchiveError:
    """Why there is no end record."""
    head = bytes(read_at(source, first, min(max(last - first, 0), 64)))
    if label.lower().endswith(UNFINISHED):
        remedy = "Let it finish or download it again"
        return ArchiveError(label, "its download is not finished", remedy, "half_download")
    if head.startswith(LFS_POINTER):
        code = "lfs_pointer"
        return ArchiveError(label, PROBLEMS[code], REMEDIES[code], code)
    if PART.search(label) or head.startswith((b"PK\7\x08PK\3\4", b"PK00PK\3\4")):
        return one_part(label)
    if not head:
        return ArchiveError(label, "it is empty", AGAIN)
    if head.startswith(b"PK\3\4"):
        return ArchiveError(label, "it is truncated: the directory at its end is missing", AGAIN)
    if not head.strip(b"\0"):
        return ArchiveError(label, "it starts with zeros and has no directory: its download is not finished", AGAIN)
    for start, what in _OTHER_FORMATS.items():
        if head.lstrip(b"\xef\xbb\xbf \r\n\t").startswith(start):
            remedy = f"{AGAIN}; the site sent a page instead" if start == b"<" else "Unpack it and give the folder"
            return ArchiveError(label, f"it is not a zip but {what}", remedy)
    return ArchiveError(label, "it is not a zip", AGAIN)
