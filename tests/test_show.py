"""`mmm-rs show`: what it prints is what the index and the tar hold, and what it saves is byte for byte the shard's."""

from __future__ import annotations

import io
import re
import tarfile
import zlib
from pathlib import Path

import pytest
from PIL import Image

from conversion.errors import OutputError, VerificationError
from mmm_rs_cli import samples, show
from tests import converted

WHU = "WHU-OPT-SAR/NH49E001013_1_0"  # rgb, nir, sar
NO_SAR_PROMPT = "SEN1-2/ROIs1158_spring_1_p0"


@pytest.fixture
def out(tmp_path: Path) -> Path:
    converted.write(tmp_path / "out")
    return tmp_path / "out"


def blocks(printed: str) -> dict[str, dict[str, str]]:
    """What was printed: block (the sample's, then one a modality) -> name -> value."""
    fields = {}
    for block in printed.rstrip("\n").split("\n\n"):
        head, *lines = block.splitlines()
        fields[head] = dict(re.match(r" +(\S+) +(.*)$", line).groups() for line in lines)
    return fields


def test_a_sample_is_printed_with_its_labels_prompts_and_places(out, run):
    (expected,) = [sample for sample in converted.samples() if sample.key == WHU]
    code, printed, errors = run("show", out, WHU)
    assert (code, errors) == (0, [])
    sections = blocks(printed)
    assert list(sections) == [WHU, "rgb", "nir", "sar"]
    assert sections[WHU] == {
        "subset": "WHU-OPT-SAR",
        "split": "train",
        "caption": "a rgb view of a river 1",
        "category": "-",
        "weather": "-",
        "satellite": "-",
        "gsd": "5.0 metres per pixel",
        "gsd_level": "low",
        "gsd_level_derived": "True",
        "cloud_cover": "-",
    }
    for modality, data in expected.images.items():
        image = sections[modality]
        with tarfile.open(out / image["shard"]) as tar:
            member = tar.getmember(f"{WHU}.{converted.SUFFIXES[modality]}jpg")
            assert image["bytes"] == f"{member.size:,} from offset {member.offset_data:,}"
        assert image["crc32"] == f"{zlib.crc32(data):08x}"
        assert image["pixels"] == "64 x 64"
        assert image["source"] == expected.fields()["source"][modality]
        assert image["prompt"] == expected.prompts[modality]
        assert image["annotation"] == expected.fields()["annotation"][modality]


def test_the_parts_of_each_prompt_are_named(out, run):
    fields = blocks(run("show", out, "weather/fog/a0")[1])["rgb"]
    parts = {name: fields[name] for name in ("gsd_level", "weather", "caption")}
    assert parts == {"gsd_level": "ordinary", "weather": "fog", "caption": "a view of a farm."}
    assert "satellite" not in fields


def test_an_image_without_a_prompt_says_so(out, run, tmp_path):
    assert blocks(run("show", out, NO_SAR_PROMPT)[1])["sar"]["prompt"] == "-"
    source = samples.open_dataset(out)
    saved = show.save(source, samples.find(source, NO_SAR_PROMPT), tmp_path / "saved")
    assert [path.name for path in saved] == [f"ROIs1158_spring_1_p0.{suffix}" for suffix in ("jpg", "txt", "sar.jpg")]


def test_saved_files_are_byte_for_byte_the_shards_and_are_called_by_their_content(tmp_path, run):
    dataset = converted.samples()[6:10]  # WHU-OPT-SAR
    buffer = io.BytesIO()
    Image.new("L", (8, 8)).save(buffer, "PNG")
    dataset[1].images["nir"] = buffer.getvalue()
    converted.write(tmp_path / "out", dataset)

    code, _, errors = run("show", tmp_path / "out", WHU, "--save", tmp_path / "saved")
    assert code == 0
    expected = {
        f"{WHU}.jpg": dataset[1].images["rgb"],
        f"{WHU}.nir.png": buffer.getvalue(),
        f"{WHU}.sar.jpg": dataset[1].images["sar"],
    }
    expected |= {f"{WHU}.{converted.SUFFIXES[m]}txt": prompt.encode() for m, prompt in dataset[1].prompts.items()}
    files = [path for path in (tmp_path / "saved").rglob("*") if path.is_file()]
    assert {path.relative_to(tmp_path / "saved").as_posix(): path.read_bytes() for path in files} == expected
    assert sorted(errors) == sorted(f"{path}: written" for path in files)


