"""The reckoning: every image and record of the release is published or stands in the report with its reason."""

import shutil

import pytest

from conversion.errors import OutputError
from dataset_card.card import write as write_card
from tests.conversions import convert
from tests.outputs import unpublished


def test_what_does_not_match_is_reported_by_name_and_reason(release, converted):
    rows = unpublished(converted.out)
    images = {row["path"]: row["reason"] for row in rows if row["kind"] == "image"}
    assert images == {path: "no_record" for subset in release.subsets for path in subset.unmatched_images}
    records = [row for row in rows if row["kind"] == "record"]
    assert {row["reason"] for row in records} == {"no_image"}
    for subset in release.subsets:
        subset_rows = [row for row in records if row["subset"] == subset.name]
        assert sorted(row["detail"].split(": ")[0] for row in subset_rows) == sorted(subset.unmatched_records)
        assert all(row["position"] is not None and row["path"].endswith(".json") for row in subset_rows)


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
