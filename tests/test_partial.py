"""A folder that holds some of the subsets, as `hf download --include` leaves it, is read by all three doors."""

from __future__ import annotations

import re
import shutil
from fnmatch import fnmatch
from pathlib import Path

import datasets
import pytest

import mmm_rs
from conversion.errors import UsageError, VerificationError
from conversion.verification import verify
from dataset_card.card import write as write_card
from mmm_rs_cli.cli import main
from tests import converted

RECIPE = (Path(__file__).parents[1] / "docs" / "recipes.md").read_text().split("## Some of the subsets on disk")[1]
INCLUDED = tuple(re.findall(r'--include "?([^" \n]+)', RECIPE))


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("whole") / "MMM-RS"
    converted.write(out)
    write_card(out)
    return out


@pytest.fixture
def part(whole: Path, tmp_path: Path) -> Path:
    return copy(whole, tmp_path / "part", INCLUDED)


def copy(source: Path, target: Path, patterns: tuple[str, ...]) -> Path:
    """The files that match a pattern, as the client of the hub chooses them."""
    for path in source.rglob("*"):
        name = path.relative_to(source).as_posix()
        if path.is_file() and any(fnmatch(name, pattern) for pattern in patterns):
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, target / name)
    return target


@pytest.mark.parametrize("streaming", [True, False], ids=["streaming", "whole"])
def test_without_code(whole, part, streaming):
    rows = datasets.load_dataset(str(part), "SEN1-2", split="train", streaming=streaming)
    expected = datasets.load_dataset(str(whole), "SEN1-2", split="train", streaming=streaming)
    assert [row["__key__"] for row in rows] == [row["__key__"] for row in expected]
    assert len(list(rows)) == 5


def test_by_the_builder(part):
    rows = list(mmm_rs.load_dataset("SEN1-2", str(part), split="train", streaming=True))
    assert len(rows) == 5 and all(row["sar"] for row in rows)


def test_as_plain_webdataset(part):
    webdataset = pytest.importorskip("webdataset")
    shards = sorted(map(str, (part / "data" / "SEN1-2").glob("train-*.tar")))
    samples = webdataset.WebDataset(shards, shardshuffle=False).decode("pil").to_tuple("jpg", "txt", "json")
    assert len(list(samples)) == 5


@pytest.mark.parametrize("config", ["weather", "all"])
def test_a_subset_that_is_not_there_is_an_error_that_names_its_index(part, config):
    with pytest.raises(mmm_rs.ReadError, match=r"index/weather\.parquet: not found"):
        list(mmm_rs.load_dataset(config, str(part), split="train", streaming=True))


def test_loaded_whole_without_code_what_is_missing_of_all_is_noticed(part):
    with pytest.raises(Exception, match=r"NonMatchingSplitsSizesError|expected"):
        datasets.load_dataset(str(part), "all", split="train")


def test_shards_without_a_manifest_are_not_taken_for_a_release(whole, tmp_path):
    part = copy(whole, tmp_path / "part", ("data/SEN1-2/*",))
    with pytest.raises(mmm_rs.ReadError, match=r"Fetch manifest\.json and index/SEN1-2\.parquet"):
        mmm_rs.load_dataset("SEN1-2", str(part), split="train", streaming=True)


# ------------------------------------------------------------------------------------------------------------- verify


def test_verify_checks_the_subsets_that_it_is_given(part, capsys):
    verified = verify(part, subsets=["SEN1-2"])
    assert (verified.shards, verified.samples, verified.images) == (2, 5, 10)
    assert main(["verify", str(part), "--subset", "SEN1-2"]) == 0
    assert "2 shards, 5 samples, 10 images of SEN1-2" in capsys.readouterr().out


def test_verify_finds_damage_in_a_part(part):
    shard = part / "data" / "SEN1-2" / "train-00001-of-00002.tar"
    data = bytearray(shard.read_bytes())
    data[700] ^= 1
    shard.write_bytes(data)
    with pytest.raises(VerificationError, match="its sha256 is not the manifest's"):
        verify(part, subsets=["SEN1-2"])


@pytest.mark.parametrize("lost", ["data/SEN1-2/train-00001-of-00002.tar", "index/SEN1-2.parquet"])
def test_verify_names_what_is_missing_of_a_part(part, lost):
    (part / lost).unlink()
    with pytest.raises(VerificationError, match=f"{lost}: is missing"):
        verify(part, subsets=["SEN1-2"])


def test_verify_says_that_the_rest_is_missing_when_it_is_asked_for(part):
    with pytest.raises(VerificationError, match=r"weather.*is missing"):
        verify(part)
    with pytest.raises(VerificationError, match=r"weather.*is missing"):
        verify(part, subsets=["SEN1-2", "weather"])


def test_verify_knows_the_subsets_of_the_dataset(part):
    with pytest.raises(UsageError, match="GID: not a subset of this dataset"):
        verify(part, subsets=["GID"])


def test_a_comparison_with_the_release_asks_for_the_report(part, tmp_path):
    (tmp_path / "release").mkdir()
    with pytest.raises(VerificationError, match=r"unpublished\.parquet: is missing. Fetch it"):
        verify(part, tmp_path / "release", subsets=["SEN1-2"])
