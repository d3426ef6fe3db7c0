"""A JSON text cut into its records, a window at a time."""

from __future__ import annotations

import codecs
import re
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any, BinaryIO

from conversion.annotations.keys import _ABOUT, _DIGIT, _PATH, IMAGE_KEYS, PROMPT_KEYS, SHOWN, _fold, _is_prompt
from conversion.annotations.scanner import (
    _BRACKETS,
    _CONTROL,
    _GAP,
    _NAME,
    _STRICT,
    _STRING,
    DEEPEST,
    SAMPLED,
    _decode,
    _escaped,
    _Fault,
    _name,
    _sketch,
)

WINDOW = 1 << 18  # bytes read at a time
LONGEST = 4 << 20  # characters of one record; they can take 25 times as much memory when decoded
GLANCE = 1 << 16  # characters by which a broken object is judged
WASTE = 64 << 20  # characters decoded in vain, beyond 8 times the file, before a file of broken lines is given up
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


@dataclass(frozen=True)
class _Broken:
    """What stands in for a record that could not be decoded. `final`: nothing behind it can be found either."""

    problem: str
    detail: str
    final: bool
    where: int = 0  # character of the file at which decoding failed


# kind of the file, key in its table or None, verbatim text, value or _Broken
# kind of the file, key in its table or None, verbatim text, value or _Broken
_Item = tuple[str, "str | None", str, Any]


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
