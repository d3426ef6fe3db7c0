"""The plan: which sample goes into which shard, in which order, of what size. Known before any image is read.

It follows from the archives' directories and the annotations alone, so it is the same for every form of a release. A
plan file is an Arrow file with one record batch per shard; the writer of a shard reads that batch and nothing else.
The text of the records lies beside it in a plain file, at offsets that the batches hold.

How a plan is made:
1. The images that the archives' directories list, without those that cannot be used.
2. The records of the annotation files (`conversion.records`).
3. Which record names which image (`conversion.alignment`), and so which images become a sample. Here everything is a
   grid: a row for each place, a column for each of MODALITIES, and in it the row of an image or record, or -1.
4. Which sample goes where (`conversion.sharding`).
"""

from __future__ import annotations

import contextlib
import json
import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from conversion import alignment, sharding
from conversion.archives import Archive, DamagedEntry, Entry, Reader
from conversion.findings import Problem, Reported
from conversion.memory import frees_memory
from conversion.options import Options
from conversion.records import AnnotationFile, Records, read_records
from conversion.release import IMAGE, SubsetFiles
from conversion.sharding import PlannedShard
from mmm_rs import MODALITIES, SUBSETS

OTHERS = 3  # images named beside one that claims their place
IMAGE_COLUMNS = ("source", "file", "offset", "packed", "size", "crc", "method", "part")


@dataclass(frozen=True)
class SubsetPlan:
    """The plan of one subset. A *place* is a row of `image` and `record`; each becomes at most one sample."""

    subset: str
    archives: tuple[Archive, ...]
    shards: tuple[PlannedShard, ...]
    reported: tuple[Reported, ...] = field(repr=False)
    annotations: tuple[AnnotationFile, ...]
    problems: tuple[Problem, ...]
    images_released: int
    records_released: int
    pairs: dict[str, int]  # modality -> images with a prompt
    images_by_modality: dict[str, int]
    images: pa.Table = field(repr=False)
    keys: pa.Array = field(repr=False)
    order: np.ndarray = field(repr=False)  # places in the order of the shards
    image: np.ndarray = field(repr=False)  # (places, 3) row of `images`, -1 for none
    record: np.ndarray = field(repr=False)  # (places, 3) row of `stored`, -1 for none
    stored: np.ndarray = field(repr=False)  # (records, 2) offset and length in the file of records, bytes

    @property
    def samples(self) -> int:
        return len(self.order)

    @property
    def bytes(self) -> int:
        return sum(shard.bytes for shard in self.shards)

    def batch(self, number: int) -> pa.RecordBatch:
        """What a writer of shard `number` needs: one row per sample, columns prefixed by the modality."""
        shard = self.shards[number]
        places = self.order[shard.start : shard.stop]
        columns: dict[str, Any] = {"key": self.keys.take(pa.array(places))}
        for position, modality in enumerate(MODALITIES):
            if modality not in SUBSETS[self.subset].modalities:
                continue
            rows, records = self.image[places, position], self.record[places, position]
            taken = self.images.take(pa.array(rows, mask=rows < 0))
            for name in IMAGE_COLUMNS:
                columns[f"{modality}_{name}"] = taken[name].combine_chunks()
            stored = self.stored[records] if len(self.stored) else np.zeros((len(records), 2), np.int64)
            columns[f"{modality}_record"] = pa.array(stored[:, 0], mask=records < 0)
            columns[f"{modality}_record_length"] = pa.array(stored[:, 1], mask=records < 0)
        return pa.RecordBatch.from_arrays([_flat(column) for column in columns.values()], names=list(columns))

    def write(self, path: Path) -> None:
        """Write the plan file. Its schema's metadata holds what is not a sample's."""
        first = self.batch(0) if self.shards else pa.RecordBatch.from_pydict({})
        meta = {
            "subset": self.subset,
            "shards": [asdict(shard) for shard in self.shards],
            "reported": [asdict(row) for row in self.reported],
            "released": {"images": self.images_released, "records": self.records_released},
        }
        schema = first.schema.with_metadata({"plan": json.dumps(meta)})
        with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, schema) as writer:
            for number in range(len(self.shards)):
                writer.write_batch(pa.RecordBatch.from_arrays(self.batch(number).columns, schema=schema))


