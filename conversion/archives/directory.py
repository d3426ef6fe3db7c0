"""The central directory of a zip, read into columns: no Python object for an entry."""

from __future__ import annotations

import struct
from array import array
from collections.abc import Iterator

import numpy as np
import pyarrow as pa

from conversion.archives.end import Directory
from conversion.archives.entry_names import checked_names, decode
from conversion.archives.headers import (
    ENCRYPTED,
    FULL,
    LOCAL,
    LOCAL_SIGNATURE,
    MASKED,
    PATCHED,
    STRONGLY_ENCRYPTED,
    unicode_path,
)
from conversion.archives.model import (
    AGAIN,
    DEFLATED,
    PROBLEM_NUMBER,
    SCHEMA,
    STORED,
    ArchiveError,
    Block,
    MiB,
    problem_column,
)
from conversion.archives.sources import DEFLATE_RATIO, Source, read_at
from conversion.archives.wrapped import unwrapped

LATEST_VERSION = 63  # of the format, in tenths: the last that APPNOTE.TXT defines
BLOCK = 4 * MiB  # of a directory, read at once; an entry in it takes at most 0.2 MB
_CENTRAL = np.dtype(
    [
        ("signature", "S4"),
        ("made_by", "<u2"),
        ("needed", "u1"),
        ("needs", "u1"),
        ("flags", "<u2"),
        ("method", "<u2"),
        ("time", "<u4"),
        ("crc", "<u4"),
        ("packed", "<u4"),
        ("size", "<u4"),
        ("name", "<u2"),
        ("extra", "<u2"),
        ("comment", "<u2"),
        ("disk", "<u2"),
        ("internal", "<u2"),
        ("external", "<u4"),
        ("offset", "<u4"),
    ]
)
_CENTRAL_SIGNATURE = b"PK\1\2"


def read_blocks(source: Source, directory: Directory, label: str) -> Iterator[Block]:
    """Read the directory block by block into one buffer, so that memory stays small and in the processor's cache."""
    buffer = bytearray(min(BLOCK, directory.size))
    view, position, end, held, intact = memoryview(buffer), directory.start, directory.start + directory.size, 0, 0
    while position < end or held:
        filled = held + source.into(view[held : held + min(end - position, len(buffer) - held)], position)
        position += filled - held
        starts, used = _walk_directory(buffer, filled)
        fields = _gather(np.frombuffer(buffer, np.uint8), starts, _CENTRAL.itemsize).view(_CENTRAL).reshape(-1)
        bad = np.flatnonzero(fields["signature"] != _CENTRAL_SIGNATURE)
        if (not intact and buffer.startswith(b"PK\6\x08")) or np.any(fields["flags"] & MASKED):
            remedy = "Unzip it with its password and give the folder"
            raise ArchiveError(label, "its directory is encrypted", remedy)
        intact += int(bad[0]) if len(bad) else len(starts)
        if len(bad) or not used:
            raise ArchiveError(label, f"its directory is damaged after {intact} entries", AGAIN)
        yield _block(buffer, starts, fields)
        held = filled - used
        buffer[:held] = buffer[used:filled]


def _walk_directory(raw: bytearray, end: int) -> tuple[np.ndarray, int]:
    """Where each whole entry begins in `raw[:end]`, int64, and where the last one ends."""
    # All signatures at once. Where each entry's lengths lead to the next signature, that is what the walk would find.
    data = np.frombuffer(raw, np.uint8, end)
    fixed = _CENTRAL.itemsize
    rows = np.flatnonzero(data[: max(end - fixed + 1, 0)] == 0x50)
    rows = rows[(data[rows + 1] == 0x4B) & (data[rows + 2] == 1) & (data[rows + 3] == 2)]
    if len(rows) and rows[0] == 0:
        following = rows + fixed + _gather(data, rows + 28, 6).view("<u2").sum(axis=1, dtype=np.int64)
        if np.array_equal(following[:-1], rows[1:]):
            return (rows, int(following[-1])) if following[-1] <= end else (rows[:-1], int(rows[-1]))
    starts = array("q")
    append, lengths = starts.append, struct.Struct("<3H").unpack_from
    start, last = 0, end - fixed
    while start <= last:
        following = start + fixed + sum(lengths(raw, start + 28))
        if following > end:
            break
        append(start)
        start = following
    return np.array(starts, np.int64), start


