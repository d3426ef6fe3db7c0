"""An export as a folder of images: what kohya's trainers, `imagefolder` and people read.

    OUT/<Subset>/<key>.jpg, .txt            the first modality of a sample and its prompt
    OUT/<Subset>/<key>.sar.jpg, .sar.txt    an aligned modality beside it; with twin folders OUT/sar/<Subset>/<key>.jpg
    OUT/metadata.jsonl                      one line per image: `file_name`, `text` (the prompt) and all labels

While the export is unfinished the files lie below OUT/.mmm-rs. They move as whole folders when all are written, so
there is never a half-written file under its final name, and no file needs a rename of its own.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pyarrow.compute as pc

from conversion.disk import BUFFER, replacing, sync_file_system
from conversion.execution import check_stop
from conversion.exports.parts import Group, Part, Plan, Written
from conversion.exports.source import Batch
from mmm_rs import LABEL_TYPES, MEMBERS, PROMPT_COLUMNS, labels_of

PART_BYTES = 64_000_000  # of images in a part: small enough that little is repeated after an interruption
PART_SAMPLES = 1000
METADATA = "metadata.jsonl"
# A line whose file name has a word of the splits that `datasets` looks for in paths, between signs that are no letters.
LIKE_A_SPLIT = re.compile(
    rb'{"file_name":"(?:[^"]*[-._ 0-9/])?(?:train|training|validation|valid|val|dev|test|testing|eval|evaluation)'
    rb"[-._ 0-9/]"
)

_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder().decode


@dataclass(frozen=True)
class FolderForm:
    """A folder of images. `twins`: a folder for each modality, with equal names in all."""

    out: Path
    work: Path
    twins: bool
    splits: bool  # a folder for each split

    @property
    def _files(self) -> Path:
        """Everything that moves to the output folder in the end."""
        return self.work / "files"

    @property
    def _lines(self) -> Path:
        """The lines of metadata: a folder for each home, a file for each part."""
        return self.work / "lines"

    def spans(self, group: Group) -> list[tuple[int, int]]:
        total = np.cumsum(group.bytes)
        cuts, start = [], 0
        while start < len(group):
            before = int(total[start - 1]) if start else 0
            stop = int(np.searchsorted(total, before + PART_BYTES, side="right"))
            stop = min(max(stop, start + 1), start + PART_SAMPLES)
            cuts.append((start, stop))
            start = stop
        return cuts

    def name(self, group: Group, number: int, count: int) -> str:
        return f"{group.subset}, {group.split}, part {number + 1} of {count}"

    def home(self, split: str, modality: str) -> str:
        """The folder that has the metadata of an image, relative to the output folder; empty for this itself."""
        return "/".join([*([split] if self.splits else []), *([modality] if self.twins else [])])

    def file_name(self, key: str, modality: str) -> str:
        """The path of an image within its home."""
        return f"{key}.jpg" if self.twins else f"{key}.{MEMBERS[modality].image}"

    def write(self, part: Part, batches: Iterable[Batch]) -> tuple[int, int]:
        lines: dict[str, list[bytes]] = {}
        folders: set[Path] = set()
        samples = images = 0
        for batch in batches:
            samples += batch.rows.num_rows
            for modality in part.modalities:
                home = self.home(part.split, modality)
                for fields, data in _described(batch, modality):
                    check_stop()
                    fields = {"file_name": self.file_name(fields["key"], modality), **fields}
                    path = self._files / home / fields["file_name"]
                    if path.parent not in folders:
                        path.parent.mkdir(parents=True, exist_ok=True)
                        folders.add(path.parent)
                    path.write_bytes(data)
                    if fields["text"] is not None:
                        path.with_suffix(".txt").write_bytes(fields["text"].encode())
                    lines.setdefault(home, []).append(_encode(fields) + b"\n")
                    images += 1
        for home, encoded in lines.items():
            path = self._lines / home / f"{part.number:06d}.jsonl"
            with replacing(path) as fd, open(fd, "wb", BUFFER, closefd=False) as sink:
                sink.writelines(encoded)
        sync_file_system(self.work)  # the files are not synced one by one
        return samples, images

    def finish(self, plan: Plan, written: Sequence[Written]) -> list[str]:
        parts: dict[Path, list[Path]] = {}
        mistaken: list[str] = []
        for path in sorted(self._lines.rglob("*.jsonl")):
            parts.setdefault(path.parent.relative_to(self._lines), []).append(path)
        for home, paths in parts.items():
            if home.parts and (self._files / home).exists():
                mistaken += _write_metadata(self._files / home / METADATA, paths)
        for folder in sorted(self._files.iterdir()) if self._files.exists() else ():
            os.rename(folder, self.out / folder.name)
        if Path() in parts:
            mistaken += _write_metadata(self.out / METADATA, parts[Path()])
        notes = []
        if self.splits:
            notes.append(f"each split is a folder of its own: {', '.join(sorted({part.split for part in plan.parts}))}")
        if mistaken:
            notes.append(
                f"`imagefolder` takes a word of some file names for a split ({len(mistaken):,}, for example "
                f'{mistaken[0]}). Load the folder with data_files={{"train": "{self.out}/**"}}'
            )
        return notes


def _described(batch: Batch, modality: str) -> Iterator[tuple[dict[str, Any], memoryview]]:
    """The images of one modality: what the metadata says of each, and its bytes."""
    rows = labels_of(batch.rows, [modality])
    columns = {
        "text": rows[PROMPT_COLUMNS[modality]],
        "key": rows["key"],
        "subset": rows["subset"],
        "split": rows["split"],
        **{name: rows[name] for name in LABEL_TYPES},
        "width": rows[f"{modality}_width"],
        "height": rows[f"{modality}_height"],
        "source": pc.struct_field(rows["source"].combine_chunks(), modality),
        "annotation": pc.struct_field(rows["annotation"].combine_chunks(), modality),
    }
    values = zip(*(column.to_pylist() for column in columns.values()), strict=True)
    for row, data in zip(values, batch.images[modality], strict=True):
        if data is not None:
            yield {**dict(zip(columns, row, strict=True)), "modality": modality}, data


def _write_metadata(path: Path, parts: Sequence[Path]) -> list[str]:
    """Join lines of metadata. Those come first that show the type of a column: readers infer it from the beginning.

    Returns the names of files that `imagefolder` would put into a split by themselves.
    """
    first: dict[int, bytes] = {}
    typed: set[str] = set()
    for number, line in enumerate(_lines(parts)):
        fields = _decode(line)
        if new := {name for name, value in fields.items() if value is not None} - typed:
            typed |= new
            first[number] = line
        if len(typed) == len(fields):
            break
    with replacing(path) as fd, open(fd, "wb", BUFFER, closefd=False) as sink:
        sink.writelines(first.values())
        sink.writelines(line for number, line in enumerate(_lines(parts)) if number not in first)
    return [_decode(line)["file_name"] for line in _lines(parts) if LIKE_A_SPLIT.match(line)]


def _lines(parts: Sequence[Path]) -> Iterator[bytes]:
    for part in parts:
        with open(part, "rb") as file:
            yield from file
