"""A cache on the node: what was fetched once is read from the disk, by every process, and never a wrong byte of it."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import logging
import multiprocessing
import os
import pickle
import signal
import threading
import time
from collections import Counter
from functools import partial
from pathlib import Path

import numpy as np
import pytest

import mmm_rs
from mmm_rs_loader import batches
from mmm_rs_reading import cache
from mmm_rs_reading import files as reading_files
from mmm_rs_reading.addresses import content_tag
from tests import converted, hub
from tests.hub import contents
from tests.test_node import in_processes
from tests.test_reading import keys, many, stored
from tests.test_reading_hub import ADDRESS, REPO, load
from tests.test_reading_remote import Server, transferred

SUBSET = "fMoW"

pytestmark = pytest.mark.usefixtures("short_waits")


@pytest.fixture(scope="module")
def large(tmp_path_factory) -> Path:
    """400 samples in 4 shards; 40 are airports. Not to be changed by a test."""
    converted.write(out := tmp_path_factory.mktemp("large") / "MMM-RS", converted.airports(400), 4)
    return out


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    """Where the cache is."""
    monkeypatch.setattr(cache, "_off", set())
    monkeypatch.setattr(cache, "_written", {})
    return tmp_path / "cache"


@pytest.fixture
def running():
    with hub.Hub(cdn=True) as running:
        yield running


def put(running: hub.Hub, root: Path, repo: str = REPO) -> None:
    running.repositories.setdefault(repo, hub.Repository(False)).add("main", contents(root), "upload")


def read(running: hub.Hub, folder: Path | None, config: str = SUBSET, **options) -> list[dict]:
    return list(load(running, config, local_cache=folder, **options))


def images(running: hub.Hub) -> list[tuple[str, int, int]]:
    """What was sent of the shards, without the single bytes that tell a size."""
    return [span for span in running.cdn.ranges if span[0].startswith("data/") and span[2] - span[1] > 1]


def times_sent(running: hub.Hub, rows: list[dict], root: Path) -> Counter[int]:
    """How often each image was sent: how many images were sent how often."""
    import pyarrow.parquet as pq

    index = pq.read_table(root / "index" / f"{SUBSET}.parquet").to_pylist()
    wanted = {row["key"] for row in rows}
    return Counter(
        sum(
            name == row["shard"] and start <= row["rgb_offset"] < row["rgb_offset"] + row["rgb_size"] <= stop
            for name, start, stop in images(running)
        )
        for row in index
        if row["key"] in wanted
    )


def files(folder: Path, kind: str = "shard") -> list[Path]:
    return sorted(folder.glob(f"??/*.{kind}"))


def taken(folder: Path) -> int:
    """Bytes on the disk."""
    return sum(path.stat().st_blocks * 512 for path in folder.rglob("*") if path.is_file())


# ------------------------------------------------------------------------------------------------------ no second time


def test_the_second_epoch_makes_no_request(large, running, folder):
    put(running, large)
    stream = load(running, SUBSET, local_cache=folder)
    expected = stored(large, SUBSET)
    assert list(stream) == expected
    requests, sent = running.requests.total(), len(running.cdn.ranges)
    shuffled = stream.shuffle(seed=1, buffer_size=50)
    assert list(stream) == expected
    assert sorted(keys(shuffled)) == sorted(keys(expected))
    assert list(pickle.loads(pickle.dumps(stream))) == expected
    assert (running.requests.total(), len(running.cdn.ranges)) == (requests, sent)


def test_what_comes_from_the_cache_is_read_as_from_a_disk_until_something_is_missing(
    large, running, folder, monkeypatch
):
    put(running, large)
    monkeypatch.setattr(mmm_rs, "BATCH_BYTES", 20_000)  # some images
    stream, expected = load(running, SUBSET, local_cache=folder, read_ahead=0), stored(large, SUBSET)
    assert list(stream) == expected
    submit, submitted = reading_files._requests.submit, []
    monkeypatch.setattr(reading_files._requests, "submit", lambda call: (submitted.append(call), submit(call))[1])
    assert list(stream) == expected
    assert len(submitted) == reading_files.SETTLED
    assert list(stream) == expected
    assert len(submitted) == reading_files.SETTLED
    for path in files(folder):
        path.unlink()
    assert list(stream) == expected
    assert len(submitted) > 3 * reading_files.SETTLED


def test_another_process_fetches_nothing_but_the_manifest(large, running, folder):
    put(running, large)
    [rows] = in_processes(1, lambda _: read(running, folder))
    assert rows == stored(large, SUBSET)
    running.requests.clear()
    running.cdn.ranges.clear()
    [again] = in_processes(1, lambda _: read(running, folder))
    assert again == rows
    assert running.requests == {"resolve": 1} and not running.cdn.ranges


def test_processes_that_read_at_once_fetch_each_image_once(large, running, folder):
    put(running, large)
    ready = multiprocessing.get_context("fork").Barrier(4)

    def start(_: int) -> list[dict]:
        ready.wait(60)
        return read(running, folder)

    expected = stored(large, SUBSET)
    assert in_processes(4, start) == [expected] * 4
    assert times_sent(running, expected, large) == {1: 400}


def test_streams_of_one_process_fetch_each_image_once(large, running, folder):
    put(running, large)
    streams = [load(running, SUBSET, local_cache=folder) for _ in range(3)]
    expected, came = stored(large, SUBSET), []
    threads = [threading.Thread(target=lambda s=stream: came.append(list(s))) for stream in streams]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert came == [expected] * 3
    assert times_sent(running, expected, large) == {1: 400}


def test_what_a_filter_has_fetched_is_not_fetched_again(large, running, folder):
    put(running, large)
    rows = read(running, folder, filters={"category": "airport"})
    assert len(rows) == 40
    assert taken(folder) < 40 * 2 * 4096 + (64 << 10)  # an image, smaller than a block of the disk, may lie in two
    assert read(running, folder) == stored(large, SUBSET)
    assert times_sent(running, rows, large) == {1: 40}


def test_a_revision_that_has_the_same_shards_shares_them(large, running, folder):
    put(running, large)
    expected = read(running, folder)
    files_of_the_commit = contents(large) | {"README.md": hub.File(b"another card")}
    running.repositories[REPO].add("main", files_of_the_commit, "another card")
    running.cdn.ranges.clear()
    assert read(running, folder) == expected
    assert not images(running)


def test_a_modality_more_fetches_only_that(running, tmp_path, folder):
    many(root := tmp_path / "MMM-RS", 40)
    put(running, root)
    alone = read(running, folder, "SEN1-2", modalities=["rgb"])
    assert alone == stored(root, "SEN1-2", ["rgb"])
    before = sum(stop - start for _, start, stop in images(running))
    assert read(running, folder, "SEN1-2") == stored(root, "SEN1-2")
    after = sum(stop - start for _, start, stop in images(running))
    sar = sum(len(row["sar"]["bytes"]) for row in stored(root, "SEN1-2") if row["sar"])
    assert before > 0 and after - before < 1.5 * sar


@pytest.mark.parametrize("door", ["http", "memory"])
def test_other_servers_have_a_cache_too(large, folder, door):
    import fsspec

    if door == "memory":
        memory = fsspec.filesystem("memory")
        memory.put(str(large), "/cached/MMM-RS", recursive=True)
        url = "memory://cached/MMM-RS"
        read_rows = partial(mmm_rs.load_dataset, SUBSET, url, streaming=True, decode=False, local_cache=folder)
        assert list(read_rows()) == stored(large, SUBSET)
        for path in memory.glob("/cached/MMM-RS/data/*/*.tar"):
            memory.rm(path)
        assert list(read_rows()) == stored(large, SUBSET)
        memory.rm("/cached", recursive=True)
        return
    with Server(large) as server:
        read_rows = partial(mmm_rs.load_dataset, SUBSET, server.url, streaming=True, decode=False, local_cache=folder)
        assert list(read_rows()) == stored(large, SUBSET)
        server.log.clear()
        assert list(read_rows()) == stored(large, SUBSET)
        assert transferred(part for part in server.log if "data/" in part[0]) == 0


# --------------------------------------------------------------------------------------------------------- other doors


def test_batches_have_a_cache(large, running, folder, monkeypatch):
    put(running, large)
    monkeypatch.setenv("HF_ENDPOINT", running.url)
    options = {"storage_options": {"endpoint": running.url}, "token": hub.TOKEN, "local_cache": folder}
    data = batches(SUBSET, ADDRESS, 32, shuffle=50, threads=1, **options)
    first = sorted(key for batch in data for key in batch["key"])
    sent = len(running.cdn.ranges)
    data.set_epoch(1)
    assert sorted(key for batch in data for key in batch["key"]) == first == sorted(keys(stored(large, SUBSET)))
    assert len(running.cdn.ranges) == sent and files(folder)


def samples(running: hub.Hub, folder: Path) -> dict[str, bytes]:
    options = {"storage_options": {"endpoint": running.url}, "token": hub.TOKEN, "local_cache": folder}
    pipeline = mmm_rs.webdataset(SUBSET, ADDRESS, shuffle=0, decode=None, **options)
    return {sample["__key__"]: sample["jpg"] for sample in pipeline}


def test_webdataset_has_a_cache(large, running, folder):
    put(running, large)
    expected = {row["key"]: row["rgb"]["bytes"] for row in stored(large, SUBSET)}
    assert samples(running, folder) == expected
    running.cdn.ranges.clear()
    assert samples(running, folder) == expected
    assert {row["key"]: row["rgb"]["bytes"] for row in read(running, folder)} == expected  # the builder has them too
    assert not images(running)


@pytest.mark.parametrize("kind", ["shard", "sums"])
@pytest.mark.parametrize("damage", ["flip", "cut", "zeros", "gone"])
def test_damage_of_blocks_costs_a_fetch(large, running, folder, kind, damage):
    put(running, large)
    expected = samples(running, folder)
    for path in files(folder, kind):
        spoil(path, damage)
    assert samples(running, folder) == expected


@contextlib.contextmanager
def damaged(running: hub.Hub, place: int = 2000):
    """A server that sends other bytes of the same length, and goes on calling them by the sha256 they should have."""
    name = f"data/{SUBSET}/train-00001-of-00004.tar"
    file = running.repositories[REPO].commits[running.repositories[REPO].refs["main"]][name]
    data = bytearray(file.data)
    object.__setattr__(file, "data", data)  # the signed addresses that are kept lead to the same bytes
    data[place] ^= 1
    yield file
    data[place] ^= 1


@pytest.mark.parametrize("place", [100, 2000], ids=["a tar header", "an image"])
def test_a_shard_that_comes_wrong_is_not_kept(large, running, folder, place):
    """Nothing but the sha256 can show it."""
    put(running, large)
    with damaged(running, place) as file:
        with pytest.raises(mmm_rs.ReadError, match=r"train-00001-of-00004\.tar: .*`mmm-rs verify` finds"):
            samples(running, folder)
        assert not [path for path in files(folder) if path.stem == file.sha256]


def test_a_shard_of_which_damaged_blocks_were_kept_is_removed_and_fetched_again(large, running, folder):
    """By a reader that stopped before the end, where the sha256 would have shown it."""
    put(running, large)
    name = f"data/{SUBSET}/train-00001-of-00004.tar"
    options = {"storage_options": {"endpoint": running.url}, "token": hub.TOKEN, "local_cache": folder}
    with damaged(running) as file:
        with contextlib.closing(mmm_rs.open_source(ADDRESS, **options).files.stream(name)) as stream:
            stream.read(1000)
        assert [path for path in files(folder) if path.stem == file.sha256]
    with pytest.raises(mmm_rs.ReadError, match=r"train-00001-of-00004\.tar: its sha256 is not that of the manifest"):
        samples(running, folder)
    assert samples(running, folder) == {row["key"]: row["rgb"]["bytes"] for row in stored(large, SUBSET)}


# ---------------------------------------------------------------------------------------------------------- mirrors


@pytest.mark.parametrize("tag", [None, '"d41d8cd98f00b204e9800998ecf8427e-5"', f'"{"a" * 40}"'])
def test_a_mirror_that_says_nothing_of_the_content_has_a_cache_of_its_own(large, running, folder, monkeypatch, tag):
    put(running, large)
    monkeypatch.setattr("mmm_rs_reading.addresses.content_tag", lambda headers: content_tag({"ETag": tag or ""}))
    monkeypatch.setattr("mmm_rs_reading.transports.content_tag", lambda headers: content_tag({"ETag": tag or ""}))
    expected = stored(large, SUBSET)
    assert read(running, folder) == expected
    running.cdn.ranges.clear()
    names = {path.stem for path in files(folder) if any(path.read_bytes())}
    assert len(names) == 4 and not names & {
        hashlib.sha256(path.read_bytes()).hexdigest() for path in large.rglob("*.tar")
    }
    assert read(running, folder) == expected and not images(running)
    sent = in_processes(2, lambda _: (read(running, folder) == expected, len(images(running))))
    assert sent == [(True, 0)] * 2
    assert samples(running, folder) == {row["key"]: row["rgb"]["bytes"] for row in expected}
    running.cdn.ranges.clear()
    assert samples(running, folder) and not images(running)


# ------------------------------------------------------------------------------------------------------------- damage


def spoil(path: Path, damage: str) -> None:
    data = bytearray(path.read_bytes())
    if damage == "flip":
        for place in range(len(data) // 7, len(data), len(data) // 3):
            data[place] ^= 4
    if damage == "gone":
        path.unlink()
    else:
        path.write_bytes({"flip": data, "cut": data[: len(data) // 2], "zeros": bytes(len(data))}[damage])


@pytest.mark.parametrize("damage", ["flip", "cut", "zeros", "gone"])
@pytest.mark.parametrize("check", [None, False])
def test_damage_costs_a_fetch_and_never_a_wrong_image(large, running, folder, damage, check):
    put(running, large)
    assert read(running, folder) == stored(large, SUBSET)
    running.cdn.ranges.clear()
    for path in files(folder):
        spoil(path, damage)
    assert read(running, folder, check=check) == stored(large, SUBSET)
    assert images(running)
    running.cdn.ranges.clear()
    assert read(running, folder) == stored(large, SUBSET)
    assert not images(running)  # the cache is whole again


def test_a_killed_process_does_no_harm(large, running, folder):
    put(running, large)
    context = multiprocessing.get_context("fork")

    def read_some(sender) -> None:
        for number, _ in enumerate(load(running, SUBSET, local_cache=folder)):
            if number == 150:
                sender.send("under way")
                time.sleep(60)

    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=read_some, args=(sender,), daemon=True)
    process.start()
    assert receiver.poll(60)
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    assert read(running, folder) == stored(large, SUBSET)


def test_bytes_that_come_wrong_are_not_kept(large, running, folder):
    put(running, large)
    read(running, None)
    for signed in running.cdn.signed.values():
        if signed.path.startswith("data/"):
            object.__setattr__(signed, "data", bytes(len(signed.data)))
    with pytest.raises(mmm_rs.ReadError, match="its CRC is not"):
        read(running, folder)
    assert all(not any(path.read_bytes()) for path in files(folder))


# -------------------------------------------------------------------------------------------------------------- limits


def test_the_shards_that_were_not_used_for_longest_go(large, running, folder, monkeypatch):
    monkeypatch.setattr(cache, "USED", 0.0)
    monkeypatch.setattr(cache, "LEAST_STEP", 4 << 10)
    put(running, large)
    read(running, folder)
    whole = taken(folder)
    oldest = files(folder)[2]
    for number, path in enumerate(files(folder)):
        os.utime(path, (0, 1_000 + number) if path != oldest else (0, 1))
    kept = cache.Cache(str(folder), int(whole * 0.9))
    kept.wrote(1)
    assert not oldest.exists()
    assert len(files(folder)) == 3


@pytest.mark.parametrize("share", [0.3, 0.7])
def test_the_limit_holds(large, running, folder, monkeypatch, share):
    monkeypatch.setattr(cache, "LEAST_STEP", 4 << 10)
    put(running, large)
    limit = int(sum(path.stat().st_size for path in large.rglob("*.tar")) * share)
    sizes = []
    for _ in load(running, SUBSET, local_cache=folder, cache_limit=limit, read_ahead=0):  # one span at a time
        sizes.append(taken(folder))
    assert 0 < max(sizes) <= limit + (256 << 10)  # a span
    assert read(running, folder, cache_limit=limit) == stored(large, SUBSET)


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EIO])
def test_a_full_disk_turns_the_cache_off_with_one_warning(large, running, folder, monkeypatch, caplog, code):
    put(running, large)
    written = []

    def full(fd: int, offset: int, data: memoryview) -> None:
        if len(written) > 20:
            raise OSError(code, os.strerror(code))
        written.append(os.pwrite(fd, data[: len(data) // 2 if len(written) == 20 else len(data)], offset))

    monkeypatch.setattr(cache, "_write_at", full)
    monkeypatch.setattr(cache.logger, "propagate", True)
    with caplog.at_level(logging.WARNING):
        stream = load(running, SUBSET, local_cache=folder)
        for _ in range(2):
            assert list(stream) == stored(large, SUBSET)
    warnings = [record.getMessage() for record in caplog.records if "local_cache" in record.getMessage()]
    assert len(warnings) == 1 and os.strerror(code) in warnings[0] and "\n" not in warnings[0]


def test_a_system_that_refuses_a_write_does_no_harm(large, running, folder):
    """A limit that the kernel itself sets, as a quota does: files of at most 100 kB."""
    resource = pytest.importorskip("resource")
    put(running, large)

    def limited(_: int) -> list[dict]:
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
        return read(running, folder)

    assert in_processes(1, limited) == [stored(large, SUBSET)]
    assert files(folder) and all(path.stat().st_size <= 100_000 for path in files(folder))
    assert read(running, folder) == stored(large, SUBSET)


@pytest.mark.parametrize("place", ["below a file", "a file"])
def test_a_folder_that_cannot_be_made_is_a_warning(large, running, folder, tmp_path, place):
    (tmp_path / "file").touch()
    put(running, large)
    assert read(running, tmp_path / "file" / ("cache" if place == "below a file" else "")) == stored(large, SUBSET)


@pytest.mark.parametrize(
    "text, size",
    [("200GB", 200 * 10**9), ("1.5 TB", 15 * 10**11), ("64MiB", 64 << 20), (1000, 1000), ("7", 7), (None, None)],
)
def test_a_limit_is_a_size(text, size):
    assert cache.parse_limit(text) == size


@pytest.mark.parametrize("text", ["much", "-1", "1e9", "GB", True, "1 ZB"])
def test_what_is_not_a_size_is_named(text, folder):
    with pytest.raises(ValueError, match=r"cache_limit=.*: not a size\. Give one such as"):
        mmm_rs.load_dataset(SUBSET, "http://127.0.0.1:9", streaming=True, local_cache=folder, cache_limit=text)


@pytest.mark.parametrize("limit, reason", [("much", "not a size"), ("5GB", r"there is no cache to limit\. Give its")])
def test_a_limit_without_a_cache_is_an_error(limit, reason):
    with pytest.raises(ValueError, match=f"cache_limit='{limit}': {reason}"):
        mmm_rs.load_dataset(SUBSET, "http://127.0.0.1:9", streaming=True, cache_limit=limit)


def test_a_limit_of_the_environment_is_looked_at_even_without_a_cache(monkeypatch):
    monkeypatch.setenv("MMM_RS_CACHE_LIMIT", "5GB")
    assert cache.open_cache(None, None) is None
    monkeypatch.setenv("MMM_RS_CACHE_LIMIT", "much")
    with pytest.raises(ValueError, match="MMM_RS_CACHE_LIMIT='much': not a size"):
        cache.open_cache(None, None)


# ------------------------------------------------------------------------------------------------------------ security


def claiming(root: Path, other: Path) -> None:
    """Make a manifest claim that its shards are those of another dataset."""
    import json

    manifest, theirs = (json.loads((place / "manifest.json").read_text()) for place in (root, other))
    for row, their in zip(manifest["shards"], theirs["shards"], strict=True):
        row["sha256"] = their["sha256"]
    manifest["subsets"] = mmm_rs.subset_totals(manifest["shards"])
    converted.write_manifest(root, manifest)


def test_a_dataset_cannot_put_its_bytes_in_the_place_of_another_one_s(running, tmp_path, folder):
    many(real := tmp_path / "real", 40)
    dataset = []
    for number in range(40):
        prompts = {"rgb": f"field {number}", "sar": "radar"}
        sample = converted.Sample(f"SEN1-2/forged_{number}", prompts, "a field")
        sample.images.update({m: converted.picture("forged", 1) for m in prompts})
        dataset.append(sample)
    converted.write(forged := tmp_path / "forged", dataset, len(list(real.rglob("*.tar"))))
    claiming(forged, real)
    put(running, real)
    put(running, forged, "org/forged")
    address = "hf://datasets/org/forged"
    assert len(list(load(running, address=address, local_cache=folder))) == 40
    assert all(not any(path.read_bytes()) for path in files(folder))
    with Server(forged) as server:  # whose claims nobody vouches for
        list(mmm_rs.load_dataset("SEN1-2", server.url, streaming=True, local_cache=folder))
    names = {path.stem for path in files(folder) if any(path.read_bytes())}
    assert names and not names & {hub.hashlib.sha256(path.read_bytes()).hexdigest() for path in real.rglob("*.tar")}
    assert read(running, folder, "SEN1-2") == stored(real, "SEN1-2")


def test_a_link_in_the_place_of_a_shard_is_not_followed(large, running, folder, tmp_path):
    put(running, large)
    (tmp_path / "precious").write_bytes(b"precious")
    for path in large.rglob("*.tar"):
        name = hub.hashlib.sha256(path.read_bytes()).hexdigest()
        (folder / name[:2]).mkdir(parents=True, exist_ok=True)
        (folder / name[:2] / f"{name}.shard").symlink_to(tmp_path / "precious")
    assert read(running, folder) == stored(large, SUBSET)
    assert (tmp_path / "precious").read_bytes() == b"precious"


def test_the_cache_is_for_its_user_alone(large, running, folder):
    put(running, large)
    read(running, folder)
    assert folder.stat().st_mode & 0o777 == 0o700
    assert all(path.stat().st_mode & 0o777 == 0o600 for path in files(folder))


# ------------------------------------------------------------------------------------------- none, unless it is wanted


def test_without_one_nothing_is_written(large, running, folder, tmp_path):
    put(running, large)
    assert read(running, None) == stored(large, SUBSET)
    assert not folder.exists() and not [path for path in tmp_path.rglob("*") if path.is_file()]
    assert running.requests == {"resolve": 1 + 1 + 4}  # manifest, index, shards


def test_the_environment_names_one(large, running, folder, monkeypatch):
    put(running, large)
    monkeypatch.setenv("MMM_RS_CACHE", str(folder))
    monkeypatch.setenv("MMM_RS_CACHE_LIMIT", "1GB")
    assert read(running, None) == stored(large, SUBSET)
    assert len(files(folder)) == 4
    assert cache.open_cache(None, None) == cache.Cache(str(folder), 10**9)
    assert cache.open_cache(folder / "other", "1MB") == cache.Cache(str(folder / "other"), 10**6)


def test_a_local_folder_needs_none(large, folder):
    rows = list(mmm_rs.load_dataset(SUBSET, large, streaming=True, decode=False, local_cache=folder))
    assert rows == stored(large, SUBSET) and not folder.exists()


def test_the_module_alone_says_that_it_has_none(folder, monkeypatch):
    monkeypatch.setattr(mmm_rs, "_announced", lambda group: iter(()))
    with pytest.raises(ValueError, match="local_cache: needs the package mmm-rs"):
        mmm_rs.load_dataset(SUBSET, "memory://nothing", streaming=True, local_cache=folder)


def test_a_lock_excludes_overlapping_bytes_only(tmp_path):
    path = tmp_path / "file"
    path.touch()
    first, second = (os.open(path, os.O_RDWR) for _ in range(2))
    assert cache._try_lock(first, 0, 100)
    assert not cache._try_lock(second, 50, 150)
    assert cache._try_lock(second, 100, 150)
    cache._unlock(first, 0, 100)
    assert cache._try_lock(second, 50, 150)


def test_ranges_that_the_index_says_nothing_of_are_not_cached(large, running, folder):
    put(running, large)
    source = mmm_rs.open_source(ADDRESS, {"endpoint": running.url}, hub.TOKEN, local_cache=folder)
    buffer = memoryview(bytearray(100))
    name = next(iter(source.shards))
    assert source.files.begin(name, mmm_rs.ByteRanges.of(np.array([0]), np.array([100]), [buffer])).result() == {}
    assert bytes(buffer) == (large / name).read_bytes()[:100] and not folder.exists()


# --------------------------------------------------------------------------------------------------------- the command


def test_the_command_shows_and_clears_it(large, running, folder, run, monkeypatch):
    import json

    put(running, large)
    read(running, folder)
    code, printed, errors = run("cache", "--dir", folder)
    assert code == 0 and not errors and f"{folder}: 4 shards, " in printed and "free on the disk" in printed
    monkeypatch.setenv("MMM_RS_CACHE", str(folder))
    monkeypatch.setenv("MMM_RS_CACHE_LIMIT", "5GB")
    facts = json.loads(run("cache", "--json")[1])
    assert (facts["shards"], facts["bytes"], facts["limit"]) == (4, taken(folder), 5 * 10**9)
    names = {hub.hashlib.sha256(path.read_bytes()).hexdigest() for path in large.rglob("*.tar")}
    assert {entry["key"] for entry in facts["entries"]} == names
    (folder / "notes.txt").write_text("somebody else's")
    code, printed, _ = run("cache", "--clear")
    assert code == 0 and "4 shards removed" in printed and "0 shards, 0 B of 5.0 GB" in printed
    assert not files(folder) and (folder / "notes.txt").exists()
    assert read(running, None) == stored(large, SUBSET)


def test_the_command_without_a_cache_says_how_to_name_one(run, tmp_path, monkeypatch):
    code, _, errors = run("cache")
    assert code == 2 and errors == ["mmm-rs: no cache to show. Give its folder with --dir, or set MMM_RS_CACHE"]
    code, _, errors = run("cache", "--dir", tmp_path / "typo")
    assert code == 2 and errors == [f"mmm-rs: {tmp_path}/typo: no such folder. Give the one that local_cache names"]
    (tmp_path / "file").touch()
    code, _, errors = run("cache", "--dir", tmp_path / "file", "--clear")
    assert code == 2 and errors == [f"mmm-rs: {tmp_path}/file: is not a folder. Give the one that local_cache names"]
    monkeypatch.setenv("MMM_RS_CACHE", str(tmp_path / "not used yet"))
    code, printed, _ = run("cache")
    assert code == 0 and "0 shards, 0 B" in printed
    monkeypatch.setenv("MMM_RS_CACHE_LIMIT", "much")
    assert run("cache", "--dir", tmp_path)[2] == [
        "mmm-rs: MMM_RS_CACHE_LIMIT='much': not a size. Give one such as \"200GB\""
    ]
