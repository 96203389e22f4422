"""The event loop of a process that serves."""

from __future__ import annotations

import sys
from collections.abc import Coroutine
from typing import Any

import uvloop

from holdfast.clock import SystemClock
from holdfast.process.loop_watchdog import LoopWatchdog

#: A thread that has the interpreter is stopped after so long when another wants it (seconds). Large documents are read
#: on threads, and each time the loop goes on it waits for them: beside one manifest of 3 MB after another a timer of
#: the loop was 5.3 ms late at the median with Python's 5 ms, and is 0.7 ms with this.
SWITCH_SECONDS = 0.0005


def run(main: Coroutine[Any, Any, int]) -> int:
    """Run it to its end; the exit code."""
    sys.setswitchinterval(SWITCH_SECONDS)
    return uvloop.run(_watched(main))


async def _watched(main: Coroutine[Any, Any, int]) -> int:
    with LoopWatchdog(SystemClock()):
        return await main
