"""What of a folder belongs to a release, in which form it lies there, and what is said of the rest."""

from __future__ import annotations

import errno
import json
import os
import random
import shutil
import subprocess
import zipfile
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from conversion import containers, convert, release, verify
from conversion.errors import OutputError, ReleaseError, UsageError
from conversion.inspection import inspect
from tests import releases
from tests.outputs import members, tree, unpublished


def test_one_subset_alone_as_zip_or_folder(clean_release, tmp_path):
    inria = clean_release["Inria"]
    for number, path in enumerate(
        [releases.single_zip(inria, tmp_path / "zip"), releases.single_folder(inria, tmp_path / "folder")]
    ):
        convert(path, tmp_path / f"out{number}")
    assert tree(tmp_path / "out0") == tree(tmp_path / "out1")
    assert list(pq.read_table(tmp_path / "out0/index/Inria.parquet")["key"]) != []


def test_the_folder_tells_the_weather_wherever_it_stands(clean_release, tmp_path):
    files = {f"weather_dataset/{name}": data for name, data in clean_release["weather"].files.items()}
    releases.put(tmp_path / "MMM-RS/weather", files)
    convert(tmp_path / "MMM-RS", tmp_path / "out")
    labels = {json.loads(data)["weather"] for name, data in members(tmp_path / "out").items() if name.endswith(".json")}
    assert labels == {"fog", "snow"}  # the folders fog/ and snowy/


def test_a_scene_is_told_by_the_last_folder_that_names_one(clean_release, tmp_path):
    weather = clean_release["weather"]
    fog = {name: data for name, data in weather.images.items() if name.startswith("fog/")}
    snow = {f"snowy/{name.rsplit('/', 1)[1]}": data for name, data in weather.images.items() if name not in fog}
    records = [{"image": f"/home/snow/MMM-RS/{name}", "prompt": "fog, a field"} for name in fog]
    files = {**fog, **snow, "MMM-RS_fog_cleaned.json": json.dumps(records).encode()}
    convert(releases.put(tmp_path / "MMM-RS", {"weather.zip": releases.zipped(files)}), tmp_path / "out")
    keys = pq.read_table(tmp_path / "out/index/weather.parquet")["key"].to_pylist()
    assert keys and all(key.startswith("weather/fog/") for key in keys)


