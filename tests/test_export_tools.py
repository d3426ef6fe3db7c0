"""Exports as training scripts of others read them: the same calls of `datasets`, the same steps on columns and files.

The scripts themselves need models; what they do with a dataset is done here in their order.
"""

from __future__ import annotations

import io
import json
import os
import re
import shlex
import subprocess
import sys
from glob import escape, glob
from pathlib import Path

import datasets
import numpy as np
import PIL.Image
import pytest

from mmm_rs_cli import cli
from mmm_rs_cli.demo.synthetic import write_release
from tests.conversions import convert
from tests.test_export import stored

RECIPES = (Path(__file__).parents[1] / "docs/recipes.md").read_text()


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """A folder with the converted demo release as MMM-RS-hub, and what the recipes export from it."""
    place = tmp_path_factory.mktemp("tools")
    convert(write_release(place / "demo", size=64).path, place / "MMM-RS-hub")
    before = Path.cwd()
    os.chdir(place)
    try:
        for words in exports():
            assert cli.main([*words, "--quiet"]) == 0
    finally:
        os.chdir(before)
    return place


def exports() -> list[list[str]]:
    """The words of every export from MMM-RS-hub in the recipes."""
    lines = re.findall(r"^mmm-rs (export MMM-RS-hub .*)$", RECIPES.replace("\\\n", " "), re.M)
    return [shlex.split(line) for line in lines]


def arguments(script: str) -> dict[str, str]:
    """The options that a recipe gives a script of diffusers."""
    command = re.search(rf"^accelerate launch {script} (.*) \.\.\.$", RECIPES.replace("\\\n", " "), re.M)
    words = shlex.split(command[1])
    return dict(zip([word.removeprefix("--") for word in words[::2]], words[1::2], strict=True))


def pixels(image: PIL.Image.Image | bytes) -> np.ndarray:
    """Resized, channels first, from -1 to 1, as these scripts make of an image."""
    image = PIL.Image.open(io.BytesIO(image)) if isinstance(image, bytes) else image
    array = np.asarray(image.convert("RGB").resize((16, 16)), np.float32)
    return array.transpose(2, 0, 1) / 127.5 - 1


def pairs(place: Path) -> dict[str, dict[str, bytes]]:
    samples = stored(place / "MMM-RS-hub")
    return {
        key: members
        for key, members in samples.items()
        if key.startswith("SEN1-2/") and {"jpg", "sar.jpg"} <= set(members)
    }


def test_train_controlnet(place, monkeypatch):
    monkeypatch.chdir(place)
    given = arguments("train_controlnet.py")
    dataset = datasets.load_dataset(given["dataset_name"], None, cache_dir=None)
    image, caption, conditioning = (given[f"{name}_column"] for name in ("image", "caption", "conditioning_image"))
    assert {image, caption, conditioning} <= set(dataset["train"].column_names)

    def preprocess_train(examples):
        assert all(isinstance(text, str) for text in examples[caption])  # otherwise the script stops
        examples["pixel_values"] = [pixels(data) for data in examples[image]]
        examples["conditioning_pixel_values"] = [pixels(data) for data in examples[conditioning]]
        examples["input_ids"] = examples[caption]
        return examples

    train = dataset["train"].with_transform(preprocess_train)
    expected = pairs(place)
    assert len(train) == len(expected) > 0
    for row in (train[number] for number in range(len(train))):
        sample = expected[row["key"]]
        assert np.array_equal(row["pixel_values"], pixels(sample["sar.jpg"]))
        assert np.array_equal(row["conditioning_pixel_values"], pixels(sample["jpg"]))
        assert row["input_ids"] == sample["sar.txt"].decode()


