"""Over a network only the bytes asked for are read; a server is believed in nothing, and its troubles are survived."""

from __future__ import annotations

import contextlib
import json
import multiprocessing
import os
import pickle
import random
import re
import shutil
import socket
import struct
import subprocess
import sys
import tarfile
import threading
import time
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import fsspec
import pyarrow.parquet as pq
import pytest

import mmm_rs
from mmm_rs_reading import connections, files, retries
from mmm_rs_reading.addresses import Addresses
from tests import converted, hub
from tests.servers import LoopbackServer
from tests.test_reading import FILTERS, keys, many, opened, stored

pytest.importorskip("aiohttp", reason="fsspec reads http:// with it")

# ---------------------------------------------------------------------------------------------------------- a server


@dataclass
class Trouble:
    """What happens to the next `times` requests for paths with `part` in them, after `skip` that go well."""

    kind: str
    part: str = ""
    times: int = 1
    skip: int = 0


pytestmark = pytest.mark.usefixtures("short_waits")


class Server:
    """Serves a folder by ranges on loopback, logs what it sends and can be told to fail or to lie."""

    def __init__(self, root: Path) -> None:
        self.root, self.log, self.troubles = root, [], []
        self.lock = threading.Lock()
        handler = type("Handler", (_Handler,), {"server_of_the_test": self})
        self._server = LoopbackServer(handler)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}/MMM-RS"
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)

    def __enter__(self) -> Server:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def fail(self, kind: str, part: str = "", times: int = 1, skip: int = 0) -> None:
        self.troubles.append(Trouble(kind, part, times, skip))

    def trouble(self, path: str) -> str | None:
        with self.lock:
            for trouble in self.troubles:
                if trouble.part in path and trouble.times:
                    if not trouble.skip:
                        trouble.times -= 1
                        return trouble.kind
                    trouble.skip -= 1
        return None


