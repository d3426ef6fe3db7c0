"""A small hub on loopback for the tests: enough of the Hugging Face Hub's API for unmodified clients.

It takes uploads by LFS, serves files with ranges, keeps everything in memory, counts the requests and can be told to
fail. It knows neither Xet nor users: whoever sends `TOKEN` may write.

    with Hub() as hub:
        hub.url, hub.environment        # for HfApi(endpoint=...) and for processes
        hub.fail("commit", status=503)  # the next request to that route fails

With `Hub(cdn=True)` it redirects for large files to signed addresses of a second host, as the real hub does.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import re
import threading
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from tests.servers import LoopbackServer

TOKEN = "hf_test"
LFS_SUFFIXES = (".tar", ".parquet", ".png", ".webp")
REPO = r"(?P<repo>[\w.-]+/[\w.-]+)"
REVISION = r"(?P<revision>[^/]+)"

# (method, pattern of the path, name of the route = name of the handler's method)
ROUTES = [
    ("GET", r"/api/whoami-v2", "whoami"),
    ("POST", r"/api/validate-yaml", "validate_yaml"),
    ("POST", r"/api/repos/create", "create"),
    ("POST", rf"/api/datasets/{REPO}/preupload/{REVISION}", "preupload"),
    ("POST", rf"/api/datasets/{REPO}/commit/{REVISION}", "commit"),
    ("POST", rf"/api/datasets/{REPO}/branch/{REVISION}", "branch"),
    ("POST", rf"/api/datasets/{REPO}/tag/{REVISION}", "tag"),
    ("POST", rf"/api/datasets/{REPO}/paths-info/{REVISION}", "paths_info"),
    ("GET", rf"/api/datasets/{REPO}/tree/{REVISION}(?:/(?P<path>.*))?", "tree"),
    ("GET", rf"/api/datasets/{REPO}(?:/revision/{REVISION})?", "info"),
    ("POST", rf"/datasets/{REPO}\.git/info/lfs/objects/batch", "lfs_batch"),
    ("PUT", r"/lfs/(?P<oid>[0-9a-f]{64})", "lfs_put"),
    ("POST", r"/lfs/verify", "lfs_verify"),
    ("GET", rf"/datasets/{REPO}/resolve/{REVISION}/(?P<path>.+)", "resolve"),
    ("HEAD", rf"/datasets/{REPO}/resolve/{REVISION}/(?P<path>.+)", "resolve"),
]


@dataclass(frozen=True)
class File:
    """A file of a commit. `sha256` is set for what LFS keeps."""

    data: bytes
    sha256: str | None = None

    @property
    def blob_id(self) -> str:
        kept = self.data
        if self.sha256:  # git keeps a pointer
            pointer = f"oid sha256:{self.sha256}\nsize {len(self.data)}\n"
            kept = f"version https://git-lfs.github.com/spec/v1\n{pointer}".encode()
        return hashlib.sha1(b"blob %d\0" % len(kept) + kept).hexdigest()

    def entry(self, path: str) -> dict[str, Any]:
        lfs = {"lfs": {"oid": self.sha256, "size": len(self.data), "pointerSize": 130}} if self.sha256 else {}
        last = {"id": "0" * 40, "title": "the last commit", "date": "2024-01-01T00:00:00.000Z"}
        return {"type": "file", "path": path, "size": len(self.data), "oid": self.blob_id, "lastCommit": last, **lfs}


@dataclass
class Repository:
    private: bool
    commits: dict[str, dict[str, File]] = field(default_factory=dict)
    refs: dict[str, str] = field(default_factory=dict)
    messages: list[str] = field(default_factory=list)

    def add(self, branch: str, files: dict[str, File], message: str) -> str:
        self.messages.append(message)
        names = "".join(f"{path} {file.blob_id}\n" for path, file in sorted(files.items()))
        oid = hashlib.sha1(f"{len(self.messages)} {names}".encode()).hexdigest()
        self.commits[oid], self.refs[branch] = files, oid
        return oid

    def find(self, revision: str) -> str | None:
        return self.refs.get(revision, revision if revision in self.commits else None)


@dataclass
class Fault:
    """What happens to the next `times` requests of a route, after `skip` that go well."""

    route: str
    status: int | None = None  # answer this instead of doing it
    lost: bool = False  # do it, then hang up instead of answering; neither: hang up at once
    seconds: float = 0.0  # before that
    headers: dict[str, str] = field(default_factory=dict)
    times: int = 1
    skip: int = 0


def contents(root: Path) -> dict[str, File]:
    """The files of a folder as a commit has them."""
    datas = {path.relative_to(root).as_posix(): path.read_bytes() for path in root.rglob("*") if path.is_file()}
    return {
        name: File(data, hashlib.sha256(data).hexdigest() if name.endswith(LFS_SUFFIXES) else None)
        for name, data in datas.items()
    }


class Hub:
    """The server; a context manager. `requests` counts what was asked, by route."""

    def __init__(self, cdn: bool = False) -> None:
        self.cdn = Cdn() if cdn else None
        self.repositories: dict[str, Repository] = {}
        self.objects: dict[str, bytes] = {}
        self.requests: Counter[str] = Counter()
        self.ranges: list[tuple[str, int, int]] = []  # what was read of files: path, start, stop
        self.faults: list[Fault] = []
        self.identity: dict[str, Any] = {"type": "user", "name": "tester", "orgs": [{"name": "org"}]}
        self.most: int | None = None  # requests after which it answers 429
        self.refused = 0  # of those
        self.lock = threading.RLock()
        self.ended = threading.Event()
        hub = self

        class Handler(_Handler):
            pass

        Handler.hub = hub
        self._server = LoopbackServer(Handler)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)

    def __enter__(self) -> Hub:
        if self.cdn:
            self.cdn.start()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self.cdn:
            self.cdn.stop()
        self.ended.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    @property
    def environment(self) -> dict[str, str]:
        """For processes whose clients are to talk to this hub."""
        return {"HF_ENDPOINT": self.url, "HF_TOKEN": TOKEN, "HF_HUB_DISABLE_XET": "1", "HF_HUB_DISABLE_TELEMETRY": "1"}

    def fail(self, route: str, **how: Any) -> None:
        self.faults.append(Fault(route, **how))

    def files(self, repo: str, revision: str = "main") -> dict[str, bytes]:
        """Content by path of what the repository holds, without the hub's own `.gitattributes`."""
        repository = self.repositories[repo]
        commit = repository.commits[repository.find(revision) or ""]
        return {path: file.data for path, file in commit.items() if path != ".gitattributes"}

    def content(self, repo: str, revision: str = "main") -> dict[str, bytes]:
        """`files`, with the addresses that tell this server and a revision taken out of `croissant.json`."""
        files = self.files(repo, revision)
        if "croissant.json" in files:
            base = re.escape(f"{self.url}/datasets/{repo}/resolve/").encode()
            files["croissant.json"] = re.sub(base + rb"[^/]+/", b"", files["croissant.json"])
        return files

    def damage(self, repo: str, path: str, data: bytes | None) -> None:
        """Put other bytes at `path` behind everybody's back; None removes it."""
        repository = self.repositories[repo]
        files = dict(repository.commits[repository.refs["main"]])
        was = files.pop(path)
        if data is not None:
            files[path] = File(data, hashlib.sha256(data).hexdigest() if was.sha256 else None)
        repository.add("main", files, "damage")

    def _fault(self, route: str) -> Fault | None:
        with self.lock:
            for fault in self.faults:
                if fault.route == route and fault.times:
                    if fault.skip:
                        fault.skip -= 1
                    else:
                        fault.times -= 1
                        return fault
        return None


