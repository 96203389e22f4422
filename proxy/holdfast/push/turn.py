"""One request's turn at a session: from the lock on its file until it lets go.

Call it within `Means.see_through`: a turn that was begun ends in one of the ways of `push.session`, whatever
becomes of the client.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any, TypeVar

from holdfast_core import errors as store_errors
from holdfast_core.digest import ChunkHasher, Digest
from holdfast_core.store import Store
from holdfast_core.upload import Staging

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
from holdfast.keeper.port import KeeperPort
from holdfast.push import session
from holdfast.push.chunk import Claim
from holdfast.push.intake import Intake, catch_up
from holdfast.push.means import Means
from holdfast.push.session import Event, State
from holdfast.wire.message import RequestBody

T = TypeVar("T")
#: Room is reserved for bodies of at least this; a shorter one finds out soon enough that the disk is full.
RESERVE_BYTES = 8 << 20
#: A step of closing an upload (one job of hashing, the sync and the commit) may take so long (s). No client is
#: told that it failed while it may still succeed, unless a disk hangs.
STEP_SECONDS = 300.0


@dataclass(frozen=True)
class Destination:
    """Where a blob goes when its upload is closed."""

    store: Store
    port: KeeperPort
    repository: str
    inline_bytes: int

    def holds(self, digest: Digest) -> bool:
        """Whether it came in and is safe: the repository's own, and no earlier one that is only cached or damaged."""
        blob = self.store.blob(self.repository, digest)
        return blob is not None and blob.owned and self.store.is_whole(blob)


class Turn:
    """The right to write to a session, until `release`. `algorithm` is what its digest will probably be of, `allow`
    that of the request."""

    def __init__(
        self, means: Means, staging: Staging, algorithm: str, allow: Callable[[float], None]
    ) -> None:
        self._means, self.staging, self._algorithm, self._allow = means, staging, algorithm, allow
        #: the offset before this request
        self.start = staging.size
        self._hasher: ChunkHasher | None = means.hashes.take(staging.name, algorithm, staging.size)

    async def append(self, body: RequestBody | None, claim: Claim) -> None:
        """Take the body. Raises SizeInvalid when it is not as long as was said, UploadUnknown when the session
        was ended meanwhile, NodeFull, and what the body raises; then the session is as it was, except for
        bytes of a connection that broke off."""
        await self._through(State.TAKING, self._append(body, claim))

    async def close(self, digest: Digest, to: Destination) -> None:
        """The session becomes a blob. Raises DigestInvalid when its bytes are not those of the digest, and
        what the keeper raises; then the session is as it was before this request."""
        await self._through(State.CLOSING, self._close(digest, to))

    async def close_with(self, body: bytes, digest: Digest, to: Destination) -> None:
        """The session becomes a blob of `body`, which hashes to `digest`, and of which it has none. Raises like
        `close`."""
        await self._through(State.CLOSING, self._put(body, digest, to))

    def release(self) -> None:
        """Let others write, and remember how far the bytes were hashed. May be called twice."""
        if self._hasher is not None and self._hasher.size <= self.staging.size and self.staging.fd >= 0:
            self._means.hashes.keep(self.staging.name, self._algorithm, self._hasher)
        self._hasher = None
        self.staging.close()

    async def _through(self, state: State, work: Coroutine[Any, Any, None]) -> None:
        try:
            await work
        except BaseException as error:
            step = session.step(state, self._event(error))
            if step.state is State.ABSENT:
                self._means.hashes.forget(self.staging.name)
                self._hasher = None
            else:
                await self._call(self.staging.roll_back, self.start if step.roll_back else self.staging.size)
            if isinstance(error, store_errors.StoreError) and isinstance(error, TRANSLATED):
                raise refusal_of(error) from error
            raise

    async def _append(self, body: RequestBody | None, claim: Claim) -> None:
        assert self._hasher is not None
        if claim.length is not None and claim.length >= RESERVE_BYTES:
            await self._call(self.staging.reserve, claim.length)
        if body is not None:
            await Intake(self.staging, self._hasher, self._means.threads).take(body, claim.length)
        came = self.staging.size - self.start
        if claim.length not in (None, came):
            raise SizeInvalid(f"Content-Range says {claim.length} bytes, {came} came")
        if not self.staging.is_open():
            raise UploadUnknown("the upload was ended meanwhile")

    async def _close(self, digest: Digest, to: Destination) -> None:
        table = await self._verify(digest)
        if self.staging.size <= to.inline_bytes:
            await self._put(await self._call(self._whole), digest, to)
        else:
            await self._commit(digest, table, to)
            self._means.hashes.forget(self.staging.name)

    async def _put(self, body: bytes, digest: Digest, to: Destination) -> None:
        """A cancel that comes first wins, a later one finds no session: either this or that is answered."""
        self._step()
        await self._call(self.staging.claim)
        try:
            await to.port.put_blob(to.repository, str(digest), body)
        except BaseException:
            self.staging.unseal()
            raise
        self.staging.remove()
        self._means.hashes.forget(self.staging.name)

    def _step(self) -> None:
        self._allow(STEP_SECONDS)

    async def _verify(self, digest: Digest) -> bytes:
        """The chunk table, when the bytes are those of the digest: those of the file, where it is in doubt."""
        hasher, self._hasher = self._hasher, None
        in_doubt = self.staging.is_in_doubt
        if hasher is None or in_doubt or self._algorithm != digest.algorithm:
            self._algorithm, hasher = digest.algorithm, ChunkHasher(digest.algorithm)
        await catch_up(hasher, self.staging, self._means.threads, self._step)
        found = hasher.digest()
        if found != digest:
            self._hasher = hasher
            raise DigestInvalid("the bytes do not match the digest", detail=f"they hash to {found}")
        if in_doubt:
            await self._call(self.staging.trust)
        return hasher.table()

    async def _commit(self, digest: Digest, table: bytes, to: Destination) -> None:
        """Whatever is refused, the session is there afterwards, unless it was ended meanwhile. The store gives the file
        back; where it cannot, or gave no word, the file may be a blob yet, and is not written to any more."""
        self._step()
        sealed, size = await self._call(self.staging.seal), self.staging.size
        try:
            await to.port.commit_upload(to.repository, sealed, size, str(digest), table)
        except BaseException as error:
            try:
                self.staging.unseal()
            except store_errors.UploadUnknown:
                if isinstance(error, KeeperAway) and to.holds(digest):
                    return  # it was committed, only the word of it was lost
                if self.staging.is_open() and not isinstance(error, UploadUnknown):
                    with contextlib.suppress(store_errors.StoreError):  # no room for a copy: it is over
                        await self._call(self.staging.leave, self.start)
            raise
        with contextlib.suppress(OSError):
            self.staging.remove()  # the store may have had no use for the file

    def _whole(self) -> bytes:
        buffer = bytearray(self.staging.size)
        self.staging.read(0, buffer)
        return bytes(buffer)

    def _event(self, error: BaseException) -> Event:
        if isinstance(error, ClientGone | RequestTimeout):
            return Event.LOST
        if isinstance(error, UploadUnknown | store_errors.UploadUnknown):
            return Event.REMOVED
        return Event.UNDECIDED if self.staging.is_sealed else Event.REFUSED

    async def _call(self, work: Callable[..., T], *arguments: object) -> T:
        """On a thread."""
        return await asyncio.get_running_loop().run_in_executor(self._means.threads, work, *arguments)
