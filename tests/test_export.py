"""Exports read back with tools that are not ours, against what `tarfile` finds in the shards of the source."""

from __future__ import annotations

import hashlib
import io
import json
import random
import shutil
import signal
import tarfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import datasets
import PIL.Image
import pyarrow.parquet as pq
import pytest
from huggingface_hub import DatasetCard

from conversion import Selection, export
from conversion.errors import ReleaseError, UsageError
from conversion.exports import job
from conversion.options import Options
from dataset_card import card, parquet
from tests import converted, stopping
from tests.conversions import convert, verify

SUFFIX = {"rgb": "", "nir": "nir.", "sar": "sar."}
PROMPT = {"rgb": "prompt", "nir": "nir_prompt", "sar": "sar_prompt"}


@pytest.fixture(scope="module")
def source(release, tmp_path_factory) -> Path:
    """All ten subsets; images without a record are published without a prompt."""
    folder = tmp_path_factory.mktemp("source") / "MMM-RS"
    convert(release.path, folder, options=Options(keep_unprompted=True))
    return folder


def stored(out: Path) -> dict[str, dict[str, bytes]]:
    """key -> suffix -> bytes of every sample, as `tarfile` reads the shards."""
    samples: dict[str, dict[str, bytes]] = {}
    for shard in sorted((out / "data").glob("*/*.tar")):
        with tarfile.open(shard, "r:") as tar:
            for member in tar:
                key, _, suffix = member.name.partition(".")
                samples.setdefault(key, {})[suffix] = tar.extractfile(member).read()
    return samples


