"""What the ledger says has room, with literal figures."""

from __future__ import annotations

from typing import Any

from holdfast.config import StoreSection
from holdfast.storage.budget import DiskBudget
from holdfast.storage.space_ledger import SpaceLedger, blob_bytes
from holdfast_core.record import DiskUse, StoreAccount

#: the least that a budget may be
LIMIT = 100 << 20
DISK = 1000 << 20


def ledger(blobs: int = 0, free: int = DISK, **use: Any) -> SpaceLedger:
    """One that was measured, with a budget of 100 MiB."""
    made = SpaceLedger(DiskBudget.of(StoreSection(max_bytes=LIMIT, min_free="0"), DISK))
    made.measured(used(**use), free, blobs)
    return made


def used(**use: Any) -> DiskUse:
    usual = {"parts": {}, "uploads": 0, "set_aside": 0, "journal": 0, "index": 0, "fixed": 0, "strays": 0}
    return DiskUse(**{**usual, **use})


def test_everything_on_the_disk_counts() -> None:
    one = ledger(parts={"p": 1, "q": 2}, uploads=10, set_aside=100, journal=1000, index=10_000, fixed=100_000)
    assert one.used(1_000_000) == 1_111_113
    assert ledger(set_aside=100, strays=7).used(1_000_000) == 1_000_107


def test_a_blob_takes_its_bytes_and_a_block_at_most() -> None:
    assert blob_bytes(StoreAccount(files=2, file_bytes=50_000)) == 58_192


def test_a_promise_counts_until_its_bytes_are_counted_elsewhere() -> None:
    one = ledger()
    assert one.reserve("p", LIMIT - 10, 0)
    assert not one.reserve("q", 11, 0)
    assert one.reserve("q", 10, 0)
    one.release("p", 0)
    assert (one.used(0), one.used(LIMIT - 10)) == (10, LIMIT)
    assert not one.reserve("r", 1, LIMIT - 10)


def test_a_promise_grows_and_never_twice() -> None:
    one = ledger()
    assert one.reserve("p", 100, 0)
    assert one.reserve("p", 250, 0)
    assert one.reserve("p", 200, 0)
    assert one.used(0) == 250


def test_what_a_fill_left_on_the_disk_counts_and_is_part_of_its_next_promise() -> None:
    one = ledger(parts={"p": 300})
    assert one.used(0) == 300
    assert one.reserve("p", 1000, 0)
    assert one.used(0) == 1000
    one.measured(used(parts={"p": 700}), DISK, 0)
    assert one.used(0) == 1000
    one.release("p", 700)
    assert one.used(0) == 700
    assert one.reserve("p", 600, LIMIT)
    assert one.used(0) == 700


def test_what_is_granted_counts_until_it_is_measured_or_is_a_blob() -> None:
    one = ledger(uploads=1000)
    assert one.grant(500, 0)
    assert one.used(0) == 1500
    one.pushed(700)
    assert one.used(700) == 1500
    one.measured(used(uploads=800), DISK, 700)
    assert one.used(700) == 1500
    assert not one.grant(LIMIT, 700)


def test_what_is_granted_is_kept_until_its_bytes_are_measured() -> None:
    one = ledger()
    assert one.grant(500, 0, now=100.0)
    one.measured(used(uploads=200), DISK, 0, now=110.0)
    assert one.used(0) == 500
    assert one.grant(50, 0, now=110.0)
    one.measured(used(uploads=500), DISK, 0, now=120.0)
    assert one.used(0) == 550
    one.measured(used(uploads=500), DISK, 0, now=139.0)
    assert one.used(0) == 550
    one.measured(used(uploads=500), DISK, 0, now=140.0)  # the client left
    assert one.used(0) == 500


def test_free_space_bounds_what_may_come_whoever_takes_it() -> None:
    one = SpaceLedger(DiskBudget.of(StoreSection(min_free="10%"), DISK))
    one.measured(used(index=10 << 20, parts={"p": 20 << 20}), 70 << 20, 50 << 20)
    # 80 MiB of the store and 70 free, of which 100 are to stay
    assert (one.limit, one.used(50 << 20)) == (50 << 20, 80 << 20)
    assert (one.high, one.low) == (int((50 << 20) * 0.97), int((50 << 20) * 0.95))
    assert one.short(0, 50 << 20) == 30 << 20
    assert one.limit_of_pushes == 50 << 20


def test_what_is_pushed_may_take_what_is_free_by_default() -> None:
    one = SpaceLedger(DiskBudget.of(StoreSection(), DISK))
    one.measured(used(), 0, 500 << 20)
    assert not one.reserve("p", 1, 500 << 20)
    assert one.grant(1 << 40, 500 << 20) is False
    one.measured(used(), 100 << 20, 500 << 20)
    assert not one.reserve("p", 1 + (500 << 20), 500 << 20)
    assert one.grant(100 << 20, 500 << 20)
    assert one.short(1, 500 << 20, pushed=True) == 1  # images go for the next, which has no free space


def test_nothing_is_bounded_before_the_disk_was_measured() -> None:
    assert SpaceLedger(DiskBudget.of(StoreSection(), DISK)).reserve("p", 1 << 50, 0)


def test_bytes_that_were_removed_and_are_still_open_are_no_reason_to_evict_more() -> None:
    one = SpaceLedger(DiskBudget.of(StoreSection(min_free="10%"), DISK))
    one.measured(used(), 100 << 20, 900 << 20)
    assert one.limit == 900 << 20
    one.measured(used(), 100 << 20, 800 << 20, removed=100 << 20)
    assert one.limit == 900 << 20
    one.measured(used(), 50 << 20, 800 << 20, removed=100 << 20)  # another program took 50 MiB
    assert one.limit == 850 << 20
    one.measured(used(), 150 << 20, 800 << 20)
    assert one.limit == 850 << 20


def test_the_water_marks_take_no_more_than_helps() -> None:
    one = SpaceLedger(
        DiskBudget.of(StoreSection(max_bytes=LIMIT, min_free="0", high_water=0.9, low_water=0.8), DISK)
    )
    one.measured(used(), DISK, 0)
    part = LIMIT // 100
    assert one.aim(89 * part, 50 * part, is_full=False) == 0
    assert one.aim(95 * part, 50 * part, is_full=False) == 95 * part - one.low
    assert one.aim(95 * part, 10 * part, is_full=False) == 95 * part - one.high
    assert one.aim(95 * part, 2 * part, is_full=False) == 0
    assert one.aim(105 * part, 10 * part, is_full=False) == 105 * part - LIMIT
    assert one.aim(105 * part, 2 * part, is_full=False) == 2 * part
    assert one.aim(95 * part, 2 * part, is_full=True) == 2 * part
