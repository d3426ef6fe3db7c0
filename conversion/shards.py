"""One shard: a function of one batch of the plan and the source's bytes.

The bytes of an image go from the source to the tar once. On the way their CRC is checked, their structure is looked at
and the shard's sha256 is fed. A rejected image is left out, a sample without images dropped. The shard is written under
a temporary name, synced and renamed; then a marker that says what came out is written the same way. A shard counts as
done when its marker is there; a task of such a shard does nothing.

Index, manifest and report are made from the markers alone.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import secrets
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import msgspec
import pyarrow as pa

from conversion import images, names, prompts
from conversion.archives import Archive, DamagedEntry, Reader
from conversion.errors import OutputError
from conversion.execution import Run, Watch, check_place, check_stop
from conversion.images import RejectedImage
from conversion.plan import BLOCK, Reported, StoredRecord, read_batch
from mmm_rs import MEMBERS, METADATA_MEMBER, MODALITIES, PROMPT_COLUMNS, index_schema

# What a file system says that cannot rename over a file.
NO_REPLACE = (errno.EEXIST, errno.EPERM, errno.EACCES, errno.EINVAL, errno.ENOTSUP, errno.ENOSYS)
TEMPORARY = f".*.{'[0-9a-f]' * 16}.tmp"  # files that `replacing` writes, before they have their name

_decode_record = msgspec.msgpack.Decoder(StoredRecord).decode
_encode_json = msgspec.json.Encoder().encode
_ZEROS = bytes(BLOCK)
ROWS = 1 << 10  # samples that are Python objects at a time, of perhaps a hundred thousand small ones in a shard
GATHER = 1 << 20  # bytes hashed and written at a time; blocks of 0.5 to 1 MB are the fastest
AHEAD = 1 << 24  # bytes after which the disk is set to work, so that the sync of a shard at its end has little to do


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
class SampleImage:
    modality: str
    source: str
    data: memoryview  # valid until the next sample
    crc32: int
    width: int  # pixels
    height: int  # pixels
    record: StoredRecord | None


@dataclass(frozen=True)
class Sample:
    """What is published of one place: its images in the order rgb, nir, sar, and the fields of its JSON member."""

    key: str
    images: tuple[SampleImage, ...]
    fields: dict[str, Any]


def samples(batch: pa.RecordBatch, subset: str, archives: tuple[Archive, ...], records: str, decode: bool,
            reported: list[Reported]) -> Iterator[Sample]:  # fmt: skip
    """Read, check and describe the samples of one shard. What is rejected is appended to `reported`."""
    modalities = [m for m in MODALITIES if f"{m}_source" in batch.schema.names]
    with contextlib.ExitStack() as stack:
        # One reader a modality, so that the buffers of a sample's images are valid together.
        readers = {(part, m): stack.enter_context(Reader(archive))
                   for part, archive in enumerate(archives) for m in modalities}  # fmt: skip
        texts = os.open(records, os.O_RDONLY)
        stack.callback(os.close, texts)
        for row, key, columns in _planned(batch):
            check_stop()
            found: list[SampleImage] = []
            unpublished: list[StoredRecord] = []
            for m in modalities:
                source = columns[f"{m}_source"][row]
                if source is None:
                    continue
                record, at = None, columns[f"{m}_record"][row]
                if at is not None:
                    record = _decode_record(os.pread(texts, columns[f"{m}_record_length"][row], at))
                try:
                    data, crc32 = readers[columns[f"{m}_part"][row], m].read(
                        offset=columns[f"{m}_offset"][row],
                        packed=columns[f"{m}_packed"][row],
                        size=columns[f"{m}_size"][row],
                        crc=columns[f"{m}_crc"][row],
                        method=columns[f"{m}_method"][row],
                        file=columns[f"{m}_file"][row],
                        name=source,
                    )
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
                    reported.append(Reported("record", record.file, record.position, "image_rejected",
                                             f"{record.path}: its image is not published"))  # fmt: skip
            if found:
                yield Sample(key, tuple(found), fields(subset, found))


def _planned(batch: pa.RecordBatch) -> Iterator[tuple[int, str, dict[str, list[Any]]]]:
    """Each sample's key, and where its columns are: a row of lists that hold `ROWS` samples at a time."""
    for start in range(0, batch.num_rows, ROWS):
        some = batch.slice(start, ROWS)
        columns = {name: some.column(name).to_pylist() for name in some.schema.names}
        for row, key in enumerate(columns["key"]):
            yield row, key, columns


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
    return {
        "subset": subset,
        "source": _by_modality(found, lambda image: image.source),
        "caption": parts.caption,
        "category": (record.category if record else None) or parts.category,
        "weather": weather,
        "satellite": parts.satellite,
        "gsd": gsd,
        "gsd_level": level,
        "gsd_level_derived": derived if level else None,
        "cloud_cover": record.cloud_cover if record else None,
        "annotation": _by_modality(found, lambda image: image.record.text if image.record else None),
    }


def _by_modality(found: list[SampleImage], value: Any) -> dict[str, str | None]:
    result: dict[str, str | None] = dict.fromkeys(MODALITIES)
    for image in found:
        result[image.modality] = value(image)
    return result


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
        raw.ljust(100, b"\0"), _HEAD, digits, _MIDDLE, checksum, _TAIL, prefix.ljust(155, b"\0"), bytes(12)
    )  # fmt: skip


