"""Whether radar and near-infrared images have three equal channels, as upstream saves single bands.

To know it of all images, a conversion would have to decode them. The card says it of the few that are looked at.
"""

from __future__ import annotations

from collections import Counter

import pyarrow.compute as pc
from PIL import ImageChops

from conversion import images, layout
from conversion.placed import Place, Read, read_image, reader
from dataset_card.statistics import Converted, opened_parquet
from mmm_rs import open_image

MODALITIES = ("nir", "sar")
LOOKED_AT = 8  # images of each modality and subset: the first in the order of the shards, which is random


def equal_channels(converted: Converted, read: Read | None = None) -> str | None:
    """In how many images all channels are equal, such as "8 of 8 NIR and 15 of 16 SAR images". None if the dataset has
    no such images.

    `read`: reads bytes of shards (default: from the folder).
    """
    counts = {modality: _counts(converted, modality, read or reader(converted.out)) for modality in MODALITIES}
    parts = [
        f"{count[True]:,} of {count.total():,} {modality.upper()}"
        for modality, count in counts.items()
        if count.total()
    ]
    return f"{' and '.join(parts)} images" if parts else None


def _counts(converted: Converted, modality: str, read: Read) -> Counter[bool]:
    """Whether the channels are equal -> images."""
    counts: Counter[bool] = Counter()
    columns = Place.columns(modality)
    for subset, statistics in converted.statistics.items():
        if modality not in statistics.modalities:
            continue
        left = LOOKED_AT
        with opened_parquet(converted.out / layout.index_name(subset)) as index:
            for batch in index.iter_batches(columns=columns):
                rows = batch.filter(pc.is_valid(batch.column(columns[1]))).slice(0, left)
                places = (Place.of(row, modality) for row in rows.to_pylist())
                counts.update(_has_equal_channels(read_image(read, place)) for place in places)
                left -= rows.num_rows
                if not left:
                    break
    return counts


def _has_equal_channels(data: bytes) -> bool:
    """Whether an image has one channel, or several that are all equal. False if it cannot be decoded."""
    try:
        images.measure(data)
        with open_image(data) as image:
            first, *others = image.split()
    except Exception:  # damage that only a decoder sees; Pillow raises almost anything
        return False
    return all(ImageChops.difference(first, other).getbbox() is None for other in others)
