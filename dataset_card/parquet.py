"""The card of a Parquet export: YAML by which `datasets` and the hub's viewer load it, and a text for people.

This module is handed to `conversion.export` with `to="parquet"`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import datasets
import pyarrow.parquet as pq
import yaml

from conversion import layout
from conversion.disk import write_file
from dataset_card.exported import selection_words, source_words
from dataset_card.fields import type_name
from dataset_card.markdown import fill, table
from dataset_card.metadata import LICENCE, info_entry, size_category
from dataset_card.provenance import PAPER
from dataset_card.text import citations, table_of_licences
from mmm_rs import ALL, FIELDS, HOMEPAGE, MODALITIES, PROMPT_COLUMNS, SUBSETS


@dataclass(frozen=True)
class Split:
    """The files of one split of a subset."""

    subset: str
    split: str
    samples: int
    bytes: int


def write(out: Path) -> None:
    """Write the card of a Parquet export.

    Raises OutputError if it cannot be written.
    """
    record = json.loads((out / layout.EXPORT).read_bytes())
    paths = sorted((out / layout.DATA).glob("*/*.parquet"))
    splits = [_split(out, subset, split, paths) for subset, split in _held(paths)]
    features = datasets.Features.from_arrow_schema(pq.read_schema(paths[0]))
    front = yaml.safe_dump(metadata(splits, features, record), sort_keys=False, allow_unicode=True, width=2**20)
    write_file(out / layout.CARD, f"---\n{front}---\n\n{body(splits, features, record)}".encode())


def _held(paths: Sequence[Path]) -> list[tuple[str, str]]:
    """The subsets and splits of which there are files, in the dataset's order."""
    held = {(path.parent.name, path.name.rsplit("-", 3)[0]) for path in paths}
    return sorted(held, key=lambda pair: (list(SUBSETS).index(pair[0]), pair[1] != "train", pair[1]))


def _split(out: Path, subset: str, split: str, paths: Sequence[Path]) -> Split:
    files = [path for path in paths if path.parent.name == subset and path.name.startswith(f"{split}-")]
    samples = sum(pq.read_metadata(path).num_rows for path in files)
    return Split(subset, split, samples, sum(path.stat().st_size for path in files))


def configs(splits: Sequence[Split]) -> list[tuple[str, list[str]]]:
    """(config, its subsets). Of one subset there is only its own, so that it loads without a name."""
    subsets = list(dict.fromkeys(split.subset for split in splits))
    every = [(ALL, subsets)] if len(subsets) > 1 else []
    return [*((name, [name]) for name in subsets), *every]


def metadata(splits: Sequence[Split], features: datasets.Features, record: dict[str, Any]) -> dict[str, Any]:
    """The card's YAML, in the hub's vocabulary."""
    # In the description, so that `datasets` leaves its cache for another export.
    digest = hashlib.sha256(json.dumps(record, sort_keys=True).encode()).hexdigest()
    entries, infos = [], []
    for name, subsets in configs(splits):
        held = [split for split in splits if split.subset in subsets]
        files = [
            {"split": split, "path": [f"data/{part.subset}/{split}-*.parquet" for part in held if part.split == split]}
            for split in dict.fromkeys(part.split for part in held)
        ]
        entry = {"config_name": name, "data_files": files}
        entries.append({**entry, "default": True} if name == ALL else entry)
        totals: dict[str, tuple[int, int]] = {}
        for part in held:
            size, samples = totals.get(part.split, (0, 0))
            totals[part.split] = size + part.bytes, samples + part.samples
        infos.append(info_entry(name, features, totals, f"export sha256:{digest}"))
    return {
        "pretty_name": "MMM-RS, selected samples",
        **LICENCE,
        "language": ["en"],
        "task_categories": ["text-to-image", "image-to-text", "image-to-image"],
        "size_categories": [size_category(sum(split.samples for split in splits))],
        "tags": ["remote-sensing", "earth-observation", "satellite-imagery", "multi-modal", "arxiv:2410.22362"],
        "configs": entries,
        "dataset_info": infos,
    }


def body(splits: Sequence[Split], features: datasets.Features, record: dict[str, Any]) -> str:
    """The text below the YAML."""
    subsets = list(dict.fromkeys(split.subset for split in splits))
    first = next(modality for modality in MODALITIES if modality in features)
    left_out = sum(row["kind"] == "image" for row in record["left_out"])
    columns = [(f"`{name}`", type_name(feature), FIELDS[name]) for name, feature in features.items()]
    rows = [(f"`{split.subset}`", split.split, f"{split.samples:,}") for split in splits]
    return fill(
        resources.files("dataset_card").joinpath("parquet.md").read_text("utf-8"),
        {
            "samples": f"{record['samples']:,}",
            "images": f"{record['images']:,}",
            "paper": PAPER,
            "homepage": HOMEPAGE,
            "source": source_words(record["source"]),
            "selection": selection_words(record["selection"]),
            "if_left_out": "" if left_out else None,
            "images_left_out": f"{left_out:,}",
            "config_argument": f'"{subsets[0]}",' if len(subsets) > 1 else "",
            "first_image": first,
            "first_prompt": PROMPT_COLUMNS[first],
            "table_of_splits": table(("config", "split", "samples"), rows),
            "table_of_columns": table(("column", "type", "what it is"), columns),
            "table_of_licences": table_of_licences(subsets),
            "citations": citations(subsets),
        },
    )
