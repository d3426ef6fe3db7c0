"""Where on the hub a dataset goes."""

from __future__ import annotations

import re
from dataclasses import dataclass
from urllib.parse import unquote

from conversion.errors import UsageError
from conversion.job import check_not_a_script

MAIN = "main"  # the branch of every repository


@dataclass(frozen=True)
class Destination:
    """The repository that a command sends to, and what it may do there.

    Raises UsageError for a name that the hub or `datasets` would refuse.
    """

    repo_id: str
    private: bool = False  # it must be private: one that does not exist is created so
    revision: str = MAIN  # the branch, created if it does not exist
    tag: str | None = None  # for the commit that was proved
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
