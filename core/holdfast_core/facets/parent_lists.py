"""The lists that a parent gave: its tags of a repository, its referrers of a manifest, and when each was fetched."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future

from holdfast_core import format as layout
from holdfast_core import list_format
from holdfast_core.changes import change, locks
from holdfast_core.changes.access_times import AccessTimes
from holdfast_core.changes.change import IndexChange, IndexView
from holdfast_core.digest import Digest
from holdfast_core.errors import RecordDamaged
from holdfast_core.index import list_pages
from holdfast_core.index.lmdb_index import Index
from holdfast_core.record import Descriptor, ReferrerPage, ReferrersList, TagList
from holdfast_core.write_access import WriteAccess


class ParentLists:
    """The lists of an open store. What was deleted here, and what a lock forbids to list, is left out. A list of
    referrers is shown with the manifests held here that name the same subject."""

    def __init__(self, index: Index, access: WriteAccess, recent: AccessTimes) -> None:
        self._index = index
        self._access = access
        self._recent = recent
        self._get = index.get

    def tag_list(self, repository: str) -> TagList | None:
        """The parent's tags as last fetched, without those deleted here."""
        fetched = self._list(layout.tag_list_prefix(repository))
        if fetched is None:
            return None
        hidden = self._left_out(repository, "tag")
        return TagList(tuple(item.decode() for item in fetched[0] if item not in hidden), fetched[1])

    def tag_list_time(self, repository: str) -> float | None:
        """When the parent's tags were fetched or found to be the same (wall seconds); None when they never were. One
        record, however long the list."""
        return self._list_time(layout.tag_list_prefix(repository))

    def confirm_tag_list(self, repository: str, now: float) -> None:
        """The same for the list of the parent's tags."""
        self._confirm_list(layout.tag_list_prefix(repository), now)

    def put_tag_list(self, repository: str, tags: Iterable[str], *, now: float) -> Future[None]:
        """Replace the parent's tag list; it is kept in byte order, each tag once, so that a page is found without the
        ones before it. One that stayed the same is confirmed, which writes nothing."""
        names = tuple(tags)
        prefix = layout.tag_list_prefix(repository)
        return self._put_list(repository, prefix, lambda: sorted({tag.encode() for tag in names}), now)

    def referrers(self, repository: str, subject: Digest) -> ReferrersList | None:
        """The parent's referrers as last fetched, and after them the manifests held here that name the subject; each
        digest once, without those deleted here. None when neither is known. However many there are: never on a loop
        that others wait for."""
        fetched = self._list(layout.referrer_list_prefix(repository, subject))
        rows = self._index.scan(layout.referrer_prefix(repository, subject))
        local = [layout.decode_descriptor(layout.unseal(key, value)) for key, value in rows]
        if fetched is None and not local:
            return None
        items, fetched_at = fetched or ([], 0.0)
        hidden = {str(Digest.from_key(raw)) for raw in self._left_out(repository, "manifest")}
        every = [*map(layout.decode_descriptor, items), *local]
        merged = {d.digest: d for d in reversed(every)}
        order = dict.fromkeys(d.digest for d in every if d.digest not in hidden)
        return ReferrersList(tuple(merged[digest] for digest in order), fetched_at)

    def has_referrers(self, repository: str, subject: Digest) -> bool:
        """Whether any referrers are known, or that there are none: the parent's list, or manifests held here."""
        if self.referrers_time(repository, subject) is not None:
            return True
        return next(self._index.scan(layout.referrer_prefix(repository, subject), limit=1), None) is not None

    def referrer_page(
        self,
        repository: str,
        subject: Digest,
        *,
        last: str,
        limit: int,
        unstored: Sequence[bytes] | None = None,
    ) -> ReferrerPage:
        """The referrers whose digests sort above `last`, as `referrers` has them; `unstored` is the parent's list where
        it was not stored (`list_format.encode_descriptors`). Looks at `limit` of each."""
        return list_pages.referrers(self._index, repository, subject, unstored, last=last, limit=limit)

    def referrers_time(self, repository: str, subject: Digest) -> float | None:
        """The same for the parent's list of referrers."""
        return self._list_time(layout.referrer_list_prefix(repository, subject))

    def confirm_referrers(self, repository: str, subject: Digest, now: float) -> None:
        """The same for the parent's list of referrers."""
        self._confirm_list(layout.referrer_list_prefix(repository, subject), now)

    def put_referrers(
        self, repository: str, subject: Digest, descriptors: Iterable[Descriptor], *, now: float
    ) -> Future[None]:
        """The same for the parent's list of referrers; it is kept by digest."""
        rows = tuple(descriptors)
        prefix = layout.referrer_list_prefix(repository, subject)
        return self._put_list(repository, prefix, lambda: list_format.encode_descriptors(rows), now)

    def _list(self, prefix: bytes) -> tuple[list[bytes], float] | None:
        rows = [layout.unseal(key, value) for key, value in self._index.scan(prefix)]
        if not rows:
            return None
        first = layout.segment_key(prefix, 0)
        try:
            return list_format.decode_list([self._recent.newest(first, rows[0]), *rows[1:]])
        except RecordDamaged as error:
            raise RecordDamaged(str(error), first) from error

    def _list_time(self, prefix: bytes) -> float | None:
        key = layout.segment_key(prefix, 0)
        payload = self._get(key)
        return None if payload is None else list_format.decode_list_head(self._recent.newest(key, payload))[0]

    def _confirm_list(self, prefix: bytes, now: float) -> None:
        key = layout.segment_key(prefix, 0)
        with contextlib.suppress(RecordDamaged):
            if (payload := self._get(key)) is not None:
                self._recent.confirm(key, payload, now)

    def _put_list(
        self, repository: str, prefix: bytes, items: Callable[[], list[bytes]], now: float
    ) -> Future[None]:
        """`items` are made on the writer's thread: there may be very many."""

        def plan(view: IndexView) -> list[IndexChange]:
            rows = change.fetched_list(view, repository, prefix, items(), now)
            if not rows:
                self._confirm_list(prefix, now)
            return rows

        return self._access.submit(plan)

    def _left_out(self, repository: str, kind: str) -> set[bytes]:
        """The same, and those that were deleted here: of lists that the parent gave."""
        prefix = layout.DELETED + layout.repository_hash(repository) + layout.NOUNS[kind]
        return locks.hidden(self._index, repository, kind) | {
            key[len(prefix) :] for key, _ in self._index.scan(prefix)
        }
