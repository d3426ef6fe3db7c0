"""What all tests share: caches that are nobody's but the test's own, and small synthetic releases."""

from __future__ import annotations

import atexit
import importlib.metadata
import os
import shutil
import signal
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

# `datasets` and `huggingface_hub` read these when they are imported, so they are set before anything imports them.
_CACHES = tempfile.mkdtemp(prefix="mmm-rs-tests-")
atexit.register(shutil.rmtree, _CACHES, ignore_errors=True)
os.environ.update(
    HF_HOME=_CACHES,
    HF_UPDATE_DOWNLOAD_COUNTS="0",
    HF_HUB_DISABLE_TELEMETRY="1",
    HF_DATASETS_DISABLE_PROGRESS_BARS="1",
    HF_HUB_DISABLE_PROGRESS_BARS="1",
    MPLBACKEND="Agg",
)
for _name in ("HF_TOKEN", "HF_ENDPOINT", "HF_DATASETS_CACHE", "HF_HUB_CACHE", "HF_HUB_OFFLINE"):
    os.environ.pop(_name, None)

import pytest  # noqa: E402

from conversion.job import Result  # noqa: E402
from mmm_rs_cli import cli  # noqa: E402
from mmm_rs_reading import retries  # noqa: E402
from tests import hub, releases  # noqa: E402
from tests.conversions import convert  # noqa: E402


def pytest_sessionstart() -> None:
    """What the tests rely on: the installation, and signals that come through.

    `mmm_rs.py` finds the rest of the package by entry points, which an older installation of a checkout lacks. Shells
    start a program in the background with SIGINT ignored, and its children inherit that.
    """
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    groups = ("mmm_rs.sources", "mmm_rs.files")
    announced = {entry.value for group in groups for entry in importlib.metadata.entry_points(group=group)}
    if missing := {"conversion.unconverted:ReleaseSource", "mmm_rs_reading:open_files"} - announced:
        raise pytest.UsageError(f"{', '.join(sorted(missing))}: not announced. Run `pip install -e .` once more")


@dataclass(frozen=True)
class WrittenRelease:
    """A release on disk and the truth about it."""

    path: Path
    subsets: list[releases.Subset]

    def __getitem__(self, name: str) -> releases.Subset:
        return next(subset for subset in self.subsets if subset.name == name)


@pytest.fixture(scope="session")
def release(tmp_path_factory: pytest.TempPathFactory) -> WrittenRelease:
    """All ten subsets as stored zips in a folder, with unmatched images and records. Not to be changed by a test."""
    subsets = releases.small()
    return WrittenRelease(releases.zips_stored(subsets, tmp_path_factory.mktemp("release")), subsets)


@pytest.fixture(scope="session")
def clean_release(tmp_path_factory: pytest.TempPathFactory) -> WrittenRelease:
    """The same without unmatched images and records: everything is published. Not to be changed by a test."""
    subsets = releases.small(unmatched=False)
    return WrittenRelease(releases.zips_stored(subsets, tmp_path_factory.mktemp("clean")), subsets)


@pytest.fixture(scope="session")
def converted(release: WrittenRelease, tmp_path_factory: pytest.TempPathFactory) -> Result:
    """The conversion of `release`. Its folder is not to be changed by a test."""
    out = tmp_path_factory.mktemp("converted") / "out"
    return convert(release.path, out, workers=2)


@pytest.fixture(scope="session")
def reference(clean_release: WrittenRelease, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `clean_release` is converted to, by one worker. Not to be changed by a test."""
    out = tmp_path_factory.mktemp("reference") / "out"
    convert(clean_release.path, out, workers=1)
    return out


@pytest.fixture(scope="session")
def small_output(clean_release: WrittenRelease, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What one subset of `clean_release` is converted to. Not to be changed by a test."""
    out = tmp_path_factory.mktemp("small") / "out"
    convert(clean_release.path, out, subsets=["GID"])
    return out


@pytest.fixture(autouse=True)
def fresh_caches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A cache of its own for each test, here and in the processes it starts."""
    home = tmp_path.with_name(tmp_path.name + "-hf")
    monkeypatch.setenv("HF_HOME", str(home))
    config = sys.modules.get("datasets.config")
    if config is not None:
        monkeypatch.setattr(config, "HF_CACHE_HOME", str(home))
        monkeypatch.setattr(config, "HF_DATASETS_CACHE", home / "datasets")
    constants = sys.modules.get("huggingface_hub.constants")
    if constants is not None:
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(home / "hub"))


@pytest.fixture
def run(capsys):
    """Run a command: (its exit code, what it printed, its lines of error)."""

    def command(*arguments) -> tuple[int, str, list[str]]:
        code = cli.main([str(argument) for argument in arguments])
        printed = capsys.readouterr()
        return code, printed.out, printed.err.splitlines()

    return command


@pytest.fixture
def short_waits(monkeypatch):
    """What is tried again over a network is tried again at once."""
    monkeypatch.setattr(retries, "FIRST_WAIT", 0.001)
    monkeypatch.setattr(retries, "LONGEST_WAIT", 0.01)


@pytest.fixture
def on_the_hub():
    """Puts a folder on a hub with a second host; the hub."""
    with hub.Hub(cdn=True) as running:

        def put(root: Path, private: bool = False) -> hub.Hub:
            repository = running.repositories.setdefault("org/MMM-RS", hub.Repository(private))
            repository.add("main", hub.contents(root), "upload")
            return running

        yield put
