"""The index that a rebuild replaces, as far as it can be read."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Self

from holdfast_core import format as layout
from holdfast_core.index.page_reader import IndexPages, MetaPage
from holdfast_core.journal import salvage
from holdfast_core.journal.salvage import SalvagedChange

_Row = tuple[bytes, bytes]


class OldIndex:
    """`sound`: every record of one state of it was read, so what it has not, was not. `state` is how far the journal
    goes for it, None when that is not known. The newest tree that is whole counts: after a lost meta page that of the
    transaction before, and the journal has the rest."""

    def __init__(self, path: Path) -> None:
        """Raises OSError when there is no file."""
        self.pages = IndexPages(path)
        self.state: layout.Journaled | None = None
        self.uuid: bytes | None = None
        self.damaged = 0
        self._again: dict[_Row, _Row | None] = {}
        self._meta, whole = self._chosen()
        self.rows_read = sum(1 for _ in self.rows())
        self.sound = whole and not self.damaged

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.pages.__exit__()

    def _chosen(self) -> tuple[MetaPage | None, bool]:
        for meta in self.pages.metas:
            if self.pages.is_whole(meta):
                return meta, True
        newest = next(iter(self.pages.metas), None)
        return newest, False

    def rows(self) -> Iterator[SalvagedChange]:
        """The records of journaled tables; those that cannot be read are not intact."""
        yield from (piece for piece in self._read() if piece.key[:1] in layout.JOURNALED_TABLES)

    def _read(self) -> Iterator[SalvagedChange]:
        self.damaged = 0
        for key, value in self._all():
            row = self._mended(key, value)
            if row is None:
                self.damaged += 1
                yield SalvagedChange(key, None, intact=False)
                continue
            if row[0] == layout.JOURNALED:
                self.state = layout.decode_journaled(layout.unseal(*row))
            if row[0] == layout.IDENTITY:
                self.uuid = layout.unseal(*row)
            yield SalvagedChange(*row)

    def _all(self) -> Iterator[_Row]:
        if self._meta is not None:
            yield from self.pages.rows(self._meta)
            yield from self.pages.strays(self._meta)

    def _mended(self, key: bytes, value: bytes) -> _Row | None:
        if salvage.is_sealed(key, value):
            return key, value
        if (key, value) not in self._again:
            self._again[key, value] = salvage.mended(key, value)
        return self._again[key, value]
