"""Entries and records meet: which images show one place, and which record names which image.

Everything here works on whole columns: a subset can have a million images, and a Python object for each would not fit.

* *Aligned subsets* (more than one modality): an image's place is its stem without the modality token; images of one
  place and different modality are one sample. A record meets the image of the same place and modality, whatever the
  folders are called.
* *Other subsets*: an image's place is its path within the image folder, since stems repeat between folders. A record
  meets an image where one path ends in the other: `4096/x` or `/data/Inria/4096/x.png` meet `Inria_dataset/4096/x.jpg`,
  and so does `x` if no other folder has an `x`; `/data/2048/x.png` does not.

Suffixes never matter, nor case and Unicode's normal form, unless two images differ by nothing else.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from conversion import names
from conversion.columns import split_folders
from mmm_rs import MODALITIES, SUBSETS

NO_MATCH = -1
AMBIGUOUS = -2
CHUNK = 1 << 16  # texts at a time, where working on all at once would take several copies of them

_TOKEN = r"(?i)^(?P<head>(?:.*_)?)(?P<token>" + "|".join(names.MODALITY_TOKENS) + r")(?P<tail>(?:_.*)?)$"


@dataclass(frozen=True)
class Places:
    """Where images lie, one element an image. `modality` is an index into MODALITIES, -1 where nothing tells it."""

    place: pa.Array  # string; no suffix, no image folder, no modality token
    modality: np.ndarray  # int8
    group: np.ndarray  # object: weather's scene (fog, night, snow) by folder, else None


def without_suffix(paths: pa.Array) -> pa.Array:
    lower, length, result = pc.ascii_lower(paths), pc.binary_length(paths), paths
    for suffix in names.IMAGE_SUFFIXES:
        has = pc.and_(pc.ends_with(lower, f".{suffix}"), pc.greater(length, len(suffix) + 1))
        if pc.any(has).as_py():
            result = pc.if_else(has, pc.utf8_slice_codeunits(paths, 0, -1 - len(suffix)), result)
    return result


def _nfc(paths: pa.Array) -> pa.Array:
    ascii_only = pc.all(pc.string_is_ascii(paths)).as_py()
    return paths if ascii_only in (True, None) else pc.utf8_normalize(paths, form="NFC")


def is_aligned(subset: str) -> bool:
    return len(SUBSETS[subset].modalities) > 1


def places(subset: str, sources: pa.Array) -> Places:
    """The places of images, given their paths within the subset."""
    sources = _nfc(sources)
    if is_aligned(subset):
        place, modality = _aligned(sources, None)
        return Places(place, modality, np.full(len(sources), None))
    placed = [_placed(subset, sources.slice(start, CHUNK)) for start in range(0, len(sources), CHUNK)]
    place = pa.concat_arrays([some for some, _ in placed] or [pa.array([], pa.string())])
    group = np.concatenate([some for _, some in placed] or [np.array([], object)])
    return Places(place, np.zeros(len(sources), np.int8), group)


def _placed(subset: str, sources: pa.Array) -> tuple[pa.Array, np.ndarray]:
    """Place and group of images of a subset that is not aligned."""
    folders, last = split_folders(sources)
    inner, group = [], []
    for folder in folders.dictionary.to_pylist():
        parts = folder.split("/") if folder else []
        parts = parts[names.image_folder_depth(parts) :]
        inner.append("".join(part + "/" for part in parts))
        scene = next((names.SCENE_FOLDERS[p.lower()] for p in parts if p.lower() in names.SCENE_FOLDERS), None)
        group.append(scene if subset == "weather" else None)
    codes = folders.indices
    place = pc.binary_join_element_wise(pa.array(inner, pa.string()).take(codes), without_suffix(last), "")
    return place, np.array(group, dtype=object)[codes.to_numpy(zero_copy_only=False)]


def _aligned(paths: pa.Array, default: str | None) -> tuple[pa.Array, np.ndarray]:
    """(place, modality index) by the token of the stem, else by a folder's token, else `default`."""
    folders, last = split_folders(paths)
    stems = without_suffix(last)
    parts = pc.extract_regex(stems, _TOKEN)
    head = pc.utf8_rtrim(pc.struct_field(parts, "head"), "_")
    tail = pc.utf8_ltrim(pc.struct_field(parts, "tail"), "_")
    both = pc.and_(pc.not_equal(head, ""), pc.not_equal(tail, ""))
    place = pc.binary_join_element_wise(head, pc.if_else(both, "_", ""), tail, "")
    # Without a token, and where nothing else is in the stem (`RGB.jpg`), the place is the whole stem.
    place = pc.if_else(pc.fill_null(pc.not_equal(place, ""), False), place, stems)
    order = list(names.MODALITY_TOKENS)
    numbers = np.array([MODALITIES.index(names.MODALITY_TOKENS[token]) for token in order] + [-1], np.int8)
    token = pc.index_in(pc.utf8_lower(pc.struct_field(parts, "token")), pa.array(order))
    modality = numbers[pc.fill_null(token, len(order)).to_numpy(zero_copy_only=False)]
    by_folder = [_folder_modality(folder, default) for folder in folders.dictionary.to_pylist()]
    if by_folder:
        fallback = np.array(by_folder, np.int8)[folders.indices.to_numpy(zero_copy_only=False)]
        modality = np.where(modality < 0, fallback, modality)
    return place, modality.astype(np.int8)


