"""Find the subsets in a release, in whatever form it comes.

A release is walked as a tree of containers: folders, zips, zips within zips. What a file belongs to follows from the
names on the way to it (`names.locate`), so a folder of subset zips, one `MMM-RS.zip`, extracted folders and any mix of
them are one case. Only directories of archives are read here, never the bytes of an image.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from conversion import layout, names
from conversion.archives import DAMAGE, Archive, ArchiveError, inner_archive, read_entries
from conversion.errors import ReleaseError, UsageError
from conversion.findings import Problem
from mmm_rs import SUBSETS

DEPTH = 3  # archives within archives: MMM-RS.zip, its subset zips, and one more
PARTIAL = (".baiduyun.p.downloading", ".downloading", ".crdownload", ".part", ".partial", ".aria2", ".quark", ".tmp")
OTHER_ARCHIVES = ("rar", "7z", "tar", "tgz", "gz", "bz2", "xz")  # suffixes
IMAGE, ANNOTATION, OTHER = "image", "annotation", "other"


@dataclass(frozen=True)
class Part:
    """The files of one subset in one container.

    `entries` has the columns of `archives.read_entries` and `source` (the path within the subset) and `type` (image,
    annotation or other). The `name` of an image of a zip is empty beside its `source`.
    """

    archive: Archive
    entries: pa.Table

    def count(self, type: str) -> int:
        return pc.sum(pc.equal(self.entries["type"], type)).as_py() or 0


@dataclass(frozen=True)
class SubsetFiles:
    """All files of one subset: the parts that count. What was set aside is among the release's problems."""

    name: str
    parts: tuple[Part, ...]

    @property
    def form(self) -> str:
        forms = []
        for part in self.parts:
            if part.archive.kind == "folder":
                forms.append("folder")
            elif part.archive.inside:
                forms.append("zip in a zip (deflated)")
            else:
                forms.append("zip in a zip" if part.archive.start else "zip")
        return " + ".join(dict.fromkeys(forms))


@dataclass(frozen=True)
class Release:
    path: Path
    subsets: dict[str, SubsetFiles]
    problems: tuple[Problem, ...]
    unknown: pa.Table = field(repr=False)  # images and annotations of no subset: columns path, type

    @property
    def missing(self) -> list[str]:
        return [name for name in SUBSETS if name not in self.subsets]


def check_there(path: str | os.PathLike[str]) -> None:
    """Raises UsageError where there is no such path, as of a release that is mistyped."""
    if not os.path.exists(path):
        raise UsageError(f"{path}: no such file or folder. Give the folder or zip that holds the release")


def find(
    path: str | os.PathLike[str], annotations: str | os.PathLike[str] | None = None, exclude: Path | None = None
) -> Release:
    """The subsets in `path`: a folder, `MMM-RS.zip`, a subset's zip or folder.

    `annotations` is a folder or zip that holds, at any depth and in zips too, annotation files that lie apart from the
    images; nothing else in it counts. `exclude` is a folder that is no part of the release although it lies in it: the
    output.

    Raises UsageError where there is no such path, ReleaseError where nothing of a release is in it.
    """
    path = Path(path)
    problems: list[Problem] = []
    parts: dict[str, list[Part]] = {}
    unknown: list[pa.Table] = []
    check_there(path)
    roots = [path]
    if annotations is not None:
        apart = Path(annotations)
        if not apart.exists() or (apart.is_file() and apart.suffix.lower() != ".zip"):
            raise UsageError(f"--annotations {apart}: give the folder or zip that holds the annotation files")
        if not apart.resolve().is_relative_to(path.resolve()):  # else they are found with the rest
            roots.append(apart)
    for root in roots:
        label = os.fsencode(root.resolve().name).decode(errors="backslashreplace")  # it is printed and reported
        top = Archive(path=str(root.absolute()), label=label, kind="folder" if root.is_dir() else "zip")
        others = [folder for folder in (exclude, path) if folder is not None and folder is not root]
        for archive, table in _containers(top, problems, DEPTH, _inside(root, others)):
            if root is not path:
                table = table.filter(pc.equal(table["type"], ANNOTATION))
            for subset, mine in _by_subset(archive, table):
                if subset is None:
                    full = pc.binary_join_element_wise(archive.label, mine["name"], "/")
                    unknown.append(pa.table({"path": full, "type": mine["type"]}))
                else:
                    parts.setdefault(subset, []).append(Part(archive, mine))
                    problems += _barred(archive, subset, mine)
    subsets = {
        name: SubsetFiles(name, tuple(_set_aside(name, parts[name], problems))) for name in SUBSETS if name in parts
    }
    subsets = {name: files for name, files in subsets.items() if any(part.count(IMAGE) for part in files.parts)}
    for name in [name for name in parts if name not in subsets]:
        for part in parts[name]:
            problems.append(
                Problem(
                    part.archive.label,
                    "no_images",
                    f"annotations of {name} but none of its images are here",
                    "Download the images of this subset as well",
                    name,
                )
            )
    if not subsets and not problems:
        raise ReleaseError(
            f"{path}: nothing of MMM-RS was found here. Give the folder with the downloaded zips, "
            "MMM-RS.zip, or one subset's zip or folder"
        )
    empty = pa.table({"path": pa.array([], pa.string()), "type": pa.array([], pa.string())})
    loose = pa.concat_tables(unknown) if unknown else empty
    return Release(path, subsets, tuple(problems), loose.filter(pc.not_equal(loose["type"], OTHER)))


