"""Schedules: windows, catching up, clocks that are set, refusals in words."""

from __future__ import annotations

from datetime import UTC, datetime
from zoneinfo import ZoneInfo

import pytest
from holdfast.resources.cron import Cron, ScheduleInvalid
from holdfast.sync.schedule import (
    CHANGES,
    INITIAL,
    LOOK_SECONDS,
    MANUAL,
    RECOVERY,
    SCHEDULED,
    CancelRun,
    Due,
    Schedule,
    ScheduleState,
    StartRun,
    after_restart,
    broader,
    due,
    end_run,
    request_run,
)
from hypothesis import given
from hypothesis import strategies as st

HOUR, DAY = 3600.0, 86400.0
MIDNIGHT = datetime(2026, 11, 26, tzinfo=UTC).timestamp()
NOON = Schedule.parse("0 12 * * *", "PT4H")


def look(state: ScheduleState, at: float, schedule: Schedule = NOON) -> Due:
    """At `at` seconds after midnight."""
    return due(schedule, state, MIDNIGHT + at)


def lived(at: float, schedule: Schedule = NOON) -> ScheduleState:
    """A node that has been up for a while, with nothing to do."""
    state = look(ScheduleState(), at, schedule).state
    state = end_run(state, MIDNIGHT + at)
    return ScheduleState(state.covered, synced_at=state.synced_at)


REFUSED = [
    ("0 0 31 2 *", "", "never fires"),
    ("0 0 * *", "", "5 fields"),
    ("0 0 * * * *", "", "5 fields"),
    ("61 0 * * *", "", "cannot be read"),
    ("0 12 * * *", "PT25H", "longer than the shortest time between two occurrences of '0 12 * * *' (1 d)"),
    ("0 12 * * 1,2", "P2D", "(1 d)"),
    ("0 12 * * *", "four hours", "no duration"),
    ("0 12 * * *", "PT0S", "no duration"),
    ("0 12 * * *", "P1M", "no duration"),
]


@pytest.mark.parametrize(("text", "window", "words"), REFUSED)
def test_what_cannot_be_kept_is_refused_in_words(text: str, window: str, words: str) -> None:
    with pytest.raises(ScheduleInvalid) as refused:
        Schedule.parse(text, window)
    assert words in str(refused.value)


def test_a_ttl_that_one_missed_window_outlasts_is_warned_of() -> None:
    assert "every 7 d" in Schedule.parse("0 12 * * 1", "PT4H").warnings()[0]
    assert NOON.warnings() == []


def test_a_run_begins_with_its_window_and_is_cancelled_at_its_end() -> None:
    state = lived(9 * HOUR)
    before = look(state, 11 * HOUR)
    assert (before.actions, before.connected, before.wake) == ((), False, MIDNIGHT + 12 * HOUR)
    begun = look(before.state, 12 * HOUR)
    assert begun.actions == (StartRun(SCHEDULED, MIDNIGHT + 16 * HOUR),)
    assert begun.wake == MIDNIGHT + 16 * HOUR
    ended = look(begun.state, 16 * HOUR)
    assert ended.actions == (CancelRun("the window is over"),)
    assert look(ended.state, 36 * HOUR).actions == (StartRun(SCHEDULED, MIDNIGHT + 40 * HOUR),)


def test_a_run_that_ended_well_is_not_repeated_in_its_window() -> None:
    state = end_run(look(lived(9 * HOUR), 12 * HOUR).state, MIDNIGHT + 13 * HOUR)
    assert look(state, 13 * HOUR).actions == ()
    assert look(state, 13 * HOUR).connected
    changed = look(request_run(state, CHANGES), 14 * HOUR)
    assert changed.actions == (StartRun(CHANGES, MIDNIGHT + 16 * HOUR),)


@pytest.mark.parametrize("back", [60.0, 30 * 60.0, 2 * HOUR, 3 * DAY])
def test_a_clock_set_back_doubles_no_window(back: float) -> None:
    state = end_run(look(lived(-4 * DAY), 12 * HOUR).state, MIDNIGHT + 12.5 * HOUR)
    at, starts = 12.5 * HOUR - back, 0
    while at < 13 * HOUR:
        step = look(state, at)
        starts += len(step.actions)
        state, at = step.state, at + 30 * 60.0
        if step.state.running:
            state = end_run(state, MIDNIGHT + at)
    assert starts == (
        3 if back == 3 * DAY else 0
    )  # noons of days that were never lived, not the one that was


