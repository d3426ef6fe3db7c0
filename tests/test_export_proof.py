"""An exported dataset can be proved against its source: nothing more, nothing less, the same bytes."""

from __future__ import annotations

import functools
import json
import re
import shlex
import shutil
from pathlib import Path

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import mmm_rs
from conversion import Selection, export
from conversion.errors import ReleaseError, UsageError, VerificationError
from conversion.exports.proof import compare_with_source
from conversion.options import Options
from dataset_card import card
from tests import converted
from tests.conversions import convert, verify
from tests.test_export import files, flip, stored


@pytest.fixture(scope="module")
def source(release, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("source") / "MMM-RS"
    convert(release.path, folder, options=Options(keep_unprompted=True, validation=0.3))
    return folder


SELECTIONS = {
    "everything": Selection(),
    "pairs": Selection(configs=("SEN1-2", "WHU-OPT-SAR"), modalities=("rgb", "sar"), complete=True),
    "radar": Selection(modalities=("sar",)),
    "a draw": Selection(share=0.5, limit=12, seed=4),
    "one split": Selection(split="validation"),
    "labels and texts": Selection(gsd_levels=("low", "high"), contains=("a",)),
}


@pytest.mark.parametrize("name", SELECTIONS)
def test_an_export_is_proved_against_its_source(source, tmp_path, name):
    exported = export(source, tmp_path / "MMM-RS", SELECTIONS[name])
    assert compare_with_source(tmp_path / "MMM-RS", source) == exported.images > 0


def test_a_list_of_keys_is_proved_as_far_as_it_is_known(source, tmp_path):
    keys = sorted(stored(source))[::4]
    exported = export(source, tmp_path / "MMM-RS", Selection(keys=keys, limit=5))
    assert compare_with_source(tmp_path / "MMM-RS", source) == exported.images


def test_samples_that_were_left_out_because_of_damage_are_explained_by_the_report(source, tmp_path):
    damaged = Path(shutil.copytree(source, tmp_path / "damaged"))
    key = next(key for key in sorted(stored(source)) if key.startswith("GID"))
    flip(damaged, key)
    export(damaged, tmp_path / "MMM-RS", Selection(configs="GID"), on_error="skip")
    assert compare_with_source(tmp_path / "MMM-RS", source) == sum(k.startswith("GID/") for k in stored(source)) - 1


def test_the_whole_command(source, tmp_path, run):
    out = tmp_path / "MMM-RS"
    code, printed, _ = run("export", source, out, "--config", "SEN1-2")
    assert code == 0 and printed.startswith(f"{out}: complete: ")
    steps = [f"mmm-rs verify {out} --source {source}", f"mmm-rs upload {out} org/MMM-RS-part"]
    assert [line.strip() for line in printed.split("\nNext:\n")[1].splitlines()] == steps
    code, printed, _ = run(*shlex.split(steps[0])[1:])
    assert printed.split("\nNext:\n")[1].strip() == steps[1]
    images = sum(suffix.endswith("jpg") for sample in stored(out).values() for suffix in sample)
    assert code == 0 and f"the selection is the source's, and {images} images are byte for byte the same" in printed


def rewritten(out: Path, change) -> None:
    """Change an index row and sign the manifest again, as a forger would."""
    path = out / "index" / "GID.parquet"
    rows = pq.read_table(path)
    pq.write_table(pa.Table.from_pylist(change(rows.to_pylist()), schema=rows.schema), path)
    manifest = json.loads((out / "manifest.json").read_text())
    manifest["files"]["index/GID.parquet"] = converted.described(path)
    converted.write_manifest(out, manifest)


def test_a_changed_label_is_found(source, tmp_path):
    out = tmp_path / "MMM-RS"
    export(source, out, Selection(configs="GID"))

    def change(rows):
        rows[0]["category"] = "another"
        return rows

    rewritten(out, change)
    with pytest.raises(VerificationError, match=r"GID/.*: category differ"):
        compare_with_source(out, source)


def test_changed_bytes_are_found_even_if_they_have_the_same_length(source, tmp_path):
    out = tmp_path / "MMM-RS"
    export(source, out, Selection(configs="GID"))
    key = sorted(stored(out))[0]
    flip(out, key)
    with pytest.raises(VerificationError, match=rf"{key}: the rgb image differs"):
        compare_with_source(out, source)


def test_a_selection_that_is_not_what_was_exported_is_found(source, tmp_path):
    out = tmp_path / "MMM-RS"
    export(source, out, Selection(configs=("GID", "Inria"), limit=4))
    contents = json.loads((out / "manifest.json").read_text())
    for selection, words in (
        ({"configs": ["GID", "Inria"]}, "is selected in the source, and neither in"),
        ({"configs": ["GID", "Inria"], "limit": 3, "seed": 0}, "not among the selected samples"),
        ({"configs": ["GID"]}, "nothing of this split is selected|neither in"),
    ):
        contents["exported_from"]["selection"] = selection
        converted.write_manifest(out, contents)
        with pytest.raises(VerificationError, match=words):
            compare_with_source(out, source)


def test_another_dataset_is_not_its_source(source, tmp_path):
    out = tmp_path / "MMM-RS"
    export(source, out, Selection(configs="GID"))
    with pytest.raises(VerificationError, match=r"is not the dataset that .* was exported from"):
        compare_with_source(out, out)
    with pytest.raises(UsageError, match="was not exported from another dataset"):
        compare_with_source(source, source)


def test_an_export_is_compared_with_the_release_as_far_as_it_goes(release, source, tmp_path):
    exported = export(source, tmp_path / "MMM-RS", Selection(limit=6), card=card)
    assert verify(tmp_path / "MMM-RS", release.path).compared == exported.images


def test_a_release_is_not_converted_into_an_export(release, source, tmp_path):
    export(source, tmp_path / "MMM-RS", Selection(configs="GID"))
    with pytest.raises(UsageError, match="holds an export"):
        convert(release.path, tmp_path / "MMM-RS", options=Options(keep_unprompted=True, validation=0.3))
    damaged = Path(shutil.copytree(source, tmp_path / "damaged"))
    flip(damaged, next(key for key in stored(source) if key.startswith("GID")))
    with pytest.raises(ReleaseError):
        export(damaged, tmp_path / "unfinished", Selection(configs="GID"), to="folder")
    with pytest.raises(UsageError, match="holds an unfinished export"):
        convert(release.path, tmp_path / "unfinished")


def test_an_export_of_an_export_names_the_export(source, tmp_path):
    export(source, tmp_path / "one", Selection(configs="GID"))
    export(tmp_path / "one", tmp_path / "two", Selection(limit=2))
    compare_with_source(tmp_path / "two", tmp_path / "one")
    first = json.loads((tmp_path / "one" / "manifest.json").read_text())
    second = json.loads((tmp_path / "two" / "manifest.json").read_text())
    assert second["exported_from"]["digest"] == first["subsets"]["GID"]["digest"]


def test_the_card_says_what_was_exported(source, tmp_path):
    pytest.importorskip("duckdb")
    export(source, tmp_path / "MMM-RS", Selection(configs="GID", where="gsd IS NULL", share=0.9), card=card)
    text = (tmp_path / "MMM-RS" / "README.md").read_text()
    digest = json.loads((tmp_path / "MMM-RS" / "manifest.json").read_text())["exported_from"]["digest"]
    assert f"It was exported from a converted folder (digest of its shards: `{digest}`)" in text
    assert "Selection: config GID; where `gsd IS NULL`; a share of 0.9, spread over the scenes" in text
    assert "exported from" not in (source / "README.md").read_text()
    assert files(tmp_path / "MMM-RS")["README.md"]


@pytest.mark.parametrize("to", ["folder", "parquet"])
def test_an_export_in_another_form_says_how_it_is_loaded_and_uploaded(source, tmp_path, run, to):
    out = tmp_path / "my pairs"
    _, printed, _ = run("export", source, out, "--config", "SEN1-2", "--to", to)
    upload = f"hf upload org/MMM-RS-my-pairs '{out}' --repo-type dataset"
    assert printed.split("\nNext:\n")[1].strip() == upload
    load = printed.split("load it:\n  from datasets import load_dataset\n  ")[1].splitlines()[0]
    names = {"load_dataset": functools.partial(datasets.load_dataset, cache_dir=str(tmp_path / "cache"))}
    assert len(eval(load, names)["train"]) >= 1
    what = "Parquet" if to == "parquet" else "a folder of images"
    message = f"{out}: is an export to {what}. Load it with {load}; upload it with `hf upload org/my-pairs '{out}'"
    for words in (["verify", out], ["upload", out, "org/pairs", "--dry-run"], ["report", out], ["card", out]):
        code, printed, errors = run(*words)
        assert (code, printed, len(errors)) == (2, "", 1) and message in errors[0]
    with pytest.raises(mmm_rs.ReadError, match=re.escape(message)):
        mmm_rs.load_dataset("SEN1-2", str(out))
