"""A release in any form becomes the same folder, byte for byte, and nothing is lost on the way.

What is right is stated by `tests.releases`; what was written is read with `tarfile` and `pyarrow`.
"""

import hashlib
import io
import json
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from PIL import Image, ImageOps

from conversion.disk import RESERVE
from conversion.errors import OutputError, ReleaseError, UsageError, VerificationError
from conversion.inspection import inspect
from conversion.options import Options
from conversion.shards import read_marker
from dataset_card.card import write as write_card
from dataset_card.card import write_own
from mmm_rs import PROMPT_COLUMNS
from tests import releases
from tests.conversions import convert, verify


def tree(out: Path) -> dict[str, str]:
    """Every file of a folder with its sha256."""
    return {
        path.relative_to(out).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(out.rglob("*"))
        if path.is_file()
    }


def members(out: Path) -> dict[str, bytes]:
    """Every member of every shard."""
    found = {}
    for shard in sorted(out.glob("data/*/*.tar")):
        with tarfile.open(shard, "r:") as tar:
            for member in tar:
                assert member.name not in found
                found[member.name] = tar.extractfile(member).read()
    return found


SUFFIX = {"rgb": "", "nir": ".nir", "sar": ".sar"}


def expected_members(subsets):
    found = {}
    for (key, modality), (_, prompt, data) in releases.pairs(subsets).items():
        found[f"{key}{SUFFIX[modality]}.jpg"] = data
        if prompt is not None:
            found[f"{key}{SUFFIX[modality]}.txt"] = prompt.encode()
    return found


def unpublished(out: Path) -> list[dict]:
    return pq.read_table(out / "report/unpublished.parquet").to_pylist()


def reasons(out: Path, kind: str = "image") -> dict[str, str]:
    """{last part of the path: reason} of what was not published."""
    return {row["path"].rsplit("/", 1)[-1]: row["reason"] for row in unpublished(out) if row["kind"] == kind}


@pytest.fixture(scope="module")
def converted(release, tmp_path_factory):
    out = tmp_path_factory.mktemp("converted") / "out"
    return convert(release.path, out, workers=2)


def test_every_pair_is_published_with_the_bytes_and_the_prompt_of_the_release(release, converted):
    found = members(converted.out)
    texts = {name: data for name, data in found.items() if not name.endswith(".json")}
    assert texts == expected_members(release.subsets)
    assert {name[:-5] for name in found if name.endswith(".json")} == {
        key for subset in release.subsets for key in subset.samples
    }


def test_what_does_not_match_is_reported_by_name_and_reason(release, converted):
    rows = unpublished(converted.out)
    images = {row["path"]: row["reason"] for row in rows if row["kind"] == "image"}
    assert images == {path: "no_record" for subset in release.subsets for path in subset.unmatched_images}
    records = [row for row in rows if row["kind"] == "record"]
    assert {row["reason"] for row in records} == {"no_image"}
    for subset in release.subsets:
        mine = [row for row in records if row["subset"] == subset.name]
        assert sorted(row["detail"].split(": ")[0] for row in mine) == sorted(subset.unmatched_records)
        assert all(row["position"] is not None and row["path"].endswith(".json") for row in mine)


def test_the_reckoning_balances(release, converted):
    for subset in release.subsets:
        totals = converted.summary["subsets"][subset.name]
        published = sum(len(modalities) for modalities in subset.samples.values())
        assert totals["images"] == {
            "released": len(subset.images),
            "published": published,
            "reported": len(subset.unmatched_images),
        }
        assert totals["records"] == {
            "released": subset.records,
            "used": published,
            "reported": len(subset.unmatched_records),
        }


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


def test_the_json_member_describes_the_sample(converted):
    found = members(converted.out)
    fmow = json.loads(found["fMoW/airport_0_0_rgb_center.json"])
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
    fog = json.loads(found["weather/fog/00000.json"])
    assert (fog["weather"], fog["satellite"], fog["gsd"]) == ("fog", "Sentinel-2", None)
    assert json.loads(found["Inria/resize_512_from_4096_vienna1.json"])["gsd"] == 2.4
    gid = json.loads(found["GID/GF2____001.json"])
    assert (gid["category"], gid["satellite"]) == ("built-up", "GF2")


