"""Any annotation file becomes a stream of records; what cannot be used is a record with a problem."""

import contextlib
import io
import json
import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from conversion import annotations
from conversion.annotations import AnnotationError, Limits


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
    assert [(r.path, r.prompt, r.problem) for r in records] == [
        ("a.jpg", "one", None),
        ("b.jpg", "two", None),
        ("c.jpg", None, "no_prompt"),
    ]


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
    _, [record] = read(json.dumps([{"image": "x.jpg", "caption": "a caption", "prompt": "a prompt"}]))
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
    lines = [
        '{"image": "1.jpg", "prompt": "x"}',
        '{"image": "2.jpg", "prom',
        "rubbish",
        '{"image": "3.jpg", "prompt": "y"}',
    ]
    _, records = read("\n".join(lines))
    assert [(r.path, r.problem) for r in records] == [
        ("1.jpg", None),
        (None, "invalid_json"),
        (None, "invalid_json"),
        ("3.jpg", None),
    ]


def test_of_a_broken_array_what_came_before_stays():
    _, records = read('[{"image": "1.jpg", "prompt": "x"}, {"image": "2.jpg", "prompt": "y"}, {"image": ')
    assert [r.problem for r in records] == [None, None, "invalid_json"]
    assert "character" in records[2].detail


@pytest.mark.parametrize(
    ("value", "gsd"),
    [
        (0.3, 0.3),
        ("0.3", 0.3),
        ("0.3m", 0.3),
        ("10 m", 10.0),
        (0, None),
        (-1, None),
        ("high", None),
        (True, None),
        (float("inf"), None),
        (float("nan"), None),
        ([1], None),
    ],
)
def test_the_gsd_is_a_finite_number_above_zero(value, gsd):
    assert read(json.dumps([{"image": "a.jpg", "prompt": "x", "spatial_resolution": value}]))[1][0].gsd == gsd


def test_twice_the_same_path_in_a_table_are_two_records():
    _, records = read('{"a.jpg": {"prompt": "x"}, "a.jpg": {"prompt": "y"}}')
    assert [record.prompt for record in records] == ["x", "y"]


def test_a_deeply_nested_record_is_a_problem_and_no_crash():
    deep = "[" * 100_000 + "]" * 100_000
    _, records = read('[{"image": "a.jpg", "prompt": "x"}, ' + deep + "]")
    assert [r.problem for r in records] == [None, "too_deep"]


class Endless(io.RawIOBase):
    """JSON text made while it is read: no memory is its own."""

    def __init__(self, count, words=""):
        self.words = words
        self.pieces = (self.record(number, count) for number in range(count))
        self.rest = b""

    def record(self, number, count):
        row = json.dumps(
            {"image": f"folder/{number}.jpg", "prompt": f"an image of field number {number}{self.words}"}
        ).encode()
        return (b"[" if number == 0 else b",\n") + row + (b"]" if number == count - 1 else b"")

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
    for count in (10_000, 40_000):
        tracemalloc.start()
        _, records = annotations.read(lambda count=count: io.BufferedReader(Endless(count)))
        assert sum(record.problem is None for record in records) == count
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.2 * peaks[0]


NAMES = st.sampled_from(["image", "prompt", "a/b.jpg", "x"]) | st.text()
JSON = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(NAMES, inner),
)


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
    with contextlib.suppress(AnnotationError):
        read(data)


@given(
    st.lists(
        st.fixed_dictionaries(
            {"image": st.text(min_size=1).map(lambda t: "p/" + t), "prompt": st.text(min_size=1).map(lambda t: "x" + t)}
        ),
        min_size=1,
    )
)
def test_what_json_writes_comes_back(rows):
    for text in (json.dumps(rows), json.dumps(rows, indent=1), "\n".join(map(json.dumps, rows))):
        records = read(text.encode())[1]
        assert len(records) == len(rows)
        for record, row in zip(records, rows, strict=True):
            if record.problem is None:
                assert (record.path, record.prompt) == (row["image"], row["prompt"])
            else:
                assert record.problem == "invalid_text"


# --- what upstream could have published as well ----------------------------------------------------------------------


def paths(text, **options):
    return [(record.path, record.prompt) for record in read(text, **options)[1]]


