"""The reports on synchronisation that the admin API and `holdfast sync` show. Times are RFC 3339 in UTC."""

from __future__ import annotations

from typing import Literal

from holdfast.resources.model import ResourceStruct, SyncProgress

#: images, troubles and sentences in one report
SHOWN = 1000


class TroubleReport(ResourceStruct, frozen=True):
    """An image that failed. `kind` is transient, denied, gone, wrong, offline, full or unsupported."""

    image: str
    kind: str
    reason: str
    attempts: int
    since: str
    next_try: str


class SyncReport(ResourceStruct, frozen=True):
    """The state of synchronisation. `windowOpen`: whether requests to the parent are allowed now; `closes` is null
    where the window has no end, `opens` while it is open, or where its next opening is not known. `running` and `asked`
    are the triggers of the run under way and of the requested one, empty for none. `lookedAt` counts the tags that this
    run checked, `upToDate` the images that were complete after the last full scan, `incomplete` those that could not be
    fetched and are tried again; `troubles` has the first of them."""

    schedule: str
    window: str
    window_open: bool
    closes: str | None
    opens: str | None
    running: str
    asked: str
    last_sync_time: str | None
    looked_at: int
    up_to_date: int
    incomplete: int
    progress: SyncProgress | None
    troubles: tuple[TroubleReport, ...]
    words: tuple[str, ...]


class PlannedImage(ResourceStruct, frozen=True):
    """An incomplete image; `bytes` are those still to come, `absent` counts the children of its index that are not
    selected."""

    image: str
    bytes: int
    absent: int


class PlannedRemoval(ResourceStruct, frozen=True):
    """A removal: of a repository that is selected no longer, or of a tag, as `repository:tag`, that the parent lost.
    `fate` is remove (with the next run) or wait; `at` is the earliest time of the removal, null where it depends on the
    next runs."""

    name: str
    fate: str
    since: str
    at: str | None
    words: str


class PlanReport(ResourceStruct, frozen=True):
    """What the next run would fetch and remove. Without `ready` the plan is still being made, and the report has what
    is known so far. `fits` is null when no rate was measured yet; `window` is in seconds, null without end."""

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


class ImageOrder(ResourceStruct, frozen=True):
    """An image that is to be brought: the repository as the store has it, its tag or digest, and the image as it was
    called."""

    repository: str
    reference: str
    image: str


PrefetchState = Literal["Waiting", "Running", "Done", "Failed"]


class PrefetchReport(ResourceStruct, frozen=True):
    """An image on its way in, or one that came. `bytes` are those to come, as far as that is known; `bytesDone` have
    come. `reason` is why it failed."""

    image: str
    state: PrefetchState
    reason: str
    bytes: int
    bytes_done: int
    began: str


class PrefetchList(ResourceStruct, frozen=True):
    """Those of this process that are under way or were lately."""

    value: tuple[PrefetchReport, ...]
    next_link: str | None = None
