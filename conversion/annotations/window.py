"""A text that is read a piece at a time, with a position in it: memory does not grow with the file."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import BinaryIO

from conversion.annotations.encoding import TextDecoder
from conversion.annotations.scanner import BRACKETS, after_gap

SHOWN = 200  # characters of an unusable record in its detail


@dataclass(frozen=True)
class Limits:
    """How much is read and tried at a time. Tests set smaller ones."""

    window: int = 1 << 18  # bytes read at a time
    longest: int = 4 << 20  # characters of one record; they can take 25 times as much memory when decoded
    glance: int = 1 << 16  # characters by which a broken object is judged
    waste: int = (
        64 << 20
    )  # characters decoded in vain, beyond 8 times the file, before a file of broken lines is given up


class Window:
    """The part of a text around `position`. What lies before the position is forgotten as reading goes on."""

    def __init__(self, stream: BinaryIO, encoding: str, size: int) -> None:
        self.text, self.position = "", 0
        self.ended = False  # whether `text` holds the file's last character
        self._before = 0  # characters that lie before `text`
        self._stream, self._size = stream, size
        self._decoder = TextDecoder(encoding)

    @property
    def place(self) -> int:
        """Characters of the file before the position."""
        return self._before + self.position

    @property
    def left(self) -> int:
        """Characters of the window from the position on."""
        return len(self.text) - self.position

    def more(self) -> bool:
        """Read on, which moves the text and the position in it. False at the end of the file."""
        if self.ended:
            return False
        self.forget()
        data = self._stream.read(max(self._size, self.left))  # doubles: a long record is not read over and over
        self.ended = not data
        self.text += self._decoder.decode(data, self.ended)
        return True

    def forget(self) -> None:
        """Drop what lies before the position."""
        self.text, self._before, self.position = self.text[self.position :], self.place, 0

    def fill(self, count: int) -> None:
        """Read on until `count` characters are there or the file ends."""
        while self.left < count and self.more():
            pass

    def peek(self) -> str:
        """Move to the next character that is neither space nor comma and return it; empty at the end of the file."""
        while True:
            self.position = after_gap(self.text, self.position)
            if self.left:
                return self.text[self.position]
            if not self.more():
                return ""

    def match(self, pattern: re.Pattern[str], longest: int) -> re.Match[str] | None:
        """What `pattern` matches here, with the character behind it in the window too."""
        while True:
            match = pattern.match(self.text, self.position)
            if match and (match.end() < len(self.text) or self.ended):
                return match
            if self.left > longest or not self.more():
                return match

    def beginning(self) -> str:
        """The text at the position, for a message."""
        self.fill(SHOWN)
        return self.text[self.position : self.position + SHOWN]

    def skip_value(self) -> bool:
        """Move behind the value here by its brackets, without decoding it. False if the file ends first."""
        depth, quoted = 0, False
        while True:
            for match in BRACKETS.finditer(self.text, self.position):
                mark = match[0]
                if mark == '"':
                    quoted = not quoted
                elif quoted or mark[0] == "\\":
                    continue
                else:
                    depth += 1 if mark in "[{" else -1
                if depth <= 0 and not quoted:
                    self.position = match.end()
                    return True
            backslashes = len(self.text) - len(self.text.rstrip("\\"))
            self.position = len(self.text) - backslashes % 2  # the last one waits for what it escapes
            if not self.more():
                self.position = len(self.text)
                return False

    def skip_line(self) -> bool:
        """Move to the next line. False if the file ends first."""
        while (end := self.text.find("\n", self.position)) < 0:
            self.position = len(self.text)
            if not self.more():
                return False
        self.position = end + 1
        return True
