"""Who asks for room: what is known of the disk, and what the disk says."""

from __future__ import annotations

import asyncio

import pytest
from holdfast.config import StoreSection
from holdfast.storage.budget import DiskBudget
from holdfast.storage.space_admission import SpaceAdmission
from holdfast.storage.space_ledger import SpaceLedger
from holdfast.testing.manual_clock import FakeClock
from holdfast_core.digest import Digest
from holdfast_core.store import Store

pytestmark = pytest.mark.loop("asyncio")

MIB = 1 << 20


def admission(store: Store, clock: FakeClock, **keys: object) -> SpaceAdmission:
    """One whose disk was not measured yet."""
    section = StoreSection(**{"max_bytes": 100 * MIB, "min_free": "0", **keys})  # type: ignore[arg-type]
    return SpaceAdmission(store, SpaceLedger(DiskBudget.of(section, store.disk_bytes())), clock)


async def test_what_comes_after_a_start_waits_until_the_disk_was_measured(store: Store) -> None:
    """What a kill left of fills and uploads would not count before."""
    (store.path / "uploads" / "left").write_bytes(b"x" * (60 * MIB))
    one = admission(store, FakeClock(jump=False))
    fill = asyncio.ensure_future(one.reserve("app", "part", 50 * MIB))
    push = asyncio.ensure_future(one.admit_push(50 * MIB))
    await asyncio.wait((fill, push), timeout=0, return_when=asyncio.FIRST_COMPLETED)
    for _ in range(3):
        await asyncio.sleep(0)
    assert [request.size for request in one.requests] == [50 * MIB, 50 * MIB]
    one.measured(store.space.disk_use(), 0)
    for request in one.requests:
        request.done.set_result(None)
    assert [await fill, await push] == [False, False]
    assert one.ledger.used(one.blobs()) < 70 * MIB


async def test_what_others_filled_since_the_disk_was_measured_is_no_room(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = admission(store, FakeClock())
    one.measured(store.space.disk_use(), 0)
    assert await one.admit_push(10 * MIB)
    monkeypatch.setattr(Store, "free_bytes", lambda _: 9 * MIB)
    assert not await one.admit_push(10 * MIB)
    assert await one.admit_push(9 * MIB)


async def test_small_content_counts_as_soon_as_it_is_stored(store: Store) -> None:
    one = admission(store, FakeClock())
    one.measured(store.space.disk_use(), 0)
    before = one.ledger.used(one.blobs())
    for number in range(10):
        body = bytes([number]) * 10_000
        pushed = store.blobs.push_inline("app", Digest.of(body), body, now=0.0)
        await asyncio.wrap_future(pushed)
    assert one.ledger.used(one.blobs()) - before == 200_000
