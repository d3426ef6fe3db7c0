"""Work in advance: threads that do what will be needed soon, in the order in which it will be needed.

The threads are daemons that end when they are idle, so neither the end of the interpreter nor anything else waits for
them. They belong to one process: a forked child starts its own.
"""

from __future__ import annotations

import os
import queue
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from typing import Any

from mmm_rs import ForkSafeLock, Item, Result

IDLE = 2.0  # seconds without work after which a thread ends


class Workers:
    """Up to `most` threads that take tasks in the order in which they were given."""

    def __init__(self, most: int, name: str) -> None:
        self.most, self.name = most, name
        self._lock = ForkSafeLock()
        self._begin()

    def _begin(self) -> None:
        self._process = os.getpid()
        self._tasks: queue.SimpleQueue[tuple[Future[Any], Callable[[], Any]]] = queue.SimpleQueue()
        self._threads = self._undone = 0

    def submit(self, call: Callable[[], Result]) -> Future[Result]:
        """The call's result to be. A call that has not begun can be cancelled."""
        future: Future[Result] = Future()
        with self._lock:
            if self._process != os.getpid():  # the threads are the parent's
                self._begin()
            self._tasks.put((future, call))
            self._undone += 1
            if self._threads >= min(self._undone, self.most):
                return future
            self._threads += 1
        threading.Thread(target=self._run, name=self.name, daemon=True).start()
        return future

    def _run(self) -> None:
        tasks = self._tasks
        while True:
            try:
                future, call = tasks.get(timeout=IDLE)
            except queue.Empty:
                with self._lock:
                    if not tasks.empty():  # it was given a moment ago, to this idle thread
                        continue
                    self._threads -= 1
                    return
            if future.set_running_or_notify_cancel():
                try:
                    future.set_result(call())
                except BaseException as error:
                    future.set_exception(error)
            del future, call  # what they hold is freed while the thread waits
            with self._lock:
                self._undone -= 1


def in_advance(workers: Workers, call: Callable[[Item], Result], items: Iterable[Item], ahead: int) -> Iterator[Result]:
    """The results of a call for each item, in order; the calls for the next `ahead` items have begun meanwhile."""
    begun: deque[Future[Result]] = deque()
    try:
        for item in items:
            begun.append(workers.submit(lambda item=item: call(item)))  # type: ignore[misc]
            if len(begun) > ahead:
                yield begun.popleft().result()
        while begun:
            yield begun.popleft().result()
    finally:
        for future in begun:
            future.cancel()
