"""A change of the outbox that cannot be written: what is in memory is what is on the disk, and everything arrives."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Any, cast

import pytest
from holdfast.outbox import records, sender
from holdfast.outbox.entry import OutboxEntry
from holdfast.outbox.stored_queue import StoredQueue
from holdfast_core.errors import Exhausted
from holdfast_core.facets.outbox import OutboxRows
from outbox.test_going_up import empty, tag_at, two
from support.patience import patience
from support.pushing import Registry


class RefusedChanges:
    """A store that refuses changes of the outbox. `at_once`: before it takes them on, as one does that failed."""

    def __init__(self, node: Registry, which: Callable[[int, Sequence[int]], bool], *, at_once: bool) -> None:
        self._node, self._which, self._at_once = node, which, at_once
        self._change: Any = node.store.references.outbox.change
        self.asked, self.refused = 0, list[int]()

    def __call__(
        self, puts: Sequence[tuple[int, bytes]], removes: Sequence[int], settled: Any
    ) -> Future[None]:
        """In place of `OutboxRows.change`."""
        self.asked += 1
        if not self._which(self.asked, removes):
            found: Future[None] = self._change(puts, removes, settled)
            return found
        self.refused.append(self.asked)
        if self._at_once:
            raise Exhausted("no space left")
        failed = Future[None]()
        failed.set_exception(Exhausted("no space left"))
        return failed

    def held(self) -> list[OutboxEntry]:
        """What is in memory."""
        return list(self._node.keeper.parts.senders[0]._rows.queue)

    def stored(self) -> list[OutboxEntry]:
        """What is on the disk."""
        return [records.decode(*row) for row in self._node.store.references.outbox.rows()]


async def pushed(child: Registry) -> dict[str, str]:
    """Two images that share a layer, and a tag that moves; what the tags name."""
    first = await child.image("a", "one", "two", number=1)
    second = await child.image("a", "two", number=2)
    return {"one": first, "two": second}


@pytest.mark.parametrize("at_once", [False, True])
@pytest.mark.parametrize("number", [1, 2, 3, 4, 5])
async def test_case_fault_14_whichever_change_is_refused_everything_goes_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, at_once: bool
) -> None:
    monkeypatch.setattr(sender, "pause", lambda *_: 0.0)
    async with two(tmp_path) as (root, child):
        refusing = RefusedChanges(child, lambda asked, _: asked == number, at_once=at_once)
        monkeypatch.setattr(child.store.references.outbox, "change", refusing)
        wanted = await pushed(child)
        await empty(child)
        assert {tag: tag_at(root, "a", tag) for tag in wanted} == wanted
        assert (refusing.refused, refusing.held()) == ([number], [])


async def test_case_fault_14_while_no_end_of_a_row_can_be_written_memory_is_as_the_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sender, "pause", lambda *_: 0.0)
    async with two(tmp_path) as (root, child):
        is_full = True
        refusing = RefusedChanges(child, lambda _, removes: bool(removes) and is_full, at_once=False)
        monkeypatch.setattr(child.store.references.outbox, "change", refusing)
        wanted = await child.image("a", "one", number=1)
        climbing = child.keeper.parts.senders[0]
        async with patience():
            while len(refusing.refused) < 3 or climbing.under_way:
                await asyncio.sleep(0)
        assert refusing.held() == refusing.stored()
        assert tag_at(root, "a", "one") == wanted
        is_full = False
        await empty(child)


class Undecided:
    """An outbox that decides on changes when the test says so."""

    def __init__(self, *entries: OutboxEntry) -> None:
        self.stored = {entry.seq: records.encode(entry) for entry in entries}
        self.waiting: list[tuple[Future[None], Sequence[tuple[int, bytes]], Sequence[int]]] = []

    def rows(self, *, after: int) -> list[tuple[int, bytes]]:
        """See `OutboxRows`."""
        return [row for row in sorted(self.stored.items()) if row[0] > after]

    def last(self) -> int:
        """See `OutboxRows`."""
        return max(self.stored, default=0)

    def change(
        self, puts: Sequence[tuple[int, bytes]], removes: Sequence[int], settled: object
    ) -> Future[None]:
        """See `OutboxRows`."""
        self.waiting.append((Future[None](), puts, removes))
        return self.waiting[-1][0]

    async def decide(self, *, well: bool) -> None:
        """On the first that waits."""
        future, puts, removes = self.waiting.pop(0)
        if well:
            self.stored.update(puts)
            for number in removes:
                del self.stored[number]
            future.set_result(None)
        else:
            future.set_exception(Exhausted("no space left"))
        for _ in range(5):
            await asyncio.sleep(0)


def entry(number: int, tag: str, **more: Any) -> OutboxEntry:
    """The move of a tag of "a"."""
    return OutboxEntry(number, "a", "tag", f"sha256:{number:064}", 1.0, tag, **more)


@pytest.mark.loop("asyncio")
async def test_case_fault_14_the_queue_is_read_anew_when_all_is_decided(tmp_path: Path) -> None:
    """Before that the store does not have yet what other changes made of it. A row that nobody looked at comes later,
    as a new one: of two moves of a tag the last goes up."""
    store = Undecided(*(entry(number, f"v{number}") for number in range(1, 4)))
    rows = StoredQueue(cast(OutboxRows, store), "")
    await rows.refresh()
    refused = asyncio.ensure_future(rows.change(rows.queue.dropped(1)))
    other = asyncio.ensure_future(rows.change(rows.queue.dropped(2)))
    await asyncio.sleep(0)
    await store.decide(well=False)
    store.stored[4] = records.encode(entry(4, "v3"))
    assert [one.seq for one in rows.queue] == [3]
    await store.decide(well=True)
    assert [one.seq for one in rows.queue] == [1, 3]
    assert refused.exception() is not None
    await other
    came = asyncio.ensure_future(rows.refresh())
    await asyncio.sleep(0)
    await store.decide(well=True)
    await came
    assert [one.seq for one in rows.queue] == [1, 4]
    assert list(store.stored) == [1, 4]
