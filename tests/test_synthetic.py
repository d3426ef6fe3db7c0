"""The synthetic release of the demo: upstream's layout, views that are aligned, and a truth that is true."""

from __future__ import annotations

import io
import json
import re
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mmm_rs_cli.demo import scenes
from mmm_rs_cli.demo.synthetic import SyntheticRelease, write_release
from tests import releases

SIZE = 64


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> SyntheticRelease:
    return write_release(tmp_path_factory.mktemp("synthetic"), scenes=2, size=SIZE)


def contents(path: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(path) as archive:
        assert archive.testzip() is None
        return {name: archive.read(name) for name in archive.namelist() if not name.endswith("/")}


def records(files: dict[str, bytes]) -> list[tuple[str, str]]:
    """(image path, prompt) of all annotation files, whichever form they have."""
    pairs = []
    for data in (data for name, data in files.items() if releases.is_annotation(name)):
        text = data.decode()
        try:
            value = json.loads(text)
        except json.JSONDecodeError:
            value = [json.loads(line) for line in text.splitlines()]
        if isinstance(value, dict) and all(isinstance(entry, dict) for entry in value.values()):
            value = value.get("data") or [{"image": path, **fields} for path, fields in value.items()]
        if isinstance(value, dict):
            value = next(entry for entry in value.values() if isinstance(entry, list))
        pairs += [tuple(list(record.values())[:2]) for record in value]
    return pairs


def test_one_zip_for_each_of_the_ten_subsets(written):
    assert sorted(path.name for path in written.path.iterdir()) == sorted(f"{name}.zip" for name in releases.NAMES)
    assert written.path.name == "MMM-RS"
    assert set(written.subsets) == set(releases.NAMES)


def test_annotations_lie_beside_the_image_folders(written):
    weather = contents(written.path / "weather.zip")
    assert {name.split("/")[0] for name in weather if not name.endswith(".json")} == {"fog", "night", "snowy"}
    assert {f"MMM-RS_{scene}_cleaned.json" for scene in ("fog", "night", "snowy")} < set(weather)
    for name in set(releases.NAMES) - {"weather"}:
        files = contents(written.path / f"{name}.zip")
        assert f"MMM-RS_{name}.json" in files
        assert {path.split("/")[0] for path in files if not path.endswith(".json")} == {f"{name}_dataset"}


@pytest.mark.parametrize("name", releases.NAMES)
def test_the_truth_is_what_the_zip_holds(written, name):
    truth = written.subsets[name]
    files = contents(written.path / f"{name}.zip")
    images = {path for path in files if not releases.is_annotation(path)}
    listed = records(files)
    assert images == set(truth.images)
    assert len(listed) == truth.records
    pairs = {pair for modalities in truth.samples.values() for pair in modalities.values()}
    assert pairs == {(path, prompt) for path, prompt in listed if path in images}
    assert set(truth.unmatched_images) == images - {path for path, _ in listed}
    assert set(truth.unmatched_records) == {path for path, _ in listed} - images
    assert truth.pairs == len(pairs)


def test_what_does_not_match_is_there_on_purpose(written):
    subsets = written.subsets.values()
    assert sum(len(subset.unmatched_images) for subset in subsets) >= 3
    assert sum(len(subset.unmatched_records) for subset in subsets) >= 3
    assert contents(written.path / "weather.zip")["MMM-RS_night.json"] == b"[]"
    for name, modalities in (("WHU-OPT-SAR", {"rgb", "nir", "sar"}), ("SEN1-2", {"rgb", "sar"})):
        samples = [set(sample) for sample in written.subsets[name].samples.values()]
        assert samples.count(modalities - {"sar"}) == 1
        assert samples.count(modalities) == len(samples) - 1


def test_all_images_but_one_have_the_same_size(written):
    sizes = [
        Image.open(io.BytesIO(data)).size
        for name in releases.NAMES
        for path, data in contents(written.path / f"{name}.zip").items()
        if path.endswith(".jpg")
    ]
    assert sum(size != (SIZE, SIZE) for size in sizes) == 2  # a failed super-resolution, and its neighbour unrecorded
    assert len(sizes) > 40


@pytest.mark.parametrize("name", ["WHU-OPT-SAR", "SEN1-2"])
def test_nir_and_sar_have_three_equal_channels(written, name):
    files = contents(written.path / f"{name}.zip")
    checked = 0
    for sample in written.subsets[name].samples.values():
        for modality in {"nir", "sar"} & set(sample):
            pixels = np.asarray(Image.open(io.BytesIO(files[sample[modality][0]])))
            assert pixels.shape == (SIZE, SIZE, 3)
            assert (np.ptp(pixels.astype(int), axis=-1) <= 2).all()
            checked += 1
    assert checked


def test_names_follow_upstreams_patterns(written):
    patterns = {
        "Inria": r"Inria_dataset/(resize_512_from_1024|crop_512_(\d+_\d+|center))_[a-z-]+\d\.jpg",
        "fMoW": r"fMoW_dataset/.+_\d+_\d+_rgb_(center|left_bottom|right_top|sr)\.jpg",
        "WHU-OPT-SAR": r"WHU-OPT-SAR_dataset/(RGB_jpg|NIR_jpg|sar_jpg)/N[HI]\d\dE\d{6}_\d+_\d+_(RGB|NIR|SAR)\.jpg",
        "SEN1-2": r"SEN1-2_dataset/SEN1-2_(RGB|SAR)/ROIs\d{4}_(spring|summer|fall|winter)_s[12]_\d+_p\d+\.jpg",
        "MRSSC2.0": r"MRSSC2\.0_dataset/RGB_([A-Za-z]+)_\1_\d+\.jpg",
    }
    for name, pattern in patterns.items():
        for path in written.subsets[name].images:
            assert re.fullmatch(pattern, path), path


def test_the_same_arguments_give_the_same_bytes(written, tmp_path):
    again = write_release(tmp_path / "again", scenes=2, size=SIZE)
    other = write_release(tmp_path / "other", scenes=2, size=SIZE, seed=1)
    for name in releases.NAMES:
        data = (written.path / f"{name}.zip").read_bytes()
        assert (again.path / f"{name}.zip").read_bytes() == data
        assert (other.path / f"{name}.zip").read_bytes() != data


def test_the_views_of_a_scene_show_the_same_place():
    def shore(ground: scenes.Ground) -> None:
        ground.fill("crop")
        ground.polygon([(0, 0), (64, 0), (64, 128), (0, 128)], "water")
        ground.box((96, 64), 30, 30, 0, "white_roof")

    view = scenes.scene(128, np.random.default_rng(0), shore)
    water, field, house = (np.s_[4:124, 4:60], np.s_[4:40, 70:124], np.s_[56:72, 88:104])
    assert view.nir[water].mean() < 40 < 150 < view.nir[field].mean()
    assert view.sar[water].mean() < view.sar[field].mean() < view.sar[house].mean()
    assert view.rgb[water][..., 2].mean() > view.rgb[water][..., 0].mean()
    assert view.rgb[field][..., 1].mean() > view.rgb[field][..., 2].mean()
    part = view.cut(64, 32, 16)
    assert np.array_equal(part.sar, view.sar[32:48, 64:80])


@pytest.mark.parametrize("weather", ["fog", "night", "snow"])
def test_weather_changes_the_light(weather):
    def view(kind: str | None) -> np.ndarray:
        return scenes.scene(64, np.random.default_rng(0), lambda g: scenes.farmland(g, 16), kind, aligned=False).rgb

    difference = view(weather).mean() - view(None).mean()
    assert difference < -30 if weather == "night" else difference > 30
