"""The records of an annotation file: its form and keys by the first ones, then one Record after the other."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any, BinaryIO

import msgspec

from conversion.annotations.keys import (
    _PATH,
    CATEGORY_KEYS,
    CLOUD_KEYS,
    GSD_KEYS,
    IMAGE_KEYS,
    PROMPT_KEYS,
    _choose,
    _is_text,
    _json_type,
    _number,
    _ranked,
    _shortened,
    _text,
    _writable,
)
from conversion.annotations.parser import _Broken, _encoding, _Item, _Parser
from conversion.annotations.scanner import SAMPLED
from conversion.errors import ReleaseError

NAMED = 20  # keys named in a message


class AnnotationError(ReleaseError):
    """An annotation file whose form or keys are not known. Example: records without any key that names an image."""


class Record(msgspec.Struct, frozen=True, gc=False):
    """One annotation. Where `problem` is set it cannot be used, and `detail` says why.

    Problems: not_an_object, no_path, no_prompt, wrong_type (path or prompt is no text), invalid_text (not to be written
    as UTF-8, or damaged), invalid_json (of an array or object: all that follows; of JSON lines: the line), too_long,
    too_deep.
    """

    position: int  # ordinal in its file, from 0
    path: str | None  # of the image, as it stands
    prompt: str | None
    category: str | None
    gsd: float | None  # metres a pixel
    cloud_cover: float | None  # as the file has it
    text: str  # the record verbatim, as JSON; of a keyed table `{key: value}`. Only a beginning where it is no JSON
    problem: str | None = None
    detail: str | None = None


@dataclass(frozen=True)
class Form:
    """What was recognised of a file. `kind`: array, keyed, wrapped, lines or empty."""

    kind: str
    encoding: str
    image_key: str | None  # None where the path is the key of the table
    prompt_key: str | None  # None where prompts stand under the paths without a key
    keys: tuple[str, ...]  # that the first records have


def read(
    open_stream: Callable[[], BinaryIO],
    image_key: str | None = None,
    prompt_key: str | None = None,
    label: str = "annotations",
) -> tuple[Form, Iterator[Record]]:
    """The form of an annotation file and its records.

    `open_stream` gives the file's bytes, from the start each time it is called. `image_key` and `prompt_key` are
    preferred to the keys that are known, in files that have them. `label` is what messages call the file. Raises
    AnnotationError where the form or the keys are not known, and whatever reading the stream raises.
    """
    encoding = _encoding(open_stream)
    with open_stream() as stream:
        parser = _Parser(stream, encoding, image_key, prompt_key)
        sampled = list(islice(parser.items(), SAMPLED))
    whole = [item for item in sampled if not isinstance(item[3], _Broken)]
    if not parser.others and _holds_nothing(sampled, parser):
        return Form("empty", encoding, None, None, ()), iter(())

    kind = whole[0][0] if whole else ""
    rows = [value for _, _, _, value in whole if isinstance(value, dict)]
    seen = Counter(name for row in rows for name in row) or parser.others
    if not rows and kind != "keyed" and not seen:
        raise AnnotationError(
            f"{label}: holds no JSON records. Give an array of records, an object keyed by image path, or a record a "
            "line; perhaps the file is damaged: download it again"
        )
    by_path = kind == "keyed" and not (image_key and image_key in seen) and not _is_keyed_by_number(whole)
    image = None if by_path else _choose(rows, IMAGE_KEYS, image_key)
    prompt = _choose(rows, PROMPT_KEYS, prompt_key)
    for option, found, what in (
        ("--image-key", image or by_path, "image path"),
        ("--prompt-key", prompt or (by_path and not rows), "prompt"),
    ):
        if not found:
            inside = [inner for row in rows[:1] for inner in row.values() if isinstance(inner, list)]
            seen.update(name for inner in inside for row in inner[:SAMPLED] if isinstance(row, dict) for name in row)
            names = ", ".join(sorted(repr(_writable(name)) for name in islice(seen, NAMED)))
            raise AnnotationError(
                f"{label}: no known key names the {what}; its records have {names}. Say it with {option}"
            )
    form = Form(kind, encoding, image, prompt, tuple(sorted(map(_writable, seen))))
    return form, _records(open_stream, form, image_key, prompt_key)


def _holds_nothing(sampled: list[_Item], parser: _Parser) -> bool:
    """Whether a file has no records: nothing at all, or an object with an empty list or table in their place."""
    if len(sampled) != 1:
        return not sampled
    kind, _, _, value = sampled[0]
    if kind != "lines" or not isinstance(value, dict) or parser.strength(value):
        return False
    inside = [inner for inner in value.values() if isinstance(inner, (list, dict))]
    return not value or (
        any(not inner for inner in inside) and not any(isinstance(inner, list) and inner for inner in inside)
    )


def _is_keyed_by_number(items: list[_Item]) -> bool:
    """Whether a table's keys are row numbers or the like, and the paths stand in its records."""
    if any(key is not None and _PATH.search(key) for _, key, _, _ in items):
        return False
    rows = [value for _, _, _, value in items if isinstance(value, dict)]
    image = _choose(rows, IMAGE_KEYS, None)
    return image is not None and any(isinstance(row.get(image), str) and _PATH.search(row[image]) for row in rows)


