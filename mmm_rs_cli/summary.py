"""What a conversion came to, as text for a person."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from conversion.display import size
from mmm_rs import MODALITIES, SUBSETS
from mmm_rs_cli.terminal import table

if TYPE_CHECKING:
    from conversion.job import Result


def lines(converted: Result) -> Iterator[str]:
    """The summary of a conversion: counts by subset, and what was left out."""
    yield f"{converted.out}: complete" + ("" if converted.written else " already, nothing to do")
    yield from table(
        ("subset", "samples", *MODALITIES, "shards", "size", "images left out", "records left out"),
        [
            (
                name,
                f"{counts['samples']:,}",
                *(f"{counts['pairs'][modality]:,}" for modality in MODALITIES),
                str(counts["shards"]),
                size(counts["bytes"]),
                *(f"{converted.summary['subsets'][name][kind]['reported']:,}" for kind in ("images", "records")),
            )
            for name in SUBSETS
            if (counts := converted.manifest["subsets"].get(name))
        ],
    )
    images, records = converted.summary["total"]["images"], converted.summary["total"]["records"]
    yield (
        f"images: {images['released']:,} in the release = {images['published']:,} published + "
        f"{images['reported']:,} reported"
    )
    yield (
        f"records: {records['released']:,} in the release = {records['used']:,} used + {records['reported']:,} reported"
    )
    if absent := [name for name in SUBSETS if name not in converted.manifest["subsets"]]:
        yield f"not in this folder: {', '.join(absent)}"
    for kind, count in converted.summary["unknown"].items():
        if count:
            yield f"{kind} of no subset: {count:,}"
    if converted.reported:
        if not converted.written:
            yield "what has been fixed since then is converted with --overwrite"
        yield f"what was left out and why: {converted.out / 'report'}"
