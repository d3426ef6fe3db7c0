"""A small synthetic release in upstream's layout, of synthetic scenes, for the demo and for the tests.

Its images are to look like something to a person, for which `tests.releases` has no need; that also says why there are
several generators of releases.
"""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image

from mmm_rs_cli.demo.scenes import (
    Ground,
    Weather,
    airport,
    bridge,
    city,
    coast,
    desert,
    farmland,
    forest,
    harbour,
    lake,
    mountains,
    pasture,
    scene,
    town,
    valley,
)

JPEG_QUALITY = 85
DATE = (2024, 8, 9, 12, 0, 0)  # of all entries: the same release is the same bytes, whenever it is written
SUFFIX = ".jpg"

Records = list[tuple[str, str, dict]]  # image path, prompt, other fields


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
    records: dict[str, Records] = field(default_factory=dict)  # annotation file -> records
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

    def pair(
        self,
        place: str,
        path: str,
        pixels: np.ndarray,
        prompt: str,
        fields: dict | None = None,
        modality: str = "rgb",
        file: str | None = None,
    ) -> None:
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

    def write(self, folder: Path, annotation: Callable[[Records], str], method: int) -> SyntheticSubset:
        with zipfile.ZipFile(folder / f"{self.name}.zip", "w") as archive:
            for name, records in self.records.items():
                _add(archive, name, annotation(records).encode(), zipfile.ZIP_DEFLATED)
            for folder_name in sorted({path.rpartition("/")[0] for path in self.files}):
                _add(archive, folder_name + "/", b"", zipfile.ZIP_STORED)
            for path, data in self.files.items():
                _add(archive, path, data, method)
        return SyntheticSubset(
            self.name,
            tuple(self.files),
            sum(map(len, self.records.values())),
            self.samples,
            tuple(self.unmatched_images),
            tuple(self.unmatched_records),
        )


def _add(archive: zipfile.ZipFile, name: str, data: bytes, method: int) -> None:
    info = zipfile.ZipInfo(name, DATE)
    info.compress_type = method
    archive.writestr(info, data)


def _level(gsd: float) -> str:
    """Upstream's phrase for metres a pixel; between 10 m (low) and 100 m (ultra-low) the bound is not published."""
    bounds = ((0.5, "Ultra-high"), (1, "High"), (5, "Ordinary"), (100, "Low"))
    return next((word for bound, word in bounds if gsd < bound), "Ultra-low") + " precision resolution"


# The forms of annotations: one JSON array, an object keyed by path, JSON lines, an object around an array.


def _array(image_key: str, prompt_key: str) -> Callable[[Records], str]:
    return lambda records: json.dumps([{image_key: path, prompt_key: prompt, **rest} for path, prompt, rest in records])


def _keyed(prompt_key: str) -> Callable[[Records], str]:
    return lambda records: json.dumps({path: {prompt_key: prompt, **rest} for path, prompt, rest in records})


def _lines(image_key: str, prompt_key: str) -> Callable[[Records], str]:
    return lambda records: "".join(
        json.dumps({image_key: path, prompt_key: prompt, **rest}) + "\n" for path, prompt, rest in records
    )


