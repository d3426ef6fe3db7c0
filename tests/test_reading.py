"""The builder on a local folder: its rows are those of the shards, as tarfile reads them, or it says what is wrong."""

from __future__ import annotations

import copy
import errno
import hashlib
import inspect
import io
import itertools
import json
import logging
import os
import pickle
import random
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from datasets import ClassLabel, Image, Value
from datasets.distributed import split_dataset_by_node
from PIL import Image as Picture

import mmm_rs
from tests import converted, releases
from tests.conversions import convert

PROMPTS = {"rgb": "prompt", "nir": "nir_prompt", "sar": "sar_prompt"}
LEVELS = ["ultra_high", "high", "ordinary", "low", "ultra_low"]
WEATHERS = ["fog", "night", "snow"]
HAVING = {
    "weather": ["rgb"],
    "WHU-OPT-SAR": ["rgb", "nir", "sar"],
    "SEN1-2": ["rgb", "sar"],
    "Inria": ["rgb"],
    "MRSSC2.0": ["rgb"],
    "all": ["rgb", "nir", "sar"],
}


# ------------------------------------------------------------------------------------------- what there is to be read


def members(out: Path, config: str, split: str = "train") -> dict[str, dict[str, bytes]]:
    """Members by key, in the order of the shards."""
    by_key: dict[str, dict[str, bytes]] = {}
    for subset in list(HAVING)[:-1] if config == "all" else [config]:
        for path in sorted((out / "data" / subset).glob(f"{split}-*.tar")):
            with tarfile.open(path) as tar:
                for member in tar:
                    key, _, suffix = member.name.partition(".")
                    by_key.setdefault(key, {})[suffix] = tar.extractfile(member).read()
    return by_key


def stored(out: Path, config: str, modalities: list[str] | None = None, split: str = "train") -> list[dict]:
    """The rows that the builder has to give, undecoded, from the shards alone."""
    rows = []
    for key, sample in members(out, config, split).items():
        record = json.loads(sample["json"])
        row = {"key": key, "subset": record["subset"]}
        chosen = modalities or HAVING.get(config, ["rgb"])
        for modality in chosen:
            suffix = "" if modality == "rgb" else f"{modality}."
            image, prompt = sample.get(f"{suffix}jpg"), sample.get(f"{suffix}txt")
            row[modality] = None if image is None else {"bytes": image, "path": f"{key}.{suffix}jpg"}
            row[PROMPTS[modality]] = None if prompt is None else prompt.decode()
        labels = labels_of(record, chosen)
        for name in ("caption", "category", "satellite", "gsd_level_derived", "gsd", "cloud_cover"):
            row[name] = labels.get(name)
        row["weather"] = WEATHERS.index(labels["weather"]) if labels.get("weather") else None
        row["gsd_level"] = LEVELS.index(labels["gsd_level"]) if labels.get("gsd_level") else None
        row["annotation"] = record["annotation"]
        rows.append(row)
    return rows


def labels_of(record: dict, modalities: list[str]) -> dict:
    """What a sample's JSON says of the first of these modalities that it has. Format 1.0 says one thing of all."""
    if "labels" not in record:
        return record
    return next((record["labels"][modality] for modality in modalities if record["labels"][modality]), {})


def opened(row: dict) -> dict:
    """A row with its images' pixels in the images' place."""

    def pixels(image):
        if isinstance(image, dict):
            image = Picture.open(io.BytesIO(image["bytes"]))
        return None if image is None else (image.mode, image.size, hashlib.sha256(image.tobytes()).hexdigest())

    return {name: pixels(value) if name in PROMPTS else value for name, value in row.items()}


def keys(rows) -> list[str]:
    return [row["key"] for row in rows]


def many(out: Path, count: int, held_out: int = 0, shards: int = 3) -> Path:
    """A converted SEN1-2 with `count` samples to train and others held out; some lack the radar image or a prompt."""
    dataset = []
    for number in range(count + held_out):
        prompt = f"Low precision resolution, field {number}, Sentinel-2"
        prompts = {"rgb": prompt if number % 5 else None, "sar": f"radar of field {number}"}
        if number % 4 == 3:
            del prompts["sar"]
        sample = converted.Sample(
            f"SEN1-2/place_{number:03}",
            prompts,
            f"field {number}",
            category=f"c{number % 3}",
            gsd=number / 2,
            gsd_level=LEVELS[number % 5],
            split="train" if number < count else "validation",
        )
        sample.images.update({m: converted.picture(f"{m}{number}", number, 24) for m in prompts})
        dataset.append(sample)
    converted.write(out, dataset, shards)
    return out


@pytest.fixture(scope="module")
def subsets(tmp_path_factory) -> Path:
    """Five subsets. Not to be changed by a test."""
    converted.write(out := tmp_path_factory.mktemp("subsets") / "MMM-RS")
    return out


@pytest.fixture(scope="module")
def sen12(tmp_path_factory) -> Path:
    """40 samples to train and 7 others. Not to be changed by a test."""
    return many(tmp_path_factory.mktemp("sen12") / "MMM-RS", 40, 7)


@pytest.fixture
def own_copy(sen12, tmp_path) -> Path:
    """The same, to be damaged."""
    return Path(shutil.copytree(sen12, tmp_path / "MMM-RS"))


@pytest.fixture
def small_pieces(monkeypatch):
    """Many pieces with several tables each, of a few rows."""
    monkeypatch.setattr(mmm_rs, "PIECE_ROWS", 2)
    monkeypatch.setattr(mmm_rs, "PIECE_MULTIPLE", 2)
    monkeypatch.setattr(mmm_rs, "BATCH_BYTES", 2500)


def load(out, config="SEN1-2", streaming=True, **options):
    return mmm_rs.load_dataset(config, str(out), streaming=streaming, **options)


either_way = pytest.mark.parametrize("streaming", [True, False], ids=["streaming", "whole"])


# --------------------------------------------------------------------------------------------------------------- rows


def test_features(subsets):
    text = Value("string")
    assert load(subsets, "SEN1-2").features == {
        "key": text,
        "subset": text,
        "rgb": Image(),
        "prompt": text,
        "sar": Image(),
        "sar_prompt": text,
        "caption": text,
        "category": text,
        "satellite": text,
        "weather": ClassLabel(names=WEATHERS),
        "gsd_level": ClassLabel(names=LEVELS),
        "gsd_level_derived": Value("bool"),
        "gsd": Value("float64"),
        "cloud_cover": Value("float64"),
        "annotation": {"rgb": text, "nir": text, "sar": text},
    }
    assert load(subsets, "Inria", decode=False).features["rgb"] == Image(decode=False)
    assert set(load(subsets, "all").features) == set(mmm_rs.FIELDS)


@pytest.mark.parametrize("config", HAVING)
@either_way
def test_rows_are_those_of_the_shards(subsets, config, streaming):
    expected = stored(subsets, config)
    assert list(load(subsets, config, streaming, decode=False)) == expected
    assert [opened(row) for row in load(subsets, config, streaming)] == [opened(row) for row in expected]