def test_shards_hold_equal_counts_and_none_is_empty(converted):
    for name, subset in converted.manifest["subsets"].items():
        counts = [shard["samples"] for shard in converted.manifest["shards"] if shard["subset"] == name]
        assert len(counts) == min(32, subset["samples"]) and max(counts) - min(counts) <= 1 and min(counts) > 0


@pytest.fixture(scope="module")
def reference(clean_release, tmp_path_factory):
    """The output for stored zips, one worker."""
    out = tmp_path_factory.mktemp("reference") / "out"
    convert(clean_release.path, out, workers=1)
    return out


@pytest.mark.parametrize("form", releases.FORMS)
def test_every_form_of_a_release_gives_the_same_bytes(form, clean_release, reference, tmp_path):
    path = releases.FORMS[form](clean_release.subsets, tmp_path / "release")
    out = tmp_path / "out"
    result = convert(path, out, workers=4)
    assert result.reported == 0
    assert tree(out) == tree(reference)


def test_another_hash_seed_gives_the_same_bytes(clean_release, reference, tmp_path):
    out = tmp_path / "out"
    for seed in ("1", "2"):
        subprocess.run(
            [sys.executable, "-m", "mmm_rs_cli.cli", "convert", clean_release.path, out, "--overwrite", "--quiet"],
            check=True,
            env={"PYTHONHASHSEED": seed, "PATH": "", "HOME": str(tmp_path)},
        )
        assert tree(out) == tree(reference)


def test_another_seed_gives_another_order_of_the_same_samples(clean_release, reference, tmp_path):
    out = tmp_path / "out"
    convert(clean_release.path, out, options=Options(seed=1))
    assert members(out) == members(reference)
    orders = [pq.read_table(folder / "index/WHU-OPT-SAR.parquet")["key"].to_pylist() for folder in (out, reference)]
    assert orders[0] != orders[1] and sorted(orders[0]) == sorted(orders[1])


def test_the_zip_counts_where_its_folder_lies_beside_it(clean_release, reference, tmp_path):
    result = convert(releases.zips_beside_folders(clean_release.subsets, tmp_path / "release"), tmp_path / "out")
    assert members(tmp_path / "out") == members(reference)
    beside = [source for source in result.summary["sources"] if source["problem"] == "beside_zip"]
    assert {source["subset"] for source in beside} == {subset.name for subset in clean_release.subsets}
    assert result.reported


def test_regenerated_folders_with_the_annotations_elsewhere(clean_release, reference, tmp_path):
    images = releases.regenerated(clean_release.subsets, tmp_path / "images", annotations=False)
    for subset in clean_release.subsets:
        releases.put(
            tmp_path / "json", {path: data for path, data in subset.files.items() if releases.is_annotation(path)}
        )
    result = convert(images, tmp_path / "out", annotations=tmp_path / "json")
    assert result.reported == 0
    wanted = {subset.name: set(subset.images.values()) for subset in clean_release.subsets}
    for subset, contents in wanted.items():
        prefix = subset.replace(".", "_") + "/"
        assert {
            data
            for name, data in members(tmp_path / "out").items()
            if name.startswith(prefix) and name.endswith(".jpg")
        } == contents


def test_run_again_when_complete_does_nothing(clean_release, tmp_path):
    out = tmp_path / "out"
    assert convert(clean_release.path, out).written
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*")}
    assert not convert(clean_release.path, out).written
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*")} == before


def test_subsets_that_come_later_are_added(clean_release, reference, tmp_path):
    out = tmp_path / "out"
    for name in ("GID", "Inria"):
        convert(clean_release.path, out, subsets=[name])
    assert {path.name for path in (out / "data").iterdir()} == {"GID", "Inria"}
    convert(clean_release.path, out)
    assert tree(out) == tree(reference)


