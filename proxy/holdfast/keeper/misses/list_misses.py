"""Tag lists and referrers that are not here, or are too old: requested from the parent."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any

import msgspec
from holdfast_core.digest import Digest
from holdfast_core.errors import Damaged, NotHeld, Unwritable
from holdfast_core.list_format import encode_descriptors
from holdfast_core.record import Descriptor
from holdfast_core.store import Store

from holdfast import errors
from holdfast.clock import Clock
from holdfast.config import TagsSection
from holdfast.keeper.api import ListAnswer
from holdfast.keeper.fetched_content import FetchedContent
from holdfast.keeper.misses.parent_access import ParentAccess
from holdfast.keeper.misses.tag_cache import NegativeCache
from holdfast.single_flight import SingleFlight

if TYPE_CHECKING:
    from holdfast.sync.synchroniser import Synchroniser


class ListMisses:
    """The part of `KeeperApi` that brings lists."""

    def __init__(
        self,
        store: Store,
        access: ParentAccess,
        fetched: FetchedContent,
        config: TagsSection,
        clock: Clock,
        synchroniser: Synchroniser | None,
    ) -> None:
        self._references, self._access, self._fetched = store.references, access, fetched
        self._config, self._clock, self._synchroniser = config, clock, synchroniser
        #: lists of names of which nothing is held, and that are empty at the parent
        self._empty = NegativeCache(config.list_ttl)
        self._flights: SingleFlight[ListAnswer] = SingleFlight()

    async def close(self) -> None:
        """Cancel the requests that are under way."""
        await self._flights.close()

    async def tags(self, repository: str) -> ListAnswer:
        """See `KeeperApi.tags`."""
        return await self._listed(
            repository,
            ("tags", repository),
            self._references.lists.tag_list_time(repository),
            lambda: self._fetch_tags(repository),
            self._references.has_repository(repository),
        )

    async def _fetch_tags(self, repository: str) -> ListAnswer:
        parent, name = self._access.required(repository, errors.NameUnknown)
        tags = await parent.tags(name)
        if not tags and not self._references.has_repository(repository):
            return self._remember_empty("tags", repository)
        try:
            await self._fetched.keep_tag_list(repository, tags)
        except Unwritable:
            return ListAnswer(unstored=tuple(tag.encode() for tag in tags))
        return ListAnswer()

    async def referrers(self, repository: str, digest: str) -> ListAnswer:
        """See `KeeperApi.referrers`."""
        subject = Digest.parse(digest)
        return await self._listed(
            repository,
            ("referrers", repository, digest),
            self._references.lists.referrers_time(repository, subject),
            lambda: self._fetch_referrers(repository, subject),
            self._references.lists.has_referrers(repository, subject)
            or self._are_synchronised(repository, subject),
        )

    def _are_synchronised(self, repository: str, subject: Digest) -> bool:
        """Whether synchronisation brings the referrers of a manifest that is here: when none is here, it has none."""
        if self._synchroniser is None or not self._synchroniser.has_referrers(repository):
            return False
        try:
            return self._references.manifest(repository, subject) is not None
        except (Damaged, NotHeld):
            return False

    async def _fetch_referrers(self, repository: str, subject: Digest) -> ListAnswer:
        parent, name = self._access.required(repository, errors.NameUnknown)
        rows = await parent.referrers(name, str(subject))
        descriptors = [row if isinstance(row, Descriptor) else Descriptor(**row) for row in rows]
        if not descriptors and not self._references.has_repository(repository):
            return self._remember_empty("referrers", repository, str(subject))
        try:
            await self._fetched.keep_referrers(repository, subject, descriptors)
        except Unwritable:
            return ListAnswer(unstored=tuple(await asyncio.to_thread(encode_descriptors, descriptors)))
        return ListAnswer()

    def _remember_empty(self, *key: str) -> ListAnswer:
        """The empty list of something of which nothing is held. Remembered and not written: a client can make up names
        and digests without end."""
        self._empty.add(key, self._clock.monotonic())
        return ListAnswer(unstored=())

    async def _listed(
        self,
        repository: str,
        key: tuple[str, ...],
        fetched_at: float | None,
        fetch: Callable[[], Coroutine[Any, Any, ListAnswer]],
        is_anything_held: bool,
    ) -> ListAnswer:
        """A list within its time to live, or the parent's, or what is held with the reason."""
        if self._access.parent_of(repository) is None:
            return ListAnswer()
        held = ListAnswer.held(fetched_at, self._clock.now())
        if held.age is not None and held.age <= self._config.list_ttl:
            return held
        if fetched_at is None and self._empty.holds(key, self._clock.monotonic()):
            return ListAnswer(unstored=())
        try:
            return await self._flights.result(key, fetch)
        except errors.ParentFailed as failure:
            if fetched_at is None and not is_anything_held:
                refuse_list(key[0], failure)
            return msgspec.structs.replace(held, stale=failure.message)


def refuse_list(kind: str, failure: errors.ParentFailed) -> None:
    """Raises the refusal of a list of which nothing is held and that the parent did not answer: it names the
    repository."""
    if isinstance(failure, errors.ParentNotFound | errors.ParentDenied):
        raise errors.NameUnknown(f"no repository for {kind}", detail=failure.message) from failure
    if not isinstance(failure, errors.ParentThrottled):
        failure.code = "NAME_UNKNOWN"
    raise failure
