"""Runs the command in a process of its own that stops at a chosen moment: killed, interrupted, or at its end.

A moment is a number: of the operations on files that the process has begun (opening, writing, syncing, renaming,
removing, listing), in all its threads and workers. So it can be drawn at random from a seed, falls between any two
steps that matter, and does not depend on how fast the machine is. A write that a kill falls on has written half its
bytes; where a worker writes it, the worker is killed with the process that began it.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from conversion.execution import signals_held
from mmm_rs_cli import cli

_WATCHED = ("open", "os.listdir", "os.mkdir", "os.remove", "os.rename", "os.rmdir", "os.scandir")  # audit events

# A server that has imported everything once forks each process: a command starts in a few milliseconds.
_processes = multiprocessing.get_context("forkserver")
_processes.set_forkserver_preload(
    [
        "tests.stopping",
        "mmm_rs_cli.summary",
        "mmm_rs_hub.publish",
        "dataset_card.card",
        "dataset_card.croissant",
        "huggingface_hub.hf_api",
    ]
)


@dataclass(frozen=True)
class Run:
    """How a command ended. `code` is negative where a signal killed it."""

    code: int
    moments: int  # operations on files; only of a command that came to its end
    seconds: float  # from the signal to the end; 0 where there was none
    output: str  # what it printed, stderr too


def run(
    arguments: list[str],
    folder: Path,
    signal_number: int = 0,
    moment: int = 0,
    prepare: Callable[[], object] | None = None,
) -> Run:
    """Run `mmm-rs` with these arguments and send it the signal at that moment. `folder` is for notes; `prepare` (of a
    module, so that it can be pickled) is called in the process before."""
    folder.mkdir(parents=True, exist_ok=True)
    output, count, sent = folder / "output", folder / "count", folder / "sent"
    for path in (output, count, sent):
        path.unlink(missing_ok=True)
    counter = _Counter(signal_number, moment, sent)
    process = _processes.Process(target=_main, args=(arguments, counter, prepare, output, count))
    process.start()
    process.join(120)
    if process.is_alive():
        process.kill()
        raise TimeoutError(f"{arguments} did not end; it printed {output.read_text()}")
    seconds = time.time() - sent.stat().st_mtime if sent.exists() else 0.0
    moments = int(count.read_text()) if count.exists() else 0
    assert process.exitcode is not None
    return Run(process.exitcode, moments, seconds, output.read_text())


def _main(arguments: list[str], counter: _Counter, prepare: Callable | None, output: Path, count: Path) -> None:
    fd = os.open(output, os.O_WRONLY | os.O_CREAT, 0o644)
    os.dup2(fd, 1)
    os.dup2(fd, 2)
    sys.stdout, sys.stderr = os.fdopen(1, "w", closefd=False), os.fdopen(2, "w", closefd=False)
    if prepare:
        prepare()
    counter.watch()
    try:
        code = cli.main(arguments)
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
    counter.moment = 0
    with contextlib.suppress(OSError):  # `prepare` may have taken away the right to write
        count.write_text(str(counter.count))
    sys.exit(code)


class _Counter:
    """Counts the operations on files; at one of them it sends the process that began them a signal."""

    def __init__(self, signal_number: int, moment: int, sent: Path) -> None:
        self.signal_number, self.moment, self.sent = signal_number, moment, sent
        self.counted = _processes.Value("q")

    @property
    def count(self) -> int:
        return self.counted.value

    def tick(self) -> bool:
        """Whether this is the moment."""
        with signals_held(), self.counted.get_lock():  # or a signal could leave it locked for ever
            self.counted.value += 1
            return self.counted.value == self.moment

    def stop(self) -> None:
        self.sent.touch()
        os.kill(self.process, self.signal_number)
        if self.signal_number == signal.SIGKILL:
            os.kill(os.getpid(), signal.SIGKILL)

    def watch(self) -> None:
        self.process = os.getpid()

        def audit(event: str, details: tuple) -> None:
            if event in _WATCHED and self.tick():
                self.stop()

        sys.addaudithook(audit)
        for name in ("write", "writev", "fsync"):
            setattr(os, name, self.watched(getattr(os, name)))

    def watched(self, call: Callable) -> Callable:
        def counted(fd: int, *data):
            if not self.tick():
                return call(fd, *data)
            if data and self.signal_number == signal.SIGKILL:
                first = memoryview(data[0] if isinstance(data[0], bytes | memoryview) else b"".join(data[0]))
                os.pwrite(fd, first[: len(first) // 2], os.lseek(fd, 0, os.SEEK_CUR))
            self.stop()
            return call(fd, *data)

        return counted
