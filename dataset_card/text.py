"""The card's text for people: the template `card.md`, filled with what this copy holds.

The prose stands in the template. Here are the values that go into it: numbers, names, and tables.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from importlib import resources

import pyarrow.compute as pc

import mmm_rs
from conversion import layout
from conversion.display import size
from conversion.exports.selection import Selection
from dataset_card.exported import selection_words, source_words
from dataset_card.fields import MODALITY_NAMES, place_in_shards, type_name
from dataset_card.markdown import code, fill, plain, table
from dataset_card.provenance import PAPER, PROVENANCE, SEE_SOURCE, Provenance
from dataset_card.statistics import Converted, Statistics, opened_parquet
from mmm_rs import FIELDS, HOMEPAGE, MEMBERS, MODALITIES, PROMPT_COLUMNS, SUBSETS

EXAMPLES = ("SEN1-2", "WHU-OPT-SAR")  # the config of the examples: the first of these that is held

Values = dict[str, str | None]  # of the template; None leaves a line out


def body(converted: Converted, pictures: list[str], repo_id: str, equal_channels: str | None) -> str:
    """Everything below the YAML.

    Args:
        converted: The folder.
        pictures: Paths within the folder, in the order of the card.
        repo_id: The repository that the examples name.
        equal_channels: In how many single-band images all channels are equal, see `dataset_card.channels`.
    """
    return fill(
        _template(),
        {
            "paper": PAPER,
            "homepage": HOMEPAGE,
            "repository": repo_id,
            **_totals(converted),
            **_export(converted),
            **_example(converted),
            **_subsets(converted),
            **_validation(converted),
            **_pictures(pictures, converted),
            "table_of_fields": _table_of_fields(),
            **_left_out(converted),
            **_limits(converted),
            "equal_channels": equal_channels,
            "table_of_licences": table_of_licences(converted.subsets),
            "citations": citations(converted.subsets),
        },
    )


def _template() -> str:
    return resources.files("dataset_card").joinpath("card.md").read_text("utf-8")


def _totals(converted: Converted) -> Values:
    every = converted.statistics.values()
    pairs = {m: sum(statistics.pairs[m] for statistics in every) for m in MODALITIES}
    subsets, held = len(SUBSETS), len(converted.subsets)
    shards = converted.manifest["shards"]
    return {
        "pairs": f"{sum(pairs.values()):,}",
        "pairs_by_modality": ", ".join(f"{n:,} {MODALITY_NAMES[m]}" for m, n in pairs.items() if n),
        "samples": f"{sum(statistics.samples for statistics in every):,}",
        "subsets_held": f"all {subsets} subsets" if held == subsets else f"{held} of the {subsets} subsets",
        "shards": f"{len(shards):,}",
        "size": size(sum(shard["bytes"] for shard in shards)),
    }


def _export(converted: Converted) -> Values:
    """What the dataset was exported from, if it was."""
    exported_from = converted.manifest.get("exported_from")
    if exported_from is None:
        return {"export_source": None, "export_selection": None, "accounted_for": "of the release"}
    Selection.of_record(exported_from["selection"])  # raises an error for what cannot be put into words
    return {
        "export_source": source_words(exported_from),
        "export_selection": selection_words(exported_from["selection"]),
        "accounted_for": "that was selected for this export",
    }


def _example(converted: Converted) -> Values:
    """What the examples of code load and look for."""
    config = next((name for name in EXAMPLES if name in converted.statistics), converted.subsets[0])
    modalities = converted.statistics[config].modalities
    members = [member for m in modalities for member in (MEMBERS[m].image, MEMBERS[m].prompt)]
    columns = [column for m in modalities for column in (m, PROMPT_COLUMNS[m])]
    levels = {level: n for level, n in converted.statistics[config].labels["gsd_level"].items() if level}
    return {
        "config": config,
        "level": max(sorted(levels), key=lambda level: levels[level], default="low"),
        "member_lookups": ", ".join(f'sample["{member}"]' for member in members),
        "column_lookups": ", ".join(f'sample["{column}"]' for column in columns),
        "first_image": members[0],
        "first_prompt": members[1],
        "first_modality": modalities[0],
        "first_column": columns[1],
    }


def counts(converted: Converted) -> dict[str, list[str]]:
    """config -> samples and pairs by modality, as the table of subsets writes them."""
    numbers = {
        name: [statistics.samples, *(statistics.pairs[m] for m in MODALITIES)]
        for name, statistics in converted.statistics.items()
    }
    numbers[mmm_rs.ALL] = [sum(column) for column in zip(*numbers.values(), strict=True)]
    return {name: [f"{number:,}" if number else "" for number in row] for name, row in numbers.items()}


def faults(card: str, converted: Converted) -> list[str]:
    """Where the table of subsets in a card has other numbers than these."""
    lines = []
    for config, numbers in counts(converted).items():
        row = re.search(rf"^\| `{re.escape(config)}` \|(.*)$", card, re.M)
        cells = [cell.strip() for cell in row[1].split("|")][: len(numbers)] if row else None
        if cells != numbers:
            lines.append(f"the table of subsets says {cells} for {config}, manifest and index say {numbers}")
    return lines


def _subsets(converted: Converted) -> Values:
    rows = []
    for name, numbers in counts(converted).items():
        cells = ["", ""]
        if origin := PROVENANCE.get(name):
            licence = "see there" if origin.licence == SEE_SOURCE else origin.licence
            cells = [_gsd(converted.statistics[name], origin), f"{_link(origin)}: {licence}"]
        rows.append([f"`{name}`", *numbers, *cells])
    head = ["subset", "samples", *(m.upper() for m in MODALITIES), "GSD, m", "source and its licence"]
    missing = [f"`{name}`" for name in SUBSETS if name not in converted.statistics]
    return {"table_of_subsets": table(head, rows), "subsets_missing": ", ".join(missing) or None}


def _link(origin: Provenance) -> str:
    return f"[{origin.source}]({origin.homepage})"


def _gsd(statistics: Statistics, origin: Provenance) -> str:
    """Metres per pixel as the index has them, else as the source says."""
    if statistics.gsd is None:
        return origin.gsd
    low, high = statistics.gsd
    return f"{low:g}" if low == high else f"{low:g}\N{EN DASH}{high:g}"


def _validation(converted: Converted) -> Values:
    """How the validation split was made, if there is one."""
    splits = {name: subset["splits"] for name, subset in converted.manifest["subsets"].items()}
    held_out = [f"`{name}` {s['validation']['samples']:,}" for name, s in splits.items() if "validation" in s]
    lacking = [f"`{name}`" for name in converted.subsets if "validation" not in splits[name]]
    options = converted.manifest["options"]
    return {
        "validation_share": str(options.get("validation")),
        "seed": str(options.get("seed")),
        "validation_samples": ", ".join(held_out) or None,
        "validation_lacking": f" No scene was drawn of {', '.join(lacking)}, which have no such split."
        if lacking
        else "",
    }


def _pictures(pictures: list[str], converted: Converted) -> Values:
    """Pictures with words for those who do not see them."""
    drawn = set(pictures)
    held = ", ".join(
        f"{name} ({', '.join(m.upper() for m in statistics.modalities)})"
        for name, statistics in converted.statistics.items()
    )
    sheets = [
        f"![Samples of {name}: images and their prompts]({path})"
        for name in converted.subsets
        if (path := layout.samples_figure(name)) in drawn
    ]
    charts = {
        layout.PAIRS_FIGURE: "Charts: pairs by subset and by GSD level, for each modality",
        layout.PROMPTS_FIGURE: "Histograms: words in a prompt, for each subset",
    }
    return {
        "strip": f"![Samples of {held}]({layout.STRIP_FIGURE})" if layout.STRIP_FIGURE in drawn else None,
        "sheets": "\n\n".join(sheets) or None,
        "charts": "\n\n".join(f"![{words}]({path})" for path, words in charts.items() if path in drawn) or None,
    }


def _table_of_fields() -> str:
    features = mmm_rs.features(mmm_rs.ALL)
    rows = [
        (f"`{name}`", f"`{place_in_shards(name)}`", type_name(features[name]), meaning)
        for name, meaning in FIELDS.items()
    ]
    return table(("with `mmm_rs.py`", "in the shards", "type", "what it is"), rows)


def _left_out(converted: Converted) -> Values:
    """What of the release is not here, and why, from the report."""
    totals = converted.summary["subsets"]
    rows = [
        (
            f"`{name}`",
            *(f"{totals[name]['images'][what]:,}" for what in ("released", "published", "reported")),
            *(f"{totals[name]['records'][what]:,}" for what in ("released", "used", "reported")),
        )
        for name in SUBSETS
        if name in totals
    ]
    head = ("subset", "images released", "published", "left out", "records released", "used", "left out")
    reasons = list(_reasons(converted))
    sources = [
        (code(source["path"]), plain(source["problem"]).replace("\\_", " "), plain(source["detail"]))
        for source in converted.summary["sources"]
    ]
    return {
        "table_of_totals": table(head, rows),
        "table_of_reasons": table(("what", "reason", "how many", "for example"), reasons) if reasons else None,
        "if_reasons": "" if reasons else None,
        "unless_reasons": None if reasons else "",
        "table_of_sources": table(("file", "problem", "detail"), sources) if sources else None,
        "if_sources": "" if sources else None,
    }


def _reasons(converted: Converted) -> Iterator[tuple[str, str, str, str]]:
    """(kind, reason, number, an example) over all rows of the report."""
    numbers: dict[tuple[str, str], int] = {}
    examples: dict[tuple[str, str], str] = {}
    with opened_parquet(converted.out / layout.UNPUBLISHED) as report:
        for batch in report.iter_batches(columns=["kind", "path", "reason", "detail"]):
            groups = pc.binary_join_element_wise(batch["kind"], batch["reason"], "\0")
            for group in pc.value_counts(groups).to_pylist():
                kind, reason = group["values"].split("\0")
                numbers[kind, reason] = numbers.get((kind, reason), 0) + group["counts"]
                if (kind, reason) not in examples:
                    row = batch.slice(pc.index(groups, group["values"]).as_py(), 1).to_pylist()[0]
                    examples[kind, reason] = f"{code(row['path'])}: {plain(row['detail'])}"
    for (kind, reason), number in sorted(numbers.items()):
        yield kind, reason.replace("_", " "), f"{number:,}", examples[kind, reason]


def _limits(converted: Converted) -> Values:
    """The known limits that depend on this copy."""
    every = converted.statistics
    derived = sum(statistics.derived for statistics in every.values())
    unknown = sum(statistics.labels["gsd_level"][None] for statistics in every.values())
    points = []
    for name, statistics in every.items():
        if statistics.incomplete:
            points.append(
                f"- `{name}`: {statistics.incomplete:,} of {statistics.samples:,} samples lack a modality; it is "
                "`None` there."
            )
        odd = {size: number for size, number in statistics.sizes.items() if size != (512, 512)}
        if odd:
            sizes = " to ".join(f"{width} x {height}" for width, height in dict.fromkeys([min(odd), max(odd)]))
            points.append(f"- `{name}`: {sum(odd.values()):,} images are not 512 x 512 pixels but {sizes}.")
    return {
        "levels_derived": f"{derived:,}" if derived else None,
        "levels_unknown": f"{unknown:,}" if unknown else None,
        "limits_of_subsets": "\n".join(points) or None,
        "if_weather": "" if "weather" in every else None,
    }


def limits(converted: Converted) -> list[str]:
    """The known limits, as the card lists them, but for what was seen in the images that it looked at."""
    section = _template().split("\n## Known limits\n")[1].split("\n<!--")[0]
    lines = fill(section, _limits(converted) | {"equal_channels": None}).splitlines()
    return [line.removeprefix("- ") for line in lines if line.startswith("- ")]


def table_of_licences(subsets: Iterable[str]) -> str:
    """Origin and terms of each subset."""
    origins = [(name, PROVENANCE[name]) for name in subsets]
    rows = [(f"`{name}`", origin.sensor, _link(origin), origin.licence) for name, origin in origins]
    return table(("subset", "sensor", "source", "licence of the source"), rows)


def citations(subsets: Iterable[str]) -> str:
    """BibTeX of MMM-RS and of the sources of these subsets."""
    entries = [mmm_rs.CITATION, *dict.fromkeys(PROVENANCE[name].citation for name in subsets)]
    return "\n\n".join(entry.strip() for entry in entries if entry)
