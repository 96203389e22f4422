"""The event loop of a process that serves, and what says what the process did while the loop was late.

Everything that a process serves waits for its loop, and what holds it up is seen by nobody afterwards. A thread hands
the loop a call and looks at the loop's stack when the call was not made in time.
"""

from __future__ import annotations

import asyncio
import sys
import traceback
from collections.abc import Coroutine
from threading import Event, Thread, get_ident
from typing import Any, Self

import uvloop

from holdfast.clock import Clock, SystemClock
from holdfast.log import LogLimit, log

#: A thread that has the interpreter is stopped after so long when another wants it (seconds). Large documents are read
#: on threads, and each time the loop goes on it waits for them: beside one manifest of 3 MB after another a timer of
#: the loop was 5.3 ms late at the median with Python's 5 ms, and is 0.7 ms with this.
SWITCH_SECONDS = 0.0005
#: a loop that takes longer to make a call is late (seconds)
LATE_SECONDS = 0.1
#: between two calls (seconds): ten wake-ups a second of an idle process
PAUSE_SECONDS = 0.1
#: innermost frames that are logged
FRAMES = 12


def run(main: Coroutine[Any, Any, int]) -> int:
    """Run it to its end; the exit code."""
    sys.setswitchinterval(SWITCH_SECONDS)
    return uvloop.run(_watched(main))


async def _watched(main: Coroutine[Any, Any, int]) -> int:
    with LoopWatchdog(SystemClock()):
        return await main


class LoopWatchdog:
    """Watches the running loop of the thread that enters it, until it is left. One line a minute at most says for how
    long the loop was held up, and by what. Code that keeps the interpreter to itself keeps this thread from looking:
    its stack is then that of the next moment."""

    def __init__(self, clock: Clock) -> None:
        self._clock, self._seldom = clock, LogLimit(clock)
        self._loop, self._watched = asyncio.get_running_loop(), get_ident()
        self._ended = Event()
        self._thread = Thread(target=self._watch, name="loop watchdog", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()

    def _watch(self) -> None:
        while not self._ended.wait(PAUSE_SECONDS):
            called, began = Event(), self._clock.monotonic()
            try:
                self._loop.call_soon_threadsafe(called.set)
            except RuntimeError:  # the loop is closed
                return
            if not called.wait(LATE_SECONDS):
                self._report(called, began, self._stack())

    def _stack(self) -> list[str]:
        """The innermost frames of the loop's thread, the outermost of them first."""
        frame = sys._current_frames().get(self._watched)
        frames = traceback.extract_stack(frame)[-FRAMES:]
        return [f"{one.filename}:{one.lineno} {one.name}" for one in frames]

    def _report(self, called: Event, began: float, stack: list[str]) -> None:
        while not called.wait(LATE_SECONDS):
            if self._ended.is_set():
                return
        if (more := self._seldom.due("late")) is not None:
            seconds = round(self._clock.monotonic() - began, 3)
            log.warning("the event loop was late", seconds=seconds, stack=stack, **more)
