"""A keeper of which a test writes the answers: what the parent has, how it comes, and what is asked of it."""

from __future__ import annotations

import asyncio
from collections import Counter
from concurrent.futures import Future
from dataclasses import dataclass, field

import msgspec
from holdfast_core.digest import Digest
from holdfast_core.record import Descriptor
from holdfast_core.store import Store

from holdfast.clock import Clock
from holdfast.config import Control as Limits
from holdfast.errors import BlobUnknown, ControlConflict, ControlUnknown, ManifestUnknown, NameUnknown
from holdfast.keeper.control import Control
from holdfast.keeper.heartbeats import Heartbeats, left_behind
from holdfast.keeper.port import BlobAnswer, ListAnswer, ManifestAnswer, Status, SyncOrder, UnstoredChunk
from holdfast.keeper.push import Pushes
from holdfast.keeper.turns import Turns
from holdfast.notify.report import Pinged
from holdfast.parent.health import Switch


@dataclass(slots=True)
class ScriptedFill:
    """A blob on its way in. The test says how far it is: `grow`, `verify`, `fail`."""

    body: bytes
    landed: int = 0
    verified: bool = False
    failure: Exception | None = None
    readers: list[tuple[int, int, bool]] = field(default_factory=list)
    closed: int = 0
    changed: asyncio.Event = field(default_factory=asyncio.Event)

    def grow(self, end: int) -> None:
        """Bytes up to `end` are on disk."""
        self.landed = max(self.landed, end)
        self.changed.set()

    def verify(self) -> None:
        """All of it is here and matched its digest."""
        self.landed, self.verified = len(self.body), True
        self.changed.set()

    def fail(self, failure: Exception) -> None:
        """It will not come."""
        self.failure = failure
        self.changed.set()


class ScriptedFollowing:
    """`holdfast.keeper.port.Following` over a scripted fill."""

    def __init__(self, fill: ScriptedFill) -> None:
        self.size = len(fill.body)
        self._fill = fill

    async def wait_for(self, offset: int) -> int:
        """See `Following.wait_for`."""
        while self._fill.landed <= offset:
            await self._change()
        return self._fill.landed

    async def wait_verified(self) -> None:
        """See `Following.wait_verified`."""
        while not self._fill.verified:
            await self._change()

    async def _change(self) -> None:
        if self._fill.failure is not None:
            raise self._fill.failure
        self._fill.changed.clear()
        await self._fill.changed.wait()

    def lend(self, offset: int, length: int) -> tuple[int, int] | None:
        """Its bytes are in no file."""
        return None

    def available(self, offset: int) -> int:
        """See `Following.available`."""
        return max(offset, self._fill.landed)

    def read(self, offset: int, length: int) -> bytes:
        """See `Following.read`."""
        return self._fill.body[offset : min(offset + length, self._fill.landed)]

    def close(self) -> None:
        """See `Following.close`."""
        self._fill.closed += 1


