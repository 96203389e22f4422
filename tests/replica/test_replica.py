"""What a node fetches before anybody asks, counted at the parent."""

from __future__ import annotations

import asyncio
import json
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest
from holdfast import errors
from holdfast.endpoint import attributes
from holdfast.manifest import SCHEMA_1
from holdfast.replica.memory import recall
from holdfast.replica.replica import Replica
from holdfast.repository import Repository
from holdfast.routing import Scope
from holdfast.testing.clock import FakeClock
from holdfast.testing.content import Generated
from holdfast.testing.fault import Fault
from holdfast.testing.sample import OCI_MANIFEST
from holdfast.testing.scripted_parent import ScriptedParent, StoredManifest
from holdfast_core.digest import Digest
from holdfast_core.record import Target
from support.fills import MIB, run, until
from support.replicas import advance, holds, idle, image_of, replica_of, replicating, synchronised

NIGHT = {"schedule": "0 22 * * *", "window": "PT1H"}
DAY_SECONDS, HOUR_SECONDS = 86400.0, 3600.0
#: 22:00 UTC of some day
TEN = 20834 * DAY_SECONDS + 22 * HOUR_SECONDS


def test_an_image_comes_whole_and_once(tmp_path: Path) -> None:
    """Index, platforms, referrer and tag; what is not asked for is not fetched; a second run costs its questions."""

    async def main() -> None:
        async with ScriptedParent() as parent:
            sample = parent.add_sample("demo", "1.0")
            parent.repository("demo").tags["also"] = [sample.index]
            image_of(parent, "demo", "unwanted", Generated(MIB))
            async with replicating(tmp_path, parent, {"name": "demo", "exclude": ["unwanted"]}) as keeper:
                await synchronised(keeper)
                assert holds(keeper, "demo", "1.0", sample.index)
                assert holds(keeper, "demo", "also", sample.index)
                for digest in (*sample.images.values(), sample.artifact):
                    assert keeper.store.is_there("demo", Target("manifest", digest))
                assert all(keeper.store.blob("demo", Digest.parse(digest)) for digest in sample.blobs)
                assert keeper.store.tag("demo", "unwanted") is None
                unique = sum(map(len, sample.blobs.values())) + sum(
                    len(body) for *_, body in sample.manifests
                )
                assert sum(parent.bytes_sent.values()) <= 1.02 * unique
                assert replica_of(keeper).status().up_to_date == 2
                await until(lambda: recall(keeper.store).here == 2)

    run(main())


def test_unchanged_tags_cost_a_request_each(tmp_path: Path) -> None:
    tags = 1000

    async def main() -> None:
        async with ScriptedParent() as parent:
            digests = {f"1.0.{n}": image_of(parent, "demo", f"1.0.{n}") for n in range(tags)}
            async with replicating(
                tmp_path, parent, schedule=NIGHT, clock=FakeClock(TEN + 7 * 60, jump=False)
            ) as keeper:
                await synchronised(keeper)
                assert all(holds(keeper, "demo", tag, digest) for tag, digest in digests.items())
            parent.reset_counts()
            later = FakeClock(TEN + DAY_SECONDS + 7 * 60, jump=False)
            async with replicating(tmp_path, parent, schedule=NIGHT, clock=later) as keeper:
                await until(lambda: replica_of(keeper).memory.state.synced_at > TEN + DAY_SECONDS)
                assert replica_of(keeper).status().up_to_date == tags
            assert parent.count("HEAD", "/manifests/") == tags
            assert sum(parent.requests.values()) == tags + 1  # and the list

    run(main())


def test_bytes_held_by_another_repository_are_linked(tmp_path: Path) -> None:
    async def main() -> None:
        async with ScriptedParent() as parent:
            layer = Generated(2 * MIB)
            one = image_of(parent, "one", "v1", layer)
            two = image_of(parent, "two", "v1", layer)
            async with replicating(tmp_path, parent, {"name": "one"}, {"name": "two"}) as keeper:
                await synchronised(keeper)
                assert holds(keeper, "one", "v1", one)
                assert holds(keeper, "two", "v1", two)
                assert parent.bytes_sent[layer.digest] == layer.size

    run(main())


