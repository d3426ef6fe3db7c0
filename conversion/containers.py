"""Walk a release as a tree of containers: folders, zips, zips within them.

Each container comes with the table of its files, typed by their names. Whatever cannot be used comes as a `Problem` in
the same stream, so that the caller takes both in the order of the walk and nothing is lost on the way.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from conversion import layout, names
from conversion.archives import DAMAGE, Archive, ArchiveError, inner_archive, read_entries
from conversion.columns import split_last
from conversion.findings import Problem

DEPTH = 3  # archives within archives: MMM-RS.zip, its subset zips, and one more
PARTIAL = (".baiduyun.p.downloading", ".downloading", ".crdownload", ".part", ".partial", ".aria2", ".quark", ".tmp")
OTHER_ARCHIVES = ("rar", "7z", "tar", "tgz", "gz", "bz2", "xz")  # suffixes

# Types of the files of a container. Others are keys of REMARKS: such files are named and not used.
IMAGE, ANNOTATION, OTHER, ZIP = "image", "annotation", "other", "zip"


@dataclass(frozen=True)
class Remark:
    """What is said of a file that is not used."""

    detail: str
    remedy: str


REMARKS = {
    "other_archive": Remark("it is an archive of a kind that is not read", "Unpack it"),
    "link": Remark(
        "it is a symbolic link, which is not followed", "Move here what it points to, or give that as the release"
    ),
    "unreadable_folder": Remark(
        "this folder may not be read", "Give yourself the permission to read it, or move it away"
    ),
    "half_download": Remark("the download of this file is not finished", "Let it finish or download it again"),
    "multi_part": Remark(
        "this is one part of an archive in several",
        "Get all parts and join them: `zip -s 0 X.zip --out Y.zip` for .z01, `cat X.zip.* > X.zip` for .001",
    ),
}
UNZIP_OUTER = "Unzip the outer archive first"


@dataclass(frozen=True)
class Container:
    """A folder or zip. `entries` has the columns of `read_entries` and `type`: image, annotation or other."""

    archive: Archive
    entries: pa.Table


def containers(archive: Archive, exclude: Sequence[str] = (), depth: int = DEPTH) -> Iterator[Container | Problem]:
    """An archive and all archives within it, and what of them is not used.

    `exclude`: beginnings of the names of files that are not part of the release. `depth`: how many archives within
    archives are still entered.
    """
    try:
        entries = _typed(_without(read_entries(archive), exclude))
    except ArchiveError as error:
        yield _unreadable(error)
        return
    yield from _about_the_whole(archive, entries)
    entries = entries.replace_schema_metadata(None)
    types = entries["type"]
    for row in entries.filter(pc.is_in(types, pa.array(list(REMARKS)))).to_pylist():
        remark = REMARKS[row["type"]]
        yield _problem(f"{archive.label}/{row['name']}", row["type"], remark.detail, remark.remedy)
    yield Container(archive, entries.filter(pc.is_in(types, pa.array([IMAGE, ANNOTATION, OTHER]))))
    parts = entries.filter(pc.equal(types, "multi_part"))["name"].to_pylist()
    split = {name.rsplit(".", 1)[0].lower() for name in parts}
    for row in pc.indices_nonzero(pc.equal(types, ZIP)).to_pylist():
        name = entries["name"][row].as_py().lower()
        if name.removesuffix(".zip") in split or name in split:
            continue  # the last part of a split archive: its other parts have been named
        inner = _inner(archive, entries, row, depth)
        if isinstance(inner, Problem):
            yield inner
        else:
            yield from containers(inner, depth=depth - 1)


def _about_the_whole(archive: Archive, entries: pa.Table) -> Iterator[Problem]:
    """What is wrong with an archive that is read all the same."""
    if damage := (entries.schema.metadata or {}).get(DAMAGE):
        detail = (
            f"{damage.decode()}; each image that is published is whole by its own CRC32, but its name may be damaged"
        )
        yield _problem(archive.label, "crc_mismatch", detail, "Download it again")
    if archive.kind == "zip" and not entries.num_rows:
        yield _problem(archive.label, "empty_archive", "it holds no files", "Download it again")


def _inner(archive: Archive, entries: pa.Table, row: int, depth: int) -> Archive | Problem:
    """The zip that is one entry of an archive, or why it is not read."""
    name, problem, file = (entries[column][row].as_py() for column in ("name", "problem", "file"))
    label = f"{archive.label}/{name}"
    if depth == 0:
        return Problem(label, "nested_too_deep", "too many archives within archives", "Unzip this one")
    if archive.kind == "folder":
        return Archive(path=os.path.join(archive.path, os.fsdecode(file)), label=label, kind="zip")
    if problem:
        return _problem(label, problem, "this archive cannot be read inside its archive", UNZIP_OUTER)
    if archive.inside:
        return _problem(label, "nested_too_deep", "a zip inside a compressed zip inside a zip", UNZIP_OUTER)
    try:
        return inner_archive(archive, entries, row)
    except ArchiveError as error:
        return _unreadable(error)


def _without(entries: pa.Table, exclude: Sequence[str]) -> pa.Table:
    """The entries but for those whose names begin in one of these ways, and those that a conversion wrote."""
    for start in (*exclude, *_converted(entries)):
        entries = entries.filter(pc.invert(pc.starts_with(entries["name"], start)))
    return entries


def _converted(entries: pa.Table) -> list[str]:
    """Beginnings of the names that a conversion wrote beside the release's files, or in a folder among them."""
    names = entries["name"]
    folders = set.intersection(
        *(
            {name.removesuffix(sign) for name in names.filter(pc.ends_with(names, sign)).to_pylist()}
            for sign in layout.SIGNS
        )
    )
    own = [name if "." in name else f"{name}/" for name in layout.PRODUCTS] if "" in folders else []
    return own + sorted(folder for folder in folders if folder.endswith("/"))


