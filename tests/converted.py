"""A small converted dataset, made straight from the format's specification with tarfile, Pillow and pyarrow.

It stands in for the converter's output where a test is about what comes after it, so that such a test fails for its
own reason only. Everything in it is synthetic.
"""

from __future__ import annotations

import hashlib
import io
import json
import shutil
import struct
import tarfile
import zlib
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image, ImageDraw

import mmm_rs
from mmm_rs import index_schema

MODALITIES = ("rgb", "nir", "sar")
SUFFIXES = {"rgb": "", "nir": "nir.", "sar": "sar."}
PROMPT_COLUMNS = {"rgb": "prompt", "nir": "nir_prompt", "sar": "sar_prompt"}


@dataclass(frozen=True)
class Sample:
    """One sample: `prompts` by modality decides which images it has; a prompt may be None."""

    key: str
    prompts: dict
    caption: str
    category: str | None = None
    weather: str | None = None
    satellite: str | None = None
    gsd: float | None = None
    gsd_level: str | None = "high"
    derived: bool | None = False
    split: str = "train"
    others: dict = field(default_factory=dict)  # modality -> labels of its own prompt, where they differ from these
    images: dict = field(default_factory=dict)  # modality -> bytes, filled by `samples`

    def fields(self, version: str = "1.1") -> dict:
        subset, _, place = self.key.partition("/")
        subset = "MRSSC2.0" if subset == "MRSSC2_0" else subset
        source = {m: f"{subset}_dataset/{place}_{m}.jpg" if m in self.prompts else None for m in MODALITIES}
        record = {
            m: json.dumps({"image": source[m], "prompt": self.prompts[m]}) if m in self.prompts else None
            for m in MODALITIES
        }
        first = next(iter(self.prompts))
        fields = {"subset": subset, "source": source, **self.labels(first), "annotation": record}
        return fields if version == "1.0" else {**fields, "labels": {m: self.labels(m) for m in MODALITIES}}

    def labels(self, modality: str) -> dict | None:
        """What is known of one image; None if the sample has no such image."""
        if modality not in self.prompts:
            return None
        labels = {
            "caption": self.caption,
            "category": self.category,
            "weather": self.weather,
            "satellite": self.satellite,
            "gsd": self.gsd,
            "gsd_level": self.gsd_level,
            "gsd_level_derived": self.derived,
            "cloud_cover": None,
        }
        return {**labels, **self.others.get(modality, {})}


def picture(text: str, hue: int, size: int = 64) -> bytes:
    """A JPEG of one colour with `text` in it."""
    image = Image.new("RGB", (size, size), (hue * 37 % 256, 90, 255 - hue * 53 % 256))
    ImageDraw.Draw(image).text((4, 4), text, fill="white")
    buffer = io.BytesIO()
    image.save(buffer, "JPEG")
    return buffer.getvalue()


def pixels(data: bytes) -> str:
    """sha256 of an image's pixels."""
    return hashlib.sha256(Image.open(io.BytesIO(data)).convert("RGB").tobytes()).hexdigest()


def samples() -> list[Sample]:
    """Five subsets, all three modalities, each level of GSD or none, weather, a null prompt, a modality missing."""
    template = "Low precision resolution, a satellite image of {}, Sentinel-{}."
    dataset = [
        Sample(
            f"weather/{folder}/a{i}",
            {"rgb": f"Ordinary precision resolution, {word}, a view of a farm."},
            "a view of a farm.",
            weather=word,
            gsd_level="ordinary",
        )
        for folder, word in (("fog", "fog"), ("night", "night"), ("snowy", "snow"))
        for i in range(2)
    ]
    dataset += [
        Sample(
            f"WHU-OPT-SAR/NH49E001013_{i}_0",
            {m: f"a {m} view of a river {i}" for m in (MODALITIES if i else ("rgb", "nir"))},
            f"a rgb view of a river {i}",
            gsd=5.0,
            gsd_level="low",
            derived=True,
        )
        for i in range(4)
    ]
    dataset += [
        Sample(
            f"SEN1-2/ROIs1158_spring_1_p{i}",
            {"rgb": template.format(f"farmland {i}", 2), "sar": template.format(f"farmland {i}", 1) if i else None},
            f"a satellite image of farmland {i}",
            satellite="Sentinel-2",
            gsd=10.0,
            gsd_level="low",
            others={"sar": {"satellite": "Sentinel-1"}},
        )
        for i in range(5)
    ]
    dataset += [
        Sample(
            f"Inria/512/crop_512_center_vienna{i}",
            {"rgb": f"Ultra-high precision resolution, roof {i}, GF2"},
            f"roof {i}",
            satellite="GF2",
            gsd=0.3,
            gsd_level="ultra_high",
        )
        for i in range(3)
    ]
    dataset += [
        Sample(
            f"MRSSC2_0/RGB_city_{i}",
            {"rgb": f"Ultra-low precision resolution, city, a town of size {i}, TG2"},
            f"a town of size {i}",
            category="city",
            satellite="TG2",
            gsd_level="ultra_low" if i else None,
            derived=False if i else None,
        )
        for i in range(2)
    ]
    for number, sample in enumerate(dataset):
        for modality in sample.prompts:
            sample.images[modality] = picture(f"{modality} {number}", number)
    return dataset


