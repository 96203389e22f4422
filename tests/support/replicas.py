"""A keeper that synchronises, over a real store and a scripted parent."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from holdfast.clock import Clock, SystemClock
from holdfast.config_file import from_table
from holdfast.keeper.keeper import Keeper
from holdfast.process.assembly import make_keeper
from holdfast.sync.schedule import MANUAL
from holdfast.sync.synchroniser import Synchroniser
from holdfast.testing.manual_clock import FakeClock
from holdfast.testing.random_content import ScriptedContent
from holdfast.testing.sample import OCI_CONFIG, OCI_LAYER, OCI_MANIFEST
from holdfast.testing.scripted_parent import ScriptedParent
from holdfast_core.digest import Digest
from holdfast_core.record import LockTarget
from holdfast_core.store import Store
from support.fills import until

ALWAYS = {"schedule": "* * * * *"}


@asynccontextmanager
async def replicating(
    place: Path,
    parent: ScriptedParent,
    *rows: dict[str, Any],
    clock: Clock | None = None,
    schedule: dict[str, Any] | None = None,
    mode: str = "ReadOnly",
) -> AsyncIterator[Keeper]:
    """A node with `[sync]`; its store stays in `place` for the next. `schedule` may hold more keys of `[sync]`."""
    sync = {**(schedule or ALWAYS), "repositories": list(rows) or [{"name": "demo"}]}
    config = from_table(
        {
            "parent": [{"url": parent.url, "insecure": True, "stall_timeout": 600.0, "connections": 64}],
            "sync": sync,
            "fills": {"reserve_bytes": 0},
        }
    )
    store = Store.create_or_open(place / "store", write=True, mode=mode)
    keeper = make_keeper(config, store, clock or SystemClock())
    await keeper.start()
    try:
        yield keeper
    finally:
        await keeper.close()
        store.close()


def replica_of(keeper: Keeper) -> Synchroniser:
    """What synchronises in it."""
    assert keeper.parts.synchroniser is not None
    return keeper.parts.synchroniser


async def synchronised(keeper: Keeper) -> None:
    """Until a run has ended well, and nothing is asked for."""
    await until(lambda: replica_of(keeper).record.state.synced_at > 0)
    await idle(keeper)


async def one_run(keeper: Keeper, clock: FakeClock) -> None:
    """One run from its beginning to its end, whether it is complete or not; its pauses take no time."""
    replica = replica_of(keeper)
    await idle_or_failed(keeper, clock)
    replica.run_now()
    while (state := replica.record.state).requested == MANUAL and not state.running and not state.again_at:
        await asyncio.sleep(0.001)  # not begun
    await idle_or_failed(keeper, clock)


async def idle_or_failed(keeper: Keeper, clock: FakeClock) -> None:
    """Until nothing runs, nor is about to."""
    replica = replica_of(keeper)

    def is_over() -> bool:
        state = replica.record.state
        return not state.running and (not state.requested or state.again_at > clock.now())

    await advance(clock, 200.0, is_over, 0.1)


async def idle(keeper: Keeper) -> None:
    """Until no run is under way or asked for."""

    def is_idle() -> bool:
        state = replica_of(keeper).record.state
        return not state.running and not state.requested

    await until(is_idle)


def image_of(
    parent: ScriptedParent, name: str, tag: str, *layers: ScriptedContent | bytes, **config: str
) -> str:
    """Put an image at the parent; its digest. The tag is in its config, so that images differ."""
    blobs = [json.dumps({"tag": tag, **config}).encode(), *layers]
    parts = []
    for content in blobs:
        digest = parent.add_blob(name, content)
        size = len(content) if isinstance(content, bytes) else content.size
        parts.append({"mediaType": OCI_LAYER, "digest": digest, "size": size})
    parts[0]["mediaType"] = OCI_CONFIG
    document = {"schemaVersion": 2, "mediaType": OCI_MANIFEST, "config": parts[0], "layers": parts[1:]}
    return parent.add_manifest(name, json.dumps(document).encode(), OCI_MANIFEST, tag)


def holds(keeper: Keeper, name: str, tag: str, digest: str) -> bool:
    """Whether the tag is here, with its manifest and every blob."""
    held = keeper.store.references.tag(name, tag)
    if held is None or str(held.digest) != digest:
        return False
    manifest = keeper.store.references.manifest(name, held.digest)
    if manifest is None:
        return False
    document = json.loads(manifest.body)
    if "manifests" in document:
        children = [str(child["digest"]) for child in document["manifests"]]
        return all(
            keeper.store.references.is_there(name, LockTarget("manifest", child)) for child in children
        )
    parts = [document["config"], *document["layers"]]
    return all(keeper.store.blobs.get(name, Digest.parse(part["digest"])) is not None for part in parts)


async def advance(clock: Any, seconds: float, done: Callable[[], bool], step: float = 1.0) -> None:
    """Let a fake clock run until something is so, at most so far; every step gives the loop real time."""
    for _ in range(int(seconds / step)):
        if done():
            return
        clock.advance(step)
        await asyncio.sleep(0.01)
    assert done()
