"""Prove that an output folder is what its manifest says, and that its images are the release's.

The tars are read with the standard library's `tarfile`, not with the code that wrote them.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import tarfile
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import pyarrow.compute as pc
import pyarrow.parquet as pq

from conversion import images, layout, manifest, release, report
from conversion.card import Card
from conversion.comparison import compare
from conversion.contents import Contents, survey
from conversion.disk import check_shortage
from conversion.display import first_of
from conversion.errors import UsageError, VerificationError
from conversion.execution import check_stop, completed, threads
from conversion.samples import fields_of_row
from mmm_rs import (
    FORMAT_VERSION,
    IMAGE_FACTS,
    LABEL_TYPES,
    MEMBERS,
    METADATA_MEMBER,
    MODALITIES,
    PROMPT_COLUMNS,
    index_schema,
    label_column,
    read_row_groups,
)

IMAGES = {members.image: modality for modality, members in MEMBERS.items()}  # suffix of a member -> modality
PROMPTS = {members.prompt: modality for modality, members in MEMBERS.items()}
ORDER = [suffix for members in MEMBERS.values() for suffix in (members.image, members.prompt)] + [METADATA_MEMBER]
CHUNK = 1 << 20  # bytes
FETCH = "Download it again, or convert again with --overwrite"


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
        release.check_there(release_path)  # hours later would be late
    whole = manifest.read(out)
    if whole is None:
        raise VerificationError(
            f"{out}: no {layout.MANIFEST} here. Give the folder that `mmm-rs convert` wrote; an "
            "unfinished conversion continues with the same command"
        )
    contents = survey(out, whole)
    contract = _part(whole, subsets) if subsets else whole
    faults = _files(out, contents, contract, only_data=bool(subsets))
    if not subsets:
        faults += [*balance(out), *(card.faults(out) if card else ())]
    if release_path is not None and not (out / layout.UNPUBLISHED).is_file():
        faults.append(f"{out / layout.UNPUBLISHED}: is missing. Fetch it: it names the images that were left out")
    published, more = _check_shards(out, contract, workers, progress)
    faults = list(dict.fromkeys([*faults, *more]))
    compared = 0
    if release_path is not None and not faults:
        compared, faults = compare(out, contract, release_path, workers)
    if faults:
        raise VerificationError(*first_of(faults))
    samples = sum(shard["samples"] for shard in contract["shards"])
    return Verified(len(contract["shards"]), samples, published, compared, contents.passed_over, contents.others)


def _part(whole: dict[str, Any], subsets: Sequence[str]) -> dict[str, Any]:
    """The manifest of these subsets alone. Raises UsageError for one that the dataset does not have."""
    for name in subsets:
        if name not in whole["subsets"]:
            raise UsageError(f"{name}: not a subset of this dataset. It has {', '.join(whole['subsets'])}")
    return whole | {
        "shards": [shard for shard in whole["shards"] if shard["subset"] in subsets],
        "subsets": {name: totals for name, totals in whole["subsets"].items() if name in subsets},
    }


def _files(out: Path, contents: Contents, contract: Mapping[str, Any], only_data: bool) -> list[str]:
    """Files that are missing, too many, or not those that the manifest describes. Shards are read later."""
    described = {layout.index_name(subset): None for subset in contract["subsets"]}
    if not only_data:
        described |= dict.fromkeys(contract.get("files", ()))
    expected = {*described, *(shard["name"] for shard in contract["shards"])}
    faults = [f"{out / name}: is missing. {FETCH}" for name in contents.missing if name in expected]
    faults += [f"{out / name}: is not in the manifest. Remove it" for name in contents.strange]
    for name in described:
        if name in contents.missing or name not in contract.get("files", ()) or not (out / name).is_file():
            continue
        if not manifest.is_as_described(out / name, contract["files"][name]):
            faults.append(f"{out / name}: its sha256 is not the manifest's: bytes were changed. {FETCH}")
    return faults


def balance(out: Path) -> Iterator[str]:
    """Where the report does not balance."""
    path = out / layout.SUMMARY
    try:
        summary = json.loads(path.read_bytes())
        for subset, totals in summary["subsets"].items():
            report.check_balance(subset, totals)
        rows = pq.read_table(out / layout.UNPUBLISHED).num_rows
        reported = sum(summary["total"][kind].get("reported", 0) for kind in ("images", "records"))
        if rows != reported + summary["unknown"]["images"]:
            yield f"{out / layout.UNPUBLISHED}: has {rows} rows, the summary counts {reported}"
    except (OSError, ValueError, KeyError, TypeError, AttributeError, AssertionError) as error:
        check_shortage(path, error)
        yield f"{path}: the report is missing or does not balance: {error}. Convert again with --overwrite"


# --- the index -------------------------------------------------------------------------------------------------------


def _check_shards(
    out: Path, contract: Mapping[str, Any], workers: int | None, progress: Callable[[int, int, str], None] | None
) -> tuple[int, list[str]]:
    """Read every shard that is there, beside its rows of the index. Returns the number of images, and the faults."""
    shards = [shard for shard in contract["shards"] if (out / shard["name"]).is_file()]
    ranges, faults = _row_ranges(out, contract)

    def check(shard: dict[str, Any]) -> tuple[list[str], int]:
        path = out / layout.index_name(shard["subset"])
        try:
            rows = _index_rows(path, ranges[shard["name"]])
        except Exception as error:  # pyarrow raises several kinds for broken files
            check_shortage(path, error)
            return [_unreadable(path, error)], 0
        return check_shard(out, shard, rows, contract["format_version"])

    published = done = 0
    total = sum(shard["bytes"] for shard in contract["shards"])
    faults_of: dict[str, list[str]] = {}
    with threads(workers) as pool, completed(pool, check, shards) as results:
        for shard, (differing, count) in results:
            faults_of[shard["name"]] = differing
            published, done = published + count, done + shard["bytes"]
            if progress:
                progress(done, total, shard["subset"])
    return published, [*faults, *itertools.chain.from_iterable(faults_of[shard["name"]] for shard in shards)]


def _unreadable(path: Path, error: Exception) -> str:
    return f"{path}: cannot be read: {error}. {FETCH}"


def _open_index(path: Path) -> pq.ParquetFile:
    return pq.ParquetFile(path, page_checksum_verification=True)


def _row_ranges(out: Path, contract: Mapping[str, Any]) -> tuple[dict[str, list[tuple[int, int]]], list[str]]:
    """Where in its subset's index the rows of each shard are: ranges, first row and the one after the last; and the
    faults. The order of a shard's rows is checked by reading the shard."""
    ranges: dict[str, list[tuple[int, int]]] = {shard["name"]: [] for shard in contract["shards"]}
    faults = []
    for subset in contract["subsets"]:
        path = out / layout.index_name(subset)
        try:
            with _open_index(path) as index:
                if not index.schema_arrow.equals(index_schema(contract["format_version"])):
                    faults.append(f"{path}: its columns are not those of an index. {FETCH}")
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
        named = [name for name, _, _ in runs if name in ranges]
        if named != [shard["name"] for shard in contract["shards"] if shard["name"] in set(named)]:
            faults.append(f"{path}: its rows are not in the order of the shards. {FETCH}")
    return ranges, faults


