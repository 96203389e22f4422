"""What is evicted while it is repaired is a miss: a GET of what the parent has is not 404."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from holdfast import errors
from holdfast.fill.repair import DamagedRun
from holdfast_core.digest import CHUNK_BYTES, Digest
from holdfast_core.errors import NotHeld
from holdfast_core.facets.stored_blobs import StoredBlobs
from support.pushing import OPEN, Registry, image, pushing
from support.stores import file_of, flip_bit, some_bytes

LAYER, CONFIG = some_bytes(2 * CHUNK_BYTES + 77), b'{"config":1}'
DIGEST = Digest.of(LAYER)
MANIFEST = image(str(Digest.of(CONFIG)), str(DIGEST), annotations={"long": "x" * 3000})
BLOB, IMAGE = f"/v2/a/blobs/{DIGEST}", f"/v2/a/manifests/{Digest.of(MANIFEST)}"
CHILD = msgspec.structs.replace(OPEN, mode="ReadWrite", inline_bytes=0)

Evict = Callable[[], None]


def before(monkeypatch: pytest.MonkeyPatch, owner: type, name: str, evict: Evict) -> list[str]:
    """Evict before a step is taken for the first time; the steps that were taken."""
    original, taken = getattr(owner, name), list[str]()

    def stepped(*arguments: Any, **named: Any) -> Any:
        taken.append(name)
        if len(taken) == 1:
            evict()
        return original(*arguments, **named)

    monkeypatch.setattr(owner, name, stepped)
    return taken


def evicting(child: Registry, digest: Digest, *, swept: bool) -> Evict:
    """`swept`: its bytes go as well, else only the repository has lost it."""

    def evict() -> None:
        now = child.clock.now()
        child.store.space.evict("a", digest, now=now).result()
        if swept:
            child.store.upkeep.sweep(now=now + 1, grace=0).result()
        assert (child.store.blobs.anywhere(digest) is None) == swept

    return evict


async def filled(root: Registry) -> None:
    """The manifest is there as a blob as well: that is how its chunks are asked for."""
    for body in (LAYER, CONFIG, MANIFEST):
        await root.blob("a", body)
    assert (await root.put("a", "x", MANIFEST)).status == 201


#: before the keeper looks, before it writes the damage down, before it writes the chunk
STEPS = [
    (DamagedRun, "_work"),
    (StoredBlobs, "quarantine_damaged"),
    (StoredBlobs, "repair_chunk"),
]


@pytest.mark.parametrize(("known", "chunk"), [(False, 0), (True, 0), (True, 1)])
@pytest.mark.parametrize(("owner", "step"), STEPS)
@pytest.mark.parametrize("swept", [False, True])
async def test_a_blob_that_is_evicted_while_it_is_repaired_comes_from_the_parent(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    owner: type,
    step: str,
    swept: bool,
    known: bool,
    chunk: int,
) -> None:
    """`known`: the damage was found before, so that it is repaired before the answer is begun."""
    async with pushing(tmp_path / "root", OPEN) as root, pushing(tmp_path / "child", CHILD, root) as child:
        await filled(root)
        assert (await child.ask("GET", BLOB)).body == LAYER
        flip_bit(file_of(child.data, DIGEST), chunk * CHUNK_BYTES + 5)
        if known:
            at = chunk * CHUNK_BYTES
            child.store.blobs.quarantine_damaged(DIGEST, at, at + 1).result()
        taken = before(monkeypatch, owner, step, evicting(child, DIGEST, swept=swept))
        answer = await child.ask("GET", BLOB)
        assert (answer.status, answer.body == LAYER) == (200, True), answer.body[:300]
        assert taken


async def test_a_blob_that_is_evicted_before_its_repaired_file_is_opened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the look at its row and the look at its file."""
    async with pushing(tmp_path / "root", OPEN) as root, pushing(tmp_path / "child", CHILD, root) as child:
        await filled(root)
        assert (await child.ask("GET", BLOB)).body == LAYER
        flip_bit(file_of(child.data, DIGEST), 5)
        child.store.blobs.quarantine_damaged(DIGEST, 0, 1).result()
        opened, evict = list[str](), evicting(child, DIGEST, swept=True)

        def removed(*_: Any, **__: Any) -> Any:
            opened.append("again")
            monkeypatch.undo()
            evict()
            raise NotHeld("its file is gone")

        async def repaired(*arguments: Any) -> Any:
            unstored = await repair(*arguments)
            monkeypatch.setattr(StoredBlobs, "open", removed)
            return unstored

        repair = child.keeper.repair
        monkeypatch.setattr(child.keeper, "repair", repaired)
        answer = await child.ask("GET", BLOB)
        assert (answer.status, answer.body == LAYER, opened) == (200, True, ["again"])


@pytest.mark.parametrize("reference", ["x", str(Digest.of(MANIFEST))])
@pytest.mark.parametrize(("owner", "step"), STEPS)
@pytest.mark.parametrize("swept", [False, True])
async def test_a_manifest_that_is_evicted_while_it_is_repaired_comes_from_the_parent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, owner: type, step: str, swept: bool, reference: str
) -> None:
    async with pushing(tmp_path / "root", OPEN) as root, pushing(tmp_path / "child", CHILD, root) as child:
        await filled(root)
        assert (await child.ask("GET", "/v2/a/manifests/x")).body == MANIFEST
        flip_bit(file_of(child.data, Digest.of(MANIFEST)), 5)
        taken = before(monkeypatch, owner, step, evicting(child, Digest.of(MANIFEST), swept=swept))
        answer = await child.ask("GET", f"/v2/a/manifests/{reference}")
        assert (answer.status, answer.body) == (200, MANIFEST), answer.body[:300]
        assert taken


async def test_a_manifest_that_is_evicted_after_its_repair_comes_from_the_parent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with pushing(tmp_path / "root", OPEN) as root, pushing(tmp_path / "child", CHILD, root) as child:
        await filled(root)
        assert (await child.ask("GET", IMAGE)).body == MANIFEST
        flip_bit(file_of(child.data, Digest.of(MANIFEST)), 5)
        evict, repair = evicting(child, Digest.of(MANIFEST), swept=True), child.keeper.repair

        async def repaired(*arguments: Any) -> Any:
            unstored = await repair(*arguments)
            evict()
            return unstored

        monkeypatch.setattr(child.keeper, "repair", repaired)
        answer = await child.ask("GET", IMAGE)
        assert (answer.status, answer.body) == (200, MANIFEST), answer.body[:300]


async def test_who_may_push_waits_for_a_keeper_that_restarts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whether there is a copy is known once the keeper is back."""
    async with pushing(tmp_path / "root", OPEN) as root, pushing(tmp_path / "child", CHILD, root) as child:
        await filled(root)
        assert (await child.ask("GET", BLOB)).body == LAYER
        flip_bit(file_of(child.data, DIGEST), 5)

        async def away(*_: Any) -> Any:
            raise errors.KeeperAway("the keeper restarts", retry_after=1)

        with monkeypatch.context() as absent:
            absent.setattr(child.keeper, "repair", away)
            assert (await child.ask("GET", BLOB)).status == 503
        assert (await child.ask("GET", BLOB)).body == LAYER
