"""Decides which entries of the outbox may be sent now. Pure. Each change costs as much as it frees, and none goes over
the whole queue, so that tens of thousands of entries may wait.

An entry waits for every earlier one that writes a name it is bound to; a delete for everything before it in its
repository. Entries come in the order of their numbers.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import OrderedDict
from collections.abc import Iterator
from heapq import heapify, heappop, heappush

from holdfast.backoff import Kind
from holdfast.outbox.entry import OutboxEntry

Key = tuple[str, str]

#: an entry that failed so often is stuck
STUCK = 3


class OutboxOrder:
    """The entries, by number, and those that each waits for."""

    def __init__(self) -> None:
        self._entries: OrderedDict[int, OutboxEntry] = OrderedDict()
        self._repositories: dict[str, OrderedDict[int, None]] = {}
        #: by (repository, name): the entries that write it, and all that are bound to it, in order
        self._writers: dict[Key, list[int]] = {}
        self._bound: dict[Key, OrderedDict[int, None]] = {}
        self._deletions: dict[str, list[int]] = {}
        #: entries that may be sent now, in order; those that rest after a failure, by the time when they are due
        self._open: list[int] = []
        self._resting: list[tuple[float, int]] = []
        self._due: set[int] = set()
        #: entries that failed, by kind, and those that are stuck
        self._troubled: dict[Kind, dict[int, None]] = {}
        self._stuck: dict[int, None] = {}
        self._under_way: set[int] = set()
        self._now = float("inf")

    def __len__(self) -> int:
        return len(self._entries)

    def __iter__(self) -> Iterator[OutboxEntry]:
        return iter(self._entries.values())

    def __getitem__(self, seq: int) -> OutboxEntry:
        return self._entries[seq]

    def get(self, seq: int) -> OutboxEntry | None:
        """One entry."""
        return self._entries.get(seq)

    # ---- what may be sent

    @property
    def under_way(self) -> frozenset[int]:
        """The numbers of the entries that are being sent."""
        return frozenset(self._under_way)

    def ready(self, now: float, limit: int) -> list[OutboxEntry]:
        """The first entries that may be sent now, in order."""
        self._free_due(now)
        return [self._entries[seq] for seq in self._open[:limit]]

    def begin(self, seq: int) -> None:
        """An entry is being sent: it may have arrived, and is not begun twice."""
        self._under_way.add(seq)
        self._consider(seq)

    def leave(self, seq: int) -> None:
        """An entry is not being sent any more."""
        self._under_way.discard(seq)
        self._consider(seq)

    def may_have_arrived(self, entry: OutboxEntry) -> bool:
        """Whether the parent may have an entry, or receive it now."""
        return entry.sent or entry.seq in self._under_way

    def wake(self, now: float) -> float | None:
        """When the next entry that rests is due (wall seconds), None when there is none."""
        while self._resting and not self._rests(*self._resting[0]):
            heappop(self._resting)
        if not self._resting:
            return None
        return min((at for at, seq in self._resting if self._rests(at, seq) and at > now), default=None)

    def tag_of(self, entry: OutboxEntry, now: float) -> OutboxEntry | None:
        """The first tag that names a manifest, if it waits for that manifest alone."""
        self._free_due(now)
        tags = (self._entries[seq] for seq in self._bound[(entry.repository, entry.digest)])
        tag = next((one for one in tags if one.deed == "tag" and one.seq > entry.seq), None)
        if tag is None or not self._may_be_tried(tag):
            return None
        return tag if self._is_free(tag, but=entry.seq) else None

    # ---- what failed

    def troubled(self, kind: Kind) -> list[OutboxEntry]:
        """The entries whose last failure was of this kind."""
        return [self._entries[seq] for seq in self._troubled.get(kind, ())]

    def stuck(self) -> tuple[int, OutboxEntry | None]:
        """The number of entries that failed STUCK times or more, and one of them."""
        first = next(iter(self._stuck), None)
        return len(self._stuck), None if first is None else self._entries[first]

    # ---- writers of a name

    def writers(self, repository: str, name: str) -> list[OutboxEntry]:
        """The entries that write a name, in order."""
        return [self._entries[seq] for seq in self._writers.get((repository, name), ())]

    def last_writer(self, repository: str, name: str) -> OutboxEntry | None:
        """The last entry that writes a name."""
        writers = self._writers.get((repository, name))
        return self._entries[writers[-1]] if writers else None

    def bound(self, repository: str, name: str) -> int:
        """The number of entries bound to a name."""
        return len(self._bound.get((repository, name), ()))

    def is_barred(self, entry: OutboxEntry) -> bool:
        """Whether a delete in the same repository came after it: then its order counts."""
        deletions = self._deletions.get(entry.repository, [])
        return bool(deletions) and deletions[-1] > entry.seq

    # ---- changes

    def add(self, entry: OutboxEntry) -> None:
        """Add a new entry after all others."""
        repository, seq = entry.repository, entry.seq
        self._entries[seq] = entry
        self._repositories.setdefault(repository, OrderedDict())[seq] = None
        for name in entry.writes():
            self._writers.setdefault((repository, name), []).append(seq)
        for name in entry.bound_to():
            self._bound.setdefault((repository, name), OrderedDict())[seq] = None
        if entry.deed == "delete":
            self._deletions.setdefault(repository, []).append(seq)
        self._rest(entry)
        self._consider(seq)

    def replace(self, entry: OutboxEntry) -> None:
        """Replace an entry with its changed self."""
        self._forget_trouble(self._entries[entry.seq])
        self._entries[entry.seq] = entry
        self._due.discard(entry.seq)
        self._rest(entry)
        self._consider(entry.seq)

    def drop(self, seq: int) -> OutboxEntry:
        """Remove an entry. Those that waited for it alone may be sent."""
        entry = self._entries.pop(seq)
        self._forget_trouble(entry)
        repository = entry.repository
        self._under_way.discard(seq)
        self._due.discard(seq)
        self._consider(seq)
        own = self._repositories[repository]
        del own[seq]
        if not own:
            del self._repositories[repository]
        for name in entry.bound_to():
            self._unbind((repository, name), seq)
        if entry.deed == "delete":
            self._deletions[repository].remove(seq)
        freed = [one for name in entry.writes() for one in self._end((repository, name), seq)]
        if own and self._deletions.get(repository):
            freed.append(next(iter(own)))
        for one in freed:
            self._consider(one)
        return entry

    # ---- within

    def _end(self, key: Key, seq: int) -> list[int]:
        """End a writer of a name; returns the entries that may have waited for it: up to the next writer."""
        writers = self._writers[key]
        was_first = writers[0] == seq
        writers.remove(seq)
        following = writers[0] if writers else None
        if not writers:
            del self._writers[key]
        if not was_first:
            return []
        freed = []
        for one in self._bound.get(key, ()):
            if following is not None and one > following:
                break
            freed.append(one)
        return freed

    def _unbind(self, key: Key, seq: int) -> None:
        bound = self._bound.get(key)
        if bound is not None:
            bound.pop(seq, None)
            if not bound:
                del self._bound[key]

    def _rest(self, entry: OutboxEntry) -> None:
        if (trouble := entry.trouble) is not None:
            heappush(self._resting, (trouble.next_at, entry.seq))
            self._troubled.setdefault(trouble.kind, {})[entry.seq] = None
            if trouble.attempts >= STUCK:
                self._stuck[entry.seq] = None

    def _forget_trouble(self, entry: OutboxEntry) -> None:
        if entry.trouble is not None:
            self._troubled[entry.trouble.kind].pop(entry.seq, None)
            self._stuck.pop(entry.seq, None)

    def _rests(self, at: float, seq: int) -> bool:
        """Whether a row of `_resting` is still valid."""
        entry = self._entries.get(seq)
        return (
            entry is not None
            and entry.trouble is not None
            and entry.trouble.next_at == at
            and not entry.conflict
            and seq not in self._due
        )

    def _free_due(self, now: float) -> None:
        """Free the entries that are due. After a clock was set back, and at first, each is checked."""
        due = []
        if now < self._now:
            self._resting = [row for row in self._resting if self._rests(*row)]
            heapify(self._resting)
            due = [seq for _, seq in self._resting if self._is_due(seq, now)]
        while self._resting and self._resting[0][0] <= now:
            at, seq = heappop(self._resting)
            due += [seq] if self._rests(at, seq) else []
        self._now = now
        for seq in due:
            self._due.add(seq)
            self._consider(seq)

    def _is_due(self, seq: int, now: float) -> bool:
        trouble = self._entries[seq].trouble
        return trouble is not None and trouble.is_due(now)

    def _may_be_tried(self, entry: OutboxEntry) -> bool:
        """Whether an entry neither rests, nor is in conflict, nor is being sent."""
        rested = entry.trouble is None or entry.seq in self._due
        return rested and not entry.conflict and entry.seq not in self._under_way

    def _is_free(self, entry: OutboxEntry, but: int = 0) -> bool:
        """Whether no entry before it, except `but`, holds it back."""
        if entry.deed == "delete":
            return next(iter(self._repositories[entry.repository])) == entry.seq
        return all(
            self._first_writer((entry.repository, name), but, entry.seq) >= entry.seq
            for name in entry.bound_to()
        )

    def _first_writer(self, key: Key, but: int, none: int) -> int:
        writers = self._writers.get(key, ())
        return next((seq for seq in writers if seq != but), none)

    def _consider(self, seq: int) -> None:
        entry = self._entries.get(seq)
        may = entry is not None and self._may_be_tried(entry) and self._is_free(entry)
        place = bisect_left(self._open, seq)
        is_open = place < len(self._open) and self._open[place] == seq
        if may and not is_open:
            self._open.insert(place, seq)
        elif is_open and not may:
            del self._open[place]
