"""What the card's pictures are drawn with: transparent canvases, a typeface, and colours for light and dark pages.

The hub and GitHub show one file on both kinds of page. So the ground is transparent, and every colour has about the
same luminance (0.2): its contrast is about 4 to 1 on white and 4.5 to 1 on the dark pages of both. Pillow draws, which
is here anyway: a plotting library takes longer to load than a small release takes to convert.
"""

from __future__ import annotations

import functools
import io

from PIL import Image, ImageColor, ImageDraw, ImageFont

INK = "#78828e"  # of text and axes
COLOURS = {"rgb": "#2a7fc4", "nir": "#c9632f", "sar": "#0f8f7f"}  # distinct for the colour-blind too
FAINT = (*ImageColor.getrgb(INK), 80)  # of grid lines
FILL = (*ImageColor.getrgb(INK), 46)  # of a place without an image

Font = ImageFont.FreeTypeFont | ImageFont.ImageFont


@functools.cache
def font(size: int) -> Font:
    """The typeface that comes with Pillow, `size` in pixels."""
    return ImageFont.load_default(size)


def canvas(width: int, height: int) -> tuple[Image.Image, ImageDraw.ImageDraw]:
    """A transparent picture. Its ground has the colour of the ink, so that letters have no fringe of another colour."""
    image = Image.new("RGBA", (width, height), (*ImageColor.getrgb(INK), 0))
    return image, ImageDraw.Draw(image)


def png(image: Image.Image) -> bytes:
    """For charts: few colours, sharp edges."""
    buffer = io.BytesIO()
    image.quantize(64, Image.Quantize.FASTOCTREE, dither=Image.Dither.NONE).save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


def webp(image: Image.Image) -> bytes:
    """For photographs on a transparent ground."""
    buffer = io.BytesIO()
    image.save(buffer, "WEBP", quality=80, method=4)
    return buffer.getvalue()


def wrapped(text: str, typeface: Font, width: int, most: int) -> list[str]:
    """The text in lines not wider than `width` pixels, at most `most` of them. Words that are too long are cut."""
    lines = [""]
    for word in text[: most * width].split():  # no letter is narrower than a pixel
        if len(lines) > most:
            break
        longer = f"{lines[-1]} {word}".strip()
        if typeface.getlength(longer) <= width or not lines[-1]:
            lines[-1] = longer
        else:
            lines.append(word)
    lines = [cut(line, typeface, width) for line in lines]
    if len(lines) > most:
        lines = [*lines[: most - 1], lines[most - 1].rstrip(",.") + " ..."]
    return lines


def cut(line: str, typeface: Font, width: int) -> str:
    """As much of the line as is not wider than `width` pixels."""
    while (length := typeface.getlength(line)) > width:
        line = line[: min(len(line) - 1, int(len(line) * width / length) + 1)]
    return line
