"""A long line to a hub, on loopback: each answer waits for a round trip, connections and the line have a bandwidth.

The hub redirects to signed addresses of a second host, as the real one does. `Line` runs both in a process of its own
and counts requests and bytes.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import multiprocessing
import os
import re
import socket
import ssl
import threading
import time
import urllib.request
from collections import Counter, deque
from collections.abc import Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

REPO = "org/MMM-RS"
COMMIT = "0" * 40
ALLOWED, WINDOW = 3000, 300  # requests to the hub per so many seconds
LARGE = (".tar", ".parquet", ".mds")  # files that are not kept in git itself: the hub redirects to them
CHUNK = 64 << 10  # bytes that are sent between two looks at the clock


@dataclass(frozen=True)
class Speed:
    """Of the line: seconds of a round trip, bytes per second of a connection and of all together."""

    latency: float = 0.060
    connection: float = 20e6
    line: float = 120e6


class Line:
    """A server of a folder; a context manager. `hub` is the endpoint, `web` the folder's plain HTTP address."""

    def __init__(self, folder: Path, speed: Speed, certificate: tuple[str, str] | None = None) -> None:
        receiver, sender = multiprocessing.Pipe(duplex=False)
        self._process = multiprocessing.Process(
            target=_serve, args=(str(folder), speed, certificate, sender), daemon=True
        )
        self._process.start()
        hub, web = receiver.recv()
        self.hub, self.web, self.speed = f"http://127.0.0.1:{hub}", f"http://127.0.0.1:{web}/files", speed
        self.proxy = self.hub

    def __enter__(self) -> Line:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        self._process.join()

    def counts(self) -> dict[str, int]:
        """Requests to the `hub`, of them `resolve`, `api` and `refused`, to the `web`, and `bytes` sent, since this
        was last asked."""
        with urllib.request.urlopen(f"{self.hub}/counts") as answer:
            return json.load(answer)


