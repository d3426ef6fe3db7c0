"""The card's pictures show what the folder holds."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from PIL import Image, ImageColor

from dataset_card import figures
from dataset_card.statistics import Converted, Statistics, read_converted
from tests import converted


@pytest.fixture
def folder(tmp_path: Path) -> Converted:
    converted.write(tmp_path)
    return read_converted(tmp_path)


def picture(data: bytes) -> Image.Image:
    return Image.open(io.BytesIO(data)).convert("RGB")


def near(one: tuple, other: tuple, by: int = 12) -> bool:
    return all(abs(a - b) <= by for a, b in zip(one, other, strict=True))


def bars(image: Image.Image, colour: str) -> list[int]:
    """Lengths in pixels of the bars of a colour in the left half, from top to bottom: its longest run in each."""
    wanted = ImageColor.getrgb(colour)
    runs = []
    for y in range(image.height - 60):  # the legend is below
        longest = run = 0
        for x in range(image.width // 2):
            run = run + 1 if near(image.getpixel((x, y)), wanted, 4) else 0
            longest = max(longest, run)
        runs.append(longest if longest > 8 else 0)
    return [here for before, here in zip([0, *runs], runs, strict=False) if here and not before]


def counted(pairs: dict[str, int]) -> Statistics:
    made = Statistics(samples=max(pairs.values()), pairs={"rgb": 0, "nir": 0, "sar": 0} | pairs)
    for modality, number in pairs.items():
        made.levels[modality]["low"] = number
        made.words[10] += number
    return made


def test_all_pictures_are_written_and_those_of_a_subset_that_is_gone_removed(folder):
    (folder.out / "assets").mkdir()
    (folder.out / "assets" / "samples-fMoW.jpg").write_bytes(b"old")
    (folder.out / "assets" / "mine.png").write_bytes(b"a person's")

    written = figures.write_figures(folder)

    assert written[:2] == ["assets/pairs.png", "assets/prompts.png"]
    assert written[2:] == [f"assets/samples-{name}.jpg" for name in folder.statistics]
    names = {path.name for path in (folder.out / "assets").iterdir()}
    assert names == {path.removeprefix("assets/") for path in written} | {"mine.png"}
    for path in written:
        with Image.open(folder.out / path) as image:
            assert image.format == ("PNG" if path.endswith("png") else "JPEG")
            assert near(
                image.convert("RGB").getpixel((image.width - 2, image.height - 2)), ImageColor.getrgb(figures.GROUND)
            )  # opaque and light
            assert (folder.out / path).stat().st_size < 300_000


def test_bars_are_as_long_as_the_numbers(tmp_path):
    statistics = {"GID": counted({"rgb": 30}), "SEN1-2": counted({"rgb": 20, "sar": 10})}
    image = picture(figures.pairs_figure(Converted(tmp_path, {}, {}, statistics)))

    thirty, twenty = bars(image, figures.COLOURS["rgb"])
    (ten,) = bars(image, figures.COLOURS["sar"])
    assert twenty / thirty == pytest.approx(20 / 30, abs=0.02)
    assert ten / thirty == pytest.approx(10 / 30, abs=0.02)
    assert bars(image, figures.COLOURS["nir"]) == []


def test_numbers_far_apart_stand_on_a_logarithmic_scale(tmp_path):
    statistics = {"fMoW": counted({"rgb": 1_000_000}), "GID": counted({"rgb": 1_000}), "HRSC2016": counted({"rgb": 1})}
    image = picture(figures.pairs_figure(Converted(tmp_path, {}, {}, statistics)))

    million, thousand, one = bars(image, figures.COLOURS["rgb"])
    assert one > 10
    assert million - thousand == pytest.approx(thousand - one, abs=3)


def test_a_contact_sheet_shows_the_images_of_the_shards_side_by_side(folder):
    samples = figures.choose(folder.out, "WHU-OPT-SAR")
    sheet = picture(figures.contact_sheet(samples))

    assert [sample.key.rsplit("_", 2)[1] for sample in samples] == ["0", "1", "2", "3"]
    tile = (sheet.width - 3 * figures.GAP) // 2 // 3
    for modality, place in (("rgb", 0), ("nir", 1), ("sar", 2)):
        expected = picture(samples[1].images[modality]).getpixel((40, 50))
        left = figures.GAP + (sheet.width - figures.GAP) // 2 + place * tile
        assert near(sheet.getpixel((left + tile // 2, figures.GAP + 3 * tile // 4)), expected)
    missing = sheet.getpixel((figures.GAP + 2 * tile + tile // 2, figures.GAP + 3 * tile // 4))
    assert samples[0].images["sar"] is None and near(missing, ImageColor.getrgb(figures.GROUND))


def test_whole_samples_and_different_labels_are_shown_first(tmp_path):
    made = [converted.Sample(f"WHU-OPT-SAR/A_{i}_0", {"rgb": "a"}, "a", category="same") for i in range(9)]
    made += [converted.Sample(f"WHU-OPT-SAR/B_{i}_0", {"rgb": "a", "sar": "a"}, "a", category=str(i)) for i in range(5)]
    for number, sample in enumerate(made):
        sample.images.update({modality: converted.picture("x", number) for modality in sample.prompts})
    converted.write(tmp_path, made)

    keys = [sample.key for sample in figures.choose(tmp_path, "WHU-OPT-SAR")]
    assert keys == ["WHU-OPT-SAR/B_0_0", "WHU-OPT-SAR/B_1_0", "WHU-OPT-SAR/B_2_0", "WHU-OPT-SAR/B_3_0"]


def test_an_image_that_cannot_be_decoded_does_not_stop_the_card():
    sample = figures.Shown("key", {"rgb": b"\xff\xd8\xff not an image"}, {"rgb": "a prompt"})
    assert picture(figures.contact_sheet([sample])).width == figures.SHEET


def test_long_and_odd_prompts_stay_within_their_column():
    sample = figures.Shown("key", {"rgb": converted.picture("x", 1)}, {"rgb": "word " * 300 + "W" * 500 + " 山"})
    short = figures.Shown("key", {"rgb": converted.picture("x", 2)}, {"rgb": None})
    sheet = picture(figures.contact_sheet([sample, short]))
    assert sheet.height < 500  # cut after a few lines
    gap = sheet.crop((sheet.width // 4 + 2, 0, sheet.width // 4 + 4, sheet.height))
    assert {near(pixel, ImageColor.getrgb(figures.GROUND), 30) for pixel in gap.get_flattened_data()} == {True}


def test_a_word_without_end_takes_no_time_without_end():
    lines = figures._wrap("x" * 100_000, figures._font(15), 300)
    assert len(lines) == 1 and 290 < figures._font(15).getlength(lines[0]) <= 300


def test_an_image_of_a_format_that_runs_a_program_is_not_opened(monkeypatch):
    """EPS starts Ghostscript in Pillow."""
    from PIL import EpsImagePlugin

    monkeypatch.setattr(EpsImagePlugin, "Ghostscript", lambda *arguments, **named: pytest.fail("a program was started"))
    eps = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 64 64\n%%EndComments\nshowpage\n%%EOF\n"
    assert Image.open(io.BytesIO(eps)).format == "EPS"
    sample = figures.Shown("key", {"rgb": eps}, {"rgb": "a prompt"})
    assert picture(figures.contact_sheet([sample])).width == figures.SHEET
