"""A folder goes to the hub whole, goes on after any trouble, sends nothing twice, and what is there is proved."""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from huggingface_hub import HfApi, constants

from conversion import Selection, export
from conversion.errors import MMMRSError, OutputError, UsageError, VerificationError
from dataset_card import card
from dataset_card.card import write as write_card
from dataset_card.card import write_own
from mmm_rs import index_schema, manifest_digest
from mmm_rs_hub import client
from mmm_rs_hub import upload as uploading
from mmm_rs_hub.destination import Destination, suggested_repository
from mmm_rs_hub.proof import verify_hub
from mmm_rs_hub.upload import plan_upload, upload
from tests import converted, releases
from tests.conversions import convert
from tests.hub import TOKEN, Hub

REPO = "org/MMM-RS"
ROOT = Path(__file__).parents[1]
URL = f"hf://datasets/{REPO}"
CONTROL = re.compile(r"[\x00-\x09\x0b-\x1f\x7f]")  # all but the newline


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("made") / "MMM-RS"
    converted.write(out)
    write_card(out)
    return out


@pytest.fixture
def out(original: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(original, tmp_path / "MMM-RS"))


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)  # this hub knows LFS only
    sleeps = []
    monkeypatch.setattr("time.sleep", sleeps.append)
    monkeypatch.setattr(client, "STOPPED", SimpleNamespace(wait=sleeps.append))
    with Hub() as hub:
        hub.sleeps = sleeps
        yield hub


@pytest.fixture
def api(hub: Hub) -> HfApi:
    return HfApi(endpoint=hub.url, token=TOKEN)


def sent(hub: Hub) -> list[str]:
    return hub.repositories[REPO].messages[1:]


def local(out: Path) -> dict[str, bytes]:
    return {path.relative_to(out).as_posix(): path.read_bytes() for path in out.rglob("*") if path.is_file()}


def lines_of(error: pytest.ExceptionInfo) -> list[str]:
    return str(error.value).splitlines()


# ------------------------------------------------------------------------------------------------------------ sending


def test_everything_arrives_shards_first_card_and_manifest_last(out, hub, api):
    lines: list[str] = []
    proof = upload(out, Destination(REPO, yes=True), api=api, say=lines.append)

    assert hub.files(REPO) == local(out)
    assert sent(hub) == [
        "shards of Inria, MRSSC2.0, SEN1-2, WHU-OPT-SAR, weather",
        "index, report and pictures",
        "card and manifest",
    ]
    assert (proof.files, proof.shards, proof.samples) == (len(local(out)), 10, 20)
    assert proof.revision == hub.repositories[REPO].refs["main"]
    assert f"{REPO} at main: 29 of 29 files to send" in "\n".join(lines)
    assert f'load_dataset("{REPO}"' in hub.files(REPO)["README.md"].decode()


def test_the_same_command_again_sends_nothing_and_proves_it_again(out, hub, api):
    first = upload(out, Destination(REPO, yes=True), api=api)
    before = hub.requests.copy()
    again = upload(out, Destination(REPO), api=api)  # nothing to send: nothing to ask

    assert again.sent == 0 and again.revision == first.revision
    assert hub.requests["commit"] == before["commit"] and hub.requests["lfs_put"] == before["lfs_put"]


def test_a_dry_run_says_what_it_would_send_and_changes_nothing(out, hub, api):
    before = local(out)
    lines: list[str] = []
    plan = plan_upload(out, Destination(REPO), api=api, say=lines.append)
    assert hub.repositories == {} and local(out) == before
    assert plan.refusal is None
    created, files = plan.lines()
    assert created == f"{REPO} at main: does not exist and will be created (public)"
    assert "29 of 29 files to send" in files


def test_it_asks_before_it_sends(out, hub, api):
    questions = []
    with pytest.raises(UsageError, match="nothing was sent"):
        upload(out, Destination(REPO), api=api, ask=lambda question: bool(questions.append(question)))
    assert len(questions) == 1 and hub.repositories == {}
    with pytest.raises(UsageError, match="--yes"):  # standard input is no terminal here
        upload(out, Destination(REPO), api=api)


def test_the_end_of_input_is_no_answer(out, hub, api, monkeypatch):
    terminal = io.StringIO()
    monkeypatch.setattr(terminal, "isatty", lambda: True, raising=False)
    monkeypatch.setattr("sys.stdin", terminal)
    with pytest.raises(UsageError, match="--yes"):
        upload(out, Destination(REPO), api=api)
    assert hub.repositories == {}


def test_private_revision_and_tag(out, hub, api):
    proof = upload(out, Destination(REPO, private=True, revision="next", tag="v1", yes=True), api=api)
    repository = hub.repositories[REPO]
    assert repository.private
    assert hub.files(REPO, "next") == hub.files(REPO, "v1") == local(out)
    assert hub.files(REPO, "main") == {}
    assert repository.refs["v1"] == proof.revision
    assert upload(out, Destination(REPO, revision="next", tag="v1"), api=api).sent == 0


