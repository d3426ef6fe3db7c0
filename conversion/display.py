"""How numbers and lists are shown to a person."""

from __future__ import annotations

from collections.abc import Sequence

NAMED = 20  # lines of a list that are shown, at most


def size(count: float) -> str:
    """Bytes for a person, in decimal units."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.2f} TB"


def first_of(lines: Sequence[str]) -> str:
    """The first few of many lines, each once."""
    shown = list(dict.fromkeys(lines))
    return "\n".join(shown[:NAMED]) + (f"\n... and {len(shown) - NAMED} more" if len(shown) > NAMED else "")
