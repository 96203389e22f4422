"""What a node fetches before anybody asks, counted at the parent."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from functools import partial
from math import ceil
from pathlib import Path
from types import SimpleNamespace

import pytest
from holdfast import errors
from holdfast.endpoint import attributes
from holdfast.oci.manifest import SCHEMA_1
from holdfast.routing import Repository, RoutedRepository
from holdfast.sync.run_record import read_record
from holdfast.sync.synchroniser import Synchroniser
from holdfast.testing.fault import ScriptedFault
from holdfast.testing.manual_clock import FakeClock
from holdfast.testing.random_content import GeneratedContent
from holdfast.testing.sample import OCI_MANIFEST
from holdfast.testing.scripted_parent import ScriptedParent, StoredManifest
from holdfast.wire.refusal import reply_to
from holdfast.wire.routes import Noun
from holdfast_core.digest import Digest
from holdfast_core.record import LockTarget
from support.fills import MIB, until
from support.pushing import running
from support.replicas import advance, holds, idle, image_of, one_run, replica_of, replicating, synchronised

pytestmark = pytest.mark.loop("asyncio")

NIGHT = {"schedule": "0 22 * * *", "window": "PT1H"}
DAY_SECONDS, HOUR_SECONDS = 86400.0, 3600.0
#: 22:00 UTC of some day
TEN = 20834 * DAY_SECONDS + 22 * HOUR_SECONDS


async def test_an_image_comes_whole_and_once(tmp_path: Path) -> None:
    """Index, platforms, referrer and tag; what is not selected is not fetched; a second run costs its requests."""
    async with ScriptedParent() as parent:
        sample = parent.add_sample("demo", "1.0")
        parent.repository("demo").tags["also"] = [sample.index]
        image_of(parent, "demo", "unwanted", GeneratedContent(MIB))
        async with replicating(tmp_path, parent, {"name": "demo", "exclude": ["unwanted"]}) as keeper:
            await synchronised(keeper)
            assert holds(keeper, "demo", "1.0", sample.index)
            assert holds(keeper, "demo", "also", sample.index)
            for digest in (*sample.images.values(), sample.artifact):
                assert keeper.store.references.is_there("demo", LockTarget("manifest", digest))
            assert all(keeper.store.blobs.get("demo", Digest.parse(digest)) for digest in sample.blobs)
            assert keeper.store.references.tag("demo", "unwanted") is None
            unique = sum(map(len, sample.blobs.values())) + sum(len(body) for *_, body in sample.manifests)
            assert sum(parent.bytes_sent.values()) <= 1.02 * unique
            assert replica_of(keeper).status().up_to_date == 2
            await until(lambda: read_record(keeper.store).here == 2)


async def test_unchanged_tags_cost_a_request_each(tmp_path: Path) -> None:
    tags = 1000
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
            await until(lambda: replica_of(keeper).record.state.synced_at > TEN + DAY_SECONDS)
            assert replica_of(keeper).status().up_to_date == tags
        assert parent.count("HEAD", "/manifests/") == tags
        assert sum(parent.requests.values()) == tags + 1  # and the list


async def test_bytes_held_by_another_repository_are_linked(tmp_path: Path) -> None:
    async with ScriptedParent() as parent:
        layer = GeneratedContent(2 * MIB)
        one = image_of(parent, "one", "v1", layer)
        two = image_of(parent, "two", "v1", layer)
        async with replicating(tmp_path, parent, {"name": "one"}, {"name": "two"}) as keeper:
            await synchronised(keeper)
            assert holds(keeper, "one", "v1", one)
            assert holds(keeper, "two", "v1", two)
            assert parent.bytes_sent[layer.digest] == layer.size


async def test_a_cut_link_costs_no_byte_twice(tmp_path: Path) -> None:
    async with ScriptedParent() as parent:
        layer = GeneratedContent(8 * MIB)
        digest = image_of(parent, "demo", "v1", layer)
        parent.script(ScriptedFault(method="GET", path=layer.digest, cut_after=3 * MIB, times=1))
        async with replicating(tmp_path, parent) as keeper:
            await synchronised(keeper)
            assert holds(keeper, "demo", "v1", digest)
            assert layer.size <= parent.bytes_sent[layer.digest] <= 1.02 * layer.size + MIB


async def test_the_end_of_a_window_stops_at_a_byte_and_the_next_goes_on_there(tmp_path: Path) -> None:
    clock = FakeClock(TEN + 7 * 60, jump=False)
    async with ScriptedParent() as parent:
        layer = GeneratedContent(16 * MIB)
        digest = image_of(parent, "demo", "v1", layer)
        parent.script(ScriptedFault(method="GET", path=layer.digest, stall_after=6 * MIB, times=1))
        async with replicating(tmp_path, parent, schedule=NIGHT, clock=clock) as keeper:
            replica = replica_of(keeper)

            def came() -> int:
                return 0 if (progress := replica.status().progress) is None else progress.bytes_done

            await until(lambda: came() >= 6 * MIB)
            await advance(clock, 2 * HOUR_SECONDS, lambda: not replica.record.state.running, 60.0)
            await until(lambda: bool(keeper.store.blobs.fills.states()))
            (state,) = keeper.store.blobs.fills.states()
            assert not state.whole
            assert replica.status().asked == "Scheduled"
            requests = parent.count()
            await advance(clock, 20 * HOUR_SECONDS, lambda: clock.now() > TEN + 20 * HOUR_SECONDS, 600.0)
            assert parent.count() == requests  # no requests outside the window
            await advance(clock, 8 * HOUR_SECONDS, lambda: replica.record.state.synced_at > 0, 60.0)
            assert holds(keeper, "demo", "v1", digest)
        assert parent.bytes_sent[layer.digest] <= layer.size + MIB


async def test_blobs_of_an_image_that_takes_many_nights_are_in_use(tmp_path: Path) -> None:
    """Nothing names them before the manifest comes; a collection goes by their last use."""
    async with ScriptedParent() as parent:
        early, late = b"a layer of the first night", GeneratedContent(4 * MIB)
        digest = image_of(parent, "demo", "v1", early, late)
        first = Digest.of(early)
        parent.script(ScriptedFault(method="GET", path=late.digest, status=503, times=100))
        clock = FakeClock(TEN + 7 * 60, jump=False)
        async with replicating(tmp_path, parent, schedule=NIGHT, clock=clock) as keeper:
            await until(lambda: keeper.store.blobs.get("demo", first) is not None)
            assert [name for name, _ in keeper.store.space.loose()[0]] == ["demo"] * 2
        parent.faults.clear()
        month = TEN + 30 * DAY_SECONDS + 7 * 60
        again = FakeClock(month, jump=False)
        async with replicating(tmp_path, parent, schedule=NIGHT, clock=again) as keeper:
            await until(lambda: holds(keeper, "demo", "v1", digest))
            seen = keeper.store.blobs.last_seen("demo", first)
            assert seen is not None
            assert seen >= month
            assert keeper.store.space.loose()[0] == []


async def test_a_restart_goes_on(tmp_path: Path) -> None:
    async with ScriptedParent() as parent:
        layer = GeneratedContent(16 * MIB)
        first = image_of(parent, "demo", "a", b"small")
        digest = image_of(parent, "demo", "v1", layer)
        parent.script(ScriptedFault(method="GET", path=layer.digest, stall_after=6 * MIB, times=1))
        async with replicating(tmp_path, parent) as keeper:
            await until(lambda: holds(keeper, "demo", "a", first))

            def came() -> int:
                progress = replica_of(keeper).status().progress
                return 0 if progress is None else progress.bytes_done

            await until(lambda: came() >= 6 * MIB)
        async with replicating(tmp_path, parent) as keeper:
            await synchronised(keeper)
            assert holds(keeper, "demo", "v1", digest)

            def is_over() -> bool:
                job = read_record(keeper.store).job
                return job is not None and (job.serial, job.over) == (1, True)

            await until(is_over)
        assert parent.bytes_sent[layer.digest] <= layer.size + MIB


async def test_one_failing_image_is_told_and_the_others_arrive(tmp_path: Path) -> None:
    async with ScriptedParent() as parent:
        bad = GeneratedContent(MIB, "bad")
        image_of(parent, "demo", "bad", bad)
        image_of(parent, "demo", "refused", refused := b"refused")
        good = {f"v{n}": image_of(parent, "demo", f"v{n}", f"layer {n}".encode()) for n in range(20)}
        parent.script(
            ScriptedFault(method="GET", path=bad.digest, flip_at=5, times=-1),
            ScriptedFault(path=str(Digest.of(refused)), status=403, times=-1),
            ScriptedFault(path="/manifests/v3$", method="HEAD", status=404, times=1),
        )
        async with replicating(tmp_path, parent) as keeper:
            await until(lambda: replica_of(keeper).record.job is not None)
            await until(lambda: not replica_of(keeper).record.state.running)
            kinds = {one.image: one.kind for one in replica_of(keeper).status().troubles}
            assert kinds == {"demo:bad": "wrong", "demo:refused": "denied", "demo:v3": "gone"}
            del good["v3"]
            assert all(holds(keeper, "demo", tag, digest) for tag, digest in good.items())
            assert keeper.store.references.tag("demo", "bad") is None


@pytest.mark.parametrize("media_type", [*sorted(SCHEMA_1), "application/json"])
async def test_case_trust_11_schema_1_is_named_and_leaves_no_run_incomplete(
    tmp_path: Path, media_type: str
) -> None:
    """Its digest is not that of its bytes, and some registries send it as plain JSON; what else there is comes."""
    async with ScriptedParent() as parent:
        digest = image_of(parent, "demo", "new", b"a layer")
        body = b'{"schemaVersion": 1, "name": "demo", "fsLayers": [], "history": [], "signatures": []}'
        named, demo = "sha256:" + "5" * 64, parent.repository("demo")
        demo.manifests[named], demo.tags["old"] = StoredManifest(media_type, body), [named]
        async with replicating(tmp_path, parent) as keeper:
            await synchronised(keeper)
            (trouble,) = replica_of(keeper).status().troubles
            assert (trouble.image, trouble.kind) == ("demo:old", "unsupported")
            assert "schema 1" in trouble.reason
            assert "push it again" in trouble.reason
            assert holds(keeper, "demo", "new", digest)
            with pytest.raises(errors.SchemaOne, match="demo:old is a schema 1 image"):
                await keeper.manifest("demo", "old")
            assert keeper.parents[""].counters["mismatches"] == 0


async def test_an_operator_does_not_wait_for_the_window(tmp_path: Path) -> None:
    async with ScriptedParent() as parent:
        digest = image_of(parent, "demo", "v1", b"layer")
        async with replicating(
            tmp_path, parent, schedule=NIGHT, clock=FakeClock(TEN - 60, jump=False)
        ) as keeper:
            await asyncio.sleep(0.1)
            assert not replica_of(keeper).record.state.running
            assert parent.count() == 0
            replica_of(keeper).run_now()  # whatever the window
            await until(lambda: holds(keeper, "demo", "v1", digest))


WINDOW = {**NIGHT, "misses": "window"}
NOUNS = {"MANIFEST_UNKNOWN": Noun.MANIFEST, "BLOB_UNKNOWN": Noun.BLOB, "NAME_UNKNOWN": Noun.TAGS}


async def test_case_trust_17_outside_the_window_a_miss_waits_for_it(tmp_path: Path) -> None:
    """No request: 503 until the window opens, with the time in the answer; what is held is served as it is."""
    clock = FakeClock(TEN - 600, jump=False)
    async with ScriptedParent() as parent:
        sample = parent.add_sample("demo", "latest")
        parent.add_sample("other", "1.0")
        async with replicating(tmp_path, parent, clock=clock, schedule=WINDOW) as keeper:
            replica_of(keeper).run_now()
            await advance(clock, 60.0, lambda: replica_of(keeper).record.state.synced_at > 0, 0.1)
            clock.advance(120.0)  # the tag is older than its time to live
            config = next(iter(sample.blobs))
            requests = parent.count()
            misses: dict[str, list[Callable[[], Awaitable[object]]]] = {
                "MANIFEST_UNKNOWN": [
                    lambda: keeper.manifest("other", "1.0"),
                    lambda: keeper.manifest("other", sample.index),
                ],
                "BLOB_UNKNOWN": [
                    lambda: keeper.blob("other", config, 0, -1, True),
                    lambda: keeper.blob("other", config, 5, 9, False),
                    lambda: keeper.blob_size("other", config),
                ],
                "NAME_UNKNOWN": [
                    lambda: keeper.tags("other"),
                    lambda: keeper.referrers("other", sample.index),
                ],
            }
            for code, kinds in misses.items():
                for miss in kinds:
                    with pytest.raises(errors.WindowClosed, match="before the window opens at 20") as refused:
                        await miss()
                    left = TEN - clock.now()
                    assert refused.value.retry_after == ceil(left)
                    answer = reply_to(refused.value, NOUNS[code])
                    assert answer.status == 503
                    assert ("Retry-After", str(ceil(left))) in answer.headers
                    assert code.encode() in bytes(answer.body)  # type: ignore[arg-type]
            held = await keeper.manifest("demo", "latest")
            assert (held.digest, "window" in held.stale) == (sample.index, True)
            assert (await keeper.blob("demo", config, 0, -1, True)).fill == 0
            assert "window" in (await keeper.tags("demo")).stale
            assert parent.count() == requests
            await advance(clock, 600.0, lambda: clock.now() >= TEN, 10.0)
            assert (await keeper.manifest("other", "1.0")).digest
            assert (await keeper.tags("other")).stale == ""


async def test_case_trust_17_a_miss_may_pass_a_closed_window_unless_it_is_told_not_to(tmp_path: Path) -> None:
    clock = FakeClock(TEN - 600, jump=False)
    async with ScriptedParent() as parent:
        sample = parent.add_sample("other", "1.0")
        async with replicating(tmp_path, parent, clock=clock, schedule=NIGHT) as keeper:
            assert (await keeper.manifest("other", "1.0")).digest == sample.index
            assert (await keeper.blob_size("other", next(iter(sample.blobs)))) > 0


async def test_case_trust_17_what_is_coming_all_the_same_is_joined(tmp_path: Path) -> None:
    """An operator's run brings it outside the window; a client that asks for it meanwhile gets it."""
    clock = FakeClock(TEN - 600, jump=False)
    async with ScriptedParent() as parent:
        blob = GeneratedContent(4 * MIB)
        image_of(parent, "demo", "1.0", blob)
        async with replicating(tmp_path, parent, clock=clock, schedule=WINDOW) as keeper:
            parent.script(ScriptedFault(method="GET", path=blob.digest, stall_after=MIB))
            replica_of(keeper).run_now()
            await advance(clock, 60.0, lambda: keeper.fills.is_coming("demo", blob.digest, 0, -1), 0.1)
            answer = await keeper.blob("demo", blob.digest, 0, -1, True)
            assert answer.fill


