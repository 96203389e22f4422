"""What the parent lately said it does not have. Only a 404 is remembered, and never for long (S45)."""

from __future__ import annotations

from collections import OrderedDict

#: Enough for a storm of signature probes; a key is some 150 bytes.
KEYS = 20_000


class NegativeCache:
    """Keys with an expiry, oldest dropped first. `ttl` in seconds; 0 remembers nothing."""

    def __init__(self, ttl: float) -> None:
        self.ttl = ttl
        self._expiry: OrderedDict[tuple[str, ...], float] = OrderedDict()

    def add(self, key: tuple[str, ...], now: float) -> None:
        """Remember a 404 from `now` (monotonic seconds) on."""
        self._expiry.pop(key, None)
        self._expiry[key] = now + self.ttl
        if len(self._expiry) > KEYS:
            self._expiry.popitem(last=False)

    def holds(self, key: tuple[str, ...], now: float) -> bool:
        """Whether a 404 for this key is still believed."""
        expiry = self._expiry.get(key)
        if expiry is None:
            return False
        if now < expiry:
            return True
        del self._expiry[key]
        return False
