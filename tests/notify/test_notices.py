"""What a parent takes of a child's notices: once, of the registries below it, and in bounds."""

from __future__ import annotations

from typing import Any

import pytest
from holdfast.control.command import Activate, CommandResult, DeleteRegistry, Receive, TakeNotices
from holdfast.control.execute import Context, execute
from holdfast.errors import ControlConflict, ControlInvalid, ControlUnknown
from holdfast.resources.model import Identity, RegistryConfiguration
from holdfast.resources.notification import Event, Notice
from holdfast_core.record import EventRecord
from support.control import NOW, Plane, registry

DIGEST = f"sha256:{'a' * 64}"
LOG = "0123456789abcdef" * 2


def notice(number: int, where: str = "plantA", **more: Any) -> Notice:
    """A push in a connected registry."""
    fields = {
        "id": f"{where}/{LOG}-{number}",
        "at": 5.0,
        "verb": "push",
        "repository": "team/app",
        "digest": DIGEST,
        "tag": f"v{number}",
        "media_type": "application/vnd.oci.image.manifest.v1+json",
        "size": 7,
    }
    return Notice(number=number, event=Event(**{**fields, **more}), registry=where)


class Parent:
    """A root with plantA, plantB below it, and plantC beside; plantA's instance is active."""

    def __init__(self) -> None:
        self.plane = Plane()
        self.log: list[EventRecord] = []
        for name, parent in (("plantA", None), ("plantB", "plantA"), ("plantC", None)):
            self.plane.do(registry(name, parent=parent))
        self.plane.do(Activate(name="plantA", instance="one", lease_seconds=60.0))

    def take(self, *notices: Notice, **more: Any) -> CommandResult:
        """plantA tells; what the event log would have is kept."""
        fields = {"name": "plantA", "instance": "one", "generation": 1, "log": LOG, "notices": notices}
        order = TakeNotices(**{**fields, **more})
        outcome = execute(self.plane.view, order, Context(self.plane.now, self.plane.limits))
        self.plane.view.apply(outcome.changes)
        self.log += outcome.events
        return outcome.result

    @property
    def tags(self) -> list[str]:
        return [row.tag for row in self.log]


def test_a_notice_becomes_an_event_of_the_registry_where_it_happened() -> None:
    parent = Parent()
    assert parent.take(notice(3), notice(9, "PLANTB", id="plantb/x-1")).number == 9
    first, second = parent.log
    assert first == EventRecord(
        "push",
        "tag",
        "team/app",
        NOW,
        "v3",
        DIGEST,
        "application/vnd.oci.image.manifest.v1+json",
        7,
        registry="plantA",
        id=f"plantA/{LOG}-3",
        happened=5.0,
    )
    assert second.registry == "plantB"
    parent.take(notice(10, tag="", verb="delete"))
    assert (parent.log[2].verb, parent.log[2].kind) == ("delete", "manifest")
    parent.take(notice(11, tag="", verb="delete", digest=""))
    assert (parent.log[3].verb, parent.log[3].kind) == ("delete", "repository")


def test_what_was_taken_is_taken_once() -> None:
    parent = Parent()
    parent.take(notice(1), notice(2))
    again = parent.take(notice(1), notice(2), notice(3))
    assert (again.number, parent.tags) == (3, ["v1", "v2", "v3"])
    late = parent.take(notice(2))
    assert (late.number, late.changed, parent.tags) == (3, False, ["v1", "v2", "v3"])
    assert parent.take().number == 3


def test_another_log_begins_at_its_own_numbers() -> None:
    parent = Parent()
    parent.take(notice(100))
    assert parent.take(notice(1), log="f" * 32).number == 1
    assert parent.tags == ["v100", "v1"]


def test_s51_a_child_speaks_for_itself_and_those_below_alone() -> None:
    parent = Parent()
    forged = [
        notice(1, "plantC"),
        notice(2, "nobody"),
        notice(3, ""),
        notice(4, repository="other/app"),
        notice(5, id=f"plantC/{LOG}-5"),
        notice(6, id=f"{LOG}-6"),
    ]
    result = parent.take(*forged, notice(7))
    assert (result.refused, result.number, parent.tags) == (6, 7, ["v7"])  # they hold up nothing behind them


