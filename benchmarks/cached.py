"""An epoch that comes from the cache on the node, measured against a local folder, as ratios in one run.

    python benchmarks/cached.py --images 6000

Converts a synthetic release of 512 px JPEGs of about 70 kB, serves it through a line (see `line.py`) and reads it once
into a cache. Then each way of reading goes over the same stream again, from the cache and from the folder in turn, in
one process; the page cache is warm. Medians of the ratios are printed. `mmm_rs` compares what comes from the cache with
the CRCs of the index. Of a folder's undecoded rows it does so only if asked (`check=True`), which is measured too.
"""

from __future__ import annotations

import argparse
import itertools
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from inputs import converted, pictures
from line import REPO, Line, Speed

SUBSET = "fMoW"
DECODED = 1_500  # rows of a round that decodes one after another


def rows(place: str, **options: Any) -> Callable[[], int]:
    import mmm_rs

    stream = mmm_rs.load_dataset(SUBSET, place, streaming=True, decode=False, **options)
    return lambda: sum(1 for _ in stream)


def arrow(place: str, **options: Any) -> Callable[[], int]:
    import mmm_rs

    stream = mmm_rs.load_dataset(SUBSET, place, streaming=True, decode=False, **options).with_format("arrow")
    return lambda: sum(table.num_rows for table in stream.iter(batch_size=64))


def decoded(place: str, **options: Any) -> Callable[[], int]:
    import mmm_rs

    stream = mmm_rs.load_dataset(SUBSET, place, streaming=True, **options)
    return lambda: sum(bool(row["rgb"].convert("RGB")) for row in itertools.islice(stream, DECODED))


def batches(place: str, **options: Any) -> Callable[[], int]:
    from mmm_rs_loader import batches

    stream = batches(SUBSET, place, 64, **options)
    return lambda: sum(len(batch["key"]) for batch in stream)


def rate(epoch: Callable[[], int]) -> float:
    start = time.perf_counter()
    return epoch() / (time.perf_counter() - start)


def read(out: str, cache: str, rounds: int) -> None:
    """All ways in a process that has the line for its hub."""
    import datasets

    datasets.disable_progress_bars()
    hub = f"hf://datasets/{REPO}"
    print("| from the cache : from a folder | ratio | images/s |\n|---|---|---|")
    for name, way, local in (
        ("undecoded rows", rows, {}),
        ("undecoded rows, check=True", rows, {"check": True}),
        ("Arrow batches", arrow, {}),
        ("Arrow batches, check=True", arrow, {"check": True}),
        ("decoded rows", decoded, {}),
        ("`batches`", batches, {}),
    ):
        epochs = way(hub, local_cache=cache), way(out, **local)
        for epoch in epochs:
            epoch()
        rates = [tuple(map(rate, epochs)) for _ in range(rounds)]
        ratio = statistics.median(cached / folder for cached, folder in rates)
        print(f"| {name} | {ratio:.2f} | {statistics.median(cached for cached, _ in rates):,.0f} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=6_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--folder", type=Path, help="where input and output go (default: a temporary folder)")
    parser.add_argument("--read", help=argparse.SUPPRESS)  # the converted folder, in a process of its own
    parser.add_argument("--cache", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.read:
        read(arguments.read, arguments.cache, arguments.rounds)
        return
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        benchmark(Path(folder), arguments.images, arguments.rounds)


def benchmark(folder: Path, images: int, rounds: int) -> None:
    out = converted(folder, images, pictures(512, 70_000))
    with Line(out, Speed()) as line:
        environment = os.environ | {"HF_ENDPOINT": line.hub, "HF_HOME": str(folder / "home")}
        words = [sys.executable, __file__, "--read", str(out), "--cache", str(folder / "cache")]
        subprocess.run([*words, "--rounds", str(rounds)], check=True, env=environment)


if __name__ == "__main__":
    main()
