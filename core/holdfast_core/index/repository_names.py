"""Names of repositories by their hash, which is what the keys of other tables have of them."""

from __future__ import annotations

from collections.abc import Collection

from holdfast_core import format as layout
from holdfast_core.digest import Digest
from holdfast_core.index.lmdb_index import Index

#: repositories of a damaged blob that are named
HOLDERS = 20


class RepositoryNames:
    """The names of an index, as far as they were looked up."""

    def __init__(self, index: Index) -> None:
        self._index = index
        self._names: dict[bytes, str] = {}

    def of(self, hashes: Collection[bytes]) -> list[str]:
        """The names that are known, in the order of their hashes."""
        if any(raw not in self._names for raw in hashes):
            every = (layout.repository_name(key) for key, _ in self._index.scan(layout.REPOSITORY))
            self._names = {layout.repository_hash(name): name for name in every}
        return [self._names[raw] for raw in hashes if raw in self._names]

    def holding(self, digest: Digest) -> list[str]:
        """Repositories that have the bytes, as a blob or as a manifest, sorted, at most HOLDERS."""
        hashes = {key[-16:] for key, _ in self._index.scan(layout.HOLDER + digest.key, limit=HOLDERS)}
        return sorted(self.of(hashes))
