"""Releases in every form that upstream's can have, made from one logical description. Everything here is synthetic.

A `Subset` says what one subset's zip holds and what a converter has to make of it; `small()` gives all ten. A form
(`FORMS`) writes a list of subsets to disk and returns the path to hand to the converter. All of `FORMS` hold the same
files, so all must convert to the same bytes. Damage is done afterwards, to what a form wrote.

The truth stated here follows from the format's specification alone: nothing of the project is imported, and archives
are written with `zipfile`, by hand with `struct`, or with Info-ZIP's `zip`.

There are three generators of releases, because one cannot be all of this:
* This one is the truth that tests compare with: tiny images, every form and every damage, independent of the product.
* `mmm_rs_cli.demo.synthetic` is part of the product, so it cannot be a witness for it: drawn scenes that a person can
  recognise, for the demo and for what tests show to people (card, preview).
* `benchmarks.inputs` writes images of a real release's size, in any number; they may differ by a comment alone.
Where only what comes after a conversion matters, `tests.converted` writes a converted folder without any release.
"""

from __future__ import annotations

import functools
import io
import json
import re
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from unittest import mock

from PIL import Image

NAMES = ("weather", "WHU-OPT-SAR", "SEN1-2", "Inria", "fMoW", "TGRS-HRRSD", "GID", "NaSC-TG2", "MRSSC2.0", "HRSC2016")
STORED, DEFLATED = zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED
DATE = (2024, 8, 9, 12, 0, 0)


# ---------------------------------------------------------------------------------------------------------- pictures


@functools.cache
def _base(shade: int, size: tuple[int, int], modality: str) -> bytes:
    ramp = Image.linear_gradient("L").resize(size)
    if modality == "rgb":
        other = Image.new("L", size, shade)
        image = Image.merge("RGB", (ramp, other, ramp.transpose(Image.Transpose.ROTATE_90).resize(size)))
    else:  # three equal channels, as upstream saved single bands
        image = Image.merge("RGB", [ramp.point(lambda value: (value + shade) % 256)] * 3)
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=60)
    return buffer.getvalue()


def picture(name: str, size: tuple[int, int] = (32, 32), modality: str = "rgb") -> bytes:
    """A tiny JPEG (about 1 kB) that depends on `name` alone. No two names give the same bytes: a comment holds it."""
    data = _base(zlib.crc32(name.encode()) % 16 * 16, size, modality)
    comment = name.encode()
    return data[:2] + b"\xff\xfe" + struct.pack(">H", len(comment) + 2) + comment + data[2:]


