"""The token bucket that every limit of a rate is made of."""

import pytest
from holdfast.token_bucket import TokenBucket


def test_a_burst_is_free_and_what_follows_waits_for_its_tokens() -> None:
    bucket = TokenBucket(2.0, 2.0, now=0.0)
    assert [bucket.take(1, 0.0) for _ in range(4)] == [0.0, 0.0, 0.5, 1.0]
    assert bucket.take(1, 10.0) == 0.0


def test_it_never_holds_more_than_its_capacity() -> None:
    bucket = TokenBucket(2.0, 4.0, now=0.0)
    assert bucket.level(1000.0) == 4.0


def test_a_clock_that_steps_back_adds_nothing() -> None:
    bucket = TokenBucket(2.0, 4.0, now=10.0)
    bucket.take(4, 10.0)
    assert bucket.level(5.0) == 0.0
    assert bucket.level(6.0) == 2.0


def test_what_was_not_used_is_given_back() -> None:
    bucket = TokenBucket(1.0, 1.0, now=0.0)
    bucket.take(1, 0.0)
    assert bucket.take(1, 0.0) == 1.0
    bucket.give_back(1)
    assert bucket.take(1, 0.0) == 1.0


def test_waiting_for_a_token_or_for_a_debt() -> None:
    bucket = TokenBucket(0.5, 3.0, now=0.0)
    bucket.take(3, 0.0)
    assert (bucket.wait(0, 0.0), bucket.wait(1, 0.0), bucket.wait(1, 1.0)) == (0.0, 2.0, 1.0)
    bucket.take(2, 1.0)
    assert bucket.wait(0, 1.0) == 3.0


@pytest.mark.parametrize(("taken", "level"), [(0, 1.0), (5, -1.0)])
def test_another_rate_keeps_a_debt_and_no_more_than_the_new_capacity(taken: int, level: float) -> None:
    bucket = TokenBucket(4.0, 4.0, now=0.0)
    bucket.take(taken, 0.0)
    bucket.change_rate(2.0, 1.0, 0.0)
    assert bucket.level(0.0) == level
    assert bucket.take(0, 0.0) == max(0.0, -level / 2)
