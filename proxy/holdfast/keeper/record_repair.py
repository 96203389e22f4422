"""Damaged records of the index that a reader met: restored, or recorded as lost.

The store knows the copies on this node (`holdfast_core.upkeep.index_repair`). A record of content that the parent has
is removed, and the content is fetched again. A tag that was pushed here and waits for the parent is in the outbox, too.
"""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Awaitable, Callable, Collection, Coroutine, Iterable, Sequence
from typing import Any, ParamSpec, TypeVar

from holdfast_core import format as layout
from holdfast_core.digest import Digest
from holdfast_core.errors import RecordDamaged, StoreError
from holdfast_core.store import Store

from holdfast import errors
from holdfast.clock import Clock
from holdfast.keeper.fetched_content import committed
from holdfast.log import log
from holdfast.outbox.node_outbox import NodeOutbox
from holdfast.routing import Repository

P = ParamSpec("P")
T = TypeVar("T")

#: damaged records that one question may meet, one after another
TRIES = 8
#: lost records that are named in `status`
NAMED = 5


class RecordRepair:
    """Repairs one record after another. `namespaces`: those of the parents, whose content is fetched again."""

    def __init__(self, store: Store, namespaces: Collection[str], outbox: NodeOutbox, clock: Clock) -> None:
        self._store, self._namespaces, self._outbox, self._clock = store, namespaces, outbox, clock
        self._lock = asyncio.Lock()
        self.lost: dict[bytes, str] = {}

    def repeating(self, question: Callable[P, Coroutine[Any, Any, T]]) -> Callable[P, Coroutine[Any, Any, T]]:
        """A question to the keeper that is repeated once the damaged record that it met was repaired."""

        @functools.wraps(question)
        async def repeated(*arguments: P.args, **named: P.kwargs) -> T:
            for _ in range(TRIES):
                try:
                    return await question(*arguments, **named)
                except RecordDamaged as damage:
                    await self.mend(damage.key)
            return await question(*arguments, **named)

        return repeated

    async def mend(self, record: bytes) -> None:
        """See `KeeperApi.mend`."""
        if record:
            await self.mend_all([record])
        if not record or self._store.upkeep.is_damaged(record):
            raise errors.RecordLost(_sentence(record))

    async def mend_all(self, keys: Iterable[bytes]) -> None:
        """Repair what can be repaired, and remember what cannot."""
        async with self._lock:
            damaged = [key for key in keys if self._store.upkeep.is_damaged(key)]
            unknown = [key for key in damaged if key not in self.lost]
            left = await self._left(unknown) if unknown else []
            for key in unknown:
                if key in left:
                    self.lost[key] = layout.describe(key)
                    log.error("record lost", record=layout.describe(key), repositories=self._names(key))
                else:
                    log.warning("record restored", record=layout.describe(key))

    async def _left(self, keys: Sequence[bytes]) -> list[bytes]:
        """The records of which there is no copy."""
        try:
            left = await asyncio.wrap_future(self._store.upkeep.mend(keys))
            left = [key for key in left if not await self._from_outbox(key)]
            again = {key for key in left if self._comes_again(key)}
            return await asyncio.wrap_future(self._store.upkeep.mend(left, again)) if again else left
        except StoreError as error:
            log.error("record not restored", reason=str(error))
            raise

    async def _from_outbox(self, key: bytes) -> bool:
        if key[:1] != layout.TAG:
            return False
        names, tag = self._names(key), key[17:].decode("utf-8", "surrogatepass")
        digest = await self._outbox.moved_to(names[0], tag) if names else ""
        if digest:
            now = self._clock.now()
            await committed(
                self._store.references.put_tag(names[0], tag, Digest.parse(digest), now=now, origin="local")
            )
        return bool(digest)

    def _comes_again(self, key: bytes) -> bool:
        names = self._names(key)
        return bool(names) and all(Repository.from_key(name).namespace in self._namespaces for name in names)

    def _names(self, key: bytes) -> list[str]:
        return self._store.upkeep.repositories_of(key)

    def notes(self) -> list[str]:
        """A sentence about the records that are lost; those that a write replaced are not any more."""
        self.lost = {key: text for key, text in self.lost.items() if self._store.upkeep.is_damaged(key)}
        if not self.lost:
            return []
        named = "; ".join(_shown(key, self._names(key)) for key in list(self.lost)[:NAMED])
        more = "; …" if len(self.lost) > NAMED else ""
        return [
            f"{len(self.lost)} record(s) of the index are damaged and have no copy: {named}{more} (push what they name "
            "again; holdfast fsck lists all)"
        ]

    async def scrub(self, rest: Callable[[], Awaitable[None]]) -> None:
        """Verify every record of the index, a slice at a time with a `rest` between two, and repair the damaged
        ones."""
        after = b""
        while True:
            damaged, after = await asyncio.wrap_future(self._store.upkeep.damaged_records(after))
            if damaged:
                await self.mend_all(damaged)
            if not after:
                return
            await rest()


def _sentence(key: bytes) -> str:
    record = layout.describe(key) if key else "a record"
    return f"{record} is damaged, and no copy of it is left here"


def _shown(key: bytes, names: Sequence[str]) -> str:
    """A record as an operator knows it."""
    if key[:1] == layout.TAG and names:
        return f"tag {names[0]}:{key[17:].decode('utf-8', 'replace')}"
    return f"{layout.describe(key)[:80]} of {', '.join(names)}" if names else layout.describe(key)[:80]
