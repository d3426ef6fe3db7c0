"""The card tells the truth about the folder it stands in, loads it, and keeps what a person wrote."""

from __future__ import annotations

import io
import json
import re
import tarfile
from pathlib import Path

import datasets
import pytest
import yaml
from huggingface_hub import DatasetCard, DatasetCardData
from markdown_it import MarkdownIt
from PIL import Image

import mmm_rs
from conversion.errors import OutputError, UsageError, VerificationError
from dataset_card.card import named_repository, text_faults, write_own
from dataset_card.card import write as write_card
from dataset_card.metadata import size_category
from dataset_card.provenance import PROVENANCE
from dataset_card.statistics import read_converted
from tests import converted

CONFIGS = ["all", "weather", "WHU-OPT-SAR", "SEN1-2", "Inria", "MRSSC2.0"]


@pytest.fixture
def out(tmp_path: Path) -> Path:
    converted.write(tmp_path / "MMM-RS")
    write_card(tmp_path / "MMM-RS")
    return tmp_path / "MMM-RS"


def front_matter(out: Path) -> dict:
    return yaml.safe_load((out / "README.md").read_text().split("---\n")[1])


def infos(out: Path) -> dict[str, dict]:
    return {info["config_name"]: info for info in front_matter(out)["dataset_info"]}


def members(out: Path, config: str) -> dict[str, dict[str, bytes]]:
    """Members by key as tarfile reads them, with a dot in no key."""
    by_key: dict[str, dict[str, bytes]] = {}
    for path in sorted(out.glob("data/*/*.tar" if config == "all" else f"data/{config}/*.tar")):
        with tarfile.open(path) as tar:
            for member in tar:
                key, _, suffix = member.name.partition(".")
                by_key.setdefault(key, {})[suffix] = tar.extractfile(member).read()
    return by_key


# ---------------------------------------------------------------------------------------------------------- the YAML


def test_the_hubs_own_classes_read_the_yaml(out):
    card = DatasetCard.load(out / "README.md")

    assert isinstance(card.data, DatasetCardData)
    assert card.data.language == ["en"]
    assert card.data.task_categories == ["text-to-image", "image-to-text", "image-to-image"]
    assert card.data.size_categories == ["n<1K"]
    assert card.data.license == "other" and card.data.license_name and card.data.license_link
    assert "arxiv:2410.22362" in card.data.tags
    assert card.text.strip().startswith("# MMM-RS")


def test_every_subset_that_holds_a_sample_is_a_config_and_all_comes_first(out):
    front = front_matter(out)
    assert [config["config_name"] for config in front["configs"]] == CONFIGS
    assert [info["config_name"] for info in front["dataset_info"]] == CONFIGS


def test_the_splits_are_counted_from_the_manifest(out):
    manifest = json.loads((out / "manifest.json").read_text())
    for name, subset in manifest["subsets"].items():
        (split,) = infos(out)[name]["splits"]
        assert split == {"name": "train", "num_bytes": subset["bytes"], "num_examples": subset["samples"]}
    assert infos(out)["all"]["splits"][0]["num_examples"] == len(converted.samples())


@pytest.mark.parametrize("config", CONFIGS)
def test_datasets_loads_by_the_yaml_alone_what_is_in_the_tars(out, config):
    stored = members(out, config)
    streamed = list(datasets.load_dataset(str(out), config, split="train", streaming=True))
    loaded = datasets.load_dataset(str(out), config, split="train")  # checks the number of samples

    assert loaded.features == mmm_rs.wds_features(config)
    assert [row["__key__"] for row in streamed] == [row["__key__"] for row in loaded]
    assert {row["__key__"] for row in loaded} == set(stored)
    for row in loaded:
        sample = stored[row["__key__"]]
        assert row["json"] == json.loads(sample["json"])
        for column, feature in loaded.features.items():
            if column in ("__key__", "__url__", "json"):
                continue
            if column not in sample:
                assert row[column] is None
            elif isinstance(feature, datasets.Image):
                assert row[column].tobytes() == Image.open(io.BytesIO(sample[column])).tobytes()
            else:
                assert row[column] == sample[column].decode()


