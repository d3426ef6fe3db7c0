"""What `mmm-rs inspect` shows: what a release holds and what a conversion would make of it. Writes nothing."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

from conversion import plan, release
from conversion.disk import disk_needed
from conversion.display import size
from conversion.findings import count_reasons
from conversion.options import Options
from conversion.plan import SubsetPlan
from conversion.release import SubsetFiles
from mmm_rs import SUBSETS

EXAMPLES = 3  # of each reason


def inspect(
    path: str | os.PathLike[str], options: Options | None = None, annotations: str | os.PathLike[str] | None = None
) -> dict[str, Any]:
    """The release at `path` as plain data, ready for JSON. Sizes are bytes.

    Raises UsageError or ReleaseError as `release.find` does.
    """
    found = release.find(path, annotations)
    subsets, problems = {}, list(found.problems)
    for name, files in found.subsets.items():
        made = plan.make(files, options or Options())
        subsets[name] = _subset(files, made)
        problems += made.problems
    inner = [
        sum(part.archive.inside.size for part in files.parts if part.archive.inside) for files in found.subsets.values()
    ]
    sizes = [subset["plan"]["bytes"] for subset in subsets.values()]
    return {
        "release": str(path),
        "subsets": subsets,
        "missing": found.missing,
        "problems": [asdict(problem) for problem in problems],
        "unknown": found.unknown["path"].to_pylist(),
        "plan": {
            "shards": sum(subset["plan"]["shards"] for subset in subsets.values()),
            "bytes": sum(sizes),
            "disk_needed": disk_needed(sizes, inner),
        },
    }


def _subset(files: SubsetFiles, made: SubsetPlan) -> dict[str, Any]:
    counts = count_reasons(made.reported)
    examples: dict[tuple[str, str], list[str]] = {}
    for row in made.reported:
        shown = examples.setdefault((row.kind, row.reason), [])
        if len(shown) < EXAMPLES:
            shown.append(row.path if row.kind == "image" else f"{row.path} record {row.position}: {row.detail}")
    modalities = SUBSETS[files.name].modalities
    return {
        "form": files.form,
        "archives": [part.archive.label for part in files.parts],
        "images": {m: made.images_by_modality[m] for m in modalities},
        "released": {"images": made.images_released, "records": made.records_released},
        "samples": made.samples,
        "pairs": {m: made.pairs[m] for m in modalities},
        "annotations": [
            {"path": one.path, "records": one.records, "example": one.example, **asdict(one.form)}
            for one in made.annotations
        ],
        "unmatched": [
            {"kind": kind, "reason": reason, "count": count, "examples": examples[kind, reason]}
            for (kind, reason), count in sorted(counts.items())
        ],
        "plan": {"shards": len(made.shards), "bytes": made.bytes},
    }


def lines(found: dict[str, Any]) -> Iterator[str]:
    """The inspection as text for a person."""
    yield f"{found['release']}: {len(found['subsets'])} of {len(SUBSETS)} subsets"
    for name, subset in found["subsets"].items():
        yield ""
        yield f"{name}  ({subset['form']}: {', '.join(subset['archives'])})"
        for modality, count in subset["images"].items():
            upstream = subset.get("upstream_images", {}).get(modality)
            yield f"  {modality:<4}{count:>10,} images" + (f"   upstream's README: {upstream:,}" if upstream else "")
        for one in subset["annotations"]:
            known = "no keys"
            if one["records"]:
                path = f"image key {one['image_key']!r}" if one["image_key"] else "keyed by the image's path"
                known = f"{path}, prompt key {one['prompt_key']!r}"
            yield f"  {one['path']}: {one['records']:,} records ({one['kind']}, {one['encoding']}; {known})"
            if one["example"]:
                yield f"    {_short(one['example'])}"
        pairs = ", ".join(f"{count:,} {modality}" for modality, count in subset["pairs"].items())
        yield f"  {subset['samples']:,} samples, pairs: {pairs}"
        for row in subset["unmatched"]:
            yield f"  left out: {row['count']:,} {row['kind']}{'s' * (row['count'] > 1)}: {row['reason']}"
            for example in row["examples"]:
                yield f"    {_short(example)}"
        yield f"  plan: {subset['plan']['shards']} shards, {size(subset['plan']['bytes'])} at the most"
    yield ""
    if found["missing"]:
        yield f"Missing: {', '.join(found['missing'])}"
    for problem in found["problems"]:
        yield f"Problem: {problem['path']}: {problem['detail']}. {problem['remedy']}"
    if found["unknown"]:
        yield f"Unknown: {len(found['unknown'])} images or annotations of no subset, e.g. {found['unknown'][0]}"
    yield (
        f"Plan: {found['plan']['shards']} shards, {size(found['plan']['bytes'])} at the most; "
        f"{size(found['plan']['disk_needed'])} of free disk needed"
    )


def _short(text: str, limit: int = 160) -> str:
    text = " ".join(text.split())
    return text if len(text) <= limit else text[: limit - 1] + "…"
