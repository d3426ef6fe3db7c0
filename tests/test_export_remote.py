"""Exports from a server: only the bytes that are wanted are transferred, and its troubles are not taken for damage."""

from __future__ import annotations

import json
import os

import pytest

from conversion import Selection, export
from conversion.errors import ReleaseError
from conversion.exports.proof import compare_with_source
from tests import hub, test_reading_remote
from tests.test_export import files, stored
from tests.test_reading_remote import REPO, transferred

large, on_the_hub, web = test_reading_remote.large, test_reading_remote.on_the_hub, test_reading_remote.web
URL = f"hf://datasets/{REPO}"

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


@pytest.mark.parametrize("to", ["dataset", "folder", "parquet"])
def test_an_export_from_the_hub_is_that_from_the_folder(large, tmp_path, on_the_hub, to):
    _, options = on_the_hub(large)
    selection = Selection(categories=("airport",))
    export(large, tmp_path / "local", selection, to=to)
    export(URL, tmp_path / "remote", selection, to=to, **options)
    local, remote = files(tmp_path / "local"), files(tmp_path / "remote")
    record = "manifest.json" if to == "dataset" else "export.json"
    assert {name: data for name, data in remote.items() if name != record} == {
        name: data for name, data in local.items() if name != record
    }
    contents = json.loads(remote[record])
    assert (contents["exported_from"] if to == "dataset" else contents["source"])["address"] == URL


def test_one_percent_of_a_subset_transfers_little_more_than_its_bytes_and_the_index(large, tmp_path, on_the_hub):
    running, options = on_the_hub(large)
    export(URL, tmp_path / "out", Selection(categories=("airport",)), to="folder", **options)
    wanted = sum(path.stat().st_size for path in (tmp_path / "out").rglob("*.jpg"))
    index = os.path.getsize(large / "index" / "fMoW.parquet")
    assert transferred(part for part in running.ranges if "data/" in part[0]) <= 1.01 * wanted
    assert transferred(part for part in running.ranges if "index/" in part[0]) <= 2.2 * index


def test_an_export_is_proved_against_the_hub(large, tmp_path, on_the_hub):
    _, options = on_the_hub(large)
    exported = export(URL, tmp_path / "out", Selection(limit=40), **options)
    assert compare_with_source(tmp_path / "out", URL, **options) == exported.images == 40


def test_a_dataset_on_the_hub_may_be_given_by_its_name(large, tmp_path, on_the_hub):
    _, options = on_the_hub(large)
    export(REPO, tmp_path / "out", Selection(limit=3), to="folder", **options)
    assert json.loads((tmp_path / "out" / "export.json").read_text())["source"]["address"] == URL


def test_a_plain_server_will_do(large, tmp_path, web):
    export(web(large).url, tmp_path / "out", Selection(limit=25), to="folder")
    assert len(list((tmp_path / "out").rglob("*.jpg"))) == 25


@pytest.mark.parametrize("on_error", ["raise", "skip"])
def test_a_server_that_fails_is_not_taken_for_damage(large, tmp_path, web, on_error):
    server = web(large)
    server.fail("403", part="train-00003", times=10**6)
    with pytest.raises(ReleaseError, match="train-00003"):
        export(server.url, tmp_path / "out", to="folder", on_error=on_error)
    assert not (tmp_path / "out" / "metadata.jsonl").exists()
    server.troubles.clear()
    export(server.url, tmp_path / "out", to="folder", on_error=on_error)
    assert len(list((tmp_path / "out").rglob("*.jpg"))) == len(stored(large))


def test_a_shard_that_was_damaged_on_the_hub_is_damage(large, tmp_path, on_the_hub):
    running, options = on_the_hub(large)
    name = "data/fMoW/train-00003-of-00008.tar"
    data = bytearray((large / name).read_bytes())
    data[600] ^= 1
    running.damage(REPO, name, bytes(data))
    with pytest.raises(ReleaseError, match=r"train-00003-of-00008\.tar: the rgb image of .*CRC-32"):
        export(URL, tmp_path / "out", to="folder", **options)
    exported = export(URL, tmp_path / "out", to="folder", on_error="skip", **options)
    assert exported.samples == len(stored(large)) - 1


def test_what_is_not_there_is_said_in_one_line(tmp_path, on_the_hub, large):
    _, options = on_the_hub(large)
    with pytest.raises(ReleaseError, match=r"org/nothing") as refused:
        export("hf://datasets/org/nothing", tmp_path / "out", **options)
    assert "\n" not in str(refused.value)
    assert hub.TOKEN not in str(refused.value)


def test_a_password_in_the_address_is_not_written_down(large, tmp_path, web):
    url = web(large).url
    export(url.replace("http://", "http://somebody:secret@"), tmp_path / "out", Selection(limit=1), to="folder")
    assert json.loads((tmp_path / "out" / "export.json").read_text())["source"]["address"] == url
    assert not any(b"secret" in data for data in files(tmp_path / "out").values())
