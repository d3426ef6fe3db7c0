"""Manifest and index: where the bytes of each image are, and what was written in sum."""

import io

import pyarrow.parquet as pq
import pytest
from PIL import Image, ImageOps

from tests import releases
from tests.conversions import convert, verify
from tests.outputs import SUFFIX


def test_the_index_says_where_the_bytes_are(release, converted):
    images = {f"{key}{SUFFIX[m]}": data for (key, m), (_, _, data) in releases.pairs(release.subsets).items()}
    seen = 0
    for path in converted.out.glob("index/*.parquet"):
        for row in pq.read_table(path).to_pylist():
            for modality in ("rgb", "nir", "sar"):
                data = images.get(f"{row['key']}{SUFFIX[modality]}")
                if data is None:
                    assert row[f"{modality}_offset"] is None
                    continue
                with open(converted.out / row["shard"], "rb") as shard:
                    shard.seek(row[f"{modality}_offset"])
                    assert shard.read(row[f"{modality}_size"]) == data
                seen += 1
    assert seen == len(images)


@pytest.mark.parametrize("format", ["JPEG", "PNG"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_the_index_has_the_size_of_the_image_as_its_exif_turns_it(format, orientation, tmp_path):
    image = Image.new("RGB", (32, 16), "red")
    image.getexif()[0x0112] = orientation
    data = releases.encoded(image, format, exif=image.getexif())
    subset = releases.many("GID", 1)
    subset = subset.with_files(**dict.fromkeys(subset.images, data))
    convert(releases.zips_stored([subset], tmp_path / "release"), tmp_path / "out")
    (row,) = pq.read_table(tmp_path / "out/index/GID.parquet").to_pylist()
    with Image.open(io.BytesIO(data)) as opened:
        assert (row["rgb_width"], row["rgb_height"]) == ImageOps.exif_transpose(opened).size
    verify(tmp_path / "out")
