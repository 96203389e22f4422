"""Locks and the history of tags over a real socket, in the original's names."""

from __future__ import annotations

import asyncio
import json
import threading
from pathlib import Path
from typing import Any

from holdfast_core import format as layout
from holdfast_core.digest import Digest
from holdfast_core.record import Lock, LockTarget, TagMove
from support.patience import PATIENCE, patience
from support.pushing import OCI_INDEX, Registry, code, index, running
from support.stores import without_journal

ALL = {"deleteEnabled": True, "writeEnabled": True, "readEnabled": True, "listEnabled": True}


async def lock(node: Registry, path: str, **changes: Any) -> dict[str, Any]:
    """Change attributes; the answer's document."""
    answer = await node.ask("PATCH", f"/acr/v1/{path}", json.dumps(changes).encode())
    assert answer.status == 200, answer
    shown = await node.ask("GET", f"/acr/v1/{path}")
    assert (shown.status, shown.body) == (200, answer.body)
    found: dict[str, Any] = json.loads(answer.body)
    return found


async def test_attributes_in_the_originals_names(tmp_path: Path) -> None:
    async with running(tmp_path) as node:
        digest = await node.image("team/a", "x")
        node.clock.advance(61)
        digest = await node.image("team/a", "x", number=2)
        repository = await lock(node, "team/a", listEnabled=False)
        assert repository == {
            "registry": "node.test",
            "imageName": "team/a",
            "changeableAttributes": ALL | {"listEnabled": False},
        }
        tag = await lock(node, "team/a/_tags/x", deleteEnabled=False)
        assert tag == {
            "registry": "node.test",
            "imageName": "team/a",
            "tag": {
                "name": "x",
                "digest": digest,
                "createdTime": "2027-01-15T08:00:00.000Z",
                "lastUpdateTime": "2027-01-15T08:01:01.000Z",
                "changeableAttributes": ALL | {"deleteEnabled": False},
            },
        }
        manifest = await lock(node, f"team/a/_manifests/{digest}", writeEnabled=False)
        assert manifest["manifest"]["digest"] == digest
        assert manifest["manifest"]["changeableAttributes"] == ALL | {"writeEnabled": False}
        assert (await lock(node, "team/a/_tags/x", writeEnabled=False))["tag"]["changeableAttributes"] == (
            ALL | {"deleteEnabled": False, "writeEnabled": False}
        )
        assert (await lock(node, "team/a/_tags/x", **ALL))["tag"]["changeableAttributes"] == ALL


async def test_what_is_no_set_of_attributes_is_refused(tmp_path: Path) -> None:
    async with running(tmp_path) as node:
        await node.image("a", "x")
        before = node.dump()
        bodies = [b"", b"null", b"[]", b"{", b'{"writeEnabled":1}', b'{"writeEnabled":"false"}', b"\xff"]
        bodies += [b'{"readEnabled":true,"readEnabled":false}', b'{"readEnabled":NaN}']
        bodies += [b'{"WriteEnabled":false}', b'{"quarantineState":"x"}', b" " * 5000 + b"{}"]
        for body in bodies:
            answer = await node.ask("PATCH", "/acr/v1/a/_tags/x", body)
            assert (answer.status, code(answer)) == (400, "UNSUPPORTED"), body
        nothing = [
            ("none", "NAME_UNKNOWN"),
            ("a/_tags/none", "MANIFEST_UNKNOWN"),
            (f"a/_manifests/sha256:{'a' * 64}", "MANIFEST_UNKNOWN"),
        ]
        for path, expected in nothing:
            for method, sent in (("GET", None), ("PATCH", b'{"writeEnabled":false}')):
                answer = await node.ask(method, f"/acr/v1/{path}", sent)
                assert (answer.status, code(answer)) == (404, expected)
        assert node.dump() == before