class _Handler(BaseHTTPRequestHandler):
    server_of_the_test: Server
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # else each answer waits 40 ms for the acknowledgement of its headers

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        server = self.server_of_the_test
        trouble = server.trouble(self.path)
        file = server.root / self.path.removeprefix("/MMM-RS/")
        if trouble in ("500", "503", "429", "403", "401"):
            return self.answer(int(trouble), b"", {"Retry-After": "0.1"} if trouble == "429" else {})
        if trouble == "stall":
            time.sleep(0.4)
            self.close_connection = True
            return None
        if trouble == "reset":
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.connection.close()
            self.close_connection = True
            return None
        if not file.is_file():
            return self.answer(404, b"", {})
        data = file.read_bytes()
        if "Range" not in self.headers:
            with server.lock:
                server.log.append((self.path.removeprefix("/MMM-RS/"), 0, len(data)))
            return self.answer(200, data, {}, cut=trouble == "cut")
        asked = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", ""))
        if not asked or trouble == "whole":
            return self.answer(200, data, {})
        start, stop = int(asked[1]), min(int(asked[2]) + 1, len(data))
        if start >= len(data):
            return self.answer(416, b"", {"Content-Range": f"bytes */{len(data)}"})
        if trouble == "another range":
            start, stop = (0, stop - start) if start else (1, stop + 1)
        if trouble == "part of the range":
            stop -= (stop - start) // 2
        headers = {"Content-Range": f"bytes {start}-{stop - 1}/{len(data)}"}
        if trouble == "another range that it calls the right one":
            return self.answer(206, data[1:][start:stop] + b"\0" * (stop + 1 > len(data)), headers)
        if trouble == "no word of the range":
            headers = {}
        with server.lock:
            server.log.append((self.path.removeprefix("/MMM-RS/"), start, stop))
        return self.answer(206, data[start:stop], headers, cut=trouble == "cut")

    def answer(self, status: int, data: bytes, headers: dict[str, str], cut: bool = False) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(data)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        try:
            self.wfile.write(data[: len(data) // 2] if cut else data)
        except OSError:
            self.close_connection = True  # the client has seen enough
        if cut:
            self.close_connection = True


def transferred(log) -> int:
    return sum(stop - start for _, start, stop in log)


# ------------------------------------------------------------------------------------------- what there is to be read


def heavy(image: bytes, seed: int) -> bytes:
    """A JPEG of about 20 kB that cannot be guessed: the picture, with a long comment behind its first marker."""
    comment = random.Random(seed).randbytes(random.Random(-seed).randrange(15_000, 25_000))
    return image[:2] + b"\xff\xfe" + struct.pack(">H", len(comment) + 2) + comment + image[2:]


@pytest.fixture(scope="module")
def large(tmp_path_factory) -> Path:
    """2,000 images of about 20 kB; 1 % are airports. Not to be changed by a test."""
    draw, dataset = random.Random(0), []
    rare = set(draw.sample(range(2000), 20))
    pictures = [converted.picture(str(number), number) for number in range(7)]
    for number in range(2000):
        category = "airport" if number in rare else "field"
        prompt = f"Ultra-high precision resolution, {category}, a satellite image of {category} {number}, Google Earth"
        sample = converted.Sample(f"fMoW/{category}_{number}", {"rgb": prompt}, f"{category} {number}", category)
        sample.images["rgb"] = heavy(pictures[number % 7], number)
        dataset.append(sample)
    converted.write(out := tmp_path_factory.mktemp("large") / "MMM-RS", dataset, 8)
    return out


@pytest.fixture(scope="module")
def aligned(tmp_path_factory) -> Path:
    """60 samples of three modalities, 20 kB each. Not to be changed by a test."""
    dataset, prompts = [], dict.fromkeys(converted.MODALITIES, "a river")
    for number in range(60):
        sample = converted.Sample(f"WHU-OPT-SAR/tile_{number}", prompts, "a river")
        sample.images.update({m: heavy(converted.picture(m, number), 3 * number + i) for i, m in enumerate(prompts)})
        dataset.append(sample)
    converted.write(out := tmp_path_factory.mktemp("aligned") / "MMM-RS", dataset)
    return out


@pytest.fixture(scope="module")
def sen12(tmp_path_factory) -> Path:
    """Not to be changed by a test."""
    return many(tmp_path_factory.mktemp("sen12") / "MMM-RS", 40, 7)


@pytest.fixture
def web():
    """Serves a folder by HTTP."""
    started = []

    def serve(root: Path) -> Server:
        started.append(Server(root).__enter__())
        return started[-1]

    yield serve
    for server in started:
        server.__exit__()


REPO = "org/MMM-RS"


@pytest.fixture
def on_the_hub():
    """Puts a folder on a hub; the hub and the options to read it with."""
    with hub.Hub() as running:

        def put(root: Path):
            running.repositories[REPO] = hub.Repository(private=False)
            running.repositories[REPO].add("main", hub.contents(root), "made")
            return running, {"storage_options": {"endpoint": running.url}, "token": hub.TOKEN}

        yield put


def served(door: str, out: Path, web, on_the_hub):
    """(URL, options to read it with, log of what is sent) of `out` behind a door."""
    if door == "http":
        server = web(out)
        return server.url, {}, server.log
    running, options = on_the_hub(out)
    return f"hf://datasets/{REPO}", options, running.ranges


def load(url, config="SEN1-2", streaming=True, **options):
    return mmm_rs.load_dataset(config, url, streaming=streaming, **options)


doors = pytest.mark.parametrize("door", ["http", "hf"])
either_way = pytest.mark.parametrize("streaming", [True, False], ids=["streaming", "whole"])


# ---------------------------------------------------------------------------------------------------------------- rows


@doors
@either_way
def test_rows_are_those_of_the_shards(sen12, door, streaming, web, on_the_hub):
    url, options, _ = served(door, sen12, web, on_the_hub)
    assert list(load(url, streaming=streaming, decode=False, **options)) == stored(sen12, "SEN1-2")
    decoded = [opened(row) for row in load(url, streaming=streaming, split="validation", **options)]
    assert decoded == [opened(row) for row in stored(sen12, "SEN1-2", split="validation")]


@pytest.fixture
def in_memory(sen12):
    """The URL of a folder in memory, for which `fsspec` knows no ranges over a network."""
    memory = fsspec.filesystem("memory")
    memory.put(str(sen12), "/reading/MMM-RS", recursive=True)
    yield "memory://reading/MMM-RS"
    memory.rm("/reading", recursive=True)


@pytest.mark.parametrize("name", ["all of a list", "one of several lists", "an expression", "nothing matches"])
@pytest.mark.parametrize("door", ["http", "hf", "memory", "file"])
def test_filters(sen12, name, door, web, on_the_hub, in_memory):
    filters, matches = FILTERS[name]
    expected = [row for row in stored(sen12, "SEN1-2") if matches(row)]
    if door in ("memory", "file"):
        url, options = (in_memory, {}) if door == "memory" else (sen12.as_uri(), {})
    else:
        url, options, _ = served(door, sen12, web, on_the_hub)
    assert list(load(url, filters=filters, decode=False, **options)) == expected
    assert list(load(url, streaming=False, filters=filters, decode=False, **options)) == expected
    texts = [row for row in expected if "field 1" in (row["prompt"] or "") + row["sar_prompt" if row["sar"] else "key"]]
    assert list(load(url, filters=filters, contains="field 1", decode=False, **options)) == texts


# ------------------------------------------------------------------------------------------ only the bytes asked for


@doors
@either_way
def test_one_percent_of_a_subset_transfers_little_more_than_its_bytes_and_the_index(
    large, door, streaming, web, on_the_hub
):
    url, options, log = served(door, large, web, on_the_hub)
    rows = load(url, "fMoW", streaming, filters=[("category", "==", "airport")], decode=False, **options)
    expected = [row for row in stored(large, "fMoW") if row["category"] == "airport"]
    assert list(rows) == expected and len(expected) == 20
    matching = sum(len(row["rgb"]["bytes"]) for row in expected)
    index = os.path.getsize(large / "index" / "fMoW.parquet")
    assert transferred(log) - os.path.getsize(large / "manifest.json") <= 1.1 * (matching + index)
    assert transferred(part for part in log if "data/" in part[0]) <= 1.01 * matching


@doors
def test_a_modality_reads_its_bytes_only(aligned, door, web, on_the_hub):
    url, options, log = served(door, aligned, web, on_the_hub)
    rows = list(load(url, "WHU-OPT-SAR", modalities=["sar"], decode=False, **options))
    assert rows == stored(aligned, "WHU-OPT-SAR", ["sar"])
    images = [part for part in log if "data/" in part[0]]
    asked = sum(len(row["sar"]["bytes"]) for row in rows)
    assert asked <= transferred(images) <= asked + 10  # a byte of each shard to know its size
    assert len(images) <= len(rows) + 4


def test_ranges_that_lie_close_are_joined(aligned, web):
    server = web(aligned)
    stream = load(server.url, "WHU-OPT-SAR", decode=False)
    assert len(list(stream)) == 60
    images = [part for part in server.log if "data/" in part[0]]
    whole = sum(path.stat().st_size for path in (aligned / "data").rglob("*.tar"))
    assert transferred(images) < whole
    assert len(images) <= stream.n_shards + 1 + 2  # a range for a piece, one more where it goes over; sizes: 180 images


@doors
def test_one_sample_takes_few_requests(large, door, web, on_the_hub):
    url, options, log = served(door, large, web, on_the_hub)
    for row in random.Random(1).sample(stored(large, "fMoW"), 3):
        log.clear()
        sample = mmm_rs.get(url, row["key"], decode=False, **options)
        assert sample == row
        groups = pq.ParquetFile(large / "index" / "fMoW.parquet").metadata.num_row_groups
        parts = {name: [part for part in log if part[0].startswith(name)] for name in ("manifest", "index", "data")}
        assert len(parts["manifest"]) == 1
        assert len(parts["data"]) == 1
        assert transferred(parts["data"]) == len(row["rgb"]["bytes"])
        assert len(parts["index"]) <= 3 + groups + 2  # size, footer; keys until it is found; the row


def test_the_index_of_sorted_samples_is_not_searched_from_its_beginning(tmp_path, web):
    """Real conversions sort samples by a hash of their key: the place of a key can be guessed."""
    dataset = [converted.Sample(f"Inria/512/roof_{number}", {"rgb": "a roof"}, "a roof") for number in range(150)]
    dataset.sort(key=lambda sample: mmm_rs.key_hash(sample.key, 0))
    for number, sample in enumerate(dataset):
        sample.images["rgb"] = converted.picture(str(number), number, 8)
    converted.write(tmp_path / "MMM-RS", dataset, 10)
    index = tmp_path / "MMM-RS" / "index" / "Inria.parquet"
    pq.write_table(pq.read_table(index), index, row_group_size=15)  # one a shard, as in a conversion
    manifest = json.loads((tmp_path / "MMM-RS" / "manifest.json").read_text())
    manifest["files"]["index/Inria.parquet"] = converted.described(index)
    converted.write_manifest(tmp_path / "MMM-RS", manifest)
    server = web(tmp_path / "MMM-RS")
    requests = []
    for sample in dataset[::15]:
        server.log.clear()
        assert mmm_rs.get(server.url, sample.key)["key"] == sample.key
        requests.append(sum(part[0].startswith("index") for part in server.log))
    assert sum(requests) / len(requests) < 8
    with pytest.raises(KeyError):
        mmm_rs.get(server.url, "Inria/512/roof_150")


def test_a_resumed_stream_reads_on_where_it_stopped(large, web):
    server = web(large)
    stream = load(server.url, "fMoW", decode=False)
    rows = stored(large, "fMoW")
    iterator = iter(stream)
    assert [next(iterator) for _ in range(1990)] == rows[:1990]
    state = stream.state_dict()
    iterator.close()
    server.log.clear()
    again = load(server.url, "fMoW", decode=False)
    again.load_state_dict(state)
    assert list(again) == rows[1990:]
    left = sum(len(row["rgb"]["bytes"]) for row in rows[1990:])
    assert transferred(part for part in server.log if "data/" in part[0]) <= 1.3 * left  # the texts between are small


# ----------------------------------------------------------------------------------------------- servers that tell lies

LIES = ["whole", "another range", "no word of the range"]


@pytest.mark.parametrize("part", ["", "index", ".tar"])
@pytest.mark.parametrize("lie", LIES)
@pytest.mark.parametrize("options", [{}, {"check": False}, {"on_error": "skip"}], ids=str)
def test_a_server_that_answers_something_else_than_the_range_is_not_believed(sen12, web, lie, part, options):
    server = web(sen12)
    server.fail(lie, part, times=1000)
    with pytest.raises(mmm_rs.ReadError, match=r"bytes \d+ to \d+ were asked for and .* this server ignores range req"):
        list(load(server.url, **options))


def test_a_server_that_gives_fewer_bytes_than_asked_for_is_asked_again_and_then_not_believed(sen12, web):
    server = web(sen12)
    server.fail("part of the range", ".tar", times=3, skip=1)
    assert keys(load(server.url)) == keys(stored(sen12, "SEN1-2"))
    server.fail("part of the range", ".tar", times=1000, skip=1)
    with pytest.raises(mmm_rs.ReadError, match=r"train-00000-of-00003\.tar: .* of \d+ bytes at \d+ came"):
        list(load(server.url))


def test_a_server_that_calls_another_range_the_right_one_is_found_out_by_the_crc(sen12, web):
    server = web(sen12)
    server.fail("another range that it calls the right one", ".tar", times=1000, skip=1)
    with pytest.raises(mmm_rs.ReadError, match="its CRC is not"):
        list(load(server.url, decode=False))


def test_a_hub_that_ignores_ranges_is_not_believed(sen12, on_the_hub, monkeypatch):
    _, options = on_the_hub(sen12)
    was = hub._Handler.resolve

    def whole(self, repo, revision, path):
        if path.endswith(".tar"):
            del self.headers["Range"]
        return was(self, repo, revision, path)

    monkeypatch.setattr(hub._Handler, "resolve", whole)
    with pytest.raises(mmm_rs.ReadError, match=r"train-00000-of-00003\.tar: .* this server ignores range requests"):
        list(load(f"hf://datasets/{REPO}", check=False, **options))


# ------------------------------------------------------------------------------------------------ troubles that pass


DROPS = [(kind, times) for kind in ("reset", "cut", "500", "503", "429") for times in (1, 2, 5)]


@pytest.mark.parametrize("kind, times", [*DROPS, ("stall", 1), ("stall", 2)])
@either_way
def test_drops_are_survived_wherever_they_come(sen12, web, kind, times, streaming, monkeypatch):
    if kind == "stall":
        monkeypatch.setattr(connections, "SILENCE", 0.2)
    server = web(sen12)
    for part, skip in (("manifest", 0), ("index", 0), ("train-00001", 1)):
        server.fail(kind, part, times, skip)
    begun = time.monotonic()
    assert list(load(server.url, streaming=streaming, decode=False)) == stored(sen12, "SEN1-2")
    assert not any(trouble.times for trouble in server.troubles)
    if kind == "429":
        assert time.monotonic() - begun >= 2 * times * 0.1  # as long as the server asked for, one after the other


@pytest.mark.parametrize("times", [1, 5])
@pytest.mark.parametrize(
    "how",
    [{}, {"status": 503}, {"status": 429, "headers": {"Retry-After": "0.05"}}, {"lost": True}],
    ids=["hang-up", "503", "429", "lost"],
)
def test_drops_of_the_hub_are_survived(sen12, on_the_hub, how, times):
    running, options = on_the_hub(sen12)
    running.fail("resolve", times=times, **how)
    running.fail("resolve", times=times, skip=6, **how)
    assert list(load(f"hf://datasets/{REPO}", decode=False, **options)) == stored(sen12, "SEN1-2")
    assert not any(fault.times for fault in running.faults)


@pytest.mark.parametrize("part", ["", "index", ".tar"])
@pytest.mark.parametrize("kind", ["reset", "503", "429"])
@either_way
def test_a_lasting_failure_ends_in_an_error(sen12, web, kind, part, streaming, monkeypatch):
    monkeypatch.setattr(retries, "LONGEST_ASKED_WAIT", 0.01)
    server = web(sen12)
    server.fail(kind, part, times=10_000)
    begun = time.monotonic()
    with pytest.raises(mmm_rs.ReadError, match=f"{part}.*: cannot be read, 8 tries: .*Check the connection"):
        list(load(server.url, streaming=streaming))
    assert time.monotonic() - begun < 5


def test_a_stream_that_broke_off_goes_on_from_its_state(large, web):
    server = web(large)
    expected, stream, came = stored(large, "fMoW"), load(server.url, "fMoW", decode=False), []
    server.fail("reset", "train-00004", times=10_000)
    with pytest.raises(mmm_rs.ReadError, match=r"train-00004-of-00008\.tar: cannot be read"):
        for row in stream:
            came.append(row)
    assert came == expected[: len(came)] and len(came) >= 900
    server.troubles.clear()
    again = load(server.url, "fMoW", decode=False)
    again.load_state_dict(stream.state_dict())
    assert came + list(again) == expected


@pytest.mark.parametrize("kind", ["401", "403"])
def test_a_refusal_is_not_tried_again(sen12, web, kind):
    server = web(sen12)
    server.fail(kind, times=2)
    with pytest.raises(mmm_rs.ReadError, match=f"manifest.json: the server refuses it: .*{kind}"):
        load(server.url)
    assert server.troubles[0].times == 1


# ----------------------------------------------------------------------------------------------------- never short


def damage_cut(out: Path) -> None:
    with tarfile.open(path := out / "data" / "SEN1-2" / "train-00001-of-00003.tar") as tar:
        last = tar.getmembers()[-3]
    os.truncate(path, last.offset)


def damage_missing(out: Path) -> None:
    (out / "data" / "SEN1-2" / "train-00001-of-00003.tar").unlink()


def damage_other(out: Path) -> None:
    other = many(out.with_name("other"), 60)
    shutil.copy(other / "data" / "SEN1-2" / "train-00001-of-00003.tar", out / "data" / "SEN1-2")


SHARD = r"train-00001-of-00003\.tar"
DAMAGE = {
    "cut": (damage_cut, rf"{SHARD}: has \d+ bytes, the manifest says \d+"),
    "missing": (damage_missing, rf"{SHARD}: not found; the manifest says \d+ bytes"),
    "another conversion's": (damage_other, rf"{SHARD}: has \d+ bytes, the manifest says \d+"),
    "no index": (lambda out: (out / "index" / "SEN1-2.parquet").unlink(), r"index/SEN1-2\.parquet: not found"),
    "index cut": (lambda out: os.truncate(out / "index" / "SEN1-2.parquet", 5000), r"SEN1-2\.parquet: .*cut short"),
    "no manifest": (lambda out: (out / "manifest.json").unlink(), r"no manifest\.json there\. Check the address"),
    "manifest edited": (
        lambda out: (out / "manifest.json").write_text(
            (out / "manifest.json").read_text().replace('"samples": 13', '"samples": 12')
        ),
        r"manifest\.json: was edited or damaged",
    ),
}


@doors
@pytest.mark.parametrize("name", DAMAGE)
def test_what_is_not_whole_is_an_error_that_names_it(sen12, tmp_path, name, door, web, on_the_hub):
    damage, says = DAMAGE[name]
    damage(out := Path(shutil.copytree(sen12, tmp_path / "MMM-RS")))
    url, options, _ = served(door, out, web, on_the_hub)
    with pytest.raises(mmm_rs.ReadError, match=says) as raised:
        list(load(url, **options))
    assert "\n" not in str(raised.value) and url in str(raised.value)


@pytest.mark.parametrize("name", ["cut", "missing"])
def test_bad_samples_are_skipped_and_counted(sen12, tmp_path, name, web):
    DAMAGE[name][0](out := Path(shutil.copytree(sen12, tmp_path / "MMM-RS")))
    builder = mmm_rs.MMMRS(config_name="SEN1-2", data_dir=web(out).url, on_error="skip")
    came = keys(builder.as_streaming_dataset(split="train"))
    expected = keys(stored(sen12, "SEN1-2"))
    assert sorted(came + [sample.key for sample in builder.skipped]) == sorted(expected)
    assert len(builder.skipped) == {"cut": 1, "missing": 13}[name]


def test_files_that_change_while_they_are_read(sen12, tmp_path, web, monkeypatch):
    monkeypatch.setattr(files, "READ_AHEAD", 0)
    out = Path(shutil.copytree(sen12, tmp_path / "MMM-RS"))
    server = web(out)
    rows = iter(load(server.url))
    next(rows)
    many(out, 60)
    with pytest.raises(mmm_rs.ReadError, match=r"the manifest says|it has changed|its CRC is not"):
        list(rows)


# -------------------------------------------------------------------------------------------------- other processes


def read_in_child(stream, pipe) -> None:
    pipe.send(keys(stream))
    pipe.close()


@doors
@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_workers_read_with_connections_of_their_own(sen12, door, method, web, on_the_hub):
    url, options, _ = served(door, sen12, web, on_the_hub)
    stream = load(url, **options)
    expected = keys(stream)  # the parent's connections are open now
    context = multiprocessing.get_context(method)
    receiver, sender = context.Pipe(duplex=False)
    child = context.Process(target=read_in_child, args=(stream, sender), daemon=True)
    child.start()
    sender.close()
    assert receiver.poll(30) and receiver.recv() == expected
    child.join()
    if method == "fork":
        assert keys(pickle.loads(pickle.dumps(stream))) == expected
        assert keys(load(url, streaming=False, num_proc=2, **options)) == expected


def test_a_download_that_needs_what_is_not_installed_or_known_says_so():
    with pytest.raises(ValueError, match="Protocol not known: nothing"):
        load("nothing://somewhere/MMM-RS")


@pytest.mark.parametrize("address", ["ftp://somebody:secret@127.0.0.1:9/x", "http://somebody:secret@127.0.0.1:9/x"])
@pytest.mark.parametrize("options", [{}, {"timeout": 1}], ids=["plain", "fsspec's own"])
def test_a_password_is_in_no_message(address, options):
    with pytest.raises(mmm_rs.ReadError, match=r"://127\.0\.0\.1:9/x.*: cannot be .*Check the ") as raised:
        load(address, storage_options=options)
    assert "secret" not in str(raised.value) and "somebody" not in str(raised.value)


@pytest.mark.parametrize("url", ["ftp://a:b@host/x", "ftp://a:b@c@host/x", "ftp://a@host/x"])
def test_a_url_without_its_login(url):
    assert mmm_rs.without_login(f"{url}: gone") == "ftp://host/x: gone"
    assert mmm_rs.without_login("hf://datasets/org/name@main/a") == "hf://datasets/org/name@main/a"


# ----------------------------------------------------------------------------------------------------------- redirects


class _Redirecting(BaseHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        self.server.seen.append((self.path, self.headers.get("Authorization")))
        self.send_response(302)
        self.send_header("Location", f"{self.server.target}{self.path}")
        self.send_header("Content-Length", "0")
        self.end_headers()


@contextlib.contextmanager
def redirecting(target: str):
    """A server that redirects everything to another one."""
    server = LoopbackServer(_Redirecting)
    server.target, server.seen = target, []
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


def test_hosts_that_redirect_further_are_followed_without_a_login_and_asked_once(sen12):
    with (
        Server(sen12) as last,
        redirecting(last.url.removesuffix("/MMM-RS")) as second,
        redirecting(f"http://127.0.0.1:{second.server_port}") as first,
    ):
        url = f"http://somebody:secret@127.0.0.1:{first.server_port}/MMM-RS"
        stream = load(url, decode=False)
        assert list(stream) == stored(sen12, "SEN1-2")
        assert all(login for _, login in first.seen) and second.seen and not any(login for _, login in second.seen)
        requests = len(first.seen) + len(second.seen)
        assert list(stream) == stored(sen12, "SEN1-2")
        assert len(first.seen) + len(second.seen) == requests  # the last address is known now


def test_redirects_in_a_circle_are_an_error():
    with redirecting("") as second, redirecting(f"http://127.0.0.1:{second.server_port}") as first:
        second.target = f"http://localhost:{second.server_port}"
        with pytest.raises(mmm_rs.ReadError, match=r"manifest\.json: the server redirects more than 5 times"):
            load(f"http://127.0.0.1:{first.server_port}/MMM-RS")


def test_what_a_host_says_of_a_content_counts_from_the_folder_s_own_host_alone():
    addresses = Addresses("https://hub/datasets", {"Authorization": "secret"})
    headers = {"Location": "https://cdn/x", "X-Linked-Etag": f'"{"a" * 64}"', "X-Linked-Size": "5"}
    target = addresses.redirected(addresses.own("x"), headers)
    assert (target.tag, target.size, dict(target.headers)) == ("a" * 64, 5, {})
    again = {"Location": "https://other/x", "X-Linked-Etag": f'"{"b" * 64}"', "X-Linked-Size": "6"}
    further = addresses.redirected(target, again)
    assert (further.url, further.tag, further.size, dict(further.headers)) == ("https://other/x", "a" * 64, 5, {})


def test_offline_mode_is_not_waited_for():
    """The hub's client reads its variable when it is imported, so this needs a process of its own."""
    read = "import mmm_rs; mmm_rs.load_dataset('SEN1-2', 'hf://datasets/org/MMM-RS', streaming=True)"
    words = {"read": ["-c", read], "verify": ["-m", "mmm_rs_cli.cli", "verify", "hf://datasets/org/MMM-RS"]}
    for name, arguments in words.items():
        run = subprocess.run(
            [sys.executable, *arguments], env=os.environ | {"HF_HUB_OFFLINE": "1"}, capture_output=True, text=True
        )
        last = run.stderr.splitlines()[-1]
        assert run.returncode == {"read": 1, "verify": 5}[name]
        assert "HF_HUB_OFFLINE" in last and "tries" not in last and "trying again" not in run.stderr
