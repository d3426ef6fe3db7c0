"""What a release holds and what a conversion would make of it, as plain data. Writes nothing."""

from __future__ import annotations

import os
from dataclasses import asdict
from typing import Any

from conversion import plan, release
from conversion.disk import disk_needed
from conversion.findings import count_reasons
from conversion.options import Options
from conversion.plan import SubsetPlan
from conversion.release import SubsetFiles
from mmm_rs import SUBSETS

EXAMPLES = 3  # of each reason


def inspect(
    path: str | os.PathLike[str], options: Options | None = None, annotations: str | os.PathLike[str] | None = None
) -> dict[str, Any]:
    """Look at a release and plan its conversion.

    Args:
        path: The folder or zip that holds the release.
        options: The options that `convert` would be given.
        annotations: A folder or zip with annotation files that lie apart from the images.

    Returns:
        Plain data, ready for JSON. Sizes are bytes.

    Raises:
        UsageError: There is no such path.
        ReleaseError: Nothing of the release is there.
    """
    contents = release.find(path, annotations)
    subsets, problems = {}, list(contents.problems)
    for name, files in contents.subsets.items():
        subset_plan = plan.make(files, options or Options())
        subsets[name] = _subset(files, subset_plan)
        problems += subset_plan.problems
    inner = [
        sum(part.archive.inside.size for part in files.parts if part.archive.inside)
        for files in contents.subsets.values()
    ]
    sizes = [subset["plan"]["bytes"] for subset in subsets.values()]
    return {
        "release": str(path),
        "subsets": subsets,
        "missing": contents.missing,
        "problems": [asdict(problem) for problem in problems],
        "unknown": contents.unknown["path"].to_pylist(),
        "plan": {
            "shards": sum(subset["plan"]["shards"] for subset in subsets.values()),
            "bytes": sum(sizes),
            "disk_needed": disk_needed(sizes, inner),
        },
    }


def _subset(files: SubsetFiles, subset_plan: SubsetPlan) -> dict[str, Any]:
    counts = count_reasons(subset_plan.reported)
    examples: dict[tuple[str, str], list[str]] = {}
    for row in subset_plan.reported:
        shown = examples.setdefault((row.kind, row.reason), [])
        if len(shown) < EXAMPLES:
            shown.append(row.path if row.kind == "image" else f"{row.path} record {row.position}: {row.detail}")
    modalities = SUBSETS[files.name].modalities
    return {
        "form": files.form,
        "archives": [part.archive.label for part in files.parts],
        "images": {m: subset_plan.images_by_modality[m] for m in modalities},
        "released": {"images": subset_plan.images_released, "records": subset_plan.records_released},
        "samples": subset_plan.samples,
        "pairs": {m: subset_plan.pairs[m] for m in modalities},
        "annotations": [
            {
                "path": file.path,
                "records": file.records,
                "example": file.example,
                "not_ascii": file.not_ascii,
                **asdict(file.form),
            }
            for file in subset_plan.annotations
        ],
        "unmatched": [
            {"kind": kind, "reason": reason, "count": count, "examples": examples[kind, reason]}
            for (kind, reason), count in sorted(counts.items())
        ],
        "plan": {"shards": len(subset_plan.shards), "bytes": subset_plan.bytes},
    }
