"""Selections: repositories, tags, platforms, referrers, and the report of a filter that selects nothing."""

from __future__ import annotations

from typing import Any

import pytest
from holdfast.config import SyncRepositorySection
from holdfast.config_file import from_table
from holdfast.oci.platforms import Platforms
from holdfast.sync.source.selection import Rule, Selection, TagFact
from holdfast.sync.source.version import Range, RangeInvalid, Version, version_of
from hypothesis import given
from hypothesis import strategies as st

NOW = 1_800_000_000.0
DAY = 86400.0


def chosen(listed: list[str], given: dict[str, Any]) -> list[str]:
    """Names that a rule takes of tags without a time."""
    choice = Rule(SyncRepositorySection(name="a", **given)).choose([TagFact(t) for t in listed], NOW)
    return [tag.name for tag in choice.tags]


TAGS = ["1.3.9", "1.4.0", "1.5.2", "2.0.0-rc.1", "2.0.0", "latest", "nightly", "v1.6"]


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, TAGS),
        ({"tags": ("1.*",)}, ["1.3.9", "1.4.0", "1.5.2"]),
        ({"tags": ("lat?st",), "regex": ("night.*",)}, ["latest", "nightly"]),
        ({"regex": (r"\d+\.\d+\.\d+",), "exclude": ("1.3.*",)}, ["1.4.0", "1.5.2", "2.0.0"]),
        ({"exclude_regex": (r".*\d.*",)}, ["latest", "nightly"]),
        ({"semver": ">=1.4 <2"}, ["1.4.0", "1.5.2", "v1.6"]),
        ({"semver": "^1.4 || 2.0.0-rc.1"}, ["1.4.0", "1.5.2", "2.0.0-rc.1", "v1.6"]),
        ({"semver": "*", "newest": 2}, ["2.0.0", "v1.6"]),
    ],
)
def test_tags(given: dict[str, Any], expected: list[str]) -> None:
    assert chosen(TAGS, given) == expected


def test_times() -> None:
    tags = [
        TagFact("old", NOW - 90 * DAY),
        TagFact("new", NOW - DAY),
        TagFact("newer", NOW),
        TagFact("unknown"),
    ]
    rule = Rule(SyncRepositorySection(name="a", newer_than="P30D"))
    choice = rule.choose(tags, NOW)
    assert [t.name for t in choice.tags] == ["new", "newer", "unknown"]
    assert choice.words == (
        "a: newer_than P30D leaves out 1 of 4 tags",
        "a: newer_than keeps 1 tags whose images do not say when they were made",
    )
    assert rule.choose(tags[:1], NOW).words == ("a: newer_than P30D leaves out all 1 tags",)
    newest = Rule(SyncRepositorySection(name="a", newest=2)).choose(tags, NOW)
    assert [t.name for t in newest.tags] == ["new", "newer"]
    assert "orders 1 tags by version" in newest.words[0]


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"tags": ("x*",)}, "a: none of 8 tags passes tags x*"),
        ({"semver": ">=9"}, "passes semver >=9"),
        ({"regex": ("x",), "exclude": ("y",)}, "passes regex x and exclude y"),
    ],
)
def test_a_filter_that_matches_nothing_says_so(given: dict[str, Any], words: str) -> None:
    choice = Rule(SyncRepositorySection(name="a", **given)).choose([TagFact(t) for t in TAGS], NOW)
    assert not choice.tags
    assert words in choice.words[0]


def test_repositories_of_a_mirror_of_its_own() -> None:
    rows = [
        SyncRepositorySection(name="library/*"),
        SyncRepositorySection(name="team/app"),
        SyncRepositorySection(name="x/**"),
    ]
    selection = Selection.of(rows)
    assert selection.needs_catalogue
    choice = selection.repositories(["library/a", "library/b/c", "other", "team/app"])
    assert choice.names == ("team/app", "library/a")
    assert choice.words == (
        "x/**: none of the parent's 4 repositories matches; correct the pattern, or take it out",
    )
    assert not selection.covers("library/b/c")


def test_a_managed_node_takes_its_scope_from_its_parent_and_the_rest_from_its_rules() -> None:
    rows = [
        SyncRepositorySection(name="team/app", platforms=("linux/arm64",)),
        SyncRepositorySection(name="none/*"),
    ]
    selection = Selection.of(rows, scope=("team/*", "base"))
    choice = selection.repositories(["team/app", "team/deep/er", "elsewhere"])
    assert choice.names == ("base", "team/app", "team/deep/er")
    assert selection.rule_of("team/app").platforms.names == ("linux/arm64",)
    assert selection.rule_of("base").platforms.names == ()
    assert any("none/*" in words and "no repository of the scope" in words for words in choice.words)
    assert not Selection.of([], scope=("a",)).needs_catalogue
    assert Selection.of([], scope=("*",)).covers("any/thing")


