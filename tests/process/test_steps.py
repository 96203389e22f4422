"""Work in steps goes on whatever becomes of one of them."""

from __future__ import annotations

import asyncio

import pytest
from holdfast.background import for_ever
from holdfast.errors import NodeFailed
from holdfast.testing.manual_clock import FakeClock
from holdfast_core.errors import NotHeld


@pytest.mark.parametrize(
    "failure", [None, NotHeld("the store"), NodeFailed("a refusal"), RuntimeError("surprise")]
)
def test_a_step_that_fails_or_does_nothing_is_followed_by_a_pause_and_the_next(
    failure: Exception | None,
) -> None:
    clock, begun = FakeClock(), list[float]()

    async def step() -> bool:
        begun.append(clock.monotonic())
        if len(begun) == 2 and failure is not None:
            raise failure
        if len(begun) == 5:
            raise asyncio.CancelledError
        return len(begun) % 2 == 1

    async def main() -> None:
        await for_ever(step, clock, lambda: 7.0, "work")

    with pytest.raises(asyncio.CancelledError):
        asyncio.run(main())
    assert [round(at - begun[0], 3) for at in begun] == [0.0, 0.0, 7.0, 7.0, 14.0]