def airports(count: int) -> list[Sample]:
    """So many samples of fMoW, of which each tenth is an airport."""
    samples = []
    for number in range(count):
        category = "field" if number % 10 else "airport"
        sample = Sample(f"fMoW/{category}_{number}", {"rgb": "a place"}, "a place", category)
        sample.images["rgb"] = picture(str(number), number, 128)
        samples.append(sample)
    return samples


def write(out: Path, dataset: list[Sample] | None = None, shards: int = 2, version: str = "1.1") -> list[Sample]:
    """Write `dataset` to `out` as the converter would, in `shards` shards per subset and split; no card.

    `version`: of the format; 1.0 is what was written before each modality had its own labels.
    """
    dataset = samples() if dataset is None else dataset
    by_subset: dict[str, list[Sample]] = {}
    for sample in dataset:
        by_subset.setdefault(sample.fields()["subset"], []).append(sample)
    shard_rows, subset_rows = [], {}
    for subset, subset_samples in by_subset.items():
        rows: list[dict] = []
        written = []
        for split in dict.fromkeys(sample.split for sample in subset_samples):
            here = [sample for sample in subset_samples if sample.split == split]
            count = min(shards, len(here))
            for number in range(count):
                name = f"data/{subset}/{split}-{number:05d}-of-{count:05d}.tar"
                part = here[number * len(here) // count : (number + 1) * len(here) // count]
                written.append(_shard(out / name, name, subset, split, part, rows, version))
        (out / "index").mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.Table.from_pylist(rows, schema=index_schema(version)), out / "index" / f"{subset}.parquet")
        shard_rows += written
        subset_rows[subset] = {
            **_sum(written),
            "shards": len(written),
            "digest": hashlib.sha256("".join(shard["sha256"] + "\n" for shard in written).encode()).hexdigest(),
            "splits": {
                split: _sum([shard for shard in written if shard["split"] == split])
                | {"shards": sum(shard["split"] == split for shard in written)}
                for split in dict.fromkeys(shard["split"] for shard in written)
            },
        }
    _report(out, dataset)
    shutil.copy(mmm_rs.__file__, out / "mmm_rs.py")
    manifest = {
        "format_version": version,
        "options": {"seed": 0, "validation": 0.0},
        "subsets": subset_rows,
        "shards": shard_rows,
    }
    if version != "1.0":
        beside = [
            "mmm_rs.py",
            *(path.relative_to(out).as_posix() for path in [*out.glob("index/*"), *out.glob("report/*")]),
        ]
        manifest["files"] = {name: described(out / name) for name in beside}
    write_manifest(out, manifest)
    return dataset


