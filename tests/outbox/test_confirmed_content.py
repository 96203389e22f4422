"""What was pushed to a node goes up, is evicted by the word of its parent, and comes back from there; real stores and
real sockets."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec
import pytest
from holdfast.config import StoreSection
from holdfast.errors import ParentErred
from holdfast.testing.fault import ScriptedFault
from holdfast.testing.scripted_parent import ScriptedParent
from holdfast_core.digest import Digest
from support.caches import MIB
from support.patience import patience
from support.pushing import OCI_INDEX, OPEN, Registry, image, index, pushing
from support.stores import some_bytes

BUDGET = StoreSection(max_bytes=64 * MIB, min_free="0")
CHILD = msgspec.structs.replace(OPEN, mode="ReadWrite", store=BUDGET)
LAYER = some_bytes(100_000, 3)


@asynccontextmanager
async def two(place: Path) -> AsyncIterator[tuple[Registry, Registry]]:
    """A root, and a ReadWrite node with a budget under it."""
    async with (
        pushing(place / "root", OPEN) as root,
        pushing(place / "child", CHILD, root, going_up=True) as child,
    ):
        yield root, child


async def push(node: Registry, name: str = "a", tag: str = "v1") -> bytes:
    """Push an image of one layer; its manifest."""
    body = image(await node.blob(name, b"{}"), await node.blob(name, LAYER))
    assert (await node.put(name, tag, body)).status == 201
    return body


async def sent(node: Registry) -> None:
    """Wait until nothing is left to go up."""
    async with patience():
        while node.store.references.outbox.rows():
            await asyncio.sleep(0.01)


async def evicted(node: Registry) -> int:
    """Ask for more room than there is; how many bytes went."""
    return await node.keeper.parts.eviction.make_room(64 * MIB)


def has_layer(node: Registry, name: str = "a") -> bool:
    return node.store.blobs.get(name, Digest.of(LAYER)) is not None


async def test_it_goes_once_the_parent_confirmed_it_and_comes_back_byte_for_byte(tmp_path: Path) -> None:
    async with two(tmp_path) as (_, child):
        body = await push(child)
        await sent(child)
        assert await evicted(child) >= len(LAYER)
        assert not has_layer(child)
        assert child.store.references.tag("a", "v1") is None
        assert child.store.space.account().files == 0
        answer = await child.ask("GET", "/v2/a/manifests/v1")
        assert (answer.status, answer.body) == (200, body)
        answer = await child.ask("GET", f"/v2/a/blobs/{Digest.of(LAYER)}")
        assert (answer.status, answer.body) == (200, LAYER)
        assert not child.store.references.outbox.rows()


async def test_an_index_and_its_platforms_go_together(tmp_path: Path) -> None:
    async with two(tmp_path) as (_, child):
        digest = str(Digest.of(await push(child, tag="arm")))
        whole = index(digest)
        assert (await child.put("a", "all", whole, OCI_INDEX)).status == 201
        assert (await child.ask("DELETE", "/v2/a/manifests/arm")).status == 202
        await sent(child)
        assert await evicted(child) >= len(LAYER)
        assert child.store.references.manifest("a", Digest.of(whole)) is None
        assert child.store.references.manifest("a", Digest.parse(digest)) is None


async def test_bytes_that_two_confirmed_images_share_go_with_both(tmp_path: Path) -> None:
    async with two(tmp_path) as (_, child):
        await push(child, "a")
        await push(child, "b")
        await sent(child)
        outbox, digest = child.store.references.outbox, Digest.of(LAYER)
        await asyncio.wrap_future(outbox.withdraw("b", [digest]))
        assert await evicted(child) == 0
        assert has_layer(child, "b")
        await child.ask("DELETE", "/v2/b/manifests/v1")
        await push(child, "b")
        await sent(child)
        await push(child, "a", tag="v2")
        await sent(child)
        assert await evicted(child) >= len(LAYER)
        assert not has_layer(child, "a")
        assert not has_layer(child, "b")


async def test_what_is_not_at_the_parent_yet_stays(tmp_path: Path) -> None:
    async with pushing(tmp_path / "root", OPEN) as root:
        pass
    async with pushing(tmp_path / "child", CHILD, root, going_up=True) as child:
        await push(child)
        assert await evicted(child) == 0
        assert has_layer(child)


async def test_a_layer_whose_manifest_never_came_stays(tmp_path: Path) -> None:
    async with two(tmp_path) as (_, child):
        await child.blob("a", LAYER)
        await sent(child)
        assert await evicted(child) == 0
        assert has_layer(child)


async def test_what_was_pushed_before_there_was_a_parent_stays(tmp_path: Path) -> None:
    async with pushing(tmp_path / "child", CHILD) as child:
        await push(child)
    async with two(tmp_path) as (root, child):
        await push(root)
        assert await evicted(child) == 0
        assert has_layer(child)


async def test_a_new_push_is_kept_until_it_is_confirmed_again(tmp_path: Path) -> None:
    async with two(tmp_path) as (_, child):
        await push(child)
        await sent(child)
        await child.blob("a", LAYER)
        assert await evicted(child) == 0
        assert has_layer(child)
        await push(child, tag="v2")
        await sent(child)
        assert await evicted(child) >= len(LAYER)


async def test_an_image_that_the_parent_had_before_is_confirmed_by_asking(tmp_path: Path) -> None:
    """Nothing is sent of it: the parent is asked for the manifest and for each blob."""
    async with two(tmp_path) as (root, child):
        await push(root)
        await push(child)
        await sent(child)
        digest = Digest.of(LAYER)
        assert child.store.references.outbox.confirmed_by("a", digest) == child.keeper.parents[""].mark
        assert await evicted(child) >= len(LAYER)


async def test_a_blob_that_the_parent_lacks_of_an_image_that_it_has_is_not_confirmed(tmp_path: Path) -> None:
    async with two(tmp_path) as (root, child):
        body = await push(root)
        root.store.blobs.delete("a", Digest.of(LAYER), now=1e9).result()
        await push(child)
        await sent(child)
        outbox = child.store.references.outbox
        assert outbox.confirmed_by("a", Digest.of(body)) == child.keeper.parents[""].mark
        assert outbox.confirmed_by("a", Digest.of(LAYER)) == b""
        assert await evicted(child) == 0
        assert has_layer(child)


@pytest.mark.parametrize("lost", ["manifest", "blob"])
async def test_what_the_parent_lost_since_stays_and_is_owned_again(tmp_path: Path, lost: str) -> None:
    async with two(tmp_path) as (root, child):
        body = await push(child)
        await sent(child)
        gone = Digest.of(body if lost == "manifest" else LAYER)
        references, blobs = root.store.references, root.store.blobs
        delete = references.delete_manifest if lost == "manifest" else blobs.delete
        delete("a", gone, now=1e9).result()
        assert await evicted(child) == 0
        assert has_layer(child)
        assert child.store.references.outbox.confirmed_by("a", gone) == b""
        assert any(line.get("event") == "parent lost what it confirmed" for line in child.logs)


async def test_it_stays_while_the_parent_cannot_be_asked(tmp_path: Path) -> None:
    async with two(tmp_path) as (_, child):
        await push(child)
        await sent(child)

        async def refuses(name: str, tail: str) -> bool:
            raise ParentErred("the parent is busy (503)")

        parent = child.keeper.parents[""]
        asked, parent.up.has = parent.up.has, refuses  # type: ignore[method-assign]
        assert await evicted(child) == 0
        confirmed, manifest = child.keeper.parts.eviction._confirmed, child.store.references.tag("a", "v1")
        assert manifest is not None
        held = child.store.space.holding("a", manifest.digest, now=1e9, parent=parent.mark)
        assert held is not None
        requests = parent.counters["requests"]
        parent.up.has = asked  # type: ignore[method-assign]
        await child.keeper.turn_parent("default", "offline")
        assert confirmed.parent_of("a") == b""
        assert not await confirmed.is_at_parent(held)
        assert await evicted(child) == 0
        assert has_layer(child)
        assert parent.counters["requests"] == requests
        await child.keeper.turn_parent("default", "auto")
        async with patience():
            while await evicted(child) < len(LAYER):
                await asyncio.sleep(0.05)


async def test_the_word_of_a_former_parent_does_not_count(tmp_path: Path) -> None:
    async with two(tmp_path) as (_, child):
        await push(child)
        await sent(child)
    async with (
        pushing(tmp_path / "other", OPEN) as other,
        pushing(tmp_path / "child", CHILD, other, going_up=True) as child,
    ):
        await push(other)
        assert await evicted(child) == 0
        assert has_layer(child)


async def test_a_node_may_keep_what_was_pushed_to_it(tmp_path: Path) -> None:
    config = msgspec.structs.replace(CHILD, store=msgspec.structs.replace(BUDGET, evict_confirmed=False))
    async with (
        pushing(tmp_path / "root", OPEN) as root,
        pushing(tmp_path / "child", config, root, going_up=True) as child,
    ):
        await push(child)
        await sent(child)
        assert await evicted(child) == 0
        assert has_layer(child)


async def test_a_push_while_the_parent_is_asked_keeps_it(tmp_path: Path) -> None:
    async with two(tmp_path) as (_, child):
        await push(child)
        await sent(child)
        up = child.keeper.parents[""].up
        asked = up.has

        async def pushed_meanwhile(name: str, tail: str) -> bool:
            await child.blob("a", LAYER)
            return await asked(name, tail)

        up.has = pushed_meanwhile  # type: ignore[method-assign]
        assert await evicted(child) == 0
        assert has_layer(child)


Answers = Callable[[ScriptedParent, str], None]


def another_digest(parent: ScriptedParent, path: str) -> None:
    other = ("Docker-Content-Digest", f"sha256:{0:064x}")
    parent.script(ScriptedFault(method="PUT", path=path, status=201, headers=[other], times=-1))


def accepted(parent: ScriptedParent, path: str) -> None:
    parent.script(ScriptedFault(method="PUT", path=path, status=202, times=-1))


def no_digest(parent: ScriptedParent, path: str) -> None:
    """And then it does not have it."""
    parent.script(ScriptedFault(method="PUT", path=path, status=201, times=-1))


@pytest.mark.parametrize("answers", [another_digest, accepted, no_digest])
async def test_an_answer_that_does_not_say_that_it_has_it_confirms_nothing(
    tmp_path: Path, answers: Answers
) -> None:
    async with ScriptedParent() as parent:
        for content in (b"{}", LAYER):
            parent.add_blob("a", content)
        answers(parent, "/v2/a/manifests/")
        async with pushing(tmp_path / "child", CHILD, parent, going_up=True) as child:
            await push(child)
            async with patience():
                while not any(line.get("event") == "outbox entry refused" for line in child.logs):
                    await asyncio.sleep(0.01)
            assert child.store.references.outbox.confirmed_by("a", Digest.of(LAYER)) == b""
            assert await evicted(child) == 0
            assert has_layer(child)
