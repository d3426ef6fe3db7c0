"""The card says how many of the single-band images that were looked at have three equal channels."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from PIL import Image

from dataset_card import card
from dataset_card.channels import LOOKED_AT, equal_channels
from dataset_card.statistics import read_converted
from tests import converted

GREY = Image.linear_gradient("L").resize((40, 40))
COLOURS = Image.merge("RGB", (GREY, GREY.rotate(90), GREY))


def encoded(image: Image.Image, format: str = "JPEG") -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format)
    return buffer.getvalue()


EQUAL, OTHER = encoded(GREY.convert("RGB")), encoded(COLOURS)
DAMAGED = EQUAL[:-40]


def stated_count(folder: Path, subsets: dict[str, dict[str, list[bytes]]]) -> str | None:
    """What is said of a dataset of these images, by subset and modality; each sample has one optical image too."""
    samples = []
    for subset, modalities in subsets.items():
        for number in range(max(map(len, modalities.values()), default=1)):
            held = {m: data[number] for m, data in modalities.items() if number < len(data)}
            prompts = dict.fromkeys(["rgb", *held], "a field")
            samples.append(
                converted.Sample(f"{subset}/A_{number}_0", prompts, "a field", images={"rgb": OTHER, **held})
            )
    converted.write(folder, samples)
    return equal_channels(read_converted(folder))


@pytest.mark.parametrize(
    ("data", "count"),
    [
        (EQUAL, 1),
        (encoded(GREY), 1),
        (encoded(GREY.convert("RGB"), "PNG"), 1),
        (encoded(Image.new("I;16", (9, 9), 40_000), "PNG"), 1),
        (OTHER, 0),
        (encoded(COLOURS, "PNG"), 0),
        (DAMAGED, 0),
    ],
)
def test_an_image_counts_if_its_channels_are_equal(data, count, tmp_path):
    assert stated_count(tmp_path, {"SEN1-2": {"sar": [data]}}) == f"{count} of 1 SAR images"


def test_modalities_are_counted_over_all_subsets_and_only_so_many_images_are_looked_at(tmp_path):
    whu = {"nir": [EQUAL, OTHER], "sar": [EQUAL]}
    sen = {"sar": [EQUAL] * (LOOKED_AT - 1) + [OTHER] * 3}
    assert (
        stated_count(tmp_path, {"WHU-OPT-SAR": whu, "SEN1-2": sen})
        == f"1 of 2 NIR and {LOOKED_AT} of {LOOKED_AT + 1} SAR images"
    )


def test_the_card_says_nothing_of_channels_where_there_are_optical_images_only(tmp_path):
    assert stated_count(tmp_path, {"Inria": {}}) is None
    card.write(tmp_path)
    assert "equal channels" not in (tmp_path / "README.md").read_text()


def test_the_card_says_what_was_seen(tmp_path):
    stated_count(tmp_path, {"SEN1-2": {"sar": [EQUAL, OTHER]}})
    card.write(tmp_path)
    text = (tmp_path / "README.md").read_text()
    assert "In this copy, 1 of 2 SAR images that were looked at have them." in text
