"""When a thing that failed is tried again. Pure: chance and time are passed in."""

from __future__ import annotations

from typing import Literal, NamedTuple

from msgspec import Struct

#: transient: may work the next time; denied: 401 or 403, works when it is granted; gone: the parent has no such
#: thing; wrong: bytes that do not match their digest, or an answer that cannot be; offline: no parent, which is
#: nobody's fault; full: no room here; damaged: not whole here, until it is pushed again; unsupported: of a format
#: that nobody can be given
Kind = Literal["transient", "denied", "gone", "wrong", "offline", "full", "damaged", "unsupported"]


class Backoff(NamedTuple):
    """Waits that double with each failure in a row: `base` seconds after the first, `ceiling` at most. `spread` is the
    part of each wait that chance decides, so that those who failed together do not come back together: 1 for full
    jitter, 0 for none."""

    base: float
    ceiling: float
    spread: float = 1.0

    def longest(self, failures: int) -> float:
        """The longest wait after this many failures in a row, from 1 (seconds)."""
        return min(self.ceiling, self.base * 2.0 ** min(failures - 1, 20))

    def delay(self, failures: int, share: float) -> float:
        """The wait after this many failures in a row. `share`, from 0 to 1, is the outcome of chance."""
        return self.longest(failures) * (1.0 - self.spread + self.spread * share)


CEILING_SECONDS, DENIED_CEILING_SECONDS = 900.0, 6 * 3600.0
TRANSIENT = Backoff(5.0, CEILING_SECONDS, spread=0.5)
#: what was refused is asked for less and less often, and for ever
DENIED = Backoff(900.0, DENIED_CEILING_SECONDS, spread=0.5)
#: what another try seldom helps
STUBBORN = Backoff(3600.0, 3600.0, spread=0.5)
#: longer than a parent may make this node wait with Retry-After
AFTER_CEILING_SECONDS = 3600.0


class Trouble(Struct, frozen=True):
    """A failure that is remembered. `at` is when it happened, `wait` how long to leave it alone, `since` when the first
    of the row happened (wall seconds)."""

    kind: Kind
    reason: str
    at: float
    wait: float
    since: float
    attempts: int = 1

    @property
    def parked(self) -> bool:
        """Whether something must be granted first. It is tried again all the same, seldom."""
        return self.kind == "denied"

    @property
    def counts(self) -> bool:
        """Whether something is missing that could be here."""
        return self.kind != "unsupported"

    @property
    def next_at(self) -> float:
        """When it is tried again (wall seconds)."""
        return self.at + self.wait

    def is_due(self, now: float) -> bool:
        """Whether to try again; also when the clock was set back behind the failure."""
        return not self.at <= now < self.next_at


def trouble(
    before: Trouble | None, kind: Kind, reason: str, now: float, share: float, after: float = 0.0
) -> Trouble:
    """The next state after a failure. `share`, from 0 to 1, spreads nodes that failed together over half the wait;
    `after` is what the parent asked for (seconds). Another kind of failure starts a row of its own."""
    same = before is not None and before.kind == kind
    attempts = before.attempts + 1 if before is not None and same else 1
    since = before.since if before is not None and same else now
    wait = max(pause(kind, attempts, share), min(after, AFTER_CEILING_SECONDS))
    return Trouble(kind, reason[:500], now, wait, since, attempts)


def pause(kind: Kind, attempts: int, share: float) -> float:
    """Seconds to wait after failure number `attempts` (from 1) of a kind."""
    if kind == "offline":
        return 0.0  # the parent's probe says when
    if kind in ("gone", "wrong", "full", "damaged", "unsupported"):
        return STUBBORN.delay(attempts, share)
    return (DENIED if kind == "denied" else TRANSIENT).delay(attempts, share)
