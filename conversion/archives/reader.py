"""Reads the entries of an archive or folder, each checked by its header, length and CRC32."""

from __future__ import annotations

import contextlib
import io
import os
from collections.abc import Iterator
from typing import Any, BinaryIO, cast

from conversion.archives import sources
from conversion.archives.headers import ENCRYPTED, LOCAL, LOCAL_SIGNATURE, check_header, check_stored, data_chunks
from conversion.archives.inner import open_source
from conversion.archives.model import (
    DEFLATED,
    Archive,
    DamagedEntry,
    Entry,
    MiB,
    crc_mismatch,
    read_error,
    unreadable,
)
from conversion.archives.sources import File, Source, checked, inflate, read_pieces
from conversion.errors import MMMRSError

LARGEST_ENTRY = 256 * MiB  # read whole; above what any image that Pillow opens takes
KEPT_BUFFER = 16 * MiB  # a larger scratch buffer is not kept for the next read


class Reader:
    """Reads entries of one archive, in any order; fastest in the order of their offsets.

    One thread at a time uses a reader; several readers of one archive can work side by side. A deflated inner zip is
    inflated forward, and again from its start for an entry that lies before the last one: use `extracted` for such.
    """

    def __init__(self, archive: Archive) -> None:
        self.archive = archive
        self._source: Source | None = None
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

    def read(self, entry: Entry) -> tuple[memoryview, int]:
        """The bytes of one entry, valid until the next read, and their CRC32.

        Raises DamagedEntry; ArchiveError where the archive itself is gone.
        """
        packed, size = entry.packed, entry.size
        if packed > LARGEST_ENTRY or size > LARGEST_ENTRY:
            raise DamagedEntry("too_large", f"it takes {max(size, packed)} bytes, over the limit of {LARGEST_ENTRY}")
        data = self._read_file(entry) if self.archive.kind == "folder" else self._read_zipped(entry)
        crc = sources.crc32(data)
        if crc != entry.crc and entry.crc is not None:
            raise crc_mismatch(crc, entry.crc)
        return data, crc

    def stream(self, entry: Entry) -> BinaryIO:
        """One entry as a readable file, in bounded memory; it has a file descriptor of its own and outlives the reader.

        Reading raises DamagedEntry as soon as damage shows, a wrong CRC32 before the last bytes are given out.
        """
        chunks = self._file_chunks if self.archive.kind == "folder" else self._zipped_chunks
        return io.BufferedReader(_Stream(chunks(entry), self.archive.label), sources.CHUNK)

    def _read_zipped(self, entry: Entry) -> memoryview:
        packed = entry.packed
        view, buffer = self._room(self._slack + packed)
        try:
            filled = (self._source or self._open()).into(view, entry.offset)
            if filled < LOCAL.size:
                raise DamagedEntry("truncated", "the file ends before this entry")
            signature, _, flags, method, _, _, crc, header_packed, header_size, name_length, extra_length = (
                LOCAL.unpack_from(buffer)
            )
            begin = LOCAL.size + name_length + extra_length
            if signature != LOCAL_SIGNATURE:
                raise DamagedEntry("bad_local_header", "there is no entry where the directory says")
            if begin + packed > len(view):  # a header longer than any before: read again with room for it
                self._slack = begin + 64
                view, buffer = self._room(self._slack + packed)
                filled = cast(Source, self._source).into(view, entry.offset)
        except OSError as error:
            raise read_error(self.archive.label, error) from None
        end = begin + packed
        if end > filled:
            if begin <= filled:  # the header is there: what it says comes first
                check_header(buffer, entry)
            raise DamagedEntry("truncated", f"the file ends {end - filled} bytes before this entry does")
        # The usual header is compared here, in a microsecond; `check_header` knows the unusual ones and says what is
        # wrong.
        name = entry.name.encode()
        if not (
            crc == entry.crc
            and header_packed == packed
            and header_size == entry.size
            and method == entry.method
            and not flags & ENCRYPTED
            and buffer.endswith(name, LOCAL.size, LOCAL.size + name_length)
            and (name_length == len(name) or not name or buffer[LOCAL.size + name_length - len(name) - 1] in b"/\\")
        ):
            check_header(buffer, entry)
        data = view[begin:end]
        if entry.method == DEFLATED:
            return inflate(data, entry.size)
        check_stored(entry)
        return data

    def _zipped_chunks(self, entry: Entry) -> Iterator[bytes]:
        try:
            source = open_source(self.archive)
        except OSError as error:
            raise unreadable(self.archive.label, error) from None
        with contextlib.closing(source):
            yield from data_chunks(source, entry)

    def _open(self) -> Source:
        try:
            self._source = open_source(self.archive)
        except OSError as error:
            raise unreadable(self.archive.label, error) from None
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

    def _opened_file(self, entry: Entry) -> File:
        if self._root < 0:
            try:
                self._root = os.open(self.archive.path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            except OSError as error:
                raise unreadable(self.archive.label, error) from None
        try:
            return File(cast(bytes, entry.file), self._root, follow=False)
        except FileNotFoundError:
            raise DamagedEntry("missing_file", "the file is gone since it was planned") from None
        except OSError as error:
            raise read_error(self.archive.label, error) from None

    def _read_file(self, entry: Entry) -> memoryview:
        size = entry.size
        view, _ = self._room(size + 1)  # one more: to notice a file that has grown
        with contextlib.closing(self._opened_file(entry)) as source:
            try:
                filled = sources.preadv(source.fd, (view,), 0)
                if filled < size:
                    filled = source.into(view, 0)
            except OSError as error:
                raise read_error(self.archive.label, error) from None
        if filled != size:
            raise _changed(size)
        return view[:size]

    def _file_chunks(self, entry: Entry) -> Iterator[bytes]:
        with contextlib.closing(self._opened_file(entry)) as source:
            if source.size != entry.size:
                raise _changed(entry.size)
            pieces = read_pieces(source, 0, entry.size)
            yield from pieces if entry.crc is None else checked(pieces, entry.crc)


class _Stream(io.RawIOBase):
    """Chunks as a file. Once damage has shown, every further read says so: it must never look like the end."""

    def __init__(self, chunks: Iterator[bytes], label: str) -> None:
        self._chunks, self._label = chunks, label
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
            self._error = read_error(self._label, error)
        except MMMRSError as error:
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


def _changed(size: int) -> DamagedEntry:
    return DamagedEntry("size_mismatch", f"the file has changed since it was planned: it is not {size} bytes long")
