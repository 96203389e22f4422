"""The rows of the outbox in the store: those that a change writes, and how they are read."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
from holdfast_core.changes.outbox_rows import Notes
from holdfast_core.errors import RecordDamaged
from holdfast_core.record import Resource, Tag
from holdfast_core.store import Store

from holdfast.oci.manifest import Inspected
from holdfast.outbox.entry import OutboxEntry
from holdfast.outbox.queue import Conflict

#: kind of the documents of conflicts, named by the number of the entry; so many are kept
CONFLICT = "conflict"
CONFLICTS = 1000

_entry = msgspec.msgpack.Decoder(OutboxEntry)
_conflict = msgspec.msgpack.Decoder(Conflict)


def encode(entry: OutboxEntry) -> bytes:
    """The body of a row."""
    return msgspec.msgpack.encode(entry)


def decode(number: int, body: bytes) -> OutboxEntry:
    """The entry of a row, with the number that the store gave it. Raises RecordDamaged."""
    try:
        return msgspec.structs.replace(_entry.decode(body), seq=number)
    except msgspec.MsgspecError as error:
        raise RecordDamaged(f"outbox row {number} cannot be read: {error}") from error


def entry_of(store: Store, number: int) -> OutboxEntry | None:
    """One entry that is still to be sent. Raises RecordDamaged."""
    body = store.references.outbox.row(number)
    return None if body is None else decode(number, body)


def conflicts_of(store: Store) -> dict[int, Conflict]:
    """The last conflicts, by the number of the entry."""
    return {int(row.name): conflict_in(row) for row in store.documents.of_kind(CONFLICT)}


def conflict_of(store: Store, number: int) -> Conflict | None:
    """The conflict of an entry, None when it had none, or is long ago."""
    row = store.documents.get(CONFLICT, name_of(number))
    return None if row is None else conflict_in(row)


def conflict_in(row: Resource) -> Conflict:
    """The conflict in its document."""
    return _conflict.decode(row.body)


def name_of(number: int) -> str:
    """The name of a conflict's document: in the order of numbers."""
    return f"{number:020}"


def of_push(repository: str, digest: str, tags: Sequence[str], content: Inspected, now: float) -> Notes:
    """The rows of a pushed manifest: itself, then its tags."""
    children = [child.digest for child in content.children if child.is_manifest]
    needs = (*children, *((content.subject,) if content.subject else ()))

    def notes(before: Sequence[Tag]) -> Sequence[bytes]:
        named = {tag.name: str(tag.digest) for tag in before}
        rows = [OutboxEntry(0, repository, "manifest", digest, now, needs=needs)]
        rows += [
            OutboxEntry(0, repository, "tag", digest, now, tag, base=named.get(tag))
            for tag in dict.fromkeys(tags)
        ]
        return [encode(row) for row in rows]

    return notes


def of_untag(repository: str, name: str, now: float) -> Notes:
    """The row of a deleted tag."""

    def notes(before: Sequence[Tag]) -> Sequence[bytes]:
        base = next((str(tag.digest) for tag in before), None)
        return [encode(OutboxEntry(0, repository, "untag", "", now, name, base=base))]

    return notes


def of_delete(repository: str, digest: str, now: float) -> Notes:
    """The row of a deleted manifest."""

    def notes(before: Sequence[Tag]) -> Sequence[bytes]:
        return [
            encode(OutboxEntry(0, repository, "delete", digest, now, tags=tuple(tag.name for tag in before)))
        ]

    return notes
