"""What a simulation is made of: the parts of the product, the world, what is volatile, what the checks remember."""

from __future__ import annotations

import heapq
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from holdfast.config import SyncRepositorySection
from holdfast.oci.image import Facts, Referrer
from holdfast.outbox import queue, upload_plan
from holdfast.sync import plan, run_state, schedule
from holdfast.sync.source import held_tags, selection
from sync.world import START, Broken, Clock, Disk, Hours, Parent, Windows

DAY = 86400.0
#: a fault of the machine or link ends before this share of the time, so that there is time to heal
CALM = 0.7
LIMIT = 1.02

SCHEDULES = (
    Hours("0 22 * * *", (22 * 60,), window=4 * 3600.0),
    Hours("30 1,13 * * *", (90, 13 * 60 + 30), window=2 * 3600.0),
    Hours("0 6 * * 1,4", (360,), (0, 3), window=12 * 3600.0),
    Hours("0 */6 * * *", (0, 360, 720, 1080), window=6 * 3600.0),
    Hours("15 */8 * * *", (15, 495, 975)),
    Hours("* * * * *", tuple(range(1440))),
)
WINDOW_TEXT = {4 * 3600.0: "PT4H", 2 * 3600.0: "PT2H", 12 * 3600.0: "PT12H", 6 * 3600.0: "PT6H", None: ""}


@dataclass
class Parts:
    """The parts of the product under test, so that a fault can be planted in one."""

    due: Callable[..., Any] = schedule.due
    end_run: Callable[..., Any] = schedule.end_run
    after_restart: Callable[..., Any] = schedule.after_restart
    planner: Callable[..., Any] = plan.Planner
    run: Callable[..., Any] = run_state.RunState
    next_job: Callable[..., Any] = run_state.next_job
    outbox: Callable[..., Any] = queue.Outbox
    held: Callable[..., Any] = held_tags.HeldTags
    plan_upload: Callable[..., Any] = upload_plan.plan_upload
    rule: Callable[..., Any] = selection.Rule


@dataclass
class Move:
    """A transfer under way: `size` bytes of `digest`, `at` of them over."""

    up: bool
    digest: str
    size: int
    at: float
    then: Callable[[], None]
    repository: str = ""


@dataclass
class AtWork:
    """An image and how far it is."""

    image: plan.Image
    place: int = 0


@dataclass
class Tally:
    """What a simulation did, so that a test can see that it did something."""

    runs: int = 0
    cancels: int = 0
    kills: int = 0
    jumps: int = 0
    link_bytes: float = 0.0
    wasted_bytes: float = 0.0
    confirmed: int = 0
    conflicts: int = 0
    #: tags that were unknown here and requested from the parent in time
    requested_in_time: int = 0
    parked: int = 0
    #: requests for held tags, and how many may be repeated because of a kill
    requests: int = 0
    requests_anew: int = 0
    full: dict[str, int] = field(default_factory=dict)
    steps: int = 0


