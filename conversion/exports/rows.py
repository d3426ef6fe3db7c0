"""Rows of an index: which images and labels a sample has, and what it would be with fewer modalities."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from mmm_rs import MODALITIES, PROMPT_COLUMNS, index_schema

# What a sample's single fields say of its first modality.
LABEL_COLUMNS = (
    "caption",
    "category",
    "weather",
    "satellite",
    "gsd",
    "gsd_level",
    "gsd_level_derived",
    "cloud_cover",
)
PLACE_COLUMNS = ("offset", "size", "crc32", "width", "height")  # of each modality's image


def label_columns(column: str) -> list[str]:
    """The index columns that hold a label: the one of the first modality there is, and those of nir and sar."""
    existing = index_schema().names
    return [column, *(name for m in MODALITIES if (name := f"{m}_{column}") in existing)]


def has_image(rows: pa.Table, modality: str) -> np.ndarray:
    """Which rows have an image of a modality."""
    return pc.is_valid(rows[f"{modality}_size"]).to_numpy()


def first_modality(rows: pa.Table, modalities: Sequence[str]) -> np.ndarray:
    """The position in `modalities` of the first image that each row has; -1 for none."""
    first = np.full(rows.num_rows, -1)
    for number in reversed(range(len(modalities))):
        first[has_image(rows, modalities[number])] = number
    return first


def label(rows: pa.Table, column: str, modalities: Sequence[str]) -> pa.Array:
    """A label of each row, of the first of `modalities` that it has."""
    values = rows[column].combine_chunks()
    first, first_of_all = first_modality(rows, modalities), first_modality(rows, MODALITIES)
    for number, modality in enumerate(modalities):
        name = f"{modality}_{column}"
        # The plain column describes the first modality of the sample, which is often the first chosen one too.
        differs = (first == number) & (first_of_all != MODALITIES.index(modality))
        if name in rows.column_names and differs.any():
            values = pc.if_else(pa.array(differs), rows[name].combine_chunks(), values)
    return values


def restricted(rows: pa.Table, modalities: Sequence[str]) -> pa.Table:
    """Rows of the index as they are if the samples had these modalities only.

    The columns of the other modalities are null, and the single fields describe the first modality that is left.
    """
    columns = {name: rows[name].combine_chunks() for name in rows.column_names}
    for name in LABEL_COLUMNS:
        if name in columns:
            columns[name] = label(rows, name, modalities)
    for modality in MODALITIES:
        if modality in modalities:
            continue
        theirs = [PROMPT_COLUMNS[modality], *(f"{modality}_{name}" for name in (*PLACE_COLUMNS, *LABEL_COLUMNS))]
        for name in theirs:
            if name in columns:
                columns[name] = pa.nulls(rows.num_rows, columns[name].type)
    for name in ("source", "annotation"):
        if name in columns:
            columns[name] = _parts_of(columns[name], modalities)
    return pa.table(columns, schema=rows.schema)


def label_of(rows: pa.Table, column: str, modality: str) -> pa.Array:
    """A label that a modality's own prompt and record give; null where the row lacks it or the format does not tell."""
    first = pa.array(first_modality(rows, MODALITIES) == MODALITIES.index(modality))
    values = rows[column].combine_chunks()
    name = f"{modality}_{column}"
    other = rows[name].combine_chunks() if name in rows.column_names else pa.nulls(rows.num_rows, values.type)
    return pc.if_else(first, values, other)


def _parts_of(column: pa.Array, modalities: Sequence[str]) -> pa.Array:
    arrays = []
    for number, field in enumerate(column.type):
        part = pc.struct_field(column, [number])
        arrays.append(part if field.name in modalities else pa.nulls(len(column), field.type))
    return pa.StructArray.from_arrays(arrays, fields=list(column.type))
