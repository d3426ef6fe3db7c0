"""Any annotation file becomes a stream of records; what cannot be used is a record with a problem."""

import io
import json
import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from conversion import annotations
from conversion.annotations import AnnotationError


def read(data, **options):
    data = data.encode() if isinstance(data, str) else data
    form, records = annotations.read(lambda: io.BytesIO(data), **options)
    return form, list(records)


ROWS = [
    {"image": "a/1.jpg", "prompt": "one, 中文", "category": "port", "spatial_resolution": 0.5, "cloud_cover": 7},
    {"image": "a/2.jpg", "prompt": "  two  "},
]
KEYED = {row["image"]: {key: value for key, value in row.items() if key != "image"} for row in ROWS}

FORMS = {
    "array": ("array", json.dumps(ROWS, ensure_ascii=False)),
    "array over lines": ("array", json.dumps(ROWS, ensure_ascii=False, indent=4)),
    "keyed": ("keyed", json.dumps(KEYED, ensure_ascii=False)),
    "keyed over lines": ("keyed", json.dumps(KEYED, ensure_ascii=False, indent=4)),
    "wrapped": ("wrapped", json.dumps({"info": {"description": "x", "year": 2024}, "annotations": ROWS, "n": [1]})),
    "lines": ("lines", "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in ROWS)),
    "lines without an end": ("lines", "\r\n\r\n".join(json.dumps(row) for row in ROWS)),
    "objects in a row": ("lines", "".join(json.dumps(row) for row in ROWS)),
}


@pytest.mark.parametrize("name", FORMS)
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "gb18030"])
def test_forms_and_encodings_are_recognised_by_content(name, encoding):
    kind, text = FORMS[name]
    form, records = read(text.encode(encoding))
    assert form.kind == kind and form.prompt_key == "prompt"
    assert [(r.position, r.path, r.prompt, r.category, r.gsd, r.cloud_cover, r.problem) for r in records] == [
        (0, "a/1.jpg", "one, 中文", "port", 0.5, 7.0, None),
        (1, "a/2.jpg", "  two  ", None, None, None, None),
    ]


@pytest.mark.parametrize("name", [name for name in FORMS if "wrapped" not in name])
def test_the_record_is_kept_verbatim(name):
    text = FORMS[name][1]
    for record, row in zip(read(text)[1], ROWS, strict=True):
        inner = record.text[1:-1] if name.startswith("keyed") else record.text
        assert inner in text
        assert json.loads(record.text) == ({row["image"]: KEYED[row["image"]]} if name.startswith("keyed") else row)


def test_a_path_may_have_its_prompt_without_a_key():
    form, records = read(json.dumps({"a.jpg": "one", "b.jpg": ["two", "three"], "c.jpg": None}))
    assert form.kind == "keyed"
    assert [(r.path, r.prompt, r.problem) for r in records] == [("a.jpg", "one", None), ("b.jpg", "two", None), (None, None, "no_prompt")]


@pytest.mark.parametrize("image", ["image", "image_path", "img", "file_name", "filename", "path", "file", "name"])
@pytest.mark.parametrize("prompt", ["prompt", "text_prompt", "text", "caption", "captions", "description"])
def test_keys_in_common_use_are_known(image, prompt):
    form, [record] = read(json.dumps([{image: "x.jpg", prompt: "y", "other": "z"}]))
    assert (form.image_key, form.prompt_key, record.path, record.prompt) == (image, prompt, "x.jpg", "y")


def test_a_list_within_a_record_is_no_list_of_records():
    rows = [{"tags": ["a", "b"], "image": "x.jpg", "prompt": "y"}] * 2
    for text in (json.dumps(rows), "\n".join(map(json.dumps, rows))):
        assert [record.path for record in read(text)[1]] == ["x.jpg", "x.jpg"]


def test_the_prompt_is_the_prompt_where_there_is_a_caption_too():
    form, [record] = read(json.dumps([{"image": "x.jpg", "caption": "a caption", "prompt": "a prompt"}]))
    assert record.prompt == "a prompt"


def test_unknown_keys_are_named_with_the_remedy():
    text = json.dumps([{"bild": "x.jpg", "satz": "y"}])
    with pytest.raises(AnnotationError, match=r"'bild', 'satz'.*--image-key"):
        read(text)
    with pytest.raises(AnnotationError, match="--prompt-key"):
        read(text, image_key="bild")
    assert read(text, image_key="bild", prompt_key="satz")[1][0].prompt == "y"


@pytest.mark.parametrize("text", ["", " \n", "[]", "{}", "\ufeff[]", '{"annotations": []}'])
def test_a_file_without_records_is_empty(text):
    form, records = read(text)
    assert (form.kind, records) == ("empty", [])


@pytest.mark.parametrize("text", ["nothing of the kind", "123", '"text"', "<html>", "a,b\n1,2"])
def test_what_is_no_table_of_records_is_an_error(text):
    with pytest.raises(AnnotationError):
        read(text)


