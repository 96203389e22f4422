"""A keeper with a budget: real stores, a scripted parent, every byte read."""

from __future__ import annotations

import asyncio
import json
import math
from asyncio import wrap_future
from concurrent.futures import Future
from pathlib import Path

import pytest
from holdfast.errors import NodeFull
from holdfast.keeper.keeper import Keeper
from holdfast.testing.random_content import GeneratedContent
from holdfast.testing.sample import OCI_MANIFEST
from holdfast.testing.scripted_parent import ScriptedParent
from holdfast_core.digest import Digest
from holdfast_core.errors import NotHeld
from holdfast_core.facets.stored_blobs import StoredBlobs
from holdfast_core.record import Pin
from support.caches import MIB, bytes_on_disk, caching, complete, image_of, pull
from support.fills import until
from support.logs import captured_logs

pytestmark = pytest.mark.loop("asyncio")

BUDGET = 48 * MIB
LAYER = 3 * MIB


def images(
    parent: ScriptedParent, count: int, repositories: int = 4, team: str = "team"
) -> list[tuple[str, str, str]]:
    """Images of one layer that all of a repository share, and one of their own: (repository, tag, digest)."""
    made = []
    for number in range(count):
        name, tag = f"{team}/app{number % repositories}", f"v{number}"
        base = GeneratedContent(2 * MIB, f"base of {name}")
        own = GeneratedContent(LAYER, f"layer {number} of {team}")
        made.append((name, tag, image_of(parent, name, tag, base, own)))
    return made


async def test_a_working_set_of_three_budgets_stays_within_one(tmp_path: Path) -> None:
    async with ScriptedParent() as parent:
        made = images(parent, 48)
        store = {"max_bytes": BUDGET, "min_free": "0"}
        async with caching(tmp_path, parent, store=store) as keeper:
            for _ in range(2):
                for name, tag, _digest in made:
                    assert await pull(keeper, name, tag) > 5 * MIB
                    assert bytes_on_disk(tmp_path) <= BUDGET * 1.01
            here = complete(keeper, made)
            assert 3 <= len(here) < len(made)
            assert keeper.parts.fills.counters["unstored"] == 0
            assert keeper.parts.eviction.counters["evicted_images"] > len(made)


async def test_what_is_used_stays_and_what_is_not_goes(tmp_path: Path) -> None:
    async with ScriptedParent() as parent:
        made = images(parent, 20, repositories=20)
        often = made[0]
        async with caching(tmp_path, parent, store={"max_bytes": BUDGET, "min_free": "0"}) as keeper:
            for name, tag, _digest in made:
                await pull(keeper, name, tag)
                for _ in range(3):
                    await pull(keeper, *often[:2])
            here = complete(keeper, made)
            assert often in here
            assert made[1] not in here


async def test_a_smaller_budget_empties_the_disk_at_the_next_start(tmp_path: Path) -> None:
    async with ScriptedParent() as parent:
        made = images(parent, 12)
        async with caching(tmp_path, parent, store={"min_free": "0"}) as keeper:
            for name, tag, _digest in made:
                await pull(keeper, name, tag)
            assert len(complete(keeper, made)) == len(made)
        assert bytes_on_disk(tmp_path) > 36 * MIB
        with captured_logs() as lines:
            async with caching(tmp_path, parent, store={"max_bytes": 32 * MIB, "min_free": "0"}) as keeper:
                await until(lambda: keeper.parts.eviction.counters["evicted_images"] > 0)
                await until(lambda: bytes_on_disk(tmp_path) <= 32 * MIB)
                assert 0 < len(complete(keeper, made)) < len(made)
        (said,) = [line for line in lines if line["event"] == "budget below what is held"]
        assert said["budget"] == 32 * MIB
        assert said["held"] - said["over"] == said["budget"]


