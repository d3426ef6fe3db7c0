"""Which sample goes into which shard: keys, sizes, the order of the samples and where it is cut."""

from __future__ import annotations

import hashlib
import itertools
from collections import Counter
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from conversion import layout, names
from conversion.alignment import CHUNK, text_hashes
from conversion.options import Options
from mmm_rs import MODALITIES, key_hash

SHARDS = 32  # and multiples: 8 processors with 4 workers each are 32 readers
BLOCK = 512  # bytes; the unit of a tar


@dataclass(frozen=True)
class PlannedShard:
    name: str  # relative to the output folder
    split: str
    start: int  # into the plan's order
    stop: int
    bytes: int  # at most: sizes of records are bounds


def keys(subset: str, places: pa.Array, image: np.ndarray, sources: pa.Array, chosen: np.ndarray) -> pa.Array:
    """Keys of the samples at `chosen` places (null elsewhere): unique and short enough for a tar header.

    `image`: (places, 3) row of `sources` of each image, -1 for none.
    """
    unused = np.ones(len(places), bool)
    unused[chosen] = False
    pieces = [pa.array([], pa.string())]
    for start in range(0, len(places), CHUNK):
        piece = pc.replace_substring_regex(places.slice(start, CHUNK), r"[^A-Za-z0-9_/-]", "_")
        piece = pc.replace_substring_regex(piece, r"(^|/)__+", r"\1_")
        piece = pc.binary_join_element_wise(names.clean(subset), piece, "/")
        pieces.append(pc.if_else(pa.array(unused[start : start + CHUNK]), None, piece))
    keys = pa.concat_arrays(pieces)
    del pieces  # or the keys would be twice in memory
    while unfit := _unfit(keys, chosen):
        changed = keys.to_pylist()
        for place in unfit:
            row = next(row for row in image[place] if row >= 0)
            changed[place] = names.shortened(changed[place], sources[int(row)].as_py())
        keys = pa.array(changed, pa.string())
    return keys


def _unfit(keys: pa.Array, chosen: np.ndarray) -> list[int]:
    """The chosen places whose key another one has too, or no tar header holds."""
    hashes = np.empty(len(chosen), np.int64)
    for start in range(0, len(chosen), CHUNK):
        hashes[start : start + CHUNK] = text_hashes(keys.take(pa.array(chosen[start : start + CHUNK])))
    _, code, count = np.unique(hashes, return_inverse=True, return_counts=True)
    long = pc.utf8_length(keys).fill_null(0).to_numpy(zero_copy_only=False) > names.USTAR_NAME - names.LONGEST_SUFFIX
    suspects = chosen[(count[code] > 1) | long[chosen]].tolist()
    key_of = dict(zip(suspects, keys.take(pa.array(suspects, pa.int64())).to_pylist(), strict=True))
    times = Counter(key_of.values())
    return [place for place, key in key_of.items() if times[key] > 1 or not names.fits(key)]


def sizes(
    image: np.ndarray, record: np.ndarray, image_bytes: np.ndarray, record_bytes: np.ndarray, prompt_length: np.ndarray
) -> np.ndarray:
    """(places,): an upper bound of each place's bytes in a tar. Exact for images; escapes can at most double a
    record's text, which the labels repeat in parts, and a character of a prompt takes at most 4 bytes.

    `image`, `record`: (places, 3) row of `image_bytes`, of `record_bytes` and `prompt_length`; -1 for none.
    """
    size = np.append(image_bytes, 0).astype(np.int64)  # the last is that of -1
    text = np.append(record_bytes, 0).astype(np.int64)
    prompt = np.append(prompt_length, 0).astype(np.int64) * 4
    total = np.zeros(len(image), np.int64)
    json_size = np.full(len(image), 512, np.int64)
    for column in range(len(MODALITIES)):
        total += np.where(image[:, column] >= 0, _blocks(size[image[:, column]]), 0)
        total += np.where(record[:, column] >= 0, _blocks(prompt[record[:, column]]), 0)
        json_size += np.where(image[:, column] >= 0, 4 * text[record[:, column]] + 512, 0)
    return total + _blocks(json_size)


def _blocks(sizes: np.ndarray) -> np.ndarray:
    """Bytes of a tar member whose content has these sizes: its header and whole blocks."""
    return BLOCK + -(-sizes // BLOCK) * BLOCK


def shards(
    subset: str, keys: pa.Array, places: pa.Array, chosen: np.ndarray, sizes: np.ndarray, options: Options
) -> tuple[np.ndarray, list[PlannedShard]]:
    """The chosen places in the order of the shards, and the shards: samples sorted by a seeded hash of their key."""
    digest = bytearray()
    for start in range(0, len(chosen), CHUNK):
        for key in keys.take(pa.array(chosen[start : start + CHUNK])).to_pylist():
            digest += key_hash(key, options.seed)
    value = np.frombuffer(bytes(digest), ">u8")
    order = chosen[np.argsort(value, kind="stable")]
    held_out = np.zeros(len(order), bool)
    if options.validation:
        held_out[:] = [is_held_out(subset, place, options) for place in places.take(pa.array(order)).to_pylist()]
        if held_out.all():  # of few scenes all may be drawn, and nothing would be left to train on
            held_out[:] = False
    splits: list[np.ndarray] = []
    planned = []
    for split, members in (("train", order[~held_out]), ("validation", order[held_out])):
        before = sum(map(len, splits))
        splits.append(members)
        spans = cut(sizes[members], options.shard_size)
        for number, (start, stop, size) in enumerate(spans):
            name = layout.shard_name(subset, split, number, len(spans))
            planned.append(PlannedShard(name, split, before + start, before + stop, size + 2 * BLOCK))
    return np.concatenate(splits), planned


def is_held_out(subset: str, place: str, options: Options) -> bool:
    """Whether the scene of a place belongs to the validation split."""
    scene = f"{options.seed}/{subset}/{names.scene(subset, place)}"
    return int.from_bytes(hashlib.sha256(scene.encode()).digest()[:8], "big") < options.validation * 2**64


def cut(sizes: np.ndarray, limit: int) -> list[tuple[int, int, int]]:
    """(start, stop, bytes) of each shard: 32 shards or the next multiple of 32 that keeps each within `limit`.

    Each of a few samples that are larger than `limit` makes its own shard larger and no other.
    """
    if not len(sizes):
        return []
    total = np.concatenate([[0], np.cumsum(sizes)])
    large = sizes > limit
    counted = np.concatenate([[0], np.cumsum(np.where(large, 0, sizes))]) if large.sum() <= SHARDS else total
    count = min(len(sizes), SHARDS * max(1, -(-int(counted[-1]) // (SHARDS * limit))))
    while True:
        bounds = np.arange(count + 1) * len(sizes) // count
        if np.diff(counted[bounds]).max() <= limit or count + SHARDS > len(sizes):
            return [
                (start, stop, int(total[stop] - total[start])) for start, stop in itertools.pairwise(bounds.tolist())
            ]
        count += SHARDS
