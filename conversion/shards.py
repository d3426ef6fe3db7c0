"""One shard: a function of one batch of the plan and the source's bytes.

The bytes of an image go from the source to the tar once. On the way their CRC is checked, their structure is looked at
and the shard's sha256 is fed. A rejected image is left out, a sample without images dropped. The shard is written under
a temporary name, synced and renamed; then a marker that says what came out is written the same way. A shard counts as
done when its marker is there; a task of such a shard does nothing.

Index, manifest and report are made from the markers alone.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import msgspec
import pyarrow as pa

from conversion import images, names, prompts
from conversion.archives import Archive, DamagedEntry, Entry, Reader
from conversion.disk import BUFFER, begin_writeback, replacing, write_all
from conversion.execution import Run, Watch, check_place, check_stop
from conversion.findings import Reported
from conversion.images import RejectedImage
from conversion.memory import release_memory
from conversion.plan import IMAGE_COLUMNS, read_batch
from conversion.records import StoredRecord
from conversion.sharding import BLOCK
from mmm_rs import MEMBERS, METADATA_MEMBER, MODALITIES, PROMPT_COLUMNS, index_schema

_decode_record = msgspec.msgpack.Decoder(StoredRecord).decode
_encode_json = msgspec.json.Encoder().encode
_ZEROS = bytes(BLOCK)
ROWS = 1 << 10  # samples that are Python objects at a time, of perhaps a hundred thousand small ones in a shard
GATHER = 1 << 20  # bytes hashed and written at a time; blocks of 0.5 to 1 MB are the fastest
AHEAD = 1 << 22  # bytes after which the disk is set to work, so that the sync of a shard at its end has little to do


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


class SampleImage(msgspec.Struct, frozen=True, gc=False):
    modality: str
    source: str
    data: memoryview  # valid until the next sample
    crc32: int
    width: int  # pixels
    height: int  # pixels
    record: StoredRecord | None


class Sample(msgspec.Struct, frozen=True):
    """What is published of one place: its images in the order rgb, nir, sar, and the fields of its JSON member."""

    key: str
    images: tuple[SampleImage, ...]
    fields: dict[str, Any]


def samples(
    batch: pa.RecordBatch,
    subset: str,
    archives: tuple[Archive, ...],
    records: str,
    decode: bool,
    reported: list[Reported],
) -> Iterator[Sample]:
    """Read, check and describe the samples of one shard. What is rejected is appended to `reported`."""
    modalities = [m for m in MODALITIES if f"{m}_source" in batch.schema.names]
    with contextlib.ExitStack() as stack:
        # One reader a modality, so that the buffers of a sample's images are valid together.
        readers = {m: [stack.enter_context(Reader(archive)) for archive in archives] for m in modalities}
        texts = os.open(records, os.O_RDONLY)
        stack.callback(os.close, texts)
        for key, planned in _planned(batch, modalities):
            check_stop()
            found: list[SampleImage] = []
            unpublished: list[StoredRecord] = []
            for m, (source, file, offset, packed, size, crc, method, part, at, length) in zip(
                modalities, planned, strict=True
            ):
                if source is None:
                    continue
                record = None if at is None else _decode_record(os.pread(texts, length, at))
                try:
                    entry = Entry(offset, packed, size, crc, method, file, name=source)
                    data, crc32 = readers[m][part].read(entry)
                    width, height = images.measure(data, decode)
                except (DamagedEntry, RejectedImage) as error:
                    reported.append(Reported("image", source, None, error.reason, error.detail))
                    if record:
                        unpublished.append(record)
                    continue
                found.append(SampleImage(m, source, data, crc32, width, height, record))
            if unpublished:
                kept = {(image.record.file, image.record.position) for image in found if image.record}
                lost = {(r.file, r.position): r for r in unpublished if (r.file, r.position) not in kept}
                for record in lost.values():
                    reported.append(
                        Reported(
                            "record",
                            record.file,
                            record.position,
                            "image_rejected",
                            f"{record.path}: its image is not published",
                        )
                    )
            if found:
                yield Sample(key, tuple(found), fields(subset, found))


def _planned(batch: pa.RecordBatch, modalities: Sequence[str]) -> Iterator[tuple[str, tuple[tuple[Any, ...], ...]]]:
    """Each sample's key and what is planned of its image of each modality: IMAGE_COLUMNS, and where its record is."""
    for start in range(0, batch.num_rows, ROWS):
        some = batch.slice(start, ROWS)
        planned = []
        for m in modalities:
            columns = [f"{m}_{name}" for name in (*IMAGE_COLUMNS, "record", "record_length")]
            planned.append(zip(*(some.column(name).to_pylist() for name in columns), strict=True))
        yield from zip(some.column("key").to_pylist(), zip(*planned, strict=True), strict=True)


