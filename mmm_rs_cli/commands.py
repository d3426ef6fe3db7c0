"""What each command does: it takes the parsed arguments, calls one function and prints the outcome.

Modules that take seconds to import are imported by the command that needs them.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import shlex
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any

from conversion.errors import REPORTED, OutputError, ReleaseError, UsageError, VerificationError
from mmm_rs_cli.retry import with_options
from mmm_rs_cli.terminal import Progress, note, result, results, table

if TYPE_CHECKING:
    from concurrent.futures import Executor

    from conversion.job import Result
    from conversion.options import Options
    from mmm_rs_hub.destination import Destination
    from mmm_rs_hub.proof import Proof
    from mmm_rs_reading.cache import Entry


def inspect(arguments: argparse.Namespace) -> int:
    from conversion import inspect
    from mmm_rs_cli.inspect import lines

    inspection = inspect(arguments.release, _options(arguments), arguments.annotations)
    if arguments.json:
        results(json.dumps(inspection, indent=2))
    else:
        for line in lines(inspection):
            result(line)
    options = _options_that_help(inspection["problems"])
    if not inspection["plan"]["shards"]:
        error = ReleaseError(f"{arguments.release}: nothing in it can be converted")
        error.options = options
        raise error
    if options and not arguments.json:
        _print_next(with_options(arguments.words, options))
    return 0


def _options_that_help(problems: list[dict[str, Any]]) -> Sequence[str]:
    """Those of the first problem that options would remedy."""
    return next((problem["options"] for problem in problems if problem.get("options")), ())


def convert(arguments: argparse.Namespace) -> int:
    from conversion import convert
    from dataset_card import card

    with _cluster(arguments.dask) as executor, Progress(arguments.quiet) as progress:
        converted = convert(
            arguments.release,
            arguments.out,
            subsets=arguments.subset,
            options=_options(arguments),
            workers=arguments.workers,
            executor=executor,
            annotations=arguments.annotations,
            overwrite=arguments.overwrite,
            card=card,
            progress=progress,
            say=progress.note,
        )
    if arguments.json:
        from mmm_rs_cli import summary

        results(json.dumps(summary.data(converted), indent=2))
    else:
        _print_summary(converted)
    if not arguments.json and not arguments.quiet:
        release, out = map(shlex.quote, (str(arguments.release), str(arguments.out)))
        options = _options_that_help(converted.summary["sources"])
        words = [word for word in arguments.words if word != "--overwrite"]
        _print_next(
            *([f"mmm-rs report {out}"] if converted.reported else []),
            *([with_options([*words, "--overwrite"], options)] if options else []),
            f"mmm-rs verify {out} --release {release}",
            f"mmm-rs preview {out}",
        )
    if not converted.reported:
        return 0
    if arguments.strict:
        raise VerificationError(
            f"{converted.out}: something was left out and --strict was given. `mmm-rs report "
            f"{shlex.quote(str(arguments.out))}` lists it"
        )
    return REPORTED


@contextmanager
def _cluster(address: str | None) -> Iterator[Executor | None]:
    if address is None:
        yield None
        return
    from conversion.cluster import connected

    with connected(address) as executor:
        yield executor


def _print_summary(converted: Result) -> None:
    from mmm_rs_cli import summary

    result(summary.headline(converted), "yellow" if converted.reported else "green")
    for line in summary.lines(converted):
        result(line)


def _print_next(*steps: str) -> None:
    """Commands to type next."""
    result()
    result("Next:", "bold")
    for step in steps:
        result(f"  {step}", "cyan")


def report(arguments: argparse.Namespace) -> int:
    from mmm_rs_cli import report

    form = report.csv_lines if arguments.csv else report.json_lines if arguments.json else report.lines
    for line in form(arguments.out, arguments.subset or (), arguments.reason or ()):
        result(line)
    return 0


def verify(arguments: argparse.Namespace) -> int:
    arguments.out = _place(arguments.out)
    on_hub = "://" in arguments.out
    if on_hub and arguments.release:
        raise UsageError("--release compares a local folder; verify the folder that was uploaded")
    if on_hub and arguments.source:
        raise UsageError("--source compares a local folder; verify the folder that was uploaded")
    if arguments.deep and not on_hub:
        raise UsageError("--deep is for a copy on the hub; a folder is always read")
    if arguments.subset and on_hub:
        raise UsageError(
            "--subset is for a folder that holds a part of the dataset; a copy on the hub is checked whole"
        )
    with _faults_as_json(arguments):
        lines, facts = (_verify_hub if on_hub else _verify_folder)(arguments)
    if arguments.json:
        results(json.dumps({"ok": True, **facts}, indent=2))
        return 0
    result(lines[0], "green")
    for line in lines[1:]:
        result(line)
    if not on_hub and not arguments.quiet and not arguments.subset:
        _print_next(f"mmm-rs upload {shlex.quote(arguments.out)} {_repository(arguments.out)}")
    return 0


@contextmanager
def _faults_as_json(arguments: argparse.Namespace) -> Iterator[None]:
    """With --json, a program gets the faults too."""
    try:
        yield
    except VerificationError as error:
        if arguments.json:
            results(json.dumps({"ok": False, "faults": error.lines}, indent=2))
        raise


def _repository(out: str) -> str:
    """The repository to which a finished folder can be uploaded, or an example of one."""
    from dataset_card.statistics import read_manifest
    from mmm_rs_hub.destination import suggested_repository

    return suggested_repository(Path(out), read_manifest(Path(out)))


def _verify_folder(arguments: argparse.Namespace) -> tuple[list[str], dict[str, Any]]:
    from conversion import report, verify
    from conversion.contents import remarks
    from conversion.exports.proof import compare_with_source, open_both
    from dataset_card import card

    if arguments.source:
        open_both(arguments.out, arguments.source)  # an address that is wrong should not show in hours
    with Progress(arguments.quiet) as progress:
        verified = verify(
            arguments.out,
            arguments.release,
            subsets=arguments.subset,
            workers=arguments.workers,
            card=card,
            progress=progress,
        )
    if not arguments.subset:  # a part of the dataset may be there without its report
        summary = report.read(Path(arguments.out), ())
        if incomplete := report.incomplete(summary["sources"]):
            note(f"{arguments.out}: {incomplete}")
    line = f"{arguments.out} is OK: {verified.shards} shards, {verified.samples:,} samples, {verified.images:,} images"
    if arguments.subset:
        line += f" of {', '.join(dict.fromkeys(arguments.subset))}"
    if arguments.release:
        line += f"; {verified.compared:,} images are byte for byte the release's"
    facts = {"out": arguments.out, **dataclasses.asdict(verified)}
    if arguments.source:
        with Progress(arguments.quiet) as progress:
            compared = compare_with_source(
                arguments.out, arguments.source, workers=arguments.workers, progress=progress
            )
        line += f"; the selection is the source's, and {compared:,} images are byte for byte the same"
        facts["compared_with_source"] = compared
    return [line, *remarks(verified.passed_over, verified.others)], facts


def _verify_hub(arguments: argparse.Namespace) -> tuple[list[str], dict[str, Any]]:
    from mmm_rs_hub.proof import verify_hub

    with Progress(arguments.quiet) as progress:
        proof = verify_hub(arguments.out, arguments.deep, say=progress.note, progress=progress)
    return proof.lines(), {"out": proof.url, **dataclasses.asdict(proof)}


def export(arguments: argparse.Namespace) -> int:
    from conversion import Selection, export
    from conversion.exports.selection import read_keys
    from conversion.options import SHARD_SIZE
    from dataset_card import card, parquet

    selection = Selection(
        configs=arguments.config or ("all",),
        split=arguments.split,
        modalities=arguments.modalities,
        complete=arguments.complete,
        gsd_levels=arguments.gsd_level,
        weathers=arguments.weather,
        categories=arguments.category,
        satellites=arguments.satellite,
        contains=arguments.contains,
        where=arguments.where,
        keys=read_keys(arguments.keys) if arguments.keys else None,
        limit=arguments.limit,
        share=arguments.share,
        seed=arguments.seed,
    )
    with Progress(arguments.quiet) as progress:
        exported = export(
            _place(arguments.source),
            arguments.out,
            selection,
            to=arguments.to,
            shard_size=SHARD_SIZE if arguments.shard_size is None else arguments.shard_size,
            twin_folders=arguments.twin_folders,
            on_error=arguments.on_error,
            workers=arguments.workers,
            dry_run=arguments.dry_run,
            card={"dataset": card, "parquet": parquet}.get(arguments.to),
            progress=progress,
            say=note if arguments.dry_run else progress.note,
        )
    if exported is None:
        return 0
    if arguments.json:
        left_out = [{"subset": subset, **dataclasses.asdict(row)} for subset, row in exported.reported]
        facts = {"samples": exported.samples, "images": exported.images, "left_out": left_out}
        results(json.dumps({"out": str(exported.out), "to": exported.to, **facts}, indent=2))
    else:
        done = "complete" if exported.written else "complete already, nothing to do"
        counts = f"{exported.samples:,} samples, {exported.images:,} images"
        result(f"{exported.out}: {done}: {counts}", "yellow" if exported.reported else "green")
        if arguments.to != "dataset" and not arguments.quiet:
            _print_loading(arguments.to, exported.out)
        elif not arguments.quiet:
            out, source = map(shlex.quote, (str(arguments.out), arguments.source))
            _print_next(
                f"mmm-rs verify {out} --source {source}", f"mmm-rs upload {out} {_repository(str(arguments.out))}"
            )
    if not exported.reported:
        return 0
    images = sum(row.kind == "image" for _, row in exported.reported)
    note(f"{images:,} images are left out, because their samples are damaged in the source. See {exported.report}")
    return REPORTED


def _print_loading(to: str, out: Path) -> None:
    """How to load and upload an export to Parquet or to a folder of images."""
    from conversion.layout import EXPORT
    from mmm_rs import loading
    from mmm_rs_hub.destination import suggested_repository

    record = json.loads((out / EXPORT).read_bytes())
    repository = suggested_repository(out, {"exported_from": record["source"]})
    results(f"\nload it:\n  from datasets import load_dataset\n  {loading(to, str(out))}")
    _print_next(f"hf upload {repository} {shlex.quote(str(out))} --repo-type dataset")


def card(arguments: argparse.Namespace) -> int:
    from dataset_card.card import write

    write(arguments.out)
    result(f"{arguments.out / 'README.md'}: written, with its pictures and croissant.json")
    return 0


def preview(arguments: argparse.Namespace) -> int:
    from conversion.display import size
    from mmm_rs_cli.preview import write_preview

    written = write_preview(_place(arguments.out), arguments.config, arguments.output, arguments.pages)
    subsets = f"{written.subsets} subset{'s' * (written.subsets != 1)}"
    pages = f" on {len(written.paths)} pages" if len(written.paths) > 1 else ""
    shown, part = f"{written.samples:,} samples", ""
    if written.shards_read:
        shown = f"{written.samples:,} of {written.available:,} samples"
        part = f" ({written.shards_read} shards of each subset were read)"
    total = f"{shown} of {subsets}{pages}{part}, {size(written.size)}"
    result(f"{written.paths[0]}: {total}. Open it in a browser")
    if written.more:
        place = shlex.quote(arguments.out)
        configs = "".join(f" --config {name}" for name in arguments.config or ())
        note(f"There are more samples: mmm-rs preview {place}{configs} --pages {arguments.pages + 1}")
    return 0


def show(arguments: argparse.Namespace) -> int:
    from mmm_rs_cli import samples, show

    source = samples.open_dataset(_place(arguments.out))
    sample = samples.find(source, arguments.key)
    for line, style in show.lines(sample):
        result(line, style)
    if arguments.save:
        for path in show.save(source, sample, arguments.save):
            note(f"{path}: written")
    if arguments.plot:
        show.write_plot(source, sample, arguments.plot)
        note(f"{arguments.plot}: written")
    return 0


def upload(arguments: argparse.Namespace) -> int:
    from mmm_rs_hub.upload import plan_upload, upload

    destination = _destination(arguments)
    with _faults_as_json(arguments), Progress(arguments.quiet) as progress:
        if arguments.dry_run:
            plan = plan_upload(arguments.out, destination, say=progress.note, progress=progress)
        else:
            proof = upload(arguments.out, destination, say=progress.note, progress=progress)
    if arguments.dry_run:
        if arguments.json:
            results(json.dumps(plan.data(), indent=2))
        else:
            for line in plan.lines():
                result(line)
        if plan.refusal:
            raise OutputError(f"nothing could be sent: {plan.refusal}")
    elif arguments.json:
        results(json.dumps({"ok": True, "out": str(arguments.out), **_published(proof, destination)}, indent=2))
    else:
        _print_published(proof, destination, arguments.quiet)
    return 0


def publish(arguments: argparse.Namespace) -> int:
    from conversion.job import ConversionSettings
    from mmm_rs_hub.publish import publish

    destination = _destination(arguments)
    with _faults_as_json(arguments), Progress(arguments.quiet) as progress:
        settings = ConversionSettings(
            subsets=arguments.subset,
            options=_options(arguments),
            workers=arguments.workers,
            annotations=arguments.annotations,
            overwrite=arguments.overwrite,
            say=progress.note,
        )
        converted, proof = publish(
            arguments.release, destination, arguments.staging, settings, keep=arguments.keep, progress=progress
        )
    if arguments.json:
        from mmm_rs_cli import summary

        data = {"ok": True, **summary.data(converted), "published": _published(proof, destination)}
        results(json.dumps(data, indent=2))
    else:
        _print_summary(converted)
        result()
        _print_published(proof, destination, arguments.quiet)
        if not arguments.quiet:
            result()
            result(
                f"{converted.out}: holds everything except the shards. You may remove it; if you keep it, the same "
                "command has less to do"
            )
    return REPORTED if converted.reported else 0


def _published(proof: Proof, destination: Destination) -> dict[str, Any]:
    """What was sent and proved, ready for JSON."""
    from mmm_rs_hub.client import default_api, page

    facts = {**dataclasses.asdict(proof), "url": proof.url, "page": page(destination, default_api())}
    return {**facts, "branch": destination.revision, "tag": destination.tag}


def _print_published(proof: Proof, destination: Destination, quiet: bool) -> None:
    """What was proved, where to look at it, and how to load it."""
    from mmm_rs_cli.report import counted
    from mmm_rs_hub.client import default_api, page
    from mmm_rs_hub.destination import MAIN

    url, *lines = proof.lines()
    result(f"{url} is what was converted", "green")
    for line in lines:
        result(line)
    result(f"{counted(proof.sent, 'file')} sent" if proof.sent else "nothing had to be sent")
    result()
    result(page(destination, default_api()), "cyan")
    if quiet:
        return
    revision = destination.tag or (destination.revision if destination.revision != MAIN else None)
    argument = f', revision="{revision}"' if revision else ""
    results(f"""