DAMAGE = {
    "truncated": releases.truncate,
    "cut": releases.cut_directory,
    "half": releases.half_download,
    "baidu": lambda path: releases.half_download(path, ".baiduyun.p.downloading"),
    "parts": lambda path: releases.split_archive(path, style="z01"),
    "numbered": lambda path: releases.split_archive(path, style="001", without=[1]),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_an_archive_that_cannot_be_read_is_named_and_the_rest_converts(damage, clean_release, tmp_path):
    path = releases.zips_stored([clean_release["GID"], clean_release["Inria"]], tmp_path / "release")
    DAMAGE[damage](path / "GID.zip")
    result = convert(path, tmp_path / "out")
    sources = [source for source in result.summary["sources"] if "GID" in source["path"]]
    assert sources and all(source["remedy"] and source["subset"] == "GID" for source in sources)
    assert set(result.manifest["subsets"]) == {"Inria"}


def test_encrypted_entries_are_named(clean_release, tmp_path):
    path = releases.zips_stored(clean_release.subsets, tmp_path / "release")
    releases.mark_encrypted(path / "GID.zip")
    result = convert(path, tmp_path / "out")
    assert [source["problem"] for source in result.summary["sources"]] == ["encrypted"]
    assert {row["reason"] for row in unpublished(tmp_path / "out") if row["subset"] == "GID"} == {"encrypted"}


def test_what_is_not_read_is_named(clean_release, tmp_path):
    """Archives of other kinds, links, folders that may not be read, zips without files."""
    release = tmp_path / "MMM-RS"
    shutil.copytree(clean_release.path, release)
    (release / "extra.rar").write_bytes(b"Rar!")
    (release / "GID-2").symlink_to(tmp_path)
    zipfile.ZipFile(release / "HRSC2016 (1).zip", "w").close()
    sources = convert(release, tmp_path / "out").summary["sources"]
    assert {Path(source["path"]).name: source["problem"] for source in sources} == {
        "extra.rar": "other_archive",
        "GID-2": "link",
        "HRSC2016 (1).zip": "empty_archive",
    }


# --- what lies both in a zip and in a folder --------------------------------------------------------------------------


def test_annotations_of_an_extracted_folder_serve_the_zip_beside_it(clean_release, tmp_path):
    inria = clean_release["Inria"]
    path = releases.put(tmp_path / "MMM-RS", {"Inria.zip": releases.zipped(inria.images), **inria.files})
    result = convert(path, tmp_path / "out")
    assert result.summary["total"]["images"] == {"released": 5, "published": 5, "reported": 0}
    assert [source["problem"] for source in result.summary["sources"]] == ["beside_zip"]


def test_images_that_only_the_folder_has_are_published(clean_release, tmp_path):
    """Some of the zips are unzipped already, others not."""
    pairs = clean_release["SEN1-2"]
    radar = {name: data for name, data in pairs.images.items() if "_SAR/" in name}
    rest = {name: data for name, data in pairs.files.items() if name not in radar}
    path = releases.put(tmp_path / "MMM-RS", {"SEN1-2.zip": releases.zipped(rest), **radar})
    result = convert(path, tmp_path / "out")
    assert result.reported == 0
    assert result.summary["subsets"]["SEN1-2"]["by_modality"] == {"rgb": 4, "nir": 0, "sar": 4}


def test_another_version_of_the_annotations_in_the_folder_is_named(clean_release, tmp_path):
    inria = clean_release["Inria"]
    path = releases.put(tmp_path / "MMM-RS", {"Inria.zip": releases.zipped(inria.files), "MMM-RS_Inria.json": b"[]"})
    result = convert(path, tmp_path / "out")
    (source,) = result.summary["sources"]
    assert source["path"].endswith("MMM-RS_Inria.json") and "another version" in source["detail"]
    assert result.summary["total"]["images"]["published"] == 5


def test_a_folder_that_lies_there_twice(clean_release, tmp_path):
    """Files have no CRC beside their name, as entries of a zip have: they are read to see that they are equal."""
    inria = clean_release["Inria"]
    path = releases.put(tmp_path / "MMM-RS" / "Inria", inria.files).parent
    releases.put(path, inria.images)
    totals = convert(path, tmp_path / "out").summary["subsets"]["Inria"]
    assert totals["images"] == {"released": 10, "published": 5, "reported": 5}
    assert totals["reasons"]["image"] == {"duplicate_image": 5}
    name = next(iter(inria.images))
    (path / name).write_bytes(bytes(len(inria.images[name])))
    totals = convert(path, tmp_path / "other").summary["subsets"]["Inria"]
    assert totals["reasons"]["image"] == {"duplicate_image": 4, "same_name": 2}


def test_what_was_encrypted_is_taken_from_the_folder_beside_its_zip(clean_release, tmp_path):
    inria = clean_release["Inria"]
    path = releases.zips_stored([inria], tmp_path)
    releases.put(path, inria.images)
    releases.mark_encrypted(path / "Inria.zip", next(iter(inria.images)))
    result = convert(path, tmp_path / "out")
    assert result.summary["subsets"]["Inria"]["images"]["published"] == 5
    assert verify(tmp_path / "out", path).compared == 5


def test_the_zip_counts_where_its_folder_lies_beside_it(clean_release, reference, tmp_path):
    result = convert(releases.zips_beside_folders(clean_release.subsets, tmp_path / "release"), tmp_path / "out")
    assert members(tmp_path / "out") == members(reference)
    beside = [source for source in result.summary["sources"] if source["problem"] == "beside_zip"]
    assert {source["subset"] for source in beside} == {subset.name for subset in clean_release.subsets}
    assert result.reported


# --- what a conversion wrote ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["folder", "zip"])
def test_an_output_that_is_the_release_or_holds_it_is_refused_before_anything_is_written(form, clean_release, tmp_path):
    path = releases.zips_stored([clean_release["Inria"]], tmp_path / "a")
    path = path if form == "folder" else path / "Inria.zip"
    (tmp_path / "link").symlink_to(path)
    before = tree(tmp_path)
    for out, message in (
        (path, "is the release"),
        (tmp_path / "link", "is the release"),
        (path.parent, "holds the release"),
        (tmp_path, "holds the release"),
    ):
        for overwrite in False, True:
            with pytest.raises(UsageError, match=message):
                convert(path, out, overwrite=overwrite)
    with pytest.raises(UsageError, match="is empty"):
        convert(path, "")
    assert tree(tmp_path) == before and not list(tmp_path.rglob(".mmm-rs"))


def test_an_output_inside_the_release_is_said_not_to_be_part_of_it(clean_release, tmp_path, monkeypatch):
    path = releases.zips_stored([clean_release["Inria"]], tmp_path)
    monkeypatch.chdir(path)
    lines = []
    assert convert(".", "hub", say=lines.append).reported == 0
    assert f"{path / 'hub'}: lies in the release and is not part of it" in lines
    assert verify("hub", ".").compared == 5
    assert not convert(".", "hub").written
    assert convert(".", "hub", overwrite=True).reported == 0
    assert inspect(".")["problems"] == []


def test_converted_folders_within_the_release_are_no_part_of_it(clean_release, tmp_path):
    path = releases.zips_stored([clean_release["Inria"]], tmp_path)
    convert(path, path / "hub")
    assert convert(path, path / "other").reported == 0
    report = inspect(path)
    assert report["problems"] == [] and report["unknown"] == []
    assert convert(path, tmp_path / "out").reported == 0
    assert members(tmp_path / "out") == members(path / "hub") == members(path / "other")


def test_a_converted_folder_is_no_release(clean_release, tmp_path):
    convert(releases.zips_stored([clean_release["Inria"]], tmp_path), tmp_path / "out")
    with pytest.raises(UsageError, match=r"this is a converted folder\. Is the order swapped\?"):
        convert(tmp_path / "out", tmp_path / "other")
    with pytest.raises(ReleaseError, match=r"out: is a converted folder\. Give the release that it was converted from"):
        release.find(tmp_path / "out")


# --- what systems and programs leave in a folder ----------------------------------------------------------------------


def problems(listing: release.Release) -> dict[str, str]:
    """{last part of the path: code}."""
    return {Path(problem.path).name: problem.code for problem in listing.problems}


def images(listing: release.Release) -> dict[str, int]:
    return {name: sum(part.count("image") for part in files.parts) for name, files in listing.subsets.items()}


SYSTEM_FOLDERS = (
    ".Trash-1000/files",
    ".Trashes/501",
    "$RECYCLE.BIN/S-1-5-21",
    "RECYCLER",
    "@Recycle",
    "#recycle",
    "@eaDir",
    ".snapshot/hourly.0",
    "#snapshot",
    "~snapshot",
    ".stversions",
    ".cache/huggingface/download",
    ".ipynb_checkpoints",
    "lost+found",
    "System Volume Information",
    "deeper/.Trash-1000/files",
)


@pytest.mark.parametrize("folder", SYSTEM_FOLDERS)
def test_waste_bins_previews_and_hidden_folders_are_no_part_of_a_release(folder, clean_release, tmp_path):
    inria = clean_release["Inria"]
    old = {f"{folder}/{name}": releases.picture(f"old {name}") for name in inria.images}
    old |= {f"{folder}/MMM-RS_Inria.json": b"[]", f"{folder}/Inria.zip": releases.zipped(inria.files)}
    extracted = releases.put(tmp_path / "folder", {**inria.files, **old})
    zipped = releases.put(tmp_path / "zip", {"Inria.zip": releases.zipped({**inria.files, **old})})
    for path in extracted, zipped:
        listing = release.find(path)
        assert (images(listing), problems(listing), listing.unknown.num_rows) == ({"Inria": 5}, {}, 0)


def test_a_folder_of_the_system_that_may_not_be_read_is_not_a_problem(clean_release, tmp_path, monkeypatch):
    releases.put(tmp_path, clean_release["Inria"].files)
    (tmp_path / "lost+found").mkdir()
    scandir = os.scandir

    def forbid(path):
        if b"lost" in os.fsencode(path):
            raise PermissionError(errno.EACCES, "Permission denied")
        return scandir(path)

    monkeypatch.setattr(os, "scandir", forbid)
    assert release.find(tmp_path).problems == ()


def test_too_many_open_files_end_the_run_and_are_no_folder_that_may_not_be_read(clean_release, tmp_path, monkeypatch):
    releases.put(tmp_path, clean_release["Inria"].files)
    scandir = os.scandir

    def exhaust(path):
        if b"Inria_dataset" in os.fsencode(path):
            raise OSError(errno.EMFILE, "Too many open files")
        return scandir(path)

    monkeypatch.setattr(os, "scandir", exhaust)
    with pytest.raises(OutputError, match=r"Too many open files\. Allow more open files \(`ulimit -n 4096`\)"):
        release.find(tmp_path)


# --- names that a download gave ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    [
        "Inria.zip",
        "INRIA.ZIP",
        "Inria.zip?download=1",
        "Inria.zip?download=1&token=a.b",
        "Inria.zip.1",
        "Inria.zip.12",
        "Inria.zip (2)",
        "Inria (1).zip",
        "Inria(1).zip",
        "Inria - Copy.zip",
        "Inria - Copy (2).zip",
        "Inria copy 2.zip",
        "Copy of Inria.zip",
        "Inria - 副本.zip",
        "MMM-RS_Inria.zip",
        "Inria-20240801T101112Z-001.zip",
        "Inria-20240801T101112Z-1-002.zip",
        "Inria",
        "Inria.zip.orig",
    ],
)
def test_a_whole_zip_is_read_whatever_a_download_made_of_its_name(name, tmp_path):
    """Nothing within tells the subset: the name does."""
    files = {"512/a.jpg": releases.picture("a"), "annotations.json": b'[{"image": "a.jpg", "prompt": "a city"}]'}
    listing = release.find(releases.put(tmp_path, {name: releases.zipped(files)}))
    assert (images(listing), problems(listing)) == ({"Inria": 1}, {})


