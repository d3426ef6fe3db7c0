"""Which samples an export takes: over tables of the index alone."""

from __future__ import annotations

import hashlib
from collections import Counter

import numpy as np
import pyarrow as pa
import pytest

from conversion.errors import UsageError
from conversion.exports.selection import Selection, drawn, matching, satisfying
from mmm_rs import index_schema, labels_of

MODALITIES = ("rgb", "nir", "sar")
SUFFIX = {"rgb": "", "nir": "nir_", "sar": "sar_"}


def index(*rows: dict) -> pa.Table:
    """Rows of an index. `images` names the modalities of each; prompts and labels are given by column."""
    return pa.Table.from_pylist(
        [
            {"key": f"WHU-OPT-SAR/A_{number}_0", "split": "train", "subset": "WHU-OPT-SAR", **row}
            | {f"{modality}_size": 10 for modality in row.get("images", ("rgb",))}
            for number, row in enumerate(rows)
        ],
        schema=index_schema(),
    )


def chosen(rows: pa.Table, selection: Selection, modalities=MODALITIES) -> list[int]:
    return np.flatnonzero(matching(rows, selection, modalities)).tolist()


def test_without_conditions_every_sample_is_taken():
    rows = index({"images": ("rgb",)}, {"images": ("nir", "sar")}, {"images": ("sar",)})
    assert chosen(rows, Selection()) == [0, 1, 2]


def test_a_sample_without_any_of_the_chosen_images_is_left_out():
    rows = index({"images": ("rgb", "sar")}, {"images": ("rgb",)}, {"images": ("nir",)})
    assert chosen(rows, Selection(modalities=("sar",)), ("sar",)) == [0]
    assert chosen(rows, Selection(modalities=("rgb", "sar")), ("rgb", "sar")) == [0, 1]


def test_complete_asks_for_an_image_of_each_chosen_modality():
    rows = index({"images": ("rgb", "sar")}, {"images": ("rgb",)}, {"images": MODALITIES})
    assert chosen(rows, Selection(modalities=("rgb", "sar"), complete=True), ("rgb", "sar")) == [0, 2]
    assert chosen(rows, Selection(complete=True)) == [2]


def test_a_subset_that_lacks_a_chosen_modality_has_no_complete_samples():
    rows = index({"images": ("rgb",)})
    assert chosen(rows, Selection(modalities=("rgb", "sar")), ("rgb",)) == [0]
    assert chosen(rows, Selection(modalities=("rgb", "sar"), complete=True), ("rgb",)) == []
    assert chosen(rows, Selection(modalities=("sar",)), ()) == []


@pytest.mark.parametrize(
    ("selection", "expected"),
    [
        ({"gsd_levels": ("low",)}, [0, 3]),
        ({"gsd_levels": ("low", "high")}, [0, 1, 3]),
        ({"weathers": ("fog",)}, [0, 1]),
        ({"categories": ("port",)}, [1]),
        ({"satellites": ("GF2",), "weathers": ("fog",)}, [1]),
        ({"satellites": ("GF2",), "weathers": ("night",)}, []),
    ],
)
def test_values_of_one_label_are_alternatives_and_labels_add_up(selection, expected):
    rows = index(
        {"gsd_level": "low", "weather": "fog"},
        {"gsd_level": "high", "weather": "fog", "category": "port", "satellite": "GF2"},
        {},
        {"gsd_level": "low", "satellite": "GF2"},
    )
    assert chosen(rows, Selection(**selection)) == expected


def test_each_text_must_be_in_a_prompt_of_an_image_that_is_taken():
    rows = index(
        {"prompt": "A River in fog", "images": ("rgb", "sar"), "sar_prompt": "radar of water"},
        {"prompt": "a river", "images": ("rgb",)},
        {"prompt": None, "images": ("rgb",)},
        {"prompt": "100% of (a) river", "images": ("rgb",)},
    )
    assert chosen(rows, Selection(contains="river")) == [0, 1, 3]
    assert chosen(rows, Selection(contains=("RIVER", "fog"))) == [0]
    assert chosen(rows, Selection(contains=("river", "radar"))) == [0]
    assert chosen(rows, Selection(contains=("river", "radar"), modalities=("rgb",)), ("rgb",)) == []
    assert chosen(rows, Selection(contains="% of (a)")) == [3]


def test_keys_are_compared_whole():
    rows = index({}, {}, {"key": "WHU-OPT-SAR/A_1_0_1"})
    assert chosen(rows, Selection(keys=("WHU-OPT-SAR/A_1_0",))) == [1]


def test_labels_describe_the_first_chosen_modality_that_a_sample_has():
    rows = index(
        {"images": ("rgb", "sar"), "satellite": "Sentinel-2", "sar_satellite": "Sentinel-1"},
        {"images": ("sar",), "satellite": "Sentinel-1", "sar_satellite": "Sentinel-1"},
        {"images": ("rgb",), "satellite": "GF2"},
    )
    assert labels_of(rows, MODALITIES)["satellite"].to_pylist() == ["Sentinel-2", "Sentinel-1", "GF2"]
    assert labels_of(rows, ("sar",))["satellite"].to_pylist() == ["Sentinel-1", "Sentinel-1", None]
    assert chosen(rows, Selection(satellites=("Sentinel-1",))) == [1]
    assert chosen(rows, Selection(satellites=("Sentinel-1",), modalities=("sar",)), ("sar",)) == [0, 1]