load it:
  from datasets import load_dataset
  load_dataset("{proof.repo_id}", "{proof.config}", split="train", streaming=True{argument})""")
    _print_next(f"mmm-rs verify hf://datasets/{proof.repo_id}{f'@{revision}' if revision else ''}")


def completion(arguments: argparse.Namespace) -> int:
    import argcomplete

    results(argcomplete.shellcode(["mmm-rs"], shell=arguments.shell).rstrip("\n"))
    return 0


def cache(arguments: argparse.Namespace) -> int:
    from conversion.display import size
    from mmm_rs_reading.cache import free_space, open_cache

    try:
        opened = open_cache(arguments.dir, None)
    except ValueError as error:
        raise UsageError(str(error)) from None
    if opened is None:
        raise UsageError("no cache to show. Give its folder with --dir, or set MMM_RS_CACHE")
    folder = Path(opened.folder)
    if folder.exists() and not folder.is_dir():
        raise UsageError(f"{opened.folder}: is not a folder. Give the one that local_cache names")
    if arguments.dir is not None and not folder.exists():
        raise UsageError(f"{opened.folder}: no such folder. Give the one that local_cache names")
    entries = opened.entries()
    freed = opened.remove(entries) if arguments.clear else 0
    left = opened.entries() if arguments.clear else entries
    total, free = sum(entry.size for entry in left), free_space(opened.folder)
    if arguments.json:
        facts = {"dir": opened.folder, "shards": len(left), "bytes": total, "limit": opened.limit, "free": free}
        results(json.dumps({**facts, "freed": freed, "entries": [_entry(entry) for entry in left]}, indent=2))
        return 0
    if arguments.clear:
        result(f"{opened.folder}: {_shards(len(entries) - len(left))} removed, {size(freed)}")
    limit = "" if opened.limit is None else f" of {size(opened.limit)}"
    disk = "" if free is None else f"; {size(free)} free on the disk"
    result(f"{opened.folder}: {_shards(len(left))}, {size(total)}{limit}{disk}")
    if left:
        oldest, latest = (f"{datetime.fromtimestamp(entry.used):%Y-%m-%d %H:%M}" for entry in (left[0], left[-1]))
        result(f"last used: {oldest} to {latest}")
    return 0


def _shards(count: int) -> str:
    return f"{count:,} shard{'s' * (count != 1)}"


def _entry(entry: Entry) -> dict[str, Any]:
    used = datetime.fromtimestamp(entry.used, timezone.utc).isoformat(timespec="seconds")
    return {"key": entry.key, "bytes": entry.size, "used": used}


def demo(arguments: argparse.Namespace) -> int:
    from mmm_rs_cli.demo import demo

    finished = demo.run(arguments.folder, say=note)
    out, total = finished.result.out, finished.result.summary["total"]
    results("\nAll of this is synthetic: drawn scenes in upstream's layout, not images of the Earth.\n")
    for line in table(*demo.table(finished)):
        result(line)
    results(
        f"\nOf {total['images']['released']} images {total['images']['published']} were published and "
        f"{total['images']['reported']} reported; of {total['records']['released']} records {total['records']['used']} "
        f"were used and {total['records']['reported']} reported: the release holds some that match nothing."
    )
    results(f"""
