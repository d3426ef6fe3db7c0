"""`mmm-rs preview`: one HTML page to look through a converted folder.

The page needs no server and asks for nothing: images are in it, re-encoded small. What is shown of a subset is taken
evenly from its index, so it is a fair sample. Texts of the dataset are escaped wherever they go; a policy in the page's
head forbids every request besides.
"""

from __future__ import annotations

import base64
import io
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from importlib import resources
from pathlib import Path
from string import Template
from typing import Any

from PIL import Image

from conversion import images
from conversion.disk import write_file
from conversion.errors import UsageError
from conversion.prompts import marked
from dataset_card.fields import LEVEL_NAMES, MODALITY_NAMES
from dataset_card.provenance import PROVENANCE
from dataset_card.statistics import read_manifest
from mmm_rs import ALL, MODALITIES, SUBSETS, WEATHERS, subset_names
from mmm_rs_cli.show import PlacedImage, Sample, check_outside, read, spread

# Together these keep a page below 10 MB: 300 images of 22 kB are 8.8 MB in base64, and their texts hardly 1 MB.
IMAGES = 300  # on a page, over all its subsets
SIDE = 320  # pixels of an image's longer side, at the most
IMAGE_BYTES = 22_000  # of an image, at the most
QUALITIES = (75, 60, 45, 30, 15)  # of the JPEG: the first that is small enough
LONGEST_TEXT = 1_000  # characters of one prompt
LONGEST_ALT = 300  # characters of an image's description

NONE = "none"  # a filter's value for samples without a label
SMALL = 128  # pixels; smaller images are enlarged without smoothing: their pixels are what there is

PARTS = {  # field of PromptParts -> its name on the page, what it tells
    "image_kind": ("image kind", "what sort of image this is"),
    "gsd_level": ("GSD level", "how much ground one pixel covers, in words"),
    "weather": ("weather", "fog, night or snow"),
    "category": ("category", "the class of the scene"),
    "caption": ("caption", "a vision-language model's sentence about the scene"),
    "satellite": ("satellite", "or the map service that the image comes from"),
    "dataset": ("dataset", "the one that upstream took the image from"),
}
GENERATOR = '<meta name="generator" content="mmm-rs preview">'  # how a page is known again


@dataclass(frozen=True)
class Preview:
    path: Path
    samples: int
    subsets: int
    size: int  # bytes


def write_preview(out: Path, configs: Sequence[str] | None = None, output: Path | None = None) -> Preview:
    """Write the page of some configs, or of all; beside `out` where no other place is given.

    Raises UsageError for a config that is unknown or has no samples here, and for an `output` that lies within `out` or
    is a file of another kind; OutputError where `out` is no finished conversion or the page cannot be written;
    VerificationError where an image's bytes are not those that the index names.
    """
    made = read_manifest(out)
    subsets = _chosen(out, made, configs or [ALL])
    resolved = out.resolve()
    path = output or resolved.with_name(f"{resolved.name}-preview.html")
    check_outside(out, path)
    if path.is_file() and GENERATOR not in path.read_bytes()[:1000].decode(errors="replace"):
        raise UsageError(f"{path}: is there and is no preview, so it is not overwritten. Give another --output")
    most = IMAGES // sum(len(SUBSETS[name].modalities) for name in subsets)
    samples = {name: spread(out, name, most) for name in subsets}
    page = render(out, made, samples).encode()
    write_file(path, page)
    return Preview(path, sum(map(len, samples.values())), len(samples), len(page))


def _chosen(out: Path, made: dict[str, Any], configs: Iterable[str]) -> list[str]:
    """The subsets of these configs that hold a sample, in the dataset's order."""
    held = [name for name in SUBSETS if made["subsets"].get(name, {}).get("samples")]
    chosen: set[str] = set()
    for config in configs:
        try:
            names = set(subset_names(config))
        except ValueError as error:
            raise UsageError(f"--config {error}") from None
        if not names & set(held):
            raise UsageError(f"--config {config}: {out} holds no samples of it, only of {', '.join(held) or 'nothing'}")
        chosen |= names
    return [name for name in held if name in chosen]


def render(out: Path, made: dict[str, Any], samples: dict[str, list[Sample]]) -> str:
    """The page: every text and image that it shows."""
    template = Template(resources.files("mmm_rs_cli").joinpath("preview.html").read_text("utf-8"))
    shown = [sample for mine in samples.values() for sample in mine]
    subsets = {name: name for name in samples}
    weathers = {name: name for name in WEATHERS} | {None: "none stated"}
    return template.substitute(
        generator=GENERATOR,
        name=escape(out.resolve().name),
        shown=f"{len(shown):,}",
        total=f"{sum(one['samples'] for one in made['subsets'].values()):,}",
        table="\n".join(_table(made, samples)),
        legend="\n".join(f"<li>{_part(part, name)} {tells}</li>" for part, (name, tells) in PARTS.items()),
        subsets=_options(subsets, Counter(sample.subset for sample in shown)),
        levels=_options(LEVEL_NAMES, Counter(sample.labels["gsd_level"] for sample in shown)),
        weathers=_options(weathers, Counter(sample.labels["weather"] for sample in shown)),
        sections="\n".join(_section(out, made, name, mine) for name, mine in samples.items()),
        side=SIDE,
        digest=made["digest"][:12],
    )


