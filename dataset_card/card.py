"""The dataset card, `README.md`: YAML that makes the folder loadable without code, and the text for people.

Every number and every statement about this copy comes from its manifest, index and report; facts about a subset's
origin come from `mmm_rs.SUBSETS`. The same folder gives the same card, byte for byte.

A person's own text survives a rewrite where it stands between the lines

    <!-- own: layout.CARD -->
    <!-- end own -->

of which the card has two, and anyone may add more. The same marks with `#` do it for the YAML.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

import mmm_rs
from conversion import layout
from conversion.disk import write_file
from conversion.errors import MMMRSError, UsageError
from dataset_card import text
from dataset_card.statistics import Converted, read_converted

if TYPE_CHECKING:
    from dataset_card.figures import Read

REPOSITORY = "org/MMM-RS"  # stands in the examples until the first upload tells the real one
SIZES = (1_000, 10_000, 100_000, 1_000_000, 10_000_000, 100_000_000)  # bounds of the hub's size categories, samples

OWN = re.compile(r"^(?:<!-- own: (?P<name>[\w -]+?) -->|# own: yaml)[ \t]*$")
END = re.compile(r"^(?:<!-- end own -->|# end own)[ \t]*$")


def write(out: str | os.PathLike[str], repo_id: str | None = None, read: Read | None = None) -> None:
    """Write the card, its pictures and `croissant.json` of a converted folder from what the folder holds, and beside
    them the module that loads it.

    `repo_id`: the repository that the examples name; without it the one that the card named before. `read`: where the
    bytes of shards are read from, instead of the folder.

    Raises OutputError where the folder is not a finished conversion or cannot be written, VerificationError where its
    manifest was edited, UsageError where a card is there that cannot be rewritten without losing a person's text.
    """
    from dataset_card.croissant import write_croissant
    from dataset_card.figures import write_figures

    out = Path(out)
    converted = read_converted(out)
    before = _read(out / layout.CARD)
    write_file(out / layout.MODULE, Path(mmm_rs.__file__).read_bytes())
    pictures = write_figures(converted, read)
    write_croissant(converted)
    card = render(
        converted, pictures, repo_id or repository(before) or REPOSITORY, own_parts(before, out / layout.CARD)
    )
    write_file(out / layout.CARD, card.encode())


def written() -> tuple[str, ...]:
    """What `write` writes into every converted folder."""
    return layout.CARD, layout.CROISSANT, layout.MODULE, layout.PAIRS_FIGURE, layout.PROMPTS_FIGURE


def check(out: Path) -> None:
    """Raises UsageError where a card is there that cannot be rewritten without losing a person's text."""
    path = out / layout.CARD
    _own_keys(own_parts(_read(path), path).get("yaml", ""), path)


def render(converted: Converted, pictures: list[str], repo_id: str, own: dict[str, str]) -> str:
    """The whole card. `own`: name of a kept part -> its text, lines included."""
    kept = dict(own)
    own_yaml = kept.pop("yaml", "")
    theirs = _own_keys(own_yaml, converted.out / layout.CARD)
    ours = {key: value for key, value in metadata(converted).items() if key not in theirs}
    front = yaml.safe_dump(ours, sort_keys=False, allow_unicode=True, width=2**20) + _part("yaml", own_yaml, "#")
    body = re.sub(
        r"^<!-- own: ([\w -]+) -->\n<!-- end own -->\n",
        lambda match: _part(match[1], kept.pop(match[1], "")),
        text.body(converted, pictures, repo_id),
        flags=re.M,
    )
    body += "".join("\n" + _part(name, kept[name]) for name in kept)  # parts that a person has added
    return f"---\n{front}---\n\n{body}"


def _own_keys(own: str, path: Path) -> set[str]:
    """Keys of a person's own YAML, which take the place of ours. Raises UsageError where it cannot be used."""
    try:
        data = yaml.safe_load(own) or {}
        keys = set(data)
    except (yaml.YAMLError, TypeError) as error:
        problem = " ".join(str(error).split())
        raise UsageError(
            f"{path}: the YAML between `# own: yaml` and `# end own` is none ({problem}). Mend it"
        ) from None
    if not isinstance(data, dict) or keys & {"configs", "dataset_info"}:
        raise UsageError(
            f"{path}: the YAML between `# own: yaml` and `# end own` may set any key but configs and "
            "dataset_info, which say how to load the shards. Remove them"
        )
    return keys


