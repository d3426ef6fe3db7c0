"""The words of the command line: every command, its options and an example of each."""

from __future__ import annotations

import argparse
import errno
import os
import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, NoReturn

from conversion import __version__
from mmm_rs_cli import commands

EXIT_CODES = """exit codes:
  0 complete    1 an internal error    2 bad usage    3 complete, but something was left out: see the report
  4 the release cannot be used    5 the output or the hub cannot be written    6 verification failed
  130, 143 interrupted: run the same command again"""

SHELLS = ("bash", "zsh", "fish", "powershell")
RELEASE = "folder of zips, MMM-RS.zip, or extracted folders"
CONVERTED = "the converted folder"
DATASET = "the converted folder, or hf://datasets/org/MMM-RS[@revision]"
REPOSITORY = "the dataset repository, for example org/MMM-RS; created if it does not exist"


class Parser(argparse.ArgumentParser):
    """Suggests what a wrong word might have meant."""

    commands: Mapping[str, argparse.ArgumentParser] = MappingProxyType({})

    def error(self, message: str) -> NoReturn:
        if match := re.search(r"invalid choice: '?(.*?)'? \(choose from (.*)\)$", message):
            message += self._hint(match[1], re.split(r"'?, '?", match[2].strip("'")))
        elif match := re.search(r"unrecognized arguments: (--[\w-]+)", message):
            helps = "".join(command.format_help() for command in self.commands.values())
            options = re.findall(r"--[\w-]+", helps)
            if match[1] not in options:  # those of another command are spelled right
                message += self._hint(match[1], options)
        super().error(message)

    def _hint(self, word: str, known: Iterable[str]) -> str:
        from mmm_rs import did_you_mean

        hint = did_you_mean(word, known)
        return f".{hint}" if hint else ""


