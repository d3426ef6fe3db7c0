"""The converted dataset that is exported, local or remote: its index rows, and exactly the image bytes that are wanted.

Everything read is checked: the manifest by its digest, each image by the CRC-32 of the index.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import deflate
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from conversion.disk import check_shortage
from conversion.errors import ReleaseError
from conversion.exports.rows import restricted
from conversion.findings import Reported
from mmm_rs import (
    FORMAT_VERSION,
    ByteRanges,
    ConvertedSource,
    LocalFiles,
    ReadError,
    Reading,
    begun_in_advance,
    dataset_address,
    index_schema,
    open_source,
    without_login,
)

BATCH = 8 << 20  # bytes of images that are handed on together
SKIP = "--on-error skip leaves out what is damaged and reports it"


@dataclass(frozen=True)
class Source:
    """A converted dataset that can be read."""

    reader: ConvertedSource
    address: str  # a folder's absolute path or a URL, without a password

    @property
    def manifest(self) -> dict[str, Any]:
        return dict(self.reader.manifest)

    @property
    def digest(self) -> str:
        """Identifies the content: a digest of all shards. The manifest's changes with the files beside them too."""
        return self.reader.digest(self.reader.subsets)

    @property
    def remote(self) -> bool:
        return self.reader.remote

    def shards(self, subset: str) -> list[dict[str, Any]]:
        """The manifest's rows of a subset's shards, in order."""
        return [shard for shard in self.reader.manifest["shards"] if shard["subset"] == subset]

    def splits(self, subsets: Sequence[str]) -> list[str]:
        """The splits that these subsets have, train first."""
        return self.reader.splits(subsets)

    def index_rows(self, subset: str, shards: Iterable[str], columns: Sequence[str]) -> Iterator[pa.Table]:
        """The index rows of each of these shards. Raises ReleaseError."""
        try:
            index = self.reader.index(subset)
            yield from self.reader.files.in_advance(lambda shard: index.rows(shard, columns).select(columns), shards)
        except (ReadError, OSError) as error:
            raise ReleaseError(_line(error)) from None


def open_converted(
    address: str | os.PathLike[str],
    token: bool | str | None = None,
    storage_options: Mapping[str, Any] | None = None,
) -> Source:
    """Open a converted dataset: a folder, or what `mmm_rs.dataset_address` understands.

    Raises ReleaseError if there is no converted dataset that can be read.
    """
    try:
        reader = open_source(address, storage_options, token)
    except (ReadError, OSError, ValueError) as error:
        raise ReleaseError(_line(error)) from None
    if not isinstance(reader, ConvertedSource):
        raise ReleaseError(f"{reader}: is not converted: it has neither shards nor an index. Convert it first")
    if (version := reader.manifest["format_version"]) != FORMAT_VERSION:
        raise ReleaseError(
            f"{reader}: has format {version}, and exports are made of {FORMAT_VERSION}, which has the labels of each "
            "modality. Convert the release again"
        )
    if isinstance(reader.files, LocalFiles):
        return Source(reader, os.path.realpath(reader.files.root))
    return Source(reader, without_login(dataset_address(address)).rstrip("/"))


def _line(error: Exception) -> str:
    return " ".join(str(error).split())


# --- images ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Batch:
    """Samples of one shard of the source with the bytes of their images."""

    rows: pa.Table
    images: dict[str, list[memoryview | None]]  # modality -> bytes by row


class Damage(NamedTuple):
    """Why an image of the source cannot be used."""

    modality: str
    reason: str  # of `findings.IMAGE_REASONS`
    detail: str


class _Begun(NamedTuple):
    """Samples whose images are being read."""

    shard: str
    rows: pa.Table
    places: list[tuple[str, int]]  # modality and row of each image; so for the next two
    targets: list[memoryview]
    crcs: list[int]
    ranges: ByteRanges
    reading: Reading

    @property
    def size(self) -> int:
        return sum(self.ranges.sizes)