def _folder_modality(folder: str, default: str | None) -> int:
    for part in reversed(folder.lower().split("/")):
        for token in part.split("_"):
            if token in names.MODALITY_TOKENS:
                return MODALITIES.index(names.MODALITY_TOKENS[token])
    return MODALITIES.index(default) if default in MODALITIES else -1


def normalised(paths: pa.Array) -> pa.Array:
    """Record paths as the release's: slashes, no drive, no leading `./` or `/`, NFC."""
    pieces, changed = [], False
    for start in range(0, len(paths), CHUNK):
        before = paths.slice(start, CHUNK)
        some = pc.replace_substring(before, "\\", "/")
        pieces.append(_nfc(pc.replace_substring_regex(some, r"^(?:[A-Za-z]:/)?(?:\.{0,2}/+)*", "")))
        changed = changed or not pieces[-1].equals(before)
        if not changed:
            pieces[-1] = before  # no copy of what is right
    return pa.concat_arrays(pieces) if changed else paths


@dataclass(frozen=True)
class Matches:
    """What records name, one element a record."""

    image: np.ndarray  # int64 row of the image, NO_MATCH or AMBIGUOUS
    place: pa.Array  # string: aligned subsets only, else all null
    modality: np.ndarray  # int8 index into MODALITIES, -1 where the path does not tell


def match(
    subset: str, sources: pa.Array, located: Places, paths: pa.Array, hints: list[tuple[int, int, str | None]]
) -> Matches:
    """Which image each record names.

    `sources` and `located`: the images. `paths`: the records' image paths as they stand. `hints`: (start, stop, hint)
    slices of `paths`, one an annotation file, with the modality or weather scene that the file is about.
    """
    spelled, paths = (sources, paths), normalised(paths)
    image = np.full(len(paths), NO_MATCH, np.int64)
    if is_aligned(subset):
        return _match_aligned(located, paths, hints, image)
    sources = _nfc(sources)
    scene = _scenes(subset, paths, hints)
    for label in set(scene.tolist()):
        rows = np.flatnonzero(scene == label)
        candidates = np.flatnonzero(located.group == label) if label else np.arange(len(sources))
        image[rows] = _by_tail(sources, located, paths, rows, candidates, spelled, skip=1 if label else 0)
    return Matches(image, pa.nulls(len(paths), pa.string()), np.zeros(len(paths), np.int8))


def _scenes(subset: str, paths: pa.Array, hints: list[tuple[int, int, str | None]]) -> np.ndarray:
    """Weather's scene that each record is about, by its own path, else by its file; None where neither tells.

    Of several folders in a path the last counts: those before it may be anybody's.
    """
    scene = np.full(len(paths), None)
    if subset == "weather":
        for start, stop, hint in hints:
            scene[start:stop] = hint if hint in names.SCENE_FOLDERS.values() else None
        scenes = "|".join(names.SCENE_FOLDERS)
        folders = pc.extract_regex(pc.utf8_lower(paths), f"(?s)^(?:.*/)?(?P<folder>{scenes})/")
        for row, folder in enumerate(pc.struct_field(folders, "folder").to_pylist()):
            scene[row] = names.SCENE_FOLDERS.get(folder, scene[row])
    return scene


