"""Find the subsets in a release, in whatever form it comes.

What a file belongs to follows from the names on the way to it (`names.locate`), so a folder of subset zips, one
`MMM-RS.zip`, extracted folders and any mix of them are one case. Only directories of archives are read here, never the
bytes of an image.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from conversion import layout, names
from conversion.archives import Archive
from conversion.columns import split_folders
from conversion.containers import ANNOTATION, IMAGE, OTHER, Remark, containers
from conversion.errors import ReleaseError, UsageError
from conversion.findings import EXAMPLES, REMEDIES, Problem
from conversion.memory import frees_memory
from mmm_rs import SUBSETS

INDIFFERENT = ("link", "unreadable_folder")  # problems that any folder can have, whatever it holds

# What is said of an archive of which some or all files cannot be read, by their problem.
BARRED = {
    "encrypted": Remark("are encrypted", "Unzip it with its password and give the folder instead"),
    "unsupported_compression": Remark(
        "are compressed by a method that is not read here (neither stored nor deflated)",
        "Unzip it with the program that made it and give the folder instead",
    ),
}


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
    imageless: dict[str, SubsetFiles]  # annotations without any image of their subset

    @property
    def missing(self) -> list[str]:
        return [name for name in SUBSETS if name not in self.subsets]


def check_there(path: str | os.PathLike[str]) -> None:
    """Raises UsageError if there is no such path, or if a release cannot be read on this system."""
    check_system()
    if not os.path.exists(path):
        raise UsageError(f"{path}: no such file or folder. Give the folder or zip that holds the release")


def check_system() -> None:
    """Raises UsageError if a release cannot be read on this system."""
    if sys.platform == "win32":
        raise UsageError(
            "a release is read on Linux and macOS only. On Windows, run this in WSL (https://aka.ms/wsl). Converted "
            "datasets are read here too: mmm_rs.load_dataset, mmm-rs show, mmm-rs preview"
        )


def check_output(path: str | os.PathLike[str], out: str | os.PathLike[str]) -> None:
    """Raises UsageError where a release must not be converted into `out`: the release itself, or a folder around it."""
    if not os.fspath(out):
        raise UsageError("the path of the output is empty. Give the folder to write")
    inner, outer = Path(os.path.realpath(path)), Path(os.path.realpath(out))
    if inner == outer:
        raise UsageError(f"{out}: is the release. Choose another output folder; it may be inside the release")
    if inner.is_relative_to(outer):
        raise UsageError(
            f"{out}: holds the release {path}. Choose another output folder; it may be next to the release"
        )


def is_inside(out: str | os.PathLike[str], path: str | os.PathLike[str]) -> bool:
    """Whether a folder lies in a release."""
    return Path(os.path.realpath(out)).is_relative_to(os.path.realpath(path))


@frees_memory
def find(
    path: str | os.PathLike[str], annotations: str | os.PathLike[str] | None = None, exclude: Path | None = None
) -> Release:
    """The subsets in `path`: a folder, `MMM-RS.zip`, a subset's zip or folder.

    `annotations` is a folder or zip that holds, at any depth and in zips too, annotation files that lie apart from the
    images; nothing else in it counts. `exclude` is a folder that is not part of the release although it lies in it: the
    output.

    Raises UsageError where there is no such path, ReleaseError where nothing of a release is in it.
    """
    path = Path(path)
    check_there(path)
    problems: list[Problem] = []
    parts: dict[str, list[Part]] = {}
    strays: list[pa.Table] = []
    for root in (path, *_apart(path, annotations)):
        others = [folder for folder in (exclude, path) if folder is not None and folder is not root]
        for item in containers(_archive(root), _inside(root, others)):
            if isinstance(item, Problem):
                problems.append(item)
                continue
            archive, entries = item.archive, item.entries
            if root is not path:
                entries = entries.filter(pc.equal(entries["type"], ANNOTATION))
            for subset, files in _by_subset(archive, entries):
                if subset is None:
                    strays.append(_paths(archive, files))
                else:
                    parts.setdefault(subset, []).append(Part(archive, files))
                    problems += _barred(archive, subset, files)
    subsets, imageless = {}, {}
    for name in filter(parts.__contains__, SUBSETS):
        kept, beside = _set_aside(name, parts[name])
        problems += beside
        files = SubsetFiles(name, tuple(kept))
        if any(part.count(IMAGE) for part in kept):
            subsets[name] = files
        else:
            problems += _without_images(files)
            if any(part.count(ANNOTATION) for part in kept):
                imageless[name] = files
    empty = pa.table({"path": pa.array([], pa.string()), "type": pa.array([], pa.string())})
    unknown = pa.concat_tables([empty, *strays])
    if not subsets and all(problem.code in INDIFFERENT for problem in problems):
        if all((path / name).exists() for name in layout.SIGNS):
            raise ReleaseError(f"{path}: is a converted folder. Give the release that it was converted from")
        unread = f". Not looked into: {'; '.join(map(str, problems[:EXAMPLES]))}" if problems else ""
        raise ReleaseError(
            f"{path}: nothing of MMM-RS was found here{_among(unknown, problems)}. Give the folder with the downloaded "
            f"zips, MMM-RS.zip, or one subset's zip or folder{unread}"
        )
    unknown = unknown.filter(pc.not_equal(unknown["type"], OTHER))
    return Release(path, subsets, tuple(problems), unknown, imageless)


def _among(unknown: pa.Table, problems: list[Problem]) -> str:
    """What is there instead of a release."""
    count = unknown.num_rows + len(problems)
    if not count:
        return ": it holds no files outside of hidden folders and recycle bins"
    examples = [*unknown["path"].slice(0, EXAMPLES).to_pylist(), *(problem.path for problem in problems)][:EXAMPLES]
    return f" among {count:,} file{'s' * (count > 1)}, such as {', '.join(examples)}"


def _apart(path: Path, annotations: str | os.PathLike[str] | None) -> Iterator[Path]:
    """The folder or zip of annotation files, if one is given that does not lie in the release anyway."""
    if annotations is None:
        return
    apart = Path(annotations)
    if not apart.exists() or (apart.is_file() and names.archive_stem(apart.name) is None):
        raise UsageError(f"--annotations {apart}: give the folder or zip that holds the annotation files")
    if not apart.resolve().is_relative_to(path.resolve()):
        yield apart


def _archive(root: Path) -> Archive:
    label = os.fsencode(root.resolve().name).decode(errors="backslashreplace")  # it is printed and reported
    return Archive(path=str(root.absolute()), label=label, kind="folder" if root.is_dir() else "zip")


def _inside(root: Path, paths: list[Path]) -> list[str]:
    """Those of `paths` that lie within `root`, with slashes, as names of the files in it begin."""
    inner = [path.resolve() for path in paths if path.resolve().is_relative_to(root.resolve())]
    return [path.relative_to(root.resolve()).as_posix() + "/" * (not path.is_file()) for path in inner]


def _paths(archive: Archive, entries: pa.Table) -> pa.Table:
    """Files of no subset, with their whole path."""
    return pa.table({"path": pc.binary_join_element_wise(archive.label, entries["name"], "/"), "type": entries["type"]})


def _barred(archive: Archive, subset: str, entries: pa.Table) -> Iterator[Problem]:
    """One line for all entries of an archive that a password or another method of compression bars."""
    for code, remark in BARRED.items():
        if count := pc.sum(pc.equal(entries["problem"], code)).as_py():
            detail = f"{count} of its {entries.num_rows} files {remark.detail}"
            yield Problem(archive.label, code, detail, remark.remedy, subset)


def _without_images(files: SubsetFiles) -> Iterator[Problem]:
    for part in files.parts:
        label, entries = part.archive.label, part.entries
        listed = entries.filter(pc.equal(entries["type"], ANNOTATION))["name"].to_pylist()
        for name in listed:
            detail = f"none of the images of {files.name}, which this annotation file describes, are here"
            yield Problem(f"{label}/{name}", "no_images", detail, REMEDIES["no_images"], files.name)
        if part.archive.kind == "zip" and entries.num_rows and not listed:
            detail = f"its {entries.num_rows:,} files are neither images nor annotations"
            yield Problem(label, "nothing_known", detail, "Check that it is the right archive", files.name)


def _by_subset(archive: Archive, entries: pa.Table) -> Iterator[tuple[str | None, pa.Table]]:
    """The entries of one container by subset, with `source`. Other files are dropped where they belong to none."""
    if not entries.num_rows:
        return
    folders, last = split_folders(entries["name"])
    label = archive.label.split("/")
    located = []  # (subset, path within the subset) of each folder of the dictionary
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
        files = entries.take(pa.array(rows)) if len(rows) < entries.num_rows else entries
        subset = subset_names[which]
        if subset and archive.kind == "zip":  # the source says as much
            name = pc.if_else(pc.equal(files["type"], IMAGE), "", files["name"])
            files = files.set_column(files.schema.get_field_index("name"), "name", name)
        yield subset, files


def _by_file_name(entries: pa.Table, number: np.ndarray, subset_names: list) -> None:
    """Annotation files that lie in no subset's folder tell their subset by their own name; `number` is changed."""
    loose = np.flatnonzero((number == 0) & pc.equal(entries["type"], ANNOTATION).to_numpy(zero_copy_only=False))
    for row in loose:
        number[row] = subset_names.index(names.subset_of_download(entries["name"][int(row)].as_py()))


def _set_aside(subset: str, parts: list[Part]) -> tuple[list[Part], list[Problem]]:
    """Of files that lie both in a zip and extracted in a folder the zip's count; the folder's are named as a problem.

    What a folder alone has stays: somebody has unzipped some of the zips, or has annotations of another source.
    """
    zips = [part.entries for part in parts if part.archive.kind == "zip"]
    if not zips or len(zips) == len(parts):
        return parts, []
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
            (first,) = images.slice(0, 1).to_pylist()
            folder = first["name"].removesuffix(first["source"]) + first["source"].split("/", 1)[0]
            detail = f"{images.num_rows} images of {subset} are also extracted next to its zip; the zip counts"
            beside.append((f"{part.archive.label}/{folder}", detail))
        for row in doubled.filter(pc.equal(doubled["type"], ANNOTATION)).to_pylist():
            if {"source": row["source"], "size": row["size"]} not in texts:
                detail = f"another version of this annotation file of {subset} is in its zip, which counts"
                beside.append((f"{part.archive.label}/{row['name']}", detail))
    remedy = "Remove the zip if the folder is the one to use"
    return kept, [Problem(path, "beside_zip", detail, remedy, subset) for path, detail in beside]
