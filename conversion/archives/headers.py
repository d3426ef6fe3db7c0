"""Local headers, which stand before each entry's data and repeat what the directory says."""

from __future__ import annotations

import contextlib
import re
import struct
import zlib
from collections.abc import Iterator

from conversion.archives import sources
from conversion.archives.model import DEFLATED, STORED, DamagedEntry, Entry, explain
from conversion.archives.sources import Source, checked, inflated, largest_inflated, read_at, read_pieces

LOCAL = struct.Struct("<4s5H3I2H")
LOCAL_SIGNATURE = b"PK\3\4"
ENCRYPTED, DESCRIPTOR, PATCHED, STRONGLY_ENCRYPTED, UTF8, MASKED = 1, 1 << 3, 1 << 5, 1 << 6, 1 << 11, 1 << 13
FULL = 0xFFFFFFFF  # of a 32-bit field: the value is in the zip64 extra field


def data_offset(source: Source, entry: Entry) -> int:
    """Where the entry's data begins. Raises DamagedEntry where its header contradicts the directory."""
    head = read_at(source, entry.offset, LOCAL.size)
    if len(head) < LOCAL.size:
        raise DamagedEntry("truncated", "the file ends before this entry")
    if not head.startswith(LOCAL_SIGNATURE):
        raise DamagedEntry("bad_local_header", "there is no entry where the directory says")
    length = sum(LOCAL.unpack(head)[9:])
    head += read_at(source, entry.offset + LOCAL.size, length)
    if len(head) < LOCAL.size + length:
        raise DamagedEntry("truncated", "the file ends within this entry's header")
    check_header(head, entry)
    return entry.offset + len(head)


def data_chunks(source: Source, entry: Entry) -> Iterator[bytes]:
    """The entry's bytes, inflated, in chunks of at most CHUNK; the last one only after the CRC32 has proved right.

    Raises DamagedEntry.
    """
    pieces = read_pieces(source, data_offset(source, entry), entry.packed)
    if entry.method == DEFLATED:
        pieces = inflated(pieces, entry.size, largest_inflated(entry.packed))
    else:
        check_stored(entry)
    return checked(pieces, entry.crc)


def check_stored(entry: Entry) -> None:
    """Raise DamagedEntry unless the entry is stored as it is; a deflated one is not brought here."""
    if entry.method != STORED:
        raise DamagedEntry("bad_local_header", explain("unsupported_compression", entry.method))
    if entry.packed != entry.size:
        raise DamagedEntry("size_mismatch", f"{entry.packed} bytes are stored, {entry.size} are stated")


def header_names(source: Source, offset: int, name: bytes) -> bool:
    """Whether a local header with this raw name stands at an offset."""
    head = read_at(source, offset, LOCAL.size + len(name))
    if len(head) < LOCAL.size + len(name) or not head.startswith(LOCAL_SIGNATURE):
        return False
    return LOCAL.unpack_from(head)[9] == len(name) and head.endswith(name)


def check_header(head: bytes | bytearray, entry: Entry) -> None:
    """Raise DamagedEntry where a local header contradicts the directory. `head` starts with the whole header."""
    signature, _, flags, method, _, _, crc, packed, size, name_length, extra_length = LOCAL.unpack_from(head)
    if signature != LOCAL_SIGNATURE:
        raise DamagedEntry("bad_local_header", "there is no entry where the directory says")
    if method != entry.method:
        raise DamagedEntry("bad_local_header", f"its header says method {method}, the directory {entry.method}")
    if flags & ENCRYPTED:
        raise DamagedEntry("bad_local_header", "its header says that it is encrypted, the directory does not")
    name_end = LOCAL.size + name_length
    extra = bytes(head[name_end : name_end + extra_length])
    # With a descriptor the values follow the data; some writers leave them out altogether.
    if not flags & DESCRIPTOR and (crc, packed, size) != (0, 0, 0):
        if FULL in (packed, size):
            wide = _extra(extra, 1) or b""
            values = iter(struct.unpack(f"<{len(wide) // 8}Q", wide[: len(wide) // 8 * 8]))
            size = next(values, size) if size == FULL else size
            packed = next(values, packed) if packed == FULL else packed
        # Without zip64 it states sizes modulo 2**32.
        modulo = (entry.crc, entry.packed % sources.WRAP, entry.size % sources.WRAP)
        if (crc, packed, size) not in ((entry.crc, entry.packed, entry.size), modulo):
            raise DamagedEntry(
                "bad_local_header",
                f"its header says {packed} bytes, {size} inflated, CRC32 {crc:08x}; "
                f"the directory says {entry.packed}, {entry.size}, {entry.crc:08x}",
            )
    if entry.name:
        raw = bytes(head[LOCAL.size : name_end])
        if not any(_same_end(name, entry.name) for name in _readings(raw, extra)):
            raise DamagedEntry("bad_local_header", f"its header names another file, {raw[:200]!r}")


def _same_end(path: str, other: str) -> bool:
    """Whether two paths are alike from their last part back, as far as the shorter of them goes."""
    parts, others = ([part for part in re.split(r"[/\\]", text) if part not in ("", ".")] for text in (path, other))
    shorter = min(len(parts), len(others))
    return shorter > 0 and parts[-shorter:] == others[-shorter:]


def _readings(raw: bytes, extra: bytes) -> Iterator[str]:
    """The texts that a raw name can be read as."""
    if path := unicode_path(raw, extra):
        yield path
    for encoding in ("utf-8", "gb18030", "cp437"):
        with contextlib.suppress(UnicodeDecodeError):
            yield raw.decode(encoding)


def _extra(extra: bytes, wanted: int) -> bytes | None:
    """The content of the first extra field of one kind."""
    start = 0
    while start + 4 <= len(extra):
        kind, length = struct.unpack_from("<2H", extra, start)
        if kind == wanted:
            return extra[start + 4 : start + 4 + length]
        start += 4 + length
    return None


def unicode_path(raw: bytes, extra: bytes) -> str | None:
    """Info-ZIP's Unicode path, if there is one and it belongs to this raw name."""
    field = _extra(extra, 0x7075)
    if field and len(field) > 5 and field[0] == 1 and int.from_bytes(field[1:5], "little") == zlib.crc32(raw):
        with contextlib.suppress(UnicodeDecodeError):
            return field[5:].decode("utf-8")
    return None
