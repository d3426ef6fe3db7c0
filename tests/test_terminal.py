"""What the command line writes where: plain lines to files, one moving line and colour to a terminal."""

from __future__ import annotations

import fcntl
import io
import os
import pty
import re
import struct
import subprocess
import sys
import termios
from pathlib import Path

import pytest

from dataset_card.card import write as write_card
from mmm_rs_cli import terminal
from tests import converted, releases
from tests.hub import Hub

ROOT = Path(__file__).parents[1]
CONTROL = re.compile(r"[\x00-\x09\x0b-\x1f\x7f]")  # all but the newline


class Clock:
    """Tells seconds that a test sets."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_progress_in_a_file_is_a_plain_line_now_and_then():
    stream, clock = io.StringIO(), Clock()
    with terminal.Progress(stream=stream, interval=30.0, clock=clock) as progress:
        for second in range(1, 101):
            clock.now = float(second)
            progress(second * 1_000_000, 100_000_000, "GID")
    lines = stream.getvalue().splitlines()
    assert [line.split()[1] for line in lines] == ["31%", "61%", "91%", "100%"]
    assert lines[0] == "GID:  31% of 100MB, 1.00MB/s, 00:30 elapsed, 01:09 left"
    assert not CONTROL.search(stream.getvalue())


def test_what_was_there_before_does_not_count_for_the_rate():
    stream, clock = io.StringIO(), Clock()
    with terminal.Progress(stream=stream, interval=5.0, clock=clock) as progress:
        progress(90_000_000, 100_000_000, "GID")
        clock.now = 10.0
        progress(95_000_000, 100_000_000, "GID")
    assert stream.getvalue() == "GID:  95% of 100MB, 500kB/s, 00:10 elapsed, 00:10 left\n"


def test_another_total_or_less_done_begins_another_step():
    stream, clock = io.StringIO(), Clock()
    with terminal.Progress(stream=stream, interval=5.0, clock=clock) as progress:
        for total, what in ((100_000_000, "GID"), (100_000_000, "sending"), (300_000_000, "sending")):
            for part in range(3):
                progress(part * total // 2, total, what)
                clock.now += 5.0
            progress(total, total, what)  # nothing new: no line
    lines = stream.getvalue().splitlines()
    assert [line.split(",")[0] for line in lines] == [
        "GID:  50% of 100MB",
        "GID: 100% of 100MB",
        "sending:  50% of 100MB",
        "sending: 100% of 100MB",
        "sending:  50% of 300MB",
        "sending: 100% of 300MB",
    ]
    assert lines[-1].endswith("00:10 elapsed, 00:00 left")


def test_quiet_progress_writes_nothing():
    stream = io.StringIO()
    with terminal.Progress(quiet=True, stream=stream, interval=0.0) as progress:
        progress(1, 1, "GID")
        progress.note("planning GID")
    assert stream.getvalue() == ""


def test_a_reader_that_has_gone_does_not_end_the_work():
    class Closed(io.StringIO):
        def write(self, text: str) -> int:
            raise BrokenPipeError

    with terminal.Progress(stream=Closed(), interval=0.0) as progress:
        for done in range(3):
            progress(done, 3, "GID")


def on_a_terminal(arguments: list, **environment: str) -> str:
    """What a command writes to a terminal, standard output and error together."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 100, 0, 0))  # lines, columns
    inherited = {name: value for name, value in os.environ.items() if name != "HF_HUB_DISABLE_PROGRESS_BARS"}
    process = subprocess.Popen(
        [sys.executable, "-m", "mmm_rs_cli.cli", *map(str, arguments)],
        cwd=ROOT,
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        env={**inherited, "TERM": "xterm", **environment},
    )
    os.close(theirs)
    written = b""
    try:
        while part := os.read(ours, 4096):
            written += part
    except OSError:  # Linux tells the end of a terminal so
        pass
    finally:
        os.close(ours)
    assert process.wait() in (0, 3)
    return written.decode()


@pytest.fixture(scope="module")
def release(tmp_path_factory):
    return releases.zips_stored(releases.small()[5:7], tmp_path_factory.mktemp("release"))


def test_a_terminal_gets_colour_and_one_line_of_progress(release, tmp_path):
    written = on_a_terminal(["convert", release, tmp_path / "out"])
    assert "\x1b[33m" in written and "except for" in written  # yellow
    (bar,) = [line for line in written.split("\r\n") if "100%" in line]
    state = bar.rsplit("\r", 1)[-1]  # it is drawn over itself
    assert re.search(r"100%.*\d+(\.\d+)?[kM]?/\d+(\.\d+)?[kM]? \[\d\d:\d\d<\d\d:\d\d, .*B/s\]", state), state


def test_an_upload_on_a_terminal_draws_one_line_for_each_step(tmp_path):
    converted.write(tmp_path / "MMM-RS")
    write_card(tmp_path / "MMM-RS")
    with Hub() as hub:
        arguments = ["upload", tmp_path / "MMM-RS", "org/MMM-RS", "--yes"]
        written = on_a_terminal(arguments, HF_HOME=str(tmp_path / "home"), **hub.environment)
    lines = written.split("\r\n")
    bars = [line.rsplit("\r", 1)[-1] for line in lines if "%|" in line]
    assert len(bars) == 2 and all("100%" in bar for bar in bars)  # reading, sending
    assert bars[1].startswith("sending: ")


def test_a_line_about_the_work_stands_above_the_bar():
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    stream = Terminal()
    with terminal.Progress(stream=stream) as progress:
        progress(1, 4, "sending")
        progress.note("trying again\x1b[31m")
        progress(4, 4, "sending")
    before, after = stream.getvalue().split("trying again")
    assert before.endswith("\r") and after.startswith("\\x1b[31m\n")
    assert "100%" in after


@pytest.mark.parametrize("environment", [{"NO_COLOR": "1"}, {"TERM": "dumb"}])
def test_no_colour_where_it_is_not_wanted(release, tmp_path, environment):
    written = on_a_terminal(["convert", release, tmp_path / "out"], **environment)
    assert "except for" in written and "\x1b" not in written


def test_a_pipe_gets_neither_colour_nor_control_characters(release, tmp_path):
    command = [sys.executable, "-m", "mmm_rs_cli.cli", "convert", release, tmp_path / "out"]
    ended = subprocess.run(list(map(str, command)), cwd=ROOT, capture_output=True, text=True, check=False)
    assert ended.returncode == 3 and "100% of" in ended.stderr
    assert not CONTROL.search(ended.stdout) and not CONTROL.search(ended.stderr)
