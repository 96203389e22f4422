"""A webhook over a real event log: in order, at least once, and never for ever at one event."""

from __future__ import annotations

import asyncio
import json
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from holdfast.config import WebhookSection as Hook
from holdfast.notify.delivery_record import LAG_SECONDS, delivery_state_of, pending
from holdfast.notify.delivery_state import REFUSALS, DeliveryOutcome
from holdfast.notify.webhook_delivery import PAGE, WebhookDelivery
from holdfast.resources.notification import Event, body_of
from holdfast.testing.manual_clock import FakeClock
from holdfast_core.record import EventRecord
from holdfast_core.store import Store
from support.logs import captured_logs
from support.stores import MEDIA, push

pytestmark = pytest.mark.loop("asyncio")

TAKEN, AWAY, ERRED = (
    DeliveryOutcome(204, "answered 204"),
    DeliveryOutcome(0, "no answer"),
    DeliveryOutcome(503, "answered 503"),
)
REFUSED = DeliveryOutcome(400, "answered 400")


class Scripted:
    """A receiver that answers what the test says, `otherwise` where it says nothing."""

    def __init__(self) -> None:
        self.script, self.otherwise = deque[DeliveryOutcome](), TAKEN
        self.bodies: list[bytes] = []

    async def post(self, body: bytes) -> DeliveryOutcome:
        self.bodies.append(body)
        return self.script.popleft() if self.script else self.otherwise

    @property
    def events(self) -> list[dict[str, Any]]:
        return [json.loads(body) for body in self.bodies]

    @property
    def tags(self) -> list[str]:
        """The tags that were delivered, once for each delivery."""
        return [event["data"]["target"].get("tag", "") for event in self.events]


