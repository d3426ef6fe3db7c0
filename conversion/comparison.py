"""Compare the images of a converted folder with those of the release, byte by byte."""

from __future__ import annotations

import contextlib
import functools
import os
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from conversion import layout, release
from conversion.archives import ENTRY_COLUMNS, Archive, DamagedEntry, Entry, Reader, extracted
from conversion.disk import output_error
from conversion.display import NAMED
from conversion.execution import check_stop, completed, threads
from conversion.release import IMAGE, SubsetFiles
from mmm_rs import MODALITIES


def compare(
    out: Path, manifest: dict[str, Any], release_path: str | os.PathLike[str], workers: int | None
) -> tuple[int, list[str]]:
    """Each published image against the image of the release that its row names as its source.

    Returns how many were compared, and the faults. Raises OutputError if zips within zips cannot be inflated to a disk.
    """
    content = release.find(release_path, exclude=out)
    compared, faults = 0, []
    for subset in manifest["subsets"]:
        if subset not in content.subsets:
            faults.append(f"{release_path}: {subset} is not in this release, so its images cannot be compared")
            continue
        is_whole = "exported_from" not in manifest  # an export holds a part of the release
        count, differing = _compare_subset(out, subset, content.subsets[subset], workers, is_whole)
        compared, faults = compared + count, faults + differing
    return compared, faults


def _compare_subset(
    out: Path, subset: str, files: SubsetFiles, workers: int | None, is_whole: bool
) -> tuple[int, list[str]]:
    published, entries = _published(out / layout.index_name(subset)), _entries(files)
    pairs, faults = _paired(published, entries)
    if is_whole:
        faults += _unaccounted(out, subset, published, entries)
    compared = 0
    with contextlib.ExitStack() as stack:
        archives = [part.archive for part in files.parts]
        if any(archive.inside for archive in archives):
            folder = stack.enter_context(_scratch(out))
            archives = [stack.enter_context(extracted(archive, folder)) for archive in archives]
        pool = stack.enter_context(threads(workers))
        task = functools.partial(_compare_images, out, archives)
        for _, (count, differing) in stack.enter_context(completed(pool, task, _by_shard(pairs))):
            compared += count
            faults += differing
    return compared, faults


def _paired(published: pa.Table, entries: pa.Table) -> tuple[pa.Table, list[str]]:
    """The published images, each with the entry of its source; and those whose source the release does not have."""
    row = pc.index_in(published["source"], value_set=entries["source"].combine_chunks())
    absent = published.filter(pc.is_null(row))
    faults = [f"{image['key']}: the release has no image {image['source']}" for image in absent.to_pylist()]
    pairs, sources = published.filter(pc.is_valid(row)), entries.take(row.drop_null())
    for name in ("part", *ENTRY_COLUMNS):
        pairs = pairs.append_column(f"entry_{name}", sources[name])
    return pairs, faults


def _unaccounted(out: Path, subset: str, published: pa.Table, entries: pa.Table) -> Iterator[str]:
    """Images of the release that are neither published nor in the report."""
    filters = [("subset", "==", subset), ("kind", "==", "image")]
    reported = pq.read_table(out / layout.UNPUBLISHED, columns=["path"], filters=filters)["path"]
    known = pa.chunked_array([*published["source"].chunks, *reported.chunks], pa.string()).combine_chunks()
    lost = entries.filter(pc.invert(pc.is_in(entries["source"], value_set=known)))["source"]
    for source in lost.slice(0, NAMED).to_pylist():
        yield (
            f"{source}: this image of {subset} is one of {len(lost):,} in the release that are neither "
            "published nor in the report. Convert with --overwrite"
        )


def _by_shard(pairs: pa.Table) -> list[pa.Table]:
    """A table for each shard, forward through the archives, which is read fastest."""
    pairs = pairs.sort_by([(name, "ascending") for name in ("shard", "entry_part", "entry_offset")])
    tables, first = [], 0
    for run in pc.value_counts(pairs["shard"]).to_pylist():
        tables.append(pairs.slice(first, run["counts"]))
        first += run["counts"]
    return tables


@contextlib.contextmanager
def _scratch(out: Path) -> Iterator[str]:
    """A folder for zips that are inflated: in `out`, whose disk holds as much already, if that can be written."""
    with contextlib.ExitStack() as stack:
        try:
            folder = stack.enter_context(tempfile.TemporaryDirectory(prefix=".verify-", dir=out))
        except OSError:
            try:
                folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="mmm-rs-verify-"))
            except OSError as error:
                raise output_error(Path(tempfile.gettempdir()), error) from None
        yield folder


def _published(path: Path) -> pa.Table:
    """The images that an index names: key, modality, shard, offset and size in it, source."""
    tables = []
    with pq.ParquetFile(path) as index:
        for m in MODALITIES:
            table = index.read(columns=["key", "shard", "source", f"{m}_offset", f"{m}_size"])
            columns = {
                "key": table["key"],
                "modality": pa.repeat(m, len(table)),
                "shard": table["shard"],
                "offset": table[f"{m}_offset"],
                "size": table[f"{m}_size"],
                "source": pc.struct_field(table["source"], m),
            }
            tables.append(pa.table(columns).filter(pc.is_valid(table[f"{m}_offset"])))
    return pa.concat_tables(tables)


def _entries(files: SubsetFiles) -> pa.Table:
    """The images of all parts; `part` is the number of an entry's."""
    tables = []
    for number, part in enumerate(files.parts):
        usable = pc.and_(pc.equal(part.entries["type"], IMAGE), pc.is_null(part.entries["problem"]))
        table = part.entries.filter(usable).select(["source", *ENTRY_COLUMNS])
        tables.append(table.append_column("part", pa.repeat(number, table.num_rows)))
    return pa.concat_tables(tables)


def _compare_images(out: Path, archives: Sequence[Archive], pairs: pa.Table) -> tuple[int, list[str]]:
    """Images of one shard against their entries: how many were compared, and the faults."""
    faults, compared = [], 0
    with contextlib.ExitStack() as stack:
        readers = [stack.enter_context(Reader(archive)) for archive in archives]
        shard = stack.enter_context(open(out / pairs["shard"][0].as_py(), "rb"))
        for batch in pairs.to_batches(max_chunksize=1000):
            for row in batch.to_pylist():
                check_stop()
                shard.seek(row["offset"])
                published = shard.read(row["size"])
                entry = Entry(**{name: row[f"entry_{name}"] for name in ENTRY_COLUMNS}, name=row["source"])
                try:
                    data, _ = readers[row["entry_part"]].read(entry)
                except DamagedEntry as error:
                    faults.append(f"{row['key']}: {row['source']} in the release is damaged: {error.detail}")
                    continue
                compared += 1
                if bytes(data) != published:
                    faults.append(
                        f"{row['key']}: the {row['modality']} image differs from the release's {row['source']}"
                    )
    return compared, faults
