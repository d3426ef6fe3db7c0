"""Shards written by other processes: pools of processes, and a Dask cluster of a real scheduler and two workers."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import multiprocessing
import os
import re
import signal
import subprocess
import sys
import threading
import time
import types
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path

import pytest

from conversion import cluster, execution, shards
from conversion.errors import OutputError, ReleaseError
from conversion.execution import Interrupted, Watch, announced, check_place, program
from conversion.layout import WORK
from conversion.options import Options
from mmm_rs_cli import cli
from tests import releases
from tests.conversions import convert
from tests.outputs import tree
from tests.test_interruption import complete

ROOT = Path(__file__).parents[1]
PACKAGES = ("conversion", "dataset_card", "mmm_rs_cli", "mmm_rs_hub")
SHARDS = 300  # more than are submitted at a time; of one image each, for what has to happen in the middle


@pytest.fixture(scope="module")
def expected(release, tmp_path_factory):
    """The output of threads here."""
    out = tmp_path_factory.mktemp("expected") / "out"
    convert(release.path, out)
    return tree(out)


@pytest.fixture(scope="module")
def long_release(tmp_path_factory):
    return releases.zips_stored([releases.many("GID", SHARDS)], tmp_path_factory.mktemp("long"))


def shards_in(out: Path) -> int:
    return len(list(out.glob("data/GID/t*.tar")))


def until(condition, seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


# ---------------------------------------------------------------------------------------------------- any executor


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_a_pool_of_processes_writes_the_same_bytes(method, release, expected, tmp_path):
    with ProcessPoolExecutor(2, multiprocessing.get_context(method)) as pool:
        convert(release.path, tmp_path / "out", executor=pool)
        assert tree(tmp_path / "out") == expected
        again = releases.one_zip_of_deflated_zips(release.subsets, tmp_path / "deflated")  # inflated here, read there
        convert(again, tmp_path / "again", executor=pool)
    assert tree(tmp_path / "again") == expected


def test_processes_forked_after_an_interruption_still_work(release, expected, tmp_path):
    def interrupt(*progress):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        convert(release.path, tmp_path / "out", progress=interrupt, workers=2)
    with ProcessPoolExecutor(2, multiprocessing.get_context("fork")) as pool:
        convert(release.path, tmp_path / "out", executor=pool)
    assert tree(tmp_path / "out") == expected


class OneByOne(Executor):
    """The least that an executor may be, as MPI's are: `submit`, and tasks that travel as bytes."""

    def submit(self, function, /, *arguments):
        from pickle import dumps, loads

        future: Future = Future()
        function, arguments = loads(dumps((function, arguments)))
        try:
            future.set_result(loads(dumps(function(*arguments))))
        except BaseException as error:
            future.set_exception(loads(dumps(error)))
        return future


def test_any_executor_does(release, expected, tmp_path):
    convert(release.path, tmp_path / "out", executor=OneByOne())
    assert tree(tmp_path / "out") == expected


