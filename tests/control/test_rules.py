"""Rules about single values: what is taken, and what is refused with the field and the rule."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from holdfast import timestamps
from holdfast.errors import ControlConflict, ControlInvalid
from holdfast.resources import rules
from hypothesis import given
from hypothesis import strategies as st
from support.control import NOW

TAKEN: list[tuple[Callable[[str], object], list[str]]] = [
    (rules.registry_name, ["plant", "Plant1", "a" * 40, "abcde"]),
    (rules.token_name, ["token", "my-token", "12345", "a" * 50]),
    (rules.scope_map_name, ["a-map", "my_map", "a" * 50 + "-scope-map"]),
    (
        lambda t: rules.cron(t, "schedule"),
        ["* * * * *", "0 9 * * *", "*/5 8-18 * * MON-FRI", "0 0 29 2 *", "30 2 1,15 * *"],
    ),
    (rules.message_ttl, ["P1D", "P2D", "P90D", "PT24H", "P1W", "P1DT12H", "PT2160H"]),
    (lambda t: rules.sync_window(t, "0 9 * * *"), ["PT1H", "PT3H", "P7D", "PT90M", "P1DT1H", "P1W"]),
    (rules.description, ["", "x" * 256]),
]
REFUSED: list[tuple[Callable[[str], object], str, list[str]]] = [
    (
        rules.registry_name,
        "name",
        ["", "abcd", "a" * 41, "1plant", "pla-nt", "pla_nt", "plant\n", "plänt", "plant.", "pl ant"],
    ),
    (rules.token_name, "name", ["", "abcd", "a" * 51, "-token", "my_token", "token\n", "tök-en"]),
    (rules.scope_map_name, "name", ["", "abcd", "_system", "a" * 65, "a map", "map/map"]),
    (
        lambda t: rules.cron(t, "schedule"),
        "schedule",
        [
            *("", "*", "* * * *", "* * * * * *", "60 * * * *", "* 24 * * *", "0 0 30 2 *", "0 0 31 2,4 *"),
            *("@daily", "* * * * X", "a b c d e", "* " * 300, "٠ ٠ * * *"),
        ],
    ),
    (
        rules.message_ttl,
        "messageTtl",
        ["", "PT23H", "P91D", "P1M", "P1Y", "2D", "P", "1", "-P2D", "P2D ", "P9999999999D", "PT1H", "P1e3D"],
    ),
    (
        lambda t: rules.sync_window(t, "0 9 * * *"),
        "syncWindow",
        ["", "PT59M", "P8D", "PT0H", "P1M", "3h", "PT3H\n", "PT169H"],
    ),
    (rules.description, "description", ["x" * 257]),
]


@pytest.mark.parametrize(("check", "text"), [(check, text) for check, texts in TAKEN for text in texts])
def test_what_is_within_the_rule_is_taken_as_it_is(check: Callable[[str], object], text: str) -> None:
    assert check(text) == text


@pytest.mark.parametrize(
    ("check", "field", "text"), [(check, field, text) for check, field, texts in REFUSED for text in texts]
)
def test_what_is_not_is_refused_by_field_and_rule(
    check: Callable[[str], object], field: str, text: str
) -> None:
    with pytest.raises(ControlInvalid, match="allowed: ") as refusal:
        check(text)
    assert refusal.value.detail == field
    assert field in refusal.value.message


def test_a_schedule_needs_a_window_unless_it_is_every_minute() -> None:
    assert rules.sync_window(None, "* * * * *") is None
    assert rules.sync_window(None, "*/1 * * * *") is None
    assert rules.sync_window("PT1H", "* * * * *") == "PT1H"
    with pytest.raises(ControlInvalid, match="syncWindow is missing"):
        rules.sync_window(None, "*/5 * * * *")


def test_repositories_are_named_once_in_lower_case() -> None:
    assert rules.repositories(["Team/App", "team/app", "team/*", "*"]) == ("team/app", "team/*", "*")
    for text in ("", "a/*/b", "team*", "a/**", "a b", "/a", "a/", "*/*"):
        with pytest.raises(ControlInvalid, match="is no repository; allowed"):
            rules.repositories([text])


NOTIFICATIONS = [
    *("*:*", "*:*:*", "*@*:*", "repo/path:*", "repo/path:tag:*", "repo/path:push", "repo/path/*:push"),
    *("repo:*:delete", f"repo/path@sha256:{'a' * 64}:delete", f"repo:v1@sha256:{'0' * 64}:push"),
]
NO_NOTIFICATIONS = [
    *(
        "",
        ":",
        "*",
        "push",
        "repo",
        "repo:pull",
        "repo:tag:pull",
        "a/*/b:push",
        "*a:push",
        ":push",
        "@*:push",
    ),
    *(
        "repo@sha256:abc:push",
        "repo@md5:abc:push",
        "Repo:push",
        "repo:-tag:push",
        "repo::push",
        "repo:push\n",
    ),
    "r" * 600 + ":push",
]


@pytest.mark.parametrize("pattern", NOTIFICATIONS)
def test_patterns_of_events(pattern: str) -> None:
    assert rules.notifications([pattern, pattern]) == (pattern,)


@pytest.mark.parametrize("pattern", NO_NOTIFICATIONS)
def test_what_is_no_pattern(pattern: str) -> None:
    with pytest.raises(ControlInvalid, match=r"notificationsList: .* is no pattern; allowed"):
        rules.notifications([pattern])


def test_too_many_patterns() -> None:
    with pytest.raises(ControlInvalid, match="501 patterns; allowed: 500 at most"):
        rules.notifications(f"repo{n}:push" for n in range(501))


def test_an_expiry_is_a_time_to_come_with_a_zone() -> None:
    assert rules.expiry(None, NOW) is None
    assert rules.expiry("2026-11-26T22:00:01Z", NOW) == "2026-11-26T22:00:01Z"
    assert rules.expiry("2026-11-26T23:30:00+01:00", NOW) == "2026-11-26T22:30:00Z"
    assert rules.expiry("9999-12-31T23:59:59.999999Z", NOW) == "9999-12-31T23:59:59Z"
    for text in ("2026-11-26T22:00:00Z", "1970-01-01T00:00:00Z"):
        with pytest.raises(ControlInvalid, match="is past; now it is 2026-11-26T22:00:00Z"):
            rules.expiry(text, NOW)
    for text in ("", "tomorrow", "2027-01-01", "2027-01-01T00:00:00", "P1D", "0001-01-01T00:00:00+23:59"):
        with pytest.raises(ControlInvalid, match="expiry"):
            rules.expiry(text, NOW)


def test_the_same_in_add_and_remove_is_ambiguous() -> None:
    rules.unambiguous(["a"], ["b"], "Client tokens", "clientTokenIds")
    with pytest.raises(ControlInvalid, match=r"Update ambiguity. Client tokens in both lists: plant"):
        rules.unambiguous(["/tokens/Plant"], ["plant"], "Client tokens", "clientTokenIds")
    with pytest.raises(ControlInvalid, match=r"Update ambiguity. Notifications in both lists"):
        rules.unambiguous_patterns(["*:*"], ["*:*"])


def test_a_limit_names_its_key() -> None:
    rules.within_limit(5, 5, "tokens", "name", "tokens")
    with pytest.raises(
        ControlConflict, match=r"6 tokens; allowed: 5 at most \(configuration: control.tokens\)"
    ):
        rules.within_limit(6, 5, "tokens", "name", "tokens")


@given(st.floats(0, 4e9))
def test_times_go_to_text_and_back(now: float) -> None:
    assert timestamps.seconds(timestamps.stamp(now)) == int(now)
    assert timestamps.is_past(timestamps.stamp(now), now)
    assert not timestamps.is_past(timestamps.stamp(now + 1), int(now))


def test_never_is_not_past_and_no_time_is() -> None:
    assert not timestamps.is_past(None, 1e12)
    assert timestamps.is_past("soon", 0.0)
    assert timestamps.is_past("2099-01-01T00:00:00", 0.0)
