"""`mmm-rs report`: what was left out of a conversion, and why.

The report of a converted folder has a summary, small, and a table with one row per image or record that is not
published, which can be long: it is read a batch at a time.
"""

from __future__ import annotations

import csv
import io
import json
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from conversion import report
from conversion.errors import UsageError
from conversion.findings import PROBLEMS, REASONS, REMEDIES
from conversion.layout import UNPUBLISHED
from dataset_card.statistics import opened_parquet, read_manifest
from mmm_rs import SUBSETS, did_you_mean

LONGEST_EXAMPLE = 160  # characters
SOURCE = "source"  # the kind of a whole archive, folder or annotation file that could not be used as it stands


@dataclass(frozen=True)
class Reason:
    """Why some images, records or sources were left out."""

    kind: str  # image, record or source
    code: str
    count: int
    example: Mapping[str, Any] | None = None  # a row of the report

    @property
    def meaning(self) -> str:
        """What the code stands for; as it is for a code of a later version."""
        return (PROBLEMS.get(self.code) if self.kind == SOURCE else None) or REASONS.get(self.code, self.code)

    @property
    def remedy(self) -> str:
        return REMEDIES.get(self.code, "")


def read_summary(out: Path) -> dict[str, Any]:
    """The report's summary. Raises OutputError if `out` is not a finished conversion or its report cannot be read."""
    return report.read(out, read_manifest(out)["subsets"])


def reasons(out: Path, summary: Mapping[str, Any], most: int | None = None) -> list[Reason]:
    """Why images and records were left out, the most frequent first, each with an example.

    Args:
        out: The converted folder.
        summary: Its report's summary.
        most: Only so many (default: all).
    """
    counts = Counter(
        {(kind, code): count for kind, codes in summary["total"]["reasons"].items() for code, count in codes.items()}
    )
    if stray := summary["unknown"]["images"]:
        counts["image", "unknown_subset"] += stray
    frequent = sorted(counts.items(), key=lambda item: (-item[1], item[0]))[:most]
    examples = _examples(out, {key for key, _ in frequent})
    return [Reason(kind, code, count, examples.get((kind, code))) for (kind, code), count in frequent]


def _examples(out: Path, wanted: set[tuple[str, str]]) -> dict[tuple[str, str], dict[str, Any]]:
    """The first row of each kind and reason. No more is read than that takes."""
    examples: dict[tuple[str, str], dict[str, Any]] = {}
    for batch in _batches(out) if wanted else ():
        for kind, code in wanted - examples.keys():
            match = pc.and_(pc.equal(batch["kind"], kind), pc.equal(batch["reason"], code))
            if (position := pc.index(match, True).as_py()) >= 0:
                examples[kind, code] = batch.slice(position, 1).to_pylist()[0]
        if examples.keys() >= wanted:
            break
    return examples


def _batches(out: Path) -> Iterator[pa.Table]:
    """The table of the report, some rows at a time."""
    with opened_parquet(out / UNPUBLISHED) as table:
        for batch in table.iter_batches(columns=report.SCHEMA.names):
            yield pa.Table.from_batches([batch]).select(report.SCHEMA.names).cast(report.SCHEMA)


def rows(
    out: Path, summary: Mapping[str, Any], subsets: Collection[str], codes: Collection[str]
) -> Iterator[dict[str, Any]]:
    """Everything that was left out: sources first, then images and records.

    Args:
        out: The converted folder.
        summary: Its report's summary.
        subsets: Only these; empty for all.
        codes: Only these reasons; empty for all.
    """
    for source in summary["sources"]:
        if (not subsets or source["subset"] in subsets) and (not codes or source["problem"] in codes):
            yield {
                "subset": source["subset"],
                "kind": SOURCE,
                "path": source["path"],
                "position": None,
                "reason": source["problem"],
                "detail": f"{source['detail']}. {source['remedy']}",
            }
    for batch in _batches(out):
        for column, wanted in (("subset", subsets), ("reason", codes)):
            if wanted:
                batch = batch.filter(pc.is_in(batch[column], pa.array(sorted(wanted), pa.string())))
        yield from batch.to_pylist()


def check_codes(codes: Iterable[str], summary: Mapping[str, Any]) -> None:
    """Raises UsageError for a reason that the report cannot have."""
    known = {*REASONS, *PROBLEMS, *(code for kind in summary["total"]["reasons"].values() for code in kind)}
    for code in codes:
        if code not in known:
            raise UsageError(
                f"--reason {code}: no such reason.{did_you_mean(code, known)} The report has "
                f"{', '.join(_present(summary)) or 'none'}"
            )


def _present(summary: Mapping[str, Any]) -> list[str]:
    reasons = {code for kind in summary["total"]["reasons"].values() for code in kind}
    return sorted(reasons | {source["problem"] for source in summary["sources"]})