def parser() -> argparse.ArgumentParser:
    """The parser of `mmm-rs`. Parsed arguments have `run`, the function of the command, and `resumes`: whether the same
    command continues after an interruption."""
    top = Parser(
        prog="mmm-rs",
        description="MMM-RS from the zip release to a streamable Hugging Face dataset.",
        epilog=EXIT_CODES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    top.add_argument("--version", action="version", version=f"mmm-rs {__version__}")
    subparsers = top.add_subparsers(title="commands", required=True, metavar="COMMAND")
    for add in (
        _inspect,
        _convert,
        _report,
        _verify,
        _export,
        _card,
        _preview,
        _show,
        _upload,
        _publish,
        _demo,
        _cache,
        _completion,
    ):
        add(subparsers)
    top.commands = subparsers.choices
    return top


# --- the commands ----------------------------------------------------------------------------------------------------


def _command(
    subparsers: Any,
    name: str,
    run: Callable[[argparse.Namespace], int],
    help: str,
    example: str,
    resumes: bool = False,
) -> argparse.ArgumentParser:
    command = subparsers.add_parser(
        name,
        help=help,
        description=help[0].upper() + help[1:] + ".",
        epilog=f"example:\n  {example}\n\n{EXIT_CODES}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    command.set_defaults(run=run, resumes=resumes)
    return command


def _inspect(subparsers: Any) -> None:
    command = _command(
        subparsers,
        "inspect",
        commands.inspect,
        "show what a release holds and how it would be converted",
        "mmm-rs inspect ~/Downloads/MMM-RS",
    )
    command.add_argument("release", type=_path, help=RELEASE)
    command.add_argument("--json", action="store_true", help="print JSON for programs")
    _add_plan_options(command)


def _convert(subparsers: Any) -> None:
    command = _command(
        subparsers,
        "convert",
        commands.convert,
        "write shards, index, manifest, report and card",
        "mmm-rs convert ~/Downloads/MMM-RS ./MMM-RS-hub --workers 4",
        resumes=True,
    )
    command.add_argument("release", type=_path, help=RELEASE)
    command.add_argument("out", type=_folder, help="the folder to write; run again to continue after an interruption")
    _completed(
        command.add_argument("--subset", action="append", metavar="NAME", help="only this subset (repeatable)"),
        _subsets,
    )
    place = command.add_mutually_exclusive_group()
    place.add_argument("--workers", type=_positive, metavar="N", help="shards at a time (default: one per core)")
    place.add_argument(
        "--dask",
        metavar="ADDRESS",
        help="write the shards on the workers of this Dask scheduler, for example tcp://host:8786",
    )
    command.add_argument("--overwrite", action="store_true", help="remove an earlier output and start again")
    command.add_argument("--strict", action="store_true", help="fail if anything is left out")
    _add_output_options(command)
    _add_plan_options(command)


def _report(subparsers: Any) -> None:
    command = _command(
        subparsers,
        "report",
        commands.report,
        "list what a conversion left out, and why",
        "mmm-rs report ./MMM-RS-hub --subset fMoW --csv > left-out.csv",
    )
    command.add_argument("out", type=_folder, help=CONVERTED)
    subset = command.add_argument(
        "--subset", action="append", type=_subset, metavar="NAME", help="only this subset (repeatable)"
    )
    _completed(subset, _subsets)
    reason = command.add_argument("--reason", action="append", metavar="CODE", help="only this reason (repeatable)")
    _completed(reason, _reasons)
    form = command.add_mutually_exclusive_group()
    form.add_argument("--csv", action="store_true", help="print CSV")
    form.add_argument("--json", action="store_true", help="print JSON for programs")


def _verify(subparsers: Any) -> None:
    command = _command(
        subparsers,
        "verify",
        commands.verify,
        "check a converted folder, or its copy on the hub",
        "mmm-rs verify ./MMM-RS-hub --release ~/Downloads/MMM-RS",
    )
    command.add_argument("out", type=_address, help=DATASET)
    command.add_argument("--release", type=_path, help="compare every image with this release, byte by byte")
    command.add_argument(
        "--source", type=_address, help="for an export: compare it with the dataset that it was exported from"
    )
    command.add_argument(
        "--deep", action="store_true", help="for a copy on the hub: also download and read every shard"
    )
    command.add_argument(
        "--subset",
        action="append",
        type=_subset,
        metavar="NAME",
        help="only this subset (repeatable); the folder may hold just a part of the dataset",
    )
    command.add_argument("--workers", type=_positive, metavar="N", help="shards at a time (default: one per core)")
    _add_output_options(command)


def _export(subparsers: Any) -> None:
    command = _command(
        subparsers,
        "export",
        commands.export,
        "write a part of a dataset: as a dataset, a folder of images, or Parquet",
        "mmm-rs export ./MMM-RS-hub ./foggy --config weather --weather fog --to folder",
        resumes=True,
    )
    command.add_argument("source", type=_address, help=DATASET)
    command.add_argument("out", type=_folder, help="the folder to write; run again to continue after an interruption")
    command.add_argument(
        "--to",
        choices=("dataset", "folder", "parquet"),
        default="dataset",
        help="what to write: shards and an index, images with .txt files, or Parquet (default: dataset)",
    )
    command.add_argument("--shard-size", type=_bytes, metavar="SIZE", help="largest shard or file (default: 512MB)")
    command.add_argument(
        "--twin-folders",
        action="store_true",
        help="with --to folder: one folder for each modality, with the same file names",
    )
    command.add_argument(
        "--on-error",
        choices=("raise", "skip"),
        default="raise",
        help="for damage in the source: stop, or leave the sample out and report it (default: raise)",
    )
    command.add_argument("--workers", type=_positive, metavar="N", help="parts at a time (default: one per core)")
    command.add_argument("--dry-run", action="store_true", help="show what would be written, and write nothing")
    _add_output_options(command)
    selection = command.add_argument_group("choice of samples (each option narrows it)")
    config = selection.add_argument("--config", action="append", metavar="NAME", help="only this config (repeatable)")
    _completed(config, _configs)
    selection.add_argument("--split", metavar="NAME", help="only this split (default: all)")
    selection.add_argument(
        "--modalities", type=_names, metavar="LIST", help="only these images, for example rgb,sar (default: all)"
    )
    selection.add_argument("--complete", action="store_true", help="only samples that have all of these modalities")
    for name in ("gsd-level", "weather", "category", "satellite"):
        about = f"only this {name.replace('-', ' ').replace('gsd', 'GSD')} (repeatable)"
        selection.add_argument(f"--{name}", action="append", type=_text, metavar="NAME", default=[], help=about)
    selection.add_argument(
        "--contains",
        action="append",
        type=_text,
        metavar="TEXT",
        default=[],
        help="only prompts that contain this text (repeatable)",
    )
    selection.add_argument(
        "--where", type=_text, metavar="SQL", help="a condition on the index's columns; needs mmm-rs[sql]"
    )
    selection.add_argument("--keys", type=_path, metavar="FILE", help="only the samples whose keys this file lists")
    selection.add_argument("--limit", type=_positive, metavar="N", help="at most this many, spread over the scenes")
    selection.add_argument(
        "--share", type=float, metavar="SHARE", help="this share of them, for example 0.05, spread over the scenes"
    )
    selection.add_argument(
        "--seed", type=int, default=0, help="seed for choosing the samples of --limit and --share (default: 0)"
    )


def _card(subparsers: Any) -> None:
    command = _command(
        subparsers,
        "card",
        commands.card,
        "write the card, its pictures and Croissant again",
        "mmm-rs card ./MMM-RS-hub",
    )
    command.add_argument("out", type=_folder, help=CONVERTED)


def _preview(subparsers: Any) -> None:
    command = _command(
        subparsers,
        "preview",
        commands.preview,
        "write a web page for looking through a dataset",
        "mmm-rs preview ./MMM-RS-hub --config SEN1-2",
    )
    command.add_argument("out", type=_address, help=DATASET)
    config = command.add_argument(
        "--config", action="append", metavar="NAME", help="only this config (repeatable; default: all)"
    )
    _completed(config, _configs)
    command.add_argument(
        "--output",
        type=_path,
        metavar="FILE.html",
        help="the page; outside the converted folder (default: OUT-preview.html)",
    )
    command.add_argument(
        "--pages",
        type=_positive,
        default=1,
        metavar="N",
        help="write up to N pages, each with other samples (default: 1)",
    )


def _show(subparsers: Any) -> None:
    command = _command(
        subparsers,
        "show",
        commands.show,
        "print everything about one sample, and where its bytes are",
        "mmm-rs show ./MMM-RS-hub SEN1-2/ROIs1158_spring_1_p1 --save ./sample",
    )
    command.add_argument("out", type=_address, help=DATASET)
    command.add_argument("key", help="the sample's key: <Subset>/<path>")
    command.add_argument("--save", type=_path, metavar="DIR", help="also write its images and prompts to this folder")
    command.add_argument(
        "--plot", type=_path, metavar="FILE.png", help="also draw it; needs matplotlib (pip install 'mmm-rs[plot]')"
    )


def _upload(subparsers: Any) -> None:
    command = _command(
        subparsers,
        "upload",
        commands.upload,
        "upload a converted folder to the hub and verify what arrived",
        "mmm-rs upload ./MMM-RS-hub org/MMM-RS --private",
        resumes=True,
    )
    command.add_argument("out", type=_folder, help=CONVERTED)
    command.add_argument("repo", help=REPOSITORY)
    _add_hub_options(command)
    command.add_argument(
        "--dry-run", action="store_true", help="show what would be sent and whether the token may do that; send nothing"
    )


def _publish(subparsers: Any) -> None:
    command = _command(
        subparsers,
        "publish",
        commands.publish,
        "convert and upload at once, with only a few shards on the disk at a time",
        "mmm-rs publish ~/Downloads/MMM-RS org/MMM-RS --staging ./staging --private",
        resumes=True,
    )
    command.add_argument("release", type=_path, help=RELEASE)
    command.add_argument("repo", help=REPOSITORY)
    command.add_argument(
        "--staging",
        type=_folder,
        required=True,
        metavar="DIR",
        help="folder that holds shards until they are sent; run again to continue after an interruption",
    )
    command.add_argument(
        "--keep",
        type=_positive,
        default=8,
        metavar="N",
        help="shards in the staging folder at a time (default: 8, at most 4 GB)",
    )
    _completed(
        command.add_argument("--subset", action="append", metavar="NAME", help="only this subset (repeatable)"),
        _subsets,
    )
    command.add_argument("--workers", type=_positive, metavar="N", help="shards at a time (default: one per core)")
    command.add_argument("--overwrite", action="store_true", help="discard what an earlier run did and start again")
    _add_hub_options(command)
    _add_plan_options(command)


def _demo(subparsers: Any) -> None:
    command = _command(
        subparsers,
        "demo",
        commands.demo,
        "convert and load a small synthetic release, and draw a picture of it",
        "mmm-rs demo ./mmm-rs-demo",
    )
    command.add_argument(
        "folder",
        nargs="?",
        type=_folder,
        default=Path("mmm-rs-demo"),
        metavar="DIR",
        help="where everything is written (default: ./mmm-rs-demo)",
    )


def _cache(subparsers: Any) -> None:
    command = _command(
        subparsers,
        "cache",
        commands.cache,
        "show or clear the cache of shards on this node, which `local_cache` names",
        "mmm-rs cache --dir /scratch/mmm-rs",
    )
    command.add_argument(
        "--dir", type=_path, metavar="DIR", help="the folder (default: the environment variable MMM_RS_CACHE)"
    )
    command.add_argument("--clear", action="store_true", help="remove all shards from it")
    command.add_argument("--json", action="store_true", help="print JSON for programs")


def _completion(subparsers: Any) -> None:
    command = _command(
        subparsers,
        "completion",
        commands.completion,
        "print the code that lets a shell complete mmm-rs commands",
        """echo 'eval "$(mmm-rs completion bash)"' >> ~/.bashrc""",
    )
    command.add_argument("shell", choices=SHELLS, help="the shell")


def _add_output_options(command: argparse.ArgumentParser) -> None:
    command.add_argument("--quiet", action="store_true", help="no progress, only the result")
    command.add_argument("--json", action="store_true", help="print the result as JSON for programs")


def _add_hub_options(command: argparse.ArgumentParser) -> None:
    command.add_argument("--private", action="store_true", help="create a private repository")
    command.add_argument("--revision", metavar="BRANCH", help="the branch (default: main)")
    command.add_argument("--tag", metavar="TAG", help="tag the verified commit")
    command.add_argument("--yes", action="store_true", help="send without asking")
    _add_output_options(command)


def _add_plan_options(command: argparse.ArgumentParser) -> None:
    """The options that shape the output; `inspect` takes them too, to show the plan that `convert` would follow."""
    command.add_argument(
        "--annotations",
        type=_path,
        metavar="DIR",
        help="folder or zip with the annotation files, if they are not next to the images",
    )
    command.add_argument("--seed", type=int, default=0, help="seed for the sample order (default: 0)")
    command.add_argument(
        "--shard-size", type=_bytes, metavar="SIZE", help="largest size of a shard, for example 256MB (default: 512MB)"
    )
    command.add_argument(
        "--image-key",
        type=_text,
        metavar="KEY",
        help="the annotation key that holds the image path, if it is not recognised",
    )
    command.add_argument(
        "--prompt-key",
        type=_text,
        metavar="KEY",
        help="the annotation key that holds the prompt, if it is not recognised",
    )
    command.add_argument("--keep-unprompted", action="store_true", help="also publish images without a record")
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
        help="full: decode every image, which also finds damage inside pictures",
    )


# --- what a shell completes ------------------------------------------------------------------------------------------


def _completed(argument: argparse.Action, words: Callable[..., Iterable[str]]) -> None:
    """Let argcomplete offer these words for an argument; without any it offers files."""
    argument.completer = words  # type: ignore[attr-defined]


def _subsets(**_: Any) -> Iterable[str]:
    from mmm_rs import SUBSETS

    return SUBSETS


def _configs(**_: Any) -> Iterable[str]:
    from mmm_rs import ALL, SUBSETS

    return [*SUBSETS, ALL]


def _reasons(**_: Any) -> Iterable[str]:
    from conversion.findings import PROBLEMS, REASONS

    return {**REASONS, **PROBLEMS}


# --- types of arguments ----------------------------------------------------------------------------------------------


def _path(text: str) -> Path:
    """A path that the system can look up, whether or not anything is there. `~` is the home folder, also where the
    shell leaves it, as in `--release=~/MMM-RS`."""
    if not text:
        raise argparse.ArgumentTypeError("the path is empty. Give a file or folder")
    text = os.path.expanduser(text)
    try:
        whole = os.path.abspath(text)
    except FileNotFoundError:
        raise argparse.ArgumentTypeError("the current folder was removed. Change to another") from None
    try:
        os.stat(whole)
    except OSError as error:
        if error.errno in (errno.ENAMETOOLONG, errno.ELOOP):
            raise argparse.ArgumentTypeError(f"{text}: {error.strerror}. Choose another path") from None
        if "://" in text:
            raise argparse.ArgumentTypeError(
                f"{text} is an address, and has to be a path of this machine. A dataset on the hub is fetched with "
                "`hf download ORG/NAME --repo-type dataset --local-dir FOLDER`"
            ) from None
    return Path(text)


def _folder(text: str) -> Path:
    """A folder that pyarrow reads or writes; it opens only names that are UTF-8."""
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


def _subset(text: str) -> str:
    from mmm_rs import SUBSETS, did_you_mean

    if text not in SUBSETS:
        hint = did_you_mean(text, SUBSETS)
        raise argparse.ArgumentTypeError(f"{text}: no such subset.{hint} The subsets are {', '.join(SUBSETS)}")
    return text


def _names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",")]


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError("give a number of at least 1")
    return value


def _bytes(text: str) -> int:
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([kKMGT]?)(i?)[bB]?", text.strip())
    if not match:
        raise argparse.ArgumentTypeError(f"{text!r} is not a size. Give one such as 256MB")
    if len(match[1]) > 15:
        raise argparse.ArgumentTypeError("give a smaller size")
    return int(float(match[1]) * (1024 if match[3] else 1000) ** " kMGT".index(match[2].replace("K", "k") or " "))