def _inside(root: Path, paths: list[Path]) -> list[str]:
    """Those of `paths` that lie within `root`, with slashes, as names of the files in it begin."""
    found = [path.resolve() for path in paths if path.resolve().is_relative_to(root.resolve())]
    return [path.relative_to(root.resolve()).as_posix() + "/" * (not path.is_file()) for path in found]


def _converted(entries: pa.Table) -> list[str]:
    """Beginnings of the names that a conversion wrote beside the release's files, or in a folder among them."""
    every = entries["name"]
    folders = set.intersection(
        *(
            {name.removesuffix(last) for name in every.filter(pc.ends_with(every, last)).to_pylist()}
            for last in layout.SIGNS
        )
    )
    own = [name if "." in name else f"{name}/" for name in layout.PRODUCTS] if "" in folders else []
    return own + sorted(folder for folder in folders if folder.endswith("/"))


def _containers(
    archive: Archive, problems: list[Problem], depth: int, exclude: Sequence[str] = ()
) -> Iterator[tuple[Archive, pa.Table]]:
    """An archive and all archives within it, each with its typed entries. `exclude`: beginnings of names."""
    try:
        entries = read_entries(archive)
        for start in (*exclude, *_converted(entries)):
            entries = entries.filter(pc.invert(pc.starts_with(entries["name"], start)))
        entries = _typed(entries)
    except ArchiveError as error:
        problems.append(_unreadable(error))
        return
    if damage := (entries.schema.metadata or {}).get(DAMAGE):
        problems.append(
            Problem(
                archive.label,
                "crc_mismatch",
                f"{damage.decode()}; each image that is published is "
                "whole by its own CRC32, but its name may be damaged",
                "Download it again",
                _subset_of_path(archive.label),
            )
        )
        entries = entries.replace_schema_metadata(None)
    if archive.kind == "zip" and not entries.num_rows:
        problems.append(
            Problem(
                archive.label, "empty_archive", "it holds no files", "Download it again", _subset_of_path(archive.label)
            )
        )
    kinds = entries["type"]
    for row in entries.filter(pc.is_in(kinds, pa.array(["archive", "barred"]))).to_pylist():
        label, subset = f"{archive.label}/{row['name']}", _subset_of_path(row["name"])
        if row["type"] == "archive":
            problems.append(
                Problem(label, "other_archive", "it is an archive of a kind that is not read", "Unpack it", subset)
            )
        elif row["problem"] == "link":
            problems.append(
                Problem(
                    label,
                    "link",
                    "it is a symbolic link, which is not followed",
                    "Move here what it points to, or give that as the release",
                    subset,
                )
            )
        else:
            problems.append(
                Problem(
                    label,
                    "unreadable_folder",
                    "this folder may not be read",
                    "Give yourself the permission to read it, or move it away",
                    subset,
                )
            )
    yield archive, entries.filter(pc.is_in(kinds, pa.array([IMAGE, ANNOTATION, OTHER])))
    for row in entries.filter(pc.equal(kinds, "partial")).to_pylist():
        problems.append(
            Problem(
                f"{archive.label}/{row['name']}",
                "half_download",
                "the download of this file is not finished",
                "Let it finish or download it again",
                _subset_of_path(row["name"]),
            )
        )
    multipart = entries.filter(pc.equal(kinds, "multipart")).to_pylist()
    for row in multipart:
        problems.append(
            Problem(
                f"{archive.label}/{row['name']}",
                "multi_part",
                "this is one part of an archive in several",
                "Get all parts and join them: `zip -s 0 X.zip --out Y.zip` for .z01, `cat X.zip.* > X.zip` for .001",
                _subset_of_path(row["name"]),
            )
        )
    split = {row["name"].rsplit(".", 1)[0].lower() for row in multipart}
    zips = pc.indices_nonzero(pc.equal(kinds, "zip")).to_pylist()
    for row in zips:
        name = entries["name"][row].as_py()
        if name[:-4].lower() in split or name.lower() in split:
            continue  # the last part of a split archive: its other parts have been named
        label = f"{archive.label}/{name}"
        if depth == 0:
            problems.append(Problem(label, "nested_too_deep", "too many archives within archives", "Unzip this one"))
        elif archive.kind == "folder":
            file = os.fsdecode(entries["file"][row].as_py())
            inner = Archive(path=os.path.join(archive.path, file), label=label, kind="zip")
            yield from _containers(inner, problems, depth - 1)
        elif problem := entries["problem"][row].as_py():
            problems.append(
                Problem(
                    label,
                    problem,
                    "this archive cannot be read inside its archive",
                    "Unzip the outer archive first",
                    _subset_of_path(name),
                )
            )
        elif archive.inside:
            problems.append(
                Problem(
                    label,
                    "nested_too_deep",
                    "a zip inside a compressed zip inside a zip",
                    "Unzip the outer archive first",
                    _subset_of_path(name),
                )
            )
        else:
            try:
                inner = inner_archive(archive, entries, row)
            except ArchiveError as error:
                problems.append(_unreadable(error))
                continue
            yield from _containers(inner, problems, depth - 1)