def test_counts_that_are_wrong_are_noticed_when_a_split_is_loaded_whole(out):
    card = (out / "README.md").read_text().replace("num_examples: 6\n", "num_examples: 7\n")
    (out / "README.md").write_text(card)
    with pytest.raises(Exception, match=r"NonMatchingSplitsSizesError|expected"):
        datasets.load_dataset(str(out), "weather", split="train")


def test_new_shards_give_a_new_description_so_that_no_cache_serves_the_old_ones(out):
    before = infos(out)
    dataset = converted.samples()
    dataset[0] = converted.Sample(**{**vars(dataset[0]), "caption": "a farm that has changed"})
    converted.write(out, dataset)
    write_card(out)

    changed = {name for name, info in infos(out).items() if info["description"] != before[name]["description"]}
    assert changed == {"weather", "all"}
    captions = {row["json"]["caption"] for row in datasets.load_dataset(str(out), "weather", split="train")}
    assert "a farm that has changed" in captions


@pytest.mark.parametrize("config", ["Inria", "all"])
def test_the_description_has_the_digest_by_which_the_builder_tells_the_same_shards(out, config, tmp_path):
    builder = mmm_rs.MMMRS(config_name=config, data_dir=str(out), cache_dir=str(tmp_path / "cache"))
    assert infos(out)[config]["description"] == f"shards sha256:{builder.config.digest}"


def test_a_validation_split_is_declared_where_there_is_one(tmp_path):
    dataset = converted.samples()
    dataset[-3:] = [converted.Sample(**{**vars(sample), "split": "validation"}) for sample in dataset[-3:]]
    converted.write(tmp_path, dataset)
    write_card(tmp_path)

    assert [split["name"] for split in infos(tmp_path)["Inria"]["splits"]] == ["train", "validation"]
    assert [split["name"] for split in infos(tmp_path)["MRSSC2.0"]["splits"]] == ["validation"]
    assert [split["num_examples"] for split in infos(tmp_path)["all"]["splits"]] == [17, 3]
    assert len(datasets.load_dataset(str(tmp_path), "all", split="validation")) == 3
    assert "`Inria` 1, `MRSSC2.0` 2" in (tmp_path / "README.md").read_text()


@pytest.mark.parametrize(
    ("samples", "category"),
    [
        (0, "n<1K"),
        (999, "n<1K"),
        (1_000, "1K<n<10K"),
        (99_999, "10K<n<100K"),
        (1_624_968, "1M<n<10M"),
        (10**9, "n>100M"),
    ],
)
def test_the_size_category_is_the_hubs(samples, category):
    assert size_category(samples) == category


# ---------------------------------------------------------------------------------------------------------- the text


def test_it_begins_with_samples_then_a_quick_start_then_the_subsets_with_their_licences(out):
    tokens = MarkdownIt("commonmark").enable("table").parse(body(out))
    kinds = [token.type for token in tokens]
    assert tokens[kinds.index("paragraph_open") + 1].content.startswith("![Samples of weather (RGB), WHU-OPT-SAR (RGB")
    code, table = kinds.index("fence"), kinds.index("table_open")
    assert kinds.index("paragraph_open") < code < table < len(kinds) / 4
    assert len(tokens[code].content.splitlines()) == 5
    head = body(out).split("## ")[0]
    assert "**CC BY-NC-SA**" in head and "[SEN1-2](https://mediatum.ub.tum.de/1436631): CC BY |" in head


def test_its_code_need_not_be_scrolled_in_a_narrow_page(out):
    """A page of 760 pixels holds some 90 letters of code."""
    code = "".join(re.findall(r"^```python\n(.*?)^```$", body(out), flags=re.M | re.S))
    assert max(map(len, code.splitlines())) <= 88


def body(out: Path) -> str:
    return (out / "README.md").read_text().split("---\n", 2)[2]


