"""The planner on its own: single decisions, then a simulated link with readers that come and go."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import pytest
from holdfast.fill.extents import Extents
from holdfast.fill.planner import (
    FIRST_WINDOW_BYTES,
    LAST_WINDOW_BYTES,
    REACH_BYTES,
    SOLID_BYTES,
    FinishFill,
    ParkFill,
    PlannerView,
    Running,
    StartTransfer,
    StopTransfer,
    Want,
    goes_on,
    plan,
)
from hypothesis import given, settings
from hypothesis import strategies as st

MIB = 1 << 20
SIZE = 512 * MIB
WHOLE = Want(whole=True)


def view(
    *wants: Want, held: Extents | None = None, running: tuple[Running, ...] = (), size: int | None = SIZE
) -> PlannerView:
    return PlannerView(size, held or Extents(), wants, running)


def at(number: int, start: int, end: int | None, landed: int | None = None, whole: bool = False) -> Running:
    position = start if landed is None else landed
    return Running(number, position, position, end, whole)


def test_a_cold_whole_blob_is_one_plain_get() -> None:
    assert plan(view(WHOLE, WHOLE, WHOLE, size=None)) == [StartTransfer(0, None, True)]
    assert plan(view(WHOLE, WHOLE)) == [StartTransfer(0, None, True)]


def test_a_cold_range_asks_for_that_range_only() -> None:
    want = Want(100 * MIB, 101 * MIB)
    assert plan(view(want, size=None)) == [StartTransfer(100 * MIB, 101 * MIB, False)]
    assert plan(view(want, want, want)) == [StartTransfer(100 * MIB, 101 * MIB, False)]


def test_a_range_past_the_end_is_cut_once_the_size_is_known() -> None:
    assert plan(view(Want(SIZE - 10, SIZE + 90))) == [StartTransfer(SIZE - 10, SIZE, False)]


def test_a_range_beyond_reach_goes_beside_the_running_transfer() -> None:
    running = at(1, 0, None, 10 * MIB, whole=True)
    held = Extents([(0, 10 * MIB)])
    assert plan(view(WHOLE, Want(300 * MIB, 301 * MIB), held=held, running=(running,))) == [
        StartTransfer(300 * MIB, 301 * MIB, False)
    ]


def test_a_range_within_reach_waits_for_the_running_transfer() -> None:
    running = at(1, 0, None, 10 * MIB, whole=True)
    near = 10 * MIB + REACH_BYTES
    assert plan(view(WHOLE, Want(near, near + MIB), held=Extents([(0, 10 * MIB)]), running=(running,))) == []


def test_people_before_background_and_ranges_before_wholes() -> None:
    wants = (replace(WHOLE, background=True), Want(300 * MIB, 301 * MIB), Want(40 * MIB, 41 * MIB))
    assert [(a.start, a.background) for a in plan(view(*wants)) if isinstance(a, StartTransfer)] == [
        (300 * MIB, False),
        (40 * MIB, False),
        (0, True),
    ]


def test_a_whole_transfer_ends_where_a_mebibyte_is_held_and_goes_on_behind_it() -> None:
    held = Extents([(0, 10 * MIB), (10 * MIB, 10 * MIB), (20 * MIB, 21 * MIB)])
    assert plan(view(WHOLE, held=held)) == [StartTransfer(10 * MIB, 20 * MIB, True)]
    held.add(10 * MIB, 20 * MIB)
    running = at(1, 10 * MIB, None, 20 * MIB, whole=True)
    assert plan(view(WHOLE, held=held, running=(running,))) == [
        StopTransfer(1),
        StartTransfer(21 * MIB, None, True),
    ]


def test_short_held_stretches_are_read_through() -> None:
    held = Extents([(20 * MIB, 20 * MIB + SOLID_BYTES - 1)])
    assert plan(view(WHOLE, held=held)) == [StartTransfer(0, None, True)]
    running = at(1, 0, None, 20 * MIB, whole=True)
    held.add(0, 20 * MIB)
    assert plan(view(WHOLE, held=held, running=(running,))) == []


def test_a_transfer_does_not_end_on_bytes_that_are_held() -> None:
    held = Extents([(10 * MIB - 100, 10 * MIB)])
    assert plan(view(Want(9 * MIB, 10 * MIB), held=held)) == [StartTransfer(9 * MIB, 10 * MIB - 100, False)]


def test_open_ended_readers_get_windows_that_grow_with_what_they_read() -> None:
    reader = Want(0, None, position=0)
    assert plan(view(reader)) == [StartTransfer(0, FIRST_WINDOW_BYTES, False)]
    held = Extents([(0, FIRST_WINDOW_BYTES)])
    assert plan(view(reader, held=held)) == []
    assert plan(view(replace(reader, position=1000), held=held)) == [], "no request for a few bytes"
    half = replace(reader, position=FIRST_WINDOW_BYTES // 2 + 1)
    assert plan(view(half, held=held)) == [
        StartTransfer(FIRST_WINDOW_BYTES, FIRST_WINDOW_BYTES + FIRST_WINDOW_BYTES // 2 + 1, False)
    ]
    far = replace(reader, position=200 * MIB)
    assert plan(view(far, held=Extents([(0, 200 * MIB)]))) == [
        StartTransfer(200 * MIB, 200 * MIB + LAST_WINDOW_BYTES, False)
    ]


def test_parallel_open_ended_readers_do_not_overlap() -> None:
    """containerd's parallel fetch: bytes=K- again and again, each reading one chunk."""
    wants = tuple(Want(n * 4 * MIB, None, position=n * 4 * MIB) for n in range(3))
    starts: list[Running] = []
    for count in (1, 2, 3):
        for action in plan(view(*wants[:count], running=tuple(starts))):
            assert isinstance(action, StartTransfer)
            starts.append(at(len(starts), action.start, action.end))
    assert [(t.landed, t.end) for t in starts] == [
        (n * 4 * MIB, n * 4 * MIB + FIRST_WINDOW_BYTES) for n in range(3)
    ]


