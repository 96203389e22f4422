"""Faults planted in the parts under test, each a possible mistake. The simulator has to find every
one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from holdfast.outbox import queue, upload_plan
from holdfast.outbox.entry import OutboxEntry
from holdfast.sync import plan, run_state, schedule
from holdfast.sync.source import held_tags
from msgspec.structs import replace
from sync.frame import Parts


def never_cancels() -> Parts:
    """A run goes on past its window."""

    def due(*args: Any) -> schedule.Due:
        result = schedule.due(*args)
        if any(isinstance(action, schedule.CancelRun) for action in result.actions):
            return replace(
                result, actions=(), state=replace(result.state, running=args[1].running), wake=args[2] + 600
            )
        return result

    return Parts(due=due)


def forgets_what_it_lived() -> Parts:
    """A clock that is set back opens the same window again."""

    def due(
        timetable: schedule.Schedule, state: schedule.ScheduleState, now: float, share: float
    ) -> schedule.Due:
        if state.covered and now < max(s.until for s in state.covered) - 60:
            state = replace(state, covered=(schedule.TimeSpan(now - 86400.0, now - 86400.0),))
        return schedule.due(timetable, state, now, share)

    return Parts(due=due)


def skips_after_a_jump() -> Parts:
    """The highest time ever seen is taken for the present: what a wrong clock passed over never comes."""

    def due(
        timetable: schedule.Schedule, state: schedule.ScheduleState, now: float, share: float
    ) -> schedule.Due:
        high = max([s.until for s in state.covered], default=now)
        return schedule.due(timetable, replace(state, covered=(schedule.TimeSpan(0.0, high),)), now, share)

    return Parts(due=due)


def forgets_a_cut_run() -> Parts:
    """A run that a kill stopped is not requested again."""
    return Parts(after_restart=lambda state: replace(state, running="", requested=""))


class TagFirst(plan.Planner):
    """The tag before the manifest."""

    def image(self, rule: Any, target: plan.SyncTarget) -> plan.Image:
        """As planned, the other way round."""
        result = super().image(rule, target)
        return replace(
            result, actions=tuple(sorted(result.actions, key=lambda a: a.step != plan.PlanStep.TAG))
        )


class FetchesAgain(plan.Planner):
    """What another repository has is fetched once more, and a part that is here is not counted."""

    def image(self, rule: Any, target: plan.SyncTarget) -> plan.Image:
        """As planned, without links."""
        result = super().image(rule, target)
        return replace(result, actions=tuple(a for a in result.actions if a.step != plan.PlanStep.LINK_BLOB))


class Forgetful(run_state.RunState):
    """What is refused is dropped, as the original does."""

    def failed(self, image: plan.Image, *args: Any) -> Any:
        """Recorded, and then dropped."""
        result = super().failed(image, *args)
        self._waiting.pop(image.target.key, None)
        self._troubles.pop(image.target.key, None)
        return result

    def job(self, now: float) -> run_state.Job:
        """Nothing to remember."""
        return replace(super().job(now), troubles={})


class Credulous(queue.Outbox):
    """Whatever the parent confirms is taken for ours."""

    def confirmed(self, seq: int, digest: str, now: float) -> queue.QueueChange:
        """Any digest will do."""
        return self._remove(seq)


class Disorderly(queue.Outbox):
    """The newest goes first."""

    def take(self, now: float, limit: int = 1) -> list[OutboxEntry]:
        """From the end."""
        may = (e for e in self if not e.conflict and (e.trouble is None or e.trouble.is_due(now)))
        due = [e for e in may if e.seq not in self._order._under_way]
        for entry in due[::-1][:limit]:
            self._order.begin(entry.seq)
        return due[::-1][:limit]


class Twofold(queue.Outbox):
    """What is under way is begun again."""

    def take(self, now: float, limit: int = 1) -> list[OutboxEntry]:
        """As if nothing were."""
        return self.ready(now, limit)


class Overtaking(queue.Outbox):
    """What depends on an entry goes as soon as that is under way."""

    def take(self, now: float, limit: int = 1) -> list[OutboxEntry]:
        """Nothing waits for what was begun."""
        result = super().take(now, limit)
        begun = self._order._under_way
        for entry in self:
            names = ((entry.repository, name) for name in entry.bound_to())
            before = {seq for name in names for seq in self._order._writers.get(name, ()) if seq < entry.seq}
            if before and before <= begun and entry.seq not in begun and len(result) < limit:
                self._order.begin(entry.seq)
                result.append(entry)
        return result


class Oblivious(queue.Outbox):
    """Moves of tags are not kept."""

    def tagged(self, repository: str, tag: str, digest: str, now: float, **known: Any) -> queue.QueueChange:
        """Lost in a kill."""
        change = super().tagged(repository, tag, digest, now, **known)
        return queue.QueueChange(removes=change.removes)


class Overwriting(queue.Outbox):
    """What is not known here of a parent's tag is taken for a push."""

    def settle(self, seq: int, theirs: queue.ParentTag, *args: Any, **more: Any) -> queue.TagVerdict:
        """An unknown base fits anything (reliability.md, row 8)."""
        result = super().settle(seq, theirs, *args, **more)
        is_unknown = self._order[seq].base is None
        return queue.TagVerdict("send") if is_unknown and result.conflict is not None else result


class Silent(queue.Outbox):
    """A conflict is decided, and recorded nowhere."""

    def settle(self, *args: Any, **more: Any) -> queue.TagVerdict:
        """Without a record."""
        return replace(super().settle(*args, **more), conflict=None)

    def arrived(self, *args: Any, **more: Any) -> queue.TagVerdict:
        """Without a record."""
        return replace(super().arrived(*args, **more), conflict=None)


class LateAsking(queue.Outbox):
    """After an outage the parent's tag is taken for the one before it."""

    def waited(self) -> None:
        """Nothing is forgotten."""


class Yielding(queue.Outbox):
    """The parent wins on paper, and ours goes up."""

    def settle(self, *args: Any, **more: Any) -> queue.TagVerdict:
        """Whatever was decided."""
        result = super().settle(*args, **more)
        return replace(result, fate="send") if result.fate == "drop" else result


class Impatient(held_tags.HeldTags):
    """Every held tag is requested in each run, decided or not."""

    def due(self, now: float, share: float) -> list[str]:
        """Always."""
        return list(self)


def from_the_start(*args: Any) -> list[upload_plan.UploadStep]:
    """Uploads begin anew each time."""
    return [replace(step, offset=0) for step in upload_plan.plan_upload(*args)]


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
    "uploads anew": lambda: Parts(plan_upload=from_the_start),
}
