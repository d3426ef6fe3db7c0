"""A cache of shards on a disk of the node, shared by its processes: what was fetched once is read from there.

How it works:
- One sparse file per shard, named by its key: an image stands at its place in the shard, the rest are holes.
- The key is the shard's sha256 if the hub itself says that the file has it, so that datasets and revisions share it. Of
  other servers it is a digest of the folder's address and the sha256 that the manifest claims.
- Whether an image is there, its CRC in the index says. A hole, a torn write and a flipped bit are all the same: the CRC
  is another, and the image is fetched. So nothing else has to be written down, and a killed process does no harm.
- Shards that are read from their beginning to their end are kept in blocks, whose CRCs stand in a second file. Such a
  CRC says only that a block is what came. What came is proven by the sha256 of the shard: a reader that comes to its
  end compares it with the manifest, in each epoch, and removes the whole shard if it is another.
- Who fetches holds a lock on these bytes of the file, so that two who want the same at once fetch it once.
- When the limit is near, the shards that were not used for longest are removed.
- When the disk does not take a write, nothing more is written: training goes on over the network.
"""

from __future__ import annotations

import contextlib
import errno
import importlib
import itertools
import math
import os
import re
import shutil
import stat
import struct
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import datasets

from mmm_rs import JOINED, ByteRanges, ForkSafeLock, crc32, in_one_line, read_joined

_fcntl: Any = None
with contextlib.suppress(ImportError):  # Windows
    _fcntl = importlib.import_module("fcntl")

BLOCK = 2 << 20  # bytes of a block of a shard that is read from its beginning to its end
WAIT = 60.0  # seconds that a reader waits for another one to fetch the same bytes, before it fetches them too
POLL = 0.01  # seconds between two looks whether the other one is done
USED = 60.0  # seconds after which the use of a shard is noted again
# Shares of the limit. A process counts what there is after each STEP that it has written: so a hundred that write at
# once stay below the limit, and what one of them removes is enough for some time.
FULL, EMPTIED, STEP = 0.95, 0.90, 0.0005
LEAST_STEP, MOST_STEP = 64 << 10, 64 << 20  # bytes

_NAME = re.compile(r"([0-9a-f]{64})\.(shard|sums)")
_CHECKSUM = struct.Struct("<II")  # of a block: its CRC, and the CRC's complement, so that a hole is not taken for one
_NO_FOLLOW = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0)

logger = datasets.utils.logging.get_logger(__name__)


@dataclass(frozen=True)
class Entry:
    """What the cache holds of one shard."""

    key: str  # of the shard, 64 hexadecimal digits
    size: int  # bytes on the disk
    used: float  # when it was last used, in seconds since the epoch
    paths: tuple[str, ...]


@dataclass(frozen=True)
class Cache:
    """A folder on a disk of the node. `limit`: bytes that it may take up; None for the whole disk."""

    folder: str
    limit: int | None = None

    def shard(self, key: str) -> CachedShard:
        """The cache of the shard of this key: 64 hexadecimal digits."""
        return CachedShard(self, os.path.join(self.folder, key[:2], key))

    def entries(self) -> list[Entry]:
        """What is in the cache, the longest unused first. Raises nothing: what cannot be read is not listed."""
        files: dict[str, list[os.DirEntry[str]]] = {}
        for folder in _scan(self.folder):
            if re.fullmatch("[0-9a-f]{2}", folder.name) and folder.is_dir(follow_symlinks=False):
                for file in _scan(folder.path):
                    if match := _NAME.fullmatch(file.name):
                        files.setdefault(match[1], []).append(file)
        entries = []
        for key, parts in files.items():
            with contextlib.suppress(OSError):  # another process removes it
                statuses = [part.stat(follow_symlinks=False) for part in parts]
                size, used = sum(map(_disk_size, statuses)), max(status.st_mtime for status in statuses)
                entries.append(Entry(key, size, used, tuple(part.path for part in parts)))
        return sorted(entries, key=lambda entry: entry.used)

    def remove(self, entries: Sequence[Entry]) -> int:
        """Remove shards from the cache. Whoever reads them meanwhile fetches them again. Returns the bytes freed."""
        freed = 0
        for entry in entries:
            with contextlib.suppress(OSError):
                for path in entry.paths:
                    os.unlink(path)
                freed += entry.size
        return freed

    @property
    def is_writable(self) -> bool:
        return self.folder not in _off

    def wrote(self, size: int) -> None:
        """So many bytes were written: remove shards if the limit is near."""
        if self.limit is None:
            return
        with _lock:
            step = max(LEAST_STEP, min(int(self.limit * STEP), MOST_STEP))
            _written[self.folder] = _written.get(self.folder, step) + size
            if _written[self.folder] < step:
                return
            _written[self.folder] = 0
        entries = self.entries()
        total = sum(entry.size for entry in entries)
        if total > self.limit * FULL:
            sums = itertools.accumulate(entry.size for entry in entries)
            self.remove(entries[: sum(total - freed > self.limit * EMPTIED for freed in sums) + 1])

    def turn_off(self, error: OSError) -> None:
        """The disk does not take what is written. Warns once."""
        with _lock:
            if self.folder in _off:
                return
            _off.add(self.folder)
        remedy = "Free some space, or set a cache_limit" if error.errno in _FULL_DISK else "Give another folder"
        logger.warning(
            f"local_cache {self.folder}: cannot be written: {error.strerror or in_one_line(error)}. Reading continues "
            f"over the network, and what the cache has is still used. {remedy}, then start again"
        )


