"""JSON values from a text that may be damaged or end too early: pure functions of a text and a position in it."""

from __future__ import annotations

import json
import re
import sys
from typing import Any

DEEPEST = 4  # objects that can surround the records
SAMPLED = 100  # records that are looked at to choose the keys

GAP = re.compile(r"[ \t\n\r,\ufeff]*")  # commas are not counted: too many or too few do no harm
NAME = re.compile(r'"([^"\\]*(?:\\.[^"\\]*)*)"[ \t\n\r]*:[ \t\n\r]*', re.S)
STRING = re.compile(r'"[^"\\]*(?:\\.[^"\\]*)*"', re.S)
CONTROL = re.compile(r"[\x00-\x1f]")
BRACKETS = re.compile(r'\\.|["\[\]{}]', re.S)
CUT = 16  # characters; a literal or an escape that is cut shows this close to the end, `-Infinity` being the longest


def _integer(digits: str) -> int:
    if len(digits.lstrip("-")) > 4300:  # int() takes quadratic time, and refuses as many itself since Python 3.10.7
        raise ValueError("it holds an integer of more than 4300 digits")
    return int(digits)


_careful = json.JSONDecoder(parse_int=_integer).raw_decode
# The usual case: the interpreter itself limits integers, since 3.10.7.
strict = json.JSONDecoder().raw_decode if hasattr(sys, "get_int_max_str_digits") else _careful
_lenient = json.JSONDecoder(parse_int=_integer, strict=False).raw_decode  # allows bare control characters in strings


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
        return *_lenient(text, position), False
    except json.JSONDecodeError as error:
        is_open = error.msg.startswith("Unterminated") or error.pos >= len(text) - CUT
        raise Fault(error.msg, error.pos, is_open) from None
    except ValueError as error:  # from `_integer`
        raise Fault(str(error), position, False, "too_long") from None
    except RecursionError:
        raise Fault("it is nested too deeply", position, False, "too_deep") from None


def sketch(text: str, position: int, depth: int = 0) -> Any:
    """The value at `position`; of an unfinished one as much as can be decoded; None if nothing can."""
    try:
        return decode(text, position)[0]
    except Fault:
        if depth == DEEPEST:
            return None
    array: list[Any] = []
    table: dict[str, Any] = {}
    first, position = text[position : position + 1], position + 1
    while first in ("[", "{") and len(array) + len(table) < SAMPLED:
        position = after_gap(text, position)
        name = NAME.match(text, position) if first == "{" else None
        if first == "{" and name is None:
            break
        begin = name.end() if name else position
        try:
            value, end, _ = decode(text, begin)
        except Fault:
            value, end = sketch(text, begin, depth + 1), -1
        if name:
            table[member_name(name) or ""] = value
        else:
            array.append(value)
        if end < 0:
            break
        position = end
    return {"[": array, "{": table}.get(first)


def after_gap(text: str, position: int) -> int:
    """The position of the next character that is neither space nor comma."""
    match = GAP.match(text, position)
    assert match  # it matches nothing, too
    return match.end()


def member_name(match: re.Match[str]) -> str | None:
    """The name that NAME matched; None if it has an invalid escape."""
    try:
        return str(_lenient(match[0], 0)[0])
    except ValueError:
        return None


def escape_controls(text: str) -> str:
    """JSON text whose strings hold bare control characters, made valid JSON."""
    return STRING.sub(lambda string: CONTROL.sub(lambda control: f"\\u{ord(control[0]):04x}", string[0]), text)
