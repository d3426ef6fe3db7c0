"""One export: from a converted dataset to a smaller one, a folder of images, or Parquet.

While an export is unfinished its state lies in OUT/.mmm-rs: a lock, its settings, its plan, and a marker for each part
that is done. The same call continues from there. The state is removed last.
"""

from __future__ import annotations

import json
import os
import shutil
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import pyarrow.parquet as pq

from conversion import layout, manifest, report
from conversion.disk import RESERVE, TEMPORARY, write_json, writing
from conversion.display import size
from conversion.errors import OutputError, ReleaseError, UsageError
from conversion.execution import check_stop, completed, cores, program, threads
from conversion.exports.dataset import DatasetForm
from conversion.exports.folder import FolderForm
from conversion.exports.parquet import ParquetForm
from conversion.exports.parts import Form, Group, Part, Plan, Written, choose, plan_parts
from conversion.exports.selection import Selection
from conversion.exports.source import Batch, Source, batches, open_converted
from conversion.findings import Reported
from conversion.options import SHARD_SIZE, check_shard_size, recorded_options
from conversion.work import locked
from mmm_rs import MODALITIES

FORMS = ("dataset", "folder", "parquet")
SETTINGS = (
    "export.json"  # in the work folder while the export is unfinished; in a finished folder or Parquet export too
)
PLAN = "plan.arrow"  # in the work folder
CONNECTED = 2  # parts at a time from a remote source; each reads many ranges at once


class Card(Protocol):
    """What describes a finished export to people."""

    def write(self, out: Path, /) -> None: ...


@dataclass(frozen=True)
class Exported:
    """What came of an export. `written` is False if everything was there already."""

    out: Path
    to: str
    samples: int
    images: int
    reported: tuple[tuple[str, Reported], ...]
    """subset and what of it is left out because it is damaged in the source"""
    written: bool

    @property
    def report(self) -> Path:
        """Where the output lists what is left out."""
        return self.out / (layout.REPORT if self.to == "dataset" else layout.EXPORT)


def export(
    source: str | os.PathLike[str],
    out: str | os.PathLike[str],
    selection: Selection | None = None,
    *,
    to: str = "dataset",
    shard_size: int = SHARD_SIZE,
    twin_folders: bool = False,
    on_error: str = "raise",
    workers: int | None = None,
    token: bool | str | None = None,
    storage_options: Mapping[str, Any] | None = None,
    dry_run: bool = False,
    card: Card | None = None,
    progress: Callable[[int, int, str], None] | None = None,
    say: Callable[[str], None] = lambda line: None,
) -> Exported | None:
    """Write a part of a converted dataset into the folder `out`. Called again after an interruption, it continues.

    Only the images of selected samples are read, and each is checked by its CRC-32. The output depends on the source
    and the arguments alone.

    Args:
        source: A converted folder, or `hf://datasets/org/MMM-RS[@revision]`.
        out: The folder to write; it must not exist, be empty, or hold this export unfinished.
        selection: What to take (default: everything).
        to: "dataset" (shards and index like the source's), "folder" (images, `.txt` and `metadata.jsonl`) or "parquet".
        shard_size: Bytes of a shard or Parquet file, at most.
        twin_folders: With "folder": a folder for each modality, instead of `<key>.sar.jpg` beside `<key>.jpg`.
        on_error: "raise" for damage in the source, or "skip" to leave the sample out and report it.
        workers: Parts to write at a time (default: one per core; 2 from a remote source).
        token: For a private repository on the hub.
        storage_options: For the file system of another remote source (see `fsspec`).
        dry_run: Only say what would be written.
        card: Writes the card, for example the module `dataset_card.card`; without it there is none.
        progress: Called with the bytes of images done, their total, and what is being written.
        say: Called with a line for each step.

    Returns:
        What was written; None for a dry run.

    Raises:
        UsageError: An argument does not fit, or `out` holds something else.
        ReleaseError: The source is damaged or cannot be read.
        OutputError: `out` cannot be written.
    """
    selection = selection or Selection()
    _check_arguments(to, on_error, shard_size, twin_folders)
    out = Path(os.path.abspath(os.path.expanduser(out)))
    opened = open_converted(source, token, storage_options)
    _check_place(out, opened)
    settings = {
        "to": to,
        "source": {"address": opened.address if opened.remote else None, "digest": opened.digest},
        "selection": selection.record(),
        "options": _options(to, shard_size, twin_folders),
    }
    if (finished := _finished(out, settings)) is not None:
        if (out / layout.WORK).exists():  # its removal was cut short
            with locked(out):
                _clear(out / layout.WORK)
        return finished
    _check_free(out)
    if dry_run:
        _say_plan(opened, choose(opened, selection), say)
        return None
    with locked(out):
        work = out / layout.WORK
        _check_begun(out, work, settings)
        form = _form(out, work, opened, selection, settings)
        plan = _plan(work, settings, opened, selection, form, say)
        _check_disk(out, work, plan)
        written = _write_parts(opened, plan, form, work, on_error, workers, progress)
        if not any(part.samples for part in written):
            raise ReleaseError(f"{opened.address}: all selected samples are damaged, so nothing can be exported")
        say(f"writing {'the index, manifest and card' if to == 'dataset' else 'the files that describe all parts'}")
        with writing(out):
            for note in form.finish(plan, written):
                say(note)
        result = _result(out, to, plan, written)
        if to != "dataset":
            write_json(out / layout.EXPORT, {**settings, **_summary(result)})
        if card is not None:
            card.write(out)
        _clear(work)
        return result


