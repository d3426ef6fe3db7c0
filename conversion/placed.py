"""Images of a converted folder, read where the index places them and checked by length and CRC.

For those who look at a few images. Others have readers of their own for the sake of speed: `mmm_rs` and
`conversion.exports` fill one buffer with many ranges, `conversion.archives` inflates and checks in one pass. A
comparison with a release or a source needs no CRC, because it has the bytes that should be there.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from conversion.errors import OutputError, VerificationError
from mmm_rs import IMAGE_PLACE, SHARD_NAME, crc32

Read = Callable[[str, int, int], bytes]
"""Bytes of a shard, by its name, their offset and their number."""


@dataclass(frozen=True)
class Place:
    """Where an image is, and what it must be."""

    shard: str  # path within the converted folder
    offset: int  # bytes, from the start of the shard
    size: int  # bytes
    crc32: int

    @staticmethod
    def columns(modality: str) -> list[str]:
        """The columns of the index that `of` needs."""
        return ["shard", *(f"{modality}_{name}" for name in IMAGE_PLACE)]

    @classmethod
    def of(cls, row: Mapping[str, Any], modality: str) -> Place:
        """The place by a row of the index, of a sample that has such an image."""
        return cls(*(row[name] for name in cls.columns(modality)))

    def fits(self, data: bytes | bytearray) -> bool:
        """Whether these are the bytes that the index means."""
        return len(data) == self.size and crc32(data) == self.crc32


def reader(out: Path) -> Read:
    """Reads bytes of the shards of a folder."""
    return partial(_read, out)


def _read(out: Path, shard: str, offset: int, size: int) -> bytes:
    """An index can name any file and any place, so neither is believed."""
    path = out / shard
    if not SHARD_NAME.fullmatch(shard) or not path.is_file() or not 0 <= offset <= path.stat().st_size - size:
        raise OutputError(
            f"{out}: the index names {size:,} bytes at {offset:,} of {shard}, which this folder does not have. Run "
            "`mmm-rs verify` to see what is wrong"
        )
    try:
        with open(path, "rb") as file:
            file.seek(offset)
            return file.read(size)
    except OSError as error:
        raise OutputError(
            f"{path}: cannot be read: {error.strerror}. The card shows images of the shards; "
            "convert again with --overwrite"
        ) from None


def read_image(read: Read, place: Place) -> bytes:
    """The bytes of one image.

    Raises:
        OutputError: The shard cannot be read.
        VerificationError: It holds other bytes than the index says.
    """
    data = read(place.shard, place.offset, place.size)
    if not place.fits(data):
        raise VerificationError(
            f"{place.shard}: the {place.size:,} bytes at {place.offset:,} are not those of the image that the index "
            "names. Run `mmm-rs verify` to see what else is wrong"
        )
    return data
