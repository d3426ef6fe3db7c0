"""What a command writes: its result to standard output, everything else to standard error.

Lines are plain text. Colour is added for a terminal only, and never where `NO_COLOR` is set (https://no-color.org).
"""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TextIO

from conversion.display import visible
from conversion.errors import OutputError

STYLES = {  # ANSI SGR codes
    "bold": "1",
    "red": "31",
    "green": "32",
    "yellow": "33",
    "blue": "34",
    "magenta": "35",
    "cyan": "36",
    "bright magenta": "95",
}

REDRAWN = 0.1  # seconds between two states of a bar on a terminal
LOGGED = 30.0  # seconds between two lines of progress in a file
LINE = "{desc}: {percentage:3.0f}% of {total_fmt}B, {rate_fmt}, {elapsed} elapsed, {remaining} left"


def coloured(stream: TextIO) -> bool:
    """Whether text for this stream may carry colour."""
    return stream.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def painted(text: str, style: str | None, stream: TextIO) -> str:
    """The text in one of STYLES, as far as the stream takes colour."""
    return f"\033[{STYLES[style]}m{text}\033[0m" if style and text and coloured(stream) else text


def result(line: str = "", style: str | None = None) -> None:
    """Write a line of the result, made `visible`. If the reader has gone (`mmm-rs inspect ... | head`), the command
    continues.

    Raises OutputError if standard output cannot be written, for example to a full disk.
    """
    try:
        print(painted(visible(line), style, sys.stdout), flush=True)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except OSError as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise OutputError(
            f"standard output: cannot be written: {error.strerror}. Redirect it elsewhere; the files that the command "
            "wrote are complete"
        ) from None


def note(line: str, style: str | None = None) -> None:
    """Write a line about the work to standard error, made `visible`. If nobody reads it, the work continues."""
    with contextlib.suppress(OSError):
        print(painted(visible(line), style, sys.stderr), file=sys.stderr, flush=True)


def results(text: str) -> None:
    """Write several lines of the result: text of the program's own, or JSON."""
    for line in text.split("\n"):
        result(line)


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    """Lines of a table: the first column is aligned to the left, the others to the right."""
    widths = [max(len(row[column]) for row in [head, *rows]) for column in range(len(head))]
    for row in [head, *rows]:
        cells = (
            cell.rjust(width) if column else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        yield "  ".join(cells).rstrip()


class Progress:
    """Progress over bytes as `progress(done, total, what)`: a bar on a terminal, in a file a plain line now and then.

    Both show how much is done, the total, the rate and the time left. A command has several steps one after another:
    another total, or less done than before, begins the next one. A context manager; leaving it ends the line.
    """

    def __init__(
        self,
        quiet: bool = False,
        stream: TextIO | None = None,
        interval: float = LOGGED,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """
        Args:
            quiet: Show nothing.
            stream: Where to write (default: standard error).
            interval: Seconds between two plain lines.
            clock: Tells the time in seconds.
        """
        self.quiet = quiet
        self.stream = sys.stderr if stream is None else stream
        self.interval, self.clock = interval, clock
        self._bar: Any = None
        self._step: tuple[int, int] | None = None  # bytes done and in all, of the last call
        self._begun = 0.0, 0  # seconds and bytes at the first call of the step
        self._next_line = 0.0  # seconds

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *exception: object) -> None:
        self._end()

    def __call__(self, done: int, total: int, what: str) -> None:
        if self.quiet:
            return
        begins = self._step is None or total != self._step[1] or done < self._step[0]
        if begins:
            self._end()
        elif self._step == (done, total):
            return
        self._step = done, total
        with contextlib.suppress(OSError):  # nobody reads it: the work continues
            if self.stream.isatty():
                self._draw(done, total, what)
            else:
                self._log(done, total, what, begins)

    def note(self, line: str) -> None:
        """Write a line about the work: above the bar of a step at work, below that of one that is complete."""
        if self.quiet:
            return
        if self._step and self._step[0] == self._step[1]:
            self._end()
        with contextlib.suppress(OSError):
            if self._bar is not None:
                self._bar.clear()
            print(visible(line), file=self.stream, flush=True)
            if self._bar is not None:
                self._bar.refresh()

    def _end(self) -> None:
        if self._bar is not None:
            with contextlib.suppress(OSError):
                self._bar.close()
            self._bar = None

    def _draw(self, done: int, total: int, what: str) -> None:
        from tqdm import tqdm

        if self._bar is None:  # only now: lines about planning come before the bar
            self._bar = tqdm(
                unit="B",
                unit_scale=True,
                mininterval=REDRAWN,
                dynamic_ncols=True,
                file=self.stream,
                initial=done,
                total=total,
                desc=what,
            )
        self._bar.set_description(what, refresh=False)
        self._bar.update(done - self._bar.n)

    def _log(self, done: int, total: int, what: str, begins: bool) -> None:
        from tqdm import tqdm

        now = self.clock()
        if begins:
            self._begun, self._next_line = (now, done), now + self.interval
            return
        if now < self._next_line and done < total:
            return
        self._next_line = now + self.interval
        begun, initial = self._begun
        line = tqdm.format_meter(
            done,
            total,
            now - begun,
            prefix=what,
            unit="B",
            unit_scale=True,
            initial=initial,
            bar_format=LINE,
        )
        print(line, file=self.stream, flush=True)
