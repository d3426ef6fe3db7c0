"""Synthetic scenes of the Earth from above. Nothing here is a photograph.

A scene is a map of materials drawn with polygons and noise. Its optical, near-infrared and radar images are three views
of that one map, so they are aligned to the pixel: plants are bright in NIR, water is dark in NIR and SAR, buildings
answer the radar.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

# A material as (red, green, blue, near infrared, radar amplitude) on 0-255 and how rough it looks, 0-1. Chosen by eye
# after natural-colour Sentinel-2, its band 8, and Sentinel-1 amplitudes.
MATERIALS: dict[str, tuple[float, float, float, float, float, float]] = {
    "deep_water": (28, 58, 82, 12, 14, 0.04),
    "water": (44, 84, 102, 20, 20, 0.05),
    "shallow": (92, 138, 140, 38, 28, 0.05),
    "sand": (206, 188, 148, 128, 46, 0.06),
    "soil": (146, 116, 86, 98, 52, 0.10),
    "bare": (178, 156, 122, 116, 46, 0.09),
    "wheat": (198, 178, 108, 142, 74, 0.07),
    "crop": (92, 134, 62, 206, 102, 0.08),
    "young_crop": (132, 160, 84, 188, 84, 0.08),
    "lush_crop": (62, 110, 54, 226, 124, 0.09),
    "grass": (112, 136, 74, 182, 70, 0.10),
    "dry_grass": (152, 146, 98, 140, 64, 0.12),
    "forest": (42, 74, 44, 168, 140, 0.24),
    "tree": (46, 82, 44, 190, 150, 0.22),
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
        grid = Image.fromarray(rng.uniform(-1, 1, (cells, cells)).astype(np.float32))
        total += weight * np.asarray(grid.resize((size, size), Image.Resampling.BICUBIC))
        weight, cell = weight / 2, max(cell / 2, 1.0)
    return total


@dataclass
class Ground:
    """A square map of materials that is drawn on, in pixels; `relief` lights slopes, 1 is flat."""

    size: int
    rng: np.random.Generator
    image: Image.Image = field(init=False)
    draw: ImageDraw.ImageDraw = field(init=False)
    relief: np.ndarray | None = None

    def __post_init__(self) -> None:
        self.take(Image.new("L", (self.size, self.size), NUMBER["grass"]))

    def take(self, image: Image.Image) -> None:
        """Go on with `image` as the map."""
        self.image, self.draw = image, ImageDraw.Draw(image)

    def fill(self, material: str, mask: np.ndarray | None = None) -> None:
        """Cover everything, or where `mask` is true, with a material."""
        if mask is None:
            self.image.paste(NUMBER[material], (0, 0, self.size, self.size))
        else:
            self.image.paste(NUMBER[material], (0, 0), Image.fromarray(mask))

    def polygon(self, points: Sequence[Point], material: str) -> None:
        self.draw.polygon(list(points), fill=NUMBER[material])

    def line(self, points: Sequence[Point], width: float, material: str) -> None:
        width = max(1, round(width))
        self.draw.line(list(points), fill=NUMBER[material], width=width, joint="curve")

    def disc(self, centre: Point, radius: float, material: str) -> None:
        x, y = centre
        self.draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=NUMBER[material])

    def box(self, centre: Point, length: float, width: float, angle: float, material: str) -> None:
        self.polygon(box(centre, length, width, angle), material)

    def trees(self, count: int, radius: float) -> None:
        """Single trees with a shadow, wherever there is neither road nor roof nor water."""
        here = np.array(self.image)
        green = [NUMBER[name] for name in ("grass", "dry_grass", "forest", "tree", "crop", "young_crop")]
        for x, y in self.rng.uniform(0, self.size, (count, 2)).tolist():
            if here[int(y), int(x)] in green:
                r = radius * self.rng.uniform(0.6, 1.3)
                self.disc((x + r * 0.6, y + r * 0.6), r, "shadow")
                self.disc((x, y), r, "tree")

    def turn(self) -> None:
        """Turn the map by a quarter or more, or not: places that are drawn upright need not lie so."""
        ways = (
            None,
            Image.Transpose.ROTATE_90,
            Image.Transpose.ROTATE_180,
            Image.Transpose.ROTATE_270,
            Image.Transpose.FLIP_LEFT_RIGHT,
        )
        way = ways[self.rng.integers(len(ways))]
        if way is not None:
            self.take(self.image.transpose(way))


def box(centre: Point, length: float, width: float, angle: float) -> list[Point]:
    """The corners of a rectangle around `centre`, turned by `angle` (radians)."""
    cos, sin = math.cos(angle), math.sin(angle)
    corners = ((-1, -1), (1, -1), (1, 1), (-1, 1))
    return [
        (centre[0] + (i * length * cos - j * width * sin) / 2, centre[1] + (i * length * sin + j * width * cos) / 2)
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
        x, y = place((left + right) / 2, (top + bottom) / 2)
        if max(abs(x - middle), abs(y - middle)) > middle + math.hypot(wide, high) / 2:
            return  # outside
        longer = max(wide, high)
        if longer > parcel * 1.6 or (longer > parcel and rng.random() < 0.6):
            share = rng.uniform(0.34, 0.66)
            if wide > high:
                divide(left, top, left + wide * share, bottom)
                divide(left + wide * share, top, right, bottom)
            else:
                divide(left, top, right, top + high * share)
                divide(left, top + high * share, right, bottom)
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
                    centre = place(u + du, v + dv)
                    houses.append((centre, step * rng.uniform(0.5, 0.75), step * rng.uniform(0.42, 0.66), "house"))
    for i in range(-count, count + 1):
        wide = street * (1.6 if i % 4 == 0 else 1)
        across = [place(i * block, -size), place(i * block, size)]
        for points in (across, [place(-size, i * block), place(size, i * block)]):
            ground.line(points, wide, "road")
            if wide > 12:
                ground.line(points, 1, "paint")
    if block > 24:
        ground.trees(int((size / block) ** 2 * 9), block * 0.055)
    for centre, length, width, kind in houses:
        drop = max(1.0, min(length, width) * 0.14)
        ground.box((centre[0] + drop, centre[1] + drop), length, width, angle, "shadow")
        roof = ROOFS[rng.choice(4, p=(0.15, 0.4, 0.3, 0.15) if kind == "hall" else (0.5, 0.26, 0.16, 0.08))]
        ground.box(centre, length, width, angle, roof)
        if kind == "hall" and block > 60:
            ground.box(centre, length * 0.2, width * 0.2, angle, "concrete")


def terrain(ground: Ground, bands: Sequence[tuple[float, str]], cell: float, height: float) -> np.ndarray:
    """Materials by elevation, lowest first: (upper bound, material); slopes are lit from the north-west."""
    elevation = noise(ground.rng, ground.size, cell, 5)
    low, high = np.percentile(elevation, (1, 99))
    elevation = (elevation - low) / (high - low)
    numbers = np.array([NUMBER[material] for _, material in bands], np.uint8)
    bounds = [bound for bound, _ in bands[:-1]]
    ground.take(Image.fromarray(numbers[np.searchsorted(bounds, elevation)]))
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
    terrain(
        ground,
        ((0.5, "deep_water"), (0.6, "water"), (0.63, "shallow"), (0.8, "grass"), (1, "forest")),
        ground.size / 2,
        8,
    )


def town(ground: Ground, block: float) -> None:
    """A built-up middle among fields."""
    fields = Ground(ground.size, ground.rng)
    farmland(fields, block * 3)
    city(ground, block)
    away = np.hypot(*(np.indices((ground.size, ground.size)) / ground.size - 0.5))
    outside = away + 0.12 * noise(ground.rng, ground.size, ground.size / 4, 3) > 0.3
    ground.image.paste(fields.image, (0, 0), Image.fromarray(outside))
    road(ground, block / 3)


def valley(ground: Ground, width: float) -> None:
    """A river between fields."""
    farmland(ground, ground.size / 14)
    river(ground, width)


def bridge(ground: Ground, width: float) -> None:
    farmland(ground, ground.size / 5)
    river(ground, width, bridge=True)


def ship(ground: Ground, centre: Point, length: float, angle: float, moving: bool) -> None:
    """A hull with bow, deck and superstructure, and a wake where it moves."""
    cos, sin, width = math.cos(angle), math.sin(angle), length * 0.17

    def place(u: float, v: float) -> Point:
        return centre[0] + u * length * cos - v * width * sin, centre[1] + u * length * sin + v * width * cos

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
            ship(
                ground,
                (x + side * (size * 0.03 + length * 0.1), shore + size * 0.19),
                length * rng.uniform(0.8, 1.1),
                math.pi / 2,
                moving=False,
            )
    for x, y in ((0.28, 0.86), (0.78, 0.9)):
        centre = (size * (x + rng.uniform(-0.06, 0.06)), size * (y + rng.uniform(-0.04, 0.03)))
        ship(ground, centre, length * rng.uniform(0.5, 0.8), rng.uniform(-0.3, 0.3), moving=True)
    ground.turn()


def plane(ground: Ground, centre: Point, length: float, angle: float) -> None:
    cos, sin = math.cos(angle), math.sin(angle)

    def place(u: float, v: float) -> Point:
        return centre[0] + (u * cos - v * sin) * length, centre[1] + (u * sin + v * cos) * length

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
    runway = size * rng.uniform(0.74, 0.82)
    wide = size * 0.085
    ground.line([(-9, runway), (size + 9, runway)], wide, "runway")
    for edge in (-0.42, 0.42):
        ground.line([(-9, runway + edge * wide), (size + 9, runway + edge * wide)], 1, "paint")
    for x in np.arange(0, size, size / 16):
        ground.line([(x, runway), (x + size / 32, runway)], 2, "paint")
    taxi = runway - size * 0.16
    ground.line([(-9, taxi), (size + 9, taxi)], wide * 0.45, "runway")
    for x in (0.18, 0.82):
        ground.line([(x * size, taxi), (x * size + size * 0.05, runway)], wide * 0.4, "runway")
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
    plane(ground, (size * rng.uniform(0.2, 0.8), runway), length, 0)
    ground.turn()


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
    elif weather == "snow":
        colours = _under_snow(colours, materials, rng)
    elif weather == "night":
        colours = _at_night(colours, materials, rng)
    rgb = np.asarray(_picture(colours).filter(ImageFilter.BoxBlur(size / 900)))
    if not aligned:
        nothing = np.zeros((0, 0, 3), np.uint8)
        return Scene(rgb, nothing, nothing)
    near = Image.fromarray(np.clip(TABLE[:, 3][materials] * light * (1 + 0.1 * broad), 0, 255).astype(np.uint8))
    nir = np.asarray(near.filter(ImageFilter.BoxBlur(size / 900)))
    return Scene(rgb, _three(nir), _three(_radar(materials, light, rng)))


def _picture(colours: np.ndarray) -> Image.Image:
    return Image.fromarray(np.clip(colours, 0, 255).astype(np.uint8))


def _three(band: np.ndarray) -> np.ndarray:
    return np.repeat(band[..., None], 3, axis=-1)


def _radar(materials: np.ndarray, light: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Radar amplitude of four looks: speckle multiplies, and walls answer with points of full strength."""
    speckle = np.sqrt(rng.standard_gamma(4, materials.shape, np.float32) / 4)
    amplitude = 1.2 * TABLE[:, 4][materials] * speckle * (0.6 + 0.4 * light)
    built = np.isin(materials, [NUMBER[name] for name in BUILT])
    amplitude[built & (rng.random(materials.shape, np.float32) < 0.12)] = 255
    return np.clip(amplitude, 0, 255).astype(np.uint8)


