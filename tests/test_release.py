"""What of a folder belongs to a release, in which form it lies there, and what is said of the rest."""

from __future__ import annotations

import json
import shutil
import zipfile
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from conversion import convert, verify
from conversion.errors import ReleaseError
from conversion.inspection import inspect
from tests import releases
from tests.test_conversion import members, tree, unpublished


def test_one_subset_alone_as_zip_or_folder(clean_release, tmp_path):
    inria = clean_release["Inria"]
    for at, path in enumerate(
        [releases.single_zip(inria, tmp_path / "zip"), releases.single_folder(inria, tmp_path / "folder")]
    ):
        convert(path, tmp_path / f"out{at}")
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


# --- what a conversion wrote ------------------------------------------------------------------------------------------


def test_a_release_that_is_its_own_output(clean_release, tmp_path):
    path = releases.zips_stored([clean_release["Inria"]], tmp_path)
    assert convert(path, path).reported == 0
    assert not convert(path, path).written
    assert convert(path, path, overwrite=True).reported == 0
    found = inspect(path)
    assert found["problems"] == [] and found["unknown"] == []


def test_converted_folders_within_the_release_are_no_part_of_it(clean_release, tmp_path):
    path = releases.zips_stored([clean_release["Inria"]], tmp_path)
    convert(path, path / "hub")
    assert convert(path, path / "other").reported == 0
    found = inspect(path)
    assert found["problems"] == [] and found["unknown"] == []
    assert convert(path, tmp_path / "out").reported == 0
    assert members(tmp_path / "out") == members(path / "hub") == members(path / "other")


def test_a_converted_folder_is_no_release(clean_release, tmp_path):
    convert(releases.zips_stored([clean_release["Inria"]], tmp_path), tmp_path / "out")
    with pytest.raises(ReleaseError, match="nothing of MMM-RS was found here"):
        convert(tmp_path / "out", tmp_path / "other")