async def test_of_changes_at_once_every_one_holds(tmp_path: Path) -> None:
    """All are asked for before the first of them is committed; the last asks for nothing."""
    async with running(tmp_path) as node:
        await node.image("a", "x")
        await lock(node, "a/_tags/x", listEnabled=False)
        begun, go_on = threading.Event(), threading.Event()

        def blocking(view: object) -> tuple[()]:
            begun.set()
            go_on.wait(PATIENCE)
            return ()

        blocked = node.store._access.submit(blocking)
        await asyncio.to_thread(begun.wait, PATIENCE)  # else the changes could be of its group
        asked = ['{"readEnabled":false}', '{"writeEnabled":false}', '{"deleteEnabled":false}']
        asked += ['{"listEnabled":true}', "{}"]
        patches = [
            asyncio.create_task(node.ask("PATCH", "/acr/v1/a/_tags/x", body.encode())) for body in asked
        ]
        try:
            async with patience():
                while node.store.statistics().queued < len(asked):
                    await asyncio.sleep(0.001)
        finally:
            go_on.set()
        assert {answer.status for answer in await asyncio.gather(*patches)} == {200}
        blocked.result(PATIENCE)
        assert node.store.references.lock("a", LockTarget("tag", "x")) == Lock(False, False, False, True)


async def test_a_damaged_lock_forbids_until_it_is_set_again(tmp_path: Path) -> None:
    async with running(tmp_path) as node:
        await node.image("a", "x")
        await lock(node, "a", writeEnabled=False)
        key = layout.lock_key("a", LockTarget("repository"))
        without_journal(node.store)  # which has it, too
        with node.store._index.begin(write=True) as txn:
            txn.put(key, b"damaged")
        for path in ("/v2/a/manifests/x", "/v2/a/tags/list", "/acr/v1/a"):
            assert (await node.ask("GET", path)).status == 500
        shown = await lock(node, "a", readEnabled=True)
        assert shown["changeableAttributes"] == dict.fromkeys(ALL, False) | {"readEnabled": True}
        assert (await node.ask("GET", "/v2/a/manifests/x")).status == 200
        assert (await node.ask("DELETE", "/v2/a/manifests/x")).status == 405
        assert (await lock(node, "a", **ALL))["changeableAttributes"] == ALL


async def test_a_tag_that_goes_while_it_is_shown_is_unknown(tmp_path: Path) -> None:
    async with running(tmp_path) as node:
        await node.image("a", "x")
        gone = TagMove(None, 1.0, "local")
        for moves in ([], [gone], [gone, *node.store.references.tag_moves("a", "x")]):
            node.store.references.tag_moves = lambda *_, moves=moves: moves  # type: ignore[method-assign]
            answer = await node.ask("GET", "/acr/v1/a/_tags/x")
            assert (answer.status, code(answer)) == (404, "MANIFEST_UNKNOWN")


async def test_a_lock_refuses_and_says_which(tmp_path: Path) -> None:
    async with running(tmp_path) as node:
        digest = await node.image("a", "x")
        other = index()
        requests: dict[str, list[tuple[str, str, bytes | None]]] = {
            "write": [("PUT", "manifests/x", other)],
            "delete": [("DELETE", "manifests/x", None), ("DELETE", f"manifests/{digest}", None)],
            "read": [("GET", "manifests/x", None), ("HEAD", "manifests/x", None)],
        }
        for where in ("a", "a/_tags/x"):
            for what, forbidden in requests.items():
                await lock(node, where, **{f"{what}Enabled": False})
                before = node.dump()
                for method, path, body in forbidden:
                    answer = await node.ask(method, f"/v2/a/{path}", body)
                    assert answer.status == 405, (where, method, path)
                    if method == "HEAD":
                        continue
                    assert code(answer) == "DENIED"
                    assert answer.headers["allow"] == "GET, HEAD"
                    message = json.loads(answer.body)["errors"][0]["message"]
                    assert message.startswith(
                        "The operation is disallowed on this registry, repository or image."
                    )
                    assert f"{what}Enabled" in message
                assert node.dump() == before
                await lock(node, where, **{f"{what}Enabled": True})
        assert (await node.ask("DELETE", f"/v2/a/manifests/{digest}")).status == 202


