"""`croissant.json`: the dataset described for machines, in Croissant 1.1 with GeoCroissant 1.0 and RAI 1.0.

How it works:

- Every shard and every index file is a FileObject with its size and sha256. Its address is its path within the folder,
  or, in a copy that is uploaded, its address on the hub, so that the file can be read from anywhere.
- A FileSet picks the images of one modality out of a config's shards; a record set gives each its key, from its name.
- A config's record set starts from the index, which has every prompt and label, and joins the images by key, one
  modality after the other: readers (mlcroissant 1.1) do one join in a record set, so each further modality is a record
  set that builds on the one before. The last has the config's name.
- The record set `all` needs the index of every subset as one FileSet, which readers make from files in a folder only.
  So a description with addresses on the hub has the subsets alone.

Vocabularies: https://docs.mlcommons.org/croissant/docs/croissant-spec-1.1.html and
https://docs.mlcommons.org/croissant/docs/croissant-geo-spec.html
"""

from __future__ import annotations

import json
import re
from typing import Any
from urllib.parse import quote

import pyarrow as pa

import mmm_rs
from conversion import layout, manifest
from conversion.disk import write_file
from dataset_card import rai
from dataset_card.fields import MODALITY_NAMES, column_meaning
from dataset_card.statistics import Converted
from mmm_rs import ALL, HOMEPAGE, MODALITIES

CONFORMS_TO = ["http://mlcommons.org/croissant/1.1", "http://mlcommons.org/croissant/geo/1.0", rai.CONFORMS_TO]
BASE = re.compile(r"|https?://[^/\s]+/datasets/[\w.-]+/[\w.-]+/resolve/[^/\s]+/")
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


def write_croissant(converted: Converted, base: str = "") -> None:
    """Write `croissant.json`. Raises OutputError if it cannot be written.

    `base`: the address of the folder on the hub, with a slash at its end (default: addresses are paths in the folder).
    """
    write_file(converted.out / layout.CROISSANT, render(converted, base).encode())


def hub_base(endpoint: str, repo_id: str, revision: str) -> str:
    """The address of a dataset's files at a branch or tag."""
    return f"{endpoint}/datasets/{repo_id}/resolve/{quote(revision, safe='')}/"


def base_of(text: str) -> str | None:
    """The base of the addresses in a `croissant.json`: empty for paths in a folder. None if it has none of the two."""
    try:
        addresses = [node["contentUrl"].removesuffix(node["@id"]) for node in json.loads(text)["distribution"][:1]]
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None
    base = addresses[0] if addresses else ""
    return base if BASE.fullmatch(base) else None


def render(converted: Converted, base: str = "") -> str:
    """The text of `croissant.json`."""
    return json.dumps(describe(converted, base), indent=2, ensure_ascii=False) + "\n"


def describe(converted: Converted, base: str = "") -> Node:
    """The whole description as JSON-LD."""
    shards = converted.manifest["shards"]
    files = [_file(base, shard["name"], shard["bytes"], shard["sha256"], TAR) for shard in shards]
    files += [_index_file(base, converted, name) for name in converted.subsets]
    configs = [(name, [name], {"fileObject": {"@id": layout.index_name(name)}}) for name in converted.subsets]
    if not base:
        files.append(_index_files())
        configs.append((ALL, converted.subsets, {"fileSet": {"@id": layout.INDEX}}))
    record_sets: list[Node] = []
    for config, subsets, index in configs:
        modalities = [m for m in MODALITIES if any(m in converted.statistics[name].modalities for name in subsets)]
        for modality in modalities:
            files.append(_images(config, modality, [row["name"] for row in shards if row["subset"] in subsets]))
            record_sets.append(_keyed_images(config, modality))
        version = converted.manifest["format_version"]
        record_sets += _samples(config, modalities, index, _resolution(converted, subsets), version)
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
        "version": f"{converted.manifest['format_version']}.0",
        **rai.facts(converted),
        **_resolution(converted, converted.subsets),
        "distribution": files,
        "recordSet": record_sets,
    }


def _file(base: str, name: str, size: int, sha256: str, encoding: str) -> Node:
    return {
        "@type": "cr:FileObject",
        "@id": name,
        "name": name,
        "contentUrl": base + name,
        "contentSize": f"{size} B",
        "encodingFormat": encoding,
        "sha256": sha256,
    }


def _index_file(base: str, converted: Converted, subset: str) -> Node:
    name = layout.index_name(subset)
    described = converted.manifest.get("files", {}).get(name)  # not in format 1.0
    if described is None:
        described = manifest.describe(converted.out / name)
    return _file(base, name, described["bytes"], described["sha256"], PARQUET)


