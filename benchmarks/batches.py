"""Decoded batches measured against loops, DataLoaders and the bare decoder, as ratios in one run.

    python benchmarks/batches.py --images 4000

Draws scenes, saves them at quality 75 as upstream does, converts them and reads the shards. Each contender is a process
of its own that reports the seconds of its iteration (opening included, imports not), its CPU time and the largest
memory of it and its workers. Rounds are interleaved, the page cache is warm. Medians are printed; with `--best`, the
best round of each, for a machine that has other work to do.

`--scaling` compares numbers of threads instead, and measures all that is not decoding: the interpreter's lock is held
for no longer. `--network` reads through a line of 120 MB/s with 60 ms of latency and compares with line and decoder.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import os
import re
import resource
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from clock import peak_memory
from inputs import converted, scenes
from line import REPO, Line, Speed

SUBSET = "fMoW"
BATCH = 64
CORES = len(os.sched_getaffinity(0))
SLOW = 1_500  # images of a round for those that decode one after another


def no_code(out: str) -> Any:
    import datasets

    return datasets.load_dataset(out, SUBSET, split="train", streaming=True)


def builder(out: str, **options: Any) -> Any:
    import mmm_rs

    return mmm_rs.load_dataset(SUBSET, out, streaming=True, **options)


def loop_no_code(out: str) -> Iterator[int]:
    import numpy as np

    for row in itertools.islice(no_code(out), SLOW):
        np.asarray(row["jpg"].convert("RGB"))
        yield 1


def loop_builder(out: str) -> Iterator[int]:
    import numpy as np

    for row in itertools.islice(builder(out), SLOW):
        np.asarray(row["rgb"].convert("RGB"))
        yield 1


def stack(rows: list[dict[str, Any]]) -> tuple[Any, list[str]]:
    import numpy as np
    import torch

    images = np.stack([np.asarray(row["jpg"].convert("RGB")) for row in rows])
    return torch.from_numpy(images).permute(0, 3, 1, 2), [row["txt"] for row in rows]


def data_loader(out: str) -> Iterator[int]:
    from torch.utils.data import DataLoader

    for images, _ in DataLoader(no_code(out), batch_size=BATCH, num_workers=CORES, collate_fn=stack):
        yield len(images)


def bare(size: int | None) -> Any:
    def decode(out: str) -> Iterator[int]:
        """The decoder alone, in threads, on images that are in memory, into an array that is used again."""
        import numpy as np
        import simplejpeg

        stored = [row["rgb"]["bytes"] for row in builder(out, decode=False)]
        least = {"min_height": size, "min_width": size} if size else {}
        numbers = itertools.count()

        def work() -> None:
            target = np.empty((size or 512, size or 512, 3), np.uint8)
            while (number := next(numbers)) < len(stored):
                simplejpeg.decode_jpeg(stored[number], buffer=target, **least)

        yield -1  # the clock starts here
        threads = [threading.Thread(target=work) for _ in range(CORES)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        yield len(stored)

    return decode


def batches(size: int | None, threads: int | None = None, **options: Any) -> Any:
    def read(out: str) -> Iterator[int]:
        from mmm_rs_loader import batches

        for batch in batches(SUBSET, out, BATCH, size=size, threads=threads, **options):
            yield len(batch["rgb"])

    return read


CONTENDERS = {
    "loop, without code": loop_no_code,
    "loop, mmm_rs": loop_builder,
    f"DataLoader of {CORES} workers, without code": data_loader,
    "decoder alone": bare(None),
    "decoder alone, to 256": bare(256),
    "batches": batches(None),
    "batches, size=256": batches(256),
    "batches, size=256, shuffle=1000": batches(256, shuffle=1000),
}
SCALING = {
    f"batches{label}, threads={threads}": batches(size, threads)
    for size, label in ((None, ""), (256, ", size=256"))
    for threads in (1, 2, 4, 8, 16)
    if threads <= CORES
}
NETWORK = {
    "decoder alone, local": bare(None),
    "decoder alone, to 256, local": bare(256),
    "batches, local": batches(None),
    "batches over the line": batches(None),
    "batches, size=256, over the line": batches(256),
}
ALL = {**CONTENDERS, **SCALING, **NETWORK}
# What is promised: a contender, the one it is measured against, the ratio of their rates.
PROMISES = (
    ("batches", "loop, without code", 2.4),
    ("batches, size=256", "loop, without code", 3.4),
    ("batches", "decoder alone", 0.85),
    ("batches, size=256", "decoder alone, to 256", 0.85),
    ("batches", f"DataLoader of {CORES} workers, without code", 1.3),
)


def read(name: str, out: str) -> None:
    """One contender in a process of its own; prints rows, seconds, CPU seconds and the largest memory."""
    import datasets

    import mmm_rs_loader  # noqa: F401  imports are not measured

    if "without code" in name:
        with contextlib.suppress(ImportError):
            import scipy.io  # noqa: F401  which `datasets` imports when it opens a dataset
    if "DataLoader" in name:
        import torch  # noqa: F401
    datasets.disable_progress_bars()
    rows, first = 0, (0, 0.0)  # rows and seconds of the first batch
    with peak_memory(os.getpid()) as peak:
        start, used = time.perf_counter(), cpu()
        for count in ALL[name](out):
            if count < 0:
                start, used = time.perf_counter(), cpu()
            else:
                rows += count
                first = first if first[0] else (rows, time.perf_counter() - start)
        seconds, used = time.perf_counter() - start, cpu() - used
    result = {"rows": rows, "seconds": seconds, "cpu": used, "memory": peak[0]}
    print(json.dumps({**result, "first_rows": first[0], "first_seconds": first[1]}))


def rate_of(result: dict[str, float], name: str) -> float:
    """Images per second; over the line from the first batch on, of which half a second is several round trips."""
    if "over the line" in name:
        return (result["rows"] - result["first_rows"]) / (result["seconds"] - result["first_seconds"])
    return result["rows"] / result["seconds"]


def cpu() -> float:
    """CPU seconds of this process and of its children that have ended."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in used)