def _wrapped(image_key: str, prompt_key: str) -> Callable[[Records], str]:
    def write(records: Records) -> str:
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
    """One annotation file a scene, one of them empty."""
    draft = _Draft("weather", seed)
    streets = _Theme("", lambda g: city(g, size / 5), "a city with lots of buildings")
    planes = _Theme("", lambda g: airport(g, size * 0.15), "an airport with several planes")
    fields = _Theme("", lambda g: farmland(g, size / 8), "a large area of farmland")
    shore = _Theme("", coast, "a coast with water and trees")
    kinds: tuple[tuple[str, Weather, float, str, tuple[_Theme, _Theme]], ...] = (
        ("fog", "fog", 1.0, "Sentinel-2", (fields, shore)),
        ("night", "night", 0.8, "GF2", (streets, planes)),
        ("snowy", "snow", 0.6, "Google Earth", (streets, shore)),
    )
    number = 0
    for name, weather, gsd, satellite, themes in kinds:
        for i in range(max(1, scenes // 2)):
            theme = themes[i % 2]
            view = scene(size, draft.rng(number), theme.paint, weather, aligned=False)
            prompt = f"Satellite imagery,  {_level(gsd)}, {name} ,a satellite image of {theme.caption}, {satellite}"
            path = f"{name}/{i:05d}{SUFFIX}"
            draft.pair(f"{name}/{i:05d}", path, view.rgb, prompt, file=f"MMM-RS_{name}_cleaned.json")
            number += 1
    draft.records["MMM-RS_night.json"] = []
    view = scene(size, draft.rng(number), desert, "fog", aligned=False)
    draft.lone_image(f"fog/{scenes:05d}{SUFFIX}", view.rgb)
    return draft


def _whu_opt_sar(seed: int, scenes: int, size: int) -> _Draft:
    draft = _Draft("WHU-OPT-SAR", seed)
    themes = [
        _Theme("farmland", lambda g: valley(g, size / 9), "a river that flows through farmland"),
        _Theme("city", lambda g: town(g, size / 24), "a town with fields around it"),
        _Theme("water", lake, "a lake with islands and forest"),
        _Theme("forest", forest, "a green forest on hills"),
    ]
    sheets = max(1, scenes // 2)
    folders = {
        "rgb": ("RGB_jpg", "RGB", "Satellite"),
        "nir": ("NIR_jpg", "NIR", "NIR"),
        "sar": ("sar_jpg", "SAR", "SAR"),
    }
    for sheet in range(sheets):
        theme, name = themes[sheet % len(themes)], f"NH49E{sheet + 1:03d}{13 + sheet:03d}"
        whole = scene(2 * size, draft.rng(sheet), theme.paint)
        for x in (0, size):
            for y in (0, size):
                view = whole.cut(x, y, size)
                for modality, (directory, token, kind) in folders.items():
                    if modality == "sar" and sheet == sheets - 1 and x == y == size:
                        continue  # the sample whose SAR image is missing, with its record
                    path = f"WHU-OPT-SAR_dataset/{directory}/{name}_{x}_{y}_{token}{SUFFIX}"
                    prompt = f"{kind} imagery,  {_level(5)}, a satellite image of {theme.caption}, GF1,  WHU-OPT-SAR"
                    pixels = getattr(view, modality)
                    fields = {"category": theme.category, "spatial_resolution": 5.0}
                    draft.pair(f"{name}_{x}_{y}", path, pixels, prompt, fields, modality)
    draft.lone_record(
        f"WHU-OPT-SAR_dataset/sar_jpg/NH50E001001_0_0_SAR{SUFFIX}",
        f"SAR imagery,  {_level(5)}, a satellite image of a city, GF1,  WHU-OPT-SAR",
    )
    return draft


def _sen12(seed: int, scenes: int, size: int) -> _Draft:
    draft = _Draft("SEN1-2", seed)
    themes = [
        _Theme("", lambda g: farmland(g, size / 20), "a large area of farmland"),
        _Theme("", coast, "a body of water next to a forest"),
        _Theme("", lambda g: town(g, size / 40), "a town surrounded by fields"),
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
                prompt = f"{start}{_level(10)}, a {word} image of {theme.caption}, {satellite}, SEN1-2"
                if modality == "sar" and number == scenes - 1 and patch == 2:
                    draft.lone_record(path, prompt)
                    continue
                draft.pair(f"{season}_{place}", path, getattr(view, modality), prompt, modality=modality)
    return draft


def _inria(seed: int, scenes: int, size: int) -> _Draft:
    """As upstream's cutter does: one large image, resized and cut into parts."""
    draft = _Draft("Inria", seed)
    for number in range(max(1, scenes // 2)):
        name = ("vienna", "austin", "chicago", "tyrol-w")[number % 4] + str(1 + number // 4)
        whole = scene(2 * size, draft.rng(number), lambda g: city(g, size / 3.6), aligned=False)
        resized = np.asarray(Image.fromarray(whole.rgb).reduce(2))
        crops = [(f"resize_512_from_1024_{name}", resized, 0.6)]
        crops += [
            (f"crop_512_{i}_{j}_{name}", whole.cut(j * size, i * size, size).rgb, 0.3) for i in (0, 1) for j in (0, 1)
        ]
        crops.append((f"crop_512_center_{name}", whole.cut(size // 2, size // 2, size).rgb, 0.3))
        for stem, pixels, gsd in crops:
            prompt = f"Satellite imagery, {_level(gsd)}, an aerial view of a city with houses and streets, Inria"
            draft.pair(stem, f"Inria_dataset/{stem}{SUFFIX}", pixels, prompt, {"spatial_resolution": gsd})
    lone = f"Inria_dataset/crop_512_9_9_{name}{SUFFIX}"
    draft.lone_record(lone, f"Satellite imagery, {_level(0.3)}, an aerial view of a city, Inria")
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
            caption = f"{theme.category.replace('_', ' ')}, a satellite image of {theme.caption}"
            prompt = f"Satellite imagery,  {_level(0.4)}, {caption}, fMoW"
            fields = {"category": theme.category, "spatial_resolution": 0.4, "cloud_cover": number}
            draft.pair(stem, f"fMoW_dataset/{stem}{SUFFIX}", whole.cut(left, top, size).rgb, prompt, fields)
    stem = "lake_or_pond_7_1_rgb_sr"
    view = scene(size * 3 // 4, draft.rng(scenes), lake, aligned=False)
    fields = {"category": "lake_or_pond", "spatial_resolution": 0.8, "cloud_cover": 12}
    prompt = f"Satellite imagery,  {_level(0.8)}, lake or pond, a satellite image of a lake, fMoW"
    draft.pair(stem, f"fMoW_dataset/{stem}{SUFFIX}", view.rgb[: size // 2], prompt, fields)
    draft.lone_image(f"fMoW_dataset/lake_or_pond_7_2_rgb_center{SUFFIX}", view.rgb)
    return draft


def _single(
    seed: int,
    name: str,
    scenes: int,
    size: int,
    themes: Sequence[_Theme],
    stem: Callable[[str, int], str],
    prompt: Callable[[_Theme], str],
    fields: Callable[[_Theme], dict],
) -> _Draft:
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
    draft = _single(
        seed,
        "TGRS-HRRSD",
        scenes,
        size,
        themes,
        lambda _, n: f"{n + 1:05d}",
        lambda t: f"{_level(0.6)}, {t.category},an aerial view of {t.caption}, Google Earth, TGRS-HRRSD",
        lambda t: {"category": t.category, "spatial_resolution": 0.6},
    )
    lone = f"TGRS-HRRSD_dataset/99999{SUFFIX}"
    draft.lone_record(lone, f"{_level(0.6)}, bridge,an aerial view, Google Earth, TGRS-HRRSD")
    return draft


def _gid(seed: int, scenes: int, size: int) -> _Draft:
    themes = [
        _Theme("built-up", lambda g: city(g, size / 16), "a city with lots of buildings"),
        _Theme("farmland", lambda g: farmland(g, size / 10), "a large area of farmland"),
        _Theme("water", lambda g: valley(g, size / 7), "a river with fields on both sides"),
        _Theme("forest", forest, "a dense green forest"),
    ]
    return _single(
        seed,
        "GID",
        scenes,
        size,
        themes,
        lambda _, n: f"GF2_PMS1_{n // 4 + 1}_{n % 4}",
        lambda t: f"Satellite imagery,  {_level(4)}, {t.category},an image of {t.caption}, GF2,   GID",
        lambda t: {"category": t.category, "spatial_resolution": 4},
    )


def _nasc_tg2(seed: int, scenes: int, size: int) -> _Draft:
    themes = [
        _Theme("mountain", mountains, "mountains with snow on top"),
        _Theme("beach", coast, "a beach and the sea"),
        _Theme("desert", desert, "a dry desert with dunes"),
        _Theme("farmland", lambda g: farmland(g, size / 28), "a patchwork of fields"),
    ]
    draft = _single(
        seed,
        "NaSC-TG2",
        scenes,
        size,
        themes,
        lambda c, n: f"{c}{n:02d}",
        lambda t: f"Satellite imagery, {_level(100)}, {t.category}, an image of {t.caption}, TG2, NaSC-TG2",
        lambda t: {"category": t.category, "spatial_resolution": 100},
    )
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
    return _single(
        seed,
        "MRSSC2.0",
        scenes,
        size,
        themes,
        lambda c, n: f"RGB_{c}_{c}_{n + 1}",
        lambda t: f"Satellite imagery, {_level(100)}, {t.category}, an image of {t.caption}, TG2, MRSSC2.0",
        lambda t: {"category": t.category, "spatial_resolution": 100},
    )


def _hrsc2016(seed: int, scenes: int, size: int) -> _Draft:
    themes = [
        _Theme("ship", lambda g: harbour(g, size * 0.34), "several ships docked at a pier"),
        _Theme("ship", lambda g: harbour(g, size * 0.24), "a harbour with ships and storehouses"),
    ]
    draft = _single(
        seed,
        "HRSC2016",
        scenes,
        size,
        themes,
        lambda _, n: f"{100000001 + n}",
        lambda t: f"{_level(1.1)}, an aerial view of {t.caption}, Google Earth, HRSC2016",
        lambda t: {"spatial_resolution": 1.07},
    )
    lone = f"HRSC2016_dataset/100009999{SUFFIX}"
    draft.lone_record(lone, f"{_level(1.1)}, an aerial view of a ship, Google Earth, HRSC2016")
    return draft
