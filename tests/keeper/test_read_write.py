"""A ReadWrite node under a parent: what is pushed here is owned here, what is deleted here stays deleted, and
the parent is asked about neither."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import msgspec
import pytest
from holdfast.testing.fault import RequestGate, ScriptedFault
from holdfast.testing.sample import build_sample
from holdfast.testing.scripted_parent import ScriptedParent
from holdfast_core.digest import Digest
from support.patience import patience
from support.pushing import (
    OCI_INDEX,
    OCI_MANIFEST,
    OPEN,
    Registry,
    code,
    descriptor,
    image,
    index,
    running,
)

READ_WRITE = msgspec.structs.replace(OPEN, mode="ReadWrite")
NONE = f"sha256:{'a' * 64}"


def parent_of(node: Registry) -> ScriptedParent:
    assert node.parent is not None
    return node.parent


async def status(node: Registry, method: str, path: str) -> int:
    return (await node.ask(method, f"/v2/{path}")).status


async def test_a_push_is_owned_served_at_once_and_pending(tmp_path: Path) -> None:
    async with running(tmp_path, READ_WRITE, under_parent=True) as node:
        parent = parent_of(node)
        digest = await node.image("a", "x")
        for path in ("a/manifests/x", f"a/manifests/{digest}"):
            assert (await node.ask("GET", f"/v2/{path}")).headers["docker-content-digest"] == digest
        assert parent.count(path="/manifests/") == 0
        parsed = Digest.parse(digest)
        held = node.store.references.manifest("a", parsed)
        assert held is not None
        assert held.owned
        assert node.store.references.outbox.is_pending("a", parsed)
        parent.add_sample("b")
        assert await status(node, "GET", "b/manifests/latest") == 200
        assert not node.store.references.outbox.is_pending("b", Digest.parse(build_sample("b").index))


async def test_a_tag_pushed_here_is_never_asked_about(tmp_path: Path) -> None:
    config = msgspec.structs.replace(READ_WRITE, tags=msgspec.structs.replace(OPEN.tags, floating_ttl=0.0))
    async with running(tmp_path, config, under_parent=True) as node:
        parent = parent_of(node)
        theirs = parent.add_manifest("a", index(NONE), OCI_INDEX, "x")
        assert (await node.ask("GET", "/v2/a/manifests/x")).headers["docker-content-digest"] == theirs
        ours = await node.image("a", "x")
        parent.reset_counts()
        for _ in range(3):
            assert (await node.ask("GET", "/v2/a/manifests/x")).headers["docker-content-digest"] == ours
        assert parent.count() == 0


async def test_what_was_cached_and_is_pushed_again_is_owned(tmp_path: Path) -> None:
    async with running(tmp_path, READ_WRITE, under_parent=True) as node:
        body = index(NONE)
        digest = parent_of(node).add_manifest("a", body, OCI_INDEX, "x")
        assert await status(node, "GET", "a/manifests/x") == 200
        parsed = Digest.parse(digest)
        held = node.store.references.manifest("a", parsed)
        assert held is not None
        assert not held.owned
        assert (await node.put("a", "x", body, OCI_INDEX)).status == 201
        held, tag = node.store.references.manifest("a", parsed), node.store.references.tag("a", "x")
        assert held is not None
        assert tag is not None
        assert (held.owned, tag.origin) == (True, "local")


async def test_what_is_deleted_here_does_not_come_back_by_a_miss(tmp_path: Path) -> None:
    async with running(tmp_path, READ_WRITE, under_parent=True) as node:
        parent = parent_of(node)
        body = index(NONE, subject=descriptor(NONE))
        digest = parent.add_manifest("a", body, OCI_INDEX, "x", "y")
        other = parent.add_manifest("a", index(), OCI_INDEX, "z")
        blob = parent.add_blob("a", b"a blob of the parent")
        paths = ["a/manifests/x", f"a/blobs/{blob}"]
        assert [await status(node, "GET", path) for path in paths] == [200, 200]
        assert await status(node, "DELETE", "a/manifests/x") == 202
        assert await status(node, "DELETE", f"a/blobs/{blob}") == 202
        parent.reset_counts()
        for path in paths:
            assert [await status(node, method, path) for method in ("GET", "HEAD")] == [404, 404]
        assert parent.count(path="/(manifests|blobs)/") == 0
        assert json.loads((await node.ask("GET", "/v2/a/tags/list")).body)["tags"] == ["y", "z"]
        # the manifest goes too: neither its digest nor a tag of the parent brings it back
        assert await status(node, "DELETE", f"a/manifests/{digest}") == 202
        paths = [f"a/manifests/{digest}", "a/manifests/y", "a/manifests/y"]
        assert [await status(node, "GET", path) for path in paths] == [404, 404, 404]
        assert node.store.references.manifest("a", Digest.parse(digest)) is None
        assert node.store.references.tag("a", "y") is None
        listed = json.loads((await node.ask("GET", f"/v2/a/referrers/{NONE}")).body)
        assert listed["manifests"] == []
        assert (await node.ask("GET", "/v2/a/manifests/z")).headers["docker-content-digest"] == other
        # a push ends it
        assert (await node.put("a", "x", body, OCI_INDEX)).status == 201
        assert [await status(node, "GET", path) for path in ("a/manifests/x", paths[0])] == [200, 200]
        listed = json.loads((await node.ask("GET", f"/v2/a/referrers/{NONE}")).body)
        assert [row["digest"] for row in listed["manifests"]] == [digest]


async def test_what_only_the_parent_has_can_be_deleted_here(tmp_path: Path) -> None:
    async with running(tmp_path, READ_WRITE, under_parent=True) as node:
        parent = parent_of(node)
        digest = parent.add_manifest("a", index(), OCI_INDEX, "x")
        assert await status(node, "DELETE", "a/manifests/x") == 202
        assert await status(node, "GET", "a/manifests/x") == 404
        assert await status(node, "GET", f"a/manifests/{digest}") == 200
        assert await status(node, "DELETE", "a/manifests/none") == 404
        assert await status(node, "DELETE", f"a/manifests/{NONE}") == 404


async def test_lists_have_what_is_here_and_what_is_there(tmp_path: Path) -> None:
    async with running(tmp_path, READ_WRITE, under_parent=True) as node:
        parent = parent_of(node)
        parent.add_manifest("a", index(), OCI_INDEX, "theirs")
        theirs = parent.add_manifest("a", index(subject=descriptor(NONE)), OCI_INDEX)
        await node.image("a", "ours")
        ours = index(subject=descriptor(NONE), annotations={"ours": "1"})
        assert (await node.put("a", str(Digest.of(ours)), ours, OCI_INDEX)).status == 201
        assert json.loads((await node.ask("GET", "/v2/a/tags/list")).body)["tags"] == ["ours", "theirs"]
        listed = json.loads((await node.ask("GET", f"/v2/a/referrers/{NONE}")).body)["manifests"]
        assert {row["digest"] for row in listed} == {theirs, str(Digest.of(ours))}


@pytest.mark.parametrize("mode", ["ReadWrite", "ReadOnly"])
async def test_head_of_nothing_without_the_link_lets_pushers_go_on(tmp_path: Path, mode: str) -> None:
    async with running(tmp_path, msgspec.structs.replace(READ_WRITE, mode=mode), under_parent=True) as node:
        await parent_of(node).stop()
        for path in ("a/manifests/x", f"a/manifests/{NONE}", f"a/blobs/{NONE}"):
            assert await status(node, "HEAD", path) == (404 if mode == "ReadWrite" else 503)
            answer = await node.ask("GET", f"/v2/{path}")
            assert answer.status == 503
            assert "retry-after" in answer.headers


async def test_a_push_goes_on_without_the_link(tmp_path: Path) -> None:
    async with running(tmp_path, READ_WRITE, under_parent=True) as node:
        await parent_of(node).stop()
        digest = await node.image("a", "x")
        assert (await node.ask("GET", "/v2/a/manifests/x")).headers["docker-content-digest"] == digest
        # of what is not here nobody can say whether the parent has it: no 400 that would be wrong tomorrow
        config = await node.blob("a", b"{}")
        assert (await node.put("a", "y", image(config, NONE))).status == 503
        assert await status(node, "DELETE", "a/manifests/x") == 202


async def test_an_image_may_name_blobs_that_the_parent_has(tmp_path: Path) -> None:
    async with running(tmp_path, READ_WRITE, under_parent=True) as node:
        parent = parent_of(node)
        layer = parent.add_blob("a", b"a layer of the parent")
        config = await node.blob("a", b"{}")
        answer = await node.put("a", "x", image(config, layer, NONE))
        assert (answer.status, code(answer)) == (400, "MANIFEST_BLOB_UNKNOWN")
        assert json.loads(answer.body)["errors"][0]["detail"] == NONE
        assert parent.count("GET", "/blobs/") == 0
        assert (await node.put("a", "x", image(config, layer))).status == 201
        async with patience():  # nobody asks for it, and yet it comes: the link may be down tomorrow
            while node.store.blobs.get("a", Digest.parse(layer)) is None:
                await asyncio.sleep(0.01)
        assert parent.count("GET", "/blobs/") == 1
        assert (await node.ask("GET", "/v2/a/manifests/x")).headers["content-type"] == OCI_MANIFEST
        assert await status(node, "GET", f"a/blobs/{layer}") == 200
        assert await status(node, "DELETE", f"a/blobs/{layer}") == 202
        answer = await node.put("a", "y", image(config, layer))
        assert (answer.status, code(answer)) == (400, "MANIFEST_BLOB_UNKNOWN")


async def test_read_only_takes_fills_and_no_pushes(tmp_path: Path) -> None:
    async with running(tmp_path, msgspec.structs.replace(OPEN), under_parent=True) as node:
        parent_of(node).add_manifest("a", index(), OCI_INDEX, "x")
        assert await status(node, "GET", "a/manifests/x") == 200
        answer = await node.put("a", "x", index(NONE), OCI_INDEX)
        assert (answer.status, code(answer)) == (405, "DENIED")
        assert await status(node, "DELETE", "a/manifests/x") == 405


async def test_a_tag_that_comes_in_late_does_not_replace_a_push(tmp_path: Path) -> None:
    """A miss is under way at the parent while the same tag is pushed: the push stays."""
    async with running(tmp_path, READ_WRITE, under_parent=True) as node:
        parent, gate = parent_of(node), RequestGate()
        parent.add_manifest("a", index(NONE), OCI_INDEX, "x")
        parent.script(ScriptedFault(method="GET", path="/manifests/x", gate=gate))
        miss = asyncio.create_task(node.ask("GET", "/v2/a/manifests/x"))
        await gate.wait_arrived()
        ours = await node.image("a", "x")
        gate.release()
        await miss
        assert (await node.ask("GET", "/v2/a/manifests/x")).headers["docker-content-digest"] == ours
