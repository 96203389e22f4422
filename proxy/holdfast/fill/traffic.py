"""The transfers of one fill: begun as the plan says, judged by what they bring, tried again with patience.

What the parent's answers say about the blob is known here: its ETag, whether ranges of it can be had
(`splits`), and whether what is here still belongs to it (`doubtful`: then a whole body is compared).
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from itertools import count
from typing import TYPE_CHECKING, Any, Protocol

import structlog

from holdfast.errors import ParentBroken, Refusal
from holdfast.fill.intake import BlobChanged, Intake
from holdfast.fill.means import Means
from holdfast.fill.patience import Patience
from holdfast.fill.plan import Running, Start
from holdfast.fill.stock import Stock
from holdfast.fill.transfer import Transfer

if TYPE_CHECKING:
    from holdfast.parent.client import Parent
    from holdfast.sync.share import Work


log = structlog.get_logger()


class Asking(Protocol):
    """The fill, as its traffic sees it."""

    stock: Stock

    @property
    def is_background(self) -> bool: ...
    @property
    def is_resigned(self) -> bool: ...
    def prepare(self, size: int, *, stored: bool) -> None: ...
    def wake(self) -> None: ...
    def begin(self, work: Coroutine[Any, Any, None]) -> None: ...
    def fail(self, error: Refusal, drop: bool = False) -> None: ...
    def broke(self, error: BaseException) -> None: ...


class Traffic:
    """See the module. `resting`: a transfer failed, and the next may not start yet."""

    def __init__(self, means: Means, fill: Asking, parent: Parent, name: str, text: str) -> None:
        self._means, self._fill = means, fill
        self.parent, self.name, self.text = parent, name, text
        self.etag = ""
        self.transfers: dict[int, Transfer] = {}
        self.patience = Patience()
        self.resting = False
        self._splits, self._doubtful = True, False
        self._numbers = count(1)

    # -- what the fill asks ------------------------------------------------------------------------

    @property
    def size(self) -> int | None:
        """Of the blob, once the parent has said it."""
        return self._fill.stock.size

    @property
    def is_background(self) -> bool:
        """No person waits."""
        return self._fill.is_background

    @property
    def work(self) -> Work:
        """What it is on the link: what nobody waits for is synchronisation, also the rest of a pull that was left."""
        return "sync" if self._fill.is_background else "interactive"

    @property
    def splits(self) -> bool:
        """Whether a part of the blob can be asked for now."""
        return self._splits and not any(t.compares for t in self.transfers.values())

    def running(self) -> list[Running]:
        """The transfers for the planner."""
        return [transfer.running() for transfer in self.transfers.values()]

    @property
    def brings_rest(self) -> bool:
        """Whether one transfer brings, in order, all that is missing: for readers of the whole blob there is
        nothing to plan before its end."""
        stock = self._fill.stock
        if len(self.transfers) != 1 or len(stock.held) != 1 or stock.claimed or stock.is_complete:
            return False
        (transfer,) = self.transfers.values()
        ends_last = transfer.end is None and not transfer.stopped
        return ends_last and stock.held.run_end(0) == transfer.landed

    def start(self, action: Start) -> None:
        """Ask the parent, or wait for a slot: the fill is woken when it is its turn."""
        transfer = Transfer(self, next(self._numbers), action.start, action.end, action.sequential)
        transfer.compares = self._doubtful and action.start == 0 and action.end is None
        if self._means.slots.take(self._fill, transfer, action.background):
            self.transfers[transfer.number] = transfer
            self._means.counters["transfers"] += 1
            transfer.begin()

    def turn(self) -> None:
        """Somebody came or left: those that are under way go before others on the link, or after them."""
        for transfer in self.transfers.values():
            transfer.turn(self.work)

    def stop(self) -> None:
        """End all of them. What they received still lands."""
        for transfer in list(self.transfers.values()):
            transfer.stop()
        self.patience.renew()

    async def ended(self) -> None:
        """Wait until none is left."""
        await asyncio.gather(*(t.finished() for t in list(self.transfers.values())))

    # -- what transfers tell -----------------------------------------------------------------------

    def sized(self, size: int, etag: str) -> Intake:
        """The parent's answer names the size and the ETag. Raises BlobChanged."""
        if self.size is None:
            self.etag = etag
            self._fill.prepare(size, stored=not self._means.is_short_of_space())
        elif size != self.size:
            raise BlobChanged(f"the parent's blob has {size} bytes now, it had {self.size}")
        assert self._fill.stock.intake is not None
        return self._fill.stock.intake

    def answered_whole(self) -> None:
        """The parent answered a Range with the whole blob."""
        if self._splits:
            log.warning("range ignored", digest=self.text, parent=self.parent.name)
        self._splits = False

    def etag_changed(self, etag: str) -> None:
        """All bytes that are here are being compared with those that come under this ETag."""
        log.warning("etag changed", digest=self.text, parent=self.parent.name)
        self.etag = etag
        self._splits, self._doubtful = False, True

    def received(self, count: int) -> None:
        """Bytes came over the link."""
        self._means.counters["received_bytes"] += count

    def transfer_ended(self, transfer: Transfer, error: BaseException | None) -> None:
        """A transfer is over: what it brought decides what is next."""
        del self.transfers[transfer.number]
        self._means.slots.release(transfer)
        self._fill.wake()
        if self._fill.is_resigned or transfer.stopped:
            return
        if error is None and transfer.compares:
            self._splits, self._doubtful = True, False
        if error is None and (transfer.gained or self._fill.stock.is_complete):
            self.patience.renew()
        elif isinstance(error, Refusal):
            self._interrupted(transfer, error)
        elif error is None:
            self._interrupted(transfer, ParentBroken("the parent's answer brought no byte that is missing"))
        else:
            self._fill.broke(error)

    def _interrupted(self, transfer: Transfer, error: Refusal) -> None:
        self._means.counters["interrupted"] += 1
        log.info("transfer interrupted", digest=self.text, at=transfer.received, reason=error.message)
        if isinstance(error, ParentBroken) and (transfer.start or transfer.end is not None):
            self._splits, self._doubtful = False, True
        again = self.patience.failed(error, transfer.gained, self._fill.stock.held.total)
        if self.size is None or not again:
            self._fill.fail(error, drop=isinstance(error, BlobChanged))
        else:
            wait = self._means.clock.jitter(self.patience.limit())
            self._fill.begin(self._rest(max(wait, Patience.least(error))))

    async def _rest(self, seconds: float) -> None:
        self.resting = True
        try:
            await self._means.clock.sleep(seconds)
        finally:
            self.resting = False
