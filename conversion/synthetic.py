"""Synthetic scenes, and a small synthetic release of them in upstream's layout, for the demo and for the tests.

Nothing here is a photograph: a scene is a map of materials drawn with polygons and noise. Its optical, near-infrared
and radar images are three views of that one map, so they are aligned to the pixel: plants are bright in NIR, water is
dark in NIR and SAR, buildings answer the radar.
"""

from __future__ import annotations

import io
import json
import math
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

JPEG_QUALITY = 85
DATE = (2024, 8, 9, 12, 0, 0)  # of all entries: the same release is the same bytes, whenever it is written
SUFFIX = ".jpg"

# A material as (red, green, blue, near infrared, radar amplitude) on 0-255 and how rough it looks, 0-1. Chosen by eye
# after natural-colour Sentinel-2, its band 8, and Sentinel-1 amplitudes.
MATERIALS: dict[str, tuple[float, float, float, float, float, float]] = {
    "deep_water": (28, 58, 82, 12, 14, 0.04),
    "water": (44, 84, 102, 20, 20, 0.05),
    "shallow": (92, 138, 140, 38, 28, 0.05),
    "sand": (206, 188, 148, 128, 46, 0.06),
    "soil": (146, 116, 86, 98, 74, 0.10),
    "bare": (178, 156, 122, 116, 66, 0.09),
    "wheat": (198, 178, 108, 142, 86, 0.07),
    "crop": (92, 134, 62, 206, 98, 0.08),
    "young_crop": (132, 160, 84, 188, 88, 0.08),
    "lush_crop": (62, 110, 54, 226, 108, 0.09),
    "grass": (112, 136, 74, 182, 80, 0.10),
    "dry_grass": (152, 146, 98, 140, 76, 0.12),
    "forest": (42, 74, 44, 168, 118, 0.24),
    "tree": (46, 82, 44, 190, 128, 0.22),
    "rock": (130, 122, 112, 106, 120, 0.20),
    "snow": (238, 242, 248, 214, 52, 0.03),
    "road": (126, 124, 122, 82, 34, 0.05),
    "runway": (146, 146, 148, 90, 26, 0.04),
    "paint": (236, 236, 232, 168, 40, 0.02),
    "concrete": (186, 182, 174, 122, 62, 0.06),
    "red_roof": (166, 92, 72, 112, 206, 0.08),
    "grey_roof": (148, 150, 154, 106, 214, 0.07),
    "white_roof": (222, 220, 214, 150, 228, 0.04),
    "blue_roof": (94, 122, 158, 108, 218, 0.05),
    "metal": (206, 210, 214, 142, 250, 0.03),
    "deck": (134, 108, 92, 104, 240, 0.06),
    "shadow": (34, 40, 44, 30, 24, 0.04),
    "wake": (164, 190, 196, 66, 42, 0.10),
}
NUMBER = {name: number for number, name in enumerate(MATERIALS)}
TABLE = np.array(list(MATERIALS.values()), np.float32)
ROOFS = ("red_roof", "grey_roof", "white_roof", "blue_roof")
BUILT = (*ROOFS, "metal", "deck")
CROPS = ("soil", "wheat", "crop", "young_crop", "lush_crop", "grass", "bare", "crop", "lush_crop")

Weather = Literal["fog", "night", "snow"]
Point = tuple[float, float]


# ------------------------------------------------------------------------------------------------------------ drawing


def noise(rng: np.random.Generator, size: int, cell: float, octaves: int = 1) -> np.ndarray:
    """Smooth value noise, float32 (size, size), about -1 to 1; features of `cell` pixels and, by octave, half of it."""
    total = np.zeros((size, size), np.float32)
    weight = 1.0
    for _ in range(octaves):
        cells = max(2, round(size / cell)) + 1
        grid = Image.fromarray(rng.uniform(-1, 1, (cells, cells)).astype(np.float32), "F")
        total += weight * np.asarray(grid.resize((size, size), Image.Resampling.BICUBIC))
        weight, cell = weight / 2, max(cell / 2, 1.0)
    return total


@dataclass
class Ground:
    """A square map of materials that is drawn on, in pixels; `relief` lights slopes, 1 is flat."""

    size: int
    rng: np.random.Generator
    image: Image.Image = field(init=False)
    relief: np.ndarray | None = None

    def __post_init__(self) -> None:
        self.image = Image.new("L", (self.size, self.size), NUMBER["grass"])

    @property
    def draw(self) -> ImageDraw.ImageDraw:
        return ImageDraw.Draw(self.image)

    def fill(self, material: str, mask: np.ndarray | None = None) -> None:
        """Cover everything, or where `mask` is true, with a material."""
        if mask is None:
            self.image.paste(NUMBER[material], (0, 0, self.size, self.size))
        else:
            self.image.paste(NUMBER[material], (0, 0), Image.fromarray(mask.astype(np.uint8) * 255, "L"))

    def polygon(self, points: Sequence[Point], material: str) -> None:
        self.draw.polygon(list(points), fill=NUMBER[material])

    def line(self, points: Sequence[Point], width: float, material: str) -> None:
        width = max(1, round(width))
        self.draw.line(list(points), fill=NUMBER[material], width=width, joint="curve")

    def disc(self, at: Point, radius: float, material: str) -> None:
        x, y = at
        self.draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=NUMBER[material])

    def box(self, at: Point, length: float, width: float, angle: float, material: str) -> None:
        self.polygon(box(at, length, width, angle), material)

    def trees(self, count: int, radius: float) -> None:
        """Single trees with a shadow, wherever there is neither road nor roof nor water."""
        here = self.image.load()
        green = {NUMBER[name] for name in ("grass", "dry_grass", "forest", "tree", "crop", "young_crop")}
        for x, y in self.rng.uniform(0, self.size, (count, 2)):
            if here[int(x), int(y)] in green:
                r = radius * self.rng.uniform(0.6, 1.3)
                self.disc((x + r * 0.6, y + r * 0.6), r, "shadow")
                self.disc((x, y), r, "tree")