async def test_a_plan_counts_and_keeps_nothing(tmp_path: Path) -> None:
    async with ScriptedParent() as parent:
        layer = GeneratedContent(2 * MIB)
        for tag in ("v1", "v2"):
            image_of(parent, "demo", tag, layer)
        clock = FakeClock(TEN - 60, jump=False)
        async with replicating(tmp_path, parent, schedule=NIGHT, clock=clock) as keeper:
            plan = await replica_of(keeper).plan()
            assert plan.ready
            assert [one.image for one in plan.images] == ["demo:v1", "demo:v2"]
            assert layer.size < plan.bytes < layer.size + 4096
            assert plan.fits is None
            assert keeper.store.references.tags("demo") == []
            assert parent.count("GET", "/blobs/") == 0


async def test_case_trust_18_a_row_for_what_the_parent_has_not_holds_back_itself_alone(
    tmp_path: Path,
) -> None:
    async with ScriptedParent() as parent:
        digest = image_of(parent, "demo", "v1", b"layer")
        parent.script(ScriptedFault(path="/v2/secret/", status=403, times=-1))
        rows = ({"name": "demo"}, {"name": "demoo"}, {"name": "secret"})
        async with replicating(tmp_path, parent, *rows) as keeper:
            await synchronised(keeper)
            assert holds(keeper, "demo", "v1", digest)
            status = replica_of(keeper).status()
            assert status.last_sync_time is not None
            assert [(one.image, one.kind) for one in status.troubles] == [
                ("demoo", "gone"),
                ("secret", "denied"),
            ]
            assert not replica_of(keeper).record.state.requested


