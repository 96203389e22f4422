"""What the simulated node meets: two clocks, a link, a parent with a log, a disk. Small, in memory, and strict: the
parent and the disk refuse what comes in the wrong order."""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from holdfast.oci.image import Facts, Referrer
from holdfast.outbox.entry import OutboxEntry
from holdfast.sync.run_state import Job
from holdfast.sync.schedule import ScheduleState

#: Thursday, 26 November 2026, 00:00 UTC
START = 1_795_651_200.0
#: a fill's progress is on disk every so many bytes; what came since is lost by a kill
CHECKPOINT = 4 << 20


class Broken(AssertionError):
    """An invariant does not hold."""


@dataclass
class Clock:
    """`true` is the time that passes; `wall` is what the machine shows, which people and NTP set."""

    true: float = START
    offset: float = 0.0

    @property
    def wall(self) -> float:
        """What the machine shows."""
        return self.true + self.offset


@dataclass
class Message:
    """One entry of the parent's change log. `at` is true time; `own`: the parent's doing, not the child's."""

    number: int
    at: float
    repository: str
    tag: str
    digest: str
    own: bool


@dataclass
class Parent:
    """A registry that is strict about order. `denied` and `lying` change while the simulation runs."""

    ttl: float
    manifests: dict[str, Facts] = field(default_factory=dict)
    sizes: dict[str, int] = field(default_factory=dict)
    has: dict[str, set[str]] = field(default_factory=dict)
    tags: dict[str, dict[str, str]] = field(default_factory=dict)
    attached: dict[str, list[Referrer]] = field(default_factory=dict)
    log: list[Message] = field(default_factory=list)
    denied: set[str] = field(default_factory=set)
    lying: set[str] = field(default_factory=set)
    sessions: dict[tuple[str, str], int] = field(default_factory=dict)
    #: deeds of the child, in the order in which they arrived
    arrived: list[tuple[str, str, str]] = field(default_factory=list)
    moved: set[tuple[str, str]] = field(default_factory=set)
    #: tags whose present value is the parent's own doing
    own: set[tuple[str, str]] = field(default_factory=set)

    def learn(self, digest: str, facts: Facts) -> None:
        """Content exists; where it is linked is another matter."""
        self.manifests[digest] = facts
        self.sizes[digest] = facts.size
        self.sizes.update({piece.digest: piece.size for piece in facts.pieces})

    def publish(self, repository: str, digest: str) -> None:
        """Somebody pushes an image at the parent itself."""
        facts, linked = self.manifests[digest], self.has.setdefault(repository, set())
        for branch in facts.branches:
            self.publish(repository, branch.digest)
        linked.update(piece.digest for piece in facts.pieces)
        linked.add(digest)

    def move(self, repository: str, tag: str, digest: str, at: float, *, own: bool = True) -> None:
        """A tag names something else; "" deletes it."""
        tags = self.tags.setdefault(repository, {})
        if digest:
            tags[tag] = digest
        else:
            tags.pop(tag, None)
        number = self.log[-1].number + 1 if self.log else 1
        self.log.append(Message(number, at, repository, tag, digest, own))
        (self.own.add if own else self.own.discard)((repository, tag))
        if own:
            self.moved.add((repository, tag))

    def read(self, after: int, now: float) -> list[Message] | None:
        """Messages after a cursor; None (410) when some of them have expired."""
        kept = [m for m in self.log if now - m.at <= self.ttl]
        first = kept[0].number if kept else (self.log[-1].number + 1 if self.log else 1)
        return None if after + 1 < first else [m for m in kept if m.number > after]

    def event(self, repository: str, tag: str) -> int:
        """The number of the last event of a tag that was not the child's doing."""
        return max(
            (m.number for m in self.log if m.own and (m.repository, m.tag) == (repository, tag)), default=0
        )

    def put(self, repository: str, digest: str, facts: Facts) -> None:
        """A manifest comes up. Strict: everything it names is here."""
        linked = self.has.setdefault(repository, set())
        named = [p.digest for p in facts.pieces] + [b.digest for b in facts.branches]
        missing = [digest for digest in named if digest not in linked]
        if missing:
            raise Broken(f"{digest} went up before {missing}")
        self.learn(digest, facts)
        linked.add(digest)
        self.arrived.append(("manifest", repository, digest))

    def name(self, repository: str, tag: str, digest: str, at: float) -> None:
        """A tag comes up; "" deletes it."""
        if digest and digest not in self.has.get(repository, ()):
            raise Broken(f"the tag {tag} went up before its manifest {digest}")
        self.move(repository, tag, digest, at, own=False)
        self.arrived.append(("tag", repository, f"{tag}={digest}"))

    def delete(self, repository: str, digest: str, at: float) -> None:
        """A manifest's delete comes up; tags that name it go with it."""
        self.has.get(repository, set()).discard(digest)
        for tag in [t for t, named in self.tags.get(repository, {}).items() if named == digest]:
            self.move(repository, tag, "", at, own=False)
        self.arrived.append(("delete", repository, digest))