async def test_an_offline_parent_is_protected(tmp_path: Path) -> None:
    async with ScriptedParent() as near, ScriptedParent() as away:
        (kept,) = images(away, 1, 1, "away")
        made = images(near, 20)
        store = {"max_bytes": 32 * MIB, "min_free": "0", "evict_offline": "never"}
        async with caching(tmp_path, near, away, store=store) as keeper:
            await pull(keeper, f"p1:{kept[0]}", kept[1])
            await keeper.turn_parent("p1", "offline")
            for name, tag, _digest in made:
                await pull(keeper, name, tag)
            assert complete(keeper, [(f"p1:{kept[0]}", *kept[1:])])
            assert len(complete(keeper, made)) < len(made)


async def test_an_offline_parent_goes_last(tmp_path: Path) -> None:
    async with ScriptedParent() as near, ScriptedParent() as away:
        old = [(f"p1:{name}", tag, digest) for name, tag, digest in images(away, 4, 1, "away")]
        new = images(near, 3, repositories=1)
        store = {"max_bytes": 32 * MIB, "min_free": "0"}
        async with caching(tmp_path, near, away, store=store) as keeper:
            for name, tag, _digest in (*old, *new):
                await pull(keeper, name, tag)
            await keeper.turn_parent("p1", "offline")
            await keeper.parts.eviction.make_room(10 * MIB)
            assert complete(keeper, new) == []
            assert len(complete(keeper, old)) == len(old)
            await keeper.parts.eviction.make_room(32 * MIB)
            assert complete(keeper, old) == []


async def test_what_is_pinned_or_synchronised_or_under_way_stays(tmp_path: Path) -> None:
    async with ScriptedParent() as parent:
        made = images(parent, 4, repositories=4)
        pinned, synchronised, coming, _ = made
        store = {"max_bytes": 64 * MIB, "min_free": "0"}
        async with caching(tmp_path, parent, store=store) as keeper:
            for name, tag, _digest in made:
                await pull(keeper, name, tag)
            await wrap_future(
                keeper.store.space.pin(Pin(pinned[0], "tag", pinned[1], math.inf), now=keeper.clock.now())
            )
            rounds = keeper.parts.eviction
            rounds._is_synchronised = lambda repository: repository == synchronised[0]
            manifest = keeper.store.space.children(Digest.parse(coming[2]))
            rounds._coming = lambda: {("", manifest[-1].digest)}
            await rounds.make_room(64 * MIB)
            assert complete(keeper, made) == [pinned, synchronised, coming]
            held = rounds._why_stayed()
            assert all(
                f"{5 * MIB} {reason}" in held for reason in ("pinned", "synchronised", "being fetched")
            ), held
            assert f"(pins: {pinned[0]}:{pinned[1]})" in held


async def test_nothing_goes_for_a_push_that_never_has_room(tmp_path: Path) -> None:
    async with ScriptedParent() as parent:
        made = images(parent, 4)
        store = {"max_bytes": 64 * MIB, "min_free": "0"}
        async with caching(tmp_path, parent, mode="ReadWrite", store=store) as keeper:
            for name, tag, _digest in made:
                await pull(keeper, name, tag)
            with pytest.raises(NodeFull):
                await keeper.admit_push(1 << 50)
            assert complete(keeper, made) == made


async def own(keeper: Keeper, mebibytes: int) -> None:
    """Push content that nothing evicts."""
    for number in range(mebibytes):
        body = GeneratedContent(MIB, f"own {number}").read(0, MIB)
        pushed = keeper.store.blobs.push_inline("own/app", Digest.of(body), body, now=keeper.clock.now())
        await wrap_future(pushed)


async def test_nothing_goes_for_a_push_that_owned_content_leaves_no_room_for(tmp_path: Path) -> None:
    async with ScriptedParent() as parent:
        made = images(parent, 4)
        store = {"max_bytes": 64 * MIB, "min_free": "0"}
        async with caching(tmp_path, parent, mode="ReadWrite", store=store) as keeper:
            for name, tag, _digest in made:
                await pull(keeper, name, tag)
            await own(keeper, 24)
            await keeper.parts.eviction.round()
            with pytest.raises(NodeFull):
                await keeper.admit_push(45 * MIB)
            assert complete(keeper, made) == made
            assert keeper.parts.admission.is_exhausted
            assert f"{24 * MIB} pushed here" in keeper.parts.eviction._why_stayed()
            await keeper.admit_push(25 * MIB)  # a smaller one has images evicted, at once
            assert 0 < len(complete(keeper, made)) < len(made)


