"""Zips of more than 4 GiB that were written without zip64, as macOS's Archive Utility does.

Their offsets and sizes are stated modulo 2**32. The directory lists entries in the order of the file, so an offset that
is not larger than the one before it means that the file went past another multiple of 4 GiB; an entry of more than
4 GiB hides one. Local headers must confirm what follows from that, else the offsets are left as they are stated.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence

import numpy as np

from conversion.archives import sources
from conversion.archives.end import Directory
from conversion.archives.headers import data_chunks, header_names
from conversion.archives.model import DEFLATED, Block, DamagedEntry, Entry
from conversion.archives.sources import Source

NEIGHBOURS = 3  # rows of which one header must confirm an offset: a single header may be damaged


def unwrapped(
    columns: dict[str, np.ndarray], blocks: Sequence[Block], directory: Directory, source: Source | None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The columns `offset`, `packed` and `size` as they really are; offsets count from the first byte of the source.

    `offset` is given as the directory states it. `source` is None where local headers cannot be looked at.
    """
    offset, packed, size = columns["offset"] + directory.base, columns["packed"], columns["size"]
    if directory.wide or directory.base - directory.first < sources.WRAP or not len(offset):
        return offset, packed, size
    real = _offsets(columns["offset"], directory, _confirmation(blocks, source) if source else None)
    if real is None:
        return offset, packed, size
    packed, size = _sizes(columns, real, directory, source)
    return real, packed, size


def _offsets(
    stated: np.ndarray, directory: Directory, confirmed: Callable[[np.ndarray, int], bool] | None
) -> np.ndarray | None:
    """Offsets in the source; None where the headers contradict them."""
    laps, before = divmod(directory.base - directory.first, sources.WRAP)  # before: bytes before the zip
    following = np.append(stated[1:], directory.start - directory.base)
    turns = np.cumsum(following <= stated)  # the last is the directory's own
    hidden = laps - int(turns[-1])
    offset = directory.first + before + stated
    offset[1:] += turns[:-1] * sources.WRAP
    if confirmed is None:
        return offset if not hidden else None
    while hidden > 0:
        row = _first_unconfirmed(offset, confirmed)
        added = next((lap for lap in range(1, hidden + 1) if confirmed(_moved(offset, row, lap), row)), 0)
        if not added:
            break  # in or after the last entry whose header is whole
        offset, hidden = _moved(offset, row, added), hidden - added
    probes = {0, len(offset) - NEIGHBOURS, *(np.flatnonzero(np.diff(offset - stated)) + 1).tolist()}
    return offset if hidden >= 0 and all(confirmed(offset, max(row, 0)) for row in probes) else None


def _moved(offset: np.ndarray, row: int, laps: int) -> np.ndarray:
    """The offsets with those from `row` on moved by so many times 2**32."""
    return np.concatenate([offset[:row], offset[row:] + laps * sources.WRAP])


def _first_unconfirmed(offset: np.ndarray, confirmed: Callable[[np.ndarray, int], bool]) -> int:
    """The first row whose header does not confirm its offset, by bisection: none behind it does."""
    low, high = 0, len(offset)
    while low < high:
        middle = (low + high) // 2
        if confirmed(offset, middle):
            low = middle + 1
        else:
            high = middle
    return low


def _confirmation(blocks: Sequence[Block], source: Source) -> Callable[[np.ndarray, int], bool]:
    starts = np.cumsum([0, *(len(block.names) for block in blocks)])

    def name(row: int) -> bytes:
        number = int(np.searchsorted(starts, row, side="right")) - 1
        return blocks[number].names[row - int(starts[number])].as_py()

    def confirmed(offset: np.ndarray, row: int) -> bool:
        near = range(row, min(row + NEIGHBOURS, len(offset)))
        return any(header_names(source, int(offset[each]), name(each)) for each in near)

    return confirmed


def _sizes(
    columns: dict[str, np.ndarray], offset: np.ndarray, directory: Directory, source: Source | None
) -> tuple[np.ndarray, np.ndarray]:
    """Sizes in the archive and inflated. The gap before the next entry belongs to an entry that is damaged without."""
    packed, size = columns["packed"].copy(), columns["size"].copy()
    laps = (np.append(offset[1:], directory.start) - offset - columns["header"] - packed) // sources.WRAP
    for row in np.flatnonzero(laps > 0).tolist() if source else ():
        method = int(columns["method"][row])
        entry = Entry(int(offset[row]), int(packed[row]), int(size[row]), int(columns["crc"][row]), method)
        if source and _is_whole(source, entry):
            continue  # other bytes lie between it and the next one
        packed[row] += laps[row] * sources.WRAP
        # Images hardly shrink: of the sizes that are possible the nearest. Whoever inflates it finds the real one.
        more = round((packed[row] - size[row]) / sources.WRAP) if method == DEFLATED else laps[row]
        size[row] += more * sources.WRAP
    return packed, size


def _is_whole(source: Source, entry: Entry) -> bool:
    try:
        deque(data_chunks(source, entry), maxlen=0)
    except DamagedEntry:
        return False
    return True
