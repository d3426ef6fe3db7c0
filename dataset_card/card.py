"""The dataset card, `README.md`: YAML that makes the folder loadable without code, and the text for people.

Every number and every statement about this copy comes from its manifest, index and report; facts about a subset's
origin come from `mmm_rs.SUBSETS`. The same folder gives the same card, byte for byte.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import yaml

import mmm_rs
from dataset_card.statistics import Converted, read_converted

SIZES = (1_000, 10_000, 100_000, 1_000_000, 10_000_000, 100_000_000)  # bounds of the hub's size categories, samples


def write_card(out: Path, repo_id: str | None = None) -> None:
    """Write `out/README.md` from what the folder holds."""
    converted = read_converted(Path(out))
    front = yaml.safe_dump(metadata(converted), sort_keys=False, allow_unicode=True, width=2**20)
    (Path(out) / "README.md").write_text(f"---\n{front}---\n", encoding="utf-8")


def metadata(converted: Converted) -> dict[str, Any]:
    """The card's YAML, in the hub's vocabulary."""
    samples = sum(statistics.samples for statistics in converted.statistics.values())
    return {
        "pretty_name": "MMM-RS",
        "license": "cc-by-nc-sa-4.0",
        "language": ["en"],
        "task_categories": ["text-to-image", "image-to-text", "image-to-image"],
        "size_categories": [size_category(samples)],
        "tags": ["remote-sensing", "satellite-imagery", "multi-modal", "sar", "near-infrared", "gsd", "webdataset", "arxiv:2410.22362"],
        "configs": [
            {"config_name": name, "data_files": _data_files(converted, names)} for name, names in _configs(converted)
        ],
        "dataset_info": [_dataset_info(converted, name, names) for name, names in _configs(converted)],
    }


def size_category(samples: int) -> str:
    """The hub's name for a number of samples: `n<1K`, `1K<n<10K`, ..."""
    names = [f"{bound // 1000}K" if bound < 10**6 else f"{bound // 10**6}M" for bound in SIZES]
    at = sum(samples >= bound for bound in SIZES)
    if at == 0:
        return f"n<{names[0]}"
    return f"n>{names[-1]}" if at == len(SIZES) else f"{names[at - 1]}<n<{names[at]}"


def _configs(converted: Converted) -> list[tuple[str, list[str]]]:
    """(config, its subsets): each subset that holds a sample, then all of them together."""
    return [*((name, [name]) for name in converted.subsets), ("all", converted.subsets)]


def _data_files(converted: Converted, names: list[str]) -> list[dict[str, Any]]:
    """Patterns by split. One pattern a subset, so that nothing else that lies under `data` is ever taken for a shard."""
    return [
        {"split": split, "path": [f"data/{name}/{split}-*.tar" for name in names if split in _splits(converted, name)]}
        for split in _split_names(converted, names)
    ]


def _dataset_info(converted: Converted, config: str, names: list[str]) -> dict[str, Any]:
    splits = []
    for split in _split_names(converted, names):
        parts = [_splits(converted, name)[split] for name in names if split in _splits(converted, name)]
        splits.append({
            "name": split,
            "num_bytes": sum(part["bytes"] for part in parts),
            "num_examples": sum(part["samples"] for part in parts),
        })  # fmt: skip
    size = sum(split["num_bytes"] for split in splits)
    return {
        "config_name": config,
        "description": f"shards sha256:{digest(converted, names)}",  # a new one makes `datasets` leave its cache
        "features": mmm_rs.wds_features(config)._to_yaml_list(),
        "splits": splits,
        "download_size": size,
        "dataset_size": size,
    }


def digest(converted: Converted, names: list[str]) -> str:
    """sha256 over the shards of the subsets `names`: one subset's own, or over those of several in turn."""
    digests = [converted.manifest["subsets"][name]["digest"] for name in names]
    return digests[0] if len(digests) == 1 else hashlib.sha256("".join(digests).encode()).hexdigest()


def _splits(converted: Converted, name: str) -> dict[str, dict[str, Any]]:
    return converted.manifest["subsets"][name]["splits"]


def _split_names(converted: Converted, names: list[str]) -> list[str]:
    """Splits of the subsets `names`: train first."""
    found = {split for name in names for split in _splits(converted, name)}
    return sorted(found, key=lambda split: (split != "train", split))
