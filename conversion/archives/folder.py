"""The files of a folder, as a table like that of a zip's entries."""

from __future__ import annotations

import os
from array import array

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from conversion.archives.entry_names import checked_names, encoding_of
from conversion.archives.model import PROBLEM_NUMBER, SCHEMA, Archive, problem_column


def walk(archive: Archive) -> pa.Table:
    """All files of a folder. Links are not followed."""
    tables: list[pa.Table] = []
    files: list[bytes] = []
    sizes, problems = array("q"), array("b")

    def flush() -> None:
        tables.append(
            pa.table(
                {
                    "file": pa.array(files, pa.binary()),
                    "size": pa.array(np.array(sizes, np.int64)),
                    "problem": pa.array(np.array(problems, np.int8)),
                }
            )
        )
        files.clear()
        del sizes[:], problems[:]

    root = os.fsencode(archive.path)
    folders = [b""]
    while folders:
        folder = folders.pop()
        try:
            entries = os.scandir(os.path.join(root, folder))
        except OSError:
            if not folder:
                raise
            files.append(folder[:-1])  # such as `lost+found`, which only the system may read
            sizes.append(0)
            problems.append(PROBLEM_NUMBER["unreadable_folder"])
            continue
        with entries:
            for entry in entries:
                path = folder + entry.name
                if entry.is_dir(follow_symlinks=False):
                    folders.append(path + b"/")
                    continue
                files.append(path)
                if entry.is_file(follow_symlinks=False):
                    try:
                        sizes.append(entry.stat(follow_symlinks=False).st_size)
                    except FileNotFoundError:  # deleted meanwhile
                        files.pop()
                        continue
                    problems.append(-1)
                else:
                    sizes.append(0)
                    problems.append(PROBLEM_NUMBER["link" if entry.is_symlink() else "not_a_file"])
                if len(files) == 1 << 16:
                    flush()
    flush()
    found = pa.concat_tables(tables).combine_chunks()
    found = found.take(pc.sort_indices(found["file"])).combine_chunks()
    count = found.num_rows
    if not count:
        return SCHEMA.empty_table()
    file = found["file"].chunk(0)
    try:
        text = file.cast(pa.string())
    except pa.ArrowInvalid:  # each by itself: a folder can hold what several tools unpacked
        text = pa.array([path.decode(encoding_of([pa.array([path])])) for path in file.to_pylist()], pa.string())
    keep, unsafe, text = checked_names(text)
    problem = found["problem"].to_numpy().copy()
    problem[unsafe] = PROBLEM_NUMBER["unsafe_name"]
    zeros = np.zeros(count, np.int64)
    columns = [
        text,
        file,
        pa.array(zeros),
        found["size"].chunk(0),
        found["size"].chunk(0),
        pa.nulls(count, pa.uint32()),
        pa.array(zeros.astype(np.uint16)),
        pa.array(zeros.astype(np.uint16)),
        problem_column(problem),
    ]
    table = pa.Table.from_arrays(columns, schema=SCHEMA)
    return table if keep.all() else table.filter(pa.array(keep))
