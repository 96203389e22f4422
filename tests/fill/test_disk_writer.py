"""The writer of a fill: short bodies and the end of long ones are written at once, packets of long ones together."""

from __future__ import annotations

import asyncio
from typing import Any, cast

import pytest
from holdfast.config import FillsSection as Policy
from holdfast.fill import disk_writer
from holdfast.fill.buffer import FillBuffer
from holdfast.fill.context import FillContext, Slots
from holdfast.fill.disk_writer import GATHER_BYTES, LONG_BYTES, DiskWriter, Piece, TransferProgress
from holdfast.fill.extents import Extents
from holdfast.testing.manual_clock import FakeClock
from support.fills import until

pytestmark = pytest.mark.loop("asyncio")

PACKET = 64 << 10
SIZE = 4 * LONG_BYTES


class Bench:
    """A writer to memory, and the batches it wrote."""

    def __init__(self) -> None:
        self.batches: list[int] = []
        self.progress, self.at = TransferProgress(), 0
        self.context = FillContext(cast(Any, None), Policy(), FakeClock(), Slots(1))
        held, self.medium = Extents(), FillBuffer(None, SIZE)
        self.medium.move(held)
        self.writer = DiskWriter(
            self.context,
            self.medium,
            held,
            self._landed,
            lambda: None,
            lambda: None,
            lambda: False,
            lambda more: True,
        )

    def _landed(self, pieces: list[Piece]) -> None:
        self.batches.append(sum(len(data) for _, data in pieces))

    async def put(self, count: int) -> None:
        """So many bytes come; returns when they are taken."""
        at, self.at = self.at, self.at + count
        self.progress.received = self.at
        await self.writer.put(self.progress, at, bytes(count))

    async def close(self) -> None:
        await self.writer.close()
        self.context.close()
        self.medium.close()


@pytest.fixture
def endless(monkeypatch: pytest.MonkeyPatch) -> None:
    """A pause that does not end by itself."""
    monkeypatch.setattr(disk_writer, "GATHER_SECONDS", 3600.0)


@pytest.mark.usefixtures("endless")
async def test_a_short_body_never_gathers() -> None:
    bench = Bench()
    for _ in range(LONG_BYTES // PACKET - 1):
        await bench.put(PACKET)
    await until(lambda: len(bench.batches) == LONG_BYTES // PACKET - 1)
    await bench.close()


@pytest.mark.usefixtures("endless")
async def test_large_pieces_never_gather() -> None:
    bench = Bench()
    for _ in range(SIZE // GATHER_BYTES):
        await bench.put(GATHER_BYTES)
    await until(lambda: sum(bench.batches) == SIZE)
    await bench.close()


@pytest.mark.usefixtures("endless")
@pytest.mark.parametrize("ending", ["settled", "close"])
async def test_packets_gather_until_somebody_waits_for_them(ending: str) -> None:
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
        await bench.writer.settled(bench.progress)
    await bench.close()
    await last
    assert bench.batches == [LONG_BYTES, PACKET, PACKET]
    assert bench.progress.gained == LONG_BYTES + 2 * PACKET


async def test_the_pause_ends() -> None:
    bench = Bench()
    await bench.put(LONG_BYTES)
    for _ in range(4):
        await bench.put(PACKET)
    await bench.close()
    assert sum(bench.batches) == LONG_BYTES + 4 * PACKET
