"""One conversion: from a release to an output folder. Plan, write the shards, then what is made from them.

While a conversion is unfinished its state lies in OUT/.mmm-rs: a lock, its options and program, and for each subset its
plan, its records and the markers of the shards that are done. The same command goes on from there, one with --overwrite
too: it removes what an earlier conversion left, not what it wrote itself before it was interrupted. The folder is
removed last.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import filelock

import mmm_rs
from conversion import layout, manifest, release, report
from conversion.archives import Archive, content_id, extracted
from conversion.card import Card
from conversion.disk import TEMPORARY, disk_needed, output_error, sync_path, write_json, writing
from conversion.errors import OutputError, ReleaseError, UsageError
from conversion.execution import Run, announced, check_place, completed, ended, local, program
from conversion.findings import Problem
from conversion.memory import release_memory
from conversion.options import Options
from conversion.plan import PlanFile, make
from conversion.records import read_records
from conversion.release import IMAGE, Release, SubsetFiles
from conversion.shards import Task, finished, read_marker, write_shard

RECORDS = "records.bin"  # the records' text, beside a subset's plan
STATE = 3  # bytes of markers and index for each of the records' text; measured: 2.3


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
        return (
            total["images"].get("reported", 0)
            + total["records"].get("reported", 0)
            + len(self.summary["sources"])
            + stray["images"]
            + stray["annotations"]
        )


@dataclass(frozen=True)
class _Subset:
    """A subset in conversion and where its state lies."""

    archives: tuple[Archive, ...]
    work: Path
    plan: PlanFile
    problems: tuple[Problem, ...]

    @property
    def inner(self) -> list[Archive]:
        """Compressed archives within archives, which must be inflated to a file before their images can be read."""
        return [archive for archive in self.archives if archive.inside]

    def marker(self, number: int) -> Path:
        return self.work / "markers" / f"{number:05d}.arrow"

    def task(self, number: int, out: Path, archives: tuple[Archive, ...], decode: bool, run: Run) -> Task:
        shard = self.plan.shards[number]
        return Task(
            str(self.work / "plan.arrow"),
            str(self.work / RECORDS),
            number,
            self.plan.subset,
            shard.split,
            archives,
            shard.name,
            str(out),
            str(self.marker(number)),
            decode,
            run,
        )

    def markers(self) -> list[Path]:
        return [self.marker(number) for number in range(len(self.plan.shards))]


@dataclass(frozen=True)
class Job:
    """A conversion that is planned, in a folder that is locked."""

    out: Path
    work: Path
    options: Options
    found: Release
    """without the subsets' files where something was planned"""
    planned: tuple[_Subset, ...]
    imageless: tuple[SubsetFiles, ...]
    """subsets of which the release has annotations but no image: their records are reported"""
    earlier: dict[str, Any] | None
    """the manifest of an earlier conversion into this folder"""
    complete: bool
    """whether that holds all that is wanted, and nothing is to be done"""
    done: Callable[[Path], bool]
    """whether the shard of a marker's path needs not be written any more"""
    pool: Executor
    """where its tasks run"""
    card: Card | None
    """what describes the folder to people in the end"""

    def left(self, one: _Subset) -> list[int]:
        """Numbers of the shards of a subset that are to be written."""
        return [number for number in range(len(one.plan.shards)) if not self.done(one.marker(number))]


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
    progress: Callable[[int, int, str], None] | None = None,
    say: Callable[[str], None] = lambda line: None,
) -> Result:
    """Convert a release into the folder `out`; called again after an interruption it goes on.

    `subsets`: only these; all that are there otherwise. `executor`: any `concurrent.futures.Executor`, instead of
    `workers` on this machine (see `execution.local`); its workers run this very program and see both folders under the
    same paths. `annotations`: a folder or zip with the annotation files, where they are not beside the images.
    `card`: what writes the dataset card, such as the module `dataset_card.card`; without it there is none.
    `progress(done, total, what)` is told of bytes, `say` of each step in a line.

    Raises UsageError, ReleaseError or OutputError.
    """
    with opened(
        release_path,
        out,
        subsets=subsets,
        options=options,
        workers=workers,
        executor=executor,
        annotations=annotations,
        overwrite=overwrite,
        card=card,
        say=say,
    ) as job:
        if job.complete:
            _check_whole(job)
        else:
            check_disk(job)
            write_shards(job, progress=progress)
            say("writing index, report, card and manifest")
        return finish(job)


