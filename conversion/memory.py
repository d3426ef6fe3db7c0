"""Memory that a step has freed, given back to the system.

glibc keeps freed memory for the process, so the scraps of one step would be counted together with those of the next.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
from collections.abc import Callable
from typing import ParamSpec, TypeVar

import pyarrow as pa

P = ParamSpec("P")
R = TypeVar("R")


def release_memory() -> None:
    """Give back what was freed, to Arrow's pool and to glibc."""
    pa.default_memory_pool().release_unused()
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL("libc.so.6").malloc_trim(0)


def frees_memory(step: Callable[P, R]) -> Callable[P, R]:
    """A function that gives back, when it ends, the memory of all but its result."""

    @functools.wraps(step)
    def freeing(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return step(*args, **kwargs)
        finally:
            release_memory()

    return freeing
