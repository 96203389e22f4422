"""The way up: the outbox, step by step."""

from __future__ import annotations

from holdfast.outbox import queue, upload_plan
from holdfast.outbox.entry import OutboxEntry
from sync.checks import Checks
from sync.frame import Move
from sync.world import Broken, Parent

#: entries under way at once
AT_ONCE = 4


class Climb(Checks):
    """Sends what was pushed here, several entries side by side: whose turn it is decides chance."""

    def _climb(self) -> bool:
        """One step of an entry; False when there is none to make."""
        for entry in self.queue.take(self.clock.wall, AT_ONCE - len(self.climbing)):
            if entry.seq in self.climbing:
                raise Broken(f"{entry} was begun twice")
            self._mount(entry)
        for entry in self.queue.unrequested():
            if not self._follows(entry.repository, entry.tag):
                self._ask_base(entry)
        if not self.climbing:
            return False
        seq = self.chance.choice(list(self.climbing))
        steps = self.climbing[seq]
        if steps:
            self._rise(seq, steps)
        else:
            self._leave(seq)
        return True

    def _leave(self, seq: int) -> None:
        """It is over for now, whatever came of it, with the tag that went along."""
        del self.climbing[seq]
        self.queue.leave(seq)
        tag = self.along.pop(seq, None)
        if tag is not None:
            self.queue.leave(tag)

    def _mount(self, entry: OutboxEntry) -> None:
        """Begin with an entry."""
        self.climbing[entry.seq] = []
        if entry.repository in self.parent.denied:
            self._store(self.queue.failed(entry.seq, "denied", "403", self.clock.wall, self.chance.random()))
            return
        if entry.deed in ("tag", "untag") and not self._settled(entry):
            return
        facts = self.known.get(entry.digest) if entry.deed == "manifest" else None
        self.climbing[entry.seq] = self.parts.plan_upload(entry, facts, Above(self))
        if entry.deed == "manifest" and (tag := self.queue.take_tag(entry.seq, self.clock.wall)) is not None:
            self.along[entry.seq] = tag.seq

    def _theirs(self, entry: OutboxEntry) -> str:
        return self.parent.tags.get(entry.repository, {}).get(entry.tag, "")

    def _settled(self, entry: OutboxEntry) -> bool:
        """Whether ours is to be sent, on the condition of the tag that the parent answered."""
        there = self.there[entry.seq] = self._theirs(entry)
        theirs = queue.ParentTag(there, self._event(entry.repository, entry.tag))
        follows = self._follows(entry.repository, entry.tag)
        verdict = self.queue.settle(entry.seq, theirs, self.policy, self.clock.wall, follows=follows)
        self._record(verdict)
        if verdict.fate == "send" and verdict.conflict is None and not follows:
            self._ask_base(entry)
        if verdict.fate == "there":
            self._store(self.queue.confirmed(entry.seq, entry.digest, self.clock.wall))
            self._decided(entry.repository, entry.tag, ours=True)
        elif verdict.fate == "drop":
            self._store(self.queue.dropped(entry.seq))
            self._decided(entry.repository, entry.tag, ours=False)
        elif verdict.fate == "hold":
            self._store(self.queue.held(entry.seq, "both sides moved it"))
        return verdict.fate == "send"

    def _ask_base(self, entry: OutboxEntry) -> None:
        """Ask the parent for a tag of which nothing is known here."""
        there = self._theirs(entry)
        change = self.queue.answered(entry.seq, there)
        if change.puts and self.written_at[entry.seq] <= self.gap_at:
            raise Broken(f"requested {entry} after an outage, as if the parent had {there} before it")
        if change.puts:
            self.tally.requested_in_time += 1
            self.came.add((entry.repository, entry.tag, there))
        self._store(change)

    def _rise(self, seq: int, steps: list[upload_plan.UploadStep]) -> None:
        entry, step = self.queue.get(seq), steps.pop(0)
        if entry is None:
            if seq not in self.given_up:
                raise Broken(f"entry {seq} was dropped while it was under way")
            self._leave(seq)
            return
        repository = entry.repository
        linked = self.parent.has.setdefault(repository, set())
        if step.kind in (upload_plan.UploadStepKind.MOUNT, upload_plan.UploadStepKind.UPLOAD) and (
            step.digest in linked or Above(self).elsewhere(step.digest)
        ):
            linked.add(step.digest)  # another entry brought it meanwhile
        elif step.kind == upload_plan.UploadStepKind.UPLOAD:
            self._upload(repository, step)
        elif step.kind == upload_plan.UploadStepKind.PUT:
            self._put_up(entry)
        else:
            self._deliver(entry)

    def _put_up(self, entry: OutboxEntry) -> None:
        """A manifest, and the tag that goes along where the parent's is what it was: both arrive or none."""
        tag = self.queue.get(self.along.get(entry.seq, 0))
        if tag is not None and not self._settled(tag):
            tag = None
        self._store(self.queue.sending(entry.seq, *([tag.seq] if tag is not None else [])))
        self._deliver(entry, tag)

    def _deliver(self, entry: OutboxEntry, along: OutboxEntry | None = None) -> None:
        """The last step of an entry, and the parent's answer: now and then it is lost, or is about something else."""
        luck = self.chance.random()
        self._store(self.queue.sending(entry.seq))
        if luck < 0.03 and entry.deed != "delete":
            self._store(self.queue.confirmed(entry.seq, "something-else", self.clock.wall))
            return
        repository, now = entry.repository, self.clock.true
        if entry.deed == "manifest":
            self.parent.put(repository, entry.digest, self.known[entry.digest])
        elif entry.deed == "delete":
            self.parent.delete(repository, entry.digest, now)
        elif self._theirs(entry) != self.there[entry.seq]:  # the condition does not hold any more: 412
            self._store(self.queue.failed(entry.seq, "transient", "412", self.clock.wall, 0.5))
            return
        moved = along if along is not None else entry if entry.tag else None
        if moved is not None:
            self._check_overwritten(moved)
            self.parent.name(repository, moved.tag, moved.digest, now)
            self.known_events[(repository, moved.tag)] = self._event(repository, moved.tag)
        if luck > 0.05:
            for one in (entry, along):
                if one is not None:
                    self.tally.confirmed += 1
                    self._store(self.queue.confirmed(one.seq, one.digest, self.clock.wall))
                    for tag in filter(None, (one.tag, *one.tags)):
                        self._decided(repository, tag, ours=True)

    def _check_overwritten(self, entry: OutboxEntry) -> None:
        """What the parent got itself is known here when ours takes its place, or is in a conflict."""
        place, there = (entry.repository, entry.tag), self._theirs(entry)
        if not there or place not in self.parent.own:
            return
        recorded = {(repository, tag, theirs) for repository, tag, _, theirs, _ in self.recorded}
        if (*place, there) not in self.came | recorded:
            raise Broken(
                f"{place} named {there} at the parent, and {entry.digest} takes its place in silence"
            )

    def _upload(self, repository: str, step: upload_plan.UploadStep) -> None:
        def landed() -> None:
            self.parent.has[repository].add(step.digest)
            self.parent.sessions.pop((repository, step.digest), None)
            self.raised.add(step.digest)

        self.move = Move(True, step.digest, step.size, step.offset, landed, repository)


class Above:
    """What the node knows of its parent, for `plan_upload`."""

    def __init__(self, simulation: Climb) -> None:
        self._parent: Parent = simulation.parent

    def has(self, repository: str, digest: str) -> bool:
        """See `upload_plan.KnownAtParent`."""
        return digest in self._parent.has.get(repository, ())

    def elsewhere(self, digest: str) -> str:
        """See `upload_plan.KnownAtParent`."""
        return next((name for name, linked in self._parent.has.items() if digest in linked), "")

    def received(self, repository: str, digest: str) -> int:
        """See `upload_plan.KnownAtParent`."""
        return self._parent.sessions.get((repository, digest), 0)
