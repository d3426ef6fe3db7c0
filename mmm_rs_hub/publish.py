"""Convert a release and send it to the hub a few shards at a time, where no disk holds them all.

How it works:

- The conversion is `conversion.job`'s own, in a staging folder. Each few shards that are written are checked as
  `mmm-rs verify` does, sent to the hub's storage and removed. Their markers stay; index, manifest and report are made
  from them in the end as ever.
- A shard in the storage is not in the repository until it is committed. A commit takes more shards than lie here at a
  time, so that the whole takes a few dozen commits however small the disk is.
- An interrupted run resumes from what the hub lists. Shards that were sent but not committed are not listed: they are
  written again, those of one commit at most. The storage recognises their bytes.
- The card's pictures need some images of shards that are gone: they are read back from the hub.
- The rest goes as in `mmm_rs_hub.upload`: index, report and pictures, then card and manifest, then the proof.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from conversion import layout, report
from conversion.contents import survey
from conversion.display import first_of, size
from conversion.errors import OutputError, UsageError, VerificationError
from conversion.job import ConversionSettings, Job, Progress, Result, check_disk, finish, opened, write_shards
from conversion.manifest import read as read_manifest
from conversion.release import check_there
from conversion.shards import finished
from dataset_card import card
from mmm_rs_hub.client import Hub, default_api, without_bars
from mmm_rs_hub.destination import Destination
from mmm_rs_hub.files import LocalFile, shard_file
from mmm_rs_hub.proof import Proof, check_copy, prove
from mmm_rs_hub.shipment import Shipment
from mmm_rs_hub.upload import (
    base,
    check_contents,
    check_limits,
    check_visibility,
    confirm,
    creation,
    differences,
    local_files,
    say_incomplete,
    send,
    will_be_private,
)

if TYPE_CHECKING:
    from huggingface_hub import HfApi


def publish(
    release_path: str | os.PathLike[str],
    destination: Destination,
    staging: str | os.PathLike[str],
    settings: ConversionSettings | None = None,
    *,
    keep: int = 8,
    progress: Progress | None = None,
    ask: Callable[[str], bool] | None = None,
    api: HfApi | None = None,
) -> tuple[Result, Proof]:
    """Convert a release and send it to the hub, with few shards on the disk at a time.

    The hub then holds what `convert` and `upload` would have put there. Everything but the shards stays in `staging`.
    After an interruption the same call resumes.

    Args:
        release_path: The release, as `convert` takes it.
        destination: The repository, and what may be done there.
        staging: A folder for shards on their way.
        settings: How to convert (default: all subsets, with the options' defaults). Its card is replaced by one that
            names the repository.
        keep: How many shards lie there at a time, at most.
        progress: Is called with the bytes converted and sent, the bytes in all, and the subset.
        ask: Answers a question (default: the person at the terminal).
        api: The hub's client (default: one for `HF_ENDPOINT` and the token that is logged in).

    Returns:
        What the conversion came to, and what was compared with the hub and found equal.

    Raises:
        UsageError: An option does not fit, or the person does not want to continue.
        ReleaseError: The release cannot be used.
        OutputError: The token is wrong or may not write, or the folder, the disk, the hub or the network fails.
        VerificationError: A shard or the hub's copy is not what was written.
    """
    settings = settings or ConversionSettings()
    staging = Path(staging).absolute()
    check_there(release_path)
    if not settings.overwrite:
        _check_staging(staging)
    hub = Hub(destination.repo_id, destination.revision, api or default_api(), settings.say)
    with without_bars():
        hub.check_may_write()
        private = will_be_private(hub, destination)
        shipment = Shipment(hub, staging, settings.workers)
        settings = replace(settings, card=_Card(hub))
        with opened(release_path, staging, settings, shipment.is_done) as job:
            _check_held(shipment, staging, job.earlier)
            say_incomplete(_sources(job), hub.say, job.out)
            if not job.complete:
                _convert_and_send(job, shipment, destination, private, keep, progress, ask)
            result = finish(job)
            proof = _send_rest(job, result, shipment, destination, ask)
    return replace(result, written=bool(proof.sent)), proof


def _convert_and_send(
    job: Job,
    shipment: Shipment,
    destination: Destination,
    private: bool,
    keep: int,
    progress: Progress | None,
    ask: Callable[[str], bool] | None,
) -> None:
    """Write the shards that are left and send them, once the person has agreed."""
    hub, shards = shipment.hub, _shard_files(job)
    check_limits(shards)
    check_disk(job, keep)
    if shipment.is_new:
        hub.say(creation(hub.where, private))
    left = sorted(subset.plan.shards[number].bytes for subset in job.planned for number in job.left(subset))
    work = f"{len(left):,} of {len(shards):,} shards"
    hub.say(f"{hub.where}: {work} to convert and send, at most {size(sum(left))}")
    hub.say(
        f"{job.out}: holds {keep:,} of them at a time, at most {size(sum(left[-keep:]))}; "
        f"{size(shutil.disk_usage(job.out).free)} are free"
    )
    new = f", which will be created ({'private' if private else 'public'})" if shipment.is_new else ""
    confirm(destination, f"Convert {work} and send them to {hub.where}{new}?", ask)
    if shipment.is_new:
        hub.create(private)
        shipment.refresh()  # a new branch begins with what main has
    check_visibility(hub, destination)
    shipment.plan(len(shards), keep)
    _send_shards(job, shipment, keep, progress)
    hub.say("writing and sending index, report, card and manifest")


def _send_rest(
    job: Job, result: Result, shipment: Shipment, destination: Destination, ask: Callable[[str], bool] | None
) -> Proof:
    """Send what describes the shards, and prove that all of it is on the hub."""
    hub, staging = shipment.hub, shipment.staging
    if card.named_repository(staging) != destination.repo_id:  # it was published elsewhere before
        _Card(hub).write(staging)
    card.address(staging, destination.repo_id, base(hub, destination))
    files = local_files(staging, result.manifest)
    check_limits(files)
    check_contents(survey(staging, result.manifest), staging, hub.say)
    shipment.refresh()
    _check_held(shipment, staging, result.manifest)
    missing, stale = differences(files, shipment.listing)
    if job.complete and (missing or stale):
        confirm(destination, f"Send {len(missing):,} file{'s' * (len(missing) != 1)} to {hub.where}?", ask)
    check_visibility(hub, destination)
    send(hub, staging, missing, stale)
    proof = prove(hub, result.manifest, files, shipment.sent + len(missing))
    faults, _ = check_copy(staging, hub.with_revision(proof.revision).listing())
    if faults:
        raise VerificationError(f"{staging}: its files contradict each other", *first_of(faults))
    if destination.tag:
        hub.tag(destination.tag, proof.revision)
    return proof


@dataclass(frozen=True)
class _Card:
    """The dataset card of a folder whose shards are on the hub and whose examples name the repository."""

    hub: Hub

    def check(self, out: Path) -> None:
        card.check(out)

    def write(self, out: Path) -> None:
        card.write(out, self.hub.repo_id, self.hub.read)

    def written(self) -> tuple[str, ...]:
        return card.written()

    def faults(self, out: Path) -> list[str]:
        return card.faults(out)


def _check_staging(staging: Path) -> None:
    """Raises UsageError if a person has converted into the folder: shards are removed from it."""
    manifest = read_manifest(staging)
    if manifest and any((staging / shard["name"]).exists() for shard in manifest["shards"]):
        raise UsageError(
            f"{staging}: holds a finished conversion, whose shards would be removed. Send it with "
            "`mmm-rs upload`, or give another folder for --staging"
        )


def _check_held(shipment: Shipment, staging: Path, manifest: dict[str, Any] | None) -> None:
    """Raises OutputError if a shard that was published before is not on the hub: it is nowhere else."""
    shards = manifest["shards"] if manifest else []
    if lacking := shipment.lacking(shards):
        raise OutputError(
            f"{shipment.hub.where}: lacks {len(lacking):,} of the {len(shards):,} shards that "
            f"{staging / layout.MANIFEST} describes, for example {lacking[0]}. Use --overwrite to convert and send "
            "them again"
        )


def _sources(job: Job) -> list[dict[str, Any]]:
    """The sources of the release that could not be used as they stand, as the report's summary has them."""
    if job.complete:
        return report.read(job.out, ())["sources"]
    problems = [*job.release.problems, *(problem for subset in job.planned for problem in subset.problems)]
    return [report.source_row(problem) for problem in problems]


def _shard_files(job: Job) -> list[LocalFile]:
    """The shards of an earlier run and of the plan, these as large as they may become."""
    earlier = map(shard_file, job.earlier["shards"] if job.earlier else ())
    planned = (LocalFile(shard.name, shard.bytes, "", "") for subset in job.planned for shard in subset.plan.shards)
    return [*earlier, *planned]


def _send_shards(job: Job, shipment: Shipment, keep: int, progress: Progress | None) -> None:
    """Write the shards that are left, a few at a time, until the hub lists every shard."""
    planned = {
        marker: (shard.bytes, subset.plan.subset)
        for subset in job.planned
        for shard, marker in zip(subset.plan.shards, subset.markers(), strict=True)
    }
    total = sum(length for length, _ in planned.values())
    done = total - sum(planned[marker][0] for marker in planned if not job.is_done(marker))

    def arrived(marker: Path) -> None:
        nonlocal done
        length, subset = planned[marker]
        done += length
        if progress:
            progress(done, total, subset)

    def send_batch(markers: Sequence[Path]) -> None:
        shipment.send(markers, arrived)

    if progress:
        progress(done, total, "converting and sending")
    waiting = _waiting(job)
    for first in range(0, len(waiting), keep):
        send_batch(waiting[first : first + keep])
    write_shards(job, at_once=keep, then=send_batch)
    shipment.finish()
    data = job.out / layout.DATA
    for folder in [*data.glob("*"), data]:
        if folder.is_dir() and not any(folder.iterdir()):
            folder.rmdir()


def _waiting(job: Job) -> list[Path]:
    """Markers of shards that a killed run wrote but did not send. Other shards that it left are removed."""
    waiting = []
    for subset in job.planned:
        left = {subset.plan.shards[number].name for number in job.left(subset)}
        for shard, marker in zip(subset.plan.shards, subset.markers(), strict=True):
            if shard.name in left and finished(job.out, marker):
                waiting.append(marker)
            else:
                (job.out / shard.name).unlink(missing_ok=True)
    return waiting
