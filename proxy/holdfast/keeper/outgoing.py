"""The rows of the outbox as the store keeps them: what a change tells, and how it is read back."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
from holdfast_core.errors import RecordDamaged
from holdfast_core.outbox import Notes
from holdfast_core.record import Resource, Tag
from holdfast_core.store import Store

from holdfast.manifest import Inspected
from holdfast.sync.entry import Entry
from holdfast.sync.outbox import Conflict

#: kind of the documents that tell how conflicts were decided, by the number of the entry; so many are kept
CONFLICT = "conflict"
CONFLICTS = 1000

_entry = msgspec.msgpack.Decoder(Entry)
_conflict = msgspec.msgpack.Decoder(Conflict)


def encode(entry: Entry) -> bytes:
    """The body of a row."""
    return msgspec.msgpack.encode(entry)


def decode(number: int, body: bytes) -> Entry:
    """The entry of a row, with the number that the store gave it. Raises RecordDamaged."""
    try:
        return msgspec.structs.replace(_entry.decode(body), seq=number)
    except msgspec.MsgspecError as error:
        raise RecordDamaged(f"outbox row {number} cannot be read: {error}") from error


def entry_of(store: Store, number: int) -> Entry | None:
    """One entry that is still to go up. Raises RecordDamaged."""
    body = store.outbox_row(number)
    return None if body is None else decode(number, body)


def conflicts_of(store: Store) -> dict[int, Conflict]:
    """How the last conflicts were decided, by the number of the entry."""
    return {int(row.name): conflict_in(row) for row in store.resources(CONFLICT)}


def conflict_of(store: Store, number: int) -> Conflict | None:
    """How one was decided, None when it was not one, or is long ago."""
    row = store.resource(CONFLICT, name_of(number))
    return None if row is None else conflict_in(row)


def conflict_in(row: Resource) -> Conflict:
    """The conflict in its document."""
    return _conflict.decode(row.body)


def name_of(number: int) -> str:
    """The name of a conflict's document: in the order of numbers."""
    return f"{number:020}"


def of_push(repository: str, digest: str, tags: Sequence[str], content: Inspected, now: float) -> Notes:
    """What a pushed manifest tells: itself, then its tags."""
    children = [child.digest for child in content.children if child.is_manifest]
    needs = (*children, *((content.subject,) if content.subject else ()))

    def notes(before: Sequence[Tag]) -> Sequence[bytes]:
        named = {tag.name: str(tag.digest) for tag in before}
        rows = [Entry(0, repository, "manifest", digest, now, needs=needs)]
        rows += [
            Entry(0, repository, "tag", digest, now, tag, base=named.get(tag)) for tag in dict.fromkeys(tags)
        ]
        return [encode(row) for row in rows]

    return notes


def of_untag(repository: str, name: str, now: float) -> Notes:
    """What the deletion of a tag tells."""

    def notes(before: Sequence[Tag]) -> Sequence[bytes]:
        base = next((str(tag.digest) for tag in before), None)
        return [encode(Entry(0, repository, "untag", "", now, name, base=base))]

    return notes


def of_delete(repository: str, digest: str, now: float) -> Notes:
    """What the deletion of a manifest tells."""

    def notes(before: Sequence[Tag]) -> Sequence[bytes]:
        return [encode(Entry(0, repository, "delete", digest, now, tags=tuple(tag.name for tag in before)))]

    return notes
