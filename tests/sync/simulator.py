"""A seeded simulation of a node that synchronises: schedule, plan, work and outbox through weeks of windows, outages,
clock jumps, suspensions, restarts and kills, in true time and without waiting for any of it.

    python -m sync.simulator [SEED]        one seed, printed step by step

Invariants, checked at every step or at the end:

- no byte crosses the link outside a window, but for a run that an operator forced;
- one run at a time, no window is served twice, none is passed by while the node is up;
- blobs before manifests, children before indexes, manifests before tags, on either side;
- every selected image is here at the end, every push is at the parent, in order, whatever was refused in between;
- bytes over the link are at most 1.02 times the unique bytes;
- no tag that the parent got itself is overwritten, and no move given up, without a conflict that is recorded; what was
  recorded ends as the policy says, on both sides;
- the requests beside the log are bounded by the changes: one for a move at the parent that was held back.
"""

from __future__ import annotations

import heapq
import sys
from collections.abc import Callable

from holdfast.sync import schedule
from holdfast.sync.schedule import CHANGES, INITIAL, MANUAL
from sync.frame import DAY, Parts, Tally
from sync.happenings import Happenings
from sync.world import START, Broken


class Simulation(Happenings):
    """One seed."""

    def __init__(
        self, seed: int, parts: Parts | None = None, say: Callable[[str], None] | None = None
    ) -> None:
        super().__init__(seed, parts, say)
        self._content()
        self._happenings()
        self.disk.state = schedule.request_run(self.disk.state, INITIAL)

    # ---- time

    def go(self) -> Tally:
        """Run to the end and check what is there then. Raises Broken."""
        end = START + self.length
        while self.clock.true < end or self._busy(end):
            self.tally.steps += 1
            if self.tally.steps > 60_000 or self.clock.true > end + 30 * DAY:
                raise Broken("it does not come to an end")
            self._step(end)
        self._check_end()
        return self.tally

    def _busy(self, end: float) -> bool:
        """Whether to go on past the end, while there is still something to bring."""
        is_due = self.disk.state.requested in (INITIAL, MANUAL) or bool(self._troubles()) or not self.healed
        return bool(self.move or self.run or is_due or self._may_climb_ever())

    def _may_climb_ever(self) -> bool:
        return any(not e.conflict and not self._behind_conflict(e) for e in self.disk.outbox.values())

    def _step(self, end: float) -> None:
        now = self.clock.true
        if self.events and self.events[0][0] <= now:
            heapq.heappop(self.events)[2]()
            return
        if self._awake() and now >= self.look_at:
            self._look()
            if self.look_at <= now:
                return
        moments = [self.look_at if self._awake() else float("inf"), now + DAY]
        if self.events:
            moments.append(self.events[0][0])
        if self.move and self._flows():
            moments.append(now + (self.move.size - self.move.at) / self.rate)
        self._pass(max(min(moments), now + 1e-3))

    def _pass(self, until: float) -> None:
        """Time passes, and bytes with it."""
        passed = until - self.clock.true
        move, came = self.move, 0.0
        if move is not None and self._flows():
            self._check_window(self.clock.wall)
            self._check_window(self.clock.wall + passed - 2e-3)
            came = min(passed * self.rate, move.size - move.at)
            move.at += came
            self.tally.link_bytes += came
        self.clock.true = until
        if move is not None and not move.up and self.run is not None and self._flows():
            self.run.received(int(came), self.clock.wall)
        if move is not None and move.at >= move.size - 0.5 and self._awake():
            self.move = None
            move.then()
            self.look_at = until

    def _check_window(self, wall: float) -> None:
        # a clock that was just set is noticed at the next look, within a minute
        if self.clock.true < self.blind_until or self.disk.state.forced:
            return
        if self.windows.open_at(wall) is None:
            raise Broken(f"bytes moved outside a window, at wall {wall - START:.0f}")

    # ---- the node

    def _look(self) -> None:
        wall = self.clock.wall
        step = self.parts.due(self.schedule, self.disk.state, wall, self.share)
        self.disk.state, self.closes = step.state, step.closes
        for action in step.actions:
            if isinstance(action, schedule.StartRun):
                self._begin(action)
            else:
                self._cancel(action.reason)
        self._check_served(wall)
        again = self.parts.due(self.schedule, self.disk.state, wall, self.share)
        if again.actions:
            raise Broken("called twice at one time, it acts twice")
        self.look_at = float("inf")
        self._act()
        self.look_at = min(self.look_at, self.clock.true + max(self._until(step, wall), 0.01))

    def _until(self, step: schedule.Due, wall: float) -> float:
        waits = [step.wake - wall]
        if self.run is not None and (at := self.run.wake(wall)) is not None:
            waits.append(at - wall)
        if self._connected() and self.link and (at := self.queue.wake(wall)) is not None:
            waits.append(at - wall)
        at = self.held.next_at()
        if at is not None and self.run is None and not self.listing and self._connected() and self.link:
            waits.append(at - self.clock.true)
        if self.disk.job is not None and self.run is None and self._connected():
            waits.append(max(60.0, (self.disk.job.next_try() or wall + DAY) - wall))
        return min(waits)

    def _begin(self, start: schedule.StartRun) -> None:
        if self.run is not None:
            raise Broken("a second run began")
        self._told(f"start {start.trigger}")
        self.tally.runs += 1
        self.tally.full[start.trigger] = self.tally.full.get(start.trigger, 0) + 1
        self.running = start.trigger
        self.run, self.planner = None, None
        self.listing = True
        self.began_at = self.clock.true
        self.served |= self.cut
        self.cut.clear()
        self.run_windows.clear()

    def _cancel(self, reason: str) -> None:
        self._told(f"cancel: {reason}")
        self.tally.cancels += 1
        self.run_windows.clear()
        if self.move is not None:
            self._keep_part(self.move, int(self.move.at))  # to the byte
        if self.run is not None:
            self.run.released()
            self.disk.job = self.run.job(self.clock.wall)
        self.run, self.planner, self.move, self.listing = None, None, None, False
        for seq in list(self.climbing):
            self._leave(seq)
        self.at_work.clear()

    def _act(self) -> None:
        """Everything that needs no time, then one transfer."""
        if not (self.link and self._connected()):
            self._gap()
        if not self._connected() and self.move is not None:
            if self.move.up:
                self._cancel("not connected")
            else:
                raise Broken("a transfer without a connection")
        while self.link and self._connected() and self.move is None:
            if self.listing:
                self._list()
            elif not (self._climb() or self._work()):
                break
        if self.run is not None and not self.listing and self.run.is_over(self.clock.wall):
            self._end()
        elif self.run is None and not self.listing and (self._retry_due() or self._held_due()):
            self.disk.state = schedule.request_run(self.disk.state, CHANGES)
            self.look_at = self.clock.true

    def _held_due(self) -> bool:
        at = self.held.next_at()
        ready = (
            self.link and self._connected() and not self.disk.state.requested and not self.disk.state.running
        )
        return ready and at is not None and at <= self.clock.true

    def _retry_due(self) -> bool:
        job = self.disk.job
        due = None if job is None else job.next_try()
        return (
            due is not None
            and due <= self.clock.wall
            and not self.disk.state.requested
            and not self.disk.state.running
        )


if __name__ == "__main__":
    print(Simulation(int(sys.argv[1]) if len(sys.argv) > 1 else 0, say=print).go())
