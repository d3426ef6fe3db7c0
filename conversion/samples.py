"""The samples of one shard: read from the source, checked, described.

Whoever wants samples, to write or to read them at once, gets them here, so both get the same.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import msgspec
import pyarrow as pa

from conversion import images, names, prompts
from conversion.archives import Archive, DamagedEntry, Entry, Reader
from conversion.execution import check_stop
from conversion.findings import Reported
from conversion.images import RejectedImage
from conversion.records import StoredRecord
from mmm_rs import FORMAT_VERSION, LABEL_TYPES, MODALITIES, PROMPT_COLUMNS, label_column

ROWS = 1 << 10  # samples that are Python objects at a time, of perhaps a hundred thousand small ones in a shard

_decode_record = msgspec.msgpack.Decoder(StoredRecord).decode


class SampleImage(msgspec.Struct, frozen=True, gc=False):
    modality: str
    source: str
    data: memoryview  # valid until the next sample
    crc32: int
    width: int  # pixels
    height: int  # pixels
    record: StoredRecord | None


class Sample(msgspec.Struct, frozen=True):
    """What is published of one place: its images in the order rgb, nir, sar, and the fields of its JSON member."""

    key: str
    images: tuple[SampleImage, ...]
    fields: dict[str, Any]


class _PlannedImage(NamedTuple):
    """What a batch of the plan says of one image: IMAGE_COLUMNS, and where its record is."""

    source: str | None  # None where the sample has no image of this modality
    file: bytes | None
    offset: int
    packed: int
    size: int
    crc: int | None
    method: int
    part: int  # which of the archives
    record: int | None  # offset in the file of records, bytes
    record_length: int


def samples(
    batch: pa.RecordBatch,
    subset: str,
    archives: tuple[Archive, ...],
    records: str,
    decode: bool,
) -> Iterator[Sample | Reported]:
    """Read, check and describe the samples of one batch of the plan; between them, what of it is not published.

    `records`: the file of records. `decode`: decode each image.
    """
    modalities = [m for m in MODALITIES if f"{m}_source" in batch.schema.names]
    with contextlib.ExitStack() as stack:
        # One reader for each modality, so that the buffers of a sample's images are valid together.
        readers = {m: [stack.enter_context(Reader(archive)) for archive in archives] for m in modalities}
        texts = os.open(records, os.O_RDONLY)
        stack.callback(os.close, texts)
        for key, planned in _planned(batch, modalities):
            check_stop()
            published: list[SampleImage] = []
            orphans: list[StoredRecord] = []  # whose images are rejected
            for m, image in zip(modalities, planned, strict=True):
                source = image.source
                if source is None:
                    continue
                record = None
                if image.record is not None:
                    record = _decode_record(os.pread(texts, image.record_length, image.record))
                try:
                    entry = Entry(image.offset, image.packed, image.size, image.crc, image.method, image.file, source)
                    data, crc32 = readers[m][image.part].read(entry)
                    width, height = images.measure(data, decode)
                except (DamagedEntry, RejectedImage) as error:
                    yield Reported("image", source, None, error.reason, error.detail)
                    if record:
                        orphans.append(record)
                    continue
                published.append(SampleImage(m, source, data, crc32, width, height, record))
            if orphans:
                yield from _without_image(orphans, published)
            if published:
                yield Sample(key, tuple(published), fields(subset, published))


def _planned(batch: pa.RecordBatch, modalities: Sequence[str]) -> Iterator[tuple[str, tuple[_PlannedImage, ...]]]:
    """Each sample's key and what is planned of its image of each modality."""
    for start in range(0, batch.num_rows, ROWS):
        rows = batch.slice(start, ROWS)
        planned = []
        for m in modalities:
            columns = (rows.column(f"{m}_{name}").to_pylist() for name in _PlannedImage._fields)
            planned.append(map(_PlannedImage._make, zip(*columns, strict=True)))
        yield from zip(rows.column("key").to_pylist(), zip(*planned, strict=True), strict=True)


def _without_image(orphans: list[StoredRecord], published: list[SampleImage]) -> Iterator[Reported]:
    """The records that describe no published image, each once: a record may describe several images of a sample."""
    kept = {(image.record.file, image.record.position) for image in published if image.record}
    lost = {(r.file, r.position): r for r in orphans if (r.file, r.position) not in kept}
    for record in lost.values():
        detail = f"{record.path}: its image is not published"
        yield Reported("record", record.file, record.position, "image_rejected", detail)


def fields(subset: str, published: list[SampleImage]) -> dict[str, Any]:
    """The JSON member of a sample. Its single labels are those of its first modality."""
    source: dict[str, str | None] = dict.fromkeys(MODALITIES)
    annotation: dict[str, str | None] = dict.fromkeys(MODALITIES)
    labels: dict[str, dict[str, Any] | None] = dict.fromkeys(MODALITIES)
    for image in published:
        source[image.modality] = image.source
        labels[image.modality] = image_labels(subset, image)
        if image.record:
            annotation[image.modality] = image.record.text
    first = labels[published[0].modality]
    assert first is not None
    return {"subset": subset, "source": source, **first, "annotation": annotation, "labels": labels}


def fields_of_row(row: Mapping[str, Any], format_version: str = FORMAT_VERSION) -> dict[str, Any]:
    """The JSON member that belongs to a row of the index."""
    fields = {name: row[name] for name in ("subset", "source", *LABEL_TYPES, "annotation")}
    if format_version != "1.0":
        fields["labels"] = {
            modality: None
            if row[f"{modality}_size"] is None
            else {label: row[label_column(label, modality)] for label in LABEL_TYPES}
            for modality in MODALITIES
        }
    return fields


def image_labels(subset: str, image: SampleImage) -> dict[str, Any]:
    """What an image's prompt, its record and its name say of it, by LABEL_TYPES; None where unknown."""
    record = image.record
    parts = prompts.split(record.prompt) if record else prompts.PromptParts()
    gsd = record.gsd if record else None
    if gsd is None and subset == "Inria":
        gsd = names.inria_gsd(image.source)
    level, derived = parts.gsd_level, False
    if level is None and gsd is not None:
        level, derived = prompts.gsd_level(gsd), True
    weather = parts.weather
    if weather is None and subset == "weather":
        folders = image.source.lower().split("/")[:-1]
        weather = next((names.SCENE_FOLDERS[name] for name in folders if name in names.SCENE_FOLDERS), None)
    return {
        "caption": parts.caption,
        "category": (record.category if record else None) or parts.category,
        "weather": weather,
        "satellite": parts.satellite,
        "gsd": gsd,
        "gsd_level": level,
        "gsd_level_derived": derived if level else None,
        "cloud_cover": record.cloud_cover if record else None,
    }


def index_row(sample: Sample, split: str, shard: str) -> dict[str, Any]:
    """A sample's row of the index, but for the offsets, which only the tar knows."""
    row: dict[str, Any] = {"key": sample.key, "split": split, "shard": shard, **sample.fields}
    labels = row.pop("labels")
    for image in sample.images:
        m = image.modality
        row[PROMPT_COLUMNS[m]] = image.record.prompt if image.record else None
        row[f"{m}_size"], row[f"{m}_crc32"] = len(image.data), image.crc32
        row[f"{m}_width"], row[f"{m}_height"] = image.width, image.height
        if m != MODALITIES[0]:  # whose labels are the sample's own
            row.update((label_column(label, m), value) for label, value in labels[m].items())
    return row
