"""One sample of a converted folder: what its row of the index says, and the bytes of its images."""

from __future__ import annotations

import difflib
import io
import json
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from PIL import Image, UnidentifiedImageError

from conversion import images, layout, names, prompts
from conversion.disk import write_file
from conversion.errors import UsageError, VerificationError
from dataset_card.statistics import opened_parquet, read_manifest
from mmm_rs import MEMBERS, MODALITIES, PROMPT_COLUMNS

LABELS = ("caption", "category", "weather", "satellite", "gsd", "gsd_level", "gsd_level_derived", "cloud_cover")
SUFFIXES = {
    "JPEG": "jpg",
    "MPO": "jpg",
    "PNG": "png",
    "TIFF": "tif",
    "WEBP": "webp",
    "BMP": "bmp",
    "GIF": "gif",
    "JPEG2000": "jp2",
}  # of the formats that are published, as Pillow calls them

SUGGESTED = 3  # keys that a wrong key might have meant
COMPARED = 10_000  # keys at the most that are compared letter by letter: about a second
NAMES = max(map(len, LABELS)) + 2  # columns of the names in the printed record


@dataclass(frozen=True)
class PlacedImage:
    """One image and where it is."""

    modality: str
    source: str  # path within the subset of the release
    shard: str  # path within the converted folder
    offset: int  # bytes, from the start of the shard
    size: int  # bytes
    crc32: int
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
    labels: dict[str, Any]  # by LABELS; None where unknown
    images: tuple[PlacedImage, ...]  # in the order rgb, nir, sar


def find(out: Path, key: str) -> Sample:
    """The sample of this key.

    Raises UsageError that suggests other keys where there is none, OutputError where the folder is not a finished
    conversion.
    """
    key = key.encode(errors="replace").decode()  # an argument may hold bytes that are no text
    subsets = sorted(read_manifest(out)["subsets"], key=lambda name: not key.startswith(names.clean(name) + "/"))
    searched = []
    for subset in subsets:
        with opened_parquet(out / layout.index_name(subset)) as index:
            keys = index.read(columns=["key"])["key"]
            if (at := pc.index(keys, key).as_py()) >= 0:
                return _sample(_rows(index, [at])[0])
        searched += keys.chunks
    near = _near(pa.chunked_array(searched, pa.string()), key)
    raise UsageError(f"{out}: no sample {key!r}" + (f". Near it: {', '.join(near)}" if near else ""))


