"""The card's text for people, section by section, in Markdown. Each function returns its section."""

# ruff: noqa: E501 (a paragraph of Markdown is one line, so that every reader wraps it as it likes)

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import pyarrow.compute as pc

import mmm_rs
from conversion import layout
from conversion.display import size
from dataset_card.provenance import PAPER, PROVENANCE, Provenance
from dataset_card.statistics import Converted, Statistics, opened_parquet
from mmm_rs import FIELDS, HOMEPAGE, MEMBERS, MODALITIES, PROMPT_COLUMNS, SUBSETS

# Upstream's badge names no version of the licence, and each source adds its own terms, so none of the hub's own
# identifiers would be true.
LICENCE = {"license": "other", "license_name": "cc-by-nc-sa", "license_link": HOMEPAGE}
MODALITY_NAMES = {"rgb": "optical", "nir": "near infrared", "sar": "radar"}


def body(converted: Converted, pictures: list[str], repo_id: str) -> str:
    """Everything below the YAML."""
    sections = [
        about(converted),
        "<!-- own: about -->\n<!-- end own -->",
        loading(converted, repo_id),
        subsets(converted),
        charts(pictures),
        fields(converted),
        prompts(),
        left_out(converted),
        limits(converted),
        "<!-- own: notes -->\n<!-- end own -->",
        licences(converted),
        citation(converted),
        "## This card\n\nIt is written by `mmm-rs card` from the manifest, the index and the report of this repository. "
        "Text between the lines `<!-- own: NAME -->` and `<!-- end own -->` is a person's and is kept when the card is "
        "written again; so are lines between `# own: yaml` and `# end own` in the YAML.",
    ]
    return "\n\n".join(sections) + "\n"


def about(converted: Converted) -> str:
    samples = sum(s.samples for s in converted.statistics.values())
    pairs = {m: sum(s.pairs[m] for s in converted.statistics.values()) for m in MODALITIES}
    parts = ", ".join(f"{number:,} {MODALITY_NAMES[m]}" for m, number in pairs.items() if number)
    stored = sum(shard["bytes"] for shard in converted.manifest["shards"])
    every, held = len(SUBSETS), len(converted.subsets)
    of = f"all {every} subsets" if held == every else f"{held} of the {every} subsets"
    return f"""# MMM-RS

A multi-modal, multi-GSD, multi-scene remote sensing dataset for text-to-image generation ([paper]({PAPER}), [upstream]({HOMEPAGE})), as shards that can be streamed and filtered.

This copy holds **{sum(pairs.values()):,} pairs** of an image and its prompt ({parts}) in **{samples:,} samples** of {of}, {len(converted.manifest["shards"]):,} shards, {size(stored)}. A *sample* is the aligned images of one place, one to three modalities, each with its own prompt. The images are the release's bytes, unchanged; every shard's sha256 is in `manifest.json`."""


def counts(converted: Converted) -> dict[str, list[str]]:
    """config -> samples and pairs by modality, as the table of subsets writes them."""
    numbers = {
        name: [counted.samples, *(counted.pairs[m] for m in MODALITIES)]
        for name, counted in converted.statistics.items()
    }
    numbers[mmm_rs.ALL] = [sum(column) for column in zip(*numbers.values(), strict=True)]
    return {name: [f"{number:,}" if number else "" for number in row] for name, row in numbers.items()}


