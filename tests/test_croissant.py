"""croissant.json is valid by mlcroissant, which reads the samples through it, each image with its own prompt."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from huggingface_hub import HfApi, constants

from dataset_card.card import write as write_card
from dataset_card.croissant import base_of, hub_base
from mmm_rs import index_schema
from mmm_rs_hub.destination import Destination
from mmm_rs_hub.proof import verify_hub
from mmm_rs_hub.upload import upload
from tests import converted
from tests.hub import TOKEN, Hub

pytest.importorskip("mlcroissant")

ROOT = Path(__file__).parents[1]
CONFIGS = ("WHU-OPT-SAR", "MRSSC2.0", "all")

# mlcroissant keeps what it extracts by the shard's path alone and reads where to when it is imported: each reader is a
# process with a cache of its own.
READER = """
import hashlib, json, sys
import mlcroissant
mapping = json.loads(sys.argv[2])
dataset = mlcroissant.Dataset(sys.argv[1], mapping=mapping or None)
issues = dataset.metadata.ctx.issues
print(json.dumps({"errors": sorted(issues.errors), "warnings": sorted(issues.warnings)}))
def plain(value):
    if hasattr(value, "getpixel"):
        return hashlib.sha256(value.convert("RGB").tobytes()).hexdigest()
    return value.decode() if isinstance(value, bytes) else value
for name in sys.argv[3:]:
    for record in dataset.records(name):
        print(json.dumps([name, {key.removeprefix(name + "/"): plain(value) for key, value in record.items()}]))
