"""Prove that an output folder is what its manifest says, and that its images are the release's.

The tars are read with the standard library's `tarfile`, not with the code that wrote them.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import os
import tarfile
import tempfile
import zlib
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from conversion import images, layout, manifest, release, report
from conversion.archives import ENTRY_COLUMNS, Archive, DamagedEntry, Entry, Reader, extracted
from conversion.card import Card
from conversion.contents import Contents, survey
from conversion.disk import check_shortage, output_error
from conversion.display import NAMED, first_of
from conversion.errors import UsageError, VerificationError
from conversion.execution import check_stop, completed, threads
from conversion.release import IMAGE, SubsetFiles
from mmm_rs import MODALITIES, index_schema

SUFFIXES = {"jpg": "rgb", "nir.jpg": "nir", "sar.jpg": "sar"}
TEXTS = {"txt": "prompt", "nir.txt": "nir_prompt", "sar.txt": "sar_prompt"}
ORDER = ("jpg", "txt", "nir.jpg", "nir.txt", "sar.jpg", "sar.txt", "json")
CHUNK = 1 << 20  # bytes


@dataclass(frozen=True)
class Verified:
    """What was checked: counts of what was found right."""

    shards: int
    samples: int
    images: int
    compared: int  # images compared byte by byte with the release
    passed_over: tuple[str, ...] = ()  # files that other tools left among the dataset's
    others: tuple[str, ...] = ()  # files and folders beside the dataset's


def verify(
    out: str | os.PathLike[str],
    release_path: str | os.PathLike[str] | None = None,
    *,
    subsets: Sequence[str] | None = None,
    workers: int | None = None,
    card: Card | None = None,
    progress: Callable[[int, int, str], None] | None = None,
) -> Verified:
    """Check that a folder is what its manifest says: every shard, member, index row, the report and the card.

    Args:
        out: The folder.
        release_path: Compare each image with this release too; no image of it may be missing both in `out` and in the
            report.
        subsets: Check the shards and the index of these only, and neither report nor card: `out` may hold just a part
            of the dataset (default: everything).
        workers: Shards to read at a time (default: one per core).
        card: What checks the dataset card, such as the module `dataset_card.card` (default: the card is not checked).
        progress: Is called with bytes done, bytes in total, and the subset.

    Returns:
        What was checked, in numbers.

    Raises:
        VerificationError: The folder is not what its manifest says. Names the faults, up to a limit.
        UsageError: There is no such release, or the dataset has no such subset.
    """
    out = Path(out)
    manifest.check_there(out)
    if release_path is not None:
        release.check_there(release_path)  # to be told in hours would be late
    made = manifest.read(out)
    if made is None:
        raise VerificationError(
            f"{out}: no {layout.MANIFEST} here. Give the folder that `mmm-rs convert` wrote; an "
            "unfinished conversion goes on with the same command"
        )
    contents = survey(out, made)
    if subsets:
        made = _part(made, subsets)
        faults = _files(
            out, contents, (*(shard["name"] for shard in made["shards"]), *map(layout.index_name, made["subsets"]))
        )
    else:
        faults = [*_files(out, contents, contents.files), *balance(out), *(card.faults(out) if card else ())]
    if release_path is not None and not (out / layout.UNPUBLISHED).is_file():
        faults.append(f"{out / layout.UNPUBLISHED}: is missing. Fetch it: it names the images that were left out")
    samples = published = done = 0
    total = sum(shard["bytes"] for shard in made["shards"])
    ranges = _index(out, made, faults)
    present = [number for number, shard in enumerate(made["shards"]) if (out / shard["name"]).is_file()]
    found: dict[int, list[str]] = {}

    def check(number: int) -> tuple[list[str], int]:
        shard = made["shards"][number]
        path = out / layout.index_name(shard["subset"])
        try:
            rows = _index_rows(path, ranges[shard["name"]])
        except Exception as error:  # pyarrow raises several kinds for broken files
            check_shortage(path, error)
            return [_unreadable(path, error)], 0
        return check_shard(out, shard, rows)

    with threads(workers) as pool, completed(pool, check, present) as results:
        for number, (found[number], count) in results:
            shard = made["shards"][number]
            samples, published = samples + shard["samples"], published + count
            done += shard["bytes"]
            if progress:
                progress(done, total, shard["subset"])
    faults = list(dict.fromkeys([*faults, *(fault for number in present for fault in found[number])]))
    compared = 0
    if release_path is not None and not faults:
        compared, differing = _compare(out, made, release_path, workers)
        faults += differing
    if faults:
        raise VerificationError(*first_of(faults))
    return Verified(len(made["shards"]), samples, published, compared, contents.passed_over, contents.others)


def _part(made: dict[str, Any], subsets: Sequence[str]) -> dict[str, Any]:
    """The manifest of these subsets alone. Raises UsageError for one that the dataset does not have."""
    for name in subsets:
        if name not in made["subsets"]:
            raise UsageError(f"{name}: not a subset of this dataset. It has {', '.join(made['subsets'])}")
    return made | {
        "shards": [shard for shard in made["shards"] if shard["subset"] in subsets],
        "subsets": {name: totals for name, totals in made["subsets"].items() if name in subsets},
    }


def _files(out: Path, contents: Contents, expected: Collection[str]) -> list[str]:
    """Shards and index files that are expected and missing, and files that are too many."""
    folders = (f"{layout.DATA}/", f"{layout.INDEX}/")
    return [
        *(
            f"{out / name}: is missing. Convert again with --overwrite, or download it again"
            for name in contents.missing
            if name in expected and name.startswith(folders)
        ),
        *(f"{out / name}: is not in the manifest. Remove it" for name in contents.strange),
    ]


def balance(out: Path) -> Iterator[str]:
    """Where the report does not balance."""
    path = out / layout.SUMMARY
    try:
        summary = json.loads(path.read_bytes())
        for subset, totals in summary["subsets"].items():
            report.check_balance(subset, totals)
        counted = pq.read_table(out / layout.UNPUBLISHED).num_rows
        reported = sum(summary["total"][kind].get("reported", 0) for kind in ("images", "records"))
        if counted != reported + summary["unknown"]["images"]:
            yield f"{out / layout.UNPUBLISHED}: has {counted} rows, the summary counts {reported}"
    except (OSError, ValueError, KeyError, TypeError, AttributeError, AssertionError) as error:
        check_shortage(path, error)
        yield f"{path}: the report is missing or does not balance: {error}. Convert again with --overwrite"


def _unreadable(path: Path, error: Exception) -> str:
    return f"{path}: cannot be read: {error}. Convert again with --overwrite"


def _index(out: Path, made: dict[str, Any], faults: list[str]) -> dict[str, list[tuple[int, int]]]:
    """Where in its subset's index the rows of each shard are: ranges, first row and the one after the last.

    The order of a shard's rows is checked by reading the shard.
    """
    ranges: dict[str, list[tuple[int, int]]] = {shard["name"]: [] for shard in made["shards"]}
    for subset in made["subsets"]:
        path = out / layout.index_name(subset)
        try:
            with pq.ParquetFile(path) as index:
                if not index.schema_arrow.equals(index_schema()):
                    faults.append(f"{path}: its columns are not those of an index. Convert again with --overwrite")
                    continue
                runs = list(_runs(index))
        except FileNotFoundError:
            continue
        except Exception as error:  # pyarrow raises several kinds for broken files
            check_shortage(path, error)
            faults.append(_unreadable(path, error))
            continue
        for name, start, stop in runs:
            if name in ranges:
                ranges[name].append((start, stop))
            else:
                faults.append(f"{path}: row {start} names {name}, which is not in the manifest")
        seen = [name for name, _, _ in runs if name in ranges]
        if seen != [shard["name"] for shard in made["shards"] if shard["name"] in set(seen)]:
            faults.append(f"{path}: its rows are not in the order of the shards. Convert again with --overwrite")
    return ranges


def _runs(index: pq.ParquetFile) -> Iterator[tuple[str, int, int]]:
    """Each shard that rows of an index name one after another, with the first of these rows and the one after them."""
    name: Any = None
    start = first = 0
    for batch in index.iter_batches(columns=["shard"]):
        runs, at = pc.run_end_encode(batch["shard"]), first
        for value, end in zip(runs.values.to_pylist(), runs.run_ends.to_pylist(), strict=True):
            if value != name and at:
                yield name, start, at
            if value != name:
                name, start = value, at
            at = first + end
        first += batch.num_rows
    if first:
        yield name, start, first


def _index_rows(path: Path, ranges: list[tuple[int, int]]) -> list[dict[str, Any]]:
    """These rows of an index. No more is read than the row groups that hold them: one, as a conversion writes it."""
    if not ranges:
        return []
    rows: list[dict[str, Any]] = []
    with pq.ParquetFile(path) as index:
        first = 0
        for group in range(index.num_row_groups):
            last = first + index.metadata.row_group(group).num_rows
            mine = [(max(start, first), min(stop, last)) for start, stop in ranges if start < last and stop > first]
            if mine:
                table = index.read_row_group(group)
                rows += [row for a, b in mine for row in table.slice(a - first, b - a).to_pylist()]
            first = last
    return rows


def check_shard(out: Path, shard: dict[str, Any], rows: list[dict[str, Any]]) -> tuple[list[str], int]:
    """Faults of one shard, and how many images it holds."""
    path = out / shard["name"]
    remedy = "Download it again, or convert again with --overwrite"
    sha256 = hashlib.sha256()
    try:
        size = path.stat().st_size
        if size != shard["bytes"]:
            return [f"{path}: has {size} bytes, the manifest says {shard['bytes']}. {remedy}"], 0
        with open(path, "rb") as file:
            while chunk := file.read(CHUNK):
                check_stop()
                sha256.update(chunk)
    except OSError as error:
        check_shortage(path, error)
        return [f"{path}: cannot be read: {error.strerror}. {remedy}"], 0
    if sha256.hexdigest() != shard["sha256"]:
        return [f"{path}: its sha256 is not the manifest's: bytes were changed. {remedy}"], 0
    try:
        return _members(path, shard, rows)
    except (tarfile.TarError, EOFError, OSError, ValueError) as error:
        check_shortage(path, error)
        return [f"{path}: cannot be read as a tar: {error}. {remedy}"], 0


def _members(path: Path, shard: dict[str, Any], rows: list[dict[str, Any]]) -> tuple[list[str], int]:
    """Read every member; samples, pairs and index rows must agree with what is there."""
    faults: list[str] = []
    samples: list[tuple[str, dict[str, tuple[int, bytes]]]] = []
    pairs = dict.fromkeys(MODALITIES, 0)
    published = checked = 0

    def finish() -> None:
        nonlocal checked
        if not samples:
            return
        key, members = samples.pop()
        if [s for s in ORDER if s in members] != list(members) or "json" not in members:
            faults.append(f"{path}: sample {key} has members {list(members)}: wrong order or no json")
        row = rows[checked] if checked < len(rows) else None
        checked += 1
        if row is None or row["key"] != key:
            faults.append(f"{path}: sample {key} stands where the index has {row['key'] if row else 'nothing'}")
        else:
            faults.extend(f"{path}: sample {key}: {fault}" for fault in _row(row, members, shard["split"]))

    with tarfile.open(path, "r:") as tar:
        for member in tar:
            check_stop()
            folder, _, last = member.name.rpartition("/")
            stem, _, suffix = last.partition(".")
            key = f"{folder}/{stem}"
            if not member.isreg() or suffix not in ORDER:
                faults.append(f"{path}: member {member.name} belongs to no sample")
                continue
            if not samples or samples[-1][0] != key:
                finish()
                samples.append((key, {}))
            file = tar.extractfile(member)
            assert file is not None
            if suffix in samples[-1][1]:
                faults.append(f"{path}: member {member.name} is there twice")
            samples[-1][1][suffix] = (member.offset_data, file.read())
            published += suffix in SUFFIXES
            if suffix in TEXTS:
                pairs[suffix.rpartition(".")[0] or "rgb"] += 1
        finish()
    if checked != shard["samples"] or pairs != shard["pairs"] or checked != len(rows):
        faults.append(
            f"{path}: holds {checked} samples and pairs {pairs}; the manifest says {shard['samples']} and "
            f"{shard['pairs']}, the index has {len(rows)} rows"
        )
    return faults, published


def _row(row: dict[str, Any], members: dict[str, tuple[int, bytes]], split: str) -> Iterator[str]:
    """Where one index row and the members of its sample differ."""
    if row["split"] != split:
        yield f"is in split {split}, the index says {row['split']}"
    for suffix, modality in SUFFIXES.items():
        there: tuple[int | None, ...] = (None,) * 5
        if suffix in members:
            offset, data = members[suffix]
            try:
                there = (offset, len(data), zlib.crc32(data), *images.measure(data))
            except images.RejectedImage as error:
                yield f"{suffix} is no whole image: {error.detail}"
                continue
        said = tuple(row[f"{modality}_{what}"] for what in ("offset", "size", "crc32", "width", "height"))
        if there != said:
            yield f"{suffix} has offset, size, CRC-32, width, height {there}, the index says {said}"
    for suffix, column in TEXTS.items():
        text = members[suffix][1].decode() if suffix in members else None
        if text != row[column]:
            yield f"{suffix} is not the index's {column}"
    fields = json.loads(members["json"][1]) if "json" in members else {}
    for name, value in fields.items():
        if row.get(name) != value:
            yield f"the JSON's {name} is {value!r}, the index says {row.get(name)!r}"


def _compare(
    out: Path, made: dict[str, Any], release_path: str | os.PathLike[str], workers: int | None
) -> tuple[int, list[str]]:
    """Each published image against the image of the release that its row names as its source."""
    found = release.find(release_path, exclude=out)
    faults, compared = [], 0
    for subset in made["subsets"]:
        if subset not in found.subsets:
            faults.append(f"{release_path}: {subset} is not in this release, so its images cannot be compared")
            continue
        count, differing = _compare_subset(out, subset, found.subsets[subset], workers, "exported_from" not in made)
        compared, faults = compared + count, faults + differing
    return compared, faults


def _compare_subset(
    out: Path, subset: str, files: SubsetFiles, workers: int | None, whole: bool
) -> tuple[int, list[str]]:
    """`whole`: nothing of the release may be missing both here and in the report; an export holds a part of it."""
    wanted = _published(out / layout.index_name(subset))
    entries = _entries(files)
    accounted = pa.concat_tables([wanted.select(["source"]), _reported(out, subset)])["source"].combine_chunks()
    lost = entries.filter(pc.invert(pc.is_in(entries["source"], value_set=accounted)))["source"]
    at = pc.index_in(wanted["source"], value_set=entries["source"].combine_chunks())
    absent = wanted.filter(pc.is_null(at))
    faults = [f"{row['key']}: the release has no image {row['source']}" for row in absent.to_pylist()]
    for source in lost.slice(0, NAMED).to_pylist() if whole else ():
        faults.append(
            f"{source}: this image of {subset} is one of {len(lost):,} in the release that are neither "
            "published nor in the report. Convert with --overwrite"
        )
    wanted, there = wanted.filter(pc.is_valid(at)), entries.take(at.drop_null())
    for name in ("part", *ENTRY_COLUMNS):
        wanted = wanted.append_column(f"entry_{name}", there[name])
    # A shard at a time, and within it forward through the archives, which is read fastest.
    wanted = wanted.sort_by([(name, "ascending") for name in ("shard", "entry_part", "entry_offset")])
    shards, first = [], 0
    for run in pc.value_counts(wanted["shard"]).to_pylist():
        shards.append(wanted.slice(first, run["counts"]))
        first += run["counts"]
    compared = 0
    with contextlib.ExitStack() as stack:
        archives = [part.archive for part in files.parts]
        if any(archive.inside for archive in archives):
            try:
                folder = stack.enter_context(tempfile.TemporaryDirectory(prefix=".verify-", dir=out))
            except OSError as error:
                raise output_error(out, error) from None
            archives = [stack.enter_context(extracted(archive, folder)) for archive in archives]
        pool = stack.enter_context(threads(workers))
        task = functools.partial(_compare_images, out, archives)
        for _, (count, found) in stack.enter_context(completed(pool, task, shards)):
            compared += count
            faults += found
    return compared, faults


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


def _reported(out: Path, subset: str) -> pa.Table:
    """The images that the report names, column source."""
    mine = [("subset", "==", subset), ("kind", "==", "image")]
    return pq.read_table(out / layout.UNPUBLISHED, columns=["path"], filters=mine).rename_columns(["source"])


def _entries(files: SubsetFiles) -> pa.Table:
    """The images of all parts; `part` is the number of an entry's."""
    tables = []
    for number, part in enumerate(files.parts):
        usable = pc.and_(pc.equal(part.entries["type"], IMAGE), pc.is_null(part.entries["problem"]))
        table = part.entries.filter(usable).select(["source", *ENTRY_COLUMNS])
        tables.append(table.append_column("part", pa.repeat(number, table.num_rows)))
    return pa.concat_tables(tables)


def _compare_images(out: Path, archives: Sequence[Archive], images: pa.Table) -> tuple[int, list[str]]:
    """Images of one shard against their entries: how many were compared, and the faults."""
    faults, compared = [], 0
    with contextlib.ExitStack() as stack:
        readers = [stack.enter_context(Reader(archive)) for archive in archives]
        shard = stack.enter_context(open(out / images["shard"][0].as_py(), "rb"))
        for batch in images.to_batches(max_chunksize=1000):
            for row in batch.to_pylist():
                check_stop()
                shard.seek(row["offset"])
                mine = shard.read(row["size"])
                entry = Entry(**{name: row[f"entry_{name}"] for name in ENTRY_COLUMNS}, name=row["source"])
                try:
                    data, _ = readers[row["entry_part"]].read(entry)
                except DamagedEntry as error:
                    faults.append(f"{row['key']}: {row['source']} in the release is damaged: {error.detail}")
                    continue
                compared += 1
                if bytes(data) != mine:
                    faults.append(
                        f"{row['key']}: the {row['modality']} image differs from the release's {row['source']}"
                    )
    return compared, faults
