"""Whatever is wrong with the source: an image is published only if its bytes are whole and decodable, else it is in the
report by name and with the reason; the rest of the subset converts."""

from __future__ import annotations

import functools
import json
import os
import struct
import zlib
from dataclasses import dataclass
from pathlib import Path

import pytest
from PIL import Image

from conversion.options import Options
from tests import releases
from tests.conversions import convert, verify
from tests.outputs import members, reasons, unpublished
from tests.releases import DEFLATED, STORED, RawEntry

GOOD = {f"GID_dataset/{name}.jpg": releases.picture(name) for name in ("a", "b", "c")}
VICTIM, VICTIM_DATA = "GID_dataset/victim.jpg", releases.picture("victim", (200, 200))


@dataclass(frozen=True)
class Outcome:
    """What came of the subset GID."""

    published: dict[str, bytes]  # stem -> bytes
    reported: dict[str, str]  # path within the subset -> reason
    sources: dict[str, str]  # path -> problem

    def __iter__(self):
        return iter((self.published, self.reported))


def annotation(paths) -> bytes:
    return json.dumps(
        [{"image": path, "prompt": f"an image of {number}"} for number, path in enumerate(paths)]
    ).encode()


def outcome(path: Path, out: Path, options: Options | None = None) -> Outcome:
    """Convert, and let the verification and the reckoning have their say."""
    result = convert(path, out, options=options)
    verify(out, path)
    images = {
        name[4:-4]: data for name, data in members(out).items() if name.startswith("GID/") and name.endswith(".jpg")
    }
    reported = {
        row["path"]: row["reason"] for row in unpublished(out) if row["subset"] == "GID" and row["kind"] == "image"
    }
    totals = result.summary["subsets"]["GID"]["images"]
    assert totals["released"] == totals["published"] + totals["reported"]
    assert totals["published"] == len(images)
    return Outcome(images, reported, {source["path"]: source["problem"] for source in result.summary["sources"]})


def of_zip(tmp_path: Path, entries: list[RawEntry], damage=None) -> Outcome:
    """Convert a zip of the good images and `entries`; a record names each."""
    names = [*GOOD, *(entry.name.decode("utf-8", "replace") for entry in entries)]
    good = [RawEntry(name.encode(), data) for name, data in GOOD.items()]
    data = releases.raw_zip([RawEntry(b"MMM-RS_GID.json", annotation(dict.fromkeys(names))), *good, *entries])
    path = releases.put(tmp_path / "release", {"GID.zip": data})
    if damage:
        damage(path / "GID.zip")
    return outcome(path, tmp_path / "out")


def good_and(**more: bytes) -> dict[str, bytes]:
    return {Path(name).stem: data for name, data in GOOD.items()} | more


def victim(**fields) -> list[RawEntry]:
    return [RawEntry(VICTIM.encode(), VICTIM_DATA, **fields)]


def test_an_undamaged_victim_is_published(tmp_path):
    """So that what follows is the damage's doing."""
    assert of_zip(tmp_path, victim()) == Outcome(good_and(victim=VICTIM_DATA), {}, {})


# --- damaged bytes ---------------------------------------------------------------------------------------------------


def flipped(path, where):
    start, stop = releases.data_range(path, VICTIM)
    releases.flip_bit(path, start + int((stop - start - 1) * where), 3)


def zeroed(path):
    start, stop = releases.data_range(path, VICTIM)
    releases.overwrite(path, start + 200, bytes(min(512, stop - start - 200)))


@pytest.mark.parametrize("method", [STORED, DEFLATED])
@pytest.mark.parametrize("where", [0.0, 0.3, 0.6, 0.95])
def test_a_flipped_bit(method, where, tmp_path):
    published, reported = of_zip(tmp_path, victim(method=method), lambda path: flipped(path, where))
    assert published == good_and()
    assert reported.keys() == {VICTIM}
    allowed = {"crc_mismatch"} if method == STORED else {"crc_mismatch", "inflate_error", "size_mismatch"}
    assert set(reported.values()) <= allowed


