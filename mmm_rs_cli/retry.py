"""The command line to type instead of the one that was typed."""

from __future__ import annotations

import shlex
from collections.abc import Sequence


def with_options(words: Sequence[str], options: Sequence[str]) -> str:
    """A command line with other values of some options, to be typed."""
    kept, names = list(words), options[::2]
    for number, word in reversed(list(enumerate(words))):
        if word in names:
            del kept[number : number + 2]
        elif word.partition("=")[0] in names:
            del kept[number]
    return shlex.join(["mmm-rs", *kept, *options])
