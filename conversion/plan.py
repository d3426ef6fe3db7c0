"""The plan: which sample goes into which shard, in which order, of what size. Known before any image is read.

It follows from the archives' directories and the annotations alone, so it is the same for every form of a release. A
plan file is an Arrow file with one record batch a shard; whoever writes a shard reads that batch and nothing else. The
text of the records lies beside it in a plain file, at offsets that the batches hold.
"""

from __future__ import annotations

import contextlib
import ctypes
import hashlib
import itertools
import json
import os
from array import array
from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from conversion import alignment, layout, names
from conversion.alignment import CHUNK, text_hashes
from conversion.annotations import AnnotationError, Form
from conversion.annotations import read as read_annotations
from conversion.archives import Archive, DamagedEntry, Entry, Reader
from conversion.disk import BUFFER
from conversion.findings import Problem, Reported
from conversion.options import Options
from conversion.release import ANNOTATION, IMAGE, SubsetFiles
from mmm_rs import MODALITIES, SUBSETS, key_hash

SHARDS = 16  # and multiples: divides evenly over the usual numbers of nodes and workers
BLOCK = 512  # bytes; the unit of a tar
OTHERS = 3  # images named beside one that claims their place

IMAGE_COLUMNS = ("source", "file", "offset", "packed", "size", "crc", "method", "part")


class StoredRecord(msgspec.Struct, frozen=True, array_like=True):
    """A record as the plan keeps it for whoever writes the shard."""

    file: str
    position: int
    path: str
    prompt: str
    category: str | None
    gsd: float | None
    cloud_cover: float | None
    text: str


@dataclass(frozen=True)
class AnnotationFile:
    """One annotation file: what was recognised and how many records it holds."""

    path: str
    form: Form
    records: int
    example: str | None


@dataclass(frozen=True)
class PlannedShard:
    name: str  # relative to the output folder
    split: str
    start: int  # into the plan's order
    stop: int
    bytes: int  # at the most: sizes of records are bounds


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
        """What a writer of shard `number` needs: a row a sample, columns prefixed by the modality."""
        shard = self.shards[number]
        places = self.order[shard.start : shard.stop]
        columns: dict[str, Any] = {"key": self.keys.take(pa.array(places))}
        for at, modality in enumerate(MODALITIES):
            if modality not in SUBSETS[self.subset].modalities:
                continue
            rows, records = self.image[places, at], self.record[places, at]
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
                writer.write_batch(self.batch(number).cast(schema))


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


def release_memory() -> None:
    """Give back what was freed: a step's scraps would be counted with the next one's. glibc keeps them unless told."""
    pa.default_memory_pool().release_unused()
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL("libc.so.6").malloc_trim(0)


