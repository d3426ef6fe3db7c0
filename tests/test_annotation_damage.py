"""One broken record costs one record, and records in the file = used + reported."""

import io
import json
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from conversion import annotations
from conversion.annotations import Limits


def read(data, **options):
    data = data.encode() if isinstance(data, str) else data
    _, records = annotations.read(lambda: io.BytesIO(data), **options)
    records = list(records)
    assert [record.position for record in records] == list(range(len(records)))
    assert all(bool(record.problem) != bool(record.path and record.prompt) for record in records)
    return records


def used(records):
    return [(record.path, record.prompt) for record in records if not record.problem]


def rows(count):
    """Records with objects and arrays in them, whose keys are those of records too."""
    parts = [{"name": "ship", "description": "a ship"}, {"name": "quay", "description": "a quay"}]
    return [
        {
            "image": f"p/{number}.jpg",
            "prompt": f"a port, picture {number}",
            "gsd": 0.5,
            "parts": parts,
            "meta": {"a": 1},
        }
        for number in range(count)
    ]


def keyed(count):
    return {row["image"]: {name: value for name, value in row.items() if name != "image"} for row in rows(count)}


def table_of_lines(count):
    members = (f"{json.dumps(path)}: {json.dumps(row)}" for path, row in keyed(count).items())
    return "{\n" + ",\n".join(members) + "\n}\n"


FORMS = {
    "array": lambda count: json.dumps(rows(count)),
    "array without spaces": lambda count: json.dumps(rows(count), separators=(",", ":")),
    "indented array": lambda count: json.dumps(rows(count), indent=4),
    "array, one record per line": lambda count: "[\n" + ",\n".join(map(json.dumps, rows(count))) + "\n]\n",
    "table": lambda count: json.dumps(keyed(count)),
    "indented table": lambda count: json.dumps(keyed(count), indent=2),
    "table, one record per line": table_of_lines,
    "table of prompts": lambda count: json.dumps({row["image"]: row["prompt"] for row in rows(count)}),
    "wrapped array": lambda count: json.dumps({"info": {"description": "ports"}, "annotations": rows(count), "n": [1]}),
    "indented wrapped array": lambda count: json.dumps({"version": 1, "annotations": rows(count)}, indent=1),
    "wrapped table": lambda count: json.dumps({"count": count, "data": keyed(count)}),
    "JSON Lines": lambda count: "".join(json.dumps(row) + "\n" for row in rows(count)),
    "objects in a row": lambda count: "".join(map(json.dumps, rows(count))),
    "indented objects in a row": lambda count: "\n".join(json.dumps(row, indent=2) for row in rows(count)),
}


def expected(count, without=()):
    return [(f"p/{n}.jpg", f"a port, picture {n}") for n in range(count) if n not in without]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("broken", [(0,), (7,), (19,), (0, 1), (8, 9, 10), (0, 5, 19)], ids=str)
def test_an_unescaped_quote_costs_its_record(form, broken):
    text = FORMS[form](20)
    for number in broken:
        text = text.replace(f'picture {number}"', f'picture "{number}""')
    records = read(text)
    assert used(records) == expected(20, broken)
    assert [record.position for record in records if record.problem] == list(broken)
    for record in records:
        if record.problem:
            assert record.problem == "invalid_json" and "character" in record.detail
            assert f"p/{record.position}.jpg" in record.detail


