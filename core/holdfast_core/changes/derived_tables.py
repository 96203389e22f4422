"""All records that are derived from others, as they should be: for a store of an earlier format, for a rebuild, and for
`fsck`, which compares. `derivation` keeps them so, change by change."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from itertools import chain, groupby, islice

from holdfast_core import format as layout
from holdfast_core import space_format
from holdfast_core.changes import change
from holdfast_core.changes.change import IndexChange, Keep
from holdfast_core.changes.derivation import account_of, hour_of_use, store_account
from holdfast_core.changes.manifest_children import children_of
from holdfast_core.changes.transaction import commit_alone
from holdfast_core.digest import Digest
from holdfast_core.errors import RecordDamaged, StoreError
from holdfast_core.filesystem.directory import Directory
from holdfast_core.index.lmdb_index import Index
from holdfast_core.record import Child

ROWS = 10_000  # a transaction
#: tables of which every record is made here
TABLES = (
    *layout.DERIVED_TABLES,
    *(layout.CHILDREN, layout.EDGE, layout.ACCOUNT, layout.USE, layout.LOOSE),
)


def derive(place: Directory, index: Index) -> None:
    """Write the derived tables anew. The lease of what is loose begins now. There may be no other writer."""
    tables = DerivedTables(place, index)
    for table in TABLES:
        old = (IndexChange(key, None, Keep.INDEX) for key, _ in index.scan(table))
        rows = chain(old, tables.rows(table))
        while batch := list(islice(rows, ROWS)):
            commit_alone(index, batch)


def complete(place: Directory, index: Index, manifests: Iterable[bytes]) -> None:
    """Note what manifests (their digest keys) name, of those that are linked and have no such note: what `derivation`
    makes of a link needs it first."""
    tables = DerivedTables(place, index)
    for manifest in manifests:
        digest = Digest.from_key(manifest)
        with index.view() as view:
            holders = [key[-16:] for key in view.keys(layout.HOLDER + manifest + layout.AS_MANIFEST)]
            if not holders or change.children_in(view, manifest) is not None:
                continue
        if (children := tables.children(digest)) is None:
            continue
        rows = change.children_rows(digest, children)
        for holder in holders:
            keys = [child.digest.key for child in children]
            rows += [change.put(space_format.edge_prefix(holder, key) + manifest, b"") for key in keys]
            rows += change.remove(space_format.loose_key(holder, key) for key in keys)
        commit_alone(index, rows)


class DerivedTables:
    """What the derived records of an index should be. Damaged records have none."""

    def __init__(self, place: Directory, index: Index) -> None:
        self._place = place
        self._index = index

    def rows(self, table: bytes) -> Iterator[IndexChange]:
        """All of one of TABLES. CHILDREN takes HOLDER for right, EDGE and LOOSE all before them; LOOSE begins at
        `Index.written_at`."""
        if table in layout.DERIVED_TABLES:
            return self._turned_round(layout.DERIVED_TABLES[table])
        rows: dict[bytes, Callable[[], Iterator[IndexChange]]] = {
            layout.CHILDREN: self._children,
            layout.EDGE: self._edges,
            layout.ACCOUNT: self._accounts,
            layout.USE: self._uses,
            layout.LOOSE: self._loose,
        }
        return rows[table]()

    def _turned_round(self, source: bytes) -> Iterator[IndexChange]:
        for key, payload in self._intact(source):
            yield change.put(layout.derived_key(key, payload), b"")

    def _children(self) -> Iterator[IndexChange]:
        holders = (key for key, _ in self._index.scan(layout.HOLDER))
        for digest, _ in groupby(key[1:-17] for key in holders if key[-17:-16] in layout.MANIFEST_KINDS):
            yield from self.children_rows(layout.digest_from(digest, digest))

    def children_rows(self, digest: Digest) -> list[IndexChange]:
        """The note of what a manifest names, out of its body; none when that is not here or not what its name says."""
        children = self.children(digest)
        return [] if children is None else change.children_rows(digest, children)

    def children(self, digest: Digest) -> list[Child] | None:
        """What a manifest names, out of its body; None when that is not here or not what its name says."""
        body = self._body(digest)
        return None if body is None else children_of(body)

    def _body(self, digest: Digest) -> bytes | None:
        with self._index.view() as view:
            blob = change.blob_of(view, digest)
        if blob is None:
            return None
        body = blob.inline
        if body is None:
            try:
                fd, _ = self._place.open_blob(digest, blob.size)
                with os.fdopen(fd, "rb") as file:
                    body = file.read()
            except (StoreError, OSError):
                return None
        return body if Digest.of(body, digest.algorithm) == digest else None

    def _edges(self) -> Iterator[IndexChange]:
        for key, _ in self._index.scan(layout.LINK):
            if key[17:18] not in layout.MANIFEST_KINDS:
                continue
            with self._index.view() as view:
                children = change.children_in(view, key[18:])
            for child in children or ():
                yield change.put(space_format.edge_prefix(key[1:17], child.digest.key) + key[18:], b"")

    def _accounts(self) -> Iterator[IndexChange]:
        links = (key for key, _ in self._index.scan(layout.LINK))
        for repository, _ in groupby(links, lambda key: key[1:17]):
            with self._index.view() as view:
                account = account_of(view, repository)
            if any(account):
                payload = space_format.encode_repository_account(account)
                yield change.put(space_format.account_key(repository), payload)
        with self._index.view() as view:
            total = store_account(view)
        if any(total):
            yield change.put(space_format.account_key(), space_format.encode_store_account(total))

    def _uses(self) -> Iterator[IndexChange]:
        for key, _ in self._index.scan(layout.LINK):
            with self._index.view() as view:
                hour = hour_of_use(view, key[1:17], key[18:])
            if hour is not None:
                yield change.put(space_format.use_key(hour, key[1:17], key[18:]), b"")

    def _loose(self) -> Iterator[IndexChange]:
        now = self._index.written_at()
        for key, _ in self._index.scan(layout.LINK):
            with self._index.view() as view:
                rows = change.loose(view, key[1:17], key[18:], now=now)
            yield from rows

    def _intact(self, table: bytes) -> Iterator[tuple[bytes, bytes]]:
        for key, value in self._index.scan(table):
            try:
                yield key, layout.unseal(key, value)
            except RecordDamaged:
                continue
