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

from bisect import insort
from collections import Counter, OrderedDict
from collections.abc import Iterable, Iterator
from typing import Literal

from msgspec import Struct
from msgspec.structs import replace

from holdfast.sync.backoff import Kind, Trouble, trouble

Deed = Literal["manifest", "tag", "untag", "delete"]
Policy = Literal["parent-wins", "child-wins", "reject"]


#: tags and digests of which it is remembered when something was last done to them here
REMEMBERED = 100_000


class Upload(Struct, frozen=True):
    """An upload at the parent that was begun: where it goes on, and of which blob."""

    digest: str
    url: str


class Entry(Struct, frozen=True):
    """One row. `digest` is the manifest, or what the tag names ("" for untag). `needs`: children and subject of a
    manifest; `tags`: those that a delete took with it here. `base`: what the tag named at the parent when it was
    first moved here, "" nothing, None unknown; `event`: the number of the tag's last event at the parent that this
    node knew then. `sent`: the parent may have got it. `upload`: of one of its blobs, under way."""

    seq: int
    repository: str
    deed: Deed
    digest: str
    at: float
    tag: str = ""
    needs: tuple[str, ...] = ()
    tags: tuple[str, ...] = ()
    base: str | None = None
    event: int = 0
    sent: bool = False
    trouble: Trouble | None = None
    conflict: str = ""
    upload: Upload | None = None

    def writes(self) -> tuple[str, ...]:
        """What later entries must not overtake. A delete writes the tags that went with it as well."""
        return (f":{self.tag}",) if self.tag else (self.digest, *(f":{tag}" for tag in self.tags))

    def bound_to(self) -> tuple[str, ...]:
        """What it must not overtake the writing of."""
        named = (self.digest,) if self.tag and self.digest else ()
        return (*self.writes(), *named, *self.needs)


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