async def test_what_may_not_be_read_can_be_looked_at_and_unlocked_and_nothing_is_made_up(
    tmp_path: Path,
) -> None:
    async with running(tmp_path) as node:
        digest = await node.image("a", "x")
        await lock(node, "a", readEnabled=False)
        for path in ("a/_tags/x", f"a/_manifests/{digest}"):
            shown = await lock(node, path, readEnabled=False)
            assert digest in json.dumps(shown)
        for path in ("a/_tags/none", f"a/_manifests/sha256:{'a' * 64}"):
            for method, sent in (("GET", None), ("PATCH", b"{}")):
                assert (await node.ask(method, f"/acr/v1/{path}", sent)).status == 404
        for path in ("a", "a/_tags/x", f"a/_manifests/{digest}"):
            await lock(node, path, readEnabled=True)
        assert (await node.ask("GET", "/v2/a/manifests/x")).status == 200


async def test_what_may_not_be_read_shows_neither_lists_nor_history(tmp_path: Path) -> None:
    async with running(tmp_path) as node:
        digest = await node.image("a", "x", "y")
        await node.put("a", "signature", index(subject={"digest": digest, "size": 1}), OCI_INDEX)
        history, tags, referrers = (
            f"/v2/a/{path}" for path in ("_holdfast/tag-history/x", "tags/list", f"referrers/{digest}")
        )
        every = (history, tags, referrers)
        expected = {
            "a": [405, 405, 405],
            "a/_tags/x": [405, 200, 200],
            "a/_tags/y": [200, 200, 200],
            f"a/_manifests/{digest}": [200, 200, 200],
        }
        for where, statuses in expected.items():
            await lock(node, where, readEnabled=False)
            answers = [await node.ask("GET", path) for path in every]
            assert [answer.status for answer in answers] == statuses, where
            for answer in answers:
                if answer.status == 405:
                    assert code(answer) == "DENIED"
                    assert "readEnabled is false" in json.loads(answer.body)["errors"][0]["message"]
            await lock(node, where, readEnabled=True)
            assert {(await node.ask("GET", path)).status for path in every} == {200}


async def test_what_is_not_listed_is_still_served(tmp_path: Path) -> None:
    async with running(tmp_path) as node:
        await node.image("a", "x", "y")
        await lock(node, "a/_tags/x", listEnabled=False)
        assert json.loads((await node.ask("GET", "/v2/a/tags/list")).body)["tags"] == ["y"]
        assert (await node.ask("GET", "/v2/a/manifests/x")).status == 200


async def test_the_history_of_a_tag(tmp_path: Path) -> None:
    async with running(tmp_path) as node:
        digests = []
        for number in range(3):
            digests.append(await node.image("a", "x", number=number))
            node.clock.advance(0.5)
        await node.ask("DELETE", "/v2/a/manifests/x")
        answer = await node.ask("GET", "/v2/a/_holdfast/tag-history/x")
        assert (answer.status, answer.headers["content-type"]) == (200, "application/json")
        rows = json.loads(answer.body)
        assert [row["digest"] for row in rows] == [None, *reversed(digests)]
        assert [row["time"][-10:] for row in rows] == [
            "00:01.500Z", "00:01.000Z", "00:00.500Z", "00:00.000Z",
        ]  # fmt: skip
        assert {row["origin"] for row in rows} == {"local"}
        for path in ("a/_holdfast/tag-history/none", "none/_holdfast/tag-history/x"):
            none = await node.ask("GET", f"/v2/{path}")
            assert (none.status, code(none)) == (404, "MANIFEST_UNKNOWN")
        assert Digest.parse(digests[0])
