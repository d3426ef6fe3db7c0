"""Every door to a converted folder gives what `tarfile` finds in its shards, on the installed version of `datasets`.

`.ci/matrix` runs this file on the other versions, each in an environment of its own.
"""

from __future__ import annotations

import io
import json
import shutil
import tarfile
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import datasets
import PIL.Image
import pyarrow.parquet as pq
import pytest

import mmm_rs
from conversion.options import Options
from tests import releases
from tests.conversions import convert

ROOT = Path(__file__).parents[1]
HAS_SCRIPTS = int(datasets.__version__.split(".")[0]) < 4
CONFIGS = [*releases.NAMES, "all"]
MODALITIES = {"WHU-OPT-SAR": ("rgb", "nir", "sar"), "SEN1-2": ("rgb", "sar"), "all": ("rgb", "nir", "sar")}
SUFFIX = {"rgb": "", "nir": "nir.", "sar": "sar."}
PROMPT = {"rgb": "prompt", "nir": "nir_prompt", "sar": "sar_prompt"}
LEVELS = ["ultra_high", "high", "ordinary", "low", "ultra_low"]
WEATHERS = ["fog", "night", "snow"]


@pytest.fixture(scope="module")
def out(release, tmp_path_factory) -> Path:
    """All ten subsets; images without a record are published with a null prompt."""
    folder = tmp_path_factory.mktemp("doors") / "MMM-RS"
    convert(release.path, folder, options=Options(keep_unprompted=True))
    return folder


# ---------------------------------------------------------------------------------------------------------- the truth


def stored(out: Path, config: str, split: str = "train", order: Iterable[str] = mmm_rs.SUBSETS) -> list[dict[str, Any]]:
    """The samples of a config in the order of its shards: `__key__`, and a member's bytes by its suffix.

    `order`: of the subsets of `all`.
    """
    samples: dict[str, dict[str, Any]] = {}
    for subset in order if config == "all" else [config]:
        for shard in sorted((out / "data" / subset).glob(f"{split}-*.tar")):
            with tarfile.open(shard, "r:") as tar:
                for member in tar:
                    key, _, suffix = member.name.partition(".")
                    samples.setdefault(key, {"__key__": key})[suffix] = tar.extractfile(member).read()
    return list(samples.values())


def pixels(image: PIL.Image.Image | None) -> tuple | None:
    return None if image is None else (image.mode, image.size, image.tobytes())


def stored_pixels(sample: dict[str, Any], modality: str) -> tuple | None:
    data = sample.get(SUFFIX[modality] + "jpg")
    return None if data is None else pixels(PIL.Image.open(io.BytesIO(data)))


def stored_text(sample: dict[str, Any], modality: str) -> str | None:
    data = sample.get(SUFFIX[modality] + "txt")
    return None if data is None else data.decode()


def rows_without_code(out: Path, config: str, split: str = "train") -> list[dict[str, Any]]:
    """What the first door is to give: its config `all` has one pattern, so its subsets come in the order of names."""
    rows = []
    for sample in stored(out, config, split, sorted(mmm_rs.SUBSETS)):
        row = {"__key__": sample["__key__"], "json": json.loads(sample["json"])}
        for modality in MODALITIES.get(config, ("rgb",)):
            row[SUFFIX[modality] + "jpg"] = stored_pixels(sample, modality)
            row[SUFFIX[modality] + "txt"] = stored_text(sample, modality)
        rows.append(row)
    return rows


def rows_of_the_builder(out: Path, config: str, split: str = "train") -> list[dict[str, Any]]:
    """What the builder is to give."""
    rows = []
    for sample in stored(out, config, split):
        modalities = MODALITIES.get(config, ("rgb",))
        row = json.loads(sample["json"]) | {"key": sample["__key__"]}
        del row["source"], row["labels"]  # of all modalities the single fields describe the first
        row["weather"] = None if row["weather"] is None else WEATHERS.index(row["weather"])
        row["gsd_level"] = None if row["gsd_level"] is None else LEVELS.index(row["gsd_level"])
        for modality in modalities:
            row[modality] = stored_pixels(sample, modality)
            row[PROMPT[modality]] = stored_text(sample, modality)
        rows.append(row)
    return rows


