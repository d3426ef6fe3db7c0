"""The records of a subset: read from its annotation files, kept as columns, their text in a file.

A subset can have a million records, and a Python object for each would not fit. Whoever writes a shard reads the text
of its records back from the file, at the offsets that the plan holds.
"""

from __future__ import annotations

import bisect
import contextlib
import shlex
import zlib
from array import array
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from conversion import names
from conversion.annotations import AnnotationError, Form, Record, UnknownKeys
from conversion.annotations import read as read_annotations
from conversion.archives import Archive, DamagedEntry, Entry, Reader
from conversion.disk import BUFFER
from conversion.findings import LFS_POINTER, PROBLEMS, REASONS, REMEDIES, Problem, Reported
from conversion.key_guess import guess
from conversion.options import Options
from conversion.release import ANNOTATION, BARRED, SubsetFiles

LARGEST_LFS_POINTER = 1024  # bytes
CHUNK = 1 << 16  # paths that are Python objects at a time


class StoredRecord(msgspec.Struct, frozen=True, array_like=True):
    """A record as its file keeps it for the writer of the shard."""

    file: str
    position: int
    path: str
    prompt: str
    category: str | None
    gsd: float | None
    cloud_cover: float | None
    text: str


@dataclass(frozen=True)
class AnnotationFile:
    """One annotation file that was read: what was recognised of it and which records are its."""

    path: str
    form: Form
    records: int  # in the file, whether they can be used or not
    example: str | None  # the first record that can be used
    not_ascii: str | None  # the first one that can be used and holds characters beyond ASCII
    start: int  # its usable records among those of the subset
    stop: int


@dataclass(frozen=True)
class Records:
    """The usable records of a subset, one element of each column per record, file after file."""

    paths: pa.Array = field(repr=False)  # string: the image's path, as the record has it
    position: np.ndarray = field(repr=False)  # int32: in its file
    prompt_hash: np.ndarray = field(repr=False)  # int64: equal for equal prompts
    prompt_length: np.ndarray = field(repr=False)  # int32: characters
    stored: np.ndarray = field(repr=False)  # (records, 2) int64: offset and length in the file of records, bytes
    files: tuple[AnnotationFile, ...]
    released: int  # records in all files that were read, whether they can be used or not
    lacking: bool  # whether there may be more that could not be read

    def file_of(self, row: int) -> str:
        return self.files[bisect.bisect_right(self.files, row, key=lambda file: file.start) - 1].path

    def name_of(self, row: int) -> str:
        """A record, for a message."""
        return f"record {self.position[row]} of {self.file_of(row)}"

    @property
    def hints(self) -> list[tuple[int, int, str | None]]:
        """(first row, the one after the last, the modality or weather that the file's name tells)."""
        return [(file.start, file.stop, names.hint(file.path)) for file in self.files]


class RecordStore:
    """Collects the records of a subset, one annotation file after the other. Their text goes to `sink` at once."""

    def __init__(self, sink: BinaryIO | None) -> None:
        self._sink, self._written = sink, 0
        self._paths: list[pa.Array] = []
        self._offset, self._prompt_hash = array("q"), array("q")
        self._length, self._prompt_length, self._position = array("i"), array("i"), array("i")
        self._files: list[AnnotationFile] = []
        self.reported: list[Reported] = []
        self.lacking = False  # whether there may be more that could not be read

    @contextlib.contextmanager
    def file(self, path: str, form: Form) -> Iterator[_OpenFile]:
        """Takes the records of one annotation file: all of them or, if the block ends in an exception, none."""
        start, opened = len(self._offset), _OpenFile(self, path)
        try:
            yield opened
        except BaseException:
            for column in (self._offset, self._prompt_hash, self._length, self._prompt_length, self._position):
                del column[start:]
            raise
        self._paths += [*opened.chunks, pa.array(opened.paths, pa.string())]
        self._files.append(
            AnnotationFile(path, form, opened.count, opened.example, opened.not_ascii, start, len(self._offset))
        )
        self.reported += opened.reported
        self.lacking |= opened.lacking

    @property
    def has_last(self) -> bool:
        """Whether the file that was taken last has usable records."""
        return self._files[-1].stop > self._files[-1].start

    def add(self, record: StoredRecord) -> None:
        data = msgspec.msgpack.encode(record)
        if self._sink:
            self._sink.write(data)
        self._offset.append(self._written)
        self._length.append(len(data))
        self._prompt_length.append(len(record.prompt))
        self._prompt_hash.append(hash(record.prompt))
        self._position.append(record.position)
        self._written += len(data)

    def records(self) -> Records:
        """All that was collected. Takes no more records afterwards."""
        return Records(
            paths=pa.concat_arrays(self._paths) if self._paths else pa.array([], pa.string()),
            position=np.asarray(self._position),
            prompt_hash=np.asarray(self._prompt_hash),
            prompt_length=np.asarray(self._prompt_length),
            stored=np.stack([np.asarray(self._offset), np.asarray(self._length)], axis=1).astype(np.int64),
            files=tuple(self._files),
            released=sum(file.records for file in self._files),
            lacking=self.lacking,
        )


