"""Threads that work in advance: as many tasks at once as was allowed, in the order in which they were given."""

from __future__ import annotations

import threading

import pytest

from mmm_rs_reading.ahead import Workers, in_advance

LONG = 60  # seconds; longer than any step of these tests takes


@pytest.mark.parametrize("idle", range(0, 9, 2))
def test_tasks_run_at_once_even_if_threads_have_just_become_idle(idle):
    workers = Workers(8, "test")
    for _ in range(10):
        others = threading.Barrier(idle) if idle else None
        for task in [workers.submit(lambda others=others: others.wait(LONG)) for _ in range(idle)]:
            task.result()
        together = threading.Barrier(8)  # opens when all eight run
        for task in [workers.submit(lambda together=together: together.wait(LONG)) for _ in range(8)]:
            task.result()


def test_no_more_tasks_run_at_once_than_was_allowed():
    workers, running, most, lock = Workers(3, "test"), 0, 0, threading.Lock()

    def task() -> None:
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        with lock:
            running -= 1

    for result in [workers.submit(task) for _ in range(200)]:
        result.result()
    assert 1 <= most <= 3


def test_results_come_in_order_and_an_error_comes_in_its_place():
    workers = Workers(4, "test")
    results = in_advance(workers, lambda number: 12 // (3 - number), range(5), 2)
    assert [next(results) for _ in range(3)] == [4, 6, 12]
    with pytest.raises(ZeroDivisionError):
        next(results)
    assert workers.submit(lambda: "still at work").result() == "still at work"


def test_what_nobody_waits_for_is_not_begun():
    workers, passes, begun = Workers(1, "test"), threading.Semaphore(1), []
    results = in_advance(workers, lambda number: (begun.append(number), passes.acquire(timeout=LONG)), range(9), 4)
    next(results)  # the one thread is at work on the second, or about to be
    results.close()
    passes.release(9)
    workers.submit(lambda: None).result()  # it has done, or passed over, all before
    assert len(begun) <= 2