def files(folder: Path) -> dict[str, bytes]:
    """Content by relative path."""
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def metadata(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metadata.jsonl").read_text().splitlines()]


def pixels(data: bytes) -> tuple:
    image = PIL.Image.open(io.BytesIO(data))
    return image.mode, image.size, image.tobytes()


# -------------------------------------------------------------------------------------------------------------- folder


def test_a_folder_holds_each_image_beside_its_prompt(source, tmp_path):
    export(source, tmp_path / "out", to="folder")
    expected = {
        f"{key}.{suffix}": data
        for key, members in stored(source).items()
        for suffix, data in members.items()
        if suffix != "json"
    }
    written = files(tmp_path / "out")
    assert {
        name: data for name, data in written.items() if name.startswith(tuple(key.split("/")[0] for key in expected))
    } == expected
    assert set(written) - set(expected) == {"metadata.jsonl", "export.json"}


def test_the_metadata_has_every_image_with_its_own_prompt_and_labels(source, tmp_path):
    export(source, tmp_path / "out", Selection(configs=("SEN1-2", "weather")), to="folder")
    rows = {row["file_name"]: row for row in metadata(tmp_path / "out")}
    samples = {key: sample for key, sample in stored(source).items() if key.startswith(("SEN1-2/", "weather/"))}
    assert len(rows) == sum(suffix.endswith("jpg") for sample in samples.values() for suffix in sample)
    for row in rows.values():
        sample, modality = samples[row["key"]], row["modality"]
        labels = json.loads(sample["json"])
        assert row["file_name"] == f"{row['key']}.{SUFFIX[modality]}jpg"
        prompt = sample.get(f"{SUFFIX[modality]}txt")
        assert row["text"] == (None if prompt is None else prompt.decode())
        assert (row["width"], row["height"]) == PIL.Image.open(io.BytesIO(sample[f"{SUFFIX[modality]}jpg"])).size
        assert row["source"] == labels["source"][modality] and row["annotation"] == labels["annotation"][modality]
        if modality == "rgb":
            assert {name: row[name] for name in ("caption", "weather", "satellite", "gsd", "gsd_level")} == {
                name: labels[name] for name in ("caption", "weather", "satellite", "gsd", "gsd_level")
            }


def test_twin_folders_have_equal_names(source, tmp_path):
    export(
        source,
        tmp_path / "out",
        Selection(configs="SEN1-2", modalities=("rgb", "sar"), complete=True),
        to="folder",
        twin_folders=True,
    )
    rgb, sar = files(tmp_path / "out" / "rgb"), files(tmp_path / "out" / "sar")
    pairs = {
        key: sample
        for key, sample in stored(source).items()
        if key.startswith("SEN1-2") and {"jpg", "sar.jpg"} <= set(sample)
    }
    assert pairs and set(rgb) >= {f"{key}.jpg" for key in pairs}
    assert [name for name in rgb if name.endswith(".jpg")].sort() == [
        name for name in sar if name.endswith(".jpg")
    ].sort()
    for key, sample in pairs.items():
        assert rgb[f"{key}.jpg"] == sample["jpg"] and sar[f"{key}.jpg"] == sample["sar.jpg"]
    for folder in ("rgb", "sar"):
        assert {row["file_name"] for row in metadata(tmp_path / "out" / folder)} == {f"{key}.jpg" for key in pairs}


def test_the_imagefolder_of_datasets_reads_it(source, tmp_path):
    export(source, tmp_path / "out", to="folder")
    rows = datasets.load_dataset("imagefolder", data_dir=str(tmp_path / "out"), split="train")
    samples = stored(source)
    assert len(rows) == sum(suffix.endswith("jpg") for sample in samples.values() for suffix in sample)
    for row in rows:
        data = samples[row["key"]][f"{SUFFIX[row['modality']]}jpg"]
        assert (row["image"].mode, row["image"].size, row["image"].tobytes()) == pixels(data)
    assert rows.features["gsd"].dtype == "float64" and rows.features["weather"].dtype == "string"


def test_names_that_imagefolder_takes_for_a_split_are_pointed_out(tmp_path):
    dataset = [sample for sample in converted.samples() if sample.key.startswith("Inria")]
    dataset[0] = replace(dataset[0], key="Inria/512/train_station")
    converted.write(tmp_path / "source", dataset)
    lines: list[str] = []
    export(tmp_path / "source", tmp_path / "out", to="folder", say=lines.append)
    assert any(
        "takes a word of some file names for a split (1" in line and "Inria/512/train_station.jpg" in line
        for line in lines
    )
    assert len(datasets.load_dataset("imagefolder", data_dir=str(tmp_path / "out"), split="train")) == 1
    files = {"train": str(tmp_path / "out" / "**")}
    assert len(datasets.load_dataset("imagefolder", data_files=files, split="train")) == len(dataset)


def test_the_types_of_all_columns_show_at_the_beginning_of_the_metadata(source, tmp_path):
    """Readers infer them from the first rows; a column that is null there would break them later."""
    export(source, tmp_path / "out", to="folder")
    rows = metadata(tmp_path / "out")
    seen = {name for row in rows[: len(rows[0])] for name, value in row.items() if value is not None}
    assert seen == {name for row in rows for name, value in row.items() if value is not None}


# ------------------------------------------------------------------------------------------------------------- parquet


def test_parquet_holds_images_prompts_and_labels(source, tmp_path):
    export(source, tmp_path / "out", to="parquet")
    samples = stored(source)
    rows = [row for path in sorted((tmp_path / "out").rglob("*.parquet")) for row in pq.read_table(path).to_pylist()]
    assert sorted(row["key"] for row in rows) == sorted(samples)
    for row in rows:
        sample = samples[row["key"]]
        labels = json.loads(sample["json"])
        for modality, suffix in SUFFIX.items():
            image = row[modality]
            assert (image and image["bytes"]) == sample.get(f"{suffix}jpg")
            assert (row[PROMPT[modality]] or "").encode() == sample.get(f"{suffix}txt", b"")
        assert {name: row[name] for name in labels if name in row and name != "annotation"} == {
            name: value for name, value in labels.items() if name in row and name != "annotation"
        }


def test_datasets_loads_the_parquet_files_with_images(source, tmp_path):
    export(source, tmp_path / "out", Selection(configs="WHU-OPT-SAR"), to="parquet")
    rows = datasets.load_dataset(
        "parquet", data_files=str(tmp_path / "out" / "data" / "*" / "train-*.parquet"), split="train"
    )
    assert isinstance(rows.features["nir"], datasets.Image) and rows.features["gsd_level"].dtype == "string"
    samples = stored(source)
    for row in rows:
        for modality, suffix in SUFFIX.items():
            data = samples[row["key"]].get(f"{suffix}jpg")
            image = row[modality]
            assert (image and (image.mode, image.size, image.tobytes())) == (data and pixels(data))


# ------------------------------------------------------------------------------------------------- what all forms share

FORMS = ("dataset", "folder", "parquet")


def keys(out: Path) -> set[str]:
    """The keys of an export in any form."""
    if (out / "metadata.jsonl").exists():
        return {row["key"] for row in metadata(out)}
    if list(out.rglob("*.tar")):
        return set(stored(out))
    return {key for path in (out / "data").rglob("*.parquet") for key in parquet_keys(path)}


@pytest.mark.parametrize("to", FORMS)
def test_an_export_is_the_same_bytes_each_time_whatever_the_number_of_workers(source, tmp_path, to):
    for name, workers in (("one", 1), ("again", 1), ("four", 4)):
        export(source, tmp_path / name, Selection(share=0.7), to=to, workers=workers)
    assert files(tmp_path / "one") == files(tmp_path / "again") == files(tmp_path / "four")


@pytest.mark.parametrize("to", FORMS)
def test_a_copy_of_the_source_elsewhere_gives_the_same_bytes(source, tmp_path, to):
    copy = shutil.copytree(source, tmp_path / "elsewhere" / "copy")
    export(source, tmp_path / "one", to=to)
    export(copy, tmp_path / "two", to=to)
    assert files(tmp_path / "one") == files(tmp_path / "two")


@pytest.mark.parametrize("to", FORMS)
def test_only_selected_samples_and_images_are_written(source, tmp_path, to):
    selection = Selection(modalities=("sar",), configs=("SEN1-2", "WHU-OPT-SAR", "GID"))
    exported = export(source, tmp_path / "out", selection, to=to)
    expected = {key for key, sample in stored(source).items() if "sar.jpg" in sample}
    assert keys(tmp_path / "out") == expected and exported.samples == exported.images == len(expected)


def test_a_subset_without_a_sample_of_the_selection_is_left_out(source, tmp_path):
    export(source, tmp_path / "out", Selection(modalities=("nir",)), to="folder")
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"WHU-OPT-SAR", "metadata.jsonl", "export.json"}