def box(at: Point, length: float, width: float, angle: float) -> list[Point]:
    """The corners of a rectangle around `at`, turned by `angle` (radians)."""
    cos, sin = math.cos(angle), math.sin(angle)
    corners = ((-1, -1), (1, -1), (1, 1), (-1, 1))
    return [
        (at[0] + (i * length * cos - j * width * sin) / 2, at[1] + (i * length * sin + j * width * cos) / 2)
        for i, j in corners
    ]


def farmland(ground: Ground, parcel: float) -> None:
    """Parcels of about `parcel` pixels, divided again and again, with tracks and hedges between them."""
    rng, size = ground.rng, ground.size
    ground.fill("grass")
    angle = rng.uniform(0, math.pi / 2)
    cos, sin, middle = math.cos(angle), math.sin(angle), size / 2
    track = max(1.0, parcel / 32)

    def place(u: float, v: float) -> Point:
        return middle + u * cos - v * sin, middle + u * sin + v * cos

    def divide(left: float, top: float, right: float, bottom: float) -> None:
        wide, high = right - left, bottom - top
        longer = max(wide, high)
        if longer > parcel * 1.6 or (longer > parcel and rng.random() < 0.6):
            at = rng.uniform(0.34, 0.66)
            if wide > high:
                divide(left, top, left + wide * at, bottom)
                divide(left + wide * at, top, right, bottom)
            else:
                divide(left, top, right, top + high * at)
                divide(left, top + high * at, right, bottom)
            return
        edge = track * (1.6 if rng.random() < 0.25 else 0.6)
        left, top, right, bottom = left + edge, top + edge, right - edge, bottom - edge
        material = CROPS[rng.integers(len(CROPS))]
        ground.polygon([place(left, top), place(right, top), place(right, bottom), place(left, bottom)], material)
        if parcel > 50 and rng.random() < 0.5:  # seen from near: rows
            for row in np.arange(top + 5, bottom - 3, max(5.0, parcel / 14)):
                ground.line([place(left, row), place(right, row)], 1, "soil" if material != "soil" else "bare")

    reach = size * 0.75
    divide(-reach, -reach, reach, reach)
    road(ground, max(1.5, parcel / 16))


def path_across(ground: Ground, bend: float) -> list[Point]:
    """A winding line from one side to another, in points."""
    rng, size = ground.rng, ground.size
    along = np.linspace(-0.1, 1.1, 40) * size
    across = size * rng.uniform(0.3, 0.7) + np.interp(
        np.linspace(0, 1, 40), np.linspace(0, 1, 7), rng.uniform(-bend, bend, 7) * size
    )
    across = np.convolve(np.pad(across, 3, "edge"), np.ones(7) / 7, "valid")
    points = list(zip(along.tolist(), across.tolist(), strict=True))
    return points if rng.random() < 0.5 else [(y, x) for x, y in points]


def road(ground: Ground, width: float) -> None:
    points = path_across(ground, 0.06)
    ground.line(points, width, "road")
    if width > 9:
        for start, stop in zip(points[::2], points[1::2], strict=True):
            ground.line([start, stop], 1, "paint")


def river(ground: Ground, width: float, bridge: bool = False) -> None:
    points = path_across(ground, 0.2)
    ground.line(points, width * 1.35, "dry_grass")
    ground.line(points, width * 1.15, "sand")
    ground.line(points, width, "water")
    ground.line(points, width * 0.55, "deep_water")
    if bridge:
        (x, y), (next_x, next_y) = points[20], points[22]
        angle = math.atan2(next_y - y, next_x - x) + math.pi / 2
        ground.box((x + 4, y + 4), width * 3, width * 0.22, angle, "shadow")
        ground.box((x, y), ground.size * 3, width * 0.18, angle, "road")
        ground.box((x, y), width * 1.5, width * 0.22, angle, "concrete")
        ground.box((x, y), ground.size * 3, max(1.0, width * 0.02), angle, "paint")


def city(ground: Ground, block: float) -> None:
    """Streets in a turned grid, `block` pixels apart, with houses, yards, a park and trees between them."""
    rng, size = ground.rng, ground.size
    ground.fill("grass")
    street = max(1.5, block * 0.11)
    angle = rng.uniform(-0.5, 0.5)
    cos, sin, middle = math.cos(angle), math.sin(angle), size / 2

    def place(u: float, v: float) -> Point:
        return middle + u * cos - v * sin, middle + u * sin + v * cos

    count = math.ceil(size * 0.75 / block)
    houses: list[tuple[Point, float, float, str]] = []
    for i in range(-count, count):
        for j in range(-count, count):
            u, v = (i + 0.5) * block, (j + 0.5) * block
            x, y = place(u, v)
            if not (-block < x < size + block and -block < y < size + block):
                continue
            inside = block - street
            style = rng.random()
            if style < 0.12:
                ground.box((x, y), inside, inside, angle, "tree" if block < 30 else "grass")
                continue
            ground.box((x, y), inside, inside, angle, "concrete" if style > 0.6 else "dry_grass")
            if style > 0.82:  # one hall
                houses.append(((x, y), inside * rng.uniform(0.5, 0.8), inside * rng.uniform(0.4, 0.7), "hall"))
                continue
            per_side = 2 if block < 60 or style > 0.6 else 3
            step = inside / per_side
            for a in range(per_side):
                for b in range(per_side):
                    if rng.random() < 0.12:
                        continue
                    du = (a - (per_side - 1) / 2) * step + rng.uniform(-0.06, 0.06) * step
                    dv = (b - (per_side - 1) / 2) * step + rng.uniform(-0.06, 0.06) * step
                    at = place(u + du, v + dv)
                    houses.append((at, step * rng.uniform(0.5, 0.75), step * rng.uniform(0.42, 0.66), "house"))
    for i in range(-count, count + 1):
        wide = street * (1.6 if i % 4 == 0 else 1)
        for points in ([place(i * block, -size), place(i * block, size)], [place(-size, i * block), place(size, i * block)]):
            ground.line(points, wide, "road")
            if wide > 12:
                ground.line(points, 1, "paint")
    if block > 24:
        ground.trees(int((size / block) ** 2 * 9), block * 0.055)
    for at, length, width, kind in houses:
        drop = max(1.0, min(length, width) * 0.14)
        ground.box((at[0] + drop, at[1] + drop), length, width, angle, "shadow")
        roof = ROOFS[rng.choice(4, p=(0.15, 0.4, 0.3, 0.15) if kind == "hall" else (0.5, 0.26, 0.16, 0.08))]
        ground.box(at, length, width, angle, roof)
        if kind == "hall" and block > 60:
            ground.box(at, length * 0.2, width * 0.2, angle, "concrete")


