"""Writes to the index what parents answered: manifests, tags and lists. They are cached: this node does not own
them."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from concurrent.futures import Future
from typing import TYPE_CHECKING

from holdfast_core.digest import Digest
from holdfast_core.errors import NotHeld
from holdfast_core.record import Descriptor
from holdfast_core.store import Store

from holdfast import errors
from holdfast.clock import Clock

if TYPE_CHECKING:  # without a parent a node does without its client: aiohttp is 10 MB
    from holdfast.parent.client import FetchedManifest


class FetchedContent:
    """Each write raises ManifestUnknown when its content was deleted here meanwhile, and StoreError."""

    def __init__(self, store: Store, clock: Clock) -> None:
        self._references, self._clock = store.references, clock

    async def keep(self, repository: str, reference: str, fetched: FetchedManifest) -> None:
        """Write a manifest, and the tag by which it was fetched, in one transaction."""
        content = fetched.inspected
        await committed(
            self._references.put_manifest(
                repository,
                Digest.parse(fetched.digest),
                fetched.media_type,
                fetched.body,
                owned=False,
                now=self._clock.now(),
                subject=Digest.parse(content.subject) if content.subject else None,
                artifact_type=content.artifact_type,
                annotations=content.annotations,
                tag="" if ":" in reference else reference,
            )
        )

    async def keep_tag(self, repository: str, name: str, digest: Digest) -> None:
        """Write that the parent confirmed a tag now."""
        await committed(self._references.put_tag(repository, name, digest, now=self._clock.now()))

    async def keep_tag_list(self, repository: str, tags: Sequence[str]) -> None:
        """Write the parent's tag list."""
        await committed(self._references.lists.put_tag_list(repository, tags, now=self._clock.now()))

    async def keep_referrers(
        self, repository: str, subject: Digest, descriptors: Sequence[Descriptor]
    ) -> None:
        """Write the parent's referrers of a manifest."""
        await committed(
            self._references.lists.put_referrers(repository, subject, descriptors, now=self._clock.now())
        )


async def committed(future: Future[None]) -> None:
    """Wait for a write of cached content. Raises ManifestUnknown when its content was deleted here meanwhile, and
    StoreError."""
    try:
        await asyncio.wrap_future(future)
    except NotHeld as deleted:
        raise errors.ManifestUnknown("this was deleted here", detail=str(deleted)) from deleted
