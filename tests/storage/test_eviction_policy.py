"""The order in which images go, with literal expectations, and what holds for any order."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
from holdfast.storage.eviction_policy import (
    Candidate,
    FetchCost,
    Turn,
    UseHistory,
    ordered,
    turn_of,
)
from holdfast_core.space_format import HALF_LIFE_SECONDS
from hypothesis import given
from hypothesis import strategies as st

HOUR, DAY = 3600.0, 86400.0
NOW = 1000 * DAY
FAST, SLOW = FetchCost(0.1, 100e6), FetchCost(1.0, 1e6)
SIZE = 100_000_000


def image(name: str, *, uses: float = 1.0, cost: FetchCost = FAST, **fields: Any) -> Candidate:
    """An image of 100 MB in ten blobs, a day after its last use."""
    loss = cost.loss([(SIZE // 10, uses)] * 10)
    usual = {"freed_bytes": SIZE, "used_at": NOW - DAY, "loss": loss, "turn": Turn.CACHED}
    return Candidate(name, "sha256:0", **{**usual, **fields})


def names(*images: Candidate) -> list[str]:
    return [one.repository for one in ordered(images, NOW)]


def test_a_loss_is_the_seconds_on_the_link_of_each_part_times_its_uses() -> None:
    assert FetchCost(0.5, 10e6).loss([(20_000_000, 3.0), (0, 1.0)]) == pytest.approx(2.5 * 3 + 0.5)


def test_the_score_is_bytes_times_age_by_the_loss() -> None:
    # ten requests of 0.1 s and 1 s of bytes, four uses: 8 s; a day, and six hours that everything has
    assert image("a", uses=4.0).score(NOW) == pytest.approx(SIZE * (86_400 + 21_600) / 8)
    assert image("a", loss=0.0).score(NOW) == 0.0
    assert image("a", used_at=NOW + HOUR).score(NOW) == pytest.approx(SIZE * 21_600 / 2)


def test_what_was_not_used_for_longest_goes_first() -> None:
    assert names(image("new", used_at=NOW - HOUR), image("old", used_at=NOW - 9 * DAY)) == ["old", "new"]


def test_what_is_slow_to_fetch_goes_later_than_what_is_fast() -> None:
    assert names(image("slow", cost=SLOW, used_at=NOW - 3 * DAY), image("fast")) == ["fast", "slow"]


def test_what_is_used_often_goes_later() -> None:
    assert names(image("often", uses=8.0, used_at=NOW - 4 * DAY), image("once")) == ["once", "often"]


def test_what_came_just_now_goes_before_what_was_used_twenty_times_a_day_ago() -> None:
    assert names(image("often", uses=20.0), image("new", used_at=NOW)) == ["new", "often"]


def test_bytes_that_others_need_free_nothing_and_go_last() -> None:
    assert names(image("shared", freed_bytes=0, used_at=NOW - 99 * DAY), image("own")) == ["own", "shared"]


def test_a_turn_is_over_before_the_next_begins() -> None:
    turns = [image(turn.name, turn=turn, used_at=NOW - turn * DAY) for turn in reversed(Turn)]
    assert names(*turns) == ["OVER_SHARE", "CACHED", "BELOW_SHARE", "OFFLINE"]


@pytest.mark.parametrize(
    ("facts", "turn"),
    [
        ({}, Turn.CACHED),
        ({"over": True}, Turn.OVER_SHARE),
        ({"below": True}, Turn.BELOW_SHARE),
        ({"offline": True}, Turn.OFFLINE),
        ({"offline": True, "over": True}, Turn.OFFLINE),
        ({"offline": True, "evicts_offline": False}, None),
    ],
)
def test_the_turn_of_an_image(facts: dict[str, bool], turn: Turn | None) -> None:
    usual = {"offline": False, "evicts_offline": True, "over": False, "below": False}
    assert turn_of(**{**usual, **facts}) == turn


ONE, TWO, THREE = (f"sha256:{number:064x}" for number in (1, 2, 3))


def test_a_use_counts_half_after_the_half_life() -> None:
    history = UseHistory()
    history.used(ONE, NOW)
    history.used(ONE, NOW)
    assert (history.uses(ONE, NOW, 0.0), history.last(ONE)) == (2.0, NOW)
    assert history.uses(ONE, NOW + HALF_LIFE_SECONDS, 0.0) == 1.0
    history.used(ONE, NOW + HALF_LIFE_SECONDS)
    assert history.uses(ONE, NOW + HALF_LIFE_SECONDS, 0.0) == 2.0
    assert history.uses(ONE, NOW + 50 * HALF_LIFE_SECONDS, 0.0) == 0.01


def test_the_greater_of_what_is_remembered_and_what_is_written_counts() -> None:
    history = UseHistory()
    assert (history.uses(ONE, NOW, 3.0), history.last(ONE)) == (3.0, 0.0)
    history.used(ONE, NOW)
    assert history.uses(ONE, NOW, 3.0) == 3.0
    assert history.uses(ONE, NOW, 0.25) == 1.0


def test_the_history_forgets_what_was_used_least_recently() -> None:
    history = UseHistory(remembered=2)
    for digest in (ONE, TWO, ONE, THREE):
        history.used(digest, NOW)
    assert [history.last(digest) for digest in (ONE, TWO, THREE)] == [NOW, 0.0, NOW]


candidates = st.lists(
    st.builds(
        Candidate,
        repository=st.sampled_from("abcdef"),
        digest=st.integers(0, 99).map(str),
        freed_bytes=st.integers(0, 1 << 40),
        used_at=st.floats(0, 2 * NOW),
        loss=st.floats(0, 1e9),
        turn=st.sampled_from(Turn),
    ),
    max_size=30,
    unique_by=lambda one: (one.repository, one.digest),
)


@given(candidates)
def test_the_order_has_all_of_them_turn_by_turn_and_the_greatest_score_first(images: list[Candidate]) -> None:
    line = ordered(images, NOW)
    assert sorted(line) == sorted(images)
    for one, following in pairwise(line):
        assert one.turn <= following.turn
        assert one.turn < following.turn or one.score(NOW) >= following.score(NOW)


@given(candidates)
def test_the_order_does_not_depend_on_that_of_the_sample(images: list[Candidate]) -> None:
    assert ordered(images, NOW) == ordered(reversed(images), NOW)


@given(
    st.lists(st.tuples(st.integers(0, 1 << 40), st.floats(0.01, 1e6)), max_size=9),
    st.floats(0, 100),
    st.floats(1, 1e10),
)
def test_a_loss_grows_with_bytes_uses_and_the_slowness_of_the_link(
    parts: list[tuple[int, float]], latency: float, rate: float
) -> None:
    loss = FetchCost(latency, rate).loss(parts)
    assert loss >= 0
    assert FetchCost(latency + 1, rate).loss(parts) >= loss
    assert FetchCost(latency, rate / 2).loss(parts) >= loss
    assert FetchCost(latency, rate).loss([(size + 1, uses * 2) for size, uses in parts]) >= loss
