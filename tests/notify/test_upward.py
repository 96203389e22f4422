"""A connected registry tells its parent: what the list names, in batches, once, and only when it may speak."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import cast

import msgspec
import pytest
from holdfast.gateway.agent_state import AccessRefused, Deactivated, NoAnswer, Outcome
from holdfast.gateway.gateway_client import GatewayClient, NoticesRefused
from holdfast.gateway.own_registry import OwnRegistry
from holdfast.gateway.protocol import Notices, Taken
from holdfast.notify.delivery_record import Sent, sent_of
from holdfast.notify.notices import PAGE, ROW, NoticeSender
from holdfast.resources.model import (
    REGISTRY,
    ConnectedRegistry,
    ParentProperties,
    SyncProperties,
)
from holdfast.resources.notification import Notice
from holdfast.testing.manual_clock import FakeClock
from holdfast_core.digest import Digest
from holdfast_core.record import EventRecord, ResourceChange
from holdfast_core.store import Store
from msgspec.structs import replace
from support.logs import captured_logs
from support.stores import push

pytestmark = pytest.mark.loop("asyncio")


class Parent:
    """The link to a parent that takes everything once, unless the test says otherwise."""

    def __init__(self) -> None:
        self.script: deque[Outcome] = deque()
        self.requests: list[Notices] = []
        self.taken: list[Notice] = []
        #: the answers to so many are lost after they were taken
        self.mute = 0
        #: tags of events that it does not understand: it refuses the whole order
        self.foreign: set[str] = set()
        #: it understands no order at all; or none with a notice
        self.understands_order = self.understands_notices = True

    async def notices(self, request: Notices) -> Taken | NoticesRefused | Outcome:
        self.requests.append(request)
        if self.script:
            return self.script.popleft()
        is_strange = not self.understands_order or (request.notices and not self.understands_notices)
        if is_strange or any(notice.event.tag in self.foreign for notice in request.notices):
            return NoticesRefused("the parent answered 400: the body is not as it must be")
        last = self.taken[-1].number if self.taken else 0
        self.taken += [notice for notice in request.notices if notice.number > last]
        if self.mute:
            self.mute -= 1
            return NoAnswer("no answer from the parent within 10 s")
        return Taken(request.log, max([last, *(notice.number for notice in request.notices)]))

    async def close(self) -> None: ...

    @property
    def tags(self) -> list[str]:
        """The tags that were taken."""
        return [notice.event.tag for notice in self.taken]


class World:
    """A connected registry plantA: its store, its parent, its keepers."""

    def __init__(self, path: Path) -> None:
        self.store = Store.create_or_open(path / "store", write=True)
        self.store.events.keep(True).result()
        self.clock, self.parent = FakeClock(), Parent()
        self.active: tuple[str, int] | None = ("one", 3)
        self.list("*:*")

    def list(self, *patterns: str) -> None:
        """The operator's notificationsList arrives."""
        sync = SyncProperties(token_id="/tokens/plantA")
        registry = ConnectedRegistry(
            name="plantA",
            mode="ReadWrite",
            parent=ParentProperties(sync_properties=sync),
            notifications_list=patterns,
        )
        change = ResourceChange(REGISTRY, "plantA", msgspec.json.encode(registry))
        self.store.documents.change(lambda view: [change], quiet=frozenset()).result()

    def keeper(self) -> NoticeSender:
        """Another keeper's."""
        link = cast(GatewayClient, self.parent)
        return NoticeSender(self.store, "plantA", link, lambda: self.active, self.clock)

    def push(self, *tags: str, repository: str = "team/app") -> None:
        for tag in tags:
            push(self.store, repository, tag.encode(), tag, now=self.clock.now())

    def relay(self, tag: str) -> None:
        """A notice of plantB, below, was taken."""
        row = EventRecord(
            "push",
            "tag",
            "team/app",
            self.clock.now(),
            tag,
            str(Digest.of(b"x")),
            registry="plantB",
            id="plantB/feed-1",
            happened=7.0,
        )
        self.store.documents.change(lambda view: [], quiet=frozenset(), events=lambda: [row]).result()


@contextmanager
def opened(path: Path) -> Iterator[World]:
    """A world of its own."""
    world = World(path)
    try:
        yield world
    finally:
        world.store.close()


async def all_of(upward: NoticeSender) -> None:
    """Step until there is nothing to do now."""
    while await upward.step():
        pass


async def test_what_the_list_names_goes_up_with_the_originals_fields(tmp_path: Path) -> None:
    with opened(tmp_path) as world:
        world.list("team/*:push")
        world.push("before")
        upward = world.keeper()
        await all_of(upward)
        world.push("v1")
        world.push("v2", repository="other")
        world.store.references.delete_manifest(
            "team/app", Digest.of(b"v1"), now=1.0, tombstone=False
        ).result()
        await all_of(upward)
        head = world.store.events.head()
        assert head is not None
        (request,) = world.parent.requests
        assert (request.instance, request.generation, request.log) == ("one", 3, head.log)
        (notice,) = request.notices
        assert (notice.number, notice.registry) == (2, "plantA")
        assert notice.event.id == f"plantA/{head.log}-2"
        assert (notice.event.verb, notice.event.repository, notice.event.tag) == ("push", "team/app", "v1")
        assert sent_of(world.store) == Sent(head.log, head.last)


