"""Which entries of the outbox may go now. Pure. Every change costs what it frees and nothing goes over the whole queue,
so that tens of thousands of entries may wait.

An entry waits for every earlier one that writes what it is bound to; a delete for everything before it in its
repository. Entries come in the order of their numbers.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import OrderedDict
from collections.abc import Iterator
from heapq import heapify, heappop, heappush

from holdfast.sync.backoff import Kind
from holdfast.sync.entry import Entry

Key = tuple[str, str]

#: an entry that failed so often is stuck
STUCK = 3


class Order:
    """The entries, by number, and what each waits for."""

    def __init__(self) -> None:
        self._entries: OrderedDict[int, Entry] = OrderedDict()
        self._repositories: dict[str, OrderedDict[int, None]] = {}
        #: by (repository, name): the entries that write it, and all that are bound to it, in order
        self._writers: dict[Key, list[int]] = {}
        self._bound: dict[Key, OrderedDict[int, None]] = {}
        self._deletions: dict[str, list[int]] = {}
        #: what may go now, in order; what is left alone after a failure, by the time when it is due
        self._open: list[int] = []
        self._left: list[tuple[float, int]] = []
        self._due: set[int] = set()
        #: what failed, by why, and what is stuck
        self._troubled: dict[Kind, dict[int, None]] = {}
        self._stuck: dict[int, None] = {}
        self._under_way: set[int] = set()
        self._now = float("inf")

    def __len__(self) -> int:
        return len(self._entries)

    def __iter__(self) -> Iterator[Entry]:
        return iter(self._entries.values())

    def __getitem__(self, seq: int) -> Entry:
        return self._entries[seq]

    def get(self, seq: int) -> Entry | None:
        """One entry."""
        return self._entries.get(seq)

    # ---- what may go

    @property
    def under_way(self) -> frozenset[int]:
        """The numbers of the entries that are."""
        return frozenset(self._under_way)

    def ready(self, now: float, limit: int) -> list[Entry]:
        """The first entries that may go now, in order."""
        self._look(now)
        return [self._entries[seq] for seq in self._open[:limit]]

    def begin(self, seq: int) -> None:
        """It is under way: it may have arrived, and nobody else begins with it."""
        self._under_way.add(seq)
        self._consider(seq)

    def leave(self, seq: int) -> None:
        """It is not under way any more."""
        self._under_way.discard(seq)
        self._consider(seq)

    def may_have_arrived(self, entry: Entry) -> bool:
        """Whether the parent may have it, or get it in the next moment."""
        return entry.sent or entry.seq in self._under_way

    def wake(self, now: float) -> float | None:
        """When the next entry that is left alone now is due (wall seconds), None when there is none."""
        while self._left and not self._is_left(*self._left[0]):
            heappop(self._left)
        if not self._left:
            return None
        return min((at for at, seq in self._left if self._is_left(at, seq) and at > now), default=None)

    def tag_of(self, entry: Entry, now: float) -> Entry | None:
        """The first tag that names a manifest, where nothing holds it back but that manifest."""
        self._look(now)
        tags = (self._entries[seq] for seq in self._bound[(entry.repository, entry.digest)])
        found = next((one for one in tags if one.deed == "tag" and one.seq > entry.seq), None)
        if found is None or not self._may_be_tried(found):
            return None
        return found if self._is_free(found, but=entry.seq) else None

    # ---- what failed

    def troubled(self, kind: Kind) -> list[Entry]:
        """The entries that failed last for this reason."""
        return [self._entries[seq] for seq in self._troubled.get(kind, ())]

    def stuck(self) -> tuple[int, Entry | None]:
        """How many entries failed STUCK times or more, and one of them."""
        first = next(iter(self._stuck), None)
        return len(self._stuck), None if first is None else self._entries[first]

    # ---- who writes what

    def writers(self, repository: str, name: str) -> list[Entry]:
        """The entries that write a name, in order."""
        return [self._entries[seq] for seq in self._writers.get((repository, name), ())]

    def last_writer(self, repository: str, name: str) -> Entry | None:
        """The last of them."""
        found = self._writers.get((repository, name))
        return self._entries[found[-1]] if found else None

    def bound(self, repository: str, name: str) -> int:
        """How many entries are bound to a name."""
        return len(self._bound.get((repository, name), ()))

    def is_barred(self, entry: Entry) -> bool:
        """Whether a delete in the same repository came after it: then its order counts."""
        deletions = self._deletions.get(entry.repository, [])
        return bool(deletions) and deletions[-1] > entry.seq

    # ---- changes

    def add(self, entry: Entry) -> None:
        """A new one, after all others."""
        repository, seq = entry.repository, entry.seq
        self._entries[seq] = entry
        self._repositories.setdefault(repository, OrderedDict())[seq] = None
        for name in entry.writes():
            self._writers.setdefault((repository, name), []).append(seq)
        for name in entry.bound_to():
            self._bound.setdefault((repository, name), OrderedDict())[seq] = None
        if entry.deed == "delete":
            self._deletions.setdefault(repository, []).append(seq)
        self._leave_alone(entry)
        self._consider(seq)

    def replace(self, entry: Entry) -> None:
        """The same entry, at another point of its life."""
        self._forget_trouble(self._entries[entry.seq])
        self._entries[entry.seq] = entry
        self._due.discard(entry.seq)
        self._leave_alone(entry)
        self._consider(entry.seq)

    def drop(self, seq: int) -> Entry:
        """It is done. What waited for it alone may go."""
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
        """It writes a name no more. The entries that may have waited for that: up to the next that writes it."""
        writers = self._writers[key]
        was_first = writers[0] == seq
        writers.remove(seq)
        following = writers[0] if writers else None
        if not writers:
            del self._writers[key]
        if not was_first:
            return []
        found = []
        for one in self._bound.get(key, ()):
            if following is not None and one > following:
                break
            found.append(one)
        return found

    def _unbind(self, key: Key, seq: int) -> None:
        bound = self._bound.get(key)
        if bound is not None:
            bound.pop(seq, None)
            if not bound:
                del self._bound[key]

    def _leave_alone(self, entry: Entry) -> None:
        if (trouble := entry.trouble) is not None:
            heappush(self._left, (trouble.next_at, entry.seq))
            self._troubled.setdefault(trouble.kind, {})[entry.seq] = None
            if trouble.attempts >= STUCK:
                self._stuck[entry.seq] = None

    def _forget_trouble(self, entry: Entry) -> None:
        if entry.trouble is not None:
            self._troubled[entry.trouble.kind].pop(entry.seq, None)
            self._stuck.pop(entry.seq, None)

    def _is_left(self, at: float, seq: int) -> bool:
        """Whether a row of `_left` still holds."""
        entry = self._entries.get(seq)
        return (
            entry is not None
            and entry.trouble is not None
            and entry.trouble.next_at == at
            and not entry.conflict
            and seq not in self._due
        )

    def _look(self, now: float) -> None:
        """What is due by now may go. A clock that was set back, or the first look, asks for each."""
        due = []
        if now < self._now:
            self._left = [row for row in self._left if self._is_left(*row)]
            heapify(self._left)
            due = [seq for _, seq in self._left if self._is_due(seq, now)]
        while self._left and self._left[0][0] <= now:
            at, seq = heappop(self._left)
            due += [seq] if self._is_left(at, seq) else []
        self._now = now
        for seq in due:
            self._due.add(seq)
            self._consider(seq)

    def _is_due(self, seq: int, now: float) -> bool:
        trouble = self._entries[seq].trouble
        return trouble is not None and trouble.is_due(now)

    def _may_be_tried(self, entry: Entry) -> bool:
        """Whether nothing of its own holds it back."""
        rested = entry.trouble is None or entry.seq in self._due
        return rested and not entry.conflict and entry.seq not in self._under_way

    def _is_free(self, entry: Entry, but: int = 0) -> bool:
        """Whether nothing before it holds it back, `but` aside."""
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
