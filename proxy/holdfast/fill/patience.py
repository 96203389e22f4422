"""How long a fill keeps trying. Pure: outcomes in, a delay or the end of patience out."""

from __future__ import annotations

from holdfast.errors import ParentDenied, Refusal

#: Attempts in a row that bring nothing, then the fill fails (reliability.md P2).
TRIES = 5
#: Backing off: full jitter up to this, doubled with each attempt that brought nothing (seconds).
BACKOFF_SECONDS = 1.0
LONGEST_BACKOFF_SECONDS = 30.0
#: After progress: enough that a parent that cuts every answer is not asked in a tight loop.
RESUME_SECONDS = 0.05
#: A parent's Retry-After is honoured up to this (reliability.md P1).
LONGEST_RETRY_AFTER_SECONDS = 300


class Patience:
    """Any new byte since the last failure starts the count of tries anew, so a link that is cut again and
    again is resumed without end; five failures without one end it."""

    def __init__(self) -> None:
        self._held = self._tries = self._streak = 0

    def failed(self, error: Refusal, gained: int, held: int) -> bool:
        """An attempt ended early after `gained` new bytes; the fill has `held`. Whether to try again."""
        self._streak = 0 if gained else self._streak + 1
        self._tries = 0 if held > self._held else self._tries + 1
        self._held = held
        # a parent that has sent bytes and now says 401 or 403 means a URL or token that ran out
        final = getattr(error, "permanent", False) and not isinstance(error, ParentDenied)
        return not final and self._tries < TRIES

    def limit(self) -> float:
        """The longest wait before the next attempt, in seconds; jitter makes it shorter."""
        if not self._streak:
            return RESUME_SECONDS
        doubled: float = BACKOFF_SECONDS * 2 ** min(self._streak - 1, 10)
        return min(doubled, LONGEST_BACKOFF_SECONDS)

    @staticmethod
    def least(error: Refusal) -> float:
        """What the parent asked us to wait, within reason, in seconds."""
        return float(min(error.retry_after or 0, LONGEST_RETRY_AFTER_SECONDS))

    def renew(self) -> None:
        """An attempt went to its end, or somebody asks anew."""
        self._tries = self._streak = 0
