"""The card's charts say what the folder holds, on light and on dark pages."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from PIL import Image, ImageColor

from dataset_card import charts, drawing
from dataset_card.statistics import Converted, Statistics

PAGES = {"white": "#ffffff", "GitHub's dark": "#0d1117", "the hub's dark": "#0b0f19"}


def picture(data: bytes) -> Image.Image:
    return Image.open(io.BytesIO(data)).convert("RGBA")


def counted(pairs: dict[str, int], words: dict[int, int] | None = None) -> Statistics:
    statistics = Statistics(samples=max(pairs.values()), pairs={"rgb": 0, "nir": 0, "sar": 0} | pairs)
    for modality, number in pairs.items():
        statistics.levels[modality]["low"] = number
    statistics.words.update(words or {10: sum(pairs.values())})
    return statistics


def folder(statistics: dict[str, Statistics]) -> Converted:
    return Converted(Path("nowhere"), {}, {}, statistics)


def spots(image: Image.Image, colour: str, box: tuple[int, int, int, int]) -> list[tuple[float, float]]:
    """Middles of the connected areas of a colour within a box, from top to bottom."""
    wanted, left, top = ImageColor.getrgb(colour), box[0], box[1]
    part = image.crop(box)
    open_places = {
        (x, y)
        for y in range(part.height)
        for x in range(part.width)
        if part.getpixel((x, y))[3] > 200
        and all(abs(a - b) < 12 for a, b in zip(part.getpixel((x, y)), wanted, strict=False))
    }
    middles = []
    while open_places:
        area, waiting = set(), [open_places.pop()]
        while waiting:
            x, y = waiting.pop()
            area.add((x, y))
            for near in ((x + 1, y), (x - 1, y), (x, y + 1), (x, y - 1)):
                if near in open_places:
                    open_places.remove(near)
                    waiting.append(near)
        if len(area) > 100:
            middles.append((left + sum(x for x, _ in area) / len(area), top + sum(y for _, y in area) / len(area)))
    return sorted(middles, key=lambda middle: middle[1])


LEFT_HALF = (0, 50, charts.WIDTH // 2, 400)


def test_each_tenfold_number_is_the_same_step_to_the_right():
    statistics = {"fMoW": counted({"rgb": 1_000_000}), "GID": counted({"rgb": 1_000}), "HRSC2016": counted({"rgb": 1})}
    image = picture(charts.pairs_chart(folder(statistics)))
    dots = spots(image, drawing.COLOURS["rgb"], (0, 50, charts.WIDTH // 2, image.height - 60))
    (million, _), (thousand, _), (unit, _) = dots
    assert million - thousand == pytest.approx(thousand - unit, abs=2) and thousand - unit > 80


def test_each_modality_has_a_dot_of_its_own_colour_and_none_where_there_are_no_pairs():
    statistics = {"GID": counted({"rgb": 30}), "SEN1-2": counted({"rgb": 20, "sar": 20})}
    image = picture(charts.pairs_chart(folder(statistics)))
    box = (0, 50, charts.WIDTH // 2, image.height - 60)
    optical, radar = (spots(image, drawing.COLOURS[m], box) for m in ("rgb", "sar"))
    assert len(optical) == 2 and len(radar) == 1
    assert radar[0][0] == pytest.approx(optical[1][0], abs=3)  # the same number
    assert spots(image, drawing.COLOURS["nir"], box) == []


@pytest.mark.parametrize("numbers", [{"rgb": 1}, {"rgb": 1, "sar": 10}, {"rgb": 0}, {"rgb": 9_999_999, "nir": 1}])
def test_any_numbers_can_be_drawn_within_the_picture(numbers):
    image = picture(charts.pairs_chart(folder({"WHU-OPT-SAR": counted(numbers, {10: 1})})))
    assert image.width == charts.WIDTH
    assert {image.getpixel((image.width - 1, y))[3] for y in range(image.height)} == {0}  # nothing is cut off


def tops(image: Image.Image) -> list[int]:
    """The height of the bars of each panel in the first row, from the base up."""
    wanted = ImageColor.getrgb(drawing.COLOURS["rgb"])
    wide, base = image.width // 2, 70 + charts.PANEL - 76
    heights = []
    for panel in range(2):
        columns = range(panel * wide, (panel + 1) * wide)
        rows = [
            y
            for y in range(70, base)
            if any(all(abs(a - b) < 8 for a, b in zip(image.getpixel((x, y)), wanted, strict=False)) for x in columns)
        ]
        heights.append(base - min(rows))
    return heights


def test_histograms_of_all_subsets_share_one_scale():
    statistics = {
        "GID": counted({"rgb": 100}, {10: 100}),
        "fMoW": counted({"rgb": 1_000_000}, {10: 250_000, 12: 250_000, 14: 250_000, 16: 250_000}),
    }
    whole, quarter = tops(picture(charts.prompts_chart(folder(statistics))))
    assert quarter / whole == pytest.approx(0.25, abs=0.03)


@pytest.mark.parametrize("page", PAGES)
@pytest.mark.parametrize("colour", [drawing.INK, *drawing.COLOURS.values()])
def test_every_colour_stands_out_on_light_and_on_dark_pages(page, colour):
    """By the formula of WCAG 2, which asks for 3 to 1 of large text and of what pictures show."""
    darker, lighter = sorted((luminance(colour), luminance(PAGES[page])))
    assert (lighter + 0.05) / (darker + 0.05) > 3.6


def luminance(colour: str) -> float:
    parts = [value / 255 for value in ImageColor.getrgb(colour)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return sum(weight * part for weight, part in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


def test_the_ground_is_transparent_and_letters_have_no_fringe():
    statistics = {"GID": counted({"rgb": 30})}
    for data in (charts.pairs_chart(folder(statistics)), charts.prompts_chart(folder(statistics))):
        image = picture(data)
        colours = {colour for _, colour in image.getcolors(1 << 20)}
        assert (0 in {alpha for *_, alpha in colours}) and image.getpixel((image.width - 1, 0))[3] == 0
        assert all(max(colour[:3]) > 90 for colour in colours if colour[3] > 20)  # nothing near black


def test_a_word_without_end_takes_no_time_without_end():
    lines = drawing.wrapped("x" * 100_000, drawing.font(15), 300, 8)
    assert len(lines) == 1 and 290 < drawing.font(15).getlength(lines[0]) <= 300