@pytest.mark.parametrize("name", ["uc?export=download&id=1AbC", "download", "file.php?id=3"])
def test_a_zip_whose_name_says_nothing_is_recognised_by_its_first_bytes(name, clean_release, tmp_path):
    listing = release.find(releases.put(tmp_path, {name: releases.zipped(clean_release["Inria"].files)}))
    assert (images(listing), problems(listing)) == ({"Inria": 5}, {})


def test_files_beside_a_zip_that_are_none_are_passed_over(clean_release, tmp_path):
    files = {"Inria.zip": releases.zipped(clean_release["Inria"].files)}
    files |= {f"Inria.zip{suffix}": b"0123456789abcdef" for suffix in (".md5", ".sha256", ".torrent", ".txt", ".asc")}
    listing = release.find(releases.put(tmp_path, {**files, "README": b"text", "LICENSE": b"", "run.sh": b"PK"}))
    assert (images(listing), problems(listing)) == ({"Inria": 5}, {})


def test_only_so_many_files_are_opened_to_see_what_they_are(clean_release, tmp_path, monkeypatch):
    monkeypatch.setattr(containers, "PEEKED", 3)
    data = releases.zipped(clean_release["Inria"].files)
    listing = release.find(releases.put(tmp_path, {"Inria.zip": data, **{f"{n}/x": data for n in range(5)}}))
    assert len(listing.subsets["Inria"].parts) == 4