def test_a_transfer_that_nobody_wants_is_stopped() -> None:
    lonely = at(1, 100 * MIB, 164 * MIB, 110 * MIB)
    other = Want(150 * MIB, 151 * MIB)
    assert plan(view(other, running=(lonely,))) == [
        StopTransfer(1),
        StartTransfer(150 * MIB, 151 * MIB, False),
    ]
    assert plan(view(running=(lonely,))) == [StopTransfer(1), ParkFill()]


def test_complete_means_finish() -> None:
    assert plan(view(WHOLE, held=Extents([(0, SIZE)]))) == [FinishFill()]
    assert plan(view(WHOLE, size=0)) == [FinishFill()]


def test_nothing_starts_while_resting() -> None:
    assert plan(replace(view(WHOLE), resting=True)) == []


def test_the_figures_and_what_a_want_is_without_them() -> None:
    figures = (SOLID_BYTES, REACH_BYTES, FIRST_WINDOW_BYTES, LAST_WINDOW_BYTES)
    assert figures == (MIB, MIB, 2 * MIB, 64 * MIB)
    assert Want() == Want(0, None, False, False, -1)


def test_a_blob_without_its_first_byte_is_not_complete() -> None:
    assert plan(view(WHOLE, held=Extents([(1, SIZE)]))) == [StartTransfer(0, 1, True)]


def test_what_a_stopped_transfer_received_is_still_to_land() -> None:
    held = Extents([(0, 10 * MIB), (12 * MIB, 20 * MIB)])
    running = Running(1, 10 * MIB, 12 * MIB, None, True)
    assert plan(view(WHOLE, held=held, running=(running,))) == [
        StopTransfer(1),
        StartTransfer(20 * MIB, None, True),
    ]


