"""Sends the outbox to one parent: pushes, tags and deletes, side by side, until the parent confirms each.

`holdfast.outbox.queue` decides which entries may be sent and what a failure means; every change of its rows is on disk
before it is acted upon, so that the next keeper goes on where this one was killed. A parent that is offline changes no
row: the whole queue waits, in its order.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping
from contextlib import suppress
from functools import partial
from typing import ClassVar, Literal, Protocol

from holdfast_core.changes import outbox_rows as rows
from holdfast_core.changes.change import IndexChange, IndexView
from holdfast_core.digest import Digest
from holdfast_core.errors import ChunkDamaged, Damaged, NotHeld, StoreError, Unwritable
from holdfast_core.record import Manifest
from holdfast_core.store import Store

from holdfast import errors
from holdfast.background import for_ever
from holdfast.backoff import Kind, pause
from holdfast.bandwidth.progress import Rate
from holdfast.clock import Clock
from holdfast.gateway.protocol import InquiredNames
from holdfast.log import log
from holdfast.oci.image import Facts, facts_of
from holdfast.oci.manifest import ManifestUnreadable, parse_aside
from holdfast.outbox.blob_uploads import BlobUploads, FoundDamaged, NotYetHeld
from holdfast.outbox.conflicts import Conflicts
from holdfast.outbox.entry import OutboxEntry
from holdfast.outbox.parent_inventory import FoundAtParent, HeadInventory, ParentInventory
from holdfast.outbox.queue import ParentTag, Policy, QueueChange, TagVerdict
from holdfast.outbox.stored_queue import Settled, StoredQueue, nothing
from holdfast.outbox.upload_plan import plan_upload
from holdfast.parent.client import Parent
from holdfast.parent.push_client import RemoteTag, contradicts
from holdfast.routing import Repository

#: entries that are sent at once
AT_ONCE = 32
#: requests for tags that are not being sent: half of the connections kept for short requests, with the default
TAG_REQUESTS = 4
#: how often the rows are read while no change wakes the sender (seconds)
IDLE_SECONDS = 0.5
#: a parent that cannot be reached is tried again after at most this (seconds), as often as it is probed
AWAY_CEILING_SECONDS = 10.0
#: failures to reach the parent of one entry that count as the parent's, while others reach it
STUBBORN = 5
#: why an entry stopped: the parent was unreachable, so that the state of its tags is unknown, or a row could not be
#: written here, so that the sender has to rest
Stop = Literal["away", "unwritten"]


class SynchronisedTags(Protocol):
    """Synchronisation, as far as a sender works with it."""

    def follows(self, repository: str, tag: str) -> bool:
        """Whether this node synchronises a tag."""
        ...

    def tag_decided(self, repository: str, tag: str, *, ours: bool) -> None:
        """The change of a tag was confirmed (`ours`), or gave way to the parent's."""
        ...


