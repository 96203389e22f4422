"""The way down: what changed, the plan for it, and its actions one by one."""

from __future__ import annotations

from typing import Any

from holdfast.sync import plan, run_state, schedule
from holdfast.sync.schedule import FULL, RECOVERY, SCHEDULED
from holdfast.sync.source import selection
from sync.climb import Climb
from sync.frame import AtWork, Move


class Descent(Climb):
    """Fetches what is selected."""

    def _list(self) -> None:
        """Find out what changed, and plan it."""
        self.listing = False
        trigger, wall = self.running, self.clock.wall
        last = self.parent.log[-1].number if self.parent.log else 0
        messages = self.parent.read(self.disk.cursor, self.clock.true) if self.logged else None
        if self.logged and messages is None and trigger not in FULL:
            self.disk.state = self.parts.end_run(
                schedule.request_run(self.disk.state, RECOVERY), wall, again_in=0.0
            )
            self.running = ""
            self.look_at = self.clock.true
            return
        full = trigger in FULL or not self.logged
        changed = None if full else {(m.repository, m.tag) for m in messages or ()}
        targets = self._targets(changed)
        self.planner = self.parts.planner(self, self)
        images = [image for rule, target in targets if (image := self.planner.image(rule, target)).actions]
        job = self.parts.next_job(self.disk.job, trigger, wall, {image.target.key for image in images})
        self.disk.job, self.target_cursor = job, last
        self.run = self.parts.run(job, images, 2)

    def _targets(self, changed: set[tuple[str, str]] | None) -> list[tuple[selection.Rule, plan.SyncTarget]]:
        self.mark = self.queue.mark
        rechecked = self._asked_again()
        troubled = {run_state.parse_key(key)[:2] for key in self._troubles()} | rechecked
        pairs = []
        for repository, rule in self.rules.items():
            listed = self.parent.tags.get(repository, {})
            for tag in rule.choose([selection.TagFact(t) for t in listed], self.clock.wall).tags:
                key = (repository, tag.name)
                self.listed_events[key] = self._event(*key)
                if changed is not None and key not in changed and key not in troubled:
                    continue
                if self._take_over(*key, listed[tag.name]):
                    pairs.append((rule, plan.SyncTarget(repository, tag.name, listed[tag.name])))
                    self.held.forget(f"{repository}:{tag.name}")
                    rechecked.discard(key)
                else:
                    self._hold(*key, listed[tag.name])
                    rechecked.discard(key)
        for repository, name in rechecked:  # not there, or not selected
            self.held.forget(f"{repository}:{name}")
        self._keep_held()
        return pairs

    def _asked_again(self) -> set[tuple[str, str]]:
        """Returns the tags to request from the parent, because the outbox has decided on them."""
        tags = set()
        for key in self.held.due(self.clock.true, self.chance.random()):
            self.tally.requests += 1
            self.held.failed(key, self.clock.true, self.chance.random())
            repository, tag, _ = run_state.parse_key(key)
            tags.add((repository, tag))
        return tags

    def _work(self) -> bool:
        """One action of an image at work; False when there is nothing to do now."""
        if self.run is None:
            return False
        while (image := self.run.take(self.clock.wall)) is not None:
            self.at_work[image.target.key] = AtWork(image)
        if not self.at_work:
            return False
        key = next(iter(self.at_work))
        current = self.at_work.pop(key)
        self.at_work[key] = current  # the next image has the next turn
        if current.place >= len(current.image.actions):
            self._image_done(current)
        else:
            self._action(current, current.image.actions[current.place])
        return True

    def _image_done(self, current: AtWork) -> None:
        assert self.run is not None
        assert self.planner is not None
        if current.image.unread:
            target = current.image.target
            grown = self.planner.image(self.rules[target.repository], target)
            self.run.grown(grown)
            current.image, current.place = grown, 0
            return
        del self.at_work[current.image.target.key]
        self.run.done(current.image, self.clock.wall)

    def _action(self, current: AtWork, action: plan.PlannedAction) -> None:
        repository, digest = action.repository, action.digest
        if repository in self.parent.denied and action.step in (
            plan.PlanStep.FETCH_BLOB,
            plan.PlanStep.FETCH_MANIFEST,
            plan.PlanStep.READ_MANIFEST,
        ):
            self._fail(current, "denied", "403")
            return
        if action.step == plan.PlanStep.TAG:
            if not self._take_over(repository, action.tag, digest):
                self._hold(repository, action.tag, digest)
                if not self.logged:
                    self._decided(repository, action.tag, ours=False)
            else:
                self.disk.name(repository, action.tag, digest)
                self.came.add((repository, action.tag, digest))
                self.known_events[(repository, action.tag)] = self.listed_events[(repository, action.tag)]
        elif action.step == plan.PlanStep.READ_MANIFEST:
            self.read[digest] = self.parent.manifests[digest]
        elif action.step in (plan.PlanStep.LINK_MANIFEST, plan.PlanStep.FETCH_MANIFEST):
            self._put(repository, digest)
        elif digest not in self.disk.has:
            self._fetch(current, digest)
            return
        else:
            self.disk.link(repository, digest)
        current.place += 1

    def _put(self, repository: str, digest: str) -> None:
        facts = self.facts(repository, digest) or self.parent.manifests[digest]
        rule = self.rules[repository]
        self.disk.put(
            repository, digest, facts, {b.digest for b in facts.branches if rule.platforms.wants(b.platform)}
        )
        self.down.add(digest)

    def _fetch(self, current: AtWork, digest: str) -> None:
        size = self.sizes[digest]

        def landed() -> None:
            self.disk.parts.pop(digest, None)
            if digest in self.parent.lying:
                self.tally.wasted_bytes += size
                self._fail(current, "wrong", "the digest does not match")
                return
            self.down.add(digest)
            self.disk.has.add(digest)
            self.disk.link(current.image.target.repository, digest)
            current.place += 1

        self.move = Move(False, digest, size, self.disk.parts.get(digest, 0), landed)

    def _fail(self, current: AtWork, kind: Any, reason: str) -> None:
        assert self.run is not None
        del self.at_work[current.image.target.key]
        trouble = self.run.failed(current.image, kind, reason, self.clock.wall, self.chance.random())
        self.tally.parked += trouble.parked
        self.seen_denied.add(current.image.target.key)

    def _end(self) -> None:
        assert self.run is not None
        wall = self.clock.wall
        self.disk.job = self.run.job(wall)
        self.disk.cursor = self.target_cursor
        self.scheduled_done += self.running == SCHEDULED
        self.healed += self.began_at >= self.calm_at
        self.run_windows.clear()
        self._told(f"end of {self.running}: {self.run.progress(wall)}")
        self.disk.state = self.parts.end_run(self.disk.state, wall)
        self.run, self.planner = None, None
        self.look_at = self.clock.true