@pytest.mark.parametrize(
    ("record", "problem"),
    [
        ({"prompt": "x"}, "no_path"),
        ({"image": "", "prompt": "x"}, "no_path"),
        ({"image": 3, "prompt": "x"}, "wrong_type"),
        ({"image": "a.jpg"}, "no_prompt"),
        ({"image": "a.jpg", "prompt": None}, "no_prompt"),
        ({"image": "a.jpg", "prompt": " \n"}, "no_prompt"),
        ({"image": "a.jpg", "prompt": []}, "no_prompt"),
        ({"image": "a.jpg", "prompt": {"en": "x"}}, "wrong_type"),
        ({"image": "a.jpg", "prompt": [1, 2]}, "wrong_type"),
        ({"image": "a.jpg", "prompt": "\ud83d"}, "invalid_text"),
        ("text", "not_an_object"),
        (None, "not_an_object"),
        ([], "not_an_object"),
    ],
)
def test_a_record_that_cannot_be_used_says_why_and_the_rest_goes_on(record, problem):
    _, records = read(json.dumps([{"image": "a.jpg", "prompt": "x"}, record, {"image": "b.jpg", "prompt": "y"}]))
    assert [r.problem for r in records] == [None, problem, None]
    assert records[1].detail
    records[1].text.encode()


def test_of_json_lines_only_the_broken_line_is_lost():
    lines = ['{"image": "1.jpg", "prompt": "x"}', '{"image": "2.jpg", "prom', "rubbish", '{"image": "3.jpg", "prompt": "y"}']
    _, records = read("\n".join(lines))
    assert [(r.path, r.problem) for r in records] == [("1.jpg", None), (None, "invalid_json"), (None, "invalid_json"), ("3.jpg", None)]


def test_of_a_broken_array_what_came_before_stays():
    _, records = read('[{"image": "1.jpg", "prompt": "x"}, {"image": "2.jpg", "prompt": "y"}, {"image": ')
    assert [r.problem for r in records] == [None, None, "invalid_json"]
    assert "character" in records[2].detail


@pytest.mark.parametrize(
    ("value", "gsd"),
    [(0.3, 0.3), ("0.3", 0.3), ("0.3m", 0.3), ("10 m", 10.0), (0, None), (-1, None), ("high", None), (True, None),
     (float("inf"), None), (float("nan"), None), ([1], None)],
)  # fmt: skip
def test_the_gsd_is_a_finite_number_above_zero(value, gsd):
    assert read(json.dumps([{"image": "a.jpg", "prompt": "x", "spatial_resolution": value}]))[1][0].gsd == gsd


def test_twice_the_same_path_in_a_table_are_two_records():
    _, records = read('{"a.jpg": {"prompt": "x"}, "a.jpg": {"prompt": "y"}}')
    assert [record.prompt for record in records] == ["x", "y"]


def test_a_deeply_nested_record_is_a_problem_and_no_crash():
    deep = "[" * 100_000 + "]" * 100_000
    _, records = read('[{"image": "a.jpg", "prompt": "x"}, ' + deep + "]")
    assert [r.problem for r in records] == [None, "invalid_json"]


class Endless(io.RawIOBase):
    """JSON text made while it is read: no memory is its own."""

    def __init__(self, count):
        self.pieces = (self.record(at, count) for at in range(count))
        self.rest = b""

    def record(self, at, count):
        row = json.dumps({"image": f"folder/{at}.jpg", "prompt": f"an image of field number {at}"}).encode()
        return (b"[" if at == 0 else b",\n") + row + (b"]" if at == count - 1 else b"")

    def readable(self):
        return True

    def readinto(self, buffer):
        while len(self.rest) < len(buffer) and (piece := next(self.pieces, b"")):
            self.rest += piece
        data, self.rest = self.rest[: len(buffer)], self.rest[len(buffer) :]
        buffer[: len(data)] = data
        return len(data)


def test_memory_does_not_grow_with_the_file():
    peaks = []
    for count in (20_000, 80_000):
        tracemalloc.start()
        _, records = annotations.read(lambda count=count: io.BufferedReader(Endless(count)))
        assert sum(record.problem is None for record in records) == count
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.2 * peaks[0]


JSON = st.recursive(st.none() | st.booleans() | st.floats() | st.integers() | st.text(),
                    lambda inner: st.lists(inner) | st.dictionaries(st.sampled_from(["image", "prompt", "a/b.jpg", "x"]) | st.text(), inner))  # fmt: skip


@given(JSON.map(json.dumps) | st.text() | st.lists(JSON.map(json.dumps)).map("\n".join))
def test_any_text_gives_records_or_a_clear_error(text):
    data = text.encode("utf-8", "surrogatepass")
    try:
        _, records = read(data)
    except AnnotationError:
        return
    assert [record.position for record in records] == list(range(len(records)))
    for record in records:
        assert record.problem or (record.path and record.prompt)
        record.text.encode()


@given(st.binary())
def test_any_bytes_give_records_or_a_clear_error(data):
    try:
        read(data)
    except AnnotationError:
        pass


@given(st.lists(st.fixed_dictionaries({"image": st.text(min_size=1).map(lambda t: "p/" + t), "prompt": st.text(min_size=1).map(lambda t: "x" + t)}), min_size=1))
def test_what_json_writes_comes_back(rows):
    for text in (json.dumps(rows), json.dumps(rows, indent=1), "\n".join(map(json.dumps, rows))):
        records = read(text.encode())[1]
        assert len(records) == len(rows)
        for record, row in zip(records, rows, strict=True):
            if record.problem is None:
                assert (record.path, record.prompt) == (row["image"], row["prompt"])
            else:
                assert record.problem == "invalid_text"
