"""A JSON text cut into its records, which stand in an array, in a table keyed by image path, or one per line.

Whether an object is a record, a table or a wrapper is decided by as much of it as a record can have at most. What is
longer holds records, or is nobody's description of one image.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import msgspec

from conversion.annotations.scanner import (
    CONTROL,
    DEEPEST,
    GAP,
    NAME,
    SAMPLED,
    Fault,
    decode,
    escape_controls,
    member_name,
    sketch,
    strict,
)
from conversion.annotations.shape import Names, is_table, shape_of, strength_inside
from conversion.annotations.window import Limits, Window

LAYOUTS = 1000  # different sets of keys that are kept in mind


@dataclass(frozen=True)
class Broken:
    """Stands in for a record that could not be decoded. `final`: nothing behind it can be found either."""

    problem: str
    detail: str
    final: bool
    place: int = 0  # character of the file at which decoding failed


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
        self.stopped = False  # nothing more can be found
        self.wasted = 0  # characters that were decoded in vain
        self.others: Counter[str] = Counter()  # keys of objects that are not records although they stand in an array
        self.known: set[tuple[str, ...]] = set()  # keys of objects that were seen to be records

    def items(self) -> Iterator[Item]:
        """Each record of the file, in its order."""
        while not self.stopped and (first := self.window.peek()):
            if first == "[":
                yield from self._array("array")
            elif first == "{":
                if self.known:  # one record per line
                    yield from self._whole_objects("lines", self.known)
                if self.window.peek() == "{":
                    yield from self._object(0)
            else:
                yield from self._line()

    # -- values

    def _value(self, lead: int = 0) -> tuple[Any, str]:
        """(value, text) of the value that stands `lead` characters on; the text includes them. Moves behind it.

        A value that cannot be decoded is Broken: if too long or too deep it was skipped, otherwise it is final.
        """
        window, longest = self.window, self.limits.longest
        while True:
            try:
                value, end = strict(window.text, window.position + lead)
                sound = True
            except (ValueError, RecursionError):
                try:
                    value, end, sound = decode(window.text, window.position + lead)
                except Fault as fault:
                    if fault.problem != "invalid_json":
                        return self._skip(lead, fault.problem, fault.why)
                    if window.left > longest and fault.is_open:
                        return self._too_long(lead)
                    if fault.is_open and window.more():
                        continue
                    return self._broken(fault.why, fault.position)
            # A number at the window's edge may go on beyond it.
            if end == len(window.text) and window.text[end - 1] not in '"]}' and window.more():
                continue
            if end - window.position > longest:
                return self._too_long(lead)
            text = window.text[window.position : end]
            window.position = end
            return value, text if sound else escape_controls(text)

    def _broken(self, why: str, position: int) -> tuple[Broken, str]:
        place = self.window.place - self.window.position + position
        return Broken("invalid_json", f"{why}, at character {place}", True, place), self.window.beginning()

    def _too_long(self, lead: int) -> tuple[Broken, str]:
        return self._skip(lead, "too_long", f"it has more than {self.limits.longest} characters")

    def _skip(self, lead: int, problem: str, why: str) -> tuple[Broken, str]:
        text, place = self.window.beginning(), self.window.place
        self.window.position += lead
        return Broken(problem, f"{why}, at character {place}", not self.window.skip_value()), text

    # -- containers

    def _whole_objects(self, kind: str, known: set[tuple[str, ...]] | None = None) -> Iterator[Item]:
        """The objects that stand whole in the window, one after the other: the usual case, without a second look.

        If `known` is given, only those with these keys.
        """
        text, position = self.window.text, self.window.position
        gap = GAP.match
        try:
            while True:
                position = gap(text, position).end()  # type: ignore[union-attr]
                value, end = strict(text, position)
                if (
                    text[end - 1] != "}"
                    or end - position > self.limits.longest
                    or (known is not None and tuple(value) not in known)
                ):
                    return
                self.window.position = end
                yield Item(kind, None, text[position:end], value)
                position = end
        except (ValueError, RecursionError):
            return

    def _array(self, kind: str) -> Iterator[Item]:
        self.window.position += 1
        while True:
            yield from self._whole_objects(kind)
            first = self.window.peek()
            if first == "]":
                break
            if first:
                value, text = self._value()
            else:
                value, text = self._broken("the file ends within its array", self.window.position)
            yield Item(kind, None, text, value)
            if isinstance(value, Broken) and value.final:
                self.stopped = True
                return
        self.window.position += 1

    def _object(self, depth: int) -> Iterator[Item]:
        """A record, a table keyed by image path, or what surrounds records."""
        if depth == 0 and self.known:  # where one record stood at the top, one stands on each line
            yield from self._line()
            return
        shape, value = self._shape(depth)
        if shape == "keyed":
            yield from self._members(depth)
        elif shape == "wrapped":
            yield from self._members(depth, inside=True)
        elif depth == 0:
            if shape == "record" and isinstance(value, dict):
                if len(self.known) > LAYOUTS:
                    self.known.clear()
                self.known.add(tuple(value))
            yield from self._line()
        else:
            yield from self._pass()

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
                value, is_open = sketch(window.text, window.position) or {}, fault.is_open
            if is_table(value, self.names):
                return "keyed", None  # without a doubt, however it goes on
            if is_open and window.left > longest:  # too long for a record: they are further on within it
                return "keyed" if shape_of(value, depth, self.names) == "keyed" else "wrapped", None
            if not is_open or not window.more():
                return shape_of(value, depth, self.names), None

    def _members(self, depth: int, inside: bool = False) -> Iterator[Item]:
        """The members of an object: each is a record under its key or (`inside`) can have records in it."""
        window = self.window
        window.position += 1
        while True:
            if not inside:
                yield from self._whole_members()
            first = window.peek()
            if first == "}":
                break
            name = window.match(NAME, self.limits.longest) if first == '"' else None
            if name is None:
                why = "Expecting a name and a value" if first else "the file ends within its object"
                value, text = self._broken(why, window.position)
            elif inside and window.text[name.end() : name.end() + 1] in ("[", "{"):
                window.position = name.end()
                yield from self._descend(depth)
                if self.stopped:
                    return
                continue
            else:
                value, text = self._value(len(name[0]))
            if not inside or isinstance(value, Broken):
                key = None if name is None or isinstance(value, Broken) else member_name(name)
                if key is not None and name is not None:
                    text = "{" + (escape_controls(text) if CONTROL.search(name[0]) else text) + "}"
                elif not isinstance(value, Broken):
                    value = Broken("invalid_json", "Invalid escape in its name", False)
                if not inside or value.final:
                    yield Item("wrapped" if inside else "keyed", key, text, value)
            if isinstance(value, Broken) and value.final:
                self.stopped = True
                return
        window.position += 1

    def _whole_members(self) -> Iterator[Item]:
        """As `_whole_objects`, for a table keyed by image path."""
        text, position = self.window.text, self.window.position
        gap = GAP.match
        try:
            while True:
                position = gap(text, position).end()  # type: ignore[union-attr]
                name = NAME.match(text, position)
                if name is None:
                    return
                key = name[1]
                if "\\" in key or not key.isprintable():  # escapes, or controls that are not allowed
                    key, _ = strict(text, position)
                value, end = strict(text, name.end())
                if text[end - 1] not in '}"]' or end - position > self.limits.longest:
                    return
                self.window.position = end
                yield Item("keyed", key, "{" + text[position:end] + "}", value)
                position = end
        except (ValueError, RecursionError):
            return

    def _descend(self, depth: int) -> Iterator[Item]:
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
            if not has_records and isinstance(rows, list):
                self.others.update(name for row in rows[:SAMPLED] if isinstance(row, dict) for name in row)
            for item in self._array("wrapped"):
                if has_records or (isinstance(item.value, Broken) and item.value.final):
                    yield item

    def _pass(self) -> Iterator[Item]:
        """Go past a value that is of no use."""
        value, text = self._value()
        if isinstance(value, Broken) and value.final:
            self.stopped = True
            yield Item("wrapped", None, text, value)

    # -- lines

    def _line(self) -> Iterator[Item]:
        """A record at the top. A broken one costs its line and no other."""
        window = self.window
        if window.position > 4096:  # a JSONDecodeError counts the lines from the window's beginning
            window.forget()
        value, text = self._value()
        if not isinstance(value, Broken) or not value.final:
            yield Item("lines", None, text, value)
            return
        yield Item("lines", None, text.partition("\n")[0].rstrip("\r"), value)
        begin = window.place
        if not window.skip_line():
            self.stopped = True
            return
        self.wasted += max(0, value.place - begin)
        if self.wasted > self.limits.waste + 8 * window.place:
            self.stopped = True
            yield Item("lines", None, "", Broken("invalid_json", "given up here, after too many broken lines", True))