def test_the_images_keep_the_release_s_bytes_when_they_are_encoded_again(subsets, tmp_path):
    expected = stored(subsets, "WHU-OPT-SAR")
    whole = load(subsets, "WHU-OPT-SAR", streaming=False)
    whole.save_to_disk(str(tmp_path / "saved"))
    whole.to_parquet(tmp_path / "saved.parquet")
    saved = datasets.load_from_disk(str(tmp_path / "saved"))
    parquet = datasets.Dataset.from_parquet(str(tmp_path / "saved.parquet"), cache_dir=str(tmp_path / "cache"))
    for again in (whole, saved, parquet):
        assert again.features == whole.features
        for modality in HAVING["WHU-OPT-SAR"]:
            again = again.cast_column(modality, Image(decode=False))
        for row, stood in zip(again, expected, strict=True):
            images = {m: (row.pop(m) or {}).get("bytes") for m in HAVING["WHU-OPT-SAR"]}
            assert images == {m: (stood[m] or {}).get("bytes") for m in images}
            assert row == {name: value for name, value in stood.items() if name not in images}


@either_way
def test_splits(sen12, streaming):
    both = load(sen12, streaming=streaming, split=None, decode=False)
    assert list(both) == ["train", "validation"]
    for split in both:
        assert list(both[split]) == stored(sen12, "SEN1-2", split=split)
    assert list(load(sen12, streaming=streaming, split="validation", decode=False)) == list(both["validation"])
    with pytest.raises(ValueError, match="test"):
        load(sen12, streaming=streaming, split="test")


@either_way
@pytest.mark.parametrize("chosen", [["sar"], ["sar", "rgb"], ("nir",)])
def test_modalities(subsets, chosen, streaming):
    rows = load(subsets, "WHU-OPT-SAR", streaming, modalities=chosen, decode=False)
    assert list(rows) == stored(subsets, "WHU-OPT-SAR", [m for m in PROMPTS if m in chosen])
    assert {m for m in PROMPTS if m in rows.features} == set(chosen)


SLICES = {
    "train[:10%]": slice(0, 4),
    "train[:7]": slice(0, 7),
    "train[-3:]": slice(-3, None),
    "train[12:14]": slice(12, 14),
    "train[10:30]": slice(10, 30),
    "train[:50%]": slice(0, 20),
}


@pytest.mark.parametrize("split", SLICES)
@either_way
def test_slices_of_a_split(sen12, small_pieces, split, streaming):
    expected = stored(sen12, "SEN1-2")[SLICES[split]]
    rows = load(sen12, streaming=streaming, split=split, decode=False)
    assert list(rows) == expected
    assert str(rows.split) == split


def test_a_list_of_splits_is_answered_with_the_text_to_give(sen12):
    with pytest.raises(ValueError, match=r"give one text, for example 'train\+validation'"):
        load(sen12, split=["train", "validation"])


@either_way
def test_a_read_instruction_and_several_slices(sen12, streaming):
    instruction = datasets.ReadInstruction("train", from_=10, to=30, unit="%")
    assert list(load(sen12, streaming=streaming, split=instruction, decode=False)) == stored(sen12, "SEN1-2")[4:12]
    both = load(sen12, streaming=streaming, split="train[:3]+validation[-2:]", decode=False)
    assert list(both) == stored(sen12, "SEN1-2")[:3] + stored(sen12, "SEN1-2", split="validation")[-2:]


def test_a_slice_counts_the_rows_that_match_and_is_streamed_like_a_split(sen12, small_pieces):
    matching = [row for row in stored(sen12, "SEN1-2") if row["category"] == "c1"]
    rows = load(sen12, split="train[2:11]", filters={"category": "c1"}, decode=False)
    assert list(rows) == matching[2:11]
    assert sorted(keys(rows.shuffle(seed=1, buffer_size=3))) == sorted(keys(matching[2:11]))
    assert list(load(sen12, split="train[5:5]")) == []
    parts = [keys(split_dataset_by_node(rows, rank, 2)) for rank in range(2)]
    assert sorted(parts[0] + parts[1]) == sorted(keys(matching[2:11]))
    again = load(sen12, split="train[2:11]", filters={"category": "c1"}, decode=False)
    take(rows, 4)
    again.load_state_dict(rows.state_dict())
    assert list(again) == matching[6:11]


@pytest.mark.parametrize("split", ["train[", "test[:3]", "train[:x]"])
def test_a_slice_that_does_not_exist_says_which_splits_there_are(sen12, split):
    with pytest.raises(ValueError, match=r"The splits are train, validation") as raised:
        load(sen12, split=split)
    assert repr(split) in str(raised.value) and "\n" not in str(raised.value)


def test_info_lists_what_there_is(subsets, sen12):
    info = mmm_rs.info(sen12)
    assert [(row.config, row.split, row.samples) for row in info] == [
        ("SEN1-2", "train", 40),
        ("SEN1-2", "validation", 7),
    ]
    for row in info:
        samples = members(sen12, "SEN1-2", row.split).values()
        fields = [json.loads(sample["json"]) for sample in samples]
        assert row.pairs == {
            "rgb": sum("txt" in s for s in samples),
            "nir": 0,
            "sar": sum("sar.txt" in s for s in samples),
        }
        assert row.levels == {level: sum(f["gsd_level"] == level for f in fields) for level in LEVELS}
        assert row.bytes == sum(path.stat().st_size for path in (sen12 / "data" / "SEN1-2").glob(f"{row.split}-*"))
    assert {row.config for row in mmm_rs.info(str(subsets))} == set(HAVING) - {"all"}
    text, page = str(info), info._repr_html_()
    assert text == repr(info) and len(text.splitlines()) == 2 + 3
    for word in (str(sen12), "SEN1-2", "validation", "ultra_high 8", "all", "47"):
        assert word in text and word in page
    assert page.count("<tr>") == 4


def test_only_what_users_call_is_shown_for_completion():
    names = [name for name in dir(mmm_rs) if not name.startswith("__")]
    assert set(names) == set(mmm_rs.__all__) and len(names) < 20
    assert {"load_dataset", "get", "info", "webdataset", "features", "SUBSETS"} <= set(names)
    assert all(hasattr(mmm_rs, name) for name in names)


@pytest.mark.parametrize("where", ["/proc/nobody", "FILE/inside"])
def test_a_home_that_cannot_be_written_does_not_prevent_streaming(sen12, tmp_path, where):
    (tmp_path / "FILE").write_text("")
    home = where.replace("FILE", str(tmp_path / "FILE"))
    read = f"import mmm_rs; print(len(list(mmm_rs.load_dataset('SEN1-2', {str(sen12)!r}, streaming=True))))"
    names = ("HF_HOME", "HF_DATASETS_CACHE", "HOME", "XDG_CACHE_HOME")
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    environment = os.environ | dict.fromkeys(names, home) | {"TMPDIR": str(temporary)}
    run = subprocess.run([sys.executable, "-c", read], env=environment, capture_output=True, text=True)
    assert run.stdout.split() == ["40"], run.stderr
    assert not list(temporary.iterdir())


