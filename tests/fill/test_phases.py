"""The phases of a fill: every row of the table, and what has none."""

from __future__ import annotations

import pytest
from holdfast.fill.phases import TABLE, FillEvent, FillPhase, Lifecycle

FETCHING, PARKED, FAILING, FAILED = (
    FillPhase.FETCHING,
    FillPhase.PARKED,
    FillPhase.FAILING,
    FillPhase.FAILED,
)
MATCHED, STORED, PASSED, DROPPED = (
    FillPhase.MATCHED,
    FillPhase.STORED,
    FillPhase.PASSED,
    FillPhase.DROPPED,
)
COMPLETE, GONE, SUSPENDED = FillPhase.COMPLETE, FillPhase.GONE, FillPhase.SUSPENDED

#: for each phase, what follows each event that can happen in it
ROWS = {
    FETCHING: "WANTED FETCHING, UNWANTED PARKED, REFUSED FAILING, ENDED DROPPED, MATCH MATCHED, ADMITTED STORED, "
    "CLOSED SUSPENDED",
    PARKED: "WANTED FETCHING, REFUSED FAILED, ENDED DROPPED, MATCH MATCHED, ADMITTED STORED, CLOSED SUSPENDED",
    FAILING: "WANTED FETCHING, UNWANTED FAILED, REFUSED FAILING, ENDED DROPPED, MATCH MATCHED, ADMITTED STORED, "
    "CLOSED SUSPENDED",
    FAILED: "WANTED FETCHING, REFUSED FAILED, ENDED DROPPED, MATCH MATCHED, ADMITTED STORED, CLOSED SUSPENDED",
    MATCHED: "WANTED MATCHED, ENDED PASSED",
    STORED: "WANTED STORED, RELEASED COMPLETE, CLOSED STORED",
    PASSED: "WANTED PASSED, RELEASED COMPLETE, CLOSED PASSED",
    DROPPED: "WANTED DROPPED, MATCH PASSED, ADMITTED STORED, RELEASED GONE, CLOSED DROPPED",
    COMPLETE: "WANTED COMPLETE, CLOSED COMPLETE",
    GONE: "WANTED GONE, CLOSED GONE",
    SUSPENDED: "WANTED SUSPENDED, CLOSED SUSPENDED",
}


@pytest.mark.parametrize("phase", FillPhase)
def test_every_event_of_a_phase_leads_where_it_should(phase: FillPhase) -> None:
    rows = [row.split() for row in ROWS[phase].split(", ")]
    expected = {FillEvent[event]: FillPhase[following] for event, following in rows}
    assert {event: after for (before, event), after in TABLE.items() if before == phase} == expected
    for event in FillEvent:
        lifecycle = Lifecycle()
        lifecycle.phase = phase
        if event in expected:
            assert lifecycle.apply(event) == lifecycle.phase == expected[event]
        else:
            with pytest.raises(KeyError):
                lifecycle.apply(event)
            assert lifecycle.phase == phase


@pytest.mark.parametrize(
    ("predicate", "phases"),
    [
        ("is_verified", {MATCHED, STORED, PASSED, COMPLETE}),
        ("has_ended", {STORED, PASSED, DROPPED, COMPLETE, GONE, SUSPENDED}),
        ("is_refused", {FAILING, FAILED}),
        ("is_parked", {PARKED, FAILED}),
        ("is_released", {COMPLETE, GONE}),
    ],
)
def test_what_a_phase_means(predicate: str, phases: set[FillPhase]) -> None:
    lifecycle = Lifecycle()
    for phase in FillPhase:
        lifecycle.phase = phase
        assert getattr(lifecycle, predicate) is (phase in phases), phase


def test_right_bytes_stay_right_and_an_ended_fill_never_fetches() -> None:
    for (before, _), after in TABLE.items():
        if before in (MATCHED, STORED, PASSED, COMPLETE):
            assert after in (MATCHED, STORED, PASSED, COMPLETE)
        if before in (STORED, PASSED, DROPPED, COMPLETE, GONE, SUSPENDED):
            assert after not in (FETCHING, PARKED, FAILING, FAILED, MATCHED)


def test_every_phase_is_reached() -> None:
    reached = {Lifecycle().phase}
    for _ in FillPhase:
        reached |= {after for (before, _), after in TABLE.items() if before in reached}
    assert reached == set(FillPhase)
