"""One request for one byte range: by HTTP, to the hub or any other server, or through any other file system of fsspec.

An answer is believed only if it says that it is the range that was asked for. Trying again is up to the caller.
"""

from __future__ import annotations

import ftplib
import hashlib
import os
import re
import zlib
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, NamedTuple, Protocol
from urllib.parse import unquote, urlsplit, urlunsplit

import fsspec
import urllib3

from mmm_rs import ReadError, in_one_line, without_login
from mmm_rs_reading import connections, retries
from mmm_rs_reading.addresses import Address, Addresses, content_tag, hub_addresses

REDIRECTS = 5  # that one request follows, at the folder's own host and from there on
REDIRECTING = (301, 302, 303, 307, 308)
ADDRESS_LOCKS = 64  # processes of a node that ask for different addresses at once, at most
READ_AT_ONCE = 256 << 10  # bytes
DRAINED = 4096  # bytes of a body that nobody wants, which are read so that its connection can be used again

NO_RANGES = "this server ignores range requests. Download the files, then give their folder as data_dir"
OFFLINE = ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE", "TRANSFORMERS_OFFLINE")


class Part(NamedTuple):
    """What one request gave."""

    data: bytes | memoryview
    size: int | None  # of the whole file, if the server reports it


class Transport(Protocol):
    """Gets byte ranges of the files of one folder. It must be picklable. `str(transport)` is the folder's address."""

    @property
    def reached(self) -> bool:
        """Whether there has been any answer yet."""

    def fetch(self, name: str, start: int, stop: int | None, buffer: memoryview | None = None) -> Part:
        """The bytes from `start` to `stop`, None for the end. They are fewer if the file ends before.

        `buffer`: memory of this size, where they may be put.

        Raises FileNotFoundError; ReadError for what another try cannot change; anything else for what may pass.
        """

    def size(self, name: str) -> int | None:
        """A file's size; None if the server does not report it. Raises what `fetch` does."""

    def known_size(self, name: str) -> int | None:
        """A file's size, if an answer has told it."""

    def cache_keys(self, name: str, sha256: str) -> tuple[str, ...]:
        """What a shard, by its manifest of this sha256, may be called in a cache that other datasets use too.

        A manifest can claim anything: a sha256 that nobody vouches for is not taken for the same as another dataset's.
        """

    def key_of_fetched(self, name: str, sha256: str) -> str | None:
        """Under which of these names bytes that were fetched of it are kept; None: not at all, they are others."""


def own_key(address: str, sha256: str) -> str:
    """A key of a shard that no other dataset has."""
    return hashlib.sha256(f"{address}\n{sha256}".encode()).hexdigest()


class Refused(Exception):
    """An answer with an HTTP status that another try may not see."""

    def __init__(self, status: int, reason: str, headers: Mapping[str, str]) -> None:
        super().__init__(f"{status} {reason}".strip())
        self.status, self.headers = status, headers


def open_transport(url: str, options: Mapping[str, Any], token: bool | str | None) -> Transport:
    """The transport for a folder's URL. Options that only fsspec's own file system knows lead to that one."""
    url = url.rstrip("/")
    options = dict(options)
    if url.startswith("hf://"):
        check_online(url)
        given = options.pop("token", None) if token is None else token
        addresses = hub_addresses(url, options.pop("endpoint", None), given)
        if addresses is not None and not options:
            return HttpTransport(url, addresses)
        options = {**options, "token": given} if given is not None else options
    elif url.startswith(("http://", "https://")) and set(options) <= {"headers"}:
        parts = urlsplit(url)
        headers = dict(options.get("headers") or {})
        if parts.username:
            login = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
            headers |= urllib3.make_headers(basic_auth=login)
        bare = urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))
        return HttpTransport(bare, Addresses(bare, headers))
    return FsspecTransport(url, options)


def check_online(url: str) -> None:
    """Raises ReadError if the hub's client or `datasets` was told to stay offline."""
    import datasets
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE or datasets.config.HF_HUB_OFFLINE:
        names = [name for name in OFFLINE if os.environ.get(name, "0").upper() not in ("", "0", "NO", "FALSE", "OFF")]
        raise ReadError(f"{url}: {' and '.join(names) or OFFLINE[0]} is set. Unset it, or give a local folder")


