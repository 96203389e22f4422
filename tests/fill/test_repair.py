"""What is damaged or lost comes again from the parent by as few requests as can be, and no sound byte with it."""

from __future__ import annotations

import asyncio
import errno
import os
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path

import pytest
from holdfast.errors import ParentBroken, ParentUnreachable
from holdfast.fill.repair import RUN_CHUNKS, TRIES, UnstoredChunk
from holdfast.testing.random_content import GeneratedContent
from holdfast_core.digest import Digest
from holdfast_core.errors import NotHeld
from holdfast_core.filesystem.disk_state import Write
from support.fills import BLOBS, MIB, Site, drain, site, until
from support.pages import evict
from support.stores import file_of, flip_bit

pytestmark = pytest.mark.loop("asyncio")

SIZE = 9 * MIB + 7
CONTENT = GeneratedContent(SIZE)


async def held(node: Site, damaged: list[int] | None = None) -> tuple[str, Path]:
    """A blob that was fetched, with a flipped bit in each of some chunks; nothing was asked for since."""
    digest = node.parent.add_blob("demo", CONTENT)
    await drain(node, digest)
    path = file_of(node.store.path, Digest.parse(digest))
    for chunk in damaged or []:
        flip_bit(path, chunk * MIB + 5)
    node.parent.reset_counts()
    return digest, path


def whole(path: Path) -> bool:
    return path.read_bytes() == CONTENT.read(0, SIZE)


def lose(path: Path) -> None:
    path.unlink()


def cut(path: Path) -> None:
    os.truncate(path, SIZE - MIB)


def directory(path: Path) -> None:
    path.unlink()
    path.mkdir()


@pytest.mark.parametrize("harm", [lose, cut, directory])
@pytest.mark.parametrize("owned", [False, True])
async def test_case_fault_9_a_lost_file_is_one_fill(
    tmp_path: Path, harm: Callable[[Path], None], owned: bool
) -> None:
    """One GET of all of it, whoever comes meanwhile; afterwards it is held as before."""
    async with site(tmp_path) as node:
        digest, path = await held(node)
        if owned:
            node.store.blobs.mount("mine", Digest.parse(digest), source="demo", now=1.0).result()
        harm(path)
        readers = [drain(node, digest) for _ in range(5)]
        assert [await reader == CONTENT.read(0, SIZE) for reader in readers] == [True] * 5
        assert (node.gets(), node.ranges(), node.sent(digest)) == (1, [""], SIZE)
        assert whole(path)
        assert await drain(node, digest) == CONTENT.read(0, SIZE)
        assert node.gets() == 1
        blob = node.store.blobs.get("demo", Digest.parse(digest))
        assert blob is not None
        assert (blob.owned, blob.damaged, owned and blob.boot) == (owned, False, b"" if owned else False)


async def test_case_fault_9_a_lost_file_is_brought_for_nobody_who_waits(tmp_path: Path) -> None:
    async with site(tmp_path) as node:
        digest, path = await held(node)
        lose(path)
        await node.fills.fetch("demo", digest, lambda count: None)
        assert (node.gets(), whole(path)) == (1, True)


async def test_case_fault_9_a_lost_file_of_another_repository_is_no_hit(tmp_path: Path) -> None:
    """It is fetched, not linked."""
    async with site(tmp_path) as node:
        digest, path = await held(node)
        node.parent.add_blob("other", CONTENT)
        lose(path)
        assert await drain(node, digest, repository="other") == CONTENT.read(0, SIZE)
        assert (node.gets(), whole(path)) == (1, True)


async def test_a_run_of_damaged_chunks_is_one_request(tmp_path: Path) -> None:
    """Two runs are two; sound chunks between them do not come."""
    async with site(tmp_path) as node:
        digest, path = await held(node, [1, 2, 3, 6, 9])
        await asyncio.gather(*(node.fills.repair("demo", digest, MIB, 2 * MIB) for _ in range(3)))
        for at in range(0, SIZE, MIB):
            await node.fills.repair("demo", digest, at, min(at + MIB, SIZE))
        assert node.ranges() == [f"bytes={s}-{e - 1}" for s, e in RUNS]
        assert node.sent(digest) == 4 * MIB + 7
        assert whole(path)
        blob = node.store.blobs.get("demo", Digest.parse(digest))
        assert blob is not None
        assert not blob.damaged


