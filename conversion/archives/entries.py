"""The table of the files in an archive or folder, and a digest that tells whether they changed."""

from __future__ import annotations

import contextlib
import hashlib
import os
from array import array
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from conversion.archives.directory import entry_table, read_blocks
from conversion.archives.end import find_directory
from conversion.archives.folder import walk
from conversion.archives.inner import Tail
from conversion.archives.model import (
    AGAIN,
    DAMAGE,
    SCHEMA,
    Archive,
    ArchiveError,
    DamagedEntry,
    as_mask,
    crc_mismatch,
    unreadable,
)
from conversion.archives.sources import File


def read_entries(archive: Archive) -> pa.Table:
    """The files of an archive or folder, with columns as in SCHEMA.

    name: logical name, decoded, separated by "/"; no directories, no junk. file: in a folder the real relative path,
    as `os.fsencode` gives it; null in a zip. offset: of the local header, absolute within the archive's `path` (in a
    deflated inner zip within that zip); 0 in a folder. packed, size: bytes. crc: CRC32, null in a folder. problem:
    null, or a key of PROBLEMS. Rows in the order of the directory; a folder's sorted by `file`.

    A deflated inner zip whose own CRC32 is wrong is read all the same, for each entry has one. But none covers names,
    and where deflate made the directory's copy of a name from the header's, damage can change both alike: the table's
    metadata tell of it, under DAMAGE.

    Raises ArchiveError.
    """
    try:
        if archive.kind == "folder":
            return walk(archive)
        with contextlib.closing(Tail(archive) if archive.inside else File(archive.path)) as source:
            first, last = archive.start, source.size
            if archive.length is not None:
                last = min(last, first + archive.length)
            directory = find_directory(source, archive.label, first, last)
            blocks = list(read_blocks(source, directory, archive.label))
            # Of a deflated inner zip only the end is at hand: its local headers cannot be looked at.
            table = entry_table(blocks, directory, archive.label, None if archive.inside else source)
            if isinstance(source, Tail) and archive.inside and source.crc != archive.inside.crc:
                return table.replace_schema_metadata({DAMAGE: crc_mismatch(source.crc, archive.inside.crc).detail})
            return table
    except DamagedEntry as error:
        raise ArchiveError(archive.label, f"it cannot be inflated ({error.detail})", AGAIN) from None
    except OSError as error:
        raise unreadable(archive.label, error) from None


def content_id(archive: Archive, entries: pa.Table) -> str:
    """A digest (64 hex digits) that changes when the source changes: path, size and time of change of the zip, or of
    every file of the folder, and the entries' columns. `entries` may be part of `read_entries` and have more columns.

    Raises ArchiveError where the source cannot be read any more.
    """
    digest = hashlib.sha256(
        repr((archive.path, archive.kind, archive.start, archive.length, archive.inside)).encode(
            "utf-8", "surrogateescape"
        )
    )
    try:
        if archive.kind == "folder":
            times = array("q")
            root = os.open(archive.path, os.O_RDONLY | os.O_CLOEXEC)
            try:
                for file in entries["file"].to_pylist():
                    times.append(os.stat(file, dir_fd=root, follow_symlinks=False).st_mtime_ns)
            finally:
                os.close(root)
            digest.update(times)
        else:
            status = os.stat(archive.path)
            digest.update(f"{status.st_size} {status.st_mtime_ns}".encode())
    except OSError as error:
        raise unreadable(archive.label, error) from None
    for column in SCHEMA:
        digest.update(column.name.encode())
        _digest(digest, entries[column.name].combine_chunks())
    return digest.hexdigest()


def _digest(digest: Any, values: pa.Array) -> None:
    """Values, not buffers: these differ with how the array was made."""
    digest.update(np.packbits(as_mask(pc.is_null(values))))
    if pa.types.is_integer(values.type):
        digest.update(np.ascontiguousarray(values.fill_null(0).to_numpy(zero_copy_only=False)))
        return
    digest.update(np.ascontiguousarray(pc.binary_length(values).fill_null(0).to_numpy(zero_copy_only=False)))
    filled = values.fill_null(b"" if pa.types.is_binary(values.type) else "")
    _, offsets, data = filled.buffers()
    if data is not None and len(filled):
        ends = np.frombuffer(offsets, np.int32)[filled.offset : filled.offset + len(filled) + 1]
        digest.update(memoryview(data)[ends[0] : ends[-1]])
