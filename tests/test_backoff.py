"""Waits between tries: how they grow, and what chance decides."""

from __future__ import annotations

import pytest
from holdfast.backoff import Backoff


@pytest.mark.parametrize(
    ("spread", "share", "delays"),
    [
        (1.0, 1.0, [2, 4, 8, 10, 10]),
        (1.0, 0.25, [0.5, 1, 2, 2.5, 2.5]),
        (1.0, 0.0, [0, 0, 0, 0, 0]),
        (0.5, 1.0, [2, 4, 8, 10, 10]),
        (0.5, 0.0, [1, 2, 4, 5, 5]),
        (0.0, 0.0, [2, 4, 8, 10, 10]),
    ],
)
def test_waits_double_to_a_ceiling_and_chance_shortens_them(
    spread: float, share: float, delays: list[float]
) -> None:
    backoff = Backoff(2.0, 10.0, spread)
    assert [backoff.delay(failures, share) for failures in range(1, 6)] == delays


def test_years_of_failures_are_no_overflow() -> None:
    assert Backoff(0.25, 8.0).delay(10**9, 1.0) == 8.0