def test_what_is_public_already_is_not_taken_for_private(out, hub, api):
    upload(out, Destination(REPO, yes=True), api=api)
    with pytest.raises(UsageError, match="is already public"):
        upload(out, Destination(REPO, private=True, yes=True), api=api)
    with pytest.raises(UsageError, match="is already public"):  # nor is a branch that it has not yet
        upload(out, Destination(REPO, private=True, revision="next", yes=True), api=api)
    assert list(hub.repositories[REPO].refs) == ["main"]
    plan = plan_upload(out, Destination(REPO, revision="next"), api=api, say=lambda line: None)
    assert f"{REPO} at next: does not exist and will be created (public)" in plan.lines()


def test_a_tag_that_means_another_commit_is_not_moved(out, hub, api):
    upload(out, Destination(REPO, yes=True, tag="v1"), api=api)
    tagged = hub.repositories[REPO].refs["v1"]
    (out / "assets" / "pairs.png").unlink()
    write_card(out, REPO)
    (out / "README.md").write_text(
        (out / "README.md").read_text().replace("own: about -->\n", "own: about -->\nNew.\n")
    )
    with pytest.raises(UsageError, match="tag v1 already exists"):
        upload(out, Destination(REPO, yes=True, tag="v1"), api=api)
    assert hub.repositories[REPO].refs["v1"] == tagged


def test_another_conversion_replaces_the_first_and_leaves_no_shard_of_it(out, hub, api, tmp_path):
    upload(out, Destination(REPO, yes=True), api=api)
    repository = hub.repositories[REPO]
    files = repository.commits[repository.refs["main"]]
    repository.add("main", files | {"notes.txt": files["README.md"]}, "a person's file")
    second = tmp_path / "second"
    converted.write(second, converted.samples()[:-3], shards=3)
    write_card(second)
    upload(second, Destination(REPO, yes=True), api=api)

    files = hub.files(REPO)
    assert files.pop("notes.txt")
    assert files == local(second)


def test_a_new_branch_does_not_keep_the_shards_that_it_has_from_main(out, hub, api, tmp_path):
    upload(out, Destination(REPO, yes=True), api=api)
    second = tmp_path / "second"
    converted.write(second, converted.samples()[:-3], shards=3)
    write_card(second)
    assert upload(second, Destination(REPO, revision="next", yes=True), api=api).sent < len(local(second))
    assert hub.files(REPO, "next") == local(second)
    assert hub.files(REPO) == local(out)


def test_a_name_that_reads_as_a_pattern_arrives(out, hub, api):
    write_card(out, REPO)
    shutil.copy(out / "assets" / "pairs.png", out / "assets" / "my[1].png")
    write_own(out, "notes", "![ours](assets/my[1].png)")
    upload(out, Destination(REPO, yes=True), api=api)
    assert hub.files(REPO) == local(out)
    assert "assets/my[1].png" in hub.files(REPO)


def test_many_files_go_in_groups(out, hub, api, monkeypatch):
    monkeypatch.setattr(uploading, "GROUP", 4)
    upload(out, Destination(REPO, yes=True), api=api)
    assert hub.files(REPO) == local(out)
    assert len(sent(hub)) == 3 + 5 + 1  # 10 shards, 17 others, the last two


def test_shards_go_to_the_storage_a_few_at_a_time(out, hub, api, monkeypatch):
    upload(out, Destination(REPO, yes=True), api=api)
    together = hub.requests["preupload"]
    hub.repositories.clear()
    monkeypatch.setattr(uploading, "AT_ONCE", 1)
    upload(out, Destination(REPO, yes=True), api=api)
    assert hub.requests["preupload"] - together == together + 9  # ten shards one by one instead of all at once
    assert hub.files(REPO) == local(out)
    assert len(sent(hub)) == 3


def test_progress_counts_what_is_read_and_then_what_is_sent(out, hub, api):
    steps: list[tuple[int, int, str]] = []
    upload(out, Destination(REPO, yes=True), api=api, progress=lambda *step: steps.append(step))
    files = local(out)
    shards = sum(len(data) for path, data in files.items() if path.startswith("data/"))
    begun = steps.index((0, sum(map(len, files.values())), "sending"))
    for step, total in ((steps[:begun], shards), (steps[begun:], sum(map(len, files.values())))):
        done = [done for done, _, _ in step]
        assert done == sorted(done) and done[-1] == total
        assert {announced for _, announced, _ in step} == {total}


# ---------------------------------------------------------------------------------------------------------- refusing


@pytest.mark.parametrize("name", ["mmm_rs", "org/mmm_rs", "MMM-RS", "a/b/c", "org/MMM RS", "org/-x"])
def test_a_name_that_could_not_be_loaded_is_refused(out, hub, api, name):
    with pytest.raises(UsageError) as error:
        upload(out, Destination(name, yes=True), api=api)
    assert len(lines_of(error)) == 1 and not hub.requests
    if name == "org/mmm_rs":
        assert "taken for a loading script" in str(error.value)


