"""Offline, notifications, full synchronisations, what goes and which way: the small tables."""

from __future__ import annotations

import json
from typing import get_args

import pytest
from holdfast.gateway import full_sync
from holdfast.http.health import Health
from holdfast.parent.availability import FLAP_MEMORY_SECONDS, TABLE, Availability
from holdfast.resources.model import SyncResult, SyncState
from holdfast.resources.notification import Event, Notifications, body_of, parse, signature
from holdfast.resources.rules import is_notification
from holdfast.sync.direction import MATRIX, Direction, Flow, direction_of, markdown
from holdfast.sync.removal import left_scope, lost_tags
from hypothesis import given
from hypothesis import strategies as st

NOW = 1_800_000_000.0
SHA = "sha256:" + "a" * 64


# ---- offline


def test_the_operators_word_goes_before_what_is_found_and_stops_the_probes() -> None:
    health = Health(10.0)
    parent = Availability([health], 0.0)
    parent.set_switch("offline", 5.0)
    assert parent.refresh(5.0) == "offline"
    refusal = health.refusal(5.0, "a")
    assert refusal is not None
    assert "switched off by the operator" in str(refusal)
    assert not any(health.probe_due(now) for now in range(5, 500, 10))
    health.answered("")  # a transfer that was still under way
    assert parent.refresh(6.0) == "offline"
    parent.set_switch("auto", 20.0)
    assert parent.refresh(20.0) == "offline"
    assert health.probe_due(20.0)
    health.answered("")
    assert parent.refresh(21.0) == "degraded"


def test_bulk_work_waits_longer_for_a_link_that_flaps() -> None:
    health = Health(10.0)
    parent = Availability([health], 0.0)
    assert parent.may_synchronise(0.0)
    settled = []
    for number in range(4):
        at = 100.0 * (number + 1)
        health.unreachable(at, decisive=True)
        assert not parent.may_synchronise(at)
        health.answered("")
        assert parent.transfers(4, at + 1) == 0
        settled.append(parent.settling(at + 1))
    assert settled == [5.0, 10.0, 20.0, 40.0]
    assert parent.transfers(4, 500.0) == 1  # degraded
    health.answered("")
    assert parent.transfers(4, 501.0) == 4
    assert parent.report(501.0).losses == 4
    assert parent.settling(501.0 + FLAP_MEMORY_SECONDS) == 0.0


def test_a_parent_is_as_good_as_the_best_of_its_endpoints() -> None:
    one, other = Health(10.0), Health(10.0)
    parent = Availability([one, other], 0.0)
    one.unreachable(1.0, decisive=True)
    assert parent.refresh(1.0) == "online"
    other.unreachable(2.0, decisive=True)
    assert parent.refresh(2.0) == "offline"


@pytest.mark.parametrize("step", TABLE)
def test_the_table_is_what_health_does(step: tuple[str, str]) -> None:
    state, event = step
    health = Health(10.0)
    if state != "online":
        health.unreachable(0.0, decisive=state == "offline")
    assert health.state == state
    times = {"two good answers in a row": 2, "three failures in a row": 3}.get(event, 1)
    for _ in range(times):
        if "answer" in event:
            health.answered("")
        else:
            health.unreachable(1.0, decisive=event == "no connection in time")
    assert health.state == TABLE[step]  # type: ignore[index]


# ---- notifications


def event(repository: str = "team/app", tag: str = "v1", verb: str = "push") -> Event:
    return Event("1", NOW, verb, repository, SHA, tag, "application/vnd.oci.image.manifest.v1+json", 524)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("pattern", "matching", "other"),
    [
        ("*:*", [event(), event(tag=""), event(verb="delete")], []),
        ("*:*:*", [event()], [event(tag="")]),
        ("*@*:*", [event(), event(tag="")], []),
        ("team/app:*", [event(), event(tag="", verb="delete")], [event("team/application")]),
        ("team/app:v1:*", [event()], [event(tag="v2"), event(tag="")]),
        (f"team/app@{SHA}:delete", [event(verb="delete")], [event()]),
        ("team/*:push", [event(), event("team/a/b")], [event("team"), event(verb="delete")]),
        ("team/*:v1:push", [event()], [event(tag="v2")]),
    ],
)
def test_patterns(pattern: str, matching: list[Event], other: list[Event]) -> None:
    patterns = Notifications([pattern])
    assert [e for e in matching if not patterns.matches(e)] == []
    assert [e for e in other if patterns.matches(e)] == []


@pytest.mark.parametrize("text", ["", "team/app", "team/app:pull", "te*m:*", "team/app@sha256:0:*", "A:*"])
def test_no_patterns(text: str) -> None:
    assert parse(text) is None
    assert not Notifications([text]).matches(event())


@given(st.text(alphabet="ab*/:@", max_size=14) | st.text(max_size=30))
def test_there_is_one_grammar(text: str) -> None:
    assert (parse(text) is not None) == is_notification(text)


