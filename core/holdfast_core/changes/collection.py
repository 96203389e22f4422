"""What leaves the store by itself: images that are evicted from a cache, and what nothing names any more.

Both decide in the transaction that removes, from the edges of the image graph, so nothing that came meanwhile is taken:
there is no mark that could be out of date. Neither is a client's change, nor one of the parent: followers hear nothing,
and a miss brings it again.

A digest of a repository is *named* while a tag points to it or a manifest that is linked there names it; a deleted
manifest that can be restored names as before. What is pushed here and not at the parent yet, pinned or locked is never
taken. What was pushed here (owned) is evicted when it was deleted, or its parent confirmed it
(`outbox_rows.confirmed`): a whole image of which every digest has the parent's word, and only while that parent's word
counts (`parent`, its mark; b"" for nobody's).
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from itertools import islice
from math import inf

from holdfast_core import format as layout
from holdfast_core import space_format
from holdfast_core.changes import change, locks, pins
from holdfast_core.changes.change import (
    IndexChange,
    IndexView,
    blob_of,
    has_manifest,
    is_deleted,
    is_linked,
    present,
    put,
    remove,
    unlink,
)
from holdfast_core.changes.client_changes import tags_at
from holdfast_core.changes.derivation import hour_of_use, repositories_of
from holdfast_core.digest import Digest
from holdfast_core.errors import ContentLocked, NotEvictable, NotHeld, RecordDamaged
from holdfast_core.record import Child, CollectionRule, Departure, ImageHolding, LockTarget

#: digests a transaction, and changes and edges after which it takes no more of them: the writer is held for a few ms. A
#: manifest with ten layers has 25, a blob 3
DIGESTS, CHANGES = 32, 80
#: edges that are looked at together
EDGES = 64
#: roots of one digest that are looked for
ROOTS = 32


def evicted(
    view: IndexView, repository: str, digest: Digest, *, now: float, parent: bytes = b""
) -> tuple[list[IndexChange], Departure]:
    """Take a manifest or a blob out of a repository, with the tags that point to it and what nothing else there names;
    the first DIGESTS of them in this transaction; the rest is loose from now on, or once what names it goes, and goes
    by `collected`. Raises NotEvictable for what may not go, NotHeld for what is not there."""
    hashed = layout.repository_hash(repository)
    if not is_linked(view, hashed, digest.key):
        raise NotHeld(f"{digest} is not in {repository}")
    if reason := _kept(view, repository, digest, now) or _not_evicted(view, hashed, digest.key, now, parent):
        raise NotEvictable(f"{digest} of {repository} {reason}")
    changes: list[IndexChange] = []
    for name in tags_at(view, repository, digest):
        tag = change.tag_of(view, repository, name)
        if tag is not None and tag.origin == "local":
            raise NotEvictable(
                f"{digest} of {repository} has the tag {name}, which was moved here and not at the parent"
            )
        changes += change.drop_tag(view, repository, name, now=now)
    going = list(_going(view, hashed, digest.key, now, parent))
    gone, rest = going[:DIGESTS], going[DIGESTS:]
    free = sum(freed(view, hashed, digest_key) for digest_key in gone)
    for digest_key in gone:  # what names others goes first: what it names is loose for a moment
        changes += _unlinked(view, repository, digest_key, now)
    changes += [put(space_format.loose_key(hashed, other), layout.encode_time(now)) for other in rest]
    return changes, Departure(len(gone), free, len(rest))


def only_named_by(
    view: IndexView,
    repository: bytes,
    roots: Sequence[bytes],
    now: float,
    *,
    owned: bool,
    parent: bytes = b"",
    live: bool = True,
) -> Iterator[bytes]:
    """The digest keys that a repository (its hash) links and that nothing of it names but `roots` and what goes with
    them, which come first. Pinned, locked and tagged content stays, and without `owned` what was pushed here and
    `parent` did not confirm; without `live` a manifest of that kind that nobody deleted."""
    going = dict.fromkeys(roots)
    waiting = list(roots)
    while waiting:
        named_by = waiting.pop(0)
        yield named_by
        for child in change.children_in(view, named_by) or ():
            key = child.digest.key
            if key in going or not is_linked(view, repository, key):
                continue
            if _is_named(view, repository, key, without=going) or pins.is_pinned(view, repository, key, now):
                continue
            if _is_locked(view, repository, key):
                continue
            is_kept = not owned or (
                not live and present(view, layout.LINK + repository + layout.AS_MANIFEST + key)
            )
            if is_kept and (
                _is_alone_here(view, repository, key, parent)
                or present(view, layout.PENDING + repository + key)
            ):
                continue
            going[key] = None
            waiting.append(key)


def roots_of(view: IndexView, repository: bytes, digest_key: bytes) -> list[bytes]:
    """The digest keys of what is evicted as a whole and has a digest in it: manifests of the repository (its hash) that
    no other names, ROOTS at most; the digest itself when nothing names it."""
    roots: dict[bytes, None] = {}
    waiting, known = [digest_key], {digest_key}
    while waiting and len(roots) < ROOTS:
        key = waiting.pop(0)
        parents = list(islice(_parents(view, repository, key), ROOTS))
        if not parents:
            roots[key] = None
        waiting += [parent for parent in parents if parent not in known]
        known.update(parents)
    return list(roots)


def holding_of(
    view: IndexView, repository: str, digest: Digest, *, now: float, parent: bytes = b""
) -> ImageHolding | None:
    """What `evicted` would take with a digest; None for what is not there."""
    hashed = layout.repository_hash(repository)
    if not is_linked(view, hashed, digest.key):
        return None
    going = list(_going(view, hashed, digest.key, now, parent))
    sizes = [freed(view, hashed, key) for key in going]
    named = dict.fromkeys(c.digest for key in going for c in change.children_in(view, key) or ())
    return ImageHolding(
        repository,
        digest,
        tuple(map(Digest.from_key, going)),
        tuple(sizes),
        tuple(_uses(view, hashed, key, now) for key in going),
        sum(_file_bytes(view, key) for key, size in zip(going, sizes, strict=True) if not size),
        hour_of_use(view, hashed, digest.key) or 0,
        tuple(named),
        tuple(_pushed(view, hashed, digest.key, going)),
        _kept(view, repository, digest, now) or _not_evicted(view, hashed, digest.key, now, parent),
    )


def collected(
    view: IndexView, repository: str, digest: Digest, rule: CollectionRule, *, now: float
) -> tuple[list[IndexChange], Departure]:
    """Take what nothing names any more out of a repository, if the rule says so: no change when it does not, or when it
    is named again. A time in the future is of a clock that was set back since then, and is as if it were now: the lease
    begins anew."""
    hashed = layout.repository_hash(repository)
    note = space_format.loose_key(hashed, digest.key)
    payload = view.get(note)
    hour = hour_of_use(view, hashed, digest.key)
    if payload is None or hour is None:
        return [], Departure()
    if _is_named(view, hashed, digest.key):
        return remove([note]), Departure()
    if (since := layout.decode_time(payload)) > now:
        return [put(note, layout.encode_time(now))], Departure()
    if not _is_over(view, hashed, digest, since, hour, rule, now):
        return [], Departure()
    if _has_subject(view, hashed, digest.key) or _kept(view, repository, digest, now):
        return [], Departure()
    free = freed(view, hashed, digest.key)
    return _unlinked(view, repository, digest.key, now), Departure(1, free)


def collected_together(
    view: IndexView,
    loose: list[tuple[str, Digest]],
    rule: CollectionRule,
    *,
    now: float,
    gone: dict[Digest, set[bytes]],
    limit: float = inf,
) -> tuple[list[IndexChange], Departure]:
    """`collected` for several, until there are `limit` changes and edges; the rest is left. `gone` is the caller's,
    empty at first: the repositories that lose a digest that others have as well."""
    changes: list[IndexChange] = []
    digests = bytes_freed = looked_at = edges = 0
    for repository, digest in loose:
        if len(changes) + edges >= limit:
            break
        looked_at += 1
        rows, departure = collected(view, repository, digest, rule, now=now)
        changes += rows
        if not departure.digests:
            continue
        hashed, others = layout.repository_hash(repository), gone.get(digest, set())
        digests += 1
        edges += len(change.children_in(view, digest.key) or ())
        bytes_freed += freed(view, hashed, digest.key, others)
        if repositories_of(view, digest.key) != {hashed}:
            gone.setdefault(digest, set()).add(hashed)
    return changes, Departure(digests, bytes_freed, len(loose) - looked_at)


def _is_over(
    view: IndexView,
    repository: bytes,
    digest: Digest,
    since: float,
    hour: int,
    rule: CollectionRule,
    now: float,
) -> bool:
    """Whether the lease of what nothing names is over. For a manifest that was cached both rules must let it go. A use
    or a delete in the future says nothing."""
    deleted = view.get(layout.LINK + repository + layout.AS_DELETED + digest.key)
    if deleted is not None:
        before, deleted_at = rule.deleted_before, layout.decode_linked_at(deleted)
        return before is not None and (deleted_at if deleted_at <= now else since) <= before
    as_manifest = present(view, layout.LINK + repository + layout.AS_MANIFEST + digest.key)
    rules = [rule.manifests_before] if as_manifest else []
    if change.is_owned(view, digest.key):
        rules = rules or [rule.blobs_before]
    else:
        used = hour * space_format.HOUR_SECONDS
        since = max(since, used if used <= now else since)
        rules.append(rule.cached_before)
    return all(before is not None and since <= before for before in rules)


def _is_named(
    view: IndexView, repository: bytes, digest_key: bytes, without: dict[bytes, None] | None = None
) -> bool:
    """Whether a tag, or a linked manifest that is not one of `without`, names a digest."""
    if view.keys(layout.TAGGED + repository + digest_key, limit=1):
        return True
    return any(parent not in (without or ()) for parent in _parents(view, repository, digest_key))


def _parents(view: IndexView, repository: bytes, digest_key: bytes) -> Iterator[bytes]:
    """The manifests of a repository that name a digest. A record of one that is not linked there any more is none."""
    prefix = space_format.edge_prefix(repository, digest_key)
    after = prefix
    while rows := view.rows(prefix, after=after, limit=EDGES):
        for key, _ in rows:
            parent = key[len(prefix) :]
            if has_manifest(view, repository, parent):
                yield parent
        after = rows[-1][0]


def _has_subject(view: IndexView, repository: bytes, digest_key: bytes) -> bool:
    """Whether what a manifest refers to is in the repository, or can be restored."""
    prefix = layout.SUBJECT + repository + digest_key
    subjects = (key[len(prefix) :] for key in view.keys(prefix))
    return any(has_manifest(view, repository, subject) for subject in subjects)


def _going(view: IndexView, repository: bytes, root: bytes, now: float, parent: bytes) -> Iterator[bytes]:
    """Who deletes an index does not delete its platforms, which are pulled by digest: those stay."""
    owned = is_deleted(view, repository, root)
    return only_named_by(view, repository, [root], now, owned=owned, parent=parent, live=False)


def _pushed(view: IndexView, repository: bytes, root: bytes, going: Iterable[bytes]) -> Iterator[Child]:
    """Those that go by the word of a parent: of what was deleted none."""
    if is_deleted(view, repository, root):
        return
    for key in going:
        if change.is_owned(view, key):
            as_manifest = present(view, layout.LINK + repository + layout.AS_MANIFEST + key)
            kind = layout.AS_MANIFEST if as_manifest else layout.AS_BLOB
            yield Child(kind, Digest.from_key(key), _file_bytes(view, key))


def _is_alone_here(view: IndexView, repository: bytes, digest_key: bytes, parent: bytes) -> bool:
    """Whether a digest was pushed here, and `parent` did not confirm that it has it in this repository."""
    if not change.is_owned(view, digest_key):
        return False
    return not parent or view.get(layout.CONFIRMED + repository + digest_key) != parent


def _not_evicted(view: IndexView, repository: bytes, digest_key: bytes, now: float, parent: bytes) -> str:
    """Why something that may be collected is not evicted; "" when it is."""
    if is_deleted(view, repository, digest_key):
        whole: Iterable[bytes] = ()
    else:
        owned = change.is_owned(view, digest_key)
        whole = only_named_by(view, repository, [digest_key], now, owned=owned)
    if any(_is_alone_here(view, repository, key, parent) for key in whole):
        return "was pushed here" + (", and the parent did not confirm all of it" if parent else "")
    return "is named by a manifest that is here" if any(_parents(view, repository, digest_key)) else ""


def _kept(view: IndexView, repository: str, digest: Digest, now: float) -> str:
    """Why something may not go; "" when it may."""
    hashed = layout.repository_hash(repository)
    if present(view, layout.pending_key(repository, digest)):
        return "was pushed here and the parent does not have it yet"
    if pins.is_pinned(view, hashed, digest.key, now):
        return "is pinned"
    try:
        tags = (LockTarget("tag", name) for name in tags_at(view, repository, digest))
        locks.require(view, repository, "delete", [LockTarget("manifest", str(digest)), *tags])
    except (ContentLocked, RecordDamaged):
        return "is locked"
    return ""


def _uses(view: IndexView, repository: bytes, digest_key: bytes, now: float) -> float:
    at, uses = change.uses_of(view, repository, digest_key)
    return space_format.decayed(uses, now - at)


def _is_locked(view: IndexView, repository: bytes, digest_key: bytes) -> bool:
    """Whether a manifest has a lock that keeps it; one that cannot be read does."""
    try:
        lock = locks.lock_at(view, layout.LOCK + repository + layout.NOUNS["manifest"] + digest_key)
    except RecordDamaged:
        return True
    return not all(getattr(lock, needed) for needed in locks.NEEDED["delete"])


def freed(view: IndexView, repository: bytes, digest_key: bytes, gone: Collection[bytes] = ()) -> int:
    """Bytes of the disk that are free once this repository does not have a digest any more, and those in `gone` do not
    either."""
    size = _file_bytes(view, digest_key)
    return size if size and _is_last(view, digest_key, {repository, *gone}) else 0


def _is_last(view: IndexView, digest_key: bytes, repositories: Collection[bytes]) -> bool:
    """Whether no other repository has a digest. Each has it by so many links at most."""
    holders = view.keys(layout.HOLDER + digest_key, limit=len(layout.LINK_KINDS) * len(repositories) + 1)
    return all(key[-16:] in repositories for key in holders)


def _file_bytes(view: IndexView, digest_key: bytes) -> int:
    blob = blob_of(view, Digest.from_key(digest_key))
    return 0 if blob is None or blob.inline is not None else blob.size


def _unlinked(view: IndexView, repository: str, digest_key: bytes, now: float) -> list[IndexChange]:
    """End the links of a digest in a repository, and what goes with a manifest."""
    hashed, digest = layout.repository_hash(repository), Digest.from_key(digest_key)
    subjects = view.keys(layout.subject_prefix(repository, digest))
    changes = remove(map(layout.subject_referrer, subjects), change.Keep.DISK)
    lock = layout.lock_key(repository, LockTarget("manifest", str(digest)))
    changes += remove([lock], change.Keep.DISK) if present(view, lock) else []
    links = (layout.LINK + hashed + kind + digest_key for kind in layout.LINK_KINDS)
    for link in links:
        changes += unlink(view, link, now=now) if present(view, link) else []
    return changes