def test_a_folder_that_is_not_right_is_not_sent(out, hub, api):
    shard = out / "data" / "Inria" / "train-00000-of-00002.tar"
    data = bytearray(shard.read_bytes())
    data[700] ^= 1
    shard.write_bytes(data)
    with pytest.raises(VerificationError, match=r"train-00000-of-00002\.tar"):
        upload(out, Destination(REPO, yes=True), api=api)
    assert set(hub.requests) == {"whoami"}


def test_an_unfinished_conversion_is_not_sent(out, hub, api):
    (out / "manifest.json").unlink()
    with pytest.raises(OutputError, match="is not finished"):
        upload(out, Destination(REPO, yes=True), api=api)
    assert not hub.requests


@pytest.mark.parametrize(("limit", "value"), [("MOST_FILES", 20), ("MOST_ENTRIES", 5), ("LARGEST_FILE", 10_000)])
def test_what_the_hub_would_refuse_is_refused_here(out, hub, api, monkeypatch, limit, value):
    monkeypatch.setattr(uploading, limit, value)
    with pytest.raises(UsageError, match="than the hub takes") as error:
        upload(out, Destination(REPO, yes=True), api=api)
    assert "--shard-size" in str(error.value) and set(hub.requests) == {"whoami"}


@pytest.fixture
def unread(monkeypatch):
    """The folder may not be read: that takes hours for a large one."""

    def fail(*_: object, **__: object) -> None:
        raise AssertionError("the shards were read")

    monkeypatch.setattr("conversion.verification.verify", fail)


def identity(role: str, **more: object) -> dict:
    return {"type": "user", "name": "tester", "orgs": [], "auth": {"accessToken": {"role": role, **more}}}


def test_a_wrong_token_is_told_before_anything_is_read(out, hub, unread):
    with pytest.raises(OutputError, match="write access"):
        upload(out, Destination(REPO, yes=True), api=HfApi(endpoint=hub.url, token="hf_wrong"))
    with pytest.raises(OutputError, match="write access"):
        plan_upload(out, Destination(REPO), api=HfApi(endpoint=hub.url, token="hf_wrong"))


@pytest.mark.parametrize("role", ["read", "fineGrained"])
def test_a_token_that_may_not_write_is_told_before_anything_is_read(out, hub, api, unread, role):
    hub.identity = identity(role, fineGrained={"scoped": []})
    with pytest.raises(OutputError, match=r"the token of tester may .*hf auth login"):
        upload(out, Destination(REPO, yes=True), api=api)
    assert hub.repositories == {}


def test_a_dry_run_shows_its_plan_and_says_that_the_token_may_not_write(out, hub, api):
    hub.identity = identity("read")
    plan = plan_upload(out, Destination(REPO), api=api, say=lambda line: None)
    assert plan.to_send == 29 and "may only read" in plan.refusal


# ----------------------------------------------------------------------------------------------------- what is private


@pytest.mark.parametrize(
    "place", ["data/Inria/key", "report/key", "assets/key.png", "README.md", "index/Inria.parquet"]
)
def test_a_link_is_refused_by_name_before_anything_is_sent(out, hub, api, tmp_path, place):
    (tmp_path / "id_rsa").write_text("PRIVATE KEY")
    (out / place).unlink(missing_ok=True)
    (out / place).symlink_to(tmp_path / "id_rsa")
    with pytest.raises(MMMRSError) as error:
        upload(out, Destination(REPO, yes=True), api=api)
    assert f"{out / place}: is a symbolic link" in str(error.value)
    assert not hub.requests


@pytest.mark.parametrize("place", ["data/Inria/.env", "data/token", "report/id_rsa", "assets/scan.png", "index/a.db"])
def test_a_file_that_nothing_names_is_refused_by_name_before_anything_is_sent(out, hub, api, place):
    (out / place).write_text("SECRET")
    with pytest.raises(MMMRSError) as error:
        upload(out, Destination(REPO, yes=True), api=api)
    assert f"{out / place}: does not belong to the dataset" in str(error.value)
    assert not hub.requests


def exported(source: Path, out: Path, address: str | None = None) -> Path:
    """An export of a part of a folder, as from the address."""
    export(source, out, Selection(configs=("SEN1-2",), limit=2), card=card)
    if address:
        contents = json.loads((out / "manifest.json").read_text())
        contents["exported_from"]["address"] = address
        converted.write_manifest(out, contents)
    return out


@pytest.mark.parametrize("revision", ["", "@v1"])
def test_an_export_does_not_replace_the_repository_that_it_came_from(out, hub, api, tmp_path, unread, revision):
    part = exported(out, tmp_path / "try", f"{URL}{revision}")
    for send in (upload, plan_upload):
        with pytest.raises(UsageError, match=f"exported from {REPO}.* Give another repository, for example {REPO}-try"):
            send(part, Destination(REPO, yes=True), api=api)
    assert hub.requests.total() == 0