def make(files: SubsetFiles, options: Options, records_path: Path | None = None) -> SubsetPlan:
    """Plan one subset. The records' text goes to the file `records_path`, where one is given."""
    reported: list[Reported] = []
    problems: list[Problem] = []
    release_memory()
    images, released = _images(files, reported)
    release_memory()
    with open(records_path, "wb", BUFFER) if records_path else contextlib.nullcontext() as sink:
        records = _read_records(files, options, sink, reported, problems)
    release_memory()
    aligned = alignment.is_aligned(files.name)
    sources = _flat(images["source"])
    found = alignment.places(files.name, sources)
    release_memory()
    paths = pa.concat_arrays(records.paths) if records.paths else pa.array([], pa.string())
    records.paths = [paths]  # once in memory
    release_memory()
    matches = alignment.match(files.name, sources, found, paths, records.hints)
    release_memory()

    if aligned:
        encoded = found.place.dictionary_encode()
        place_of, places = encoded.indices.to_numpy(zero_copy_only=False).astype(np.int64), encoded.dictionary
    else:
        place_of, places = np.arange(len(sources)), found.place
    image = _image_grid(files.name, images, place_of, found.modality, len(places), reported)
    record, used = _record_grid(files.name, matches, image, places, records, paths, aligned, reported)
    del matches, paths
    records.paths = []
    release_memory()
    published = (image >= 0) & ((record >= 0) | options.keep_unprompted)
    for place, modality in np.argwhere((image >= 0) & ~published):
        source = sources[int(image[place, modality])].as_py()
        reported.append(Reported("image", source, None, "no_record", "no usable record names this image"))
    image = np.where(published, image, -1)
    record = np.where(published, record, -1)
    used[record[record >= 0]] = False
    assert not used.any(), "a record that was assigned names no published image"

    chosen = np.flatnonzero((image >= 0).any(axis=1))
    keys = _keys(files.name, places, image, sources, chosen)
    release_memory()
    order, shards = _shards(files.name, keys, places, chosen, _sizes(images, image, record, records), options)
    return SubsetPlan(
        subset=files.name,
        archives=tuple(part.archive for part in files.parts),
        shards=tuple(shards),
        reported=tuple(sorted(reported, key=lambda row: (row.kind, row.path, row.position or 0, row.reason))),
        annotations=tuple(records.files),
        problems=tuple(problems),
        images_released=released,
        records_released=records.released,
        pairs={m: int((record[:, at] >= 0).sum()) for at, m in enumerate(MODALITIES)},
        images_by_modality={m: int((found.modality == at).sum()) for at, m in enumerate(MODALITIES)},
        images=images,
        keys=keys,
        order=order,
        image=image,
        record=record,
        stored=records.stored(),
    )


def _images(files: SubsetFiles, reported: list[Reported]) -> tuple[pa.Table, int]:
    """The images of all parts that can be read as far as their directories tell, and how many there are in all."""
    tables = []
    for at, part in enumerate(files.parts):
        wanted = part.entries.select([*IMAGE_COLUMNS[:-1], "problem"])  # first: the rest would be copied for nothing
        table = wanted.filter(pc.equal(part.entries["type"], IMAGE))
        tables.append(table.append_column("part", pa.array(np.full(table.num_rows, at, np.int16))))
    images = pa.concat_tables(tables)
    released = images.num_rows
    broken = images.filter(pc.is_valid(images["problem"]))
    for row in broken.select(["source", "problem"]).to_pylist():
        reported.append(Reported("image", row["source"], None, row["problem"], "the archive's entry cannot be used"))
    images = images.filter(pc.is_null(images["problem"])) if broken.num_rows else images
    archives = [part.archive for part in files.parts]
    return _without_duplicates(images, archives, reported).select(list(IMAGE_COLUMNS)).combine_chunks(), released


def _without_duplicates(images: pa.Table, archives: list[Archive], reported: list[Reported]) -> pa.Table:
    """Of equal names with equal content the first counts; of equal names with different content none does."""
    if pc.count_distinct(images["source"]).as_py() == images.num_rows:
        return images
    code = _flat(images["source"]).dictionary_encode().indices.to_numpy(zero_copy_only=False)
    doubled = np.flatnonzero(np.bincount(code) > 1)
    rows_of: dict[int, list[int]] = {}
    for row in np.flatnonzero(np.isin(code, doubled)).tolist():
        rows_of.setdefault(int(code[row]), []).append(row)
    drop = []
    with contextlib.ExitStack() as stack:
        readers = [stack.enter_context(Reader(archive)) for archive in archives]
        for rows in rows_of.values():
            same = images.take(pa.array(rows)).to_pylist()
            if len({row["size"] for row in same}) == 1 and len({_crc(row, readers) for row in same}) == 1:
                kept, reason, detail = 1, "duplicate_image", "the same name and content stands in the release before"
            else:
                kept, reason, detail = 0, "same_name", f"{len(rows)} different images have this name"
            drop += rows[kept:]
            reported += [Reported("image", row["source"], None, reason, detail) for row in same[kept:]]
    keep = np.ones(images.num_rows, bool)
    keep[drop] = False
    return images.filter(pa.array(keep))


