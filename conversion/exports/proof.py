"""Prove that an exported dataset is what its manifest says: the selected samples of its source, with the same bytes."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from conversion import layout
from conversion.display import first_of
from conversion.errors import UsageError, VerificationError
from conversion.execution import check_stop, completed, cores, threads
from conversion.exports.parts import Group, choose, runs_of
from conversion.exports.selection import Selection
from conversion.exports.source import Source, batches, open_converted
from mmm_rs import MODALITIES, index_schema

# What an export may change in a row of the index.
PLACES = ("shard", *(f"{modality}_offset" for modality in MODALITIES))


@dataclass(frozen=True)
class _Task:
    """One shard of the export, and where the source has its samples."""

    subset: str
    shard: str
    modalities: tuple[str, ...]
    runs: list[tuple[str, np.ndarray]]
    bytes: int


def compare_with_source(
    out: str | os.PathLike[str],
    source: str | os.PathLike[str],
    *,
    workers: int | None = None,
    token: bool | str | None = None,
    storage_options: Mapping[str, Any] | None = None,
    progress: Callable[[int, int, str], None] | None = None,
) -> int:
    """Compare an exported dataset with what it was exported from: the selection, every row, and every image's bytes.

    `conversion.verify` checks the dataset in itself; this does not do so again.

    Args:
        out: The exported dataset.
        source: The dataset that it was exported from, local or on the hub.
        workers: Shards at a time (default: one per core).
        token: For a private repository on the hub.
        storage_options: For the file system of another remote source (see `fsspec`).
        progress: Called with the bytes of shards done, their total, and the subset.

    Returns:
        The number of images that were compared.

    Raises:
        UsageError: The folder is not an export.
        ReleaseError: The source cannot be read.
        VerificationError: They differ; names the samples.
    """
    export, original = open_both(out, source, token, storage_options)
    groups = choose(original, _selection(export))
    faults: list[str] = []
    tasks = [task for group in groups for task in _tasks(export, original, group, faults)]
    selected = {(group.subset, group.split) for group in groups}
    for shard in export.manifest["shards"]:
        if (shard["subset"], shard["split"]) not in selected:
            faults.append(f"{export.address}/{shard['name']}: nothing of this split is selected in the source")
    if faults:
        raise VerificationError(*first_of(faults))
    compared, done = 0, 0
    total = sum(task.bytes for task in tasks)

    def compare(task: _Task) -> tuple[int, list[str]]:
        return _compare_shard(export, original, task)

    with threads(workers or cores()) as pool, completed(pool, compare, tasks) as results:
        for task, (count, differing) in results:
            compared, done = compared + count, done + task.bytes
            faults += differing
            if progress:
                progress(done, total, task.subset)
    if faults:
        raise VerificationError(*first_of(faults))
    return compared


def open_both(
    out: str | os.PathLike[str],
    source: str | os.PathLike[str],
    token: bool | str | None = None,
    storage_options: Mapping[str, Any] | None = None,
) -> tuple[Source, Source]:
    """Open an exported dataset, and the one that it was exported from.

    Raises UsageError, ReleaseError or VerificationError if they are not what they are said to be.
    """
    export = open_converted(out)
    exported_from = export.manifest.get("exported_from")
    if exported_from is None:
        raise UsageError(f"{export.address}: was not exported from another dataset. Omit --source")
    original = open_converted(source, token, storage_options)
    if original.digest != exported_from["digest"]:
        raise VerificationError(
            f"{original.address}: is not the dataset that {export.address} was exported from: the digest of its "
            f"shards is {original.digest}, not {exported_from['digest']}"
        )
    return export, original


def _selection(export: Source) -> Selection:
    record = export.manifest["exported_from"]["selection"]
    selection = Selection.of_record(record)
    if "keys" not in record:
        return selection
    # The list itself is not kept: all that can be shown is that what is here was there, and fits the other conditions.
    keys = [key for subset in export.manifest["subsets"] for key in _keys(export, subset, None)]
    return replace(selection, keys=tuple(keys), limit=None, share=None)


def _keys(dataset: Source, subset: str, split: str | None) -> list[str]:
    names = [shard["name"] for shard in dataset.shards(subset) if split in (None, shard["split"])]
    return [key for rows in dataset.index_rows(subset, names, ["key"]) for key in rows["key"].to_pylist()]


def _tasks(export: Source, original: Source, group: Group, faults: list[str]) -> Iterator[_Task]:
    """The shards of a split, if they hold exactly the selected samples in the order of the source."""
    expected = _rows(original, group, ["key", "source"])
    keys = _keys(export, group.subset, group.split)
    exported = pc.is_in(expected["key"], value_set=pa.array(keys, pa.string())).to_numpy()
    faults += _unexplained(export, expected.filter(pa.array(~exported)))
    strange = set(keys) - set(expected["key"].to_pylist())
    faults += [f"{key}: is in {export.address} and not among the selected samples of the source" for key in strange]
    if not strange and keys != expected["key"].filter(pa.array(exported)).to_pylist():
        faults.append(f"{export.address}: the samples of {group.subset}, {group.split}, are not in the source's order")
    if faults:
        return
    shard, row = group.shard[exported], group.row[exported]
    first = 0
    for entry in export.shards(group.subset):
        if entry["split"] == group.split:
            last = first + entry["samples"]
            runs = runs_of([group.shards[number] for number in shard[first:last]], row[first:last])
            yield _Task(group.subset, entry["name"], group.modalities, runs, entry["bytes"])
            first = last


def _rows(dataset: Source, group: Group, columns: Sequence[str]) -> pa.Table:
    """Columns of the index for the samples of a group."""
    tables = dataset.index_rows(group.subset, group.shards, columns)
    return pa.concat_tables([rows.take(group.row[group.shard == number]) for number, rows in enumerate(tables)])


def _unexplained(export: Source, missing: pa.Table) -> Iterator[str]:
    """Selected samples that are neither in the export nor in its report."""
    path = Path(export.address) / layout.UNPUBLISHED
    reported = set(pq.read_table(path, columns=["path"])["path"].to_pylist()) if missing.num_rows else set()
    for sample in missing.to_pylist():
        if reported.isdisjoint(path for path in sample["source"].values() if path is not None):
            yield f"{sample['key']}: is selected in the source, and neither in {export.address} nor in its report"


def _compare_shard(export: Source, original: Source, task: _Task) -> tuple[int, list[str]]:
    """Compare one shard of the export. Returns the number of images, and the faults."""
    rows = next(export.index_rows(task.subset, [task.shard], index_schema().names))
    faults: list[str] = []
    compared = first = 0
    with open(Path(export.address) / task.shard, "rb") as shard:
        for batch in batches(original, task.subset, task.runs, task.modalities, None):
            check_stop()
            part = rows.slice(first, batch.rows.num_rows)
            first += batch.rows.num_rows
            faults += _differing_rows(part, batch.rows)
            for modality, images in batch.images.items():
                offsets, sizes = part[f"{modality}_offset"].to_pylist(), part[f"{modality}_size"].to_pylist()
                for number, (data, offset, size) in enumerate(zip(images, offsets, sizes, strict=True)):
                    if data is None or offset is None:
                        continue  # a difference of the rows
                    shard.seek(offset)
                    compared += 1
                    if shard.read(size) != data:
                        faults.append(f"{part['key'][number].as_py()}: the {modality} image differs from the source's")
    return compared, faults


def _differing_rows(exported: pa.Table, expected: pa.Table) -> Iterator[str]:
    names = [name for name in index_schema().names if name not in PLACES]
    exported, expected = exported.select(names), expected.select(names)
    if exported.equals(expected):
        return
    for row, other in zip(exported.to_pylist(), expected.to_pylist(), strict=True):
        if differing := [name for name in names if row[name] != other[name]]:
            yield f"{row['key']}: {', '.join(differing)} differ from the source's"