def test_a_page_that_was_saved_under_the_name_of_a_zip_is_named(clean_release, tmp_path):
    files = {"Inria.zip": releases.zipped(clean_release["Inria"].files), "GID.zip?download=1": b"<!DOCTYPE html><html>"}
    (problem,) = release.find(releases.put(tmp_path, files)).problems
    assert (problem.code, problem.subset) == ("unreadable_archive", "GID")
    assert "it is not a zip but a web page" in problem.detail


@pytest.mark.parametrize("tail", ["?download=1", ".1", " (1)"])
def test_an_annotation_file_is_read_whatever_a_download_made_of_its_name(tail, clean_release, tmp_path):
    inria = clean_release["Inria"]
    files = {f"{name}{tail}" if releases.is_annotation(name) else name: data for name, data in inria.files.items()}
    result = convert(releases.put(tmp_path / "MMM-RS", files), tmp_path / "out")
    assert result.summary["subsets"]["Inria"]["records"] == {"released": 5, "used": 5, "reported": 0}


@pytest.mark.parametrize("inside", [False, True], ids=["in a folder", "in a zip"])
@pytest.mark.parametrize(
    "name",
    [
        "GID.zip.crdownload",
        "GID.zip.part",
        "GID.zip.opdownload",
        "GID.zip.baiduyun.p.downloading",
        "GID.zip.xltd",
        "GID.zip.td",
        "GID.zip.td.cfg",
        "GID.zip.!qB",
        "GID.zip.!ut",
        "GID.zip.bc!",
        "GID.zip.aria2",
        "GID.zip.incomplete",
        "GID.zip.tmp",
        ".GID.zip.Ab12Cd",
    ],
)
def test_a_download_that_is_not_finished_is_named(name, inside, clean_release, tmp_path):
    files = {**clean_release["Inria"].files, name: bytes(1000)}
    files = {"MMM-RS.zip": releases.zipped(files)} if inside else files
    (problem,) = release.find(releases.put(tmp_path, files)).problems
    assert (Path(problem.path).name, problem.code) == (name, "half_download")
    assert problem.subset == "GID" or name.startswith(".")


