"""The exit codes that `mmm-rs --help` documents, each brought about. Bad input gives one line, never a traceback."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pyarrow.parquet as pq
import pytest

import mmm_rs
from conversion.errors import REPORTED, MMMRSError, OutputError, ReleaseError, UsageError, VerificationError
from mmm_rs_cli import cli
from tests import releases, stopping

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def clean(tmp_path_factory):
    return releases.zips_stored([releases.small(unmatched=False)[6]], tmp_path_factory.mktemp("clean"))  # GID


@pytest.fixture(scope="module")
def unmatched(tmp_path_factory):
    return releases.zips_stored([releases.small()[6]], tmp_path_factory.mktemp("unmatched"))


@pytest.fixture
def run(capsys):
    """Run a command: (its exit code, what it printed, its lines of error)."""

    def command(*arguments) -> tuple[int, str, list[str]]:
        try:
            code = cli.main([str(argument) for argument in arguments])
        except SystemExit as end:  # argparse
            code = end.code
        printed = capsys.readouterr()
        return code, printed.out, [line for line in printed.err.splitlines() if line.startswith("mmm-rs")]

    return command


def test_the_help_documents_every_code(run):
    for command in ([], ["convert"], ["verify"], ["inspect"]):
        code, out, _ = run(*command, "--help")
        assert code == 0
        listed = out[out.index("exit codes") :]
        for number in (0, 1, 2, 3, 4, 5, 6, 130, 143):
            assert f"{number}" in listed
    errors = (MMMRSError, UsageError, ReleaseError, OutputError, VerificationError)
    assert [error.exit_code for error in errors] == [1, 2, 4, 5, 6]
    assert REPORTED == 3


def test_the_version_is_that_of_the_package(run):
    assert run("--version") == (0, f"mmm-rs {metadata.version('mmm-rs')}\n", [])


def test_0_complete(run, clean, tmp_path):
    for words in ("", ". It was converted before: nothing to do"):
        code, out, errors = run("convert", clean, tmp_path / "out", "--quiet")
        assert (code, errors) == (0, [])
        assert out.splitlines()[0] == f"{tmp_path / 'out'}: complete for 1 of 10 subsets{words}"
    assert run("verify", tmp_path / "out", "--release", clean)[0] == 0
    assert run("inspect", clean)[0] == 0
    assert run("convert", clean, tmp_path / "out", "--quiet", "--strict")[0] == 0


def test_3_complete_with_something_reported(run, unmatched, tmp_path):
    for _ in range(2):  # when it is complete already too
        code, out, errors = run("convert", unmatched, tmp_path / "out", "--quiet")
        assert (code, errors) == (3, [])
        assert "1 reported" in out
    assert run("verify", tmp_path / "out")[0] == 0


def test_strict_fails_on_anything_reported(run, unmatched, tmp_path):
    for _ in range(2):
        code, _, errors = run("convert", unmatched, tmp_path / "out", "--quiet", "--strict")
        assert code == 6
        assert len(errors) == 1 and "something was left out and --strict was given. `mmm-rs report" in errors[0]


def with_a_broken_archive(folder):
    path = releases.zips_stored(releases.small(unmatched=False)[5:7], folder)
    releases.truncate(path / "GID.zip")
    return path


def with_a_broken_annotation(folder):
    subset = releases.small(unmatched=False)[6]
    return releases.zips_stored([subset.with_files(**{"more.json": b"what is this"})], folder)


def with_an_image_of_no_subset(folder):
    path = releases.zips_stored([releases.small(unmatched=False)[6]], folder)
    releases.put(path, {"holiday.jpg": releases.picture("holiday")})
    return path


def with_an_image_twice(folder):
    subset = releases.small(unmatched=False)[6]
    path = next(iter(subset.images))
    again = releases.zipped({path: subset.files[path]})
    return releases.put(releases.zips_stored([subset], folder), {"GID (1).zip": again})


@pytest.mark.parametrize(
    "make", [with_a_broken_archive, with_a_broken_annotation, with_an_image_of_no_subset, with_an_image_twice]
)
def test_whatever_is_reported_counts(make, run, tmp_path):
    path = make(tmp_path / "release")
    assert run("convert", path, tmp_path / "out", "--quiet")[0] == 3
    assert run("convert", path, tmp_path / "out", "--quiet", "--strict")[0] == 6


def test_the_summary_tells_what_the_folder_lacks(run, tmp_path):
    path = with_an_image_of_no_subset(tmp_path / "release")
    _, printed, _ = run("convert", path, tmp_path / "out", "--quiet")
    lines = printed.splitlines()
    absent = [name for name in mmm_rs.SUBSETS if f"{name} " not in printed]
    assert len(absent) == 9 and f"not in this folder: {', '.join(absent)}" in lines
    assert "images of no subset: 1" in lines


BAD_USAGE = {
    "no command": [],
    "no such command": ["convrt"],
    "no output": ["convert", "RELEASE"],
    "no such release": ["convert", "RELEASE/nothing", "OUT"],
    "no such subset": ["convert", "RELEASE", "OUT", "--subset", "inria2"],
    "a size that is none": ["convert", "RELEASE", "OUT", "--shard-size", "much"],
    "a size of nothing": ["convert", "RELEASE", "OUT", "--shard-size", "0"],
    "a size without its unit": ["convert", "RELEASE", "OUT", "--shard-size", "5"],
    "a size without its unit to inspect": ["inspect", "RELEASE", "--shard-size", "512"],
    "a size without its unit to export": ["export", "RELEASE", "OUT", "--to", "parquet", "--shard-size", "5"],
    "workers": ["convert", "RELEASE", "OUT", "--workers", "0"],
    "a share that is none": ["convert", "RELEASE", "OUT", "--validation", "1"],
    "a size of nothing to inspect": ["inspect", "RELEASE", "--shard-size", "0"],
    "a share that is none to inspect": ["inspect", "RELEASE", "--validation", "7"],
    "a seed too long": ["convert", "RELEASE", "OUT", "--seed", "1" * 65],
    "no share at all": ["convert", "RELEASE", "OUT", "--validation", "nan"],
    "a name that cannot be loaded": ["convert", "RELEASE", "OUT/mmm_rs"],
    "no such annotations": ["convert", "RELEASE", "OUT", "--annotations", "RELEASE/nothing"],
    "deep on a folder": ["verify", "OUT", "--deep"],
    "nothing to inspect": ["inspect", "RELEASE/nothing"],
    "an output that no file system takes": ["convert", "RELEASE", "a" * 300],
    "a release that no file system takes": ["inspect", "RELEASE/" + "a" * 300],
    "an output that pyarrow does not open": ["convert", "RELEASE", "OUT/\udcff"],
    "a folder that pyarrow does not open": ["verify", "OUT/\udcff"],
    "a key that is no text": ["convert", "RELEASE", "OUT", "--prompt-key", "\udcff"],
}


@pytest.mark.parametrize("what", BAD_USAGE)
def test_2_bad_usage(what, run, clean, tmp_path):
    names = {"RELEASE": str(clean), "OUT": str(tmp_path / "out")}
    arguments = []
    for word in BAD_USAGE[what]:
        first, slash, rest = word.partition("/")
        arguments.append(names.get(first, first) + slash + rest)
    code, out, errors = run(*arguments)
    assert code == 2
    assert out == "" and len(errors) == 1
    assert not (tmp_path / "out").exists()


def test_2_links_that_lead_in_a_circle(run, clean, tmp_path):
    for link, target in (("a", "b"), ("b", "a")):
        (tmp_path / link).symlink_to(tmp_path / target)
    for words in (["convert", clean, tmp_path / "a"], ["inspect", tmp_path / "a"], ["verify", tmp_path / "a"]):
        code, out, errors = run(*words)
        assert (code, out, len(errors)) == (2, "", 1) and str(tmp_path / "a") in errors[0]


def test_2_the_current_folder_was_removed(run, clean, tmp_path, monkeypatch):
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    code, out, errors = run("convert", clean, "out")
    assert (code, out, len(errors)) == (2, "", 1) and "the current folder was removed" in errors[0]


def test_a_release_whose_folder_has_a_name_of_no_encoding(run, tmp_path):
    """As a zip of other times leaves it: a stray image in it is named in the report."""
    subset = releases.small(unmatched=False)[6]
    path = releases.zips_stored([subset], tmp_path).rename(tmp_path / "\udcce\udcd2")
    (path / "stray.jpg").write_bytes(next(iter(subset.images.values())))
    assert run("convert", path, tmp_path / "out", "--quiet")[0] == 3
    assert run("verify", tmp_path / "out", "--release", path)[0] == 0
    rows = pq.read_table(tmp_path / "out/report/unpublished.parquet").to_pylist()
    assert [row["path"] for row in rows] == [r"\xce\xd2/stray.jpg"]


def test_2_other_options_than_those_of_the_output(run, clean, tmp_path):
    assert run("convert", clean, tmp_path / "out", "--quiet")[0] == 0
    code, _, errors = run("convert", clean, tmp_path / "out", "--quiet", "--seed", "7")
    assert code == 2 and "seed was 0, now 7" in errors[0]
    assert run("convert", clean, tmp_path / "out", "--quiet", "--seed", "7", "--overwrite")[0] == 0


@pytest.mark.parametrize("given", ["0", "5", "3999", "3.9kB"])
def test_2_a_shard_size_that_no_sample_fits_into_says_the_least_and_why(given, run, clean, tmp_path):
    for words in (
        ["convert", clean, tmp_path / "out"],
        ["inspect", clean],
        ["export", clean, tmp_path / "out", "--to", "parquet"],
    ):
        code, _, (error,) = run(*words, "--shard-size", given)
        assert code == 2 and "is too small: a shard holds at least one sample, which takes 4.0 kB or more" in error
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("damage", releases.BROKEN_ARCHIVES)
@pytest.mark.parametrize("command", ["convert", "inspect"])
def test_4_a_release_that_cannot_be_used(damage, command, run, tmp_path):
    path = releases.zips_stored([releases.small()[6]], tmp_path / "release")
    releases.BROKEN_ARCHIVES[damage](path / "GID.zip")
    code, out, errors = run(command, path, *([tmp_path / "out"] if command == "convert" else []))
    if command == "inspect":  # which shows what is wrong
        assert (code, errors) == (4, [f"mmm-rs: {path}: nothing in it can be converted"])
        assert "Problem: " in out and "GID.z" in out
    else:
        assert (code, out) == (4, "")
        assert len(errors) == 1 and "GID.z" in errors[0]
        assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("what", ["nothing", "no zip"])
def test_4_no_release_at_all(what, run, tmp_path):
    path = releases.put(tmp_path / "release", {"notes.txt": b"x"})
    path = path if what == "nothing" else path / "notes.txt"
    code, _, errors = run("convert", path, tmp_path / "out")
    assert code == 4 and len(errors) == 1 and str(path.name) in errors[0]
    assert run("inspect", path)[0] in (0, 4)


def test_4_a_release_of_which_nothing_can_be_published(run, tmp_path):
    subset = releases.small()[6]
    path = releases.zips_stored([subset.with_files(**{"MMM-RS_GID.json": b"what is this"})], tmp_path / "release")
    code, _, errors = run("convert", path, tmp_path / "out", "--quiet")
    assert code == 4 and len(errors) == 1 and "report/summary.json" in errors[0]
    assert {file.name for file in (tmp_path / "out").iterdir()} == {"report"}
    releases.zips_stored([releases.small(unmatched=False)[6]], tmp_path / "release")
    assert run("convert", path, tmp_path / "out", "--quiet")[0] == 0  # mended


def interrupted_when_gid_is_planned(release, out, notes):
    """Interrupt a conversion again and again, each time a little later, until the plan of GID is there."""
    moment = 0
    while not (out / ".mmm-rs/GID/plan.json").exists():
        moment += 20
        command = ["convert", str(release), str(out), "--quiet"]
        assert stopping.run(command, notes, signal.SIGINT, moment).code == 130


def test_4_a_release_that_changed_since_the_conversion_began(clean, run, tmp_path):
    path = releases.zips_stored(releases.small(unmatched=False)[5:7], tmp_path / "release")
    out = tmp_path / "out"
    interrupted_when_gid_is_planned(path, out, tmp_path / "notes")
    before = (path / "GID.zip").read_bytes()
    changes = {
        "another file": lambda: (path / "GID.zip").write_bytes(releases.zipped(releases.small()[6].files)),
        "another time": lambda: (path / "GID.zip").write_bytes(before),
        "a flipped bit": lambda: releases.flip_bit_of_image(path / "GID.zip", 0),
        "gone": lambda: (path / "GID.zip").unlink(),
    }
    for change in changes.values():
        change()
        code, _, errors = run("convert", path, out, "--quiet")
        assert code == 4 and len(errors) == 1
        assert "GID" in errors[0] and "the release changed since this conversion began" in errors[0]
        assert "--overwrite" in errors[0]
    assert run("convert", path, out, "--quiet", "--overwrite")[0] == 0
    assert not (out / "data/GID").exists()
    assert run("verify", out, "--release", path)[0] == 0


def test_2_an_unfinished_subset_is_not_left_lying(run, tmp_path):
    path = releases.zips_stored(releases.small(unmatched=False)[5:7], tmp_path / "release")
    out = tmp_path / "out"
    interrupted_when_gid_is_planned(path, out, tmp_path / "notes")
    code, _, errors = run("convert", path, out, "--quiet", "--subset", "TGRS-HRRSD")
    assert code == 2 and "an unfinished conversion of GID lies here" in errors[0]
    assert run("convert", path, out, "--quiet", "--subset", "TGRS-HRRSD", "--subset", "GID")[0] == 0
    assert run("verify", out)[0] == 0


def test_5_an_output_that_cannot_be_written(run, clean, tmp_path):
    (tmp_path / "file").write_text("mine")
    code, out, errors = run("convert", clean, tmp_path / "file" / "out", "--quiet")
    assert (code, out) == (5, "")
    assert len(errors) == 1 and str(tmp_path / "file") in errors[0]


def test_6_a_verification_that_fails(run, clean, tmp_path):
    run("convert", clean, tmp_path / "out", "--quiet")
    releases.flip_bit(next(iter(sorted((tmp_path / "out").glob("data/*/*.tar")))), 700)
    code, out, errors = run("verify", tmp_path / "out")
    assert (code, out) == (6, "")
    assert len(errors) == 1 and "sha256" in errors[0]
    assert run("verify", tmp_path)[0] == 6


def test_the_installed_command_ends_with_the_code(clean, tmp_path):
    command = [sys.executable, "-m", "mmm_rs_cli.cli", "convert", str(clean), str(tmp_path / "mmm_rs")]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert ended.returncode == 2
    assert ended.stderr.startswith("mmm-rs: ") and len(ended.stderr.splitlines()) == 1


def test_a_command_leaves_the_signals_of_its_process_as_they_were(run, clean):
    before = signal.getsignal(signal.SIGTERM)
    assert run("inspect", str(clean))[0] == 0
    assert signal.getsignal(signal.SIGTERM) is before


@pytest.mark.parametrize("name", ["GID.zip", "MMM-RS/GID.zip", "MMM-RS-hub/manifest.json", "notes.txt"])
def test_the_demo_does_not_write_into_a_folder_with_files_of_another(run, name, tmp_path):
    path = tmp_path / "folder" / name
    path.parent.mkdir(parents=True)
    path.write_bytes(b"mine")
    code, _, errors = run("demo", tmp_path / "folder")
    assert code == 2 and len(errors) == 1 and "files that the demo did not make" in errors[0]
    assert [file for file in (tmp_path / "folder").rglob("*") if file.is_file()] == [path]


def test_nobody_reads_what_a_conversion_prints(clean, tmp_path):
    """The work is done all the same, and the code is its own; so where standard error is closed."""
    command = f"{sys.executable} -m mmm_rs_cli.cli convert {clean} {tmp_path}/out"
    for end in ("2>&1 | true", "2>&-", "> /dev/full"):
        shutil.rmtree(tmp_path / "out", ignore_errors=True)
        line = f"{command} {end}; exit ${{PIPESTATUS[0]}}"
        done = subprocess.run(["bash", "-c", line], capture_output=True, check=False)
        assert (tmp_path / "out/manifest.json").exists(), end
        assert done.returncode == (5 if "full" in end else 0), done.stderr


@pytest.mark.parametrize("command", ["verify", "upload", "report", "card", "preview", "show"])
def test_2_a_folder_that_is_not_there(command, run, tmp_path):
    more = {"upload": ["org/MMM-RS"], "show": ["GID/a"]}.get(command, [])
    code, _, errors = run(command, tmp_path / "nope", *more)
    assert code == 2 and len(errors) == 1
    assert f"{tmp_path / 'nope'}: no such folder. Give the folder that `mmm-rs convert` wrote" in errors[0]


@pytest.mark.parametrize("words", [["convert", "{clean}", ""], ["inspect", ""], ["verify", ""], ["upload", "", "a/b"]])
def test_2_an_empty_path(words, run, clean, tmp_path, monkeypatch):
    """As from a variable that is not set: it must not mean the current folder."""
    monkeypatch.chdir(tmp_path)
    code, _, errors = run(*(word.format(clean=clean) for word in words))
    assert code == 2 and "the path is empty" in errors[-1]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "words", [["report", ""], ["card", ""], ["convert", "", "out"], ["export", "in", ""], ["show", "in", "--save", ""]]
)
def test_2_an_address_where_only_a_path_will_do(words, run):
    address = "hf://datasets/org/MMM-RS"
    code, _, errors = run(*(word or address for word in words))
    assert code == 2 and f"{address} is an address, and has to be a path of this machine" in errors[-1]


def test_2_an_output_that_is_or_holds_the_release(run, clean, tmp_path, monkeypatch):
    shutil.copytree(clean, tmp_path / "MMM-RS")
    before = sorted(tmp_path.rglob("*"))
    monkeypatch.chdir(tmp_path / "MMM-RS")
    assert run("convert", ".", ".") == (
        2,
        "",
        ["mmm-rs: .: is the release. Choose another output folder; it may be inside the release"],
    )
    assert run("convert", ".", "..")[0] == 2
    assert sorted(tmp_path.rglob("*")) == before


def test_every_command_knows_the_home_folder(run, tmp_path, monkeypatch):
    """Also where the shell leaves the `~`: behind an equals sign, or in quotes."""
    monkeypatch.setenv("HOME", str(tmp_path))
    releases.zips_stored([releases.small(unmatched=False)[3]], tmp_path)  # Inria, in MMM-RS
    assert run("inspect", "~/MMM-RS")[0] == 0
    assert run("convert", "~/MMM-RS", "~/out", "--annotations=~/MMM-RS", "--quiet")[0] == 0
    assert run("verify", "~/out", "--release=~/MMM-RS", "--quiet")[0] == 0
    assert run("preview", "~/out", "--output=~/page.html")[0] == 0
    assert (tmp_path / "page.html").is_file()


def test_4_a_folder_without_anything_of_mmm_rs(run, tmp_path):
    releases.put(tmp_path / "etc", {f"{number}.conf": b"x" for number in range(7)})
    for command in ["inspect", tmp_path / "etc"], ["convert", tmp_path / "etc", tmp_path / "out"]:
        code, out, errors = run(*command)
        assert (code, out, len(errors)) == (4, "", 1)
        assert "nothing of MMM-RS was found here among 7 files, such as etc/0.conf, etc/1.conf" in errors[0]
    assert not (tmp_path / "out").exists()