def fields(subset: str, found: list[SampleImage]) -> dict[str, Any]:
    """The JSON member of a sample. Single fields describe its first modality; None where unknown."""
    first = found[0]
    record = first.record
    parts = prompts.split(record.prompt) if record else prompts.PromptParts()
    gsd = record.gsd if record else None
    if gsd is None and subset == "Inria":
        gsd = names.inria_gsd(first.source)
    level, derived = parts.gsd_level, False
    if level is None and gsd is not None:
        level, derived = prompts.gsd_level(gsd), True
    weather = parts.weather
    if weather is None and subset == "weather":
        folders = first.source.lower().split("/")[:-1]
        weather = next((names.SCENE_FOLDERS[name] for name in folders if name in names.SCENE_FOLDERS), None)
    source: dict[str, str | None] = dict.fromkeys(MODALITIES)
    annotation: dict[str, str | None] = dict.fromkeys(MODALITIES)
    for image in found:
        source[image.modality] = image.source
        if image.record:
            annotation[image.modality] = image.record.text
    return {
        "subset": subset,
        "source": source,
        "caption": parts.caption,
        "category": (record.category if record else None) or parts.category,
        "weather": weather,
        "satellite": parts.satellite,
        "gsd": gsd,
        "gsd_level": level,
        "gsd_level_derived": derived if level else None,
        "cloud_cover": record.cloud_cover if record else None,
        "annotation": annotation,
    }


# --- the tar ---------------------------------------------------------------------------------------------------------

# A USTAR header with everything fixed but name, size and checksum: mode 0644, no owner, mtime 0, a regular file.
_HEAD = b"0000644\0" + b"0000000\0" * 2
_MIDDLE = b"00000000000\0"
_TAIL = b"0" + bytes(100) + b"ustar\x0000" + bytes(64) + b"0000000\0" * 2
_FIXED_SUM = sum(_HEAD) + sum(_MIDDLE) + sum(_TAIL) + 8 * ord(" ")  # the checksum counts itself as eight spaces


def header(name: str, size: int) -> bytes:
    """The 512 bytes before a member of `size` bytes; equal to what `tarfile` writes for format USTAR."""
    raw = name.encode("ascii")
    prefix = b""
    if len(raw) > names.USTAR_NAME:
        at = raw.rfind(b"/", 0, names.USTAR_PREFIX + 1)
        prefix, raw = raw[:at], raw[at + 1 :]
    digits = b"%011o\0" % size
    checksum = _FIXED_SUM + sum(raw) + sum(prefix) + sum(digits)
    return b"%b%b%b%b%06o\0 %b%b%b" % (
        raw.ljust(100, b"\0"),
        _HEAD,
        digits,
        _MIDDLE,
        checksum,
        _TAIL,
        prefix.ljust(155, b"\0"),
        bytes(12),
    )