def test_a_colon_in_a_name_is_no_drive(tmp_path):
    jpeg = releases.picture("a"), releases.picture("b")
    records = [{"image": "a:b.jpg", "prompt": "first"}, {"image": "b.jpg", "prompt": "second"}]
    releases.put(
        tmp_path / "MMM-RS/GID",
        {"GID_dataset/a:b.jpg": jpeg[0], "GID_dataset/b.jpg": jpeg[1], "MMM-RS_GID.json": json.dumps(records).encode()},
    )
    convert(tmp_path / "MMM-RS", tmp_path / "out")
    published = members(tmp_path / "out")
    assert (published["GID/a_b.txt"], published["GID/b.txt"]) == (b"first", b"second")


# --- archives in parts ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("style", ["z01", "001"])
def test_every_part_of_a_split_archive_is_named(style, clean_release, tmp_path):
    path = releases.zips_stored([clean_release["GID"], clean_release["Inria"]], tmp_path)
    parts = releases.split_archive(path / "GID.zip", style=style)
    listing = release.find(path)
    assert problems(listing) == {part.name: "multi_part" for part in parts} and len(parts) == 3
    assert all(problem.subset == "GID" and "join them" in problem.remedy for problem in listing.problems)
    assert images(listing) == {"Inria": 5}


@pytest.mark.skipif(shutil.which("zip") is None, reason="Info-ZIP's zip is not installed")
def test_every_part_of_an_archive_that_info_zip_split_is_named(tmp_path):
    releases.put(tmp_path / "in", {"GID_dataset/a.jpg": random.Random(1).randbytes(200_000)})
    subprocess.run(["zip", "-qr0", "-s", "64k", "../GID.zip", "."], cwd=tmp_path / "in", check=True)
    shutil.rmtree(tmp_path / "in")
    parts = {path.name for path in tmp_path.iterdir()}
    assert {"GID.zip", "GID.z01"} < parts
    assert problems(release.find(tmp_path)) == dict.fromkeys(parts, "multi_part")


def test_an_archive_that_was_joined_counts_and_its_parts_may_go(clean_release, tmp_path):
    path = releases.zips_stored([clean_release["GID"]], tmp_path)
    whole = (path / "GID.zip").read_bytes()
    parts = releases.split_archive(path / "GID.zip", style="001")
    (path / "GID.zip").write_bytes(whole)
    listing = release.find(path)
    assert images(listing) == {"GID": len(clean_release["GID"].images)}
    assert {Path(problem.path).name for problem in listing.problems} == {part.name for part in parts}
    assert {problem.remedy for problem in listing.problems} == {"Remove this part"}


# --- copies that differ, files that were not fetched ------------------------------------------------------------------