class _OpenFile:
    """An annotation file whose records are on their way into the store."""

    def __init__(self, store: RecordStore, path: str) -> None:
        self.store, self.path = store, path
        self.chunks: list[pa.Array] = []
        self.paths: list[str] = []  # that are in no chunk yet
        self.reported: list[Reported] = []
        self.count = 0
        self.example: str | None = None
        self.not_ascii: str | None = None
        self.lacking = False

    def add(self, record: Record) -> None:
        self.count += 1
        if record.problem:
            self.lacking |= record.problem == "invalid_json"  # perhaps all that follows
            row = Reported("record", self.path, record.position, record.problem, record.detail or "")
            self.reported.append(row)
            return
        self.example = self.example or record.text
        if self.not_ascii is None and not record.text.isascii():
            self.not_ascii = record.text
        stored = StoredRecord(
            self.path,
            record.position,
            record.path or "",
            record.prompt or "",
            record.category,
            record.gsd,
            record.cloud_cover,
            record.text,
        )
        self.store.add(stored)
        self.paths.append(stored.path)
        if len(self.paths) == CHUNK:
            self.chunks.append(pa.array(self.paths, pa.string()))
            self.paths = []


@dataclass(frozen=True)
class _Source:
    """An annotation file of the release and where it is."""

    path: str  # within the subset
    archive: Archive
    row: dict[str, Any]  # its row in the archive's table of entries

    @property
    def label(self) -> str:
        return f"{self.archive.label}/{self.row['name']}"

    def is_copy_of(self, other: _Source) -> bool:
        """Whether both are known to have the same content; of files in a folder nothing tells it."""
        return self.row["crc"] is not None and all(self.row[name] == other.row[name] for name in ("size", "crc"))


def read_records(
    files: SubsetFiles, options: Options, path: Path | None = None
) -> tuple[Records, list[Reported], list[Problem]]:
    """The usable records of a subset; the records that are not; the annotation files that are not.

    `path`: the file that the records' text is written to, if any.
    """
    problems: list[Problem] = []
    sources = _sources(files)
    taken: dict[str, _Source] = {}  # that could be read, by what the report calls them
    used: dict[str, _Source] = {}  # with a record that can be used, by the path of the file that each is or stands for
    with open(path, "wb", BUFFER) if path else contextlib.nullcontext() as sink:
        store = RecordStore(sink)
        for source, original in _in_order(sources):
            name = source.path
            if original and original.path in used:
                problems.append(_copy(source, used[original.path], files.name))
                continue
            if name in taken:
                if source.is_copy_of(taken[name]):
                    detail = f"this annotation file has the name and the content of {taken[name].label}"
                    problems.append(Problem(source.label, "same_name", detail, "One of the two is enough", files.name))
                    continue
                name = source.label  # each zip of a modality has its own
            if problem := _damage(source, files.name) or _take(store, source, name, options, files):
                store.lacking = True
                if problem.code not in BARRED:  # which are named with their archive's other files
                    problems.append(problem)
                continue
            taken[name] = source
            if store.has_last:
                used[source.path] = source
                if original:
                    used[original.path] = source
                    problems.append(_stand_in(source, original, files.name))
    if not sources and not options.keep_unprompted:  # which says that there may be none
        upstreams = names.upstreams_annotations(files.name)
        detail = f"no annotation file was found; upstream calls it {' or '.join(upstreams)}"
        remedy = "Put it next to the images, or give its folder with --annotations"
        problems.append(Problem(files.name, "no_annotations", detail, remedy, files.name))
    return store.records(), store.reported, problems


