"""The card's pictures, each made from the converted folder itself.

`pairs.png` and `prompts.png` are drawn from the index, `samples-<Subset>.jpg` from the bytes of a few samples, all
with Pillow, which is here anyway: a plotting library takes longer to load than a small release takes to convert. Every
picture has an opaque light ground, because the hub and GitHub show one file on light and on dark pages alike.
"""

from __future__ import annotations

import functools
import io
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
from PIL import Image, ImageDraw, ImageFont

from conversion import images, layout
from conversion.disk import write_file
from conversion.errors import OutputError
from dataset_card.fields import LEVEL_NAMES
from dataset_card.statistics import WORDS_A_BIN, Converted
from mmm_rs import MODALITIES, PROMPT_COLUMNS, SHARD_NAME, open_image

COLOURS = {"rgb": "#2a78b5", "nir": "#c8553d", "sar": "#5b5f66"}  # apart in lightness too, for the colour-blind
GROUND, INK, FAINT = "#f6f7f9", "#1f2328", "#d0d5db"
HALO: dict[str, Any] = {"stroke_width": 3, "stroke_fill": GROUND}  # keeps a number legible across a grid line
LOG_FROM = 30  # ratio of the largest to the smallest bar above which the small one cannot be seen on a linear axis

WIDTH = 1500  # pixels of the two charts: nearly twice what a card shows, for screens that are dense
BAR = 34  # pixels from bar to bar

SHEET, GAP = 984, 12  # pixels: about the width that a card gives a picture, so that its text stays legible
ACROSS = {1: 4, 2: 2, 3: 2}  # modalities -> samples side by side
ROWS = 2  # rows of samples in a contact sheet
TEXT, LINE = 15, 19  # pixels: height of the letters, distance of the lines
LOOKED_AT = 2_000  # samples among which those shown are chosen; the order of the shards is random

Read = Callable[[str, int, int], bytes]
"""Bytes of a shard, by its name, their offset and their number."""


def write_figures(converted: Converted, read: Read | None = None) -> list[str]:
    """Write the pictures to `assets/`; returns their paths within the folder, in the order of the card.

    `read`: where the shards are read from, instead of the folder.
    """
    pictures = {layout.PAIRS_FIGURE: pairs_figure(converted), layout.PROMPTS_FIGURE: prompts_figure(converted)}
    for subset in converted.subsets:
        if sheet := contact_sheet(choose(converted.out, subset, read)):
            pictures[layout.samples_figure(subset)] = sheet
    for name, data in pictures.items():
        write_file(converted.out / name, data)
    for old in layout.FIGURES - pictures.keys():
        (converted.out / old).unlink(missing_ok=True)  # of a subset that is gone
    return list(pictures)


