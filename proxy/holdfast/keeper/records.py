"""Damaged records of the index, found by whoever reads one: given back their values, or written down as lost.

The store knows the copies on this node (`holdfast_core.mending`). What the parent has becomes a miss and comes again.
A tag that was pushed here and waits for the parent is in the outbox, too.
"""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Sequence
from typing import Any, Protocol, TypeVar

import structlog
from holdfast_core import format as layout
from holdfast_core.errors import RecordDamaged, StoreError
from holdfast_core.store import Store

from holdfast import errors

log = structlog.get_logger()
T = TypeVar("T")

#: damaged records that one question may meet, one after another
TRIES = 8
#: lost records that are named in `status`
NAMED = 5


class Mends(Protocol):
    """What `mending` needs of a keeper."""

    async def mend(self, record: bytes) -> None: ...


def mending(
    ask: Callable[..., Coroutine[Any, Any, T]],
) -> Callable[..., Coroutine[Any, Any, T]]:
    """A question to the keeper that is put again once the damaged record that it met was mended."""

    @functools.wraps(ask)
    async def asked(keeper: Mends, *arguments: Any, **more: Any) -> T:
        for _ in range(TRIES):
            try:
                return await ask(keeper, *arguments, **more)
            except RecordDamaged as damage:
                await keeper.mend(damage.key)
        return await ask(keeper, *arguments, **more)

    return asked


class Records:
    """Mends one record at a time; who asks for the same meanwhile hears what became of it. `has_parent` says whether
    a repository's content comes again; `restored` points a tag of a repository where the outbox says, if it does."""

    def __init__(
        self,
        store: Store,
        has_parent: Callable[[str], bool],
        restored: Callable[[str, str], Awaitable[bool]],
    ) -> None:
        self._store, self._has_parent, self._restored = store, has_parent, restored
        self._turn = asyncio.Lock()
        self.lost: dict[bytes, str] = {}

    async def mend(self, key: bytes) -> None:
        """Returns when the record is intact, or gone as a miss. Raises RecordLost."""
        if key:
            await self.mend_all([key])
        if not key or self._store.is_damaged(key):
            raise errors.RecordLost(_sentence(key))

    async def mend_all(self, keys: Iterable[bytes]) -> None:
        """Mend what can be mended, and remember what cannot."""
        async with self._turn:
            damaged = [key for key in keys if self._store.is_damaged(key)]
            unknown = [key for key in damaged if key not in self.lost]
            left = await self._left(unknown) if unknown else []
            for key in unknown:
                if key in left:
                    self.lost[key] = layout.describe(key)
                    log.error("record lost", record=layout.describe(key), repositories=self._names(key))
                else:
                    log.warning("record restored", record=layout.describe(key))

    async def _left(self, keys: Sequence[bytes]) -> list[bytes]:
        """Those of which nothing here has a copy."""
        try:
            left = await asyncio.wrap_future(self._store.mend(keys))
            left = [key for key in left if not await self._from_outbox(key)]
            again = {key for key in left if self._comes_again(key)}
            return await asyncio.wrap_future(self._store.mend(left, again)) if again else left
        except StoreError as error:
            log.error("record not restored", reason=str(error))
            raise

    async def _from_outbox(self, key: bytes) -> bool:
        if key[:1] != layout.TAG:
            return False
        names, tag = self._names(key), key[17:].decode("utf-8", "surrogatepass")
        return bool(names) and await self._restored(names[0], tag)

    def _comes_again(self, key: bytes) -> bool:
        names = self._names(key)
        return bool(names) and all(map(self._has_parent, names))

    def _names(self, key: bytes) -> list[str]:
        return self._store.repositories_of(key)

    def notes(self) -> list[str]:
        """A sentence about the records that are lost; those that a write replaced are not any more."""
        self.lost = {key: what for key, what in self.lost.items() if self._store.is_damaged(key)}
        if not self.lost:
            return []
        named = "; ".join(_shown(key, self._names(key)) for key in list(self.lost)[:NAMED])
        more = "; …" if len(self.lost) > NAMED else ""
        return [
            f"{len(self.lost)} record(s) of the index are damaged and have no copy: {named}{more} (push what they name "
            "again; holdfast fsck lists all)"
        ]

    async def scrub(self, rest: Callable[[], Awaitable[None]]) -> None:
        """Look at every record of the index, a slice at a time with a `rest` between two, and mend what is damaged."""
        after = b""
        while True:
            damaged, after = await asyncio.wrap_future(self._store.damaged_records(after))
            if damaged:
                await self.mend_all(damaged)
            if not after:
                return
            await rest()


def _sentence(key: bytes) -> str:
    what = layout.describe(key) if key else "a record"
    return f"{what} is damaged, and no copy of it is left here"


def _shown(key: bytes, names: Sequence[str]) -> str:
    """A record as an operator knows it."""
    if key[:1] == layout.TAG and names:
        return f"tag {names[0]}:{key[17:].decode('utf-8', 'replace')}"
    return f"{layout.describe(key)[:80]} of {', '.join(names)}" if names else layout.describe(key)[:80]