def _flat(column: pa.Array | pa.ChunkedArray) -> pa.Array:
    return column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column


@dataclass(frozen=True)
class PlanFile:
    """A plan read back from its file."""

    path: str
    subset: str
    shards: tuple[PlannedShard, ...]
    reported: tuple[Reported, ...] = field(repr=False)
    images_released: int
    records_released: int

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> PlanFile:
        with pa.OSFile(str(path), "rb") as source:
            meta = json.loads(pa.ipc.open_file(source).schema.metadata[b"plan"])
        return cls(
            str(path),
            meta["subset"],
            tuple(PlannedShard(**shard) for shard in meta["shards"]),
            tuple(Reported(**row) for row in meta["reported"]),
            meta["released"]["images"],
            meta["released"]["records"],
        )


def read_batch(path: str, number: int) -> pa.RecordBatch:
    with pa.OSFile(path, "rb") as source:
        return pa.ipc.open_file(source).get_batch(number)


def make(files: SubsetFiles, options: Options, records_path: Path | None = None) -> SubsetPlan:
    """Plan one subset. The records' text goes to the file `records_path`, where one is given."""
    meeting = _meet(files, options, records_path)
    chosen = np.flatnonzero((meeting.image >= 0).any(axis=1))
    keys, order, shards = _spread(files.name, meeting, chosen, options)
    return SubsetPlan(
        subset=files.name,
        archives=tuple(part.archive for part in files.parts),
        shards=tuple(shards),
        reported=tuple(sorted(meeting.reported, key=lambda r: (r.kind, r.path, r.position or 0, r.reason))),
        annotations=meeting.annotations,
        problems=meeting.problems,
        images_released=meeting.images_released,
        records_released=meeting.records_released,
        pairs=_by_modality((meeting.record >= 0).sum(axis=0)),
        images_by_modality=meeting.images_by_modality,
        images=meeting.images,
        keys=keys,
        order=order,
        image=meeting.image,
        record=meeting.record,
        stored=meeting.stored,
    )


def _by_modality(counts: np.ndarray) -> dict[str, int]:
    return {modality: int(count) for modality, count in zip(MODALITIES, counts, strict=True)}


@dataclass(frozen=True)
class _Meeting:
    """Which images and records of a subset belong together, and what becomes of the others."""

    images: pa.Table  # IMAGE_COLUMNS
    images_released: int
    images_by_modality: dict[str, int]
    annotations: tuple[AnnotationFile, ...]
    records_released: int
    stored: np.ndarray  # (records, 2) offset and length in the file of records, bytes
    prompt_length: np.ndarray  # (records,) characters
    places: pa.Array  # string
    image: np.ndarray  # (places, 3) row of `images` that is published, -1 for none
    record: np.ndarray  # (places, 3) row of `stored` that describes it, -1 for none
    reported: list[Reported]
    problems: tuple[Problem, ...]


