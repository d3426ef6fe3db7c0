"""Prove that an output folder is what its manifest says, and that its images are the release's.

The tars are read with the standard library's `tarfile`, not with the code that wrote them.
"""

from __future__ import annotations

import hashlib
import json
import os
import tarfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from conversion import images, manifest, release, report
from conversion.archives import Archive, DamagedEntry, Reader
from conversion.errors import MMMRSError, VerificationError
from conversion.execution import check_stop, completed, threads
from conversion.release import IMAGE, SubsetFiles
from mmm_rs import MODALITIES, index_schema

SUFFIXES = {"jpg": "rgb", "nir.jpg": "nir", "sar.jpg": "sar"}
TEXTS = {"txt": "prompt", "nir.txt": "nir_prompt", "sar.txt": "sar_prompt"}
ORDER = ("jpg", "txt", "nir.jpg", "nir.txt", "sar.jpg", "sar.txt", "json")
CHUNK = 1 << 20  # bytes
NAMED = 20  # faults shown at the most


@dataclass(frozen=True)
class Verified:
    """What was checked: counts of what was found right."""

    shards: int
    samples: int
    images: int
    compared: int  # images compared byte by byte with the release


def verify(
    out: str | os.PathLike[str],
    release_path: str | os.PathLike[str] | None = None,
    *,
    workers: int | None = None,
    progress: Callable[[int, int, str], None] | None = None,
) -> Verified:
    """Check every shard, member and index row of `out`; with `release_path` compare each image with the release too.

    Raises VerificationError that names what is wrong, all of it up to a limit.
    """
    out = Path(out)
    made = manifest.read(out)
    if made is None:
        raise VerificationError(f"{out}: no {manifest.NAME} here. Give the folder that `mmm-rs convert` wrote; an "
                                "unfinished conversion goes on with the same command")  # fmt: skip
    faults = [*_files(out, made), *totals(out, made), *_card(out)]
    samples = published = done = 0
    total = sum(shard["bytes"] for shard in made["shards"])
    rows_of = _index(out, made, faults)
    present = [number for number, shard in enumerate(made["shards"]) if (out / shard["name"]).is_file()]
    found: dict[int, list[str]] = {}

    def check(number: int) -> tuple[list[str], int]:
        shard = made["shards"][number]
        return check_shard(out, shard, rows_of.get(shard["name"], []))

    with threads(workers) as pool, completed(pool, check, present) as results:
        for number, (found[number], count) in results:
            shard = made["shards"][number]
            samples, published = samples + shard["samples"], published + count
            done += shard["bytes"]
            if progress:
                progress(done, total, shard["subset"])
    faults += [fault for number in present for fault in found[number]]
    compared = 0
    if release_path is not None and not faults:
        compared, differing = _compare(out, made, release_path)
        faults += differing
    if faults:
        raise VerificationError(first_of(faults))
    return Verified(len(made["shards"]), samples, published, compared)


def first_of(faults: Sequence[str]) -> str:
    """Some of many faults, one a line."""
    shown = list(dict.fromkeys(faults))
    return "\n".join(shown[:NAMED]) + (f"\n... and {len(shown) - NAMED} more" if len(shown) > NAMED else "")


def _files(out: Path, made: dict[str, Any]) -> Iterator[str]:
    """Shards and index files that are missing or too many, and shards of the wrong size."""
    names = {shard["name"] for shard in made["shards"]} | {f"index/{subset}.parquet" for subset in made["subsets"]}
    there = {path.relative_to(out).as_posix() for folder in ("data", "index")
             for path in (out / folder).glob("**/*") if path.is_file()}  # fmt: skip
    for name in sorted(names - there):
        yield f"{out / name}: is missing. Convert again with --overwrite, or download it again"
    for name in sorted(there - names):
        yield f"{out / name}: is not in the manifest. Remove it"


def totals(out: Path, made: dict[str, Any]) -> Iterator[str]:
    """Sums of the manifest, and the report's balance against them."""
    rebuilt = manifest.summed(made["shards"])
    if rebuilt != made["subsets"]:
        yield f"{out / manifest.NAME}: its totals are not the sums of its shards. Convert again with --overwrite"
    path = out / report.SUMMARY
    try:
        summary = json.loads(path.read_bytes())
        for subset, totals in summary["subsets"].items():
            report.check_balance(subset, totals)
        counted = pq.read_table(out / report.UNPUBLISHED).num_rows
        reported = sum(summary["total"][kind].get("reported", 0) for kind in ("images", "records"))
        if counted != reported + summary["unknown"]["images"]:
            yield f"{out / report.UNPUBLISHED}: has {counted} rows, the summary counts {reported}"
    except (OSError, ValueError, KeyError, AssertionError) as error:
        yield f"{path}: the report is missing or does not balance: {error}. Convert again with --overwrite"