def test_other_options_over_an_output_are_refused(clean_release, tmp_path):
    out = tmp_path / "out"
    convert(clean_release.path, out, subsets=["GID"])
    with pytest.raises(UsageError, match="seed was 0, now 7"):
        convert(clean_release.path, out, options=Options(seed=7))
    convert(clean_release.path, out, subsets=["Inria"], options=Options(seed=7), overwrite=True)
    assert [path.name for path in (out / "data").iterdir()] == ["Inria"]


def test_an_output_called_mmm_rs_is_refused(clean_release, tmp_path):
    with pytest.raises(UsageError, match="loading script"):
        convert(clean_release.path, tmp_path / "mmm_rs")
    assert not (tmp_path / "mmm_rs").exists()


def test_an_output_within_the_release_is_no_part_of_it(clean_release, reference, tmp_path):
    path = releases.folders(clean_release.subsets, tmp_path / "release")
    convert(path, path / "out")
    convert(path, path / "out", overwrite=True)
    assert tree(path / "out") == tree(reference)


def test_missing_and_unknown_subsets_are_named(clean_release, tmp_path):
    path = releases.zips_stored([clean_release["GID"]], tmp_path / "release")
    with pytest.raises(ReleaseError, match="Inria"):
        convert(path, tmp_path / "out", subsets=["Inria"])
    with pytest.raises(UsageError, match="NoSuch"):
        convert(path, tmp_path / "out", subsets=["NoSuch"])
    with pytest.raises(ReleaseError):
        convert(releases.put(tmp_path / "empty", {"notes.txt": b"x"}), tmp_path / "out2")


def test_odd_but_whole_images_are_published_and_the_rest_is_reported(tmp_path):
    subset = releases.with_odd_images()
    path = releases.zips_stored([subset], tmp_path / "release")
    convert(path, tmp_path / "out")
    found = members(tmp_path / "out")
    assert {name: data for name, data in found.items() if not name.endswith(".json")} == expected_members([subset])
    rejected = {f"{stem}.jpg" for stem, image in releases.odd_images().items() if not image.published}
    assert set(reasons(tmp_path / "out")) == rejected
    assert {row["reason"] for row in unpublished(tmp_path / "out") if row["kind"] == "record"} == {"image_rejected"}
    sizes = {
        row["key"]: (row["rgb_width"], row["rgb_height"])
        for row in pq.read_table(tmp_path / "out/index/GID.parquet").to_pylist()
    }
    assert set(sizes.values()) == {(48, 40)}
    verify(tmp_path / "out", path)


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


def test_two_images_of_one_place_are_both_reported_and_named(clean_release, tmp_path):
    sen = clean_release["SEN1-2"]
    double = {"SEN1-2_dataset/copy/ROIs1868_summer_s2_7_p1.jpg": releases.picture("double")}
    path = releases.zips_stored([sen.with_files(**double)], tmp_path / "release")
    convert(path, tmp_path / "out")
    rows = [row for row in unpublished(tmp_path / "out") if row["kind"] == "image"]
    assert [row["reason"] for row in rows] == ["same_place", "same_place"]
    assert rows[0]["path"] in rows[1]["detail"] and rows[1]["path"] in rows[0]["detail"]
    assert "SEN1-2/ROIs1868_summer_7_p1.sar.jpg" in members(tmp_path / "out")


def whu(records):
    """WHU-OPT-SAR with two places of three images each and these records."""
    images = {
        f"WHU-OPT-SAR_dataset/{folder}/NH49E001013_{x}_0_{token}.jpg": releases.picture(f"{token}{x}")
        for token, folder in (("RGB", "RGB_jpg"), ("NIR", "NIR_jpg"), ("SAR", "sar_jpg"))
        for x in (0, 512)
    }
    return releases.Subset("WHU-OPT-SAR", {"a.json": json.dumps(records).encode()} | images, {})


