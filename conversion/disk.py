"""Files that are whole or not there, and what the file system says when it cannot write them."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import json
import os
import secrets
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from conversion.errors import OutputError

# What a file system says that cannot rename over a file.
NO_REPLACE = (errno.EEXIST, errno.EPERM, errno.EACCES, errno.EINVAL, errno.ENOTSUP, errno.ENOSYS)
TEMPORARY = f".*.{'[0-9a-f]' * 16}.tmp"  # files that `replacing` writes, before they have their name
BUFFER = 1 << 20  # bytes gathered of a file that is written in many small pieces
RESERVE = 64_000_000  # bytes for index, report and card, beside a tenth of the shards' JSON


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[int]:
    """A file descriptor of a temporary file beside `path`, which takes its name at the end; nothing is left on failure.

    An empty file does not take the name.

    Raises OutputError for whatever the file system refuses.
    """
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}.tmp")  # unlike any on another machine
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | getattr(os, "O_CLOEXEC", 0), 0o644)
        try:
            yield fd
            sync(fd)
            empty = os.fstat(fd).st_size == 0
        finally:
            os.close(fd)
        if empty:
            os.unlink(temporary)
            return
        _rename(temporary, path)
        _sync_folder(path.parent)
    except OSError as error:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise output_error(path, error) from error
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise


def write_file(path: Path, data: bytes | memoryview) -> None:
    """Write a whole file. Raises OutputError."""
    with replacing(path) as fd:
        write_all(fd, data)


def write_json(path: Path, data: Any) -> None:
    """Write data as JSON for programs and people: sorted, indented. Raises OutputError."""
    write_file(path, (json.dumps(data, indent=2, sort_keys=True, ensure_ascii=False) + "\n").encode())


def write_all(fd: int, data: bytes | memoryview) -> None:
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(fd, rest) :]


def begin_writeback(fd: int) -> None:
    """Let the disk begin with what was written to a file, without waiting for it, and drop from the page cache what is
    on disk already. Linux does both when it hears that nobody will read the file soon."""
    if hasattr(os, "posix_fadvise"):
        with contextlib.suppress(OSError):
            os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)


def sync(fd: int) -> None:
    try:
        os.fsync(fd)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP, errno.ENOSYS):  # a file system without fsync
            raise


def sync_path(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY)
    try:
        sync(fd)
    finally:
        os.close(fd)


def sync_file_system(path: Path) -> None:
    """Wait until everything that was written to the file system of `path` is on disk: many small files at once."""
    with contextlib.suppress(OSError, AttributeError):  # Linux
        fd = os.open(path, os.O_RDONLY)
        try:
            if ctypes.CDLL(None).syncfs(fd) == 0:
                return
        finally:
            os.close(fd)
    if hasattr(os, "sync"):
        os.sync()


def _sync_folder(folder: Path) -> None:
    """A rename is safe when its folder is on disk. Some file systems do not let a folder be opened: nothing can be done
    there."""
    with contextlib.suppress(PermissionError, IsADirectoryError):
        sync_path(folder)


def _rename(temporary: Path, path: Path) -> None:
    try:
        os.replace(temporary, path)
    except OSError as error:
        if error.errno not in NO_REPLACE or not path.exists():
            raise
        os.unlink(path)  # a kill here leaves no file of this name, and the next run writes it
        os.rename(temporary, path)


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turns what the file system refuses within into an OutputError. `path`: named where the error names no file."""
    try:
        yield
    except OSError as error:
        raise output_error(Path(error.filename or path), error) from None


def shortage(what: str | os.PathLike[str], error: Exception) -> OutputError | None:
    """What to raise where the machine has too little of something, so that nothing is wrong with the file itself."""
    remedy = {
        errno.EMFILE: "Allow more open files (`ulimit -n 4096`)",
        errno.ENFILE: "Close other programs",
        errno.ENOMEM: "Free memory",
    }.get(getattr(error, "errno", None) or 0)
    if remedy is None:
        return None
    why = getattr(error, "strerror", None) or error
    return OutputError(f"{what}: cannot be opened: {why}. {remedy}, then run the same command again")


def check_shortage(what: str | os.PathLike[str], error: Exception) -> None:
    """Raises OutputError where it is the machine that has too little of something: then the file is not damaged."""
    if machine := shortage(what, error):
        raise machine from None


def output_error(path: Path, error: OSError | NotImplementedError) -> OutputError:
    """What the file system refused, with the remedy."""
    remedy = {
        errno.ENOSPC: "Free disk space",
        errno.EDQUOT: "Free space in your quota",
        errno.EFBIG: "Choose a disk that takes files of this size, or a smaller --shard-size",
        errno.EROFS: "Choose an output folder that can be written",
        errno.EACCES: "Fix the permissions of the folder",
        errno.EPERM: "Fix the permissions of the folder",
    }.get(getattr(error, "errno", None) or 0, "Repair the disk or choose another output folder")
    why = getattr(error, "strerror", None) or error
    return OutputError(f"{path}: cannot be written: {why}. {remedy}, then run the same command again")


def disk_needed(sizes: Iterable[int], inner: Iterable[int]) -> int:
    """Bytes that a conversion needs: its output and its compressed inner zips, one subset's at a time.

    `inner`: their size by subset.
    """
    return sum(sizes) + max(inner, default=0) + RESERVE