def test_nothing_is_overwritten_and_nothing_is_written_beside_it(out, run, tmp_path):
    existing = tmp_path / "saved" / f"{WHU}.sar.txt"
    existing.parent.mkdir(parents=True)
    existing.write_text("mine")
    code, _, errors = run("show", out, WHU, "--save", tmp_path / "saved")
    assert code == 2
    assert errors == [f"mmm-rs: {existing}: exists and is not overwritten. Remove it or give another folder"]
    assert [path for path in (tmp_path / "saved").rglob("*") if path.is_file()] == [existing]


def test_nothing_is_saved_into_the_converted_folder(out, run):
    before = sorted(out.rglob("*"))
    code, _, errors = run("show", out, WHU, "--save", out / "data")
    assert code == 2 and len(errors) == 1 and "is in the converted folder" in errors[0]
    assert sorted(out.rglob("*")) == before


@pytest.mark.parametrize(
    ("key", "suggested"),
    [
        ("WHU-OPT-SAR/NH49E0O1013_1_0", "WHU-OPT-SAR/NH49E001013_1_0"),  # a letter for a digit
        ("NH49E001013_2_0", "WHU-OPT-SAR/NH49E001013_2_0"),  # without its subset
        ("MRSSC2.0/RGB_city_1", "MRSSC2_0/RGB_city_1"),  # the subset's name, not the key's
        ("inria/512/CROP_512_center_vienna2", "Inria/512/crop_512_center_vienna2"),
    ],
)
def test_an_unknown_key_suggests_those_near_it(out, run, key, suggested):
    code, printed, errors = run("show", out, key)
    assert (code, printed) == (2, "")
    assert len(errors) == 1 and errors[0].startswith(f"mmm-rs: {out}: no sample '{key}'. Similar: {suggested}")


@pytest.mark.parametrize("key", ["", "q", "一", "\udcff\udcfe", "%_.*"])
def test_a_key_like_no_other_gets_one_line(out, run, key):
    code, _, errors = run("show", out, key)
    assert code == 2 and len(errors) == 1 and "no sample" in errors[0]


def test_a_folder_without_a_manifest_gets_one_line(tmp_path, run):
    code, _, errors = run("show", tmp_path, WHU)
    assert code == OutputError.exit_code and len(errors) == 1
    assert errors[0].startswith(f"mmm-rs: {tmp_path}: no manifest.json here")


def test_an_index_that_cannot_be_read_is_named(out, run):
    index = out / "index" / "WHU-OPT-SAR.parquet"
    for damage, says in ((b"PAR1 no more", "has 12 bytes"), (bytes(index.stat().st_size), "its footer is damaged")):
        index.write_bytes(damage)
        code, _, errors = run("show", out, WHU)
        assert code == OutputError.exit_code and len(errors) == 1
        assert errors[0].startswith(f"mmm-rs: {index}: {says}")


def flip(shard: Path, offset: int) -> None:
    data = bytearray(shard.read_bytes())
    data[offset] ^= 1
    shard.write_bytes(data)


@pytest.mark.parametrize(
    "damage",
    [flip, lambda shard, offset: shard.write_bytes(shard.read_bytes()[:offset]), lambda shard, offset: shard.unlink()],
    ids=["flipped", "cut", "gone"],
)
def test_a_damaged_image_is_not_saved(out, tmp_path, damage):
    source = samples.open_dataset(out)
    sample = samples.find(source, WHU)
    image = sample.images[1]
    damage(out / image.shard, image.offset + image.size // 2)
    with pytest.raises(VerificationError, match=f"{image.shard}: .*mmm-rs verify"):
        show.save(source, sample, tmp_path / "saved")
    assert not (tmp_path / "saved").exists()


def test_a_prompt_cannot_move_the_cursor_but_is_saved_as_it_is(tmp_path, run):
    prompt = "a town\x1b[2J\r\nover all\u202e"
    sample = converted.Sample("GID/a", {"rgb": prompt}, prompt, images={"rgb": converted.picture("x", 1)})
    converted.write(tmp_path / "out", [sample])
    _, printed, _ = run("show", tmp_path / "out", "GID/a", "--save", tmp_path / "saved")
    assert blocks(printed)["rgb"]["prompt"] == r"a town\x1b[2J\r\nover all\u202e"
    assert not {"\x1b", "\r", "\u202e"} & set(printed)
    assert (tmp_path / "saved/GID/a.txt").read_bytes() == prompt.encode()
