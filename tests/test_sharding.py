"""Which sample goes into which shard: its key, the order by a seed, and where it is cut."""

import hashlib
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from conversion import sharding
from conversion.options import Options
from conversion.sharding import cut
from tests import releases
from tests.conversions import convert, verify
from tests.outputs import members


def test_shards_hold_equal_counts_and_none_is_empty(converted):
    for name, subset in converted.manifest["subsets"].items():
        counts = [shard["samples"] for shard in converted.manifest["shards"] if shard["subset"] == name]
        assert len(counts) == min(32, subset["samples"]) and max(counts) - min(counts) <= 1 and min(counts) > 0


def test_another_seed_gives_another_order_of_the_same_samples(clean_release, reference, tmp_path):
    out = tmp_path / "out"
    convert(clean_release.path, out, options=Options(seed=1))
    assert members(out) == members(reference)
    orders = [pq.read_table(folder / "index/WHU-OPT-SAR.parquet")["key"].to_pylist() for folder in (out, reference)]
    assert orders[0] != orders[1] and sorted(orders[0]) == sorted(orders[1])


def test_keys_that_would_be_equal_end_in_a_digest_of_their_source(tmp_path):
    stems = ["a b", "a_b", "a.b"]
    files = {"x.json": json.dumps([{"image": f"{stem}.jpg", "prompt": stem} for stem in stems]).encode()}
    files |= {f"GID_dataset/{stem}.jpg": releases.picture(stem) for stem in stems}
    convert(releases.zips_stored([releases.Subset("GID", files, {})], tmp_path / "release"), tmp_path / "out")
    keys = {
        f"GID/a_b-{hashlib.sha256(f'GID_dataset/{stem}.jpg'.encode()).hexdigest()[:8]}": stem.encode() for stem in stems
    }
    assert {name[:-4]: data for name, data in members(tmp_path / "out").items() if name.endswith(".txt")} == keys


def test_a_held_out_split_keeps_scenes_whole(tmp_path):
    subsets = [releases.many("fMoW", 200)]
    path = releases.zips_stored([*subsets, *releases.small(unmatched=False)[1:3]], tmp_path / "release")
    result = convert(path, tmp_path / "out", options=Options(validation=0.25))
    splits = result.manifest["subsets"]["fMoW"]["splits"]
    assert 20 < splits["validation"]["samples"] < 80
    assert sum(split["samples"] for split in splits.values()) == 200
    scenes = {"fMoW": "_".join, "WHU-OPT-SAR": lambda parts: parts[0], "SEN1-2": lambda parts: "_".join(parts[:3])}
    for name in scenes:
        sides: dict[str, set[str]] = {}
        for row in pq.read_table(tmp_path / f"out/index/{name}.parquet").to_pylist():
            parts = row["key"].split("/")[1].split("_")
            scene = "_".join(parts[:2]) if name == "fMoW" else scenes[name](parts)
            sides.setdefault(scene, set()).add(row["split"])
        assert all(len(scene_splits) == 1 for scene_splits in sides.values())
    verify(tmp_path / "out", path)


def test_one_sample_larger_than_a_shard_leaves_the_others_as_they_are(clean_release, tmp_path):
    inria = clean_release["Inria"]
    name, data = next(iter(inria.images.items()))
    many = {f"{name[:-4]}_{number}.jpg": data for number in range(40)} | {f"{name[:-4]}_0.jpg": data + bytes(200_000)}
    records = [{"image": path, "prompt": "a city"} for path in many]
    files = {"MMM-RS_Inria.json": json.dumps(records).encode(), **many}
    path = releases.put(tmp_path / "MMM-RS", {"Inria.zip": releases.zipped(files)})
    result = convert(path, tmp_path / "out", options=Options(shard_size=150_000))
    assert result.manifest["subsets"]["Inria"]["shards"] == 32
    assert sum(shard["bytes"] > 150_000 for shard in result.manifest["shards"]) == 1


# --- where the samples are cut ---------------------------------------------------------------------------------------


def lengths(spans):
    return [stop - start for start, stop, _ in spans]


