"""Permissions: the grammar, and the matcher against a naive reading of it."""

from __future__ import annotations

import pytest
from holdfast.errors import ControlInvalid
from holdfast.resources import actions
from holdfast.resources.actions import GATEWAY_RIGHTS, RIGHTS, Grants, parse
from hypothesis import given
from hypothesis import strategies as st

GOOD = [
    ("repositories/a/content/read", ("repositories", "a", "content/read")),
    ("repositories/team/app/metadata/write", ("repositories", "team/app", "metadata/write")),
    ("repositories/team/*/content/delete", ("repositories", "team/*", "content/delete")),
    ("repositories/*/content/write", ("repositories", "*", "content/write")),
    ("Repositories/Team/App/Content/READ", ("repositories", "team/app", "content/read")),
    ("repositories/content/read/content/read", ("repositories", "content/read", "content/read")),
    ("gateway/plant/config/read", ("gateway", "plant", "config/read")),
    ("gateway/PLANT/message/write", ("gateway", "plant", "message/write")),
]
BAD = [
    *("", "/", "repositories", "repositories/a", "repositories/content/read", "repositories//content/read"),
    *("repositories/a/content/pull", "repositories/a/content", "repositories/a/content/read/"),
    *(
        "repositories/a/*/b/content/read",
        "repositories/a/team*/content/read",
        "repositories/*/*/content/read",
    ),
    *("repositories/**/content/read", "repositories/a/**/content/read", "repositories/*a/content/read"),
    *("repositories/a/config/read", "repository/a/content/read", " repositories/a/content/read"),
    *("repositories/a/content/read\n", "repositories/a b/content/read", "repositories/../content/read"),
    *(
        "gateway/abcd/config/read",
        "gateway/*/config/read",
        "gateway/plant/content/read",
        "gateway/plant/config",
    ),
    *(
        "gateway/1plant/config/read",
        "gateway/pla-nt/config/read",
        "registry/catalog/*",
        "repositories/ä/content/read",
    ),
    f"repositories/{'a' * 256}/content/read",
]


@pytest.mark.parametrize(("text", "wanted"), GOOD)
def test_an_action_is_taken_apart_without_its_casing(text: str, wanted: tuple[str, str, str]) -> None:
    assert parse(text) == wanted
    assert parse(parse(text).text) == wanted


@pytest.mark.parametrize("text", BAD)
def test_what_is_no_action_is_refused_with_the_grammar(text: str) -> None:
    with pytest.raises(ControlInvalid, match="allowed: repositories/") as refusal:
        parse(text)
    assert refusal.value.detail == "actions"
    assert Grants.of([text]).is_empty


segments = st.sampled_from(["a", "b", "team", "app"])
repositories = st.lists(segments, min_size=1, max_size=4).map("/".join)
patterns = st.one_of(repositories, repositories.map("{}/*".format), st.just("*"))
rights = st.sampled_from(RIGHTS)
granted = st.builds("repositories/{}/{}".format, patterns, rights)
lists = st.lists(granted, max_size=8)


def naive(action: str, repository: str, right: str) -> bool:
    """The words of references.md 1.18, one rule at a time."""
    _, name, given_right = parse(action)
    if given_right != right:
        return False
    if name == "*":
        return True
    if name.endswith("/*"):
        return repository.startswith(name[:-1])
    return repository == name


@given(lists, repositories, rights)
def test_s23_the_matcher_is_the_naive_reading(texts: list[str], repository: str, right: str) -> None:
    wanted = any(naive(text, repository, right) for text in texts)
    grants = Grants.of(texts)
    assert grants.allows(repository, right) is wanted
    assert grants.allows(repository.upper(), right) is wanted


@given(lists, lists, repositories, rights)
def test_s23_more_actions_never_allow_less(
    texts: list[str], more: list[str], repository: str, right: str
) -> None:
    if Grants.of(texts).allows(repository, right):
        assert Grants.of([*more, *texts]).allows(repository, right)


@given(lists, patterns, rights, repositories)
def test_what_is_covered_is_allowed(texts: list[str], pattern: str, right: str, repository: str) -> None:
    grants, text = Grants.of(texts), f"repositories/{pattern}/{right}"
    if grants.covers(parse(text)) and naive(text, repository, right):
        assert grants.allows(repository, right)
    assert Grants.of([text]).covers(parse(text))


@given(lists, repositories, st.text(max_size=12))
def test_what_is_no_right_is_denied(texts: list[str], repository: str, right: str) -> None:
    if right not in RIGHTS:
        assert not Grants.of(texts).allows(repository, right)


def test_a_pattern_is_below_its_name_and_not_beside_it() -> None:
    grants = Grants.of(["repositories/team/*/content/read"])
    assert grants.allows("team/app", "content/read")
    assert grants.allows("team/a/b/c", "content/read")
    assert not grants.allows("team", "content/read")
    assert not grants.allows("teams/app", "content/read")
    assert not grants.allows("x/team/app", "content/read")
    assert not grants.allows("", "content/read")


def test_gateways_are_their_own() -> None:
    grants = Grants.of([*actions.of_gateway("Plant"), "repositories/*/content/read"])
    assert all(grants.gateway(name, right) for name in ("plant", "PLANT") for right in GATEWAY_RIGHTS)
    assert not grants.gateway("other", "config/read")
    assert not grants.gateway("plant", "content/read")
    assert not Grants.of(actions.of_repository("*", RIGHTS)).gateway("plant", "config/read")


def test_lists_merge_without_casing_and_keep_the_first() -> None:
    held = ("repositories/A/content/read", "repositories/b/content/read")
    merged = actions.merged(held, ["repositories/a/content/READ", "repositories/c/content/read"])
    assert merged == (*held, "repositories/c/content/read")
    assert actions.without(merged, ["REPOSITORIES/a/content/read"]) == merged[1:]
