"""The builder on a release that is not converted gives the rows that its conversion would have."""

from __future__ import annotations

import gc
import logging
import pickle
import shutil
import tempfile
import warnings
from pathlib import Path

import pyarrow.compute as pc
import pytest

import mmm_rs
from conversion.errors import ReleaseError
from tests import releases
from tests.conversions import convert
from tests.test_reading import keys, opened, stored, take

MODALITIES = ["rgb", "nir", "sar"]


def by_key(rows) -> dict[str, dict]:
    """Rows by key, which must differ."""
    rows = list(rows)
    keyed = {row["key"]: row for row in rows}
    assert len(keyed) == len(rows)
    return keyed


def expected_rows(out: Path, config: str) -> dict[str, dict]:
    subsets = [name for name in mmm_rs.SUBSETS if (out / "data" / name).is_dir()]
    if config != "all":
        return by_key(stored(out, config, list(mmm_rs.SUBSETS[config].modalities)))
    return by_key(row for name in subsets for row in stored(out, name, MODALITIES))


@pytest.fixture(scope="module")
def shards(release, tmp_path_factory) -> Path:
    """The release, converted."""
    convert(release.path, out := tmp_path_factory.mktemp("converted") / "MMM-RS")
    return out


@pytest.fixture
def temporary(tmp_path, monkeypatch) -> Path:
    """Where temporary folders of the test go."""
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    return tmp_path / "temporary"


def load(path, config="all", streaming=True, **options):
    return mmm_rs.load_dataset(config, str(path), streaming=streaming, **{"decode": False, **options})


@pytest.mark.parametrize("form", releases.FORMS)
def test_every_form_gives_the_rows_of_its_conversion(release, shards, form, tmp_path):
    path = releases.FORMS[form](release.subsets, tmp_path / "release")
    assert by_key(load(path)) == expected_rows(shards, "all")


@pytest.mark.parametrize("config", mmm_rs.SUBSETS)
def test_every_subset_for_itself(release, shards, config):
    expected = expected_rows(shards, config)
    assert by_key(load(release.path, config)) == expected
    decoded = load(release.path, config, decode=True)
    assert decoded.features == mmm_rs.features(config)
    assert by_key(opened(row) for row in decoded) == by_key(opened(row) for row in expected.values())


@pytest.mark.parametrize("form", ["zips_stored", "one_zip_of_deflated_zips", "folders"])
@pytest.mark.parametrize("processes", [None, 2])
def test_whole_and_in_several_processes(release, shards, form, processes, tmp_path):
    path = releases.FORMS[form](release.subsets, tmp_path / "release")
    rows = load(path, streaming=False, num_proc=processes)
    assert by_key(rows) == expected_rows(shards, "all")
    assert rows.info.splits["train"].num_examples == len(rows)


def test_one_subset_s_zip_or_folder_alone(release, shards, tmp_path):
    for name, form in releases.SINGLE_FORMS.items():
        path = form(release["SEN1-2"], tmp_path / name)
        assert by_key(load(path, "SEN1-2")) == expected_rows(shards, "SEN1-2")


def test_modalities_and_filters(release, shards):
    expected = expected_rows(shards, "WHU-OPT-SAR").values()
    only = by_key(load(release.path, "WHU-OPT-SAR", modalities=["nir"]))
    assert only == by_key(stored(shards, "WHU-OPT-SAR", ["nir"]))
    for streaming in (True, False):
        low = load(release.path, streaming=streaming, filters=[("gsd_level", "==", "low"), ("subset", "!=", "SEN1-2")])
        level = mmm_rs.GSD_LEVELS.index("low")
        assert by_key(low) == {
            key: row
            for key, row in expected_rows(shards, "all").items()
            if row["gsd_level"] == level and row["subset"] != "SEN1-2"
        }
        word = next(row["prompt"] for row in expected if row["prompt"]).split()[-1].upper()
        matching = by_key(load(release.path, "WHU-OPT-SAR", streaming, contains=word))
        prompts = ("prompt", "nir_prompt", "sar_prompt")
        assert matching and matching == by_key(
            row for row in expected if any(word in (row[name] or "").upper() for name in prompts)
        )
        assert by_key(load(release.path, streaming=streaming, filters=pc.field("key") == "none")) == {}
    with pytest.raises(ValueError, match=r"'category' is text, and 3 is not"):
        load(release.path, filters=[("category", "==", 3)])


