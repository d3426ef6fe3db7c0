"""`mmm-rs report` and the summary of `convert`: what was left out, why, and what to do about it."""

from __future__ import annotations

import csv
import io
import json
import shlex
import shutil
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from conversion import findings
from tests import releases


@pytest.fixture(scope="module")
def release(tmp_path_factory):
    return releases.zips_stored(releases.small(), tmp_path_factory.mktemp("release"))


@pytest.fixture(scope="module")
def out(release, tmp_path_factory) -> Path:
    from mmm_rs_cli import cli

    folder = tmp_path_factory.mktemp("converted") / "out"
    assert cli.main(["convert", str(release), str(folder), "--quiet"]) == 3
    return folder


def table(out: Path) -> list[dict]:
    """The rows of the report, read by pyarrow."""
    return pq.read_table(out / "report/unpublished.parquet").to_pylist()


def test_every_row_of_the_report_is_a_line(out, run):
    code, printed, errors = run("report", out)
    assert (code, errors) == (0, [])
    for row in table(out):
        place = f"{row['subset']}/{row['path']}" + ("" if row["position"] is None else f" record {row['position']}")
        assert f"{row['kind']}  {row['reason']}  {place}: {row['detail']}" in printed.splitlines()
    images = sum(row["kind"] == "image" for row in table(out))
    assert (
        printed.splitlines()[0] == f"{out}: complete except for {images} images and {len(table(out)) - images} records"
    )


def test_csv_is_the_table_for_other_programs(out, run):
    _, printed, _ = run("report", out, "--csv")
    read = list(csv.DictReader(io.StringIO(printed)))
    expected = [{name: "" if value is None else str(value) for name, value in row.items()} for row in table(out)]
    assert read == expected and len(read) > 4


def test_json_has_rows_and_reasons(out, run):
    _, printed, _ = run("report", out, "--json")
    report = json.loads(printed)
    assert report["rows"] == table(out)
    counts = {(reason["kind"], reason["reason"]): reason["count"] for reason in report["reasons"]}
    for (kind, reason), count in counts.items():
        assert count == sum(row["kind"] == kind and row["reason"] == reason for row in table(out))
    assert sum(counts.values()) == len(table(out))
    assert all(reason["example"] in table(out) and reason["remedy"] for reason in report["reasons"])
    summary = json.loads((out / "report/summary.json").read_bytes())
    assert report["total"] == summary["total"]


def test_a_record_whose_image_was_withheld_is_referred_to_the_image(tmp_path, run):
    paths = [f"Inria_dataset/{number}.jpg" for number in range(3)]
    records = json.dumps([{"image": path, "prompt": f"place {path}"} for path in paths])
    folder = releases.put(tmp_path / "MMM-RS/Inria", {path: releases.picture(path) for path in paths[:2]})
    (folder / "MMM-RS_Inria.json").write_text(records)
    (tmp_path / "elsewhere.jpg").write_bytes(releases.picture(paths[2]))
    (folder / paths[2]).symlink_to(tmp_path / "elsewhere.jpg")
    assert run("convert", tmp_path / "MMM-RS", tmp_path / "out", "--quiet")[0] == 3
    _, printed, _ = run("report", tmp_path / "out", "--json")
    image, record = json.loads(printed)["rows"]
    assert (image["kind"], image["path"], image["reason"]) == ("image", paths[2], "link")
    assert (record["kind"], record["reason"]) == ("record", "no_image") and paths[2] in record["detail"]
    remedies = {reason["reason"]: reason["remedy"] for reason in json.loads(printed)["reasons"]}
    assert remedies["no_image"].startswith("See whether the report names its image; otherwise")


@pytest.mark.parametrize("form", ["--csv", "--json"])
def test_subset_and_reason_choose_rows(out, run, form):
    def rows(*words) -> list[tuple[str, str]]:
        _, printed, _ = run("report", out, form, *words)
        listing = csv.DictReader(io.StringIO(printed)) if form == "--csv" else json.loads(printed)["rows"]
        return [(row["subset"], row["reason"]) for row in listing]

    every = [(row["subset"], row["reason"]) for row in table(out)]
    assert rows("--subset", "fMoW", "--subset", "GID") == [row for row in every if row[0] in ("fMoW", "GID")]
    assert rows("--reason", "no_image") == [row for row in every if row[1] == "no_image"]
    assert rows("--reason", "no_image", "--subset", "fMoW") == [row for row in every if row == ("fMoW", "no_image")]


