"""What is told of synchronisation, as the admin API and `holdfast sync` show it. Times are RFC 3339 in UTC."""

from __future__ import annotations

from holdfast.control.resource import SyncProgress, Wire

#: images, troubles and sentences in one report
SHOWN = 1000


class TroubleReport(Wire, frozen=True):
    """An image that did not come. `kind` is transient, denied, gone, wrong, offline, full or unsupported."""

    image: str
    kind: str
    reason: str
    attempts: int
    since: str
    next_try: str


class SyncReport(Wire, frozen=True):
    """Where synchronisation stands. `windowOpen`: whether the parent is talked to now; `closes` is null where that has
    no end. `running` and `asked` are triggers, empty for none. `lookedAt` counts tags asked about in this run,
    `upToDate` images that were here when all was last looked at."""

    schedule: str
    window: str
    window_open: bool
    closes: str | None
    running: str
    asked: str
    last_sync_time: str | None
    looked_at: int
    up_to_date: int
    progress: SyncProgress | None
    troubles: tuple[TroubleReport, ...]
    words: tuple[str, ...]


class PlannedImage(Wire, frozen=True):
    """One image that lacks something; `bytes` are those still to come, `absent` counts the children of its index that
    are not wanted."""

    image: str
    bytes: int
    absent: int


class PlannedRemoval(Wire, frozen=True):
    """Something here that goes: a repository that is wanted no longer, or a tag, as `repository:tag`, that the parent
    lost. `fate` is remove (with the next run) or wait; `at` is when it goes at the soonest, null where that depends on
    what runs find."""

    name: str
    fate: str
    since: str
    at: str | None
    words: str


class PlanReport(Wire, frozen=True):
    """What the next run would fetch and remove. Not `ready`: it is still being made, and what it knows so far counts.
    `fits` is null when no rate was measured yet; `window` is in seconds, null without end."""

    ready: bool
    looked_at: int
    up_to_date: int
    images: tuple[PlannedImage, ...]
    removals: tuple[PlannedRemoval, ...]
    bytes: int
    absent: int
    rate: float
    window: float | None
    fits: bool | None
    verdict: str
    words: tuple[str, ...]