def test_pieces_and_tables_of_any_size_give_the_same_rows(sen12, small_pieces):
    expected = stored(sen12, "SEN1-2")
    streamed = load(sen12, decode=False)
    assert streamed.n_shards == 20
    assert list(streamed) == expected
    assert list(load(sen12, streaming=False, decode=False)) == expected
    assert list(load(sen12, streaming=False, num_proc=2, decode=False)) == expected


def test_exif_s_orientation_is_heeded_as_datasets_does(tmp_path):
    exif = Picture.Exif()
    exif[0x0112] = 6  # turned
    data = io.BytesIO()
    Picture.new("RGB", (32, 16), "red").save(data, "JPEG", exif=exif)
    sample = converted.Sample("Inria/512/turned", {"rgb": "a roof"}, "a roof", images={"rgb": data.getvalue()})
    converted.write(tmp_path / "MMM-RS", [sample])
    (row,) = load(tmp_path / "MMM-RS", "Inria")
    (same,) = load(tmp_path / "MMM-RS", "Inria", streaming=False)
    assert row["rgb"].size == same["rgb"].size == (16, 32)


def test_data_converted_again_are_not_served_from_an_old_cache(sen12, tmp_path):
    out = tmp_path / "MMM-RS"
    many(out, 5)
    assert len(load(out, streaming=False)) == 5
    assert len(load(out, streaming=False, filters=[("category", "==", "c1")])) == 2
    many(out, 8)
    assert keys(load(out, streaming=False)) == keys(stored(out, "SEN1-2"))
    assert len(load(out, streaming=False, filters=[("category", "==", "c1")])) == 3


@pytest.mark.parametrize(
    "config, options, says",
    [
        ("sen1-2", {}, r"'sen1-2': no such subset\. Did you mean SEN1-2\? The configs are weather, .* all"),
        (None, {}, r"None: no such subset\. The configs are weather, .* all"),
        ("fMoW", {}, r"holds no fMoW\. It has .*SEN1-2"),
        ("SEN1-2", {"modalities": ["nir"]}, r"modalities=\['nir'\]: give one or a list of some of \['rgb', 'sar'\]"),
        ("SEN1-2", {"modalities": "rgbd"}, r"modalities=\['rgbd'\]: give one or a list.* Did you mean rgb\?"),
        ("SEN1-2", {"modalities": []}, r"modalities=\[\]: give one or a list"),
        ("SEN1-2", {"on_error": "ignore"}, r'on_error=\'ignore\': give "raise" or "skip"'),
        ("SEN1-2", {"contains": 5}, r"contains=5: give a text or a list of texts"),
        (
            "SEN1-2",
            {"filters": [("gsd_level", "==", "lo")]},
            r"'lo' is not a gsd_level. Did you mean low\? These are ultra_high, high, ordin",
        ),
        (
            "weather",
            {"filters": [[("weather", "in", ["fog", "snowy"])]]},
            r"'snowy' is not a weather. Did you mean snow\? These are fog, night",
        ),
        ("SEN1-2", {"filters": [("colour", "==", "red")]}, r"filters=.*no column 'colour'\. The index has key, split"),
        ("SEN1-2", {"filters": {"gsdlevel": "low"}}, r"no column 'gsdlevel'\. Did you mean gsd_level\?"),
        (
            "SEN1-2",
            {"filters": [("gsd", "==")]},
            r"filters=.*'gsd' is not a column, an operation and a value\. Give \{",
        ),
        ("SEN1-2", {"filters": [("gsd", "~", 1)]}, r"filters=.*'~' is not an operation; these are == = !="),
        ("SEN1-2", {"filters": [("gsd", "in", 1)]}, r"'gsd' in 1: give a list"),
        ("SEN1-2", {"filters": [("category", "in", "c1")]}, r"'category' in 'c1': give a list"),
        ("SEN1-2", {"filters": [("gsd", "==", [1, 2])]}, r"'gsd' == \[1, 2\]: give one value, or the operation in"),
        ("SEN1-2", {"filters": [("gsd", ">", None)]}, r"'gsd' > None: null is neither smaller nor larger"),
        ("SEN1-2", {"filters": [("source", "==", "a")]}, r"'source' has several parts and cannot be compared"),
        ("SEN1-2", {"filters": [[]]}, r"filters=\[\[\]\]: a part of it is not a filter"),
        ("SEN1-2", {"filters": 7}, r"filters=7: it is not a filter\. Give \{"),
        ("SEN1-2", {"filters": "gsd > 3"}, r"filters='gsd > 3': it is not a filter\. Give \{"),
        ("SEN1-2", {"filters": [("category", "==", 3)]}, r"'category' is text, and 3 is not\."),
        ("SEN1-2", {"filters": ("gsd_level", "==", 3)}, r"'gsd_level' is text \(ultra_high, .*, and 3 is not\."),
        ("SEN1-2", {"filters": {"gsd": "low"}}, r"'gsd' is a number, and 'low' is not\."),
        ("SEN1-2", {"filters": {"gsd_level_derived": 1}}, r"'gsd_level_derived' is true or false, and 1 is not\."),
        (
            "SEN1-2",
            {"filters": pc.field("colour") == "red"},
            r"filters: .*colour.*The index has the columns key \(text",
        ),
        ("SEN1-2", {"filters": pc.field("gsd")}, r"filters: .*bool.*The index has the columns"),
        ("SEN1-2", {"filters": pc.field(3) == "SEN1-2"}, r"Name columns, whole ones"),
    ],
)
@either_way
def test_arguments_that_do_not_fit(subsets, config, options, says, streaming):
    with pytest.raises((ValueError, mmm_rs.ReadError), match=says) as raised:
        load(subsets, config, streaming, **options)
    assert type(raised.value) in (ValueError, mmm_rs.ReadError)
    assert "\n" not in str(raised.value) and len(str(raised.value)) < 1200


@either_way
def test_no_data_there(tmp_path, streaming):
    with pytest.raises(ValueError, match="data_dir: give the folder or URL"):
        mmm_rs.load_dataset("SEN1-2", None, streaming=streaming)
    with pytest.raises(Exception, match=f"{tmp_path}/nothing") as raised:
        load(tmp_path / "nothing", streaming=streaming)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("bytes_ahead", [-1, "48MB", 1.5, True])
def test_a_read_ahead_that_is_no_number_of_bytes_is_refused(sen12, bytes_ahead):
    with pytest.raises(ValueError, match=r"read_ahead=.*: give a number of bytes, for example 50331648"):
        load(sen12, read_ahead=bytes_ahead)


@pytest.mark.parametrize("address", ["hf://org/MMM-RS", "hf://models/org/MMM-RS", "hf://org/MMM-RS@main/"])
def test_an_address_without_datasets_is_answered_with_the_right_one(address):
    with pytest.raises(ValueError, match=r"is not the address of a dataset\. Give hf://datasets/org/MMM-RS"):
        load(address)


@pytest.fixture
def pillow_s_memory():
    """Pillow as it is when a program starts."""
    before = Picture.core.get_blocks_max()
    Picture.core.set_blocks_max(0)
    yield Picture.core
    Picture.core.set_blocks_max(before)


