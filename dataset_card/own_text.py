"""A person's own text in a card, which survives when the card is written again.

It stands between the lines

    <!-- own: NAME -->
    <!-- end own -->

of which the card has two, and anyone may add more. In the YAML the same marks begin with `#`.
"""

from __future__ import annotations

import re
from pathlib import Path

import yaml

from conversion.errors import UsageError

YAML = "yaml"  # the name of the part in the YAML
BEGIN = re.compile(r"^(?:<!-- own: (?P<name>[\w -]+?) -->|# own: yaml)[ \t]*$")
END = re.compile(r"^(?:<!-- end own -->|# end own)[ \t]*$")
OURS_ALONE = {"configs", "dataset_info"}  # keys of the YAML that say how to load the shards


def parts(card: str, path: Path) -> dict[str, str]:
    """The text between the marks of a card, by name.

    Raises UsageError if the marks do not match, or if the card has none: then mmm-rs did not write it.
    """
    kept: dict[str, str] = {}
    name: str | None = None
    lines: list[str] = []

    def refusal(what: str) -> UsageError:
        return UsageError(f"{path}: {what}. Fix the marks around the text that is to be kept, then run again")

    for line in card.splitlines(keepends=True):
        if match := BEGIN.match(line.rstrip("\r\n")):
            if name is not None:
                raise refusal(f"the part `own: {name}` has no end")
            name, lines = match["name"] or YAML, []
            if name in kept:
                raise refusal(f"there are two parts `own: {name}`")
        elif END.match(line.rstrip("\r\n")):
            if name is None:
                raise refusal("an `end own` without its beginning")
            kept[name], name = "".join(lines), None
        elif name is not None:
            lines.append(line)
    if name is not None:
        raise refusal(f"the part `own: {name}` has no end")
    if card.strip() and not kept:
        raise UsageError(
            f"{path}: this card was not written by mmm-rs (it has no `own:` marks), and its text would be lost. Move "
            "it away, then run again"
        )
    return kept


def part(name: str, text: str) -> str:
    """A part with its marks. `text`: empty, or whole lines."""
    if name == YAML:
        return f"# own: {name}\n{text}# end own\n"
    return f"<!-- own: {name} -->\n{text}<!-- end own -->\n"


def inserted(body: str, kept: dict[str, str]) -> str:
    """A card's body with a person's text between its marks; parts that it does not have come last."""
    left = {name: text for name, text in kept.items() if name != YAML}
    body = re.sub(
        r"^<!-- own: ([\w -]+) -->\n<!-- end own -->\n",
        lambda match: part(match[1], left.pop(match[1], "")),
        body,
        flags=re.M,
    )
    return body + "".join("\n" + part(name, text) for name, text in left.items())


def replaced(card: str, name: str, text: str) -> str:
    """A card with `text` in the part `name`."""
    text = text if not text or text.endswith("\n") else text + "\n"
    pattern = rf"^<!-- own: {re.escape(name)} -->\n.*?^<!-- end own -->\n"
    return re.sub(pattern, lambda match: part(name, text), card, count=1, flags=re.M | re.S)


def without(card: str) -> str:
    """A card without a person's text."""
    return re.sub(r"^(?:<!--|#) own: .*?^(?:<!--|#) end own", "", card, flags=re.M | re.S)


def yaml_keys(text: str, path: Path) -> set[str]:
    """The keys of a person's own YAML, which take the place of ours. Raises UsageError if it cannot be used."""
    try:
        data = yaml.safe_load(text) or {}
        keys = set(data)
    except (yaml.YAMLError, TypeError) as error:
        reason = " ".join(str(error).split())
        raise UsageError(
            f"{path}: the YAML between `# own: yaml` and `# end own` is not valid ({reason}). Fix it, then run again"
        ) from None
    if not isinstance(data, dict) or keys & OURS_ALONE:
        raise UsageError(
            f"{path}: the YAML between `# own: yaml` and `# end own` may set any key except configs and dataset_info, "
            "which say how to load the shards. Remove them, then run again"
        )
    return keys
