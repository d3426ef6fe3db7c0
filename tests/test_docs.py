"""Every block of Python in README.md and docs/recipes.md runs, as it stands, and does what is said of it.

It runs in a folder that has what `mmm-rs demo` leaves, with a hub on loopback that holds `org/MMM-RS`.
"""

from __future__ import annotations

import ast
import json
import os
import re
import shlex
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

import pytest
from huggingface_hub import HfApi, constants

from conversion import archives, findings
from mmm_rs_cli.arguments import parser
from mmm_rs_cli.demo.synthetic import write_release
from mmm_rs_hub.destination import Destination
from mmm_rs_hub.upload import upload
from tests import tiny_models
from tests.conversions import convert
from tests.hub import TOKEN, Hub

ROOT = Path(__file__).parents[1]
DOCUMENTS = ("README.md", "docs/recipes.md")
SAMPLES = {"SEN1-2": 8, "WHU-OPT-SAR": 8, "fMoW": 13}

# What is to hold after a block, in its own words. A block without an entry here fails.
CHECKS = {
    "README.md: MMM-RS, streamable 1": """
        assert row["rgb"].size == row["nir"].size == (64, 64) and "resolution" in row["prompt"]
    """,
    "README.md: Load it: three doors to the same data 1": """
        assert {"jpg", "txt", "nir.jpg", "nir.txt", "sar.jpg", "sar.txt", "json"} <= set(sample)
        assert sample["jpg"].size == (64, 64) and sample["json"]["subset"] == "WHU-OPT-SAR"
    """,
    "README.md: Load it: three doors to the same data 2": """
        assert {"key", "sar", "sar_prompt", "caption", "category", "gsd", "gsd_level"} <= set(sample)
        assert "rgb" not in sample and sample["key"].startswith("SEN1-2/")
        rows = list(data)
        assert rows and all(row["gsd_level"] == 0 and "airport" in row["prompt"] for row in rows)
    """,
    "README.md: Load it: three doors to the same data 3": """
        import pathlib
        assert len(tars) == SAMPLES["SEN1-2"] and all(pathlib.Path(tar).exists() for tar in tars)
        image, prompt = sample
        assert image.size == (64, 64) and "Sentinel" in prompt
    """,
    "README.md: Train on it 1": """
        assert radar.shape == optical.shape == (3, 3, 64, 64)
        assert len(data) == 2 and torch.isfinite(loss)  # 7 samples have both images
    """,
    "docs/recipes.md: PyTorch 1": """
        assert radar.shape == optical.shape == (3, 3, 256, 256) and len(prompts) == len(level) == 3
        assert progress == 1 and sum(len(batch["key"]) for batch in data) == SAMPLES["SEN1-2"] - 1  # one without radar
    """,
    "docs/recipes.md: PyTorch 2": """
        assert weather.tolist() == [-1] * len(weather) and radar.shape[1:] == (3, 64, 64)
        masks = [batch["sar_mask"] for batch in DataLoader(rows, batch_size=3, collate_fn=collate)]
        assert sum(map(len, masks)) == SAMPLES["WHU-OPT-SAR"] and sum(map(sum, masks)) == SAMPLES["WHU-OPT-SAR"] - 1
    """,
    "docs/recipes.md: Several GPUs, and continuing after a stop 1": """
        whole = begin()
        whole.set_epoch(3)
        assert rest == [key for batch in whole for key in batch["key"]][6:] and len(rest) == SAMPLES["fMoW"] - 3 * 2
    """,
    "docs/recipes.md: Several GPUs, and continuing after a stop 2": """
        assert steps == SAMPLES["fMoW"] // 2 // 2 and len(prompts) == batch_size
        for number in range(2):
            share = split_dataset_by_node(rows, number, 2)
            assert len(list(DataLoader(share, batch_size, collate_fn=lambda rows: rows, drop_last=True))) == steps
    """,
    "docs/recipes.md: Text to image with `diffusers` 1": """
        assert len(train_dataset) == SAMPLES["SEN1-2"] - 1
        assert train_dataset[0]["pixel_values"].size == (256, 256) and "Sentinel-1" in train_dataset[0]["input_ids"]
    """,
    "docs/recipes.md: Text to image with `diffusers` 2": """
        assert latents.shape == (1, 4, 64, 64) and torch.isfinite(loss)
        assert len(optimizer.state) == len(list(model.unet.parameters()))
    """,
    "docs/recipes.md: Optical to radar with ControlNet 1": """
        row = dataset["train"][0]
        assert row["image"].size == row["conditioning_image"].size and "radar" in row["text"]
        assert len(dataset["train"]) == SAMPLES["SEN1-2"] - 1
    """,
    "docs/recipes.md: Optical to radar with ControlNet 2": """
        assert predicted.shape == noise.shape == (3, 4, 64, 64) and torch.isfinite(loss)
        assert len(optimizer.state) == len(list(controlnet.parameters()))
    """,
    "docs/recipes.md: CLIP 1": """
        assert picture.mode == radar.mode == "RGB" and "Sentinel-2" in prompt and "Sentinel-1" in radar_prompt
        assert len(list(pairs("jpg", "txt"))) == SAMPLES["SEN1-2"] == len(list(pairs("sar.jpg", "sar.txt"))) + 1
    """,
    "docs/recipes.md: CLIP 2": """
        assert images.shape == (4, 3, 224, 224) and torch.isfinite(loss) and len(tokens["input_ids"]) == 4
    """,
    "docs/recipes.md: `webdataset` 1": """
        assert {"__key__", "jpg", "txt", "nir.jpg", "nir.txt", "json"} <= set(sample)
        assert len(list(pipeline)) == SAMPLES["WHU-OPT-SAR"]
    """,
    "docs/recipes.md: DALI and NeMo Curator 1": """
        stems = sorted(path.stem for path in folder.glob("*.tar"))
        assert stems == [f"{number:05d}" for number in range(SAMPLES["SEN1-2"])]  # a sample in each
        for stem in stems:
            (key,) = pq.read_table(folder / f"{stem}.parquet")["key"].to_pylist()
            version, line = (folder / f"{stem}.idx").read_text().splitlines()
            suffix, offset, size, name = line.split()[:4]
            assert version == "v1.2 1" and f"{key}.{suffix}" == name
            assert (folder / f"{stem}.tar").read_bytes()[int(offset) :][: int(size)].startswith(b"\\xff\\xd8")
    """,
    "docs/recipes.md: A part of it 1": """
        assert {row["gsd_level"] for row in fine} == {0, 1}
        assert all(row["weather"] == 0 and "river" in row["prompt"] for row in foggy)
        assert keys and all((row["gsd"] or 9) < 1 or row["satellite"] == "GF2" for row in either)
    """,
    "docs/recipes.md: A part of it, in another form 1": """
        assert {row["weather"] for row in dark} == {"fog", "night"}
        assert all(row["image"].size == (64, 64) and row["text"] for row in dark)
    """,
    "docs/recipes.md: A part of it, in another form 2": """
        assert len(sizes) == SAMPLES["SEN1-2"] - 1 and all(size > 500 for _, size in sizes)
    """,
    "docs/recipes.md: One sample 1": """
        assert row["sar"].size == (64, 64) and row["key"].startswith("WHU-OPT-SAR/") and "rgb" not in row
    """,
    "docs/recipes.md: One sample 2": """
        import PIL.Image
        picture = PIL.Image.open("sample.png")
        assert picture.format == "PNG" and picture.width > 2 * picture.height
    """,
    "docs/recipes.md: SQL over the index 1": """
        assert sum(count for subset, _, count in levels if subset == "SEN1-2") == SAMPLES["SEN1-2"]
    """,
    "docs/recipes.md: SQL over the index 2": """
        import io, PIL.Image
        assert PIL.Image.open(io.BytesIO(jpeg)).size == (64, 64)
        assert places.height == SAMPLES["SEN1-2"] + SAMPLES["WHU-OPT-SAR"] - 2
    """,
    "docs/recipes.md: Croissant 1": """
        assert len(samples) == SAMPLES["SEN1-2"] and samples[0]["SEN1-2/rgb"].size == (64, 64)
    """,
    "docs/recipes.md: TensorFlow 1": """
        assert images.shape == (4, 256, 256, 3) and levels.shape == (4,)
    """,
}