def _sources(files: SubsetFiles) -> list[_Source]:
    sources = []
    for part in files.parts:
        table = part.entries.filter(pc.equal(part.entries["type"], ANNOTATION))
        sources += [_Source(row["source"], part.archive, row) for row in table.to_pylist()]
    return sources


def _in_order(sources: list[_Source]) -> list[tuple[_Source, _Source | None]]:
    """The annotation files in the order in which their records count, each with the one that it is a copy of by its
    name, if that is here too: upstream's own names first, copies last."""
    sources = sorted(
        sources,
        key=lambda source: (
            not names.is_upstreams(source.path.rsplit("/", 1)[-1]),
            source.path.count("/"),
            source.path,
            source.archive.label,
        ),
    )
    by_path = {source.path.casefold(): source for source in reversed(sources)}
    originals = [by_path.get((names.original_of(source.path) or "").casefold()) for source in sources]
    return sorted(zip(sources, originals, strict=True), key=lambda pair: pair[1] is not None)


def _copy(source: _Source, used: _Source, subset: str) -> Problem:
    same = _have_same_content(source, used)
    detail = (
        f"by its name it is a copy of {used.label}, which is used; their content {'is the same' if same else 'differs'}"
    )
    remedy = "Remove it" if same else "Remove the one that you do not want; to use both, rename this one"
    return Problem(source.label, "annotation_copy", detail, remedy, subset)


def _stand_in(source: _Source, original: _Source, subset: str) -> Problem:
    detail = f"by its name it is a copy of {original.label}, of which no record can be used; this file is used instead"
    return Problem(source.label, "annotation_copy", detail, "Repair or remove the other one", subset)


def _have_same_content(source: _Source, other: _Source) -> bool:
    """Whether two files hold the same bytes. Reads those of which no archive tells the CRC32."""
    if source.row["size"] != other.row["size"]:
        return False
    try:
        return _crc(source) == _crc(other)
    except DamagedEntry:
        return False


def _crc(source: _Source) -> int:
    if source.row["crc"] is not None:
        return int(source.row["crc"])
    crc = 0
    with _stream(source) as stream:
        while data := stream.read(BUFFER):
            crc = zlib.crc32(data, crc)
    return crc


def _stream(source: _Source) -> BinaryIO:
    return Reader(source.archive).stream(Entry.of(source.row))


def _damage(source: _Source, subset: str) -> Problem | None:
    """Why an annotation file cannot be read, as far as that is known before it is opened."""
    if code := source.row["problem"]:
        remedy = REMEDIES[code] if code != "not_a_file" else "Put the file itself there"  # that one is for images
        return Problem(source.label, code, f"this annotation file is not read: {REASONS[code]}", remedy, subset)
    if _is_lfs_pointer(source):
        code = "lfs_pointer"
        return Problem(source.label, code, PROBLEMS[code], REMEDIES[code], subset)
    return None


def _is_lfs_pointer(source: _Source) -> bool:
    if source.row["size"] > LARGEST_LFS_POINTER:
        return False
    with contextlib.suppress(DamagedEntry), _stream(source) as stream:
        return stream.read(len(LFS_POINTER)) == LFS_POINTER
    return False


def _take(store: RecordStore, source: _Source, name: str, options: Options, files: SubsetFiles) -> Problem | None:
    """Read an annotation file into the store, or say why none of its records can be used."""

    def open_stream() -> BinaryIO:
        return _stream(source)

    try:
        form, records = read_annotations(open_stream, options.image_key, options.prompt_key, label=source.label)
        with store.file(name, form) as file:
            for record in records:
                file.add(record)
    except AnnotationError as error:
        return _unreadable(source, error.detail, error.remedy, files, error.unknown)
    except DamagedEntry as error:
        return _unreadable(source, error.detail, "Download it again", files)
    return None


def _unreadable(
    source: _Source, why: str, remedy: str, files: SubsetFiles, unknown: UnknownKeys | None = None
) -> Problem:
    detail = f"none of its records is used: {why}"
    if unknown is None:
        return Problem(source.label, "unreadable_annotations", detail, remedy, files.name)
    keys = guess(files, source.path, unknown)
    if keys.options:
        remedy = f"Try {shlex.join(keys.options)}"
    return Problem(source.label, "unreadable_annotations", detail, remedy, files.name, keys.lines, keys.options)
