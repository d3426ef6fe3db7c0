"""Is this image whole, and how large is it?

A plain JPEG (8 bit, Huffman coded: all of upstream's) is judged by its structure alone: its start, its tables, its
dimensions and its end marker. That takes microseconds and catches every truncated file; that its bytes are those of the
release is the CRC's business. Whatever is not a plain JPEG (PNG bytes under `.jpg`, TIFF, a 12-bit JPEG, one with Exif
or any segment that does not fit its own length) is decoded.
"""

from __future__ import annotations

import io

from PIL import Image, UnidentifiedImageError

from conversion.findings import LFS_POINTER
from mmm_rs import IMAGE_FORMATS, image_fault

# Pillow warns above this number of pixels and refuses above twice as many, so a reader of the dataset would stumble.
PIXEL_LIMIT = 89_478_485  # PIL.Image.MAX_IMAGE_PIXELS as Pillow ships it

START, END = b"\xff\xd8", b"\xff\xd9"
SOF0, SOF1, SOF2, DHT, SOS, DQT, DRI = 0xC0, 0xC1, 0xC2, 0xC4, 0xDA, 0xDB, 0xDD
APP0, APP14, COM = 0xE0, 0xEE, 0xFE
PLAIN = frozenset((SOF0, SOF1, SOF2, DHT, SOS, DQT, DRI, APP0, APP14, COM))
ORIENTATION, QUARTER_TURNS = 0x0112, (5, 6, 7, 8)  # the tag of Exif, and its values that swap width and height
LONGEST_HEADER = 4096  # bytes before the scan of a plain JPEG; libjpeg writes some 600


class RejectedImage(Exception):
    """An image that must not be published. `reason` is the report's code, `detail` a sentence for a person."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason, self.detail = reason, detail


def measure(data: bytes | memoryview, decode: bool = False, upright: bool = True) -> tuple[int, int]:
    """Width and height in pixels of an image that is whole.

    `decode` decodes a plain JPEG too, which shows damage inside the picture that its structure does not. `upright`: the
    size as readers see the image, who turn it as its Exif says; otherwise as it is stored.

    Raises RejectedImage: `empty`, `not_an_image`, `too_many_scans`, `no_end_marker`, `too_many_pixels`,
    `not_decodable`.
    """
    if not len(data):
        raise RejectedImage("empty", "the file has no bytes")
    if bytes(data[: len(LFS_POINTER)]) == LFS_POINTER:
        raise RejectedImage("lfs_pointer", "the file is a git-lfs pointer: its image was not fetched")
    if bytes(data[:2]) == START:
        if fault := image_fault(data):
            raise RejectedImage("too_many_scans", fault)
        size = _jpeg_size(data)
        if size and not decode:
            return size
    return _decoded_size(data, upright)


def _jpeg_size(data: bytes | memoryview) -> tuple[int, int] | None:
    """(width, height) of a plain JPEG, None where only a decoder can tell."""
    head = bytes(data[:LONGEST_HEADER])  # the parts of bytes are got at twice as fast as those of a memoryview
    start, following, end = 2, 2, len(head)
    size: tuple[int, int] | None = None
    tables = quantised = False
    while start + 4 <= end:
        marker = head[start + 1]
        if head[start] != 0xFF or marker not in PLAIN:
            return None
        begin, following = start + 4, start + 2 + (head[start + 2] << 8 | head[start + 3])
        if following > end:
            break
        if not _is_plain(marker, head, begin, following):
            return None
        if marker == SOS:
            _check_end(data, start)
            return size if size and tables and quantised and all(size) else None
        if marker == DHT:
            tables = True
        elif marker == DQT:
            quantised = True
        elif marker <= SOF2:
            if size:
                return None
            size = (head[begin + 3] << 8 | head[begin + 4], head[begin + 1] << 8 | head[begin + 2])
            _check_pixels(*size)
        start = following
    if max(start + 4, following) <= len(data):  # the header goes on after `head`
        return None
    raise RejectedImage("no_end_marker", f"the JPEG ends inside its header, after {end} bytes")


def _is_plain(marker: int, data: bytes, start: int, end: int) -> bool:
    """Whether what a segment holds, `data[at:end]`, takes just its length and is of the usual kind (ITU T.81 B.2)."""
    length = end - start
    if marker == DQT:  # 8-bit tables, numbered 0 to 3
        return length > 0 and length % 65 == 0 and max(data[start:end:65]) < 4
    if marker == DHT:  # each: a class and number, how many codes there are of 1 to 16 bits, a byte for each code
        while start + 17 <= end and not data[start] & 0xEC:
            start += 17 + sum(data[start + 1 : start + 17])
        return length > 0 and start == end
    if marker <= SOF2:  # 8 bits; grey, YCbCr or CMYK; three bytes for each component
        return length >= 6 and data[start] == 8 and data[start + 5] in (1, 3, 4) and length == 6 + 3 * data[start + 5]
    if marker == SOS:
        return length > 0 and length == 4 + 2 * data[start]
    if marker == APP0:
        return length == 14 and data[start : start + 5] == b"JFIF\0"
    if marker == APP14:
        return length == 12 and data[start : start + 5] == b"Adobe"
    return length == 2 if marker == DRI else length >= 0


def _check_end(data: bytes | memoryview, scan: int) -> None:
    """The end marker must follow the scan; the one of an embedded thumbnail stands before it. Bytes may follow."""
    if bytes(data[-2:]) != END and bytes(data[scan:]).rfind(END) < 0:
        raise RejectedImage("no_end_marker", f"the JPEG has no end marker: it is cut after {len(data)} bytes")


def _check_pixels(width: int, height: int) -> None:
    if width * height > PIXEL_LIMIT:
        raise RejectedImage(
            "too_many_pixels", f"{width} x {height} pixels are more than Pillow's limit of {PIXEL_LIMIT}"
        )


def _decoded_size(data: bytes | memoryview, upright: bool) -> tuple[int, int]:
    try:
        with Image.open(io.BytesIO(data), formats=IMAGE_FORMATS) as image:
            _check_pixels(*image.size)
            image.load()
            width, height = image.size
            turned = upright and image.getexif().get(ORIENTATION) in QUARTER_TURNS
            return (height, width) if turned else (width, height)
    except UnidentifiedImageError:
        raise RejectedImage("not_an_image", f"starts with {bytes(data[:8])!r}: not a known image format") from None
    except Image.DecompressionBombError as error:
        raise RejectedImage("too_many_pixels", str(error)) from None
    except RejectedImage:
        raise
    except Exception as error:  # Pillow's plugins raise almost anything on broken bytes
        raise RejectedImage("not_decodable", f"{type(error).__name__}: {error}") from None
