"""What a conversion came to, as text for a person and as data for a program."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from conversion.display import size
from mmm_rs import MODALITIES, SUBSETS
from mmm_rs_cli import report
from mmm_rs_cli.terminal import table

if TYPE_CHECKING:
    from conversion.job import Result

REASONS = 5  # that are explained; `mmm-rs report` has all
SOURCES = 10  # that are named; `mmm-rs report` has all


def headline(converted: Result) -> str:
    """The first line: whether everything is there."""
    line = report.headline(converted.out, converted.summary)
    return line if converted.written else f"{line}. It was converted before: nothing to do"


def lines(converted: Result) -> Iterator[str]:
    """What follows the headline: counts by subset, what was left out, and why."""
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
    if absent := _absent(converted):
        yield f"not in this folder: {', '.join(absent)}"
    for kind, count in converted.summary["unknown"].items():
        if count:
            yield f"{kind} of no subset: {count:,}"
    yield from _left_out(converted)


def _left_out(converted: Result) -> Iterator[str]:
    if sources := converted.summary["sources"]:
        yield ""
        yield "Not used, or used only in part:"
        for source in sources[:SOURCES]:
            yield f"  {source['path']}: {source['detail']}. {source['remedy']}"
            for line in source.get("lines", ()):
                yield f"      {line}"
        if len(sources) > SOURCES:
            yield f"  ... and {len(sources) - SOURCES} more"
    if reasons := report.reasons(converted.out, converted.summary, REASONS):
        yield ""
        yield "Left out, most frequent first:"
        for reason in reasons:
            yield from report.explained(reason)
    if converted.reported and not converted.written:
        yield ""
        yield "If you have fixed something since then, convert again with --overwrite."


def data(converted: Result) -> dict[str, Any]:
    """The same, ready for JSON."""
    return {
        "out": str(converted.out),
        "written": converted.written,
        "complete": not converted.reported,
        "subsets": converted.manifest["subsets"],
        "missing": _absent(converted),
        "total": converted.summary["total"],
        "unknown": converted.summary["unknown"],
        "sources": converted.summary["sources"],
        "reasons": [report.as_data(reason) for reason in report.reasons(converted.out, converted.summary)],
    }


def _absent(converted: Result) -> list[str]:
    return [name for name in SUBSETS if name not in converted.manifest["subsets"]]
