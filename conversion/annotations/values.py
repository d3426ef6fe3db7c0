"""What the values of a record say."""

from __future__ import annotations

import math
import re
from typing import Any

from conversion.annotations.encoding import unmarked
from conversion.annotations.window import SHOWN

ANSWERING = frozenset(("gpt", "assistant", "model"))  # speakers of a conversation whose words describe the image
TEXT_KEYS = ("raw", "text", "caption", "sentence")  # of the objects in a list of prompts


def text_of(value: Any, what: str) -> tuple[str | None, str | None]:
    """(the text, None) or (None, the problem). Of a list, the first text that is not empty."""
    if type(value) is list:
        if what == "prompt":
            value = [inner_text(item) if type(item) is dict else item for item in value]
        texts = [item for item in value if isinstance(item, str) and item.strip()]
        if not texts and any(not isinstance(item, str) and item is not None for item in value):
            return None, "wrong_type"
        value = texts[0] if texts else None
    if value is None:
        return None, f"no_{what}"
    if not isinstance(value, str):
        return None, "wrong_type"
    return (value, None) if value and not value.isspace() else (None, f"no_{what}")


def inner_text(item: dict[str, Any]) -> Any:
    """The text of one object in a list of prompts: RSICD's `{"raw": ...}`, or what was answered in a conversation.

    None for what was asked; the object itself if it holds no text.
    """
    speaker = item.get("from", item.get("role"))
    if isinstance(speaker, str):
        text = item.get("value", item.get("content")) if speaker.lower() in ANSWERING else None
        if isinstance(text, list):  # in parts
            text = next((part["text"] for part in text if isinstance(part, dict) and "text" in part), None)
        return text
    return next((item[key] for key in TEXT_KEYS if isinstance(item.get(key), str)), item)


_HUGE = 10**300  # a float holds it
_NUMBER = re.compile(
    r"\s*([-+]?(?:\d+\.?\d*|\.\d+)(?:e[-+]?\d+)?)\s*(?:m|met(?:er|re)s?|%)?(?:\s*(?:/|per)\s*(?:px|pix|pixel))?\s*$",
    re.I | re.A,
)


def number_of(value: Any, above: float = -math.inf) -> float | None:
    """A finite number, given as a number or as text with its unit."""
    kind = type(value)
    if kind is int and abs(value) < _HUGE:
        value = float(value)
    elif kind is str and len(value) < 64 and (match := _NUMBER.match(value)):
        value = float(match[1])
    elif kind is not float:
        return None
    return value if above < value < math.inf else None


def is_text(text: str | None) -> bool:
    """Whether this can be written as UTF-8. JSON's escapes can spell halves of characters."""
    if text is None or text.isascii():
        return True
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def writable(text: str) -> str:
    """Text that can be written as UTF-8: what is not text is spelled out."""
    return text if is_text(text) else unmarked(text)


def shortened(text: str) -> str:
    return text if len(text) <= SHOWN else text[:SHOWN] + "…"


def json_type(value: Any) -> str:
    names = {str: "string", list: "array", dict: "object", bool: "boolean", type(None): "null"}
    return names.get(type(value), "number")
