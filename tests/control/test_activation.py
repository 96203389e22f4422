"""Activation by a lease, reports, states, and what a managed node receives."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from holdfast import timestamps
from holdfast.control import command as c
from holdfast.control.activation import already_activated
from holdfast.errors import ControlConflict, ControlInvalid, ControlUnknown
from holdfast.resources import states
from holdfast.resources.cron import silence_of
from holdfast.resources.model import (
    SCOPE_MAP,
    STATUS,
    TOKEN,
    Identity,
    Lease,
    LoginServer,
    RegistryConfiguration,
    Revision,
    Status,
    StatusDetail,
    SyncProperties,
    SyncResult,
)
from holdfast.timestamps import stamp
from msgspec.structs import replace
from support.control import NOW, Plane, registry

TEXT = (
    "ALREADY_ACTIVATED: This connected registry is already activated by another instance."
    " Only one instance is supported at any time."
)


@pytest.fixture
def plane() -> Plane:
    plane = Plane()
    plane.do(registry("plant", mode="ReadWrite"))
    plane.do(registry("hall1", parent="plant"))
    plane.do(registry("line1", parent="hall1"))
    return plane


def activate(
    plane: Plane, instance: str = "first", name: str = "plant", seconds: float = 300.0
) -> c.CommandResult:
    return plane.do(c.Activate(name=name, instance=instance, lease_seconds=seconds, version="1.0"))


def report(instance: str = "first", generation: int = 1, **more: object) -> c.RecordReport:
    fields = {"name": "plant", "instance": instance, "generation": generation, "lease_seconds": 300.0, **more}
    return msgspec.convert(msgspec.to_builtins(fields), c.RecordReport)


def state(plane: Plane, name: str = "plant") -> tuple[str, str]:
    status = plane.status(name)
    return states.activation(status), states.connection(status, plane.registry(name), plane.now)


def test_activation_is_a_lease_that_reports_renew(plane: Plane) -> None:
    assert state(plane) == ("Inactive", "Offline")
    answer = activate(plane)
    assert (answer.generation, answer.expires) == (1, "2026-11-26T22:05:00Z")
    assert state(plane) == ("Active", "Online")
    plane.now += 200
    assert plane.do(report()).expires == "2026-11-26T22:08:20Z"
    plane.now += 149
    assert state(plane) == ("Active", "Online")
    plane.now += 1
    assert state(plane) == ("Active", "Offline")
    assert states.is_held(plane.status("plant").lease, plane.now + 149)
    assert not states.is_held(plane.status("plant").lease, plane.now + 150)


def test_a_second_live_instance_is_refused_in_the_originals_words(plane: Plane) -> None:
    activate(plane)
    before = plane.state()
    plane.now += 299
    with pytest.raises(ControlConflict) as refusal:
        activate(plane, "second")
    assert (refusal.value.message, refusal.value.detail) == (TEXT, "ALREADY_ACTIVATED")
    assert plane.state() == before


def test_when_the_lease_is_over_another_takes_over_and_the_old_one_learns_it(plane: Plane) -> None:
    activate(plane)
    plane.now += 300
    assert activate(plane, "second").generation == 2
    with pytest.raises(ControlConflict, match="ALREADY_ACTIVATED"):
        plane.do(report())
    with pytest.raises(ControlConflict, match="ALREADY_ACTIVATED"):
        activate(plane)
    plane.do(report("second", 2))


def test_the_same_instance_asks_again_without_a_new_generation(plane: Plane) -> None:
    activate(plane)
    plane.now += 100
    assert activate(plane).generation == 1
    plane.now += 1_000
    assert activate(plane).generation == 1
    assert plane.do(report()).generation == 1  # silent for longer than its lease, and nobody came


def test_a_released_lease_is_free_at_once(plane: Plane) -> None:
    activate(plane)
    plane.do(c.Release(name="plant", instance="second", generation=1))
    plane.do(c.Release(name="plant", instance="first", generation=7))
    assert state(plane)[0] == "Active"
    assert plane.do(c.Release(name="plant", instance="first", generation=1)).changed
    assert not plane.do(c.Release(name="plant", instance="first", generation=1)).changed
    assert activate(plane, "second").generation == 2


def test_deactivated_it_is_told_so_and_another_may_come(plane: Plane) -> None:
    activate(plane)
    assert plane.do(c.Deactivate(name="Plant")).changed
    assert state(plane) == ("Inactive", "Offline")
    assert not plane.do(c.Deactivate(name="plant")).changed
    with pytest.raises(ControlConflict, match="is not active; activate it first") as refusal:
        plane.do(report())
    assert refusal.value.detail == "NOT_ACTIVATED"
    assert activate(plane, "second").generation == 2


@pytest.mark.parametrize("instance", ["", "x" * 129])
def test_an_instance_has_a_name(plane: Plane, instance: str) -> None:
    with pytest.raises(ControlInvalid, match="instance has"):
        activate(plane, instance)


@pytest.mark.parametrize("seconds", [0.0, -1.0, 1e9, float("inf"), float("nan")])
def test_a_lease_has_an_end(plane: Plane, seconds: float) -> None:
    with pytest.raises(ControlInvalid, match="a lease of"):
        activate(plane, seconds=seconds)


def test_only_the_parent_activates(plane: Plane) -> None:
    with pytest.raises(
        ControlConflict, match="the parent of the connected registry hall1 is plant; connect there"
    ):
        activate(plane, name="hall1")
    with pytest.raises(ControlUnknown):
        activate(plane, name="absent")


def test_a_report_says_how_the_node_is(plane: Plane) -> None:
    activate(plane)
    detail = StatusDetail(type="Disk", code="DiskError", description="no space left on device")
    result = SyncResult(
        sync_trigger="InitialSync", sync_state="Syncing", last_sync_start_time="2026-11-26T22:00:01Z"
    )
    said: dict[str, Any] = {
        "version": "2.0",
        "last_sync_time": "2026-11-26T22:00:02Z",
        "login_server": LoginServer(host="h:5000"),
    }
    plane.do(report(syncing=True, registry_sync_result=result, **said))
    assert state(plane)[1] == "Syncing"
    plane.do(report(syncing=True, status_details=(detail,)))
    assert state(plane)[1] == "Unhealthy"
    plane.do(report())
    assert state(plane)[1] == "Online"
    status = plane.status("plant")
    assert (status.version, status.last_sync_time, status.login_server) == tuple(said.values())
    assert (status.registry_sync_result, status.status_details) == (result, ())
    plane.do(report(status_details=[detail] * 101))
    assert len(plane.status("plant").status_details) == 100


def test_a_trouble_has_the_time_when_it_was_first_told_of(plane: Plane) -> None:
    activate(plane)
    disk, slow = (StatusDetail(type="Disk", code=code, description="x") for code in ("DiskError", "Slow"))
    own = StatusDetail(type="Net", code="Own", description="x", timestamp="2026-01-01T00:00:00Z")
    began = stamp(plane.now)
    plane.do(report(status_details=(disk, own)))
    plane.now += 60
    plane.do(report(status_details=(slow, disk, own)))
    told = {detail.code: detail.timestamp for detail in plane.status("plant").status_details}
    assert told == {"DiskError": began, "Slow": stamp(plane.now), "Own": own.timestamp}
    plane.do(report())
    plane.do(report(status_details=(disk,)))
    assert plane.status("plant").status_details[0].timestamp == stamp(plane.now)


def test_a_synchronisation_never_goes_back_to_before_the_activation(plane: Plane) -> None:
    activate(plane)
    assert plane.status("plant").registry_sync_result.sync_state == "Pending"
    before = plane.state()
    with pytest.raises(ControlInvalid, match="syncState NotActivated cannot follow Pending"):
        plane.do(report(registry_sync_result=SyncResult(sync_state="NotActivated")))
    assert plane.state() == before
    plane.do(report(registry_sync_result=SyncResult(sync_state="Succeeded")))


def test_a_resync_waits_for_a_synchronisation_that_began_after_it(plane: Plane) -> None:
    with pytest.raises(ControlConflict, match="ConnectedRegistryHasOfflineChildren") as refusal:
        plane.do(c.Resync(name="plant"))
    assert refusal.value.detail == "ConnectedRegistryHasOfflineChildren"
    activate(plane)
    old = SyncResult(
        sync_trigger="InitialSync", sync_state="Succeeded", last_sync_start_time="2026-11-26T22:00:00Z"
    )
    plane.do(report(registry_sync_result=old))
    plane.now += 60
    assert plane.do(c.Resync(name="plant")).changed
    pending = plane.status("plant").registry_sync_result
    assert (pending.sync_trigger, pending.sync_state) == ("ManualResync", "Pending")
    assert plane.registry("plant").resync_requested == "2026-11-26T22:01:00Z"
    plane.do(report(registry_sync_result=old))  # was on its way
    assert plane.status("plant").registry_sync_result == pending
    new = SyncResult(
        sync_trigger="ManualResync", sync_state="Syncing", last_sync_start_time="2026-11-26T22:01:30Z"
    )
    plane.do(report(registry_sync_result=new))
    assert plane.status("plant").registry_sync_result == new


def test_a_resync_two_levels_down_waits_as_well(plane: Plane) -> None:
    """What the node between said before it heard of the wish does not answer it."""
    activate(plane)
    lease = Lease(instance="x", generation=1, expires="2026-11-27T22:00:00Z")
    old = SyncResult(
        sync_trigger="InitialSync", sync_state="Succeeded", last_sync_start_time="2026-11-26T22:00:00Z"
    )
    heard = Status(lease=lease, last_activity_time="2026-11-26T22:00:00Z", registry_sync_result=old)
    plane.do(report(below={"line1": heard}))
    plane.now += 60
    plane.do(c.Resync(name="line1"))
    plane.do(report(below={"line1": heard}))
    assert plane.status("line1").registry_sync_result.sync_state == "Pending"
    new = msgspec.structs.replace(
        old, sync_trigger="ManualResync", last_sync_start_time="2026-11-26T22:01:00Z"
    )
    plane.do(report(below={"line1": msgspec.structs.replace(heard, registry_sync_result=new)}))
    assert plane.status("line1").registry_sync_result == new


def test_case_trust_14_a_node_that_is_not_activated_misses_no_change() -> None:
    lease = Lease(instance="i", generation=1, expires="2026-11-26T22:00:00Z")
    behind, since = Revision(number=3, since="2026-11-26T21:00:00Z"), "2026-11-26T21:00:00Z"
    assert states.missed(Status(lease=lease, revision=2), behind) == since
    assert states.missed(Status(lease=lease, revision=3), behind) is None
    assert states.missed(Status(revision=2), behind) is None


def test_the_tables_name_every_state_and_what_is_not_in_them_is_refused() -> None:
    assert states.after("Inactive", "report") is None
    assert states.after("Active", "report") == "Active"
    assert states.after("Inactive", "activate") == "Active"
    assert {states.after(s, "deactivate") for s in states.ACTIVATION} == {"Inactive"}
    known = set(states.SYNC)
    assert set().union(*states.SYNC.values()) <= known
    assert states.reachable("NotActivated") == known
    assert all(states.reachable(state) == known - {"NotActivated"} for state in known - {"NotActivated"})
    assert already_activated().message == TEXT


@pytest.mark.parametrize(
    ("status", "wanted"),
    [
        (Status(), "Offline"),
        (Status(last_activity_time="2026-11-26T21:59:00Z"), "Offline"),
        (
            Status(
                lease=Lease(instance="i", generation=1, expires="2026-11-26T22:00:00Z"),
                last_activity_time="x",
            ),
            "Offline",
        ),
        (
            Status(
                lease=Lease(instance="i", generation=1, expires="2026-11-26T22:00:01Z"),
                last_activity_time="2026-11-26T21:59:59Z",
            ),
            "Online",
        ),
        (Status(lease=Lease(instance="i", generation=1, expires="2026-11-26T22:00:01Z")), "Offline"),
        (
            Status(lease=Lease(instance="i", generation=1, expires="no time"), last_activity_time="x"),
            "Offline",
        ),
    ],
)
def test_connection_is_a_function_of_what_is_known(plane: Plane, status: Status, wanted: str) -> None:
    assert states.connection(status, plane.registry("plant"), NOW) == wanted


@pytest.mark.parametrize(
    ("heard", "now", "wanted"),
    [
        ("09:00:00", "09:00:09", "Online"),  # its window is open: the silence counts, whatever the lease
        ("09:00:00", "09:00:10", "Offline"),
        ("09:00:00", "10:59:59", "Offline"),
        ("10:59:55", "10:59:59", "Online"),
        ("10:59:55", "11:00:00", "Offline"),  # closed: nobody is heard of
    ],
)
def test_case_trust_13_within_a_window_the_last_activity_decides(
    plane: Plane, heard: str, now: str, wanted: str
) -> None:
    """A lease of 20 s, and a window of two hours a day: the lease runs to the end of tomorrow's."""
    day = "2026-11-26T"
    sync = SyncProperties(token_id="t", schedule="0 9 * * *", sync_window="PT2H")
    registry = replace(
        plane.registry("plant"), parent=replace(plane.registry("plant").parent, sync_properties=sync)
    )
    at = timestamps.seconds(f"{day}{heard}Z")
    expires = timestamps.stamp(at + 20 + silence_of(sync, at))
    lease = Lease(instance="i", generation=1, expires=expires)
    status = Status(lease=lease, last_activity_time=f"{day}{heard}Z")
    seen = timestamps.seconds(f"{day}{now}Z")
    assert states.is_held(status.lease, seen)
    assert states.connection(status, registry, seen) == wanted
    tomorrow = "2026-11-27T09:00:00Z" if now.startswith("11") else None
    assert states.expected(status, registry, seen) == tomorrow