@dataclass
class Signed:
    """A file that the second host gives to anyone with its signature."""

    path: str
    data: bytes
    expires: float


class Cdn:
    """The second host. It knows signatures, and refuses a token as S3 does."""

    def __init__(self) -> None:
        self.lifetime = 3600.0  # seconds for which an address is good
        self.signed: dict[str, Signed] = {}
        self.ranges: list[tuple[str, int, int]] = []  # what was sent: path, start, stop
        self.refused: list[str] = []  # why
        self.most_at_once = self._at_once = 0
        self.gather = 0  # answers wait until so many requests were there at once
        self.lock = threading.Condition()
        handler = type("Handler", (_CdnHandler,), {"cdn": self})
        self._server = LoopbackServer(handler)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def sign(self, path: str, data: bytes) -> str:
        signature = str(len(self.signed))
        expires = time.time() + self.lifetime
        self.signed[signature] = Signed(path, data, expires)
        return f"{self.url}/{hashlib.sha256(data).hexdigest()}?Expires={int(expires)}&Signature={signature}"

    def revoke(self) -> None:
        """No address that was given so far is good any more, whatever it says of itself."""
        for signed in self.signed.values():
            signed.expires = 0.0

    @contextlib.contextmanager
    def one_more(self) -> Iterator[None]:
        with self.lock:
            self._at_once += 1
            self.most_at_once = max(self.most_at_once, self._at_once)
            self.lock.notify_all()
            self.lock.wait_for(lambda: self.most_at_once >= self.gather, 60)
        try:
            yield
        finally:
            with self.lock:
                self._at_once -= 1


