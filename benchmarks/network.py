"""Reading over a long line measured against `datasets`, `webdataset` and `webshart`, as shares of what it carries.

    python benchmarks/network.py --images 8000

Makes a synthetic release of 512 px JPEGs of about 70 kB, converts it, and serves it on loopback as a hub at the other
side of an ocean would: 60 ms before each answer, 20 MB/s per connection, 120 MB/s in all. Each contender is a process
of its own; imports are not measured. The rate counts from the first row on. Rounds are interleaved, medians printed.

`webshart` reads from the real hub's address alone. So it, and beside it our own reader for comparison, go through a
proxy that is the hub itself, with a certificate of its own: the bytes are encrypted, which costs both processor time.
"""

from __future__ import annotations

import argparse
import functools
import io
import itertools
import json
import os
import statistics
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from clock import memory
from inputs import converted, pictures
from line import REPO, Line, Speed

SUBSET = "fMoW"
HUB = f"hf://datasets/{REPO}"


def builder(shuffle: bool = False, **options: Any) -> Any:
    import mmm_rs

    rows = mmm_rs.load_dataset(SUBSET, HUB, streaming=True, **{"decode": False, **options})
    return rows.shuffle(seed=1, buffer_size=1000) if shuffle else rows


def our_tables(place: Place) -> Iterator[int]:
    for table in builder().with_format("arrow").iter(batch_size=64):
        yield table.num_rows


def our_rows(place: Place) -> Iterator[int]:
    yield from (bool(row["rgb"]["bytes"]) for row in builder())


def our_shuffled(place: Place) -> Iterator[int]:
    yield from (bool(row["rgb"]["bytes"]) for row in builder(shuffle=True))


def our_decoded(place: Place) -> Iterator[int]:
    yield from (bool(row["rgb"].convert("RGB")) for row in builder(decode=True))


def pillow_alone(place: Place) -> Iterator[int]:
    """The decoder without a line: the same images in the same order from the disk. Pillow uses an image's memory again,
    as it does for `mmm_rs`."""
    from PIL import Image

    Image.core.set_blocks_max(4)
    for name in place.shards:
        with tarfile.open(Path(place.out, name)) as tar:
            for member in tar:
                if member.name.endswith(".jpg"):
                    data = tar.extractfile(member).read()  # type: ignore[union-attr]
                    yield bool(Image.open(io.BytesIO(data)).convert("RGB"))


def our_sparse(place: Place) -> Iterator[int]:
    yield from (bool(row["rgb"]["bytes"]) for row in builder(filters=("key", "in", place.chosen)))


def no_code(place: Place) -> Any:
    import datasets

    import mmm_rs

    urls = [f"{place.web}/{name}" for name in place.shards]
    rows = datasets.load_dataset(
        "webdataset", data_files=urls, split="train", streaming=True, features=mmm_rs.wds_features(SUBSET)
    )
    return rows.cast_column("jpg", datasets.Image(decode=False))


def datasets_rows(place: Place) -> Iterator[int]:
    yield from (bool(row["jpg"]["bytes"]) for row in no_code(place))


def datasets_shuffled(place: Place) -> Iterator[int]:
    yield from (bool(row["jpg"]["bytes"]) for row in no_code(place).shuffle(seed=1, buffer_size=1000))


def webdataset_rows(place: Place) -> Iterator[int]:
    import webdataset

    pipes = [f"pipe:curl -s {place.web}/{name}" for name in place.shards]
    yield from (bool(row["jpg"]) for row in webdataset.WebDataset(pipes, shardshuffle=False))


def webshart_sparse(place: Place) -> Iterator[int]:
    import webshart

    dataset = webshart.discover_dataset(REPO, subfolder=f"data/{SUBSET}")
    for start in range(0, len(place.places), 64):
        images = webshart.read_files_batch(dataset, place.places[start : start + 64])
        yield sum(image is not None and image[:2] == b"\xff\xd8" for image in images)


