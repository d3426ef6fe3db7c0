"""Conversion measured against `cp`, `webdataset.ShardWriter` and itself, as ratios in one run.

    python benchmarks/convert.py stored   --images 60000     # stored zip: cp, ShardWriter, mmm-rs with 2 and 1 workers
    python benchmarks/convert.py deflated --images 60000     # the same images deflated
    python benchmarks/convert.py full                        # fMoW at 930,000 and SEN1-2 at 280,000 pairs, tiny images

Inputs are made in --folder (default: a temporary folder) and are synthetic: JPEGs of noise, 512 px and about 70 kB. The
rounds are interleaved and medians printed; every contender's files are synced before its clock stops. The page cache is
warm: the zip has just been written or read.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import resource
import shutil
import statistics
import struct
import subprocess
import sys
import tempfile
import threading
import time
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from PIL import Image

BASES = 64  # different pictures; each image is one of them with a comment of its own, so all bytes differ in sum
DATE = (2024, 8, 9, 12, 0, 0)


def pictures(size: int, target: int) -> list[bytes]:
    """JPEGs of noise over gradients with about `target` bytes."""
    made = []
    for seed in range(BASES):
        rng = np.random.default_rng(seed)
        ramp = np.linspace(0, 255, size)[:, None, None] * np.array([1.0, 0.6, 0.3]) * np.ones((size, size, 1))
        quality, data = 95, b""
        noise = rng.normal(0, 18, (size, size, 3))
        image = Image.fromarray(np.clip(ramp + noise, 0, 255).astype(np.uint8))
        while quality > 5 and (not data or len(data) > target):
            buffer = io.BytesIO()
            image.save(buffer, "JPEG", quality=quality)
            data, quality = buffer.getvalue(), quality - 3
        made.append(data)
    return made


def unique(base: bytes, name: str) -> bytes:
    comment = name.encode()
    return base[:2] + b"\xff\xfe" + struct.pack(">H", len(comment) + 2) + comment + base[2:]


def write_zip(path: Path, names: Iterator[tuple[str, str]], bases: list[bytes], annotation: str, method: int) -> None:
    """A subset's zip: images with a prompt each, and one array of records."""
    records = []
    with zipfile.ZipFile(path, "w", method, compresslevel=1) as archive:
        for at, (name, prompt) in enumerate(names):
            archive.writestr(zipfile.ZipInfo(name, DATE), unique(bases[at % BASES], name), method)
            records.append(
                json.dumps({"image": name, "prompt": prompt, "category": "airport", "spatial_resolution": 0.4})
            )
        text = "[" + ",\n".join(records) + "]"
        archive.writestr(zipfile.ZipInfo(annotation, DATE), text, zipfile.ZIP_DEFLATED)


def fmow(count: int) -> Iterator[tuple[str, str]]:
    for at in range(count):
        stem = f"airport_{at}_0_rgb_center"
        yield (
            f"fMoW_dataset/{stem}.jpg",
            f"Satellite imagery,  Ultra-high precision resolution, airport, a satellite image "
            f"of an airport with planes number {at} parked beside a long runway, Google Earth, fMoW",
        )


def sen12(count: int) -> Iterator[tuple[str, str]]:
    for at in range(count):
        for token, folder in (("s2", "RGB"), ("s1", "SAR")):
            yield (
                f"SEN1-2_dataset/SEN1-2_{folder}/ROIs1158_spring_{token}_{at // 1000}_p{at % 1000}.jpg",
                f"Low precision resolution, an image of patch {at} with fields and a river, Sentinel, SEN1-2",
            )


def sync(path: Path) -> None:
    files = [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file()]
    for file in files:
        fd = os.open(file, os.O_RDONLY)
        os.fsync(fd)
        os.close(fd)


def timed(run: Callable[[], object]) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


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
    subprocess.run(
        [
            sys.executable,
            "-m",
            "conversion.cli",
            "convert",
            str(source),
            str(target),
            "--workers",
            str(workers),
            "--quiet",
        ],
        check=True,
        stdout=subprocess.DEVNULL,
    )


def compare(contenders: dict[str, Callable[[Path], None]], folder: Path, rounds: int) -> dict[str, float]:
    """Median seconds of each, in interleaved rounds."""
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    for number in range(rounds):
        for name, run in contenders.items():
            target = folder / "target"
            seconds[name].append(timed(lambda run=run, target=target: run(target)))  # type: ignore[misc]
            shutil.rmtree(target) if target.is_dir() else target.unlink()
            print(f"  round {number + 1}: {name} {seconds[name][-1]:.1f} s", file=sys.stderr, flush=True)
    return {name: statistics.median(values) for name, values in seconds.items()}


