"""A guess at the keys of an annotation file in which none that is known was found.

The image path is probably under the key whose texts name images of the release, the prompt under the one with the
longest texts. The guess is shown with its reasons and never followed: a person has to confirm it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from conversion import alignment, names
from conversion.annotations import UnknownKeys
from conversion.annotations.keys import is_path
from conversion.annotations.values import is_text, text_of
from conversion.release import IMAGE, SubsetFiles

MATCHES = 3  # that are shown
LONGEST_EXAMPLE = 4000  # characters of the record that is shown


@dataclass(frozen=True)
class KeyGuess:
    """Which options would name the keys, and why."""

    options: tuple[str, ...]  # for the command line
    lines: tuple[str, ...]  # for a person


def guess(files: SubsetFiles, path: str, unknown: UnknownKeys) -> KeyGuess:
    """The keys of a file at `path` within the subset, as far as they can be guessed."""
    texts = _texts(unknown.rows)
    options: list[str] = []
    lines = [f"a record: {unknown.example[:LONGEST_EXAMPLE]}"]
    if unknown.paths:
        image_key, matches = None, _matches(files, path, {"": unknown.paths})[1]
        lines += [f"its image path is the key of the table, which {_names_images(files.name, matches)}"]
    elif unknown.image_key is not None:
        image_key, matches = _matches(files, path, {unknown.image_key: texts.get(unknown.image_key, ())})
        lines += [f"its image path is {unknown.image_key!r}, which {_names_images(files.name, matches)}"]
    else:
        image_key, matches = _matches(files, path, texts)
        if image_key is not None:
            options += ["--image-key", image_key]
            lines += [f"its image path is probably {image_key!r}, which {_names_images(files.name, matches)}"]
    lines += [f"  {named} -> {image}" for named, image in matches[:MATCHES]]
    if unknown.prompt_key is None:
        lengths = {key: sum(map(len, values)) / len(values) for key, values in texts.items() if key != image_key}
        lengths = {key: length for key, length in lengths.items() if not all(map(is_path, texts[key]))}
        if lengths:
            prompt_key = max(lengths, key=lengths.__getitem__)
            options += ["--prompt-key", prompt_key]
            lines += [
                f"its prompt is probably {prompt_key!r}, the longest text: {texts[prompt_key][0][:LONGEST_EXAMPLE]}"
            ]
    return KeyGuess(tuple(options), tuple(lines))


def _texts(rows: Sequence[Mapping[str, Any]]) -> dict[str, list[str]]:
    """The texts under each key that has some and that can be typed."""
    texts: dict[str, list[str]] = {}
    for row in rows:
        for key, value in row.items():
            text = text_of(value, "prompt")[0]
            if text and is_text(text) and is_text(key) and not key.startswith("-"):  # that looks like an option
                texts.setdefault(key, []).append(text)
    return texts


def _matches(
    files: SubsetFiles, path: str, texts: Mapping[str, Sequence[str]]
) -> tuple[str | None, list[tuple[str, str]]]:
    """The key whose texts name most images, else the one whose texts look most like paths; and what they name."""
    sources = pa.concat_arrays([pa.array([], pa.string()), *_sources(files)])
    located = alignment.places(files.name, sources)
    best: tuple[tuple[int, int], str, list[tuple[str, str]]] | None = None
    for key, values in texts.items():
        paths = pa.array(values, pa.string())
        hints = [(0, len(values), names.hint(path))]
        images = alignment.match(files.name, sources, located, paths, hints).image.tolist()
        matches = [(value, sources[row].as_py()) for value, row in zip(values, images, strict=True) if row >= 0]
        rank = len(matches), sum(map(is_path, values))
        if any(rank) and (best is None or rank > best[0]):
            best = rank, key, matches
    return (best[1], best[2]) if best else (None, [])


def _sources(files: SubsetFiles) -> Iterator[pa.Array]:
    for part in files.parts:
        yield from part.entries.filter(pc.equal(part.entries["type"], IMAGE))["source"].chunks


def _names_images(subset: str, matches: Sequence[tuple[str, str]]) -> str:
    return "names images of the release:" if matches else f"looks like a path, though no image of {subset} fits it"
