"""The reckoning: what became of every image and record of the release."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from conversion import layout
from conversion.disk import replacing, write_json
from conversion.errors import OutputError
from conversion.findings import DROPPED, Problem, Reported, count_reasons
from conversion.manifest import markers_total
from conversion.plan import PlanFile
from conversion.records import Records
from conversion.shards import Marker

SCHEMA = pa.schema(
    [
        ("subset", pa.string()),
        ("kind", pa.string()),
        ("path", pa.string()),
        ("position", pa.int64()),
        ("reason", pa.string()),
        ("detail", pa.string()),
    ]
)


@dataclass(frozen=True)
class SubsetReport:
    """One subset's reckoning. `rows`, of SCHEMA, are the images and records that are not published."""

    subset: str
    totals: dict[str, Any]
    rows: pa.Table


def reckon(plan: PlanFile, markers: Sequence[Marker]) -> SubsetReport:
    """Totals of one subset, each counted on its own: released by the plan, published and used by the markers.

    Raises AssertionError where they do not balance, which is a fault of this program.
    """
    rows = [*plan.reported, *(row for marker in markers for row in marker.reported)]
    kinds = Counter(row.kind for row in rows)
    published = markers_total(markers)
    totals = {
        "images": {"released": plan.images_released, "published": sum(published.values()), "reported": kinds["image"]},
        "records": {
            "released": plan.records_released,
            "used": sum(marker.records_used for marker in markers),
            "reported": kinds["record"],
        },
        "by_modality": published,
        "reasons": _by_kind(count_reasons(rows)),
    }
    check_balance(plan.subset, totals)
    return SubsetReport(plan.subset, totals, _table(plan.subset, rows))


def reckon_records(subset: str, records: Records, rejected: Sequence[Reported]) -> SubsetReport:
    """Totals of a subset of which the release has records but no image. `rejected`: records that cannot be used anyway.

    There can be a million of them, so no Python object is made for each.
    """
    reason = "no_images"
    tables = [_table(subset, rejected)]
    for file in records.files:
        count = file.stop - file.start
        columns = {
            "subset": pa.repeat(subset, count),
            "kind": pa.repeat("record", count),
            "path": pa.repeat(file.path, count),
            "position": pa.array(records.position[file.start : file.stop], pa.int64()),
            "reason": pa.repeat(reason, count),
            "detail": pa.repeat(f"none of the images of {subset} is in the release", count),
        }
        tables.append(pa.table(columns, schema=SCHEMA))
    rows = pa.concat_tables(tables)
    reasons = count_reasons(rejected) + Counter({("record", reason): len(records.position)})
    totals = {
        "images": {"released": 0, "published": 0, "reported": 0},
        "records": {"released": records.released, "used": 0, "reported": rows.num_rows},
        "by_modality": markers_total(()),
        "reasons": _by_kind(reasons),
    }
    check_balance(subset, totals)
    return SubsetReport(subset, totals, rows)


def _by_kind(reasons: Counter[tuple[str, str]]) -> dict[str, dict[str, int]]:
    return {
        kind: {reason: count for (owner, reason), count in sorted(reasons.items()) if owner == kind and count}
        for kind in ("image", "record")
    }


def _table(subset: str, rows: Sequence[Reported]) -> pa.Table:
    columns = {
        "subset": [subset] * len(rows),
        "kind": [row.kind for row in rows],
        "path": [row.path for row in rows],
        "position": [row.position for row in rows],
        "reason": [row.reason for row in rows],
        "detail": [row.detail for row in rows],
    }
    return pa.table(columns, schema=SCHEMA)


def check_balance(subset: str, totals: dict[str, Any]) -> None:
    images, records = totals["images"], totals["records"]
    if images["released"] != images["published"] + images["reported"]:
        raise AssertionError(f"{subset}: images do not balance: {images}")
    if records["released"] != records["used"] + records["reported"]:
        raise AssertionError(f"{subset}: records do not balance: {records}")


def read(out: Path, subsets: Iterable[str]) -> dict[str, Any]:
    """The summary. Raises OutputError if it is missing, is not a summary, or lacks one of the `subsets`."""
    path = out / layout.SUMMARY
    try:
        summary = json.loads(path.read_bytes())
        for totals in (summary["total"], *(summary["subsets"][name] for name in subsets)):
            _check_totals(totals)
        _check_counts(summary["unknown"], ("images", "annotations"))
        for source in summary["sources"]:
            texts = [source[name] for name in ("path", "problem", "detail", "remedy")]
            if not all(isinstance(text, str) for text in texts) or not isinstance(source["subset"], (str, type(None))):
                raise TypeError("a source is not described by text")
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        why = getattr(error, "strerror", None) or (f"no {error}" if isinstance(error, KeyError) else error)
        raise OutputError(f"{path}: cannot be read ({why}). Run `mmm-rs convert` again with --overwrite") from None
    return summary


