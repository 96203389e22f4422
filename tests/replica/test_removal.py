"""What goes here because the parent has it no longer: in a ReadOnly node, without a word to the parent; and what stays
is told."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from holdfast.keeper.keeper import Keeper
from holdfast.replica.removal import remove_manifest, remove_repository, remove_tag
from holdfast.testing.fault import Fault
from holdfast.testing.scripted_parent import ScriptedParent
from holdfast_core.record import Lock, Target
from support.fills import run, until
from support.replicas import holds, idle, image_of, replica_of, replicating, synchronised


@asynccontextmanager
async def holding(place: Path, parent: ScriptedParent) -> AsyncIterator[tuple[Keeper, str]]:
    """A node that has demo:v1 and demo:v2, one image, and its digest."""
    digest = image_of(parent, "demo", "v1", b"layer")
    parent.repository("demo").tags["v2"] = [digest]
    async with replicating(place, parent) as keeper:
        await synchronised(keeper)
        yield keeper, digest


def test_nobody_is_told_of_it_and_it_may_come_again(tmp_path: Path) -> None:
    async def main() -> None:
        async with ScriptedParent() as parent, holding(tmp_path, parent) as (keeper, digest):
            assert keeper.store.mode == "ReadOnly"
            assert await remove_tag(keeper, "demo", "v1") == ""
            assert keeper.store.tags("demo") == ["v2"]
            assert await remove_manifest(keeper, "demo", digest) == ""
            assert keeper.store.tags("demo") == []
            assert await remove_repository(keeper, "demo") == ""
            assert keeper.store.repositories() == []
            assert keeper.store.outbox() == []
            parent.script(Fault(method="DELETE", status=500, times=-1))
            replica_of(keeper).run_now()
            await until(lambda: holds(keeper, "demo", "v1", digest))
            await idle(keeper)
            assert parent.count("DELETE") == 0

    run(main())


def test_what_is_not_here_is_gone(tmp_path: Path) -> None:
    async def main() -> None:
        async with ScriptedParent() as parent, holding(tmp_path, parent) as (keeper, digest):
            assert await remove_tag(keeper, "demo", "v9") == ""
            assert await remove_manifest(keeper, "demo", "sha256:" + "0" * 64) == ""
            assert await remove_repository(keeper, "other") == ""
            assert holds(keeper, "demo", "v1", digest)

    run(main())


@pytest.mark.parametrize("lock", [Lock(delete=False), Lock(write=False)], ids=["delete", "write"])
def test_what_is_locked_stays_and_is_told(tmp_path: Path, lock: Lock) -> None:
    async def main() -> None:
        async with ScriptedParent() as parent, holding(tmp_path, parent) as (keeper, digest):
            store = keeper.store
            store.set_mode("ReadWrite")
            store.set_lock("demo", Target("tag", "v1"), lock, now=1.0).result()
            store.set_mode("ReadOnly")
            attribute = "deleteEnabled" if lock.write else "writeEnabled"
            for told in (
                await remove_tag(keeper, "demo", "v1"),
                await remove_manifest(keeper, "demo", digest),
                await remove_repository(keeper, "demo"),
            ):
                assert told.startswith("demo")
                assert "stays" in told
                assert f"{attribute} is false on the tag v1 of demo" in told
            assert await remove_tag(keeper, "demo", "v2") == ""
            assert store.tags("demo") == ["v1"]

    run(main())


def test_what_is_still_to_go_up_stays_and_is_told(tmp_path: Path) -> None:
    """Also where the node takes no pushes any more."""

    async def main() -> None:
        async with ScriptedParent() as parent, holding(tmp_path, parent) as (keeper, digest):
            parent.script(
                Fault(method="PUT", status=503, times=-1), Fault(method="POST", status=503, times=-1)
            )
            keeper.store.set_mode("ReadWrite")
            held = keeper.store.manifest("demo", keeper.store.tag("demo", "v1").digest)  # type: ignore[union-attr]
            assert held is not None
            await keeper.put_manifest("demo", digest, ("v3",), held.media_type, held.body)
            keeper.store.set_mode("ReadOnly")
            assert "the tag v3 of demo was pushed here" in await remove_tag(keeper, "demo", "v3")
            assert "pushed here" in await remove_manifest(keeper, "demo", digest)
            assert "pushed here" in await remove_repository(keeper, "demo")
            assert keeper.store.tags("demo") == ["v1", "v2", "v3"]

    run(main())
