"""A push that finds a blob, by HEAD or by mount, and names it later, finds it: garbage collection comes at each moment
in between. Three things see to that, and each test fails without its own: the lease of a blob, the 404 to a HEAD whose
lease is nearly over, and the look at all blobs in the transaction of the manifest."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from holdfast_core.digest import Digest
from support.pushing import Registry, code, image, running

HOUR = 3600.0
CONFIG, LAYER = b"{}", b"a layer"


async def collect(node: Registry) -> int:
    """Collect garbage now; how many digests went."""
    report = (await node.keeper.order_collection(False, "x")).report
    assert report is not None
    assert not report.failure
    return report.digests


async def has(node: Registry, name: str, body: bytes) -> bool:
    """Whether a client that pushes finds a blob."""
    return (await node.ask("HEAD", f"/v2/{name}/blobs/{Digest.of(body)}")).status == 200


async def push(node: Registry, name: str, body: bytes, how: str) -> None:
    """As clients do: only what is not found."""
    if how == "mount":
        target = f"/v2/{name}/blobs/uploads/?mount={Digest.of(body)}&from=other"
        assert (await node.ask("POST", target, b"")).status == 201
    elif not await has(node, name, body):
        target = f"/v2/{name}/blobs/uploads/?digest={Digest.of(body)}"
        answer = await node.ask("POST", target, body, Content_Type="application/octet-stream")
        assert answer.status == 201, answer


async def stored_before(node: Registry, name: str, body: bytes, hours: float) -> None:
    """A blob that was pushed so long ago."""
    then = node.clock.now() - hours * HOUR
    node.store.blobs.push_inline(name, Digest.of(body), body, now=then).result()


async def named(node: Registry, name: str) -> None:
    """The manifest is taken, and what it names is here."""
    body = image(*(str(Digest.of(one)) for one in (CONFIG, LAYER)))
    assert (await node.put(name, "v1", body)).status == 201
    assert await collect(node) == 0
    assert [await has(node, name, one) for one in (CONFIG, LAYER)] == [True, True]


@pytest.mark.parametrize("how", ["find", "mount"])
async def test_the_lease_leaves_what_was_pushed_found_or_mounted(tmp_path: Path, how: str) -> None:
    async with running(tmp_path) as node:
        await node.image("other", "v1")
        await node.blob("other", LAYER)
        for body in (CONFIG, LAYER):
            await push(node, "app", body, how if body == LAYER else "find")
        node.clock.advance(10.0)
        assert await collect(node) == 0
        await named(node, "app")


@pytest.mark.parametrize("age", [0.0, 22.0, 22.9, 23.1, 23.9])
async def test_whoever_finds_a_blob_has_time_for_its_manifest(tmp_path: Path, age: float) -> None:
    """One whose lease is nearly over is not found: the client sends it again."""
    async with running(tmp_path) as node:
        await stored_before(node, "app", LAYER, age)
        for body in (CONFIG, LAYER):
            await push(node, "app", body, "find")
        node.clock.advance(0.95 * HOUR)
        await collect(node)
        await named(node, "app")


async def test_a_manifest_whose_blob_goes_before_its_commit_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However slow the client was: it is told what to send again, and no manifest dangles."""
    async with running(tmp_path) as node:
        for body in (CONFIG, LAYER):
            await push(node, "app", body, "find")
        put_manifest, gone = node.keeper.put_manifest, []

        async def collected_first(*arguments: Any) -> None:
            node.clock.advance(25 * HOUR)
            gone.append(await collect(node))
            await put_manifest(*arguments)

        monkeypatch.setattr(node.keeper, "put_manifest", collected_first)
        body = image(*(str(Digest.of(one)) for one in (CONFIG, LAYER)))
        answer = await node.put("app", "v1", body)
        assert (answer.status, code(answer), gone) == (400, "MANIFEST_BLOB_UNKNOWN", [2])
        assert node.store.references.tags("app") == []
        monkeypatch.setattr(node.keeper, "put_manifest", put_manifest)
        for one in (CONFIG, LAYER):
            await push(node, "app", one, "find")
        await named(node, "app")
