"""Webhooks and events over the admin API, and that its document tells of them."""

from __future__ import annotations

import json
from contextlib import closing
from pathlib import Path
from typing import Any

import msgspec
from holdfast.admin import documents
from holdfast.config import Configuration, WebhookSection
from holdfast.notify.delivery_record import WEBHOOK, Pinged
from holdfast.notify.delivery_state import DeliveryState
from holdfast_core.record import EventRecord, ResourceChange
from holdfast_core.store import Store
from support.admin import admin_serving
from support.stores import push

URL = "https://hooks.example:8443/services/canary-path?code=canary-code"
HOOKS = Configuration(
    webhook=(
        WebhookSection(name="old", url="https://old.example", format="acr"),
        WebhookSection(name="ci", url=URL, secret="canary-secret", headers=("Authorization: canary-header",)),
    )
)


def conforms(document: Any, kind: Any) -> None:
    """The document says this."""
    assert json.loads(msgspec.json.encode(msgspec.convert(document, kind))) == document


def stands(store: Store, name: str, state: DeliveryState) -> None:
    """A webhook is so far."""
    change = ResourceChange(WEBHOOK, name, msgspec.msgpack.encode(state))
    store.documents.change(lambda view: [change], quiet=frozenset({WEBHOOK})).result()


async def test_webhooks_are_listed_with_how_far_they_are_and_without_their_secrets(tmp_path: Path) -> None:
    async with admin_serving(tmp_path, HOOKS) as admin:
        admin.store.events.keep(True).result()
        for tag in ("v1", "v2", "v3"):
            push(admin.store, "team/app", tag.encode(), tag)
        head = admin.store.events.head()
        assert head is not None
        failing = DeliveryState(
            head.log, 1, 3, 0, 50.0, 120.5, "answered 503", 100.0, 7, 2, 90.0, "it was too old"
        )
        stands(admin.store, "ci", failing)
        document = await admin.good("GET", "webhooks")
        conforms(document, documents.WebhookList)
        assert [row["name"] for row in document["value"]] == ["ci", "old"]
        assert "canary" not in json.dumps(document)
        assert document["value"][0]["properties"] == {
            "url": "https://hooks.example:8443",
            "patterns": ["*:*"],
            "format": "eventgrid",
            "signed": True,
            "state": "failing",
            "cursor": 1,
            "pending": 2,
            "delivered": 7,
            "dropped": 2,
            "lastDropTime": "1970-01-01T00:01:30.000Z",
            "lastDropReason": "it was too old",
            "lastAnswer": "answered 503",
            "lastAnswerTime": "1970-01-01T00:01:40.000Z",
            "failingSince": "1970-01-01T00:00:50.000Z",
            "failures": 3,
            "nextTry": "1970-01-01T00:02:00.500Z",
        }
        old = await admin.good("GET", "webhooks/old")
        conforms(old, documents.WebhookDocument)
        assert (old["properties"]["state"], old["properties"]["signed"]) == ("delivering", False)
        stands(admin.store, "old", DeliveryState(head.log, 3))
        assert (await admin.good("GET", "webhooks/old"))["properties"]["state"] == "idle"
        page = await admin.good("GET", "webhooks?$top=1")
        assert (await admin.good("GET", page["nextLink"].removeprefix("/api/v1/")))["value"][0][
            "name"
        ] == "old"
        pinged = await admin.good("POST", "webhooks/ci/ping")
        conforms(pinged, Pinged)
        assert admin.port.calls["ping_webhook"] == 1
        for method, path in (("GET", "webhooks/none"), ("POST", "webhooks/none/ping")):
            status, words = await admin.refused(method, path)
            assert (status, "under [[webhook]] of the configuration" in words) == (404, True)


async def test_a_node_without_webhooks_has_an_empty_list(tmp_path: Path) -> None:
    async with admin_serving(tmp_path) as admin:
        assert await admin.good("GET", "webhooks") == {"value": [], "nextLink": None}


def below(store: Store, registry: str, tag: str) -> None:
    """An event that came up from a connected registry."""
    row = EventRecord(
        "push",
        "tag",
        "team/app",
        9.0,
        tag,
        f"sha256:{'a' * 64}",
        registry=registry,
        id=f"{registry}/feed-1",
        happened=5.0,
    )
    store.documents.change(lambda view: [], quiet=frozenset(), events=lambda: [row]).result()


async def test_events_are_listed_by_number_and_by_where_they_happened(tmp_path: Path) -> None:
    async with admin_serving(tmp_path) as admin:
        status, words = await admin.refused("GET", "events")
        assert (status, "keeps no event log" in words) == (409, True)
        admin.store.events.keep(True).result()
        digest = push(admin.store, "team/app", b"v1", "v1", now=2.0)
        push(admin.store, "other", b"v2", "v2", now=3.0)
        admin.store.references.delete_manifest("team/app", digest, now=4.0, tombstone=False).result()
        below(admin.store, "plantA", "v9")
        document = await admin.good("GET", "events?after=0")
        conforms(document, documents.EventList)
        rows = [(row["name"], row["properties"]) for row in document["value"]]
        assert [name for name, _ in rows] == ["1", "2", "3", "4", "5"]
        assert [(row["action"], row["kind"], row["tag"]) for _, row in rows] == [
            ("push", "tag", "v1"),
            ("push", "tag", "v2"),
            ("delete", "tag", "v1"),
            ("delete", "manifest", ""),
            ("push", "tag", "v9"),
        ]
        head = admin.store.events.head()
        assert head is not None
        ids = [row["eventId"] for _, row in rows]
        assert ids == [f"{head.log}-1", f"{head.log}-2", "", f"{head.log}-4", "plantA/feed-1"]
        assert rows[4][1]["connectedRegistry"] == "plantA"
        assert rows[4][1]["time"] == "1970-01-01T00:00:05.000Z"
        assert (document["log"], document["cursor"], document["nextLink"]) == (head.log, 5, None)

        async def names(query: str) -> list[str]:
            return [row["name"] for row in (await admin.good("GET", f"events?{query}"))["value"]]

        assert await names("after=0&registry=PLANTA") == ["5"]
        assert await names("after=0&registry=none") == []
        assert await names("after=0&repository=other") == ["2"]
        assert await names("after=3") == ["4", "5"]
        assert await names("$top=2") == ["4", "5"]  # without `after` the last ones
        first = await admin.good("GET", "events?after=0&$top=3")
        assert first["cursor"] == 3
        rest = await admin.good("GET", first["nextLink"].removeprefix("/api/v1/"))
        assert [row["name"] for row in rest["value"]] == ["4", "5"]
        late = await admin.good("GET", f"events?after={rest['cursor']}")
        assert (late["value"], late["cursor"]) == ([], 5)
        for wrong in ("-1", "x", "9" * 19, ""):
            assert (await admin.refused("GET", f"events?after={wrong}"))[0] == 400


async def test_the_last_page_reaches_over_the_gap_that_a_start_leaves(tmp_path: Path) -> None:
    place = tmp_path / "store"
    for run in range(3):
        with closing(Store.create_or_open(place, write=True)) as store:
            store.events.keep(True).result()
            for number in range(3):
                push(store, "team/app", f"{run}-{number}".encode(), f"v{run}-{number}")
    async with admin_serving(tmp_path) as admin:
        for top, first in ((1, "v2-2"), (4, "v1-2"), (9, "v0-0"), (100, "v0-0")):
            document = await admin.good("GET", f"events?$top={top}")
            assert document["value"][0]["properties"]["tag"] == first
            assert document["value"][-1]["properties"]["tag"] == "v2-2"
