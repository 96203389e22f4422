"""What a worker may ask of the keeper. One protocol, two carriers: in process and over a Unix socket.

A hit never comes here. Each question below is asked after the store said no, or said "old".
Repositories travel as their store key, digests as text.
"""

from __future__ import annotations

from typing import Literal, Protocol

import msgspec

from holdfast.keeper.condition import NO_CONDITION, Condition
from holdfast.parent.health import Switch

Kind = Literal["tag", "manifest", "blob"]
Lockable = Literal["repository", "manifest", "tag"]
SyncOrder = Literal["run", "status", "plan"]


class ManifestAnswer(msgspec.Struct, frozen=True, array_like=True):
    """The manifest is in the store now, under `digest`. `age` counts seconds since the parent last
    confirmed the tag; `stale` is why it is served unconfirmed, or "". When the disk is full the manifest
    is not in the store but here: `media_type` and `body`."""

    digest: str
    age: int = 0
    stale: str = ""
    media_type: str = ""
    body: bytes = b""


class BlobAnswer(msgspec.Struct, frozen=True, array_like=True):
    """`fill` is 0 when the blob is held (read the store); otherwise the number of the fill to follow. `unlinked`: the
    bytes are held, and the disk took no note that the repository has them, as its parent says."""

    size: int
    fill: int = 0
    unlinked: bool = False


class UnstoredChunk(msgspec.Struct, frozen=True, array_like=True):
    """A chunk of a held blob that came again, was verified, and could not be put in place."""

    start: int
    body: bytes


class ListAnswer(msgspec.Struct, frozen=True, array_like=True):
    """The parent's list is in the store now, or could not be had (`stale` says why). On a disk that takes no record of
    it it is here: tags, or descriptors, as the store has them."""

    age: int = 0
    stale: str = ""
    unstored: tuple[bytes, ...] | None = None


#: What a lock is to allow: (read, write, delete, list); None stays as it is. A tuple, so that it travels as it is.
Allowed = tuple[bool | None, bool | None, bool | None, bool | None]


class Status(msgspec.Struct, frozen=True, array_like=True):
    """For /readyz, the health endpoint and metrics. `troubles` are sentences for a person."""

    ready: bool
    troubles: tuple[str, ...] = ()
    parents: dict[str, str] = {}
    counters: dict[str, int] = {}


class Following(Protocol):
    """One reader attached to a fill. `size` is the blob's. Closing it tells the keeper it left."""

    size: int

    async def wait_for(self, offset: int) -> int:
        """Wait until the byte at `offset` is on disk; return the end of the run that holds it.
        Raises `holdfast.errors.ParentFailed` when it will not come."""
        ...

    async def wait_verified(self) -> None:
        """Wait until the whole blob matched its digest. Raises as `wait_for`."""
        ...

    def available(self, offset: int) -> int:
        """End of the run on disk that holds `offset`; `offset` itself when there is none."""
        ...

    def read(self, offset: int, length: int) -> bytes:
        """Bytes that `wait_for` or `available` said are there. Reads the page cache; does not wait."""
        ...

    def lend(self, offset: int, length: int) -> tuple[int, int] | None:
        """The file that holds bytes that are there, and how many of them (1..length) from `offset` on; None
        when they must be read."""
        ...

    def close(self) -> None: ...


