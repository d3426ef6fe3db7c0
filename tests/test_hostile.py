"""Converted folders made by an attacker: whatever they claim, no command and no reader follows it.

Each folder is made from scratch and its digests are right: they prove that a folder was not damaged, not that it is
friendly. Every command and the reader runs on it. Required each time: one of the documented exit codes, a few lines of
error and no traceback, no file outside the folder opened, no program started, no escape sequence printed.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from huggingface_hub import HfApi
from PIL import Image, UnidentifiedImageError

import mmm_rs
from conversion.errors import MMMRSError
from conversion.exports.job import export
from conversion.exports.selection import Selection
from dataset_card import card
from mmm_rs_cli import cli
from mmm_rs_hub import upload
from tests import converted
from tests.hub import TOKEN, Hub

ROOT = Path(__file__).parents[1]
SECRET = "secret-of-the-user.jpg"  # lies beside the folder; nothing may open it
SUBSET = "SEN1-2"
KEY = "SEN1-2/ROIs1158_spring_1_p1"

# ------------------------------------------------------------------------------------------------- what is changed


def manifest_of(out: Path) -> dict:
    return json.loads((out / "manifest.json").read_text())


def with_manifest(change: Callable[[dict], object]) -> Callable[[Path], None]:
    """A folder whose manifest was changed and signed again."""

    def apply(out: Path) -> None:
        manifest = manifest_of(out)
        change(manifest)
        with contextlib.suppress(Exception):  # the totals follow, if there is anything to add up
            manifest["subsets"] = mmm_rs.subset_totals(manifest["shards"]) or manifest["subsets"]
        converted.write_manifest(out, manifest)

    return apply


def with_index(change: Callable[[pa.Table], pa.Table]) -> Callable[[Path], None]:
    """A folder in which the index of a subset was changed."""

    def apply(out: Path) -> None:
        path = out / "index" / f"{SUBSET}.parquet"
        pq.write_table(change(pq.read_table(path)), path)
        signed(out)

    return apply


def signed(out: Path) -> None:
    """The manifest with the digests of what the folder now holds, as an attacker would write them."""
    manifest = manifest_of(out)
    for name in manifest["files"]:
        if (out / name).is_file():
            manifest["files"][name] = converted.described(out / name)
    converted.write_manifest(out, manifest)


def replaced(column: str, value: object) -> Callable[[pa.Table], pa.Table]:
    def change(table: pa.Table) -> pa.Table:
        number = table.schema.get_field_index(column)
        field = table.schema.field(column)
        return table.set_column(number, field, pa.array([value] * table.num_rows, field.type))

    return change


def with_shard_named(name: str) -> Callable[[Path], None]:
    """The first shard of a subset has another name, in manifest and index."""

    def apply(out: Path) -> None:
        manifest = manifest_of(out)
        shard = next(row for row in manifest["shards"] if row["subset"] == SUBSET)
        before = shard["name"]
        path = out / "index" / f"{SUBSET}.parquet"
        table = pq.read_table(path)
        number = table.schema.get_field_index("shard")
        names = pc.if_else(pc.equal(table["shard"], before), name, table["shard"])
        pq.write_table(table.set_column(number, "shard", names), path)
        shard["name"] = name
        converted.write_manifest(out, manifest)
        signed(out)

    return apply


def with_image(data: bytes) -> Callable[[Path], None]:
    """Every optical image of a subset has these bytes, as shard, index and manifest say alike."""

    def apply(out: Path) -> None:
        samples = converted.samples()
        for sample in samples:
            if sample.key.startswith(SUBSET):
                sample.images["rgb"] = data
        converted.write(out, samples)

    return apply


def with_prompt(text: str) -> Callable[[Path], None]:
    def apply(out: Path) -> None:
        samples = converted.samples()
        for sample in samples:
            if sample.key.startswith(SUBSET):
                sample.prompts.update(dict.fromkeys(sample.prompts, text))
        converted.write(out, samples)

    return apply


def nested(out: Path) -> None:
    (out / "manifest.json").write_text("[" * 100_000 + "]" * 100_000)


def sparse_member(out: Path) -> None:
    """A tar whose member claims 64 GB of holes (GNU's sparse format)."""
    path = next((out / "data" / SUBSET).glob("*.tar"))
    info = tarfile.TarInfo("SEN1-2/a.jpg")
    info.size = 512
    header = bytearray(info.tobuf(tarfile.GNU_FORMAT))
    header[156:157] = b"S"
    header[386:398] = b"%011o\0" % 0
    header[398:410] = b"%011o\0" % 512
    header[483:495] = b"\x80" + (64 << 30).to_bytes(11, "big")
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    path.write_bytes(bytes(header) + bytes(512 + 1024))
    resigned(out, path)


def resigned(out: Path, path: Path) -> None:
    """Manifest and digests follow a shard that was changed."""
    manifest = manifest_of(out)
    data = path.read_bytes()
    for row in manifest["shards"]:
        if row["name"] == path.relative_to(out).as_posix():
            row.update(bytes=len(data), sha256=hashlib.sha256(data).hexdigest())
    converted.write_manifest(out, manifest)


def much_text(out: Path) -> None:
    """One prompt of 64 kB, 40,000 times: 2.6 GB. The shard is a hole in the disk, large enough for as many samples."""
    name, count = f"data/{SUBSET}/train-00000-of-00001.tar", 40_000
    row = pq.read_table(out / "index" / f"{SUBSET}.parquet").slice(0, 1)
    rows = row.take(pa.array(np.zeros(count, int)))
    for column, value in (("shard", name), ("prompt", "x" * 65_000)):
        field = rows.schema.field(column)
        values = pa.array([value]).dictionary_encode().indices.take(pa.array(np.zeros(count, int)))
        texts = pa.DictionaryArray.from_arrays(values, pa.array([value]))
        rows = rows.set_column(rows.schema.get_field_index(column), pa.field(field.name, texts.type), texts)
    shutil.rmtree(out / "data" / SUBSET)
    (out / "data" / SUBSET).mkdir()
    with open(out / name, "wb") as file:
        file.truncate(count * 2048)
    pq.write_table(rows, out / "index" / f"{SUBSET}.parquet", compression="zstd", store_schema=False)
    manifest = manifest_of(out)
    shard = next(shard for shard in manifest["shards"] if shard["subset"] == SUBSET)
    manifest["shards"] = [shard for shard in manifest["shards"] if shard["subset"] != SUBSET]
    manifest["shards"].append(shard | {"name": name, "bytes": count * 2048, "samples": count, "split": "train"})
    manifest["subsets"] = mmm_rs.subset_totals(manifest["shards"])
    converted.write_manifest(out, manifest)
    signed(out)


def many_scans() -> bytes:
    """A progressive JPEG with hundreds of scans: little to read, long to decode."""
    buffer = io.BytesIO()
    Image.effect_noise((64, 64), 50).convert("RGB").save(buffer, "JPEG", progressive=True)
    data = buffer.getvalue()
    last = data.rfind(b"\xff\xda")
    return data[:-2] + data[last:-2] * 600 + b"\xff\xd9"


EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 64 64\n%%EndComments\nshowpage\n%%EOF\n"
ESCAPES = "farmland \x1b]0;owned\x07\x1b[2J \u202eevil\u2066 line\nmmm-rs: all is fine\r\x9b31m"

FOLDERS: dict[str, Callable[[Path], None]] = {
    "a shard outside the folder": with_shard_named(f"data/../../{SECRET}"),
    "a shard at an absolute path": with_shard_named("{secret}"),
    "a shard at an address": with_shard_named("http://127.0.0.1:9/data/x.tar"),
    "a shard in another folder": with_shard_named("assets/train-00000-of-00001.tar"),
    "a shard with a backslash": with_shard_named(f"data\\..\\{SECRET}"),
    "a shard with a NUL": with_shard_named("data/SEN1-2/train-00000-of-00002.tar\x00.tar"),
    "an index that names a file outside": with_index(replaced("shard", f"data/../../{SECRET}")),
    "an index that names an absolute path": with_index(replaced("shard", "/etc/passwd")),
    "a manifest nested 100,000 deep": nested,
    "a manifest without shards": with_manifest(lambda manifest: manifest.update(shards=None)),
    "a manifest that is a list": lambda out: (out / "manifest.json").write_text("[]"),  # type: ignore[dict-item,func-returns-value,return-value]
    "shards that are texts": with_manifest(lambda manifest: manifest.update(shards=["data/x.tar"])),
    "subsets that are a text": with_manifest(lambda manifest: manifest.update(subsets="SEN1-2")),
    "a subset of another name": with_manifest(
        lambda manifest: manifest["subsets"].update({"../../x": manifest["subsets"].pop(SUBSET)})
    ),
    "a thousand million samples": with_manifest(
        lambda manifest: [
            manifest["subsets"][SUBSET].update(samples=10**9),
            *(row.update(samples=5 * 10**8) for row in manifest["shards"] if row["subset"] == SUBSET),
        ]
    ),
    "a negative number of samples": with_manifest(
        lambda manifest: [row.update(samples=-1) for row in manifest["shards"] if row["subset"] == SUBSET]
    ),
    "a number of samples that is a text": with_manifest(
        lambda manifest: [row.update(samples="5") for row in manifest["shards"] if row["subset"] == SUBSET]
    ),
    "bytes that are not a number": with_manifest(
        lambda manifest: [row.update(bytes=float("nan")) for row in manifest["shards"] if row["subset"] == SUBSET]
    ),
    "offsets of 2**62": with_index(replaced("rgb_offset", 1 << 62)),
    "sizes of 2**62": with_index(replaced("rgb_size", 1 << 62)),
    "offsets and sizes whose sum wraps": lambda out: (  # type: ignore[dict-item,return-value]
        with_index(replaced("rgb_offset", (1 << 63) - 1))(out),
        with_index(replaced("rgb_size", (1 << 63) - 1))(out),
    ),
    "sizes of 2**31": with_index(replaced("rgb_size", 1 << 31)),
    "negative offsets": with_index(replaced("rgb_offset", -512)),
    "an index that is not Parquet": lambda out: (out / "index" / f"{SUBSET}.parquet").write_bytes(b"PAR1" * 9),  # type: ignore[dict-item,func-returns-value,return-value]
    "a key that leads outside": with_index(replaced("key", "SEN1-2/../../escaped")),
    "a key at an absolute path": with_index(replaced("key", "/tmp/mmm-rs-escaped/x")),
    "a key of another subset": with_index(replaced("key", "GID/x")),
    "keys that are null": with_index(replaced("key", None)),
    "images without a CRC": with_index(replaced("rgb_crc32", None)),
    "a file outside that the manifest describes": with_manifest(
        lambda manifest: manifest["files"].update({f"../{SECRET}": {"bytes": 1, "sha256": "0" * 64}})
    ),
    "a device that the manifest describes": with_manifest(
        lambda manifest: manifest["files"].update({"/dev/zero": {"bytes": 1, "sha256": "0" * 64}})
    ),
    "a pipe in the place of the module": lambda out: (  # type: ignore[dict-item,func-returns-value,return-value]
        (out / "mmm_rs.py").unlink(),
        os.mkfifo(out / "mmm_rs.py"),
    ),
    "options of other types": with_manifest(lambda manifest: manifest["options"].update(validation="x", shard_size=[])),
    "options of a later version": with_manifest(lambda manifest: manifest["options"].update(later=1)),
    "exported from a text": with_manifest(lambda manifest: manifest.update(exported_from="x")),
    "exported by an unknown selection": with_manifest(
        lambda manifest: manifest.update(exported_from={"address": None, "digest": "x", "selection": {"bogus": 1}})
    ),
    "exported by a selection of other types": with_manifest(
        lambda manifest: manifest.update(exported_from={"address": None, "digest": "x", "selection": {"limit": "x"}})
    ),
    "a key of escapes": with_index(replaced("key", f"SEN1-2/{ESCAPES}")),
    "a prompt of escapes": with_prompt(ESCAPES),
    "an image that is PostScript": with_image(EPS),
    "an image of hundreds of scans": with_image(many_scans()),
    "a sparse member of 64 GB": sparse_member,
    "an index of some kilobytes with gigabytes of prompts": much_text,
}


@pytest.fixture(scope="module")
def pattern(tmp_path_factory):
    """A friendly folder, which each attack starts from a copy of."""
    out = tmp_path_factory.mktemp("friendly") / "out"
    converted.write(out)
    card.write(out)
    return out


# ------------------------------------------------------------------------------------------------- what is run on it

COMMANDS = {
    "verify": ["verify", "{out}"],
    "card": ["card", "{out}"],
    "preview": ["preview", "{out}", "--output", "{out}-page.html"],
    "show": ["show", "{out}", KEY],
    "report": ["report", "{out}"],
    "export": ["export", "{out}", "{out}-export", "--to", "folder"],
    "upload": ["upload", "{out}", "org/MMM-RS", "--dry-run", "--yes"],
}
CODES = {0, 2, 3, 4, 5, 6}
UNSEEN = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\u200e\u200f]")

