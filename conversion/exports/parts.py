"""What an export will write, known before any image is read: the selected samples, and the parts they are written in.

A *part* is the unit of work: a shard, a Parquet file, or some files of a folder. The samples of a part follow one
another in the source, so each part reads forward through a few shards.
"""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from conversion.disk import BUFFER, replacing
from conversion.display import NAMED
from conversion.errors import UsageError
from conversion.exports.rows import has_image
from conversion.exports.selection import BY_LABEL, Selection, drawn, matching, satisfying
from conversion.exports.source import Batch, Source
from conversion.findings import Reported
from mmm_rs import ALL, MODALITIES, did_you_mean, index_schema, labels_of


@dataclass(frozen=True)
class Group:
    """The selected samples of one split of a subset, in the order of the source."""

    subset: str
    split: str
    modalities: tuple[str, ...]
    shards: tuple[str, ...]  # of the source
    shard: np.ndarray = field(repr=False)  # of each sample: its number in `shards`
    row: np.ndarray = field(repr=False)  # of each sample: its row in the index of the shard
    bytes: np.ndarray = field(repr=False)  # of each sample: of its chosen images
    text_bytes: np.ndarray = field(repr=False)  # of each sample: of everything else in a tar, estimated
    images: np.ndarray = field(repr=False)  # of each sample: the number of its chosen images
    by_modality: dict[str, int]  # chosen images
    available: int  # samples of this split in the source

    def __len__(self) -> int:
        return len(self.row)


@dataclass(frozen=True)
class Part:
    """One unit of work. `name` is a path relative to the output folder."""

    number: int
    name: str
    subset: str
    split: str
    modalities: tuple[str, ...]
    samples: int
    images: int
    bytes: int  # of images
    text_bytes: int  # of everything else, estimated


@dataclass(frozen=True)
class _Candidates:
    """The rows of one shard of the source and which of them are selected so far."""

    subset: str
    shard: dict[str, Any]
    rows: pa.Table
    keep: np.ndarray


def choose(source: Source, selection: Selection) -> list[Group]:
    """Find the selected samples.

    Raises UsageError if the selection names something that the source does not have, or selects nothing; ReleaseError
    if the index cannot be read.
    """
    subsets, splits = _subsets(source, selection), _splits(source, selection)
    candidates = []
    existing: dict[str, set[str]] = {"category": set(), "satellite": set()}
    for subset in subsets:
        modalities = selection.subset_modalities(subset)
        shards = [shard for shard in source.shards(subset) if shard["split"] in splits]
        tables = source.index_rows(subset, [shard["name"] for shard in shards], selection.columns())
        for shard, rows in zip(shards, tables, strict=True):
            keep = matching(rows, selection, modalities)
            labels = labels_of(rows, modalities)
            for column, values in existing.items():
                if column in rows.column_names:
                    values.update(filter(None, pc.unique(labels[column]).to_pylist()))
            # Of the columns that were looked at only these are needed again; prompts take much memory.
            rows = rows.select(["key", *(f"{modality}_size" for modality in MODALITIES)])
            candidates.append(_Candidates(subset, shard, rows, keep))
    for column, values in existing.items():
        _check_values(column, getattr(selection, BY_LABEL[column]), values)
    if selection.keys is not None:
        _check_keys(selection.keys, candidates)
    if selection.where is not None:
        _apply_where(source, selection.where, candidates)
    if selection.draws:
        _apply_draw(selection, candidates)
    groups = []
    for subset in subsets:
        for split in splits:
            chosen = [
                candidate for candidate in candidates if (candidate.subset, candidate.shard["split"]) == (subset, split)
            ]
            if any(candidate.keep.any() for candidate in chosen):
                groups.append(_group(subset, split, selection.subset_modalities(subset), chosen))
    if not groups:
        raise UsageError(f"{source.address}: no sample matches. Remove or loosen a filter")
    return groups


def _subsets(source: Source, selection: Selection) -> list[str]:
    existing = list(source.manifest["subsets"])
    named = [name for name in selection.configs if name not in existing and name != ALL]
    if named:
        raise UsageError(f"{source.address}: has no {', '.join(named)}. It has {', '.join(existing)}")
    return [name for name in selection.subsets if name in existing]


