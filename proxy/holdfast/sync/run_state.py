"""The state of one run: which image is next, which failed and when they are tried again, and the progress. Pure.

One failing image stops nothing: it waits, another one takes its turn, and after `tries` it is reported and left for the
next run. An image that the parent refuses (403) is parked: it is tried again after growing pauses for as long as it is
selected. While a parent is unavailable no image loses a try. Turns are fair by bytes, between parents and between their
repositories.

`Job` outlasts the process: counters and troubles, not the images. What was fetched is in the store, so a run that goes
on plans again and has less to do.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable

from msgspec import Struct
from msgspec.structs import replace

from holdfast.backoff import Kind, Trouble, trouble
from holdfast.bandwidth.progress import Progress, Rate
from holdfast.sync.fair_queue import FairQueue
from holdfast.sync.plan import Image

#: kinds of failures that are not tried again within the run
FINAL: frozenset[Kind] = frozenset({"gone", "wrong", "full", "unsupported"})
#: tries of one image within a run
TRIES = 6
#: an image costs at least this in turns (bytes), because its requests cost too
LEAST_COST = 64 * 1024
#: a run that receives nothing for so long is reported (seconds)
STILL_SECONDS = 600.0
#: shares of the TTL after which a missing synchronisation is reported, and reported as an alarm
WARN_SHARE, ALARM_SHARE = 0.5, 0.8


class Job(Struct, frozen=True):
    """The part of a run that is stored. `troubles` are by `SyncTarget.key`: those of this run and the parked ones of
    earlier runs. `began` is wall seconds. `serial` counts the runs of this node."""

    serial: int
    trigger: str
    began: float
    images_done: int = 0
    bytes_done: int = 0
    troubles: dict[str, Trouble] = {}
    over: bool = False

    @property
    def parked(self) -> dict[str, Trouble]:
        """Returns the troubles that wait for a grant."""
        return {key: entry for key, entry in self.troubles.items() if entry.parked}

    def next_try(self) -> float | None:
        """Returns when the first parked or failed image is due again (wall seconds); None without any."""
        return min((entry.next_at for entry in self.troubles.values()), default=None)


def next_job(before: Job | None, trigger: str, now: float, selected: Collection[str] | None = None) -> Job:
    """Returns the job of the next run: a cancelled job goes on, a finished one hands its troubles down. `selected`:
    keys of the selected images that lack something; the troubles of others are dropped. Transient failures get their
    tries back."""
    if before is None:
        return Job(1, trigger, now)
    kept = {key: entry for key, entry in before.troubles.items() if selected is None or key in selected}
    if not before.over:
        return replace(before, trigger=trigger, troubles=kept)
    fresh = {k: replace(t, attempts=0, wait=0.0) if t.kind == "transient" else t for k, t in kept.items()}
    return Job(before.serial + 1, trigger, now, troubles=fresh)


def retry_parked(job: Job, now: float) -> Job:
    """The job after a change of the sync token or its scope: everything parked is due now."""
    due = {k: replace(t, at=now, wait=0.0) if t.parked else t for k, t in job.troubles.items()}
    return replace(job, troubles=due)


def parse_key(key: str) -> tuple[str, str, str]:
    """Returns (repository, tag, digest) of a `SyncTarget.key`; tag or digest is ""."""
    repository, at, digest = key.partition("@")
    if at:
        return repository, "", digest
    repository, _, tag = key.rpartition(":")
    return repository, tag, ""


class RunState:
    """One run over the images of a plan, at most `slots` at once. `now` is wall seconds throughout."""

    def __init__(self, job: Job, images: Iterable[Image], slots: int = 4, tries: int = TRIES) -> None:
        self._job, self._slots, self._tries = job, slots, tries
        self._troubles = dict(job.troubles)
        self._waiting: dict[str, Image] = {}
        self._at_work: dict[str, Image] = {}
        #: the images that are not done, by key
        self._pending: dict[str, Image] = {}
        self._parents: dict[str, FairQueue[Image]] = {}
        self._charged: dict[str, float] = {}
        self._rate = Rate()
        self._images = self._bytes = self._done = self._received = 0
        self._moved_at = job.began
        for image in images:
            self.add(image)

    def add(self, image: Image) -> None:
        """Adds an image of the plan, or of a change that arrived meanwhile. Does nothing when its key is there
        already."""
        key = image.target.key
        if key in self._pending:
            return
        self._pending[key] = image
        self._images, self._bytes = self._images + 1, self._bytes + image.size
        if key in self._troubles:
            self._waiting[key] = image
        else:
            self._enqueue(image)

    def withdraw(self, key: str) -> None:
        """Removes an image that is selected no longer. The caller stops the work on it, which reports no result."""
        for rows in (self._pending, self._waiting, self._at_work, self._troubles):
            rows.pop(key, None)

    def take(self, now: float, away: Collection[str] = (), slots: int | None = None) -> Image | None:
        """Returns the image to begin now, None without one or without a free slot. `away`: parents that get no
        requests."""
        self._wake(now)
        if len(self._at_work) >= (self._slots if slots is None else slots):
            return None
        ready = [name for name, turns in self._parents.items() if turns and name not in away]
        for parent in sorted(ready, key=lambda name: self._charged.get(name, 0.0)):
            while (turn := self._parents[parent].take()) is not None:
                _, image = turn
                if self._pending.get(image.target.key) is not image:
                    continue  # withdrawn
                self._charge(image, max(image.size, LEAST_COST))
                self._at_work[image.target.key] = image
                self._rate.begin(now)
                return image
        return None

    def received(self, size: int, now: float) -> None:
        """Counts bytes that came over the link."""
        self._received += size
        self._moved_at = now
        self._rate.add(size, now)

    def grown(self, image: Image) -> None:
        """Replaces an image under way by its complete plan, once its manifests were read."""
        before = self._at_work[image.target.key]
        self._at_work[image.target.key] = image
        self._bytes += image.size
        self._charge(before, image.size)

    def done(self, image: Image, now: float) -> None:
        """Records that an image is complete here, with its tag."""
        for rows in (self._at_work, self._pending, self._troubles):
            rows.pop(image.target.key, None)
        self._done += 1
        self._moved_at = now

    def failed(
        self, image: Image, kind: Kind, reason: str, now: float, share: float, after: float = 0.0
    ) -> Trouble:
        """Records a failure and returns its trouble. `share` from 0 to 1 is chance, `after` the parent's Retry-After
        (seconds)."""
        key = image.target.key
        del self._at_work[key]
        entry = trouble(self._troubles.get(key), kind, reason, now, share, after)
        self._pending[key] = image
        if kind == "offline":
            self._enqueue(image, first=True)
            return entry
        self._troubles[key] = entry
        final = kind in FINAL or (kind == "transient" and entry.attempts >= self._tries)
        if final:
            del self._pending[key]
        else:
            self._waiting[key] = image
        return entry

    def released(self) -> None:
        """Records that the run was cancelled: images under way wait again and lose no try."""
        for key, image in self._at_work.items():
            self._pending[key] = image
            self._enqueue(image, first=True)
        self._at_work.clear()

    def is_over(self, now: float) -> bool:
        """Whether nothing is left to do in this run; images that are parked, gone or wrong and not due are left for the
        next one."""
        self._wake(now)
        left = any(self._troubles[key].kind == "transient" for key in self._waiting)
        return not (left or self._at_work or any(self._parents.values()))

    def wake(self, now: float) -> float | None:
        """Returns when the next waiting image is due (wall seconds); None when none waits."""
        times = [entry.next_at for key in self._waiting if (entry := self._troubles[key])]
        return max(now, min(times)) if times else None

    def job(self, now: float) -> Job:
        """Returns the job to store now."""
        return replace(
            self._job,
            images_done=self._job.images_done + self._done,
            bytes_done=self._job.bytes_done + self._received,
            troubles=dict(self._troubles),
            over=self.is_over(now),
        )

    def progress(self, now: float) -> Progress:
        """Returns the progress of the run."""
        rate, left = self._rate.at(now), max(0, self._bytes - self._received)
        parked = sum(entry.parked for entry in self._troubles.values())
        failed = sum(entry.counts for entry in self._troubles.values()) - parked
        return Progress(
            self._done,
            self._images,
            self._received,
            max(self._bytes, self._received),
            rate,
            left / rate if rate > 0 else (0.0 if not left else None),
            retrying=sum(self._troubles[key].kind == "transient" for key in self._waiting),
            failed=failed,
            parked=parked,
        )

    def report(self) -> list[tuple[str, Trouble]]:
        """Returns the troubles by image."""
        return sorted(self._troubles.items())

    def stillness(self, now: float) -> str:
        """Returns a sentence when images are under way and no byte came for ten minutes; "" otherwise."""
        still = now - self._moved_at
        if not self._at_work or still < STILL_SECONDS:
            return ""
        names = ", ".join(sorted(self._at_work)[:3])
        return f"no byte came for {still / 60:.0f} min while {names} was being fetched"

    def _enqueue(self, image: Image, *, first: bool = False) -> None:
        turns = self._parents.setdefault(image.target.parent, FairQueue())
        if not turns:
            least = min((self._charged.get(n, 0.0) for n, t in self._parents.items() if t), default=0.0)
            self._charged[image.target.parent] = max(self._charged.get(image.target.parent, 0.0), least)
        (turns.give_back if first else turns.put)(image.target.repository, image)

    def _charge(self, image: Image, cost: float) -> None:
        parent = image.target.parent
        self._charged[parent] = self._charged.get(parent, 0.0) + cost
        self._parents[parent].charge(image.target.repository, cost)

    def _wake(self, now: float) -> None:
        for key in [key for key in self._waiting if self._troubles[key].is_due(now)]:
            self._enqueue(self._waiting.pop(key))


class Stall(Struct, frozen=True):
    """A synchronisation that is overdue. `alarm`: the messages are about to expire."""

    alarm: bool
    words: str


def stall_of(synced_at: float, now: float, ttl: float) -> Stall | None:
    """Returns a warning when the last complete synchronisation is so long ago that messages will soon expire at the
    parent (references.md 1.14: the original reports nothing until they have expired). None while there is no cause, or
    before the first synchronisation."""
    silent = now - synced_at
    if not synced_at or silent < ttl * WARN_SHARE:
        return None
    since, left = f"nothing was synchronised for {silent / 3600:.0f} h", (ttl - silent) / 3600
    if left <= 0:
        return Stall(
            True, f"{since}: the parent's messages have expired, and the next synchronisation is a full one"
        )
    return Stall(
        silent >= ttl * ALARM_SHARE,
        f"{since}; in {left:.0f} h the parent's messages expire. Look at the link, the sync token and its permissions",
    )
