"""Samples of a converted dataset, in a folder or on the hub, and the bytes of their images.

Only what is asked for is read: the row groups of the index that hold the samples, and the byte ranges of their images.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa

from conversion import prompts
from conversion.errors import OutputError, UsageError, VerificationError
from conversion.placed import Place
from dataset_card.statistics import read_manifest
from mmm_rs import (
    LABEL_TYPES,
    MODALITIES,
    PROMPT_COLUMNS,
    ByteRanges,
    ConvertedSource,
    ReadError,
    in_one_line,
    index_schema,
    key_folder,
    open_files,
    open_source,
)

LABELS = tuple(LABEL_TYPES)

SHARDS_READ, REMOTE_SHARDS_READ = 32, 4  # of a subset, to take samples from: each is a random part of it
AT_ONCE = 32 << 20  # bytes of images in memory, at most, unless one alone has more


@dataclass(frozen=True)
class PlacedImage(Place):
    """One image and where it is."""

    modality: str
    source: str  # path within the subset of the release
    width: int  # pixels
    height: int  # pixels
    prompt: str | None
    annotation: str | None  # the release's record, verbatim

    @property
    def parts(self) -> dict[str, str]:
        """What the prompt says, by the fields of `PromptParts`, without those that it leaves out."""
        parts = msgspec.structs.asdict(prompts.split(self.prompt or ""))
        return {name: value for name, value in parts.items() if value is not None}


@dataclass(frozen=True)
class Sample:
    """One row of the index."""

    key: str
    subset: str
    split: str
    labels: Mapping[str, Any]  # by LABELS; None if unknown
    images: tuple[PlacedImage, ...]  # in the order rgb, nir, sar


def is_remote(place: str | Path) -> bool:
    """Whether a converted dataset is given by an address such as hf://datasets/org/MMM-RS, not as a folder."""
    return "://" in str(place)


def open_dataset(place: str | Path) -> ConvertedSource:
    """The converted dataset in a folder or at an address.

    Raises:
        UsageError: The address is not one that can be read.
        OutputError: It is not a finished conversion, or cannot be read.
        VerificationError: Its manifest was edited.
    """
    with _errors():
        if not is_remote(place):
            manifest = read_manifest(Path(place))
            return ConvertedSource(open_files(place), manifest)
        source = open_source(str(place))
        assert isinstance(source, ConvertedSource)  # an address is never a release
        return source


@contextlib.contextmanager
def _errors() -> Iterator[None]:
    try:
        yield
    except ReadError as error:
        raise OutputError(str(error)) from None
    except (OSError, pa.ArrowException) as error:
        raise OutputError(in_one_line(error)) from None
    except (ValueError, ImportError) as error:  # fsspec: the protocol is not known, or needs a package
        raise UsageError(str(error)) from None


def find(source: ConvertedSource, key: str) -> Sample:
    """The sample of a key.

    Raises:
        UsageError: There is none. It suggests similar keys.
        OutputError: The index cannot be read.
    """
    key = key.encode(errors="replace").decode()  # an argument may hold bytes that are not text
    with _errors():
        place = source.find(key)
        if place is not None:
            rows = source.index(place.subset).rows(place.shard, _columns(source), place.first, place.last)
            return _sample(rows.to_pylist()[0])
        similar = source.similar_keys(key)
    if similar:
        raise UsageError(f"{source}: no sample {key!r}. Similar: {', '.join(similar)}")
    folders = ", ".join(f"{key_folder(name)}/" for name in source.subsets)
    raise UsageError(f"{source}: no sample {key!r}. Keys here begin with {folders}")


def shards_read(source: ConvertedSource) -> int:
    """How many shards of a subset `spread` takes samples from, at most."""
    return REMOTE_SHARDS_READ if source.remote else SHARDS_READ