def test_two_archives_with_different_images_of_one_name_are_both_named(clean_release, tmp_path):
    inria = clean_release["Inria"]
    other = {name: releases.picture(f"other {name}") for name in inria.images}
    files = {"Inria.zip": releases.zipped(inria.files), "old/Inria.zip": releases.zipped({**inria.files, **other})}
    files["HRSC2016.zip"] = releases.zipped(clean_release["HRSC2016"].files)
    result = convert(releases.put(tmp_path / "MMM-RS", files), tmp_path / "out")
    rows = [row for row in unpublished(tmp_path / "out") if row["kind"] == "image"]
    assert len(rows) == 10 and {row["reason"] for row in rows} == {"same_name"}
    assert all("MMM-RS/Inria.zip and MMM-RS/old/Inria.zip" in row["detail"] for row in rows)
    (source,) = [source for source in result.summary["sources"] if source["problem"] == "conflicting_images"]
    assert source["path"] == "MMM-RS/old/Inria.zip" and "5 of its images" in source["detail"]
    assert "Move away the copy" in source["remedy"]


POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"0" * 64 + b"\nsize 123456\n"


def test_what_git_lfs_did_not_fetch_is_called_that(clean_release, tmp_path):
    inria, gid = clean_release["Inria"], clean_release["GID"]
    image, *_ = inria.images
    files = {**inria.files, image: POINTER, "GID.zip": POINTER, "HRSC2016/MMM-RS_HRSC2016.json": POINTER}
    files |= {"HRSC2016/HRSC2016_dataset/a.jpg": releases.picture("a")}
    assert gid.name == "GID"
    result = convert(releases.put(tmp_path / "MMM-RS", files), tmp_path / "out")
    sources = {Path(source["path"]).name: source for source in result.summary["sources"]}
    assert {name: source["problem"] for name, source in sources.items()} == dict.fromkeys(
        ("GID.zip", "MMM-RS_HRSC2016.json"), "lfs_pointer"
    )
    assert all("git lfs pull" in source["remedy"] for source in sources.values())
    assert {row["path"]: row["reason"] for row in unpublished(tmp_path / "out") if row["subset"] == "Inria"}[
        image
    ] == "lfs_pointer"


def test_the_annotations_of_a_second_download_serve_where_the_first_is_damaged(clean_release, tmp_path):
    inria = clean_release["Inria"]
    whole = releases.zipped(inria.files)
    path = releases.put(tmp_path / "MMM-RS", {"Inria.zip": whole, "Inria_new.zip": whole})
    data = bytearray(whole)
    data[data.index(inria.files["MMM-RS_Inria.json"]) + 9] ^= 1
    (path / "Inria.zip").write_bytes(data)
    assert convert(path, tmp_path / "out").summary["subsets"]["Inria"]["records"]["used"] == 5


# --- annotations without images ---------------------------------------------------------------------------------------


def annotations_of(subset: releases.Subset) -> dict[str, bytes]:
    return {name: data for name, data in subset.files.items() if releases.is_annotation(name)}


def test_records_of_subsets_without_images_are_reported_one_by_one(release, tmp_path):
    """As for somebody who has all annotations and downloads one subset's images."""
    bare = [release[name] for name in ("weather", "SEN1-2", "WHU-OPT-SAR", "fMoW", "HRSC2016")]
    others = {name: data for subset in bare for name, data in annotations_of(subset).items()}
    path = releases.put(tmp_path / "MMM-RS", {**release["Inria"].files, **others})
    result = convert(path, tmp_path / "out")
    for subset in bare:
        totals = result.summary["subsets"][subset.name]
        assert totals["images"] == {"released": 0, "published": 0, "reported": 0}
        assert totals["records"] == {"released": subset.records, "used": 0, "reported": subset.records}
        rows = [row for row in unpublished(tmp_path / "out") if row["subset"] == subset.name]
        assert {row["kind"] for row in rows} == {"record"} and {row["reason"] for row in rows} == {"no_images"}
        listed = [(row["path"], row["position"]) for row in rows]
        assert len(listed) == len(set(listed)) == subset.records
    total = result.summary["total"]["records"]
    assert total["released"] == total["used"] + total["reported"]
    assert total["released"] == sum(subset.records for subset in (release["Inria"], *bare))
    named = [source["subset"] for source in result.summary["sources"] if source["problem"] == "no_images"]
    assert set(named) == {subset.name for subset in bare}
    verify(tmp_path / "out", path)
    assert not convert(path, tmp_path / "out").written