def test_an_export_does_not_replace_its_source_on_the_hub_though_it_was_made_from_the_folder(out, hub, api, tmp_path):
    upload(out, Destination(REPO, yes=True), api=api)
    part = exported(out, tmp_path / "try")
    before = hub.files(REPO)
    for send in (upload, plan_upload):
        with pytest.raises(UsageError, match=f"exported from {REPO}"):
            send(part, Destination(REPO, yes=True), api=api)
    assert hub.files(REPO) == before
    upload(part, Destination(f"{REPO}-try", yes=True), api=api)
    assert upload(part, Destination(f"{REPO}-try"), api=api).sent == 0


def test_an_export_of_everything_can_be_uploaded_again(out, hub, api, tmp_path):
    export(out, tmp_path / "copy", card=card)
    upload(tmp_path / "copy", Destination("org/copy", yes=True), api=api)
    assert upload(tmp_path / "copy", Destination("org/copy"), api=api).sent == 0


@pytest.mark.parametrize(
    ("folder", "address", "repository"),
    [
        ("try", None, "org/MMM-RS-try"),
        ("try", "hf://datasets/me/sets@v1", "me/sets-try"),
        ("try", "https://huggingface.co/datasets/me/sets/resolve/main", "me/sets-try"),
        ("try", "s3://bucket/datasets/me/sets", "org/MMM-RS-try"),
        ("MMM-RS", None, "org/MMM-RS-part"),
        ("mmm-rs-fog", None, "org/mmm-rs-fog"),
        ("fog & snow..1", None, "org/MMM-RS-fog-snow-1"),
        ("x" * 120, None, "org/MMM-RS-" + "x" * 85),
    ],
)
def test_an_export_is_to_be_uploaded_under_a_name_of_its_own(tmp_path, folder, address, repository):
    manifest = {"exported_from": {"address": address}}
    assert suggested_repository(tmp_path / folder, manifest) == Destination(repository).repo_id


def test_after_its_upload_an_export_names_its_repository(out, hub, api, tmp_path):
    part = exported(out, tmp_path / "try", URL)
    upload(part, Destination("tester/fog", yes=True), api=api)
    assert suggested_repository(part, json.loads((part / "manifest.json").read_text())) == "tester/fog"


def test_an_incomplete_release_is_called_so_before_anything_is_sent(hub, api, run, tmp_path):
    path = releases.zips_stored(releases.small(unmatched=False)[5:7], tmp_path / "release")
    releases.truncate(path / "GID.zip")
    out = tmp_path / "MMM-RS"
    convert(path, out)
    reported = json.loads((out / "report" / "summary.json").read_text())["sources"]
    what = f"incomplete: {reported[0]['path']} could not be used"
    lines: list[str] = []
    plan_upload(out, Destination(REPO), api=api, say=lines.append)
    assert lines.count(f"{out}: {what}. The rest is sent") == 1
    lines.clear()
    with pytest.raises(UsageError, match="nothing was sent"):
        upload(out, Destination(REPO), api=api, say=lines.append, ask=lambda question: bool(lines.append(question)))
    assert lines.index(f"{out}: {what}. The rest is sent") < len(lines) - 1 and lines[-1].startswith("Send ")
    upload(out, Destination(REPO, yes=True), api=api, say=lines.append)
    lines.clear()
    verify_hub(URL, api=api, say=lines.append)
    assert lines == [f"{URL}: {what}"]
    code, printed, errors = run("verify", out, "--quiet")
    assert code == 0 and " is OK: " in printed and errors == [f"{out}: {what}"]


def test_what_other_tools_leave_is_passed_over_with_a_line(out, hub, api):
    (out / "data" / "Inria" / ".nv-meta").mkdir()
    (out / "data" / "Inria" / ".nv-meta" / "split.yaml").write_text("x")
    (out / "data" / "Inria" / "train-00000-of-00002.tar.idx").write_text("x")
    (out / "notes.txt").write_text("x")
    lines: list[str] = []
    upload(out, Destination(REPO, yes=True), api=api, say=lines.append)
    assert "not sent: data/Inria/.nv-meta: was left by another tool and is ignored" in lines
    assert "not sent: data/Inria/train-00000-of-00002.tar.idx: was left by another tool and is ignored" in lines
    assert "not sent: notes.txt: is not part of the dataset" in lines
    assert not [path for path in hub.files(REPO) if ".nv-meta" in path or path.endswith((".idx", ".txt"))]


