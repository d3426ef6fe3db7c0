"""Shards on their way to the hub: which of them it lists, and which wait in its storage for a commit."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from conversion.display import first_of
from conversion.errors import VerificationError
from conversion.execution import completed, threads
from conversion.shards import marker_rows, read_marker
from conversion.verification import check_shard
from mmm_rs_hub.client import Hub
from mmm_rs_hub.files import Listing, LocalFile, holds, shard_file
from mmm_rs_hub.upload import GROUP, commit_message

COMMITS = 24  # of all shards together, unless a commit would then hold more than GROUP of them


class Shipment:
    """Sends shards from a staging folder and removes them there; knows what the hub has.

    It alone lists the repository and commits to it while shards are sent, so that its listing is what the hub holds.
    """

    def __init__(self, hub: Hub, staging: Path, workers: int | None) -> None:
        """`workers`: threads that check shards before they are sent (default: one per core)."""
        self.hub, self.staging, self.workers = hub, staging, workers
        self.sent = 0  # shards, by this process
        self._listing: Listing | None = hub.existing()
        self._stored: dict[str, tuple[LocalFile, Any]] = {}  # path -> file in the hub's storage, what commits it
        self._group = GROUP  # shards per commit

    @property
    def listing(self) -> Listing:
        """The files on the hub, as they were last listed."""
        return self._listing or {}

    @property
    def is_new(self) -> bool:
        """Whether the repository or the branch does not exist yet."""
        return self._listing is None

    def refresh(self) -> None:
        """List the repository again."""
        self._listing = self.hub.listing()

    def plan(self, total: int, keep: int) -> None:
        """Choose how many shards go into a commit: `total` are to be on the hub, `keep` lie in the folder at a time."""
        self._group = min(GROUP, max(keep, math.ceil(total / COMMITS)))

    def lacking(self, shards: Sequence[Mapping[str, Any]]) -> list[str]:
        """The names of those of a manifest's shards that the hub does not list."""
        return [shard["name"] for shard in shards if not holds(self.listing, shard_file(shard))]

    def is_done(self, marker_path: Path) -> bool:
        """Whether the shard of this marker has left for the hub. The answer changes while shards are sent."""
        if not marker_path.exists():
            return False
        marker = read_marker(marker_path)
        return marker.name is None or marker.name in self._stored or self._holds(shard_file(marker.row()))

    def send(self, marker_paths: Sequence[Path], arrived: Callable[[Path], None]) -> None:
        """Send the shards of these markers to the hub's storage, if it lacks them, and remove them from the folder.

        `arrived` is called with each marker whose shard has left. Enough shards for a commit are committed. They are
        sent one by one: a signal does not end the threads in which the client sends several by LFS.

        Raises VerificationError if a shard is not what its marker says; nothing is sent then.
        """
        self._check(marker_paths)
        for path in marker_paths:
            marker = read_marker(path)
            if marker.name is not None:
                file = shard_file(marker.row())
                if not self._holds(file):
                    self._stored[file.path] = file, self.hub.store(self.staging, [file])[file.path]
                    self.sent += 1
                (self.staging / file.path).unlink()
            arrived(path)
        while len(self._stored) >= self._group:
            self._commit()

    def finish(self) -> None:
        """Commit the shards that are still waiting."""
        while self._stored:
            self._commit()

    def _holds(self, file: LocalFile) -> bool:
        return holds(self.listing, file)

    def _commit(self) -> None:
        """Commit the next group, and check that the hub then lists it."""
        group = dict(list(self._stored.items())[: self._group])
        files = [file for file, _ in group.values()]
        operations = {path: operation for path, (_, operation) in group.items()}
        self.hub.send(self.staging, files, commit_message(files), stored=operations)
        self.refresh()
        missing = [file.path for file in files if not self._holds(file)]
        if missing:
            raise VerificationError(
                f"{self.hub.repo_id}: the hub does not list what was sent. {self.hub.again}",
                *first_of(missing),
            )
        for path in group:
            del self._stored[path]

    def _check(self, marker_paths: Sequence[Path]) -> None:
        """Read the shards as `mmm-rs verify` does, so that no damaged shard is sent."""

        def check(path: Path) -> list[str]:
            marker = read_marker(path)
            if marker.name is None:  # none of its samples could be published
                return []
            faults, _ = check_shard(self.staging, marker.row(), marker_rows(path).to_pylist())
            return faults

        with threads(self.workers) as pool, completed(pool, check, marker_paths) as results:
            faults = [fault for _, shard_faults in results for fault in shard_faults]
        if faults:
            raise VerificationError(*first_of(faults))
