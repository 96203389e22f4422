"""What follows from the records that a transaction changes, written in the same transaction: the turned-round tables,
the edges of the image graph, the accounts and the order of use.

Planners say nothing of these: whoever puts a change into the index puts it here (`Derivation.put`), so that there is
one place where they can go wrong. None of them is in the journal; `derived_tables.derive` makes all of them again, and
`fsck` compares.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable
from functools import cache

from holdfast_core import format as layout
from holdfast_core import space_format
from holdfast_core.changes.change import IndexChange, IndexView, blob_of, children_in, is_linked, present
from holdfast_core.digest import Digest
from holdfast_core.errors import RecordDamaged
from holdfast_core.record import Blob, RepositoryAccount, StoreAccount

#: a repository has a digest by three links at most, so among this many holders, if there are as many, are three
#: repositories
HOLDERS = 7


class Derivation:
    """Of one transaction. `write` puts a sealed value into the index, or with None removes the record; `now` tells the
    wall time of a lease that no planner began."""

    def __init__(
        self, view: IndexView, write: Callable[[bytes, bytes | None], object], now: Callable[[], float]
    ) -> None:
        self._view = view
        self._write = write
        self._now = cache(now)  # once a transaction: it asks the file system
        #: what a record that could not be read may have made wrong: it is counted anew
        self._unknown: set[bytes] = set()
        self._is_store_unknown = False
        self._accounts: defaultdict[bytes, list[int]] = defaultdict(lambda: [0] * len(RepositoryAccount()))
        self._store = [0] * len(StoreAccount())
        self._derive = {
            layout.LINK: self._link,
            layout.TAG: self._tag,
            layout.REFERRER: self._referrer,
            layout.SEEN: self._seen,
            layout.BLOB: self._blob,
            layout.LOOSE: self._loose,
        }

    def put(self, change: IndexChange) -> bool:
        """Make one change with all that follows from it, unless the record is so already; whether it was not. A record
        that would only be written again costs a comparison (0.7 µs), not pages of the index and a frame of the
        journal."""
        key, value, _ = change
        before = self._view.raw(key)
        if before == value:
            return False
        derive = self._derive.get(key[:1])
        if derive is None:
            self._write(key, value)
        else:
            derive(key, _payload(key, before), _payload(key, value), lambda: self._write(key, value))
        return True

    def finish(self) -> None:
        """Write the accounts that changed. Called once, after the last change."""
        for repository in {*self._accounts, *self._unknown}:
            key = space_format.account_key(repository)
            if repository in self._unknown:
                account = account_of(self._view, repository)
            else:
                former = space_format.decode_repository_account(self._view.get(key))
                account = RepositoryAccount(*_sum(former, self._accounts[repository]))
            payload = space_format.encode_repository_account(account)
            self._write(key, layout.seal(key, payload) if any(account) else None)
        if self._is_store_unknown or any(self._store):
            key = space_format.account_key()
            former_total = space_format.decode_store_account(self._view.get(key))
            total = StoreAccount(*_sum(former_total, self._store))
            if self._is_store_unknown:
                total = store_account(self._view)
            self._write(
                key, layout.seal(key, space_format.encode_store_account(total)) if any(total) else None
            )

    # --- links

    def _link(
        self, key: bytes, before: bytes | None, after: bytes | None, write: Callable[[], object]
    ) -> None:
        repository, kind, digest_key = key[1:17], key[17:18], key[18:]
        was, is_there = self._view.raw(key) is not None, after is not None
        others = {
            other for other in layout.LINK_KINDS if other != kind and self._has(repository, other, digest_key)
        }
        alone = not others
        hour = self._hour(repository, digest_key) if was or not alone else None
        if was == is_there:
            write()
        elif is_there:
            self._count(repository, kind, digest_key, 1, alone=alone)
            write()
            self._empty(layout.holder_key(key))
        else:
            write()
            self._write(layout.holder_key(key), None)
            self._count(repository, kind, digest_key, -1, alone=alone)
            if alone:
                self._write(space_format.loose_key(repository, digest_key), None)
                self._unlink(digest_key)
            if alone or kind == layout.AS_MANIFEST:  # one that was deleted is confirmed by nobody
                self._write(layout.CONFIRMED + repository + digest_key, None)
        self._use(repository, digest_key, hour)
        if was != is_there and kind in layout.MANIFEST_KINDS and others.isdisjoint(layout.MANIFEST_KINDS):
            self._edges(repository, digest_key, is_there=is_there)

    def _has(self, repository: bytes, kind: bytes, digest_key: bytes) -> bool:
        return self._view.raw(layout.LINK + repository + kind + digest_key) is not None

    def _unlink(self, digest_key: bytes) -> None:
        """Note that no repository links a digest any more, if that is so: a planner that ends several links of one does
        not see it, because each is planned beside the others."""
        note = layout.UNLINKED + digest_key
        if (
            self._view.raw(note) is None
            and self._view.raw(layout.BLOB + digest_key) is not None
            and not self._view.keys(layout.HOLDER + digest_key, limit=1)
        ):
            self._write(note, layout.seal(note, layout.encode_time(self._now())))

    def _edges(self, repository: bytes, manifest: bytes, *, is_there: bool) -> None:
        for child in children_in(self._view, manifest) or ():
            edge = space_format.edge_prefix(repository, child.digest.key) + manifest
            if is_there:
                self._empty(edge)
                self._write(space_format.loose_key(repository, child.digest.key), None)
            else:
                self._write(edge, None)
                self._loosen(repository, child.digest.key)
        holders = (layout.HOLDER + manifest + kind for kind in layout.MANIFEST_KINDS)
        if not is_there and not any(self._view.keys(prefix, limit=1) for prefix in holders):
            for row in self._view.keys(space_format.children_prefix(manifest)):
                self._write(row, None)

    def _loosen(self, repository: bytes, digest_key: bytes) -> None:
        """Note that nothing names a digest any more, if that is so. Planners that know the time say so themselves; this
        is for bytes and records that were lost."""
        note = space_format.loose_key(repository, digest_key)
        if (
            self._view.raw(note) is None
            and is_linked(self._view, repository, digest_key)
            and not self._is_named(repository, digest_key)
        ):
            self._write(note, layout.seal(note, layout.encode_time(self._now())))

    def _loose(
        self, key: bytes, before: bytes | None, after: bytes | None, write: Callable[[], object]
    ) -> None:
        """A planner looks at what there was before its transaction: where a tag leaves a manifest for an index that
        names it, the manifest has a name all the time."""
        if after is None or not self._is_named(key[1:17], key[17:]):
            write()

    def _is_named(self, repository: bytes, digest_key: bytes) -> bool:
        tags, edges = (
            layout.TAGGED + repository + digest_key,
            space_format.edge_prefix(repository, digest_key),
        )
        return bool(self._view.keys(tags, limit=1) or self._view.keys(edges, limit=1))

    def _count(self, repository: bytes, kind: bytes, digest_key: bytes, sign: int, *, alone: bool) -> None:
        """A link that comes, before it is there, or that went, after it is gone. `alone`: the repository has the digest
        by no other."""
        if kind != layout.AS_DELETED:
            self._accounts[repository][0 if kind == layout.AS_MANIFEST else 1] += sign
        if not alone:
            return
        blob = blob_of(self._view, Digest.from_key(digest_key))
        if blob is not None:
            self._count_bytes(repository, blob, sign)
        elif self._view.raw(layout.BLOB + digest_key) is not None:
            self._unknown.update([repository, *self._others(repository, digest_key)])
            self._is_store_unknown = True

    def _count_bytes(self, repository: bytes, blob: Blob, sign: int) -> None:
        account, size = self._accounts[repository], sign * blob.size
        if blob.inline is not None:
            account[4] += size
            return
        account[2] += size
        others = self._others(repository, blob.digest.key)
        if not others:
            account[3] += size
            self._store[2] += size
        elif len(others) == 1:
            self._accounts[others[0]][3] -= size
            self._store[2] -= size
            self._store[3] += size

    def _others(self, repository: bytes, digest_key: bytes) -> list[bytes]:
        """Two at most of the other repositories that have the bytes."""
        holders = self._view.keys(layout.HOLDER + digest_key, limit=HOLDERS)
        return list(dict.fromkeys(key[-16:] for key in holders if key[-16:] != repository))[:2]

    # --- bytes

    def _blob(
        self, key: bytes, before: bytes | None, after: bytes | None, write: Callable[[], object]
    ) -> None:
        digest = layout.digest_from(key, key[1:])
        old = None if before is None else layout.decode_blob(digest, before)
        new = None if after is None else layout.decode_blob(digest, after)
        if old is not None and new is not None and _weight(old) == _weight(new):
            write()
            return
        holders = list(dict.fromkeys(row[-16:] for row in self._view.keys(layout.HOLDER + key[1:])))
        if before is None and self._view.raw(key) is not None:
            self._unknown.update(holders)
            self._is_store_unknown = True
            write()
            return
        for blob, sign in ((old, -1), (new, 1)):
            if blob is None:
                continue
            files = blob.inline is None
            self._store[0 if files else 4] += sign
            self._store[1 if files else 5] += sign * blob.size
            for repository in holders:
                self._accounts[repository][2 if files else 4] += sign * blob.size
            if files and len(holders) == 1:
                self._accounts[holders[0]][3] += sign * blob.size
            if files and holders:
                self._store[2 if len(holders) == 1 else 3] += sign * blob.size
        write()

    # --- names

    def _tag(
        self, key: bytes, before: bytes | None, after: bytes | None, write: Callable[[], object]
    ) -> None:
        old, new = _target(before), _target(after)
        write()
        if old is not None and old != new:
            self._write(layout.tagged_key(key, old), None)
            self._loosen(key[1:17], old.key)
        if new is not None:
            self._empty(layout.tagged_key(key, new))
            self._write(space_format.loose_key(key[1:17], new.key), None)

    def _referrer(
        self, key: bytes, before: bytes | None, after: bytes | None, write: Callable[[], object]
    ) -> None:
        write()
        if after is None:
            self._write(layout.subject_key(key), None)
        else:
            self._empty(layout.subject_key(key))

    # --- order of use

    def _seen(
        self, key: bytes, before: bytes | None, after: bytes | None, write: Callable[[], object]
    ) -> None:
        repository, digest_key = key[1:17], key[17:]
        hour = self._hour(repository, digest_key)
        write()
        self._use(repository, digest_key, hour)

    def _use(self, repository: bytes, digest_key: bytes, former: int | None) -> None:
        """Put the row of USE where it belongs now; it stood at `former`."""
        hour = self._hour(repository, digest_key)
        if hour == former:
            return
        if former is not None:
            self._write(space_format.use_key(former, repository, digest_key), None)
        if hour is not None:
            self._empty(space_format.use_key(hour, repository, digest_key))

    def _hour(self, repository: bytes, digest_key: bytes) -> int | None:
        return hour_of_use(self._view, repository, digest_key)

    def _empty(self, key: bytes) -> None:
        self._write(key, layout.seal(key, b""))


def hour_of_use(view: IndexView, repository: bytes, digest_key: bytes) -> int | None:
    """The hour in which a repository's bytes were last used: read, linked or deleted. None without a link."""
    links = [layout.LINK + repository + kind + digest_key for kind in layout.LINK_KINDS]
    times = [layout.decode_linked_at(payload) for key in links if (payload := view.get(key)) is not None]
    if not times:
        return 0 if any(present(view, key) for key in links) else None
    seen = view.get(layout.SEEN + repository + digest_key)
    return max(
        space_format.hour_of(when) for when in (*times, *([layout.decode_seen(seen)[0]] if seen else ()))
    )


