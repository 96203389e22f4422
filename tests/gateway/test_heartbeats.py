"""What a connected registry says once a minute costs its parent no write, and loses no lease."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest
from holdfast.control import command
from holdfast.errors import ControlConflict, NodeFull
from holdfast.keeper import heartbeats
from holdfast.resources import states
from holdfast.resources.model import STATUS, Status, StatusDetail, SyncProgress, SyncResult
from holdfast.testing.manual_clock import FakeClock
from holdfast.testing.port import ScriptedPort
from holdfast.timestamps import stamp
from holdfast_core.changes.resource_rows import ResourceView
from holdfast_core.errors import Exhausted
from holdfast_core.record import ResourceChange
from holdfast_core.store import Store
from support.control import create_registry

LEASE = 300.0
NOON = 1_795_694_400.0


class Root:
    """A root's control plane over a store on the disk, with one connected registry that is active."""

    def __init__(self, place: Path) -> None:
        self.place, self.clock = place, FakeClock(NOON)
        self.open()
        self.tell(create_registry(name="plant", mode="ReadWrite", parent=None, repositories=("team/*",)))
        self.activate("first")

    def open(self) -> None:
        """A keeper begins."""
        self.store = Store.create_or_open(self.place, write=True)
        self.port = ScriptedPort(self.store, self.clock)

    def kill(self) -> None:
        """It ends, and writes nothing more. The next one begins."""
        self.store.close()
        self.open()

    def end(self) -> None:
        """It ends in good order. The next one begins."""
        asyncio.run(self.port.control_plane.write_heartbeats())
        self.kill()

    def cut_power(self, disk: Path) -> None:
        """`disk` is what lay there when the last keeper began; since then only what was synced came on. The next one
        begins."""
        writer = self.store._writer
        assert writer is not None
        synced = (self.place / "journal" / "log").read_bytes()[: writer.journal.synced]
        self.store.close()
        shutil.rmtree(self.place)
        shutil.copytree(disk, self.place)
        (self.place / "journal" / "log").write_bytes(synced)
        self.open()

    def refused(self, instance: str) -> bool:
        """Whether another instance is kept out."""
        try:
            self.activate(instance)
        except ControlConflict as error:
            assert states.ALREADY_ACTIVATED in error.message  # noqa: PT017 - it tells two refusals apart
            return True
        return False

    def is_shown(self) -> bool:
        """Whether it is shown as connected."""
        return states.is_held(self.shown().lease, self.clock.now())

    def tell(self, order: command.Command) -> command.CommandResult:
        """One command."""
        return asyncio.run(self.port.control_plane.execute(order))

    def activate(self, instance: str) -> int:
        """A lease for an instance; its generation."""
        return self.tell(
            command.Activate(name="plant", instance=instance, version="1", lease_seconds=LEASE)
        ).generation

    def report(self, **said: object) -> None:
        """The first instance is there."""
        lease = {"name": "plant", "instance": "first", "generation": 1, "lease_seconds": LEASE}
        self.tell(command.RecordReport(**lease, **said))  # type: ignore[arg-type]

    def written(self) -> tuple[int, int]:
        """What the store has written of it: the revision of the document, and the journal's length."""
        held = self.store.documents.get(STATUS, "plant")
        assert held is not None
        return held.revision, sum(file.stat().st_size for file in (self.place / "journal").iterdir())

    def shown(self) -> Status:
        """What is known of it."""
        return asyncio.run(self.port.statuses())["plant"]


@pytest.fixture
def root(tmp_path: Path) -> Root:
    return Root(tmp_path / "store")


def test_case_fault_11_a_heartbeat_is_written_once_an_hour(root: Root) -> None:
    revisions = [root.written()[0]]
    for _ in range(2 * 60):
        root.clock.advance(60)
        before = root.written()
        root.report()
        revisions.append(root.written()[0])
        assert (root.written() == before) == (revisions[-1] == revisions[-2])  # nothing at all, or all of it
    assert revisions[-1] - revisions[0] == 2


def test_what_is_shown_is_the_last_word(root: Root) -> None:
    root.report(last_sync_time="2026-11-27T12:00:00Z")
    before = root.written()
    root.clock.advance(600)
    progress = SyncProgress(1, 3, 10, 30, 1.0, None, 0, 0, 0)
    root.report(last_sync_time="2026-11-27T12:10:00Z", sync_progress=progress)
    assert root.written() == before
    shown = root.shown()
    assert (shown.last_sync_time, shown.sync_progress) == ("2026-11-27T12:10:00Z", progress)
    assert states.is_held(shown.lease, root.clock.now() + LEASE - 2)


def test_case_fault_11_a_trouble_that_is_worded_anew_is_no_news(root: Root) -> None:
    """It counts what happened, and minutes; what is shown has the words of the last report, after a restart too."""
    root.report(status_details=(_waiting(0),))
    before = root.written()
    for minute in range(1, 31):
        root.clock.advance(60)
        root.report(status_details=(_waiting(minute),))
        assert root.shown().status_details == (_waiting(minute),)
    assert root.written() == before
    root.end()
    assert root.shown().status_details == (_waiting(30),)