@frees_memory
def _meet(files: SubsetFiles, options: Options, records_path: Path | None) -> _Meeting:
    subset = files.name
    images, released, unusable, conflicts = _images(files)
    records, rejected, problems = _records(files, options, records_path)
    sources = _flat(images["source"])
    located = alignment.places(subset, sources)
    matches = _match(subset, sources, located, records)
    place_of, places = _numbered(located, alignment.is_aligned(subset))
    image, doubtful = _image_grid(subset, sources, place_of, located.modality, len(places))
    record, unused = _record_grid(subset, matches, image, places, records)
    published = (image >= 0) & ((record >= 0) | options.keep_unprompted)
    unnamed = [
        Reported("image", sources[int(row)].as_py(), None, "no_record", "no usable record names this image")
        for row in image[(image >= 0) & ~published]
    ]
    return _Meeting(
        images=images,
        images_released=released,
        images_by_modality=_by_modality((located.modality[:, None] == np.arange(len(MODALITIES))).sum(axis=0)),
        annotations=records.files,
        records_released=records.released,
        stored=records.stored,
        prompt_length=records.prompt_length,
        places=places,
        image=np.where(published, image, -1),
        record=np.where(published, record, -1),
        reported=[*unusable, *rejected, *doubtful, *unused, *unnamed],
        problems=(*conflicts, *problems),
    )


_records = frees_memory(read_records)


@frees_memory
def _images(files: SubsetFiles) -> tuple[pa.Table, int, list[Reported], list[Problem]]:
    """The images of all parts that can be read as far as their directories tell, how many there are in all, those that
    are not to be used, and the archives whose images contradict those of others."""
    tables = []
    for number, part in enumerate(files.parts):
        entries = part.entries.select([*IMAGE_COLUMNS[:-1], "problem"])  # first: the rest would be copied for nothing
        table = entries.filter(pc.equal(part.entries["type"], IMAGE))
        tables.append(table.append_column("part", pa.array(np.full(table.num_rows, number, np.int16))))
    every = pa.concat_tables(tables)
    barred = every.filter(pc.is_valid(every["problem"]))
    unusable = [
        Reported("image", row["source"], None, row["problem"], "the archive's entry cannot be used")
        for row in barred.select(["source", "problem"]).to_pylist()
    ]
    images = every.filter(pc.is_null(every["problem"])) if barred.num_rows else every
    images, repeated, conflicts = _without_duplicates(images, [part.archive for part in files.parts])
    problems = [_conflict(files.name, labels, count) for labels, count in conflicts.items() if len(labels) > 1]
    return images.select(list(IMAGE_COLUMNS)).combine_chunks(), every.num_rows, [*unusable, *repeated], problems


def _conflict(subset: str, labels: tuple[str, ...], count: int) -> Problem:
    *others, last = labels
    detail = f"{count:,} of its images differ from those of the same names in {' and '.join(others)}: none is published"
    return Problem(last, "conflicting_images", detail, "Move away the copy that you do not want", subset)


def _without_duplicates(
    images: pa.Table, archives: list[Archive]
) -> tuple[pa.Table, list[Reported], Counter[tuple[str, ...]]]:
    """The images that count, and those that do not: of equal names with equal content the first counts, of equal names
    with different content none does. How many names are in dispute, by the archives that have them."""
    conflicts: Counter[tuple[str, ...]] = Counter()
    if pc.count_distinct(images["source"]).as_py() == images.num_rows:
        return images, [], conflicts
    code = _flat(images["source"]).dictionary_encode().indices.to_numpy(zero_copy_only=False)
    doubled = np.flatnonzero(np.bincount(code) > 1)
    rows_of: dict[int, list[int]] = {}
    for row in np.flatnonzero(np.isin(code, doubled)).tolist():
        rows_of.setdefault(int(code[row]), []).append(row)
    dropped: list[int] = []
    reported = []
    with contextlib.ExitStack() as stack:
        readers = [stack.enter_context(Reader(archive)) for archive in archives]
        for rows in rows_of.values():
            same = images.take(pa.array(rows)).to_pylist()
            if len({row["size"] for row in same}) == 1 and len({_crc(row, readers) for row in same}) == 1:
                kept, reason, detail = (
                    1,
                    "duplicate_image",
                    "an image of the same name and content comes earlier in the release",
                )
            else:
                labels = tuple(dict.fromkeys(archives[row["part"]].label for row in same))
                conflicts[labels] += 1
                detail = f"{len(rows)} different images have this name in {' and '.join(labels)}"
                kept, reason = 0, "same_name"
            dropped += rows[kept:]
            reported += [Reported("image", row["source"], None, reason, detail) for row in same[kept:]]
    counts = np.ones(images.num_rows, bool)
    counts[dropped] = False
    return images.filter(pa.array(counts)), reported, conflicts


