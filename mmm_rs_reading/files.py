"""The files of a remote folder for `mmm_rs`: every answer checked, requests tried again, what comes next read ahead."""

from __future__ import annotations

import contextlib
import io
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from functools import partial
from typing import Any, BinaryIO

import urllib3

from mmm_rs import BATCH_BYTES, ByteRanges, ForkSafeLock, Item, ReadError, Result, in_one_line, scatter, without_login
from mmm_rs_reading import retries
from mmm_rs_reading.ahead import Workers, in_advance
from mmm_rs_reading.cache import BLOCK, Cache, CachedShard
from mmm_rs_reading.transports import Transport

# Bytes of one request at most, and requests at once in a process. A line with a slow answer is filled by many requests;
# at 60 ms and 20 MB/s per connection, 10 of 2 MB fill 1 Gb/s. Slower connections and scattered images need the others.
SPAN = BLOCK  # 2 MiB
# Of a table's images, though: they and the texts between them are one request while the texts are an eighth at most.
TABLE_SPAN = BATCH_BYTES + (BATCH_BYTES >> 3)
REQUESTS = 32
# Bytes of images that are read ahead in a process: what 1 Gb/s carries in 0.4 s. Streams that are read in
# turn share it, `shuffle` of `datasets` 5 alone has ten; each gets LEAST_AHEAD.
READ_AHEAD = 48 << 20
LEAST_AHEAD = 2 << 20
STREAM_AHEAD = 16  # spans of a file that is read from its beginning to its end
SEGMENTS_AHEAD = 4  # coming segments whose index rows are read ahead
# Tables in a row that came from the cache whole, after which tables are read as from a disk: when they are needed, by
# the thread that needs them. Handing them to threads takes longer than reading them.
SETTLED = 8
# Seconds after which a server that has never answered is given up, if it refuses connections or nobody knows its name.
FIRST_CONTACT = 2.0

_requests = Workers(REQUESTS, "mmm_rs_reading: bytes")
_planners = Workers(SEGMENTS_AHEAD + 1, "mmm_rs_reading: index")


class _Short(Exception):
    """Fewer bytes came than were asked for."""


_FINAL = (FileNotFoundError, PermissionError, IsADirectoryError, ReadError)  # another try would not change them