def test_a_clock_set_forward_and_back_skips_no_window() -> None:
    state = lived(9 * HOUR)
    jumped = look(state, 9 * HOUR + 4000 * DAY)  # a wrong year
    state = jumped.state if not jumped.state.running else end_run(jumped.state, MIDNIGHT + 4000 * DAY)
    back = look(ScheduleState(state.covered), 10 * HOUR)
    for day in range(3):
        step = look(back.state, 12 * HOUR + day * DAY)
        assert [type(action) for action in step.actions] == [StartRun]
        back = Due(end_run(step.state, MIDNIGHT + 13 * HOUR + day * DAY), (), False, None, 0.0)


def test_a_run_whose_window_the_clock_left_stops_and_goes_on_when_it_comes_again() -> None:
    running = look(lived(9 * HOUR), 12 * HOUR).state
    assert look(running, 10 * HOUR).actions == (CancelRun("the window is over"),)
    again = look(look(running, 10 * HOUR).state, 12 * HOUR)
    assert again.actions == (StartRun(SCHEDULED, MIDNIGHT + 16 * HOUR),)


def test_what_was_missed_is_caught_up_once() -> None:
    state = look(lived(9 * HOUR), 9 * HOUR + 5 * DAY).state  # off, or suspended
    step = look(state, 12 * HOUR + 5 * DAY)
    assert [a.missed for a in step.actions if isinstance(a, StartRun)] == [1]
    state = end_run(step.state, MIDNIGHT + 12.1 * HOUR + 5 * DAY)
    assert look(state, 13 * HOUR + 5 * DAY).actions == ()


def test_a_machine_that_wakes_within_a_window_uses_what_is_left_of_it() -> None:
    step = look(lived(9 * HOUR), 15 * HOUR)
    assert step.actions == (StartRun(SCHEDULED, MIDNIGHT + 16 * HOUR),)


def test_without_a_window_a_missed_occurrence_runs_at_once_and_one_during_a_run_follows_it() -> None:
    schedule = Schedule.parse("0 12 * * *")
    step = look(lived(9 * HOUR, schedule), 20 * HOUR, schedule)
    assert step.actions == (StartRun(SCHEDULED, float("inf")),)
    during = look(step.state, 36 * HOUR, schedule)
    assert during.actions == ()
    after = look(end_run(during.state, MIDNIGHT + 37 * HOUR), 37 * HOUR, schedule)
    assert [type(action) for action in after.actions] == [StartRun]


def test_continuous_is_always_connected_and_ignores_the_window() -> None:
    schedule = Schedule.parse("*/1 * * * *", "PT4H")
    step = look(lived(9 * HOUR, schedule), 9 * HOUR + 61, schedule)
    assert step.connected
    assert step.actions == (StartRun(SCHEDULED, float("inf")),)
    assert step.pause(MIDNIGHT + 9 * HOUR + 61) <= LOOK_SECONDS


def test_a_killed_run_is_asked_for_again() -> None:
    state = after_restart(look(request_run(lived(9 * HOUR), INITIAL), 12 * HOUR).state)
    assert look(state, 12.5 * HOUR).actions == (StartRun(INITIAL, MIDNIGHT + 16 * HOUR),)


def test_a_failed_run_waits_and_then_goes_on() -> None:
    state = end_run(look(lived(9 * HOUR), 12 * HOUR).state, MIDNIGHT + 12 * HOUR, again_in=600.0)
    resting = look(state, 12 * HOUR + 1)
    assert resting.actions == ()
    assert resting.wake == MIDNIGHT + 12 * HOUR + 600
    assert len(look(state, 12 * HOUR + 600).actions) == 1
    assert (
        len(look(ScheduleState(requested=SCHEDULED, again_at=MIDNIGHT + 900 * DAY), 12 * HOUR).actions) == 1
    )


def test_a_repository_that_fails_keeps_nothing_from_being_looked_at_each_minute() -> None:
    """A run that failed is tried again after its wait, or with the next occurrence, if that comes first."""
    always = Schedule.parse("* * * * *")
    running = look(lived(9 * HOUR, always), 9 * HOUR + 60, always)
    assert running.actions
    state = end_run(running.state, MIDNIGHT + 9 * HOUR + 61, again_in=300.0)
    assert look(state, 9 * HOUR + 62, always).actions == ()
    assert len(look(state, 9 * HOUR + 120, always).actions) == 1


