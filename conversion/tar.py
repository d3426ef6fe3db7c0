"""A tar in plain USTAR with fixed metadata, written so that little is left between the source's bytes and the disk."""

from __future__ import annotations

import hashlib

from conversion import names
from conversion.disk import begin_writeback, write_all
from conversion.sharding import BLOCK

GATHER = 1 << 20  # bytes hashed and written at a time; blocks of 0.5 to 1 MB are the fastest
AHEAD = 1 << 22  # bytes after which the disk is set to work, so that the sync of a shard at its end has little to do

_ZEROS = bytes(BLOCK)

# A USTAR header with everything fixed but name, size and checksum: mode 0644, no owner, mtime 0, a regular file.
_HEAD = b"0000644\0" + b"0000000\0" * 2
_MIDDLE = b"00000000000\0"
_TAIL = b"0" + bytes(100) + b"ustar\x0000" + bytes(64) + b"0000000\0" * 2
_FIXED_SUM = sum(_HEAD) + sum(_MIDDLE) + sum(_TAIL) + 8 * ord(" ")  # the checksum counts itself as eight spaces


def header(name: str, size: int) -> bytes:
    """The 512 bytes before a member of `size` bytes; equal to what `tarfile` writes for format USTAR."""
    raw = name.encode("ascii")
    prefix = b""
    if len(raw) > names.USTAR_NAME:
        slash = raw.rfind(b"/", 0, names.USTAR_PREFIX + 1)
        prefix, raw = raw[:slash], raw[slash + 1 :]
    digits = b"%011o\0" % size
    checksum = _FIXED_SUM + sum(raw) + sum(prefix) + sum(digits)
    return b"%b%b%b%b%06o\0 %b%b%b" % (
        raw.ljust(100, b"\0"),
        _HEAD,
        digits,
        _MIDDLE,
        checksum,
        _TAIL,
        prefix.ljust(155, b"\0"),
        bytes(12),
    )


class Tar:
    """The file being written: its sha256, its length, and what is gathered to be written together.

    Copying an image once more takes less than a system call for each and, where the workers are threads, a turn of the
    interpreter's lock: one thread hashes and writes a megabyte, and meanwhile another has the interpreter.
    """

    def __init__(self, fd: int) -> None:
        self.fd, self.sha256 = fd, hashlib.sha256()
        self.size = 0  # bytes, with those that are gathered
        self.gathered, self.filled = memoryview(bytearray(GATHER)), 0
        self.since = 0  # bytes written since the disk was set to work

    def add(self, name: str, data: bytes | memoryview) -> int:
        """Returns the offset of the data in the tar, bytes."""
        size = len(data)
        padding = -size % BLOCK
        whole = BLOCK + size + padding
        offset = self.size + BLOCK
        self.size += whole
        if self.filled + whole > GATHER:
            self._flush()
        if whole > GATHER:
            for piece in (header(name, size), data, _ZEROS[:padding]):
                self._write(piece)
            return offset
        gathered, begin = self.gathered, self.filled + BLOCK
        self.filled += whole
        gathered[begin - BLOCK : begin] = header(name, size)
        gathered[begin : begin + size] = data
        gathered[begin + size : self.filled] = _ZEROS[:padding]
        return offset

    def close(self) -> None:
        self._flush()
        self._write(bytes(2 * BLOCK))
        self.size += 2 * BLOCK

    def _flush(self) -> None:
        self._write(self.gathered[: self.filled])
        self.filled = 0

    def _write(self, piece: bytes | memoryview) -> None:
        self.sha256.update(piece)
        write_all(self.fd, piece)
        self.since += len(piece)
        if self.since >= AHEAD:
            begin_writeback(self.fd)
            self.since = 0