class Elsewhere(OneByOne):
    """Tasks on a machine that does not see `folder`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def submit(self, function, /, *arguments):
        hidden = self.folder.with_name("hidden")
        self.folder.rename(hidden)
        try:
            return super().submit(function, *arguments)
        finally:
            hidden.rename(self.folder)


def test_workers_that_do_not_see_the_release_are_named_before_planning(release, tmp_path):
    path = releases.zips_stored(release.subsets, tmp_path / "release")
    with pytest.raises(ReleaseError, match=rf"{path}: does not exist for the worker on .*same path$"):
        convert(path, tmp_path / "out", executor=Elsewhere(tmp_path / "release"))
    assert not (tmp_path / "out").exists()


def test_workers_that_do_not_see_the_output_are_named_before_planning(release, tmp_path):
    (tmp_path / "there").mkdir()
    out = tmp_path / "there" / "out"
    with pytest.raises(OutputError, match=rf"{out}: the worker on .* does not see this folder.*same path$"):
        convert(release.path, out, executor=Elsewhere(tmp_path / "there"))
    assert not out.exists()


def test_a_worker_that_runs_another_program_is_refused(tmp_path, monkeypatch):
    with announced(tmp_path) as run:
        check_place(run, [str(tmp_path)])
        other = dataclasses.replace(run, program="0" * 64)
        with pytest.raises(OutputError, match="another version of mmm-rs"):
            check_place(other, [])


def test_the_program_is_known_by_its_source(tmp_path):
    code = "from conversion.execution import program; print(program())"
    copied = tmp_path / "copy"
    copied.mkdir()
    subprocess.run(["cp", "-r", ROOT / "conversion", ROOT / "mmm_rs.py", copied], check=True)

    def asked() -> str:
        return subprocess.run([sys.executable, "-c", code], cwd=copied, capture_output=True, text=True).stdout.strip()

    assert asked() == program()
    with (copied / "conversion" / "shards.py").open("a") as source:
        source.write("# another\n")
    assert asked() != program()


def test_a_worker_that_never_saw_an_archive_does_not_take_its_images_for_damaged(release, tmp_path):
    """A worker may join later than the first look."""
    path = releases.zips_stored(release.subsets, tmp_path / "release")
    seen = []

    class Later(Elsewhere):
        def submit(self, function, /, *arguments):
            seen.append(function)
            return (
                OneByOne.submit(self, function, *arguments) if len(seen) < 5 else super().submit(function, *arguments)
            )

    with pytest.raises(ReleaseError, match=r"\.zip: does not exist for the worker"):
        convert(path, tmp_path / "out", executor=Later(tmp_path / "release"))
    assert len(list((tmp_path / "out").glob(f"{WORK}/*/markers/*.arrow"))) == 3
    convert(path, tmp_path / "out")
    assert not [name for name in tree(tmp_path / "out") if name.startswith(WORK)]


def test_a_task_stops_when_its_run_is_over(tmp_path):
    with announced(tmp_path) as run:
        watch = Watch(run)
        watch.look()
        with announced(tmp_path) as later:  # as after a kill of the first
            with pytest.raises(Interrupted):
                watch.look()
            watch.check()  # not yet: it looks once a second
            watch.due = 0
            with pytest.raises(Interrupted):
                watch.check()
            Watch(later).look()
    assert list(tmp_path.iterdir()) == []


def test_what_is_left_of_an_interrupted_run_finishes_nothing(long_release, tmp_path, monkeypatch):
    """A task that goes on elsewhere when its run was interrupted: here a thread that is held up before its rename."""
    monkeypatch.setattr(execution, "LOOK", 0.0)
    held, go_on, ended = threading.Event(), threading.Event(), []

    def held_up(batch, *rest):
        held.set()
        go_on.wait(30)
        yield from read(batch, *rest)

    read = shards.samples
    monkeypatch.setattr(shards, "samples", held_up)

    class Pool(ThreadPoolExecutor):
        def submit(self, function, /, *arguments):
            future = super().submit(function, *arguments)
            future.add_done_callback(ended.append)
            return future

    out = tmp_path / "out"
    pool = Pool(1)
    threading.Thread(target=lambda: (held.wait(30), os.kill(os.getpid(), signal.SIGINT))).start()
    with pytest.raises(KeyboardInterrupt):
        convert(long_release, out, executor=pool)
    assert not list(out.rglob("*.tmp"))
    go_on.set()
    pool.shutdown(wait=True)
    running = [future for future in ended if not future.cancelled()]  # the first look, and the task that was held up
    assert [type(future.exception()) for future in running] == [type(None), Interrupted]
    assert shards_in(out) == 0 and not list(out.glob(f"{WORK}/GID/markers/*")) and not list(out.rglob("*.tmp"))


def test_a_shard_that_a_lost_worker_finished_is_not_written_again(release, tmp_path):
    twice = []

    class Twice(OneByOne):
        def submit(self, function, /, *arguments):
            first = super().submit(function, *arguments).result()
            if isinstance(first, shards.Marker) and first.name:
                path = tmp_path / "out" / first.name
                before = path.stat()
                again = super().submit(function, *arguments)
                assert again.result() == first
                twice.append((path.stat().st_ino, path.stat().st_mtime_ns) == (before.st_ino, before.st_mtime_ns))
                return again
            return super().submit(function, *arguments)

    convert(release.path, tmp_path / "out", executor=Twice())
    assert len(twice) > 10 and all(twice)


def test_a_process_that_dies_is_said_in_a_line_and_the_same_call_goes_on(long_release, tmp_path):
    out, options = tmp_path / "out", Options(shard_size=4_000)

    def kill(done, total, what):
        if shards_in(out) >= 50:
            for process in list(pool._processes.values()):
                process.kill()

    with (
        ProcessPoolExecutor(2) as pool,
        pytest.raises(OutputError, match=r"a worker process died.*same command again"),
    ):
        convert(long_release, out, executor=pool, progress=kill, options=options)
    assert not list(out.rglob("*.tmp"))
    kept = complete(out)
    assert len(kept) >= 40  # some that were renamed may lack their marker
    with ProcessPoolExecutor(2) as pool:
        convert(long_release, out, executor=pool, options=options)
    assert shards_in(out) == SHARDS
    assert {path: (path.stat().st_ino, path.stat().st_mtime_ns) for path in kept} == kept


# ------------------------------------------------------------------------------------------------------------ Dask


@dataclasses.dataclass
class Cluster:
    """A scheduler and its workers, each a process of its own on this machine's loopback."""

    folder: Path
    address: str = ""
    scheduler: subprocess.Popen | None = None
    workers: list[subprocess.Popen] = dataclasses.field(default_factory=list)

    def start(self, module: str, *arguments: str, source: Path | None = ROOT) -> subprocess.Popen:
        environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
        if source:
            environment["PYTHONPATH"] = str(source)
        log = (self.folder / f"{module}-{len(self.workers)}.log").open("w")
        return subprocess.Popen(
            [sys.executable, "-m", f"distributed.cli.{module}", *arguments, "--no-dashboard"],
            cwd=self.folder,
            env=environment,
            stdout=log,
            stderr=log,
        )

    def start_scheduler(self, source: Path | None = ROOT) -> None:
        file = self.folder / "scheduler.json"
        file.unlink(missing_ok=True)
        self.scheduler = self.start(
            "dask_scheduler", "--host", "127.0.0.1", "--port", "0", "--scheduler-file", str(file), source=source
        )
        until(lambda: file.exists() and file.read_text().endswith("}"))
        self.address = json.loads(file.read_text())["address"]

    def add_worker(self, source: Path | None = ROOT) -> subprocess.Popen:
        folder = self.folder / f"worker-{len(self.workers)}"
        worker = self.start(
            "dask_worker",
            self.address,
            "--host",
            "127.0.0.1",
            "--nthreads",
            "1",
            "--no-nanny",
            "--local-directory",
            str(folder),
            source=source,
        )
        self.workers.append(worker)
        return worker

    def stop(self) -> None:
        for process in [*self.workers, self.scheduler]:
            if process and process.poll() is None:
                process.kill()
                process.wait()