def pairs_figure(converted: Converted) -> bytes:
    """PNG: pairs by subset and by GSD level, each by modality, with the number at the end of each bar."""
    every = converted.statistics.values()
    by_subset = {name: statistics.pairs for name, statistics in converted.statistics.items()}
    by_level = {
        level_name: {m: sum(s.levels[m][level] for s in every) for m in MODALITIES}
        for level, level_name in LEVEL_NAMES.items()
    }
    by_level = {name: pairs for name, pairs in by_level.items() if any(pairs.values())}
    shown = [m for m in MODALITIES if any(pairs[m] for pairs in by_subset.values())]
    height = max(_bars_height(by_subset), _bars_height(by_level)) + 140
    image, draw = _canvas(WIDTH, height)
    _bars(draw, 40, 30, WIDTH // 2 - 60, by_subset, "Pairs by subset")
    _bars(draw, WIDTH // 2 + 20, 30, WIDTH // 2 - 60, by_level, "Pairs by GSD level of the sample")
    at = 40.0
    for modality in shown:  # the legend
        draw.rectangle((at, height - 48, at + 22, height - 26), fill=COLOURS[modality])
        draw.text((at + 32, height - 37), modality.upper(), fill=INK, font=_font(24), anchor="lm")
        at += 32 + _font(24).getlength(modality.upper()) + 40
    return _png(image)


def _bars_height(groups: dict[str, dict[str, int]]) -> int:
    return 60 + sum(BAR * max(1, sum(map(bool, pairs.values()))) + 20 for pairs in groups.values())


def _bars(
    draw: ImageDraw.ImageDraw, left: int, top: int, width: int, groups: dict[str, dict[str, int]], title: str
) -> None:
    """Horizontal bars, a group a row, a bar a modality; on a logarithmic scale where the largest hides the smallest."""
    bottom = top + _bars_height(groups)
    numbers = [number for pairs in groups.values() for number in pairs.values() if number]
    log = bool(numbers) and max(numbers) > LOG_FROM * min(numbers)
    draw.text((left, top), title + (" (log scale)" if log else ""), fill=INK, font=_font(30))
    start = left + max((_font(24).getlength(name) for name in groups), default=0) + 16
    room = left + width - start - _font(24).getlength(f"{max(numbers, default=0):,}") - 16
    low = math.floor(math.log10(min(numbers))) - 0.3 if log else 0.0
    scale = room / (math.log10(max(numbers)) - low if log else max(numbers, default=1))

    def length(number: int) -> float:
        return ((math.log10(number) - low) if log else number) * scale

    y = top + 60
    for power in range(math.ceil(low), math.floor(math.log10(max(numbers))) + 1) if log else ():
        x = start + length(10**power)
        draw.line((x, y - 8, x, bottom), fill=FAINT, width=2)
        draw.text((x, bottom + 4), _short_number(10**power), fill=INK, font=_font(20), anchor="ma")
    for name, pairs in groups.items():
        held = [m for m in MODALITIES if pairs[m]]
        middle = y + BAR * max(1, len(held)) / 2 - 2
        draw.text((start - 14, middle), name, fill=INK, font=_font(24), anchor="rm")
        for modality in held:
            end = start + length(pairs[modality])
            draw.rectangle((start, y, end, y + BAR - 5), fill=COLOURS[modality])
            draw.text(
                (end + 10, y + BAR / 2 - 2), f"{pairs[modality]:,}", fill=INK, font=_font(24), anchor="lm", **HALO
            )
            y += BAR
        y += 20 if held else BAR + 20
    draw.line((start, top + 52, start, bottom), fill=INK, width=2)


def prompts_figure(converted: Converted) -> bytes:
    """PNG: how long the prompts are, in words, a panel a subset."""
    across = min(len(converted.statistics), 4)
    down = math.ceil(len(converted.statistics) / across)
    wide, high = (WIDTH - 80) // across, 270
    image, draw = _canvas(WIDTH, 100 + high * down)
    draw.text((40, 30), "Length of the prompts in words: share of the subset's pairs", fill=INK, font=_font(30))
    longest = max(max(s.words, default=0) for s in converted.statistics.values()) + WORDS_A_BIN
    step = next(step for step in (5, 10, 20, 50, 100, 200, 500, 10**9) if longest <= 5 * step)
    for number, (name, counted) in enumerate(converted.statistics.items()):
        row, column = divmod(number, across)
        left, top = 40 + column * wide, 90 + row * high
        right, base = left + wide - 50, top + high - 60
        pairs = sum(counted.words.values())
        tallest = max(counted.words.values(), default=0)
        named = min((start for start, count in counted.words.items() if count == tallest), default=None)
        draw.text((left, top), name, fill=INK, font=_font(26))
        for start, count in sorted(counted.words.items()):
            x = left + (right - left) * start / longest
            bar = (right - left) * WORDS_A_BIN / longest
            draw.rectangle((x + 1, base - 140 * count / tallest, x + max(bar - 1, 2), base), fill=COLOURS["rgb"])
            if start == named:
                draw.text(
                    (x + bar / 2, base - 146), f"{100 * count / pairs:.0f}%", fill=INK, font=_font(20), anchor="ms"
                )
        draw.line((left, base, right, base), fill=INK, width=2)
        for words in range(0, longest + 1, step):
            draw.text(
                (left + (right - left) * words / longest, base + 8), str(words), fill=INK, font=_font(20), anchor="ma"
            )
    return _png(image)


@functools.cache
def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """The typeface that comes with Pillow, `size` in pixels."""
    return ImageFont.load_default(size)


def _canvas(width: int, height: int) -> tuple[Image.Image, ImageDraw.ImageDraw]:
    image = Image.new("RGB", (width, height), GROUND)
    return image, ImageDraw.Draw(image)


def _png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.quantize(64, Image.Quantize.FASTOCTREE, dither=Image.Dither.NONE).save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


def _short_number(value: int) -> str:
    for bound, letter in ((10**6, "M"), (10**3, "k")):
        if value >= bound:
            return f"{value // bound}{letter}"
    return str(value)


@dataclass(frozen=True)
class Shown:
    """One sample of a contact sheet: images (encoded) by modality, None where the subset has it but not this sample."""

    key: str
    images: dict[str, bytes | None]
    prompts: dict[str, str | None]


def choose(out: Path, subset: str, read: Read | None = None) -> list[Shown]:
    """Samples enough for a contact sheet: whole ones first, then as many different labels as there are."""
    labels = ["weather", "gsd_level", "category"]
    places = [f"{modality}_{name}" for modality in MODALITIES for name in ("offset", "size")]
    columns = ["key", "shard", *labels, *PROMPT_COLUMNS.values(), *places]
    with pq.ParquetFile(out / layout.index_name(subset)) as index:
        batch = next(index.iter_batches(LOOKED_AT, columns=columns), None)
    rows = batch.to_pylist() if batch else []
    modalities = [m for m in MODALITIES if any(row[f"{m}_size"] is not None for row in rows)]
    number = ROWS * ACROSS[max(len(modalities), 1)]
    seen: dict[tuple, int] = {}
    ranked = []
    for at, row in enumerate(rows):
        kind = tuple(row[label] for label in labels)
        seen[kind] = seen.get(kind, -1) + 1
        missing = sum(row[f"{m}_size"] is None for m in modalities)
        ranked.append((missing, seen[kind], at))
    chosen = sorted(at for *_, at in sorted(ranked)[:number])
    return [_shown(rows[at], modalities, read or functools.partial(_read, out)) for at in chosen]


def _shown(row: dict, modalities: Sequence[str], read: Read) -> Shown:
    images: dict[str, bytes | None] = dict.fromkeys(modalities)
    for modality in modalities:
        if row[f"{modality}_size"] is not None:
            images[modality] = read(row["shard"], row[f"{modality}_offset"], row[f"{modality}_size"])
    return Shown(row["key"], images, {m: row[PROMPT_COLUMNS[m]] for m in modalities})


def _read(out: Path, name: str, offset: int, length: int) -> bytes:
    """Bytes of a shard. An index can name any file and any place, so neither is believed."""
    path = out / name
    if not SHARD_NAME.fullmatch(name) or not path.is_file() or not 0 <= offset <= path.stat().st_size - length:
        raise OutputError(
            f"{out}: the index names {length:,} bytes at {offset:,} of {name}, which this folder does not have. Run "
            "`mmm-rs verify` to see what is wrong"
        )
    try:
        with open(out / name, "rb") as shard:
            shard.seek(offset)
            return shard.read(length)
    except OSError as error:
        raise OutputError(
            f"{out / name}: cannot be read: {error.strerror}. The pictures show images of the shards; "
            "convert again with --overwrite"
        ) from None


def contact_sheet(samples: Sequence[Shown]) -> bytes | None:
    """JPEG: the modalities of each sample side by side, its prompts below. None without a sample."""
    if not samples:
        return None
    modalities = list(samples[0].images)
    across = ACROSS[len(modalities)]
    tile = (SHEET - GAP) // across - GAP
    tile = (tile - 2 * (len(modalities) - 1)) // len(modalities)
    width = (tile + 2) * len(modalities) - 2
    texts = [_text(sample, _font(TEXT), width) for sample in samples]
    rows = [range(start, min(start + across, len(samples))) for start in range(0, len(samples), across)]
    heights = [tile + LINE * max(len(texts[number]) for number in row) + 3 * GAP for row in rows]
    image, draw = _canvas(SHEET, GAP + sum(heights))
    top = GAP
    for row, height in zip(rows, heights, strict=True):
        for column, number in enumerate(row):
            left = GAP + column * (width + GAP)
            for place, modality in enumerate(modalities):
                _tile(image, draw, samples[number].images[modality], modality, left + place * (tile + 2), top, tile)
            for line, (text, colour) in enumerate(texts[number]):
                draw.text((left, top + tile + 8 + LINE * line), text, fill=colour, font=_font(TEXT))
        top += height
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=82, optimize=True)
    return buffer.getvalue()


def _tile(
    sheet: Image.Image, draw: ImageDraw.ImageDraw, data: bytes | None, modality: str, left: int, top: int, side: int
) -> None:
    if data is None:
        draw.rectangle((left, top, left + side - 1, top + side - 1), outline=FAINT, width=1)
        draw.text((left + side / 2, top + side / 2), f"no {modality.upper()}", fill=INK, font=_font(TEXT), anchor="mm")
        return
    try:
        images.measure(data)
        with open_image(data) as encoded:
            encoded.draft("RGB", (side, side))  # a large JPEG is decoded at half, a quarter or an eighth of its size
            image = encoded.convert("RGB")
    except Exception:  # damage that only a decoder sees; Pillow raises almost anything
        draw.text((left + side / 2, top + side / 2), "not decodable", fill=INK, font=_font(TEXT), anchor="mm")
        return
    scale = side / max(image.size)
    # small ones are enlarged without smoothing: their pixels are what there is
    how = Image.Resampling.NEAREST if scale > 1 else Image.Resampling.LANCZOS
    image = image.resize((max(1, round(image.width * scale)), max(1, round(image.height * scale))), how)
    sheet.paste(image, (left + (side - image.width) // 2, top + (side - image.height) // 2))


def _text(sample: Shown, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, width: int) -> list[tuple[str, str]]:
    """Lines of text with their colours: the prompt of each modality, one prompt once where all have the same."""
    held = {m: prompt for m, prompt in sample.prompts.items() if sample.images[m] is not None}
    if len(set(held.values())) == 1 and len(held) > 1:
        held = {"/".join(held): next(iter(held.values()))}
    lines = []
    for modality, prompt in held.items():
        name = "" if len(sample.images) == 1 else modality.upper().replace("/", ", ") + ": "
        for line in _wrap(name + (prompt or "(no prompt)"), font, width):
            lines.append((line, COLOURS.get(modality, INK) if len(sample.images) > 1 else INK))
    return lines


def _wrap(text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, width: int, most: int = 8) -> list[str]:
    """Lines not wider than `width` pixels, `most` of them at the most."""
    lines = [""]
    for word in text[: most * width].split():  # no letter is narrower than a pixel
        if len(lines) > most:
            break
        longer = f"{lines[-1]} {word}".strip()
        if font.getlength(longer) <= width or not lines[-1]:
            lines[-1] = longer
        else:
            lines.append(word)
    for at, line in enumerate(lines):
        while (length := font.getlength(line)) > width:
            line = line[: min(len(line) - 1, int(len(line) * width / length) + 1)]
        lines[at] = line
    if len(lines) > most:
        lines = [*lines[: most - 1], lines[most - 1].rstrip(",.") + " ..."]
    return lines
