"""An annotation file as a stream of records: the first ones choose form and keys, then one Record follows another."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any, BinaryIO

import msgspec

from conversion.annotations.encoding import UNKNOWN, encoding_of, is_marked
from conversion.annotations.keys import (
    CATEGORY_KEYS,
    CLOUD_KEYS,
    GSD_KEYS,
    IMAGE_KEYS,
    PROMPT_KEYS,
    choose,
    is_path,
    ranked,
)
from conversion.annotations.parser import LAYOUTS, Broken, Item, Parser
from conversion.annotations.scanner import SAMPLED
from conversion.annotations.shape import Names, strength
from conversion.annotations.values import is_text, json_type, number_of, shortened, text_of, writable
from conversion.annotations.window import Limits, Window
from conversion.errors import ReleaseError

NAMED = 20  # keys named in a message


class AnnotationError(ReleaseError):
    """An annotation file whose form or keys are not known. Example: records without any key that names an image."""


class Record(msgspec.Struct, frozen=True, gc=False):
    """One annotation. If `problem` is set it cannot be used, and `detail` says why.

    Problems: not_an_object, no_path, no_prompt, wrong_type (path or prompt is not text), invalid_text (damaged, or
    cannot be written as UTF-8), invalid_json, too_long, too_deep.
    """

    position: int  # ordinal in its file, from 0
    path: str | None  # of the image, as it stands
    prompt: str | None
    category: str | None
    gsd: float | None  # metres per pixel
    cloud_cover: float | None  # as the file has it
    text: str  # the record verbatim, as JSON; in a keyed table `{key: value}`. Only the beginning if it is not JSON
    problem: str | None = None
    detail: str | None = None


@dataclass(frozen=True)
class Form:
    """What was recognised in a file. `kind`: array, keyed, wrapped, lines or empty."""

    kind: str
    encoding: str
    image_key: str | None  # None if the path is the key of the table
    prompt_key: str | None  # None if prompts stand under the paths without a key
    keys: tuple[str, ...]  # of the first records


def read(
    open_stream: Callable[[], BinaryIO],
    image_key: str | None = None,
    prompt_key: str | None = None,
    label: str = "annotations",
    limits: Limits | None = None,
) -> tuple[Form, Iterator[Record]]:
    """Recognise an annotation file and read its records.

    Args:
        open_stream: Gives the file's bytes, from the start each time it is called.
        image_key, prompt_key: Preferred to the keys that are known, in files that have them.
        label: What messages call the file.
        limits: How much is read and tried at a time.

    Returns:
        The file's form, and its records in order.

    Raises:
        AnnotationError: The form or the keys are not known.
        Whatever reading the stream raises.
    """
    limits = limits or Limits()
    names = Names.known(image_key, prompt_key)
    encoding = encoding_of(open_stream, limits.window)

    with open_stream() as stream:
        parser = Parser(Window(stream, encoding, limits.window), names, limits)
        sample = list(islice(parser.items(), SAMPLED))
    if not parser.others and _holds_nothing(sample, names):
        return Form("empty", encoding, None, None, ()), iter(())
    form = _form(sample, parser.others, encoding, image_key, prompt_key, label)
    return form, _records(_items(open_stream, encoding, names, limits), form)


def _items(open_stream: Callable[[], BinaryIO], encoding: str, names: Names, limits: Limits) -> Iterator[Item]:
    with open_stream() as stream:
        yield from Parser(Window(stream, encoding, limits.window), names, limits).items()


def _form(
    sample: list[Item],
    others: Counter[str],
    encoding: str,
    image_key: str | None,
    prompt_key: str | None,
    label: str,
) -> Form:
    """The form of a file by its first records. Raises AnnotationError."""
    whole = [item for item in sample if not isinstance(item.value, Broken)]
    kind = whole[0].kind if whole else ""
    rows = [item.value for item in whole if isinstance(item.value, dict)]
    keys = Counter(name for row in rows for name in row) or others
    if not rows and kind != "keyed" and not keys:
        raise AnnotationError(
            f"{label}: holds no JSON records. Give an array of records, an object keyed by image path, or a record a "
            "line; perhaps the file is damaged: download it again"
        )
    by_path = kind == "keyed" and not (image_key and image_key in keys) and not _is_keyed_by_number(whole)
    image = None if by_path else choose(rows, IMAGE_KEYS, image_key)
    prompt = choose(rows, PROMPT_KEYS, prompt_key)
    for option, is_known, what in (
        ("--image-key", image or by_path, "image path"),
        ("--prompt-key", prompt or (by_path and not rows), "prompt"),
    ):
        if not is_known:
            lists = [inner for row in rows[:1] for inner in row.values() if isinstance(inner, list)]
            keys.update(name for inner in lists for row in inner[:SAMPLED] if isinstance(row, dict) for name in row)
            listed = ", ".join(sorted(repr(writable(name)) for name in islice(keys, NAMED)))
            raise AnnotationError(
                f"{label}: no known key names the {what}; its records have {listed}. Say it with {option}"
            )
    return Form(kind, encoding, image, prompt, tuple(sorted(map(writable, keys))))


def _holds_nothing(sample: list[Item], names: Names) -> bool:
    """Whether a file has no records: nothing at all, or an object with an empty list or table in their place."""
    if len(sample) != 1:
        return not sample
    value = sample[0].value
    if sample[0].kind != "lines" or not isinstance(value, dict) or strength(value, names):
        return False
    containers = [inner for inner in value.values() if isinstance(inner, (list, dict))]
    return not value or (
        any(not inner for inner in containers) and not any(isinstance(inner, list) and inner for inner in containers)
    )


def _is_keyed_by_number(items: list[Item]) -> bool:
    """Whether a table's keys are row numbers or the like, and the paths stand in its records."""
    if any(item.key is not None and is_path(item.key) for item in items):
        return False
    rows = [item.value for item in items if isinstance(item.value, dict)]
    image = choose(rows, IMAGE_KEYS, None)
    return image is not None and any(isinstance(row.get(image), str) and is_path(row[image]) for row in rows)


