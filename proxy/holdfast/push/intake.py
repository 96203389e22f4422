"""From a request's body to a staging file: written and hashed on a thread, in batches.

While a batch is being written and hashed the next one gathers, so the loop, the disk and the hashes work side
by side, and the memory of an upload is bounded: past `PENDING_BYTES` the body is not read, so the client waits.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import Executor

from holdfast_core.digest import ChunkHasher
from holdfast_core.upload import Staging

from holdfast.errors import SizeInvalid
from holdfast.wire.message import RequestBody

#: Received and not yet written, an upload; with what the connection holds that is about 3 MiB each.
PENDING_BYTES = 1 << 20
#: Read back at once when bytes have to be hashed again; one job, so that others get the thread in between.
JOB_BYTES, READ_BYTES = 32 << 20, 1 << 20


class Intake:
    """Takes bodies into one staging file. `hasher` goes along when it covers every byte that is there, and is
    left behind otherwise."""

    def __init__(self, staging: Staging, hasher: ChunkHasher, threads: Executor) -> None:
        self._staging, self._hasher, self._threads = staging, hasher, threads
        self._pending: list[bytes] = []
        self._bytes = 0
        self._job: asyncio.Future[int] | None = None
        self._failure: BaseException | None = None

    async def take(self, body: RequestBody, most: int | None) -> None:
        """Everything that `body` brings, in place when this returns or raises. Raises SizeInvalid as soon as it
        is over `most` bytes, what `body.read` raises, and what made writing fail."""
        try:
            while data := await body.read():
                if most is not None and body.received > most:
                    raise SizeInvalid("the body is longer than its Content-Range")
                await self._put(data)
            await self._settled()
            self._check()
        finally:
            await self._settled()
            self._failure = None  # its trace leads back here: a cycle, with all bytes in it

    async def _put(self, data: bytes) -> None:
        self._pending.append(data)
        self._bytes += len(data)
        self._advance()
        while self._bytes > PENDING_BYTES and self._job is not None:
            await asyncio.wait((self._job,))
        self._check()

    def _check(self) -> None:
        if self._failure is not None:
            raise self._failure

    async def _settled(self) -> None:
        while self._job is not None:
            await asyncio.wait((self._job,))

    def _advance(self) -> None:
        if self._job is None and self._pending:
            batch, self._pending = self._pending, []
            self._job = asyncio.get_running_loop().run_in_executor(self._threads, self._write, batch)
            self._job.add_done_callback(self._done)

    def _done(self, job: asyncio.Future[int]) -> None:
        self._job, self._failure = None, job.exception()
        if self._failure is not None:
            self._pending.clear()
        else:
            self._bytes -= job.result()
            self._advance()

    def _write(self, batch: list[bytes]) -> int:
        """On a thread."""
        total = 0
        for data in batch:
            follows = self._hasher.size == self._staging.size
            self._staging.append(data)
            if follows:
                self._hasher.update(data)
            total += len(data)
        return total


async def catch_up(
    hasher: ChunkHasher, staging: Staging, threads: Executor, going_on: Callable[[], None] = lambda: None
) -> None:
    """Hash from the file what `hasher` has not seen; what is in doubt is written again. Calls `going_on` before each
    job."""
    loop = asyncio.get_running_loop()
    while hasher.size < staging.size:
        going_on()
        await loop.run_in_executor(threads, _hash_on, hasher, staging)


def _hash_on(hasher: ChunkHasher, staging: Staging) -> None:
    buffer, in_doubt = memoryview(bytearray(READ_BYTES)), staging.is_in_doubt
    end = min(staging.size, hasher.size + JOB_BYTES)
    while hasher.size < end:
        count = staging.read(hasher.size, buffer[: end - hasher.size])
        if count == 0:
            raise OSError(f"the upload ends at {hasher.size}, {end} bytes were written")
        if in_doubt:
            staging.rewrite(hasher.size, buffer[:count])
        hasher.update(buffer[:count])
