"""Time and memory of what is compared: interleaved rounds, medians."""

from __future__ import annotations

import contextlib
import os
import statistics
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path


def compare(contenders: dict[str, Callable[[], float]], rounds: int) -> dict[str, float]:
    """Median seconds of each. A contender runs once and returns its own seconds; rounds are interleaved."""
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    for number in range(rounds):
        for name, run in contenders.items():
            seconds[name].append(run())
            print(f"  round {number + 1}: {name} {seconds[name][-1]:.2f} s", file=sys.stderr, flush=True)
    return {name: statistics.median(values) for name, values in seconds.items()}


@contextlib.contextmanager
def peak_memory(pid: int) -> Iterator[list[int]]:
    """The largest memory of a process and its workers in bytes, sampled; the list has one element at the end."""
    peak, stop = [0], threading.Event()

    def sample() -> None:
        while not stop.wait(0.05):
            peak[0] = max(peak[0], memory(pid))

    thread = threading.Thread(target=sample)
    thread.start()
    try:
        yield peak
    finally:
        stop.set()
        thread.join()


def memory(pid: int) -> int:
    """Memory of a process and its children in bytes: pages that several of them share count once. 0 when it ended."""
    total = 0
    with contextlib.suppress(OSError):
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        for member in (str(pid), *children):
            with contextlib.suppress(OSError):
                lines = Path(f"/proc/{member}/smaps_rollup").read_text().splitlines()
                total += sum(int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss:"))
    return total


def sync(path: Path) -> None:
    """Wait until a file, or all files of a folder, are on disk."""
    files = [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file()]
    for file in files:
        fd = os.open(file, os.O_RDONLY)
        os.fsync(fd)
        os.close(fd)
