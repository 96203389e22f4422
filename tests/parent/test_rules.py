"""The pure rules: health, waits, pace, caps, placement of ranges."""

from __future__ import annotations

import asyncio

import pytest
from holdfast.bandwidth.caps import Bulk, BulkRoom, Caps
from holdfast.errors import (
    ConnectTimedOut,
    KnownOffline,
    ParentBroken,
    ParentErred,
    ParentFailed,
    ParentNotFound,
    ParentThrottled,
    ParentUnreachable,
    SlotsTaken,
    StillErring,
    TimedOut,
)
from holdfast.http.body import BodyPace
from holdfast.http.health import Health, best
from holdfast.http.retry import Deadline, persist, retry_after, wait_before_next
from holdfast.parent.blob_stream import LARGEST_BLOB, Placement, placement, strong_etag
from holdfast.testing.manual_clock import START, FakeClock
from hypothesis import given
from hypothesis import strategies as st

pytestmark = pytest.mark.loop("asyncio")


def test_health_has_hysteresis() -> None:
    health, states = Health(10.0), []
    for event in ("bad", "good", "good", "bad", "bad", "good", "bad", "bad", "bad", "good", "good", "good"):
        if event == "good":
            health.answered("a")
        else:
            health.unreachable(0.0)
        states.append(health.state)
    expected = (
        "degraded degraded online degraded degraded degraded degraded degraded offline degraded online online"
    )
    assert states == expected.split()


def test_offline_refuses_until_a_probe_and_probes_once_an_interval() -> None:
    health = Health(10.0)
    health.unreachable(100.0, decisive=True)
    assert isinstance(health.refusal(100.0, "a"), KnownOffline)
    assert [health.probe_due(now) for now in (100.0, 109.9, 110.0, 110.1, 119.9, 120.0)] == [
        False,
        False,
        True,
        False,
        False,
        True,
    ]
    health.answered("")
    assert health.refusal(120.0, "a") is None


def test_five_errors_close_one_repository_for_30_s() -> None:
    health = Health(10.0)
    for _ in range(4):
        health.erred(0.0, "a")
    assert health.refusal(0.0, "a") is None
    health.erred(0.0, "a")
    refusal = health.refusal(1.0, "a")
    assert isinstance(refusal, StillErring)
    assert refusal.retry_after == 29
    assert health.refusal(1.0, "b") is None
    assert health.refusal(30.0, "a") is None
    health.erred(30.0, "a")
    health.answered("a")
    for _ in range(4):
        health.erred(31.0, "a")
    assert health.refusal(31.0, "a") is None


def test_what_is_remembered_of_errors_is_bounded() -> None:
    health = Health(10.0)
    for number in range(5000):
        health.erred(0.0, f"r{number}")
    assert len(health._erring) == 1024


def test_best() -> None:
    assert best(["offline", "online"]) == "online"
    assert best(["offline", "degraded"]) == "degraded"
    assert best(["offline"]) == "offline"


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        (None, None),
        ("", None),
        ("soon", None),
        ("-5", None),
        ("1.5", None),
        ("\u0661", None),
        ("0", 0),
        ("7", 7),
        (" 7 ", 7),
        ("301", 300),
        ("1" * 5000, 300),
        ("Fri, 15 Jan 2027 08:00:10 GMT", 10),
        ("Fri, 15 Jan 2027 07:00:00 GMT", 0),
        ("Fri, 15 Jan 2999 07:00:00 GMT", 300),
    ],
)
def test_retry_after(value: str | None, seconds: int | None) -> None:
    assert retry_after(value, START) == seconds


@given(st.text(max_size=60), st.floats(0, 1e10))
def test_retry_after_is_total_and_bounded(value: str, now: float) -> None:
    found = retry_after(value, now)
    assert found is None or 0 <= found <= 300


