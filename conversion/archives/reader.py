"""Reads the entries of an archive or folder, each checked by its header, length and CRC32."""

from __future__ import annotations

import contextlib
import io
import os
from collections.abc import Callable, Iterator
from typing import Any, BinaryIO, cast

from conversion.archives import sources
from conversion.archives.headers import LOCAL, LOCAL_SIGNATURE, check_header, data_offset
from conversion.archives.inner import open_source
from conversion.archives.model import DEFLATED, STORED, Archive, DamagedEntry, MiB, crc_mismatch, explain, unreadable
from conversion.archives.sources import File, Source, checked, inflate, inflated, read_pieces
from conversion.errors import ReleaseError

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
            found = sources.crc32(data)
            if crc is not None and found != crc:
                raise crc_mismatch(found, crc)
            return data, found
        view, buffer = self._room(self._slack + packed)
        try:
            got = (self._source or self._open()).into(view, offset)
            if got < LOCAL.size:
                raise DamagedEntry("truncated", "the file ends before this entry")
            signature, _, flags, its_method, _, _, its_crc, its_packed, its_size, n, m = LOCAL.unpack_from(buffer)
            begin = 30 + n + m
            if signature != LOCAL_SIGNATURE:
                raise DamagedEntry("bad_local_header", "there is no entry where the directory says")
            if begin + packed > len(view):  # a header longer than any before: read again with room for it
                self._slack = begin + 64
                view, buffer = self._room(self._slack + packed)
                got = cast(Source, self._source).into(view, offset)
        except OSError as error:
            raise DamagedEntry("read_error", f"it cannot be read ({error.strerror or error})") from None
        end = begin + packed
        if end > got:
            if begin <= got:  # the header is there: what it says comes first
                check_header(buffer, packed, size, cast(int, crc), method, name)
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
            check_header(buffer, packed, size, cast(int, crc), method, name)
        data = view[begin:end]
        if method == DEFLATED:
            data = inflate(data, size)
        elif method != STORED:
            raise DamagedEntry("bad_local_header", explain("unsupported_compression", method))
        elif packed != size:
            raise DamagedEntry("size_mismatch", f"{packed} bytes are stored, {size} are stated")
        found = sources.crc32(data)
        if found != crc:
            raise crc_mismatch(found, cast(int, crc))
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
                source = open_source(self.archive)
            except OSError as error:
                raise unreadable(self.archive.label, error) from None
            with contextlib.closing(source):
                begin = data_offset(source, offset, packed, size, cast(int, crc), method, name)
                pieces = read_pieces(source, begin, packed)
                if method == DEFLATED:
                    pieces = inflated(pieces, size)
                elif method != STORED:
                    raise DamagedEntry("bad_local_header", explain("unsupported_compression", method))
                elif packed != size:
                    raise DamagedEntry("size_mismatch", f"{packed} bytes are stored, {size} are stated")
                yield from checked(pieces, cast(int, crc))

        return io.BufferedReader(_Stream(chunks), sources.CHUNK)

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

    def _opened_file(self, file: bytes) -> File:
        if self._root < 0:
            try:
                self._root = os.open(self.archive.path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            except OSError as error:
                raise unreadable(self.archive.label, error) from None
        try:
            return File(file, self._root, follow=False)
        except FileNotFoundError:
            raise DamagedEntry("missing_file", "the file is gone since it was planned") from None
        except OSError as error:
            raise DamagedEntry("read_error", f"it cannot be read ({error.strerror or error})") from None

    def _read_file(self, file: bytes, size: int) -> memoryview:
        view, _ = self._room(size + 1)  # one more: to notice a file that has grown
        with contextlib.closing(self._opened_file(file)) as source:
            try:
                got = sources.preadv(source.fd, (view,), 0)
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
            pieces = read_pieces(source, 0, size)
            yield from pieces if crc is None else checked(pieces, crc)


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


def _changed(size: int) -> DamagedEntry:
    return DamagedEntry("size_mismatch", f"the file has changed since it was planned: it is not {size} bytes long")