class ScriptedPort(Pushes, Control):
    """`holdfast.keeper.port.KeeperPort` that a test scripts. Changes are made in the store as the keeper makes them.

    `manifests` maps (repository, reference) to (media type, body); `tag_lists` and `referrer_lists` hold
    what the parent would say; `fills` maps a digest to a fill. `failure` is raised by every question when
    set. `asked` counts questions by method.
    """

    def __init__(self, store: Store, clock: Clock) -> None:
        self.store, self.clock = store, clock
        self.parents, self.turns = {}, Turns()
        self.limits = Limits()
        self.heartbeats = Heartbeats(clock.now(), left_behind(store))
        self.manifests: dict[tuple[str, str], tuple[str, bytes]] = {}
        self.answers: dict[tuple[str, str], ManifestAnswer] = {}
        self.tag_lists: dict[str, list[str]] = {}
        self.referrer_lists: dict[tuple[str, str], list[Descriptor]] = {}
        self.fills: dict[str, ScriptedFill] = {}
        self.failure: Exception | None = None
        self.hang = False
        self.asked: Counter[str] = Counter()
        self.hits: list[tuple[str, str]] = []
        self.repairs: list[tuple[str, int, int]] = []
        self.wanted: list[tuple[int, int, bool]] = []
        self.troubles: tuple[str, ...] = ()
        self.ready = True

    async def _ask(self, method: str) -> None:
        self.asked[method] += 1
        if self.hang:
            await asyncio.Event().wait()
        if self.failure is not None:
            raise self.failure

    async def manifest(self, repository: str, reference: str) -> ManifestAnswer:
        """See `KeeperPort.manifest`."""
        await self._ask("manifest")
        if (repository, reference) in self.answers:
            return self.answers[repository, reference]
        found = self.manifests.get((repository, reference))
        if found is None:
            raise ManifestUnknown("no such manifest at the parent")
        digest, now = Digest.of(found[1]), self.clock.now()
        await _done(self.store.put_manifest(repository, digest, *found, owned=False, now=now))
        if ":" not in reference:
            await _done(self.store.put_tag(repository, reference, digest, now=now))
        return ManifestAnswer(str(digest))

    async def control(self, command: bytes) -> bytes:
        """See `KeeperPort.control`. Done in the store, as the keeper does it."""
        await self._ask("control")
        return await super().control(command)

    async def list_parents(self) -> bytes:
        """See `KeeperPort.list_parents`: a root."""
        await self._ask("list_parents")
        return b"[]"

    async def turn_parent(self, name: str, switch: Switch) -> None:
        """See `KeeperPort.turn_parent`: a root."""
        await self._ask("turn_parent")
        raise ControlUnknown(f"no parent {name!r}")

    async def synchronise(self, order: SyncOrder) -> bytes:
        """See `KeeperPort.synchronise`: this node does not."""
        await self._ask("synchronise")
        raise ControlConflict("this node does not synchronise by itself")

    async def ping_webhook(self, name: str) -> bytes:
        """See `KeeperPort.ping_webhook`: the receiver takes it."""
        await self._ask("ping_webhook")
        return msgspec.json.encode(Pinged(name, True, "answered 204"))

    async def blob_size(self, repository: str, digest: str) -> int:
        """See `KeeperPort.blob_size`."""
        await self._ask("blob_size")
        return len(self._fill(digest).body)

    async def blob(self, repository: str, digest: str, start: int, end: int, whole: bool) -> BlobAnswer:
        """See `KeeperPort.blob`."""
        await self._ask("blob")
        self.wanted.append((start, end, whole))
        held = self.store.blob(repository, Digest.parse(digest))
        if held is not None:
            return BlobAnswer(held.size)
        return BlobAnswer(len(self._fill(digest).body), 1 + list(self.fills).index(digest))

    def _fill(self, digest: str) -> ScriptedFill:
        if digest not in self.fills:
            raise BlobUnknown("no such blob at the parent")
        return self.fills[digest]

    async def follow(self, fill: int, start: int, end: int, whole: bool) -> ScriptedFollowing:
        """See `KeeperPort.follow`."""
        await self._ask("follow")
        found = list(self.fills.values())[fill - 1]
        found.readers.append((start, end, whole))
        return ScriptedFollowing(found)

    async def tags(self, repository: str) -> ListAnswer:
        """See `KeeperPort.tags`."""
        await self._ask("tags")
        if repository not in self.tag_lists:
            raise NameUnknown("no such repository at the parent")
        await _done(self.store.put_tag_list(repository, self.tag_lists[repository], now=self.clock.now()))
        return ListAnswer()

    async def referrers(self, repository: str, digest: str) -> ListAnswer:
        """See `KeeperPort.referrers`."""
        await self._ask("referrers")
        rows = self.referrer_lists.get((repository, digest), [])
        subject = Digest.parse(digest)
        await _done(self.store.put_referrers(repository, subject, rows, now=self.clock.now()))
        return ListAnswer()

    async def repair(self, repository: str, digest: str, start: int, end: int) -> UnstoredChunk | None:
        """See `KeeperPort.repair`. Counts only; a test that repairs replaces it."""
        self.repairs.append((digest, start, end))
        await self._ask("repair")
        return None

    def seen(self, repository: str, digest: str) -> None:
        """See `KeeperPort.seen`."""
        self.hits.append((repository, digest))

    async def status(self) -> Status:
        """See `KeeperPort.status`."""
        await self._ask("status")
        return Status(self.ready, self.troubles)


async def _done(future: Future[None]) -> None:
    await asyncio.wrap_future(future)
