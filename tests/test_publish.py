"""A release goes to the hub with few shards on the disk at a time, and is there as convert and upload would have it."""

from __future__ import annotations

import dataclasses
import functools
import json
import os
import random
import re
import shutil
import signal
import struct
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from huggingface_hub import HfApi, constants

from conversion import disk, shards
from conversion.errors import REPORTED, MMMRSError, OutputError, UsageError, VerificationError
from conversion.job import ConversionSettings
from conversion.options import Options
from mmm_rs_hub import client, shipment
from mmm_rs_hub import publish as publication
from mmm_rs_hub.destination import Destination
from mmm_rs_hub.proof import verify_hub
from mmm_rs_hub.publish import publish
from mmm_rs_hub.upload import upload
from tests import releases, stopping
from tests.conversions import convert, verify
from tests.hub import TOKEN, Hub
from tests.outputs import tree
from tests.test_output import file_system

REPO = "org/MMM-RS"
URL = f"hf://datasets/{REPO}"
ROOT = Path(__file__).parents[1]
KEEP = 2
FORMS = {form.__name__: form for form in (releases.zips_stored, releases.one_zip_of_deflated_zips)}
CHOSEN = [subset for subset in releases.small() if subset.name in ("weather", "SEN1-2", "Inria", "fMoW")]
LAST = ["index, report and pictures", "card and manifest"]


@pytest.fixture(scope="module")
def release(tmp_path_factory) -> Path:
    return releases.zips_stored(CHOSEN, tmp_path_factory.mktemp("release"))


@pytest.fixture(scope="module")
def expected(release, tmp_path_factory) -> dict[str, bytes]:
    """What is on the hub after `convert` and `upload`."""
    out = tmp_path_factory.mktemp("expected") / "out"
    convert(release, out)
    with pytest.MonkeyPatch.context() as patch, Hub() as hub:
        patch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        upload(out, Destination(REPO, yes=True), api=HfApi(endpoint=hub.url, token=TOKEN), say=lambda line: None)
        return hub.content(REPO)


@pytest.fixture
def hub(monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)  # this hub knows LFS only
    sleeps: list[float] = []
    monkeypatch.setattr("time.sleep", sleeps.append)
    monkeypatch.setattr(client, "STOPPED", SimpleNamespace(wait=sleeps.append))
    with Hub() as hub:
        hub.sleeps = sleeps
        yield hub


@pytest.fixture
def run(hub, release, tmp_path):
    """Publish to the hub from `tmp_path`, quietly."""
    api = HfApi(endpoint=hub.url, token=TOKEN)

    def publish_here(path: Path = release, **options):
        where = {name: options.pop(name) for name in ("private", "revision", "tag", "yes") if name in options}
        destination = Destination(REPO, **({"yes": True} | where))
        names = [field.name for field in dataclasses.fields(ConversionSettings)]
        settings = {"workers": 2} | {name: options.pop(name) for name in names if name in options}
        options = {"keep": KEEP, "api": api} | options
        return publish(path, destination, tmp_path / "staging", ConversionSettings(**settings), **options)

    return publish_here


def messages(hub: Hub) -> list[str]:
    return hub.repositories[REPO].messages[1:]


def counts(hub: Hub) -> tuple[int, int]:
    """Files sent and commits made."""
    return hub.requests["lfs_put"], hub.requests["commit"]


def tars(folder: Path) -> list[Path]:
    """The shards in a folder, half-written ones too."""
    return [*folder.glob("data/*/*.tar"), *folder.glob("data/*/.*.tmp")]


# -------------------------------------------------------------------------------------------------------- publishing


@pytest.mark.parametrize("form", FORMS)
def test_the_hub_then_has_what_convert_and_upload_would_put_there(form, hub, run, expected, tmp_path):
    result, proof = run(FORMS[form](CHOSEN, tmp_path / "release"))

    assert hub.content(REPO) == expected
    assert (proof.files, proof.sent) == (len(expected), len(expected))
    assert result.written and result.reported == 6
    assert verify_hub(URL, deep=True, api=HfApi(endpoint=hub.url)).read == proof.shards


def test_all_but_the_shards_stays_in_the_folder(hub, run, expected, tmp_path):
    run()
    here = {path: (tmp_path / "staging" / path).read_bytes() for path in tree(tmp_path / "staging")}
    assert here == {path: data for path, data in hub.files(REPO).items() if not path.startswith("data/")}


