"""Tasks on an executor: their results as they come, and a stop that is quick and leaves nothing hanging.

On this machine the workers are processes forked before anything else begins, where it can fork: threads would take
turns with the interpreter's lock, and two of them write shards only a third faster than one.

A signal's handler raises its exception wherever the main thread is at that moment. In the middle of the executor's
bookkeeping (`submit`, `as_completed`, `cancel`) that leaves a lock taken for ever, and the workers wait for it. So
signals wait while the bookkeeping is done, and between results the main thread waits in a queue, which a signal may
leave.

Tasks in other processes, on this machine or another, cannot be told anything once they run. They look at a file that is
there as long as their run lasts. So what is left of a run that was interrupted or killed, or a worker that was cut off
from the others and comes back, finishes no file of a later run.
"""

from __future__ import annotations

import contextlib
import functools
import gc
import hashlib
import itertools
import multiprocessing
import multiprocessing.connection
import os
import queue
import secrets
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import BrokenExecutor, Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import mmm_rs
from conversion.errors import OutputError, ReleaseError

T = TypeVar("T")
R = TypeVar("R")

LOOK = 1.0  # seconds between two looks at the file of a run; quick enough for a person, rare enough for a file server
# Tasks in the executor's hands: more than a cluster has cores, few enough to be cancelled one by one. On this machine
# no more workers than that are started: they would have nothing to do.
AHEAD = 256

HELD = (signal.SIGINT, signal.SIGTERM)  # that wait while something is done that they must not cut in two
stop = threading.Event()  # set while the threads of this process should end early; they look at it often


class Interrupted(Exception):
    """Raised in a task that should end early."""


def check_stop() -> None:
    if stop.is_set():
        raise Interrupted


def cores() -> int:
    """Cores that this process may use: of a cluster's node perhaps only some."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@contextlib.contextmanager
def local(workers: int | None) -> Iterator[Executor]:
    """Workers on this machine, one a core where `workers` is None: processes where it can fork and there are several,
    else threads. None of them runs any more afterwards.

    Enter it before threads are started and files locked: a forked process has its parent's locks.

    Raises OutputError where the system does not let as many processes be started.
    """
    count = min(workers or cores(), AHEAD)
    pool = (_forked(count) if count > 1 else None) or ThreadPoolExecutor(count)
    with ended(pool):
        yield pool


def _forked(count: int) -> ProcessPoolExecutor | None:
    """Processes that run already; None where there can be none. Raises OutputError where there cannot be as many."""
    # macOS has "fork" too, but its own libraries do not survive it. A daemonic process may have no children.
    if sys.platform != "linux" or multiprocessing.current_process().daemon:
        return None
    try:
        pool = ProcessPoolExecutor(count, multiprocessing.get_context("fork"), initializer=_begin_worker)
    except (OSError, NotImplementedError):  # no shared semaphores here, as in some sandboxes
        return None
    before = multiprocessing.active_children()
    try:
        with signals_held():  # or a signal could reach a new process before it knows what to do with it
            masked = signal.pthread_sigmask(signal.SIG_BLOCK, HELD)  # theirs wait until `_begin_worker` lets them in
            try:
                pool.submit(os.getpid).result()  # the first task starts all processes
            finally:
                signal.pthread_sigmask(signal.SIG_SETMASK, masked)
    except OSError as error:
        # The pool gave up in between: nothing will tell those that run already to end, and Python waits for them.
        for process in set(multiprocessing.active_children()) - set(before):
            process.terminate()
            process.join()
        raise OutputError(
            f"{count} worker processes cannot be started: {error.strerror}. Give a smaller number with --workers, then "
            "run the same command again"
        ) from None
    except BaseException:  # a signal that came meanwhile: nobody else knows of the processes yet
        with signals_held():
            pool.shutdown()
        raise
    return pool


def _begin_worker() -> None:
    """Ctrl-C reaches all processes of a terminal: the one that began this tells the others by the file of the run.
    Where it was killed, they end by themselves."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, HELD)  # one that came since the fork takes effect now
    gc.freeze()  # to look through what the parent made would write to the pages that are shared with it
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    multiprocessing.connection.wait([parent.sentinel])
    os._exit(1)


@contextlib.contextmanager
def threads(workers: int | None) -> Iterator[Executor]:
    """Threads of this process, one a core where `workers` is None. None of them runs any more afterwards."""
    pool = ThreadPoolExecutor(workers or cores())
    with ended(pool):
        yield pool


@contextlib.contextmanager
def ended(pool: Executor) -> Iterator[None]:
    """No task of `pool` runs any more afterwards, and it takes no other."""
    stop.clear()
    try:
        yield
    except BaseException:
        stop.set()
        raise
    finally:
        with signals_held():
            pool.shutdown(wait=True, cancel_futures=True)
        stop.clear()  # or a process forked from this one would think that it should stop