def other_work(out: str) -> float:
    """CPU seconds per image of all that is not decoding, on one thread: no more than that needs the lock."""
    import mmm_rs_loader

    mmm_rs_loader._decode = lambda data, target, scaled: None  # type: ignore[assignment]
    mmm_rs_loader._decoded_by_threads = lambda batches, form, _: mmm_rs_loader._decoded_here(batches, form)  # type: ignore[assignment]
    start, rows = time.thread_time(), 0
    for batch in mmm_rs_loader.batches(SUBSET, out, BATCH, size=256):
        rows += len(batch["key"])
    return (time.thread_time() - start) / rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=8_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--best", action="store_true", help="the best round of each instead of the median")
    parser.add_argument("--scaling", action="store_true", help="numbers of threads instead of contenders")
    parser.add_argument("--network", action="store_true", help="over a slow line")
    parser.add_argument("--quality", type=int, default=75)
    parser.add_argument("--only", default="", help="contenders whose name matches this regular expression")
    parser.add_argument("--folder", type=Path, help="where input and output go (default: a temporary folder)")
    parser.add_argument("--read", help=argparse.SUPPRESS)  # one contender, in its own process
    parser.add_argument("--out", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.read:
        read(arguments.read, arguments.out)
        return
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        benchmark(Path(folder), arguments)


def benchmark(folder: Path, arguments: argparse.Namespace) -> None:
    drawn = scenes(512, arguments.quality)
    out = converted(folder, arguments.images, drawn)
    contenders = SCALING if arguments.scaling else NETWORK if arguments.network else CONTENDERS
    contenders = {name: contender for name, contender in contenders.items() if re.search(arguments.only, name)}
    rounds: dict[str, list[dict[str, float]]] = {name: [] for name in contenders}
    with contextlib.ExitStack() as stack:
        line = stack.enter_context(Line(out, Speed())) if arguments.network else None
        for number in range(arguments.rounds):
            for name, results in rounds.items():
                # As in daily use, modules are compiled once: compiling them takes 10 MB.
                environment = {name: os.environ[name] for name in os.environ if name != "PYTHONDONTWRITEBYTECODE"}
                place = str(out)
                if line is not None and "over the line" in name:
                    environment["HF_ENDPOINT"], place = line.hub, f"hf://datasets/{REPO}"
                    environment["HF_HOME"] = str(folder / f"home-{number}-{name}")
                words = [sys.executable, __file__, "--read", name, "--out", place]
                printed = subprocess.run(words, check=True, capture_output=True, text=True, env=environment).stdout
                results.append(json.loads(printed.splitlines()[-1]))
                rate = rate_of(results[-1], name)
                print(f"  round {number + 1}: {name} {rate:,.0f}/s", file=sys.stderr, flush=True)

    def middle(name: str, value: Any) -> float:
        values = [value(result) for result in rounds[name]]
        return max(values) if arguments.best else statistics.median(values)

    rates = {name: middle(name, lambda result, name=name: rate_of(result, name)) for name in contenders}
    average = statistics.mean(map(len, drawn)) / 1000
    chosen = "best" if arguments.best else "medians"
    print(f"\n{arguments.images:,} images of 512 px, {average:.0f} kB, {CORES} cores, {chosen} of {arguments.rounds}\n")
    print("| | images/s | CPU per image, ms | memory, MB |\n|---|---|---|---|")
    for name, rate in rates.items():
        used = statistics.median(result["cpu"] / result["rows"] for result in rounds[name]) * 1000
        memory = statistics.median(result["memory"] for result in rounds[name]) / 1e6
        print(f"| {name} | {rate:,.0f} | {used:.2f} | {memory:.0f} |")
    if arguments.scaling:
        print(f"\nall but decoding: {other_work(str(out)) * 1e6:.0f} us of CPU per image")
        return
    if arguments.network:
        carried = Speed().line / statistics.mean(map(len, drawn))
        for label in ("", ", to 256"):
            name = "batches" + (", size=256," if label else "") + " over the line"
            limit = min(carried, rates[f"decoder alone{label}, local"])
            print(f"\n{name}: {rates[name] / limit:.2f} of the smaller of line ({carried:,.0f}/s) and decoder")
        return
    print("\n| ratio of rates | promised at least | measured |\n|---|---|---|")
    for reader, other, promised in PROMISES:
        if {reader, other} <= rates.keys():
            print(f"| {reader} : {other} | {promised} | {rates[reader] / rates[other]:.2f} |")


if __name__ == "__main__":
    main()
