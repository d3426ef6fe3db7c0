"""Split a prompt into its typed parts. The prompt itself is never changed.

Upstream builds prompts as `[image kind], GSD phrase, [weather], [category], caption, [satellite], [dataset]`, with
uneven spaces and missing parts; see the figures in upstream's README and the paper (arXiv 2410.22362).
"""

from __future__ import annotations

import re
from functools import lru_cache
from itertools import groupby

import msgspec

from mmm_rs import GSD_LEVELS, SUBSETS, WEATHERS

# Finest first: (metres per pixel below which a GSD has this level, level). From the paper's table of GSD levels; the
# bound of ultra_low is not published, only that 100 m is ultra-low and 10 m is low.
BOUNDS = ((0.5, "ultra_high"), (1.0, "high"), (5.0, "ordinary"), (100.0, "low"), (float("inf"), "ultra_low"))

_LEVEL = re.compile(r"(ultra[- ]?)?(high|ordinary|low)[- ]precision resolution", re.I)
_WEATHER = {"fog": "fog", "foggy": "fog", "night": "night", "nighttime": "night", "snow": "snow", "snowy": "snow"}
_KIND = re.compile(
    r"(?:[\w-]+ ){0,4}imagery"
    r"|(?:(?:satellite|aerial|optical|rgb|nir|near[- ]infrared|infrared|sar|radar|synthetic[- ]aperture[- ]radar|drone"
    r"|uav|remote[- ]sensing|google[- ]earth) ){1,3}(?:image|images|photo|photos|photograph|photographs)",
    re.I,
)
_ARTICLE = re.compile(r"(?:an?|the)\s", re.I)
_SATELLITE = re.compile(
    r"(?:GF|Gaofen|TG|Tiangong|ZY|Ziyuan|Sentinel|Landsat|SPOT|Jilin)[- ]?\d{1,2}[A-Z]?"
    r"|(?:WorldView|QuickBird|GeoEye|IKONOS|SuperView)(?:[- ]?\d{1,2})?"
    r"|Google[- ]?Earth",
    re.I,
)
_ALIASES = {"mrssc", "mrssc2", "hrrsd", "mmmrs"}
_DATASETS = {re.sub(r"[^a-z0-9]", "", name.lower()) for name in SUBSETS} | _ALIASES

LONGEST = 64  # characters; a longer part belongs to the caption


class PromptParts(msgspec.Struct, frozen=True):
    """What a prompt says; None for what it does not say.

    `gsd_level` and `weather` are labels, the other parts are as written.
    """

    image_kind: str | None = None
    gsd_level: str | None = None
    weather: str | None = None
    category: str | None = None
    caption: str | None = None
    satellite: str | None = None
    dataset: str | None = None


class _Reading(msgspec.Struct, frozen=True):
    """A prompt cut at its commas, and which of the pieces is which part."""

    parts: PromptParts
    roles: dict[int, str]  # number of a piece -> its part; the caption's pieces are not in here
    start: int  # the caption's first piece
    end: int  # the piece behind its last one


def split(prompt: str) -> PromptParts:
    """The parts of a prompt. Whatever is not recognised stays in the caption, commas included."""
    return _read(prompt.split(",")).parts


def marked(prompt: str) -> list[tuple[str | None, str]]:
    """The prompt cut where its parts begin and end.

    Returns:
        (field of PromptParts, or None between two parts; text). The texts joined are the prompt.
    """
    pieces = prompt.split(",")
    reading = _read(pieces)
    cuts: list[tuple[str | None, str]] = []
    number = 0
    while number < len(pieces):
        in_caption = reading.start <= number < reading.end
        role, stop = ("caption", reading.end) if in_caption else (reading.roles.get(number), number + 1)
        text = ",".join(pieces[number:stop])
        part = text.strip() if role in ("caption", "category") else text.strip().rstrip(". ")
        before, part, after = text.partition(part) if role and part else (text, "", "")
        cuts += [(None, before), (role, part), (None, after + ("," if stop < len(pieces) else ""))]
        number = stop
    runs = groupby(((role, text) for role, text in cuts if text), key=lambda cut: cut[0])
    return [(role, "".join(text for _, text in run)) for role, run in runs]


def _read(pieces: list[str]) -> _Reading:
    texts = [piece.strip() for piece in pieces]
    roles: dict[int, str] = {}
    values: dict[str, str] = {}
    start, end = 0, len(texts)
    before_weather = 0
    while start < end:
        if text := texts[start]:
            role, value = _role_at_head(text) if len(text) <= LONGEST else (None, "")
            # The kind of the image comes first; each part comes once.
            if role is None or role in values or (role == "image_kind" and values):
                break
            if role == "weather":
                before_weather = start
            roles[start], values[role] = role, value
        start += 1
    while end > start:
        text = texts[end - 1]
        if text and text != ".":
            role, value = _role_at_tail(text) if len(text) <= LONGEST else (None, "")
            if role is None or role in values:
                break
            roles[end - 1], values[role] = role, value
        end -= 1

    # A category stands between level or weather and the part that begins the caption's sentence. Where several parts
    # stand there, they are a caption that begins without an article.
    if "gsd_level" in values or "weather" in values:
        sentence = next((number for number in range(start, end) if _ARTICLE.match(texts[number])), None)
        between = [number for number in range(start, end if sentence is None else sentence) if texts[number]]
        if sentence is not None and len(between) == 1:
            roles[between[0]], values["category"] = "category", texts[between[0]]
            start = sentence
        elif (len(between) > 1 or (sentence is None and start < end)) and "gsd_level" not in values:
            del values["weather"]  # "snow, rocks and ice": a caption, not the weather
            start = before_weather
    caption = ",".join(pieces[start:end]).strip()
    return _Reading(PromptParts(**values, caption=caption or None), roles, start, end)


@lru_cache(maxsize=4096)
def _role_at_head(part: str) -> tuple[str | None, str]:
    """(image_kind, gsd_level, weather or None; value) of a part before the caption."""
    part = part.rstrip(". ")
    if match := _LEVEL.fullmatch(" ".join(part.split())):
        return "gsd_level", ("ultra_" if match[1] else "") + match[2].lower()
    if label := _WEATHER.get(part.lower()):
        return "weather", label
    if _KIND.fullmatch(part) and not _ARTICLE.match(part):
        return "image_kind", part
    return None, part


@lru_cache(maxsize=4096)
def _role_at_tail(part: str) -> tuple[str | None, str]:
    """(dataset, satellite or None; value) of a part behind the caption. A full stop ends the prompt, not a name."""
    part = part.rstrip(". ")
    if re.sub(r"[^a-z0-9]|dataset$", "", part.lower()) in _DATASETS:
        return "dataset", part
    return "satellite" if _SATELLITE.fullmatch(part) else None, part


def gsd_level(metres: float) -> str:
    """The level of a GSD in metres per pixel, by the bounds in the paper."""
    return next((level for bound, level in BOUNDS if metres < bound), BOUNDS[-1][1])


assert tuple(level for _, level in BOUNDS) == GSD_LEVELS and set(_WEATHER.values()) == set(WEATHERS)
