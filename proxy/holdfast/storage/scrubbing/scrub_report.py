"""The reports on scrubs that the admin API, `holdfast scrub` and `holdfast status` show. Times are RFC 3339 in UTC."""

from __future__ import annotations

from typing import Literal

from holdfast.resources.model import ResourceStruct

ScrubTrigger = Literal["Scheduled", "Ordered"]


class ScrubReport(ResourceStruct, frozen=True):
    """A pass over the blob files and the journal. `bytes` were read from the disk, `found` chunks did not match their
    hash, of them `lost` because their file was not there as it was written; `repaired` came again from a parent, with
    those right behind a damaged one, which its repair finds.
    `journalFrames` were damaged, and the journal was written again from the index."""

    trigger: ScrubTrigger
    began: str
    ended: str | None
    bytes: int
    found: int
    lost: int
    repaired: int
    journal_frames: int


class ScrubStatus(ResourceStruct, frozen=True):
    """The scrub of a node: all bytes are read once in `period` seconds (0: by order), of `held` bytes now; `paused`
    while clients are served. `current` is the pass under way, `lastFullPass` the last that came to its end, null before
    the first. `unrepaired` blobs are damaged now, whoever found them; the count ends at 1,000."""

    period: float
    held: int
    paused: bool
    current: ScrubReport | None
    last_full_pass: ScrubReport | None
    unrepaired: int
