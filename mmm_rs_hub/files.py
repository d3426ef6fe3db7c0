"""Files here and on the hub, compared by size and checksum: what is sent and what proves it."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from conversion.errors import OutputError

BLOCK = 1 << 20  # bytes


@dataclass(frozen=True)
class LocalFile:
    """A file to be sent. `blob_id` is git's own checksum, which the hub gives of small text files."""

    path: str
    size: int
    sha256: str
    blob_id: str


@dataclass(frozen=True)
class RemoteFile:
    """A file on the hub. One of `sha256` and `blob_id` tells its content."""

    size: int
    sha256: str | None
    blob_id: str | None

    def equals(self, file: LocalFile) -> bool:
        """Whether size and checksum are those of `file`."""
        same = self.sha256 == file.sha256 if self.sha256 else self.blob_id == file.blob_id
        return same and self.size == file.size


Listing = Mapping[str, RemoteFile]
"""The files of a revision by path."""


def holds(listing: Listing, file: LocalFile) -> bool:
    """Whether the hub has this file as it is here."""
    return file.path in listing and listing[file.path].equals(file)


def shard_file(shard: Mapping[str, Any]) -> LocalFile:
    """A shard as the manifest has it. It is not read again: it was verified."""
    return LocalFile(shard["name"], shard["bytes"], shard["sha256"], "")


def local_file(out: Path, path: Path) -> LocalFile:
    """A file of the folder `out` with its checksums.

    Raises OutputError if it is missing or cannot be read.
    """
    name = path.relative_to(out).as_posix()
    try:
        length = path.stat().st_size
        sha256, blob = hashlib.sha256(), hashlib.sha1(b"blob %d\0" % length)
        with open(path, "rb") as file:
            while block := file.read(BLOCK):
                sha256.update(block)
                blob.update(block)
    except FileNotFoundError:
        raise OutputError(f"{path}: not found. Run `mmm-rs card {out}`, or convert again") from None
    except OSError as error:
        raise OutputError(
            f"{path}: cannot be read: {error.strerror}. Fix it, then run the same command again"
        ) from None
    return LocalFile(name, length, sha256.hexdigest(), blob.hexdigest())
