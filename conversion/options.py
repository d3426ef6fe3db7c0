"""The options that shape a conversion's output. The manifest records them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

import msgspec

from conversion.display import size
from conversion.errors import UsageError, VerificationError

SHARD_SIZE = 512_000_000  # bytes at most; streams well, and is cheap to fetch again
SMALLEST_SHARD = 4_000  # bytes that a small image, its prompt and its labels take in a tar


@dataclass(frozen=True)
class Options:
    """What to publish, and how it is spread over shards.

    Raises UsageError for a value that cannot be used.
    """

    seed: int = 0  # for the sample order
    shard_size: int = SHARD_SIZE  # bytes at most
    image_key: str | None = None  # the annotation key that holds the image path; None: recognised
    prompt_key: str | None = None  # the annotations' key of the prompt; None: recognised
    keep_unprompted: bool = False  # publish images without a record too
    validation: float = 0.0  # share of the scenes that is held out
    decode: str = "structure"  # or "full": decode every image

    def __post_init__(self) -> None:
        if not 0 <= self.validation < 1:
            raise UsageError(f"--validation {self.validation}: give a share of the scenes from 0 to below 1")
        check_shard_size(self.shard_size)
        if not -(10**63) < self.seed < 10**64:  # its digits are a key of blake2b
            raise UsageError("--seed: give a number of at most 64 characters")


def recorded_options(manifest: Mapping[str, Any]) -> Options:
    """The options that a manifest records; those of a later version are left out.

    Raises VerificationError if one of them has another type, or a value that cannot be.
    """
    recorded = {field.name: manifest["options"].get(field.name, field.default) for field in fields(Options)}
    try:
        return msgspec.convert(recorded, Options)
    except (msgspec.ValidationError, UsageError) as error:
        raise VerificationError(f"the options in the manifest cannot be used: {error}") from None


def check_shard_size(count: int) -> None:
    """Raises UsageError for a size that no sample fits into, for example 5 instead of 5GB."""
    if count < SMALLEST_SHARD:
        raise UsageError(
            f"--shard-size: {size(count)} is too small: a shard holds at least one sample, which takes "
            f"{size(SMALLEST_SHARD)} or more. Give a size with its unit, such as 256MB"
        )
