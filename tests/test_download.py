"""What is fetched beforehand by the lines in docs/recipes.md, from a hub, is a folder that all doors read."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import datasets
import pytest

import mmm_rs
from dataset_card.card import write as write_card
from mmm_rs_loader import batches
from tests import converted, hub
from tests.hub import contents
from tests.test_reading_hub import REPO

RECIPE = (Path(__file__).parents[1] / "docs" / "recipes.md").read_text().split("## Some of the subsets on disk\n")[1]
BLOCKS = [block.replace("\\\n", " ") for block in re.findall(r"```bash\n(.*?)```", RECIPE.split("\n## ")[0], re.S)]
LINES = [line for block in BLOCKS for line in block.splitlines()]


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    converted.write(out := tmp_path_factory.mktemp("whole") / "MMM-RS")
    write_card(out)
    return out


@pytest.fixture
def running(whole):
    with hub.Hub() as running:
        running.repositories[REPO] = hub.Repository(private=False)
        running.repositories[REPO].add("main", contents(whole), "upload")
        yield running


def type_in(line: str, folder: Path, running: hub.Hub) -> str:
    """Run a line of the recipe as a person would in this folder."""
    words = shlex.split(line)
    if words[0] == "mmm-rs":
        words[:1] = [sys.executable, "-m", "mmm_rs_cli.cli"]
    elif program := shutil.which("hf", path=os.pathsep.join([*{str(Path(sys.executable).parent), *_scripts()}])):
        words[0] = program
    else:
        pytest.skip("hf is not installed")
    environment = os.environ | running.environment | {"PYTHONPATH": str(Path(__file__).parents[1]), "NO_COLOR": "1"}
    done = subprocess.run(words, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{line}: {done.stdout[-500:]} {done.stderr[-2000:]}"
    return done.stdout


def _scripts() -> list[str]:
    """Where the hub's client has put its command."""
    import huggingface_hub

    return [str(Path(huggingface_hub.__file__).parents[4] / "bin"), *os.environ["PATH"].split(os.pathsep)]


def test_a_subset(whole, running, tmp_path):
    download, verify = LINES[:2]
    type_in(download, tmp_path, running)
    part = tmp_path / "part"
    assert {path.parent.name for path in part.rglob("*.tar")} == {"SEN1-2"}
    assert "SEN1-2" in type_in(verify, tmp_path, running)
    expected = [row["key"] for row in mmm_rs.load_dataset("SEN1-2", whole, streaming=True)]
    assert [row["key"] for row in mmm_rs.load_dataset("SEN1-2", part, streaming=True)] == expected
    assert [row["__key__"] for row in datasets.load_dataset(str(part), "SEN1-2", split="train")] == expected
    assert [sample["__key__"] for sample in mmm_rs.webdataset("SEN1-2", part, shuffle=0)] == expected
    assert [key for batch in batches("SEN1-2", part, modalities=["rgb"]) for key in batch["key"]] == expected


def test_some_modalities_of_a_subset(whole, running, tmp_path):
    (export,) = (line for line in LINES if line.startswith("mmm-rs export"))
    type_in(export, tmp_path, running)
    radar = tmp_path / "radar"
    expected = list(mmm_rs.load_dataset("SEN1-2", whole, streaming=True, modalities=["sar"], decode=False))
    rows = list(mmm_rs.load_dataset("SEN1-2", radar, streaming=True, modalities=["sar"], decode=False))
    by_key = {row["key"]: row["sar"]["bytes"] for row in expected if row["sar"]}
    assert {row["key"]: row["sar"]["bytes"] for row in rows if row["sar"]} == by_key and len(by_key) == 5
    assert not any(row["rgb"] for row in mmm_rs.load_dataset("SEN1-2", radar, streaming=True))
    without_code = datasets.load_dataset(str(radar), "SEN1-2", split="train")
    assert {row["__key__"] for row in without_code if row["sar.jpg"]} == set(by_key)
    assert {sample["__key__"] for sample in mmm_rs.webdataset("SEN1-2", radar) if "sar.jpg" in sample} == set(by_key)
