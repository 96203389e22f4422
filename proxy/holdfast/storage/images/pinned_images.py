"""Pins for an operator: images that no eviction and no collection takes, whether they are held yet or not."""

from __future__ import annotations

import asyncio
from typing import Literal

from holdfast_core.errors import Mistake, NotHeld
from holdfast_core.record import LockTarget, Pin
from holdfast_core.store import Store

from holdfast import errors
from holdfast.clock import Clock
from holdfast.log import log
from holdfast.resources.model import ResourceStruct
from holdfast.timestamps import stamp

PinKind = Literal["tag", "manifest"]


class PinReport(ResourceStruct, frozen=True):
    """A pin on `name:tag` or `name@digest`. `until` is null for good; `held`: the tag or manifest is here; `over`: its
    time has passed, and it holds nothing any more."""

    image: str
    until: str | None
    with_referrers: bool
    pinned: str
    held: bool
    over: bool


class PinList(ResourceStruct, frozen=True):
    """All of them, by image."""

    value: tuple[PinReport, ...]
    next_link: str | None = None


class PinnedImages:
    """Sets and ends the pins of a store. `by` is who ordered it."""

    def __init__(self, store: Store, clock: Clock) -> None:
        self._store, self._clock = store, clock

    async def pin(
        self, repository: str, kind: PinKind, name: str, until: float, with_referrers: bool, by: str
    ) -> None:
        """Pin a tag or a manifest, `until` wall seconds, infinity for good; in place of an earlier pin on it. Raises
        ControlInvalid for a time that is over."""
        pin = Pin(repository, kind, name, until, with_referrers)
        try:
            await asyncio.wrap_future(self._store.space.pin(pin, now=self._clock.now()))
        except Mistake as error:
            raise errors.ControlInvalid(f"until: {error}", field="until") from None
        except errors.TRANSLATED as refused:
            raise errors.of_store(refused) from refused
        ends = {} if until == float("inf") else {"until": stamp(until)}
        log.info("pinned", by=by, repository=repository, name=name, with_referrers=with_referrers, **ends)

    async def unpin(self, repository: str, kind: PinKind, name: str, by: str) -> None:
        """End a pin. Raises ControlUnknown."""
        try:
            await asyncio.wrap_future(self._store.space.unpin(repository, kind, name))
        except NotHeld:
            raise errors.ControlUnknown("that image is not pinned", field="image") from None
        except errors.TRANSLATED as refused:
            raise errors.of_store(refused) from refused
        log.info("unpinned", by=by, repository=repository, name=name)


def report_of(store: Store, pin: Pin, shown: str, now: float) -> PinReport:
    """One pin; `shown` is the name of its repository for people. Raises RecordDamaged."""
    return PinReport(
        image=f"{shown}{':' if pin.kind == 'tag' else '@'}{pin.name}",
        until=None if pin.until == float("inf") else stamp(pin.until),
        with_referrers=pin.with_referrers,
        pinned=stamp(pin.pinned_at),
        held=store.references.is_there(pin.repository, LockTarget(pin.kind, pin.name)),
        over=pin.until <= now,
    )