def subsets(converted: Converted) -> str:
    rows = []
    for name, numbers in counts(converted).items():
        about = ["", "", "", ""]
        if origin := PROVENANCE.get(name):
            about = [
                _gsd(converted.statistics[name], origin),
                origin.sensor,
                f"[{origin.source}]({origin.homepage})",
                origin.licence,
            ]
        rows.append([f"`{name}`", *numbers, *about])
    lines = [
        "## Subsets",
        "",
        "Each subset is a config of its own; `all` is all of them.",
        "",
        *table(
            (
                "config",
                "samples",
                "pairs RGB",
                "pairs NIR",
                "pairs SAR",
                "GSD, m/pixel",
                "sensor",
                "source",
                "source's licence",
            ),
            rows,
        ),
    ]
    missing = [name for name in SUBSETS if name not in converted.statistics]
    if missing:
        lines += ["", f"Not in this copy: {', '.join(f'`{name}`' for name in missing)}."]
    held_out = {
        name: s["splits"]["validation"]["samples"]
        for name, s in converted.manifest["subsets"].items()
        if "validation" in s["splits"]
    }
    if held_out:
        lines += ["", validation(converted, held_out)]
    return "\n".join(lines)


def validation(converted: Converted, held_out: dict[str, int]) -> str:
    """How the validation split was made. `held_out`: subset -> its samples there."""
    options = converted.manifest["options"]
    each = ", ".join(f"`{name}` {number:,}" for name, number in held_out.items())
    none = [f"`{name}`" for name in converted.subsets if name not in held_out]
    return (
        f"The `validation` split holds out whole scenes, so that no scene is on both sides: each scene was drawn with a probability of {options.get('validation')}, by a hash of its name with seed {options.get('seed')}. "
        "A scene is a WHU-OPT-SAR sheet, an fMoW location (all its dates and crops), an Inria source image, a SEN1-2 scene, the GID tiles of one image where their names tell it, the images of weather of one name; elsewhere names do not tell and each sample is one. "
        f"Its samples: {each}."
        + (f" No scene was drawn of {', '.join(none)}, which have no such split." if none else "")
    )


def _gsd(counted: Statistics, origin: Provenance) -> str:
    """Metres a pixel as the index has them, else as the source says."""
    if counted.gsd is None:
        return origin.gsd
    low, high = counted.gsd
    return f"{low:g}" if low == high else f"{low:g} to {high:g}"


def charts(pictures: list[str]) -> str:
    alts = {
        "pairs": "Bar charts: pairs by subset and by GSD level, for each modality",
        "prompts": "Histograms: words in a prompt, for each subset",
    }
    lines = []
    for path in pictures:
        name = path.rsplit("/", 1)[-1].rsplit(".", 1)[0]
        if name in alts:
            lines += [f"![{alts[name]}]({path})", ""]
        else:
            subset = name.removeprefix("samples-")
            lines += [f"**{subset}**", "", f"![Samples of {subset}: images and their prompts]({path})", ""]
    return "\n".join(lines).rstrip()


