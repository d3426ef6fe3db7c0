"""Send a converted folder to the hub, and prove that what is there is what was converted.

How it works:

- The folder is checked first (finished, verified, within the hub's limits), so that nothing wrong is ever sent.
- What the hub holds is listed with sizes and checksums; only files that differ are sent. That listing is also how an
  interrupted upload goes on, and how a commit whose answer was lost is known to have landed: there is no state here.
- Shards go first, a group a commit, then index, report and pictures, then card and manifest in one last commit, which
  also removes shards of an earlier conversion. Until that commit the card on the hub describes what it did before.
- The listing is read once more and compared, file by file, with this folder and its manifest: the proof.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from conversion import layout, manifest
from conversion.display import size
from conversion.errors import OutputError, UsageError
from conversion.job import check_called
from dataset_card import card
from mmm_rs_hub.client import Hub, LocalFile, RemoteFile, default_api, holds, local_file, shard_file, short
from mmm_rs_hub.proof import Proof, prove, stale_files

if TYPE_CHECKING:
    from huggingface_hub import HfApi

# The hub's limits, https://huggingface.co/docs/hub/storage-limits
MOST_FILES = 100_000
MOST_ENTRIES = 10_000  # in a folder
LARGEST_FILE = 200 * 10**9  # bytes
GROUP = 90  # files a commit; the hub recommends fewer than 100

LAST = (layout.CARD, layout.MANIFEST)


def upload(
    out: str | Path,
    repo_id: str,
    *,
    private: bool = False,
    revision: str | None = None,
    dry_run: bool = False,
    tag: str | None = None,
    yes: bool = False,
    say: Callable[[str], None] = print,
    ask: Callable[[str], bool] | None = None,
    api: HfApi | None = None,
) -> Proof | None:
    """Send the converted folder `out` to the dataset repository `repo_id` and prove it. None for `dry_run`.

    `revision`: the branch, made if it is not there (default: main). `tag`: name the proved commit. `dry_run`: say what
    would be sent, and change nothing. `yes`: do not ask. `say` is told each step in a line; `ask` answers a question.

    Raises UsageError (name, options, refusal), OutputError (the hub or the way to it) and VerificationError (the folder
    is not what its manifest says, or the hub's copy is not the folder).
    """
    out = Path(out)
    check_name(repo_id)
    made = check_folder(out, say)
    if not dry_run and card.named_repository(out) != repo_id:
        card.write(out, repo_id)  # its examples name the repository
    files = local_files(out, made)
    check_limits(files)
    hub = Hub(repo_id, revision or "main", api or default_api(), say)
    if not dry_run:
        hub.check_login()
    there = hub.listing(missing_ok=True)
    private = privacy(hub, private)
    missing, stale = differing(files, there or {})
    _say_plan(hub, files, missing, stale, there is None, private, say)
    if dry_run:
        return None
    if missing or stale:
        agree(yes, ask)
    if there is None:
        hub.create(private)
        missing, stale = differing(files, hub.listing() or {})  # a new branch begins with what main has
    send(hub, out, missing, stale)
    proof = prove(hub, made, files, len(missing))
    if tag:
        hub.tag(tag, proof.revision)
    for line in proof.lines():
        say(line)
    return proof


def differing(files: Sequence[LocalFile], there: Mapping[str, RemoteFile]) -> tuple[list[LocalFile], list[str]]:
    """The files that the hub has not as they are here, and the paths that it has of an earlier conversion."""
    missing = [file for file in files if not holds(there, file)]
    return missing, stale_files(there, {file.path for file in files})


def privacy(hub: Hub, private: bool) -> bool:
    """Whether the repository is private, or is to be made so.

    Raises UsageError where it shall be private and is public already, whichever revision is meant.
    """
    is_private = hub.is_private()
    if private and is_private is False:
        raise UsageError(
            f"{hub.repo_id}: is public already. Change that in its settings on the hub, or leave out --private"
        )
    return private if is_private is None else is_private


def agree(yes: bool, ask: Callable[[str], bool] | None) -> None:
    """Raises UsageError where a person, asked by `ask`, does not want to go on. `yes`: do not ask."""
    if not yes and not (ask or _ask)("Go on?"):
        raise UsageError("nothing was sent")


def check_name(repo_id: str) -> None:
    """Raises UsageError for a name that the hub or `datasets` would refuse."""
    from huggingface_hub.utils import HFValidationError, validate_repo_id

    if repo_id.count("/") != 1:
        raise UsageError(f"{repo_id}: is no name of a repository. Give it as org/MMM-RS")
    try:
        validate_repo_id(repo_id)
    except HFValidationError as error:
        raise UsageError(f"{repo_id}: {short(error)}. Give it as org/MMM-RS") from None
    check_called(repo_id, repo_id.split("/")[1])


def check_folder(out: Path, say: Callable[[str], None]) -> dict[str, Any]:
    """The manifest of a folder that is finished and right; see `conversion.verification` for what is checked."""
    from conversion.verification import verify

    made = manifest.read(out)
    if made is None or (out / layout.BEGUN).exists():
        raise OutputError(f"{out}: its conversion is not finished. Run the same `mmm-rs convert` again, then upload")
    say(f"{out}: verifying {len(made['shards']):,} shards")
    verify(out, card=card)
    return made


def local_files(out: Path, made: dict[str, Any]) -> list[LocalFile]:
    """The files to be sent: the manifest's shards by path, then the others."""
    paths: list[Path] = []
    for name in layout.PRODUCTS:
        path = out / name
        if name != layout.DATA:
            paths += sorted(inner for inner in path.rglob("*") if inner.is_file()) if path.is_dir() else [path]
    shards = sorted((shard_file(shard) for shard in made["shards"]), key=lambda file: file.path)
    return [*shards, *(local_file(out, path) for path in paths if not path.name.startswith("."))]


def check_limits(files: Sequence[LocalFile]) -> None:
    """Raises UsageError where the hub would refuse the folder."""
    if len(files) >= MOST_FILES:
        raise UsageError(
            f"{len(files):,} files are more than the hub takes ({MOST_FILES:,}). Convert with a larger --shard-size"
        )
    entries = Counter(file.path.rpartition("/")[0] for file in files)
    folder, most = max(entries.items(), key=lambda item: item[1])
    if most > MOST_ENTRIES:
        raise UsageError(
            f"{folder}: {most:,} files are more than the hub takes in a folder ({MOST_ENTRIES:,}). "
            "Convert with a larger --shard-size"
        )
    for file in files:
        if file.size > LARGEST_FILE:
            raise UsageError(
                f"{file.path}: {size(file.size)} are more than the hub takes ({size(LARGEST_FILE)}). "
                "Convert with a smaller --shard-size"
            )


def _say_plan(
    hub: Hub,
    files: Sequence[LocalFile],
    missing: Sequence[LocalFile],
    stale: Sequence[str],
    new: bool,
    private: bool,
    say: Callable[[str], None],
) -> None:
    where = f"{hub.repo_id} at {hub.revision}"
    if new:
        say(f"{where}: not there yet, will be made ({'private' if private else 'public'})")
    kept = len(files) - len(missing)
    say(
        f"{where}: {len(missing):,} of {len(files):,} files to send, {size(sum(file.size for file in missing))}"
        + (f"; {kept:,} are there already" if kept else "")
    )
    if stale:
        say(f"{where}: {len(stale):,} files of an earlier conversion to remove, for example {stale[0]}")


def _ask(question: str) -> bool:
    nobody = UsageError("nobody is there to answer. Give --yes to send without being asked")
    if not sys.stdin or not sys.stdin.isatty():
        raise nobody
    try:
        return input(f"{question} [y/N] ").strip().lower() in ("y", "yes")
    except EOFError:  # Ctrl-D
        print()
        raise nobody from None


def send(hub: Hub, out: Path, missing: Sequence[LocalFile], stale: Sequence[str]) -> None:
    """Shards, then what describes them, then card and manifest together with the removal of stale files."""
    shards = [file for file in missing if file.path.startswith("data/")]
    last = [file for file in missing if file.path in LAST]
    rest = [file for file in missing if file not in shards and file not in last]
    groups = [part[at : at + GROUP] for part in (shards, rest) for at in range(0, len(part), GROUP)]
    for number, group in enumerate(groups, 1):
        hub.say(
            f"sending group {number} of {len(groups)}: {group[0].path} to {group[-1].path}, "
            f"{size(sum(file.size for file in group))}"
        )
        hub.send(out, group, message_of(group))
    if last or stale:
        hub.say("sending card and manifest")
        hub.send(out, last, "card and manifest", stale)


def message_of(files: Sequence[LocalFile]) -> str:
    subsets = dict.fromkeys(file.path.split("/")[1] for file in files if file.path.startswith("data/"))
    return f"shards of {', '.join(subsets)}" if subsets else "index, report and pictures"
