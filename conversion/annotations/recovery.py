"""Where the next record begins after one that is damaged: one broken record costs one record.

The records that were read whole tell what a beginning looks like: which key comes first in an object, what the keys of
a table look like. If none was, an object must have both an image and a prompt, and a table's key must be a path.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from conversion.annotations.keys import fold, is_path
from conversion.annotations.scanner import BLANK, NAME, OBJECT, Fault, after_gap, decode, member_name, sketch
from conversion.annotations.shape import Names, strength, strength_inside
from conversion.annotations.window import SHOWN, Limits, Window

LAYOUTS = 1000  # different sets of keys that are kept in mind
NOISE = 3  # characters without quotes that are not worth a record: a separator that was damaged
LONGEST_NAME = 4096  # characters
DEEP = 20_000  # characters that could be decoded in the time that it takes to fail at too deep a nesting


_CONTAINER = re.compile(NAME.pattern + r"[\[{]|" + OBJECT.pattern, re.S)  # a member, or an object in an array
_FIRST_KEY = re.compile(r"\{[ \t\r\n]*(" + NAME.pattern + ")", re.S)
_REST_OF_NAME = re.compile(r'[^"\n]*"[ \t\r\n]*:')
_DIGIT = re.compile(r"\d")
_NOISE = re.compile(rf"\s*[^\"{{}}\[\]:\s]{{0,{NOISE}}}\s*")


def is_name(text: str, position: int) -> bool:
    """Whether a colon stands here, or a name and a colon: what belongs inside an object."""
    character = text[position : position + 1]
    return character == ":" or (character == '"' and NAME.match(text, position) is not None)


class Recovery:
    """Moves the window to the next record. `wasted` counts the characters that were decoded in vain."""

    def __init__(self, window: Window, names: Names, limits: Limits) -> None:
        self.window, self.names, self.limits = window, names, limits
        self.wasted = 0
        self._first_keys: set[str] = set()
        self._keys: set[str] = set()
        self._member: tuple[str, Any] | None = None
        self.most_members = 0  # of a record in a table

    @property
    def is_exhausted(self) -> bool:
        """Whether so much was tried in vain that the rest is only counted."""
        return self.wasted > self.limits.waste + 8 * self.window.place

    def waste(self, fault: Fault, begin: int) -> None:
        """Count what was decoded in vain from `begin` on."""
        self.wasted += DEEP if fault.problem == "too_deep" else max(SHOWN, fault.position - begin)

    def learn_object(self, record: dict[str, Any]) -> None:
        """Take a record as an example of the others."""
        if record and len(self._keys) < LAYOUTS:
            self._first_keys.add(next(iter(record)))
            self._keys.update(record)

    def learn_beginning(self, text: str) -> None:
        """Take the first key of a damaged record as an example, if it is a key of records."""
        if not self._first_keys and (match := _FIRST_KEY.match(text)):
            name = member_name(match[1])
            if name and fold(name) in self.names.image | self.names.prompt:
                self._first_keys.add(name)

    def learn_member(self, key: str, value: Any) -> None:
        """Take a table's member as an example of the others."""
        self._member = key, value
        if isinstance(value, dict):
            self.most_members = max(self.most_members, len(value))
            if len(self._keys) < LAYOUTS:
                self._keys.update(value)

    @property
    def has_paths(self) -> bool:
        """Whether the keys of the table are paths."""
        return self._member is not None and is_path(self._member[0])

    def is_noise(self, text: str, length: int) -> bool:
        """Whether what was skipped before a record is too little to be one."""
        return length < SHOWN and len(text[:length].strip(" \t\r\n,")) <= NOISE

    # -- whether a record that was decoded is whole

    def closes_too_early(self, has_comma: bool) -> bool:
        """Whether what stands at the position, behind an object, belongs to the object.

        `has_comma`: whether a comma stands between them.
        """
        text, position = self.window.text, self.window.position
        if text[position : position + 1] in "{}[]\x00\x1a":  # or at the end
            return False
        behind = self._after_noise(position)
        name = NAME.match(text, behind)
        if name and member_name(name[0]) in self._first_keys:  # the next record has lost its opening brace instead
            return False
        return is_name(text, position) or not (has_comma or text.startswith("{", behind))

    def is_at_member(self) -> bool:
        """Whether a member of the table stands at the position, or behind a damaged separator."""
        text = self.window.text
        name = NAME.match(text, self._after_noise(self.window.position))
        return name is not None and self._is_member(name)

    def ends_text(self) -> bool:
        """Whether the text that was a member's value ends where it seems to: behind it a member or the table's end."""
        text, position = self.window.text, self.window.position
        if text[position : position + 1] in '}"':  # or at the end
            return True
        return _REST_OF_NAME.match(text, position) is not None  # a name that has lost its quote

    def is_at_field(self) -> bool:
        """Whether a member of a record stands at the position, not one of the table."""
        name = NAME.match(self.window.text, self.window.position)
        return name is not None and member_name(name[0]) in self._keys and not self._is_member(name)

    def swallowed_members(self, value: Any) -> bool:
        """Whether the record has members of its table in it: its closing brace is missing."""
        return (
            isinstance(value, dict)
            and len(value) > self.most_members
            and any(isinstance(inner, dict) and self._is_alike(name) for name, inner in value.items())
        )

    def _after_noise(self, position: int) -> int:
        noise = _NOISE.match(self.window.text, position)
        return noise.end() if noise else position

    # -- the next record

    def next_object(self, within_line: bool = False) -> bool:
        """Move to the next object that is, or was, a record. False at the end of the file or line."""
        return self._seek(OBJECT, lambda match: self._is_record(), within_line)

    def next_member(self) -> bool:
        """Move to the next member of a table. False at the end of the file."""
        return self._seek(NAME, self._is_member)

    def next_container(self) -> bool:
        """Move to the next member of a wrapper that has records in it, or to the next record. False at the end."""
        return self._seek(_CONTAINER, self._has_records)

    def _seek(
        self, pattern: re.Pattern[str], accepts: Callable[[re.Match[str]], bool], within_line: bool = False
    ) -> bool:
        window = self.window
        window.position += 1
        while True:
            end = window.text.find("\n", window.position) if within_line else -1
            stop = end if end >= 0 else len(window.text)
            match = pattern.search(window.text, window.position, stop)
            if match and (match.end() < len(window.text) or window.ended):
                window.position = match.start()
                if accepts(match):
                    return True
                window.position += 1
            elif end >= 0:
                window.position = end
                return False
            else:
                window.position = max(window.position, match.start() if match else len(window.text) - LONGEST_NAME)
                if not window.more():
                    window.position = len(window.text)
                    return False

    def _is_record(self) -> bool:
        """Whether the object at the position is a record of its own, not one within the damaged one."""
        window = self.window
        while True:
            begin = window.position
            if self.is_exhausted:
                return self.begins_as_known(window.text, begin)
            try:
                value, end, _ = decode(window.text, begin)
            except Fault as fault:
                self.waste(fault, begin)
                if fault.is_open and window.left <= self.limits.longest and window.more():
                    continue
                return self.begins_as_known(window.text, begin)
            behind = after_gap(window.text, end)
            if len(window.text) - behind < SHOWN and window.more():
                continue
            if window.text[behind : behind + 1] == "}" or is_name(window.text, behind):
                self.wasted += end - begin
                return False
            alike = 2 * sum(key in self._keys for key in value) > len(value)
            return strength(value, self.names) >= 2 or (alike and next(iter(value)) in self._first_keys)

    def begins_as_known(self, text: str, position: int) -> bool:
        """Whether the first key of the object at `position` is one that records begin with."""
        blank = BLANK.match(text, position + 1)
        name = NAME.match(text, blank.end()) if blank else None
        return name is not None and member_name(name[0]) in self._first_keys

    def _is_member(self, match: re.Match[str]) -> bool:
        name, first = member_name(match[0]), match.string[match.end() : match.end() + 1]
        if name is None or first not in ("{", "[", '"', "n"):
            return False
        return self._is_alike(name) and (self._member is None or (first == "{") == isinstance(self._member[1], dict))

    def _is_alike(self, name: str) -> bool:
        """Whether a name looks like the keys of the table."""
        if self._member is None or is_path(self._member[0]):
            return is_path(name)
        return bool(_DIGIT.search(name)) == bool(_DIGIT.search(self._member[0]))

    def _has_records(self, match: re.Match[str]) -> bool:
        if match[0][0] == "{":
            return self._is_record()
        self.window.fill(self.limits.glance)
        value = sketch(self.window.text, self.window.position + len(match[0]) - 1)
        return strength_inside(value, 1, self.names) > 0
