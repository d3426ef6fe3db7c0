"""croissant.json is valid by mlcroissant, which reads the samples through it, each image with its own prompt."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from dataset_card.card import write as write_card
from mmm_rs import index_schema
from tests import converted

pytest.importorskip("mlcroissant")

CONFIGS = ("WHU-OPT-SAR", "MRSSC2.0", "all")

# mlcroissant keeps what it extracts by the shard's path alone and reads where to when it is imported: each reader is a
# process with a cache of its own.
READER = """
import hashlib, json, sys
import mlcroissant
dataset = mlcroissant.Dataset(sys.argv[1])
issues = dataset.metadata.ctx.issues
print(json.dumps({"errors": sorted(issues.errors), "warnings": sorted(issues.warnings)}))
def plain(value):
    if hasattr(value, "getpixel"):
        return hashlib.sha256(value.convert("RGB").tobytes()).hexdigest()
    return value.decode() if isinstance(value, bytes) else value
for name in sys.argv[2:]:
    for record in dataset.records(name):
        print(json.dumps([name, {key.removeprefix(name + "/"): plain(value) for key, value in record.items()}]))
"""


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("croissant") / "MMM-RS"
    converted.write(out)
    write_card(out)
    return out


def read(out: Path, cache: Path, *record_sets: str) -> tuple[dict, list, str]:
    done = subprocess.run(
        [sys.executable, "-c", READER, str(out / "croissant.json"), *record_sets],
        env={**os.environ, "CROISSANT_CACHE": str(cache)},
        capture_output=True,
        text=True,
        check=False,
    )
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    return (lines[0] if lines else {}), lines[1:], done.stderr


@pytest.fixture(scope="module")
def reading(out: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[dict, list, str]:
    return read(out, tmp_path_factory.mktemp("cache"), *CONFIGS)


def described(out: Path) -> dict:
    return json.loads((out / "croissant.json").read_text())


def test_mlcroissant_validates_it_without_errors_or_warnings(out, reading):
    issues, _, noise = reading
    assert issues == {"errors": [], "warnings": []}
    assert "WARNING" not in noise
    assert described(out)["conformsTo"][0] == "http://mlcommons.org/croissant/1.1"


def test_every_shard_and_index_file_is_there_with_size_and_sha256(out):
    files = {node["contentUrl"]: node for node in described(out)["distribution"] if node["@type"] == "cr:FileObject"}
    stored = [*out.glob("data/*/*.tar"), *out.glob("index/*.parquet")]
    assert set(files) == {path.relative_to(out).as_posix() for path in stored}
    for path in stored:
        node = files[path.relative_to(out).as_posix()]
        assert node["contentSize"] == f"{path.stat().st_size} B"
        assert node["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.mark.parametrize("config", CONFIGS)
def test_it_gives_every_sample_with_each_image_beside_its_own_prompt(reading, config):
    _, every, noise = reading
    records = [record for record in every if record[0] == config]
    made = {s.key: s for s in converted.samples() if config in ("all", s.fields()["subset"])}
    assert {record["key"] for _, record in records} == set(made), noise[-2000:]
    assert len(records) == len(made)
    modalities = [m for m in converted.MODALITIES if any(m in sample.images for sample in made.values())]
    for _, record in records:
        sample = made[record["key"]]
        for modality in modalities:
            image = sample.images.get(modality)
            assert record[modality] == (image and converted.pixels(image))
            assert record[converted.PROMPT_COLUMNS[modality]] == sample.prompts.get(modality)
            assert record[f"source_{modality}"] == sample.fields()["source"][modality]
        for name in ("category", "weather", "satellite", "gsd", "gsd_level", "gsd_level_derived", "caption"):
            assert record[name] == sample.fields()[name]


def test_record_sets_have_a_typed_and_described_field_for_each_column_of_the_index(out):
    record_sets = {node["@id"]: node for node in described(out)["recordSet"]}
    for config in ("weather", "WHU-OPT-SAR", "SEN1-2", "Inria", "MRSSC2.0", "all"):
        fields = {field["name"]: field for field in record_sets[config]["field"]}
        assert all(field["dataType"].startswith("sc:") and field["description"] for field in fields.values())
        assert fields["rgb"]["dataType"] == "sc:ImageObject"
        assert (fields["gsd"]["dataType"], fields["rgb_size"]["dataType"]) == ("sc:Float", "sc:Integer")
    columns = {name for name in index_schema().names if name not in ("source", "annotation")}
    assert columns <= {field["name"] for field in record_sets["all"]["field"]}
    assert pq.read_schema(out / "index" / "Inria.parquet").names == index_schema().names


def test_geocroissant_has_the_resolution_and_the_bands(out):
    record_sets = {node["@id"]: node for node in described(out)["recordSet"]}
    metres = {"@type": "QuantitativeValue", "value": 10.0, "unitText": "m"}
    assert described(out)["@context"]["geocr"] == "http://mlcommons.org/croissant/geo/"
    assert record_sets["SEN1-2"]["geocr:spatialResolution"] == metres
    assert record_sets["all"]["geocr:spatialResolution"] == "0.3 m to 10 m"
    assert "geocr:spatialResolution" not in record_sets["weather"]
    bands = {
        field["name"]: field["geocr:bandConfiguration"]["geocr:bandNameList"]
        for field in record_sets["WHU-OPT-SAR"]["field"]
        if "geocr:bandConfiguration" in field
    }
    assert bands == {"rgb": ["Red", "Green", "Blue"], "nir": ["NIR"] * 3, "sar": ["SAR"] * 3}


def test_a_shard_that_was_changed_is_refused_by_its_sha256(tmp_path):
    out = tmp_path / "MMM-RS"
    converted.write(out)
    write_card(out)
    shard = out / "data" / "Inria" / "train-00000-of-00002.tar"
    data = bytearray(shard.read_bytes())
    data[600] ^= 1
    shard.write_bytes(data)
    _, records, noise = read(out, tmp_path / "cache", "Inria")
    assert records == [] and "Hash of downloaded file" in noise
