"""Text that others wrote reaches a terminal or a log as one line that hides and commands nothing."""

from __future__ import annotations

import unicodedata

import pytest

from conversion.display import first_of, size, visible
from conversion.errors import VerificationError
from mmm_rs_cli import terminal

CONTROLS = [chr(code) for code in (*range(0x20), *range(0x7F, 0xA0))]
DIRECTIONS = [chr(code) for code in (0x61C, 0x200E, 0x200F, *range(0x202A, 0x202F), *range(0x2066, 0x206A))]
LINES = ["\u2028", "\u2029", "\x0b", "\x0c", "\x85"]
UNSEEN = ["\u200b", "\u2060", "\ufeff", "\u00ad", "\U000e0041", "\ufff9", "\udcff"]


@pytest.mark.parametrize("character", [*CONTROLS, *DIRECTIONS, *LINES, *UNSEEN], ids=lambda c: f"{ord(c):04x}")
def test_a_character_that_a_terminal_obeys_or_does_not_show_stands_as_an_escape(character):
    shown = visible(f"a{character}b")
    assert shown.startswith("a\\") and shown.endswith("b")
    assert len(shown.splitlines()) == 1
    assert all(unicodedata.category(c)[0] not in "CZ" or c == " " for c in shown)


def test_text_that_is_plain_stays_as_it_is():
    for text in ("", "MMM-RS/SEN1-2.zip: truncated", "中国 山水 é ü 😀", r"C:\new"):
        assert visible(text) == text


FORGED = "x.zip\nmmm-rs: all is well\x1b[2K\u202e"
ESCAPED = r"x.zip\nmmm-rs: all is well\x1b[2K\u202e"


def test_the_lines_of_an_error_are_those_of_the_program():
    error = VerificationError(f"{FORGED}: damaged", *first_of([FORGED, FORGED, "y"]))
    assert error.lines == [f"{ESCAPED}: damaged", ESCAPED, "y"]
    assert str(error).splitlines() == error.lines


def test_every_line_that_a_command_writes_is_visible(capsys):
    terminal.result(FORGED)
    terminal.note(FORGED)
    assert capsys.readouterr() == (ESCAPED + "\n", ESCAPED + "\n")


def test_a_long_list_is_cut_and_says_by_how_much():
    assert first_of([str(number) for number in range(23)])[-2:] == ["19", "... and 3 more"]
    assert first_of(["a", "b", "a"]) == ["a", "b"]


@pytest.mark.parametrize(
    ("count", "shown"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1.0 kB"),
        (64_000_000, "64.0 MB"),
        (999_949, "999.9 kB"),
        (999_999, "1.0 MB"),
        (5e9, "5.0 GB"),
        (2.5e12, "2.50 TB"),
    ],
)
def test_a_size_has_the_unit_that_a_person_would_choose(count, shown):
    assert size(count) == shown
