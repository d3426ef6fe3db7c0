"""Upload a converted folder to the hub, and verify that what is there is what was converted.

How it works:

- The folder is checked first (finished, verified, within the hub's limits), so that nothing wrong is ever sent.
- The hub lists what it holds with sizes and checksums; only files that differ are sent. From the same listing an
  interrupted upload resumes, and a commit whose answer was lost is known to have landed: there is no state here.
- Shards go first, a few at a time to the storage and one group per commit; then index, report and pictures; then card
  and manifest in one last commit, which also removes shards of an earlier conversion. Until then the card on the hub
  describes what it did before.
- The hub is listed once more and compared, file by file, with this folder and its manifest: the proof.
"""

from __future__ import annotations

import contextlib
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from conversion import layout, report
from conversion.contents import Contents, known_files, remarks, survey
from conversion.display import first_of, size
from conversion.errors import OutputError, UsageError
from conversion.job import Progress
from conversion.manifest import check_there
from conversion.manifest import read as read_manifest
from dataset_card import card
from dataset_card.croissant import hub_base
from mmm_rs import parse_manifest, subsets_digest
from mmm_rs_hub.client import Hub, default_api, without_bars
from mmm_rs_hub.destination import Destination, source_repository, suggested_repository
from mmm_rs_hub.files import Listing, LocalFile, holds, local_file, shard_file
from mmm_rs_hub.proof import Proof, prove, stale_files

if TYPE_CHECKING:
    from huggingface_hub import HfApi

# The hub's limits, https://huggingface.co/docs/hub/storage-limits
MOST_FILES = 100_000
MOST_ENTRIES = 10_000  # in a folder
LARGEST_FILE = 200 * 10**9  # bytes
GROUP = 90  # files per commit; the hub recommends fewer than 100
AT_ONCE = 512_000_000  # bytes of shards that are handed to the client together: it sends small files in parallel

LAST = (layout.CARD, layout.MANIFEST)


@dataclass(frozen=True)
class UploadPlan:
    """What an upload would do."""

    repo_id: str
    revision: str
    exists: bool  # whether repository and branch do
    private: bool  # whether the repository is, or will be created so
    files: int
    to_send: int  # files
    bytes_to_send: int
    stale: tuple[str, ...]  # files of an earlier conversion, to be removed
    refusal: str | None = None  # why nothing can be sent

    @property
    def where(self) -> str:
        return f"{self.repo_id} at {self.revision}"

    @property
    def question(self) -> str:
        new = "" if self.exists else f", which will be created ({'private' if self.private else 'public'})"
        removed = f", and remove {len(self.stale):,} there" if self.stale else ""
        files = f"{self.to_send:,} file{'s' * (self.to_send != 1)}"
        return f"Send {files}, {size(self.bytes_to_send)}, to {self.where}{new}{removed}?"

    def lines(self) -> Iterator[str]:
        """The plan, for a person."""
        if not self.exists:
            yield creation(self.where, self.private)
        kept = self.files - self.to_send
        yield (
            f"{self.where}: {self.to_send:,} of {self.files:,} files to send, {size(self.bytes_to_send)}"
            + (f"; {kept:,} are there already" if kept else "")
        )
        if self.stale:
            yield f"{self.where}: {len(self.stale):,} files of an earlier conversion to remove, such as {self.stale[0]}"

    def data(self) -> dict[str, Any]:
        """The same, ready for JSON."""
        return asdict(self)


def plan_upload(
    out: str | Path,
    destination: Destination,
    *,
    say: Callable[[str], None] = print,
    progress: Progress | None = None,
    api: HfApi | None = None,
) -> UploadPlan:
    """What `upload` would do with the same arguments. Changes nothing, here or on the hub.

    Without a token the plan tells what anybody sees of the repository.

    Args:
        out: The converted folder.
        destination: The repository.
        say: Is called with a line about each step.
        progress: Is called with the bytes verified, the bytes in all, and the subset.
        api: The hub's client (default: one for `HF_ENDPOINT` and the token that is logged in).

    Raises:
        UsageError: An option does not fit.
        OutputError: The token is wrong, or the hub or the network fails.
        VerificationError: The folder is not what its manifest says.
    """
    out = Path(out)
    with without_bars():
        hub = Hub(destination.repo_id, destination.revision, api or default_api(), say)
        manifest = finished_manifest(out, say)
        check_not_the_source(out, manifest, hub)
        refusal = hub.refusal()
        check_verified(out, manifest, say, progress)
        files = local_files(out, manifest)
        check_limits(files)
        listing = hub.existing()
        check_not_the_source(out, manifest, hub, listing)
        return _plan(hub, destination, files, listing, refusal)


