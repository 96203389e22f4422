"""Brings one parent what was pushed, tagged and deleted here: the outbox, entry after entry, until the parent confirms.

What to send next and what a failure means is decided by `holdfast.sync.outbox`; every change of its rows is on disk
before it is acted upon, so that the next keeper goes on where this one was killed. A parent that is away changes no
row: the whole queue waits, in its order.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from concurrent.futures import Future
from functools import partial
from typing import ClassVar

import msgspec
import structlog
from holdfast_core import outbox as rows
from holdfast_core.change import Change as StoreChange
from holdfast_core.change import View
from holdfast_core.digest import Digest
from holdfast_core.errors import (
    ChunkDamaged,
    Damaged,
    Exhausted,
    FileDamaged,
    NotHeld,
    RecordDamaged,
    StoreError,
)
from holdfast_core.record import Manifest, ResourceChange
from holdfast_core.resources import ResourceView
from holdfast_core.store import Store

from holdfast import errors
from holdfast.clock import Clock
from holdfast.control.resource import QUIET
from holdfast.keeper import outgoing
from holdfast.manifest import ManifestInvalid, parse_aside
from holdfast.parent.client import Parent
from holdfast.parent.push import PIECE_BYTES, Session, TagThere, contradicts
from holdfast.repository import Repository
from holdfast.steps import for_ever
from holdfast.sync.ascent import Rise, UpStep, ascent
from holdfast.sync.backoff import Kind, pause
from holdfast.sync.image import Facts, facts_of
from holdfast.sync.outbox import Change, Conflict, Entry, Outbox, ParentTag, Policy, Upload

log = structlog.get_logger()

#: how often the outbox is looked at while nothing is ready (seconds)
IDLE_SECONDS = 0.5
#: a parent that cannot be reached is tried again after at most this (seconds); its probe asks as often
AWAY_CEILING_SECONDS = 10.0
#: so often an entry may find the parent away while others say that it is there
STUBBORN = 5
#: an entry that failed so often is told of in /readyz (reliability.md 5.5)
ALARMING = 3
#: blobs of which it is remembered in which repository the parent has them
KNOWN = 10_000


class Moved(Exception):
    """Both sides moved a tag, and this side gives way or waits."""


FoundDamaged = Callable[[Digest, int, int], Awaitable[None]]


async def _unrecorded(digest: Digest, start: int, end: int) -> None:
    """Nobody wants to know of damage."""


class Climb:
    """The outbox of the repositories of one parent. `complete`: whether all blobs of a manifest are here, so that
    nobody needs its mark any more. `decided` is told of a tag when a change of it went up (True), or gave way."""

    def __init__(
        self,
        store: Store,
        parent: Parent,
        policy: Policy,
        clock: Clock,
        complete: Callable[[str, Digest], bool] = lambda repository, digest: True,
        decided: Callable[[str, str, bool], None] = lambda repository, tag, ours: None,
        damaged: FoundDamaged | None = None,
    ) -> None:
        self._store, self._parent, self._policy, self._clock = store, parent, policy, clock
        self._complete, self._decided = complete, decided
        self._damaged = damaged or _unrecorded
        self._outbox = Outbox()
        self._seen = self._away = 0
        self._loaded = False
        self._known: dict[str, str] = {}
        self._turn = asyncio.Lock()

    def __len__(self) -> int:
        return len(self._outbox)

    def is_going_up(self, repository: str, tag: str) -> bool:
        """Whether a change of a tag is still to go up, as far as its row was read."""
        return bool(self._outbox.pending(repository, tag))

    async def arrived(self, repository: str, digest: Digest) -> None:
        """All blobs of a manifest are here now: its mark goes, unless it is still to go up."""
        if Repository.from_key(repository).namespace != self._parent.name:
            return
        async with self._turn:
            await self._take()
            if not self._outbox.is_pending(repository, str(digest)) and self._store.is_pending(
                repository, digest
            ):
                told = partial(rows.told, repository=repository, digest=digest)
                await self._store_change(Change(), told)

    async def run(self) -> None:
        """Send what there is, for ever."""
        await for_ever(self.step, self._clock, self._pause, "outbox")

    def _pause(self) -> float:
        """Seconds until the next look."""
        if not self._away:
            return IDLE_SECONDS
        return min(pause("transient", self._away, self._clock.jitter(1.0)), AWAY_CEILING_SECONDS)

    async def step(self) -> bool:
        """Send the first entry that is ready; False when there is none, or nobody to send it to."""
        async with self._turn:
            await self._take()
            if self._parent.state == "offline" or self._parent.is_closed("push"):
                return False
            ready = self._outbox.ready(self._clock.now())
            if not ready:
                self._away = 0
                return False
            return await self._send(ready[0])

    async def retry(self, number: int) -> bool:
        """An operator wants an entry tried now; False when there is no such entry."""
        async with self._turn:
            await self._take()
            if self._outbox.get(number) is None:
                return False
            await self._store_change(self._outbox.retry(number))
            return True

    async def mended(self) -> None:
        """Something that was damaged here is whole again: what waited for that is tried now."""
        async with self._turn:
            await self._take()
            waiting = [e.seq for e in self._outbox if e.trouble is not None and e.trouble.kind == "damaged"]
            for number in waiting:
                await self._store_change(self._outbox.retry(number))

    def notes(self) -> list[str]:
        """Sentences about what the parent refuses again and again."""
        stuck = [found for entry in self._outbox if (found := entry.trouble) and found.attempts >= ALARMING]
        if not stuck:
            return []
        who, first = self._parent.name or "default", stuck[0].reason
        return [
            f"{len(stuck)} push(es) or delete(s) do not get to parent {who}: {first} (holdfast outbox list)"
        ]

    # ---- rows

    async def _take(self) -> None:
        """Rows that were written since the last look. Those of an earlier keeper are taken as they are."""
        if self._loaded and self._store.outbox_last() == self._seen:
            return
        last = self._store.outbox_last()
        entries = [entry for entry in self._rows() if self._is_ours(entry)]
        if not self._loaded:
            self._outbox, self._loaded = Outbox(entries), True
        else:
            for entry in entries:
                change = self._outbox.came(entry)
                await self._store_change(Change(tuple(p for p in change.puts if p != entry), change.removes))
        self._seen = max(last, self._seen, *(entry.seq for entry in entries), 0)

    def _rows(self) -> list[Entry]:
        found = []
        for number, body in self._store.outbox(after=self._seen):
            try:
                found.append(outgoing.decode(number, body))
            except RecordDamaged as damage:
                log.error("outbox row unreadable", number=number, reason=str(damage))
        return found

    def _is_ours(self, entry: Entry) -> bool:
        return Repository.from_key(entry.repository).namespace == self._parent.name

    async def _store_change(
        self, change: Change, settled: Callable[[View], Sequence[StoreChange]] = lambda _: ()
    ) -> None:
        puts = [(entry.seq, outgoing.encode(entry)) for entry in change.puts]
        await _done(self._store.change_outbox(puts, change.removes, settled))

    # ---- one entry

    async def _send(self, entry: Entry) -> bool:
        """Bring one entry up. False when the parent is away."""
        log.debug("going up", number=entry.seq, deed=entry.deed, repository=entry.repository)
        try:
            await self._deeds[entry.deed](self, entry)
        except Moved:
            pass
        except errors.LinkClosed as failure:
            log.info("outbox waits", number=entry.seq, reason=failure.message)
            return False
        except errors.ParentUnreachable as failure:
            self._away += 1
            log.info("outbox waits", number=entry.seq, reason=failure.message)
            if self._away < STUBBORN or self._parent.state == "offline":
                return False
            # it is there, and this entry does not get through: others may
            await self._failed(entry, "transient", failure.message)
        except errors.ParentFailed as failure:
            await self._failed(entry, kind_of(failure), failure.message, float(failure.retry_after or 0))
        except errors.Refusal as refusal:
            await self._failed(entry, "denied", refusal.message)
        except (NotHeld, Damaged, ManifestInvalid) as error:
            if isinstance(error, ChunkDamaged):
                await self._damaged(Digest.parse(error.digest), error.start, error.end)
            await self._failed(entry, "damaged", f"not whole here: {error}; a push of it heals it")
        except Exhausted as error:
            await self._failed(entry, "full", str(error))
        except StoreError as error:  # a lock forbids to read it, as a rule
            await self._failed(entry, "denied", str(error))
        self._away = 0
        return True

    async def _failed(self, entry: Entry, kind: Kind, reason: str, after: float = 0.0) -> None:
        log.warning("not gone up", number=entry.seq, repository=entry.repository, kind=kind, reason=reason)
        share = self._clock.jitter(1.0)
        await self._store_change(
            self._outbox.failed(entry.seq, kind, reason, self._clock.now(), share, after)
        )

    async def _confirmed(
        self, entry: Entry, digest: str, settled: Callable[[View], Sequence[StoreChange]]
    ) -> None:
        """The parent said what it has; what it means here is written with the end of the row."""
        change = self._outbox.confirmed(entry.seq, digest, self._clock.now())
        if not change.removes:
            return await self._store_change(change)
        await self._store_change(change, settled)
        for tag in filter(None, (entry.tag, *entry.tags)):
            self._decided(entry.repository, tag, True)
        log.info(
            "gone up",
            number=entry.seq,
            deed=entry.deed,
            repository=entry.repository,
            digest=digest,
            tag=entry.tag,
        )
        return None

    async def _manifest(self, entry: Entry) -> None:
        held = self._held(entry)
        if held is None:
            return await self._superseded(entry)
        name, facts = self._name(entry), await facts_from(held)
        digest = Digest.parse(entry.digest)
        if not await self._parent.up.has(name, f"manifests/{entry.digest}"):
            await self._store_change(self._outbox.sending(entry.seq))
            sent = list[str]()
            for step in ascent(entry, facts, await self._above(entry, facts)):
                if step.rise is Rise.PUT:
                    await self._require_kept(name, sent)
                    said = await self._parent.up.manifest(name, entry.digest, held.media_type, held.body)
                    await self._require_there(entry, name, said)
                elif await self._blob(entry, name, step):
                    sent.append(step.digest)
        for piece in facts.pieces:
            self._know(piece.digest, name)
        complete = self._complete(entry.repository, digest)
        told = partial(rows.told, repository=entry.repository, digest=digest)
        return await self._confirmed(entry, entry.digest, told if complete else (lambda _: ()))

    async def _require_kept(self, name: str, sent: Sequence[str]) -> None:
        """Some take a push and lose it: what was sent is asked for before a manifest names it (reliability.md 5.5)."""
        for digest in sent:
            if not await self._parent.up.has(name, f"blobs/{digest}"):
                raise errors.ParentBroken(f"the parent took blob {digest} and does not have it")

    async def _require_there(self, entry: Entry, name: str, said: str) -> None:
        """The parent's word that it has the manifest: in its answer, or when asked."""
        wrong = contradicts(said, entry.digest)
        if wrong or (
            said != entry.digest and not await self._parent.up.has(name, f"manifests/{entry.digest}")
        ):
            raise errors.ParentBroken(
                f"the parent stored {said[:80] or 'nothing'} where {entry.digest} was sent"
            )

    async def _above(self, entry: Entry, facts: Facts) -> Known:
        """What the parent has of an image: asked, before a byte goes up."""
        name, here = self._name(entry), {}
        for piece in facts.pieces:
            if piece.digest not in here:
                here[piece.digest] = await self._parent.up.has(name, f"blobs/{piece.digest}")
        sources = {digest: self._source(entry, digest) for digest, there in here.items() if not there}
        return Known(here, sources)

    def _source(self, entry: Entry, digest: str) -> str:
        """Another repository from which the parent may mount a blob, by its name there; "" for none. When it cannot,
        its answer begins an upload: a wrong guess costs nothing."""
        own = self._name(entry)
        if (known := self._known.get(digest, own)) != own:
            return known
        for key in self._store.holders(Digest.parse(digest), limit=8):
            other = Repository.from_key(key)
            if other.namespace == self._parent.name and other.name != own:
                return other.name
        return ""

    def _know(self, digest: str, name: str) -> None:
        if len(self._known) >= KNOWN:
            self._known.clear()
        self._known[digest] = name

    async def _blob(self, entry: Entry, name: str, step: UpStep) -> bool:
        """Bring a blob up. False when the parent took it from another of its repositories."""
        blob = self._store.blob(entry.repository, Digest.parse(step.digest))
        if blob is None:
            raise NotHeld(f"blob {step.digest} is neither here nor at the parent")
        try:
            up, reader = self._parent.up, self._store.open_blob(blob)
        except (NotHeld, FileDamaged):
            await self._damaged(blob.digest, 0, blob.size)
            raise
        try:
            found = await self._resumed(entry, name, step.digest)
            if found is None:
                begun = await up.begin(name, step.digest, step.source)
                if begun is None:
                    return False
                found = begun, 0
            session, at = found
            while blob.size - at > (size := max(PIECE_BYTES, session.least)):
                await self._remember(entry, Upload(step.digest, str(session.url)))
                session = await up.piece(name, session, reader, at, at + size)
                at += size
            await self._remember(entry, Upload(step.digest, str(session.url)) if at else None)
            await up.finish(name, session, step.digest, reader if at < blob.size else None, at)
            await self._remember(entry, None)
        finally:
            reader.close()
        return True

    async def _resumed(self, entry: Entry, name: str, digest: str) -> tuple[Session, int] | None:
        """The upload of a blob that stopped, and how far it is; None when there is none to go on with."""
        current = self._outbox.get(entry.seq)
        kept = current.upload if current is not None else None
        if kept is None or kept.digest != digest:
            return None
        try:
            return await self._parent.up.offset(name, self._parent.up.session_at(kept.url))
        except (errors.ParentNotFound, errors.ParentBroken) as failure:
            log.info("upload begun anew", digest=digest, reason=failure.message)
            await self._remember(entry, None)
            return None

    async def _remember(self, entry: Entry, upload: Upload | None) -> None:
        current = self._outbox.get(entry.seq)
        if current is not None and current.upload != upload:
            await self._store_change(self._outbox.began(entry.seq, upload))

    # ---- tags and deletes

    async def _tag(self, entry: Entry) -> None:
        name, digest = self._name(entry), Digest.parse(entry.digest)
        handed = partial(
            rows.handed_over,
            repository=entry.repository,
            name=entry.tag,
            digest=digest,
            checked_at=self._clock.now(),
        )
        after = handed if len(self._outbox.pending(entry.repository, entry.tag)) == 1 else (lambda _: ())
        there = await self._settled(entry)
        if there is None:
            return await self._confirmed(entry, entry.digest, after)
        body, media_type = await self._body(entry)
        await self._store_change(self._outbox.sending(entry.seq))
        said = await self._parent.up.manifest(name, entry.tag, media_type, body, there)
        if not said:
            said = (await self._parent.up.tag(name, entry.tag)).digest
        return await self._confirmed(entry, said, after)

    async def _body(self, entry: Entry) -> tuple[bytes, str]:
        """The manifest that a tag names: here, or when it was deleted here since, the parent's."""
        held = self._held(entry)
        if held is not None:
            return held.body, held.media_type
        found = await self._parent.get_manifest(self._name(entry), entry.digest)
        return found.body, found.media_type

    async def _untag(self, entry: Entry) -> None:
        if await self._settled(entry) is not None:
            await self._store_change(self._outbox.sending(entry.seq))
            await self._parent.up.delete(self._name(entry), entry.tag)
        await self._confirmed(entry, "", self._lifted(entry))

    async def _delete(self, entry: Entry) -> None:
        await self._store_change(self._outbox.sending(entry.seq))
        await self._parent.up.delete(self._name(entry), entry.digest)
        await self._confirmed(entry, "", self._lifted(entry))

    def _lifted(self, entry: Entry) -> Callable[[View], Sequence[StoreChange]]:
        """The parent knows of a delete: tombstones end, unless something later here is still to go up."""
        kinds = [("manifest", entry.digest)] if entry.deed == "delete" else [("tag", entry.tag)]
        later = (tag for tag in entry.tags if not self._outbox.pending(entry.repository, tag))
        kinds += [("tag", tag) for tag in later]

        def settled(view: View) -> Sequence[StoreChange]:
            return [row for kind, name in kinds for row in rows.lifted(view, entry.repository, kind, name)]

        return settled

    async def _settled(self, entry: Entry) -> TagThere | None:
        """What the tag names at the parent when ours is to be sent; None when ours is there already. Raises Moved when
        the parent's stays."""
        there = await self._parent.up.tag(self._name(entry), entry.tag)
        verdict = self._outbox.settle(entry.seq, ParentTag(there.digest), self._policy, self._clock.now())
        if verdict.conflict is not None:
            await self._record(entry, verdict.conflict)
        if verdict.fate == "there":
            return None
        if verdict.fate == "send":
            return there
        if verdict.fate == "drop":
            await self._store_change(self._outbox.dropped(entry.seq), self._given_way(entry))
            self._decided(entry.repository, entry.tag, False)
        else:
            words = f"the parent has {there.digest or 'no such tag'}, `outbox retry` sends ours all the same"
            await self._store_change(self._outbox.held(entry.seq, words))
        raise Moved

    def _given_way(self, entry: Entry) -> Callable[[View], Sequence[StoreChange]]:
        """The parent's tag is taken over at the next pull of it, or when synchronisation comes by."""
        if entry.deed == "untag":
            return self._lifted(entry)
        return partial(
            rows.handed_over,
            repository=entry.repository,
            name=entry.tag,
            digest=Digest.parse(entry.digest),
            checked_at=0.0,
        )

    async def _record(self, entry: Entry, conflict: Conflict) -> None:
        log.warning(
            "tag moved on both sides",
            number=entry.seq,
            repository=entry.repository,
            tag=entry.tag,
            ours=conflict.ours,
            theirs=conflict.theirs,
            base=conflict.base,
            policy=conflict.policy,
            winner=conflict.winner or "undecided",
        )

        def plan(view: ResourceView) -> Sequence[ResourceChange]:
            name = outgoing.name_of(entry.seq)
            old = view.list(
                outgoing.CONFLICT, limit=max(0, view.count(outgoing.CONFLICT) + 1 - outgoing.CONFLICTS)
            )
            gone = [ResourceChange(outgoing.CONFLICT, row.name, None) for row in old if row.name != name]
            return [*gone, ResourceChange(outgoing.CONFLICT, name, msgspec.msgpack.encode(conflict))]

        await _done(self._store.change_resources(plan, quiet=QUIET | {outgoing.CONFLICT}))

    async def _superseded(self, entry: Entry) -> None:
        """A manifest that is not here any more: it was deleted, and the delete goes up after it."""
        log.info("gone before it went up", number=entry.seq, digest=entry.digest)
        await self._store_change(self._outbox.dropped(entry.seq))

    def _held(self, entry: Entry) -> Manifest | None:
        return self._store.manifest(entry.repository, Digest.parse(entry.digest))

    def _name(self, entry: Entry) -> str:
        return Repository.from_key(entry.repository).name

    _deeds: ClassVar[Mapping[str, Callable[[Climb, Entry], Awaitable[None]]]] = {
        "manifest": _manifest,
        "tag": _tag,
        "untag": _untag,
        "delete": _delete,
    }