def terrain(ground: Ground, bands: Sequence[tuple[float, str]], cell: float, height: float) -> np.ndarray:
    """Materials by elevation, lowest first: (upper bound, material); slopes are lit from the north-west."""
    elevation = noise(ground.rng, ground.size, cell, 5)
    low, high = np.percentile(elevation, (1, 99))
    elevation = (elevation - low) / (high - low)
    numbers = np.array([NUMBER[material] for _, material in bands], np.uint8)
    bounds = [bound for bound, _ in bands[:-1]]
    ground.image = Image.fromarray(numbers[np.searchsorted(bounds, elevation)], "L")
    slope = np.zeros_like(elevation)
    slope[1:, 1:] = 2 * elevation[1:, 1:] - elevation[:-1, 1:] - elevation[1:, :-1]
    wet = elevation < next((bound for bound, material in bands if "water" not in material and material != "shallow"), 0)
    ground.relief = np.where(wet, 1, np.clip(1 + slope * height, 0.45, 1.6)).astype(np.float32)
    return elevation


def mountains(ground: Ground) -> None:
    bands = ((0.3, "forest"), (0.5, "grass"), (0.62, "dry_grass"), (0.8, "rock"), (1, "snow"))
    terrain(ground, bands, ground.size / 3, 16)


def forest(ground: Ground) -> None:
    terrain(ground, ((0.12, "grass"), (0.2, "dry_grass"), (1, "forest")), ground.size / 3, 12)


def desert(ground: Ground) -> None:
    terrain(ground, ((0.35, "bare"), (0.85, "sand"), (1, "rock")), ground.size / 4, 14)


def pasture(ground: Ground) -> None:
    bands = ((0.45, "grass"), (0.7, "young_crop"), (0.85, "dry_grass"), (1, "forest"))
    terrain(ground, bands, ground.size / 3, 8)


def coast(ground: Ground) -> None:
    bands = ((0.34, "deep_water"), (0.46, "water"), (0.5, "shallow"), (0.535, "sand"), (0.72, "grass"), (1, "forest"))
    terrain(ground, bands, ground.size / 1.6, 8)


def lake(ground: Ground) -> None:
    terrain(ground, ((0.5, "deep_water"), (0.6, "water"), (0.63, "shallow"), (0.8, "grass"), (1, "forest")),
            ground.size / 2, 8)  # fmt: skip


def valley(ground: Ground, width: float) -> None:
    """A river between fields."""
    farmland(ground, ground.size / 14)
    river(ground, width)


def bridge(ground: Ground, width: float) -> None:
    farmland(ground, ground.size / 5)
    river(ground, width, bridge=True)


def ship(ground: Ground, at: Point, length: float, angle: float, moving: bool) -> None:
    """A hull with bow, deck and superstructure, and a wake where it moves."""
    cos, sin, width = math.cos(angle), math.sin(angle), length * 0.17

    def place(u: float, v: float) -> Point:
        return at[0] + u * length * cos - v * width * sin, at[1] + u * length * sin + v * width * cos

    if moving:
        ground.polygon([place(-0.45, 0), place(-1.9, 1.1), place(-1.9, 0.7), place(-0.7, 0)], "wake")
        ground.polygon([place(-0.45, 0), place(-1.9, -1.1), place(-1.9, -0.7), place(-0.7, 0)], "wake")
    hull = [(-0.5, -0.42), (0.28, -0.5), (0.42, -0.3), (0.5, 0), (0.42, 0.3), (0.28, 0.5), (-0.5, 0.42)]
    drop = width * 0.2
    ground.polygon([(x + drop, y + drop) for x, y in (place(u, v) for u, v in hull)], "shadow")
    ground.polygon([place(u, v) for u, v in hull], "metal" if ground.rng.random() < 0.5 else "deck")
    ground.polygon([place(u * 0.86, v * 0.66) for u, v in hull], "grey_roof" if moving else "deck")
    for u in (-0.34, -0.1, 0.14):
        ground.box(place(u, 0), length * 0.13, width * 0.5, angle, ROOFS[ground.rng.integers(1, 4)])


def harbour(ground: Ground, length: float) -> None:
    """Quays with ships of about `length` pixels alongside, storehouses behind and ships under way."""
    rng, size = ground.rng, ground.size
    ground.fill("deep_water")
    ground.fill("water", noise(rng, size, size / 3, 2) > 0.1)
    shore = size * rng.uniform(0.3, 0.4)
    ground.polygon([(0, 0), (size, 0), (size, shore), (0, shore)], "concrete")
    ground.line([(0, shore), (size, shore)], 3, "white_roof")
    ground.line([(0, shore * 0.22), (size, shore * 0.22)], size / 42, "road")
    ground.line([(0, shore * 0.22), (size, shore * 0.22)], 1, "paint")
    for x in np.arange(size * 0.1, size, size * 0.2):
        wide = size * rng.uniform(0.1, 0.16)
        ground.box((x + 4, shore * 0.62 + 4), wide, shore * 0.34, 0, "shadow")
        ground.box((x, shore * 0.62), wide, shore * 0.34, 0, ROOFS[rng.integers(4)])
    for x in np.arange(size * 0.02, size, size * 0.05):
        ground.disc((x, shore * 0.08), size * 0.014, "tree")
    first = rng.uniform(0.2, 0.32) * size
    for x in (first, first + size * 0.42):
        ground.box((x, shore + size * 0.17), size * 0.05, size * 0.36, 0, "concrete")
        for side in (-1, 1):
            ship(ground, (x + side * (size * 0.03 + length * 0.1), shore + size * 0.19), length * rng.uniform(0.8, 1.1),
                 math.pi / 2, moving=False)  # fmt: skip
    for x, y in ((0.28, 0.86), (0.78, 0.9)):
        at = (size * (x + rng.uniform(-0.06, 0.06)), size * (y + rng.uniform(-0.04, 0.03)))
        ship(ground, at, length * rng.uniform(0.5, 0.8), rng.uniform(-0.3, 0.3), moving=True)


