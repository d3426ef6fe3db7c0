"""An export as a complete dataset of the same format: shards, index, report and manifest.

Keys, members and the order of the samples are the source's. The report accounts for every selected image and record;
what was not selected is not lost, and not in it. The manifest says what the dataset was exported from.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import pyarrow as pa

from conversion import layout, manifest, report
from conversion.disk import replacing
from conversion.execution import check_stop
from conversion.exports.parts import Group, Part, Plan, Written
from conversion.exports.source import Batch, record_modalities
from conversion.options import Options
from conversion.plan import PlanFile
from conversion.samples import fields_of_row
from conversion.sharding import cut
from conversion.shards import Marker, read_marker, write_marker, writing_marker
from conversion.tar import Tar
from mmm_rs import MEMBERS, METADATA_MEMBER, MODALITIES, PROMPT_COLUMNS, index_schema

_encode_json = msgspec.json.Encoder().encode


@dataclass(frozen=True)
class DatasetForm:
    """Shards in the format of the source. `exported_from`: what the manifest says of the source and the selection."""

    out: Path
    work: Path
    options: Options
    exported_from: dict[str, Any]

    def spans(self, group: Group) -> list[tuple[int, int]]:
        return [(start, stop) for start, stop, *_ in cut(group.bytes + group.text_bytes, self.options.shard_size)]

    def name(self, group: Group, number: int, count: int) -> str:
        return layout.shard_name(group.subset, group.split, number, count)

    def write(self, part: Part, batches: Iterable[Batch]) -> tuple[int, int]:
        samples = records = 0
        images, pairs = dict.fromkeys(MODALITIES, 0), dict.fromkeys(MODALITIES, 0)
        with writing_marker(self._marker(part)) as index:
            with replacing(self.out / part.name) as fd:
                tar = Tar(fd)
                for batch in batches:
                    rows = batch.rows.to_pylist()
                    for number, row in enumerate(rows):
                        check_stop()
                        for modality in part.modalities:
                            row[f"{modality}_offset"] = None
                            if (data := batch.images[modality][number]) is None:
                                continue
                            member = MEMBERS[modality]
                            row[f"{modality}_offset"] = tar.add(f"{row['key']}.{member.image}", data)
                            images[modality] += 1
                            if (prompt := row[PROMPT_COLUMNS[modality]]) is not None:
                                tar.add(f"{row['key']}.{member.prompt}", prompt.encode())
                                pairs[modality] += 1
                        tar.add(f"{row['key']}.{METADATA_MEMBER}", _encode_json(fields_of_row(row)))
                        records += len(record_modalities(row["annotation"], part.modalities))
                        row["shard"] = part.name
                    samples += len(rows)
                    index.write_batch(_index_batch(rows))
                if samples:
                    tar.close()  # else nothing is written, and the shard does not come to be
            name, sha256 = (part.name, tar.sha256.hexdigest()) if samples else (None, None)
            marker = Marker(
                part.subset, part.split, part.number, name, tar.size, sha256, samples, images, pairs, (), records
            )
            write_marker(index, marker)
        return samples, sum(images.values())

    def finish(self, plan: Plan, written: Sequence[Written]) -> list[str]:
        reports, shards = [], []
        for subset in dict.fromkeys(part.subset for part in plan.parts):
            parts = [part for part in plan.parts if part.subset == subset]
            paths = [self._marker(part) for part in parts]
            markers = [read_marker(path) for path in paths]
            shards += [marker.row() for marker in markers if marker.name]
            if any(marker.name for marker in markers):
                manifest.write_index(self.out / layout.index_name(subset), paths)
            rows = tuple(row for part in parts for row in written[part.number].reported)
            records = sum(marker.records_used for marker in markers) + sum(row.kind == "record" for row in rows)
            selected = PlanFile("", subset, (), rows, sum(part.images for part in parts), records)
            reports.append(report.reckon(selected, markers))
        report.write(self.out, reports, [], pa.table({"path": [], "type": []}, schema=UNKNOWN))
        manifest.write_module(self.out)
        manifest.write(self.out, manifest.build(self.out, shards, self.options, exported_from=self.exported_from))
        return []

    def _marker(self, part: Part) -> Path:
        return self.work / "shards" / f"{part.number:06d}.arrow"


UNKNOWN = pa.schema([("path", pa.string()), ("type", pa.string())])


def _index_batch(rows: list[dict[str, Any]]) -> pa.RecordBatch:
    schema = index_schema()
    columns = [pa.array([row.get(column.name) for row in rows], column.type) for column in schema]
    return pa.RecordBatch.from_arrays(columns, schema=schema)
