"""The source of synchronisation: what is synchronised, and when. `PolledSource` takes both from the node's own `[sync]`
and polls the parents; a managed node has them from its parent (`managed_source.py`)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NamedTuple, Protocol

from holdfast.config import Configuration, SyncRepositorySection
from holdfast.routing import Repository, default_parent
from holdfast.sync.holdings import ManifestReader
from holdfast.sync.image_copy import ImageCopy
from holdfast.sync.run_record import RunRecord
from holdfast.sync.schedule import FULL, Schedule, seconds
from holdfast.sync.source.scan import Scan, selections_of

if TYPE_CHECKING:
    from holdfast.sync.context import SyncContext

Rows = Sequence[tuple[str, SyncRepositorySection]]


class RunParts(NamedTuple):
    """The parts of one run: the scan, its rows of (repository, row), and the copy of images."""

    scan: Scan
    rows: Rows
    copy: ImageCopy


class WorkSource(Protocol):
    """The source as `Synchroniser` uses it."""

    @property
    def schedule(self) -> Schedule | None:
        """Returns the schedule, None while it is not known."""

    @property
    def texts(self) -> tuple[str, str]:
        """Returns schedule and window as they are configured."""

    @property
    def is_ready(self) -> bool:
        """Whether a run may begin."""

    @property
    def has_changes(self) -> bool:
        """Whether changes arrived that no run has begun."""

    def tag_decided(self, key: str, *, ours: bool) -> bool:
        """Records that a tag that was changed here was sent (`ours`), or that the parent's stays. Returns whether that
        is a reason for a run."""

    def follows(self, repository: str, tag: str) -> bool:
        """Whether a tag is fetched whenever the parent has it, so that a tag that is unknown here was not there. False
        in doubt: then the parent gets a request."""

    def covers(self, repository: str) -> bool:
        """Whether anything of a repository is kept here."""

    def brings_referrers(self, repository: str) -> bool:
        """Whether every referrer of a manifest of the repository is fetched as well, so that one that is not here was
        not there."""

    def requested_at(self, trigger: str) -> float:
        """Returns when another node requested this trigger, by its clock (wall seconds); 0 for none."""

    def with_requests(self, record: RunRecord) -> RunRecord:
        """Returns the record with the requests that arrived since."""

    def with_state(self, record: RunRecord) -> RunRecord:
        """Returns the record with the state that the source needs after a restart."""

    def run_parts(self, reading: ManifestReader, trigger: str, record: RunRecord, *, keeps: bool) -> RunParts:
        """Returns the parts of a run, or with `keeps` false of a dry run."""

    def start(self, record: RunRecord, share: float, changed: Callable[[], None]) -> None:
        """Starts with the stored record; `changed` is called when a change arrives. `share` is the node's own share for
        `Schedule.delay`. Uses no network before it returns."""

    async def close(self) -> None:
        """Stops the tasks."""


class PolledSource:
    """The source that polls the parents for the rows of the node's own `[sync]`."""

    is_ready, has_changes = True, False

    def __init__(self, context: SyncContext, config: Configuration) -> None:
        sync = config.sync
        self._context, self._rows = context, rows_of(config)
        self._selections = selections_of(self._rows)
        self.schedule = Schedule.parse(sync.schedule, sync.window, sync.message_ttl)
        self.texts = sync.schedule, sync.window
        self._referrers_every = seconds(sync.referrers_every, "referrers_every")

    def tag_decided(self, key: str, *, ours: bool) -> bool:
        """See `WorkSource`. A run is needed to fetch the parent's tag."""
        return not ours

    def follows(self, repository: str, tag: str) -> bool:
        """See `WorkSource`."""
        where = Repository.from_key(repository)
        selection = self._selections.get(where.namespace)
        return selection is not None and selection.follows(where.name, tag)

    def covers(self, repository: str) -> bool:
        """See `WorkSource`."""
        where = Repository.from_key(repository)
        selection = self._selections.get(where.namespace)
        return selection is not None and selection.covers(where.name)

    def brings_referrers(self, repository: str) -> bool:
        """See `WorkSource`. The referrers of each image are requested from the parent, and the lists stored."""
        return False

    def requested_at(self, trigger: str) -> float:
        """See `WorkSource`."""
        return 0.0

    def with_requests(self, record: RunRecord) -> RunRecord:
        """See `WorkSource`."""
        return record

    def with_state(self, record: RunRecord) -> RunRecord:
        """See `WorkSource`."""
        return record

    def run_parts(self, reading: ManifestReader, trigger: str, record: RunRecord, *, keeps: bool) -> RunParts:
        """See `WorkSource`: tag lists, and a HEAD for each tag."""
        copy = ImageCopy(self._context, reading, anew=trigger in FULL, every=self._referrers_every)
        return RunParts(Scan(self._context, reading, copy, keeps=keeps), self._rows, copy)

    def start(self, record: RunRecord, share: float, changed: Callable[[], None]) -> None:
        """See `WorkSource`."""

    async def close(self) -> None:
        """See `WorkSource`."""


def rows_of(config: Configuration) -> list[tuple[str, SyncRepositorySection]]:
    """Returns (store key, row) of the selected repositories; of two rows for one repository the first counts."""
    rows: dict[str, SyncRepositorySection] = {}
    for row in config.sync.repositories:
        namespace = row.parent or default_parent(config.parent) or ""
        rows.setdefault(Repository(namespace, row.name).key, row)
    return list(rows.items())