def rows_of_the_index(out: Path, config: str, split: str = "train") -> list[dict[str, Any]]:
    """What the index is to say: keys, prompts, and where bytes lie that are the image."""
    return [
        {"key": sample["__key__"]}
        | {PROMPT[modality]: stored_text(sample, modality) for modality in PROMPT}
        | {modality: sample.get(SUFFIX[modality] + "jpg") for modality in PROMPT}
        for sample in stored(out, config, split)
    ]


# ---------------------------------------------------------------------------------------------------------- the doors


def plain(rows: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Rows with images as their pixels, without the shard's address."""
    return [
        {
            name: pixels(value) if isinstance(value, PIL.Image.Image) else value
            for name, value in row.items()
            if name != "__url__"
        }
        for row in rows
    ]


def without_code(out: Path, config: str, streaming: bool, split: str = "train") -> list[dict[str, Any]]:
    return plain(datasets.load_dataset(str(out), config, split=split, streaming=streaming))


def by_builder(out: Path, config: str, streaming: bool, split: str = "train") -> list[dict[str, Any]]:
    return plain(mmm_rs.load_dataset(config, str(out), split=split, streaming=streaming))


def by_script(out: Path, config: str, streaming: bool, split: str = "train", script: Path = ROOT / "mmm_rs.py") -> list:
    return plain(
        datasets.load_dataset(
            str(script), config, data_dir=str(out), split=split, streaming=streaming, trust_remote_code=True
        )
    )


def by_index(out: Path, config: str, streaming: bool, split: str = "train") -> list[dict[str, Any]]:
    files = [out / "index" / f"{name}.parquet" for name in (mmm_rs.SUBSETS if config == "all" else [config])]
    files = [str(file) for file in files if file.exists()]
    rows = []
    for row in datasets.load_dataset("parquet", data_files=files, split="train", streaming=streaming):
        if row["split"] == split:
            shard = (out / row["shard"]).read_bytes()
            rows.append({"key": row["key"], **{PROMPT[m]: row[PROMPT[m]] for m in PROMPT}})
            for m in PROMPT:
                offset, size = row[f"{m}_offset"], row[f"{m}_size"]
                rows[-1][m] = None if offset is None else shard[offset : offset + size]
    return rows


DOORS: dict[str, tuple[Callable, Callable]] = {
    "no code": (without_code, rows_without_code),
    "builder": (by_builder, rows_of_the_builder),
    "index": (by_index, rows_of_the_index),
}
if HAS_SCRIPTS:
    DOORS["script"] = (by_script, rows_of_the_builder)


@pytest.mark.parametrize("streaming", [True, False], ids=["streaming", "whole"])
@pytest.mark.parametrize("config", CONFIGS)
@pytest.mark.parametrize("door", DOORS)
def test_a_door_gives_what_the_shards_hold(out, door, config, streaming):
    load, expected = DOORS[door]
    rows = load(out, config, streaming)
    assert rows == expected(out, config)
    assert len(rows) == len({row.get("key", row.get("__key__")) for row in rows}) > 0


def test_the_shards_hold_what_makes_that_a_test(out, release):
    """A modality and a prompt that are missing, labels that are known and unknown, everything that was released."""
    every = rows_of_the_builder(out, "all")
    assert sum(len(subset.samples) + len(subset.unmatched_images) for subset in release.subsets) == len(every)
    assert any(row["sar"] is None for row in every if row["subset"] == "WHU-OPT-SAR")
    assert any(row["rgb"] is not None and row["prompt"] is None for row in every)
    assert {row["weather"] for row in every} == {None, 0, 1, 2}
    assert {row["gsd_level"] for row in every} == {None, 0, 1, 2, 3, 4}
    assert {row["subset"] for row in every} == set(releases.NAMES)


@pytest.mark.parametrize("config", CONFIGS)
def test_columns_and_splits_are_known_before_anything_is_read(out, config):
    streamed = datasets.load_dataset(str(out), config, split="train", streaming=True)
    assert streamed.features == mmm_rs.wds_features(config)
    count = len(stored(out, config))
    assert datasets.load_dataset_builder(str(out), config).info.splits["train"].num_examples == count
    streams = mmm_rs.load_dataset(config, str(out), streaming=True)
    assert streams.features == mmm_rs.features(config)
    assert streams.features["gsd_level"].names == LEVELS and streams.features["weather"].names == WEATHERS


def test_all_configs_are_listed_for_whoever_asks(out):
    assert datasets.get_dataset_config_names(str(out)) == ["all", *releases.NAMES]
    assert datasets.get_dataset_split_names(str(out), "Inria") == ["train"]


def test_the_index_loads_by_one_pattern(out):
    rows = datasets.load_dataset("parquet", data_files=str(out / "index" / "*.parquet"), split="train")
    assert {row["key"] for row in rows} == {sample["__key__"] for sample in stored(out, "all")}


@pytest.mark.skipif(not HAS_SCRIPTS, reason="this version of datasets knows no loading scripts")
@pytest.mark.parametrize("streaming", [True, False], ids=["streaming", "whole"])
def test_the_script_beside_the_data_is_the_same(out, streaming):
    assert (out / "mmm_rs.py").read_bytes() == (ROOT / "mmm_rs.py").read_bytes()
    assert by_script(out, "Inria", streaming, script=out / "mmm_rs.py") == rows_of_the_builder(out, "Inria")


@pytest.mark.skipif(HAS_SCRIPTS, reason="this version of datasets runs loading scripts")
def test_where_scripts_are_gone_datasets_says_so(out):
    with pytest.raises(RuntimeError, match="scripts are no longer supported"):
        datasets.load_dataset(str(out / "mmm_rs.py"), "Inria", data_dir=str(out))


def test_a_shuffled_stream_has_the_same_rows_in_another_order_each_epoch(out):
    expected = rows_of_the_builder(out, "all")
    stream = mmm_rs.load_dataset("all", str(out), streaming=True).shuffle(seed=0, buffer_size=8)
    orders = []
    for epoch in (0, 1, 0):
        stream.set_epoch(epoch)
        rows = plain(stream)
        orders.append([row["key"] for row in rows])
        assert sorted(rows, key=lambda row: row["key"]) == sorted(expected, key=lambda row: row["key"])
    assert orders[0] == orders[2] != orders[1]


# -------------------------------------------------------------------------------------------------------------- splits


def test_a_validation_split_where_there_is_one(clean_release, tmp_path):
    out = tmp_path / "MMM-RS"
    manifest = convert(clean_release.path, out, options=Options(validation=0.4, seed=2)).manifest
    held_out = {
        name for name, totals in manifest["subsets"].items() if {"train", "validation"} <= totals["splits"].keys()
    }
    for config in ("WHU-OPT-SAR", "all"):
        assert config in {*held_out, "all"}
        for door, (load, expected) in DOORS.items():
            for streaming in (True, False):
                for split in ("train", "validation"):
                    rows = load(out, config, streaming, split)
                    assert rows and rows == expected(out, config, split), (door, config, split)
    both = datasets.load_dataset(str(out), "all")
    assert {split: len(rows) for split, rows in both.items()} == {
        split: len(stored(out, "all", split)) for split in ("train", "validation")
    }
    assert mmm_rs.load_dataset("all", str(out), split=None).keys() == both.keys()


# -------------------------------------------------------------------------------------------------------------- counts


@pytest.fixture
def short(out, tmp_path) -> Path:
    """A copy of the folder in which a shard ends one sample early, at a member's boundary."""
    copy = Path(shutil.copytree(out, tmp_path / "MMM-RS"))
    shard = min((copy / "data" / "WHU-OPT-SAR").iterdir())
    with tarfile.open(shard, "r:") as tar:
        members = [(member, tar.extractfile(member).read()) for member in tar]
    keys = [member.name.partition(".")[0] for member, _ in members]
    with tarfile.open(shard, "w", format=tarfile.USTAR_FORMAT) as tar:
        for key, (member, data) in zip(keys, members, strict=True):
            if key != keys[-1]:
                tar.addfile(member, io.BytesIO(data))
    return copy


@pytest.mark.parametrize("config", ["WHU-OPT-SAR", "all"])
def test_without_code_a_missing_sample_is_an_error_when_loaded_whole(short, config):
    with pytest.raises(Exception) as error:
        without_code(short, config, streaming=False)
    assert type(error.value).__name__ == "NonMatchingSplitsSizesError"


@pytest.mark.parametrize("streaming", [True, False], ids=["streaming", "whole"])
def test_the_builder_names_the_shard_that_is_short(short, streaming):
    with pytest.raises(mmm_rs.ReadError, match=r"data/WHU-OPT-SAR/train-00000-of-\d{5}\.tar: has \d+ bytes"):
        by_builder(short, "WHU-OPT-SAR", streaming)


# -------------------------------------------------------------------------------------------------------------- caches


def another_image(subsets: list[releases.Subset]) -> list[releases.Subset]:
    """The same names, but the pixels of one image of each subset are another's."""
    changed = []
    for subset in subsets:
        path, other = sorted(subset.images)[:2]
        changed.append(replace(subset, files=subset.files | {path: subset.files[other]}))
    return changed


@pytest.mark.parametrize("change", ["another seed", "another image"])
def test_a_folder_converted_again_is_never_served_from_an_old_cache(clean_release, tmp_path, change):
    chosen, configs = ["SEN1-2", "Inria"], ["SEN1-2", "all"]
    subsets = [subset for subset in clean_release.subsets if subset.name in chosen]
    out = tmp_path / "MMM-RS"
    convert(releases.zips_stored(subsets, tmp_path / "before"), out)
    before = {config: [row["__key__"] for row in stored(out, config)] for config in configs}
    for load, expected in DOORS.values():  # each door leaves its cache
        for config in configs:
            for streaming in (True, False):
                assert load(out, config, streaming) == expected(out, config)

    seed = 7 if change == "another seed" else 0
    subsets = subsets if change == "another seed" else another_image(subsets)
    convert(releases.zips_stored(subsets, tmp_path / "after"), out, options=Options(seed=seed), overwrite=True)
    after = {config: [row["__key__"] for row in stored(out, config)] for config in configs}
    assert (before == after) == (change == "another image")
    for door, (load, expected) in DOORS.items():
        for config in configs:
            for streaming in (True, False):
                assert load(out, config, streaming) == expected(out, config), (door, config, streaming)


@pytest.mark.parametrize("streaming", [True, False], ids=["streaming", "whole"])
def test_what_is_chosen_has_a_cache_of_its_own(out, streaming):
    def keys(**chosen: Any) -> list[str]:
        return [row["key"] for row in mmm_rs.load_dataset("all", str(out), streaming=streaming, **chosen)]

    every = rows_of_the_builder(out, "all")
    for _ in range(2):
        assert keys() == [row["key"] for row in every]
        for number, level in enumerate(LEVELS):
            matching = [row["key"] for row in every if row["gsd_level"] == number]
            assert keys(filters=[("gsd_level", "==", level)]) == matching
        field = [row["key"] for row in every if any("field" in (row[name] or "").lower() for name in PROMPT.values())]
        assert keys(contains="field") == field and 0 < len(field) < len(every)
    columns = mmm_rs.load_dataset("all", str(out), streaming=streaming, modalities=["sar"]).features
    assert "sar" in columns and "rgb" not in columns and "nir_prompt" not in columns


@pytest.mark.parametrize("streaming", [True, False], ids=["streaming", "whole"])
def test_undecoded_images_are_the_members_bytes(out, streaming):
    rows = mmm_rs.load_dataset("SEN1-2", str(out), streaming=streaming, decode=False)
    assert [row["sar"] and row["sar"]["bytes"] for row in rows] == [
        sample.get("sar.jpg") for sample in stored(out, "SEN1-2")
    ]
    assert pq.read_metadata(out / "index" / "SEN1-2.parquet").num_rows == len(stored(out, "SEN1-2"))
