"""Any annotation file of the release as one stream of records.

Form, keys and encoding are recognised by content, since upstream publishes none of them.

How it works:
- The file is decoded a window at a time and cut into records by `json`'s own scanner: memory does not grow with it.
- Whether an object is a record, a table keyed by image path or a wrapper around records is decided by as much of it as
  a record can have at the most. What is longer than that holds records, or is nobody's description of one image.
- The first records choose the keys. What then cannot be used becomes a Record with a problem, and the rest goes on.
"""

from __future__ import annotations

import codecs
import json
import math
import re
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any, BinaryIO

import msgspec

from conversion.errors import ReleaseError

# In the order of preference, in lower case without "_", "-" and spaces. A prompt is preferred to a caption, which is
# only a part of upstream's prompts.
IMAGE_KEYS = (
    "image",
    "imagepath",
    "img",
    "imgpath",
    "filename",
    "path",
    "file",
    "imagename",
    "imgname",
    "filepath",
    "imagefile",
    "name",
    "imageid",
)
PROMPT_KEYS = (
    "prompt",
    "textprompt",
    "prompts",
    "text",
    "texts",
    "caption",
    "captions",
    "description",
    "sentence",
    "sentences",
)
CATEGORY_KEYS = ("category", "class", "classname", "label", "scene")
GSD_KEYS = ("spatialresolution", "gsd")
CLOUD_KEYS = ("cloudcover", "cloud")

WINDOW = 1 << 18  # bytes read at a time
LONGEST = 4 << 20  # characters of one record; they can take 25 times as much memory when decoded
GLANCE = 1 << 16  # characters by which a broken object is judged
DEEPEST = 4  # objects that may lie around the records
SAMPLED = 100  # records looked at to choose the keys
SHOWN = 200  # characters of an unusable record in its detail
NAMED = 20  # keys named in a message
WASTE = 64 << 20  # characters decoded in vain, beyond 8 times the file, before a file of broken lines is given up

_GAP = re.compile(r"[ \t\n\r,\ufeff]*")  # commas are not counted: too many or too few do no harm
_NAME = re.compile(r'"[^"\\]*(?:\\.[^"\\]*)*"[ \t\n\r]*:[ \t\n\r]*', re.S)
_STRING = re.compile(r'"[^"\\]*(?:\\.[^"\\]*)*"', re.S)
_CONTROL = re.compile(r"[\x00-\x1f]")
_BRACKETS = re.compile(r'\\.|["\[\]{}]', re.S)
_PATH = re.compile(r"[/\\]|\.(?:jpe?g|png|tiff?|bmp|webp|jp2|gif)$", re.I)
_DIGIT = re.compile(r"\d")
# Members that describe the file, not an image; COCO's `info` has a `description`.
_ABOUT = frozenset(("info", "information", "meta", "metadata", "license", "licenses", "dataset", "config"))


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


def _choose(rows: list[dict[str, Any]], known: tuple[str, ...], preferred: str | None) -> str | None:
    """The key that is used: `preferred` where it is there, else the first that is known and has text often enough."""
    if preferred and any(preferred in row for row in rows):
        return preferred
    texts = Counter(name for row in rows for name, value in row.items() if _text(value, "text")[0] is not None)
    for counts in (texts, Counter(name for row in rows for name in row)):
        ranked = _ranked(counts, known)
        if ranked:
            most = max(counts[name] for name in ranked)
            return next(name for name in ranked if 2 * counts[name] >= most)
    return None


def _ranked(names: Iterable[str], known: tuple[str, ...]) -> list[str]:
    """Those of `names` that are known, best first."""
    ranks = {name: at for at, name in enumerate(known)}
    found = [(ranks[folded], name) for name in names if (folded := _fold(name)) in ranks]
    return [name for _, name in sorted(found)]


def _fold(name: str) -> str:
    return re.sub(r"[_\s-]", "", name.lower()) if len(name) < 64 else name


# --- records ---------------------------------------------------------------------------------------------------------


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