def _typed(entries: pa.Table) -> pa.Table:
    """Add the column `type`, by the suffix of the name."""
    name = pc.utf8_lower(entries["name"])
    stem, suffix = split_last(name, ".")
    suffix = pc.if_else(pc.is_valid(stem), suffix, None)
    problem = entries["problem"]
    tests = {
        IMAGE: pc.is_in(suffix, pa.array(names.IMAGE_SUFFIXES)),
        ANNOTATION: pc.is_in(suffix, pa.array(names.ANNOTATION_SUFFIXES)),
        ZIP: pc.equal(suffix, "zip"),
        "multi_part": pc.match_substring_regex(name, r"\.(z\d\d|zip\.\d{2,3}|7z\.\d{3}|part\d+\.rar)$"),
        "half_download": pc.match_substring_regex(name, "(" + "|".join(map(_literal, PARTIAL)) + ")$"),
        "other_archive": pc.is_in(suffix, pa.array(OTHER_ARCHIVES)),
        "link": pc.equal(problem, "link"),
        "unreadable_folder": pc.equal(problem, "unreadable_folder"),
    }
    chosen = pc.case_when(pc.make_struct(*tests.values()), *tests, OTHER)
    return entries.append_column("type", pc.fill_null(chosen, OTHER))


def _literal(suffix: str) -> str:
    return suffix.replace(".", r"\.")


def _unreadable(error: ArchiveError) -> Problem:
    return _problem(error.label, "unreadable_archive", error.detail, error.remedy)


def _problem(path: str, code: str, detail: str, remedy: str) -> Problem:
    return Problem(path, code, detail, remedy, _subset_of_path(path))


def _subset_of_path(path: str) -> str | None:
    """The subset that a file which is broken or not read seems to be about, by its own name."""
    last = path.rsplit("/", 1)[-1]
    return names.subset_of_file(last.split(".zip")[0].split(".z0")[0].rsplit(".json", 1)[0])