def test_an_operator_need_not_wait_for_the_window() -> None:
    step = look(request_run(lived(9 * HOUR), MANUAL, force=True), 9.5 * HOUR)
    assert step.actions == (StartRun(MANUAL, float("inf")),)
    assert look(step.state, 10 * HOUR).actions == ()
    assert not look(end_run(step.state, MIDNIGHT + 10 * HOUR), 10 * HOUR).state.forced


@pytest.mark.parametrize("text", ["0 12 * * *", "* * * * *"])
def test_the_ttl_holds_in_both_modes(text: str) -> None:
    schedule = Schedule.parse(text, "PT4H", "P1D")
    state = ScheduleState(lived(9 * HOUR, schedule).covered, synced_at=MIDNIGHT - DAY)
    assert look(state, 12 * HOUR, schedule).state.running == RECOVERY
    fresh = ScheduleState(state.covered, synced_at=MIDNIGHT + 11 * HOUR)
    assert look(fresh, 12 * HOUR, schedule).state.running == SCHEDULED
    ahead = ScheduleState(state.covered, synced_at=MIDNIGHT + 900 * DAY)  # stamped by a wrong clock
    assert look(ahead, 12 * HOUR, schedule).state.synced_at == MIDNIGHT + 12 * HOUR


@pytest.mark.parametrize("day", ["2026-03-29", "2026-10-25"])
def test_daylight_saving_neither_skips_nor_doubles(day: str) -> None:
    """The clocks of Berlin change at 01:00 UTC on these days; the schedule is in UTC."""
    schedule = Schedule.parse("30 1 * * *", "PT1H")
    begin = datetime.fromisoformat(day).replace(tzinfo=ZoneInfo("Europe/Berlin")).timestamp() - DAY
    state, starts, at = (
        ScheduleState(covered=look(ScheduleState(), begin - MIDNIGHT, schedule).state.covered),
        [],
        begin,
    )
    while at < begin + 3 * DAY:
        step = due(schedule, state, at)
        starts += [at for action in step.actions if isinstance(action, StartRun)]
        state = end_run(step.state, at) if step.state.running else step.state
        at += 60
    assert [datetime.fromtimestamp(s, UTC).strftime("%H:%M") for s in starts] == ["01:30"] * 3


def test_jitter_spreads_a_fleet_and_keeps_the_end() -> None:
    step = due(NOON, lived(9 * HOUR), MIDNIGHT + 12 * HOUR + 60, 0.5)
    assert step.actions == ()
    assert step.wake == MIDNIGHT + 12 * HOUR + 300
    step = due(NOON, step.state, step.wake, 0.5)
    assert step.actions == (StartRun(SCHEDULED, MIDNIGHT + 16 * HOUR),)


def test_of_two_triggers_the_one_that_includes_the_other() -> None:
    assert broader(CHANGES, RECOVERY) == broader(RECOVERY, CHANGES) == RECOVERY
    assert broader("", "") == ""


def test_a_clock_of_any_year_is_lived_with() -> None:
    for now in (-1e9, 0.0, 1e11, 1e15):
        assert due(NOON, ScheduleState(), now).state.covered


JUMPS = st.lists(st.floats(-10 * DAY, 10 * DAY) | st.floats(0, 4 * HOUR), max_size=30)


@given(JUMPS, st.sampled_from(["0 12 * * *", "*/30 * * * *", "15 3 * * 1"]), st.floats(0, 1))
def test_whatever_the_clock_does(jumps: list[float], text: str, share: float) -> None:
    schedule = Schedule.parse(text, "PT30M")
    state, now = ScheduleState(), MIDNIGHT
    for jump in jumps:
        now += jump
        step = due(schedule, state, now, share)
        again = due(schedule, step.state, now, share)
        assert again.actions == ()
        assert step.wake > now
        for action in step.actions:
            if isinstance(action, StartRun):
                assert now < action.closes
                assert schedule.closes(now, share) is not None
        if not step.connected:
            assert not step.state.running
        state = step.state if len(step.state.covered) % 2 else end_run(step.state, now)


@given(
    st.floats(0, 4e9),
    st.sampled_from(["0 12 * * *", "*/7 3-5 * * *", "0 0 29 2 *", "* * * * *", "0 0 1,15 * 1"]),
)
def test_occurrences_lie_around_their_moment(at: float, text: str) -> None:
    cron = Cron(text)
    before, after = cron.around(at)
    assert before <= at < after
    if before != float("-inf"):
        assert Cron(text).around(before) == (before, after)