_FULL_DISK = (errno.ENOSPC, errno.EDQUOT) if hasattr(errno, "EDQUOT") else (errno.ENOSPC,)
_lock = ForkSafeLock()
_off: set[str] = set()  # folders that this process does not write to any more
_written: dict[str, int] = {}  # bytes that this process wrote into a folder since it last counted what is there


class CachedShard:
    """What the cache has of one shard. Threads and processes may use it together."""

    def __init__(self, cache: Cache, path: str) -> None:
        self._cache, self._path, self._sums = cache, f"{path}.shard", f"{path}.sums"
        self._noted = -math.inf  # when its use was noted last, on the clock of time.monotonic

    def fill(
        self,
        ranges: ByteRanges,
        first: int,
        last: int,
        fetch: Callable[[int, int], dict[int, str]],
        place: Callable[[], CachedShard | None],
        is_stopped: Callable[[], bool],
    ) -> dict[int, str]:
        """Read the ranges from `first` to `last` (exclusive) into their buffers. Returns what is wrong with which.

        `fetch`: reads some of them over the network. `place`: where that is kept; None for nowhere.
        """
        missing = self._read(ranges, list(range(first, last)))
        if not missing:
            return {}
        stop = ranges.offsets[missing[-1]] + ranges.sizes[missing[-1]]
        with self._locked(ranges.offsets[missing[0]], stop, is_stopped) as fd:
            if fd is not None:  # another one may have fetched them meanwhile
                missing = self._read(ranges, missing)
            wrong: dict[int, str] = {}
            for begin, end in _runs(missing):
                wrong |= fetch(begin, end)
            if fd is not None and (kept := place()) is not None:
                came = [number for number in missing if number not in wrong]
                damaged = set(_damaged(ranges, came))
                parts = [(ranges.offsets[number], ranges.targets[number]) for number in came if number not in damaged]
                if kept._path == self._path:
                    self._write(fd, parts)
                else:
                    kept._keep(kept._path, parts)
        return wrong

    def block(
        self,
        start: int,
        stop: int,
        fetch: Callable[[], bytes | memoryview],
        place: Callable[[], CachedShard | None],
        is_stopped: Callable[[], bool],
    ) -> bytes | memoryview:
        """The bytes from `start`, a multiple of BLOCK, to `stop`."""
        data = self._read_block(start, stop)
        if data is not None:
            return data
        with self._locked(start, stop, is_stopped) as fd:
            data = self._read_block(start, stop) if fd is not None else None
            if data is not None:
                return data
            fetched = fetch()
            if fd is not None and len(fetched) == stop - start and (kept := place()) is not None:
                parts = [(start, memoryview(fetched))]
                if kept._path == self._path:
                    self._write(fd, parts)
                else:
                    kept._keep(kept._path, parts)
                checksum = crc32(fetched)
                entry = memoryview(_CHECKSUM.pack(checksum, checksum ^ 0xFFFFFFFF))
                kept._keep(kept._sums, [(start // BLOCK * _CHECKSUM.size, entry)])
            return fetched

    def exists(self) -> bool:
        try:
            return os.stat(self._path, follow_symlinks=False).st_size > 0
        except OSError:
            return False

    def remove(self) -> None:
        for path in (self._path, self._sums):
            with contextlib.suppress(OSError):
                os.unlink(path)

    def _read(self, ranges: ByteRanges, numbers: list[int]) -> list[int]:
        """Read ranges from the file. Returns those that are not there."""
        try:
            fd = os.open(self._path, os.O_RDONLY | _NO_FOLLOW)
        except OSError:
            return numbers
        try:
            self._note_use(fd)
            absent: list[int] = []
            for first, last in _runs(numbers):
                for begin in range(first, last, JOINED or last):
                    end = min(begin + JOINED, last) if JOINED else last
                    absent += _wrong(ranges, begin, end, _read_some(fd, ranges, begin, end))
            return absent
        except OSError:
            return numbers
        finally:
            os.close(fd)

    def _read_block(self, start: int, stop: int) -> bytes | None:
        place = start // BLOCK * _CHECKSUM.size
        try:
            with open(self._sums, "rb") as sums, open(self._path, "rb", buffering=0) as file:
                self._note_use(file.fileno())
                sums.seek(place)
                checksum, complement = _CHECKSUM.unpack(sums.read(_CHECKSUM.size))
                file.seek(start)
                data = file.read(stop - start)
        except (OSError, struct.error):
            return None
        right = len(data) == stop - start and checksum ^ complement == 0xFFFFFFFF and crc32(data) == checksum
        return data if right else None

    def _note_use(self, fd: int) -> None:
        if self._noted > time.monotonic() - USED:
            return
        self._noted = time.monotonic()
        if os.fstat(fd).st_mtime < time.time() - USED:
            with contextlib.suppress(OSError):
                os.utime(self._path)

    def _keep(self, path: str, parts: Sequence[tuple[int, memoryview]]) -> None:
        with self._opened(path) as fd:
            if fd is not None:
                self._write(fd, parts)

    def _write(self, fd: int, parts: Sequence[tuple[int, memoryview]]) -> None:
        try:
            for offset, data in parts:
                _write_at(fd, offset, data)
        except OSError as error:
            self._cache.turn_off(error)
        self._cache.wrote(sum(len(data) for _, data in parts))

    @contextlib.contextmanager
    def _opened(self, path: str) -> Iterator[int | None]:
        """A file to write to; None if that is not possible."""
        fd = None
        if self._cache.is_writable:
            try:
                for folder in (self._cache.folder, os.path.dirname(path)):
                    os.makedirs(folder, 0o700, exist_ok=True)
                fd = os.open(path, os.O_RDWR | os.O_CREAT | _NO_FOLLOW, 0o600)
                if not stat.S_ISREG(os.fstat(fd).st_mode):
                    raise OSError(errno.EINVAL, "Not a regular file")
            except OSError as error:
                self._cache.turn_off(error)
        try:
            yield fd
        finally:
            if fd is not None:
                os.close(fd)

    @contextlib.contextmanager
    def _locked(self, start: int, stop: int, is_stopped: Callable[[], bool]) -> Iterator[int | None]:
        """The file to write to, while nobody else fetches these bytes of it, or waiting for that has taken too long."""
        with self._opened(self._path) as fd:
            held, until = False, time.monotonic() + WAIT
            try:
                while fd is not None and not (held := _try_lock(fd, start, stop)):
                    if time.monotonic() > until or is_stopped():
                        break
                    time.sleep(POLL)
                yield fd
            finally:
                if held and fd is not None:  # closing it would not do, while a forked child has it open too
                    _unlock(fd, start, stop)


def parse_limit(limit: int | str | None, name: str = "cache_limit") -> int | None:
    """A number of bytes, or a text such as "200GB", in bytes. Raises ValueError for anything else."""
    if limit is None or limit == "":
        return None
    match = re.fullmatch(r"(\d{1,15}(?:\.\d+)?) ?([kKMGT]?)(i?)[bB]?", str(limit).strip())
    if isinstance(limit, bool) or match is None:
        raise ValueError(f'{name}={limit!r}: not a size. Give one such as "200GB"')
    return int(float(match[1]) * (1024 if match[3] else 1000) ** " KMGT".index(match[2].upper() or " "))


def open_cache(folder: str | os.PathLike[str] | None, limit: int | str | None) -> Cache | None:
    """The cache in a folder; without one that of the environment (MMM_RS_CACHE, MMM_RS_CACHE_LIMIT), or none.

    Raises ValueError for a limit that is not a size, or without a folder, and for a folder of another machine.
    """
    folder = os.fspath(folder) if folder is not None else os.environ.get("MMM_RS_CACHE")
    if folder and "://" in folder:
        raise ValueError(f"local_cache={folder!r}: give a folder on a disk of this machine")
    if limit is None:
        size = parse_limit(os.environ.get("MMM_RS_CACHE_LIMIT"), "MMM_RS_CACHE_LIMIT")
    else:
        size = parse_limit(limit)
        if not folder:
            raise ValueError(f"cache_limit={limit!r}: there is no cache to limit. Give its folder as local_cache")
    return Cache(os.path.abspath(os.path.expanduser(folder)), size) if folder else None


def free_space(folder: str) -> int | None:
    """Bytes that the disk of a folder has left; None if there is no such folder."""
    try:
        return shutil.disk_usage(folder).free
    except OSError:
        return None


def _scan(folder: str) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return list(entries)
    except OSError:
        return []


def _disk_size(status: os.stat_result) -> int:
    """Bytes on the disk, without a file's holes."""
    return status.st_blocks * 512 if hasattr(status, "st_blocks") else status.st_size


def _damaged(ranges: ByteRanges, numbers: Iterable[int]) -> list[int]:
    """Which of some ranges are not what their CRCs say; all of them if there are no CRCs."""
    crcs = ranges.crcs
    return [number for number in numbers if crcs is None or crc32(ranges.targets[number]) != crcs[number]]


def _wrong(ranges: ByteRanges, first: int, last: int, stop: int) -> list[int]:
    """Which of some ranges have not come, if bytes came up to `stop`, or are damaged."""
    whole = last
    while whole > first and ranges.offsets[whole - 1] + ranges.sizes[whole - 1] > stop:
        whole -= 1
    return [*_damaged(ranges, range(first, whole)), *range(whole, last)]


def _runs(numbers: Sequence[int]) -> Iterator[tuple[int, int]]:
    """(first, last + 1) of numbers that follow one another."""
    if numbers and numbers[-1] - numbers[0] == len(numbers) - 1:  # they ascend, so all of them do
        yield numbers[0], numbers[-1] + 1
        return
    for _, run in itertools.groupby(enumerate(numbers), key=lambda pair: pair[1] - pair[0]):
        members = [number for _, number in run]
        yield members[0], members[-1] + 1


def _read_some(fd: int, ranges: ByteRanges, first: int, last: int) -> int:
    """As `mmm_rs.read_joined`, also on Windows."""
    if JOINED:
        return read_joined(fd, ranges, first, last)
    with open(fd, "rb", buffering=0, closefd=False) as file:
        for number in range(first, last):
            file.seek(ranges.offsets[number])
            if file.readinto(ranges.targets[number]) != ranges.sizes[number]:
                return ranges.offsets[number]
    return ranges.offsets[last - 1] + ranges.sizes[last - 1]


def _write_at(fd: int, offset: int, data: memoryview) -> None:
    while data:
        if hasattr(os, "pwrite"):
            count = os.pwrite(fd, data, offset)
        else:
            os.lseek(fd, offset, os.SEEK_SET)
            count = os.write(fd, data)
        data, offset = data[count:], offset + count


# Locks of Linux belong to an open file, not to a process: threads that have opened it by themselves exclude one another
# too. Elsewhere a lock is the process's, and two of its threads may both fetch the same bytes.
_LINUX_LOCK = getattr(_fcntl, "F_OFD_SETLK", None) if sys.platform == "linux" else None
_FLOCK = struct.Struct("hhqqi4x")  # type, whence, start, length, process


def _try_lock(fd: int, start: int, stop: int) -> bool:
    """Lock some bytes of a file; False if somebody else holds a lock on one of them."""
    try:
        if _LINUX_LOCK is not None:
            _fcntl.fcntl(fd, _LINUX_LOCK, _FLOCK.pack(_fcntl.F_WRLCK, os.SEEK_SET, start, stop - start, 0))
        elif _fcntl is not None:
            _fcntl.lockf(fd, _fcntl.LOCK_EX | _fcntl.LOCK_NB, stop - start, start)
    except OSError as error:
        return error.errno not in (errno.EAGAIN, errno.EACCES)  # other errors: this file system has no locks
    return True


def _unlock(fd: int, start: int, stop: int) -> None:
    with contextlib.suppress(OSError):
        if _LINUX_LOCK is not None:
            _fcntl.fcntl(fd, _LINUX_LOCK, _FLOCK.pack(_fcntl.F_UNLCK, os.SEEK_SET, start, stop - start, 0))
        elif _fcntl is not None:
            _fcntl.lockf(fd, _fcntl.LOCK_UN, stop - start, start)