def _block(raw: bytearray, starts: np.ndarray, fields: np.ndarray) -> Block:
    data = np.frombuffer(raw, np.uint8)
    name_start = starts + _CENTRAL.itemsize
    name_end = name_start + fields["name"]
    extra_end = name_end + fields["extra"]
    packed, size, offset = (fields[column].astype(np.int64) for column in ("packed", "size", "offset"))
    wide_start, wide_length, unicode, overrun = _extra_fields(data, name_end, extra_end)
    contradicts = _widen(data, (size, packed, offset), wide_start, wide_length) | overrun
    kind = fields["external"] >> np.uint32(28)
    on_unix = np.isin(fields["made_by"] >> 8, (3, 19))  # Unix and macOS write the file's type
    method, compressed = fields["method"], fields["method"] == DEFLATED
    problem = np.full(len(starts), -1, np.int8)
    for code, holds in (
        ("bad_directory_entry", contradicts | (fields["flags"] & PATCHED != 0)),  # a patch of what is nowhere
        ("unsupported_compression", ~compressed & (method != STORED)),
        ("unsupported_version", fields["needed"] > LATEST_VERSION),
        ("encrypted", fields["flags"] & (ENCRYPTED | STRONGLY_ENCRYPTED) != 0),
        ("not_a_file", on_unix & ~np.isin(kind, (0, 4, 8, 10))),
        ("link", kind == 10),
    ):
        problem[holds] = PROBLEM_NUMBER[code]
    paths = {}
    for row in np.flatnonzero(unicode).tolist():
        raw_name, extra = raw[name_start[row] : name_end[row]], raw[name_end[row] : extra_end[row]]
        if (path := unicode_path(bytes(raw_name), bytes(extra))) is not None:
            paths[row] = path
    columns = {
        "offset": offset,
        "packed": packed,
        "size": size,
        "crc": fields["crc"].copy(),
        "method": method.copy(),
        "flags": fields["flags"].copy(),
        "header": (fields["name"] + np.uint32(LOCAL.size)).astype(np.int32),
        "problem": problem,
        "folder": on_unix & (kind == 4),
    }
    return Block(_slices(raw, name_start, name_end), columns, paths)


def entry_table(blocks: list[Block], directory: Directory, label: str, source: Source | None) -> pa.Table:
    """The table of all entries. `source`: where their local headers can be looked at, None where they cannot."""
    count = sum(len(block.names) for block in blocks)
    if count != directory.count if directory.wide else (count - directory.count) % 65536:
        raise ArchiveError(label, f"its directory lists {count} entries, its end record says {directory.count}", AGAIN)
    if not count:
        return SCHEMA.empty_table()
    keeps, unsafes, texts = zip(*(checked_names(text) for text in decode(blocks)), strict=True)
    # Taken out of the blocks, so that a column is not held twice.
    columns = {name: np.concatenate([block.columns.pop(name) for block in blocks]) for name in list(blocks[0].columns)}
    columns |= zip(("offset", "packed", "size"), unwrapped(columns, blocks, directory, source), strict=True)
    offset, packed, size, problem = (columns[name] for name in ("offset", "packed", "size", "problem"))
    possible = np.where(columns["method"] == DEFLATED, packed * DEFLATE_RATIO + DEFLATE_RATIO >= size, packed == size)
    problem[~possible & (problem < 0)] = PROBLEM_NUMBER["size_mismatch"]
    for code, rows in _conflicts(offset, offset + columns["header"] + packed, directory.start, source):
        problem[rows[problem[rows] < 0]] = PROBLEM_NUMBER[code]
    problem[np.concatenate(unsafes)] = PROBLEM_NUMBER["unsafe_name"]
    keep = np.concatenate(keeps) & ~columns["folder"]
    table = pa.Table.from_arrays(
        [
            pa.chunked_array(texts),
            pa.nulls(count, pa.binary()),
            *(pa.array(columns[name]) for name in ("offset", "packed", "size", "crc", "method", "flags")),
            problem_column(problem),
        ],
        schema=SCHEMA,
    )
    return table if keep.all() else table.filter(pa.array(keep))