def test_the_memory_of_an_image_is_used_again_for_the_next_one(subsets, pillow_s_memory):
    for row in load(subsets, "SEN1-2"):
        row["rgb"].load()
    before = pillow_s_memory.get_stats()["reused_blocks"]
    for row in load(subsets, "SEN1-2"):
        row["rgb"].load()
    assert pillow_s_memory.get_stats()["reused_blocks"] > before


def test_what_the_program_chose_for_pillow_s_memory_stays(subsets, pillow_s_memory, monkeypatch):
    pillow_s_memory.set_blocks_max(9)
    next(iter(load(subsets, "SEN1-2")))
    assert pillow_s_memory.get_blocks_max() == 9
    monkeypatch.setenv("PILLOW_BLOCKS_MAX", "0")
    pillow_s_memory.set_blocks_max(0)
    next(iter(load(subsets, "SEN1-2")))
    assert pillow_s_memory.get_blocks_max() == 0


# ------------------------------------------------------------------------------------------------------------ filters


def level(row) -> str:
    return LEVELS[row["gsd_level"]]


FILTERS = {
    "all of a list": (
        [("gsd_level", "in", ["low", "high"]), ("gsd", ">", 6)],
        lambda row: level(row) in ("low", "high") and row["gsd"] > 6,
    ),
    "one of several lists": (
        [[("category", "==", "c1"), ("gsd", "<", 4)], [("gsd_level", "==", "ordinary")]],
        lambda row: (row["category"] == "c1" and row["gsd"] < 4) or level(row) == "ordinary",
    ),
    "an expression": (
        (pc.field("category") == "c2") & ~pc.field("sar_size").is_null(),
        lambda row: row["category"] == "c2" and row["sar"] is not None,
    ),
    "a column that is not a row's": (
        [("rgb_width", "==", 24), ("key", "in", ["SEN1-2/place_008", "SEN1-2/none"])],
        lambda row: row["key"] == "SEN1-2/place_008",
    ),
    "a bare comparison": (("category", "==", "c2"), lambda row: row["category"] == "c2"),
    "a comparison in a list": ([["category", "==", "c2"]], lambda row: row["category"] == "c2"),
    "a dictionary": (
        {"category": "c2", "gsd_level": ["low", "high"]},
        lambda row: row["category"] == "c2" and level(row) in ("low", "high"),
    ),
    "numpy's values": (("gsd", "in", np.array([1.0, 2.5])), lambda row: row["gsd"] in (1.0, 2.5)),
    "a whole number for a column of fractions": (("gsd", "==", 3), lambda row: row["gsd"] == 3),
    "everything": ([("gsd", ">=", 0)], lambda row: True),
    "nothing asked": ([], lambda row: True),
    "nothing matches": ([("category", "==", "c9")], lambda row: False),
}


@pytest.mark.parametrize("name", FILTERS)
@either_way
def test_filters(sen12, name, streaming):
    filters, matches = FILTERS[name]
    expected = [row for row in stored(sen12, "SEN1-2") if matches(row)]
    rows = load(sen12, streaming=streaming, filters=filters, decode=False)
    assert list(rows) == expected
    if not streaming:
        assert len(rows) == rows.info.splits["train"].num_examples == len(expected)


@pytest.mark.parametrize(
    "contains, options",
    [
        ("FIELD 1", {}),
        (["field 1", "radar"], {}),
        (["field 1", "sentinel"], {"modalities": ["sar"]}),
        ("field 2", {"filters": [("category", "==", "c0")]}),
    ],
)
@either_way
def test_contains_looks_into_the_prompts_of_the_chosen_modalities(sen12, contains, options, streaming):
    texts = [contains] if isinstance(contains, str) else contains

    def matches(row):
        prompts = [row.get(name) or "" for name in PROMPTS.values()]
        return all(any(text.lower() in prompt.lower() for prompt in prompts) for text in texts)

    expected = [row for row in stored(sen12, "SEN1-2", options.get("modalities")) if matches(row)]
    if "filters" in options:
        expected = [row for row in expected if row["category"] == "c0"]
    assert list(load(sen12, streaming=streaming, contains=contains, decode=False, **options)) == expected


def weathers(out: Path) -> Path:
    """Seven samples of weather; one has none."""
    words = ["fog", None, "night", "fog", "snow", "night", "snow"]
    samples = [
        converted.Sample(f"weather/place_{number}", {"rgb": "a farm"}, "a farm", weather=word)
        for number, word in enumerate(words)
    ]
    for number, sample in enumerate(samples):
        sample.images["rgb"] = converted.picture(str(number), number, 8)
    converted.write(out, samples)
    return out


@pytest.mark.parametrize(
    "filters, matches",
    [
        (("weather", "==", "fog"), ["fog"]),
        (("weather", "!=", "fog"), [None, "night", "snow"]),
        (("weather", "in", ["fog", "snow"]), ["fog", "snow"]),
        (("weather", "not in", ["fog", "snow"]), [None, "night"]),
        (("weather", "==", None), [None]),
        ({"weather": None}, [None]),
        (("weather", "!=", None), ["fog", "night", "snow"]),
        ({"weather": [None, "fog"]}, [None, "fog"]),
        (("weather", "not in", [None, "fog"]), ["night", "snow"]),
        (("weather", "in", []), []),
        (("weather", "not in", []), [None, "fog", "night", "snow"]),
    ],
    ids=str,
)
def test_null_is_unequal_to_every_value(tmp_path, filters, matches):
    rows = load(weathers(tmp_path / "MMM-RS"), "weather", filters=filters, decode=False)
    labels = rows.features["weather"]
    assert {None if row["weather"] is None else labels.int2str(row["weather"]) for row in rows} == set(matches)


@pytest.mark.parametrize(
    "options, says",
    [
        (
            {"filters": ("category", "==", "c9")},
            "no sample matches filters=('category', '==', 'c9'). category is c0, c1",
        ),
        ({"filters": ("gsd", ">", 1000)}, "matches filters=('gsd', '>', 1000). gsd is 0 to 23"),
        ({"filters": {"cloud_cover": 3}}, "cloud_cover is always null"),
        ({"filters": {"key": "SEN1-2/none"}}, "key is SEN1-2/place_000, SEN1-2/place_001, "),
    ],
)
@either_way
def test_a_filter_that_matches_nothing_says_which_values_there_are(sen12, options, says, streaming, warnings):
    assert list(load(sen12, streaming=streaming, **options)) == []
    (line,) = [line for line in warnings() if "no sample matches" in line]
    assert line.startswith("SEN1-2: ") and says in line and "\n" not in line


@either_way
def test_a_text_that_no_prompt_contains_is_named_without_the_prompts(sen12, streaming, warnings):
    assert list(load(sen12, streaming=streaming, contains="whale")) == []
    (line,) = [line for line in warnings() if "no sample matches" in line]
    assert line.strip() == "SEN1-2: no sample matches contains='whale'"


def test_a_filter_that_matches_something_says_nothing(sen12, warnings):
    assert len(list(load(sen12, filters={"category": "c1"}))) > 1
    assert not any("matches" in line for line in warnings())