def test_a_choice_without_rows_says_so(out, run):
    _, printed, _ = run("report", out, "--reason", "encrypted")
    assert printed == f"{out}: nothing of encrypted was left out\n"


@pytest.mark.parametrize("words", [["--reason", "no_imag"], ["--subset", "fmow"]])
def test_an_unknown_choice_is_one_line(out, words, capsys):
    from mmm_rs_cli import cli

    try:
        code = cli.main(["report", str(out), *words])
    except SystemExit as end:
        code = end.code
    errors = [line for line in capsys.readouterr().err.splitlines() if line.startswith("mmm-rs")]
    assert code == 2 and len(errors) == 1 and words[1] in errors[0]


def test_a_folder_without_a_conversion_is_one_line(run, tmp_path):
    code, printed, errors = run("report", tmp_path)
    assert (code, printed, len(errors)) == (5, "", 1) and "no manifest.json" in errors[0]


def test_sources_stand_in_the_report_too(run, tmp_path):
    path = releases.zips_stored(releases.small(unmatched=False)[5:7], tmp_path / "release")
    releases.truncate(path / "GID.zip")
    run("convert", path, tmp_path / "out", "--quiet")
    _, printed, _ = run("report", tmp_path / "out", "--csv")
    (row,) = csv.DictReader(io.StringIO(printed))
    assert (row["subset"], row["kind"], row["reason"]) == ("GID", "source", "unreadable_archive")
    assert row["path"].endswith("GID.zip") and row["detail"]


def test_every_reason_has_a_meaning_and_a_remedy():
    assert findings.REMEDIES.keys() == findings.REASONS.keys()
    assert findings.PROBLEMS.keys() > findings.DROPPED
    for text in [*findings.REASONS.values(), *findings.REMEDIES.values()]:
        assert text and not text.endswith(".")


HOSTILE = {
    "a list": lambda summary: [summary],
    "no totals": lambda summary: {**summary, "total": {}},
    "a word for a count": lambda summary: {**summary, "unknown": {"images": "many", "annotations": 0}},
    "counts by another name": lambda summary: {**summary, "total": {**summary["total"], "images": {"all": 1}}},
    "reasons in a list": lambda summary: {**summary, "total": {**summary["total"], "reasons": ["no_image"]}},
    "a reason counted in words": lambda summary: {
        **summary,
        "total": {**summary["total"], "reasons": {"image": {"no_record": "two"}, "record": {}}},
    },
    "a source without a path": lambda summary: {**summary, "sources": [{"subset": "GID"}]},
    "a source of numbers": lambda summary: {
        **summary,
        "sources": [dict.fromkeys(("path", "subset", "problem", "detail", "remedy"), 7)],
    },
    "nothing": lambda summary: None,
}


@pytest.mark.parametrize("form", [[], ["--csv"], ["--json"]], ids=["text", "csv", "json"])
@pytest.mark.parametrize("damage", HOSTILE)
def test_a_summary_that_is_none_is_one_line(out, run, tmp_path, damage, form):
    copy = shutil.copytree(out, tmp_path / "out")
    path = copy / "report/summary.json"
    path.write_text(json.dumps(HOSTILE[damage](json.loads(path.read_bytes()))))
    code, printed, errors = run("report", copy, *form)
    assert (code, printed, len(errors)) == (5, "", 1) and str(path) in errors[0] and "--overwrite" in errors[0]


def test_a_summary_that_is_nested_without_end_is_one_line(out, run, tmp_path):
    copy = shutil.copytree(out, tmp_path / "out")
    (copy / "report/summary.json").write_text("[" * 200_000)
    code, printed, errors = run("report", copy)
    assert (code, printed, len(errors)) == (5, "", 1)


@pytest.mark.parametrize("what", ["other types", "a column less", "no Parquet", "gone"])
def test_a_table_that_is_none_is_one_line(out, run, tmp_path, what):
    copy = shutil.copytree(out, tmp_path / "out")
    path = copy / "report/unpublished.parquet"
    rows = pq.read_table(path)
    if what == "other types":
        column = rows.schema.get_field_index("path")
        pq.write_table(rows.set_column(column, "path", pa.array([[b"\xff"]] * rows.num_rows)), path)
    elif what == "a column less":
        pq.write_table(rows.drop_columns(["reason"]), path)
    elif what == "no Parquet":
        path.write_bytes(b"PAR1 no more")
    else:
        path.unlink()
    code, _, errors = run("report", copy)
    assert (code, len(errors)) == (5, 1) and str(path) in errors[0]


