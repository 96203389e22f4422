"""The queue of pushes, tags and deletes for one parent. Pure: changes of the queue in, changes of rows out.

- An entry is written in the transaction that acknowledged the push, and removed when the parent confirmed its digest.
  Between the two it may be sent any number of times: every request is idempotent.
- Entries go in the order in which they came. One that is stuck (refused, in conflict) holds back what depends on it and
  nothing else: tags wait for their manifest, an index for its children, a referrer for its subject, moves of one tag
  for each other, and a delete for everything before it in its repository.
- What was overtaken before it was ever sent is dropped: of several moves of a tag the last (it keeps the first one's
  `base`), of several pushes of a manifest the first. Manifests are never dropped, because a client may pull by digest.
- When both sides moved a tag the parent's order of events decides, by policy, and it is recorded. Clocks decide
  nothing.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Literal

from msgspec import Struct
from msgspec.structs import replace

from holdfast.backoff import Kind, trouble
from holdfast.outbox.entry import OutboxEntry, Upload
from holdfast.outbox.order import OutboxOrder

Policy = Literal["parent-wins", "child-wins", "reject"]

#: tags and digests whose last change here is remembered
REMEMBERED = 100_000


class QueueChange(Struct, frozen=True):
    """Rows to write and to remove, in one transaction."""

    puts: tuple[OutboxEntry, ...] = ()
    removes: tuple[int, ...] = ()


class Conflict(Struct, frozen=True):
    """A tag that both sides moved. `theirs` "": the parent's was deleted. `winner` "" while it is undecided."""

    repository: str
    tag: str
    ours: str
    theirs: str
    base: str | None
    event: int
    at: float
    policy: Policy
    winner: Literal["parent", "child", ""]


class ParentTag(Struct, frozen=True):
    """The digest that a tag names at the parent now ("" for none) and the number of its last event there that this node
    did not cause (0 where the parent counts none). `since`: the digests that it named since the entry's `base`, where
    the parent names them; ours among them has arrived."""

    digest: str
    event: int = 0
    since: tuple[str, ...] = ()


class TagVerdict(Struct, frozen=True):
    """The decision on a tag entry: send it, drop it because the parent has it ("there") or because the parent wins
    ("drop"), or hold it until an operator decides."""

    fate: Literal["send", "there", "drop", "hold"]
    conflict: Conflict | None = None


#: the decision when both sides moved a tag, and the winner
_WINNERS: dict[Policy, tuple[Literal["send", "drop", "hold"], Literal["parent", "child", ""]]] = {
    "parent-wins": ("drop", "parent"),
    "child-wins": ("send", "child"),
    "reject": ("hold", ""),
}