@contextlib.contextmanager
def opened(
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
    done: Callable[[Path], bool] | None = None,
    say: Callable[[str], None] = lambda line: None,
) -> Iterator[Job]:
    """Begin a conversion, or go on with it.

    `done`: whether the shard of a marker's path needs not be written any more; where it lies in `out`, if not given.
    The other parameters are those of `convert`; so are the errors.
    """
    release.check_output(release_path, out)
    out = Path(out).absolute()
    options = options or Options()
    done = done or (lambda marker: finished(out, marker) is not None)
    _check(out, subsets)
    release.check_there(release_path)
    with contextlib.ExitStack() as stack:
        pool = executor or stack.enter_context(local(workers))  # a process forked later would hold the lock
        work = stack.enter_context(_locked(out))
        if not executor:
            stack.enter_context(ended(pool))  # before the lock is given back
        # Before anything is removed: the release may be mistyped.
        if release.is_inside(out, release_path):
            say(f"{out}: lies in the release and is not part of it")
        found = release.find(release_path, annotations, exclude=out)
        wanted = _wanted(found, subsets, release_path)
        if not _known(out, work):
            _check_foreign(out)
        elif overwrite and _begun(out) != _state(options, True):
            if card:
                card.check(out)
            _remove(out, work)
            write_json(out / layout.BEGUN, _state(options, True))
        earlier = _earlier(out, work, options)
        new = [name for name in wanted if earlier is None or name not in earlier["subsets"]]
        imageless = () if subsets else tuple(_unreported(out, earlier, found.imageless))
        _check_same(out, found, [name for name in wanted if name not in new])
        if earlier and not new and not imageless and not _begun(out):
            _clear(out)
            yield Job(out, work, options, found, (), (), earlier, True, done, pool, card)
            return
        if executor:
            _try(executor, work, [str(Path(release_path).absolute())])
        if card:
            card.check(out)
        if not _begun(out):
            write_json(out / layout.BEGUN, _state(options, overwrite))
        _sweep(out)
        _check_begun(out, work, found, {*wanted, *(earlier or {"subsets": ()})["subsets"]}, overwrite)
        planned = tuple(_plan(found.subsets[name], out, work / name, options, overwrite, say) for name in new)
        found = replace(found, subsets={})  # what their archives list is in the plans, and takes memory here
        release_memory()
        yield Job(out, work, options, found, planned, imageless, earlier, False, done, pool, card)


def _check(out: Path, subsets: Sequence[str] | None) -> None:
    check_called(out, os.path.basename(os.path.realpath(out)))  # Path.resolve raises where links lead in a circle
    for name in subsets or ():
        if name not in mmm_rs.SUBSETS:
            hint = mmm_rs.did_you_mean(name, mmm_rs.SUBSETS)
            raise UsageError(f"{name}: no such subset.{hint} The subsets are {', '.join(mmm_rs.SUBSETS)}")


def check_called(what: str | Path, name: str) -> None:
    """Raises UsageError where a folder or repository has the name that makes `datasets` refuse it."""
    if name == "mmm_rs":
        raise UsageError(
            f"{what}: a folder or repository called mmm_rs that holds mmm_rs.py is taken for a loading "
            "script, which no `datasets` since 4.0 loads. Call it otherwise, such as MMM-RS"
        )


@contextlib.contextmanager
def _locked(out: Path) -> Iterator[Path]:
    """The work folder, with its lock held. The system drops the lock of a process that was killed."""
    work, made = out / layout.WORK, not out.exists()
    with writing(work):
        work.mkdir(parents=True, exist_ok=True)
    lock = filelock.FileLock(work / "lock")
    try:
        lock.acquire(timeout=0)
    except filelock.Timeout:
        raise OutputError(
            f"{out}: another conversion into this folder is running. Wait for it, or choose another folder"
        ) from None
    except (OSError, NotImplementedError) as error:  # the latter: a file system without locks
        raise output_error(work / "lock", error) from None
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


def _begun(out: Path) -> dict[str, Any] | None:
    """Options and program of the unfinished conversion here, and whether it began with --overwrite; None for none."""
    try:
        return json.loads((out / layout.BEGUN).read_bytes())
    except FileNotFoundError:
        return None


def _state(options: Options, overwrite: bool) -> dict[str, Any]:
    """What `_begun` finds of a conversion that this program began."""
    return {"options": asdict(options), "overwrite": overwrite, "program": program()}