def test_never_more_shards_lie_in_the_folder_than_kept(hub, run, monkeypatch, tmp_path):
    seen = []

    def watched(call):
        def counted(*arguments, **named):
            seen.append(len(tars(tmp_path / "staging")))
            return call(*arguments, **named)

        return counted

    monkeypatch.setattr(disk, "_rename", watched(disk._rename))
    monkeypatch.setattr(HfApi, "preupload_lfs_files", watched(HfApi.preupload_lfs_files))
    run(keep=3)
    assert len(seen) > 30 and max(seen) == 3


def padded(jpeg: bytes, kilobytes: int) -> bytes:
    """The JPEG with so much in comments."""
    return jpeg[:2] + (b"\xff\xfe" + struct.pack(">H", 1000) + bytes(998)) * kilobytes + jpeg[2:]


def test_a_disk_smaller_than_the_data(hub, run, monkeypatch, tmp_path):
    subset = releases.many("GID", 48)
    subset = subset.with_files(**{path: padded(data, 200) for path, data in subset.images.items()})
    release = releases.zips_stored([subset], tmp_path / "release")
    monkeypatch.setattr("conversion.disk.RESERVE", 1_000_000)
    with file_system(tmp_path / "staging", "size=4m") as disk:
        with pytest.raises(OutputError, match=r"MB are needed and .*--keep"):
            run(release, keep=20)
        assert hub.repositories == {}
        with pytest.raises(OutputError, match="are needed"):
            convert(release, disk / "out")
        shutil.rmtree(disk / "out")
        _, proof = run(release, keep=2)
    assert sum(map(len, hub.files(REPO).values())) > 9_000_000
    assert proof.samples == 48


def test_a_few_commits_for_many_shards(hub, run, expected, monkeypatch):
    monkeypatch.setattr(shipment, "COMMITS", 3)
    run()
    assert hub.content(REPO) == expected
    assert messages(hub) == ["shards of weather, SEN1-2", "shards of SEN1-2, Inria", "shards of Inria, fMoW", *LAST]


