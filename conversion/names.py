"""What the release's file names say: subset, modality, place, scene, GSD; and the key that a sample gets from them.

Name patterns come from upstream's processing scripts; see the table in the documentation of the format. Tokens are
compared whole: `ROIs1158_spring_s2_1_p1` holds one token `s2`, although `s1` is in `ROIs1158` as letters.
"""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections.abc import Sequence

from mmm_rs import SUBSETS

IMAGE_SUFFIXES = ("jpg", "jpeg", "jpe", "jfif", "png", "tif", "tiff", "bmp", "webp", "gif", "jp2")
ANNOTATION_SUFFIXES = ("json", "jsonl", "ndjson")

# What clients and people put behind a whole name: `X.zip?download=1`, `X.zip.1`, `X.zip (2)`; and the digits of a part.
_QUERY_TAIL, _NUMBER_TAIL = r"[?&#].*", r"\.\d{1,3}|\s?\(\d+\)"
DOWNLOAD_TAIL = f"(?:{_QUERY_TAIL}|{_NUMBER_TAIL})"
ARCHIVE = re.compile(r"(.+?)\.zip(?![a-z0-9]).*", re.IGNORECASE)
# Where the name of a file ends that is about a subset, whatever stands behind it.
_SUFFIX = re.compile(r"\.(?:zip|z\d\d|rar|7z|tar|tgz|gz|bz2|xz|part\d+|jsonl?|ndjson)(?![a-z0-9])", re.IGNORECASE)
# Before a suffix: `GID (1)`, `GID - Copy`, `GID copy 2`, a part of a folder that Google Drive zipped; then what
# notebooks, editors and synchronisation leave.
_COPY = re.compile(
    r"""(?: \s*\(\d+\)
    | (?:\s+|\s*[-_.]\s*)(?:copy|kopie|copie|copia)(?:\s+\d+)? | [\s_-]*的?副本\s*\d* | -\d{8}T\d{6}Z(?:-\d+)*
    | -checkpoint
    | [\s._-]+(?:sync-)?conflict(?:-\d{8}-\d{6}(?:-\w+)?)?                      # Syncthing, ownCloud
    | [\s_]*\([^()]*(?:conflict|konflikt|conflit|conflitto|conflicto|冲突|衝突)[^()]*\)   # Dropbox, Baidu: with a date
    | [\s._-]+conflicted(?:[\s._-]*copy)?
    | ~\d{8}-\d{6} | ~\d*
    | [\s._-]+(?:bak|backup|old|orig|original|autosave|autosaved|recovered|备份)\d*
    )$""",
    re.IGNORECASE | re.VERBOSE,
)
_COPY_HEAD = re.compile(r"^(?:(?:copy of|kopie von|copie de|copia di|copia de|副本)\s+|~\$|\.~?#?|#+)", re.IGNORECASE)
LONGEST_COPY = 255  # characters; file systems take no longer name
_NUMBERED = re.compile(r" \d{1,2}$")  # `GID 2`, as macOS and iCloud call a second one; a name may also end so
# Behind the suffix of an annotation file.
COPY_TAIL = r"(?:~\d*|\.~\d+~|#|[._ -](?:bak|backup|old|orig|original|save|copy|kopie)\d*)"
_BACKUP_FOLDERS = frozenset(("backup", "backups", "bak", "old", "older", "copy", "copies", "previous", "备份", "副本"))

# Tokens of a name that tell the modality of one of several aligned images.
MODALITY_TOKENS = {"rgb": "rgb", "opt": "rgb", "s2": "rgb", "nir": "nir", "sar": "sar", "s1": "sar"}

# Folders that say the subset without naming it, as upstream's archives and scripts have them.
SUBSET_FOLDERS = {
    "fog": "weather",
    "night": "weather",
    "snowy": "weather",
    "snow": "weather",
    "rgb_jpg": "WHU-OPT-SAR",
    "nir_jpg": "WHU-OPT-SAR",
    "sar_jpg": "WHU-OPT-SAR",
}
SCENE_FOLDERS = {"fog": "fog", "night": "night", "snowy": "snow", "snow": "snow"}  # weather's folder -> label
FILLER = frozenset(
    (
        "dataset",
        "datasets",
        "process",
        "processed",
        "crop",
        "images",
        "image",
        "cleaned",
        "clean",
        "mmm",
        "rs",
        "mmmrs",
        "rgb",
        "nir",
        "sar",
        "jpg",
    )
)

WEATHER_ANNOTATIONS = ("MMM-RS_fog_cleaned.json", "MMM-RS_night_cleaned.json", "MMM-RS_snowy_cleaned.json")
UPSTREAM_ANNOTATIONS = frozenset(
    name.lower() for name in (*(f"MMM-RS_{subset}.json" for subset in SUBSETS), *WEATHER_ANNOTATIONS)
)
_ANNOTATION_SUFFIX = re.compile(
    rf"(\.(?:{'|'.join(ANNOTATION_SUFFIXES)}))(?:{_NUMBER_TAIL}|{COPY_TAIL})*(?:{_QUERY_TAIL})?$", re.I | re.S
)

