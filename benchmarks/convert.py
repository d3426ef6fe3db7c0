"""Conversion measured against `cp`, `webdataset.ShardWriter` and itself, as ratios in one run.

    python benchmarks/convert.py stored   --images 60000     # stored zip: cp, ShardWriter, mmm-rs, and the limit
    python benchmarks/convert.py deflated --images 60000     # the same images deflated
    python benchmarks/convert.py full                        # fMoW at 930,000 and SEN1-2 at 280,000 pairs, tiny images
    python benchmarks/convert.py profile --images 20000      # where the time of one worker goes

Inputs are made in --folder (default: a temporary folder) and are synthetic: JPEGs of noise, 512 px and about 70 kB. The
rounds are interleaved and medians printed; every contender's files are synced before its clock stops. The page cache is
warm: the zip has just been written or read.
"""

from __future__ import annotations

import argparse
import cProfile
import hashlib
import json
import multiprocessing
import os
import pstats
import random
import shutil
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable
from concurrent.futures import Executor, Future
from pathlib import Path
from typing import Any

from clock import compare, peak_memory, sync
from inputs import fmow, pictures, sen12, write_zip


def timed(run: Callable[[Path], object], target: Path) -> float:
    """Seconds that `run` takes to write `target`, which is removed afterwards."""
    start = time.perf_counter()
    run(target)
    seconds = time.perf_counter() - start
    shutil.rmtree(target) if target.is_dir() else target.unlink()
    return seconds


def copied(source: Path, target: Path) -> None:
    subprocess.run(["cp", str(source), str(target)], check=True)
    sync(target)


def shard_writer(source: Path, target: Path) -> None:
    """What people do today in Python: images, prompts and records by `zipfile`, tars by `webdataset.ShardWriter`."""
    import webdataset

    target.mkdir()
    with zipfile.ZipFile(source) as archive:
        annotation = next(name for name in archive.namelist() if name.endswith(".json"))
        records = {record["image"]: record for record in json.loads(archive.read(annotation))}
        with webdataset.ShardWriter(str(target / "%05d.tar"), maxsize=512e6, maxcount=10**9, verbose=0) as sink:
            for name, record in records.items():
                sink.write({"__key__": name[:-4], "jpg": archive.read(name), "txt": record["prompt"], "json": record})
    sync(target)


def converted(source: Path, target: Path, workers: int) -> None:
    # sys.executable and not the `mmm-rs` script: the same program, whatever the PATH
    words = ["convert", str(source), str(target), "--workers", str(workers), "--quiet"]
    subprocess.run([sys.executable, "-m", "mmm_rs_cli.cli", *words], check=True, stdout=subprocess.DEVNULL)


def bare(source: Path, target: Path, images: int) -> None:
    """What no conversion can leave out: two processes read the bytes of a stored zip in the order of a shuffle, feed
    their sha256, write them to shards and sync these. No plan, no CRC, no member of a tar, nothing of an image."""
    target.mkdir()
    parts = [multiprocessing.Process(target=_bare_shards, args=(source, target, images, first)) for first in (0, 1)]
    for part in parts:
        part.start()
    for part in parts:
        part.join()
        if part.exitcode:
            raise SystemExit("the bare copy failed")


def _bare_shards(source: Path, target: Path, images: int, first: int) -> None:
    """Every second of 32 shards, beginning with number `first`."""
    size = source.stat().st_size // images
    order = random.Random(0).sample(range(images), images)
    image = memoryview(bytearray(size))
    zipped = os.open(source, os.O_RDONLY)
    for shard in range(first, 32, 2):
        written = os.open(target / f"{shard:05d}.tar", os.O_WRONLY | os.O_CREAT)
        digest, gathered = hashlib.sha256(), memoryview(bytearray(1 << 20))
        filled = since = 0
        for number in order[shard::32]:
            os.preadv(zipped, [image], number * size)
            if filled + size > len(gathered):
                digest.update(gathered[:filled])
                os.write(written, gathered[:filled])
                since, filled = since + filled, 0
                if since > 1 << 22:  # as the conversion does: the fastest of what was tried
                    os.posix_fadvise(written, 0, 0, os.POSIX_FADV_DONTNEED)
                    since = 0
            gathered[filled : filled + size] = image
            filled += size
        digest.update(gathered[:filled])
        os.write(written, gathered[:filled])
        os.fsync(written)
        os.close(written)