ALONE = [(MIB, 2 * MIB), (3 * MIB, 4 * MIB), (9 * MIB, SIZE)]
RUNS = [(MIB, 4 * MIB), (6 * MIB, 7 * MIB), (9 * MIB, SIZE)]


async def test_who_waits_for_the_first_chunk_of_a_run_has_it_first(tmp_path: Path) -> None:
    async with site(tmp_path) as node:
        digest, path = await held(node, [1, 2, 3])
        node.script(stall_after=MIB + MIB // 2)
        await node.fills.repair("demo", digest, MIB, 2 * MIB)
        assert node.gets() == 1
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.2):
                await node.fills.repair("demo", digest, 3 * MIB, 4 * MIB)
        assert node.gets() == 1
        assert not whole(path)


async def test_a_run_that_is_cut_goes_on_where_it_was(tmp_path: Path) -> None:
    async with site(tmp_path) as node:
        digest, path = await held(node, [1, 2, 3])
        node.script(cut_after=MIB + 1000)
        await node.fills.repair("demo", digest, MIB, 4 * MIB)
        assert (node.gets(), node.sent(digest)) == (2, 3 * MIB)
        assert whole(path)


async def test_a_parent_that_never_sends_it_is_given_up(tmp_path: Path) -> None:
    async with site(tmp_path) as node:
        digest, _ = await held(node, [4])
        node.script(cut_after=0, times=3)
        with pytest.raises(ParentUnreachable):
            await node.fills.repair("demo", digest, 4 * MIB, 5 * MIB)
        await node.fills.repair("demo", digest, 4 * MIB, 5 * MIB)


async def test_a_parent_whose_blob_is_shorter_is_refused_at_once(tmp_path: Path) -> None:
    async with site(tmp_path) as node:
        digest, path = await held(node, [4])
        node.parent.repositories["demo"].blobs[digest] = GeneratedContent(4 * MIB + 100)
        with pytest.raises(ParentBroken, match="ends before byte"):
            await node.fills.repair("demo", digest, 4 * MIB, 5 * MIB)
        assert (node.gets(), whole(path)) == (1, False)


async def test_a_parent_that_sends_a_little_each_time_is_asked_until_all_is_here(tmp_path: Path) -> None:
    """Only tries that bring nothing count."""
    async with site(tmp_path) as node:
        digest, path = await held(node, [4])
        node.script(cut_after=200_000, times=5)
        await node.fills.repair("demo", digest, 4 * MIB, 5 * MIB)
        assert (node.gets(), node.sent(digest), whole(path)) == (6, MIB, True)


async def test_a_repair_with_wrong_bytes_is_refused(tmp_path: Path) -> None:
    async with site(tmp_path) as node:
        digest, path = await held(node, [1])
        node.script(flip_at=MIB + 9)
        with pytest.raises(ParentBroken):
            await node.fills.repair("demo", digest, MIB, 2 * MIB)
        assert not whole(path)
        await node.fills.repair("demo", digest, MIB, 2 * MIB)
        assert whole(path)


async def test_what_is_sound_is_not_fetched(tmp_path: Path) -> None:
    """Somebody else repaired it, or only the copy in memory was bad."""
    async with site(tmp_path) as node:
        digest, path = await held(node)
        evict(path)
        await node.fills.repair("demo", digest, 2 * MIB, 3 * MIB)
        assert node.parent.count("GET", BLOBS) == 0
        with pytest.raises(NotHeld):
            await node.fills.repair("demo", "sha256:" + "0" * 64, 0, MIB)


async def test_a_long_run_is_several_requests(tmp_path: Path) -> None:
    """So that no more is looked at than is worth a request."""
    async with site(tmp_path) as node:
        content = GeneratedContent((RUN_CHUNKS + 2) * MIB)
        digest = node.parent.add_blob("demo", content)
        await drain(node, digest)
        path = file_of(node.store.path, Digest.parse(digest))
        with path.open("r+b") as file:
            for chunk in range(RUN_CHUNKS + 2):
                file.seek(chunk * MIB)
                file.write(b"rotten")
        node.parent.reset_counts()
        for at in range(0, content.size, MIB):
            await node.fills.repair("demo", digest, at, at + MIB)
        assert (node.gets(), node.sent(digest)) == (2, content.size)


