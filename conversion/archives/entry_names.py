"""The names of entries: their encoding, which of them are junk, and which lead outside."""

from __future__ import annotations

import contextlib
import re
from collections import Counter
from collections.abc import Iterable

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from conversion.archives.headers import UTF8
from conversion.archives.model import Block, as_mask

LONGEST_NAME = 4096  # bytes; no file system that we know takes a longer path

# Folders that systems keep beside the files of people: waste bins, previews, snapshots, and whatever is hidden. Copies
# of a release in them are not part of it. In both Python's and RE2's syntax, without regard to case.
_SYSTEM_FOLDER = (
    r"\.[^/.][^/]*|\.\.[^/]+|__macosx|__pycache__|\$recycle\.bin|recycler|recycled|[@#]recycle|@eadir|@tmp"
    r"|@recently-snapshot|[@#~]snapshots?|lost\+found|system volume information"
)
# One of these is in every block of names that holds such a folder behind another one, or one that is not hidden.
_MARKS = (
    b"/.",
    b"__MACOSX",
    b"__macosx",
    b"__pycache__",
    b"$",
    b"@",
    b"#",
    b"~",
    b"ecycle",
    b"ECYCLE",
    b"+found",
    b"olume",
)
_JUNK = rf"(?i)(^|/)(({_SYSTEM_FOLDER})/|\._[^/]*$|(thumbs\.db|\.ds_store|desktop\.ini)$)"
_OUTSIDE = r"^/|^[A-Za-z]:|(^|/)\.\.(/|$)|[\x00\x{FFFD}]|^$"


def decode(blocks: list[Block]) -> list[pa.Array]:
    """The names of all blocks as text. Where a name claims to be UTF-8 and is not, it holds a replacement character.

    A Unicode path wins, then the UTF-8 flag. All others of one archive have one encoding.
    """
    try:
        texts = [block.names.cast(pa.string()) for block in blocks]
    except pa.ArrowInvalid:
        flagged = [block.columns["flags"] & UTF8 != 0 for block in blocks]
        encoding = encoding_of(
            block.names.filter(pa.array(~flags)) for block, flags in zip(blocks, flagged, strict=True)
        )
        texts = [
            pa.array(
                [
                    name.decode("utf-8", "replace") if flag else name.decode(encoding)
                    for name, flag in zip(block.names.to_pylist(), flags.tolist(), strict=True)
                ],
                pa.string(),
            )
            for block, flags in zip(blocks, flagged, strict=True)
        ]
    for number, block in enumerate(blocks):
        if block.unicode:
            mask = np.zeros(len(block.names), bool)
            mask[list(block.unicode)] = True
            values = pa.array(list(block.unicode.values()), pa.string())
            texts[number] = pc.replace_with_mask(texts[number], pa.array(mask), values)
    return texts


def is_system_folder(name: bytes) -> bool:
    """Whether a folder of this name belongs to the system, not to a person, wherever it lies."""
    return re.fullmatch(_SYSTEM_FOLDER.encode(), name, re.IGNORECASE) is not None


def encoding_of(arrays: Iterable[pa.Array]) -> str:
    """The first of UTF-8, GB 18030 and cp437 that all raw names are in. One array at a time becomes Python objects.

    Almost any bytes are GB 18030: `Z\\x81rich` reads as a Chinese character too, but as a rare one. So at least half of
    the characters must be common.
    """
    possible = {"utf-8", "gb18030"}
    characters: Counter[str] = Counter()
    for names in arrays:
        joined = b"\n".join(names.to_pylist())  # a line feed is not part of a longer character in either
        for encoding in sorted(possible):
            try:
                text = joined.decode(encoding)
            except UnicodeDecodeError:
                possible.remove(encoding)
            else:
                if encoding == "gb18030":
                    characters.update(character for character in text if character > "\x7f")
    if "utf-8" in possible:
        return "utf-8"
    common = sum(count for character, count in characters.items() if _is_common(character))
    return "gb18030" if "gb18030" in possible and 2 * common >= characters.total() else "cp437"


def _is_common(character: str) -> bool:
    """Whether people write a Chinese character or sign: it is among the 6,763 of GB 2312 or the 6,355 of JIS X 0208,
    which has the traditional ones."""
    for encoding in ("gb2312", "shift_jis"):
        with contextlib.suppress(UnicodeEncodeError):
            return len(character.encode(encoding)) == 2
    return False


def checked_names(text: pa.Array) -> tuple[np.ndarray, np.ndarray, pa.Array]:
    """Which entries are files that count, which names are unsafe, and the names with plain slashes."""
    ends, data = _characters(text)
    if b"\\" in data:
        text = pc.replace_substring(text, "\\", "/")
        ends, data = _characters(text)
    # A regular expression over a million names takes half a second: only names that can match are looked at.
    length = np.diff(ends)
    codes = np.frombuffer(data + b"\0\0", np.uint8)  # so that an empty last name has a character too
    first, second, last = codes[ends[:-1]], codes[ends[:-1] + 1], codes[np.maximum(ends[1:] - 1, 0)]
    after_dot = set(np.unique(codes[1:][codes[:-1] == ord(".")]).tolist())
    slashes = codes == ord("/")
    everywhere = ord(".") in after_dot or b"\0" in data or b"\xef\xbf\xbd" in data
    unsafe = _matches(text, _OUTSIDE, everywhere | (first == 47) | (second == 58) | (length == 0))
    unsafe |= length > LONGEST_NAME
    marked = any(mark in data for mark in _MARKS)
    junk = _matches(text, _JUNK, marked | (first == 46) | np.isin(last, list(b"bBeEiI")))
    keep = ~(junk | ((last == 47) & (length > 0)))
    if ord("/") in after_dot:
        text = pc.replace_substring_regex(text, r"(^|/)(\./)+", r"\1")
    if np.any(slashes[1:] & slashes[:-1]):
        text = pc.replace_substring_regex(text, "/+", "/")
    return keep, unsafe, text


def _characters(text: pa.Array) -> tuple[np.ndarray, bytes]:
    """The bytes of all names, one after another, and where each begins in them; the last number is their end."""
    _, offsets, data = text.buffers()
    ends = np.frombuffer(offsets, np.int32)[text.offset : text.offset + len(text) + 1]
    return ends - ends[0], data.slice(ends[0], ends[-1] - ends[0]).to_pybytes() if data is not None else b""


def _matches(text: pa.Array, pattern: str, candidates: np.ndarray) -> np.ndarray:
    """Mask of the names that match, of those in the mask `candidates`."""
    result = np.zeros(len(text), bool)
    rows = np.flatnonzero(candidates)
    result[rows] = as_mask(pc.match_substring_regex(text.take(pa.array(rows)), pattern))
    return result
