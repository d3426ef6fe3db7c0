"""Walk a release as a tree of containers: folders, zips, zips within them.

Each container comes with the table of its files, typed by their names. Whatever cannot be used comes as a `Problem` in
the same stream, so that the caller takes both in the order of the walk and nothing is lost on the way.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from conversion import layout, names
from conversion.archives import DAMAGE, PART, UNFINISHED, Archive, ArchiveError, inner_archive, one_part, read_entries
from conversion.columns import split_last
from conversion.findings import Problem

DEPTH = 3  # archives within archives: MMM-RS.zip, its subset zips, and one more
PEEKED = 1000  # files of a folder, at most, that are opened to see whether they are zips

# Types of the files of a container. Others are keys of REMARKS: such files are named and not used.
IMAGE, ANNOTATION, OTHER, ZIP = "image", "annotation", "other", "zip"
MAYBE_ZIP = "maybe_zip"  # its name says nothing: of a folder's files its first bytes do


@dataclass(frozen=True)
class Remark:
    """What is said of a file that is not used."""

    detail: str
    remedy: str


REMARKS = {
    "other_archive": Remark("this kind of archive is not supported", "Unpack it"),
    "link": Remark(
        "it is a symbolic link, which is not followed", "Move here what it points to, or give that as the release"
    ),
    "unreadable_folder": Remark(
        "this folder may not be read", "Give yourself the permission to read it, or move it away"
    ),
    "half_download": Remark("the download of this file is not finished", "Let it finish or download it again"),
    "multi_part": Remark(
        "it is one part of a kind of archive that is not supported", "Get all parts, unpack them and give the folder"
    ),
}
UNZIP_OUTER = "Unzip the outer archive first"
_COMPRESSED = r"\.(gz|bz2|xz|zst)"
_OTHER_ARCHIVE = rf"\.(rar|7z|tar|tgz|tbz2?|txz|tar{_COMPRESSED}|(jsonl?|ndjson){_COMPRESSED})({names.DOWNLOAD_TAIL})?$"
# rsync calls `X.zip` `.X.zip.Ab12Cd` until all of it is there.
_UNFINISHED = "(" + "|".join(map(re.escape, UNFINISHED)) + r")$|(^|/)\.[^/]*\.zip\.[a-z0-9]{6}$"


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
        entries = _typed(archive, _without(read_entries(archive), exclude))
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
    zips = [(entries["name"][row].as_py(), row) for row in pc.indices_nonzero(pc.equal(types, ZIP)).to_pylist()]
    split = {PART.sub(".zip", name).lower() for name, _ in zips if PART.search(name)}
    whole = set()
    for name, row in sorted(zips, key=lambda item: PART.search(item[0]) is not None):
        if (joined := PART.sub(".zip", name).lower()) in whole:
            detail = "it is one part of a zip that is also there in one piece, which counts"
            yield _problem(f"{archive.label}/{name}", "multi_part", detail, "Remove this part")
            continue
        inner = _inner(archive, entries, row, depth)
        if isinstance(inner, Problem):
            yield inner
            continue
        for item in containers(inner, depth=depth - 1):
            if isinstance(item, Container) and item.archive == inner:
                whole.add(joined)
            elif isinstance(item, Problem) and _cannot_be_read(item, inner) and joined in split:
                item = _unreadable(one_part(inner.label))
            yield item


def _cannot_be_read(problem: Problem, archive: Archive) -> bool:
    return problem.code == "unreadable_archive" and problem.path == archive.label


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
        return _problem(label, "nested_too_deep", "too many archives within archives", "Unzip this one")
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


def _typed(archive: Archive, entries: pa.Table) -> pa.Table:
    """Add the column `type`: by the name, and where that says nothing by the first bytes of a folder's file."""
    name = pc.utf8_lower(entries["name"])
    stem, suffix = split_last(name, ".")
    suffix = pc.if_else(pc.is_valid(stem), suffix, "")
    is_image = pc.is_in(suffix, pa.array(names.IMAGE_SUFFIXES))
    plain = pc.or_(is_image, pc.is_in(suffix, pa.array(names.ANNOTATION_SUFFIXES)))
    types = pc.if_else(is_image, IMAGE, ANNOTATION)
    if not pc.all(plain).as_py():  # the few whose names are looked at more closely, which takes longer
        rest = pc.invert(plain)
        types = pc.replace_with_mask(types, rest, _by_pattern(name.filter(rest), entries["problem"].filter(rest)))
    return entries.append_column("type", _peeked(archive, entries, types))


def _by_pattern(name: pa.ChunkedArray, problem: pa.ChunkedArray) -> pa.Array:
    """Types of files that are neither images nor annotations by their suffix. `name`: in small letters."""
    patterns = {
        ANNOTATION: rf"\.({'|'.join(names.ANNOTATION_SUFFIXES)})({names.DOWNLOAD_TAIL}|{names.COPY_TAIL})+$",
        "half_download": _UNFINISHED,
        ZIP: rf"\.(zip{names.DOWNLOAD_TAIL}?|z\d\d)$",
        "multi_part": r"\.(7z\.\d{3}|part\d+\.rar|r\d\d)$",
        "other_archive": _OTHER_ARCHIVE,
        MAYBE_ZIP: r"(^|/)[^/.]+$|[?&][^/]*$|\.zip[^a-z0-9/][^/]*$",
    }
    link = pc.and_(pc.fill_null(pc.equal(problem, "link"), False), pc.invert(pc.ends_with(name, ".zip")))
    tests = {
        "link": link,
        "unreadable_folder": pc.fill_null(pc.equal(problem, "unreadable_folder"), False),
        **{kind: pc.match_substring_regex(name, pattern) for kind, pattern in patterns.items()},
    }
    return pc.case_when(pc.make_struct(*tests.values()), *tests, OTHER).combine_chunks()


def _peeked(archive: Archive, entries: pa.Table, types: pa.ChunkedArray) -> pa.ChunkedArray:
    """The types without MAYBE_ZIP."""
    maybe = pc.equal(types, MAYBE_ZIP)
    zips = np.zeros(len(types), bool)
    if archive.kind == "folder":
        for row in pc.indices_nonzero(pc.and_(maybe, pc.is_null(entries["problem"]))).to_pylist()[:PEEKED]:
            zips[row] = _begins_as_zip(os.path.join(archive.path, os.fsdecode(entries["file"][row].as_py())))
    return pc.if_else(pa.array(zips), ZIP, pc.if_else(maybe, OTHER, types))


def _begins_as_zip(path: str) -> bool:
    with contextlib.suppress(OSError), open(path, "rb", buffering=0) as file:
        return file.read(4) == b"PK\3\4"
    return False


def _unreadable(error: ArchiveError) -> Problem:
    return _problem(error.label, error.code, error.detail, error.remedy)


def _problem(path: str, code: str, detail: str, remedy: str) -> Problem:
    return Problem(path, code, detail, remedy, names.subset_of_download(path))
