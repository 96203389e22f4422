"""Images that were pushed here without all of their blobs, because the parent has the others: they are brought, so that
the site has the whole image when the link is down."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import TYPE_CHECKING

from holdfast_core.digest import Digest
from holdfast_core.errors import StoreError
from holdfast_core.store import Store

from holdfast import errors
from holdfast.background import BackgroundTasks
from holdfast.clock import Clock
from holdfast.log import log
from holdfast.oci.manifest import Inspected, ManifestUnreadable, parse_aside
from holdfast.outbox.node_outbox import NodeOutbox
from holdfast.routing import Repository

if TYPE_CHECKING:  # without a parent a node does without its client: aiohttp is 10 MB
    from holdfast.parent.client import Parent


#: images that were pushed and lack blobs are tried again this often (seconds)
BRING_SECONDS = 60.0
#: between two of them, so that a long list does not hold up requests (seconds)
PAUSE_SECONDS = 0.001


class PushedImages:
    """The images of which blobs may be only at the parent. `bring` begins the fill of a blob without a reader."""

    def __init__(
        self,
        store: Store,
        parents: Mapping[str, Parent],
        bring: Callable[[str, str], Awaitable[None]],
        outbox: NodeOutbox,
        clock: Clock,
        tasks: BackgroundTasks,
    ) -> None:
        self._store, self._parents, self._outbox = store, parents, outbox
        self._bring, self._clock, self._tasks = bring, clock, tasks
        #: by repository and digest
        self.incomplete: set[tuple[str, Digest]] = set()

    def is_complete(self, repository: str, digest: Digest) -> bool:
        """Whether no blob of a pushed image is still to come from the parent."""
        return (repository, digest) not in self.incomplete

    def add(self, repository: str, digest: Digest) -> None:
        """An image was pushed: bring what it lacks."""
        self.incomplete.add((repository, digest))
        self._tasks.begin(self.complete(repository, digest))

    async def run(self) -> None:
        """Bring what the last keeper had not brought when it ended, and what a parent that was away could not send;
        until cancelled."""
        self.incomplete.update(self._store.references.outbox.pending())
        while True:
            for image in list(self.incomplete):
                await self.complete(*image)
                await self._clock.sleep(PAUSE_SECONDS)
            await self._clock.sleep(BRING_SECONDS)

    async def complete(self, repository: str, digest: Digest) -> None:
        """Begin to bring the blobs that an image lacks. It is done when all are here or cannot be had; while fills run
        it is tried again."""
        parent = self._parents.get(Repository.from_key(repository).namespace)
        if parent is not None and parent.state == "offline":
            return
        try:
            lacking = await self._lacking(repository, digest) if parent is not None else []
        except (errors.Refusal, StoreError) as error:
            # a lock, or a record that is damaged: the next start may read it
            log.warning("pushed image not read", repository=repository, digest=str(digest), reason=str(error))
            lacking = []
        coming = [await self._is_coming(repository, blob) for blob in lacking]
        if not any(coming):
            self.incomplete.discard((repository, digest))
            self._tasks.begin(self._outbox.blobs_arrived(repository, digest))

    async def _is_coming(self, repository: str, blob: str) -> bool:
        """Begin to bring a blob. False when there is no use in another try."""
        try:
            await self._bring(repository, blob)
        except (errors.Refusal, StoreError) as error:
            log.warning("pushed image incomplete", repository=repository, digest=blob, reason=str(error))
            is_final = isinstance(error, errors.ClientMistake)
            return not (is_final or (isinstance(error, errors.ParentFailed) and error.permanent))
        return True

    async def _lacking(self, repository: str, digest: Digest) -> list[str]:
        """The blobs of an image that are not here and were not deleted here."""
        held = self._store.references.manifest(repository, digest)
        content = await read_manifest(held.body, held.media_type) if held is not None else None
        if content is None or content.is_index:
            return []
        blobs = dict.fromkeys(child.digest for child in content.children if not child.is_foreign)
        return [
            blob
            for blob in blobs
            if self._store.blobs.get(repository, Digest.parse(blob)) is None
            and not self._store.references.is_deleted(repository, "blob", blob)
        ]


async def read_manifest(body: bytes, media_type: str) -> Inspected:
    """The content of a manifest. Raises ManifestInvalid."""
    try:
        return await parse_aside(body, media_type)
    except ManifestUnreadable as refused:
        raise errors.ManifestInvalid(str(refused)) from refused
