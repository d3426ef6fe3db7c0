"""The parts of a prompt as people see them: their names and colours, the same in a page, a plot and a terminal."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Part:
    """How one field of `conversion.prompts.PromptParts` is shown."""

    name: str
    meaning: str
    colour: str  # on white, with a contrast of at least 4.5
    style: str  # on a terminal, of `terminal.STYLES`


PARTS = {
    "image_kind": Part("image kind", "what sort of image this is", "#7a3ea8", "magenta"),
    "gsd_level": Part("GSD level", "how much ground one pixel covers, in words", "#0b5cad", "blue"),
    "weather": Part("weather", "fog, night or snow", "#0a6e66", "cyan"),
    "category": Part("category", "the class of the scene", "#a23b12", "red"),
    "caption": Part("caption", "a vision-language model's sentence about the scene", "#8a6200", "yellow"),
    "satellite": Part("satellite", "or the map service that the image comes from", "#a01a58", "bright magenta"),
    "dataset": Part("dataset", "the one that upstream took the image from", "#4d6a00", "green"),
}
