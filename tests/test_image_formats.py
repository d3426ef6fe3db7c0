"""Which bytes a decoder is given. A release, a folder or a hub chooses them, so nothing but known formats is opened."""

from __future__ import annotations

import io

import pytest
from PIL import Image, UnidentifiedImageError

import mmm_rs
from conversion import images

KNOWN = ("JPEG", "PNG", "TIFF", "BMP", "GIF", "WEBP", "JPEG2000", "MPO")


def encoded(form: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    Image.effect_noise((48, 32), 60).convert("RGB").save(buffer, form, **options)
    return buffer.getvalue()


def with_scans(count: int) -> bytes:
    """A progressive JPEG with its last scan again and again; libjpeg takes it."""
    data = encoded("JPEG", progressive=True)
    last = data.rfind(b"\xff\xda")
    return data[:-2] + data[last:-2] * (count - data.count(b"\xff\xda")) + b"\xff\xd9"


@pytest.mark.parametrize("form", KNOWN)
def test_known_formats_are_opened(form):
    data = encoded(form)
    assert mmm_rs.image_fault(data) is None
    assert mmm_rs.open_image(data).size == images.measure(data) == (48, 32)


@pytest.mark.parametrize("form", ["EPS", "PDF", "PPM", "ICO", "PCX", "TGA", "SGI"])
def test_others_are_not(form):
    data = encoded(form)
    with pytest.raises(UnidentifiedImageError, match="not a known image format"):
        mmm_rs.open_image(data)
    with pytest.raises(images.RejectedImage) as rejected:
        images.measure(data)
    assert rejected.value.reason == "not_an_image"


def test_a_jpeg_may_have_the_scans_that_encoders_make():
    for options in ({}, {"progressive": True}, {"progressive": True, "quality": 100}, {"subsampling": 0}):
        data = encoded("JPEG", **options)
        assert mmm_rs.image_fault(data) is None
        assert images.measure(data) == (48, 32)


@pytest.mark.parametrize("where", ["at once", "behind a long header"])
def test_a_jpeg_of_hundreds_of_scans_is_not_decoded(where):
    data = with_scans(300)
    if where == "behind a long header":
        comment = b"\xff\xfe\xff\xff" + b"\xff\xc0 \xff\xda".ljust(65533, b" ")  # that looks like a frame and a scan
        data = data[:2] + comment + data[2:]
    assert Image.open(io.BytesIO(data)).size == (48, 32)  # Pillow would take it
    with pytest.raises(UnidentifiedImageError, match=r"\d+ scans"):
        mmm_rs.open_image(data)
    with pytest.raises(images.RejectedImage) as rejected:
        images.measure(data)
    assert rejected.value.reason == "too_many_scans"


@pytest.mark.parametrize(
    "frame, scan", [(b"\xff\xc0", 1), (b"\xff\xc2", 3)], ids=["one component a scan", "progressive"]
)
def test_the_tables_that_most_jpegs_have_are_no_reason_to_trust_them(frame, scan):
    data = encoded("JPEG")  # with the standard's Huffman tables
    assert b"\xff\xda\x00\x0c\x03" in data
    data = data.replace(b"\xff\xc0\x00\x11", frame + b"\x00\x11").replace(
        b"\xff\xda\x00\x0c\x03", b"\xff\xda\x00\x0c" + bytes([scan])
    )
    assert "300 scans" in (mmm_rs.image_fault(data + data[data.rfind(b"\xff\xda") :] * 299) or "")
