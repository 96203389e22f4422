"""Plans which transfers of a fill to start and to stop. Pure; no clock, no I/O.

The rules, in the order in which they win:

- A byte crosses the link once. A transfer ends where bytes are held, or brought by another transfer, for at least
  `SOLID_BYTES`; shorter stretches are read through and dropped, because a new request costs more.
- A reader never waits behind bytes it did not request: what lies more than `REACH_BYTES` ahead
  of every transfer gets one of its own, ranges before whole blobs, readers before background reads.
- A reader of a range never causes the rest to be fetched. Every range transfer has an explicit end. A
  range to the blob's end (lazy and parallel pullers open many and leave early) is fetched
  in windows that grow with what its reader has taken.
- The first request for a whole blob is one plain GET without Range.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from holdfast.fill.extents import Extents

#: Held stretches shorter than this are read through: about what closing a connection and sending a new request
#: costs on a 100 Mbit/s link with 80 ms of round trip.
SOLID_BYTES = 1 << 20
#: A transfer this close behind a reader's byte will bring it sooner than a new request would.
REACH_BYTES = 1 << 20
#: Read-ahead of a range that runs to the blob's end: as much again as was read, between these. The first
#: is below the chunk of every parallel puller, so that neighbours do not run into each other.
FIRST_WINDOW_BYTES = 2 << 20
LAST_WINDOW_BYTES = 64 << 20


@dataclass(frozen=True, slots=True)
class Want:
    """Bytes [start, end) that a reader waits for; `end` None is the blob's end.

    `whole` wants the blob itself, stored. `position` is how far the reader has read, -1 when it does not
    say: then it is taken to keep up with the link.
    """

    start: int = 0
    end: int | None = None
    whole: bool = False
    background: bool = False
    position: int = -1


@dataclass(frozen=True, slots=True)
class Running:
    """A running transfer. `landed` is the first byte it has not written yet, `received` the first that has
    not come over the link yet. `end` None is the blob's end."""

    number: int
    landed: int
    received: int
    end: int | None
    sequential: bool


@dataclass(frozen=True, slots=True)
class PlannerView:
    """The input of `plan`. `ranges` is how many range transfers may run at once. `splits` is False
    once the parent answered a Range with something else: then only whole bodies are requested.
    `resting` forbids starts (backing off). `size` is None until the parent's first answer."""

    size: int | None
    held: Extents
    wants: Sequence[Want]
    running: Sequence[Running]
    ranges: int = 4
    splits: bool = True
    resting: bool = False


@dataclass(frozen=True, slots=True)
class StartTransfer:
    """Request [start, end) from the parent; (0, None) is a GET without Range."""

    start: int
    end: int | None
    sequential: bool
    background: bool = False


@dataclass(frozen=True, slots=True)
class StopTransfer:
    """Close this transfer's connection; no byte that it would still bring is needed."""

    number: int


@dataclass(frozen=True, slots=True)
class FinishFill:
    """Every byte is held: compare the digest."""


@dataclass(frozen=True, slots=True)
class ParkFill:
    """No reader wants more; keep the bytes that are held."""


Action = StartTransfer | StopTransfer | FinishFill | ParkFill


def plan(view: PlannerView) -> list[Action]:
    """The actions that lead from `view` to every want being met. Idempotent: planning again after the
    actions were taken, with nothing else changed, gives none."""
    if view.size is not None and view.held.covers(0, view.size):
        return [*(StopTransfer(t.number) for t in view.running), FinishFill()]
    if not view.wants:
        return [*(StopTransfer(t.number) for t in view.running), ParkFill()]
    board = _Board(view)
    actions: list[Action] = board.stops()
    if not view.resting:
        actions += board.starts()
    return actions


def goes_on(policy: str, share: float, held: int, size: int | None) -> bool:
    """Whether a fill whose last reader of the whole blob left goes on to the end (`fills.on_leave`)."""
    if policy == "finish_if":
        return size is not None and held >= share * size
    return policy == "finish"


