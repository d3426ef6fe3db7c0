"""Images in the plain folders that upstream's processing scripts write, annotations from elsewhere."""

from __future__ import annotations

import shutil
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from conversion import inspect
from conversion.errors import UsageError
from mmm_rs import LABEL_TYPES
from mmm_rs_cli import cli
from tests import releases
from tests.conversions import convert, verify
from tests.outputs import members, tree, unpublished

# Subsets of which the scripts leave more than one folder, or folders whose names do not tell the subset.
FOLDERS = {
    "Inria": ["crop_Inria/512", "crop_Inria/1024", "crop_Inria/2048", "crop_Inria/4096"],
    "WHU-OPT-SAR": ["RGB_jpg", "NIR_jpg", "SAR_jpg"],
    "SEN1-2": ["SEN1-2_RGB", "SEN1-2_SAR"],
    "fMoW": ["fmow_process"],
    "HRSC2016": ["HRSC2016_process"],
    "weather": ["fog", "snowy"],
}


def rows(out: Path, subset: str) -> list[dict]:
    """The rows of a subset's index without what follows from the paths of the images, which the scripts decide."""
    theirs = ("source", "annotation", "shard", "rgb_offset", "nir_offset", "sar_offset")
    return [
        {name: value for name, value in row.items() if name not in theirs}
        for row in pq.read_table(out / "index" / f"{subset}.parquet").to_pylist()
    ]


@pytest.fixture(scope="module")
def from_zips(clean_release, tmp_path_factory):
    """The output for the same release as zips."""
    return convert(clean_release.path, tmp_path_factory.mktemp("zips") / "out").out


@pytest.fixture(scope="module")
def beside(clean_release, tmp_path_factory):
    """The regenerated folders with the annotations beside them, and the output for them."""
    folder = tmp_path_factory.mktemp("beside")
    path = releases.regenerated(clean_release.subsets, folder / "release")
    result = convert(path, folder / "out")
    assert result.reported == 0 and result.summary["sources"] == []
    return path, result.out


def test_the_folders_are_upstreams(beside):
    path, _ = beside
    for folders in FOLDERS.values():
        for folder in folders:
            assert (path / folder).is_dir()


def test_keys_and_rows_are_those_of_the_zips(clean_release, from_zips, beside):
    path, out = beside
    for subset in clean_release.subsets:
        if subset.name != "Inria":
            assert rows(out, subset.name) == rows(from_zips, subset.name)
    verify(out, path)


def test_inrias_folders_are_part_of_its_keys(from_zips, beside):
    """Its cutter wrote to folders; the zip of this release has none."""
    _, out = beside
    keys = {row["key"] for row in rows(out, "Inria")}
    assert keys == {
        "Inria/4096/resize_512_from_4096_vienna1",
        "Inria/2048/resize_512_from_2048_vienna1",
        "Inria/1024/resize_512_from_1024_vienna1",
        "Inria/512/crop_512_0_0_vienna1",
        "Inria/512/crop_512_center_vienna1",
    }
    published = {
        row["key"].rsplit("/")[-1]: (row["prompt"], row["gsd"], row["rgb_crc32"]) for row in rows(out, "Inria")
    }
    assert published == {
        row["key"].rsplit("/")[-1]: (row["prompt"], row["gsd"], row["rgb_crc32"]) for row in rows(from_zips, "Inria")
    }


def test_a_zip_with_the_same_folders_gives_inria_the_same_keys(clean_release, tmp_path):
    stems = [Path(path).stem for path in clean_release["Inria"].images]
    entries = []
    for stem in stems:
        folder = releases.regenerated_path("Inria", f"Inria_dataset/{stem}.jpg").split("/")[1]
        entries.append(releases.Entry(f"{folder}/{stem}", f"Inria_dataset/{folder}/{stem}.jpg", f"High, {stem}"))
    subset = releases.subset("Inria", {"MMM-RS_Inria.json": {}}, entries)
    convert(releases.zips_stored([subset], tmp_path / "zips"), tmp_path / "out")
    convert(releases.regenerated([subset], tmp_path / "folders"), tmp_path / "again")
    assert rows(tmp_path / "again", "Inria") == rows(tmp_path / "out", "Inria")
    assert {row["key"] for row in rows(tmp_path / "out", "Inria")} == set(subset.samples)


