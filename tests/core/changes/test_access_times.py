"""Times that wait in memory: how many of them, for how long, and what they become."""

from __future__ import annotations

import pytest
from holdfast_core import format as layout
from holdfast_core.changes import access_times
from holdfast_core.changes.access_times import AccessTimes
from holdfast_core.changes.change import IndexChange, put
from holdfast_core.space_format import HALF_LIFE_SECONDS

HOUR = 3600.0
OLD = layout.encode_time(1.0) + b"what it says"
NOTED = layout.encode_time(7.0) + b"what it says"


class Clock:
    """Seconds, moved by the test."""

    now = 50.0

    def __call__(self) -> float:
        return self.now


class Records:
    """What an index has, as a planner sees it."""

    def __init__(self, **records: bytes) -> None:
        self._records = {key.encode(): value for key, value in records.items()}

    def get(self, key: bytes) -> bytes | None:
        return self._records.get(key)

    def raw(self, key: bytes) -> bytes | None:
        return self._records.get(key)

    def keys(self, prefix: bytes, limit: int | None = None) -> list[bytes]:
        return sorted(key for key in self._records if key.startswith(prefix))[:limit]

    def rows(self, prefix: bytes, *, after: bytes, limit: int | None = None) -> list[tuple[bytes, bytes]]:
        return [(key, self._records[key]) for key in self.keys(prefix) if key > after][:limit]


def written(notes: AccessTimes, **records: bytes) -> list[list[IndexChange]]:
    """The changes of each planner."""
    return [list(plan(Records(**records))) for plan in notes.taken()]


def test_case_fault_11_notes_are_due_after_an_hour() -> None:
    notes = AccessTimes(clock := Clock())
    notes.see(b"a", 7.0)
    clock.now += HOUR - 1
    assert not notes.is_due
    clock.now += 1
    assert notes.is_due
    assert list(notes.taken())
    assert not notes.is_due, "the next hour begins"


@pytest.mark.parametrize("sort", ["seen", "confirmed"])
def test_case_fault_11_a_full_store_of_notes_is_due_and_takes_no_new_ones(
    sort: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(access_times, "LIMIT", 2)
    notes = AccessTimes(Clock())

    def note(key: bytes, now: float) -> None:
        notes.see(key, now) if sort == "seen" else notes.confirm(key, OLD, now)

    def noted(key: bytes) -> bool:
        return notes.last_seen(key) is not None if sort == "seen" else notes.newest(key, OLD) != OLD

    note(b"a", 7.0)
    assert not notes.is_due
    note(b"b", 7.0)
    assert notes.is_due
    note(b"c", 7.0)
    assert [noted(key) for key in (b"a", b"b", b"c")] == [True, True, False]
    note(b"a", 9.0)
    later = layout.encode_time(9.0)
    assert notes.last_seen(b"a") == 9.0 if sort == "seen" else notes.newest(b"a", OLD).startswith(later)


def test_case_fault_11_a_confirmation_is_of_what_the_record_said() -> None:
    notes = AccessTimes(Clock())
    notes.confirm(b"a", OLD, 7.0)
    other = layout.encode_time(2.0) + b"something else"
    assert notes.newest(b"a", OLD) == NOTED
    assert notes.newest(b"a", other) == other
    assert notes.newest(b"b", OLD) == OLD
    assert written(notes, a=other) == [[]]
    notes.confirm(b"a", OLD, 7.0)
    assert written(notes, a=OLD) == [[put(b"a", NOTED)]]
    assert written(notes, a=OLD) == []
    assert notes.newest(b"a", OLD) == OLD


def test_case_fault_11_notes_are_written_in_order_and_so_many_at_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(access_times, "BATCH", 2)
    notes, names = AccessTimes(Clock()), "edcba"
    for name in names:
        notes.see(name.encode() * 2, 7.0)
        notes.confirm(name.encode(), OLD, 7.0)
    found = written(notes, **dict.fromkeys(names, OLD))
    keys = [[change.key for change in batch] for batch in found]
    assert keys[:3] == [[b"a", b"b"], [b"c", b"d"], [b"e"]]
    assert keys[3:] == [[b"aa", b"bb"], [b"cc", b"dd"], [b"ee"]]
    confirmed, seen = [c for batch in found[:3] for c in batch], [c for batch in found[3:] for c in batch]
    assert confirmed == [put(change.key, NOTED) for change in confirmed]
    assert seen == [put(change.key, layout.encode_seen(7.0, 1.0)) for change in seen]
    assert notes.last_seen(b"aa") is None


def test_uses_add_to_those_that_are_written_and_count_half_after_the_half_life() -> None:
    notes = AccessTimes(Clock())
    for now in (1.0, 1.0, 1.0 + HALF_LIFE_SECONDS):
        notes.see(b"a", now)
    assert written(notes) == [[put(b"a", layout.encode_seen(1.0 + HALF_LIFE_SECONDS, 2.0))]]
    notes.see(b"a", 9.0 + HALF_LIFE_SECONDS)
    before = layout.encode_seen(9.0, 6.0)
    assert written(notes, a=before) == [[put(b"a", layout.encode_seen(9.0 + HALF_LIFE_SECONDS, 4.0))]]


def test_a_record_of_before_there_were_uses_was_used_once() -> None:
    notes = AccessTimes(Clock())
    notes.see(b"a", 7.0)
    before = layout.encode_time(7.0)
    assert written(notes, a=before) == [[put(b"a", layout.encode_seen(7.0, 2.0))]]


def test_a_clock_that_was_set_back_takes_no_uses_away_and_adds_none() -> None:
    notes = AccessTimes(Clock())
    notes.see(b"a", 2e9)
    notes.see(b"a", 5.0)
    assert written(notes) == [[put(b"a", layout.encode_seen(5.0, 2.0))]]
