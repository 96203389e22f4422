"""Requests held tags from a Holdfast parent once the outbox has decided on them, and adds the answers to the feed as if
the log had them. A tag with a change that is still to be sent up is not requested."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from holdfast_core.errors import StoreError

from holdfast.errors import ParentNotFound, Refusal
from holdfast.log import log
from holdfast.routing import Repository
from holdfast.sync.run_state import parse_key
from holdfast.sync.source.feed import Feed
from holdfast.sync.source.held_tags import HeldTags
from holdfast.sync.source.scan import each

if TYPE_CHECKING:
    from holdfast.sync.context import SyncContext

#: requests at once
AT_ONCE = 4


class TagRecheck:
    """Requests the tags that are due in `held`. `feed` returns the present feed, `covers` whether a repository is
    selected."""

    def __init__(
        self, context: SyncContext, held: HeldTags, feed: Callable[[], Feed], covers: Callable[[str], bool]
    ) -> None:
        self._context, self._clock, self._held = context, context.clock, held
        self._feed, self._covers = feed, covers

    async def step(self) -> bool:
        """Requests every tag that is due. Returns whether the feed got an answer."""
        passed_on: list[str] = []

        async def one(key: str) -> None:
            if not await self._settled(key):
                self._held.failed(key, self._clock.monotonic(), self._clock.jitter(1.0))
            elif key in self._held:
                passed_on.append(key)

        await each(self._held.due(self._clock.monotonic(), self._clock.jitter(1.0)), AT_ONCE, one)
        return bool(passed_on)

    async def _settled(self, key: str) -> bool:
        """Requests one tag. Returns whether it needs no other request."""
        repository, tag, _ = parse_key(key)
        if not self._covers(repository):
            self._held.forget(key)
            return True
        try:
            digest = await self._digest(repository, tag)
        except (Refusal, StoreError) as error:
            log.info("tag not requested", image=key, reason=str(error))
            return False
        if not digest and not self._held.is_gone(key):  # the log has the delete, if there was one
            self._held.forget(key)
        return key not in self._held or self._feed().add_answer(repository, tag, digest)

    async def _digest(self, repository: str, tag: str) -> str:
        """Returns the digest of a tag at the parent, "" for none."""
        where = Repository.from_key(repository)
        parent = self._context.background[where.namespace]
        try:
            head = await parent.head_manifest(where.name, tag)
            return head.digest or (await parent.get_manifest(where.name, tag)).digest
        except ParentNotFound:
            return ""
