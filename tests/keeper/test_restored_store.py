"""A restored store is not the instance that it was copied from, and believes nothing about leases."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

import msgspec
import pytest
from holdfast.gateway.identity import own_identity
from holdfast.keeper.heartbeats import PendingReport, pending_reports
from holdfast.keeper.restored_store import settle
from holdfast.resources.model import Identity
from holdfast_core import Store, fsck
from holdfast_core.record import ResourceChange
from holdfast_core.recovery.backup import backup, restore

LOST = Identity(name="plant", instance="lost", activated="2026-11-01T00:00:00Z", generation=3, etag="e")


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A backup of a connected registry's store whose keeper ended in good order."""
    rows = [
        ResourceChange("identity", "self", msgspec.json.encode(LOST)),
        ResourceChange(
            "leases", "self", msgspec.json.encode({"line": PendingReport(1, "2026-11-01T00:05:00Z")})
        ),
    ]
    with closing(Store.create_or_open(tmp_path / "store", write=True)) as store:
        quiet = frozenset({"identity", "leases"})
        store.documents.change(lambda view: rows, quiet=quiet).result()
    backup(tmp_path / "store", tmp_path / "backup")
    return tmp_path / "backup"


def test_the_parent_can_tell_it_from_the_lost_one(place: Path, tmp_path: Path) -> None:
    restore(place, tmp_path / "restored", settle=lambda store: settle(store, "restored"))
    with closing(Store.create_or_open(tmp_path / "restored", write=False)) as store:
        assert own_identity(store) == Identity(
            name="plant", instance="restored", activated="2026-11-01T00:00:00Z", generation=0, etag="e"
        )
        assert pending_reports(store) == {}
    assert fsck(tmp_path / "restored", (1, 1)).problems == []


def test_a_root_without_children_has_neither(tmp_path: Path) -> None:
    Store.create_or_open(tmp_path / "store", write=True).close()
    backup(tmp_path / "store", tmp_path / "backup")
    restore(tmp_path / "backup", tmp_path / "restored", settle=lambda store: settle(store, "restored"))
    with closing(Store.create_or_open(tmp_path / "restored", write=False)) as store:
        assert own_identity(store) is None


def test_one_that_cannot_be_settled_is_no_store(place: Path, tmp_path: Path) -> None:
    """It goes on: the next call settles it."""

    def fails(store: Store) -> None:
        raise RuntimeError("killed")

    with pytest.raises(RuntimeError):
        restore(place, tmp_path / "restored", settle=fails)
    assert (tmp_path / "restored" / "copy.json").exists()
    restore(place, tmp_path / "restored", settle=lambda store: settle(store, "restored"))
    with closing(Store.create_or_open(tmp_path / "restored", write=False)) as store:
        held = own_identity(store)
        assert held is not None
        assert held.instance == "restored"
