"""The HTML of a preview: every text and image of some samples in one page that asks for nothing else.

Texts of the dataset are escaped wherever they go; a policy in the page's head forbids every request.
"""

from __future__ import annotations

import base64
import io
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from importlib import resources
from string import Template
from typing import Any
from urllib.parse import quote

from PIL import Image

from conversion.prompts import marked
from dataset_card.fields import LEVEL_NAMES, MODALITY_NAMES
from dataset_card.provenance import PROVENANCE
from mmm_rs import ALL, MODALITIES, SUBSETS, WEATHERS, open_image
from mmm_rs_cli.parts import PARTS
from mmm_rs_cli.samples import PlacedImage, Sample

SIDE = 320  # pixels of an image's longer side, at most
IMAGE_BYTES = 22_000  # of an image, at most
QUALITIES = (75, 60, 45, 30, 15)  # of the JPEG: the first that is small enough
LONGEST_TEXT = 1_000  # characters of one prompt
LONGEST_ALT = 300  # characters of an image's description
LONGEST_CHOICE = 60  # characters of a category in its filter

UNKNOWN = "-"  # a filter's value for samples without a label
SMALL = 128  # pixels; smaller images are enlarged without smoothing: their pixels are what there is

GENERATOR = '<meta name="generator" content="mmm-rs preview">'  # how a page is known again

Thumbnail = tuple[str, int, int]  # a JPEG in base64, width and height in pixels


@dataclass(frozen=True)
class Page:
    """What one page shows."""

    title: str  # the dataset's name
    source: str  # what code on the page loads from: a folder or an address
    manifest: Mapping[str, Any]
    samples: Mapping[str, Sequence[Sample]]  # by subset, in the dataset's order
    thumbnails: Mapping[PlacedImage, Thumbnail | None]  # of their images; None for one that cannot be decoded
    number: int  # of this page, from 1
    files: Sequence[str]  # names of all pages, in order; this one is `files[number - 1]`


def render(page: Page) -> str:
    """The page as HTML."""
    template = Template(resources.files("mmm_rs_cli").joinpath("preview.html").read_text("utf-8"))
    shown = [sample for samples in page.samples.values() for sample in samples]
    held = Counter(image.modality for sample in shown for image in sample.images)
    categories = Counter(sample.labels["category"] for sample in shown)
    ordered = sorted(categories.items(), key=lambda item: (item[0] is None, -item[1], item[0]))
    return template.substitute(
        generator=GENERATOR,
        name=escape(page.title),
        dataset=json.dumps(page.source).replace("<", "\\u003c"),  # inside a script
        shown=f"{len(shown):,}",
        total=f"{sum(counts['samples'] for counts in page.manifest['subsets'].values()):,}",
        pages=_navigation(page, "Pages"),
        pages_below=_navigation(page, "Pages, below the samples"),
        table="\n".join(_table(page)),
        legend="\n".join(f"<li>{_part(field, part.name)} {part.meaning}</li>" for field, part in PARTS.items()),
        subsets=_choices({name: name for name in page.samples}, Counter(sample.subset for sample in shown)),
        modalities=_choices({name: f"{name.upper()}, {MODALITY_NAMES[name]}" for name in MODALITIES}, held),
        categories=_choices({name: name or "none stated" for name, _ in ordered}, categories),
        levels=_choices(LEVEL_NAMES, Counter(sample.labels["gsd_level"] for sample in shown)),
        weathers=_choices(
            {name: name for name in WEATHERS} | {None: "none stated"},
            Counter(sample.labels["weather"] for sample in shown),
        ),
        sections="\n".join(_section(page, name, samples) for name, samples in page.samples.items()),
        side=SIDE,
        digest=page.manifest["digest"][:12],
    )


def _navigation(page: Page, label: str) -> str:
    """Links to the pages before and after this one."""
    if len(page.files) == 1:
        return ""
    links = "".join(
        f'<a href="{quote(page.files[number - 1])}">{text}</a>'
        for number, text in ((page.number - 1, "← Previous samples"), (page.number + 1, "Next samples →"))
        if 1 <= number <= len(page.files)
    )
    return f'<nav aria-label="{label}"><span>Page {page.number} of {len(page.files)}</span> {links}</nav>'


def _table(page: Page) -> Iterator[str]:
    """Rows of the dataset's counts, by the manifest."""
    rows = []
    for name in SUBSETS:
        if counts := page.manifest["subsets"].get(name):
            pairs = (counts["pairs"][modality] for modality in MODALITIES)
            rows.append((len(page.samples.get(name, ())), counts["samples"], *pairs))
            yield _row(name, rows[-1])
    yield _row(ALL, [sum(column) for column in zip(*rows, strict=True)])


def _row(name: str, numbers: Iterable[int]) -> str:
    cells = "".join(f"<td>{number:,}</td>" for number in numbers)
    return f'<tr><th scope="row">{escape(name)}</th>{cells}</tr>'


def _choices(names: Mapping[Any, str], counts: Mapping[Any, int]) -> str:
    """Choices of a filter, without those that no sample has. `names`: value (None if unknown) -> what it is called."""
    return "".join(
        f'<option value="{escape(value or UNKNOWN)}">{escape(_short(name))} ({count:,})</option>'
        for value, name in names.items()
        if (count := counts.get(value, 0))
    )