@pytest.mark.parametrize("status", [403, 404, 500])
async def test_case_trust_18_where_no_row_is_answered_nothing_was_synchronised(
    tmp_path: Path, status: int
) -> None:
    async with ScriptedParent() as parent:
        image_of(parent, "demo", "v1", b"layer")
        parent.script(ScriptedFault(path="/tags/list", status=status, times=-1))
        clock = FakeClock(TEN - 60, jump=False)
        async with replicating(tmp_path, parent, schedule=NIGHT, clock=clock) as keeper:
            await one_run(keeper, clock)
            assert replica_of(keeper).status().last_sync_time is None


async def test_what_was_deleted_here_stays_deleted(tmp_path: Path) -> None:
    """Until the parent takes the delete: from then on it says what there is."""
    async with ScriptedParent() as parent:
        image_of(parent, "demo", "v1", b"layer")
        parent.script(ScriptedFault(method="DELETE", status=503, times=-1))
        async with replicating(tmp_path, parent) as keeper:
            await synchronised(keeper)
            keeper.store.set_mode("ReadWrite")
            await keeper.delete("demo", "tag", "v1")
            replica_of(keeper).run_now()
            await idle(keeper)
            await until(lambda: bool(replica_of(keeper).status().words))
            assert keeper.store.references.tag("demo", "v1") is None
            assert "deleted here" in replica_of(keeper).status().words[0]


