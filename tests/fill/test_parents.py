"""Two parents, one of them hostile: what one of them sends, or only claims to have, is never taken for the other's."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from holdfast.clock import SystemClock
from holdfast.config import FillsSection as Policy
from holdfast.config import ParentSection as Where
from holdfast.errors import ParentUnreachable, Refusal
from holdfast.fill.registry import FillRegistry
from holdfast.parent.client import Parent
from holdfast.testing.fault import ScriptedFault
from holdfast.testing.random_content import GeneratedContent
from holdfast.testing.scripted_parent import ScriptedParent
from holdfast_core.digest import Digest
from holdfast_core.store import Store
from support.fills import BLOBS, MIB, Site, drain, until

pytestmark = pytest.mark.loop("asyncio")

#: the repository at the owner's parent, and one at the other parent
OURS, THEIRS = "private/app", "evil:yes"


@asynccontextmanager
async def two_parents(path: Path) -> AsyncIterator[tuple[Site, ScriptedParent]]:
    """A node with the owner's parent, which is the default one, and another. Its fills go on where they stopped."""
    store = Store.create_or_open(path / "store", write=True)
    try:
        async with ScriptedParent() as ours, ScriptedParent() as theirs, filling(store, ours, theirs) as node:
            yield node, theirs
    finally:
        store.close()


@asynccontextmanager
async def filling(store: Store, ours: ScriptedParent, theirs: ScriptedParent) -> AsyncIterator[Site]:
    clock = SystemClock()
    clients = {
        name: Parent(Where(url=parent.url, name=name, insecure=True), clock)
        for name, parent in (("", ours), ("evil", theirs))
    }
    fills = FillRegistry(store, clients.__getitem__, Policy(reserve_bytes=0), clock)
    await fills.start()
    try:
        yield Site(ours, store, clients[""], fills)
    finally:
        await fills.close()
        for client in clients.values():
            await client.close()


def gets(parent: ScriptedParent) -> int:
    return parent.count("GET", BLOBS)


async def test_s11_case_trust_1_a_heads_answer_opens_nothing_that_another_parent_sent(tmp_path: Path) -> None:
    """The other parent says that it has the blob, and sends other bytes."""
    async with two_parents(tmp_path) as (node, evil):
        content = GeneratedContent(2 * MIB)
        digest = node.parent.add_blob(OURS, content)
        await drain(node, digest, repository=OURS)
        evil.repository("yes").blobs[digest] = GeneratedContent(2 * MIB, "lies")
        assert await node.fills._size_at_parent(THEIRS, Digest.parse(digest)) == 2 * MIB  # so it says
        with pytest.raises(Refusal):
            await drain(node, digest, repository=THEIRS)
        assert not node.held(THEIRS, digest)
        # and what it sent did the owner's bytes no harm
        assert await drain(node, digest, repository=OURS) == content.read(0, content.size)


async def test_case_trust_1_bytes_that_a_parent_did_send_are_its_own(tmp_path: Path) -> None:
    """It has the blob indeed: it sends it once, the store keeps it once, and another repository there needs no more
    than the word of the parent."""
    async with two_parents(tmp_path) as (node, other):
        content = GeneratedContent(2 * MIB)
        digest = node.parent.add_blob(OURS, content)
        for repository in ("yes", "more"):
            other.add_blob(repository, content)
        await drain(node, digest, repository=OURS)
        for repository in (THEIRS, "evil:more"):
            assert await drain(node, digest, repository=repository) == content.read(0, content.size)
        await until(lambda: node.held("evil:more", digest))
        assert (gets(node.parent), gets(other), other.count("HEAD", "more" + BLOBS)) == (1, 1, 1)
        assert list((tmp_path / "store" / "fills").iterdir()) == []


async def test_case_trust_1_a_fill_of_another_parent_is_nobody_elses(tmp_path: Path) -> None:
    """While the other parent sends wrong bytes, slowly, the owner's pull gets the right ones from his own parent."""
    async with two_parents(tmp_path) as (node, evil):
        content = GeneratedContent(2 * MIB)
        digest = node.parent.add_blob(OURS, content)
        evil.repository("yes").blobs[digest] = GeneratedContent(2 * MIB, "lies")
        evil.script(ScriptedFault(method="GET", path=BLOBS, stall_after=MIB))
        attack = drain(node, digest, repository=THEIRS)
        await until(lambda: node.fills.counters["unique_bytes"] == MIB)
        assert await drain(node, digest, repository=OURS) == content.read(0, content.size)
        assert node.held(OURS, digest)
        assert not attack.done()
        attack.cancel()
        assert not node.held(THEIRS, digest)


async def test_case_trust_1_a_damaged_chunk_comes_from_any_parent_that_has_the_blob(tmp_path: Path) -> None:
    """The owner's parent is away. The other one sends what the hash of the chunk proves, or it is not taken; when both
    fail the reason is that of the owner's parent."""
    async with two_parents(tmp_path) as (node, other):
        content = GeneratedContent(2 * MIB)
        digest = node.parent.add_blob(OURS, content)
        other.add_blob("yes", content)
        for repository in (OURS, THEIRS):
            await drain(node, digest, repository=repository)
        node.parent.script(ScriptedFault(method="GET", path=BLOBS, drop=True, times=-1))
        file = next((tmp_path / "store" / "blobs").rglob(digest.partition(":")[2]))
        with file.open("r+b") as damaged:
            damaged.seek(MIB + 5)
            damaged.write(b"rotten")
        other.script(ScriptedFault(method="GET", path=BLOBS, flip_at=MIB + 7))
        with pytest.raises(ParentUnreachable):
            await node.fills.repair(OURS, digest, MIB, MIB + 1)
        await node.fills.repair(OURS, digest, MIB, MIB + 1)
        assert await drain(node, digest, repository=OURS) == content.read(0, content.size)


async def test_case_trust_1_parts_of_two_parents_do_not_meet_after_a_restart(tmp_path: Path) -> None:
    """Both fills stopped at their half: each goes on with its own bytes."""
    store = Store.create_or_open(tmp_path / "store", write=True)
    async with ScriptedParent() as ours, ScriptedParent() as evil:
        content = GeneratedContent(4 * MIB)
        digest = ours.add_blob(OURS, content)
        evil.repository("yes").blobs[digest] = GeneratedContent(4 * MIB, "lies")
        async with filling(store, ours, evil) as node:
            for parent in (evil, ours):
                parent.script(ScriptedFault(method="GET", path=BLOBS, stall_after=2 * MIB))
            readers = [drain(node, digest, repository=repository) for repository in (THEIRS, OURS)]
            await until(lambda: node.fills.counters["unique_bytes"] == 4 * MIB)
        await asyncio.gather(*readers, return_exceptions=True)
        store.close()
        store = Store.create_or_open(tmp_path / "store", write=True)
        assert sorted(state.repository for state in store.blobs.fills.states()) == [THEIRS, OURS]
        evil.script(ScriptedFault(method="GET", path=BLOBS, stall_after=0, times=-1))
        async with filling(store, ours, evil) as node:
            assert await drain(node, digest, repository=OURS) == content.read(0, content.size)
            assert node.sent(digest) < content.size + MIB
            # what came in for one of them ends no fill of the other
            assert [state.repository for state in store.blobs.fills.states()] == [THEIRS]
    store.close()