def _short(text: str) -> str:
    return text if len(text) <= LONGEST_CHOICE else text[: LONGEST_CHOICE - 1] + "…"


def _section(page: Page, name: str, samples: Sequence[Sample]) -> str:
    subset = PROVENANCE[name]
    modalities = [m for m in MODALITIES if any(image.modality == m for sample in samples for image in sample.images)]
    return f"""<section aria-labelledby="{escape(name)}" class="across-{len(modalities)}">
<h2 id="{escape(name)}">{escape(name)}</h2>
<p class="about">{escape(subset.scenes[0].upper() + subset.scenes[1:])}. Sensor: {escape(subset.sensor)}. \
GSD of the source in metres: {escape(subset.gsd)}.</p>
<p class="about"><span class="here">{len(samples):,} of {len(samples):,} shown</span>; \
{page.manifest["subsets"][name]["samples"]:,} in the dataset</p>
<div class="samples">
{"".join(_article(page, sample, modalities) for sample in samples)}</div>
</section>"""


def _article(page: Page, sample: Sample, modalities: Sequence[str]) -> str:
    labels = sample.labels
    level, weather, category = labels["gsd_level"], labels["weather"], labels["category"]
    facts = {
        "GSD level": level and level.replace("_", " ") + (" (from metres)" if labels["gsd_level_derived"] else ""),
        "GSD": labels["gsd"] and f"{labels['gsd']:g} m",
        "Weather": weather,
        "Category": category,
        "Satellite": labels["satellite"],
        "Split": None if sample.split == "train" else sample.split,
    }
    known = "".join(f"<div><dt>{name}</dt><dd>{escape(value)}</dd></div>" for name, value in facts.items() if value)
    held = {image.modality: image for image in sample.images}
    return f"""<article data-subset="{escape(sample.subset)}" data-modalities="{" ".join(held)}" \
data-category="{escape(category or UNKNOWN)}" data-level="{escape(level or UNKNOWN)}" \
data-weather="{escape(weather or UNKNOWN)}">
<h3>{escape(sample.key)}</h3>
<div class="images">{"".join(_figure(page, sample, m, held.get(m)) for m in modalities)}</div>
<div class="prompts">{"".join(_prompts(sample, len(modalities) > 1))}</div>
<dl>{known}</dl>
</article>
"""


def _figure(page: Page, sample: Sample, modality: str, image: PlacedImage | None) -> str:
    name = modality.upper()
    if image is None:
        return f'<figure><div class="missing">no {name}</div><figcaption>{name}</figcaption></figure>'
    size = f"{image.width:,} × {image.height:,} px"
    small = page.thumbnails[image]
    if small is None:
        shown = '<div class="missing">not decodable</div>'
    else:
        data, width, height = small
        caption = (image.parts.get("caption") or sample.labels["caption"] or "no caption")[:LONGEST_ALT]
        pixels = ' class="pixels"' if max(width, height) < SMALL else ""
        shown = (
            f'<img alt="{name}: {escape(caption)}" width="{width}" height="{height}" decoding="async"{pixels} '
            f'src="data:image/jpeg;base64,{data}">'
        )
    return (
        f'<figure>{shown}<figcaption><abbr title="{MODALITY_NAMES[modality]}">{name}</abbr> '
        f"<small>{size}</small></figcaption></figure>"
    )


def thumbnail(data: bytes) -> Thumbnail | None:
    """An image made small. None if it cannot be decoded."""
    try:
        with open_image(data) as encoded:
            encoded.draft("RGB", (SIDE, SIDE))  # a large JPEG is decoded at half, a quarter or an eighth of its size
            image = encoded.convert("RGB")
    except Exception:  # damage that only a decoder sees; Pillow raises almost anything
        return None
    image.thumbnail((SIDE, SIDE), Image.Resampling.LANCZOS)
    for quality in QUALITIES:
        buffer = io.BytesIO()
        image.save(buffer, "JPEG", quality=quality, optimize=True)
        if buffer.tell() <= IMAGE_BYTES:
            break
    return base64.b64encode(buffer.getvalue()).decode(), image.width, image.height


def _prompts(sample: Sample, named: bool) -> Iterator[str]:
    """Each prompt once, with the modalities that have it."""
    modalities_of: dict[str | None, list[str]] = {}
    for image in sample.images:
        modalities_of.setdefault(image.prompt, []).append(image.modality.upper())
    for prompt, modalities in modalities_of.items():
        name = f"<b>{', '.join(modalities)}</b> " if named else ""
        if prompt is None:
            yield f"<p>{name}<i>no prompt</i></p>"
        else:
            yield f'<p>{name}<span class="prompt">{"".join(_marked(prompt))}</span></p>'


def _marked(prompt: str) -> Iterator[str]:
    room = LONGEST_TEXT
    for field, text in marked(prompt):
        shown = text[:room]
        yield _part(field, shown) if field else escape(shown)
        room -= len(shown)
        if not room:
            break
    if len(prompt) > LONGEST_TEXT:
        yield f" <small>… and {len(prompt) - LONGEST_TEXT:,} more characters</small>"


def _part(field: str, text: str) -> str:
    name = PARTS[field].name
    return f'<span class="part {field}" title="{name}" data-part="{name}">{escape(text)}</span>'