class Known:
    """`Above`, of one image."""

    def __init__(self, here: dict[str, bool], sources: dict[str, str]) -> None:
        self._here, self._sources = here, sources

    def has(self, repository: str, digest: str) -> bool:
        """See `Above.has`."""
        return self._here[digest]

    def elsewhere(self, digest: str) -> str:
        """See `Above.elsewhere`."""
        return self._sources.get(digest, "")

    def received(self, repository: str, digest: str) -> int:
        """An open upload is asked about when its turn comes."""
        return 0


async def facts_from(held: Manifest) -> Facts:
    """What a manifest needs. Raises ManifestInvalid."""
    return facts_of(await parse_aside(held.body, held.media_type), len(held.body))


def kind_of(failure: errors.ParentFailed) -> Kind:
    """What a parent's refusal means for an entry."""
    kinds: tuple[tuple[type[errors.ParentFailed], Kind], ...] = (
        (errors.ParentDenied, "denied"),
        (errors.ParentNotFound, "gone"),
        (errors.ParentBroken, "wrong"),
    )
    return next((kind for one, kind in kinds if isinstance(failure, one)), "transient")


async def _done(future: Future[None]) -> None:
    """Wait for the store; a commit that was begun is finished whoever waits."""
    await asyncio.shield(asyncio.wrap_future(future))
