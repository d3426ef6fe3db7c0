"""An export as Parquet with the images inside: what the hub's viewer, `datasets`, SQL and FiftyOne read.

    OUT/data/<Subset>/train-00000-of-00032.parquet
    OUT/README.md                                   YAML that tells `load_dataset` of configs, splits and features

The columns are the builder's, labels as text. Every file has the same columns, so that SQL reads them together.
"""

from __future__ import annotations

import inspect
import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from conversion import layout
from conversion.disk import replacing
from conversion.execution import check_stop
from conversion.exports.parts import Group, Part, Plan, Written
from conversion.exports.source import Batch
from conversion.sharding import cut
from mmm_rs import ALL, MEMBERS, MODALITIES, features

ROW_GROUP = 100  # rows; what the hub's viewer loads at once, with images
DICTIONARIES = ("subset", "split", "category", "weather", "satellite", "gsd_level")  # columns of few values


@dataclass(frozen=True)
class ParquetForm:
    """Parquet files with the images inside. `modalities`: of all files, whatever a subset has."""

    out: Path
    modalities: tuple[str, ...]
    file_size: int  # bytes at most, about

    def spans(self, group: Group) -> list[tuple[int, int]]:
        spans = [(start, stop) for start, stop, *_ in cut(group.bytes + group.text_bytes, self.file_size)]
        few = -(-len(group) // ROW_GROUP)
        if few < len(spans) and group.bytes.sum() / few < self.file_size:  # no file of less than a row group
            bounds = np.arange(few + 1) * len(group) // few
            spans = list(itertools.pairwise(bounds.tolist()))
        return spans

    def name(self, group: Group, number: int, count: int) -> str:
        return f"{layout.DATA}/{group.subset}/{group.split}-{number:05d}-of-{count:05d}.parquet"

    def write(self, part: Part, batches: Iterable[Batch]) -> tuple[int, int]:
        schema = columns(self.modalities).arrow_schema  # its metadata tells `datasets` of the features
        samples = images = 0
        with replacing(self.out / part.name) as fd, open(fd, "wb", closefd=False) as sink:
            writer = None
            for group in _row_groups(_table(batch, schema) for batch in batches):
                check_stop()
                writer = writer or pq.ParquetWriter(sink, schema, **_settings(schema))
                writer.write_table(group, row_group_size=ROW_GROUP)
                samples += group.num_rows
                images += sum(group.num_rows - group[modality].null_count for modality in self.modalities)
            if writer is not None:
                writer.close()  # else nothing is written, and the file does not come to be
        return samples, images

    def finish(self, plan: Plan, written: Sequence[Written]) -> list[str]:
        return []


def columns(modalities: Sequence[str]) -> datasets.Features:
    """The columns of an export with these modalities."""
    result = datasets.Features()
    for name, feature in features(ALL, modalities).items():
        result[name] = datasets.Value("string") if isinstance(feature, datasets.ClassLabel) else feature
    return result


def _settings(schema: pa.Schema) -> dict[str, Any]:
    """How the columns are stored. The bytes of images are compressed already, and a dictionary of them or their minimum
    helps nobody."""
    texts = [path for path in _leaves(schema) if path.rsplit(".", 1)[0] not in MODALITIES]
    settings: dict[str, Any] = {
        "compression": {path: "zstd" if path in texts else "none" for path in _leaves(schema)},
        "use_dictionary": [name for name in schema.names if name in DICTIONARIES],
        "write_statistics": texts,
        "write_page_index": True,
    }
    if "use_content_defined_chunking" in inspect.signature(pq.ParquetWriter.__init__).parameters:  # since pyarrow 21
        # The hub stores equal chunks of two files once: another export of the same images costs little.
        settings["use_content_defined_chunking"] = True
    return settings


def _leaves(schema: pa.Schema) -> list[str]:
    """The paths of the stored columns, as Parquet names them."""
    paths = []
    for field in schema:
        if pa.types.is_struct(field.type):
            paths += [f"{field.name}.{inner.name}" for inner in field.type]
        else:
            paths.append(field.name)
    return paths


def _table(batch: Batch, schema: pa.Schema) -> pa.Table:
    arrays = []
    for field in schema:
        if field.name in MODALITIES:
            arrays.append(_image_column(batch, field.name, field.type))
            continue
        column = batch.rows[field.name].combine_chunks()
        if pa.types.is_struct(field.type):
            parts = [pc.struct_field(column, inner.name) for inner in field.type]
            column = pa.StructArray.from_arrays(parts, fields=list(field.type))
        arrays.append(column.cast(field.type))
    return pa.Table.from_arrays(arrays, schema=schema)


def _image_column(batch: Batch, modality: str, kind: pa.StructType) -> pa.StructArray:
    images = batch.images.get(modality) or [None] * batch.rows.num_rows
    data = pa.array(images, pa.binary())
    paths = pc.binary_join_element_wise(batch.rows["key"].combine_chunks(), MEMBERS[modality].image, ".")
    return pa.StructArray.from_arrays([data, paths], fields=list(kind), mask=data.is_null())


def _row_groups(tables: Iterator[pa.Table]) -> Iterator[pa.Table]:
    """The rows of tables again, ROW_GROUP at a time."""
    waiting: list[pa.Table] = []
    for table in tables:
        waiting.append(table)
        if sum(part.num_rows for part in waiting) >= ROW_GROUP:
            joined = pa.concat_tables(waiting)
            whole = joined.num_rows // ROW_GROUP * ROW_GROUP
            for first in range(0, whole, ROW_GROUP):
                yield joined.slice(first, ROW_GROUP).combine_chunks()
            waiting = [joined.slice(whole)]
    if rest := sum(part.num_rows for part in waiting):
        yield pa.concat_tables(waiting).combine_chunks().slice(0, rest)