def spread(source: ConvertedSource, subset: str, most: int) -> list[Sample]:
    """Samples of a subset, taken evenly from the index. They are a fair sample, because the order of shards is random.
    Their annotations are left out.

    Args:
        source: The converted dataset.
        subset: One of its subsets.
        most: How many, at most.

    Raises:
        OutputError: The index cannot be read.
    """
    columns = [name for name in _columns(source) if name != "annotation"]
    shards = [shard for shard in source.shards.values() if shard["subset"] == subset]
    most_shards = shards_read(source)
    if len(shards) > most_shards:
        shards = [shards[number * len(shards) // most_shards] for number in range(most_shards)]
    ends = np.cumsum([shard["samples"] for shard in shards])
    count = min(most, int(ends[-1]))
    positions = np.arange(count) * int(ends[-1]) // count
    samples: list[Sample] = []
    for shard, end in zip(shards, ends.tolist(), strict=True):
        start = end - shard["samples"]
        inside = positions[(positions >= start) & (positions < end)] - start
        if len(inside):
            with _errors():
                rows = source.index(subset).rows(shard["name"], columns).take(pa.array(inside))
            samples += map(_sample, rows.to_pylist())
    return samples


def _columns(source: ConvertedSource) -> list[str]:
    return list(index_schema(source.manifest["format_version"]).names)


def _sample(row: dict[str, Any]) -> Sample:
    annotation = row.get("annotation") or {}
    placed = tuple(
        PlacedImage(
            row["shard"],
            row[f"{modality}_offset"],
            row[f"{modality}_size"],
            row[f"{modality}_crc32"],
            modality,
            row["source"][modality],
            row[f"{modality}_width"],
            row[f"{modality}_height"],
            row[PROMPT_COLUMNS[modality]],
            annotation.get(modality),
        )
        for modality in MODALITIES
        if row[f"{modality}_size"] is not None
    )
    return Sample(row["key"], row["subset"], row["split"], {name: row[name] for name in LABELS}, placed)


# --- the bytes of images ---------------------------------------------------------------------------------------------


def read_images(source: ConvertedSource, images: Iterable[PlacedImage]) -> Iterator[tuple[PlacedImage, bytes]]:
    """Each image with its bytes, in order; several are read at a time.

    Raises:
        VerificationError: A shard does not hold the bytes that the index names.
        OutputError: A remote shard cannot be read.
    """
    by_shard = (list(group) for _, group in groupby(images, key=lambda image: image.shard))
    groups = (part for group in by_shard for part in _parts(group))
    with _errors():
        for group, data in source.files.in_advance(lambda group: (group, _read(source, group)), groups):
            yield from zip(group, data, strict=True)


def _parts(images: Sequence[PlacedImage]) -> Iterator[list[PlacedImage]]:
    """Images of one shard in groups of AT_ONCE bytes."""
    part: list[PlacedImage] = []
    for image in images:
        if part and sum(other.size for other in part) + image.size > AT_ONCE:
            yield part
            part = []
        part.append(image)
    yield part


def _read(source: ConvertedSource, images: Sequence[PlacedImage]) -> list[bytes]:
    """The bytes of some images of one shard."""
    name = images[0].shard
    path = f"{source}/{name}"
    remedy = f"Run `mmm-rs verify {source}`"
    if name not in source.shards:
        raise VerificationError(f"{path}: the index names a shard that the manifest does not have. {remedy}")
    room = source.shards[name]["bytes"]
    for image in images:
        if image.offset < 0 or image.size < 0 or image.offset > room or image.size > room - image.offset:
            raise VerificationError(
                f"{path}: the index places {image.size:,} bytes of {image.source} at {image.offset:,}; the shard has "
                f"only {room:,} bytes. {remedy}"
            )
    buffers = [bytearray(image.size) for image in images]
    ranges = ByteRanges.of(
        np.array([image.offset for image in images]),
        np.array([image.size for image in images]),
        [memoryview(buffer) for buffer in buffers],
    )
    try:
        wrong = {ranges.order[number] for number in source.files.begin(name, ranges).result()}
    except OSError as error:
        raise VerificationError(f"{path}: cannot be read: {error.strerror or error}. {remedy}") from None
    for number, (image, buffer) in enumerate(zip(images, buffers, strict=True)):
        if number in wrong or not image.fits(buffer):
            raise VerificationError(
                f"{path}: the {image.size:,} bytes at {image.offset:,} are not those of {image.source} that the index "
                f"names. `mmm-rs verify {source}` finds what else is wrong"
            )
    return [bytes(buffer) for buffer in buffers]
