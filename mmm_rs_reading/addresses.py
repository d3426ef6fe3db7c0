"""Where the files of a folder are: addresses at its own host, and the signed ones that this host redirects to.

The hub answers a request for a large file with a redirect to a signed address at another host, good for about an hour.
It counts these requests, so a signed address is asked for once, kept while it is valid, and shared with the other
processes of the node. The token goes to the folder's own host alone.
"""

from __future__ import annotations

import datetime
import email.utils
import os
import re
import time
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qs, quote, unquote, urljoin, urlsplit

from mmm_rs import ForkSafeLock
from mmm_rs_reading import node

MARGIN = 60.0  # seconds before its end at which a signed address is no longer used
LONGEST_LIFE = 86400.0  # seconds for which an address that another process kept is believed, at most
COMMIT = re.compile(r"[0-9a-f]{40}")
HUB = re.compile(
    r"hf://datasets/(?P<repo>[^/@]+/[^/@]+)(?:@(?P<revision>refs/(?:convert|pr)/[^/]+|[^/]+))?(?:/(?P<path>.*))?"
)


@dataclass(frozen=True)
class Address:
    """Where one file can be read."""

    url: str
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)  # with the token, if it is the folder's host
    expires: float | None = None  # seconds since the epoch; None: not known
    size: int | None = None  # of the file in bytes, if the folder's host said it
    tag: str | None = None  # a hash of its content, if the folder's host said it: see `content_tag`

    @property
    def is_valid(self) -> bool:
        return self.expires is None or time.time() < self.expires


class Addresses:
    """The addresses of a folder's files. Threads may use it together; a copy in another process keeps what is known."""

    def __init__(
        self, base: str, headers: Mapping[str, str], revision: str | None = None, notes: node.Node | None = None
    ) -> None:
        """`base`: the folder's URL. For the hub it has `{revision}` in the place of the revision.
        `notes`: what is shared with the other processes of this node."""
        self._base, self._headers, self._revision = base, dict(headers), revision
        self.notes = notes
        self.branch = revision or ""  # or tag, or commit, that was asked for
        self._kept: dict[str, Address] = {}
        self._refused: set[str] = set()  # addresses that no longer work, which a note may still have
        self._locks: dict[str, ForkSafeLock] = {}
        self._lock = ForkSafeLock()

    def __getstate__(self) -> dict[str, Any]:
        # Copies, as threads may add to them.
        return {**self.__dict__, "_kept": dict(self._kept), "_refused": set(self._refused), "_locks": {}}

    def own(self, name: str) -> Address:
        """The file at the folder's own host."""
        base = self._base if self._revision is None else self._base.format(revision=quote(self._revision, safe=""))
        return Address(f"{base}/{quote(name)}", self._headers)

    def kept(self, name: str) -> Address | None:
        """The address that is known of a file, if it is still valid."""
        address = self._kept.get(name)
        return address if address is not None and address.is_valid and address.url not in self._refused else None

    def lock(self, name: str) -> ForkSafeLock:
        """Held by the one thread that asks for a file's address."""
        with self._lock:
            return self._locks.setdefault(name, ForkSafeLock())

    def node_lock(self, name: str, wait: float = node.WAIT) -> AbstractContextManager[None]:
        """Held by the one process of this node that asks for something; after a long wait by each."""
        return nullcontext() if self.notes is None else self.notes.lock(name, wait)

    def keep(self, name: str, address: Address) -> None:
        """Keep an address that the folder's own host has just given."""
        self._refused.discard(address.url)
        self._kept[name] = address
        if self.notes is not None and self.commit and address.expires is not None and not self.is_own(address):
            known = {"url": address.url, "expires": address.expires, "size": address.size, "tag": address.tag}
            self.notes.write(f"{self.commit} {name}", known)

    def recall(self, name: str) -> Address | None:
        """The address that another process of this node keeps. It never carries the token."""
        note = self.notes.read(f"{self.commit} {name}") if self.notes is not None and self.commit else None
        address = None if note is None else _noted_address(note)
        if address is None or not _is_as_safe(address.url, self._base) or self.is_own(address):
            return None
        if address.url in self._refused:
            return None
        self._kept[name] = address
        return address

    def forget(self, name: str, address: Address) -> None:
        """The address was refused. Another thread or process may have put a new one in its place already."""
        if not self.is_own(address):
            self._refused.add(address.url)
        if self._kept.get(name) == address:
            self._kept.pop(name, None)
        note = self.notes.read(f"{self.commit} {name}") if self.notes is not None else None
        if self.notes is not None and note is not None and note.get("url") == address.url:
            self.notes.remove(f"{self.commit} {name}")

    def redirected(self, address: Address, answer_headers: Mapping[str, str]) -> Address:
        """Where an answer from `address` redirects to. What is said of the content counts from the own host alone."""
        url = urljoin(address.url, answer_headers.get("Location", ""))
        size, tag = address.size, address.tag
        if self.is_own(address):
            linked_size = answer_headers.get("X-Linked-Size", "")
            size = int(linked_size) if linked_size.isdigit() else size
            tag = content_tag(answer_headers) or tag
        if _origin(url) == _origin(address.url):
            return Address(url, address.headers, None, size, tag)
        return Address(url, {}, expiry(url, answer_headers.get("Date")), size, tag)

    def is_own(self, address: Address) -> bool:
        """Whether it is at the folder's own host."""
        return _origin(address.url) == _origin(self._base)

    @property
    def commit(self) -> str | None:
        """The commit that is read; None for other servers than the hub, or if it is not known yet."""
        return self._revision if self._revision is not None and COMMIT.fullmatch(self._revision) else None

    def recall_commit(self) -> None:
        """Read the commit that another process of this node has just been given, if none is known yet."""
        note = self.notes.read(f"branch {self.branch}") if self.notes is not None and self.commit is None else None
        if note is not None and node.is_fresh(note.get("asked"), f"{self._base} {self.branch}"):
            self.pin(str(note.get("commit")))
            node.note_asked(f"{self._base} {self.branch}")

    def note_commit(self, asked: float) -> None:
        """Let the other processes of this node know the commit, for which the hub was asked at this moment."""
        node.note_asked(f"{self._base} {self.branch}")
        if self.notes is not None and self.commit and self.commit != self.branch:
            self.notes.sweep()
            self.notes.write(f"branch {self.branch}", {"commit": self.commit, "asked": asked})

    def pin(self, commit: str | None) -> None:
        """From now on read this commit, so that an upload meanwhile does not mix two versions."""
        if self._revision is not None and commit and COMMIT.fullmatch(commit):
            self._revision = commit


