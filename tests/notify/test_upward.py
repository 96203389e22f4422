"""A connected registry tells its parent: what the list names, in batches, once, and only when it may speak."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Coroutine
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, cast

import msgspec
import pytest
import structlog
from holdfast.config import Configuration, Gateway
from holdfast.control.resource import (
    REGISTRY,
    ConnectedRegistry,
    ParentProperties,
    SyncProperties,
)
from holdfast.gateway.child import CutLoose, Denied, Failed, Outcome
from holdfast.gateway.environment import joined
from holdfast.gateway.link import Link, NoticesRefused
from holdfast.gateway.message import Notice, Notices, Taken
from holdfast.gateway.rounds import Rounds
from holdfast.notify.progress import Sent, sent_of
from holdfast.notify.upward import PAGE, ROW, Upward
from holdfast.testing.clock import FakeClock
from holdfast_core.digest import Digest
from holdfast_core.record import Event as Row
from holdfast_core.record import ResourceChange
from holdfast_core.store import Store
from msgspec.structs import replace
from support.stores import push


class Parent:
    """The link to a parent that takes everything once, unless the test says otherwise."""

    def __init__(self) -> None:
        self.script: deque[Outcome] = deque()
        self.asked: list[Notices] = []
        self.taken: list[Notice] = []
        #: the answers to so many are lost after they were taken
        self.mute = 0
        #: tags of events that it does not understand: it refuses the whole order
        self.foreign: set[str] = set()
        #: it understands no order at all; or none with a notice
        self.understands_order = self.understands_notices = True

    async def notices(self, said: Notices) -> Taken | NoticesRefused | Outcome:
        self.asked.append(said)
        if self.script:
            return self.script.popleft()
        is_strange = not self.understands_order or (said.notices and not self.understands_notices)
        if is_strange or any(notice.event.tag in self.foreign for notice in said.notices):
            return NoticesRefused("the parent answered 400: the body is not as it must be")
        last = self.taken[-1].number if self.taken else 0
        self.taken += [notice for notice in said.notices if notice.number > last]
        if self.mute:
            self.mute -= 1
            return Failed("no answer from the parent within 10 s")
        return Taken(said.log, max([last, *(notice.number for notice in said.notices)]))

    async def close(self) -> None: ...

    @property
    def tags(self) -> list[str]:
        """The tags that were taken."""
        return [notice.event.tag for notice in self.taken]


class World:
    """A connected registry plantA: its store, its parent, its keepers."""

    def __init__(self, path: Path) -> None:
        self.store = Store.create_or_open(path / "store", write=True)
        self.store.keep_events(True).result()
        self.clock, self.parent = FakeClock(), Parent()
        self.standing: tuple[str, int] | None = ("one", 3)
        self.list("*:*")

    def list(self, *patterns: str) -> None:
        """The operator's notificationsList arrives."""
        sync = SyncProperties(token_id="/tokens/plantA")
        found = ConnectedRegistry(
            name="plantA",
            mode="ReadWrite",
            parent=ParentProperties(sync_properties=sync),
            notifications_list=patterns,
        )
        change = ResourceChange(REGISTRY, "plantA", msgspec.json.encode(found))
        self.store.change_resources(lambda view: [change], quiet=frozenset()).result()

    def keeper(self) -> Upward:
        """Another keeper's."""
        link = cast(Link, self.parent)
        return Upward(self.store, "plantA", link, lambda: self.standing, self.clock)

    def push(self, *tags: str, repository: str = "team/app") -> None:
        for tag in tags:
            push(self.store, repository, tag.encode(), tag, now=self.clock.now())

    def relay(self, tag: str) -> None:
        """A notice of plantB, below, was taken."""
        row = Row(
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
        self.store.change_resources(lambda view: [], quiet=frozenset(), told=lambda: [row]).result()


def run(path: Path, test: Callable[[World], Coroutine[Any, Any, None]]) -> None:
    """Run a test in a world of its own."""
    world = World(path)
    try:
        asyncio.run(test(world))
    finally:
        world.store.close()


async def all_of(upward: Upward) -> None:
    """Step until there is nothing to do now."""
    while await upward.step():
        pass


def test_what_the_list_names_goes_up_with_the_originals_fields(tmp_path: Path) -> None:
    async def test(world: World) -> None:
        world.list("team/*:push")
        world.push("before")
        upward = world.keeper()
        await all_of(upward)
        world.push("v1")
        world.push("v2", repository="other")
        world.store.delete_manifest("team/app", Digest.of(b"v1"), now=1.0, tombstone=False).result()
        await all_of(upward)
        head = world.store.event_head()
        assert head is not None
        (said,) = world.parent.asked
        assert (said.instance, said.generation, said.log) == ("one", 3, head.log)
        (notice,) = said.notices
        assert (notice.number, notice.registry) == (2, "plantA")
        assert notice.event.id == f"plantA/{head.log}-2"
        assert (notice.event.verb, notice.event.repository, notice.event.tag) == ("push", "team/app", "v1")
        assert sent_of(world.store) == Sent(head.log, head.last)

    run(tmp_path, test)


def test_what_came_from_below_goes_up_whatever_the_list_says(tmp_path: Path) -> None:
    async def test(world: World) -> None:
        world.list()
        upward = world.keeper()
        await all_of(upward)
        world.push("own")
        world.relay("v1")
        await all_of(upward)
        (notice,) = world.parent.taken
        assert (notice.registry, notice.event.id, notice.event.at) == ("plantB", "plantB/feed-1", 7.0)

    run(tmp_path, test)


def test_what_is_of_another_parent_of_the_node_does_not(tmp_path: Path) -> None:
    async def test(world: World) -> None:
        upward = world.keeper()
        await all_of(upward)
        world.push("v1", repository="docker.io:library/alpine")
        world.push("v2")
        await all_of(upward)
        assert world.parent.tags == ["v2"]

    run(tmp_path, test)


def test_nothing_is_said_while_the_node_may_not_speak(tmp_path: Path) -> None:
    async def test(world: World) -> None:
        upward = world.keeper()
        await all_of(upward)
        world.standing = None
        world.push("v1", "v2")
        assert not await upward.step()
        assert not world.parent.asked
        world.standing = ("one", 4)
        await all_of(upward)
        assert world.parent.tags == ["v1", "v2"]
        assert world.parent.asked[0].generation == 4

    run(tmp_path, test)


def test_a_batch_whose_answer_was_lost_is_taken_once(tmp_path: Path) -> None:
    async def test(world: World) -> None:
        first = world.keeper()
        await all_of(first)
        world.push("v1", "v2")
        world.parent.mute = 1
        assert not await first.step()
        again = world.keeper()  # the first one was killed
        world.push("v3")
        await all_of(again)
        assert len(world.parent.asked) == 2
        assert world.parent.tags == ["v1", "v2", "v3"]

    run(tmp_path, test)


def test_failures_are_pauses_and_change_nothing(tmp_path: Path) -> None:
    async def test(world: World) -> None:
        upward = world.keeper()
        await all_of(upward)
        world.push("v1")
        world.parent.script.extend([Failed("away"), Denied("no right"), CutLoose(), Failed("busy", 60.0)])
        pauses = []
        with structlog.testing.capture_logs() as logs:
            while world.parent.script:
                assert not await upward.step()
                assert not await upward.step()
                assert len(upward.notes()) == 1
                pauses.append(upward._due - world.clock.monotonic())
                world.clock.advance(pauses[-1])
            await all_of(upward)
        assert pauses == [5.0, 10.0, 20.0, 60.0]
        assert [line["event"] for line in logs].count("notices not taken") == 4
        assert (world.parent.tags, upward.notes()) == (["v1"], [])

    run(tmp_path, test)


def test_case_fault_8_what_the_parent_will_never_take_holds_up_nothing_behind_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a parent of an older version does with a conflict. It is found by halves, said once, and left out; the others
    go in whole batches again."""
    page = 16
    monkeypatch.setattr("holdfast.notify.upward.PAGE", page)

    async def test(world: World) -> None:
        upward = world.keeper()
        await all_of(upward)
        tags = [f"v{number}" for number in range(3 * page)]
        world.push(*tags)
        world.parent.foreign = {"v0", "v13", f"v{3 * page - 1}"}
        with structlog.testing.capture_logs() as logs:
            await all_of(upward)
        assert world.parent.tags == [tag for tag in tags if tag not in world.parent.foreign]
        left_out = [line["tag"] for line in logs if line["event"] == "notice left out"]
        assert set(left_out) == world.parent.foreign
        assert len(left_out) == 3
        assert len(world.parent.asked) <= 3 * 2 * page.bit_length() + 3
        head = world.store.event_head()
        assert head is not None
        assert sent_of(world.store) == Sent(head.log, head.last)
        (note,) = upward.notes()
        assert "does not understand 3 of the notices" in note

    run(tmp_path, test)


@pytest.mark.parametrize(
    ("way", "events"),
    [
        *(("understands_order", events) for events in (1, ROW - 1, ROW, PAGE)),
        *(("understands_notices", events) for events in (ROW, PAGE)),
    ],
)
def test_case_fault_8_a_parent_that_refuses_every_order_loses_nothing(
    tmp_path: Path, way: str, events: int
) -> None:
    """Its words are those for one strange notice. Nothing is left out, it is left alone and said to be in trouble; once
    it understands, it gets all of them. Fewer than three of which it takes none are strange ones, if it takes an order
    without any."""

    async def test(world: World) -> None:
        upward = world.keeper()
        await all_of(upward)
        before = sent_of(world.store)
        tags = [f"v{number}" for number in range(events)]
        world.push(*tags)
        setattr(world.parent, way, False)
        for attempt in range(1, 5):
            world.parent.asked.clear()
            with structlog.testing.capture_logs() as logs:
                await all_of(upward)
            assert len(world.parent.asked) <= PAGE.bit_length() + ROW * 2**attempt
            assert "notice left out" not in [line["event"] for line in logs]
            assert [note for note in upward.notes() if "does not take notices" in note]
            assert sent_of(world.store) == before
            pause = upward._due - world.clock.monotonic()
            assert pause >= 5.0
            world.clock.advance(pause)
        setattr(world.parent, way, True)
        await all_of(upward)
        assert world.parent.tags == tags
        assert upward.notes() == []

    run(tmp_path, test)


def test_case_fault_8_many_strange_ones_in_a_row_hold_up_nothing_behind_them_for_long(tmp_path: Path) -> None:
    """As an older parent has it with the conflicts after an outage."""

    async def test(world: World) -> None:
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

    run(tmp_path, test)


def test_many_go_in_batches(tmp_path: Path) -> None:
    async def test(world: World) -> None:
        upward = world.keeper()
        await all_of(upward)
        tags = [f"v{number}" for number in range(2 * PAGE + 1)]
        world.push(*tags)
        await all_of(upward)
        assert [len(said.notices) for said in world.parent.asked] == [PAGE, PAGE, 1]
        assert world.parent.tags == tags

    run(tmp_path, test)


def test_what_the_log_lost_is_told_and_another_log_is_followed(tmp_path: Path) -> None:
    async def test(world: World) -> None:
        upward = world.keeper()
        await all_of(upward)
        world.standing = None
        world.push("v1", "v2")
        assert not await upward.step()
        world.store.trim_events(before=0.0, keep=1).result()
        world.standing = ("one", 3)
        with structlog.testing.capture_logs() as logs:
            await all_of(upward)
            world.store.keep_events(False).result()
            assert not await upward.step()
            world.store.keep_events(True).result()
            world.push("v3")
            await all_of(upward)
        assert [line["event"] for line in logs] == ["notices lost", "notices lost"]
        assert world.parent.tags == ["v2", "v3"]
        assert world.parent.asked[-1].log != world.parent.asked[0].log

    run(tmp_path, test)


def test_a_node_may_speak_while_it_is_active_and_its_schedule_is_open(tmp_path: Path) -> None:
    string = (
        "ConnectedRegistryName=plantA;SyncTokenName=plantA;SyncTokenPassword=abcdefghijklmnop;"
        "ParentGatewayEndpoint=127.0.0.1:9;ParentEndpointProtocol=http"
    )
    config = joined(Configuration(gateway=Gateway(connection_string=string)), {})
    store = Store.create_or_open(tmp_path / "store", write=True)

    async def control(_: bytes) -> bytes:
        raise AssertionError

    async def test() -> None:
        noon = datetime(2026, 11, 27, 12, 0, tzinfo=UTC).timestamp()
        clock = FakeClock(noon)
        rounds = Rounds(config, "plantA", store, control, list, clock)
        sync = SyncProperties(token_id="/tokens/plantA", schedule="0 12 * * *", sync_window="PT1H")
        assert rounds.standing() is None
        rounds.child.active, rounds.child.generation = True, 5
        assert rounds.standing() is None  # nothing is known yet of when it may
        rounds.child.sync = sync
        assert rounds.standing() == (rounds.identity.instance, 5)
        clock.step(3601.0)
        assert rounds.standing() is None
        rounds.child.sync = replace(sync, schedule="* * * * *")
        assert rounds.standing() == (rounds.identity.instance, 5)
        rounds.child.active = False
        assert rounds.standing() is None
        await rounds.close()

    asyncio.run(test())
    store.close()


def test_case_fault_11_with_nothing_to_tell_nothing_is_written(tmp_path: Path) -> None:
    """A day of looks at an empty log, and at one whose events the list does not name."""

    async def test(world: World) -> None:
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
        head = world.store.event_head()
        assert head is not None
        assert sent_of(world.store) == Sent(head.log, head.last)

    run(tmp_path, test)


@pytest.mark.parametrize("patterns", [(), ("team/*:push",), ("*:*",)])
def test_case_fault_8_a_conflict_goes_up_whatever_the_list_says(
    tmp_path: Path, patterns: tuple[str, ...]
) -> None:
    async def test(world: World) -> None:
        world.list(*patterns)
        upward = world.keeper()
        await all_of(upward)
        ours, theirs = (str(Digest.of(name)) for name in (b"ours", b"theirs"))
        row = Row("conflict", "tag", "team/app", 5.0, "v1", ours, theirs=theirs, winner="parent")
        world.store.change_resources(lambda view: [], quiet=frozenset(), told=lambda: [row]).result()
        await all_of(upward)
        (notice,) = world.parent.taken
        found = notice.event
        assert (found.verb, found.tag, found.digest, found.theirs, found.winner) == (
            "conflict",
            "v1",
            ours,
            theirs,
            "parent",
        )
        assert (notice.registry, found.id.startswith("plantA/")) == ("plantA", True)

    run(tmp_path, test)
