"""JSON values from a text that may be damaged or end too early: pure functions of a text and a position in it."""

from __future__ import annotations

import json
import re
import sys
from typing import Any

DEEPEST = 4  # objects that can surround the records
SAMPLED = 100  # records that are looked at to choose the keys

GAP = re.compile(r"[ \t\n\r,\ufeff]*")  # commas are not counted: too many or too few do no harm
NAME = re.compile(r'"[^"\\]*(?:\\.[^"\\]*)*"[ \t\n\r]*:[ \t\n\r]*', re.S)
PLAIN_NAME = re.compile(r'"([^"\\\x00-\x1f]*)"[ \t\n\r]*:[ \t\n\r]*')  # without escapes
BLANK = re.compile(r"[ \t\n\r]*")
OBJECT = re.compile(r'\{[ \t\r\n]*"')  # how one with members begins
STRING = re.compile(r'"[^"\\]*(?:\\.[^"\\]*)*"', re.S)
# A member that may hold records, or be one: an array or object, or anything under a path.
_CONTAINER = re.compile(r'"[^"\\\n]{0,255}"[ \t\n\r]*:[ \t\n\r]*[\[{]|"[^"\\\n]{0,255}[/.][^"\\\n]{0,255}"[ \t\n\r]*:')
CONTROL = re.compile(r"[\x00-\x1f]")
_STRAY = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f]")  # controls that no program leaves in a text: damage
BRACKETS = re.compile(r'\\.|["\[\]{}]', re.S)
CUT = 16  # characters; a literal or an escape that is cut shows this close to the end, `-Infinity` being the longest


def _integer(digits: str) -> int:
    if len(digits.lstrip("-")) > 4300:  # int() takes quadratic time, and refuses as many itself since Python 3.10.7
        raise ValueError("it holds an integer of more than 4300 digits")
    return int(digits)


_careful = json.JSONDecoder(parse_int=_integer).raw_decode
# The usual case: the interpreter itself limits integers, since 3.10.7.
strict = json.JSONDecoder().raw_decode if hasattr(sys, "get_int_max_str_digits") else _careful
_lenient = json.JSONDecoder(parse_int=_integer, strict=False).raw_decode  # allows bare line ends and tabs in strings


class Fault(Exception):
    """No value can be decoded. `is_open`: perhaps only because the text ends too early."""

    def __init__(self, why: str, position: int, is_open: bool, problem: str = "invalid_json") -> None:
        self.why, self.position, self.is_open, self.problem = why, position, is_open, problem


def decode(text: str, position: int) -> tuple[Any, int, bool]:
    """(value, where it ends, whether it is valid JSON) at `position`. Raises Fault."""
    try:
        try:
            return *_careful(text, position), True
        except json.JSONDecodeError as error:
            if not error.msg.startswith("Invalid control character"):
                raise
        value, end = _lenient(text, position)
        if stray := _STRAY.search(text, position, end):
            raise json.JSONDecodeError("Invalid control character", text, stray.start())
        return value, end, False
    except json.JSONDecodeError as error:
        is_open = error.msg.startswith("Unterminated") or error.pos >= len(text) - CUT
        raise Fault(error.msg, error.pos, is_open) from None
    except ValueError as error:  # from `_integer`
        raise Fault(str(error), position, False, "too_long") from None
    except RecursionError:
        raise Fault("it is nested too deeply", position, False, "too_deep") from None


def sketch(text: str, position: int) -> Any:
    """The value at `position`; of an unfinished or damaged one as much as can be decoded; None if nothing can.

    Behind damage, an array goes on with the next object, and an object with the next member that is an array or object
    or whose name could be a path.
    """
    return _sketch(text, position, 0)[0]


def _sketch(text: str, position: int, depth: int) -> tuple[Any, int]:
    """(value, where it or the text ends); the end is -1 if nothing can be decoded."""
    try:
        value, end, _ = decode(text, position)
        return value, end
    except Fault:
        first = text[position : position + 1]
        if depth == DEEPEST or first not in ("[", "{"):
            return None, -1
    return (_sketch_array if first == "[" else _sketch_object)(text, position + 1, depth)


def _sketch_array(text: str, position: int, depth: int) -> tuple[list[Any], int]:
    array: list[Any] = []
    while len(array) < SAMPLED:
        position = after_gap(text, position)
        if position == len(text) or text[position] == "]":
            return array, min(position + 1, len(text))
        try:
            value, position, _ = decode(text, position)
        except Fault:
            value, _ = _sketch(text, position, depth + 1)
            position = _found(OBJECT, text, position + 1)
        array.append(value)
    return array, len(text)


def _sketch_object(text: str, position: int, depth: int) -> tuple[dict[str, Any], int]:
    table: dict[str, Any] = {}
    is_damaged = False
    while len(table) < SAMPLED:
        position = after_gap(text, position)
        if position == len(text) or (text[position] == "}" and not is_damaged):
            return table, min(position + 1, len(text))
        name = NAME.match(text, position)
        value, end = _sketch(text, name.end(), depth + 1) if name else (None, -1)
        if name:
            table[member_name(name[0]) or ""] = value
        if end < 0:  # it cannot be told at which brace this object ends
            is_damaged, end = True, _found(_CONTAINER, text, (name.end() if name else position) + 1)
        position = end
    return table, len(text)


def _found(pattern: re.Pattern[str], text: str, position: int) -> int:
    match = pattern.search(text, position)
    return match.start() if match else len(text)


def after_gap(text: str, position: int) -> int:
    """The position of the next character that is neither space nor comma."""
    match = GAP.match(text, position)
    assert match  # it matches nothing, too
    return match.end()


def member_name(text: str) -> str | None:
    """The name in what NAME matched; None if it has an invalid escape."""
    try:
        return str(_lenient(text, 0)[0])
    except ValueError:
        return None


def escape_controls(text: str) -> str:
    """JSON text whose strings hold bare control characters, made valid JSON."""
    return STRING.sub(lambda string: CONTROL.sub(lambda control: f"\\u{ord(control[0]):04x}", string[0]), text)