_opened: list[str] | None = None


def _audit(event: str, arguments: tuple) -> None:
    if _opened is None:
        return
    if event == "open":
        _opened.append(str(arguments[0]))
    elif event in ("subprocess.Popen", "os.exec", "os.posix_spawn", "os.system"):
        _opened.append(f"program: {arguments[0]}")


sys.addaudithook(_audit)  # of this process, for good: it costs nothing while nobody listens


@contextlib.contextmanager
def opened_files() -> Iterator[list[str]]:
    global _opened
    _opened = []
    try:
        yield _opened
    finally:
        _opened = None


@pytest.fixture(scope="module")
def hub():
    with Hub() as hub:
        yield hub


@pytest.fixture
def hostile(pattern, tmp_path):
    """Makes a folder of FOLDERS; the user's secret lies beside it."""

    def make(name: str) -> Path:
        out = tmp_path / "out"
        shutil.copytree(pattern, out)
        secret = tmp_path / SECRET
        secret.write_bytes(converted.picture("secret", 1))
        FOLDERS[name](out)
        return out

    return make


@pytest.mark.parametrize("name", FOLDERS)
def test_every_command_ends_with_a_line_and_a_code(name, hostile, capsys, monkeypatch, hub):
    monkeypatch.setattr(upload, "default_api", lambda: HfApi(endpoint=hub.url, token=TOKEN))
    out = hostile(name)
    for command, words in COMMANDS.items():
        with opened_files() as opened:
            try:
                code = cli.main([word.format(out=out) for word in words])
            except SystemExit as ended:
                code = ended.code
        printed = capsys.readouterr()
        assert code in CODES, (command, printed.err[-2000:])
        assert "Traceback" not in printed.err, command
        assert len(printed.err.splitlines()) < 40, command
        assert not [line for line in (printed.out + printed.err).splitlines() if UNSEEN.search(line)], command
        assert not [path for path in opened if SECRET in path or path.startswith("program:")], command


