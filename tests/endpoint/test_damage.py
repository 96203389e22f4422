"""Damage of what only this node has: written down by whoever finds it, told, refused to mounts, healed by a push."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from holdfast.config import Configuration
from holdfast_core import fsck
from holdfast_core.digest import CHUNK_BYTES, Digest
from support.login import ALL, CLOSED, READ, Client, actions, token
from support.pushing import OPEN, Registry, image, pushing, running
from support.stores import file_of, flip_bit, some_bytes
from support.uploads import begin

LAYER, CONFIG = some_bytes(2 * CHUNK_BYTES + 77), b'{"config":1}'
DIGEST = Digest.of(LAYER)
READ_WRITE = msgspec.structs.replace(OPEN, mode="ReadWrite")

Ask = Callable[..., Any]


async def pushed(
    node: Registry, name: str, tag: str, layer: bytes = LAYER, ask: Ask | None = None
) -> list[str]:
    """Push an image as skopeo does: HEAD of each blob, an upload of what is 404, then the manifest. The digests that
    were uploaded."""
    ask, uploaded = ask or node.ask, []
    for body in (layer, CONFIG):
        digest = str(Digest.of(body))
        head = await ask("HEAD", f"/v2/{name}/blobs/{digest}")
        assert head.status in (200, 404), head
        if head.status == 404:
            answer = await ask("POST", f"/v2/{name}/blobs/uploads/", b"")
            assert answer.status == 202
            glue = "&" if "?" in answer.headers["location"] else "?"
            put = await ask("PUT", f"{answer.headers['location']}{glue}digest={digest}", body)
            assert put.status == 201, put
            uploaded.append(digest)
    manifest = image(str(Digest.of(CONFIG)), str(Digest.of(layer)))
    kind = json.loads(manifest)["mediaType"]
    answer = await ask("PUT", f"/v2/{name}/manifests/{tag}", manifest, Content_Type=kind)
    assert answer.status == 201, answer
    return uploaded


async def pulled(node: Registry, name: str, ask: Ask | None = None) -> bool:
    """Whether the layer comes whole."""
    answer = await (ask or node.ask)("GET", f"/v2/{name}/blobs/{DIGEST}")
    assert answer.status != 200 or not answer.complete or answer.body == LAYER
    return answer.status == 200 and answer.complete


def bad_chunk(file: Path) -> None:
    flip_bit(file, CHUNK_BYTES + 5)


def first_chunk(file: Path) -> None:
    flip_bit(file, 5)


def short(file: Path) -> None:
    os.truncate(file, 100)


def directory(file: Path) -> None:
    file.unlink()
    file.mkdir()


DAMAGES = [bad_chunk, first_chunk, short, Path.unlink]


async def troubles(node: Registry) -> list[str]:
    answer = await node.ask("GET", "/readyz")
    assert answer.status == 200
    return list(json.loads(answer.body)["troubles"])


def errors_told(node: Registry, event: str) -> int:
    return sum(line.get("event") == event for line in node.logs)


@pytest.mark.parametrize("damage", DAMAGES)
async def test_case_fault_4_a_push_heals_a_damaged_layer_of_a_root(
    tmp_path: Path, damage: Callable[[Path], None]
) -> None:
    async with running(tmp_path) as node:
        assert len(await pushed(node, "a", "x")) == 2
        assert await pushed(node, "b", "y") == [str(DIGEST), str(Digest.of(CONFIG))]
        assert await pulled(node, "a")
        assert await troubles(node) == []
        damage(file_of(node.data, DIGEST))

        assert not await pulled(node, "a")  # whoever finds it
        for name in "ab":
            head = await node.ask("HEAD", f"/v2/{name}/blobs/{DIGEST}")
            answer = await node.ask("GET", f"/v2/{name}/blobs/{DIGEST}")
            assert (head.status, answer.status) == (404, 404)
            assert b"push it again" in answer.body
        mount = await node.ask("POST", f"/v2/c/blobs/uploads/?mount={DIGEST}&from=a", b"")
        assert mount.status == 202
        (trouble,) = await troubles(node)
        assert f"1 blob(s) are damaged: {DIGEST} in a, b" in trouble
        assert errors_told(node, "blob damaged") == 1
        assert (await node.ask("GET", "/v2/a/manifests/x")).status == 200
    problems = fsck(tmp_path / "data").problems
    assert problems
    assert all(str(DIGEST) in problem and "in a, b; " in problem for problem in problems)
    async with running(tmp_path) as node:
        assert await pushed(node, "b", "y") == [str(DIGEST)]
        for name in "ab":
            assert await pulled(node, name)
            assert (await node.ask("HEAD", f"/v2/{name}/blobs/{DIGEST}")).status == 200
        mount = await node.ask("POST", f"/v2/c/blobs/uploads/?mount={DIGEST}&from=a", b"")
        assert mount.status == 201
        assert await troubles(node) == []
    assert fsck(tmp_path / "data", (1, 1)).problems == []


async def test_case_fault_4_a_bad_first_chunk_is_refused_and_never_begun(tmp_path: Path) -> None:
    async with running(tmp_path) as node:
        await pushed(node, "a", "x")
        first_chunk(file_of(node.data, DIGEST))
        answer = await node.ask("GET", f"/v2/a/blobs/{DIGEST}")
        assert (answer.status, answer.complete) == (404, True)
        assert b"push it again" in answer.body


async def test_case_fault_4_damage_is_known_after_a_restart(tmp_path: Path) -> None:
    async with running(tmp_path) as node:
        await pushed(node, "a", "x")
        bad_chunk(file_of(node.data, DIGEST))
        assert not await pulled(node, "a")
    async with running(tmp_path) as node:
        assert (await node.ask("HEAD", f"/v2/a/blobs/{DIGEST}")).status == 404
        assert len(await troubles(node)) == 1
        assert await pushed(node, "a", "x") == [str(DIGEST)]
        assert await pulled(node, "a")


async def test_case_fault_4_a_lost_file_is_found_by_head(tmp_path: Path) -> None:
    async with running(tmp_path) as node:
        await pushed(node, "a", "x")
        directory(file_of(node.data, DIGEST))
        assert await pushed(node, "a", "x") == [str(DIGEST)]
        assert await pulled(node, "a")


async def test_case_fault_4_who_may_only_pull_hears_of_a_fault(tmp_path: Path) -> None:
    """On a node where anybody may pull: who asks matters only once something is damaged."""
    async with running(tmp_path, msgspec.structs.replace(CLOSED, anonymous="pull")) as node:
        pusher = Client(node, "pusher", await token(node, "pusher", *actions("a", *ALL)))
        puller = Client(node, "puller", await token(node, "puller", *actions("a", *READ)))
        other = Client(node, "other", await token(node, "other", *actions("b", *ALL)))
        await pushed(node, "a", "x", ask=pusher.ask)
        bad_chunk(file_of(node.data, DIGEST))
        assert not await pulled(node, "a", puller.ask)
        for client in (puller, other, Client(node)):
            for method in ("HEAD", "GET"):
                answer = await client.ask(method, f"/v2/a/blobs/{DIGEST}")
                assert answer.status == 500
            assert b"damaged" in answer.body
            assert b"BLOB_UNKNOWN" in answer.body
        assert await pushed(node, "a", "x", ask=pusher.ask) == [str(DIGEST)]
        assert await pulled(node, "a", puller.ask)


async def test_case_fault_4_sound_ranges_of_a_damaged_blob_are_served(tmp_path: Path) -> None:
    async with running(tmp_path) as node:
        await pushed(node, "a", "x")
        bad_chunk(file_of(node.data, DIGEST))
        assert not await pulled(node, "a")
        path = f"/v2/a/blobs/{DIGEST}"
        for span, status in (("0-99", 206), ("2097152-", 206), ("1048576-1048577", 404), ("0-1048576", 404)):
            answer = await node.ask("GET", path, Range=f"bytes={span}")
            assert answer.status == status
            if status == 206:
                start = int(span.partition("-")[0])
                assert answer.body == LAYER[start : start + len(answer.body)]


@pytest.mark.parametrize("reference", ["x", "digest"])
@pytest.mark.parametrize("damage", [first_chunk, short, Path.unlink])
async def test_case_fault_4_a_push_heals_a_damaged_manifest_in_a_file(
    tmp_path: Path, damage: Callable[[Path], None], reference: str
) -> None:
    body = image(str(Digest.of(b"c")), str(Digest.of(b"l")), annotations={"long": "x" * 3000})
    async with running(tmp_path, msgspec.structs.replace(OPEN, inline_bytes=0)) as node:
        await node.blob("a", b"c")
        await node.blob("a", b"l")
        digest = Digest.of(body)
        for name in ("a", "b"):
            for blob in (b"c", b"l"):
                await node.blob(name, blob)
            assert (await node.put(name, "x", body)).status == 201
        damage(file_of(node.data, digest))
        path = f"/v2/a/manifests/{'x' if reference == 'x' else digest}"
        for method in ("GET", "HEAD", "GET"):
            assert (await node.ask(method, path)).status == 404
        assert str(digest) in (await troubles(node))[0]
        assert (await node.put("b", "x", body)).status == 201
        answer = await node.ask("GET", path)
        assert (answer.status, answer.body) == (200, body)
        assert await troubles(node) == []


async def test_case_fault_4_an_image_is_not_pushed_onto_a_damaged_layer(tmp_path: Path) -> None:
    async with running(tmp_path) as node:
        await pushed(node, "a", "x")
        file_of(node.data, DIGEST).unlink()
        answer = await node.put("a", "z", image(str(Digest.of(CONFIG)), str(DIGEST)))
        assert answer.status == 400
        assert str(DIGEST) in answer.body.decode()


async def test_case_fault_4_a_repeated_put_is_no_201_for_what_is_damaged(tmp_path: Path) -> None:
    async with running(tmp_path) as node:
        session = await begin(node)
        assert (await session.put(str(DIGEST), LAYER)).status == 201
        assert (await session.put(str(DIGEST))).status == 201
        file_of(node.data, DIGEST).unlink()
        assert (await session.put(str(DIGEST))).status == 404


@pytest.mark.parametrize("damage", DAMAGES)
async def test_case_fault_4_owned_content_under_a_parent(
    tmp_path: Path, damage: Callable[[Path], None]
) -> None:
    """What the parent has it gives; what it lacks is pushed again, and then goes up."""
    async with (
        pushing(tmp_path / "root", OPEN) as root,
        pushing(tmp_path / "child", READ_WRITE, root) as child,
    ):
        assert len(await pushed(child, "a", "x")) == 2
        damage(file_of(child.data, DIGEST))
        assert not await pulled(child, "a")
        assert (await child.ask("HEAD", f"/v2/a/blobs/{DIGEST}")).status == 404
        assert len(await troubles(child)) == 1
        # the outbox does not carry up what is damaged
        climbs = child.keeper.parts.senders[:] = child.idle_senders
        while not (kinds := [e.trouble.kind for e in climbs[0]._rows.queue if e.trouble]):
            assert await climbs[0].step()
        assert kinds == ["damaged"]
        assert root.store.blobs.get("a", DIGEST) is None or damage is bad_chunk
        assert await pushed(child, "a", "x") == [str(DIGEST)]
        assert await troubles(child) == []
        await climbs[0]._rows.retry_damaged()
        while await climbs[0].step():
            pass
        assert child.store.references.outbox.rows() == []
        assert await pulled(root, "a")
        # now the parent has it: damage is mended in the request
        damage(file_of(child.data, DIGEST))
        answer = await child.ask("GET", f"/v2/a/blobs/{DIGEST}")
        assert (answer.status, answer.complete, answer.body == LAYER) == (200, True, True)
        assert await troubles(child) == []


@pytest.mark.parametrize("damage", DAMAGES)
async def test_case_fault_4_cached_content_of_a_read_only_node(
    tmp_path: Path, damage: Callable[[Path], None]
) -> None:
    """Mended in the request while the parent is there; told as what it is while it is not."""
    async with pushing(tmp_path / "root", OPEN) as root:
        await pushed(root, "a", "x")
        async with pushing(tmp_path / "child", Configuration(), root) as child:
            assert await pulled(child, "a")
            damage(file_of(child.data, DIGEST))
            assert await pulled(child, "a")
            assert await troubles(child) == []
            damage(file_of(child.data, DIGEST))
            await child.keeper.turn_parent("default", "offline")
            for _ in range(2):
                answer = await child.ask("GET", f"/v2/a/blobs/{DIGEST}")
            assert answer.status == 503
            assert (await child.ask("HEAD", f"/v2/a/blobs/{DIGEST}")).status == 503
            await child.keeper.turn_parent("default", "auto")
            assert await pulled(child, "a")
    assert fsck(tmp_path / "child", (1, 1)).problems == []