def test_a_modality_that_no_record_names_is_served_by_the_samples_record(tmp_path):
    records = [{"image": f"RGB_jpg/NH49E001013_{x}_0_RGB.jpg", "prompt": f"a place {x}"} for x in (0, 512)]
    result = convert(releases.zips_stored([whu(records)], tmp_path / "release"), tmp_path / "out")
    assert result.manifest["subsets"]["WHU-OPT-SAR"]["pairs"] == {"rgb": 2, "nir": 2, "sar": 2}
    assert members(tmp_path / "out")["WHU-OPT-SAR/NH49E001013_512_0.sar.txt"] == b"a place 512"
    assert result.summary["subsets"]["WHU-OPT-SAR"]["records"] == {"released": 2, "used": 2, "reported": 0}


def test_a_modality_that_some_record_names_is_not_served_by_another(tmp_path):
    records = [{"image": f"NH49E001013_{x}_0_RGB.jpg", "prompt": f"a place {x}"} for x in (0, 512)]
    records.append({"image": "NH49E001013_0_0_SAR.jpg", "prompt": "a radar image"})
    path = releases.zips_stored([whu(records)], tmp_path / "release")
    result = convert(path, tmp_path / "out")
    assert result.manifest["subsets"]["WHU-OPT-SAR"]["pairs"] == {"rgb": 2, "nir": 2, "sar": 1}
    assert reasons(tmp_path / "out") == {"NH49E001013_512_0_SAR.jpg": "no_record"}
    kept = convert(path, tmp_path / "kept", options=Options(keep_unprompted=True))
    assert kept.manifest["subsets"]["WHU-OPT-SAR"]["pairs"] == {"rgb": 2, "nir": 2, "sar": 1}
    found = members(tmp_path / "kept")
    assert "WHU-OPT-SAR/NH49E001013_512_0.sar.jpg" in found and "WHU-OPT-SAR/NH49E001013_512_0.sar.txt" not in found
    assert kept.reported == 0
    verify(tmp_path / "kept", path)


def test_records_that_cannot_be_used_are_reported_with_file_and_position(tmp_path):
    image = {f"GID_dataset/{n}.jpg": releases.picture(str(n)) for n in range(3)}
    records = [
        {"image": "0.jpg", "prompt": "the first wins"},
        {"image": "0.jpg", "prompt": "the first wins"},
        {"image": "0.jpg", "prompt": "another"},
        {"prompt": "no path"},
        {"image": "1.jpg"},
        {"image": "1.jpg", "prompt": 7},
        "no record",
        {"image": "1.jpg", "prompt": ["the first of a list", "the second"]},
        {"image": "2.jpg", "prompt": "half a character \ud800"},
    ]
    subset = releases.Subset("GID", {"MMM-RS_GID.json": json.dumps(records).encode()} | image, {})
    convert(releases.zips_stored([subset], tmp_path / "release"), tmp_path / "out")
    found = members(tmp_path / "out")
    assert found["GID/0.txt"] == b"the first wins" and found["GID/1.txt"] == b"the first of a list"
    rows = {
        row["position"]: (row["path"], row["reason"])
        for row in unpublished(tmp_path / "out")
        if row["kind"] == "record"
    }
    assert rows == {
        position: ("MMM-RS_GID.json", reason)
        for position, reason in {
            1: "duplicate_record",
            2: "conflicting_prompt",
            3: "no_path",
            4: "no_prompt",
            5: "wrong_type",
            6: "not_an_object",
            8: "invalid_text",
        }.items()
    }


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


def test_a_second_conversion_into_the_same_folder_waits_for_nobody(clean_release, tmp_path):
    out = tmp_path / "out"
    seen = []

    def second(done, total, what):
        if not seen:
            with pytest.raises(OutputError, match="another command is writing to this folder"):
                convert(clean_release.path, out)
            seen.append(what)

    convert(clean_release.path, out, progress=second)
    assert seen


