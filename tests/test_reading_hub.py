"""Reading from the hub: few requests to it, its token for it alone, one version of the data, and troubles in a line."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import subprocess
import sys
import threading
import time
import urllib.request
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest

import mmm_rs
import mmm_rs_loader
from mmm_rs_reading import connections, files, retries
from mmm_rs_reading.addresses import expiry
from tests import converted, hub
from tests.servers import LoopbackServer
from tests.test_reading import keys, many, stored, take

REPO = "org/MMM-RS"
ADDRESS = f"hf://datasets/{REPO}"


@pytest.fixture(scope="module")
def sen12(tmp_path_factory) -> Path:
    """40 samples to train and 7 others in 3 + 3 shards. Not to be changed by a test."""
    return many(tmp_path_factory.mktemp("sen12") / "MMM-RS", 40, 7)


@pytest.fixture(scope="module")
def large(tmp_path_factory) -> Path:
    """600 samples in 8 shards; 60 are airports. Not to be changed by a test."""
    converted.write(out := tmp_path_factory.mktemp("large") / "MMM-RS", converted.airports(600), 8)
    return out


@pytest.fixture(autouse=True)
def shorter_still(monkeypatch, short_waits):
    monkeypatch.setattr(files, "FIRST_CONTACT", 0.05)


def load(running: hub.Hub, config: str = "SEN1-2", address: str = ADDRESS, token=hub.TOKEN, **options):
    given = {"storage_options": {"endpoint": running.url}, "token": token, "decode": False, **options}
    return mmm_rs.load_dataset(config, address, streaming=True, **given)


# ------------------------------------------------------------------------------------------------------------ requests


def test_each_file_is_resolved_once_however_often_it_is_read(sen12, on_the_hub):
    running = on_the_hub(sen12)
    stream = load(running)
    expected = stored(sen12, "SEN1-2")
    for _ in range(2):
        assert list(stream) == expected
    shuffled = stream.shuffle(seed=1, buffer_size=5)
    for epoch in range(2):
        shuffled.set_epoch(epoch)
        assert sorted(keys(shuffled)) == sorted(keys(expected))
    assert running.requests["resolve"] == 1 + 1 + 3  # manifest, index, shards
    assert sum(running.requests.values()) == running.requests["resolve"]


def test_a_filter_costs_no_request_to_the_hub_for_each_image(large, on_the_hub):
    running = on_the_hub(large)
    rows = list(load(running, "fMoW", filters={"category": "airport"}))
    assert len(rows) == 60
    assert len({span for span in running.cdn.ranges if "data/" in span[0]}) >= 50
    assert running.requests["resolve"] <= 8 + 2


def test_the_first_row_takes_few_requests(large, on_the_hub):
    running = on_the_hub(large)
    assert take(load(running, "fMoW", read_ahead=0), 1) == stored(large, "fMoW")[:1]
    assert sum(running.requests.values()) + len(running.cdn.ranges) <= 8


def test_a_row_by_its_key_takes_few_requests(large, on_the_hub):
    running = on_the_hub(large)
    row = stored(large, "fMoW")[77]
    options = {"storage_options": {"endpoint": running.url}, "token": hub.TOKEN, "decode": False}
    assert mmm_rs.get(ADDRESS, row["key"], **options) == row
    assert sum(running.requests.values()) + len(running.cdn.ranges) <= 8


def test_many_small_ranges_are_asked_for_at_once(large, on_the_hub):
    running = on_the_hub(large)
    stream = load(running, "fMoW", filters={"category": "airport"})
    running.cdn.gather = 16
    assert len(take(stream, 1)) == 1
    assert 16 <= running.cdn.most_at_once <= 32


def test_no_more_is_read_ahead_than_was_asked_for(large, on_the_hub, monkeypatch):
    size = len(stored(large, "fMoW")[0]["rgb"]["bytes"])
    monkeypatch.setattr(mmm_rs, "BATCH_BYTES", 5 * size)
    running = on_the_hub(large)
    rows = iter(load(running, "fMoW", read_ahead=50 * size))
    next(rows)
    sent = -1
    while sent != (sent := len([span for span in running.cdn.ranges if "data/" in span[0]])):
        time.sleep(0.3)
    assert 10 <= sent <= 20  # tables of up to 5 images, each one request
    assert len(list(rows)) == 599


# ------------------------------------------------------------------------------------------------------------ the token


def test_the_token_goes_to_the_hub_alone(sen12, on_the_hub):
    running = on_the_hub(sen12, private=True)
    assert list(load(running)) == stored(sen12, "SEN1-2")
    assert running.cdn.ranges and not running.cdn.refused
    with pytest.raises(mmm_rs.ReadError, match=r"no manifest\.json there\. Check the address and, if it is private"):
        load(running, token=False)


def test_the_token_is_not_in_what_is_printed_or_said(sen12, on_the_hub):
    running = on_the_hub(sen12)
    stream = load(running)
    for shown in (stream, stream._ex_iterable.builder._source.files.transport.addresses.own("index/a")):
        assert hub.TOKEN not in repr(shown) and hub.TOKEN not in str(shown)
    running.fail("resolve", status=403, times=99)
    with pytest.raises(mmm_rs.ReadError) as raised:
        list(load(running))
    assert hub.TOKEN not in str(raised.value) and "Signature" not in str(raised.value)


def test_a_gated_repository_says_what_to_do(sen12, on_the_hub):
    running = on_the_hub(sen12)
    running.fail(
        "resolve", status=403, headers={"X-Error-Code": "GatedRepo", "X-Error-Message": "Access is restricted"}
    )
    with pytest.raises(mmm_rs.ReadError, match=r"is gated \(Access is restricted\)\. Accept its terms .*hf auth login"):
        load(running)


# --------------------------------------------------------------------------------------------- addresses that expire


def test_an_address_is_asked_for_again_before_it_expires(sen12, on_the_hub, monkeypatch):
    running = on_the_hub(sen12)
    rows = iter(load(running, read_ahead=0))
    came = [next(rows)]
    before = running.requests["resolve"]
    running.cdn.revoke()
    now = time.time
    monkeypatch.setattr("mmm_rs_reading.addresses.time.time", lambda: now() + 3590)
    assert came + list(rows) == stored(sen12, "SEN1-2")
    assert running.requests["resolve"] > before and not running.cdn.refused


def test_an_address_that_was_never_good_is_an_error(sen12, on_the_hub):
    running = on_the_hub(sen12)
    running.cdn.lifetime = -10.0
    with pytest.raises(mmm_rs.ReadError, match="the server refuses it: 403"):
        list(load(running))


def test_an_address_that_is_refused_is_asked_for_again_once(sen12, on_the_hub):
    running = on_the_hub(sen12)
    stream = load(running)
    assert list(stream) == stored(sen12, "SEN1-2")
    before = running.requests["resolve"]
    running.cdn.revoke()
    assert list(stream) == stored(sen12, "SEN1-2")
    assert running.requests["resolve"] - before == 3


@pytest.mark.parametrize(
    "query, lifetime",
    [
        ("Expires=1700003600&Signature=x&Key-Pair-Id=y", 3600),
        ("X-Amz-Date=20231114T221320Z&X-Amz-Expires=600&X-Amz-Signature=z", 600),
        ("x-amz-date=20231114T221320Z&x-amz-expires=600", 600),
        ("Expires=soon", None),
        ("X-Amz-Date=yesterday&X-Amz-Expires=600", None),
        ("", None),
    ],
)
def test_when_a_signed_address_expires(query, lifetime):
    now = "Tue, 14 Nov 2023 22:13:20 GMT"  # 1700000000 by the server's clock; this machine's is years ahead
    end = expiry(f"https://cdn.example/a?{query}", now)
    if lifetime is None:
        assert end is None
    else:
        assert lifetime - 61 <= end - time.time() <= lifetime


def test_a_redirect_to_another_name_of_the_repository_is_followed_with_the_token(sen12, on_the_hub):
    running = on_the_hub(sen12, private=True)
    running.repositories["org/new-name"] = running.repositories.pop(REPO)
    was = hub._Handler.resolve

    def moved(self, repo, revision, path):
        if repo == REPO:
            location = f"/datasets/org/new-name/resolve/{revision}/{path}"
            return lambda: self._send(307, b"moved", {"Location": location})
        return was(self, repo, revision, path)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(hub._Handler, "resolve", moved)
        assert list(load(running)) == stored(sen12, "SEN1-2")


# ---------------------------------------------------------------------------------------------------- one version


def test_a_stream_stays_on_the_commit_that_it_began_with(sen12, tmp_path, on_the_hub):
    running = on_the_hub(sen12)
    stream = load(running, read_ahead=0)
    rows = iter(stream)
    came = [next(rows)]
    on_the_hub(many(tmp_path / "MMM-RS", 60, 3))
    assert came + list(rows) == stored(sen12, "SEN1-2")
    assert list(pickle.loads(pickle.dumps(stream))) == stored(sen12, "SEN1-2")
    assert list(load(running)) == stored(tmp_path / "MMM-RS", "SEN1-2")


@pytest.mark.parametrize("revision", ["v1", "refs/pr/3", "refs%2Fpr%2F3", "a%2Fbranch"])
def test_a_revision(sen12, tmp_path, on_the_hub, revision):
    running = on_the_hub(sen12)
    name = revision.replace("%2F", "/")
    repository = running.repositories[REPO]
    repository.add(name, hub.contents(many(tmp_path / "MMM-RS", 9)), "another")
    assert list(load(running, address=f"{ADDRESS}@{revision}")) == stored(tmp_path / "MMM-RS", "SEN1-2")
    assert list(load(running)) == stored(sen12, "SEN1-2")
    with pytest.raises(mmm_rs.ReadError, match="there is no such revision"):
        load(running, address=f"{ADDRESS}@v9")


def test_every_door_takes_a_revision(sen12, tmp_path, on_the_hub):
    running = on_the_hub(sen12)
    running.repositories[REPO].add("v1", hub.contents(many(tmp_path / "MMM-RS", 9)), "another")
    older = keys(stored(tmp_path / "MMM-RS", "SEN1-2"))
    options = {"revision": "v1", "storage_options": {"endpoint": running.url}, "token": hub.TOKEN}
    assert keys(load(running, revision="v1")) == older
    assert mmm_rs.get(ADDRESS, older[0], **options)["key"] == older[0]
    assert [row.samples for row in mmm_rs.info(ADDRESS, **options).rows] == [9]
    pipeline = mmm_rs.webdataset("SEN1-2", ADDRESS, shuffle=0, decode=None, **options)
    assert [sample["__key__"] for sample in pipeline] == older
    data = mmm_rs_loader.batches("SEN1-2", ADDRESS, 4, modalities=["rgb"], size=16, **options)
    assert [key for batch in data for key in batch["key"]] == older


def test_a_folder_of_a_repository(sen12, on_the_hub):
    running = on_the_hub(sen12)
    moved = {f"some/folder/{name}": file for name, file in hub.contents(sen12).items()}
    running.repositories[REPO].add("main", moved, "moved")
    assert list(load(running, address=f"{ADDRESS}/some/folder")) == stored(sen12, "SEN1-2")


# -------------------------------------------------------------------------------------------------- other processes


def read_keys(stream, pipe) -> None:
    pipe.send(keys(stream))
    pipe.close()


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_a_process_knows_the_addresses_of_its_parent(sen12, on_the_hub, method):
    running = on_the_hub(sen12)
    stream = load(running)
    expected = keys(stream)
    before = sum(running.requests.values())
    context = multiprocessing.get_context(method)
    receiver, sender = context.Pipe(duplex=False)
    child = context.Process(target=read_keys, args=(stream, sender), daemon=True)
    child.start()
    sender.close()
    assert receiver.poll(30) and receiver.recv() == expected
    child.join()
    assert sum(running.requests.values()) == before


def test_a_fork_while_the_parent_reads(large, on_the_hub):
    """Locks that its threads hold at that moment must not be held in the child for ever."""
    running = on_the_hub(large)
    stream = load(running, "fMoW")
    context = multiprocessing.get_context("fork")
    rows = iter(stream)
    for _ in range(5):
        take(rows, 40)
        receiver, sender = context.Pipe(duplex=False)
        child = context.Process(target=read_keys, args=(stream.take(100), sender), daemon=True)
        child.start()
        sender.close()
        assert receiver.poll(30) and len(receiver.recv()) == 100
        child.join()
    assert len(list(rows)) == 600 - 200


ENDS = {
    "the end of the program": "",
    "an error": "raise SystemExit(3)",
    "Ctrl-C": "import signal; os.kill(os.getpid(), signal.SIGINT); time.sleep(600)",
    "a stream that is dropped": "del rows; import gc; gc.collect()",
}


@pytest.mark.parametrize("end", ENDS)
def test_no_thread_keeps_a_program_from_its_end(large, on_the_hub, end, monkeypatch):
    running = on_the_hub(large)
    was = hub._Handler.resolve

    def only_the_first_shard(self, repo, revision, path):
        answer = was(self, repo, revision, path)
        if not path.startswith("data/") or "train-00000-of" in path:
            return answer
        return lambda: running.ended.wait(600) and answer()  # what is read ahead will not come

    monkeypatch.setattr(hub._Handler, "resolve", only_the_first_shard)
    program = f"""