def test_records_that_cannot_be_used_keep_their_own_reason_without_images(clean_release, tmp_path):
    records = [{"image": "a.jpg", "prompt": "a city"}, {"image": "b.jpg"}, {"image": "c.jpg", "prompt": "a field"}, 7]
    files = {**clean_release["Inria"].files, "MMM-RS_GID.json": json.dumps(records).encode()}
    result = convert(releases.put(tmp_path / "MMM-RS", files), tmp_path / "out")
    rows = [row for row in unpublished(tmp_path / "out") if row["subset"] == "GID"]
    assert [(row["position"], row["reason"]) for row in rows] == [
        (0, "no_images"),
        (1, "no_prompt"),
        (2, "no_images"),
        (3, "not_an_object"),
    ]
    assert result.summary["subsets"]["GID"]["reasons"]["record"] == {
        "no_images": 2,
        "no_prompt": 1,
        "not_an_object": 1,
    }


def test_images_that_come_later_take_the_place_of_that(clean_release, tmp_path):
    hrsc, inria = clean_release["HRSC2016"], clean_release["Inria"]
    path = releases.put(tmp_path / "MMM-RS", {**inria.files, **annotations_of(hrsc)})
    assert convert(path, tmp_path / "out").reported
    releases.put(path, hrsc.files)
    result = convert(path, tmp_path / "out")
    assert (result.reported, set(result.manifest["subsets"])) == (0, {"HRSC2016", "Inria"})
    convert(path, tmp_path / "at once")
    assert tree(tmp_path / "out") == tree(tmp_path / "at once")


def test_a_zip_that_holds_neither_images_nor_annotations_is_named(clean_release, tmp_path):
    files = {"Inria.zip": releases.zipped(clean_release["Inria"].files), "GID.zip": releases.zipped({"a.npy": b"x"})}
    (problem,) = release.find(releases.put(tmp_path, files)).problems
    assert (problem.code, problem.subset) == ("nothing_known", "GID")


def test_a_folder_without_anything_of_mmm_rs_is_said_to_be_that_with_examples(tmp_path):
    releases.put(tmp_path / "etc", {f"{number:02d}/x.conf": b"x" for number in range(20)})
    (tmp_path / "etc/link").symlink_to(tmp_path)
    with pytest.raises(ReleaseError) as error:
        release.find(tmp_path / "etc")
    names = ", ".join(f"etc/{number:02d}/x.conf" for number in range(5))
    assert f"nothing of MMM-RS was found here among 21 files, such as {names}. Give the folder" in str(error.value)
    releases.put(tmp_path / "etc", {"MMM-RS.rar": b"Rar!"})
    assert "other_archive" in problems(release.find(tmp_path / "etc")).values()


def test_a_folder_of_hidden_files_alone_is_said_to_be_that(tmp_path, clean_release):
    releases.put(tmp_path / "x/.Trash-1000", clean_release["Inria"].files)
    with pytest.raises(ReleaseError, match="it holds no files outside of hidden folders and recycle bins"):
        release.find(tmp_path / "x")


def test_where_nothing_is_found_the_links_are_named_that_may_lead_to_it(clean_release, tmp_path):
    releases.put(tmp_path / "disk2/Inria", clean_release["Inria"].files)
    (tmp_path / "MMM-RS").mkdir()
    (tmp_path / "MMM-RS/Inria").symlink_to(tmp_path / "disk2/Inria")
    with pytest.raises(ReleaseError) as error:
        release.find(tmp_path / "MMM-RS")
    assert str(error.value).endswith(
        "Not looked into: MMM-RS/Inria: it is a symbolic link, which is not followed. Move here what it points to, or "
        "give that as the release"
    )


def test_a_link_to_a_zip_is_read_and_one_to_a_folder_is_named(clean_release, tmp_path):
    releases.put(tmp_path / "elsewhere", {"Inria.zip": releases.zipped(clean_release["Inria"].files), "GID/a": b"x"})
    (tmp_path / "MMM-RS").mkdir()
    for name in "Inria.zip", "GID":
        (tmp_path / "MMM-RS" / name).symlink_to(tmp_path / "elsewhere" / name)
    listing = release.find(tmp_path / "MMM-RS")
    assert (images(listing), problems(listing)) == ({"Inria": 5}, {"GID": "link"})