def batches(
    source: Source,
    subset: str,
    runs: Sequence[tuple[str, np.ndarray]],
    modalities: Sequence[str],
    reported: list[Reported] | None,
) -> Iterator[Batch]:
    """Samples of a subset with their images, some at a time. Each image's CRC-32 is compared with the index.

    Args:
        source: Where they are.
        subset: The subset.
        runs: Shards of the source, and the rows of each that are wanted.
        modalities: The images to read.
        reported: Where samples go that are damaged. None: they are an error.

    Raises ReleaseError for damage without `reported`, and if the source cannot be reached.
    """
    for begun in begun_in_advance(source.reader.files, _begin(source, subset, runs, modalities)):
        yield _finish(source, begun, modalities, reported)


def _begin(
    source: Source, subset: str, runs: Sequence[tuple[str, np.ndarray]], modalities: Sequence[str]
) -> Iterator[_Begun]:
    names = [shard for shard, _ in runs]
    for (shard, numbers), index in zip(runs, source.index_rows(subset, names, index_schema().names), strict=True):
        rows = restricted(index.take(numbers), modalities)
        total = np.cumsum(np.sum([_numbers(rows, f"{modality}_size") for modality in modalities], axis=0))
        start = 0
        while start < rows.num_rows:
            before = int(total[start - 1]) if start else 0
            stop = max(start + 1, int(np.searchsorted(total, before + BATCH, side="right")))
            yield _begin_reading(source, shard, rows.slice(start, stop - start), modalities)
            start = stop


def _begin_reading(source: Source, shard: str, rows: pa.Table, modalities: Sequence[str]) -> _Begun:
    room = source.reader.shards[shard]["bytes"]
    places: list[tuple[str, int]] = []
    offsets, sizes, crcs = [], [], []
    for modality in modalities:
        present = np.flatnonzero(pc.is_valid(rows[f"{modality}_size"]).to_numpy())
        offset, size = _numbers(rows, f"{modality}_offset")[present], _numbers(rows, f"{modality}_size")[present]
        if ((offset < 0) | (size < 0) | (offset + size > room)).any():
            raise ReleaseError(
                f"{source.address}: by the index an image reaches out of {shard}. Fetch index and manifest again"
            )
        places += [(modality, row) for row in present.tolist()]
        offsets.append(offset)
        sizes.append(size)
        crcs += _numbers(rows, f"{modality}_crc32")[present].tolist()
    offset, size = np.concatenate(offsets), np.concatenate(sizes)
    ends = np.cumsum(size)
    buffer = memoryview(bytearray(int(ends[-1])))
    targets = [buffer[end - length : end] for end, length in zip(ends.tolist(), size.tolist(), strict=True)]
    ranges = ByteRanges.of(offset, size, targets)
    return _Begun(shard, rows, places, targets, crcs, ranges, source.reader.files.begin(shard, ranges))


def _finish(source: Source, begun: _Begun, modalities: Sequence[str], reported: list[Reported] | None) -> Batch:
    wrong = _wrong(source, begun)
    rows = begun.rows
    images: dict[str, list[memoryview | None]] = {modality: [None] * rows.num_rows for modality in modalities}
    damaged: dict[int, Damage] = {}
    for number, (modality, row) in enumerate(begun.places):
        images[modality][row] = begun.targets[number]
        if number in wrong:
            damaged.setdefault(row, Damage(modality, *wrong[number]))
    if reported is None:
        _check_whole(source, begun, damaged)
        return Batch(rows, images)
    for row, damage in sorted(damaged.items()):
        reported += report_rows(rows.slice(row, 1).to_pylist()[0], begun.shard, modalities, damage)
    if damaged:
        keep = [row for row in range(rows.num_rows) if row not in damaged]
        rows = rows.take(pa.array(keep, pa.int64()))
        images = {modality: [data[row] for row in keep] for modality, data in images.items()}
    return Batch(rows, images)