def _clear(out: Path) -> None:
    """Remove the state of a conversion that is complete. What says that one is unfinished goes first, so that a kill in
    between leaves nothing but files to be removed."""
    (out / layout.BEGUN).unlink(missing_ok=True)
    for path in (out / layout.WORK).iterdir():
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)


def _known(out: Path, work: Path) -> bool:
    """Whether a conversion wrote into this folder. One that could publish nothing left its report alone."""
    return any(path.exists() for path in (out / layout.MANIFEST, out / layout.BEGUN, out / layout.SUMMARY))


def _check_foreign(out: Path) -> None:
    """Raises UsageError where files that no conversion wrote lie in its way: they would be replaced."""
    for name in layout.PRODUCTS:
        for path in (out / name, *(out / name).rglob("*")):
            if path.is_file():
                raise UsageError(
                    f"{path}: was not written by a conversion, which needs its place. Move it away, or "
                    "choose another folder"
                )


def _remove(out: Path, work: Path) -> None:
    """Remove what an earlier conversion wrote, but for the card, whose own text the next one takes over."""
    kept = (layout.CARD, layout.ASSETS)
    with writing(out):
        # Of no program, so that nothing but --overwrite goes on where this is cut short.
        write_json(out / layout.BEGUN, {"options": {}, "overwrite": True, "program": None})
        for path in [
            out / layout.MANIFEST,
            *(out / name for name in layout.PRODUCTS if name not in kept),
            *(out / name for name in layout.FIGURES),
            *(path for path in work.iterdir() if path.name != "lock" and path != out / layout.BEGUN),
        ]:
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)


def _forget(out: Path, work: Path) -> None:
    """Remove what this unfinished conversion wrote of the subset whose state lies in `work`."""
    with writing(out):
        for path in (work, out / layout.DATA / work.name):
            if path.exists():
                shutil.rmtree(path)
        (out / layout.index_name(work.name)).unlink(missing_ok=True)


def _earlier(out: Path, work: Path, options: Options) -> dict[str, Any] | None:
    """The manifest of an earlier conversion into `out`, after a look whether its options are these."""
    earlier = manifest.read(out)
    begun = _begun(out)
    if begun and begun.get("program") != program():
        raise UsageError(
            f"{out}: what lies here unfinished was begun by another version of mmm-rs, or an --overwrite "
            "was cut short. Use --overwrite, or go on with that version"
        )
    known = [begun["options"]] if begun else []
    if earlier:
        known.append(earlier["options"])
        if earlier["format_version"] != mmm_rs.FORMAT_VERSION:
            raise UsageError(
                f"{out}: has format {earlier['format_version']}, this program writes "
                f"{mmm_rs.FORMAT_VERSION}. Use --overwrite or another folder"
            )
    for before in known:
        mine = asdict(options)
        if before != mine:
            changed = ", ".join(
                f"{name} was {before.get(name)!r}, now {mine.get(name)!r}"
                for name in sorted({*before, *mine})
                if before.get(name) != mine.get(name)
            )
            raise UsageError(
                f"{out}: was converted with other options ({changed}). Give the same options, "
                "--overwrite, or another folder"
            )
    return earlier


def _wanted(found: Release, subsets: Sequence[str] | None, path: Any) -> list[str]:
    absent = [name for name in subsets or () if name not in found.subsets]
    if absent or not found.subsets:
        why = "; ".join(str(problem) for problem in found.problems[: release.EXAMPLES])
        if (more := len(found.problems) - release.EXAMPLES) > 0:
            why += f"; and {more} more, which `mmm-rs inspect` shows"
        what = ", ".join(absent) if absent else "no subset of MMM-RS"
        raise ReleaseError(
            f"{path}: {what} {'is not in this release' if absent else 'can be read here'}"
            + (f": {why}" if why else ". `mmm-rs inspect` shows what is there")
        )
    return [name for name in found.subsets if not subsets or name in subsets]


def _unreported(out: Path, earlier: dict[str, Any] | None, imageless: dict[str, SubsetFiles]) -> Iterator[SubsetFiles]:
    """Those subsets without images whose records an earlier conversion into `out` has not reported."""
    reported = report.read(out, ())["subsets"] if earlier else {}
    for name, files in imageless.items():
        if name not in reported:
            yield files