def spread(out: Path, subset: str, most: int) -> list[Sample]:
    """`most` samples of a subset, or all, evenly from the index. The shards' order is random, so they are too.

    Raises OutputError where the index cannot be read.
    """
    with opened_parquet(out / layout.index_name(subset)) as index:
        total = index.metadata.num_rows
        count = min(most, total)
        return [_sample(row) for row in _rows(index, [number * total // count for number in range(count)])]


def _rows(index: pq.ParquetFile, positions: Sequence[int]) -> list[dict[str, Any]]:
    """The rows at these ascending positions. Only row groups that hold one are read."""
    rows: list[dict[str, Any]] = []
    start = 0
    for group in range(index.num_row_groups):
        end = start + index.metadata.row_group(group).num_rows
        if here := [position - start for position in positions if start <= position < end]:
            rows += index.read_row_group(group).take(here).to_pylist()
        start = end
    return rows


def _sample(row: dict[str, Any]) -> Sample:
    placed = tuple(
        PlacedImage(
            m,
            row["source"][m],
            row["shard"],
            row[f"{m}_offset"],
            row[f"{m}_size"],
            row[f"{m}_crc32"],
            row[f"{m}_width"],
            row[f"{m}_height"],
            row[PROMPT_COLUMNS[m]],
            row["annotation"][m],
        )
        for m in MODALITIES
        if row[f"{m}_size"] is not None
    )
    return Sample(row["key"], row["subset"], row["split"], {name: row[name] for name in LABELS}, placed)


def _near(keys: pa.ChunkedArray, key: str) -> list[str]:
    """Keys that hold this text, or else those like it among the keys that begin alike the longest."""
    found, alike = keys.filter(pc.match_substring(keys, key, ignore_case=True)), 0.0
    for length in range(len(key), -1, -1):
        if len(found):
            break
        found, alike = keys.filter(pc.starts_with(keys, key[:length])), 0.5
    return difflib.get_close_matches(key, found.slice(0, COMPARED).to_pylist(), SUGGESTED, alike)


def read(out: Path, image: PlacedImage) -> bytes:
    """The image's bytes. Raises VerificationError where the shard does not hold those that the index names."""
    path = out / image.shard
    if Path(image.shard).is_absolute() or ".." in Path(image.shard).parts:
        raise VerificationError(f"{path}: the index names a shard out of the folder. Run `mmm-rs verify {out}`")
    try:
        with open(path, "rb") as shard:
            shard.seek(image.offset)
            data = shard.read(image.size)
    except OSError as error:
        raise VerificationError(f"{path}: cannot be read: {error.strerror}. Run `mmm-rs verify {out}`") from None
    if len(data) != image.size or zlib.crc32(data) != image.crc32:
        raise VerificationError(
            f"{path}: the {image.size:,} bytes at {image.offset:,} are not those of {image.source} "
            f"that the index names. `mmm-rs verify {out}` tells what else is wrong"
        )
    return data


def lines(sample: Sample) -> Iterator[str]:
    """All that is known of a sample, for a person to read. Annotations are verbatim, so they may take several lines."""
    yield sample.key
    yield from _named({"subset": sample.subset, "split": sample.split} | sample.labels)
    for image in sample.images:
        yield ""
        yield image.modality
        yield from _named(
            {
                "source": image.source,
                "shard": image.shard,
                "bytes": f"{image.size:,} from offset {image.offset:,}",
                "crc32": f"{image.crc32:08x}",
                "pixels": f"{image.width} x {image.height}",
                "prompt": image.prompt,
            }
        )
        yield from _named({f"  {name}": value for name, value in image.parts.items()})
        yield f"  {'annotation':<{NAMES}}{'-' if image.annotation is None else image.annotation}"


def _named(values: dict[str, Any]) -> Iterator[str]:
    """A line each. A character that would move the cursor or colour the terminal is written as an escape."""
    units = {"gsd": " metres a pixel"}
    for name, value in values.items():
        text = "-" if value is None else f"{value}{units.get(name, '')}"
        shown = "".join(c if c.isprintable() else json.dumps(c)[1:-1] for c in text)
        yield f"  {name:<{NAMES}}{shown}"


def save(out: Path, sample: Sample, folder: Path) -> list[Path]:
    """Write images and prompts under the names that they have in the shard, with the suffix of the image's content.

    Returns their paths. Raises UsageError where one of them exists, before anything is written, or where `folder` is
    within `out`; VerificationError where an image is damaged; OutputError where a file cannot be written.
    """
    check_outside(out, folder)
    files: dict[Path, bytes] = {}
    for image in sample.images:
        data = read(out, image)
        member = MEMBERS[image.modality]
        files[folder / f"{sample.key}.{member.image.removesuffix('jpg')}{_suffix(data)}"] = data
        if image.prompt is not None:
            files[folder / f"{sample.key}.{member.prompt}"] = image.prompt.encode()
    if outside := [path for path in files if not path.resolve().is_relative_to(folder.resolve())]:
        raise VerificationError(
            f"{out}: the index has a key that leads to {outside[0].resolve()}, out of {folder}. "
            f"Run `mmm-rs verify {out}`"
        )
    if existing := [path for path in files if path.exists()]:
        raise UsageError(f"{existing[0]}: exists and is not overwritten. Remove it or give another folder")
    for path, data in files.items():
        write_file(path, data)
    return list(files)


def _suffix(data: bytes) -> str:
    try:
        with Image.open(io.BytesIO(data), formats=images.FORMATS) as image:
            return SUFFIXES[image.format or ""]
    except UnidentifiedImageError:
        return "jpg"  # as the shard calls it


def check_outside(out: Path, path: Path) -> None:
    """Raises UsageError where `path` is in the converted folder: whatever is in there is uploaded and verified."""
    if path.resolve().is_relative_to(out.resolve()):
        raise UsageError(f"{path}: lies in the converted folder, which is uploaded whole. Give a place outside {out}")
