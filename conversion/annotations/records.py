"""An annotation file as a stream of records: the first ones choose form and keys, then one Record follows another."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any, BinaryIO

import msgspec

from conversion.annotations import joined
from conversion.annotations.encoding import UNKNOWN, encoding_of, is_marked
from conversion.annotations.keys import (
    CATEGORY_KEYS,
    CLOUD_KEYS,
    GSD_KEYS,
    IMAGE_KEYS,
    PROMPT_KEYS,
    TAGS,
    choose,
    is_path,
    ranked,
)
from conversion.annotations.other_forms import BY_COLUMNS, other_form
from conversion.annotations.parser import LAYOUTS, Broken, Item, Parser
from conversion.annotations.scanner import DEEPEST, SAMPLED
from conversion.annotations.shape import Names, is_by_columns, strength
from conversion.annotations.values import is_text, json_type, number_of, shortened, text_of, writable
from conversion.annotations.window import Limits, Window
from conversion.display import visible
from conversion.errors import ReleaseError
from mmm_rs import did_you_mean

NAMED = 20  # keys named in a message


@dataclass(frozen=True)
class UnknownKeys:
    """The first records of a file whose keys are not known, for a guess at them."""

    rows: tuple[dict[str, Any], ...]
    example: str  # the first of them, as JSON
    image_key: str | None  # that is known
    prompt_key: str | None
    paths: tuple[str, ...]  # the keys of a table, if they are the paths


class AnnotationError(ReleaseError):
    """An annotation file whose form or keys are not known. Example: records without any key that names an image.

    Its text is `<label>: <detail>. <remedy>`.
    """

    def __init__(self, label: str, detail: str, remedy: str, unknown: UnknownKeys | None = None) -> None:
        super().__init__(label, detail, remedy, unknown)
        self.label, self.detail, self.remedy, self.unknown = label, detail, remedy, unknown

    @property
    def lines(self) -> list[str]:
        return [visible(f"{self.label}: {self.detail}. {self.remedy}")]


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
    """What was recognised in a file. `kind`: array, keyed, wrapped, lines, coco or empty."""

    kind: str
    encoding: str
    image_key: str | None  # None if the path is the key of the table
    prompt_key: str | None  # None if prompts stand under the paths without a key
    keys: tuple[str, ...]  # of the first records
    remarks: tuple[str, ...] = ()  # about keys that were given and are not there


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
    images = None
    if joined.is_id_key(form.image_key) and form.image_key != image_key:
        images = _image_names(open_stream, encoding, names, limits)
        if images:
            form = replace(form, kind="coco")
        elif joined.are_numbers([item.value for item in sample if isinstance(item.value, dict)], form.image_key or ""):
            detail = "it has the form of COCO captions without their list of images, so nothing names the images"
            raise AnnotationError(label, detail, "Give the whole file, with `images` and `annotations`")
    return form, _records(_items(open_stream, encoding, names, limits), form, images or None)


def _items(open_stream: Callable[[], BinaryIO], encoding: str, names: Names, limits: Limits) -> Iterator[Item]:
    with open_stream() as stream:
        yield from Parser(Window(stream, encoding, limits.window), names, limits).items()


def _image_names(open_stream: Callable[[], BinaryIO], encoding: str, names: Names, limits: Limits) -> joined.ImageNames:
    """The images that a file lists beside its records. Reads the whole file."""
    images = joined.ImageNames()
    with open_stream() as stream:
        parser = Parser(Window(stream, encoding, limits.window), names, limits)
        parser.see_other = images.add
        for _ in parser.items():
            pass
    return images


def _form(
    sample: list[Item],
    others: list[dict[str, Any]],
    encoding: str,
    image_key: str | None,
    prompt_key: str | None,
    label: str,
) -> Form:
    """The form of a file by its first records. Raises AnnotationError."""
    whole = [item for item in sample if not isinstance(item.value, Broken)]
    kind = whole[0].kind if whole else ""
    rows = [item.value for item in whole if isinstance(item.value, dict)]
    keys = Counter(name for row in rows or others for name in row)
    by_path = kind == "keyed" and not (image_key and image_key in keys) and not _is_keyed_by_number(whole)
    image = None if by_path else choose(rows, IMAGE_KEYS, image_key)
    prompt = choose(rows, PROMPT_KEYS, prompt_key)
    inner = _inner_rows(rows[0]) if len(rows) == 1 else []
    grandchildren = [row for value in _children(rows[0]) for row in _children(value)] if len(rows) == 1 else []
    grandchildren = [row for row in grandchildren if isinstance(row, dict)]
    if by_path and not rows and all(_is_path_of_row(item) for item in whole):
        raise AnnotationError(label, f"it has the form of {BY_COLUMNS.name}", BY_COLUMNS.remedy)
    if (image or by_path) and (prompt or (by_path and not rows)) and not (len(rows) == 1 and is_by_columns(rows[0])):
        remarks = tuple(
            f"no record has the key {given!r}.{did_you_mean(given, keys)}"
            for given in (image_key, prompt_key)
            if given is not None and given not in keys
        )
        return Form(kind, encoding, image, prompt, tuple(sorted(map(writable, keys))), remarks)
    if known := other_form([*(item.value for item in whole[:1]), *rows, *grandchildren, *others]):
        raise AnnotationError(label, f"it has the form of {known.name}", known.remedy)
    if not (keys or rows) and kind != "keyed":
        detail = "it holds no JSON records, but perhaps a web page or damaged text"
        remedy = (
            "Look at its beginning: an array of records, an object keyed by image path, or one record per line is read"
        )
        raise AnnotationError(label, detail, remedy)
    raise _unknown_keys(label, whole, rows, inner or rows or others, (image, image_key), (prompt, prompt_key), by_path)


def _unknown_keys(
    label: str,
    whole: list[Item],
    rows: list[dict[str, Any]],
    examples: list[dict[str, Any]],
    image: tuple[str | None, str | None],
    prompt: tuple[str | None, str | None],
    has_paths: bool,
) -> AnnotationError:
    """`image`, `prompt`: the key that is known and the one that was given."""
    keys = dict.fromkeys(writable(name) for row in examples[:SAMPLED] for name in row)
    lacking = [
        what
        for what, is_known in (("the image path", image[0] or has_paths), ("the prompt", prompt[0]))
        if not is_known
    ]
    given = [name for key, name in (image, prompt) if name is not None and key != name]
    mistyped = "".join(f"no record has the key {name!r}.{did_you_mean(name, keys)} " for name in given)
    listed = ", ".join(map(repr, list(keys)[:NAMED])) + (" and more" if len(keys) > NAMED else "")
    detail = f"no known key names {' or '.join(lacking)}; its records have {listed or 'no keys'}"
    if mistyped:
        detail = f"{mistyped}{detail[0].upper()}{detail[1:]}"
    if examples is rows:
        text = next((item.text for item in whole if isinstance(item.value, dict)), "")
    else:
        text = json.dumps(examples[0], ensure_ascii=False) if examples else ""
    paths = tuple(item.key for item in whole if item.key is not None and is_text(item.key)) if has_paths else ()
    options = [name for name, key in (("--image-key", image[0] or has_paths), ("--prompt-key", prompt[0])) if not key]
    unknown = UnknownKeys(tuple(examples[:SAMPLED]), writable(text), image[0], prompt[0], paths)
    return AnnotationError(label, detail, f"Name the keys with {' and '.join(options)}", unknown)


def _is_path_of_row(item: Item) -> bool:
    """Whether a member of a table has a path for its value and not for its key: a column of another one."""
    return isinstance(item.value, str) and is_path(item.value) and not is_path(item.key or "")


def _inner_rows(value: Any, depth: int = 0) -> list[dict[str, Any]]:
    """The objects in that list or table within a value which has most of them, not counting those without any text."""
    children = _children(value)
    rows = [child for child in children if isinstance(child, dict)]
    if depth == DEEPEST:
        return rows
    inner = (_inner_rows(child, depth + 1) for child in children)
    return max([rows, *inner], key=lambda rows: sum(any(isinstance(v, str) for v in row.values()) for row in rows))


def _children(value: Any) -> list[Any]:
    """The first values in a list or object."""
    if isinstance(value, dict):
        return list(islice(value.values(), SAMPLED))
    return value[:SAMPLED] if isinstance(value, list) else []


def _holds_nothing(sample: list[Item], names: Names) -> bool:
    """Whether a file has no records: nothing at all, or an object with an empty list or table in their place."""
    if len(sample) != 1:
        return not sample
    value = sample[0].value
    if sample[0].kind != "lines" or not isinstance(value, dict) or strength(value, names) or other_form([value]):
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


def _records(items: Iterator[Item], form: Form, images: joined.ImageNames | None) -> Iterator[Record]:
    """`images`: the paths of a file whose records name them by an id."""
    # Records with the same keys have their other fields in the same places. Mostly they are those of the record before.
    layouts: dict[tuple[str, ...], _Layout] = {}
    names: tuple[str, ...] = ()
    layout = _layout(names)
    image_key, prompt_key = form.image_key, form.prompt_key
    for position, item in enumerate(items):
        key, text, value = item.key, item.text, item.value
        if type(value) is not dict:
            yield _record(position, key, text, value, form, images)
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
        if images:
            path = images.of(path)[0]
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
            yield _record(position, key, text, value, form, images, category, gsd, cloud)


def _record(
    position: int,
    key: str | None,
    text: str,
    value: Any,
    form: Form,
    images: joined.ImageNames | None,
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
    elif row is not None and images:
        path, detail = images.of(row.get(form.image_key))
        problem = None if path else "no_path"
    elif row is not None:
        path, problem = text_of(row.get(form.image_key), "path")
        if isinstance(row.get(form.image_key), list) and len(row[form.image_key]) > 1:
            path, problem = None, "wrong_type"  # which of them? Perhaps the file has columns, not records
    else:
        problem, detail = "not_an_object", f"the record is of JSON type {json_type(value)}"
    if problem is None:
        prompt, problem = text_of(value if row is None else row.get(form.prompt_key), "prompt")
        if problem == "no_prompt" and row is not None and isinstance(row.get(TAGS), str):
            prompt, problem = text_of(row[TAGS], "prompt")
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
