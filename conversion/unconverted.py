"""The release itself, unconverted, as rows for the builder of `mmm_rs`, which finds this by an entry point.

The same plan, the same checks and the same fields as the shards have, so the rows are those of the converted dataset.
Nothing is written but the plan and zips that are deflated in another, in a temporary folder. There is no index, so
filters are applied to the rows when they are read: every image of the subset is.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import shutil
import tempfile
import weakref
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa

import mmm_rs
from conversion import release
from conversion.archives import Archive, content_id, extracted
from conversion.errors import MMMRSError, ReleaseError
from conversion.findings import Problem, Reported, count_reasons, why_nothing_is_published
from conversion.options import Options
from conversion.plan import PlanFile, make, read_batch
from conversion.samples import Sample, index_row, samples

logger = logging.getLogger(__name__)


@contextlib.contextmanager
def _read_errors() -> Iterator[None]:
    """This project's errors as the one that `mmm_rs` promises and that `datasets` passes on as it is."""
    try:
        yield
    except MMMRSError as error:
        raise mmm_rs.ReadError(str(error)) from error


class ReleaseSource:
    """A release at `path`. See `mmm_rs.Source` for the methods.

    Raises `mmm_rs.ReadError` if nothing of a release is in `path`, or if it cannot be read.
    """

    counted = False  # how many samples come is known when their images are read
    remote = False

    @_read_errors()
    def __init__(self, path: str) -> None:
        self.path = path
        self._release: release.Release | None = release.find(path)
        self.subsets = list(self._release.subsets)
        for problem in self._release.problems:
            logger.warning("%s", problem)
        self._folder = tempfile.mkdtemp(prefix="mmm-rs-")
        weakref.finalize(self, _remove, self._folder, os.getpid())
        self._inflated = contextlib.ExitStack()
        self._plans: dict[str, tuple[PlanFile, tuple[Archive, ...]]] = {}
        self._problems: dict[str, Sequence[Problem]] = {}  # of the plans

    def __getstate__(self) -> dict[str, Any]:
        """Workers use the plans; the temporary folder belongs to the process that made it."""
        return self.__dict__ | {"_release": None, "_inflated": None}

    def __str__(self) -> str:
        return self.path

    def digest(self, subsets: Sequence[str]) -> str:
        """Identifies the content of these subsets: it changes when the files of the release do."""
        assert self._release is not None
        parts = [[content_id(p.archive, p.entries) for p in self._release.subsets[name].parts] for name in subsets]
        return hashlib.sha256(json.dumps([subsets, parts]).encode()).hexdigest()

    @_read_errors()
    def splits(self, subsets: Sequence[str]) -> list[str]:
        """Makes the plans of the subsets. Raises `mmm_rs.ReadError` if none of their images can be used."""
        plans = [self._plan(subset) for subset in subsets]
        if not any(plan.shards for plan in plans):
            reasons: dict[str, Counter[str]] = {}
            for (kind, code), count in count_reasons(row for plan in plans for row in plan.reported).items():
                reasons.setdefault(kind, Counter())[code] += count
            problems = [problem for subset in subsets for problem in self._problems[subset]]
            lines, _ = why_nothing_is_published(problems, reasons)
            what = f"the images of {subsets[0]}" if len(subsets) == 1 else "its images"
            raise ReleaseError(f"{self.path}: none of {what} can be published", *lines)
        return ["train"]

    @_read_errors()
    def segments(self, subset: str, split: str, selection: mmm_rs.Selection) -> list[mmm_rs.Segment]:
        """The planned samples of a subset, whether they match or not."""
        plan = self._plan(subset)
        return [mmm_rs.Segment(subset, shard.name, 0, shard.stop - shard.start) for shard in plan.shards]

    def _plan(self, subset: str) -> PlanFile:
        """The plan of a subset, made when it is first asked for. Warns of what is left out of it."""
        if subset not in self._plans:
            assert self._release is not None and self._inflated is not None
            files, work = self._release.subsets[subset], Path(self._folder, subset)
            work.mkdir(exist_ok=True)
            plan = make(files, Options(), work / "records.bin")
            plan.write(work / "plan.arrow")
            archives = tuple(self._inflated.enter_context(extracted(part.archive, work)) for part in files.parts)
            self._problems[subset] = plan.problems
            self._plans[subset] = PlanFile.open(work / "plan.arrow"), archives
            for problem in plan.problems:
                logger.warning("%s", problem)
            self._warn_of(subset, plan.reported)
        return self._plans[subset][0]

    def _warn_of(self, subset: str, reported: Sequence[Reported]) -> None:
        if reported:
            first = reported[0]
            logger.warning(
                "%s: %d images and records of %s are left out, for example %s: %s",
                self.path,
                len(reported),
                subset,
                first.path,
                first.detail,
            )

    def values(self, subsets: Sequence[str], column: str, selection: mmm_rs.Selection) -> pa.ChunkedArray:
        raise NotImplementedError  # they are known when the images have been read

    def tables(
        self,
        segments: Iterable[mmm_rs.Segment],
        features: datasets.Features,
        selection: mmm_rs.Selection,
        check: bool,
        skipped: list[mmm_rs.Skipped] | None,
    ) -> Iterator[tuple[int, pa.Table, Sequence[int]]]:
        """See `mmm_rs.Source`. Images that the conversion would reject are left out here too."""
        for number, segment in enumerate(segments):
            for table, positions in self._segment_tables(segment, features, selection):
                yield number, table, positions

    def _segment_tables(
        self, segment: mmm_rs.Segment, features: datasets.Features, selection: mmm_rs.Selection
    ) -> Iterator[tuple[pa.Table, Sequence[int]]]:
        plan, archives = self._plans[segment.subset]
        number = [shard.name for shard in plan.shards].index(segment.shard)
        batch = read_batch(plan.path, number).slice(segment.first, segment.last - segment.first)
        position_of = {key: position for position, key in enumerate(batch.column("key").to_pylist())}
        records = str(Path(plan.path).with_name("records.bin"))
        reported: list[Reported] = []
        rows: list[dict[str, Any]] = []
        size = 0
        with _read_errors():
            for item in samples(batch, segment.subset, archives, records, False):
                if isinstance(item, Reported):
                    reported.append(item)
                    continue
                rows.append(_row(item, segment.shard))
                size += sum(len(image.data) for image in item.images)
                if size > mmm_rs.BATCH_BYTES:
                    yield _table(rows, features, selection, position_of)
                    rows, size = [], 0
        if rows:
            yield _table(rows, features, selection, position_of)
        self._warn_of(segment.subset, reported)