class _Board:
    """A view with every end resolved, on which starts and stops are tried."""

    def __init__(self, view: PlannerView) -> None:
        self.view, self.held = view, view.held
        self.size = view.size
        self.running = list(view.running)

    def stops(self) -> list[Action]:
        """Stop the transfers that bring no needed byte any more."""
        if self.size is None:
            return []
        done = [t for t in self.running if not self._is_useful(t) or self._is_redundant(t)]
        # what they received still lands
        left = [replace(t, end=t.received, sequential=False) for t in done if t.received > t.landed]
        self.running = [t for t in self.running if t not in done] + left
        return [StopTransfer(t.number) for t in done]

    def starts(self) -> list[Action]:
        """Start the transfers that are missing, most urgent first."""
        actions: list[Action] = []
        for want in sorted(self.view.wants, key=lambda w: (w.background, w.whole)):
            while (start := self._start_for(want)) is not None:
                actions.append(start)
                self.running.append(Running(-1, start.start, start.start, start.end, start.sequential))
        return actions

    def _start_for(self, want: Want) -> StartTransfer | None:
        if (self.size is None or not self.view.splits) and self.running:
            return None  # one answer at a time: it brings everything, or the size
        if not self.view.splits or (self.size is None and want.whole):
            return StartTransfer(0, None, True, want.background)
        if want.whole:
            return self._whole(want)
        return None if self._ranges_taken() else self._range(want)

    def _whole(self, want: Want) -> StartTransfer | None:
        """One transfer from the first gap on; beside it only what lies behind it (a chunk found bad)."""
        assert self.size is not None
        coming = self.held.copy()
        for t in self.running:
            coming.add(t.landed, self._end(t))
        ahead = [t.landed for t in self.running if t.sequential]
        high = min(ahead, default=self.size)
        start = coming.first_gap(0, high)
        if start == high or (ahead and self._ranges_taken()):
            return None
        stop = self._stop_before(start, high)
        return StartTransfer(start, None if stop == self.size else stop, not ahead, want.background)

    def _ranges_taken(self) -> bool:
        busy = sum(not t.sequential and t.received < self._end(t) for t in self.running)
        return busy >= self.view.ranges

    def _range(self, want: Want) -> StartTransfer | None:
        low, high, window = self._horizon(want)
        start = self._reached(low, high)
        if start >= high:
            return None
        if high not in (want.end, self.size) and start - low >= window // 2:
            return None  # far enough ahead of its reader
        return StartTransfer(start, self._stop_before(start, high), False, want.background)

    def _horizon(self, want: Want) -> tuple[int, int, int]:
        """(from, to, window): what of a range want may be fetched now."""
        end = self._bound(want.end)
        low = want.position if want.position >= 0 else self.held.run_end(want.start)
        low = max(want.start, low if end is None else min(low, end))
        open_ended = want.end is None or want.end == self.size
        first = FIRST_WINDOW_BYTES if open_ended else LAST_WINDOW_BYTES
        window = min(max(low - want.start, first), LAST_WINDOW_BYTES)
        return low, low + window if end is None else min(end, low + window), window

    def _bound(self, end: int | None) -> int | None:
        if end is None or self.size is None:
            return end if self.size is None else self.size
        return min(end, self.size)

    def _end(self, transfer: Running) -> int:
        end = self._bound(transfer.end)
        return transfer.landed if end is None else end

    def _reached(self, low: int, high: int) -> int:
        """The first byte from `low` on that is neither held nor about to arrive; `high` when none."""
        at = self.held.first_gap(low, high)
        while at < high:
            near = [
                self._end(t)
                for t in self.running
                if t.landed <= at < self._end(t) and at - t.landed <= REACH_BYTES
            ]
            if not near:
                return at
            at = self.held.first_gap(max(near), high)
        return high

    def _solid_end(self, at: int, besides: Running | None = None) -> int:
        """End of the stretch from `at` that is held or that another transfer, ahead of `at`, brings."""
        end = self.held.run_end(at)
        while True:
            further = [
                self._end(t)
                for t in self.running
                if t is not besides and at <= t.landed <= end < self._end(t) and self._leads(t, besides)
            ]
            if not further:
                return end
            end = self.held.run_end(max(further))

    @staticmethod
    def _leads(transfer: Running, other: Running | None) -> bool:
        """Of two transfers at the same byte the later one goes on."""
        if other is None or transfer.landed != other.received:
            return True
        return transfer.number > other.number

    def _stop_before(self, start: int, high: int) -> int:
        """Where a transfer that starts at `start` meets bytes it need not bring."""
        ahead = [run[0] for run in self.held.runs(start, high)]
        ahead += [t.landed for t in self.running]
        solid = [at for at in ahead if start < at < high and self._solid_end(at) - at >= SOLID_BYTES]
        return self.held.gaps(start, min(solid, default=high))[-1][1]

    def _is_redundant(self, transfer: Running) -> bool:
        at = transfer.received
        if not self.view.splits or at >= self._end(transfer):
            return False
        return self._solid_end(at, transfer) - at >= SOLID_BYTES

    def _is_useful(self, transfer: Running) -> bool:
        return any(self._serves(transfer, want) for want in self.view.wants)

    def _serves(self, transfer: Running, want: Want) -> bool:
        assert self.size is not None
        low = max(want.start, want.position, transfer.landed)
        high = min(self._end(transfer), self.size if want.end is None else want.end)
        gap = self.held.first_gap(low, high) if low < high else high
        if gap >= high:
            return False
        return want.whole or not self.view.splits or gap - transfer.landed <= REACH_BYTES
