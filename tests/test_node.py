"""Processes of one node ask the hub once for all of them, and believe one another only what does no harm."""

from __future__ import annotations

import errno
import hashlib
import json
import multiprocessing
import os
import threading
import time
import zlib
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest
from datasets.distributed import split_dataset_by_node
from huggingface_hub import constants, scan_cache_dir, try_to_load_from_cache

import mmm_rs
from mmm_rs_reading import hub as reading_hub
from mmm_rs_reading import node, retries
from tests import converted, hub
from tests.hub import contents
from tests.servers import LoopbackServer
from tests.test_reading import keys, many, stored
from tests.test_reading_hub import ADDRESS, REPO, load

SUBSET = "fMoW"
SHARDS = 8
HEADROOM = 40  # requests to the hub for a node, beside one for each file


@pytest.fixture(scope="module")
def large(tmp_path_factory) -> Path:
    """640 samples in 8 shards. Not to be changed by a test."""
    samples = []
    for number in range(640):
        sample = converted.Sample(f"{SUBSET}/field_{number}", {"rgb": "a place"}, "a place", "field")
        sample.images["rgb"] = converted.picture(str(number), number, 64)
        samples.append(sample)
    converted.write(out := tmp_path_factory.mktemp("large") / "MMM-RS", samples, SHARDS)
    return out


@pytest.fixture(scope="module")
def sen12(tmp_path_factory) -> Path:
    """40 samples in 3 shards. Not to be changed by a test."""
    return many(tmp_path_factory.mktemp("sen12") / "MMM-RS", 40)


@pytest.fixture(autouse=True)
def shorter_still(monkeypatch, short_waits):
    monkeypatch.setattr(retries, "LONGEST_ASKED_WAIT", 0.01)


def in_processes(count: int, call) -> list:
    """What forked processes give that run at the same time. `call` takes a process's number."""
    context = multiprocessing.get_context("fork")
    pipes = []
    for number in range(count):
        receiver, sender = context.Pipe(duplex=False)
        process = context.Process(target=lambda n=number, s=sender: s.send(call(n)))
        process.start()
        sender.close()
        pipes.append((process, receiver))
    given = [receiver.recv() if receiver.poll(120) else None for _, receiver in pipes]
    for process, _ in pipes:
        process.join(120)
    return given


def notes() -> list[Path]:
    return sorted(Path(constants.HF_HUB_CACHE).glob(".locks/datasets--*/.mmm-rs-*/*/*.json"))


def read_as_node(running: hub.Hub, ranks: int, workers: int) -> list[str]:
    """The keys that all workers of all ranks read together."""

    def rank(number: int) -> list[str]:
        stream = load(running, SUBSET)

        def worker(worker: int) -> list[str]:
            return keys(split_dataset_by_node(stream, number * workers + worker, ranks * workers))

        return [key for came in in_processes(workers, worker) for key in came]

    return [key for came in in_processes(ranks, rank) for key in came]


# ------------------------------------------------------------------------------------------------------------ requests


def test_a_node_costs_the_hub_about_as_much_as_one_process(large, on_the_hub):
    running = on_the_hub(large)
    running.most = 2 + SHARDS + HEADROOM
    assert sorted(read_as_node(running, 4, 4)) == sorted(keys(stored(large, SUBSET)))
    files = 2 + SHARDS  # manifest, index, shards
    assert running.refused == 0
    assert running.requests.total() <= files + 4  # ranks that start one after another may each ask for the commit
    indexes = [span for span in running.cdn.ranges if span[0].startswith("index/")]
    assert len(indexes) == len(set(indexes))  # no part of it was read twice


def test_processes_that_start_together_ask_for_the_commit_once(sen12, on_the_hub):
    running = on_the_hub(sen12)
    ready = multiprocessing.get_context("fork").Barrier(6)

    def start(_: int) -> list[str]:
        ready.wait(60)
        return keys(load(running))

    expected = keys(stored(sen12, "SEN1-2"))
    assert in_processes(6, start) == [expected] * 6
    assert running.requests.total() == 1 + 1 + 3  # manifest, index, shards


