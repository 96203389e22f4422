"""When a process of a node ends: SIGTERM, SIGINT, or (for news only) the supervisor's death."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Awaitable

import structlog

log = structlog.get_logger()

#: prctl(2): the signal that a process gets when its parent dies
PR_SET_PDEATHSIG = 1


def on_signals() -> asyncio.Event:
    """An event that SIGTERM sets. SIGINT reaches the whole terminal group; children leave it to the supervisor."""
    ending = asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGTERM, ending.set)
    loop.add_signal_handler(signal.SIGINT, lambda: None)
    loop.add_signal_handler(signal.SIGHUP, lambda: None)
    return ending


def watch_lifeline(fd: int) -> None:
    """Say it in the log when the supervisor dies. Serving goes on; the next supervisor takes over."""
    loop = asyncio.get_running_loop()

    def gone() -> None:
        loop.remove_reader(fd)
        log.error("supervisor lost", note="serving goes on; start the node again to restore supervision")

    if fd >= 0:
        loop.add_reader(fd, gone)


def end_with(parent: int) -> None:
    """Let this process, forked by `parent`, be killed when that dies: what it inherited, locks among it, is then free.
    Ends the process where the parent died before."""
    import ctypes

    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:
        os._exit(1)


async def first(*events: asyncio.Event | Awaitable[None]) -> None:
    """Return when one of the events is set, or one of the waits is over."""
    waits = [asyncio.ensure_future(e.wait() if isinstance(e, asyncio.Event) else e) for e in events]
    try:
        await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for wait in waits:
            wait.cancel()