class Frame:
    """What a simulation is made of, and what several of its sides need."""

    def __init__(
        self, seed: int, parts: Parts | None = None, say: Callable[[str], None] | None = None
    ) -> None:
        self.chance = random.Random(seed)
        self.parts, self.say = parts or Parts(), say
        self.clock, self.disk, self.tally = Clock(), Disk(), Tally()
        self._shape()
        self.parent = Parent(self.ttl)
        self.windows = Windows(self.hours, START - 40 * DAY, START + self.length + 40 * DAY)
        self.events: list[tuple[float, int, Callable[[], None]]] = []
        self._order = 0
        # volatile
        self.up, self.frozen, self.link = True, False, True
        self.run: run_state.RunState | None = None
        self.planner: plan.Planner | None = None
        self.at_work: dict[str, AtWork] = {}
        self.read: dict[str, Facts] = {}
        self.move: Move | None = None
        self.queue: queue.Outbox = self.parts.outbox()
        self.held: held_tags.HeldTags = self.parts.held({}, self._waits)
        #: entries that are under way and what is left to do of each, the tags that go along, and what the parent had
        self.climbing: dict[int, list[upload_plan.UploadStep]] = {}
        self.along: dict[int, int] = {}
        self.there: dict[int, str] = {}
        #: entries that were overtaken by the parent's move of their tag
        self.given_up: set[int] = set()
        self.target_cursor = 0
        self.look_at = START
        self.closes: float | None = None
        self.blind_until, self.listing, self.running = 0.0, False, ""
        self.calm_at, self.mark = float("inf"), 0
        #: windows that the run under way was seen in, and runs that began and ended well after the last fault
        self.run_windows: set[float] = set()
        self.cut: set[float] = set()
        self.healed = 0
        self.began_at = START
        #: the parent's event number with which each tag was listed, and with which it came down
        self.listed_events: dict[tuple[str, str], int] = {}
        self.known_events: dict[tuple[str, str], int] = {}
        # all content there is, wherever
        self.known: dict[str, Facts] = {}
        self.sizes: dict[str, int] = {}
        # what the checks remember: what came over the link, either way
        self.down: set[str] = set()
        self.raised: set[str] = set()
        self.served: set[float] = set()
        self.passed: set[float] = set()
        self.scheduled_done = 0
        self.pushed: list[tuple[str, str, str]] = []
        self.child_moved: set[tuple[str, str]] = set()
        self.seen_denied: set[str] = set()
        #: what of the parent's tags was fetched or requested in time, and (repository, tag, ours, theirs, winner) of
        #: recorded conflicts
        self.came: set[tuple[str, str, str]] = set()
        self.recorded: set[tuple[str, str, str, str, str]] = set()
        #: when each entry, or the first that it replaced, was written, and when the parent was last out of reach
        self.written_at: dict[int, float] = {}
        self.gap_at = float("-inf")

    def _shape(self) -> None:
        chance = self.chance
        self.hours = chance.choice(SCHEDULES)
        continuous = self.hours.text == "* * * * *"
        self.length = 0.15 * DAY if continuous else 14 * DAY
        self.ttl = chance.choice((1, 2, 4)) * DAY
        self.share = chance.random()
        self.schedule = schedule.Schedule.parse(
            self.hours.text, WINDOW_TEXT[self.hours.window], f"P{int(self.ttl // DAY)}D"
        )
        self.logged = chance.random() < 0.6
        self.writable = chance.random() < 0.6
        self.policy: queue.Policy = chance.choice(("parent-wins", "child-wins", "reject"))
        self.rate = 10 ** chance.uniform(5.0, 6.2) * (60 if continuous else 1)
        self.repositories = [f"team/r{n}" for n in range(chance.randint(1, 4))]
        self.rules = {name: self.parts.rule(self._wish(name)) for name in self.repositories}

    def _wish(self, name: str) -> SyncRepositorySection:
        chance = self.chance
        return SyncRepositorySection(
            name=name,
            tags=("v*",) if chance.random() < 0.3 else (),
            exclude=("*-rc",) if chance.random() < 0.3 else (),
            platforms=("linux/amd64",) if chance.random() < 0.5 else (),
            referrers=("*",) if chance.random() < 0.7 else (),
        )

    def at(self, when: float, deed: Callable[[], None]) -> None:
        """Let something happen at a true time."""
        self._order += 1
        heapq.heappush(self.events, (when, self._order, deed))

    def _store(self, change: queue.QueueChange) -> None:
        """The rows of one transaction."""
        before = [self.written_at.pop(seq) for seq in change.removes if seq in self.written_at]
        for entry in change.puts:
            self.written_at.setdefault(entry.seq, min([self.clock.true, *before]))
        for seq in change.removes:
            self.disk.outbox.pop(seq, None)
        self.disk.outbox.update({entry.seq: entry for entry in change.puts})
        if change.puts:
            self.look_at = min(self.look_at, self.clock.true)

    def _event(self, repository: str, tag: str) -> int:
        return self.parent.event(repository, tag) if self.logged else 0

    def _keep_part(self, move: Move, size: int) -> None:
        if move.up:
            self.parent.sessions[(move.repository, move.digest)] = size
        else:
            self.disk.parts[move.digest] = size

    def _take_over(self, repository: str, tag: str, digest: str) -> bool:
        """Whether the parent's tag, as it was listed, is to come down, although it may have been moved here."""
        theirs = queue.ParentTag(digest, self.listed_events[(repository, tag)])
        verdict = self.queue.arrived(repository, tag, theirs, self.policy, self.clock.wall, listed=self.mark)
        self._record(verdict)
        if verdict.fate == "drop":
            for entry in self.queue.pending(repository, tag):
                self.given_up.add(entry.seq)
                self._store(self.queue.dropped(entry.seq))
        return verdict.fate in ("send", "drop")

    def _record(self, verdict: queue.TagVerdict) -> None:
        """No move of a tag is dropped without a record."""
        conflict = verdict.conflict
        if conflict is not None:
            self.tally.conflicts += 1
            self.recorded.add(
                (conflict.repository, conflict.tag, conflict.ours, conflict.theirs, conflict.winner)
            )
        elif verdict.fate == "drop":
            raise Broken("a move was given up, and no conflict was recorded")

    def _follows(self, repository: str, tag: str) -> bool:
        """Whether the parent's tag comes down, so that what is not known here was not there."""
        return bool(self.rules[repository].choose([selection.TagFact(tag)], self.clock.wall).tags)

    def _gap(self) -> None:
        """The parent is out of reach now."""
        self.gap_at = self.clock.true
        self.queue.waited()

    def _decided(self, repository: str, tag: str, *, ours: bool) -> None:
        """The outbox is done with a tag: it went up, or the parent's stays."""
        if self.logged:
            self.held.decided(f"{repository}:{tag}", self.clock.true, ours=ours)
            self._keep_held()
        elif not ours:
            self.disk.state = schedule.request_run(self.disk.state, schedule.CHANGES)

    def _hold(self, repository: str, tag: str, digest: str) -> None:
        """Holds the parent's digest of a tag for the outbox."""
        if self.logged:
            self.held.hold(f"{repository}:{tag}", digest, self.clock.true, self.chance.random())
            self._keep_held()

    def _waits(self, key: str, digest: str | None) -> bool:
        repository, tag, _ = run_state.parse_key(key)
        return bool(self.queue.pending(repository, tag)) or self._to_go(repository, digest)

    def _to_go(self, repository: str, digest: str | None) -> bool:
        """Whether a delete of it waits."""
        return any(
            e.deed == "delete" and (e.repository, e.digest) == (repository, digest) for e in self.queue
        )

    def _keep_held(self) -> None:
        self.disk.held = self.held.rows()
        at = self.held.next_at()
        if self._connected() and at is not None:
            self.look_at = min(self.look_at, max(self.clock.true, at))

    def _troubles(self) -> dict[str, Any]:
        return self.disk.job.troubles if self.disk.job is not None else {}

    def _awake(self) -> bool:
        return self.up and not self.frozen

    def _flows(self) -> bool:
        return self._awake() and self.link

    def _connected(self) -> bool:
        return self.closes is not None or self.disk.state.forced

    # ---- Held and Graph, as the planner asks them

    def has(self, digest: str) -> bool:
        """See `Held`."""
        return digest in self.disk.has or digest in self.read

    def linked(self, repository: str, digest: str) -> bool:
        """See `Held`."""
        return (repository, digest) in self.disk.links

    def part(self, digest: str) -> int:
        """See `Held`."""
        return self.disk.parts.get(digest, 0)

    def tag(self, repository: str, name: str) -> str:
        """See `Held`."""
        return self.disk.tags.get((repository, name), "")

    def facts(self, repository: str, digest: str) -> Facts | None:
        """See `Graph`."""
        return self.disk.facts.get(digest) or self.read.get(digest)

    def referrers(self, repository: str, digest: str) -> list[Referrer]:
        """See `Graph`."""
        return self.parent.attached.get(digest, [])

    def _told(self, words: str) -> None:
        if self.say is not None:
            self.say(f"{(self.clock.true - START) / 3600:9.3f} h (wall {self.clock.offset:+.0f}) {words}")