class RemoteFiles:
    """See `mmm_rs.Files` for the methods."""

    remote = True

    def __init__(self, transport: Transport, read_ahead: int | None = None, cache: Cache | None = None) -> None:
        self.transport, self._room = transport, READ_AHEAD if read_ahead is None else read_ahead
        self.cache = cache
        self._from_cache = 0  # tables in a row
        self._latest: tuple[str, CachedShard | None] = "", None  # the shard that was read last, and its cache
        self._shards: Mapping[str, Mapping[str, Any]] = {}  # what the manifest says of those that the cache may hold

    def __reduce__(self) -> Any:
        return RemoteFiles, (self.transport, self._room, self.cache)

    def __str__(self) -> str:
        return str(self.transport)

    @contextlib.contextmanager
    def read_ahead(self) -> Iterator[Callable[[], int]]:
        with _streams.one_more():
            yield lambda: max(self._room // _streams.count, min(LEAST_AHEAD, self._room)) if self.ahead else 0

    @property
    def ahead(self) -> bool:
        return self._from_cache < SETTLED

    def note(self, is_from_cache: bool) -> None:
        """Take note of whether a table came from the cache whole."""
        self._from_cache = self._from_cache + 1 if is_from_cache else 0

    def expect(self, shards: Mapping[str, Mapping[str, Any]]) -> None:
        self._shards = shards if self.cache is not None else {}

    def read(self, name: str) -> bytes:
        return bytes(self._try(name, lambda: self.transport.fetch(name, 0, None).data))

    def size(self, name: str) -> int | None:
        if name in self._shards:  # what is in the cache needs no request
            return self.transport.known_size(name) or self._shards[name]["bytes"]
        return self._try(name, lambda: self.transport.size(name))

    def ranges(self, name: str, ranges: Sequence[tuple[int, int]]) -> list[bytes | memoryview]:
        others = [_requests.submit(partial(self.fetch, name, start, stop)) for start, stop in ranges[1:]]
        parts = [self.fetch(name, start, stop) for start, stop in ranges[:1]]
        parts += [future.result() for future in others]
        for (start, stop), part in zip(ranges, parts, strict=True):
            if len(part) != stop - start:
                raise ReadError(f"{self}/{name}: {_short(len(part), start, stop)}: it is cut short. Try again")
        return parts

    def stream(self, name: str) -> BinaryIO:
        size = self.size(name)
        if size is None:
            raise ReadError(
                f"{self}/{name}: the server does not report its size. Download the files, then give their folder as "
                "data_dir"
            )
        return self.stream_of(name, size)

    def stream_of(self, name: str, size: int) -> BinaryIO:
        """A file of this size to be read from its beginning to its end."""
        return io.BufferedReader(_Stream(self, name, size), 1 << 16)

    def discard(self, name: str) -> None:
        for place in self._cache_places(name):
            place.remove()

    def begin(self, name: str, ranges: ByteRanges) -> Spans:
        return Spans(self, name, ranges)

    def in_advance(self, call: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
        return in_advance(_planners, call, items, SEGMENTS_AHEAD) if self.ahead else map(call, items)

    def cached(self, name: str) -> CachedShard | None:
        """The cache of a shard, if there is one."""
        latest, cached = self._latest
        if self.ahead or latest != name:  # whatever is fetched may change its key
            places = self._cache_places(name)
            cached = next(iter([place for place in places[1:] if place.exists()] + places[:1]), None)
            self._latest = name, cached
        return cached

    def cache_of_fetched(self, name: str) -> CachedShard | None:
        """Where bytes that were fetched of a shard are kept; None if they must not be."""
        key = self.transport.key_of_fetched(name, self.sha256(name))
        return self.cache.shard(key) if self.cache is not None and key is not None else None

    def _cache_places(self, name: str) -> list[CachedShard]:
        if self.cache is None or name not in self._shards:
            return []
        return [self.cache.shard(key) for key in self.transport.cache_keys(name, self.sha256(name))]

    def sha256(self, name: str) -> str:
        """What the manifest says of a shard."""
        return self._shards[name]["sha256"]

    def fetch(
        self,
        name: str,
        start: int,
        stop: int,
        stopped: threading.Event | None = None,
        buffer: memoryview | None = None,
    ) -> bytes | memoryview:
        """The bytes from `start` to `stop`; fewer only if the file ends or the answer is cut again and again.

        `stopped`: set when nobody wants them any more. `buffer`: where they may be put.

        Raises FileNotFoundError, or ReadError if the server sends something else or cannot be reached.
        """
        data: bytes | memoryview = b""

        def once() -> None:
            nonlocal data
            data, size = self.transport.fetch(name, start, stop, buffer)
            if size is None and len(data) < stop - start:
                size = self.transport.size(name)
            expected = stop - start if size is None else max(min(stop, size) - start, 0)
            if len(data) < expected:
                raise _Short(_short(len(data), start, stop))

        with contextlib.suppress(_Short):
            self._try(name, once, stopped)
        return data

    def _try(self, name: str, call: Callable[[], Result], stopped: threading.Event | None = None) -> Result:
        begun = time.monotonic()

        def passes(error: Exception) -> bool:
            if not self.transport.reached and _is_unreachable(error):
                return time.monotonic() - begun < FIRST_CONTACT
            return not isinstance(error, _FINAL)

        try:
            return retries.attempt(call, passes, stopped=stopped)
        except (*_FINAL, _Short):
            raise
        except Exception as error:  # each file system has its own, and not all are OSError
            reason, reached = _reason(error), self.transport.reached or not _is_unreachable(error)
        # Raised here, not where the error was caught: what the clients below said of it helps nobody.
        if not reached:
            raise ReadError(f"{self}: cannot be reached: {reason}. Check the address and the connection")
        raise ReadError(
            f"{self}/{name}: cannot be read, {retries.TRIES} tries: {reason}. Check the connection, then resume from a "
            "state_dict or start again"
        )


_local = threading.local()


def _buffer(size: int) -> memoryview:
    """Memory of this thread for one span. It is used again: else each span would take new pages from the system."""
    if size > TABLE_SPAN:
        return memoryview(bytearray(size))
    if not hasattr(_local, "buffer"):
        _local.buffer = memoryview(bytearray(TABLE_SPAN))
    return _local.buffer[:size]


class Spans:
    """Byte ranges that are being read, near ones as one request. See `mmm_rs.Reading`."""

    def __init__(self, files: RemoteFiles, name: str, ranges: ByteRanges) -> None:
        self._files, self._name, self._ranges = files, name, ranges
        self._stopped = threading.Event()
        self._cached = files.cached(name) if ranges.crcs is not None else None
        self.is_proven = self._cached is not None  # until something is fetched
        # This object must not refer to itself: its buffers are to be free as soon as it is.
        self._spans = list(ranges.joined(TABLE_SPAN, len(ranges.offsets)))
        self._futures = [_requests.submit(partial(self._read, *span)) for span in self._spans] if files.ahead else None

    def _read(self, first: int, last: int) -> dict[int, str]:
        if self._cached is None:
            return self._fetch(first, last)
        place = partial(self._files.cache_of_fetched, self._name)
        return self._cached.fill(self._ranges, first, last, self._fetch, place, self._stopped.is_set)

    def _fetch(self, first: int, last: int) -> dict[int, str]:
        self.is_proven = False
        ranges = self._ranges
        start, stop = ranges.offsets[first], ranges.offsets[last - 1] + ranges.sizes[last - 1]
        return scatter(
            ranges, first, last, self._files.fetch(self._name, start, stop, self._stopped, _buffer(stop - start))
        )

    def result(self) -> dict[int, str]:
        wrong: dict[int, str] = {}
        try:
            if self._futures is None:
                for first, last in self._spans:
                    wrong |= self._read(first, last)
            else:
                for future in self._futures:
                    wrong |= future.result()
        finally:
            self.cancel()
        self._files.note(self.is_proven)
        return wrong

    def cancel(self) -> None:
        self._stopped.set()
        for future in self._futures or ():
            future.cancel()


class _Streams:
    """How many streams of this process read ahead at the moment: they share the memory for it equally."""

    def __init__(self) -> None:
        self._lock, self._process, self.count = ForkSafeLock(), os.getpid(), 0

    @contextlib.contextmanager
    def one_more(self) -> Iterator[None]:
        process = os.getpid()
        with self._lock:
            if self._process != process:  # the parent's streams are not read here
                self._process, self.count = process, 0
            self.count += 1
        try:
            yield
        finally:
            with self._lock:
                if self._process == os.getpid() == process:
                    self.count -= 1


_streams = _Streams()


class _Stream(io.RawIOBase):
    """A file from its beginning to its end, the next spans of which are on their way."""

    def __init__(self, files: RemoteFiles, name: str, size: int) -> None:
        self._files, self._name, self._size = files, name, size
        self._begun, self._stopped = 0, threading.Event()  # bytes that have been asked for
        self._coming: deque[tuple[int, int, Future[bytes | memoryview]]] = deque()
        self._data = memoryview(b"")
        self._cached = files.cached(name)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self._data:
            while self._begun < self._size and len(self._coming) < STREAM_AHEAD:
                start, stop = self._begun, min(self._begun + SPAN, self._size)
                self._coming.append((start, stop, _requests.submit(partial(self._span, start, stop))))
                self._begun = stop
            if not self._coming:
                return 0
            start, stop, future = self._coming.popleft()
            self._data = memoryview(future.result())
            if len(self._data) != stop - start:
                reason = _short(len(self._data), start, stop)
                raise ReadError(f"{self._files}/{self._name}: {reason}: it is cut short. Try again, or upload it again")
        count = min(len(buffer), len(self._data))
        buffer[:count], self._data = self._data[:count], self._data[count:]
        return count

    def _span(self, start: int, stop: int) -> bytes | memoryview:
        fetch = partial(self._files.fetch, self._name, start, stop, self._stopped)
        if self._cached is None:
            return fetch()
        place = partial(self._files.cache_of_fetched, self._name)
        return self._cached.block(start, stop, fetch, place, self._stopped.is_set)

    def close(self) -> None:
        self._stopped.set()
        for _, _, future in self._coming:
            future.cancel()
        self._coming.clear()
        super().close()


def _short(size: int, start: int, stop: int) -> str:
    return f"{size} of {stop - start} bytes at {start} came"


def _is_unreachable(error: BaseException) -> bool:
    """Whether no connection was made: it was refused, or the name or the certificate is unknown."""
    return isinstance(error, urllib3.exceptions.NewConnectionError | urllib3.exceptions.SSLError)


def _reason(error: BaseException) -> str:
    """What a person needs to know of a client's error."""
    cause = error.__cause__ or error.__context__
    if _is_unreachable(error) and isinstance(cause, OSError) and cause.strerror:
        return cause.strerror
    return without_login(in_one_line(error))