_Layout = tuple[list[str], list[str], list[str]]


def _layout(names: tuple[str, ...]) -> _Layout:
    """The names that a record's category, GSD and cloud cover can have, best first."""
    return ranked(names, CATEGORY_KEYS), ranked(names, GSD_KEYS), ranked(names, CLOUD_KEYS)


def _records(items: Iterator[Item], form: Form) -> Iterator[Record]:
    # Records with the same keys have their other fields in the same places. Mostly they are those of the record before.
    layouts: dict[tuple[str, ...], _Layout] = {}
    names: tuple[str, ...] = ()
    layout = _layout(names)
    image_key, prompt_key = form.image_key, form.prompt_key
    for position, item in enumerate(items):
        key, text, value = item.key, item.text, item.value
        if type(value) is not dict:
            yield _record(position, key, text, value, form)
            continue
        if names != tuple(value):
            names = tuple(value)
            if len(layouts) > LAYOUTS:  # records that are all different
                layouts.clear()
            layout = layouts.get(names) or layouts.setdefault(names, _layout(names))
        categories, gsds, clouds = layout
        category = gsd = cloud = None
        for name in categories:
            category = value[name]
            if type(category) is str and category.strip():
                break
            if category := text_of(category, "label")[0]:
                break
        for name in gsds:
            if (gsd := number_of(value[name], 0)) is not None:
                break
        for name in clouds:
            if (cloud := number_of(value[name])) is not None:
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
    if isinstance(value, Broken):
        problem, detail = value.problem, value.detail
    elif form.image_key is None and key is not None:
        path, problem = text_of(key, "path")
    elif row is not None:
        path, problem = text_of(row.get(form.image_key), "path")
        if isinstance(row.get(form.image_key), list) and len(row[form.image_key]) > 1:
            path, problem = None, "wrong_type"  # which of them? Perhaps the file has columns, not records
    else:
        problem, detail = "not_an_object", f"the record is of JSON type {json_type(value)}"
    if problem is None:
        prompt, problem = text_of(value if row is None else row.get(form.prompt_key), "prompt")
    if problem is None and not (is_text(text) and is_text(path) and is_text(prompt) and is_text(category)):
        problem, detail = "invalid_text", _why_not_text(text, form.encoding)
    if problem is None:
        return Record(position, path, prompt, category, gsd, cloud, text)
    text = writable(text)
    path = path if is_text(path) else None
    detail = f"{path or 'no image path'}: {detail + ': ' if detail else ''}{shortened(text)}"
    return Record(position, path, None, None, None, None, text, problem, detail)


def _why_not_text(text: str, encoding: str) -> str:
    if not is_marked(text):
        return "it holds half a character (a lone surrogate)"
    if encoding == UNKNOWN:
        return "it is not ASCII, and the encoding of its file cannot be told"
    return f"it holds bytes that are not text in {encoding}"
