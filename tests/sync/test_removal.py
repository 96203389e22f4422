"""Removals of what the parent no longer has: in a ReadOnly node as well, without a request to the parent; a refusal is
reported."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from holdfast.keeper.keeper import Keeper
from holdfast.sync.removal import remove_manifest, remove_repository, remove_tag
from holdfast.testing.fault import ScriptedFault
from holdfast.testing.scripted_parent import ScriptedParent
from holdfast_core.record import Lock, LockTarget
from support.fills import until
from support.replicas import holds, idle, image_of, replica_of, replicating, synchronised

pytestmark = pytest.mark.loop("asyncio")


@asynccontextmanager
async def holding(place: Path, parent: ScriptedParent) -> AsyncIterator[tuple[Keeper, str]]:
    """A node that has demo:v1 and demo:v2, one image, and its digest."""
    digest = image_of(parent, "demo", "v1", b"layer")
    parent.repository("demo").tags["v2"] = [digest]
    async with replicating(place, parent) as keeper:
        await synchronised(keeper)
        yield keeper, digest


async def test_nobody_is_told_of_it_and_it_may_come_again(tmp_path: Path) -> None:
    async with ScriptedParent() as parent, holding(tmp_path, parent) as (keeper, digest):
        assert keeper.store.mode == "ReadOnly"
        assert await remove_tag(replica_of(keeper)._context, "demo", "v1") == ""
        assert keeper.store.references.tags("demo") == ["v2"]
        assert await remove_manifest(replica_of(keeper)._context, "demo", digest) == ""
        assert keeper.store.references.tags("demo") == []
        assert await remove_repository(replica_of(keeper)._context, "demo") == ""
        assert keeper.store.references.repositories() == []
        assert keeper.store.references.outbox.rows() == []
        parent.script(ScriptedFault(method="DELETE", status=500, times=-1))
        replica_of(keeper).run_now()
        await until(lambda: holds(keeper, "demo", "v1", digest))
        await idle(keeper)
        assert parent.count("DELETE") == 0


async def test_what_is_not_here_is_gone(tmp_path: Path) -> None:
    async with ScriptedParent() as parent, holding(tmp_path, parent) as (keeper, digest):
        assert await remove_tag(replica_of(keeper)._context, "demo", "v9") == ""
        assert await remove_manifest(replica_of(keeper)._context, "demo", "sha256:" + "0" * 64) == ""
        assert await remove_repository(replica_of(keeper)._context, "other") == ""
        assert holds(keeper, "demo", "v1", digest)


@pytest.mark.parametrize("lock", [Lock(delete=False), Lock(write=False)], ids=["delete", "write"])
async def test_what_is_locked_stays_and_is_told(tmp_path: Path, lock: Lock) -> None:
    async with ScriptedParent() as parent, holding(tmp_path, parent) as (keeper, digest):
        store = keeper.store
        store.set_mode("ReadWrite")
        store.references.set_lock("demo", LockTarget("tag", "v1"), lock, now=1.0).result()
        store.set_mode("ReadOnly")
        attribute = "deleteEnabled" if lock.write else "writeEnabled"
        for reason in (
            await remove_tag(replica_of(keeper)._context, "demo", "v1"),
            await remove_manifest(replica_of(keeper)._context, "demo", digest),
            await remove_repository(replica_of(keeper)._context, "demo"),
        ):
            assert reason.startswith("demo")
            assert "stays" in reason
            assert f"{attribute} is false on the tag v1 of demo" in reason
        assert await remove_tag(replica_of(keeper)._context, "demo", "v2") == ""
        assert store.references.tags("demo") == ["v1"]


async def test_what_is_still_to_go_up_stays_and_is_told(tmp_path: Path) -> None:
    """Also where the node takes no pushes any more."""
    async with ScriptedParent() as parent, holding(tmp_path, parent) as (keeper, digest):
        parent.script(
            ScriptedFault(method="PUT", status=503, times=-1),
            ScriptedFault(method="POST", status=503, times=-1),
        )
        keeper.store.set_mode("ReadWrite")
        held = keeper.store.references.manifest("demo", keeper.store.references.tag("demo", "v1").digest)  # type: ignore[union-attr]
        assert held is not None
        await keeper.put_manifest("demo", digest, ("v3",), held.media_type, held.body)
        keeper.store.set_mode("ReadOnly")
        assert "the tag v3 of demo was pushed here" in await remove_tag(
            replica_of(keeper)._context, "demo", "v3"
        )
        assert "pushed here" in await remove_manifest(replica_of(keeper)._context, "demo", digest)
        assert "pushed here" in await remove_repository(replica_of(keeper)._context, "demo")
        assert keeper.store.references.tags("demo") == ["v1", "v2", "v3"]
