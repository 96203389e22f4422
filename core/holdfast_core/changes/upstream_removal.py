"""Removal of what a parent has no longer, or what a rule of the replica removes. Not a client's change: allowed in
every mode, without tombstone (the parent may bring it again), and nothing is sent to the parent.

Each raises ContentLocked when an attribute forbids to delete it, Unsent when it was pushed here and the parent does not
have it yet, NotHeld when it is not there; then nothing is changed.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from holdfast_core import format as layout
from holdfast_core import list_format
from holdfast_core.changes import client_changes, locks, store_events
from holdfast_core.changes.change import (
    IndexChange,
    IndexView,
    Keep,
    fetched_list,
    present,
    put,
    remove,
    tag_of,
)
from holdfast_core.digest import Digest
from holdfast_core.errors import NotHeld, RecordDamaged, Unsent
from holdfast_core.record import EventRecord

#: tables whose keys begin with the hash of a repository
_JOURNALED = (
    *(layout.TAG, layout.MOVES, layout.TAG_LIST, layout.LINK, layout.REFERRER, layout.REFERRER_LIST),
    *(layout.LOCK, layout.DELETED, layout.PIN),
)
#: what of it goes along with the others, but for rows of records that could not be read
_BESIDE = (layout.SEEN, layout.TAGGED, layout.SUBJECT, layout.LOOSE, layout.CONFIRMED)


def removed_tag(view: IndexView, repository: str, name: str, *, now: float) -> list[IndexChange]:
    """The tag goes, also out of the list that the parent gave; its manifest stays."""
    changes = client_changes.deleted_tag(view, repository, name, now=now, tombstone=False, origin="parent")
    _require_sent(view, repository, [name])
    listed = layout.tag_list_prefix(repository)
    return [*changes, *_unlisted(view, repository, listed, [name.encode()])]


def removed_manifest(view: IndexView, repository: str, digest: Digest, *, now: float) -> list[IndexChange]:
    """The manifest goes, with every tag that points to it and as a referrer."""
    names = list(client_changes.tags_at(view, repository, digest))
    changes = client_changes.deleted_manifest(
        view, repository, digest, now=now, tombstone=False, origin="parent"
    )
    _require_sent(view, repository, names, [digest])
    listed = layout.tag_list_prefix(repository)
    return [*changes, *_unlisted(view, repository, listed, [name.encode() for name in names])]


def removed_repository(view: IndexView, repository: str, *, now: float) -> list[IndexChange]:
    """All of it goes: nothing is known of it afterwards."""
    name = layout.repository_key(repository)
    if not present(view, name):
        raise NotHeld(f"no repository {repository}")
    beginning = layout.repository_hash(repository)
    locks.require_whole(view, repository, "delete")
    tags = (key[17:].decode("utf-8", "surrogatepass") for key in view.keys(layout.TAG + beginning))
    pending = (layout.digest_from(key, key[17:]) for key in view.keys(layout.PENDING + beginning, limit=1))
    _require_sent(view, repository, tags, pending)
    links = view.keys(layout.LINK + beginning)
    return [
        *remove([name], Keep.DISK),
        *remove((key for table in _JOURNALED for key in view.keys(table + beginning)), Keep.DISK),
        *remove(key for table in _BESIDE for key in view.keys(table + beginning)),
        *_unlinked(view, beginning, links, now),
        store_events.unnumbered(EventRecord("delete", "repository", repository, now, origin="parent")),
    ]


def _require_sent(
    view: IndexView, repository: str, tags: Iterable[str], digests: Iterable[Digest] = ()
) -> None:
    """Raise Unsent for a tag that was moved here, or a manifest that was pushed here, and is still to go up."""
    for name in tags:
        tag = tag_of(view, repository, name)
        if tag is not None and tag.origin == "local":
            raise Unsent(f"the tag {name} of {repository} was pushed here and is not at the parent yet")
    for digest in digests:
        if present(view, layout.pending_key(repository, digest)):
            raise Unsent(f"{digest} of {repository} was pushed here and is not at the parent yet")


def _unlinked(view: IndexView, repository: bytes, links: list[bytes], now: float) -> Iterator[IndexChange]:
    """Notes of the bytes that no other repository links, so that a sweep finds them."""
    for digest in dict.fromkeys(link[18:] for link in links):
        # as a blob, and as a manifest or a deleted one: at most two of the holders are this repository
        if all(holder[-16:] == repository for holder in view.keys(layout.HOLDER + digest, limit=3)):
            yield put(layout.UNLINKED + digest, layout.encode_time(now))


def _unlisted(view: IndexView, repository: str, prefix: bytes, items: list[bytes]) -> list[IndexChange]:
    """Take items out of a list that the parent gave; it stays as old as it is."""
    rows = [payload for _, payload in view.rows(prefix, after=prefix)]
    try:
        held, fetched_at = list_format.decode_list(rows) if rows else ([], 0.0)
    except RecordDamaged:  # it is not read before it is fetched again
        return []
    left = [item for item in held if item not in items]
    return [] if left == held else fetched_list(view, repository, prefix, left, fetched_at)
