"""What lies in a converted folder: the files of the dataset, and what else."""

from __future__ import annotations

import fnmatch
import os
import re
import stat
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from conversion import layout
from conversion.disk import TEMPORARY
from conversion.display import first_of

# Names that other tools and systems leave beside shards: Energon's folder and its index of each shard, the indexes of
# DALI, what file managers write, and what is left of a conversion that was killed.
LEFT_BY_OTHERS = (".nv-meta", "*.tar.idx", "*.idx", ".DS_Store", "._*", "Thumbs.db", "desktop.ini", TEMPORARY)
PICTURES = (".png", ".jpg", ".jpeg", ".gif", ".webp", ".svg")  # suffixes of what a card may show
SHOWN = re.compile(r"""(?:\]\(|src=["'])(assets/[^/\s"')]+)""")  # a picture in Markdown or HTML


@dataclass(frozen=True)
class Contents:
    """Paths relative to the folder, each group in order."""

    files: tuple[str, ...]
    """of the dataset: what manifest and card name"""
    missing: tuple[str, ...]
    """those of `files` that are not there"""
    strange: tuple[str, ...]
    """in the dataset's folders, but not of the dataset"""
    links: tuple[str, ...]
    """symbolic links in the places of files and folders of the dataset, or among them"""
    passed_over: tuple[str, ...]
    """names that other tools leave there"""
    others: tuple[str, ...]
    """beside the dataset's files and folders, without hidden ones"""


def survey(out: Path, manifest: Mapping[str, Any]) -> Contents:
    """Look through a converted folder. No link is followed, except where it stands in the place of a file."""
    files = known_files(out, manifest)
    expected = set(files)
    strange, links, passed_over = [], [], []
    for path, mode in _entries(out):
        if stat.S_ISLNK(mode):
            links.append(path)
            if path in expected or any(name.startswith(f"{path}/") for name in expected):
                continue
        elif stat.S_ISREG(mode) and path in expected:
            continue
        if left_by_others(path):
            passed_over.append(path)
        else:
            strange.append(path)
    return Contents(
        files=files,
        missing=tuple(name for name in files if not (out / name).is_file()),
        strange=tuple(strange),
        links=tuple(links),
        passed_over=tuple(passed_over),
        others=tuple(sorted(name for name in _names(out) if name not in layout.PRODUCTS and name[0] != ".")),
    )


def left_by_others(path: str) -> bool:
    """Whether a path among the dataset's has a name of LEFT_BY_OTHERS, or lies in a folder that has."""
    return any(fnmatch.fnmatchcase(part, pattern) for part in path.split("/") for pattern in LEFT_BY_OTHERS)


def remarks(passed_over: Sequence[str], others: Sequence[str]) -> list[str]:
    """What to tell a person of these two groups of `Contents`."""
    return [
        *first_of([f"{path}: was left by another tool and is ignored" for path in passed_over]),
        *first_of([f"{path}: is not part of the dataset" for path in others]),
    ]


def known_files(out: Path, manifest: Mapping[str, Any]) -> tuple[str, ...]:
    """The files of the dataset: its shards in the order of the manifest, then the others by name."""
    try:
        card = (out / layout.CARD).read_text(encoding="utf-8", errors="replace")
    except OSError:
        card = ""
    pictures = {path for path in SHOWN.findall(card) if path.lower().endswith(PICTURES)}
    pictures |= {path for path in layout.FIGURES if (out / path).is_file()}
    described = {layout.CARD, layout.CROISSANT, layout.MODULE, layout.MANIFEST, layout.SUMMARY, layout.UNPUBLISHED}
    described |= {layout.index_name(subset) for subset in manifest["subsets"]}
    return (*(shard["name"] for shard in manifest["shards"]), *sorted(described | pictures))


def _entries(out: Path) -> Iterator[tuple[str, int]]:
    """(path, mode) of what is not a plain folder, in the places of the dataset and below them."""
    waiting = [name for name in reversed(layout.PRODUCTS) if os.path.lexists(out / name)]
    while waiting:
        path = waiting.pop()
        mode = os.lstat(out / path).st_mode
        if stat.S_ISDIR(mode) and path.rpartition("/")[2] not in LEFT_BY_OTHERS:
            waiting += [f"{path}/{name}" for name in sorted(_names(out / path), reverse=True)]
        else:
            yield path, mode


def _names(folder: Path) -> list[str]:
    try:
        return os.listdir(folder)
    except OSError:  # it may not be read: its files are missing then
        return []