TWO = [("a/1.jpg", "one, 中文"), ("a/2.jpg", "  two  ")]


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        ("wrapped", {"data": {"annotations": ROWS}}),
        ("keyed", {"data": {"images": KEYED}, "count": 2}),
        ("wrapped", {"name": "MMM-RS", "description": "A dataset", "annotations": ROWS}),
        (
            "wrapped",
            {"categories": [{"id": 1, "name": "port"}], "licenses": [{"name": "x", "url": "y"}], "records": ROWS},
        ),
        ("wrapped", {"annotations": ROWS[:1], "more": ROWS[1:]}),
        ("wrapped", {"info": {"annotations": [], "text": "x"}, "annotations": ROWS}),
        ("wrapped", {"info": [[{"deep": [1]}]], "annotations": ROWS}),
        ("keyed", {"0": ROWS[0], "1": ROWS[1]}),
        ("keyed", {row["image"]: row["prompt"] for row in ROWS}),
        ("keyed", {row["image"]: [row["prompt"]] for row in ROWS}),
        ("array", [{"File Name": row["image"], "Text-Prompt": row["prompt"]} for row in ROWS]),
        ("array", [{"image": [row["image"]], "prompt": ["", row["prompt"], "third"]} for row in ROWS]),
    ],
)
def test_records_are_found_where_they_are(kind, value):
    text = json.dumps(value, ensure_ascii=False)
    form, records = read(text)
    assert form.kind == kind
    assert [(record.path, record.prompt) for record in records] == TWO
    for record in records:
        assert (record.text[1:-1] if kind == "keyed" else record.text) in text


def test_a_table_may_be_keyed_by_stems():
    assert paths('{"NH49E001013_0_512_RGB": "a field", "NH49E001013_0_1024_RGB": {"prompt": "a lake"}}') == [
        ("NH49E001013_0_512_RGB", "a field"),
        ("NH49E001013_0_1024_RGB", "a lake"),
    ]


@pytest.mark.parametrize(
    "value",
    [
        {"error_code": 31045, "error_msg": "the share has expired", "request": "x"},  # instead of a file
        {"image": ["1.jpg", "2.jpg"], "prompt": ["x", "y"]},  # columns
        [["1.jpg", "x"], ["2.jpg", "y"]],
        ["1.jpg", "2.jpg"],
        {"images": [{"id": 1, "file_name": "1.jpg"}], "annotations": [{"image_id": 1, "bbox": [0, 0, 1, 1]}]},
    ],
)
def test_nothing_is_guessed_of_other_forms(value):
    try:
        _, records = read(json.dumps(value))
    except AnnotationError as error:
        assert "annotations:" in str(error)
    else:
        assert all(record.problem for record in records)


def test_a_record_with_objects_in_it_is_one_record():
    row = {"image": "a.jpg", "prompt": "x", "objects": [{"name": "ship", "description": "a ship"}] * 2}
    for text in (json.dumps(row), json.dumps(row, indent=2), "\n".join([json.dumps(row)] * 3)):
        assert set(paths(text)) == {("a.jpg", "x")}


def test_a_key_that_is_given_counts_where_it_is_found():
    both = [{"image": "a.jpg", "prompt": "x", "zh": "y"}]
    assert paths(json.dumps(both), prompt_key="zh") == [("a.jpg", "y")]
    assert paths(json.dumps(both), prompt_key="elsewhere") == [("a.jpg", "x")]
    wrapped = {"info": {}, "rows": [{"bild": "a.jpg", "satz": "x"}]}
    assert paths(json.dumps(wrapped), image_key="bild", prompt_key="satz") == [("a.jpg", "x")]
    with pytest.raises(AnnotationError, match="bild"):
        read(json.dumps(wrapped))


def test_a_key_without_text_is_not_preferred():
    assert paths('[{"image": 7, "path": "a.jpg", "prompt": null, "caption": "x"}]') == [("a.jpg", "x")]


def test_a_key_of_the_first_records_holds_for_all():
    rows = [{"image": "a.jpg", "prompt": "x"}] * 200 + [{"image": "b.jpg", "caption": "y"}]
    assert read(json.dumps(rows))[1][-1].problem == "no_prompt"


# --- damage ----------------------------------------------------------------------------------------------------------


def test_a_bad_byte_costs_its_record_alone():
    data = json.dumps(
        [{"image": f"{number}.jpg", "prompt": "农田 und Wälder"} for number in range(9)], ensure_ascii=False
    ).encode()
    form, records = read(data.replace("田".encode(), b"\xff\xfe", 1))
    assert form.encoding == "utf-8"
    assert [record.problem for record in records] == ["invalid_text"] + [None] * 8
    assert "\ufffd" not in "".join(record.prompt or "" for record in records)


def test_bare_control_characters_are_escaped_in_the_record():
    for text in (
        '[{"image": "a.jpg",\n "prompt": "x\ty\n"}]',
        '{"a.jpg": {"prompt": "x\ty\n"}}',
        '{"image": "a.jpg", "prompt": "x\ty\n"}\n',
    ):
        [record] = read(text)[1]
        assert (record.path, record.prompt) == ("a.jpg", "x\ty\n")
        assert "x\\u0009y" in record.text and json.loads(record.text)