def _crc(row: dict[str, Any], readers: list[Reader]) -> object:
    """The CRC32 of an image's bytes; of a file in a folder they must be read. What cannot be read equals nothing."""
    if row["crc"] is not None:
        return row["crc"]
    try:
        return readers[row["part"]].read(Entry.of(row, name=""))[1]
    except DamagedEntry:
        return object()


@frees_memory
def _match(subset: str, sources: pa.Array, located: alignment.Places, records: Records) -> alignment.Matches:
    return alignment.match(subset, sources, located, records.paths, records.hints)


def _numbered(located: alignment.Places, aligned: bool) -> tuple[np.ndarray, pa.Array]:
    """(images,) the place of each image, by its number; (places,) their names. Only aligned images share a place."""
    if not aligned:
        return np.arange(len(located.place)), located.place
    encoded = located.place.dictionary_encode()
    return encoded.indices.to_numpy(zero_copy_only=False).astype(np.int64), encoded.dictionary


def _image_grid(
    subset: str, sources: pa.Array, place_of: np.ndarray, modality: np.ndarray, places: int
) -> tuple[np.ndarray, list[Reported]]:
    """The image of each place and modality, (places, 3), and the images that are not to be used: those of an unknown
    modality, and all that claim one cell.

    `place_of`, `modality`: (images,) the cell of each, modality -1 where nothing tells it.
    """
    allowed = np.array([m in SUBSETS[subset].modalities for m in MODALITIES] + [False])  # the last is that of -1
    known = allowed[modality]
    detail = f"neither name nor folder tells one of {SUBSETS[subset].modalities}"
    reported = [
        Reported("image", sources[int(row)].as_py(), None, "unknown_modality", detail) for row in np.flatnonzero(~known)
    ]
    rows = np.flatnonzero(known)
    cell = place_of[rows] * len(MODALITIES) + modality[rows]
    _, first, counts = np.unique(cell, return_index=True, return_counts=True)
    grid = np.full((places, len(MODALITIES)), -1, np.int32)
    grid.reshape(-1)[cell[first]] = rows[first]
    order, begins = np.argsort(cell, kind="stable"), np.cumsum(counts) - counts
    for group in np.flatnonzero(counts > 1):
        claimants = rows[order[begins[group] : begins[group] + counts[group]]]
        grid.reshape(-1)[cell[first[group]]] = -1
        reported += _same_place(sources.take(pa.array(claimants)).to_pylist())
    return grid, reported


def _same_place(claimants: list[str]) -> Iterator[Reported]:
    for claimant in claimants:
        others = [name for name in claimants[: OTHERS + 1] if name != claimant][:OTHERS]
        more = len(claimants) - 1 - len(others)
        named = ", ".join(others) + (f" and {more} more" if more else "")
        yield Reported("image", claimant, None, "same_place", f"claims the same place as {named}")


def _record_grid(
    subset: str, matches: alignment.Matches, image: np.ndarray, places: pa.Array, records: Records
) -> tuple[np.ndarray, list[Reported]]:
    """The record of each image, (places, 3), -1 where there is no image or no record for it; and the records that are
    not used. `image`: (places, 3)."""
    aligned = alignment.is_aligned(subset)
    place, modality = _places_of_records(matches, image, places, aligned)
    grid, winner = _choose(place, modality, image.shape)
    if aligned:
        columns = [MODALITIES.index(m) for m in SUBSETS[subset].modalities]
        # A modality that some record names has its own records; those that could not be read may name it too.
        bare = [] if records.lacking else [column for column in columns if not (matches.modality == column).any()]
        grid = _share(grid, columns, bare)
    grid = np.where(image >= 0, grid, -1)
    used = np.zeros(len(place), bool)
    used[grid[grid >= 0]] = True
    return grid, [_unused(int(row), int(winner[row]), used, matches, records) for row in np.flatnonzero(~used)]