def _check_begun(out: Path, work: Path, found: Release, wanted: set[str], overwrite: bool) -> None:
    """Subsets that were begun here go on, or their shards would lie about in no manifest."""
    for name in mmm_rs.SUBSETS:
        if name in wanted or not (work / name).exists():
            continue
        if overwrite:
            _forget(out, work / name)
        elif name in found.subsets:
            raise UsageError(
                f"{out}: an unfinished conversion of {name} lies here. Give the same --subset again, "
                "leave it away for all, or use --overwrite"
            )
        else:
            raise ReleaseError(
                f"{found.path}: the release changed since this conversion began: {name} was there. "
                "Put it back, or use --overwrite to begin anew"
            )


def _check_same(out: Path, found: Release, converted: list[str]) -> None:
    """Raises ReleaseError where the release has not as many images of a converted subset as then, such as an archive
    that could not be read and was mended."""
    known = report.read(out, converted)["subsets"] if converted else {}
    for name in converted:
        before = known[name]["images"]["released"]
        now = sum(part.count(IMAGE) for part in found.subsets[name].parts)
        if now != before:
            raise ReleaseError(
                f"{found.path}: has {now:,} images of {name}; {out} was made when it had {before:,}. "
                "Use --overwrite to convert it anew, or put the earlier files back"
            )


def _check_whole(job: Job) -> None:
    """Raises OutputError where something that the complete conversion wrote is not there."""
    made = job.earlier or {}
    for shard in made["shards"]:
        path = job.out / shard["name"]
        if not path.exists() or path.stat().st_size != shard["bytes"]:
            raise OutputError(
                f"{path}: is missing or has another size than the manifest says. Convert again with --overwrite"
            )
    indexes = [layout.index_name(subset) for subset in made["subsets"]]
    for name in (*indexes, layout.SUMMARY, layout.UNPUBLISHED):
        if not (job.out / name).is_file():
            raise OutputError(f"{job.out / name}: is missing. Convert again with --overwrite")
    for name in job.card.written() if job.card else ():
        if not (job.out / name).is_file():
            raise OutputError(f"{job.out / name}: is missing. Run `mmm-rs card {job.out}`, which writes it anew")


def _sweep(out: Path) -> None:
    """Remove temporary files of a conversion that was killed."""
    with writing(out):
        for folder in ("", *layout.FOLDERS, layout.WORK):
            for path in (out / folder).glob(TEMPORARY if not folder else f"**/{TEMPORARY}"):
                path.unlink(missing_ok=True)


def _plan(
    files: SubsetFiles, out: Path, work: Path, options: Options, overwrite: bool, say: Callable[[str], None]
) -> _Subset:
    """The plan of one subset: read back where this conversion made it before, else made."""
    say(f"planning {files.name}")
    identity = [content_id(part.archive, part.entries) for part in files.parts]
    archives = tuple(part.archive for part in files.parts)
    state = work / "plan.json"
    if state.exists():
        before = json.loads(state.read_bytes())
        if before["content"] == identity:
            problems = tuple(Problem(**problem) for problem in before["problems"])
            return _Subset(archives, work, PlanFile.open(work / "plan.arrow"), problems)
        if not overwrite:
            where = ", ".join(part.archive.label for part in files.parts)
            raise ReleaseError(
                f"{where}: the release changed since this conversion began. Use --overwrite to begin "
                "anew, or put the earlier files back"
            )
        _forget(out, work)
    with writing(work):
        work.mkdir(parents=True, exist_ok=True)
        plan = make(files, options, work / RECORDS)
        plan.write(work / "plan.arrow")
        for name in (RECORDS, "plan.arrow"):  # on disk before the file that says so
            sync_path(work / name)
    write_json(state, {"content": identity, "problems": [asdict(problem) for problem in plan.problems]})
    return _Subset(archives, work, PlanFile.open(work / "plan.arrow"), plan.problems)


def _try(executor: Executor, work: Path, sources: list[str]) -> None:
    """One task that only looks whether it could work, before planning takes its minutes."""
    with (
        writing(work),
        announced(work) as run,
        completed(executor, functools.partial(check_place, run), [sources]) as results,
    ):
        list(results)