"""


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("croissant") / "MMM-RS"
    converted.write(out)
    write_card(out)
    return out


def read(where: Path | str, cache: Path, *record_sets: str, mapping: dict | None = None) -> tuple[dict, list, str]:
    address = str(where / "croissant.json") if isinstance(where, Path) else where
    done = subprocess.run(
        [sys.executable, "-c", READER, address, json.dumps(mapping), *record_sets],
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
    samples = {s.key: s for s in converted.samples() if config in ("all", s.fields()["subset"])}
    assert {record["key"] for _, record in records} == set(samples), noise[-2000:]
    assert len(records) == len(samples)
    modalities = [m for m in converted.MODALITIES if any(m in sample.images for sample in samples.values())]
    for _, record in records:
        sample = samples[record["key"]]
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


# ------------------------------------------------------------------------------------------------------ on the hub


@pytest.fixture(scope="module")
def uploaded(tmp_path_factory: pytest.TempPathFactory):
    """A folder that was uploaded, and the hub."""
    out = tmp_path_factory.mktemp("uploaded") / "MMM-RS"
    converted.write(out)
    write_card(out)
    with pytest.MonkeyPatch.context() as patch, Hub() as hub:
        patch.setattr(constants, "HF_HUB_DISABLE_XET", True)  # this hub knows LFS only
        api = HfApi(endpoint=hub.url, token=TOKEN)
        upload(out, Destination("org/MMM-RS", yes=True), api=api, say=lambda line: None)
        yield out, hub


def test_once_uploaded_it_is_read_from_anywhere_by_its_address(uploaded, reading, tmp_path):
    out, hub = uploaded
    issues, records, noise = read(f"{hub.url}/datasets/org/MMM-RS/resolve/main/croissant.json", tmp_path, *CONFIGS[:2])
    assert issues == {"errors": [], "warnings": []}
    local = [record for record in reading[1] if record[0] in CONFIGS[:2]]
    assert len(records) == 6 and sorted(map(json.dumps, records)) == sorted(map(json.dumps, local)), noise[-2000:]
    names = {node["name"] for node in described(out)["recordSet"]}
    assert "all" not in names and set(CONFIGS[:2]) < names


def test_a_downloaded_copy_is_read_by_a_mapping_as_the_recipe_has_it(uploaded, tmp_path):
    out, hub = uploaded
    section = (ROOT / "docs" / "recipes.md").read_text().split("\n## Croissant\n")[1]
    recipe = section.split("```python\n")[1].split("```")[0]
    hub.requests.clear()
    code = recipe.replace('"MMM-RS-hub"', repr(str(out))) + "print(len(samples), samples[0]['SEN1-2/key'])"
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "CROISSANT_CACHE": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout.startswith("5 b'SEN1-2/"), done.stderr[-2000:]
    assert not hub.requests


def test_convert_and_card_write_paths_and_upload_writes_addresses(uploaded, tmp_path):
    out, hub = uploaded
    base = f"{hub.url}/datasets/org/MMM-RS/resolve/main/"
    assert {node["contentUrl"] for node in described(out)["distribution"] if "contentUrl" in node} == {
        base + path.relative_to(out).as_posix() for path in [*out.glob("data/*/*.tar"), *out.glob("index/*.parquet")]
    }
    copy = tmp_path / "MMM-RS"
    shutil.copytree(out, copy)
    write_card(copy)
    assert base_of((copy / "croissant.json").read_text()) == ""


def test_addresses_are_those_of_the_tag_if_there_is_one(tmp_path, monkeypatch):
    converted.write(tmp_path / "MMM-RS")
    write_card(tmp_path / "MMM-RS")
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    with Hub() as hub:
        api = HfApi(endpoint=hub.url, token=TOKEN)
        destination = Destination("org/MMM-RS", revision="next", tag="v1", yes=True)
        upload(tmp_path / "MMM-RS", destination, api=api, say=lambda line: None)
        proof = verify_hub("hf://datasets/org/MMM-RS@v1", api=api)
        assert proof.shards == 10
        text = hub.files("org/MMM-RS", "v1")["croissant.json"].decode()
        assert base_of(text) == f"{hub.url}/datasets/org/MMM-RS/resolve/v1/"


@pytest.mark.parametrize(
    ("revision", "quoted"), [("main", "main"), ("refs/pr/1", "refs%2Fpr%2F1"), ("v 1#?", "v%201%23%3F")]
)
def test_a_revision_is_one_part_of_an_address(revision, quoted):
    base = hub_base("https://huggingface.co", "org/MMM-RS", revision)
    assert base == f"https://huggingface.co/datasets/org/MMM-RS/resolve/{quoted}/"
    node = {"@id": "data/a.tar", "contentUrl": base + "data/a.tar"}
    assert base_of(json.dumps({"distribution": [node]})) == base


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{}",
        '{"distribution": 1}',
        '{"distribution": [{"@id": "a", "contentUrl": "file:///etc/a"}]}',
        "[" * 10**5,
    ],
)
def test_what_has_no_such_addresses_has_no_base(text):
    assert base_of(text) is None


# --------------------------------------------------------------------------------------------------- responsible AI


def test_mlcroissant_reads_how_the_data_came_about_and_its_limits(out):
    import mlcroissant

    metadata = mlcroissant.Dataset(str(out / "croissant.json")).metadata
    card = (out / "README.md").read_text()
    assert "BLIP" in metadata.data_annotation_protocol[0] and metadata.machine_annotation_tools == ["BLIP (captions)"]
    assert any("synthetic" in step and "CycleGAN" in step for step in metadata.data_preprocessing_protocol)
    assert "WHU-OPT-SAR: WHU-OPT-SAR, https://github.com/AmberHen" in metadata.data_collection_raw_data
    limits = card.split("## Known limits")[1].split("<!--")[0].replace("`", "")
    # One is left out: what was seen in the few images that the card looks at.
    assert len(metadata.data_limitations) == limits.count("\n- ") - limits.count("were looked at") > 4
    assert all(f"- {limit}\n" in limits for limit in metadata.data_limitations)
    assert metadata.data_use_cases and metadata.data_biases and metadata.personal_sensitive_information


def test_without_the_weather_images_nothing_is_said_of_them(tmp_path):
    converted.write(tmp_path, [sample for sample in converted.samples() if not sample.key.startswith("weather")])
    write_card(tmp_path)
    assert "CycleGAN" not in (tmp_path / "croissant.json").read_text()
