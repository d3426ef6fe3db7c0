"""JSON values out of a text that may be damaged or unfinished."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable
from typing import Any

DEEPEST = 4  # objects that may lie around the records
SAMPLED = 100  # records looked at to choose the keys
_GAP = re.compile(r"[ \t\n\r,\ufeff]*")  # commas are not counted: too many or too few do no harm
_NAME = re.compile(r'"[^"\\]*(?:\\.[^"\\]*)*"[ \t\n\r]*:[ \t\n\r]*', re.S)
_STRING = re.compile(r'"[^"\\]*(?:\\.[^"\\]*)*"', re.S)
_CONTROL = re.compile(r"[\x00-\x1f]")
_BRACKETS = re.compile(r'\\.|["\[\]{}]', re.S)


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


def _escaped(match: re.Match[str]) -> str:
    return _CONTROL.sub(lambda control: f"\\u{ord(control[0]):04x}", match[0])