@pytest.mark.parametrize("name", FOLDERS)
@pytest.mark.parametrize("streaming", [True, False], ids=["streaming", "prepared"])
def test_the_reader_gives_rows_or_one_error(name, streaming, hostile):
    out = hostile(name)
    with opened_files() as opened, contextlib.suppress(mmm_rs.ReadError, ValueError, UnidentifiedImageError):
        for row in mmm_rs.load_dataset(SUBSET, str(out), split="train", streaming=streaming):
            for modality in ("rgb", "sar"):
                if row[modality] is not None:
                    row[modality].load()
    assert not [path for path in opened if SECRET in path or path.startswith("program:")]


def test_texts_that_expand_without_measure_are_refused(hostile):
    out = hostile("an index of some kilobytes with gigabytes of prompts")
    assert (out / "index" / f"{SUBSET}.parquet").stat().st_size < 50_000
    with pytest.raises(mmm_rs.ReadError, match=rf"{SUBSET}\.parquet: row groups .* far larger"):
        next(iter(mmm_rs.load_dataset(SUBSET, str(out), split="train", streaming=True)))


@pytest.mark.parametrize("form", ["folder", "dataset", "parquet"])
@pytest.mark.parametrize("key", ["SEN1-2/../../escaped", "{folder}/escaped", "SEN1-2//x", "SEN1-2/x.y", "SEN1-2/", ""])
def test_an_export_names_no_file_by_a_strangers_key(key, form, pattern, tmp_path):
    out = tmp_path / "source" / "out"
    shutil.copytree(pattern, out)
    with_index(replaced("key", key.format(folder=tmp_path / "elsewhere")))(out)
    with pytest.raises(MMMRSError, match="is not the key of a sample"):
        export(out, tmp_path / "export", Selection(configs=(SUBSET,)), to=form)
    assert not [path for path in tmp_path.rglob("*escaped*") if "source" not in path.parts]


@pytest.mark.parametrize("limit", ["ulimit -n 12", "ulimit -v 500000"])
def test_little_room_is_one_line(limit, pattern):
    """Too few open files, too little memory: one line, no traceback."""
    command = f"{limit}; exec {sys.executable} -m mmm_rs_cli.cli verify {pattern}"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, cwd=ROOT, check=False)
    errors = [line for line in done.stderr.splitlines() if line.startswith("mmm-rs:")]
    assert (done.returncode, len(errors)) in [(0, 0), (5, 1)], done.stderr
    assert "Traceback" not in done.stderr and "terminate called" not in done.stderr
