"""The tars: members in order with fixed metadata, the JSON of each sample, and what damage does to a shard."""

import json
import tarfile

import pyarrow.parquet as pq

from tests import releases
from tests.conversions import convert, verify
from tests.outputs import expected_members, members, reasons, unpublished


def test_members_of_a_sample_stand_together_in_order_with_fixed_metadata(converted):
    order = ["jpg", "txt", "nir.jpg", "nir.txt", "sar.jpg", "sar.txt", "json"]
    for shard in converted.out.glob("data/*/*.tar"):
        raw = shard.read_bytes()
        with tarfile.open(shard, "r:") as tar:
            keys: list[str] = []
            last = ""
            for member in tar:
                assert raw[member.offset + 257 : member.offset + 265] == b"ustar\x0000"
                assert (member.mtime, member.uid, member.gid, member.mode, member.uname) == (0, 0, 0, 0o644, "")
                folder, _, name = member.name.rpartition("/")
                stem, _, suffix = name.partition(".")
                if f"{folder}/{stem}" != (keys or [""])[-1]:
                    keys.append(f"{folder}/{stem}")
                    last = ""
                assert not last or order.index(suffix) > order.index(last)
                last = suffix
            assert len(keys) == len(set(keys))


def test_the_json_member_describes_the_sample(converted):
    published = members(converted.out)
    fmow = json.loads(published["fMoW/airport_0_0_rgb_center.json"])
    assert fmow["subset"] == "fMoW"
    assert fmow["source"] == {"rgb": "fMoW_dataset/airport_0_0_rgb_center.jpg", "nir": None, "sar": None}
    assert (fmow["category"], fmow["gsd"], fmow["gsd_level"], fmow["gsd_level_derived"]) == (
        "airport",
        0.45,
        "ultra_high",
        False,
    )
    assert fmow["cloud_cover"] == 3
    assert fmow["caption"] == "an image of airport_0_0_rgb_center"
    assert json.loads(fmow["annotation"]["rgb"]) == {
        "/home/user/fMoW/airport_0_0_rgb_center.png": {
            "prompt": "Satellite imagery,  Ultra-high precision resolution, airport, "
            "an image of airport_0_0_rgb_center, fMoW",
            "category": "airport",
            "spatial_resolution": 0.45,
            "cloud_cover": 3,
        }
    }
    fog = json.loads(published["weather/fog/00000.json"])
    assert (fog["weather"], fog["satellite"], fog["gsd"]) == ("fog", "Sentinel-2", None)
    assert json.loads(published["Inria/resize_512_from_4096_vienna1.json"])["gsd"] == 2.4
    gid = json.loads(published["GID/GF2____001.json"])
    assert (gid["category"], gid["satellite"]) == ("built-up", "GF2")


def test_odd_but_whole_images_are_published_and_the_rest_is_reported(tmp_path):
    subset = releases.with_odd_images()
    path = releases.zips_stored([subset], tmp_path / "release")
    convert(path, tmp_path / "out")
    published = members(tmp_path / "out")
    assert {name: data for name, data in published.items() if not name.endswith(".json")} == expected_members([subset])
    rejected = {f"{stem}.jpg" for stem, image in releases.odd_images().items() if not image.published}
    assert set(reasons(tmp_path / "out")) == rejected
    assert {row["reason"] for row in unpublished(tmp_path / "out") if row["kind"] == "record"} == {"image_rejected"}
    sizes = {
        row["key"]: (row["rgb_width"], row["rgb_height"])
        for row in pq.read_table(tmp_path / "out/index/GID.parquet").to_pylist()
    }
    assert set(sizes.values()) == {(48, 40)}
    verify(tmp_path / "out", path)


def test_damage_moves_no_other_sample_to_another_shard(clean_release, reference, tmp_path):
    path = releases.zips_stored(clean_release.subsets, tmp_path / "release")
    broken = releases.flip_bit_of_image(path / "SEN1-2.zip", 3)
    convert(path, tmp_path / "out")
    assert reasons(tmp_path / "out") == {broken.rsplit("/", 1)[-1]: "crc_mismatch"}
    before = {row["key"]: row["shard"] for row in pq.read_table(reference / "index/SEN1-2.parquet").to_pylist()}
    after = {row["key"]: row["shard"] for row in pq.read_table(tmp_path / "out/index/SEN1-2.parquet").to_pylist()}
    assert after == {key: before[key] for key in after}
    assert len(after) == len(before)  # its twin is still published
    rows = [
        row
        for row in pq.read_table(tmp_path / "out/index/SEN1-2.parquet").to_pylist()
        if None in (row["rgb_offset"], row["sar_offset"])
    ]
    assert len(rows) == 1


def test_a_shard_without_samples_is_not_written(tmp_path):
    subset = releases.many("GID", 3)
    path = releases.zips_stored([subset], tmp_path / "release")
    releases.flip_bit_of_image(path / "GID.zip", 1)
    result = convert(path, tmp_path / "out")
    assert len(list((tmp_path / "out/data/GID").iterdir())) == 2 == len(result.manifest["shards"])
    verify(tmp_path / "out", path)