def loading(converted: Converted, repo_id: str) -> str:
    """How to load it, in the order of effort. Every block of code here is run by the project's tests."""
    config = next((name for name in ("SEN1-2", "WHU-OPT-SAR") if name in converted.statistics), converted.subsets[0])
    modalities = converted.statistics[config].modalities
    members = [member for m in modalities for member in (MEMBERS[m].image, MEMBERS[m].prompt)]
    columns = [column for m in modalities for column in (m, PROMPT_COLUMNS[m])]
    level = _commonest(converted, config)
    return f"""## Loading

### Without code

```python
from datasets import load_dataset

samples = load_dataset("{repo_id}", "{config}", split="train", streaming=True)
sample = next(iter(samples))
{", ".join(f'sample["{member}"]' for member in members)}
sample["json"]["category"], sample["json"]["gsd"], sample["json"]["gsd_level"]
```

Without `streaming=True` it downloads the shards and checks the number of samples. Works with `datasets` 2.21 and newer.

### With `mmm_rs.py`: friendly columns, filters

```python
import sys
from huggingface_hub import hf_hub_download

module = hf_hub_download("{repo_id}", "mmm_rs.py", repo_type="dataset")
sys.path.append(module.removesuffix("mmm_rs.py"))
import mmm_rs

data = "hf://datasets/{repo_id}"
samples = mmm_rs.load_dataset("{config}", data, split="train", streaming=True)
sample = next(iter(samples))
{", ".join(f'sample["{column}"]' for column in columns)}
sample["category"], sample["gsd"], sample["gsd_level"]
```

### As plain WebDataset

The shards are tars in the layout of img2dataset, so `webdataset`, OpenCLIP, Energon and DALI read them as they are.

```python
from glob import glob
import webdataset
from huggingface_hub import snapshot_download

folder = snapshot_download(
    "{repo_id}", repo_type="dataset", allow_patterns="data/{config}/*"
)
shards = sorted(glob(folder + "/data/{config}/train-*.tar"))
samples = webdataset.WebDataset(shards, shardshuffle=False).shuffle(1000)
samples = samples.decode("pil").to_tuple("{members[0]}", "{members[1]}", "json")
image, prompt, labels = next(iter(samples))
```

### The index

`index/<Subset>.parquet` has a row a sample: key, split, shard, every prompt and label, the path in the release, and for each image where its bytes are (`rgb_offset` and `rgb_size` in the shard), its CRC-32, width and height.

```python
from datasets import load_dataset

files = "hf://datasets/{repo_id}/index/*.parquet"
index = load_dataset("parquet", data_files=files, split="train")
```

By SQL with DuckDB or Polars, which read the columns they need and not the whole index:

```python
import duckdb
from huggingface_hub import HfFileSystem

duckdb.register_filesystem(HfFileSystem())
duckdb.sql(\"\"\"
    SELECT subset, gsd_level, count(*) AS samples
    FROM 'hf://datasets/{repo_id}/index/*.parquet'
    GROUP BY ALL ORDER BY ALL
\"\"\").show()
```

```python
import polars
import pyarrow.dataset
from huggingface_hub import HfFileSystem

index = pyarrow.dataset.dataset(
    "datasets/{repo_id}/index", filesystem=HfFileSystem(), format="parquet"
)
found = polars.scan_pyarrow_dataset(index).sql(\"\"\"
    SELECT key, prompt, shard, rgb_offset, rgb_size
    FROM self WHERE subset = '{config}' AND gsd_level = '{level}'
\"\"\").collect()
```

In a downloaded folder: `FROM 'index/*.parquet'` and `polars.scan_parquet("index/*.parquet").sql(...)`.

The image of one of these rows, by its place:

```python
row = found.row(0, named=True)
with HfFileSystem().open("datasets/{repo_id}/" + row["shard"]) as shard:
    shard.seek(row["rgb_offset"])
    jpeg = shard.read(row["rgb_size"])
```"""


def _commonest(converted: Converted, config: str) -> str:
    levels = {level: n for level, n in converted.statistics[config].labels["gsd_level"].items() if level}
    return max(sorted(levels), key=lambda level: levels[level], default="low")


def fields(converted: Converted) -> str:
    features = mmm_rs.features(mmm_rs.ALL)
    rows = [(f"`{name}`", f"`{_in_shards(name)}`", _type(features[name]), about) for name, about in FIELDS.items()]
    return "\n".join(
        [
            "## Fields",
            "",
            "Members of a sample stand together in the shard: its images, their prompts, and `json` with the other fields. A modality "
            "that a sample lacks is `None`, and so is a label that is not known. The suffix is `.jpg` whatever the bytes are.",
            "",
            *table(("with `mmm_rs.py`", "in the shards", "type", "what it is"), rows),
            "",
            "In the shards labels are strings. `json` also has `source`: for each modality the path of the image in the release.",
        ]
    )


def _in_shards(name: str) -> str:
    """Where the shards have a column of the builder."""
    for modality, members in MEMBERS.items():
        if name in (modality, PROMPT_COLUMNS[modality]):
            return members.image if name == modality else members.prompt
    return "__key__" if name == "key" else f"json: {name}"


def _type(feature: Any) -> str:
    if isinstance(feature, dict):
        return ", ".join(f"{name}: {_type(inner)}" for name, inner in feature.items())
    names = getattr(feature, "names", None)
    if names:
        return "one of " + ", ".join(f"`{name}`" for name in names)
    return "image" if type(feature).__name__ == "Image" else feature.dtype


