"""The card's charts: how many pairs there are, and how long their prompts are."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

from PIL import ImageDraw

from dataset_card.drawing import COLOURS, FAINT, INK, canvas, font, png
from dataset_card.fields import LEVEL_NAMES
from dataset_card.statistics import WORDS_A_BIN, Converted, Statistics
from mmm_rs import MODALITIES

WIDTH = 1520  # pixels: twice what a card shows, for screens that are dense
ROW = 38  # pixels from dot to dot
GROUP = 18  # pixels more between groups
TEXT, SMALL, TITLE = 26, 22, 30  # pixels, heights of letters
DOT = 9  # pixels, radius
PANEL = 290  # pixels, height of a histogram with its title and axis
TICKS = (5, 10, 20, 50, 100, 200, 500, 1000)  # words between two marks: the first that gives few enough
SHARES = (0.05, 0.1, 0.2, 0.5)  # of a subset's pairs between two marks


def pairs_chart(converted: Converted) -> bytes:
    """PNG: pairs by subset and by GSD level, a dot for each modality, with its number.

    The numbers span six orders of magnitude, so dots stand on a logarithmic axis, where bars would have no beginning.
    """
    every = converted.statistics.values()
    by_subset = {name: statistics.pairs for name, statistics in converted.statistics.items()}
    by_level = {
        name: {m: sum(statistics.levels[m][level] for statistics in every) for m in MODALITIES}
        for level, name in LEVEL_NAMES.items()
    }
    by_level = {name: pairs for name, pairs in by_level.items() if any(pairs.values())}
    height = max(_dots_height(by_subset), _dots_height(by_level)) + 160
    image, draw = canvas(WIDTH, height)
    half = WIDTH // 2
    _dots(draw, 0, half - 30, by_subset, "Pairs by subset (log axis)")
    _dots(draw, half + 30, WIDTH, by_level, "Pairs by GSD level (log axis)")
    x = 0.0
    for modality in (m for m in MODALITIES if any(pairs[m] for pairs in by_subset.values())):  # the legend
        _mark(draw, modality, x + DOT, height - 24)
        draw.text((x + 3 * DOT, height - 24), modality.upper(), fill=INK, font=font(TEXT), anchor="lm")
        x += 3 * DOT + font(TEXT).getlength(modality.upper()) + 40
    return png(image)


def _held(pairs: Mapping[str, int]) -> list[str]:
    return [modality for modality in MODALITIES if pairs[modality]]


def _dots_height(groups: Mapping[str, Mapping[str, int]]) -> int:
    return sum(ROW * max(1, len(_held(pairs))) + GROUP for pairs in groups.values())


def _dots(
    draw: ImageDraw.ImageDraw, left: int, right: int, groups: Mapping[str, Mapping[str, int]], title: str
) -> None:
    """One row for each modality of a group; groups from top to bottom."""
    numbers = [pairs[modality] for pairs in groups.values() for modality in _held(pairs)] or [1]
    low, high = math.floor(math.log10(min(numbers))), max(math.ceil(math.log10(max(numbers))), 1)
    high += high == low
    start = left + max((font(TEXT).getlength(name) for name in groups), default=0) + 24
    room = right - start - font(TEXT).getlength(f"{max(numbers):,}") - 2 * DOT - 12
    top, bottom = 56, 56 + _dots_height(groups)

    def place(number: int) -> float:
        return start + DOT + room * (math.log10(number) - low) / (high - low)

    draw.text((left, 0), title, fill=INK, font=font(TITLE))
    for power in range(low, high + 1):
        draw.line((place(10**power), top, place(10**power), bottom), fill=FAINT, width=2)
        draw.text((place(10**power), bottom + 6), _short(10**power), fill=INK, font=font(SMALL), anchor="ma")
    y = top + ROW / 2
    for name, pairs in groups.items():
        held = _held(pairs)
        middle = y + ROW * (max(1, len(held)) - 1) / 2
        draw.text((start - 24, middle), name, fill=INK, font=font(TEXT), anchor="rm")
        for modality in held:
            x = place(pairs[modality])
            _mark(draw, modality, x, y)
            draw.text((x + DOT + 10, y), f"{pairs[modality]:,}", fill=INK, font=font(TEXT), anchor="lm")
            y += ROW
        y += GROUP if held else ROW + GROUP


def _mark(draw: ImageDraw.ImageDraw, modality: str, x: float, y: float) -> None:
    """A modality's own shape in its colour: nobody has to tell colours apart."""
    colour = COLOURS[modality]
    if modality == "rgb":
        draw.ellipse((x - DOT, y - DOT, x + DOT, y + DOT), fill=colour)
    elif modality == "nir":
        draw.rectangle((x - DOT + 1, y - DOT + 1, x + DOT - 1, y + DOT - 1), fill=colour)
    else:
        draw.polygon([(x - DOT - 1, y + DOT), (x + DOT + 1, y + DOT), (x, y - DOT - 1)], fill=colour)