# --- what is asked ---------------------------------------------------------------------------------------------------


def _check_arguments(to: str, on_error: str, shard_size: int, twin_folders: bool) -> None:
    if to not in FORMS:
        raise UsageError(f"--to {to}: give one of {', '.join(FORMS)}")
    if on_error not in ("raise", "skip"):
        raise UsageError(f"--on-error {on_error}: give raise or skip")
    check_shard_size(shard_size)
    if twin_folders and to != "folder":
        raise UsageError("--twin-folders is for --to folder")


def _options(to: str, shard_size: int, twin_folders: bool) -> dict[str, Any]:
    """The options that shape the output, beside the selection."""
    return {"twin_folders": twin_folders} if to == "folder" else {"shard_size": shard_size}


def _form(out: Path, work: Path, source: Source, selection: Selection, settings: dict[str, Any]) -> Form:
    to, options = settings["to"], settings["options"]
    subsets = [name for name in selection.subsets if name in source.manifest["subsets"]]
    if to == "folder":
        several = selection.split is None and len(source.splits(subsets)) > 1
        return FolderForm(out, work, options["twin_folders"], several)
    if to == "parquet":
        held = {modality for name in subsets for modality in selection.subset_modalities(name)}
        return ParquetForm(out, tuple(m for m in MODALITIES if m in held), options["shard_size"])
    shaped = replace(recorded_options(source.manifest), shard_size=options["shard_size"])
    return DatasetForm(out, work, shaped, {**settings["source"], "selection": settings["selection"]})


# --- the output folder -----------------------------------------------------------------------------------------------


def _check_place(out: Path, source: Source) -> None:
    """Raises UsageError if the output would lie in the source, or the source in the output."""
    if source.remote:
        return
    target, origin = Path(os.path.realpath(out)), Path(source.address)
    if target == origin or origin in target.parents or target in origin.parents:
        raise UsageError(f"{out}: is the source, lies in it, or holds it. Choose another folder for the export")


def _finished(out: Path, settings: dict[str, Any]) -> Exported | None:
    """What was exported here before with the same settings, if that is complete."""
    if (out / layout.EXPORT_BEGUN).exists():
        return None
    record = _record(out)
    if record is None or not _same(record, settings):
        return None
    reported = tuple((row.pop("subset"), Reported(**row)) for row in record["left_out"])
    return Exported(out, settings["to"], record["samples"], record["images"], reported, False)