def test_a_release_that_changed_between_two_runs_is_noticed(clean_release, tmp_path):
    path = releases.zips_stored(clean_release.subsets, tmp_path / "release")

    def stop(done, total, what):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        convert(path, tmp_path / "out", progress=stop, workers=1)
    releases.flip_bit_of_image(path / "GID.zip", 0)
    with pytest.raises(ReleaseError, match="GID"):
        convert(path, tmp_path / "out")
    assert convert(path, tmp_path / "out", overwrite=True).written


def test_an_interrupted_conversion_goes_on(clean_release, reference, tmp_path):
    done = []

    def stop(*progress):
        done.append(progress)
        if len(done) == 9:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        convert(clean_release.path, tmp_path / "out", progress=stop, workers=1)
    markers = map(read_marker, (tmp_path / "out").glob(".mmm-rs/*/markers/*"))
    before = {path: path.stat().st_ino for path in (tmp_path / "out" / marker.name for marker in markers)}
    assert len(before) >= 9
    convert(clean_release.path, tmp_path / "out")
    assert tree(tmp_path / "out") == tree(reference)
    assert all(path.stat().st_ino == inode for path, inode in before.items())  # nothing complete was done again


def test_a_report_that_no_conversion_stands_behind_is_not_carried_on(clean_release, tmp_path):
    releases.put(tmp_path / "bad/HRSC2016", {"HRSC2016_dataset/a.jpg": b"text"})
    with pytest.raises(ReleaseError, match="none of its images can be published"):
        convert(tmp_path / "bad", tmp_path / "out")
    inria = releases.single_zip(clean_release["Inria"], tmp_path / "zip")
    convert(inria, tmp_path / "out")
    convert(inria, tmp_path / "anew")
    assert tree(tmp_path / "out") == tree(tmp_path / "anew")


def test_a_colon_in_a_name_is_no_drive(tmp_path):
    jpeg = releases.picture("a"), releases.picture("b")
    records = [{"image": "a:b.jpg", "prompt": "first"}, {"image": "b.jpg", "prompt": "second"}]
    releases.put(
        tmp_path / "MMM-RS/GID",
        {"GID_dataset/a:b.jpg": jpeg[0], "GID_dataset/b.jpg": jpeg[1], "MMM-RS_GID.json": json.dumps(records).encode()},
    )
    convert(tmp_path / "MMM-RS", tmp_path / "out")
    found = members(tmp_path / "out")
    assert (found["GID/a_b.txt"], found["GID/b.txt"]) == (b"first", b"second")


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize("name", ["README.md", "data/mine/x", "mmm_rs.py"])
def test_a_folder_with_files_that_no_conversion_wrote_is_refused(name, overwrite, clean_release, tmp_path):
    releases.put(tmp_path / "out", {name: b"mine"})
    with pytest.raises(UsageError, match=f"{name}: was not written by a conversion"):
        convert(clean_release.path, tmp_path / "out", overwrite=overwrite)
    assert {name: (tmp_path / "out" / name).read_bytes() for name in tree(tmp_path / "out")} == {name: b"mine"}


def test_overwrite_keeps_a_persons_text_and_picture(clean_release, tmp_path):
    out = tmp_path / "out"
    convert(clean_release.path, out, subsets=["GID"])
    write_own(out, "about", "Mine.")
    releases.put(out, {"assets/mine.png": b"mine"})
    convert(clean_release.path, out, subsets=["Inria"], overwrite=True)
    assert "\nMine.\n" in (out / "README.md").read_text()
    assert {path.name for path in out.glob("assets/*")} >= {"mine.png", "samples-Inria.webp"}
    assert not (out / "assets/samples-GID.webp").exists()


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_card_that_cannot_be_rewritten_is_refused_before_anything_is_done(overwrite, clean_release, tmp_path):
    out = tmp_path / "out"
    convert(clean_release.path, out, subsets=["GID"])
    (out / "README.md").write_text("mine")
    before = tree(out)
    with pytest.raises(UsageError, match=r"README\.md: this card was not written by mmm-rs"):
        convert(clean_release.path, out, overwrite=overwrite)
    assert tree(out) == before