def _text(value: Any, what: str) -> tuple[str | None, str | None]:
    """(the text, None) or (None, the problem). Of a list the first text that is not empty."""
    if type(value) is list:
        texts = [item for item in value if isinstance(item, str) and item.strip()]
        if not texts and any(not isinstance(item, str) and item is not None for item in value):
            return None, "wrong_type"
        value = texts[0] if texts else None
    if value is None:
        return None, f"no_{what}"
    if not isinstance(value, str):
        return None, "wrong_type"
    return (value, None) if value and not value.isspace() else (None, f"no_{what}")


_HUGE = 10**300  # a float holds it
_NUMBER = re.compile(
    r"\s*([-+]?(?:\d+\.?\d*|\.\d+)(?:e[-+]?\d+)?)\s*(?:m|met(?:er|re)s?|%)?(?:\s*(?:/|per)\s*(?:px|pix|pixel))?\s*$",
    re.I | re.A,
)


def _number(value: Any, above: float = -math.inf) -> float | None:
    """A finite number, given as one or as text with its unit."""
    kind = type(value)
    if kind is float:
        return value if above < value < math.inf else None
    if kind is str and len(value) < 64 and (match := _NUMBER.match(value)):
        return _number(float(match[1]), above)
    return _number(float(value), above) if kind is int and abs(value) < _HUGE else None


def _is_text(text: str | None) -> bool:
    """Whether this can be written as UTF-8. JSON's escapes can spell halves of characters."""
    if text is None or text.isascii():
        return True
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _writable(text: str) -> str:
    return text if _is_text(text) else text.encode("utf-8", "backslashreplace").decode()


def _shortened(text: str) -> str:
    return text if len(text) <= SHOWN else text[:SHOWN] + "…"


def _json_type(value: Any) -> str:
    names = {str: "string", list: "array", dict: "object", bool: "boolean", type(None): "null"}
    return names.get(type(value), "number")


# --- text ------------------------------------------------------------------------------------------------------------

# Bytes that are no text become half a character, which never comes from sound ones, so that their record can be found.
_DAMAGED = "conversion-damaged"
codecs.register_error(_DAMAGED, lambda error: ("\udc80", error.end))  # type: ignore[attr-defined]


def _encoding(open_stream: Callable[[], BinaryIO]) -> str:
    """utf-8, utf-8-sig, utf-16 (-le, -be) or gb18030, by the file's bytes."""
    with open_stream() as stream:
        data = stream.read(WINDOW)
        for mark, encoding in (
            (codecs.BOM_UTF8, "utf-8-sig"),
            (codecs.BOM_UTF16_LE, "utf-16"),
            (codecs.BOM_UTF16_BE, "utf-16"),
        ):
            if data.startswith(mark):
                return encoding
        if len(data) >= 2 and 0 in data[:2] and any(data[:2]):  # JSON begins with an ASCII character
            return "utf-16-be" if data[0] == 0 else "utf-16-le"
        decoder = codecs.getincrementaldecoder("utf-8")()
        sound = 0  # bytes of UTF-8 beyond one a character
        while True:
            try:
                sound += len(data) - len(decoder.decode(data, final=not data))
            except UnicodeDecodeError:
                # A few bad bytes among sound ones are damage. In GBK text hardly a character is sound UTF-8.
                text = data.decode("utf-8", "replace")
                bad = text.count("\ufffd")
                return "utf-8" if sound + len(re.findall(r"[^\x00-\x7f\ufffd]", text)) > bad else "gb18030"
            if not data:
                return "utf-8"
            data = stream.read(WINDOW)


# --- JSON ------------------------------------------------------------------------------------------------------------


def _integer(digits: str) -> int:
    if len(digits.lstrip("-")) > 4300:  # int() takes quadratic time, and refuses as many itself since Python 3.10.7
        raise ValueError("it holds an integer of more than 4300 digits")
    return int(digits)


def _scanner(**options: Any) -> Callable[[str, int], tuple[Any, int]]:
    """What `JSONDecoder.raw_decode` calls: (value, where it ends). StopIteration holds where no value begins."""
    return json.JSONDecoder(**options).scan_once  # type: ignore[attr-defined, no-any-return]


_CAREFUL = _scanner(parse_int=_integer)
# The usual case: the interpreter itself limits integers, since 3.10.7.
_STRICT = _scanner() if hasattr(sys, "get_int_max_str_digits") else _CAREFUL
_LENIENT = _scanner(parse_int=_integer, strict=False)  # allows bare control characters in strings


