"""What file names say, and the keys that samples get from them."""

import tarfile

import numpy as np
import pyarrow as pa
import pytest

from conversion import names, sharding


@pytest.mark.parametrize(
    ("path", "subset", "within"),
    [
        ("MMM-RS/Inria.zip/Inria_dataset", "Inria", "Inria_dataset"),
        ("MMM-RS/Inria.zip/Inria/Inria_dataset/4096", "Inria", "Inria_dataset/4096"),
        ("release/Inria_dataset", "Inria", "Inria_dataset"),
        ("MMM-RS.zip/MMM-RS/WHU-OPT-SAR.zip/WHU-OPT-SAR_dataset/RGB_jpg", "WHU-OPT-SAR", "WHU-OPT-SAR_dataset/RGB_jpg"),
        ("release/sar_jpg", "WHU-OPT-SAR", "sar_jpg"),
        ("SEN1-2.zip/SEN1-2_dataset/SEN1-2_SAR", "SEN1-2", "SEN1-2_dataset/SEN1-2_SAR"),
        ("release/SEN1-2_RGB", "SEN1-2", "SEN1-2_RGB"),
        ("weather.zip/fog", "weather", "fog"),
        ("MMM-RS/snowy", "weather", "snowy"),
        ("GID.zip/fog", "GID", "fog"),
        ("MRSSC2.0/MRSSC2.0_dataset", "MRSSC2.0", "MRSSC2.0_dataset"),
        ("mrssc2.0.zip", "MRSSC2.0", ""),
        ("release/crop_Inria/512", "Inria", "crop_Inria/512"),
        ("release/fmow_process", "fMoW", "fmow_process"),
        ("release/HRSC2016_process", "HRSC2016", "HRSC2016_process"),
        ("MMM-RS_GID.zip/images", "GID", "images"),
        ("GID (1).zip/GID_dataset", "GID", "GID_dataset"),
        ("night/GID.zip/GID_dataset", "GID", "GID_dataset"),
        ("night/weather.zip/fog", "weather", "fog"),
        ("Inria_dataset/WHU-OPT-SAR/sar_jpg", "WHU-OPT-SAR", "sar_jpg"),
        ("Inria.zip?download=1/512", "Inria", "512"),
        ("MRSSC2.0.zip.1/images", "MRSSC2.0", "images"),
        ("GID - Copy (2).zip/a", "GID", "a"),
        ("NaSC-TG2-20240801T101112Z-001.zip/a", "NaSC-TG2", "a"),
        ("Inria.zipped/a", None, ""),
        ("downloads/holiday", None, ""),
        ("MMM-RS", None, ""),
    ],
)
def test_the_way_to_a_folder_tells_its_subset(path, subset, within):
    parts = path.split("/")
    located, depth = names.locate(parts)
    assert located == subset
    if subset:
        assert "/".join(parts[depth:]) == within


@pytest.mark.parametrize(
    ("stem", "subset"),
    [
        ("MMM-RS_Inria", "Inria"),
        ("MMM-RS_fog_cleaned", "weather"),
        ("MMM-RS_WHU-OPT-SAR", "WHU-OPT-SAR"),
        ("SEN1-2_RGB_clean", "SEN1-2"),
        ("MMM-RS_MRSSC2.0", "MRSSC2.0"),
        ("notes", None),
    ],
)
def test_an_annotation_file_tells_its_subset_by_its_name(stem, subset):
    assert names.subset_of_file(stem) == subset


@pytest.mark.parametrize(
    ("name", "subset"),
    [
        ("MMM-RS/GID.zip.crdownload", "GID"),
        ("MRSSC2.0.z01", "MRSSC2.0"),
        ("Inria.zip.001", "Inria"),
        ("SEN1-2.7z.002", "SEN1-2"),
        ("fMoW.part1.rar", "fMoW"),
        ("MMM-RS_Inria.json?download=1", "Inria"),
        ("MMM-RS_MRSSC2.0 (1).json", "MRSSC2.0"),
        ("MMM-RS.zip.part", None),
    ],
)
def test_a_file_tells_its_subset_whatever_stands_behind_its_name(name, subset):
    assert names.subset_of_download(name) == subset


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("MMM-RS_fog_cleaned.json", "fog"),
        ("MMM-RS_snowy_cleaned.json", "snow"),
        ("MMM-RS_WHU-OPT-SAR.json", None),
        ("MMM-RS_SEN1-2_SAR.json", "sar"),
        ("RGB_jpg/annotations.json", "rgb"),
        ("MMM-RS_Inria.json", None),
    ],
)
def test_an_annotation_file_may_be_about_one_modality_or_scene(name, hint):
    assert names.hint(name) == hint