@pytest.mark.parametrize("method", [STORED, DEFLATED])
def test_a_zeroed_block(method, tmp_path):
    published, reported = of_zip(tmp_path, victim(method=method), zeroed)
    assert published == good_and()
    assert reported.keys() == {VICTIM}


@pytest.mark.parametrize("damage", [releases.truncate, releases.cut_directory])
def test_a_lost_directory_costs_its_archive_and_nothing_else(damage, tmp_path):
    subsets = [subset for subset in releases.small(unmatched=False) if subset.name in ("GID", "Inria")]
    path = releases.zips_stored(subsets, tmp_path / "release")
    damage(path / "GID.zip")
    result = convert(path, tmp_path / "out")
    named = [source for source in result.summary["sources"] if source["path"].endswith("GID.zip")]
    assert [(source["subset"], source["problem"]) for source in named] == [("GID", "unreadable_archive")]
    assert named[0]["remedy"] == "Download it again"
    assert list(result.manifest["subsets"]) == ["Inria"]


def test_a_damaged_header_of_an_archive_in_an_archive_costs_that_one(tmp_path):
    subsets = [subset for subset in releases.small(unmatched=False) if subset.name in ("GID", "Inria")]
    path = releases.one_zip_of_stored_zips(subsets, tmp_path / "release")
    start, _ = releases.data_range(path, "MMM-RS/GID.zip")
    releases.overwrite(path, start - len("MMM-RS/GID.zip") - 30, b"PK\0\0")
    result = convert(path, tmp_path / "out")
    assert [(source["path"], source["subset"]) for source in result.summary["sources"]] == [
        ("MMM-RS.zip/MMM-RS/GID.zip", "GID")
    ]
    assert list(result.manifest["subsets"]) == ["Inria"]


def test_damage_in_a_compressed_archive_in_an_archive_costs_an_image_and_is_told(tmp_path):
    """No checksum but that of the archive covers its names, so the archive itself is named too."""
    names = [*GOOD, VICTIM]
    inner = releases.raw_zip(
        [
            RawEntry(b"MMM-RS_GID.json", annotation(names)),
            *(RawEntry(name.encode(), data) for name, data in (GOOD | {VICTIM: VICTIM_DATA}).items()),
        ]
    )
    damaged = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    offset = inner.index(VICTIM_DATA) + 500
    payload = damaged.compress(inner[:offset] + bytes([inner[offset] ^ 1]) + inner[offset + 1 :]) + damaged.flush()
    outer = releases.raw_zip([RawEntry(b"GID.zip", inner, DEFLATED, payload=payload)])
    path = releases.put(tmp_path / "release", {"MMM-RS.zip": outer}) / "MMM-RS.zip"
    assert outcome(path, tmp_path / "out") == Outcome(
        good_and(), {VICTIM: "crc_mismatch"}, {"MMM-RS.zip/GID.zip": "crc_mismatch"}
    )


# --- contradicting headers -------------------------------------------------------------------------------------------

SIZE = len(VICTIM_DATA)


@pytest.mark.parametrize("method", [STORED, DEFLATED])
@pytest.mark.parametrize("which", ["local", "central"])
@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("size", SIZE - 1),
        ("size", SIZE + 1),
        ("size", 2**31),
        ("packed", 10),
        ("packed", 2**31),
        ("crc", 1),
        ("method", "the other"),
        ("name", b"GID_dataset/other.jpg"),
    ],
)
def test_wrong_fields_in_headers(method, which, field, value, tmp_path):
    fields = {field: STORED + DEFLATED - method if value == "the other" else value}
    published, reported = of_zip(tmp_path, victim(method=method, **{which: fields}))
    assert published == good_and()
    assert reported.keys() == {"GID_dataset/other.jpg" if (which, field) == ("central", "name") else VICTIM}