# --- down and up the tree ----------------------------------------------------------------------------------


def test_what_a_node_says_of_those_below_it_is_taken_and_of_others_not(plane: Plane) -> None:
    plane.do(registry("other"))
    activate(plane)
    lease = Lease(instance="x", generation=3, expires="2026-11-26T23:00:00Z")
    said = Status(version="0.9", last_activity_time="2026-11-26T21:59:59Z", lease=lease)
    before = plane.status("other")
    plane.do(report(below={"LINE1": said, "other": said, "plant": said, "absent": said}))
    assert plane.status("line1") == said
    assert state(plane, "line1") == ("Active", "Online")
    assert plane.status("other") == before
    assert plane.status("plant").version == "1.0"
    assert plane.view.get(STATUS, "absent") is None


def configuration(plane: Plane, name: str) -> RegistryConfiguration:
    """What a parent hands down, straight from its draft."""
    draft = plane.draft()
    own = plane.registry(name)
    below = [plane.registry(one) for one in plane.below(name)]
    tokens = [plane.token(one.parent.sync_properties.token_id) for one in [own, *below]]
    scopes = [draft.scope_map(token.scope_map_id) for token in tokens]
    return RegistryConfiguration(
        registry=own,
        etag='"x"',
        below=tuple(below),
        tokens=tuple(tokens),
        scope_maps=tuple(scope for scope in scopes if scope is not None),
    )


