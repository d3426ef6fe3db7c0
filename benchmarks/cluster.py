"""Many processes on one node, and several epochs: what that costs the hub, and how fast it is.

    python benchmarks/cluster.py --images 6400

Makes a synthetic release of small JPEGs, converts it, and serves it on loopback as a hub that answers after 60 ms and,
as the real one, refuses what comes after 3,000 requests in 5 minutes. For 1, 4, 16 and 64 reader processes, each an
interpreter of its own that shares nothing with the others but the disk: all import first, open the dataset at the same
moment, and read their shares of it. Each count of processes begins with empty caches. With `--node-cache` they read a
second epoch, which a cache on the node then holds. `webshart` reads from the real hub's address alone, so it goes
through a proxy that is the hub itself, encrypted.

MosaicML Streaming and litdata read formats of their own, and always keep a cache. The same samples are converted for
them: by `MDSWriter`, and as `mmm-rs export --to parquet` does. They are not installed with the package:

    pip install mosaicml-streaming litdata
    python benchmarks/cluster.py --images 1600 --contenders mosaicml litdata --processes 1 4 16
"""

from __future__ import annotations

import argparse
import importlib
import io
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from inputs import converted, pictures
from line import REPO, Line, Speed, free_port
from network import certificate, served

SUBSET = "fMoW"
HUB = f"hf://datasets/{REPO}"
SAYS = "reader:"  # what a line of a reader begins with
COLUMNS = ("resolve", "api", "refused", "web")


def mmm_rs_rows(number: int, count: int, cache: str | None) -> Callable[[], Iterator[Any]]:
    import mmm_rs

    rows = mmm_rs.load_dataset(SUBSET, HUB, streaming=True, decode=False, local_cache=cache)
    return lambda: iter(rows.shard(count, number))


def datasets_rows(number: int, count: int, cache: str | None) -> Callable[[], Iterator[Any]]:
    import datasets.distributed

    rows = datasets.load_dataset(REPO, SUBSET, split="train", streaming=True)
    share = datasets.distributed.split_dataset_by_node(
        rows.cast_column("jpg", datasets.Image(decode=False)), number, count
    )
    return lambda: iter(share)


def webshart_rows(number: int, count: int, cache: str | None) -> Callable[[], Iterator[Any]]:
    import webshart

    dataset = webshart.discover_dataset(REPO, subfolder=f"data/{SUBSET}")
    indexes = sorted(Path(os.environ["SERVED"], "data", SUBSET).glob("*.json"))
    places = [
        (shard, place)
        for shard, path in enumerate(indexes)
        if shard % count == number
        for place, name in enumerate(json.loads(path.read_text())["files"])
        if name.endswith(".jpg")
    ]

    def rows() -> Iterator[Any]:
        for start in range(0, len(places), 64):
            images = webshart.read_files_batch(dataset, places[start : start + 64])
            yield from (image for image in images if image is not None)

    return rows


def mosaicml_rows(number: int, count: int, cache: str | None) -> Callable[[], Iterator[Any]]:
    from streaming import StreamingDataset

    rows = StreamingDataset(remote=f"{HUB}/{SUBSET}", local=cache, shuffle=False, batch_size=64)
    return lambda: iter(rows)


def litdata_rows(number: int, count: int, cache: str | None) -> Callable[[], Iterator[Any]]:
    from litdata import StreamingDataset
    from litdata.streaming.item_loader import ParquetLoader

    rows = StreamingDataset(f"{HUB}/data", cache_dir=cache, item_loader=ParquetLoader(), shuffle=False)
    return lambda: iter(rows)


def join_ranks(number: int, count: int, module: str) -> None:
    """Import what takes its share from torch's ranks."""
    import torch.distributed

    ranks = {"RANK": number, "WORLD_SIZE": count, "LOCAL_RANK": number, "LOCAL_WORLD_SIZE": count}
    os.environ.update({name: str(value) for name, value in ranks.items()})
    if count > 1:
        torch.distributed.init_process_group("gloo")
    importlib.import_module(module)


CONTENDERS = {
    "mmm_rs": mmm_rs_rows,
    "datasets": datasets_rows,
    "webshart": webshart_rows,
    "mosaicml": mosaicml_rows,
    "litdata": litdata_rows,
}


def as_mds(out: Path, folder: Path) -> Path:
    """The same samples in as many shards as MosaicML Streaming reads them."""
    from streaming import MDSWriter

    import mmm_rs

    rows = list(mmm_rs.load_dataset(SUBSET, out, streaming=True, decode=False))
    columns = {"key": "str", "jpg": "bytes", "prompt": "str"}
    size = sum(len(row["rgb"]["bytes"]) for row in rows) // len(list(out.rglob("*.tar")))
    with MDSWriter(out=str(folder / SUBSET), columns=columns, size_limit=size) as writer:
        for row in rows:
            writer.write({"key": row["key"], "jpg": row["rgb"]["bytes"], "prompt": row["prompt"]})
    return folder


def as_parquet(out: Path, folder: Path) -> Path:
    """The same samples as Parquet, which litdata reads, in as many files."""
    from conversion.exports.job import export

    export(out, folder, to="parquet")
    return folder


# Those that do not read the shards: what is served to them, and what they import. They always keep a cache.
CONVERSIONS = {"mosaicml": as_mds, "litdata": as_parquet}
MODULES = {"mosaicml": "streaming", "litdata": "litdata"}


