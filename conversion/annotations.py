"""Any annotation file of the release as one stream of records.

Form, keys and encoding are recognised by content, since upstream publishes none of them. The file is decoded and parsed
a window at a time: memory does not grow with it. What cannot be used becomes a Record with a problem, the rest goes on.
"""

from __future__ import annotations

import codecs
import io
import json
import math
import re
from collections import Counter
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from typing import Any, BinaryIO

import msgspec

from conversion.errors import ReleaseError

IMAGE_KEYS = ("image", "image_path", "img", "img_path", "file_name", "filename", "path", "file", "image_name", "img_name",
              "filepath", "file_path", "name", "image_id")  # fmt: skip
PROMPT_KEYS = ("prompt", "text_prompt", "text", "caption", "captions", "description", "prompts", "texts", "sentence",
               "sentences")  # fmt: skip
CATEGORY_KEYS = ("category", "class", "class_name", "label", "scene")
GSD_KEYS = ("spatial_resolution", "gsd", "GSD", "resolution")
CLOUD_KEYS = ("cloud_cover", "cloud", "cloudcover")

WINDOW = 1 << 18  # characters read at a time
LONGEST = 64 << 20  # characters of one record; a longer one is no record
SAMPLED = 100  # records looked at to choose the keys
SHOWN = 200  # characters of a broken record that are kept

_SPACE = " \t\n\r"


class AnnotationError(ReleaseError):
    """An annotation file whose form or keys are not known. Example: records without any key that names an image."""


class Record(msgspec.Struct, frozen=True):
    """One annotation. Where `problem` is set it cannot be used, and `detail` says why."""

    position: int  # ordinal in its file, from 0
    path: str | None  # of the image, as it stands
    prompt: str | None
    category: str | None
    gsd: float | None  # metres a pixel
    cloud_cover: float | None  # as the file has it
    text: str  # the record verbatim
    problem: str | None = None
    detail: str | None = None


@dataclass(frozen=True)
class Form:
    """What was recognised of a file. `kind`: array, keyed, wrapped, lines or empty."""

    kind: str
    encoding: str
    image_key: str | None
    prompt_key: str | None
    keys: tuple[str, ...]  # that the first records have


def read(open_stream: Callable[[], BinaryIO], image_key: str | None = None, prompt_key: str | None = None,
         label: str = "annotations") -> tuple[Form, Iterator[Record]]:  # fmt: skip
    """The form of an annotation file and its records.

    `open_stream` gives the file's bytes, from the start each time. `image_key` and `prompt_key` are used instead of the
    keys that are known. Raises AnnotationError where the form or the keys are not known.
    """
    encoding = _encoding(open_stream)
    sampled, kind, seen = [], "empty", 0
    for seen, (found, key, _, value) in enumerate(_Parser(open_stream, encoding).items(), 1):
        if not isinstance(value, _Broken):
            kind = found
            sampled.append((key, value))
        if seen == SAMPLED:
            break
    if not seen:
        return Form("empty", encoding, None, None, ()), iter(())
    if not sampled:
        raise AnnotationError(f"{label}: is no JSON with records in it. Give a file with an array, an object keyed by "
                              "image path, or a record a line")  # fmt: skip
    keys = Counter(name for _, value in sampled if isinstance(value, dict) for name in value)
    found_image = image_key or (None if kind == "keyed" else _choose(keys, IMAGE_KEYS))
    found_prompt = prompt_key or _choose(keys, PROMPT_KEYS)
    if (kind != "keyed" and found_image is None) or (found_prompt is None and keys):
        what = "image path" if found_image is None and kind != "keyed" else "prompt"
        raise AnnotationError(f"{label}: no key that is known names the {what}; the records have {sorted(keys)}. Say it "
                              f"with --{'image' if what != 'prompt' else 'prompt'}-key")  # fmt: skip
    form = Form(kind, encoding, found_image, found_prompt, tuple(sorted(keys)))
    return form, _records(open_stream, form)


def _choose(keys: Counter[str], known: tuple[str, ...]) -> str | None:
    folded: dict[str, str] = {}
    for name in keys:
        folded.setdefault(name.lower(), name)
    return next((folded[name] for name in known if name in folded), None)


