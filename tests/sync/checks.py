"""What must hold, while a simulation runs and at its end."""

from __future__ import annotations

from holdfast.outbox.entry import OutboxEntry
from holdfast.sync.source import selection
from sync.frame import LIMIT, Frame
from sync.world import CHECKPOINT, START, Broken


class Checks(Frame):
    """The invariants."""

    def _check_served(self, wall: float) -> None:
        """Whoever looks while a window is open is at work in it, or was before."""
        opened = self.windows.open_at(wall)
        if not opened:
            return
        if wall < opened + self.schedule.delay(self.share):
            return
        self.passed.add(opened)
        if self.disk.state.running:
            self.served.add(opened)
            self.run_windows.add(opened)
        elif opened not in self.served:
            raise Broken(f"the window of {opened - START:.0f} is open and nothing was done in it")

    def _check_end(self) -> None:
        self._check_held()
        self._check_twice()
        self._check_above()
        unique = sum(self.sizes[digest] for digest in self.down) + sum(self.sizes[d] for d in self.raised)
        # begun, and then pushed here, or there, or deleted
        unique += sum(self.disk.parts.values()) + sum(self.parent.sessions.values())
        useful = self.tally.link_bytes - self._excused()
        if useful > LIMIT * unique + CHECKPOINT * self.tally.kills + 1:
            raise Broken(f"{useful:.0f} bytes over the link for {unique} unique ones")

        self._check_asked()

    def _check_asked(self) -> None:
        """The requests beside the log are bounded by the changes."""
        bound = len(self.parent.log) + self.tally.conflicts + self.tally.requests_anew
        if self.tally.requests > bound:
            raise Broken(f"{self.tally.requests} questions for tags that were held back, of {bound} changes")

    def _excused(self) -> float:
        """Bytes of a parent that lied."""
        return self.tally.wasted_bytes

    def _check_twice(self) -> None:
        if self.hours.window is not None and self.scheduled_done > len(self.passed):
            raise Broken(f"{self.scheduled_done} runs ended well in {len(self.passed)} windows")

    def _check_held(self) -> None:
        for repository, rule in self.rules.items():
            listed = self.parent.tags.get(repository, {})
            for tag in rule.choose([selection.TagFact(t) for t in listed], START).tags:
                if self.queue.pending(repository, tag.name) or self._to_go(repository, listed[tag.name]):
                    continue
                here = self.disk.tags.get((repository, tag.name))
                if here != listed[tag.name]:
                    raise Broken(f"{repository}:{tag.name} names {here} here and {listed[tag.name]} there")
                self._check_closure(rule, repository, listed[tag.name])

    def _check_closure(self, rule: selection.Rule, repository: str, digest: str) -> None:
        facts = self.known[digest]
        lacking = [p.digest for p in facts.pieces if (repository, p.digest) not in self.disk.links]
        if lacking or (repository, digest) not in self.disk.links:
            raise Broken(f"{digest} lacks {lacking or 'itself'}")
        for branch in facts.branches:
            if rule.platforms.wants(branch.platform):
                self._check_closure(rule, repository, branch.digest)
        for referrer in self.parent.attached.get(digest, []) if rule.given.referrers else []:
            self._check_closure(rule, repository, referrer.digest)

    def _check_above(self) -> None:
        """Everything that was pushed arrived, and each repository's deeds in their order."""
        stuck = [e for e in self.disk.outbox.values() if not e.conflict and not self._behind_conflict(e)]
        if stuck:
            raise Broken(f"left in the outbox: {stuck[:2]}")
        arrived = {deed for deed in self.parent.arrived if deed[0] == "manifest"}
        deleted = {(r, d) for kind, r, d in self.pushed if kind == "delete"}
        for deed in self.pushed:
            if deed[0] == "manifest" and deed not in arrived and (deed[1], deed[2]) not in deleted:
                raise Broken(f"{deed} never arrived")
        for repository, tag in self.child_moved - self.parent.moved:
            here, there = self.disk.tags.get((repository, tag)), self.parent.tags[repository].get(tag)
            if (
                here != there
                and not self.queue.pending(repository, tag)
                and not self._to_go(repository, there)
            ):
                raise Broken(f"{repository}:{tag} was moved here to {here}, and names {there} there")
        self._check_conflicts()
        self._check_order()

    def _check_conflicts(self) -> None:
        """Each ended as the policy says. Digests are made once, so none is named again later."""
        for repository, tag, ours, theirs, winner in self.recorded:
            there = self.parent.tags.get(repository, {}).get(tag, "")
            gone = ("delete", repository, ours) in self.pushed
            if winner == "parent" and ours and there == ours:
                raise Broken(f"{repository}:{tag}: the parent won, and has {ours}")
            if winner == "child" and theirs and there == theirs and not gone:
                raise Broken(f"{repository}:{tag}: the child won, and the parent has {theirs}")
            if not winner and there == ours and ours:
                raise Broken(f"{repository}:{tag}: undecided, and the parent has {ours}")

    def _behind_conflict(self, entry: OutboxEntry) -> bool:
        return any(e.conflict and e.repository == entry.repository for e in self.disk.outbox.values())

    def _check_order(self) -> None:
        """What arrived first is in the order of the pushes."""
        place: dict[tuple[str, str, str], int] = {}
        for number, deed in enumerate(self.pushed):
            place[deed] = number
        last: dict[str, int] = {}
        for kind, repository, name in dict.fromkeys(self.parent.arrived):
            key = f"{repository} {name.partition('=')[0]}" if kind == "tag" else ""
            if kind == "tag" and not name.endswith("=") and (kind, repository, name) in place:
                if place[(kind, repository, name)] < last.get(key, -1):
                    raise Broken(f"{key}: moves arrived out of order")
                last[key] = place[(kind, repository, name)]
