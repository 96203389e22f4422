"""What was pushed, tagged and deleted here, on its way up. Pure: changes of a queue in, changes of rows out.

- An entry is written in the transaction that acknowledged the push, and removed when the parent confirmed its digest.
  Between the two it may be sent any number of times: every step up is idempotent.
- Entries go in the order in which they came. One that is stuck (refused, in conflict) holds back what depends on it and
  nothing else: tags wait for their manifest, an index for its children, a referrer for its subject, moves of one tag
  for each other, and a delete for everything before it in its repository.
- What was overtaken before it was ever sent need not go: of several moves of a tag the last (it keeps the first one's
  `base`), of several pushes of a manifest the first. Manifests are never dropped, because somebody may pull by digest.
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

from holdfast.sync.backoff import Kind, trouble
from holdfast.sync.entry import Entry, Upload
from holdfast.sync.order import Order

Policy = Literal["parent-wins", "child-wins", "reject"]

#: tags and digests of which it is remembered when something was last done to them here
REMEMBERED = 100_000


class Change(Struct, frozen=True):
    """Rows to write and to remove, in one transaction."""

    puts: tuple[Entry, ...] = ()
    removes: tuple[int, ...] = ()


class Conflict(Struct, frozen=True):
    """What is recorded when both sides moved a tag. `theirs` "" : they deleted it. `winner` "" while it is
    undecided."""

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
    """What a tag names at the parent now ("" nothing) and the number of its last event there that was not this node's
    own doing (0 where the parent counts none). `since`: what it named since the entry's `base`, where the parent
    tells; ours among them has arrived."""

    digest: str
    event: int = 0
    since: tuple[str, ...] = ()


class Verdict(Struct, frozen=True):
    """What becomes of a tag entry: send it, drop it because it is there already or because the parent wins, or hold it
    until an operator decides."""

    fate: Literal["send", "there", "drop", "hold"]
    conflict: Conflict | None = None


#: what becomes of an entry when both sides moved its tag, and who wins
_WINNERS: dict[Policy, tuple[Literal["send", "drop", "hold"], Literal["parent", "child", ""]]] = {
    "parent-wins": ("drop", "parent"),
    "child-wins": ("send", "child"),
    "reject": ("hold", ""),
}


class Outbox:
    """The queue of one parent, in memory, as it lies in the store. Every method returns the rows that change; they are
    the caller's to store before it acts."""

    def __init__(self, entries: Iterable[Entry] = ()) -> None:
        self._order = Order()
        self._last = self._deeds = 0
        self._touched: OrderedDict[tuple[str, str], int] = OrderedDict()
        #: moves of tags of which nothing is known, that came while the parent was there; those of them of which it was
        #: not asked yet, in order
        self._fresh: set[int] = set()
        self._unasked: dict[int, None] = {}
        for entry in sorted(entries, key=lambda e: e.seq):
            self._add(entry)

    def __len__(self) -> int:
        return len(self._order)

    def __iter__(self) -> Iterator[Entry]:
        return iter(self._order)

    def reread(self, entries: Iterable[Entry]) -> None:
        """A change was not written: these are the entries that came so far. What is under way stays so."""
        before, self._order = self._order, Order()
        for entry in sorted(entries, key=lambda e: e.seq):
            self._order.add(entry)
        for seq in before.under_way:
            if self._order.get(seq) is not None:
                self._order.begin(seq)
        for seq in [seq for seq in self._fresh if self._order.get(seq) is None]:
            self.unanswered(seq)

    def get(self, seq: int) -> Entry | None:
        """One entry."""
        return self._order.get(seq)

    def is_pending(self, repository: str, digest: str) -> bool:
        """Whether a manifest is not at the parent yet, as far as this node pushed it."""
        return any(entry.deed == "manifest" for entry in self._order.writers(repository, digest))

    # ---- in

    def pushed(self, repository: str, digest: str, needs: Iterable[str], now: float) -> Change:
        """A manifest was put here."""
        if self._is_pushed(repository, digest):
            return Change()
        return self._put(Entry(self._last + 1, repository, "manifest", digest, now, needs=tuple(needs)))

    def tagged(
        self, repository: str, tag: str, digest: str, now: float, *, base: str | None = None, event: int = 0
    ) -> Change:
        """A tag was moved here. `base` and `event` are what this node knows of it at the parent."""
        return self._tag(Entry(self._last + 1, repository, "tag", digest, now, tag, base=base, event=event))

    def untagged(
        self, repository: str, tag: str, now: float, *, base: str | None = None, event: int = 0
    ) -> Change:
        """A tag was deleted here."""
        return self._tag(Entry(self._last + 1, repository, "untag", "", now, tag, base=base, event=event))

    def deleted(self, repository: str, digest: str, now: float, tags: Iterable[str] = ()) -> Change:
        """A manifest was deleted here, and `tags` that named it with it. A push of it that was never sent, and that
        no waiting entry names, need not go; the delete goes in any case, since the parent may have had it from
        elsewhere."""
        return self._delete(Entry(self._last + 1, repository, "delete", digest, now, tags=tuple(tags)))

    def came(self, entry: Entry) -> Change:
        """A row that was written with the change that it tells of, and has its number from there; rows come in their
        order. What follows from it for the rows."""
        if entry.seq <= self._last:
            return Change()
        if entry.deed == "delete":
            return self._delete(entry)
        if entry.deed != "manifest":
            return self._tag(entry)
        if self._is_pushed(entry.repository, entry.digest):
            self._last = max(self._last, entry.seq)
            return Change(removes=(entry.seq,))
        return self._put(entry)

    @property
    def last(self) -> int:
        """The highest number that came."""
        return self._last

    # ---- what the parent has of a tag of which nothing is known here

    def waited(self) -> None:
        """The parent was out of reach: nobody can say any more whether what it has of a tag was there when it was moved
        here."""
        self._fresh.clear()
        self._unasked.clear()

    def unasked(self, limit: int | None = None) -> list[Entry]:
        """The first moves of tags of which nothing is known and whose turn is not now: the parent is to be asked at
        once. Each once."""
        entries = map(self._order.__getitem__, self._unasked)
        found = list(islice((one for one in entries if not self._order.may_have_arrived(one)), limit))
        for entry in found:
            del self._unasked[entry.seq]
        return found

    def asked(self, seq: int, digest: str) -> Change:
        """What the parent has of such a tag, "" nothing: what it will be compared with."""
        entry = self._order.get(seq)
        is_fresh = seq in self._fresh
        self.unanswered(seq)
        if entry is None or not is_fresh or not digest:
            return Change()  # that it has nothing is what an unknown base stands for
        return self._replace(replace(entry, base=digest))

    def unanswered(self, seq: int) -> None:
        """The parent did not say what it has of such a tag; of the others it may."""
        self._fresh.discard(seq)
        self._unasked.pop(seq, None)

    # ---- up

    def ready(self, now: float, limit: int = 1) -> list[Entry]:
        """The first entries that may be sent now, in order; none that is under way, or depends on one that is."""
        return self._order.ready(now, limit)

    def take(self, now: float, limit: int = 1) -> list[Entry]:
        """The first entries that may be sent now, in order. They are under way until `leave`."""
        found = self._order.ready(now, limit)
        for entry in found:
            self._order.begin(entry.seq)
        return found

    def take_tag(self, seq: int, now: float) -> Entry | None:
        """The tag that may go up in one request with a manifest that is under way; it is under way from now on."""
        entry = self._order.get(seq)
        found = None if entry is None else self._order.tag_of(entry, now)
        if found is not None:
            self._order.begin(found.seq)
        return found

    def leave(self, seq: int) -> None:
        """It is not under way any more, whatever became of it."""
        self._order.leave(seq)

    def troubled(self, kind: Kind) -> list[Entry]:
        """The entries that failed last for this reason."""
        return self._order.troubled(kind)

    def stuck(self) -> tuple[int, Entry | None]:
        """How many entries failed again and again, and one of them."""
        return self._order.stuck()

    def wake(self, now: float) -> float | None:
        """When the next entry that is left alone now is due (wall seconds), None when there is none."""
        return self._order.wake(now)

    def sending(self, *seqs: int) -> Change:
        """They are about to go: from now on the parent may have them."""
        found = [entry for seq in seqs if (entry := self._order.get(seq)) is not None and not entry.sent]
        return self._replace(*(replace(entry, sent=True) for entry in found))

    def began(self, seq: int, upload: Upload) -> Change:
        """An upload of one of its blobs got so far that it can be gone on with."""
        entry = self._order[seq]
        if upload in entry.uploads:
            return Change()
        return self._replace(replace(entry, uploads=(*_without(entry, upload.digest), upload)))

    def ended(self, seq: int, digest: str) -> Change:
        """An upload is over; nobody goes on with it."""
        entry = self._order[seq]
        kept = _without(entry, digest)
        return self._replace(replace(entry, uploads=kept)) if kept != entry.uploads else Change()

    def confirmed(self, seq: int, digest: str, now: float) -> Change:
        """The parent has it. `digest` is what the parent says that it stored, or that the tag names; "" of a delete
        (202, or 404: it is not there). Another digest than ours confirms nothing: the entry stays, and tells."""
        entry = self._order[seq]
        if digest == entry.digest or entry.deed == "delete":
            return self._remove(seq)
        told = f"the parent confirmed {digest[:80] or 'nothing'} where {entry.digest or 'nothing'} was sent"
        return self.failed(seq, "wrong", told, now, 0.0)

    def failed(
        self, seq: int, kind: Kind, reason: str, now: float, share: float, after: float = 0.0
    ) -> Change:
        """It did not arrive. Nothing is ever given up: see `backoff` for how long it is left alone."""
        if kind == "offline":
            return Change()
        entry = self._order[seq]
        found = trouble(entry.trouble, kind, reason, now, share, after)
        return self._replace(replace(entry, trouble=found))

    def retry(self, seq: int) -> Change:
        """An operator wants it tried now; one in conflict goes up as if the child had won."""
        entry = self._order[seq]
        forced = entry.forced or bool(entry.conflict)
        return self._replace(replace(entry, trouble=None, conflict="", forced=forced))

    def dropped(self, seq: int) -> Change:
        """An operator, or the policy, gives it up."""
        return self._remove(seq)

    def held(self, seq: int, words: str) -> Change:
        """A conflict that an operator has to decide."""
        return self._replace(replace(self._order[seq], conflict=words))

    # ---- when both sides moved a tag

    def settle(
        self, seq: int, theirs: ParentTag, policy: Policy, now: float, *, follows: bool = True
    ) -> Verdict:
        """Before a tag or untag is sent: what the parent has decides. `follows`: whether this node synchronises the
        tag, so that the parent had nothing where nothing is known here. Where it does not, and the parent was
        there since, this is the question for what it has (`asked`)."""
        entry = self._order[seq]
        base = entry.base
        if base is None and not follows and seq in self._fresh:
            base = theirs.digest
        if theirs.digest == entry.digest or (entry.sent and entry.digest in theirs.since):
            return Verdict("there")
        moved = theirs.event > entry.event if theirs.event and entry.event else theirs.digest != (base or "")
        if entry.forced or not moved:
            return Verdict("send")
        fate, who = _WINNERS[policy]
        return Verdict(fate, _conflict(entry, theirs, policy, who, now))

    def orphaned(self, seq: int, is_held: bool, policy: Policy, now: float) -> Verdict:
        """Before a tag is sent whose manifest the parent had and has no more: somebody deleted it there. `send`: with
        the manifest anew. One that is not here either cannot be sent."""
        entry = self._order[seq]
        if entry.forced and is_held:
            return Verdict("send")
        fate, who = _WINNERS[policy] if is_held else _WINNERS["parent-wins"]
        return Verdict(fate, _conflict(entry, ParentTag(""), policy, who, now))

    @property
    def mark(self) -> int:
        """Rises with everything that is done here or confirmed; taken when the parent's tags are listed."""
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
    ) -> Verdict:
        """The parent's move of a tag comes down. `send`: no move of ours is pending, so it is taken over. `there`:
        it is our own coming back, or the same. `drop`: the parent wins, `pending` entries are to be dropped and
        theirs taken over. `hold`: ours stays here: it wins, nobody decided, what theirs names was deleted here and the
        delete is still to go up, or theirs was read at the mark `listed`, before something was done to the tag here."""
        keys = ((repository, f":{tag}"), (repository, theirs.digest))
        stale = listed is not None and any(self._touched.get(key, 0) > listed for key in keys)
        if stale or self._deletes(repository, theirs.digest):
            return Verdict("hold")
        moves = self.pending(repository, tag)
        if not moves:
            return Verdict("send")
        entry = moves[-1]
        if theirs.digest in (entry.digest, entry.base):
            return Verdict("there")
        if any(move.sent and move.digest == theirs.digest for move in moves):
            return Verdict("there")
        if policy == "parent-wins":
            return Verdict("drop", _conflict(entry, theirs, policy, "parent", now))
        return Verdict(
            "hold", _conflict(entry, theirs, policy, "child" if policy == "child-wins" else "", now)
        )

    def _deletes(self, repository: str, digest: str) -> bool:
        """Whether the last word here on a manifest is a delete."""
        last = self._order.last_writer(repository, digest)
        return last is not None and last.deed == "delete"

    def _deleted_since(self, entry: Entry) -> bool:
        """Whether what a tag entry names is deleted by a later one."""
        writers = self._order.writers(entry.repository, entry.digest)
        return any(one.seq > entry.seq and one.deed == "delete" for one in writers)

    def pending(self, repository: str, tag: str) -> list[Entry]:
        """Moves of a tag that are still to go up, in order."""
        return [entry for entry in self._order.writers(repository, f":{tag}") if entry.deed != "delete"]

    @property
    def oldest(self) -> Entry | None:
        """The entry that waits longest."""
        return next(iter(self._order), None)

    # ---- within

    def _is_pushed(self, repository: str, digest: str) -> bool:
        """Whether the last word here on a manifest, still to go up, is a push."""
        last = self._order.last_writer(repository, digest)
        return last is not None and last.deed == "manifest"

    def _delete(self, entry: Entry) -> Change:
        repository, digest = entry.repository, entry.digest
        writers = (
            self._order.writers(repository, digest) if self._order.bound(repository, digest) == 1 else []
        )
        idle = [e.seq for e in writers if e.deed == "manifest" and not self._order.may_have_arrived(e)]
        return self._put(entry, idle)

    def _tag(self, entry: Entry) -> Change:
        """Coalesce with moves of the same tag that were never sent; what was undecided about them stays so."""
        found, is_fresh = entry, True
        idle: list[int] = []
        for before in reversed(self.pending(entry.repository, entry.tag)):
            if self._order.may_have_arrived(before) or self._order.is_barred(before):
                if not idle:  # it follows one that may arrive: that is what it will find at the parent
                    base = "" if self._deleted_since(before) else before.digest
                    found = replace(found, base=base, event=0)
                break
            idle.append(before.seq)
            is_fresh = before.seq in self._fresh
            found = replace(
                found,
                base=before.base,
                event=before.event,
                conflict=found.conflict or before.conflict,
                forced=found.forced or before.forced,
            )
        change = self._put(found, idle)
        if found.base is None and is_fresh:
            self._fresh.add(found.seq)
            self._unasked[found.seq] = None
        return change

    def _put(self, entry: Entry, removes: Iterable[int] = ()) -> Change:
        gone = tuple(removes)
        for seq in gone:
            self._drop(seq)
        self._add(entry)
        return Change((entry,), gone)

    def _replace(self, *entries: Entry) -> Change:
        for entry in entries:
            self._order.replace(entry)
        return Change(entries)

    def _remove(self, seq: int) -> Change:
        self._drop(seq)
        return Change(removes=(seq,))

    def _touch(self, entry: Entry) -> None:
        self._deeds += 1
        for name in entry.writes():
            self._touched[(entry.repository, name)] = self._deeds
            self._touched.move_to_end((entry.repository, name))
        while len(self._touched) > REMEMBERED:
            self._touched.popitem(last=False)

    def _add(self, entry: Entry) -> None:
        self._touch(entry)
        self._order.add(entry)
        self._last = max(self._last, entry.seq)

    def _drop(self, seq: int) -> None:
        self.unanswered(seq)
        self._touch(self._order.drop(seq))


def _without(entry: Entry, digest: str) -> tuple[Upload, ...]:
    """The uploads of its other blobs."""
    return tuple(upload for upload in entry.uploads if upload.digest != digest)


def _conflict(
    entry: Entry, theirs: ParentTag, policy: Policy, winner: Literal["parent", "child", ""], now: float
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