def test_the_body_is_the_originals_and_the_same_each_time() -> None:
    body = body_of(event(), "plant", "/connectedRegistries/plant")
    document = json.loads(body)
    assert document["eventType"] == "Microsoft.ContainerRegistry.ImagePushed"
    assert document["data"] == {
        "id": "1",
        "timestamp": "2027-01-15T08:00:00Z",
        "action": "push",
        "target": {
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "size": 524,
            "digest": SHA,
            "length": 524,
            "repository": "team/app",
            "tag": "v1",
        },
        "connectedregistry": {"name": "plant"},
    }
    assert body == body_of(event(), "plant", "/connectedRegistries/plant")
    assert "connectedregistry" not in json.loads(body_of(event(tag=""), "", "t"))["data"]
    # printf body | openssl dgst -sha256 -hmac secret
    expected = "dc46983557fea127b43af721467eb9b3fde2338fe3e14f51952aa8478c13d355"
    assert signature(b"secret", b"body") == f"sha256={expected}"


# ---- full synchronisations


def test_a_full_synchronisation_goes_through_its_states() -> None:
    result = full_sync.ordered(SyncResult(), "InitialSync")
    result = full_sync.started(result, NOW)
    assert (result.sync_state, result.sync_trigger) == ("Syncing", "InitialSync")
    going_on = full_sync.started(result, NOW + 3600)
    assert going_on.last_sync_start_time == result.last_sync_start_time
    assert full_sync.timed(going_on, NOW + 86400, 86400.0).sync_state == "Syncing"
    assert full_sync.timed(going_on, NOW + 86401, 86400.0).sync_state == "TimedOut"
    done = full_sync.ended(going_on, NOW + 7200, failed=False)
    assert done.last_successful_sync_end_time == "2027-01-15T10:00:00Z"
    failed = full_sync.ended(
        full_sync.started(full_sync.ordered(done, "ManualResync"), NOW + 9000), NOW + 9001, failed=True
    )
    assert failed.sync_state == "Failed"
    assert failed.last_successful_sync_end_time == done.last_successful_sync_end_time


def test_what_is_not_in_the_table_is_an_error() -> None:
    assert set(full_sync.FOLLOWS) == set(get_args(SyncState))
    for state in get_args(SyncState):
        for after in get_args(SyncState):
            result = SyncResult(sync_state=state)
            if after in full_sync.FOLLOWS[state]:
                assert full_sync.moved(result, after).sync_state == after
            else:
                with pytest.raises(full_sync.NoSuchStep):
                    full_sync.moved(result, after)


# ---- what goes, and which way


def fates(**given: object) -> list[tuple[str, str]]:
    result = left_scope(["a", "b", "c"], ["a"], {"b": NOW - 90000}, NOW, **given)  # type: ignore[arg-type]
    return [(v.name, v.fate) for v in result]


def test_what_left_the_scope_goes_after_its_grace_in_read_only_and_stays_in_read_write() -> None:
    assert fates(mode="ReadOnly") == [("b", "remove"), ("c", "wait")]
    assert fates(mode="ReadWrite") == [("b", "keep"), ("c", "keep")]
    assert fates(mode="ReadWrite", policy="always", grace=0.0) == [("b", "remove"), ("c", "remove")]
    assert fates(mode="ReadOnly", policy="never") == [("b", "keep"), ("c", "keep")]
    assert fates(mode="ReadWrite", policy="always", pushed=["b"]) == [("b", "wait"), ("c", "wait")]


@pytest.mark.parametrize(("ago", "fate"), [(86_399.0, "wait"), (86_400.0, "remove"), (86_401.0, "remove")])
def test_what_left_the_scope_a_day_ago_is_removed(ago: float, fate: str) -> None:
    (result,) = left_scope(["b"], [], {"b": NOW - ago}, NOW, mode="ReadOnly")
    assert result.fate == fate


def test_a_clock_that_was_ahead_delays_no_removal_for_ever() -> None:
    result = left_scope(["b"], [], {"b": NOW + 9e7}, NOW, mode="ReadOnly")
    assert result[0].since == NOW


def test_a_tag_that_the_parent_lost_is_kept_and_told() -> None:
    result = lost_tags(["v1", "v2", "mine"], ["v1"], {}, NOW, local=["mine"])
    assert [(v.name, v.fate) for v in result] == [("v2", "keep")]
    assert "no longer lists it; what is here is kept" in result[0].words


def test_a_tag_is_removed_when_two_runs_did_not_find_it() -> None:
    (first,) = lost_tags(["v1", "v2"], ["v1"], {}, NOW, policy="remove")
    assert (first.fate, first.since, first.at) == ("wait", NOW, None)
    (then,) = lost_tags(["v1", "v2"], ["v1"], {"v2": NOW}, NOW + 90, policy="remove")
    assert (then.fate, then.since, then.at) == ("remove", NOW, NOW + 90)
    (back,) = lost_tags(["v1", "v2"], ["v2"], {"v2": NOW}, NOW + 90, policy="remove")
    assert (back.name, back.fate) == ("v1", "wait")


def test_a_list_without_a_tag_removes_nothing() -> None:
    (result,) = lost_tags(["v2"], [], {"v2": NOW}, NOW + 90, policy="remove")
    assert result.fate == "keep"
    assert "nothing is removed on such a list" in result.words


def test_the_matrix_is_whole() -> None:
    assert set(MATRIX) == set(Flow)
    assert direction_of(Flow.LOCAL_PUSH, "ReadOnly") == Direction.REFUSED
    assert direction_of(Flow.LOCAL_PUSH, "ReadWrite") == Direction.UP
    assert direction_of(Flow.LEFT_SCOPE, "ReadOnly") == Direction.REMOVED
    assert markdown().count("\n") == len(Flow) + 1
