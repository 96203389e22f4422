"""The intake: short bodies and the end of long ones are written at once, the packets of long ones together."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any, cast

import pytest
from holdfast.config import Fills as Policy
from holdfast.fill import intake
from holdfast.fill.extents import Extents
from holdfast.fill.intake import GATHER_BYTES, LONG_BYTES, Intake, Piece
from holdfast.fill.means import Means
from holdfast.fill.medium import Medium
from holdfast.fill.slots import Slots
from holdfast.testing.clock import FakeClock
from support.fills import run, until

PACKET = 64 << 10
SIZE = 4 * LONG_BYTES


@dataclass
class Bringing:
    """A transfer, as the intake sees it."""

    landed: int = 0
    gained: int = 0
    compares: bool = False


class Bench:
    """An intake over memory, and the batches it wrote."""

    def __init__(self) -> None:
        self.batches: list[int] = []
        self.bringer, self.at = Bringing(), 0
        self.means = Means(cast(Any, None), Policy(), FakeClock(), Slots(1))
        held, self.medium = Extents(), Medium(None, SIZE)
        self.medium.move(held)
        self.intake = Intake(
            self.means, self.medium, held, self._landed, lambda: None, lambda: None, lambda: False
        )

    def _landed(self, pieces: list[Piece]) -> None:
        self.batches.append(sum(len(data) for _, data in pieces))

    async def put(self, count: int) -> None:
        """So many bytes come; returns when they are taken."""
        at, self.at = self.at, self.at + count
        await self.intake.put(self.bringer, at, bytes(count))

    async def close(self) -> None:
        await self.intake.close()
        self.means.close()
        self.medium.close()


@pytest.fixture
def endless(monkeypatch: pytest.MonkeyPatch) -> None:
    """A pause that does not end by itself."""
    monkeypatch.setattr(intake, "GATHER_SECONDS", 3600.0)


@pytest.mark.usefixtures("endless")
def test_a_short_body_never_gathers() -> None:
    async def main() -> None:
        bench = Bench()
        for _ in range(LONG_BYTES // PACKET - 1):
            await bench.put(PACKET)
        await until(lambda: len(bench.batches) == LONG_BYTES // PACKET - 1)
        await bench.close()

    run(main())


@pytest.mark.usefixtures("endless")
def test_large_pieces_never_gather() -> None:
    async def main() -> None:
        bench = Bench()
        for _ in range(SIZE // GATHER_BYTES):
            await bench.put(GATHER_BYTES)
        await until(lambda: sum(bench.batches) == SIZE)
        await bench.close()

    run(main())


@pytest.mark.usefixtures("endless")
@pytest.mark.parametrize("ending", ["settled", "close"])
def test_packets_gather_until_somebody_waits_for_them(ending: str) -> None:
    async def main() -> None:
        bench = Bench()
        await bench.put(LONG_BYTES)
        await until(lambda: len(bench.batches) == 1)
        await bench.put(PACKET)
        await until(lambda: len(bench.batches) == 2)
        last = asyncio.ensure_future(bench.put(PACKET))
        await asyncio.sleep(0.05)
        assert not last.done()
        assert len(bench.batches) == 2
        if ending == "settled":
            await bench.intake.settled(bench.bringer, LONG_BYTES + 2 * PACKET)
        await bench.close()
        await last
        assert bench.batches == [LONG_BYTES, PACKET, PACKET]
        assert bench.bringer.gained == LONG_BYTES + 2 * PACKET

    run(main())


def test_the_pause_ends() -> None:
    async def main() -> None:
        bench = Bench()
        await bench.put(LONG_BYTES)
        for _ in range(4):
            await bench.put(PACKET)
        await bench.close()
        assert sum(bench.batches) == LONG_BYTES + 4 * PACKET

    run(main())