def _index_files() -> Node:
    return {
        "@type": "cr:FileSet",
        "@id": layout.INDEX,
        "name": layout.INDEX,
        "includes": layout.index_name("*"),
        "description": "The index of every subset.",
        "encodingFormat": PARQUET,
    }


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


def _samples(config: str, modalities: list[str], index: Node, resolution: Node, format_version: str) -> list[Node]:
    """The config's record set, after those that it builds on: each joins one modality more."""
    record_sets: list[Node] = []
    before: str | None = None  # the record set that the next one builds on
    for number, modality in enumerate(modalities, 1):
        is_last = number == len(modalities)
        name = config if is_last else f"{config}-with-{'-'.join(modalities[:number])}"
        fields = []
        for column, kind, meaning, source in _columns(index, modalities, format_version):
            field = _field(name, column, kind, meaning, {"field": {"@id": f"{before}/{column}"}} if before else source)
            if column == "key":
                field["references"] = {"field": {"@id": f"{config}-{modality}/key"}}
            if column == "gsd":
                field["equivalentProperty"] = "http://mlcommons.org/croissant/geo/spatialResolution"
            fields.append(field)
        for joined in modalities[:number]:
            image = f"{config}-{joined}/image" if joined == modality else f"{before}/{joined}"
            fields.append(_image_field(name, joined, {"field": {"@id": image}}))
        meaning = f"The samples of {config}: images, prompts and labels." if is_last else f"A step to `{config}`."
        record_sets.append({**_record_set(name, meaning, fields), **(resolution if is_last else {})})
        before = name
    return record_sets


def _image_field(record_set: str, modality: str, source: Node) -> Node:
    bands = {
        "@type": "geocr:BandConfiguration",
        "geocr:totalBands": 3,
        "geocr:bandNameList": BANDS[modality],
    }
    meaning = f"The {MODALITY_NAMES[modality]} image."
    field = _field(record_set, modality, "sc:ImageObject", meaning, source)
    return {**field, "geocr:bandConfiguration": bands}


def _columns(index: Node, modalities: list[str], format_version: str) -> list[tuple[str, str, str, Node]]:
    """(field, type, meaning, source) for each column of the index; a struct gives a field for each modality."""
    columns = []
    for column in mmm_rs.index_schema(format_version):
        if any(column.name.startswith(f"{m}_") for m in MODALITIES if m not in modalities):
            continue
        source = {**index, "extract": {"column": column.name}}
        if pa.types.is_struct(column.type):
            for modality in modalities:
                inner = {**source, "transform": {"jsonPath": f"$.{modality}"}}
                meaning = f"{column_meaning(column.name)} Of the {MODALITY_NAMES[modality]} image."
                columns.append((f"{column.name}_{modality}", "sc:Text", meaning, inner))
        else:
            columns.append((column.name, _data_type(column.type), column_meaning(column.name), source))
    return columns


def _data_type(kind: pa.DataType) -> str:
    if pa.types.is_boolean(kind):
        return "sc:Boolean"
    if pa.types.is_integer(kind):
        return "sc:Integer"
    return "sc:Float" if pa.types.is_floating(kind) else "sc:Text"


def _record_set(name: str, meaning: str, fields: list[Node]) -> Node:
    return {
        "@type": "cr:RecordSet",
        "@id": name,
        "name": name,
        "description": meaning,
        "key": {"@id": f"{name}/key"},
        "field": fields,
    }


def _field(record_set: str, name: str, kind: str, meaning: str, source: Node) -> Node:
    return {
        "@type": "cr:Field",
        "@id": f"{record_set}/{name}",
        "name": name,
        "description": meaning,
        "dataType": kind,
        "source": source,
    }


def _resolution(converted: Converted, names: list[str]) -> Node:
    """GeoCroissant's spatial resolution of these subsets if the index has it: one number, or a range as text."""
    ranges = [converted.statistics[name].gsd for name in names]
    known = [gsd for gsd in ranges if gsd]
    if not known:
        return {}
    low, high = min(gsd[0] for gsd in known), max(gsd[1] for gsd in known)
    if low == high and len(known) == len(ranges):
        return {"geocr:spatialResolution": {"@type": "QuantitativeValue", "value": low, "unitText": "m"}}
    return {"geocr:spatialResolution": f"{low:g} m" if low == high else f"{low:g} m to {high:g} m"}