def encoded(image: Image.Image, format: str, **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def resized_header(jpeg: bytes, width: int, height: int) -> bytes:
    """The JPEG with other dimensions in its frame header: what a decoder believes before it reads on."""
    frame = next(match.start() for match in re.finditer(rb"\xff[\xc0\xc2]\x00\x11\x08", jpeg))
    return jpeg[: frame + 5] + struct.pack(">HH", height, width) + jpeg[frame + 9 :]


@dataclass(frozen=True)
class OddImage:
    """Bytes that may stand under a `.jpg` name, and whether they are whole and so to be published."""

    data: bytes
    published: bool
    size: tuple[int, int] | None = None  # width, height where published


@functools.cache
def odd_images() -> dict[str, OddImage]:
    good = picture("odd", (48, 40))
    ramp = Image.linear_gradient("L").resize((48, 40))
    return {
        "not_512": OddImage(good, True, (48, 40)),
        "png": OddImage(encoded(ramp.convert("RGB"), "PNG"), True, (48, 40)),
        "png_16_bit": OddImage(encoded(Image.new("I;16", (48, 40), 40000), "PNG"), True, (48, 40)),
        "cmyk": OddImage(encoded(ramp.convert("CMYK"), "JPEG"), True, (48, 40)),
        "grey": OddImage(encoded(ramp, "JPEG"), True, (48, 40)),
        "progressive": OddImage(encoded(ramp.convert("RGB"), "JPEG", progressive=True), True, (48, 40)),
        "bytes_after_end": OddImage(good + b"\0" * 7 + b"trailing", True, (48, 40)),
        "empty": OddImage(b"", False),
        "text": OddImage(b"this is no image\n", False),
        "no_end_marker": OddImage(good[:-2], False),
        "cut_in_half": OddImage(good[: len(good) // 2], False),
        "too_many_pixels": OddImage(resized_header(good, 30000, 30000), False),
        "zeroed": OddImage(b"\0" * len(good), False),
    }


# ------------------------------------------------------------------------------------------------------- description


@dataclass(frozen=True)
class Pair:
    """One image that is to be published: its path within the subset and the prompt of its record."""

    path: str
    prompt: str | None
    record: dict | None = field(default=None, compare=False)  # as the annotation file states it; keyed: with its key


@dataclass(frozen=True)
class Subset:
    """What one subset's zip holds, and what is to come of it."""

    name: str
    files: dict[str, bytes]  # path within the subset -> bytes: annotations first, then images
    samples: dict[str, dict[str, Pair]]  # key -> modality -> pair
    unmatched_images: tuple[str, ...] = ()  # images that no record names
    unmatched_records: tuple[str, ...] = ()  # paths of records that name no image
    unmatched_positions: tuple[tuple[str, int], ...] = ()  # the same records as (annotation file, number from 0)

    @property
    def images(self) -> dict[str, bytes]:
        return {path: data for path, data in self.files.items() if not is_annotation(path)}

    @property
    def records(self) -> int:
        return sum(len(modalities) for modalities in self.samples.values()) + len(self.unmatched_records)

    def with_files(self, **changed: bytes) -> Subset:  # paths as keys: `with_files(**{"a/b.jpg": b"..."})`
        return replace(self, files=self.files | changed)


def is_annotation(path: str) -> bool:
    return path.lower().endswith((".json", ".jsonl"))


def key(subset: str, place: str) -> str:
    """The key of a sample by the format's rule: `place` is its path in the image folder, no suffix, no modality."""
    return "/".join(re.sub(r"[^A-Za-z0-9_-]", "_", part) for part in (subset, *place.split("/")))


def pairs(subsets: Iterable[Subset]) -> dict[tuple[str, str], tuple[str, str | None, bytes]]:
    """{(key, modality): (path within the subset, prompt, the image's bytes)} of all that is to be published."""
    return {
        (key, modality): (pair.path, pair.prompt, subset.files[pair.path])
        for subset in subsets
        for key, modalities in subset.samples.items()
        for modality, pair in modalities.items()
    }


def annotation(
    records: Sequence[tuple[str, str | list | None, dict]],
    form: str = "array",
    image_key: str = "image",
    prompt_key: str = "prompt",
    encoding: str = "utf-8",
) -> bytes:
    """An annotation file: `records` are (image path, prompt, other fields); `form` array, keyed, wrapped or lines."""
    if form == "keyed":
        text = json.dumps({path: {prompt_key: prompt, **rest} for path, prompt, rest in records}, ensure_ascii=False)
    else:
        rows = [{image_key: path, prompt_key: prompt, **rest} for path, prompt, rest in records]
        if form == "lines":
            text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        elif form == "wrapped":
            about = {
                "description": "synthetic",
                "version": "1.0",
            }  # COCO's own members: no record, though it may look so
            text = json.dumps({"info": about, "annotations": rows}, ensure_ascii=False, indent=1)
        elif form == "array":
            text = json.dumps(rows, ensure_ascii=False)
        else:
            raise ValueError(form)
    return text.encode(encoding)


@dataclass(frozen=True)
class Entry:
    """One image to be described: what is left out of `files` or of the annotation makes it unmatched."""

    place: str  # key without the subset
    path: str  # within the subset
    prompt: str | list | None
    modality: str = "rgb"
    fields: dict = field(default_factory=dict)
    stated_path: str | None = None  # the path as the record states it; None: `path`
    image: bool = True
    record: bool = True
    size: tuple[int, int] = (32, 32)


def subset(name: str, files: dict[str, dict], entries: Sequence[Entry]) -> Subset:
    """A subset of `entries`. `files`: annotation file -> options of `annotation` and `start`, the paths it is about."""
    listed: dict[str, list] = {file: [] for file in files}
    samples: dict[str, dict[str, Pair]] = {}
    images = {}
    unmatched_images, unmatched_records, unmatched_positions = [], [], []
    for entry in entries:
        stated = entry.stated_path or entry.path
        if entry.record:
            file = next(file for file, options in files.items() if entry.path.startswith(options.get("start", "")))
            listed[file].append((stated, entry.prompt, entry.fields))
        if entry.image:
            images[entry.path] = picture(f"{name}/{entry.path}", entry.size, entry.modality)
        if entry.image and entry.record:
            prompt = entry.prompt[0] if isinstance(entry.prompt, list) else entry.prompt
            samples.setdefault(key(name, entry.place), {})[entry.modality] = Pair(entry.path, prompt, entry.fields)
        elif entry.image:
            unmatched_images.append(entry.path)
        else:
            unmatched_records.append(stated)
            unmatched_positions.append((file, len(listed[file]) - 1))
    written = {
        file: annotation(listed[file], **{name: value for name, value in options.items() if name != "start"})
        for file, options in files.items()
    }
    return Subset(
        name, written | images, samples, tuple(unmatched_images), tuple(unmatched_records), tuple(unmatched_positions)
    )


def small(unmatched: bool = True) -> list[Subset]:
    """All ten subsets, 47 images or so of about 1 kB, each subset with another annotation form.

    `unmatched=False` leaves out the images without a record and the records without an image; a SAR image of
    WHU-OPT-SAR is missing either way.
    """
    return [build(unmatched) for build in _BUILDERS]


def _loose(entries: list[Entry], folder: str, loose: bool) -> list[Entry]:
    """One image without a record and one record without an image more."""
    if not loose:
        return entries
    return [
        *entries,
        Entry("unrecorded_1", f"{folder}unrecorded_1.jpg", None, record=False),
        Entry("unreleased_1", f"{folder}unreleased_1.jpg", "Low precision resolution, a place nobody saw", image=False),
    ]


def _weather(loose: bool) -> Subset:
    entries = [
        Entry(
            f"{folder}/0000{i}",
            f"{folder}/0000{i}.jpg",
            f"Satellite imagery, {level} precision resolution, {folder}, a satellite image of field {i}, {satellite}",
        )
        for folder, level, satellite in (("fog", "Ordinary", "Sentinel-2"), ("snowy", "High", "GF2"))
        for i in range(2)
    ]
    if loose:
        entries.append(Entry("night/00000", "night/00000.jpg", None, record=False))
    files = {
        f"MMM-RS_{folder}_cleaned.json": {"start": folder, "image_key": "image_path", "prompt_key": "text_prompt"}
        for folder in ("fog", "night", "snowy")
    }
    return subset("weather", files, entries)


def _whu(loose: bool) -> Subset:
    kinds = {"rgb": ("RGB", "RGB_jpg", "Satellite"), "nir": ("NIR", "NIR_jpg", "NIR"), "sar": ("SAR", "sar_jpg", "SAR")}
    entries = [
        Entry(
            f"{sheet}_{x}_{y}",
            f"WHU-OPT-SAR_dataset/{folder}/{sheet}_{x}_{y}_{token}.jpg",
            f"{kind} imagery,  Low precision resolution, a {modality} image of {sheet} at {x}, GF1,  WHU-OPT-SAR",
            modality,
            {"category": "farmland", "spatial_resolution": 5.0},
        )
        for modality, (token, folder, kind) in kinds.items()
        for sheet in ("NH49E001013", "NH49E002013")
        for x in (0, 512)
        for y in (0, 512)
        if (modality, sheet, x, y) != ("sar", "NH49E002013", 512, 512)
    ]
    if loose:
        entries.append(
            Entry(
                "NH50E001001_0_0",
                "WHU-OPT-SAR_dataset/RGB_jpg/NH50E001001_0_0_RGB.jpg",
                "Low precision resolution, a sheet nobody saw",
                image=False,
            )
        )
    return subset("WHU-OPT-SAR", {"MMM-RS_WHU-OPT-SAR.json": {}}, entries)


def _sen12(loose: bool) -> Subset:
    # All three seasons hold the letters `s1`, which is also a modality's token.
    places = [("ROIs1158_spring", 1, 1), ("ROIs1158_spring", 1, 2), ("ROIs1868_summer", 7, 1), ("ROIs1970_fall", 9, 30)]
    entries = [
        Entry(
            f"{season}_{scene}_p{n}",
            f"SEN1-2_dataset/SEN1-2_{folder}/{season}_{token}_{scene}_p{n}.jpg",
            f"{start}Low precision resolution, an image of patch {n}, {satellite}, SEN1-2",
            modality,
        )
        for season, scene, n in places
        for modality, token, folder, start, satellite in (
            ("rgb", "s2", "RGB", "", "Sentinel-2"),
            ("sar", "s1", "SAR", "SAR imagery, ", "Sentinel-1"),
        )
    ]
    if loose:
        path = "SEN1-2_dataset/SEN1-2_SAR/ROIs2017_winter_s1_4_p2.jpg"
        entries.append(Entry("ROIs2017_winter_4_p2", path, None, "sar", record=False))
    return subset("SEN1-2", {"MMM-RS_SEN1-2.json": {"form": "keyed", "prompt_key": "caption"}}, entries)


def _inria(loose: bool) -> Subset:
    stems = {
        "resize_512_from_4096_vienna1": "Ordinary",
        "resize_512_from_2048_vienna1": "Ordinary",
        "resize_512_from_1024_vienna1": "High",
        "crop_512_0_0_vienna1": "Ultra-high",
        "crop_512_center_vienna1": "Ultra-high",
    }
    entries = [
        Entry(
            stem,
            f"Inria_dataset/{stem}.jpg",
            stated_path=f"{stem}.jpg",
            prompt=f"Satellite imagery, {level} precision resolution, an aerial view, Inria",
        )
        for stem, level in stems.items()
    ]
    options = {"form": "lines", "image_key": "file_name", "prompt_key": "text"}
    return subset("Inria", {"MMM-RS_Inria.json": options}, _loose(entries, "Inria_dataset/", loose))


def _fmow(loose: bool) -> Subset:
    stems = ["airport_0_0_rgb_center", "airport_0_0_rgb_left_bottom", "airport_0_1_rgb_right_top", "zoo_12_3_rgb_sr"]
    entries = [
        Entry(
            stem,
            f"fMoW_dataset/{stem}.jpg",
            f"Satellite imagery,  Ultra-high precision resolution, {stem.split('_')[0]}, an image of {stem}, fMoW",
            fields={"category": stem.split("_")[0], "spatial_resolution": 0.45, "cloud_cover": 3 + number},
            stated_path=f"/home/user/fMoW/{stem}.png",
            size=(40, 24) if stem.endswith("sr") else (32, 32),
        )
        for number, stem in enumerate(stems)
    ]
    options = {"form": "keyed", "prompt_key": "prompt"}
    return subset("fMoW", {"MMM-RS_fMoW.json": options}, _loose(entries, "fMoW_dataset/", loose))


def _hrrsd(loose: bool) -> Subset:
    entries = [
        Entry(
            f"{n:05d}",
            f"TGRS-HRRSD_dataset/{n:05d}.jpg",
            f"High precision resolution, bridge, an aerial view of bridge {n}, Google Earth, TGRS-HRRSD",
            fields={"gsd": 0.6},
            stated_path=f"TGRS-HRRSD_dataset\\{n:05d}.jpg",
        )
        for n in (1, 2, 300)
    ]
    options = {"form": "wrapped", "image_key": "img", "encoding": "utf-8-sig"}
    return subset("TGRS-HRRSD", {"MMM-RS_TGRS-HRRSD.json": options}, _loose(entries, "TGRS-HRRSD_dataset/", loose))


def _gid(loose: bool) -> Subset:
    # A stem with Chinese characters, one with spaces, one with dots: all others of a key's characters become `_`.
    stems = ["GF2_中国_001", "GF2 scene 7", "GF2_v1.2_003"]
    entries = [
        Entry(
            stem,
            f"GID_dataset/{stem}.jpg",
            ["Satellite imagery, Ordinary precision resolution ,built-up,a satellite image, GF2,   GID", "a city"],
        )
        for stem in stems
    ]
    options = {"image_key": "filename", "prompt_key": "captions", "encoding": "gb18030"}
    return subset("GID", {"MMM-RS_GID.json": options}, _loose(entries, "GID_dataset/", loose))


def _nasc(loose: bool) -> Subset:
    entries = [
        Entry(
            stem,
            f"NaSC-TG2_dataset/{stem}.jpg",
            f"Satellite imagery, Ultra-low precision resolution, {stem[:-2]}, an image of {stem}, TG2, NaSC-TG2",
            stated_path=stem,
        )
        for stem in ("airplane00", "forest10", "forest99")
    ]
    options = {"image_key": "name", "prompt_key": "description"}
    return subset("NaSC-TG2", {"MMM-RS_NaSC-TG2.json": options}, _loose(entries, "NaSC-TG2_dataset/", loose))


def _mrssc(loose: bool) -> Subset:
    stems = ["RGB_AnnualCrop_AnnualCrop_1", "RGB_Pasture_Pasture_300", "RGB_SeaLake_SeaLake_3000"]
    entries = [
        Entry(
            stem,
            f"MRSSC2.0_dataset/{stem}.jpg",
            f"Satellite imagery, Ultra-low precision resolution, {stem.split('_')[1]}, an image, TG2, MRSSC2.0",
            fields={"category": stem.split("_")[1], "spatial_resolution": 100},
        )
        for stem in stems
    ]
    options = {"image_key": "path", "prompt_key": "text_prompt"}
    return subset("MRSSC2.0", {"MMM-RS_MRSSC2.0.json": options}, _loose(entries, "MRSSC2.0_dataset/", loose))


def _hrsc(loose: bool) -> Subset:
    entries = [
        Entry(
            f"10000000{n}",
            f"HRSC2016_dataset/10000000{n}.jpg",
            f"Ordinary precision resolution, a harbour with {n} ships, Google Earth",
            stated_path=f"10000000{n}.bmp",
        )
        for n in range(1, 4)
    ]
    options = {"image_key": "file", "prompt_key": "text", "encoding": "utf-16"}
    return subset("HRSC2016", {"MMM-RS_HRSC2016.json": options}, _loose(entries, "HRSC2016_dataset/", loose))


_BUILDERS = (_weather, _whu, _sen12, _inria, _fmow, _hrrsd, _gid, _nasc, _mrssc, _hrsc)


def many(name: str = "fMoW", count: int = 1000) -> Subset:
    """A subset of one modality with `count` samples of one small image each: one JSON array, nothing unmatched."""
    entries = [
        Entry(
            f"airport_{i}_0_rgb",
            f"{name}_dataset/airport_{i}_0_rgb.jpg",
            f"High precision resolution, airport, a satellite image of airport {i}, {name}",
        )
        for i in range(count)
    ]
    return subset(name, {f"MMM-RS_{name}.json": {}}, entries)


def with_odd_images(name: str = "GID") -> Subset:
    """A subset whose images are `odd_images()`, each under its own name and with a record."""
    odd = odd_images()
    entries = [Entry(stem, f"{name}_dataset/{stem}.jpg", f"Low precision resolution, an image, {stem}") for stem in odd]
    whole = subset(name, {f"MMM-RS_{name}.json": {}}, entries)
    files = whole.files | {f"{name}_dataset/{stem}.jpg": image.data for stem, image in odd.items()}
    samples = {key: value for key, value in whole.samples.items() if odd[Path(value["rgb"].path).stem].published}
    return replace(whole, files=files, samples=samples)


# ------------------------------------------------------------------------------------------------------ writing zips


def zipped(files: dict[str, bytes], method: int = STORED, folders: bool = True) -> bytes:
    """A zip of `files` made by `zipfile`; `folders` adds entries for the folders, as archivers do."""
    buffer = io.BytesIO()
    _write_zip(buffer, files, method, folders)
    return buffer.getvalue()


def _write_zip(target, files: dict[str, bytes], method: int, folders: bool, **options) -> None:
    with zipfile.ZipFile(target, "w", method) as archive:
        done: set[str] = set()
        for name, data in files.items():
            parents = [str(parent) + "/" for parent in reversed(Path(name).parents) if str(parent) != "."]
            for parent in parents if folders else []:
                if parent not in done:
                    done.add(parent)
                    archive.writestr(zipfile.ZipInfo(parent, DATE), b"")
            info = zipfile.ZipInfo(name, DATE)
            info.compress_type = method
            with archive.open(info, "w", **options) as entry:
                entry.write(data)


def zipped_zip64(files: dict[str, bytes], method: int = STORED) -> bytes:
    """All sizes and offsets in zip64 fields, in the local headers, the central directory and its end."""
    buffer = io.BytesIO()
    with mock.patch.multiple(zipfile, ZIP64_LIMIT=0, ZIP_FILECOUNT_LIMIT=0):
        _write_zip(buffer, files, method, folders=False, force_zip64=True)
    return buffer.getvalue()


class _Pipe(io.RawIOBase):
    """What `zipfile` sees when it writes to a pipe: it cannot go back, so sizes follow the data in a descriptor."""

    def __init__(self) -> None:
        self.data = bytearray()

    def writable(self) -> bool:
        return True

    def write(self, data) -> int:
        self.data += data
        return len(data)


def zipped_to_pipe(files: dict[str, bytes], method: int = DEFLATED) -> bytes:
    """Data descriptors: the local headers hold neither size nor CRC."""
    pipe = _Pipe()
    _write_zip(pipe, files, method, folders=True)
    return bytes(pipe.data)


@dataclass(frozen=True)
class RawEntry:
    """One entry of `raw_zip`, each field of its headers as wanted; None means as it should be.

    `local` and `central` replace single fields of one header: method, flags, crc, packed, size, name, extra, offset
    (central only), attributes (central only: external attributes, e.g. `0o120777 << 16` for a symbolic link).
    """

    name: bytes
    data: bytes = b""
    method: int = 0
    flags: int = 0
    payload: bytes | None = None  # the bytes that stand in the file; None: `data` by `method`
    local: dict = field(default_factory=dict)
    central: dict = field(default_factory=dict)


def raw_zip(entries: Sequence[RawEntry], prefix: bytes = b"", comment: bytes = b"") -> bytes:
    """A zip made by hand, header by header (PKWARE APPNOTE 4.3.7, 4.3.12, 4.3.16): what no archiver would write."""
    out, directory = bytearray(prefix), bytearray()
    for entry in entries:
        payload = entry.payload
        if payload is None:
            payload = _raw_deflate(entry.data) if entry.method == DEFLATED else entry.data
        fields = {
            "method": entry.method,
            "flags": entry.flags,
            "crc": zlib.crc32(entry.data),
            "packed": len(payload),
            "size": len(entry.data),
            "name": entry.name,
            "extra": b"",
            "offset": len(out),
            "attributes": 0o100644 << 16,
        }
        local, central = fields | entry.local, fields | entry.central
        out += _fixed(b"PK\3\4", (20,), local) + local["name"] + local["extra"] + payload
        directory += _fixed(b"PK\1\2", (0x314, 20), central)
        directory += struct.pack("<HHHII", 0, 0, 0, central["attributes"], central["offset"])
        directory += central["name"] + central["extra"]
    count, start = len(entries), len(out)
    end = struct.pack("<4s4H2IH", b"PK\5\6", 0, 0, count, count, len(directory), start, len(comment))
    return bytes(out + directory + end + comment)


def _fixed(signature: bytes, versions: tuple[int, ...], fields: dict) -> bytes:
    year, month, day, hour, minute, second = DATE
    time, date = hour << 11 | minute << 5 | second // 2, (year - 1980) << 9 | month << 5 | day
    return signature + struct.pack(
        f"<{len(versions)}H4H3I2H",
        *versions,
        fields["flags"],
        fields["method"],
        time,
        date,
        fields["crc"],
        fields["packed"],
        fields["size"],
        len(fields["name"]),
        len(fields["extra"]),
    )


def _raw_deflate(data: bytes) -> bytes:
    compressor = zlib.compressobj(6, zlib.DEFLATED, -15)
    return compressor.compress(data) + compressor.flush()


def zipped_gbk(files: dict[str, bytes]) -> bytes:
    """Names in GBK without the UTF-8 flag, as Chinese Windows writes them."""
    return raw_zip([RawEntry(name.encode("gbk"), data, DEFLATED) for name, data in files.items()])


def zipped_backslashes(files: dict[str, bytes]) -> bytes:
    """Backslashes between folders, as some Windows archivers write them; other names in UTF-8 with its flag."""
    return raw_zip([RawEntry(name.replace("/", "\\").encode(), data, flags=0x800) for name, data in files.items()])


def with_junk(files: dict[str, bytes]) -> dict[str, bytes]:
    """What Windows and macOS leave in folders and archives; the `._` files even carry the images' suffix."""
    first = next(path for path in files if not is_annotation(path))
    annotation = next((path for path in files if is_annotation(path)), first)
    folder = first.rpartition("/")[0]
    slash = folder + "/" if folder else ""
    name = first.rpartition("/")[2]
    apple = b"\0\5\x16\7" + b"\0" * 60
    return files | {
        f"{slash}Thumbs.db": b"\xd0\xcf\x11\xe0junk",
        f"{slash}.DS_Store": b"\0\0\0\1Bud1",
        f"{slash}desktop.ini": b"[x]",
        f"{slash}._{name}": apple,
        f"__MACOSX/{slash}._{name}": apple,
        f"__MACOSX/._{annotation}": apple,
    }


# ------------------------------------------------------------------------------------------------------------- forms


def put(folder: Path, files: dict[str, bytes]) -> Path:
    """Write `files` under `folder`."""
    for name, data in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return folder


def _zips(subsets: Iterable[Subset], make: Callable[[dict[str, bytes]], bytes] = zipped) -> dict[str, bytes]:
    return {f"{subset.name}.zip": make(subset.files) for subset in subsets}


def _folders(subsets: Iterable[Subset], top: str = "MMM-RS/") -> dict[str, bytes]:
    return {f"{top}{subset.name}/{path}": data for subset in subsets for path, data in subset.files.items()}


def _deflated(files: dict[str, bytes]) -> bytes:
    return zipped(files, DEFLATED)


def zips_stored(subsets: Sequence[Subset], folder: Path) -> Path:
    return put(folder / "MMM-RS", _zips(subsets))


def zips_deflated(subsets: Sequence[Subset], folder: Path) -> Path:
    return put(folder / "MMM-RS", _zips(subsets, _deflated))


def zips_zip64(subsets: Sequence[Subset], folder: Path) -> Path:
    return put(folder / "MMM-RS", _zips(subsets, zipped_zip64))


def zips_to_pipe(subsets: Sequence[Subset], folder: Path) -> Path:
    return put(folder / "MMM-RS", _zips(subsets, zipped_to_pipe))


def zips_gbk(subsets: Sequence[Subset], folder: Path) -> Path:
    return put(folder / "MMM-RS", _zips(subsets, zipped_gbk))


def zips_backslashes(subsets: Sequence[Subset], folder: Path) -> Path:
    return put(folder / "MMM-RS", _zips(subsets, zipped_backslashes))


def zips_with_junk(subsets: Sequence[Subset], folder: Path) -> Path:
    return put(folder / "MMM-RS", with_junk(_zips(subsets, lambda files: _deflated(with_junk(files)))))


def zips_with_top_folder(subsets: Sequence[Subset], folder: Path) -> Path:
    """Each subset's zip holds one folder of the subset's name, with everything in it."""

    def make(subset: Subset) -> bytes:
        return zipped({f"{subset.name}/{path}": data for path, data in subset.files.items()})

    return put(folder / "MMM-RS", {f"{subset.name}.zip": make(subset) for subset in subsets})


def zips_in_folders(subsets: Sequence[Subset], folder: Path) -> Path:
    """An extra folder above, and each zip in a folder of its own, as download tools leave them."""
    zips = _zips(subsets)
    return put(folder / "download", {f"MMM-RS/{name[:-4]}/{name}": data for name, data in zips.items()})


def one_zip_of_stored_zips(subsets: Sequence[Subset], folder: Path) -> Path:
    files = {f"MMM-RS/{name}": data for name, data in _zips(subsets).items()}
    return put(folder, {"MMM-RS.zip": zipped(files)}) / "MMM-RS.zip"


def one_zip_of_stored_deflated_zips(subsets: Sequence[Subset], folder: Path) -> Path:
    """The outer zip stores, the inner zips deflate; no folder between, a comment at the end."""
    entries = [RawEntry(name.encode(), data) for name, data in _zips(subsets, _deflated).items()]
    return put(folder, {"MMM-RS.zip": raw_zip(entries, comment=b"synthetic")}) / "MMM-RS.zip"


def one_zip_of_deflated_zips(subsets: Sequence[Subset], folder: Path) -> Path:
    files = {f"MMM-RS/{name}": data for name, data in _zips(subsets).items()}
    return put(folder, {"MMM-RS.zip": _deflated(files)}) / "MMM-RS.zip"


def one_zip_of_folders(subsets: Sequence[Subset], folder: Path) -> Path:
    return put(folder, {"MMM-RS.zip": _deflated(_folders(subsets))}) / "MMM-RS.zip"


def one_zip_in_a_folder(subsets: Sequence[Subset], folder: Path) -> Path:
    """The folder that `MMM-RS.zip` was downloaded into is given, not the zip."""
    one_zip_of_stored_zips(subsets, folder / "download")
    return folder / "download"


def folders(subsets: Sequence[Subset], folder: Path) -> Path:
    return put(folder, _folders(subsets)) / "MMM-RS"


def folders_with_top_folder(subsets: Sequence[Subset], folder: Path) -> Path:
    return put(folder, _folders(subsets, "download/2024/MMM-RS/")) / "download"


def folders_with_junk(subsets: Sequence[Subset], folder: Path) -> Path:
    files = {f"{each.name}/{path}": data for each in subsets for path, data in with_junk(each.files).items()}
    return put(folder / "MMM-RS", files)


def side_by_side(subsets: Sequence[Subset], folder: Path) -> Path:
    """All zips unzipped into one folder: weather's `fog/` and the annotation files lie beside the image folders."""
    return put(folder / "MMM-RS", {path: data for subset in subsets for path, data in subset.files.items()})


def mixed(subsets: Sequence[Subset], folder: Path) -> Path:
    """Some subsets in zips of several kinds, some extracted, some in a zip of zips, in one folder."""
    makers = (zipped, _deflated, zipped_zip64, zipped_to_pipe)
    zips, loose, nested = subsets[0::3], subsets[1::3], subsets[2::3]
    put(folder / "MMM-RS", {f"{each.name}.zip": makers[i % 4](each.files) for i, each in enumerate(zips)})
    put(folder, _folders(loose))
    put(folder / "MMM-RS" / "more", {"MMM-RS.zip": zipped({f"MMM-RS/{n}": d for n, d in _zips(nested).items()})})
    return folder / "MMM-RS"


# Every undamaged form: all must convert to the same bytes, report included.
FORMS: dict[str, Callable[[Sequence[Subset], Path], Path]] = {
    form.__name__: form
    for form in (
        zips_stored,
        zips_deflated,
        zips_zip64,
        zips_to_pipe,
        zips_gbk,
        zips_backslashes,
        zips_with_junk,
        zips_with_top_folder,
        zips_in_folders,
        one_zip_of_stored_zips,
        one_zip_of_stored_deflated_zips,
        one_zip_of_deflated_zips,
        one_zip_of_folders,
        one_zip_in_a_folder,
        folders,
        folders_with_top_folder,
        folders_with_junk,
        side_by_side,
        mixed,
    )
}


def zips_beside_folders(subsets: Sequence[Subset], folder: Path) -> Path:
    """Each zip and its extracted folder: shards, index and manifest as for zips, and the report names the folders."""
    zips_stored(subsets, folder)
    return folders(subsets, folder)


def single_zip(subset: Subset, folder: Path, method: int = STORED) -> Path:
    """One subset's zip alone: its path."""
    return put(folder, {f"{subset.name}.zip": zipped(subset.files, method)}) / f"{subset.name}.zip"


def single_folder(subset: Subset, folder: Path) -> Path:
    """One subset's folder alone: its path."""
    return put(folder / subset.name, subset.files)


SINGLE_FORMS: dict[str, Callable[[Subset, Path], Path]] = {form.__name__: form for form in (single_zip, single_folder)}


# --------------------------------------------------------------------------------------- images regenerated by users


def regenerated_path(subset: str, path: str) -> str:
    """Where upstream's processing scripts put an image that the release has at `path` within the subset."""
    folder, _, name = path.rpartition("/")
    if subset == "Inria":
        made_from = re.match(r"resize_512_from_(4096|2048|1024)_", name)
        return f"crop_Inria/{made_from.group(1) if made_from else 512}/{name}"
    if subset == "WHU-OPT-SAR":
        return f"{folder.rpartition('/')[2].replace('sar_jpg', 'SAR_jpg')}/{name}"
    if subset == "SEN1-2":
        return f"{folder.rpartition('/')[2]}/{name}"
    if subset == "weather":
        return path
    return f"{'fmow' if subset == 'fMoW' else subset}_process/{name}"


def regenerated(subsets: Sequence[Subset], folder: Path, annotations: bool = True) -> Path:
    """Images in the folders that upstream's scripts write, annotations beside them, or in `folder`/annotations."""
    images, annotation_files = {}, {}
    for subset in subsets:
        for path, data in subset.files.items():
            if is_annotation(path):
                annotation_files[path] = data
            else:
                images[regenerated_path(subset.name, path)] = data
    put(folder / "images", images)
    put(folder / ("images" if annotations else "annotations"), annotation_files)
    return folder / "images"


# ------------------------------------------------------------------------------------------------------------ damage


def data_range(path: Path, name: str) -> tuple[int, int]:
    """(start, stop) of the packed bytes of entry `name` in the zip at `path`."""
    with zipfile.ZipFile(path) as archive:
        info = archive.getinfo(name)
    with path.open("rb") as file:
        file.seek(info.header_offset + 26)
        name_length, extra_length = struct.unpack("<HH", file.read(4))
    start = info.header_offset + 30 + name_length + extra_length
    return start, start + info.compress_size


def image_names(path: Path) -> list[str]:
    """The names of a zip's images, in its order."""
    with zipfile.ZipFile(path) as archive:
        return [name for name in archive.namelist() if not name.endswith("/") and not is_annotation(name)]


def overwrite(path: Path, offset: int, data: bytes) -> None:
    with path.open("r+b") as file:
        file.seek(offset)
        file.write(data)


def flip_bit(path: Path, offset: int, bit: int = 0) -> None:
    with path.open("rb") as file:
        file.seek(offset)
        byte = file.read(1)[0]
    overwrite(path, offset, bytes([byte ^ 1 << bit]))


def flip_bit_of_image(path: Path, number: int, where: float = 0.5, bit: int = 0) -> str:
    """Flip one bit in the packed bytes of the n-th image of the zip at `path`; its name."""
    name = image_names(path)[number]
    start, stop = data_range(path, name)
    flip_bit(path, start + int((stop - start - 1) * where), bit)
    return name


def zero_block_of_image(path: Path, number: int, length: int = 512) -> str:
    """Zero `length` bytes in the middle of the n-th image's packed bytes; its name."""
    name = image_names(path)[number]
    start, stop = data_range(path, name)
    length = min(length, stop - start)
    overwrite(path, (start + stop - length) // 2, b"\0" * length)
    return name


def changed(data: bytes, changes: Iterable[tuple[float, int, str]]) -> bytes:
    """The bytes after changes of any kind: where, as a share of the length, a number, and what is done there."""
    raw = bytearray(data)
    for where, value, how in changes:
        start = min(int(where * len(raw)), max(len(raw) - 1, 0))
        if how == "cut":
            del raw[start : start + value]
        elif how == "copy":
            raw[start:start] = raw[start : start + value]
        elif how == "zero":
            raw[start : start + value] = bytes(len(raw[start : start + value]))
        elif how == "end":
            del raw[max(start, 1) :]
        elif raw:
            raw[start] = value if how == "set" else raw[start] ^ 1 << value % 8
    return bytes(raw)


def truncate(path: Path, keep: float = 0.6) -> None:
    """Keep the first part of the file, as an interrupted download leaves it; the directory at its end is gone."""
    size = path.stat().st_size
    with path.open("r+b") as file:
        file.truncate(int(size * keep))


def cut_directory(path: Path) -> None:
    """End the file in the middle of its central directory."""
    with zipfile.ZipFile(path) as archive:
        start = archive.start_dir
    truncate(path, (start + (path.stat().st_size - start) / 2) / path.stat().st_size)


def mark_encrypted(path: Path, name: str | None = None) -> None:
    """Set the flag of encryption on entry `name`, or on all, in both headers; the data stay as they are."""
    with zipfile.ZipFile(path) as archive:
        infos = [info for info in archive.infolist() if name in (None, info.filename)]
        start = archive.start_dir
    data = bytearray(path.read_bytes())
    chosen = {info.header_offset for info in infos}
    while data[start : start + 4] == b"PK\1\2":
        lengths = struct.unpack_from("<3H", data, start + 28)
        offset = struct.unpack_from("<I", data, start + 42)[0]
        if offset in chosen:
            data[start + 8] |= 1
            data[offset + 6] |= 1
        start += 46 + sum(lengths)
    path.write_bytes(data)


def split_archive(path: Path, parts: int = 3, style: str = "z01", without: Iterable[int] = ()) -> list[Path]:
    """Replace the zip at `path` by its parts: `X.z01 X.z02 X.zip` or `X.zip.001 X.zip.002 ...`; some may be missing."""
    data = path.read_bytes()
    path.unlink()
    size = -(-len(data) // parts)
    written = []
    for number in range(parts):
        if style == "z01":
            part = path if number == parts - 1 else path.with_suffix(f".z{number + 1:02d}")
        else:
            part = path.with_name(f"{path.name}.{number + 1:03d}")
        if number not in without:
            part.write_bytes(data[number * size : (number + 1) * size])
            written.append(part)
    return written


HALF_DOWNLOADS = (".baiduyun.p.downloading", ".crdownload", ".part")


def half_download(path: Path, suffix: str = ".crdownload") -> Path:
    """Replace the zip at `path` by what a download tool leaves when it is stopped; the new path."""
    truncate(path)
    return path.rename(path.with_name(path.name + suffix))


# A zip that cannot be used as a whole: name -> what to do to it. One clear line has to name it; other subsets convert.
BROKEN_ARCHIVES: dict[str, Callable[[Path], object]] = {
    "truncated": truncate,
    "directory_cut": cut_directory,
    "empty": lambda path: path.write_bytes(b""),
    "not_a_zip": lambda path: path.write_bytes(b"<html>the share has expired</html>"),
    "part_z01": split_archive,
    "part_001": lambda path: split_archive(path, style="001"),
    "part_001_missing": lambda path: split_archive(path, style="001", without=(1,)),
    **{f"half{suffix}": functools.partial(half_download, suffix=suffix) for suffix in HALF_DOWNLOADS},
}