def _waiting(minutes: int) -> StatusDetail:
    text = f"{minutes + 7} changes wait for the parent, the first for {minutes} min"
    return StatusDetail("Outbox", "OutboxWaiting", text, stamp(NOON + 60 * minutes), f"c{minutes}")


CHANGES: dict[str, dict[str, object]] = {
    "a version": {"version": "2"},
    "a trouble": {"status_details": ()},
    "another trouble": {"status_details": (StatusDetail("Disk", "DiskFull", "full"),)},
    "a trouble more": {
        "status_details": (StatusDetail("Disk", "DiskError", "full"), StatusDetail("Parent", "Away", ""))
    },
    "a transfer that began": {"syncing": True},
    "a full synchronisation": {
        "registry_sync_result": SyncResult(sync_trigger="InitialSync", sync_state="Syncing")
    },
}


@pytest.mark.parametrize("what", CHANGES)
def test_what_changed_is_written_at_once(root: Root, what: str) -> None:
    said: dict[str, object] = {"status_details": (StatusDetail("Disk", "DiskError", "full"),)}
    root.report(**said)
    before = root.written()
    root.clock.advance(60)
    root.report(**said | CHANGES[what])
    assert root.written()[0] == before[0] + 1


def test_a_lease_outlives_a_kill_that_came_before_it_was_written(root: Root) -> None:
    """The store knows of a lease until 12:05, and its holder one until 13:04."""
    for _ in range(59):
        root.clock.advance(60)
        root.report()
    root.kill()
    root.clock.advance(LEASE - 1)
    with pytest.raises(ControlConflict, match="ALREADY_ACTIVATED"):
        root.activate("second")
    root.report()  # its holder goes on
    root.clock.advance(LEASE - 1)
    with pytest.raises(ControlConflict, match="ALREADY_ACTIVATED"):
        root.activate("second")


def test_an_instance_that_is_gone_is_replaced_after_a_kill(root: Root) -> None:
    for _ in range(10):
        root.clock.advance(60)
        root.report()
    root.kill()
    root.clock.advance(LEASE + 2)
    assert root.activate("second") == 2
    with pytest.raises(ControlConflict, match="ALREADY_ACTIVATED"):
        root.report()


def test_a_lease_that_ended_long_before_the_start_stays_ended(root: Root) -> None:
    root.store.close()
    root.clock.advance(states.WRITE_SECONDS + LEASE + 2)
    root.open()
    assert root.activate("second") == 2


def test_what_was_decided_counts_more_than_what_is_remembered(root: Root) -> None:
    root.clock.advance(60)
    root.report()
    root.tell(command.Deactivate(name="plant"))
    assert root.shown().lease is None
    assert root.activate("second") == 2
    lease = root.shown().lease
    assert lease is not None
    assert lease.instance == "second"


def test_an_end_in_good_order_leaves_the_last_word(root: Root) -> None:
    root.clock.advance(120)
    root.report()
    said = root.shown()
    asyncio.run(root.port.control_plane.write_heartbeats())
    root.kill()
    assert root.shown().last_activity_time == said.last_activity_time


def test_case_fault_11_a_lease_that_ran_out_stays_so_after_an_end_in_good_order(root: Root) -> None:
    root.clock.advance(60)
    root.report()
    root.clock.advance(LEASE + 1)
    assert not root.is_shown()
    for _ in range(2):
        root.end()
        assert not root.is_shown()
    assert root.activate("second") == 2


def test_case_fault_11_a_lease_runs_on_through_an_end_in_good_order(root: Root) -> None:
    root.clock.advance(60)
    root.report()
    root.clock.advance(LEASE / 2)
    root.end()
    assert root.is_shown()
    root.clock.advance(LEASE / 2 - 1)
    assert root.refused("second")
    root.clock.advance(1)
    assert not root.refused("second")


def test_case_fault_11_what_is_heard_after_an_end_in_good_order_outlives_a_kill(root: Root) -> None:
    """The first word after it is written, so that those behind it are known to be unknown."""
    root.clock.advance(60)
    root.report()
    root.end()
    revisions = []
    for _ in range(3):
        root.clock.advance(60)
        root.report()
        revisions.append(root.written()[0])
    assert revisions == [revisions[0]] * 3
    root.kill()
    root.clock.advance(LEASE - 1)
    assert root.refused("second")


@pytest.mark.parametrize("words", [1, 2, 30])
def test_case_fault_11_what_is_heard_after_an_end_in_good_order_outlives_a_power_cut(
    root: Root, tmp_path: Path, words: int
) -> None:
    """What the keeper before left behind says no more how long a lease counts."""
    root.clock.advance(60)
    root.report()
    root.end()
    shutil.copytree(root.place, tmp_path / "disk")
    for _ in range(words):
        root.clock.advance(60)
        root.report()
    root.cut_power(tmp_path / "disk")
    root.clock.advance(LEASE - 1)
    assert root.refused("second")