@pytest.mark.parametrize(
    ("place", "key"),
    [
        ("ROIs1158_spring_1_p1", "SEN1-2/ROIs1158_spring_1_p1"),
        ("4096/a.b c", "SEN1-2/4096/a_b_c"),
        ("中国 1", "SEN1-2/_1"),
        ("__x/y", "SEN1-2/_x/y"),
    ],
)
def test_keys_hold_only_safe_characters_and_no_part_that_readers_skip(place, key):
    assert key_of("SEN1-2", place) == key


def test_the_config_with_a_dot_has_none_in_its_keys():
    assert key_of("MRSSC2.0", "RGB_farm_1") == "MRSSC2_0/RGB_farm_1"


def key_of(subset, place):
    image = np.array([[0, -1, -1]])  # its row among the sources
    return sharding.keys(subset, pa.array([place]), image, pa.array([f"{place}.jpg"]), np.array([0]))[0].as_py()


@pytest.mark.parametrize(
    "key", ["Inria/" + "x" * 300, "Inria/" + "d" * 120 + "/" + "x" * 120, "Inria/" + "/".join(["d" * 50] * 8)]
)
def test_long_keys_are_cut_to_what_a_tar_header_holds(key):
    assert not names.fits(key)
    short = names.shortened(key, "中.jpg")
    assert names.fits(short)
    assert short.endswith("-12dbceb2")  # printf 中.jpg | sha256sum
    member = tarfile.TarInfo(short + ".nir.jpg")
    assert tarfile.TarInfo.frombuf(member.tobuf(tarfile.USTAR_FORMAT), "utf-8", "strict").name == member.name


@pytest.mark.parametrize(
    ("subset", "places", "scene"),
    [
        ("WHU-OPT-SAR", ["NH49E001013_0_512", "NH49E001013_512_0"], "NH49E001013"),
        ("SEN1-2", ["ROIs1158_spring_1_p1", "ROIs1158_spring_1_p20"], "ROIs1158_spring_1"),
        ("fMoW", ["airport_3_1_rgb_center", "airport_3_2_rgb_left_bottom", "airport_3_1_rgb_sr"], "airport_3"),
        ("Inria", ["crop_512_0_1_austin1", "crop_512_center_austin1", "2048/resize_512_from_2048_austin1"], "austin1"),
    ],
)
def test_all_samples_of_a_scene_are_known_as_one(subset, places, scene):
    assert {names.scene(subset, place) for place in places} == {scene}


@pytest.mark.parametrize(
    ("name", "gsd"),
    [
        ("resize_512_from_4096_a.jpg", 2.4),
        ("x/resize_512_from_2048_a.jpg", 1.2),
        ("resize_512_from_1024_a.jpg", 0.6),
        ("crop_512_0_0_a.jpg", 0.3),
        ("crop_512_center_a.jpg", 0.3),
        ("other.jpg", None),
    ],
)
def test_inria_names_tell_the_gsd(name, gsd):
    assert names.inria_gsd(name) == gsd


@pytest.mark.parametrize(
    "name",
    [
        "a.json" + "?" * 200 + "\n",
        "a.json" + "#" * 200 + "x",
        "a.json" + "~1" * 100 + "x",
        "a.json" + ".bak" * 60 + "\n",
        "a.json" + " " * 4000,
        " " * 4000 + ".json",
        "-copy" * 800 + ".json",
        "(" * 2000 + "conflict" * 200 + ".json",
        "~" * 4000 + ".json",
    ],
)
def test_a_name_that_is_made_to_take_long_takes_no_time(name):
    names.original_of(name)
    names.subset_of_download(name)
