"""A webhook over a real event log: in order, at least once, and never for ever at one event."""

from __future__ import annotations

import asyncio
import json
from collections import deque
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest
import structlog
from holdfast.config import Webhook as Hook
from holdfast.notify.progress import LAG_SECONDS, pending, standing_of
from holdfast.notify.standing import REFUSALS, Answer
from holdfast.notify.webhook import PAGE, Webhook
from holdfast.sync.notification import Event, body_of
from holdfast.testing.clock import FakeClock
from holdfast_core.record import Event as Row
from holdfast_core.store import Store
from support.stores import MEDIA, push

TAKEN, AWAY, ERRED = Answer(204, "answered 204"), Answer(0, "no answer"), Answer(503, "answered 503")
REFUSED = Answer(400, "answered 400")


class Scripted:
    """A receiver that answers what the test says, `otherwise` without a word."""

    def __init__(self) -> None:
        self.script, self.otherwise = deque[Answer](), TAKEN
        self.bodies: list[bytes] = []

    async def post(self, body: bytes) -> Answer:
        self.bodies.append(body)
        return self.script.popleft() if self.script else self.otherwise

    @property
    def events(self) -> list[dict[str, Any]]:
        return [json.loads(body) for body in self.bodies]

    @property
    def tags(self) -> list[str]:
        """The tags that were told, each time they were."""
        return [event["data"]["target"].get("tag", "") for event in self.events]


class World:
    """One store whose log is kept, a clock, a receiver, and keepers that come and go."""

    def __init__(self, path: Path) -> None:
        self.store = Store.create_or_open(path / "store", write=True)
        self.store.keep_events(True).result()
        self.clock, self.receiver = FakeClock(), Scripted()
        self.own = ""

    async def keeper(self, **keys: Any) -> Webhook:
        """Another keeper's webhook, taken up."""
        hook = Hook(name="ci", url="https://hook.example/", **keys)
        made = Webhook(hook, self.store, self.receiver, self.own, "registry.example", self.clock)
        await made.take_up()
        return made

    def push(self, tag: str, repository: str = "team/app") -> str:
        """A push of a manifest of its own; its digest."""
        return str(push(self.store, repository, tag.encode(), *([tag] if tag else []), now=self.clock.now()))

    def relay(self, tag: str, registry: str) -> None:
        """An event that came up from below."""
        row = Row(
            "push",
            "tag",
            "team/app",
            self.clock.now(),
            tag,
            f"sha256:{'a' * 64}",
            registry=registry,
            id=f"{registry}/feed-7",
            happened=1_700_000_000.0,
        )
        self.store.change_resources(lambda view: [], quiet=frozenset(), told=lambda: [row]).result()


def run(path: Path, test: Callable[[World], Coroutine[Any, Any, None]]) -> None:
    """Run a test in a world of its own."""
    world = World(path)
    try:
        asyncio.run(test(world))
    finally:
        world.store.close()


async def all_of(hook: Webhook) -> None:
    """Step until there is nothing to do now."""
    while await hook.step():
        pass


def test_events_are_told_in_order_with_the_originals_body(tmp_path: Path) -> None:
    async def test(world: World) -> None:
        world.push("before")
        hook = await world.keeper()
        digest = world.push("v1")
        world.push("v2", "other")
        await all_of(hook)
        head = world.store.event_head()
        assert head is not None
        size = len(b"v1")
        event = Event(f"{head.log}-2", world.clock.now(), "push", "team/app", digest, "v1", MEDIA, size)
        assert world.receiver.bodies[0] == body_of(event, "", "/")
        first = world.receiver.events[0]
        assert first["eventType"] == "Microsoft.ContainerRegistry.ImagePushed"
        assert first["subject"] == "team/app:v1"
        assert first["data"]["target"] == {
            "mediaType": MEDIA,
            "size": size,
            "digest": digest,
            "length": size,
            "repository": "team/app",
            "tag": "v1",
        }
        assert "connectedregistry" not in first["data"]
        assert world.receiver.tags == ["v1", "v2"]  # what was there before the webhook is not told
        found = standing_of(world.store, "ci")
        assert found is not None
        assert (found.number, found.delivered, found.answer) == (3, 2, "answered 204")

    run(tmp_path, test)