CONTENDERS: dict[str, Callable[[Place], Iterator[int]]] = {
    "rows, mmm_rs": our_rows,
    "rows, datasets": datasets_rows,
    "rows, webdataset": webdataset_rows,
    "Arrow batches, mmm_rs": our_tables,
    "shuffled rows, mmm_rs": our_shuffled,
    "shuffled rows, datasets": datasets_shuffled,
    "decoded rows, mmm_rs": our_decoded,
    "decoded by Pillow alone, no line": pillow_alone,
    "1 %, mmm_rs": our_sparse,
}
BY_PROXY: dict[str, Callable[[Place], Iterator[int]]] = {
    "1 %, mmm_rs, encrypted": our_sparse,
    "1 %, webshart, encrypted": webshart_sparse,
}


class Place:
    """What a contender has to know."""

    def __init__(self, web: str, out: str, share: int) -> None:
        import pyarrow.parquet as pq

        self.web, self.out = web, out
        index = pq.read_table(Path(out, "index", f"{SUBSET}.parquet"), columns=["key", "shard"])
        self.shards = list(dict.fromkeys(index["shard"].to_pylist()))
        rows = list(zip(index["key"].to_pylist(), index["shard"].to_pylist(), strict=True))
        self.chosen = [key for key, _ in rows[::share]]
        self.places = [
            (self.shards.index(shard), _members(Path(out, shard).with_suffix(".json"))[f"{key}.jpg"])
            for key, shard in rows[::share]
        ]


@functools.cache
def _members(path: Path) -> dict[str, int]:
    """Positions by name in webshart's index of a shard."""
    return {name: number for number, name in enumerate(json.loads(path.read_text())["files"])}


def served(out: Path, folder: Path) -> Path:
    """The dataset, and beside each shard the index that webshart wants: offset and length of each member."""
    for path in out.rglob("*"):
        if path.is_file():
            place = folder / path.relative_to(out)
            place.parent.mkdir(parents=True, exist_ok=True)
            place.symlink_to(path)
    for path in sorted((folder / "data" / SUBSET).glob("*.tar")):
        with tarfile.open(path) as tar:
            files = {member.name: {"offset": member.offset_data, "length": member.size} for member in tar}
        text = json.dumps({"path": path.name, "filesize": path.stat().st_size, "hash": "", "files": files})
        path.with_suffix(".json").write_text(text)
    return folder


def read(name: str, web: str, out: str, most: int, share: int) -> None:
    """One contender in a process of its own; prints what it measured."""
    import datasets
    import torch  # noqa: F401  which `datasets` imports when it streams
    import webdataset  # noqa: F401

    import mmm_rs  # noqa: F401

    datasets.disable_progress_bars()
    place, before, peak, rows = Place(web, out, share), memory(os.getpid()), 0, 0
    start, first = time.perf_counter(), None
    looked = start
    for count in {**CONTENDERS, **BY_PROXY}[name](place):
        rows += count
        now = time.perf_counter()
        if first is None:
            first, counted = now, rows
        if now - looked > 0.2:
            peak, looked = max(peak, memory(os.getpid())), now
        if rows >= most:
            break
    seconds = time.perf_counter() - (first or start)
    rate = (rows - counted) / seconds if seconds else 0
    print(json.dumps({"rows": rows, "rate": rate, "first": first - start, "memory": max(0, peak - before)}))  # type: ignore
    sys.stdout.flush()
    os._exit(0)  # threads of others may still be at work


def run(name: str, line: Line, environment: dict[str, str], arguments: argparse.Namespace, out: Path) -> dict[str, Any]:
    line.counts()
    words = [sys.executable, __file__, "--read", name, "--web", line.web, "--out", str(out)]
    words += ["--rows", str(arguments.rows), "--share", str(arguments.share)]
    done = subprocess.run(words, env=os.environ | environment, capture_output=True, text=True)
    if done.returncode or not done.stdout.strip():
        raise SystemExit(f"{name}: {done.stderr[-2000:]}")
    result = json.loads(done.stdout.splitlines()[-1])
    print(f"  {name}: {result['rate']:,.0f} rows/s", file=sys.stderr, flush=True)
    return {**result, **{"hub": 0, "web": 0, "bytes": 0, **line.counts()}}


