"""How far a webhook is, and what an answer means for it. Pure: time and chance are passed in.

Events are delivered one after the other. What fails is tried again, ever more seldom, until it is delivered or given
up: an event that the receiver refuses for what it says (`OF_THE_EVENT`) after `REFUSALS` tries, any other once it is
older than `keep`. Every failure of the receiver itself (no answer, 401, 404, 429, 5xx, a redirect) leaves the event
where it is, because the next one would fare no better.
"""

from __future__ import annotations

from typing import NamedTuple

from msgspec import Struct
from msgspec.structs import replace

from holdfast.sync.backoff import AFTER_CEILING_SECONDS, pause

#: statuses by which a receiver refuses this very body: bad request, too large, unsupported type, unprocessable
OF_THE_EVENT = frozenset({400, 413, 415, 422})
#: so often an event may be refused for what it says before it is given up
REFUSALS = 5


class Answer(NamedTuple):
    """What came of one try. `status` 0: there was no answer, and `words` say why. `after`: what the receiver asked for
    with Retry-After (seconds)."""

    status: int
    words: str
    after: float = 0.0

    @property
    def is_taken(self) -> bool:
        """Whether the receiver has the event."""
        return 200 <= self.status < 300


class Standing(Struct, frozen=True):
    """One webhook: everything up to event `number` of the log `log` is dealt with. Times are wall seconds, 0 for
    never."""

    log: str = ""
    number: int = 0
    #: tries in a row that failed, and those of them by which the event after `number` itself was refused
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
        """Whether to try now; also when the clock was set back behind the last try."""
        return not self.answered_at <= now < self.retry_at

    def passed(self, number: int) -> Standing:
        """Nobody wants to be told of the events up to `number`."""
        return replace(self, number=number, refusals=0)

    def told(self, number: int, answer: Answer, now: float) -> Standing:
        """The receiver has event `number`."""
        return replace(
            self,
            number=number,
            failures=0,
            refusals=0,
            failing_since=0.0,
            retry_at=0.0,
            answer=answer.words,
            answered_at=now,
            delivered=self.delivered + 1,
        )

    def failed(self, answer: Answer, now: float, share: float) -> Standing:
        """It has not. `share`, from 0 to 1, spreads those who failed together over half the wait."""
        failures = self.failures + 1
        wait = max(pause("transient", failures, share), min(answer.after, AFTER_CEILING_SECONDS))
        return replace(
            self,
            failures=failures,
            refusals=self.refusals + (answer.status in OF_THE_EVENT),
            failing_since=self.failing_since or now,
            retry_at=now + wait,
            answer=answer.words,
            answered_at=now,
        )

    def why_drop(self, at: float, keep: float, now: float) -> str:
        """Why the event after `number`, which happened at `at`, is given up; "" while it is not. One that was never
        tried is not: a clock that jumps loses nothing as long as the receiver answers."""
        if self.refusals >= REFUSALS:
            return f"the receiver refused it {self.refusals} times ({self.answer})"
        if self.failures and now - at > keep:
            return f"the receiver took nothing until it was {keep:g} s old ({self.answer})"
        return ""

    def dropped_one(self, number: int, why: str, now: float) -> Standing:
        """Event `number` is given up. What refused it is asked about the next one at once; a receiver that is away
        keeps its pause."""
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