def _crc(row: dict[str, Any], readers: list[Reader]) -> object:
    """The CRC32 of an image's bytes; of a file in a folder they must be read. What cannot be read equals nothing."""
    if row["crc"] is not None:
        return row["crc"]
    try:
        return readers[row["part"]].read(Entry.of(row, name=""))[1]
    except DamagedEntry:
        return object()


class _Records:
    """Usable records of a subset as columns; texts are on disk, paths in Arrow chunks."""

    def __init__(self) -> None:
        self.paths: list[pa.Array] = []
        self.hints: list[tuple[int, int, str | None]] = []
        self.files: list[AnnotationFile] = []
        self.released = 0
        self.lacking = False  # whether there were more that could not be read
        self.offset, self.prompt_hash = array("q"), array("q")
        self.length, self.prompt_bytes, self.position = array("i"), array("i"), array("i")

    def stored(self) -> np.ndarray:
        return np.stack([np.asarray(self.offset), np.asarray(self.length)], axis=1).astype(np.int64)

    def truncate(self, count: int) -> None:
        for column in (self.offset, self.length, self.prompt_bytes, self.prompt_hash, self.position):
            del column[count:]

    def file_of(self, row: int) -> str:
        return next(self.files[at].path for at, (start, stop, _) in enumerate(self.hints) if start <= row < stop)


def _read_records(
    files: SubsetFiles, options: Options, sink: BinaryIO | None, reported: list[Reported], problems: list[Problem]
) -> _Records:
    records = _Records()
    sources = []
    for part in files.parts:
        table = part.entries.filter(pc.equal(part.entries["type"], ANNOTATION))
        sources += [(row["source"], part.archive, row) for row in table.to_pylist()]
    seen: dict[str, tuple[str, int, int | None]] = {}
    at = 0
    for source, archive, row in sorted(sources, key=lambda item: (item[0], item[1].label)):
        where = f"{archive.label}/{row['name']}"
        if row["problem"]:
            records.lacking = True
            # Those of these kinds are named with the other files of their archive.
            if row["problem"] not in ("encrypted", "unsupported_compression"):
                problems.append(
                    Problem(
                        where,
                        row["problem"],
                        f"this annotation file is not read: it is {row['problem']}",
                        "Repair or remove it",
                        files.name,
                    )
                )
            continue
        if source in seen:
            before, *content = seen[source]
            if row["crc"] is not None and content == [row["size"], row["crc"]]:
                problems.append(
                    Problem(
                        where,
                        "same_name",
                        f"this annotation file is that of {before} once more",
                        "Nothing is to be done",
                        files.name,
                    )
                )
                continue
            source = where  # each zip of a modality has its own
        start, new, example, rows = len(records.offset), [], None, []  # type: ignore[var-annotated]
        try:
            form, stream = _open(archive, row, where, options)
            count = 0
            for record in stream:
                count += 1
                if record.problem:
                    records.lacking |= record.problem == "invalid_json"  # perhaps all that follows
                    rows.append(Reported("record", source, record.position, record.problem, record.detail or ""))
                    continue
                example = example or record.text
                kept = StoredRecord(
                    source,
                    record.position,
                    record.path or "",
                    record.prompt or "",
                    record.category,
                    record.gsd,
                    record.cloud_cover,
                    record.text,
                )
                data = msgspec.msgpack.encode(kept)
                if sink:
                    sink.write(data)
                new.append(kept.path)
                records.offset.append(at)
                records.length.append(len(data))
                records.prompt_bytes.append(len(kept.prompt))
                records.prompt_hash.append(hash(kept.prompt))
                records.position.append(record.position)
                at += len(data)
                if len(new) == 1 << 16:
                    records.paths.append(pa.array(new, pa.string()))
                    new = []
        except (AnnotationError, DamagedEntry) as error:
            records.lacking = True
            records.truncate(start)
            total, whole = 0, []
            for chunk in records.paths:  # drop the paths of this file again
                whole.append(chunk.slice(0, max(0, min(len(chunk), start - total))))
                total += len(chunk)
            records.paths = whole
            detail = error.detail if isinstance(error, DamagedEntry) else str(error)
            problems.append(
                Problem(
                    where,
                    "unreadable_annotations",
                    f"none of its records is used: {detail}",
                    "Download it again, or see --image-key and --prompt-key",
                    files.name,
                )
            )
            continue
        seen[source] = where, row["size"], row["crc"]
        records.paths.append(pa.array(new, pa.string()))
        records.hints.append((start, len(records.offset), names.hint(source)))
        records.files.append(AnnotationFile(source, form, count, example))
        records.released += count
        reported += rows
    return records


