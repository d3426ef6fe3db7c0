"""Is this image whole, and how large is it?

A plain JPEG (8 bit, Huffman coded: all of upstream's) is judged by its structure alone: its start, its tables, its
dimensions and its end marker. That takes microseconds and catches every truncated file; that its bytes are those of the
release is the CRC's business. Whatever is not a plain JPEG (PNG bytes under `.jpg`, TIFF, a 12-bit JPEG) is decoded.
"""

from __future__ import annotations

import io

from PIL import Image, UnidentifiedImageError

# Pillow warns above this number of pixels and refuses above twice as many, so a reader of the dataset would stumble.
PIXEL_LIMIT = 89_478_485  # PIL.Image.MAX_IMAGE_PIXELS as Pillow ships it

# What Pillow may try: formats of photographs. Others (EPS, PDF) would start programs or render documents.
FORMATS = ("JPEG", "PNG", "TIFF", "WEBP", "BMP", "GIF", "JPEG2000")

START, END = b"\xff\xd8", b"\xff\xd9"
SOF0, SOF2, DHT, SOS, DQT = 0xC0, 0xC2, 0xC4, 0xDA, 0xDB
STANDALONE = frozenset((0x01, *range(0xD0, 0xD8)))  # markers without a length: TEM, RST0-RST7


class RejectedImage(Exception):
    """An image that must not be published. `reason` is the report's code, `detail` a sentence for a person."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason, self.detail = reason, detail


def measure(data: bytes | memoryview, decode: bool = False) -> tuple[int, int]:
    """Width and height in pixels of an image that is whole.

    `decode` decodes a plain JPEG as well, which shows damage inside the picture that its structure does not.

    Raises RejectedImage: `empty`, `not_an_image`, `no_end_marker`, `too_many_pixels`, `not_decodable`.
    """
    if not len(data):
        raise RejectedImage("empty", "the file has no bytes")
    if bytes(data[:2]) == START:
        size = _jpeg_size(data)
        if size and not decode:
            return size
    return _decoded_size(data)


def _jpeg_size(data: bytes | memoryview) -> tuple[int, int] | None:
    """(width, height) of a plain JPEG, None where only a decoder can tell."""
    at, end = 2, len(data)
    size: tuple[int, int] | None = None
    plain = tables = quantised = False
    while at + 4 <= end and data[at] == 0xFF:
        marker = data[at + 1]
        if marker == 0xFF or marker in STANDALONE:  # a fill byte may stand before a marker
            at += 1 if marker == 0xFF else 2
            continue
        if marker < SOF0:  # reserved: Pillow refuses it, and what follows is not sure to be a segment
            return None
        length = data[at + 2] << 8 | data[at + 3]
        if SOF0 <= marker <= 0xCF and marker not in (DHT, 0xC8, 0xCC):
            if at + 10 > end:
                break
            size = (data[at + 7] << 8 | data[at + 8], data[at + 5] << 8 | data[at + 6])
            plain = marker <= SOF2 and data[at + 4] == 8 and data[at + 9] in (1, 3, 4)
            _check_pixels(*size)
        elif marker == DHT:
            tables = True
        elif marker == DQT:
            quantised = True
        elif marker == SOS:
            _check_end(data, at)
            return size if size and plain and tables and quantised and all(size) else None
        at += 2 + length
    raise RejectedImage("no_end_marker", f"the JPEG ends inside its header, after {end} bytes")


def _check_end(data: bytes | memoryview, scan: int) -> None:
    """The end marker must follow the scan; the one of an embedded thumbnail stands before it. Bytes may follow."""
    if bytes(data[-2:]) != END and bytes(data[scan:]).rfind(END) < 0:
        raise RejectedImage("no_end_marker", f"the JPEG has no end marker: it is cut after {len(data)} bytes")


def _check_pixels(width: int, height: int) -> None:
    if width * height > PIXEL_LIMIT:
        raise RejectedImage(
            "too_many_pixels", f"{width} x {height} pixels are more than Pillow's limit of {PIXEL_LIMIT}"
        )


def _decoded_size(data: bytes | memoryview) -> tuple[int, int]:
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            _check_pixels(*image.size)
            image.load()
            return image.size
    except UnidentifiedImageError:
        raise RejectedImage("not_an_image", f"starts with {bytes(data[:8])!r}: no image format that is known") from None
    except Image.DecompressionBombError as error:
        raise RejectedImage("too_many_pixels", str(error)) from None
    except RejectedImage:
        raise
    except Exception as error:  # Pillow's plugins raise almost anything on broken bytes
        raise RejectedImage("not_decodable", f"{type(error).__name__}: {error}") from None
