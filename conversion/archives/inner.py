"""Archives within archives: stored ones are read in place, deflated ones are inflated forward or to a file."""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections import deque
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa

from conversion.archives import sources
from conversion.archives.headers import data_offset
from conversion.archives.model import (
    AGAIN,
    STORED,
    Archive,
    ArchiveError,
    DamagedEntry,
    Entry,
    MiB,
    explain,
    unreadable,
)
from conversion.archives.sources import File, Source, inflated, read_pieces
from conversion.errors import OutputError

TAIL = 192 * MiB  # what is kept of a deflated inner zip while looking for its directory: two million entries


class Inflating:
    """A deflated inner zip, inflated forward. A read that begins before the last one starts over from the first byte.

    Raises DamagedEntry and OSError. The CRC32 of the whole is not checked here: each entry has its own, and one damaged
    image must not cost the others.
    """

    def __init__(self, path: str, entry: Entry) -> None:
        self.entry, self.file = entry, File(path)
        self.begin()

    def begin(self) -> None:
        self.window, self.start = bytearray(), 0  # `start`: where the window begins in the inner zip
        self.chunks = inner_chunks(self.file, self.entry)

    def into(self, view: memoryview, offset: int) -> int:
        if offset < self.start:
            self.begin()
        end = offset + len(view)
        while self.start + len(self.window) < end:
            chunk = next(self.chunks, None)
            if chunk is None:
                break
            self.window += chunk
            past = min(offset - self.start, len(self.window))
            # A megabyte is kept: the next entry's header was read as the slack of this one.
            if past > 2 * sources.CHUNK:
                del self.window[: past - sources.CHUNK]
                self.start += past - sources.CHUNK
        first = offset - self.start
        data = memoryview(self.window)[first : first + len(view)]
        view[: len(data)] = data
        return len(data)

    def close(self) -> None:
        self.file.close()


class Tail:
    """The last bytes of a deflated inner zip."""

    def __init__(self, archive: Archive) -> None:
        assert archive.inside
        self.head = b""
        kept: deque[bytes] = deque()
        kept_bytes = total = self.crc = 0
        with contextlib.closing(File(archive.path)) as file:
            for chunk in inner_chunks(file, archive.inside):
                if not total:
                    self.head = chunk[:64]
                kept.append(chunk)
                kept_bytes, total = kept_bytes + len(chunk), total + len(chunk)
                self.crc = sources.crc32(chunk, self.crc)
                while kept_bytes - len(kept[0]) >= TAIL:
                    kept_bytes -= len(kept.popleft())
        self.size, self.label = total, archive.label
        self.start, self.data = total - kept_bytes, b"".join(kept)

    def into(self, view: memoryview, offset: int) -> int:
        if offset < self.start:
            if not offset and len(view) <= len(self.head):
                view[:] = self.head[: len(view)]
                return len(view)
            raise ArchiveError(
                self.label,
                f"its directory is larger than {TAIL // MiB} MiB, the most that is read inside a compressed zip",
                "Unzip the outer zip first",
            )
        data = self.data[offset - self.start : offset - self.start + len(view)]
        view[: len(data)] = data
        return len(data)

    def close(self) -> None:
        self.data = b""


def open_source(archive: Archive) -> Source:
    return Inflating(archive.path, archive.inside) if archive.inside else File(archive.path)


def inner_chunks(source: Source, entry: Entry) -> Iterator[bytes]:
    """The bytes of the inner zip that is this deflated entry of the zip in `source`. Its CRC32 is not checked.

    Where it is so large that a zip without zip64 states its size modulo 2**32, it may be up to twice what is packed.
    """
    pieces = read_pieces(source, data_offset(source, entry), entry.packed)
    return inflated(pieces, entry.size, 2 * entry.packed if entry.packed >= sources.WRAP else None)


def inner_archive(archive: Archive, entries: pa.Table, row: int) -> Archive:
    """The zip that is entry number `row` of an archive.

    Raises ArchiveError where its header is damaged, or where it lies in a compressed inner zip.
    """
    (fields,) = entries.slice(row, 1).to_pylist()
    label = f"{archive.label}/{fields['name']}"
    if archive.kind == "folder":
        return Archive(os.path.join(archive.path, os.fsdecode(fields["file"])), label, "zip")
    if archive.inside:
        raise ArchiveError(label, "it is a zip within a compressed zip within a zip", "Unzip the outer zip first")
    if fields["problem"]:
        raise ArchiveError(label, explain(fields["problem"], fields["method"]), "Unzip the outer zip first")
    entry = Entry.of(fields)
    if entry.method != STORED:
        return Archive(archive.path, label, "zip", inside=entry)
    try:
        with contextlib.closing(File(archive.path)) as source:
            begin = data_offset(source, entry)
    except DamagedEntry as error:
        raise ArchiveError(label, error.detail, "Download the outer zip again") from None
    except OSError as error:
        raise unreadable(label, error) from None
    return Archive(archive.path, label, "zip", start=begin, length=entry.size)


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
            source = File(archive.path)
        except OSError as error:
            raise unreadable(archive.label, error) from None
        try:
            with contextlib.closing(source), open(path, "wb", buffering=0) as sink:
                for chunk in inner_chunks(source, archive.inside):
                    rest = memoryview(chunk)
                    while rest:
                        rest = rest[sink.write(rest) :]
                size = sink.tell()
        except DamagedEntry as error:
            raise ArchiveError(archive.label, f"it cannot be inflated ({error.detail})", AGAIN) from None
        except OSError as error:
            raise OutputError(
                f"{path}: cannot be written: {error.strerror or error}. Free disk space or fix the "
                "folder's permissions, then run the same command again"
            ) from None
        yield Archive(str(path), archive.label, "zip", length=size)
    finally:
        path.unlink(missing_ok=True)
