"""The files of a folder, as a table like that of a zip's entries."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from conversion.archives.entry_names import checked_names, encoding_of, is_system_folder
from conversion.archives.model import PROBLEM_NUMBER, SCHEMA, Archive, problem_column
from conversion.disk import shortage

BATCH = 1 << 16  # files that are Python objects at a time


def walk(archive: Archive) -> pa.Table:
    """All files of a folder but those in folders of the system, such as waste bins. Links are not followed."""
    files = _files(os.fsencode(archive.path))
    tables = []
    while batch := list(itertools.islice(files, BATCH)):
        paths, sizes, problems = zip(*batch, strict=True)
        tables.append(
            pa.table(
                {
                    "file": pa.array(paths, pa.binary()),
                    "size": pa.array(sizes, pa.int64()),
                    "problem": pa.array(problems, pa.int8()),
                }
            )
        )
    if not tables:
        return SCHEMA.empty_table()
    listing = pa.concat_tables(tables).combine_chunks()
    del tables
    listing = listing.take(pc.sort_indices(listing["file"])).combine_chunks()
    file, size = listing["file"].chunk(0), listing["size"].chunk(0)
    keep, unsafe, names = checked_names(_decoded(file))
    problem = listing["problem"].to_numpy().copy()
    problem[unsafe] = PROBLEM_NUMBER["unsafe_name"]
    zeros = np.zeros(len(file), np.int64)
    columns = {
        "name": names,
        "file": file,
        "offset": pa.array(zeros),
        "packed": size,
        "size": size,
        "crc": pa.nulls(len(file), pa.uint32()),
        "method": pa.array(zeros.astype(np.uint16)),
        "flags": pa.array(zeros.astype(np.uint16)),
        "problem": problem_column(problem),
    }
    table = pa.table(columns, schema=SCHEMA)
    return table if keep.all() else table.filter(pa.array(keep))


def _decoded(files: pa.Array) -> pa.Array:
    try:
        return files.cast(pa.string())
    except pa.ArrowInvalid:  # each by itself: a folder can hold what several tools unpacked
        return pa.array([path.decode(encoding_of([pa.array([path])])) for path in files.to_pylist()], pa.string())


def _files(root: bytes) -> Iterator[tuple[bytes, int, int]]:
    """(path within the root, bytes, number of its problem or -1) of each file, in no order."""
    folders = [b""]
    while folders:
        folder = folders.pop()
        try:
            entries = os.scandir(os.path.join(root, folder))
        except OSError as error:
            if not folder or shortage(os.fsdecode(folder), error):
                raise
            yield folder[:-1], 0, PROBLEM_NUMBER["unreadable_folder"]
            continue
        with entries:
            for entry in entries:
                path = folder + entry.name
                if entry.is_dir(follow_symlinks=False):
                    if not is_system_folder(entry.name):
                        folders.append(path + b"/")
                elif not entry.is_file(follow_symlinks=False):
                    yield path, 0, PROBLEM_NUMBER["link" if entry.is_symlink() else "not_a_file"]
                elif (size := _size(entry)) is not None:
                    yield path, size, -1


def _size(entry: os.DirEntry[bytes]) -> int | None:
    try:
        return entry.stat(follow_symlinks=False).st_size
    except FileNotFoundError:  # deleted meanwhile
        return None