# Columns of the index that are not the builder's.
INDEX_FIELDS = {
    "split": "The split: train or validation.",
    "shard": "The shard that holds the sample, a path within the dataset.",
    "source": "The path of the image within the subset of the release.",
    "offset": "Where the image's bytes begin in the shard, bytes.",
    "size": "Length of the image, bytes.",
    "crc32": "CRC-32 of the image's bytes.",
    "width": "Width of the image, pixels.",
    "height": "Height of the image, pixels.",
}


def about_field(name: str) -> str:
    """What a column of the index is."""
    return FIELDS.get(name) or INDEX_FIELDS[name.rsplit("_", 1)[-1]]


def prompts() -> str:
    return """## How the prompts are made up

Upstream wrote them with a vision-language model and mended them by hand. A prompt is a list of parts, some of which may be missing: *image kind*, *GSD phrase* (`Ultra-high precision resolution`), *weather* (`fog`, `night`, `snow`), *category*, the *caption*, the *satellite*, the *dataset*. The text is published as it is; the parts that were recognised are fields beside it.

| GSD level | phrase in the prompt | GSD |
|---|---|---|
| `ultra_high` | Ultra-high precision resolution | < 0.5 m |
| `high` | High precision resolution | 0.5 m to < 1 m |
| `ordinary` | Ordinary precision resolution | 1 m to < 5 m |
| `low` | Low precision resolution | from 5 m |
| `ultra_low` | Ultra-low precision resolution | about 100 m; the bound is not published |

The phrase is the authority for `gsd_level`. Where a prompt has none and the GSD in metres is known, the level follows from the metres and `gsd_level_derived` is true."""


def left_out(converted: Converted) -> str:
    """What of the release is not here, and why, from the report."""
    summary = converted.summary
    rows = [
        (
            f"`{name}`",
            *(f"{one['images'][what]:,}" for what in ("released", "published", "reported")),
            *(f"{one['records'][what]:,}" for what in ("released", "used", "reported")),
        )
        for name in SUBSETS
        if (one := summary["subsets"].get(name))
    ]
    lines = [
        "## What was left out, and why",
        "",
        "Every image and every record of the release is accounted for: released = published (or used) + left out.",
        "",
        *table(("subset", "images released", "published", "left out", "records released", "used", "left out"), rows),
    ]
    reasons = list(_reasons(converted))
    if reasons:
        lines += [
            "",
            *table(("what", "reason", "how many", "for example"), reasons),
            "",
            "Each of them is a row of `report/unpublished.parquet`.",
        ]
    else:
        lines += ["", "Nothing was left out."]
    sources = [
        (_code(source["path"]), _plain(source["problem"]).replace("\\_", " "), _plain(source["detail"]))
        for source in summary["sources"]
    ]
    if sources:
        lines += [
            "",
            "Files of the release that could not be used as a whole:",
            "",
            *table(("file", "problem", "detail"), sources),
        ]
    return "\n".join(lines)


def _reasons(converted: Converted) -> Iterator[tuple[str, str, str, str]]:
    """(kind, reason, number, an example) over all rows of the report."""
    counts: dict[tuple[str, str], int] = {}
    examples: dict[tuple[str, str], str] = {}
    with opened_parquet(converted.out / layout.UNPUBLISHED) as report:
        for batch in report.iter_batches(columns=["kind", "path", "reason", "detail"]):
            kinds = pc.binary_join_element_wise(batch["kind"], batch["reason"], "\0")
            for found in pc.value_counts(kinds).to_pylist():
                kind = tuple(found["values"].split("\0"))
                counts[kind] = counts.get(kind, 0) + found["counts"]
                if kind not in examples:
                    at = pc.index(kinds, found["values"]).as_py()
                    path, detail = batch["path"][at].as_py(), batch["detail"][at].as_py()
                    examples[kind] = f"{_code(path)}: {_plain(detail)}"
    for kind, number in sorted(counts.items()):
        yield kind[0], kind[1].replace("_", " "), f"{number:,}", examples[kind]