# ------------------------------------------------------------------------------------ annotations from somewhere else


def annotation_files(subsets) -> dict[str, dict[str, bytes]]:
    """{subset: its annotation files}"""
    return {
        subset.name: {path: data for path, data in subset.files.items() if releases.is_annotation(path)}
        for subset in subsets
    }


def flat(subsets, folder: Path) -> Path:
    return releases.put(
        folder, {path: data for files in annotation_files(subsets).values() for path, data in files.items()}
    )


def in_subfolders(subsets, folder: Path) -> Path:
    return releases.put(
        folder,
        {
            f"annotations/{name}/{path}": data
            for name, files in annotation_files(subsets).items()
            for path, data in files.items()
        },
    )


def in_a_zip(subsets, folder: Path) -> Path:
    files = {path: data for files in annotation_files(subsets).values() for path, data in files.items()}
    return releases.put(folder, {"annotations.zip": releases.zipped(files)}) / "annotations.zip"


def in_zips_by_subset(subsets, folder: Path) -> Path:
    return releases.put(
        folder, {f"{name}.zip": releases.zipped(files) for name, files in annotation_files(subsets).items()}
    )


def in_zips_in_a_zip(subsets, folder: Path) -> Path:
    in_zips_by_subset(subsets, folder / "zips")
    zips = {path.name: path.read_bytes() for path in (folder / "zips").iterdir()}
    return releases.put(folder, {"cloud.zip": releases.zipped(zips)}) / "cloud.zip"


def with_other_files(subsets, folder: Path) -> Path:
    """The cloud folder holds images as well; only its annotations are asked for."""
    return releases.put(
        flat(subsets, folder), {"preview/holiday.jpg": b"x", "GID_dataset/1.jpg": b"x", "notes.txt": b"x"}
    )


@pytest.mark.parametrize("form", [flat, in_subfolders, in_a_zip, in_zips_by_subset, in_zips_in_a_zip, with_other_files])
def test_annotations_that_lie_apart_give_the_same_bytes(form, clean_release, beside, tmp_path):
    path = releases.regenerated(clean_release.subsets, tmp_path / "release", annotations=False)
    result = convert(path, tmp_path / "out", annotations=form(clean_release.subsets, tmp_path / "apart"))
    assert result.reported == 0
    assert tree(tmp_path / "out") == tree(beside[1])


def test_a_folder_that_is_given_twice_is_read_once(clean_release, beside, tmp_path):
    """The annotations' folder is within the release, or the other way round, or both are one."""
    images = releases.regenerated(clean_release.subsets, tmp_path / "both", annotations=False)
    both = images.parent  # `images` and `annotations`
    for number, (path, apart) in enumerate([(both, both / "annotations"), (images, both), (both, both)]):
        assert convert(path, tmp_path / f"out{number}", annotations=apart).reported == 0
        assert tree(tmp_path / f"out{number}") == tree(beside[1])


def test_a_file_is_no_folder_of_annotations(clean_release, beside, tmp_path):
    with pytest.raises(UsageError, match=r"--annotations .*MMM-RS_GID\.json: give the folder or zip"):
        convert(beside[0], tmp_path / "out", annotations=beside[0] / "MMM-RS_GID.json")
    assert not (tmp_path / "out").exists()


def test_the_command_converts_and_inspects(clean_release, beside, tmp_path, capsys):
    path = releases.regenerated(clean_release.subsets, tmp_path / "release", annotations=False)
    apart = in_a_zip(clean_release.subsets, tmp_path / "apart")
    assert cli.main(["inspect", str(path), "--annotations", str(apart)]) == 0
    printed = capsys.readouterr().out
    assert "10 of 10 subsets" in printed and "left out" not in printed and "Problem" not in printed
    assert cli.main(["convert", str(path), str(tmp_path / "out"), "--annotations", str(apart), "--quiet"]) == 0
    assert tree(tmp_path / "out") == tree(beside[1])


# --------------------------------------------------------------------------------------------------- a part, a mixture


