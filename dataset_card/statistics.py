"""What a converted folder holds, counted from its manifest, index and report: what the card and its figures tell."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from conversion import layout, report
from conversion import manifest as manifest_file
from conversion.errors import OutputError
from mmm_rs import MODALITIES, PROMPT_COLUMNS, SUBSETS, index_batches, label_column

LABELS = ("gsd_level", "weather", "category", "satellite")
SIDES = 1 << 20  # above every side of an image; width * SIDES + height is one number for both
WORDS_A_BIN = 2  # width of a bar of the prompt length figure
COLUMNS = ["gsd", "gsd_level_derived", *LABELS, *PROMPT_COLUMNS.values(), "rgb_width", "rgb_height"]


@dataclass
class Statistics:
    """Counts over the index of one subset. A pair is a published image that has a prompt."""

    samples: int = 0
    pairs: dict[str, int] = field(default_factory=lambda: dict.fromkeys(MODALITIES, 0))
    levels: dict[str, Counter] = field(default_factory=lambda: {m: Counter() for m in MODALITIES})
    """modality -> GSD level of the sample (None where unknown) -> pairs"""
    labels: dict[str, Counter] = field(default_factory=lambda: {label: Counter() for label in LABELS})
    """label -> value -> samples"""
    derived: int = 0
    """samples whose GSD level follows from metres, not from the prompt"""
    gsd: tuple[float, float] | None = None
    """smallest and largest GSD, metres a pixel"""
    words: Counter = field(default_factory=Counter)
    """words of a prompt, rounded down to a multiple of WORDS_A_BIN -> pairs"""
    sizes: Counter = field(default_factory=Counter)
    """(width, height) in pixels of the optical image -> samples"""
    together: Counter = field(default_factory=Counter)
    """modalities that a sample has, e.g. ("rgb", "sar") -> samples"""

    @property
    def modalities(self) -> tuple[str, ...]:
        """Modalities of which the subset has an image."""
        return tuple(m for m in MODALITIES if any(m in held for held in self.together))

    @property
    def incomplete(self) -> int:
        """Samples that lack a modality which others of the subset have."""
        return self.samples - self.together[self.modalities]


@dataclass(frozen=True)
class Converted:
    """A converted folder as its own files describe it."""

    out: Path
    manifest: dict[str, Any]
    summary: dict[str, Any]
    statistics: dict[str, Statistics]

    @property
    def subsets(self) -> list[str]:
        """Subsets that hold a sample, in the dataset's order."""
        return list(self.statistics)


def read_converted(out: Path) -> Converted:
    """Read what a conversion wrote.

    Raises OutputError where the manifest, the report or an index file is missing, or when they contradict each other;
    VerificationError where the manifest was edited.
    """
    manifest = read_manifest(out)
    summary = report.read(out, manifest["subsets"])
    held = [name for name in SUBSETS if manifest["subsets"].get(name, {}).get("samples")]
    statistics = {name: read_statistics(out / layout.index_name(name)) for name in held}
    for name, counted in statistics.items():
        stated = manifest["subsets"][name]
        if (counted.samples, counted.pairs) != (stated["samples"], stated["pairs"]):
            raise OutputError(
                f"{out / layout.index_name(name)}: its {counted.samples} samples and pairs {counted.pairs} are not the "
                f"manifest's {stated['samples']} and {stated['pairs']}. Run `mmm-rs verify` to see which is wrong"
            )
    return Converted(out, manifest, summary, statistics)


def read_manifest(out: Path) -> dict[str, Any]:
    """The manifest. Raises UsageError where there is no such folder, OutputError where there is none, VerificationError
    where it was edited."""
    manifest = manifest_file.read(out)
    if manifest is None:
        manifest_file.check_there(out)
        raise OutputError(
            f"{out}: no {layout.MANIFEST} here. Give the folder that `mmm-rs convert` wrote; an unfinished "
            "conversion continues with the same command"
        )
    return manifest


@contextmanager
def opened_parquet(path: Path) -> Iterator[pq.ParquetFile]:
    """A file of the index or the report to read from. Raises OutputError where it cannot be read, then or meanwhile."""
    try:
        with pq.ParquetFile(path) as index:
            yield index
    except FileNotFoundError:
        raise OutputError(f"{path}: not found. Run `mmm-rs convert` again with --overwrite") from None
    except (OSError, pa.ArrowException, KeyError) as error:  # KeyError: a column is missing
        raise OutputError(f"{path}: cannot be read ({error}). Run `mmm-rs convert` again with --overwrite") from None


def read_statistics(path: Path) -> Statistics:
    """Count one index file, some rows at a time. Raises OutputError where it cannot be read."""
    counted = Statistics()
    with opened_parquet(path) as index:
        levels = [name for name in map(_level_column, MODALITIES) if name in index.schema_arrow.names]
        columns = list(dict.fromkeys([*COLUMNS, *(f"{m}_size" for m in MODALITIES), *levels]))
        for rows in index_batches(index, range(index.num_row_groups), columns):
            _count(counted, pa.Table.from_batches([rows]))
    return counted


def _count(counted: Statistics, rows: pa.Table) -> None:
    """Add some rows of the index to `counted`."""
    counted.samples += rows.num_rows
    for label in LABELS:
        counted.labels[label].update(_counts(rows[label]))
    counted.derived += pc.sum(rows["gsd_level_derived"]).as_py() or 0
    if rows["gsd"].null_count < rows.num_rows:
        least_and_most = pc.min_max(rows["gsd"]).as_py()
        ends = (least_and_most["min"], least_and_most["max"], *(counted.gsd or ()))
        counted.gsd = min(ends), max(ends)
    wide = pc.multiply(rows["rgb_width"].cast(pa.int64()), SIDES)
    for both, number in _counts(pc.add(wide, rows["rgb_height"].cast(pa.int64()))).items():
        if both is not None:
            counted.sizes[divmod(both, SIDES)] += number
    held = [pc.if_else(pc.is_valid(rows[f"{modality}_size"]), 1 << bit, 0) for bit, modality in enumerate(MODALITIES)]
    for pattern, number in _counts(pc.add(pc.add(held[0], held[1]), held[2])).items():
        counted.together[tuple(m for bit, m in enumerate(MODALITIES) if pattern >> bit & 1)] += number
    for modality, column in PROMPT_COLUMNS.items():
        prompted = rows.filter(pc.and_(pc.is_valid(rows[column]), pc.is_valid(rows[f"{modality}_size"])))
        counted.pairs[modality] += prompted.num_rows
        level = _level_column(modality)  # format 1.0 has none for each modality
        counted.levels[modality].update(_counts(prompted[level if level in rows.column_names else "gsd_level"]))
        words = pc.list_value_length(pc.ascii_split_whitespace(pc.utf8_trim_whitespace(prompted[column])))
        counted.words.update(_counts(pc.multiply(pc.divide(words, WORDS_A_BIN), WORDS_A_BIN)))


def _level_column(modality: str) -> str:
    return label_column("gsd_level", modality)


def _counts(values: pa.ChunkedArray | pa.Array) -> Counter:
    """value -> how often it occurs."""
    return Counter({entry["values"]: entry["counts"] for entry in pc.value_counts(values).to_pylist()})


def rows_by_shard(out: Path, subsets: Iterable[str]) -> Counter:
    """shard -> rows that the index has of it."""
    counted: Counter = Counter()
    for subset in subsets:
        with pq.ParquetFile(out / layout.index_name(subset)) as index:
            for batch in index.iter_batches(columns=["shard"]):
                counted.update(_counts(batch["shard"]))
    return counted
