"""The options that shape a conversion's output. The manifest records them."""

from __future__ import annotations

from dataclasses import dataclass

from conversion.errors import UsageError

SHARD_SIZE = 512_000_000  # bytes at most; streams well, and is cheap to fetch again


@dataclass(frozen=True)
class Options:
    """What to publish, and how it is spread over shards.

    Raises UsageError for a value that cannot be used.
    """

    seed: int = 0  # of the order of the samples
    shard_size: int = SHARD_SIZE  # bytes at most
    image_key: str | None = None  # the annotations' key of the image path; None: recognised
    prompt_key: str | None = None  # the annotations' key of the prompt; None: recognised
    keep_unprompted: bool = False  # publish images without a record too
    validation: float = 0.0  # share of the scenes that is held out
    decode: str = "structure"  # or "full": decode every image

    def __post_init__(self) -> None:
        if not 0 <= self.validation < 1:
            raise UsageError(f"--validation {self.validation}: give a share of the scenes from 0 to below 1")
        if self.shard_size < 1:
            raise UsageError(f"--shard-size {self.shard_size}: give a size above zero")
        if not -(10**63) < self.seed < 10**64:  # its digits are a key of blake2b
            raise UsageError("--seed: give a number of at most 64 characters")
