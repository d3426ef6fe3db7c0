"""One conversion: from a release to an output folder. Plan, write the shards, then what is made from them.

While a conversion is unfinished its state lies in OUT/.mmm-rs: a lock, the options, and for each subset its plan, its
records and the markers of the shards that are done. The same command goes on from there, one with --overwrite too: it
removes what an earlier conversion left, not what it wrote itself before it was interrupted. The folder is removed last.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import json
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Executor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import filelock
import pyarrow as pa

import mmm_rs
from conversion import manifest, release, report, shards
from conversion.archives import Archive, content_id, extracted
from conversion.errors import OutputError, ReleaseError, UsageError
from conversion.execution import Run, announced, check_place, completed, threads
from conversion.plan import Options, PlanFile, make
from conversion.release import Problem, Release, SubsetFiles
from conversion.shards import Task, finished, read_marker, replacing, write_all, write_shard
from dataset_card.card import write_card

WORK = ".mmm-rs"
BEGUN = "options.json"  # in the work folder, as long as the conversion is unfinished
PRODUCTS = ("data", "index", "report", "assets", "README.md", "croissant.json", "mmm_rs.py", manifest.NAME)
RESERVE = 64_000_000  # bytes for index, report and card, beside a tenth of the shards' JSON


@dataclass(frozen=True)
class Result:
    """What a conversion came to. `written` is False where everything was there already."""

    out: Path
    manifest: dict[str, Any]
    summary: dict[str, Any]
    written: bool

    @property
    def reported(self) -> int:
        """Images, records and sources of the release that were not published."""
        total = self.summary["total"]
        stray = self.summary["unknown"]
        return (total["images"].get("reported", 0) + total["records"].get("reported", 0) + len(self.summary["sources"])
                + stray["images"] + stray["annotations"])  # fmt: skip


@dataclass(frozen=True)
class _Subset:
    """A subset in conversion and where its state lies."""

    files: SubsetFiles
    work: Path
    plan: PlanFile
    problems: tuple[Problem, ...]

    @property
    def inner(self) -> list[Archive]:
        """Compressed archives within archives, which must be inflated to a file before their images can be read."""
        return [part.archive for part in self.files.parts if part.archive.inside]

    def marker(self, number: int) -> Path:
        return self.work / "markers" / f"{number:05d}.arrow"

    def tasks(self, out: Path, archives: tuple[Archive, ...], decode: bool, run: Run) -> list[Task]:
        return [
            Task(str(self.work / "plan.arrow"), str(self.work / "records.bin"), number, self.plan.subset, shard.split,
                 archives, shard.name, str(out), str(self.marker(number)), decode, run)
            for number, shard in enumerate(self.plan.shards) if not self.done(out, number)
        ]  # fmt: skip

    def done(self, out: Path, number: int) -> bool:
        return finished(out, self.marker(number)) is not None

    def markers(self) -> list[Path]:
        return [self.marker(number) for number in range(len(self.plan.shards))]


def convert(
    release_path: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    subsets: Sequence[str] | None = None,
    options: Options | None = None,
    workers: int | None = None,
    executor: Executor | None = None,
    annotations: str | os.PathLike[str] | None = None,
    overwrite: bool = False,
    progress: Callable[[int, int, str], None] | None = None,
    say: Callable[[str], None] = lambda line: None,
) -> Result:
    """Convert a release into the folder `out`; called again after an interruption it goes on.

    `subsets`: only these; all that are there otherwise. `executor`: any `concurrent.futures.Executor`, instead of
    `workers` threads; its workers run this very program and see both folders under the same paths. `annotations`: a
    folder or zip with the annotation files, where they are not beside the images. `progress(done, total, what)` is told
    of bytes, `say` of each step in a line.

    Raises UsageError, ReleaseError or OutputError.
    """
    out = Path(out).absolute()
    options = options or Options()
    _check(out, subsets, options)
    with _locked(out) as work:
        if overwrite and _begun(work) != {"options": asdict(options), "overwrite": True}:
            _remove(out, work)
        earlier = _earlier(out, work, options)
        found = release.find(release_path, annotations, exclude=out)
        wanted = _wanted(found, subsets, release_path)
        new = [name for name in wanted if earlier is None or name not in earlier["subsets"]]
        if earlier and not new and not _begun(work):
            _check_whole(out, earlier)
            _clear(work)
            return Result(out, earlier, json.loads((out / report.SUMMARY).read_bytes()), written=False)
        if executor:
            _try(executor, work, [str(Path(release_path).absolute())])
        if not _begun(work):
            manifest.write_json(work / BEGUN, {"options": asdict(options), "overwrite": overwrite})
        _sweep(out)
        _check_begun(out, work, found, {*wanted, *(earlier or {"subsets": ()})["subsets"]}, overwrite)
        planned = [_plan(found.subsets[name], out, work / name, options, overwrite, say) for name in new]
        _release_memory()
        _check_disk(out, planned)
        _write_shards(out, planned, options, workers, executor, progress)
        say("writing index, report, card and manifest")
        result = _finish(out, found, planned, earlier, options)
        _clear(work)
        return result


def _check(out: Path, subsets: Sequence[str] | None, options: Options) -> None:
    if out.resolve().name == "mmm_rs":
        raise UsageError(f"{out}: a folder or repository called mmm_rs that holds mmm_rs.py is taken for a loading "
                         "script, which no `datasets` since 4.0 loads. Call it otherwise, such as MMM-RS")  # fmt: skip
    for name in subsets or ():
        if name not in mmm_rs.SUBSETS:
            raise UsageError(f"{name}: no such subset. The subsets are {', '.join(mmm_rs.SUBSETS)}")
    if not 0 <= options.validation < 1:
        raise UsageError(f"--validation {options.validation}: give a share of the scenes from 0 to below 1")
    if options.shard_size < 1:
        raise UsageError(f"--shard-size {options.shard_size}: give a size above zero")


@contextlib.contextmanager
def _locked(out: Path) -> Iterator[Path]:
    """The work folder, with its lock held. The system drops the lock of a process that was killed."""
    work, made = out / WORK, not out.exists()
    with _writing(work):
        work.mkdir(parents=True, exist_ok=True)
    lock = filelock.FileLock(work / "lock")
    try:
        lock.acquire(timeout=0)
    except filelock.Timeout:
        raise OutputError(f"{out}: another conversion into this folder is running. Wait for it, or choose another "
                          "folder") from None  # fmt: skip
    except (OSError, NotImplementedError) as error:  # the latter: a file system without locks
        raise shards.output_error(work / "lock", error) from None
    try:
        yield work
    finally:
        with contextlib.suppress(OSError):
            if [path.name for path in work.iterdir()] == ["lock"]:  # nothing was begun, or all is complete
                (work / "lock").unlink()
                work.rmdir()
                if made:
                    out.rmdir()  # only where it is empty
        lock.release()


@contextlib.contextmanager
def _writing(path: Path) -> Iterator[None]:
    """Say it in one line where the file system refuses."""
    try:
        yield
    except OSError as error:
        raise shards.output_error(Path(error.filename or path), error) from None


def _begun(work: Path) -> dict[str, Any] | None:
    """The options of the unfinished conversion here and whether it began with --overwrite; None where there is none."""
    try:
        return json.loads((work / BEGUN).read_bytes())
    except FileNotFoundError:
        return None


def _clear(work: Path) -> None:
    """Remove the state of a conversion that is complete. What says that one is unfinished goes first, so that a kill in
    between leaves nothing but files to be removed."""
    (work / BEGUN).unlink(missing_ok=True)
    for path in work.iterdir():
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)


def _remove(out: Path, work: Path) -> None:
    """Remove what an earlier conversion wrote, and nothing else."""
    with _writing(out):
        for path in [out / manifest.NAME, *(out / name for name in PRODUCTS), *work.iterdir()]:
            if path.name == "lock":
                continue
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)


def _forget(out: Path, work: Path) -> None:
    """Remove what this unfinished conversion wrote of the subset whose state lies in `work`."""
    with _writing(out):
        for path in (work, out / "data" / work.name):
            if path.exists():
                shutil.rmtree(path)
        (out / "index" / f"{work.name}.parquet").unlink(missing_ok=True)


def _earlier(out: Path, work: Path, options: Options) -> dict[str, Any] | None:
    """The manifest of an earlier conversion into `out`, after a look whether its options are these."""
    earlier = manifest.read(out)
    begun = _begun(work)
    known = [begun["options"]] if begun else []
    if earlier:
        known.append(earlier["options"])
        if earlier["format_version"] != mmm_rs.FORMAT_VERSION:
            raise UsageError(f"{out}: has format {earlier['format_version']}, this program writes "
                             f"{mmm_rs.FORMAT_VERSION}. Use --overwrite or another folder")  # fmt: skip
    for before in known:
        mine = asdict(options)
        if before != mine:
            changed = ", ".join(f"{name} was {before.get(name)!r}, now {mine.get(name)!r}"
                                for name in sorted({*before, *mine}) if before.get(name) != mine.get(name))  # fmt: skip
            raise UsageError(f"{out}: was converted with other options ({changed}). Give the same options, "
                             "--overwrite, or another folder")  # fmt: skip
    return earlier


def _wanted(found: Release, subsets: Sequence[str] | None, path: Any) -> list[str]:
    absent = [name for name in subsets or () if name not in found.subsets]
    if absent or not found.subsets:
        why = "; ".join(str(problem) for problem in found.problems)
        what = ", ".join(absent) if absent else "no subset of MMM-RS"
        raise ReleaseError(f"{path}: {what} {'is not in this release' if absent else 'can be read here'}"
                           + (f": {why}" if why else ". `mmm-rs inspect` shows what is there"))  # fmt: skip
    return [name for name in found.subsets if not subsets or name in subsets]


def _check_begun(out: Path, work: Path, found: Release, wanted: set[str], overwrite: bool) -> None:
    """Subsets that were begun here go on, or their shards would lie about in no manifest."""
    for name in mmm_rs.SUBSETS:
        if name in wanted or not (work / name).exists():
            continue
        if overwrite:
            _forget(out, work / name)
        elif name in found.subsets:
            raise UsageError(f"{out}: an unfinished conversion of {name} lies here. Give the same --subset again, "
                             "leave it away for all, or use --overwrite")  # fmt: skip
        else:
            raise ReleaseError(f"{found.path}: the release changed since this conversion began: {name} was there. "
                               "Put it back, or use --overwrite to begin anew")  # fmt: skip


def _check_whole(out: Path, earlier: dict[str, Any]) -> None:
    for shard in earlier["shards"]:
        path = out / shard["name"]
        if not path.exists() or path.stat().st_size != shard["bytes"]:
            raise OutputError(f"{path}: is missing or has another size than the manifest says. Convert again with "
                              "--overwrite")  # fmt: skip


def _sweep(out: Path) -> None:
    """Remove temporary files of a conversion that was killed."""
    with _writing(out):
        for folder in ("", "data", "index", "report", "assets", WORK):
            for path in (out / folder).glob(shards.TEMPORARY if not folder else f"**/{shards.TEMPORARY}"):
                path.unlink(missing_ok=True)


def _plan(files: SubsetFiles, out: Path, work: Path, options: Options, overwrite: bool,
          say: Callable[[str], None]) -> _Subset:  # fmt: skip
    """The plan of one subset: read back where this conversion made it before, else made."""
    say(f"planning {files.name}")
    identity = [content_id(part.archive, part.entries) for part in files.parts]
    state = work / "plan.json"
    if state.exists():
        before = json.loads(state.read_bytes())
        if before["content"] == identity:
            problems = tuple(Problem(**problem) for problem in before["problems"])
            return _Subset(files, work, PlanFile.open(work / "plan.arrow"), problems)
        if not overwrite:
            where = ", ".join(part.archive.label for part in files.parts)
            raise ReleaseError(f"{where}: the release changed since this conversion began. Use --overwrite to begin "
                               "anew, or put the earlier files back")  # fmt: skip
        _forget(out, work)
    with _writing(work):
        work.mkdir(parents=True, exist_ok=True)
        plan = make(files, options, work / "records.bin")
        plan.write(work / "plan.arrow")
        for name in ("records.bin", "plan.arrow"):  # on disk before the file that says so
            shards.sync_path(work / name)
    manifest.write_json(state, {"content": identity, "problems": [asdict(problem) for problem in plan.problems]})
    return _Subset(files, work, PlanFile.open(work / "plan.arrow"), plan.problems)


def _release_memory() -> None:
    """Give the plans' memory back, so that the copying phase is small. glibc keeps freed memory unless told."""
    pa.default_memory_pool().release_unused()
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL("libc.so.6").malloc_trim(0)