def _table(made: dict[str, Any], samples: dict[str, list[Sample]]) -> Iterator[str]:
    """Rows of the dataset's counts, by the manifest."""
    rows = []
    for name in SUBSETS:
        if one := made["subsets"].get(name):
            rows.append((len(samples.get(name, ())), one["samples"], *(one["pairs"][m] for m in MODALITIES)))
            yield _row(name, rows[-1])
    yield _row(ALL, [sum(column) for column in zip(*rows, strict=True)])


def _row(name: str, numbers: Iterable[int]) -> str:
    cells = "".join(f"<td>{number:,}</td>" for number in numbers)
    return f'<tr><th scope="row">{escape(name)}</th>{cells}</tr>'


def _options(names: Mapping[Any, str], counted: Counter) -> str:
    """Choices of a filter, without those that no sample has. `names`: value (None where unknown) -> what to call it."""
    found = [(value or NONE, name, counted[value]) for value, name in names.items() if counted[value]]
    return "".join(f'<option value="{value}">{escape(name)} ({number:,})</option>' for value, name, number in found)


def _section(out: Path, made: dict[str, Any], name: str, samples: Sequence[Sample]) -> str:
    origin = PROVENANCE[name]
    modalities = [m for m in MODALITIES if any(image.modality == m for sample in samples for image in sample.images)]
    return f"""<section aria-labelledby="{escape(name)}" class="across-{len(modalities)}">
<h2 id="{escape(name)}">{escape(name)}</h2>
<p class="about">{escape(origin.scenes[0].upper() + origin.scenes[1:])}. Sensor: {escape(origin.sensor)}. \
GSD of the source in metres: {escape(origin.gsd)}.</p>
<p class="about"><span class="here">{len(samples):,} of {len(samples):,} shown</span>; \
{made["subsets"][name]["samples"]:,} in the dataset</p>
<div class="samples">
{"".join(_article(out, sample, modalities) for sample in samples)}</div>
</section>"""


def _article(out: Path, sample: Sample, modalities: Sequence[str]) -> str:
    labels = sample.labels
    level, weather = labels["gsd_level"], labels["weather"]
    said = {
        "GSD level": level and level.replace("_", " ") + (" (from metres)" if labels["gsd_level_derived"] else ""),
        "GSD": labels["gsd"] and f"{labels['gsd']:g} m",
        "Weather": weather,
        "Category": labels["category"],
        "Satellite": labels["satellite"],
        "Split": None if sample.split == "train" else sample.split,
    }
    known = {name: escape(value) for name, value in said.items() if value}
    listed = "".join(f"<div><dt>{name}</dt><dd>{value}</dd></div>" for name, value in known.items())
    held = {image.modality: image for image in sample.images}
    return f"""<article data-subset="{escape(sample.subset)}" data-level="{escape(level or NONE)}" \
data-weather="{escape(weather or NONE)}">
<h3>{escape(sample.key)}</h3>
<div class="images">{"".join(_figure(out, sample, m, held.get(m)) for m in modalities)}</div>
<div class="prompts">{"".join(_prompts(sample, len(modalities) > 1))}</div>
<dl>{listed}</dl>
</article>
"""


def _figure(out: Path, sample: Sample, modality: str, image: PlacedImage | None) -> str:
    name = modality.upper()
    if image is None:
        return f'<figure><div class="missing">no {name}</div><figcaption>{name}</figcaption></figure>'
    size = f"{image.width:,} × {image.height:,} px"
    thumbnail = _thumbnail(read(out, image))
    if thumbnail is None:
        shown = '<div class="missing">not decodable</div>'
    else:
        data, width, height = thumbnail
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


def _thumbnail(data: bytes) -> tuple[str, int, int] | None:
    """(JPEG in base64, width, height in pixels) of an image, None where it cannot be decoded."""
    try:
        with Image.open(io.BytesIO(data), formats=images.FORMATS) as encoded:
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
    of_prompt: dict[str | None, list[str]] = {}
    for image in sample.images:
        of_prompt.setdefault(image.prompt, []).append(image.modality.upper())
    for prompt, modalities in of_prompt.items():
        name = f"<b>{', '.join(modalities)}</b> " if named else ""
        if prompt is None:
            yield f"<p>{name}<i>no prompt</i></p>"
        else:
            yield f'<p>{name}<span class="prompt">{"".join(_marked(prompt))}</span></p>'


def _marked(prompt: str) -> Iterator[str]:
    room = LONGEST_TEXT
    for part, text in marked(prompt):
        shown = text[:room]
        yield _part(part, shown) if part else escape(shown)
        room -= len(shown)
        if not room:
            break
    if len(prompt) > LONGEST_TEXT:
        yield f" <small>… and {len(prompt) - LONGEST_TEXT:,} characters more</small>"


def _part(part: str, text: str) -> str:
    name, _ = PARTS[part]
    return f'<span class="part {part}" title="{name}" data-part="{name}">{escape(text)}</span>'