def hub_addresses(url: str, endpoint: str | None, token: bool | str | None) -> Addresses | None:
    """The addresses of a dataset on the hub; None if the URL is not of the form `hf://datasets/org/name[@revision]`."""
    from huggingface_hub import constants
    from huggingface_hub.utils import build_hf_headers

    match = HUB.fullmatch(url.rstrip("/"))
    if match is None:
        return None
    base = f"{(endpoint or constants.ENDPOINT).rstrip('/')}/datasets/{match['repo']}/resolve/{{revision}}"
    if match["path"]:
        base += f"/{quote(match['path'])}"
    headers = build_hf_headers(token=token, library_name="mmm-rs")
    notes = node.Node(_hub_lock_folder(match["repo"]), f"{base} {headers.get('authorization')}")
    return Addresses(base, headers, unquote(match["revision"] or "main"), notes)


def hub_cache_folder(repo: str) -> str:
    """Where the hub's client keeps what it has downloaded of a dataset."""
    from huggingface_hub import constants
    from huggingface_hub.file_download import repo_folder_name

    return os.path.join(os.path.expanduser(constants.HF_HUB_CACHE), repo_folder_name(repo_id=repo, repo_type="dataset"))


def _hub_lock_folder(repo: str) -> str:
    """Where the hub's client has its locks of a dataset."""
    folder, name = os.path.split(hub_cache_folder(repo))
    return os.path.join(folder, ".locks", name)


def content_tag(answer_headers: Mapping[str, str]) -> str | None:
    """What the hub says of a file's content: the sha256 of a large file, git's own hash of a small one."""
    tag = answer_headers.get("X-Linked-Etag") or answer_headers.get("ETag") or ""
    tag = tag.removeprefix("W/").strip('"')
    return tag if re.fullmatch(r"[0-9a-f]{40}|[0-9a-f]{64}", tag) else None


def _noted_address(note: Mapping[str, Any]) -> Address | None:
    """The address in a note, if it is one and still valid."""
    url, expires, size, tag = (note.get(name) for name in ("url", "expires", "size", "tag"))
    if not isinstance(url, str) or not isinstance(expires, int | float):
        return None
    if not time.time() < expires < time.time() + LONGEST_LIFE:
        return None
    is_size = isinstance(size, int) and size >= 0
    return Address(url, {}, float(expires), size if is_size else None, tag if isinstance(tag, str) else None)


def _is_as_safe(url: str, base: str) -> bool:
    """Whether a noted URL may be read where `base` is the folder's own: encrypted if that one is."""
    try:
        parts = urlsplit(url)
        safe = parts.scheme == "https" or (parts.scheme == "http" and urlsplit(base).scheme == "http")
        return safe and bool(parts.hostname) and "@" not in parts.netloc
    except ValueError:
        return False


def expiry(url: str, answered: str | None) -> float | None:
    """When a signed address ends, in seconds since the epoch by this machine's clock; None if it does not say.

    `answered`: the `Date` of the answer that gave it, by which a wrong clock of this machine does no harm.
    """
    query = {name.lower(): values[0] for name, values in parse_qs(urlsplit(url).query).items()}
    now = time.time()
    try:
        server_now = email.utils.parsedate_to_datetime(answered or "").timestamp()
    except (TypeError, ValueError):
        server_now = now
    try:
        if "x-amz-expires" in query:
            signed = datetime.datetime.strptime(query["x-amz-date"], "%Y%m%dT%H%M%SZ")
            end = signed.replace(tzinfo=datetime.timezone.utc).timestamp() + float(query["x-amz-expires"])
        else:
            end = float(query["expires"])
    except (KeyError, ValueError):
        return None
    lifetime = end - server_now
    return now + lifetime - min(MARGIN, lifetime / 4)


def _origin(url: str) -> tuple[str, str, int | None]:
    parts = urlsplit(url)
    return parts.scheme, parts.hostname or "", parts.port or {"http": 80, "https": 443}.get(parts.scheme)
