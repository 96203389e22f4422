"""The reports on garbage collection that the admin API and `holdfast gc` show. Times are RFC 3339 in UTC."""

from __future__ import annotations

from typing import Literal

from holdfast.resources.model import ResourceStruct

#: repositories in one report, those that lose most
SHOWN = 1000

Trigger = Literal["Scheduled", "Ordered", "FullDisk"]


class CollectedRepository(ResourceStruct, frozen=True):
    """What a repository lost. `bytes` are of the disk, and only those that no other repository has; the sweep frees
    them after `push.sweep_grace`."""

    name: str
    digests: int
    bytes: int


class CollectionReport(ResourceStruct, frozen=True):
    """One collection. `lookedAt` counts digests without a name, `digests` those that went, or with `dryRun` would have
    gone; `repositories` has the 1,000 that lost most. `failure` is why it ended early, empty otherwise."""

    dry_run: bool
    trigger: Trigger
    began: str
    seconds: float
    looked_at: int
    digests: int
    bytes: int
    repositories: tuple[CollectedRepository, ...]
    failure: str = ""


class CollectionStatus(ResourceStruct, frozen=True):
    """Whether and when this node collects by itself, `nextRun` null where it does not. `report` is of the collection
    under way (`running`), of the dry run that was asked for, or of the last collection; null before the first."""

    enabled: bool
    schedule: str
    next_run: str | None
    running: bool
    report: CollectionReport | None
