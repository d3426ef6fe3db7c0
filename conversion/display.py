"""How text, numbers and lists are shown to a person."""

from __future__ import annotations

from collections.abc import Sequence

NAMED = 20  # lines of a list that are shown, at most


def visible(text: str) -> str:
    """Text on one line, with an escape in the place of each character that a terminal would obey or not show.

    Names and messages come from releases, folders and servers that anyone may have made. Control characters, escape
    sequences, newlines and marks that reverse the direction of writing must not reach a terminal or a log.
    """
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def size(count: float) -> str:
    """Bytes for a person, in decimal units."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 999.95:  # what would be shown as 1000.0 has the next unit
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.2f} TB"


def first_of(lines: Sequence[str]) -> list[str]:
    """The first few of many lines, each once, and how many more there are."""
    shown = list(dict.fromkeys(lines))
    return shown[:NAMED] + ([f"... and {len(shown) - NAMED} more"] if len(shown) > NAMED else [])