def upload(
    out: str | Path,
    destination: Destination,
    *,
    say: Callable[[str], None] = print,
    progress: Progress | None = None,
    ask: Callable[[str], bool] | None = None,
    api: HfApi | None = None,
) -> Proof:
    """Upload a converted folder to the hub and verify what arrived.

    Args:
        out: The converted folder.
        destination: The repository, and what may be done there.
        say: Is called with a line about each step.
        progress: Is called with the bytes verified, the bytes in all, and the subset; then with the bytes sent, the
            bytes to send, and a word.
        ask: Answers a question (default: the person at the terminal).
        api: The hub's client (default: one for `HF_ENDPOINT` and the token that is logged in).

    Returns:
        What was compared with the hub and found equal.

    Raises:
        UsageError: An option does not fit, or the person does not want to continue.
        OutputError: The token is wrong or may not write, or the hub or the network refuses or fails.
        VerificationError: The folder is not what its manifest says, or the hub's copy is not the folder.
    """
    out = Path(out)
    with without_bars():
        hub = Hub(destination.repo_id, destination.revision, api or default_api(), say)
        manifest = finished_manifest(out, say)
        check_not_the_source(out, manifest, hub)
        hub.check_may_write()
        check_verified(out, manifest, say, progress)
        card.address(out, destination.repo_id, base(hub, destination))
        files = local_files(out, manifest)
        check_limits(files)
        listing = hub.existing()
        check_not_the_source(out, manifest, hub, listing)
        plan = _plan(hub, destination, files, listing)
        for line in plan.lines():
            say(line)
        if plan.to_send or plan.stale:
            confirm(destination, plan.question, ask)
        if listing is None:
            hub.create(plan.private)
        check_visibility(hub, destination)
        # a new branch begins with what main has
        missing, stale = differences(files, hub.listing() if listing is None else listing)
        send(hub, out, missing, stale, progress)
        proof = prove(hub, manifest, files, len(missing))
        if destination.tag:
            hub.tag(destination.tag, proof.revision)
    return proof


def _plan(
    hub: Hub,
    destination: Destination,
    files: Sequence[LocalFile],
    listing: Listing | None,
    refusal: str | None = None,
) -> UploadPlan:
    missing, stale = differences(files, listing or {})
    return UploadPlan(
        hub.repo_id,
        hub.revision,
        exists=listing is not None,
        private=will_be_private(hub, destination),
        files=len(files),
        to_send=len(missing),
        bytes_to_send=sum(file.size for file in missing),
        stale=tuple(stale),
        refusal=refusal,
    )


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


def confirm(destination: Destination, question: str, ask: Callable[[str], bool] | None) -> None:
    """Raises UsageError if the person, asked by `ask`, does not want to continue."""
    if not destination.yes and not (ask or _ask)(question):
        raise UsageError("nothing was sent")


def finished_manifest(out: Path, say: Callable[[str], None]) -> dict[str, Any]:
    """The manifest of a folder whose conversion is finished and that holds nothing else; nothing is read yet.

    Raises OutputError or UsageError for another folder.
    """
    check_there(out)
    manifest = read_manifest(out)
    if manifest is None or (out / layout.BEGUN).exists():
        raise OutputError(f"{out}: its conversion is not finished. Run the same `mmm-rs convert` again, then upload")
    check_contents(survey(out, manifest), out, say)
    return manifest