def test_the_text_counts_what_is_there(out):
    text = (out / "README.md").read_text()
    assert "**31 pairs** of an image and its prompt (20 optical, 4 near infrared, 7 radar) in **20 samples**" in text
    assert "| `WHU-OPT-SAR` | 4 | 4 | 4 | 3 | 5 |" in text
    assert "| `all` | 20 | 20 | 4 | 7 |" in text
    assert "Not in this copy: `fMoW`, `TGRS-HRRSD`, `GID`, `NaSC-TG2`, `HRSC2016`." in text
    assert "`WHU-OPT-SAR`: 1 of 4 samples lack a modality" in text


def test_the_text_says_what_was_left_out_and_why(out):
    text = (out / "README.md").read_text()
    assert "| `SEN1-2` | 11 | 10 | 1 | 11 | 10 | 1 |" in text
    assert "| image | no record | 5 | `weather_dataset/left.jpg`: nothing has its name |" in text
    assert "| `MMM-RS/GID.zip` | truncated | the zip has no central directory |" in text


def test_every_field_is_documented_and_every_source_is_cited(out):
    text = (out / "README.md").read_text()
    for name in mmm_rs.features("all"):
        assert f"| `{name}` |" in text
    assert mmm_rs.CITATION.strip() in text
    for name in CONFIGS[1:]:
        assert PROVENANCE[name].citation.strip() in text
        assert PROVENANCE[name].licence in text
    assert PROVENANCE["fMoW"].citation.strip() not in text


def test_every_picture_of_the_text_is_there_and_has_words_for_those_who_do_not_see_it(out):
    pictures = re.findall(r"!\[(.*?)\]\((.*?)\)", (out / "README.md").read_text())
    assert len(pictures) == 1 + 5 + 2
    for words, path in pictures:
        assert words and (out / path).is_file()


def test_names_and_details_of_the_release_cannot_break_the_card(tmp_path):
    converted.write(tmp_path)
    report = tmp_path / "report" / "summary.json"
    summary = json.loads(report.read_text())
    summary["sources"][0] |= {"path": "a|b`c`\n# d.zip", "detail": "<!-- own: about --> | <b>x</b>\n<!-- end own -->"}
    report.write_text(json.dumps(summary))
    write_card(tmp_path)
    write_card(tmp_path)

    (row,) = [line for line in (tmp_path / "README.md").read_text().splitlines() if "d.zip" in line]
    assert row.startswith(r"| `a\|b'c' # d.zip` | truncated | &lt;!-- own: about") and "<b>" not in row
    assert len(re.findall(r"(?<!\\)\|", row)) == 4


def test_the_same_folder_gives_the_same_card_byte_for_byte(out, tmp_path):
    again = tmp_path / "again"
    converted.write(again)
    write_card(again)
    files = {path.relative_to(out): path.read_bytes() for path in out.rglob("*") if path.is_file()}
    assert files == {path.relative_to(again): path.read_bytes() for path in again.rglob("*") if path.is_file()}


# ------------------------------------------------------------------------------------------------------- own text


def test_a_persons_own_text_and_yaml_survive_a_rewrite(out):
    card = (out / "README.md").read_text()
    card = card.replace("<!-- own: notes -->\n", "<!-- own: notes -->\n## Ours\n\n- kept, with  spaces \n")
    card = card.replace("# own: yaml\n", "# own: yaml\nlicense: mit\nextra_gated_prompt: Who are you?\n")
    card += "\n<!-- own: thanks -->\nTo all.\n<!-- end own -->\n"
    card = card.replace("**31 pairs**", "**many pairs**")
    (out / "README.md").write_text(card)

    for _ in range(2):
        write_card(out)
        text = (out / "README.md").read_text()
        assert "<!-- own: notes -->\n## Ours\n\n- kept, with  spaces \n<!-- end own -->\n" in text
        assert text.endswith("\n<!-- own: thanks -->\nTo all.\n<!-- end own -->\n")
        assert front_matter(out)["license"] == "mit"
        assert front_matter(out)["extra_gated_prompt"] == "Who are you?"
        assert "**31 pairs**" in text  # outside the marks the card is the folder's


