"""A simulated parent and instances of one connected registry: links fail, answers are lost, nodes restart, and time is
only what the simulation says. Everything follows from a seed."""

from __future__ import annotations

import heapq
import random
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import count
from typing import Protocol

from holdfast.gateway.agent_state import (
    Activated,
    AgentState,
    AskActivation,
    Configured,
    Deactivated,
    FetchConfiguration,
    NoAnswer,
    OtherInstanceActive,
    Outcome,
    Reported,
    Rest,
    SendReport,
    Unchanged,
)
from holdfast.resources.model import SyncProperties

#: what the tests begin at, on the wall (s): 2027-01-15 08:00 UTC
START = 1_800_000_000.0
SYNC = SyncProperties(token_id="/tokens/plant")


class Word(Protocol):
    """A parent's word on the lease, at a time on the wall. The lease of the record it keeps is what `holder` says."""

    def activate(self, instance: str, lease: float, now: float) -> Outcome: ...
    def report(self, instance: str, generation: int, lease: float, now: float) -> Outcome: ...
    def deactivate(self, now: float) -> None: ...
    def holder(self) -> tuple[str, int, float] | None:
        """(instance, generation, when another may take over)."""
        ...


@dataclass
class ModelWord:
    """The rule in its shortest form."""

    held: tuple[str, int, float] | None = None
    generation: int = 0

    def activate(self, instance: str, lease: float, now: float) -> Outcome:
        """Whoever is active, or the first to ask after its lease ran out."""
        if self.held is not None and self.held[0] != instance:
            if now < self.held[2]:
                return OtherInstanceActive()
            self.held = None
        if self.held is None:
            self.generation += 1
        self.held = (instance, self.generation, now + lease)
        return Activated(self.generation, lease)

    def report(self, instance: str, generation: int, lease: float, now: float) -> Outcome:
        """Renews, also after the lease ran out, as long as nobody took over."""
        if self.held is None:
            return Deactivated()
        if self.held[:2] != (instance, generation):
            return OtherInstanceActive()
        self.held = (instance, generation, now + lease)
        return Reported(lease)

    def deactivate(self, now: float) -> None:
        """The operator's."""
        self.held = None

    def holder(self) -> tuple[str, int, float] | None:
        """See `Word`."""
        return self.held


@dataclass
class Instance:
    """One running node, or one that is down: then `child` is None, and what it kept is all there is."""

    name: str
    child: AgentState | None = None
    #: kept on its disk
    etag: str = ""
    sync: SyncProperties | None = None
    activated: bool = False
    #: while the link is cut, nothing arrives, or the answer does not
    cut_until: float = 0.0
    #: restarts, so that an answer to an earlier life is not heard
    life: int = 0

    def serves(self) -> bool:
        """Whether clients get what it holds: it runs, and was told once who they are."""
        return self.child is not None and self.etag != ""


@dataclass
class World:
    """Runs instances against a parent's word. `now` counts seconds from the beginning."""

    word: Word
    seed: int
    names: tuple[str, ...] = ("a", "b")
    lease: float = 300.0
    poll: float = 60.0
    sync: SyncProperties = SYNC
    now: float = 0.0
    version: int = 1
    instances: dict[str, Instance] = field(default_factory=dict)
    history: list[tuple[float, str, str]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.chance = random.Random(self.seed)
        self._order = count()
        self._queue: list[tuple[float, int, str, int, str]] = []
        self._answers: dict[int, tuple[Outcome, float]] = {}
        for name in self.names:
            self.instances[name] = Instance(name)
            self.start(name)

    @property
    def etag(self) -> str:
        """Of the parent's present configuration."""
        return f"v{self.version}"

    def start(self, name: str) -> None:
        """Start an instance with what it kept."""
        one = self.instances[name]
        one.life += 1
        one.child = AgentState(self.poll, lambda limit: self.chance.uniform(0, limit), one.etag, one.sync)
        self._later(self.now, name, "next")

    def stop(self, name: str) -> None:
        """A crash: what is under way is lost."""
        self.instances[name].child = None

    def believers(self) -> list[str]:
        """Who takes nobody else to be active."""
        return [n for n, one in self.instances.items() if one.child and one.child.holds_lease(self.now)]

    def run(self, until: float) -> Iterator[None]:
        """Advance, and pause after every event, so that a test looks at each state."""
        while self._queue and self._queue[0][0] <= until:
            at, number, name, life, what = heapq.heappop(self._queue)
            self.now = max(self.now, at)
            one = self.instances[name]
            if one.child is not None and one.life == life:
                self._step(one, number, what)
                yield
        self.now = until
        yield

    def _later(self, at: float, name: str, what: str, answer: tuple[Outcome, float] | None = None) -> None:
        number = next(self._order)
        if answer is not None:
            self._answers[number] = answer
        heapq.heappush(self._queue, (at, number, name, self.instances[name].life, what))

    def _step(self, one: Instance, number: int, what: str) -> None:
        assert one.child is not None
        if what == "answer":
            outcome, asked = self._answers.pop(number)
            self._keep(one, outcome)
            one.child.apply(outcome, asked, self.now)
            self.history.append((self.now, one.name, type(outcome).__name__))
        action = one.child.next(self.now, START + self.now)
        if isinstance(action, Rest):
            self._later(self.now + action.seconds, one.name, "next")
            return
        asked, there = self.now, self.now + self.chance.uniform(0.0, 2.0)
        back = there + self.chance.uniform(0.0, 2.0)
        if there < one.cut_until:
            self._later(asked + 10.0, one.name, "answer", (NoAnswer("no answer"), asked))
            return
        # asked now, heard at `there`: what is heard in between by others does not matter, time only grows
        outcome, back = self._heard(one, action, there, back)
        if back < one.cut_until or self.chance.random() < 0.02:
            outcome, back = NoAnswer("the answer was lost"), asked + 10.0
        self._later(back, one.name, "answer", (outcome, asked))

    def _heard(
        self,
        one: Instance,
        action: AskActivation | SendReport | FetchConfiguration,
        there: float,
        back: float,
    ) -> tuple[Outcome, float]:
        assert one.child is not None
        wall, generation = START + there, one.child.generation
        if isinstance(action, AskActivation):
            return self.word.activate(one.name, self.lease, wall), back
        if isinstance(action, SendReport):
            return self.word.report(one.name, generation, self.lease, wall), back
        holder = self.word.holder()
        if holder is None:
            return Deactivated(), back
        if holder[:2] != (one.name, generation):
            return OtherInstanceActive(), back
        if action.etag != self.etag:
            return Configured(self.etag, self.sync), back
        return Unchanged(), back + min(action.wait, 25.0)

    def _keep(self, one: Instance, outcome: Outcome) -> None:
        if isinstance(outcome, Activated):
            one.activated = True
        if isinstance(outcome, Configured):
            one.etag, one.sync = outcome.etag, outcome.sync