class _CdnHandler(BaseHTTPRequestHandler):
    cdn: Cdn
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        with self.cdn.one_more():
            query = parse_qs(urlsplit(self.path).query)
            signed = self.cdn.signed.get(query.get("Signature", [""])[0])
            if "Authorization" in self.headers:
                self.answer(400, b"", "a token came")
            elif signed is None or signed.expires < time.time():
                self.answer(403, b"", "the address has expired")
            else:
                start, stop = map(int, re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers["Range"]).groups())
                data = signed.data[start : stop + 1]
                with self.cdn.lock:
                    self.cdn.ranges.append((signed.path, start, start + len(data)))
                content_range = f"bytes {start}-{start + len(data) - 1}/{len(signed.data)}"
                self.answer(206, data, headers={"Content-Range": content_range})

    def answer(self, status: int, data: bytes, reason: str = "", headers: dict[str, str] | None = None) -> None:
        if reason:
            self.cdn.refused.append(reason)
        self.send_response(status)
        for name, value in {"Content-Length": str(len(data)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(data)


class _Refused(Exception):
    def __init__(self, status: int, code: str | None = None, headers: dict[str, str] | None = None) -> None:
        self.status, self.code, self.headers = status, code, headers or {}


class _Handler(BaseHTTPRequestHandler):
    hub: Hub
    ranges = True  # whether a request for a part of a file is answered with that part
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # else each answer waits 40 ms for the acknowledgement of its headers

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        split = urlsplit(self.path)
        self.query = {name: values[0] for name, values in parse_qs(split.query).items()}
        self.body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        for method, pattern, route in ROUTES:
            if method == self.command and (match := re.fullmatch(pattern, split.path)):
                self.hub.requests[route] += 1
                given = {name: unquote(value) for name, value in match.groupdict().items() if value is not None}
                self._run(route, given)
                return
        self._json({"error": "no such route"}, 404)

    do_HEAD = do_POST = do_PUT = do_GET

    def _run(self, route: str, given: dict[str, str]) -> None:
        fault = self.hub._fault(route)
        if fault and fault.seconds:
            self.hub.ended.wait(fault.seconds)
        try:
            if self.hub.most is not None and self.hub.requests.total() > self.hub.most:
                self.hub.refused += 1
                raise _Refused(429, headers={"Retry-After": "300"})
            if fault and fault.status:
                raise _Refused(fault.status, headers=fault.headers)
            if fault and not fault.lost:
                self.close_connection = True
                return
            with self.hub.lock:
                answer = getattr(self, route)(**given)
            if fault:
                self.close_connection = True
                return
            answer()
        except _Refused as refused:
            headers = {**refused.headers, **({"X-Error-Code": refused.code} if refused.code else {})}
            self._json({"error": f"refused with {refused.status}"}, refused.status, headers)

    def _send(self, status: int, data: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(data)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def _json(self, data: Any, status: int = 200, headers: dict[str, str] | None = None) -> None:
        self._send(status, json.dumps(data).encode(), {"Content-Type": "application/json", **(headers or {})})

    def _may_write(self) -> None:
        given = self.headers.get("Authorization", "")
        if not given:
            raise _Refused(401)
        if given != f"Bearer {TOKEN}":
            raise _Refused(403)

    def _repository(self, repo: str) -> Repository:
        repository = self.hub.repositories.get(repo)
        if repository is None or (repository.private and not self.headers.get("Authorization")):
            raise _Refused(404, "RepoNotFound")
        return repository

    def _commit(self, repo: str, revision: str) -> tuple[str, dict[str, File]]:
        repository = self._repository(repo)
        oid = repository.find(revision)
        if oid is None:
            raise _Refused(404, "RevisionNotFound")
        return oid, repository.commits[oid]

    # What follows are the routes. Each does its work and returns what sends the answer.

    def whoami(self):
        self._may_write()
        return lambda: self._json(self.hub.identity)

    def validate_yaml(self):
        return lambda: self._json({"errors": [], "warnings": []})

    def create(self):
        self._may_write()
        asked = json.loads(self.body)
        name = f"{asked.get('organization') or 'tester'}/{asked['name']}"
        url = f"{self.hub.url}/datasets/{name}"
        if name in self.hub.repositories:
            return lambda: self._json({"error": "You already created this dataset repo", "url": url}, 409)
        repository = self.hub.repositories[name] = Repository(
            asked.get("visibility") == "private" or bool(asked.get("private"))
        )
        attributes = "".join(f"*{suffix} filter=lfs diff=lfs merge=lfs -text\n" for suffix in LFS_SUFFIXES)
        repository.add("main", {".gitattributes": File(attributes.encode())}, "initial commit")
        return lambda: self._json({"url": url, "id": name, "name": name})

    def preupload(self, repo: str, revision: str):
        self._may_write()
        _, committed = self._commit(repo, revision)
        files = []
        for asked in json.loads(self.body)["files"]:
            path = asked["path"]
            mode = "lfs" if path.endswith(LFS_SUFFIXES) else "regular"
            known = {"oid": committed[path].sha256 or committed[path].blob_id} if path in committed else {}
            files.append({"path": path, "uploadMode": mode, "shouldIgnore": False, **known})
        return lambda: self._json({"files": files})

    def commit(self, repo: str, revision: str):
        self._may_write()
        _, committed = self._commit(repo, revision)
        files = dict(committed)
        message = ""
        for line in self.body.splitlines():
            item = json.loads(line)
            value = item["value"]
            if item["key"] == "header":
                message = value["summary"]
            elif item["key"] == "file":
                files[value["path"]] = File(base64.b64decode(value["content"]))
            elif item["key"] == "lfsFile":
                if value["oid"] not in self.hub.objects:
                    raise _Refused(400)
                files[value["path"]] = File(self.hub.objects[value["oid"]], value["oid"])
            elif item["key"] == "deletedFile":
                del files[value["path"]]
            else:
                raise _Refused(400)
        oid = self.hub.repositories[repo].add(revision, files, message)
        url = f"{self.hub.url}/datasets/{repo}/commit/{oid}"
        return lambda: self._json({"success": True, "commitOid": oid, "commitUrl": url})

    def branch(self, repo: str, revision: str):
        self._may_write()
        refs = self._repository(repo).refs
        if revision in refs:
            raise _Refused(409)
        refs[revision] = refs["main"]
        return lambda: self._json({})

    def tag(self, repo: str, revision: str):
        self._may_write()
        oid, _ = self._commit(repo, revision)
        name = json.loads(self.body)["tag"]
        if name in self._repository(repo).refs:
            raise _Refused(409)
        self._repository(repo).refs[name] = oid
        return lambda: self._json({})

    def info(self, repo: str, revision: str = "main"):
        oid, files = self._commit(repo, revision)
        answer = {
            "_id": "1",
            "id": repo,
            "sha": oid,
            "private": self._repository(repo).private,
            "gated": False,
            "disabled": False,
            "downloads": 0,
            "likes": 0,
            "tags": [],
            "author": repo.split("/")[0],
            "siblings": [{"rfilename": path} for path in sorted(files)],
            "lastModified": "2024-01-01T00:00:00.000Z",
            "createdAt": "2024-01-01T00:00:00.000Z",
        }
        return lambda: self._json(answer)

    def tree(self, repo: str, revision: str, path: str = ""):
        _, files = self._commit(repo, revision)
        prefix = f"{path.strip('/')}/" if path.strip("/") else ""
        inside = {name: file for name, file in files.items() if name.startswith(prefix)}
        if prefix and not inside:
            raise _Refused(404, "EntryNotFound")
        recursive = self.query.get("recursive", "").lower() == "true"
        entries = {}
        for name, file in sorted(inside.items()):
            parts = name[len(prefix) :].split("/")
            for depth in range(1, len(parts) if recursive else min(2, len(parts))):
                folder = prefix + "/".join(parts[:depth])
                entries[folder] = self._folder(folder)
            if recursive or len(parts) == 1:
                entries[name] = file.entry(name)
        return lambda: self._json(list(entries.values()))

    @staticmethod
    def _folder(path: str) -> dict[str, Any]:
        return {"type": "directory", "path": path, "size": 0, "oid": hashlib.sha1(path.encode()).hexdigest()}

    def paths_info(self, repo: str, revision: str):
        _, files = self._commit(repo, revision)
        if self.headers.get("Content-Type", "").startswith("application/json"):
            paths = json.loads(self.body)["paths"]
        else:
            paths = parse_qs(self.body.decode())["paths"]
        entries = [files[path].entry(path) for path in paths if path in files]
        entries += [self._folder(path) for path in paths if any(name.startswith(f"{path}/") for name in files)]
        return lambda: self._json(entries)

    def lfs_batch(self, repo: str):
        self._may_write()
        objects = []
        for asked in json.loads(self.body)["objects"]:
            answer = {"oid": asked["oid"], "size": asked["size"]}
            if asked["oid"] not in self.hub.objects:
                answer["actions"] = {
                    "upload": {"href": f"{self.hub.url}/lfs/{asked['oid']}", "header": {}},
                    "verify": {"href": f"{self.hub.url}/lfs/verify", "header": {}},
                }
            objects.append(answer)
        return lambda: self._json({"transfer": "basic", "objects": objects})

    def lfs_put(self, oid: str):
        if hashlib.sha256(self.body).hexdigest() != oid:
            raise _Refused(400)
        self.hub.objects[oid] = self.body
        return lambda: self._json({})

    def lfs_verify(self):
        return lambda: self._json({}, 200 if json.loads(self.body)["oid"] in self.hub.objects else 404)

    def resolve(self, repo: str, revision: str, path: str):
        oid, files = self._commit(repo, revision)
        if path not in files:
            raise _Refused(404, "EntryNotFound", {"X-Repo-Commit": oid})
        file = files[path]
        headers = {
            "X-Repo-Commit": oid,
            "ETag": f'"{file.sha256 or file.blob_id}"',
            "Accept-Ranges": "bytes",
            "Content-Type": "application/octet-stream",
        }
        if file.sha256:
            headers |= {"X-Linked-Etag": f'"{file.sha256}"', "X-Linked-Size": str(len(file.data))}
        if file.sha256 and self.hub.cdn:
            location = self.hub.cdn.sign(path, file.data)
            return lambda: self._send(302, b"", headers | {"Location": location})
        wanted = re.fullmatch(r"bytes=(\d*)-(\d*)", self.headers.get("Range", ""))
        if not wanted or not self.ranges:
            self.hub.ranges.append((path, 0, len(file.data)))
            return lambda: self._send(200, file.data, headers)
        total = len(file.data)
        start = int(wanted[1]) if wanted[1] else max(total - int(wanted[2]), 0)
        stop = min(int(wanted[2]) + 1, total) if wanted[1] and wanted[2] else total
        if start >= total:
            raise _Refused(416, headers={"Content-Range": f"bytes */{total}"})
        headers["Content-Range"] = f"bytes {start}-{stop - 1}/{total}"
        self.hub.ranges.append((path, start, stop))
        return lambda: self._send(206, file.data[start:stop], headers)