def test_platforms() -> None:
    some = Platforms(["linux/amd64", "linux/arm/v6", "Linux/aarch64"])
    wants = ["linux/amd64", "linux/arm64/v8", "linux/arm64", "linux/arm/v6", "linux/x86_64", ""]
    assert all(map(some.wants, wants))
    assert not any(map(some.wants, ["linux/arm/v7", "windows/amd64", "linux/386"]))
    assert Platforms().wants("anything/else")
    assert Platforms(["linux/arm"]).wants("linux/arm/v6")


def test_referrers_by_artifact_type() -> None:
    assert Rule(SyncRepositorySection(name="a")).selects_referrer("sbom")
    assert not Rule(SyncRepositorySection(name="a", referrers=())).selects_referrer("sbom")
    assert Rule(SyncRepositorySection(name="a", referrers=("sbom",))).selects_referrer("sbom")


RANGES = [
    (">=1.4 <2", ["1.4.0", "1.9.9"], ["1.3.9", "2.0.0", "2.0.0-rc.1", "1.5.0-rc.1"]),
    ("^1.2.3", ["1.2.3", "1.9.0"], ["1.2.2", "2.0.0"]),
    ("^0.2.3", ["0.2.3", "0.2.9"], ["0.3.0", "0.2.2"]),
    ("^0.0.3", ["0.0.3"], ["0.0.4"]),
    ("~1.2", ["1.2.0", "1.2.9"], ["1.3.0"]),
    ("~1", ["1.0.0", "1.9.0"], ["2.0.0"]),
    ("1.2", ["1.2.0", "1.2.7"], ["1.3.0"]),
    ("1.x", ["1.0.0", "1.9.9"], ["2.0.0"]),
    ("=1.2.3", ["1.2.3"], ["1.2.4"]),
    (">1.2", ["1.3.0"], ["1.2.0", "1.2.9"]),
    ("<=1.2", ["1.2.9", "0.1.0"], ["1.3.0"]),
    ("<2.0.0", ["1.9.9"], ["2.0.0", "2.0.0-rc.1"]),
    (">=2.0.0-rc.1", ["2.0.0-rc.1", "2.0.0-rc.2", "2.0.0"], ["2.0.0-beta", "2.1.0-rc.1"]),
    ("*", ["0.0.0", "99.0.0"], ["1.0.0-rc.1"]),
    ("<1 || >=3", ["0.9.0", "3.0.0"], ["1.0.0", "2.9.9"]),
]


@pytest.mark.parametrize(("text", "inside", "outside"), RANGES)
def test_ranges(text: str, inside: list[str], outside: list[str]) -> None:
    versions = Range(text)
    assert [t for t in inside if not versions.admits(version_of(t) or Version((0, 0, 0)))] == []
    assert [t for t in outside if versions.admits(version_of(t) or Version((0, 0, 0)))] == []


@pytest.mark.parametrize("text", ["", "1.2 ||", ">= 1.4", "latest", "1.2.3.4", "!1", "=>1"])
def test_no_ranges(text: str) -> None:
    with pytest.raises(RangeInvalid):
        Range(text)


def test_precedence_is_semvers() -> None:
    order = [
        "1.0.0-alpha",
        "1.0.0-alpha.1",
        "1.0.0-alpha.beta",
        "1.0.0-beta",
        "1.0.0-beta.2",
        "1.0.0-beta.11",
        "1.0.0-rc.1",
        "1.0.0",
    ]
    versions = [version_of(text) for text in order]
    assert None not in versions
    assert versions == sorted(v for v in versions if v)


@given(st.tuples(*[st.integers(0, 30)] * 3), st.tuples(*[st.integers(0, 30)] * 3))
def test_a_caret_is_its_two_bounds(low: tuple[int, ...], tried: tuple[int, ...]) -> None:
    text = ".".join(map(str, low))
    place = next((n for n, part in enumerate(low) if part), 2)
    above = (*low[:place], low[place] + 1, 0, 0)[:3]
    assert Range(f"^{text}").admits(Version((tried[0], tried[1], tried[2]))) == (low <= tried < above)


PARENT = {"parent": [{"url": "https://a"}]}


def test_a_mirror_of_its_own_is_told_in_the_file_alone() -> None:
    row = {"name": "library/alpine", "tags": ["3.*"], "platforms": ["linux/amd64"], "newest": 5}
    config = from_table(
        {"sync": {"schedule": "0 22 * * *", "window": "PT6H", "repositories": [row]}, **PARENT}
    )
    selection = Selection.of(config.sync.repositories)
    assert selection.repositories(["library/alpine"]).names == ("library/alpine",)
