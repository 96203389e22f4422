"""The link is shared: people first, synchronisation never starved, caps by node, parent, work and hour."""

from __future__ import annotations

import pytest
from holdfast.bandwidth.share import (
    AIM,
    BYTES_PER_MBIT,
    LINGER_SECONDS,
    LOOK_SECONDS,
    UNKNOWN_FLOOR,
    LinkShare,
    Work,
    holds_at,
    hours_of,
)
from holdfast.config import CapSection
from hypothesis import given
from hypothesis import strategies as st

PIECE = 16 * 1024


class Flow:
    """A reader: takes what the link gives it, and waits as it is told, looking again as a lane does. `most` is its own
    parent's bound (bytes/s)."""

    def __init__(self, work: Work, parent: str = "p", most: float = float("inf")) -> None:
        self.work, self.parent, self.most = work, parent, most
        self.ready, self.came, self.history = 0.0, 0.0, [0.0]
        self._held = 0.0


class Link:
    """A link of some capacity that its readers divide evenly, as TCP does, in steps of 5 ms."""

    STEP = 0.005

    def __init__(self, mbit: float, share: LinkShare, wall: float = 0.0) -> None:
        self.capacity, self.share, self.now, self.wall = mbit * BYTES_PER_MBIT, share, 0.0, wall
        self.flows: list[Flow] = []

    def begin(self, flow: Flow) -> Flow:
        """A transfer starts."""
        self.flows.append(flow)
        flow.ready = self.now
        self.share.began(flow.work, self.now, self.wall + self.now)
        return flow

    def end(self, flow: Flow) -> None:
        """A transfer ends."""
        self.flows.remove(flow)
        self.share.ended(flow.work, self.now)
        for other in self.flows:
            other.ready = self.now

    def run(self, seconds: float) -> dict[Flow, float]:
        """Bytes a second that each flow got."""
        before = {flow: flow.came for flow in self.flows}
        end = self.now + seconds
        while self.now < end:
            self._step()
        return {flow: (flow.came - came) / seconds for flow, came in before.items()}

    def _step(self) -> None:
        self.now += self.STEP
        active = sorted((f for f in self.flows if self._is_ready(f)), key=lambda f: f.most)
        left = self.capacity * self.STEP
        for number, flow in enumerate(active):
            got = min(left / (len(active) - number), flow.most * self.STEP)
            left -= got
            self._give(flow, got)

    def _is_ready(self, flow: Flow) -> bool:
        if flow.ready > self.now:
            return False
        wall = self.wall + self.now
        owed = self.share.owed(flow.parent, flow.work, self.now, wall)
        if self.share.is_closed(flow.parent, flow.work, wall):
            owed = LOOK_SECONDS
        flow.ready = self.now + min(owed, LOOK_SECONDS, self.share.lingers(self.now) or LOOK_SECONDS)
        return owed == 0.0

    def _give(self, flow: Flow, size: float) -> None:
        flow.came += size
        flow._held += size
        while flow._held >= PIECE:
            flow._held -= PIECE
            self.share.take(flow.parent, flow.work, PIECE, self.now, self.wall + self.now)


@pytest.mark.parametrize("cap", [(), (CapSection(mbit=10.0),)], ids=["measured", "capped"])
@pytest.mark.parametrize("syncing", [1, 4])
def test_a_miss_has_nine_tenths_within_a_second_and_sync_the_rest(
    cap: tuple[CapSection, ...], syncing: int
) -> None:
    link = Link(10.0, LinkShare(cap))
    bulk = [link.begin(Flow("sync")) for _ in range(syncing)]
    alone = sum(link.run(5.0).values())
    assert alone >= 0.97 * link.capacity
    miss = link.begin(Flow("interactive"))
    link.run(1.0)
    rates = link.run(10.0)
    print(
        f"a miss: {rates[miss] / link.capacity:.1%}, sync: {sum(rates[f] for f in bulk) / link.capacity:.1%}"
    )
    assert rates[miss] >= 0.90 * link.capacity
    assert sum(rates.values()) >= 0.97 * link.capacity
    assert sum(rates[f] for f in bulk) >= 0.04 * link.capacity  # never starved
    link.end(miss)
    link.run(LINGER_SECONDS + LOOK_SECONDS)
    assert sum(link.run(5.0).values()) >= 0.97 * link.capacity