def _short(power: int) -> str:
    for bound, letter in ((10**6, "M"), (10**3, "k")):
        if power >= bound:
            return f"{power // bound}{letter}"
    return str(power)


def prompts_chart(converted: Converted) -> bytes:
    """PNG: how long the prompts are, in words, one panel for each subset, all on one scale."""
    every = converted.statistics
    across = min(len(every), 4)
    down = math.ceil(len(every) / across)
    image, draw = canvas(WIDTH, 70 + PANEL * down)
    title = "Words in a prompt: share of the subset's pairs"
    draw.text((0, 0), title, fill=INK, font=font(TITLE))
    longest = max(max(statistics.words, default=0) for statistics in every.values()) + WORDS_A_BIN
    highest = max(max(_shares(statistics).values(), default=0.0) for statistics in every.values()) or 1.0
    wide = WIDTH // across
    for number, (name, statistics) in enumerate(every.items()):
        row, column = divmod(number, across)
        box = (column * wide + 70, 70 + row * PANEL, (column + 1) * wide - 24, 70 + (row + 1) * PANEL - 76)
        _histogram(draw, box, name, _shares(statistics), longest, highest)
    return png(image)


def _shares(statistics: Statistics) -> dict[int, float]:
    """First number of words of a bin -> share of the pairs."""
    pairs = sum(statistics.words.values())
    return {words: count / pairs for words, count in sorted(statistics.words.items())}


def _histogram(
    draw: ImageDraw.ImageDraw,
    box: tuple[int, int, int, int],
    name: str,
    shares: Mapping[int, float],
    longest: int,
    highest: float,
) -> None:
    left, top, right, base = box
    ceiling = top + 44
    draw.text((left, top), name, fill=INK, font=font(TEXT))
    for share in _marks(highest, SHARES):
        y = base - (base - ceiling) * share / highest
        draw.line((left, y, right, y), fill=FAINT, width=2)
        draw.text((left - 8, y), f"{100 * share:.0f}%", fill=INK, font=font(SMALL), anchor="rm")
    bar = (right - left) * WORDS_A_BIN / longest
    for words, share in shares.items():
        x = left + (right - left) * words / longest
        y = base - (base - ceiling) * share / highest
        draw.rectangle((x + 1, min(y, base - 2), x + max(bar - 1, 2), base), fill=COLOURS["rgb"])
    draw.line((left, base, right, base), fill=INK, width=2)
    for mark in _marks(longest, TICKS):
        x = left + (right - left) * mark / longest
        draw.text((x, base + 8), f"{mark:g}", fill=INK, font=font(SMALL), anchor="ma")


def _marks(end: float, steps: Iterable[float]) -> list[float]:
    """Places of at most five marks from 0 to `end`, evenly spaced by one of `steps`."""
    step = next((step for step in steps if end / step < 5), end)
    return [number * step for number in range(int(end / step) + 1)]
