"""Images per second into a GPU, at 512 and 256 pixels: batches, a DataLoader, the decoder alone, nvJPEG.

    python benchmarks/gpu.py [CONVERTED_FOLDER] --seconds 3

Without a folder it draws scenes, saves them at quality 75 and converts them. Each contender runs for some seconds in
this one process, epoch after epoch; its images end on the GPU as `float` between -1 and 1. Needs PyTorch with CUDA,
datasets and simplejpeg; torchcodec and torchvision are measured if they can be imported.
"""

from __future__ import annotations

import argparse
import itertools
import os
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))  # from a checkout that is not installed

import datasets  # noqa: E402
import numpy as np  # noqa: E402
import simplejpeg  # noqa: E402
import torch  # noqa: E402

import mmm_rs  # noqa: E402
from mmm_rs_loader import batches  # noqa: E402

SUBSET = "fMoW"
BATCH = 64
CORES = len(os.sched_getaffinity(0))
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def normalized(images: torch.Tensor) -> torch.Tensor:
    """As a training takes them, on the GPU."""
    return images.to(DEVICE, non_blocking=True).float().div_(127.5).sub_(1)


def ours(out: str, size: int | None, threads: int, pin: bool) -> Iterator[int]:
    stream = batches(
        SUBSET, out, BATCH, size=size, threads=threads, to="torch", pin_memory=pin and DEVICE == "cuda", shuffle=1000
    )
    for epoch in itertools.count():
        stream.set_epoch(epoch)
        for batch in stream:
            normalized(batch["rgb"])
            yield len(batch["key"])


def stack(rows: list[dict[str, Any]]) -> torch.Tensor:
    images = np.stack([np.asarray(row["jpg"].convert("RGB")) for row in rows])
    return torch.from_numpy(images).permute(0, 3, 1, 2)


def stack_small(rows: list[dict[str, Any]]) -> torch.Tensor:
    return stack([{"jpg": row["jpg"].convert("RGB").resize((256, 256))} for row in rows])


def data_loader(out: str, size: int | None) -> Iterator[int]:
    from torch.utils.data import DataLoader

    rows = datasets.load_dataset(out, SUBSET, split="train", streaming=True)
    while True:
        loader = DataLoader(
            rows,
            batch_size=BATCH,
            num_workers=CORES,
            collate_fn=stack_small if size else stack,
            pin_memory=DEVICE == "cuda",
        )
        for images in loader:
            normalized(images)
            yield len(images)


def encoded(out: str) -> list[bytes]:
    rows = mmm_rs.load_dataset(SUBSET, out, streaming=True, decode=False)
    return [row["rgb"]["bytes"] for row in rows]


def decoder_alone(out: str, size: int | None) -> Iterator[int]:
    """simplejpeg in threads, on images that are in memory. Nothing goes to the GPU."""
    stored = encoded(out)
    least = {"min_height": size, "min_width": size} if size else {}
    counted = [0] * CORES
    stopped = threading.Event()

    def work(number: int) -> None:
        target = np.empty((size or 512, size or 512, 3), np.uint8)
        for data in itertools.cycle(stored):
            if stopped.is_set():
                return
            simplejpeg.decode_jpeg(data, buffer=target, **least)
            counted[number] += 1

    threads = [threading.Thread(target=work, args=(number,)) for number in range(CORES)]
    for thread in threads:
        thread.start()
    try:
        before = 0
        while True:
            time.sleep(0.1)
            total = sum(counted)
            yield total - before
            before = total
    finally:
        stopped.set()
        for thread in threads:
            thread.join()


def nvjpeg(out: str, size: int | None, library: str) -> Iterator[int]:
    """Decoded on the GPU at full size, then made smaller there. The encoded images are in memory."""
    if library == "torchcodec":
        from torchcodec.decoders import decode_jpeg
    else:
        from torchvision.io import ImageReadMode
        from torchvision.io import decode_jpeg as decode

        def decode_jpeg(images: list[torch.Tensor], device: str) -> list[torch.Tensor]:
            return decode(images, mode=ImageReadMode.RGB, device=device)

    stored = [torch.frombuffer(bytearray(data), dtype=torch.uint8) for data in encoded(out)]
    for start in itertools.cycle(range(0, len(stored) - BATCH + 1, BATCH)):
        images = torch.stack(decode_jpeg(stored[start : start + BATCH], device=DEVICE))
        if size:
            images = torch.nn.functional.interpolate(images.float(), (size, size), mode="area")
        normalized(images)
        yield len(images)


def rate(contender: Callable[[], Iterator[int]], seconds: float) -> float:
    """Images per second after a warm-up of a quarter of the time."""
    counts = contender()
    begun = time.perf_counter()
    while time.perf_counter() - begun < seconds / 4:
        next(counts)
    torch.cuda.synchronize() if DEVICE == "cuda" else None
    begun, total = time.perf_counter(), 0
    while time.perf_counter() - begun < seconds:
        total += next(counts)
    torch.cuda.synchronize() if DEVICE == "cuda" else None
    taken = time.perf_counter() - begun
    counts.close()  # type: ignore[attr-defined]
    return total / taken


def contenders(out: str) -> Iterator[tuple[str, Callable[[], Iterator[int]]]]:
    for size, label in ((None, "512"), (256, "256")):
        yield f"{label}: decoder alone, {CORES} threads, not into the GPU", lambda size=size: decoder_alone(out, size)
        for threads in (1, 2, 4, 8, 16):
            if threads <= CORES:
                yield (
                    f"{label}: batches, {threads} threads, pinned",
                    lambda size=size, threads=threads: ours(out, size, threads, True),
                )
        yield f"{label}: batches, {CORES} threads, not pinned", lambda size=size: ours(out, size, CORES, False)
        yield f"{label}: DataLoader, {CORES} workers, without code", lambda size=size: data_loader(out, size)
        for library in ("torchcodec", "torchvision"):
            yield f"{label}: nvJPEG by {library}", lambda size=size, library=library: nvjpeg(out, size, library)


def draw(folder: Path, images: int) -> str:
    from inputs import converted, scenes

    return str(converted(folder, images, scenes(512, 75)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", nargs="?", help="a converted folder with fMoW (default: one is made)")
    parser.add_argument("--images", type=int, default=8_000)
    parser.add_argument("--seconds", type=float, default=3, help="for each contender")
    parser.add_argument("--only", default="", help="contenders whose name contains this text")
    arguments = parser.parse_args()
    datasets.disable_progress_bars()
    device = torch.cuda.get_device_name() if DEVICE == "cuda" else "no GPU"
    with tempfile.TemporaryDirectory() as folder:
        out = arguments.folder or draw(Path(folder), arguments.images)
        print(f"\n{device}, {CORES} cores, torch {torch.__version__}, batches of {BATCH}\n")
        print("| | images/s |\n|---|---|", flush=True)
        for name, contender in contenders(out):
            if arguments.only not in name:
                continue
            try:
                print(f"| {name} | {rate(contender, arguments.seconds):,.0f} |", flush=True)
            except Exception as error:  # a library that is not there, or not for this GPU
                print(f"| {name} | {' '.join(f'{type(error).__name__}: {error}'.split())[:120]} |", flush=True)


if __name__ == "__main__":
    main()
