"""One conversion: from a release to an output folder. Plan, write the shards, then what is made from them.

The same command goes on where an unfinished conversion stopped, one with --overwrite too: it removes what an earlier
conversion left, not what it wrote itself before it was interrupted. See `conversion.work` for where its state lies.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import mmm_rs
from conversion import layout, manifest, report, work
from conversion.archives import Archive, content_id, extracted
from conversion.card import Card
from conversion.disk import disk_needed, sync_path, write_json, writing
from conversion.display import size
from conversion.errors import OutputError, ReleaseError, UsageError
from conversion.execution import Run, announced, check_place, completed, ended, local
from conversion.findings import EXAMPLES, Problem, why_nothing_is_published
from conversion.memory import release_memory
from conversion.options import Options
from conversion.plan import PlanFile, make
from conversion.records import read_records
from conversion.release import IMAGE, Release, SubsetFiles, check_output, check_there, find, is_inside
from conversion.shards import Task, finished, read_marker, write_shard
from conversion.work import State, SubsetWork, work_of

STATE = 3  # bytes of markers and index for each of the records' text; measured: 2.3

Progress = Callable[[int, int, str], None]
"""Is called with the bytes written, the bytes in all and the subset at hand."""


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
        total, unknown = self.summary["total"], self.summary["unknown"]
        return (
            total["images"].get("reported", 0)
            + total["records"].get("reported", 0)
            + len(self.summary["sources"])
            + unknown["images"]
            + unknown["annotations"]
        )


@dataclass(frozen=True)
class ConversionSettings:
    """How to convert. `convert` says what each is."""

    subsets: Sequence[str] | None = None
    options: Options = field(default_factory=Options)
    workers: int | None = None
    executor: Executor | None = None
    annotations: str | os.PathLike[str] | None = None
    overwrite: bool = False
    card: Card | None = None
    say: Callable[[str], None] = lambda line: None


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
    card: Card | None = None,
    progress: Progress | None = None,
    say: Callable[[str], None] = lambda line: None,
) -> Result:
    """Convert a release into a folder. Called again after an interruption, it continues.

    Args:
        release_path: A folder of zips, `MMM-RS.zip`, or extracted folders.
        out: The folder to write.
        subsets: Only these (default: all that the release holds).
        options: The options that shape the output.
        workers: Shards to write at a time on this machine (default: one per core).
        executor: Where to write the shards instead: any `concurrent.futures.Executor` whose workers run this very
            program and see both folders under the same paths.
        annotations: A folder or zip with the annotation files, if they are not beside the images.
        overwrite: Remove what an earlier conversion wrote into the folder.
        card: What writes the dataset card: the module `dataset_card.card`, or another `conversion.card.Card`
            (default: no card is written).
        progress: Is called with the bytes written, the bytes in all and the subset at hand.
        say: Is called with a line about each step.

    Returns:
        The manifest and the report's summary of what is then in the folder.

    Raises:
        UsageError: An argument does not fit, or the folder holds something else.
        ReleaseError: The release cannot be used, or has changed since this conversion began.
        OutputError: The folder or the disk cannot be written.
    """
    settings = ConversionSettings(subsets, options or Options(), workers, executor, annotations, overwrite, card, say)
    with opened(release_path, out, settings) as job:
        if job.complete:
            _check_whole(job)
        else:
            check_disk(job)
            write_shards(job, progress=progress)
            say("writing index, report, card and manifest")
        return finish(job)


@dataclass(frozen=True)
class PlannedSubset:
    """A subset in conversion."""

    archives: tuple[Archive, ...]
    work: SubsetWork
    plan: PlanFile
    problems: tuple[Problem, ...]

    @property
    def inner(self) -> list[Archive]:
        """Compressed archives within archives, which must be inflated to a file before their images can be read."""
        return [archive for archive in self.archives if archive.inside]

    def markers(self) -> list[Path]:
        return [self.work.marker(number) for number in range(len(self.plan.shards))]

    def task(self, number: int, out: Path, archives: tuple[Archive, ...], decode: bool, run: Run) -> Task:
        shard = self.plan.shards[number]
        return Task(
            plan=str(self.work.plan),
            records=str(self.work.records),
            number=number,
            subset=self.plan.subset,
            split=shard.split,
            archives=archives,
            name=shard.name,
            out=str(out),
            marker=str(self.work.marker(number)),
            decode=decode,
            run=run,
        )


@dataclass(frozen=True)
class Job:
    """A conversion that is planned, in a folder that is locked."""

    out: Path
    settings: ConversionSettings
    release: Release  # without the subsets' files where something was planned
    planned: tuple[PlannedSubset, ...]
    imageless: tuple[SubsetFiles, ...]  # without an image in the release: their records are reported
    earlier: dict[str, Any] | None  # the manifest of an earlier conversion into this folder
    complete: bool  # whether that holds all that is wanted, so that nothing needs to be done
    is_done: Callable[[Path], bool]  # whether the shard of a marker's path need not be written any more
    pool: Executor  # where its tasks run

    def left(self, subset: PlannedSubset) -> list[int]:
        """Numbers of the shards of a subset that are to be written."""
        return [number for number, marker in enumerate(subset.markers()) if not self.is_done(marker)]


@contextlib.contextmanager
def opened(
    release_path: str | os.PathLike[str],
    out: str | os.PathLike[str],
    settings: ConversionSettings,
    is_done: Callable[[Path], bool] | None = None,
) -> Iterator[Job]:
    """Begin a conversion, or go on with it.

    `is_done`: whether the shard of a marker's path need not be written any more (default: it lies in `out`). The errors
    are those of `convert`.
    """
    check_output(release_path, out)
    out = Path(out).absolute()
    options, overwrite = settings.options, settings.overwrite
    is_done = is_done or (lambda marker: finished(out, marker) is not None)
    _check(out, settings.subsets)
    check_there(release_path)
    with contextlib.ExitStack() as stack:
        # First: a process that is forked later would hold the lock.
        pool = settings.executor or stack.enter_context(local(settings.workers))
        stack.enter_context(work.locked(out))
        if not settings.executor:
            stack.enter_context(ended(pool))  # before the lock is given back
        # Before anything is removed: the release may be mistyped.
        if is_inside(out, release_path):
            settings.say(f"{out}: lies in the release and is not part of it")
        release = _found(release_path, settings, out)
        wanted = _wanted(release, settings.subsets, release_path)
        if not work.is_known(out):
            work.check_foreign(out)
        elif overwrite and work.state(out) != State.of(options, True):
            _check_card(settings, out)
            work.remove(out)
            work.begin(out, State.of(options, True))
        earlier = work.earlier_manifest(out, options)
        before = (earlier or {"subsets": {}})["subsets"]
        new = [name for name in wanted if name not in before]
        _check_same(out, release, [name for name in wanted if name in before])
        imageless = () if settings.subsets else tuple(_unreported(out, earlier, release.imageless))
        if earlier and not new and not imageless and not work.state(out):
            work.clear(out)
            yield Job(out, settings, release, (), (), earlier, True, is_done, pool)
            return
        if settings.executor:
            _try(settings.executor, out, [str(Path(release_path).absolute())])
        _check_card(settings, out)
        if not work.state(out):
            work.begin(out, State.of(options, overwrite))
        work.sweep(out)
        work.check_begun(out, release, {*wanted, *before}, overwrite)
        planned = tuple(_plan(release.subsets[name], out, settings) for name in new)
        release = replace(release, subsets={})  # what their archives list is in the plans, and takes memory here
        release_memory()
        yield Job(out, settings, release, planned, imageless, earlier, False, is_done, pool)


def _found(path: str | os.PathLike[str], settings: ConversionSettings, out: Path) -> Release:
    try:
        return find(path, settings.annotations, exclude=out)
    except ReleaseError:
        if all(os.path.exists(os.path.join(path, name)) for name in layout.SIGNS):
            raise UsageError(
                f"{path}: this is a converted folder. Is the order swapped? The release comes first: "
                "mmm-rs convert RELEASE OUT"
            ) from None
        raise


def _check(out: Path, subsets: Sequence[str] | None) -> None:
    check_not_a_script(out, os.path.basename(os.path.realpath(out)))  # Path.resolve raises where links lead in a circle
    for name in subsets or ():
        if name not in mmm_rs.SUBSETS:
            hint = mmm_rs.did_you_mean(name, mmm_rs.SUBSETS)
            raise UsageError(f"{name}: no such subset.{hint} The subsets are {', '.join(mmm_rs.SUBSETS)}")


def check_not_a_script(what: str | Path, name: str) -> None:
    """Raises UsageError if a folder or repository has the name that makes `datasets` refuse it."""
    if name == "mmm_rs":
        raise UsageError(
            f"{what}: a folder or repository called mmm_rs that holds mmm_rs.py is taken for a loading "
            "script, which no `datasets` since 4.0 loads. Choose another name, such as MMM-RS"
        )


def _check_card(settings: ConversionSettings, out: Path) -> None:
    if settings.card:
        settings.card.check(out)


def _wanted(release: Release, subsets: Sequence[str] | None, path: Any) -> list[str]:
    absent = [name for name in subsets or () if name not in release.subsets]
    if absent or not release.subsets:
        why = "; ".join(str(problem) for problem in release.problems[:EXAMPLES])
        if (more := len(release.problems) - EXAMPLES) > 0:
            why += f"; and {more} more, which `mmm-rs inspect` shows"
        what = ", ".join(absent) if absent else "no subset of MMM-RS"
        raise ReleaseError(
            f"{path}: {what} {'is not in this release' if absent else 'can be read here'}"
            + (f": {why}" if why else ". `mmm-rs inspect` shows what is there")
        )
    return [name for name in release.subsets if not subsets or name in subsets]


def _unreported(out: Path, earlier: dict[str, Any] | None, imageless: dict[str, SubsetFiles]) -> Iterator[SubsetFiles]:
    """Those subsets without images whose records an earlier conversion into `out` has not reported."""
    reported = report.read(out, ())["subsets"] if earlier else {}
    for name, files in imageless.items():
        if name not in reported:
            yield files


def _check_same(out: Path, release: Release, converted: list[str]) -> None:
    """Raises ReleaseError if the release has not as many images of a converted subset as it had then, for example
    because an archive that could not be read was repaired."""
    known = report.read(out, converted)["subsets"] if converted else {}
    for name in converted:
        before = known[name]["images"]["released"]
        now = sum(part.count(IMAGE) for part in release.subsets[name].parts)
        if now != before:
            raise ReleaseError(
                f"{release.path}: has {now:,} images of {name}; {out} was made when it had {before:,}. "
                "Use --overwrite to convert it again, or put the earlier files back"
            )


def _check_whole(job: Job) -> None:
    """Raises OutputError if something that the complete conversion wrote is not there and cannot be written again."""
    earlier = job.earlier or {}
    for shard in earlier["shards"]:
        path = job.out / shard["name"]
        if not path.exists() or path.stat().st_size != shard["bytes"]:
            raise OutputError(
                f"{path}: is missing or has another size than the manifest says. Convert again with --overwrite"
            )
    for name, described in earlier["files"].items():
        if not (job.out / name).exists() and described == manifest.describe(Path(mmm_rs.__file__)):
            manifest.write_module(job.out)
        if not (job.out / name).is_file():
            raise OutputError(f"{job.out / name}: is missing. Convert again with --overwrite")
    for name in job.settings.card.written() if job.settings.card else ():
        if not (job.out / name).is_file():
            raise OutputError(f"{job.out / name}: is missing. Run `mmm-rs card {job.out}`, which writes it again")


def _plan(files: SubsetFiles, out: Path, settings: ConversionSettings) -> PlannedSubset:
    """The plan of one subset: read back if this conversion made it before, else made."""
    settings.say(f"planning {files.name}")
    where = work_of(out, files.name)
    identity = [content_id(part.archive, part.entries) for part in files.parts]
    archives = tuple(part.archive for part in files.parts)
    if where.planned.exists():
        before = json.loads(where.planned.read_bytes())
        if before["content"] == identity:
            problems = tuple(Problem(**problem) for problem in before["problems"])
            return PlannedSubset(archives, where, PlanFile.open(where.plan), problems)
        if not settings.overwrite:
            labels = ", ".join(archive.label for archive in archives)
            raise ReleaseError(
                f"{labels}: the release changed since this conversion began. Use --overwrite to begin "
                "again, or put the earlier files back"
            )
        work.forget(out, files.name)
    with writing(where.folder):
        where.folder.mkdir(parents=True, exist_ok=True)
        plan = make(files, settings.options, where.records)
        for file in plan.annotations:
            for remark in file.form.remarks:
                settings.say(f"{file.path}: {remark}")
        plan.write(where.plan)
        for path in (where.records, where.plan):  # on disk before the file that says so
            sync_path(path)
    write_json(where.planned, {"content": identity, "problems": [asdict(problem) for problem in plan.problems]})
    return PlannedSubset(archives, where, PlanFile.open(where.plan), plan.problems)


def _try(executor: Executor, out: Path, sources: list[str]) -> None:
    """One task that only looks whether it could work, before planning takes its minutes."""
    with (
        _announced(out) as run,
        completed(executor, functools.partial(check_place, run), [sources]) as results,
    ):
        list(results)


@contextlib.contextmanager
def _announced(out: Path) -> Iterator[Run]:
    with contextlib.ExitStack() as stack:
        with writing(out / layout.WORK):
            run = stack.enter_context(announced(out / layout.WORK))
        yield run


def check_disk(job: Job, at_once: int | None = None) -> None:
    """Raises OutputError if the disk is too small for the shards that are left, or for `at_once` of them."""
    left = [subset.plan.shards[number] for subset in job.planned for number in job.left(subset)]
    inner = [sum(archive.inside.size for archive in subset.inner if archive.inside) for subset in job.planned]
    sizes = sorted(shard.bytes for shard in left)
    needed, free = disk_needed(sizes[-at_once:] if at_once else sizes, inner), shutil.disk_usage(job.out).free
    remedy = "convert fewer subsets with --subset"
    if at_once:  # then the rest counts too. Some of either may be there already, of a run that was killed
        needed += sum(STATE * subset.work.records.stat().st_size for subset in job.planned)
        written = [job.out / shard.name for shard in left]
        written += [marker for subset in job.planned for marker in subset.markers()]
        free += sum(path.stat().st_size for path in written if path.exists())
        remedy = "keep fewer shards at a time with --keep"
    if left and needed > free:
        raise OutputError(
            f"{job.out}: {size(needed)} are needed and {size(free)} are free. Free disk space or {remedy}"
        )


def write_shards(
    job: Job,
    *,
    progress: Progress | None = None,
    at_once: int | None = None,
    then: Callable[[list[Path]], None] = lambda markers: None,
) -> None:
    """Run the tasks: first all that read archives in place, then one subset after another that must be inflated.

    `then` is given the markers of each `at_once` shards when these are written; the next are begun when it returns.
    """
    meter = _Meter(job, progress)
    in_place = [subset for subset in job.planned if not subset.inner]
    for group in [in_place, *([subset] for subset in job.planned if subset.inner)]:
        with _tasks(job, group) as (run, tasks):
            step = at_once or len(tasks) or 1
            for start in range(0, len(tasks), step):
                batch = tasks[start : start + step]
                with completed(job.pool, write_shard, batch) as results:
                    try:
                        for task, _ in results:
                            meter.add(task)
                    except BaseException:
                        run.end()  # first of all: to cancel many tasks of a cluster takes a while
                        raise
                then([Path(task.marker) for task in batch])


class _Meter:
    """Tells how many of the planned bytes are written."""

    def __init__(self, job: Job, progress: Progress | None) -> None:
        self.progress = progress
        self.sizes = {shard.name: shard.bytes for subset in job.planned for shard in subset.plan.shards}
        left = [subset.plan.shards[number].bytes for subset in job.planned for number in job.left(subset)]
        self.total = sum(self.sizes.values())
        self.written = self.total - sum(left)

    def add(self, task: Task) -> None:
        self.written += self.sizes[task.name]
        if self.progress:
            self.progress(self.written, self.total, task.subset)


@contextlib.contextmanager
def _tasks(job: Job, subsets: Sequence[PlannedSubset]) -> Iterator[tuple[Run, list[Task]]]:
    """The tasks that are left of some subsets, and the run that they belong to. Their archives are there meanwhile."""
    left = {subset.plan.subset: job.left(subset) for subset in subsets}
    subsets = [subset for subset in subsets if left[subset.plan.subset]]
    with contextlib.ExitStack() as stack:
        archives = [
            tuple(
                stack.enter_context(extracted(archive, subset.work.folder)) if archive.inside else archive
                for archive in subset.archives
            )
            for subset in subsets
        ]
        stack.callback(_gather, job.out, subsets)
        # The run ends before the inflated archives go, or a task elsewhere would take them for damaged.
        run = stack.enter_context(_announced(job.out))
        decode = job.settings.options.decode == "full"
        yield (
            run,
            [
                subset.task(number, job.out, its, decode, run)
                for subset, its in zip(subsets, archives, strict=True)
                for number in left[subset.plan.subset]
            ],
        )


def _gather(out: Path, subsets: Sequence[PlannedSubset]) -> None:
    """After tasks in other processes: see what they wrote, and remove what a lost one left half written."""
    work.sweep(out)
    for subset in subsets:  # network file systems remember that a name was not there, until its folder is listed again
        markers = subset.work.marker(0).parent
        for folder in (subset.work.folder, markers, out / layout.DATA, out / layout.DATA / subset.plan.subset):
            with contextlib.suppress(OSError):
                os.listdir(folder)


def finish(job: Job) -> Result:
    """Index, report, the manifest, the card: each from what the step before wrote."""
    out, earlier = job.out, job.earlier
    if earlier and job.complete:
        return Result(out, earlier, report.read(out, earlier["subsets"]), written=False)
    reports, rows = [], list((earlier or {"shards": ()})["shards"])
    for subset in job.planned:
        paths = subset.markers()
        markers = [read_marker(path) for path in paths]
        reports.append(report.reckon(subset.plan, markers))
        rows += [marker.row() for marker in markers if marker.name]
        if any(marker.name for marker in markers):
            manifest.write_index(out / layout.index_name(subset.plan.subset), paths)
    problems = [*job.release.problems, *(problem for subset in job.planned for problem in subset.problems)]
    for files in job.imageless:
        records, rejected, unreadable = read_records(files, job.settings.options)
        reports.append(report.reckon_records(files.name, records, rejected))
        problems += unreadable
    summary = report.write(out, reports, problems, job.release.unknown)
    if not rows:
        work.clear(out)
        raise _unpublishable(job, problems, summary["total"]["reasons"])
    manifest.write_module(out)
    written = manifest.build(out, rows, job.settings.options, earlier=earlier)
    manifest.write(out, written)
    if job.settings.card:
        job.settings.card.write(out)
    work.clear(out)
    return Result(out, written, summary, written=True)


def _unpublishable(job: Job, problems: Sequence[Problem], reasons: dict[str, dict[str, int]]) -> ReleaseError:
    """Why nothing of a release was published, with the options that may help.

    `reasons`: image or record -> code -> how many were left out.
    """
    first = f"{job.release.path}: none of its images can be published. {job.out / layout.SUMMARY} has the whole report"
    lines, options = why_nothing_is_published(problems, reasons)
    error = ReleaseError(first, *lines)
    error.options = options
    return error