def test_keys_of_a_list_are_exported_and_unknown_ones_are_named(source, tmp_path):
    some = sorted(stored(source))[::5]
    export(source, tmp_path / "out", Selection(keys=some), to="folder")
    assert keys(tmp_path / "out") == set(some)
    with pytest.raises(UsageError, match=r"--keys: 2 of 3 are not in the source.*: GID/none, nothing"):
        export(source, tmp_path / "other", Selection(keys=[some[0], "GID/none", "nothing"]), to="folder")


def test_a_condition_in_sql_looks_at_the_whole_index(source, tmp_path):
    pytest.importorskip("duckdb")
    where = "Subset = (SELECT min(subset) FROM index) AND prompt LIKE '%a%'"
    export(source, tmp_path / "out", Selection(where=where), to="folder")
    expected = {
        key for key, sample in stored(source).items() if key.startswith("GID/") and b"a" in sample.get("txt", b"")
    }
    assert keys(tmp_path / "out") == expected != set()


def test_a_limit_holds_over_all_subsets_together(source, tmp_path):
    export(source, tmp_path / "out", Selection(limit=7), to="folder")
    assert len(keys(tmp_path / "out")) == 7


@pytest.mark.parametrize("to", FORMS)
def test_a_validation_split_keeps_its_samples(release, tmp_path, to):
    convert(release.path, tmp_path / "source", subsets=["SEN1-2", "GID"], options=Options(validation=0.5))
    held_out = {key for path in (tmp_path / "source").rglob("validation-*.tar") for key in tar_keys(path)}
    assert held_out and held_out != set(stored(tmp_path / "source"))
    export(tmp_path / "source", tmp_path / "one", Selection(split="validation"), to=to)
    assert keys(tmp_path / "one") == held_out
    export(tmp_path / "source", tmp_path / "both", to=to)
    if to == "folder":
        assert {row["key"] for row in metadata(tmp_path / "both" / "validation")} == held_out
        for split, expected in (("validation", held_out), ("train", set(stored(tmp_path / "source")) - held_out)):
            loaded = datasets.load_dataset(
                "imagefolder", data_files=str(tmp_path / "both" / split / "**"), split="train"
            )
            assert set(loaded["key"]) == expected
    else:
        paths = list((tmp_path / "both").rglob("validation-*"))
        assert {key for path in paths for key in (tar_keys if to == "dataset" else parquet_keys)(path)} == held_out