class Outbox:
    """The queue of one parent, in memory, as it lies in the store. Every method returns the rows that change; they are
    the caller's to store before it acts."""

    def __init__(self, entries: Iterable[OutboxEntry] = ()) -> None:
        self._order = OutboxOrder()
        self._last = self._deeds = 0
        self._touched: OrderedDict[tuple[str, str], int] = OrderedDict()
        #: moves of tags whose state at the parent is unknown, that came while it was reachable; those of them
        #: that were not requested yet, in order
        self._fresh: set[int] = set()
        self._unrequested: dict[int, None] = {}
        for entry in sorted(entries, key=lambda e: e.seq):
            self._add(entry)

    def __len__(self) -> int:
        return len(self._order)

    def __iter__(self) -> Iterator[OutboxEntry]:
        return iter(self._order)

    def reread(self, entries: Iterable[OutboxEntry]) -> None:
        """Start anew with the entries of the store, because a change was not written. Entries being sent stay so."""
        before, self._order = self._order, OutboxOrder()
        for entry in sorted(entries, key=lambda e: e.seq):
            self._order.add(entry)
        for seq in before.under_way:
            if self._order.get(seq) is not None:
                self._order.begin(seq)
        for seq in [seq for seq in self._fresh if self._order.get(seq) is None]:
            self.unanswered(seq)

    def get(self, seq: int) -> OutboxEntry | None:
        """One entry."""
        return self._order.get(seq)

    def is_pending(self, repository: str, digest: str) -> bool:
        """Whether the push of a manifest was not confirmed yet."""
        return any(entry.deed == "manifest" for entry in self._order.writers(repository, digest))

    # ---- in

    def pushed(self, repository: str, digest: str, needs: Iterable[str], now: float) -> QueueChange:
        """A manifest was put here."""
        if self._is_pushed(repository, digest):
            return QueueChange()
        return self._put(OutboxEntry(self._last + 1, repository, "manifest", digest, now, needs=tuple(needs)))

    def tagged(
        self, repository: str, tag: str, digest: str, now: float, *, base: str | None = None, event: int = 0
    ) -> QueueChange:
        """A tag was moved here. `base` and `event` are its known state at the parent."""
        return self._tag(
            OutboxEntry(self._last + 1, repository, "tag", digest, now, tag, base=base, event=event)
        )

    def untagged(
        self, repository: str, tag: str, now: float, *, base: str | None = None, event: int = 0
    ) -> QueueChange:
        """A tag was deleted here."""
        return self._tag(
            OutboxEntry(self._last + 1, repository, "untag", "", now, tag, base=base, event=event)
        )

    def deleted(self, repository: str, digest: str, now: float, tags: Iterable[str] = ()) -> QueueChange:
        """A manifest was deleted here, and `tags` that named it with it. A push of it that was never sent, and that
        no waiting entry names, need not go; the delete goes in any case, since the parent may have had it from
        elsewhere."""
        return self._delete(OutboxEntry(self._last + 1, repository, "delete", digest, now, tags=tuple(tags)))

    def came(self, entry: OutboxEntry) -> QueueChange:
        """Add a row that was written with its change, and has its number from there; rows come in their order. Returns
        the change that it causes in the rows."""
        if entry.seq <= self._last:
            return QueueChange()
        if entry.deed == "delete":
            return self._delete(entry)
        if entry.deed != "manifest":
            return self._tag(entry)
        if self._is_pushed(entry.repository, entry.digest):
            self._last = max(self._last, entry.seq)
            return QueueChange(removes=(entry.seq,))
        return self._put(entry)

    @property
    def last(self) -> int:
        """The highest number that was added."""
        return self._last

    # ---- tags whose state at the parent is unknown

    def waited(self) -> None:
        """The parent was unreachable: it is unknown whether its present tags are those from before the moves here."""
        self._fresh.clear()
        self._unrequested.clear()

    def unrequested(self, limit: int | None = None) -> list[OutboxEntry]:
        """The first moves of tags whose state at the parent is unknown, and that are not being sent: it is to be
        requested at once. Each is returned once."""
        entries = map(self._order.__getitem__, self._unrequested)
        first = list(islice((one for one in entries if not self._order.may_have_arrived(one)), limit))
        for entry in first:
            del self._unrequested[entry.seq]
        return first

    def answered(self, seq: int, digest: str) -> QueueChange:
        """The parent answered what such a tag names, "" for nothing: it becomes the `base`."""
        entry = self._order.get(seq)
        is_fresh = seq in self._fresh
        self.unanswered(seq)
        if entry is None or not is_fresh or not digest:
            return QueueChange()  # an unknown base stands for nothing
        return self._replace(replace(entry, base=digest))

    def unanswered(self, seq: int) -> None:
        """The parent did not answer for such a tag."""
        self._fresh.discard(seq)
        self._unrequested.pop(seq, None)

    # ---- sending

    def ready(self, now: float, limit: int = 1) -> list[OutboxEntry]:
        """The first entries that may be sent now, in order; none that is being sent, or depends on one that is."""
        return self._order.ready(now, limit)

    def take(self, now: float, limit: int = 1) -> list[OutboxEntry]:
        """The first entries that may be sent now, in order. They count as being sent until `leave`."""
        entries = self._order.ready(now, limit)
        for entry in entries:
            self._order.begin(entry.seq)
        return entries

    def take_tag(self, seq: int, now: float) -> OutboxEntry | None:
        """The tag that may be sent in one request with a manifest that is being sent; it counts as being sent."""
        entry = self._order.get(seq)
        tag = None if entry is None else self._order.tag_of(entry, now)
        if tag is not None:
            self._order.begin(tag.seq)
        return tag

    def leave(self, seq: int) -> None:
        """An entry is not being sent any more, however it ended."""
        self._order.leave(seq)

    def troubled(self, kind: Kind) -> list[OutboxEntry]:
        """The entries whose last failure was of this kind."""
        return self._order.troubled(kind)

    def stuck(self) -> tuple[int, OutboxEntry | None]:
        """The number of entries that failed again and again, and one of them."""
        return self._order.stuck()

    def wake(self, now: float) -> float | None:
        """When the next entry that rests is due (wall seconds), None when there is none."""
        return self._order.wake(now)

    def sending(self, *seqs: int) -> QueueChange:
        """Entries are about to be sent: from now on the parent may have them."""
        unsent = [entry for seq in seqs if (entry := self._order.get(seq)) is not None and not entry.sent]
        return self._replace(*(replace(entry, sent=True) for entry in unsent))

    def began(self, seq: int, upload: Upload) -> QueueChange:
        """An upload of one of its blobs can be resumed from now on."""
        entry = self._order[seq]
        if upload in entry.uploads:
            return QueueChange()
        return self._replace(replace(entry, uploads=(*_without(entry, upload.digest), upload)))

    def ended(self, seq: int, digest: str) -> QueueChange:
        """An upload has ended, and is not resumed."""
        entry = self._order[seq]
        kept = _without(entry, digest)
        return self._replace(replace(entry, uploads=kept)) if kept != entry.uploads else QueueChange()

    def confirmed(self, seq: int, digest: str, now: float) -> QueueChange:
        """The parent has an entry. `digest` is the one that the parent stored, or that the tag names; "" of a delete
        (202, or 404). Another digest than ours confirms nothing: the entry stays, with that failure."""
        entry = self._order[seq]
        if digest == entry.digest or entry.deed == "delete":
            return self._remove(seq)
        reason = f"the parent confirmed {digest[:80] or 'nothing'} where {entry.digest or 'nothing'} was sent"
        return self.failed(seq, "wrong", reason, now, 0.0)

    def failed(
        self, seq: int, kind: Kind, reason: str, now: float, share: float, after: float = 0.0
    ) -> QueueChange:
        """An entry did not arrive. It is never given up: see `backoff` for how long it rests."""
        if kind == "offline":
            return QueueChange()
        entry = self._order[seq]
        return self._replace(replace(entry, trouble=trouble(entry.trouble, kind, reason, now, share, after)))

    def retry(self, seq: int) -> QueueChange:
        """An operator has an entry tried now; one in conflict is sent as if the child had won."""
        entry = self._order[seq]
        forced = entry.forced or bool(entry.conflict)
        return self._replace(replace(entry, trouble=None, conflict="", forced=forced))

    def dropped(self, seq: int) -> QueueChange:
        """The policy, or an operator, drops an entry."""
        return self._remove(seq)

    def held(self, seq: int, reason: str) -> QueueChange:
        """Hold an entry whose conflict an operator has to decide."""
        return self._replace(replace(self._order[seq], conflict=reason))

    # ---- when both sides moved a tag

    def settle(
        self, seq: int, theirs: ParentTag, policy: Policy, now: float, *, follows: bool = True
    ) -> TagVerdict:
        """The decision on a tag or untag before it is sent, by the parent's present tag. `follows`: whether this node
        synchronises the tag, so that an unknown base is none. Where it does not, and the parent was reachable since,
        its present tag is the base (`answered`)."""
        entry = self._order[seq]
        base = entry.base
        if base is None and not follows and seq in self._fresh:
            base = theirs.digest
        if theirs.digest == entry.digest or (entry.sent and entry.digest in theirs.since):
            return TagVerdict("there")
        moved = theirs.event > entry.event if theirs.event and entry.event else theirs.digest != (base or "")
        if entry.forced or not moved:
            return TagVerdict("send")
        fate, winner = _WINNERS[policy]
        return TagVerdict(fate, _conflict(entry, theirs, policy, winner, now))

    def orphaned(self, seq: int, is_held: bool, policy: Policy, now: float) -> TagVerdict:
        """The decision on a tag before it is sent, whose manifest was deleted at the parent. `send`: with the manifest
        again. Without the manifest here it cannot be sent."""
        entry = self._order[seq]
        if entry.forced and is_held:
            return TagVerdict("send")
        fate, winner = _WINNERS[policy] if is_held else _WINNERS["parent-wins"]
        return TagVerdict(fate, _conflict(entry, ParentTag(""), policy, winner, now))

    @property
    def mark(self) -> int:
        """A counter of changes made here or confirmed; taken when the parent's tags are listed."""
        return self._deeds

    def arrived(
        self,
        repository: str,
        tag: str,
        theirs: ParentTag,
        policy: Policy,
        now: float,
        *,
        listed: int | None = None,
    ) -> TagVerdict:
        """The decision on a move of a tag by the parent. `send`: no move of ours is pending, so theirs is applied.
        `there`: it is our own, or the same. `drop`: the parent wins, `pending` entries are to be dropped and theirs
        applied. `hold`: ours stays here: it wins, or is undecided, or the manifest of theirs was deleted here and the
        delete is still to be sent, or theirs was read at the mark `listed`, before the tag was changed here."""
        keys = ((repository, f":{tag}"), (repository, theirs.digest))
        stale = listed is not None and any(self._touched.get(key, 0) > listed for key in keys)
        if stale or self._deletes(repository, theirs.digest):
            return TagVerdict("hold")
        moves = self.pending(repository, tag)
        if not moves:
            return TagVerdict("send")
        entry = moves[-1]
        if theirs.digest in (entry.digest, entry.base):
            return TagVerdict("there")
        if any(move.sent and move.digest == theirs.digest for move in moves):
            return TagVerdict("there")
        if policy == "parent-wins":
            return TagVerdict("drop", _conflict(entry, theirs, policy, "parent", now))
        return TagVerdict(
            "hold", _conflict(entry, theirs, policy, "child" if policy == "child-wins" else "", now)
        )

    def _deletes(self, repository: str, digest: str) -> bool:
        """Whether the last pending change of a manifest is a delete."""
        last = self._order.last_writer(repository, digest)
        return last is not None and last.deed == "delete"

    def _deleted_since(self, entry: OutboxEntry) -> bool:
        """Whether the manifest of a tag entry is deleted by a later one."""
        writers = self._order.writers(entry.repository, entry.digest)
        return any(one.seq > entry.seq and one.deed == "delete" for one in writers)

    def pending(self, repository: str, tag: str) -> list[OutboxEntry]:
        """Moves of a tag that are still to be sent, in order."""
        return [entry for entry in self._order.writers(repository, f":{tag}") if entry.deed != "delete"]

    @property
    def oldest(self) -> OutboxEntry | None:
        """The entry that waits longest."""
        return next(iter(self._order), None)

    # ---- within

    def _is_pushed(self, repository: str, digest: str) -> bool:
        """Whether the last pending change of a manifest is a push."""
        last = self._order.last_writer(repository, digest)
        return last is not None and last.deed == "manifest"

    def _delete(self, entry: OutboxEntry) -> QueueChange:
        repository, digest = entry.repository, entry.digest
        writers = (
            self._order.writers(repository, digest) if self._order.bound(repository, digest) == 1 else []
        )
        idle = [e.seq for e in writers if e.deed == "manifest" and not self._order.may_have_arrived(e)]
        return self._put(entry, idle)

    def _tag(self, entry: OutboxEntry) -> QueueChange:
        """Coalesce with moves of the same tag that were never sent; a conflict of theirs stays undecided."""
        move, is_fresh = entry, True
        idle: list[int] = []
        for before in reversed(self.pending(entry.repository, entry.tag)):
            if self._order.may_have_arrived(before) or self._order.is_barred(before):
                if not idle:  # the one before may arrive: then the parent has its digest
                    base = "" if self._deleted_since(before) else before.digest
                    move = replace(move, base=base, event=0)
                break
            idle.append(before.seq)
            is_fresh = before.seq in self._fresh
            move = replace(
                move,
                base=before.base,
                event=before.event,
                conflict=move.conflict or before.conflict,
                forced=move.forced or before.forced,
            )
        change = self._put(move, idle)
        if move.base is None and is_fresh:
            self._fresh.add(move.seq)
            self._unrequested[move.seq] = None
        return change

    def _put(self, entry: OutboxEntry, removes: Iterable[int] = ()) -> QueueChange:
        gone = tuple(removes)
        for seq in gone:
            self._drop(seq)
        self._add(entry)
        return QueueChange((entry,), gone)

    def _replace(self, *entries: OutboxEntry) -> QueueChange:
        for entry in entries:
            self._order.replace(entry)
        return QueueChange(entries)

    def _remove(self, seq: int) -> QueueChange:
        self._drop(seq)
        return QueueChange(removes=(seq,))

    def _touch(self, entry: OutboxEntry) -> None:
        self._deeds += 1
        for name in entry.writes():
            self._touched[(entry.repository, name)] = self._deeds
            self._touched.move_to_end((entry.repository, name))
        while len(self._touched) > REMEMBERED:
            self._touched.popitem(last=False)

    def _add(self, entry: OutboxEntry) -> None:
        self._touch(entry)
        self._order.add(entry)
        self._last = max(self._last, entry.seq)

    def _drop(self, seq: int) -> None:
        self.unanswered(seq)
        self._touch(self._order.drop(seq))


def _without(entry: OutboxEntry, digest: str) -> tuple[Upload, ...]:
    """The uploads of its other blobs."""
    return tuple(upload for upload in entry.uploads if upload.digest != digest)


def _conflict(
    entry: OutboxEntry, theirs: ParentTag, policy: Policy, winner: Literal["parent", "child", ""], now: float
) -> Conflict:
    return Conflict(
        entry.repository,
        entry.tag,
        entry.digest,
        theirs.digest,
        entry.base,
        theirs.event,
        now,
        policy,
        winner,
    )