def disk_needed(bytes_by_subset: Iterable[int], inner: Iterable[int]) -> int:
    """Bytes that a conversion needs: its output and the largest compressed inner zip; one lies there at a time."""
    total = sum(bytes_by_subset)
    return total + max(inner, default=0) + RESERVE


def _try(executor: Executor, work: Path, sources: list[str]) -> None:
    """One task that only looks whether it could work, before planning takes its minutes."""
    with (
        _writing(work),
        announced(work) as run,
        completed(executor, functools.partial(check_place, run), [sources]) as results,
    ):
        list(results)


def _check_disk(out: Path, planned: list[_Subset]) -> None:
    left = [
        sum(shard.bytes for number, shard in enumerate(one.plan.shards) if not one.done(out, number)) for one in planned
    ]
    inner = [archive.inside.size for one in planned for archive in one.inner if archive.inside]
    needed, free = disk_needed(left, inner), shutil.disk_usage(out).free
    if sum(left) and needed > free:
        raise OutputError(f"{out}: {needed / 1e9:.2f} GB are needed and {free / 1e9:.2f} GB are free. Free disk space "
                          "or convert fewer subsets with --subset")  # fmt: skip


def _write_shards(out: Path, planned: list[_Subset], options: Options, workers: int | None, executor: Executor | None,
                  progress: Callable[[int, int, str], None] | None) -> None:  # fmt: skip
    """Run the tasks: first all that read archives in place, then one subset after another that must be inflated."""
    decode = options.decode == "full"
    total = sum(shard.bytes for one in planned for shard in one.plan.shards)
    done = sum(shard.bytes for one in planned for n, shard in enumerate(one.plan.shards) if one.done(out, n))
    in_place = [one for one in planned if not one.inner]
    groups = [in_place, *([one] for one in planned if one.inner)]
    for group in groups:
        with contextlib.ExitStack() as stack:
            left = [one for one in group if not all(one.done(out, number) for number in range(len(one.plan.shards)))]
            archives = [
                tuple(
                    stack.enter_context(extracted(part.archive, one.work)) if part.archive.inside else part.archive
                    for part in one.files.parts
                )
                for one in left
            ]
            if executor:
                stack.callback(_gather, out, left)
            pool = executor or stack.enter_context(threads(workers))
            # The run ends before the inflated archives go, or a task elsewhere would take them for damaged.
            with _writing(out / WORK):
                run = stack.enter_context(announced(out / WORK))
            tasks = [task for one, its in zip(left, archives, strict=True) for task in one.tasks(out, its, decode, run)]
            sizes = {(one.plan.subset, n): s.bytes for one in group for n, s in enumerate(one.plan.shards)}
            results = stack.enter_context(completed(pool, write_shard, tasks))
            stack.callback(run.end)  # first of all: to cancel many tasks of a cluster takes a while
            for task, _ in results:
                done += sizes[task.subset, task.number]
                if progress:
                    progress(done, total, task.subset)


