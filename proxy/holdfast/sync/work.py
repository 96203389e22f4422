"""The state of one run: which image is next, what failed and when it is tried again, how far it all is. Pure.

One failing image stops nothing: it waits, its turn goes to another, and after `tries` it is left for the next run and
told. What the parent refuses (403) is parked: tried again ever more seldom, and never forgotten while it is wanted. A
parent that is away costs no image a try. Turns are fair by bytes, between parents and between their repositories.

What has to outlive the process is `Job`: counters and troubles, not the images. What is done is in the store, so a run
that goes on plans again and finds less to do.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable

from msgspec import Struct
from msgspec.structs import replace

from holdfast.sync.backoff import Kind, Trouble, trouble
from holdfast.sync.plan import Image
from holdfast.sync.progress import Progress, Rate
from holdfast.sync.turns import Turns

#: what another try within the run does not help
FINAL: frozenset[Kind] = frozenset({"gone", "wrong", "full", "unsupported"})
#: tries of one image within a run
TRIES = 6
#: an image costs at least this in turns (bytes), because its requests cost too
LEAST_COST = 64 * 1024
#: a transfer that brings nothing for so long is told (seconds)
STILL_SECONDS = 600.0
#: shares of the TTL after which silence is told, and told as an alarm
WARN_SHARE, ALARM_SHARE = 0.5, 0.8


class Job(Struct, frozen=True):
    """What is stored of a run. `troubles` by `Target.key`: of this run and, parked, of earlier ones. `began` is wall
    seconds. `serial` counts runs of this node."""

    serial: int
    trigger: str
    began: float
    images_done: int = 0
    bytes_done: int = 0
    troubles: dict[str, Trouble] = {}
    over: bool = False

    @property
    def parked(self) -> dict[str, Trouble]:
        """What waits for somebody to grant it."""
        return {key: found for key, found in self.troubles.items() if found.parked}

    def next_try(self) -> float | None:
        """When the next run is worth its while (wall seconds): what is parked or failed is due again."""
        return min((found.next_at for found in self.troubles.values()), default=None)


def follow(before: Job | None, trigger: str, now: float, wanted: Collection[str] | None = None) -> Job:
    """The job of the next run: a cancelled one goes on, a finished one hands its troubles down. `wanted`: keys of the
    images that are wanted and lack something; the troubles of others are over. What failed in passing gets its tries
    anew."""
    if before is None:
        return Job(1, trigger, now)
    kept = {key: found for key, found in before.troubles.items() if wanted is None or key in wanted}
    if not before.over:
        return replace(before, trigger=trigger, troubles=kept)
    fresh = {k: replace(t, attempts=0, wait=0.0) if t.kind == "transient" else t for k, t in kept.items()}
    return Job(before.serial + 1, trigger, now, troubles=fresh)


def granted(job: Job, now: float) -> Job:
    """The sync token or its scope changed: everything parked is due now."""
    due = {k: replace(t, at=now, wait=0.0) if t.parked else t for k, t in job.troubles.items()}
    return replace(job, troubles=due)


def named(key: str) -> tuple[str, str, str]:
    """(repository, tag, digest) of a `Target.key`; tag or digest is ""."""
    repository, at, digest = key.partition("@")
    if at:
        return repository, "", digest
    repository, _, tag = key.rpartition(":")
    return repository, tag, ""


class Run:
    """One run over a plan's images, at most `slots` at once. `now` is wall seconds throughout."""

    def __init__(self, job: Job, images: Iterable[Image], slots: int = 4, tries: int = TRIES) -> None:
        self._job, self._slots, self._tries = job, slots, tries
        self._troubles = dict(job.troubles)
        self._waiting: dict[str, Image] = {}
        self._at_work: dict[str, Image] = {}
        #: the images that count, by name
        self._wanted: dict[str, Image] = {}
        self._parents: dict[str, Turns[Image]] = {}
        self._charged: dict[str, float] = {}
        self._rate = Rate()
        self._images = self._bytes = self._done = self._received = 0
        self._moved_at = job.began
        for image in images:
            self.add(image)

    def add(self, image: Image) -> None:
        """One more image, of the plan or of a change that arrived meanwhile. Nothing when there is one of its name."""
        key = image.target.key
        if key in self._wanted:
            return
        self._wanted[key] = image
        self._images, self._bytes = self._images + 1, self._bytes + image.size
        if key in self._troubles:
            self._waiting[key] = image
        else:
            self._enqueue(image)

    def withdraw(self, key: str) -> None:
        """What has this name is not wanted any more, nor tried again. Who is at work on it stops, and tells nothing."""
        for rows in (self._wanted, self._waiting, self._at_work, self._troubles):
            rows.pop(key, None)

    def take(self, now: float, away: Collection[str] = (), slots: int | None = None) -> Image | None:
        """The image to begin now, None when there is none or no slot. `away`: parents that are not to be asked."""
        self._wake(now)
        if len(self._at_work) >= (self._slots if slots is None else slots):
            return None
        ready = [name for name, turns in self._parents.items() if turns and name not in away]
        for parent in sorted(ready, key=lambda name: self._charged.get(name, 0.0)):
            while (found := self._parents[parent].take()) is not None:
                if self._wanted.get(found[1].target.key) is not found[1]:
                    continue  # withdrawn
                self._charge(found[1], max(found[1].size, LEAST_COST))
                self._at_work[found[1].target.key] = found[1]
                self._rate.begin(now)
                return found[1]
        return None

    def received(self, size: int, now: float) -> None:
        """Bytes came over the link."""
        self._received += size
        self._moved_at = now
        self._rate.add(size, now)

    def grown(self, image: Image) -> None:
        """An image at work was planned again, because its manifests were read: what it needs is known now."""
        before = self._at_work[image.target.key]
        self._at_work[image.target.key] = image
        self._bytes += image.size
        self._charge(before, image.size)

    def done(self, image: Image, now: float) -> None:
        """Everything of it is here, its tag too."""
        for rows in (self._at_work, self._wanted, self._troubles):
            rows.pop(image.target.key, None)
        self._done += 1
        self._moved_at = now

    def failed(
        self, image: Image, kind: Kind, reason: str, now: float, share: float, after: float = 0.0
    ) -> Trouble:
        """It did not come. `share` from 0 to 1 is chance, `after` what the parent asked to wait (seconds)."""
        key = image.target.key
        del self._at_work[key]
        found = trouble(self._troubles.get(key), kind, reason, now, share, after)
        self._wanted[key] = image
        if kind == "offline":
            self._enqueue(image, first=True)
            return found
        self._troubles[key] = found
        final = kind in FINAL or (kind == "transient" and found.attempts >= self._tries)
        if final:
            del self._wanted[key]
        else:
            self._waiting[key] = image
        return found

    def released(self) -> None:
        """The run is cancelled: what was at work waits again, and cost it no try."""
        for key, image in self._at_work.items():
            self._wanted[key] = image
            self._enqueue(image, first=True)
        self._at_work.clear()

    def is_over(self, now: float) -> bool:
        """Whether nothing is left to do in this run: what is parked, gone or wrong and not due is left to the next."""
        self._wake(now)
        left = any(self._troubles[key].kind == "transient" for key in self._waiting)
        return not (left or self._at_work or any(self._parents.values()))

    def wake(self, now: float) -> float | None:
        """When the next waiting image is due (wall seconds); None when none waits."""
        moments = [found.next_at for key in self._waiting if (found := self._troubles[key])]
        return max(now, min(moments)) if moments else None

    def job(self, now: float) -> Job:
        """What to store now."""
        return replace(
            self._job,
            images_done=self._job.images_done + self._done,
            bytes_done=self._job.bytes_done + self._received,
            troubles=dict(self._troubles),
            over=self.is_over(now),
        )

    def progress(self, now: float) -> Progress:
        """How far it is."""
        rate, left = self._rate.at(now), max(0, self._bytes - self._received)
        parked = sum(found.parked for found in self._troubles.values())
        failed = sum(found.counts for found in self._troubles.values()) - parked
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
        """What did not come and why, by image."""
        return sorted(self._troubles.items())

    def stillness(self, now: float) -> str:
        """A sentence when images are at work and nothing has moved for ten minutes; "" otherwise."""
        still = now - self._moved_at
        if not self._at_work or still < STILL_SECONDS:
            return ""
        names = ", ".join(sorted(self._at_work)[:3])
        return f"no byte came for {still / 60:.0f} min while {names} was being fetched"

    # ---- within

    def _enqueue(self, image: Image, *, first: bool = False) -> None:
        turns = self._parents.setdefault(image.target.parent, Turns())
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
    """Silence that is told. `alarm`: the time until messages expire runs out."""

    alarm: bool
    words: str


def stall(synced_at: float, now: float, ttl: float) -> Stall | None:
    """Whether the last complete synchronisation is so long ago that messages are about to expire at the parent
    (connected-registry D20: the original stalls in silence until they have). None while all is well, or before the
    first synchronisation."""
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
