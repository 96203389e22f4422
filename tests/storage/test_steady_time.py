"""The wall clock against the monotonic one, by literal moments."""

from __future__ import annotations

from math import inf

from holdfast.storage.collection_schedule import SteadyTime

NOW, DAY = 1_800_000_000.0, 86_400.0


def test_a_clock_that_runs_is_steady() -> None:
    steady = SteadyTime(NOW, 50.0)
    assert steady.seconds(NOW + 3 * DAY, 50.0 + 3 * DAY) == inf


def test_a_jump_forward_counts_from_when_it_was_seen() -> None:
    steady = SteadyTime(NOW, 50.0)
    assert steady.seconds(NOW + DAY + 10, 60.0) == 0.0
    assert steady.seconds(NOW + DAY + 40, 90.0) == 30.0
    assert steady.seconds(NOW + 9 * DAY, 100.0) == 0.0, "another one"


def test_a_step_back_is_no_jump_and_a_correction_neither() -> None:
    steady = SteadyTime(NOW, 50.0)
    assert steady.seconds(NOW - DAY, 60.0) == inf
    assert steady.seconds(NOW - DAY + 64, 120.0) == inf, "slewed by 4 s"
    assert steady.seconds(NOW - DAY + 134, 180.0) == 0.0, "set by 10 s"
