"""Random and hostile input, judged by programs that we did not write: nothing is accepted that all of them reject, and
nothing is read differently from them without a word.

    MMM_RS_FUZZ=100 python -m pytest tests/test_fuzz.py

takes a hundred times the examples of an ordinary run (about an hour).
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import tarfile
import tempfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from PIL import Image

import mmm_rs
from conversion import annotations, images
from conversion.annotations import AnnotationError
from conversion.archives import DAMAGE, Archive, ArchiveError, DamagedEntry, Entry, Reader, inner_archive, read_entries
from conversion.errors import MMMRSError, OutputError, VerificationError
from conversion.images import RejectedImage
from conversion.prompts import PromptParts, split
from mmm_rs import SUBSETS
from tests import converted, releases
from tests.conversions import convert, verify
from tests.releases import DEFLATED, STORED, RawEntry, changed
from tests.test_archives import (
    assert_not_accepted_alone_nor_read_differently,
    on_disk,
    plain_names,
    readable,
)

TIMES = int(os.environ.get("MMM_RS_FUZZ", "1"))


def examples(count: int) -> settings:
    """An ordinary run takes the same examples each time, a longer one always others.

    `deadline`: milliseconds for one example; bounded input takes bounded time, even on a busy machine.
    """
    return settings(
        max_examples=count * TIMES,
        deadline=20_000,
        derandomize=TIMES == 1,
        suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large],
    )


# --- damage of any bytes ---------------------------------------------------------------------------------------------

CHANGES = st.lists(
    st.tuples(st.floats(0, 1), st.integers(0, 255), st.sampled_from(["set", "flip", "cut", "copy", "zero", "end"])),
    min_size=1,
    max_size=5,
)


# --- zips ------------------------------------------------------------------------------------------------------------

U16 = st.sampled_from([0, 1, 8, 9, 20, 45, 0x800, 0x2000, 0xFFFF]) | st.integers(0, 0xFFFF)
U32 = st.sampled_from([0, 1, 30, 0xFFFFFFFE, 0xFFFFFFFF]) | st.integers(0, 600) | st.integers(0, 0xFFFFFFFF)
EXTRA = st.sampled_from(
    [
        b"",
        b"\1\0\0\0",
        b"\1\0\x08\0" + bytes(8),
        b"\1\0\x10\0" + b"\5" + bytes(15),
        b"\1\0\x18\0" + b"\xff" * 24,
        b"\x75\x70\5\0\1abcd",
        b"\x0d\0\xff\xff",
        b"\1",
    ]
) | st.binary(max_size=40)
FIELDS = {"method": U16, "flags": U16, "crc": U32, "packed": U32, "size": U32, "extra": EXTRA}
ENTRIES = st.builds(
    RawEntry,
    name=plain_names.map(str.encode),
    data=st.binary(max_size=200) | st.integers(0, 5000).map(bytes),
    method=st.sampled_from([STORED, DEFLATED]),
    payload=st.none() | st.none() | st.binary(max_size=60),
    local=st.fixed_dictionaries({}, optional=FIELDS),
    central=st.fixed_dictionaries({}, optional=FIELDS | {"offset": U32, "attributes": U32}),
)
WHOLE = st.builds(
    RawEntry, name=plain_names.map(str.encode), data=st.binary(max_size=200), method=st.sampled_from([STORED, DEFLATED])
)
ZIPS = st.builds(
    releases.raw_zip,
    st.lists(WHOLE | ENTRIES, max_size=5),
    prefix=st.sampled_from([b"", b"", b"junk", b"PK\3\4"]),
    comment=st.sampled_from([b"", b"", b"PK\5\6" + bytes(18), b"a comment"]),
)


def judge(archive: Archive, data: bytes) -> None:
    """What we read is what `zipfile` reads, or at least `unzip -t` finds it whole; streams give the same bytes."""
    assert_not_accepted_alone_nor_read_differently(archive, data)
    with contextlib.suppress(ArchiveError), Reader(archive) as reader:
        for row in read_entries(archive).to_pylist():
            if row["problem"] is None:
                assert outcome(lambda row=row: bytes(reader.read(Entry.of(row))[0])) == outcome(
                    lambda row=row: reader.stream(Entry.of(row)).read()
                )


def outcome(read) -> bytes | str:
    try:
        return read()
    except DamagedEntry as error:
        return error.reason


@examples(150)
@given(ZIPS)
def test_zips_with_any_headers(tmp_path, data):
    judge(on_disk(tmp_path, data), data)


@examples(100)
@given(ZIPS, CHANGES)
def test_zips_with_any_headers_and_damaged(tmp_path, data, changes):
    data = changed(data, changes)
    judge(on_disk(tmp_path, data), data)


@examples(60)
@given(st.binary(max_size=400), st.sampled_from([b"", b"PK\5\6", b"PK\5\6" + bytes(18)]))
def test_any_bytes_as_a_zip(tmp_path, data, end):
    judge(on_disk(tmp_path, data + end), data + end)


@examples(60)
@given(st.lists(WHOLE, min_size=1, max_size=4), st.sampled_from([STORED, DEFLATED]), CHANGES)
def test_zips_within_zips(tmp_path, entries, method, changes):
    """The outer one is damaged; what is read within is what was put there, under its name or with a word of warning."""
    put = {entry.name.decode(): entry.data for entry in entries}
    assume(len(put) == len(entries))
    data = changed(releases.raw_zip([RawEntry(b"Inria.zip", releases.raw_zip(entries), method)]), changes)
    outer = on_disk(tmp_path, data, "MMM-RS.zip")
    with contextlib.suppress(ArchiveError, DamagedEntry):
        table = read_entries(outer)
        for row in range(table.num_rows):
            inner = inner_archive(outer, table, row)
            warned = DAMAGE in (read_entries(inner).schema.metadata or {})
            for name, content in readable(inner).values():
                assert put.get(name) == content or (warned and content in put.values())


# --- annotations -----------------------------------------------------------------------------------------------------

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
TEXT = st.text(min_size=1, max_size=12)
RECORDS = st.lists(
    st.fixed_dictionaries(
        {"image": TEXT.map(lambda name: f"p/{name}.jpg"), "prompt": TEXT.map(lambda text: "a" + text)},
        optional={"category": VALUES, "gsd": VALUES, "cloud_cover": VALUES, "x": VALUES},
    ),
    min_size=1,
    max_size=6,
)
STYLES = st.sampled_from([{}, {"indent": 2}, {"ensure_ascii": False}, {"separators": (",", ":")}])


def encodable(text: str) -> str:
    return text.encode("utf-8", "replace").decode()


def read(data: bytes) -> list[annotations.Record]:
    _, records = annotations.read(lambda: io.BytesIO(data))
    return list(records)


def possible_texts(stated: dict, path: str) -> set[str]:
    """The texts of a record that can be its path or prompt: values and the first of a list; in a keyed table, where a
    record may be an object within, its key too."""
    keys = {path} & set(stated) if len(stated) == 1 else set()
    if len(stated) == 1 and isinstance(value := next(iter(stated.values())), dict):
        stated = value
    firsts = (value[0] if isinstance(value, list) and value else value for value in stated.values())
    return keys | {value for value in firsts if isinstance(value, str)}


def agrees(data: bytes) -> None:
    """Where `json` reads the same bytes, we read the same records; where it does not, each record is still JSON."""
    try:
        records = read(data)
    except AnnotationError:
        records = None
    try:
        theirs = json.loads(data.decode("utf-8"))
    except (ValueError, RecursionError):
        theirs = None
    for record in records or []:
        if record.problem is None:
            assert {record.path, record.prompt} <= possible_texts(json.loads(record.text), record.path)
    if records and isinstance(theirs, list) and all(isinstance(row, dict) for row in theirs):
        assert len(records) == len(theirs)
        for record, row in zip(records, theirs, strict=True):
            if record.problem is None:
                assert json.loads(record.text) == row


@examples(150)
@given(RECORDS, STYLES)
def test_records_come_back_whatever_else_they_hold(rows, style):
    data = json.dumps(rows, **style).encode("utf-8", "surrogatepass")
    agrees(data)
    whole = [encodable(row["image"]) == row["image"] and encodable(row["prompt"]) == row["prompt"] for row in rows]
    for record, row, plain in zip(read(data), rows, whole, strict=True):
        if plain and record.problem is None:
            assert (record.path, record.prompt) == (row["image"], row["prompt"])


@examples(200)
@given(RECORDS, STYLES, CHANGES)
def test_damaged_annotations(rows, style, changes):
    agrees(changed(json.dumps(rows, **style).encode("utf-8", "surrogatepass"), changes))


KEYED = st.dictionaries(TEXT.map(lambda name: f"p/{name}.jpg"), TEXT.map(lambda text: "a" + text), min_size=1)


@examples(100)
@given(KEYED, st.booleans(), STYLES, CHANGES)
def test_keyed_tables(prompts, nested, style, changes):
    table = {path: {"prompt": prompt} for path, prompt in prompts.items()} if nested else prompts
    data = json.dumps(table, **style).encode("utf-8", "surrogatepass")
    for record, (path, prompt) in zip(read(data), prompts.items(), strict=True):
        if record.problem is None:
            assert (record.path, record.prompt) == (path, prompt)
        else:
            assert encodable(path + prompt) != path + prompt
    agrees(changed(data, changes))


@examples(100)
@given(
    st.lists(
        st.sampled_from(
            [
                b"[",
                b"]",
                b"{",
                b"}",
                b'"',
                b":",
                b",",
                b"\\",
                b"\n",
                b" ",
                b'"image":',
                b'"prompt":',
                b'"a.jpg"',
                b"1e999",
                b"-",
                b"null",
                b"\xff",
                b"\x00",
                b"\xef\xbb\xbf",
                b"\\ud800",
            ]
        )
    ).map(b"".join),
    st.integers(1, 300),
)
def test_tokens_of_json_in_any_order(data, times):
    agrees(data)
    agrees(data * times)


# --- prompts ---------------------------------------------------------------------------------------------------------

LEVELS = {"Ultra-high": "ultra_high", "High": "high", "Ordinary": "ordinary", "Low": "low", "Ultra-low": "ultra_low"}
COMMAS = st.sampled_from([",", ", ", " ,", ",  ", " , "])


@examples(200)
@given(
    st.sampled_from([None, "Satellite imagery", "SAR imagery", "Aerial image"]),
    st.sampled_from(list(LEVELS)),
    st.sampled_from([None, "fog", "night", "snow"]),
    st.sampled_from([None, "built-up", "airport", "solar farm"]),
    st.sampled_from(["a satellite image of a city with lots of buildings", "an aerial view, with, commas", "the sea"]),
    st.sampled_from([None, "GF2", "Sentinel-2", "Google Earth"]),
    st.sampled_from([None, *SUBSETS]),
    st.lists(COMMAS, min_size=7, max_size=7),
    st.sampled_from(["", ".", " "]),
)
def test_prompts_as_upstream_builds_them(kind, level, weather, category, caption, satellite, dataset, commas, end):
    parts = [kind, f"{level} precision resolution", weather, category, caption, satellite, dataset]
    present = [part for part in parts if part]
    prompt = "".join(part + comma for part, comma in zip(present, commas, strict=False))
    prompt = prompt[: -len(commas[len(present) - 1])] + end
    if not (satellite or dataset):
        caption = (caption + end).strip()  # whose full stop is its own
    assert split(prompt) == PromptParts(kind, LEVELS[level], weather, category, caption, satellite, dataset)


@examples(300)
@given(
    st.text()
    | st.lists(
        st.sampled_from(
            [
                "a",
                "an image",
                ",",
                ", ",
                "fog",
                "GF",
                "2",
                "High",
                "-",
                "precision",
                " ",
                "resolution",
                "imagery",
                "GID",
                ".",
                "\n",
            ]
        )
    ).map("".join)
)
def test_any_prompt(prompt):
    parts = split(prompt)
    assert parts.gsd_level in (None, *LEVELS.values())
    assert parts.weather in (None, "fog", "night", "snow")
    for part in (parts.image_kind, parts.category, parts.caption, parts.satellite, parts.dataset):
        assert part is None or (part and part in prompt)


# --- images ----------------------------------------------------------------------------------------------------------

PICTURES = [image.data for image in releases.odd_images().values()]


@examples(300)
@given(st.sampled_from(PICTURES), CHANGES)
def test_damaged_images(data, changes):
    """What is taken for whole opens in Pillow, at the size that we say; fully decoded, it decodes there."""
    data = changed(data, changes)
    for decode in (False, True):
        try:
            size = images.measure(data, decode)
        except RejectedImage:
            continue
        with Image.open(io.BytesIO(data)) as image:
            assert image.size == size
            if decode:
                image.load()


# --- all of it -------------------------------------------------------------------------------------------------------

GID = next(subset for subset in releases.small(unmatched=False) if subset.name == "GID")
FORMS = (
    releases.zips_stored,
    releases.zips_deflated,
    releases.zips_gbk,
    releases.zips_zip64,
    releases.zips_to_pipe,
    releases.one_zip_of_stored_zips,
    releases.one_zip_of_deflated_zips,
)


@examples(10)
@given(st.sampled_from(FORMS), CHANGES)
def test_a_release_damaged_anywhere(form, changes):
    """An error in one line, with the reasons if nothing can be published; or an output in which every image is one of
    the release's and the reckoning balances."""
    with tempfile.TemporaryDirectory(prefix="mmm-rs-fuzz-") as name:
        folder = Path(name)
        path = form([GID], folder)
        archive = next(iter(sorted(path.glob("*.zip")))) if path.is_dir() else path
        archive.write_bytes(changed(archive.read_bytes(), changes))
        out = folder / "out"
        try:
            convert(path, out)
        except MMMRSError as error:
            first, *reasons = str(error).splitlines()
            assert not reasons or "none of its images can be published" in first
            assert not out.exists() or not list(out.glob("data/*/*"))
            return
        verify(out, path)
        contents = set(GID.images.values())
        for shard in out.glob("data/*/*.tar"):
            with tarfile.open(shard) as tar:
                for member in tar:
                    if member.name.endswith(".jpg"):
                        assert tar.extractfile(member).read() in contents
        pq.read_table(out / "report/unpublished.parquet")