def test_who_starts_after_an_upload_reads_it(sen12, tmp_path, on_the_hub):
    running = on_the_hub(sen12)
    [before] = in_processes(1, lambda _: keys(load(running)))
    assert before == keys(stored(sen12, "SEN1-2"))
    on_the_hub(many(tmp_path / "MMM-RS", 30))
    [after] = in_processes(1, lambda _: keys(load(running)))
    assert after == keys(stored(tmp_path / "MMM-RS", "SEN1-2"))


def test_who_opens_the_dataset_again_sees_an_upload(sen12, tmp_path, on_the_hub):
    running = on_the_hub(sen12)
    assert keys(load(running)) == keys(stored(sen12, "SEN1-2"))
    on_the_hub(many(tmp_path / "MMM-RS", 30))
    assert keys(load(running)) == keys(stored(tmp_path / "MMM-RS", "SEN1-2"))


def test_who_was_told_by_another_process_sees_an_upload_when_it_opens_the_dataset_again(
    sen12, tmp_path, on_the_hub, monkeypatch
):
    running = on_the_hub(sen12)
    list(load(running))
    monkeypatch.setattr(node, "_asked", {})  # from here on this is a process that has not asked
    monkeypatch.setattr(node, "_process_start", lambda: 0.0)
    requests = running.requests.total()
    assert keys(load(running)) == keys(stored(sen12, "SEN1-2"))
    assert running.requests.total() == requests
    on_the_hub(many(tmp_path / "MMM-RS", 30))
    assert keys(load(running)) == keys(stored(tmp_path / "MMM-RS", "SEN1-2"))


@pytest.mark.parametrize(
    "asked, is_fresh", [(-1.0, False), (+1.0, True), (None, False), ("now", False), (float("nan"), False)]
)
def test_an_answer_counts_if_it_came_after_this_process_began(asked, is_fresh, monkeypatch):
    monkeypatch.setattr(node, "_process_start", lambda: time.time() - 10)
    moment = time.time() - 10 + asked if isinstance(asked, float) else asked
    assert node.is_fresh(moment, "a dataset") == is_fresh
    assert not node.is_fresh(time.time() + 60, "a dataset")
    monkeypatch.setattr(node, "_process_start", lambda: 0.0)
    assert not node.is_fresh(time.time() - node.COMMIT_AGE - 1, "a dataset")


def test_folders_of_one_repository_are_kept_apart(sen12, tmp_path, on_the_hub):
    running = on_the_hub(sen12)
    other = many(tmp_path / "MMM-RS", 30)
    both = contents(sen12) | {f"other/{name}": file for name, file in contents(other).items()}
    running.repositories[REPO].add("main", both, "both")
    for _ in range(2):
        assert list(load(running)) == stored(sen12, "SEN1-2")
        assert list(load(running, address=f"{ADDRESS}/other")) == stored(other, "SEN1-2")


# ------------------------------------------------------------------------------------------------- manifest and index


def test_manifest_and_index_are_in_the_hub_client_s_cache(sen12, on_the_hub):
    running = on_the_hub(sen12)
    rows = list(load(running))
    commit = running.repositories[REPO].refs["main"]
    for name in ("manifest.json", "index/SEN1-2.parquet"):
        path = try_to_load_from_cache(REPO, name, constants.HF_HUB_CACHE, revision=commit, repo_type="dataset")
        assert path and Path(path).read_bytes() == (sen12 / name).read_bytes()
    cache = scan_cache_dir(constants.HF_HUB_CACHE)
    assert not cache.warnings
    [repository] = cache.repos
    assert (repository.repo_id, {*repository.refs}) == (REPO, {"main"})
    running.cdn.ranges.clear()
    assert list(load(running)) == rows
    assert not [span for span in running.cdn.ranges if span[0].startswith("index/")]


