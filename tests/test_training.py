"""Training with PyTorch: every sample once, whatever the number of workers and nodes; on exactly where it stopped."""

from __future__ import annotations

import tarfile
from collections import Counter
from pathlib import Path
from typing import Any

import datasets
import fsspec
import numpy as np
import pyarrow.parquet as pq
import pytest
from datasets.distributed import split_dataset_by_node

import mmm_rs
from tests import releases
from tests.conversions import convert

torch = pytest.importorskip("torch")
from torch.utils.data import DataLoader  # noqa: E402

COUNT = 203  # samples, a number that no number of nodes divides


@pytest.fixture(scope="module")
def out(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("training")
    convert(releases.zips_stored([releases.many("fMoW", COUNT)], folder / "release"), folder / "MMM-RS")
    return folder / "MMM-RS"


@pytest.fixture(scope="module")
def keys(out) -> list[str]:
    """The keys in the order of the shards, as `tarfile` reads them."""
    sample_keys = []
    for shard in sorted((out / "data" / "fMoW").iterdir()):
        with tarfile.open(shard, "r:") as tar:
            sample_keys += [name.partition(".")[0] for name in tar.getnames() if name.endswith(".jpg")]
    return sample_keys


def builder(out: Path, **options: Any) -> datasets.IterableDataset:
    return mmm_rs.load_dataset("fMoW", str(out), split="train", streaming=True, **options)


def without_code(out: Path) -> datasets.IterableDataset:
    return datasets.load_dataset(str(out), "fMoW", split="train", streaming=True)


def keys_of(rows: list[dict[str, Any]]) -> list[str]:
    """The collate function of these tests."""
    return [row.get("key") or row["__key__"] for row in rows]


def read(dataset: Any, workers: int = 0, batch: int = 8) -> list[str]:
    loader = DataLoader(dataset, batch_size=batch, num_workers=workers, collate_fn=keys_of)
    return [key for keys in loader for key in keys]


def each_once(seen: list[str], keys: list[str]) -> bool:
    return Counter(seen) == dict.fromkeys(keys, 1)


# ---------------------------------------------------------------------------------------------------- workers and nodes


@pytest.mark.parametrize("workers", [0, 2, 4])
@pytest.mark.parametrize("load", [builder, without_code])
def test_a_dataloader_reads_each_sample_once(out, keys, load, workers):
    seen = read(load(out), workers)
    assert each_once(seen, keys)
    if workers == 0:
        assert seen == keys


def test_so_does_one_whose_workers_start_with_nothing(out, keys):
    """As they do on macOS and Windows, and by default from Python 3.14 on: the dataset is pickled for them."""
    loader = DataLoader(builder(out), batch_size=8, num_workers=2, collate_fn=keys_of, multiprocessing_context="spawn")
    assert each_once([key for batch in loader for key in batch], keys)


@pytest.mark.parametrize("workers", [0, 2])
def test_so_does_one_over_a_dataset_on_disk(out, keys, workers):
    dataset = mmm_rs.load_dataset("fMoW", str(out), split="train")
    loader = DataLoader(dataset, batch_size=8, shuffle=True, num_workers=workers, collate_fn=keys_of)
    assert each_once([key for batch in loader for key in batch], keys)


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("nodes", [2, 4, 8])
def test_nodes_share_evenly_and_read_each_sample_once(out, keys, nodes, workers):
    shares = [read(split_dataset_by_node(builder(out), rank, nodes), workers) for rank in range(nodes)]
    assert each_once([key for share in shares for key in share], keys)
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


@pytest.mark.parametrize("nodes", [2, 4, 8])
def test_nodes_share_what_a_filter_leaves(out, keys, nodes):
    contains = "airport 1"
    chosen = [row["key"] for row in builder(out, contains=contains)]
    shares = [read(split_dataset_by_node(builder(out, contains=contains), rank, nodes)) for rank in range(nodes)]
    assert each_once([key for share in shares for key in share], chosen) and 0 < len(chosen) < len(keys)
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


def test_nodes_share_a_shuffled_epoch(out, keys):
    """Each node shuffles by the same seed and epoch, so that their shares are of one order."""
    for epoch in range(2):
        shares = []
        for rank in range(4):
            dataset = split_dataset_by_node(builder(out).shuffle(seed=3, buffer_size=20), rank, 4)
            dataset.set_epoch(epoch)
            shares.append(read(dataset, workers=2))
        assert each_once([key for share in shares for key in share], keys)


# -------------------------------------------------------------------------------------------------------------- epochs


@pytest.mark.parametrize("workers", [0, 2])
def test_set_epoch_gives_another_order_of_the_same_samples(out, keys, workers):
    dataset = builder(out).shuffle(seed=0, buffer_size=20)
    orders = []
    for epoch in (0, 1, 0):
        dataset.set_epoch(epoch)
        orders.append(read(dataset, workers))
    assert all(each_once(order, keys) for order in orders)
    assert orders[0] != orders[1] and orders[0] == orders[2] and keys not in orders


# -------------------------------------------------------------------------------------------------------------- resume


@pytest.mark.parametrize("seen", [0, 1, 12, 13, 100, COUNT - 1, COUNT])
@pytest.mark.parametrize("nodes", [1, 2])
def test_a_stream_goes_on_exactly_where_it_stopped(out, seen, nodes):
    def begin() -> datasets.IterableDataset:
        return split_dataset_by_node(builder(out), nodes - 1, nodes)

    whole = [row["key"] for row in begin()]
    seen = min(seen, len(whole))
    dataset = begin()
    rows = iter(dataset)
    first = [next(rows)["key"] for _ in range(seen)]
    state = dataset.state_dict()

    later = begin()
    later.load_state_dict(state)
    assert first + [row["key"] for row in later] == whole


@pytest.fixture
def counted(out, monkeypatch) -> tuple[str, list[list[int]]]:
    """The folder on a file system in memory, and the bytes of each answer from a shard, in the last of several lists
    when it was asked for."""
    filesystem = fsspec.filesystem("memory")
    filesystem.put(str(out), "/counted", recursive=True)
    answers: list[list[int]] = [[]]
    whole = type(filesystem).cat_file

    def cat_file(self: Any, path: str, *arguments: Any, **options: Any) -> bytes:
        now = answers[-1]
        data = whole(self, path, *arguments, **options)
        if path.endswith(".tar"):
            now.append(len(data))
        return data

    monkeypatch.setattr(type(filesystem), "cat_file", cat_file)
    yield "memory://counted", answers
    filesystem.rm("/counted", recursive=True)


@pytest.mark.parametrize("decode", [False, True])
@pytest.mark.parametrize("seen", [1, 50, 101, 202])
def test_nothing_that_was_seen_is_read_again(out, counted, seen, decode):
    """Reading on takes the images that were not seen and what stands between two of them, and nothing before."""
    if decode and not mmm_rs._may_decode():
        pytest.skip("this version of datasets decodes the rows of a table itself, and reads that table again")
    url, answers = counted
    dataset = mmm_rs.load_dataset("fMoW", url, streaming=True, decode=decode)
    rows = iter(dataset)
    for _ in range(seen):
        next(rows)
    state = dataset.state_dict()
    rows.close()

    later = mmm_rs.load_dataset("fMoW", url, streaming=True, decode=decode)
    later.load_state_dict(state)
    answers.append([])  # what the first stream had begun to read ahead may still come
    assert len(list(later)) == COUNT - seen
    left = pq.read_table(out / "index" / "fMoW.parquet", columns=["rgb_size"])["rgb_size"].to_pylist()[seen:]
    between = 3072  # bytes at the most: the texts of a sample, their headers and padding
    assert sum(left) <= sum(answers[-1]) <= sum(left) + between * (len(left) - 1)


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("seen", [1, 5, 20])
def test_a_stateful_dataloader_goes_on_exactly_where_it_stopped(out, keys, workers, seen):
    loaders = pytest.importorskip("torchdata.stateful_dataloader")

    def begin() -> Any:
        return loaders.StatefulDataLoader(builder(out), batch_size=8, num_workers=workers, collate_fn=keys_of)

    whole = list(begin())
    loader = begin()
    batches = iter(loader)
    first = [next(batches) for _ in range(seen)]
    state = loader.state_dict()

    later = begin()
    later.load_state_dict(state)
    assert first + list(later) == whole
    assert each_once([key for batch in whole for key in batch], keys)


# ------------------------------------------------------------------------------------------------------------ training


def test_images_come_as_tensors(out):
    rows = DataLoader(builder(out).select_columns(["rgb", "gsd_level"]).with_format("torch"), batch_size=8)
    batch = next(iter(rows))
    assert batch["rgb"].shape == (8, 3, 32, 32) and batch["rgb"].dtype == torch.uint8
    assert batch["gsd_level"].tolist() == [1] * 8  # high


def to_pixel_values(row: dict[str, Any]) -> dict[str, Any]:
    array = np.asarray(row["rgb"].convert("RGB"), dtype=np.float32)
    return {"pixel_values": array.transpose(2, 0, 1) / 127.5 - 1}


def collate(rows: list[dict[str, Any]]) -> tuple[Any, list[str]]:
    return torch.stack([torch.as_tensor(np.asarray(row["pixel_values"])) for row in rows]), [
        row["prompt"] for row in rows
    ]


@pytest.mark.parametrize("workers", [0, 2])
def test_a_small_training_runs_and_learns(out, workers):
    torch.manual_seed(0)
    torch.set_num_threads(1)
    dataset = builder(out).shuffle(seed=0, buffer_size=50).map(to_pixel_values, remove_columns=["rgb"])
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3072, 32), torch.nn.Linear(32, 3072))
    optimizer = torch.optim.Adam(model.parameters(), 1e-3)
    losses = []
    for epoch in range(3):
        dataset.set_epoch(epoch)
        total = 0.0
        for images, prompts in DataLoader(dataset, batch_size=16, num_workers=workers, collate_fn=collate):
            assert images.shape[1:] == (3, 32, 32) and len(prompts) == len(images)
            loss = torch.nn.functional.mse_loss(model(images), images.flatten(1))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            total += loss.item() * len(images)
        losses.append(total / COUNT)
    assert losses[2] < losses[1] < losses[0]