def _splits(source: Source, selection: Selection) -> list[str]:
    existing = list(dict.fromkeys(shard["split"] for shard in source.manifest["shards"]))
    existing.sort(key=lambda split: (split != "train", split))
    if selection.split is not None and selection.split not in existing:
        raise UsageError(f"{source.address}: has no split {selection.split}. It has {', '.join(existing)}")
    return existing if selection.split is None else [selection.split]


def _check_values(column: str, wanted: Sequence[str], existing: set[str]) -> None:
    """Raises UsageError for a value of a label that no sample has: nobody would see why nothing is selected."""
    for value in wanted:
        if value not in existing:
            hint = did_you_mean(value, sorted(existing))
            raise UsageError(f"--{column} {value}: no sample of these configs and modalities has it.{hint}")


def _check_keys(keys: Sequence[str], candidates: Sequence[_Candidates]) -> None:
    existing = {key for candidate in candidates for key in candidate.rows["key"].to_pylist()}
    if missing := [key for key in keys if key not in existing]:
        shown = ", ".join(missing[:NAMED]) + (", ..." if len(missing) > NAMED else "")
        raise UsageError(
            f"--keys: {len(missing):,} of {len(keys):,} are not in the source, or not in the config and split given: "
            f"{shown}. Correct the list"
        )


def _apply_where(source: Source, where: str, candidates: Sequence[_Candidates]) -> None:
    words = {word.lower() for word in re.findall(r"\w+", where)}  # SQL's names are the same in any case
    columns = [name for name in index_schema().names if name in words] or ["key"]
    tables: list[pa.Table] = []
    for subset in dict.fromkeys(candidate.subset for candidate in candidates):
        shards = [candidate.shard["name"] for candidate in candidates if candidate.subset == subset]
        tables += source.index_rows(subset, shards, columns)
    index = pa.concat_tables(tables)
    for column in index_schema():  # for messages that list the columns there are
        if column.name not in columns:
            index = index.append_column(column, pa.nulls(index.num_rows, column.type))
    keep = satisfying(index, where)
    first = 0
    for candidate in candidates:
        candidate.keep[:] &= keep[first : first + candidate.rows.num_rows]
        first += candidate.rows.num_rows


def _apply_draw(selection: Selection, candidates: Sequence[_Candidates]) -> None:
    keys = [
        key for candidate in candidates for key in candidate.rows["key"].filter(pa.array(candidate.keep)).to_pylist()
    ]
    subsets = [candidate.subset for candidate in candidates for _ in range(int(candidate.keep.sum()))]
    keep = drawn(keys, subsets, selection)
    first = 0
    for candidate in candidates:
        selected = np.flatnonzero(candidate.keep)
        candidate.keep[selected] = keep[first : first + len(selected)]
        first += len(selected)


def _group(subset: str, split: str, modalities: tuple[str, ...], candidates: Sequence[_Candidates]) -> Group:
    rows = [np.flatnonzero(candidate.keep) for candidate in candidates]
    sizes, texts = [], []
    images = []
    by_modality = dict.fromkeys(modalities, 0)
    for candidate, numbers in zip(candidates, rows, strict=True):
        total, count = np.zeros(len(numbers), np.int64), np.zeros(len(numbers), np.int64)
        for modality in modalities:
            present = has_image(candidate.rows, modality)[numbers]
            by_modality[modality] += int(present.sum())
            count += present
            total += candidate.rows[f"{modality}_size"].fill_null(0).to_numpy()[numbers]
        sizes.append(total)
        images.append(count)
        texts.append(np.full(len(numbers), _text_bytes(candidate)))
    return Group(
        subset,
        split,
        modalities,
        tuple(candidate.shard["name"] for candidate in candidates),
        np.repeat(np.arange(len(candidates), dtype=np.int32), [len(numbers) for numbers in rows]),
        np.concatenate(rows).astype(np.int32),
        np.concatenate(sizes),
        np.concatenate(texts),
        np.concatenate(images),
        by_modality,
        sum(candidate.rows.num_rows for candidate in candidates),
    )


