"""A conversion as a whole: run again, interrupted, added to, with other options, into a folder that holds files."""

import shutil

import pytest

from conversion.disk import RESERVE
from conversion.errors import OutputError, ReleaseError, UsageError
from conversion.findings import REMEDIES
from conversion.inspection import inspect
from conversion.options import Options
from conversion.shards import read_marker
from dataset_card.card import write_own
from tests import releases
from tests.conversions import convert
from tests.outputs import tree


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


def test_missing_and_unknown_subsets_are_named(clean_release, tmp_path):
    path = releases.zips_stored([clean_release["GID"]], tmp_path / "release")
    with pytest.raises(ReleaseError, match="Inria"):
        convert(path, tmp_path / "out", subsets=["Inria"])
    with pytest.raises(UsageError, match="NoSuch"):
        convert(path, tmp_path / "out", subsets=["NoSuch"])
    with pytest.raises(ReleaseError):
        convert(releases.put(tmp_path / "empty", {"notes.txt": b"x"}), tmp_path / "out2")


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


def test_where_no_record_fits_an_image_the_error_shows_the_reasons_and_their_remedies(tmp_path):
    files = {"MMM-RS_GID.json": b'[{"image": "elsewhere.jpg", "prompt": "a field"}]', "a.jpg": releases.picture("a")}
    path = releases.put(tmp_path / "MMM-RS", {"GID.zip": releases.zipped(files)})
    with pytest.raises(ReleaseError) as caught:
        convert(path, tmp_path / "out", workers=1)
    first, *rest = caught.value.lines
    assert first.startswith(f"{path}: none of its images can be published")
    assert [line.split(". ", 1) for line in rest] == [
        ["1 image, no_record: no usable record names it", REMEDIES["no_record"]],
        ["1 record, no_image: no image of the release fits its path", REMEDIES["no_image"]],
    ]


def test_a_report_that_no_conversion_stands_behind_is_not_carried_on(clean_release, tmp_path):
    releases.put(tmp_path / "bad/HRSC2016", {"HRSC2016_dataset/a.jpg": b"text"})
    with pytest.raises(ReleaseError, match="none of its images can be published"):
        convert(tmp_path / "bad", tmp_path / "out")
    inria = releases.single_zip(clean_release["Inria"], tmp_path / "zip")
    convert(inria, tmp_path / "out")
    convert(inria, tmp_path / "again")
    assert tree(tmp_path / "out") == tree(tmp_path / "again")


def test_the_disk_needed_counts_all_inner_zips_of_a_subset(clean_release, tmp_path):
    subset = clean_release["GID"]
    inner = [releases.zipped({name: data}) for name, data in sorted(subset.files.items())]
    files = {f"MMM-RS/GID ({number}).zip": data for number, data in enumerate(inner)}
    path = releases.put(tmp_path, {"MMM-RS.zip": releases.zipped(files, releases.DEFLATED)}) / "MMM-RS.zip"
    plan = inspect(path)["plan"]
    assert len(inner) > 1 and plan["disk_needed"] == plan["bytes"] + sum(map(len, inner)) + RESERVE


# --- files that are in OUT already, and files that went ------------------------------------------------------------


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
