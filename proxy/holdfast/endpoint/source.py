"""Where a body's bytes come from: a stored blob, or a fill that is still arriving."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

import structlog
from holdfast_core.digest import CHUNK_BYTES
from holdfast_core.errors import ChunkDamaged, RecordDamaged
from holdfast_core.pages import in_memory

from holdfast.errors import NodeFailed
from holdfast.keeper.port import Following, KeeperPort, UnstoredChunk

if TYPE_CHECKING:
    from holdfast_core.reading import BlobReader

log = structlog.get_logger()

#: attaches one more follower, of the whole blob
Join = Callable[[], Awaitable[Following]]

#: a chunk is repaired this often in one read before the body is given up
REPAIRS = 2


class NoSource:
    """The source of a HEAD answer: it has a size and is never read."""

    distant = False

    def __init__(self, size: int) -> None:
        self.size = size

    def lend(self, offset: int, length: int) -> tuple[int, int] | None:
        """Not for reading."""
        return None

    def read_nowait(self, offset: int, length: int) -> bytes | None:
        """Not for reading."""
        raise NodeFailed("a HEAD answer has no body")

    async def arrived(self, offset: int) -> None:
        """Nothing is on its way."""

    async def read(self, offset: int, length: int) -> bytes:
        """Not for reading."""
        raise NodeFailed("a HEAD answer has no body")

    def close(self) -> None:
        """Nothing is held."""


class StoredSource:
    """A held blob. What is in memory and verified is read on the loop; the rest on a thread.

    A damaged chunk is repaired from the parent within the read; its bytes never leave. One that the disk does not take
    goes to the client all the same, from memory.
    """

    distant = False

    def __init__(self, reader: BlobReader, port: KeeperPort, repository: str, digest: str) -> None:
        self.size = reader.size
        self._reader, self._port = reader, port
        self._repository, self._digest = repository, digest
        self._reading: asyncio.Future[bytes] | None = None
        self.read_nowait = reader.read_nowait

    def lend(self, offset: int, length: int) -> tuple[int, int] | None:
        """The file, when the run is verified. Then all of it is in memory, and the loop waits for no disk."""
        reader = self._reader
        return (reader.fd, length) if reader.fd >= 0 and reader.verified(offset, length) else None

    async def arrived(self, offset: int) -> None:
        """All of it has."""

    async def read(self, offset: int, length: int) -> bytes:
        """At least one byte from `offset`. Raises when a damaged chunk cannot be repaired."""
        for _ in range(REPAIRS):
            try:
                return await self._read(offset, length)
            except ChunkDamaged as damage:
                log.warning("chunk found damaged", digest=damage.digest, start=damage.start, end=damage.end)
                unstored = await self._port.repair(self._repository, self._digest, damage.start, damage.end)
                if unstored is None:
                    self._reader.mended(damage.start)
                else:
                    self.take(unstored)
            except RecordDamaged as damage:
                await self._port.mend(damage.key)
        return await self._read(offset, length)

    def take(self, unstored: UnstoredChunk) -> None:
        """Serve a chunk that came from the parent and could not be put in place. Raises ChunkDamaged when it is not
        the chunk."""
        self._reader.take(unstored.start, unstored.body)

    async def check(self, offset: int) -> None:
        """Raises ChunkDamaged when the chunk at `offset` is bad now; repairs nothing."""
        await self._read(offset, 1)

    async def _read(self, offset: int, length: int) -> bytes:
        loop = asyncio.get_running_loop()
        self._reading = loop.run_in_executor(None, self._reader.read, offset, length)
        # shielded: when the client leaves, the thread goes on, and `close` must know that it does
        return await asyncio.shield(self._reading)

    def close(self) -> None:
        """Close the file, after the read in hand if there is one: a thread may still be using it."""
        if self._reading is None or self._reading.done():
            self._reader.close()
        else:
            self._reading.add_done_callback(self._close_after)

    def _close_after(self, reading: asyncio.Future[bytes]) -> None:
        reading.exception()  # nobody else will ask
        self._reader.close()


class FillSource:
    """A blob on its way in, read through one follower a run.

    `holdback` bytes at the end wait until the whole blob matched its digest, so that nobody completes a
    wrong body; 0 lets everything go as it comes. A reader of an open range wants no more than it reads,
    until it reaches those bytes: then `join` makes it a reader of the whole, so that a verdict comes. None
    says that it is one already.

    The verdict is of the bytes as they came. Some may have left memory before this reader's turn, so that the disk
    brought them back: their chunks are hashed in the stored blob, which `stored` opens, before the last bytes go, and
    these are read from there.
    """

    distant = True

    def __init__(
        self,
        followings: list[tuple[int, int, Following]],
        size: int,
        holdback: int,
        join: Join | None,
        stored: Callable[[], StoredSource | None] = lambda: None,
    ) -> None:
        self.size = size
        self._followings = followings
        self._free_end = size - holdback
        self._verified = holdback == 0
        self._join = join
        self._open = stored
        self._stored: StoredSource | None = None
        #: chunks of which the disk brought bytes that went out
        self._unproven: set[int] = set()

    def lend(self, offset: int, length: int) -> tuple[int, int] | None:
        """The growing file, as far as its bytes may go."""
        if self._stored is not None:
            return self._stored.lend(offset, length)
        following = self._following(offset)
        ready = min(following.available(offset), offset + length, self._end())
        loan = following.lend(offset, ready - offset) if ready > offset else None
        if loan is not None:
            self._note(loan[0], offset, loan[1])
        return loan

    def _note(self, file: int, offset: int, length: int) -> None:
        """Remember what is no longer in memory and is about to go out."""
        if not self._verified and not in_memory(file, offset, length):
            self._unproven.update(range(offset // CHUNK_BYTES, (offset + length - 1) // CHUNK_BYTES + 1))

    async def arrived(self, offset: int) -> None:
        """Wait until the byte at `offset` is there and may go. Raises as the follower, and ChunkDamaged when what went
        out before was not what came in."""
        following = self._following(offset)
        if offset >= self._end():
            await self._verdict(following)
        if self._stored is None:
            await following.wait_for(offset)

    def read_nowait(self, offset: int, length: int) -> bytes | None:
        """Bytes that are on disk and may go, or None."""
        if self._stored is not None:
            return self._stored.read_nowait(offset, length)
        following = self._following(offset)
        ready = min(following.available(offset), offset + length, self._end())
        return self._taken(following, offset, ready - offset) if ready > offset else None

    async def read(self, offset: int, length: int) -> bytes:
        """At least one byte from `offset`, as soon as it is there and may go. Raises as the follower."""
        await self.arrived(offset)
        if self._stored is not None:
            return await self._stored.read(offset, length)
        following = self._following(offset)
        ready = min(following.available(offset), offset + length, self._end())
        return self._taken(following, offset, ready - offset)

    def _taken(self, following: Following, offset: int, length: int) -> bytes:
        loan = following.lend(offset, length)
        if loan is not None:
            self._note(loan[0], offset, loan[1])
        return following.read(offset, length)

    def close(self) -> None:
        """Tell the keeper that this reader left."""
        for _, _, following in self._followings:
            following.close()
        if self._stored is not None:
            self._stored.close()

    async def _verdict(self, following: Following) -> None:
        if self._join is not None:
            following = await self._join()
            self._followings.append((0, self.size, following))
        await following.wait_verified()
        self._stored = self._open()
        if self._stored is not None:
            for chunk in sorted(self._unproven):
                await self._stored.check(chunk * CHUNK_BYTES)
        elif self._unproven:
            raise NodeFailed("bytes came back from the disk, and the blob was not kept to check them by")
        self._verified = True

    def _end(self) -> int:
        return self.size if self._verified else self._free_end

    def _following(self, offset: int) -> Following:
        for start, end, following in self._followings:
            if start <= offset < end:
                return following
        raise NodeFailed("a byte was read that nobody asked for")