def plane(ground: Ground, at: Point, length: float, angle: float) -> None:
    cos, sin = math.cos(angle), math.sin(angle)

    def place(u: float, v: float) -> Point:
        return at[0] + (u * cos - v * sin) * length, at[1] + (u * sin + v * cos) * length

    parts = [
        [(0.5, 0), (0.42, 0.055), (-0.46, 0.045), (-0.5, 0), (-0.46, -0.045), (0.42, -0.055)],
        [(0.14, 0), (-0.14, 0.48), (-0.22, 0.48), (-0.06, 0), (-0.22, -0.48), (-0.14, -0.48)],
        [(-0.34, 0), (-0.46, 0.18), (-0.5, 0.18), (-0.44, 0), (-0.5, -0.18), (-0.46, -0.18)],
    ]
    drop = length * 0.06
    for material, shift in (("shadow", drop), ("metal", 0.0)):
        for part in parts:
            ground.polygon([(x + shift, y + shift) for x, y in (place(u, v) for u, v in part)], material)


def airport(ground: Ground, length: float) -> None:
    """A marked runway, taxiways, an apron with planes of about `length` pixels, and a terminal."""
    rng, size = ground.rng, ground.size
    ground.fill("grass")
    ground.fill("dry_grass", noise(rng, size, size / 5, 3) > 0.25)
    at = size * rng.uniform(0.74, 0.82)
    wide = size * 0.085
    ground.line([(-9, at), (size + 9, at)], wide, "runway")
    for edge in (-0.42, 0.42):
        ground.line([(-9, at + edge * wide), (size + 9, at + edge * wide)], 1, "paint")
    for x in np.arange(0, size, size / 16):
        ground.line([(x, at), (x + size / 32, at)], 2, "paint")
    taxi = at - size * 0.16
    ground.line([(-9, taxi), (size + 9, taxi)], wide * 0.45, "runway")
    for x in (0.18, 0.82):
        ground.line([(x * size, taxi), (x * size + size * 0.05, at)], wide * 0.4, "runway")
    apron = size * 0.2
    ground.polygon([(0, apron), (size, apron), (size, taxi - 8), (0, taxi - 8)], "concrete")
    ground.line([(size * 0.5, apron), (size * 0.5, taxi)], wide * 0.5, "runway")
    ground.box((size / 2 + 5, apron * 0.62 + 5), size * 0.86, apron * 0.66, 0, "shadow")
    ground.box((size / 2, apron * 0.62), size * 0.86, apron * 0.66, 0, "white_roof")
    ground.box((size / 2, apron * 0.62), size * 0.84, apron * 0.3, 0, "grey_roof")
    for x in np.arange(0.14, 0.95, 0.18):
        if rng.random() < 0.85:
            ground.box((x * size, apron * 1.05), size * 0.018, apron * 0.5, 0, "grey_roof")
            plane(ground, (x * size, apron + length * 0.72), length * rng.uniform(0.8, 1), -math.pi / 2)
    plane(ground, (size * rng.uniform(0.2, 0.8), at), length, 0)


# ---------------------------------------------------------------------------------------------------------- the views


@dataclass(frozen=True)
class Scene:
    """Three aligned views of one place, uint8 (size, size, 3); the channels of `nir` and of `sar` are equal."""

    rgb: np.ndarray
    nir: np.ndarray
    sar: np.ndarray

    def cut(self, left: int, top: int, size: int) -> Scene:
        """A square part of the scene."""
        rows, columns = slice(top, top + size), slice(left, left + size)
        return Scene(self.rgb[rows, columns], self.nir[rows, columns], self.sar[rows, columns])


def scene(
    size: int,
    rng: np.random.Generator,
    paint: Callable[[Ground], None],
    weather: Weather | None = None,
    aligned: bool = True,
) -> Scene:
    """What `paint` draws, as seen by three sensors. `aligned=False` leaves NIR and SAR empty, which saves time."""
    ground = Ground(size, rng)
    paint(ground)
    materials = np.asarray(ground.image)
    if weather == "snow":
        materials = _snowed(materials, rng)
    rough = TABLE[:, 5][materials]
    grain = rng.standard_normal((size, size), np.float32)
    broad = noise(rng, size, size / 5, 2)
    light = 1 + rough * (0.75 * noise(rng, size, 7) + 0.55 * grain) + 0.07 * broad
    if ground.relief is not None:
        light *= ground.relief
    colours = np.stack([TABLE[:, band][materials] * light for band in range(3)], axis=-1)
    if weather == "fog":
        veil = np.clip(0.62 + 0.28 * noise(rng, size, size / 2.5, 3), 0.3, 0.93)[..., None]
        colours = colours * (1 - veil) + np.array((222, 226, 230), np.float32) * veil
    elif weather == "night":
        colours = _at_night(colours, materials, rng)
    rgb = np.asarray(_picture(colours).filter(ImageFilter.GaussianBlur(size / 800)))
    if not aligned:
        nothing = np.zeros((0, 0, 3), np.uint8)
        return Scene(rgb, nothing, nothing)
    near = Image.fromarray(np.clip(TABLE[:, 3][materials] * light * (1 + 0.1 * broad), 0, 255).astype(np.uint8))
    nir = np.asarray(near.filter(ImageFilter.GaussianBlur(size / 800)))
    return Scene(rgb, _three(nir), _three(_radar(materials, light, rng)))


