"""What a conversion expects of the writer of the dataset card. `dataset_card.card` satisfies it."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol


class Card(Protocol):
    """Writes and checks what describes a converted folder to people: the card, its pictures, Croissant."""

    def check(self, out: Path, /) -> None:
        """Raises UsageError where a card is in `out` that cannot be rewritten without losing a person's text."""

    def write(self, out: Path, /) -> None:
        """Describe the folder `out`, whose manifest, index and report are complete.

        Raises OutputError where it cannot be written, UsageError as `check` does.
        """

    def written(self) -> tuple[str, ...]:
        """The paths that `write` writes into every converted folder, relative to it."""

    def faults(self, out: Path, /) -> list[str]:
        """What is missing of the card in `out`, and what it says wrongly, each in a line with its remedy."""