def test_a_cut_link_costs_no_byte_twice(tmp_path: Path) -> None:
    async def main() -> None:
        async with ScriptedParent() as parent:
            layer = Generated(8 * MIB)
            digest = image_of(parent, "demo", "v1", layer)
            parent.script(Fault(method="GET", path=layer.digest, cut_after=3 * MIB, times=1))
            async with replicating(tmp_path, parent) as keeper:
                await synchronised(keeper)
                assert holds(keeper, "demo", "v1", digest)
                assert layer.size <= parent.bytes_sent[layer.digest] <= 1.02 * layer.size + MIB

    run(main())


def test_the_end_of_a_window_stops_at_a_byte_and_the_next_goes_on_there(tmp_path: Path) -> None:
    async def main() -> None:
        clock = FakeClock(TEN + 7 * 60, jump=False)
        async with ScriptedParent() as parent:
            layer = Generated(16 * MIB)
            digest = image_of(parent, "demo", "v1", layer)
            parent.script(Fault(method="GET", path=layer.digest, stall_after=6 * MIB, times=1))
            async with replicating(tmp_path, parent, schedule=NIGHT, clock=clock) as keeper:
                replica = replica_of(keeper)

                def came() -> int:
                    return 0 if (found := replica.status().progress) is None else found.bytes_done

                await until(lambda: came() >= 6 * MIB)
                await advance(clock, 2 * HOUR_SECONDS, lambda: not replica.memory.state.running, 60.0)
                await until(lambda: bool(keeper.store.fills()))
                (state,) = keeper.store.fills()
                assert not state.whole
                assert replica.status().asked == "Scheduled"
                asked = parent.count()
                await advance(clock, 20 * HOUR_SECONDS, lambda: clock.now() > TEN + 20 * HOUR_SECONDS, 600.0)
                assert parent.count() == asked  # outside the window nobody asks
                await advance(clock, 8 * HOUR_SECONDS, lambda: replica.memory.state.synced_at > 0, 60.0)
                assert holds(keeper, "demo", "v1", digest)
            assert parent.bytes_sent[layer.digest] <= layer.size + MIB

    run(main())


def test_a_restart_goes_on(tmp_path: Path) -> None:
    async def main() -> None:
        async with ScriptedParent() as parent:
            layer = Generated(16 * MIB)
            first = image_of(parent, "demo", "a", b"small")
            digest = image_of(parent, "demo", "v1", layer)
            parent.script(Fault(method="GET", path=layer.digest, stall_after=6 * MIB, times=1))
            async with replicating(tmp_path, parent) as keeper:
                await until(lambda: holds(keeper, "demo", "a", first))

                def came() -> int:
                    found = replica_of(keeper).status().progress
                    return 0 if found is None else found.bytes_done

                await until(lambda: came() >= 6 * MIB)
            async with replicating(tmp_path, parent) as keeper:
                await synchronised(keeper)
                assert holds(keeper, "demo", "v1", digest)

                def is_over() -> bool:
                    job = recall(keeper.store).job
                    return job is not None and (job.serial, job.over) == (1, True)

                await until(is_over)
            assert parent.bytes_sent[layer.digest] <= layer.size + MIB

    run(main())


def test_one_failing_image_is_told_and_the_others_arrive(tmp_path: Path) -> None:
    async def main() -> None:
        async with ScriptedParent() as parent:
            bad = Generated(MIB, "bad")
            image_of(parent, "demo", "bad", bad)
            image_of(parent, "demo", "refused", refused := b"refused")
            good = {f"v{n}": image_of(parent, "demo", f"v{n}", f"layer {n}".encode()) for n in range(20)}
            parent.script(
                Fault(method="GET", path=bad.digest, flip_at=5, times=-1),
                Fault(path=str(Digest.of(refused)), status=403, times=-1),
                Fault(path="/manifests/v3$", method="HEAD", status=404, times=1),
            )
            async with replicating(tmp_path, parent) as keeper:
                await until(lambda: replica_of(keeper).memory.job is not None)
                await until(lambda: not replica_of(keeper).memory.state.running)
                found = {one.image: one.kind for one in replica_of(keeper).status().troubles}
                assert found == {"demo:bad": "wrong", "demo:refused": "denied", "demo:v3": "gone"}
                del good["v3"]
                assert all(holds(keeper, "demo", tag, digest) for tag, digest in good.items())
                assert keeper.store.tag("demo", "bad") is None

    run(main())


