"""Reading measured against `datasets`' webdataset builder, the `webdataset` library and Pillow, as ratios in one run.

    python benchmarks/read.py --images 20000

Makes a synthetic release of 512 px JPEGs of about 70 kB, converts it and reads the shards. Each contender is a process
of its own that tells the seconds of the reading (opening included, imports not) and its memory; rounds are interleaved,
medians printed, the page cache is warm. Decoding takes a share of the images: it levels all readers.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import itertools
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from clock import compare, memory
from inputs import converted, pictures

SUBSET = "fMoW"
DECODED = 4_000  # images of a round that decodes


def builder(out: str, **options: Any) -> Any:
    import mmm_rs

    return mmm_rs.load_dataset(SUBSET, out, split="train", streaming=True, **options)


def no_code(out: str) -> Any:
    import datasets

    return datasets.load_dataset(out, SUBSET, split="train", streaming=True)


def builder_tables(out: str) -> Iterator[int]:
    for table in builder(out, decode=False).with_format("arrow").iter(batch_size=64):
        yield table.num_rows


def builder_rows(out: str) -> Iterator[int]:
    for row in builder(out, decode=False):
        yield bool(row["rgb"]["bytes"])


def datasets_rows(out: str) -> Iterator[int]:
    import datasets

    for row in no_code(out).cast_column("jpg", datasets.Image(decode=False)):
        yield bool(row["jpg"]["bytes"])


def webdataset_rows(out: str) -> Iterator[int]:
    import webdataset

    tars = sorted(map(str, Path(out, "data", SUBSET).glob("*.tar")))
    for row in webdataset.WebDataset(tars, shardshuffle=False):
        yield bool(row["jpg"])


def builder_decoded(out: str) -> Iterator[int]:
    for row in itertools.islice(builder(out), DECODED):
        yield bool(row["rgb"].convert("RGB"))


def datasets_decoded(out: str) -> Iterator[int]:
    for row in itertools.islice(no_code(out), DECODED):
        yield bool(row["jpg"].convert("RGB"))


def pillow(out: str) -> Iterator[int]:
    """The bare decoding of the same bytes, which are in memory already. Pillow uses an image's memory again, as it does
    for `mmm_rs`; otherwise it is a third slower."""
    import PIL.Image

    PIL.Image.core.set_blocks_max(4)
    stored = [row["rgb"]["bytes"] for row in itertools.islice(builder(out, decode=False), DECODED)]
    yield -1  # the clock starts here
    for data in stored:
        yield bool(PIL.Image.open(io.BytesIO(data)).convert("RGB"))


def prepared(make: Callable[[str], Any]) -> Callable[[str, str], Iterator[int]]:
    def prepare(out: str) -> Iterator[int]:
        with tempfile.TemporaryDirectory(dir=Path(out).parent) as cache:
            preparing = make(out, cache)
            preparing.download_and_prepare()
            yield preparing.info.splits["train"].num_examples

    return prepare


def builder_prepared(out: str, cache: str) -> Any:
    import mmm_rs

    return mmm_rs.MMMRS(config_name=SUBSET, data_dir=out, cache_dir=cache)


def datasets_prepared(out: str, cache: str) -> Any:
    import datasets

    return datasets.load_dataset_builder(out, SUBSET, cache_dir=cache)


CONTENDERS = {
    "Arrow batches, mmm_rs": builder_tables,
    "rows, mmm_rs": builder_rows,
    "rows, datasets": datasets_rows,
    "rows, webdataset": webdataset_rows,
    "decoded, mmm_rs": builder_decoded,
    "decoded, datasets": datasets_decoded,
    "decoded, Pillow alone": pillow,
    "prepared, mmm_rs": prepared(builder_prepared),
    "prepared, datasets": prepared(datasets_prepared),
}
# What is promised: a contender, the one it is measured against, the ratio of their rates.
PROMISES = (
    ("Arrow batches, mmm_rs", "rows, datasets", 7.0),
    ("Arrow batches, mmm_rs", "rows, webdataset", 4.0),
    ("rows, mmm_rs", "rows, datasets", 5.0),
    ("rows, mmm_rs", "rows, webdataset", 2.5),
    ("decoded, mmm_rs", "decoded, Pillow alone", 0.85),
    ("prepared, mmm_rs", "prepared, datasets", 3.0),
)


def read(name: str, out: str) -> None:
    """One contender in a process of its own; prints rows, seconds, and memory in a tenth of the way and at the end."""
    import datasets
    import webdataset  # noqa: F401  imports are not measured

    with contextlib.suppress(ImportError):
        import torch  # noqa: F401  which `datasets` imports when it streams
    import mmm_rs  # noqa: F401

    datasets.disable_progress_bars()
    rows, tenth, middle = 0, None, json.loads(Path(out, "manifest.json").read_text())["subsets"][SUBSET]["samples"] / 10
    start = time.perf_counter()
    for count in CONTENDERS[name](out):
        if count < 0:
            start = time.perf_counter()
            continue
        rows += count
        if tenth is None and rows >= middle:
            tenth = memory(os.getpid())
    seconds = time.perf_counter() - start
    print(json.dumps({"rows": rows, "seconds": seconds, "tenth": tenth, "end": memory(os.getpid())}))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=20_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument(
        "--folder", type=Path, help="where input and output go, some 6 GB (default: a temporary folder)"
    )
    parser.add_argument("--read", choices=CONTENDERS, help=argparse.SUPPRESS)  # one contender, in its own process
    parser.add_argument("--out", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.read:
        read(arguments.read, arguments.out)
        return
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        benchmark(Path(folder), arguments.images, arguments.rounds)


def benchmark(folder: Path, images: int, rounds: int) -> None:
    out = converted(folder, images, pictures(512, 70_000))
    results: dict[str, dict[str, Any]] = {}

    def run(name: str) -> float:
        words = [sys.executable, __file__, "--read", name, "--out", str(out)]
        output = subprocess.run(words, check=True, capture_output=True, text=True).stdout
        results[name] = json.loads(output.splitlines()[-1])
        return results[name]["seconds"]

    medians = compare({name: lambda name=name: run(name) for name in CONTENDERS}, rounds)  # type: ignore[misc]
    rates = {name: results[name]["rows"] / seconds for name, seconds in medians.items()}
    print(f"\n{images:,} images of 512 px, about 70 kB, medians of {rounds} rounds\n")
    print("| | samples/s | memory at a tenth, MB | at the end, MB |\n|---|---|---|---|")
    for name, rate in rates.items():
        tenth, end = results[name]["tenth"], results[name]["end"]
        print(f"| {name} | {rate:,.0f} | {tenth / 1e6:.0f} | {end / 1e6:.0f} |")
    print("\n| ratio of rates | promised at least | measured |\n|---|---|---|")
    for reader, other, promised in PROMISES:
        print(f"| {reader} : {other} | {promised} | {rates[reader] / rates[other]:.2f} |")


if __name__ == "__main__":
    main()
