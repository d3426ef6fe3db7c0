"""An image is published only if it is whole; what is odd but whole is published too."""

import io

import numpy as np
import pytest
from PIL import Image, UnidentifiedImageError

from conversion.images import RejectedImage, measure


def encoded(mode="RGB", size=(64, 48), format="JPEG", **options):
    noise = np.random.default_rng(0).integers(0, 255, (size[1], size[0], 4), np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(noise, "RGBA").convert("RGB").convert(mode).save(buffer, format, **options)
    return buffer.getvalue()


def with_thumbnail():
    """A JPEG whose APP1 segment holds a whole JPEG of its own, end marker and all."""
    jpeg, small = encoded(), encoded(size=(8, 8))
    return jpeg[:2] + b"\xff\xe1" + (len(small) + 2).to_bytes(2, "big") + small + jpeg[2:]


def with_16_bits():
    buffer = io.BytesIO()
    Image.fromarray(np.arange(64 * 48, dtype=np.uint16).reshape(48, 64)).save(buffer, "PNG")
    return buffer.getvalue()


WHOLE = {
    "a JPEG": encoded(),
    "a grey JPEG": encoded("L"),
    "a CMYK JPEG": encoded("CMYK"),
    "a progressive JPEG": encoded(progressive=True),
    "bytes after the end marker": encoded() + b"trailing bytes",
    "a thumbnail inside": with_thumbnail(),
    "PNG bytes": encoded(format="PNG"),
    "a 16-bit PNG": with_16_bits(),
    "TIFF bytes": encoded(format="TIFF"),
    "WebP bytes": encoded(format="WEBP"),
}


@pytest.mark.parametrize("name", WHOLE)
@pytest.mark.parametrize("decode", [False, True])
def test_whole_images_are_measured(name, decode):
    assert measure(WHOLE[name], decode) == (64, 48)
    assert measure(memoryview(WHOLE[name]), decode) == (64, 48)


def large():
    """A JPEG header that claims 30,000 x 30,000 pixels."""
    data = bytearray(encoded())
    at = data.index(b"\xff\xc0")
    data[at + 5 : at + 9] = (30_000).to_bytes(2, "big") * 2
    return bytes(data)


REJECTED = {
    "empty": b"",
    "not_an_image": b"this is a text file called .jpg",
    "no_end_marker": encoded()[:-100],
    "too_many_pixels": large(),
    "not_decodable": encoded(format="PNG")[:-200],
}


@pytest.mark.parametrize("reason", REJECTED)
def test_what_is_not_whole_is_rejected_with_its_reason(reason):
    with pytest.raises(RejectedImage) as error:
        measure(REJECTED[reason])
    assert error.value.reason == reason


def test_every_cut_of_a_jpeg_is_rejected():
    for data in (encoded(), with_thumbnail(), encoded(progressive=True)):
        for length in range(2, len(data) - 1):
            with pytest.raises(RejectedImage):
                measure(data[:length])


@pytest.mark.parametrize("marker", range(0x02, 0xC0))
def test_a_reserved_marker_in_the_header_is_left_to_pillow(marker):
    data = bytearray(encoded())
    data[data.index(b"\xff\xc4") + 1] = marker
    with pytest.raises(UnidentifiedImageError):
        Image.open(io.BytesIO(data))
    with pytest.raises(RejectedImage):
        measure(bytes(data))


def test_decoding_finds_what_structure_cannot_show():
    data = bytearray(encoded())
    start = data.index(b"\xff\xda") + 14
    data[start:-2] = b"\xff\x00" * ((len(data) - 2 - start) // 2) + bytes((len(data) - start) % 2)
    assert measure(bytes(data)) == (64, 48)
    header_only = encoded()[: encoded().index(b"\xff\xda")] + b"\xff\xda\x00\x02\xff\xd9"
    assert measure(header_only) == (64, 48)
    with pytest.raises(RejectedImage):
        measure(header_only, decode=True)