USTAR_NAME, USTAR_PREFIX = 100, 155  # bytes; POSIX.1-1988 `ustar` header fields
LONGEST_SUFFIX = len(".nir.jpg")


def _plain(text: str) -> str:
    return re.sub(r"[^a-z0-9]", "", text.lower())


ALIASES = {_plain(name): name for name in SUBSETS} | {
    "mrssc2": "MRSSC2.0",
    "mrssc": "MRSSC2.0",
    "hrsc": "HRSC2016",
    "whuoptsar": "WHU-OPT-SAR",
    "hrrsd": "TGRS-HRRSD",
    "sen12": "SEN1-2",
    "nasctg": "NaSC-TG2",
}


def subset_named(name: str) -> str | None:
    """The subset that a folder or archive is called after, exactly or up to case and punctuation; else None."""
    return ALIASES.get(_plain(name))


def subset_of_folder(name: str) -> str | None:
    """The subset of which `name` is an image folder: `Inria_dataset`, `crop_Inria`, `fmow_process`, `SEN1-2_SAR`."""
    if name.lower() in SUBSET_FOLDERS:
        return SUBSET_FOLDERS[name.lower()]
    words = [word for word in re.split(r"[_\s]+", name) if _plain(word) not in FILLER]
    return subset_named("".join(words)) if words else None


def subset_of_file(stem: str) -> str | None:
    """The subset that an annotation file or archive is about: `MMM-RS_Inria`, `MMM-RS_fog_cleaned`, `GID (1)`."""
    stem = re.sub(r"^mmm-?rs[_\s-]+", "", _without_copy_marks(stem), flags=re.I)
    if subset := subset_named(stem) or subset_of_folder(stem):
        return subset
    words = [word for word in re.split(r"[_\s]+", stem) if _plain(word) not in FILLER]
    subsets = (subset_named(word) or SUBSET_FOLDERS.get(word.lower()) for word in words)
    return next(filter(None, subsets), None)


def _without_copy_marks(stem: str) -> str:
    """The name of what this is a copy of, if it is one."""
    if len(stem) > LONGEST_COPY:  # nobody's; to look through it takes time with the square of its length
        return stem
    while (shorter := _COPY.sub("", _COPY_HEAD.sub("", stem))) and shorter != stem:
        stem = shorter
    return stem


def original_of(path: str) -> str | None:
    """The path of which an annotation file is a copy by its own name or its folder's; None if nothing says so.

    Hidden files, and what editors, notebooks, browsers and synchronisation leave: `X (1).json`, `X-checkpoint.json`,
    `X.json~`, `X.sync-conflict-....json`, `backup/X.json`.
    """
    *folders, name = path.split("/")
    suffix = _ANNOTATION_SUFFIX.search(name) if len(name) <= LONGEST_COPY else None
    if suffix is None:
        return None
    stem = _without_copy_marks(name[: suffix.start()])
    stem = _without_copy_marks(_NUMBERED.sub("", stem)) or stem
    kept = [folder for folder in folders if folder.lower() not in _BACKUP_FOLDERS]
    original = "/".join([*kept, stem + suffix[1]])
    return original if original != path else None


def is_upstreams(name: str) -> bool:
    """Whether an annotation file has a name that upstream gives: `MMM-RS_Inria.json`, `MMM-RS_fog_cleaned.json`."""
    return name.lower() in UPSTREAM_ANNOTATIONS


def upstreams_annotations(subset: str) -> tuple[str, ...]:
    """The names that upstream gives the annotation files of a subset."""
    return WEATHER_ANNOTATIONS if subset == "weather" else (f"MMM-RS_{subset}.json",)


def subset_of_download(name: str) -> str | None:
    """The subset that a file is about, by its own name with whatever a download or a split added to it."""
    return subset_of_file(_SUFFIX.split(name.rsplit("/", 1)[-1], maxsplit=1)[0])


def archive_stem(name: str) -> str | None:
    """The name of a zip without its suffix and what a client put behind it; None where it is not called a zip."""
    match = ARCHIVE.fullmatch(name)
    return match.group(1) if match else None


def locate(parts: Sequence[str]) -> tuple[str | None, int]:
    """(subset, depth) of a folder given as the names on the way to it: the path within the subset starts at `depth`.

    Names from left to right: one that is just a subset's name (or its archive's) wraps it and is not part of the path;
    the first image folder settles the subset and is the path's first part, but for one around a wrapper:
    somebody keeps the release in a folder called `night`.
    """
    subset, depth = None, 0
    wrappers = [_wrapped(part) for part in parts]
    for position, part in enumerate(parts):
        if wrapper := wrappers[position]:
            subset, depth = wrapper, position + 1
        elif (owner := subset_of_folder(part)) and (subset == owner or not (subset or any(wrappers[position:]))):
            return owner, position
    return subset, depth


