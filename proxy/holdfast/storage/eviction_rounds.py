"""Eviction while the keeper runs: measures the disk, and when the store takes more than its budget allows, or somebody
waits for room, removes images of the cache in the order of the policy until there is room.

How much can go is known before anything goes (`EvictionSurvey.most`), so that nothing is evicted for who is refused all
the same. Each image is decided again in the transaction that removes it.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Mapping, Set
from concurrent.futures import Future
from typing import TYPE_CHECKING, TypeVar

from holdfast_core.changes.collection import DIGESTS
from holdfast_core.digest import Digest
from holdfast_core.errors import NotEvictable, NotHeld, StoreError
from holdfast_core.filesystem.disk_state import DiskState
from holdfast_core.record import CollectionRule, ImageHolding
from holdfast_core.space_format import HOUR_SECONDS
from holdfast_core.store import Store

from holdfast.background import BackgroundTasks, rest
from holdfast.clock import Clock
from holdfast.config import StoreSection
from holdfast.errors import NodeFull
from holdfast.log import log
from holdfast.outbox.confirmed_content import ConfirmedContent
from holdfast.routing import Repository
from holdfast.storage.budget import ShareUse
from holdfast.storage.eviction_policy import Candidate, FetchCost, Turn, UseHistory, ordered, turn_of
from holdfast.storage.eviction_survey import EvictionSurvey
from holdfast.storage.space_admission import SpaceAdmission
from holdfast.timestamps import stamp

if TYPE_CHECKING:  # without a parent a node does without its client: aiohttp is 10 MB
    from holdfast.parent.client import Parent

#: between two measurements (seconds)
ROUND_SECONDS = 10.0
#: how long a process keeps a removed file open that it no longer reads, at most (seconds)
OPEN_SECONDS = 15.0
#: pins that are named to who has no room
NAMES = 3
#: a push that was refused is told to the operator for so long (seconds)
REFUSED_SECONDS = 3600.0
#: repositories that are counted for shares
REPOSITORIES = 1_000_000
#: a parent that is configured no more: nothing of it comes again
NO_COST = FetchCost(1.0, 1e6)

T = TypeVar("T")


class EvictionRounds:
    """The rounds of one keeper. `coming` are the blobs that are being fetched, by the namespace of their parent;
    `is_synchronised` says of a repository that synchronisation keeps it here."""

    def __init__(
        self,
        store: Store,
        admission: SpaceAdmission,
        config: StoreSection,
        parents: Mapping[str, Parent],
        coming: Callable[[], Set[tuple[str, Digest]]],
        is_synchronised: Callable[[str], bool],
        clock: Clock,
        tasks: BackgroundTasks,
    ) -> None:
        self._store, self._admission, self._ledger = store, admission, admission.ledger
        self._config, self._parents, self._coming = config, parents, coming
        self._is_synchronised, self._clock, self._tasks = is_synchronised, clock, tasks
        self._shares = ShareUse(config.shares)
        self._confirmed = ConfirmedContent(store, parents, is_evicted=config.evict_confirmed)
        #: (monotonic seconds, bytes) of what was removed lately
        self._removed: list[tuple[float, int]] = []
        self.history = UseHistory()
        #: images that were evicted, and bytes of the disk that this set free
        self.counters: Counter[str] = Counter()
        #: pushes that were refused for want of room: since when, when last (wall seconds), and of how many bytes
        self._refused: tuple[float, float, int] | None = None
        #: why images stayed in the last round that did not make enough room, by how many bytes they have
        self._stayed: Counter[str] = Counter()

    def start(self) -> None:
        """Begin the rounds."""
        if self._ledger.budget.is_bounded:
            self._tasks.begin(self._rounds())

    def used(self, digest: str) -> None:
        """An image, or a part of one, was used now."""
        self.history.used(digest, self._clock.now())

    async def _rounds(self) -> None:
        is_first = True
        while True:
            try:
                await self._measure()
                if is_first:
                    self._say_excess("budget below what is held")
                await self._spend()
                if is_first:
                    self._say_excess("budget below what cannot be evicted")
                is_first = False
            except (StoreError, OSError) as error:
                log.error("eviction failed", reason=str(error))
            await rest(self._clock, ROUND_SECONDS, self._admission.woken)

    def _say_excess(self, what: str) -> None:
        """Say how a budget that is new compares with what is here, when that is more."""
        held, budget = self._ledger.used(self._admission.blobs()), self._ledger.limit
        if held > budget:
            log.warning(what, held=held, budget=budget, over=held - budget, **self._stayed_fields())

    def _stayed_fields(self) -> dict[str, str]:
        return {"stays": self._why_stayed()} if self._stayed else {}

    async def round(self) -> int:
        """Measure, and make as much room as is wanted; returns the bytes that were set free. Raises StoreError and
        OSError."""
        await self._measure()
        return await self._spend()

    async def _spend(self) -> int:
        waiting, ledger = list(self._admission.requests), self._ledger
        try:
            freed, excess = 0, self._shares.excess(ledger.limit)
            if excess > 0:  # what may not go counts in a share as well, and is not made up for by others
                freed = await self.make_room(excess, over_share=True)
            blobs = self._admission.blobs()
            is_full = self._store.condition.state is DiskState.FULL
            short = [ledger.short(request.size, blobs, pushed=request.is_push) for request in waiting]
            wanted = max(ledger.over(blobs, is_full=is_full), *short, 0)
            if wanted > 0 and (waiting or not self._admission.is_exhausted):
                freed += await self._spend_for(short, wanted, is_full=is_full)
            return freed
        finally:
            for request in waiting:
                if not request.done.done():
                    request.done.set_result(None)

    async def _spend_for(self, short: list[int], wanted: int, *, is_full: bool) -> int:
        """Evict for the requests that can be met, and for the water marks; returns the bytes. Nothing goes for a
        request that all images together have not enough for."""
        await self._prove_parents()
        survey = self._survey()
        most = await survey.most(wanted)
        aim = self._ledger.aim(self._admission.blobs(), most, is_full=is_full)
        met = max(aim, *(size for size in short if size <= most), 0)
        freed = await self._evict_some(survey, met) if met else 0
        if freed < wanted:
            self._admission.exhausted(max(0, most - freed))
            self._stayed = survey.stayed
        return freed

    async def _measure(self) -> None:
        use = await self._aside(self._store.space.disk_use)
        since = self._clock.monotonic() - OPEN_SECONDS
        self._removed = [(at, size) for at, size in self._removed if at > since]
        removed = sum(size for _, size in self._removed)
        self._admission.measured(use, removed)
        if self._config.shares:
            space = self._store.space
            repositories = self._store.references.every_name(limit=REPOSITORIES)
            self._shares.counted((name, space.account_of(name).own_bytes) for name in repositories)

    async def _aside(self, call: Callable[[], T]) -> T:
        """The result of a call on a thread, which ends before the store is closed."""
        running = asyncio.get_running_loop().run_in_executor(None, call)
        try:
            return await asyncio.shield(running)
        except asyncio.CancelledError:
            await asyncio.wait((running,))
            raise

    async def make_room(self, wanted: int, *, over_share: bool = False) -> int:
        """Evict until so many bytes are free, or nothing more can go; with `over_share` only images of repositories
        that have more than their hard share."""
        await self._prove_parents()
        survey = self._survey(only=Turn.OVER_SHARE if over_share else None)
        freed = await self._evict_some(survey, wanted)
        if not over_share:
            self._stayed = survey.stayed if freed < wanted else Counter()
        return freed

    def _survey(self, only: Turn | None = None) -> EvictionSurvey:
        def turn(repository: str) -> Turn | None:
            found = self._turn(repository)
            return found if only in (None, found) else None

        synchronised, coming, parent_of = self._is_synchronised, self._coming(), self._confirmed.parent_of
        return EvictionSurvey(self._store, self._clock, synchronised, coming, turn, parent_of)

    async def _evict_some(self, survey: EvictionSurvey, wanted: int) -> int:
        freed = images = 0
        while freed < wanted and (image := self._first(await survey.images())) is not None:
            gained = await self._evict(image)
            if gained is not None:
                freed, images = freed + gained, images + 1
                self._shares.add(image.repository, -gained)
            survey.done(image)
        self.counters["evicted_images"] += images
        self.counters["evicted_bytes"] += freed
        self._removed.append((self._clock.monotonic(), freed))
        used, budget = self._ledger.used(self._admission.blobs()), self._ledger.limit
        if images:
            log.info("room made", images=images, bytes=freed, wanted=wanted, used=used, budget=budget)
        return freed

    async def _prove_parents(self) -> None:
        """Ask those parents that were not heard lately: of one that does not answer nothing goes before the rest."""
        await asyncio.gather(*(parent.prove() for parent in self._parents.values()))

    def _turn(self, repository: str) -> Turn | None:
        parent, limit = self._parents.get(Repository.from_key(repository).namespace), self._ledger.limit
        return turn_of(
            offline=parent is None or not parent.is_proven,
            evicts_offline=self._config.evict_offline == "last",
            over=self._shares.is_over(repository, limit),
            below=self._shares.is_below(repository, limit),
        )

    def _first(self, images: list[ImageHolding]) -> ImageHolding | None:
        """The one of them that goes first; None when none may."""
        now = self._clock.now()
        candidates = {one: image for image in images if (one := self._candidate(image, now)) is not None}
        first = next(iter(ordered(candidates, now)), None)
        return None if first is None else candidates[first]

    def _candidate(self, image: ImageHolding, now: float) -> Candidate | None:
        turn = self._turn(image.repository)
        if turn is None:
            return None
        parent = self._parents.get(Repository.from_key(image.repository).namespace)
        cost = NO_COST if parent is None else FetchCost(parent.pace.latency, parent.pace.rate)
        root = str(image.digest)
        parts = zip(image.digests, image.freed, image.uses, strict=True)
        fetched = [part for part in parts if part[1] or part[0] == image.digest]
        return Candidate(
            image.repository,
            root,
            image.freed_bytes,
            max(self.history.last(root), min(now, image.hour * HOUR_SECONDS)),
            cost.loss(
                (size, self.history.uses(str(digest), now, written)) for digest, size, written in fetched
            ),
            turn,
        )

    async def _evict(self, image: ImageHolding) -> int | None:
        """Take an image away, with its bytes; how many. None when it stays after all."""
        if not await self._confirmed.is_at_parent(image):
            return None
        now, parent = self._clock.now(), self._confirmed.parent_of(image.repository)
        try:
            gone = await _of(self._store.space.evict(image.repository, image.digest, now=now, parent=parent))
        except (NotEvictable, NotHeld) as error:
            log.debug("image stays", repository=image.repository, digest=str(image.digest), reason=str(error))
            return None
        if gone.left:
            await self._collect(image, now)
        freed = await _of(self._store.upkeep.reclaim(image.digests))
        log.debug("image evicted", repository=image.repository, digest=str(image.digest), bytes=freed)
        return freed

    async def _collect(self, image: ImageHolding, since: float) -> None:
        """Take the blobs of an image that did not go with its first digests: nothing has named them since. What was
        pushed meanwhile is owned and stays. A manifest is an image of its own from now on."""
        rule, now = CollectionRule(None, None, since), self._clock.now()
        loose = [(image.repository, digest) for digest in image.digests[DIGESTS:]]
        while loose:
            gone = await _of(self._store.space.collect(loose, rule, now=now))
            loose = loose[len(loose) - gone.left :]

    async def admit_push(self, size: int) -> None:
        """See `KeeperApi.admit_push`."""
        if await self._admission.admit_push(size):
            return
        since = self._refused[0] if self._refused else self._clock.now()
        self._refused = since, self._clock.now(), size
        used, most = self._ledger.used(self._admission.blobs()), self._ledger.limit_of_pushes
        raise NodeFull(
            f"this node has no room for {size} more bytes: its store takes {used} of {most}",
            code="BLOB_UPLOAD_INVALID",
            detail=f"{self._holders_of_room(size)}; its operator raises store.max_bytes, ends pins or deletes images;"
            " then push again",
            retry_after=60,
        )

    def _holders_of_room(self, size: int) -> str:
        """What keeps so many bytes from coming."""
        if size > self._ledger.limit_of_pushes:
            return "that is more than the store may ever take"
        held = self._why_stayed()
        return f"{self._admission.most} bytes can be evicted" + (f", and not {held}" if held else "")

    def _why_stayed(self) -> str:
        reasons = ", ".join(f"{size} {why}" for why, size in self._stayed.most_common())
        return f"{reasons}{self._pinned_names()}" if "pinned" in self._stayed else reasons

    def _pinned_names(self) -> str:
        """Some of the pins that hold, as " (pins: a:v1, b:v2, 5 more)"."""
        now = self._clock.now()
        marks = {"tag": ":", "manifest": "@"}
        pins = [pin for pin in self._store.space.pins() if pin.until > now]
        names = [f"{pin.repository}{marks.get(pin.kind, ' ')}{pin.name}" for pin in pins]
        more = [f"{len(names) - NAMES} more"] if len(names) > NAMES else []
        return f" (pins: {', '.join(names[:NAMES] + more)})" if names else ""

    def sentences(self) -> list[str]:
        """What is wrong with the room, for the operator; none when there is enough."""
        blobs, ledger = self._admission.blobs(), self._ledger
        is_over = self._admission.is_exhausted and ledger.used(blobs) > ledger.high
        refused = self._refusal()
        if not is_over and not refused:
            return []
        what = self._why_stayed()
        return [
            f"the store takes {ledger.used(blobs)} bytes of a budget of {ledger.limit}"
            f"{f', and nothing more can be evicted: {what}' if what else ''}; {refused}what does not fit passes through"
            " unstored; raise store.max_bytes, lower store.min_free, end pins or delete images"
        ]

    def _refusal(self) -> str:
        """Which pushes are refused for want of room; "" when the last one that was would have room now."""
        if self._refused is None:
            return ""
        since, last, size = self._refused
        short = self._ledger.short(size, self._admission.blobs(), pushed=True)
        if short <= 0 or self._clock.now() - last >= REFUSED_SECONDS:
            self._refused = None
            return ""
        return f"pushes are refused since {stamp(since)}, the last one of {size} bytes; "


async def _of(future: Future[T]) -> T:
    """The result of a change. A caller that is cancelled cancels no commit."""
    return await asyncio.shield(asyncio.wrap_future(future))
