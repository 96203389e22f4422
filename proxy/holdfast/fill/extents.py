"""A set of half-open byte ranges, kept as sorted, disjoint, merged runs: the bytes of a blob that are held."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator

Run = tuple[int, int]


class Extents:
    """A mutable set of byte offsets. Every range is [start, end); an empty one changes nothing.

    Looking up costs O(log runs), and a fill that arrives in order has one run however large it is.
    """

    __slots__ = ("_ends", "_starts", "total")

    def __init__(self, runs: Iterable[Run] = ()) -> None:
        self._starts: list[int] = []
        self._ends: list[int] = []
        #: how many bytes are in the set
        self.total = 0
        for start, end in runs:
            self.add(start, end)

    def add(self, start: int, end: int) -> int:
        """Put [start, end) in; returns how many of its bytes are new."""
        if start >= end:
            return 0
        low = bisect_left(self._ends, start)
        high = bisect_right(self._starts, end)
        replaced = sum(self._ends[low:high]) - sum(self._starts[low:high])
        if low < high:
            start, end = min(start, self._starts[low]), max(end, self._ends[high - 1])
        self._starts[low:high] = [start]
        self._ends[low:high] = [end]
        new = end - start - replaced
        self.total += new
        return new

    def remove(self, start: int, end: int) -> int:
        """Take [start, end) out; returns how many of its bytes were in."""
        if start >= end:
            return 0
        low = bisect_right(self._ends, start)
        high = bisect_left(self._starts, end)
        runs = list(zip(self._starts[low:high], self._ends[low:high], strict=True))
        kept = [(s, e) for run in runs for s, e in ((run[0], start), (end, run[1])) if s < e]
        self._starts[low:high] = [s for s, _ in kept]
        self._ends[low:high] = [e for _, e in kept]
        gone = sum(e - s for s, e in runs) - sum(e - s for s, e in kept)
        self.total -= gone
        return gone

    def run_end(self, offset: int) -> int:
        """End of the run that holds `offset`; `offset` itself when it is not in the set."""
        index = bisect_right(self._starts, offset) - 1
        return max(offset, self._ends[index]) if index >= 0 else offset

    def covers(self, start: int, end: int) -> bool:
        """Whether every byte of [start, end) is in the set."""
        return start >= end or self.run_end(start) >= end

    def first_gap(self, start: int, end: int) -> int:
        """The lowest offset in [start, end) that is not in the set; `end` when there is none."""
        return min(self.run_end(start), end)

    def gaps(self, start: int, end: int) -> list[Run]:
        """What of [start, end) is not in the set, in order."""
        gaps: list[Run] = []
        at = start
        for index in range(bisect_right(self._ends, start), bisect_left(self._starts, end)):
            if self._starts[index] > at:
                gaps.append((at, self._starts[index]))
            at = self._ends[index]
        if at < end:
            gaps.append((at, end))
        return gaps

    def runs(self, start: int, end: int) -> list[Run]:
        """The runs that touch [start, end), not cut to it, in order."""
        low, high = bisect_right(self._ends, start), bisect_left(self._starts, end)
        return list(zip(self._starts[low:high], self._ends[low:high], strict=True))

    def copy(self) -> Extents:
        """An independent set of the same bytes."""
        twin = Extents()
        twin._starts, twin._ends, twin.total = self._starts[:], self._ends[:], self.total
        return twin

    def __iter__(self) -> Iterator[Run]:
        return zip(self._starts[:], self._ends[:], strict=True)

    def __len__(self) -> int:
        """The number of runs."""
        return len(self._starts)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Extents) and list(self) == list(other)

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"Extents({list(self)})"
