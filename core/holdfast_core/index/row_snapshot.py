"""The rows of the index that one answer was made of, so that later it can be said whether they are still the same.

While `Index.snapshot` is set, the reads of its thread are noted there. A read that cannot be repeated cheaply, such as
a scan, makes the snapshot *partial*: nothing can be said of such an answer. Whether a file is still there no row says.
"""

from __future__ import annotations

from collections.abc import Callable
from threading import get_ident

#: all keys below a prefix, or the first of them
Keys = Callable[[bytes, int | None], list[bytes]]


class RowSnapshot:
    """What was read. `rows`: sealed values by key, None for what is absent. `first_keys`: the first keys below a
    prefix, by prefix and number. `times`: payloads of tags, and the same with the last confirmation. `has_file`: bytes
    were read from a file, or are to be."""

    __slots__ = ("_thread", "any_locks", "first_keys", "has_file", "is_partial", "mode", "rows", "times")

    def __init__(self, mode: str) -> None:
        self._thread = get_ident()
        self.mode = mode
        self.rows: dict[bytes, bytes | None] = {}
        self.first_keys: dict[tuple[bytes, int | None], list[bytes]] = {}
        self.times: dict[bytes, tuple[bytes, bytes]] = {}
        self.any_locks: bool | None = None
        self.has_file = self.is_partial = False

    def note(self, key: bytes, value: bytes | None) -> None:
        """A row was read. One that was read twice and changed in between makes the snapshot partial."""
        if self._is_mine() and self.rows.setdefault(key, value) != value:
            self.is_partial = True

    def note_keys(self, prefix: bytes, limit: int | None, keys: list[bytes]) -> None:
        """The same of keys below a prefix."""
        if self._is_mine() and self.first_keys.setdefault((prefix, limit), keys) != keys:
            self.is_partial = True

    def note_locks(self, any_locks: bool) -> None:
        """The same of whether there is any lock."""
        if self._is_mine():
            if self.any_locks is not None and self.any_locks is not any_locks:
                self.is_partial = True
            self.any_locks = any_locks

    def note_time(self, key: bytes, payload: bytes, newest: bytes) -> None:
        """A tag was read, whose last confirmation is in memory."""
        if self._is_mine():
            self.times[key] = payload, newest

    def note_file(self) -> None:
        """A file was opened."""
        if self._is_mine():
            self.has_file = True

    def note_other(self) -> None:
        """Something else was read."""
        if self._is_mine():
            self.is_partial = True

    def _is_mine(self) -> bool:
        """Whether the present thread is the one whose reads are noted."""
        return get_ident() == self._thread

    def is_same(
        self, get: Callable[[bytes], bytes | None], keys: Keys, any_locks: Callable[[], bool]
    ) -> bool:
        """Whether one state of the index has the same rows."""
        if self.is_partial or any(get(key) != value for key, value in self.rows.items()):
            return False
        if self.any_locks is not None and any_locks() is not self.any_locks:
            return False
        return all(keys(prefix, limit) == found for (prefix, limit), found in self.first_keys.items())