def test_another_program_does_not_go_on_with_what_one_began(clean_release, reference, tmp_path, monkeypatch):
    def stop(*progress):
        raise KeyboardInterrupt

    out = tmp_path / "out"
    with monkeypatch.context() as earlier, pytest.raises(KeyboardInterrupt):
        earlier.setattr("conversion.work.program", lambda: "an earlier one")
        convert(clean_release.path, out, progress=stop)
    with pytest.raises(UsageError, match=r"another version of mmm-rs.*--overwrite"):
        convert(clean_release.path, out)
    convert(clean_release.path, out, overwrite=True)
    assert tree(out) == tree(reference)


@pytest.fixture(scope="module")
def small_output(clean_release, tmp_path_factory):
    out = tmp_path_factory.mktemp("small") / "out"
    convert(clean_release.path, out, subsets=["GID"])
    return out


@pytest.mark.parametrize(
    "name",
    [
        "README.md",
        "croissant.json",
        "index/GID.parquet",
        "report/summary.json",
        "report/unpublished.parquet",
        "assets/pairs.png",
    ],
)
def test_a_product_that_was_removed_is_missed(name, clean_release, small_output, tmp_path):
    out = shutil.copytree(small_output, tmp_path / "out")
    (out / name).unlink()
    with pytest.raises(OutputError, match=rf"{name}: .*(--overwrite|Run `mmm-rs card)"):
        convert(clean_release.path, out, subsets=["GID"])


def test_the_module_is_put_back_where_it_is_missing(clean_release, small_output, tmp_path):
    out = shutil.copytree(small_output, tmp_path / "out")
    (out / "mmm_rs.py").unlink()
    assert not convert(clean_release.path, out, subsets=["GID"]).written
    assert tree(out) == tree(small_output)


@pytest.mark.parametrize("text", ["{}", "[]", "{", '{"subsets": {"GID": {}}, "total": {}}'])
def test_a_summary_that_is_none_is_told_in_a_line(text, clean_release, small_output, tmp_path):
    out = shutil.copytree(small_output, tmp_path / "out")
    (out / "report/summary.json").write_text(text)
    for command in (lambda: convert(clean_release.path, out, subsets=["GID"]), lambda: write_card(out)):
        with pytest.raises(OutputError, match=r"^.*report/summary\.json: cannot be read \(.*\)\. .* --overwrite$"):
            command()


def test_a_card_without_the_table_of_what_was_left_out(small_output, tmp_path):
    out = shutil.copytree(small_output, tmp_path / "out")
    (out / "report/unpublished.parquet").unlink()
    with pytest.raises(OutputError, match=r"^.*report/unpublished\.parquet: not found\. .* --overwrite$"):
        write_card(out)


def test_a_part_of_a_subset_that_comes_later_is_noticed(clean_release, tmp_path):
    subset = clean_release["GID"]
    half = set(sorted(subset.images)[::2])
    path = releases.put(
        tmp_path / "release",
        {
            "GID.zip": releases.zipped({name: data for name, data in subset.files.items() if name not in half}),
            "GID (1).zip": releases.zipped({name: subset.files[name] for name in half}),
        },
    )
    whole = (path / "GID (1).zip").read_bytes()
    releases.truncate(path / "GID (1).zip")
    out = tmp_path / "out"
    convert(path, out)
    (path / "GID (1).zip").write_bytes(whole)
    with pytest.raises(ReleaseError, match=r"images of GID; .* --overwrite"):
        convert(path, out)
    assert convert(path, out, overwrite=True).reported == 0


def test_the_disk_needed_counts_all_inner_zips_of_a_subset(clean_release, tmp_path):
    subset = clean_release["GID"]
    inner = [releases.zipped({name: data}) for name, data in sorted(subset.files.items())]
    files = {f"MMM-RS/GID ({number}).zip": data for number, data in enumerate(inner)}
    path = releases.put(tmp_path, {"MMM-RS.zip": releases.zipped(files, releases.DEFLATED)}) / "MMM-RS.zip"
    plan = inspect(path)["plan"]
    assert len(inner) > 1 and plan["disk_needed"] == plan["bytes"] + sum(map(len, inner)) + RESERVE