def _runs(index: pq.ParquetFile) -> Iterator[tuple[str, int, int]]:
    """Each shard that rows of an index name one after another, with the first of these rows and the one after them."""
    name: Any = None
    start = first = 0
    for batch in index.iter_batches(columns=["shard"]):
        runs, row = pc.run_end_encode(batch["shard"]), first
        for value, end in zip(runs.values.to_pylist(), runs.run_ends.to_pylist(), strict=True):
            if value != name and row:
                yield name, start, row
            if value != name:
                name, start = value, row
            row = first + end
        first += batch.num_rows
    if first:
        yield name, start, first


def _index_rows(path: Path, ranges: list[tuple[int, int]]) -> list[dict[str, Any]]:
    """These rows of an index. No more is read than the row groups that hold them: one, as a conversion writes it."""
    if not ranges:
        return []
    rows: list[dict[str, Any]] = []
    with _open_index(path) as index:
        first = 0
        for group in range(index.num_row_groups):
            last = first + index.metadata.row_group(group).num_rows
            spans = [(max(start, first), min(stop, last)) for start, stop in ranges if start < last and stop > first]
            if spans:
                table = read_row_groups(index, [group])
                rows += [row for a, b in spans for row in table.slice(a - first, b - a).to_pylist()]
            first = last
    return rows


# --- a shard ---------------------------------------------------------------------------------------------------------


def check_shard(
    out: Path, shard: Mapping[str, Any], rows: Sequence[Mapping[str, Any]], format_version: str = FORMAT_VERSION
) -> tuple[list[str], int]:
    """Faults of one shard, and how many images it holds. `shard`: its row of the manifest. `rows`: of the index."""
    path = out / shard["name"]
    sha256 = hashlib.sha256()
    try:
        size = path.stat().st_size
        if size != shard["bytes"]:
            return [f"{path}: has {size} bytes, the manifest says {shard['bytes']}. {FETCH}"], 0
        with open(path, "rb") as file:
            while chunk := file.read(CHUNK):
                check_stop()
                sha256.update(chunk)
    except OSError as error:
        check_shortage(path, error)
        return [f"{path}: cannot be read: {error.strerror}. {FETCH}"], 0
    if sha256.hexdigest() != shard["sha256"]:
        return [f"{path}: its sha256 is not the manifest's: bytes were changed. {FETCH}"], 0
    try:
        with tarfile.open(path, "r:") as tar:
            faults, published = _check_members(tar, shard, rows, format_version)
    except (tarfile.TarError, EOFError, OSError, ValueError) as error:
        check_shortage(path, error)
        return [f"{path}: cannot be read as a tar: {error}. {FETCH}"], 0
    return [f"{path}: {fault}" for fault in faults], published


