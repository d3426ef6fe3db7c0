"""Whenever a conversion is stopped, the same command goes on and ends with the same bytes."""

from __future__ import annotations

import multiprocessing
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import mmm_rs
from conversion import execution, images
from conversion.errors import REPORTED, OutputError
from conversion.layout import WORK
from tests import releases, stopping
from tests.conversions import convert
from tests.outputs import tree

# Aligned images, images and records without a partner; in the second form the subsets have to be inflated first.
FORMS = {form.__name__: form for form in (releases.zips_stored, releases.one_zip_of_deflated_zips)}
KILLS = 25  # in each form


class Conversion:
    """A release, an undisturbed conversion of it, and conversions that are stopped."""

    def __init__(self, form: str, folder: Path) -> None:
        chosen = [subset for subset in releases.small() if subset.name in ("SEN1-2", "Inria")]
        self.release, self.folder = FORMS[form](chosen, folder / "release"), folder
        undisturbed = self.run(folder / "undisturbed")
        assert undisturbed.code == REPORTED, undisturbed.output
        self.expected, self.moments = tree(folder / "undisturbed"), undisturbed.moments

    def run(self, out: Path, signal_number: int = 0, moment: int = 0, *options: str) -> stopping.Run:
        arguments = ["convert", str(self.release), str(out), "--workers", "2", *options]
        return stopping.run(arguments, self.folder / "notes", signal_number, moment)


@pytest.fixture(scope="module")
def conversions(tmp_path_factory):
    by_form: dict[str, Conversion] = {}

    def conversion(form: str) -> Conversion:
        if form not in by_form:
            by_form[form] = Conversion(form, tmp_path_factory.mktemp(form))
        return by_form[form]

    return conversion


def complete(out: Path) -> dict[Path, tuple[int, int]]:
    """The shards whose markers say that they are done, with what changes when a file is written again."""
    markers = {tuple(path.relative_to(out / WORK).parts[::2]) for path in out.glob(f"{WORK}/*/markers/[0-9]*.arrow")}
    shards = (path for path in out.glob("data/*/*.tar") if (path.parent.name, path.name[6:11] + ".arrow") in markers)
    return {path: (path.stat().st_ino, path.stat().st_mtime_ns) for path in shards}