class OutboxSender:
    """Sends the queue of one parent. `is_complete`: whether all blobs of a manifest are here, so that its mark is not
    needed any more. `synchronised` is None on a node that does not synchronise. `inventory` finds out what the parent
    has, by HEAD requests unless another is given."""

    def __init__(
        self,
        store: Store,
        parent: Parent,
        queue: StoredQueue,
        policy: Policy,
        clock: Clock,
        conflicts: Conflicts,
        is_complete: Callable[[str, Digest], bool],
        damaged: FoundDamaged,
        synchronised: SynchronisedTags | None,
        inventory: ParentInventory | None,
    ) -> None:
        self._store, self._parent, self._policy, self._clock = store, parent, policy, clock
        self._is_complete, self._synchronised = is_complete, synchronised
        self._conflicts, self._damaged = conflicts, damaged
        self._rows = queue
        self._blobs = BlobUploads(store, parent, queue, damaged)
        #: what the parent has
        self.inventory: ParentInventory = inventory or HeadInventory(parent.up)
        self._tasks: set[asyncio.Task[Stop | None]] = set()
        #: set when a row was written, or an entry ended
        self._changed = queue.changed
        #: why entries stopped since the last step
        self._stops: set[Stop] = set()
        self._tag_requests: set[asyncio.Task[None]] = set()
        #: steps in a row that were stopped; by entry, failures to reach the parent
        self._away = 0
        #: whether the parent was reachable all the time since the rows were read
        self._is_reachable = False
        self._lost: dict[int, int] = {}
        self._rate = Rate()

    def __len__(self) -> int:
        return len(self._rows.queue)

    @property
    def under_way(self) -> int:
        """The number of entries that are being sent."""
        return len(self._tasks)

    @property
    def is_capped(self) -> bool:
        """Whether a cap of 0 holds now."""
        return self._parent.is_closed("push")

    @property
    def oldest_at(self) -> float | None:
        """When the oldest entry came (wall seconds); None without entries."""
        entry = self._rows.queue.oldest
        return None if entry is None else entry.at

    def per_second(self) -> float:
        """Entries a second that the parent confirmed lately."""
        return self._rate.at(self._clock.monotonic())

    async def run(self) -> None:
        """Send entries until cancelled."""
        self._rate.begin(self._clock.monotonic())
        try:
            await for_ever(self._step_or_wait, self._clock, self._pause, "outbox")
        finally:
            left = [*self._tasks, *self._tag_requests]
            for task in left:
                task.cancel()
            await asyncio.gather(*left, return_exceptions=True)
            await self.inventory.close()

    async def _step_or_wait(self) -> bool:
        """Take one step, and wait for the next change when there was nothing to do. False when entries were stopped."""
        if not await self.step() and not self._away:
            await self._wait_for_change()
        return not self._away

    async def _wait_for_change(self) -> None:
        """Wait for a row, the end of an entry, or a moment."""
        with suppress(TimeoutError):
            async with asyncio.timeout(IDLE_SECONDS):
                await self._changed.wait()

    def _pause(self) -> float:
        """Seconds until the next step."""
        if not self._away:
            return IDLE_SECONDS
        return min(pause("transient", self._away, self._clock.jitter(1.0)), AWAY_CEILING_SECONDS)

    async def step(self) -> bool:
        """Begin the entries that may be sent now, and wait until one ends, or for a moment. False when none is being
        sent, or one was stopped."""
        self._changed.clear()
        await self._rows.refresh()
        was_reachable, self._is_reachable = self._is_reachable, self._can_be_reached()
        if not (was_reachable and self._is_reachable) or "away" in self._stops:
            self._rows.queue.waited()
        if self._is_reachable:
            for entry in self._rows.queue.take(self._clock.now(), AT_ONCE - len(self._tasks)):
                task = asyncio.create_task(self._under_way(entry))
                self._tasks.add(task)
                task.add_done_callback(self._ended)
            self._request_tags()
        if is_busy := bool(self._tasks):
            await self._wait_for_change()
        elif self._parent.state != "offline":
            self._away = 0
        stops, self._stops = self._stops, set()
        self._away += bool(stops)
        self._is_reachable &= "away" not in stops
        return is_busy and not stops

    def _ended(self, task: asyncio.Task[Stop | None]) -> None:
        self._changed.set()
        self._tasks.discard(task)
        if task.cancelled():
            return
        error = task.exception()
        if error is not None:
            log.error("outbox entry failed", exc_info=error)
        stop = task.result() if error is None else "unwritten"
        if stop is not None:
            self._stops.add(stop)

    def _can_be_reached(self) -> bool:
        return self._parent.state != "offline" and not self.is_capped

    def notes(self) -> list[str]:
        """Sentences for the operator about entries that the parent refuses again and again."""
        count, first = self._rows.queue.stuck()
        if first is None or first.trouble is None:
            return []
        name, reason = self._parent.name or "default", first.trouble.reason
        return [f"{count} push(es) or delete(s) do not get to parent {name}: {reason} (holdfast outbox list)"]

    # ---- one entry

    async def _under_way(self, entry: OutboxEntry) -> Stop | None:
        """Send one entry. None when the next may be sent, however this one ended."""
        log.debug("outbox entry started", number=entry.seq, deed=entry.deed, repository=entry.repository)
        try:
            return await self._send(entry)
        except StoreError as error:
            log.error("outbox not written", number=entry.seq, reason=str(error))
            return "unwritten"
        except Exception:
            log.exception("outbox entry failed", number=entry.seq)
            await self._failed(entry, "transient", "an error of this program; the log has more")
            return None
        finally:
            self._rows.queue.leave(entry.seq)

    async def _send(self, entry: OutboxEntry) -> Stop | None:
        try:
            await self._deeds[entry.deed](self, entry)
        except errors.LinkClosed as failure:
            log.info("outbox waits", number=entry.seq, reason=failure.message)
            return "away"
        except errors.ParentUnreachable as failure:
            lost = self._lost[entry.seq] = self._lost.get(entry.seq, 0) + 1
            log.info("outbox waits", number=entry.seq, reason=failure.message)
            if lost < STUBBORN or self._parent.state == "offline":
                return "away"
            # the parent is reachable, and this entry does not arrive: others may
            await self._failed(entry, "transient", failure.message)
        except errors.ParentFailed as failure:
            await self._failed(entry, kind_of(failure), failure.message, float(failure.retry_after or 0))
        except errors.Refusal as refusal:
            await self._failed(entry, "denied", refusal.message)
        except NotYetHeld as error:
            await self._failed(entry, "transient", str(error))
        except (NotHeld, Damaged, ManifestUnreadable) as error:
            if isinstance(error, ChunkDamaged):
                await self._damaged(Digest.parse(error.digest), error.start, error.end)
            await self._failed(entry, "damaged", f"not whole here: {error}; a push of it heals it")
        except Unwritable:  # of this node, not of the entry
            raise
        except StoreError as error:  # a lock forbids to read it, as a rule
            await self._failed(entry, "denied", str(error))
        self._away = 0
        self._lost.pop(entry.seq, None)
        return None

    async def _failed(self, entry: OutboxEntry, kind: Kind, reason: str, after: float = 0.0) -> None:
        log.warning(
            "outbox entry refused", number=entry.seq, repository=entry.repository, kind=kind, reason=reason
        )
        share, queue = self._clock.jitter(1.0), self._rows.queue
        if queue.get(entry.seq) is not None:
            await self._rows.change(queue.failed(entry.seq, kind, reason, self._clock.now(), share, after))

    async def _confirmed(self, *confirmed: tuple[OutboxEntry, str], blobs: Iterable[str] = ()) -> None:
        """The parent confirmed digests, of one entry or of a manifest and its tag, and that it has these blobs of the
        manifest: write what follows here with the end of the rows."""
        puts: list[OutboxEntry] = []
        removes: list[int] = []
        ended: list[Settled] = []
        for entry, digest in confirmed:
            after = self._consequence(entry, blobs)
            change = self._rows.queue.confirmed(entry.seq, digest, self._clock.now())
            puts += change.puts
            removes += change.removes
            ended += [after] if change.removes else []
            if change.removes:
                fields = {"repository": entry.repository, "digest": digest, "tag": entry.tag}
                log.info("outbox entry confirmed", number=entry.seq, deed=entry.deed, **fields)
        await self._rows.change(QueueChange(tuple(puts), tuple(removes)), _all(ended))
        self._rate.add(len(removes), self._clock.monotonic())
        for entry, _ in confirmed:
            for tag in filter(None, (entry.tag, *entry.tags) if entry.seq in removes else ()):
                self._decided(entry.repository, tag, ours=True)

    def _decided(self, repository: str, tag: str, *, ours: bool) -> None:
        if self._synchronised is not None:
            self._synchronised.tag_decided(repository, tag, ours=ours)

    def _follows(self, repository: str, tag: str) -> bool:
        return self._synchronised is not None and self._synchronised.follows(repository, tag)

    def _consequence(self, entry: OutboxEntry, blobs: Iterable[str]) -> Settled:
        """The changes here that follow from a confirmed entry: the mark of a manifest ends, and what the parent has is
        noted, a tag is the parent's from now on, and tombstones end, unless a later change here is still to be sent."""
        if entry.deed in ("untag", "delete"):
            return self._lifted(entry)
        repository, digest = entry.repository, Digest.parse(entry.digest)
        if entry.deed == "manifest":
            if not self._is_complete(repository, digest):
                return nothing
            has = partial(
                rows.confirmed,
                repository=repository,
                digests=(entry.digest, *blobs),
                parent=self._parent.mark,
            )
            return _all([partial(rows.manifest_sent, repository=repository, digest=digest), has])
        if len(self._rows.queue.pending(repository, entry.tag)) > 1:
            return nothing
        now = self._clock.now()
        return partial(rows.tag_sent, repository=repository, name=entry.tag, digest=digest, checked_at=now)

    # ---- manifests

    async def _manifest(self, entry: OutboxEntry) -> None:
        held = self._held(entry)
        if held is None:
            return await self._superseded(entry)
        tag = self._rows.queue.take_tag(entry.seq, self._clock.now())
        try:
            return await self._image(entry, tag, held)
        finally:
            if tag is not None:
                self._rows.queue.leave(tag.seq)

    async def _image(self, entry: OutboxEntry, tag: OutboxEntry | None, held: Manifest) -> None:
        """Send a manifest with its blobs, and its tag in the same request if there is one."""
        name, facts = self._name(entry), await facts_from(held)
        there = await self.inventory.find(_sought(name, entry.digest, facts, tag))
        is_there = entry.digest in there.digests
        blobs = frozenset(piece.digest for piece in facts.pieces)
        if is_there:
            blobs = await self._there_as_well(name, blobs, there)
        else:
            await self._upload_blobs(entry, name, facts, there)
        condition = await self._settled(tag, there) if tag is not None else None
        if tag and condition and await self._put_both(entry, tag, name, held, condition, blobs):
            return
        if not is_there:
            await self._rows.change(self._rows.queue.sending(entry.seq))
            stored = await self._parent.up.manifest(name, entry.digest, held.media_type, held.body)
            await self._require_there(entry, name, stored)
        await self._confirmed((entry, entry.digest), blobs=blobs)

    async def _there_as_well(self, name: str, blobs: frozenset[str], there: FoundAtParent) -> frozenset[str]:
        """The blobs that the parent has, of a manifest that was found there before it was sent."""
        left = sorted(blobs - there.digests)
        found = await asyncio.gather(*(self._parent.up.has(name, f"blobs/{digest}") for digest in left))
        return blobs - {digest for digest, is_there in zip(left, found, strict=True) if not is_there}

    async def _upload_blobs(self, entry: OutboxEntry, name: str, facts: Facts, there: FoundAtParent) -> None:
        """Upload the blobs of an image."""
        known = ImageAtParent(there.digests, partial(self._blobs.source, entry.repository))
        sent = await self._blobs.upload(entry, name, plan_upload(entry, facts, known))
        if not self.inventory.keeps:
            await asyncio.gather(*(self._require_kept(name, digest) for digest in sent))
        for piece in facts.pieces:
            self._blobs.know(piece.digest, name)

    async def _put_both(
        self,
        entry: OutboxEntry,
        tag: OutboxEntry,
        name: str,
        held: Manifest,
        condition: RemoteTag,
        blobs: Iterable[str],
    ) -> bool:
        """Put a manifest under its tag. False when the tag moved meanwhile: then the manifest is sent alone."""
        await self._rows.change(self._rows.queue.sending(entry.seq, tag.seq))
        try:
            stored = await self._parent.up.manifest(name, tag.tag, held.media_type, held.body, condition)
        except errors.TagMoved as moved:
            log.info("tag waits", number=tag.seq, reason=moved.message)
            return False
        await self._require_there(entry, name, stored)
        named = stored or (await self._parent.up.tag(name, tag.tag)).digest
        await self._confirmed((entry, entry.digest), (tag, named), blobs=blobs)
        return True

    async def _require_kept(self, name: str, digest: str) -> None:
        """Raises ParentBroken when a blob that was sent is not at the parent; some lose it (reliability.md P18)."""
        if not await self._parent.up.has(name, f"blobs/{digest}"):
            raise errors.ParentBroken(f"the parent took blob {digest} and does not have it")

    async def _require_there(self, entry: OutboxEntry, name: str, stored: str) -> None:
        """Raises ParentBroken unless the parent has the manifest: by its answer, or by a HEAD."""
        wrong = contradicts(stored, entry.digest)
        if wrong or (
            stored != entry.digest and not await self._parent.up.has(name, f"manifests/{entry.digest}")
        ):
            raise errors.ParentBroken(
                f"the parent stored {stored[:80] or 'nothing'} where {entry.digest} was sent"
            )

    # ---- tags and deletes

    async def _tag(self, entry: OutboxEntry) -> None:
        """Send a tag whose manifest was sent before."""
        name, digest = self._name(entry), entry.digest
        there = await self.inventory.find(InquiredNames(name, manifests=(digest,), tags=(entry.tag,)))
        condition = await self._settled(entry, there)
        if condition is None:
            return
        held = self._held(entry)
        # a parent with a parent of its own may have dropped it, and can fetch it
        if digest not in there.digests and not await self._parent.up.has(name, f"manifests/{digest}"):
            verdict = self._rows.queue.orphaned(entry.seq, held is not None, self._policy, self._clock.now())
            is_sent = await self._carry_out(entry, verdict, "the parent deleted its manifest")
            if held is None or not is_sent:
                return
            await self._upload_blobs(entry, name, await facts_from(held), FoundAtParent(frozenset(), {}))
        body, media_type = (held.body, held.media_type) if held is not None else await self._fetched(entry)
        await self._rows.change(self._rows.queue.sending(entry.seq))
        stored = await self._parent.up.manifest(name, entry.tag, media_type, body, condition)
        if not stored:
            stored = (await self._parent.up.tag(name, entry.tag)).digest
        await self._confirmed((entry, stored))

    async def _fetched(self, entry: OutboxEntry) -> tuple[bytes, str]:
        """The manifest of a tag from the parent, because it was deleted here since."""
        fetched = await self._parent.get_manifest(self._name(entry), entry.digest)
        return fetched.body, fetched.media_type

    async def _untag(self, entry: OutboxEntry) -> None:
        name = self._name(entry)
        condition = await self._settled(
            entry, await self.inventory.find(InquiredNames(name, tags=(entry.tag,)))
        )
        if condition is None:
            return
        await self._rows.change(self._rows.queue.sending(entry.seq))
        await self._parent.up.delete(name, entry.tag, condition)
        await self._confirmed((entry, ""))

    async def _delete(self, entry: OutboxEntry) -> None:
        await self._rows.change(self._rows.queue.sending(entry.seq))
        await self._parent.up.delete(self._name(entry), entry.digest)
        await self._confirmed((entry, ""))

    def _lifted(self, entry: OutboxEntry) -> Settled:
        """The end of tombstones, unless a later change here is still to be sent."""
        kinds = [("manifest", entry.digest)] if entry.deed == "delete" else [("tag", entry.tag)]
        later = (tag for tag in entry.tags if not self._rows.queue.pending(entry.repository, tag))
        kinds += [("tag", tag) for tag in later]

        def settled(view: IndexView) -> list[IndexChange]:
            return [
                row for kind, name in kinds for row in rows.deletion_sent(view, entry.repository, kind, name)
            ]

        return settled

    # ---- when both sides moved a tag

    async def _settled(self, entry: OutboxEntry, known: FoundAtParent) -> RemoteTag | None:
        """The parent's tag when ours is to be sent; None when it is not: the parent has ours already, or its own
        stays."""
        there = known.tags.get(entry.tag)
        if (
            there is None
        ):  # no answer for it, or a condition may be ignored: a HEAD right before the change decides
            there = await self._parent.up.tag(self._name(entry), entry.tag)
        theirs = ParentTag(there.digest)
        queue, follows = self._rows.queue, self._follows(entry.repository, entry.tag)
        verdict = queue.settle(entry.seq, theirs, self._policy, self._clock.now(), follows=follows)
        if verdict.fate == "send" and verdict.conflict is None and not follows:
            await self._rows.change(queue.answered(entry.seq, there.digest))
        if verdict.fate == "there":
            await self._confirmed((entry, entry.digest))
            return None
        reason = f"the parent has {there.digest or 'no such tag'}"
        return there if await self._carry_out(entry, verdict, reason) else None

    def _request_tags(self) -> None:
        """Request the state of tags that is unknown here and that are not being sent. Synchronisation knows its own."""
        while (room := TAG_REQUESTS - len(self._tag_requests)) and (
            entries := self._rows.queue.unrequested(room)
        ):
            for entry in entries:
                if not self._follows(entry.repository, entry.tag):
                    task = asyncio.create_task(self._request_tag(entry))
                    self._tag_requests.add(task)
                    task.add_done_callback(self._request_ended)

    def _request_ended(self, task: asyncio.Task[None]) -> None:
        self._tag_requests.discard(task)
        self._changed.set()  # there is room for the next

    async def _request_tag(self, entry: OutboxEntry) -> None:
        name, tag = self._name(entry), entry.tag
        try:
            known = (await self.inventory.find(InquiredNames(name, tags=(tag,)))).tags.get(tag)
            there = known if known is not None else await self._parent.up.tag(name, tag, ahead=True)
            await self._rows.change(self._rows.queue.answered(entry.seq, there.digest))
        except errors.ParentFailed as failure:
            log.info("tag not requested", number=entry.seq, reason=failure.message)
            if isinstance(failure, errors.ParentUnreachable):
                self._rows.queue.waited()
            else:  # it was reachable: its answers for other tags are valid
                self._rows.queue.unanswered(entry.seq)
        except StoreError as error:
            log.error("outbox not written", number=entry.seq, reason=str(error))

    async def _carry_out(self, entry: OutboxEntry, verdict: TagVerdict, reason: str) -> bool:
        """Record a conflict, and act on the decision; returns whether the entry is to be sent."""
        if verdict.conflict is not None:
            await self._conflicts.record(entry.seq, verdict.conflict)
        if verdict.fate == "drop":
            await self._rows.change(self._rows.queue.dropped(entry.seq), self._given_way(entry))
            self._decided(entry.repository, entry.tag, ours=False)
        elif verdict.fate == "hold":
            conflict = f"{reason}, `outbox retry` sends ours all the same"
            await self._rows.change(self._rows.queue.held(entry.seq, conflict))
        return verdict.fate == "send"

    def _given_way(self, entry: OutboxEntry) -> Settled:
        """The changes here when the parent wins: its tag is fetched at the next pull, or by synchronisation."""
        if entry.deed == "untag":
            return self._lifted(entry)
        digest = Digest.parse(entry.digest)
        return partial(
            rows.tag_sent, repository=entry.repository, name=entry.tag, digest=digest, checked_at=0.0
        )

    async def _superseded(self, entry: OutboxEntry) -> None:
        """Drop a manifest that was deleted here since; its delete is sent after it."""
        log.info("outbox entry superseded", number=entry.seq, digest=entry.digest)
        await self._rows.change(self._rows.queue.dropped(entry.seq))

    def _held(self, entry: OutboxEntry) -> Manifest | None:
        return self._store.references.manifest(entry.repository, Digest.parse(entry.digest))

    def _name(self, entry: OutboxEntry) -> str:
        return Repository.from_key(entry.repository).name

    _deeds: ClassVar[Mapping[str, Callable[[OutboxSender, OutboxEntry], Awaitable[None]]]] = {
        "manifest": _manifest,
        "tag": _tag,
        "untag": _untag,
        "delete": _delete,
    }


