"""The forms of other data sets of images and texts: which are read, and which are named because they cannot be."""

from __future__ import annotations

import io
import json

import pyarrow.parquet as pq
import pytest

from conversion import annotations
from conversion.annotations import AnnotationError, Limits
from conversion.annotations.keys import IMAGE_KEYS, PROMPT_KEYS, fold
from tests import releases
from tests.conversions import convert
from tests.test_docs import ROOT


def read(value, **options):
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    form, records = annotations.read(lambda: io.BytesIO(text.encode()), **options)
    return form, list(records)


def pairs(value, **options):
    return [(record.path, record.prompt) for record in read(value, **options)[1]]


def coco(images, captions, **rest):
    listed = [{"id": id, "file_name": name, "width": 512, "height": 512} for id, name in images]
    listed_captions = [{"id": n, "image_id": id, "caption": caption} for n, (id, caption) in enumerate(captions)]
    return {
        "info": {"description": "captions"},
        "licenses": [],
        "images": listed,
        "annotations": listed_captions,
        **rest,
    }


LISTED = [(70, "a/1.jpg"), (71, "a/2.jpg")]
CAPTIONS = [(71, "two"), (70, "one"), (70, "one again")]
JOINED = [("a/2.jpg", "two"), ("a/1.jpg", "one"), ("a/1.jpg", "one again")]


@pytest.mark.parametrize("order", [["info", "images", "annotations"], ["annotations", "images", "licenses"]])
@pytest.mark.parametrize("indent", [None, 2])
@pytest.mark.parametrize("window", [64, 1 << 18])
def test_coco_captions_are_joined_by_the_id_of_the_image(order, indent, window):
    value = coco(LISTED, CAPTIONS)
    text = json.dumps({name: value[name] for name in order}, indent=indent)
    form, records = read(text, limits=Limits(window=window, glance=1))
    assert (form.kind, form.image_key, form.prompt_key) == ("coco", "image_id", "caption")
    assert [(record.path, record.prompt) for record in records] == JOINED
    assert [json.loads(record.text) for record in records] == value["annotations"]


@pytest.mark.parametrize(("listed", "referred"), [(int, str), (str, int), (str, str)])
def test_ids_may_be_numbers_or_text(listed, referred):
    value = coco([(listed(id), name) for id, name in LISTED], [(referred(id), caption) for id, caption in CAPTIONS])
    assert pairs(value) == JOINED


def test_a_caption_without_an_image_says_so_and_the_rest_goes_on():
    images = [*LISTED, (72, "a/3.jpg"), (72, "a/4.jpg"), (73, None), ([1], "a/5.jpg")]
    captions = [*CAPTIONS, (72, "which?"), (73, "none"), (99, "none"), (None, "none"), ([1], "none"), (1.5, "none")]
    images, captions = [*images, (1, "a/6.jpg"), (True, "a/7.jpg")], [*captions, (True, "none"), ("9" * 9999, "none")]
    records = read(coco(images, captions))[1]
    assert [(record.path, record.prompt) for record in records[:3]] == JOINED
    assert {record.problem for record in records[3:]} == {"no_path"}
    assert max(len(record.detail or "") for record in records) < 1000
    assert "several images have the id 72" in records[3].detail and "no image has the id 99" in records[5].detail


def test_damage_in_the_list_of_images_costs_the_captions_of_one():
    text = json.dumps(coco([*LISTED, (72, "a/3.jpg")], [*CAPTIONS, (72, "three")])).replace('"a/2.jpg"', '"a/"2.jpg"')
    records = read(text)[1]
    assert [record.path for record in records if not record.problem] == ["a/1.jpg", "a/1.jpg", "a/3.jpg"]
    assert [record.problem for record in records if record.problem] == ["no_path"]


def test_coco_captions_are_converted_and_the_first_caption_counts(tmp_path):
    images = {f"Inria_dataset/{number}.jpg": releases.picture(str(number)) for number in range(3)}
    listed = [(1000 + number, path.rsplit("/", 1)[-1]) for number, path in enumerate(images)]
    captions = [(id, f"{word} {id}") for word in ("first", "second") for id, _ in reversed(listed)]
    files = {"MMM-RS_Inria.json": json.dumps(coco(listed, captions)).encode(), **images}
    path = releases.put(tmp_path / "MMM-RS", {"Inria.zip": releases.zipped(files)})
    result = convert(path, tmp_path / "out", workers=1)
    rows = pq.read_table(tmp_path / "out/index/Inria.parquet").to_pylist()
    assert {row["key"]: row["prompt"] for row in rows} == {
        f"Inria/{number}": f"first {1000 + number}" for number in range(3)
    }
    assert result.summary["total"]["reasons"]["record"] == {"conflicting_prompt": 3}


def test_strings_under_image_id_are_paths_where_no_images_are_listed():
    assert pairs([{"image_id": "crop_512_0", "caption": "x"}]) == [("crop_512_0", "x")]


