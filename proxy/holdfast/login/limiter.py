"""Failed logins, counted by token name and by address. Pure: takes `now`.

A failure takes one from two buckets, that of the name and that of the address; both fill again evenly. What follows
from an empty bucket is the caller's decision (`login.access`): a right password of 256 bits is never held up, because
nobody finds one by trying.

An address that logged in with a name just now is not held up by what others do with that name.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import NamedTuple

#: buckets, and pairs of name and address, that are remembered; the one that was used longest ago makes room
REMEMBERED = 10_000
MINUTE = 60.0


class _Bucket(NamedTuple):
    left: float
    at: float


class Limiter:
    """`failures` a minute for each name and for each address. `now` is monotonic, in seconds."""

    def __init__(self, failures: int) -> None:
        self._most = float(failures)
        self._buckets: OrderedDict[tuple[str, str], _Bucket] = OrderedDict()
        self._friends: OrderedDict[tuple[str, str], None] = OrderedDict()

    def wait(self, name: str, address: str, now: float) -> float:
        """Seconds until another try may be made; 0 when it may now."""
        keys = [("address", address)]
        if (name, address) not in self._friends:
            keys.append(("name", name))
        return max(self._seconds(self._left(key, now)) for key in keys)

    def failed(self, name: str, address: str, now: float) -> None:
        """One more failure. Neither bucket goes below nothing."""
        for key in (("address", address), ("name", name)):
            self._buckets[key] = _Bucket(max(0.0, self._left(key, now) - 1.0), now)
            self._buckets.move_to_end(key)
        while len(self._buckets) > REMEMBERED:
            self._buckets.popitem(last=False)

    def succeeded(self, name: str, address: str) -> None:
        """A right password."""
        self._friends[name, address] = None
        self._friends.move_to_end((name, address))
        while len(self._friends) > REMEMBERED:
            self._friends.popitem(last=False)

    def __len__(self) -> int:
        """What is remembered."""
        return len(self._buckets) + len(self._friends)

    def _left(self, key: tuple[str, str], now: float) -> float:
        bucket = self._buckets.get(key)
        if bucket is None:
            return self._most
        return min(self._most, bucket.left + max(0.0, now - bucket.at) * self._most / MINUTE)

    def _seconds(self, left: float) -> float:
        return 0.0 if left >= 1.0 else (1.0 - left) * MINUTE / self._most