# --- annotations of one modality -------------------------------------------------------------------------------------


def by_modality(subset):
    """The images and records of SEN1-2 by their modality, as (images, annotation file)."""
    (name,) = (name for name in subset.files if releases.is_annotation(name))
    records = json.loads(subset.files[name])
    for token in ("_s2_", "_s1_"):
        mine = {path: record for path, record in records.items() if token in path}
        assert len(mine) == 4
        yield {n: d for n, d in subset.images.items() if token in n}, json.dumps(mine).encode()


def test_each_zip_of_a_modality_has_annotations_of_the_same_name(clean_release, tmp_path):
    zips = {}
    for modality, (images, said) in zip(("RGB", "SAR"), by_modality(clean_release["SEN1-2"]), strict=True):
        zips[f"SEN1-2_{modality}.zip"] = releases.zipped({**images, "annotations.json": said})
    result = convert(releases.put(tmp_path / "MMM-RS", zips), tmp_path / "out")
    assert result.reported == 0
    assert result.manifest["subsets"]["SEN1-2"]["pairs"] == {"rgb": 4, "nir": 0, "sar": 4}
    rows = pq.read_table(tmp_path / "out/index/SEN1-2.parquet").to_pylist()
    assert all(row[PROMPT_COLUMNS["rgb"]] != row[PROMPT_COLUMNS["sar"]] for row in rows)


@pytest.mark.parametrize("damage", [lambda said: b"<html>", lambda said: said[:3]], ids=["no JSON", "cut"])
def test_radar_images_have_no_optical_prompt_where_their_own_are_unreadable(damage, clean_release, tmp_path):
    (optical, said), (radar, theirs) = by_modality(clean_release["SEN1-2"])
    files = {**optical, **radar, "MMM-RS_SEN1-2_RGB.json": said, "MMM-RS_SEN1-2_SAR.json": damage(theirs)}
    result = convert(releases.put(tmp_path / "MMM-RS", {"SEN1-2.zip": releases.zipped(files)}), tmp_path / "out")
    assert result.manifest["subsets"]["SEN1-2"]["pairs"] == {"rgb": 4, "nir": 0, "sar": 0}
    assert result.summary["subsets"]["SEN1-2"]["reasons"]["image"] == {"no_record": 4}


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


# --- what lies where it should not -----------------------------------------------------------------------------------


def test_the_annotations_of_a_second_download_serve_where_the_first_is_damaged(clean_release, tmp_path):
    inria = clean_release["Inria"]
    whole = releases.zipped(inria.files)
    path = releases.put(tmp_path / "MMM-RS", {"Inria.zip": whole, "Inria_new.zip": whole})
    data = bytearray(whole)
    data[data.index(inria.files["MMM-RS_Inria.json"]) + 9] ^= 1
    (path / "Inria.zip").write_bytes(data)
    assert convert(path, tmp_path / "out").summary["subsets"]["Inria"]["records"]["used"] == 5


def test_a_release_that_has_more_than_was_converted_is_not_verified(clean_release, tmp_path):
    inria = clean_release["Inria"]
    name, *_ = inria.images
    less = {path: data for path, data in inria.files.items() if path != name}
    convert(releases.put(tmp_path / "less", {"Inria.zip": releases.zipped(less)}), tmp_path / "out")
    assert verify(tmp_path / "out", tmp_path / "less").compared == 4
    more = releases.zips_stored([inria], tmp_path / "more")
    with pytest.raises(VerificationError, match=f"{name}: .* 1 in the release .* neither published nor in the report"):
        verify(tmp_path / "out", more)


def test_a_mistyped_release_is_told_before_the_shards_are_read(reference, tmp_path):
    told = []
    with pytest.raises(UsageError, match="no such file or folder"):
        verify(reference, tmp_path / "nothing", progress=lambda *progress: told.append(progress))
    assert told == []
