"""Where things lie in a converted folder: every path in it is spelled here. A path is relative to the folder."""

from __future__ import annotations

from mmm_rs import SHARD_NAME as SHARD_NAME
from mmm_rs import SUBSETS
from mmm_rs import index_name as index_name

CARD = "README.md"
CROISSANT = "croissant.json"
MODULE = "mmm_rs.py"
MANIFEST = "manifest.json"
SUMMARY = "report/summary.json"
UNPUBLISHED = "report/unpublished.parquet"
STRIP_FIGURE = "assets/samples.webp"
PAIRS_FIGURE = "assets/pairs.png"
PROMPTS_FIGURE = "assets/prompts.png"

DATA, INDEX, REPORT, ASSETS = FOLDERS = ("data", "index", "report", "assets")

WORK = ".mmm-rs"  # the state of an unfinished conversion
BEGUN = f"{WORK}/options.json"  # is there as long as the conversion is unfinished
EXPORT_BEGUN = f"{WORK}/export.json"  # is there as long as an export is unfinished
EXPORT = "export.json"  # what a folder of images or Parquet was exported from; a dataset's manifest says it itself

# What a conversion writes, at the top level, in the order in which a person would name it.
PRODUCTS = (*FOLDERS, CARD, CROISSANT, MODULE, MANIFEST)
# A folder that holds both of these was written by a conversion.
SIGNS = (MANIFEST, SUMMARY)


def shard_name(subset: str, split: str, number: int, count: int) -> str:
    """The shard `number` (from 0) of the `count` shards of a split."""
    return f"{DATA}/{subset}/{split}-{number:05d}-of-{count:05d}.tar"


def samples_figure(subset: str) -> str:
    """The contact sheet of a subset."""
    return f"{ASSETS}/samples-{subset}.webp"


FIGURES = frozenset((STRIP_FIGURE, PAIRS_FIGURE, PROMPTS_FIGURE, *map(samples_figure, SUBSETS)))
"""All pictures that a conversion may write. Others in `assets` are a person's."""