def _gather(out: Path, subsets: list[_Subset]) -> None:
    """After tasks elsewhere: see what they wrote, and remove what they left half written."""
    _sweep(out)
    for one in subsets:  # network file systems remember that a name was not there, until its folder is listed again
        for folder in (one.work, one.work / "markers", out / "data", out / "data" / one.plan.subset):
            with contextlib.suppress(OSError):
                os.listdir(folder)


def _finish(out: Path, found: Release, planned: list[_Subset], earlier: dict[str, Any] | None,
            options: Options) -> Result:  # fmt: skip
    """Index, report, the module, the manifest, the card: each from what the step before wrote."""
    reports, rows = [], [row for row in (earlier or {}).get("shards", [])]
    for one in planned:
        paths = one.markers()
        markers = [read_marker(path) for path in paths]
        reports.append(report.reckon(one.plan, markers))
        rows += [marker.row() for marker in markers if marker.name]
        if any(marker.name for marker in markers):
            manifest.write_index(out / "index" / f"{one.plan.subset}.parquet", paths)
    problems = [*found.problems, *(problem for one in planned for problem in one.problems)]
    summary = report.write(out, reports, problems, found.unknown)
    if not rows:
        _clear(out / WORK)
        raise ReleaseError(f"{found.path}: none of its images can be published. {out / report.SUMMARY} says why; mend "
                           "the release and run again")  # fmt: skip
    with replacing(out / "mmm_rs.py") as fd:
        write_all(fd, Path(mmm_rs.__file__).read_bytes())
    made = manifest.build(rows, options)
    manifest.write(out, made)
    write_card(out)
    return Result(out, made, summary, written=True)
