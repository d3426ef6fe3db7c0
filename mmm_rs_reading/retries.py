"""Trouble that passes: which errors of a request are worth another try, and how long to wait before it.

The one policy of the project. A request is tried `TRIES` times; the wait before the next try doubles from `FIRST_WAIT`
to `LONGEST_WAIT`, and is longer if the server asks for it by `Retry-After`.
"""

from __future__ import annotations

import email.utils
import math
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

TRIES = 8  # of one request
FIRST_WAIT = 0.25  # seconds before the second try
LONGEST_WAIT = 16.0  # seconds before any further try, unless the server asks for more
# Seconds that are waited if a server asks for it, at most: the hub counts requests in windows of 5 minutes.
LONGEST_ASKED_WAIT = 330.0

Result = TypeVar("Result")


def attempt(
    call: Callable[[], Result],
    passes: Callable[[Exception], bool],
    announce: Callable[[Exception, int, float], object] | None = None,
    stopped: threading.Event | None = None,
) -> Result:
    """The call's result, after as many tries as it takes.

    Args:
        call: What to do.
        passes: Whether a try after this error can succeed. If not, the error is raised.
        announce: Called before each wait with the error, the number of tries so far, and the seconds to wait.
        stopped: Set by another thread when nobody wants the result any more: there is no further try then.

    Raises:
        Exception: The error of the last try.
    """
    pauses, stopped = waits(), stopped or threading.Event()
    for number in range(1, TRIES):
        try:
            return call()
        except Exception as error:
            if not passes(error):
                raise
            pause = max(next(pauses), asked_wait(error))
            if announce is not None:
                announce(error, number, pause)
            if stopped.wait(pause):
                raise
    return call()


def waits() -> Iterator[float]:
    """Seconds to wait before each further try."""
    wait = FIRST_WAIT
    while True:
        yield wait
        wait = min(2 * wait, LONGEST_WAIT)


def asked_wait(error: BaseException) -> float:
    """The seconds that a server asks to wait with the answer that an error carries; 0 if it does not."""
    response = getattr(error, "response", None)
    headers = getattr(error if response is None else response, "headers", None) or {}
    return retry_after(headers.get("Retry-After"))


def retry_after(value: Any) -> float:
    """The seconds of a `Retry-After` header (seconds or a date), at most LONGEST_ASKED_WAIT; 0 for nonsense."""
    try:
        seconds = float(value)
    except (TypeError, ValueError):
        try:
            seconds = email.utils.parsedate_to_datetime(value).timestamp() - time.time()
        except (TypeError, ValueError, AttributeError, OverflowError):
            return 0.0
    return min(seconds, LONGEST_ASKED_WAIT) if math.isfinite(seconds) and seconds > 0 else 0.0


def status_of(error: BaseException) -> int | None:
    """The HTTP status that an error of requests, httpx or aiohttp carries."""
    for holder in (error, getattr(error, "response", None)):
        for name in ("status_code", "status"):
            if isinstance(value := getattr(holder, name, None), int):
                return value
    return None


def is_passing_status(status: int) -> bool:
    """Whether the same request may be answered otherwise a moment later."""
    return status in (408, 429) or status >= 500


def is_offline(error: BaseException) -> bool:
    """Whether the hub's client was told to stay offline. It has had this exception in several modules."""
    return type(error).__name__ == "OfflineModeIsEnabled"
