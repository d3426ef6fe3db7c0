"""Manifest and index: what was written, made from the markers of the shards.

Neither holds a date, a path of this machine or a number of workers: equal input gives equal bytes.
"""

from __future__ import annotations

import hashlib
import os
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

import mmm_rs
from conversion import layout
from conversion.disk import BUFFER, check_shortage, replacing, write_file, write_json
from conversion.errors import OutputError, UsageError, VerificationError
from conversion.options import Options
from conversion.shards import Marker, marker_rows
from mmm_rs import (
    FORMAT_VERSION,
    LABEL_TYPES,
    MODALITIES,
    SUBSETS,
    OtherFormat,
    described_files,
    index_name,
    index_schema,
    label_column,
    manifest_digest,
    parse_manifest,
    subset_totals,
)

REPEATED = ["split", "shard", "subset"] + [  # columns with few values
    label_column(label, modality)
    for modality in MODALITIES
    for label in ("category", "weather", "satellite", "gsd_level")
]


# Of these a reader may skip row groups by their smallest and largest value. Those of long texts and of places would be
# most of the file's footer, which every reader fetches first.
COMPARED = ["key", "split", "shard", "subset"] + [
    label_column(label, modality) for modality in MODALITIES for label in LABEL_TYPES if label != "caption"
]


def write_index(path: Path, markers: Sequence[Path]) -> None:
    """One Parquet row a sample, in the order of the shards, one row group a shard.

    A reader of one shard, or of the labels alone, so reads little else; the long texts are the last columns.
    """
    with (
        replacing(path) as fd,
        open(fd, "wb", BUFFER, closefd=False) as sink,
        # A dictionary of texts that differ in each row takes time and room for nothing.
        pq.ParquetWriter(
            sink,
            index_schema(),
            compression="zstd",
            use_dictionary=REPEATED,
            write_statistics=COMPARED,
            write_page_checksum=True,
        ) as writer,
    ):
        for marker in markers:
            _write_group(writer, marker_rows(marker))


def _write_group(writer: pq.ParquetWriter, rows: pa.Table) -> None:
    """A function of its own, so that one shard's rows are let go before the next one's are read."""
    if rows.num_rows:
        writer.write_table(rows, row_group_size=rows.num_rows)


def build(
    out: Path,
    shards: Iterable[dict[str, Any]],
    options: Options,
    *,
    earlier: Mapping[str, Any] | None = None,
    exported_from: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """The manifest of these shards (rows as `Marker.row` gives them) and of the other files that it names.

    `earlier`: the manifest that it takes the place of; what that says of the index of its subsets is kept.
    `exported_from`: of an export, the source and what was selected of it.

    Raises OutputError if a file cannot be read.
    """
    order = {name: number for number, name in enumerate(SUBSETS)}
    rows = sorted(shards, key=lambda shard: (order[shard["subset"]], shard["split"], shard["name"]))
    subsets = subset_totals(rows)
    kept = {name: (earlier or {"files": {}})["files"].get(name) for name in map(index_name, subsets)}
    manifest = {
        "format_version": FORMAT_VERSION,
        "options": asdict(options),
        "subsets": subsets,
        "shards": rows,
        "files": {name: kept.get(name) or describe(out / name) for name in described_files(subsets)},
    }
    if exported_from is not None:
        manifest["exported_from"] = exported_from
    return manifest | {"digest": manifest_digest(manifest)}


def describe(path: Path) -> dict[str, Any]:
    """A file's size and sha256, as the manifest has them; of a Parquet file also the CRC-32 of its footer.

    Readers fetch the footer of an index, but not the whole file, and the format has no checksum of it.

    Raises OutputError if the file cannot be read.
    """
    digest = hashlib.sha256()
    try:
        with open(path, "rb") as file:
            while chunk := file.read(BUFFER):
                digest.update(chunk)
            size = file.tell()
            described = {"bytes": size, "sha256": digest.hexdigest()}
            if path.suffix == ".parquet":
                file.seek(max(size - 8, 0))
                length = int.from_bytes(file.read(4), "little") + 8
                file.seek(max(size - length, 0))
                described["footer_crc32"] = zlib.crc32(file.read())
            return described
    except OSError as error:
        check_shortage(path, error)
        raise OutputError(f"{path}: cannot be read: {error.strerror}. Run the same command again") from None


def is_as_described(path: Path, described: Mapping[str, Any]) -> bool:
    """Whether a file is the one that a manifest describes. Raises OutputError if it cannot be read."""
    stored = describe(path)
    return stored == {name: described.get(name, value) for name, value in stored.items()}


def write_module(out: Path) -> None:
    """Write the module that reads the dataset. Raises OutputError."""
    write_file(out / layout.MODULE, Path(mmm_rs.__file__).read_bytes())


def write(out: Path, manifest: dict[str, Any]) -> None:
    write_json(out / layout.MANIFEST, manifest)


def check_there(out: str | os.PathLike[str]) -> None:
    """Raises UsageError where there is no such folder, as of a converted folder that is mistyped, or where it holds an
    export in another form."""
    if not os.path.isdir(out):
        raise UsageError(f"{out}: no such folder. Give the folder that `mmm-rs convert` wrote")
    if export := mmm_rs.other_export(out):
        raise UsageError(f"{out}: {export}")


def read(out: Path) -> dict[str, Any] | None:
    """The manifest of an output folder, None where there is none.

    Raises VerificationError where it is not JSON or was edited.
    """
    path = out / layout.MANIFEST
    try:
        return parse_manifest(path.read_bytes())
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OtherFormat as version:
        raise VerificationError(
            f"{path}: has format {version}, this program reads {FORMAT_VERSION}. Use the version that wrote it, or "
            "convert again with --overwrite"
        ) from None
    except ValueError as error:
        raise VerificationError(f"{path}: {error}. Convert again with --overwrite") from None
    except OSError as error:
        raise VerificationError(f"{path}: cannot be read: {error.strerror}. Convert again with --overwrite") from None


def markers_total(markers: Iterable[Marker]) -> dict[str, int]:
    """Published images by modality."""
    total = dict.fromkeys(MODALITIES, 0)
    for marker in markers:
        for modality, count in marker.images.items():
            total[modality] += count
    return total