class Block(NamedTuple):
    name: str  # document, heading and number under it
    code: str


def blocks() -> list[Block]:
    examples = []
    for document in DOCUMENTS:
        heading, number = "", 0
        for part in re.finditer(r"^##? ([^\n]*)$|^```python\n(.*?)^```$", (ROOT / document).read_text(), re.M | re.S):
            if part[2] is None:
                heading, number = part[1], 0
            else:
                number += 1
                examples.append(Block(f"{document}: {heading} {number}", part[2]))
    return examples


def commands() -> list[list[str]]:
    """The words of every `mmm-rs` command that stands on a line of its own in the documents."""
    text = "\n".join(path.read_text() for path in (ROOT / "README.md", *(ROOT / "docs").glob("*.md")))
    text = text.replace("\\\n", " ")
    lines = re.findall(r"^mmm-rs ((?:'[^'\n]*'|\"[^\"\n]*\"|[^|&;>\n])*)", text, re.M)  # up to an operator of the shell
    return [shlex.split(line, comments=True) for line in lines]


@pytest.mark.parametrize("words", commands(), ids=" ".join)
def test_each_command_that_is_shown_exists(words):
    assert parser().parse_args(words).run


def test_each_block_has_its_check():
    assert [block.name for block in blocks()] == list(CHECKS)


def test_links_between_documents_lead_somewhere():
    documents = [ROOT / "README.md", ROOT / "SECURITY.md", *ROOT.glob("docs/*.md"), *ROOT.glob("benchmarks/*.md")]
    broken = [
        f"{document.relative_to(ROOT)}: {target}"
        for document in documents
        for target in re.findall(r"\]\(([^)#\s]+)[^)]*\)", document.read_text())
        if "://" not in target and not (document.parent / target).exists()
    ]
    assert broken == []


