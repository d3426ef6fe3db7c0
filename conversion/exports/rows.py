"""Rows of an index: which images and labels a sample has, and what it would be with fewer modalities."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from mmm_rs import IMAGE_FACTS, LABEL_TYPES, MODALITIES, PROMPT_COLUMNS, labels_of


def has_image(rows: pa.Table, modality: str) -> np.ndarray:
    """Which rows have an image of a modality."""
    return pc.is_valid(rows[f"{modality}_size"]).to_numpy()


def restricted(rows: pa.Table, modalities: Sequence[str]) -> pa.Table:
    """Rows of the index as they are if the samples had these modalities only.

    The columns of the other modalities are null, and the single fields describe the first modality that is left.
    """
    rows = labels_of(rows, modalities)
    columns = {name: rows[name].combine_chunks() for name in rows.column_names}
    for modality in MODALITIES:
        if modality in modalities:
            continue
        theirs = [PROMPT_COLUMNS[modality], *(f"{modality}_{name}" for name in (*IMAGE_FACTS, *LABEL_TYPES))]
        for name in theirs:
            if name in columns:
                columns[name] = pa.nulls(rows.num_rows, columns[name].type)
    for name in ("source", "annotation"):
        if name in columns:
            columns[name] = _parts_of(columns[name], modalities)
    return pa.table(columns, schema=rows.schema)


def _parts_of(column: pa.Array, modalities: Sequence[str]) -> pa.Array:
    arrays = []
    for number, field in enumerate(column.type):
        part = pc.struct_field(column, [number])
        arrays.append(part if field.name in modalities else pa.nulls(len(column), field.type))
    return pa.StructArray.from_arrays(arrays, fields=list(column.type))
