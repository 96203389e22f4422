"""How fast a scrub reads. Pure: what is held, how far the pass is, what the node does and `now` (wall seconds) in;
bytes to read now, and seconds to wait after them, out."""

from __future__ import annotations

from typing import NamedTuple

#: read at once: 20 ms of a thread
SLICE_BYTES = 8 << 20
#: a pass aims at this part of its period; the rest is for pauses
AIM = 0.9
#: between two looks while clients are served (seconds)
BUSY_SECONDS = 1.0
#: longest wait before the next look: what is held, and the clock, change (seconds)
LOOK_SECONDS = 60.0


class ScrubStep(NamedTuple):
    """Read so many bytes, then wait so long."""

    bytes: int
    wait: float


class ScrubProgress(NamedTuple):
    """A pass: when it began (wall seconds), bytes that it has read, and within how many seconds it shall be over; 0 for
    one that was ordered."""

    began: float
    bytes_read: int
    period: float


def step(progress: ScrubProgress, held: int, ceiling: int, now: float, *, is_busy: bool) -> ScrubStep:
    """What to read next of `held` bytes, at most `ceiling` a second. While the node is busy nothing, unless the pass is
    late: a node that is never idle would never be read."""
    elapsed = max(0.0, now - progress.began)
    if is_busy and elapsed < progress.period:
        return ScrubStep(0, BUSY_SECONDS)
    aim = AIM * progress.period
    if elapsed < aim:
        ahead = progress.bytes_read - held * elapsed / aim
        if ahead > 0:
            return ScrubStep(0, min(LOOK_SECONDS, ahead * aim / held if held else LOOK_SECONDS))
    size = min(SLICE_BYTES, ceiling)
    return ScrubStep(size, size / ceiling)


def next_pass(began: float, period: float, now: float) -> float:
    """When the pass after the one that began at `began` is due. One that began in the future was stamped by a wrong
    clock and counts from now."""
    return min(began, now) + period