def described(path: Path) -> dict:
    """A file's size and checksum, as the manifest has them; of a Parquet file also the checksum of its footer."""
    data = path.read_bytes()
    row = {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    if path.suffix == ".parquet":
        (length,) = struct.unpack("<I", data[-8:-4])
        row["footer_crc32"] = zlib.crc32(data[-length - 8 :])
    return row


def write_manifest(out: Path, manifest: dict) -> None:
    """Write the manifest with the digest over the rest of it."""
    manifest.pop("digest", None)
    text = json.dumps(manifest, sort_keys=True, separators=(",", ":"))
    manifest["digest"] = hashlib.sha256(text.encode()).hexdigest()
    (out / "manifest.json").write_text(json.dumps(manifest, sort_keys=True, indent=2) + "\n")


def _sum(shards: list[dict]) -> dict:
    return {
        "samples": sum(shard["samples"] for shard in shards),
        "bytes": sum(shard["bytes"] for shard in shards),
        "pairs": {m: sum(shard["pairs"][m] for shard in shards) for m in MODALITIES},
    }


def _shard(path: Path, name: str, subset: str, split: str, part: list[Sample], rows: list[dict], version: str) -> dict:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as tar:
        for sample in part:
            row = {"key": sample.key, "split": split, "shard": name, **sample.fields("1.0")}
            for modality in ("nir", "sar"):
                row |= {f"{modality}_{name}": value for name, value in (sample.labels(modality) or {}).items()}
            for modality in MODALITIES:
                if modality not in sample.prompts:
                    continue
                data, prompt = sample.images[modality], sample.prompts[modality]
                row[f"{modality}_offset"] = _add(tar, f"{sample.key}.{SUFFIXES[modality]}jpg", data)
                row[f"{modality}_size"], row[f"{modality}_crc32"] = len(data), zlib.crc32(data)
                row[f"{modality}_width"], row[f"{modality}_height"] = Image.open(io.BytesIO(data)).size
                row[PROMPT_COLUMNS[modality]] = prompt
                if prompt is not None:
                    _add(tar, f"{sample.key}.{SUFFIXES[modality]}txt", prompt.encode())
            _add(tar, f"{sample.key}.json", json.dumps(sample.fields(version)).encode())
            rows.append(row)
    data = path.read_bytes()
    return {
        "name": name,
        "subset": subset,
        "split": split,
        "bytes": len(data),
        "sha256": hashlib.sha256(data).hexdigest(),
        "samples": len(part),
        "pairs": {m: sum(sample.prompts.get(m) is not None for sample in part) for m in MODALITIES},
    }


def _add(tar: tarfile.TarFile, name: str, data: bytes) -> int:
    info = tarfile.TarInfo(name)
    info.size, info.mode = len(data), 0o644
    offset = tar.offset + 512
    tar.addfile(info, io.BytesIO(data))
    return offset


def _report(out: Path, dataset: list[Sample]) -> None:
    """Every subset left one image without a record and one record without an image out."""
    subsets = {}
    unpublished = []
    for subset in dict.fromkeys(sample.fields()["subset"] for sample in dataset):
        images = sum(len(s.prompts) for s in dataset if s.fields()["subset"] == subset)
        subsets[subset] = {
            "images": {"released": images + 1, "published": images, "reported": 1},
            "records": {"released": images + 1, "used": images, "reported": 1},
            "reasons": {"image": {"no_record": 1}, "record": {"no_image": 1}},
            "by_modality": {
                m: sum(m in s.prompts for s in dataset if s.fields()["subset"] == subset) for m in MODALITIES
            },
        }
        for kind, reason in (("image", "no_record"), ("record", "no_image")):
            unpublished.append(
                {
                    "subset": subset,
                    "kind": kind,
                    "path": f"{subset}_dataset/left.jpg",
                    "position": None,
                    "reason": reason,
                    "detail": "nothing has its name",
                }
            )
    total = {
        "images": {
            name: sum(s["images"][name] for s in subsets.values()) for name in ("released", "published", "reported")
        },
        "records": {
            name: sum(s["records"][name] for s in subsets.values()) for name in ("released", "used", "reported")
        },
        "reasons": {"image": {"no_record": len(subsets)}, "record": {"no_image": len(subsets)}},
        "by_modality": {m: sum(s["by_modality"][m] for s in subsets.values()) for m in MODALITIES},
    }
    (out / "report").mkdir(parents=True, exist_ok=True)
    sources = [
        {
            "path": "MMM-RS/GID.zip",
            "subset": "GID",
            "problem": "truncated",
            "remedy": "Download it again",
            "detail": "the zip has no central directory",
        }
    ]
    summary = {"subsets": subsets, "total": total, "sources": sources, "unknown": {"images": 0, "annotations": 0}}
    (out / "report" / "summary.json").write_text(json.dumps(summary, sort_keys=True, indent=2) + "\n")
    schema = pa.schema(
        [
            ("subset", pa.string()),
            ("kind", pa.string()),
            ("path", pa.string()),
            ("position", pa.int64()),
            ("reason", pa.string()),
            ("detail", pa.string()),
        ]
    )
    pq.write_table(pa.Table.from_pylist(unpublished, schema=schema), out / "report" / "unpublished.parquet")
