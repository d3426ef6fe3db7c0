"""Local headers, which stand before each entry's data and repeat what the directory says."""

from __future__ import annotations

import contextlib
import re
import struct
import zlib
from collections.abc import Iterator

from conversion.archives.model import DamagedEntry
from conversion.archives.sources import Source, read_at

LOCAL = struct.Struct("<4s5H3I2H")
LOCAL_SIGNATURE = b"PK\3\4"
ENCRYPTED, DESCRIPTOR, PATCHED, STRONGLY_ENCRYPTED, UTF8, MASKED = 1, 1 << 3, 1 << 5, 1 << 6, 1 << 11, 1 << 13
FULL = 0xFFFFFFFF  # of a 32-bit field: the value is in the zip64 extra field


def data_offset(source: Source, offset: int, packed: int, size: int, crc: int, method: int, name: str) -> int:
    """Where the data of the entry at `offset` begins. Raises DamagedEntry where its header is not the directory's."""
    head = read_at(source, offset, LOCAL.size)
    if len(head) < LOCAL.size:
        raise DamagedEntry("truncated", "the file ends before this entry")
    if not head.startswith(LOCAL_SIGNATURE):
        raise DamagedEntry("bad_local_header", "there is no entry where the directory says")
    length = sum(LOCAL.unpack(head)[9:])
    head += read_at(source, offset + LOCAL.size, length)
    if len(head) < LOCAL.size + length:
        raise DamagedEntry("truncated", "the file ends within this entry's header")
    check_header(head, packed, size, crc, method, name)
    return offset + len(head)


def check_header(head: bytes | bytearray, packed: int, size: int, crc: int, method: int, name: str) -> None:
    """Raise DamagedEntry where a local header contradicts the directory. `head` starts with the whole header."""
    signature, _, flags, its_method, _, _, its_crc, its_packed, its_size, n, m = LOCAL.unpack_from(head)
    if signature != LOCAL_SIGNATURE:
        raise DamagedEntry("bad_local_header", "there is no entry where the directory says")
    if its_method != method:
        raise DamagedEntry("bad_local_header", f"its header says method {its_method}, the directory {method}")
    if flags & ENCRYPTED:
        raise DamagedEntry("bad_local_header", "its header says that it is encrypted, the directory does not")
    extra = bytes(head[LOCAL.size + n : LOCAL.size + n + m])
    stated = (its_crc, its_packed, its_size)
    if not flags & DESCRIPTOR and stated != (0, 0, 0):  # else the values follow the data, or the writer left them out
        if FULL in (its_packed, its_size):
            wide = _extra(extra, 1) or b""
            values = iter(struct.unpack(f"<{len(wide) // 8}Q", wide[: len(wide) // 8 * 8]))
            its_size = next(values, its_size) if its_size == FULL else its_size
            its_packed = next(values, its_packed) if its_packed == FULL else its_packed
        if (its_crc, its_packed, its_size) != (crc, packed, size):
            raise DamagedEntry(
                "bad_local_header",
                f"its header says {its_packed} bytes, {its_size} inflated, CRC32 "
                f"{its_crc:08x}; the directory says {packed}, {size}, {crc:08x}",
            )
    if name:
        raw = bytes(head[LOCAL.size : LOCAL.size + n])
        if not any(_same_end(other, name) for other in _readings(raw, extra)):
            raise DamagedEntry("bad_local_header", f"its header names another file, {raw[:200]!r}")


def _same_end(one: str, other: str) -> bool:
    """Whether two paths are alike from their last part back, as far as the shorter of them goes."""
    parts, others = ([part for part in re.split(r"[/\\]", path) if part not in ("", ".")] for path in (one, other))
    shorter = min(len(parts), len(others))
    return shorter > 0 and parts[-shorter:] == others[-shorter:]


def _readings(raw: bytes, extra: bytes) -> Iterator[str]:
    """What a raw name can be read as."""
    if unicode := unicode_path(raw, extra):
        yield unicode
    for encoding in ("utf-8", "gb18030", "cp437"):
        with contextlib.suppress(UnicodeDecodeError):
            yield raw.decode(encoding)


def _extra(extra: bytes, wanted: int) -> bytes | None:
    """The content of the first extra field of one kind."""
    at = 0
    while at + 4 <= len(extra):
        kind, length = struct.unpack_from("<2H", extra, at)
        if kind == wanted:
            return extra[at + 4 : at + 4 + length]
        at += 4 + length
    return None


def unicode_path(raw: bytes, extra: bytes) -> str | None:
    """Info-ZIP's Unicode path, if there is one and it belongs to this raw name."""
    field = _extra(extra, 0x7075)
    if field and len(field) > 5 and field[0] == 1 and int.from_bytes(field[1:5], "little") == zlib.crc32(raw):
        with contextlib.suppress(UnicodeDecodeError):
            return field[5:].decode("utf-8")
    return None