async def test_what_came_from_below_goes_up_whatever_the_list_says(tmp_path: Path) -> None:
    with opened(tmp_path) as world:
        world.list()
        upward = world.keeper()
        await all_of(upward)
        world.push("own")
        world.relay("v1")
        await all_of(upward)
        (notice,) = world.parent.taken
        assert (notice.registry, notice.event.id, notice.event.at) == ("plantB", "plantB/feed-1", 7.0)


async def test_what_is_of_another_parent_of_the_node_does_not(tmp_path: Path) -> None:
    with opened(tmp_path) as world:
        upward = world.keeper()
        await all_of(upward)
        world.push("v1", repository="docker.io:library/alpine")
        world.push("v2")
        await all_of(upward)
        assert world.parent.tags == ["v2"]


async def test_nothing_is_said_while_the_node_may_not_speak(tmp_path: Path) -> None:
    with opened(tmp_path) as world:
        upward = world.keeper()
        await all_of(upward)
        world.active = None
        world.push("v1", "v2")
        assert not await upward.step()
        assert not world.parent.requests
        world.active = ("one", 4)
        await all_of(upward)
        assert world.parent.tags == ["v1", "v2"]
        assert world.parent.requests[0].generation == 4


async def test_a_batch_whose_answer_was_lost_is_taken_once(tmp_path: Path) -> None:
    with opened(tmp_path) as world:
        first = world.keeper()
        await all_of(first)
        world.push("v1", "v2")
        world.parent.mute = 1
        assert not await first.step()
        again = world.keeper()  # the first one was killed
        world.push("v3")
        await all_of(again)
        assert len(world.parent.requests) == 2
        assert world.parent.tags == ["v1", "v2", "v3"]


async def test_failures_are_pauses_and_change_nothing(tmp_path: Path) -> None:
    with opened(tmp_path) as world:
        upward = world.keeper()
        await all_of(upward)
        world.push("v1")
        world.parent.script.extend(
            [NoAnswer("away"), AccessRefused("no right"), Deactivated(), NoAnswer("busy", 60.0)]
        )
        pauses = []
        with captured_logs() as logs:
            while world.parent.script:
                assert not await upward.step()
                assert not await upward.step()
                assert len(upward.notes()) == 1
                pauses.append(upward._due - world.clock.monotonic())
                world.clock.advance(pauses[-1])
            await all_of(upward)
        assert pauses == [5.0, 10.0, 20.0, 60.0]
        assert [line["event"] for line in logs].count("notices not accepted") == 4
        assert (world.parent.tags, upward.notes()) == (["v1"], [])