def _unreadable(error: ArchiveError) -> Problem:
    subset = _subset_of_path(error.label)
    return Problem(error.label, "unreadable_archive", error.detail, error.remedy, subset)


def _typed(entries: pa.Table) -> pa.Table:
    """Add the column `type`, by the suffix of the name."""
    name = pc.utf8_lower(entries["name"])
    stem, suffix = split_last(name, ".")
    suffix = pc.if_else(pc.is_valid(stem), suffix, None)
    chosen = pc.case_when(
        pc.make_struct(
            pc.is_in(suffix, pa.array(names.IMAGE_SUFFIXES)),
            pc.is_in(suffix, pa.array(names.ANNOTATION_SUFFIXES)),
            pc.equal(suffix, "zip"),
            pc.match_substring_regex(name, r"\.(z\d\d|zip\.\d{2,3}|7z\.\d{3}|part\d+\.rar)$"),
            pc.match_substring_regex(name, "(" + "|".join(s.replace(".", r"\.") for s in PARTIAL) + ")$"),
            pc.is_in(suffix, pa.array(OTHER_ARCHIVES)),
            pc.is_in(entries["problem"], pa.array(["link", "unreadable_folder"])),
        ),
        IMAGE,
        ANNOTATION,
        "zip",
        "multipart",
        "partial",
        "archive",
        "barred",
        OTHER,
    )
    return entries.append_column("type", pc.fill_null(chosen, OTHER))


def _subset_of_path(path: str) -> str | None:
    """The subset that a broken or unfinished file seems to be about, by its name."""
    last = path.rsplit("/", 1)[-1]
    return names.subset_of_file(last.split(".zip")[0].split(".z0")[0].rsplit(".json", 1)[0])


def _barred(archive: Archive, subset: str, entries: pa.Table) -> Iterator[Problem]:
    """One line for all entries of an archive that a key or another method of compression bars."""
    remedies = {
        "encrypted": ("are encrypted", "Unzip it with its password and give the folder instead"),
        "unsupported_compression": (
            "are compressed by a method that is not read here (neither stored nor deflated)",
            "Unzip it with the program that made it and give the folder instead",
        ),
    }
    for code, (detail, remedy) in remedies.items():
        if count := pc.sum(pc.equal(entries["problem"], code)).as_py():
            yield Problem(archive.label, code, f"{count} of its {entries.num_rows} files {detail}", remedy, subset)


def split_folders(paths: pa.ChunkedArray | pa.Array) -> tuple[pa.DictionaryArray, pa.Array]:
    """Paths as (folder, last part). The folder is dictionary-encoded: a million images share few. It may be empty."""
    before, last = split_last(paths, "/")
    return pc.dictionary_encode(pc.fill_null(before, "")), last