def test_left_files_on_the_hub_are_passed_over_with_a_line(published, hub, api):
    files = hub.repositories[REPO].commits[hub.repositories[REPO].refs["main"]]
    more = files["data/Inria/train-00000-of-00002.tar"]
    left = {"data/Inria/.nv-meta/split.yaml": more, "data/Inria/train-00000-of-00002.tar.idx": more, "notes.txt": more}
    hub.repositories[REPO].add("main", files | left, "other tools")
    lines: list[str] = []
    verify_hub(URL, api=api, say=lines.append)
    assert len(lines) == 3 and "notes.txt: is not part of the dataset" in lines
    upload(published, Destination(REPO, yes=True), api=api)
    assert left.keys() <= hub.files(REPO).keys()  # and an upload removes none of them


@pytest.mark.parametrize("times", [1, 2, 3])
def test_a_repository_that_seemed_not_to_exist_and_is_public_gets_nothing_that_is_private(out, hub, api, times):
    api.create_repo(REPO, repo_type="dataset")
    gone = {"status": 404, "headers": {"X-Error-Code": "RepoNotFound"}}
    hub.fail("info", **gone, times=times)
    hub.fail("tree", **gone)
    with pytest.raises(UsageError, match="public") as error:
        upload(out, Destination(REPO, private=True, yes=True), api=api)
    assert len(lines_of(error)) == 1
    assert hub.requests["commit"] == hub.requests["lfs_put"] == 0


# ----------------------------------------------------------------------------------------------------------- trouble

PAUSE = {"status": 429, "headers": {"Retry-After": "7"}}
GONE = {"status": 503}
HANGS_UP: dict = {}


@pytest.mark.parametrize(
    ("route", "how"),
    [
        ("whoami", GONE),
        ("tree", PAUSE),
        ("create", GONE),
        ("create", PAUSE),
        ("create", HANGS_UP),
        ("preupload", GONE),
        ("lfs_batch", HANGS_UP),
        ("lfs_put", PAUSE),
        ("lfs_put", HANGS_UP),
        ("lfs_verify", GONE),
        ("commit", GONE),
        ("commit", PAUSE),
        ("commit", HANGS_UP),
        ("info", GONE),
    ],
)
def test_trouble_that_passes_is_waited_out(out, hub, api, route, how):
    hub.fail(route, **how)
    upload(out, Destination(REPO, yes=True), api=api, say=lambda line: None)
    assert hub.files(REPO) == local(out)
    assert len(sent(hub)) == 3
    if how.get("status") == 429:
        assert max(hub.sleeps) >= 7  # as long as the hub said


@pytest.mark.parametrize("skip", [0, 1, 2], ids=["shards", "rest", "last"])
def test_a_commit_whose_answer_was_lost_is_known_to_have_landed(out, hub, api, skip):
    hub.fail("commit", lost=True, skip=skip)
    upload(out, Destination(REPO, yes=True), api=api, say=lambda line: None)
    assert hub.files(REPO) == local(out)
    assert len(sent(hub)) == 3  # none was made twice


@pytest.mark.parametrize(
    ("route", "status", "remedy"),
    [
        ("whoami", 401, "hf auth login"),
        ("create", 403, "write access"),
        ("preupload", 404, "Check the name"),
        ("lfs_batch", 403, "write access"),
        ("lfs_put", 500, "The hub has a problem"),
        ("commit", 413, "--shard-size"),
        ("commit", 429, "Wait five minutes"),
        ("commit", 503, "The hub has a problem"),
    ],
)
def test_trouble_that_stays_ends_in_one_line_and_the_same_command_completes(out, hub, api, route, status, remedy):
    hub.fail(route, status=status, times=1000)
    with pytest.raises(OutputError) as error:
        upload(out, Destination(REPO, yes=True), api=api, say=lambda line: None)
    (line,) = lines_of(error)
    assert line.startswith(f"{REPO}: ") and remedy in line and "Run the same command again" in line
    assert error.value.exit_code == 5

    hub.faults.clear()
    upload(out, Destination(REPO, yes=True), api=api, say=lambda line: None)
    assert hub.files(REPO) == local(out)


def test_a_server_gone_in_the_middle_ends_in_one_line_and_the_same_command_completes(out, hub, api):
    hub.fail("lfs_put", skip=5, times=1000)
    hub.fail("tree", skip=2, times=1000)
    with pytest.raises(OutputError) as error:
        upload(out, Destination(REPO, yes=True), api=api, say=lambda line: None)
    assert len(lines_of(error)) == 1 and "check the network" in str(error.value)

    hub.faults.clear()
    stored = len(hub.objects)
    before = hub.requests["lfs_put"]
    upload(out, Destination(REPO, yes=True), api=api, say=lambda line: None)
    assert hub.files(REPO) == local(out)
    assert hub.requests["lfs_put"] - before == len(hub.objects) - stored  # nothing that was there came again


def test_nothing_listens(out, hub):
    with pytest.raises(OutputError, match="cannot be reached") as error:
        upload(
            out,
            Destination(REPO, yes=True),
            api=HfApi(endpoint="http://127.0.0.1:9", token=TOKEN),
            say=lambda line: None,
        )
    assert len(lines_of(error)) == 1


