"""What the processes of a node tell one another about a dataset on the hub, so that the hub is asked once for all.

These are small files in a folder of the hub client's cache, where that client has its own locks: there, a dataset that
cannot be reached leaves no folder that looks like a damaged one. They say which commit a branch was at, and the signed
addresses of files. Anyone who has a signed address can read its file for about an hour, so folder and files belong to
one user, who alone can read them. What is found in them is checked as if a stranger had written it, and no token is
ever sent to an address from there. Without a folder that can be written to, each process asks for itself.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import stat
import tempfile
import time
import zlib
from collections.abc import Iterator, Mapping
from typing import Any

import filelock

WAIT = 60.0  # seconds that a process waits for another one of the node before it asks the hub itself
POLL = 0.02  # seconds between two looks whether the other one is done
COMMIT_AGE = 300.0  # seconds for which a commit is believed, at most: the hub counts requests in windows of this length
KEPT = 2 * 86400.0  # seconds after which a file that nobody has written to is removed
LONGEST = 64 << 10  # bytes of a file that is read


class Node:
    """Notes about one dataset, as one token sees it. They never raise an error: one that cannot be read is ignored."""

    def __init__(self, folder: str, identity: str) -> None:
        """`folder`: of the dataset's locks in the hub client's cache. `identity`: of hub, dataset and token."""
        user = os.getuid() if hasattr(os, "getuid") else "user"
        self._top = os.path.join(folder, f".mmm-rs-{user}")
        self._folder = os.path.join(self._top, hashlib.sha256(identity.encode()).hexdigest()[:32])

    @contextlib.contextmanager
    def lock(self, name: str, wait: float = WAIT) -> Iterator[None]:
        """Held by one process of the node; after a long wait, or without a folder, by each."""
        held = None
        if self._is_private(create=True):
            lock = filelock.FileLock(os.path.join(self._folder, f"{name}.lock"), mode=0o600)
            with contextlib.suppress(OSError, NotImplementedError, filelock.Timeout):
                held = lock.acquire(timeout=wait, poll_interval=POLL)
        try:
            yield
        finally:
            if held is not None:
                with contextlib.suppress(OSError):
                    held.lock.release()

    def read(self, name: str) -> dict[str, Any] | None:
        """The note of this name."""
        if not self._is_private():
            return None
        try:
            fd = os.open(self._path(name), os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0))
            with open(fd, "rb") as file:
                data = file.read(LONGEST) if _is_private(os.fstat(fd), stat.S_ISREG) else b""
            checksum, _, text = data.partition(b" ")
            note = json.loads(text) if checksum == b"%08x" % zlib.crc32(text) else None
        except (OSError, ValueError, RecursionError):
            return None
        return note if isinstance(note, dict) and note.get("name") == name else None

    def write(self, name: str, note: Mapping[str, Any]) -> None:
        """Replace the note of this name."""
        if not self._is_private(create=True):
            return
        text = json.dumps({**note, "name": name}).encode()
        with contextlib.suppress(OSError):
            fd, path = tempfile.mkstemp(dir=self._folder)  # which only this user can read
            try:
                with open(fd, "wb") as file:
                    file.write(b"%08x %s" % (zlib.crc32(text), text))
                os.replace(path, self._path(name))
            except OSError:
                os.unlink(path)

    def remove(self, name: str) -> None:
        if self._is_private():
            with contextlib.suppress(OSError):
                os.unlink(self._path(name))

    def sweep(self) -> None:
        """Remove the notes that are too old to be of use."""
        with contextlib.suppress(OSError):
            for entry in os.scandir(self._folder):
                if entry.stat(follow_symlinks=False).st_mtime < time.time() - KEPT:
                    os.unlink(entry.path)

    def _path(self, name: str) -> str:
        return os.path.join(self._folder, f"{hashlib.sha256(name.encode()).hexdigest()[:32]}.json")

    def _is_private(self, create: bool = False) -> bool:
        """Whether there is a folder that this user alone can read and write."""
        try:
            if create:
                os.makedirs(os.path.dirname(self._top), exist_ok=True)
                for folder in (self._top, self._folder):
                    with contextlib.suppress(FileExistsError):
                        os.mkdir(folder, 0o700)
            return all(_is_private(os.lstat(folder), stat.S_ISDIR) for folder in (self._top, self._folder))
        except OSError:
            return False


def _is_private(status: os.stat_result, is_kind: Any) -> bool:
    """Whether something is of this kind, belongs to this user, and is closed to all others."""
    if not is_kind(status.st_mode):
        return False
    return not hasattr(os, "getuid") or (status.st_uid == os.getuid() and not status.st_mode & 0o077)


_asked: dict[str, float] = {}  # when this process was last given the commit, by dataset and branch


def is_fresh(asked: Any, key: str) -> bool:
    """Whether another process's answer is as good as asking now: it came after this process had begun, and after this
    process last wanted to know. So processes that start together share one answer, and a process that starts after an
    upload, or opens the dataset once more, sees the upload."""
    now = time.time()
    if not isinstance(asked, int | float) or not now - COMMIT_AGE < asked <= now:
        return False
    return asked >= max(_process_start(), _asked.get(key, 0.0))


def note_asked(key: str) -> None:
    _asked[key] = time.time()


_imported = time.time()


def _process_start() -> float:
    """When this process began, in seconds since the epoch."""
    try:  # Linux counts it in ticks since the machine was started
        with open("/proc/self/stat") as file:
            ticks = int(file.read().rpartition(")")[2].split()[19])
        return time.time() - (time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / os.sysconf("SC_CLK_TCK"))
    except (OSError, ValueError, IndexError, AttributeError):
        return _imported
