"""Convert a release and send it to the hub a few shards at a time, where no disk holds them all.

How it works:

- The conversion is `conversion.job`'s own, in a staging folder. Each few shards that are written are checked as
  `mmm-rs verify` does, sent to the hub's storage and removed. Their markers stay, from which index, manifest and report
  are made in the end as ever.
- What the storage has is not in the repository until it is committed. A commit takes more shards than lie here at a
  time, so that the whole takes a few dozen commits however small the disk is.
- What the hub lists is how an interrupted run goes on. Shards that had been sent but not committed are not listed: they
  are written again, one commit's shards at the most. The storage recognises their bytes.
- The card's pictures need some images of shards that are gone: they are read back from the hub.
- The rest goes as in `mmm_rs_hub.upload`: index, report and pictures, then card and manifest, then the proof.
"""

from __future__ import annotations

import math
import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from conversion import layout, manifest
from conversion.display import first_of, size
from conversion.errors import OutputError, UsageError, VerificationError
from conversion.execution import completed, threads
from conversion.job import Job, Result, check_disk, finish, opened, write_shards
from conversion.options import Options
from conversion.shards import finished, marker_rows, read_marker
from conversion.verification import check_shard
from dataset_card import card
from mmm_rs_hub.client import Hub, LocalFile, RemoteFile, default_api, holds, shard_file
from mmm_rs_hub.proof import Proof, check_copy, prove
from mmm_rs_hub.upload import (
    GROUP,
    agree,
    check_limits,
    check_name,
    differing,
    local_files,
    message_of,
    privacy,
    send,
)

if TYPE_CHECKING:
    from huggingface_hub import HfApi

COMMITS = 24  # of shards, where these are not more than GROUP times as many


def publish(
    release_path: str | os.PathLike[str],
    repo_id: str,
    staging: str | os.PathLike[str],
    *,
    keep: int = 8,
    subsets: Sequence[str] | None = None,
    options: Options | None = None,
    workers: int | None = None,
    annotations: str | os.PathLike[str] | None = None,
    overwrite: bool = False,
    private: bool = False,
    revision: str | None = None,
    tag: str | None = None,
    yes: bool = False,
    say: Callable[[str], None] = print,
    ask: Callable[[str], bool] | None = None,
    api: HfApi | None = None,
) -> tuple[Result, Proof]:
    """Convert a release and send it to the dataset repository `repo_id`, with `keep` shards in `staging` at a time.

    What is then on the hub is what `convert` and `upload` would have put there. In `staging` all but the shards stays.
    Called again after an interruption it goes on; the other parameters are those of `convert` and `upload`.

    Raises UsageError, ReleaseError, OutputError (the folder, the disk, the hub) or VerificationError.
    """
    staging = Path(staging).absolute()
    check_name(repo_id)
    if not overwrite:
        _check_staging(staging)
    hub = Hub(repo_id, revision or "main", api or default_api(), say)
    hub.check_login()
    there = hub.listing(missing_ok=True)
    private = privacy(hub, private)
    shards = _Shards(hub, staging, there or {}, workers)
    description = _Card(hub)
    with opened(
        release_path,
        staging,
        subsets=subsets,
        options=options,
        workers=workers,
        annotations=annotations,
        overwrite=overwrite,
        card=description,
        done=shards.done,
        say=say,
    ) as job:
        _check_held(hub, shards.there, staging, job.earlier)
        if not job.complete:
            check_limits(_shards_of(job))
            check_disk(job, keep)
            _say_plan(hub, job, keep, there is None, private)
            agree(yes, ask)
            if there is None:
                hub.create(private)
                shards.there = hub.listing() or {}  # a new branch begins with what main has
            _send_shards(job, shards, keep)
            say("writing index, report, card and manifest")
        result = finish(job)
        if card.named_repository(staging) != repo_id:  # a person published it elsewhere before
            description.write(staging)
        files = local_files(staging, result.manifest)
        check_limits(files)
        listed = hub.listing() or {}
        _check_held(hub, listed, staging, result.manifest)
        missing, stale = differing(files, listed)
        if job.complete and (missing or stale):
            agree(yes, ask)
        send(hub, staging, missing, stale)
        proof = prove(hub, result.manifest, files, shards.sent + len(missing))
        faults, _ = check_copy(staging, hub.at(proof.revision).listing() or {})
        if faults:
            raise VerificationError(f"{staging}: its files contradict each other\n{first_of(faults)}")
        if tag:
            hub.tag(tag, proof.revision)
    return replace(result, written=bool(proof.sent)), proof


@dataclass(frozen=True)
class _Card:
    """The dataset card of a folder whose shards are on the hub, and whose examples name the repository."""

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
    """Shards are removed from the staging folder: one that a person has converted is not to be taken for it."""
    made = manifest.read(staging)
    if any((staging / shard["name"]).exists() for shard in (made or {"shards": ()})["shards"]):
        raise UsageError(
            f"{staging}: holds a finished conversion, whose shards would be removed. Send it with "
            "`mmm-rs upload`, or give another folder for --staging"
        )