def test_a_commit_takes_as_many_shards_as_the_hub_recommends(hub, run, expected, monkeypatch):
    monkeypatch.setattr(shipment, "COMMITS", 1)
    monkeypatch.setattr(shipment, "GROUP", 4)
    run()
    shards = sum(path.startswith("data/") for path in expected)
    assert hub.content(REPO) == expected
    assert len(messages(hub)) == -(-shards // 4) + len(LAST)


def test_the_same_command_again_does_nothing_and_proves_it_again(hub, run):
    _, first = run()
    before = counts(hub)
    result, proof = run(yes=False)  # nothing to send: nothing to ask
    assert counts(hub) == before
    assert (result.written, proof.sent, proof.revision) == (False, 0, first.revision)


def test_without_the_folder_all_is_written_again_and_nothing_sent(hub, run, tmp_path):
    run()
    before = counts(hub)
    shutil.rmtree(tmp_path / "staging")
    _, proof = run()
    assert counts(hub) == before and proof.sent == 0


def test_subsets_that_come_later(hub, run, expected):
    run(subsets=["Inria"])
    run()
    assert hub.content(REPO) == expected
    first = messages(hub).index("card and manifest") + 1
    assert not [line for line in messages(hub)[first:] if "Inria" in line]


def test_what_is_public_already_is_not_taken_for_private(hub, run):
    HfApi(endpoint=hub.url, token=TOKEN).create_repo(REPO, repo_type="dataset")
    with pytest.raises(UsageError, match="is already public"):
        run(private=True, revision="next")
    assert list(hub.repositories[REPO].refs) == ["main"]


@pytest.mark.parametrize("times", [1, 2])
def test_a_repository_that_seemed_not_to_exist_and_is_public_gets_nothing_that_is_private(hub, run, times):
    HfApi(endpoint=hub.url, token=TOKEN).create_repo(REPO, repo_type="dataset")
    gone = {"status": 404, "headers": {"X-Error-Code": "RepoNotFound"}}
    hub.fail("info", **gone, times=times)
    hub.fail("tree", **gone)
    with pytest.raises(UsageError, match="public"):
        run(private=True)
    assert hub.requests["commit"] == hub.requests["lfs_put"] == 0


def test_a_link_in_the_staging_folder_is_refused_by_name(hub, run, tmp_path):
    run()
    (tmp_path / "id_rsa").write_text("PRIVATE KEY")
    (tmp_path / "staging" / "report" / "key").symlink_to(tmp_path / "id_rsa")
    with pytest.raises(UsageError, match="report/key: is a symbolic link"):
        run()
    assert "report/key" not in hub.files(REPO)


def test_it_says_what_it_will_do_and_asks(hub, run, tmp_path):
    lines: list[str] = []
    with pytest.raises(UsageError, match="nothing was sent"):
        run(yes=False, private=True, say=lines.append, ask=lambda question: bool(lines.append(question)))
    assert re.match(rf"Convert (\d+) of \1 shards and send them to {REPO} at main, which .* \(private\)\?$", lines[-1])
    assert lines[-4] == f"{REPO} at main: does not exist and will be created (private)"
    assert re.match(rf"{REPO} at main: (\d+) of \1 shards to convert and send, at most .*B$", lines[-3])
    assert lines[-2].startswith(f"{tmp_path / 'staging'}: holds 2 of them at a time, at most ")
    assert hub.repositories == {} and tars(tmp_path / "staging") == []
    with pytest.raises(UsageError, match="--yes"):  # standard input is no terminal here
        run(yes=False)


def test_an_incomplete_release_is_called_so_before_it_asks_and_each_time(hub, run, tmp_path):
    path = releases.zips_stored(releases.small(unmatched=False)[5:7], tmp_path / "incomplete")
    releases.truncate(path / "GID.zip")
    lines: list[str] = []
    with pytest.raises(UsageError, match="nothing was sent"):
        run(path, yes=False, say=lines.append, ask=lambda question: bool(lines.append(question)))
    (line,) = (line for line in lines[:-1] if "incomplete: " in line)
    assert line.startswith(f"{tmp_path / 'staging'}: ") and line.endswith("GID.zip could not be used. The rest is sent")
    for _ in range(2):
        lines.clear()
        run(path, say=lines.append)
        assert lines.count(line) == 1


def test_progress_counts_every_shard_once_and_goes_on_where_it_stood(hub, run):
    def counted() -> list[tuple[int, int]]:
        steps: list[tuple[int, int]] = []
        try:
            run(progress=lambda done, total, subset: steps.append((done, total)))
        except OutputError:
            assert hub.faults
        hub.faults.clear()
        return steps

    hub.fail("lfs_put", times=1000, skip=12)
    first, second = counted(), counted()
    assert first[0][0] == 0 and 0 < second[0][0] <= first[-1][0]
    assert second[-1][0] == second[-1][1] == first[0][1]
    for steps in (first, second):
        assert [done for done, _ in steps] == sorted({done for done, _ in steps})


def test_private_revision_and_tag(hub, run, expected):
    _, proof = run(private=True, revision="next", tag="v1")
    repository = hub.repositories[REPO]
    assert repository.private
    assert hub.content(REPO, "next") == hub.content(REPO, "v1") == expected
    assert hub.files(REPO, "main") == {}
    assert repository.refs["v1"] == proof.revision


def test_another_conversion_replaces_the_first_and_leaves_no_shard_of_it(hub, run, expected, tmp_path):
    run(releases.zips_stored(releases.small()[6:8], tmp_path / "other"))
    shutil.rmtree(tmp_path / "staging")
    run()
    assert hub.content(REPO) == expected


# ---------------------------------------------------------------------------------------------------------- refusing


def test_a_finished_conversion_is_not_taken_for_a_staging_folder(hub, run, release, tmp_path):
    convert(release, tmp_path / "staging")
    before = tree(tmp_path / "staging")
    with pytest.raises(UsageError, match="mmm-rs upload"):
        run()
    assert tree(tmp_path / "staging") == before and not hub.requests


def test_other_options_than_those_of_the_folder(hub, run):
    run(subsets=["Inria"])
    with pytest.raises(UsageError, match="seed was 0, now 7"):
        run(options=Options(seed=7))


@pytest.mark.parametrize("name", ["mmm_rs", "org/mmm_rs", "MMM-RS"])
def test_a_name_that_could_not_be_loaded_is_refused(hub, release, tmp_path, name):
    with pytest.raises(UsageError):
        publish(release, Destination(name), tmp_path / "staging", api=HfApi(endpoint=hub.url, token=TOKEN))
    assert not hub.requests and not (tmp_path / "staging").exists()


def test_a_hub_that_would_keep_tars_as_text(hub, run, monkeypatch, tmp_path):
    monkeypatch.setattr("tests.hub.LFS_SUFFIXES", (".parquet", ".png", ".jpg"))
    with pytest.raises(OutputError, match=r"\.gitattributes says of \.tar files\. Run the same command again"):
        run()
    assert len(tars(tmp_path / "staging")) == KEEP and messages(hub) == []


def test_a_shard_that_is_not_what_its_marker_says_is_not_sent(hub, run, monkeypatch):
    def write_damaged(task):
        marker = shards.write_shard(task)
        releases.flip_bit(Path(task.out, task.name), 700)
        return marker

    monkeypatch.setattr("conversion.job.write_shard", write_damaged)
    with pytest.raises(VerificationError, match=r"\.tar: its sha256 is not the manifest's"):
        run(workers=1)
    assert hub.requests["lfs_put"] == 0


# ----------------------------------------------------------------------------------------------------------- trouble

PAUSE = {"status": 429, "headers": {"Retry-After": "7"}}
GONE = {"status": 503}
HANGS_UP: dict = {}


@pytest.mark.parametrize(
    ("route", "how"),
    [
        ("whoami", GONE),
        ("tree", PAUSE),
        ("create", HANGS_UP),
        ("preupload", GONE),
        ("lfs_batch", HANGS_UP),
        ("lfs_put", PAUSE),
        ("lfs_put", HANGS_UP),
        ("lfs_verify", GONE),
        ("commit", GONE),
        ("commit", HANGS_UP),
        ("resolve", GONE),
        ("resolve", HANGS_UP),
        ("info", GONE),
    ],
)
def test_trouble_that_passes_is_waited_out(hub, run, expected, route, how):
    hub.fail(route, **how)
    run(keep=8)
    assert hub.faults[0].times == 0
    assert hub.content(REPO) == expected
    if how.get("status") == 429:
        assert max(hub.sleeps) >= 7  # as long as the hub said


@pytest.mark.parametrize("skip", range(4))
def test_a_commit_whose_answer_was_lost_is_known_to_have_landed(hub, run, expected, skip):
    hub.fail("commit", lost=True, skip=skip)
    run(keep=12)
    assert hub.content(REPO) == expected
    assert len(messages(hub)) == 2 + len(LAST)  # none was made twice


@pytest.mark.parametrize(
    ("route", "how", "remedy"),
    [
        ("whoami", {"status": 401}, "hf auth login"),
        ("create", {"status": 403}, "write access"),
        ("lfs_put", {"status": 500, "skip": 3}, "The hub has a problem"),
        ("lfs_put", {"skip": 7}, "check the network"),
        ("commit", {"status": 429, "skip": 1}, "Wait five minutes"),
        ("commit", {"status": 503}, "The hub has a problem"),
        ("resolve", {"status": 503}, "The hub has a problem"),
        ("tree", {"status": 503, "skip": 2}, "The hub has a problem"),
    ],
)
def test_trouble_that_stays_ends_in_one_line_and_the_same_command_goes_on(
    route, how, remedy, hub, run, expected, tmp_path
):
    hub.fail(route, times=1000, **how)
    with pytest.raises(OutputError) as error:
        run()
    (line,) = str(error.value).splitlines()
    assert line.startswith(f"{REPO}: ") and remedy in line and "Run the same command again" in line
    assert len(tars(tmp_path / "staging")) <= KEEP

    refused = hub.requests["lfs_put"] - len(hub.objects)
    hub.faults.clear()
    run()
    assert hub.content(REPO) == expected
    assert hub.requests["lfs_put"] - refused == len(hub.objects)  # what was stored did not come again


def test_shards_that_vanish_from_the_hub_are_written_again(hub, run, expected):
    hub.fail("lfs_put", times=1000, skip=12)
    with pytest.raises(OutputError):
        run()
    assert len(messages(hub)) > 3
    hub.faults.clear()
    hub.repositories.clear()
    hub.objects.clear()
    run()
    assert hub.content(REPO) == expected


def test_shards_that_vanish_after_all_is_done_are_told(hub, run, expected):
    run()
    path = next(path for path in expected if path.startswith("data/"))
    hub.damage(REPO, path, None)
    with pytest.raises(OutputError, match=f"lacks 1 of the .* shards .*, for example {path}. Use --overwrite"):
        run()
    run(overwrite=True)
    assert hub.content(REPO) == expected


def test_a_server_that_sends_whole_files_where_a_part_was_asked_for(hub, run, monkeypatch):
    monkeypatch.setattr("tests.hub._Handler.ranges", False)
    with pytest.raises(MMMRSError, match=r"bytes were requested, the answer has .*\. Check HF_ENDPOINT") as error:
        run()
    assert len(str(error.value).splitlines()) == 1


# ------------------------------------------------------------------------------------------------------------- kills


def connect(url: str, kill: tuple[str, int, bool] | None = None) -> None:
    """In the process of a command: take this hub, and die at a call of the client, before it or after it."""
    constants.HF_HUB_DISABLE_XET = True
    publication.default_api = lambda: HfApi(endpoint=url, token=TOKEN)
    if kill is None:
        return
    name, number, after = kill
    call, calls = getattr(HfApi, name), []

    def killing(*arguments, **named):
        calls.append(name)
        if len(calls) == number and not after:
            os.kill(os.getpid(), signal.SIGKILL)
        connection = call(*arguments, **named)
        if len(calls) == number:
            os.kill(os.getpid(), signal.SIGKILL)
        return connection

    setattr(HfApi, name, killing)


@pytest.fixture
def command(release, tmp_path):
    """Run `mmm-rs publish` in a process of its own."""

    def publish_there(hub: Hub, staging: Path, signal_number: int = 0, moment: int = 0, kill=None) -> stopping.Run:
        arguments = [
            "publish",
            str(release),
            REPO,
            "--staging",
            str(staging),
            "--keep",
            str(KEEP),
            "--yes",
            "--workers",
            "2",
        ]
        prepare = functools.partial(connect, hub.url, kill)
        return stopping.run(arguments, tmp_path / "notes", signal_number, moment, prepare)

    return publish_there


def test_killed_at_random_moments_it_goes_on_to_the_same_bytes(command, expected, tmp_path):
    draw = random.Random("publish")
    with Hub() as hub:
        undisturbed = command(hub, tmp_path / "undisturbed")
        assert undisturbed.code == REPORTED, undisturbed.output
        assert hub.content(REPO) == expected
        commits = len(messages(hub))
    kills = number = 0
    while kills < 10:
        number += 1
        staging = tmp_path / f"staging{number}"
        with Hub() as hub:
            for _ in range(1 + number % 2 * 3):
                ended = command(hub, staging, signal.SIGKILL, draw.randrange(1, undisturbed.moments))
                assert ended.code in (-signal.SIGKILL, REPORTED), ended.output
                kills += ended.code == -signal.SIGKILL
                assert len(tars(staging)) <= KEEP
            assert command(hub, staging).code == REPORTED
            assert hub.content(REPO) == expected
            assert len(messages(hub)) <= commits
            described = {"croissant.json": None}  # names the server
            assert tree(staging) | described == tree(tmp_path / "undisturbed") | described


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize(
    ("call", "number"),
    [
        ("preupload_lfs_files", 1),
        ("preupload_lfs_files", 4),
        ("create_commit", 1),
        ("create_commit", 3),
        ("upload_folder", 1),
        ("upload_folder", 2),
    ],
)
def test_killed_between_two_steps_on_the_hub(call, number, after, command, expected, tmp_path):
    with Hub() as hub:
        assert command(hub, tmp_path / "staging", kill=(call, number, after)).code == -signal.SIGKILL
        assert len(tars(tmp_path / "staging")) <= KEEP
        assert command(hub, tmp_path / "staging").code == REPORTED
        assert hub.content(REPO) == expected
        assert hub.requests["lfs_put"] == len(hub.objects)  # and no byte was sent twice


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_asked_to_stop_it_does_so_with_one_line(number, command, expected, tmp_path):
    draw = random.Random(f"publish {number}")
    with Hub() as hub:
        moments = command(hub, tmp_path / "undisturbed").moments
    with Hub() as hub:
        for _ in range(4):
            ended = command(hub, tmp_path / "staging", number, draw.randrange(1, moments // 2))
            assert ended.code == 128 + number, ended.output
            assert ended.seconds < 2
            reason = {signal.SIGINT: "interrupted", signal.SIGTERM: "terminated"}[number]
            lines = [line for line in ended.output.splitlines() if line.startswith(("mmm-rs", "Traceback"))]
            assert lines == [f"mmm-rs: {reason}. Run the same command again to continue"]
        assert command(hub, tmp_path / "staging").code == REPORTED
        assert hub.content(REPO) == expected


def test_a_signal_ends_a_transfer_that_takes_long(release, tmp_path):
    with Hub() as hub:
        hub.fail("lfs_put", skip=3, seconds=30)
        arguments = ["publish", str(release), REPO, "--staging", str(tmp_path / "staging"), "--yes"]
        process = subprocess.Popen(
            [sys.executable, "-m", "mmm_rs_cli.cli", *arguments],
            cwd=ROOT,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, **hub.environment, "HF_HOME": str(tmp_path / "home")},
        )
        while hub.requests["lfs_put"] < 4:
            assert process.poll() is None, process.communicate()
            time.sleep(0.01)
        process.send_signal(signal.SIGTERM)
        _, errors = process.communicate(timeout=2)
        assert process.returncode == 143 and errors.count("terminated") == 1


@pytest.mark.parametrize("words", [(), ("--quiet",), ("--json", "--quiet")])
def test_what_is_written_to_a_pipe_is_a_few_plain_lines(words, release, tmp_path):
    inherited = {name: value for name, value in os.environ.items() if name != "HF_HUB_DISABLE_PROGRESS_BARS"}
    with Hub() as hub:
        arguments = ["publish", str(release), REPO, "--staging", str(tmp_path / "staging"), "--yes", *words]
        ended = subprocess.run(
            [sys.executable, "-m", "mmm_rs_cli.cli", *arguments],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=False,
            env={**inherited, **hub.environment, "HF_HOME": str(tmp_path / "home")},
        )
        page = f"{hub.url}/datasets/{REPO}"
    assert ended.returncode == REPORTED, ended.stderr
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f]", ended.stdout + ended.stderr)
    if words:
        assert ended.stderr == ""
    else:
        assert len(ended.stderr.splitlines()) < 15
        assert re.search(r"^fMoW: 100% of \S+B, \S+B/s, \S+ elapsed, 00:00 left$", ended.stderr, flags=re.M)
    if "--json" in words:
        facts = json.loads(ended.stdout)
        assert facts["published"]["page"] == page and facts["published"]["sent"] and not facts["complete"]
    else:
        assert page in ended.stdout.splitlines()


def test_the_folder_of_a_run_that_was_killed_serves_convert_too(hub, run, release, expected, tmp_path):
    hub.fail("lfs_put", times=1000, skip=5)
    with pytest.raises(OutputError):
        run()
    convert(release, tmp_path / "staging")
    assert verify(tmp_path / "staging").shards == sum(path.startswith("data/") for path in expected)


# ------------------------------------------------------------------------------------------------------- the manual


def test_the_commands_of_the_manual(release, hub, expected, tmp_path):
    text = (ROOT / "docs" / "publishing.md").read_text()
    commands = "".join(re.findall(r"^```bash\n(.*?)^```$", text, flags=re.M | re.S))
    assert commands.count("mmm-rs publish") == 1
    (tmp_path / "Downloads").mkdir()
    shutil.copytree(release, tmp_path / "Downloads" / "MMM-RS")
    tool = tmp_path / "bin" / "mmm-rs"
    tool.parent.mkdir()
    tool.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m mmm_rs_cli.cli "$@"\n')
    tool.chmod(0o755)
    environment = {
        **os.environ,
        **hub.environment,
        "HOME": str(tmp_path),
        "HF_HOME": str(tmp_path / "home"),
        "PYTHONPATH": str(ROOT),
        "PATH": f"{tool.parent}:{os.environ['PATH']}",
    }
    ended = subprocess.run(["bash", "-ec", commands], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    assert hub.content(REPO) == expected
    assert "2 reported" in ended.stdout
    (code,) = re.findall(r"^```python\n(.*?)^```$", text, flags=re.M | re.S)
    ended = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert ended.returncode == 0, ended.stderr
    assert hub.repositories["org/SEN1-2"].private
