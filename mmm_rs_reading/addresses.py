"""Where the files of a folder are: addresses at its own host, and the signed ones that this host redirects to.

The hub answers a request for a large file with a redirect to a signed address at another host, good for about an hour.
It counts these requests, so a signed address is asked for once and kept while it is valid. The token goes to the
folder's own host alone.
"""

from __future__ import annotations

import datetime
import email.utils
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qs, quote, unquote, urljoin, urlsplit

from mmm_rs import ForkSafeLock

MARGIN = 60.0  # seconds before its end at which a signed address is no longer used
HUB = re.compile(
    r"hf://datasets/(?P<repo>[^/@]+/[^/@]+)(?:@(?P<revision>refs/(?:convert|pr)/[^/]+|[^/]+))?(?:/(?P<path>.*))?"
)


@dataclass(frozen=True)
class Address:
    """Where one file can be read."""

    url: str
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)  # with the token, if it is the folder's host
    expires: float | None = None  # seconds since the epoch; None: not known

    @property
    def is_valid(self) -> bool:
        return self.expires is None or time.time() < self.expires


class Addresses:
    """The addresses of a folder's files. Threads may use it together; a copy in another process keeps what is known."""

    def __init__(self, base: str, headers: Mapping[str, str], revision: str | None = None) -> None:
        """`base`: the folder's URL. For the hub it has `{revision}` in the place of the revision."""
        self._base, self._headers, self._revision = base, dict(headers), revision
        self._kept: dict[str, Address] = {}
        self._locks: dict[str, ForkSafeLock] = {}
        self._lock = ForkSafeLock()

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_kept": dict(self._kept), "_locks": {}}  # copies, as threads may add to them

    def own(self, name: str) -> Address:
        """The file at the folder's own host."""
        base = self._base if self._revision is None else self._base.format(revision=quote(self._revision, safe=""))
        return Address(f"{base}/{quote(name)}", self._headers)

    def kept(self, name: str) -> Address | None:
        """The address that is known of a file, if it is still valid."""
        address = self._kept.get(name)
        return address if address is not None and address.is_valid else None

    def lock(self, name: str) -> ForkSafeLock:
        """Held by the one thread that asks for a file's address."""
        with self._lock:
            return self._locks.setdefault(name, ForkSafeLock())

    def keep(self, name: str, address: Address) -> None:
        self._kept[name] = address

    def forget(self, name: str, address: Address) -> None:
        """The address was refused. Another thread may have put a new one in its place already."""
        if self._kept.get(name) == address:
            self._kept.pop(name, None)

    def redirected(self, address: Address, location: str, answered: str | None) -> Address:
        """Where an answer from `address` redirects to. `answered`: the answer's `Date`."""
        url = urljoin(address.url, location)
        if _origin(url) == _origin(address.url):
            return Address(url, address.headers)
        return Address(url, expires=expiry(url, answered))

    def is_own(self, address: Address) -> bool:
        """Whether it is at the folder's own host."""
        return _origin(address.url) == _origin(self._base)

    def pin(self, commit: str | None) -> None:
        """From now on read this commit, so that an upload meanwhile does not mix two versions."""
        if self._revision is not None and commit and re.fullmatch(r"[0-9a-f]{40}", commit):
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
    return Addresses(base, headers, unquote(match["revision"] or "main"))


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
