"""The shards and the index, unmodified, in tools that are not ours.

`.ci/matrix` runs this file with `webdataset` 0.2 too. Tools that are not installed are skipped.
"""

from __future__ import annotations

import contextlib
import io
import json
import re
import shlex
import shutil
import subprocess
import sys
import tarfile
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import datasets
import numpy as np
import PIL.Image
import pytest

import mmm_rs
from tests import releases
from tests.conversions import convert, verify
from tests.test_reading_remote import Server

wds = pytest.importorskip("webdataset")

COUNT = 96  # samples of fMoW, in 16 shards


@pytest.fixture(scope="module")
def out(clean_release, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("tools")
    subsets = [clean_release["SEN1-2"], clean_release["WHU-OPT-SAR"], releases.many("fMoW", COUNT)]
    convert(releases.zips_stored(subsets, folder / "release"), folder / "MMM-RS")
    return folder / "MMM-RS"


def shards(out: Path, subset: str) -> list[str]:
    return [str(path) for path in sorted((out / "data" / subset).glob("train-*.tar"))]


def stored(out: Path, subset: str) -> dict[str, dict[str, bytes]]:
    """key -> suffix -> bytes, as `tarfile` reads them, in the order of the shards."""
    samples: dict[str, dict[str, bytes]] = {}
    for shard in shards(out, subset):
        with tarfile.open(shard, "r:") as tar:
            for member in tar:
                key, _, suffix = member.name.partition(".")
                samples.setdefault(key, {})[suffix] = tar.extractfile(member).read()
    return samples


def pixels(data: bytes) -> bytes:
    return PIL.Image.open(io.BytesIO(data)).convert("RGB").tobytes()


# ---------------------------------------------------------------------------------------------------------- webdataset


def test_the_usual_pipeline_of_webdataset(out):
    samples = wds.WebDataset(shards(out, "fMoW"), shardshuffle=False).decode("pil").to_tuple("__key__", "jpg", "txt")
    assert [(key, image.tobytes(), text) for key, image, text in samples] == [
        (key, pixels(members["jpg"]), members["txt"].decode()) for key, members in stored(out, "fMoW").items()
    ]


def test_shuffled_and_in_batches(out):
    samples = wds.WebDataset(shards(out, "fMoW"), shardshuffle=len(shards(out, "fMoW"))).shuffle(50)
    batches = list(samples.decode("pil").to_tuple("__key__", "jpg").batched(8))
    keys = [key for batch, _ in batches for key in batch]
    assert sorted(keys) == sorted(stored(out, "fMoW")) and keys != list(stored(out, "fMoW"))


@pytest.mark.parametrize("subset", ["SEN1-2", "WHU-OPT-SAR"])
def test_members_of_aligned_samples_keep_apart(out, subset):
    """A suffix begins at the first dot, in lower case: `nir.jpg` is a column of its own and nothing meets in one."""
    expected = stored(out, subset)
    samples = {
        sample["__key__"]: {name: value for name, value in sample.items() if not name.startswith("__")}
        for sample in wds.WebDataset(shards(out, subset), shardshuffle=False)
    }
    assert samples == expected
    assert {"jpg", "txt", "sar.jpg", "sar.txt", "json"} <= {
        suffix for members in samples.values() for suffix in members
    }

    decoded = wds.WebDataset(shards(out, subset), shardshuffle=False).decode("pilrgb")
    for sample in decoded:
        members = expected[sample["__key__"]]
        for suffix in members:
            if suffix.endswith("jpg"):
                assert sample[suffix].tobytes() == pixels(members[suffix])
            elif suffix.endswith("txt"):
                assert sample[suffix] == members[suffix].decode()
        assert sample["json"]["subset"] == subset


@pytest.mark.parametrize(("nodes", "workers"), [(1, 1), (1, 4), (2, 2), (4, 4)])
@pytest.mark.parametrize("shuffle", [0, 50])
def test_the_ready_pipeline_reads_each_sample_once_over_nodes_and_workers(out, monkeypatch, nodes, workers, shuffle):
    """Nodes and workers are what `webdataset` takes from the environment of each."""
    seen = []
    for rank in range(nodes):
        for worker in range(workers):
            for name, value in (("RANK", rank), ("WORLD_SIZE", nodes), ("WORKER", worker), ("NUM_WORKERS", workers)):
                monkeypatch.setenv(name, str(value))
            keys = [sample["__key__"] for sample in mmm_rs.webdataset("fMoW", str(out), shuffle=shuffle, decode=None)]
            assert len(keys) == COUNT // (nodes * workers)
            seen += keys
    assert Counter(seen) == dict.fromkeys(stored(out, "fMoW"), 1)
    if (nodes, workers) == (1, 1):
        assert (seen == list(stored(out, "fMoW"))) == (shuffle == 0)


def test_the_ready_pipeline_gives_another_order_each_epoch_and_goes_on(out):
    pipeline = mmm_rs.webdataset("fMoW", str(out), shuffle=50)
    first, second = ([sample["__key__"] for sample in pipeline] for _ in range(2))
    assert first != second and sorted(first) == sorted(second)
    image, text = next(iter(pipeline.compose(wds.to_tuple("jpg", "txt"))))
    assert image.size == (32, 32) and text.startswith("High precision resolution")


def test_the_ready_pipeline_knows_all_and_says_what_there_is(out):
    keys = [sample["__key__"] for sample in mmm_rs.webdataset("all", str(out), shuffle=0)]
    assert sorted(keys) == sorted({**stored(out, "fMoW"), **stored(out, "SEN1-2"), **stored(out, "WHU-OPT-SAR")})
    with pytest.raises(mmm_rs.ReadError, match=r"no shards of Inria\. It has .*fMoW"):
        mmm_rs.webdataset("Inria", str(out))
    with pytest.raises(mmm_rs.ReadError, match=r"fMoW has no split 'validation'\. It has train"):
        mmm_rs.webdataset("fMoW", str(out), split="validation")


@pytest.mark.parametrize("padded", [False, True], ids=["shorter", "same size"])
def test_the_ready_pipeline_raises_for_a_shard_cut_between_two_members(out, tmp_path, padded):
    """Where plain webdataset, as any reader of tars, takes it for the end."""
    copy = Path(shutil.copytree(out, tmp_path / "MMM-RS"))
    shard = Path(shards(copy, "fMoW")[3])
    size = shard.stat().st_size
    with tarfile.open(shard, "r:") as tar:
        start_of_the_last = max(member.offset for member in tar if member.name.endswith(".jpg"))
    with shard.open("r+b") as file:
        file.truncate(start_of_the_last)
        file.truncate(size if padded else start_of_the_last)
    assert len(list(wds.WebDataset(shards(copy, "fMoW"), shardshuffle=False))) == COUNT - 1
    reason = r"2 samples came, the manifest says 3" if padded else r"has \d+ bytes, the manifest says \d+"
    with pytest.raises(mmm_rs.ReadError, match=rf"train-00003-of-00032\.tar: {reason}"):
        list(mmm_rs.webdataset("fMoW", str(copy), shuffle=0))


@pytest.mark.parametrize("door", ["a folder", "a server"])
def test_the_ready_pipeline_raises_for_a_byte_that_is_another(out, tmp_path, door):
    """Which neither the members nor their number show."""
    copy = Path(shutil.copytree(out, tmp_path / "MMM-RS"))
    shard = Path(shards(copy, "fMoW")[3])
    with tarfile.open(shard, "r:") as tar:
        place = next(member.offset_data + member.size // 2 for member in tar if member.name.endswith(".jpg"))
    data = bytearray(shard.read_bytes())
    data[place] ^= 1
    shard.write_bytes(data)
    with Server(copy) if door == "a server" else contextlib.nullcontext() as server:
        pipeline = mmm_rs.webdataset("fMoW", server.url if server else str(copy), shuffle=0, decode=None)
        with pytest.raises(mmm_rs.ReadError, match=r"train-00003-of-00032\.tar: its sha256 is not that") as error:
            list(pipeline)
    assert error.value.args == (str(error.value),)


@pytest.mark.parametrize("after", [0, 600, 3000], ids=["first header", "first member", "later"])
def test_an_error_while_the_ready_pipeline_reads_is_one_line(out, monkeypatch, after):
    """webdataset adds objects to the arguments of the errors that pass through it."""
    plain = mmm_rs.LocalFiles.stream

    def stream(files, name):
        file = plain(files, name)
        parts = iter([file.read(after)])
        return SimpleNamespace(read=lambda size: next(parts, b"") or fail(f"{files}/{name}"), close=file.close)

    def fail(place):
        raise mmm_rs.ReadError(f"{place}: cannot be read, 8 tries: no answer")

    monkeypatch.setattr(mmm_rs.LocalFiles, "stream", stream)
    with pytest.raises(mmm_rs.ReadError) as error:
        list(mmm_rs.webdataset("fMoW", str(out), shuffle=0))
    assert len(error.value.args) == 1
    assert re.fullmatch(r".*/train-\d{5}-of-00032\.tar: cannot be read, 8 tries: no answer", str(error.value))


# --------------------------------------------------------------------------------------- how training scripts read it


def words(captions: list[str], length: int = 12) -> np.ndarray:
    """A tokenizer: a number for each word, cut and padded to `length`."""
    numbers = [[hash(word) % 49_000 + 1 for word in caption.split()][:length] for caption in captions]
    return np.array([row + [0] * (length - len(row)) for row in numbers])


def to_pixel_values(image: PIL.Image.Image, side: int = 16) -> np.ndarray:
    """Resized, channels first, from -1 to 1, as a diffusion model wants it."""
    array = np.asarray(image.resize((side, side)), dtype=np.float32)
    return array.transpose(2, 0, 1) / 127.5 - 1


@pytest.mark.parametrize("streaming", [False, True], ids=["whole", "streaming"])
@pytest.mark.parametrize("subset", ["fMoW", "WHU-OPT-SAR"])
def test_the_data_part_of_a_text_to_image_training_script(out, subset, streaming):
    """As the scripts of `diffusers` do it: columns by name, captions checked, a transform to pixels and tokens."""
    image_column, caption_column, columns = "jpg", "txt", ["pixel_values", "input_ids"]
    dataset = datasets.load_dataset(str(out), subset, streaming=streaming)
    names = dataset["train"].column_names
    assert image_column in names and caption_column in names

    def tokenize_captions(examples):
        captions = []
        for caption in examples[caption_column]:
            if not isinstance(caption, str):
                raise ValueError(f"Caption column `{caption_column}` should contain strings")
            captions.append(caption)
        return words(captions)

    def preprocess_train(examples):
        images = [image.convert("RGB") for image in examples[image_column]]
        return {"pixel_values": [to_pixel_values(image) for image in images], "input_ids": tokenize_captions(examples)}

    if streaming:
        train = dataset["train"].shuffle(seed=42, buffer_size=20)
        train = train.map(preprocess_train, batched=True, batch_size=4, remove_columns=names)
        rows = list(train)
    else:
        train = dataset["train"].shuffle(seed=42).with_transform(preprocess_train)
        rows = [train[number] for number in range(len(train))]

    expected = stored(out, subset)
    assert sorted(rows[0]) == sorted(columns) and len(rows) == len(expected)
    batch = {name: np.stack([np.asarray(row[name]) for row in rows]) for name in columns}  # the script's `collate_fn`
    assert batch["pixel_values"].shape == (len(expected), 3, 16, 16) and abs(batch["pixel_values"]).max() <= 1
    pairs = {
        (row.tobytes(), tuple(ids))
        for row, ids in zip(batch["pixel_values"].astype(np.float32), batch["input_ids"].tolist(), strict=True)
    }
    assert pairs == {
        (
            to_pixel_values(PIL.Image.open(io.BytesIO(members["jpg"])).convert("RGB")).tobytes(),
            tuple(words([members["txt"].decode()])[0].tolist()),
        )
        for members in expected.values()
    }


@pytest.mark.parametrize("subset", ["fMoW", "SEN1-2", "WHU-OPT-SAR"])
def test_the_pipeline_of_a_clip_training(out, subset):
    """As OpenCLIP reads img2dataset's layout: samples that have both, decoded to RGB, renamed, mapped, in batches."""

    def has_caption_and_image(sample):
        return "txt" in sample and any(suffix in sample for suffix in ("png", "jpg", "jpeg", "webp"))

    pipeline = wds.DataPipeline(
        wds.SimpleShardList(shards(out, subset)),
        wds.split_by_node,
        wds.split_by_worker,
        wds.tarfile_to_samples(handler=wds.warn_and_stop),
        wds.shuffle(100, initial=100),
        wds.select(has_caption_and_image),
        wds.decode("pilrgb", handler=wds.reraise_exception),
        wds.rename(image="jpg;png;jpeg;webp", text="txt"),
        wds.map_dict(image=to_pixel_values, text=lambda text: words([text])[0]),
        wds.to_tuple("image", "text"),
        wds.batched(4, partial=True),
    )
    pairs = Counter()
    for images, texts in pipeline:
        assert images.shape[1:] == (3, 16, 16) and texts.shape == (len(images), 12)
        pairs.update((image.tobytes(), tuple(text.tolist())) for image, text in zip(images, texts, strict=True))
    assert pairs == Counter(
        (
            to_pixel_values(PIL.Image.open(io.BytesIO(members["jpg"])).convert("RGB")).tobytes(),
            tuple(words([members["txt"].decode()])[0].tolist()),
        )
        for members in stored(out, subset).values()
        if "jpg" in members and "txt" in members
    )


RECIPES = (Path(__file__).parents[1] / "docs/recipes.md").read_text()


def test_open_clip_trains_by_the_command_of_the_recipe(out, tmp_path, monkeypatch):
    """With a tiny model in the place of the named one."""
    pytest.importorskip("open_clip_train")
    if tuple(map(int, wds.__version__.split(".")[:3])) > (0, 2, 86):
        pytest.skip("OpenCLIP needs webdataset 0.2.86 or older")
    monkeypatch.chdir(tmp_path)
    Path("MMM-RS-hub").symlink_to(out)
    Path("tiny").mkdir()
    vision = {"image_size": 32, "layers": 1, "width": 64, "patch_size": 16}
    text = {"context_length": 77, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1}
    model = {"model_cfg": {"embed_dim": 16, "vision_cfg": vision, "text_cfg": text}, "preprocess_cfg": {}}
    Path("tiny/open_clip_config.json").write_text(json.dumps(model))

    (words,) = re.findall(r"^python (-m open_clip_train\.main .*) \.\.\.$", RECIPES.replace("\\\n", " "), re.M)
    given = {"--train-num-samples": str(COUNT), "--model": f"local-dir:{tmp_path / 'tiny'}", "--batch-size": "8"}
    command = shlex.split(words)
    command = [given.get(before, word) for before, word in zip(["", *command], command, strict=False)]
    more = ["--epochs", "1", "--workers", "1", "--precision", "fp32", "--logs", "logs", "--name", "trial"]
    done = subprocess.run([sys.executable, *command, *more], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    assert f"{COUNT}/{COUNT} (100%)" in done.stderr + done.stdout


# ---------------------------------------------------------------------------------------------------------------- DALI


@pytest.fixture
def sidecars(out, tmp_path, monkeypatch) -> Path:
    """What the recipe writes for DALI, of fMoW."""
    monkeypatch.chdir(tmp_path)
    Path("MMM-RS-hub").symlink_to(out)
    code = re.search(r"^## DALI and NeMo Curator\n.*?^```python\n(.*?)^```$", RECIPES, re.M | re.S)[1]
    names: dict = {}
    exec(code.replace("SEN1-2", "fMoW"), names)
    return tmp_path / names["folder"]


def test_the_index_for_dali_is_what_gnu_tar_lists(sidecars):
    """A line for each sample: of each member its suffix, offset, size and name. Above them, their number."""
    version = subprocess.run(["tar", "--version"], capture_output=True, text=True, check=False).stdout
    if "GNU tar" not in version:
        pytest.skip("tar is not GNU's")
    written = sorted(sidecars.glob("*.idx"))
    assert len(written) == 32
    for path in written:
        listing = ["tar", "--list", "--block-number", "--verbose", "--file", str(path.with_suffix(".tar"))]
        listed = subprocess.run(listing, capture_output=True, text=True, check=True).stdout
        members = re.findall(r"^block (\d+): -\S+ +\S+ +(\d+) \S+ \S+ (\S+)$", listed, re.M)
        lines: dict[str, list[str]] = {}
        for block, size, name in members:
            key, _, suffix = name.partition(".")
            lines.setdefault(key, []).append(f"{suffix} {512 * (int(block) + 1)} {size} {name}")
        expected = [f"v1.2 {len(lines)}", *(" ".join(parts) for parts in lines.values())]
        assert path.read_text() == "".join(f"{line}\n" for line in expected) and len(lines) == COUNT // 32


def test_dali_writes_the_same_index_and_reads_by_it(out, sidecars, tmp_path):
    """On a machine without a GPU too."""
    dali = pytest.importorskip("nvidia.dali")
    for path in sorted(sidecars.glob("*.idx")):
        program = Path(sys.executable).with_name("wds2idx")
        call = [str(program), str(path.with_suffix(".tar")), str(tmp_path / "own.idx")]
        subprocess.run(call, check=True, capture_output=True)
        assert (tmp_path / "own.idx").read_bytes() == path.read_bytes()

    @dali.pipeline_def(batch_size=COUNT, num_threads=1, device_id=None)
    def read():
        paths, indexes = (sorted(map(str, sidecars.glob(pattern))) for pattern in ("*.tar", "*.idx"))
        return tuple(dali.fn.readers.webdataset(paths=paths, index_paths=indexes, ext=["jpg", "txt"]))

    pipeline = read()
    pipeline.build()
    images, texts = pipeline.run()
    came = [(bytes(images.at(number)), bytes(texts.at(number))) for number in range(COUNT)]
    assert sorted(came) == sorted((members["jpg"], members["txt"]) for members in stored(out, "fMoW").values())


# ------------------------------------------------------------------------------------------------------------- energon


def test_megatron_energon_prepares_and_reads_it(out, tmp_path):
    """By the command of docs/recipes.md. It writes beside the shards and leaves them as they are."""
    energon = pytest.importorskip("megatron.energon")
    copy = Path(shutil.copytree(out, tmp_path / "MMM-RS"))
    command = [
        str(Path(sys.executable).with_name("energon")),
        "prepare",
        str(copy / "data" / "fMoW"),
        "--non-interactive",
        "--no-progress",
        "--split-parts",
        r"train:train-.*\.tar",
        "--sample-type",
        "CaptioningSample",
        "--field-map",
        '{"image": "jpg", "caption": "txt"}',
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL)
    assert done.returncode == 0, done.stderr[-3000:]
    for shard in shards(out, "fMoW"):
        assert Path(shard).read_bytes() == (copy / Path(shard).relative_to(out)).read_bytes()

    verify(copy)
    samples = energon.get_train_dataset(
        copy / "data" / "fMoW",
        worker_config=energon.WorkerConfig.default_worker_config(0),
        batch_size=1,
        shuffle_buffer_size=None,
        max_samples_per_sequence=None,
        repeat=False,
    )
    pairs = {}
    for batch in energon.get_loader(samples):
        image = (batch.image[0].numpy() * 255).round().astype(np.uint8)
        pairs[batch.__key__[0]] = image.transpose(1, 2, 0).tobytes(), batch.caption[0]
    assert pairs == {
        key: (pixels(members["jpg"]), members["txt"].decode()) for key, members in stored(out, "fMoW").items()
    }


# ----------------------------------------------------------------------------------------------------- SQL on the index


QUERY = """
    SELECT key, shard, sar_offset, sar_size, sar_prompt FROM {}
    WHERE gsd_level = 'low' AND sar_size IS NOT NULL ORDER BY key
"""


def check_radar_rows(out: Path, rows: list[tuple]) -> None:
    """The rows name the radar images of the aligned subsets, and where their bytes lie."""
    every = {**stored(out, "SEN1-2"), **stored(out, "WHU-OPT-SAR")}
    expected = sorted(
        key
        for key, members in every.items()
        if "sar.jpg" in members and b'"gsd_level":"low"' in members["json"].replace(b" ", b"")
    )
    assert [key for key, *_ in rows] == expected and expected
    for key, shard, offset, size, prompt in rows:
        with (out / shard).open("rb") as file:
            file.seek(offset)
            assert file.read(size) == every[key]["sar.jpg"]
        assert prompt == every[key]["sar.txt"].decode()


def test_duckdb_on_the_index(out):
    duckdb = pytest.importorskip("duckdb")
    check_radar_rows(out, duckdb.sql(QUERY.format(f"'{out}/index/*.parquet'")).fetchall())


def test_polars_on_the_index(out):
    polars = pytest.importorskip("polars")
    check_radar_rows(out, polars.scan_parquet(f"{out}/index/*.parquet").sql(QUERY.format("self")).collect().rows())
