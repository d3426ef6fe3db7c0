"""`mmm-rs show`: one sample as text, and its files."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from PIL import UnidentifiedImageError

from conversion.disk import write_file
from conversion.errors import UsageError, VerificationError
from mmm_rs import MEMBERS, PROMPT_COLUMNS, ConvertedSource, open_image
from mmm_rs_cli.parts import PARTS
from mmm_rs_cli.samples import LABELS, Sample, is_remote, read_images

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

NAMES = max(map(len, LABELS)) + 2  # columns of the names in the printed record


def lines(sample: Sample) -> Iterator[tuple[str, str | None]]:
    """All that is known of a sample, for a person to read: lines and their styles on a terminal."""
    yield sample.key, "bold"
    for line in _named({"subset": sample.subset, "split": sample.split, **sample.labels}):
        yield line, None
    for image in sample.images:
        yield "", None
        yield image.modality, "bold"
        facts = {
            "source": image.source,
            "shard": image.shard,
            "bytes": f"{image.size:,} from offset {image.offset:,}",
            "crc32": f"{image.crc32:08x}",
            "pixels": f"{image.width} x {image.height}",
            "prompt": image.prompt,
        }
        for line in _named(facts):
            yield line, None
        for field, value in image.parts.items():
            for line in _named({f"  {field}": value}):
                yield line, PARTS[field].style
        for line in _named({"annotation": image.annotation}):
            yield line, None


def _named(values: dict[str, Any]) -> Iterator[str]:
    """One line each."""
    units = {"gsd": " metres per pixel"}
    for name, value in values.items():
        yield f"  {name:<{NAMES}}" + ("-" if value is None else f"{value}{units.get(name, '')}")


def save(source: ConvertedSource, sample: Sample, folder: Path) -> list[Path]:
    """Write a sample's images and prompts under the names that they have in the shard, with the suffix of the image's
    content.

    Args:
        source: The converted dataset.
        sample: One of its samples.
        folder: Where to write, outside a converted folder.

    Returns:
        The paths of the files.

    Raises:
        UsageError: One of the files exists, or `folder` is within the converted folder. Nothing was written.
        VerificationError: An image is damaged. Nothing was written.
        OutputError: A file cannot be written.
    """
    if not is_remote(str(source)):
        check_outside(Path(str(source)), folder)
    files: dict[Path, bytes] = {}
    for image, data in read_images(source, sample.images):
        member = MEMBERS[image.modality]
        files[folder / f"{sample.key}.{member.image.removesuffix('jpg')}{_suffix(data)}"] = data
        if image.prompt is not None:
            files[folder / f"{sample.key}.{member.prompt}"] = image.prompt.encode()
    if outside := [path for path in files if not path.resolve().is_relative_to(folder.resolve())]:
        raise VerificationError(
            f"{source}: the index has a key that leads to {outside[0].resolve()}, out of {folder}. "
            f"Run `mmm-rs verify {source}`"
        )
    if existing := [path for path in files if path.exists()]:
        raise UsageError(f"{existing[0]}: exists and is not overwritten. Remove it or give another folder")
    for path, data in files.items():
        write_file(path, data)
    return list(files)


def write_plot(source: ConvertedSource, sample: Sample, path: Path) -> None:
    """Draw a sample to a file; the format is that of its suffix.

    Raises:
        UsageError: matplotlib is not installed or does not know the suffix, the file exists, or it is within the
            converted folder.
        VerificationError: An image is damaged or cannot be decoded.
        OutputError: The file cannot be written.
    """
    from mmm_rs_cli.plot import plot

    if not is_remote(str(source)):
        check_outside(Path(str(source)), path)
    if path.exists():
        raise UsageError(f"{path}: exists and is not overwritten. Remove it or give another file")
    row: dict[str, Any] = {"key": sample.key, "subset": sample.subset, **sample.labels}
    for image, data in read_images(source, sample.images):
        row[image.modality] = {"bytes": data}
        row[PROMPT_COLUMNS[image.modality]] = image.prompt
    drawn = io.BytesIO()
    try:
        plot(row).savefig(drawn, format=path.suffix.lstrip(".") or None)
    except (ImportError, ValueError) as error:
        raise UsageError(f"{path}: {error}") from None
    except OSError as error:  # Pillow's, of a damaged image
        raise VerificationError(f"{source}: an image of {sample.key} cannot be decoded: {error}") from None
    write_file(path, drawn.getvalue())


def _suffix(data: bytes) -> str:
    try:
        with open_image(data) as image:
            return SUFFIXES[image.format or ""]
    except UnidentifiedImageError:
        return "jpg"  # as in the shard


def check_outside(out: Path, path: Path) -> None:
    """Raises UsageError if `path` is in the converted folder: everything in there is uploaded and verified."""
    if path.resolve().is_relative_to(out.resolve()):
        raise UsageError(f"{path}: is in the converted folder, which is uploaded whole. Give a place outside {out}")