def _card(out: Path) -> Iterator[str]:
    """What the card says wrongly, or why that cannot be told."""
    from dataset_card import card
    from dataset_card.statistics import read_converted

    try:
        text = (out / card.NAME).read_text(encoding="utf-8", errors="replace")
    except OSError as error:
        yield f"{out / card.NAME}: cannot be read: {error.strerror}. Run `mmm-rs card {out}`"
        return
    try:
        converted = read_converted(out)
    except MMMRSError as error:
        yield str(error)
        return
    for fault in card.faults(text, converted):
        yield f"{out}/{fault}. Run `mmm-rs card {out}`"


def _index(out: Path, made: dict[str, Any], faults: list[str]) -> dict[str, list[dict[str, Any]]]:
    """The rows of the index by shard; the order of the rows is checked by reading the shard."""
    rows: dict[str, list[dict[str, Any]]] = {shard["name"]: [] for shard in made["shards"]}
    for subset in made["subsets"]:
        path = out / "index" / f"{subset}.parquet"
        try:
            table = pq.read_table(path)
        except FileNotFoundError:
            continue
        except Exception as error:  # pyarrow raises several kinds for broken files
            faults.append(f"{path}: cannot be read: {error}. Convert again with --overwrite")
            continue
        if not table.schema.equals(index_schema()):
            faults.append(f"{path}: its columns are not those of an index. Convert again with --overwrite")
            continue
        seen: list[str] = []
        for row in table.to_pylist():
            if row["shard"] not in rows:
                faults.append(f"{path}: row {row['key']} names {row['shard']}, which is not in the manifest")
                continue
            if not seen or seen[-1] != row["shard"]:
                seen.append(row["shard"])
            rows[row["shard"]].append(row)
        if seen != [shard["name"] for shard in made["shards"] if shard["name"] in set(seen)]:
            faults.append(f"{path}: its rows are not in the order of the shards. Convert again with --overwrite")
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
        return [f"{path}: cannot be read: {error.strerror}. {remedy}"], 0
    if sha256.hexdigest() != shard["sha256"]:
        return [f"{path}: its sha256 is not the manifest's: bytes were changed. {remedy}"], 0
    try:
        return _members(path, shard, rows)
    except (tarfile.TarError, EOFError, OSError, ValueError) as error:
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
        faults.append(f"{path}: holds {checked} samples and pairs {pairs}; the manifest says {shard['samples']} and "
                      f"{shard['pairs']}, the index has {len(rows)} rows")  # fmt: skip
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


def _compare(out: Path, made: dict[str, Any], release_path: str | os.PathLike[str]) -> tuple[int, list[str]]:
    """Each published image against the image of the release that its row names as its source."""
    found = release.find(release_path, exclude=out)
    faults, compared = [], 0
    for subset in made["subsets"]:
        if subset not in found.subsets:
            faults.append(f"{release_path}: {subset} is not in this release, so its images cannot be compared")
            continue
        count, differing = _compare_subset(out, subset, found.subsets[subset])
        compared, faults = compared + count, faults + differing
    return compared, faults


def _compare_subset(out: Path, subset: str, files: SubsetFiles) -> tuple[int, list[str]]:
    columns = ["key", "shard", "source", *(f"{m}_{what}" for m in MODALITIES for what in ("offset", "size"))]
    table = pq.read_table(out / "index" / f"{subset}.parquet", columns=columns)
    where: dict[str, tuple[Archive, pa.Table, int]] = {}
    for part in files.parts:
        entries = part.entries.filter(pc.equal(part.entries["type"], IMAGE))
        for at, source in enumerate(entries["source"].to_pylist()):
            where.setdefault(source, (part.archive, entries, at))
    faults, compared = [], 0
    readers: dict[str, Reader] = {}
    try:
        for row in table.to_pylist():
            for m in MODALITIES:
                if row[f"{m}_offset"] is None:
                    continue
                source = row["source"][m]
                if source not in where:
                    faults.append(f"{row['key']}: the release has no image {source}")
                    continue
                archive, entries, at = where[source]
                if archive.label not in readers:
                    readers[archive.label] = Reader(archive)
                entry = entries.slice(at, 1).to_pylist()[0]
                arguments = {n: entry[n] for n in ("offset", "packed", "size", "crc", "method", "file")}
                with open(out / row["shard"], "rb") as shard:
                    shard.seek(row[f"{m}_offset"])
                    mine = shard.read(row[f"{m}_size"])
                try:
                    data, _ = readers[archive.label].read(**arguments, name=source)
                except DamagedEntry as error:
                    faults.append(f"{row['key']}: {source} in the release is damaged: {error.detail}")
                    continue
                compared += 1
                if bytes(data) != mine:
                    faults.append(f"{row['key']}: the {m} image differs from the release's {source}")
    finally:
        for reader in readers.values():
            reader.close()
    return compared, faults