def test_each_test_that_the_table_of_tools_names_is_there():
    named = set(re.findall(r"`(tests/[^`]+)`", (ROOT / "docs/tools.md").read_text()))
    assert len(named) > 6 and [name for name in named if not (ROOT / name).is_file()] == []


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """A folder after `mmm-rs demo`, but with small pictures."""
    place = tmp_path_factory.mktemp("docs")
    release = write_release(place / "mmm-rs-demo", size=64)
    convert(release.path, place / "mmm-rs-demo" / "MMM-RS-hub")
    (place / "MMM-RS-hub").symlink_to(place / "mmm-rs-demo" / "MMM-RS-hub")
    return place


# Each block starts with nothing. Workers are forked, so that they need not import what is nowhere in a file.
RUN = """
import json, multiprocessing, sys, textwrap
multiprocessing.set_start_method("fork")
for name, code, check, samples in json.load(sys.stdin):
    names = {"__name__": "__main__"}
    exec(compile(code, name, "exec"), names)
    exec(compile(textwrap.dedent(check), name + ", check", "exec"), names | {"SAMPLES": samples})
    print(name)
"""


NEEDED = {
    "alone": ("webdataset", "duckdb", "polars", "matplotlib", "mlcroissant"),
    "tensorflow": ("tensorflow",),
    "torch": ("torch", "torchdata"),
    "diffusers": ("torch", "diffusers", "transformers"),
}


def kind(block: Block) -> str:
    """What a block needs, a key of NEEDED."""
    imported = re.findall(r"^(?:import|from) (\w+)", block.code, re.M)
    if "tensorflow" in imported:
        return "tensorflow"
    return "diffusers" if {"diffusers", "transformers"} & {*imported} else "torch" if "torch" in imported else "alone"


@pytest.mark.parametrize("needed", NEEDED)
def test_every_block_runs(place, tmp_path, monkeypatch, needed):
    for package in NEEDED[needed]:
        if find_spec(package) is None:
            pytest.skip(f"{package} is not installed")
    runnable = [block for block in blocks() if kind(block) == needed]
    if needed == "diffusers":
        tiny_models.write(place)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)  # the hub of the tests knows LFS only
    with Hub() as hub:
        upload(
            place / "MMM-RS-hub",
            Destination("org/MMM-RS", yes=True),
            api=HfApi(endpoint=hub.url, token=TOKEN),
            say=lambda line: None,
        )
        done = subprocess.run(
            [sys.executable, "-c", RUN],
            capture_output=True,
            text=True,
            check=False,
            cwd=place,
            input=json.dumps([(*block, CHECKS[block.name], SAMPLES) for block in runnable]),
            env={**os.environ, **hub.environment, "HF_HOME": str(tmp_path / "home"), "PYTHONPATH": str(ROOT)},
        )
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.splitlines() == [block.name for block in runnable]


@pytest.mark.parametrize("heading", ["reason of an image", "reason of a record", "problem of a source"])
def test_docs_explain_each_code_of_the_report_in_the_words_of_the_program(heading):
    table = (ROOT / "docs/format.md").read_text().split(f"| {heading} | meaning |\n|---|---|\n")[1].split("\n\n")[0]
    explained = dict(re.findall(r"^\| `([a-z_]+)` \| (.*) \|$", table, re.M))
    kinds = {
        "reason of an image": findings.IMAGE_REASONS,
        "reason of a record": findings.RECORD_REASONS,
        "problem of a source": findings.PROBLEMS,
    }
    assert explained == kinds[heading]


def test_every_code_that_the_program_gives_is_in_the_tables():
    """Each call that names a code as a literal, wherever it stands in its arguments."""
    codes = findings.REASONS | findings.PROBLEMS
    kinds = {"Reported", "Problem", "DamagedEntry", "RejectedImage"}
    named = set()
    for path in (ROOT / "conversion").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") in kinds:
                words = [a.value for a in node.args if isinstance(a, ast.Constant) and isinstance(a.value, str)]
                named |= {word for word in words if re.fullmatch("[a-z]+(_[a-z]+)+|[a-z]{5,}", word)}
    named -= {"image", "record"}  # kinds, not codes
    assert len(named) > 20 and named - codes.keys() == set()
    assert set(archives.PROBLEMS) <= codes.keys()


def test_troubleshooting_quotes_what_the_program_says():
    """Each bold text in back quotes stands in the source, or is of `datasets` or the system."""
    program = "".join(
        path.read_text()
        for place in ("conversion", "dataset_card", "mmm_rs_cli", "mmm_rs_hub", "mmm_rs.py")
        for path in [*ROOT.glob(place), *ROOT.glob(f"{place}/**/*.py")]
        if path.is_file()
    )
    program = re.sub(r'"\s+f?"', "", program)  # texts that go on in the next line
    quoted = re.findall(r"\*\*`([^`]+)`\*\*", (ROOT / "docs/troubleshooting.md").read_text())
    foreign = {"Dataset scripts are no longer supported", "NonMatchingSplitsSizesError"}
    messages = [part.strip() for text in quoted if text not in foreign for part in text.split("...")]
    assert len(messages) > 20 and [text for text in messages if text not in program] == []