the release    {finished.release}
the dataset    {out}
look at        {finished.sheet}

load it:
  from datasets import load_dataset
  load_dataset("{out}", "WHU-OPT-SAR", split="train", streaming=True)""")
    folder = shlex.quote(str(out))
    _print_next(
        f"mmm-rs preview {folder}", f"mmm-rs report {folder}", f"mmm-rs show {folder} SEN1-2/ROIs1158_spring_1_p1"
    )
    return 0


def _place(text: str) -> str:
    """A path, or an address in the form that is read."""
    from mmm_rs import dataset_address

    address = dataset_address(text)
    if address != text and "://" not in text:
        note(f"{text}: no such folder here, so {address} is read")
    return address


def _destination(arguments: argparse.Namespace) -> Destination:
    from mmm_rs import dataset_address
    from mmm_rs_hub.destination import MAIN, Destination

    return Destination(
        dataset_address(arguments.repo).removeprefix("hf://datasets/"),
        arguments.private,
        arguments.revision or MAIN,
        arguments.tag,
        arguments.yes,
    )


def _options(arguments: argparse.Namespace) -> Options:
    """The options that shape the output."""
    from conversion.options import SHARD_SIZE, Options

    return Options(
        arguments.seed,
        SHARD_SIZE if arguments.shard_size is None else arguments.shard_size,
        arguments.image_key,
        arguments.prompt_key,
        arguments.keep_unprompted,
        arguments.validation,
        arguments.decode,
    )
