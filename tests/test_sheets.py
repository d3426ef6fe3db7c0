"""The card's pictures of samples show the images of the shards, with their modalities, subsets and prompts."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from PIL import EpsImagePlugin, Image, ImageColor

from dataset_card import drawing, sheets
from dataset_card.figures import write_figures
from dataset_card.statistics import Converted, read_converted
from tests import converted


@pytest.fixture
def folder(tmp_path: Path) -> Converted:
    converted.write(tmp_path)
    return read_converted(tmp_path)


def picture(data: bytes) -> Image.Image:
    return Image.open(io.BytesIO(data)).convert("RGBA")


def near(colour: tuple, other: tuple, by: int = 14) -> bool:
    return all(abs(a - b) <= by for a, b in zip(colour[:3], other[:3], strict=True))


def plain(hue: int, size: int = 64) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (size, size), (hue * 37 % 256, 90, 255 - hue * 53 % 256)).save(buffer, "JPEG")
    return buffer.getvalue()


def shown(hues: dict[str, int | None], prompts: dict | None = None) -> sheets.Shown:
    images = {modality: None if hue is None else plain(hue) for modality, hue in hues.items()}
    return sheets.Shown("key", images, prompts or dict.fromkeys(hues, "a prompt"))


def test_all_pictures_are_written_and_those_of_a_subset_that_is_gone_removed(folder):
    (folder.out / "assets").mkdir()
    (folder.out / "assets" / "samples-fMoW.webp").write_bytes(b"old")
    (folder.out / "assets" / "mine.png").write_bytes(b"a person's")

    written = write_figures(folder)

    assert written[:3] == ["assets/samples.webp", "assets/pairs.png", "assets/prompts.png"]
    assert written[3:] == [f"assets/samples-{name}.webp" for name in folder.statistics]
    names = {path.name for path in (folder.out / "assets").iterdir()}
    assert names == {path.removeprefix("assets/") for path in written} | {"mine.png"}
    for path in written:
        with Image.open(folder.out / path) as image:
            assert image.format == ("PNG" if path.endswith("png") else "WEBP")
            assert image.convert("RGBA").getpixel((image.width - 1, image.height - 1))[3] == 0  # transparent ground
        assert (folder.out / path).stat().st_size < 300_000


def test_a_contact_sheet_shows_the_images_of_the_shards_side_by_side(folder):
    samples = sheets.choose(folder.out, "WHU-OPT-SAR")
    sheet = picture(sheets.contact_sheet("WHU-OPT-SAR", samples))

    assert [sample.key.rsplit("_", 2)[1] for sample in samples] == ["0", "1", "2", "3"]
    tile = ((sheets.SHEET + sheets.GAP) // 2 - sheets.GAP - 4) // 3
    top = sheets.HEADING + sheets.GAP + 3 * tile // 4
    for place, modality in enumerate(("rgb", "nir", "sar")):
        expected = picture(samples[1].images[modality]).getpixel((40, 50))
        left = (tile + 2) * 3 - 2 + sheets.GAP + place * (tile + 2)
        assert near(sheet.getpixel((left + tile // 2, top)), expected)
    missing = sheet.getpixel((2 * (tile + 2) + tile // 2, top))
    assert samples[0].images["sar"] is None and 0 < missing[3] < 100  # a faint square


def test_each_tile_and_each_sheet_is_labelled():
    """The label is a dark corner of the tile; the subset's name stands above."""
    sheet = picture(sheets.contact_sheet("SEN1-2", [shown({"rgb": 1, "sar": 2})]))
    tile = ((sheets.SHEET + sheets.GAP) // 2 - sheets.GAP - 2) // 2
    for place in range(2):
        corner = sheet.getpixel((place * (tile + 2) + 3, sheets.HEADING + sheets.GAP + 3))
        assert near(corner, ImageColor.getrgb("#1f2328"))
    ink = [pixel[3] > 128 for pixel in sheet.crop((0, 0, 120, sheets.HEADING)).get_flattened_data()]
    assert any(ink)


def test_whole_samples_and_different_labels_are_shown_first(tmp_path):
    samples = [converted.Sample(f"WHU-OPT-SAR/A_{i}_0", {"rgb": "a"}, "a", category="same") for i in range(9)]
    samples += [
        converted.Sample(f"WHU-OPT-SAR/B_{i}_0", {"rgb": "a", "sar": "a"}, "a", category=str(i)) for i in range(5)
    ]
    for number, sample in enumerate(samples):
        sample.images.update({modality: converted.picture("x", number) for modality in sample.prompts})
    converted.write(tmp_path, samples)

    keys = [sample.key for sample in sheets.choose(tmp_path, "WHU-OPT-SAR")]
    assert keys == ["WHU-OPT-SAR/B_0_0", "WHU-OPT-SAR/B_1_0", "WHU-OPT-SAR/B_2_0", "WHU-OPT-SAR/B_3_0"]


@pytest.mark.parametrize("data", [b"\xff\xd8\xff not an image", b"", plain(3)[:200]])
def test_an_image_that_cannot_be_decoded_does_not_stop_the_card(data):
    sample = sheets.Shown("key", {"rgb": data}, {"rgb": "a prompt"})
    assert picture(sheets.contact_sheet("GID", [sample])).width == sheets.SHEET


def test_an_image_of_a_format_that_runs_a_program_is_not_opened(monkeypatch):
    """EPS starts Ghostscript in Pillow."""
    monkeypatch.setattr(EpsImagePlugin, "Ghostscript", lambda *arguments, **named: pytest.fail("a program was started"))
    eps = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 64 64\n%%EndComments\nshowpage\n%%EOF\n"
    assert Image.open(io.BytesIO(eps)).format == "EPS"
    sample = sheets.Shown("key", {"rgb": eps}, {"rgb": "a prompt"})
    assert picture(sheets.contact_sheet("GID", [sample])).width == sheets.SHEET


def test_long_and_odd_prompts_stay_within_their_column():
    long = shown({"rgb": 1}, {"rgb": "word " * 300 + "W" * 500 + " 山"})
    sheet = picture(sheets.contact_sheet("GID", [long, shown({"rgb": 2}, {"rgb": None})]))
    tile = (sheets.SHEET + sheets.GAP) // 4 - sheets.GAP
    assert sheet.height < sheets.HEADING + tile + sheets.LINE * (sheets.LINES + 1) + 3 * sheets.GAP
    gap = sheet.crop((tile + 3, sheets.HEADING + sheets.GAP, tile + sheets.GAP - 3, sheet.height))
    assert max(pixel[3] for pixel in gap.get_flattened_data()) < 30


# ---------------------------------------------------------------------------------------------------------- the strip


def strip_rows(chosen: dict) -> list[list[str]]:
    return [[subset for subset, _ in row] for row in sheets._strip_rows(chosen)]


def test_the_strip_has_a_sample_of_each_subset_those_with_most_modalities_first():
    chosen = {"weather": [shown({"rgb": n}) for n in range(8)]}
    chosen |= {"WHU-OPT-SAR": [shown({"rgb": 1, "nir": 2, "sar": 3})] * 4, "SEN1-2": [shown({"rgb": 1, "sar": 2})] * 4}
    chosen |= {name: [shown({"rgb": 5})] * 4 for name in ("Inria", "fMoW", "TGRS-HRRSD", "GID", "NaSC-TG2")}
    chosen |= {name: [shown({"rgb": 6})] * 4 for name in ("MRSSC2.0", "HRSC2016")}
    first, second = strip_rows(chosen)
    assert first[:2] == ["WHU-OPT-SAR", "SEN1-2"] and {*first, *second} == set(chosen)
    assert len(first) == 4 and len(second) == 7  # 3 + 2 + 1 + 1 images, and 7


def test_the_strip_of_few_subsets_is_one_full_row():
    assert strip_rows({"GID": [shown({"rgb": n}) for n in range(8)]}) == [["GID"] * 7]
    assert strip_rows({"SEN1-2": [shown({"rgb": 1, "sar": 2})] * 4}) == [["SEN1-2"] * 3]
    assert sheets.strip({"GID": []}) is None


def test_the_strip_shows_the_images_and_names_their_subset():
    strip = picture(sheets.strip({"SEN1-2": [shown({"rgb": 1, "sar": 2})]}))
    tile = (sheets.STRIP + sheets.STRIP_GAP) // sheets.STRIP_TILES - sheets.STRIP_GAP
    assert strip.width == sheets.STRIP
    for place, hue in enumerate((1, 2)):
        middle = (place * (tile + sheets.STRIP_GAP) + tile // 2, tile // 2)
        assert near(strip.getpixel(middle), picture(plain(hue)).getpixel((9, 9)))
    name = strip.crop((0, tile + 4, tile, strip.height))
    assert max(pixel[3] for pixel in name.get_flattened_data()) > 200
    assert any(near(pixel, ImageColor.getrgb(drawing.INK), 24) for pixel in name.get_flattened_data() if pixel[3] > 200)