def account_of(view: IndexView, repository: bytes) -> RepositoryAccount:
    """What a repository links, counted from its links."""
    links = view.keys(layout.LINK + repository)
    manifests, blobs = (
        sum(key[17:18] == kind for key in links) for kind in (layout.AS_MANIFEST, layout.AS_BLOB)
    )
    files = own = inline = 0
    for digest_key in dict.fromkeys(key[18:] for key in links):
        blob = blob_of(view, Digest.from_key(digest_key))
        if blob is None:
            continue
        if blob.inline is not None:
            inline += blob.size
            continue
        files += blob.size
        own += blob.size if repositories_of(view, digest_key) == {repository} else 0
    return RepositoryAccount(manifests, blobs, files, own, inline)


def store_account(view: IndexView) -> StoreAccount:
    """What the store holds, counted from all rows of blobs."""
    files = file_bytes = own = shared = inlines = inline_bytes = 0
    for key in view.keys(layout.BLOB):
        blob = blob_of(view, Digest.from_key(key[1:]))
        if blob is None:
            continue
        if blob.inline is not None:
            inlines, inline_bytes = inlines + 1, inline_bytes + blob.size
            continue
        files, file_bytes = files + 1, file_bytes + blob.size
        holders = len(repositories_of(view, key[1:]))
        own += blob.size if holders == 1 else 0
        shared += blob.size if holders > 1 else 0
    return StoreAccount(files, file_bytes, own, shared, inlines, inline_bytes)


def repositories_of(view: IndexView, digest_key: bytes) -> set[bytes]:
    """Repositories that have the bytes; of three and more two at least."""
    return {key[-16:] for key in view.keys(layout.HOLDER + digest_key, limit=HOLDERS)}


def _payload(key: bytes, value: bytes | None) -> bytes | None:
    try:
        return None if value is None else layout.unseal(key, value)
    except RecordDamaged:
        return None


def _target(payload: bytes | None) -> Digest | None:
    return None if payload is None else layout.decode_tag("", payload).digest


def _weight(blob: Blob) -> tuple[bool, int]:
    return blob.inline is None, blob.size


def _sum(former: Iterable[int], changes: Iterable[int]) -> list[int]:
    """Never below zero: an account that was lost is counted anew by `holdfast_core.upkeep.index_repair`."""
    return [max(0, before + change) for before, change in zip(former, changes, strict=True)]
