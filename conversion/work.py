"""The state of a conversion: what lies in its output folder before it is complete, and what an earlier one left there.

While a conversion is unfinished its state lies in OUT/.mmm-rs: a lock, its options and program, and for each subset its
plan, its records and the markers of the shards that are done. The folder is removed last.
"""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import filelock

import mmm_rs
from conversion import layout, manifest
from conversion.disk import TEMPORARY, output_error, write_json, writing
from conversion.errors import OutputError, ReleaseError, UsageError
from conversion.execution import program
from conversion.options import Options
from conversion.release import Release

LOCK = "lock"


@dataclass(frozen=True)
class SubsetWork:
    """Where the state of one subset lies."""

    folder: Path

    @property
    def plan(self) -> Path:
        return self.folder / "plan.arrow"

    @property
    def records(self) -> Path:
        """The records' text, which the plan points into."""
        return self.folder / "records.bin"

    @property
    def planned(self) -> Path:
        """Says that both are complete, and of which files of the release they were made."""
        return self.folder / "plan.json"

    def marker(self, number: int) -> Path:
        return self.folder / "markers" / f"{number:05d}.arrow"


def work_of(out: Path, subset: str) -> SubsetWork:
    return SubsetWork(out / layout.WORK / subset)


@dataclass(frozen=True)
class State:
    """How an unfinished conversion was begun."""

    options: dict[str, Any]
    overwrite: bool
    program: str | None  # None: --overwrite was removing what an earlier one left

    @classmethod
    def of(cls, options: Options, overwrite: bool) -> State:
        """That of a conversion which this program begins."""
        return cls(asdict(options), overwrite, program())


@contextlib.contextmanager
def locked(out: Path) -> Iterator[None]:
    """Holds the output folder for one conversion. The system drops the lock of a process that was killed.

    Raises OutputError if another conversion holds it, or if the folder cannot be written.
    """
    work, is_new = out / layout.WORK, not out.exists()
    with writing(work):
        work.mkdir(parents=True, exist_ok=True)
    lock = filelock.FileLock(work / LOCK)
    try:
        lock.acquire(timeout=0)
    except filelock.Timeout:
        raise OutputError(
            f"{out}: another command is writing to this folder. Wait for it, or choose another folder"
        ) from None
    except (OSError, NotImplementedError) as error:  # the latter: a file system without locks
        raise output_error(work / LOCK, error) from None
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            if [path.name for path in work.iterdir()] == [LOCK]:  # nothing was begun, or all is complete
                (work / LOCK).unlink()
                work.rmdir()
                if is_new:
                    out.rmdir()  # only where it is empty
        lock.release()


def state(out: Path) -> State | None:
    """How the unfinished conversion in a folder was begun; None if there is none."""
    try:
        return State(**json.loads((out / layout.BEGUN).read_bytes()))
    except FileNotFoundError:
        return None
    except (ValueError, TypeError):
        return State({}, True, None)  # whatever it was, nothing but --overwrite goes on with it


def begin(out: Path, state: State) -> None:
    write_json(out / layout.BEGUN, asdict(state))


def clear(out: Path) -> None:
    """Remove the state of a conversion that is complete. What says that one is unfinished goes first, so that a kill in
    between leaves nothing but files to be removed."""
    (out / layout.BEGUN).unlink(missing_ok=True)
    for path in (out / layout.WORK).iterdir():
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)


def is_known(out: Path) -> bool:
    """Whether a conversion wrote into this folder. One that could publish nothing left its report alone."""
    return any((out / name).exists() for name in (layout.MANIFEST, layout.BEGUN, layout.SUMMARY))


def check_foreign(out: Path) -> None:
    """Raises UsageError if files that no conversion wrote lie where one would write."""
    if (out / layout.EXPORT_BEGUN).exists():
        raise UsageError(f"{out}: holds an unfinished export. Choose another folder, or remove this one")
    for name in layout.PRODUCTS:
        for path in (out / name, *(out / name).rglob("*")):
            if path.is_file():
                raise UsageError(
                    f"{path}: was not written by a conversion, which needs its place. Move it away, or "
                    "choose another folder"
                )


def remove(out: Path) -> None:
    """Remove what an earlier conversion wrote, but for the card, whose own text the next one keeps."""
    kept = (layout.CARD, layout.ASSETS)
    with writing(out):
        begin(out, State({}, True, None))  # so that nothing but --overwrite goes on if this is cut short
        for path in [
            out / layout.MANIFEST,
            *(out / name for name in layout.PRODUCTS if name not in kept),
            *(out / name for name in layout.FIGURES),
            *(path for path in (out / layout.WORK).iterdir() if path.name != LOCK and path != out / layout.BEGUN),
        ]:
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)


def forget(out: Path, subset: str) -> None:
    """Remove what an unfinished conversion wrote of a subset."""
    with writing(out):
        for path in (work_of(out, subset).folder, out / layout.DATA / subset):
            if path.exists():
                shutil.rmtree(path)
        (out / layout.index_name(subset)).unlink(missing_ok=True)


def sweep(out: Path) -> None:
    """Remove temporary files of a conversion that was killed."""
    with writing(out):
        for folder in ("", *layout.FOLDERS, layout.WORK):
            for path in (out / folder).glob(f"**/{TEMPORARY}" if folder else TEMPORARY):
                path.unlink(missing_ok=True)


def earlier_manifest(out: Path, options: Options) -> dict[str, Any] | None:
    """The manifest of an earlier conversion into a folder, None if there is none.

    Raises UsageError if that one, or the one that is unfinished, is of another program, format or options.
    """
    earlier, begun = manifest.read(out), state(out)
    if begun and begun.program != program():
        raise UsageError(
            f"{out}: the unfinished conversion here was begun by another version of mmm-rs, or an --overwrite "
            "was cut short. Use --overwrite, or continue with that version"
        )
    if earlier and earlier["format_version"] != mmm_rs.FORMAT_VERSION:
        raise UsageError(
            f"{out}: has format {earlier['format_version']}, this program writes "
            f"{mmm_rs.FORMAT_VERSION}. Use --overwrite or another folder"
        )
    if earlier and "exported_from" in earlier:
        raise UsageError(f"{out}: holds an export of another dataset. Choose another folder, or use --overwrite")
    now = asdict(options)
    for before in [*([begun.options] if begun else []), *([earlier["options"]] if earlier else [])]:
        changed = [
            f"{name} was {before.get(name)!r}, now {now.get(name)!r}"
            for name in sorted({*before, *now})
            if before.get(name) != now.get(name)
        ]
        if changed:
            raise UsageError(
                f"{out}: was converted with other options ({', '.join(changed)}). Give the same options, "
                "--overwrite, or another folder"
            )
    return earlier


def check_begun(out: Path, release: Release, subsets: set[str], overwrite: bool) -> None:
    """See that no unfinished conversion of another subset than these is left, whose shards would be in no manifest.

    Raises UsageError or ReleaseError if one is, unless it is to be overwritten.
    """
    for name in mmm_rs.SUBSETS:
        if name in subsets or not work_of(out, name).folder.exists():
            continue
        if overwrite:
            forget(out, name)
        elif name in release.subsets:
            raise UsageError(
                f"{out}: an unfinished conversion of {name} lies here. Give the same --subset again, "
                "omit it to convert all subsets, or use --overwrite"
            )
        else:
            raise ReleaseError(
                f"{release.path}: the release changed since this conversion began: {name} was there. "
                "Put it back, or use --overwrite to begin again"
            )