class ImageAtParent:
    """`upload_plan.KnownAtParent`, of one image."""

    def __init__(self, there: frozenset[str], source: Callable[[str], str]) -> None:
        self._there, self._source = there, source

    def has(self, repository: str, digest: str) -> bool:
        """See `upload_plan.KnownAtParent.has`."""
        return digest in self._there

    def elsewhere(self, digest: str) -> str:
        """See `upload_plan.KnownAtParent.elsewhere`."""
        return self._source(digest)

    def received(self, repository: str, digest: str) -> int:
        """0: an open upload is looked up when its blob is sent."""
        return 0


def _sought(name: str, digest: str, facts: Facts, tag: OutboxEntry | None) -> InquiredNames:
    """The names of an image to inquire, each once."""
    blobs = tuple(dict.fromkeys(piece.digest for piece in facts.pieces))
    return InquiredNames(name, blobs, (digest,), (tag.tag,) if tag is not None else ())


def _all(ended: list[Settled]) -> Settled:
    """All changes with the end of rows."""
    if not ended:
        return nothing
    return lambda view: [row for one in ended for row in one(view)]


async def facts_from(held: Manifest) -> Facts:
    """The facts of a manifest. Raises ManifestInvalid."""
    return facts_of(await parse_aside(held.body, held.media_type), len(held.body))


def kind_of(failure: errors.ParentFailed) -> Kind:
    """The kind of trouble that a parent's refusal is for an entry."""
    kinds: tuple[tuple[type[errors.ParentFailed], Kind], ...] = (
        (errors.ParentDenied, "denied"),
        (errors.ParentNotFound, "gone"),
        (errors.ParentBroken, "wrong"),
    )
    return next((kind for one, kind in kinds if isinstance(failure, one)), "transient")