def test_only_what_the_patterns_name_is_told(tmp_path: Path) -> None:
    async def test(world: World) -> None:
        hook = await world.keeper(patterns=("team/*:push", "*@*:delete"))
        digest = world.push("v1")
        world.push("v2", "other")
        assert pending(world.store, hook.hook, hook.standing, 100) == 1
        world.store.delete_tag("team/app", "v1", now=1.0, tombstone=False).result()
        world.push("v3")
        world.store.delete_manifest("other", _digest(b"v2"), now=1.0, tombstone=False).result()
        await all_of(hook)
        told = [(event["data"]["action"], event["subject"]) for event in world.receiver.events]
        assert told == [
            ("push", "team/app:v1"),
            ("push", "team/app:v3"),
            ("delete", f"other@{_digest(b'v2')}"),
        ]
        assert digest
        assert pending(world.store, hook.hook, hook.standing, 100) == 0
        assert hook.standing.number == 6

    run(tmp_path, test)


def _digest(body: bytes) -> Any:
    from holdfast_core import Digest

    return Digest.of(body)


def test_a_repository_that_goes_is_told_without_a_digest(tmp_path: Path) -> None:
    async def test(world: World) -> None:
        world.push("v1")
        hook = await world.keeper(patterns=("team/app:delete",))
        row = Row("delete", "repository", "team/app", 1.0)
        world.store.change_resources(lambda view: [], quiet=frozenset(), told=lambda: [row]).result()
        await all_of(hook)
        (event,) = world.receiver.events
        assert event["eventType"] == "Microsoft.ContainerRegistry.ImageDeleted"
        assert event["subject"] == "team/app"
        assert event["data"]["target"] == {"repository": "team/app"}

    run(tmp_path, test)


def test_what_happened_below_keeps_its_id_its_time_and_its_place(tmp_path: Path) -> None:
    async def test(world: World) -> None:
        hook = await world.keeper()
        world.relay("v1", "plantB")
        await all_of(hook)
        (event,) = world.receiver.events
        assert event["id"] == "plantB/feed-7"
        assert event["eventTime"] == "2023-11-14T22:13:20Z"
        assert event["topic"] == "/connectedRegistries/plantB"
        assert event["data"]["connectedregistry"] == {"name": "plantB"}

    run(tmp_path, test)


def test_a_connected_registry_tells_its_own_name(tmp_path: Path) -> None:
    async def test(world: World) -> None:
        world.own = "plantA"
        hook = await world.keeper()
        world.push("v1")
        await all_of(hook)
        (event,) = world.receiver.events
        assert event["topic"] == "/connectedRegistries/plantA"
        assert event["data"]["connectedregistry"] == {"name": "plantA"}
        assert event["id"].startswith("plantA/")

    run(tmp_path, test)


def test_the_originals_registry_webhooks_have_another_body(tmp_path: Path) -> None:
    async def test(world: World) -> None:
        hook = await world.keeper(format="acr")
        digest = world.push("v1")
        await all_of(hook)
        (event,) = world.receiver.events
        assert event["action"] == "push"
        assert event["target"]["digest"] == digest
        assert event["request"] == {
            "id": event["id"],
            "host": "registry.example",
            "method": "PUT",
            "useragent": "",
        }

    run(tmp_path, test)


def test_a_receiver_that_is_away_gets_all_of_it_later_in_order_and_the_same_bytes(tmp_path: Path) -> None:
    async def test(world: World) -> None:
        hook = await world.keeper()
        for tag in ("v1", "v2", "v3"):
            world.push(tag)
        world.receiver.script.extend([AWAY, ERRED, AWAY])
        pauses = []
        while world.receiver.script:
            assert await hook.step()
            assert not await hook.step()  # not before its time
            assert hook.standing.failures
            pauses.append(hook.standing.retry_at - world.clock.now())
            world.clock.advance(pauses[-1])
        assert pauses == [5.0, 10.0, 20.0]
        assert hook.standing.failing_since
        await all_of(hook)
        assert world.receiver.tags == ["v1"] * 4 + ["v2", "v3"]
        assert len(set(world.receiver.bodies[:4])) == 1
        assert (hook.standing.failures, hook.standing.failing_since) == (0, 0.0)

    run(tmp_path, test)


def test_pauses_spread_and_end_at_a_ceiling_and_retry_after_counts(tmp_path: Path) -> None:
    async def test(world: World) -> None:
        world.clock = FakeClock(share=0.0)
        hook = await world.keeper()
        world.push("v1")
        world.receiver.otherwise = ERRED
        pauses = []
        for _ in range(12):
            await hook.step()
            pauses.append(hook.standing.retry_at - world.clock.now())
            world.clock.advance(pauses[-1])
        assert pauses[:4] == [2.5, 5.0, 10.0, 20.0]
        assert pauses[-1] == 450.0
        world.receiver.otherwise = Answer(429, "answered 429", 1234.0)
        await hook.step()
        assert hook.standing.retry_at - world.clock.now() == 1234.0

    run(tmp_path, test)


