"""Lists, part by part: what a repository has (manifests that no tag names, by digest, then tags, by name), and the
names that clients list. A part looks at a bounded number of records, however many there are before it and behind it.

Not a snapshot: what changes while the parts are read is in one of them, or not, and the log of events has it. A
damaged record is an error and never left out, because a caller that compares takes what is not listed for gone.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice

from holdfast_core import format as layout
from holdfast_core import list_format
from holdfast_core.digest import Digest
from holdfast_core.errors import MalformedDigest, RecordDamaged
from holdfast_core.index.lmdb_index import Index, TransactionView
from holdfast_core.record import Descriptor, MemberPage, NamePage, ReferrerPage, RepositoryMember

#: the place where a listing begins
FIRST = layout.AS_MANIFEST
_TAG_PLACE = layout.NOUNS["tag"]


def members(index: Index, repository: str, *, after: bytes, limit: int) -> MemberPage:
    """See `References.members`."""
    hides = _Locks(index, repository)
    if hides("repository"):
        return MemberPage((), b"", 1)
    part = _tags if after[:1] == _TAG_PLACE else _untagged
    return part(index, repository, hides, after[1:], max(limit, 1))


class _Locks:
    """What locks of a repository forbid to list or to read. Looked up for each record, because there may be a lock for
    each."""

    def __init__(self, index: Index, repository: str) -> None:
        self._index, self._prefix = index, layout.LOCK + layout.repository_hash(repository)
        self.any = next(index.scan(self._prefix, limit=1), None) is not None

    def __call__(self, kind: str, rest: bytes = b"") -> bool:
        row = self._index.get(self._prefix + layout.NOUNS[kind] + rest) if self.any else None
        lock = None if row is None else layout.decode_lock(row)
        return lock is not None and not (lock.list and lock.read)


def _untagged(index: Index, repository: str, hides: _Locks, rest: bytes, limit: int) -> MemberPage:
    prefix, members = layout.link_key(repository, layout.AS_MANIFEST, b""), []
    rows = _rows(index, prefix, rest, limit)
    for key, _ in rows:
        digest = layout.digest_from(key, key[18:])
        tagged = next(index.scan(layout.tagged_prefix(repository, digest), limit=1), None)
        if tagged is None and not hides("manifest", digest.key):
            members.append(_member(index, repository, "", digest))
    return MemberPage(
        tuple(members), FIRST + rows[-1][0][18:] if len(rows) == limit else _TAG_PLACE, len(rows)
    )


def _tags(index: Index, repository: str, hides: _Locks, rest: bytes, limit: int) -> MemberPage:
    prefix, members = layout.TAG + layout.repository_hash(repository), []
    rows = _rows(index, prefix, rest, limit)
    for key, payload in rows:
        tag = layout.decode_tag(key[17:].decode("utf-8", "surrogatepass"), payload)
        if not hides("tag", key[17:]) and not hides("manifest", tag.digest.key):
            members.append(_member(index, repository, tag.name, tag.digest))
    return MemberPage(tuple(members), _TAG_PLACE + rows[-1][0][17:] if len(rows) == limit else b"", len(rows))


def _rows(index: Index, prefix: bytes, rest: bytes, limit: int) -> list[tuple[bytes, bytes]]:
    after = (prefix + rest)[:511] if rest else b""
    return [(key, layout.unseal(key, value)) for key, value in index.scan(prefix, after=after, limit=limit)]


def _member(index: Index, repository: str, tag: str, digest: Digest) -> RepositoryMember:
    link = index.get(layout.link_key(repository, layout.AS_MANIFEST, digest.key))
    row = index.get(layout.BLOB + digest.key) if link is not None else None
    subject = next(index.scan(layout.subject_prefix(repository, digest), limit=1), None)
    return RepositoryMember(
        tag,
        digest,
        "" if link is None else layout.decode_media_type(link),
        0 if row is None else layout.decode_blob(digest, row).size,
        None if subject is None else layout.digest_from(subject[0], subject[0][17 + len(digest.key) :]),
    )


def repositories(index: Index, beginning: str, *, last: str, limit: int) -> NamePage:
    """See `References.repository_names`."""
    prefix = layout.REPOSITORY + beginning.encode("utf-8", "surrogatepass")
    keys = _keys(index, prefix, last.encode("utf-8", "surrogatepass"), limit)
    names = [layout.repository_name(key) for key in keys]
    any_locks = next(index.scan(layout.LOCK, limit=1), None) is not None
    shown = (name for name in names if not (any_locks and _is_hidden(index, layout.repository_hash(name))))
    return _part([name.removeprefix(beginning) for name in shown], names[-1:], len(names) == limit, beginning)


def _is_hidden(index: Index, repository: bytes) -> bool:
    row = index.get(layout.LOCK + repository + layout.NOUNS["repository"])
    return row is not None and not layout.decode_lock(row).list


def _part(shown: Sequence[str], looked: Sequence[str], is_cut: bool, beginning: str = "") -> NamePage:
    return NamePage(tuple(shown), looked[-1].removeprefix(beginning) if is_cut else None)


def merged(parts: Sequence[NamePage]) -> NamePage:
    """One list of several, as far as all of them were looked at; a name that is in two of them once."""
    through = min((part.through for part in parts if part.through is not None), default=None)
    every = {name for part in parts for name in part.names if through is None or name <= through}
    return NamePage(tuple(sorted(every)), through)


def referrers(
    index: Index, repository: str, subject: Digest, unstored: Sequence[bytes] | None, *, last: str, limit: int
) -> ReferrerPage:
    """See `ParentLists.referrer_page`."""
    fetched = _fetched(
        index,
        layout.referrer_list_prefix(repository, subject),
        unstored,
        last.encode("utf-8", "surrogatepass"),
        limit,
    )
    prefix = layout.referrer_prefix(repository, subject)
    held = [
        layout.unseal(key, value)
        for key, value in index.scan(prefix, after=prefix + list_format.digest_floor(last), limit=limit)
    ]
    hides = _Marked(index, layout.LOCK, repository, "manifest")
    deleted = _Marked(index, layout.DELETED, repository, "manifest")
    by_digest: dict[str, Descriptor] = {}
    ends = []
    # what the parent says of a digest goes before what is written of the manifest here
    for items in (held, fetched):
        rows = list(map(layout.decode_descriptor, items))
        by_digest |= {row.digest: row for row in rows}
        if len(rows) == limit:
            ends.append(rows[-1].digest)
    through = min(ends, default=None)
    shown = (digest for digest in sorted(by_digest) if through is None or digest <= through)
    return ReferrerPage(
        tuple(by_digest[digest] for digest in shown if not (hides.digest(digest) or deleted.digest(digest))),
        through,
    )


def tags(
    index: Index, repository: str, unstored: Sequence[bytes] | None, *, last: str, limit: int
) -> NamePage:
    """See `References.tag_names`."""
    after = last.encode("utf-8", "surrogatepass")
    hides = _Marked(index, layout.LOCK, repository, "tag", after)
    deleted = _Marked(index, layout.DELETED, repository, "tag", after)
    keys = _keys(index, layout.TAG + layout.repository_hash(repository), after, limit)
    fetched = _fetched(index, layout.tag_list_prefix(repository), unstored, after, limit)
    held = [key[17:] for key in keys]
    return merged(
        [
            _named(held, (name for name in held if not hides(name)), limit),
            _named(fetched, (name for name in fetched if not (hides(name) or deleted(name))), limit),
        ]
    )


def _named(looked: Sequence[bytes], shown: Iterable[bytes], limit: int) -> NamePage:
    return _part(
        [name.decode() for name in shown], [name.decode() for name in looked[-1:]], len(looked) == limit
    )


class _Marked:
    """Which tags or manifests locks forbid to list, or were deleted here. Looked up for each, because there may be a
    mark for each; nothing where none above the first one has any."""

    def __init__(self, index: Index, table: bytes, repository: str, kind: str, after: bytes = b"") -> None:
        self._index, self._is_lock = index, table == layout.LOCK
        self._prefix = table + layout.repository_hash(repository) + layout.NOUNS[kind]
        self._any = (
            next(index.scan(self._prefix, after=(self._prefix + after)[:511], limit=1), None) is not None
        )

    def __call__(self, name: bytes) -> bool:
        row = self._index.get(self._prefix + name) if self._any else None
        return row is not None and not (self._is_lock and layout.decode_lock(row).list)

    def digest(self, text: str) -> bool:
        """The same by a manifest's digest."""
        try:
            return self._any and self(Digest.parse(text).key)
        except MalformedDigest:  # of no manifest that can be here
            return False


