"""The delivery state of a webhook, and how each answer of its receiver changes it. Pure: time and chance are passed in.

Events are delivered one after the other. A failed delivery is tried again after a growing pause, until the event is
delivered or dropped: an event whose content the receiver refuses (`CONTENT_REFUSED`) is dropped after `REFUSALS` tries,
any other once it is older than `keep`. After a failure of the receiver itself (no answer, 401, 404, 429, 5xx, a
redirect) the event stays first in the queue, because the next one would fail as well.
"""

from __future__ import annotations

from typing import NamedTuple

from msgspec import Struct
from msgspec.structs import replace

from holdfast.backoff import AFTER_CEILING_SECONDS, pause

#: statuses by which a receiver refuses this very body: bad request, too large, unsupported type, unprocessable
CONTENT_REFUSED = frozenset({400, 413, 415, 422})
#: tries by which the receiver may refuse the content of an event before the event is dropped
REFUSALS = 5


class DeliveryOutcome(NamedTuple):
    """The result of one try. `status` is 0 without an answer, and `text` says why. `after` is the receiver's
    Retry-After (seconds)."""

    status: int
    text: str
    after: float = 0.0

    @property
    def is_taken(self) -> bool:
        """Whether the receiver accepted the event."""
        return 200 <= self.status < 300


class DeliveryState(Struct, frozen=True):
    """The state of one webhook: every event of the log `log` up to `number` is delivered, skipped or dropped. Times are
    wall seconds, 0 for never."""

    log: str = ""
    number: int = 0
    #: failed tries in a row, and how many of them refused the content of the event after `number`
    failures: int = 0
    refusals: int = 0
    failing_since: float = 0.0
    retry_at: float = 0.0
    answer: str = ""
    answered_at: float = 0.0
    delivered: int = 0
    dropped: int = 0
    dropped_at: float = 0.0
    dropped_for: str = ""

    def is_due(self, now: float) -> bool:
        """Whether to try now; true as well when the clock was set back to before the last try."""
        return not self.answered_at <= now < self.retry_at

    def passed(self, number: int) -> DeliveryState:
        """The state after skipping the events up to `number`, which no pattern matches."""
        return replace(self, number=number, refusals=0)

    def confirmed(self, number: int, answer: DeliveryOutcome, now: float) -> DeliveryState:
        """The state after the receiver accepted event `number`."""
        return replace(
            self,
            number=number,
            failures=0,
            refusals=0,
            failing_since=0.0,
            retry_at=0.0,
            answer=answer.text,
            answered_at=now,
            delivered=self.delivered + 1,
        )

    def failed(self, answer: DeliveryOutcome, now: float, share: float) -> DeliveryState:
        """The state after a failed try. `share`, from 0 to 1, spreads webhooks that failed together over half the
        pause."""
        failures = self.failures + 1
        wait = max(pause("transient", failures, share), min(answer.after, AFTER_CEILING_SECONDS))
        return replace(
            self,
            failures=failures,
            refusals=self.refusals + (answer.status in CONTENT_REFUSED),
            failing_since=self.failing_since or now,
            retry_at=now + wait,
            answer=answer.text,
            answered_at=now,
        )

    def why_drop(self, at: float, keep: float, now: float) -> str:
        """Returns why the event after `number`, which happened at `at`, is dropped; "" while it is kept. An event that
        was never tried is kept: a clock that jumps drops nothing as long as the receiver answers."""
        if self.refusals >= REFUSALS:
            return f"the receiver refused it {self.refusals} times ({self.answer})"
        if self.failures and now - at > keep:
            return f"the receiver took nothing until it was {keep:g} s old ({self.answer})"
        return ""

    def dropped_one(self, number: int, why: str, now: float) -> DeliveryState:
        """The state after dropping event `number`. When the receiver refused it, the next event is tried at once; when
        the receiver is unavailable, the pause goes on."""
        refused = self.refusals >= REFUSALS
        return replace(
            self,
            number=number,
            failures=0 if refused else self.failures,
            refusals=0,
            retry_at=0.0 if refused else self.retry_at,
            dropped=self.dropped + 1,
            dropped_at=now,
            dropped_for=why,
        )