def _text_bytes(candidates: _Candidates) -> int:
    """Bytes of one sample in its shard beside its images: the mean of the shard and a quarter for those above it.

    The texts themselves are not read for this: over a network they are most of the index.
    """
    images = sum(int(pc.sum(candidates.rows[f"{modality}_size"]).as_py() or 0) for modality in MODALITIES)
    return int(1.25 * (candidates.shard["bytes"] - images) / max(1, candidates.rows.num_rows)) + 1


@dataclass(frozen=True)
class Written:
    """What came of a part. `reported`: images and records that are left out because they are damaged."""

    samples: int
    images: int
    reported: tuple[Reported, ...]


class Form(Protocol):
    """What an export is written as. Resuming, threads and progress are the same for all forms: see `exports.job`."""

    def spans(self, group: Group) -> list[tuple[int, int]]:
        """The parts of a group: the first sample of each and the one after its last."""

    def name(self, group: Group, number: int, count: int) -> str:
        """The name of the part `number` (from 0) of the `count` parts of a group."""

    def write(self, part: Part, batches: Iterable[Batch]) -> tuple[int, int]:
        """Write one part. Returns its samples and images."""

    def finish(self, plan: Plan, written: Sequence[Written]) -> list[str]:
        """Write the files that describe all parts, once these are written. May be called again after an interruption.

        Returns what a user should know about the output, a line each.
        """


def plan_parts(groups: Sequence[Group], form: Form) -> Plan:
    """Cut the selected samples into parts."""
    parts: list[Part] = []
    places = []
    for group in groups:
        cuts = form.spans(group)
        for number, (start, stop) in enumerate(cuts):
            totals = (int(counts[start:stop].sum()) for counts in (group.images, group.bytes, group.text_bytes))
            path = form.name(group, number, len(cuts))
            part = Part(len(parts), path, group.subset, group.split, group.modalities, stop - start, *totals)
            parts.append(part)
            shards = pa.DictionaryArray.from_arrays(pa.array(group.shard[start:stop]), pa.array(group.shards))
            places.append((shards.cast(pa.string()), pa.array(group.row[start:stop])))
    return Plan(tuple(parts), tuple(places))


def runs_of(shards: Sequence[str], rows: np.ndarray) -> list[tuple[str, np.ndarray]]:
    """Samples, given by the shard and row of each, as runs of rows of one shard."""
    first, runs = 0, []
    for shard, run in itertools.groupby(shards):
        last = first + sum(1 for _ in run)
        runs.append((shard, rows[first:last]))
        first = last
    return runs


PLACES = pa.schema([("shard", pa.string()), ("row", pa.int32())])


@dataclass(frozen=True)
class Plan:
    """The parts of an export, and for each where its samples are: shard and row of the index."""

    parts: tuple[Part, ...]
    places: tuple[tuple[pa.Array, pa.Array], ...] = field(repr=False)

    def runs(self, part: Part) -> list[tuple[str, np.ndarray]]:
        """The shards of the source that a part reads, in order, and the rows of each."""
        shard, row = self.places[part.number]
        return runs_of(shard.to_pylist(), row.to_numpy())

    def write(self, path: Path) -> None:
        """Keep the plan in a file, so that a resumed export need not look through the index again."""
        about = [part.__dict__ for part in self.parts]
        schema = PLACES.with_metadata({"parts": json.dumps(about)})
        with (
            replacing(path) as fd,
            open(fd, "wb", BUFFER, closefd=False) as sink,
            pa.ipc.new_file(sink, schema, options=pa.ipc.IpcWriteOptions(compression="zstd")) as writer,
        ):
            for shard, row in self.places:
                writer.write_batch(pa.RecordBatch.from_arrays([shard, row], schema=schema))

    @classmethod
    def read(cls, path: Path) -> Plan:
        with pa.OSFile(str(path), "rb") as source:
            file = pa.ipc.open_file(source)
            about = json.loads(file.schema.metadata[b"parts"])
            batches = [file.get_batch(number) for number in range(file.num_record_batches)]
        parts = tuple(Part(**{**part, "modalities": tuple(part["modalities"])}) for part in about)
        return cls(parts, tuple((batch["shard"], batch["row"]) for batch in batches))
