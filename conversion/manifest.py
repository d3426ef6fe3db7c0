"""Manifest and index: what was written, made from the markers of the shards.

Neither holds a date, a path of this machine or a number of workers: equal input gives equal bytes.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from conversion import layout
from conversion.disk import BUFFER, replacing, write_json
from conversion.errors import VerificationError
from conversion.options import Options
from conversion.shards import Marker, marker_rows
from mmm_rs import FORMAT_VERSION, MODALITIES, SUBSETS, index_schema, lines_digest, manifest_digest

REPEATED = ["split", "shard", "subset", "category", "weather", "satellite", "gsd_level"]  # columns with few values


def write_index(path: Path, markers: Sequence[Path]) -> None:
    """One Parquet row a sample, in the order of the shards, one row group a shard.

    A reader of one shard, or of the labels alone, so reads little else; the long texts are the last columns.
    """
    with (
        replacing(path) as fd,
        open(fd, "wb", BUFFER, closefd=False) as sink,
        # A dictionary of texts that differ in each row takes time and room for nothing.
        pq.ParquetWriter(sink, index_schema(), compression="zstd", use_dictionary=REPEATED) as writer,
    ):
        for marker in markers:
            _write_group(writer, marker_rows(marker))


def _write_group(writer: pq.ParquetWriter, rows: pa.Table) -> None:
    """A function of its own, so that one shard's rows are let go before the next one's are read."""
    if rows.num_rows:
        writer.write_table(rows, row_group_size=rows.num_rows)


def build(
    shards: Iterable[dict[str, Any]], options: Options, exported_from: dict[str, Any] | None = None
) -> dict[str, Any]:
    """The manifest of these shards (rows as `Marker.row` gives them).

    `exported_from`: of an export, the source and what was selected of it.
    """
    order = {name: at for at, name in enumerate(SUBSETS)}
    rows = sorted(shards, key=lambda shard: (order[shard["subset"]], shard["split"], shard["name"]))
    manifest = {"format_version": FORMAT_VERSION, "options": asdict(options), "subsets": summed(rows), "shards": rows}
    if exported_from is not None:
        manifest["exported_from"] = exported_from
    return manifest | {"digest": manifest_digest(manifest)}


def summed(shards: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The manifest's totals by subset, from its shards."""
    subsets = {}
    for name in SUBSETS:
        mine = [shard for shard in shards if shard["subset"] == name]
        if mine:
            splits = {split: _sum([s for s in mine if s["split"] == split]) for split in ("train", "validation")}
            subsets[name] = _sum(mine) | {
                "digest": lines_digest(shard["sha256"] for shard in mine),
                "splits": {split: total for split, total in splits.items() if total["samples"]},
            }
    return subsets


def _sum(shards: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "shards": len(shards),
        "samples": sum(shard["samples"] for shard in shards),
        "bytes": sum(shard["bytes"] for shard in shards),
        "pairs": {m: sum(shard["pairs"][m] for shard in shards) for m in MODALITIES},
    }


def write(out: Path, manifest: dict[str, Any]) -> None:
    write_json(out / layout.MANIFEST, manifest)


def read(out: Path) -> dict[str, Any] | None:
    """The manifest of an output folder, None where there is none.

    Raises VerificationError where it is not JSON or was edited.
    """
    path = out / layout.MANIFEST
    try:
        manifest = json.loads(path.read_bytes())
    except FileNotFoundError:
        return None
    except (ValueError, OSError, RecursionError) as error:
        raise VerificationError(f"{path}: cannot be read: {error}. Convert again with --overwrite") from None
    if not isinstance(manifest, dict) or manifest.get("digest") != manifest_digest(manifest):
        raise VerificationError(f"{path}: was edited or damaged, its digest is wrong. Convert again with --overwrite")
    if not _is_whole(manifest):
        raise VerificationError(
            f"{path}: lacks what a manifest of format {FORMAT_VERSION} has. Convert again with --overwrite"
        )
    return manifest


def _is_whole(manifest: dict[str, Any]) -> bool:
    """Whether all is there, of the right type; the digest says only that it is as somebody wrote it."""
    types = {"name": str, "subset": str, "split": str, "bytes": int, "sha256": str, "samples": int, "pairs": dict}
    subsets, shards = manifest.get("subsets"), manifest.get("shards")
    return (
        isinstance(manifest.get("format_version"), str)
        and isinstance(manifest.get("options"), dict)
        and isinstance(subsets, dict)
        and isinstance(shards, list)
        and all(isinstance(shard, dict) and shard.get("subset") in SUBSETS for shard in shards)
        and all(isinstance(shard.get(name), type) for shard in shards for name, type in types.items())
        and subsets == summed(shards)
    )


def markers_total(markers: Iterable[Marker]) -> dict[str, int]:
    """Published images by modality."""
    total = dict.fromkeys(MODALITIES, 0)
    for marker in markers:
        for modality, count in marker.images.items():
            total[modality] += count
    return total