class _Tar:
    """The file being written: its sha256, its length, and what is gathered to be written together.

    Copying an image once more takes less than a system call for each and, where the workers are threads, a turn of the
    interpreter's lock: one thread hashes and writes a megabyte, and meanwhile another has the interpreter.
    """

    def __init__(self, fd: int) -> None:
        self.fd, self.sha256 = fd, hashlib.sha256()
        self.size = 0  # bytes, with those that are gathered
        self.gathered, self.filled = memoryview(bytearray(GATHER)), 0
        self.since = 0  # bytes written since the disk was set to work

    def add(self, name: str, data: bytes | memoryview) -> int:
        """Returns the offset of the data in the tar, bytes."""
        size = len(data)
        padding = -size % BLOCK
        whole = BLOCK + size + padding
        offset = self.size + BLOCK
        self.size += whole
        if self.filled + whole > GATHER:
            self._flush()
        if whole > GATHER:
            for piece in (header(name, size), data, _ZEROS[:padding]):
                self._write(piece)
            return offset
        gathered, begin = self.gathered, self.filled + BLOCK
        self.filled += whole
        gathered[begin - BLOCK : begin] = header(name, size)
        gathered[begin : begin + size] = data
        gathered[begin + size : self.filled] = _ZEROS[:padding]
        return offset

    def close(self) -> None:
        self._flush()
        self._write(bytes(2 * BLOCK))
        self.size += 2 * BLOCK

    def _flush(self) -> None:
        self._write(self.gathered[: self.filled])
        self.filled = 0

    def _write(self, piece: bytes | memoryview) -> None:
        self.sha256.update(piece)
        write_all(self.fd, piece)
        self.since += len(piece)
        if self.since >= AHEAD:
            begin_writeback(self.fd)
            self.since = 0


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
    path = Path(task.out, task.name)
    rows: list[dict[str, Any]] = []
    count = used = 0
    images_of, pairs = dict.fromkeys(MODALITIES, 0), dict.fromkeys(MODALITIES, 0)
    with writing_marker(Path(task.marker)) as index:
        with replacing(path) as fd:
            tar = _Tar(fd)
            for sample in samples(batch, task.subset, task.archives, task.records, task.decode, reported):
                watch.check()
                key = sample.key
                row = index_row(sample, task.split, task.name)
                for image in sample.images:
                    m = image.modality
                    member = MEMBERS[m]
                    row[f"{m}_offset"] = tar.add(f"{key}.{member.image}", image.data)
                    images_of[m] += 1
                    if image.record:
                        tar.add(f"{key}.{member.prompt}", image.record.prompt.encode())
                        pairs[m] += 1
                # A record is of one sample, of which it may describe several images.
                used += len({(image.record.file, image.record.position) for image in sample.images if image.record})
                count += 1
                tar.add(f"{key}.{METADATA_MEMBER}", _encode_json(sample.fields))
                rows.append(row)
                if len(rows) == ROWS:
                    index.write_batch(_batch(rows))
                    rows = []
            index.write_batch(_batch(rows))
            if count:
                tar.close()  # else nothing is written, and `replacing` leaves no empty file
            watch.look()
        marker = Marker(
            task.subset,
            task.split,
            task.number,
            task.name if count else None,
            tar.size,
            tar.sha256.hexdigest() if count else None,
            count,
            images_of,
            pairs,
            tuple(reported),
            used,
        )
        write_marker(index, marker)
        watch.look()
    release_memory()
    return marker


def _batch(rows: list[dict[str, Any]]) -> pa.RecordBatch:
    columns: list[pa.Array] = []
    for column in index_schema():
        name = column.name
        columns.append(pa.array([row.get(name) for row in rows], column.type))
    return pa.RecordBatch.from_arrays(columns, schema=index_schema())


def index_row(sample: Sample, split: str, shard: str) -> dict[str, Any]:
    """A sample's row of the index, but for the offsets, which only the tar knows."""
    row: dict[str, Any] = {"key": sample.key, "split": split, "shard": shard, **sample.fields}
    for image in sample.images:
        m = image.modality
        row[PROMPT_COLUMNS[m]] = image.record.prompt if image.record else None
        row[f"{m}_size"], row[f"{m}_crc32"] = len(image.data), image.crc32
        row[f"{m}_width"], row[f"{m}_height"] = image.width, image.height
    return row


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
        said = file.get_batch_with_custom_metadata(file.num_record_batches - 1).custom_metadata
    data = json.loads(said[b"marker"])
    data["reported"] = tuple(Reported(**row) for row in data["reported"])
    return Marker(**data)


def marker_rows(path: Path) -> pa.Table:
    """The index rows of one shard."""
    with pa.OSFile(str(path), "rb") as source:
        return pa.ipc.open_file(source).read_all()
