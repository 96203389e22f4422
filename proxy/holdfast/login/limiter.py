"""Limits failed logins by token name and by address. Pure: takes `now`.

A failure takes a token from two buckets, that of the name and that of the address; both fill again evenly. What an
empty bucket means is the caller's decision (`login.access`): a correct password of 256 bits is never delayed, because
no number of guesses finds one.

A client that logged in with a name from an address is not delayed by failures of that name from other addresses.
"""

from __future__ import annotations

from collections import OrderedDict

from holdfast.token_bucket import TokenBucket

#: buckets, and pairs of name and address, that are kept; the least recently used is dropped
REMEMBERED = 10_000
MINUTE = 60.0


class Limiter:
    """`failures` a minute for each name and for each address. `now` is monotonic, in seconds."""

    def __init__(self, failures: int) -> None:
        self._failures = float(failures)
        self._buckets: OrderedDict[tuple[str, str], TokenBucket] = OrderedDict()
        self._proven: OrderedDict[tuple[str, str], None] = OrderedDict()

    def wait(self, name: str, address: str, now: float) -> float:
        """Seconds until another attempt is allowed; 0 when it is allowed now."""
        keys = [("address", address)]
        if (name, address) not in self._proven:
            keys.append(("name", name))
        return max(self._buckets[key].wait(1.0, now) if key in self._buckets else 0.0 for key in keys)

    def failed(self, name: str, address: str, now: float) -> None:
        """Count one failure. Neither bucket goes into debt."""
        for key in (("address", address), ("name", name)):
            bucket = self._buckets.get(key)
            if bucket is None:
                bucket = self._buckets[key] = TokenBucket(self._failures / MINUTE, self._failures, now)
            bucket.take(min(1.0, bucket.level(now)), now)
            self._buckets.move_to_end(key)
        while len(self._buckets) > REMEMBERED:
            self._buckets.popitem(last=False)

    def succeeded(self, name: str, address: str) -> None:
        """Note that this address has the password of this name."""
        self._proven[name, address] = None
        self._proven.move_to_end((name, address))
        while len(self._proven) > REMEMBERED:
            self._proven.popitem(last=False)

    def __len__(self) -> int:
        """The number of buckets and pairs that are kept."""
        return len(self._buckets) + len(self._proven)