def test_what_was_told_before_a_kill_is_told_again_and_nothing_is_lost(tmp_path: Path) -> None:
    async def test(world: World) -> None:
        first = await world.keeper()
        for tag in ("v1", "v2"):
            world.push(tag)
        kept = first._keep

        async def killed() -> None:
            raise asyncio.CancelledError

        first._keep = killed  # type: ignore[method-assign]
        task = asyncio.ensure_future(first.step())
        await asyncio.wait([task])
        assert task.cancelled()
        assert kept is not first._keep
        await all_of(await world.keeper())
        assert world.receiver.tags == ["v1", "v1", "v2"]
        assert world.receiver.bodies[0] == world.receiver.bodies[1]
        await all_of(await world.keeper())
        assert len(world.receiver.bodies) == 3

    run(tmp_path, test)


def test_the_next_keeper_knows_how_often_it_failed(tmp_path: Path) -> None:
    async def test(world: World) -> None:
        world.push("v0")
        hook = await world.keeper()
        world.push("v1")
        world.receiver.otherwise = AWAY
        await hook.step()
        again = await world.keeper()
        assert again.standing == hook.standing
        assert not await again.step()

    run(tmp_path, test)


def test_an_event_that_is_refused_for_what_it_says_is_given_up_and_told(tmp_path: Path) -> None:
    async def test(world: World) -> None:
        hook = await world.keeper()
        for tag in ("poison", "good"):
            world.push(tag)
        world.receiver.script.extend([REFUSED] * REFUSALS)
        with structlog.testing.capture_logs() as logs:
            for _ in range(REFUSALS):
                assert await hook.step()
                world.clock.advance(1000.0)
            await all_of(hook)
        assert world.receiver.tags == ["poison"] * REFUSALS + ["good"]
        found = standing_of(world.store, "ci")
        assert found is not None
        assert (found.dropped, found.delivered, found.refusals) == (1, 1, 0)
        assert found.dropped_for == f"the receiver refused it {REFUSALS} times (answered 400)"
        (told,) = [line for line in logs if line["event"] == "events dropped"]
        assert told["last"] == world.receiver.events[0]["id"]
        assert "hook.example" not in json.dumps(logs)

    run(tmp_path, test)


def test_a_receiver_that_lets_nobody_in_is_no_reason_to_give_up(tmp_path: Path) -> None:
    """401, 403, 404 and 410 are about the receiver: the next event would fare no better."""

    async def test(world: World) -> None:
        hook = await world.keeper()
        world.push("v1")
        for status in (301, 401, 403, 404, 405, 410) * 5:
            world.receiver.script.append(Answer(status, f"answered {status}"))
            await hook.step()
            world.clock.advance(1000.0)
        assert (hook.standing.dropped, hook.standing.failures) == (0, 30)
        await all_of(hook)
        assert world.receiver.tags[-1] == "v1"

    run(tmp_path, test)


def test_what_is_too_old_is_given_up_after_a_last_try_and_the_rest_is_kept(tmp_path: Path) -> None:
    async def test(world: World) -> None:
        hook = await world.keeper(keep=3600)
        for number in range(50):
            world.push(f"old{number}")
        world.receiver.otherwise = AWAY
        await hook.step()
        world.clock.advance(3000.0)
        world.push("young")
        world.clock.advance(601.0)
        with structlog.testing.capture_logs() as logs:
            await hook.step()
        assert len(world.receiver.bodies) == 2  # one last try, not one for each
        assert hook.standing.dropped == 50
        assert "took nothing until it was 3600 s old (no answer)" in hook.standing.dropped_for
        (told,) = [line for line in logs if line["event"] == "events dropped"]
        assert told["events"] == 50
        world.receiver.otherwise = TAKEN
        world.clock.advance(1000.0)
        await all_of(hook)
        assert world.receiver.tags[2:] == ["young"]

    run(tmp_path, test)


def test_a_clock_that_jumps_ahead_loses_nothing(tmp_path: Path) -> None:
    async def test(world: World) -> None:
        hook = await world.keeper(keep=3600)
        world.push("v1")
        world.clock.step(50 * 365 * 86400.0)
        await all_of(hook)
        assert world.receiver.tags == ["v1"]
        world.receiver.script.append(ERRED)
        world.push("v2")
        await hook.step()
        world.clock.step(-365 * 86400.0)
        await all_of(hook)  # set back behind the failure: tried at once
        assert world.receiver.tags == ["v1", "v2", "v2"]

    run(tmp_path, test)


