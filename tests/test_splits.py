"""The hold-out: whole scenes, drawn by a seed, stated in the card, loadable like the rest."""

from __future__ import annotations

import re
from pathlib import Path

import datasets
import pyarrow.parquet as pq
import pytest
import yaml

from conversion import names
from conversion.options import Options
from mmm_rs_cli import cli
from tests import releases
from tests.conversions import convert, verify

# Names in the patterns of upstream's scripts: what is cut from one source image.
CROPS = ("0_0", "0_1", "1_0", "1_1", "center")
FMOW = ("rgb", "rgb_center", "rgb_left_bottom", "rgb_right_top", "rgb_sr")


def inria_places(city: str) -> list[str]:
    reduced = [f"{size}/resize_512_from_{size}_{city}" for size in (4096, 2048, 1024)]
    return reduced + [f"512/crop_512_{crop}_{city}" for crop in CROPS]


def scenes(count: int) -> dict[str, dict[str, list[str]]]:
    """{subset: {scene: places of its samples}}, `count` scenes of each subset or so."""
    cities = ("austin", "bellingham", "tyrol-w", "vienna")
    categories = ("airport", "ground_transportation_station", "zoo")
    seasons = ("ROIs1158_spring", "ROIs1868_summer", "ROIs1970_fall", "ROIs2017_winter")
    return {
        "WHU-OPT-SAR": {
            f"NH49E{n:06d}": [f"NH49E{n:06d}_{x}_{y}" for x in (0, 512) for y in (0, 512)] for n in range(count)
        },
        "SEN1-2": {
            f"{season}_{n}": [f"{season}_{n}_p{p}" for p in (1, 2, 30)] for season in seasons for n in range(count // 4)
        },
        "Inria": {f"{city}{n}": inria_places(f"{city}{n}") for city in cities for n in range(count // 4)},
        "fMoW": {
            f"{category}_{n}": [f"{category}_{n}_{date}_{kind}" for date in (0, 11) for kind in FMOW]
            for category in categories
            for n in range(count // 3)
        },
        "GID": {
            f"GF2_PMS1__L1A{n:010d}-MSS1": [f"GF2_PMS1__L1A{n:010d}-MSS1_{x}_{y}" for x in (0, 512) for y in (0, 6144)]
            for n in range(count)
        },
        "weather": {f"{n:05d}": [f"{sky}/{n:05d}" for sky in ("fog", "night", "snowy")] for n in range(count)},
        "MRSSC2.0": {f"RGB_farm_farm_{n}": [f"RGB_farm_farm_{n}"] for n in range(count)},
    }


def subset_of_scenes(name: str, by_scene: dict[str, list[str]]) -> releases.Subset:
    """A subset of these samples, each with one image (two where modalities are aligned)."""
    entries = []
    for place in (place for places in by_scene.values() for place in places):
        if name == "SEN1-2":
            season, scene, patch = place.rsplit("_", 2)
            paths = {
                m: f"{folder}/{season}_{token}_{scene}_{patch}.jpg"
                for m, token, folder in (("rgb", "s2", "SEN1-2_RGB"), ("sar", "s1", "SEN1-2_SAR"))
            }
        elif name == "WHU-OPT-SAR":
            paths = {m: f"{m.upper()}_jpg/{place}_{m.upper()}.jpg" for m in ("rgb", "nir")}
        elif name == "weather":
            paths = {"rgb": f"{place}.jpg"}
        else:
            paths = {"rgb": f"{name}_dataset/{place}.jpg"}
        entries += [releases.Entry(place, path, f"Low precision resolution, {place}", m) for m, path in paths.items()]
    return releases.subset(name, {f"MMM-RS_{name}.json": {}}, entries)


@pytest.mark.parametrize("subset", scenes(1))
def test_all_samples_of_a_scene_are_known_as_one_and_no_two_scenes_are(subset):
    by_scene = scenes(24)[subset]
    scene_names = {scene: {names.scene(subset, place) for place in places} for scene, places in by_scene.items()}
    assert all(len(identifiers) == 1 for identifiers in scene_names.values())
    assert len(set.union(*scene_names.values())) == len(by_scene)


@pytest.mark.parametrize(
    ("subset", "first", "second"),
    [
        ("Inria", "512/crop_512_0_1_austin1", "4096/resize_512_from_4096_austin1"),
        ("Inria", "crop_512_center_austin1", "512/crop_512_1_1_austin1"),
        ("fMoW", "airport_3_0_rgb_center", "airport_3_7_rgb_sr"),  # other dates of one location show one place
        ("fMoW", "airport/airport_3/airport_3_0_rgb", "airport_3_0_rgb_left_bottom"),
        ("fMoW", "airport_3_0_msrgb_center", "airport_3_0_rgb_center"),
        ("weather", "fog/town_1", "night/town_1"),
    ],
)
def test_one_scene(subset, first, second):
    assert names.scene(subset, first) == names.scene(subset, second)


@pytest.mark.parametrize(
    ("subset", "first", "second"),
    [
        ("Inria", "512/crop_512_0_0_austin1", "512/crop_512_0_0_austin11"),
        ("SEN1-2", "ROIs1158_spring_1_p1", "ROIs1868_summer_1_p1"),
        ("SEN1-2", "ROIs1158_spring_1_p1", "ROIs1158_spring_11_p1"),
        ("fMoW", "airport_3_0_rgb", "airport_30_0_rgb"),
        ("fMoW", "airport_3_0_rgb", "airport_hangar_3_0_rgb"),
        ("WHU-OPT-SAR", "NH49E001013_0_0", "NH49E001014_0_0"),
        ("TGRS-HRRSD", "00001", "00002"),
    ],
)
def test_two_scenes(subset, first, second):
    assert names.scene(subset, first) != names.scene(subset, second)


# ------------------------------------------------------------------------------------------------ through a conversion


SHARE, SCENES_EACH = 0.25, 48


@pytest.fixture(scope="module")
def described():
    return scenes(SCENES_EACH)


@pytest.fixture(scope="module")
def release(described, tmp_path_factory):
    """All of them, and HRSC2016 with one image: a subset of one scene."""
    subsets = [subset_of_scenes(name, by_scene) for name, by_scene in described.items()]
    subsets.append(subset_of_scenes("HRSC2016", {"100000001": ["100000001"]}))
    return releases.zips_stored(subsets, tmp_path_factory.mktemp("release"))


@pytest.fixture(scope="module")
def out(release, tmp_path_factory):
    folder = tmp_path_factory.mktemp("split") / "out"
    assert cli.main(["convert", str(release), str(folder), "--validation", str(SHARE), "--quiet"]) == 0
    return folder


def split_of(out: Path, subset: str) -> dict[str, str]:
    """{key: split}, by the index."""
    index = pq.read_table(out / "index" / f"{subset}.parquet", columns=["key", "split"]).to_pylist()
    return {row["key"]: row["split"] for row in index}


def sides(out: Path, subset: str, by_scene: dict[str, list[str]]) -> dict[str, set[str]]:
    """{scene: the splits in which its samples are}"""
    split = split_of(out, subset)
    return {scene: {split[releases.key(subset, place)] for place in places} for scene, places in by_scene.items()}


def test_no_scene_is_on_both_sides(out, described):
    for subset, by_scene in described.items():
        by_name = sides(out, subset, by_scene)
        assert all(len(splits) == 1 for splits in by_name.values())
        assert set.union(*by_name.values()) == {"train", "validation"}


def test_the_share_is_about_right_on_many_scenes(out, described):
    drawn = [splits for subset, by_scene in described.items() for splits in sides(out, subset, by_scene).values()]
    held_out = sum(splits == {"validation"} for splits in drawn)
    assert len(drawn) > 300
    assert abs(held_out / len(drawn) - SHARE) < 0.06  # 2.5 standard deviations; it is the same in each run


def test_a_hundredth_of_ten_thousand_scenes():
    from conversion.sharding import is_held_out

    options = Options(validation=0.01)
    assert 70 < sum(is_held_out("fMoW", f"airport_{n}_0_rgb", options) for n in range(10_000)) < 130


def test_the_seed_decides(release, out, described, tmp_path):
    for seed, same in ((0, True), (1, False)):
        other = convert(release, tmp_path / f"seed{seed}", options=Options(validation=SHARE, seed=seed)).out
        for subset in described:
            assert (split_of(other, subset) == split_of(out, subset)) == same


def test_it_is_off_by_default(release, out, tmp_path):
    result = convert(release, tmp_path / "out")
    assert {shard["split"] for shard in result.manifest["shards"]} == {"train"}
    card = (tmp_path / "out" / "README.md").read_text()
    assert "validation" not in re.sub(r"index/<Subset>.*", "", card.split("## Fields")[0])
    for subset in result.manifest["subsets"]:
        assert set(split_of(tmp_path / "out", subset)) == set(split_of(out, subset))


def test_a_subset_of_one_scene_is_not_split(release, tmp_path):
    """Nor is it held out as a whole, whatever the draw."""
    for seed in range(8):
        options = Options(validation=0.5, seed=seed)
        result = convert(release, tmp_path / f"out{seed}", subsets=["HRSC2016"], options=options)
        assert list(result.manifest["subsets"]["HRSC2016"]["splits"]) == ["train"]
        assert [path.name for path in result.out.glob("data/HRSC2016/*")] == ["train-00000-of-00001.tar"]


def test_verification_passes(out, release):
    assert verify(out, release).samples == sum(len(split_of(out, path.stem)) for path in out.glob("index/*.parquet"))
    assert cli.main(["verify", str(out)]) == 0


def card_yaml(out: Path) -> dict:
    return yaml.safe_load((out / "README.md").read_text().split("---\n")[1])


def test_the_card_lists_both_splits_with_their_counts(out, described):
    card = card_yaml(out)
    info = {
        entry["config_name"]: {split["name"]: split["num_examples"] for split in entry["splits"]}
        for entry in card["dataset_info"]
    }
    files = {entry["config_name"]: [split["split"] for split in entry["data_files"]] for entry in card["configs"]}
    total = {"train": 0, "validation": 0}
    for subset in [*described, "HRSC2016"]:
        sides_of_samples = list(split_of(out, subset).values())
        counts = {
            split: sides_of_samples.count(split) for split in ("train", "validation") if split in sides_of_samples
        }
        assert info[subset] == counts and files[subset] == list(counts)
        total = {split: total[split] + counts.get(split, 0) for split in total}
    assert info["all"] == total and files["all"] == list(total)
    assert list(info["HRSC2016"]) == ["train"]


def test_the_card_says_how_the_split_was_made(out):
    text = (out / "README.md").read_text()
    [sentence] = [line for line in text.splitlines() if line.startswith("The `validation` split")]
    for words in ("whole scenes", str(SHARE), "seed 0", "an fMoW location", "`HRSC2016`, which have no such split"):
        assert words in sentence
    count = list(split_of(out, "fMoW").values()).count("validation")
    assert f"`fMoW` {count:,}" in sentence


@pytest.mark.parametrize("config", ["WHU-OPT-SAR", "SEN1-2", "Inria", "fMoW", "weather", "MRSSC2.0", "HRSC2016", "all"])
def test_both_splits_load(config, out):
    subsets = [path.stem for path in out.glob("index/*.parquet")] if config == "all" else [config]
    expected = {key: split for subset in subsets for key, split in split_of(out, subset).items()}
    for split in sorted(set(expected.values())):
        loaded = datasets.load_dataset(str(out), config, split=split, streaming=True)
        keys = [sample["__key__"] for sample in loaded.select_columns("__key__")]
        assert sorted(keys) == sorted(key for key, side in expected.items() if side == split)


def test_a_config_without_the_split_says_so(out):
    with pytest.raises(ValueError, match="validation"):
        datasets.load_dataset(str(out), "HRSC2016", split="validation", streaming=True)


def test_no_shard_is_empty(out):
    rows = [row for path in out.glob("index/*.parquet") for row in pq.read_table(path, columns=["shard"]).to_pylist()]
    assert {row["shard"] for row in rows} == {path.relative_to(out).as_posix() for path in out.glob("data/*/*.tar")}
