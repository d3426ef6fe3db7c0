"""The card's pictures of samples: a strip of a few of each subset, and a contact sheet for each subset."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow.parquet as pq
from PIL import Image, ImageDraw

from conversion import images, layout
from conversion.placed import Place, Read, read_image, reader
from dataset_card.drawing import COLOURS, FILL, INK, canvas, cut, font, webp, wrapped
from mmm_rs import MODALITIES, PROMPT_COLUMNS, open_image

SHEET, GAP = 1140, 14  # pixels: half as much again as a card shows
ACROSS = {1: 4, 2: 2, 3: 2}  # modalities -> samples side by side
ROWS = 2  # rows of samples in a contact sheet
HEADING, TEXT, LINE = 26, 20, 25  # pixels: heights of letters, distance of lines
LINES = 8  # of text below a sample, at most
LOOKED_AT = 2_000  # samples among which those shown are chosen; the order of the shards is random

STRIP_TILES, STRIP_ROWS = 7, 2  # images side by side, rows
STRIP, STRIP_GAP = 1520, 10  # pixels


@dataclass(frozen=True)
class Shown:
    """One sample in a picture."""

    key: str
    images: dict[str, bytes | None]
    """modality -> encoded image; None if the subset has the modality and this sample does not"""
    prompts: dict[str, str | None]


def choose(out: Path, subset: str, read: Read | None = None) -> list[Shown]:
    """Samples enough for a contact sheet: whole ones first, with as many different labels as there are.

    `read`: reads bytes of shards (default: from the folder).
    """
    labels = ["weather", "gsd_level", "category"]
    places = [name for modality in MODALITIES for name in Place.columns(modality)]
    columns = list(dict.fromkeys(["key", *labels, *PROMPT_COLUMNS.values(), *places]))
    with pq.ParquetFile(out / layout.index_name(subset)) as index:
        batch = next(index.iter_batches(LOOKED_AT, columns=columns), None)
    rows = batch.to_pylist() if batch else []
    modalities = [m for m in MODALITIES if any(row[f"{m}_size"] is not None for row in rows)]
    count = ROWS * ACROSS[max(len(modalities), 1)]
    seen: dict[tuple, int] = {}
    ranked = []
    for number, row in enumerate(rows):
        kind = tuple(row[label] for label in labels)
        seen[kind] = seen.get(kind, -1) + 1
        missing = sum(row[f"{m}_size"] is None for m in modalities)
        ranked.append((missing, seen[kind], number))
    chosen = sorted(number for *_, number in sorted(ranked)[:count])
    return [_shown(rows[number], modalities, read or reader(out)) for number in chosen]


def _shown(row: dict, modalities: Sequence[str], read: Read) -> Shown:
    encoded: dict[str, bytes | None] = dict.fromkeys(modalities)
    for modality in modalities:
        if row[f"{modality}_size"] is not None:
            encoded[modality] = read_image(read, Place.of(row, modality))
    return Shown(row["key"], encoded, {m: row[PROMPT_COLUMNS[m]] for m in modalities})


# --- the strip -------------------------------------------------------------------------------------------------------


def strip(chosen: Mapping[str, Sequence[Shown]]) -> bytes | None:
    """WebP: a sample of each subset, its modalities side by side. None without a sample.

    `chosen`: subset -> its samples, as `choose` gives them.
    """
    rows = _strip_rows(chosen)
    if not rows:
        return None
    tile = (STRIP + STRIP_GAP) // STRIP_TILES - STRIP_GAP
    height = tile + LINE + 22
    image, draw = canvas(STRIP, height * len(rows))
    for number, row in enumerate(rows):
        left, top = 0, number * height
        for subset, sample in row:
            width = len(sample.images) * (tile + STRIP_GAP) - STRIP_GAP
            for place, (modality, data) in enumerate(sample.images.items()):
                _tile(image, draw, data, modality, (left + place * (tile + STRIP_GAP), top), tile)
            name = cut(subset, font(TEXT + 2), width)
            draw.text((left, top + tile + 6), name, fill=INK, font=font(TEXT + 2))
            left += width + STRIP_GAP
    return webp(image)


def _strip_rows(chosen: Mapping[str, Sequence[Shown]]) -> list[list[tuple[str, Shown]]]:
    """Which samples stand in which row: one of each subset first, those with most modalities before the others."""
    subsets = sorted(chosen, key=lambda subset: -max((len(shown.images) for shown in chosen[subset]), default=0))
    turns = max(map(len, chosen.values()), default=0)
    waiting = [(s, chosen[s][turn]) for turn in range(turns) for s in subsets if turn < len(chosen[s])]
    first = sum(len(chosen[subset][0].images) for subset in subsets if chosen[subset])
    rows: list[list[tuple[str, Shown]]] = [[] for _ in range(1 if first <= STRIP_TILES else STRIP_ROWS)]
    free = [STRIP_TILES] * len(rows)
    for subset, sample in waiting:
        for number in range(len(rows)):
            if len(sample.images) <= free[number]:
                rows[number].append((subset, sample))
                free[number] -= len(sample.images)
                break
    return [row for row in rows if row]


# --- contact sheets --------------------------------------------------------------------------------------------------


def contact_sheet(subset: str, samples: Sequence[Shown]) -> bytes | None:
    """WebP: the modalities of each sample side by side, its prompts below. None without a sample."""
    if not samples:
        return None
    modalities = list(samples[0].images)
    across = ACROSS[len(modalities)]
    tile = ((SHEET + GAP) // across - GAP - 2 * (len(modalities) - 1)) // len(modalities)
    width = (tile + 2) * len(modalities) - 2
    texts = [_text(sample, width) for sample in samples]
    rows = [range(start, min(start + across, len(samples))) for start in range(0, len(samples), across)]
    heights = [tile + LINE * max(len(texts[number]) for number in row) + 2 * GAP for row in rows]
    image, draw = canvas(SHEET, HEADING + GAP + sum(heights))
    draw.text((0, 0), subset, fill=INK, font=font(HEADING))
    top = HEADING + GAP
    for row, height in zip(rows, heights, strict=True):
        for column, number in enumerate(row):
            left = column * (width + GAP)
            for place, modality in enumerate(modalities):
                position = (left + place * (tile + 2), top)
                _tile(image, draw, samples[number].images[modality], modality, position, tile)
            for line, (text, colour) in enumerate(texts[number]):
                draw.text((left, top + tile + 8 + LINE * line), text, fill=colour, font=font(TEXT))
        top += height
    return webp(image)


def _tile(
    sheet: Image.Image,
    draw: ImageDraw.ImageDraw,
    data: bytes | None,
    modality: str,
    position: tuple[int, int],
    side: int,
) -> None:
    """An image in a square, with its modality in a corner."""
    left, top = position
    image = None if data is None else _decoded(data, side)
    if image is None:
        draw.rectangle((left, top, left + side - 1, top + side - 1), fill=FILL)
        words = f"no {modality.upper()}" if data is None else "not decodable"
        draw.text((left + side / 2, top + side / 2), words, fill=INK, font=font(TEXT), anchor="mm")
        return
    if image.width != image.height:
        draw.rectangle((left, top, left + side - 1, top + side - 1), fill=FILL)
    sheet.paste(image, (left + (side - image.width) // 2, top + (side - image.height) // 2))
    label = modality.upper()
    draw.rectangle((left, top, left + font(TEXT).getlength(label) + 12, top + LINE), fill="#1f2328")
    draw.text((left + 6, top + LINE / 2), label, fill="#ffffff", font=font(TEXT), anchor="lm")


def _decoded(data: bytes, side: int) -> Image.Image | None:
    """The image within a square of `side` pixels; None if it cannot be decoded."""
    try:
        images.measure(data)
        with open_image(data) as encoded:
            encoded.draft("RGB", (side, side))  # a large JPEG is decoded at half, a quarter or an eighth of its size
            image = encoded.convert("RGB")
    except Exception:  # damage that only a decoder sees; Pillow raises almost anything
        return None
    scale = side / max(image.size)
    # small ones are enlarged without smoothing: their pixels are what there is
    method = Image.Resampling.NEAREST if scale > 1 else Image.Resampling.LANCZOS
    return image.resize((max(1, round(image.width * scale)), max(1, round(image.height * scale))), method)


def _text(sample: Shown, width: int) -> list[tuple[str, str]]:
    """Lines of text with their colours: the prompt of each modality, once if all have the same."""
    held = {m: prompt for m, prompt in sample.prompts.items() if sample.images[m] is not None}
    if len(set(held.values())) == 1 and len(held) > 1:
        held = {"/".join(held): next(iter(held.values()))}
    lines = []
    for modality, prompt in held.items():
        name = "" if len(sample.images) == 1 else modality.upper().replace("/", ", ") + ": "
        for line in wrapped(name + (prompt or "(no prompt)"), font(TEXT), width, LINES):
            lines.append((line, COLOURS.get(modality, INK) if len(sample.images) > 1 else INK))
    return lines