def test_case_fault_11_a_word_behind_the_last_ones_outlives_a_power_cut(root: Root, tmp_path: Path) -> None:
    root.clock.advance(60)
    root.report()
    asyncio.run(root.port.control_plane.write_heartbeats())
    root.store.upkeep.sync_cached().result()
    shutil.copytree(root.place, tmp_path / "disk")
    root.clock.advance(60)
    root.report()
    root.cut_power(tmp_path / "disk")
    root.clock.advance(LEASE - 1)
    assert root.refused("second")


def test_case_fault_11_a_lease_outlives_a_power_cut_at_the_moment_of_its_activation(
    root: Root, tmp_path: Path
) -> None:
    root.tell(command.Deactivate(name="plant"))
    root.store.upkeep.sync_cached().result()
    shutil.copytree(root.place, tmp_path / "disk")
    root.activate("first")
    root.cut_power(tmp_path / "disk")
    assert root.refused("second")


def test_case_fault_11_a_lease_outlives_a_power_cut_at_the_moment_of_its_write(
    root: Root, tmp_path: Path
) -> None:
    """An hour after the one before, as far back as a renewal may lie that is not on the disk."""
    root.store.upkeep.sync_cached().result()
    shutil.copytree(root.place, tmp_path / "disk")
    for _ in range(60):
        root.clock.advance(states.WRITE_SECONDS / 60 + 1)
        root.report()
    root.cut_power(tmp_path / "disk")
    root.clock.advance(LEASE - 1)
    assert root.refused("second")


def test_case_fault_11_a_word_behind_the_last_ones_outlives_a_kill(root: Root) -> None:
    root.clock.advance(60)
    root.report()
    asyncio.run(root.port.control_plane.write_heartbeats())
    root.clock.advance(60)
    root.report()
    root.kill()
    root.clock.advance(LEASE - 1)
    assert root.refused("second")


def test_case_fault_11_who_is_gone_is_kept_in_after_a_kill_and_does_not_look_connected(root: Root) -> None:
    """Nobody knows whether it was renewed: no other instance comes in too soon. An end in good order adds nothing."""
    root.clock.advance(LEASE + 60)
    root.kill()
    assert not root.is_shown()
    root.clock.advance(60)
    root.end()
    assert not root.is_shown()
    root.clock.advance(LEASE - 61)
    assert root.refused("second")
    root.clock.advance(3)
    assert not root.refused("second")


def test_case_fault_11_a_registry_that_was_made_anew_is_another(root: Root) -> None:
    """What was left of the one before it says nothing, though the revision is the same."""
    root.clock.advance(60)
    root.report()
    root.end()
    left = root.written()[0]
    root.tell(command.DeleteRegistry(name="plant"))
    root.clock.advance(LEASE + 60)
    root.tell(create_registry(name="plant", mode="ReadWrite", parent=None, repositories=("team/*",)))
    root.activate("first")
    while root.written()[0] < left:
        root.report(version=f"1.{root.written()[0]}")
    root.clock.advance(60)
    root.report()
    assert root.written()[0] == left == 2
    root.kill()
    root.clock.advance(LEASE - 1)
    assert root.refused("second")


@pytest.mark.parametrize("body", [b"{", b'{"plant": 7}'])
def test_a_record_of_leases_that_cannot_be_read_is_as_after_a_kill(root: Root, body: bytes) -> None:
    root.clock.advance(LEASE + 60)
    asyncio.run(root.port.control_plane.write_heartbeats())
    row = ResourceChange(heartbeats.KIND, heartbeats.NAME, body)
    root.store.documents.change(lambda view: [row], quiet=frozenset({heartbeats.KIND})).result()
    root.kill()
    assert root.refused("second")


def test_a_clock_that_was_set_back_stops_no_heartbeat(root: Root) -> None:
    root.clock.step(-86400.0)
    root.report()
    assert not states.is_held(root.shown().lease, root.clock.now() + LEASE)
    assert states.is_held(root.shown().lease, root.clock.now() + LEASE - 2)


def test_case_fault_11_what_could_not_be_written_was_not_said(
    root: Root, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The one who said it got an error: what it was told before counts, also when two of them fail together."""
    root.report()
    root.clock.advance(60)
    root.report()
    told = root.shown()
    change = root.store.documents.change

    def refused(plan: Callable[[ResourceView], Sequence[ResourceChange]], **more: Any) -> Future[None]:
        def failing(view: ResourceView) -> Sequence[ResourceChange]:
            plan(view)
            plan(view)
            raise Exhausted("no space left")

        return change(failing, **more)

    with monkeypatch.context() as patch:
        patch.setattr(root.store.documents, "change", refused)
        for _ in range(2):
            root.clock.advance(60)
            with pytest.raises(NodeFull):
                root.report()
            assert root.shown() == told
    root.clock.advance(60)
    root.report()
    assert root.shown().last_activity_time == stamp(root.clock.now())