def read(name: str, number: int, count: int, cache: str | None, epochs: int) -> None:
    """One reader: imports, says so, and reads its share each time it is told to."""
    import datasets

    import mmm_rs  # noqa: F401

    datasets.disable_progress_bars()
    if name in MODULES:
        join_ranks(number, count, MODULES[name])
    share = None
    for _ in range(epochs):
        print(SAYS, "ready", flush=True)
        sys.stdin.readline()
        share = share or CONTENDERS[name](number, count, cache)
        print(SAYS, sum(1 for _ in share()), flush=True)
    os._exit(0)  # threads of others may still be at work


def measure(
    name: str, count: int, line: Line, cache: str | None, environment: dict[str, str]
) -> list[dict[str, float]]:
    """What each epoch took."""
    epochs = 2 if cache else 1
    words = [sys.executable, __file__, "--read", name, "--count", str(count), "--epochs", str(epochs)]
    words += ["--cache", cache] if cache else []
    readers = [
        subprocess.Popen(
            [*words, "--number", str(number)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | environment,
        )
        for number in range(count)
    ]
    results = []
    line.counts()
    for epoch in range(epochs):
        for reader in readers:
            answer(reader)
        start = time.perf_counter()
        for reader in readers:
            reader.stdin.write("go\n")  # type: ignore[union-attr]
            reader.stdin.flush()  # type: ignore[union-attr]
        rows = sum(int(answer(reader)) for reader in readers)
        seconds = time.perf_counter() - start
        counts = line.counts()
        results.append({"epoch": epoch + 1, "rows": rows, "rate": rows / seconds, **counts})
        print(
            f"  {name}, {count} processes, epoch {epoch + 1}: {rows / seconds:,.0f} rows/s", file=sys.stderr, flush=True
        )
    for reader in readers:
        reader.wait()
    return results


def answer(reader: subprocess.Popen[str]) -> str:
    for line in reader.stdout:  # type: ignore[union-attr]
        if line.startswith(SAYS):  # libraries write there too
            return line.removeprefix(SAYS).strip()
    raise SystemExit(f"a reader ended with {reader.wait()}")


def table(results: list[tuple[str, int, dict[str, float]]]) -> str:
    text = io.StringIO()
    print("| | processes | epoch | resolve | other API | refused (429) | to the CDN | MB | rows/s |", file=text)
    print("|---|---|---|---|---|---|---|---|---|", file=text)
    for name, count, result in results:
        numbers = " | ".join(f"{result.get(column, 0):,.0f}" for column in COLUMNS)
        print(
            f"| {name} | {count} | {result['epoch']} | {numbers} | {result.get('bytes', 0) / 1e6:,.0f} "
            f"| {result['rate']:,.0f} |",
            file=text,
        )
    return text.getvalue()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=6400)
    parser.add_argument("--processes", type=int, nargs="+", default=[1, 4, 16, 64])
    installed = [name for name in CONTENDERS if name not in CONVERSIONS]
    parser.add_argument("--contenders", nargs="+", choices=CONTENDERS, default=installed)
    parser.add_argument("--node-cache", action="store_true", help="also with a cache on the node, for two epochs")
    parser.add_argument("--folder", type=Path, help="where input and output go (default: a temporary folder)")
    for name in ("--read", "--cache"):  # of a reader
        parser.add_argument(name, help=argparse.SUPPRESS)
    for name in ("--number", "--count", "--epochs"):
        parser.add_argument(name, type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.read:
        read(arguments.read, arguments.number, arguments.count, arguments.cache, arguments.epochs)
        return
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        print(table(list(benchmark(Path(folder), arguments))))


def benchmark(folder: Path, arguments: argparse.Namespace) -> Iterator[tuple[str, int, dict[str, float]]]:
    converted_folder = converted(folder, arguments.images, pictures(256, 15_000))
    shards = served(converted_folder, folder / "served")  # with the indexes that webshart wants beside the shards
    paths = certificate(folder)
    for name in arguments.contenders:
        out, caches = shards, [False]
        if name in CONVERSIONS:
            out, caches = CONVERSIONS[name](converted_folder, folder / name), [True]
        elif name == "mmm_rs" and arguments.node_cache:
            caches = [False, True]
        for with_cache in caches:
            for count in arguments.processes:
                with tempfile.TemporaryDirectory(dir=folder) as home, Line(out, Speed(), paths) as line:
                    environment = {
                        "HF_ENDPOINT": line.hub,
                        "HF_HOME": home,
                        "HOME": home,  # where litdata keeps what it knows of Parquet files
                        "MASTER_ADDR": "127.0.0.1",
                        "MASTER_PORT": str(free_port()),
                        "HF_HUB_DISABLE_TELEMETRY": "1",
                        "SERVED": str(out),
                        "HF_UPDATE_DOWNLOAD_COUNTS": "0",
                        "USE_TORCH": "NO",  # which `datasets` imports otherwise, into each process
                    }
                    if name == "webshart":  # which knows the real hub's address only
                        environment |= {"HTTPS_PROXY": line.proxy, "https_proxy": line.proxy, "SSL_CERT_FILE": paths[0]}
                    cache = str(Path(home, "shards")) if with_cache else None
                    for result in measure(name, count, line, cache, environment):
                        yield f"{name}, cache on the node" if cache else name, count, result


if __name__ == "__main__":
    main()