def _record(out: Path) -> dict[str, Any] | None:
    """The settings of the finished export in a folder, and what came of it."""
    if not (out / layout.MANIFEST).exists():
        return _read_json(out / layout.EXPORT)
    contents = manifest.read(out)
    if contents is None or "exported_from" not in contents:
        return None
    exported_from = contents["exported_from"]
    return {
        "to": "dataset",
        "source": {name: exported_from[name] for name in ("address", "digest")},
        "selection": exported_from["selection"],
        "options": {"shard_size": contents["options"]["shard_size"]},
        "samples": sum(subset["samples"] for subset in contents["subsets"].values()),
        "images": sum(report.read(out, contents["subsets"])["total"]["by_modality"].values()),
        "left_out": pq.read_table(out / layout.UNPUBLISHED).to_pylist(),
    }


def _same(settings: dict[str, Any], others: dict[str, Any]) -> bool:
    """Whether two exports give the same output. The address may differ: the digest identifies the source."""
    return all(settings.get(name) == others[name] for name in ("to", "selection", "options")) and (
        settings.get("source", {}).get("digest") == others["source"]["digest"]
    )


def _check_free(out: Path) -> None:
    """Raises UsageError if the folder holds anything but an unfinished export."""
    if not out.exists() or (out / layout.EXPORT_BEGUN).exists():
        return
    if not out.is_dir():
        raise UsageError(f"{out}: is not a folder. Choose another")
    with writing(out):
        others = sorted(path.name for path in out.iterdir() if path.name != layout.WORK)
        if (out / layout.BEGUN).exists():
            others.append("an unfinished conversion")
    if others:
        what = "another export" if _record(out) else others[0]
        raise UsageError(f"{out}: holds {what}. Choose a new or empty folder, or remove this one")


def _check_begun(out: Path, work: Path, settings: dict[str, Any]) -> None:
    """Raises UsageError if another export was begun here."""
    begun = _read_json(work.parent / layout.EXPORT_BEGUN)
    if begun is None:
        return
    remedy = "Remove the folder, or choose another"
    if not _same(begun, settings):
        changed = "source" if begun["source"]["digest"] != settings["source"]["digest"] else "selection or options"
        raise UsageError(f"{out}: holds an unfinished export with another {changed}. {remedy}")
    if begun["program"] != program():
        raise UsageError(f"{out}: holds an unfinished export by another version of mmm-rs. {remedy}")


def _clear(work: Path) -> None:
    """Remove the state. What says that the export is unfinished goes first, so that a kill in between leaves nothing
    but files to be removed."""
    (work.parent / layout.EXPORT_BEGUN).unlink(missing_ok=True)
    for path in work.iterdir():
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        elif path.name != "lock":
            path.unlink(missing_ok=True)


def _read_json(path: Path) -> dict[str, Any] | None:
    try:
        data = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return None
    return data if isinstance(data, dict) else None


# --- the work --------------------------------------------------------------------------------------------------------


def _plan(
    work: Path,
    settings: dict[str, Any],
    source: Source,
    selection: Selection,
    form: Form,
    say: Callable[[str], None],
) -> Plan:
    """The plan: read back if this export was begun before, else made. Then the export counts as begun."""
    if (work.parent / layout.EXPORT_BEGUN).exists():
        return Plan.read(work / PLAN)
    say(f"looking through the index of {source.address}")
    groups = choose(source, selection)
    _say_plan(source, groups, say)
    plan = plan_parts(groups, form)
    plan.write(work / PLAN)
    write_json(work.parent / layout.EXPORT_BEGUN, {**settings, "program": program()})
    return plan


