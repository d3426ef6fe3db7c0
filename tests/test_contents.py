"""What lies in a converted folder is told apart: the dataset's files, links, what tools leave, and what is strange."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from conversion.contents import survey
from dataset_card.card import write as write_card
from dataset_card.card import write_own
from tests import converted

SHARD = "data/Inria/train-00000-of-00002.tar"
LEFT = [
    "data/Inria/.nv-meta/split.yaml",
    "data/.nv-meta/index.sqlite",
    f"{SHARD}.idx",
    "data/Inria/train-00000-of-00002.idx",
    ".DS_Store",
    "assets/Thumbs.db",
    "index/._Inria.parquet",
]


@pytest.fixture
def out(tmp_path: Path) -> Path:
    converted.write(tmp_path / "MMM-RS")
    write_card(tmp_path / "MMM-RS")
    return tmp_path / "MMM-RS"


def look(out: Path):
    return survey(out, json.loads((out / "manifest.json").read_text()))


def put(path: Path, data: bytes = b"x") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)


def test_a_folder_as_it_was_written_holds_the_datasets_files_and_nothing_else(out):
    contents = look(out)
    written = {path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file()}
    assert set(contents.files) == written and len(contents.files) == len(written)
    assert contents.missing == contents.strange == contents.links == contents.passed_over == contents.others == ()


def test_what_other_tools_leave_is_passed_over(out):
    for path in LEFT:
        put(out / path)
    contents = look(out)
    folders = {"data/Inria/.nv-meta", "data/.nv-meta"}
    assert set(contents.passed_over) == folders | {path for path in LEFT[2:] if path != ".DS_Store"}
    assert contents.strange == contents.others == ()


@pytest.mark.parametrize(
    "path",
    [
        "data/Inria/train-00002-of-00003.tar",
        "data/Inria/notes.txt",
        "data/secret",
        "index/Foo.parquet",
        "report/.env",
        "report/id_rsa",
        "assets/id_rsa",
        "assets/unseen.png",
        "assets/deep/pairs.png",
        "README.md.orig",
    ],
)
def test_a_file_that_nothing_names_is_strange_or_beside_the_dataset(out, path):
    put(out / path)
    contents = look(out)
    assert (contents.strange or contents.others) == (path,)


def test_a_picture_that_the_card_shows_belongs_to_the_dataset(out):
    put(out / "assets" / "ours.png")
    put(out / "assets" / "also.jpg")
    put(out / "assets" / "secret.txt")
    own = 'We add ![a map](assets/ours.png), <img src="assets/also.jpg">, [this](assets/secret.txt).\n'
    write_own(out, "notes", own)
    contents = look(out)
    assert {"assets/ours.png", "assets/also.jpg"} < set(contents.files)
    assert contents.strange == ("assets/secret.txt",)


def test_links_are_named_and_none_is_followed_to_strange_places(out, tmp_path):
    secret = tmp_path / "secrets" / "id_rsa"
    put(secret)
    (out / "data" / "Inria" / "link").symlink_to(secret)
    (out / "data" / "more").symlink_to(secret.parent)
    (out / SHARD).rename(tmp_path / "shard.tar")
    (out / SHARD).symlink_to(tmp_path / "shard.tar")
    (out / "report").rename(tmp_path / "report")
    (out / "report").symlink_to(tmp_path / "report")
    contents = look(out)
    assert set(contents.links) == {"data/Inria/link", "data/more", SHARD, "report"}
    assert set(contents.strange) == {"data/Inria/link", "data/more"}  # a link in the place of a file is that file
    assert contents.missing == ()


def test_what_is_no_plain_file_is_strange(out):
    os.mkfifo(out / "data" / "Inria" / "pipe")
    (out / SHARD).unlink()
    os.mkfifo(out / SHARD)
    contents = look(out)
    assert set(contents.strange) == {"data/Inria/pipe", SHARD}
    assert contents.missing == (SHARD,)