def _picture(colours: np.ndarray) -> Image.Image:
    return Image.fromarray(np.clip(colours, 0, 255).astype(np.uint8))


def _three(band: np.ndarray) -> np.ndarray:
    return np.repeat(band[..., None], 3, axis=-1)


def _radar(materials: np.ndarray, light: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Radar amplitude of four looks: speckle multiplies, and walls answer with points of full strength."""
    speckle = np.sqrt(rng.standard_gamma(4, materials.shape, np.float32) / 4)
    amplitude = TABLE[:, 4][materials] * speckle * (0.6 + 0.4 * light)
    built = np.isin(materials, [NUMBER[name] for name in BUILT])
    amplitude[built & (rng.random(materials.shape, np.float32) < 0.12)] = 255
    return np.clip(amplitude, 0, 255).astype(np.uint8)


def _snowed(materials: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Snow lies nearly everywhere but on water, and is thinner on streets, walls and trees."""
    kept = {"deep_water": 9.0, "water": 9.0, "shallow": 9.0, "wake": 9.0, "shadow": 0.4, "forest": 0.1, "tree": 0.0,
            "road": 0.35, "runway": 0.35, "rock": 0.0, "metal": 0.2}  # fmt: skip
    threshold = np.array([kept.get(name, -0.75) for name in MATERIALS], np.float32)
    lies = noise(rng, len(materials), len(materials) / 6, 4) > threshold[materials]
    return np.where(lies, NUMBER["snow"], materials).astype(np.uint8)


def _at_night(colours: np.ndarray, materials: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Moonlight, and lamps along streets and on buildings, with a glow around them."""
    size = len(materials)
    dark = colours * np.array((0.13, 0.16, 0.24), np.float32) + np.array((4, 6, 14), np.float32)
    chance = np.zeros(len(MATERIALS), np.float32)
    for name, value in {"road": 0.012, "runway": 0.01, "paint": 0.02, "concrete": 0.004, **dict.fromkeys(BUILT, 0.006)}.items():
        chance[NUMBER[name]] = value
    lamps = Image.fromarray(((rng.random((size, size), np.float32) < chance[materials]) * 255).astype(np.uint8))
    point = np.asarray(lamps.filter(ImageFilter.GaussianBlur(size / 400)), np.float32)
    glow = np.asarray(lamps.reduce(4).filter(ImageFilter.GaussianBlur(size / 200)).resize((size, size)), np.float32)
    lit = (point * 3 + glow * 7)[..., None] / 255
    return dark + lit * np.array((255, 206, 128), np.float32)


# -------------------------------------------------------------------------------------------------------- the release


@dataclass(frozen=True)
class SyntheticSubset:
    """What one subset's zip holds, and what has to come of it."""

    name: str
    images: tuple[str, ...]  # all images, as paths within the subset
    records: int
    samples: dict[str, dict[str, tuple[str, str]]]  # place -> modality -> (path, prompt): what is to be published
    unmatched_images: tuple[str, ...]  # images that no record names
    unmatched_records: tuple[str, ...]  # paths of records that name no image

    @property
    def pairs(self) -> int:
        return sum(len(modalities) for modalities in self.samples.values())


@dataclass(frozen=True)
class SyntheticRelease:
    path: Path  # the folder of subset zips
    subsets: dict[str, SyntheticSubset]


@dataclass(frozen=True)
class _Theme:
    """A kind of place: the name that a subset has for it, how it is drawn, what a caption says of it."""

    category: str
    paint: Callable[[Ground], None]
    caption: str


@dataclass
class _Draft:
    """One subset while it is drawn."""

    name: str
    seed: int
    files: dict[str, bytes] = field(default_factory=dict)
    records: dict[str, list[tuple[str, str, dict]]] = field(default_factory=dict)  # annotation file -> records
    samples: dict[str, dict[str, tuple[str, str]]] = field(default_factory=dict)
    unmatched_images: list[str] = field(default_factory=list)
    unmatched_records: list[str] = field(default_factory=list)

    def rng(self, number: int) -> np.random.Generator:
        return np.random.default_rng([self.seed, *self.name.encode(), number])

    def image(self, path: str, pixels: np.ndarray) -> None:
        buffer = io.BytesIO()
        Image.fromarray(pixels).save(buffer, "JPEG", quality=JPEG_QUALITY)
        self.files[path] = buffer.getvalue()

    def record(self, path: str, prompt: str, fields: dict | None = None, file: str | None = None) -> None:
        self.records.setdefault(file or self.annotation, []).append((path, prompt, fields or {}))

    def pair(self, place: str, path: str, pixels: np.ndarray, prompt: str, fields: dict | None = None,
             modality: str = "rgb", file: str | None = None) -> None:  # fmt: skip
        """An image and its record."""
        self.image(path, pixels)
        self.record(path, prompt, fields, file)
        self.samples.setdefault(place, {})[modality] = (path, prompt)

    def lone_image(self, path: str, pixels: np.ndarray) -> None:
        self.image(path, pixels)
        self.unmatched_images.append(path)

    def lone_record(self, path: str, prompt: str, fields: dict | None = None) -> None:
        self.record(path, prompt, fields)
        self.unmatched_records.append(path)

    @property
    def annotation(self) -> str:
        return f"MMM-RS_{self.name}.json"

    def write(self, folder: Path, annotation: Callable[[list[tuple[str, str, dict]]], str], method: int) -> SyntheticSubset:
        with zipfile.ZipFile(folder / f"{self.name}.zip", "w") as archive:
            for name, records in self.records.items():
                _add(archive, name, annotation(records).encode(), zipfile.ZIP_DEFLATED)
            for folder_name in sorted({path.rpartition("/")[0] for path in self.files}):
                _add(archive, folder_name + "/", b"", zipfile.ZIP_STORED)
            for path, data in self.files.items():
                _add(archive, path, data, method)
        return SyntheticSubset(
            self.name, tuple(self.files), sum(map(len, self.records.values())), self.samples,
            tuple(self.unmatched_images), tuple(self.unmatched_records),
        )  # fmt: skip


def _add(archive: zipfile.ZipFile, name: str, data: bytes, method: int) -> None:
    info = zipfile.ZipInfo(name, DATE)
    info.compress_type = method
    archive.writestr(info, data)


def level(gsd: float) -> str:
    """Upstream's phrase for metres a pixel; between 10 m (low) and 100 m (ultra-low) the bound is not published."""
    bounds = ((0.5, "Ultra-high"), (1, "High"), (5, "Ordinary"), (100, "Low"))
    return next((word for bound, word in bounds if gsd < bound), "Ultra-low") + " precision resolution"


# The forms that the annotations come in: one JSON array, an object keyed by path, JSON lines, an object around an array.


def _array(image_key: str, prompt_key: str) -> Callable[[list[tuple[str, str, dict]]], str]:
    return lambda records: json.dumps([{image_key: path, prompt_key: prompt, **rest} for path, prompt, rest in records])


def _keyed(prompt_key: str) -> Callable[[list[tuple[str, str, dict]]], str]:
    return lambda records: json.dumps({path: {prompt_key: prompt, **rest} for path, prompt, rest in records})


def _lines(image_key: str, prompt_key: str) -> Callable[[list[tuple[str, str, dict]]], str]:
    return lambda records: "".join(
        json.dumps({image_key: path, prompt_key: prompt, **rest}) + "\n" for path, prompt, rest in records
    )


def _wrapped(image_key: str, prompt_key: str) -> Callable[[list[tuple[str, str, dict]]], str]:
    def write(records: list[tuple[str, str, dict]]) -> str:
        rows = [{image_key: path, prompt_key: prompt, **rest} for path, prompt, rest in records]
        return json.dumps({"info": {"description": "synthetic"}, "data": rows}, indent=1)

    return write


def write_release(folder: str | Path, *, scenes: int = 4, size: int = 512, seed: int = 0) -> SyntheticRelease:
    """Write a synthetic release, `folder`/MMM-RS/<Subset>.zip for all ten subsets, and return the truth about it.

    `scenes` is how many places are drawn for each subset, `size` the width and height of images in pixels. Each subset
    has its own annotation form, and some images and records that do not match, as the real release has to be expected
    to have: an image without a record, a record without an image, a sample without its SAR image, an image of another
    size, an empty annotation file. The same arguments give the same bytes with the same Pillow and numpy.
    """
    path = Path(folder) / "MMM-RS"
    path.mkdir(parents=True, exist_ok=True)
    stored, deflated = zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED
    written = [
        _weather(seed, scenes, size).write(path, _array("image_path", "text_prompt"), stored),
        _whu_opt_sar(seed, scenes, size).write(path, _array("image", "prompt"), stored),
        _sen12(seed, scenes, size).write(path, _keyed("caption"), stored),
        _inria(seed, scenes, size).write(path, _lines("file_name", "text"), deflated),
        _fmow(seed, scenes, size).write(path, _keyed("prompt"), stored),
        _tgrs_hrrsd(seed, scenes, size).write(path, _wrapped("img", "text_prompt"), stored),
        _gid(seed, scenes, size).write(path, _array("filename", "description"), deflated),
        _nasc_tg2(seed, scenes, size).write(path, _array("image", "prompt"), stored),
        _mrssc2(seed, scenes, size).write(path, _array("name", "text"), stored),
        _hrsc2016(seed, scenes, size).write(path, _lines("path", "caption"), stored),
    ]
    return SyntheticRelease(path, {subset.name: subset for subset in written})


def _weather(seed: int, scenes: int, size: int) -> _Draft:
    draft = _Draft("weather", seed)
    themes = [
        _Theme("", lambda g: city(g, size / 5), "a city with lots of buildings"),
        _Theme("", lambda g: airport(g, size * 0.15), "an airport with several planes"),
        _Theme("", lambda g: farmland(g, size / 8), "a large area of farmland"),
        _Theme("", coast, "a coast with water and trees"),
    ]
    kinds: tuple[tuple[str, Weather, float, str], ...] = (
        ("fog", "fog", 1.0, "Sentinel-2"), ("night", "night", 0.8, "GF2"), ("snowy", "snow", 0.6, "Google Earth"),
    )  # fmt: skip
    number = 0
    for turn, (name, weather, gsd, satellite) in enumerate(kinds):
        file = f"MMM-RS_{name}_cleaned.json"
        for i in range(max(1, scenes // 2)):
            theme = themes[(i + (2 * turn) % 3) % len(themes)]
            view = scene(size, draft.rng(number), theme.paint, weather, aligned=False)
            prompt = f"Satellite imagery,  {level(gsd)}, {name} ,a satellite image of {theme.caption}, {satellite}"
            draft.pair(f"{name}/{i:05d}", f"{name}/{i:05d}{SUFFIX}", view.rgb, prompt, file=file)
            number += 1
    draft.records["MMM-RS_night.json"] = []
    view = scene(size, draft.rng(number), desert, "fog", aligned=False)
    draft.lone_image(f"fog/{scenes:05d}{SUFFIX}", view.rgb)
    return draft


def _whu_opt_sar(seed: int, scenes: int, size: int) -> _Draft:
    draft = _Draft("WHU-OPT-SAR", seed)
    themes = [
        _Theme("farmland", lambda g: valley(g, size / 9), "a river that flows through farmland"),
        _Theme("city", lambda g: _town(g, size / 24), "a town with fields around it"),
        _Theme("water", lake, "a lake with islands and forest"),
        _Theme("forest", forest, "a green forest on hills"),
    ]
    sheets = max(1, scenes // 2)
    folders = {"rgb": ("RGB_jpg", "RGB", "Satellite"), "nir": ("NIR_jpg", "NIR", "NIR"), "sar": ("sar_jpg", "SAR", "SAR")}
    for sheet in range(sheets):
        theme, name = themes[sheet % len(themes)], f"NH49E{sheet + 1:03d}{13 + sheet:03d}"
        whole = scene(2 * size, draft.rng(sheet), theme.paint)
        for x in (0, size):
            for y in (0, size):
                view = whole.cut(y, x, size)
                for modality, (directory, token, kind) in folders.items():
                    if modality == "sar" and sheet == sheets - 1 and x == y == size:
                        continue  # the sample whose SAR image is missing, with its record
                    path = f"WHU-OPT-SAR_dataset/{directory}/{name}_{x}_{y}_{token}{SUFFIX}"
                    prompt = f"{kind} imagery,  {level(5)}, a satellite image of {theme.caption}, GF1,  WHU-OPT-SAR"
                    pixels = getattr(view, modality)
                    fields = {"category": theme.category, "spatial_resolution": 5.0}
                    draft.pair(f"{name}_{x}_{y}", path, pixels, prompt, fields, modality)
    draft.lone_record(f"WHU-OPT-SAR_dataset/sar_jpg/NH50E001001_0_0_SAR{SUFFIX}",
                      f"SAR imagery,  {level(5)}, a satellite image of a city, GF1,  WHU-OPT-SAR")  # fmt: skip
    return draft


def _town(ground: Ground, block: float) -> None:
    """A built-up middle among fields."""
    fields = Ground(ground.size, ground.rng)
    farmland(fields, block * 3)
    city(ground, block)
    away = np.hypot(*(np.indices((ground.size, ground.size)) / ground.size - 0.5))
    outside = away + 0.12 * noise(ground.rng, ground.size, ground.size / 4, 3) > 0.3
    ground.image.paste(fields.image, (0, 0), Image.fromarray(outside))
    road(ground, block / 3)


def _sen12(seed: int, scenes: int, size: int) -> _Draft:
    draft = _Draft("SEN1-2", seed)
    themes = [
        _Theme("", lambda g: farmland(g, size / 20), "a large area of farmland"),
        _Theme("", coast, "a body of water next to a forest"),
        _Theme("", lambda g: _town(g, size / 40), "a town surrounded by fields"),
        _Theme("", mountains, "mountains with snow on them"),
    ]
    seasons = ("ROIs1158_spring", "ROIs1868_summer", "ROIs1970_fall", "ROIs2017_winter")
    for number in range(scenes):
        theme, season = themes[number % len(themes)], seasons[number % len(seasons)]
        for patch in (1, 2):
            view = scene(size, draft.rng(2 * number + patch), theme.paint)
            place = f"{number + 1}_p{patch}"
            for modality, token, directory, start, word, satellite in (
                ("rgb", "s2", "SEN1-2_RGB", "", "satellite", "Sentinel-2"),
                ("sar", "s1", "SEN1-2_SAR", "SAR imagery, ", "radar", "Sentinel-1"),
            ):
                path = f"SEN1-2_dataset/{directory}/{season}_{token}_{place}{SUFFIX}"
                if modality == "sar" and number == scenes - 1 and patch == 2:
                    draft.lone_record(path, f"{start}{level(10)}, a radar image of {theme.caption}, {satellite}, SEN1-2")
                    continue
                prompt = f"{start}{level(10)}, a {word} image of {theme.caption}, {satellite}, SEN1-2"
                draft.pair(f"{season}_{place}", path, getattr(view, modality), prompt, modality=modality)
    return draft


def _inria(seed: int, scenes: int, size: int) -> _Draft:
    """As upstream's cutter does: one large image, resized and cut into parts."""
    draft = _Draft("Inria", seed)
    for number in range(max(1, scenes // 2)):
        town = ("vienna", "austin", "chicago", "tyrol-w")[number % 4] + str(1 + number // 4)
        whole = scene(2 * size, draft.rng(number), lambda g: city(g, size / (3.2 if number % 2 else 4)), aligned=False)
        resized = np.asarray(Image.fromarray(whole.rgb).reduce(2))
        crops = [(f"resize_512_from_1024_{town}", resized, 0.6)]
        crops += [
            (f"crop_512_{i}_{j}_{town}", whole.cut(j * size, i * size, size).rgb, 0.3) for i in (0, 1) for j in (0, 1)
        ]
        crops.append((f"crop_512_center_{town}", whole.cut(size // 2, size // 2, size).rgb, 0.3))
        for stem, pixels, gsd in crops:
            prompt = f"Satellite imagery, {level(gsd)}, an aerial view of a city with lots of houses and streets, Inria"
            draft.pair(stem, f"Inria_dataset/{stem}{SUFFIX}", pixels, prompt, {"spatial_resolution": gsd})
    draft.lone_record(f"Inria_dataset/crop_512_9_9_{town}{SUFFIX}", f"Satellite imagery, {level(0.3)}, an aerial view, Inria")
    return draft


def _fmow(seed: int, scenes: int, size: int) -> _Draft:
    """As upstream's script does: crops of one image, and where super-resolution failed an image of another size."""
    draft = _Draft("fMoW", seed)
    themes = [
        _Theme("airport", lambda g: airport(g, size * 0.17), "an airport with several planes parked"),
        _Theme("crop_field", lambda g: farmland(g, size / 4), "a field with rows of crops"),
        _Theme("shipyard", lambda g: harbour(g, size * 0.26), "a port with ships in the water"),
        _Theme("multi-unit_residential", lambda g: city(g, size / 3), "a neighbourhood with trees and houses"),
    ]
    quarter = size // 4
    for number in range(scenes):
        theme = themes[number % len(themes)]
        whole = scene(size + quarter, draft.rng(number), theme.paint, aligned=False)
        crops = {"center": (quarter // 2, quarter // 2), "left_bottom": (0, quarter), "right_top": (quarter, 0)}
        for crop, (left, top) in crops.items():
            stem = f"{theme.category}_{number}_0_rgb_{crop}"
            prompt = f"Satellite imagery,  {level(0.4)}, {theme.category.replace('_', ' ')}, a satellite image of " \
                     f"{theme.caption}, fMoW"  # fmt: skip
            fields = {"category": theme.category, "spatial_resolution": 0.4, "cloud_cover": number}
            draft.pair(stem, f"fMoW_dataset/{stem}{SUFFIX}", whole.cut(left, top, size).rgb, prompt, fields)
    stem = "lake_or_pond_7_1_rgb_sr"
    view = scene(size * 3 // 4, draft.rng(scenes), lake, aligned=False)
    fields = {"category": "lake_or_pond", "spatial_resolution": 0.8, "cloud_cover": 12}
    draft.pair(stem, f"fMoW_dataset/{stem}{SUFFIX}", view.rgb[: size // 2],
               f"Satellite imagery,  {level(0.8)}, lake or pond, a satellite image of a lake, fMoW", fields)  # fmt: skip
    draft.lone_image(f"fMoW_dataset/lake_or_pond_7_2_rgb_center{SUFFIX}", view.rgb)
    return draft


def _single(seed: int, name: str, scenes: int, size: int, themes: Sequence[_Theme], stem: Callable[[str, int], str],
            prompt: Callable[[_Theme], str], fields: Callable[[_Theme], dict]) -> _Draft:  # fmt: skip
    """A subset of single RGB images in `<name>_dataset/`, the themes in turn."""
    draft = _Draft(name, seed)
    for number in range(scenes):
        theme = themes[number % len(themes)]
        view = scene(size, draft.rng(number), theme.paint, aligned=False)
        place = stem(theme.category, number)
        draft.pair(place, f"{name}_dataset/{place}{SUFFIX}", view.rgb, prompt(theme), fields(theme))
    return draft


def _tgrs_hrrsd(seed: int, scenes: int, size: int) -> _Draft:
    themes = [
        _Theme("bridge", lambda g: bridge(g, size / 6), "a bridge over a river"),
        _Theme("airplane", lambda g: airport(g, size * 0.22), "planes parked at an airport"),
        _Theme("crossroad", lambda g: city(g, size / 2.4), "a street intersection with houses"),
        _Theme("harbor", lambda g: harbour(g, size * 0.3), "ships docked in a harbour"),
    ]
    draft = _single(seed, "TGRS-HRRSD", scenes, size, themes, lambda _, n: f"{n + 1:05d}",
                    lambda t: f"{level(0.6)}, {t.category},an aerial view of {t.caption}, Google Earth, TGRS-HRRSD",
                    lambda t: {"category": t.category, "spatial_resolution": 0.6})  # fmt: skip
    draft.lone_record(f"TGRS-HRRSD_dataset/99999{SUFFIX}", f"{level(0.6)}, bridge,an aerial view, Google Earth, TGRS-HRRSD")
    return draft


def _gid(seed: int, scenes: int, size: int) -> _Draft:
    themes = [
        _Theme("built-up", lambda g: city(g, size / 16), "a city with lots of buildings"),
        _Theme("farmland", lambda g: farmland(g, size / 10), "a large area of farmland"),
        _Theme("water", lambda g: valley(g, size / 7), "a river with fields on both sides"),
        _Theme("forest", forest, "a dense green forest"),
    ]
    return _single(seed, "GID", scenes, size, themes, lambda _, n: f"GF2_PMS1_{n // 4 + 1}_{n % 4}",
                   lambda t: f"Satellite imagery,  {level(4)}, {t.category},a satellite image of {t.caption}, GF2,   GID",
                   lambda t: {"category": t.category, "spatial_resolution": 4})  # fmt: skip


def _nasc_tg2(seed: int, scenes: int, size: int) -> _Draft:
    themes = [
        _Theme("mountain", mountains, "mountains with snow on top"),
        _Theme("beach", coast, "a beach and the sea"),
        _Theme("desert", desert, "a dry desert with dunes"),
        _Theme("farmland", lambda g: farmland(g, size / 28), "a patchwork of fields"),
    ]
    draft = _single(seed, "NaSC-TG2", scenes, size, themes, lambda c, n: f"{c}{n:02d}",
                    lambda t: f"Satellite imagery, {level(100)}, {t.category}, a satellite image of {t.caption}, TG2, NaSC-TG2",
                    lambda t: {"category": t.category, "spatial_resolution": 100})  # fmt: skip
    view = scene(size, draft.rng(scenes), forest, aligned=False)
    draft.lone_image(f"NaSC-TG2_dataset/forest{scenes:02d}{SUFFIX}", view.rgb)
    return draft


def _mrssc2(seed: int, scenes: int, size: int) -> _Draft:
    themes = [
        _Theme("AnnualCrop", lambda g: farmland(g, size / 18), "fields of different colours"),
        _Theme("Pasture", pasture, "a wide green pasture"),
        _Theme("SeaLake", lake, "a lake seen from above"),
        _Theme("Forest", forest, "a dark green forest"),
    ]
    return _single(seed, "MRSSC2.0", scenes, size, themes, lambda c, n: f"RGB_{c}_{c}_{n + 1}",
                   lambda t: f"Satellite imagery, {level(100)}, {t.category}, a satellite image of {t.caption}, TG2, MRSSC2.0",
                   lambda t: {"category": t.category, "spatial_resolution": 100})  # fmt: skip


def _hrsc2016(seed: int, scenes: int, size: int) -> _Draft:
    themes = [
        _Theme("ship", lambda g: harbour(g, size * 0.34), "several ships docked at a pier"),
        _Theme("ship", lambda g: harbour(g, size * 0.24), "a harbour with ships and storehouses"),
    ]
    draft = _single(seed, "HRSC2016", scenes, size, themes, lambda _, n: f"{100000001 + n}",
                    lambda t: f"{level(1.1)}, an aerial view of {t.caption}, Google Earth, HRSC2016",
                    lambda t: {"spatial_resolution": 1.07})  # fmt: skip
    draft.lone_record(f"HRSC2016_dataset/100009999{SUFFIX}", f"{level(1.1)}, an aerial view of a ship, Google Earth, HRSC2016")
    return draft
