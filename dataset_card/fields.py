"""What modalities, labels and columns are called and mean, in words for people."""

from __future__ import annotations

from typing import Any

from mmm_rs import FIELDS, LABEL_TYPES, MEMBERS, MODALITIES, PROMPT_COLUMNS, label_column

MODALITY_NAMES = {"rgb": "optical", "nir": "near infrared", "sar": "radar"}

LEVEL_NAMES = {
    "ultra_high": "ultra high, < 0.5 m",
    "high": "high, 0.5-1 m",
    "ordinary": "ordinary, 1-5 m",
    "low": "low, from 5 m",
    "ultra_low": "ultra low, about 100 m",
    None: "unknown",
}

# Columns of the index that are not the builder's.
INDEX_FIELDS = {
    "split": "The split: train or validation.",
    "shard": "The shard that holds the sample, a path within the dataset.",
    "source": "The path of the image within the subset of the release.",
    "offset": "Where the image's bytes begin in the shard, bytes.",
    "size": "Length of the image, bytes.",
    "crc32": "CRC-32 of the image's bytes.",
    "width": "Width of the image, pixels.",
    "height": "Height of the image, pixels.",
}


def column_meaning(name: str) -> str:
    """What a column of the index is."""
    for modality in MODALITIES[1:]:
        for label in LABEL_TYPES:
            if name == label_column(label, modality):
                return f"{FIELDS[label]} Of the {MODALITY_NAMES[modality]} image."
    return FIELDS.get(name) or INDEX_FIELDS[name.rsplit("_", 1)[-1]]


def place_in_shards(column: str) -> str:
    """Where the shards have a column of the builder."""
    for modality, members in MEMBERS.items():
        if column in (modality, PROMPT_COLUMNS[modality]):
            return members.image if column == modality else members.prompt
    return "__key__" if column == "key" else f"json: {column}"


def type_name(feature: Any) -> str:
    """The type of a feature of `datasets`."""
    if isinstance(feature, dict):
        return ", ".join(f"{name}: {type_name(inner)}" for name, inner in feature.items())
    names = getattr(feature, "names", None)
    if names:
        return "one of " + ", ".join(f"`{name}`" for name in names)
    return "image" if type(feature).__name__ == "Image" else feature.dtype
