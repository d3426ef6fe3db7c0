"""Draw a row with matplotlib: its images side by side, and below them the prompts with their parts in colour.

    from mmm_rs_cli.plot import plot

    plot(row)  # in a notebook
    plot(row).savefig("sample.png")

Needs the extra `plot`: `pip install 'mmm-rs[plot]'`.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from conversion.prompts import marked
from dataset_card.fields import MODALITY_NAMES
from mmm_rs_cli.parts import PARTS
from mmm_rs_cli.rows import read_row

if TYPE_CHECKING:
    from matplotlib.figure import Figure

IMAGE = 3.6  # inches, width and height of an image
MARGIN = 0.15  # inches, around everything
HEAD = 0.55  # inches, for key and labels
TITLE = 0.3  # inches, for the name of a modality
FONT, LINE = 9, 0.19  # points; inches from one baseline to the next
INK, FAINT = "#1f2328", "#59636e"
LONGEST = 1_000  # characters of a prompt that are drawn

Word = tuple[str, str, float]  # text, colour, inches from the left margin


def plot(row: Mapping[str, Any], figure: Figure | None = None) -> Figure:
    """Draw one row.

    Args:
        row: A row of the builder or of `mmm_rs.get`, or of the shards loaded without code.
        figure: Where to draw, for example `plt.figure()`; its size is set. Without one a figure of its own, which
            notebooks show.

    Returns:
        The figure.

    Raises:
        ImportError: matplotlib is not installed.
        ValueError: It is not a row of this dataset.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError:
        raise ImportError("plot needs matplotlib: pip install 'mmm-rs[plot]'") from None

    class RowFigure(Figure):
        """Shown by notebooks as it is, without pyplot."""

        def _repr_png_(self) -> bytes:
            buffer = io.BytesIO()
            self.savefig(buffer, format="png", dpi=100)
            return buffer.getvalue()

    _check_is_one_row(row)
    shown = read_row(row)
    figure = RowFigure() if figure is None else figure
    width = max(1, len(shown.views)) * (IMAGE + MARGIN) + MARGIN
    renderer = FigureCanvasAgg(Figure(dpi=figure.dpi)).get_renderer()  # its hints widen words, as when they are drawn
    lines = [
        line
        for modalities, prompt in shown.prompts
        for line in _lines(modalities and f"{modalities}: ", prompt, width - 2 * MARGIN, renderer)
    ]
    height = HEAD + TITLE + IMAGE + MARGIN + len(lines) * LINE + MARGIN
    figure.set_size_inches(width, height)

    def write(text: str, left: float, baseline: float, colour: str, **style: Any) -> None:
        figure.text(
            left / width,
            1 - baseline / height,
            text,
            color=colour,
            va="baseline",
            parse_math=False,
            **{"fontsize": FONT, **style},
        )

    def write_head(text: str, baseline: float, colour: str, weight: str) -> None:
        room = width - 2 * MARGIN
        wide = _width(text, renderer) * (1.2 if weight == "bold" else 1.0)
        write(text, MARGIN, baseline, colour, weight=weight, fontsize=FONT * min(1.1, room / max(wide, 0.1)))

    write_head(_plain(shown.key), MARGIN + 0.7 * LINE, INK, "bold")
    write_head(" · ".join(map(_plain, shown.labels)), MARGIN + 1.9 * LINE, FAINT, "normal")
    for number, view in enumerate(shown.views):
        left, top = MARGIN + number * (IMAGE + MARGIN), HEAD + TITLE
        write(f"{view.modality.upper()}, {MODALITY_NAMES[view.modality]}", left, HEAD + TITLE - 0.4 * LINE, INK)
        axes = figure.add_axes((left / width, 1 - (top + IMAGE) / height, IMAGE / width, IMAGE / height))
        axes.set_axis_off()
        if view.image is None:
            axes.text(0.5, 0.5, f"no {view.modality.upper()}", ha="center", va="center", color=FAINT)
        else:
            axes.imshow(view.image.convert("RGB"))
    for number, line in enumerate(lines):
        for text, colour, left in line:
            write(text, MARGIN + left, HEAD + TITLE + IMAGE + MARGIN + (number + 0.7) * LINE, colour)
    return figure


def _check_is_one_row(value: Any) -> None:
    """Raises ValueError for a dataset or several rows. Only the type is named: the text of one can have megabytes."""
    if isinstance(value, Mapping) and isinstance(value.get("key", value.get("__key__", "")), str):
        return
    kind = type(value).__name__
    if isinstance(value, Mapping) and ("key" in value or "__key__" in value):
        raise ValueError("plot takes one row; you gave a batch of rows: plot(dataset[0]) or plot(next(iter(dataset)))")
    article = "an" if kind[0] in "AEIOUaeiou" else "a"
    raise ValueError(f"plot takes one row; you gave {article} {kind}: plot(next(iter(data)))")


def _lines(name: str, prompt: str, width: float, renderer: Any) -> Iterator[list[Word]]:
    """A prompt broken into lines that are no wider than `width` inches, each word with its part's colour."""
    line: list[Word] = []
    left = 0.0
    for text, colour in _words(name, prompt):
        size = _width(text, renderer)
        if line and left + _width(text.rstrip(), renderer) > width:
            yield line
            line, left = [], 0.0
            text = text.lstrip()
            size = _width(text, renderer)
        line.append((text, colour, left))
        left += size
    if line:
        yield line


def _words(name: str, prompt: str) -> Iterator[tuple[str, str]]:
    """The words of a prompt in their colours, each with the spaces behind it."""
    if name:
        yield name, INK
    for field, text in marked(prompt[:LONGEST]):
        colour = PARTS[field].colour if field else FAINT
        word = ""
        for letter in _plain(text):
            if word.endswith(" ") and letter != " ":
                yield word, colour
                word = ""
            word += letter
        if word:
            yield word, colour
    if len(prompt) > LONGEST:
        yield f" ... and {len(prompt) - LONGEST:,} more characters", FAINT


def _plain(text: str) -> str:
    """Text without characters that no font draws."""
    return "".join(letter if letter.isprintable() else " " for letter in text)


def _width(text: str, renderer: Any) -> float:
    """Inches that a text takes."""
    from matplotlib.font_manager import FontProperties

    # Spaces at the end are not measured, so they are measured between two letters.
    inner, outer = (
        renderer.get_text_width_height_descent(part, FontProperties(size=FONT), False)[0]
        for part in (f"|{text}|", "||")
    )
    return (inner - outer) / renderer.dpi