def split_last(texts: pa.ChunkedArray | pa.Array, separator: str) -> tuple[pa.Array, pa.Array]:
    """Texts cut at their last `separator`: (what stands before, null where there is none; what stands behind)."""
    combined = texts.combine_chunks() if isinstance(texts, pa.ChunkedArray) else texts
    # A regular expression that says the same takes twenty times as long.
    parts = pc.split_pattern(combined, separator, max_splits=1, reverse=True)
    first, behind = parts.offsets[:-1], pc.subtract(parts.offsets[1:], 1)
    return parts.values.take(pc.if_else(pc.equal(first, behind), None, first)), parts.values.take(behind)


def _by_subset(archive: Archive, entries: pa.Table) -> Iterator[tuple[str | None, pa.Table]]:
    """The entries of one container by subset, with `source`. Other files are dropped where they belong to none."""
    if not entries.num_rows:
        return
    folders, last = split_folders(entries["name"])
    label = archive.label.split("/")
    located = []  # a folder of the dictionary -> (subset, path within the subset)
    for folder in folders.dictionary.to_pylist():
        parts = [*label, *(folder.split("/") if folder else [])]
        subset, depth = names.locate(parts)
        located.append((subset, "/".join(parts[depth:]) if subset else ""))
    codes = folders.indices.to_numpy(zero_copy_only=False)
    subset_names = [None, *SUBSETS]
    number = np.array([subset_names.index(subset) for subset, _ in located])[codes]
    _by_file_name(entries, number, subset_names)
    prefix = pa.array([inner + "/" if inner else "" for _, inner in located]).take(pa.array(codes))
    entries = entries.append_column("source", pc.binary_join_element_wise(prefix, last, ""))
    del last, prefix  # of a million names each copy takes 50 MB
    for which in np.unique(number):
        rows = np.flatnonzero(number == which)
        mine = entries.take(pa.array(rows)) if len(rows) < entries.num_rows else entries
        subset = subset_names[which]
        if subset and archive.kind == "zip":  # the source says as much
            name = pc.if_else(pc.equal(mine["type"], IMAGE), "", mine["name"])
            mine = mine.set_column(mine.schema.get_field_index("name"), "name", name)
        yield subset, mine


def _by_file_name(entries: pa.Table, number: np.ndarray, subset_names: list) -> None:
    """Annotation files that lie in no subset's folder tell their subset by their own name; `number` is changed."""
    loose = np.flatnonzero((number == 0) & pc.equal(entries["type"], ANNOTATION).to_numpy(zero_copy_only=False))
    for row in loose:
        stem = entries["name"][int(row)].as_py().rsplit("/", 1)[-1].rsplit(".", 1)[0]
        number[row] = subset_names.index(names.subset_of_file(stem))


def _set_aside(subset: str, parts: list[Part], problems: list[Problem]) -> list[Part]:
    """Of what lies both in a zip and extracted in a folder the zip's counts; the folder's is named as a problem.

    What a folder alone has stays: somebody has unzipped some of the zips, or has annotations of another source.
    """
    zips = [part.entries for part in parts if part.archive.kind == "zip"]
    if not zips or len(zips) == len(parts):
        return parts
    zips = [entries.filter(pc.is_null(entries["problem"])) for entries in zips]  # an encrypted one is to be unzipped
    zipped = pa.concat_tables([entries.select(["source", "size", "type"]) for entries in zips])
    texts = zipped.filter(pc.equal(zipped["type"], ANNOTATION)).select(["source", "size"]).to_pylist()
    sources = zipped["source"].combine_chunks()
    kept, beside = [], []
    for part in parts:
        if part.archive.kind == "zip":
            kept.append(part)
            continue
        twice = pc.is_in(part.entries["source"], value_set=sources)
        kept.append(Part(part.archive, part.entries.filter(pc.invert(twice))))
        doubled = part.entries.filter(twice)
        images = doubled.filter(pc.equal(doubled["type"], IMAGE))
        if images.num_rows:
            first = images.slice(0, 1).to_pylist()[0]
            folder = first["name"].removesuffix(first["source"]) + first["source"].split("/", 1)[0]
            detail = f"{images.num_rows} images of {subset} lie extracted beside its zip; the zip counts"
            beside.append((f"{part.archive.label}/{folder}", detail))
        for row in doubled.filter(pc.equal(doubled["type"], ANNOTATION)).to_pylist():
            if {"source": row["source"], "size": row["size"]} not in texts:
                detail = f"another version of this annotation file of {subset} is in its zip, which counts"
                beside.append((f"{part.archive.label}/{row['name']}", detail))
    remedy = "Remove the zip if the folder is the one to use"
    problems += [Problem(where, "beside_zip", detail, remedy, subset) for where, detail in beside]
    return kept