@pytest.mark.parametrize("chosen", [["sar"], "sar"])
def test_one_modality_needs_no_list(sen12, chosen):
    rows = load(sen12, modalities=chosen, decode=False)
    assert list(rows) == stored(sen12, "SEN1-2", ["sar"])


MIXED = ["Inria", "SEN1-2", "WHU-OPT-SAR"]


@pytest.mark.parametrize("order", list(itertools.permutations(MIXED)), ids="-".join)
@pytest.mark.parametrize("mix", [datasets.concatenate_datasets, datasets.interleave_datasets])
def test_configs_can_be_mixed_in_any_order(subsets, order, mix):
    def check(make):
        rows = list(mix([make(config) for config in order]))
        assert {row["key"].partition("/")[0] for row in rows} == set(MIXED)
        expected = {row["key"]: row["annotation"] for config in order for row in stored(subsets, config)}
        assert all(row["annotation"] == expected[row["key"]] for row in rows)

    check(lambda config: load(subsets, config, decode=False))


def test_a_table_that_is_pickled_holds_no_rows_but_its_own(tmp_path, monkeypatch):
    """As between the workers of a DataLoader and their parent."""
    monkeypatch.setattr(mmm_rs, "PIECE_ROWS", 4)
    monkeypatch.setattr(mmm_rs, "PIECE_MULTIPLE", 1)
    out = many(tmp_path / "MMM-RS", 200)
    for table in load(out, decode=False).with_format("arrow").iter(batch_size=4):
        assert len(pickle.dumps(table)) < 2 * table.nbytes + 10_000


def test_filters_go_into_small_pieces_too(sen12, small_pieces):
    filters, matches = FILTERS["one of several lists"]
    assert list(load(sen12, filters=filters, decode=False)) == [r for r in stored(sen12, "SEN1-2") if matches(r)]


# ------------------------------------------------------------------------------------------------------ one at random


def test_get(subsets):
    for config in HAVING:
        for row in stored(subsets, config) if config != "all" else []:
            assert mmm_rs.get(subsets, row["key"], decode=False) == row
            assert opened(mmm_rs.get(str(subsets), row["key"])) == opened(row)
    only = mmm_rs.get(subsets, "SEN1-2/ROIs1158_spring_1_p2", modalities=["sar"], decode=False)
    assert only in stored(subsets, "SEN1-2", ["sar"])


@pytest.mark.parametrize("key", ["SEN1-2/none", "none", "", "fMoW/airport_1"])
def test_get_says_that_there_is_no_such_key(subsets, key):
    with pytest.raises(KeyError, match="no sample"):
        mmm_rs.get(subsets, key)


def test_get_refuses_modalities_that_the_subset_does_not_have(subsets):
    with pytest.raises(ValueError, match=r"modalities=\['nir'\]"):
        mmm_rs.get(subsets, "SEN1-2/ROIs1158_spring_1_p2", modalities=["nir"])


# ------------------------------------------------------------------------------------------------ bit rot in an index


