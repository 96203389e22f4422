"""A loop that is held up is reported, with what held it up."""

from __future__ import annotations

import asyncio
import time
from threading import Event

import pytest
from holdfast.clock import SystemClock
from holdfast.process import loop
from holdfast.process.loop import LoopWatchdog
from support.logs import captured_logs


def hold_up(until: Event) -> None:
    """Keep the loop's thread until the event."""
    assert until.wait(10)


def hold_up_briefly() -> None:
    """Keep the loop's thread for longer than it may be late."""
    time.sleep(3 * loop.LATE_SECONDS)


def test_a_loop_that_is_late_is_reported_with_its_stack(monkeypatch: pytest.MonkeyPatch) -> None:
    looked, stack_of = Event(), LoopWatchdog._stack

    def look(watchdog: LoopWatchdog) -> list[str]:
        stack = stack_of(watchdog)
        looked.set()
        return stack

    monkeypatch.setattr(LoopWatchdog, "_stack", look)

    async def main() -> None:
        with LoopWatchdog(SystemClock()):
            hold_up(looked)
            while not logs:
                await asyncio.sleep(0.01)

    with captured_logs() as logs:
        asyncio.run(asyncio.wait_for(main(), 20))
    line = logs[0]
    assert (line["event"], line["level"]) == ("the event loop was late", "warning")
    assert line["seconds"] >= loop.LATE_SECONDS
    assert any(frame.endswith(" hold_up") and "test_loop.py" in frame for frame in line["stack"])


def test_a_loop_that_is_late_again_within_a_minute_is_not_reported_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    reports: list[float] = []
    report = LoopWatchdog._report

    def note(watchdog: LoopWatchdog, called: Event, began: float, stack: list[str]) -> None:
        report(watchdog, called, began, stack)
        reports.append(began)

    monkeypatch.setattr(LoopWatchdog, "_report", note)

    async def main() -> None:
        with LoopWatchdog(SystemClock()):
            while len(reports) < 2:
                hold_up_briefly()
                await asyncio.sleep(0.01)

    with captured_logs() as logs:
        asyncio.run(asyncio.wait_for(main(), 60))
    assert len(logs) == 1


def test_a_watchdog_ends_with_its_loop() -> None:
    async def main() -> LoopWatchdog:
        with LoopWatchdog(SystemClock()) as watchdog:
            await asyncio.sleep(0)
        return watchdog

    watchdog = asyncio.run(main())
    watchdog._thread.join(10)
    assert not watchdog._thread.is_alive()