def _records(open_stream: Callable[[], BinaryIO], form: Form, *preferred: str | None) -> Iterator[Record]:
    # Records with the same keys have their other fields in the same places: by keys, the names of each, best first.
    layouts: dict[tuple[str, ...], tuple[list[str], ...]] = {}
    image_key, prompt_key = form.image_key, form.prompt_key
    with open_stream() as stream:
        for position, (_, key, text, value) in enumerate(_Parser(stream, form.encoding, *preferred).items()):
            if type(value) is not dict:
                yield _record(position, key, text, value, form)
                continue
            names = tuple(value)
            layout = layouts.get(names)
            if layout is None:
                if len(layouts) > 1000:  # records that are all different
                    layouts.clear()
                layout = layouts[names] = tuple(
                    _ranked(names, known) for known in (CATEGORY_KEYS, GSD_KEYS, CLOUD_KEYS)
                )
            categories, gsds, clouds = layout
            category = gsd = cloud = None
            for name in categories:
                category = value[name]
                if type(category) is str and category.strip():
                    break
                if category := _text(category, "label")[0]:
                    break
            for name in gsds:
                if (gsd := _number(value[name], above=0)) is not None:
                    break
            for name in clouds:
                if (cloud := _number(value[name])) is not None:
                    break
            path, prompt = value.get(image_key) if image_key else key, value.get(prompt_key)
            # The usual case needs no second look: texts of plain ASCII that are not empty.
            if (
                type(path) is str
                and type(prompt) is str
                and text.isascii()
                and path.isascii()
                and prompt.isascii()
                and path.strip()
                and prompt.strip()
                and (category is None or category.isascii())
            ):
                yield Record(position, path, prompt, category, gsd, cloud, text)
            else:
                yield _record(position, key, text, value, form, category, gsd, cloud)


def _record(
    position: int,
    key: str | None,
    text: str,
    value: Any,
    form: Form,
    category: str | None = None,
    gsd: float | None = None,
    cloud: float | None = None,
) -> Record:
    path = prompt = problem = detail = None
    row = value if isinstance(value, dict) else None
    if isinstance(value, _Broken):
        problem, detail = value.problem, value.detail
    elif form.image_key is None and key is not None:
        path, problem = _text(key, "path")
    elif row is not None:
        path, problem = _text(row.get(form.image_key), "path")
        if isinstance(row.get(form.image_key), list) and len(row[form.image_key]) > 1:
            path, problem = None, "wrong_type"  # which of them? Perhaps the file has columns, not records
    else:
        problem, detail = "not_an_object", f"the record is of JSON type {_json_type(value)}"
    if problem is None:
        prompt, problem = _text(value if row is None else row.get(form.prompt_key), "prompt")
    if problem is None and not (_is_text(text) and _is_text(path) and _is_text(prompt) and _is_text(category)):
        problem, detail = "invalid_text", "it holds damaged text or half a character (a lone surrogate)"
    if problem is None:
        return Record(position, path, prompt, category, gsd, cloud, text)
    text = _writable(text)
    path = path if _is_text(path) else None
    detail = f"{path or 'no image path'}: {detail + ': ' if detail else ''}{_shortened(text)}"
    return Record(position, path, None, None, None, None, text, problem, detail)
