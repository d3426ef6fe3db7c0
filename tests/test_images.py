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
    frame = data.index(b"\xff\xc0")
    data[frame + 5 : frame + 9] = (30_000).to_bytes(2, "big") * 2
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
    without_tables = bytearray(encoded())
    without_tables[start - 14 + 6] = 0x33  # the scan asks for Huffman tables that there are not
    assert measure(without_tables) == (64, 48)
    with pytest.raises(RejectedImage):
        measure(without_tables, decode=True)


def segments(data):
    """Where each segment of a JPEG's header begins and ends, with its marker; the scan's is the last."""
    start, marker = 2, 0
    while marker != 0xDA:
        marker, length = data[start + 1], int.from_bytes(data[start + 2 : start + 4], "big")
        yield marker, start, start + 2 + length
        start += 2 + length


JPEGS = {
    "a JPEG": encoded(),
    "a grey JPEG": encoded("L"),
    "a CMYK JPEG": encoded("CMYK"),
    "a progressive JPEG": encoded(progressive=True),
    "tables made for the image": encoded(optimize=True),
    "a comment": encoded(comment=b"made by hand"),
    "restart intervals": encoded(restart_marker_rows=1),
}


@pytest.mark.parametrize("name", JPEGS)
def test_a_plain_jpeg_is_not_decoded(name, monkeypatch):
    monkeypatch.setattr(Image, "open", None)
    assert measure(JPEGS[name]) == (64, 48)


def taken_for_whole(data):
    try:
        return measure(data)
    except RejectedImage:
        return None


def size_in_pillow(data):
    try:
        with Image.open(io.BytesIO(data)) as image:
            return image.size
    except (UnidentifiedImageError, OSError):
        return None


@pytest.mark.parametrize("name", JPEGS)
def test_a_changed_byte_of_the_header_is_never_accepted_where_pillow_cannot_open_it(name):
    """Each byte before the scan, with each of its bits changed: a table of 16 bits that has the bytes of one of 8, a
    length that leads into the middle of the next segment, a component too many."""
    data = JPEGS[name]
    *_, (_, _, scan) = segments(data)
    for offset in range(2, scan):
        for bit in range(8):
            changed = bytearray(data)
            changed[offset] ^= 1 << bit
            size = taken_for_whole(changed)
            assert size is None or size == size_in_pillow(changed)


@pytest.mark.parametrize("name", JPEGS)
def test_a_segment_that_does_not_fit_its_length_is_left_to_the_decoder(name, monkeypatch):
    """One byte more or less in it, with a length that says so."""
    data, asked = JPEGS[name], []
    monkeypatch.setattr("conversion.images._decoded_size", lambda data, upright: asked.append(data) or (0, 0))
    for marker, start, end in segments(data):
        if marker != 0xFE:  # a comment is as long as it likes
            for content in (data[start + 4 : end - 1], data[start + 4 : end] + b"\0"):
                changed = data[: start + 2] + (len(content) + 2).to_bytes(2, "big") + content + data[end:]
                measure(changed)
                assert asked.pop() == changed


def test_a_long_header_is_left_to_the_decoder():
    assert measure(encoded(comment=bytes(60_000))) == (64, 48)
    with pytest.raises(RejectedImage):
        measure(encoded(comment=bytes(60_000))[:50_000])