class World:
    """One store whose log is kept, a clock, a receiver, and keepers that come and go."""

    def __init__(self, path: Path) -> None:
        self.store = Store.create_or_open(path / "store", write=True)
        self.store.events.keep(True).result()
        self.clock, self.receiver = FakeClock(), Scripted()
        self.own = ""

    async def keeper(self, **keys: Any) -> WebhookDelivery:
        """Another keeper's webhook, taken up."""
        hook = Hook(name="ci", url="https://hook.example/", **keys)
        made = WebhookDelivery(hook, self.store, self.receiver, self.own, "registry.example", self.clock)
        await made.take_up()
        return made

    def push(self, tag: str, repository: str = "team/app") -> str:
        """A push of a manifest of its own; its digest."""
        return str(push(self.store, repository, tag.encode(), *([tag] if tag else []), now=self.clock.now()))

    def relay(self, tag: str, registry: str) -> None:
        """An event that came up from below."""
        row = EventRecord(
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
        self.store.documents.change(lambda view: [], quiet=frozenset(), events=lambda: [row]).result()


@contextmanager
def opened(path: Path) -> Iterator[World]:
    """A world of its own."""
    world = World(path)
    try:
        yield world
    finally:
        world.store.close()


async def all_of(hook: WebhookDelivery) -> None:
    """Step until there is nothing to do now."""
    while await hook.step():
        pass


async def test_events_are_delivered_in_order_with_the_originals_body(tmp_path: Path) -> None:
    with opened(tmp_path) as world:
        world.push("before")
        hook = await world.keeper()
        digest = world.push("v1")
        world.push("v2", "other")
        await all_of(hook)
        head = world.store.events.head()
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
        assert world.receiver.tags == ["v1", "v2"]  # what was there before the webhook is not delivered
        state = delivery_state_of(world.store, "ci")
        assert state is not None
        assert (state.number, state.delivered, state.answer) == (3, 2, "answered 204")


async def test_only_what_the_patterns_name_is_delivered(tmp_path: Path) -> None:
    with opened(tmp_path) as world:
        hook = await world.keeper(patterns=("team/*:push", "*@*:delete"))
        digest = world.push("v1")
        world.push("v2", "other")
        assert pending(world.store, hook.hook, hook.state, 100) == 1
        world.store.references.delete_tag("team/app", "v1", now=1.0, tombstone=False).result()
        world.push("v3")
        world.store.references.delete_manifest("other", _digest(b"v2"), now=1.0, tombstone=False).result()
        await all_of(hook)
        actions = [(event["data"]["action"], event["subject"]) for event in world.receiver.events]
        assert actions == [
            ("push", "team/app:v1"),
            ("push", "team/app:v3"),
            ("delete", f"other@{_digest(b'v2')}"),
        ]
        assert digest
        assert pending(world.store, hook.hook, hook.state, 100) == 0
        assert hook.state.number == 6


def _digest(body: bytes) -> Any:
    from holdfast_core import Digest

    return Digest.of(body)


async def test_a_repository_that_goes_is_delivered_without_a_digest(tmp_path: Path) -> None:
    with opened(tmp_path) as world:
        world.push("v1")
        hook = await world.keeper(patterns=("team/app:delete",))
        row = EventRecord("delete", "repository", "team/app", 1.0)
        world.store.documents.change(lambda view: [], quiet=frozenset(), events=lambda: [row]).result()
        await all_of(hook)
        (event,) = world.receiver.events
        assert event["eventType"] == "Microsoft.ContainerRegistry.ImageDeleted"
        assert event["subject"] == "team/app"
        assert event["data"]["target"] == {"repository": "team/app"}


async def test_what_happened_below_keeps_its_id_its_time_and_its_place(tmp_path: Path) -> None:
    with opened(tmp_path) as world:
        hook = await world.keeper()
        world.relay("v1", "plantB")
        await all_of(hook)
        (event,) = world.receiver.events
        assert event["id"] == "plantB/feed-7"
        assert event["eventTime"] == "2023-11-14T22:13:20Z"
        assert event["topic"] == "/connectedRegistries/plantB"
        assert event["data"]["connectedregistry"] == {"name": "plantB"}


async def test_a_connected_registry_tells_its_own_name(tmp_path: Path) -> None:
    with opened(tmp_path) as world:
        world.own = "plantA"
        hook = await world.keeper()
        world.push("v1")
        await all_of(hook)
        (event,) = world.receiver.events
        assert event["topic"] == "/connectedRegistries/plantA"
        assert event["data"]["connectedregistry"] == {"name": "plantA"}
        assert event["id"].startswith("plantA/")


async def test_the_originals_registry_webhooks_have_another_body(tmp_path: Path) -> None:
    with opened(tmp_path) as world:
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


async def test_a_receiver_that_is_away_gets_all_of_it_later_in_order_and_the_same_bytes(
    tmp_path: Path,
) -> None:
    with opened(tmp_path) as world:
        hook = await world.keeper()
        for tag in ("v1", "v2", "v3"):
            world.push(tag)
        world.receiver.script.extend([AWAY, ERRED, AWAY])
        pauses = []
        while world.receiver.script:
            assert await hook.step()
            assert not await hook.step()  # not before its time
            assert hook.state.failures
            pauses.append(hook.state.retry_at - world.clock.now())
            world.clock.advance(pauses[-1])
        assert pauses == [5.0, 10.0, 20.0]
        assert hook.state.failing_since
        await all_of(hook)
        assert world.receiver.tags == ["v1"] * 4 + ["v2", "v3"]
        assert len(set(world.receiver.bodies[:4])) == 1
        assert (hook.state.failures, hook.state.failing_since) == (0, 0.0)


async def test_pauses_spread_and_end_at_a_ceiling_and_retry_after_counts(tmp_path: Path) -> None:
    with opened(tmp_path) as world:
        world.clock = FakeClock(share=0.0)
        hook = await world.keeper()
        world.push("v1")
        world.receiver.otherwise = ERRED
        pauses = []
        for _ in range(12):
            await hook.step()
            pauses.append(hook.state.retry_at - world.clock.now())
            world.clock.advance(pauses[-1])
        assert pauses[:4] == [2.5, 5.0, 10.0, 20.0]
        assert pauses[-1] == 450.0
        world.receiver.otherwise = DeliveryOutcome(429, "answered 429", 1234.0)
        await hook.step()
        assert hook.state.retry_at - world.clock.now() == 1234.0


async def test_what_was_delivered_before_a_kill_is_delivered_again_and_nothing_is_lost(
    tmp_path: Path,
) -> None:
    with opened(tmp_path) as world:
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


async def test_the_next_keeper_knows_how_often_it_failed(tmp_path: Path) -> None:
    with opened(tmp_path) as world:
        world.push("v0")
        hook = await world.keeper()
        world.push("v1")
        world.receiver.otherwise = AWAY
        await hook.step()
        again = await world.keeper()
        assert again.state == hook.state
        assert not await again.step()


async def test_an_event_that_is_refused_for_what_it_says_is_dropped_and_reported(tmp_path: Path) -> None:
    with opened(tmp_path) as world:
        hook = await world.keeper()
        for tag in ("poison", "good"):
            world.push(tag)
        world.receiver.script.extend([REFUSED] * REFUSALS)
        with captured_logs() as logs:
            for _ in range(REFUSALS):
                assert await hook.step()
                world.clock.advance(1000.0)
            await all_of(hook)
        assert world.receiver.tags == ["poison"] * REFUSALS + ["good"]
        state = delivery_state_of(world.store, "ci")
        assert state is not None
        assert (state.dropped, state.delivered, state.refusals) == (1, 1, 0)
        assert state.dropped_for == f"the receiver refused it {REFUSALS} times (answered 400)"
        (line,) = [line for line in logs if line["event"] == "events dropped"]
        assert line["last"] == world.receiver.events[0]["id"]
        assert "hook.example" not in json.dumps(logs)


async def test_a_receiver_that_lets_nobody_in_is_no_reason_to_give_up(tmp_path: Path) -> None:
    """401, 403, 404 and 410 are about the receiver: the next event would fare no better."""
    with opened(tmp_path) as world:
        hook = await world.keeper()
        world.push("v1")
        for status in (301, 401, 403, 404, 405, 410) * 5:
            world.receiver.script.append(DeliveryOutcome(status, f"answered {status}"))
            await hook.step()
            world.clock.advance(1000.0)
        assert (hook.state.dropped, hook.state.failures) == (0, 30)
        await all_of(hook)
        assert world.receiver.tags[-1] == "v1"


async def test_what_is_too_old_is_given_up_after_a_last_try_and_the_rest_is_kept(tmp_path: Path) -> None:
    with opened(tmp_path) as world:
        hook = await world.keeper(keep=3600)
        for number in range(50):
            world.push(f"old{number}")
        world.receiver.otherwise = AWAY
        await hook.step()
        world.clock.advance(3000.0)
        world.push("young")
        world.clock.advance(601.0)
        with captured_logs() as logs:
            await hook.step()
        assert len(world.receiver.bodies) == 2  # one last try, not one for each
        assert hook.state.dropped == 50
        assert "took nothing until it was 3600 s old (no answer)" in hook.state.dropped_for
        (line,) = [line for line in logs if line["event"] == "events dropped"]
        assert line["events"] == 50
        world.receiver.otherwise = TAKEN
        world.clock.advance(1000.0)
        await all_of(hook)
        assert world.receiver.tags[2:] == ["young"]


async def test_a_clock_that_jumps_ahead_loses_nothing(tmp_path: Path) -> None:
    with opened(tmp_path) as world:
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


async def test_what_the_log_no_longer_holds_is_told_as_lost(tmp_path: Path) -> None:
    with opened(tmp_path) as world:
        hook = await world.keeper()
        world.receiver.otherwise = AWAY
        world.push("v1")
        await hook.step()
        world.push("v2")
        world.push("v3")
        world.store.events.trim(before=0.0, keep=1).result()
        world.receiver.otherwise = TAKEN
        world.clock.advance(1000.0)
        with captured_logs() as logs:
            again = await world.keeper()
            await all_of(again)
        assert world.receiver.tags == ["v1", "v3"]
        (line,) = [line for line in logs if line["event"] == "events dropped"]
        assert (line["after"], line["upto"]) == (0, 2)
        assert again.state.dropped == 1


async def test_what_was_told_may_go_from_the_log(tmp_path: Path) -> None:
    with opened(tmp_path) as world:
        hook = await world.keeper()
        world.push("v1")
        await all_of(hook)
        world.store.events.trim(before=0.0, keep=0).result()
        world.push("v2")
        await all_of(hook)
        assert (world.receiver.tags, hook.state.dropped) == (["v1", "v2"], 0)


async def test_a_log_that_is_begun_anew_is_followed_from_its_beginning(tmp_path: Path) -> None:
    with opened(tmp_path) as world:
        hook = await world.keeper()
        world.push("v1")
        await all_of(hook)
        world.store.events.keep(False).result()
        world.push("unseen")
        assert not await hook.step()
        world.store.events.keep(True).result()
        world.push("v2")
        with captured_logs() as logs:
            await all_of(hook)
        assert world.receiver.tags == ["v1", "v2"]
        assert [line["event"] for line in logs] == ["event log started anew"]


async def test_a_record_that_cannot_be_read_begins_with_what_happens_now(tmp_path: Path) -> None:
    with opened(tmp_path) as world:
        from holdfast_core.record import ResourceChange

        change = ResourceChange("webhook", "ci", b"\xc1")
        world.store.documents.change(lambda view: [change], quiet=frozenset({"webhook"})).result()
        world.push("v1")
        hook = await world.keeper()
        world.push("v2")
        await all_of(hook)
        assert world.receiver.tags == ["v2"]


async def test_case_fault_11_what_nobody_wants_is_passed_without_a_write(tmp_path: Path) -> None:
    """It is written with a delivery, or once it is an hour old."""
    with opened(tmp_path) as world:
        hook = await world.keeper(patterns=("other:*",))
        for number in range(450):
            world.push(f"v{number}")
        before = world.store.statistics().committed
        await all_of(hook)
        assert not world.receiver.bodies
        assert hook.state.number == 450
        assert world.store.statistics().committed == before
        world.clock.advance(LAG_SECONDS)
        await all_of(hook)
        assert world.store.statistics().committed == before + 1
        held = delivery_state_of(world.store, "ci")
        assert held is not None
        assert held.number == 450
        await all_of(hook)
        assert world.store.statistics().committed == before + 1
        world.push("v1", "other")
        await all_of(hook)
        assert world.store.statistics().committed == before + 3  # the push, and its delivery


async def test_case_fault_11_much_that_nobody_wants_is_written_before_an_hour(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("holdfast.notify.delivery_record.LAG_EVENTS", 20)
    with opened(tmp_path) as world:
        hook = await world.keeper(patterns=("other:*",))
        before = world.store.statistics().committed
        for number in range(41):
            world.push(f"v{number}")
            await all_of(hook)
        assert world.store.statistics().committed == before + 41 + 2


async def test_case_fault_11_a_webhook_with_nothing_to_tell_writes_nothing(tmp_path: Path) -> None:
    """A day of looks, as often as it looks."""
    with opened(tmp_path) as world:
        hook = await world.keeper()
        world.push("v1")
        await all_of(hook)
        before, length = world.store.statistics(), 24 * 3600
        for _ in range(1000):
            world.clock.advance(length / 1000)
            await all_of(hook)
        now = world.store.statistics()
        assert (now.committed, now.journal_bytes) == (before.committed, before.journal_bytes)


async def test_a_long_log_is_given_up_page_by_page(tmp_path: Path) -> None:
    """Others have their turn in between."""
    with opened(tmp_path) as world:
        hook = await world.keeper(keep=3600)
        for number in range(3 * PAGE):
            world.push(f"old{number}")
        world.receiver.otherwise = AWAY
        world.clock.advance(3601.0)
        before = len(world.clock.slept)
        await hook.step()
        assert hook.state.dropped == 3 * PAGE
        assert len(world.clock.slept) - before == 4