async def test_a_node_without_sync_says_so(tmp_path: Path) -> None:
    async with running(tmp_path, under_parent=True) as node:
        with pytest.raises(errors.ControlConflict, match=r"under \[sync\]"):
            await node.keeper.synchronisation()


def is_synchronised(replica: Synchroniser, since: float) -> bool:
    return replica.record.state.synced_at > since


async def test_referrers_that_came_later_are_noticed_at_one_request_an_image_in_so_long_a_time(
    tmp_path: Path,
) -> None:
    """By scheduled runs; in between a tag costs its HEAD and no more."""
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
                    there = keeper.store.references.is_there("demo", LockTarget("manifest", sbom))
                    assert there == (night >= 3)
            assert parent.count("GET", "/referrers/") == (1, 0, 0, 2, 0, 0, 2)[night]  # of the referrer, too
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


async def test_children_that_nobody_wanted_are_told_of_their_index(tmp_path: Path) -> None:
    """In the plan, and in the attributes of the manifest."""
    async with ScriptedParent() as parent:
        sample = parent.add_sample("demo", "1.0")
        row = {"name": "demo", "platforms": ["linux/amd64"], "referrers": []}
        clock = FakeClock(TEN - 60, jump=False)
        async with replicating(tmp_path, parent, row, schedule=NIGHT, clock=clock) as keeper:
            (planned,) = (await replica_of(keeper).plan()).images
            assert planned.absent == len(sample.images) - 1
            replica_of(keeper).run_now()
            await until(lambda: keeper.store.references.tag("demo", "1.0") is not None)
            await idle(keeper)
            scope = RoutedRepository(Repository("", "demo"), "demo", True)
            node = SimpleNamespace(
                store=keeper.store, references=keeper.store.references, blobs=keeper.store.blobs
            )
            document = await attributes._absent(node, scope, sample.index)  # type: ignore[arg-type]
            left_out = [digest for name, digest in sample.images.items() if name != "amd64"]
            assert sorted(document["absent"]) == sorted(left_out)
            here = sample.images["amd64"]
            assert await attributes._absent(node, scope, here) == {"absent": []}  # type: ignore[arg-type]


async def test_silence_is_told_long_before_the_messages_expire(tmp_path: Path) -> None:
    """Half of the TTL (P2D) without a complete run; the sentence names the time that is left."""
    clock = FakeClock(TEN, jump=False)
    async with ScriptedParent() as parent:
        image_of(parent, "demo", "v1", b"layer")
        async with replicating(tmp_path, parent, clock=clock) as keeper:
            await synchronised(keeper)
            assert not (await keeper.status()).troubles
            parent.script(ScriptedFault(status=503, times=-1))
            replica = replica_of(keeper)

            def warnings() -> list[str]:
                return [words for words in replica.notes() if "nothing was synchronised" in words]

            await advance(clock, 30 * HOUR_SECONDS, lambda: bool(warnings()), HOUR_SECONDS / 2)
            assert DAY_SECONDS <= clock.now() - replica.record.state.synced_at < DAY_SECONDS + HOUR_SECONDS
            (words,) = warnings()
            assert "in 24 h the parent's messages expire. Look at the link" in words
            assert words in (await keeper.status()).troubles
