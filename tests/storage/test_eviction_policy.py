"""The order in which images go, with literal expectations, and what holds for any order."""

from __future__ import annotations

from typing import Any

import pytest
from holdfast.storage.eviction_policy import (
    HALF_LIFE_SECONDS,
    Candidate,
    FetchCost,
    Turn,
    UseHistory,
    ordered,
    turn_of,
)
from hypothesis import given
from hypothesis import strategies as st

HOUR, DAY = 3600.0, 86400.0
NOW = 1000 * DAY
FAST, SLOW = FetchCost(0.1, 100e6), FetchCost(1.0, 1e6)


def image(name: str, **fields: Any) -> Candidate:
    """An image of 100 MB that was used once, a day ago."""
    usual = {
        "repository": name,
        "digest": "sha256:0",
        "freed_bytes": 100_000_000,
        "requests": 10,
        "used_at": NOW - DAY,
        "uses": 1.0,
        "cost": FAST,
        "turn": Turn.CACHED,
    }
    return Candidate(**{**usual, **fields})


def names(*images: Candidate) -> list[str]:
    return [one.repository for one in ordered(images, NOW)]


def test_the_score_is_bytes_times_age_by_seconds_and_uses() -> None:
    # 10 requests of 0.1 s and 1 s of bytes: 2 s; 100 MB × 86,400 s ÷ (2 s × 4)
    assert image("a", uses=4.0).score(NOW) == pytest.approx(100_000_000 * 86_400 / 8)


def test_what_was_not_used_for_longest_goes_first() -> None:
    assert names(image("new", used_at=NOW - HOUR), image("old", used_at=NOW - 9 * DAY)) == ["old", "new"]


def test_what_is_slow_to_fetch_goes_later_than_what_is_fast() -> None:
    assert names(image("slow", cost=SLOW, used_at=NOW - 3 * DAY), image("fast")) == ["fast", "slow"]


def test_what_is_used_often_goes_later() -> None:
    assert names(image("often", uses=8.0, used_at=NOW - 4 * DAY), image("once")) == ["once", "often"]


def test_bytes_that_others_need_free_nothing_and_go_last() -> None:
    assert names(image("shared", freed_bytes=0, used_at=NOW - 99 * DAY), image("own")) == ["own", "shared"]


def test_a_turn_is_over_before_the_next_begins() -> None:
    turns = [image(turn.name, turn=turn, used_at=NOW - turn * DAY) for turn in reversed(Turn)]
    assert names(*turns) == ["OVER_SHARE", "CACHED", "BELOW_SHARE", "CONFIRMED", "OFFLINE"]


@pytest.mark.parametrize(
    ("facts", "turn"),
    [
        ({}, Turn.CACHED),
        ({"over": True}, Turn.OVER_SHARE),
        ({"below": True}, Turn.BELOW_SHARE),
        ({"owned": True}, Turn.CONFIRMED),
        ({"owned": True, "over": True}, Turn.CONFIRMED),
        ({"offline": True}, Turn.OFFLINE),
        ({"offline": True, "over": True}, Turn.OFFLINE),
        ({"offline": True, "owned": True}, None),
        ({"offline": True, "evicts_offline": False}, None),
    ],
)
def test_the_turn_of_an_image(facts: dict[str, bool], turn: Turn | None) -> None:
    usual = {"offline": False, "owned": False, "evicts_offline": True, "over": False, "below": False}
    assert turn_of(**{**usual, **facts}) == turn


def test_a_use_counts_half_after_the_half_life() -> None:
    history = UseHistory()
    history.used("a", "d", NOW)
    history.used("a", "d", NOW)
    assert history.of("a", "d", NOW) == (2.0, NOW)
    assert history.of("a", "d", NOW + HALF_LIFE_SECONDS) == (1.0, NOW)
    history.used("a", "d", NOW + HALF_LIFE_SECONDS)
    assert history.of("a", "d", NOW + HALF_LIFE_SECONDS) == (2.0, NOW + HALF_LIFE_SECONDS)
    assert history.of("b", "d", NOW) == (0.0, 0.0)


def test_the_history_forgets_what_was_used_least_recently() -> None:
    history = UseHistory(remembered=2)
    for name in ("a", "b", "a", "c"):
        history.used(name, "d", NOW)
    assert [history.of(name, "d", NOW)[0] for name in "abc"] == [2.0, 0.0, 1.0]


candidates = st.lists(
    st.builds(
        Candidate,
        repository=st.sampled_from("abcdef"),
        digest=st.integers(0, 99).map(str),
        freed_bytes=st.integers(0, 1 << 40),
        requests=st.integers(1, 200),
        used_at=st.floats(0, 2 * NOW),
        uses=st.floats(0, 1e6),
        cost=st.builds(FetchCost, st.floats(0, 100), st.floats(1, 1e10)),
        turn=st.sampled_from(Turn),
    ),
    max_size=30,
    unique_by=lambda one: (one.repository, one.digest),
)


@given(candidates, st.integers(1, 1000))
def test_the_order_has_all_of_them_and_less_for_what_is_worth_more(
    images: list[Candidate], more: int
) -> None:
    line = ordered(images, NOW)
    assert sorted(line) == sorted(images)
    assert [one.turn for one in line] == sorted(one.turn for one in images)
    for one in images:
        score = one.score(NOW)
        assert score >= 0
        assert one._replace(uses=one.uses + more).score(NOW) <= score
        assert one._replace(used_at=max(one.used_at, NOW - 1.0)).score(NOW) <= score
        slower = FetchCost(one.cost.latency + more, one.cost.rate)
        assert one._replace(cost=slower).score(NOW) <= score


@given(candidates)
def test_the_order_does_not_depend_on_that_of_the_sample(images: list[Candidate]) -> None:
    assert ordered(images, NOW) == ordered(reversed(images), NOW)
