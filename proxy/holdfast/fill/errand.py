"""All of a blob is wanted, and no person waits for it: what synchronisation asks of a fill."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from holdfast.errors import NodeFailed
from holdfast.fill.change import FillChange, Grown

if TYPE_CHECKING:
    from holdfast.fill.fill import Fill


class DiskFull(NodeFailed):
    """There is no room to keep it, and nobody reads it as it passes."""


class Errand:
    """One for each who wants it. Its transfers give way to those that people wait for; when the last errand of a fill
    ends early the fill parks at its byte, unless somebody reads it. `landed` is told of the bytes that came, once where
    several are after the same fill."""

    def __init__(self, landed: Callable[[int], None]) -> None:
        self.fill: Fill | None = None
        self._landed = landed
        self._unsubscribe: Callable[[], None] = lambda: None

    def begin(self, fill: Fill) -> None:
        """Want it, of this fill instead of the one before."""
        self.end()
        self.fill = fill
        if not fill.errands:
            self._unsubscribe = fill.audience.subscribe(self._changed)
        fill.errands.add(self)
        fill.revive()

    def _changed(self, change: FillChange) -> None:
        if isinstance(change, Grown):
            self._landed(change.end - change.start)

    async def done(self) -> None:
        """Wait until the blob is in the store. Raises what made the fill fail, and DiskFull."""
        fill = self.fill
        assert fill is not None
        while not fill.verified:
            if fill.failure is not None:
                raise fill.failure
            await fill.wait_verdict()

    def end(self) -> None:
        """Want it no more. May be called twice."""
        self._unsubscribe()
        if self.fill is not None:
            self.fill.errands.discard(self)
            self.fill.wake()
            self.fill = None