def test_what_the_log_no_longer_holds_is_told_as_lost(tmp_path: Path) -> None:
    async def test(world: World) -> None:
        hook = await world.keeper()
        world.receiver.otherwise = AWAY
        world.push("v1")
        await hook.step()
        world.push("v2")
        world.push("v3")
        world.store.trim_events(before=0.0, keep=1).result()
        world.receiver.otherwise = TAKEN
        world.clock.advance(1000.0)
        with structlog.testing.capture_logs() as logs:
            again = await world.keeper()
            await all_of(again)
        assert world.receiver.tags == ["v1", "v3"]
        (told,) = [line for line in logs if line["event"] == "events dropped"]
        assert (told["after"], told["upto"]) == (0, 2)
        assert again.standing.dropped == 1

    run(tmp_path, test)


def test_what_was_told_may_go_from_the_log(tmp_path: Path) -> None:
    async def test(world: World) -> None:
        hook = await world.keeper()
        world.push("v1")
        await all_of(hook)
        world.store.trim_events(before=0.0, keep=0).result()
        world.push("v2")
        await all_of(hook)
        assert (world.receiver.tags, hook.standing.dropped) == (["v1", "v2"], 0)

    run(tmp_path, test)


def test_a_log_that_is_begun_anew_is_followed_from_its_beginning(tmp_path: Path) -> None:
    async def test(world: World) -> None:
        hook = await world.keeper()
        world.push("v1")
        await all_of(hook)
        world.store.keep_events(False).result()
        world.push("unseen")
        assert not await hook.step()
        world.store.keep_events(True).result()
        world.push("v2")
        with structlog.testing.capture_logs() as logs:
            await all_of(hook)
        assert world.receiver.tags == ["v1", "v2"]
        assert [line["event"] for line in logs] == ["event log begun anew"]

    run(tmp_path, test)


def test_a_record_that_cannot_be_read_begins_with_what_happens_now(tmp_path: Path) -> None:
    async def test(world: World) -> None:
        from holdfast_core.record import ResourceChange

        change = ResourceChange("webhook", "ci", b"\xc1")
        world.store.change_resources(lambda view: [change], quiet=frozenset({"webhook"})).result()
        world.push("v1")
        hook = await world.keeper()
        world.push("v2")
        await all_of(hook)
        assert world.receiver.tags == ["v2"]

    run(tmp_path, test)


def test_case_fault_11_what_nobody_wants_is_passed_without_a_write(tmp_path: Path) -> None:
    """It is written with what is told, or once it is an hour old."""

    async def test(world: World) -> None:
        hook = await world.keeper(patterns=("other:*",))
        for number in range(450):
            world.push(f"v{number}")
        before = world.store.statistics().committed
        await all_of(hook)
        assert not world.receiver.bodies
        assert hook.standing.number == 450
        assert world.store.statistics().committed == before
        world.clock.advance(LAG_SECONDS)
        await all_of(hook)
        assert world.store.statistics().committed == before + 1
        held = standing_of(world.store, "ci")
        assert held is not None
        assert held.number == 450
        await all_of(hook)
        assert world.store.statistics().committed == before + 1
        world.push("v1", "other")
        await all_of(hook)
        assert world.store.statistics().committed == before + 3  # the push, and that it was told

    run(tmp_path, test)


def test_case_fault_11_much_that_nobody_wants_is_written_before_an_hour(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("holdfast.notify.progress.LAG_EVENTS", 20)

    async def test(world: World) -> None:
        hook = await world.keeper(patterns=("other:*",))
        before = world.store.statistics().committed
        for number in range(41):
            world.push(f"v{number}")
            await all_of(hook)
        assert world.store.statistics().committed == before + 41 + 2

    run(tmp_path, test)


def test_case_fault_11_a_webhook_with_nothing_to_tell_writes_nothing(tmp_path: Path) -> None:
    """A day of looks, as often as it looks."""

    async def test(world: World) -> None:
        hook = await world.keeper()
        world.push("v1")
        await all_of(hook)
        before, length = world.store.statistics(), 24 * 3600
        for _ in range(1000):
            world.clock.advance(length / 1000)
            await all_of(hook)
        now = world.store.statistics()
        assert (now.committed, now.journal_bytes) == (before.committed, before.journal_bytes)

    run(tmp_path, test)


def test_a_long_log_is_given_up_page_by_page(tmp_path: Path) -> None:
    """Others have their turn in between."""

    async def test(world: World) -> None:
        hook = await world.keeper(keep=3600)
        for number in range(3 * PAGE):
            world.push(f"old{number}")
        world.receiver.otherwise = AWAY
        world.clock.advance(3601.0)
        before = len(world.clock.slept)
        await hook.step()
        assert hook.standing.dropped == 3 * PAGE
        assert len(world.clock.slept) - before == 4

    run(tmp_path, test)