def _open(archive: Archive, row: dict[str, Any], where: str, options: Options) -> tuple[Form, Iterable[Any]]:
    def open_stream() -> BinaryIO:
        return Reader(archive).stream(Entry.of(row))

    return read_annotations(open_stream, options.image_key, options.prompt_key, label=where)


def _image_grid(
    subset: str, images: pa.Table, place_of: np.ndarray, modality: np.ndarray, places: int, reported: list[Reported]
) -> np.ndarray:
    """(places, 3): the row of the image of each place and modality, -1 for none. Two for one cell go to the report."""
    allowed = np.array([m in SUBSETS[subset].modalities for m in MODALITIES] + [False])
    known = allowed[modality]  # -1 takes the last
    grid = np.full((places, len(MODALITIES)), -1, np.int32)
    rows = np.flatnonzero(known)
    cell = place_of[rows] * len(MODALITIES) + modality[rows]
    _, first, counts = np.unique(cell, return_index=True, return_counts=True)
    order, begins = np.argsort(cell, kind="stable"), np.cumsum(counts) - counts
    grid.reshape(-1)[cell[first]] = rows[first]
    for row in np.flatnonzero(~known):
        reported.append(
            Reported(
                "image",
                images["source"][int(row)].as_py(),
                None,
                "unknown_modality",
                f"neither name nor folder tells one of {SUBSETS[subset].modalities}",
            )
        )
    for at in np.flatnonzero(counts > 1):
        mine = rows[order[begins[at] : begins[at] + counts[at]]]
        claimants = images["source"].take(pa.array(mine)).to_pylist()
        grid.reshape(-1)[cell[first[at]]] = -1
        for claimant in claimants:
            others = [name for name in claimants[: OTHERS + 1] if name != claimant][:OTHERS]
            more = len(claimants) - 1 - len(others)
            named = ", ".join(others) + (f" and {more} more" if more else "")
            reported.append(Reported("image", claimant, None, "same_place", f"claims the same place as {named}"))
    return grid