def busy(number: int) -> Running:
    return at(number, number * 50 * MIB, (number * 50 + 8) * MIB)


#: wants of what `busy` transfers bring
WANTED = tuple(Want(number * 50 * MIB, (number * 50 + 8) * MIB) for number in range(1, 5))


def test_a_gap_behind_the_transfer_of_the_whole_is_brought_beside_it() -> None:
    held, whole = Extents([(5 * MIB, 10 * MIB)]), at(9, 5 * MIB, None, 10 * MIB, whole=True)
    gap = [StartTransfer(0, 5 * MIB, False)]
    assert plan(view(WHOLE, held=held, running=(whole,))) == gap
    assert plan(view(WHOLE, *WANTED[:3], held=held, running=(whole, *map(busy, (1, 2, 3))))) == gap
    assert plan(view(WHOLE, *WANTED, held=held, running=(whole, *map(busy, (1, 2, 3, 4))))) == []


def test_four_ranges_at_once_and_one_that_came_is_none_of_them() -> None:
    want = Want(400 * MIB, 401 * MIB)
    fifth = [StartTransfer(400 * MIB, 401 * MIB, False)]
    assert plan(view(*WANTED, want, running=tuple(map(busy, (1, 2, 3, 4))))) == []
    came = Running(4, 200 * MIB, 208 * MIB, 208 * MIB, False)
    assert plan(view(*WANTED, want, running=(*map(busy, (1, 2, 3)), came))) == fifth


def test_of_two_transfers_at_one_byte_the_later_one_goes_on() -> None:
    held, wants = Extents([(0, 10 * MIB)]), (WHOLE, Want(10 * MIB, 20 * MIB))
    first, later = Running(1, 10 * MIB, 10 * MIB, None, True), at(2, 10 * MIB, 20 * MIB)
    goes_on_behind = [StopTransfer(1), StartTransfer(20 * MIB, None, True)]
    assert plan(view(*wants, held=held, running=(first, later))) == goes_on_behind
    lands = Running(1, 5 * MIB, 10 * MIB, None, True)
    assert plan(view(*wants, held=Extents([(0, 5 * MIB)]), running=(lands, later))) == goes_on_behind


def test_a_transfer_ends_where_little_is_held_and_another_one_goes_on() -> None:
    near = 10 * MIB + MIB // 2
    held, whole = Extents([(0, near)]), Running(1, 10 * MIB, 10 * MIB, None, True)
    other = at(2, near, 20 * MIB)
    assert plan(view(WHOLE, Want(near, 20 * MIB), held=held, running=(whole, other))) == [
        StopTransfer(1),
        StartTransfer(20 * MIB, None, True),
    ]


def test_a_new_transfer_ends_where_a_running_one_is() -> None:
    running = at(1, 100 * MIB, 164 * MIB)
    assert plan(view(WHOLE, Want(100 * MIB, 164 * MIB), running=(running,))) == [
        StartTransfer(0, 100 * MIB, True)
    ]


def test_what_was_received_to_its_end_lands_also_before_bytes_that_are_held() -> None:
    running = Running(1, 8 * MIB, 10 * MIB, 10 * MIB, False)
    held = Extents([(10 * MIB, 20 * MIB)])
    assert plan(view(Want(8 * MIB, 10 * MIB), held=held, running=(running,))) == []


def test_a_transfer_whose_rest_is_held_is_stopped() -> None:
    end = 12 * MIB + MIB // 2
    held, running = Extents([(10 * MIB, end)]), at(1, 10 * MIB, end, 12 * MIB)
    assert plan(view(Want(10 * MIB, end), held=held, running=(running,))) == [StopTransfer(1)]


