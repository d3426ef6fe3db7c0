"""Bytes, wherever they are: random access to a file, pieces, inflating, and the check of what came out.

Other modules use `CHUNK`, `WRAP`, `crc32` and `preadv` through this module, so that they have one value everywhere.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import zlib
from collections.abc import Iterable, Iterator
from typing import Protocol

from conversion.archives.model import DamagedEntry, MiB, crc_mismatch

try:  # several times as fast as zlib, for both
    from deflate import DeflateError, crc32, deflate_decompress
except ImportError:
    from zlib import crc32  # type: ignore[assignment]

    deflate_decompress = None  # type: ignore[assignment]

CHUNK = 1 * MiB  # of a stream; blocks of 0.5 to 1 MB are the fastest to copy
WRAP = 1 << 32  # fields of 32 bits, and so offsets and sizes of a zip without zip64, are modulo this
DEFLATE_RATIO = 1032  # the most that deflate can expand: 258 bytes from two bits (zlib's technical notes)


class Source(Protocol):
    """Random access to the bytes that an archive's offsets point into."""

    def into(self, view: memoryview, offset: int) -> int:
        """Fill the view from `offset` and return the number of bytes; fewer only at the end."""

    def close(self) -> None: ...


class File:
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
        filled = preadv(self.fd, (view,), offset)
        while filled < len(view):
            count = preadv(self.fd, (view[filled:],), offset + filled)
            if not count:
                break
            filled += count
        return filled

    def close(self) -> None:
        fd, self.fd = self.fd, -1
        if fd >= 0:
            os.close(fd)


def _preadv_by_pread(fd: int, views: tuple[memoryview], offset: int) -> int:
    data = os.pread(fd, len(views[0]), offset)
    views[0][: len(data)] = data
    return len(data)


preadv = getattr(os, "preadv", _preadv_by_pread)  # macOS before 11 has only pread


def read_at(source: Source, offset: int, length: int) -> bytearray:
    """Up to `length` bytes; fewer only where the source ends."""
    data = bytearray(length)
    filled = source.into(memoryview(data), offset)
    del data[filled:]
    return data


def read_pieces(source: Source, offset: int, length: int) -> Iterator[bytes]:
    """`length` bytes in chunks of at most CHUNK. Raises DamagedEntry where the source ends before."""
    while length:
        data = bytes(read_at(source, offset, min(length, CHUNK)))
        if not data:
            raise DamagedEntry("truncated", f"the file ends {length} bytes before this entry does")
        yield data
        offset, length = offset + len(data), length - len(data)


def inflated(pieces: Iterable[bytes], size: int, limit: int | None = None) -> Iterator[bytes]:
    """Inflate to exactly `size` bytes, in chunks of at most CHUNK.

    With a `limit` the size is known modulo 2**32 only: it may be any such one up to the limit.
    """
    most = size if limit is None or limit < size % WRAP + WRAP else limit
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
            if total > most:
                raise DamagedEntry("size_mismatch", f"it inflates to more than the stated {size} bytes")
            if data:
                yield data
            more = bool(piece) or len(data) == CHUNK  # a full chunk: the engine may hold more
        if engine.eof:
            break
    if not engine.eof:
        raise DamagedEntry("inflate_error", "the compressed data ends early")
    if total != size and (most == size or (total - size) % WRAP):
        raise DamagedEntry("size_mismatch", f"it inflates to {total} bytes, {size} are stated")


def largest_inflated(packed: int) -> int:
    """The most bytes that so many deflated ones can become."""
    return packed * DEFLATE_RATIO + DEFLATE_RATIO


def checked(chunks: Iterable[bytes], crc: int | None) -> Iterator[bytes]:
    """The chunks; the last one only after the CRC32 of all of them has proved right."""
    actual, last = 0, b""
    for chunk in chunks:
        if last:
            yield last
        actual, last = crc32(chunk, actual), chunk
    if actual != crc:
        raise crc_mismatch(actual, crc)
    yield last


def inflate(data: memoryview, size: int) -> memoryview:
    """Inflate to exactly `size` bytes."""
    if size > largest_inflated(len(data)):
        raise DamagedEntry("size_mismatch", f"{len(data)} bytes cannot inflate to the stated {size}")
    if deflate_decompress is not None and size:  # it takes a size of 0 as "nothing to do" and checks nothing
        with contextlib.suppress(DeflateError):
            result = deflate_decompress(data, size)
            if len(result) == size:
                return memoryview(result)
    # zlib, which says what is wrong. In pieces, because it copies what it has not used of each.
    pieces = (bytes(data[start : start + CHUNK]) for start in range(0, len(data), CHUNK))
    return memoryview(b"".join(inflated(pieces, size)))
