"""On Windows: what reads a release says in one line that it cannot, everything that looks at a converted folder works.

A process without what Windows lacks stands in for it: no fork, no reads at an offset, no masks of signals.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests import converted, releases

ROOT = Path(__file__).parents[1]

# What uses `sys.platform` when it is imported is imported before, the project after.
WINDOWS = """
import asyncio, ctypes, errno, multiprocessing, os, signal, subprocess, sys, tempfile, unittest.mock
import datasets, filelock, fsspec, huggingface_hub.hf_api, pyarrow.parquet, PIL.Image, tqdm, datasets.iterable_dataset
for module in ("fcntl", "resource", "termios", "grp", "pwd", "pty"):
    sys.modules[module] = None
for name in ("fork", "pread", "preadv", "pwrite", "pwritev", "posix_fadvise", "register_at_fork", "geteuid"):
    delattr(os, name)
for name in ("pthread_sigmask", "SIGKILL", "SIGHUP", "setitimer"):
    delattr(signal, name)
sys.platform = "win32"
from mmm_rs_cli import cli
sys.exit(cli.main(sys.argv[1:]))
"""


def windows(*arguments) -> subprocess.CompletedProcess:
    command = [sys.executable, "-c", WINDOWS, *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def release(tmp_path_factory):
    return releases.zips_stored([releases.small()[6]], tmp_path_factory.mktemp("release"))


@pytest.fixture(scope="module")
def out(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("windows") / "out"
    converted.write(folder)
    return folder


@pytest.mark.parametrize(
    "words",
    [
        ["inspect", "{release}"],
        ["convert", "{release}", "{place}/out"],
        ["publish", "{release}", "org/MMM-RS", "--staging", "{place}/staging"],
        ["verify", "{out}", "--release", "{release}"],
        ["demo", "{place}/demo"],
    ],
    ids=lambda words: words[0],
)
def test_what_reads_a_release_says_that_it_needs_linux_or_macos(words, release, out, tmp_path):
    ended = windows(*(word.format(release=release, out=out, place=tmp_path) for word in words))
    (line,) = [line for line in ended.stderr.splitlines() if not line.startswith("drawing")]
    assert (ended.returncode, ended.stdout) == (2, "")
    assert line.startswith("mmm-rs: a release is read on Linux and macOS only") and "WSL" in line
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "words",
    [
        ["show", "{out}", "WHU-OPT-SAR/NH49E001013_1_0", "--save", "{place}/saved"],
        ["preview", "{out}", "--output", "{place}/page.html"],
        ["report", "{out}"],
    ],
    ids=lambda words: words[0],
)
def test_what_looks_at_a_converted_folder_works(words, out, tmp_path):
    ended = windows(*(word.format(out=out, place=tmp_path) for word in words))
    assert ended.returncode == 0, ended.stderr