class _Tar:
    """The file being written: its sha256, its length, and what is gathered to be written together.

    Copying an image once more takes less than a system call for each and, where the workers are threads, a turn of the
    interpreter's lock: one thread hashes and writes a megabyte, and meanwhile another has the interpreter.
    """

    def __init__(self, fd: int) -> None:
        self.fd, self.size, self.sha256 = fd, 0, hashlib.sha256()
        self.gathered, self.filled = memoryview(bytearray(GATHER)), 0
        self.since = 0  # bytes written since the disk was set to work

    def add(self, name: str, data: bytes | memoryview) -> int:
        """Returns the offset of the data in the tar, bytes."""
        size = len(data)
        self._put(header(name, size))
        offset = self.size + BLOCK
        self._put(data)
        self._put(_ZEROS[: -size % BLOCK])
        self.size = offset + size + -size % BLOCK
        return offset

    def close(self) -> None:
        self._put(bytes(2 * BLOCK))
        self._write(self.gathered[: self.filled])
        self.size += 2 * BLOCK

    def _put(self, piece: bytes | memoryview) -> None:
        end = self.filled + len(piece)
        if end > GATHER:
            self._write(self.gathered[: self.filled])
            self.filled, end = 0, len(piece)
            if end > GATHER:
                self._write(piece)
                return
        self.gathered[self.filled : end] = piece
        self.filled = end

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
        return {"name": self.name, "subset": self.subset, "split": self.split, "bytes": self.bytes,
                "sha256": self.sha256, "samples": self.samples, "pairs": self.pairs}  # fmt: skip


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
    written: list[pa.RecordBatch] = []
    images_of, pairs, used = dict.fromkeys(MODALITIES, 0), dict.fromkeys(MODALITIES, 0), set()
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
                    used.add((image.record.file, image.record.position))
            tar.add(f"{key}.{METADATA_MEMBER}", _encode_json(sample.fields))
            rows.append(row)
            if len(rows) == ROWS:
                written.append(_batch(rows))
                rows = []
        written.append(_batch(rows))
        count = sum(some.num_rows for some in written)
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
        len(used),
    )
    watch.look()
    write_marker(Path(task.marker), marker, written)
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


def write_marker(path: Path, marker: Marker, index: list[pa.RecordBatch]) -> None:
    """`index`: the rows of the shard's samples, written a batch at a time: of small samples there are many."""
    schema = index_schema().with_metadata({"marker": json.dumps(asdict(marker))})
    with (
        replacing(path) as fd,
        open(fd, "wb", closefd=False) as sink,
        pa.ipc.new_file(sink, schema) as writer,
    ):
        for some in index:
            writer.write_batch(some)


def read_marker(path: Path) -> Marker:
    with pa.OSFile(str(path), "rb") as source:
        data = json.loads(pa.ipc.open_file(source).schema.metadata[b"marker"])
    data["reported"] = tuple(Reported(**row) for row in data["reported"])
    return Marker(**data)


def marker_rows(path: Path) -> pa.Table:
    """The index rows of one shard."""
    with pa.OSFile(str(path), "rb") as source:
        return pa.ipc.open_file(source).read_all().replace_schema_metadata(None)


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[int]:
    """A file descriptor of a temporary file beside `path`, which takes its name at the end; nothing is left on failure.

    An empty file does not take the name.

    Raises OutputError for whatever the file system refuses.
    """
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}.tmp")  # unlike any on another machine
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | getattr(os, "O_CLOEXEC", 0), 0o644)
        try:
            yield fd
            sync(fd)
            empty = os.fstat(fd).st_size == 0
        finally:
            os.close(fd)
        if empty:
            os.unlink(temporary)
            return
        _rename(temporary, path)
        _sync_folder(path.parent)
    except OSError as error:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise output_error(path, error) from error
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise


def write_all(fd: int, data: bytes | memoryview) -> None:
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(fd, rest) :]


def begin_writeback(fd: int) -> None:
    """Let the disk begin with what was written to a file, without waiting for it, and take what is on disk out of the
    page cache, which has better uses. Linux does both when it hears that nobody will read the file soon."""
    if hasattr(os, "posix_fadvise"):
        with contextlib.suppress(OSError):
            os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)


def sync(fd: int) -> None:
    try:
        os.fsync(fd)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP, errno.ENOSYS):  # a file system without fsync
            raise


def sync_path(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY)
    try:
        sync(fd)
    finally:
        os.close(fd)


def _sync_folder(folder: Path) -> None:
    """A rename is safe when its folder is on disk. Some file systems do not let a folder be opened: nothing is to be
    done there."""
    with contextlib.suppress(PermissionError, IsADirectoryError):
        sync_path(folder)


def _rename(temporary: Path, path: Path) -> None:
    try:
        os.replace(temporary, path)
    except OSError as error:
        if error.errno not in NO_REPLACE or not path.exists():
            raise
        os.unlink(path)  # a kill here leaves no file of this name, and the next run writes it
        os.rename(temporary, path)


def output_error(path: Path, error: OSError | NotImplementedError) -> OutputError:
    """What the file system refused, with the remedy."""
    remedy = {
        errno.ENOSPC: "Free disk space",
        errno.EDQUOT: "Free space in your quota",
        errno.EFBIG: "Choose a disk that takes files of this size, or a smaller --shard-size",
        errno.EROFS: "Choose an output folder that can be written",
        errno.EACCES: "Mend the permissions of the folder",
        errno.EPERM: "Mend the permissions of the folder",
    }.get(getattr(error, "errno", None) or 0, "Mend the disk or choose another output folder")
    why = getattr(error, "strerror", None) or error
    return OutputError(f"{path}: cannot be written: {why}. {remedy} and run the same command again")
