"""What goes because a parent has it no longer, or because it is wanted no longer. No client's doing: allowed in every
mode, without tombstone (the parent may bring it again), and the parent is not told.

Each raises Locked when an attribute forbids to delete it, Unsent when it was pushed here and the parent does not have
it yet, NotHeld when it is not there; then nothing is changed.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from holdfast_core import events, ownership
from holdfast_core import format as layout
from holdfast_core import lock as locks
from holdfast_core.change import Change, Keep, View, fetched_list, present, put, remove, tag_of
from holdfast_core.digest import Digest
from holdfast_core.errors import NotHeld, RecordDamaged, Unsent
from holdfast_core.record import Event

#: tables whose keys begin with the hash of a repository: those in the journal, and those that are not
_JOURNALED = (
    *(layout.TAG, layout.MOVES, layout.TAG_LIST, layout.LINK, layout.REFERRER, layout.REFERRER_LIST),
    *(layout.LOCK, layout.DELETED),
)
_DERIVED = (layout.TAGGED, layout.SUBJECT, layout.SEEN)


def removed_tag(view: View, repository: str, name: str, *, now: float) -> list[Change]:
    """The tag goes, also out of the list that the parent gave; its manifest stays."""
    changes = ownership.deleted_tag(view, repository, name, now=now, tombstone=False, origin="parent")
    _require_sent(view, repository, [name])
    listed = layout.tag_list_prefix(repository)
    return [*changes, *_unlisted(view, repository, listed, [name.encode()])]


def removed_manifest(view: View, repository: str, digest: Digest, *, now: float) -> list[Change]:
    """The manifest goes, with every tag that points to it and as a referrer."""
    names = list(ownership.tags_at(view, repository, digest))
    changes = ownership.deleted_manifest(view, repository, digest, now=now, tombstone=False, origin="parent")
    _require_sent(view, repository, names, [digest])
    listed = layout.tag_list_prefix(repository)
    return [*changes, *_unlisted(view, repository, listed, [name.encode() for name in names])]


def removed_repository(view: View, repository: str, *, now: float) -> list[Change]:
    """All of it goes: nothing is known of it afterwards."""
    name = layout.repository_key(repository)
    if not present(view, name):
        raise NotHeld(f"no repository {repository}")
    beginning = layout.repository_hash(repository)
    targets = map(layout.lock_target, view.keys(layout.LOCK + beginning))
    locks.require(view, repository, "delete", targets)
    tags = (key[17:].decode("utf-8", "surrogatepass") for key in view.keys(layout.TAG + beginning))
    pending = (layout.digest_from(key, key[17:]) for key in view.keys(layout.PENDING + beginning, limit=1))
    _require_sent(view, repository, tags, pending)
    links = view.keys(layout.LINK + beginning)
    return [
        *remove([name], Keep.DISK),
        *remove((key for table in _JOURNALED for key in view.keys(table + beginning)), Keep.DISK),
        *remove(key for table in _DERIVED for key in view.keys(table + beginning)),
        *remove(map(layout.holder_key, links)),
        *_unlinked(view, beginning, links, now),
        events.tell(Event("delete", "repository", repository, now, origin="parent")),
    ]


def _require_sent(view: View, repository: str, tags: Iterable[str], digests: Iterable[Digest] = ()) -> None:
    """Raise Unsent for a tag that was moved here, or a manifest that was pushed here, and is still to go up."""
    for name in tags:
        found = tag_of(view, repository, name)
        if found is not None and found.origin == "local":
            raise Unsent(f"the tag {name} of {repository} was pushed here and is not at the parent yet")
    for digest in digests:
        if present(view, layout.pending_key(repository, digest)):
            raise Unsent(f"{digest} of {repository} was pushed here and is not at the parent yet")


def _unlinked(view: View, repository: bytes, links: list[bytes], now: float) -> Iterator[Change]:
    """Notes of the bytes that no other repository links, so that a sweep finds them."""
    for digest in dict.fromkeys(link[18:] for link in links):
        # as a blob and as a manifest: at most two of the holders are this repository
        if all(holder[-16:] == repository for holder in view.keys(layout.HOLDER + digest, limit=3)):
            yield put(layout.UNLINKED + digest, layout.encode_time(now))


def _unlisted(view: View, repository: str, prefix: bytes, items: list[bytes]) -> list[Change]:
    """Take items out of a list that the parent gave; it stays as old as it is."""
    rows = [payload for _, payload in view.rows(prefix, after=prefix)]
    try:
        held, fetched_at = layout.decode_list(rows) if rows else ([], 0.0)
    except RecordDamaged:  # nobody reads it before it is fetched anew
        return []
    left = [item for item in held if item not in items]
    return [] if left == held else fetched_list(view, repository, prefix, left, fetched_at)
