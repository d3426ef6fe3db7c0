"""An image of a converted folder is the bytes that the index means, or one line says which are not."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from conversion.errors import OutputError, VerificationError
from conversion.placed import Place, read_image, reader
from dataset_card.figures import write_figures
from dataset_card.statistics import read_converted
from tests import converted


@pytest.fixture
def out(tmp_path: Path) -> Path:
    converted.write(tmp_path)
    return tmp_path


@pytest.fixture
def place(out) -> Place:
    return Place.of(pq.read_table(out / "index/SEN1-2.parquet").to_pylist()[0], "sar")


def test_the_bytes_are_those_of_the_shard(out, place):
    expected = next(sample for sample in converted.samples() if sample.key.startswith("SEN1-2/")).images["sar"]
    assert read_image(reader(out), place) == expected


@pytest.mark.parametrize("change", [{"offset": 1}, {"size": -1}, {"crc32": 1}])
def test_other_bytes_than_the_index_means_are_named(change, out, place):
    ((name, by),) = change.items()
    with pytest.raises(VerificationError, match=rf"{place.shard}: the .* bytes at .* are not those"):
        read_image(reader(out), replace(place, **{name: getattr(place, name) + by}))


def test_an_answer_that_is_cut_short_is_named(place):
    with pytest.raises(VerificationError, match="are not those"):
        read_image(lambda shard, offset, size: b"short", place)


@pytest.mark.parametrize(
    "change", [{"offset": -1}, {"offset": 1 << 40}, {"size": 1 << 40}, {"shard": "README.md"}, {"shard": "../x.tar"}]
)
def test_a_place_outside_of_the_shards_is_not_read(change, out, place):
    with pytest.raises(OutputError, match=r"the index names .* which this folder does not have"):
        read_image(reader(out), replace(place, **change))


def test_no_picture_of_the_card_shows_a_damaged_image(out, place):
    data = bytearray((out / place.shard).read_bytes())
    data[place.offset + place.size // 2] ^= 1
    (out / place.shard).write_bytes(data)
    with pytest.raises(VerificationError, match=rf"{place.shard}: .* Run `mmm-rs verify`"):
        write_figures(read_converted(out))
