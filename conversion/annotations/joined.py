"""COCO's form: the images and their captions in two lists that meet by the id of the image.

The names of the images are held in memory while the captions are read.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from conversion.annotations.keys import IMAGE_KEYS, fold, ranked
from conversion.annotations.values import is_text, shortened

ID = "imageid"  # the captions' key, folded
MOST_IMAGES = 10_000_000  # five times as many as MMM-RS has, and about 2 GB of memory; further ones are not known
LONGEST_PATH = 4096  # characters
FILE_KEYS = tuple(key for key in IMAGE_KEYS if key != ID)  # of the list of images


def is_id_key(key: str | None) -> bool:
    return key is not None and fold(key) == ID


def are_numbers(rows: Sequence[dict[str, Any]], key: str) -> bool:
    """Whether ids are numbers, which cannot be paths."""
    return any(type(row.get(key)) is int for row in rows)


class ImageNames:
    """The path of each image by its id."""

    def __init__(self) -> None:
        self._paths: dict[int | str, str | None] = {}  # None where several images have one id

    def __bool__(self) -> bool:
        return bool(self._paths)

    def add(self, row: dict[str, Any]) -> None:
        """Take an object that is not a record. It may be anything."""
        id = row.get("id")
        path = next(
            (row[key] for key in ranked(row, FILE_KEYS) if isinstance(row[key], str) and row[key].strip()), None
        )
        if len(self._paths) == MOST_IMAGES or path is None or len(path) > LONGEST_PATH or not is_text(path):
            return
        if type(id) is int or (type(id) is str and len(id) <= LONGEST_PATH):  # not a boolean, which equals 0 or 1
            self._paths[id] = path if self._paths.get(id, path) == path else None

    def of(self, id: Any) -> tuple[str | None, str]:
        """The path of the image with this id, or None, and then the reason. An id may be a number in one list and text
        in the other."""
        for key in _spellings(id):
            if key in self._paths:
                return self._paths[key], f"several images have the id {shortened(repr(id))}"
        return None, f"no image has the id {shortened(repr(id))}"


def _spellings(id: Any) -> Iterator[int | str]:
    if type(id) is int:
        yield from (id, str(id))
    elif type(id) is str:
        yield id
        if id.isdecimal() and len(id) < 20:
            yield int(id)
