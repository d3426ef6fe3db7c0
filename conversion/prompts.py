"""A prompt is split into its typed parts. The prompt itself is never changed.

Upstream builds prompts as `[image kind], GSD phrase, [weather], [category], caption, [satellite], [dataset]`, with
uneven spaces and with parts missing; see the figures of upstream's README and the paper (arXiv 2410.22362).
"""

from __future__ import annotations

import re
from functools import lru_cache
from itertools import groupby

import msgspec

from mmm_rs import GSD_LEVELS, SUBSETS, WEATHERS

# Finest first: (bound in metres a pixel below which a GSD has this level, level). Paper, table of GSD levels; the bound
# of ultra_low is not published, only that 100 m is ultra-low and 10 m is low.
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

LONGEST = 64  # characters; a longer part is caption


class PromptParts(msgspec.Struct, frozen=True):
    """What a prompt says. `gsd_level` and `weather` are labels, the rest is as written; None where it does not say."""

    image_kind: str | None = None
    gsd_level: str | None = None
    weather: str | None = None
    category: str | None = None
    caption: str | None = None
    satellite: str | None = None
    dataset: str | None = None


def split(prompt: str) -> PromptParts:
    """The parts of a prompt. What is not recognised stays in the caption, commas and all."""
    return _read(prompt.split(","))[0]


def marked(prompt: str) -> list[tuple[str | None, str]]:
    """The prompt cut where its parts begin and end: (a field of PromptParts, None between two parts; the text).

    The texts joined are the prompt.
    """
    pieces = prompt.split(",")
    _, role_of, start, end = _read(pieces)
    cut: list[tuple[str | None, str]] = []
    at = 0
    while at < len(pieces):
        role, last = ("caption", end) if start <= at < end else (role_of.get(at), at + 1)
        text = ",".join(pieces[at:last])
        part = text.strip() if role in ("caption", "category") else text.strip().rstrip(". ")
        before, part, after = text.partition(part) if role and part else (text, "", "")
        cut += [(None, before), (role, part), (None, after + ("," if last < len(pieces) else ""))]
        at = last
    runs = groupby(((role, text) for role, text in cut if text), key=lambda one: one[0])
    return [(role, "".join(text for _, text in run)) for role, run in runs]


def _read(pieces: list[str]) -> tuple[PromptParts, dict[int, str | None], int, int]:
    """What is said in a prompt that was cut at its commas; the position of each part but the caption; the caption's
    first piece and the one behind its last."""
    parts = [piece.strip() for piece in pieces]
    role_of: dict[int, str | None] = {}
    start, end = 0, len(parts)
    kind = level = weather = category = satellite = dataset = None

    before_weather = 0
    while start < end:
        part = parts[start]
        if part:
            role, value = _at_the_head(part) if len(part) <= LONGEST else (None, "")
            if role == "image_kind" and kind is level is weather is None:
                kind = value
            elif role == "gsd_level" and level is None:
                level = value
            elif role == "weather" and weather is None:
                weather, before_weather = value, start
            else:
                break
            role_of[start] = role
        start += 1
    while end > start:
        part = parts[end - 1]
        if part and part != ".":
            role, value = _at_the_tail(part) if len(part) <= LONGEST else (None, "")
            if role == "dataset" and dataset is None:
                dataset = value
            elif role == "satellite" and satellite is None:
                satellite = value
            else:
                break
            role_of[end - 1] = role
        end -= 1

    # A category stands between level or weather and the part that begins the caption's sentence. Where several parts
    # stand there, they are a caption that begins without an article.
    if level or weather:
        between = -1
        for at in range(start, end):
            if _ARTICLE.match(parts[at]):
                if between >= 0:
                    category, start = parts[between], at
                    role_of[between] = "category"
                break
            if parts[at]:
                if between >= 0:
                    between = -2
                    break
                between = at
        else:
            between = -1 if start == end else -2
        if between == -2 and level is None:  # "snow, rocks and ice": a caption, not the weather
            weather, start = None, before_weather
    caption = ",".join(pieces[start:end]).strip()
    return PromptParts(kind, level, weather, category, caption or None, satellite, dataset), role_of, start, end


@lru_cache(maxsize=4096)
def _at_the_head(part: str) -> tuple[str | None, str]:
    """(image_kind, gsd_level, weather or None; its value) of a part before the caption."""
    part = part.rstrip(". ")
    if match := _LEVEL.fullmatch(" ".join(part.split())):
        return "gsd_level", ("ultra_" if match[1] else "") + match[2].lower()
    if label := _WEATHER.get(part.lower()):
        return "weather", label
    if _KIND.fullmatch(part) and not _ARTICLE.match(part):
        return "image_kind", part
    return None, part


@lru_cache(maxsize=4096)
def _at_the_tail(part: str) -> tuple[str | None, str]:
    """(dataset, satellite or None; its value) of a part behind the caption. A full stop ends the prompt, not a name."""
    part = part.rstrip(". ")
    if re.sub(r"[^a-z0-9]|dataset$", "", part.lower()) in _DATASETS:
        return "dataset", part
    return "satellite" if _SATELLITE.fullmatch(part) else None, part


def gsd_level(metres: float) -> str:
    """The level of a GSD in metres a pixel, by the bounds of the paper."""
    return next((level for bound, level in BOUNDS if metres < bound), BOUNDS[-1][1])


assert tuple(level for _, level in BOUNDS) == GSD_LEVELS and set(_WEATHER.values()) == set(WEATHERS)
