"""What changed here, for those who follow it: connected registries below, webhooks and notices.

A planner reports a change as an event without a number among its changes. The writer gives it the next number, in the
transaction of the change, while the log is kept, and drops it when the log has no readers.

The log is about this index alone, and after a rebuild another one begins, with another id. What cannot be derived
from the rest of a transaction, because it is of documents, goes along in its frame of the journal (`Keep.JOURNAL`), for
a kill between the two; nothing else reads it there.

Numbers are given once. A commit that a reader saw may still be lost with the power, so each opening for writing leaves
numbers out, and how many is not known beforehand: of a store that was put back from a copy the numbers go on elsewhere
than they did before. A number that was never given, or whose event was lost, is no point of the log, however low it is.
"""

from __future__ import annotations

import uuid as uuids
from collections.abc import Iterable, Sequence

from msgspec.structs import replace

from holdfast_core import format as layout
from holdfast_core.changes.change import IndexChange, IndexView, Keep, blob_of, present, put, remove, tag_of
from holdfast_core.digest import Digest
from holdfast_core.format import LogHead
from holdfast_core.index.lmdb_index import Index, TransactionView
from holdfast_core.record import Descriptor, EventRecord, Verb

#: numbers left out at each opening for writing: more than one batch of the writer can give, and up to SPREAD by chance.
#: A million openings stay below 2^53, up to which every reader of JSON counts exactly.
GAP, SPREAD = 1_000_000, 1 << 34
#: the id of a log without readers: what is left of it goes bit by bit
NO_LOG = b""
#: in place of the key of an event without a number. No index takes an empty key, so none gets by the writer.
UNNUMBERED = b""


# --- for planners ----------------------------------------------------------------------------------------


def unnumbered(event: EventRecord, keep: Keep = Keep.INDEX) -> IndexChange:
    """A change that says what happened."""
    return IndexChange(UNNUMBERED, layout.encode_event(event), keep)


def of_push(
    repository: str, descriptor: Descriptor, subject: Digest | None, *, now: float, origin: str
) -> EventRecord:
    """An event of a manifest that comes."""
    return EventRecord(
        "push",
        "manifest",
        repository,
        now,
        digest=descriptor.digest,
        media_type=descriptor.media_type,
        size=descriptor.size,
        artifact_type=descriptor.artifact_type,
        subject="" if subject is None else str(subject),
        origin=origin,
    )


def moves(view: IndexView, repository: str, names: Iterable[str], digest: Digest) -> list[str]:
    """Those of the tags that name another manifest, or none; the others are only confirmed."""
    tags = {name: tag_of(view, repository, name) for name in names}
    return [name for name, tag in tags.items() if tag is None or tag.digest != digest]


def pushed(event: EventRecord, tags: Iterable[str], *, joined: bool) -> list[IndexChange]:
    """A manifest came: one event for each of the tags that moved to it, or, without any, one for itself when it was not
    in the repository before (`joined`)."""
    named = [unnumbered(replace(event, kind="tag", tag=name)) for name in tags]
    return named or ([unnumbered(event)] if joined else [])


def of_manifest(
    view: IndexView, verb: Verb, repository: str, digest: Digest, *, now: float, origin: str
) -> EventRecord:
    """An event of a manifest that is in the repository, with what the index knows of it."""
    link = view.get(layout.link_key(repository, layout.AS_MANIFEST, digest.key))
    blob, subject, artifact_type = blob_of(view, digest), "", ""
    for key in view.keys(layout.subject_prefix(repository, digest), limit=1):
        subject = str(layout.digest_from(key, key[17 + len(digest.key) :]))
        row = view.get(layout.subject_referrer(key))
        artifact_type = layout.decode_descriptor(row).artifact_type if row is not None else ""
    return EventRecord(
        verb,
        "manifest",
        repository,
        now,
        digest=str(digest),
        media_type="" if link is None else layout.decode_media_type(link),
        size=0 if blob is None else blob.size,
        artifact_type=artifact_type,
        subject=subject,
        origin=origin,
    )


