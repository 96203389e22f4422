"""The keeper's answers: what a miss gets (design §5), and every write to the index.

Manifests, tags and lists are brought in here; blobs by `holdfast.fill`. One question per object runs at
the parent, however many workers ask. Implements `KeeperPort`, so that it serves in process as it is.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec
import structlog
from holdfast_core.condition import DiskState
from holdfast_core.digest import Digest
from holdfast_core.errors import NotHeld, StoreError, Unwritable
from holdfast_core.format import encode_descriptor
from holdfast_core.record import Blob, Descriptor, Tag
from holdfast_core.store import Store

from holdfast import errors
from holdfast.clock import Clock
from holdfast.config import Configuration
from holdfast.fill.repair import is_sound
from holdfast.keeper.conflicts import Conflicts
from holdfast.keeper.control import Control
from holdfast.keeper.disk import DiskWatch
from holdfast.keeper.event_log import EventLog
from holdfast.keeper.flight import Flights
from holdfast.keeper.freshness import is_fresh
from holdfast.keeper.heartbeats import Heartbeats, left_behind
from holdfast.keeper.negative import NegativeCache
from holdfast.keeper.port import BlobAnswer, ListAnswer, ManifestAnswer, Status, SyncOrder, UnstoredChunk
from holdfast.keeper.push import FIRST_SWEEP_SECONDS, Pushes
from holdfast.keeper.records import Records, mending
from holdfast.keeper.switches import Switches
from holdfast.keeper.troubles import troubles_of
from holdfast.keeper.turns import Turns
from holdfast.replica.asking import Asking
from holdfast.repository import Repository

if TYPE_CHECKING:
    from holdfast.fill.fills import Fills
    from holdfast.fill.reader import Reader
    from holdfast.keeper.climb import Climb
    from holdfast.notify.upward import Upward
    from holdfast.notify.webhooks import Webhooks
    from holdfast.parent.client import FetchedManifest, Parent
    from holdfast.parent.health import Switch
    from holdfast.replica.replica import Replica

log = structlog.get_logger()
T = TypeVar("T")

#: A batch of cached blobs is made durable this often (seconds, design §4: "within seconds").
SYNC_INTERVAL_SECONDS = 5.0
#: How long a size learnt by HEAD is believed. A digest's size never changes; the link to it may.
SIZE_TTL_SECONDS = 60.0


#: All records of the index are looked at once in so long, a thousand at a time with so long between (seconds): a
#: million takes two minutes, and 2.6 s of processor in them (measured, beside other load).
SCRUB_SECONDS, SCRUB_PAUSE_SECONDS = 86_400.0, 0.1


class Keeper(Pushes, Control):
    """The one writer. `parents` maps a namespace to its parent; empty on a root."""

    def __init__(
        self,
        store: Store,
        parents: Mapping[str, Parent],
        fills: Fills,
        config: Configuration,
        clock: Clock,
    ) -> None:
        self.store, self.parents, self.fills = store, parents, fills
        self.config, self.clock = config, clock
        #: the parents, as background work asks them
        self.background = {name: Asking(parent, config.sync, clock) for name, parent in parents.items()}
        self.limits = config.control
        self.heartbeats = Heartbeats(clock.now(), left_behind(store))
        #: what else is told in `status`: sentences about the node's own parent, when it is a connected registry
        self.notes: Callable[[], Sequence[str]] = tuple
        #: what synchronises, on a node with `[sync]`
        self.replica: Replica | None = None
        #: who is told of what happens here, on a node with `[[webhook]]`
        self.webhooks: Webhooks | None = None
        #: what tells the parent, on a connected registry
        self.upward: Upward | None = None
        managed = config.parent[0].name if config.parent and config.gateway.connection_string else None
        self.switches = Switches(store, parents, clock, managed)
        self.negative = NegativeCache(config.tags.negative_ttl)
        #: lists of names of which nothing is held, that the parent said are empty
        self.empty = NegativeCache(config.tags.list_ttl)
        self.sizes: dict[tuple[str, str], tuple[int, float]] = {}
        self.turns = Turns()
        self.flights: Flights[ManifestAnswer] = Flights()
        self.lists: Flights[ListAnswer] = Flights()
        self.heads: Flights[int] = Flights()
        #: manifests that passed through because the disk was full
        self.unstored = 0
        self.disk = DiskWatch(store, clock)
        #: set when the store stopped acknowledging (a failed sync, a poisoned index) and the disk can be read; the
        #: process must end, because only a fresh start finds out what is on the disk
        self.store_failed = self.disk.failed
        self._tasks: list[asyncio.Task[None]] = []
        self._chores: set[asyncio.Task[None]] = set()
        self.records = Records(store, lambda name: self._parent(name) is not None, self._tag_from_outbox)
        self._incomplete: set[tuple[str, Digest]] = set()
        #: tags that both sides moved
        self.conflicts = Conflicts(store, clock)
        self.climbs = [self._climb(parent) for parent in parents.values()]

    def _climb(self, parent: Parent) -> Climb:
        from holdfast.keeper.climb import Climb  # with the client of parents, which a root does without

        policy = self.config.sync.conflict
        return Climb(
            self.store,
            parent,
            policy,
            self.clock,
            self.conflicts,
            self._is_complete,
            self._decided,
            self.found_damaged,
            self._follows,
        )

    def _decided(self, repository: str, tag: str, ours: bool) -> None:
        """See `Climb`: what synchronises brings the parent's, if that is another now."""
        if self.replica is not None:
            self.replica.decided(repository, tag, ours=ours)

    def _follows(self, repository: str, tag: str) -> bool:
        """See `Climb`."""
        return self.replica is not None and self.replica.follows(repository, tag)

    def is_going_up(self, repository: str, tag: str) -> bool:
        """Whether a change of a tag is still to go up."""
        return any(climb.is_going_up(repository, tag) for climb in self.climbs)

    async def start(self) -> None:
        """Take up parked fills and the keeper's own rounds. Uses no network before it returns."""
        self._tasks.append(self.disk.start())
        await self.switches.take_up()
        await self.fills.start()
        self._tasks += [asyncio.create_task(self._sync_round()), asyncio.create_task(self._sweep_round())]
        self._tasks.append(asyncio.create_task(self._scrub_round()))
        self._tasks += [asyncio.create_task(self._probe_round(p)) for p in self.parents.values()]
        self._tasks += [asyncio.create_task(self._bring_round())] if self.parents else []
        if self.webhooks is not None:
            await self.webhooks.start()
        if self.upward is not None:
            self.upward.start()
        if self.replica is not None:
            await self.replica.start()
        self._tasks += [asyncio.create_task(climb.run()) for climb in self.climbs]
        self._tasks.append(asyncio.create_task(EventLog(self.store, self.config, self.clock).run()))

    async def close(self) -> None:
        """Stop the rounds, park the fills, make everything durable."""
        if self.replica is not None:
            await self.replica.close()
        if self.webhooks is not None:
            await self.webhooks.close()
        if self.upward is not None:
            await self.upward.close()
        await self.disk.close()
        running = [*self._tasks, *self._chores]
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)
        await asyncio.gather(self.flights.close(), self.lists.close(), self.heads.close())
        await self.fills.close()
        with contextlib.suppress(Unwritable):
            await self.write_heartbeats()
        with contextlib.suppress(Unwritable):
            await self._committed(self.store.sync_cached())
        for parent in self.parents.values():
            await parent.close()

    # -- manifests and tags ------------------------------------------------------------------------

    async def mend(self, record: bytes) -> None:
        """See `KeeperPort.mend`."""
        await self.records.mend(record)

    async def _tag_from_outbox(self, repository: str, tag: str) -> bool:
        """Point a tag where its last move that is still to go up says; False when there is none."""
        for climb in self.climbs:
            digest = await climb.moved_to(repository, tag)
            if digest:
                now = self.clock.now()
                await self._committed(
                    self.store.put_tag(repository, tag, Digest.parse(digest), now=now, origin="local")
                )
                return True
        return False

    @mending
    async def manifest(self, repository: str, reference: str) -> ManifestAnswer:
        """See `KeeperPort.manifest`."""
        if ":" in reference:
            return await self._manifest_by_digest(repository, reference)
        return await self._manifest_by_tag(repository, reference)

    async def _manifest_by_digest(self, repository: str, reference: str) -> ManifestAnswer:
        if self.store.manifest(repository, Digest.parse(reference)):
            return ManifestAnswer(reference)
        return await self._fetch(repository, reference)

    async def _manifest_by_tag(self, repository: str, name: str) -> ManifestAnswer:
        held = self.store.tag(repository, name)
        if held is None or not self.store.manifest(repository, held.digest):
            return await self._fetch(repository, name)
        if is_fresh(held, self.clock.now(), self.config.tags):
            return self._held(held)
        return await self._confirmed(repository, held)

    def _held(self, tag: Tag, stale: str = "") -> ManifestAnswer:
        age = max(0, int(self.clock.now() - tag.checked_at))
        return ManifestAnswer(str(tag.digest), age, stale)

    async def _confirmed(self, repository: str, held: Tag) -> ManifestAnswer:
        """A held tag past its time to live: the parent's word within the budget, else what is held."""
        parent = self._parent(repository)
        if parent is None:
            return self._held(held)
        flight = self.flights.join((repository, held.name), lambda: self._confirm(repository, held))
        done, _ = await asyncio.wait((flight,), timeout=self.config.tags.confirm_budget)
        if not done:
            return self._held(held, "the parent has not answered yet")
        try:
            return flight.result()
        except (errors.ParentFailed, errors.ManifestUnknown) as failure:
            gone = isinstance(failure, errors.ParentNotFound | errors.ManifestUnknown)
            if gone and self.config.tags.on_parent_404 == "refuse":
                raise errors.ManifestUnknown("the parent no longer has this tag") from failure
            return self._held(held, failure.message)

    async def _confirm(self, repository: str, held: Tag) -> ManifestAnswer:
        """One HEAD; one GET when the tag moved. The HEAD only says whether to look: a tag moves by what a
        GET brought and its bytes hash to (reliability.md P15)."""
        parent, name = self._required_parent(repository)
        head = await parent.head_manifest(name, held.name)
        if head.digest != str(held.digest):
            return await self._bring(repository, held.name)
        try:
            await self._committed(
                self.store.put_tag(repository, held.name, held.digest, now=self.clock.now())
            )
        except Unwritable:
            self.store.confirm_tag(repository, held.name, held.digest, self.clock.now())
        return ManifestAnswer(head.digest)

    async def _fetch(self, repository: str, reference: str) -> ManifestAnswer:
        """A manifest that is not held: one GET for all askers, a 404 remembered."""
        key = ("manifest", repository, reference)
        self._refuse_deleted(repository, "manifest" if ":" in reference else "tag", reference)
        self._refuse_known_missing(key, errors.ManifestUnknown, reference)
        try:
            return await self.flights.result(
                (repository, reference), lambda: self._bring(repository, reference)
            )
        except errors.ParentNotFound as failure:
            self.negative.add(key, self.clock.monotonic())
            raise errors.ManifestUnknown(f"no manifest {reference}", detail=failure.message) from failure
        except errors.ParentDenied as failure:
            raise errors.ManifestUnknown(f"no manifest {reference}", detail=failure.message) from failure

    async def _bring(self, repository: str, reference: str) -> ManifestAnswer:
        parent, name = self._required_parent(repository)
        fetched = await parent.get_manifest(name, reference)
        self._refuse_deleted(repository, "manifest", fetched.digest)
        try:
            await self.keep(repository, reference, fetched)
        except Unwritable as error:
            log.warning("manifest unstored", digest=fetched.digest, reason=str(error))
            self.unstored += 1
            return ManifestAnswer(fetched.digest, media_type=fetched.media_type, body=fetched.body)
        return ManifestAnswer(fetched.digest)

    async def keep(self, repository: str, reference: str, fetched: FetchedManifest) -> None:
        """Keep what a parent gave: the manifest, and the tag that it was asked for by, in one commit."""
        digest, now = Digest.parse(fetched.digest), self.clock.now()
        content = fetched.inspected
        await self._committed(
            self.store.put_manifest(
                repository,
                digest,
                fetched.media_type,
                fetched.body,
                owned=False,
                now=now,
                subject=Digest.parse(content.subject) if content.subject else None,
                artifact_type=content.artifact_type,
                annotations=content.annotations,
                tag="" if ":" in reference else reference,
            )
        )

    # -- blobs -------------------------------------------------------------------------------------

    @mending
    async def blob_size(self, repository: str, digest: str) -> int:
        """See `KeeperPort.blob_size`."""
        known = self.sizes.get((repository, digest))
        if known and self.clock.monotonic() < known[1]:
            return known[0]
        if (size := self.fills.size_of(repository, digest)) is not None:
            return size
        return await self._blob_outcome(
            repository,
            digest,
            lambda: self.heads.result((repository, digest), lambda: self._head(repository, digest)),
        )

    async def _head(self, repository: str, digest: str) -> int:
        parent, name = self._required_parent(repository, errors.BlobUnknown)
        size = await parent.head_blob(name, digest)
        if len(self.sizes) > 10_000:
            self.sizes.clear()
        self.sizes[repository, digest] = (size, self.clock.monotonic() + SIZE_TTL_SECONDS)
        return size

    @mending
    async def blob(self, repository: str, digest: str, start: int, end: int, whole: bool) -> BlobAnswer:
        """See `KeeperPort.blob`."""
        held = self.store.blob(repository, Digest.parse(digest))
        if held and not await self._cannot_be_mended(repository, held):
            return BlobAnswer(held.size)
        self._required_parent(repository, errors.BlobUnknown)
        return await self._blob_outcome(
            repository, digest, lambda: self.fills.open(repository, digest, start, end, whole)
        )

    async def _cannot_be_mended(self, repository: str, held: Blob) -> bool:
        """Whether a file is lost that the parent has, and the disk takes no note of it: then it is a miss that passes
        through."""
        if self._parent(repository) is None or self.store.is_in_place(held):
            return False
        try:
            await self.found_damaged(held.digest, 0, held.size)
        except Unwritable:
            return True
        return False

    async def bring_blob(self, repository: str, digest: str) -> None:
        """See `Pushes.bring_blob`."""
        await self.fills.bring(repository, digest)

    async def _blob_outcome(self, repository: str, digest: str, work: Callable[[], Awaitable[T]]) -> T:
        """Run a question about a blob; a 404 is remembered, every refusal names the blob."""
        key = ("blob", repository, digest)
        self._refuse_known_missing(key, errors.BlobUnknown, digest)
        try:
            return await work()
        except (errors.ParentNotFound, errors.BlobUnknown) as failure:
            self.negative.add(key, self.clock.monotonic())
            raise errors.BlobUnknown(f"no blob {digest}", detail=failure.message) from failure
        except errors.ParentDenied as failure:
            raise errors.BlobUnknown(f"no blob {digest}", detail=failure.message) from failure
        except errors.ParentFailed as failure:
            if not isinstance(failure, errors.ParentThrottled):
                failure.code = "BLOB_UNKNOWN"
            raise

    async def follow(self, fill: int, start: int, end: int, whole: bool) -> Reader:
        """See `KeeperPort.follow`."""
        return await self.fills.attach(fill, start, end, whole)

    @mending
    async def repair(self, repository: str, digest: str, start: int, end: int) -> UnstoredChunk | None:
        """See `KeeperPort.repair`."""
        wanted = Digest.parse(digest)
        blob = self.store.blob_anywhere(wanted)
        if blob is None or blob.inline is not None:
            raise errors.BlobUnknown(f"{digest} is not held in a file")
        end = blob.size if end < 0 else end
        has_parent = self._parent(repository) is not None
        if not (has_parent and self.store.is_in_place(blob)):
            loop = asyncio.get_running_loop()
            if await loop.run_in_executor(None, is_sound, self.store, blob, start, end):
                return None
            await self.found_damaged(wanted, start, end)
        if not has_parent:
            raise errors.NodeFailed(f"bytes {start}-{end - 1} of {digest} are damaged")
        return await self.fills.repair(repository, digest, start, end)

    def seen(self, repository: str, digest: str) -> None:
        """See `KeeperPort.seen`."""
        self.store.seen(repository, Digest.parse(digest), self.clock.now())

    # -- lists -------------------------------------------------------------------------------------

    @mending
    async def tags(self, repository: str) -> ListAnswer:
        """See `KeeperPort.tags`."""
        held = self.store.tag_list(repository)
        return await self._listed(
            repository,
            ("tags", repository),
            held.fetched_at if held else None,
            lambda: self._bring_tags(repository),
            self.store.has_repository(repository),
        )

    async def _bring_tags(self, repository: str) -> ListAnswer:
        parent, name = self._required_parent(repository, errors.NameUnknown)
        tags = await parent.tags(name)
        if not tags and not self.store.has_repository(repository):
            return self._empty("tags", repository)
        try:
            await self._committed(self.store.put_tag_list(repository, tags, now=self.clock.now()))
        except Unwritable:
            return ListAnswer(unstored=tuple(tag.encode() for tag in tags))
        return ListAnswer()

    @mending
    async def referrers(self, repository: str, digest: str) -> ListAnswer:
        """See `KeeperPort.referrers`."""
        subject = Digest.parse(digest)
        held = self.store.referrers(repository, subject)
        fetched_at = held.fetched_at if held and held.fetched_at else None
        return await self._listed(
            repository,
            ("referrers", repository, digest),
            fetched_at,
            lambda: self._bring_referrers(repository, subject),
            held is not None,
        )

    async def _bring_referrers(self, repository: str, subject: Digest) -> ListAnswer:
        parent, name = self._required_parent(repository, errors.NameUnknown)
        found = await parent.referrers(name, str(subject))
        descriptors = [row if isinstance(row, Descriptor) else Descriptor(**row) for row in found]
        if not descriptors and not self.store.has_repository(repository):
            return self._empty("referrers", repository, str(subject))
        try:
            await self._committed(
                self.store.put_referrers(repository, subject, descriptors, now=self.clock.now())
            )
        except Unwritable:
            return ListAnswer(unstored=tuple(map(encode_descriptor, descriptors)))
        return ListAnswer()

    def _empty(self, *key: str) -> ListAnswer:
        """The empty list of something of which nothing is held. Remembered and not written: names and digests can be
        made up without end."""
        self.empty.add(key, self.clock.monotonic())
        return ListAnswer(unstored=())

    async def _listed(
        self,
        repository: str,
        key: tuple[str, ...],
        fetched_at: float | None,
        bring: Callable[[], Coroutine[Any, Any, ListAnswer]],
        anything_held: bool,
    ) -> ListAnswer:
        """A list within its time to live, or the parent's, or what is held with the reason."""
        age = 0 if fetched_at is None else max(0, int(self.clock.now() - fetched_at))
        if self._parent(repository) is None:
            return ListAnswer()
        if fetched_at is not None and age <= self.config.tags.list_ttl:
            return ListAnswer(age)
        if fetched_at is None and self.empty.holds(key, self.clock.monotonic()):
            return ListAnswer(unstored=())
        try:
            return await self.lists.result(key, bring)
        except errors.ParentFailed as failure:
            if fetched_at is None and not anything_held:
                self._refuse_list(key, failure)
            return ListAnswer(age, failure.message)

    def _refuse_list(self, key: tuple[str, ...], failure: errors.ParentFailed) -> None:
        """Nothing is held and the parent could not say: refuse, in the words of a repository."""
        if isinstance(failure, errors.ParentNotFound | errors.ParentDenied):
            raise errors.NameUnknown(f"no repository for {key[0]}", detail=failure.message) from failure
        if not isinstance(failure, errors.ParentThrottled):
            failure.code = "NAME_UNKNOWN"
        raise failure

    # -- the rest ----------------------------------------------------------------------------------

    async def status(self) -> Status:
        """See `KeeperPort.status`."""
        troubles = [*(detail.description for detail in troubles_of(self)), *self.notes()]
        counters = {**self.fills.counters, "unstored_manifests": self.unstored}
        counters |= self._backlog()
        for name, parent in self.parents.items():
            counters |= {f"parent.{name or 'default'}.{key}": value for key, value in parent.counters.items()}
        states: dict[str, str] = {name: parent.verdict for name, parent in self.parents.items()}
        return Status(not self.disk.is_failed, tuple(troubles), states, counters)

    def _backlog(self) -> dict[str, int]:
        """What is still to go up: entries, how many are under way, when the oldest came (wall seconds, 0 for none), and
        how many a minute the parents confirm."""
        oldest = [at for climb in self.climbs if (at := climb.oldest_at) is not None]
        return {
            "outbox": sum(map(len, self.climbs)),
            "outbox.under_way": sum(climb.under_way for climb in self.climbs),
            "outbox.oldest_at": int(min(oldest, default=0.0)),
            "outbox.per_minute": round(60 * sum(climb.per_second() for climb in self.climbs)),
        }

    async def list_parents(self) -> bytes:
        """See `KeeperPort.list_parents`."""
        return msgspec.json.encode(self.switches.reports())

    async def turn_parent(self, name: str, switch: Switch) -> None:
        """See `KeeperPort.turn_parent`."""
        await self.switches.turn(name, switch)

    async def synchronise(self, order: SyncOrder) -> bytes:
        """See `KeeperPort.synchronise`."""
        if self.replica is None:
            raise errors.ControlConflict(
                "this node does not synchronise by itself; name what it shall have under [sync] in its configuration"
            )
        return await self.replica.ask(order)

    async def ping_webhook(self, name: str) -> bytes:
        """See `KeeperPort.ping_webhook`."""
        if self.webhooks is None:
            raise errors.ControlUnknown("this node has no webhooks; they are in its configuration")
        return await self.webhooks.ping(name)

    def _parent(self, repository: str) -> Parent | None:
        return self.parents.get(Repository.from_key(repository).namespace)

    def _required_parent(
        self, repository: str, otherwise: type[errors.Refusal] = errors.ManifestUnknown
    ) -> tuple[Parent, str]:
        """The parent of a repository and its name there; `otherwise` when this node has none for it."""
        parent = self._parent(repository)
        if parent is None:
            raise otherwise("not held here, and this node has no parent to ask")
        return parent, Repository.from_key(repository).name

    def _refuse_known_missing(self, key: tuple[str, ...], kind: type[errors.Refusal], what: str) -> None:
        if self.negative.holds(key, self.clock.monotonic()):
            raise kind(f"no {key[0]} {what}", detail="the parent said so moments ago")

    async def _sync_round(self) -> None:
        while True:
            await self.clock.sleep(SYNC_INTERVAL_SECONDS)
            self.store.let_go()
            try:
                await self._committed(self.store.sync_cached())
            except Unwritable:  # said once, by the disk's condition
                if self.store.condition.state is not DiskState.FULL:
                    continue
            except StoreError as error:
                log.error("sync failed", reason=str(error))
            if self.store.journal_is_long:
                self._chore(self._compact())
            if self.store.is_pressed:
                await self._make_room()

    def _chore(self, work: Coroutine[Any, Any, None]) -> None:
        """Do it beside everything else, until it is done or the keeper ends."""
        task = asyncio.create_task(work)
        self._chores.add(task)
        task.add_done_callback(self._chores.discard)

    async def _make_room(self) -> None:
        """What was deleted goes at once while the disk is full."""
        try:
            await self.tidy(self.config.push.expiry, self.config.push.sweep_grace)
        except (StoreError, OSError) as error:
            log.error("sweep failed", reason=str(error))

    async def _compact(self) -> None:
        before = self.store.statistics().journal_bytes
        try:
            done = await asyncio.wrap_future(self.store.compact_journal())
        except (OSError, StoreError) as error:
            log.error("journal not compacted", reason=str(error))
            return
        if done:
            log.info("journal compacted", before=before, bytes=self.store.statistics().journal_bytes)

    async def _scrub_round(self) -> None:
        """Records that nobody reads rot as well: all of them are looked at after a start, and then once a day."""
        wait = FIRST_SWEEP_SECONDS
        while True:
            await self.clock.sleep(wait)
            wait = SCRUB_SECONDS
            try:
                await self.records.scrub(lambda: self.clock.sleep(SCRUB_PAUSE_SECONDS))
            except StoreError as error:
                log.error("records not looked at", reason=str(error))

    async def _probe_round(self, parent: Parent) -> None:
        """One probe an interval while a parent is away, instead of one time-out a pull."""
        while True:
            await self.clock.sleep(parent.until_probe())
            await parent.probe()

    async def _committed(self, future: Future[None]) -> None:
        try:
            await asyncio.wrap_future(future)
        except NotHeld as deleted:  # while it was on its way
            raise errors.ManifestUnknown("this was deleted here", detail=str(deleted)) from deleted
