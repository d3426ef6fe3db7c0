"""What `mmm-rs inspect` found, as text for a person."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from conversion.display import size
from mmm_rs import SUBSETS

PROBLEMS = 5  # of one kind that are shown
_NOT_ASCII = re.compile(r"[^\x00-\x7f]")


def lines(inspection: dict[str, Any]) -> Iterator[str]:
    """The inspection of a release, one subset after the other, then what concerns the whole."""
    subsets, plan = inspection["subsets"], inspection["plan"]
    usable = sum(subset["samples"] > 0 for subset in subsets.values())
    unusable = f" ({len(subsets) - usable} more cannot be used)" if usable < len(subsets) else ""
    yield f"{inspection['release']}: {usable} of {len(SUBSETS)} subsets{unusable}"
    for name, subset in subsets.items():
        yield ""
        yield from _subset(name, subset)
    yield ""
    if inspection["missing"]:
        yield f"Missing: {', '.join(inspection['missing'])}"
    yield from _problems(inspection["problems"])
    if unknown := inspection["unknown"]:
        yield f"Unknown: {len(unknown)} images or annotations of no subset, for example {unknown[0]}"
    yield (
        f"Plan: {plan['shards']} shards, at most {size(plan['bytes'])}; "
        f"{size(plan['disk_needed'])} of free disk space needed"
    )


def _problems(problems: list[dict[str, Any]]) -> Iterator[str]:
    """A line for each, but of many of one kind the first few."""
    kinds: dict[str, list[dict[str, Any]]] = {}
    for problem in problems:
        kinds.setdefault(problem["code"], []).append(problem)
    for code, alike in kinds.items():
        for problem in alike[:PROBLEMS]:
            yield f"Problem: {problem['path']}: {problem['detail']}. {problem['remedy']}"
            for line in problem["lines"]:
                yield f"    {line}"
        if len(alike) > PROBLEMS:
            yield f"  ... and {len(alike) - PROBLEMS:,} more of this kind ({code})"


def _subset(name: str, subset: dict[str, Any]) -> Iterator[str]:
    yield f"{name}  ({subset['form']}: {', '.join(subset['archives'])})"
    for modality, count in subset["images"].items():
        upstream = subset.get("upstream_images", {}).get(modality)
        yield f"  {modality:<4}{count:>10,} images" + (f"   upstream's README: {upstream:,}" if upstream else "")
    for file in subset["annotations"]:
        yield f"  {file['path']}: {file['records']:,} records ({file['kind']}, {file['encoding']}; {_keys(file)})"
        for remark in file["remarks"]:
            yield f"    {remark}"
        if example := file["example"]:
            yield f"    {_around(example, _NOT_ASCII)}"
        if (text := file["not_ascii"]) and text != example:
            yield f"    {_around(text, _NOT_ASCII)}"
    pairs = ", ".join(f"{count:,} {modality}" for modality, count in subset["pairs"].items())
    yield f"  {subset['samples']:,} samples, pairs: {pairs}"
    for row in subset["unmatched"]:
        yield f"  left out: {row['count']:,} {row['kind']}{'s' * (row['count'] > 1)}: {row['reason']}"
        for example in row["examples"]:
            yield f"    {_shortened(example)}"
    yield f"  plan: {subset['plan']['shards']} shards, at most {size(subset['plan']['bytes'])}"


def _keys(file: dict[str, Any]) -> str:
    """Which keys of an annotation file are used."""
    if not file["records"]:
        return "no keys"
    path = f"image key {file['image_key']!r}" if file["image_key"] else "keyed by the image's path"
    return f"{path}, prompt key {file['prompt_key']!r}"


def _around(text: str, pattern: re.Pattern[str], limit: int = 160) -> str:
    """A text with what is searched for in it, shortened at both ends."""
    text = " ".join(text.split())
    match = pattern.search(text)
    start = max(0, match.start() - limit // 2) if match and len(text) > limit else 0
    return _shortened(("…" if start else "") + text[start:], limit)


def _shortened(text: str, limit: int = 160) -> str:
    text = " ".join(text.split())
    return text if len(text) <= limit else text[: limit - 1] + "…"