SENTENCES = [{"tokens": ["many", "planes"], "raw": "many planes .", "imgid": 0, "sentid": 0}, {"raw": "an airport ."}]
RSICD = {"filename": "airport_1.jpg", "imgid": 0, "sentences": SENTENCES, "split": "train", "sentids": [0, 1]}
TURNS = [{"from": "human", "value": "<image>\nDescribe."}, {"from": "gpt", "value": "A port."}]
MESSAGES = [
    {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "Describe."}]},
    {"role": "assistant", "content": [{"type": "text", "text": "A port."}]},
]


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ({"images": [RSICD, {**RSICD, "filename": "b.jpg"}], "dataset": "rsicd"}, ("airport_1.jpg", "many planes .")),
        ([RSICD], ("airport_1.jpg", "many planes .")),
        ({"a.jpg": {"sentences": SENTENCES}}, ("a.jpg", "many planes .")),
        ({"a.jpg": SENTENCES}, ("a.jpg", "many planes .")),
        ([{"image": "a.jpg", "sentences": [{"raw": ""}, {"raw": " "}, {"raw": "x"}]}], ("a.jpg", "x")),
        ([{"image": "a.jpg", "captions": [{"caption": "x"}, {"caption": "y"}]}], ("a.jpg", "x")),
        ([{"id": "1", "image": "a.jpg", "conversations": TURNS}], ("a.jpg", "A port.")),
        ({"a.jpg": {"conversations": TURNS}}, ("a.jpg", "A port.")),
        ([{"image": "a.jpg", "messages": MESSAGES}], ("a.jpg", "A port.")),
        ([{"image": "a.jpg", "messages": [{"role": "assistant", "content": "A port."}]}], ("a.jpg", "A port.")),
        ({"a.jpg": {"caption": "x", "tags": "t, u"}}, ("a.jpg", "x")),
        ({"a.jpg": {"tags": "t, u", "train_resolution": [512, 512]}}, ("a.jpg", "t, u")),
    ],
)
def test_other_forms_are_read(value, expected):
    assert pairs(value)[0] == expected
    if isinstance(value, list):
        assert pairs("\n".join(json.dumps(row) for row in value)) == pairs(value)


def test_tags_are_the_prompt_of_a_record_without_a_caption():
    table = {"a.jpg": {"caption": "x", "tags": "t"}, "b.jpg": {"tags": "u"}, "c.jpg": {"caption": " ", "tags": "v"}}
    table |= {"d.jpg": {"caption": None, "tags": ["w"]}, "e.jpg": {"caption": "y"}}
    records = read(table)[1]
    assert [record.prompt for record in records] == ["x", "u", "v", None, "y"]
    assert records[3].problem == "no_prompt" and json.loads(records[0].text) == {"a.jpg": table["a.jpg"]}


@pytest.mark.parametrize(
    "turns",
    [
        [{"from": "human", "value": "What is this?"}],
        [{"from": "gpt", "value": ""}],
        [{"from": "gpt", "value": None}],
        [{"from": "gpt"}],
        [{"role": "assistant", "content": [{"type": "image"}]}],
    ],
)
def test_a_question_is_not_a_prompt(turns):
    good = {"image": "a.jpg", "conversations": TURNS}
    assert [record.problem for record in read([good, {"image": "b.jpg", "conversations": turns}])[1]] == [
        None,
        "no_prompt",
    ]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("COCO captions without their list of images", [{"id": 1, "image_id": 7, "caption": "x"}]),
        ("COCO captions without their list of images", {"annotations": [{"id": 1, "image_id": 7, "caption": "x"}]}),
        ("COCO's boxes or masks", {"images": [], "annotations": [{"image_id": 7, "category_id": 1, "bbox": [1, 2]}]}),
        ("questions and answers", {"questions": [{"image_id": 7, "question": "how many?", "answer": "2"}]}),
        ("a table by columns", {"image": ["a.jpg", "b.jpg"], "prompt": ["x", "y"]}),
        ("a table by columns", {"image": {"0": "a.jpg", "1": "b.jpg"}, "prompt": {"0": "x", "1": "y"}}),
        ("a table by columns", {"image": {str(n): f"{n}.jpg" for n in range(9999)}, "prompt": {"0": "x", "1": "y"}}),
        ("a table of pandas", {"columns": ["image", "prompt"], "index": [0], "data": [["a.jpg", "x"]]}),
        ("lists without keys", [["a.jpg", "x"], ["b.jpg", "y"]]),
        ("LabelMe", {"version": "5.0", "shapes": [], "imagePath": "a.jpg", "imageData": None}),
        ("Label Studio", [{"id": 1, "data": {"img": "a.jpg"}, "annotations": []}]),
        ("GeoJSON", {"type": "FeatureCollection", "features": [{"type": "Feature", "properties": {"a": 1}}]}),
        ("dataset viewer", {"features": [], "rows": [{"row_idx": 0, "row": {"x": 1}, "truncated_cells": []}]}),
        ("the message of a server", {"errno": 31045, "error_msg": "the share has expired"}),
    ],
)
def test_a_form_that_cannot_be_used_is_named(name, value):
    with pytest.raises(AnnotationError, match=name) as caught:
        read(value)
    assert ("Download it again" in caught.value.remedy) == (name == "the message of a server")


def test_the_documentation_lists_the_keys_in_their_order():
    (section,) = (part for part in (ROOT / "docs/format.md").read_text().split("\n\n") if "The path is under" in part)
    listed = [fold(name) for name in section.split("`")[1::2]]
    assert [key for key in dict.fromkeys(listed) if key in IMAGE_KEYS] == list(IMAGE_KEYS)
    assert [key for key in dict.fromkeys(listed) if key in PROMPT_KEYS] == list(PROMPT_KEYS)