def parquet_keys(path: Path) -> set[str]:
    return set(pq.read_table(path)["key"].to_pylist())


def tar_keys(path: Path) -> set[str]:
    with tarfile.open(path) as tar:
        return {name.partition(".")[0] for name in tar.getnames()}


# --------------------------------------------------------------------------------------------------------- interruption


class Stopped(BaseException):
    pass


@pytest.mark.parametrize("to", FORMS)
def test_an_export_that_was_stopped_continues_with_what_is_left(source, tmp_path, to, monkeypatch):
    export(source, tmp_path / "whole", to=to)
    written: list[str] = []
    for allowed in (0, 1, 3, 10**6):
        monkeypatch.setattr(job, "_form", stopping_after(allowed, written))
        try:
            export(source, tmp_path / "out", to=to, workers=1)
        except Stopped:
            assert not any(
                (tmp_path / "out" / name).exists() for name in ("metadata.jsonl", "export.json", "manifest.json")
            )
    assert len(written) == len(set(written)) > 4
    assert files(tmp_path / "out") == files(tmp_path / "whole")


def stopping_after(allowed: int, written: list[str], form_of=job._form):
    """Makes forms that write `allowed` parts and then stop. `written`: the names of all that were written."""

    def stopping_form(*arguments):
        form = form_of(*arguments)
        last = len(written) + allowed

        class Stopping(type(form)):
            def write(self, part, batches):
                if len(written) == last:
                    raise Stopped
                written.append(part.name)
                return super().write(part, batches)

        return Stopping(**vars(form))

    return stopping_form


@pytest.mark.parametrize("to", FORMS)
def test_an_export_killed_at_random_moments_continues_to_the_same_bytes(source, tmp_path, to):
    def command(out: Path, signal_number: int = 0, moment: int = 0) -> stopping.Run:
        arguments = ["export", str(source), str(out), "--to", to, "--workers", "2", "--config", "SEN1-2", "--quiet"]
        return stopping.run(arguments, tmp_path / "notes", signal_number, moment)

    undisturbed = command(tmp_path / "undisturbed")
    assert undisturbed.code == 0, undisturbed.output
    draw, kills = random.Random(f"kills {to}"), 0
    for number in range(5):
        out = tmp_path / f"out{number}"
        for _ in range(2):
            run = command(out, signal.SIGKILL, draw.randrange(1, undisturbed.moments))
            assert run.code in (-signal.SIGKILL, 0), run.output
            kills += run.code == -signal.SIGKILL
        assert command(out).code == 0
        assert files(out) == files(tmp_path / "undisturbed")  # so no temporary file is left, nor the work folder
    assert kills >= 5


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_export_that_is_asked_to_stop_does_so_with_one_line(source, tmp_path, number):
    arguments = ["export", str(source), str(tmp_path / "out"), "--to", "folder", "--quiet"]
    run = stopping.run(arguments, tmp_path / "notes", number, 60)
    assert run.code == 128 + number and run.seconds < 2
    word = {signal.SIGINT: "interrupted", signal.SIGTERM: "terminated"}[number]
    assert run.output == f"mmm-rs: {word}. Run the same command again to continue\n"


@pytest.mark.parametrize("to", FORMS)
def test_a_finished_export_is_not_written_again(source, tmp_path, to):
    first = export(source, tmp_path / "out", Selection(limit=9), to=to)
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*")}
    again = export(source, tmp_path / "out", Selection(limit=9), to=to)
    assert (first.written, again.written) == (True, False) and (first.samples, first.images) == (
        again.samples,
        again.images,
    )
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*")} == before


# -------------------------------------------------------------------------------------------------------------- damage