ME = Identity(name="Plant", instance="i-1", activated="2026-11-26T22:00:00Z")


def test_a_managed_node_has_what_its_parent_says_and_nothing_else(plane: Plane) -> None:
    child = Plane()
    child.do(c.CreateToken(name="stale", scope_map="_repositories_pull"))
    sent = configuration(plane, "plant")
    assert child.do(c.Receive(identity=ME, configuration=sent)).changed
    assert child.draft().names(TOKEN) == ["hall1", "line1", "plant"]
    assert child.draft().names(SCOPE_MAP) == ["hall1", "line1", "plant"]
    assert child.below("plant") == ["hall1", "line1"]
    revision = child.view.revision()
    assert not child.do(c.Receive(identity=ME, configuration=sent)).changed
    assert child.do(c.Receive(identity=msgspec.structs.replace(ME, trouble="offline"))).changed
    assert child.view.revision() == revision
    plane.do(c.DeleteRegistry(name="line1", cleanup=True))
    child.do(c.Receive(identity=ME, configuration=configuration(plane, "plant")))
    assert child.draft().names(TOKEN) == ["hall1", "plant"]


def test_a_managed_node_is_a_parent_of_those_directly_below_it(plane: Plane) -> None:
    child = Plane()
    child.do(c.Receive(identity=ME, configuration=configuration(plane, "plant")))
    assert activate(child, name="hall1").generation == 1
    for name, kind in (("line1", ControlConflict), ("plant", ControlUnknown)):
        with pytest.raises(kind):
            activate(child, name=name)
    child.do(c.Receive(identity=ME, configuration=configuration(plane, "plant")))
    assert state(child, "hall1") == ("Active", "Online")


