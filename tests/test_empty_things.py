"""Whatever a release lacks, prompts, levels, labels, modalities, a second sample, its dataset is complete.

It has a card, figures and a croissant file, `verify` says that it is OK, and the commands that look at it work.
"""

from __future__ import annotations

import itertools
import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import yaml
from PIL import Image

from conversion.options import Options
from tests import releases
from tests.conversions import convert, verify

IMAGES = {
    "rgb": ("Inria", "Inria_dataset/crop_512_{}_0_austin.jpg"),
    "sar": ("SEN1-2", "SEN1-2_SAR/ROIs1158_spring_s1_1_p{}.jpg"),
    "nir": ("WHU-OPT-SAR", "NIR_jpg/NH49E001013_{}_0_NIR.jpg"),
}
PROMPTS = {
    "no prompt": None,
    "a level alone": "Low precision resolution",
    "a caption alone": "a field",
    "commas alone": ",,",
    "all parts": "Satellite imagery, Low precision resolution, fog, farm, a field, GF2, Inria",
}
LABELS = {"no labels": {}, "labels": {"category": "farm", "spatial_resolution": 5, "cloud_cover": 0}}
COMBINATIONS = list(itertools.product(IMAGES, (1, 2), PROMPTS, LABELS))


def release(folder: Path, modality: str, samples: int, prompt: str | None, labels: dict) -> Path:
    subset, pattern = IMAGES[modality]
    files = {pattern.format(number): releases.picture(str(number), modality=modality) for number in range(samples)}
    records = [{"image": path, "prompt": prompt, **labels} for path in files if prompt is not None]
    if records:
        files[f"MMM-RS_{subset}.json"] = json.dumps(records).encode()
    for name, data in files.items():
        path = folder / subset / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return folder


@pytest.mark.parametrize(("modality", "samples", "prompt", "labels"), COMBINATIONS)
def test_every_combination_of_empty_things_gives_a_whole_dataset(modality, samples, prompt, labels, tmp_path, run):
    path = release(tmp_path / "release", modality, samples, PROMPTS[prompt], LABELS[labels])
    out = tmp_path / "out"
    with ThreadPoolExecutor(1) as executor:
        converted = convert(path, out, options=Options(keep_unprompted=True), executor=executor)
    assert converted.reported == 0 and converted.written

    front = yaml.safe_load((out / "README.md").read_text().split("---\n")[1])
    (split,) = next(info for info in front["dataset_info"] if info["config_name"] == IMAGES[modality][0])["splits"]
    assert split["num_examples"] == samples
    json.loads((out / "croissant.json").read_text())
    pictures = sorted((out / "assets").iterdir())
    assert len(pictures) >= 3
    for picture in pictures:
        Image.open(picture).load()

    verify(out, workers=1)
    (index,) = pq.read_table(out / "index", columns=["key"]).slice(0, 1).to_pylist()
    for command in (
        ("report", out),
        ("show", out, index["key"]),
        ("preview", out, "--output", tmp_path / "preview.html"),
    ):
        code, _, errors = run(*command)
        assert (code, errors) == (0, [])


def test_the_command_converts_images_of_which_none_has_a_prompt_and_finds_nothing_to_do_afterwards(tmp_path, run):
    path = release(tmp_path / "release", "rgb", 3, None, {})
    for words in ("complete", "nothing to do"):
        code, printed, _ = run("convert", path, tmp_path / "out", "--keep-unprompted", "--workers", 1)
        assert code == 0 and words in printed
    assert (tmp_path / "out/README.md").is_file()
