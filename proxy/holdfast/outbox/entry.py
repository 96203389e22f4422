"""One row of the outbox: a change that was made here and is still to be sent to the parent."""

from __future__ import annotations

from typing import Literal

from msgspec import Struct

from holdfast.backoff import Trouble

Deed = Literal["manifest", "tag", "untag", "delete"]


class Upload(Struct, frozen=True):
    """An open upload at the parent: its URL, and its blob."""

    digest: str
    url: str


class OutboxEntry(Struct, frozen=True):
    """One row. `digest` is the manifest, or what the tag names ("" for untag). `needs`: children and subject of a
    manifest; `tags`: those that a delete took with it here. `base`: what the tag named at the parent when it was
    first moved here, "" nothing, None unknown; `event`: the number of the tag's last event at the parent that this
    node knew then. `sent`: the parent may have received it. `forced`: an operator sends it whatever the parent has.
    `uploads`: the open uploads of its blobs."""

    seq: int
    repository: str
    deed: Deed
    digest: str
    at: float
    tag: str = ""
    needs: tuple[str, ...] = ()
    tags: tuple[str, ...] = ()
    base: str | None = None
    event: int = 0
    sent: bool = False
    trouble: Trouble | None = None
    conflict: str = ""
    forced: bool = False
    uploads: tuple[Upload, ...] = ()

    def writes(self) -> tuple[str, ...]:
        """The names that it writes, and that later entries must not overtake. A delete also writes its tags."""
        return (f":{self.tag}",) if self.tag else (self.digest, *(f":{tag}" for tag in self.tags))

    def bound_to(self) -> tuple[str, ...]:
        """The names whose earlier writers it must not overtake."""
        named = (self.digest,) if self.tag and self.digest else ()
        return (*self.writes(), *named, *self.needs)
