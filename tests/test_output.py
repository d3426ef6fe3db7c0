"""An output that cannot be written is said in one line; nothing half done gets a final name, and once the trouble is
fixed, the same command continues."""

from __future__ import annotations

import contextlib
import errno
import functools
import os
import random
import re
import resource
import shutil
import signal
import subprocess
import tempfile
from pathlib import Path

import PIL.Image
import pytest

from conversion.disk import RESERVE
from conversion.errors import REPORTED, OutputError
from conversion.layout import WORK
from tests import releases, stopping
from tests.conversions import convert
from tests.outputs import tree

SUBSETS = ("SEN1-2", "Inria")
AS_ROOT = os.geteuid() == 0
NOBODY = 65534


@pytest.fixture(scope="module")
def release(tmp_path_factory):
    chosen = [subset for subset in releases.small() if subset.name in SUBSETS]
    return releases.zips_stored(chosen, tmp_path_factory.mktemp("release"))


@pytest.fixture(scope="module")
def expected(release, tmp_path_factory):
    out = tmp_path_factory.mktemp("expected") / "out"
    convert(release, out)
    return tree(out)


def command(release, out, notes, prepare=None, signal_number=0, moment=0):
    arguments = ["convert", str(release), str(out), "--workers", "2", "--quiet"]
    return stopping.run(arguments, notes, signal_number, moment, prepare)


def finished(out: Path) -> dict[str, str]:
    """The files that have their final names, with their digests; not what an unfinished conversion keeps to go on."""
    return {name: digest for name, digest in tree(out).items() if not name.startswith(WORK + "/")}


def one_line(run: stopping.Run, *says: str) -> None:
    """The run ended for the output's sake, and said so in one line that names the remedy."""
    assert run.code == 5, run.output
    assert run.output.startswith("mmm-rs: ") and len(run.output.splitlines()) == 1
    assert run.output.rstrip().endswith("run the same command again")
    for part in says:
        assert part in run.output


@contextlib.contextmanager
def file_system(folder: Path, *options: str):
    """A small file system in memory. Skips the test where this process may not mount one."""
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", ",".join(options), "tmpfs", str(folder)]
    if shutil.which("mount") is None or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("no file system can be mounted here")
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def test_a_disk_too_small_is_refused_before_anything_is_written(release, tmp_path):
    with file_system(tmp_path / "disk", "size=1m") as disk:
        run = command(release, disk / "out", tmp_path)
        assert run.code == 5 and len(run.output.splitlines()) == 1
        assert re.search(r"[\d.]+ MB are needed and 1\.0 MB are free", run.output)
        assert finished(disk / "out") == {}


@pytest.mark.parametrize("step", [1, 4, 9])  # in the shards; 9 of 9: after the last
def test_a_disk_that_fills_up(step, release, expected, tmp_path):
    with file_system(tmp_path / "disk", f"size={RESERVE + 4_000_000}") as disk:
        ballast, done = disk / "ballast", []

        def fill(*progress):
            done.append(progress)
            if len(done) == step:
                with contextlib.suppress(OSError), open(ballast, "wb", buffering=0) as file:
                    while True:
                        file.write(bytes(4096))

        with pytest.raises(OutputError, match=r"No space left on device\. Free disk space, then run"):
            convert(release, disk / "out", workers=1, progress=fill)
        assert len(done) >= step
        assert finished(disk / "out").items() <= expected.items()
        before = {path: path.stat().st_ino for path in disk.glob("out/data/*/*.tar")}
        assert len(before) >= step
        ballast.unlink()
        convert(release, disk / "out", workers=1)
        assert tree(disk / "out") == expected
        assert {path: path.stat().st_ino for path in before} == before


def limit_files(size: int) -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))


def test_files_limited_in_size(release, expected, tmp_path):
    """As on a disk that is full, in what is larger than a shard: the plan, the index, the module, the pictures."""
    out, size, names = tmp_path / "out", 600, set()
    while True:
        run = command(release, out, tmp_path / "notes", functools.partial(limit_files, size))
        assert finished(out).items() <= expected.items()
        assert not list(out.rglob("*.tmp"))
        if run.code == REPORTED:
            break
        one_line(run, "File too large")
        names.add(Path(run.output.split(": ")[1]).suffix)
        size = size * 8 // 5  # so that the same command comes further
    assert tree(out) == expected
    assert names >= {"", ".parquet", ".py"}