def limits(converted: Converted) -> str:
    """What a user should know before training on it; the numbers are this copy's."""
    every = converted.statistics
    lines = ["## Known limits", ""]
    derived = sum(s.derived for s in every.values())
    unknown = sum(s.labels["gsd_level"][None] for s in every.values())
    points = [
        "The prompts come from a vision-language model: captions can be wrong, and the GSD phrase can contradict the sensor "
        '(upstream\'s own example calls a Sentinel-2 image, 10 m a pixel, "Ordinary").',
        "Single-band NIR and SAR images were stored by upstream as three equal channels.",
        "`gsd_level` and the other single fields describe the first modality that a sample has, in the order RGB, NIR, SAR.",
    ]
    if derived:
        points.append(f"The GSD level of {derived:,} samples follows from metres a pixel, not from the prompt.")
    if unknown:
        points.append(f"{unknown:,} samples have no GSD level.")
    for name, counted in every.items():
        if counted.incomplete:
            points.append(
                f"`{name}`: {counted.incomplete:,} of {counted.samples:,} samples lack a modality; it is `None` there."
            )
        odd = {size: number for size, number in counted.sizes.items() if size != (512, 512)}
        if odd:
            sizes = " to ".join(f"{width} x {height}" for width, height in dict.fromkeys([min(odd), max(odd)]))
            points.append(f"`{name}`: {sum(odd.values()):,} images are not 512 x 512 pixels but {sizes}.")
    points.append(
        "Source images are cut into overlapping or adjoining tiles: split by scene, not by sample, for a test set."
    )
    return "\n".join([*lines, *(f"- {point}" for point in points)])


def licences(converted: Converted) -> str:
    rows = [
        (f"`{name}`", f"[{origin.source}]({origin.homepage})", origin.licence)
        for name in converted.subsets
        if (origin := PROVENANCE[name])
    ]
    return "\n".join(
        [
            "## Licence",
            "",
            f"Upstream publishes MMM-RS under CC BY-NC-SA ([badge]({HOMEPAGE}); no version is named). The images come from sources with "
            "terms of their own, which hold as well:",
            "",
            *table(("config", "source", "source's licence"), rows),
        ]
    )


def citation(converted: Converted) -> str:
    entries = [mmm_rs.CITATION, *dict.fromkeys(PROVENANCE[name].citation for name in converted.subsets)]
    return "\n".join(
        [
            "## Citation",
            "",
            "Cite MMM-RS, and the source of each subset that you use:",
            "",
            "```bibtex",
            "\n\n".join(entry.strip() for entry in entries if entry),
            "```",
        ]
    )


def table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> Iterator[str]:
    """Lines of a Markdown table; numbers stand to the right."""
    cells = [list(row) for row in rows]
    columns = zip(*cells, strict=True) if cells else ()
    yield "| " + " | ".join(head) + " |"
    yield "|" + "|".join("---:" if all(map(_is_number, column)) else "---" for column in columns) + "|"
    for row in cells:
        yield "| " + " | ".join(row) + " |"


def _is_number(cell: str) -> bool:
    return not cell or cell.replace(",", "").isdigit()


def _plain(value: str | None) -> str:
    """Text of the release made safe within a table: on one line, not longer than a line, no mark-up of its own."""
    short = _short(value)
    for character in "\\|[]*_~":
        short = short.replace(character, "\\" + character)
    return short.replace("&", "&amp;").replace("<", "&lt;").replace("`", "'")


def _code(value: str | None) -> str:
    """The same as code, for a path or a name."""
    return "`" + _short(value).replace("`", "'").replace("|", "\\|") + "`"


def _short(value: str | None) -> str:
    line = "".join(c if c.isprintable() else " " for c in " ".join((value or "").split()))
    return line if len(line) <= 160 else line[:157] + "..."