import os, time, mmm_rs
rows = iter(mmm_rs.load_dataset("fMoW", {ADDRESS!r}, streaming=True, decode=False))
next(rows)
{ENDS[end]}
"""
    environment = os.environ | running.environment | {"USE_TORCH": "NO"}  # which `datasets` imports otherwise: seconds
    run = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, timeout=200)
    assert run.returncode == {"an error": 3, "Ctrl-C": 1}.get(end, 0) or (end == "Ctrl-C" and run.returncode == -2)
    if end != "Ctrl-C":
        assert not any(word in run.stderr for word in ("Traceback", "Exception", "terminate", "Fatal"))


# ------------------------------------------------------------------------------------------------------- no network


@pytest.mark.parametrize(
    "address, options",
    [
        (ADDRESS, {"storage_options": {"endpoint": "http://127.0.0.1:9"}}),
        (ADDRESS, {"storage_options": {"endpoint": "http://nobody.invalid"}}),
        ("http://127.0.0.1:9/MMM-RS", {}),
        ("http://nobody.invalid/MMM-RS", {}),
    ],
)
def test_a_server_that_cannot_be_reached_is_said_soon_and_in_one_line(address, options):
    begun = time.monotonic()
    with pytest.raises(mmm_rs.ReadError, match=r"cannot be reached: .*Check the address and the connection") as raised:
        mmm_rs.load_dataset("SEN1-2", address, streaming=True, **options)
    assert time.monotonic() - begun < 5
    assert "\n" not in str(raised.value) and "object at 0x" not in str(raised.value)
    assert raised.value.__cause__ is None and raised.value.__context__ is None


@pytest.mark.parametrize("name", ["HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE"])
def test_offline_is_answered_at_once_with_the_name_of_the_variable(name):
    read = f"import mmm_rs; mmm_rs.load_dataset('SEN1-2', {ADDRESS!r}, streaming=True)"
    run = subprocess.run([sys.executable, "-c", read], env=os.environ | {name: "1"}, capture_output=True, text=True)
    last = run.stderr.splitlines()[-1]
    assert run.returncode == 1 and f"{ADDRESS}: {name} is set. Unset it" in last
    assert "During handling" not in run.stderr and "direct cause" not in run.stderr


# --------------------------------------------------------------------------------------------------------- proxies


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *_: object) -> None:
        return None


class _Proxy(BaseHTTPRequestHandler):
    """Forwards plain requests, and notes their hosts."""

    protocol_version = "HTTP/1.1"
    asked: list[str]

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        self.asked.append(self.path)
        headers = {name: value for name, value in self.headers.items() if name.lower() != "host"}
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}), _NoRedirect)
        try:
            answer = opener.open(urllib.request.Request(self.path, headers=headers))
        except urllib.request.HTTPError as error:
            answer = error
        data = answer.read()
        self.send_response(answer.status)
        for name, value in answer.headers.items():
            if name.lower() not in ("content-length", "connection", "date", "server"):
                self.send_header(name, value)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


@pytest.mark.parametrize("excepted", [False, True])
def test_the_environment_s_proxy_is_used(sen12, on_the_hub, monkeypatch, excepted):
    running = on_the_hub(sen12)
    handler = type("Handler", (_Proxy,), {"asked": []})
    server = LoopbackServer(handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("HTTP_PROXY", f"http://127.0.0.1:{server.server_address[1]}")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1" if excepted else "")
    monkeypatch.delenv("no_proxy", raising=False)
    try:
        assert list(load(running)) == stored(sen12, "SEN1-2")
    finally:
        server.shutdown()
        server.server_close()
    if excepted:
        assert not handler.asked
    else:
        assert any(path.startswith(running.url) for path in handler.asked)
        assert any(path.startswith(running.cdn.url) for path in handler.asked)


# --------------------------------------------------------------------------------------------------- one retry policy


@pytest.mark.parametrize(
    "value, seconds",
    [
        ("3", 3.0),
        ("0.5", 0.5),
        ("0", 0.0),
        ("-4", 0.0),
        ("nan", 0.0),
        ("inf", 0.0),
        ("soon", 0.0),
        ("", 0.0),
        (None, 0.0),
        ("99999", retries.LONGEST_ASKED_WAIT),
        ("Tue, 14 Nov 2023 22:13:20 GMT", 0.0),  # is over
        ("Tue, 99 Nov 2023 22:13:20 GMT", 0.0),
    ],
)
def test_retry_after(value, seconds):
    assert retries.retry_after(value) == seconds


def test_retry_after_as_a_date():
    assert 8 < retries.retry_after(formatdate(time.time() + 10, usegmt=True)) <= 10


def test_the_hub_is_waited_for_as_long_as_it_asks(sen12, on_the_hub):
    running = on_the_hub(sen12)
    running.fail("resolve", status=429, headers={"Retry-After": "0.6"})
    begun = time.monotonic()
    assert list(load(running)) == stored(sen12, "SEN1-2")
    assert time.monotonic() - begun >= 0.6


def test_connections_are_kept_alive(sen12, on_the_hub):
    running = on_the_hub(sen12)
    list(load(running))
    pools = connections._pools[None].pools
    assert all(pools[key].num_connections <= files.REQUESTS + 8 for key in pools.keys())  # noqa: SIM118