def test_without_a_token_it_says_how_to_get_one(out, hub, monkeypatch):
    monkeypatch.setattr("huggingface_hub.get_token", lambda: None)
    with pytest.raises(OutputError, match="hf auth login"):
        upload(out, Destination(REPO, yes=True), api=HfApi(endpoint=hub.url))
    assert not hub.requests


def test_a_hub_that_keeps_other_bytes_is_found_out(out, hub, api, monkeypatch):
    prove = uploading.prove

    def damaged(*arguments):
        hub.damage(REPO, "data/Inria/train-00000-of-00002.tar", b"x" * 10_240)
        return prove(*arguments)

    monkeypatch.setattr(uploading, "prove", damaged)
    with pytest.raises(VerificationError, match=r"data/Inria/train-00000-of-00002\.tar: sha256 \w+ on the hub"):
        upload(out, Destination(REPO, yes=True), api=api)


# ------------------------------------------------------------------------------------------------------------- proof


@pytest.fixture
def published(out: Path, hub: Hub, api: HfApi) -> Path:
    upload(out, Destination(REPO, yes=True, tag="v1"), api=api, say=lambda line: None)
    hub.requests.clear()
    return out


def test_a_copy_is_proved_without_downloading_a_shard(published, hub, api):
    proof = verify_hub(URL, api=api)
    assert (proof.shards, proof.samples, proof.read) == (10, 20, 0)
    small = [name for name in local(published) if not name.startswith(("data/", "assets/"))]
    assert proof.files == 10 + len(small)
    assert verify_hub(f"{URL}@v1", api=api).revision == proof.revision


def test_deep_reads_every_shard(published, hub, api):
    assert verify_hub(URL, deep=True, api=api).read == 10


@pytest.mark.parametrize(
    ("path", "change", "message"),
    [
        ("data/Inria/train-00000-of-00002.tar", lambda data: data[:-1] + b"x", "train-00000-of-00002.tar: sha256"),
        ("data/Inria/train-00000-of-00002.tar", lambda data: data[:5120], "5,120 bytes on the hub, 10,240 expected"),
        ("data/Inria/train-00000-of-00002.tar", lambda data: None, "is not on the hub"),
        ("index/Inria.parquet", lambda data: None, "Inria.parquet: not found"),
        ("manifest.json", lambda data: data.replace(b'"samples": 6', b'"samples": 7'), "manifest.json: was edited"),
        ("manifest.json", lambda data: None, "has no manifest.json"),
        ("README.md", lambda data: data.replace(b"num_examples: 6\n", b"num_examples: 7\n"), "dataset_info of weather"),
        ("croissant.json", lambda data: data.replace(b"10240 B", b"10241 B"), "croissant.json: is not what"),
        ("report/unpublished.parquet", lambda data: None, "unpublished.parquet: is not on the hub"),
        ("mmm_rs.py", lambda data: None, "mmm_rs.py: is not on the hub"),
        ("mmm_rs.py", lambda data: b"import os\n" + data, "mmm_rs.py: its sha256 is not the manifest's"),
        ("index/Inria.parquet", lambda data: data[:-99] + b"x" + data[-98:], "Inria.parquet: its sha256 is not"),
        ("report/summary.json", lambda data: data + b" ", "summary.json: its sha256 is not the manifest's"),
    ],
)
def test_whatever_was_changed_on_the_hub_is_named(published, hub, api, path, change, message):
    hub.damage(REPO, path, change(hub.files(REPO)[path]))
    with pytest.raises(VerificationError) as error:
        verify_hub(URL, api=api)
    assert message in str(error.value)
    assert error.value.exit_code == 6
    assert verify_hub(f"{URL}@v1", api=api)  # as it was tagged it is right


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda data: b"{", "summary.json: cannot be read"),
        (lambda data: data.replace(b'"reported": 1', b'"reported": 2', 1), "does not balance"),
        (lambda data: data.replace(b'"rgb": 6', b'"rgb": 5'), "images of weather by modality"),
    ],
)
def test_a_report_that_contradicts_the_index_is_named_though_the_manifest_means_it(
    published, hub, api, change, message
):
    text = change(hub.files(REPO)["report/summary.json"])
    manifest = json.loads(hub.files(REPO)["manifest.json"])
    manifest["files"]["report/summary.json"] = {"bytes": len(text), "sha256": hashlib.sha256(text).hexdigest()}
    manifest["digest"] = manifest_digest(manifest)
    hub.damage(REPO, "report/summary.json", text)
    hub.damage(REPO, "manifest.json", json.dumps(manifest).encode())
    with pytest.raises(VerificationError, match=message):
        verify_hub(URL, api=api)