def _records(open_stream: Callable[[], BinaryIO], form: Form) -> Iterator[Record]:
    for position, (_, key, text, value) in enumerate(_Parser(open_stream, form.encoding).items()):
        yield _record(position, key, text, value, form)


def _record(position: int, key: str | None, text: str, value: Any, form: Form) -> Record:
    path = prompt = category = gsd = cloud = problem = detail = None
    if isinstance(value, _Broken):
        problem, detail = "invalid_json", value.detail
    elif key is not None:
        path = key
        prompt, problem = _text(value.get(form.prompt_key) if isinstance(value, dict) else value, "prompt")
    elif not isinstance(value, dict):
        problem, detail = "not_an_object", f"the record is a {type(value).__name__}"
    else:
        path, problem = _text(value.get(form.image_key), "path")
        if problem is None:
            prompt, problem = _text(value.get(form.prompt_key), "prompt")
    if isinstance(value, dict):
        category = _label(_first(value, CATEGORY_KEYS))
        gsd = _number(_first(value, GSD_KEYS), low=0.0)
        cloud = _number(_first(value, CLOUD_KEYS))
    if problem is None and key is not None and not key.strip():
        problem = "no_path"
    for part in (path, prompt, category):
        if problem is None and part is not None and not _is_text(part):
            problem, detail = "invalid_text", "its text holds half a character (a lone surrogate)"
    if not _is_text(text):
        text = text.encode("utf-8", "backslashreplace").decode()
    if problem and detail is None:
        detail = f"{path if path and _is_text(path) else 'no image path'}: {_shown(text)}"
    if problem:
        return Record(position, None, None, None, None, None, text, problem, detail)
    return Record(position, path, prompt, category, gsd, cloud, text)


def _shown(text: str) -> str:
    return text if len(text) <= SHOWN else text[:SHOWN] + "…"


def _text(value: Any, what: str) -> tuple[str | None, str | None]:
    """(the text, None) or (None, the problem). Of a list the first text that is not empty."""
    if isinstance(value, list):
        texts = [item for item in value if isinstance(item, str) and item.strip()]
        if not texts and any(not isinstance(item, str) and item is not None for item in value):
            return None, "wrong_type"
        value = texts[0] if texts else None
    if value is None or value == "":
        return None, f"no_{what}"
    if not isinstance(value, str):
        return None, "wrong_type"
    return (value, None) if value.strip() else (None, f"no_{what}")


def _first(value: dict[str, Any], names: tuple[str, ...]) -> Any:
    return next((value[name] for name in names if value.get(name) is not None), None)


def _label(value: Any) -> str | None:
    if isinstance(value, list) and value:
        value = value[0]
    return value if isinstance(value, str) and value.strip() else None


_NUMBER = re.compile(r"\s*([-+]?\d*\.?\d+(?:[eE][-+]?\d+)?)\s*(?:m|meters?|metres?|m/px|m/pixel|%)?\s*$")


def _number(value: Any, low: float | None = None) -> float | None:
    """A finite number, given as one or as text with a unit; above `low` where that is given."""
    if isinstance(value, str) and len(value) < 64 and (match := _NUMBER.match(value)):
        value = float(match.group(1))
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    try:
        value = float(value)
    except OverflowError:
        return None
    return value if math.isfinite(value) and (low is None or value > low) else None


def _is_text(text: str) -> bool:
    """Whether this can be written as UTF-8. JSON's escapes can spell halves of characters."""
    if text.isascii():
        return True
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


# --- text ------------------------------------------------------------------------------------------------------------