DAMAGE = {
    "a flipped bit": lambda byte: bytes([byte ^ 1 << byte % 7]),
    "an impossible byte": lambda byte: b"\xff",
    "a zero": lambda byte: b"\0",
    "a quote": lambda byte: b'"',
    "a brace": lambda byte: b"}",
    "a bracket": lambda byte: b"[",
    "a comma": lambda byte: b",",
    "nothing": lambda byte: b"",
    "one more brace": lambda byte: bytes([byte]) + b"}",
    "a backslash before it": lambda byte: b"\\" + bytes([byte]),
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("damage", DAMAGE)
def test_any_damage_within_a_record_costs_that_record_alone(form, damage):
    data = FORMS[form](5).encode()
    begin, end = data.index(b"p/2.jpg"), data.rindex(b"picture 2") + len("picture 2")
    if "prompts" not in form:
        end = data.index(b"quay", end)
    for place in range(begin, end):
        records = read(data[:place] + DAMAGE[damage](data[place]) + data[place + 1 :])
        others = [pair for pair in used(records) if "2" not in pair[0] + pair[1]]
        assert others == [pair for pair in expected(5, (2,)) if pair in others]
        assert len(records) == 5 and len(others) >= 4 - (len(used(records)) == 5), place


@pytest.mark.parametrize("form", FORMS)
def test_any_damaged_byte_costs_two_records_at_most(form):
    """Also between records, and in what surrounds them, but for the beginning: by it the form is known."""
    data = FORMS[form](6).encode()
    places = random.Random(1).sample(range(24, len(data)), min(len(data) - 24, 150))
    for place in places:
        for damage in (b"\xff", b"}", b'"', b""):
            records = read(data[:place] + damage + data[place + 1 :])
            whole = [pair for pair in used(records) if pair in expected(6)]
            assert len(whole) >= 4 and 5 <= len(records) <= 8, (place, damage)


@pytest.mark.parametrize("form", [form for form in FORMS if "prompts" not in form])
@pytest.mark.parametrize("name", ["first", "last"])
def test_a_brace_that_is_missing_costs_its_record(form, name):
    number = 0 if name == "first" else 4
    whole = FORMS[form](6)
    begin = whole.index(f"picture {number}")
    end = whole.index("}", whole.index('"meta"', begin))
    for place in (end, whole.index("}", end + 1)):  # that of `meta`, that of the record
        records = read(whole[:place] + whole[place + 1 :])
        assert set(expected(6, (number,))) <= set(used(records))
        assert len(records) <= 7


DEEP = {
    "brackets": "[" * 2000,
    "braces": '{"a":' * 2000,
    "a string that is not closed": '"a string',
    "a record whose string is not closed": '{"image": "x.jpg", "prompt": "a port}',
    "a record that ends early": '{"image": "x.jpg", "prompt": "a po',
    "an escaped quote": '{"image": "x.jpg", "prompt": "a port\\"}',
    "a record with brackets": '{"image": "x.jpg", "prompt": "a port", "x": ' + "[" * 2000,
    "a long line": '{"image": "x.jpg", "x": "' + "y" * 9000,
    "rubbish": "nothing of the kind",
    "markup": "<html>",
    "a log": "12:01 INFO read",
}


@pytest.mark.parametrize("line", DEEP)
@pytest.mark.parametrize("place", [0, 10, 20])
def test_of_json_lines_a_line_that_cannot_be_read_costs_itself(line, place):
    if (line, place) == ("a long line", 0):
        pytest.skip("what is longer than a record at the beginning is taken for what surrounds records")
    lines = [json.dumps(row) for row in rows(20)]
    lines.insert(place, DEEP[line])
    for end in ("\n", "\r\n"):
        records = read(end.join(lines) + end, limits=Limits(longest=5000, window=1000))
        assert used(records) == expected(20)
        assert [record.position for record in records if record.problem] == [place]


@pytest.mark.parametrize("element", [name for name in DEEP if name != "a long line"])
def test_so_does_one_of_an_array(element):
    lines = [json.dumps(row) for row in rows(20)]
    lines.insert(10, DEEP[element])
    for separator in (",", ",\n"):
        records = read("[" + separator.join(lines) + "]")
        assert used(records) == expected(20)
        assert [record.position for record in records if record.problem] == [10]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("end", ["\0" * 4096, "\x1a", "\n\0\0\n", "\r\n\x1a\r\n", "\0" * 300_000])
def test_what_systems_leave_behind_a_file_is_not_a_record(form, end):
    records = read(FORMS[form](3) + end)
    assert used(records) == expected(3) and len(records) == 3


@pytest.mark.parametrize("form", FORMS)
def test_a_file_that_ends_early_has_one_broken_record(form):
    text = FORMS[form](10)
    for cut in ("picture 7", '"p/7.jpg"', '"meta"'):
        if cut in text:
            records = read(text[: text.rindex(cut) + 4])
            whole = len(used(records))
            assert used(records) == expected(10)[:whole] and 7 <= whole <= 9
            assert [record.problem for record in records[whole:]] == ["invalid_json"]


@pytest.mark.parametrize("hole", [100, 5000])
@pytest.mark.parametrize("form", FORMS)
def test_behind_a_hole_of_zeros_reading_goes_on(form, hole):
    data = FORMS[form](300).encode()
    middle = data.index(b"picture 30")
    records = read(data[:middle] + bytes(hole) + data[middle + hole :])
    assert set(expected(300)[:30]) <= set(used(records)) <= set(expected(300))
    assert ("p/299.jpg", "a port, picture 299") in used(records)
    assert len(records) > len(used(records))


WRAPPERS = {
    "an unescaped quote": '{"info": {"description": "so-called "ports""}, "annotations": %s}',
    "a missing bracket": '{"info": {"licenses": ["x"}, "annotations": %s}',
    "a missing comma": '{"info": {"a": 1} "annotations": %s}',
    "a missing colon": '{"info": 1, "annotations" %s}',
    "a missing name": '{"info": 1, : %s}',
    "one brace too many": '{"info": {"a": 1}}, "annotations": %s}',
    "damage behind": '{"annotations": %s, "info": "so-called "ports""}',
    "a bare word": '{"info": undefined, "annotations": %s}',
}


@pytest.mark.parametrize("wrapper", WRAPPERS)
@pytest.mark.parametrize("indent", [None, 2])
def test_damage_beside_the_records_costs_none_of_them(wrapper, indent):
    records = read(WRAPPERS[wrapper] % json.dumps(rows(5), indent=indent))
    assert used(records) == expected(5)
    assert len(records) <= 8


@pytest.mark.parametrize("form", ["array", "lines"])
def test_what_is_given_up_is_counted(form):
    """Where so much is damaged that reading on would take too long."""
    unclosed = ['{"image": "x.jpg", "x": [' for _ in range(3000)]
    text = "\n".join([*map(json.dumps, rows(10)), *unclosed, *map(json.dumps, rows(10))])
    records = read(f"[{text}]" if form == "array" else text, limits=Limits(waste=100_000))
    assert used(records)[:10] == expected(10)
    assert len(records) == 3020
    assert sum("given up" in (record.detail or "") for record in records) > 100


PIECES = st.sampled_from(
    [*'{}[]",: \n\\', '{"image": "a.jpg", "prompt": "x"}', '"a/b.jpg": {"prompt": "x"}', '"annotations": [', "\0", "中"]
)


@given(st.sampled_from(list(FORMS)), st.data(), st.integers(4, 90))
def test_it_makes_no_difference_how_much_is_read_at_a_time(form, data, window):
    text = FORMS[form](4)
    for _ in range(data.draw(st.integers(1, 3))):
        place = data.draw(st.integers(0, len(text)))
        text = text[:place] + data.draw(PIECES) + text[place + data.draw(st.integers(0, 3)) :]

    def outcome(**options):
        try:
            return [(record.path, record.prompt, record.problem) for record in read(text, **options)]
        except annotations.AnnotationError:
            return None

    assert outcome(limits=Limits(window=window)) == outcome()
