"""`croissant.json`: the dataset described for machines, in Croissant 1.1 with GeoCroissant 1.0.

How it works:

- Every shard and every index file is a FileObject with its size and sha256, by its path within the folder.
- A FileSet picks the images of one modality out of a config's shards; a record set gives each its key, from its name.
- A config's record set starts from the index, which has every prompt and label, and joins the images by key, one
  modality after the other: readers (mlcroissant 1.1) do one join in a record set, so each further modality is a record
  set that builds on the one before. The last has the config's name.

Vocabularies: https://docs.mlcommons.org/croissant/docs/croissant-spec-1.1.html and
https://docs.mlcommons.org/croissant/docs/croissant-geo-spec.html
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pyarrow as pa

import mmm_rs
from conversion import layout
from conversion.disk import write_file
from dataset_card.fields import MODALITY_NAMES, column_meaning
from dataset_card.statistics import Converted
from mmm_rs import ALL, HOMEPAGE, MODALITIES

CONFORMS_TO = ["http://mlcommons.org/croissant/1.1", "http://mlcommons.org/croissant/geo/1.0"]
PUBLISHED = "2024-10-29"  # of the paper's preprint, arXiv 2410.22362
TAR, PARQUET = "application/x-tar", "application/x-parquet"

# Glob patterns have no way to say "no dot", so the names of optical images are those whose stem does not end in `.nir`
# or `.sar`, letter by letter from the end.
OPTICAL = ["*[!r].jpg", "*[!ai]r.jpg", "*[!ns][ai]r.jpg", "*[!.][ns][ai]r.jpg"]
INCLUDES = {"rgb": OPTICAL, "nir": ["*.nir.jpg"], "sar": ["*.sar.jpg"]}
KEY = r"^([^.]+)\."  # of a member's path within the shard

# Upstream stored single bands as three equal channels.
BANDS = {"rgb": ["Red", "Green", "Blue"], "nir": ["NIR", "NIR", "NIR"], "sar": ["SAR", "SAR", "SAR"]}

Node = dict[str, Any]  # of JSON-LD

CONTEXT: Node = {
    "@language": "en",
    "@vocab": "https://schema.org/",
    "arrayShape": "cr:arrayShape",
    "citeAs": "cr:citeAs",
    "column": "cr:column",
    "conformsTo": "dct:conformsTo",
    "containedIn": "cr:containedIn",
    "cr": "http://mlcommons.org/croissant/",
    "data": {"@id": "cr:data", "@type": "@json"},
    "dataType": {"@id": "cr:dataType", "@type": "@vocab"},
    "dct": "http://purl.org/dc/terms/",
    "description": {"@container": "@language"},
    "equivalentProperty": "cr:equivalentProperty",
    "examples": {"@id": "cr:examples", "@type": "@json"},
    "extract": "cr:extract",
    "field": "cr:field",
    "fileObject": "cr:fileObject",
    "fileProperty": "cr:fileProperty",
    "fileSet": "cr:fileSet",
    "format": "cr:format",
    "geocr": "http://mlcommons.org/croissant/geo/",
    "includes": "cr:includes",
    "isArray": "cr:isArray",
    "isLiveDataset": "cr:isLiveDataset",
    "jsonPath": "cr:jsonPath",
    "key": "cr:key",
    "md5": "cr:md5",
    "name": {"@container": "@language"},
    "parentField": "cr:parentField",
    "path": "cr:path",
    "rai": "http://mlcommons.org/croissant/RAI/",
    "recordSet": "cr:recordSet",
    "references": "cr:references",
    "regex": "cr:regex",
    "repeated": "cr:repeated",
    "replace": "cr:replace",
    "samplingRate": "cr:samplingRate",
    "sc": "https://schema.org/",
    "separator": "cr:separator",
    "source": "cr:source",
    "subField": "cr:subField",
    "transform": "cr:transform",
}


def write_croissant(converted: Converted) -> None:
    """Write `croissant.json`. Raises OutputError where it cannot be written."""
    write_file(converted.out / layout.CROISSANT, render(converted).encode())


def render(converted: Converted) -> str:
    """The text of `croissant.json`."""
    return json.dumps(describe(converted), indent=2, ensure_ascii=False) + "\n"


def describe(converted: Converted) -> Node:
    """The whole description as JSON-LD."""
    shards = converted.manifest["shards"]
    distribution = [_file(shard["name"], shard["bytes"], shard["sha256"], TAR) for shard in shards]
    record_sets: list[Node] = []
    for name in converted.subsets:
        distribution.append(_index_file(converted.out, name))
    for config, names in [*((name, [name]) for name in converted.subsets), (ALL, converted.subsets)]:
        modalities = [m for m in MODALITIES if any(m in converted.statistics[name].modalities for name in names)]
        if config == ALL:
            index: Node = {"fileSet": {"@id": "index"}}
            distribution.append(
                {
                    "@type": "cr:FileSet",
                    "@id": "index",
                    "name": "index",
                    "includes": layout.index_name("*"),
                    "description": "The index of every subset.",
                    "encodingFormat": PARQUET,
                }
            )
        else:
            index = {"fileObject": {"@id": layout.index_name(config)}}
        mine = [shard["name"] for shard in shards if shard["subset"] in names]
        for modality in modalities:
            distribution.append(_images(config, modality, mine))
            record_sets.append(_keyed_images(config, modality))
        record_sets += _samples(config, modalities, index, _resolution(converted, names))
    return {
        "@context": CONTEXT,
        "@type": "sc:Dataset",
        "conformsTo": CONFORMS_TO,
        "name": "MMM-RS",
        "description": "A multi-modal (optical, near infrared, radar), multi-GSD, multi-scene remote sensing dataset "
        "of images and prompts for text-to-image generation, as WebDataset shards with an index.",
        "citeAs": mmm_rs.CITATION,
        "creator": {"@type": "sc:Organization", "name": "The authors of MMM-RS", "url": HOMEPAGE},
        "datePublished": PUBLISHED,
        "inLanguage": "en",
        "keywords": ["remote sensing", "satellite imagery", "multi-modal", "SAR", "near infrared", "GSD"],
        "license": HOMEPAGE,
        "url": HOMEPAGE,
        "version": f"{mmm_rs.FORMAT_VERSION}.0",
        **_resolution(converted, converted.subsets),
        "distribution": distribution,
        "recordSet": record_sets,
    }


def _file(name: str, size: int, sha256: str, encoding: str) -> Node:
    return {
        "@type": "cr:FileObject",
        "@id": name,
        "name": name,
        "contentUrl": name,
        "contentSize": f"{size} B",
        "encodingFormat": encoding,
        "sha256": sha256,
    }


def _index_file(out: Path, subset: str) -> Node:
    name = layout.index_name(subset)
    sha256 = hashlib.sha256()
    with open(out / name, "rb") as file:
        while block := file.read(1 << 20):
            sha256.update(block)
    return _file(name, (out / name).stat().st_size, sha256.hexdigest(), PARQUET)


def _images(config: str, modality: str, shards: list[str]) -> Node:
    return {
        "@type": "cr:FileSet",
        "@id": f"{config}-{modality}-files",
        "name": f"{config}-{modality}-files",
        "description": f"The {MODALITY_NAMES[modality]} images in the shards of {config}.",
        "containedIn": [{"@id": name} for name in shards],
        "encodingFormat": "image/jpeg",
        "includes": INCLUDES[modality],
    }


def _keyed_images(config: str, modality: str) -> Node:
    """Images with the key of their sample, taken from the name within the shard."""
    name = f"{config}-{modality}"
    files = {"fileSet": {"@id": f"{name}-files"}}
    key = {**files, "extract": {"fileProperty": "fullpath"}, "transform": {"regex": KEY}}
    return _record_set(
        name,
        f"The {MODALITY_NAMES[modality]} images of {config} by the key of their sample: a step to `{config}`.",
        [
            _field(name, "key", "sc:Text", "The sample's key.", key),
            _field(name, "image", "sc:ImageObject", "The image.", {**files, "extract": {"fileProperty": "content"}}),
        ],
    )


def _samples(config: str, modalities: list[str], index: Node, resolution: Node) -> list[Node]:
    """The config's record set, after those that it builds on."""
    made: list[Node] = []
    for at, modality in enumerate(modalities):
        last = at == len(modalities) - 1
        name = config if last else f"{config}-with-{'-'.join(modalities[: at + 1])}"
        before = made[-1]["@id"] if made else None
        fields = []
        for column, kind, about, source in _columns(index, modalities):
            field = _field(name, column, kind, about, {"field": {"@id": f"{before}/{column}"}} if before else source)
            if column == "key":
                field["references"] = {"field": {"@id": f"{config}-{modality}/key"}}
            if column == "gsd":
                field["equivalentProperty"] = "http://mlcommons.org/croissant/geo/spatialResolution"
            fields.append(field)
        for seen in modalities[: at + 1]:
            source = {"field": {"@id": f"{config}-{seen}/image" if seen == modality else f"{before}/{seen}"}}
            fields.append(
                {
                    **_field(name, seen, "sc:ImageObject", f"The {MODALITY_NAMES[seen]} image.", source),
                    "geocr:bandConfiguration": {
                        "@type": "geocr:BandConfiguration",
                        "geocr:totalBands": 3,
                        "geocr:bandNameList": BANDS[seen],
                    },
                }
            )
        about = f"The samples of {config}: images, prompts and labels." if last else f"A step to `{config}`."
        made.append({**_record_set(name, about, fields), **(resolution if last else {})})
    return made