async def test_what_did_not_fit_fits_as_soon_as_a_pin_ends(tmp_path: Path) -> None:
    async with ScriptedParent() as parent:
        made = images(parent, 4)
        store = {"max_bytes": 32 * MIB, "min_free": "0"}
        async with caching(tmp_path, parent, mode="ReadWrite", store=store) as keeper:
            space, now = keeper.store.space, keeper.clock.now()
            for name, tag, _digest in made:
                await pull(keeper, name, tag)
                await wrap_future(space.pin(Pin(name, "tag", tag, math.inf), now=now))
            with pytest.raises(NodeFull):
                await keeper.admit_push(20 * MIB)
            with pytest.raises(NodeFull):
                await keeper.admit_push(20 * MIB)
            assert complete(keeper, made) == made
            for name, tag, _digest in made:
                await wrap_future(space.unpin(name, "tag", tag))
            await keeper.admit_push(20 * MIB)
            assert len(complete(keeper, made)) < len(made)


def same_images(parent: ScriptedParent, repositories: int) -> list[tuple[str, str, str]]:
    """One image in several repositories."""
    layer = GeneratedContent(4 * MIB, "the same")
    names = [f"same/app{number}" for number in range(repositories)]
    return [(name, "v1", image_of(parent, name, "v1", layer)) for name in names]


async def test_an_image_whose_bytes_a_pinned_one_has_stays(tmp_path: Path) -> None:
    async with ScriptedParent() as parent:
        same, made = same_images(parent, 2), images(parent, 2)
        async with caching(tmp_path, parent, store={"max_bytes": 64 * MIB, "min_free": "0"}) as keeper:
            for name, tag, _digest in (*same, *made):
                await pull(keeper, name, tag)
            pin = Pin(same[0][0], "tag", "v1", math.inf)
            await wrap_future(keeper.store.space.pin(pin, now=keeper.clock.now()))
            await keeper.parts.eviction.make_room(64 * MIB)
            assert complete(keeper, [*same, *made]) == same


async def test_images_that_have_everything_in_common_go_together_when_others_are_not_enough(
    tmp_path: Path,
) -> None:
    async with ScriptedParent() as parent:
        same, made = same_images(parent, 3), images(parent, 2)
        async with caching(tmp_path, parent, store={"max_bytes": 64 * MIB, "min_free": "0"}) as keeper:
            for name, tag, _digest in (*same, *made):
                await pull(keeper, name, tag)
            assert await keeper.parts.eviction.make_room(MIB) >= MIB
            assert complete(keeper, same) == same
            assert len(complete(keeper, made)) == 1
            assert await keeper.parts.eviction._survey().most(64 * MIB) == 9 * MIB
            await keeper.parts.eviction.make_room(64 * MIB)
            assert complete(keeper, [*same, *made]) == []
            assert keeper.store.space.account().files == 0


async def test_a_blob_that_is_evicted_before_it_is_linked_is_fetched_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with ScriptedParent() as parent:
        first, second = same_images(parent, 2)
        async with caching(tmp_path, parent, store={"max_bytes": 64 * MIB, "min_free": "0"}) as keeper:
            await pull(keeper, *first[:2])
            rounds, link, late = keeper.parts.eviction, StoredBlobs.link, []

            def evicted_first(
                blobs: StoredBlobs, repository: str, digest: Digest, *, now: float
            ) -> Future[None]:
                ended: Future[None] = Future()

                async def evict_and_link() -> None:
                    late.append(await rounds.make_room(64 * MIB))
                    try:
                        await wrap_future(link(blobs, repository, digest, now=now))
                    except NotHeld as error:
                        ended.set_exception(error)
                    else:
                        ended.set_result(None)

                tasks.append(asyncio.ensure_future(evict_and_link()))
                return ended

            tasks: list[asyncio.Task[None]] = []
            monkeypatch.setattr(StoredBlobs, "link", evicted_first)
            assert await pull(keeper, *second[:2]) > 4 * MIB
            assert late[0] >= 4 * MIB
            await asyncio.gather(*tasks)


