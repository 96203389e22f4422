"""What a seed is like, and what happens in it: content, outages, kills, clocks that are set, pushes on both sides."""

from __future__ import annotations

from functools import partial

from holdfast.oci.image import Branch, Facts, ImageBlob, Referrer
from holdfast.outbox import queue
from holdfast.sync import run_state, schedule
from holdfast.sync.schedule import CHANGES, MANUAL
from sync.descent import Descent
from sync.frame import CALM, DAY
from sync.world import CHECKPOINT, START


class Happenings(Descent):
    """The world's doings, each at its time."""

    def _content(self) -> None:
        self._made = 0
        self._pool = [ImageBlob(f"b{n}", self.chance.randint(20 << 20, 300 << 20)) for n in range(6)]
        for repository in self.repositories:
            for _ in range(self.chance.randint(1, 3)):
                self._parent_push(repository)

    def _image(self, prefix: str) -> str:
        """A manifest made of pieces, some of them shared."""
        self._made += 1
        name = f"{prefix}{self._made}"
        own = ImageBlob(f"b-{name}", self.chance.randint(1 << 20, (300 if prefix == "l" else 80) << 20))
        shared = self.chance.sample(self._pool, self.chance.randint(0, 2))
        self.parent_learn(f"m-{name}", Facts(1500, (ImageBlob(f"c-{name}", 3000), *shared, own)))
        return f"m-{name}"

    def _index(self, prefix: str) -> str:
        children = [self._image(prefix) for _ in range(2)]
        self._made += 1
        digest = f"i-{prefix}{self._made}"
        branches = tuple(
            Branch(child, 1500, platform)
            for child, platform in zip(children, ("linux/amd64", "linux/arm64"), strict=True)
        )
        self.parent_learn(digest, Facts(900, (), branches))
        return digest

    def _parent_push(self, repository: str, tag: str = "") -> None:
        digest = self._index("p") if self.chance.random() < 0.4 else self._image("p")
        self._give_parent(digest)
        self.parent.publish(repository, digest)
        if self.chance.random() < 0.3:
            signature = self._image("s")
            self._give_parent(signature)
            self.parent.publish(repository, signature)
            self.parent.attached.setdefault(digest, []).append(Referrer(signature, 1500, "sig"))
        tag = tag or self.chance.choice(("v1", "v2", "v3", "edge", "v4-rc"))
        self.parent.move(repository, tag, digest, self.clock.true)
        self._notice()

    def _give_parent(self, digest: str) -> None:
        facts = self.known[digest]
        self.parent.learn(digest, facts)
        for branch in facts.branches:
            self._give_parent(branch.digest)

    def parent_learn(self, digest: str, facts: Facts) -> None:
        """Content comes into being, somewhere."""
        self.known[digest] = facts
        self.sizes.update({p.digest: p.size for p in facts.pieces} | {digest: facts.size})

    # ---- what happens

    def _moment(self, until: float = CALM) -> float:
        return START + self.chance.uniform(0, until) * self.length

    def _happenings(self) -> None:
        chance, length = self.chance, self.length
        for _ in range(chance.randint(0, 5)):
            begin = self._moment()
            self.at(begin, self._cut)
            self.at(min(begin + chance.uniform(0.001, 0.15) * length, START + 0.75 * length), self._heal)
        for _ in range(chance.randint(0, 4)):
            self._plan_kill(self._moment())
        for _ in range(chance.randint(0, 2)):
            begin = self._moment()
            self.at(begin, self._freeze)
            self.at(begin + chance.uniform(0.001, 0.1) * length, self._thaw)
        for _ in range(chance.randint(0, 3)):
            self.at(self._moment(), self._jump)
        for _ in range(chance.randint(2, 10)):
            self.at(self._moment(), lambda: self._parent_push(chance.choice(self.repositories)))
        for _ in range(chance.randint(0, 2)):
            repository, begin = chance.choice(self.repositories), self._moment()
            self.at(begin, partial(self.parent.denied.add, repository))
            self.at(begin + 0.1 * length, partial(self.parent.denied.discard, repository))
        if chance.random() < 0.2:
            self.at(self._moment(), self._lie)
        if chance.random() < 0.3:
            self.at(self._moment(), lambda: self._ask(MANUAL, force=chance.random() < 0.5))
        if self.writable:
            for _ in range(chance.randint(0, 12)):
                self.at(self._moment(), self._child_deed)
            for number in range(chance.randint(0, 3)):
                self._plan_new_on_both_sides(f"new{number}" if chance.random() < 0.5 else f"v-new{number}")
        self.at(START + 0.76 * length, self._calm)

    def _plan_new_on_both_sides(self, tag: str) -> None:
        """Nobody has the tag; each side gets its own within a while, with the link or without."""
        chance, repository = self.chance, self.chance.choice(self.repositories)
        begin, while_ = self._moment(), chance.uniform(0, 0.05) * self.length
        if chance.random() < 0.6:
            self.at(begin, self._cut)
            self.at(begin + while_, self._heal)
        self.at(begin + chance.random() * while_, lambda: self._child_push(repository, tag))
        self.at(begin + chance.random() * while_, lambda: self._parent_push(repository, tag))

    def _plan_kill(self, when: float) -> None:
        self.at(when, self._kill)
        self.at(when + self.chance.uniform(0, 0.03) * self.length, self._start)

    def _cut(self) -> None:
        self.link = False
        self._gap()

    def _heal(self) -> None:
        if not self.link:
            self._gap()
        self.link = True
        self.look_at = self.clock.true

    def _kill(self) -> None:
        if not self.up:
            return
        self.tally.kills += 1
        self.served -= self.run_windows  # what the kill cut off is still to be done, now or by the next run
        self.cut |= self.run_windows
        self.run_windows.clear()
        self._told("kill")
        self.tally.requests_anew += len(self.disk.held)
        move = self.move
        if move is not None:  # what came since the last checkpoint is lost
            kept = int(move.at) // CHECKPOINT * CHECKPOINT
            self.tally.wasted_bytes += move.at - kept
            self._keep_part(move, kept)
        self.up, self.run, self.planner, self.move = False, None, None, None
        for volatile in (self.at_work, self.read, self.climbing, self.along, self.there):
            volatile.clear()

    def _start(self) -> None:
        if self.up:
            return
        self.up, self.look_at = True, self.clock.true
        self.gap_at = self.clock.true
        self.disk.state = self.parts.after_restart(self.disk.state)
        self.queue = self.parts.outbox(self.disk.outbox.values())
        self.held = self.parts.held(self.disk.held, self._waits)

    def _freeze(self) -> None:
        self.frozen = True

    def _thaw(self) -> None:
        self.frozen = False
        self.look_at = self.clock.true

    def _jump(self) -> None:
        self.tally.jumps += 1
        self.clock.offset = 0.0 if self.chance.random() < 0.3 else self.chance.gauss(0, 1) * 1.5 * DAY
        if self.hours.text == "* * * * *":
            self.clock.offset /= 90
        self._told(f"the wall clock is set, now off by {self.clock.offset:.0f} s")
        self.look_at = min(self.look_at, self.clock.true + self.chance.uniform(0, schedule.LOOK_SECONDS))
        if self.look_at > self.clock.true:
            self.blind_until = self.look_at

    def _lie(self) -> None:
        blob = self.chance.choice(self._pool).digest
        self.parent.lying.add(blob)
        self.at(self.clock.true + 0.05 * self.length, lambda: self.parent.lying.discard(blob))

    def _ask(self, trigger: str, *, force: bool = False) -> None:
        if self.up:
            self.disk.state = schedule.request_run(self.disk.state, trigger, force=force)
            self.look_at = self.clock.true

    def _notice(self) -> None:
        """A long poll tells a connected node of a change."""
        if self.logged and self.up and self.link and self.closes is not None and not self.frozen:
            self._ask(CHANGES)

    def _calm(self) -> None:
        """From now on nothing goes wrong."""
        self._heal()
        self._start()
        self._thaw()
        self.clock.offset = 0.0
        self.parent.denied.clear()
        self.parent.lying.clear()
        if self.disk.job is not None:
            self.disk.job = run_state.retry_parked(self.disk.job, self.clock.wall)
        self.calm_at = self.clock.true

    # ---- pushes here

    def _child_deed(self) -> None:
        if not self.up:
            return
        repository, deed = self.chance.choice(self.repositories), self.chance.random()
        named = [
            tag for (r, tag), digest in self.disk.tags.items() if r == repository and digest.startswith("m-l")
        ]
        if deed < 0.75 or not named:
            self._child_push(repository)
        elif deed < 0.87:
            tag = self.chance.choice(named)
            self._store(self._tag_up(repository, tag, ""))
            self.disk.name(repository, tag, "")
        else:
            digest = self.disk.tags[(repository, self.chance.choice(named))]
            gone = [tag for (r, tag), d in self.disk.tags.items() if r == repository and d == digest]
            self._store(self.queue.deleted(repository, digest, self.clock.wall, gone))
            self.pushed.append(("delete", repository, digest))
            self.disk.links.discard((repository, digest))
            for key in [k for k, d in self.disk.tags.items() if k[0] == repository and d == digest]:
                self.disk.name(*key, "")
                self.child_moved.add(key)

    def _child_push(self, repository: str, tag: str = "") -> None:
        """An index or an image, children first, then its tag: each with its entry in the same transaction."""
        if not self.up:
            return
        index = self.chance.random() < 0.3
        digest = self._index("l") if index else self._image("l")
        for child in [*(b.digest for b in self.known[digest].branches), digest]:
            facts = self.known[child]
            for piece in facts.pieces:
                self.disk.has.add(piece.digest)
                self.disk.link(repository, piece.digest)
            self.disk.put(repository, child, facts, {b.digest for b in facts.branches})
            needs = [b.digest for b in facts.branches]
            self._store(self.queue.pushed(repository, child, needs, self.clock.wall))
            self.pushed.append(("manifest", repository, child))
        tag = tag or self.chance.choice(("v1", "edge", "local", "local2"))
        self._store(self._tag_up(repository, tag, digest))
        self.disk.name(repository, tag, digest)

    def _tag_up(self, repository: str, tag: str, digest: str) -> queue.QueueChange:
        base = self.disk.tags.get((repository, tag))  # None: nothing is known of it
        event = self.known_events.get((repository, tag), 0) if self.logged else 0
        self.pushed.append(("tag", repository, f"{tag}={digest}"))
        self.child_moved.add((repository, tag))
        wall = self.clock.wall
        if digest:
            change = self.queue.tagged(repository, tag, digest, wall, base=base, event=event)
        else:
            change = self.queue.untagged(repository, tag, wall, base=base, event=event)
        if not (self.link and self._connected()):
            self._gap()
        return change