@pytest.mark.parametrize(
    ("failure", "tried", "wait"),
    [
        (ParentErred(""), 1, 0.5),
        (ParentErred(""), 4, 4.0),
        (ParentErred(""), 5, None),
        (ParentErred("", retry_after=3), 1, 4.0),
        (ParentThrottled("", retry_after=10**9), 1, 301.0),
        (ParentUnreachable(""), 2, 1.0),
        (TimedOut(""), 1, 0.5),
        (ConnectTimedOut(""), 1, None),
        (KnownOffline(""), 1, None),
        (SlotsTaken(""), 1, None),
        (ParentBroken(""), 1, None),
        (ParentNotFound(""), 1, None),
    ],
)
def test_waits(failure: ParentFailed, tried: int, wait: float | None) -> None:
    assert wait_before_next(failure, tried, lambda limit: limit) == wait


@given(st.integers(1, 10), st.floats(0, 1))
def test_backoff_is_bounded(tried: int, share: float) -> None:
    wait = wait_before_next(ParentErred(""), tried, lambda limit: limit * share)
    assert wait is None or 0 <= wait <= 8


async def test_persist_never_waits_past_its_deadline() -> None:
    clock = FakeClock()

    async def attempt() -> None:
        raise ParentErred("")

    with pytest.raises(ParentErred) as failed:
        await persist(attempt, Deadline.after(clock, 2.0), lambda: True)
    assert clock.slept == [0.5, 1.0]
    assert failed.value.retry_after == 2


def test_pace_counts_only_time_spent_waiting() -> None:
    pace = BodyPace(60.0)
    for _ in range(100):
        pace.add(1, 0.0)
    pace.add(60 * 1024 - 100, 60.0)
    pace.add(10, 59.0)
    assert pace.left() == 1.0
    with pytest.raises(TimedOut, match="11 bytes in 60 s"):
        pace.add(1, 1.0)


def test_without_a_cap_on_requests_none_waits() -> None:
    async def case() -> None:
        clock = FakeClock()
        caps = Caps(1, 0.0, clock)
        for _ in range(100):
            await caps.pace(0.0)
        assert clock.slept == []

    asyncio.run(case())


async def test_caps_refuse_in_time_and_give_back() -> None:
    clock = FakeClock()
    caps = Caps(1, 1.0, clock)
    async with caps.transfer():
        with pytest.raises(SlotsTaken):
            await caps.short(0.01).__aenter__()
    async with caps.short(0.01):
        pass
    await caps.pace(0.0)
    with pytest.raises(SlotsTaken) as refused:
        await caps.pace(0.5)
    assert refused.value.retry_after == 2
    await caps.pace(1.0)
    assert clock.slept == [1.0]


class Bodies:
    """Bulk transfers that hold their place until they are let go."""

    def __init__(self, room: BulkRoom) -> None:
        self.room, self.held = room, {"sync": list[asyncio.Task[None]](), "push": list[asyncio.Task[None]]()}
        self.tasks: list[asyncio.Task[None]] = []

    async def _hold(self, work: Bulk) -> None:
        task = asyncio.current_task()
        assert task is not None
        async with self.room.place(work):
            self.held[work].append(task)
            try:
                await asyncio.Event().wait()
            finally:
                self.held[work].remove(task)

    async def begin(self, work: Bulk, count: int) -> None:
        """So many more want a place."""
        self.tasks += [asyncio.create_task(self._hold(work)) for _ in range(count)]
        await self.settle()

    async def end(self, work: Bulk, count: int) -> None:
        """So many of those that have one are through."""
        for task in self.held[work][:count]:
            task.cancel()
        await self.settle()

    async def settle(self) -> None:
        """Everybody had a turn."""
        for _ in range(10):
            await asyncio.sleep(0)

    def __call__(self) -> tuple[int, int]:
        return len(self.held["sync"]), len(self.held["push"])


async def test_case_fault_15_bulk_work_has_what_the_other_leaves_and_half_when_both_want_all() -> None:
    bodies = Bodies(BulkRoom(20, 16))
    await bodies.begin("push", 30)
    assert bodies() == (0, 16)
    await bodies.begin("sync", 30)
    assert bodies() == (4, 16)
    for ended in range(1, 7):
        await bodies.end("push", 1)
        assert bodies() == (4 + ended, 16 - ended)
    await bodies.end("push", 2)
    assert bodies() == (10, 10)
    await bodies.end("sync", 3)
    assert bodies() == (10, 10)
    for task in bodies.tasks:
        task.cancel()
    await asyncio.gather(*bodies.tasks, return_exceptions=True)
    fresh = Bodies(bodies.room)
    await fresh.begin("sync", 20)
    assert fresh() == (16, 0)
    for task in fresh.tasks:
        task.cancel()