# --- as text, CSV and JSON -------------------------------------------------------------------------------------------


def counted(count: int, noun: str) -> str:
    """A number with its noun: "1 image", "2,000 images"."""
    return f"{count:,} {noun}{'s' * (count != 1)}"


def place(row: Mapping[str, Any]) -> str:
    """Where the image or record of a row is."""
    path = f"{row['subset']}/{row['path']}" if row["subset"] and row["kind"] != SOURCE else row["path"]
    return path if row["position"] is None else f"{path} record {row['position']:,}"


def shortened(text: str) -> str:
    return text if len(text) <= LONGEST_EXAMPLE else text[: LONGEST_EXAMPLE - 1] + "…"


def explained(reason: Reason) -> Iterator[str]:
    """A reason with its count, meaning, remedy and an example, for a person."""
    yield f"  {counted(reason.count, reason.kind)}, {reason.code}: {reason.meaning}"
    if reason.example:
        detail = f": {reason.example['detail']}" if reason.kind == "record" else ""  # which image it names
        yield f"      for example {shortened(place(reason.example) + detail)}"
    if reason.remedy:
        yield f"      {reason.remedy}"


def lines(out: Path, subsets: Collection[str], codes: Collection[str]) -> Iterator[str]:
    """The whole report for a person: totals, reasons, then one line per row."""
    summary = read_summary(out)
    check_codes(codes, summary)
    if not subsets and not codes:
        yield headline(out, summary)
        for reason in reasons(out, summary):
            yield from explained(reason)
    more = {(source["path"], source["problem"]): source.get("lines", ()) for source in summary["sources"]}
    number = 0
    for number, row in enumerate(rows(out, summary, subsets, codes), 1):
        if number == 1 and not subsets and not codes:
            yield ""
        yield f"{row['kind']}  {row['reason']}  {place(row)}: {row['detail']}"
        if row["kind"] == SOURCE:
            yield from (f"    {line}" for line in more.get((row["path"], row["reason"]), ()))
    if not number and (subsets or codes):
        yield f"{out}: nothing of {', '.join([*subsets, *codes])} was left out"


def headline(out: Path, summary: Mapping[str, Any]) -> str:
    """What a conversion came to, in one line."""
    total, unknown = summary["total"], summary["unknown"]
    counts = {
        "image": total["images"].get("reported", 0) + unknown["images"],
        "record": total["records"].get("reported", 0),
        "annotation file": unknown["annotations"],
    }
    parts = [counted(count, noun) for noun, count in counts.items() if count]
    if incomplete := report.incomplete(summary["sources"]):
        return f"{out}: {incomplete}" + (f"; also left out: {' and '.join(parts)}" if parts else "")
    held = sum(totals["images"]["published"] > 0 for totals in summary["subsets"].values())
    complete = f"{out}: complete" if held == len(SUBSETS) else f"{out}: complete for {held} of {len(SUBSETS)} subsets"
    if parts or summary["sources"]:
        rest = " and ".join(parts) or counted(len(summary["sources"]), "source") + " of the release"
        return f"{complete}{' ' if held == len(SUBSETS) else ', '}except for {rest}"
    return complete


def csv_lines(out: Path, subsets: Collection[str], codes: Collection[str]) -> Iterator[str]:
    """The rows as CSV with a head."""
    summary = read_summary(out)
    check_codes(codes, summary)
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, report.SCHEMA.names, lineterminator="")
    writer.writeheader()
    yield buffer.getvalue()
    for row in rows(out, summary, subsets, codes):
        buffer.seek(0)
        buffer.truncate()
        writer.writerow(row)
        yield buffer.getvalue()


def json_lines(out: Path, subsets: Collection[str], codes: Collection[str]) -> Iterator[str]:
    """One JSON object with the totals, the reasons and the rows, a line for each row."""
    summary = read_summary(out)
    check_codes(codes, summary)
    head = {
        "out": str(out),
        "total": summary["total"],
        "unknown": summary["unknown"],
        "reasons": [as_data(reason) for reason in reasons(out, summary)],
    }
    yield json.dumps(head)[:-1] + ', "rows": ['
    before = None
    for row in rows(out, summary, subsets, codes):
        if before is not None:
            yield before + ","
        before = json.dumps(row)
    if before is not None:
        yield before
    yield "]}"


def as_data(reason: Reason) -> dict[str, Any]:
    """A reason, ready for JSON."""
    return {
        "kind": reason.kind,
        "reason": reason.code,
        "count": reason.count,
        "meaning": reason.meaning,
        "remedy": reason.remedy,
        "example": dict(reason.example) if reason.example else None,
    }
