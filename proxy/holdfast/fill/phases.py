"""The phases of a fill: one table, from a phase and an event to the next phase. Pure.

`Fill` applies an event for everything that happens to it, and acts on the phase that follows. An event that has no row
for the present phase cannot happen, and is an error of the caller.
"""

from __future__ import annotations

from enum import StrEnum


class FillPhase(StrEnum):
    """FETCHING: transfers run, or will as soon as the plan says so. PARKED: no reader wants more. FAILING: the fill
    failed, and its transfers are ending. FAILED: the fill failed and is parked; the next reader starts it again.
    MATCHED: the digest matched, and the bytes are not in the store. STORED, PASSED, DROPPED: no byte follows, and
    files are being closed; the blob is in the store, only passed through, or is not the parent's whole blob. COMPLETE,
    GONE: as STORED or PASSED, as DROPPED, with every file closed. SUSPENDED: the node stops or the fill is put away;
    its checkpoint stays."""

    FETCHING = "fetching"
    PARKED = "parked"
    FAILING = "failing"
    FAILED = "failed"
    MATCHED = "matched"
    STORED = "stored"
    PASSED = "passed"
    DROPPED = "dropped"
    COMPLETE = "complete"
    GONE = "gone"
    SUSPENDED = "suspended"


class FillEvent(StrEnum):
    """WANTED: a reader or a background read comes. UNWANTED: no want and no transfer is left. REFUSED: the parent or
    the node failed; the bytes that are here stay. ENDED: no byte will follow, and those that are here are not kept.
    MATCH: the digest matched. ADMITTED: it matched, and the blob is in the store. RELEASED: transfers, writes and
    hashing have ended. CLOSED: the owner closes the fill."""

    WANTED = "a reader comes"
    UNWANTED = "the last want goes"
    REFUSED = "a failure"
    ENDED = "the end, with nothing kept"
    MATCH = "the digest matches"
    ADMITTED = "the blob is in the store"
    RELEASED = "nothing touches the bytes any more"
    CLOSED = "the owner closes it"


_LIVE = (FillPhase.FETCHING, FillPhase.PARKED, FillPhase.FAILING, FillPhase.FAILED)
_VERIFIED_END = (FillPhase.STORED, FillPhase.PASSED)

TABLE: dict[tuple[FillPhase, FillEvent], FillPhase] = {
    **{(phase, FillEvent.WANTED): FillPhase.FETCHING for phase in _LIVE},
    (FillPhase.FETCHING, FillEvent.UNWANTED): FillPhase.PARKED,
    (FillPhase.FAILING, FillEvent.UNWANTED): FillPhase.FAILED,
    (FillPhase.FETCHING, FillEvent.REFUSED): FillPhase.FAILING,
    (FillPhase.FAILING, FillEvent.REFUSED): FillPhase.FAILING,
    (FillPhase.PARKED, FillEvent.REFUSED): FillPhase.FAILED,
    (FillPhase.FAILED, FillEvent.REFUSED): FillPhase.FAILED,
    **{(phase, FillEvent.ENDED): FillPhase.DROPPED for phase in _LIVE},
    # the digest decides, whatever failed while it was computed
    **{(phase, FillEvent.MATCH): FillPhase.MATCHED for phase in _LIVE},
    **{(phase, FillEvent.ADMITTED): FillPhase.STORED for phase in _LIVE},
    **{(phase, FillEvent.CLOSED): FillPhase.SUSPENDED for phase in _LIVE},
    (FillPhase.MATCHED, FillEvent.WANTED): FillPhase.MATCHED,
    (FillPhase.MATCHED, FillEvent.ENDED): FillPhase.PASSED,
    # the store was admitting the blob when the fill failed
    (FillPhase.DROPPED, FillEvent.MATCH): FillPhase.PASSED,
    (FillPhase.DROPPED, FillEvent.ADMITTED): FillPhase.STORED,
    **{(phase, FillEvent.RELEASED): FillPhase.COMPLETE for phase in _VERIFIED_END},
    (FillPhase.DROPPED, FillEvent.RELEASED): FillPhase.GONE,
    # what has ended stays so
    **{
        (phase, event): phase
        for phase in (
            *_VERIFIED_END,
            FillPhase.DROPPED,
            FillPhase.COMPLETE,
            FillPhase.GONE,
            FillPhase.SUSPENDED,
        )
        for event in (FillEvent.WANTED, FillEvent.CLOSED)
    },
}

_VERIFIED = frozenset({FillPhase.MATCHED, *_VERIFIED_END, FillPhase.COMPLETE})
_ENDED = frozenset(
    {*_VERIFIED_END, FillPhase.DROPPED, FillPhase.COMPLETE, FillPhase.GONE, FillPhase.SUSPENDED}
)


class Lifecycle:
    """The present phase of one fill, for everything that the fill is made of."""

    def __init__(self) -> None:
        self.phase = FillPhase.FETCHING

    def apply(self, event: FillEvent) -> FillPhase:
        """The phase after `event`. Raises KeyError when the table has no row: a bug of the caller."""
        self.phase = TABLE[self.phase, event]
        return self.phase

    @property
    def is_verified(self) -> bool:
        """Whether the digest of the whole blob matched."""
        return self.phase in _VERIFIED

    @property
    def has_ended(self) -> bool:
        """Whether no byte will follow."""
        return self.phase in _ENDED

    @property
    def is_refused(self) -> bool:
        """Whether the fill failed, and starts no transfer before a reader wants it again."""
        return self.phase in (FillPhase.FAILING, FillPhase.FAILED)

    @property
    def is_parked(self) -> bool:
        """Whether no transfer runs, and no reader wants one."""
        return self.phase in (FillPhase.PARKED, FillPhase.FAILED)

    @property
    def is_released(self) -> bool:
        """Whether transfers, writes and hashing have ended for good."""
        return self.phase in (FillPhase.COMPLETE, FillPhase.GONE)


def markdown() -> str:
    """The table as `docs/design.md` shows it: a row for each phase and the phases it leads to."""
    lines = ["| phase | after | follows |", "|---|---|---|"]
    for phase in FillPhase:
        for following in FillPhase:
            events = [str(event) for event in FillEvent if TABLE.get((phase, event)) == following]
            if events and following != phase:
                lines.append(f"| {phase} | {'; '.join(events)} | {following} |")
    return "\n".join(lines)