def test_overlapping_entries(tmp_path):
    """One entry stands within another's data. Its own bytes are whole; the other claims bytes that are not its own."""
    inner = RawEntry(b"GID_dataset/inner.jpg", releases.picture("inner"))
    outer = RawEntry(b"GID_dataset/outer.jpg", VICTIM_DATA + releases.raw_zip([inner]))

    def point_inside(path):
        data = bytearray(path.read_bytes())
        offset = data.index(b"PK\3\4", data.index(VICTIM_DATA))
        struct.pack_into("<I", data, data.rindex(b"PK\1\2") + 42, offset)  # of the last entry in the directory
        path.write_bytes(data)

    published, reported = of_zip(tmp_path, [outer, inner], point_inside)
    assert published == good_and(inner=inner.data)
    assert reported == {"GID_dataset/outer.jpg": "overlap"}


# --- bombs -----------------------------------------------------------------------------------------------------------


def deflated(pieces) -> bytes:
    engine = zlib.compressobj(1, zlib.DEFLATED, -15)
    return b"".join(engine.compress(piece) for piece in pieces) + engine.flush()


@functools.cache
def bomb() -> bytes:
    return deflated([bytes(1 << 20)] * 400)


def test_an_entry_that_inflates_to_more_than_its_stated_size(tmp_path):
    entry = victim(method=DEFLATED, payload=deflated([VICTIM_DATA, b"more"]))
    published, reported = of_zip(tmp_path, entry)
    assert (published, reported) == (good_and(), {VICTIM: "size_mismatch"})


@pytest.mark.parametrize("stated", [SIZE, 200_000_000, 400 << 20])
def test_a_bomb(stated, tmp_path):
    """Two megabytes that inflate to 400, whether they say so or not."""
    size = {"size": stated}
    entry = RawEntry(VICTIM.encode(), VICTIM_DATA, DEFLATED, payload=bomb(), local=size, central=size)
    published, reported = of_zip(tmp_path, [entry])
    assert published == good_and()
    assert reported[VICTIM] in ("size_mismatch", "too_large")


# --- names -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    [
        "../victim.jpg",
        "GID_dataset/../../victim.jpg",
        "..\\victim.jpg",
        "/etc/victim.jpg",
        "C:/victim.jpg",
        "C:victim.jpg",
        "GID_dataset/vic\0tim.jpg",
        "GID_dataset/" + "x/" * 3000 + "victim.jpg",
        "GID_dataset/" + "x" * 60_000 + ".jpg",
    ],
)
def test_names_that_lead_outside_or_cannot_be(name, tmp_path):
    published, reported = of_zip(tmp_path, [RawEntry(name.encode(), VICTIM_DATA)])
    assert (published, reported) == (good_and(), {name.replace("\\", "/"): "unsafe_name"})
    assert {path.name for path in tmp_path.iterdir()} == {"release", "out"}


def test_a_long_name_that_can_be(tmp_path):
    published, reported = of_zip(tmp_path, [RawEntry(f"GID_dataset/{'x' * 300}.jpg".encode(), VICTIM_DATA)])
    assert reported == {}
    assert sorted(published.values()) == sorted([*GOOD.values(), VICTIM_DATA])


def test_a_symbolic_link_entry(tmp_path):
    link = RawEntry(VICTIM.encode(), b"/etc/passwd", central={"attributes": 0o120777 << 16})
    assert of_zip(tmp_path, [link]) == Outcome(good_and(), {VICTIM: "link"}, {})


def test_names_that_stand_twice(tmp_path):
    published, reported = of_zip(tmp_path, [*victim(), *victim()])
    assert (published, reported) == (good_and(victim=VICTIM_DATA), {VICTIM: "duplicate_image"})


def test_names_that_stand_twice_for_different_images(tmp_path):
    published, reported = of_zip(tmp_path, [*victim(), RawEntry(VICTIM.encode(), releases.picture("another"))])
    assert (published, reported) == (good_and(), {VICTIM: "same_name"})
    assert len([row for row in unpublished(tmp_path / "out") if row["kind"] == "image"]) == 2


# --- what is called an image -----------------------------------------------------------------------------------------

REASONS = {
    "empty": "empty",
    "text": "not_an_image",
    "zeroed": "not_an_image",
    "no_end_marker": "no_end_marker",
    "cut_in_half": "no_end_marker",
    "too_many_pixels": "too_many_pixels",
}