async def test_of_a_parent_that_was_not_heard_nothing_goes(tmp_path: Path) -> None:
    """A node that was just started has asked nobody."""
    async with ScriptedParent() as near:
        made = images(near, 4)
        store = {"max_bytes": 64 * MIB, "min_free": "0", "evict_offline": "never"}
        async with ScriptedParent() as away:
            (kept,) = images(away, 1, 1, "away")
            async with caching(tmp_path, near, away, store=store) as keeper:
                await pull(keeper, f"p1:{kept[0]}", kept[1])
                for name, tag, _digest in made:
                    await pull(keeper, name, tag)
        async with caching(tmp_path, near, away, store=store) as keeper:
            assert keeper.parts.collection._kept_since(f"p1:{kept[0]}") == -math.inf
            await keeper.parts.eviction.make_room(64 * MIB)
            assert complete(keeper, made) == []
            assert complete(keeper, [(f"p1:{kept[0]}", *kept[1:])])
            assert keeper.parts.collection._kept_since(made[0][0]) == math.inf
            assert keeper.parts.collection._kept_since(f"p1:{kept[0]}") == -math.inf


async def test_others_do_not_go_for_a_share_that_owned_content_exceeds(tmp_path: Path) -> None:
    async with ScriptedParent() as parent:
        made = images(parent, 4)
        shares = [{"repositories": ["own/**"], "hard": 0.1}]
        store = {"max_bytes": 96 * MIB, "min_free": "0", "shares": shares}
        async with caching(tmp_path, parent, mode="ReadWrite", store=store) as keeper:
            for name, tag, _digest in made:
                await pull(keeper, name, tag)
            await own(keeper, 15)
            for _ in range(2):
                await keeper.parts.eviction.round()
            assert complete(keeper, made) == made


async def test_what_was_pushed_stays_whether_a_manifest_names_it_or_not(tmp_path: Path) -> None:
    """A layer before its manifest was never sent; and what was pushed before there was a parent never will be."""
    alone, named = b"a" * 40_000, b"n" * 40_000
    async with ScriptedParent() as parent:
        images(parent, 1)
        store = {"max_bytes": 64 * MIB, "min_free": "0"}
        async with caching(tmp_path, parent, mode="ReadWrite", store=store) as keeper:
            now, blobs = keeper.clock.now(), keeper.store.blobs
            for body in (alone, named):
                await wrap_future(blobs.push_inline("plant/app", Digest.of(body), body, now=now))
            body = json.dumps(
                {"schemaVersion": 2, "layers": [{"digest": str(Digest.of(named)), "size": len(named)}]}
            ).encode()
            manifest = Digest.of(body)
            await wrap_future(
                keeper.store.references.push_manifest("plant/app", manifest, OCI_MANIFEST, body, now=now)
            )
            await keeper.parts.eviction.make_room(64 * MIB)
            assert blobs.get("plant/app", Digest.of(alone)) is not None
            assert blobs.get("plant/app", Digest.of(named)) is not None
            assert keeper.store.references.manifest("plant/app", manifest) is not None


async def test_a_push_without_room_is_refused_and_told_what_holds_it(tmp_path: Path) -> None:
    async with ScriptedParent() as parent:
        (pinned,) = images(parent, 1)
        store = {"max_bytes": 32 * MIB, "min_free": "0"}
        async with caching(tmp_path, parent, mode="ReadWrite", store=store) as keeper:
            await until(lambda: keeper.parts.admission.ledger.used(0) > 0)
            await pull(keeper, *pinned[:2])
            now = keeper.clock.now()
            await wrap_future(keeper.store.space.pin(Pin(pinned[0], "tag", pinned[1], math.inf), now=now))
            await keeper.admit_push(MIB)
            with pytest.raises(NodeFull) as refusal:
                await keeper.admit_push(29 * MIB)
            assert refusal.value.status == 507
            assert f"of {32 * MIB}" in refusal.value.message
            assert "0 bytes can be evicted" in str(refusal.value.detail)
            assert f"{5 * MIB} pinned (pins: {pinned[0]}:{pinned[1]})" in str(refusal.value.detail)
            (told,) = keeper.parts.eviction.sentences()
            assert "pushes are refused since 20" in told
            assert f"the last one of {29 * MIB} bytes" in told
            await wrap_future(keeper.store.space.unpin(pinned[0], "tag", pinned[1]))
            await keeper.admit_push(20 * MIB)
            keeper.parts.admission.ledger.pushed(20 * MIB)
            await keeper.parts.eviction.make_room(5 * MIB)
            assert keeper.parts.eviction.sentences() == []


