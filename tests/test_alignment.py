"""Images of one place become one sample; each record meets the image it names, and none it does not."""

import pyarrow as pa
import pytest

from conversion import alignment
from mmm_rs import MODALITIES


def places(subset, sources):
    table = alignment.places(subset, pa.array(sources))
    return list(zip(table.place.to_pylist(), [MODALITIES[m] if m >= 0 else None for m in table.modality], strict=True))


def test_twins_differ_by_a_whole_token():
    assert places(
        "SEN1-2",
        [
            "SEN1-2_dataset/SEN1-2_RGB/ROIs1158_spring_s2_1_p1.jpg",
            "SEN1-2_dataset/SEN1-2_SAR/ROIs1158_spring_s1_1_p1.jpg",
        ],
    ) == [("ROIs1158_spring_1_p1", "rgb"), ("ROIs1158_spring_1_p1", "sar")]


def test_the_modality_may_stand_at_the_end_and_in_any_case():
    assert places(
        "WHU-OPT-SAR",
        [
            "WHU-OPT-SAR_dataset/RGB_jpg/NH49E001013_0_512_RGB.jpg",
            "NIR_jpg/NH49E001013_0_512_nir.jpg",
            "sar_jpg/NH49E001013_0_512_SAR.png",
        ],
    ) == [("NH49E001013_0_512", "rgb"), ("NH49E001013_0_512", "nir"), ("NH49E001013_0_512", "sar")]


def test_where_the_name_has_no_token_the_folder_tells_the_modality():
    assert places(
        "WHU-OPT-SAR",
        [
            "WHU-OPT-SAR_dataset/RGB_jpg/a_0_0.jpg",
            "WHU-OPT-SAR_dataset/sar_jpg/a_0_0.jpg",
            "WHU-OPT-SAR_dataset/other/a_0_0.jpg",
        ],
    ) == [("a_0_0", "rgb"), ("a_0_0", "sar"), ("a_0_0", None)]


def test_other_subsets_keep_their_folders_and_dots():
    assert places("Inria", ["Inria_dataset/4096/a.b.jpg", "Inria_dataset/c.png", "d.jpg"]) == [
        ("4096/a.b", "rgb"),
        ("c", "rgb"),
        ("d", "rgb"),
    ]
    assert places("weather", ["fog/1.jpg", "night/1.jpg"]) == [("fog/1", "rgb"), ("night/1", "rgb")]


INRIA = [
    "Inria_dataset/4096/x.jpg",
    "Inria_dataset/2048/x.jpg",
    "Inria_dataset/512/only.jpg",
    "Inria_dataset/top.v2.jpg",
]
WEATHER = ["fog/1.jpg", "night/1.jpg", "fog/2.jpg", "snowy/3.jpg"]


def named(subset, sources, path, hint=None):
    """The image that a record with this path names."""
    images = pa.array(sources)
    matches = alignment.match(subset, images, alignment.places(subset, images), pa.array([path]), [(0, 1, hint)])
    row = int(matches.image[0])
    return {alignment.NO_MATCH: None, alignment.AMBIGUOUS: "ambiguous"}.get(row, sources[row] if row >= 0 else None)


@pytest.mark.parametrize(
    ("path", "image"),
    [
        ("Inria_dataset/4096/x.jpg", 0),
        ("4096/x.jpg", 0),
        ("2048\\x.tif", 1),
        ("D:\\data\\Inria\\2048\\x.png", 1),
        ("/home/a/b/4096/X.JPG", 0),
        ("./4096/x", 0),
        ("../out/4096/x", 0),
        ("x.jpg", "ambiguous"),
        ("1024/x.jpg", None),
        ("/data/x.jpg", None),
        ("only", 2),
        ("/data/512/only.jpg", 2),
        ("/data/only.jpg", None),
        ("top.v2", 3),
        ("top.v2.jpg", 3),
        ("/anywhere/at/all/top.v2.png", 3),
        ("top", None),
        ("", None),
    ],
)
def test_record_paths_of_every_kind_meet_their_image_only(path, image):
    assert named("Inria", INRIA, path) == (INRIA[image] if isinstance(image, int) else image)


@pytest.mark.parametrize(
    ("path", "hint", "image"),
    [
        ("fog/1.jpg", None, 0),
        ("1.jpg", None, "ambiguous"),
        ("1.jpg", "fog", 0),
        ("/data/foggy_final/1.png", "fog", 0),
        ("1.jpg", "snow", None),
        ("snowy/1.jpg", "snow", None),
        ("night/1.jpg", "fog", 1),
        ("3", "snow", 3),
    ],
)
def test_equal_stems_under_different_scenes_are_told_apart(path, hint, image):
    assert named("weather", WEATHER, path, hint) == (WEATHER[image] if isinstance(image, int) else image)


SEN = ["SEN1-2_dataset/SEN1-2_RGB/ROIs1868_summer_s2_1_p1.jpg", "SEN1-2_dataset/SEN1-2_SAR/ROIs1868_summer_s1_1_p1.jpg"]


@pytest.mark.parametrize(
    ("path", "image"),
    [
        ("SEN1-2_SAR/ROIs1868_summer_s1_1_p1.jpg", 1),
        ("/x/ROIs1868_summer/s2_1/ROIs1868_summer_s2_1_p1.png", 0),
        ("rois1868_summer_s1_1_p1", 1),
        ("ROIs1868_summer_s1_1_p2.png", None),
        ("ROIs1868_summer_1_p1", None),
    ],
)
def test_aligned_records_meet_by_place_and_modality(path, image):
    assert named("SEN1-2", SEN, path) == (None if image is None else SEN[image])


def test_images_that_differ_by_suffix_or_case_are_told_apart_by_the_records_spelling():
    images = ["GID_dataset/a.jpg", "GID_dataset/a.png", "GID_dataset/A.jpg"]
    assert named("GID", images, "a.png") == images[1]
    assert named("GID", images, "A") == images[2]
    assert named("GID", images, "a.tif") == "ambiguous"


@pytest.mark.parametrize("folders", ["", "GID_dataset/", "D:\\data\\GID_dataset\\"])
def test_images_that_differ_by_normal_form_are_told_apart_by_the_records_spelling(folders):
    composed, decomposed = "caf\u00e9", "cafe\u0301"
    images = [f"GID_dataset/{composed}.jpg", f"GID_dataset/{decomposed}.jpg"]
    assert named("GID", images, f"{folders}{composed}.jpg") == images[0]
    assert named("GID", images, f"{folders}{decomposed}.png") == images[1]
    assert named("GID", images, f"{folders}{composed.upper()}.jpg") == "ambiguous"
    assert named("GID", images[:1], f"{folders}{decomposed}.jpg") == images[0]


def test_an_image_called_by_nothing_but_its_token_keeps_that_as_its_place():
    assert places("WHU-OPT-SAR", ["WHU-OPT-SAR_dataset/RGB_jpg/RGB.jpg"]) == [("RGB", "rgb")]