class KeeperPort(Protocol):
    """Every method raises `holdfast.errors.Refusal` for an answer that is an error."""

    async def manifest(self, repository: str, reference: str) -> ManifestAnswer:
        """Bring a manifest by tag or digest; confirm a tag whose time to live is over."""
        ...

    async def blob_size(self, repository: str, digest: str) -> int:
        """Size of a blob that is not held, by the parent's HEAD (HEAD on a miss)."""
        ...

    async def blob(self, repository: str, digest: str, start: int, end: int, whole: bool) -> BlobAnswer:
        """Start or join the fill of a blob. [start, end) is what this reader wants, end -1 for the blob's
        end; `start` negative is a suffix. `whole` says the reader will take all of it (policy decides
        what happens when it leaves)."""
        ...

    async def follow(self, fill: int, start: int, end: int, whole: bool) -> Following:
        """Attach a reader to a fill that `blob` named, with its resolved range."""
        ...

    async def tags(self, repository: str) -> ListAnswer:
        """Bring the parent's tag list into the store."""
        ...

    async def referrers(self, repository: str, digest: str) -> ListAnswer:
        """Bring the parent's referrers of a digest into the store."""
        ...

    async def repair(self, repository: str, digest: str, start: int, end: int) -> UnstoredChunk | None:
        """Bytes [start, end) of a blob are bad, `end` -1 for all of it: that is written down, and they are fetched
        again from the parent. Where the disk takes no writes the first chunk of them is returned, verified. Raises
        `NodeFailed` where there is no parent, and the parent's refusal."""
        ...

    async def mend(self, record: bytes) -> None:
        """A record of the index, by its key, failed its checksum: it gets its value back, or is forgotten because the
        parent has what it says. Raises `RecordLost` when neither can be."""
        ...

    def seen(self, repository: str, digest: str) -> None:
        """A hit, for access times. Batched; never waits."""
        ...

    async def status(self) -> Status: ...

    # What follows changes what this node owns. Each returns once it is on disk, raises
    # `holdfast.errors.ReadOnly` and `Locked`, and may be asked twice: when a keeper dies between the commit
    # and its answer, the next one is asked again. Not so with a condition.

    async def put_manifest(
        self,
        repository: str,
        digest: str,
        tags: tuple[str, ...],
        media_type: str,
        body: bytes,
        condition: Condition = NO_CONDITION,
    ) -> None:
        """Own a manifest, and the tags that name it from now on, in one commit. The endpoint read it. Raises
        `PreconditionFailed`."""
        ...

    async def put_blob(self, repository: str, digest: str, body: bytes) -> None:
        """Own a small blob. Raises `DigestInvalid` when it is not the bytes of its digest."""
        ...

    async def commit_upload(self, repository: str, name: str, size: int, digest: str, table: bytes) -> None:
        """Own the blob in the staging file `name`, of `size` bytes that hash to `digest`; `table` is
        `ChunkHasher.table()` of them. The file is gone from the uploads afterwards."""
        ...

    async def mount(self, repository: str, digest: str, source: str) -> bool:
        """Own a blob that is held through `source`, "" for any repository; False when it is not."""
        ...

    async def delete(
        self, repository: str, kind: Kind, name: str, condition: Condition = NO_CONDITION
    ) -> None:
        """Delete by tag or digest. Raises `ManifestUnknown`, `BlobUnknown` or `PreconditionFailed`."""
        ...

    async def set_lock(self, repository: str, kind: Lockable, name: str, change: Allowed) -> None:
        """Change what is allowed on a repository (`name` ""), manifest (digest) or tag."""
        ...

    async def retry_outbox(self, number: int) -> None:
        """Have an entry of the outbox tried now, whatever held it back. Raises `ControlUnknown`."""
        ...

    async def control(self, command: bytes) -> bytes:
        """Do one command of `holdfast.control.command`, as JSON, in one transaction; the answer is a
        `command.Result` as JSON. Raises `ControlInvalid`, `ControlConflict`, `ControlUnknown` or
        `PreconditionFailed`, and then nothing was changed. Allowed in every mode: it is no client's doing."""
        ...

    async def statuses(self) -> bytes:
        """What each connected registry below said of itself last: `control.resource.Status` by name, as JSON. The store
        may have an older word, of up to an hour ago."""
        ...

    async def list_parents(self) -> bytes:
        """Every parent with its state and the operator's switch: a list of `holdfast.keeper.switches.ParentReport` as
        JSON."""
        ...

    async def turn_parent(self, name: str, switch: Switch) -> None:
        """The operator's word about a parent; returns when it is on disk and obeyed, and for `auto` when the parent
        was asked whether it is there. Raises `ControlUnknown`."""
        ...

    async def synchronise(self, order: SyncOrder) -> bytes:
        """Begin a run now, or only say where synchronisation stands or what it would do: a report of
        `holdfast.replica.report` as JSON. Raises `ControlConflict` on a node that does not synchronise by itself."""
        ...

    async def ping_webhook(self, name: str) -> bytes:
        """Send one webhook an event of nothing, now: `holdfast.notify.webhooks.Pinged` as JSON. Raises
        `ControlUnknown`."""
        ...
