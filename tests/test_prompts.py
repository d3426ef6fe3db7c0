"""A prompt's parts, as upstream's figures show them, and prompts with parts missing."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from conversion.prompts import PromptParts, gsd_level, split


@pytest.mark.parametrize(
    ("prompt", "parts"),
    [
        (
            "Ordinary precision resolution, fog, a satellite image shows a large area of farmland, Sentinel-2.",
            PromptParts(None, "ordinary", "fog", None, "a satellite image shows a large area of farmland", "Sentinel-2"),
        ),
        (
            "Satellite imagery,  Ultra-high precision resolution, night ,built-up,a satellite image of a city with lots of buildings, GF2,   GID",
            PromptParts("Satellite imagery", "ultra_high", "night", "built-up", "a satellite image of a city with lots of buildings", "GF2", "GID"),
        ),
        (
            "SAR imagery, Low precision resolution, a radar image of a rough area, Sentinel-1, SEN1-2",
            PromptParts("SAR imagery", "low", None, None, "a radar image of a rough area", "Sentinel-1", "SEN1-2"),
        ),
        (
            "Satellite imagery, High precision resolution, snowy, an aerial view of ice, snow, and rocks",
            PromptParts("Satellite imagery", "high", "snow", None, "an aerial view of ice, snow, and rocks"),
        ),
        (
            "Ultra-low precision resolution, river, the river, seen from above, Google Earth, NaSC-TG2",
            PromptParts(None, "ultra_low", None, "river", "the river, seen from above", "Google Earth", "NaSC-TG2"),
        ),
        ("ultra low precision resolution,a b", PromptParts(None, "ultra_low", None, None, "a b")),
        ("a ship in a harbour", PromptParts(caption="a ship in a harbour")),
        ("a satellite image", PromptParts(caption="a satellite image")),
        ("Low precision resolution, green fields, TG-2", PromptParts(None, "low", None, None, "green fields", "TG-2")),
        ("Low precision resolution", PromptParts(gsd_level="low")),
        ("night", PromptParts(weather="night")),
        ("fog, Low precision resolution, port, a port", PromptParts(None, "low", "fog", "port", "a port")),
        ("a port, Inria", PromptParts(caption="a port", dataset="Inria")),
        ("一张卫星图像，显示农田", PromptParts(caption="一张卫星图像，显示农田")),
        ("", PromptParts()),
        (" , ,", PromptParts()),
    ],
)
def test_parts(prompt, parts):
    found = split(prompt)
    assert found == parts, (found, parts)


@given(st.text() | st.lists(st.sampled_from(["a b", "fog", "GF2", "GID", "High precision resolution", "", " x "])).map(",".join))
def test_any_text_is_split_and_the_caption_is_a_piece_of_it(prompt):
    parts = split(prompt)
    assert parts.caption is None or parts.caption in prompt
    for value in (parts.image_kind, parts.category, parts.satellite, parts.dataset):
        assert value is None or value in prompt


@pytest.mark.parametrize(
    ("metres", "level"),
    [(0.3, "ultra_high"), (0.5, "high"), (0.99, "high"), (1.0, "ordinary"), (4.9, "ordinary"), (5.0, "low"), (10.0, "low"), (100.0, "ultra_low")],
)
def test_levels_have_the_bounds_of_the_paper(metres, level):
    assert gsd_level(metres) == level
