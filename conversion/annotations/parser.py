"""A JSON text cut into its records, which stand in an array, in a table keyed by image path, or one per line.

Whether an object is a record, a table or a wrapper is decided by as much of it as a record can have at most. What is
longer holds records, or is nobody's description of one image. Each record that cannot be decoded comes as Broken, and
reading goes on with the next one.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import chain
from typing import Any

import msgspec

from conversion.annotations.keys import is_path
from conversion.annotations.recovery import LAYOUTS, NOISE, Recovery
from conversion.annotations.scanner import (
    CONTROL,
    DEEPEST,
    GAP,
    NAME,
    PLAIN_NAME,
    SAMPLED,
    STRING,
    Fault,
    decode,
    escape_controls,
    member_name,
    sketch,
    strict,
)
from conversion.annotations.shape import Names, is_table, shape_of, strength_inside
from conversion.annotations.window import SHOWN, Limits, Window

BATCH = 256  # records; several times as many do not fit into the processor's cache
# What most programs write between two records, with the beginning of the next one: how many characters to go on. A
# regular expression tells it for the others, in three times the time.
_NEXT_OBJECT = {", {": 2, ",\n{": 2, ',{"': 1, '\n{"': 1}
_NEXT_MEMBER = {', "': 2, ',\n"': 2}
BEGINNING = 16  # characters in which a table begins whose opening brace is damaged

_ARRAY_OF_ARRAYS = re.compile(r"\[\s*\[")
_OBJECTS = re.compile(r"\[\s*\{")
_ENDING = re.compile(r"[\s\x00\x1a]*")  # what programs and systems leave behind a whole file
_OBJECT_ON_LINE = re.compile(r"\n[ \t]*\{")
_COMMA = re.compile(r"[ \t\r\n\ufeff]*(,?)[ \t\r\n]*")
_COMMA_ON_LINE = re.compile(r"[ \t]*(,?)[ \t]*")


@dataclass(frozen=True)
class Broken:
    """Stands in for a record that could not be decoded."""

    problem: str
    detail: str


class Item(msgspec.Struct, frozen=True, gc=False):  # made several times as fast as a NamedTuple
    """One record as it stands in the file."""

    kind: str  # of the file: array, keyed, wrapped or lines
    key: str | None  # in its table
    text: str  # verbatim
    value: Any  # or Broken


class Parser:
    """Cuts a JSON text into its records, in one pass over the window."""

    def __init__(self, window: Window, names: Names, limits: Limits) -> None:
        self.window, self.names, self.limits = window, names, limits
        self.recovery = Recovery(window, names, limits)
        self.others: list[dict[str, Any]] = []  # the first objects that are not records although they stand in an array
        self.see_other: Callable[[dict[str, Any]], None] | None = None  # is given each of them
        self._known: set[tuple[str, ...]] = set()  # keys of objects at the top that were seen to be records
        self._is_pretty = False  # records at the top are written over several lines
        self._is_lost = False  # behind damage no other record was found
        self._has_skipped = False  # there was damage in a wrapper, so it cannot be told where it ends

    def items(self) -> Iterator[Item]:
        """Each record of the file, in its order."""
        return chain.from_iterable(self._batches())

    # Below, records come in lists, a window's worth at a time: it would take a quarter of the time to pass each through
    # several generators.

    def _batches(self) -> Iterator[list[Item]]:
        while first := self.window.peek():
            if first == "[" and not self._is_line():
                yield from self._array("array")
            elif first == "{":
                if self._known:  # one record per line
                    yield self._whole_objects("lines", self._known)
                if self.window.peek() == "{":
                    yield from self._object(0)
            elif first in "]}":
                self.window.position += 1
            elif self._begins_as_table():
                yield from self._table(0)
            elif first not in "\x00\x1a" or not self._ends():
                yield from self._line()

    def _is_line(self) -> bool:
        """Whether an array at the top is one line of many: it does not begin with an object, as one of records does."""
        self.window.fill(SHOWN)
        match = _ARRAY_OF_ARRAYS.match(self.window.text, self.window.position)
        return match is not None or (bool(self._known) and not _OBJECTS.match(self.window.text, self.window.position))

    def _begins_as_table(self) -> bool:
        """Whether the file begins as a table whose opening brace is damaged. Moves to its first member."""
        if self.window.place > NOISE:
            return False
        self.window.fill(SHOWN)
        name = NAME.search(self.window.text, self.window.position)
        if name is None or not is_path(member_name(name[0]) or "") or name.start() - self.window.position > BEGINNING:
            return False
        self.window.position = name.start()
        return True

    def _ends(self) -> bool:
        """Move past zeros and Ctrl-Z. Whether nothing stands behind them."""
        while True:
            match = _ENDING.match(self.window.text, self.window.position)
            if match and match.end() < len(self.window.text):
                return False
            self.window.position = len(self.window.text)
            if not self.window.more():
                return True

    # -- values

    def _value(self, lead: int = 0) -> tuple[Any, str]:
        """(value, text) of the value that stands `lead` characters on; the text includes them. Moves behind it.

        If it cannot be decoded the value is Broken, the text its beginning, and the position stays.
        """
        window, longest = self.window, self.limits.longest
        if self.recovery.is_exhausted:
            return self._broken("given up, after too much damage before it")
        while True:
            try:
                value, end = strict(window.text, window.position + lead)
                sound = True
            except (ValueError, RecursionError):
                try:
                    value, end, sound = decode(window.text, window.position + lead)
                except Fault as fault:
                    if fault.is_open and window.left > longest:
                        return self._too_long()
                    if fault.is_open and window.more():
                        continue
                    self.recovery.waste(fault, window.position)
                    place = window.place + (fault.position - window.position)
                    return self._broken(fault.why, fault.problem, place)
            # A number at the window's edge may go on beyond it.
            if end == len(window.text) and window.text[end - 1] not in '"]}' and window.more():
                continue
            if end - window.position > longest:
                return self._too_long()
            text = window.text[window.position : end]
            window.position = end
            return value, text if sound else escape_controls(text)

    def _broken(self, why: str, problem: str = "invalid_json", place: int | None = None) -> tuple[Broken, str]:
        place = self.window.place if place is None else place
        return Broken(problem, f"{why}, at character {place}"), self.window.beginning()

    def _too_long(self) -> tuple[Broken, str]:
        self.recovery.wasted += self.limits.longest
        return self._broken(f"it has more than {self.limits.longest} characters", "too_long")

    # -- containers

    def _whole_objects(self, kind: str, known: set[tuple[str, ...]] | None = None) -> list[Item]:
        """The objects that stand whole in the window, one after the other: the usual case, without a second look.

        If `known` is given, only those with these keys.
        """
        items: list[Item] = []
        if self.recovery.is_exhausted:
            return items
        text, position, longest, gap = self.window.text, self.window.position, self.limits.longest, GAP.match
        with contextlib.suppress(ValueError, RecursionError, IndexError):
            begin = gap(text, position).end()  # type: ignore[union-attr]
            while len(items) < BATCH:
                value, end = strict(text, begin)
                if text[end - 1] != "}" or end - begin > longest:
                    break
                following = end + _NEXT_OBJECT.get(text[end : end + 3], 0)
                if following == end:
                    following = gap(text, end).end()  # type: ignore[union-attr]
                    if text[following] not in "{]":  # or an IndexError: what stands behind is not in the window
                        break
                if known is not None and tuple(value) not in known:
                    break
                items.append(Item(kind, None, text[begin:end], value))
                position, begin = end, following
        self.window.position = position
        if items:
            self.recovery.learn_object(items[-1].value)
        return items

    def _array(self, kind: str) -> Iterator[list[Item]]:
        self.window.position += 1
        yield from self._elements(kind)

    def _elements(self, kind: str) -> Iterator[list[Item]]:
        """The records of an array, the position being behind its opening bracket."""
        window = self.window
        while True:
            yield self._whole_objects(kind)
            first = window.peek()
            if first == "]":
                window.position += 1
                if window.peek() != "{":  # behind a bracket that does not belong there the array goes on
                    return
            elif first == "}":  # it does not belong there
                window.position += 1
            elif first:
                yield from self._element(kind)
            else:
                if not self._is_lost:
                    yield [Item(kind, None, "", self._broken("the file ends within its array")[0])]
                return

    def _element(self, kind: str) -> Iterator[list[Item]]:
        """One element of an array, or whatever stands in its place up to the next one."""
        begin = self.window.place
        value, text = self._value()
        is_decoded = not isinstance(value, Broken)
        if is_decoded:
            if isinstance(value, dict):
                self.recovery.learn_object(value)
            if not self._closes_too_early(value):
                yield [Item(kind, None, text, value)]
                return
            if not isinstance(value, dict):  # the next record may have been taken for a part of it
                self.window.position -= self.window.place - begin
            value = self._broken("it is closed too early")[0]
        self.recovery.learn_beginning(text)
        has_next = self.recovery.next_object()
        self._is_lost = not has_next
        if is_decoded or not (has_next and self.recovery.is_noise(text, self.window.place - begin)):
            yield [Item(kind, None, text, value)]

    def _closes_too_early(self, value: Any) -> bool:
        """Whether the element before the position goes on behind it. Moves to what stands there."""
        has_comma = self._passes_comma()
        if isinstance(value, dict):
            return self.recovery.closes_too_early(has_comma)
        following = self.window.text[self.window.position : self.window.position + 1]
        return following == ":" or (isinstance(value, str) and not has_comma and following not in "]")

    def _passes_comma(self) -> bool:
        """Move to what stands behind a value. Whether a comma stands between."""
        comma = self.window.match(_COMMA, self.limits.longest)
        if self.window.peek() == '"':
            self.window.match(NAME, self.limits.longest)  # reads on
        self.window.fill(NOISE + 1)
        return comma is not None and bool(comma[1])

    def _object(self, depth: int) -> Iterator[list[Item]]:
        """A record, a table keyed by image path, or what surrounds records."""
        if depth == 0 and self._known:  # where one record stood at the top, one stands on each line
            yield from self._line()
            return
        shape, value = self._shape(depth)
        if shape == "keyed":
            self.window.position += 1
            yield from self._table(depth)
        elif shape == "wrapped":
            self.window.position += 1
            yield from self._wrapper(depth)
        elif depth == 0:
            if shape == "record" and isinstance(value, dict):
                self._learn(value)
            yield from self._line()
        else:
            yield from self._pass()

    def _learn(self, record: dict[str, Any]) -> None:
        if len(self._known) > LAYOUTS:
            self._known.clear()
        self._known.add(tuple(record))
        self.recovery.learn_object(record)

    def _shape(self, depth: int) -> tuple[str, Any]:
        """(record, keyed, wrapped or unknown; the object if it is whole) of the object at the position."""
        window, longest = self.window, self.limits.longest
        window.fill(self.limits.glance)
        while True:
            try:
                value, end, _ = decode(window.text, window.position)
                if end - window.position <= longest:
                    return shape_of(value, depth, self.names), value
                is_open = True
            except Fault as fault:
                text = window.text
                if fault.problem == "too_deep" and (end := text.find("\n", window.position)) > window.position + SHOWN:
                    text = text[:end]  # perhaps it is one line of many
                value, is_open = sketch(text, window.position) or {}, fault.is_open
            if is_table(value, depth, self.names):
                return "keyed", None  # without a doubt, however it goes on
            if is_open and window.left > longest:  # too long for a record: they are further on within it
                return "keyed" if shape_of(value, depth, self.names) == "keyed" else "wrapped", None
            if not is_open or not window.more():
                return shape_of(value, depth, self.names), None

    # -- tables keyed by image path

    def _table(self, depth: int) -> Iterator[list[Item]]:
        """The members of a table, the position being behind its opening brace."""
        window = self.window
        while True:
            yield self._whole_members()
            first = window.peek()
            if first == "}":
                window.position += 1
                if self._is_behind(depth) and not self._is_at_member():
                    return
            elif first:
                yield from self._member()
            else:
                if not self._is_lost:
                    yield [Item("keyed", None, "", self._broken("the file ends within its object")[0])]
                return

    def _is_behind(self, depth: int) -> bool:
        """Whether the brace before the position closed the object, so that what follows does not belong to it."""
        following = self.window.peek()
        return not following or following in ('"}]' if depth else "{[]}\x00\x1a")

    def _whole_members(self) -> list[Item]:
        """As `_whole_objects`, for a table."""
        items: list[Item] = []
        if self.recovery.is_exhausted:
            return items
        text, position, longest, gap = self.window.text, self.window.position, self.limits.longest, GAP.match
        most, has_paths = self.recovery.most_members, self.recovery.has_paths
        item = None  # counts when a member or the end of the table is seen behind it
        with contextlib.suppress(ValueError, RecursionError, IndexError):
            begin = gap(text, position).end()  # type: ignore[union-attr]
            while len(items) < BATCH:
                name = PLAIN_NAME.match(text, begin) or NAME.match(text, begin)
                if name:
                    key = name[1] if name.re is PLAIN_NAME else strict(text, begin)[0]
                    if has_paths and "/" not in key and "." not in key:  # perhaps it belongs to the record before it
                        break
                if item and (name or text[begin] == "}"):
                    items.append(item)
                    position, item = begin, None
                if name is None:
                    break
                value, end = strict(text, name.end())
                if text[end - 1] not in '}"]' or end - begin > longest or text[end] not in ",}":
                    break
                if type(value) is dict and len(value) > most:  # perhaps it is not closed
                    break
                item = Item("keyed", key, "{" + text[begin:end] + "}", value)
                begin = end + _NEXT_MEMBER.get(text[end : end + 3], 0)
                if begin == end:
                    begin = gap(text, end).end()  # type: ignore[union-attr]
        self.window.position = position
        if items:
            self.recovery.learn_member(items[-1].key or "", items[-1].value)
        return items

    def _member(self) -> Iterator[list[Item]]:
        """One member of a table, or whatever stands in its place up to the next one."""
        window = self.window
        begin = window.place
        name = window.match(NAME, self.limits.longest) if window.text[window.position] == '"' else None
        if name is None:
            value, text = self._broken("Expecting a name and a value")
        else:
            value, text = self._value(len(name[0]))
        is_decoded = not isinstance(value, Broken)
        if name is not None and is_decoded:
            key = member_name(name[0])
            if self.recovery.swallowed_members(value):
                value = self._broken("it is not closed")[0]
            elif self._member_ends(key, value):
                if key is None:
                    yield [Item("keyed", None, text, Broken("invalid_json", "Invalid escape in its name"))]
                else:
                    text = escape_controls(text) if CONTROL.search(name[0]) else text
                    yield [Item("keyed", key, "{" + text + "}", value)]
                return
            else:
                value = self._broken("it is closed too early")[0]
            window.position -= window.place - begin - len(name[0])  # the next one may have been taken for its value
        has_next = self.recovery.next_member()
        self._is_lost = not has_next
        if is_decoded or not (has_next and self.recovery.is_noise(text, window.place - begin)):
            yield [Item("keyed", None, text, value)]

    def _is_at_member(self) -> bool:
        if self.window.peek() == '"':
            self.window.match(NAME, self.limits.longest)  # reads on
        return self.recovery.is_at_member()

    def _member_ends(self, key: str | None, value: Any) -> bool:
        """Whether the member before the position is whole. Moves to what stands behind it."""
        has_comma = self._passes_comma()
        if self.window.text[self.window.position : self.window.position + 1] in "}" or (
            has_comma and not self.recovery.is_at_field() and (not isinstance(value, str) or self.recovery.ends_text())
        ):
            if key is not None:
                self.recovery.learn_member(key, value)
            return True
        return self.recovery.is_at_member()

    # -- wrappers around records

    def _wrapper(self, depth: int) -> Iterator[list[Item]]:
        """The records in the members of an object, the position being behind its opening brace."""
        window = self.window
        while True:
            first = window.peek()
            if first == "}":
                window.position += 1
                if self._is_behind(depth):
                    return
            elif first == "]":  # it does not belong there
                window.position += 1
            elif first == "{":  # behind damage, a record of an array
                yield from self._elements("wrapped")
            elif first == '"' and (name := window.match(NAME, self.limits.longest)):
                lead = len(name[0])
                if window.text[name.end() : name.end() + 1] in ("[", "{"):
                    window.position += lead
                    yield from self._descend(depth)
                else:
                    yield from self._pass(lead)
            else:
                if first or not (self._has_skipped or self._is_lost):
                    why = "Expecting a name and a value" if first else "the file ends within its object"
                    yield from self._skip_damage(*self._broken(why))
                if not first:
                    return

    def _pass(self, lead: int = 0) -> Iterator[list[Item]]:
        """Go past a value that is of no use, and the `lead` characters before it."""
        value, text = self._value(lead)
        if isinstance(value, Broken):
            if value.problem != "invalid_json":
                self.window.position += lead
                if self.window.skip_value():
                    return
            yield from self._skip_damage(value, text)

    def _skip_damage(self, value: Broken, text: str) -> Iterator[list[Item]]:
        """Go past damage beside records, which counts only if no records are found behind it."""
        self._has_skipped = True
        self._is_lost = not self.recovery.next_container()
        if self._is_lost:
            yield [Item("wrapped", None, text, value)]

    def _descend(self, depth: int) -> Iterator[list[Item]]:
        """Into an array or object beside or around which there are other things."""
        window = self.window
        if depth + 1 >= DEEPEST:
            yield from self._pass()
        elif window.text[window.position] == "{":
            yield from self._object(depth + 1)
        else:
            window.fill(self.limits.glance)
            while True:
                rows = sketch(window.text, window.position)
                if rows or window.left > self.limits.longest or not window.more():
                    break
            has_records = strength_inside(rows, depth + 1, self.names) > 0
            for batch in self._array("wrapped"):
                if has_records:
                    yield batch
                else:
                    self._pass_others([item.value for item in batch if isinstance(item.value, dict)])

    def _pass_others(self, rows: list[dict[str, Any]]) -> None:
        self.others += rows[: SAMPLED - len(self.others)]
        if self.see_other:
            for row in rows:
                self.see_other(row)

    # -- lines

    def _line(self) -> Iterator[list[Item]]:
        """A record at the top. A broken one costs its line or, if records are written over several lines, itself."""
        window = self.window
        if window.position > 4096:  # a JSONDecodeError counts the lines from the window's beginning
            window.forget()
        begin = window.place
        value, text = self._value()
        is_decoded = not isinstance(value, Broken)
        if is_decoded:
            length = window.place - begin
            self._is_pretty |= isinstance(value, dict) and "\n" in text
            if self._swallowed_lines(value, text, length):
                value, window.position = self._broken("a string is not closed")[0], window.position - length
            elif self._line_goes_on(value):
                value = self._broken("it is closed too early")[0]
            else:
                yield [Item("lines", None, text, value)]
                return
        line = text.partition("\n")[0].rstrip("\r")
        is_line = not self._is_pretty and len(line.strip()) > NOISE
        self.recovery.learn_beginning(text)
        has_next = self.recovery.next_object(within_line=is_line)
        if is_decoded or not (has_next and self.recovery.is_noise(text, window.place - begin)):
            yield [Item("lines", None, line if is_line else text, value)]
        if not has_next:
            window.skip_line()

    def _swallowed_lines(self, value: Any, text: str, length: int) -> bool:
        """Whether a string that is not closed goes on into lines that hold records of their own."""
        raw = self.window.text[self.window.position - length : self.window.position]
        if text == raw or not any("\n" in string[0] for string in STRING.finditer(raw)):
            return False
        return not isinstance(value, dict) or any(
            self.recovery.begins_as_known(raw, match.end() - 1) for match in _OBJECT_ON_LINE.finditer(raw)
        )

    def _line_goes_on(self, value: Any) -> bool:
        """Whether the value before the position goes on behind it, in its line or a line of the same record."""
        window = self.window
        gap = window.match(_COMMA if self._is_pretty else _COMMA_ON_LINE, self.limits.longest)
        if gap is None or window.text[gap.end() : gap.end() + 1] in "\r\n":
            return False
        window.position += len(gap[0])
        if window.text[window.position] == '"':
            window.match(NAME, self.limits.longest)  # reads on
        window.fill(NOISE + 1)
        if isinstance(value, dict):
            return self.recovery.closes_too_early(bool(gap[1]))
        return window.text.startswith(":", window.position)
