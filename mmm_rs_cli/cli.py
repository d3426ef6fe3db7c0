"""The command line. Each command parses its words, calls one function and prints what came of it.

Modules that take seconds to import are imported by the command that needs them.
"""

from __future__ import annotations

import argparse
import contextlib
import errno
import gc
import json
import os
import re
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from conversion import __version__
from conversion.errors import REPORTED, MMMRSError, OutputError, UsageError, VerificationError

if TYPE_CHECKING:
    from concurrent.futures import Executor

    from conversion.plan import Options

EXIT_CODES = """exit codes:
  0 complete    1 a fault of the program    2 bad usage    3 complete, but something was left out: see the report
  4 the release cannot be used    5 the output or the hub cannot be written    6 verification failed
  130, 143 interrupted: the same command goes on"""


class Terminated(BaseException):
    """SIGTERM."""


def main(argv: list[str] | None = None) -> int:
    """Run one command; returns its exit code (see `conversion.errors`)."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:  # closed by who started this
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115
        elif hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")  # a terminal that cannot show a name is no reason to end
    arguments = _parser().parse_args(argv)
    before = signal.signal(signal.SIGTERM, _terminate)
    try:
        _import()
        return arguments.run(arguments)
    except MMMRSError as error:
        print(f"mmm-rs: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print(f"mmm-rs: interrupted. {_again(arguments)}", file=sys.stderr)
        return 130
    except Terminated:
        print(f"mmm-rs: terminated. {_again(arguments)}", file=sys.stderr)
        return 143
    finally:
        signal.signal(signal.SIGTERM, before)


def _again(arguments: argparse.Namespace) -> str:
    goes_on = arguments.run in (_convert, _upload, _publish)
    return "The same command goes on where it stopped" if goes_on else "The same command begins anew"


def _import() -> None:
    """Import what every command needs. To look through all that it makes for garbage, while it is made and once more
    at the end, would take a quarter of a short command's time. A signal waits meanwhile: where its exception rises in
    the middle of a class, Python makes another of it."""
    if "mmm_rs" not in sys.modules:
        masked = None
        if hasattr(signal, "pthread_sigmask"):
            masked = signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGINT, signal.SIGTERM))
        gc.disable()
        try:
            import mmm_rs  # noqa: F401
        finally:
            gc.freeze()
            gc.enable()
            if masked is not None:
                signal.pthread_sigmask(signal.SIG_SETMASK, masked)


def _print(line: str = "") -> None:
    """A line of the result. Where nobody reads any more (`mmm-rs inspect ... | head`) the command goes on without."""
    try:
        print(line, flush=True)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except OSError as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise OutputError(
            f"standard output: cannot be written: {error.strerror}. Mend it; what the command wrote "
            "elsewhere is complete"
        ) from None


def _terminate(number: int, frame: Any) -> None:
    raise Terminated


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="mmm-rs",
        description="MMM-RS from the zip release to a streamable Hugging Face dataset.",
        epilog=EXIT_CODES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"mmm-rs {__version__}")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")

    command = _command(
        commands,
        "inspect",
        _inspect,
        "show what a release holds and what would be made of it",
        "mmm-rs inspect ~/Downloads/MMM-RS",
    )
    command.add_argument("release", type=_path, help="folder of zips, MMM-RS.zip, or extracted folders")
    command.add_argument("--json", action="store_true", help="print JSON for programs")
    _add_plan_options(command)

    command = _command(
        commands,
        "convert",
        _convert,
        "write shards, index, manifest, report and card",
        "mmm-rs convert ~/Downloads/MMM-RS ./MMM-RS-hub --workers 4",
    )
    command.add_argument("release", type=_path, help="folder of zips, MMM-RS.zip, or extracted folders")
    command.add_argument("out", type=_folder, help="the folder to write; run again to go on after an interruption")
    command.add_argument("--subset", action="append", metavar="NAME", help="only this subset (repeatable)")
    where = command.add_mutually_exclusive_group()
    where.add_argument("--workers", type=_positive, metavar="N", help="shards at a time (default: one a core)")
    where.add_argument(
        "--dask",
        metavar="ADDRESS",
        help="write the shards on the workers of this Dask scheduler, such as tcp://host:8786",
    )
    command.add_argument("--overwrite", action="store_true", help="remove an earlier output and begin anew")
    command.add_argument("--strict", action="store_true", help="fail when anything is left out")
    command.add_argument("--quiet", action="store_true", help="no progress, only the summary")
    _add_plan_options(command)

    command = _command(
        commands,
        "verify",
        _verify,
        "check a converted folder, or its copy on the hub",
        "mmm-rs verify ./MMM-RS-hub --release ~/Downloads/MMM-RS",
    )
    command.add_argument("out", type=_address, help="the converted folder, or hf://datasets/org/MMM-RS[@revision]")
    command.add_argument("--release", type=_path, help="compare every image with this release, byte by byte")
    command.add_argument("--deep", action="store_true", help="on the hub: download and read every shard too")
    command.add_argument("--workers", type=_positive, metavar="N", help="shards at a time (default: one a core)")

    command = _command(
        commands, "card", _card, "write the card, its pictures and Croissant again", "mmm-rs card ./MMM-RS-hub"
    )
    command.add_argument("out", type=_folder, help="the converted folder")

    command = _command(
        commands,
        "preview",
        _preview,
        "write one web page to look through a converted folder",
        "mmm-rs preview ./MMM-RS-hub --config SEN1-2",
    )
    command.add_argument("out", type=_folder, help="the converted folder")
    command.add_argument(
        "--config", action="append", metavar="NAME", help="only this config (repeatable; default: all)"
    )
    command.add_argument(
        "--output",
        type=_path,
        metavar="FILE.html",
        help="the page; outside the converted folder (default: OUT-preview.html)",
    )

    command = _command(
        commands,
        "show",
        _show,
        "print all about one sample, and where its bytes are",
        "mmm-rs show ./MMM-RS-hub SEN1-2/ROIs1158_spring_1_p1 --save ./sample",
    )
    command.add_argument("out", type=_folder, help="the converted folder")
    command.add_argument("key", help="the sample's key: <Subset>/<path>")
    command.add_argument("--save", type=_path, metavar="DIR", help="write its images and prompts there too")

    command = _command(
        commands,
        "upload",
        _upload,
        "send a converted folder to the hub and prove what is there",
        "mmm-rs upload ./MMM-RS-hub org/MMM-RS --private",
    )
    command.add_argument("out", type=_folder, help="the converted folder")
    command.add_argument("repo", help="the dataset repository, such as org/MMM-RS; it is made if it is not there")
    _add_hub_options(command)
    command.add_argument("--dry-run", action="store_true", help="say what would be sent, and send nothing")

    command = _command(
        commands,
        "publish",
        _publish,
        "convert and upload at once, with no more than a few shards on the disk at a time",
        "mmm-rs publish ~/Downloads/MMM-RS org/MMM-RS --staging ./staging --private",
    )
    command.add_argument("release", type=_path, help="folder of zips, MMM-RS.zip, or extracted folders")
    command.add_argument("repo", help="the dataset repository, such as org/MMM-RS; it is made if it is not there")
    command.add_argument(
        "--staging",
        type=_folder,
        required=True,
        metavar="DIR",
        help="a folder for shards on their way; run again to go on after an interruption",
    )
    command.add_argument(
        "--keep",
        type=_positive,
        default=8,
        metavar="N",
        help="shards that lie there at a time (default: 8, which are 4 GB at the most)",
    )
    command.add_argument("--subset", action="append", metavar="NAME", help="only this subset (repeatable)")
    command.add_argument("--workers", type=_positive, metavar="N", help="shards at a time (default: one a core)")
    command.add_argument("--overwrite", action="store_true", help="forget what an earlier run did and begin anew")
    _add_hub_options(command)
    _add_plan_options(command)

    command = _command(
        commands,
        "demo",
        _demo,
        "convert and load a small synthetic release, and draw a picture of it",
        "mmm-rs demo ./mmm-rs-demo",
    )
    command.add_argument(
        "folder",
        nargs="?",
        type=_folder,
        default=Path("mmm-rs-demo"),
        metavar="DIR",
        help="where everything goes (default: ./mmm-rs-demo)",
    )
    return parser


def _command(commands: Any, name: str, run: Callable[[argparse.Namespace], int], help: str, example: str) -> Any:
    command = commands.add_parser(
        name,
        help=help,
        description=help[0].upper() + help[1:] + ".",
        epilog=f"example:\n  {example}\n\n{EXIT_CODES}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    command.set_defaults(run=run)
    return command


def _add_hub_options(command: Any) -> None:
    command.add_argument("--private", action="store_true", help="make a private repository")
    command.add_argument("--revision", metavar="BRANCH", help="the branch (default: main)")
    command.add_argument("--tag", metavar="TAG", help="name the proved commit")
    command.add_argument("--yes", action="store_true", help="do not ask")


def _add_plan_options(command: Any) -> None:
    """The options that shape the output; `inspect` takes them too, to show the plan that `convert` would follow."""
    command.add_argument(
        "--annotations",
        type=_path,
        metavar="DIR",
        help="folder or zip with the annotation files, where they lie apart from the images",
    )
    command.add_argument("--seed", type=int, default=0, help="of the order of the samples (default: 0)")
    command.add_argument(
        "--shard-size", type=_bytes, metavar="SIZE", help="at the most, such as 256MB (default: 512MB)"
    )
    command.add_argument(
        "--image-key", type=_text, metavar="KEY", help="the annotations' key of the image path, if not recognised"
    )
    command.add_argument(
        "--prompt-key", type=_text, metavar="KEY", help="the annotations' key of the prompt, if not recognised"
    )
    command.add_argument("--keep-unprompted", action="store_true", help="publish images without a record too")
    command.add_argument(
        "--validation",
        type=float,
        default=0.0,
        metavar="SHARE",
        help="hold out this share of the scenes as a validation split (default: none)",
    )
    command.add_argument(
        "--decode",
        choices=("structure", "full"),
        default="structure",
        help="full: decode every image, which finds damage inside pictures too",
    )


def _path(text: str) -> Path:
    """A path that the system can look up, whether anything is there or not."""
    try:
        whole = os.path.abspath(text)
    except FileNotFoundError:
        raise argparse.ArgumentTypeError("the current folder was removed. Change to another") from None
    try:
        os.stat(whole)
    except OSError as error:
        if error.errno in (errno.ENAMETOOLONG, errno.ELOOP):
            raise argparse.ArgumentTypeError(f"{text}: {error.strerror}. Choose another path") from None
    return Path(text)


def _folder(text: str) -> Path:
    """A folder that is written or read by pyarrow, which opens names of UTF-8 alone."""
    return _path(_text(text))


def _address(text: str) -> str:
    """A converted folder or its address on the hub."""
    return text if "://" in text else str(_folder(text))


def _text(text: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError:
        raise argparse.ArgumentTypeError(f"{text!r} is not UTF-8. Choose another") from None
    return text


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError("give a number from 1 up")
    return value


def _bytes(text: str) -> int:
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([kKMGT]?)(i?)[bB]?", text.strip())
    if not match:
        raise argparse.ArgumentTypeError(f"{text!r} is no size; give one such as 256MB")
    if len(match[1]) > 15:
        raise argparse.ArgumentTypeError("give a smaller size")
    return int(float(match[1]) * (1024 if match[3] else 1000) ** " kMGT".index(match[2].replace("K", "k") or " "))


def _options(arguments: argparse.Namespace) -> Options:
    from conversion.plan import SHARD_SIZE, Options

    size = SHARD_SIZE if arguments.shard_size is None else arguments.shard_size
    return Options(
        arguments.seed,
        size,
        arguments.image_key,
        arguments.prompt_key,
        arguments.keep_unprompted,
        arguments.validation,
        arguments.decode,
    )


@contextmanager
def _progress(quiet: bool = False) -> Iterator[Callable[[int, int, str], None]]:
    """A bar over bytes. On a terminal it moves; in a log it is a line now and then."""
    from tqdm import tqdm

    mininterval = 0.1 if sys.stderr.isatty() else 30.0  # seconds
    bars: list[Any] = []

    def show(done: int, total: int, what: str) -> None:
        with contextlib.suppress(OSError):  # nobody reads it: the work goes on
            if not bars:  # only now: lines about planning come before the bar
                bars.append(
                    tqdm(
                        unit="B",
                        unit_scale=True,
                        disable=quiet,
                        mininterval=mininterval,
                        file=sys.stderr,
                        initial=done,
                        total=total,
                    )
                )
            bars[0].set_description(what, refresh=False)
            bars[0].update(done - bars[0].n)

    try:
        yield show
    finally:
        for bar in bars:
            with contextlib.suppress(OSError):
                bar.close()


def _inspect(arguments: argparse.Namespace) -> int:
    from conversion.inspection import inspect, lines
    from dataset_card.provenance import PROVENANCE

    found = inspect(arguments.release, _options(arguments), arguments.annotations)
    for name, subset in found["subsets"].items():
        subset["upstream_images"] = dict.fromkeys(subset["images"], PROVENANCE[name].images)
    if arguments.json:
        _print(json.dumps(found, indent=2, ensure_ascii=False))
    else:
        for line in lines(found):
            _print(line)
    return 0


def _convert(arguments: argparse.Namespace) -> int:
    from conversion import convert

    def say(line: str) -> None:
        if not arguments.quiet:
            _say(line)

    with _cluster(arguments.dask) as executor, _progress(arguments.quiet) as progress:
        result = convert(
            arguments.release,
            arguments.out,
            subsets=arguments.subset,
            options=_options(arguments),
            workers=arguments.workers,
            executor=executor,
            annotations=arguments.annotations,
            overwrite=arguments.overwrite,
            progress=progress,
            say=say,
        )
    _print_result(result)
    if not result.reported:
        return 0
    if arguments.strict:
        raise VerificationError(
            f"{result.out}: complete, but something was left out and --strict was given; see "
            f"{result.out}/report/summary.json"
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


def _print_result(result: Any) -> None:
    for line in summary_lines(result):
        _print(line)
    for source in result.summary["sources"]:
        _say(f"mmm-rs: {source['path']}: {source['detail']}. {source['remedy']}")


def summary_lines(result: Any) -> Iterator[str]:
    """What a conversion came to, as a table."""
    from conversion.inspection import size
    from mmm_rs import SUBSETS

    if not result.written:
        yield f"{result.out}: complete already, nothing to do"
    else:
        yield f"{result.out}: complete"
    yield from table(
        ("subset", "samples", "rgb", "nir", "sar", "shards", "size", "images left out", "records left out"),
        [
            (
                name,
                f"{one['samples']:,}",
                *(f"{one['pairs'][m]:,}" for m in ("rgb", "nir", "sar")),
                str(one["shards"]),
                size(one["bytes"]),
                _left_out(result, name, "images"),
                _left_out(result, name, "records"),
            )
            for name in SUBSETS
            if (one := result.manifest["subsets"].get(name))
        ],
    )
    total = result.summary["total"]
    images, records = total["images"], total["records"]
    yield (
        f"images: {images['released']:,} in the release = {images['published']:,} published + "
        f"{images['reported']:,} reported"
    )
    yield (
        f"records: {records['released']:,} in the release = {records['used']:,} used + {records['reported']:,} reported"
    )
    if absent := [name for name in SUBSETS if name not in result.manifest["subsets"]]:
        yield f"not in this folder: {', '.join(absent)}"
    for what, number in result.summary["unknown"].items():
        if number:
            yield f"{what} of no subset: {number:,}"
    if result.reported:
        if not result.written:
            yield "what has been mended since is converted with --overwrite"
        yield f"what was left out and why: {result.out / 'report'}"


def _left_out(result: Any, subset: str, kind: str) -> str:
    return f"{result.summary['subsets'][subset][kind]['reported']:,}"


def table(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> Iterator[str]:
    """Lines of a table; the first column flush left, the others right."""
    widths = [max(len(row[at]) for row in [head, *rows]) for at in range(len(head))]
    for row in [head, *rows]:
        yield "  ".join(
            cell.ljust(w) if not at else cell.rjust(w) for at, (cell, w) in enumerate(zip(row, widths, strict=True))
        )


def _verify(arguments: argparse.Namespace) -> int:
    from conversion import verify

    if "://" in arguments.out:
        return _verify_hub(arguments)
    if arguments.deep:
        raise UsageError("--deep is for a copy on the hub; a folder is always read")
    with _progress() as progress:
        found = verify(arguments.out, arguments.release, workers=arguments.workers, progress=progress)
    _print(
        f"{arguments.out}: right: {found.shards} shards, {found.samples:,} samples, {found.images:,} images"
        + (f"; {found.compared:,} images are byte for byte the release's" if arguments.release else "")
    )
    return 0


def _verify_hub(arguments: argparse.Namespace) -> int:
    from mmm_rs_hub.proof import verify_hub

    if arguments.release:
        raise UsageError("--release compares a local folder; verify the folder that was uploaded")
    for line in verify_hub(arguments.out, arguments.deep, say=_say).lines():
        _print(line)
    return 0


def _say(line: str) -> None:
    with contextlib.suppress(OSError):  # nobody reads it: the work goes on
        print(line, file=sys.stderr, flush=True)


def _card(arguments: argparse.Namespace) -> int:
    from dataset_card.card import write_card

    write_card(arguments.out)
    _print(f"{arguments.out / 'README.md'}: written, with its pictures and croissant.json")
    return 0


def _preview(arguments: argparse.Namespace) -> int:
    from conversion.inspection import size
    from mmm_rs_cli.preview import write_preview

    made = write_preview(arguments.out, arguments.config, arguments.output)
    _print(f"{made.path}: {made.samples:,} samples of {made.subsets} subsets, {size(made.size)}. Open it in a browser")
    return 0


def _show(arguments: argparse.Namespace) -> int:
    from mmm_rs_cli import show

    found = show.find(arguments.out, arguments.key)
    for line in show.lines(found):
        _print(line)
    if arguments.save:
        for path in show.save(arguments.out, found, arguments.save):
            _say(f"{path}: written")
    return 0


def _upload(arguments: argparse.Namespace) -> int:
    from mmm_rs_hub.upload import upload

    upload(
        arguments.out,
        arguments.repo,
        private=arguments.private,
        revision=arguments.revision,
        dry_run=arguments.dry_run,
        tag=arguments.tag,
        yes=arguments.yes,
    )
    return 0


def _publish(arguments: argparse.Namespace) -> int:
    from mmm_rs_hub.publish import publish

    result, proof = publish(
        arguments.release,
        arguments.repo,
        arguments.staging,
        keep=arguments.keep,
        subsets=arguments.subset,
        options=_options(arguments),
        workers=arguments.workers,
        annotations=arguments.annotations,
        overwrite=arguments.overwrite,
        private=arguments.private,
        revision=arguments.revision,
        tag=arguments.tag,
        yes=arguments.yes,
        say=_say,
    )
    _print_result(result)
    for line in proof.lines():
        _print(line)
    _print(
        f"{result.out}: all but the shards is here too. It may be removed; kept, it spares the same command its work"
    )
    return REPORTED if result.reported else 0


def _demo(arguments: argparse.Namespace) -> int:
    from mmm_rs_cli.demo import demo

    made = demo.run(arguments.folder, say=_say)
    total = made.result.summary["total"]
    _print("\nAll of this is synthetic: drawn scenes in upstream's layout, not images of the Earth.\n")
    for line in table(*demo.table(made)):
        _print(line)
    _print(
        f"\nOf {total['images']['released']} images {total['images']['published']} were published and "
        f"{total['images']['reported']} reported; of {total['records']['released']} records {total['records']['used']} "
        f"were used and {total['records']['reported']} reported: the release holds some that match nothing."
    )
    _print(f"""
the release    {made.release}
the dataset    {made.result.out}
the report     {made.result.out / "report"}
look at        {made.sheet}

load it:
  from datasets import load_dataset
  load_dataset("{made.result.out}", "WHU-OPT-SAR", split="train", streaming=True)""")
    return 0


if __name__ == "__main__":
    sys.exit(main())
