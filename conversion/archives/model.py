"""What an archive, an entry's problem and the errors are, for all modules of the reader."""

from __future__ import annotations

import errno
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
import pyarrow as pa

from conversion.disk import shortage
from conversion.errors import MMMRSError, ReleaseError
from conversion.findings import IMAGE_REASONS

MiB = 1 << 20
STORED, DEFLATED = 0, 8
METHODS = {
    1: "shrink",
    2: "reduce",
    3: "reduce",
    4: "reduce",
    5: "reduce",
    6: "implode",
    9: "deflate64",
    10: "PKWARE implode",
    12: "bzip2",
    14: "lzma",
    16: "CMPSC",
    18: "terse",
    19: "LZ77",
    20: "zstd (old)",
    93: "zstd",
    94: "mp3",
    95: "xz",
    96: "jpeg",
    97: "wavpack",
    98: "ppmd",
    99: "AES encryption",
}
# What the directory alone shows to be wrong, by falling weight: the first that holds is an entry's `problem`. What they
# mean is in `findings.IMAGE_REASONS`.
PROBLEMS = (
    "unsafe_name",
    "link",
    "not_a_file",
    "encrypted",
    "unsupported_version",
    "unsupported_compression",
    "bad_directory_entry",
    "size_mismatch",
    "bad_local_header",
    "overlap",
    "unreadable_folder",
)
PROBLEM_NUMBER = {code: number for number, code in enumerate(PROBLEMS)}

SCHEMA = pa.schema(
    [
        ("name", pa.string()),
        ("file", pa.binary()),
        ("offset", pa.int64()),
        ("packed", pa.int64()),
        ("size", pa.int64()),
        ("crc", pa.uint32()),
        ("method", pa.uint16()),
        ("flags", pa.uint16()),
        ("problem", pa.string()),
    ]
)
# Key in a table's metadata: what is wrong with the archive as a whole, where it is read all the same.
DAMAGE = b"damage"

AGAIN = "Download it again"


class ArchiveError(ReleaseError):
    """A whole archive cannot be read. Its text is `<label>: <detail>. <remedy>`, one line; `code` is one of
    `findings.PROBLEMS`."""

    def __init__(self, label: str, detail: str, remedy: str, code: str = "unreadable_archive") -> None:
        super().__init__(label, detail, remedy, code)
        self.label, self.detail, self.remedy, self.code = label, detail, remedy, code

    def __str__(self) -> str:
        return f"{self.label}: {self.detail}. {self.remedy}"


class DamagedEntry(ReleaseError):
    """One entry cannot be read whole.

    `reason` is one of crc_mismatch, truncated, bad_local_header, size_mismatch, inflate_error, too_large, missing_file,
    read_error; `detail` says it for people. Callers make a row of the report of it.
    """

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(reason, detail)
        self.reason, self.detail = reason, detail

    def __str__(self) -> str:
        return f"{self.reason}: {self.detail}"


# Columns of the table that say where an entry is; `Entry.of` takes a row that has them.
ENTRY_COLUMNS = ("offset", "packed", "size", "crc", "method", "file")


class Entry(NamedTuple):  # made for each image, and four times as fast as a frozen dataclass
    """One file of an archive, as its row in the table of `read_entries` states it. Sizes are bytes.

    `name` is compared with the local header's, from its last part back, so a path that begins in any folder will do; an
    empty one is not compared.
    """

    offset: int
    packed: int
    size: int
    crc: int | None
    method: int
    file: bytes | None = None
    name: str = ""

    @classmethod
    def of(cls, row: Mapping[str, Any], name: str | None = None) -> Entry:
        """The entry of a row that has at least ENTRY_COLUMNS, with the row's `name` unless another is given."""
        columns = {column: row[column] for column in ENTRY_COLUMNS}
        return cls(**columns, name=row["name"] if name is None else name)


@dataclass(frozen=True)
class Archive:
    """Where one container's bytes are. Picklable.

    path: zip file or folder on disk. label: what messages call it, e.g. "MMM-RS.zip/MMM-RS/Inria.zip". start, length:
    the bytes of the zip within `path`, where it is stored in another. inside: the deflated entry that holds the
    zip, which must be inflated to be read; offsets of its entries count from its own first byte.
    """

    path: str
    label: str
    kind: Literal["zip", "folder"]
    start: int = 0
    length: int | None = None
    inside: Entry | None = None


@dataclass(frozen=True)
class Block:
    """Some entries of a directory, as columns."""

    names: pa.Array  # raw, binary
    columns: dict[str, np.ndarray]  # offset (as stated), packed, size, crc, method, flags, as in SCHEMA, and
    # header: its bytes, at least; problem: index into PROBLEMS or -1; folder: mask, by the file's type
    unicode: dict[int, str]  # row -> its Unicode path, where it has one


def explain(problem: str, method: int) -> str:
    """A `problem` of the table as a sentence, with the compression's name where that is the problem."""
    if problem == "unsupported_compression":
        return f"it is compressed with {METHODS.get(method, 'an unknown method')} (method {method}), which is not read"
    return IMAGE_REASONS[problem]


def unreadable(label: str, error: OSError) -> MMMRSError:
    """What to raise where the system does not let an archive be read."""
    if machine := shortage(label, error):
        return machine
    detail = f"it cannot be read ({error.strerror or error})"
    if error.filename is not None:
        detail = f"it cannot be read ({os.fsdecode(error.filename)}: {error.strerror})"
    if error.errno in (errno.EACCES, errno.EPERM):
        return ArchiveError(label, detail, "Give yourself the permission to read it")
    if error.errno == errno.ENOENT:
        return ArchiveError(label, detail, "Put it back")
    return ArchiveError(label, detail, "Copy it to another disk or download it again")


def read_error(label: str, error: OSError) -> MMMRSError:
    """What to raise where the system does not let an entry be read."""
    return shortage(label, error) or DamagedEntry("read_error", f"it cannot be read ({error.strerror or error})")


def crc_mismatch(actual: int, stated: int | None) -> DamagedEntry:
    return DamagedEntry("crc_mismatch", f"the CRC32 of its bytes is {actual:08x}, the directory says {stated:08x}")


def problem_column(problem: np.ndarray) -> pa.Array:
    return pa.array(PROBLEMS, pa.string()).take(pa.array(problem, mask=problem < 0))


def as_mask(values: pa.Array) -> np.ndarray:
    return values.to_numpy(zero_copy_only=False)