def test_where_is_sql_over_the_columns_of_the_index():
    pytest.importorskip("duckdb")
    rows = index({"gsd": 0.5, "category": "it's"}, {"gsd": 5.0}, {"gsd": None}, {"gsd": 10.0})
    assert np.flatnonzero(satisfying(rows, "gsd >= 5")).tolist() == [1, 3]
    assert np.flatnonzero(satisfying(rows, "category = 'it''s' -- a comment")).tolist() == [0]
    assert np.flatnonzero(satisfying(rows, "gsd = (SELECT max(gsd) FROM index)")).tolist() == [3]


@pytest.mark.parametrize("where", ["gsd >", "nothing = 1", "gsd > 1) OR (", "random() < 0.5", "key"])
def test_a_condition_that_cannot_be_used_is_quoted_in_one_line(where):
    pytest.importorskip("duckdb")
    with pytest.raises(UsageError) as refused:
        satisfying(index(*({"gsd": 1.0} for _ in range(64))), where)
    assert f"--where {where}: " in str(refused.value) and "\n" not in str(refused.value)


# ------------------------------------------------------------------------------------------------------------ the draw


def scenes() -> tuple[list[str], list[str]]:
    """Keys of three SEN1-2 scenes of 600, 300 and 100 patches, and of 200 samples that are a scene each."""
    keys = [
        f"SEN1-2/ROIs1158_spring_{scene}_p{patch}"
        for scene, size in ((1, 600), (2, 300), (3, 100))
        for patch in range(size)
    ]
    keys += [f"HRSC2016/{number}" for number in range(200)]
    return keys, [key.split("/")[0] for key in keys]


def scene_of(key: str) -> str:
    return key.rsplit("_p", 1)[0] if key.startswith("SEN1-2") else "HRSC2016"


def draw(**selection) -> list[str]:
    keys, subsets = scenes()
    return [key for key, keep in zip(keys, drawn(keys, subsets, Selection(**selection)), strict=True) if keep]


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("share", [0.01, 0.05, 0.5, 1.0])
def test_a_share_takes_its_part_of_every_subset_and_scene(share, seed):
    taken = draw(share=share, seed=seed)
    assert len(taken) == round(share * 1200)
    count = Counter(map(scene_of, taken))
    for scene, size in Counter(map(scene_of, scenes()[0])).items():
        assert abs(count[scene] - share * size) <= 2


def test_a_limit_is_exact_and_a_smaller_draw_is_a_part_of_a_larger_one():
    draws = [set(draw(limit=limit)) for limit in (1, 10, 100, 1200)]
    assert [len(keys) for keys in draws] == [1, 10, 100, 1200]
    assert draws[0] < draws[1] < draws[2] < draws[3]
    assert set(draw(limit=5000)) == draws[3]
    assert set(draw(limit=10, share=0.5)) == draws[1]


def test_the_samples_of_one_scene_are_drawn_over_its_whole_length():
    taken = [int(key.rsplit("_p", 1)[1]) for key in draw(share=0.1) if scene_of(key) == "SEN1-2/ROIs1158_spring_1"]
    assert sum(patch < 300 for patch in taken) in range(15, 46)


def test_another_seed_draws_other_samples_and_the_same_seed_the_same():
    assert draw(limit=50, seed=3) == draw(limit=50, seed=3) != draw(limit=50, seed=4)


def test_the_draw_does_not_depend_on_the_order_of_the_samples():
    keys, subsets = scenes()
    backwards = drawn(keys[::-1], subsets[::-1], Selection(limit=30))
    assert {key for key, keep in zip(keys[::-1], backwards, strict=True) if keep} == set(draw(limit=30))


def test_a_share_of_few_samples_is_at_least_one_and_of_none_none():
    assert drawn(["GID/a"], ["GID"], Selection(share=0.01)).tolist() == [True]
    assert drawn([], [], Selection(share=0.01)).tolist() == []


# ------------------------------------------------------------------------------------------------------- what is asked


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"configs": ("SEN12",)}, "no such subset"),
        ({"configs": ()}, "--config"),
        ({"modalities": ("radar",)}, "modalities"),
        ({"gsd_levels": ("fine",)}, r"--gsd-level fine: .*ultra_high"),
        ({"weathers": ("rain",)}, r"--weather rain: .*fog"),
        ({"limit": 0}, "--limit 0"),
        ({"share": 0.0}, "--share"),
        ({"share": 5}, "--share 5"),
        ({"seed": 10**70}, "--seed"),
    ],
)
def test_what_cannot_be_selected_is_refused_by_its_option(arguments, words):
    with pytest.raises(UsageError, match=words):
        Selection(**arguments)


def test_the_record_holds_what_narrows_the_selection_and_nothing_else():
    assert Selection(seed=7).record() == {}
    selection = Selection(configs="SEN1-2", modalities=["rgb", "sar"], complete=True, limit=3, seed=7, keys=["b", "a"])
    digest = hashlib.sha256(b"a\nb\n").hexdigest()
    assert selection.record() == {
        "configs": ["SEN1-2"],
        "modalities": ["rgb", "sar"],
        "complete": True,
        "limit": 3,
        "seed": 7,
        "keys": {"count": 2, "sha256": digest},
    }