def _check_held(hub: Hub, there: dict[str, RemoteFile], staging: Path, made: dict[str, Any] | None) -> None:
    """What was published before must still be on the hub: its shards are nowhere else."""
    shards = (made or {"shards": ()})["shards"]
    lacking = [shard["name"] for shard in shards if not holds(there, shard_file(shard))]
    if lacking:
        raise OutputError(
            f"{hub.repo_id} at {hub.revision}: {len(lacking):,} of the {len(shards):,} shards that "
            f"{staging / layout.MANIFEST} describes are not there, for example {lacking[0]}. "
            "--overwrite converts and sends them again"
        )


def _shards_of(job: Job) -> list[LocalFile]:
    """The shards of an earlier run and of the plan, these as large as they may become."""
    earlier = (job.earlier or {"shards": ()})["shards"]
    planned = [LocalFile(shard.name, shard.bytes, "", "") for one in job.planned for shard in one.plan.shards]
    return [*map(shard_file, earlier), *planned]


def _say_plan(hub: Hub, job: Job, keep: int, new: bool, private: bool) -> None:
    where = f"{hub.repo_id} at {hub.revision}"
    if new:
        hub.say(f"{where}: not there yet, will be made ({'private' if private else 'public'})")
    left = [one.plan.shards[number].bytes for one in job.planned for number in job.left(one)]
    hub.say(
        f"{where}: {len(left):,} of {len(_shards_of(job)):,} shards to convert and send, {size(sum(left))} at the most"
    )
    hub.say(
        f"{job.out}: {keep:,} of them lie here at a time, {size(sum(sorted(left)[-keep:]))}; "
        f"{size(shutil.disk_usage(job.out).free)} are free"
    )


def _send_shards(job: Job, shards: _Shards, keep: int) -> None:
    """Write what is left, a few at a time, until the hub lists every shard."""
    shards.together = min(GROUP, max(keep, math.ceil(len(_shards_of(job)) / COMMITS)))
    waiting = _waiting(job)
    for batch in [waiting[at : at + keep] for at in range(0, len(waiting), keep)]:
        shards.send(batch)
    write_shards(job, at_once=keep, then=shards.send)
    shards.commit(0)
    for folder in [*(job.out / layout.DATA).glob("*"), job.out / layout.DATA]:
        if folder.is_dir() and not any(folder.iterdir()):
            folder.rmdir()


def _waiting(job: Job) -> list[Path]:
    """Markers of shards that a run which was killed wrote but did not send. Other shards that it left are removed."""
    waiting = []
    for one in job.planned:
        left = {one.plan.shards[number].name for number in job.left(one)}
        for shard, marker in zip(one.plan.shards, one.markers(), strict=True):
            if shard.name in left and finished(job.out, marker):
                waiting.append(marker)
            else:
                (job.out / shard.name).unlink(missing_ok=True)
    return waiting


@dataclass
class _Shards:
    """The shards on their way: which the hub lists, and which are in its storage and wait for a commit."""

    hub: Hub
    staging: Path
    there: dict[str, RemoteFile]
    workers: int | None
    together: int = GROUP  # shards a commit
    sent: int = 0
    stored: dict[str, tuple[LocalFile, Any]] = field(default_factory=dict)
    """path -> the file that was sent, and what commits it"""

    def done(self, path: Path) -> bool:
        """Whether the shard of the marker at `path` is on the hub, in its storage at the least."""
        if not path.exists():
            return False
        marker = read_marker(path)
        return marker.name is None or marker.name in self.stored or holds(self.there, shard_file(marker.row()))

    def send(self, paths: list[Path]) -> None:
        """Send the shards of these markers to the storage, if the hub has them not, and remove them here."""
        self._check(paths)
        files = [shard_file(marker.row()) for marker in map(read_marker, paths) if marker.name]
        missing = [file for file in files if not holds(self.there, file)]
        if missing:
            self.hub.say(f"sending {missing[0].path} to {missing[-1].path}, {size(sum(file.size for file in missing))}")
        for file in files:
            if file in missing:
                self.stored[file.path] = file, self.hub.store(self.staging, file)
                self.sent += 1
            (self.staging / file.path).unlink()
        self.commit(self.together - 1)

    def commit(self, most: int) -> None:
        """Commit what waits, until `most` shards are left waiting, and see that the hub then lists what it should."""
        while len(self.stored) > most:
            group = dict(list(self.stored.items())[: self.together])
            files = [file for file, _ in group.values()]
            self.hub.send(
                self.staging,
                files,
                message_of(files),
                stored={path: operation for path, (_, operation) in group.items()},
            )
            self.there = self.hub.listing() or {}
            wrong = [file.path for file in files if not holds(self.there, file)]
            if wrong:
                raise VerificationError(
                    f"{self.hub.repo_id}: the hub does not list what was sent. {self.hub.again}\n{first_of(wrong)}"
                )
            for path in group:
                del self.stored[path]
            self.hub.say(f"committed {len(files):,} shards")

    def _check(self, paths: list[Path]) -> None:
        """Read the shards as `mmm-rs verify` does, so that nothing wrong is sent."""

        def check(path: Path) -> list[str]:
            marker = read_marker(path)
            if marker.name is None:  # none of its samples could be published
                return []
            faults, _ = check_shard(self.staging, marker.row(), marker_rows(path).to_pylist())
            return faults

        with threads(self.workers) as pool, completed(pool, check, paths) as results:
            faults = [fault for _, found in results for fault in found]
        if faults:
            raise VerificationError(first_of(faults))
