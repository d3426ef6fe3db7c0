"""`show` and `preview` of a dataset on the hub: they read what they show, and little more."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

from tests import converted, hub

ROOT = Path(__file__).parents[1]
URL = "hf://datasets/org/MMM-RS"
KEY = "SEN1-2/ROIs1158_spring_1_p1"


@pytest.fixture
def served(tmp_path):
    """Puts a folder on a hub and gives a function that runs a command against it: code, output, error lines, bytes
    read by path."""
    with hub.Hub() as running:

        def put(root: Path):
            running.repositories["org/MMM-RS"] = hub.Repository(private=False)
            running.repositories["org/MMM-RS"].add("main", hub.contents(root), "made")

        def command(*arguments) -> tuple[int, str, list[str], dict[str, int]]:
            running.ranges.clear()
            ended = subprocess.run(
                [sys.executable, "-m", "mmm_rs_cli.cli", *map(str, arguments)],
                cwd=tmp_path,
                capture_output=True,
                text=True,
                check=False,
                env={**os.environ, **running.environment, "PYTHONPATH": str(ROOT)},
            )
            read: dict[str, int] = {}
            for name, start, stop in running.ranges:
                read[name] = read.get(name, 0) + stop - start
            return ended.returncode, ended.stdout, ended.stderr.splitlines(), read

        yield put, command


def large(number: int) -> list[converted.Sample]:
    """Samples whose images are too large to be read unnoticed."""
    dataset = [
        converted.Sample(f"SEN1-2/ROIs1158_spring_1_p{i}", {"rgb": f"a{i}", "sar": f"b{i}"}, f"a{i}")
        for i in range(number)
    ]
    for sample in dataset:
        for modality in sample.prompts:
            noise = random.Random(f"{sample.key} {modality}").randbytes(100_000)
            sample.images[modality] = converted.picture(modality, 1)[:-2] + noise + b"\xff\xd9"
    return dataset


def test_show_reads_one_row_and_saves_its_images(served, tmp_path):
    put, command = served
    converted.write(tmp_path / "out", large(20), shards=2)
    put(tmp_path / "out")
    code, printed, errors, read = command("show", URL, KEY, "--save", tmp_path / "saved")
    assert code == 0, errors
    assert printed.splitlines()[0] == KEY and "prompt             b1" in printed
    (shard,) = [name for name in read if name.endswith(".tar")]
    assert 200_000 < read[shard] < 250_000  # its two images; the shard has 2 MB
    with tarfile.open(tmp_path / "out" / shard) as tar:
        for suffix in ("jpg", "sar.jpg", "txt", "sar.txt"):
            member = tar.extractfile(f"{KEY}.{suffix}")
            assert member and (tmp_path / "saved" / f"{KEY}.{suffix}").read_bytes() == member.read()


def test_preview_reads_the_images_that_it_shows(served, tmp_path):
    put, command = served
    converted.write(tmp_path / "out")
    put(tmp_path / "out")
    code, printed, errors, read = command("preview", URL, "--config", "SEN1-2")
    assert code == 0, errors
    page = tmp_path / "MMM-RS-preview.html"
    assert printed.startswith(f"{page.name}: 5 samples of 1 subset")
    html = page.read_text("utf-8")
    assert html.count("<article") == 5 and f'const DATASET = "{URL}"' in html
    assert {name.split("/")[1] for name in read if name.endswith(".tar")} == {"SEN1-2"}
    assert not [name for name in read if "index" in name and "SEN1-2" not in name]


def test_preview_says_how_many_samples_it_leaves_out_to_read_less(served, tmp_path):
    put, command = served
    converted.write(tmp_path / "out", large(20), shards=5)
    put(tmp_path / "out")
    code, printed, errors, read = command("preview", URL)
    assert code == 0, errors
    shown = (tmp_path / "MMM-RS-preview.html").read_text("utf-8").count("<article")
    assert 0 < shown < 20 and len([name for name in read if name.endswith(".tar")]) == 4
    assert f": {shown} of 20 samples of 1 subset (4 shards of each subset were read), " in printed


def test_a_wrong_key_suggests_keys_of_its_subset(served, tmp_path):
    put, command = served
    converted.write(tmp_path / "out")
    put(tmp_path / "out")
    code, _, errors, _ = command("show", URL, "SEN1-2/ROIs1158_sprang_1_p1")
    assert code == 2 and len(errors) == 1 and f"Similar: {KEY}" in errors[0]
    code, _, errors, read = command("show", URL, "ROIs1158_spring_1_p1")
    assert code == 2 and len(errors) == 1 and not [name for name in read if "index" in name]


@pytest.mark.parametrize("command", [["show", KEY], ["preview"]])
def test_what_cannot_be_read_is_one_line(served, tmp_path, command):
    put, run = served
    converted.write(tmp_path / "out")
    (tmp_path / "out/manifest.json").unlink()
    put(tmp_path / "out")
    name, *rest = command
    code, _, errors, _ = run(name, URL, *rest)
    assert code == 5 and len(errors) == 1 and "no manifest.json there" in errors[0]
    for address in ("hf://datasets/org/Elsewhere", "nothing://somewhere/MMM-RS", "s3://bucket/MMM-RS"):
        code, _, errors, _ = run(name, address, *rest)
        assert code in (2, 5) and len(errors) == 1 and "Traceback" not in errors[0], errors


def test_a_damaged_shard_on_the_hub_is_one_line(served, tmp_path):
    put, command = served
    converted.write(tmp_path / "out")
    for shard in (tmp_path / "out/data/SEN1-2").glob("*.tar"):
        data = bytearray(shard.read_bytes())
        for position in range(600, len(data), 300):
            data[position] ^= 1
        shard.write_bytes(data)
    put(tmp_path / "out")
    for arguments in (["show", URL, KEY, "--save", tmp_path / "saved"], ["preview", URL, "--config", "SEN1-2"]):
        code, _, errors, _ = command(*arguments)
        assert code == 6 and len(errors) == 1 and "are not those of" in errors[0]
    assert not (tmp_path / "saved").exists() and not list(tmp_path.glob("*.html"))


def test_a_dataset_on_the_hub_is_found_by_its_name_and_by_its_page(served, tmp_path):
    put, command = served
    converted.write(tmp_path / "out")
    put(tmp_path / "out")
    code, printed, errors, _ = command("show", "org/MMM-RS", KEY)
    assert code == 0 and printed.startswith(KEY)
    assert errors == [f"org/MMM-RS: no such folder here, so {URL} is read"]
    code, printed, errors, _ = command("show", "https://huggingface.co/datasets/org/MMM-RS/tree/main", KEY)
    assert (code, errors) == (0, []) and printed.startswith(KEY)
