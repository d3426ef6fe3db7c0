"""Markdown: tables, a template with optional lines, and text of the release that must not act as markup."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from string import Template

LONGEST_TEXT = 160  # characters of the release's text in a table cell; longer texts are cut


def fill(template: str, values: Mapping[str, str | None]) -> str:
    """A `string.Template` with its values. A line that names a value that is None is left out.

    Where a line was left out from between blank lines, one blank line stays. Raises KeyError if a value is missing.
    """
    lines = [line for line in template.splitlines() if None not in (values[name] for name in _names(line))]
    kept = re.sub(r"\n{3,}", "\n\n", "\n".join(lines) + "\n")
    return Template(kept).substitute(values)


def _names(line: str) -> Iterator[str]:
    for match in Template.pattern.finditer(line):
        if name := match["named"] or match["braced"]:
            yield name


def table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """A table; columns of numbers are flush right."""
    cells = [list(row) for row in rows]
    columns = zip(*cells, strict=True) if cells else ()
    rule = "|" + "|".join("---:" if all(map(_is_number, column)) else "---" for column in columns) + "|"
    return "\n".join([_row(head), rule, *map(_row, cells)])


def _row(cells: Iterable[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def _is_number(cell: str) -> bool:
    return not cell or cell.replace(",", "").isdigit()


def plain(value: str | None) -> str:
    """Text of the release for a table cell: on one line, not too long, without markup of its own."""
    short = _short(value)
    for character in "\\|[]*_~":
        short = short.replace(character, "\\" + character)
    return short.replace("&", "&amp;").replace("<", "&lt;").replace("`", "'")


def code(value: str | None) -> str:
    """The same as code, for a path or a name."""
    return "`" + _short(value).replace("`", "'").replace("|", "\\|") + "`"


def _short(value: str | None) -> str:
    line = "".join(c if c.isprintable() else " " for c in " ".join((value or "").split()))
    return line if len(line) <= LONGEST_TEXT else line[: LONGEST_TEXT - 3] + "..."