def test_what_json_does_not_know_but_python_writes():
    [record] = read(
        '[{"image": "a.jpg", "prompt": "x", "gsd": NaN, "resolution": -Infinity, "cloud_cover": Infinity}]'
    )[1]
    assert (record.problem, record.gsd, record.cloud_cover) == (None, None, None)


def test_commas_too_many_or_too_few_do_no_harm():
    a, b = (json.dumps({"image": f"{number}.jpg", "prompt": "x"}) for number in (1, 2))
    for text in (f"{a},\n{b},\n", f"{a}{b}", f"[{a},,{b},]", f"[{a} {b}]", f"[{a}]\n[{b}]"):
        assert paths(text) == [("1.jpg", "x"), ("2.jpg", "x")]


@pytest.mark.parametrize(
    ("inner", "problem"),
    [
        ('"' + "x" * 9000 + '"', "too_long"),
        ("[" * 9000 + "]" * 9000, "too_"),
        ('"' + '\\"]}' * 3000 + '"', "too_long"),
        ("9" * 4000, None),
        ("-" + "9" * 2000, None),
    ],
)
@pytest.mark.parametrize("form", ["array", "lines", "keyed"])
def test_an_absurd_record_costs_itself_alone(inner, problem, form):
    rows = [f'"prompt": "x", "gsd": {inner if number == 1 else 2}' for number in range(3)]
    if form == "keyed":
        text = "{" + ", ".join(f'"{number}.jpg": {{{row}}}' for number, row in enumerate(rows)) + "}"
    else:
        rows = [f'{{"image": "{number}.jpg", {row}}}' for number, row in enumerate(rows)]
        text = "\n".join(rows) if form == "lines" else f"[{','.join(rows)}]"
    _, records = read(text, limits=Limits(longest=5000))
    assert [record.path for record in records if record.problem is None] == (
        ["0.jpg", "1.jpg", "2.jpg"] if problem is None else ["0.jpg", "2.jpg"]
    )
    assert problem is None or records[1].problem.startswith(problem)


def test_a_wrapper_with_much_beside_its_records():
    beside = {
        "images": [{"id": number, "width": 512} for number in range(1000)],
        "text": "x" * 9000,
        "tree": {str(number): [number] for number in range(1000)},
    }
    value = {**beside, "annotations": ROWS, "last": beside}
    assert paths(json.dumps(value), limits=Limits(longest=5000, window=1000)) == TWO


@pytest.mark.parametrize(
    "line", ['{"image": "x', '{"image": "x", "prompt": "y"', '["', "[0,", '{"a":{"b":0,', '{"a"', "}", '"', "{"]
)
def test_a_file_of_broken_lines_ends_in_good_time(line):
    good = '{"image": "a.jpg", "prompt": "x"}\n'
    _, records = read(good + (line + "\n") * 20_000 + good)
    assert records[0].problem is None and len(records) <= 20_010
    assert [record.position for record in records] == list(range(len(records)))


# --- windows ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", FORMS)
def test_it_makes_no_difference_how_much_is_read_at_a_time(name):
    text = FORMS[name][1] + ("\nrubbish\n" + FORMS[name][1] if "lines" in name else "")
    whole = read(text)
    for window in range(4, 120):
        form, records = read(text, limits=Limits(window=window, glance=1))
        assert (form.kind, records) == (whole[0].kind, whole[1]), window


RECORDS = ['{"image": "a.jpg", "prompt": "x"}', '{"a/b.jpg": "x"}', '"a/b.jpg": {"prompt": "x"}']
NAMED = ['"annotations":', '"image": "a"', '"prompt": "x"']
VALUES = ["NaN", "-Infinity", "12", "1.5e3", "\\u12", "\\ud83d", "null", "中", "\t"]
PIECES = st.sampled_from([*'{}[]",: \n\\', *RECORDS, *NAMED, *VALUES])


@given(st.lists(PIECES).map("".join), st.integers(4, 40))
def test_nor_does_it_for_broken_text(text, window):
    def outcome(**options):
        try:
            return [(record.path, record.prompt, record.problem) for record in read(text, **options)[1]]
        except AnnotationError:
            return None

    assert outcome(limits=Limits(window=window)) == outcome()


def test_fifty_megabytes_take_a_few():
    count, words = 25_000, " and more words" * 133
    tracemalloc.start()
    _, records = annotations.read(lambda: io.BufferedReader(Endless(count, words)))
    assert sum(len(record.prompt) for record in records) > 50_000_000
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 10_000_000
