"""A keeper that finds its index long ends, and a process between it and the next one compacts it.

Nobody writes meanwhile, so the workers, which read the former file, and those that open the new one read the same
records; the supervisor replaces them before the next keeper starts. Hits go on; what needs the keeper waits. It ends
with the supervisor, at any moment: the next one waits for the store.
"""

from __future__ import annotations

import asyncio
from pathlib import Path

from holdfast_core.errors import StoreError
from holdfast_core.recovery.compact import compact_if_due, is_long

from holdfast.clock import Clock
from holdfast.config import Configuration
from holdfast.log import log
from holdfast.process.inheritance import COMPACTED, UNCHANGED

#: between two looks, and before the first: a start has just looked (seconds)
LOOK_SECONDS = 86_400.0


async def until_long(data: Path, clock: Clock) -> None:
    """Return once the index is long for what it holds, see `compact.is_due`."""
    while True:
        await clock.sleep(LOOK_SECONDS)
        if await asyncio.to_thread(is_long, data):
            return


def run(config: Configuration) -> int:
    """Compact the index while no keeper runs; COMPACTED or UNCHANGED."""
    try:
        report = compact_if_due(config.data, beside_readers=True)
    except StoreError as error:
        log.error("index not compacted", reason=str(error))
        return UNCHANGED
    if report is None:
        return UNCHANGED
    log.info("index compacted", before=report.before, bytes=report.after)
    return COMPACTED