def test_a_read_only_file_system(release, expected, tmp_path):
    with file_system(tmp_path / "disk", "size=80m") as disk:
        subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
        run = command(release, disk / "out", tmp_path)
        one_line(run, "Read-only file system", "Choose an output folder that can be written")
        subprocess.run(["mount", "-o", "remount,rw", str(disk)], check=True)
        assert command(release, disk / "out", tmp_path).code == REPORTED
        assert tree(disk / "out") == expected


def become_nobody() -> None:
    if AS_ROOT:  # to whom permissions are nothing
        PIL.Image.init()  # while it may still read the plugins' files
        os.setgroups([])
        os.setgid(NOBODY)
        os.setuid(NOBODY)


@pytest.fixture
def shared(release):
    """A folder that everybody may enter, with the release in it: pytest's own are its user's alone."""
    folder = Path(tempfile.mkdtemp(prefix="mmm-rs-shared-"))
    folder.chmod(0o755)
    shutil.copytree(release, folder / "release")
    yield folder
    shutil.rmtree(folder)


def give(folder: Path) -> None:
    """To whoever runs the command."""
    for path in [folder, *folder.rglob("*")] if AS_ROOT else []:
        os.chown(path, NOBODY, NOBODY)


@pytest.mark.parametrize("denied", [".", "data", "data/Inria", "index", "assets", ".mmm-rs/Inria/markers"])
def test_permission_denied(denied, shared, expected, tmp_path):
    out = shared / "out"
    (out / denied).mkdir(parents=True)
    give(out)
    (out / denied).chmod(0o555)
    run = command(shared / "release", out, tmp_path, become_nobody)
    one_line(run, f"{out / denied}/", "Permission denied", "Fix the permissions of the folder")
    assert finished(out).items() <= expected.items()
    (out / denied).chmod(0o755)
    assert command(shared / "release", out, tmp_path).code == REPORTED
    assert tree(out) == expected


def test_an_overwrite_that_may_not_remove(release, expected, shared, tmp_path):
    out = shared / "out"
    convert(release, out)
    arguments = ["convert", str(shared / "release"), str(out), "--overwrite", "--quiet"]
    give(out)
    (out / "data").chmod(0o555)
    one_line(stopping.run(arguments, tmp_path, prepare=become_nobody), "Permission denied")
    (out / "data").chmod(0o755)
    assert stopping.run(arguments, tmp_path).code == REPORTED
    assert tree(out) == expected


def poor_file_system() -> None:
    """Neither syncs nor renames over a file, as some network and user-space file systems."""
    replace = os.replace

    def without_sync(fd: int) -> None:
        raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))

    def not_over_a_file(source, target) -> None:
        if os.path.exists(target):
            raise OSError(errno.EPERM, os.strerror(errno.EPERM), source, None, target)
        replace(source, target)

    os.fsync, os.replace = without_sync, not_over_a_file


def test_a_file_system_without_sync_and_rename_over_a_file(release, expected, tmp_path):
    draw = random.Random(2)
    out = tmp_path / "out"
    for _ in range(5):
        run = command(release, out, tmp_path, poor_file_system, signal.SIGKILL, draw.randrange(40, 280))
        assert run.code in (-signal.SIGKILL, REPORTED), run.output
    assert command(release, out, tmp_path, poor_file_system).code == REPORTED
    assert tree(out) == expected
    arguments = ["card", str(out)]  # writes over files that are there
    assert stopping.run(arguments, tmp_path, prepare=poor_file_system).code == 0
    assert tree(out) == expected


def test_a_file_where_the_output_folder_should_be(release, tmp_path):
    (tmp_path / "out").write_text("mine")
    one_line(command(release, tmp_path / "out", tmp_path / "notes"), str(tmp_path / "out"))
    assert (tmp_path / "out").read_text() == "mine"


def test_a_second_conversion_says_that_the_first_is_running(release, expected, tmp_path):
    out, seen = tmp_path / "out", []

    def second(*progress):
        if not seen:
            seen.append(command(release, out, tmp_path / "notes"))

    convert(release, out, workers=1, progress=second)
    assert seen[0].code == 5 and len(seen[0].output.splitlines()) == 1
    assert "another command is writing to this folder" in seen[0].output
    assert tree(out) == expected


def test_the_lock_of_a_killed_conversion_does_not_block(release, expected, tmp_path):
    out = tmp_path / "out"
    assert command(release, out, tmp_path, signal_number=signal.SIGKILL, moment=150).code == -signal.SIGKILL
    assert (out / WORK / "lock").exists()
    assert command(release, out, tmp_path).code == REPORTED
    assert tree(out) == expected
