"""A wrong word gets the right one suggested, and a dataset is understood in every form in which people name it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import mmm_rs
import mmm_rs_loader
from mmm_rs_cli import arguments, cli, commands
from tests import converted

PAGE = "https://huggingface.co/datasets/org/MMM-RS"


@pytest.fixture(scope="module")
def out(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("suggestions") / "out"
    converted.write(folder)
    return folder


@pytest.mark.parametrize(
    ("word", "meant"),
    [
        ("sen1-2", "SEN1-2"),
        ("SEN12", "SEN1-2"),
        ("sen12ms", "SEN1-2"),
        ("whu_opt_sar", "WHU-OPT-SAR"),
        ("whu", "WHU-OPT-SAR"),
        ("MRSSC", "MRSSC2.0"),
        ("MRSSC2_0", "MRSSC2.0"),
        ("inria2", "Inria"),
        ("fmow", "fMoW"),
        ("wether", "weather"),
    ],
)
def test_a_subset_is_suggested(word, meant):
    with pytest.raises(ValueError, match=f"{word}.*no such subset. Did you mean {re.escape(meant)}\\? The configs are"):
        mmm_rs.subset_names(word)


@pytest.mark.parametrize("word", ["", "Berlin", "一", "x", None, 7, "../../etc/passwd"])
def test_nothing_is_suggested_for_a_word_like_no_other(word):
    with pytest.raises(ValueError, match=r"no such subset\. The configs are"):
        mmm_rs.subset_names(word)


@pytest.mark.parametrize(
    ("options", "hint"),
    [
        ({"filters": [("gsd_levl", "==", "low")]}, "Did you mean gsd_level?"),
        ({"filters": [("Category", "==", "city")]}, "Did you mean category?"),
        ({"filters": [("gsd_level", "==", "ultra-high")]}, "Did you mean ultra_high?"),
        ({"filters": [("weather", "in", ["foggy"])]}, "Did you mean fog?"),
        ({"filters": [("subset", "==", "SEN12")]}, "Did you mean SEN1-2?"),
        ({"modalities": ["RGB"]}, "Did you mean rgb?"),
    ],
)
def test_columns_labels_and_modalities_are_suggested(out, options, hint):
    with pytest.raises(ValueError, match=re.escape(hint)):
        mmm_rs.load_dataset("SEN1-2", out, streaming=True, **options)


def test_a_key_is_suggested(out):
    with pytest.raises(KeyError, match="Similar: SEN1-2/ROIs1158_spring_1_p1"):
        mmm_rs.get(out, "SEN1-2/ROIs1158_sprng_1_p1")
    with pytest.raises(KeyError, match="Keys are `<Subset>/<path>`"):
        mmm_rs.get(out, "no/such/key")


def test_swapped_arguments_are_recognised(out):
    for place in (out, str(out), PAGE):
        with pytest.raises(ValueError, match=re.escape(f"the config comes first: load_dataset('SEN1-2', {place!r})")):
            mmm_rs.load_dataset(place, "SEN1-2")
    with pytest.raises(ValueError, match=re.escape(f"the config comes first: batches('SEN1-2', {str(out)!r})")):
        mmm_rs_loader.batches(str(out), "SEN1-2", 4)
    with pytest.raises(ValueError, match=re.escape(f"the config comes first: webdataset('SEN1-2', {str(out)!r})")):
        mmm_rs.webdataset(str(out), "SEN1-2")
    key = "SEN1-2/ROIs1158_spring_1_p1"
    with pytest.raises(ValueError, match=re.escape(f"the dataset comes first: get({str(out)!r}, {key!r})")):
        mmm_rs.get(key, str(out))


def test_swapped_folders_of_a_conversion_are_recognised(out, run, tmp_path):
    code, _, errors = run("convert", out, tmp_path / "release")
    assert code == 2 and len(errors) == 1
    assert f"{out}: this is a converted folder. Is the order swapped?" in errors[0]
    assert not (tmp_path / "release/manifest.json").exists()


@pytest.mark.parametrize("config", [["SEN1-2", "Inria"], ("SEN1-2",), {"SEN1-2"}])
def test_several_configs_at_once_are_refused_with_the_ways_to_read_them(out, config):
    for read in (mmm_rs.load_dataset, mmm_rs_loader.batches, mmm_rs.webdataset):
        with pytest.raises(ValueError, match=r"give one config at a time.*datasets\.interleave_datasets"):
            read(config, out)


@pytest.mark.parametrize("part", ["data", "data/", "data/SEN1-2", "index"])
def test_for_a_part_of_a_converted_folder_the_whole_is_suggested(out, part):
    with pytest.raises(mmm_rs.ReadError) as error:
        mmm_rs.load_dataset("SEN1-2", f"{out}/{part}", streaming=True)
    assert str(error.value).endswith(f"is a part of a converted folder. Give the folder above: {out}")


def test_an_option_of_another_command_is_not_suggested_as_what_it_is(capsys):
    with pytest.raises(SystemExit):
        cli.main(["inspect", "release", "--subset", "GID"])
    error = capsys.readouterr().err
    assert "unrecognized arguments: --subset GID" in error and "Did you mean" not in error


# --- where a dataset is ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("place", "address"),
    [
        ("org/MMM-RS", "hf://datasets/org/MMM-RS"),
        ("org/MMM-RS@v1.0", "hf://datasets/org/MMM-RS@v1.0"),
        ("hf://datasets/org/MMM-RS", "hf://datasets/org/MMM-RS"),
        (PAGE, "hf://datasets/org/MMM-RS"),
        (f"{PAGE}/", "hf://datasets/org/MMM-RS"),
        (f"{PAGE}/tree/main", "hf://datasets/org/MMM-RS@main"),
        (f"{PAGE}?library=datasets#usage", "hf://datasets/org/MMM-RS"),
        ("https://hf.co/datasets/org/MMM-RS", "hf://datasets/org/MMM-RS"),
        ("http://mirror.example/datasets/org/MMM-RS", "hf://datasets/org/MMM-RS"),  # of HF_ENDPOINT
        (f"{PAGE}/resolve/main", f"{PAGE}/resolve/main"),  # a folder to be read over HTTP
        ("https://elsewhere.example/datasets/org/MMM-RS", "https://elsewhere.example/datasets/org/MMM-RS"),
        ("./org/MMM-RS", "./org/MMM-RS"),
        ("/data/MMM-RS", "/data/MMM-RS"),
        ("MMM-RS-hub", "MMM-RS-hub"),
        ("a/b/c", "a/b/c"),
        ("..", ".."),
        ("../MMM-RS", "../MMM-RS"),
        ("s3://bucket/MMM-RS", "s3://bucket/MMM-RS"),
    ],
)
def test_a_dataset_is_found_by_whatever_people_call_it(place, address, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_ENDPOINT", "http://mirror.example/")
    assert mmm_rs.dataset_address(place) == address


@pytest.mark.parametrize(
    "place", ["org/MMM-RS", "hf://datasets/org/MMM-RS", "https://huggingface.co/datasets/org/MMM-RS"]
)
@pytest.mark.parametrize(("revision", "quoted"), [("v1", "v1"), ("0a1b2c", "0a1b2c"), ("refs/pr/3", "refs%2Fpr%2F3")])
def test_a_revision_goes_with_whatever_people_call_it(place, revision, quoted):
    assert mmm_rs.dataset_address(place, revision) == f"hf://datasets/org/MMM-RS@{quoted}"


def test_a_revision_within_a_repository_keeps_the_folder():
    assert mmm_rs.dataset_address("hf://datasets/org/MMM-RS/part", "v1") == "hf://datasets/org/MMM-RS@v1/part"


@pytest.mark.parametrize(
    "read",
    [
        lambda place: mmm_rs.load_dataset("SEN1-2", place, revision="v1"),
        lambda place: mmm_rs.get(place, "SEN1-2/x", revision="v1"),
        lambda place: mmm_rs.info(place, revision="v1"),
        lambda place: mmm_rs.webdataset("SEN1-2", place, revision="v1"),
        lambda place: mmm_rs_loader.batches("SEN1-2", place, revision="v1"),
    ],
)
@pytest.mark.parametrize(
    ("place", "reason"),
    [("./here", "is not there. Give org/MMM-RS"), ("hf://datasets/org/MMM-RS@v2", "names a revision already")],
)
def test_a_revision_that_makes_no_sense_is_refused(read, place, reason):
    with pytest.raises(ValueError, match=reason):
        read(place)


def test_a_folder_comes_before_the_hub(monkeypatch, tmp_path):
    (tmp_path / "org").mkdir()
    monkeypatch.chdir(tmp_path)
    assert mmm_rs.dataset_address("org/MMM-RS") == "org/MMM-RS"
    with pytest.raises(mmm_rs.ReadError, match="no such file or folder"):
        mmm_rs.load_dataset("SEN1-2", "org/MMM-RS", streaming=True)


@pytest.mark.parametrize("word", ["org/MMM-RS", "hf://datasets/org/MMM-RS", PAGE])
def test_a_repository_to_write_to_is_understood_too(word):
    words = arguments.parser().parse_args(["upload", "out", word])
    assert commands._destination(words).repo_id == "org/MMM-RS"


# --- on the command line ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "hint"),
    [
        (["convrt"], "Did you mean convert?"),
        (["verfy", "out"], "Did you mean verify?"),
        (["convert", "release", "out", "--sheed", "7"], "Did you mean --seed?"),
        (["convert", "release", "out", "--annotation-dir", "x"], "Did you mean --annotations?"),
        (["inspect", "release", "--decode", "ful"], "Did you mean full?"),
        (["report", "out", "--subset", "SEN12"], "Did you mean SEN1-2?"),
    ],
)
def test_commands_options_and_choices_are_suggested(words, hint, capsys):
    with pytest.raises(SystemExit) as end:
        cli.main(words)
    errors = [line for line in capsys.readouterr().err.splitlines() if line.startswith("mmm-rs")]
    assert end.value.code == 2 and len(errors) == 1 and hint in errors[0]


@pytest.mark.parametrize(
    ("words", "hint"),
    [
        (["preview", "{out}", "--config", "sen12"], "Did you mean SEN1-2?"),
        (["report", "{out}", "--reason", "no_imge"], "Did you mean no_image?"),
        (["show", "{out}", "SEN1-2/ROIs1158_sprng_1_p1"], "Similar: SEN1-2/ROIs1158_spring_1_p1"),
    ],
)
def test_what_a_folder_holds_is_suggested(out, run, words, hint):
    code, printed, errors = run(*(word.format(out=out) for word in words))
    assert (code, printed, len(errors)) == (2, "", 1) and hint in errors[0]