def _gather(data: np.ndarray, starts: np.ndarray, width: int) -> np.ndarray:
    """Rows of `width` bytes at `starts`, without an index for every byte."""
    if not len(starts):
        return np.empty((0, width), np.uint8)
    return np.lib.stride_tricks.sliding_window_view(data, width)[starts]


def _slices(raw: bytearray, begins: np.ndarray, ends: np.ndarray) -> pa.Array:
    """Slices of a buffer as a binary array: the buffer is read as slice, gap, slice, gap..., the slices are taken."""
    offsets = np.stack([begins, ends], axis=1).reshape(-1).astype(np.int32)
    alternating = pa.Array.from_buffers(
        pa.binary(), len(offsets) - 1, [None, pa.py_buffer(offsets), pa.py_buffer(raw)], null_count=0
    )
    return alternating.take(pa.array(np.arange(0, len(offsets) - 1, 2)))


def _extra_fields(data: np.ndarray, begins: np.ndarray, ends: np.ndarray) -> tuple[np.ndarray, ...]:
    """Walk the extra fields of all entries at once, one field a round.

    Returns where each entry's zip64 values begin (-1: none) and their length in bytes; and masks: which entries have a
    Unicode path, and which a field that is longer than what holds it.
    """
    wide_start, wide_length = np.full(len(begins), -1, np.int64), np.zeros(len(begins), np.int64)
    unicode, overrun = np.zeros(len(begins), bool), np.zeros(len(begins), bool)
    rows = np.flatnonzero(begins + 4 <= ends)
    field = begins[rows]
    while len(rows):
        head = _gather(data, field, 4).view("<u2")
        kind, length = head[:, 0], head[:, 1].astype(np.int64)
        unicode[rows[kind == 0x7075]] = True
        wide = (kind == 1) & (wide_start[rows] < 0)
        wide_start[rows[wide]] = field[wide] + 4
        wide_length[rows[wide]] = np.minimum(length[wide], ends[rows[wide]] - field[wide] - 4)
        field = field + 4 + length
        overrun[rows[field > ends[rows]]] = True
        going = field + 4 <= ends[rows]
        rows, field = rows[going], field[going]
    return wide_start, wide_length, unicode, overrun


def _widen(data: np.ndarray, columns: tuple[np.ndarray, ...], start: np.ndarray, length: np.ndarray) -> np.ndarray:
    """Put zip64 values in the place of full 32-bit fields, in place. Returns a mask: entries that lack them."""
    bad = np.zeros(len(start), bool)
    start, left = start.copy(), length.copy()
    for column in columns:
        full = (column == FULL) & (start >= 0)
        bad |= full & (left < 8)
        rows = np.flatnonzero(full & (left >= 8))
        values = _gather(data, start[rows], 8).view("<u8").reshape(-1)
        huge = values >= 1 << 62
        bad[rows[huge]] = True
        column[rows] = np.where(huge, 0, values).astype(np.int64)
        start[rows] += 8
        left[rows] -= 8
    return bad


def _conflicts(
    offset: np.ndarray, ends: np.ndarray, limit: int, source: Source | None
) -> Iterator[tuple[str, np.ndarray]]:
    """Rows that claim bytes of others, by problem. The rest share no byte: the work of reading all is bounded.

    A damaged offset often points into a whole entry: where no local header stands, nothing is overlapped.
    """
    order = np.argsort(offset, kind="stable")
    first, second = _overlapping(offset, ends, limit, order)
    if source and len(first):
        rows = np.unique(np.concatenate([first, second]))
        real = [0 <= offset[row] < limit and read_at(source, int(offset[row]), 4) == LOCAL_SIGNATURE for row in rows]
        unreal = rows[~np.array(real)]
        yield "bad_local_header", unreal
        first, _ = _overlapping(offset, ends, limit, order[~np.isin(order, unreal)])
    yield "overlap", first


def _overlapping(offset: np.ndarray, ends: np.ndarray, limit: int, order: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Of the rows in `order`, by offset: those that reach into the next one or past `limit`, and these next ones."""
    following = np.minimum(np.append(offset[order[1:]], limit), limit)
    reaching = np.flatnonzero(ends[order] > following)
    return order[reaching], order[reaching[reaching + 1 < len(order)] + 1]
