"""How many bytes of the disk the store may take, and which parts of that are kept for whom. Pure.

The budget is the least of `store.max_bytes` and what leaves `store.min_free` of the file system free, whoever uses the
rest: a disk that another program fills takes room from a cache, not the other way round.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from holdfast.config import ShareSection, StoreSection
from holdfast.oci.names import is_repository
from holdfast.routing import Repository, compile_patterns

#: without a budget
UNBOUNDED = sys.maxsize
#: what is left free when nothing is configured: a tenth of the file system, at most so much (bytes)
USUAL_PART, USUAL_MOST = 10, 32 << 30
#: a store with less room could not keep its own index, journal and reserved space (bytes)
LEAST_BYTES = 32 << 20

_AMOUNT = re.compile(r"([0-9]+(?:\.[0-9]+)?) ?(%|B|[KMGT]i?B)?")
_UNITS = {"": 1, "B": 1} | {
    f"{letter}{kind}": base**power
    for power, letter in enumerate("KMGT", 1)
    for kind, base in (("B", 1000), ("iB", 1024))
}


@dataclass(frozen=True, slots=True)
class DiskBudget:
    """The bounds in bytes; `most` UNBOUNDED and `free` 0 where there is none. `is_usual`: what is left free was not
    configured, so that only what can be fetched again keeps off it."""

    most: int
    free: int
    high: float
    low: float
    is_usual: bool

    @classmethod
    def of(cls, section: StoreSection, disk_bytes: int) -> DiskBudget:
        """The budget of a configuration without problems, on a file system of so many bytes."""
        least = free_bytes(section.min_free, disk_bytes)
        usual = min(disk_bytes // USUAL_PART, USUAL_MOST)
        return cls(
            section.max_bytes or UNBOUNDED,
            usual if least is None else least,
            section.high_water,
            section.low_water,
            least is None,
        )

    @property
    def is_bounded(self) -> bool:
        """Whether there is any bound."""
        return self.most != UNBOUNDED or self.free > 0

    def limit(self, capacity: int) -> int:
        """What the store may take where it and the free space are `capacity` bytes together."""
        return max(0, min(self.most, capacity - self.free)) if self.is_bounded else UNBOUNDED

    def limit_of_pushes(self, capacity: int) -> int:
        """The same for what clients push: it may take what is left free by default."""
        return min(self.most, capacity) if self.is_usual else self.limit(capacity)


def free_bytes(text: str, disk_bytes: int) -> int | None:
    """`store.min_free` in bytes; None when it is empty. Raises ValueError for another text."""
    if not text:
        return None
    match = _AMOUNT.fullmatch(text)
    if match is None:
        raise ValueError(text)
    number, unit = float(match[1]), match[2] or ""
    if unit != "%":
        return int(number * _UNITS[unit])
    if number >= 100:
        raise ValueError(text)
    return int(disk_bytes * number / 100)


def store_contradictions(section: StoreSection, parents: Sequence[str] = ()) -> Iterator[str]:
    """Problems of `[store]` that can be seen without its disk, beside parents of these names."""
    try:
        free_bytes(section.min_free, 0)
    except ValueError:
        yield (
            f"store.min_free: found {section.min_free!r}; allowed: a share below 100 such as '10%', bytes such as"
            " '20GB' or '500MiB', or '0' for none"
        )
    if section.low_water >= section.high_water:
        yield (
            f"store.low_water: found {section.low_water:g} beside store.high_water {section.high_water:g};"
            " allowed: less than that, because eviction goes from the one to the other"
        )
    if 0 < section.max_bytes < LEAST_BYTES:
        yield (
            f"store.max_bytes: found {section.max_bytes}; allowed: 0 for none, or at least {LEAST_BYTES}, which a"
            " store takes without content"
        )
    yield from share_contradictions(section.shares, parents)


def share_contradictions(shares: Sequence[ShareSection], parents: Sequence[str]) -> Iterator[str]:
    """Problems of `[[store.shares]]`."""
    known = ["", "*", "default", *parents]
    for number, share in enumerate(shares):
        if share.parent not in known:
            named = ", ".join(filter(None, parents)) or "none has one"
            yield (
                f"store.shares[{number}].parent: found {share.parent!r}; allowed: '' or '*' for all, 'default', or the"
                f" name of a [[parent]] ({named})"
            )
        for pattern in share.repositories:
            if not is_repository(re.sub(r"\*+", "a", pattern)):
                yield (
                    f"store.shares[{number}].repositories: found {pattern!r}, which no repository matches; allowed: a"
                    " name, with * within a segment and ** across, such as 'line/**'"
                )
        if share.soft > share.hard:
            yield (
                f"store.shares[{number}].soft: found {share.soft:g} beside hard {share.hard:g}; allowed: at most"
                " that, because more is never held"
            )
    if (total := sum(share.soft for share in shares)) > 1:
        parts = " + ".join(f"{share.soft:g}" for share in shares)
        yield f"store.shares: found soft shares of {parts} = {total:g}; allowed: 1 together, the whole budget"


def disk_contradictions(section: StoreSection, disk_bytes: int) -> Iterator[str]:
    """Problems of `[store]` on a file system of so many bytes."""
    budget = DiskBudget.of(section, disk_bytes)
    if budget.free > disk_bytes - LEAST_BYTES and not budget.is_usual:
        yield (
            f"store.min_free: found {section.min_free!r}, which is {budget.free} bytes; the file system has"
            f" {disk_bytes}, and a store needs {LEAST_BYTES}"
        )
    elif section.max_bytes and section.max_bytes > disk_bytes - budget.free and not budget.is_usual:
        yield (
            f"store.max_bytes: found {section.max_bytes} beside store.min_free {section.min_free!r}; the file system"
            f" has {disk_bytes} bytes, which leaves {disk_bytes - budget.free}"
        )
    elif section.max_bytes > disk_bytes:
        yield f"store.max_bytes: found {section.max_bytes}; the file system has {disk_bytes} bytes"


class ShareUse:
    """What the repositories of each row take, in bytes that no other repository needs; the first row that names a
    repository counts."""

    def __init__(self, rows: Sequence[ShareSection]) -> None:
        self._rows = tuple(rows)
        self._patterns = [compile_patterns(row.repositories or ("**",)) for row in rows]
        self._known: dict[str, int | None] = {}
        self._used = [0] * len(self._rows)

    def counted(self, own_bytes: Iterable[tuple[str, int]]) -> None:
        """Count anew: repositories, by their names in the store, and what each has."""
        self._used = [0] * len(self._rows)
        for repository, size in own_bytes:
            self.add(repository, size)

    def add(self, repository: str, size: int) -> None:
        """So many bytes more, or less."""
        if (number := self._row_of(repository)) is not None:
            self._used[number] += size

    def excess(self, limit: int) -> int:
        """Bytes over the hard shares of a budget."""
        return sum(
            max(0, used - int(row.hard * limit)) for row, used in zip(self._rows, self._used, strict=True)
        )

    def is_over(self, repository: str, limit: int) -> bool:
        """Whether its row is over its hard share."""
        number = self._row_of(repository)
        return number is not None and self._used[number] > self._rows[number].hard * limit

    def is_below(self, repository: str, limit: int) -> bool:
        """Whether its row is below its soft share."""
        number = self._row_of(repository)
        if number is None or not self._rows[number].soft:
            return False
        return self._used[number] <= self._rows[number].soft * limit

    def _row_of(self, repository: str) -> int | None:
        if repository not in self._known:
            self._known[repository] = self._found(Repository.from_key(repository))
        return self._known[repository]

    def _found(self, repository: Repository) -> int | None:
        parents = ("", "*", repository.namespace or "default")
        for number, (row, pattern) in enumerate(zip(self._rows, self._patterns, strict=True)):
            if row.parent in parents and pattern.fullmatch(repository.name):
                return number
        return None