def test_a_program_can_write_such_text_too(out):
    write_own(out, "about", "> This is synthetic.")
    write_card(out)
    write_own(out, "notes", "One.\n")
    write_own(out, "notes", "Two.\n")
    text = (out / "README.md").read_text()
    assert "<!-- own: about -->\n> This is synthetic.\n<!-- end own -->\n" in text
    assert "<!-- own: notes -->\nTwo.\n<!-- end own -->\n" in text
    with pytest.raises(UsageError, match="no part `own: thanks`"):
        write_own(out, "thanks", "x")


def test_the_repository_that_the_examples_name_is_kept(out):
    assert 'load_dataset("org/MMM-RS", "SEN1-2"' in (out / "README.md").read_text()
    write_card(out, "them/Their-MMM-RS")
    write_card(out)
    text = (out / "README.md").read_text()
    assert 'load_dataset("them/Their-MMM-RS", "SEN1-2"' in text and "org/MMM-RS" not in text


def test_a_repository_that_a_persons_own_text_names_is_not_the_cards(out):
    write_card(out, "them/Their-MMM-RS")
    write_own(out, "about", 'It goes well with `load_dataset("else/Other")`.\n')
    assert named_repository(out) == "them/Their-MMM-RS"
    write_card(out)
    assert 'load_dataset("them/Their-MMM-RS", "SEN1-2"' in (out / "README.md").read_text()


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda card: card.replace("<!-- end own -->", "", 1), "`own: about` has no end"),
        (lambda card: card.replace("<!-- own: about -->\n", ""), "an `end own` without its beginning"),
        (lambda card: card.replace("own: notes", "own: about"), "two parts `own: about`"),
        (lambda card: card.replace("# own: yaml\n", "# own: yaml\na: [\n"), "between `# own: yaml` and `# end own`"),
        (lambda card: card.replace("# own: yaml\n", "# own: yaml\nconfigs: []\n"), "any key except configs"),
        (lambda card: "# My own card\n", "was not written by mmm-rs"),
    ],
)
def test_a_card_that_cannot_be_rewritten_without_losing_text_is_left_alone(out, edit, message):
    (out / "README.md").write_text(edit((out / "README.md").read_text()))
    before = (out / "README.md").read_bytes()
    with pytest.raises(UsageError, match=re.escape(message)) as error:
        write_card(out)
    assert str(out / "README.md") in str(error.value)
    assert (out / "README.md").read_bytes() == before


# ---------------------------------------------------------------------------------------------------------- checks


def test_a_card_that_says_something_else_than_the_manifest_is_told(out):
    card = (out / "README.md").read_text()
    folder = read_converted(out)
    assert text_faults(card, folder) == []
    assert text_faults("# no YAML", folder)[0] == "README.md: has no YAML"
    assert text_faults(card.replace("num_examples: 6\n", "num_examples: 7\n"), folder) == [
        "README.md: dataset_info of weather is not what manifest and index say"
    ]
    table = "README.md: the table of subsets says ['7', '6', '', ''] for weather, manifest and index say"
    assert text_faults(card.replace("| `weather` | 6 |", "| `weather` | 7 |"), folder)[0].startswith(table)
    assert text_faults(card.replace("data/Inria/train-*.tar", "data/Inria/*.tar"), folder) == [
        "README.md: configs of Inria is not what manifest and index say",
    ]


def test_a_folder_without_manifest_index_or_report_is_refused(out):
    for name in ("index/Inria.parquet", "report/summary.json", "manifest.json"):
        (out / name).unlink()
        with pytest.raises(OutputError, match=r"convert") as error:
            write_card(out)
        assert name in str(error.value)


def test_an_edited_manifest_is_refused(out):
    manifest = (out / "manifest.json").read_text()
    (out / "manifest.json").write_text(manifest.replace('"samples": 6', '"samples": 7', 1))
    with pytest.raises(VerificationError, match=r"manifest\.json: was edited"):
        write_card(out)


def test_an_index_that_is_not_the_manifests_is_refused(out):
    (out / "index" / "Inria.parquet").write_bytes((out / "index" / "weather.parquet").read_bytes())
    with pytest.raises(OutputError, match=r"Inria\.parquet: its 6 samples"):
        write_card(out)