@pytest.mark.parametrize("more", ["data/Inria/train-00002-of-00003.tar", "index/Foo.parquet", "report/more.json"])
def test_a_file_too_many_is_named(published, hub, api, more):
    files = hub.repositories[REPO].commits[hub.repositories[REPO].refs["main"]]
    hub.repositories[REPO].add("main", files | {more: files["data/Inria/train-00000-of-00002.tar"]}, "one more")
    with pytest.raises(VerificationError, match=f"{more}: is not in the manifest"):
        verify_hub(URL, api=api)


@pytest.mark.parametrize("url", ["hf://org/MMM-RS", "hf://datasets/MMM-RS", "https://huggingface.co/org/MMM-RS"])
def test_another_url_is_refused(url):
    with pytest.raises(UsageError, match="hf://datasets/org/name"):
        verify_hub(url)


def test_a_repository_or_revision_that_is_not_there(published, api):
    for url in ("hf://datasets/org/other", f"{URL}@v2"):
        with pytest.raises(MMMRSError) as error:
            verify_hub(url, api=api)
        assert len(lines_of(error)) == 1


# -------------------------------------------------------------------------------------------------------- end to end


def run(code: str, hub: Hub, home: Path) -> str:
    """Run Python in a process whose clients talk to the hub; returns what it prints."""
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=False,
        cwd=home.parent,
        env={**os.environ, **hub.environment, "HF_HOME": str(home), "PYTHONPATH": str(ROOT)},
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


@pytest.fixture
def command(hub, tmp_path):
    """Run a command in a process whose clients talk to the hub: its exit code, output and errors."""

    def run_command(*arguments: str, **environment: str) -> tuple[int, str, str]:
        inherited = {name: value for name, value in os.environ.items() if name != "HF_HUB_DISABLE_PROGRESS_BARS"}
        done = subprocess.run(
            [sys.executable, "-m", "mmm_rs_cli.cli", *arguments],
            capture_output=True,
            text=True,
            check=False,
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            env={**inherited, **hub.environment, "HF_HOME": str(tmp_path / "home"), **environment},
        )
        assert "Traceback" not in done.stderr
        assert not CONTROL.search(done.stdout + done.stderr)
        return done.returncode, done.stdout, done.stderr

    return run_command


def test_the_commands(out, hub, command):
    assert command("card", str(out))[0] == 0
    code, printed, _ = command("upload", str(out), REPO, "--dry-run")
    assert code == 0 and "29 of 29 files to send" in printed and hub.repositories == {}
    code, _, errors = command("upload", str(out), REPO)
    assert code == 2 and "--yes" in errors
    code, _, errors = command("upload", str(out), REPO, "--yes", HF_TOKEN="hf_wrong")
    assert code == 5 and "write access" in errors and hub.repositories == {}
    code, printed, _ = command("upload", str(out), REPO, "--yes", "--tag", "v1")
    assert code == 0 and "10 shards with 20 samples, as the manifest says" in printed
    code, printed, _ = command("verify", f"{URL}@v1", "--deep")
    assert code == 0 and "10 downloaded and read" in printed
    hub.damage(REPO, "data/Inria/train-00000-of-00002.tar", None)
    code, _, errors = command("verify", URL)
    assert code == 6 and "data/Inria/train-00000-of-00002.tar: is not on the hub" in errors


def test_without_a_token_a_dry_run_shows_its_plan_and_ends_with_what_is_missing(out, hub, command):
    for words in ((), ("--json",)):
        code, printed, errors = command("upload", str(out), REPO, "--dry-run", *words, HF_TOKEN="")
        assert code == 5 and hub.repositories == {}
        assert errors.splitlines()[-1].startswith(
            "mmm-rs: nothing could be sent: there is no token for the hub. Run `hf"
        )
        if words:
            assert json.loads(printed)["to_send"] == 29 and "no token" in json.loads(printed)["refusal"]
        else:
            assert "29 of 29 files to send" in printed


def test_what_is_written_to_a_pipe_is_a_few_plain_lines(out, hub, command):
    code, printed, errors = command("upload", str(out), REPO, "--yes")
    assert code == 0
    assert len(errors.splitlines()) <= 5
    assert re.search(r"^sending: 100% of \S+B, \S+B/s, \S+ elapsed, 00:00 left$", errors, flags=re.M)
    assert len(printed.splitlines()) < 20


def test_after_an_upload_its_page_and_a_line_that_loads_it_are_shown(out, hub, command, tmp_path):
    for words, page, revision in (((), "", None), (("--revision", "next", "--tag", "v2"), "/tree/next", "v2")):
        _, printed, _ = command("upload", str(out), REPO, "--yes", *words)
        assert f"{hub.url}/datasets/{REPO}{page}" in printed.splitlines()
        first, second = re.findall(r"^  (from datasets .*|load_dataset\(.*)$", printed, flags=re.M)
        assert (f'revision="{revision}"' in second) == bool(revision)
        assert run(f"{first}\nprint(sum(1 for row in {second}))", hub, tmp_path / "home") == "3\n"
        url = re.findall(r"^  mmm-rs verify (\S+)$", printed, flags=re.M)[0]
        assert command("verify", url)[0] == 0


