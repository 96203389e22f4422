"""How often background work may ask: never more than the hour's questions, never what is left to clients."""

from __future__ import annotations

from holdfast.parent.request_budget import HOUR_SECONDS, Limit, RequestBudget
from hypothesis import given
from hypothesis import strategies as st

HUB = 21600.0


def request_times(budget: RequestBudget, until: float, pauses: list[float]) -> list[float]:
    """Returns the times of the requests of a client that sends as many as are allowed, with pauses in between."""
    times, now, pauses = [], 0.0, list(pauses)
    while now < until:
        wait = budget.wait(now)
        if not wait:
            times.append(now)
            wait = pauses.pop() if pauses else 0.0
        now += wait
    return times


@given(st.integers(1, 400), st.lists(st.floats(0, 5000), max_size=20))
def test_no_hour_has_more_questions_than_it_may(requests: int, pauses: list[float]) -> None:
    times = request_times(RequestBudget(requests), 3 * HOUR_SECONDS, pauses)
    for number, start in enumerate(times):
        assert sum(start <= at < start + HOUR_SECONDS for at in times[number:]) <= requests


def test_the_hours_questions_are_used() -> None:
    """Unused requests are not made up for later."""
    for requests in (60, 600, 3600):
        assert len(request_times(RequestBudget(requests), 10 * HOUR_SECONDS, [])) >= 9 * requests


def test_that_the_hours_questions_hold_it_back_is_told() -> None:
    budget = RequestBudget(120)
    assert budget.words(0.0) == ""
    assert [budget.wait(0.0), budget.wait(0.0)] == [0.0, 0.0]
    assert budget.wait(0.0) > 30.0
    assert budget.words(1.0) == "it gets 120 requests an hour at most (sync.requests)"
    assert budget.words(60.0) == ""


def test_without_a_bound_nobody_waits() -> None:
    budget = RequestBudget()
    assert [budget.wait(0.0) for _ in range(10_000)] == [0.0] * 10_000


def test_below_the_reserve_one_question_goes_through_now_and_then() -> None:
    budget = RequestBudget(reserve=0.2)
    assert budget.wait(0.0, Limit(100, 20, HUB)) == 0.0
    assert budget.words(0.0) == ""
    low = Limit(100, 19, HUB)
    assert budget.wait(10.0, low) == 1080.0
    assert budget.wait(100.0, low) == 990.0
    assert budget.words(100.0) == (
        "19 of 100 requests that the parent allows in 6 h are left, and 20% are for clients: the next request is in"
        " 16 min 30 s"
    )
    assert budget.wait(1090.0, low) == 0.0  # how much is left only an answer tells
    assert budget.wait(1091.0, low) == 1079.0
    assert budget.wait(1092.0, Limit(100, 40, HUB)) == 0.0
    assert budget.words(1092.0) == ""


def test_a_pause_is_neither_a_moment_nor_a_day() -> None:
    assert RequestBudget().wait(0.0, Limit(100, 0, 1.0)) == 60.0
    assert RequestBudget().wait(0.0, Limit(100, 0, 1e6)) == 3600.0


def test_a_reserve_of_nothing_and_a_limit_of_nothing_hold_nobody_back() -> None:
    assert RequestBudget(reserve=0.0).wait(0.0, Limit(100, 0, HUB)) == 0.0
    assert RequestBudget(reserve=0.5).wait(0.0, Limit(0, 0, HUB)) == 0.0
