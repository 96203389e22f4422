"""The interface of the keeper, and the conditions on a change (RFC 9110 13.1.1, 13.1.2).

The keeper implements it in process, and `keeper.rpc` over a Unix socket: its messages are derived from the annotations
of the interface.

A hit never comes here: a question is sent after the store had no answer, or an old one. Repositories are written as
their store key, digests as text.
"""

from __future__ import annotations

from typing import Literal, Protocol, Self

import msgspec

from holdfast.errors import PreconditionFailed
from holdfast.fill.readers import BlobAnswer
from holdfast.fill.repair import UnstoredChunk
from holdfast.http.health import Switch
from holdfast.notify.delivery_record import Pinged
from holdfast.parent.switch import ParentReport
from holdfast.resources.model import Status
from holdfast.storage.collection_report import CollectionStatus
from holdfast.storage.images.deleted_images import RestoredImage
from holdfast.storage.images.pinned_images import PinKind
from holdfast.storage.images.repository_removal import RepositoryRemoval
from holdfast.storage.scrubbing.scrub_report import ScrubStatus
from holdfast.sync.report import ImageOrder, PlanReport, PrefetchReport, SyncReport

#: the tag or digest it is about, and the values of If-Match and If-None-Match, None without such a header
Condition = tuple[str, str | None, str | None]
NO_CONDITION: Condition = ("", None, None)


def require(condition: Condition, present: str) -> None:
    """Raises `PreconditionFailed` unless it holds where `present` is the digest that is there, "" for none."""
    _, match, none_match = condition
    if match is not None and not _names(match, present):
        raise PreconditionFailed("If-Match: that is not what is here", detail=present or "nothing is here")
    if none_match is not None and _names(none_match, present):
        raise PreconditionFailed("If-None-Match: it is here already", detail=present)


def _names(tags: str, present: str) -> bool:
    """Whether one of the entity tags is the digest: quoted or, as distribution's clients write it, bare. A weak
    one never is (RFC 9110 8.8.3.2)."""
    if not present:
        return False
    return any(tag.strip(" \t") in ("*", present, f'"{present}"') for tag in tags.split(","))


Kind = Literal["tag", "manifest", "blob"]
Lockable = Literal["repository", "manifest", "tag"]


class ManifestAnswer(msgspec.Struct, frozen=True, array_like=True):
    """The manifest is in the store now, under `digest`. `age` counts seconds since the parent last
    confirmed the tag; `stale` is why it is served unconfirmed, or "". When the disk is full the manifest
    is not in the store but here: `media_type` and `body`."""

    digest: str
    age: int = 0
    stale: str = ""
    media_type: str = ""
    body: bytes = b""


class ListAnswer(msgspec.Struct, frozen=True, array_like=True):
    """The parent's list is in the store now, or could not be had (`stale` says why). On a disk that takes no record of
    it it is here: tags, or descriptors as the store keeps them. `age` counts seconds since a parent sent it; None: none
    ever did, what is held came otherwise."""

    age: int | None = 0
    stale: str = ""
    unstored: tuple[bytes, ...] | None = None

    @classmethod
    def held(cls, fetched_at: float | None, now: float, stale: str = "") -> Self:
        """What is held of a list that was fetched then (wall seconds; None or 0: never)."""
        return cls(max(0, int(now - fetched_at)) if fetched_at else None, stale)


#: What a lock is to allow: (read, write, delete, list); None stays as it is. A tuple, so that it travels as it is.
Allowed = tuple[bool | None, bool | None, bool | None, bool | None]


class KeeperStatus(msgspec.Struct, frozen=True, array_like=True):
    """For /readyz, the health endpoint and metrics. `troubles` are sentences for a person."""

    ready: bool
    troubles: tuple[str, ...] = ()
    parents: dict[str, str] = {}
    counters: dict[str, int] = {}


class Following(Protocol):
    """One reader attached to a fill. `size` is the blob's. The keeper is notified when it is closed."""

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


