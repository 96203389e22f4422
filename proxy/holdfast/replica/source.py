"""Where work comes from, and when it may be done: the node's own `[sync]` over parents that are polled, or, on a
managed node, what its parent says (`managed.py`)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NamedTuple, Protocol

from holdfast.config import Configuration, SyncRepository
from holdfast.replica.copy import Copy
from holdfast.replica.holdings import Reading
from holdfast.replica.look import Look, wanted_of
from holdfast.replica.memory import Memory
from holdfast.repository import Repository
from holdfast.sync.schedule import FULL, Schedule, seconds

if TYPE_CHECKING:
    from holdfast.keeper.keeper import Keeper

Rows = Sequence[tuple[str, SyncRepository]]


class Search(NamedTuple):
    """The means of one run: what looks, over which (repository, row), and what copies."""

    look: Look
    rows: Rows
    copy: Copy


class Source(Protocol):
    """What synchronises asks this."""

    @property
    def schedule(self) -> Schedule | None:
        """None while nobody has said one."""

    @property
    def texts(self) -> tuple[str, str]:
        """Schedule and window as they were given."""

    @property
    def is_ready(self) -> bool:
        """Whether a run may begin."""

    @property
    def waits(self) -> bool:
        """Whether something came that no run has taken up."""

    def decided(self, key: str, *, ours: bool) -> bool:
        """A tag that was changed here went up (`ours`), or the parent's stays. Whether that is a reason for a run."""

    def follows(self, repository: str, tag: str) -> bool:
        """Whether a tag comes down whenever the parent has it, so that one which is not known here was not there. In
        doubt no: then the parent is asked."""

    def asked_at(self, trigger: str) -> float:
        """When somebody else asked for this, by his clock (wall seconds); 0 for nobody."""

    def notice(self, memory: Memory) -> Memory:
        """With what was asked for since."""

    def remembered(self, memory: Memory) -> Memory:
        """With what this must know after a restart."""

    def search(self, reading: Reading, trigger: str, memory: Memory, *, keeps: bool) -> Search:
        """For a run, or with `keeps` false for a plan."""

    def start(self, memory: Memory, share: float, changed: Callable[[], None]) -> None:
        """Take up what was kept; `changed` is called when something came. `share` is the node's own of
        `Schedule.delay`. Uses no network before it returns."""

    async def close(self) -> None:
        """Stop asking."""


class Polled:
    """The rows of the node's own file."""

    is_ready, waits = True, False

    def __init__(self, keeper: Keeper, config: Configuration) -> None:
        sync = config.sync
        self._keeper, self._rows = keeper, rows_of(config)
        self._wanted = wanted_of(self._rows)
        self.schedule = Schedule.parse(sync.schedule, sync.window, sync.message_ttl)
        self.texts = sync.schedule, sync.window
        self._referrers_every = seconds(sync.referrers_every, "referrers_every")

    def decided(self, key: str, *, ours: bool) -> bool:
        """See `Source`: a run finds what the parent has."""
        return not ours

    def follows(self, repository: str, tag: str) -> bool:
        """See `Source`."""
        where = Repository.from_key(repository)
        wish = self._wanted.get(where.namespace)
        return wish is not None and wish.follows(where.name, tag)

    def asked_at(self, trigger: str) -> float:
        """See `Source`."""
        return 0.0

    def notice(self, memory: Memory) -> Memory:
        """See `Source`."""
        return memory

    def remembered(self, memory: Memory) -> Memory:
        """See `Source`."""
        return memory

    def search(self, reading: Reading, trigger: str, memory: Memory, *, keeps: bool) -> Search:
        """See `Source`: tag lists, and a HEAD for each tag."""
        copy = Copy(self._keeper, reading, anew=trigger in FULL, every=self._referrers_every)
        return Search(Look(self._keeper, reading, copy, keeps=keeps), self._rows, copy)

    def start(self, memory: Memory, share: float, changed: Callable[[], None]) -> None:
        """See `Source`."""

    async def close(self) -> None:
        """See `Source`."""


def rows_of(config: Configuration) -> list[tuple[str, SyncRepository]]:
    """(store key, row) of what is wanted; of two rows for one repository the first counts."""
    from holdfast.routing import default_parent

    rows: dict[str, SyncRepository] = {}
    for row in config.sync.repositories:
        namespace = row.parent or default_parent(config.parent) or ""
        rows.setdefault(Repository(namespace, row.name).key, row)
    return list(rows.items())
