"""A row of the dataset as people see it: its images side by side with their prompts, and its labels in words."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from mmm_rs import GSD_LEVELS, MEMBERS, METADATA_MEMBER, MODALITIES, PROMPT_COLUMNS, WEATHERS, open_image


@dataclass(frozen=True)
class View:
    """One modality of a row."""

    modality: str
    image: Image.Image | None  # None if the sample lacks it
    prompt: str | None


@dataclass(frozen=True)
class Row:
    """A row of either door: of the builder or of the shards without code."""

    key: str
    views: tuple[View, ...]  # in the order rgb, nir, sar
    labels: tuple[str, ...]  # in words

    @property
    def prompts(self) -> list[tuple[str, str]]:
        """Each prompt once, behind the modalities that have it; these are empty for a row of a single image."""
        modalities_of: dict[str, list[str]] = {}
        for view in self.views:
            if view.prompt is not None:
                modalities_of.setdefault(view.prompt, []).append(view.modality.upper())
        several = len(self.views) > 1
        return [(", ".join(names) if several else "", prompt) for prompt, names in modalities_of.items()]


def is_row(value: Mapping[Any, Any]) -> bool:
    """Whether a dictionary is a row of this dataset that has an image column."""
    ours = "key" in value and "subset" in value and any(modality in value for modality in MODALITIES)
    plain = "__key__" in value and METADATA_MEMBER in value and MEMBERS["rgb"].image in value
    return ours or plain


def read_row(row: Mapping[str, Any]) -> Row:
    """What a row shows.

    Args:
        row: From `mmm_rs.load_dataset` or `mmm_rs.get`, decoded or not, or from `datasets.load_dataset` of the shards.

    Raises:
        ValueError: It is neither.
    """
    if not is_row(row):
        raise ValueError(f"not a row of MMM-RS with an image: it has {', '.join(map(str, row))}")
    if "__key__" in row:
        columns = {modality: (MEMBERS[modality].image, MEMBERS[modality].prompt) for modality in MODALITIES}
        key, labels = row["__key__"], row[METADATA_MEMBER] or {}
    else:
        columns = {modality: (modality, PROMPT_COLUMNS[modality]) for modality in MODALITIES}
        key, labels = row["key"], row
    views = tuple(
        View(modality, _image(row[image]), row.get(prompt))
        for modality, (image, prompt) in columns.items()
        if image in row
    )
    return Row(key, views, _words(labels))


def _image(value: Any) -> Image.Image | None:
    """A decoded image, also of a row that was loaded with `decode=False` or has the format of numpy or torch."""
    if value is None or isinstance(value, Image.Image):
        return value
    if isinstance(value, Mapping | bytes):
        with open_image(value if isinstance(value, bytes) else value["bytes"]) as encoded:
            return encoded.convert("RGB")
    pixels = np.asarray(value)
    if pixels.ndim == 3 and pixels.shape[0] in (1, 3):  # torch has the channels first
        pixels = np.moveaxis(pixels, 0, 2)
    if pixels.dtype != np.uint8 or pixels.ndim not in (2, 3):
        raise ValueError(f"an image of it is an array of {pixels.dtype} of the shape {pixels.shape}. Show it untouched")
    return Image.fromarray(pixels[..., 0] if pixels.shape[2:] == (1,) else pixels)


def _words(labels: Mapping[str, Any]) -> tuple[str, ...]:
    shown = ("gsd_level", "gsd_level_derived", "gsd", "weather", "category", "satellite")
    labels = {name: _plain(labels.get(name)) for name in shown}
    level, weather, metres = (
        _name(labels.get("gsd_level"), GSD_LEVELS),
        _name(labels.get("weather"), WEATHERS),
        labels.get("gsd"),
    )
    if level:
        level = level.replace("_", " ") + " resolution" + (" (from metres)" if labels.get("gsd_level_derived") else "")
    words = (
        level,
        f"{metres:g} m" if metres is not None else None,
        weather,
        labels.get("category"),
        labels.get("satellite"),
    )
    return tuple(word for word in words if word)


def _plain(value: Any) -> Any:
    """A number of numpy or torch as Python has it; None for what is not a number."""
    value = value.item() if getattr(value, "ndim", None) == 0 else value
    return None if value != value else value


def _name(label: Any, names: tuple[str, ...]) -> str | None:
    """A label's name; the builder gives its number, -1 or None if unknown."""
    if isinstance(label, int):
        return names[label] if 0 <= label < len(names) else None
    return label