def _record_grid(
    subset: str,
    matches: alignment.Matches,
    image: np.ndarray,
    places: pa.Array,
    records: _Records,
    paths: pa.Array,
    aligned: bool,
    reported: list[Reported],
) -> tuple[np.ndarray, np.ndarray]:
    """(places, 3): the record of each image, -1 for none; and of each record whether it is in use. The rest goes to the
    report."""
    width = len(MODALITIES)
    grid = np.full(image.shape, -1, np.int32)
    named = matches.modality.astype(np.int64)
    if aligned:
        place = pc.fill_null(pc.index_in(matches.place, places), -1).to_numpy(zero_copy_only=False).astype(np.int64)
        there = image >= 0
        first_there = np.where(there.any(axis=1), there.argmax(axis=1), -1) if len(image) else np.array([], np.int64)
        tokenless = (named < 0) & (place >= 0)
        modality = np.where(tokenless, first_there[place] if len(first_there) else -1, named)
        place = np.where(modality >= 0, place, -1)
    else:
        place, modality = np.where(matches.image >= 0, matches.image, -1), named
    found = np.flatnonzero(place >= 0)
    cell = place[found] * width + modality[found]
    _, first = np.unique(cell, return_index=True)
    grid.reshape(-1)[cell[first]] = found[first]
    winner = np.full(len(paths), -1, np.int32)  # the record that is used in the place of each
    winner[found] = grid.reshape(-1)[cell]

    if aligned:  # a modality that no record of the subset names is served by the sample's record
        order = [MODALITIES.index(m) for m in SUBSETS[subset].modalities]
        sample_record = np.full(len(image), -1, np.int32)
        for at in reversed(order):
            sample_record = np.where(grid[:, at] >= 0, grid[:, at], sample_record)
        for at in order:
            if not (records.lacking or (named == at).any()):  # what could not be read may well name it
                grid[:, at] = np.where(grid[:, at] >= 0, grid[:, at], sample_record)
    grid = np.where(image >= 0, grid, -1)
    used = np.zeros(len(paths), bool)
    used[grid[grid >= 0]] = True

    hashes = np.asarray(records.prompt_hash)
    for row in np.flatnonzero(~used):
        path, before = paths[int(row)].as_py(), int(winner[row])
        if matches.image[row] == alignment.AMBIGUOUS:
            reason, detail = "ambiguous_path", f"{path}: several images fit this path"
        elif before in (-1, row) or not used[before]:
            reason, detail = "no_image", f"{path}: no image of the release fits this path"
        elif hashes[row] == hashes[before]:
            reason, detail = "duplicate_record", f"{path}: record {records.position[before]} names it with this prompt"
        else:
            reason = "conflicting_prompt"
            detail = f"{path}: record {records.position[before]} names it with another prompt, which counts"
        reported.append(Reported("record", records.file_of(int(row)), records.position[int(row)], reason, detail))
    return grid, used


def _keys(subset: str, places: pa.Array, image: np.ndarray, sources: pa.Array, chosen: np.ndarray) -> pa.Array:
    """Keys of the samples at `chosen` places (null elsewhere): unique and short enough for a tar header."""
    other = np.ones(len(places), bool)
    other[chosen] = False
    pieces = [pa.array([], pa.string())]
    for start in range(0, len(places), CHUNK):
        some = pc.replace_substring_regex(places.slice(start, CHUNK), r"[^A-Za-z0-9_/-]", "_")
        some = pc.replace_substring_regex(some, r"(^|/)__+", r"\1_")
        some = pc.binary_join_element_wise(names.clean(subset), some, "/")
        pieces.append(pc.if_else(pa.array(other[start : start + CHUNK]), None, some))
    keys = pa.concat_arrays(pieces)
    del pieces  # or the keys would be twice in memory
    while unfit := _unfit(keys, chosen):
        changed = keys.to_pylist()
        for place in unfit:
            row = next(row for row in image[place] if row >= 0)
            changed[place] = names.shortened(changed[place], sources[int(row)].as_py())
        keys = pa.array(changed, pa.string())
    return keys


def _unfit(keys: pa.Array, chosen: np.ndarray) -> list[int]:
    """The chosen places whose key another has as well, or no tar header holds."""
    hashes = np.empty(len(chosen), np.int64)
    for start in range(0, len(chosen), CHUNK):
        hashes[start : start + CHUNK] = text_hashes(keys.take(pa.array(chosen[start : start + CHUNK])))
    _, code, count = np.unique(hashes, return_inverse=True, return_counts=True)
    long = pc.utf8_length(keys).fill_null(0).to_numpy(zero_copy_only=False) > names.USTAR_NAME - names.LONGEST_SUFFIX
    suspects = chosen[(count[code] > 1) | long[chosen]].tolist()
    key_of = dict(zip(suspects, keys.take(pa.array(suspects, pa.int64())).to_pylist(), strict=True))
    times = Counter(key_of.values())
    return [place for place, key in key_of.items() if times[key] > 1 or not names.fits(key)]


