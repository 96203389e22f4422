"""What a rebuild could not bring back, in words, and what named it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from holdfast_core import format as layout
from holdfast_core.changes import change
from holdfast_core.changes.transaction import commit
from holdfast_core.digest import Digest
from holdfast_core.errors import RecordDamaged
from holdfast_core.index.lmdb_index import Index, TransactionView
from holdfast_core.upkeep.fsck import FsckReport

#: tables whose keys begin with a repository, and the words for what follows it
_NAMED = {
    layout.LINK: "link",
    layout.TAG: "tag",
    layout.MOVES: "moves of tag",
    layout.TAG_LIST: "part of the parent's tags",
    layout.REFERRER: "referrer",
    layout.REFERRER_LIST: "part of the parent's referrers",
    layout.LOCK: "lock",
    layout.PENDING: "note that the parent does not have",
    layout.DELETED: "note that was deleted:",
}
#: what is fetched from the parent anyway
_CACHED = frozenset((layout.TAG_LIST, layout.REFERRER_LIST))


class LostRecords:
    """Over a new index whose derived tables are there."""

    def __init__(self, index: Index, report: FsckReport) -> None:
        self._index = index
        self._report = report
        names = (layout.repository_name(key) for key, _ in index.scan(layout.REPOSITORY))
        self._names = {layout.repository_hash(name): name for name in names}

    def drop_dangling(self) -> None:
        """Nothing names what is not there: links without bytes, tags, referrers and notes without their manifest."""
        self._drop_unheld()
        rows = [key for key, _ in self._index.scan(layout.LINK) if key[17:18] == layout.AS_MANIFEST]
        held = {key[1:17] + key[18:] for key in rows}
        for table in (layout.TAG, layout.REFERRER, layout.PENDING):
            gone = [row for row in self._rows(table) if row[0][1:17] + _manifest_of(*row) not in held]
            for key, payload in gone:
                self._say(key, payload)
            commit(self._index, change.remove(key for key, _ in gone))

    def _drop_unheld(self) -> None:
        lost = list(unheld(self._index))
        with self._index.begin() as txn:
            view = TransactionView(txn)
            for digest in lost:
                where = {self._repository(key) for key in view.keys(layout.HOLDER + digest.key)}
                self._problem(f"{digest} of {', '.join(sorted(where))}: its bytes")
            changes = change.discard(view, lost)
        commit(self._index, changes)

    def name(self, lost: Iterable[bytes]) -> None:
        """Name the records under the keys."""
        for key in lost:
            what = f"{self.spoken(key)}"
            self._report.counts[f"{layout.TABLES.get(key[:1], 'unknown')} records lost"] += 1
            if self._index_has(key):
                self._report.problems.append(f"{what} is as it was before: what came after cannot be read")
            else:
                self._problem(what)

    def _index_has(self, key: bytes) -> bool:
        with self._index.view() as view:
            return change.present(view, key)

    def _say(self, key: bytes, payload: bytes) -> None:
        """A tag that points to nothing. A tag that followed the parent comes from it again."""
        if key[:1] != layout.TAG:
            return
        tag = layout.decode_tag("", payload)
        if tag.origin == "local":
            self._problem(f"{self.spoken(key)}, which pointed to {tag.digest}")
        else:
            self._report.counts["cached tags lost"] += 1

    def _problem(self, what: str) -> None:
        self._report.problems.append(f"LOST: {what}")

    def _rows(self, table: bytes) -> Iterator[tuple[bytes, bytes]]:
        for key, value in self._index.scan(table):
            yield key, layout.unseal(key, value)

    def _repository(self, holder: bytes) -> str:
        return self._names.get(holder[-16:], f"unnamed repository {holder[-16:].hex()}")

    def spoken(self, key: bytes) -> str:
        """A record's name for a person."""
        table, rest = key[:1], key[17:]
        try:
            if table in _NAMED:
                repository = self._repository(key[1:17])
                return f"{_NAMED[table]} {_target(table, rest)} of {repository}"
            if table in (layout.BLOB, layout.CHUNKS):
                return f"{layout.digest_in(key, 1)}: its {layout.TABLES[table]} record"
            if table == layout.REPOSITORY:
                return f"repository {layout.repository_name(key)}"
            if table == layout.RESOURCE:
                kind, _, name = key[1:].partition(b"\0")
                return f"{kind.decode()} {name.decode()}".strip() or "the revision of the control plane"
        except (RecordDamaged, UnicodeDecodeError):
            pass
        return layout.describe(key)


def unheld(index: Index) -> Iterator[Digest]:
    """Digests that are linked and have no record of their bytes."""
    with index.view() as view:
        linked = dict.fromkeys(layout.digest_in(key, 1) for key, _ in index.scan(layout.HOLDER))
        yield from (digest for digest in linked if not change.present(view, layout.BLOB + digest.key))


def _manifest_of(key: bytes, payload: bytes) -> bytes:
    """The digest key of the manifest that a tag, referrer or note is about."""
    if key[:1] == layout.TAG:
        return layout.decode_tag("", payload).digest.key
    if key[:1] == layout.PENDING:
        return key[17:]
    return key[17 + len(layout.digest_in(key, 17).key) :]


def _target(table: bytes, rest: bytes) -> str:
    if table in (layout.TAG, layout.MOVES):
        return rest.decode()
    if table in (layout.LOCK, layout.DELETED):
        kind, name = rest[:1], rest[1:]
        return (
            name.decode()
            if kind == layout.NOUNS["tag"]
            else ((name and str(layout.digest_in(name, 0))) or "")
        )
    if table == layout.LINK:
        return str(layout.digest_in(rest, 1))
    return str(layout.digest_in(rest, 0)) if table != layout.TAG_LIST else ""
