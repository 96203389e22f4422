"""One row of the outbox: what was done here and is still to be done at the parent."""

from __future__ import annotations

from typing import Literal

from msgspec import Struct

from holdfast.sync.backoff import Trouble

Deed = Literal["manifest", "tag", "untag", "delete"]


class Upload(Struct, frozen=True):
    """An upload at the parent that was begun: where it goes on, and of which blob."""

    digest: str
    url: str


class Entry(Struct, frozen=True):
    """One row. `digest` is the manifest, or what the tag names ("" for untag). `needs`: children and subject of a
    manifest; `tags`: those that a delete took with it here. `base`: what the tag named at the parent when it was
    first moved here, "" nothing, None unknown; `event`: the number of the tag's last event at the parent that this
    node knew then. `sent`: the parent may have got it. `forced`: an operator wants it there whatever the parent has.
    `uploads`: of its blobs, under way."""

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
        """What later entries must not overtake. A delete writes the tags that went with it as well."""
        return (f":{self.tag}",) if self.tag else (self.digest, *(f":{tag}" for tag in self.tags))

    def bound_to(self) -> tuple[str, ...]:
        """What it must not overtake the writing of."""
        named = (self.digest,) if self.tag and self.digest else ()
        return (*self.writes(), *named, *self.needs)