class _Member(NamedTuple):
    name: str
    key: str
    suffix: str
    offset: int  # of its data in the tar
    data: bytes


def _members(tar: tarfile.TarFile) -> Iterator[_Member | str]:
    """The members of samples; in between, faults of members that belong to none."""
    for member in tar:
        check_stop()
        folder, _, last = member.name.rpartition("/")
        stem, _, suffix = last.partition(".")
        if not member.isreg() or suffix not in ORDER:
            yield f"member {member.name} belongs to no sample"
            continue
        file = tar.extractfile(member)
        assert file is not None
        yield _Member(member.name, f"{folder}/{stem}", suffix, member.offset_data, file.read())


def _check_members(
    tar: tarfile.TarFile, shard: Mapping[str, Any], rows: Sequence[Mapping[str, Any]], format_version: str
) -> tuple[list[str], int]:
    """Read every member; samples, pairs and index rows must agree with what is there."""
    faults: list[str] = []

    def of_samples() -> Iterator[_Member]:
        for member in _members(tar):
            if isinstance(member, str):
                faults.append(member)
            else:
                yield member

    pairs = dict.fromkeys(MODALITIES, 0)
    published = samples = 0
    for key, group in itertools.groupby(of_samples(), key=lambda member: member.key):
        members: dict[str, _Member] = {}
        for member in group:
            if member.suffix in members:
                faults.append(f"member {member.name} is there twice")
            members[member.suffix] = member
            published += member.suffix in IMAGES
            if member.suffix in PROMPTS:
                pairs[PROMPTS[member.suffix]] += 1
        if [suffix for suffix in ORDER if suffix in members] != list(members) or METADATA_MEMBER not in members:
            faults.append(f"sample {key} has members {list(members)}: wrong order or no json")
        row = rows[samples] if samples < len(rows) else None
        samples += 1
        if row is None or row["key"] != key:
            faults.append(f"sample {key} stands where the index has {row['key'] if row else 'nothing'}")
        else:
            faults += [f"sample {key}: {fault}" for fault in _differences(row, members, shard["split"], format_version)]
    if samples != shard["samples"] or pairs != shard["pairs"] or samples != len(rows):
        faults.append(
            f"holds {samples} samples and pairs {pairs}; the manifest says {shard['samples']} and "
            f"{shard['pairs']}, the index has {len(rows)} rows"
        )
    return faults, published


def _differences(
    row: Mapping[str, Any], members: Mapping[str, _Member], split: str, format_version: str
) -> Iterator[str]:
    """Where one index row and the members of its sample differ."""
    if row["split"] != split:
        yield f"is in split {split}, the index says {row['split']}"
    for suffix, modality in IMAGES.items():
        place: tuple[int | None, ...] = (None,) * 5
        if suffix in members:
            data = members[suffix].data
            try:
                width, height = images.measure(data, upright=format_version != "1.0")
            except images.RejectedImage as error:
                yield f"{suffix} is not a whole image: {error.detail}"
                continue
            place = members[suffix].offset, len(data), zlib.crc32(data), width, height
        stated = tuple(row[f"{modality}_{what}"] for what in IMAGE_FACTS)
        if place != stated:
            yield f"{suffix} has offset, size, CRC-32, width, height {place}, the index says {stated}"
        if suffix not in members and modality != MODALITIES[0]:
            for name in (label_column(label, modality) for label in LABEL_TYPES):
                if row.get(name) is not None:
                    yield f"has no {suffix}, of which the index says {name} {row[name]!r}"
    for suffix, modality in PROMPTS.items():
        text = members[suffix].data.decode() if suffix in members else None
        if text != row[PROMPT_COLUMNS[modality]]:
            yield f"{suffix} is not the index's {PROMPT_COLUMNS[modality]}"
    if METADATA_MEMBER in members:
        yield from _json_differences(members[METADATA_MEMBER].data, fields_of_row(row, format_version))


def _json_differences(data: bytes, expected: Mapping[str, Any]) -> Iterator[str]:
    """Where a JSON member is not that of its index row. It has every field, even where nothing is known."""
    try:
        fields = json.loads(data)
        if msgspec.json.encode(fields) == msgspec.json.encode(expected):  # as text, because in Python 0 == False
            return
    except (ValueError, RecursionError) as error:
        yield f"its JSON cannot be read: {error}"
        return
    if not isinstance(fields, dict):
        yield f"its JSON is not an object but {type(fields).__name__}"
        return
    for name in sorted(expected.keys() - fields.keys()):
        yield f"the JSON lacks {name}"
    for name in sorted(fields.keys() - expected.keys()):
        yield f"the JSON has a field {name}, which is not of this format"
    for name, value in fields.items():
        if name in expected and json.dumps(value, sort_keys=True) != json.dumps(expected[name], sort_keys=True):
            yield f"the JSON's {name} is {value!r}, the index says {expected[name]!r}"