def test_train_instruct_pix2pix(place, monkeypatch):
    monkeypatch.chdir(place)
    given = arguments("train_instruct_pix2pix.py")
    dataset = datasets.load_dataset(given["dataset_name"], None, cache_dir=None)
    names = [given[f"{name}_column"] for name in ("original_image", "edit_prompt", "edited_image")]
    original, prompt, edited = names
    assert set(names) <= set(dataset["train"].column_names)

    def preprocess_images(examples):
        both = [
            np.stack([np.array(image.convert("RGB").resize((16, 16))).transpose(2, 0, 1) for image in examples[name]])
            for name in (original, edited)
        ]
        return 2 * (np.stack(both) / 255) - 1

    def preprocess_train(examples):
        images = preprocess_images(examples)
        examples["original_pixel_values"], examples["edited_pixel_values"] = images
        examples["input_ids"] = list(examples[prompt])
        return examples

    train = dataset["train"].shuffle(seed=3).with_transform(preprocess_train)
    batch = train[: len(train)]
    expected = pairs(place)
    assert sorted(batch["key"]) == sorted(expected)
    for number, key in enumerate(batch["key"]):
        assert np.allclose(batch["original_pixel_values"][number], pixels(expected[key]["jpg"]), atol=1e-5)
        assert np.allclose(batch["edited_pixel_values"][number], pixels(expected[key]["sar.jpg"]), atol=1e-5)
        assert batch["input_ids"][number] == expected[key]["sar.txt"].decode()


def test_train_text_to_image_on_a_folder(place, monkeypatch):
    """With `--train_data_dir`; the columns are the script's defaults."""
    monkeypatch.chdir(place)
    dataset = datasets.load_dataset("imagefolder", data_files={"train": os.path.join("dark", "**")}, cache_dir=None)
    assert {"image", "text"} <= set(dataset["train"].column_names)
    samples = stored(place / "MMM-RS-hub")
    rows = list(dataset["train"])
    assert {row["weather"] for row in rows} == {"fog", "night"}
    for row in rows:
        assert np.array_equal(pixels(row["image"]), pixels(samples[row["key"]]["jpg"]))
        assert row["text"] == samples[row["key"]]["txt"].decode()


def images_of(folder: Path) -> list[str]:
    """As sd-scripts look for images: in one folder, by suffix."""
    return sorted(
        {path for suffix in (".png", ".jpg", ".webp", ".bmp") for path in glob(escape(str(folder)) + "/*" + suffix)}
    )


@pytest.fixture
def kohya(place) -> list[dict]:
    """The subsets of the dataset configurations in the recipes."""
    tomllib = pytest.importorskip("tomllib")  # since Python 3.11
    blocks = [tomllib.loads(block) for block in re.findall(r"^```toml\n(.*?)^```$", RECIPES, re.M | re.S)]
    return [subset for block in blocks for dataset in block["datasets"] for subset in dataset["subsets"]]


def test_sd_scripts_find_each_image_with_its_caption(place, kohya):
    samples = stored(place / "MMM-RS-hub")
    seen = []
    for subset in kohya:
        images = images_of(place / subset["image_dir"])
        assert images
        for path in images:
            base = os.path.splitext(path)[0]
            caption = Path(base + ".txt").read_text("utf-8").splitlines()[0].strip()
            key = Path(base).relative_to(place).as_posix().split("/", 1 + subset["image_dir"].startswith("twins"))[-1]
            text = "sar.txt" if subset["image_dir"].startswith("twins/sar") else "txt"
            assert caption == samples[key][text].decode().strip()
            seen.append(key)
    assert len(seen) == len(set(seen)) > 4


def test_sd_scripts_find_the_conditioning_image_of_each_image(place, kohya):
    (subset,) = [subset for subset in kohya if "conditioning_data_dir" in subset]
    images, conditioning = images_of(place / subset["image_dir"]), images_of(place / subset["conditioning_data_dir"])
    assert [Path(path).name for path in images] == [Path(path).name for path in conditioning]
    assert len(images) == len(pairs(place))


def test_hf_datasets_sql(place, monkeypatch):
    pytest.importorskip("duckdb")
    program = Path(sys.executable).with_name("hf")
    command = shlex.split(re.search(r"^hf (datasets sql .*)$", RECIPES, re.M)[1])
    call = [str(program)] if program.exists() else [sys.executable, "-m", "huggingface_hub.cli.hf"]
    done = subprocess.run([*call, *command, "--format", "json"], capture_output=True, text=True, cwd=place, check=False)
    if "No such command" in done.stderr:
        pytest.skip("this version of huggingface_hub has no `hf datasets sql`")
    assert done.returncode == 0, done.stderr
    assert sum(row["n"] for row in json.loads(done.stdout)) == len(pairs(place))
