"""Reading over a network, fast and patient. It announces itself to `mmm_rs` by the entry point group `mmm_rs.files`.

- `retries`: which errors of a request pass, and how long to wait before the next try; uploads use it too.
- `files`: the files of a remote folder, read by ranges that are checked and tried again.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mmm_rs_reading.files import RemoteFiles


def open_files(url: str, options: Mapping[str, Any], token: bool | str | None) -> RemoteFiles:
    """The files of the folder behind an fsspec URL, as `mmm_rs.Files` describes them."""
    options = dict(options)
    if url.startswith("hf://") and token is not None:
        options.setdefault("token", token)
    return RemoteFiles(url, options)