def refuse_writes(node: Site) -> None:
    node.store.condition.met(Write.FILE, errno.EROFS, "read-only")


async def test_case_fault_9_a_chunk_that_the_disk_does_not_take_goes_to_those_who_wait(
    tmp_path: Path,
) -> None:
    """It comes alone: nothing of the run behind it, and once for all."""
    async with site(tmp_path) as node:
        digest, path = await held(node, [1, 2, 3, 9])
        refuse_writes(node)
        asks = [asyncio.ensure_future(node.fills.repair("demo", digest, MIB, 4 * MIB)) for _ in range(3)]
        last = asyncio.ensure_future(node.fills.repair("demo", digest, 3 * MIB, 4 * MIB))
        assert await asyncio.gather(*asks) == [UnstoredChunk(MIB, CONTENT.read(MIB, MIB))] * 3
        assert await last == UnstoredChunk(3 * MIB, CONTENT.read(3 * MIB, MIB))
        assert await node.fills.repair("demo", digest, 9 * MIB, SIZE) == UnstoredChunk(
            9 * MIB, CONTENT.read(9 * MIB, 7)
        )
        assert node.ranges() == [f"bytes={s}-{e - 1}" for s, e in ALONE]
        assert not whole(path)


async def test_case_fault_9_who_waits_for_a_later_chunk_has_that_one(tmp_path: Path) -> None:
    """The disk takes the first chunk of a run and no other; somebody waits for the third."""
    async with site(tmp_path) as node:
        digest, _ = await held(node, [1, 2, 3])
        put = node.store.blobs.repair_chunk

        def once(wanted: Digest, start: int, body: bytes) -> Future[None]:
            done = put(wanted, start, body)
            done.result()
            refuse_writes(node)
            return done

        node.store.blobs.repair_chunk = once  # type: ignore[method-assign,assignment]
        first = asyncio.ensure_future(node.fills.repair("demo", digest, MIB, 4 * MIB))
        third = asyncio.ensure_future(node.fills.repair("demo", digest, 3 * MIB, 4 * MIB))
        assert await first == UnstoredChunk(2 * MIB, CONTENT.read(2 * MIB, MIB))
        assert await third == UnstoredChunk(3 * MIB, CONTENT.read(3 * MIB, MIB))


async def test_case_fault_9_wrong_bytes_do_not_pass_a_disk_that_takes_nothing(tmp_path: Path) -> None:
    async with site(tmp_path) as node:
        digest, _ = await held(node, [1])
        refuse_writes(node)
        node.script(flip_at=MIB + 9)
        with pytest.raises(ParentBroken):
            await node.fills.repair("demo", digest, MIB, 2 * MIB)


@pytest.mark.parametrize("harm", [lose, lambda path: flip_bit(path, 5)])
async def test_each_repository_of_a_parent_is_asked_until_one_has_the_blob(
    tmp_path: Path, harm: Callable[[Path], None]
) -> None:
    """Two of the three repositories that had it at the parent are gone there."""
    async with site(tmp_path) as node:
        digest, path = await held(node)
        for name in ("more", "other"):
            node.parent.add_blob(name, CONTENT)
            await drain(node, digest, repository=name)
        await until(lambda: all(node.held(name, digest) for name in ("demo", "more", "other")))
        for name in ("demo", "more"):
            del node.parent.repositories[name].blobs[digest]
        harm(path)
        await node.fills.repair("demo", digest, 0, MIB)
        assert whole(path)


async def test_a_parent_that_is_away_is_not_asked_for_every_repository(tmp_path: Path) -> None:
    async with site(tmp_path) as node:
        digest, path = await held(node)
        node.parent.add_blob("other", CONTENT)
        await drain(node, digest, repository="other")
        await until(lambda: node.held("other", digest))
        flip_bit(path, MIB)
        node.parent.reset_counts()
        node.script(cut_after=0, times=2 * TRIES)
        with pytest.raises(ParentUnreachable):
            await node.fills.repair("demo", digest, MIB, 2 * MIB)
        assert node.gets() == TRIES
