"""The files of a dataset on the hub: manifest and index come through the hub client's cache, once per node."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator, Sequence
from typing import Any

from mmm_rs import ForkSafeLock
from mmm_rs_reading.cache import Cache
from mmm_rs_reading.files import RemoteFiles
from mmm_rs_reading.hub_cache import READ_AT_ONCE, HubCache
from mmm_rs_reading.transports import HttpTransport

# Bytes of an index that is fetched whole. All but the two largest are smaller. Of a larger one a process reads what it
# needs, so that the first row does not wait for the rest; with a cache of shards, that one is fetched whole too.
WHOLE_INDEX = 32 << 20
WAIT = 300.0  # seconds that a process waits for another one of the node to fetch a file


class HubFiles(RemoteFiles):
    """See `mmm_rs.Files` for the methods."""

    transport: HttpTransport

    def __init__(
        self,
        transport: HttpTransport,
        hub_cache: HubCache,
        read_ahead: int | None = None,
        cache: Cache | None = None,
    ) -> None:
        super().__init__(transport, read_ahead, cache)
        self._hub_cache, self._lock = hub_cache, ForkSafeLock()
        self._local: dict[str, str | None] = {}  # paths of whole files, by name; None: it is read by ranges

    def __reduce__(self) -> Any:
        return HubFiles, (self.transport, self._hub_cache, self._room, self.cache)

    def read(self, name: str) -> bytes:
        addresses, asked = self.transport.addresses, time.time()
        if (data := self._kept(name)) is not None:
            return data
        with addresses.node_lock("files", WAIT):  # one process fetches, then the others have it
            if (data := self._kept(name)) is not None:
                return data
            known = addresses.commit
            data = super().read(name)
            tag = self.transport.tag(name)
            if addresses.commit and tag:
                branch = addresses.branch if known is None else None
                self._hub_cache.keep(addresses.commit, name, [data], tag, branch)
            if known is None:
                addresses.note_commit(asked)
        return data

    def _kept(self, name: str) -> bytes | None:
        """A file that another process of this node, or an earlier one, has fetched."""
        self.transport.addresses.recall_commit()
        commit = self.transport.addresses.commit
        path = self._hub_cache.find(commit, name) if commit else None
        if path is None:
            return None
        try:
            with open(path, "rb") as file:
                return file.read()
        except OSError:  # somebody clears the cache
            return None

    def size(self, name: str) -> int | None:
        if path := self._whole(name):
            with contextlib.suppress(OSError):  # somebody has cleared the cache
                return os.path.getsize(path)
        return super().size(name)

    def ranges(self, name: str, ranges: Sequence[tuple[int, int]]) -> list[bytes | memoryview]:
        path = self._whole(name)
        if path is not None:
            try:
                with open(path, "rb", buffering=0) as file:
                    parts: list[bytes | memoryview] = [_read_range(file, start, stop) for start, stop in ranges]
                if [len(part) for part in parts] == [stop - start for start, stop in ranges]:
                    return parts
            except OSError:  # somebody has cleared the cache
                pass
            self._local[name] = None
        return super().ranges(name, ranges)

    def _whole(self, name: str) -> str | None:
        """The path of an index in the hub client's cache, where it is fetched to if it is small."""
        if not name.startswith("index/"):
            return None
        with self._lock:
            if name not in self._local:
                self._local[name] = self._fetched(name)
            return self._local[name]

    def _fetched(self, name: str) -> str | None:
        addresses = self.transport.addresses
        if addresses.commit is None:
            return None
        if path := self._hub_cache.find(addresses.commit, name):
            return path
        with addresses.node_lock("files", WAIT):  # one process fetches, then the others have it
            if path := self._hub_cache.find(addresses.commit, name):
                return path
            size = super().size(name)
            tag = self.transport.tag(name)
            if size is None or tag is None or (size > WHOLE_INDEX and self.cache is None):
                return None
            return self._hub_cache.keep(addresses.commit, name, self._parts(name, size), tag)

    def _parts(self, name: str, size: int) -> Iterator[bytes]:
        """A file from its beginning to its end, fetched by many requests at once."""
        with self.stream_of(name, size) as file:
            while data := file.read(READ_AT_ONCE):
                yield data


def _read_range(file: Any, start: int, stop: int) -> bytes:
    file.seek(start)
    return file.read(stop - start)
