"""Faults planted in the parts under test, each a mistake that somebody could make. The simulator has to find every
one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from holdfast.sync import ascent, held, outbox, plan, schedule, work
from holdfast.sync.entry import Entry
from msgspec.structs import replace
from sync.frame import Parts


def never_cancels() -> Parts:
    """A run goes on past its window."""

    def due(*args: Any) -> schedule.Due:
        found = schedule.due(*args)
        if any(isinstance(action, schedule.Cancel) for action in found.actions):
            return replace(
                found, actions=(), state=replace(found.state, running=args[1].running), wake=args[2] + 600
            )
        return found

    return Parts(due=due)


def forgets_what_it_lived() -> Parts:
    """A clock that is set back opens the same window again."""

    def due(timetable: schedule.Schedule, state: schedule.State, now: float, share: float) -> schedule.Due:
        if state.lived and now < max(s.until for s in state.lived) - 60:
            state = replace(state, lived=(schedule.Stretch(now - 86400.0, now - 86400.0),))
        return schedule.due(timetable, state, now, share)

    return Parts(due=due)


def skips_after_a_jump() -> Parts:
    """The highest time ever seen is taken for the present: what a wrong clock passed over never comes."""

    def due(timetable: schedule.Schedule, state: schedule.State, now: float, share: float) -> schedule.Due:
        high = max([s.until for s in state.lived], default=now)
        return schedule.due(timetable, replace(state, lived=(schedule.Stretch(0.0, high),)), now, share)

    return Parts(due=due)


def forgets_a_cut_run() -> Parts:
    """What a kill cut off is not asked for again."""
    return Parts(woken=lambda state: replace(state, running="", asked=""))


class TagFirst(plan.Planner):
    """The tag before the manifest."""

    def image(self, rule: Any, target: plan.Target) -> plan.Image:
        """As planned, the other way round."""
        found = super().image(rule, target)
        return replace(found, actions=tuple(sorted(found.actions, key=lambda a: a.step != plan.Step.TAG)))


class FetchesAgain(plan.Planner):
    """What another repository has is fetched once more, and a part that is here is not counted."""

    def image(self, rule: Any, target: plan.Target) -> plan.Image:
        """As planned, without links."""
        found = super().image(rule, target)
        return replace(found, actions=tuple(a for a in found.actions if a.step != plan.Step.LINK_BLOB))


class Forgetful(work.Run):
    """What is refused is dropped, as the original does."""

    def failed(self, image: plan.Image, *args: Any) -> Any:
        """As told, and then forgotten."""
        found = super().failed(image, *args)
        self._waiting.pop(image.target.key, None)
        self._troubles.pop(image.target.key, None)
        return found

    def job(self, now: float) -> work.Job:
        """Nothing to remember."""
        return replace(super().job(now), troubles={})


class Credulous(outbox.Outbox):
    """Whatever the parent confirms is taken for ours."""

    def confirmed(self, seq: int, digest: str, now: float) -> outbox.Change:
        """Any digest will do."""
        return self._remove(seq)


class Disorderly(outbox.Outbox):
    """The newest goes first."""

    def take(self, now: float, limit: int = 1) -> list[Entry]:
        """From the end."""
        may = (e for e in self if not e.conflict and (e.trouble is None or e.trouble.is_due(now)))
        due = [e for e in may if e.seq not in self._order._under_way]
        for entry in due[::-1][:limit]:
            self._order.begin(entry.seq)
        return due[::-1][:limit]


class Twofold(outbox.Outbox):
    """What is under way is begun again."""

    def take(self, now: float, limit: int = 1) -> list[Entry]:
        """As if nothing were."""
        return self.ready(now, limit)


class Overtaking(outbox.Outbox):
    """What depends on an entry goes as soon as that is under way."""

    def take(self, now: float, limit: int = 1) -> list[Entry]:
        """Nothing waits for what was begun."""
        found = super().take(now, limit)
        begun = self._order._under_way
        for entry in self:
            names = ((entry.repository, name) for name in entry.bound_to())
            before = {seq for name in names for seq in self._order._writers.get(name, ()) if seq < entry.seq}
            if before and before <= begun and entry.seq not in begun and len(found) < limit:
                self._order.begin(entry.seq)
                found.append(entry)
        return found


class Oblivious(outbox.Outbox):
    """Moves of tags are not kept."""

    def tagged(self, repository: str, tag: str, digest: str, now: float, **known: Any) -> outbox.Change:
        """Lost in a kill."""
        change = super().tagged(repository, tag, digest, now, **known)
        return outbox.Change(removes=change.removes)


class Overwriting(outbox.Outbox):
    """What is not known here of a parent's tag is taken for a push."""

    def settle(self, seq: int, theirs: outbox.ParentTag, *args: Any, **more: Any) -> outbox.Verdict:
        """An unknown base fits anything (what issue 10, row 8, found)."""
        found = super().settle(seq, theirs, *args, **more)
        is_unknown = self._order[seq].base is None
        return outbox.Verdict("send") if is_unknown and found.conflict is not None else found


class Silent(outbox.Outbox):
    """A conflict is decided, and recorded nowhere."""

    def settle(self, *args: Any, **more: Any) -> outbox.Verdict:
        """Without a word."""
        return replace(super().settle(*args, **more), conflict=None)

    def arrived(self, *args: Any, **more: Any) -> outbox.Verdict:
        """Without a word."""
        return replace(super().arrived(*args, **more), conflict=None)


class LateAsking(outbox.Outbox):
    """After an outage the parent is asked what it had before it."""

    def waited(self) -> None:
        """Nothing is forgotten."""


class Yielding(outbox.Outbox):
    """The parent wins on paper, and ours goes up."""

    def settle(self, *args: Any, **more: Any) -> outbox.Verdict:
        """Whatever was decided."""
        found = super().settle(*args, **more)
        return replace(found, fate="send") if found.fate == "drop" else found


class Impatient(held.Held):
    """All that is held back is asked for in each run, whether anything became of it or not."""

    def due(self, now: float, share: float) -> list[str]:
        """Always."""
        return list(self)


def from_the_start(*args: Any) -> list[ascent.UpStep]:
    """Uploads begin anew each time."""
    return [replace(step, offset=0) for step in ascent.ascent(*args)]


FAULTS: dict[str, Callable[[], Parts]] = {
    "never cancels": never_cancels,
    "forgets what it lived": forgets_what_it_lived,
    "skips after a jump": skips_after_a_jump,
    "forgets a cut run": forgets_a_cut_run,
    "tag first": lambda: Parts(planner=TagFirst),
    "does not link": lambda: Parts(planner=FetchesAgain),
    "drops a 403": lambda: Parts(run=Forgetful),
    "believes any confirmation": lambda: Parts(outbox=Credulous),
    "newest first": lambda: Parts(outbox=Disorderly),
    "begins twice": lambda: Parts(outbox=Twofold),
    "does not wait for what is under way": lambda: Parts(outbox=Overtaking),
    "loses moves": lambda: Parts(outbox=Oblivious),
    "overwrites what it does not know": lambda: Parts(outbox=Overwriting),
    "records no conflict": lambda: Parts(outbox=Silent),
    "asks after an outage": lambda: Parts(outbox=LateAsking),
    "sends what lost": lambda: Parts(outbox=Yielding),
    "asks in each run": lambda: Parts(held=Impatient),
    "uploads anew": lambda: Parts(ascent=from_the_start),
}