@dataclass
class Disk:
    """What survives a kill. Strict in the same way."""

    has: set[str] = field(default_factory=set)
    links: set[tuple[str, str]] = field(default_factory=set)
    facts: dict[str, Facts] = field(default_factory=dict)
    tags: dict[tuple[str, str], str] = field(default_factory=dict)
    parts: dict[str, int] = field(default_factory=dict)
    state: ScheduleState = field(default_factory=ScheduleState)
    job: Job | None = None
    outbox: dict[int, OutboxEntry] = field(default_factory=dict)
    cursor: int = 0
    held: dict[str, str | None] = field(default_factory=dict)

    def link(self, repository: str, digest: str) -> None:
        """A repository gets bytes that are here."""
        if digest not in self.has:
            raise Broken(f"{digest} is linked and not here")
        self.links.add((repository, digest))

    def put(self, repository: str, digest: str, facts: Facts, children: set[str]) -> None:
        """A manifest that clients can name from now on. `children`: those that the rule selects."""
        needed = {p.digest for p in facts.pieces} | children
        missing = [d for d in needed if (repository, d) not in self.links]
        if missing:
            raise Broken(f"{digest} was put before {missing}")
        self.has.add(digest)
        self.facts[digest] = facts
        self.links.add((repository, digest))

    def name(self, repository: str, tag: str, digest: str) -> None:
        """A tag that clients can pull from now on; "" deletes it."""
        if not digest:
            self.tags.pop((repository, tag), None)
        elif (repository, digest) not in self.links:
            raise Broken(f"the tag {tag} was set before its manifest {digest}")
        else:
            self.tags[(repository, tag)] = digest


@dataclass(frozen=True)
class Hours:
    """The truth about a schedule, by counting days instead of by cron: occurrences at `minutes` of the day, on
    `weekdays` (Monday 0), each open for `window` seconds; None: always."""

    text: str
    minutes: tuple[int, ...] = ()
    weekdays: tuple[int, ...] = tuple(range(7))
    window: float | None = None

    def occurrences(self, since: float, until: float) -> list[float]:
        """All of them, in order."""
        day = datetime.fromtimestamp(since, UTC).replace(hour=0, minute=0, second=0, microsecond=0)
        times = []
        while day.timestamp() <= until:
            if day.weekday() in self.weekdays:
                times += [day.timestamp() + minute * 60 for minute in self.minutes]
            day += timedelta(days=1)
        return times


class Windows:
    """`Hours` over the time that a simulation may show on its wall."""

    def __init__(self, hours: Hours, since: float, until: float) -> None:
        self._hours = hours
        self._moments = [] if hours.window is None else hours.occurrences(since, until)

    def open_at(self, wall: float) -> float | None:
        """The occurrence whose window is open, 0 when there are no windows, None when none is open."""
        if self._hours.window is None:
            return 0.0
        place = bisect_right(self._moments, wall) - 1
        if place < 0 or wall >= self._moments[place] + self._hours.window:
            return None
        return self._moments[place]