def is_importable_everywhere() -> bool:
    """Whether mmm-rs is installed in this environment, so that no worker can be without it."""
    process = subprocess.run(
        [sys.executable, "-c", "import conversion"], cwd="/", env={"PATH": ""}, capture_output=True
    )
    return process.returncode == 0


@pytest.fixture
def empty(tmp_path):
    """A cluster without anything."""
    pytest.importorskip("distributed")
    (tmp_path / "cluster").mkdir()
    dask_cluster = Cluster(tmp_path / "cluster")
    yield dask_cluster
    dask_cluster.stop()


@pytest.fixture(scope="module")
def dask(tmp_path_factory):
    """A scheduler and two workers. Not to be harmed by a test."""
    pytest.importorskip("distributed")
    dask_cluster = Cluster(tmp_path_factory.mktemp("cluster"))
    dask_cluster.start_scheduler()
    for _ in range(2):
        dask_cluster.add_worker()
    yield dask_cluster
    dask_cluster.stop()


def command(address: str, *arguments: object) -> list[str]:
    return [sys.executable, "-m", "mmm_rs_cli.cli", "convert", *map(str, arguments), "--dask", address, "--quiet"]


def run(address: str, *arguments: object, **environment: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        command(address, *arguments),
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=100,
        env=os.environ | environment,
    )