def _blocks(sizes: np.ndarray) -> np.ndarray:
    """Bytes of a tar member whose content has these sizes: its header and whole blocks."""
    return BLOCK + -(-sizes // BLOCK) * BLOCK


def _sizes(images: pa.Table, image: np.ndarray, record: np.ndarray, records: _Records) -> np.ndarray:
    """An upper bound of each place's bytes in a tar. Exact for images; escapes can at most double a record's text."""
    size = np.append(images["size"].to_numpy(), 0).astype(np.int64)
    text = np.append(np.asarray(records.length), 0).astype(np.int64)
    prompt = np.append(np.asarray(records.prompt_bytes), 0).astype(np.int64) * 4
    total = np.zeros(len(image), np.int64)
    json_size = np.full(len(image), 512, np.int64)
    for at in range(len(MODALITIES)):
        total += np.where(image[:, at] >= 0, _blocks(size[image[:, at]]), 0)
        total += np.where(record[:, at] >= 0, _blocks(prompt[record[:, at]]), 0)
        json_size += np.where(image[:, at] >= 0, 2 * text[record[:, at]] + 256, 0)
    return total + _blocks(json_size)


def _shards(
    subset: str, keys: pa.Array, places: pa.Array, chosen: np.ndarray, sizes: np.ndarray, options: Options
) -> tuple[np.ndarray, list[PlannedShard]]:
    """The places in the order of the shards, and the shards: samples sorted by a seeded hash of their key."""
    digest = bytearray()
    for start in range(0, len(chosen), CHUNK):
        for key in keys.take(pa.array(chosen[start : start + CHUNK])).to_pylist():
            digest += key_hash(key, options.seed)
    value = np.frombuffer(bytes(digest), ">u8")
    order = chosen[np.argsort(value, kind="stable")]
    held_out = np.zeros(len(order), bool)
    if options.validation:
        held_out[:] = [_held_out(subset, place, options) for place in places.take(pa.array(order)).to_pylist()]
        if held_out.all():  # of few scenes all may be drawn, and nothing would be left to train on
            held_out[:] = False
    result: list[np.ndarray] = []
    shards = []
    for split, mine in (("train", order[~held_out]), ("validation", order[held_out])):
        before = sum(len(part) for part in result)
        result.append(mine)
        for number, (start, stop, size, count) in enumerate(_cut(sizes[mine], options.shard_size)):
            name = layout.shard_name(subset, split, number, count)
            shards.append(PlannedShard(name, split, before + start, before + stop, size + 2 * BLOCK))
    return np.concatenate(result), shards


def _held_out(subset: str, place: str, options: Options) -> bool:
    scene = f"{options.seed}/{subset}/{names.scene(subset, place)}"
    return int.from_bytes(hashlib.sha256(scene.encode()).digest()[:8], "big") < options.validation * 2**64


def _cut(sizes: np.ndarray, limit: int) -> list[tuple[int, int, int, int]]:
    """(start, stop, bytes, number of shards): 16 shards or the next multiple of 16 that keeps each within `limit`.

    Of a few samples that are larger by themselves each makes its shard larger, and the others as small as they were.
    """
    if not len(sizes):
        return []
    total = np.concatenate([[0], np.cumsum(sizes)])
    large = sizes > limit
    counted = np.concatenate([[0], np.cumsum(np.where(large, 0, sizes))]) if large.sum() <= SHARDS else total
    count = min(len(sizes), SHARDS * max(1, -(-int(counted[-1]) // (SHARDS * limit))))
    while True:
        bounds = np.arange(count + 1) * len(sizes) // count
        if np.diff(counted[bounds]).max() <= limit or count + SHARDS > len(sizes):
            spans = itertools.pairwise(bounds.tolist())
            return [(start, stop, int(total[stop] - total[start]), count) for start, stop in spans]
        count += SHARDS
