"""A keeper that caches within a budget, over a real store and a scripted parent, and the pulls of its clients."""

from __future__ import annotations

import json
import os
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from holdfast.clock import Clock, SystemClock
from holdfast.config_file import from_table
from holdfast.errors import FillGone
from holdfast.keeper.keeper import Keeper
from holdfast.process.assembly import make_keeper
from holdfast.testing.scripted_parent import ScriptedParent
from holdfast_core.digest import Digest
from holdfast_core.store import Store
from support.replicas import holds, image_of

MIB = 1 << 20
#: a store takes about so much without content: index, journal, directories (bytes)
EMPTY_BYTES = 4 * MIB


@asynccontextmanager
async def caching(
    place: Path, *parents: ScriptedParent, clock: Clock | None = None, **tables: Any
) -> AsyncIterator[Keeper]:
    """A node in front of parents: the first is the default, the others are `p1`, `p2`, …; its store stays in `place`
    for the next. `tables` are of its configuration."""
    rows = [
        {
            "url": parent.url,
            "insecure": True,
            "name": f"p{number}" if number else "",
            "stall_timeout": 600.0,
            "connections": 64,
        }
        for number, parent in enumerate(parents)
    ]
    config = from_table({"parent": rows, **tables})
    store = Store.create_or_open(place / "store", write=True, mode=config.store_mode)
    keeper = make_keeper(config, store, clock or SystemClock())
    await keeper.start()
    try:
        yield keeper
    finally:
        await keeper.close()
        store.close()


def bytes_on_disk(place: Path) -> int:
    """What `du` says of the store in `place`."""
    folders = os.walk(place / "store")
    return sum(_blocks(Path(folder) / name) for folder, _, files in folders for name in (".", *files))


def _blocks(path: Path) -> int:
    try:
        return path.lstat().st_blocks * 512
    except FileNotFoundError:
        return 0


async def pull(keeper: Keeper, repository: str, reference: str) -> int:
    """What a client does: the manifest, then each blob that it names, every byte; how many bytes."""
    answer = await keeper.manifest(repository, reference)
    body = answer.body
    if not body:
        held = keeper.store.references.manifest(repository, Digest.parse(answer.digest))
        assert held is not None
        body = held.body
    keeper.seen(repository, answer.digest)
    document = json.loads(body)
    total = 0
    for part in (document["config"], *document["layers"]):
        content = await read_blob(keeper, repository, part["digest"])
        assert str(Digest.of(content)) == part["digest"]
        total += len(content)
    return total


async def read_blob(keeper: Keeper, repository: str, digest: str) -> bytes:
    """All bytes of a blob, by a hit or a fill."""
    while True:
        held = keeper.store.blobs.get(repository, Digest.parse(digest))
        if held is not None:
            keeper.seen(repository, digest)
            return keeper.store.blobs.read(held)
        answer = await keeper.blob(repository, digest, 0, -1, True)
        if not answer.fill:
            continue
        try:
            reader = await keeper.follow(answer.fill, 0, answer.size, True)
        except FillGone:
            continue
        try:
            return await _all_of(reader, answer.size)
        finally:
            reader.close()


async def _all_of(reader: Any, size: int) -> bytes:
    out = bytearray()
    while len(out) < size:
        there = await reader.wait_for(len(out))
        out += reader.read(len(out), min(there - len(out), MIB))
    await reader.wait_verified()
    return bytes(out)


def complete(keeper: Keeper, images: Iterable[tuple[str, str, str]]) -> list[tuple[str, str, str]]:
    """Those of (repository, tag, digest) whose tag is here; each has everything it names."""
    here = [one for one in images if keeper.store.references.tag(one[0], one[1]) is not None]
    for name, tag, digest in here:
        assert holds(keeper, name, tag, digest), f"{name}:{tag} is listed and not whole"
    return here


__all__ = ["EMPTY_BYTES", "MIB", "bytes_on_disk", "caching", "complete", "image_of", "pull", "read_blob"]