# --- a converted folder ----------------------------------------------------------------------------------------------

SUBSET = "SEN1-2"
INDEX = f"index/{SUBSET}.parquet"
HOSTILE = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.sampled_from([1 << 31, 1 << 62, -(1 << 63), 1 << 63, 1 << 64, float("inf"), float("nan"), 1e308, 0.5])
    | st.text(max_size=5)
    | st.sampled_from(
        ["../x", "/etc/passwd", "data/SEN1-2/train-00000-of-00001.tar", "0" * 64, [], {}, [[]], {"": None}]
    )
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A converted folder without a card, and its files by name."""
    out = tmp_path_factory.mktemp("folder") / "out"
    converted.write(out)
    return out, {name: (out / name).read_bytes() for name in ("manifest.json", INDEX)}


def places(value, place=()):
    """The way to each value in a manifest."""
    for step, inner in value.items() if isinstance(value, dict) else enumerate(value):
        yield (*place, step)
        if isinstance(inner, dict | list):
            yield from places(inner, (*place, step))


def assert_one_error_or_rows(out: Path) -> None:
    """What the commands and the reader make of a folder: nothing but errors of their own kinds, of one line each."""
    for use in (
        lambda: verify(out),
        lambda: mmm_rs.info(str(out)),
        lambda: mmm_rs.get(str(out), f"{SUBSET}/ROIs1158_spring_1_p1"),
        lambda: list(mmm_rs.load_dataset(SUBSET, str(out), streaming=True, decode=False, on_error="skip")),
    ):
        try:
            use()
        except (MMMRSError, mmm_rs.ReadError, ValueError, KeyError) as error:
            assert type(error) in (VerificationError, OutputError, mmm_rs.ReadError, ValueError, KeyError), repr(error)
            assert "Error:" not in str(error) or isinstance(error, MMMRSError | mmm_rs.ReadError)


@examples(150)
@given(data=st.data())
def test_a_manifest_changed_anywhere_and_signed(folder, data):
    out, files = folder
    manifest = json.loads(files["manifest.json"])
    for _ in range(data.draw(st.integers(1, 3))):
        *way, last = data.draw(st.sampled_from(list(places(manifest))))
        inner = manifest
        for step in way:
            inner = inner[step]
        if data.draw(st.booleans()):
            inner[last] = data.draw(HOSTILE)
        else:
            del inner[last]
        assume(manifest)
    (out / INDEX).write_bytes(files[INDEX])
    converted.write_manifest(out, manifest)
    assert_one_error_or_rows(out)


@examples(150)
@given(data=st.data())
def test_an_index_changed_anywhere_and_signed(folder, data):
    out, files = folder
    rows = pq.read_table(io.BytesIO(files[INDEX]))
    for _ in range(data.draw(st.integers(1, 3))):
        number = data.draw(st.integers(0, rows.num_columns - 1))
        how = data.draw(st.sampled_from(["value", "type", "drop", "rename", "swap", "repeat", "cut"]))
        if how == "value":
            values = rows[number].to_pylist()
            values[data.draw(st.integers(0, len(values) - 1))] = data.draw(HOSTILE)
            with contextlib.suppress(pa.ArrowException, TypeError, OverflowError, ValueError):
                field = rows.schema.field(number)
                rows = rows.set_column(number, field, pa.array(values, field.type))
        elif how == "type":
            with contextlib.suppress(pa.ArrowException, OverflowError):
                values = pa.array([data.draw(HOSTILE)])
                rows = rows.set_column(number, rows.column_names[number], pa.chunked_array([values] * rows.num_rows))
        elif how == "drop":
            rows = rows.remove_column(number)
        elif how == "rename":
            rows = rows.rename_columns([*rows.column_names[:number], "x", *rows.column_names[number + 1 :]])
        elif rows.num_rows > 2:
            order = {"swap": [1, 0], "repeat": [0, 0], "cut": []}[how]
            rows = rows.take([*order, *range(2, rows.num_rows)])
        assume(rows.num_columns and rows.num_rows)
    try:
        pq.write_table(rows, out / INDEX)
    except (pa.ArrowException, OSError):
        assume(False)
    manifest = json.loads(files["manifest.json"])
    manifest["files"][INDEX] = converted.described(out / INDEX)
    converted.write_manifest(out, manifest)
    assert_one_error_or_rows(out)
