"""How fast a scrub reads: one decision at a time, and a week of them."""

from __future__ import annotations

import pytest
from holdfast.storage.scrubbing.scrub_pace import (
    BUSY_SECONDS,
    LOOK_SECONDS,
    SLICE_BYTES,
    ScrubProgress,
    next_pass,
    step,
)

WEEK, MIB, GIB = 7 * 86_400.0, 1 << 20, 1 << 30
CEILING = 64 * MIB


def test_a_pass_that_is_where_it_should_be_waits() -> None:
    half = ScrubProgress(1000.0, 5 * GIB + 1000, WEEK)
    waits = step(half, 10 * GIB, CEILING, 1000.0 + 0.45 * WEEK, is_busy=False)
    assert waits.bytes == 0
    assert waits.wait == pytest.approx(1000 / (10 * GIB / (0.9 * WEEK)))
    behind = ScrubProgress(1000.0, 5 * GIB - 1000, WEEK)
    assert step(behind, 10 * GIB, CEILING, 1000.0 + 0.45 * WEEK, is_busy=False) == (SLICE_BYTES, 0.125)


def test_no_wait_is_longer_than_a_look() -> None:
    assert step(ScrubProgress(0.0, MIB, WEEK), 2 * MIB, CEILING, 0.0, is_busy=False) == (0, LOOK_SECONDS)
    assert step(ScrubProgress(0.0, MIB, WEEK), 0, CEILING, 0.0, is_busy=False) == (0, LOOK_SECONDS)


@pytest.mark.parametrize("ceiling", [MIB, 5 * MIB, 64 * MIB])
def test_the_ceiling_holds_however_late_it_is(ceiling: int) -> None:
    late = step(ScrubProgress(0.0, 0, WEEK), 10 * GIB, ceiling, 2 * WEEK, is_busy=False)
    assert late.bytes / late.wait == ceiling
    assert 0 < late.bytes <= SLICE_BYTES


def test_a_busy_node_pauses_until_the_period_is_over() -> None:
    behind = ScrubProgress(0.0, 0, WEEK)
    assert step(behind, GIB, CEILING, 0.99 * WEEK, is_busy=True) == (0, BUSY_SECONDS)
    assert step(behind, GIB, CEILING, WEEK, is_busy=True).bytes == SLICE_BYTES
    ordered = ScrubProgress(0.0, 0, 0.0)
    assert step(ordered, GIB, CEILING, 0.0, is_busy=True).bytes == SLICE_BYTES


def test_a_clock_that_was_set_back_stops_nothing() -> None:
    assert step(ScrubProgress(5000.0, 0, WEEK), GIB, CEILING, 10.0, is_busy=False).bytes == SLICE_BYTES
    assert next_pass(5000.0, WEEK, 10.0) == 10.0 + WEEK
    assert next_pass(10.0, WEEK, 5000.0) == 10.0 + WEEK


@pytest.mark.parametrize(("held", "busy"), [(100 * GIB, 0.0), (10_000 * GIB, 0.3), (100 * MIB, 0.9)])
def test_a_week_reads_all_of_it_once(held: int, busy: float) -> None:
    """With hours in which the node is busy; the walk ends within the period."""
    now, done = 0.0, 0
    while done < held and now < 2 * WEEK:
        is_busy = now % 3600 < busy * 3600
        part = step(ScrubProgress(0.0, done, WEEK), held, CEILING, now, is_busy=is_busy)
        done += 100 * part.bytes if held > 1000 * GIB else part.bytes  # fewer steps of the test
        now += 100 * part.wait if held > 1000 * GIB and part.bytes else part.wait
    assert 0.85 * WEEK < now <= 0.95 * WEEK