def test_a_flipped_bit_in_an_index_is_an_error_or_changes_nothing(tmp_path):
    out = tmp_path / "MMM-RS"
    chosen = [subset for subset in releases.small() if subset.name == "SEN1-2"]
    convert(releases.zips_stored(chosen, tmp_path / "release"), out)
    path = out / "index" / "SEN1-2.parquet"
    whole = path.read_bytes()
    footer = len(whole) - 8 - int.from_bytes(whole[-8:-4], "little")
    ways = [{}, {"modalities": ["sar"], "filters": [("satellite", "==", "Sentinel-1")]}]

    def read(way: dict) -> list[dict]:
        return list(mmm_rs.load_dataset("SEN1-2", str(out), streaming=True, decode=False, **way))

    expected = [read(way) for way in ways]
    assert all(expected)
    refused, draw = 0, random.Random(0)
    for number in range(120):
        flipped = bytearray(whole)
        bit = draw.randrange(*((0, 8 * footer) if number % 2 else (8 * footer, 8 * len(whole))))
        flipped[bit // 8] ^= 1 << bit % 8
        path.write_bytes(flipped)
        for way, rows in zip(ways, expected, strict=True):
            try:
                assert read(way) == rows, f"bit {bit}"
            except mmm_rs.ReadError:
                refused += 1
    assert refused > 120


# ------------------------------------------------------------------------------------------------- an earlier format


def test_a_folder_of_format_1_0_is_read(tmp_path):
    """Its labels describe the first modality that a sample has, whichever is chosen."""
    out = tmp_path / "MMM-RS"
    converted.write(out, version="1.0")
    for config in HAVING:
        for modalities in (None, HAVING[config][-1:]):
            rows = mmm_rs.load_dataset(config, str(out), streaming=True, decode=False, modalities=modalities)
            assert list(rows) == stored(out, config, modalities)
    chosen = [("satellite", "==", "Sentinel-2")]
    rows = list(mmm_rs.load_dataset("SEN1-2", str(out), streaming=True, filters=chosen))
    assert {row["satellite"] for row in rows} == {"Sentinel-2"}


# -------------------------------------------------------------------------------------------------------- never short


def shard(out: Path, number: int = 1) -> Path:
    return sorted((out / "data" / "SEN1-2").glob("train-*.tar"))[number]


def rewrite_index(out: Path, change: Callable[[pa.Table], pa.Table]) -> None:
    """Change an index and let the manifest describe it, so that only what it holds can tell."""
    path = out / "index" / "SEN1-2.parquet"
    pq.write_table(change(pq.read_table(path)), path)
    manifest = json.loads((out / "manifest.json").read_text())
    manifest["files"]["index/SEN1-2.parquet"] = converted.described(path)
    converted.write_manifest(out, manifest)


def replaced(rows: pa.Table, name: str, position: int, value) -> pa.Table:
    values = rows[name].to_pylist()
    values[position] = value
    field = rows.schema.field(name)
    return rows.set_column(rows.schema.get_field_index(name), field, pa.array(values, field.type))


def moved(rows: pa.Table, position: int, by: int) -> pa.Table:
    return replaced(rows, "rgb_offset", position, rows["rgb_offset"][position].as_py() + by)


def cut_at_a_member(out: Path) -> None:
    with tarfile.open(shard(out)) as tar:
        last = tar.getmembers()[-3]
    os.truncate(shard(out), last.offset)


def other_conversion(out: Path) -> None:
    other = many(out.with_name("other"), 60)
    shutil.copy(shard(other), shard(out))


def flipped(out: Path) -> str:
    """Flip a bit in the middle of an image of the second shard; its key."""
    with tarfile.open(shard(out)) as tar:
        image = [member for member in tar if member.name.endswith(".jpg")][4]
    with shard(out).open("r+b") as file:
        file.seek(image.offset_data + image.size // 2)
        byte = file.read(1)[0]
        file.seek(-1, os.SEEK_CUR)
        file.write(bytes([byte ^ 4]))
    return image.name.partition(".")[0]


def edit_manifest(out: Path) -> None:
    path = out / "manifest.json"
    manifest = json.loads(path.read_text())
    manifest["shards"][0]["samples"] -= 1
    manifest["subsets"]["SEN1-2"]["samples"] -= 1
    path.write_text(json.dumps(manifest))


SHARD, INDEX = r"train-00001-of-00003\.tar", r"index/SEN1-2\.parquet"
DAMAGE: dict[str, tuple[Callable[[Path], object], str]] = {
    "cut at a member": (cut_at_a_member, rf"{SHARD}: has \d+ bytes, the manifest says \d+: it is cut short"),
    "cut in a member": (lambda out: os.truncate(shard(out), 7000), rf"{SHARD}: has 7000 bytes, the manifest says"),
    "empty": (lambda out: os.truncate(shard(out), 0), rf"{SHARD}: has 0 bytes, the manifest says"),
    "longer": (lambda out: os.truncate(shard(out), 1 << 20), rf"{SHARD}: has 1048576 bytes, the manifest says"),
    "missing": (lambda out: shard(out).unlink(), rf"{SHARD}: not found; the manifest says \d+ bytes"),
    "another conversion's": (other_conversion, rf"{SHARD}: has \d+ bytes, the manifest says"),
    "a flipped bit": (flipped, rf"{SHARD}: the \w+ image of SEN1-2/place_\d+: its CRC is not 0x\w{{8}}"),
    "an index row off": (
        lambda out: rewrite_index(out, lambda rows: moved(rows, 15, 512)),
        rf"{SHARD}: the rgb image of SEN1-2/place_015: its CRC is not",
    ),
    "an index row far off": (
        lambda out: rewrite_index(out, lambda rows: moved(rows, 15, 1 << 40)),
        rf"{SHARD}: by the index the rgb image of SEN1-2/place_015 has \d+ bytes at \d+",
    ),
    "a negative place": (
        lambda out: rewrite_index(out, lambda rows: moved(rows, 15, -(1 << 40))),
        rf"{SHARD}: by the index the rgb image of SEN1-2/place_015 has \d+ bytes at -\d+",
    ),
    "a row of the index less": (
        lambda out: rewrite_index(out, lambda rows: rows.slice(1)),
        rf"{INDEX}: has 46 rows, the manifest says 47",
    ),
    "rows in another order": (
        lambda out: rewrite_index(out, lambda rows: rows.take(list(range(46, -1, -1)))),
        rf"{INDEX}: has rows of other samples than the manifest has in .*00000-of",
    ),
    "a strange label": (
        lambda out: rewrite_index(out, lambda rows: replaced(rows, "gsd_level", 15, "huge")),
        r"column gsd_level: \['huge'\] are none of",
    ),
    "no index": (lambda out: (out / "index" / "SEN1-2.parquet").unlink(), rf"{INDEX}: not found\. Fetch it too"),
    "an index cut short": (
        lambda out: os.truncate(out / "index" / "SEN1-2.parquet", 5000),
        rf"{INDEX}: has 5000 bytes, the manifest says \d+",
    ),
    "the manifest edited": (edit_manifest, r"manifest\.json: was edited or damaged: its digest should be"),
    "the manifest cut short": (lambda out: os.truncate(out / "manifest.json", 200), r"manifest\.json: cannot be read"),
    "the manifest a list": (lambda out: (out / "manifest.json").write_text("[]"), r"manifest\.json: cannot be read"),
    "a format to come": (
        lambda out: converted.write_manifest(
            out, json.loads((out / "manifest.json").read_text()) | {"format_version": "2.0"}
        ),
        r"manifest\.json: format 2\.0, this module reads 1\.1",
    ),
}


@pytest.mark.parametrize("name", DAMAGE)
@either_way
def test_what_is_not_whole_is_an_error_that_names_it(own_copy, name, streaming):
    damage, says = DAMAGE[name]
    damage(own_copy)
    with pytest.raises(mmm_rs.ReadError, match=says) as raised:
        list(load(own_copy, streaming=streaming))
    assert "\n" not in str(raised.value)
    assert str(own_copy) in str(raised.value) or "column gsd_level" in str(raised.value)


def test_an_error_in_another_process_is_the_same(own_copy):
    cut_at_a_member(own_copy)
    with pytest.raises(mmm_rs.ReadError, match=SHARD):
        load(own_copy, streaming=False, num_proc=2)


def test_the_rows_before_a_damaged_shard_come(own_copy):
    before = stored(own_copy, "SEN1-2")[:13]
    cut_at_a_member(own_copy)
    came = []
    with pytest.raises(mmm_rs.ReadError, match=SHARD):
        for row in load(own_copy, decode=False):
            came.append(row)
    assert came == before


def test_get_notices_damage(own_copy):
    key = flipped(own_copy)
    with pytest.raises(mmm_rs.ReadError, match=rf"{SHARD}: the \w+ image of {key}: its CRC is not"):
        mmm_rs.get(own_copy, key)
    shard(own_copy).unlink()
    with pytest.raises(mmm_rs.ReadError, match=rf"{SHARD}: not found"):
        mmm_rs.get(own_copy, key)


@either_way
def test_crcs_are_checked_where_it_costs_little_or_is_asked_for(own_copy, streaming):
    expected = stored(own_copy, "SEN1-2")
    flipped(own_copy)
    damaged = stored(own_copy, "SEN1-2")
    assert damaged != expected
    for options in ({}, {"check": True, "decode": False}):
        with pytest.raises(mmm_rs.ReadError, match="its CRC is not"):
            list(load(own_copy, streaming=streaming, **options))
    for options in ({"decode": False}, {"check": False, "decode": False}):
        assert list(load(own_copy, streaming=streaming, **options)) == damaged


# --------------------------------------------------------------------------------------------------------------- skip


def cut_inside(out: Path) -> set[str]:
    with tarfile.open(shard(out)) as tar:
        image = [member for member in tar if member.name.endswith(".jpg")][6]
        images = [member for member in tar.getmembers() if member.name.endswith(".jpg")]
    os.truncate(shard(out), image.offset_data + image.size // 2)
    return {other.name.partition(".")[0] for other in images if other.offset >= image.offset}


def remove(out: Path) -> set[str]:
    with tarfile.open(shard(out)) as tar:
        gone = {name.partition(".")[0] for name in tar.getnames()}
    shard(out).unlink()
    return gone


SKIPPED: dict[str, Callable[[Path], set[str]]] = {
    "a flipped bit": lambda out: {flipped(out)},
    "cut short": cut_inside,
    "missing": remove,
}


@pytest.fixture
def warnings(caplog, monkeypatch):
    """What `datasets` and this project warn of."""
    monkeypatch.setattr(logging.getLogger("datasets"), "propagate", True)
    return lambda: [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]


def builder(out, **options):
    return mmm_rs.MMMRS(config_name="SEN1-2", data_dir=str(out), **options)


@pytest.mark.parametrize("name", SKIPPED)
@either_way
def test_bad_samples_are_skipped_counted_and_listed(own_copy, name, streaming, warnings):
    expected = stored(own_copy, "SEN1-2")
    bad = SKIPPED[name](own_copy)
    reader = builder(own_copy, on_error="skip")
    if streaming:
        rows = reader.as_streaming_dataset(split="train")
    else:
        reader.download_and_prepare()
        rows = reader.as_dataset(split="train")
    assert [opened(row) for row in rows] == [opened(row) for row in expected if row["key"] not in bad]
    assert {sample.key for sample in reader.skipped} == bad
    assert {sample.shard for sample in reader.skipped} == {
        f"data/SEN1-2/{shard(own_copy, 0).name}".replace("00000-", "00001-")
    }
    (line,) = [line for line in warnings() if "samples skipped" in line]
    assert line.startswith(f"SEN1-2: {len(bad)} samples skipped: ")
    assert all(f"{key} in data/SEN1-2/" in line for key in bad)


def test_skipped_samples_are_listed_when_the_stream_is_left_early(own_copy, warnings):
    key = flipped(own_copy)
    reader = builder(own_copy, on_error="skip", decode=False)
    assert len(list(reader.as_streaming_dataset(split="train").take(30))) == 30
    assert [sample.key for sample in reader.skipped] == [key]
    assert any(f"1 samples skipped: {key}" in line for line in warnings())


def test_what_was_skipped_in_an_earlier_preparation_is_said_again(own_copy, warnings):
    flipped(own_copy)
    for number in (1, 2):
        assert len(load(own_copy, streaming=False, on_error="skip")) == 39
        lines = [line for line in warnings() if "39 of 40 samples of train" in line]
        assert len(lines) == number


def test_a_resumed_stream_does_not_stumble_over_skipped_samples(own_copy, small_pieces):
    flipped(own_copy)
    rows = keys(load(own_copy, on_error="skip"))
    for position in range(0, len(rows) + 1, 3):
        stream = load(own_copy, on_error="skip")
        assert keys(take(stream, position)) == rows[:position]
        again = load(own_copy, on_error="skip")
        again.load_state_dict(stream.state_dict())
        assert keys(again) == rows[position:]


# --------------------------------------------------------------------------------------------------- state and copies


@pytest.fixture(scope="module")
def tiny(tmp_path_factory) -> Path:
    """10 samples. Not to be changed by a test."""
    return many(tmp_path_factory.mktemp("tiny") / "MMM-RS", 10)


def take(stream, count: int) -> list:
    return [row for _, row in zip(range(count), stream, strict=False)]


def value(item):
    """What came, in a form that can be compared: pixels for images, lists for arrays and tables."""
    if isinstance(item, Picture.Image):
        return item.size, hashlib.sha256(item.tobytes()).hexdigest()
    if isinstance(item, pa.Table):
        return value(item.to_pylist())
    if isinstance(item, dict):
        return {name: value(element) for name, element in item.items()}
    if isinstance(item, list | tuple):
        return [value(element) for element in item]
    if isinstance(item, np.ndarray):
        return item.shape, value(item.tolist())
    item = item.item() if isinstance(item, np.generic) else item
    return "nan" if item != item else item


def add_number(row):
    return {"number": int(row["key"][-3:])}


def add_numbers(rows):
    return {"number": [int(key[-3:]) for key in rows["key"]]}


def is_odd(row):
    return int(row["key"][-3:]) % 2 == 1


def at_epoch(stream, epoch):
    stream.set_epoch(epoch)
    return stream


PIPELINES = {
    "as it is": lambda stream: stream,
    "map": lambda stream: stream.map(add_number),
    "map of batches": lambda stream: stream.map(add_numbers, batched=True, batch_size=3),
    "filter": lambda stream: stream.filter(is_odd),
    "map and filter": lambda stream: stream.map(add_number).filter(is_odd),
    "batch": lambda stream: stream.batch(3),
    "take": lambda stream: stream.take(7),
    "skip": lambda stream: stream.skip(4),
    "skip and take": lambda stream: stream.skip(3).take(5),
    "select_columns": lambda stream: stream.select_columns(["key", "rgb"]),
    "remove_columns": lambda stream: stream.remove_columns(["sar"]),
    "rename_column": lambda stream: stream.rename_column("rgb", "image"),
    "cast_column": lambda stream: stream.cast_column("rgb", Image(decode=False)),
    "arrow": lambda stream: stream.with_format("arrow"),
    "numpy": lambda stream: stream.with_format("numpy"),
    "arrow and map": lambda stream: stream.with_format("arrow").map(lambda table: table),
    "interleaved": lambda stream: datasets.interleave_datasets([stream, stream.filter(is_odd)]),
    "interleaved at random": lambda stream: datasets.interleave_datasets([stream, stream], [0.3, 0.7], seed=1),
    "one after the other": lambda stream: datasets.concatenate_datasets([stream, stream.take(3)]),
    "shards of a node": lambda stream: stream.shard(2, 1),
}


BEFORE_4_8 = tuple(map(int, datasets.__version__.split(".")[:2])) < (4, 8)
# How such a check fails for streams of `datasets` itself before 4.8: resumed behind `map` or `rename_column` at another
# row, behind `interleave_datasets` or `shard` not at all, images encoded again.
EARLIER_FAULTS = (AssertionError, AttributeError, KeyError, ValueError)


def holds(check: Callable[[Callable], None], out: Path, **options) -> None:
    """The check holds for streams of the builder, before 4.8 only where it holds for those of `datasets` itself."""
    try:
        check(lambda: load(out, **options))
    except EARLIER_FAULTS:
        if not BEFORE_4_8:
            raise
        whole = load(out, streaming=False, **options)
        try:
            check(lambda: whole.to_iterable_dataset(num_shards=7))
        except EARLIER_FAULTS as error:
            pytest.skip(f"not in this version of datasets: {error!r}"[:120])
        raise


@pytest.mark.parametrize(
    "name, decode",
    [(name, True) for name in PIPELINES] + [(name, False) for name in ("as it is", "map", "batch", "arrow")],
)
def test_a_stream_goes_on_exactly_where_it_stopped(tiny, small_pieces, name, decode):
    def check(stream):
        expected = [value(row) for row in PIPELINES[name](stream())]
        assert len(expected) >= 3
        for position in range(len(expected) + 1):
            begun = PIPELINES[name](stream())
            assert [value(row) for row in take(begun, position)] == expected[:position]
            again = PIPELINES[name](stream())
            again.load_state_dict(json.loads(json.dumps(begun.state_dict())))
            assert [value(row) for row in again] == expected[position:], position

    holds(check, tiny, decode=decode)


no_shuffle_without_loss = pytest.mark.skipif(
    "max_buffer_input_shards" not in inspect.signature(datasets.IterableDataset.shuffle).parameters,
    reason="on resuming, this version of datasets loses what was in the buffer, be it a single sample",
)


@no_shuffle_without_loss
@pytest.mark.parametrize("epoch", [0, 1])
def test_a_stream_of_shuffled_shards_goes_on_exactly_where_it_stopped(tiny, small_pieces, epoch):
    def shuffled():
        stream = builder(tiny).as_streaming_dataset(split="train").shuffle(seed=5, buffer_size=1)
        return at_epoch(stream, epoch)

    expected = keys(shuffled())
    assert sorted(expected) == sorted(keys(stored(tiny, "SEN1-2")))
    for position in range(len(expected) + 1):
        stream = shuffled()
        assert keys(take(stream, position)) == expected[:position]
        again = shuffled()
        again.load_state_dict(stream.state_dict())
        assert keys(again) == expected[position:]


def test_shuffling_and_set_epoch_change_the_order_and_nothing_else(sen12, small_pieces):
    plain = {row["key"]: row for row in stored(sen12, "SEN1-2")}
    stream = load(sen12, decode=False).shuffle(seed=3, buffer_size=4)
    orders = []
    for epoch in (0, 1, 2, 0):
        rows = list(at_epoch(stream, epoch))
        assert len(rows) == len(plain) and {row["key"]: row for row in rows} == plain
        orders.append(keys(rows))
    assert orders[0] == orders[3]
    assert len({tuple(order) for order in [list(plain), *orders]}) == 4


@pytest.mark.parametrize("count", [2, 4, 8])
def test_shards_of_nodes_are_equal_to_within_a_sample_and_together_everything(sen12, count):
    parts = [keys(split_dataset_by_node(load(sen12), number, count)) for number in range(count)]
    assert sorted(key for part in parts for key in part) == sorted(keys(stored(sen12, "SEN1-2")))
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


@pytest.mark.parametrize("epoch", range(4))
@pytest.mark.parametrize("shuffle", [False, True])
@pytest.mark.parametrize("count", [2, 4, 8])
def test_so_they_are_in_every_epoch_and_order(sen12, small_pieces, monkeypatch, count, shuffle, epoch):
    monkeypatch.setattr(mmm_rs, "PIECE_MULTIPLE", 8)
    parts = []
    for number in range(count):
        stream = load(sen12, split="train[:37]", decode=False)
        stream = stream.shuffle(seed=3, buffer_size=4) if shuffle else stream
        parts.append(keys(at_epoch(split_dataset_by_node(stream, number, count), epoch)))
    assert sorted(key for part in parts for key in part) == sorted(keys(stored(sen12, "SEN1-2")[:37]))
    assert sorted({len(part) for part in parts}) == [37 // count, 37 // count + 1]


def test_pieces_in_another_order_are_the_same_rows_the_larger_ones_first():
    segments = [mmm_rs.Segment("GID", f"shard {number}", 0, 300 + number) for number in range(9)]
    pieces, generator = mmm_rs.cut(segments), np.random.default_rng(0)
    for _ in range(5):
        order = generator.permutation(len(pieces)).tolist()
        pieces = mmm_rs.reordered(pieces, order)
        sizes = list(map(mmm_rs.row_count, pieces))
        assert sizes == sorted(sizes, reverse=True) and sizes[0] - sizes[-1] == 1
        rows = [(piece.shard, row) for pieces_ in pieces for piece in pieces_ for row in range(piece.first, piece.last)]
        assert sorted(rows) == [(s.shard, row) for s in segments for row in range(s.last)]
        assert sum(map(len, pieces)) <= len(pieces) + len(segments)  # a row is in no segment of its own
        pieces = [pieces[order.index(number)] for number in range(len(order))]  # back in the order of the shards


@pytest.mark.parametrize(
    "twin", [copy.deepcopy, lambda stream: pickle.loads(pickle.dumps(stream))], ids=["deepcopy", "pickle"]
)
@pytest.mark.parametrize(
    "options",
    [{}, {"decode": False}, {"filters": pc.field("gsd") > 3}, {"on_error": "skip", "contains": "field"}],
    ids=["plain", "undecoded", "filtered", "skipping"],
)
def test_copies_give_the_same_rows(sen12, small_pieces, twin, options):
    original = builder(sen12, **options)
    expected = [value(row) for row in original.as_streaming_dataset(split="train")]
    assert len(expected) >= 30
    again = twin(original.as_streaming_dataset(split="train"))
    assert [value(row) for row in again] == expected
    take(again, 5)
    later = twin(original.as_streaming_dataset(split="train"))
    later.load_state_dict(again.state_dict())
    assert [value(row) for row in later] == expected[5:]
    assert [value(row) for row in twin(original).as_streaming_dataset(split="train")] == expected
    assert keys(twin(original.as_streaming_dataset(split="train").map(add_number))) == keys(expected)


CHANGES = {
    "map": lambda stream, typed: stream.map(add_number, **typed),
    "map of batches": lambda stream, typed: stream.map(add_numbers, batched=True, **typed),
    "filter": lambda stream, typed: stream.filter(is_odd),
    "map after filter": lambda stream, typed: stream.filter(is_odd).map(add_number, **typed),
    "map after skip": lambda stream, typed: stream.skip(1).map(add_number, **typed),
    "map after shuffle": lambda stream, typed: stream.shuffle(seed=1, buffer_size=5).map(add_number, **typed),
    "concatenated": lambda stream, typed: datasets.concatenate_datasets([stream, stream.skip(20)]),
    "interleaved": lambda stream, typed: datasets.interleave_datasets([stream, stream.skip(20)]),
}


@pytest.mark.parametrize("name", CHANGES)
def test_images_are_not_encoded_anew_behind_map(sen12, name):
    """A JPEG that is decoded and encoded again is another image."""
    data = {row["key"]: row["rgb"]["bytes"] for row in stored(sen12, "SEN1-2")}

    def changes(stream):
        typed = {"features": datasets.Features({**stream().features, "number": Value("int64")})}
        return CHANGES[name](stream(), {}), CHANGES[name](stream(), typed)

    def decoded(stream):
        for changed in changes(stream):
            rows = list(changed)
            assert len(rows) >= 20
            for row in rows:
                assert row["rgb"].tobytes() == Picture.open(io.BytesIO(data[row["key"]])).tobytes()

    def undecoded(stream):
        for changed in changes(stream):
            for row in changed:
                assert row["rgb"]["bytes"] == data[row["key"]]
        for changed in changes(stream):
            for table in changed.with_format("arrow"):
                assert table["rgb"][0]["bytes"].as_py() == data[table["key"][0].as_py()]

    holds(decoded, sen12)
    holds(undecoded, sen12, decode=False)


def test_too_many_open_files_skip_nothing(own_copy, monkeypatch):
    """The samples are whole, so `on_error="skip"` must not leave them out."""
    reader = builder(own_copy, on_error="skip")
    opened = os.open

    def exhaust(path, *rest, **more):
        if str(path).endswith(".tar"):
            raise OSError(errno.EMFILE, "Too many open files", str(path))
        return opened(path, *rest, **more)

    monkeypatch.setattr(os, "open", exhaust)
    with pytest.raises(mmm_rs.ReadError, match=r"Too many open files.*Allow more open files"):
        list(reader.as_streaming_dataset("train"))
    assert reader.skipped == []


def test_a_local_folder_with_two_colons_in_its_name_is_a_folder(subsets, tmp_path):
    """In a URL they would chain file systems."""
    place = Path(shutil.copytree(subsets, tmp_path / "MMM::RS"))
    assert list(mmm_rs.load_dataset("SEN1-2", place, split="train", streaming=True))


def test_datasets_replaces_no_function_of_the_module(sen12):
    assert list(load(sen12, "SEN1-2", decode=False))
    assert "open" not in vars(mmm_rs) and mmm_rs.os is os  # else it would import scipy in each process, too