@pytest.mark.parametrize("method", [STORED, DEFLATED])
@pytest.mark.parametrize("decode", ["structure", "full"])
def test_odd_images_are_published_if_they_are_whole(method, decode, tmp_path):
    odd = releases.odd_images()
    subset = releases.with_odd_images()
    path = releases.single_zip(subset, tmp_path / "release", method)
    published, reported = outcome(path, tmp_path / "out", Options(decode=decode))
    assert published == {stem: image.data for stem, image in odd.items() if image.published}
    assert reported == {f"GID_dataset/{stem}.jpg": reason for stem, reason in REASONS.items()}


def test_thirty_thousand_pixels_a_side(tmp_path):
    """A whole image, not only a header that says so."""
    path = tmp_path / "big.png"
    Image.new("1", (30_000, 30_000)).save(path)
    published, reported = of_zip(tmp_path, [RawEntry(VICTIM.encode(), path.read_bytes())])
    assert (published, reported) == (good_and(), {VICTIM: "too_many_pixels"})


def test_full_decoding_finds_what_the_structure_does_not_show(tmp_path):
    offset = VICTIM_DATA.index(b"\xff\xda") + 6
    # Its scan asks for code tables that there are not.
    broken = VICTIM_DATA[:offset] + b"\x33" + VICTIM_DATA[offset + 1 :]
    files = {"MMM-RS_GID.json": annotation([*GOOD, VICTIM]), **GOOD, VICTIM: broken}
    path = releases.put(tmp_path / "release", {"GID.zip": releases.zipped(files)})
    assert outcome(path, tmp_path / "structure").published == good_and(victim=broken)
    published, reported = outcome(path, tmp_path / "full", Options(decode="full"))
    assert (published, reported) == (good_and(), {VICTIM: "not_decodable"})


# --- folders ---------------------------------------------------------------------------------------------------------


def test_links_pipes_and_odd_files_in_a_folder(tmp_path):
    odd = releases.odd_images()
    names = ["link", "outside", "pipe", "empty", "text"]
    paths = [f"GID_dataset/{name}.jpg" for name in names]
    release = releases.put(
        tmp_path / "MMM-RS",
        {"GID/MMM-RS_GID.json": annotation([*GOOD, *paths]), **{f"GID/{name}": data for name, data in GOOD.items()}},
    )
    folder = release / "GID/GID_dataset"
    (tmp_path / "secret.jpg").write_bytes(VICTIM_DATA)
    (folder / "link.jpg").symlink_to("a.jpg")
    (folder / "outside.jpg").symlink_to("../../../secret.jpg")
    os.mkfifo(folder / "pipe.jpg")
    (folder / "empty.jpg").write_bytes(odd["empty"].data)
    (folder / "text.jpg").write_bytes(odd["text"].data)
    (folder / "loop").symlink_to("..", target_is_directory=True)
    published, reported = outcome(release, tmp_path / "out")
    assert published == good_and()
    expected = ["link", "link", "not_a_file", "empty", "not_an_image"]
    assert reported == dict(zip(paths, expected, strict=True))


# --- annotations -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", [STORED, DEFLATED])
def test_a_damaged_annotation_file_is_named(method, tmp_path):
    subsets = [subset for subset in releases.small(unmatched=False) if subset.name in ("GID", "Inria")]
    make = releases.zips_stored if method == STORED else releases.zips_deflated
    path = make(subsets, tmp_path / "release")
    start, stop = releases.data_range(path / "GID.zip", "MMM-RS_GID.json")
    releases.flip_bit(path / "GID.zip", (start + stop) // 2)
    result = convert(path, tmp_path / "out")
    source = next(source for source in result.summary["sources"] if source["subset"] == "GID")
    assert source["path"].endswith("GID.zip/MMM-RS_GID.json") and source["remedy"]
    assert set(reasons(tmp_path / "out").values()) == {"no_record"}
    assert list(result.manifest["subsets"]) == ["Inria"]