@pytest.mark.parametrize(
    ("samples", "limit", "shards"),
    [
        (1, 100, 1),
        (31, 100, 31),
        (32, 100, 32),
        (1000, 10_000, 32),
        (320, 100, 32),  # ten samples of 10 bytes fill a shard to the limit
        (321, 100, 64),  # and one more sample makes the next multiple of 32
        (3200, 100, 320),
        (40, 15, 32),  # no multiple of 32 could do better: each shard must have a sample
    ],
)
def test_samples_are_cut_into_32_shards_or_as_many_more_as_the_limit_asks_for(samples, limit, shards):
    spans = cut(np.full(samples, 10), limit)
    assert len(spans) == shards
    assert [start for start, _, _ in spans] == [0, *(stop for _, stop, _ in spans[:-1])] and spans[-1][1] == samples
    assert max(lengths(spans)) - min(lengths(spans)) <= 1
    assert all(size == 10 * (stop - start) for start, stop, size in spans)


def test_nothing_is_cut_into_no_shard():
    assert cut(np.array([], np.int64), 100) == []


def test_shards_stay_within_the_limit_when_large_samples_lie_together():
    sizes = np.array([1] * 320 + [9] * 320)
    spans = cut(sizes, 100)
    assert len(spans) % 32 == 0 and max(size for *_, size in spans) <= 100
    assert len(spans) > 32 * -(-int(sizes.sum()) // 3200)  # as many as for their sum alone would not do


def test_a_few_samples_beyond_the_limit_make_only_their_own_shards_larger():
    sizes = np.full(320, 10)
    sizes[[5, 200]] = 1000
    spans = cut(sizes, 100)
    assert len(spans) == 32
    large = [(start, stop) for start, stop, size in spans if size > 100]
    assert [start <= number < stop for (start, stop), number in zip(large, (5, 200), strict=True)] == [True, True]


# --- keys ------------------------------------------------------------------------------------------------------------


def keys(subset, sources):
    """The keys of images of these names, each a sample of its own."""
    places = pa.array([Path(source).stem for source in sources])
    image = np.array([[row, -1, -1] for row in range(len(sources))])
    return sharding.keys(subset, places, image, pa.array(sources), np.arange(len(sources))).to_pylist()


def digest(source):
    return hashlib.sha256(source.encode()).hexdigest()[:8]


def test_only_keys_that_collide_get_a_digest_and_it_does_not_depend_on_their_order():
    sources = ["a b.jpg", "a_b.jpg", "c.jpg"]
    expected = {"a b.jpg": f"GID/a_b-{digest('a b.jpg')}", "a_b.jpg": f"GID/a_b-{digest('a_b.jpg')}", "c.jpg": "GID/c"}
    assert dict(zip(sources, keys("GID", sources), strict=True)) == expected
    assert dict(zip(sources[::-1], keys("GID", sources[::-1]), strict=True)) == expected


def test_a_key_that_looks_like_anothers_with_a_digest_gets_one_too():
    taken = f"a_b-{digest('a b.jpg')}.jpg"
    sample_keys = keys("GID", ["a b.jpg", "a_b.jpg", taken])
    assert len(set(sample_keys)) == 3
    assert sample_keys[1] == f"GID/a_b-{digest('a_b.jpg')}"
    assert sample_keys[2] == f"GID/{Path(taken).stem}-{digest(taken)}"


def test_long_names_that_begin_alike_are_cut_and_stay_apart():
    sources = [f"{'x' * 200}{ending}.jpg" for ending in ("one", "two")]
    sample_keys = keys("Inria", sources)
    assert [key.rsplit("-", 1)[1] for key in sample_keys] == [digest(source) for source in sources]
    assert [len(f"{key}.nir.jpg") - len("Inria/") for key in sample_keys] == [100, 100]  # the name field of a header


def test_places_that_are_not_chosen_have_no_key_and_collide_with_nothing():
    image = np.array([[0, -1, -1], [1, -1, -1]])
    sample_keys = sharding.keys("GID", pa.array(["a b", "a_b"]), image, pa.array(["a b.jpg", "a_b.jpg"]), np.array([1]))
    assert sample_keys.to_pylist() == [None, "GID/a_b"]


# --- how much room a sample takes ------------------------------------------------------------------------------------


def test_the_planned_bytes_of_a_sample_are_at_least_those_of_its_members():
    image, record = np.array([[0, -1, 1], [0, -1, -1]]), np.array([[0, -1, 0], [-1, -1, -1]])
    both, alone = sharding.sizes(image, record, np.array([1, 513]), np.array([100]), np.array([10])).tolist()
    # Each member has a header of 512 bytes and whole blocks: two images, two prompts, JSON; one image, JSON.
    assert both == (512 + 512) + (512 + 1024) + 2 * (512 + 512) + (512 + 2560)
    assert alone == (512 + 512) + (512 + 1024)
