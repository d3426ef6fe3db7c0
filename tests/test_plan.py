"""Which images become a sample, which record describes each image, and what is said of the others."""

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from conversion import alignment, plan
from conversion.options import Options
from mmm_rs import PROMPT_COLUMNS
from tests import releases
from tests.conversions import convert, verify
from tests.outputs import members, reasons, unpublished


def test_two_images_of_one_place_are_both_reported_and_named(clean_release, tmp_path):
    sen = clean_release["SEN1-2"]
    double = {"SEN1-2_dataset/copy/ROIs1868_summer_s2_7_p1.jpg": releases.picture("double")}
    path = releases.zips_stored([sen.with_files(**double)], tmp_path / "release")
    convert(path, tmp_path / "out")
    rows = [row for row in unpublished(tmp_path / "out") if row["kind"] == "image"]
    assert [row["reason"] for row in rows] == ["same_place", "same_place"]
    assert rows[0]["path"] in rows[1]["detail"] and rows[1]["path"] in rows[0]["detail"]
    assert "SEN1-2/ROIs1868_summer_7_p1.sar.jpg" in members(tmp_path / "out")


def whu(records):
    """WHU-OPT-SAR with two places of three images each and these records."""
    images = {
        f"WHU-OPT-SAR_dataset/{folder}/NH49E001013_{x}_0_{token}.jpg": releases.picture(f"{token}{x}")
        for token, folder in (("RGB", "RGB_jpg"), ("NIR", "NIR_jpg"), ("SAR", "sar_jpg"))
        for x in (0, 512)
    }
    return releases.Subset("WHU-OPT-SAR", {"a.json": json.dumps(records).encode()} | images, {})


def test_a_modality_that_no_record_names_is_served_by_the_samples_record(tmp_path):
    records = [{"image": f"RGB_jpg/NH49E001013_{x}_0_RGB.jpg", "prompt": f"a place {x}"} for x in (0, 512)]
    result = convert(releases.zips_stored([whu(records)], tmp_path / "release"), tmp_path / "out")
    assert result.manifest["subsets"]["WHU-OPT-SAR"]["pairs"] == {"rgb": 2, "nir": 2, "sar": 2}
    assert members(tmp_path / "out")["WHU-OPT-SAR/NH49E001013_512_0.sar.txt"] == b"a place 512"
    assert result.summary["subsets"]["WHU-OPT-SAR"]["records"] == {"released": 2, "used": 2, "reported": 0}


def test_a_modality_that_some_record_names_is_not_served_by_another(tmp_path):
    records = [{"image": f"NH49E001013_{x}_0_RGB.jpg", "prompt": f"a place {x}"} for x in (0, 512)]
    records.append({"image": "NH49E001013_0_0_SAR.jpg", "prompt": "a radar image"})
    path = releases.zips_stored([whu(records)], tmp_path / "release")
    result = convert(path, tmp_path / "out")
    assert result.manifest["subsets"]["WHU-OPT-SAR"]["pairs"] == {"rgb": 2, "nir": 2, "sar": 1}
    assert reasons(tmp_path / "out") == {"NH49E001013_512_0_SAR.jpg": "no_record"}
    kept = convert(path, tmp_path / "kept", options=Options(keep_unprompted=True))
    assert kept.manifest["subsets"]["WHU-OPT-SAR"]["pairs"] == {"rgb": 2, "nir": 2, "sar": 1}
    published = members(tmp_path / "kept")
    assert (
        "WHU-OPT-SAR/NH49E001013_512_0.sar.jpg" in published
        and "WHU-OPT-SAR/NH49E001013_512_0.sar.txt" not in published
    )
    assert kept.reported == 0
    verify(tmp_path / "kept", path)


def test_records_that_cannot_be_used_are_reported_with_file_and_position(tmp_path):
    image = {f"GID_dataset/{n}.jpg": releases.picture(str(n)) for n in range(3)}
    records = [
        {"image": "0.jpg", "prompt": "the first wins"},
        {"image": "0.jpg", "prompt": "the first wins"},
        {"image": "0.jpg", "prompt": "another"},
        {"prompt": "no path"},
        {"image": "1.jpg"},
        {"image": "1.jpg", "prompt": 7},
        "no record",
        {"image": "1.jpg", "prompt": ["the first of a list", "the second"]},
        {"image": "2.jpg", "prompt": "half a character \ud800"},
    ]
    subset = releases.Subset("GID", {"MMM-RS_GID.json": json.dumps(records).encode()} | image, {})
    convert(releases.zips_stored([subset], tmp_path / "release"), tmp_path / "out")
    published = members(tmp_path / "out")
    assert published["GID/0.txt"] == b"the first wins" and published["GID/1.txt"] == b"the first of a list"
    rows = {
        row["position"]: (row["path"], row["reason"])
        for row in unpublished(tmp_path / "out")
        if row["kind"] == "record"
    }
    assert rows == {
        position: ("MMM-RS_GID.json", reason)
        for position, reason in {
            1: "duplicate_record",
            2: "conflicting_prompt",
            3: "no_path",
            4: "no_prompt",
            5: "wrong_type",
            6: "not_an_object",
            8: "invalid_text",
        }.items()
    }