class KeeperApi(Protocol):
    """Every method raises `holdfast.errors.Refusal` for an answer that is an error."""

    async def manifest(self, repository: str, reference: str) -> ManifestAnswer:
        """Bring a manifest by tag or digest; confirm a tag whose time to live is over."""
        ...

    async def blob_size(self, repository: str, digest: str) -> int:
        """Size of a blob that is not held, by the parent's HEAD (HEAD on a miss)."""
        ...

    async def blob(self, repository: str, digest: str, start: int, end: int, whole: bool) -> BlobAnswer:
        """Start or join the fill of a blob. [start, end) is what this reader wants, end -1 for the blob's
        end; `start` negative is a suffix. `whole`: the reader will take all of it (policy decides
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
        `NodeFailed` where there is no parent, `FillGone` when the blob was evicted meanwhile, and the parent's
        refusal."""
        ...

    async def mend(self, record: bytes) -> None:
        """A record of the index, by its key, failed its checksum: it gets its value back, or is forgotten because the
        parent has what it says. Raises `RecordLost` when neither can be."""
        ...

    def seen(self, repository: str, digest: str) -> None:
        """A hit, for access times. Batched; never waits."""
        ...

    def disk_refused(self) -> None:
        """A client gets the refusal that the disk takes no write: probe the disk, for the operator. Never waits."""
        ...

    async def status(self) -> KeeperStatus: ...

    # What follows changes what this node owns. Each returns once it is on disk, raises
    # `holdfast.errors.ReadOnly` and `Locked`, and may be called twice: when a keeper dies between the commit
    # and its answer, the worker repeats the call at the next one. Not so with a condition.

    async def put_manifest(
        self,
        repository: str,
        digest: str,
        tags: tuple[str, ...],
        media_type: str,
        body: bytes,
        condition: Condition = NO_CONDITION,
        blobs: tuple[str, ...] = (),
    ) -> None:
        """Own a manifest, and the tags that name it from now on, in one commit. The endpoint read it, and found `blobs`
        here, which it names. Raises `PreconditionFailed`, and `ManifestBlobUnknown` when one of them is gone."""
        ...

    async def admit_push(self, size: int) -> None:
        """A client is about to send so many more bytes of a blob: room is made for them. Raises `NodeFull` when there
        is none."""
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

    async def statuses(self) -> dict[str, Status]:
        """The last reported status of each connected registry below, by name. The one in the store may be up to an hour
        older."""
        ...

    async def list_parents(self) -> list[ParentReport]:
        """Every parent with its state and the operator's switch, by name."""
        ...

    async def turn_parent(self, name: str, switch: Switch) -> None:
        """Set the operator's switch of a parent; returns when it is on disk and in effect, and for `auto` when the
        parent was probed. Raises `ControlUnknown`."""
        ...

    async def synchronisation(self) -> SyncReport:
        """The state of synchronisation. Raises `ControlConflict` on a node that does not synchronise by itself, as the
        next two."""
        ...

    async def order_synchronisation(self) -> SyncReport:
        """Begin a run now, whatever the window; the state of synchronisation then."""
        ...

    async def plan_synchronisation(self) -> PlanReport:
        """What the next run would fetch and remove."""
        ...

    async def ping_webhook(self, name: str) -> Pinged:
        """Send one webhook an event without content, now; the receiver's answer. Raises `ControlUnknown`."""
        ...

    async def collection(self, is_dry: bool) -> CollectionStatus:
        """Whether and when garbage is collected, and the report of the collection under way or of the last one, with
        `is_dry` of the last dry run of this process."""
        ...

    async def scrub(self) -> ScrubStatus:
        """How far the pass over the bytes on the disk is, and the report of the last full one."""
        ...

    async def order_scrub(self, by: str) -> ScrubStatus:
        """Begin a pass now, unless one that was ordered is under way; `by` is who ordered it."""
        ...

    async def order_collection(self, is_dry: bool, by: str) -> CollectionStatus:
        """Collect garbage now, or count what would go; `by` is who ordered it. The report may be of one that is still
        under way. Raises `ControlConflict` beside one of the other kind."""
        ...

    async def pin(
        self, repository: str, kind: PinKind, name: str, until: float, with_referrers: bool, by: str
    ) -> None:
        """Keep a tag or a manifest, held or not, until then (wall seconds; infinity for good). Raises
        `ControlInvalid`."""
        ...

    async def unpin(self, repository: str, kind: PinKind, name: str, by: str) -> None:
        """End a pin. Raises `ControlUnknown`."""
        ...

    async def undelete(
        self, repository: str, kind: PinKind, name: str, tags: tuple[str, ...], by: str
    ) -> RestoredImage:
        """Restore what was deleted and is kept: a tag, or a manifest with `tags`, without them with those that it had.
        Raises `ControlUnknown` for what is not kept, `ControlConflict` for a tag that names something by now."""
        ...

    async def order_prefetch(self, images: tuple[ImageOrder, ...], by: str) -> tuple[PrefetchReport, ...]:
        """Begin to bring images from their parents, by the way of synchronisation. Raises `ControlConflict` for one
        that no parent has."""
        ...

    async def prefetches(self) -> tuple[PrefetchReport, ...]:
        """The prefetches under way, and those that are over."""
        ...

    async def delete_repository(self, repository: str, shown: str, by: str) -> RepositoryRemoval:
        """Delete manifests and tags of a repository, at most a thousand, as a client deletes them; `shown` is its name
        for people. Raises `ControlUnknown` and `ControlConflict`."""
        ...
