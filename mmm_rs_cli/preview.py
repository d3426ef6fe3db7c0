"""`mmm-rs preview`: HTML pages to look through a converted folder.

A page needs no server and asks for nothing: images are in it, re-encoded small. What is shown of a subset is taken
evenly from its index, so it is a fair sample.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from conversion.disk import write_file
from conversion.errors import UsageError
from dataset_card import card
from mmm_rs import ALL, SUBSETS, ConvertedSource, subset_names
from mmm_rs_cli.page import GENERATOR, Page, render, thumbnail
from mmm_rs_cli.samples import PlacedImage, is_remote, open_dataset, read_images, shards_read, spread
from mmm_rs_cli.show import check_outside

# Keeps a page below 10 MB: 300 images of 22 kB are 8.8 MB in base64, and their texts hardly 1 MB.
IMAGES = 300  # on a page, over all its subsets


@dataclass(frozen=True)
class Preview:
    """What was written."""

    paths: tuple[Path, ...]  # the pages, in order
    samples: int
    available: int  # samples of these subsets in the dataset
    shards_read: int | None  # of each subset, if not all were and so less is shown than the pages hold
    subsets: int
    size: int  # bytes
    more: bool  # whether further pages would show further samples


def write_preview(
    place: str | Path, configs: Sequence[str] | None = None, output: Path | None = None, pages: int = 1
) -> Preview:
    """Write pages that show samples of a converted dataset.

    Args:
        place: The converted folder, or an address such as hf://datasets/org/MMM-RS. Of the latter no more is read than
            is shown.
        configs: Only the subsets of these configs (default: all).
        output: The first page (default: `OUT-preview.html`, beside the folder or here). Others have `-2`, `-3`, ... in
            their names.
        pages: How many pages to write, at most; each shows other samples.

    Returns:
        What was written.

    Raises:
        UsageError: A config is unknown or has no samples here, or a page would be within the converted folder or
            replace a file that is not a preview.
        OutputError: `place` is not a finished conversion, or a page cannot be written.
        VerificationError: The bytes of an image are not those that the index names.
    """
    source = open_dataset(place)
    subsets = _chosen(source, configs or [ALL])
    folder = Path(_title(place)) if is_remote(place) else Path(place).resolve()
    first = output or folder.with_name(f"{folder.name}-preview.html")
    per_page = IMAGES // sum(len(SUBSETS[name].modalities) for name in subsets)  # samples of each subset
    most = max(source.manifest["subsets"][name]["samples"] for name in subsets)
    paths = [_page_path(first, number) for number in range(1, min(pages, -(-most // per_page)) + 1)]
    for path in paths:
        _check_free(place, path)
    chosen = {name: spread(source, name, per_page * len(paths)) for name in subsets}
    size = 0
    for number, path in enumerate(paths, 1):
        samples = {name: part for name, all_of_it in chosen.items() if (part := all_of_it[number - 1 :: len(paths)])}
        images = [image for part in samples.values() for sample in part for image in sample.images]
        page = Page(
            folder.name,
            _loadable(place),
            source.manifest,
            samples,
            {image: thumbnail(data) for image, data in read_images(source, _in_file_order(images))},
            number,
            [path.name for path in paths],
        )
        html = render(page).encode()
        write_file(path, html)
        size += len(html)
    counts = {name: source.manifest["subsets"][name]["samples"] for name in subsets}
    is_cut = any(len(chosen[name]) < min(count, per_page * len(paths)) for name, count in counts.items())
    return Preview(
        tuple(paths),
        sum(map(len, chosen.values())),
        sum(counts.values()),
        shards_read(source) if is_cut else None,
        len(chosen),
        size,
        most > per_page * len(paths),
    )


def _title(place: str | Path) -> str:
    """The dataset's name."""
    if is_remote(place):
        return str(place).rstrip("/").rpartition("/")[2].partition("@")[0]
    return Path(place).resolve().name


def _loadable(place: str | Path) -> str:
    """What code on the page loads from: an address if there is one, otherwise the folder's name."""
    if is_remote(place):
        return str(place)
    repository = card.named_repository(Path(place))
    return _title(place) if repository in (None, card.REPOSITORY) else f"hf://datasets/{repository}"


def _in_file_order(images: Iterable[PlacedImage]) -> list[PlacedImage]:
    return sorted(images, key=lambda image: (image.shard, image.offset))


def _page_path(first: Path, number: int) -> Path:
    return first if number == 1 else first.with_name(f"{first.stem}-{number}{first.suffix}")


def _check_free(place: str | Path, path: Path) -> None:
    """Raises UsageError if a page must not be written here."""
    if not is_remote(place):
        check_outside(Path(place), path)
    if path.is_file() and GENERATOR not in path.read_bytes()[:1000].decode(errors="replace"):
        raise UsageError(f"{path}: exists and is not a preview, so it is not overwritten. Give another --output")


def _chosen(source: ConvertedSource, configs: Iterable[str]) -> list[str]:
    """The subsets of these configs that hold a sample, in the dataset's order."""
    counts = source.manifest["subsets"]
    held = [name for name in SUBSETS if counts.get(name, {}).get("samples")]
    chosen: set[str] = set()
    for config in configs:
        try:
            names = set(subset_names(config))
        except ValueError as error:
            raise UsageError(f"--config {error}") from None
        if not names & set(held):
            raise UsageError(
                f"--config {config}: {source} holds no samples of it, only of {', '.join(held) or 'nothing'}"
            )
        chosen |= names
    return [name for name in held if name in chosen]
