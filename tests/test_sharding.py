"""Which sample goes into which shard: its key, the order by a seed, and where it is cut."""

import hashlib
import json

import pyarrow.parquet as pq

from conversion.options import Options
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
        assert all(len(found) == 1 for found in sides.values())
    verify(tmp_path / "out", path)


def test_one_sample_larger_than_a_shard_leaves_the_others_as_they_are(clean_release, tmp_path):
    inria = clean_release["Inria"]
    name, data = next(iter(inria.images.items()))
    many = {f"{name[:-4]}_{at}.jpg": data for at in range(40)} | {f"{name[:-4]}_0.jpg": data + bytes(200_000)}
    records = [{"image": path, "prompt": "a city"} for path in many]
    files = {"MMM-RS_Inria.json": json.dumps(records).encode(), **many}
    path = releases.put(tmp_path / "MMM-RS", {"Inria.zip": releases.zipped(files)})
    result = convert(path, tmp_path / "out", options=Options(shard_size=150_000))
    assert result.manifest["subsets"]["Inria"]["shards"] == 32
    assert sum(shard["bytes"] > 150_000 for shard in result.manifest["shards"]) == 1
