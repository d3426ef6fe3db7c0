"""Small files of a dataset in the hub client's own cache, by commit: they are fetched once for each.

The layout is the client's (https://huggingface.co/docs/huggingface_hub/guides/manage-cache): `blobs/` holds each
content under the name that the hub gives it, `snapshots/<commit>/` links by path, `refs/` the commit of each branch.
So `hf download` and this package use each other's files, and `hf cache` lists and removes them.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import re
import shutil
import uuid
from collections.abc import Iterable, Iterator

from mmm_rs_reading.addresses import COMMIT

READ_AT_ONCE = 1 << 20  # bytes
HASH = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")

_NO_FOLLOW = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0)
_NO_LINKS = (errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS)  # this file system has no symbolic links
_NO_PRIVILEGE = 1314  # of Windows: this user must not make symbolic links


class HubCache:
    """The cache of one dataset. `folder`: its folder there. `path`: of the files that are read, within the dataset."""

    def __init__(self, folder: str, path: str = "") -> None:
        self.folder, self.path = folder, path

    def find(self, commit: str, name: str) -> str | None:
        """The path of a file here; None if it is not there, or not what it was."""
        link = self._path("snapshots", commit, self.path, name)
        try:
            if link is None or not os.path.isfile(link):
                return None
            blob = os.path.join(os.path.dirname(link), os.readlink(link)) if os.path.islink(link) else link
            tag = os.path.basename(blob)
            if not HASH.fullmatch(tag) or _is_content(blob, tag):  # only a hash says what the content must be
                return link
            os.unlink(blob)
        except OSError:
            pass
        return None

    def keep(
        self, commit: str, name: str, parts: Iterable[bytes | memoryview], tag: str, branch: str | None = None
    ) -> str | None:
        """Write a file. Returns its path; None if it cannot be written or is not what the hub says of its content.

        `branch`: only if the hub has just said that this one is at the commit. Raises what `parts` raises.
        """
        link = self._path("snapshots", commit, self.path, name)
        blob = os.path.join(self.folder, "blobs", tag)
        path = _temporary(blob)
        if link is None:
            return None
        try:
            for folder in (os.path.dirname(blob), os.path.dirname(link)):
                os.makedirs(folder, exist_ok=True)
            fd = _new_file(path)
        except OSError:
            return None
        with _removed_afterwards(path):
            try:
                if not _write(fd, parts) or not _is_content(path, tag):
                    return None
                os.replace(path, blob)
                _replace_link(os.path.relpath(blob, os.path.dirname(link)), link)
                if branch is not None:
                    self._note_branch(commit, branch)
                return link
            except OSError:
                return None

    def _note_branch(self, commit: str, branch: str) -> None:
        path = self._path("refs", branch)
        if path is not None and not COMMIT.fullmatch(branch):
            os.makedirs(os.path.dirname(path), exist_ok=True)
            temporary = _temporary(path)
            with _removed_afterwards(temporary):
                with open(_new_file(temporary), "w") as file:
                    file.write(commit)
                os.replace(temporary, path)

    def _path(self, *parts: str) -> str | None:
        """A path below the folder; None if it would lead out of it."""
        names = [name for part in parts for name in part.split("/") if name]
        return None if {".", ".."} & {*names} else os.path.join(self.folder, *names)


def _write(fd: int, parts: Iterable[bytes | memoryview]) -> bool:
    """Write all parts; False if the disk does not take them."""
    with open(fd, "wb", buffering=0) as file:
        for part in parts:
            view = memoryview(part)
            while view:
                try:
                    view = view[file.write(view) :]
                except OSError:
                    return False
    return True


def _is_content(path: str, tag: str) -> bool:
    """Whether a file's content has this name: git's hash of it, or for large files the sha256."""
    digest = hashlib.sha256() if len(tag) == 64 else hashlib.sha1(b"blob %d\0" % os.path.getsize(path))
    with open(path, "rb") as file:
        while data := file.read(READ_AT_ONCE):
            digest.update(data)
    return digest.hexdigest() == tag


def _temporary(path: str) -> str:
    return f"{path}.{uuid.uuid4().hex[:8]}.incomplete"


def _new_file(path: str) -> int:
    """A file to write to that nobody has made before, as a link perhaps to another one."""
    return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | _NO_FOLLOW, 0o666)


@contextlib.contextmanager
def _removed_afterwards(path: str) -> Iterator[None]:
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            os.unlink(path)


def _replace_link(target: str, link: str) -> None:
    """A symbolic link; where the system has none, a copy of the file."""
    temporary = _temporary(link)
    with _removed_afterwards(temporary):
        try:
            os.symlink(target, temporary)
        except OSError as error:
            if error.errno not in _NO_LINKS and getattr(error, "winerror", None) != _NO_PRIVILEGE:
                raise
            source = os.path.join(os.path.dirname(link), target)
            with open(source, "rb") as file, open(_new_file(temporary), "wb") as copy:
                shutil.copyfileobj(file, copy, READ_AT_ONCE)
        os.replace(temporary, link)