def test_a_stream_goes_on_exactly_where_it_stopped(release, monkeypatch):
    monkeypatch.setattr(mmm_rs, "BATCH_BYTES", 1500)
    expected = list(load(release.path, "SEN1-2"))
    builder = mmm_rs.MMMRS(config_name="SEN1-2", data_dir=str(release.path), decode=False)
    for position in range(len(expected) + 1):
        stream = builder.as_streaming_dataset(split="train")
        assert take(stream, position) == expected[:position]
        again = builder.as_streaming_dataset(split="train")
        again.load_state_dict(stream.state_dict())
        assert list(again) == expected[position:]


def test_copies_give_the_same_rows_while_the_original_is_there(release, shards):
    stream = load(release.path)
    copy = pickle.loads(pickle.dumps(stream))
    assert by_key(copy) == expected_rows(shards, "all")
    del copy
    gc.collect()
    assert by_key(stream) == expected_rows(shards, "all")


@pytest.mark.parametrize("form", ["zips_stored", "one_zip_of_deflated_zips"])
@pytest.mark.parametrize("streaming", [True, False], ids=["streaming", "whole"])
def test_nothing_temporary_is_left_behind(release, temporary, form, streaming, tmp_path):
    path = releases.FORMS[form](release.subsets, tmp_path / "release")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        rows = load(path, streaming=streaming)
        assert len(list(rows)) > 20
        assert list(temporary.glob("mmm-rs-*")) or not streaming
        del rows
        gc.collect()
    assert not list(temporary.iterdir())
    with pytest.raises(mmm_rs.ReadError):
        load(tmp_path / "nothing")
    with pytest.raises(mmm_rs.ReadError, match="holds no fMoW"):
        load(releases.single_zip(release["GID"], tmp_path / "one"), "fMoW")
    gc.collect()
    assert not list(temporary.iterdir())


def test_what_is_wrong_with_the_release_is_warned_of_by_name(release, shards, tmp_path, caplog):
    path = Path(shutil.copytree(release.path, tmp_path / "MMM-RS"))
    releases.truncate(path / "GID.zip")
    releases.half_download(path / "Inria.zip", ".baiduyun.p.downloading")
    with caplog.at_level(logging.WARNING):
        rows = by_key(load(path))
    messages = [record.getMessage() for record in caplog.records if record.name == "conversion.unconverted"]
    assert any("GID.zip" in line for line in messages) and any("Inria.zip.baiduyun" in line for line in messages)
    left = {key: row for key, row in expected_rows(shards, "all").items() if row["subset"] not in ("GID", "Inria")}
    assert rows == left
    with pytest.raises(mmm_rs.ReadError, match=r"holds no GID\. It has weather"):
        load(path, "GID")


@pytest.fixture
def without_annotations(release, tmp_path) -> Path:
    """A release of GID as it should be and of NaSC-TG2 without its annotation file."""
    images = {f"NaSC-TG2/{path}": data for path, data in release["NaSC-TG2"].images.items()}
    return releases.put(tmp_path / "release", images | {"GID.zip": releases.zipped(release["GID"].files)})


@pytest.mark.parametrize("streaming", [True, False], ids=["streaming", "whole"])
def test_a_subset_without_annotations_is_an_error_that_says_what_its_conversion_says(
    without_annotations, streaming, tmp_path
):
    with pytest.raises(ReleaseError) as conversion:
        convert(without_annotations, tmp_path / "out", subsets=["NaSC-TG2"])
    with pytest.raises(mmm_rs.ReadError, match="none of the images of NaSC-TG2 can be published") as error:
        load(without_annotations, "NaSC-TG2", streaming, split="train")
    reasons = str(error.value).splitlines()[1:]
    assert reasons == conversion.value.lines[1:]
    assert "upstream calls it MMM-RS_NaSC-TG2.json" in reasons[0] and "no_record" in reasons[1]