def _keys(index: Index, prefix: bytes, last: bytes, limit: int) -> list[bytes]:
    rows = index.scan(prefix, after=(prefix + last)[:511] if last else b"", limit=limit)
    return [key for key, value in rows if layout.unseal(key, value) is not None]


def _fetched(
    index: Index, prefix: bytes, unstored: Sequence[bytes] | None, after: bytes, limit: int
) -> list[bytes]:
    """The first items above `after` of a list that a parent gave, or of one that was not stored (sorted)."""
    if unstored is None:
        with index.view() as view:
            return list(islice(_told(view, prefix, after), limit))
    begin = bisect_right(unstored, after, key=list_format.LIST_ORDERS[prefix[:1]].place)
    return list(unstored[begin : begin + limit])


def _told(view: TransactionView, prefix: bytes, after: bytes) -> Iterator[bytes]:
    """The items above `after` of a list that a parent gave, in order. Of one whose items rise the segment is searched
    in which they begin; any other, from before they did, is read whole."""
    place, bit = list_format.LIST_ORDERS[prefix[:1]]
    first = layout.segment_key(prefix, 0)
    if view.raw(first) is None:
        return
    _, count, rises = list_format.decode_list_head(_segment(view, prefix, 0))
    if not rises & bit:
        items: dict[bytes, bytes] = {}
        for number in range(count):
            for item in _items(view, prefix, number):
                items.setdefault(place(item), item)
        yield from (items[at] for at in sorted(items) if at > after)
        return

    def begins(number: int) -> bytes:
        item = next(_items(view, prefix, number), None)
        return b"" if item is None else place(item)

    for number in range(max(bisect_right(range(count), after, key=begins) - 1, 0), count):
        yield from (item for item in _items(view, prefix, number) if place(item) > after)


def _items(view: TransactionView, prefix: bytes, number: int) -> Iterator[bytes]:
    return list_format.list_items(number, _segment(view, prefix, number))


def _segment(view: TransactionView, prefix: bytes, number: int) -> bytes:
    """Raises RecordDamaged."""
    key = layout.segment_key(prefix, number)
    if (value := view.raw(key)) is None:
        raise RecordDamaged(f"segment {number} of a list is missing", layout.segment_key(prefix, 0))
    return layout.unseal(key, value)
