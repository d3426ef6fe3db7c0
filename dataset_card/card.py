"""The dataset card, `README.md`: YAML that makes the folder loadable without code, and the text for people.

Every number and every statement about this copy comes from its manifest, index and report; facts about a subset's
origin come from `dataset_card.provenance`. The same folder gives the same card, byte for byte. A person's own text
survives (see `dataset_card.own_text`).

This module satisfies `conversion.card.Card`: hand it to `convert` and `verify`.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING

import yaml

from conversion import layout
from conversion.disk import write_file
from conversion.errors import MMMRSError, UsageError
from dataset_card import metadata, own_text, text
from dataset_card.statistics import Converted, read_converted

if TYPE_CHECKING:
    from conversion.placed import Read

REPOSITORY = "org/MMM-RS"  # stands in the examples until the first upload tells the real one


def write(out: str | os.PathLike[str], repo_id: str | None = None, read: Read | None = None) -> None:
    """Write the card of a converted folder, its pictures and `croissant.json`.

    Args:
        out: The converted folder.
        repo_id: The repository that the examples name (default: the one that the card named before).
        read: Reads bytes of shards (default: from the folder).

    Raises:
        OutputError: The folder is not a finished conversion, or cannot be written.
        VerificationError: Its manifest was edited, or an image that the card shows is damaged.
        UsageError: It has a card that cannot be written again without losing a person's text.
    """
    from dataset_card.channels import equal_channels
    from dataset_card.croissant import write_croissant
    from dataset_card.figures import write_figures

    out = Path(out)
    converted = read_converted(out)
    before = _read(out / layout.CARD)
    pictures = write_figures(converted, read)
    write_croissant(converted)
    kept = own_text.parts(before, out / layout.CARD)
    repo_id = repo_id or repository(before) or REPOSITORY
    card = render(converted, pictures, repo_id, kept, equal_channels(converted, read))
    write_file(out / layout.CARD, card.encode())


def address(out: Path, repo_id: str, base: str) -> None:
    """Make the examples of the card name a repository, and `croissant.json` the addresses of the files there.

    Raises what `write` does.
    """
    from dataset_card import croissant

    if named_repository(out) != repo_id:
        write(out, repo_id)
    described = croissant.render(read_converted(out), base)
    if _read(out / layout.CROISSANT) != described:
        write_file(out / layout.CROISSANT, described.encode())


def written() -> tuple[str, ...]:
    """What `write` writes into every converted folder."""
    return layout.CARD, layout.CROISSANT, layout.PAIRS_FIGURE, layout.PROMPTS_FIGURE


def check(out: Path) -> None:
    """Raises UsageError if a card is there that cannot be written again without losing a person's text."""
    path = out / layout.CARD
    own_text.yaml_keys(own_text.parts(_read(path), path).get(own_text.YAML, ""), path)


def faults(out: Path) -> list[str]:
    """What the card of a folder and `croissant.json` say wrongly, or why that cannot be told, and which files of
    `written` and pictures of the card are missing or damaged."""
    remedy = f"Run `mmm-rs card {out}`"
    try:
        card, unread = (out / layout.CARD).read_text(encoding="utf-8", errors="replace"), []
    except OSError as error:
        card, unread = "", [f"{layout.CARD}: cannot be read: {error.strerror}"]
    shown = {name for name in layout.FIGURES if name in card}
    names = [*written(), *sorted(shown.difference(written()))]
    faults = [f"{name}: is missing" for name in names if name != layout.CARD and not (out / name).is_file()]
    faults += [
        f"{name}: is not a whole picture" for name in names if name in layout.FIGURES and not _is_whole(out / name)
    ]
    try:
        converted = read_converted(out)
    except MMMRSError as error:
        return [*(f"{out}/{fault}. {remedy}" for fault in [*faults, *unread]), str(error)]
    faults += unread or text_faults(card, converted)
    faults += croissant_faults(out, converted) if (out / layout.CROISSANT).is_file() else []
    return [f"{out}/{fault}. {remedy}" for fault in faults]


def croissant_faults(out: Path, converted: Converted) -> list[str]:
    """What is wrong with the `croissant.json` of a folder or of what was fetched of a copy on the hub."""
    from dataset_card import croissant

    try:
        described = (out / layout.CROISSANT).read_text(encoding="utf-8", errors="replace")
    except OSError as error:
        return [f"{layout.CROISSANT}: cannot be read: {error.strerror}"]
    if described != croissant.render(converted, croissant.base_of(described) or ""):
        return [f"{layout.CROISSANT}: is not what manifest and index say"]
    return []


def _is_whole(picture: Path) -> bool:
    """Whether a picture can be decoded to its end; so can one that is not there."""
    from conversion import images

    try:
        images.measure(picture.read_bytes(), decode=True)
    except FileNotFoundError:
        return True
    except (OSError, images.RejectedImage):
        return False
    return True


def text_faults(card: str, converted: Converted) -> list[str]:
    """What a card says wrongly: how to load these shards, or how many samples and pairs they hold."""
    lines = [*metadata.faults(card, converted), *text.faults(card, converted)]
    return [f"{layout.CARD}: {line}" for line in lines]


def render(
    converted: Converted, pictures: list[str], repo_id: str, kept: dict[str, str], equal_channels: str | None
) -> str:
    """The whole card. `kept`: a person's own text by the name of its part. The other arguments: see `text.body`."""
    own_yaml = kept.get(own_text.YAML, "")
    keys = own_text.yaml_keys(own_yaml, converted.out / layout.CARD)
    data = {key: value for key, value in metadata.metadata(converted).items() if key not in keys}
    front = yaml.safe_dump(data, sort_keys=False, allow_unicode=True, width=2**20)
    body = own_text.inserted(text.body(converted, pictures, repo_id, equal_channels), kept)
    return f"---\n{front}{own_text.part(own_text.YAML, own_yaml)}---\n\n{body}"


def write_own(out: str | os.PathLike[str], name: str, kept: str) -> None:
    """Put text of one's own into the card's part `name`, instead of what it holds.

    Raises UsageError if the card has no such part.
    """
    path = Path(out) / layout.CARD
    card = _read(path)
    if name not in own_text.parts(card, path):
        raise UsageError(f"{path}: has no part `own: {name}`. Run `mmm-rs card {out}` first")
    write_file(path, own_text.replaced(card, name, kept).encode())


def repository(card: str) -> str | None:
    """The repository that the examples of a card name."""
    match = re.search(r'load_dataset\("([\w.-]+/[\w.-]+)"', own_text.without(card))
    return match[1] if match else None


def named_repository(out: Path) -> str | None:
    """The repository that the examples of a folder's card name; None if there is no card."""
    return repository(_read(out / layout.CARD))


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return ""
    except (OSError, ValueError) as error:
        raise UsageError(f"{path}: cannot be read ({error}). Move it away, then run again") from None