async def test_a_push_has_images_evicted_for_it(tmp_path: Path) -> None:
    async with ScriptedParent() as parent:
        made = images(parent, 4)
        store = {"max_bytes": 32 * MIB, "min_free": "0"}
        async with caching(tmp_path, parent, mode="ReadWrite", store=store) as keeper:
            for name, tag, _digest in made:
                await pull(keeper, name, tag)
            await keeper.admit_push(20 * MIB)
            assert len(complete(keeper, made)) < len(made)


async def test_a_blob_that_is_larger_than_the_budget_evicts_nothing_and_is_served(tmp_path: Path) -> None:
    async with ScriptedParent() as parent:
        made = images(parent, 3)
        large = GeneratedContent(40 * MIB, "large")
        image_of(parent, "large", "v1", large)
        store = {"max_bytes": 32 * MIB, "min_free": "0"}
        async with caching(tmp_path, parent, store=store) as keeper:
            await until(lambda: keeper.parts.admission.ledger.used(0) > 0)
            for name, tag, _digest in made:
                await pull(keeper, name, tag)
            assert await pull(keeper, "large", "v1") > large.size
            assert keeper.parts.fills.counters["unstored"] == 1
            assert complete(keeper, made) == made


async def test_a_fill_that_parks_keeps_no_more_room_than_its_bytes(tmp_path: Path) -> None:
    async with ScriptedParent() as parent:
        digest = parent.add_blob("lazy", GeneratedContent(20 * MIB, "lazy"))
        store = {"max_bytes": 64 * MIB, "min_free": "0"}
        async with caching(tmp_path, parent, store=store) as keeper:
            await until(lambda: keeper.parts.admission.ledger.used(0) > 0)
            before = keeper.parts.admission.ledger.used(0)
            answer = await keeper.blob("lazy", digest, 0, MIB, False)
            reader = await keeper.follow(answer.fill, 0, MIB, False)
            await reader.wait_for(MIB - 1)
            reader.close()
            await until(lambda: not keeper.parts.fills.coming())
            grown = keeper.parts.admission.ledger.used(0) - before
            assert MIB <= grown < 4 * MIB


async def test_a_group_over_its_hard_share_goes_first(tmp_path: Path) -> None:
    async with ScriptedParent() as parent:
        bounded, free = images(parent, 4, 1, "bounded"), images(parent, 3, 1, "free")
        shares = [{"repositories": ["bounded/**"], "hard": 0.2}]
        store = {"max_bytes": 40 * MIB, "min_free": "0", "shares": shares}
        async with caching(tmp_path, parent, store=store) as keeper:
            for name, tag, _digest in (*free, *bounded):
                await pull(keeper, name, tag)
            await keeper.parts.eviction.round()
            assert complete(keeper, free) == free
            assert 0 < len(complete(keeper, bounded)) <= 2


async def test_an_image_of_more_digests_than_a_transaction_takes_goes_whole(tmp_path: Path) -> None:
    async with ScriptedParent() as parent:
        layers = [GeneratedContent(64 << 10, f"part {number}") for number in range(50)]
        image = ("many", "v1", image_of(parent, "many", "v1", *layers))
        async with caching(tmp_path, parent, store={"min_free": "0"}) as keeper:
            await pull(keeper, "many", "v1")
            await until(lambda: not keeper.parts.fills.coming())
            assert await keeper.parts.eviction.make_room(1) > 50 * (60 << 10)
            assert complete(keeper, [image]) == []
            assert keeper.store.space.account().files == 0
            assert keeper.store.space.loose()[0] == []