def test_a_registry_deactivated_at_the_root_loses_its_lease_where_it_is_held(plane: Plane) -> None:
    child = Plane()
    child.do(c.Receive(identity=ME, configuration=configuration(plane, "plant")))
    activate(child, name="hall1")
    activate(plane)
    plane.do(report(below={"hall1": child.status("hall1")}))
    plane.do(c.Deactivate(name="hall1"))
    child.do(c.Receive(identity=ME, configuration=configuration(plane, "plant")))
    assert state(child, "hall1") == ("Inactive", "Offline")
    activate(child, "second", name="hall1")
    child.do(c.Receive(identity=ME, configuration=configuration(plane, "plant")))
    assert state(child, "hall1")[0] == "Active"  # the same word again cuts nobody loose


def test_a_node_two_levels_down_does_not_know_its_parent(plane: Plane) -> None:
    child = Plane()
    me = Identity(name="hall1", instance="i")
    child.do(c.Receive(identity=me, configuration=configuration(plane, "hall1")))
    assert child.below("hall1") == ["line1"]
    activate(child, name="line1")


def test_a_configuration_that_is_not_whole_changes_nothing(plane: Plane) -> None:
    child, sent = Plane(), configuration(plane, "plant")
    child.do(c.Receive(identity=ME, configuration=sent))
    before = child.state()
    other = msgspec.structs.replace(ME, name="other")
    swapped = msgspec.structs.replace(sent, below=tuple(reversed(sent.below)))
    for identity, given, text in (
        (other, sent, "the configuration is of plant, this node is other"),
        (ME, msgspec.structs.replace(sent, scope_maps=()), "has no scope map"),
        (ME, swapped, "is not below"),
        (ME, msgspec.structs.replace(sent, below=(*sent.below, sent.below[0])), "is not below"),
    ):
        with pytest.raises(ControlInvalid, match=text):
            child.do(c.Receive(identity=identity, configuration=given))
        assert child.state() == before
