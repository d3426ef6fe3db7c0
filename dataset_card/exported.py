"""What a dataset was exported from and what was selected of it, in words for people."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from dataset_card.markdown import code, plain

# The fields of `conversion.exports.selection.Selection` that hold names -> what they are called.
NAMES = {
    "configs": "config",
    "split": "split",
    "modalities": "images",
    "gsd_levels": "GSD level",
    "weathers": "weather",
    "categories": "category",
    "satellites": "satellite",
}


def source_words(source: Mapping[str, Any]) -> str:
    """The source of an export: its address and digest."""
    address = code(source["address"]) if source["address"] else "a converted folder"
    return f"{address} (digest of its shards: `{source['digest']}`)"


def selection_words(selection: Mapping[str, Any]) -> str:
    """What was selected, as the manifest records it."""
    return "; ".join(_conditions(selection)) or "everything"


def _conditions(selection: Mapping[str, Any]) -> Iterator[str]:
    for name, title in NAMES.items():
        if (value := selection.get(name)) is not None:
            yield f"{title} {', '.join(map(plain, [value] if isinstance(value, str) else value))}"
    if selection.get("complete"):
        yield "only samples that have all of these images"
    for text in selection.get("contains", ()):
        yield f"prompts that contain {code(text)}"
    if "where" in selection:
        yield f"where {code(selection['where'])}"
    if keys := selection.get("keys"):
        yield f"a list of {keys['count']:,} keys"
    if "share" in selection:
        yield f"a share of {selection['share']:g}, spread over the scenes"
    if "limit" in selection:
        yield f"at most {selection['limit']:,} samples, spread over the scenes"
    if "seed" in selection:
        yield f"seed {selection['seed']}"