def test_a_miss_has_nine_tenths_in_the_second_after_the_first() -> None:
    link = Link(10.0, LinkShare())
    link.begin(Flow("sync"))
    link.run(5.0)
    miss = link.begin(Flow("interactive"))
    first = link.run(1.0)[miss]
    assert first >= 0.85 * link.capacity
    assert link.run(0.5)[miss] >= 0.90 * link.capacity


def test_what_a_slow_miss_leaves_goes_to_sync() -> None:
    link = Link(10.0, LinkShare())
    bulk = link.begin(Flow("sync"))
    link.run(8.0)
    miss = link.begin(Flow("interactive", most=0.2 * link.capacity))
    link.run(2.0)
    link.run(4.0)  # grown into what is unused
    rates = link.run(10.0)
    assert rates[miss] >= 0.19 * link.capacity
    assert rates[bulk] >= (AIM - 0.2 - 0.05) * link.capacity


def test_sync_is_not_starved_by_many_misses_under_a_cap() -> None:
    link = Link(100.0, LinkShare((CapSection(mbit=10.0),)))
    bulk = link.begin(Flow("sync"))
    link.run(2.0)
    misses = [link.begin(Flow("interactive")) for _ in range(20)]
    link.run(2.0)
    rates = link.run(10.0)
    capacity = 10.0 * BYTES_PER_MBIT
    assert 0.04 * capacity <= rates[bulk] <= 0.08 * capacity
    assert sum(rates[f] for f in misses) >= 0.88 * capacity
    assert sum(rates.values()) <= 1.05 * capacity


def test_misses_alone_have_all_of_a_cap() -> None:
    link = Link(100.0, LinkShare((CapSection(mbit=10.0),)))
    miss = link.begin(Flow("interactive"))
    link.run(1.0)
    assert link.run(10.0)[miss] >= 0.99 * 10.0 * BYTES_PER_MBIT


def test_caps_hold_by_parent_work_and_hour() -> None:
    caps = (
        CapSection(mbit=20.0),
        CapSection(mbit=4.0, parent="*"),
        CapSection(mbit=1.0, work="push"),
        CapSection(mbit=2.0, work="sync", hours="08:00-17:00"),
    )
    link = Link(100.0, LinkShare(caps), wall=9 * 3600.0)
    one, other = link.begin(Flow("sync", "a")), link.begin(Flow("sync", "b"))
    push = link.begin(Flow("push", "a"))
    link.run(1.0)
    rates = link.run(10.0)
    assert rates[one] + rates[other] == pytest.approx(2.0 * BYTES_PER_MBIT, rel=0.1)
    assert rates[push] == pytest.approx(1.0 * BYTES_PER_MBIT, rel=0.1)
    link.wall += 10 * 3600.0
    link.run(2.0)
    rates = link.run(10.0)
    assert rates[other] == pytest.approx(4.0 * BYTES_PER_MBIT, rel=0.1)
    assert rates[one] + rates[push] == pytest.approx(4.0 * BYTES_PER_MBIT, rel=0.1)


def test_a_cap_of_nothing_stops_a_class() -> None:
    link = Link(10.0, LinkShare((CapSection(mbit=0.0, work="sync"),)))
    bulk = link.begin(Flow("sync"))
    link.run(2.0)
    assert link.run(20.0)[bulk] == 0.0


def test_a_cap_of_nothing_ends_with_its_hours() -> None:
    link = Link(
        10.0, LinkShare((CapSection(mbit=0.0, work="sync", hours="00:00-08:00"),)), wall=8 * 3600.0 - 10.0
    )
    bulk = link.begin(Flow("sync"))
    assert link.run(9.0)[bulk] == 0.0
    link.run(1.0 + LOOK_SECONDS)
    assert link.run(5.0)[bulk] >= 0.97 * link.capacity