def test_s51_who_is_not_the_active_instance_tells_nothing() -> None:
    parent = Parent()
    for who in ({"instance": "two"}, {"generation": 2}):
        with pytest.raises(ControlConflict, match="ALREADY_ACTIVATED"):
            parent.take(notice(1), **who)
    with pytest.raises(ControlConflict, match="not active"):
        parent.take(notice(1, "plantC"), name="plantC")
    with pytest.raises(ControlConflict, match="the parent of the connected registry plantB is plantA"):
        parent.take(notice(1, "plantB"), name="plantB")
    with pytest.raises(ControlUnknown):
        parent.take(notice(1), name="nobody")
    assert not parent.log


WRONG: list[tuple[dict[str, Any], str]] = [
    ({"id": ""}, r"notices\[0\].event.id"),
    ({"id": "plantA/" + "x" * 160}, r"event.id"),
    ({"id": "plantA/\n"}, r"event.id"),
    ({"at": float("inf")}, r"event.at"),
    ({"at": -1.0}, r"event.at"),
    ({"at": 1e15}, r"event.at"),
    ({"repository": "Team/App"}, r"event.repository: found 'Team/App'; allowed: a repository"),
    ({"repository": "x:team/app"}, r"event.repository"),
    ({"tag": "a b"}, r"event.tag"),
    ({"digest": "sha256:0"}, r"event.digest"),
    ({"digest": ""}, r"event.digest"),
    ({"digest": "", "verb": "delete"}, r"event.digest"),
    ({"digest": "", "tag": ""}, r"event.digest"),
    ({"media_type": "x" * 256}, r"event.mediaType"),
    ({"media_type": "é"}, r"event.mediaType"),
    ({"size": -1}, r"event.size"),
    ({"size": 1 << 63}, r"event.size"),
]


@pytest.mark.parametrize(("fields", "words"), WRONG)
def test_s51_a_notice_that_cannot_be_is_refused_with_all_of_them(fields: dict[str, Any], words: str) -> None:
    parent = Parent()
    with pytest.raises(ControlInvalid, match=words):
        parent.take(notice(1, **fields), notice(2))
    assert not parent.log
    assert parent.take(notice(2)).number == 2


@pytest.mark.parametrize("numbers", [(0,), (-1,), (2, 2), (2, 1), (1 << 63,)])
def test_numbers_rise(numbers: tuple[int, ...]) -> None:
    with pytest.raises(ControlInvalid, match=r"notices\[.\].number"):
        Parent().take(*(notice(number) for number in numbers))


@pytest.mark.parametrize("log", ["", "x" * 65, "a b", "../x"])
def test_a_log_has_an_id(log: str) -> None:
    with pytest.raises(ControlInvalid, match=r"^log: found"):
        Parent().take(notice(1), log=log)


def test_a_registry_that_is_deleted_takes_its_count_with_it() -> None:
    parent = Parent()
    parent.take(notice(5))
    parent.plane.do(DeleteRegistry(name="plantB"))
    parent.plane.do(DeleteRegistry(name="plantA"))
    assert not parent.plane.view.count("notices")


def test_a_managed_node_forgets_the_count_of_who_is_not_below_it_any_more() -> None:
    parent = Parent()
    parent.take(notice(5))
    tree = parent.plane
    own, kept = tree.registry("plantC"), tree.registry("plantA")
    scope, token = tree.scope("plantC"), tree.token("plantC")
    identity = Identity(name="plantC", instance="x")
    for below, count in (((kept,), 1), ((), 0)):
        moved = tuple(_below(one, own.name) for one in below)
        received = RegistryConfiguration(
            registry=own,
            below=moved,
            tokens=(token, *(tree.token("plantA") for _ in below)),
            scope_maps=(scope, *(tree.scope("plantA") for _ in below)),
        )
        tree.do(Receive(identity=identity, configuration=received))
        assert tree.view.count("notices") == count


def _below(one: Any, parent: str) -> Any:
    from msgspec.structs import replace

    return replace(one, parent=replace(one.parent, id=f"/connectedRegistries/{parent}"))