def certificate(folder: Path) -> tuple[str, str]:
    """A certificate of this benchmark for the hub's names, and its key."""
    paths = str(folder / "certificate.pem"), str(folder / "key.pem")
    names = "subjectAltName=DNS:huggingface.co,DNS:cdn.example"
    words = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=huggingface.co"]
    subprocess.run([*words, "-addext", names, "-out", paths[0], "-keyout", paths[1]], check=True, capture_output=True)
    return paths


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=8000)
    parser.add_argument("--rows", type=int, default=3000, help="that a round reads")
    parser.add_argument("--share", type=int, default=100, help="of how many images the sparse readers read one")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", help="contenders whose name contains this")
    parser.add_argument("--folder", type=Path, help="where input and output go (default: a temporary folder)")
    parser.add_argument("--out", help="a converted dataset that is there already")
    parser.add_argument("--read", help=argparse.SUPPRESS)  # one contender, in its own process
    parser.add_argument("--web", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.read:
        read(arguments.read, arguments.web, arguments.out, arguments.rows, arguments.share)
        return
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        benchmark(Path(folder), arguments)


def benchmark(folder: Path, arguments: argparse.Namespace) -> None:
    out = Path(arguments.out or converted(folder, arguments.images, pictures(512, 70_000))).absolute()
    totals = json.loads((out / "manifest.json").read_text())["subsets"][SUBSET]
    out = served(out, folder / "served")
    paths = certificate(folder)
    with Line(out, Speed(), paths) as line:
        carried = line.speed.line / (totals["bytes"] / totals["samples"])
        plain = {"HF_ENDPOINT": line.hub, "HF_HUB_DISABLE_TELEMETRY": "1", "HF_UPDATE_DOWNLOAD_COUNTS": "0"}
        proxied = {
            "HTTPS_PROXY": line.proxy,
            "https_proxy": line.proxy,
            "SSL_CERT_FILE": paths[0],
            "REQUESTS_CA_BUNDLE": paths[0],
        }
        chosen = {
            name: environment
            for names, environment in ((CONTENDERS, plain), (BY_PROXY, proxied))
            for name in names
            if not arguments.only or arguments.only in name
        }
        rounds: dict[str, list[dict[str, Any]]] = {name: [] for name in chosen}
        for _, (name, environment) in itertools.product(range(arguments.rounds), chosen.items()):
            with tempfile.TemporaryDirectory(dir=folder) as home:
                rounds[name].append(run(name, line, environment | {"HF_HOME": home}, arguments, out))
    medians = {
        name: {field: statistics.median(result[field] for result in results) for field in results[0]}
        for name, results in rounds.items()
    }
    print(table(medians, carried, totals["samples"]))


def table(medians: dict[str, dict[str, float]], carried: float, images: int) -> str:
    text = io.StringIO()
    print(f"\n{images:,} images of about 70 kB; the line carries {carried:,.0f} rows/s\n", file=text)
    print("| | rows/s | of the line | first row, s | requests to the hub | to the CDN | MB | memory, MB |", file=text)
    print("|---|---|---|---|---|---|---|---|", file=text)
    for name, m in medians.items():
        print(
            f"| {name} | {m['rate']:,.0f} | {m['rate'] / carried:.0%} | {m['first']:.2f} "
            f"| {m['hub']:.0f} | {m['web']:.0f} | {m['bytes'] / 1e6:.0f} | {m['memory'] / 1e6:.0f} |",
            file=text,
        )
    return text.getvalue()


if __name__ == "__main__":
    main()
