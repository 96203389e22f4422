"""When a process of a node ends: the supervisor on SIGTERM and SIGINT, a child on the supervisor's signal."""

from __future__ import annotations

import asyncio
import os
import select
import signal
from collections.abc import Awaitable, Callable

from holdfast.log import log

#: prctl(2): the signal that a process gets when its parent dies
PR_SET_PDEATHSIG = 1
#: what the supervisor sends to a child that is to finish what it does and end
DRAIN = signal.SIGUSR1
#: signals to end that come this close together are one (seconds)
SAME_SECONDS = 2.0


def ordered(lifeline: int) -> asyncio.Event:
    """An event that is set when this child is to end: on the supervisor's DRAIN, and on SIGTERM once that is gone.

    SIGTERM to a whole group, as systemd and timeout(1) send it, would otherwise end the keeper while workers wait for
    it. The living supervisor got it too, and passes it on in its own order. SIGINT reaches a terminal's whole group.
    """
    ending, loop, terminated = asyncio.Event(), asyncio.get_running_loop(), False

    def terminate() -> None:
        nonlocal terminated
        terminated = True
        if is_closed(lifeline):
            ending.set()

    def orphaned() -> None:
        loop.remove_reader(lifeline)
        log.error("supervisor lost", note="serving goes on; start the node again to restore supervision")
        if terminated:
            ending.set()

    loop.add_signal_handler(DRAIN, ending.set)
    loop.add_signal_handler(signal.SIGTERM, terminate)
    for number in (signal.SIGINT, signal.SIGHUP):
        loop.add_signal_handler(number, lambda: None)
    loop.add_reader(lifeline, orphaned)
    return ending


def hold_reload() -> None:
    """Keep a SIGHUP that comes while a node starts, which would end it, until `take_reload`."""
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGHUP})


def take_reload(handler: Callable[[], object]) -> None:
    """Have SIGHUP call `handler`, also for one that came before. Before any child is started, which inherits what is
    blocked."""
    asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, handler)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGHUP})


def is_closed(lifeline: int) -> bool:
    """Whether the supervisor that held the other end is gone."""
    poll = select.poll()
    poll.register(lifeline, 0)
    return bool(poll.poll(0))


class ShutdownEscalation:
    """Whether a signal to end is a second one, from an operator who will not wait. What comes within SAME_SECONDS of
    the first belongs to it: timeout(1) signals its child, and then the group in which that is. Pure: takes `now`."""

    def __init__(self) -> None:
        self._first: float | None = None

    def is_second(self, now: float) -> bool:
        """Note a signal that came at `now` (monotonic seconds)."""
        if self._first is None:
            self._first = now
        return now - self._first > SAME_SECONDS


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
