"""Files of a shard's own name beside it, for tools that look for them there: X.tar, X.idx, X.parquet.

`X.idx` is the index that NVIDIA's `wds2idx` makes of a tar for DALI: a line for each sample, with suffix, offset, size
and name of each member. `X.parquet` has the shard's rows of the index, as NeMo Curator wants them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import PurePosixPath

VERSION = "v1.2"  # of wds2idx's format


@dataclass
class DaliIndex:
    """The index of one tar, while it is written."""

    lines: list[str] = field(default_factory=list)

    def add(self, members: Sequence[tuple[str, int, int]]) -> None:
        """Add a sample: name, offset and size of each of its members."""
        self.lines.append(" ".join(f"{_suffix(name)} {offset} {size} {name}" for name, offset, size in members))

    def encoded(self) -> bytes:
        return "".join(f"{line}\n" for line in [f"{VERSION} {len(self.lines)}", *self.lines]).encode()


def _suffix(name: str) -> str:
    return PurePosixPath(name).name.partition(".")[2]


def sidecar_names(shard: str) -> tuple[str, str]:
    """The sidecars of a shard: its index for DALI and its rows as Parquet."""
    stem = shard.removesuffix(".tar")
    return f"{stem}.idx", f"{stem}.parquet"