@contextlib.contextmanager
def completed(executor: Executor, function: Callable[[T], R], tasks: Sequence[T]) -> Iterator[Iterator[tuple[T, R]]]:
    """Run `function` on each task; each with its result, as they end. What has not begun is cancelled at the end, in a
    pool of processes when that is shut down.

    The first exception of a task is raised. Raises OutputError where a process that did the tasks died.
    """
    ended: queue.SimpleQueue[Future[R]] = queue.SimpleQueue()
    task_of: dict[Future[R], T] = {}
    waiting = iter(tasks)

    def submit(count: int) -> None:
        with signals_held():
            for task in itertools.islice(waiting, count):
                future = executor.submit(function, task)
                task_of[future] = task
                future.add_done_callback(ended.put)

    def results() -> Iterator[tuple[T, R]]:
        for _ in tasks:
            future = ended.get()
            # Forgotten at once: Dask would run a task again to restore a result that somebody still holds.
            done, result = task_of.pop(future), future.result()
            submit(1)
            yield done, result

    try:
        submit(AHEAD)
        yield results()
    except BrokenExecutor as error:
        raise OutputError(
            f"a worker process died: {error} Give it more memory and run the same command again: it "
            "continues where it stopped"
        ) from None
    finally:
        # A pool of processes is not told: one of its threads may just be giving the exception of a worker that died (of
        # the same SIGTERM, perhaps) to all of them, and stumbles over a cancelled one in Python before 3.12. What it
        # begins before it is shut down finds its run ended.
        if not isinstance(executor, ProcessPoolExecutor):
            with signals_held():
                for future in task_of:
                    future.cancel()


@contextlib.contextmanager
def signals_held() -> Iterator[None]:
    """SIGINT and SIGTERM that come meanwhile take effect at the end. Only the main thread receives signals."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    came: list[int] = []
    before: dict[int, Any] = {}
    try:
        for number in HELD:
            before[number] = signal.signal(number, lambda number, frame: came.append(number))
        yield
    finally:
        for held, handler in before.items():
            signal.signal(held, handler if handler is not None else signal.SIG_DFL)
        for held in came:
            signal.raise_signal(held)


@dataclass(frozen=True)
class Run:
    """One run of a conversion, as tasks know it wherever they run."""

    file: str  # lies in the work folder as long as the run lasts
    program: str  # `program()` of the process that began it

    def end(self) -> None:
        Path(self.file).unlink(missing_ok=True)


@contextlib.contextmanager
def announced(work: Path) -> Iterator[Run]:
    """A run that tasks can look for in the folder `work`. It ends the runs that were killed there."""
    for path in work.glob("run-*"):
        path.unlink(missing_ok=True)
    # A new name each time: network file systems remember for a while that a name was not there.
    path = work / f"run-{secrets.token_hex(8)}"
    path.touch()
    run = Run(str(path), program())
    try:
        yield run
    finally:
        run.end()


class Watch:
    """Tells a task whether its run lasts."""

    def __init__(self, run: Run) -> None:
        self.file, self.due = run.file, time.monotonic() + LOOK

    def check(self) -> None:
        """Raise Interrupted when the run is over; it looks once in `LOOK` seconds, so this may be called often."""
        if time.monotonic() >= self.due:
            self.look()

    def look(self) -> None:
        """The same, at once."""
        try:
            os.close(os.open(self.file, os.O_RDONLY))  # unlike stat, it asks the server of a network file system
        except FileNotFoundError:
            raise Interrupted from None
        self.due = time.monotonic() + LOOK


def check_place(run: Run, sources: Iterable[str]) -> None:
    """Whether this process can work for `run` on these zips and folders; else every image would seem to be missing.

    Raises OutputError where it runs another program or does not see the output folder, ReleaseError where it does not
    see a source.
    """
    host = socket.gethostname()
    if run.program != program():
        raise OutputError(
            f"{Path(__file__).parent}: the worker on {host} has another version of mmm-rs than the "
            "process that began this. Install the same for both and run the command again"
        )
    if not os.path.exists(run.file):
        raise OutputError(
            f"{Path(run.file).parents[1]}: the worker on {host} does not see this folder as it is. "
            "Choose an output folder that all workers share under the same path"
        )
    for path in sources:
        if not os.path.exists(path):
            raise ReleaseError(
                f"{path}: does not exist for the worker on {host}. Put the release where all workers see "
                "it under the same path"
            )


@functools.cache
def program() -> str:
    """sha256 of this program's source, which decides what is written."""
    digest = hashlib.sha256()
    for path in (Path(mmm_rs.__file__), *sorted(Path(__file__).parent.rglob("*.py"))):
        digest.update(path.read_bytes())
    return digest.hexdigest()