def _part(name: str, kept: str, mark: str = "<!--") -> str:
    if mark == "#":
        return f"# own: {name}\n{kept}# end own\n"
    return f"<!-- own: {name} -->\n{kept}<!-- end own -->\n"


def own_parts(card: str, path: Path) -> dict[str, str]:
    """The text between the marks of a card, by name.

    Raises UsageError where the marks do not match, or where there is a card without any: it was not written here.
    """
    parts: dict[str, str] = {}
    name: str | None = None
    lines: list[str] = []

    def refuse(what: str) -> UsageError:
        return UsageError(f"{path}: {what}. Mend the marks around the text that is to be kept, then run again")

    for line in card.splitlines(keepends=True):
        if match := OWN.match(line.rstrip("\r\n")):
            if name is not None:
                raise refuse(f"the part `own: {name}` has no end")
            name, lines = match["name"] or "yaml", []
            if name in parts:
                raise refuse(f"there are two parts `own: {name}`")
        elif END.match(line.rstrip("\r\n")):
            if name is None:
                raise refuse("an `end own` without its beginning")
            parts[name], name = "".join(lines), None
        elif name is not None:
            lines.append(line)
    if name is not None:
        raise refuse(f"the part `own: {name}` has no end")
    if card.strip() and not parts:
        raise UsageError(
            f"{path}: this card was not written by mmm-rs (it has no `own:` marks), so writing it anew "
            "would lose it. Move it away, then run again"
        )
    return parts


def write_own(out: str | os.PathLike[str], name: str, kept: str) -> None:
    """Put text of one's own into the card's part `name`, instead of what stands there.

    Raises UsageError where the card has no such part.
    """
    path = Path(out) / layout.CARD
    card = _read(path)
    if name not in own_parts(card, path):
        raise UsageError(f"{path}: has no part `own: {name}`. Write the card anew first: `mmm-rs card {out}`")
    part = rf"^<!-- own: {re.escape(name)} -->\n.*?^<!-- end own -->\n"
    kept = kept if not kept or kept.endswith("\n") else kept + "\n"
    write_file(path, re.sub(part, lambda match: _part(name, kept), card, count=1, flags=re.M | re.S).encode())


def repository(card: str) -> str | None:
    """The repository that a card's examples name."""
    ours = re.sub(r"^(?:<!--|#) own: .*?^(?:<!--|#) end own", "", card, flags=re.M | re.S)
    found = re.search(r'load_dataset\("([\w.-]+/[\w.-]+)"', ours)
    return found[1] if found else None


def named_repository(out: Path) -> str | None:
    """The repository that the examples of a folder's card name; None where it has no card."""
    return repository(_read(out / layout.CARD))


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return ""
    except (OSError, ValueError) as error:
        raise UsageError(f"{path}: cannot be read ({error}). Move it away, then run again") from None


def metadata(converted: Converted) -> dict[str, Any]:
    """The card's YAML, in the hub's vocabulary."""
    samples = sum(statistics.samples for statistics in converted.statistics.values())
    modalities = {m for statistics in converted.statistics.values() for m in statistics.modalities}
    return {
        "pretty_name": "MMM-RS",
        **text.LICENCE,
        "language": ["en"],
        "task_categories": ["text-to-image", "image-to-text", "image-to-image"],
        "size_categories": [size_category(samples)],
        "tags": [
            "remote-sensing",
            "earth-observation",
            "satellite-imagery",
            "gsd",
            "multi-modal",
            "webdataset",
            *(tag for modality, tag in (("nir", "near-infrared"), ("sar", "sar")) if modality in modalities),
            "arxiv:2410.22362",
        ],
        "configs": [
            {"config_name": name, "data_files": _data_files(converted, names)} for name, names in configs(converted)
        ],
        "dataset_info": [_dataset_info(converted, name, names) for name, names in configs(converted)],
    }


