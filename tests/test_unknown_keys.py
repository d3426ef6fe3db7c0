"""Annotation files whose keys are not known: what `inspect` and `convert` show, and the command that they suggest."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from tests import releases

PATHS = [f"Inria_dataset/crop_512_{number}_0_austin.jpg" for number in range(5)]
ROWS = [
    {"bild": path, "nummer": number, "quelle": "https://example.org/" + "x" * 200, "beschreibung": f"a city {number}"}
    for number, path in enumerate(PATHS)
]
FORMS = {
    "array": json.dumps(ROWS),
    "lines": "\n".join(map(json.dumps, ROWS)),
    "wrapped": json.dumps({"info": {"year": 2024}, "daten": ROWS}),
    "wrapped deeper": json.dumps({"a": {"daten": ROWS}, "b": [1]}),
    "table by number": json.dumps({str(number): row for number, row in enumerate(ROWS)}),
    "absolute paths": json.dumps([{**row, "bild": f"C:\\x\\{row['bild'][:-3]}png"} for row in ROWS]),
}
TABLE = {path: {"satz": f"a city {number}", "jahr": "2024"} for number, path in enumerate(PATHS)}


def release(folder: Path, text: str, subset: str = "Inria", paths: list[str] = PATHS) -> Path:
    files = {f"MMM-RS_{subset}.json": text.encode(), **{path: releases.picture(path) for path in paths}}
    return releases.put(folder, {f"{subset}.zip": releases.zipped(files)})


def suggested(lines: list[str]) -> list[str]:
    """The words of the command that is suggested, without `mmm-rs`."""
    (line,) = [line for line in lines if line.startswith("Run: mmm-rs ")]
    return shlex.split(line)[2:]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("command", ["inspect", "convert"])
def test_the_keys_a_record_a_guess_three_matches_and_the_command_are_shown(command, form, tmp_path, run):
    path, out = release(tmp_path / "MMM-RS", FORMS[form]), tmp_path / "out"
    words = (command, path) if command == "inspect" else (command, path, out, "--workers", 1)
    code, printed, errors = run(*words)
    shown = printed if command == "inspect" else "\n".join(errors)
    assert code == 4
    assert "no known key names the image path or the prompt; its records have 'bild', 'nummer', 'quelle'" in shown
    assert json.dumps(json.loads(FORMS["lines"].split("\n")[0]))[:40].replace(PATHS[0], "")[:9] in shown
    assert '"nummer": 0' in shown and f'"beschreibung": "{ROWS[0]["beschreibung"]}"' in shown
    assert shown.count(" -> Inria_dataset/crop_512_") == 3
    assert "'bild', which names images of the release" in shown
    assert "'beschreibung', the longest text: a city 0" in shown
    assert "ownload" not in shown

    assert suggested(errors)[-4:] == ["--image-key", "bild", "--prompt-key", "beschreibung"]
    code, printed, _ = run(*suggested(errors))
    assert code == 0
    if command == "convert":
        rows = pq.read_table(out / "index/Inria.parquet").to_pylist()
        assert sorted(row["prompt"] for row in rows) == [row["beschreibung"] for row in ROWS]
    else:
        assert "5 samples" in printed


def test_of_a_table_keyed_by_path_only_the_prompt_is_guessed(tmp_path, run):
    code, printed, errors = run("inspect", release(tmp_path / "MMM-RS", json.dumps(TABLE)))
    assert code == 4 and "no known key names the prompt; its records have 'satz', 'jahr'" in printed
    assert suggested(errors)[-2:] == ["--prompt-key", "satz"] and "--image-key" not in printed
    assert "the key of the table, which names images of the release" in printed and printed.count(" -> ") == 3
    assert run(*suggested(errors))[0] == 0


def test_of_records_whose_image_key_is_known_only_the_prompt_is_guessed(tmp_path, run):
    rows = [{"image": path, "jahr": 2024, "satz": "a city"} for path in PATHS]
    _, printed, errors = run("inspect", release(tmp_path / "MMM-RS", json.dumps(rows)))
    assert suggested(errors)[-2:] == ["--prompt-key", "satz"] and "--image-key" not in printed
    assert "its image path is 'image', which names images of the release" in printed and printed.count(" -> ") == 3


def test_images_of_an_aligned_subset_are_matched_by_their_tokens(tmp_path, run):
    paths = [f"SEN1-2_RGB/ROIs1158_spring_s2_1_p{number}.jpg" for number in range(3)]
    rows = [{"datei": path.rsplit("/", 1)[1], "ort": "Rome.jpg", "satz": "a field"} for path in paths]
    _, printed, errors = run("inspect", release(tmp_path / "MMM-RS", json.dumps(rows), "SEN1-2", paths))
    assert suggested(errors)[-4:] == ["--image-key", "datei", "--prompt-key", "satz"]
    assert "ROIs1158_spring_s2_1_p2.jpg -> SEN1-2_RGB/ROIs1158_spring_s2_1_p2.jpg" in printed


def test_a_key_called_error_does_not_make_a_record_the_message_of_a_server(tmp_path, run):
    rows = [{"bild": path, "satz": "a city", "error": None} for path in PATHS]
    _, _, errors = run("inspect", release(tmp_path / "MMM-RS", json.dumps(rows)))
    assert suggested(errors)[-4:] == ["--image-key", "bild", "--prompt-key", "satz"]


def test_where_no_image_fits_the_guess_says_so(tmp_path, run):
    rows = [{"bild": "elsewhere.jpg", "satz": "a field"}]
    _, printed, _ = run("inspect", release(tmp_path / "MMM-RS", json.dumps(rows)))
    assert "'bild', which looks like a path, though no image of Inria fits it" in printed


def test_without_a_guess_the_options_are_named(tmp_path, run):
    code, printed, errors = run("inspect", release(tmp_path / "MMM-RS", json.dumps([{"a": 1, "b": [2]}])))
    assert (
        code == 4 and "Name the keys with --image-key and --prompt-key" in printed and '{"a": 1, "b": [2]}' in printed
    )
    assert errors == [f"mmm-rs: {tmp_path / 'MMM-RS'}: nothing in it can be converted"]


@pytest.mark.parametrize("command", ["inspect", "convert"])
def test_a_mistyped_key_is_told_and_replaced_in_the_command(command, tmp_path, run):
    words = [
        command,
        release(tmp_path / "MMM-RS", FORMS["array"]),
        *([tmp_path / "out"] if command == "convert" else []),
    ]
    code, printed, errors = run(*words, "--image-key", "bidl", "--prompt-key=beschreibun")
    shown = printed + "\n".join(errors)
    assert code == 4
    assert "no record has the key 'bidl'. Did you mean bild?" in shown
    assert "no record has the key 'beschreibun'. Did you mean beschreibung?" in shown
    assert suggested(errors) == [*map(str, words), "--image-key", "bild", "--prompt-key", "beschreibung"]


@pytest.mark.parametrize("command", ["inspect", "convert"])
def test_a_mistyped_key_is_told_where_known_keys_are_used_instead(command, tmp_path, run):
    rows = [{"image": path, "prompt": "a city"} for path in PATHS]
    path = release(tmp_path / "MMM-RS", json.dumps(rows))
    words = [command, path, *([tmp_path / "out"] if command == "convert" else [])]
    code, printed, errors = run(*words, "--image-key", "imgae")
    assert code == 0 and "no record has the key 'imgae'. Did you mean image?" in printed + "\n".join(errors)


def test_inspect_ends_with_4_if_nothing_can_be_converted_and_its_json_is_whole(tmp_path, run):
    path = release(tmp_path / "MMM-RS", FORMS["array"])
    code, printed, _ = run("inspect", path, "--json")
    (problem,) = json.loads(printed)["problems"]
    assert code == 4
    assert problem["options"] == ["--image-key", "bild", "--prompt-key", "beschreibung"]
    assert run("inspect", path, "--keep-unprompted")[0] == 0


def test_beside_what_can_be_converted_the_command_says_overwrite(tmp_path, run):
    release(tmp_path / "MMM-RS", FORMS["array"])
    other = ["HRSC2016_dataset/1.jpg"]
    release(tmp_path / "MMM-RS", json.dumps([{"image": other[0], "prompt": "a ship"}]), "HRSC2016", other)
    code, printed, _ = run("inspect", tmp_path / "MMM-RS")
    assert code == 0
    (line,) = [line for line in printed.splitlines() if line.startswith("  mmm-rs inspect ")]
    assert run(*shlex.split(line)[1:])[0] == 0

    code, printed, _ = run("convert", tmp_path / "MMM-RS", tmp_path / "out", "--workers", 1)
    assert code == 3 and "'bild', which names images of the release" in printed
    (line,) = [line for line in printed.splitlines() if line.startswith("  mmm-rs convert ")]
    _, shown, _ = run("report", tmp_path / "out")
    assert "'bild', which names images of the release" in shown and shown.count(" -> ") == 3
    assert shlex.split(line)[-5:] == ["--overwrite", "--image-key", "bild", "--prompt-key", "beschreibung"]
    code, printed, _ = run(*shlex.split(line)[1:])
    assert code == 0 and "mmm-rs convert" not in printed
    assert run("verify", tmp_path / "out")[0] == 0


@pytest.mark.parametrize(
    "text",
    [
        b'[{"bi\xffld": "Inria_dataset/crop_512_0_0_austin.jpg", "satz": "a c\xffty"}, {"\xe4": "\xff"}]',
        b'[{"bild": "Inria_dataset/crop_512_0_0_austin.jpg", "satz": "\\ud83d"}]',
        b'[{"bild": "\\u001b[31m", "satz": "\\u0000\\u202e"}]',
        b'[{"": "", " ": "x", "--help": "a city"}]',
        b'{"a": {"b": {"c": {"d": {"e": {"f": "x"}}}}}}',
        b"[{}]",
    ],
)
@pytest.mark.parametrize("command", ["inspect", "convert"])
def test_damaged_and_hostile_records_end_in_a_message(command, text, tmp_path, run):
    files = {"MMM-RS_Inria.json": text, **{path: releases.picture(path) for path in PATHS}}
    path = releases.put(tmp_path / "MMM-RS", {"Inria.zip": releases.zipped(files)})
    code, printed, errors = run(command, path, *([tmp_path / "out"] if command == "convert" else []))
    shown = printed + "\n".join(errors)
    assert code == 4 and "none of its records is used" in shown
    assert "\x1b[31m" not in shown and "\u202e" not in shown
