"""Manifests and tags that are not here, or are too old: fetched from the parent, or confirmed by it.

One request per manifest runs at the parent, however many clients wait for it.
"""

from __future__ import annotations

import asyncio

from holdfast_core.digest import Digest
from holdfast_core.errors import Unwritable
from holdfast_core.record import Tag
from holdfast_core.store import Store

from holdfast import errors
from holdfast.clock import Clock
from holdfast.config import TagsSection
from holdfast.keeper.api import ManifestAnswer
from holdfast.keeper.fetched_content import FetchedContent
from holdfast.keeper.misses.parent_access import ParentAccess
from holdfast.keeper.misses.tag_cache import is_fresh
from holdfast.log import log
from holdfast.single_flight import SingleFlight


class ManifestMisses:
    """The part of `KeeperApi` that brings manifests."""

    def __init__(
        self, store: Store, access: ParentAccess, fetched: FetchedContent, config: TagsSection, clock: Clock
    ) -> None:
        self._references, self._access, self._fetched = store.references, access, fetched
        self._config, self._clock = config, clock
        self.flights: SingleFlight[ManifestAnswer] = SingleFlight()
        #: manifests that passed through because the disk was full
        self.unstored = 0

    async def close(self) -> None:
        """Cancel the requests that are under way."""
        await self.flights.close()

    async def manifest(self, repository: str, reference: str) -> ManifestAnswer:
        """See `KeeperApi.manifest`."""
        if ":" in reference:
            return await self._by_digest(repository, reference)
        return await self._by_tag(repository, reference)

    async def _by_digest(self, repository: str, reference: str) -> ManifestAnswer:
        if self._references.manifest(repository, Digest.parse(reference)):
            return ManifestAnswer(reference)
        return await self._from_parent(repository, reference)

    async def _by_tag(self, repository: str, name: str) -> ManifestAnswer:
        held = self._references.tag(repository, name)
        if held is None or not self._references.manifest(repository, held.digest):
            return await self._from_parent(repository, name)
        if is_fresh(held, self._clock.now(), self._config):
            return self._held(held)
        return await self._confirmed(repository, held)

    def _held(self, tag: Tag, stale: str = "") -> ManifestAnswer:
        age = max(0, int(self._clock.now() - tag.checked_at))
        return ManifestAnswer(str(tag.digest), age, stale)

    async def _confirmed(self, repository: str, held: Tag) -> ManifestAnswer:
        """The answer for a held tag past its time to live: the parent's when it comes within the budget, else what is
        held."""
        if self._access.parent_of(repository) is None:
            return self._held(held)
        flight = self.flights.join((repository, held.name), lambda: self._confirm(repository, held))
        done, _ = await asyncio.wait((flight,), timeout=self._config.confirm_budget)
        if not done:
            return self._held(held, "the parent has not answered yet")
        try:
            return flight.result()
        except (errors.ParentFailed, errors.ManifestUnknown) as failure:
            is_gone = isinstance(failure, errors.ParentNotFound | errors.ManifestUnknown)
            if is_gone and self._config.on_parent_404 == "refuse":
                raise errors.ManifestUnknown("the parent no longer has this tag") from failure
            return self._held(held, failure.message)

    async def _confirm(self, repository: str, held: Tag) -> ManifestAnswer:
        """One HEAD; one GET when the tag moved. The HEAD only shows whether a GET is needed: a tag moves to what a GET
        brought and its bytes hash to (reliability.md P15)."""
        parent, name = self._access.required(repository)
        head = await parent.head_manifest(name, held.name)
        if head.digest != str(held.digest):
            return await self._fetch(repository, held.name)
        try:
            await self._fetched.keep_tag(repository, held.name, held.digest)
        except Unwritable:
            self._references.confirm_tag(repository, held.name, held.digest, self._clock.now())
        return ManifestAnswer(head.digest)

    async def _from_parent(self, repository: str, reference: str) -> ManifestAnswer:
        """A manifest that is not held: one GET for all clients that wait, a 404 remembered."""
        key = ("manifest", repository, reference)
        self._refuse_deleted(repository, "manifest" if ":" in reference else "tag", reference)
        self._access.refuse_missing(errors.ManifestUnknown, *key)
        try:
            return await self.flights.result(
                (repository, reference), lambda: self._fetch(repository, reference)
            )
        except errors.ParentNotFound as failure:
            self._access.remember_missing(*key)
            raise errors.ManifestUnknown(f"no manifest {reference}", detail=failure.message) from failure
        except errors.ParentDenied as failure:
            raise errors.ManifestUnknown(f"no manifest {reference}", detail=failure.message) from failure

    async def _fetch(self, repository: str, reference: str) -> ManifestAnswer:
        """GET a manifest and write it; on a full disk the answer has its body."""
        parent, name = self._access.required(repository)
        fetched = await parent.get_manifest(name, reference)
        self._refuse_deleted(repository, "manifest", fetched.digest)
        try:
            await self._fetched.keep(repository, reference, fetched)
        except Unwritable as error:
            log.warning("manifest unstored", digest=fetched.digest, reason=str(error))
            self.unstored += 1
            return ManifestAnswer(fetched.digest, media_type=fetched.media_type, body=fetched.body)
        return ManifestAnswer(fetched.digest)

    def _refuse_deleted(self, repository: str, kind: str, name: str) -> None:
        """Raises ManifestUnknown for what was deleted here: it does not come back from the parent."""
        if self._references.is_deleted(repository, kind, name):
            raise errors.ManifestUnknown(f"this {kind} was deleted here", detail=name)