def test_an_index_that_hf_download_fetched_is_used(sen12, on_the_hub):
    """The hub's client writes it here, with its own names and links."""
    running = on_the_hub(sen12)
    commit = running.repositories[REPO].refs["main"]
    folder = Path(constants.HF_HUB_CACHE) / "datasets--org--MMM-RS"
    data = (sen12 / "index/SEN1-2.parquet").read_bytes()
    blob = folder / "blobs" / hashlib.sha256(data).hexdigest()
    link = folder / "snapshots" / commit / "index/SEN1-2.parquet"
    for path in (blob, link):
        path.parent.mkdir(parents=True, exist_ok=True)
    blob.write_bytes(data)
    link.symlink_to(os.path.relpath(blob, link.parent))
    assert list(load(running)) == stored(sen12, "SEN1-2")
    assert not [span for span in running.cdn.ranges if span[0].startswith("index/")]


def test_an_index_that_is_large_is_read_in_parts(large, on_the_hub, monkeypatch):
    monkeypatch.setattr(reading_hub, "WHOLE_INDEX", 1000)
    running = on_the_hub(large)
    assert list(load(running, SUBSET)) == stored(large, SUBSET)
    assert not list(Path(constants.HF_HUB_CACHE).glob("datasets--*/snapshots/*/index/*"))