def _encoding(open_stream: Callable[[], BinaryIO]) -> str:
    """utf-8, utf-8-sig, utf-16 (-le, -be) or gb18030, by the file's bytes."""
    with open_stream() as stream:
        head = stream.read(WINDOW)
        for mark, encoding in ((codecs.BOM_UTF8, "utf-8-sig"), (codecs.BOM_UTF16_LE, "utf-16"), (codecs.BOM_UTF16_BE, "utf-16")):
            if head.startswith(mark):
                return encoding
        if len(head) >= 4 and head[0] and not head[1]:
            return "utf-16-le"
        if len(head) >= 4 and not head[0] and head[1]:
            return "utf-16-be"
        decoder = codecs.getincrementaldecoder("utf-8")()
        try:
            while head:
                decoder.decode(head)
                head = stream.read(WINDOW)
            decoder.decode(b"", final=True)
        except UnicodeDecodeError:
            return "gb18030"
    return "utf-8"


@dataclass(frozen=True)
class _Broken:
    detail: str


# key, the text, the value; `kind` first
_Item = tuple[str, "str | None", str, Any]


class _Parser:
    """Cuts a JSON text into its records, reading it a window at a time."""

    def __init__(self, open_stream: Callable[[], BinaryIO], encoding: str) -> None:
        self.source = io.TextIOWrapper(open_stream(), encoding, "replace", newline="")
        self.text, self.at = "", 0  # the window, and where we are in it
        self.before = 0  # characters before the window
        self.pin: int | None = None  # what follows this place in the window is still needed
        self.decoder = json.JSONDecoder(strict=False)

    def items(self) -> Iterator[_Item]:
        """(kind, key, text, value) of each record; a value that is _Broken is the last of its file or line."""
        try:
            while first := self._peek():
                if first == "[":
                    going_on = yield from self._array("array")
                elif first == "{":
                    going_on = yield from self._object()
                else:
                    going_on = yield from self._line()
                if not going_on:
                    return
        finally:
            self.source.close()

    def _more(self) -> bool:
        """Read on; what lies before the present place, or before the pin, is dropped. False at the end."""
        keep = self.at if self.pin is None else self.pin
        data = self.source.read(max(WINDOW, len(self.text) - keep))  # doubles: a long record is not read over and over
        if not data:
            return False
        self.text = self.text[keep:] + data
        self.before, self.at = self.before + keep, self.at - keep
        self.pin = None if self.pin is None else 0
        return True

    def _peek(self) -> str:
        """The next character that is no space, with the place moved to it; empty at the end."""
        while True:
            while self.at < len(self.text) and self.text[self.at] in _SPACE:
                self.at += 1
            if self.at < len(self.text):
                return self.text[self.at]
            if not self._more():
                return ""

    def _next(self) -> str:
        """As `_peek`, past commas."""
        while self._peek() == ",":
            self.at += 1
        return self._peek()

    def _value(self) -> tuple[Any, str]:
        """(value, its text) at the present place, which moves behind it; or (_Broken, the text's beginning)."""
        while True:
            try:
                value, end = self.decoder.raw_decode(self.text, self.at)
            except RecursionError:
                return self._broken("it is nested too deeply", self.at)
            except ValueError as error:  # JSONDecodeError, or a number of too many digits
                where = getattr(error, "pos", self.at)
                why = getattr(error, "msg", str(error))
                # What breaks at the window's end may be mended by reading on, what breaks before it may not.
                open_end = "Unterminated" in why or where >= len(self.text) - 16
                if len(self.text) - self.at > LONGEST:
                    return self._broken(f"it has more than {LONGEST} characters", self.at)
                if not open_end or not self._more():
                    return self._broken(why, where)
                continue
            # A number at the window's edge may go on beyond it.
            if end == len(self.text) and self.text[end - 1] not in '"]}' and self._more():
                continue
            text = self.text[self.at : end]
            self.at = end
            return value, text

    def _broken(self, why: str, where: int) -> tuple[_Broken, str]:
        return _Broken(f"{why}, at character {self.before + where}"), self.text[self.at : self.at + SHOWN]

    def _array(self, kind: str) -> Generator[_Item, None, bool]:
        self.at += 1
        while (char := self._next()) != "]":
            if not char:
                yield kind, None, "", self._broken("the file ends within its array", self.at)[0]
                return False
            value, text = self._value()
            yield kind, None, text, value
            if isinstance(value, _Broken):
                return False
        self.at += 1
        return True

    def _object(self) -> Generator[_Item, None, bool]:
        """An object at the top: a table keyed by image path, a wrapper around records, or a record itself."""
        self.pin = self.at
        self.at += 1
        kind: str | None = None
        members: list[_Item] = []  # held back until the kind is clear
        while (char := self._next()) != "}":
            begin = self.at
            if kind:
                self.pin = begin
            begin -= self.pin or 0  # relative to the pin, which stays while the window moves
            name, name_text = self._value() if char == '"' else self._broken("a name was expected", self.at)
            value, broken = name, isinstance(name, _Broken)
            if not broken and self._peek() != ":":
                value, name_text = self._broken("a value was expected after a name", self.at)
                broken = True
            if not broken:
                self.at += 1
                if self._peek() == "[" and kind is None and _holds_records(name) and self._is_array_of_objects():
                    kind, self.pin = "wrapped", None
                    if not (yield from self._array(kind)):
                        return False
                    continue
                value, name_text = self._value()
                broken = isinstance(value, _Broken)
            assert self.pin is not None or kind == "wrapped"
            if broken:
                yield kind or "lines", None, name_text, value
                if kind:
                    return False
                self.at, self.pin = self.pin or 0, None  # perhaps one line of many: go on after its first
                return (yield from self._skip_line())
            if kind == "wrapped":
                continue  # what stands beside the records: licences, information
            text = "{" + self.text[(self.pin or 0) + begin : self.at] + "}"
            item = ("keyed", name, text, value)
            if kind == "keyed":
                yield item
            else:
                members.append(item)
                if _is_keyed(name, value):
                    kind = "keyed"
                    yield from members
                    members = []
        self.at += 1
        text = self.text[self.pin or 0 : self.at]
        self.pin = None
        if kind is None and members:
            yield from self._record_or_table(members, text)
        return True

    def _is_array_of_objects(self) -> bool:
        assert self.pin is not None
        at = self.at - self.pin
        self.at += 1
        found = self._peek() == "{"
        self.at = self.pin + at
        return found

    def _record_or_table(self, members: list[_Item], text: str) -> Iterator[_Item]:
        """An object of which no member looks like a record: it is one itself, or holds a table of them."""
        value = {name: value for _, name, _, value in members}
        tables = [inner for inner in value.values() if isinstance(inner, dict) and any(_is_keyed(*item) for item in inner.items())]
        names = {str(name).lower() for name in value}
        if tables and not names & {*IMAGE_KEYS}:
            for table in tables:
                for name, inner in table.items():
                    yield "keyed", name, json.dumps({name: inner}, ensure_ascii=False), inner
        elif names & {*IMAGE_KEYS, *PROMPT_KEYS} or [] not in value.values():  # else a wrapper around nothing
            yield "lines", None, text, value

    def _line(self) -> Generator[_Item, None, bool]:
        value, text = self._value()
        yield "lines", None, text, value
        return (yield from self._skip_line()) if isinstance(value, _Broken) else True

    def _skip_line(self) -> Generator[_Item, None, bool]:
        """Go on at the next line: of JSON lines only the broken one is lost."""
        while (end := self.text.find("\n", self.at)) < 0:
            self.at = len(self.text)
            if not self._more():
                return False
        self.at = end + 1
        return True
        yield  # a generator, as its siblings are


def _holds_records(name: str) -> bool:
    """Whether an array under this name can be an array of records: not a list of prompts under a path or a key."""
    return name.lower() not in PROMPT_KEYS and not _PATH.search(name)


# Members that describe the file, not an image; COCO's `info` has a `description`.
_ABOUT = frozenset(("info", "meta", "metadata", "license", "dataset"))
_PATH = re.compile(r"[/\\]|\.(jpe?g|png|tiff?|bmp|webp)$", re.I)


def _is_keyed(name: str, value: Any) -> bool:
    """Whether an object's member is a record under its image's path."""
    if isinstance(value, dict):
        return bool(_PATH.search(name)) or (
            name.lower() not in _ABOUT and any(key.lower() in PROMPT_KEYS for key in value)
        )
    return bool(_PATH.search(name))
