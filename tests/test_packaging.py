"""What is installed holds all that runs: every module, and the files that modules read."""

from __future__ import annotations

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

pytest.importorskip("setuptools", "77")

ROOT = Path(__file__).parents[1]
NOT_INSTALLED = ("tests", "benchmarks", "docs", "build")
BUILD = "import sys; from setuptools.build_meta import build_wheel; build_wheel(sys.argv[1])"


def test_the_wheel_holds_every_module_and_every_file_that_modules_read(tmp_path):
    source = tmp_path / "source"
    unwanted = shutil.ignore_patterns(".*", "__pycache__", "*.egg-info", *NOT_INSTALLED, "mmm-rs-demo*")
    shutil.copytree(ROOT, source, ignore=unwanted)
    subprocess.run([sys.executable, "-c", BUILD, tmp_path], cwd=source, check=True, capture_output=True)

    (wheel,) = tmp_path.glob("*.whl")
    installed = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    packages = [path.parent for path in ROOT.glob("*/__init__.py") if path.parent.name not in NOT_INSTALLED]
    files = [path for package in packages for path in package.rglob("*") if path.is_file()]
    wanted = {path.relative_to(ROOT).as_posix() for path in files if "__pycache__" not in path.parts}
    assert {"dataset_card/card.md", "mmm_rs_cli/preview.html"} < wanted
    assert installed == wanted | {path.name for path in ROOT.glob("mmm_rs*.py")}
