"""Decoded batches: the pixels of Pillow, every sample once, the same number of batches for every rank.

Datasets are written from the format's specification (`tests/converted.py`); pixels are compared with Pillow's, rows
with those of `datasets`.
"""

from __future__ import annotations

import gc
import io
import itertools
import json
import logging
import pickle
import queue
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
import tracemalloc
from collections import Counter
from pathlib import Path
from typing import Any

import datasets
import fsspec
import numpy as np
import PIL.Image
import PIL.ImageOps
import pytest

import mmm_rs
import mmm_rs_loader
from mmm_rs_cli.demo import scenes
from mmm_rs_loader import batches, collate
from tests import converted, releases

COUNT = 103  # samples of the plain dataset, a number that no number of ranks divides
ROOT = Path(__file__).parents[1]


def encoded(image: PIL.Image.Image, format: str = "JPEG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def drawn(size: int, number: int = 0) -> PIL.Image.Image:
    """A picture with the statistics of a photograph."""
    paint = (lambda ground: scenes.city(ground, size / 3), scenes.coast, scenes.mountains)[number % 3]
    return PIL.Image.fromarray(scenes.scene(size, np.random.default_rng(number), paint, aligned=False).rgb)


def upright(data: bytes) -> PIL.Image.Image:
    """What Pillow makes of an image: the truth of these tests."""
    return PIL.ImageOps.exif_transpose(PIL.Image.open(io.BytesIO(data))).convert("RGB")


def write(out: Path, images: dict[str, Any], subset: str = "fMoW") -> Path:
    """A converted dataset of one sample for each name; an image is bytes, or a dictionary of bytes by modality."""
    samples = []
    for name, image in images.items():
        by_modality = image if isinstance(image, dict) else {"rgb": image}
        prompts = {modality: f"a {modality} image of {name}" for modality in by_modality}
        sample = converted.Sample(f"{subset}/{name}", prompts, f"an image of {name}")
        sample.images.update(by_modality)
        samples.append(sample)
    converted.write(out, samples)
    return out


def read(*arguments: Any, **options: Any) -> list[dict[str, Any]]:
    return list(batches(*arguments, **options))


def keys_of(given: list[dict[str, Any]]) -> list[str]:
    return [key for batch in given for key in batch["key"]]


def images_of(given: list[dict[str, Any]], modality: str = "rgb") -> dict[str, np.ndarray]:
    """Each sample's image by the last part of its key."""
    return {
        key.rpartition("/")[2]: image
        for batch in given
        for key, image in zip(batch["key"], batch[modality], strict=True)
    }


@pytest.fixture(scope="module")
def plain(tmp_path_factory) -> Path:
    """COUNT samples of 16 pixels square, each of another colour."""
    folder = tmp_path_factory.mktemp("loader")
    return write(folder, {f"s{i}": encoded(PIL.Image.new("RGB", (16, 16), (i * 2, 99, 0))) for i in range(COUNT)})


@pytest.fixture(scope="module")
def keys(plain) -> list[str]:
    """The keys in the order of the shards, as `datasets` reads them without code of ours."""
    rows = datasets.load_dataset("webdataset", data_files=str(plain / "data/fMoW/*.tar"), split="train", streaming=True)
    return [row["__key__"] for row in rows.select_columns("__key__")]


# --------------------------------------------------------------------------------------------------------------- pixels


def exif(orientation: int) -> PIL.Image.Exif:
    tags = PIL.Image.Exif()
    tags[0x0112] = orientation
    return tags


def with_xmp(orientation: int, data: bytes) -> bytes:
    """The JPEG with an XMP packet that says how to turn it."""
    packet = b'http://ns.adobe.com/xap/1.0/\0<x tiff:Orientation="%d"/>' % orientation
    return data[:2] + b"\xff\xe1" + (len(packet) + 2).to_bytes(2, "big") + packet + data[2:]


def jpegs() -> dict[str, bytes]:
    """JPEGs that the fast decoder takes."""
    image = drawn(96)
    base = encoded(image, quality=75)
    return {
        "baseline": base,
        "4_4_4": encoded(image, subsampling=0),
        "4_2_2": encoded(image, subsampling=1),
        "progressive": encoded(image, progressive=True),
        "optimized": encoded(image, optimize=True),
        "restart_markers": encoded(image, restart_marker_blocks=3),
        "best_quality": encoded(image, quality=100),
        "worst_quality": encoded(image, quality=1),
        "grey": encoded(image.convert("L")),
        "rgb_inside": encoded(image, keep_rgb=True),
        "profile": encoded(image, icc_profile=bytes(5000)),
        "comment": encoded(image, comment=b"Exif\0\0 tiff:Orientation"),
        "exif_upright": encoded(image, exif=exif(1)),
        "exif_without_orientation": encoded(image, exif=PIL.Image.Exif()),
        "bytes_after_end": base + b"\0" * 7 + b"trailing",
    }


def others() -> dict[str, bytes]:
    """What lies under `.jpg` beside them, and Pillow decodes."""
    image = drawn(96, 1)
    base = encoded(image)
    return {
        **{f"turned_{number}": encoded(image, exif=exif(number)) for number in range(2, 9)},
        "turned_by_xmp": with_xmp(6, base),
        "cmyk": encoded(image.convert("CMYK")),
        "bytes_before_end": base[:-2] + b"\0" * 5 + base[-2:],
        "png": encoded(image, "PNG"),
        "png_16_bit": encoded(PIL.Image.new("I;16", (96, 96), 40000), "PNG"),
        "png_palette": encoded(image.quantize(16), "PNG"),
        "png_transparent": encoded(image.convert("RGBA"), "PNG"),
        "tiff": encoded(image, "TIFF"),
        "bmp": encoded(image, "BMP"),
        "gif": encoded(image, "GIF"),
        "webp": encoded(image, "WEBP", lossless=True),
        "jpeg_2000": encoded(image, "JPEG2000"),
        "several_pictures": encoded(image, "MPO", save_all=True, append_images=[image]),
    }


def test_full_size_images_have_exactly_pillows_pixels(tmp_path):
    images = {**jpegs(), **others()}
    given = images_of(read("fMoW", write(tmp_path, images), 7))
    assert given.keys() == images.keys()
    for name, data in images.items():
        assert given[name].dtype == np.uint8 and np.array_equal(given[name], np.asarray(upright(data))), name


def test_plain_jpegs_never_reach_pillow(tmp_path, monkeypatch):
    """Else all would be right, and slow."""
    images = {name: data for name, data in jpegs().items() if not name.startswith("exif")}
    out = write(tmp_path, images)

    def refuse(*arguments: Any, **options: Any) -> None:
        raise AssertionError("Pillow was asked")

    monkeypatch.setattr(PIL.Image, "open", refuse)
    assert images_of(read("fMoW", out)).keys() == images.keys()


@pytest.mark.parametrize("shape", [(96, 64), (31, 77), (8, 200), (1, 1)])
def test_images_need_not_be_square(tmp_path, shape):
    data = encoded(drawn(200).resize(shape))
    (batch,) = read("fMoW", write(tmp_path, {"a": data, "b": encoded(upright(data), "PNG")}))
    assert batch["rgb"].shape == (2, shape[1], shape[0], 3)
    assert all(np.array_equal(image, np.asarray(upright(data))) for image in batch["rgb"])


@pytest.mark.parametrize("size", [1, 32, 100, 128, 224, 256, 300, 384, 512, 600])
def test_scaled_images_have_the_pixels_of_pillows_draft_and_resize(tmp_path, size):
    images = {f"s{number}": encoded(drawn(512, number), quality=75) for number in range(3)}
    images["turned"] = encoded(drawn(512, 1), exif=exif(6))
    images["progressive"] = encoded(drawn(512, 2), progressive=True)
    images["grey"] = encoded(drawn(512, 2).convert("L"))
    images["narrow"] = encoded(drawn(512).resize((512, 300)))
    images["odd"] = encoded(drawn(512).resize((301, 517)), subsampling=0)
    images["png"] = encoded(drawn(512), "PNG")
    images |= {f"tiny_{n}": encoded(drawn(64).resize((n, n)), quality=95, subsampling=0) for n in (1, 3, 5, 9)}
    given = images_of(read("fMoW", write(tmp_path, images), size=size))
    assert given.keys() == images.keys()
    for name, data in images.items():
        image = PIL.Image.open(io.BytesIO(data))
        image.draft(None, (size, size))
        expected = np.asarray(PIL.ImageOps.exif_transpose(image).convert("RGB").resize((size, size)))
        assert given[name].shape == (size, size, 3) and np.array_equal(given[name], expected), name


def test_tensors_have_the_same_pixels_channels_first(plain):
    torch = pytest.importorskip("torch")
    for array, tensor in zip(read("fMoW", plain), read("fMoW", plain, to="torch"), strict=True):
        assert tensor["rgb"].shape[1:] == (3, 16, 16) and tensor["rgb"].dtype == torch.uint8
        assert tensor["rgb"].is_contiguous(memory_format=torch.channels_last)
        assert np.array_equal(tensor["rgb"].permute(0, 2, 3, 1).numpy(), array["rgb"])
        assert array["gsd"].dtype == np.float64 and tensor["gsd"].dtype == torch.float32


def test_images_of_several_sizes_need_a_size(tmp_path):
    images = {"large": encoded(drawn(64)), "small": encoded(drawn(48)), "low": encoded(drawn(64).resize((64, 48)))}
    out = write(tmp_path, images)
    with pytest.raises(
        ValueError, match=r"fMoW/small: its image rgb has 48 x 48 pixels, others .* 64 x 64\. Give size"
    ):
        read("fMoW", out, 2, on_error="skip")
    assert {image.shape for image in images_of(read("fMoW", out, 2, size=40)).values()} == {(40, 40, 3)}
    assert images_of(read("fMoW", out, 1))["low"].shape == (48, 64, 3)


# ------------------------------------------------------------------------------------------------------ damaged samples


def bad_images() -> dict[str, bytes]:
    """Bytes that nobody decodes, although they are those of the release."""
    good = encoded(drawn(64))
    return {
        "half": good[: len(good) // 2],
        "no_end": good[:-2],
        "too_many_pixels": releases.resized_header(good, 30000, 30000),
        "script": b"%!PS-Adobe-3.0 EPSF-3.0\n" * 9,
        "start_of_a_jpeg": b"\xff\xd8\xff\xe0" + bytes(99),
    }


@pytest.fixture
def partly_bad(tmp_path, monkeypatch) -> tuple[Path, list[str]]:
    """A dataset with images that cannot be decoded between others, and the keys of the others."""
    good = {f"s{number}": encoded(drawn(64)) for number in range(8)}
    images = dict(itertools.chain(*zip(good.items(), bad_images().items(), strict=False)))
    images |= good
    assert images.keys() == good.keys() | bad_images().keys()
    whole = PIL.Image.open

    def lenient(data: Any, *arguments: Any, **options: Any) -> Any:  # `write` wants a size of each
        try:
            return whole(data, *arguments, **options)
        except (OSError, PIL.Image.DecompressionBombError):
            return PIL.Image.new("RGB", (1, 1))

    with monkeypatch.context() as patched:
        patched.setattr(PIL.Image, "open", lenient)
        write(tmp_path / "out", images)
    return tmp_path / "out", [f"fMoW/{name}" for name in images if name in good]


def test_an_image_that_nobody_decodes_is_an_error_that_names_the_sample(partly_bad):
    out, _ = partly_bad
    with pytest.raises(mmm_rs.ReadError, match=r"data/fMoW/train-.*: the rgb image of fMoW/half cannot be decoded"):
        read("fMoW", out, 4)


@pytest.mark.parametrize("size", [None, 8])
def test_or_it_is_left_out_and_listed(partly_bad, size, caplog):
    out, good = partly_bad
    stream = batches("fMoW", out, 4, size=size, on_error="skip")
    given = list(stream)
    assert keys_of(given) == good and all(len(batch["key"]) == len(batch["rgb"]) for batch in given)
    assert {sample.key for sample in stream.skipped} == {f"fMoW/{name}" for name in bad_images()}
    for sample in stream.skipped:
        assert (out / sample.shard).exists() and re.match("rgb: .+", sample.reason)


@pytest.fixture
def damaged(plain, tmp_path, keys) -> tuple[Path, set[str]]:
    """A dataset in which bytes of three shard members were changed, and their keys."""
    out = tmp_path / "damaged"
    shutil.copytree(plain, out)
    wanted = {keys[0], keys[1], keys[60]}
    for shard in (out / "data" / "fMoW").iterdir():
        data = bytearray(shard.read_bytes())
        for key in wanted:
            if (place := data.find(f"{key}.jpg".encode())) >= 0:
                data[place + 512 + 100] ^= 255
        shard.write_bytes(data)
    return out, wanted


def test_bytes_that_were_changed_are_an_error_or_left_out(damaged, keys):
    out, wanted = damaged
    with pytest.raises(mmm_rs.ReadError, match=re.escape(keys[0])):
        read("fMoW", out, 10)
    for shuffle in (0, 30):
        stream = batches("fMoW", out, 10, shuffle=shuffle, on_error="skip")
        given = list(stream)
        assert sorted(keys_of(given)) == sorted(set(keys) - wanted)
        assert {sample.key for sample in stream.skipped} == wanted
        assert len(given) == len(stream)  # a batch is smaller, none is lost


def test_a_batch_of_which_nothing_is_left_is_left_out(damaged, keys):
    out, wanted = damaged
    given = read("fMoW", out, 2, on_error="skip")
    assert sorted(keys_of(given)) == sorted(set(keys) - wanted) and all(batch["key"] for batch in given)


def test_but_not_where_ranks_would_fall_out_of_step(damaged):
    with pytest.raises(mmm_rs.ReadError, match="out of step"):
        read("fMoW", damaged[0], 2, on_error="skip", rank=0, world_size=2)


# -------------------------------------------------------------------------------------------------- columns and samples


def test_columns_are_those_of_the_builder(tmp_path):
    """Value by value, missing ones included, for all subsets together."""
    converted.write(tmp_path)
    rows = {row["key"]: row for row in mmm_rs.load_dataset("all", str(tmp_path), streaming=True)}
    given = read("all", tmp_path, 5, complete=False)
    assert keys_of(given) == list(rows)
    for batch in given:
        for number, key in enumerate(batch["key"]):
            for name, expected in rows[key].items():
                value = batch[name][number]
                if name in mmm_rs.MODALITIES:
                    assert batch[f"{name}_mask"][number] == (expected is not None)
                    assert np.array_equal(value, np.asarray(expected) if expected else np.zeros_like(value))
                elif name in ("weather", "gsd_level"):
                    assert value == (-1 if expected is None else expected)
                elif name in ("gsd", "cloud_cover"):
                    assert np.isnan(value) if expected is None else value == expected
                elif name == "gsd_level_derived":
                    assert value == bool(expected)
                else:
                    assert value == expected


def test_samples_are_complete_unless_all_are_wanted(tmp_path):
    converted.write(tmp_path)
    samples = {sample.key: sample for sample in converted.samples() if sample.key.startswith("WHU-OPT-SAR/")}
    complete = {key for key, sample in samples.items() if "sar" in sample.prompts}
    assert complete < samples.keys()
    assert set(keys_of(read("WHU-OPT-SAR", tmp_path))) == complete
    assert "sar_mask" not in read("WHU-OPT-SAR", tmp_path)[0]
    assert set(keys_of(read("WHU-OPT-SAR", tmp_path, modalities=["rgb", "nir"]))) == samples.keys()
    for batch in read("WHU-OPT-SAR", tmp_path, 1, complete=False):
        has_radar = batch["key"][0] in complete
        assert batch["sar"].shape == (1, 64, 64, 3) and batch["sar_mask"].tolist() == [has_radar]
        assert batch["sar"].any() == has_radar and (batch["sar_prompt"][0] is None) == (not has_radar)


def test_samples_without_any_chosen_modality_do_not_come(tmp_path):
    converted.write(tmp_path)
    given = read("WHU-OPT-SAR", tmp_path, modalities=["sar"], complete=False)
    assert len(keys_of(given)) == 3 and all(batch["sar_mask"].all() for batch in given)


def test_all_subsets_together_need_a_choice_of_modalities(tmp_path):
    converted.write(tmp_path)
    with pytest.raises(ValueError, match=r'Give the modalities, for example \["rgb"\], or complete=False'):
        batches("all", tmp_path)
    assert len(keys_of(read("all", tmp_path, modalities=["rgb"]))) == len(converted.samples())


def test_filters_choose_samples_and_their_number_is_known(plain, keys, caplog):
    stream = batches("fMoW", plain, 2, filters=[("category", "==", "none of them")])
    assert len(stream) == 0 and list(stream) == []
    (warning,) = [record.message for record in caplog.records if "no sample matches" in record.message]
    assert "filters=[('category', '==', 'none of them')]" in warning and "category is " in warning
    stream = batches("fMoW", plain, 2, contains="image of s1", filters=[("rgb_width", "==", 16)])
    expected = [key for key in keys if key.startswith("fMoW/s1")]
    assert keys_of(list(stream)) == expected and len(stream) == -(-len(expected) // 2)


def test_a_data_loader_that_cannot_know_the_stream_is_told_what_to_do(plain):
    with pytest.raises(TypeError, match="import torch before"):
        batches("fMoW", plain, 2)[0]


@pytest.mark.parametrize(
    "options",
    [
        {"batch_size": 0},
        {"batch_size": 2.5},
        {"size": -1},
        {"shuffle": -1},
        {"shuffle": True},
        {"rank": 2, "world_size": 2},
        {"world_size": 0},
        {"threads": 0},
        {"to": "jax"},
        {"pin_memory": True},
        {"pin_memory": True, "to": "torch"},  # no GPU where tests run
        {"modalities": ["sar"]},
        {"split": "test"},
        {"on_error": "ignore"},
        {"filters": [("no_such_column", "==", 1)]},
    ],
    ids=str,
)
def test_arguments_that_do_not_fit_are_named(plain, options):
    if options.get("to") == "torch":
        torch = pytest.importorskip("torch")
        if torch.cuda.is_available():
            pytest.skip("there is a GPU")
    with pytest.raises(ValueError, match=next(iter(options))) as error:
        batches("fMoW", plain, **options)
    assert "\n" not in str(error.value)


def test_a_release_has_to_be_converted_first(release):
    with pytest.raises(mmm_rs.ReadError, match="Convert the release first"):
        batches("fMoW", release.path)


# ---------------------------------------------------------------------------------------------------------------- order


def test_without_shuffling_samples_come_in_the_order_of_the_shards(plain, keys):
    for threads in (1, 2, 7):
        given = read("fMoW", plain, 10, threads=threads)
        assert keys_of(given) == keys
        assert [len(batch["key"]) for batch in given] == [10] * 10 + [3]
    assert keys_of(read("fMoW", plain, 10, drop_last=True)) == keys[:100]


@pytest.mark.parametrize(
    "batch_size, world_size, warns", [(104, 1, True), (103, 1, False), (26, 4, True), (25, 4, False)]
)
def test_too_few_samples_for_a_whole_batch_are_named(plain, caplog, monkeypatch, batch_size, world_size, warns):
    monkeypatch.setattr(logging.getLogger("datasets"), "propagate", True)
    stream = batches("fMoW", plain, batch_size, drop_last=True, world_size=world_size)
    assert (len(stream) == 0) == warns
    expected = f"fMoW: 103 samples match, and drop_last=True leaves out all of them: batches of {batch_size} for"
    assert [record.getMessage().startswith(expected) for record in caplog.records] == [True] * warns


def test_each_epoch_and_seed_has_an_order_of_its_own(plain, keys):
    stream = batches("fMoW", plain, 10, shuffle=30)
    orders = []
    for epoch in (0, 1, 0):
        stream.set_epoch(epoch)
        orders.append(keys_of(list(stream)))
    orders.append(keys_of(read("fMoW", plain, 10, shuffle=30, seed=1)))
    assert all(sorted(order) == sorted(keys) for order in orders)
    assert orders[0] == orders[2] and len({tuple(order) for order in [*orders, keys]}) == 4


@pytest.mark.parametrize("shuffle", [1, 10, 100, 10_000])
def test_a_shuffled_sample_moves_by_less_than_asked_for(shuffle):
    """Which bounds what has to be kept in memory, and what a stream that continues has to read again."""
    plan = mmm_rs_loader._Order(8, shuffle, 0, 1, 2, False).plan([100] * 40, 5)
    moved = np.abs(plan.rows - np.arange(2000, 4000))
    assert sorted(plan.rows) == list(range(2000, 4000))
    assert moved.max() < shuffle and (shuffle == 1 or moved.mean() > min(shuffle, 2000) / 6)
    assert sorted(plan.pieces) == list(range(40)) and plan.pieces.tolist() != list(range(40))


# ---------------------------------------------------------------------------------------------------------------- ranks


@pytest.mark.parametrize("shuffle", [0, 20])
@pytest.mark.parametrize("world_size", [2, 3, 8])
def test_ranks_share_all_samples_in_equally_many_batches(plain, keys, world_size, shuffle):
    shares = [
        batches("fMoW", plain, 8, rank=rank, world_size=world_size, shuffle=shuffle) for rank in range(world_size)
    ]
    for epoch in range(2):
        for share in shares:
            share.set_epoch(epoch)
        given = [list(share) for share in shares]
        assert {len(batch_list) for batch_list in given} == {len(share) for share in shares} and len(given[0]) > 1
        assert Counter(key for batch_list in given for key in keys_of(batch_list)) == dict.fromkeys(keys, 1)


def test_ranks_have_equally_many_batches_whatever_the_numbers():
    """A sample comes twice only where a rank would otherwise have a batch less, and never three times."""
    for count, world_size, batch_size, shuffle in itertools.product(range(0, 26), range(1, 7), range(1, 6), (0, 5)):
        pieces = [5] * (count // 5) + [count % 5] * bool(count % 5)
        for drop_last in (False, True):
            plans = [
                mmm_rs_loader._Order(batch_size, shuffle, 1, rank, world_size, drop_last).plan(pieces, 3)
                for rank in range(world_size)
            ]
            (number,) = {len(plan) for plan in plans}
            given = Counter(row for plan in plans for batch in range(number) for row in plan.batch(batch).tolist())
            sizes = [len(plan.batch(batch)) for plan in plans for batch in range(number)]
            if drop_last:
                assert number == count // world_size // batch_size and set(sizes) <= {batch_size}
                assert len(given) == number * batch_size * world_size
                continue
            assert given.keys() == set(range(count)) and all(0 < size <= batch_size for size in sizes)
            repeated = sum(given.values()) - count
            assert max(given.values(), default=1) <= 2 or count < world_size
            assert repeated < world_size
            if count // world_size % batch_size:
                assert not repeated


# --------------------------------------------------------------------------------------------------------------- resume


@pytest.mark.parametrize("shuffle", [0, 25])
@pytest.mark.parametrize("rank", [0, 1])
@pytest.mark.parametrize("seen", [0, 1, 3, 6, 7])
def test_a_stream_continues_exactly_where_it_stopped(plain, shuffle, rank, seen):
    def begin() -> mmm_rs_loader.Batches:
        stream = batches("fMoW", plain, 8, shuffle=shuffle, rank=rank, world_size=2)
        stream.set_epoch(4)
        return stream

    whole = [batch["key"] for batch in begin()]
    assert len(whole) == 7
    stream = begin()
    rows = iter(stream)
    first = [next(rows)["key"] for _ in range(seen)]
    state = json.loads(json.dumps(stream.state_dict()))

    later = batches("fMoW", plain, 8, shuffle=shuffle, rank=rank, world_size=2)
    later.load_state_dict(state)
    assert later.state_dict() == state
    rest = iter(later)
    between = [next(rest)["key"] for _ in range(min(2, 7 - seen))]
    last = batches("fMoW", plain, 8, shuffle=shuffle, rank=rank, world_size=2)
    last.load_state_dict(later.state_dict())
    assert first + between + [batch["key"] for batch in last] == whole
    assert [batch["key"] for batch in last] == whole  # and then from the beginning


def test_a_loop_over_epochs_may_set_the_epoch_that_it_continues(plain):
    def train(stream: mmm_rs_loader.Batches, epoch: int, batches_to_see: int) -> list[list[str]]:
        seen = []
        for number in range(epoch, 3):
            stream.set_epoch(number)
            for batch in stream:
                seen.append(batch["key"])
                if len(seen) == batches_to_see:
                    return seen
        return seen

    whole = train(batches("fMoW", plain, 10, shuffle=25), 0, 99)
    stream = batches("fMoW", plain, 10, shuffle=25)
    first = train(stream, 0, 15)
    state = stream.state_dict()
    later = batches("fMoW", plain, 10, shuffle=25)
    later.load_state_dict(state)
    assert first + train(later, state["epoch"], 99) == whole and len(whole) == 33


@pytest.mark.parametrize(
    ("name", "value"), [("batch_size", 9), ("shuffle", 3), ("seed", 1), ("world_size", 2), ("contains", "s1")]
)
def test_a_state_of_other_arguments_is_refused(plain, name, value):
    state = batches("fMoW", plain, 8).state_dict()
    stream = batches("fMoW", plain, **{"batch_size": 8, name: value})
    with pytest.raises(ValueError, match="filters was" if name == "contains" else f"{name} was .*, is {value}"):
        stream.load_state_dict(state)


@pytest.fixture
def counted(plain, monkeypatch) -> tuple[str, list[int]]:
    """The folder on a file system in memory, and the bytes of each answer that came from a shard."""
    filesystem = fsspec.filesystem("memory")
    filesystem.put(str(plain), "/loader", recursive=True)
    answers: list[int] = []
    whole = type(filesystem).cat_file

    def cat_file(self: Any, path: str, *arguments: Any, **options: Any) -> bytes:
        data = whole(self, path, *arguments, **options)
        if path.endswith(".tar"):
            answers.append(len(data))
        return data

    monkeypatch.setattr(type(filesystem), "cat_file", cat_file)
    yield "memory://loader", answers
    filesystem.rm("/loader", recursive=True)


def test_a_remote_folder_gives_the_same(counted, plain):
    for ours, local in zip(read("fMoW", counted[0], 16), read("fMoW", plain, 16), strict=True):
        assert ours["key"] == local["key"] and np.array_equal(ours["rgb"], local["rgb"])


@pytest.mark.parametrize("shuffle", [0, 10])
def test_continuing_reads_only_what_is_to_come(counted, shuffle):
    """Of a shuffled stream the pieces that hold a row of it; here a piece has 6 or 7 rows."""
    url, answers = counted
    whole = batches("fMoW", url, 10, shuffle=shuffle)
    list(whole)
    total = sum(answers)
    answers.clear()
    state = {**whole.state_dict(), "batch": 8}
    whole.load_state_dict(state)
    assert len(keys_of(list(whole))) == 23
    assert sum(answers) < total * (0.25 if shuffle == 0 else 0.45)


# --------------------------------------------------------------------------------------------------- threads and memory


def ours() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("mmm-rs")]


def wait_for_no_thread() -> None:
    deadline = time.monotonic() + 5
    while ours() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert ours() == []


def test_no_thread_outlives_its_iteration(plain, partly_bad):
    stream = batches("fMoW", plain, 4, threads=3)
    list(stream)
    wait_for_no_thread()
    for batch in stream:
        assert batch["key"] and len(ours()) == 4
        break
    wait_for_no_thread()
    rows = iter(stream)
    next(rows)
    rows.close()
    wait_for_no_thread()
    with pytest.raises(mmm_rs.ReadError):
        read("fMoW", partly_bad[0], 4)
    wait_for_no_thread()


def test_closing_does_not_wait_for_a_request(plain, monkeypatch):
    filesystem = fsspec.filesystem("memory")
    filesystem.put(str(plain), "/stuck", recursive=True)
    answered, whole, asked = threading.Event(), type(filesystem).cat_file, []

    def cat_file(self: Any, path: str, *arguments: Any, **options: Any) -> bytes:
        if path.endswith(".tar"):
            asked.append(path)
            if len(asked) > 3:
                answered.wait(60)
        return whole(self, path, *arguments, **options)

    monkeypatch.setattr(type(filesystem), "cat_file", cat_file)
    rows = iter(batches("fMoW", "memory://stuck", 2))
    assert next(rows)["key"]
    begun = time.monotonic()
    rows.close()
    assert time.monotonic() - begun < 20 and not answered.is_set()
    answered.set()
    wait_for_no_thread()
    filesystem.rm("/stuck", recursive=True)


@pytest.mark.parametrize(("threads", "most", "large"), [(1, 2, 1), (2, 2, 1), (2, 3, 1 << 30), (4, 3, 1), (16, 5, 1)])
def test_few_batches_are_in_memory_if_the_consumer_keeps_one(tmp_path, monkeypatch, threads, most, large):
    black = encoded(PIL.Image.new("RGB", (512, 512)))
    write(tmp_path, dict.fromkeys(map("s{}".format, range(101)), black))
    monkeypatch.setattr(mmm_rs_loader, "LARGE", large)
    monkeypatch.setattr(mmm_rs_loader, "PATIENCE", 60)  # however late the consumer lets go of a batch
    stream = batches("fMoW", tmp_path, 8, threads=threads)
    tracemalloc.start()
    sizes = [batch["rgb"].nbytes for batch in stream]
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < (most + 0.5) * sizes[0]
    assert len(sizes) == 13 and len(set(sizes)) == 2  # the last one is smaller


@pytest.mark.parametrize("ended", [True, False], ids=["to its end", "given up"])
def test_a_batch_that_outlives_its_stream_is_all_that_is_kept(plain, ended):
    tracemalloc.start()
    rows = iter(batches("fMoW", plain, 8, size=512))
    batch = next(rows)
    for batch in rows if ended else ():  # noqa: B007
        pass
    del rows
    gc.collect()
    kept, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert kept < batch["rgb"].nbytes + 3_000_000  # an array of a whole batch has 6,291,456 bytes


def test_a_consumer_that_keeps_its_batches_is_not_waited_for_again_and_again(plain, monkeypatch):
    waits = []

    class Queue(queue.SimpleQueue):
        def get(self, block: bool = True, timeout: float | None = None) -> Any:
            waits.append(timeout)
            return super().get(timeout=0.001 if timeout else 0)

    monkeypatch.setattr(mmm_rs_loader.queue, "SimpleQueue", Queue)
    kept = list(batches("fMoW", plain, 4, size=64))
    assert len(kept) == 26 and sum(map(bool, waits)) == mmm_rs_loader.TRIES


def test_numbers_of_numpy_are_numbers(plain):
    stream = batches("fMoW", plain, np.int64(10), size=np.int32(8), seed=np.uint8(3), shuffle=np.int64(20))
    stream.set_epoch(np.int64(2))
    other = batches("fMoW", plain, 10, size=8, seed=3, shuffle=20)
    other.set_epoch(2)
    assert keys_of(list(stream)) == keys_of(list(other))
    json.dumps(stream.state_dict())


def test_a_state_of_something_else_is_refused(plain):
    with pytest.raises(ValueError, match="not one that `state_dict` of these batches gave"):
        batches("fMoW", plain, 4).load_state_dict({"epoch": 1})


def test_samples_that_match_but_are_not_complete_are_counted(tmp_path, caplog, monkeypatch):
    monkeypatch.setattr(logging.getLogger("datasets"), "propagate", True)
    images = {f"s{number}": {"rgb": encoded(PIL.Image.new("RGB", (8, 8)))} for number in range(3)}
    assert len(batches("SEN1-2", write(tmp_path, images, "SEN1-2"), 2)) == 0
    expected = "3 samples match, but none has all of rgb, sar. Give the modalities that you need, or complete=False"
    assert [record.message for record in caplog.records] == [f"SEN1-2: {expected}"]


def test_a_consumer_may_keep_all_batches(plain):
    kept = list(batches("fMoW", plain, 4, size=64))
    for batch, other in zip(kept, batches("fMoW", plain, 4, size=64), strict=True):
        assert np.array_equal(batch["rgb"], other["rgb"])


def test_an_error_comes_in_its_place(damaged, keys):
    """After the batches before it, and not before they are asked for."""
    rows = iter(batches("fMoW", damaged[0], 10, filters=[("key", "not in", keys[:2])]))
    first = list(itertools.islice(rows, 5))
    assert keys_of(first) == keys[2:52]
    with pytest.raises(mmm_rs.ReadError, match=re.escape(keys[60])):
        list(rows)


RUN = """
import os, sys, threading, time
from mmm_rs_loader import batches
stream = batches("fMoW", sys.argv[1], 2, threads=2)
{0}
"""


def program(plain: Path, code: str) -> subprocess.Popen[str]:
    words = [sys.executable, "-c", RUN.format(code), str(plain)]
    return subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT)


def test_ctrl_c_ends_it_at_once(plain):
    endless = "while True:\n for batch in stream: print('batch', flush=True)"
    with program(plain, endless) as process:
        assert process.stdout is not None and process.stderr is not None
        process.stdout.readline()
        process.send_signal(signal.SIGINT)
        process.stdout.read()
        errors = process.stderr.read()
        assert process.wait(20) == -signal.SIGINT
    assert errors.strip().endswith("KeyboardInterrupt") and errors.count("Traceback") == 1


@pytest.mark.parametrize("end", ["", "raise SystemExit(0)", "os._exit(0)"])
@pytest.mark.parametrize("to", ["numpy", "torch"])
def test_a_program_may_end_in_the_middle_of_a_batch(plain, end, to):
    if to == "torch":
        pytest.importorskip("torch")
    code = f"rows = iter(batches('fMoW', sys.argv[1], 2, threads=2, to={to!r}))\nprint(len(next(rows)['key']))\n{end}"
    with program(plain, code) as process:
        out, errors = process.communicate(timeout=60)
    assert (process.returncode, out, errors) == (0, "2\n", "")


def test_a_fork_in_the_middle_of_an_iteration_harms_neither(plain):
    code = """
rows = iter(stream)
first = next(rows)["key"]
child = os.fork()
if child == 0:
    del rows
    import gc; gc.collect()
    os._exit(sum(len(batch["key"]) for batch in stream) != 103)
print(os.waitpid(child, 0)[1], len(first) + sum(len(batch["key"]) for batch in rows))
"""
    with program(plain, code) as process:
        out, errors = process.communicate(timeout=20)
    assert (out, process.returncode) == ("0 103\n", 0), errors


def test_a_batch_that_is_kept_is_never_written_to(plain):
    """Memory is used again, but only what nothing refers to, not even a part of it or a tensor over it."""
    torch = pytest.importorskip("torch")
    expected = {
        key: np.asarray(image["rgb"]) for image in mmm_rs.load_dataset("fMoW", str(plain)) for key in [image["key"]]
    }
    kept: list[tuple[str, Any]] = []
    for number, batch in enumerate(batches("fMoW", plain, 4)):
        if number % 3 == 0:
            kept += zip(batch["key"], batch["rgb"], strict=True)
        elif number % 3 == 1:
            kept.append((batch["key"][2], batch["rgb"][2:3, 1:, ::2]))
    for batch in batches("fMoW", plain, 4, to="torch"):
        kept.append((batch["key"][1], batch["rgb"][1]))
    for key, image in kept:
        if isinstance(image, torch.Tensor):
            assert np.array_equal(image.permute(1, 2, 0), expected[key])
        elif image.ndim == 4:
            assert np.array_equal(image[0], expected[key][1:, ::2])
        else:
            assert np.array_equal(image, expected[key])


def test_memory_is_used_again(plain):
    addresses = {batch["rgb"].__array_interface__["data"][0] for batch in batches("fMoW", plain, 4, drop_last=True)}
    assert len(addresses) <= 5  # of 25 batches: two ahead, one here, one on its way, one just let go of


def test_the_reader_does_not_run_away_from_a_slow_consumer(plain, monkeypatch):
    """Encoded images are kept for `shuffle` samples and the batches ahead, not for the epoch."""
    read_so_far = [0]
    tables = mmm_rs_loader._Samples.tables

    def counting(self: Any, *arguments: Any) -> Any:
        for table in tables(self, *arguments):
            read_so_far[0] += len(table.numbers)
            yield table

    monkeypatch.setattr(mmm_rs_loader._Samples, "tables", counting)
    for shuffle in (0, 10):
        read_so_far[0] = 0
        rows = iter(batches("fMoW", plain, 4, shuffle=shuffle))
        next(rows)
        time.sleep(0.2)
        assert read_so_far[0] <= 4 * (2 + 2) + shuffle + 7  # a piece has at most 7 rows
        rows.close()


# ---------------------------------------------------------------------------------------------------------------- torch


@pytest.mark.parametrize("to", ["numpy", "torch"])
@pytest.mark.parametrize("workers", [0, 1, 3])
def test_the_workers_of_a_dataloader_share_the_batches(plain, keys, workers, to):
    data = pytest.importorskip("torch.utils.data")
    stream = batches("fMoW", plain, 8, shuffle=20, to=to)
    loader = data.DataLoader(stream, batch_size=None, num_workers=workers)
    given = list(loader)
    assert len(given) == len(stream) == len(loader)
    assert sorted(keys_of(given)) == sorted(keys)


def test_so_do_those_that_start_with_nothing(plain, keys):
    """As they do on macOS and Windows, and by default from Python 3.14 on: the stream is pickled for them."""
    data = pytest.importorskip("torch.utils.data")
    stream = batches("fMoW", plain, 8, to="torch")
    loader = data.DataLoader(stream, batch_size=None, num_workers=2, multiprocessing_context="spawn")
    assert sorted(keys_of(list(loader))) == sorted(keys)


def test_a_stream_can_be_pickled(plain, keys):
    assert keys_of(list(pickle.loads(pickle.dumps(batches("fMoW", plain, 8))))) == keys


def test_workers_that_live_on_see_the_epoch(plain):
    data = pytest.importorskip("torch.utils.data")
    stream = batches("fMoW", plain, 8, shuffle=20, to="torch")
    loader = data.DataLoader(stream, batch_size=None, num_workers=2, persistent_workers=True)
    orders = []
    for epoch in (0, 1, 0):
        stream.set_epoch(epoch)
        orders.append(keys_of(list(loader)))
    assert orders[0] == orders[2] != orders[1] and sorted(orders[0]) == sorted(orders[1])


def test_a_worker_starts_no_thread(plain):
    data = pytest.importorskip("torch.utils.data")

    class Counted(data.IterableDataset):
        def __iter__(self) -> Any:
            for _ in batches("fMoW", plain, 8, threads=4):
                yield ",".join(ours())

    assert set(data.DataLoader(Counted(), batch_size=None, num_workers=2)) == {""}


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("seen", [1, 6])
def test_a_stateful_dataloader_continues_exactly_where_it_stopped(plain, keys, workers, seen):
    loaders = pytest.importorskip("torchdata.stateful_dataloader")

    def begin() -> Any:
        stream = batches("fMoW", plain, 8, shuffle=20, to="torch")
        return loaders.StatefulDataLoader(stream, batch_size=None, num_workers=workers)

    whole = [batch["key"] for batch in begin()]
    loader = begin()
    rows = iter(loader)
    first = [next(rows)["key"] for _ in range(seen)]
    state = loader.state_dict()
    later = begin()
    later.load_state_dict(state)
    assert first + [batch["key"] for batch in later] == whole
    assert sorted(key for batch in whole for key in batch) == sorted(keys)


def test_a_state_of_one_process_is_shared_out_to_workers(plain):
    data = pytest.importorskip("torch.utils.data")
    stream = batches("fMoW", plain, 8, shuffle=20, to="torch")
    rows = iter(stream)
    seen = [next(rows)["key"] for _ in range(5)]
    later = batches("fMoW", plain, 8, shuffle=20, to="torch")
    later.load_state_dict(stream.state_dict())
    rest = [batch["key"] for batch in data.DataLoader(later, batch_size=None, num_workers=3)]
    assert sorted(seen + rest) == sorted(batch["key"] for batch in batches("fMoW", plain, 8, shuffle=20))


def test_arrays_need_no_torch(plain):
    code = "next(iter(stream)); print('torch' in sys.modules)"
    with program(plain, code) as process:
        assert process.communicate(timeout=20)[0] == "False\n"


def test_the_builder_does_not_know_the_loader():
    code = "import sys, mmm_rs; print('mmm_rs_loader' in sys.modules or 'simplejpeg' in sys.modules)"
    words = [sys.executable, "-c", code]
    assert subprocess.run(words, capture_output=True, text=True, check=True, cwd=ROOT).stdout == "False\n"


# -------------------------------------------------------------------------------------------------------------- collate


def without_code(out: Path, config: str) -> datasets.IterableDataset:
    card = out / "README.md"
    files = f"data/{config}/train-*.tar"
    features = mmm_rs.wds_features(config)
    card.unlink(missing_ok=True)
    return datasets.load_dataset(
        "webdataset", data_files=str(out / files), split="train", streaming=True, features=features
    )


ROWS = {
    "builder": lambda out, config: mmm_rs.load_dataset(config, str(out), streaming=True),
    "builder, encoded": lambda out, config: mmm_rs.load_dataset(config, str(out), streaming=True, decode=False),
    "builder, torch": lambda out, config: mmm_rs.load_dataset(config, str(out), streaming=True).with_format("torch"),
    "builder, on disk": lambda out, config: mmm_rs.load_dataset(config, str(out)),
    "builder, on disk, torch": lambda out, config: mmm_rs.load_dataset(config, str(out)).with_format("torch"),
}


@pytest.mark.parametrize("config", ["SEN1-2", "WHU-OPT-SAR", "weather", "MRSSC2.0", "all"])
@pytest.mark.parametrize("rows", ROWS)
def test_collate_gives_rows_the_form_of_batches(tmp_path, rows, config):
    """Whole columns are null in some of these subsets, single values in others."""
    data = pytest.importorskip("torch.utils.data")
    torch = sys.modules["torch"]
    converted.write(tmp_path)
    loader = data.DataLoader(ROWS[rows](tmp_path, config), batch_size=3, collate_fn=collate)
    expected = batches(config, tmp_path, 3, complete=False, to="torch")
    for given, batch in zip(loader, expected, strict=True):
        assert given.keys() == batch.keys()
        for name, values in batch.items():
            if isinstance(values, torch.Tensor):
                assert given[name].dtype == values.dtype and given[name].shape == values.shape, name
                assert torch.equal(given[name].nan_to_num(-9), values.nan_to_num(-9)), name
            else:
                assert given[name] == values, name


@pytest.mark.parametrize("form", [None, "torch"])
def test_collate_takes_the_rows_without_code(tmp_path, form):
    data = pytest.importorskip("torch.utils.data")
    converted.write(tmp_path)
    rows = without_code(tmp_path, "SEN1-2").with_format(form)
    given = list(data.DataLoader(rows, batch_size=3, collate_fn=collate))
    keys = [key for batch in given for key in batch["__key__"]]
    expected = images_of(read("SEN1-2", tmp_path, complete=False), "sar")
    for batch in given:
        for key, image, present in zip(batch["__key__"], batch["sar.jpg"], batch["sar.jpg_mask"], strict=True):
            assert present and np.array_equal(image.permute(1, 2, 0), expected[key.rpartition("/")[2]])
        assert all(prompt is None or "farmland" in prompt for prompt in batch["sar.txt"])
    assert len(keys) == len(expected) and given[0]["json"][0]["subset"] == "SEN1-2"


def test_collate_asks_for_a_size_where_images_differ(tmp_path):
    pytest.importorskip("torch")
    out = write(tmp_path, {"large": encoded(drawn(64)), "grey": encoded(drawn(48).convert("L"))})
    for decode in (True, False):
        rows = list(mmm_rs.load_dataset("fMoW", str(out), streaming=True, decode=decode))
        with pytest.raises(ValueError, match=r"fMoW/grey: its image rgb has 48 x 48 .* 64 x 64\. Give size"):
            collate(rows)
        assert collate(rows, size=32)["rgb"].shape == (2, 3, 32, 32)


def test_collate_takes_other_columns_as_they_are():
    torch = pytest.importorskip("torch")
    rows = [{"a": 1, "b": 1.5, "c": None, "d": "x", "e": True}, {"a": 2, "b": None, "c": None, "d": None, "e": False}]
    batch = collate(rows)
    assert batch["a"].tolist() == [1, 2] and batch["e"].dtype == torch.bool
    assert batch["b"][0] == 1.5 and batch["b"][1].isnan() and batch["c"] == [None, None] and batch["d"] == ["x", None]


@pytest.mark.parametrize("turn", [1, -1])
def test_collate_keeps_the_columns_of_every_row(tmp_path, turn):
    """A modality must not be lost because the first row's config does not have it."""
    pytest.importorskip("torch")
    converted.write(tmp_path)
    streams = [mmm_rs.load_dataset(config, str(tmp_path), streaming=True) for config in ("Inria", "SEN1-2")]
    rows = [next(row for row in stream if row.get("sar", row["rgb"])) for stream in streams][::turn]
    batch = collate(rows, size=32)
    assert batch["sar_mask"].tolist() == [False, True][::turn]
    assert batch["sar"].shape == (2, 3, 32, 32) and batch["key"] == [row["key"] for row in rows]


def test_collate_says_that_there_are_no_rows():
    with pytest.raises(ValueError, match="no rows were given"):
        collate([])


def test_collate_names_the_sample_that_cannot_be_decoded(partly_bad):
    pytest.importorskip("torch")
    rows = list(mmm_rs.load_dataset("fMoW", str(partly_bad[0]), streaming=True, decode=False))
    with pytest.raises(mmm_rs.ReadError, match="fMoW/half cannot be decoded"):
        collate(rows)
