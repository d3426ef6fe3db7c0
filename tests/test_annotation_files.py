"""Which of several annotation files of a subset counts: upstream's own before copies of it, and both are named."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from conversion.inspection import inspect
from tests import releases
from tests.conversions import convert

PATHS = [f"Inria_dataset/{number}.jpg" for number in range(3)]
IMAGES = {path: releases.picture(path) for path in PATHS}
ORIGINAL = "MMM-RS_Inria.json"
COPIES = [
    "MMM-RS_Inria (1).json",
    "MMM-RS_Inria(2).json",
    "MMM-RS_Inria 2.json",
    "MMM-RS_Inria copy.json",
    "MMM-RS_Inria - Copy.json",
    "MMM-RS_Inria - Copy (2).json",
    "MMM-RS_Inria - Kopie.json",
    "MMM-RS_Inria - 副本.json",
    "Copy of MMM-RS_Inria.json",
    "MMM-RS_Inria-checkpoint.json",
    "MMM-RS_Inria.sync-conflict-20240102-030405-ABCDEFG.json",
    "MMM-RS_Inria_conflict-20240102-030405.json",
    "MMM-RS_Inria (conflicted copy 2024-01-02).json",
    "MMM-RS_Inria (Ann's conflicted copy 2024-01-02).json",
    "MMM-RS_Inria (In Konflikt stehende Kopie von Ann).json",
    "MMM-RS_Inria(冲突文件_ann_20240102).json",
    "MMM-RS_Inria~20240102-030405.json",
    "MMM-RS_Inria_old.json",
    "MMM-RS_Inria.bak.json",
    "MMM-RS_Inria.json~",
    "MMM-RS_Inria.json.~1~",
    "MMM-RS_Inria.json.bak",
    "MMM-RS_Inria.json.orig",
    "MMM-RS_Inria.json.1",
    "MMM-RS_Inria.json?download=1",
    ".MMM-RS_Inria.json",
    ".#MMM-RS_Inria.json",
    "#MMM-RS_Inria.json#",
    "backup/MMM-RS_Inria.json",
    "old/mmm-rs_inria (1).json",
]


def annotation(prompt: str) -> bytes:
    return json.dumps([{"image": path, "prompt": f"{prompt} {number}"} for number, path in enumerate(PATHS)]).encode()


def written(files: dict[str, bytes], folder: Path, form: str) -> Path:
    files = {**files, **IMAGES}
    if form == "zip":
        return releases.put(folder, {"Inria.zip": releases.zipped(files)})
    return releases.put(folder, {f"Inria/{name}": data for name, data in files.items()})


def inspected(files: dict[str, bytes], folder: Path, form: str = "folder") -> tuple[list[str], list[dict]]:
    """The annotation files that are read, and the problems."""
    inspection = inspect(written(files, folder / "MMM-RS", form))
    assert inspection["subsets"]["Inria"]["pairs"]["rgb"] == 3
    return [file["path"] for file in inspection["subsets"]["Inria"]["annotations"]], inspection["problems"]


@pytest.mark.parametrize("form", ["folder", "zip"])
@pytest.mark.parametrize("name", COPIES)
def test_a_copy_is_not_read_beside_its_original_and_both_are_named(name, form, tmp_path):
    read, (problem,) = inspected({name: annotation("old"), ORIGINAL: annotation("right")}, tmp_path, form)
    assert read == [ORIGINAL]
    assert problem["code"] == "annotation_copy" and problem["path"].endswith(f"/{name}")
    assert f"/{ORIGINAL}, which is used; their content differs" in problem["detail"]


@pytest.mark.parametrize("folder", [".ipynb_checkpoints", ".stversions", ".git", "__MACOSX", "@eaDir"])
@pytest.mark.parametrize("form", ["folder", "zip"])
def test_a_copy_in_a_folder_of_the_system_is_not_part_of_the_release(folder, form, tmp_path):
    files = {f"{folder}/MMM-RS_Inria-checkpoint.json": annotation("old"), ORIGINAL: annotation("right")}
    assert inspected(files, tmp_path, form) == ([ORIGINAL], [])


@pytest.mark.parametrize("form", ["folder", "zip"])
def test_of_a_copy_with_the_same_content_that_is_said(form, tmp_path):
    _, (problem,) = inspected({COPIES[0]: annotation("right"), ORIGINAL: annotation("right")}, tmp_path, form)
    assert "their content is the same" in problem["detail"] and problem["remedy"] == "Remove it"


@pytest.mark.parametrize("name", COPIES)
def test_a_copy_without_its_original_is_read_as_any_other_file(name, tmp_path):
    read, problems = inspected({name: annotation("right")}, tmp_path)
    assert (read, problems) == ([name], [])


@pytest.mark.parametrize("original", [b"", b"[]", b"<html>", b'[{"image": null, "prompt": "x"}]'])
def test_a_copy_serves_if_no_record_of_its_original_can_be_used(original, tmp_path):
    name = "MMM-RS_Inria - Copy.json"
    read, problems = inspected({name: annotation("right"), ORIGINAL: original}, tmp_path)
    assert read[-1] == name
    (problem,) = [problem for problem in problems if problem["code"] == "annotation_copy"]
    assert problem["path"].endswith(f"/{name}")
    assert f"/{ORIGINAL}, of which no record can be used; this file is used instead" in problem["detail"]


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (ORIGINAL, "All.json"),  # upstream's name, though later in the alphabet
        (ORIGINAL, "Extra/MMM-RS_Inria.json"),
        ("all.json", "Extra/all.json"),
        ("MMM-RS_Inria.json", "MMM-RS_Inria_cleaned.json"),
        ("captions_1.json", "captions_2.json"),  # parts, not copies
    ],
)
def test_of_two_files_the_one_with_upstreams_name_or_in_fewer_folders_counts_and_the_report_names_it(
    first, second, tmp_path
):
    path = written({second: annotation("second"), first: annotation("first")}, tmp_path / "MMM-RS", "zip")
    convert(path, tmp_path / "out", workers=1)
    prompts = pq.read_table(tmp_path / "out/index/Inria.parquet")["prompt"].to_pylist()
    assert sorted(prompts) == ["first 0", "first 1", "first 2"]
    rows = pq.read_table(tmp_path / "out/report/unpublished.parquet").to_pylist()
    assert [(row["path"], row["position"], row["reason"]) for row in rows] == [
        (second, position, "conflicting_prompt") for position in range(3)
    ]
    assert all(f"record {row['position']} of {first} names it with another prompt" in row["detail"] for row in rows)


def test_weather_has_three_files_of_upstreams_and_their_uncleaned_ones_count_less(tmp_path):
    files = {}
    for folder in ("fog", "night", "snowy"):
        path = f"{folder}/a.jpg"
        files[path] = releases.picture(path)
        for name, prompt in ((f"MMM-RS_{folder}.json", "uncleaned"), (f"MMM-RS_{folder}_cleaned.json", "cleaned")):
            files[name] = json.dumps([{"image": path, "prompt": prompt}]).encode()
    convert(releases.put(tmp_path / "MMM-RS", {"weather.zip": releases.zipped(files)}), tmp_path / "out", workers=1)
    assert pq.read_table(tmp_path / "out/index/weather.parquet")["prompt"].to_pylist() == ["cleaned"] * 3


def test_inspect_and_the_report_name_both_files(tmp_path, run):
    path = written({ORIGINAL: annotation("right"), "MMM-RS_Inria.json.bak": annotation("old")}, tmp_path / "in", "zip")
    for words in (("inspect", path), ("convert", path, tmp_path / "out"), ("report", tmp_path / "out")):
        code, printed, _ = run(*words)
        assert "MMM-RS_Inria.json.bak: by its name it is a copy of in/Inria.zip/MMM-RS_Inria.json" in printed
        assert code == (3 if words[0] == "convert" else 0)


# ------------------------------------------------------------------------------------------------------- none at all


@pytest.mark.parametrize(
    ("subset", "upstreams"),
    [
        ("NaSC-TG2", "MMM-RS_NaSC-TG2.json"),
        ("weather", "MMM-RS_fog_cleaned.json or MMM-RS_night_cleaned.json or MMM-RS_snowy_cleaned.json"),
    ],
)
@pytest.mark.parametrize("form", [releases.single_zip, releases.single_folder])
def test_a_missing_annotation_file_is_named_as_upstream_calls_it(subset, upstreams, form, release, tmp_path, run):
    files = replace(release[subset], files=release[subset].images)
    code, printed, _ = run("inspect", form(files, tmp_path / "release"))
    assert code == 4
    assert f"Problem: {subset}: no annotation file was found; upstream calls it {upstreams}. " in printed
    assert printed.splitlines()[0].endswith(": 0 of 10 subsets (1 more cannot be used)")


def test_an_annotation_file_that_is_a_link_is_named_with_the_reason_and_the_remedy(tmp_path):
    releases.put(tmp_path, {"elsewhere.json": annotation("a place")})
    releases.put(tmp_path / "MMM-RS/Inria", {**IMAGES, "more.json": annotation("another place")})
    (tmp_path / "MMM-RS/Inria" / ORIGINAL).symlink_to(tmp_path / "elsewhere.json")
    convert(tmp_path / "MMM-RS", tmp_path / "out")
    (source,) = json.loads((tmp_path / "out/report/summary.json").read_text())["sources"]
    assert (source["path"], source["problem"]) == (f"MMM-RS/Inria/{ORIGINAL}", "link")
    assert source["detail"] == "this annotation file is not read: it is a symbolic link, which is not followed"
    assert source["remedy"] == "Replace the link with what it points to"