async def test_case_fault_8_what_the_parent_will_never_take_holds_up_nothing_behind_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a parent of an older version does with a conflict. It is found by halving, logged once, and left out; the
    others go in whole batches again."""
    page = 16
    monkeypatch.setattr("holdfast.notify.notices.PAGE", page)
    with opened(tmp_path) as world:
        upward = world.keeper()
        await all_of(upward)
        tags = [f"v{number}" for number in range(3 * page)]
        world.push(*tags)
        world.parent.foreign = {"v0", "v13", f"v{3 * page - 1}"}
        with captured_logs() as logs:
            await all_of(upward)
        assert world.parent.tags == [tag for tag in tags if tag not in world.parent.foreign]
        left_out = [line["tag"] for line in logs if line["event"] == "notice left out"]
        assert set(left_out) == world.parent.foreign
        assert len(left_out) == 3
        assert len(world.parent.requests) <= 3 * 2 * page.bit_length() + 3
        head = world.store.events.head()
        assert head is not None
        assert sent_of(world.store) == Sent(head.log, head.last)
        (note,) = upward.notes()
        assert "does not understand 3 of the notices" in note


@pytest.mark.parametrize(
    ("way", "events"),
    [
        *(("understands_order", events) for events in (1, ROW - 1, ROW, PAGE)),
        *(("understands_notices", events) for events in (ROW, PAGE)),
    ],
)
async def test_case_fault_8_a_parent_that_refuses_every_order_loses_nothing(
    tmp_path: Path, way: str, events: int
) -> None:
    """It answers as for one strange notice. Nothing is left out, the sender pauses and the parent is reported as a
    trouble; once it understands, it gets all of them. Fewer than three of which it takes none are strange ones, if it
    takes an order without any."""
    with opened(tmp_path) as world:
        upward = world.keeper()
        await all_of(upward)
        before = sent_of(world.store)
        tags = [f"v{number}" for number in range(events)]
        world.push(*tags)
        setattr(world.parent, way, False)
        for attempt in range(1, 5):
            world.parent.requests.clear()
            with captured_logs() as logs:
                await all_of(upward)
            assert len(world.parent.requests) <= PAGE.bit_length() + ROW * 2**attempt
            assert "notice left out" not in [line["event"] for line in logs]
            assert [note for note in upward.notes() if "does not accept notices" in note]
            assert sent_of(world.store) == before
            pause = upward._due - world.clock.monotonic()
            assert pause >= 5.0
            world.clock.advance(pause)
        setattr(world.parent, way, True)
        await all_of(upward)
        assert world.parent.tags == tags
        assert upward.notes() == []


async def test_case_fault_8_many_strange_ones_in_a_row_hold_up_nothing_behind_them_for_long(
    tmp_path: Path,
) -> None:
    """As an older parent has it with the conflicts after an outage."""
    with opened(tmp_path) as world:
        upward = world.keeper()
        await all_of(upward)
        tags = [f"v{number}" for number in range(21)]
        world.push(*tags)
        world.parent.foreign = set(tags[:-1])
        pauses = 0
        while not world.parent.tags:
            await all_of(upward)
            pauses += upward._due > world.clock.monotonic()
            world.clock.advance(max(0.0, upward._due - world.clock.monotonic()))
        assert (world.parent.tags, pauses) == (tags[-1:], 3)  # after 3, 6 and 12
        (note,) = upward.notes()
        assert "does not understand 20 of the notices" in note


async def test_many_go_in_batches(tmp_path: Path) -> None:
    with opened(tmp_path) as world:
        upward = world.keeper()
        await all_of(upward)
        tags = [f"v{number}" for number in range(2 * PAGE + 1)]
        world.push(*tags)
        await all_of(upward)
        assert [len(request.notices) for request in world.parent.requests] == [PAGE, PAGE, 1]
        assert world.parent.tags == tags


async def test_what_the_log_lost_is_reported_and_another_log_is_followed(tmp_path: Path) -> None:
    with opened(tmp_path) as world:
        upward = world.keeper()
        await all_of(upward)
        world.active = None
        world.push("v1", "v2")
        assert not await upward.step()
        world.store.events.trim(before=0.0, keep=1).result()
        world.active = ("one", 3)
        with captured_logs() as logs:
            await all_of(upward)
            world.store.events.keep(False).result()
            assert not await upward.step()
            world.store.events.keep(True).result()
            world.push("v3")
            await all_of(upward)
        assert [line["event"] for line in logs] == ["notices lost", "notices lost"]
        assert world.parent.tags == ["v2", "v3"]
        assert world.parent.requests[-1].log != world.parent.requests[0].log


def test_a_node_may_speak_while_it_is_active_and_its_schedule_is_open() -> None:
    noon = datetime(2026, 11, 27, 12, 0, tzinfo=UTC).timestamp()
    clock = FakeClock(noon)
    own = OwnRegistry("plantA", 60.0, clock)
    sync = SyncProperties(token_id="/tokens/plantA", schedule="0 12 * * *", sync_window="PT1H")
    assert own.active_instance() is None
    own.state.active, own.state.generation = True, 5
    assert own.active_instance() is None  # nothing is known yet of when it may
    own.state.sync = sync
    assert own.active_instance() == (own.identity.instance, 5)
    clock.step(3601.0)
    assert own.active_instance() is None
    own.state.sync = replace(sync, schedule="* * * * *")
    assert own.active_instance() == (own.identity.instance, 5)
    own.state.active = False
    assert own.active_instance() is None


async def test_case_fault_11_with_nothing_to_tell_nothing_is_written(tmp_path: Path) -> None:
    """A day of looks at an empty log, and at one whose events the list does not name."""
    with opened(tmp_path) as world:
        world.list("other/*:push")
        upward = world.keeper()
        await all_of(upward)
        before_all = world.store.statistics().committed
        world.push("v1")
        await all_of(upward)
        assert world.store.statistics().committed == before_all + 1  # the push
        before = world.store.statistics()
        for _ in range(500):
            world.clock.advance(60.0)
            await all_of(upward)
        now = world.store.statistics()
        assert now.committed == before.committed + 1  # where it is, once that is an hour old
        head = world.store.events.head()
        assert head is not None
        assert sent_of(world.store) == Sent(head.log, head.last)


@pytest.mark.parametrize("patterns", [(), ("team/*:push",), ("*:*",)])
async def test_case_fault_8_a_conflict_goes_up_whatever_the_list_says(
    tmp_path: Path, patterns: tuple[str, ...]
) -> None:
    with opened(tmp_path) as world:
        world.list(*patterns)
        upward = world.keeper()
        await all_of(upward)
        ours, theirs = (str(Digest.of(name)) for name in (b"ours", b"theirs"))
        row = EventRecord("conflict", "tag", "team/app", 5.0, "v1", ours, theirs=theirs, winner="parent")
        world.store.documents.change(lambda view: [], quiet=frozenset(), events=lambda: [row]).result()
        await all_of(upward)
        (notice,) = world.parent.taken
        event = notice.event
        assert (event.verb, event.tag, event.digest, event.theirs, event.winner) == (
            "conflict",
            "v1",
            ours,
            theirs,
            "parent",
        )
        assert (notice.registry, event.id.startswith("plantA/")) == ("plantA", True)