@pytest.mark.parametrize("media_type", [*sorted(SCHEMA_1), "application/json"])
def test_case_trust_11_schema_1_is_named_and_leaves_no_run_incomplete(
    tmp_path: Path, media_type: str
) -> None:
    """Its digest is not that of its bytes, and some registries send it as plain JSON; what else there is comes."""

    async def main() -> None:
        async with ScriptedParent() as parent:
            digest = image_of(parent, "demo", "new", b"a layer")
            body = b'{"schemaVersion": 1, "name": "demo", "fsLayers": [], "history": [], "signatures": []}'
            named, demo = "sha256:" + "5" * 64, parent.repository("demo")
            demo.manifests[named], demo.tags["old"] = StoredManifest(media_type, body), [named]
            async with replicating(tmp_path, parent) as keeper:
                await synchronised(keeper)
                (found,) = replica_of(keeper).status().troubles
                assert (found.image, found.kind) == ("demo:old", "unsupported")
                assert "schema 1" in found.reason
                assert "push it again" in found.reason
                assert holds(keeper, "demo", "new", digest)
                with pytest.raises(errors.SchemaOne, match="demo:old is a schema 1 image"):
                    await keeper.manifest("demo", "old")
                assert keeper.parents[""].counters["mismatches"] == 0

    run(main())


def test_an_operator_does_not_wait_for_the_window(tmp_path: Path) -> None:
    async def main() -> None:
        async with ScriptedParent() as parent:
            digest = image_of(parent, "demo", "v1", b"layer")
            async with replicating(
                tmp_path, parent, schedule=NIGHT, clock=FakeClock(TEN - 60, jump=False)
            ) as keeper:
                await asyncio.sleep(0.1)
                assert not replica_of(keeper).memory.state.running
                assert parent.count() == 0
                replica_of(keeper).run_now()  # whatever the window
                await until(lambda: holds(keeper, "demo", "v1", digest))

    run(main())


def test_a_plan_counts_and_keeps_nothing(tmp_path: Path) -> None:
    async def main() -> None:
        async with ScriptedParent() as parent:
            layer = Generated(2 * MIB)
            for tag in ("v1", "v2"):
                image_of(parent, "demo", tag, layer)
            clock = FakeClock(TEN - 60, jump=False)
            async with replicating(tmp_path, parent, schedule=NIGHT, clock=clock) as keeper:
                plan = await replica_of(keeper).plan()
                assert plan.ready
                assert [one.image for one in plan.images] == ["demo:v1", "demo:v2"]
                assert layer.size < plan.bytes < layer.size + 4096
                assert plan.fits is None
                assert keeper.store.tags("demo") == []
                assert parent.count("GET", "/blobs/") == 0

    run(main())


def test_what_was_deleted_here_stays_deleted(tmp_path: Path) -> None:
    async def main() -> None:
        async with ScriptedParent() as parent:
            image_of(parent, "demo", "v1", b"layer")
            async with replicating(tmp_path, parent) as keeper:
                await synchronised(keeper)
                keeper.store.set_mode("ReadWrite")
                await keeper.delete("demo", "tag", "v1")
                replica_of(keeper).run_now()
                await idle(keeper)
                await until(lambda: bool(replica_of(keeper).status().words))
                assert keeper.store.tag("demo", "v1") is None
                assert "deleted here" in replica_of(keeper).status().words[0]

    run(main())


def test_a_node_without_sync_says_so(tmp_path: Path) -> None:
    async def main() -> None:
        async with ScriptedParent() as parent, replicating(tmp_path, parent) as keeper:
            await replica_of(keeper).close()
            keeper.replica = None
            with pytest.raises(errors.ControlConflict, match=r"under \[sync\]"):
                await keeper.synchronise("status")

    run(main())


