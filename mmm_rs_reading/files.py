"""The files of a folder behind an fsspec URL. Every answer's length is checked, and requests are tried again."""

from __future__ import annotations

import contextlib
import io
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, BinaryIO

import fsspec
import pyarrow as pa

import mmm_rs
from mmm_rs import ByteRanges, RangesFile, ReadError, Reading, ReadingLater, in_one_line, scatter
from mmm_rs_reading import retries

# Bytes of one request at most, and requests at once: together they fill a line with a slow answer.
SPAN = 4 << 20
REQUESTS = 8
# Seconds without a byte after which a connection counts as lost.
SILENCE = 60.0


class RemoteFiles:
    """See `mmm_rs.Files` for the methods."""

    remote = True
    ahead = 0

    def __init__(self, url: str, options: Mapping[str, Any]) -> None:
        self.url, self.options = url.rstrip("/"), dict(options)
        self._sizes: dict[str, int | None] = {}
        self._connect()

    def _connect(self) -> None:
        thread = fsspec.asyn.iothread[0]
        if thread is not None and not thread.is_alive():  # a fork left it behind, and older versions would wait for it
            fsspec.asyn.reset_lock()
        self._fs, root = fsspec.core.url_to_fs(self.url, **self.options)
        self.root, self._process = root.rstrip("/"), os.getpid()
        protocols = (self._fs.protocol,) if isinstance(self._fs.protocol, str) else self._fs.protocol
        self._asks = _hub_range if "hf" in protocols else _http_range if "http" in protocols else None

    @property
    def fs(self) -> Any:
        """The file system; one of its own in a forked process, which cannot use the connections of its parent."""
        if self._process != os.getpid():
            self._connect()
        return self._fs

    def __str__(self) -> str:
        return self.url

    def __reduce__(self) -> Any:
        return RemoteFiles, (self.url, self.options)

    def expect(self, shards: Mapping[str, Mapping[str, Any]]) -> None:
        pass

    def read(self, name: str) -> bytes:
        with RangesFile(self, name, self.fetch) as file:
            return file.read()

    def open(self, name: str) -> pa.NativeFile:
        return pa.PythonFile(RangesFile(self, name, self.fetch), mode="r")

    def stream(self, name: str) -> BinaryIO:
        return io.BufferedReader(RangesFile(self, name, self.fetch), SPAN)

    def begin(self, name: str, ranges: ByteRanges) -> Reading:
        return ReadingLater(lambda: self._fill(name, ranges))

    def in_advance(
        self, call: Callable[[mmm_rs.Item], mmm_rs.Result], items: Iterable[mmm_rs.Item]
    ) -> Iterator[mmm_rs.Result]:
        return map(call, items)

    def size(self, name: str) -> int | None:
        if name not in self._sizes and self._asks is not None:
            self.fetch(name, 0, 1)  # `info` of HTTP calls every trouble a file that is not there, the hub's is cached
        elif name not in self._sizes:
            self._sizes[name] = self._try(lambda: self.fs.info(f"{self.root}/{name}").get("size"), name)
        return self._sizes.get(name)

    def fetch(self, name: str, start: int, stop: int) -> bytes:
        """The bytes from `start` to `stop`; fewer only if the file ends or the answer is cut again and again.

        Raises ReadError if the server sends another part of the file than was asked for, or cannot be reached.
        """
        data = b""

        def once() -> None:
            nonlocal data
            data, size = self._range(name, start, stop)
            if size is not None and self._sizes.setdefault(name, size) != size:
                raise ReadError(
                    f"{self.url}/{name}: had {self._sizes[name]} bytes and has {size}: it was changed meanwhile. Open "
                    "the dataset again"
                )
            expected = stop - start if size is None else max(min(stop, size) - start, 0)
            if len(data) < expected:
                raise _Short(f"{len(data)} of {expected} bytes came")

        with contextlib.suppress(_Short):
            self._try(once, name)
        return data

    def _fill(self, name: str, ranges: ByteRanges) -> dict[int, str]:
        def read(span: tuple[int, int]) -> dict[int, str]:
            first, last = span
            start, stop = ranges.offsets[first], ranges.offsets[last - 1] + ranges.sizes[last - 1]
            return scatter(ranges, first, last, self.fetch(name, start, stop))

        spans = list(ranges.joined(SPAN, len(ranges.offsets)))
        if len(spans) == 1:
            return read(spans[0])
        with ThreadPoolExecutor(REQUESTS) as pool:
            return {number: reason for wrong in pool.map(read, spans) for number, reason in wrong.items()}

    def _range(self, name: str, start: int, stop: int) -> tuple[bytes, int | None]:
        """What one request gives, and the size of the whole file if the answer says it.

        The `cat_file` of HTTP takes whatever is answered for what was asked, and the hub's reads 5 MB ahead. So for
        these two the request is made here, and its answer believed only if it says that it is this range.
        """
        path, asked = f"{self.root}/{name}", f"{self.url}/{name}: bytes {start} to {stop} were asked for and"
        remedy = "this server ignores range requests. Download the files, then give their folder as data_dir"
        if self._asks is None:
            data = self.fs.cat_file(path, start=start, end=stop)
            if len(data) > stop - start:
                raise ReadError(f"{asked} {len(data)} came: {remedy}")
            return data, self.size(name)
        status, told, data = self._asks(self.fs, path, start, stop)
        match = re.fullmatch(r"bytes (?:(\d+)-(\d+)|\*)/(\d+|\*)", told.strip())
        size = int(match[3]) if match and match[3] != "*" else None
        if status == 416:  # the file ends before
            return b"", size
        if status != 206 or not match or match[1] is None or int(match[1]) != start or len(data) > stop - start:
            raise ReadError(f"{asked} {told or 'no range'} came, with status {status}: {remedy}")
        return data, size

    def _try(self, call: Callable[[], Any], name: str) -> Any:
        try:
            return retries.attempt(call, _passes)
        except (FileNotFoundError, PermissionError, IsADirectoryError, ReadError, _Short):
            raise
        except Exception as error:  # each file system has its own, and not all are OSError
            status = retries.status_of(error)
            if status == 404:
                raise FileNotFoundError(f"{self.url}/{name}: {in_one_line(error)}") from error
            if retries.is_offline(error):
                raise ReadError(f"{self.url}/{name}: HF_HUB_OFFLINE is set. Unset it, or give a folder") from error
            if not _passes(error):
                raise ReadError(f"{self.url}/{name}: the server refuses it: {in_one_line(error)}") from error
            raise ReadError(
                f"{self.url}/{name}: cannot be read, {retries.TRIES} tries: {in_one_line(error)}. Check the "
                "connection, then resume from a state_dict or start again"
            ) from error


