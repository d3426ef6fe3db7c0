"""The keys of records, and what the values under them say."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable
from typing import Any

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
SHOWN = 200  # characters of an unusable record in its detail
_PATH = re.compile(r"[/\\]|\.(?:jpe?g|png|tiff?|bmp|webp|jp2|gif)$", re.I)
_DIGIT = re.compile(r"\d")
# Members that describe the file, not an image; COCO's `info` has a `description`.
_ABOUT = frozenset(("info", "information", "meta", "metadata", "license", "licenses", "dataset", "config"))


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


def _is_prompt(value: Any) -> bool:
    texts = value if isinstance(value, list) else [value]
    return bool(texts) and all(isinstance(text, str) for text in texts)