def _under_snow(colours: np.ndarray, materials: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Snow on all but water, deep on fields and roofs, thin on streets, walls and trees."""
    cover = np.full(len(MATERIALS), 0.9, np.float32)
    thin = {"road": 0.35, "runway": 0.3, "rock": 0.5, "tree": 0.35, "forest": 0.45, "shadow": 0.3, "metal": 0.2}
    thin |= dict.fromkeys(("deep_water", "water", "shallow", "wake"), -2.0)
    for name, value in thin.items():
        cover[NUMBER[name]] = value
    lies = np.clip(cover[materials] + 0.3 * noise(rng, len(materials), len(materials) / 6, 4), 0, 0.95)[..., None]
    return colours * (1 - lies) + np.array((236, 241, 248), np.float32) * lies


def _at_night(colours: np.ndarray, materials: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Moonlight, and lamps along streets and on buildings, with a glow around them."""
    size = len(materials)
    dark = colours * np.array((0.15, 0.18, 0.26), np.float32) + np.array((4, 6, 14), np.float32)
    chance = np.zeros(len(MATERIALS), np.float32)
    lit = {"road": 0.02, "runway": 0.006, "paint": 0.05, "concrete": 0.001, **dict.fromkeys(BUILT, 0.003)}
    for name, value in lit.items():
        chance[NUMBER[name]] = value
    lamps = Image.fromarray(((rng.random((size, size), np.float32) < chance[materials]) * 255).astype(np.uint8))
    point = np.asarray(lamps.filter(ImageFilter.GaussianBlur(size / 500)), np.float32)
    glow = np.asarray(lamps.reduce(4).filter(ImageFilter.GaussianBlur(size / 180)).resize((size, size)), np.float32)
    light = np.clip(point * 9 + glow * 10, 0, 255)[..., None] / 255
    return dark + light * np.array((255, 206, 128), np.float32)