def test_subsets_and_modalities_that_were_not_regenerated(clean_release, from_zips, tmp_path):
    path = releases.regenerated(clean_release.subsets, tmp_path / "release", annotations=False)
    for name in ("fmow_process", "SAR_jpg", "crop_Inria/4096", "crop_Inria/2048", "crop_Inria/1024"):
        shutil.rmtree(path / name)
    result = convert(path, tmp_path / "out", annotations=in_a_zip(clean_release.subsets, tmp_path / "apart"))
    assert "fMoW" not in result.manifest["subsets"]
    assert [source["subset"] for source in result.summary["sources"]] == ["fMoW"]  # annotations without any image
    assert {row["key"] for row in rows(result.out, "Inria")} == {
        "Inria/512/crop_512_0_0_vienna1",
        "Inria/512/crop_512_center_vienna1",
    }
    of_sar = [
        "sar_prompt",
        "sar_size",
        "sar_crc32",
        "sar_width",
        "sar_height",
        *(f"sar_{label}" for label in LABEL_TYPES),
    ]
    whole = [row | dict.fromkeys(of_sar) for row in rows(from_zips, "WHU-OPT-SAR")]
    assert rows(result.out, "WHU-OPT-SAR") == whole
    left_out = [row for row in unpublished(result.out) if row["kind"] == "record"]
    missing = {"WHU-OPT-SAR": sum("sar" in s for s in clean_release["WHU-OPT-SAR"].samples.values()), "Inria": 3}
    missing["fMoW"] = clean_release["fMoW"].records
    assert {name: sum(row["subset"] == name for row in left_out) for name in missing} == missing
    reasons = {(row["subset"] == "fMoW", row["reason"]) for row in left_out}
    assert reasons == {(True, "no_images"), (False, "no_image")}
    verify(result.out, path)


@pytest.mark.parametrize("folder", ["crop_Inria", "fmow_process", "HRSC2016_process"])
def test_one_folder_alone(folder, clean_release, beside, tmp_path):
    [name] = [name for name, folders in FOLDERS.items() if folder in (path.split("/")[0] for path in folders)]
    path = releases.regenerated([clean_release[name]], tmp_path / "release", annotations=False) / folder
    annotations = flat([clean_release[name]], tmp_path / "apart")
    report = inspect(path, annotations=annotations)
    assert list(report["subsets"]) == [name] and report["problems"] == []
    assert convert(path, tmp_path / "out", annotations=annotations).reported == 0
    assert rows(tmp_path / "out", name) == rows(beside[1], name)


def test_some_subsets_in_zips_and_others_regenerated(clean_release, from_zips, beside, tmp_path):
    """As in upstream's cloud folder: weather's images are there, the others are made."""
    zipped, regenerated = clean_release.subsets[:2], clean_release.subsets[2:]
    path = releases.regenerated(regenerated, tmp_path / "release", annotations=False)
    releases.put(path, {f"{subset.name}.zip": releases.zipped(subset.files) for subset in zipped})
    result = convert(path, tmp_path / "out", annotations=flat(regenerated, tmp_path / "apart"))
    assert result.reported == 0
    for subsets, out in ((zipped, from_zips), (regenerated, beside[1])):
        for subset in subsets:
            shards, expected = tree(result.out / "data" / subset.name), tree(out / "data" / subset.name)
            assert shards == expected and shards


def test_regenerated_folders_with_the_annotations_elsewhere(clean_release, reference, tmp_path):
    images = releases.regenerated(clean_release.subsets, tmp_path / "images", annotations=False)
    for subset in clean_release.subsets:
        releases.put(
            tmp_path / "json", {path: data for path, data in subset.files.items() if releases.is_annotation(path)}
        )
    result = convert(images, tmp_path / "out", annotations=tmp_path / "json")
    assert result.reported == 0
    wanted = {subset.name: set(subset.images.values()) for subset in clean_release.subsets}
    for subset, contents in wanted.items():
        prefix = subset.replace(".", "_") + "/"
        assert {
            data
            for name, data in members(tmp_path / "out").items()
            if name.startswith(prefix) and name.endswith(".jpg")
        } == contents
