"""Brings one parent what was pushed, tagged and deleted here: the outbox, until the parent confirms. Entries go side by
side.

What may go now and what a failure means is decided by `holdfast.sync.outbox`; every change of its rows is on disk
before it is acted upon, so that the next keeper goes on where this one was killed. A parent that is away changes no
row: the whole queue waits, in its order.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from functools import partial
from typing import ClassVar, Literal

import structlog
from holdfast_core import outbox as rows
from holdfast_core.change import Change as StoreChange
from holdfast_core.change import View
from holdfast_core.digest import Digest
from holdfast_core.errors import ChunkDamaged, Damaged, NotHeld, StoreError, Unwritable
from holdfast_core.record import Manifest
from holdfast_core.store import Store

from holdfast import errors
from holdfast.clock import Clock
from holdfast.gateway.message import Sought
from holdfast.keeper.above import Above, Heads, There
from holdfast.keeper.conflicts import Conflicts
from holdfast.keeper.freight import FoundDamaged, Freight, unrecorded
from holdfast.keeper.rows import Rows, Settled, nothing
from holdfast.manifest import ManifestInvalid, parse_aside
from holdfast.parent.client import Parent
from holdfast.parent.push import TagThere, contradicts
from holdfast.repository import Repository
from holdfast.steps import for_ever
from holdfast.sync.ascent import ascent
from holdfast.sync.backoff import Kind, pause
from holdfast.sync.entry import Entry
from holdfast.sync.image import Facts, facts_of
from holdfast.sync.outbox import Change, ParentTag, Policy, Verdict
from holdfast.sync.progress import Rate

log = structlog.get_logger()

#: entries under way at once
AT_ONCE = 32
#: questions for tags whose turn is not now: half of the connections that are kept for short asks, as the settings come
QUESTIONS = 4
#: how often the outbox is looked at while nothing comes and nothing ends (seconds)
IDLE_SECONDS = 0.5
#: a parent that cannot be reached is tried again after at most this (seconds); its probe asks as often
AWAY_CEILING_SECONDS = 10.0
#: so often an entry may find the parent away while others say that it is there
STUBBORN = 5
#: why an entry stopped, and what others do about it: nothing is known any more of tags at a parent that was away, and
#: what cannot be written here has to rest
Stop = Literal["away", "unwritten"]


class Climb:
    """The outbox of the repositories of one parent. `complete`: whether all blobs of a manifest are here, so that
    nobody needs its mark any more. `decided` is told of a tag when a change of it went up (True), or gave way.
    `follows`: whether a tag comes down whenever the parent has it."""

    def __init__(
        self,
        store: Store,
        parent: Parent,
        policy: Policy,
        clock: Clock,
        conflicts: Conflicts,
        complete: Callable[[str, Digest], bool] = lambda repository, digest: True,
        decided: Callable[[str, str, bool], None] = lambda repository, tag, ours: None,
        damaged: FoundDamaged = unrecorded,
        follows: Callable[[str, str], bool] = lambda repository, tag: True,
    ) -> None:
        self._store, self._parent, self._policy, self._clock = store, parent, policy, clock
        self._complete, self._decided = complete, decided
        self._conflicts, self._damaged, self._follows = conflicts, damaged, follows
        self._rows = Rows(store, parent.name)
        self._freight = Freight(store, parent, self._rows, damaged)
        #: where to ask what the parent has
        self.above: Above = Heads(parent.up)
        self._tasks: set[asyncio.Task[Stop | None]] = set()
        #: set when something came, or ended; why entries stopped since the last look
        self._news = asyncio.Event()
        self._stops: set[Stop] = set()
        self._questions: set[asyncio.Task[None]] = set()
        #: tries in a row that were stopped, and those of entries that found the parent away
        self._away = 0
        #: whether the parent was there all the time since the last look at the rows
        self._is_reachable = False
        self._lost: dict[int, int] = {}
        self._rate = Rate()

    def __len__(self) -> int:
        return len(self._rows.queue)

    @property
    def under_way(self) -> int:
        """Entries under way."""
        return len(self._tasks)

    @property
    def oldest_at(self) -> float | None:
        """When the entry that waits longest came (wall seconds); None when none does."""
        found = self._rows.queue.oldest
        return None if found is None else found.at

    def per_second(self) -> float:
        """Entries that the parent confirmed, lately."""
        return self._rate.at(self._clock.monotonic())

    @property
    def parent(self) -> str:
        """The parent's name."""
        return self._parent.name

    def is_going_up(self, repository: str, tag: str) -> bool:
        """Whether a change of a tag is still to go up, as far as its row was read."""
        return bool(self._rows.queue.pending(repository, tag))

    async def arrived(self, repository: str, digest: Digest) -> None:
        """All blobs of a manifest are here now: its mark goes, unless it is still to go up."""
        if not self._rows.is_ours(repository):
            return
        await self._rows.refresh()
        is_pending = self._rows.queue.is_pending(repository, str(digest))
        if not is_pending and self._store.is_pending(repository, digest):
            await self._rows.change(Change(), partial(rows.told, repository=repository, digest=digest))

    def came(self) -> None:
        """There are new rows."""
        self._news.set()

    async def run(self) -> None:
        """Send what there is, for ever."""
        self._rate.begin(self._clock.monotonic())
        try:
            await for_ever(self._worked, self._clock, self._pause, "outbox")
        finally:
            left = [*self._tasks, *self._questions]
            for task in left:
                task.cancel()
            await asyncio.gather(*left, return_exceptions=True)
            await self.above.close()

    async def _worked(self) -> bool:
        """One step, and when there was nothing to do a rest that ends with the next row. False when what is under way
        was stopped."""
        if not await self.step() and not self._away:
            await self._heard()
        return not self._away

    async def _heard(self) -> None:
        """Wait until something comes or ends, or for a moment."""
        with suppress(TimeoutError):
            async with asyncio.timeout(IDLE_SECONDS):
                await self._news.wait()

    def _pause(self) -> float:
        """Seconds until the next look."""
        if not self._away:
            return IDLE_SECONDS
        return min(pause("transient", self._away, self._clock.jitter(1.0)), AWAY_CEILING_SECONDS)

    async def step(self) -> bool:
        """Begin what may go now, and wait until something of what is under way ends, or for a moment. False when
        nothing is under way, or something was stopped."""
        self._news.clear()
        await self._rows.refresh()
        was_reachable, self._is_reachable = self._is_reachable, self._can_be_reached()
        if not (was_reachable and self._is_reachable) or "away" in self._stops:
            self._rows.queue.waited()
        if self._is_reachable:
            for entry in self._rows.queue.take(self._clock.now(), AT_ONCE - len(self._tasks)):
                task = asyncio.create_task(self._under_way(entry))
                self._tasks.add(task)
                task.add_done_callback(self._ended)
            self._ask()
        if is_busy := bool(self._tasks):
            await self._heard()
        elif self._parent.state != "offline":
            self._away = 0
        stops, self._stops = self._stops, set()
        self._away += bool(stops)
        self._is_reachable &= "away" not in stops
        return is_busy and not stops

    def _ended(self, task: asyncio.Task[Stop | None]) -> None:
        self._news.set()  # whatever came of it
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
        return self._parent.state != "offline" and not self._parent.is_closed("push")

    async def retry(self, number: int) -> bool:
        """An operator wants an entry tried now; False when there is no such entry."""
        await self._rows.refresh()
        if self._rows.queue.get(number) is None:
            return False
        await self._rows.change(self._rows.queue.retry(number))
        return True

    async def moved_to(self, repository: str, tag: str) -> str:
        """What the last move of a tag that is still to go up points it to; "" for none, and for a delete."""
        if not self._rows.is_ours(repository):
            return ""
        await self._rows.refresh()
        waiting = self._rows.queue.pending(repository, tag)
        return waiting[-1].digest if waiting else ""

    async def mended(self) -> None:
        """Something that was damaged here is whole again: what waited for that is tried now."""
        await self._rows.refresh()
        queue = self._rows.queue
        for entry in queue.troubled("damaged"):
            if queue.get(entry.seq) is not None:
                await self._rows.change(queue.retry(entry.seq))

    def notes(self) -> list[str]:
        """Sentences about what the parent refuses again and again."""
        count, first = self._rows.queue.stuck()
        if first is None or first.trouble is None:
            return []
        who, why = self._parent.name or "default", first.trouble.reason
        return [f"{count} push(es) or delete(s) do not get to parent {who}: {why} (holdfast outbox list)"]

    # ---- one entry

    async def _under_way(self, entry: Entry) -> Stop | None:
        """Bring one entry up. None when the next may go, whatever came of this one."""
        log.debug("going up", number=entry.seq, deed=entry.deed, repository=entry.repository)
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

    async def _send(self, entry: Entry) -> Stop | None:
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
        except Unwritable:  # of this node, not of the entry
            raise
        except StoreError as error:  # a lock forbids to read it, as a rule
            await self._failed(entry, "denied", str(error))
        self._away = 0
        self._lost.pop(entry.seq, None)
        return None

    async def _failed(self, entry: Entry, kind: Kind, reason: str, after: float = 0.0) -> None:
        log.warning("not gone up", number=entry.seq, repository=entry.repository, kind=kind, reason=reason)
        share, queue = self._clock.jitter(1.0), self._rows.queue
        if queue.get(entry.seq) is not None:
            await self._rows.change(queue.failed(entry.seq, kind, reason, self._clock.now(), share, after))

    async def _confirmed(self, *confirmed: tuple[Entry, str]) -> None:
        """The parent said what it has, of one entry or of a manifest and its tag; what it means here is written with
        the end of the rows."""
        puts: list[Entry] = []
        removes: list[int] = []
        ended: list[Settled] = []
        for entry, digest in confirmed:
            after = self._meaning(entry)
            change = self._rows.queue.confirmed(entry.seq, digest, self._clock.now())
            puts += change.puts
            removes += change.removes
            ended += [after] if change.removes else []
            if change.removes:
                where = {"repository": entry.repository, "digest": digest, "tag": entry.tag}
                log.info("gone up", number=entry.seq, deed=entry.deed, **where)
        await self._rows.change(Change(tuple(puts), tuple(removes)), _all(ended))
        self._rate.add(len(removes), self._clock.monotonic())
        for entry, _ in confirmed:
            for tag in filter(None, (entry.tag, *entry.tags) if entry.seq in removes else ()):
                self._decided(entry.repository, tag, True)

    def _meaning(self, entry: Entry) -> Settled:
        """What it means here that the parent has what an entry says: the mark of a manifest goes, a tag is the parent's
        from now on, and tombstones end, unless something later here is still to go up."""
        if entry.deed in ("untag", "delete"):
            return self._lifted(entry)
        repository, digest = entry.repository, Digest.parse(entry.digest)
        if entry.deed == "manifest":
            if not self._complete(repository, digest):
                return nothing
            return partial(rows.told, repository=repository, digest=digest)
        if len(self._rows.queue.pending(repository, entry.tag)) > 1:
            return nothing
        now = self._clock.now()
        return partial(rows.handed_over, repository=repository, name=entry.tag, digest=digest, checked_at=now)

    # ---- manifests

    async def _manifest(self, entry: Entry) -> None:
        held = self._held(entry)
        if held is None:
            return await self._superseded(entry)
        tag = self._rows.queue.take_tag(entry.seq, self._clock.now())
        try:
            return await self._image(entry, tag, held)
        finally:
            if tag is not None:
                self._rows.queue.leave(tag.seq)

    async def _image(self, entry: Entry, tag: Entry | None, held: Manifest) -> None:
        """A manifest with what it names, and the tag that goes along with it in one request."""
        name, facts = self._name(entry), await facts_from(held)
        there = await self.above.look(_sought(name, entry.digest, facts, tag))
        is_there = entry.digest in there.digests
        if not is_there:
            await self._bring(entry, name, facts, there)
        condition = await self._settled(tag, there) if tag is not None else None
        if tag and condition and await self._put_both(entry, tag, name, held, condition):
            return
        if not is_there:
            await self._rows.change(self._rows.queue.sending(entry.seq))
            said = await self._parent.up.manifest(name, entry.digest, held.media_type, held.body)
            await self._require_there(entry, name, said)
        await self._confirmed((entry, entry.digest))

    async def _bring(self, entry: Entry, name: str, facts: Facts, there: There) -> None:
        """The blobs of an image."""
        known = Known(there.digests, partial(self._freight.source, entry.repository))
        sent = await self._freight.bring(entry, name, ascent(entry, facts, known))
        if not self.above.keeps:
            await asyncio.gather(*(self._require_kept(name, digest) for digest in sent))
        for piece in facts.pieces:
            self._freight.know(piece.digest, name)

    async def _put_both(
        self, entry: Entry, tag: Entry, name: str, held: Manifest, condition: TagThere
    ) -> bool:
        """Put a manifest under its tag. False when the tag moved meanwhile: then the manifest goes alone."""
        await self._rows.change(self._rows.queue.sending(entry.seq, tag.seq))
        try:
            said = await self._parent.up.manifest(name, tag.tag, held.media_type, held.body, condition)
        except errors.TagMoved as moved:
            log.info("tag waits", number=tag.seq, reason=moved.message)
            return False
        await self._require_there(entry, name, said)
        named = said or (await self._parent.up.tag(name, tag.tag)).digest
        await self._confirmed((entry, entry.digest), (tag, named))
        return True

    async def _require_kept(self, name: str, digest: str) -> None:
        """Some take a push and lose it: what was sent is asked for before a manifest names it (reliability.md P18)."""
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

    # ---- tags and deletes

    async def _tag(self, entry: Entry) -> None:
        """A tag whose manifest was brought before."""
        name, digest = self._name(entry), entry.digest
        there = await self.above.look(Sought(name, manifests=(digest,), tags=(entry.tag,)))
        condition = await self._settled(entry, there)
        if condition is None:
            return
        held = self._held(entry)
        # one in the middle may have given it back, and has it from its own parent
        if digest not in there.digests and not await self._parent.up.has(name, f"manifests/{digest}"):
            verdict = self._rows.queue.orphaned(entry.seq, held is not None, self._policy, self._clock.now())
            is_sent = await self._obeyed(entry, verdict, "the parent deleted its manifest")
            if held is None or not is_sent:
                return
            await self._bring(entry, name, await facts_from(held), There(frozenset(), {}))
        body, media_type = (held.body, held.media_type) if held is not None else await self._fetched(entry)
        await self._rows.change(self._rows.queue.sending(entry.seq))
        said = await self._parent.up.manifest(name, entry.tag, media_type, body, condition)
        if not said:
            said = (await self._parent.up.tag(name, entry.tag)).digest
        await self._confirmed((entry, said))

    async def _fetched(self, entry: Entry) -> tuple[bytes, str]:
        """The manifest that a tag names, when it was deleted here since."""
        found = await self._parent.get_manifest(self._name(entry), entry.digest)
        return found.body, found.media_type

    async def _untag(self, entry: Entry) -> None:
        name = self._name(entry)
        condition = await self._settled(entry, await self.above.look(Sought(name, tags=(entry.tag,))))
        if condition is None:
            return
        await self._rows.change(self._rows.queue.sending(entry.seq))
        await self._parent.up.delete(name, entry.tag, condition)
        await self._confirmed((entry, ""))

    async def _delete(self, entry: Entry) -> None:
        await self._rows.change(self._rows.queue.sending(entry.seq))
        await self._parent.up.delete(self._name(entry), entry.digest)
        await self._confirmed((entry, ""))

    def _lifted(self, entry: Entry) -> Settled:
        """Tombstones end, unless something later here is still to go up."""
        kinds = [("manifest", entry.digest)] if entry.deed == "delete" else [("tag", entry.tag)]
        later = (tag for tag in entry.tags if not self._rows.queue.pending(entry.repository, tag))
        kinds += [("tag", tag) for tag in later]

        def settled(view: View) -> list[StoreChange]:
            return [row for kind, name in kinds for row in rows.lifted(view, entry.repository, kind, name)]

        return settled

    # ---- when both sides moved a tag

    async def _settled(self, entry: Entry, known: There) -> TagThere | None:
        """What the tag names at the parent when ours is to be sent; None when it is not: ours is there already, or the
        parent's stays."""
        there = known.tags.get(entry.tag)
        if (
            there is None
        ):  # nothing was said of it, or a condition may be ignored: the look right before counts
            there = await self._parent.up.tag(self._name(entry), entry.tag)
        theirs = ParentTag(there.digest)
        queue, follows = self._rows.queue, self._follows(entry.repository, entry.tag)
        verdict = queue.settle(entry.seq, theirs, self._policy, self._clock.now(), follows=follows)
        if verdict.fate == "send" and verdict.conflict is None and not follows:
            await self._rows.change(queue.asked(entry.seq, there.digest))
        if verdict.fate == "there":
            await self._confirmed((entry, entry.digest))
            return None
        words = f"the parent has {there.digest or 'no such tag'}"
        return there if await self._obeyed(entry, verdict, words) else None

    def _ask(self) -> None:
        """Ask for tags of which nothing is known here, and whose turn is not now. What synchronises knows them all."""
        while (room := QUESTIONS - len(self._questions)) and (entries := self._rows.queue.unasked(room)):
            for entry in entries:
                if not self._follows(entry.repository, entry.tag):
                    task = asyncio.create_task(self._asked(entry))
                    self._questions.add(task)
                    task.add_done_callback(self._answered)

    def _answered(self, task: asyncio.Task[None]) -> None:
        self._questions.discard(task)
        self._news.set()  # there is room for the next

    async def _asked(self, entry: Entry) -> None:
        name, tag = self._name(entry), entry.tag
        try:
            known = (await self.above.look(Sought(name, tags=(tag,)))).tags.get(tag)
            there = known if known is not None else await self._parent.up.tag(name, tag, ahead=True)
            await self._rows.change(self._rows.queue.asked(entry.seq, there.digest))
        except errors.ParentFailed as failure:
            log.info("not asked", number=entry.seq, reason=failure.message)
            if isinstance(failure, errors.ParentUnreachable):
                self._rows.queue.waited()
            else:  # it was there: what it says of other tags holds
                self._rows.queue.unanswered(entry.seq)
        except StoreError as error:
            log.error("outbox not written", number=entry.seq, reason=str(error))

    async def _obeyed(self, entry: Entry, verdict: Verdict, words: str) -> bool:
        """Record a conflict, and do as it was decided; whether the entry is to be sent."""
        if verdict.conflict is not None:
            await self._conflicts.record(entry.seq, verdict.conflict)
        if verdict.fate == "drop":
            await self._rows.change(self._rows.queue.dropped(entry.seq), self._given_way(entry))
            self._decided(entry.repository, entry.tag, False)
        elif verdict.fate == "hold":
            said = f"{words}, `outbox retry` sends ours all the same"
            await self._rows.change(self._rows.queue.held(entry.seq, said))
        return verdict.fate == "send"

    def _given_way(self, entry: Entry) -> Settled:
        """The parent's tag is taken over at the next pull of it, or when synchronisation comes by."""
        if entry.deed == "untag":
            return self._lifted(entry)
        digest = Digest.parse(entry.digest)
        return partial(
            rows.handed_over, repository=entry.repository, name=entry.tag, digest=digest, checked_at=0.0
        )

    async def _superseded(self, entry: Entry) -> None:
        """A manifest that is not here any more: it was deleted, and the delete goes up after it."""
        log.info("gone before it went up", number=entry.seq, digest=entry.digest)
        await self._rows.change(self._rows.queue.dropped(entry.seq))

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
    """`ascent.Above`, of one image."""

    def __init__(self, there: frozenset[str], source: Callable[[str], str]) -> None:
        self._there, self._source = there, source

    def has(self, repository: str, digest: str) -> bool:
        """See `ascent.Above.has`."""
        return digest in self._there

    def elsewhere(self, digest: str) -> str:
        """See `ascent.Above.elsewhere`."""
        return self._source(digest)

    def received(self, repository: str, digest: str) -> int:
        """An open upload is asked about when its turn comes."""
        return 0


def _sought(name: str, digest: str, facts: Facts, tag: Entry | None) -> Sought:
    """What to ask about an image, each name once."""
    blobs = tuple(dict.fromkeys(piece.digest for piece in facts.pieces))
    return Sought(name, blobs, (digest,), (tag.tag,) if tag is not None else ())


def _all(ended: list[Settled]) -> Settled:
    """Everything that changes with the end of rows."""
    if not ended:
        return nothing
    return lambda view: [row for one in ended for row in one(view)]


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