def inspected(source: Path) -> float:
    """Seconds that a command needs to start and to plan, which the conversion also does before its workers begin."""
    return measured(["inspect", str(source), "--json"])[0]


def zip_benchmark(folder: Path, images: int, rounds: int, method: int) -> None:
    """One large zip of fMoW, against `cp`, ShardWriter and one worker."""
    bases = pictures(512, 70_000)
    stored = folder / "stored" / "fMoW.zip"
    source = stored if method == zipfile.ZIP_STORED else folder / "deflated" / "fMoW.zip"
    for path, how in {stored: zipfile.ZIP_STORED, source: method}.items():
        print(f"writing {path}", file=sys.stderr, flush=True)
        write_zip(path, fmow(images), bases, "MMM-RS_fMoW.json", how)
    sync(folder)
    target = folder / "target"
    medians = compare(
        {
            "cp of the stored zip": lambda: timed(lambda path: copied(stored, path), target),
            "zipfile + webdataset.ShardWriter": lambda: timed(lambda path: shard_writer(source, path), target),
            "mmm-rs convert, 2 workers": lambda: timed(lambda path: converted(source, path, 2), target),
            "mmm-rs convert, 1 worker": lambda: timed(lambda path: converted(source, path, 1), target),
            "reading, sha256 and writing alone, 2 processes": lambda: timed(
                lambda path: bare(stored, path, images), target
            ),
            "mmm-rs inspect (start and plan)": lambda: inspected(source),
        },
        rounds,
    )
    cp, writer = medians["cp of the stored zip"], medians["zipfile + webdataset.ShardWriter"]
    kind = "stored" if method == zipfile.ZIP_STORED else "deflated"
    print(f"\n{kind} zip, {images:,} images, {stored.stat().st_size / 1e9:.2f} GB, medians of {rounds} rounds\n")
    print("| | s | x the time of `cp` | speed-up over ShardWriter |\n|---|---|---|---|")
    for name, value in medians.items():
        print(f"| {name} | {value:.1f} | {value / cp:.2f} | {writer / value:.2f} |")
    print(f"\ntwo workers over one: {medians['mmm-rs convert, 1 worker'] / medians['mmm-rs convert, 2 workers']:.2f}")


class Inline(Executor):
    """Runs each task when it is submitted, in this thread, so that a profiler sees it."""

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        future: Future[Any] = Future()
        future.set_result(fn(*args, **kwargs))
        return future


# What a function of the profile does, by a part of its name; the first that fits counts.
KINDS = {
    "reading the zip": ("preadv", "pread"),
    "writing the shard": ("writev", "posix.write", "fsync", "posix.replace"),
    "CRC32": ("crc32",),
    "sha256": ("_hashlib.HASH", "_sha256", "sha256"),
    "inflating": ("decompress",),
}


def profile(folder: Path, images: int) -> None:
    """A stored zip, one worker, by what is done."""
    from conversion import convert
    from dataset_card import card

    source = folder / "fMoW.zip"
    write_zip(source, fmow(images), pictures(512, 70_000), "MMM-RS_fMoW.json", zipfile.ZIP_STORED)
    profiler = cProfile.Profile()
    profiler.runcall(convert, source, folder / "target", executor=Inline(), card=card)
    shares: dict[str, float] = {}
    stats = pstats.Stats(profiler)
    for (file, _, name), (_, _, own, _, _) in stats.stats.items():  # type: ignore[attr-defined]
        kind = next((kind for kind, parts in KINDS.items() if any(part in name for part in parts)), None)
        part = Path(file).stem
        if kind is None:
            kind = f"{Path(file).parent.name}/{part}.py" if Path(file).parent.name in OURS else "other libraries"
        shares[kind] = shares.get(kind, 0) + own
    total = sum(shares.values())
    print(f"\nstored zip, {images:,} images, one worker, imports not counted: {total:.1f} s under the profiler\n")
    print("| | share | us an image |\n|---|---|---|")
    for kind, seconds in sorted(shares.items(), key=lambda item: -item[1]):
        if seconds >= total / 100:
            print(f"| {kind} | {seconds / total:.0%} | {seconds / images * 1e6:.1f} |")