# --- annotations of one modality -------------------------------------------------------------------------------------


def by_modality(subset):
    """The images and records of SEN1-2 by their modality, as (images, annotation file)."""
    (name,) = (name for name in subset.files if releases.is_annotation(name))
    records = json.loads(subset.files[name])
    for token in ("_s2_", "_s1_"):
        modality_records = {path: record for path, record in records.items() if token in path}
        assert len(modality_records) == 4
        yield {n: d for n, d in subset.images.items() if token in n}, json.dumps(modality_records).encode()


def test_each_zip_of_a_modality_has_annotations_of_the_same_name(clean_release, tmp_path):
    zips = {}
    for modality, (images, annotations) in zip(("RGB", "SAR"), by_modality(clean_release["SEN1-2"]), strict=True):
        zips[f"SEN1-2_{modality}.zip"] = releases.zipped({**images, "annotations.json": annotations})
    result = convert(releases.put(tmp_path / "MMM-RS", zips), tmp_path / "out")
    assert result.reported == 0
    assert result.manifest["subsets"]["SEN1-2"]["pairs"] == {"rgb": 4, "nir": 0, "sar": 4}
    rows = pq.read_table(tmp_path / "out/index/SEN1-2.parquet").to_pylist()
    assert all(row[PROMPT_COLUMNS["rgb"]] != row[PROMPT_COLUMNS["sar"]] for row in rows)


@pytest.mark.parametrize("damage", [lambda data: b"<html>", lambda data: data[:3]], ids=["no JSON", "cut"])
def test_radar_images_have_no_optical_prompt_where_their_own_are_unreadable(damage, clean_release, tmp_path):
    (optical, annotations), (radar, radar_annotations) = by_modality(clean_release["SEN1-2"])
    files = {
        **optical,
        **radar,
        "MMM-RS_SEN1-2_RGB.json": annotations,
        "MMM-RS_SEN1-2_SAR.json": damage(radar_annotations),
    }
    result = convert(releases.put(tmp_path / "MMM-RS", {"SEN1-2.zip": releases.zipped(files)}), tmp_path / "out")
    assert result.manifest["subsets"]["SEN1-2"]["pairs"] == {"rgb": 4, "nir": 0, "sar": 0}
    assert result.summary["subsets"]["SEN1-2"]["reasons"]["image"] == {"no_record": 4}


# --- the grids: a row for each place, a column for each modality -----------------------------------------------------


def grid_of(images):
    """(places, grid of images, reported) of SEN1-2 with these files."""
    sources = pa.array(images)
    located = alignment.places("SEN1-2", sources)
    place_of, places = plan._numbered(located, aligned=True)
    grid, reported = plan._image_grid("SEN1-2", sources, place_of, located.modality, len(places))
    return places.to_pylist(), grid.tolist(), [(row.path, row.reason) for row in reported]


def test_images_of_one_place_stand_in_one_row():
    names = ["a_s1_1_p1.jpg", "a_s2_1_p2.jpg", "a_s2_1_p1.jpg"]
    assert grid_of(names) == (["a_1_p1", "a_1_p2"], [[2, -1, 0], [1, -1, -1]], [])


def test_no_image_gets_a_cell_that_several_claim():
    names = ["x/a_s1_1_p1.jpg", "y/a_s1_1_p1.jpg", "a_s2_1_p1.jpg"]
    assert grid_of(names) == (["a_1_p1"], [[2, -1, -1]], [(names[0], "same_place"), (names[1], "same_place")])


def test_an_image_whose_modality_nothing_tells_or_the_subset_lacks_gets_no_cell():
    names = ["a_1_p1.jpg", "a_nir_1_p1.jpg", "a_s2_1_p1.jpg"]
    assert grid_of(names) == (
        ["a_1_p1"],
        [[2, -1, -1]],
        [(names[0], "unknown_modality"), (names[1], "unknown_modality")],
    )


def test_the_first_record_that_names_a_cell_is_chosen():
    place, modality = np.array([0, 1, 0, -1, 0]), np.array([0, 0, 0, 0, 2])
    grid, winner = plan._choose(place, modality, (2, 3))
    assert grid.tolist() == [[0, -1, 4], [1, -1, -1]]
    assert winner.tolist() == [0, 1, 0, -1, 4]  # of each record: which one got the cell that it names


def test_a_modality_without_records_of_its_own_shares_those_of_the_first_that_has_one():
    grid = np.array([[0, -1, -1], [-1, 1, -1], [2, 3, -1], [-1, -1, -1]])
    assert plan._share(grid, columns=[0, 1, 2], bare=[2]).tolist() == [[0, -1, 0], [-1, 1, 1], [2, 3, 2], [-1, -1, -1]]