class _Fault(Exception):
    """No value can be decoded. `open`: perhaps only because the text ends too early."""

    def __init__(self, why: str, where: int, open: bool, problem: str = "invalid_json") -> None:
        self.why, self.where, self.open, self.problem = why, where, open, problem


@dataclass(frozen=True)
class _Broken:
    """What stands in for a record that could not be decoded. `final`: nothing behind it can be found either."""

    problem: str
    detail: str
    final: bool
    where: int = 0  # character of the file at which decoding failed


# kind of the file, key in its table or None, verbatim text, value or _Broken
_Item = tuple[str, "str | None", str, Any]


def _decode(text: str, at: int) -> tuple[Any, int, bool]:
    """(value, where it ends, whether it is sound JSON) at `at`. Raises _Fault."""
    try:
        try:
            return *_CAREFUL(text, at), True
        except json.JSONDecodeError as error:
            if not error.msg.startswith("Invalid control character"):
                raise
        return *_LENIENT(text, at), False
    except StopIteration as error:
        where, why = error.value, "Expecting value"
    except json.JSONDecodeError as error:
        where, why = error.pos, error.msg
    except ValueError as error:  # of `_integer`
        raise _Fault(str(error), at, False, "too_long") from None
    except RecursionError:
        raise _Fault("it is nested too deeply", at, False, "too_deep") from None
    # 16: a literal or an escape that is cut, `-Infinity` being the longest, shows at its beginning.
    raise _Fault(why, where, why.startswith("Unterminated") or where >= len(text) - 16)


def _sketch(text: str, at: int, deep: int = 0) -> Any:
    """The value at `at`, or of an unfinished one as much as can be decoded; None for nothing."""
    try:
        return _decode(text, at)[0]
    except _Fault:
        if deep == DEEPEST:
            return None
    array: list[Any] = []
    table: dict[str, Any] = {}
    first, at = text[at : at + 1], at + 1
    while first in ("[", "{") and len(array) + len(table) < SAMPLED:
        at = _GAP.match(text, at).end()  # type: ignore[union-attr]
        name = _NAME.match(text, at) if first == "{" else None
        if first == "{" and name is None:
            break
        begin = name.end() if name else at
        try:
            value, end, _ = _decode(text, begin)
        except _Fault:
            value, end = _sketch(text, begin, deep + 1), -1
        if name:
            table[_name(name) or ""] = value
        else:
            array.append(value)
        if end < 0:
            break
        at = end
    return {"[": array, "{": table}.get(first)


def _name(match: re.Match[str]) -> str | None:
    """A member's name; None where it has an escape that is none."""
    try:
        return str(_LENIENT(match[0], 0)[0])
    except ValueError:
        return None


