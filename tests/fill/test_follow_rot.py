"""A body that follows a fill is what the parent sent, also when the disk brings part of it back changed."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from holdfast.clock import SystemClock
from holdfast.endpoint.blobs import FillSource, StoredSource
from holdfast.errors import NodeFailed
from holdfast.testing.port import ScriptedPort
from holdfast.testing.random_content import GeneratedContent
from holdfast_core.blob_files.page_cache import in_memory
from holdfast_core.digest import Digest
from holdfast_core.errors import ChunkDamaged
from support.disk import Disk
from support.fills import MIB, Site, site, until
from support.pages import drop_cached

pytestmark = [pytest.mark.loop("asyncio"), pytest.mark.disk]

HOLDBACK = 64 << 10
SIZE = 4 * MIB
BODY = GeneratedContent(SIZE).read(0, SIZE)


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    with Disk(tmp_path / "disk", "ext4", 400 << 20) as made:
        yield made


async def following(node: Site, stored: bool = True) -> tuple[FillSource, Path]:
    """A reader of a fill that stalls when three of four chunks are here and two hashed, and the growing file."""
    node.script(stall_after=3 * MIB)
    digest = node.parent.add_blob("demo", BODY)
    answer = await node.fills.open("demo", digest, 0, -1, True)
    reader = await node.fills.attach(answer.fill, 0, answer.size, True)

    def opened() -> StoredSource | None:
        blob = node.store.blobs.anywhere(Digest.parse(digest))
        assert blob is not None
        return (
            StoredSource(node.store.blobs.open(blob), ScriptedPort(node.store, SystemClock()), "demo", digest)
            if stored
            else None
        )

    source = FillSource([(0, answer.size, reader)], answer.size, HOLDBACK, None, opened)
    await until(lambda: reader.available(0) == 3 * MIB)
    frontier = node.fills._numbered(answer.fill).received.frontier
    assert frontier is not None
    await until(lambda: frontier.position >= 2 * MIB)
    (part,) = (node.store.path / "fills").iterdir()
    return source, part


async def sent(source: FillSource, start: int, end: int, *, lend: bool) -> bytes:
    """What a client gets of [start, end), by sendfile or by reading."""
    body = b""
    while start + len(body) < end:
        at = start + len(body)
        await source.arrived(at)
        loan = source.lend(at, end - at) if lend else None
        piece = await source.read(at, end - at) if loan is None else os.pread(loan[0], loan[1], at)
        body += piece
    return body


@pytest.mark.parametrize("lend", [True, False])
@pytest.mark.parametrize("rotten", [True, False])
async def test_case_fault_1_what_the_disk_brings_back_to_a_follower(
    disk: Disk, lend: bool, rotten: bool
) -> None:
    """Its body does not complete when it is not what came in."""
    async with site(disk.root) as node:
        source, part = await following(node)
        first = await sent(source, 0, MIB, lend=lend)
        drop_cached(part)
        if rotten:
            disk.flip(part, MIB + MIB // 2)
        body = first + await sent(source, MIB, 2 * MIB, lend=lend)
        assert (body == BODY[: 2 * MIB]) is not rotten
        await release(node)
        body += await sent(source, 2 * MIB, SIZE - HOLDBACK, lend=lend)
        if rotten:
            with pytest.raises(ChunkDamaged):
                await sent(source, SIZE - HOLDBACK, SIZE, lend=lend)
        else:
            assert body + await sent(source, SIZE - HOLDBACK, SIZE, lend=lend) == BODY
            assert node.store.statistics().checked_chunks == 2
        source.close()
        assert node.store.statistics().open_readers == 0


async def release(node: Site) -> None:
    """The stalled transfer breaks off, and the next one brings the rest."""
    await node.parent.stop()
    await node.parent.start()


async def test_case_fault_1_the_end_of_a_followed_body_rots(disk: Disk) -> None:
    """After the verdict, while the client was slow: the parent's bytes leave, or none."""
    async with site(disk.root) as node:
        source, part = await following(node)
        await release(node)
        assert await sent(source, 0, SIZE - HOLDBACK, lend=True) == BODY[:-HOLDBACK]
        await source.arrived(SIZE - HOLDBACK)
        assert not part.exists()
        (file,) = [f for f in (node.store.path / "blobs").glob("*/*/*") if f.is_file()]
        disk.flip(file, SIZE - 10)
        with pytest.raises(ChunkDamaged):
            await sent(source, SIZE - HOLDBACK, SIZE, lend=True)
        source.close()


async def test_a_blob_that_was_not_kept_proves_nothing(disk: Disk) -> None:
    async with site(disk.root) as node:
        source, part = await following(node, stored=False)
        drop_cached(part)
        assert await sent(source, 0, 2 * MIB, lend=True) == BODY[: 2 * MIB]
        await release(node)
        await sent(source, 2 * MIB, SIZE - HOLDBACK, lend=True)
        with pytest.raises(NodeFailed, match="not kept"):
            await source.read(SIZE - HOLDBACK, HOLDBACK)
        source.close()


@pytest.mark.parametrize("cachestat", [True, False])
def test_what_is_in_memory_is_known(tmp_path: Path, cachestat: bool) -> None:
    path = tmp_path / "file"
    path.write_bytes(BODY)
    with path.open("rb") as file:
        fd = file.fileno()
        assert in_memory(fd, 5, SIZE - 5, cachestat=cachestat)
        drop_cached(path)
        assert not in_memory(fd, 0, 1, cachestat=cachestat)
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_RANDOM)
        os.pread(fd, 1, 3 * MIB)
        assert in_memory(fd, 3 * MIB + 1, 4000, cachestat=cachestat)
        assert not in_memory(fd, 3 * MIB - 1, 2, cachestat=cachestat)
        assert not in_memory(fd, 0, SIZE, cachestat=cachestat)