@pytest.mark.parametrize("connections", [1, 2, 3])
async def test_case_fault_15_a_single_place_is_taken_in_turns(connections: int) -> None:
    """A push does not wait for a whole synchronisation."""
    room, served = Caps(connections, 0.0, FakeClock())._bulk, list[Bulk]()

    async def body(work: Bulk) -> None:
        async with room.place(work):
            served.append(work)
            await asyncio.sleep(0)

    works: list[Bulk] = [*["sync"] * 30, *["push"] * 3]  # type: ignore[list-item]
    await asyncio.gather(*map(body, works))
    assert served == ["sync", "push"] * 3 + ["sync"] * 27


@pytest.mark.parametrize("connections", [1, 2, 3, 4, 8, 32, 1024])
async def test_case_fault_15_a_miss_finds_a_connection_however_much_bulk_work_there_is(
    connections: int,
) -> None:
    caps = Caps(connections, 0.0, FakeClock())
    bodies = Bodies(caps._bulk)
    await bodies.begin("sync", connections)
    await bodies.begin("push", connections)
    for_bodies = connections - max(1, connections // 4)
    assert 1 <= sum(bodies()) <= max(1, for_bodies - max(1, for_bodies // 6))
    assert connections < 4 or all(bodies())
    for task in bodies.tasks:
        task.cancel()


@pytest.mark.parametrize(
    ("status", "length", "content_range", "start", "end", "expected"),
    [
        (200, 10, None, 0, None, Placement(0, 10, 10, False)),
        (200, 10, None, 4, 6, Placement(0, 10, 10, False)),
        (200, 0, None, 0, None, Placement(0, 0, 0, False)),
        (206, 6, "bytes 4-9/10", 4, None, Placement(4, 10, 10, True)),
        (206, None, "Bytes 4-9/10", 4, 99, Placement(4, 10, 10, True)),
        (206, 2, " bytes 4-5/10 ", 4, 6, Placement(4, 6, 10, True)),
        (200, None, None, 0, None, None),
        (206, 6, None, 4, None, None),
        (206, 6, "bytes 4-9/*", 4, None, None),
        (206, 6, "bytes */10", 4, None, None),
        (206, 5, "bytes 4-9/10", 4, None, None),
        (206, 6, "bytes 3-9/10", 4, None, None),
        (206, 6, "bytes 4-9/11", 4, None, None),
        (206, 6, "bytes 4-9/9", 4, None, None),
        (206, 6, "bytes 9-4/10", 9, 5, None),
        (206, 6, "bytes 4-" + "9" * 30 + "/10", 4, None, None),
        (206, 6, "bytes 4-9/10, bytes 4-9/10", 4, None, None),
        (206, 6, "bytes \u0664-9/10", 4, None, None),
        (200, LARGEST_BLOB, None, 0, None, Placement(0, LARGEST_BLOB, LARGEST_BLOB, False)),
        (200, LARGEST_BLOB + 1, None, 0, None, None),
        (200, -1, None, 0, None, None),
        (206, 6, f"bytes 4-9/{1 << 62}", 4, 10, None),
    ],
)
def test_placement(
    status: int,
    length: int | None,
    content_range: str | None,
    start: int,
    end: int | None,
    expected: Placement | None,
) -> None:
    if expected is None:
        with pytest.raises(ParentBroken):
            placement(status, length, content_range, start, end)
    else:
        assert placement(status, length, content_range, start, end) == expected


@pytest.mark.parametrize(
    ("value", "etag"),
    [('"a"', '"a"'), ('W/"a"', ""), ("a", ""), (None, ""), ('"a\r\nX: y"', ""), ('"a" "b"', "")],
)
def test_strong_etag(value: str | None, etag: str) -> None:
    assert strong_etag(value) == etag
