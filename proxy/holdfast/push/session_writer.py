"""The writes of one request to an upload session, from the lock on its file until the lock is released, and the way of
its body into that file.

Call `SessionWriter` within `PushContext.see_through`, so that a write which began ends in a state of `push.session`,
also when the client disconnects.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Coroutine
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import Any, TypeVar

from holdfast_core import errors as store_errors
from holdfast_core.blob_files.upload_files import Staging
from holdfast_core.digest import ChunkHasher, Digest
from holdfast_core.store import Store

from holdfast.errors import (
    TRANSLATED,
    ClientGone,
    DigestInvalid,
    KeeperAway,
    RequestTimeout,
    SizeInvalid,
    UploadUnknown,
)
from holdfast.errors import of_store as refusal_of
from holdfast.keeper.api import KeeperApi
from holdfast.push import session
from holdfast.push.context import PushContext
from holdfast.push.session import Claim, SessionEvent, SessionState
from holdfast.wire.message import RequestBody

T = TypeVar("T")
#: Received and not yet written, an upload; with what the connection holds that is about 3 MiB each.
PENDING_BYTES = 1 << 20
#: Read back at once when bytes have to be hashed again; one job, so that others get the thread in between.
JOB_BYTES, READ_BYTES = 32 << 20, 1 << 20
#: disk space is reserved for bodies of at least this; a shorter one fails soon enough on a full disk (bytes)
RESERVE_BYTES = 8 << 20
#: longest step of closing an upload: one job of hashing, the sync, the commit (s). Only a disk that hangs takes as
#: long, so that no client gets an error while the step may still succeed.
STEP_SECONDS = 300.0
#: room is asked for in such steps where a client does not say how much it sends (bytes)
ADMITTED_BYTES = 8 << 20

#: Has room made for so many more bytes. Raises NodeFull.
Admit = Callable[[int], Awaitable[None]]


@dataclass(frozen=True)
class Destination:
    """The repository that a blob is committed to when its upload is closed."""

    store: Store
    port: KeeperApi
    repository: str
    inline_bytes: int

    def holds(self, digest: Digest) -> bool:
        """Whether the repository owns the blob, whole; a cached or damaged one does not count."""
        blob = self.store.blobs.get(self.repository, digest)
        return blob is not None and blob.owned and self.store.blobs.is_whole(blob)


class SessionWriter:
    """Writes to one session, whose lock it holds until `release`. `algorithm` is the probable one of the final digest;
    `allow` extends the request's time-out, `admit` has room made for bytes that are about to come."""

    def __init__(
        self,
        context: PushContext,
        staging: Staging,
        algorithm: str,
        allow: Callable[[float], None],
        admit: Admit,
    ) -> None:
        self._context, self.staging, self._algorithm, self._allow = context, staging, algorithm, allow
        self._admit = admit
        #: the offset before this request
        self.start = staging.size
        self._hasher: ChunkHasher | None = context.hashes.take(staging.name, algorithm, staging.size)

    async def append(self, body: RequestBody | None, claim: Claim) -> None:
        """Append the body. Raises SizeInvalid when its length is not that of the claim, UploadUnknown when the session
        was ended meanwhile, NodeFull, and the errors of the body; then the session is as it was, except that bytes of a
        connection that broke off stay."""
        await self._through(SessionState.TAKING, self._append(body, claim))

    async def close(self, digest: Digest, to: Destination) -> None:
        """Commit the session as a blob. Raises DigestInvalid when its bytes do not match the digest, and the keeper's
        refusal; then the session is as it was before this request."""
        await self._through(SessionState.CLOSING, self._close(digest, to))

    async def close_with(self, body: bytes, digest: Digest, to: Destination) -> None:
        """Commit `body`, which matches `digest`, as the blob of a session that is still empty. Raises as `close`."""
        await self._through(SessionState.CLOSING, self._put(body, digest, to))

    def release(self) -> None:
        """Release the lock and store the state of the hash. May be called twice."""
        if self._hasher is not None and self._hasher.size <= self.staging.size and self.staging.fd >= 0:
            self._context.hashes.keep(self.staging.name, self._algorithm, self._hasher)
        self._hasher = None
        self.staging.close()

    async def _through(self, state: SessionState, work: Coroutine[Any, Any, None]) -> None:
        try:
            await work
        except BaseException as error:
            step = session.step(state, self._event(error))
            if step.state is SessionState.ABSENT:
                self._context.hashes.forget(self.staging.name)
                self._hasher = None
            else:
                await self._call(self.staging.roll_back, self.start if step.roll_back else self.staging.size)
            if isinstance(error, store_errors.StoreError) and isinstance(error, TRANSLATED):
                raise refusal_of(error) from error
            raise

    async def _append(self, body: RequestBody | None, claim: Claim) -> None:
        assert self._hasher is not None
        if claim.length:
            await self._admit(claim.length)
        if claim.length is not None and claim.length >= RESERVE_BYTES:
            await self._call(self.staging.reserve, claim.length)
        if body is not None:
            writer = StagingWriter(self.staging, self._hasher, self._context.threads, self._admit)
            await writer.take(body, claim.length)
        received = self.staging.size - self.start
        if claim.length not in (None, received):
            raise SizeInvalid(f"Content-Range says {claim.length} bytes, {received} came")
        if not self.staging.is_open():
            raise UploadUnknown("the upload was ended meanwhile")

    async def _close(self, digest: Digest, to: Destination) -> None:
        table = await self._verify(digest)
        if self.staging.size <= to.inline_bytes:
            await self._put(await self._call(self._whole), digest, to)
        else:
            await self._commit(digest, table, to)
            self._context.hashes.forget(self.staging.name)

    async def _put(self, body: bytes, digest: Digest, to: Destination) -> None:
        """Store `body` in the index. A cancel before `claim` ends the session; a later one gets 404."""
        self._step()
        await self._call(self.staging.claim)
        try:
            await to.port.put_blob(to.repository, str(digest), body)
        except BaseException:
            self.staging.unseal()
            raise
        self.staging.remove()
        self._context.hashes.forget(self.staging.name)

    def _step(self) -> None:
        self._allow(STEP_SECONDS)

    async def _verify(self, digest: Digest) -> bytes:
        """The chunk table of the bytes, which match the digest. A file in doubt is read again. Raises DigestInvalid."""
        hasher, self._hasher = self._hasher, None
        in_doubt = self.staging.is_in_doubt
        if hasher is None or in_doubt or self._algorithm != digest.algorithm:
            self._algorithm, hasher = digest.algorithm, ChunkHasher(digest.algorithm)
        await catch_up(hasher, self.staging, self._context.threads, self._step)
        actual = hasher.digest()
        if actual != digest:
            self._hasher = hasher
            raise DigestInvalid("the bytes do not match the digest", detail=f"they hash to {actual}")
        if in_doubt:
            await self._call(self.staging.trust)
        return hasher.table()

    async def _commit(self, digest: Digest, table: bytes, to: Destination) -> None:
        """Commit the file as a blob. After a refusal the session still exists, unless it was ended meanwhile. Without
        the keeper's answer the file may have become a blob, and is not written to any more."""
        self._step()
        sealed, size = await self._call(self.staging.seal), self.staging.size
        try:
            await to.port.commit_upload(to.repository, sealed, size, str(digest), table)
        except BaseException as error:
            try:
                self.staging.unseal()
            except store_errors.UploadNotFound:
                if isinstance(error, KeeperAway) and to.holds(digest):
                    return  # it was committed; only the answer was lost
                if self.staging.is_open() and not isinstance(error, UploadUnknown):
                    with contextlib.suppress(
                        store_errors.StoreError
                    ):  # no space for a copy: the session ends
                        await self._call(self.staging.leave, self.start)
            raise
        with contextlib.suppress(OSError):
            self.staging.remove()  # still there if the store had the blob already

    def _whole(self) -> bytes:
        buffer = bytearray(self.staging.size)
        self.staging.read(0, buffer)
        return bytes(buffer)

    def _event(self, error: BaseException) -> SessionEvent:
        if isinstance(error, ClientGone | RequestTimeout):
            return SessionEvent.LOST
        if isinstance(error, UploadUnknown | store_errors.UploadNotFound):
            return SessionEvent.REMOVED
        return SessionEvent.UNDECIDED if self.staging.is_sealed else SessionEvent.REFUSED

    async def _call(self, work: Callable[..., T], *arguments: object) -> T:
        """The result of `work`, called on a thread."""
        return await asyncio.get_running_loop().run_in_executor(self._context.threads, work, *arguments)


class StagingWriter:
    """Takes bodies into one staging file, written and hashed on a thread, in batches. `hasher` goes along when it
    covers every byte that is there, and is left behind otherwise.

    While a batch is written and hashed the next one gathers, so the loop, the disk and the hashes work side by side,
    and the memory of an upload is bounded: past `PENDING_BYTES` the body is not read, so the client waits.
    """

    def __init__(self, staging: Staging, hasher: ChunkHasher, threads: Executor, admit: Admit) -> None:
        self._staging, self._hasher, self._threads, self._admit = staging, hasher, threads, admit
        self._pending: list[bytes] = []
        self._bytes = 0
        self._job: asyncio.Future[int] | None = None
        self._failure: BaseException | None = None

    async def take(self, body: RequestBody, most: int | None) -> None:
        """Everything that `body` brings, in place when this returns or raises. Raises SizeInvalid as soon as it
        is over `most` bytes, NodeFull, what `body.read` raises, and what made writing fail."""
        admitted = 0
        try:
            while data := await body.read():
                if most is not None and body.received > most:
                    raise SizeInvalid("the body is longer than its Content-Range")
                if most is None and body.received > admitted:
                    await self._admit(ADMITTED_BYTES)
                    admitted += ADMITTED_BYTES
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
