"""`mmm-rs preview`: HTML pages to look through a converted folder.

A page needs no server and asks for nothing: images are in it, re-encoded small. What is shown of a subset is taken
evenly from its index, so it is a fair sample.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from conversion.disk import write_file
from conversion.errors import UsageError
from dataset_card import card
from dataset_card.statistics import read_manifest
from mmm_rs import ALL, SUBSETS, subset_names
from mmm_rs_cli.page import GENERATOR, Page, render
from mmm_rs_cli.show import check_outside, read, spread

# Keeps a page below 10 MB: 300 images of 22 kB are 8.8 MB in base64, and their texts hardly 1 MB.
IMAGES = 300  # on a page, over all its subsets


@dataclass(frozen=True)
class Preview:
    """What was written."""

    paths: tuple[Path, ...]  # the pages, in order
    samples: int
    subsets: int
    size: int  # bytes


def write_preview(
    out: Path, configs: Sequence[str] | None = None, output: Path | None = None, pages: int = 1
) -> Preview:
    """Write pages that show samples of a converted folder.

    Args:
        out: The converted folder.
        configs: Only the subsets of these configs (default: all).
        output: The first page (default: `OUT-preview.html` beside the folder). Others have `-2`, `-3`, ... in their
            names.
        pages: How many pages to write, at most; each shows other samples.

    Returns:
        What was written.

    Raises:
        UsageError: A config is unknown or has no samples here, or a page would lie within `out` or replace a file that
            is not a preview.
        OutputError: `out` is not a finished conversion, or a page cannot be written.
        VerificationError: The bytes of an image are not those that the index names.
    """
    manifest = read_manifest(out)
    subsets = _chosen(out, manifest, configs or [ALL])
    resolved = out.resolve()
    first = output or resolved.with_name(f"{resolved.name}-preview.html")
    per_page = IMAGES // sum(len(SUBSETS[name].modalities) for name in subsets)  # samples of each subset
    most = max(manifest["subsets"][name]["samples"] for name in subsets)
    paths = [_page_path(first, number) for number in range(1, min(pages, -(-most // per_page)) + 1)]
    for path in paths:
        _check_free(out, path)
    chosen = {name: spread(out, name, per_page * len(paths)) for name in subsets}
    size = 0
    for number, path in enumerate(paths, 1):
        samples = {name: found[number - 1 :: len(paths)] for name, found in chosen.items()}
        samples = {name: found for name, found in samples.items() if found}
        source = card.named_repository(out)
        page = Page(
            resolved.name,
            f"hf://datasets/{source}" if source not in (None, card.REPOSITORY) else resolved.name,
            manifest,
            samples,
            number,
            [path.name for path in paths],
        )
        html = render(page, lambda image: read(out, image)).encode()
        write_file(path, html)
        size += len(html)
    return Preview(tuple(paths), sum(map(len, chosen.values())), len(chosen), size)


def _page_path(first: Path, number: int) -> Path:
    return first if number == 1 else first.with_name(f"{first.stem}-{number}{first.suffix}")


def _check_free(out: Path, path: Path) -> None:
    """Raises UsageError if a page must not be written here."""
    check_outside(out, path)
    if path.is_file() and GENERATOR not in path.read_bytes()[:1000].decode(errors="replace"):
        raise UsageError(f"{path}: exists and is not a preview, so it is not overwritten. Give another --output")


def _chosen(out: Path, manifest: dict[str, Any], configs: Iterable[str]) -> list[str]:
    """The subsets of these configs that hold a sample, in the dataset's order."""
    held = [name for name in SUBSETS if manifest["subsets"].get(name, {}).get("samples")]
    chosen: set[str] = set()
    for config in configs:
        try:
            names = set(subset_names(config))
        except ValueError as error:
            raise UsageError(f"--config {error}") from None
        if not names & set(held):
            raise UsageError(f"--config {config}: {out} holds no samples of it, only of {', '.join(held) or 'nothing'}")
        chosen |= names
    return [name for name in held if name in chosen]
