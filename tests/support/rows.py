"""How many records an open store reads."""

from __future__ import annotations

from collections.abc import Iterator
from types import TracebackType
from typing import Any

from holdfast_core.store import Store


class Rows:
    """Counts the records that are got, and those that cursors come by, in the process that opened the store."""

    def __init__(self, store: Store) -> None:
        self.total = self._told = 0
        index: Any = store._index
        begin = index.begin
        index.begin = lambda *args, **options: _Transaction(begin(*args, **options), self)

    def taken(self) -> int:
        """Those since the last call."""
        read, self._told = self.total - self._told, self.total
        return read


class _Transaction:
    def __init__(self, inner: Any, rows: Rows) -> None:
        self._inner, self._rows = inner, rows

    def get(self, key: bytes) -> bytes | None:
        self._rows.total += 1
        found: bytes | None = self._inner.get(key)
        return found

    def cursor(self) -> _Cursor:
        return _Cursor(self._inner.cursor(), self._rows)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def __enter__(self) -> _Transaction:
        self._inner.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._inner.__exit__(kind, error, trace)


class _Cursor:
    def __init__(self, inner: Any, rows: Rows) -> None:
        self._inner, self._rows = inner, rows

    def __enter__(self) -> _Cursor:
        self._inner.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        self._inner.__exit__(*error)

    def set_range(self, key: bytes) -> bool:
        self._rows.total += 1
        return bool(self._inner.set_range(key))

    def key(self) -> bytes:
        found: bytes = self._inner.key()
        return found

    def __iter__(self) -> Iterator[Any]:
        return self.iternext()

    def iternext(self, **options: Any) -> Iterator[Any]:
        for row in self._inner.iternext(**options):
            self._rows.total += 1
            yield row
