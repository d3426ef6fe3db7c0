"""`mmm-rs demo`: the whole way on a small synthetic release, from zips to rows, with a picture to look at."""

from __future__ import annotations

import io
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from conversion import convert
from conversion.disk import write_file, writing
from conversion.errors import UsageError
from conversion.job import Result
from conversion.release import check_system
from dataset_card import card
from dataset_card.card import write_own
from mmm_rs import MODALITIES, SUBSETS
from mmm_rs_cli.demo.synthetic import write_release

MARGIN = 20  # pixels around the contact sheets of the picture
MARK = "synthetic.txt"  # in the demo's folder: what is there may be overwritten


@dataclass(frozen=True)
class Door:
    """One way to the data: how many samples came, and at what rate."""

    samples: int
    seconds: float

    @property
    def rate(self) -> float:
        return self.samples / self.seconds if self.seconds else 0.0


@dataclass(frozen=True)
class Demo:
    release: Path
    result: Result
    doors: dict[str, tuple[Door, Door]]  # subset -> no code, builder
    sheet: Path


def run(folder: Path, say: Callable[[str], None] = lambda line: None) -> Demo:
    """Make a synthetic release in `folder`, convert it, load every config by two doors, draw a contact sheet.

    Args:
        folder: Where everything is written.
        say: Is called with a line about each step.

    Raises:
        UsageError: The folder holds files that are not an earlier demo's, or this system cannot convert.
        OutputError: The folder cannot be written.
        AssertionError: A door gives other counts than the manifest.
    """
    check_system()
    out, mark = folder / "MMM-RS-hub", folder / MARK
    with writing(folder):
        is_foreign = folder.is_dir() and any(folder.iterdir()) and not mark.exists()
    if is_foreign:
        raise UsageError(
            f"{folder}: holds files that the demo did not make, and its synthetic scenes would be mixed with them. "
            "Give a new or empty folder"
        )
    write_file(mark, b"Everything here was made by `mmm-rs demo`, which overwrites it when it is run again.\n")
    say("drawing a synthetic release in upstream's layout")
    release = write_release(folder)
    say(f"converting {release.path} to {out}")
    result = convert(release.path, out, overwrite=out.exists(), card=card)
    write_own(
        out,
        "about",
        "> **Everything in this copy is synthetic**: drawn scenes in the layout of MMM-RS, made by "
        "`mmm-rs demo`. It holds no image of the Earth.",
    )
    say("loading every config: through load_dataset with no code of ours, then through the builder")
    doors = {subset: _load(out, subset) for subset in result.manifest["subsets"]}
    for subset, both in doors.items():
        expected = result.manifest["subsets"][subset]["samples"]
        assert [door.samples for door in both] == [expected] * 2, f"{subset}: loaded {both}, written {expected}"
    sheet = folder / "contact-sheet.jpg"
    write_file(sheet, _sheet(out, doors))
    return Demo(release.path, result, doors, sheet)


def _load(out: Path, subset: str) -> tuple[Door, Door]:
    import datasets

    import mmm_rs

    datasets.disable_progress_bars()
    return (
        _timed(lambda: datasets.load_dataset(str(out), subset, split="train", streaming=True)),
        _timed(lambda: mmm_rs.load_dataset(subset, str(out), split="train", streaming=True)),
    )


def _timed(load: Callable[[], Iterable[Any]]) -> Door:
    start = time.perf_counter()
    samples = sum(1 for _ in load())  # images are decoded
    return Door(samples, time.perf_counter() - start)


def _sheet(out: Path, subsets: Iterable[str]) -> bytes:
    """Aligned subsets first, their modalities side by side; then one row of the others."""
    from dataset_card.sheets import Shown, choose, contact_sheet

    groups = {name: choose(out, name)[:2] for name in subsets if len(SUBSETS[name].modalities) > 1}
    others: list[Shown] = [choose(out, name)[0] for name in subsets if len(SUBSETS[name].modalities) == 1]
    groups["one sample of each other subset"] = others
    drawn = [contact_sheet(name, samples) for name, samples in groups.items()]
    sheets = [Image.open(io.BytesIO(sheet)) for sheet in drawn if sheet]
    width, height = max(sheet.width for sheet in sheets), sum(sheet.height + MARGIN for sheet in sheets)
    picture = Image.new("RGB", (width + 2 * MARGIN, height + MARGIN), "white")
    top = MARGIN
    for sheet in sheets:
        picture.paste(sheet, (MARGIN, top), sheet)
        top += sheet.height + MARGIN
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=88)
    return buffer.getvalue()


def table(demo: Demo) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """Head and rows of what was made and loaded. Rates are of whole samples with decoded images, start included."""
    from conversion.display import size

    head = ("subset", "samples", *(f"{m} pairs" for m in MODALITIES), "shards", "size", "no code /s", "builder /s")
    rows = [
        (
            name,
            str(counts["samples"]),
            *(str(counts["pairs"][m]) for m in MODALITIES),
            str(counts["shards"]),
            size(counts["bytes"]),
            *(f"{door.rate:.0f}" for door in demo.doors[name]),
        )
        for name, counts in demo.result.manifest["subsets"].items()
    ]
    return head, rows