class Outbox:
    """The queue of one parent, in memory, as it lies in the store. Every method returns the rows that change; they are
    the caller's to store before it acts."""

    def __init__(self, entries: Iterable[Entry] = ()) -> None:
        self._entries: dict[int, Entry] = {}
        self._repositories: dict[str, dict[int, None]] = {}
        self._writers: dict[tuple[str, str], list[int]] = {}
        #: how many entries are bound to a name, and the deletes of each repository in order
        self._bound: Counter[tuple[str, str]] = Counter()
        self._deletions: dict[str, list[int]] = {}
        self._last = self._deeds = 0
        self._touched: OrderedDict[tuple[str, str], int] = OrderedDict()
        for entry in sorted(entries, key=lambda e: e.seq):
            self._add(entry)

    def __len__(self) -> int:
        return len(self._entries)

    def __iter__(self) -> Iterator[Entry]:
        return iter(self._entries.values())

    def get(self, seq: int) -> Entry | None:
        """One entry."""
        return self._entries.get(seq)

    def is_pending(self, repository: str, digest: str) -> bool:
        """Whether a manifest is not at the parent yet, as far as this node pushed it."""
        return any(
            self._entries[seq].deed == "manifest" for seq in self._writers.get((repository, digest), ())
        )

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

    # ---- up

    def ready(self, now: float, limit: int = 1) -> list[Entry]:
        """The first entries that may be sent now, in order."""
        found: list[Entry] = []
        for entry in self._entries.values():
            if len(found) >= limit:
                break
            if (
                not entry.conflict
                and (entry.trouble is None or entry.trouble.is_due(now))
                and self._free(entry)
            ):
                found.append(entry)
        return found

    def wake(self, now: float) -> float | None:
        """When the next entry that is left alone now is due (wall seconds), None when there is none."""
        left = (e.trouble for e in self if e.trouble is not None and not e.conflict)
        return min((found.next_at for found in left if not found.is_due(now)), default=None)

    def sending(self, seq: int) -> Change:
        """It is about to go: from now on the parent may have it."""
        entry = self._entries[seq]
        return Change() if entry.sent else self._replace(replace(entry, sent=True))

    def began(self, seq: int, upload: Upload | None) -> Change:
        """An upload of one of its blobs got so far that it can be gone on with; None: none is under way."""
        return self._replace(replace(self._entries[seq], upload=upload))

    def confirmed(self, seq: int, digest: str, now: float) -> Change:
        """The parent has it. `digest` is what the parent says that it stored, or that the tag names; "" of a delete
        (202, or 404: it is not there). Another digest than ours confirms nothing: the entry stays, and tells."""
        entry = self._entries[seq]
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
        entry = self._entries[seq]
        found = trouble(entry.trouble, kind, reason, now, share, after)
        return self._replace(replace(entry, trouble=found))

    def retry(self, seq: int) -> Change:
        """An operator wants it tried now; one in conflict goes up as if the child had won."""
        entry = self._entries[seq]
        forced = None if entry.conflict else entry.base
        return self._replace(replace(entry, trouble=None, conflict="", base=forced))

    def dropped(self, seq: int) -> Change:
        """An operator, or the policy, gives it up."""
        return self._remove(seq)

    def held(self, seq: int, words: str) -> Change:
        """A conflict that an operator has to decide."""
        return self._replace(replace(self._entries[seq], conflict=words))

    # ---- when both sides moved a tag

    def settle(self, seq: int, theirs: ParentTag, policy: Policy, now: float) -> Verdict:
        """Before a tag or untag is sent: what the parent has decides."""
        entry = self._entries[seq]
        if theirs.digest == entry.digest or (entry.sent and entry.digest in theirs.since):
            return Verdict("there")
        moved = theirs.event > entry.event if theirs.event and entry.event else theirs.digest != entry.base
        if entry.base is None or not moved:
            return Verdict("send")
        winner: dict[Policy, tuple[Literal["send", "drop", "hold"], Literal["parent", "child", ""]]] = {
            "parent-wins": ("drop", "parent"),
            "child-wins": ("send", "child"),
            "reject": ("hold", ""),
        }
        fate, who = winner[policy]
        return Verdict(fate, _conflict(entry, theirs, policy, who, now))

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
        writers = self._writers.get((repository, digest))
        return writers is not None and self._entries[writers[-1]].deed == "delete"

    def _deleted_since(self, entry: Entry) -> bool:
        """Whether what a tag entry names is deleted by a later one."""
        writers = self._writers.get((entry.repository, entry.digest), ())
        return any(seq > entry.seq and self._entries[seq].deed == "delete" for seq in writers)

    def pending(self, repository: str, tag: str) -> list[Entry]:
        """Moves of a tag that are still to go up, in order."""
        found = (self._entries[seq] for seq in self._writers.get((repository, f":{tag}"), ()))
        return [entry for entry in found if entry.deed != "delete"]

    # ---- within

    def _is_pushed(self, repository: str, digest: str) -> bool:
        """Whether the last word here on a manifest, still to go up, is a push."""
        writers = self._writers.get((repository, digest), [])
        return bool(writers) and self._entries[writers[-1]].deed == "manifest"

    def _delete(self, entry: Entry) -> Change:
        key = (entry.repository, entry.digest)
        writers = map(self._entries.__getitem__, self._writers.get(key, ()))
        alone = self._bound[key] == 1
        idle = [e.seq for e in writers if alone and e.deed == "manifest" and not e.sent]
        return self._put(entry, idle)

    def _tag(self, entry: Entry) -> Change:
        """Coalesce with moves of the same tag that were never sent; what was undecided about them stays so."""
        base, event, conflict = entry.base, entry.event, ""
        idle: list[int] = []
        for before in reversed(self.pending(entry.repository, entry.tag)):
            if before.sent or self._barred(before):
                if not idle:  # it follows one that may arrive: that is what it will find at the parent
                    base, event = "" if self._deleted_since(before) else before.digest, 0
                break
            idle.append(before.seq)
            base, event, conflict = before.base, before.event, conflict or before.conflict
        return self._put(replace(entry, base=base, event=event, conflict=conflict), idle)

    def _barred(self, entry: Entry) -> bool:
        """Whether a delete in the same repository came after it: then its order counts."""
        deletions = self._deletions.get(entry.repository, [])
        return bool(deletions) and deletions[-1] > entry.seq

    def _free(self, entry: Entry) -> bool:
        if entry.deed == "delete":
            return next(iter(self._repositories[entry.repository])) == entry.seq
        return all(
            not writers or writers[0] >= entry.seq
            for key in entry.bound_to()
            if (writers := self._writers.get((entry.repository, key))) is not None
        )

    def _put(self, entry: Entry, removes: Iterable[int] = ()) -> Change:
        gone = tuple(removes)
        for seq in gone:
            self._drop(seq)
        self._add(entry)
        return Change((entry,), gone)

    def _replace(self, entry: Entry) -> Change:
        self._entries[entry.seq] = entry
        return Change((entry,))

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

    def _unbind(self, key: tuple[str, str]) -> None:
        self._bound[key] -= 1
        if not self._bound[key]:
            del self._bound[key]

    def _add(self, entry: Entry) -> None:
        self._touch(entry)
        self._entries[entry.seq] = entry
        self._repositories.setdefault(entry.repository, {})[entry.seq] = None
        for name in entry.writes():
            insort(self._writers.setdefault((entry.repository, name), []), entry.seq)
        self._bound.update((entry.repository, key) for key in entry.bound_to())
        if entry.deed == "delete":
            insort(self._deletions.setdefault(entry.repository, []), entry.seq)
        self._last = max(self._last, entry.seq)

    def _drop(self, seq: int) -> None:
        entry = self._entries.pop(seq)
        self._touch(entry)
        del self._repositories[entry.repository][seq]
        for key in entry.bound_to():
            self._unbind((entry.repository, key))
        if entry.deed == "delete":
            self._deletions[entry.repository].remove(seq)
        for name in entry.writes():
            writers = self._writers[(entry.repository, name)]
            writers.remove(seq)
            if not writers:
                del self._writers[(entry.repository, name)]
        if not self._repositories[entry.repository]:
            del self._repositories[entry.repository]


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
