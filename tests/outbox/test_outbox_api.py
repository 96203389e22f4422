"""What an operator sees of the outbox, over the admin API."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec
from holdfast.admin import document
from holdfast.keeper import outgoing
from holdfast.sync.backoff import trouble
from holdfast.sync.entry import Entry
from holdfast.sync.outbox import Conflict
from holdfast_core.record import ResourceChange
from holdfast_core.store import Store
from support.admin import AdminServing, serve_admin
from support.stores import push

DIGEST = f"sha256:{'a' * 64}"


def rows(store: Store) -> None:
    """An entry that waits, one that is parked, one in conflict, and a conflict that the parent won."""
    parked = trouble(None, "denied", "the parent answered 403", 10.0, 0.5)
    entries = [
        Entry(0, "a", "manifest", DIGEST, 1.0),
        Entry(0, "a", "tag", DIGEST, 2.0, "x", trouble=parked),
        Entry(0, "a", "untag", "", 3.0, "y", conflict="the parent moved it"),
    ]
    push(store, "a", b"{}", notes=lambda before: list(map(outgoing.encode, entries)))
    lost = Conflict("a", "z", DIGEST, "", None, 0, 4.0, "parent-wins", "parent")
    change = ResourceChange(outgoing.CONFLICT, outgoing.name_of(7), msgspec.msgpack.encode(lost))
    store.change_resources(lambda view: [change], quiet=frozenset({outgoing.CONFLICT})).result()


def conforms(found: Any, kind: Any) -> None:
    assert json.loads(msgspec.json.encode(msgspec.convert(found, kind))) == found


def test_case_fault_15_it_tells_how_much_waits_since_when_and_how_fast_it_goes(tmp_path: Path) -> None:
    async def test(admin: AdminServing) -> None:
        found = await admin.good("GET", "outbox/status")
        conforms(found, document.BacklogDocument)
        assert (found["entries"], found["oldestTime"]) == (0, None)

    serve_admin(tmp_path, test)


def test_it_lists_and_shows_what_is_to_go_up_and_why_it_does_not(tmp_path: Path) -> None:
    async def test(admin: AdminServing) -> None:
        assert await admin.good("GET", "outbox") == {"value": [], "nextLink": None}
        rows(admin.store)
        found = await admin.good("GET", "outbox")
        conforms(found, document.OutboxList)
        told = [(row["name"], row["properties"]["state"]) for row in found["value"]]
        assert told == [("1", "waiting"), ("2", "parked"), ("3", "conflict"), ("7", "overruled")]
        first = await admin.good("GET", "outbox?$top=2")
        assert [row["name"] for row in first["value"]] == ["1", "2"]
        rest = await admin.good("GET", first["nextLink"].removeprefix("/api/v1/"))
        assert [row["name"] for row in rest["value"]] == ["3", "7"]
        parked = await admin.good("GET", "outbox/2")
        conforms(parked, document.OutboxDocument)
        assert parked["properties"]["reason"] == "the parent answered 403"
        assert (await admin.good("GET", "outbox/7"))["properties"]["conflict"]["winner"] == "parent"
        for number in ("4", "none", "9" * 30):
            assert (await admin.ask("GET", f"outbox/{number}")).status == 404
        assert (await admin.ask("POST", "outbox/7/retry")).status == 404

    serve_admin(tmp_path, test)