def _check_whole(source: Source, begun: _Begun, damaged: dict[int, Damage]) -> None:
    """Raises ReleaseError if the shard has another size than the manifest says, or one of its images is damaged."""
    try:
        source.reader.check_size(begun.shard)
    except (ReadError, OSError) as error:
        raise ReleaseError(f"{_line(error)}. {SKIP}") from None
    if damaged:
        row, damage = min(damaged.items())
        raise ReleaseError(
            f"{source.address}/{begun.shard}: the {damage.modality} image of {begun.rows['key'][row].as_py()}: "
            f"{damage.detail}. Fetch the shard again; `mmm-rs verify` finds the shards that are damaged. {SKIP}"
        )


def _wrong(source: Source, begun: _Begun) -> dict[int, tuple[str, str]]:
    """The images that did not come as they should: number -> reason and detail.

    Raises ReleaseError if the source cannot be reached: that is not damage.
    """
    try:
        short = begun.reading.result()
    except FileNotFoundError:
        return dict.fromkeys(range(len(begun.places)), ("missing_file", "its shard is missing"))
    except ReadError as error:
        raise ReleaseError(_line(error)) from None
    except OSError:
        return _wrong_one_by_one(source, begun)
    wrong = {begun.ranges.order[number]: ("truncated", detail) for number, detail in short.items()}
    for number, (crc, target) in enumerate(zip(begun.crcs, begun.targets, strict=True)):
        if number not in wrong and deflate.crc32(target) != crc:
            wrong[number] = "crc_mismatch", f"its CRC-32 is not {crc:#010x}, as the index says: its bytes are damaged"
    return wrong


def _wrong_one_by_one(source: Source, begun: _Begun) -> dict[int, tuple[str, str]]:
    """The same where the disk refused to read some of them, but not which."""
    wrong = {}
    for number in range(len(begun.places)):
        position = begun.ranges.order.index(number)
        offset, size = begun.ranges.offsets[position], begun.ranges.sizes[position]
        ranges = ByteRanges([offset], [size], [begun.targets[number]], [0])
        try:
            source.reader.files.begin(begun.shard, ranges).result()
        except OSError as error:
            check_shortage(begun.shard, error)
            wrong[number] = "read_error", f"its bytes cannot be read: {error.strerror or error}"
            continue
        if deflate.crc32(begun.targets[number]) != begun.crcs[number]:
            wrong[number] = "crc_mismatch", "its CRC-32 is not the one that the index says: its bytes are damaged"
    return wrong


def report_rows(sample: dict[str, Any], shard: str, modalities: Sequence[str], damage: Damage) -> list[Reported]:
    """The rows of the report for a sample, an index row, that is left out because one of its images is damaged."""
    where = f"{sample['key']} in {shard} of the source"
    rows = []
    for modality in modalities:
        if sample[f"{modality}_size"] is None:
            continue
        path = sample["source"][modality]
        if modality == damage.modality:
            rows.append(Reported("image", path, None, damage.reason, f"{where}: {damage.detail}"))
        else:
            detail = f"{where}: its {damage.modality} image is damaged"
            rows.append(Reported("image", path, None, "damaged_sample", detail))
    for modality in record_modalities(sample["annotation"], modalities):
        path = sample["source"][modality]
        rows.append(Reported("record", path, None, "image_rejected", f"{where}: its images are not exported"))
    return rows


def record_modalities(annotation: dict[str, str | None], modalities: Sequence[str]) -> list[str]:
    """One modality for each record of a sample: a record that describes several images is counted once."""
    first: dict[str, str] = {}
    for modality in modalities:
        if (text := annotation[modality]) is not None:
            first.setdefault(text, modality)
    return list(first.values())


def _numbers(rows: pa.Table, name: str) -> np.ndarray:
    """A column of integers, 0 where null."""
    return rows[name].fill_null(0).to_numpy()