@contextlib.contextmanager
def begun(address: str, release: Path, out: Path, shards: int):
    """A conversion in many shards, of which that many are there."""
    process = subprocess.Popen(
        command(address, release, out, "--shard-size", "4kB"),
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        until(lambda: shards_in(out) >= shards or process.poll() is not None)
        assert process.poll() is None, process.communicate()
        yield process
    finally:
        process.kill()
        process.wait()


def one_line(ended: subprocess.CompletedProcess, code: int, *words: str) -> None:
    assert (ended.returncode, ended.stdout) == (code, ""), ended.stderr
    assert len(ended.stderr.splitlines()) == 1, ended.stderr
    for word in ("mmm-rs: ", *words):
        assert word in ended.stderr


def test_a_cluster_writes_the_same_bytes(dask, release, expected, tmp_path):
    ended = run(dask.address, release.path, tmp_path / "out")
    assert (ended.returncode, ended.stderr) == (3, "")
    assert tree(tmp_path / "out") == expected
    again = releases.one_zip_of_deflated_zips(release.subsets, tmp_path / "deflated")
    assert run(dask.address, again, tmp_path / "again").returncode == 3
    assert tree(tmp_path / "again") == expected
    again = run(dask.address, release.path, tmp_path / "out")
    assert (again.returncode, again.stderr) == (3, "") and "nothing to do" in again.stdout


def test_both_workers_write(dask, long_release, tmp_path):
    import distributed

    def tasks(dask_worker) -> int:
        return len(dask_worker.state.log)

    with distributed.Client(dask.address, set_as_default=False) as client:
        client.wait_for_workers(2)
        before = client.run(tasks)
        convert(long_release, tmp_path / "out", executor=client.get_executor(), options=Options(shard_size=4_000))
        after = client.run(tasks)
    assert shards_in(tmp_path / "out") == SHARDS
    assert len(after) == 2 and all(after[worker] > before[worker] for worker in after)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interruption_ends_soon_with_a_line_and_leaves_no_half_file(number, dask, long_release, tmp_path):
    out = tmp_path / "out"
    with begun(dask.address, long_release, out, 30) as process:
        process.send_signal(number)
        stdout, stderr = process.communicate(timeout=5)
    assert process.returncode == 128 + number
    reason = {signal.SIGINT: "interrupted", signal.SIGTERM: "terminated"}[number]
    assert (stdout, stderr) == ("", f"mmm-rs: {reason}. Run the same command again to continue\n")
    assert not list(out.rglob("*.tmp")) and not list(out.glob(f"{WORK}/run-*"))
    kept, count = complete(out), shards_in(out)
    time.sleep(1)
    assert shards_in(out) == count < SHARDS  # the workers have stopped too
    assert run(dask.address, long_release, out, "--shard-size", "4kB").returncode == 0
    assert {path: (path.stat().st_ino, path.stat().st_mtime_ns) for path in kept} == kept


def test_the_lock_is_the_commands(dask, long_release, tmp_path):
    out = tmp_path / "out"
    with begun(dask.address, long_release, out, 10) as process:
        one_line(
            run(dask.address, long_release, out, "--shard-size", "4kB"),
            5,
            str(out),
            "another command is writing to this folder",
        )
        process.kill()  # its lock goes with it, and its tasks find that their run is over
        process.wait()
        assert run(dask.address, long_release, out, "--shard-size", "4kB").returncode == 0
    assert shards_in(out) == SHARDS and not (out / WORK).exists()


def test_a_killed_worker_costs_nothing_but_its_own_shard(empty, long_release, tmp_path):
    out, local = tmp_path / "out", tmp_path / "local"
    empty.start_scheduler()
    first = empty.add_worker()
    empty.add_worker()
    with begun(empty.address, long_release, out, 100) as process:
        first.kill()
        first.wait()
        kept = complete(out)
        _, stderr = process.communicate(timeout=60)
    assert (process.returncode, stderr) == (0, "")
    assert len(kept) >= 90  # some that were renamed may lack their marker
    assert {path: (path.stat().st_ino, path.stat().st_mtime_ns) for path in kept} == kept
    convert(long_release, local, options=Options(shard_size=4_000))
    assert tree(out) == tree(local)  # no temporary file of the killed worker either


def test_a_scheduler_that_is_lost_is_said_in_a_line(empty, long_release, tmp_path):
    empty.start_scheduler()
    empty.add_worker()
    out = tmp_path / "out"
    with begun(empty.address, long_release, out, 20) as process:
        empty.scheduler.kill()
        stdout, stderr = process.communicate(timeout=60)
    ended = subprocess.CompletedProcess([], process.returncode, stdout, stderr)
    one_line(ended, 5, empty.address, "the connection to the Dask scheduler was lost", "same command again")
    assert not list(out.rglob("*.tmp"))
    kept = complete(out)
    convert(long_release, out, options=Options(shard_size=4_000))  # here, for a change
    assert {path: (path.stat().st_ino, path.stat().st_mtime_ns) for path in kept} == kept


def test_a_scheduler_that_does_not_answer(empty, release, tmp_path):
    soon = {"DASK_DISTRIBUTED__COMM__TIMEOUTS__CONNECT": "1s"}
    for address in ("tcp://127.0.0.1:9", "localhost", "smoke://127.0.0.1:8786"):
        ended = run(address, release.path, tmp_path / "out", **soon)
        one_line(ended, 5, f"{address}: no Dask scheduler answers there")
    assert not (tmp_path / "out").exists()


def test_a_scheduler_without_workers(empty, release, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(cluster, "WORKERS_WITHIN", 1)
    empty.start_scheduler()
    code = cli.main(["convert", str(release.path), str(tmp_path / "out"), "--dask", empty.address])
    errors = capsys.readouterr().err
    assert code == 5 and errors.startswith(f"mmm-rs: {empty.address}: no worker") and len(errors.splitlines()) == 1
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("lacking", ["scheduler", "worker"])
def test_a_cluster_without_this_program(lacking, empty, release, tmp_path):
    if is_importable_everywhere():
        pytest.skip("mmm-rs is installed for every Python process here")
    empty.start_scheduler(None if lacking == "scheduler" else ROOT)
    empty.add_worker(None if lacking == "worker" else ROOT)
    ended = run(empty.address, release.path, tmp_path / "out")
    one_line(
        ended, 5, empty.address, "mmm-rs is not installed for", "scheduler" if lacking == "scheduler" else "tcp://"
    )
    assert not (tmp_path / "out").exists()


def test_a_worker_with_another_version_of_this_program(empty, release, tmp_path):
    other = tmp_path / "other"
    other.mkdir()
    subprocess.run(["cp", "-r", *(ROOT / name for name in PACKAGES), ROOT / "mmm_rs.py", other], check=True)
    with (other / "conversion" / "shards.py").open("a") as source:
        source.write("# another version\n")
    empty.start_scheduler()
    empty.add_worker(other)
    ended = run(empty.address, release.path, tmp_path / "out")
    one_line(ended, 5, "another version of mmm-rs", str(other / "conversion"))
    assert not (tmp_path / "out").exists()


def test_without_the_extra_its_name_is_said(release, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "distributed", None)  # as where it is not installed
    code = cli.main(["convert", str(release.path), str(tmp_path / "out"), "--dask", "tcp://127.0.0.1:8786"])
    errors = capsys.readouterr().err
    assert code == 2 and "[dask]" in errors and len(errors.splitlines()) == 1
    assert not (tmp_path / "out").exists()


def test_workers_are_the_clusters_or_ones_own(release, tmp_path, capsys):
    with pytest.raises(SystemExit) as ended:
        cli.main(
            ["convert", str(release.path), str(tmp_path / "out"), "--dask", "tcp://127.0.0.1:8786", "--workers", "2"]
        )
    assert ended.value.code == 2
    assert "not allowed with argument" in capsys.readouterr().err


# ------------------------------------------------------------------------------------------------ the documentation


def code(language: str) -> list[str]:
    """The blocks of code in the documentation of clusters."""
    return re.findall(rf"```{language}\n(.*?)```", (ROOT / "docs" / "cluster.md").read_text(), re.S)


def with_paths(text: str, release: Path, out: Path) -> str:
    for theirs, ours in (
        ("/shared/MMM-RS-hub", out),
        ("./MMM-RS-hub", out),
        ("/shared/MMM-RS", release),
        ("~/Downloads/MMM-RS", release),
    ):
        text = re.sub(rf"{re.escape(theirs)}(?![\w/-])", str(ours), text)
    return text


@pytest.fixture
def commands(tmp_path):
    """A folder for PATH with what a machine of a Slurm cluster has: here all is one machine."""
    folder = tmp_path / "bin"
    folder.mkdir()
    python, root = sys.executable, ROOT
    for name, line in {
        "mmm-rs": f'PYTHONPATH={root} exec {python} -m mmm_rs_cli.cli "$@"',
        "dask": f'PYTHONPATH={root} exec {python} -m distributed.cli.dask_"$@"',
        "srun": 'exec "$@"',
        "hostname": "echo 127.0.0.1",
    }.items():
        (folder / name).write_text(f"#!/bin/bash\n{line}\n")
        (folder / name).chmod(0o755)
    return folder


def test_the_documented_command(dask, commands, release, expected, tmp_path):
    [line] = code("bash")
    line = with_paths(line, release.path, tmp_path / "out").replace("tcp://scheduler:8786", dask.address)
    ended = subprocess.run(
        ["bash", "-c", line], env=os.environ | {"PATH": f"{commands}:{os.environ['PATH']}"}, capture_output=True
    )
    assert ended.returncode == 3, ended.stderr
    assert tree(tmp_path / "out") == expected


def test_the_documented_job_of_slurm(commands, release, expected, tmp_path):
    pytest.importorskip("distributed")
    [script] = code("sbatch")
    script = with_paths(script, release.path, tmp_path / "out")
    script = script.replace("/shared/mmm-rs/.venv", str(commands.parent)).replace(" /tmp ", f" {tmp_path} ")
    job = {"SLURM_JOB_ID": str(os.getpid()), "SLURM_CPUS_PER_TASK": "1"}
    ended = subprocess.run(
        ["bash", "-c", script], env=os.environ | job, cwd=tmp_path, capture_output=True, text=True, timeout=90
    )
    assert ended.returncode == 0, ended.stderr
    assert "out: complete" in ended.stdout
    assert tree(tmp_path / "out") == expected


def test_the_documented_example_of_mpi(release, expected, tmp_path, monkeypatch):
    """Its executor is stood in for by one of processes, which keeps the same contract."""
    stand_in = types.ModuleType("mpi4py.futures")
    stand_in.MPIPoolExecutor = ProcessPoolExecutor
    monkeypatch.setitem(sys.modules, "mpi4py", types.ModuleType("mpi4py"))
    monkeypatch.setitem(sys.modules, "mpi4py.futures", stand_in)
    [example] = code("python")
    exec(
        compile(with_paths(example, release.path, tmp_path / "out"), "convert_mpi.py", "exec"), {"__name__": "__main__"}
    )
    assert tree(tmp_path / "out") == expected