def _remove(folder: str, process: int) -> None:
    """A forked process knows the folder too, but must leave it to its parent."""
    if os.getpid() == process:
        shutil.rmtree(folder, ignore_errors=True)


def _row(sample: Sample, shard: str) -> dict[str, Any]:
    row = index_row(sample, "train", shard)
    for image in sample.images:
        path = f"{sample.key}.{mmm_rs.MEMBERS[image.modality].image}"
        row[image.modality] = {"bytes": bytes(image.data), "path": path}  # the view holds until the next sample only
    return row


def _table(
    rows: list[dict[str, Any]],
    features: datasets.Features,
    selection: mmm_rs.Selection,
    position_of: Mapping[str, int],
) -> tuple[pa.Table, list[int]]:
    images = [pa.field(m, mmm_rs.IMAGE_TYPE) for m in mmm_rs.MODALITIES]
    table = pa.Table.from_pylist(rows, schema=pa.schema([*mmm_rs.index_schema(), *images]))
    table = mmm_rs.labels_of(table, selection.modalities)
    if selection.expression is not None:
        table = table.take(selection.positions(table))
    positions = [position_of[key] for key in table["key"].to_pylist()]
    columns = [mmm_rs.column(table, name, feature) for name, feature in features.items()]
    return pa.Table.from_arrays(columns, schema=features.arrow_schema), positions
