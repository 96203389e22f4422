"""What was deleted here and can be restored, with `garbage_collection.deleted_after`: manifests with all that they
name, and tags whose manifest is here."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator

from holdfast_core.digest import Digest
from holdfast_core.record import LockTarget
from holdfast_core.store import Store

from holdfast import errors
from holdfast.clock import Clock
from holdfast.log import log
from holdfast.resources.model import ResourceStruct
from holdfast.storage.images.pinned_images import PinKind
from holdfast.timestamps import duration, stamp

Restore = Callable[[str, str, tuple[str, ...]], Awaitable[tuple[str, ...]]]


class DeletedImage(ResourceStruct, frozen=True):
    """A deleted manifest (`image` is `name@digest`) with the `tags` that it had, or a deleted tag (`name:tag`). It can
    be restored until then; a manifest that is pinned, or named by an index that is here, also after it. `bytes` are
    free once it is collected."""

    image: str
    digest: str
    tags: tuple[str, ...]
    deleted: str
    until: str
    bytes: int


class DeletedList(ResourceStruct, frozen=True):
    """Those of a page of repositories, by repository."""

    value: tuple[DeletedImage, ...]
    next_link: str | None


class RestoredImage(ResourceStruct, frozen=True):
    """What is here again, and under which tags. `taken` are those that it had and that name something else by now."""

    digest: str
    tags: tuple[str, ...]
    taken: tuple[str, ...]


def deleted_images(
    store: Store, repository: str, shown: str, kept: str, now: float
) -> Iterator[DeletedImage]:
    """Of one repository, by its key; `shown` is its name for people, `kept` how long (ISO 8601, empty: no more). Raises
    RecordDamaged."""
    length = duration(kept) if kept else None
    seconds = 0.0 if length is None else length.total_seconds()
    for one in store.references.deleted(repository):
        yield DeletedImage(
            image=f"{shown}@{one.digest}",
            digest=str(one.digest),
            tags=one.tags,
            deleted=stamp(one.deleted_at),
            until=stamp(one.deleted_at + seconds),
            bytes=store.space.freed_by(repository, one.digest, now=now).freed_bytes,
        )
    for name, move in store.references.deleted_tags(repository):
        manifest = LockTarget("manifest", str(move.digest))
        if move.moved_at + seconds > now and store.references.is_there(repository, manifest):
            yield DeletedImage(
                image=f"{shown}:{name}",
                digest=str(move.digest),
                tags=(name,),
                deleted=stamp(move.moved_at),
                until=stamp(move.moved_at + seconds),
                bytes=0,
            )


class DeletedImages:
    """Restores what was deleted. `restore` is that of `Pushes`; `by` is who ordered it."""

    def __init__(self, store: Store, restore: Restore, clock: Clock) -> None:
        self._store, self._restore, self._clock = store, restore, clock

    async def undelete(
        self, repository: str, kind: PinKind, name: str, tags: tuple[str, ...], by: str
    ) -> RestoredImage:
        """See `KeeperApi.undelete`."""
        digest, former = self._found(repository, kind, name)
        wanted = tags or former
        try:
            if must := [tag for tag in wanted if (tags or kind == "tag") and self._is_tag(repository, tag)]:
                raise errors.ControlConflict(
                    f"tags that name something already: {', '.join(must)}; delete them, or give others",
                    field="tags",
                )
            restored = await self._restore(repository, str(digest), wanted)
        except errors.ManifestUnknown as unknown:
            raise errors.ControlUnknown(f"{name} is not kept any more", field="image") from unknown
        log.info("restored", by=by, repository=repository, digest=str(digest), tags=restored)
        taken = tuple(tag for tag in wanted if tag not in restored)
        return RestoredImage(digest=str(digest), tags=restored, taken=taken)

    def _is_tag(self, repository: str, name: str) -> bool:
        return self._store.references.is_there(repository, LockTarget("tag", name))

    def _found(self, repository: str, kind: PinKind, name: str) -> tuple[Digest, tuple[str, ...]]:
        """(the manifest, the tags to give it). The last that had a tag is the one that its name stands for."""
        references = self._store.references
        if kind == "manifest":
            for one in references.deleted(repository):
                if str(one.digest) == name:
                    return one.digest, one.tags
        for tag, move in references.deleted_tags(repository):
            if kind == "tag" and tag == name and move.digest is not None:
                return move.digest, (tag,)
        raise errors.ControlUnknown(f"{name} was not deleted here, or is not kept any more", field="image")
