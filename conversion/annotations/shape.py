"""What a decoded value looks like: a record, a table keyed by image path, or a wrapper around records.

Pure functions of a value. The text that is read may be cut or broken, so the value may be the beginning of one.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from itertools import islice
from typing import Any

from conversion.annotations.keys import IMAGE_KEYS, PROMPT_KEYS, fold, is_path, ranked
from conversion.annotations.scanner import DEEPEST, SAMPLED
from conversion.annotations.values import inner_text

# Members that describe the file, not an image; COCO's `info` has a `description`.
_ABOUT = frozenset(("info", "information", "meta", "metadata", "license", "licenses", "dataset", "config"))
_DIGIT = re.compile(r"\d")


@dataclass(frozen=True)
class Names:
    """Folded keys that can name the image, and keys that can hold the prompt."""

    image: frozenset[str]
    prompt: frozenset[str]

    @classmethod
    def known(cls, image_key: str | None = None, prompt_key: str | None = None) -> Names:
        """The keys in common use, and those that the user names."""
        return cls(
            frozenset((*IMAGE_KEYS, *([fold(image_key)] if image_key else ()))),
            frozenset((*PROMPT_KEYS, *([fold(prompt_key)] if prompt_key else ()))),
        )


def strength(value: Any, names: Names) -> int:
    """How much a value looks like a record: 0 not at all, 1 a little, 3 with what must be the path of an image."""
    if not isinstance(value, dict):
        return 0
    folded = {fold(name): name for name in value}
    image = next((name for name in folded if name in names.image), None)
    if image is None or not any(name in names.prompt for name in folded):
        return 0
    paths = [value[name] for fold_, name in folded.items() if fold_ in names.image]
    if any(isinstance(path, str) and is_path(path) for path in paths):
        return 3
    return 1 if image == "name" else 2


def shape_of(value: dict[str, Any], depth: int, names: Names) -> str:
    """record, keyed, wrapped or unknown. `depth`: how many objects surround it."""
    members = list(islice(value.items(), SAMPLED))
    own = strength(value, names)
    if own == 3:
        return "record"
    if is_table(value, depth, names):
        return "keyed"
    if is_by_columns(value):
        return "record"
    # A record of a table has a prompt and no path, and may list objects that have names.
    least = max(own, int(_has_prompt(value, names)))
    if max((strength_inside(inner, depth + 1, names) for _, inner in members), default=0) > least:
        return "wrapped"
    if own:
        return "record"
    if any(fold(name) not in _ABOUT and isinstance(row, dict) and _has_prompt(row, names) for name, row in members):
        return "keyed"
    if members and all(_DIGIT.search(name) and is_prompt(row) for name, row in members):
        return "keyed"
    return "record" if {fold(name) for name in value} & (names.image | names.prompt) else "unknown"


def is_by_columns(value: dict[str, Any]) -> bool:
    """Whether an object is a whole table: `{"image": [...], "prompt": [...]}`, or each column an object itself."""
    image, prompt = (next(iter(ranked(value, known)), None) for known in (IMAGE_KEYS, PROMPT_KEYS))
    if image is None or prompt is None:
        return False
    images, prompts = value[image], value[prompt]
    if isinstance(images, list) and isinstance(prompts, list):
        return len(images) == len(prompts) > 1
    return isinstance(images, dict) and isinstance(prompts, dict) and bool(images) and images.keys() == prompts.keys()


def is_table(value: dict[str, Any], depth: int, names: Names) -> bool:
    """Whether an object is without doubt a table keyed by image path, not one around other records."""
    if strength(value, names):
        return False
    for name, inner in islice(value.items(), SAMPLED):
        if _is_keyed(name, inner, names):
            return True
        if not is_path(name) and strength_inside(inner, depth + 1, names) == 3:
            return False
    return False


def _is_keyed(name: str, value: Any, names: Names) -> bool:
    if not is_path(name):
        return False
    if isinstance(value, dict):
        return _has_prompt(value, names) or not any(isinstance(inner, (dict, list)) for inner in value.values())
    return value is None or is_prompt(value)


def strength_inside(value: Any, depth: int, names: Names) -> int:
    """The strength of the best record in an array or object; 0 for an object that is a record itself."""
    if isinstance(value, list):
        return max((strength(row, names) for row in value[:SAMPLED]), default=0)
    if isinstance(value, dict) and depth < DEEPEST:
        return 3 if shape_of(value, depth, names) in ("keyed", "wrapped") else 0
    return 0


def is_prompt(value: Any) -> bool:
    texts = value if isinstance(value, list) else [value]
    return bool(texts) and all(
        isinstance(text, str) or (isinstance(text, dict) and inner_text(text) is not text) for text in texts
    )


def _has_prompt(row: dict[str, Any], names: Names) -> bool:
    return bool(names.prompt & {fold(name) for name in row})
