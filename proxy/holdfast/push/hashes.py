"""How far the bytes of each session were hashed by this process.

A state at some offset stays true while its session lives: what it covers was acknowledged, or was left in place
by a connection that broke off, and neither is taken back. So a state that lags behind, because another
process wrote in between, is gone on with from the file. One that is missing is begun again from byte 0.
"""

from __future__ import annotations

from collections import OrderedDict

from holdfast_core.digest import ChunkHasher

#: a state is about 100 bytes for each MiB it covers (its chunk table)
LIMIT = 256


class Hashes:
    """States by name of the session, the least recently used dropped beyond `limit`."""

    def __init__(self, limit: int = LIMIT) -> None:
        self._limit = limit
        self._states: OrderedDict[str, tuple[str, ChunkHasher]] = OrderedDict()

    def take(self, name: str, algorithm: str, size: int) -> ChunkHasher:
        """The state to go on from, now the caller's: at most `size` bytes far, perhaps 0."""
        kept, hasher = self._states.pop(name, (algorithm, ChunkHasher(algorithm)))
        return hasher if kept == algorithm and hasher.size <= size else ChunkHasher(algorithm)

    def keep(self, name: str, algorithm: str, hasher: ChunkHasher) -> None:
        """Remember a state."""
        if hasher.size:
            self._states[name] = (algorithm, hasher)
        if len(self._states) > self._limit:
            self._states.popitem(last=False)

    def forget(self, name: str) -> None:
        """The session is over."""
        self._states.pop(name, None)

    def __len__(self) -> int:
        return len(self._states)