def flip(source: Path, key: str, modality: str = "rgb") -> str:
    """Flip a bit of an image in its shard. Returns the shard's name."""
    subset = "MRSSC2.0" if key.startswith("MRSSC2_0") else key.split("/")[0]
    row = next(row for row in pq.read_table(source / "index" / f"{subset}.parquet").to_pylist() if row["key"] == key)
    with open(source / row["shard"], "r+b") as shard:
        shard.seek(row[f"{modality}_offset"] + row[f"{modality}_size"] // 2)
        byte = shard.read(1)
        shard.seek(-1, 1)
        shard.write(bytes([byte[0] ^ 1]))
    return row["shard"]


@pytest.fixture
def damaged(source, tmp_path) -> tuple[Path, str]:
    """A copy of the source in which one radar image is damaged, and the key of its sample."""
    copy = Path(shutil.copytree(source, tmp_path / "damaged"))
    key = next(key for key, sample in stored(source).items() if {"jpg", "sar.jpg"} <= set(sample))
    flip(copy, key, "sar")
    return copy, key


@pytest.mark.parametrize("to", FORMS)
def test_damage_in_the_source_is_an_error_that_names_it(damaged, tmp_path, to):
    folder, key = damaged
    with pytest.raises(
        ReleaseError, match=rf"damaged/data/.*\.tar: the sar image of {key}: its CRC-32 .*--on-error skip"
    ):
        export(folder, tmp_path / "out", to=to)
    assert not [path for path in (tmp_path / "out").iterdir() if path.name not in (".mmm-rs", "data")]


@pytest.mark.parametrize("to", FORMS)
def test_a_damaged_sample_can_be_left_out_and_is_reported(damaged, tmp_path, to):
    folder, key = damaged
    with pytest.raises(ReleaseError):
        export(folder, tmp_path / "out", to=to)
    exported = export(folder, tmp_path / "out", to=to, on_error="skip")
    assert keys(tmp_path / "out") == set(stored(folder)) - {key}
    images = {(row.path, row.reason) for _, row in exported.reported if row.kind == "image"}
    labels = json.loads(stored(folder)[key]["json"])
    assert (labels["source"]["sar"], "crc_mismatch") in images
    assert {path for path, _ in images} == {path for path in labels["source"].values() if path}
    assert {row.kind for _, row in exported.reported} == {"image", "record"}


def test_damage_of_images_that_are_not_selected_does_not_matter(damaged, tmp_path):
    folder, key = damaged
    export(folder, tmp_path / "out", Selection(modalities=("rgb",)), to="folder")
    assert key in keys(tmp_path / "out")


@pytest.mark.parametrize("harm", ["missing", "short", "unreadable index"])
def test_files_of_the_source_that_are_not_whole_are_named(source, tmp_path, harm):
    folder = Path(shutil.copytree(source, tmp_path / "source"))
    shard = sorted((folder / "data" / "GID").glob("*.tar"))[0]
    if harm == "missing":
        shard.unlink()
    elif harm == "short":
        shard.write_bytes(shard.read_bytes()[:-2000])
    else:
        (folder / "index" / "GID.parquet").write_bytes(b"PAR1")
    name = "index/GID.parquet" if harm == "unreadable index" else shard.name
    with pytest.raises(ReleaseError, match=name):
        export(folder, tmp_path / "out", Selection(configs="GID"), to="folder")


@pytest.mark.parametrize(("harm", "reason"), [("missing", "missing_file"), ("short", "truncated")])
def test_samples_of_a_shard_that_is_not_whole_can_be_left_out(source, tmp_path, harm, reason):
    folder = Path(shutil.copytree(source, tmp_path / "source"))
    shard = sorted((folder / "data" / "GID").glob("*.tar"))[0]
    lost = tar_keys(shard)
    if harm == "missing":
        shard.unlink()
    else:
        shard.write_bytes(shard.read_bytes()[:600])
    exported = export(folder, tmp_path / "out", to="folder", on_error="skip")
    assert keys(tmp_path / "out") == set(stored(source)) - lost
    assert {row.reason for _, row in exported.reported if row.kind == "image"} == {reason}


# ------------------------------------------------------------------------------------------------------------- refusals


@pytest.mark.parametrize("place", ["", "inside", ".."])
def test_exporting_into_the_source_or_around_it_is_refused(source, place):
    before = files(source)
    with pytest.raises(UsageError, match="the source"):
        export(source, source / place, to="folder")
    assert files(source) == before


def test_a_link_to_the_source_is_the_source(source, tmp_path):
    (tmp_path / "link").symlink_to(source)
    with pytest.raises(UsageError, match="is the source"):
        export(source, tmp_path / "link", to="folder")


def test_a_folder_that_holds_something_else_is_refused_and_left_as_it_is(source, tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(UsageError, match=r"holds notes\.txt"):
        export(source, tmp_path, to="folder")
    assert files(tmp_path) == {"notes.txt": b"mine"}


def test_a_folder_with_another_export_is_refused(source, tmp_path):
    export(source, tmp_path / "out", Selection(limit=3), to="folder")
    before = files(tmp_path / "out")
    for arguments in ({"to": "parquet"}, {"to": "folder", "twin_folders": True}, {"to": "folder"}):
        with pytest.raises(UsageError, match="another export"):
            export(source, tmp_path / "out", **arguments)
    assert files(tmp_path / "out") == before


def test_an_unfinished_export_is_not_continued_with_another_selection(damaged, tmp_path):
    folder, _ = damaged
    with pytest.raises(ReleaseError):
        export(folder, tmp_path / "out", to="folder")
    with pytest.raises(UsageError, match="unfinished export with another selection"):
        export(folder, tmp_path / "out", Selection(limit=3), to="folder")


@pytest.mark.parametrize(
    ("selection", "words"),
    [
        ({"categories": ("airprt",)}, r"--category airprt: no sample .* has it\. Did you mean airport\?"),
        ({"satellites": ("GF2", "Landsat")}, "--satellite Landsat: no sample"),
        ({"split": "test"}, "has no split test. It has train"),
        ({"configs": ("GID",), "weathers": ("fog",)}, "no sample matches"),
    ],
)
def test_a_selection_that_finds_nothing_is_an_error_and_leaves_no_folder(source, tmp_path, selection, words):
    with pytest.raises(UsageError, match=words):
        export(source, tmp_path / "out", Selection(**selection), to="folder")
    assert not (tmp_path / "out").exists()


def test_a_release_that_is_not_converted_is_refused(release, tmp_path):
    with pytest.raises(ReleaseError, match="is not converted"):
        export(release.path, tmp_path / "out")


def test_a_dry_run_says_what_would_be_written_and_writes_nothing(source, tmp_path):
    lines: list[str] = []
    assert (
        export(source, tmp_path / "out", Selection(configs="GID"), to="folder", dry_run=True, say=lines.append) is None
    )
    assert not (tmp_path / "out").exists()
    count = sum(key.startswith("GID/") for key in stored(source))
    assert f"GID: {count} of {count} samples ({count} rgb)" in lines[0] and str(source) in lines[-1]


def test_a_source_may_be_given_as_a_file_url(source, tmp_path):
    export(source.as_uri(), tmp_path / "out", Selection(limit=1), to="folder")
    assert json.loads((tmp_path / "out" / "export.json").read_text())["source"]["address"] is None
    with pytest.raises(UsageError, match="the source"):
        export(source.as_uri(), source / "out", to="folder")


def test_a_home_folder_is_written_with_a_tilde(source, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "MMM-RS").symlink_to(source)
    export("~/MMM-RS", "~/out", Selection(limit=1), to="folder")
    assert keys(tmp_path / "out")


# ------------------------------------------------------------------------------------------------------------- dataset


def test_an_exported_dataset_has_the_members_of_the_source(source, tmp_path):
    export(source, tmp_path / "MMM-RS", card=card)
    assert stored(tmp_path / "MMM-RS") == stored(source)
    verify(tmp_path / "MMM-RS")


def test_an_export_of_everything_has_the_shards_and_index_of_the_source(source, tmp_path):
    export(source, tmp_path / "MMM-RS", card=card)
    before, after = files(source), files(tmp_path / "MMM-RS")
    names = [name for name in before if name.startswith("data/")]
    assert names and {name: after[name] for name in names} == {name: before[name] for name in names}
    for name in before:
        if name.startswith("index/"):
            assert pq.read_table(tmp_path / "MMM-RS" / name).equals(pq.read_table(source / name))


@pytest.mark.parametrize("on_error", ["raise", "skip"])
def test_a_selection_is_a_dataset_of_its_own(source, tmp_path, on_error):
    selection = Selection(configs=("SEN1-2", "GID"), modalities=("sar", "rgb"), complete=True)
    export(source, tmp_path / "MMM-RS", selection, card=card, on_error=on_error)
    verify(tmp_path / "MMM-RS")
    expected = {
        key: sample
        for key, sample in stored(source).items()
        if key.startswith(("SEN1-2/", "GID/")) and {"jpg", "sar.jpg"} <= set(sample)
    }
    assert stored(tmp_path / "MMM-RS") == expected
    rows = datasets.load_dataset(str(tmp_path / "MMM-RS"), "SEN1-2", split="train")
    assert sorted(rows["__key__"]) == sorted(expected)


def test_the_manifest_says_what_was_exported(source, tmp_path):
    export(source, tmp_path / "MMM-RS", Selection(configs=("GID",), share=0.5, seed=3))
    contents = json.loads((tmp_path / "MMM-RS" / "manifest.json").read_text())
    subsets = json.loads((source / "manifest.json").read_text())["subsets"].values()
    digest = hashlib.sha256("".join(subset["digest"] + "\n" for subset in subsets).encode()).hexdigest()
    selection = {"configs": ["GID"], "share": 0.5, "seed": 3}
    assert contents["exported_from"] == {"address": None, "digest": digest, "selection": selection}


def test_an_image_without_its_optical_twin_is_described_by_its_own_labels(source, tmp_path):
    export(source, tmp_path / "MMM-RS", Selection(configs=("SEN1-2",), modalities=("sar",)), card=card)
    verify(tmp_path / "MMM-RS")
    for key, sample in stored(tmp_path / "MMM-RS").items():
        labels = json.loads(sample["json"])
        assert set(sample) <= {"sar.jpg", "sar.txt", "json"}
        assert labels["source"]["rgb"] is None and labels["annotation"]["rgb"] is None
        assert labels["source"]["sar"] == json.loads(stored(source)[key]["json"])["source"]["sar"]


# ------------------------------------------------------------------------------------------------- the card of Parquet


@pytest.mark.parametrize("streaming", [False, True], ids=["whole", "streaming"])
def test_the_card_loads_every_config_of_a_parquet_export(source, tmp_path, streaming):
    export(source, tmp_path / "MMM-RS", to="parquet", card=parquet)
    samples = stored(source)
    assert datasets.get_dataset_config_names(str(tmp_path / "MMM-RS"))[-1] == "all"
    for name in ("GID", "SEN1-2", "all"):
        rows = list(datasets.load_dataset(str(tmp_path / "MMM-RS"), name, split="train", streaming=streaming))
        expected = {key for key in samples if name in ("all", key.split("/")[0])}
        assert {row["key"] for row in rows} == expected and len(rows) == len(expected)
        for row in rows:
            data = samples[row["key"]].get("sar.jpg")
            image = row["sar"]
            assert (image and (image.mode, image.size, image.tobytes())) == (data and pixels(data))


def test_a_parquet_export_of_one_subset_loads_without_a_config(source, tmp_path):
    export(source, tmp_path / "MMM-RS", Selection(configs="GID"), to="parquet", card=parquet)
    rows = datasets.load_dataset(str(tmp_path / "MMM-RS"), split="train")
    assert set(rows["key"]) == {key for key in stored(source) if key.startswith("GID/")}
    assert datasets.load_dataset_builder(str(tmp_path / "MMM-RS")).info.splits["train"].num_examples == len(rows)


def test_the_card_of_a_parquet_export_is_one_for_the_hub(source, tmp_path):
    export(source, tmp_path / "MMM-RS", Selection(modalities=("sar",)), to="parquet", card=parquet)
    read = DatasetCard.load(tmp_path / "MMM-RS" / "README.md")
    assert read.data.license == "other" and read.data.size_categories == ["n<1K"]
    assert "Selection: images sar." in read.text and 'samples[0]["sar"], samples[0]["sar_prompt"]' in read.text


def test_row_groups_have_a_hundred_rows_and_images_are_stored_as_they_are(tmp_path):
    sample = next(sample for sample in converted.samples() if sample.key.startswith("Inria"))
    converted.write(tmp_path / "source", [replace(sample, key=f"Inria/{number}") for number in range(3300)], shards=7)
    export(tmp_path / "source", tmp_path / "out", to="parquet")
    metadata = [pq.read_metadata(path) for path in (tmp_path / "out").rglob("*.parquet")]
    assert sum(file.num_rows for file in metadata) == 3300 and all(file.num_rows > 100 for file in metadata)
    for file in metadata:
        groups = [file.row_group(number) for number in range(file.num_row_groups)]
        assert {group.num_rows for group in groups[:-1]} == {100} and groups[-1].num_rows <= 100
        columns = [group.column(number) for group in groups for number in range(group.num_columns)]
        assert {column.compression for column in columns if column.path_in_schema == "rgb.bytes"} == {"UNCOMPRESSED"}