OURS = ("conversion", "dataset_card", "mmm_rs_cli", "mmm_rs_hub")


def full_size(folder: Path, images: int, pairs: int) -> None:
    """Planning time and memory at full size, and the cost an image against a small release."""
    rows = []
    tiny = pictures(16, 400)
    sizes = {"fMoW": (fmow, images, 20_000), "SEN1-2": (sen12, pairs, 10_000)}
    for subset, (names, count, small) in sizes.items():
        for number in (small, count):
            source = folder / f"{subset}-{number}"
            print(f"writing {source}", file=sys.stderr, flush=True)
            write_zip(source / f"{subset}.zip", names(number), tiny, f"MMM-RS_{subset}.json", zipfile.ZIP_STORED)
            per_image = number * (2 if subset == "SEN1-2" else 1)
            inspect, inspect_peak = measured(["inspect", str(source), "--json"])
            total, phases = converted_phases(source, folder / "target")
            rows.append((subset, per_image, inspect, inspect_peak, phases, total))
            shutil.rmtree(folder / "target")
    columns = ("subset", "images", "inspect s", "inspect MB", "planning s", "planning MB", "copying MB", "convert s")
    print("\n| " + " | ".join([*columns, "us an image"]) + " |")
    print("|---|---|---|---|---|---|---|---|---|")
    for subset, count, inspect, inspect_peak, phases, total in rows:
        planning, planning_peak, copying_peak = phases
        print(
            f"| {subset} | {count:,} | {inspect:.1f} | {inspect_peak / 1e6:.0f} | {planning:.1f} "
            f"| {planning_peak / 1e6:.0f} | {copying_peak / 1e6:.0f} | {total:.1f} | {total / count * 1e6:.0f} |"
        )


def measured(words: list[str]) -> tuple[float, int]:
    """Seconds and peak memory of one command."""
    start = time.perf_counter()
    process = subprocess.Popen([sys.executable, "-m", "mmm_rs_cli.cli", *words], stdout=subprocess.DEVNULL)
    with peak_memory(process.pid) as peak:
        if process.wait():
            raise SystemExit(f"{words} failed")
    return time.perf_counter() - start, peak[0]


def converted_phases(source: Path, target: Path) -> tuple[float, tuple[float, int, int]]:
    """Seconds in all, and (planning seconds, planning peak, copying peak). Copying begins with the first shard."""
    start = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, "-m", "mmm_rs_cli.cli", "convert", str(source), str(target), "--workers", "2", "--quiet"],
        stdout=subprocess.DEVNULL,
    )
    with peak_memory(process.pid) as planning_peak:
        while not (target / "data").exists() and process.poll() is None:
            time.sleep(0.01)
    planning = time.perf_counter() - start
    with peak_memory(process.pid) as copying_peak:
        if process.wait():
            raise SystemExit(f"convert {source} failed")
    return time.perf_counter() - start, (planning, planning_peak[0], copying_peak[0])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("stored", "deflated", "full", "profile"))
    parser.add_argument("--images", type=int, default=60_000)
    parser.add_argument("--fmow", type=int, default=930_000)
    parser.add_argument("--pairs", type=int, default=280_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument(
        "--folder", type=Path, help="where inputs and outputs go, some 15 GB (default: a temporary folder)"
    )
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        if arguments.what == "full":
            full_size(Path(folder), arguments.fmow, arguments.pairs)
        elif arguments.what == "profile":
            profile(Path(folder), arguments.images)
        else:
            method = zipfile.ZIP_STORED if arguments.what == "stored" else zipfile.ZIP_DEFLATED
            zip_benchmark(Path(folder), arguments.images, arguments.rounds, method)


if __name__ == "__main__":
    main()
