"""Tasks on an executor: their results as they come, and a stop that is quick and leaves nothing hanging.

A signal's handler raises its exception wherever the main thread is at that moment. In the middle of the executor's
bookkeeping (`submit`, `as_completed`, `cancel`) that leaves a lock taken for ever, and the workers wait for it. So
signals wait while the bookkeeping is done, and between results the main thread waits in a queue, which a signal may
leave.
"""

from __future__ import annotations

import contextlib
import os
import queue
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from typing import Any, TypeVar

T = TypeVar("T")
R = TypeVar("R")

stop = threading.Event()  # set when the tasks of this process shall end early; they look at it often


class Interrupted(Exception):
    """Raised in a task when `stop` is set."""


def check_stop() -> None:
    if stop.is_set():
        raise Interrupted


@contextlib.contextmanager
def threads(workers: int | None) -> Iterator[ThreadPoolExecutor]:
    """Threads of this process, one a core where `workers` is None. None of them runs any more afterwards."""
    pool = ThreadPoolExecutor(workers or os.cpu_count())
    try:
        yield pool
    except BaseException:
        stop.set()
        raise
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


@contextlib.contextmanager
def completed(executor: Executor, function: Callable[[T], R], tasks: Sequence[T]) -> Iterator[Iterator[tuple[T, R]]]:
    """Run `function` on each task; each with its result, as they end. What has not begun is cancelled at the end.

    The first exception of a task is raised.
    """
    ended: queue.SimpleQueue[Future[R]] = queue.SimpleQueue()
    task_of: dict[Future[R], T] = {}
    stop.clear()

    def results() -> Iterator[tuple[T, R]]:
        for _ in tasks:
            future = ended.get()
            yield task_of[future], future.result()

    try:
        with signals_held():
            for task in tasks:
                future = executor.submit(function, task)
                task_of[future] = task
                future.add_done_callback(ended.put)
        yield results()
    except BaseException:
        stop.set()
        raise
    finally:
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
        for number in (signal.SIGINT, signal.SIGTERM):
            before[number] = signal.signal(number, lambda number, frame: came.append(number))
        yield
    finally:
        for held, handler in before.items():
            signal.signal(held, handler if handler is not None else signal.SIG_DFL)
        for held in came:
            signal.raise_signal(held)
