"""What a token may do, by what the hub says about it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

WRITE = "repo.write"  # the permission of a fine-grained token
LOGIN = "Run `hf auth login`, or set HF_TOKEN to a token that may write"


def refusal(identity: Mapping[str, Any], repo_id: str) -> str | None:
    """Why a token may not write to a dataset repository; None if it may, or if the hub does not say.

    Args:
        identity: The hub's answer to `whoami`.
        repo_id: The repository, which need not exist.
    """
    name, namespace = str(identity.get("name")), repo_id.split("/")[0]
    token = _mapping(_mapping(identity.get("auth")).get("accessToken"))
    role = token.get("role")
    if role == "read":
        return f"the token of {name} may only read. {LOGIN}"
    if role == "fineGrained":
        if not any(_covers(scope, repo_id) for scope in _mappings(_mapping(token.get("fineGrained")).get("scoped"))):
            return f"the token of {name} may not write to {repo_id}. {LOGIN} to the repositories of {namespace}"
        return None  # a token of this kind may not see the organisations
    if identity.get("type") != "user" or namespace == name:
        return None
    roles = {
        organisation.get("name"): organisation.get("roleInOrg") for organisation in _mappings(identity.get("orgs"))
    }
    if namespace not in roles:
        return f"{name} is not a member of {namespace}. Correct the repository's name, or use a member's token"
    if roles[namespace] == "read":
        return f"{name} may only read in {namespace}. Ask its administrators for the right to write"
    return None


def _covers(scope: Mapping[str, Any], repo_id: str) -> bool:
    """Whether a part of a fine-grained token lets it write to the repository or to all of its owner's."""
    permissions = scope.get("permissions")
    name = _mapping(scope.get("entity")).get("name")
    return isinstance(permissions, list) and WRITE in permissions and name in (None, repo_id, repo_id.split("/")[0])


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _mappings(values: Any) -> Iterator[Mapping[str, Any]]:
    yield from (value for value in (values if isinstance(values, list) else []) if isinstance(value, Mapping))
