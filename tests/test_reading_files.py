"""What `mmm_rs` expects of files, whichever way they are read: one contract, a class that each kind inherits."""

from __future__ import annotations

import contextlib
import gc
import pickle
import subprocess
import sys
import weakref
from collections.abc import Callable
from pathlib import Path

import datasets
import fsspec
import numpy as np
import pytest

import mmm_rs
from mmm_rs import ByteRanges
from mmm_rs_reading import files
from tests.hub import contents
from tests.test_reading import HAVING, converted, keys, load, opened, stored
from tests.test_reading_remote import Server, hub

DATA = bytes(np.random.default_rng(0).integers(0, 256, 3 << 20, np.uint8))
NAME = "data/SEN1-2/train-00000-of-00001.tar"
REPO = "org/MMM-RS"

pytestmark = pytest.mark.usefixtures("short_waits")


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A large file and a small one. Not to be changed by a test."""
    root = tmp_path_factory.mktemp("files") / "MMM-RS"
    (root / NAME).parent.mkdir(parents=True)
    (root / NAME).write_bytes(DATA)
    (root / "manifest.json").write_bytes(b'{"one": 1}')
    return root


@pytest.fixture
def collect_no_garbage():
    """What refers to itself stays in memory."""
    gc.disable()
    yield
    gc.enable()


class FilesContract:
    """To be inherited, with a fixture `files` that opens `folder`."""

    def test_it_names_itself_and_says_whether_it_is_remote(self, files):
        assert "MMM-RS" in str(files) and isinstance(files.remote, bool)

    def test_a_whole_file(self, files):
        assert files.read("manifest.json") == b'{"one": 1}'
        assert bytes(files.read(NAME)) == DATA

    def test_sizes(self, files):
        files.expect({NAME: {"bytes": len(DATA), "sha256": "0" * 64}})
        assert (files.size(NAME), files.size("manifest.json")) == (len(DATA), 10)

    def test_parts(self, files):
        wanted = [(0, 5), (100, 100 + (1 << 20)), (len(DATA) - 3, len(DATA))]
        parts = files.ranges(NAME, wanted)
        assert [bytes(part) for part in parts] == [DATA[start:stop] for start, stop in wanted]
        assert files.ranges(NAME, []) == []

    def test_parts_beyond_the_end_are_an_error(self, files):
        with pytest.raises((OSError, mmm_rs.ReadError)):
            files.ranges(NAME, [(len(DATA) - 3, len(DATA) + 3)])

    def test_from_beginning_to_end(self, files):
        with contextlib.closing(files.stream(NAME)) as stream:
            assert stream.read(10) == DATA[:10]
            assert stream.read() == DATA[10:]
            assert stream.read(1) == b""

    def test_a_stream_that_is_left_early(self, files):
        with contextlib.closing(files.stream(NAME)) as stream:
            assert stream.read(10) == DATA[:10]

    def fill(self, files, ranges: list[tuple[int, int]]):
        buffers = [bytearray(size) for _, size in ranges]
        offsets, sizes = (np.array(column, np.int64) for column in zip(*ranges, strict=True))
        wanted = ByteRanges.of(offsets, sizes, [memoryview(buffer) for buffer in buffers])
        reading = files.begin(NAME, wanted)
        return buffers, {wanted.order[number]: reason for number, reason in reading.result().items()}

    @pytest.mark.parametrize(
        "ranges",
        [
            [(0, 10)],
            [(5000, 70_000), (0, 10), (80_000, 3), (2 << 20, 1 << 20)],  # in any order
            [(0, 10), (10, 10), (30, 10)],  # adjoining and near
            [(100, 50), (120, 50), (100, 50)],  # overlapping and equal
            [(7, 0), (9, 4)],  # an empty one
            [(number * 3000, 1000) for number in range(1000)],
        ],
    )
    def test_ranges_into_buffers(self, files, ranges):
        buffers, wrong = self.fill(files, ranges)
        assert not wrong
        assert buffers == [DATA[offset : offset + size] for offset, size in ranges]

    def test_ranges_that_come_short_are_named(self, files):
        buffers, wrong = self.fill(files, [(len(DATA) - 5, 10), (20, 10), (len(DATA) + 99, 4)])
        assert set(wrong) == {0, 2} and wrong[0] == f"5 of 10 bytes at {len(DATA) - 5} came"
        assert buffers[1] == DATA[20:30]

    def test_a_file_that_is_missing(self, files):
        wanted = ByteRanges.of(np.array([0]), np.array([1]), [memoryview(bytearray(1))])
        reading = files.begin("data/none.tar", wanted)  # raises nothing yet
        for ask in (reading.result, lambda: files.read("none.json"), lambda: files.size("none.json")):
            with pytest.raises(FileNotFoundError):
                ask()
        with pytest.raises(FileNotFoundError):
            files.ranges("none", [(0, 1)])

    def test_a_reading_can_be_given_up(self, files):
        wanted = ByteRanges.of(np.array([0]), np.array([1 << 20]), [memoryview(bytearray(1 << 20))])
        files.begin(NAME, wanted).cancel()
        assert self.fill(files, [(0, 10)])[0] == [DATA[:10]]

    def test_the_buffers_are_free_when_they_have_been_read(self, files, collect_no_garbage):
        buffer = np.zeros(10, np.uint8)
        wanted = ByteRanges.of(np.array([5]), np.array([10]), [memoryview(buffer)])
        reading, kept = files.begin(NAME, wanted), weakref.ref(buffer)
        assert not reading.result() and bytes(buffer) == DATA[5:15]
        del buffer, wanted, reading
        assert kept() is None

    def test_calls_in_advance_keep_their_order_and_their_errors(self, files):
        assert list(files.in_advance(lambda number: number * number, range(40))) == [n * n for n in range(40)]
        came = []
        with pytest.raises(ZeroDivisionError):
            for result in files.in_advance(lambda number: 12 // number, [3, 2, 1, 0, 4]):
                came.append(result)
        assert came == [4, 6, 12]

    def test_how_much_may_be_under_way(self, files):
        with files.read_ahead() as allowed:
            alone = allowed()
            with files.read_ahead():
                assert 0 <= allowed() <= alone
            assert allowed() == alone

    def test_a_copy_reads_the_same(self, files):
        files.size(NAME)
        copy = pickle.loads(pickle.dumps(files))
        assert str(copy) == str(files)
        assert self.fill(copy, [(1000, 10)])[0] == [DATA[1000:1010]]


class TestLocalFiles(FilesContract):
    @pytest.fixture
    def files(self, folder) -> mmm_rs.Files:
        return mmm_rs.LocalFiles(str(folder))


@pytest.fixture
def in_memory(folder):
    memory = fsspec.filesystem("memory")
    memory.put(str(folder), "/contract/MMM-RS", recursive=True)
    yield "memory://contract/MMM-RS"
    memory.rm("/contract", recursive=True)


@pytest.fixture
def on_the_web(folder):
    with Server(folder) as server:
        yield server.url


@pytest.fixture
def on_the_hub(folder):
    with hub.Hub() as running:
        running.repositories[REPO] = hub.Repository(private=False)
        running.repositories[REPO].add("main", contents(folder), "made")
        yield {"endpoint": running.url, "token": hub.TOKEN}


class TestPlainFilesInMemory(FilesContract):
    @pytest.fixture
    def files(self, in_memory) -> mmm_rs.Files:
        return mmm_rs.FsspecFiles(in_memory, {})


class TestPlainFilesOnTheWeb(FilesContract):
    @pytest.fixture
    def files(self, on_the_web) -> mmm_rs.Files:
        return mmm_rs.FsspecFiles(on_the_web, {})


class TestPlainFilesOnTheHub(FilesContract):
    @pytest.fixture
    def files(self, on_the_hub) -> mmm_rs.Files:
        return mmm_rs.FsspecFiles(f"hf://datasets/{REPO}", on_the_hub)


class TestRemoteFilesInMemory(FilesContract):
    @pytest.fixture
    def files(self, in_memory) -> mmm_rs.Files:
        return mmm_rs.open_files(in_memory)


class TestRemoteFilesOnTheWeb(FilesContract):
    @pytest.fixture
    def files(self, on_the_web) -> mmm_rs.Files:
        return mmm_rs.open_files(on_the_web)


class TestRemoteFilesOnTheHub(FilesContract):
    @pytest.fixture
    def files(self, on_the_hub) -> mmm_rs.Files:
        return mmm_rs.open_files(f"hf://datasets/{REPO}", on_the_hub)


def test_the_package_s_files_are_found_and_are_others_than_the_plain_ones(in_memory):
    assert isinstance(mmm_rs.open_files(in_memory), files.RemoteFiles)


def test_the_images_of_a_table_are_one_request(folder):
    size, text = 70_000, 3_000
    count = mmm_rs.BATCH_BYTES // size
    offsets = np.arange(count) * (size + text)
    buffers = [bytearray(size) for _ in range(count)]
    with Server(folder) as server:
        remote = mmm_rs.open_files(server.url)
        remote.size(NAME)
        server.log.clear()
        ranges = ByteRanges.of(offsets, np.full(count, size), [memoryview(buffer) for buffer in buffers])
        assert not remote.begin(NAME, ranges).result()
        assert len(server.log) == 1
    assert buffers == [DATA[offset : offset + size] for offset in offsets.tolist()]


# ------------------------------------------------------------------------------------------------- mmm_rs.py by itself


@pytest.fixture(scope="module")
def subsets(tmp_path_factory) -> Path:
    converted.write(out := tmp_path_factory.mktemp("subsets") / "MMM-RS")
    return out


@pytest.fixture
def alone(monkeypatch):
    """As if no package announced anything."""
    monkeypatch.setattr(mmm_rs, "_announced", lambda group: iter(()))


def test_alone_it_reads_a_remote_folder(subsets, alone):
    with Server(subsets) as server:
        assert list(load(server.url, "SEN1-2", decode=False)) == stored(subsets, "SEN1-2")
        for config in HAVING:
            assert sorted(keys(load(server.url, config))) == sorted(keys(stored(subsets, config)))


@pytest.mark.parametrize("lie", ["whole", "another range that it calls the right one"])
def test_alone_it_believes_no_lie(subsets, alone, lie):
    with Server(subsets) as server:
        server.fail(lie, ".tar", times=1000)
        with pytest.raises(mmm_rs.ReadError, match=r"this server ignores range requests|its CRC is not"):
            list(load(server.url, "SEN1-2", decode=False))


def test_alone_it_says_what_reads_a_release(tmp_path, alone):
    with pytest.raises(mmm_rs.ReadError, match=r"no manifest\.json there\. .*install the package mmm-rs"):
        load(tmp_path)


def test_a_package_that_cannot_be_loaded_is_no_hindrance(subsets, monkeypatch, caplog):
    broken = [mmm_rs.importlib.metadata.EntryPoint("broken", "nothing_of_this_name:open_files", "mmm_rs.files")]
    monkeypatch.setattr(mmm_rs.importlib.metadata, "entry_points", lambda group: broken)
    with Server(subsets) as server:
        assert isinstance(mmm_rs.open_files(server.url), mmm_rs.FsspecFiles)


# ---------------------------------------------------------------------------------- what `datasets` keeps private


CHANGES: dict[str, Callable] = {
    "a class is gone": lambda patch: patch.delattr("datasets.iterable_dataset.ExamplesIterable"),
    "the module is gone": lambda patch: patch.setattr(mmm_rs, "_private", None),
    "a source needs something new": lambda patch: patch.setattr(
        "datasets.iterable_dataset.ArrowExamplesIterable.something_new", property(int), raising=False
    ),
    "a source is made otherwise": lambda patch: patch.setattr(mmm_rs, "PieceExamples", lambda builder: None),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_datasets_that_changed_is_read_the_public_way_with_one_warning(subsets, monkeypatch, change):
    warnings: list[str] = []
    monkeypatch.setattr(mmm_rs, "_warned", [])
    monkeypatch.setattr(mmm_rs.logger, "warning", warnings.append)
    CHANGES[change](monkeypatch)
    for _ in range(2):
        assert list(load(subsets, "SEN1-2", decode=False)) == stored(subsets, "SEN1-2")
    decoded = [opened(row) for row in load(subsets, "SEN1-2")]
    assert decoded == [opened(row) for row in stored(subsets, "SEN1-2")]
    stream = load(subsets, "SEN1-2", decode=False)
    assert type(stream._ex_iterable) is datasets.iterable_dataset.ArrowExamplesIterable
    next(iter(stream))
    again = load(subsets, "SEN1-2", decode=False)
    again.load_state_dict(stream.state_dict())
    assert list(again) == stored(subsets, "SEN1-2")[1:]
    assert len(warnings) == 1 and "streaming is slower, the rows are the same" in warnings[0]


@pytest.mark.parametrize("gone", ["_BaseExamplesIterable", "the module"])
def test_importing_never_fails_because_of_private_parts(subsets, gone):
    program = f"""
import sys, datasets, datasets.iterable_dataset as private
if {gone!r} == "the module":
    sys.modules["datasets.iterable_dataset"] = None
else:
    del private._BaseExamplesIterable
import mmm_rs
rows = list(mmm_rs.load_dataset("SEN1-2", {str(subsets)!r}, streaming=True, decode=False))
print(len(rows), len(mmm_rs.SUBSETS))
"""
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert run.stdout.split() == ["5", "10"], run.stderr
    assert run.stderr.count("streaming is slower") == 1
