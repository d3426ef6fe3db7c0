"""Where on the hub a dataset goes."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from conversion.errors import UsageError
from conversion.job import check_not_a_script
from dataset_card.card import REPOSITORY, named_repository

MAIN = "main"  # the branch of every repository
LONGEST_NAME = 96  # characters of a repository, with its owner


@dataclass(frozen=True)
class Destination:
    """The repository that a command sends to, and what it may do there.

    Raises UsageError for a name that the hub or `datasets` would refuse.
    """

    repo_id: str
    private: bool = False  # it must be private: one that does not exist is created so
    revision: str = MAIN  # the branch, created if it does not exist
    tag: str | None = None  # for the verified commit
    yes: bool = False  # send without asking

    def __post_init__(self) -> None:
        check_name(self.repo_id)


def check_name(repo_id: str) -> None:
    """Raises UsageError for the name of a repository that the hub or `datasets` would refuse."""
    from huggingface_hub.utils import HFValidationError, validate_repo_id

    if repo_id.count("/") != 1:
        raise UsageError(f"{repo_id}: not the name of a repository. Give it as org/MMM-RS")
    try:
        validate_repo_id(repo_id)
    except HFValidationError as error:
        reason = " ".join(str(error).split()).rstrip(".")
        raise UsageError(f"{repo_id}: {reason}. Give it as org/MMM-RS") from None
    check_not_a_script(repo_id, repo_id.split("/")[1])


def parse_url(url: str) -> tuple[str, str]:
    """(repository, revision) of `hf://datasets/org/name[@revision]`. Raises UsageError for anything else."""
    match = re.fullmatch(r"hf://datasets/([\w.-]+/[\w.-]+)(?:@([^@]+?))?/?", url)
    if not match:
        raise UsageError(f"{url}: not the address of a dataset. Give hf://datasets/org/name or ...@revision")
    return match[1], unquote(match[2] or MAIN)


def suggested_repository(out: Path, manifest: Mapping[str, Any]) -> str:
    """The repository that a folder's card names; before the first upload an example.

    For an export never the repository that it came from: a part would replace the whole there.
    """
    named = named_repository(out) or REPOSITORY
    if "exported_from" not in manifest:
        return named
    source = source_repository(manifest)
    if named not in (REPOSITORY, source):
        return named
    source = source or REPOSITORY
    base = source.split("/")[1]
    folder = re.sub(r"[^A-Za-z0-9_]+", "-", Path(out).absolute().name).strip("-") or "part"
    if folder.lower() == base.lower():
        folder = "part"
    name = folder if folder.lower().startswith(f"{base.lower()}-") else f"{base}-{folder}"
    return f"{source.split('/')[0]}/{name}"[:LONGEST_NAME].rstrip("-")


def source_repository(manifest: Mapping[str, Any]) -> str | None:
    """The repository that an export came from; None if it came from elsewhere, or is no export."""
    address = manifest.get("exported_from", {}).get("address") or ""
    match = re.match(r"(?:hf:/|https?://[^/]+)/datasets/([\w.-]+/[\w.-]+)", address)
    return match[1] if match else None
