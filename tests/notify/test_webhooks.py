"""All webhooks of a node: one that fails holds up no other, over real connections."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from holdfast.clock import SystemClock
from holdfast.config import WebhookSection
from holdfast.errors import ControlUnknown
from holdfast.notify.delivery_record import WEBHOOK, delivery_state_of
from holdfast.notify.webhook_delivery import Webhooks
from holdfast.resources.notification import signature
from holdfast_core.store import Store
from support import receiver as scripted
from support.fills import until
from support.receiver import Receiver, answer
from support.stores import push

pytestmark = pytest.mark.loop("asyncio")


def hook(name: str, receiver: Receiver, **keys: Any) -> WebhookSection:
    """A webhook to a scripted receiver."""
    return WebhookSection(name=name, url=receiver.url, insecure=True, **keys)


@asynccontextmanager
async def telling(path: Path, *hooks: WebhookSection) -> AsyncIterator[tuple[Store, Webhooks]]:
    """A store and its webhooks at work; the store stays in `path` for the next."""
    store = Store.create_or_open(path / "store", write=True)
    made = Webhooks(hooks, store, SystemClock())
    await made.start()
    try:
        yield store, made
    finally:
        await made.close()
        store.close()


def tags(receiver: Receiver) -> list[str]:
    """The tags that were delivered."""
    return [event["data"]["target"]["tag"] for event in receiver.events]


async def test_a_receiver_that_hangs_or_fails_holds_up_no_other(tmp_path: Path) -> None:
    with (
        Receiver(otherwise=scripted.hang) as hanging,
        Receiver(otherwise=answer(500)) as failing,
        Receiver(otherwise=scripted.endless) as talking,
        Receiver() as good,
    ):
        hooks = [
            hook("a-hanging", hanging, timeout=60.0),
            hook("b-failing", failing),
            hook("c-talking", talking, timeout=5.0),
            hook("d-good", good, secret="s3cret"),
        ]
        expected = [f"v{number}" for number in range(20)]
        async with telling(tmp_path, *hooks) as (store, webhooks):
            for tag in expected:
                push(store, "team/app", tag.encode(), tag)
            await until(lambda: tags(good) == expected)
            await until(lambda: tags(talking) == expected)
            await until(lambda: len(hanging.posts) == 1 and bool(webhooks.notes()))
            (note,) = webhooks.notes()
            assert note.startswith("webhook b-failing fails since ")
            assert note.endswith(": answered 500")
            for post in good.posts:
                assert post.headers["x-holdfast-signature"] == signature(b"s3cret", post.body)


async def test_a_webhook_that_is_configured_no_more_is_forgotten(tmp_path: Path) -> None:
    with Receiver() as receiver:
        async with telling(tmp_path, hook("one", receiver), hook("two", receiver)) as (store, _):
            assert [row.name for row in store.documents.of_kind(WEBHOOK)] == ["one", "two"]
        async with telling(tmp_path, hook("two", receiver)) as (store, _):
            assert [row.name for row in store.documents.of_kind(WEBHOOK)] == ["two"]
            push(store, "team/app", b"v1", "v1")
            await until(lambda: len(receiver.posts) == 1)
        async with telling(tmp_path, hook("one", receiver)) as (store, _):
            state = delivery_state_of(store, "one")
            head = store.events.head()
            assert state is not None
            assert head is not None
            assert state.number == head.last  # it begins with what happens from now on


async def test_a_ping_is_answered_with_what_the_receiver_says(tmp_path: Path) -> None:
    with Receiver(answer(204), answer(418), otherwise=scripted.leave) as receiver:
        hooks = [hook("ci", receiver, secret="s3cret"), hook("old", receiver, format="acr")]
        async with telling(tmp_path, *hooks) as (_, webhooks):
            pings = [await webhooks.ping("ci") for _ in range(3)]
            assert [(one.taken, one.answer) for one in pings[:2]] == [
                (True, "answered 204"),
                (False, "answered 418"),
            ]
            assert not pings[2].taken
            first = receiver.posts[0]
            assert first.event["eventType"] == "Holdfast.Ping"
            assert first.event["data"]["action"] == "ping"
            assert first.headers["x-holdfast-signature"] == signature(b"s3cret", first.body)
            await webhooks.ping("old")
            assert receiver.events[-1]["action"] == "ping"
            with pytest.raises(ControlUnknown, match="no webhook 'none'"):
                await webhooks.ping("none")
