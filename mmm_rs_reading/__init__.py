"""Reading over a network, fast and patient. It announces itself to `mmm_rs` by the entry point group `mmm_rs.files`.

From bottom to top:
- `retries`: which errors of a request pass, and how long to wait before the next try; uploads use it too.
- `connections`: HTTP connections that are kept alive, shared by the threads of a process.
- `node`: what the processes of a node tell one another about a dataset on the hub.
- `addresses`: where the files of a folder are; signed addresses are kept while they are valid.
- `transports`: one request for one byte range, its answer checked.
- `ahead`: threads that do what will be needed soon.
- `cache`: a cache of shards on a disk of the node.
- `files`: the files of a folder as `mmm_rs.Files` describes them; what comes next is read ahead.
- `hub_cache`: small files in the hub client's own cache; `hub`: files whose manifest and index come through it.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from mmm_rs_reading.addresses import HUB, hub_cache_folder
from mmm_rs_reading.cache import open_cache
from mmm_rs_reading.files import RemoteFiles
from mmm_rs_reading.hub import HubFiles
from mmm_rs_reading.hub_cache import HubCache
from mmm_rs_reading.transports import HttpTransport, open_transport


def open_files(
    url: str,
    options: Mapping[str, Any],
    token: bool | str | None,
    read_ahead: int | None = None,
    local_cache: str | os.PathLike[str] | None = None,
    cache_limit: int | str | None = None,
) -> RemoteFiles:
    """The files of the folder behind a URL of the hub, of another server, or of any file system of fsspec.

    `read_ahead`: bytes of images that are read before they are needed; None for the default.
    `local_cache`, `cache_limit`: a folder of the node in which shards are kept, and the bytes that it may take up.
    """
    cache = open_cache(local_cache, cache_limit)
    transport = open_transport(url, options, token)
    if (match := HUB.fullmatch(url.rstrip("/"))) and isinstance(transport, HttpTransport):
        return HubFiles(transport, HubCache(hub_cache_folder(match["repo"]), match["path"] or ""), read_ahead, cache)
    return RemoteFiles(transport, read_ahead, cache)