def _say_plan(source: Source, groups: Sequence[Group], say: Callable[[str], None]) -> None:
    for group in groups:
        split = "" if group.split == "train" else f", {group.split}"
        images = ", ".join(f"{count:,} {modality}" for modality, count in group.by_modality.items() if count)
        say(
            f"{group.subset}{split}: {len(group):,} of {group.available:,} samples ({images}), "
            f"{size(int(group.bytes.sum()))}"
        )
    total = sum(int(group.bytes.sum()) for group in groups)
    say(f"to read from {source.address}: {sum(map(len, groups)):,} samples, {size(total)} of images")


def _check_disk(out: Path, work: Path, plan: Plan) -> None:
    """Raises OutputError if the disk is too small for the parts that are left."""
    left = [part for part in plan.parts if not _marker(work, part).exists()]
    needed, free = sum(part.bytes + part.text_bytes for part in left) + RESERVE, shutil.disk_usage(out).free
    if left and needed > free:
        raise OutputError(
            f"{out}: {size(needed)} are needed and {size(free)} are free. Free disk space, or select less, for example "
            "with --share or --modalities"
        )


def _write_parts(
    source: Source,
    plan: Plan,
    form: Form,
    work: Path,
    on_error: str,
    workers: int | None,
    progress: Callable[[int, int, str], None] | None,
) -> list[Written]:
    """Write the parts that are left. Returns what came of each part, in order."""
    left = [part for part in plan.parts if not _marker(work, part).exists()]
    total = sum(part.bytes for part in plan.parts)
    done = total - sum(part.bytes for part in left)
    lock = threading.Lock()  # of `done` and the bar: several threads report progress

    def advance(part: Part, count: int) -> None:
        nonlocal done
        with lock:
            done += count
            if progress:
                progress(done, total, part.subset)

    def write(part: Part) -> None:
        reported: list[Reported] = []
        samples = _samples(source, plan, part, reported if on_error == "skip" else None, advance)
        with writing(work):
            counts = form.write(part, samples)
        rows = [asdict(row) for row in reported]
        write_json(_marker(work, part), {"samples": counts[0], "images": counts[1], "reported": rows})

    _sweep(work)
    with threads(workers or (CONNECTED if source.remote else cores())) as pool, completed(pool, write, left) as results:
        for _ in results:
            pass
    return [_read_marker(_marker(work, part)) for part in plan.parts]


def _sweep(work: Path) -> None:
    """Remove temporary files of a run that was killed: beside all files that take their name at the end."""
    out = work.parent
    beside = [(out, ""), *((out / name, "**/") for name in layout.FOLDERS), (work, ""), (work, "*/")]
    beside += [(work / "lines", "**/"), (work / "files", "*/"), (work / "files", "*/*/")]  # metadata of a folder
    with writing(work):
        for folder, pattern in beside:
            for path in folder.glob(pattern + TEMPORARY):
                path.unlink(missing_ok=True)


def _samples(
    source: Source,
    plan: Plan,
    part: Part,
    reported: list[Reported] | None,
    advance: Callable[[Part, int], None],
) -> Iterator[Batch]:
    """The samples of a part with their images."""
    for batch in batches(source, part.subset, plan.runs(part), part.modalities, reported):
        check_stop()
        yield batch
        advance(part, sum(len(data) for images in batch.images.values() for data in images if data is not None))


def _marker(work: Path, part: Part) -> Path:
    return work / "markers" / f"{part.number:06d}.json"


def _read_marker(path: Path) -> Written:
    data = json.loads(path.read_bytes())
    return Written(data["samples"], data["images"], tuple(Reported(**row) for row in data["reported"]))


def _result(out: Path, to: str, plan: Plan, written: Sequence[Written]) -> Exported:
    reported = [(part.subset, row) for part, result in zip(plan.parts, written, strict=True) for row in result.reported]
    samples, images = sum(part.samples for part in written), sum(part.images for part in written)
    return Exported(out, to, samples, images, tuple(reported), True)


def _summary(result: Exported) -> dict[str, Any]:
    left_out = [{"subset": subset, **asdict(row)} for subset, row in result.reported]
    return {"samples": result.samples, "images": result.images, "left_out": left_out}
