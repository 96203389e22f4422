"""Work that is done in steps for as long as the node runs, whatever becomes of one of them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import structlog
from holdfast_core.errors import StoreError

from holdfast.clock import Clock
from holdfast.errors import Refusal

log = structlog.get_logger()


async def for_ever(
    step: Callable[[], Awaitable[bool]], clock: Clock, pause: Callable[[], float], what: str, **who: str
) -> None:
    """Take steps until cancelled. One that did nothing (False), or failed, is followed by a pause (seconds). A failure
    is logged with `what` and `who`; work that ended at the first surprise would be missed by nobody until it was
    needed."""
    while True:
        moved = False
        try:
            moved = await step()
        except (StoreError, Refusal) as error:
            log.error(f"{what} stopped for now", reason=str(error), **who)
        except Exception:
            log.exception(f"{what} failed", **who)
        if not moved:
            await clock.sleep(pause())