def faults(out: Path) -> list[str]:
    """What the card of a folder says wrongly, or why that cannot be told, and what of `written` is missing."""
    remedy = f"Run `mmm-rs card {out}`"
    missing = [
        f"{out / name}: is missing. {remedy}"
        for name in written()
        if name != layout.CARD and not (out / name).is_file()
    ]
    try:
        card = (out / layout.CARD).read_text(encoding="utf-8", errors="replace")
    except OSError as error:
        return [*missing, f"{out / layout.CARD}: cannot be read: {error.strerror}. {remedy}"]
    try:
        converted = read_converted(out)
    except MMMRSError as error:
        return [*missing, str(error)]
    return [*missing, *(f"{out}/{fault}. {remedy}" for fault in text_faults(card, converted))]


def text_faults(card: str, converted: Converted) -> list[str]:
    """What a card says wrongly: how to load these shards, or how many samples and pairs they hold."""
    found = re.match(r"---\r?\n(.*?)\r?\n---", card, re.S)
    try:
        said = yaml.safe_load(found[1]) if found else None
    except yaml.YAMLError as error:
        return [f"{layout.CARD}: its YAML cannot be read: {' '.join(str(error).split())}"]
    if not isinstance(said, dict):
        return [f"{layout.CARD}: has no YAML"]
    expected = metadata(converted)
    wrong = []
    for key in ("configs", "dataset_info"):
        there = said.get(key) or []  # the hub itself writes a single entry without its list
        by_name = {
            one.get("config_name"): one
            for one in (there if isinstance(there, list) else [there])
            if isinstance(one, dict)
        }
        for one in expected[key]:
            if by_name.pop(one["config_name"], None) != one:
                wrong.append(f"{layout.CARD}: {key} of {one['config_name']} is not what manifest and index say")
        wrong += [f"{layout.CARD}: {key} has {name}, of which there is no shard" for name in by_name]
    for config, counts in text.counts(converted).items():
        row = re.search(rf"^\| `{re.escape(config)}` \|(.*)$", card, re.M)
        cells = [cell.strip() for cell in row[1].split("|")][: len(counts)] if row else None
        if cells != counts:
            wrong.append(
                f"{layout.CARD}: the table of subsets says {cells} for {config}, manifest and index say {counts}"
            )
    return wrong


def size_category(samples: int) -> str:
    """The hub's name for a number of samples: `n<1K`, `1K<n<10K`, ..."""
    names = [f"{bound // 1000}K" if bound < 10**6 else f"{bound // 10**6}M" for bound in SIZES]
    at = sum(samples >= bound for bound in SIZES)
    if at == 0:
        return f"n<{names[0]}"
    return f"n>{names[-1]}" if at == len(SIZES) else f"{names[at - 1]}<n<{names[at]}"


def configs(converted: Converted) -> list[tuple[str, list[str]]]:
    """(config, its subsets): each subset that holds a sample, then all of them together."""
    return [*((name, [name]) for name in converted.subsets), (mmm_rs.ALL, converted.subsets)]


def _data_files(converted: Converted, names: list[str]) -> list[dict[str, Any]]:
    """Patterns by split. One a subset, so that nothing else that lies under `data` is ever taken for a shard."""
    return [
        {"split": split, "path": [f"data/{name}/{split}-*.tar" for name in names if split in _splits(converted, name)]}
        for split in mmm_rs.split_names(converted.manifest, names)
    ]


def _dataset_info(converted: Converted, config: str, names: list[str]) -> dict[str, Any]:
    splits = []
    for split in mmm_rs.split_names(converted.manifest, names):
        parts = [_splits(converted, name)[split] for name in names if split in _splits(converted, name)]
        splits.append(
            {
                "name": split,
                "num_bytes": sum(part["bytes"] for part in parts),
                "num_examples": sum(part["samples"] for part in parts),
            }
        )
    size = sum(split["num_bytes"] for split in splits)
    digest = mmm_rs.subsets_digest(converted.manifest, names)  # a new one makes `datasets` leave its cache
    return {
        "config_name": config,
        "description": f"shards sha256:{digest}",
        "features": mmm_rs.wds_features(config)._to_yaml_list(),
        "splits": splits,
        "download_size": size,
        "dataset_size": size,
    }


def _splits(converted: Converted, name: str) -> dict[str, dict[str, Any]]:
    return converted.manifest["subsets"][name]["splits"]