def _places_of_records(
    matches: alignment.Matches, image: np.ndarray, places: pa.Array, aligned: bool
) -> tuple[np.ndarray, np.ndarray]:
    """(records,) the place that each record names, -1 for none, and its modality.

    A record of an aligned subset whose path tells no modality describes the first image that its place has.
    """
    modality = matches.modality.astype(np.int64)
    if not aligned:  # each image is a place of its own
        return np.where(matches.image >= 0, matches.image, -1), modality
    place = pc.fill_null(pc.index_in(matches.place, places), -1).to_numpy(zero_copy_only=False).astype(np.int64)
    if len(image):
        first = np.where((image >= 0).any(axis=1), (image >= 0).argmax(axis=1), -1)  # (places,)
        modality = np.where((modality < 0) & (place >= 0), first[place], modality)
    return np.where(modality >= 0, place, -1), modality


def _choose(place: np.ndarray, modality: np.ndarray, shape: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """(places, 3) the first record that names each cell, -1 for none; (records,) the one that was chosen for the cell
    that each record names, -1 where it names none.

    `place`, `modality`: (records,), place -1 for none.
    """
    grid = np.full(shape, -1, np.int32)
    naming = np.flatnonzero(place >= 0)
    cell = place[naming] * shape[1] + modality[naming]
    _, first = np.unique(cell, return_index=True)
    grid.reshape(-1)[cell[first]] = naming[first]
    winner = np.full(len(place), -1, np.int32)
    winner[naming] = grid.reshape(-1)[cell]
    return grid, winner


def _share(grid: np.ndarray, columns: list[int], bare: list[int]) -> np.ndarray:
    """The grid of records in which the modalities `bare` are served by the sample's record, which is that of the first
    of `columns` that has one. (places, 3), as `grid`."""
    shared = np.full(len(grid), -1, np.int32)
    for column in reversed(columns):
        shared = np.where(grid[:, column] >= 0, grid[:, column], shared)
    grid = grid.copy()
    for column in bare:
        grid[:, column] = np.where(grid[:, column] >= 0, grid[:, column], shared)
    return grid


def _unused(row: int, winner: int, used: np.ndarray, matches: alignment.Matches, records: Records) -> Reported:
    """Why a record is not used. `winner`: the record that was chosen for the image that it names; -1 for none."""
    path = records.paths[row].as_py()
    if matches.image[row] == alignment.AMBIGUOUS:
        reason, detail = "ambiguous_path", f"{path}: several images fit this path"
    elif winner in (-1, row) or not used[winner]:
        reason, detail = "no_image", f"{path}: no image of the release fits this path"
    elif records.prompt_hash[row] == records.prompt_hash[winner]:
        reason = "duplicate_record"
        detail = f"{path}: {records.name_of(winner)} names it with this prompt"
    else:
        reason = "conflicting_prompt"
        detail = f"{path}: {records.name_of(winner)} names it with another prompt, which counts"
    return Reported("record", records.file_of(row), int(records.position[row]), reason, detail)


@frees_memory
def _spread(
    subset: str, meeting: _Meeting, chosen: np.ndarray, options: Options
) -> tuple[pa.Array, np.ndarray, list[PlannedShard]]:
    """Keys by place, the chosen places in the order of the shards, and the shards."""
    keys = _keys(subset, meeting.places, meeting.image, _flat(meeting.images["source"]), chosen)
    sizes = sharding.sizes(
        meeting.image, meeting.record, meeting.images["size"].to_numpy(), meeting.stored[:, 1], meeting.prompt_length
    )
    return keys, *sharding.shards(subset, keys, meeting.places, chosen, sizes, options)


_keys = frees_memory(sharding.keys)