class HttpTransport:
    """Files of a folder on the hub, or on any other server that answers range requests."""

    def __init__(self, label: str, addresses: Addresses) -> None:
        self.label, self.addresses = label, addresses
        self.reached = False
        self._sizes: dict[str, int] = {}
        self._tags: dict[str, str] = {}

    def __getstate__(self) -> dict[str, Any]:
        # Copies, as threads may add to them.
        return {**self.__dict__, "_sizes": dict(self._sizes), "_tags": dict(self._tags)}

    def __str__(self) -> str:
        return self.label

    def size(self, name: str) -> int | None:
        if name not in self._sizes and self.addresses.kept(name) is None:
            _, answer = self._address(name, "bytes=0-0")  # a redirect may tell the size
            if answer is not None:
                self._part(name, answer, 0, 1)
        if name not in self._sizes:
            self.fetch(name, 0, 1)
        return self._sizes.get(name)

    def known_size(self, name: str) -> int | None:
        return self._sizes.get(name)

    def cache_keys(self, name: str, sha256: str) -> tuple[str, ...]:
        if self.addresses.notes is not None and self.addresses.kept(name) is None and self.tag(name) is None:
            return sha256, own_key(self.label, sha256)  # whether the hub vouches for it is not known yet
        return (self.key_of_fetched(name, sha256) or sha256,)

    def key_of_fetched(self, name: str, sha256: str) -> str | None:
        tag = self.tag(name)
        if self.addresses.notes is not None and tag is not None and len(tag) == len(sha256):
            return sha256 if tag == sha256 else None  # the hub computes it of large files
        return own_key(self.label, sha256)  # other servers, and mirrors of the hub, may say nothing of the content

    def tag(self, name: str) -> str | None:
        """What the hub says of a file's content once it has been asked for: a hash of it."""
        address = self.addresses.kept(name)  # another thread may be about to note its tag
        return self._tags.get(name) or (address.tag if address is not None else None)

    def fetch(self, name: str, start: int, stop: int | None, buffer: memoryview | None = None) -> Part:
        wanted = None if start == 0 and stop is None else f"bytes={start}-{'' if stop is None else stop - 1}"
        address, answer = self._open(name, wanted)
        if answer.status in (400, 401, 403) and not self.addresses.is_own(address):  # the address has expired
            _discard(answer)
            self.addresses.forget(name, address)
            address, answer = self._open(name, wanted)
        return self._part(name, answer, start, stop, buffer)

    def _open(self, name: str, wanted: str | None) -> tuple[Address, Any]:
        """Where the file is, and the answer from there. Redirects of other hosts are followed too."""
        address, answer = self._address(name, wanted)
        for redirects in range(REDIRECTS):
            if answer is None:
                try:
                    answer = self._ask(address, wanted)
                except urllib3.exceptions.NewConnectionError:  # the next try asks where the file is now
                    self.addresses.forget(name, address)
                    raise
            if answer.status not in REDIRECTING:
                if redirects and answer.status < 400:
                    self.addresses.keep(name, address)
                return address, answer
            _discard(answer)
            address, answer = self.addresses.redirected(address, answer.headers), None
        raise self._redirected_too_often(name)

    def _address(self, name: str, wanted: str | None) -> tuple[Address, Any]:
        """Where the file is; also the answer, if it is at the folder's own host and nobody knew."""
        address, answer = self.addresses.kept(name), None
        if address is None:
            with self.addresses.lock(name):  # one thread asks where it is, then the others know
                address = self.addresses.kept(name) or self.addresses.recall(name)
                if address is None:
                    # One process asks, then the others know.
                    with self.addresses.node_lock(f"address-{zlib.crc32(name.encode()) % ADDRESS_LOCKS}"):
                        address = self.addresses.recall(name)
                        if address is None:
                            address, answer = self._resolve(name, wanted)
        if address.size is not None:
            self._note(name, address.size)
        if address.tag is not None:
            self._tags[name] = address.tag
        return address, answer

    def _resolve(self, name: str, wanted: str | None) -> tuple[Address, Any]:
        """Ask the folder's own host: where it says that the file is, and its answer if the file is there itself."""
        address = self.addresses.own(name)
        for _ in range(REDIRECTS):
            answer = self._ask(address, wanted)
            self.addresses.pin(answer.headers.get("X-Repo-Commit"))
            if answer.status not in REDIRECTING:
                address = replace(address, tag=content_tag(answer.headers) or address.tag)
                if answer.status < 400:
                    self.addresses.keep(name, address)
                return address, answer
            _discard(answer)
            address = self.addresses.redirected(address, answer.headers)
            if not self.addresses.is_own(address):
                self.addresses.keep(name, address)
                return address, None
        raise self._redirected_too_often(name)

    def _redirected_too_often(self, name: str) -> ReadError:
        return ReadError(f"{self}/{name}: the server redirects more than {REDIRECTS} times")

    def _ask(self, address: Address, wanted: str | None) -> Any:
        answer = connections.get(address.url, {**address.headers, **({"Range": wanted} if wanted else {})})
        self.reached = True
        return answer

    def _part(self, name: str, answer: Any, start: int, stop: int | None, buffer: memoryview | None = None) -> Part:
        """The answer's bytes, if they are the range that was asked for."""
        whole = start == 0 and stop is None
        if answer.status == 200 and whole:
            data = answer.read()
            return Part(data, self._note(name, len(data)))
        content_range = answer.headers.get("Content-Range", "")
        match = re.fullmatch(r"bytes (?:(\d+)-(\d+)|\*)/(\d+|\*)", content_range.strip())
        size = self._note(name, int(match[3])) if match and match[3] != "*" else None
        if answer.status == 416:  # the file ends before
            _discard(answer)
            return Part(b"", size)
        if answer.status >= 300:
            raise self._error(name, answer)
        if answer.status == 206 and match and match[1] is not None and int(match[1]) == start:
            length = int(match[2]) + 1 - start
            if stop is None or length <= stop - start:
                return Part(answer.read() if buffer is None else _read_into(answer, buffer[:length]), size)
        answer.close()
        end = "the end" if stop is None else stop
        asked = f"bytes {start} to {end} were asked for and {content_range or 'no range'} came"
        raise ReadError(f"{self}/{name}: {asked}, with status {answer.status}: {NO_RANGES}")

    def _note(self, name: str, size: int) -> int:
        if self._sizes.setdefault(name, size) != size:
            raise ReadError(
                f"{self}/{name}: had {self._sizes[name]} bytes and has {size}: it has changed. Open the dataset again"
            )
        return size

    def _error(self, name: str, answer: Any) -> Exception:
        """What an answer with an error's status means."""
        status, code = answer.status, answer.headers.get("X-Error-Code")
        message = answer.headers.get("X-Error-Message") or answer.reason or ""
        _discard(answer)
        if code == "GatedRepo":
            return ReadError(f"{self}: is gated ({message}). Accept its terms on its page, log in with `hf auth login`")
        if code == "RevisionNotFound":
            return ReadError(f"{self}: there is no such revision")
        if status in (404, 410):
            return FileNotFoundError(f"{self}/{name}: {status} {message}".strip())
        if retries.is_passing_status(status):
            return Refused(status, message, answer.headers)
        return ReadError(f"{self}/{name}: the server refuses it: {status} {message}".strip())