def check_not_the_source(out: Path, manifest: dict[str, Any], hub: Hub, listing: Listing | None = None) -> None:
    """Raises UsageError if an export would replace the dataset that it was exported from.

    That one is known by the address in the manifest or, with `listing`, by the shards of the manifest on the hub: an
    export of a folder has no address.
    """
    exported_from = manifest.get("exported_from")
    if exported_from is None:
        return
    source = (source_repository(manifest) or "").lower() == hub.repo_id.lower()
    if not source and listing and layout.MANIFEST in listing:
        on_hub = hub.read(layout.MANIFEST, 0, listing[layout.MANIFEST].size)
        with contextlib.suppress(ValueError):  # a file of this name that is not ours
            held = parse_manifest(on_hub)
            digest, own = (subsets_digest(each, list(each["subsets"])) for each in (held, manifest))
            source = digest == exported_from["digest"] != own  # an export of all may have the shards of its source
    if source:
        raise UsageError(
            f"{out}: was exported from {hub.repo_id}, and would replace the dataset there by a part of it. Nothing was "
            f"sent. Give another repository, for example {suggested_repository(out, manifest)}"
        )


def check_verified(out: Path, manifest: dict[str, Any], say: Callable[[str], None], progress: Progress | None) -> None:
    """Raises VerificationError if the folder is not what its manifest says; says whether something is not in it."""
    from conversion.verification import verify

    say(f"{out}: verifying {len(manifest['shards']):,} shards")
    verify(out, card=card, progress=progress)
    say_incomplete(report.read(out, manifest["subsets"])["sources"], say, out)


def say_incomplete(sources: Sequence[Mapping[str, Any]], say: Callable[[str], None], out: Path) -> None:
    """Say that something of the release could not be used, if so. `sources`: as the report's summary has them."""
    if incomplete := report.incomplete(sources):
        say(f"{out}: {incomplete}. The rest is sent")


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


def creation(where: str, private: bool) -> str:
    return f"{where}: does not exist and will be created ({'private' if private else 'public'})"


def _ask(question: str) -> bool:
    no_terminal = UsageError("there is no terminal to ask on. Give --yes to send without being asked")
    if not sys.stdin or not sys.stdin.isatty():
        raise no_terminal
    print(f"{question} [y/N] ", end="", file=sys.stderr, flush=True)  # standard output is for the result
    try:
        return input().strip().lower() in ("y", "yes")
    except EOFError:  # Ctrl-D
        print(file=sys.stderr)
        raise no_terminal from None


def send(
    hub: Hub, out: Path, missing: Sequence[LocalFile], stale: Sequence[str], progress: Progress | None = None
) -> None:
    """Shards, then what describes them, then card and manifest together with the removal of stale files."""
    shards = [file for file in missing if file.path.startswith(f"{layout.DATA}/")]
    last = [file for file in missing if file.path in LAST]
    rest = [file for file in missing if file not in shards and file not in last]
    total, sent = sum(file.size for file in missing), 0

    def arrived(files: Sequence[LocalFile], what: str) -> None:
        nonlocal sent
        sent += sum(file.size for file in files)
        if progress:
            progress(sent, total, what)

    arrived((), "sending")
    for group in _groups(shards):
        stored: dict[str, Any] = {}
        for batch in _batches(group):
            stored |= hub.store(out, batch)
            arrived(batch, f"sending {batch[0].path.split('/')[1]}")
        hub.send(out, group, commit_message(group), stored=stored)
    for group in _groups(rest):
        hub.send(out, group, commit_message(group))
        arrived(group, "sending")
    if last or stale:
        hub.send(out, last, "card and manifest", stale)
        arrived(last, "sending")


def _groups(files: Sequence[LocalFile]) -> Iterator[Sequence[LocalFile]]:
    """The files of each commit."""
    for first in range(0, len(files), GROUP):
        yield files[first : first + GROUP]


def _batches(files: Sequence[LocalFile]) -> Iterator[list[LocalFile]]:
    """The files that are sent together: as many as AT_ONCE holds, at least one."""
    batch: list[LocalFile] = []
    for file in files:
        if batch and sum(held.size for held in [*batch, file]) > AT_ONCE:
            yield batch
            batch = []
        batch.append(file)
    if batch:
        yield batch


def commit_message(files: Sequence[LocalFile]) -> str:
    """What a group of files is."""
    subsets = dict.fromkeys(file.path.split("/")[1] for file in files if file.path.startswith(f"{layout.DATA}/"))
    return f"shards of {', '.join(subsets)}" if subsets else "index, report and pictures"