def test_one_file_is_one_file(out, hub, command):
    assert "\n29 files sent\n" in command("upload", str(out), REPO, "--yes")[1]
    hub.damage(REPO, "index/Inria.parquet", None)
    assert "\n1 file sent\n" in command("upload", str(out), REPO, "--yes")[1]
    assert "\nnothing had to be sent\n" in command("upload", str(out), REPO, "--yes")[1]


def test_quiet_leaves_the_result_and_json_is_for_programs(out, hub, command):
    code, printed, errors = command("upload", str(out), REPO, "--yes", "--quiet", "--tag", "v1")
    assert (code, errors) == (0, "") and f"{hub.url}/datasets/{REPO}" in printed
    code, printed, errors = command("upload", str(out), REPO, "--yes", "--quiet", "--json", "--tag", "v1")
    facts = json.loads(printed)
    assert (code, errors) == (0, "")
    assert (facts["ok"], facts["shards"], facts["samples"], facts["sent"], facts["tag"]) == (True, 10, 20, 0, "v1")
    assert facts["revision"] == hub.repositories[REPO].refs["v1"]
    (out / "data/Inria/train-00000-of-00002.tar").write_bytes(b"")
    code, printed, _ = command("upload", str(out), REPO, "--yes", "--json")
    assert code == 6 and json.loads(printed)["ok"] is False


ROWS = """
import datasets, hashlib, json
from mmm_rs import load_dataset
def plain(value):
    if hasattr(value, "tobytes"):
        return hashlib.sha256(value.tobytes()).hexdigest()
    return {name: plain(inner) for name, inner in value.items()} if isinstance(value, dict) else value
def show(rows):
    print(json.dumps([{name: plain(value) for name, value in row.items() if name != "__url__"} for row in rows]))
for config in ("all", "MRSSC2.0"):
    for streaming in (True, False):
        show(datasets.load_dataset(DATA, config, split="train", streaming=streaming))
        show(load_dataset(config, DATA_DIR, split="train", streaming=streaming))
"""


def test_load_dataset_and_the_builder_give_the_local_rows_over_http(published, hub, tmp_path):
    def rows(data: str, data_dir: str) -> list:
        code = f"DATA, DATA_DIR = {data!r}, {data_dir!r}\n{ROWS}"
        return [json.loads(line) for line in run(code, hub, tmp_path / data.replace("/", "-")).splitlines()]

    remote = rows(REPO, URL)
    assert remote == rows(str(published), str(published))
    assert [len(reading) for reading in remote] == [20] * 4 + [2] * 4
    assert remote[0] == remote[2] and remote[1] == remote[3]  # streaming or not


def test_every_line_of_code_in_the_card_runs(published, hub, tmp_path):
    pytest.importorskip("duckdb")
    pytest.importorskip("polars")
    pytest.importorskip("webdataset")
    blocks = re.findall(r"^```python\n(.*?)^```$", (published / "README.md").read_text(), flags=re.M | re.S)
    assert len(blocks) == 7
    blocks[3] += "assert len(index) == 20\n"
    assert blocks[4].count(".show()") == 1
    blocks[4] = blocks[4].replace("duckdb.sql", "counts = duckdb.sql").replace(".show()", ".fetchall()")
    blocks[4] += "assert sum(count for _, _, count in counts) == 20\n"
    blocks[5] += "assert places.height == 5\n"
    blocks[6] += """
import io, PIL.Image
assert PIL.Image.open(io.BytesIO(jpeg)).size == image.size == (64, 64)
assert prompt.startswith("Low precision resolution") and labels["subset"] == "SEN1-2"
print("ran")
"""
    assert run("\n".join(blocks), hub, tmp_path / "home").endswith("ran\n")


def test_the_indexs_labels_stand_together_before_its_long_texts():
    """So a filter on labels reads one stretch of each row group, and little of it."""
    names = index_schema().names
    labels = ["category", "weather", "satellite", "gsd", "gsd_level", "gsd_level_derived", "cloud_cover"]
    texts = ["prompt", "nir_prompt", "sar_prompt", "caption", "nir_caption", "sar_caption", "source", "annotation"]
    own = [f"{modality}_{label}" for modality in ("nir", "sar") for label in labels]
    assert names[4:25] == labels + own
    assert names[-len(texts) :] == texts


def test_in_a_folder_the_index_answers_sql(published, monkeypatch):
    duckdb, polars = pytest.importorskip("duckdb"), pytest.importorskip("polars")
    monkeypatch.chdir(published)
    query = "SELECT count(*) AS n FROM {} WHERE gsd_level = 'low'"
    assert duckdb.sql(query.format("'index/*.parquet'")).fetchall() == [(9,)]
    assert polars.scan_parquet("index/*.parquet").sql(query.format("self")).collect().item() == 9