def _read_into(answer: Any, buffer: memoryview) -> memoryview:
    """The answer's body. Raises `urllib3.exceptions.HTTPError` if it is cut or longer."""
    position = 0
    while data := answer.read(min(READ_AT_ONCE, len(buffer) - position) or 1):
        if position + len(data) > len(buffer):
            raise urllib3.exceptions.ProtocolError("the body is longer than its range")
        buffer[position : position + len(data)] = data
        position += len(data)
    return buffer[:position]


def _discard(answer: Any) -> None:
    """Done with an answer whose body is not wanted."""
    try:
        short = int(answer.headers.get("Content-Length", DRAINED + 1)) <= DRAINED
    except ValueError:
        short = False
    if short:
        answer.drain_conn()
    else:
        answer.close()


class FsspecTransport:
    """Files of a folder on any file system of fsspec, by its own `cat_file`."""

    reached = True

    def __init__(self, url: str, options: Mapping[str, Any]) -> None:
        self.url, self.options = url, dict(options)
        self._process = 0
        try:
            self._connected()
        except ftplib.all_errors as error:
            reason = getattr(error, "strerror", None) or in_one_line(error)
            raise ReadError(f"{self}: cannot be reached: {reason}. Check the address and the connection") from None

    def __reduce__(self) -> Any:
        return FsspecTransport, (self.url, self.options)

    def __str__(self) -> str:
        return without_login(self.url)

    def _connected(self) -> Any:
        if self._process != os.getpid():  # a forked process cannot use the connections of its parent
            thread = fsspec.asyn.iothread[0]
            if thread is not None and not thread.is_alive():  # older versions would wait for it
                fsspec.asyn.reset_lock()
            self._fs, root = fsspec.core.url_to_fs(self.url, **self.options)
            self._root, self._process = root.rstrip("/"), os.getpid()
            # The hub's file system would read 5 MB ahead for each range.
            self._plain = {"cache_type": "none"} if "hf" in self._fs.protocol else {}
        return self._fs

    def fetch(self, name: str, start: int, stop: int | None, buffer: memoryview | None = None) -> Part:
        data = self._connected().cat_file(f"{self._root}/{name}", start=start, end=stop, **self._plain)
        if stop is not None and len(data) > stop - start:
            asked = f"bytes {start} to {stop} were asked for and {len(data)} came"
            raise ReadError(f"{self}/{name}: {asked}: {NO_RANGES}")
        return Part(data, len(data) if start == 0 and stop is None else None)

    def size(self, name: str) -> int | None:
        return self._connected().info(f"{self._root}/{name}").get("size")

    def known_size(self, name: str) -> int | None:
        return None

    def cache_keys(self, name: str, sha256: str) -> tuple[str, ...]:
        return (own_key(self.url, sha256),)

    def key_of_fetched(self, name: str, sha256: str) -> str | None:
        return own_key(self.url, sha256)
