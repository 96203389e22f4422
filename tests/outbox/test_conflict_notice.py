"""A conflict over a tag is told once, however often it is found, and not lost by a kill."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from holdfast.outbox.conflicts import Conflicts
from holdfast.outbox.queue import Conflict
from holdfast.outbox.records import CONFLICTS, conflict_of
from holdfast.testing.manual_clock import FakeClock
from holdfast_core.store import Store
from msgspec.structs import replace
from support.logs import captured_logs

OURS, THEIRS, OTHER = (f"sha256:{letter * 64}" for letter in "abc")
FOUND = Conflict("team/app", "v1", OURS, THEIRS, "", 0, 5.0, "child-wins", "child")


@dataclass
class ReceivedPost:
    """A store whose events are kept, and keepers that come and go."""

    store: Store
    reports_due: int = 0

    def keeper(self) -> Conflicts:
        """Another one."""

        def report_due() -> None:
            self.reports_due += 1

        return Conflicts(self.store, FakeClock(), report_due)

    @property
    def events(self) -> list[tuple[str, str, str, str]]:
        """What the log says."""
        rows = self.store.events.after(0, 2 * CONFLICTS)
        return [(row.verb, row.tag, row.theirs, row.winner) for row in rows]


@pytest.fixture
def told(tmp_path: Path) -> ReceivedPost:
    store = Store.create_or_open(tmp_path / "store", write=True)
    store.events.keep(True).result()
    return ReceivedPost(store)


def test_a_conflict_that_is_found_again_is_told_once(told: ReceivedPost) -> None:
    """What follows from it failed, or the keeper was killed before it did it."""
    keeper = told.keeper()
    with captured_logs() as said:
        for again in range(3):
            asyncio.run(keeper.record(7, replace(FOUND, at=FOUND.at + again)))
        asyncio.run(told.keeper().record(7, replace(FOUND, at=99.0)))
    assert told.events == [("conflict", "v1", THEIRS, "child")]
    assert (told.reports_due, len(said), len(keeper.details())) == (1, 1, 0)
    kept = conflict_of(told.store, 7)
    assert kept == FOUND


DIFFERENT: dict[str, Callable[[Conflict], tuple[int, Conflict]]] = {
    "another entry": lambda found: (8, found),
    "the parent moved it once more": lambda found: (7, replace(found, theirs=OTHER)),
    "the policy is another": lambda found: (7, replace(found, policy="reject", winner="")),
}


@pytest.mark.parametrize("what", DIFFERENT)
def test_another_conflict_is_told_too(told: ReceivedPost, what: str) -> None:
    keeper = told.keeper()
    asyncio.run(keeper.record(7, FOUND))
    number, conflict = DIFFERENT[what](FOUND)
    asyncio.run(keeper.record(number, conflict))
    winner = conflict.winner or "undecided"
    assert told.events == [("conflict", "v1", THEIRS, "child"), ("conflict", "v1", conflict.theirs, winner)]


def test_all_are_told_though_the_last_alone_are_kept(
    told: ReceivedPost, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("holdfast.outbox.records.CONFLICTS", 3)
    keeper = told.keeper()
    for number in range(5):
        asyncio.run(keeper.record(number, FOUND))
    assert len(told.events) == 5
    assert [conflict_of(told.store, number) is not None for number in range(5)] == [
        False,
        False,
        True,
        True,
        True,
    ]