def test_subsets_with_annotations_are_read_and_the_one_without_is_warned_of(without_annotations, shards, caplog):
    with caplog.at_level(logging.WARNING):
        assert by_key(load(without_annotations)).keys() == expected_rows(shards, "GID").keys()
    warned = [record.getMessage() for record in caplog.records if record.name == "conversion.unconverted"]
    assert any("NaSC-TG2: no annotation file was found" in line for line in warned)
    assert any("images and records of NaSC-TG2 are left out" in line for line in warned)


@pytest.mark.parametrize("damage", [releases.flip_bit_of_image, releases.zero_block_of_image])
@pytest.mark.parametrize("method", [releases.STORED, releases.DEFLATED], ids=["stored", "deflated"])
def test_damaged_images_are_left_out_as_in_the_conversion(release, damage, method, tmp_path, caplog):
    path = releases.single_zip(release["SEN1-2"], tmp_path / "release", method)
    name = damage(path, 1)
    convert(path, tmp_path / "out")
    expected = expected_rows(tmp_path / "out", "SEN1-2")
    with caplog.at_level(logging.INFO):
        assert by_key(load(path, "SEN1-2")) == expected
    assert any(name.rpartition("/")[2] in record.getMessage() for record in caplog.records)
    assert by_key(load(path, "SEN1-2", streaming=False)) == expected
    assert len(expected) < len(release["SEN1-2"].samples) or any(
        row[m] is None for row in expected.values() for m in ("rgb", "sar")
    )


def test_odd_images_are_kept_or_left_out_as_in_the_conversion(tmp_path):
    path = releases.single_zip(releases.with_odd_images(), tmp_path / "release")
    convert(path, tmp_path / "out")
    expected = expected_rows(tmp_path / "out", "GID")
    assert by_key(load(path, "GID")) == expected
    assert 3 < len(expected) < len(releases.with_odd_images().images)


def test_a_release_converted_to_other_bytes_is_not_served_from_an_old_cache(release, tmp_path):
    path = Path(shutil.copytree(release.path, tmp_path / "MMM-RS"))
    before = by_key(load(path, "Inria", streaming=False))
    shutil.copy(releases.single_zip(releases.small(unmatched=False)[3], tmp_path / "other"), path / "Inria.zip")
    releases.flip_bit_of_image(path / "Inria.zip", 0)
    after = by_key(load(path, "Inria", streaming=False))
    assert len(after) == len(before) - 1


def test_a_release_that_changes_while_it_is_read_is_an_error_and_not_an_end(release, tmp_path, monkeypatch):
    monkeypatch.setattr(mmm_rs, "BATCH_BYTES", 1000)
    path = Path(shutil.copytree(release.path, tmp_path / "MMM-RS"))
    rows = iter(load(path, "SEN1-2"))
    builder = mmm_rs.MMMRS(config_name="SEN1-2", data_dir=str(path))
    next(rows)
    (path / "SEN1-2.zip").unlink()
    with pytest.raises(mmm_rs.ReadError, match=r"SEN1-2\.zip"):
        list(rows)
    with pytest.raises(mmm_rs.ReadError, match=r"SEN1-2\.zip"):
        builder.download_and_prepare()


def test_neither_a_release_nor_a_conversion(tmp_path):
    (tmp_path / "empty").mkdir()
    for path in (tmp_path / "empty", tmp_path / "nothing", __file__):
        with pytest.raises(mmm_rs.ReadError) as raised:
            load(path)
        assert str(path) in str(raised.value) and "\n" not in str(raised.value)


def test_map_and_shuffle_work_behind_it(release, shards):
    rows = (
        load(release.path, "GID").shuffle(seed=1, buffer_size=3).map(lambda row: {"length": len(row["prompt"] or "")})
    )
    assert sorted(keys(rows)) == sorted(expected_rows(shards, "GID"))


def test_what_needs_an_index_says_that_a_release_has_none(release):
    for ask in (lambda: mmm_rs.get(release.path, "GID/0"), lambda: mmm_rs.webdataset("GID", release.path)):
        with pytest.raises(mmm_rs.ReadError, match="is not converted"):
            ask()