def test_misses_alone_on_a_link_without_caps_are_not_counted() -> None:
    share = LinkShare()
    share.began("interactive", 0.0, 0.0)
    assert not share.is_shared
    share.began("sync", 50.0, 50.0)
    assert share.is_shared
    assert share.allowed() == UNKNOWN_FLOOR
    share.ended("sync", 60.0)
    assert not share.is_shared
    assert LinkShare((CapSection(mbit=1.0),)).is_shared


def test_between_two_blobs_of_one_pull_the_link_stays_theirs() -> None:
    link = Link(10.0, LinkShare())
    bulk = link.begin(Flow("sync"))
    link.run(5.0)
    for _ in range(8):
        miss = link.begin(Flow("interactive"))
        link.run(0.5)
        link.end(miss)
        came = bulk.came
        link.run(0.3)
        assert bulk.came - came <= 0.1 * link.capacity * 0.3 + PIECE


def polled(link: Link, seconds: float) -> dict[Flow, float]:
    """Bytes a second that each flow got beside misses of 10 ms, 30 a second."""
    before, end = {flow: flow.came for flow in link.flows}, link.now + seconds
    while link.now < end:
        miss = link.begin(Flow("interactive", most=2e6))
        link.run(0.01)
        link.end(miss)
        link.run(0.023)
    return {flow: (flow.came - came) / seconds for flow, came in before.items()}


@pytest.mark.parametrize("work", ["sync", "push"])
def test_case_fault_15_short_misses_leave_a_fast_link_to_others(work: Work) -> None:
    """They are served for a third of the time, and the link stays theirs for so long again."""
    link = Link(1000.0, LinkShare())
    bulk = link.begin(Flow(work, most=2e6))
    polled(link, 2.0)
    assert polled(link, 20.0)[bulk] >= 0.3 * 2e6


def test_a_buffer_that_is_emptied_at_once_is_no_capacity() -> None:
    """Half a second of the link lay in the kernel and is read in one go; the misses do not lose by it."""
    link = Link(10.0, LinkShare())
    link.begin(Flow("sync"))
    link.run(5.0)
    link.share.take("p", "sync", int(0.5 * link.capacity), link.now, link.now)
    miss = link.begin(Flow("interactive"))
    link.run(1.0)
    assert link.run(10.0)[miss] >= 0.90 * link.capacity


@given(st.lists(st.tuples(st.floats(0, 2), st.integers(0, 1 << 20), st.booleans()), max_size=60))
def test_no_wait_is_negative_and_no_cap_is_passed(steps: list[tuple[float, int, bool]]) -> None:
    share, now, came = LinkShare((CapSection(mbit=8.0),)), 0.0, 0
    for wait, size, miss in steps:
        now += wait
        work: Work = "interactive" if miss else "sync"
        owed = share.take("p", work, size, now, now)
        came += size
        assert owed >= 0
        assert came <= 1_000_000 * (now + owed + 0.1) + 1  # 8 Mbit/s with a burst of 0.1 s
        now += owed


@pytest.mark.parametrize(
    ("text", "found"),
    [("08:00-17:00", (28800, 61200)), ("22:00-06:00", (79200, 21600)), ("00:00-24:00", (0, 86400))],
)
def test_hours(text: str, found: tuple[int, int]) -> None:
    assert hours_of(text) == found


@pytest.mark.parametrize("text", ["8-17", "08:00-25:00", "08:00-08:00", "08:00-24:30", "24:00-08:00", ""])
def test_no_hours(text: str) -> None:
    assert hours_of(text) is None


def test_hours_over_midnight() -> None:
    assert [holds_at("22:00-06:00", hour * 3600.0) for hour in (21, 22, 23, 0, 5, 6)] == [
        False,
        True,
        True,
        True,
        True,
        False,
    ]
