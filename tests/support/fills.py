"""A node's fills over a real store and a scripted parent, and readers that keep the hold-back rule."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from holdfast import config
from holdfast.clock import Clock, SystemClock
from holdfast.fill import hash_queue
from holdfast.fill.hash_queue import Stretch
from holdfast.fill.readers import Reader
from holdfast.fill.registry import FillRegistry
from holdfast.parent.client import Parent
from holdfast.testing.fault import ScriptedFault
from holdfast.testing.scripted_parent import ScriptedParent
from holdfast_core.digest import Digest
from holdfast_core.store import Store
from support.patience import PATIENCE
from support.patience import until as patiently

MIB = 1 << 20
BLOBS = "/blobs/"
#: a test that takes longer hangs
HANGS_SECONDS = 180.0


@dataclass
class Site:
    """One node and its parent registry."""

    parent: ScriptedParent
    store: Store
    client: Parent
    fills: FillRegistry

    def sent(self, digest: str) -> int:
        """Bytes of the blob that the parent handed to its kernel."""
        return self.parent.bytes_sent.get(digest, 0)

    def gets(self) -> int:
        """GETs of blobs at the parent."""
        return self.parent.count("GET", BLOBS)

    def ranges(self) -> list[str]:
        """The Range of each GET of a blob, "" for none."""
        return [r.header("range") or "" for r in self.parent.log if r.method == "GET" and BLOBS in r.path]

    def script(self, **fault: Any) -> ScriptedFault:
        """Misbehave at GETs of blobs."""
        return self.parent.script(ScriptedFault(method="GET", path=BLOBS, **fault))

    def held(self, repository: str, digest: str) -> bool:
        """Whether the store has the blob for the repository."""
        return self.store.blobs.get(repository, Digest.parse(digest)) is not None


@asynccontextmanager
async def filling(
    store: Store, parent: ScriptedParent, clock: Clock | None = None, silence: float = 600.0, **policy: Any
) -> AsyncIterator[Site]:
    """A node on an open store. `silence` is what a silent parent is given, in seconds."""
    clock = clock or SystemClock()
    where = config.ParentSection(
        url=parent.url,
        stall_timeout=silence,
        answer_timeout=300.0,
        insecure=True,
        connections=64,
    )
    client = Parent(where, clock)
    fills = FillRegistry(store, {"": client}.__getitem__, config.FillsSection(**policy), clock)
    await fills.start()
    try:
        yield Site(parent, store, client, fills)
    finally:
        await fills.close()
        await client.close()


@asynccontextmanager
async def site(directory: Path, **options: Any) -> AsyncIterator[Site]:
    """Everything new."""
    options = {"reserve_bytes": 0, **options}
    store = Store.create_or_open(directory / "store", write=True)
    try:
        async with ScriptedParent() as parent, filling(store, parent, **options) as node:
            yield node
    finally:
        store.close()


def run(work: Coroutine[Any, Any, None]) -> None:
    """Run a test's coroutine; one that hangs fails, however slow the machine is."""

    async def bounded() -> None:
        async with asyncio.timeout(HANGS_SECONDS):
            await work

    asyncio.run(bounded())


def held_hashing(monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """No byte is hashed, and so no fill comes to its end, before the event is set."""
    go_on, spans = threading.Event(), hash_queue.spans

    def held_up(pieces: list[Stretch]) -> Iterator[memoryview]:
        assert go_on.wait(PATIENCE)
        return spans(pieces)

    monkeypatch.setattr(hash_queue, "spans", held_up)
    return go_on


async def until(condition: Callable[[], bool]) -> None:
    """Wait for something to become true; a fill has many small steps."""
    await patiently(condition, 0.002)


class Drain:
    """A client's body: reads [start, end) in order and lets out what the hold-back rule allows."""

    def __init__(self, node: Site, digest: str, repository: str = "demo", holdback: int = 64 << 10) -> None:
        self.node, self.digest, self.repository, self.holdback = node, digest, repository, holdback
        self.out = bytearray()
        self.reader: Reader | None = None

    async def all(self, start: int = 0, end: int = -1, whole: bool = True) -> bytes:
        """The bytes; raises what ends the body early (then `out` has what was let out)."""
        answer = await self.node.fills.open(self.repository, self.digest, start, end, whole)
        if start < 0:
            start, end = max(0, answer.size + start), answer.size
        stop = answer.size if end < 0 else min(end, answer.size)
        if not answer.fill:
            return self._held(start, stop)
        self.reader = await self.node.fills.attach(answer.fill, start, stop, whole)
        try:
            await self._follow(start, stop, answer.size - self.holdback if whole else stop)
        finally:
            self.reader.close()
        return bytes(self.out)

    async def _follow(self, at: int, stop: int, free: int) -> None:
        assert self.reader is not None
        while at < stop:
            if at >= free:
                await self.reader.wait_verified()
                free = stop
            there = min(await self.reader.wait_for(at), stop, max(free, 0))
            if there > at:
                data = self.reader.read(at, min(there - at, 256 << 10))
                self.out += data
                at += len(data)

    def _held(self, start: int, stop: int) -> bytes:
        blob = self.node.store.blobs.get(self.repository, Digest.parse(self.digest))
        assert blob is not None
        with self.node.store.blobs.open(blob) as held:
            while len(self.out) < stop - start:
                self.out += held.read(start + len(self.out), stop - start - len(self.out))
        return bytes(self.out)


def drain(node: Site, digest: str, *where: Any, repository: str = "demo", **how: Any) -> asyncio.Task[bytes]:
    """A client as a task."""
    return asyncio.ensure_future(Drain(node, digest, repository).all(*where, **how))