def zip_benchmark(folder: Path, images: int, rounds: int, method: int) -> None:
    """Items 1 to 3: one large zip of fMoW."""
    bases = pictures(512, 70_000)
    stored, source = folder / "stored" / "fMoW.zip", folder / "source" / "fMoW.zip"
    for path, how in {stored: zipfile.ZIP_STORED, source: method}.items():
        path.parent.mkdir(exist_ok=True)
        print(f"writing {path}", file=sys.stderr, flush=True)
        write_zip(path, fmow(images), bases, "MMM-RS_fMoW.json", how)
    sync(folder)
    medians = compare(
        {
            "cp of the stored zip": lambda target: copied(stored, target),
            "zipfile + webdataset.ShardWriter": lambda target: shard_writer(source, target),
            "mmm-rs convert, 2 workers": lambda target: converted(source, target, 2),
            "mmm-rs convert, 1 worker": lambda target: converted(source, target, 1),
        },
        folder, rounds,
    )  # fmt: skip
    cp, writer = medians["cp of the stored zip"], medians["zipfile + webdataset.ShardWriter"]
    kind = "stored" if method == zipfile.ZIP_STORED else "deflated"
    print(f"\n{kind} zip, {images:,} images, {stored.stat().st_size / 1e9:.2f} GB, medians of {rounds} rounds\n")
    print("| | s | x the time of `cp` | speed-up over ShardWriter |\n|---|---|---|---|")
    for name, value in medians.items():
        print(f"| {name} | {value:.1f} | {value / cp:.2f} | {writer / value:.2f} |")
    print(f"\ntwo workers over one: {medians['mmm-rs convert, 1 worker'] / medians['mmm-rs convert, 2 workers']:.2f}")


@contextlib.contextmanager
def peak_memory(pid: int) -> Iterator[list[int]]:
    """The largest resident memory of a process in bytes, sampled; the list has one element at the end."""
    peak, stop = [0], threading.Event()

    def sample() -> None:
        while not stop.wait(0.02):
            with contextlib.suppress(OSError, ValueError, IndexError):
                text = Path(f"/proc/{pid}/statm").read_text()
                peak[0] = max(peak[0], int(text.split()[1]) * resource.getpagesize())

    thread = threading.Thread(target=sample)
    thread.start()
    try:
        yield peak
    finally:
        stop.set()
        thread.join()


def full_size(folder: Path, images: int, pairs: int) -> None:
    """Item 4: planning time and memory at full size, and the cost an image against a small release."""
    rows = []
    tiny = [data[: len(data)] for data in pictures(16, 400)]
    sizes = {"fMoW": (fmow, images, 20_000), "SEN1-2": (sen12, pairs, 10_000)}
    for subset, (names, count, small) in sizes.items():
        for number in (small, count):
            source = folder / f"{subset}-{number}"
            source.mkdir()
            print(f"writing {source}", file=sys.stderr, flush=True)
            write_zip(source / f"{subset}.zip", names(number), tiny, f"MMM-RS_{subset}.json", zipfile.ZIP_STORED)
            per_image = number * (2 if subset == "SEN1-2" else 1)
            inspect, inspect_peak = measured(["inspect", str(source), "--json"])
            total, _, phases = converted_phases(source, folder / "target")
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
    process = subprocess.Popen([sys.executable, "-m", "conversion.cli", *words], stdout=subprocess.DEVNULL)
    with peak_memory(process.pid) as peak:
        if process.wait():
            raise SystemExit(f"{words} failed")
    return time.perf_counter() - start, peak[0]


def converted_phases(source: Path, target: Path) -> tuple[float, int, tuple[float, int, int]]:
    """Seconds in all, and (planning seconds, planning peak, copying peak). Copying begins with the first shard."""
    start = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, "-m", "conversion.cli", "convert", str(source), str(target), "--workers", "2", "--quiet"],
        stdout=subprocess.DEVNULL,
    )
    with peak_memory(process.pid) as planning_peak:
        while not (target / "data").exists() and process.poll() is None:
            time.sleep(0.01)
    planning = time.perf_counter() - start
    with peak_memory(process.pid) as copying_peak:
        if process.wait():
            raise SystemExit(f"convert {source} failed")
    return time.perf_counter() - start, 0, (planning, planning_peak[0], copying_peak[0])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("stored", "deflated", "full"))
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
        else:
            method = zipfile.ZIP_STORED if arguments.what == "stored" else zipfile.ZIP_DEFLATED
            zip_benchmark(Path(folder), arguments.images, arguments.rounds, method)


if __name__ == "__main__":
    main()