def check_disk(job: Job, at_once: int | None = None) -> None:
    """Raises OutputError where the disk is too small for the shards that are left, or for `at_once` of them."""
    left = [one.plan.shards[number] for one in job.planned for number in job.left(one)]
    inner = [sum(archive.inside.size for archive in one.inner if archive.inside) for one in job.planned]
    sizes = sorted(shard.bytes for shard in left)
    needed, free = disk_needed(sizes[-at_once:] if at_once else sizes, inner), shutil.disk_usage(job.out).free
    remedy = "convert fewer subsets with --subset"
    if at_once:  # then the rest counts too. Some of either may lie there already, of a run that was killed
        needed += sum(STATE * (one.work / RECORDS).stat().st_size for one in job.planned)
        lying = [*(job.out / shard.name for shard in left), *(path for one in job.planned for path in one.markers())]
        free += sum(path.stat().st_size for path in lying if path.exists())
        remedy = "keep fewer shards at a time with --keep"
    if left and needed > free:
        raise OutputError(
            f"{job.out}: {needed / 1e9:.2f} GB are needed and {free / 1e9:.2f} GB are free. Free disk space or {remedy}"
        )


def write_shards(
    job: Job,
    *,
    progress: Callable[[int, int, str], None] | None = None,
    at_once: int | None = None,
    then: Callable[[list[Path]], None] = lambda markers: None,
) -> None:
    """Run the tasks: first all that read archives in place, then one subset after another that must be inflated.

    `then` is given the markers of each `at_once` shards when these are written; the next are begun when it returns.
    """
    decode = job.options.decode == "full"
    sizes = {(one.plan.subset, n): shard.bytes for one in job.planned for n, shard in enumerate(one.plan.shards)}
    left = {one.plan.subset: job.left(one) for one in job.planned}
    total = sum(sizes.values())
    written = total - sum(sizes[subset, number] for subset, numbers in left.items() for number in numbers)
    in_place = [one for one in job.planned if not one.inner]
    groups = [in_place, *([one] for one in job.planned if one.inner)]
    for group in groups:
        with contextlib.ExitStack() as stack:
            mine = [one for one in group if left[one.plan.subset]]
            archives = [
                tuple(
                    stack.enter_context(extracted(archive, one.work)) if archive.inside else archive
                    for archive in one.archives
                )
                for one in mine
            ]
            stack.callback(_gather, job.out, mine)
            # The run ends before the inflated archives go, or a task elsewhere would take them for damaged.
            with writing(job.work):
                run = stack.enter_context(announced(job.work))
            tasks = [
                one.task(number, job.out, its, decode, run)
                for one, its in zip(mine, archives, strict=True)
                for number in left[one.plan.subset]
            ]
            step = at_once or len(tasks) or 1
            for batch in [tasks[at : at + step] for at in range(0, len(tasks), step)]:
                with completed(job.pool, write_shard, batch) as results:
                    try:
                        for task, _ in results:
                            written += sizes[task.subset, task.number]
                            if progress:
                                progress(written, total, task.subset)
                    except BaseException:
                        run.end()  # first of all: to cancel many tasks of a cluster takes a while
                        raise
                then([Path(task.marker) for task in batch])


def _gather(out: Path, subsets: list[_Subset]) -> None:
    """After tasks in other processes: see what they wrote, and remove what a lost one left half written."""
    _sweep(out)
    for one in subsets:  # network file systems remember that a name was not there, until its folder is listed again
        for folder in (one.work, one.work / "markers", out / layout.DATA, out / layout.DATA / one.plan.subset):
            with contextlib.suppress(OSError):
                os.listdir(folder)


def finish(job: Job) -> Result:
    """Index, report, the manifest, the card: each from what the step before wrote."""
    out, earlier = job.out, job.earlier
    if earlier and job.complete:
        return Result(out, earlier, report.read(out, earlier["subsets"]), written=False)
    reports, rows = [], [row for row in (earlier or {}).get("shards", [])]
    for one in job.planned:
        paths = one.markers()
        markers = [read_marker(path) for path in paths]
        reports.append(report.reckon(one.plan, markers))
        rows += [marker.row() for marker in markers if marker.name]
        if any(marker.name for marker in markers):
            manifest.write_index(out / layout.index_name(one.plan.subset), paths)
    problems = [*job.found.problems, *(problem for one in job.planned for problem in one.problems)]
    for files in job.imageless:
        records, rejected, unreadable = read_records(files, job.options)
        reports.append(report.reckon_records(files.name, records, rejected))
        problems += unreadable
    summary = report.write(out, reports, problems, job.found.unknown)
    if not rows:
        _clear(out)
        raise ReleaseError(
            f"{job.found.path}: none of its images can be published. {out / layout.SUMMARY} says why; "
            "mend the release and run again"
        )
    made = manifest.build(rows, job.options)
    manifest.write(out, made)
    if job.card:
        job.card.write(out)
    _clear(out)
    return Result(out, made, summary, written=True)