@pytest.mark.parametrize("form", FORMS)
def test_a_conversion_killed_at_random_moments_goes_on_to_the_same_bytes(form, conversions, tmp_path):
    conversion, draw = conversions(form), random.Random(f"kills {form}")
    kills = number = 0
    while kills < KILLS:
        number += 1
        out, kept = tmp_path / f"out{number}", {}
        # Each command may be killed like the one before; every second output is left in peace after one kill.
        for attempt in range(1 + number % 2 * 4):
            moment = draw.randrange(1, conversion.moments if not attempt else conversion.moments // 2)
            run = conversion.run(out, signal.SIGKILL, moment)
            assert run.code in (-signal.SIGKILL, REPORTED), run.output
            kills += run.code == -signal.SIGKILL
            kept |= complete(out)
        assert conversion.run(out).code == REPORTED
        assert tree(out) == conversion.expected  # and so nothing else is left, no temporary file nor the work folder
        assert {path: (path.stat().st_ino, path.stat().st_mtime_ns) for path in kept} == kept


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("form", FORMS)
def test_a_conversion_that_is_asked_to_stop_does_so_with_one_line(form, number, conversions, tmp_path):
    conversion, draw = conversions(form), random.Random(f"{number} {form}")
    out = tmp_path / "out"
    for _ in range(6):
        run = conversion.run(out, number, draw.randrange(1, conversion.moments), "--quiet")
        if run.code == REPORTED:
            break
        assert run.code == 128 + number
        assert run.seconds < 2
        reason = {signal.SIGINT: "interrupted", signal.SIGTERM: "terminated"}[number]
        assert run.output == f"mmm-rs: {reason}. Run the same command again to continue\n"
        assert not list(out.rglob("*.tmp"))
    assert conversion.run(out).code == REPORTED
    assert tree(out) == conversion.expected


def begun(folder: Path, *options: str) -> subprocess.Popen[str]:
    """The installed command with 2000 shards to write, of which the first is there."""
    release = releases.zips_stored([releases.many("GID", 2000)], folder / "release")
    arguments = ["convert", str(release), str(folder / "out"), "--quiet", "--shard-size", "4kB", *options]
    command = [sys.executable, "-m", "mmm_rs_cli.cli", *arguments]
    root = Path(__file__).parents[1]
    process = subprocess.Popen(command, cwd=root, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    while not list(folder.glob("out/data/GID/t*.tar")):
        assert process.poll() is None, process.communicate()
        time.sleep(0.01)
    return process


def test_what_reads_an_unfinished_conversion_says_that_it_is_one(conversions, tmp_path):
    conversion, out = conversions("zips_stored"), tmp_path / "out"
    assert conversion.run(out, signal.SIGINT, conversion.moments // 2).code == 128 + signal.SIGINT
    for read in (lambda: mmm_rs.load_dataset("Inria", str(out), split="train"), lambda: mmm_rs.info(str(out))):
        with pytest.raises(mmm_rs.ReadError, match=r"unfinished conversion or export\. Run the command that began it"):
            read()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_installed_command_stops_at_a_signal(number, tmp_path):
    process = begun(tmp_path)
    process.send_signal(number)
    stdout, stderr = process.communicate(timeout=2)
    assert process.returncode == 128 + number
    assert (stdout, len(stderr.splitlines())) == ("", 1)
    assert not list(tmp_path.glob("out/**/.*.tmp"))


def test_an_interrupted_overwrite_goes_on_with_what_it_wrote(conversions, tmp_path):
    conversion, out = conversions("zips_stored"), tmp_path / "out"
    assert conversion.run(out).code == REPORTED
    before = {path: path.stat().st_ino for path in out.glob("data/*/*.tar")}
    kept: dict[Path, tuple[int, int]] = {}
    # Both are killed amid the shards; the second has less to plan. So neither comes to its end.
    for share in (0.6, 0.35):
        run = conversion.run(out, signal.SIGKILL, int(share * conversion.moments), "--overwrite")
        assert run.code == -signal.SIGKILL, run.output
        now = complete(out)
        assert now.items() >= kept.items()
        kept = now
    assert kept
    run = conversion.run(out, 0, 0, "--overwrite")
    assert run.code == REPORTED
    assert tree(out) == conversion.expected
    assert {path: (path.stat().st_ino, path.stat().st_mtime_ns) for path in kept} == kept
    assert before.keys() == set(out.glob("data/*/*.tar"))


def test_a_subset_that_comes_later_and_is_interrupted(conversions, tmp_path):
    conversion, draw = conversions("zips_stored"), random.Random("later")
    for number in range(3):
        out = tmp_path / f"out{number}"
        assert conversion.run(out, 0, 0, "--subset", "Inria").code == REPORTED
        first = {path: path.stat().st_ino for path in out.glob("data/Inria/*.tar")}
        assert conversion.run(out, signal.SIGKILL, draw.randrange(20, 200)).code == -signal.SIGKILL
        assert conversion.run(out).code == REPORTED
        assert tree(out) == conversion.expected
        assert {path: path.stat().st_ino for path in out.glob("data/Inria/*.tar")} == first


def test_a_conversion_that_is_asked_to_stop_while_its_workers_start(conversions, tmp_path):
    conversion = conversions("zips_stored")
    for moment in range(1, 25, 2):
        assert conversion.run(tmp_path / "out", signal.SIGINT, moment, "--quiet").code == 128 + signal.SIGINT


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere workers are threads")
def test_a_worker_that_dies_is_named_and_leaves_nothing_half_written(conversions, tmp_path, monkeypatch):
    conversion, out = conversions("zips_stored"), tmp_path / "out"

    def die(*_):
        assert multiprocessing.parent_process(), "not in a process of its own"
        os.kill(os.getpid(), signal.SIGKILL)

    with monkeypatch.context() as patch:
        patch.setattr(images, "measure", die)
        with pytest.raises(OutputError, match=r"a worker process died: .* continues where it stopped"):
            convert(conversion.release, out, workers=2)
    assert not list(out.rglob("*.tmp"))
    assert conversion.run(out).code == REPORTED
    assert tree(out) == conversion.expected


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere workers are threads")
def test_workers_end_with_the_process_that_began_them(tmp_path):
    process = begun(tmp_path, "--workers", "2")
    workers = [int(pid) for pid in Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()]
    assert len(workers) == 2
    process.kill()
    process.wait()
    for _ in range(500):
        if not any(map(runs, workers)):
            return
        time.sleep(0.01)
    raise AssertionError("a worker still runs")


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere workers are threads")
def test_workers_that_cannot_all_be_started_end_with_one_line(tmp_path):
    release = releases.zips_stored([releases.small(unmatched=False)[6]], tmp_path / "MMM-RS")
    command = ["mmm-rs", "convert", release, tmp_path / "out", "--workers", "100"]
    ended = subprocess.run(
        ["sh", "-c", 'ulimit -n 80; exec "$@"', "sh", Path(sys.executable).parent / command[0], *command[1:]],
        capture_output=True,
        text=True,
        timeout=300,  # Python waited forever for the workers that had started
    )
    assert (ended.returncode, ended.stdout) == (OutputError.exit_code, "")
    assert ended.stderr == (
        "mmm-rs: 100 worker processes cannot be started: Too many open files. Give a smaller number with --workers, "
        "then run the same command again\n"
    )
    assert not (tmp_path / "out").exists()


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere workers are threads")
def test_no_more_workers_are_started_than_could_have_a_task(monkeypatch):
    monkeypatch.setattr(execution, "AHEAD", 3)
    before = set(multiprocessing.active_children())
    with execution.local(100_000):
        assert len(set(multiprocessing.active_children()) - before) == 3


def runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False