def test_a_transfer_goes_on_while_what_it_received_lands() -> None:
    """Bytes that another one brought lie between what it wrote and what it received."""
    held = Extents([(0, 11 * MIB + MIB // 2)])
    whole = Running(1, 10 * MIB, 12 * MIB, None, True)
    assert plan(view(WHOLE, held=held, running=(whole,))) == []
    of_range = Running(1, 10 * MIB, 11 * MIB + MIB // 2, 20 * MIB, False)
    held = Extents([(10 * MIB, 11 * MIB)])
    assert plan(view(Want(10 * MIB, 20 * MIB), held=held, running=(of_range,))) == []


def test_a_range_to_the_end_has_small_windows_and_another_one_large_ones() -> None:
    to_the_end = Want(100 * MIB, SIZE, position=100 * MIB)
    assert plan(view(to_the_end)) == [StartTransfer(100 * MIB, 102 * MIB, False)]
    other = Want(100 * MIB, 300 * MIB, position=100 * MIB)
    assert plan(view(other)) == [StartTransfer(100 * MIB, 164 * MIB, False)]
    # half a window ahead of its reader is enough
    assert plan(view(to_the_end, held=Extents([(100 * MIB, 101 * MIB)]))) == []
    less = 101 * MIB - 1
    assert plan(view(to_the_end, held=Extents([(100 * MIB, less)]))) == [
        StartTransfer(less, 102 * MIB, False)
    ]


def test_a_parent_without_ranges_gets_one_plain_get_at_a_time() -> None:
    held = Extents([(0, 10 * MIB)])
    state = replace(view(WHOLE, Want(300 * MIB, 301 * MIB), held=held), splits=False)
    assert plan(state) == [StartTransfer(0, None, True)]
    assert plan(replace(state, running=(at(1, 0, None, whole=True),))) == []


@pytest.mark.parametrize(
    ("policy", "here", "expected"),
    [("finish", 0, True), ("park", 99, False), ("finish_if", 24, False), ("finish_if", 25, True)],
)
def test_leaving_policy(policy: str, here: int, expected: bool) -> None:
    assert goes_on(policy, 0.25, here, 100) is expected
    assert goes_on("finish_if", 0.25, here, None) is False


# -- a simulated link ------------------------------------------------------------------------------

STEP = 256 << 10
BLOB = 48 * MIB


@dataclass
class Flow:
    number: int
    received: int
    landed: int
    end: int
    sequential: bool
    wasted: int = 0


@dataclass
class Reader:
    start: int
    end: int
    whole: bool
    position: int = -1
    silent: bool = False

    def want(self, first: bool = False) -> Want:
        end = None if self.end == BLOB else self.end
        return Want(self.start, end, self.whole, False, -1 if self.silent or self.whole else self.position)


@dataclass
class Link:
    """Delivers bytes of transfers in the order chance says, and checks every decision."""

    held: Extents = field(default_factory=Extents)
    flows: list[Flow] = field(default_factory=list)
    readers: list[Reader] = field(default_factory=list)
    numbers: int = 0
    sized: bool = False
    fetched: int = 0

    def view(self) -> PlannerView:
        running = [Running(f.number, f.landed, f.received, f.end, f.sequential) for f in self.flows]
        size = BLOB if self.sized else None
        return PlannerView(size, self.held, [r.want() for r in self.readers], running)

    def decide(self) -> None:
        self.apply()
        again = [a for a in plan(self.view()) if isinstance(a, StartTransfer | StopTransfer)]
        assert again == [], f"not idempotent: {again}"
        assert sum(not f.sequential and f.received < f.end for f in self.flows) <= 4
        assert sum(f.sequential for f in self.flows) <= 1

    def apply(self) -> None:
        for action in plan(self.view()):
            if isinstance(action, StopTransfer):
                stopped = next(f for f in self.flows if f.number == action.number)
                self.flows.remove(stopped)
                self.held.add(stopped.landed, stopped.received)
            elif isinstance(action, StartTransfer):
                self.begin(action)

    def begin(self, action: StartTransfer) -> None:
        end = BLOB if action.end is None else min(action.end, BLOB)
        assert action.start < end
        assert self.held.run_end(action.start) == action.start, "starts on a held byte"
        assert any(r.whole for r in self.readers) or any(
            r.start <= action.start and end <= min(r.end, self.reach_of(r)) for r in self.readers
        ), "fetches what no range reader asked for"
        self.numbers += 1
        self.flows.append(Flow(self.numbers, action.start, action.start, end, action.sequential))

    def reach_of(self, reader: Reader) -> int:
        base = self.held.run_end(reader.start) if reader.silent else max(reader.position, reader.start)
        return base + LAST_WINDOW_BYTES

    def receive(self, flow: Flow) -> None:
        self.sized = True
        start = flow.received
        flow.received = min(flow.received + STEP, flow.end)
        self.fetched += flow.received - start

    def land(self, flow: Flow) -> None:
        new = self.held.add(flow.landed, flow.received)
        flow.wasted = 0 if new else flow.wasted + flow.received - flow.landed
        assert flow.wasted < SOLID_BYTES + 2 * STEP, "reads on through what is held"
        flow.landed = flow.received
        if flow.landed == flow.end:
            self.flows.remove(flow)

    def settle(self) -> None:
        """Everyone reads what is there, everything runs, until nothing moves any more."""
        for _ in range(4000):
            for reader in self.readers:
                reader.position = max(
                    reader.position, min(self.held.run_end(max(reader.position, reader.start)), reader.end)
                )
            self.decide()
            if not self.flows:
                return
            for flow in list(self.flows):
                self.receive(flow)
                self.land(flow)
        raise AssertionError("does not come to an end")


offsets = st.integers(0, BLOB // STEP - 1).map(lambda n: n * STEP + 77)
readers = st.builds(
    lambda start, length, whole, silent: Reader(
        0 if whole else start,
        BLOB if whole or length > 40 * MIB else min(start + length, BLOB),
        whole,
        start,
        silent,
    ),
    offsets,
    st.integers(1, BLOB),
    st.sampled_from([False, False, True]),
    st.booleans(),
)
events = st.one_of(
    st.tuples(st.just("join"), readers),
    st.tuples(st.sampled_from(["leave", "receive", "receive", "land", "land", "read"]), st.integers(0, 99)),
)


@settings(max_examples=150, deadline=None)
@given(st.lists(events, max_size=60))
def test_every_want_is_met_and_no_byte_comes_twice(script: list[tuple[str, object]]) -> None:
    link = Link()
    for verb, value in script:
        play(link, verb, value)
        link.decide()
    link.settle()
    for reader in link.readers:
        assert link.held.covers(reader.start, reader.end)
    # what came twice: read-through, and what was in flight when another transfer met it
    assert link.fetched - link.held.total <= link.numbers * (SOLID_BYTES + 2 * STEP)


def play(link: Link, verb: str, value: object) -> None:
    if verb == "join":
        assert isinstance(value, Reader)
        link.readers.append(replace(value))
        return
    assert isinstance(value, int)
    if verb == "leave" and link.readers:
        link.readers.pop(value % len(link.readers))
    elif verb == "receive" and link.flows:
        flow = link.flows[value % len(link.flows)]
        if flow.received < flow.end:
            link.receive(flow)
    elif verb == "land" and link.flows:
        link.land(link.flows[value % len(link.flows)])
    elif verb == "read" and link.readers:
        reader = link.readers[value % len(link.readers)]
        at_most = link.held.run_end(max(reader.position, reader.start))
        reader.position = max(reader.position, min(at_most, reader.end))


@settings(max_examples=100, deadline=None)
@given(st.lists(readers.filter(lambda r: not r.whole), min_size=1, max_size=6))
def test_range_readers_alone_fetch_their_ranges_alone(group: list[Reader]) -> None:
    link = Link(readers=[replace(r) for r in group])
    link.settle()
    asked = Extents((r.start, r.end) for r in group)
    assert link.held == asked
    assert link.fetched - asked.total <= link.numbers * (SOLID_BYTES + STEP)
