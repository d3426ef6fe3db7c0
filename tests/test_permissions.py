"""Whether a token may write, told from the hub's answer before anything is read or sent."""

from __future__ import annotations

import pytest

from mmm_rs_hub.permissions import refusal

REPO = "org/MMM-RS"


def user(role: str | None = "write", *, organisations: dict | None = None, **token: object) -> dict:
    orgs = [{"name": name, "roleInOrg": role} for name, role in ({"org": "write"} | (organisations or {})).items()]
    return {"type": "user", "name": "me", "orgs": orgs, "auth": {"accessToken": {"role": role, **token}}}


def fine_grained(*scopes: tuple[str, str]) -> dict:
    """A token with permissions, each for an entity."""
    scoped = [{"entity": {"type": "org", "name": name}, "permissions": [word]} for name, word in scopes]
    return user("fineGrained", fineGrained={"global": [], "scoped": scoped})


@pytest.mark.parametrize(
    ("identity", "repo"),
    [
        (user(), REPO),
        (user("admin"), REPO),
        (user(organisations={"org": "contributor"}), REPO),
        (user(), "me/MMM-RS"),
        (fine_grained(("org", "repo.write")), REPO),
        (fine_grained(("other", "repo.content.read"), (REPO, "repo.write")), REPO),
    ],
)
def test_a_token_with_the_right_is_let_through(identity, repo):
    assert refusal(identity, repo) is None


@pytest.mark.parametrize(
    ("identity", "reason"),
    [
        (user("read"), "may only read. Run `hf auth login`"),
        (user(organisations={"org": "read"}), "may only read in org"),
        ({**user(), "orgs": []}, "not a member of org"),
        (fine_grained(), f"may not write to {REPO}"),
        (fine_grained(("org", "repo.content.read"), ("other", "repo.write")), f"may not write to {REPO}"),
    ],
)
def test_a_token_without_the_right_is_refused_with_the_reason(identity, reason):
    assert reason in refusal(identity, REPO)


@pytest.mark.parametrize(
    "identity",
    [
        {},
        {"type": "org", "name": "org"},
        {"type": "user", "name": "me", "orgs": [{"name": "org"}]},
        {"type": "user", "name": "me", "orgs": [{"name": "org"}], "auth": None},
        {"type": "user", "name": "me", "orgs": ["x", {"name": "org"}], "auth": {"accessToken": "x"}},
    ],
)
def test_where_the_hub_does_not_say_the_upload_is_tried(identity):
    assert refusal(identity, REPO) is None
