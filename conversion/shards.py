"""One shard: a function of one batch of the plan and the source's bytes.

The bytes of an image go from the source to the tar once. On the way their CRC is checked, their structure is looked at
and the shard's sha256 is fed. A rejected image is left out, a sample without images dropped. The shard is written under
a temporary name, synced and renamed; then a marker that says what came out is written the same way. A shard counts as
done when its marker is there; a task of such a shard does nothing.

Index, manifest and report are made from the markers alone.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import pyarrow as pa

from conversion.archives import Archive
from conversion.disk import BUFFER, replacing
from conversion.execution import Run, Watch, check_place
from conversion.findings import Reported
from conversion.memory import frees_memory
from conversion.plan import read_batch
from conversion.samples import ROWS, Sample, index_row, samples
from conversion.tar import Tar
from mmm_rs import MEMBERS, METADATA_MEMBER, MODALITIES, index_schema

_encode_json = msgspec.json.Encoder().encode


@dataclass(frozen=True)
class Task:
    """All that writing one shard needs; small and picklable, for executors on other machines."""

    plan: str  # the plan file; the records lie beside it
    records: str
    number: int
    subset: str
    split: str
    archives: tuple[Archive, ...]
    name: str  # the shard's name, relative to the output folder
    out: str
    marker: str
    decode: bool
    run: Run


@dataclass(frozen=True)
class Marker:
    """What really came out of one task. `name` is None where no sample was left and so no shard was written."""

    subset: str
    split: str
    number: int
    name: str | None
    bytes: int
    sha256: str | None
    samples: int
    images: dict[str, int]
    pairs: dict[str, int]
    reported: tuple[Reported, ...]
    records_used: int

    def row(self) -> dict[str, Any]:
        """The shard as the manifest has it."""
        return {
            "name": self.name,
            "subset": self.subset,
            "split": self.split,
            "bytes": self.bytes,
            "sha256": self.sha256,
            "samples": self.samples,
            "pairs": self.pairs,
        }


def finished(out: str | os.PathLike[str], path: Path) -> Marker | None:
    """The marker at `path` where its shard is done."""
    if not path.exists():
        return None
    marker = read_marker(path)
    if marker.name is None:
        return marker
    shard = Path(out, marker.name)
    return marker if shard.exists() and shard.stat().st_size == marker.bytes else None


@frees_memory
def write_shard(task: Task) -> Marker:
    """Write the shard of `task` and its marker.

    Raises OutputError where it cannot be written, ReleaseError where a whole archive is gone, Interrupted where the run
    ended meanwhile, DamagedEntry never: damage goes to the marker's report.
    """
    check_place(task.run, (archive.path for archive in task.archives))
    if done := finished(task.out, Path(task.marker)):  # by a worker that was lost before it could say so
        return done
    watch = Watch(task.run)
    batch = read_batch(task.plan, task.number)
    reported: list[Reported] = []
    with writing_marker(Path(task.marker)) as index:
        with replacing(Path(task.out, task.name)) as fd:
            shard = _Shard(Tar(fd), task, index)
            for item in samples(batch, task.subset, task.archives, task.records, task.decode):
                watch.check()
                if isinstance(item, Reported):
                    reported.append(item)
                else:
                    shard.add(item)
            shard.close()
            watch.look()
        marker = shard.marker(reported)
        write_marker(index, marker)
        watch.look()
    return marker


@dataclass
class _Shard:
    """The shard being written, and what has come of it so far."""

    tar: Tar
    task: Task
    index: pa.ipc.RecordBatchFileWriter
    rows: list[dict[str, Any]] = field(default_factory=list)  # of the index, not yet written
    samples: int = 0
    records_used: int = 0
    images: dict[str, int] = field(default_factory=lambda: dict.fromkeys(MODALITIES, 0))
    pairs: dict[str, int] = field(default_factory=lambda: dict.fromkeys(MODALITIES, 0))

    def add(self, sample: Sample) -> None:
        tar, key, row = self.tar, sample.key, index_row(sample, self.task.split, self.task.name)
        for image in sample.images:
            m = image.modality
            member = MEMBERS[m]
            row[f"{m}_offset"] = tar.add(f"{key}.{member.image}", image.data)
            self.images[m] += 1
            if image.record:
                tar.add(f"{key}.{member.prompt}", image.record.prompt.encode())
                self.pairs[m] += 1
        tar.add(f"{key}.{METADATA_MEMBER}", _encode_json(sample.fields))
        # A record is of one sample, of which it may describe several images.
        self.records_used += len({(i.record.file, i.record.position) for i in sample.images if i.record})
        self.samples += 1
        self.rows.append(row)
        if len(self.rows) == ROWS:
            self._write_rows()

    def close(self) -> None:
        self._write_rows()
        if self.samples:
            self.tar.close()  # else nothing is written, and `replacing` leaves no empty file

    def _write_rows(self) -> None:
        self.index.write_batch(_batch(self.rows))
        self.rows.clear()

    def marker(self, reported: list[Reported]) -> Marker:
        return Marker(
            subset=self.task.subset,
            split=self.task.split,
            number=self.task.number,
            name=self.task.name if self.samples else None,
            bytes=self.tar.size,
            sha256=self.tar.sha256.hexdigest() if self.samples else None,
            samples=self.samples,
            images=self.images,
            pairs=self.pairs,
            reported=tuple(reported),
            records_used=self.records_used,
        )


def _batch(rows: list[dict[str, Any]]) -> pa.RecordBatch:
    columns: list[pa.Array] = []
    for column in index_schema():
        name = column.name
        columns.append(pa.array([row.get(name) for row in rows], column.type))
    return pa.RecordBatch.from_arrays(columns, schema=index_schema())


@contextlib.contextmanager
def writing_marker(path: Path) -> Iterator[pa.ipc.RecordBatchFileWriter]:
    """The marker's file, which takes its name at the end. First it is given the rows of the index, a batch at a time:
    of small samples there are many; then the marker."""
    with (
        replacing(path) as fd,
        open(fd, "wb", BUFFER, closefd=False) as sink,
        pa.ipc.new_file(sink, index_schema()) as writer,
    ):
        yield writer


def write_marker(writer: pa.ipc.RecordBatchFileWriter, marker: Marker) -> None:
    """The marker is what the last batch says of itself; it has no rows."""
    writer.write_batch(_batch([]), custom_metadata={"marker": json.dumps(asdict(marker))})


def read_marker(path: Path) -> Marker:
    with pa.OSFile(str(path), "rb") as source:
        file = pa.ipc.open_file(source)
        metadata = file.get_batch_with_custom_metadata(file.num_record_batches - 1).custom_metadata
    data = json.loads(metadata[b"marker"])
    data["reported"] = tuple(Reported(**row) for row in data["reported"])
    return Marker(**data)


def marker_rows(path: Path) -> pa.Table:
    """The index rows of one shard."""
    with pa.OSFile(str(path), "rb") as source:
        return pa.ipc.open_file(source).read_all()