# --- the summary of `convert` ----------------------------------------------------------------------------------------


def test_the_summary_explains_the_most_frequent_reasons(release, run, tmp_path):
    code, printed, errors = run("convert", release, tmp_path / "out", "--quiet")
    assert (code, errors) == (3, [])
    head, explained = printed.split("\nLeft out, most frequent first:\n")
    assert head.splitlines()[0].startswith(f"{tmp_path / 'out'}: complete except for ")
    rows = table(tmp_path / "out")
    kinds = {(row["kind"], row["reason"]) for row in rows}
    counts = sorted((sum((row["kind"], row["reason"]) == kind for row in rows) for kind in kinds), reverse=True)
    lines = explained.splitlines()
    assert [int(line.split()[0]) for line in lines if not line.startswith("   ")] == counts[:5]
    for kind, reason in kinds:
        assert f"{reason}: {findings.REASONS[reason]}" in explained
        assert findings.REMEDIES[reason] in explained
        assert any(row["path"] in explained for row in rows if (row["kind"], row["reason"]) == (kind, reason))


def test_a_dropped_archive_is_said_in_the_first_line(run, tmp_path):
    path = releases.zips_stored(releases.small(unmatched=False)[5:7], tmp_path / "release")
    releases.truncate(path / "GID.zip")
    code, printed, _ = run("convert", path, tmp_path / "out", "--quiet")
    first = printed.splitlines()[0]
    assert code == 3 and "incomplete" in first and "GID.zip could not be used" in first
    assert "Not used, or used only in part:" in printed
    again = run("convert", path, tmp_path / "out", "--quiet")[1].splitlines()
    assert (
        "incomplete" in again[0] and "If you have fixed something since then, convert again with --overwrite." in again
    )


def test_subsets_that_are_not_in_the_release_are_said_in_the_first_line(run, tmp_path):
    path = releases.zips_stored(releases.small(unmatched=False)[5:7], tmp_path / "release")
    code, printed, _ = run("convert", path, tmp_path / "out", "--quiet")
    first = f"{tmp_path / 'out'}: complete for 2 of 10 subsets"
    assert code == 0 and printed.splitlines()[0] == first
    assert run("report", tmp_path / "out")[1].splitlines() == [first]


def test_a_conversion_ends_with_commands_that_work(release, run, tmp_path):
    out = tmp_path / "my out"
    _, printed, _ = run("convert", release, out)
    steps = [shlex.split(line) for line in printed.split("\nNext:\n")[1].splitlines()]
    assert [step[:2] for step in steps] == [["mmm-rs", word] for word in ("report", "verify", "preview")]
    for step in steps:
        assert run(*step[1:])[0] == 0
    assert (tmp_path / "my out-preview.html").is_file()


def test_json_is_alone_on_standard_output(release, run, tmp_path):
    code, printed, errors = run("convert", release, tmp_path / "out", "--json")
    data = json.loads(printed)
    assert code == 3 and not data["complete"] and data["written"] and any("planning" in line for line in errors)
    summary = json.loads((tmp_path / "out/report/summary.json").read_bytes())
    assert data["total"] == summary["total"] and data["sources"] == summary["sources"]
    assert sum(reason["count"] for reason in data["reasons"]) == len(table(tmp_path / "out"))
    assert set(data["subsets"]) == set(releases.NAMES) and data["missing"] == []

    code, printed, errors = run("verify", tmp_path / "out", "--release", release, "--json", "--quiet")
    verified = json.loads(printed)
    images = summary["total"]["images"]["published"]
    assert (code, errors) == (0, [])
    assert verified["ok"] and verified["images"] == verified["compared"] == images


def test_a_failed_verification_is_json_too(release, run, tmp_path):
    run("convert", release, tmp_path / "out", "--quiet", "--subset", "GID")
    shard = min((tmp_path / "out").glob("data/*/*.tar"))
    releases.flip_bit(shard, 700)
    code, printed, errors = run("verify", tmp_path / "out", "--json", "--quiet")
    assert code == 6 and errors[0].startswith("mmm-rs: ")
    result = json.loads(printed)
    assert result["ok"] is False and len(result["faults"]) == 1 and str(shard) in result["faults"][0]