def _match_aligned(located: Places, paths: pa.Array, hints: list, image: np.ndarray) -> Matches:
    pieces = [_aligned(paths.slice(start, stop - start), hint) for start, stop, hint in hints]
    place = pa.concat_arrays([piece for piece, _ in pieces]) if pieces else pa.array([], pa.string())
    modality = np.concatenate([m for _, m in pieces]) if pieces else np.array([], np.int8)
    # Records may differ from files by case; the place is then the files'.
    known = located.place.unique()
    exact = pc.index_in(place, known)
    folded = pc.index_in(pc.utf8_lower(place), pc.utf8_lower(known))
    where = pc.coalesce(exact, folded)
    place = pc.if_else(pc.is_valid(where), known.take(where), place)
    rows_place = pc.index_in(located.place, known).to_numpy(zero_copy_only=False).astype(np.int64)
    images = rows_place * 4 + located.modality
    records = pc.fill_null(where, -1).to_numpy(zero_copy_only=False).astype(np.int64) * 4 + modality
    row = pc.index_in(pa.array(records), pa.array(images))
    hit = pc.fill_null(row, NO_MATCH).to_numpy(zero_copy_only=False).astype(np.int64)
    image[:] = np.where((modality >= 0) & pc.is_valid(where).to_numpy(zero_copy_only=False), hit, NO_MATCH)
    return Matches(image, place, modality)


def text_hashes(texts: pa.Array) -> list[int]:
    """64 bits that stand for each text: a million texts, copies and a table of them would take half a gigabyte.

    Two of a million different ones agree by chance once in 10**7 runs.
    """
    return [hash(text) for text in texts.to_pylist()]


def _parts(paths: pa.Array) -> np.ndarray:
    return pc.count_substring(paths, "/").to_numpy(zero_copy_only=False) + 1


def _tails(paths: pa.Array, rows: np.ndarray, length: int) -> np.ndarray:
    """Hashes of the last `length` parts of some paths, which have that many; but for suffix and case."""
    result = np.empty(len(rows), np.int64)
    tail = rf"(?:^|/)(?P<tail>(?:[^/]*/){{{length - 1}}}[^/]*)$"
    for start in range(0, len(rows), CHUNK):
        some = pc.utf8_lower(without_suffix(paths.take(pa.array(rows[start : start + CHUNK]))))
        if _parts(some).max() > length:
            some = pc.struct_field(pc.extract_regex(some, tail), "tail")
        result[start : start + CHUNK] = text_hashes(some)
    return result


def _by_tail(
    sources: pa.Array,
    located: Places,
    paths: pa.Array,
    rows: np.ndarray,
    candidates: np.ndarray,
    spelled: tuple[pa.Array, pa.Array],
    skip: int,
) -> np.ndarray:
    """For the records `rows` the image among `candidates` whose path and theirs end alike, as far as the shorter goes.

    `spelled`: `sources` and `paths` as the release has them. `skip` leading parts of the images' places need not be in
    the record: the annotation file says them.
    """
    result = np.full(len(rows), NO_MATCH, np.int64)
    if not len(rows) or not len(candidates):
        return result
    parts, needed, lengths = _parts(sources)[candidates], _parts(located.place)[candidates] - skip, _parts(paths)[rows]
    open_ = np.arange(len(rows))
    for length in range(int(min(parts.max(), lengths.max())), 0, -1):
        deep = np.flatnonzero(parts >= length)
        tails = _tails(sources, candidates[deep], length)
        order = np.argsort(tails, kind="stable")
        deep, tails = deep[order], tails[order]
        asked = open_[lengths[open_] >= length]
        for start in range(0, len(asked), CHUNK):
            some = asked[start : start + CHUNK]
            wanted = _tails(paths, rows[some], length)
            begin, end = np.searchsorted(tails, wanted, "left"), np.searchsorted(tails, wanted, "right")
            candidate = deep[np.minimum(begin, len(deep) - 1)]
            ok = (begin < end) & ((lengths[some] == length) | (length >= needed[candidate]))
            single = ok & (end - begin == 1)
            result[some[single]] = candidates[candidate[single]]
            for number in np.flatnonzero(ok & ~single):
                record = int(rows[some[number]])
                fitting = candidates[deep[begin[number] : end[number]]].tolist()
                result[some[number]] = _exact(record, fitting, (spelled, (sources, paths)), length)
        open_ = open_[result[open_] == NO_MATCH]
        if not len(open_):
            break
    return result


def _exact(record: int, candidates: list[int], spellings: tuple[tuple[pa.Array, pa.Array], ...], length: int) -> int:
    """Of images that differ by case, normal form or suffix only, the one the record spells; AMBIGUOUS where it spells
    none. `spellings`: the paths of images and records, the spelling that counts most first."""

    def tail(paths: pa.Array, row: int) -> str:
        return "/".join(paths[row].as_py().replace("\\", "/").split("/")[-length:])

    for form in (lambda name: name, names.stem):
        for sources, paths in spellings:
            same = [row for row in candidates if form(tail(sources, row)) == form(tail(paths, record))]
            if len(same) == 1:
                return same[0]
    return AMBIGUOUS