def _columns(index: Node, modalities: list[str]) -> list[tuple[str, str, str, Node]]:
    """(field, type, what it is, source) for each column of the index; of its structs a field each modality."""
    found = []
    for column in mmm_rs.index_schema():
        if any(column.name.startswith(f"{m}_") for m in MODALITIES if m not in modalities):
            continue
        source = {**index, "extract": {"column": column.name}}
        if pa.types.is_struct(column.type):
            for modality in modalities:
                inner = {**source, "transform": {"jsonPath": f"$.{modality}"}}
                about = f"{column_meaning(column.name)} Of the {MODALITY_NAMES[modality]} image."
                found.append((f"{column.name}_{modality}", "sc:Text", about, inner))
        else:
            found.append((column.name, _data_type(column.type), column_meaning(column.name), source))
    return found


def _data_type(kind: pa.DataType) -> str:
    if pa.types.is_boolean(kind):
        return "sc:Boolean"
    if pa.types.is_integer(kind):
        return "sc:Integer"
    return "sc:Float" if pa.types.is_floating(kind) else "sc:Text"


def _record_set(name: str, about: str, fields: list[Node]) -> Node:
    return {
        "@type": "cr:RecordSet",
        "@id": name,
        "name": name,
        "description": about,
        "key": {"@id": f"{name}/key"},
        "field": fields,
    }


def _field(record_set: str, name: str, kind: str, about: str, source: Node) -> Node:
    return {
        "@type": "cr:Field",
        "@id": f"{record_set}/{name}",
        "name": name,
        "description": about,
        "dataType": kind,
        "source": source,
    }


def _resolution(converted: Converted, names: list[str]) -> Node:
    """GeoCroissant's spatial resolution of these subsets where the index knows it: one number, or a range as text."""
    ranges = [converted.statistics[name].gsd for name in names]
    known = [gsd for gsd in ranges if gsd]
    if not known:
        return {}
    low, high = min(gsd[0] for gsd in known), max(gsd[1] for gsd in known)
    if low == high and len(known) == len(ranges):
        return {"geocr:spatialResolution": {"@type": "QuantitativeValue", "value": low, "unitText": "m"}}
    return {"geocr:spatialResolution": f"{low:g} m" if low == high else f"{low:g} m to {high:g} m"}
