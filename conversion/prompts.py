"""A prompt is split into its typed parts. The prompt itself is never changed.

Upstream builds prompts as `[image kind], GSD phrase, [weather], [category], caption, [satellite], [dataset]`, with
uneven spaces and with parts missing; see the figures of upstream's README and the paper (arXiv 2410.22362).
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from mmm_rs import GSD_LEVELS, SUBSETS

# Finest first: (bound in metres a pixel below which a GSD has this level, level). Paper, table of GSD levels; the bound
# of ultra_low is not published, only that 100 m is ultra-low.
BOUNDS = ((0.5, "ultra_high"), (1.0, "high"), (5.0, "ordinary"), (100.0, "low"), (float("inf"), "ultra_low"))

_LEVEL = re.compile(r"(ultra[- ]?high|high|ordinary|low|ultra[- ]?low)[- ]precision resolution", re.I)
_WEATHER = {"fog": "fog", "foggy": "fog", "night": "night", "nighttime": "night", "snow": "snow", "snowy": "snow"}
_KIND = re.compile(r"(?:[\w-]+ ){0,4}(?:imagery|images?|photographs?|photos?)", re.I)
_ARTICLE = re.compile(r"(?:a|an|the)\s", re.I)
_SATELLITE = re.compile(
    r"(?:GF|Gaofen|TG|Tiangong|Sentinel|Landsat|WorldView|QuickBird|IKONOS|GeoEye|ZY|SuperView)"
    r"[- ]?\d*[A-Z]?|Google[- ]?Earth",
    re.I,
)
_DATASETS = {re.sub(r"[^a-z0-9]", "", name.lower()) for name in SUBSETS} | {"mrssc2", "hrrsd", "sen12", "mmmrs"}


@dataclass(frozen=True)
class PromptParts:
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
    parts = [part.strip() for part in prompt.split(",")]
    start, end = 0, len(parts)
    kind = level = weather = category = satellite = dataset = None

    if _KIND.fullmatch(parts[0]) and not _ARTICLE.match(parts[0]):
        kind, start = parts[0], 1
    head = start
    while head < end and (level is None or weather is None):
        if level is None and (found := _level(parts[head])):
            level = found
        elif weather is None and parts[head].lower() in _WEATHER:
            weather = _WEATHER[parts[head].lower()]
        elif parts[head]:
            break
        head += 1
    if level or weather:
        start = head

    if end > start and _is_dataset(parts[end - 1]):
        dataset, end = parts[end - 1].rstrip("."), end - 1
    while end > start and not parts[end - 1]:
        end -= 1
    if end > start and _SATELLITE.fullmatch(parts[end - 1].rstrip(". ")):
        satellite, end = parts[end - 1].rstrip(". "), end - 1

    if level or weather:
        # A category stands between level or weather and the part that begins the caption's sentence.
        sentence = next((at for at in range(start, end) if _ARTICLE.match(parts[at])), None)
        between = [part for part in parts[start:sentence] if part] if sentence is not None else []
        if len(between) == 1:
            category, start = between[0], sentence or start
    caption = _between(prompt, start, end, len(parts)).strip()
    return PromptParts(kind, level, weather, category, caption or None, satellite, dataset)


def _between(prompt: str, start: int, end: int, count: int) -> str:
    """The text of the parts `start` to `end`, with the commas and spaces that stand between them."""
    text = prompt.split(",", start)[-1] if start < count else ""
    return text.rsplit(",", count - end)[0] if end > start else ""


def _level(part: str) -> str | None:
    if not part.lower().rstrip(".").endswith("resolution"):
        return None
    match = _LEVEL.fullmatch(part.rstrip("."))
    return re.sub(r"[- ]|(?<=ultra)(?=[hl])", "_", match.group(1).lower()) if match else None


def _is_dataset(part: str) -> bool:
    return re.sub(r"[^a-z0-9]", "", part.lower()) in _DATASETS


def gsd_level(metres: float) -> str:
    """The level of a GSD in metres a pixel, by the bounds of the paper."""
    return next(level for bound, level in BOUNDS if metres < bound)


assert {level for _, level in BOUNDS} == set(GSD_LEVELS)
