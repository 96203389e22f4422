"""What an operator sees of the outbox, over the admin API."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec
from holdfast.admin import documents
from holdfast.backoff import trouble
from holdfast.outbox import records
from holdfast.outbox.entry import OutboxEntry
from holdfast.outbox.queue import Conflict
from holdfast_core.record import ResourceChange
from holdfast_core.store import Store
from support.admin import admin_serving
from support.stores import push

DIGEST = f"sha256:{'a' * 64}"


def rows(store: Store) -> None:
    """An entry that waits, one that is parked, one in conflict, and a conflict that the parent won."""
    parked = trouble(None, "denied", "the parent answered 403", 10.0, 0.5)
    entries = [
        OutboxEntry(0, "a", "manifest", DIGEST, 1.0),
        OutboxEntry(0, "a", "tag", DIGEST, 2.0, "x", trouble=parked),
        OutboxEntry(0, "a", "untag", "", 3.0, "y", conflict="the parent moved it"),
    ]
    push(store, "a", b"{}", notes=lambda before: list(map(records.encode, entries)))
    lost = Conflict("a", "z", DIGEST, "", None, 0, 4.0, "parent-wins", "parent")
    change = ResourceChange(records.CONFLICT, records.name_of(7), msgspec.msgpack.encode(lost))
    store.documents.change(lambda view: [change], quiet=frozenset({records.CONFLICT})).result()


def conforms(found: Any, kind: Any) -> None:
    assert json.loads(msgspec.json.encode(msgspec.convert(found, kind))) == found


async def test_case_fault_15_it_tells_how_much_waits_since_when_and_how_fast_it_goes(tmp_path: Path) -> None:
    async with admin_serving(tmp_path) as admin:
        found = await admin.good("GET", "outbox/status")
        conforms(found, documents.BacklogDocument)
        assert (found["entries"], found["oldestTime"]) == (0, None)


async def test_it_lists_and_shows_what_is_to_go_up_and_why_it_does_not(tmp_path: Path) -> None:
    async with admin_serving(tmp_path) as admin:
        assert await admin.good("GET", "outbox") == {"value": [], "nextLink": None}
        rows(admin.store)
        found = await admin.good("GET", "outbox")
        conforms(found, documents.OutboxList)
        told = [(row["name"], row["properties"]["state"]) for row in found["value"]]
        assert told == [("1", "waiting"), ("2", "parked"), ("3", "conflict"), ("7", "overruled")]
        first = await admin.good("GET", "outbox?$top=2")
        assert [row["name"] for row in first["value"]] == ["1", "2"]
        rest = await admin.good("GET", first["nextLink"].removeprefix("/api/v1/"))
        assert [row["name"] for row in rest["value"]] == ["3", "7"]
        parked = await admin.good("GET", "outbox/2")
        conforms(parked, documents.OutboxDocument)
        assert parked["properties"]["reason"] == "the parent answered 403"
        assert (await admin.good("GET", "outbox/7"))["properties"]["conflict"]["winner"] == "parent"
        for number in ("4", "none", "9" * 30):
            assert (await admin.ask("GET", f"outbox/{number}")).status == 404
        assert (await admin.ask("POST", "outbox/7/retry")).status == 404