def is_synchronised(replica: Replica, since: float) -> bool:
    return replica.memory.state.synced_at > since


def test_referrers_that_came_later_are_noticed_at_one_request_an_image_in_so_long_a_time(
    tmp_path: Path,
) -> None:
    """By scheduled runs; in between a tag costs its HEAD and no more."""

    async def main() -> None:
        sync = {**NIGHT, "referrers_every": "P3D"}
        async with ScriptedParent() as parent:
            digest = image_of(parent, "demo", "v1", b"layer")
            sbom = ""
            for night in range(7):
                parent.reset_counts()
                clock = FakeClock(TEN + night * DAY_SECONDS + 7 * 60, jump=False)
                async with replicating(tmp_path, parent, schedule=sync, clock=clock) as keeper:
                    replica, evening = replica_of(keeper), TEN + night * DAY_SECONDS
                    await until(partial(is_synchronised, replica, evening))
                    if sbom:
                        there = keeper.store.is_there("demo", Target("manifest", sbom))
                        assert there == (night >= 3)
                assert (
                    parent.count("GET", "/referrers/") == (1, 0, 0, 2, 0, 0, 2)[night]
                )  # of the referrer, too
                assert parent.count("HEAD") == 1
                if night == 0:
                    subject = {"mediaType": OCI_MANIFEST, "digest": digest, "size": 1}
                    document = {
                        "schemaVersion": 2,
                        "mediaType": OCI_MANIFEST,
                        "artifactType": "sbom",
                        "config": {"mediaType": "x/y", "digest": parent.add_blob("demo", b"{}"), "size": 2},
                        "layers": [],
                        "subject": subject,
                    }
                    sbom = parent.add_manifest("demo", json.dumps(document).encode(), OCI_MANIFEST)

    run(main())


def test_children_that_nobody_wanted_are_told_of_their_index(tmp_path: Path) -> None:
    """In the plan, and in the attributes of the manifest."""

    async def main() -> None:
        async with ScriptedParent() as parent:
            sample = parent.add_sample("demo", "1.0")
            row = {"name": "demo", "platforms": ["linux/amd64"], "referrers": []}
            clock = FakeClock(TEN - 60, jump=False)
            async with replicating(tmp_path, parent, row, schedule=NIGHT, clock=clock) as keeper:
                (planned,) = (await replica_of(keeper).plan()).images
                assert planned.absent == len(sample.images) - 1
                replica_of(keeper).run_now()
                await until(lambda: keeper.store.tag("demo", "1.0") is not None)
                await idle(keeper)
                scope = Scope(Repository("", "demo"), "demo", True)
                node = SimpleNamespace(store=keeper.store)
                found = await attributes._absent(node, scope, sample.index)  # type: ignore[arg-type]
                left_out = [digest for name, digest in sample.images.items() if name != "amd64"]
                assert sorted(found["absent"]) == sorted(left_out)
                here = sample.images["amd64"]
                assert await attributes._absent(node, scope, here) == {"absent": []}  # type: ignore[arg-type]

    run(main())


def test_silence_is_told_long_before_the_messages_expire(tmp_path: Path) -> None:
    """Half of the TTL (P2D) without a complete run; the sentence names the time that is left."""

    async def main() -> None:
        clock = FakeClock(TEN, jump=False)
        async with ScriptedParent() as parent:
            image_of(parent, "demo", "v1", b"layer")
            async with replicating(tmp_path, parent, clock=clock) as keeper:
                await synchronised(keeper)
                assert not (await keeper.status()).troubles
                parent.script(Fault(status=503, times=-1))
                replica = replica_of(keeper)

                def told() -> list[str]:
                    return [words for words in replica.notes() if "nothing was synchronised" in words]

                await advance(clock, 30 * HOUR_SECONDS, lambda: bool(told()), HOUR_SECONDS / 2)
                assert (
                    DAY_SECONDS <= clock.now() - replica.memory.state.synced_at < DAY_SECONDS + HOUR_SECONDS
                )
                (words,) = told()
                assert "in 24 h the parent's messages expire. Look at the link" in words
                assert words in (await keeper.status()).troubles

    run(main())
