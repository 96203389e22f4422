"""A reader that comes while the blob moves from the fills to the blobs."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from holdfast.clock import SystemClock
from holdfast.config import Configuration
from holdfast.keeper.rpc.remote_keeper import RemoteKeeper
from holdfast.keeper.rpc.service import Service
from holdfast.process.assembly import compose
from holdfast.testing.random_content import GeneratedContent
from holdfast.testing.scripted_parent import ScriptedParent
from holdfast_core.journal.group_commit import Writer
from holdfast_core.store import Store
from support.fills import MIB, Site, filling, until
from support.patience import PATIENCE

pytestmark = pytest.mark.loop("asyncio")


@asynccontextmanager
async def remote(node: Site, path: Path) -> AsyncIterator[RemoteKeeper]:
    """A worker's keeper, behind a socket."""
    keeper = compose(Configuration(), node.store, SystemClock(), {"": node.client}, node.fills)
    service = Service(keeper)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()
        await service.start(listener)
        port = RemoteKeeper.at(str(path), node.store, SystemClock())
        await port.start()
        try:
            yield port
        finally:
            await port.close()
            await service.close()


@asynccontextmanager
async def site(place: Path) -> AsyncIterator[tuple[Site, RemoteKeeper]]:
    """A store, its fills, and a worker's view of them."""
    store = Store.create_or_open(place / "store", write=True)
    try:
        async with (
            ScriptedParent() as parent,
            filling(store, parent) as node,
            remote(node, place / "keeper") as port,
        ):
            yield node, port
    finally:
        store.close()


async def test_a_reader_that_comes_while_the_blob_is_admitted_waits_for_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the rename of the file and the row in the index the old path is gone and the new one unknown."""
    go, commit = threading.Event(), Writer._commit

    def held_up(self: Writer, batch: list[Any]) -> Any:
        go.wait(PATIENCE)
        return commit(self, batch)

    async with site(tmp_path) as (node, port):
        content = GeneratedContent(MIB)
        digest = node.parent.add_blob("demo", content)
        monkeypatch.setattr(Writer, "_commit", held_up)
        told = await port.blob("demo", digest, 0, -1, True)
        parts = tmp_path / "store" / "fills"
        await until(lambda: node.gets() == 1 and not any(parts.iterdir()))
        late = asyncio.ensure_future(port.follow(told.fill, 0, told.size, True))
        done, _ = await asyncio.wait((late,), timeout=0.3)
        go.set()
        assert not done or late.exception() is None, repr(late.exception())
        reader = await late
        assert await reader.wait_for(0) == content.size
        assert reader.read(0, 10) == content.read(0, 10)
        reader.close()