class _Pace:
    """When the next bytes may go."""

    def __init__(self, rate: float) -> None:
        self._rate, self._free, self._lock = rate, 0.0, threading.Lock()

    def wait(self, size: int) -> float:
        """The moment at which these bytes have passed."""
        with self._lock:
            self._free = max(time.monotonic(), self._free) + size / self._rate
            return self._free


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    folder: str
    speed: Speed
    line: _Pace
    counted: Counter[str]
    asked: deque[float]  # when, of the requests to the hub
    lock: threading.Lock
    allowed: int
    web_port: int
    certificate: ssl.SSLContext | None

    def log_message(self, *_: object) -> None:
        pass

    def setup(self) -> None:
        super().setup()
        self.pace, self.tls = _Pace(self.speed.connection), False

    def do_CONNECT(self) -> None:
        """A proxy that is the other end itself, so that clients with a fixed address of the hub come here."""
        assert self.certificate is not None
        self.wfile.write(b"HTTP/1.1 200 here\r\n\r\n")
        self.connection = self.certificate.wrap_socket(self.connection, server_side=True)
        self.rfile, self.wfile = self.connection.makefile("rb", -1), self.connection.makefile("wb", 0)  # type: ignore
        self.close_connection, self.tls = False, True

    def do_GET(self) -> None:
        path = unquote(urlsplit(self.path).path)
        if path == "/counts":
            data = json.dumps(dict(self.counted)).encode()
            self.counted.clear()
            self.answer(200, data)
            return
        time.sleep(self.speed.latency)
        if path.startswith("/files/"):
            self.counted["web"] += 1
            self.file(path.removeprefix("/files/"))
            return
        self.counted["hub"] += 1
        self.counted["resolve" if "/resolve/" in path else "api"] += 1
        if self.is_over_the_limit():
            self.answer(429, b"", {"Retry-After": str(WINDOW)})
        elif match := re.fullmatch(rf"/(?:datasets/)?{REPO}/resolve/[^/]+/(.+)", path):
            self.resolve(match[1])
        elif re.fullmatch(rf"/api/datasets/{REPO}(/revision/[^/]+)?", path):
            files = sorted(file for file in Path(self.folder).rglob("*") if file.is_file())
            siblings = [{"rfilename": str(file.relative_to(self.folder))} for file in files]
            self.answer(200, json.dumps({"id": REPO, "sha": COMMIT, "siblings": siblings, "tags": []}).encode())
        elif match := re.fullmatch(rf"/api/datasets/{REPO}/tree/[^/]+/?(.*)", path):
            folder = Path(self.folder, match[1])
            recursive = "recursive=true" in urlsplit(self.path).query.lower()
            entries = sorted(folder.rglob("*") if recursive else folder.glob("*"))
            self.answer(200 if folder.is_dir() else 404, json.dumps(list(map(self.entry, entries))).encode())
        elif re.fullmatch(rf"/api/datasets/{REPO}/paths-info/[^/]+", path):
            form = self.rfile.read(int(self.headers.get("Content-Length") or 0)).decode()
            paths = json.loads(form)["paths"] if form.startswith("{") else parse_qs(form)["paths"]
            places = [Path(self.folder, name) for name in paths]
            self.answer(200, json.dumps([self.entry(place) for place in places if place.exists()]).encode())
        else:
            self.answer(404, b"")

    do_HEAD = do_POST = do_GET

    def entry(self, place: Path) -> dict[str, Any]:
        """A file or folder as the hub's API lists it."""
        name = str(place.relative_to(self.folder))
        if place.is_dir():
            return {"type": "directory", "path": name, "size": 0, "oid": COMMIT}
        return {"type": "file", "path": name, "size": place.stat().st_size, "oid": COMMIT}

    def is_over_the_limit(self) -> bool:
        """Whether there were as many requests in the last minutes as the hub allows one address or user."""
        now = time.monotonic()
        with self.lock:
            while self.asked and self.asked[0] < now - WINDOW:
                self.asked.popleft()
            self.asked.append(now)
            over = len(self.asked) > self.allowed
        self.counted["refused"] += over
        return over

    def resolve(self, name: str) -> None:
        path = Path(self.folder, name)
        if not path.is_file():
            self.answer(404, b"", {"X-Error-Code": "EntryNotFound"})
        elif path.suffix in LARGE:
            host = "https://cdn.example" if self.tls else f"http://127.0.0.1:{self.web_port}"
            tag = f'"{_tag(path)}"'
            linked = {"X-Linked-Size": str(path.stat().st_size), "X-Linked-Etag": tag, "ETag": tag}
            signed = f"{host}/files/{name}?Expires={int(time.time()) + 3600}&Signature=x"
            self.answer(302, b"", {"Location": signed, "X-Repo-Commit": COMMIT, **linked})
        else:
            self.file(name)

    def file(self, name: str) -> None:
        with open(Path(self.folder, name), "rb") as file:
            size = os.fstat(file.fileno()).st_size
            wanted = re.fullmatch(r"bytes=(\d*)-(\d*)", self.headers.get("Range", ""))
            headers = {"Accept-Ranges": "bytes", "ETag": f'"{_tag(Path(file.name))}"', "X-Repo-Commit": COMMIT}
            start, stop = 0, size
            if wanted:
                start = int(wanted[1]) if wanted[1] else max(size - int(wanted[2]), 0)
                stop = min(int(wanted[2]) + 1, size) if wanted[1] and wanted[2] else size
                headers["Content-Range"] = f"bytes {start}-{stop - 1}/{size}"
            self.head(206 if wanted else 200, stop - start, headers)
            if self.command == "HEAD":
                return
            self.counted["bytes"] += stop - start
            while start < stop:
                count = min(CHUNK, stop - start)
                until = max(self.line.wait(count), self.pace.wait(count))
                if (pause := until - time.monotonic()) > 0:
                    time.sleep(pause)
                try:
                    self.send(file.fileno(), start, count)
                except OSError:  # the client has gone
                    self.close_connection = True
                    return
                start += count

    def send(self, fd: int, start: int, count: int) -> None:
        if self.tls:
            self.connection.sendall(os.pread(fd, count, start))
            return
        stop = start + count
        while start < stop:
            start += os.sendfile(self.connection.fileno(), fd, start, stop - start)

    def head(self, status: int, length: int, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(length), **headers}.items():
            self.send_header(name, value)
        self.end_headers()

    def answer(self, status: int, data: bytes, headers: dict[str, str] | None = None) -> None:
        self.head(status, len(data), headers or {})
        if self.command != "HEAD":
            self.wfile.write(data)


@functools.cache
def _tag(path: Path) -> str:
    """What the hub says of a file's content: the sha256 of a large file, git's own hash of a small one."""
    if path.suffix in LARGE:
        with open(path, "rb") as file:
            digest = hashlib.sha256()
            while data := file.read(1 << 20):
                digest.update(data)
            return digest.hexdigest()
    data = path.read_bytes()
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


class _Server(ThreadingHTTPServer):
    daemon_threads, request_queue_size = True, 256

    def handle_error(self, *_: object) -> None:  # clients that have seen enough
        pass


def _serve(folder: str, speed: Speed, certificate: tuple[str, str] | None, ready: Any) -> None:
    context = None
    if certificate:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(*certificate)
    settings = {"folder": folder, "speed": speed, "line": _Pace(speed.line), "counted": Counter(), "asked": deque()}
    settings |= {"lock": threading.Lock(), "allowed": ALLOWED}
    handler = type("Handler", (_Handler,), {**settings, "certificate": context})
    servers = [_Server(("127.0.0.1", 0), handler) for _ in range(2)]
    ports = [server.server_address[1] for server in servers]
    handler.web_port = ports[1]  # type: ignore[attr-defined]
    for server in servers:
        threading.Thread(target=server.serve_forever, daemon=True).start()
    ready.send(ports)
    threading.Event().wait()


@contextlib.contextmanager
def hub_environment(line: Line) -> Iterator[None]:
    """For clients of the hub that are imported afterwards."""
    os.environ.update(HF_ENDPOINT=line.hub, HF_HUB_DISABLE_TELEMETRY="1", HF_UPDATE_DOWNLOAD_COUNTS="0")
    yield


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