@pytest.mark.parametrize("name", ["manifest.json", "index/SEN1-2.parquet"])
@pytest.mark.parametrize("damage", ["flipped", "cut", "gone"])
def test_damage_of_a_cached_file_costs_another_fetch(sen12, on_the_hub, name, damage):
    running = on_the_hub(sen12)
    assert list(load(running)) == stored(sen12, "SEN1-2")
    [link] = Path(constants.HF_HUB_CACHE).glob(f"datasets--*/snapshots/*/{name}")
    blob = link.resolve()
    data = bytearray(blob.read_bytes())
    data[len(data) // 2] ^= 1
    if damage == "gone":
        blob.unlink()
    else:
        blob.write_bytes(data if damage == "flipped" else data[: len(data) // 2])
    assert list(load(running)) == stored(sen12, "SEN1-2")
    if name.startswith("index"):
        assert link.read_bytes() == (sen12 / name).read_bytes()


def test_a_cache_that_is_cleared_meanwhile_does_no_harm(sen12, on_the_hub):
    running = on_the_hub(sen12)
    stream = load(running)
    assert list(stream) == stored(sen12, "SEN1-2")
    for path in Path(constants.HF_HUB_CACHE).glob("datasets--*/blobs/*"):
        path.unlink()
    assert list(stream) == stored(sen12, "SEN1-2")


def test_no_folder_for_a_cache_is_needed(sen12, tmp_path, on_the_hub, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "file" / "hub"))  # nobody can make this folder
    running = on_the_hub(sen12)
    assert list(load(running)) == stored(sen12, "SEN1-2")
    assert running.requests.total() == 1 + 1 + 3


def test_a_disk_that_takes_nothing_does_no_harm(sen12, on_the_hub, monkeypatch):
    def full(*_: object) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("mmm_rs_reading.hub_cache.os.replace", full)
    assert list(load(on_the_hub(sen12))) == stored(sen12, "SEN1-2")
    assert not [path for path in Path(constants.HF_HUB_CACHE).rglob("*.incomplete")]


def test_a_repository_that_cannot_be_read_leaves_nothing_that_looks_like_one(on_the_hub, sen12, monkeypatch):
    monkeypatch.setattr("mmm_rs_reading.files.FIRST_CONTACT", 0)
    with pytest.raises(mmm_rs.ReadError, match=r"no manifest\.json there"):
        load(on_the_hub(sen12), address="hf://datasets/org/typo")
    with pytest.raises(mmm_rs.ReadError, match="cannot be reached"):
        mmm_rs.open_source("hf://datasets/org/down", {"endpoint": "http://127.0.0.1:9"})
    report = scan_cache_dir(constants.HF_HUB_CACHE)
    assert not report.warnings and not report.repos


def test_a_process_that_reads_an_older_commit_leaves_the_branch_where_a_newer_one_has_put_it(
    sen12, tmp_path, on_the_hub
):
    older = mmm_rs.open_source(ADDRESS, {"endpoint": on_the_hub(sen12).url}, hub.TOKEN)
    running = on_the_hub(many(tmp_path / "MMM-RS", 30))
    ref = Path(constants.HF_HUB_CACHE, "datasets--org--MMM-RS", "refs", "main")
    assert ref.read_text() == older.files.transport.addresses.commit
    newer = mmm_rs.open_source(ADDRESS, {"endpoint": running.url}, hub.TOKEN)
    assert ref.read_text() == newer.files.transport.addresses.commit
    assert older.files.ranges("index/SEN1-2.parquet", [(0, 4)]) == [b"PAR1"]  # fetches it
    assert ref.read_text() == newer.files.transport.addresses.commit


# ------------------------------------------------------------------------------------------------------------ security


def test_notes_are_for_their_user_alone_and_hold_no_token(sen12, on_the_hub):
    running = on_the_hub(sen12, private=True)
    assert list(load(running)) == stored(sen12, "SEN1-2")
    assert len(notes()) == 1 + 1 + 3  # the branch, index, shards
    for path in notes():
        assert path.stat().st_mode & 0o777 == 0o600
        assert path.parent.stat().st_mode & 0o777 == path.parent.parent.stat().st_mode & 0o777 == 0o700
        assert hub.TOKEN not in path.read_text()
    with pytest.raises(mmm_rs.ReadError, match=r"no manifest\.json there"):
        load(running, token=False)  # what one token may see is not what another may


def rewritten(path: Path, **changes) -> None:
    """A note as somebody would forge it."""
    note = json.loads(path.read_bytes().partition(b" ")[2]) | changes
    text = json.dumps(note).encode()
    path.write_bytes(b"%08x %s" % (zlib.crc32(text), text))


class _Stranger(BaseHTTPRequestHandler):
    seen: list[dict[str, str]]

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        self.seen.append(dict(self.headers))
        self.send_response(403)
        self.send_header("Content-Length", "0")
        self.end_headers()


@pytest.fixture
def stranger():
    """A host that wants to know the token: its address, and the headers that it saw."""
    handler = type("Handler", (_Stranger,), {"seen": []})
    server = LoopbackServer(handler)
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}/a", handler.seen
    server.shutdown()
    server.server_close()


def test_an_address_from_a_note_never_gets_the_token(sen12, on_the_hub, stranger):
    url, seen = stranger
    running = on_the_hub(sen12, private=True)
    assert list(load(running)) == stored(sen12, "SEN1-2")
    for path in notes():
        if b'"url"' in path.read_bytes():
            rewritten(path, url=url)
    assert list(load(running)) == stored(sen12, "SEN1-2")
    assert seen and not any("authorization" in map(str.lower, headers) for headers in seen)


FORGED = {
    "the hub's own address": lambda running: {"url": f"{running.url}/datasets/{REPO}/resolve/main/manifest.json"},
    "an address with a login": lambda running: {"url": f"http://user:secret@127.0.0.1:{running.cdn.url[-5:]}/x"},
    "another scheme": lambda running: {"url": "file:///etc/passwd"},
    "no address": lambda running: {"url": None},
    "not an address": lambda running: {"url": "http://[", "size": -1},
    "no end": lambda running: {"expires": None},
    "an end that is over": lambda running: {"expires": 1.0},
    "no end for years": lambda running: {"expires": 1e12},
    "another file": lambda running: {"name": "0" * 40 + " index/SEN1-2.parquet"},
    "no commit": lambda running: {"commit": "../../etc"},
}


@pytest.mark.parametrize("name", FORGED)
def test_forged_notes_are_ignored(sen12, on_the_hub, name):
    running = on_the_hub(sen12)
    assert list(load(running)) == stored(sen12, "SEN1-2")
    for path in notes():
        rewritten(path, **FORGED[name](running))
    [rows] = in_processes(1, lambda _: list(load(running)))
    assert rows == stored(sen12, "SEN1-2")


def test_notes_for_an_encrypted_hub_are_encrypted_too():
    from mmm_rs_reading.addresses import _is_as_safe

    assert _is_as_safe("https://cdn.example/a", "https://huggingface.co/datasets/x")
    assert not _is_as_safe("http://cdn.example/a", "https://huggingface.co/datasets/x")


@pytest.mark.parametrize("damage", ["empty", "cut", "flipped", "open to others", "a link", "a folder"])
def test_damaged_and_foreign_notes_are_ignored(sen12, tmp_path, on_the_hub, damage):
    running = on_the_hub(sen12)
    assert list(load(running)) == stored(sen12, "SEN1-2")
    requests = running.requests.total()
    for path in notes():
        data = bytearray(path.read_bytes())
        if damage in ("empty", "cut"):
            path.write_bytes(data[: len(data) // 2] if damage == "cut" else b"")
        elif damage == "flipped":
            data[len(data) // 2] ^= 1
            path.write_bytes(data)
        elif damage == "open to others":
            path.chmod(0o644)
        else:
            path.unlink()
            (tmp_path / path.name).write_bytes(data)
            path.symlink_to(tmp_path / path.name) if damage == "a link" else path.mkdir()
    assert list(load(running)) == stored(sen12, "SEN1-2")
    assert running.requests.total() == requests + 1 + 3  # manifest and shards; the index is in the cache


def test_a_folder_that_others_can_write_to_is_not_used(sen12, on_the_hub):
    running = on_the_hub(sen12)
    list(load(running))
    notes()[0].parent.parent.chmod(0o777)
    before = running.requests.total()
    assert list(load(running)) == stored(sen12, "SEN1-2")
    assert running.requests.total() == before + 1 + 3


@pytest.mark.parametrize("path", ["../../..", "a/../..", "%2e%2e"])
def test_nothing_is_written_outside_of_the_cache(tmp_path, path):
    from mmm_rs_reading.hub_cache import HubCache

    cache = HubCache(str(tmp_path / "cache"), path)
    tag = hashlib.sha256(b"x").hexdigest()
    written = cache.keep("0" * 40, "index/a.parquet", [b"x"], tag, "../../main")
    assert (written is None) == (".." in path)
    assert [entry.name for entry in tmp_path.iterdir()] in ([], ["cache"])


@pytest.mark.parametrize("name", ["snapshots/{commit}/report.json", "refs/main"])
def test_a_link_in_the_place_of_a_temporary_file_is_not_written_through(tmp_path, monkeypatch, name):
    """A process of the same number may have been killed there."""
    from mmm_rs_reading.hub_cache import HubCache

    commit, data = "0" * 40, b"x" * 1000
    tag = hashlib.sha256(data).hexdigest()
    monkeypatch.setattr("mmm_rs_reading.hub_cache._temporary", lambda path: f"{path}.1.incomplete")
    link = tmp_path / name.format(commit=commit)
    link.parent.mkdir(parents=True)
    (tmp_path / "precious").write_bytes(b"precious")
    Path(f"{link}.1.incomplete").symlink_to(tmp_path / "precious")
    assert HubCache(str(tmp_path)).keep(commit, "report.json", [data], tag, "main") is None
    assert (tmp_path / "precious").read_bytes() == b"precious"
    assert (tmp_path / "blobs" / tag).read_bytes() == data


def test_a_file_system_without_links_gets_a_copy(tmp_path, monkeypatch):
    from mmm_rs_reading.hub_cache import HubCache

    def refused(*_):
        raise PermissionError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr("mmm_rs_reading.hub_cache.os.symlink", refused)
    path = HubCache(str(tmp_path)).keep("0" * 40, "report.json", [b"x"], hashlib.sha256(b"x").hexdigest(), "main")
    assert path is not None and not Path(path).is_symlink() and Path(path).read_bytes() == b"x"
    assert (tmp_path / "refs" / "main").read_text() == "0" * 40
