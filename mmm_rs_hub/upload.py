"""Send a converted folder to the hub, and prove that what is there is what was converted.

How it works:

- The folder is checked first (finished, verified, within the hub's limits), so that nothing wrong is ever sent.
- The hub lists what it holds with sizes and checksums; only files that differ are sent. From the same listing an
  interrupted upload resumes, and a commit whose answer was lost is known to have landed: there is no state here.
- Shards go first, one group per commit, then index, report and pictures, then card and manifest in one last commit,
  which also removes shards of an earlier conversion. Until then the card on the hub describes what it did before.
- The hub is listed once more and compared, file by file, with this folder and its manifest: the proof.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from conversion import layout
from conversion.contents import Contents, known_files, remarks, survey
from conversion.display import first_of, size
from conversion.errors import OutputError, UsageError
from conversion.manifest import check_there
from conversion.manifest import read as read_manifest
from dataset_card import card
from dataset_card.croissant import hub_base
from mmm_rs_hub.client import Hub, default_api
from mmm_rs_hub.destination import Destination
from mmm_rs_hub.files import Listing, LocalFile, holds, local_file, shard_file
from mmm_rs_hub.proof import Proof, prove, stale_files

if TYPE_CHECKING:
    from huggingface_hub import HfApi

# The hub's limits, https://huggingface.co/docs/hub/storage-limits
MOST_FILES = 100_000
MOST_ENTRIES = 10_000  # in a folder
LARGEST_FILE = 200 * 10**9  # bytes
GROUP = 90  # files per commit; the hub recommends fewer than 100

LAST = (layout.CARD, layout.MANIFEST)


def upload(
    out: str | Path,
    destination: Destination,
    *,
    dry_run: bool = False,
    say: Callable[[str], None] = print,
    ask: Callable[[str], bool] | None = None,
    api: HfApi | None = None,
) -> Proof | None:
    """Send a converted folder to the hub and prove that it arrived.

    Args:
        out: The converted folder.
        destination: The repository, and what may be done there.
        dry_run: Say what would be sent, and change nothing.
        say: Is called with a line about each step.
        ask: Answers a question (default: the person at the terminal).
        api: The hub's client (default: one for `HF_ENDPOINT` and the token that is logged in).

    Returns:
        What was compared with the hub and found equal; None for `dry_run`.

    Raises:
        UsageError: An option does not fit, or the person does not want to go on.
        OutputError: The hub, or the network, refuses or fails.
        VerificationError: The folder is not what its manifest says, or the hub's copy is not the folder.
    """
    out = Path(out)
    manifest = check_folder(out, say)
    hub = Hub(destination.repo_id, destination.revision, api or default_api(), say)
    if not dry_run:
        card.address(out, destination.repo_id, base(hub, destination))
    files = local_files(out, manifest)
    check_limits(files)
    if not dry_run:
        hub.check_login()
    listing = hub.existing()
    private = will_be_private(hub, destination)
    missing, stale = differences(files, listing or {})
    if listing is None:
        say_creation(hub, private)
    _say_plan(hub, files, missing, stale)
    if dry_run:
        return None
    if missing or stale:
        confirm(destination, ask)
    if listing is None:
        hub.create(private)
    check_visibility(hub, destination)
    if listing is None:
        missing, stale = differences(files, hub.listing())  # a new branch begins with what main has
    send(hub, out, missing, stale)
    proof = prove(hub, manifest, files, len(missing))
    if destination.tag:
        hub.tag(destination.tag, proof.revision)
    for line in proof.lines():
        say(line)
    return proof


def base(hub: Hub, destination: Destination) -> str:
    """The address of the files on the hub: at the tag, if there is to be one, so that it stays right."""
    return hub_base(hub.api.endpoint, destination.repo_id, destination.tag or destination.revision)


def differences(files: Sequence[LocalFile], listing: Listing) -> tuple[list[LocalFile], list[str]]:
    """The files that the hub does not have as they are here, and the paths that it has of an earlier conversion."""
    missing = [file for file in files if not holds(listing, file)]
    return missing, stale_files(listing, {file.path for file in files})


def will_be_private(hub: Hub, destination: Destination) -> bool:
    """Whether the repository is private, or will be created so.

    Raises UsageError if it must be private and is public.
    """
    private = hub.is_private()
    if destination.private and private is False:
        raise UsageError(f"{hub.repo_id}: is already public. Change that in its settings on the hub, or omit --private")
    return destination.private if private is None else private


def check_visibility(hub: Hub, destination: Destination) -> None:
    """Raises UsageError if the repository must be private and the hub does not say that it is.

    To be called before anything is sent: a repository that seemed not to exist may have been there, and public.
    """
    if destination.private and not hub.is_private():
        raise UsageError(
            f"{hub.repo_id}: is public although --private was given. Nothing was sent. Make it private in its settings "
            "on the hub, then run the same command again"
        )


def confirm(destination: Destination, ask: Callable[[str], bool] | None) -> None:
    """Raises UsageError if the person, asked by `ask`, does not want to go on."""
    if not destination.yes and not (ask or _ask)("Go on?"):
        raise UsageError("nothing was sent")


def check_folder(out: Path, say: Callable[[str], None]) -> dict[str, Any]:
    """The manifest of a folder whose conversion is finished and that `conversion.verification` finds intact."""
    from conversion.verification import verify

    check_there(out)
    manifest = read_manifest(out)
    if manifest is None or (out / layout.BEGUN).exists():
        raise OutputError(f"{out}: its conversion is not finished. Run the same `mmm-rs convert` again, then upload")
    check_contents(survey(out, manifest), out, say)
    say(f"{out}: verifying {len(manifest['shards']):,} shards")
    verify(out, card=card)
    return manifest


def check_contents(contents: Contents, out: Path, say: Callable[[str], None]) -> None:
    """Say what is not sent. Raises UsageError if something is in the dataset's folders that must not be sent.

    What a link leads to may be a private file of anybody's; what nothing names may be one by mistake.
    """
    refused = [f"{out / path}: is a symbolic link. Put the file itself in its place" for path in contents.links]
    refused += [
        f"{out / path}: does not belong to the dataset. Move it away, or show it in the card if it is a picture"
        for path in contents.strange
        if path not in contents.links
    ]
    if refused:
        raise UsageError(f"{out}: holds files that must not be sent. Nothing was sent", *first_of(refused))
    for line in remarks(contents.passed_over, contents.others):
        say(f"not sent: {line}")


def local_files(out: Path, manifest: dict[str, Any]) -> list[LocalFile]:
    """The files to be sent: the shards of the manifest by path, then the others."""
    shards = sorted((shard_file(shard) for shard in manifest["shards"]), key=lambda file: file.path)
    names = {file.path for file in shards}
    others = [path for path in known_files(out, manifest) if path not in names]
    return [*shards, *(local_file(out, out / path) for path in others)]


def check_limits(files: Sequence[LocalFile]) -> None:
    """Raises UsageError if the hub would refuse the folder."""
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


def say_creation(hub: Hub, private: bool) -> None:
    hub.say(f"{hub.where}: does not exist and will be created ({'private' if private else 'public'})")


def _say_plan(hub: Hub, files: Sequence[LocalFile], missing: Sequence[LocalFile], stale: Sequence[str]) -> None:
    kept = len(files) - len(missing)
    hub.say(
        f"{hub.where}: {len(missing):,} of {len(files):,} files to send, {size(sum(file.size for file in missing))}"
        + (f"; {kept:,} are there already" if kept else "")
    )
    if stale:
        hub.say(f"{hub.where}: {len(stale):,} files of an earlier conversion to remove, for example {stale[0]}")


def _ask(question: str) -> bool:
    no_terminal = UsageError("there is no terminal to ask on. Give --yes to send without being asked")
    if not sys.stdin or not sys.stdin.isatty():
        raise no_terminal
    try:
        return input(f"{question} [y/N] ").strip().lower() in ("y", "yes")
    except EOFError:  # Ctrl-D
        print()
        raise no_terminal from None


def send(hub: Hub, out: Path, missing: Sequence[LocalFile], stale: Sequence[str]) -> None:
    """Shards, then what describes them, then card and manifest together with the removal of stale files."""
    shards = [file for file in missing if file.path.startswith(f"{layout.DATA}/")]
    last = [file for file in missing if file.path in LAST]
    rest = [file for file in missing if file not in shards and file not in last]
    groups = [part[first : first + GROUP] for part in (shards, rest) for first in range(0, len(part), GROUP)]
    for number, group in enumerate(groups, 1):
        hub.say(
            f"sending group {number} of {len(groups)}: {group[0].path} to {group[-1].path}, "
            f"{size(sum(file.size for file in group))}"
        )
        hub.send(out, group, commit_message(group))
    if last or stale:
        hub.say("sending card and manifest")
        hub.send(out, last, "card and manifest", stale)


def commit_message(files: Sequence[LocalFile]) -> str:
    """What a group of files is."""
    subsets = dict.fromkeys(file.path.split("/")[1] for file in files if file.path.startswith(f"{layout.DATA}/"))
    return f"shards of {', '.join(subsets)}" if subsets else "index, report and pictures"
