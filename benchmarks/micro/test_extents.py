"""What does keeping track of arrived bytes cost a fill? Read it against one batch of bytes (256 KiB, some
0.3 ms at 1 GB/s): in order is the common case, scattered is a lazy puller's blob with 1,000 runs."""

from __future__ import annotations

from typing import Any

from holdfast.fill.extents import Extents

BATCH = 256 << 10


def test_add_in_order(benchmark: Any) -> None:
    extents, offset = Extents(), 0

    def add() -> None:
        nonlocal offset
        extents.add(offset, offset + BATCH)
        offset += BATCH

    benchmark(add)


def scattered() -> Extents:
    return Extents((2 * n * BATCH, 2 * n * BATCH + BATCH) for n in range(1000))


def test_add_scattered(benchmark: Any) -> None:
    extents = scattered()

    def add() -> None:
        extents.add(999 * BATCH, 1000 * BATCH)
        extents.remove(999 * BATCH, 1000 * BATCH)

    benchmark(add)


def test_run_end_scattered(benchmark: Any) -> None:
    benchmark(scattered().run_end, 1000 * BATCH + 17)


def test_gaps_of_one_batch_scattered(benchmark: Any) -> None:
    benchmark(scattered().gaps, 1000 * BATCH, 1001 * BATCH)
