"""The way up: the outbox, step by step."""

from __future__ import annotations

from holdfast.sync import ascent, outbox
from sync.checks import Checks
from sync.frame import Move
from sync.world import Parent


class Climb(Checks):
    """Sends what was pushed here."""

    def _climb(self) -> bool:
        """One step of the outbox; False when there is none to make."""
        if self.climbing is None:
            ready = self.queue.ready(self.clock.wall)
            if not ready:
                return False
            self._mount(ready[0])
            return True
        seq, steps = self.climbing
        if not steps:
            self.climbing = None
            return True
        self._rise(seq, steps)
        return True

    def _mount(self, entry: outbox.Entry) -> None:
        """Begin with an entry."""
        if entry.repository in self.parent.denied:
            self._store(self.queue.failed(entry.seq, "denied", "403", self.clock.wall, self.chance.random()))
            return
        if entry.deed in ("tag", "untag") and not self._settled(entry):
            return
        self._store(self.queue.sending(entry.seq))
        facts = self.known.get(entry.digest) if entry.deed == "manifest" else None
        self.climbing = (entry.seq, self.parts.ascent(entry, facts, Above(self)))

    def _settled(self, entry: outbox.Entry) -> bool:
        theirs = outbox.ParentTag(
            self.parent.tags.get(entry.repository, {}).get(entry.tag, ""),
            self._event(entry.repository, entry.tag),
        )
        verdict = self.queue.settle(entry.seq, theirs, self.policy, self.clock.wall)
        self.tally.conflicts += verdict.conflict is not None
        if verdict.fate == "there":
            self._store(self.queue.confirmed(entry.seq, entry.digest, self.clock.wall))
            self._decided(entry.repository, entry.tag, ours=True)
        elif verdict.fate == "drop":
            self._store(self.queue.dropped(entry.seq))
            self._decided(entry.repository, entry.tag, ours=False)
        elif verdict.fate == "hold":
            self._store(self.queue.held(entry.seq, "both sides moved it"))
        return verdict.fate == "send"

    def _rise(self, seq: int, steps: list[ascent.UpStep]) -> None:
        entry, step = self.queue.get(seq), steps.pop(0)
        if entry is None:  # overtaken by the parent's move meanwhile
            self.climbing = None
            return
        repository = entry.repository
        linked = self.parent.has.setdefault(repository, set())
        if step.rise == ascent.Rise.MOUNT:
            linked.add(step.digest)
        elif step.rise == ascent.Rise.UPLOAD:
            self._upload(repository, step)
        else:
            self._deliver(entry)

    def _deliver(self, entry: outbox.Entry) -> None:
        """The last step of an entry, and the parent's answer: now and then it is lost, or is about something else."""
        luck = self.chance.random()
        if luck < 0.03 and entry.deed != "delete":
            self._store(self.queue.confirmed(entry.seq, "something-else", self.clock.wall))
            return
        repository, now = entry.repository, self.clock.true
        if entry.deed == "manifest":
            self.parent.put(repository, entry.digest, self.known[entry.digest])
        elif entry.deed == "delete":
            self.parent.delete(repository, entry.digest, now)
        else:
            self.parent.name(repository, entry.tag, entry.digest, now)
            self.known_events[(repository, entry.tag)] = self._event(repository, entry.tag)
        if luck > 0.05:
            self.tally.confirmed += 1
            self._store(self.queue.confirmed(entry.seq, entry.digest, self.clock.wall))
            for tag in filter(None, (entry.tag, *entry.tags)):
                self._decided(repository, tag, ours=True)

    def _upload(self, repository: str, step: ascent.UpStep) -> None:
        def landed() -> None:
            self.parent.has[repository].add(step.digest)
            self.parent.sessions.pop((repository, step.digest), None)
            self.raised.add(step.digest)

        self.move = Move(True, step.digest, step.size, step.offset, landed, repository)


class Above:
    """What the node knows of its parent, for `ascent`."""

    def __init__(self, simulation: Climb) -> None:
        self._parent: Parent = simulation.parent

    def has(self, repository: str, digest: str) -> bool:
        """See `ascent.Above`."""
        return digest in self._parent.has.get(repository, ())

    def elsewhere(self, digest: str) -> str:
        """See `ascent.Above`."""
        return next((name for name, linked in self._parent.has.items() if digest in linked), "")

    def received(self, repository: str, digest: str) -> int:
        """See `ascent.Above`."""
        return self._parent.sessions.get((repository, digest), 0)
