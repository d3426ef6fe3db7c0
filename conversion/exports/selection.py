"""Which samples of a converted dataset to take, and which of their images: pure functions over tables of the index."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from conversion import names
from conversion.errors import UsageError, VerificationError
from conversion.exports.rows import has_image
from mmm_rs import (
    ALL,
    LABELS,
    MODALITIES,
    PROMPT_COLUMNS,
    chosen_modalities,
    did_you_mean,
    index_schema,
    key_hash,
    labels_of,
    subset_names,
    with_label_columns,
)

# The index columns that `Selection` filters by their values -> its fields.
BY_LABEL = {"gsd_level": "gsd_levels", "weather": "weathers", "category": "categories", "satellite": "satellites"}
DRAW = "draw/"  # makes the hash by which samples are drawn differ from the one by which the shards are sorted


@dataclass(frozen=True)
class Selection:
    """Which samples to take, and which of their images. Each field narrows the choice; the default is everything.

    Labels describe the first of the chosen modalities that a sample has, as they do in the builder.

    Raises UsageError for a value that cannot be used.
    """

    configs: tuple[str, ...] = (ALL,)
    split: str | None = None  # None: all splits
    modalities: tuple[str, ...] | None = None  # None: all that a subset has
    complete: bool = False  # only samples with an image of each of `modalities`
    gsd_levels: tuple[str, ...] = ()  # a sample has one of these; so for the next three
    weathers: tuple[str, ...] = ()
    categories: tuple[str, ...] = ()
    satellites: tuple[str, ...] = ()
    contains: tuple[str, ...] = ()  # texts that are all in a prompt of the chosen modalities, in any case
    where: str | None = None  # an SQL condition over the index's columns
    keys: tuple[str, ...] | None = None
    limit: int | None = None  # samples at most, drawn evenly from the scenes
    share: float | None = None  # of the samples that are selected otherwise, drawn evenly from the scenes
    seed: int = 0  # for choosing the samples of `limit` and `share`

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if field.name in (*BY_LABEL.values(), "configs", "modalities", "contains", "keys") and value is not None:
                object.__setattr__(self, field.name, tuple([value] if isinstance(value, str) else value))
        if self.keys is not None:
            object.__setattr__(self, "keys", tuple(sorted(set(self.keys))))
        if not self.configs:
            raise UsageError("--config: name at least one config")
        for option, given, check in (
            ("config", self.configs, subset_names),
            ("modalities", self.modalities or (), lambda name: chosen_modalities(ALL, [name])),
        ):
            for name in given:
                try:
                    check(name)
                except ValueError as error:
                    raise UsageError(f"--{option}: {error}") from None
        for column, field_name in BY_LABEL.items():
            for value in getattr(self, field_name):
                if column in LABELS and value not in LABELS[column]:
                    option = column.replace("_", "-")
                    hint = did_you_mean(value, LABELS[column])
                    raise UsageError(
                        f"--{option} {value}: not a label.{hint} The labels are {', '.join(LABELS[column])}"
                    )
        if self.limit is not None and self.limit < 1:
            raise UsageError(f"--limit {self.limit}: give a number of at least 1")
        if not -(10**63) < self.seed < 10**64:  # its digits are a key of blake2b
            raise UsageError("--seed: give a number of at most 64 characters")
        if self.share is not None and not 0 < self.share <= 1:
            raise UsageError(f"--share {self.share}: give a share of the samples above 0 and up to 1, for example 0.05")

    @property
    def subsets(self) -> tuple[str, ...]:
        """The subsets of the configs, each once."""
        return tuple(dict.fromkeys(name for config in self.configs for name in subset_names(config)))

    def subset_modalities(self, subset: str) -> tuple[str, ...]:
        """The modalities to take of a subset; none if it has none of them."""
        existing = chosen_modalities(subset, None)
        return existing if self.modalities is None else tuple(m for m in existing if m in self.modalities)

    @property
    def draws(self) -> bool:
        """Whether a draw narrows the choice."""
        return self.limit is not None or self.share is not None

    def columns(self) -> list[str]:
        """The index columns that `matching` looks at."""
        wanted = {"key", *(f"{modality}_size" for modality in MODALITIES)}
        for column, field_name in BY_LABEL.items():
            if getattr(self, field_name):
                wanted |= set(with_label_columns([column], MODALITIES))
        if self.contains:
            wanted |= set(PROMPT_COLUMNS.values())
        return [name for name in index_schema().names if name in wanted]

    @classmethod
    def of_record(cls, record: dict[str, Any]) -> Selection:
        """The selection that `record` describes, without its list of keys.

        Raises VerificationError if it is not what `record` gives.
        """
        if unknown := record.keys() - {field.name for field in fields(cls)}:
            raise VerificationError(f"the selection in the manifest has {min(unknown)!r}, which is not known here")
        keys = record.get("keys", {"count": 0})
        if not isinstance(keys, dict) or not isinstance(keys.get("count"), int):
            raise VerificationError("the selection in the manifest does not say how many keys were listed")
        try:
            return msgspec.convert({name: value for name, value in record.items() if name != "keys"}, cls)
        except (msgspec.ValidationError, UsageError) as error:
            raise VerificationError(f"the selection in the manifest cannot be used: {error}") from None

    def record(self) -> dict[str, Any]:
        """The selection as JSON, for the manifest: only what narrows it. Of a list of keys its length and digest."""
        narrowed: dict[str, Any] = {}
        for field in fields(self):
            value = getattr(self, field.name)
            if value != field.default and not (field.name == "seed" and not self.draws):
                narrowed[field.name] = list(value) if isinstance(value, tuple) else value
        if self.keys is not None:
            narrowed["keys"] = {"count": len(self.keys), "sha256": keys_digest(self.keys)}
        return narrowed


def read_keys(path: str | os.PathLike[str]) -> tuple[str, ...]:
    """The keys that a text file lists, one per line. Empty lines and those that begin with # are ignored.

    Raises UsageError if it cannot be read, or lists none.
    """
    try:
        lines = Path(path).expanduser().read_text(encoding="utf-8-sig").splitlines()
    except (OSError, ValueError) as error:
        raise UsageError(f"--keys {path}: cannot be read: {getattr(error, 'strerror', None) or error}") from None
    keys = tuple(key for line in lines if (key := line.strip()) and not key.startswith("#"))
    if not keys:
        raise UsageError(f"--keys {path}: lists no keys. Write one per line")
    return keys


def keys_digest(keys: Sequence[str]) -> str:
    """sha256 over keys, one per line."""
    return hashlib.sha256("".join(key + "\n" for key in keys).encode()).hexdigest()


def matching(rows: pa.Table, selection: Selection, modalities: Sequence[str]) -> np.ndarray:
    """Which rows of the index are selected, `where` and the draw aside.

    Args:
        rows: Rows of one subset with at least `selection.columns()`.
        selection: What to take.
        modalities: Those of the subset that are chosen.

    Returns:
        A boolean for each row.
    """
    images = [has_image(rows, modality) for modality in modalities]
    if selection.complete and selection.modalities is not None and len(modalities) < len(selection.modalities):
        images = []  # the subset lacks one of them altogether
    if not images:
        return np.zeros(rows.num_rows, bool)
    keep = np.logical_and.reduce(images) if selection.complete else np.logical_or.reduce(images)
    labels = labels_of(rows, modalities)
    for column, field_name in BY_LABEL.items():
        if wanted := getattr(selection, field_name):
            keep &= pc.is_in(labels[column], value_set=pa.array(wanted)).to_numpy(zero_copy_only=False)
    for text in selection.contains:
        keep &= np.logical_or.reduce(
            [
                has_image(rows, modality)
                & pc.match_substring(rows[PROMPT_COLUMNS[modality]], text, ignore_case=True).fill_null(False).to_numpy()
                for modality in modalities
            ]
        )
    if selection.keys is not None:
        keep &= pc.is_in(rows["key"], value_set=pa.array(selection.keys, pa.string())).to_numpy()
    return keep


def satisfying(rows: pa.Table, where: str) -> np.ndarray:
    """Which rows satisfy an SQL condition.

    Args:
        rows: The whole index, or those of its columns that the condition names; SQL knows it as `index`.
        where: What stands after WHERE.

    Raises UsageError if DuckDB is not installed, does not understand the condition, or finds other rows each time.
    """
    try:
        import duckdb
    except ImportError:
        raise UsageError("--where needs DuckDB: pip install 'mmm-rs[sql]'") from None
    numbered = rows.append_column("__row__", pa.array(np.arange(rows.num_rows)))
    with duckdb.connect() as connection:
        connection.register("index", numbered)
        try:
            # The line break ends a comment in the condition.
            query = f"SELECT __row__ FROM index WHERE ({where}\n)"
            answers = [connection.execute(query).fetchnumpy()["__row__"] for _ in range(2)]
        except duckdb.Error as error:
            reason = " ".join(str(error).split("\n\nLINE ")[0].split())  # without the picture of the place
            raise UsageError(f"--where {where}: {reason}") from None
    keep, again = (np.isin(np.arange(rows.num_rows), numbers) for numbers in answers)
    if (keep != again).any():
        raise UsageError(f"--where {where}: gives other rows each time. Leave out random() and the like; see --share")
    return keep


def drawn(keys: Sequence[str], subsets: Sequence[str], selection: Selection) -> np.ndarray:
    """Which samples the draw takes: `share` of them, `limit` at most.

    Every subset and scene gives its part of them, and a smaller draw is a part of a larger one with the same seed.

    Args:
        keys: Of all samples that are selected otherwise.
        subsets: The subset of each.
        selection: `share`, `limit` and `seed`.

    Returns:
        A boolean for each sample.
    """
    count = len(keys)
    if selection.share is not None and count:
        count = max(1, round(selection.share * count))
    if selection.limit is not None:
        count = min(count, selection.limit)
    keep = np.zeros(len(keys), bool)
    keep[_spread_order(keys, subsets, selection.seed)[:count]] = True
    return keep


def _spread_order(keys: Sequence[str], subsets: Sequence[str], seed: int) -> np.ndarray:
    """The samples in an order of which every beginning is spread evenly over subsets and scenes.

    The samples of a scene, shuffled, are put on a line from 0 to 1 at equal distances. The scenes of a subset, shuffled
    too, begin their lines at equal distances within the first step. All lines are merged.
    """
    scene_numbers: dict[tuple[str, str], int] = {}
    scene = np.empty(len(keys), np.int64)
    for number, (key, subset) in enumerate(zip(keys, subsets, strict=True)):
        name = subset, names.scene(subset, key.partition("/")[2])
        scene[number] = scene_numbers.setdefault(name, len(scene_numbers))
    value = _hashes(keys, seed)
    rank, size = _ranks(scene, value)
    _, subset_of_scene = np.unique([subset for subset, _ in scene_numbers], return_inverse=True)
    scene_rank, scenes = _ranks(subset_of_scene, _hashes(["/".join(name) for name in scene_numbers], seed))
    start = (scene_rank + 0.5) / scenes
    return np.lexsort((value, (rank + start[scene]) / size))


def _ranks(group: np.ndarray, value: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The rank of each value within its group, from 0, and the size of the group. Groups are numbered from 0."""
    order = np.lexsort((value, group))
    size = np.bincount(group)
    first = np.cumsum(size) - size
    rank = np.empty(len(group), np.int64)
    rank[order] = np.arange(len(group)) - first[group[order]]
    return rank, size[group]


def _hashes(texts: Sequence[str], seed: int) -> np.ndarray:
    return np.frombuffer(b"".join(key_hash(DRAW + text, seed) for text in texts), ">u8").astype(np.uint64)
