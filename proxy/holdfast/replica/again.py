"""Asks a Holdfast parent once for a tag that the outbox is through with, and hands what it says to the feed as if its
log had said so. Nothing is asked for a tag of which a change is still to go up."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import structlog
from holdfast_core.errors import StoreError

from holdfast.errors import ParentNotFound, Refusal
from holdfast.replica.look import each
from holdfast.repository import Repository
from holdfast.sync.feed import Feed
from holdfast.sync.held import Held
from holdfast.sync.work import named

if TYPE_CHECKING:
    from holdfast.keeper.keeper import Keeper

log = structlog.get_logger()

#: questions at once
AT_ONCE = 4


class Again:
    """`held` says which tags, and when. `feed` gives the feed of now; `covers` tells whether a repository is wanted."""

    def __init__(
        self, keeper: Keeper, held: Held, feed: Callable[[], Feed], covers: Callable[[str], bool]
    ) -> None:
        self._keeper, self._clock, self._held = keeper, keeper.clock, held
        self._feed, self._covers = feed, covers

    async def step(self) -> bool:
        """Ask for all that is due; whether the feed was told something."""
        told: list[str] = []

        async def one(key: str) -> None:
            if not await self._settled(key):
                self._held.failed(key, self._clock.monotonic(), self._clock.jitter(1.0))
            elif key in self._held:
                told.append(key)

        await each(self._held.due(self._clock.monotonic(), self._clock.jitter(1.0)), AT_ONCE, one)
        return bool(told)

    async def _settled(self, key: str) -> bool:
        """Whether this key needs no other look of its own."""
        repository, tag, _ = named(key)
        if not self._covers(repository):
            self._held.forget(key)
            return True
        try:
            digest = await self._digest(repository, tag)
        except (Refusal, StoreError) as error:
            log.info("tag not asked for", image=key, reason=str(error))
            return False
        if not digest and not self._held.is_gone(key):  # its log will say so, if it is so
            self._held.forget(key)
        return key not in self._held or self._feed().say(repository, tag, digest)

    async def _digest(self, repository: str, tag: str) -> str:
        """What the tag names at the parent, "" for nothing."""
        where = Repository.from_key(repository)
        asking = self._keeper.background[where.namespace]
        try:
            head = await asking.head_manifest(where.name, tag)
            return head.digest or (await asking.get_manifest(where.name, tag)).digest
        except ParentNotFound:
            return ""
