"""A prompt's parts, as upstream's figures show them, and prompts with parts missing."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from conversion.prompts import PromptParts, gsd_level, marked, split
from mmm_rs import SUBSETS


@pytest.mark.parametrize(
    ("prompt", "parts"),
    [
        (
            "Ordinary precision resolution, fog, a satellite image shows a large area of farmland, Sentinel-2.",
            PromptParts(
                None, "ordinary", "fog", None, "a satellite image shows a large area of farmland", "Sentinel-2"
            ),
        ),
        (
            "Satellite imagery,  Ultra-high precision resolution, night ,built-up,"
            "a satellite image of a city with lots of buildings, GF2,   GID",
            PromptParts(
                "Satellite imagery",
                "ultra_high",
                "night",
                "built-up",
                "a satellite image of a city with lots of buildings",
                "GF2",
                "GID",
            ),
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
        (
            "Satellite SAR imagery, Low precision resolution, rough ground, Sentinel-1.",
            PromptParts("Satellite SAR imagery", "low", None, None, "rough ground", "Sentinel-1"),
        ),
        (
            "Near-infrared imagery , ULTRA  HIGH-precision  resolution ,  the sea",
            PromptParts("Near-infrared imagery", "ultra_high", None, None, "the sea"),
        ),
        (
            "aerial image, High precision resolution, an airport, WORLDVIEW02, fMoW",
            PromptParts("aerial image", "high", None, None, "an airport", "WORLDVIEW02", "fMoW"),
        ),
        (
            "Low precision resolution, a port, WHU-OPT-SAR dataset, GF-1",
            PromptParts(None, "low", None, None, "a port", "GF-1", "WHU-OPT-SAR dataset"),
        ),
        (
            "Ultra-low precision resolution, a lake, TG2, MRSSC2.0.",
            PromptParts(None, "ultra_low", None, None, "a lake", "TG2", "MRSSC2.0"),
        ),
        (
            "Satellite imagery, fog, desert, an empty plain",
            PromptParts("Satellite imagery", None, "fog", "desert", "an empty plain"),
        ),
        ("snow, rocks and ice seen from above", PromptParts(caption="snow, rocks and ice seen from above")),
        (
            "High precision resolution, fields, trees, a river",
            PromptParts(None, "high", None, None, "fields, trees, a river"),
        ),
        ("two images, side by side", PromptParts(caption="two images, side by side")),
        ("a ship at sea, seen in fog, at night.", PromptParts(caption="a ship at sea, seen in fog, at night.")),
        ("Low precision resolution, snow.", PromptParts(None, "low", "snow")),
        ("一张卫星图像，显示农田", PromptParts(caption="一张卫星图像，显示农田")),
        ("", PromptParts()),
        (" , ,", PromptParts()),
    ],
)
def test_parts(prompt, parts):
    result = split(prompt)
    assert result == parts, (result, parts)


@given(
    st.text()
    | st.lists(st.sampled_from(["a b", "fog", "GF2", "GID", "High precision resolution", "", " x "])).map(",".join)
)
def test_any_text_is_split_and_the_caption_is_a_piece_of_it(prompt):
    parts = split(prompt)
    assert parts.caption is None or parts.caption in prompt
    for value in (parts.image_kind, parts.category, parts.satellite, parts.dataset):
        assert value is None or value in prompt


def test_a_prompt_is_marked_where_its_parts_stand():
    prompt = "Satellite imagery,  High precision resolution, night ,built-up,a city, seen at night, GF2,   GID."
    assert marked(prompt) == [
        ("image_kind", "Satellite imagery"),
        (None, ",  "),
        ("gsd_level", "High precision resolution"),
        (None, ", "),
        ("weather", "night"),
        (None, " ,"),
        ("category", "built-up"),
        (None, ","),
        ("caption", "a city, seen at night"),
        (None, ", "),
        ("satellite", "GF2"),
        (None, ",   "),
        ("dataset", "GID"),
        (None, "."),
    ]
    assert marked("snow, rocks and ice") == [("caption", "snow, rocks and ice")]


PIECES = ["a b", "fog", "GF2.", "GID", "town", "NIR imagery", "High precision resolution", "", " x ", "a fog"]


@given(st.text() | st.lists(st.sampled_from(PIECES)).map(",".join))
def test_marks_say_what_the_split_says_and_leave_no_letter_out(prompt):
    cut = marked(prompt)
    assert "".join(text for _, text in cut) == prompt
    fields = {name: value for name, value in msgspec.structs.asdict(split(prompt)).items() if value is not None}
    parts = [(role, text) for role, text in cut if role]
    assert sorted(role for role, _ in parts) == sorted(fields)
    for role, text in parts:
        assert role in ("gsd_level", "weather") or text == fields[role]


@pytest.mark.parametrize(
    ("metres", "level"),
    [
        (0.3, "ultra_high"),
        (0.5, "high"),
        (0.99, "high"),
        (1.0, "ordinary"),
        (4.9, "ordinary"),
        (5.0, "low"),
        (10.0, "low"),
        (100.0, "ultra_low"),
        (float("inf"), "ultra_low"),
    ],
)
def test_levels_have_the_bounds_of_the_paper(metres, level):
    assert gsd_level(metres) == level


def test_every_subset_is_known_by_its_name():
    for name in SUBSETS:
        assert split(f"Low precision resolution, a port, GF1, {name}").dataset == name


@given(st.text(max_size=20), st.sampled_from(["", ",", ", ,", "fog", "a ", '"']))
def test_a_very_long_prompt_is_split_in_good_time(piece, between):
    assert split((piece + between) * 20_000).image_kind is None or piece
