"""The card's template: lines without a value go, and text of the release cannot act as markup."""

from __future__ import annotations

import markdown_it
import pytest

from dataset_card.markdown import code, fill, plain, table


def test_a_line_without_its_value_is_left_out_with_its_blank_line():
    template = "one $a\n\ntwo $b\n\n- three $a\n- four ${b} $a\n- five\n"
    assert fill(template, {"a": "A", "b": None}) == "one A\n\n- three A\n- five\n"
    assert fill(template, {"a": "A", "b": ""}) == "one A\n\ntwo \n\n- three A\n- four  A\n- five\n"


def test_what_is_filled_in_is_not_filled_in_again():
    assert fill("$a\n", {"a": "$b\n\n\n\n$$"}) == "$b\n\n\n\n$$\n"


def test_a_value_that_the_template_names_must_be_given():
    with pytest.raises(KeyError, match="b"):
        fill("$a $b\n", {"a": ""})


def test_numbers_are_flush_right():
    assert table(("name", "n", "both"), [("x", "1,000", "1"), ("y", "", "z")]) == (
        "| name | n | both |\n|---|---:|---|\n| x | 1,000 | 1 |\n| y |  | z |"
    )


NASTY = [
    "a|b",
    "**bold** _it_ ~gone~",
    "[text](http://example.invalid)",
    "<img src=x>",
    "<!-- own: about -->",
    "`x` `` y",
    "a\\|b",
    "line\nnext\r\n\u2028last\x1b[31m",
    "&lt; &amp; &#60;",
    "x" * 1000,
]


@pytest.mark.parametrize("text", NASTY)
def test_text_of_the_release_stays_one_cell_of_plain_text(text):
    page = table(("first", "second"), [(plain(text), code(text))])
    tokens = markdown_it.MarkdownIt("commonmark").enable(["table", "strikethrough"]).parse(page)
    cells = [token for token in tokens if token.type == "inline"]
    assert len(cells) == 4
    kinds = {child.type for child in cells[2].children}
    assert kinds <= {"text", "text_special"}
    assert {child.type for child in cells[3].children} == {"code_inline"}