class _Parser:
    """Cuts a JSON text into its records, reading it a window at a time."""

    def __init__(self, stream: BinaryIO, encoding: str, image_key: str | None, prompt_key: str | None) -> None:
        self.stream = stream
        self.decoder = codecs.getincrementaldecoder(encoding)(_DAMAGED)
        self.text, self.at = "", 0  # the window, and where we are in it; what lies before is no longer needed
        self.before = 0  # characters before the window
        self.ended = False  # the window holds the file's last character
        self.stopped = False  # nothing more can be found
        self.wasted = 0  # characters that were decoded in vain
        self.others: Counter[str] = Counter()  # keys of objects that are no records although they stand in an array
        self.image_names = {*IMAGE_KEYS, *([_fold(image_key)] if image_key else ())}
        self.prompt_names = {*PROMPT_KEYS, *([_fold(prompt_key)] if prompt_key else ())}
        self.known: set[tuple[str, ...]] = set()  # keys of objects that were found to be records

    def items(self) -> Iterator[_Item]:
        """Each record of the file, in its order."""
        while not self.stopped and (first := self._peek()):
            if first == "[":
                yield from self._array("array")
            elif first == "{":
                if self.known:  # a record a line
                    yield from self._whole("lines", self.known)
                if self._peek() == "{":
                    yield from self._object(0)
            else:
                yield from self._line()

    def strength(self, value: Any) -> int:
        """How much this looks like a record: 0 not, 1 a little, 3 with what must be the path of an image."""
        if not isinstance(value, dict):
            return 0
        names = {_fold(name): name for name in value}
        image, prompt = (
            next((names[name] for name in names if name in known), None)
            for known in (self.image_names, self.prompt_names)
        )
        if image is None or prompt is None:
            return 0
        paths = [value[name] for folded, name in names.items() if folded in self.image_names]
        if any(isinstance(path, str) and _PATH.search(path) for path in paths):
            return 3
        return 1 if _fold(image) == "name" else 2

    # -- the window

    def _more(self) -> bool:
        """Read on. False at the end."""
        if self.ended:
            return False
        rest = self.text[self.at :]
        data = self.stream.read(max(WINDOW, len(rest)))  # doubles: a long record is not read over and over
        self.ended = not data
        self.text = rest + self.decoder.decode(data, final=self.ended)
        self.before, self.at = self.before + self.at, 0
        return True

    def _peek(self) -> str:
        """The next character that is neither space nor comma, with the place moved to it; empty at the end."""
        while True:
            self.at = _GAP.match(self.text, self.at).end()  # type: ignore[union-attr]
            if self.at < len(self.text):
                return self.text[self.at]
            if not self._more():
                return ""

    def _fill(self) -> None:
        """Read on until there is enough to judge by, also where that is broken."""
        while len(self.text) - self.at < GLANCE and self._more():
            pass

    def _beginning(self) -> str:
        """What stands at the present place, to be shown."""
        while len(self.text) - self.at < SHOWN and self._more():
            pass
        return self.text[self.at : self.at + SHOWN]

    # -- values

    def _value(self, lead: int = 0) -> tuple[Any, str]:
        """(value, text) of the value that stands `lead` characters on; the text includes them. The place moves behind.

        Where it cannot be decoded the value is _Broken: too long or too deep, then it was skipped, else `final`.
        """
        while True:
            try:
                value, end = _STRICT(self.text, self.at + lead)
                sound = True
            except (StopIteration, ValueError, RecursionError):
                try:
                    value, end, sound = _decode(self.text, self.at + lead)
                except _Fault as fault:
                    if fault.problem != "invalid_json":
                        return self._skip(lead, fault.problem, fault.why)
                    if len(self.text) - self.at > LONGEST and fault.open:
                        return self._too_long(lead)
                    if fault.open and self._more():
                        continue
                    return self._broken(fault.why, fault.where)
            # A number at the window's edge may go on beyond it.
            if end == len(self.text) and self.text[end - 1] not in '"]}' and self._more():
                continue
            if end - self.at > LONGEST:
                return self._too_long(lead)
            text = self.text[self.at : end]
            self.at = end
            return value, text if sound else _STRING.sub(_escaped, text)

    def _broken(self, why: str, where: int) -> tuple[_Broken, str]:
        where += self.before
        text = self._beginning()
        return _Broken("invalid_json", f"{why}, at character {where}", True, where), text

    def _too_long(self, lead: int) -> tuple[_Broken, str]:
        return self._skip(lead, "too_long", f"it has more than {LONGEST} characters")

    def _skip(self, lead: int, problem: str, why: str) -> tuple[_Broken, str]:
        """Go past the value by its brackets, without decoding it."""
        text, where = self._beginning(), self.before + self.at
        self.at += lead
        depth, quoted = 0, False
        while True:
            for match in _BRACKETS.finditer(self.text, self.at):
                mark = match[0]
                if mark == '"':
                    quoted = not quoted
                elif quoted or mark[0] == "\\":
                    continue
                else:
                    depth += 1 if mark in "[{" else -1
                if depth <= 0 and not quoted:
                    self.at = match.end()
                    return _Broken(problem, f"{why}, at character {where}", False), text
            backslashes = len(self.text) - len(self.text.rstrip("\\"))
            self.at = len(self.text) - backslashes % 2  # the last one waits for what it escapes
            if not self._more():
                self.at = len(self.text)
                return _Broken(problem, f"{why}, at character {where}", True), text

    # -- containers

    def _whole(self, kind: str, known: set[tuple[str, ...]] | None = None) -> Iterator[_Item]:
        """The objects that stand whole in the window, one after the other: the usual case, without a second look.

        Only those whose keys are `known`, where that is given.
        """
        text, at = self.text, self.at
        try:
            while True:
                at = _GAP.match(text, at).end()  # type: ignore[union-attr]
                value, end = _STRICT(text, at)
                if text[end - 1] != "}" or end - at > LONGEST or (known is not None and tuple(value) not in known):
                    return
                self.at = end
                yield kind, None, text[at:end], value
                at = end
        except (StopIteration, ValueError, RecursionError):
            return

    def _array(self, kind: str) -> Iterator[_Item]:
        self.at += 1
        while True:
            yield from self._whole(kind)
            first = self._peek()
            if first == "]":
                break
            value, text = self._value() if first else self._broken("the file ends within its array", self.at)
            yield kind, None, text, value
            if isinstance(value, _Broken) and value.final:
                self.stopped = True
                return
        self.at += 1

    def _object(self, depth: int) -> Iterator[_Item]:
        """A record, a table keyed by image path, or what lies around records."""
        if depth == 0 and self.known:  # where there was a record at the top there is a record a line
            yield from self._line()
            return
        shape, value = self._shape(depth)
        if shape == "keyed":
            yield from self._members(depth)
        elif shape == "wrapped":
            yield from self._members(depth, inside=True)
        elif depth == 0:
            if shape == "record" and isinstance(value, dict):
                if len(self.known) > 1000:
                    self.known.clear()
                self.known.add(tuple(value))
            yield from self._line()
        else:
            yield from self._pass()

    def _shape(self, depth: int) -> tuple[str, Any]:
        """(record, keyed, wrapped or unknown; the object if it is whole) of the object at the present place."""
        self._fill()
        while True:
            try:
                value, end, _ = _decode(self.text, self.at)
                if end - self.at <= LONGEST:
                    return self._shape_of(value, depth), value
                is_open = True
            except _Fault as fault:
                value, is_open = _sketch(self.text, self.at) or {}, fault.open
            if self.strength(value) == 0 and any(self._is_keyed(*member) for member in value.items()):
                return "keyed", None  # without a doubt, however it goes on
            if is_open and len(self.text) - self.at > LONGEST:  # too long for a record: they are further on within it
                return "keyed" if self._shape_of(value, depth) == "keyed" else "wrapped", None
            if not is_open or not self._more():
                return self._shape_of(value, depth), None

    def _shape_of(self, value: dict[str, Any], depth: int) -> str:
        members = list(islice(value.items(), SAMPLED))
        own = self.strength(value)
        if own == 3:
            return "record"
        if own == 0 and any(self._is_keyed(*member) for member in members):
            return "keyed"
        inner = max((self._strength_inside(inner, depth + 1) for _, inner in members), default=0)
        if inner > own:
            return "wrapped"
        if own:
            return "record"
        if any(
            _fold(name) not in _ABOUT and isinstance(row, dict) and self.prompt_names & {_fold(key) for key in row}
            for name, row in members
        ):
            return "keyed"
        if members and all(_DIGIT.search(name) and _is_prompt(row) for name, row in members):
            return "keyed"
        names = {_fold(name) for name in value}
        return "record" if names & (self.image_names | self.prompt_names) else "unknown"

    def _is_keyed(self, name: str, value: Any) -> bool:
        """Whether an object's member is a record under its image's path; without a doubt, by the path."""
        if not _PATH.search(name):
            return False
        if isinstance(value, dict):
            return bool(self.prompt_names & {_fold(key) for key in value}) or not any(
                isinstance(inner, (dict, list)) for inner in value.values()
            )
        return value is None or _is_prompt(value)

    def _strength_inside(self, value: Any, depth: int) -> int:
        """The strength of the best record in an array or object; of an object that is one itself nothing counts."""
        if isinstance(value, list):
            return max((self.strength(row) for row in value[:SAMPLED]), default=0)
        if isinstance(value, dict) and depth < DEEPEST:
            shape = self._shape_of(value, depth)
            return 3 if shape in ("keyed", "wrapped") else 0
        return 0

    def _members(self, depth: int, inside: bool = False) -> Iterator[_Item]:
        """The members of an object: each a record under its key, or (`inside`) perhaps with records in it."""
        self.at += 1
        while True:
            if not inside:
                yield from self._whole_members()
            first = self._peek()
            if first == "}":
                break
            name = self._named() if first == '"' else None
            if name is None:
                why = "Expecting a name and a value" if first else "the file ends within its object"
                value, text = self._broken(why, self.at)
            elif inside and self._opens(name.end()):
                self.at = name.end()
                yield from self._descend(depth)
                if self.stopped:
                    return
                continue
            else:
                value, text = self._value(len(name[0]))
            if not inside or isinstance(value, _Broken):
                key = None if name is None or isinstance(value, _Broken) else _name(name)
                if key is not None and name is not None:
                    text = "{" + (_STRING.sub(_escaped, text) if _CONTROL.search(name[0]) else text) + "}"
                elif not isinstance(value, _Broken):
                    value = _Broken("invalid_json", "Invalid escape in its name", False)
                if not inside or value.final:
                    yield "wrapped" if inside else "keyed", key, text, value
            if isinstance(value, _Broken) and value.final:
                self.stopped = True
                return
        self.at += 1

    def _whole_members(self) -> Iterator[_Item]:
        """As `_whole`, of a table keyed by image path."""
        text, at = self.text, self.at
        try:
            while True:
                at = _GAP.match(text, at).end()  # type: ignore[union-attr]
                name = _NAME.match(text, at)
                if name is None:
                    return
                key, end = _STRICT(text, at)
                value, end = _STRICT(text, name.end())
                if text[end - 1] not in '}"]' or end - at > LONGEST:
                    return
                self.at = end
                yield "keyed", key, "{" + text[at:end] + "}", value
                at = end
        except (StopIteration, ValueError, RecursionError):
            return

    def _named(self) -> re.Match[str] | None:
        """The member's name at the present place, with the colon and the value's first character in the window."""
        while True:
            match = _NAME.match(self.text, self.at)
            if match and (match.end() < len(self.text) or self.ended):
                return match
            if len(self.text) - self.at > LONGEST or not self._more():
                return match

    def _opens(self, at: int) -> bool:
        return self.text[at : at + 1] in ("[", "{")

    def _descend(self, depth: int) -> Iterator[_Item]:
        """Into an array or object beside or around which there are other things."""
        if depth + 1 >= DEEPEST:
            yield from self._pass()
        elif self.text[self.at] == "{":
            yield from self._object(depth + 1)
        else:
            self._fill()
            while True:
                rows = _sketch(self.text, self.at)
                if rows or len(self.text) - self.at > LONGEST or not self._more():
                    break
            found = self._strength_inside(rows, depth + 1)
            if not found and isinstance(rows, list):
                self.others.update(name for row in rows[:SAMPLED] if isinstance(row, dict) for name in row)
            for item in self._array("wrapped"):
                if found or (isinstance(item[3], _Broken) and item[3].final):
                    yield item

    def _pass(self) -> Iterator[_Item]:
        """Go past a value that is of no use."""
        value, text = self._value()
        if isinstance(value, _Broken) and value.final:
            self.stopped = True
            yield "wrapped", None, text, value

    # -- lines

    def _line(self) -> Iterator[_Item]:
        """A record at the top. Where it is broken its line is lost, and no other."""
        if self.at > 4096:  # a JSONDecodeError counts the lines from the window's beginning
            self.text, self.before, self.at = self.text[self.at :], self.before + self.at, 0
        value, text = self._value()
        if not isinstance(value, _Broken) or not value.final:
            yield "lines", None, text, value
            return
        yield "lines", None, text.partition("\n")[0].rstrip("\r"), value
        begin = self.before + self.at
        while (end := self.text.find("\n", self.at)) < 0:
            self.at = len(self.text)
            if not self._more():
                self.stopped = True
                return
        self.at = end + 1
        self.wasted += max(0, value.where - begin)
        if self.wasted > WASTE + 8 * (self.before + self.at):
            self.stopped = True
            yield "lines", None, "", _Broken("invalid_json", "given up here, after too many broken lines", True)


def _is_prompt(value: Any) -> bool:
    texts = value if isinstance(value, list) else [value]
    return bool(texts) and all(isinstance(text, str) for text in texts)


def _escaped(match: re.Match[str]) -> str:
    return _CONTROL.sub(lambda control: f"\\u{ord(control[0]):04x}", match[0])
