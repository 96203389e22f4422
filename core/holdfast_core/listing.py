"""What a repository has, part by part: manifests that no tag names, by digest, then tags, by name.

Not a snapshot: what changes while the parts are read is in one of them, or not, and the log of events tells of it. A
damaged record is an error and never left out, because who compares takes what is not listed for gone.
"""

from __future__ import annotations

from holdfast_core import format as layout
from holdfast_core.digest import Digest
from holdfast_core.index import Index
from holdfast_core.record import Member, Members

#: the place where a listing begins
FIRST = layout.AS_MANIFEST
_TAG_PLACE = layout.NOUNS["tag"]


def members(index: Index, repository: str, *, after: bytes, limit: int) -> Members:
    """See `Lookup.members`."""
    hides = _Locks(index, repository)
    if hides("repository"):
        return Members((), b"", 1)
    part = _tags if after[:1] == _TAG_PLACE else _untagged
    return part(index, repository, hides, after[1:], max(limit, 1))


class _Locks:
    """What locks of a repository forbid to list or to read. Asked for each record, because there may be a lock for
    each."""

    def __init__(self, index: Index, repository: str) -> None:
        self._index, self._prefix = index, layout.LOCK + layout.repository_hash(repository)
        self.any = next(index.scan(self._prefix, limit=1), None) is not None

    def __call__(self, kind: str, rest: bytes = b"") -> bool:
        row = self._index.get(self._prefix + layout.NOUNS[kind] + rest) if self.any else None
        lock = None if row is None else layout.decode_lock(row)
        return lock is not None and not (lock.list and lock.read)


def _untagged(index: Index, repository: str, hides: _Locks, rest: bytes, limit: int) -> Members:
    prefix, found = layout.link_key(repository, layout.AS_MANIFEST, b""), []
    rows = _rows(index, prefix, rest, limit)
    for key, _ in rows:
        digest = layout.digest_from(key, key[18:])
        tagged = next(index.scan(layout.tagged_prefix(repository, digest), limit=1), None)
        if tagged is None and not hides("manifest", digest.key):
            found.append(_member(index, repository, "", digest))
    return Members(tuple(found), FIRST + rows[-1][0][18:] if len(rows) == limit else _TAG_PLACE, len(rows))


def _tags(index: Index, repository: str, hides: _Locks, rest: bytes, limit: int) -> Members:
    prefix, found = layout.TAG + layout.repository_hash(repository), []
    rows = _rows(index, prefix, rest, limit)
    for key, payload in rows:
        tag = layout.decode_tag(key[17:].decode("utf-8", "surrogatepass"), payload)
        if not hides("tag", key[17:]) and not hides("manifest", tag.digest.key):
            found.append(_member(index, repository, tag.name, tag.digest))
    return Members(tuple(found), _TAG_PLACE + rows[-1][0][17:] if len(rows) == limit else b"", len(rows))


def _rows(index: Index, prefix: bytes, rest: bytes, limit: int) -> list[tuple[bytes, bytes]]:
    after = (prefix + rest)[:511] if rest else b""
    return [(key, layout.unseal(key, value)) for key, value in index.scan(prefix, after=after, limit=limit)]


def _member(index: Index, repository: str, tag: str, digest: Digest) -> Member:
    link = index.get(layout.link_key(repository, layout.AS_MANIFEST, digest.key))
    row = index.get(layout.BLOB + digest.key) if link is not None else None
    subject = next(index.scan(layout.subject_prefix(repository, digest), limit=1), None)
    return Member(
        tag,
        digest,
        "" if link is None else layout.decode_media_type(link),
        0 if row is None else layout.decode_blob(digest, row).size,
        None if subject is None else layout.digest_from(subject[0], subject[0][17 + len(digest.key) :]),
    )
