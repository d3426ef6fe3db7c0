"""The keys of records: which are known, and which of a file's keys are used."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from typing import Any

from conversion.annotations.values import text_of

# In the order of preference, in lower case without "_", "-" and spaces. A prompt is preferred to a caption, which is
# only a part of upstream's prompts.
IMAGE_KEYS = (
    "image",
    "imagepath",
    "img",
    "imgpath",
    "filename",
    "path",
    "file",
    "imagename",
    "imgname",
    "filepath",
    "imagefile",
    "name",
    "imageid",
)
PROMPT_KEYS = (
    "prompt",
    "textprompt",
    "prompts",
    "text",
    "texts",
    "caption",
    "captions",
    "description",
    "sentence",
    "sentences",
    "conversations",
    "messages",
    "tags",
)
TAGS = "tags"  # serves as the prompt of a record that has no other, as kohya's programs do it
CATEGORY_KEYS = ("category", "class", "classname", "label", "scene")
GSD_KEYS = ("spatialresolution", "gsd")
CLOUD_KEYS = ("cloudcover", "cloud")

_PATH = re.compile(r"[/\\]|\.(?:jpe?g|png|tiff?|bmp|webp|jp2|gif)$", re.I)


def choose(rows: list[dict[str, Any]], known: tuple[str, ...], preferred: str | None) -> str | None:
    """The key to use: `preferred` if any row has it, else the best known one that has text nearly as often as any."""
    if preferred and any(preferred in row for row in rows):
        return preferred
    texts = Counter(name for row in rows for name, value in row.items() if text_of(value, "prompt")[0] is not None)
    for counts in (texts, Counter(name for row in rows for name in row)):
        names = ranked(counts, known)
        if names:
            most = max(counts[name] for name in names)
            return next(name for name in names if 2 * counts[name] >= most)
    return None


def ranked(names: Iterable[str], known: tuple[str, ...]) -> list[str]:
    """Those of `names` that are known, best first."""
    ranks = {name: rank for rank, name in enumerate(known)}
    known_names = [(ranks[folded], name) for name in names if (folded := fold(name)) in ranks]
    return [name for _, name in sorted(known_names)]


def fold(name: str) -> str:
    """A key without what spellings differ in: case, underscores, hyphens and spaces."""
    return re.sub(r"[_\s-]", "", name.lower()) if len(name) < 64 else name


def is_path(text: str) -> bool:
    """Whether a text must be the path of an image: it has a separator or an image's suffix."""
    return _PATH.search(text) is not None
