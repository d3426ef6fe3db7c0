"""A release in any form becomes the same folder, byte for byte, and nothing is lost on the way.

What is right is stated by `tests.releases`; what was written is read with `tarfile` and `pyarrow`.
"""

import subprocess
import sys

import pytest

from tests import releases
from tests.conversions import convert
from tests.outputs import expected_members, members, tree


def test_every_pair_is_published_with_the_bytes_and_the_prompt_of_the_release(release, converted):
    published = members(converted.out)
    texts = {name: data for name, data in published.items() if not name.endswith(".json")}
    assert texts == expected_members(release.subsets)
    assert {name[:-5] for name in published if name.endswith(".json")} == {
        key for subset in release.subsets for key in subset.samples
    }


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


def test_an_output_within_the_release_is_no_part_of_it(clean_release, reference, tmp_path):
    path = releases.folders(clean_release.subsets, tmp_path / "release")
    convert(path, path / "out")
    convert(path, path / "out", overwrite=True)
    assert tree(path / "out") == tree(reference)
