"""The card's YAML: the configs by which `datasets` loads the folder without code, and the hub's own keys."""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Mapping
from typing import Any

import datasets
import yaml
from datasets.info import DatasetInfosDict
from huggingface_hub import DatasetCardData

import mmm_rs
from conversion import layout
from dataset_card.statistics import Converted
from mmm_rs import HOMEPAGE

# Upstream's badge names no version of the licence, and each source adds its own terms, so none of the hub's own
# identifiers would be true.
LICENCE = {"license": "other", "license_name": "cc-by-nc-sa", "license_link": HOMEPAGE}
SIZES = (1_000, 10_000, 100_000, 1_000_000, 10_000_000, 100_000_000)  # bounds of the hub's size categories, samples


def metadata(converted: Converted) -> dict[str, Any]:
    """The card's YAML, in the hub's vocabulary."""
    samples = sum(statistics.samples for statistics in converted.statistics.values())
    modalities = {m for statistics in converted.statistics.values() for m in statistics.modalities}
    return {
        "pretty_name": "MMM-RS",
        **LICENCE,
        "language": ["en"],
        "task_categories": ["text-to-image", "image-to-text", "image-to-image"],
        "size_categories": [size_category(samples)],
        "tags": [
            "remote-sensing",
            "earth-observation",
            "satellite-imagery",
            "gsd",
            "multi-modal",
            "webdataset",
            *(tag for modality, tag in (("nir", "near-infrared"), ("sar", "sar")) if modality in modalities),
            "arxiv:2410.22362",
        ],
        "configs": [
            {"config_name": name, "data_files": _data_files(converted, name, subsets)}
            for name, subsets in configs(converted)
        ],
        "dataset_info": [_dataset_info(converted, name, subsets) for name, subsets in configs(converted)],
    }


def faults(card: str, converted: Converted) -> list[str]:
    """What the YAML of a card says wrongly about loading these shards."""
    front = re.match(r"---\r?\n(.*?)\r?\n---", card, re.S)
    try:
        data = yaml.safe_load(front[1]) if front else None
    except yaml.YAMLError as error:
        return [f"its YAML cannot be read: {' '.join(str(error).split())}"]
    if not isinstance(data, dict):
        return ["has no YAML"]
    expected = metadata(converted)
    lines = []
    for key in ("configs", "dataset_info"):
        entries = data.get(key) or []
        if not isinstance(entries, list):  # the hub itself writes a single entry without its list
            entries = [entries]
        by_name = {entry.get("config_name"): entry for entry in entries if isinstance(entry, dict)}
        for entry in expected[key]:
            if by_name.pop(entry["config_name"], None) != entry:
                lines.append(f"{key} of {entry['config_name']} is not what manifest and index say")
        lines += [f"{key} has {name}, of which there is no shard" for name in by_name]
    return lines


def size_category(samples: int) -> str:
    """The hub's name for a number of samples: `n<1K`, `1K<n<10K`, ..."""
    names = [f"{bound // 1000}K" if bound < 10**6 else f"{bound // 10**6}M" for bound in SIZES]
    place = bisect_right(SIZES, samples)
    if place == 0:
        return f"n<{names[0]}"
    return f"n>{names[-1]}" if place == len(SIZES) else f"{names[place - 1]}<n<{names[place]}"


def configs(converted: Converted) -> list[tuple[str, list[str]]]:
    """(config, its subsets): all together, then each subset that holds a sample.

    `datasets` learns the format from the files of the first config, whichever is asked for. With `all` in this place a
    folder that holds only some of the subsets loads (`hf download --include "data/SEN1-2/*"`). Its one pattern keeps
    that cheap: the first row of a config takes 11 requests to the hub (ten subsets, `datasets` 3.6 and 5.2; 9 with
    2.21), as with `all` in the last place. One pattern per subset would make it 20.
    """
    return [(mmm_rs.ALL, converted.subsets), *((name, [name]) for name in converted.subsets)]


def _data_files(converted: Converted, config: str, subsets: list[str]) -> list[dict[str, Any]]:
    """A pattern for each split."""
    folder = f"{layout.DATA}/{'*' if config == mmm_rs.ALL else config}"
    splits = mmm_rs.split_names(converted.manifest, subsets)
    return [{"split": split, "path": f"{folder}/{split}-*.tar"} for split in splits]


def _dataset_info(converted: Converted, config: str, subsets: list[str]) -> dict[str, Any]:
    totals = {}
    for split in mmm_rs.split_names(converted.manifest, subsets):
        parts = [_splits(converted, name)[split] for name in subsets if split in _splits(converted, name)]
        totals[split] = sum(part["bytes"] for part in parts), sum(part["samples"] for part in parts)
    digest = mmm_rs.subsets_digest(converted.manifest, subsets)  # a new one makes `datasets` leave its cache
    return info_entry(
        config, mmm_rs.wds_features(config, converted.manifest["format_version"]), totals, f"shards sha256:{digest}"
    )


def info_entry(
    config: str, features: datasets.Features, totals: Mapping[str, tuple[int, int]], description: str
) -> dict[str, Any]:
    """What the YAML says of a config under `dataset_info`. `totals`: split -> bytes and samples."""
    splits = [{"name": split, "num_bytes": size, "num_examples": samples} for split, (size, samples) in totals.items()]
    size = sum(size for size, _ in totals.values())
    info = datasets.DatasetInfo(features=features, splits=splits, download_size=size, dataset_size=size)
    data = DatasetCardData()
    DatasetInfosDict({config: info}).to_dataset_card_data(data)
    entry = data["dataset_info"]
    return {"config_name": entry.pop("config_name"), "description": description, **entry}


def _splits(converted: Converted, name: str) -> dict[str, dict[str, Any]]:
    return converted.manifest["subsets"][name]["splits"]