def untagged(
    view: IndexView, repository: str, names: Iterable[str], *, now: float, origin: str
) -> list[IndexChange]:
    """Tags go. Those that are not there are left out; of one that cannot be read the digest is ""."""
    events = []
    for name in names:
        if not present(view, layout.tag_key(repository, name)):
            continue
        tag = tag_of(view, repository, name)
        event = EventRecord("delete", "tag", repository, now, origin=origin)
        if tag is not None:
            event = of_manifest(view, "delete", repository, tag.digest, now=now, origin=origin)
        events.append(unnumbered(replace(event, kind="tag", tag=name)))
    return events


# --- for the writer --------------------------------------------------------------------------------------


def split_events(changes: Sequence[IndexChange]) -> tuple[Sequence[IndexChange], Sequence[IndexChange]]:
    """(changes, events without a number)."""
    events = [change for change in changes if change.key == UNNUMBERED]
    return (
        ([change for change in changes if change.key != UNNUMBERED], events) if events else (changes, events)
    )


def numbered(view: IndexView, events: Sequence[IndexChange]) -> list[IndexChange]:
    """The rows of events, after all that there are; none while the log has no readers."""
    head = head_of(view) if events else None
    if head is None or head.log == NO_LOG:
        return []
    first = head.given + 1
    rows = [
        put(layout.event_key(at), one.value or b"", one.keep) for at, one in enumerate(events, start=first)
    ]
    last = head.given + len(rows)
    return [*rows, _head_row(replace(head, last=last, given=last, count=head.count + len(rows)))]


def head_of(view: IndexView) -> LogHead | None:
    """The head, None when there is none or it is damaged."""
    payload = view.get(layout.EVENT)
    return None if payload is None else layout.decode_log_head(payload)


def _head_row(head: LogHead) -> IndexChange:
    return put(layout.EVENT, layout.encode_log_head(head))


# --- beginning, ending, trimming -------------------------------------------------------------------------


def kept(view: IndexView, keep: bool) -> list[IndexChange]:
    """Begin a log, or end it. What is so already stays as it is."""
    head = head_of(view)
    if keep == (head is not None and head.log != NO_LOG):
        return []
    if head is None:
        if not keep and not present(view, layout.EVENT):
            return []
        highest = max((layout.event_number(key) for key in _rows(view)), default=0)
        head = LogHead(NO_LOG, highest, highest, highest, 0)
    log = uuids.uuid4().bytes if keep else NO_LOG
    return [_head_row(LogHead(log, head.given, head.given, head.given, 0))]


def trimmed(view: IndexView, *, before: float, keep: int, limit: int) -> list[IndexChange]:
    """Take away up to `limit` events from the beginning: those older than `before`, those beyond the last `keep`, those
    that cannot be read, and what is left of an earlier log. The head of a log without readers goes with the last."""
    head = head_of(view)
    if head is None:
        return []
    keys = _stale(view, head, before, keep, limit)
    if not keys:
        alone = head.log == NO_LOG and not _rows(view, limit=1)
        return remove([layout.EVENT]) if alone else []
    counted = sum(layout.event_number(key) > head.floor for key in keys)
    floor = max(head.floor, layout.event_number(keys[-1]))
    last = max(head.last, floor)
    return [
        *remove(keys),
        _head_row(replace(head, floor=floor, last=last, count=max(0, head.count - counted))),
    ]


def _stale(view: IndexView, head: LogHead, before: float, keep: int, limit: int) -> list[bytes]:
    stale: list[bytes] = []
    beyond = head.count - keep
    for key in _rows(view, limit):
        if layout.event_number(key) > head.floor and head.log != NO_LOG:
            beyond -= 1
            payload = view.get(key)
            if beyond < 0 and payload is not None and layout.decode_event(key, payload).at >= before:
                break
        stale.append(key)
    return stale


def _rows(view: IndexView, limit: int | None = None) -> list[bytes]:
    """Keys of the first events; the head, whose key is the shortest, is not among them."""
    keys = view.keys(layout.EVENT, limit=None if limit is None else limit + 1)
    return [key for key in keys if key != layout.EVENT][:limit]


def reopened(index: Index) -> list[IndexChange]:
    """Leave numbers out: the last ones given may have been lost, or given in a life of this store that is no more, and
    they may have been read."""
    with index.begin() as txn:
        head = head_of(TransactionView(txn))
    gap = GAP + uuids.uuid4().int % SPREAD
    return [] if head is None else [_head_row(replace(head, given=head.given + gap))]