def _passes(error: Exception) -> bool:
    if isinstance(error, FileNotFoundError | PermissionError | IsADirectoryError | ReadError):
        return False
    status = retries.status_of(error)
    return not retries.is_offline(error) and (status is None or retries.is_passing_status(status))


class _Short(Exception):
    """Fewer bytes came than were asked for."""


def _http_range(fs: Any, url: str, start: int, stop: int) -> tuple[int, str, bytes]:
    """Status, `Content-Range` and body of a range request. What is not the range is not waited for."""
    import aiohttp

    given = {"timeout": aiohttp.ClientTimeout(total=None, sock_connect=SILENCE, sock_read=SILENCE), **fs.kwargs}
    headers = {**given.pop("headers", {}), "Range": f"bytes={start}-{stop - 1}", "Accept-Encoding": "identity"}

    async def ask() -> tuple[int, str, bytes]:
        session = await fs.set_session()
        async with session.get(fs.encode_url(url), headers=headers, **given) as answer:
            if answer.status != 416:
                answer.raise_for_status()
            data = await answer.read() if answer.status == 206 else b""
            return answer.status, answer.headers.get("Content-Range", ""), data

    return fsspec.asyn.sync(fs.loop, ask)


def _hub_range(fs: Any, path: str, start: int, stop: int) -> tuple[int, str, bytes]:
    """The same from the hub, by its own client, which is httpx's or, before 1.0, requests'."""
    from huggingface_hub.utils import build_hf_headers, get_session, hf_raise_for_status

    headers = {**build_hf_headers(token=fs.token), "Range": f"bytes={start}-{stop - 1}", "Accept-Encoding": "identity"}
    session: Any = get_session()  # whichever it is
    url = fs.url(path)
    if callable(session.stream):
        opened = session.stream("GET", url, headers=headers, timeout=SILENCE)
    else:
        opened = session.get(url, headers=headers, timeout=SILENCE, stream=True)
    with opened as answer:
        partial = answer.status_code == 206
        if partial or answer.status_code >= 400:
            data = answer.read() if hasattr(answer, "read") else answer.content
        if not partial and answer.status_code != 416:
            hf_raise_for_status(answer)
        return answer.status_code, answer.headers.get("Content-Range", ""), data if partial else b""