def incomplete(sources: Sequence[Mapping[str, Any]]) -> str | None:
    """What to tell of sources of the release of which nothing could be used; None if all could be used.

    `sources`: as the summary has them.
    """
    unusable = [source["path"] for source in sources if source["problem"] in DROPPED]
    if not unusable:
        return None
    named = unusable[0] if len(unusable) == 1 else f"{len(unusable):,} sources of the release"
    return f"incomplete: {named} could not be used"


def _check_totals(totals: dict[str, Any]) -> None:
    """Raises KeyError or TypeError for other totals than `reckon` makes."""
    _check_counts(totals["images"], ("released", "published", "reported"))
    _check_counts(totals["records"], ("released", "used", "reported"))
    _check_counts(totals["by_modality"])
    for kind in ("image", "record"):
        _check_counts(totals["reasons"][kind])


def _check_counts(counts: dict[str, Any], names: Iterable[str] = ()) -> None:
    numbers = [*(counts[name] for name in names), *counts.values()]
    if not all(type(number) is int and number >= 0 for number in numbers):
        raise TypeError("what should be counts are not")


def write(out: Path, reports: Iterable[SubsetReport], problems: Iterable[Problem], unknown: pa.Table) -> dict[str, Any]:
    """Write the report; what an earlier run reported of other subsets stays. Returns the summary.

    `unknown`: images and annotations that belong to no subset, columns path and type.
    """
    reports = list(reports)
    new = {report.subset for report in reports}
    summary, kept = _earlier(out, new)
    subsets = summary.get("subsets", {}) | {report.subset: report.totals for report in reports}
    sources = [source for source in summary.get("sources", []) if source["subset"] and source["subset"] not in new]
    sources += [source_row(problem) for problem in problems]
    sources = list({json.dumps(source): source for source in sources}.values())
    tables = [*([kept] if kept is not None else []), *(report.rows for report in reports)]
    stray = unknown.filter(pc.equal(unknown["type"], "image"))
    count = stray.num_rows
    tables.append(
        pa.table(
            {
                "subset": pa.nulls(count, pa.string()),
                "kind": ["image"] * count,
                "path": stray["path"],
                "position": pa.nulls(count, pa.int64()),
                "reason": ["unknown_subset"] * count,
                "detail": ["nothing in its path names one of the ten subsets"] * count,
            },
            schema=SCHEMA,
        )
    )
    table = pa.concat_tables(tables).sort_by(
        [
            ("subset", "ascending"),
            ("kind", "ascending"),
            ("path", "ascending"),
            ("position", "ascending"),
            ("reason", "ascending"),
        ]
    )
    with replacing(out / layout.UNPUBLISHED) as fd, open(fd, "wb", closefd=False) as sink:
        pq.write_table(table, sink, compression="zstd")
    summary = {
        "subsets": {name: subsets[name] for name in sorted(subsets)},
        "total": _total(subsets.values()),
        "unknown": {"images": count, "annotations": unknown.num_rows - count},
        "sources": sorted(sources, key=lambda source: (source["path"], source["problem"])),
    }
    write_json(out / layout.SUMMARY, summary)
    return summary


def source_row(problem: Problem) -> dict[str, Any]:
    """A source as the summary has it."""
    data = asdict(problem)
    return {
        "path": data["path"],
        "subset": data["subset"],
        "problem": data["code"],
        "detail": data["detail"],
        "remedy": data["remedy"],
    } | {name: list(data[name]) for name in ("lines", "options") if data[name]}


def _earlier(out: Path, new: set[str]) -> tuple[dict[str, Any], pa.Table | None]:
    if not (out / layout.MANIFEST).exists():  # a report that is left of a run that published nothing
        return {}, None
    try:
        summary = json.loads((out / layout.SUMMARY).read_bytes())
        table = pq.read_table(out / layout.UNPUBLISHED)
    except (OSError, ValueError):
        return {}, None
    other = pc.and_(
        pc.is_valid(table["subset"]), pc.invert(pc.is_in(table["subset"], pa.array(sorted(new), pa.string())))
    )
    return summary, table.filter(other).cast(SCHEMA)


def _total(totals: Iterable[dict[str, Any]]) -> dict[str, Any]:
    result: dict[str, Counter[str]] = {"images": Counter(), "records": Counter(), "by_modality": Counter()}
    reasons: dict[str, Counter[str]] = {"image": Counter(), "record": Counter()}
    for counts in totals:
        for name, counter in result.items():
            counter.update(counts[name])
        for kind, counter in reasons.items():
            counter.update(counts["reasons"][kind])
    return {name: dict(counter) for name, counter in result.items()} | {
        "reasons": {kind: dict(sorted(counter.items())) for kind, counter in reasons.items()}
    }
