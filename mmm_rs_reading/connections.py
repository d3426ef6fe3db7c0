"""HTTP connections of a process: kept alive, shared by its threads, and opened again in a forked child.

Proxies and certificates are taken from the environment, as other clients do: `HTTPS_PROXY`, `HTTP_PROXY`, `NO_PROXY`;
`REQUESTS_CA_BUNDLE`, `CURL_CA_BUNDLE`, `SSL_CERT_FILE`, `SSL_CERT_DIR`; by default certifi's or the system's own.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import urllib.request
from collections.abc import Mapping
from typing import Any
from urllib.parse import unquote, urlsplit

import urllib3

from mmm_rs import ForkSafeLock

CONNECT = 10.0  # seconds for a connection to be established
SILENCE = 60.0  # seconds without a byte after which a connection counts as lost
KEPT = 64  # idle connections to one host, at most

_lock = ForkSafeLock()
_process = 0
_pools: dict[str | None, urllib3.PoolManager] = {}  # by the proxy's URL


def get(url: str, headers: Mapping[str, str]) -> Any:
    """The answer to a GET request, its body still to be read. Redirects are not followed.

    Raises `urllib3.exceptions.HTTPError`.
    """
    return _pool(_proxy(url)).request(
        "GET",
        url,
        headers={**headers, "Accept-Encoding": "identity"},
        redirect=False,
        retries=False,
        timeout=urllib3.Timeout(connect=CONNECT, read=SILENCE),
        preload_content=False,
        decode_content=False,
        enforce_content_length=True,
    )


def _pool(proxy: str | None) -> urllib3.PoolManager:
    global _process
    with _lock:
        if _process != os.getpid():
            _pools.clear()  # a forked process cannot use the connections of its parent
            _process = os.getpid()
        if proxy not in _pools:
            _pools[proxy] = _connected(proxy)
        return _pools[proxy]


def _connected(proxy: str | None) -> urllib3.PoolManager:
    settings: dict[str, Any] = {"maxsize": KEPT, "cert_reqs": "CERT_REQUIRED", **_certificates()}
    if proxy is None:
        return urllib3.PoolManager(**settings)
    if proxy.startswith("socks"):
        from urllib3.contrib.socks import SOCKSProxyManager

        return SOCKSProxyManager(proxy, **settings)
    parts = urlsplit(proxy)
    login = f"{unquote(parts.username)}:{unquote(parts.password or '')}" if parts.username else None
    headers = urllib3.make_headers(proxy_basic_auth=login) if login else None
    return urllib3.ProxyManager(proxy, proxy_headers=headers, **settings)


def _proxy(url: str) -> str | None:
    """The proxy that the environment names for a URL."""
    parts = urlsplit(url)
    proxies = urllib.request.getproxies()
    proxy = proxies.get(parts.scheme) or proxies.get("all")
    if not proxy or urllib.request.proxy_bypass(parts.netloc.rpartition("@")[2]):
        return None
    return proxy if "://" in proxy else f"http://{proxy}"


def _certificates() -> dict[str, str]:
    for name in ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSL_CERT_FILE", "SSL_CERT_DIR"):
        if path := os.environ.get(name):
            return {"ca_cert_dir" if os.path.isdir(path) else "ca_certs": path}
    with contextlib.suppress(ImportError):
        return {"ca_certs": importlib.import_module("certifi").where()}
    return {}