def _wrapped(part: str) -> str | None:
    """The subset whose name a folder has, or which an archive is about."""
    stem = archive_stem(part)
    return subset_named(part) if stem is None else subset_named(stem) or subset_of_file(stem)


def image_folder_depth(parts: Sequence[str]) -> int:
    """How many leading folders of a path within a subset are its image folder: 0 or 1. Weather's scenes are none."""
    return int(bool(parts) and subset_of_folder(parts[0]) is not None and parts[0].lower() not in SCENE_FOLDERS)


def hint(name: str) -> str | None:
    """The one modality or weather scene that an annotation file is about, by a whole token of its path, else None."""
    tokens = [token for part in name.lower().split("/") for token in re.split(r"[_.\s]+", part)]
    hints = {MODALITY_TOKENS.get(token) or SCENE_FOLDERS.get(token) for token in tokens} - {None}
    return hints.pop() if len(hints) == 1 else None


def stem(name: str) -> str:
    """A path without a suffix that is an image's; other dots belong to the stem (`tile.v2` stays whole)."""
    head, dot, suffix = name.rpartition(".")
    return head if dot and suffix.lower() in IMAGE_SUFFIXES and head else name


# The last part of a sample's place -> the scene it was cut from. Where upstream's pattern leaves a choice, the larger
# scene is taken, which cannot leak: an fMoW name is `{category}_{location}_{date}_rgb`, and all dates of a location are
# one scene. GID's names are not published; its 31,500 images are 210 tiles of each of 150 scenes, so tiles named by
# their position, as WHU-OPT-SAR's are, are put together.
SCENES = {
    "WHU-OPT-SAR": re.compile(r"(.+?)_\d+_\d+$"),
    "GID": re.compile(r"(.+?)_\d+_\d+$"),
    "SEN1-2": re.compile(r"(.+)_p\d+$"),
    "fMoW": re.compile(r"(.+?_\d+)_\d+(?:_.*)?$"),
    "Inria": re.compile(r"(?:resize_\d+_from_\d+|crop_\d+)_(?:center_|(?:\d+_)*)(.+)$"),
    "weather": re.compile(r"(.+)$"),  # a stem may stand under fog, night and snowy
}


def scene(subset: str, place: str) -> str:
    """The scene that a sample was cut from; all samples of one scene overlap or adjoin.

    `place` is the key without its subset. A WHU-OPT-SAR sheet, an fMoW location (all its dates and crops), an Inria
    source image, a SEN1-2 scene; a stem of weather, whichever the weather; elsewhere the names do not tell and every
    sample is a scene of its own.
    """
    match = SCENES[subset].match(place.rsplit("/", 1)[-1]) if subset in SCENES else None
    return match.group(1) if match else place


def inria_gsd(name: str) -> float | None:
    """Metres a pixel by the name that upstream's cutter gave: 512 px made from 4096, 2048, 1024 px of 0.3 m each."""
    last = name.rsplit("/", 1)[-1]
    if match := re.match(r"resize_512_from_(4096|2048|1024)_", last):
        return {"4096": 2.4, "2048": 1.2, "1024": 0.6}[match.group(1)]
    return 0.3 if last.startswith("crop_512_") else None


def clean(part: str) -> str:
    """One part of a key: only `A-Za-z0-9_-`, not starting with `__`, which readers of tars skip."""
    part = re.sub(r"[^A-Za-z0-9_-]", "_", unicodedata.normalize("NFC", part))
    return re.sub(r"^__+", "_", part)


def fits(key: str) -> bool:
    """Whether a USTAR header holds the names of all members that a sample of this key may have."""
    longest = len(key) + LONGEST_SUFFIX
    if longest <= USTAR_NAME:
        return True
    slashes = (position for position, character in enumerate(key) if character == "/")
    return any(slash <= USTAR_PREFIX and longest - slash - 1 <= USTAR_NAME for slash in slashes)


def shortened(key: str, source: str) -> str:
    """The key made unique and short enough: its last part cut as needed, then `-` and 8 hex digits of its source."""
    folder, _, last = key.rpartition("/")
    ending = "-" + hashlib.sha256(source.encode("utf-8", "surrogateescape")).hexdigest()[:8]
    while not fits(f"{folder}/{last}{ending}"):
        if last:
            last = last[:-1]
        else:  # the folders alone are too long: keep the subset
            folder, last = folder.split("/", 1)[0], folder.rsplit("/", 1)[-1][:USTAR_NAME]
    return f"{folder}/{last}{ending}"
