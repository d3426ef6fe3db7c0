"""Synthetic releases of any size: JPEGs of noise or of drawn scenes, with a prompt and a record each.

Of a real release's size in bytes and in number; what tests compare with comes from `tests.releases`, which says why
there are several generators.
"""

from __future__ import annotations

import io
import json
import struct
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

BASES = 64  # different pictures; each image is one of them with another density of pixels in its header, so all differ
DATE = (2024, 8, 9, 12, 0, 0)


def pictures(size: int, target: int) -> list[bytes]:
    """JPEGs of noise over gradients with about `target` bytes."""
    encoded = []
    for seed in range(BASES):
        rng = np.random.default_rng(seed)
        ramp = np.linspace(0, 255, size)[:, None, None] * np.array([1.0, 0.6, 0.3]) * np.ones((size, size, 1))
        quality, data = 95, b""
        noise = rng.normal(0, 18, (size, size, 3))
        image = Image.fromarray(np.clip(ramp + noise, 0, 255).astype(np.uint8))
        while quality > 5 and (not data or len(data) > target):
            buffer = io.BytesIO()
            image.save(buffer, "JPEG", quality=quality)
            data, quality = buffer.getvalue(), quality - 3
        encoded.append(data)
    return encoded


def scenes(size: int, quality: int) -> list[bytes]:
    """JPEGs of the demo's drawn scenes. To a decoder they are like photographs, which noise is not."""
    from mmm_rs_cli.demo import scenes as draw

    paints = (
        lambda ground: draw.airport(ground, size * 0.17),
        lambda ground: draw.farmland(ground, size / 4),
        lambda ground: draw.harbour(ground, size * 0.26),
        lambda ground: draw.city(ground, size / 3),
        lambda ground: draw.town(ground, size / 24),
        draw.coast,
        draw.forest,
        draw.mountains,
    )
    drawn = []
    for number in range(BASES):
        view = draw.scene(size, np.random.default_rng(number), paints[number % len(paints)], aligned=False)
        buffer = io.BytesIO()
        Image.fromarray(view.rgb).save(buffer, "JPEG", quality=quality)
        drawn.append(buffer.getvalue())
    return drawn


def unique(base: bytes, number: int) -> bytes:
    """A JPEG that differs from others of the same picture. Like real ones it has no comment in its header."""
    across, down = 1 + number % 60_000, 1 + number // 60_000
    return base[:14] + struct.pack(">HH", across, down) + base[18:]


def write_zip(path: Path, names: Iterator[tuple[str, str]], bases: list[bytes], annotation: str, method: int) -> None:
    """A subset's zip: images with a prompt each, and one array of records."""
    records = []
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w", method, compresslevel=1) as archive:
        for number, (name, prompt) in enumerate(names):
            archive.writestr(zipfile.ZipInfo(name, DATE), unique(bases[number % BASES], number), method)
            records.append(
                json.dumps({"image": name, "prompt": prompt, "category": "airport", "spatial_resolution": 0.4})
            )
        text = "[" + ",\n".join(records) + "]"
        archive.writestr(zipfile.ZipInfo(annotation, DATE), text, zipfile.ZIP_DEFLATED)


def fmow(count: int) -> Iterator[tuple[str, str]]:
    for number in range(count):
        stem = f"airport_{number}_0_rgb_center"
        yield (
            f"fMoW_dataset/{stem}.jpg",
            f"Satellite imagery,  Ultra-high precision resolution, airport, a satellite image "
            f"of an airport with planes number {number} parked beside a long runway, Google Earth, fMoW",
        )


def converted(folder: Path, images: int, bases: list[bytes]) -> Path:
    """A conversion of a release of fMoW with so many images. The release is removed."""
    from conversion import convert
    from dataset_card import card

    source, out = folder / "release" / "fMoW.zip", folder / "MMM-RS"
    write_zip(source, fmow(images), bases, "MMM-RS_fMoW.json", zipfile.ZIP_STORED)
    convert(source, out, card=card)
    source.unlink()
    return out


def sen12(count: int) -> Iterator[tuple[str, str]]:
    for number in range(count):
        for token, folder in (("s2", "RGB"), ("s1", "SAR")):
            yield (
                f"SEN1-2_dataset/SEN1-2_{folder}/ROIs1158_spring_{token}_{number // 1000}_p{number % 1000}.jpg",
                f"Low precision resolution, an image of patch {number} with fields and a river, Sentinel, SEN1-2",
            )
