"""What was pushed to a ReadWrite node goes up to its parent: in order, once, through whatever is in the way. The parent
is a Holdfast root in the same process, or a scripted one that misbehaves."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pytest
from holdfast import errors
from holdfast.bandwidth.lane import Lane, SharedLink
from holdfast.bandwidth.share import LinkShare
from holdfast.clock import SystemClock
from holdfast.config import CapSection, SyncSection
from holdfast.outbox import blob_uploads, records, sender
from holdfast.outbox.conflicts import Conflicts
from holdfast.outbox.entry import OutboxEntry
from holdfast.outbox.queue import Outbox
from holdfast.parent import push_client as parent_push
from holdfast.testing.fault import ScriptedFault
from holdfast.testing.scripted_parent import ScriptedParent
from holdfast_core.digest import Digest
from holdfast_core.store import Store
from support.patience import PATIENCE, patience
from support.pushing import OCI_INDEX, OPEN, Registry, image, index, pushing

READ_WRITE = msgspec.structs.replace(OPEN, mode="ReadWrite")


async def empty(node: Registry) -> None:
    """Wait until nothing is left to go up."""
    async with patience():
        while node.store.references.outbox.rows():
            await asyncio.sleep(0.01)


async def until_told(node: Registry, event: str) -> dict[str, object]:
    """Wait for a line of the log."""
    async with patience():
        while True:
            for line in node.logs:
                if line.get("event") == event:
                    return line
            await asyncio.sleep(0.01)


def tag_at(node: Registry, name: str, tag: str) -> str:
    found = node.store.references.tag(name, tag)
    return str(found.digest) if found else ""


@asynccontextmanager
async def two(place: Path, policy: str = "parent-wins") -> AsyncIterator[tuple[Registry, Registry]]:
    """A root, and a ReadWrite node under it."""
    config = msgspec.structs.replace(READ_WRITE, sync=SyncSection(conflict=policy))  # type: ignore[arg-type]
    async with (
        pushing(place / "root", OPEN) as root,
        pushing(place / "child", config, root, going_up=True) as child,
    ):
        yield root, child


async def test_an_image_its_tags_and_its_index_arrive(tmp_path: Path) -> None:
    async with two(tmp_path) as (root, child):
        digest = await child.image("a", "one", "two", number=1)
        body = index(digest)
        assert (await child.put("a", "all", body, OCI_INDEX)).status == 201
        await empty(child)
        for tag, wanted in (("one", digest), ("two", digest), ("all", str(Digest.of(body)))):
            assert tag_at(root, "a", tag) == wanted
        held = root.store.references.manifest("a", Digest.of(body))
        assert held is not None
        assert (held.body, held.media_type) == (body, OCI_INDEX)
        # the mark is gone, and the tag is the parent's from now on
        assert not child.store.references.outbox.is_pending("a", Digest.parse(digest))
        found = child.store.references.tag("a", "one")
        assert found is not None
        assert found.origin == "parent"
        answer = await child.ask("GET", f"/acr/v1/a/_manifests/{digest}")
        assert json.loads(answer.body)["manifest"]["pushed"] is True


async def test_a_push_is_a_row_in_the_same_commit_and_waits_for_a_parent_that_is_away(tmp_path: Path) -> None:
    async with pushing(tmp_path / "root", OPEN) as root:
        pass
    async with pushing(tmp_path / "child", READ_WRITE, root, going_up=True) as child:
        digest = await child.image("a", "x")
        rows = [records.decode(*row) for row in child.store.references.outbox.rows()]
        assert [(row.deed, row.digest, row.tag) for row in rows] == [
            ("manifest", digest, ""),
            ("tag", digest, "x"),
        ]
        answer = await child.ask("GET", f"/acr/v1/a/_manifests/{digest}")
        found = json.loads(answer.body)["manifest"]
        assert (found["pending"], found["pushed"], found["absent"]) == (True, False, [])
        await until_told(child, "outbox waits")
        assert all(records.decode(*row).trouble is None for row in child.store.references.outbox.rows())


async def test_deletes_go_up_and_end_their_tombstones(tmp_path: Path) -> None:
    async with two(tmp_path) as (root, child):
        digest = await child.image("a", "one", "two")
        await empty(child)
        assert (await child.ask("DELETE", "/v2/a/manifests/one")).status == 202
        await empty(child)
        assert tag_at(root, "a", "one") == ""
        assert tag_at(root, "a", "two") == digest
        assert not child.store.references.is_deleted("a", "tag", "one")
        assert (await child.ask("DELETE", f"/v2/a/manifests/{digest}")).status == 202
        await empty(child)
        assert root.store.references.manifest("a", Digest.parse(digest)) is None
        assert not child.store.references.is_deleted("a", "manifest", digest)


@pytest.mark.parametrize("is_synchronised", [True, False])
async def test_a_blob_that_another_repository_has_there_is_mounted(
    tmp_path: Path, is_synchronised: bool
) -> None:
    async with two(tmp_path) as (root, child):
        if is_synchronised:
            synchronises(child)
        await child.image("a", "x", number=3)
        await empty(child)
        counters = next(iter(child.keeper.parents.values())).counters
        before = counters["requests"]
        await child.image("b", "x", number=3)
        await empty(child)
        # HEAD manifest, HEAD and mount of two blobs, HEAD of the tag; PUT of both; at once a HEAD of a tag of which
        # nothing is known
        assert counters["requests"] - before == (7 if is_synchronised else 8)
        assert tag_at(root, "b", "x") == tag_at(root, "a", "x")


async def both_sides(root: Registry, child: Registry) -> tuple[str, str]:
    """The tag is known on both sides, then moved on both while nothing goes up: (ours, theirs)."""
    await child.image("a", "x", number=1)
    await empty(child)
    with held_back(child):
        ours = await child.image("a", "x", number=2)
        theirs = await root.image("a", "x", number=3)
    return ours, theirs


def synchronises(child: Registry) -> None:
    """What is not known here of a parent's tag was not there."""
    for going in child.keeper.parts.senders:
        going._follows = lambda repository, tag: True  # type: ignore[method-assign]


@contextmanager
def held_back(child: Registry) -> Iterator[None]:
    """Nothing begins to go up."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(child.keeper.parents[""], "is_closed", lambda work: True)
        yield


async def test_the_parent_wins_a_tag_that_both_moved(tmp_path: Path) -> None:
    """Its bytes arrive, its tag does not; what the parent has is taken over at the next pull. It is recorded."""
    async with two(tmp_path) as (root, child):
        ours, theirs = await both_sides(root, child)
        await empty(child)
        assert tag_at(root, "a", "x") == theirs
        assert root.store.references.manifest("a", Digest.parse(ours)) is not None
        (found,) = records.conflicts_of(child.store).values()
        assert (found.ours, found.theirs, found.winner) == (ours, theirs, "parent")
        await until_told(child, "tag moved on both sides")
        answer = await child.ask("GET", "/v2/a/manifests/x")
        assert answer.headers["docker-content-digest"] == theirs


async def test_the_child_wins_where_that_is_the_policy(tmp_path: Path) -> None:
    async with two(tmp_path, "child-wins") as (root, child):
        ours, _ = await both_sides(root, child)
        await empty(child)
        assert tag_at(root, "a", "x") == ours
        (found,) = records.conflicts_of(child.store).values()
        assert found.winner == "child"


async def test_an_operator_decides_where_a_conflict_is_rejected(tmp_path: Path) -> None:
    async with two(tmp_path, "reject") as (root, child):
        ours, theirs = await both_sides(root, child)
        await until_told(child, "tag moved on both sides")
        async with patience():
            while not (held := [e for e in entries(child) if e.conflict]):
                await asyncio.sleep(0.01)
        assert tag_at(root, "a", "x") == theirs
        await child.keeper.retry_outbox(held[0].seq)
        await empty(child)
        assert tag_at(root, "a", "x") == ours


def entries(node: Registry) -> list[OutboxEntry]:
    return [records.decode(*row) for row in node.store.references.outbox.rows()]


async def test_an_upload_goes_on_where_it_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The keeper ends in the middle of a blob; the next one asks the parent how far it is."""
    layer = bytes(range(256)) * 400
    monkeypatch.setattr(blob_uploads, "PIECE_BYTES", 10_000)
    monkeypatch.setattr(blob_uploads, "SINGLE_BYTES", 5_000)
    async with pushing(tmp_path / "root", OPEN) as root:
        async with pushing(tmp_path / "child", READ_WRITE, root, going_up=True) as child:
            up = next(iter(child.keeper.parents.values())).up
            sent, piece = list[object](), up.piece

            async def three_pieces(*args: object) -> parent_push.ParentUpload:
                if len(sent) == 3:
                    await asyncio.Event().wait()
                sent.append(args[3])
                return await piece(*args)  # type: ignore[arg-type]

            up.piece = three_pieces  # type: ignore[method-assign, assignment]
            config, text = await child.blob("a", b"{}"), await child.blob("a", layer)
            assert (await child.put("a", "x", image(config, text))).status == 201
            async with patience():
                while len(sent) < 3:
                    await asyncio.sleep(0.01)
        async with pushing(tmp_path / "child", READ_WRITE, root, going_up=True) as child:
            up = next(iter(child.keeper.parents.values())).up
            again, piece = list[object](), up.piece

            async def watched(*args: object) -> parent_push.ParentUpload:
                again.append(args[3])
                return await piece(*args)  # type: ignore[arg-type]

            up.piece = watched  # type: ignore[method-assign, assignment]
            await empty(child)
            assert (sent, again[0]) == ([0, 10_000, 20_000], 30_000)
            blob = root.store.blobs.get("a", Digest.parse(text))
            assert blob is not None
            assert blob.size == len(layer)


async def test_case_fault_15_a_push_goes_up_when_it_comes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not when the outbox is looked at next; also while another entry is under way."""
    monkeypatch.setattr(sender, "IDLE_SECONDS", 1e6)
    async with two(tmp_path) as (root, child):
        for number in range(3):
            digest = await child.image("a", f"v{number}", number=number)
            await empty(child)
            assert tag_at(root, "a", f"v{number}") == digest
        assert (await child.ask("DELETE", "/v2/a/manifests/v1")).status == 202
        await empty(child)
        assert tag_at(root, "a", "v1") == ""


async def test_caps_hold_for_what_goes_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is asked while a cap of 0 holds; afterwards every byte of a blob is counted, and none else."""
    counted: list[tuple[str, int]] = []
    monkeypatch.setattr(Lane, "count", lambda lane, size: counted.append((lane.work, size)))
    async with two(tmp_path) as (root, child):
        parent, clock = child.keeper.parents[""], SystemClock()
        parent._link = SharedLink(LinkShare((CapSection(mbit=0.0, work="push"),)), clock)
        layer = await child.blob("team/app", bytes(300_000))
        body = image(await child.blob("team/app", b"config"), layer)
        assert (await child.put("team/app", "v1", body)).status == 201
        asked = parent.counters["requests"]
        assert not await child.keeper.parts.senders[0].step()
        assert parent.counters["requests"] == asked
        parent._link = SharedLink(LinkShare((CapSection(mbit=1000.0),)), clock)
        await empty(child)
        assert tag_at(root, "team/app", "v1")
    assert {work for work, _ in counted} == {"push"}
    assert sum(size for _, size in counted) == 300_000 + len(b"config")


async def test_case_fault_14_a_waiting_outbox_costs_what_comes_however_much_waits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Counted are rows that are read, commits, and looks at the whole queue: nothing of it by looks, by questions for
    /readyz, or by a push of what was damaged; a push costs its own rows."""
    looks: list[Outbox] = []

    def iterated(queue: Outbox) -> Iterator[OutboxEntry]:
        looks.append(queue)
        return iter(queue._order)

    monkeypatch.setattr(Outbox, "__iter__", iterated)
    async with two(tmp_path) as (_, child):
        child.keeper.parents[""]._link = SharedLink(
            LinkShare((CapSection(mbit=0.0, work="push"),)), SystemClock()
        )
        for number in range(30):
            await child.image("a", f"v{number}", number=number)
        climbing = child.keeper.parts.senders[0]
        await climbing.step()
        assert len(climbing) == 60
        rows = read_rows(child.store, monkeypatch)
        looks.clear()
        before = child.store.statistics().batches
        for _ in range(50):
            assert not await climbing.step()
            assert climbing.notes() == []
            await climbing._rows.retry_damaged()
        assert (rows, looks, child.store.statistics().batches - before) == ([], [], 0)
        await child.image("a", "new", number=30)
        await climbing.step()
        assert len(rows) == 2
        assert looks == []


def read_rows(store: Store, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The numbers of all rows of the outbox that are read from now on."""
    found: list[int] = []
    read = store.references.outbox.rows

    def outbox(**where: int) -> list[tuple[int, bytes]]:
        rows = list(read(**where))
        found.extend(number for number, _ in rows)
        return rows

    monkeypatch.setattr(store.references.outbox, "rows", outbox)
    return found


async def test_s04_an_upload_never_goes_on_at_another_origin(tmp_path: Path) -> None:
    """The parent, or whoever answers for it, names another host as the place of the upload."""
    async with ScriptedParent() as parent, ScriptedParent() as thief:
        elsewhere = ("Location", f"{thief.url}/v2/a/blobs/uploads/1")
        parent.script(
            ScriptedFault(method="POST", path="/blobs/uploads/", status=202, headers=[elsewhere], times=-1)
        )
        async with pushing(tmp_path / "child", READ_WRITE, parent, going_up=True) as child:
            await child.image("a", "x")
            line = await until_told(child, "outbox entry refused")
            assert "another origin" in str(line["reason"])
            assert thief.log == []
            assert [entry.deed for entry in entries(child)] == ["manifest", "tag"]


@pytest.mark.parametrize(
    ("status", "kind"), [(403, "denied"), (503, "transient"), (404, "gone"), (400, "wrong")]
)
async def test_what_a_parent_refuses_is_kept_and_left_alone_for_a_while(
    tmp_path: Path, status: int, kind: str
) -> None:
    """The tag waits for its manifest; another image goes past it, and an operator can have it tried at once."""
    async with ScriptedParent() as parent:
        parent.script(ScriptedFault(method="POST", path="/a/blobs/uploads/", status=status, times=-1))
        async with pushing(tmp_path / "child", READ_WRITE, parent, going_up=True) as child:
            await child.image("a", "x", number=1)
            async with patience():
                while (trouble := entries(child)[0].trouble) is None:
                    await asyncio.sleep(0.01)
            first, tag = entries(child)
            assert (trouble.kind, first.sent, tag.sent) == (kind, False, False)
            assert trouble.wait > 1
            asked = parent.count(method="POST")
            await child.keeper.retry_outbox(first.seq)
            async with patience():
                while parent.count(method="POST") == asked:
                    await asyncio.sleep(0.01)


async def not_gone_up(node: Registry, times: int = 1) -> str:
    """Wait until the first entry failed so often; the reason."""
    async with patience():
        while (trouble := entries(node)[0].trouble) is None or trouble.attempts < times:
            await asyncio.sleep(0.01)
    return trouble.reason


async def test_a_blob_that_the_parent_took_and_lost_stays_to_be_sent_and_is_told_of(tmp_path: Path) -> None:
    """reliability.md P18: HEAD after the push is 404; pending, tried again, an alarm after three."""
    async with two(tmp_path) as (root, child):
        (going,) = child.keeper.parts.senders
        single = going._parent.up.single

        async def lost(name: str, digest: str, *rest: object) -> None:
            await single(name, digest, *rest)  # type: ignore[arg-type]
            assert (await root.ask("DELETE", f"/v2/{name}/blobs/{digest}")).status == 202

        going._parent.up.single = lost  # type: ignore[method-assign, assignment]
        digest = await child.image("a", "x")
        assert "does not have it" in await not_gone_up(child)
        assert root.store.references.manifest("a", Digest.parse(digest)) is None
        for times in (2, 3):
            assert not any("do not get to parent" in note for note in (await child.keeper.status()).troubles)
            await tried_again(child, times)
        assert any("do not get to parent" in note for note in (await child.keeper.status()).troubles)
        going._parent.up.single = single  # type: ignore[method-assign]
        await child.keeper.retry_outbox(entries(child)[0].seq)
        await empty(child)
        assert tag_at(root, "a", "x") == digest
        assert (await child.keeper.status()).troubles == ()


async def tried_again(node: Registry, times: int) -> None:
    """Let the time pass that the first entry is left alone, and wait for its next failure."""
    (going,) = node.keeper.parts.senders
    first = entries(node)[0]
    assert first.trouble is not None
    due = msgspec.structs.replace(first.trouble, wait=0.0)
    going._rows.queue._order.replace(msgspec.structs.replace(first, trouble=due))
    await not_gone_up(node, times)


@pytest.mark.parametrize("path", ["/blobs/uploads/", "/manifests/"])
async def test_a_201_that_names_another_digest_confirms_nothing(tmp_path: Path, path: str) -> None:
    other = ("Docker-Content-Digest", "sha256:" + "0" * 64)
    async with ScriptedParent() as parent:
        begun = ScriptedFault(
            method="POST",
            path="/blobs/uploads/",
            status=202,
            headers=[("Location", "/v2/a/blobs/uploads/1")],
        )
        kept = ScriptedFault(method="HEAD", path="/blobs/", status=200, times=-1)
        parent.script(begun, ScriptedFault(method="PUT", path=path, status=201, headers=[other], times=-1))
        if path == "/manifests/":
            once = ScriptedFault(method="HEAD", path="/manifests/", status=404, times=3)
            parent.script(kept, once, ScriptedFault(method="HEAD", path="/manifests/", status=200, times=-1))
        async with pushing(tmp_path / "child", READ_WRITE, parent, going_up=True) as child:
            await child.image("a", "x")
            assert "where sha256:" in await not_gone_up(child)


@pytest.mark.parametrize(
    ("said", "wrong"),
    [
        ("", False),
        ("sha256:" + "a" * 64, False),
        ("sha256:" + "b" * 64, True),
        ("sha512:" + "b" * 128, False),
        ("nonsense", False),
    ],
)
def test_what_contradicts_a_digest(said: str, wrong: bool) -> None:
    assert parent_push.contradicts(said, "sha256:" + "a" * 64) is wrong


async def test_case_fault_15_a_blob_that_two_images_have_goes_up_once(tmp_path: Path) -> None:
    """Side by side, in one repository and in another, where it is mounted."""
    async with two(tmp_path) as (root, child):
        posted = sent_blobs(child)
        with held_back(child):
            for number in range(6):
                config = await child.blob(f"r{number % 2}", b"config %d" % number)
                layer = await child.blob(f"r{number % 2}", b"layer" * 1000)
                body = image(config, layer)
                assert (await child.put(f"r{number % 2}", f"t{number}", body)).status == 201
        await empty(child)
        assert posted.count(layer) == 1
        assert len(posted) == 7
        assert all(tag_at(root, f"r{number % 2}", f"t{number}") for number in range(6))


def sent_blobs(node: Registry) -> list[str]:
    """Digests whose bytes a node sends, from now on."""
    up, found = node.keeper.parents[""].up, list[str]()
    sent = up._send_bytes

    async def noted(request: Any, url: Any) -> Any:
        target = request.tail if url is None else str(url)
        found.append(target.partition("digest=")[2].replace("%3A", ":"))
        return await sent(request, url)

    up._send_bytes = noted  # type: ignore[method-assign]
    return found


@pytest.mark.parametrize("refuses", [False, True])
async def test_a_parent_that_takes_no_blob_in_one_request_is_asked_for_one_once(
    tmp_path: Path, refuses: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It answers as to a POST without a digest, or refuses."""
    monkeypatch.setattr(blob_uploads, "AT_ONCE", 1)
    async with two(tmp_path) as (root, child):
        up, tried = child.keeper.parents[""].up, list[str]()
        sent = up._send_bytes

        async def answered(request: Any, url: Any) -> Any:
            if url is None:
                tried.append(request.tail)
                request = replace(request, tail="blobs/uploads/")
                if refuses:
                    raise errors.ParentBroken("the parent answered 400")
            return await sent(request, url)

        up._send_bytes = answered  # type: ignore[method-assign]
        digest = await child.image("a", "x")
        await empty(child)
        assert tag_at(root, "a", "x") == digest
        assert len(tried) == 1


DELETED_ABOVE = [
    ("parent-wins", True, "parent", False),
    ("child-wins", True, "child", True),
    ("reject", True, "", False),
    ("child-wins", False, "parent", False),
]


@pytest.mark.parametrize(("policy", "is_held", "winner", "arrives"), DELETED_ABOVE)
async def test_case_fault_15_a_tag_whose_manifest_the_parent_deleted_is_settled(
    tmp_path: Path, policy: str, is_held: bool, winner: str, arrives: bool
) -> None:
    """Between the manifest's arrival and the tag's. What is not here either cannot be sent, whoever should win."""
    async with two(tmp_path, policy) as (root, child):
        (going,) = child.keeper.parts.senders
        find, waits, go_on = going.inventory.find, asyncio.Event(), asyncio.Event()

        async def held_up(sought: Any) -> Any:
            if sought.tags == ("y",) and sought.manifests:
                waits.set()
                await go_on.wait()
            return await find(sought)

        going.inventory.find = held_up  # type: ignore[method-assign]
        with held_back(child):
            digest = await child.image("a", "x", "y")
        await asyncio.wait_for(waits.wait(), PATIENCE)
        assert (await root.ask("DELETE", f"/v2/a/manifests/{digest}")).status == 202
        if not is_held:
            assert (await child.ask("DELETE", f"/v2/a/manifests/{digest}")).status == 202
        go_on.set()
        await until_told(child, "tag moved on both sides")
        if not winner:
            while not (held := [entry for entry in entries(child) if entry.conflict]):
                await asyncio.sleep(0.01)
            assert "deleted its manifest" in held[0].conflict
            await child.keeper.retry_outbox(held[0].seq)
        await empty(child)
        assert tag_at(root, "a", "y") == (digest if arrives or not winner else "")
        (found,) = records.conflicts_of(child.store).values()
        assert (found.tag, found.ours, found.theirs, found.winner) == ("y", digest, "", winner)


async def test_case_fault_15_the_backlog_is_counted(tmp_path: Path) -> None:
    async with two(tmp_path) as (_, child):
        with held_back(child):
            await child.image("a", "x", "y")
            (first, *_) = entries(child)
            await child.keeper.parts.senders[0]._rows.refresh()
            counters = (await child.keeper.status()).counters
            assert (counters["outbox"], counters["outbox.under_way"]) == (3, 0)
            assert counters["outbox.oldest_at"] == int(first.at)
        await empty(child)
        await until_told(child, "outbox entry confirmed")
        counters = (await child.keeper.status()).counters
        assert (counters["outbox"], counters["outbox.oldest_at"]) == (0, 0)


NEW_ON_BOTH_SIDES = [("parent-wins", "parent"), ("child-wins", "child"), ("reject", "")]


@pytest.mark.parametrize("conditions", [True, False], ids=["conditions", "conditions-ignored"])
@pytest.mark.parametrize(("policy", "winner"), NEW_ON_BOTH_SIDES)
async def test_case_fault_8_a_tag_that_is_new_on_both_sides(
    tmp_path: Path, policy: str, winner: str, conditions: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Decided by the policy and recorded, also by a parent that ignores conditions: it is asked right before."""
    if not conditions:
        monkeypatch.setattr(parent_push, "_condition", lambda there: {})
    async with two(tmp_path, policy) as (root, child):
        synchronises(child)
        with held_back(child):
            ours = await child.image("a", "fresh", number=2)
            theirs = await root.image("a", "fresh", number=3)
        await until_told(child, "tag moved on both sides")
        if not winner:
            while not (held := [entry for entry in entries(child) if entry.conflict]):
                await asyncio.sleep(0.01)
            assert tag_at(root, "a", "fresh") == theirs
            await child.keeper.retry_outbox(held[0].seq)
        await empty(child)
        assert tag_at(root, "a", "fresh") == (theirs if winner == "parent" else ours)
        assert root.store.references.manifest("a", Digest.parse(ours)) is not None
        (found,) = records.conflicts_of(child.store).values()
        assert (found.ours, found.theirs, found.base, found.winner) == (ours, theirs, None, winner)
        (detail,) = Conflicts(child.store, child.clock).details()
        assert detail.code == "TagConflict"
        assert f"a:fresh was moved on both sides: {ours} here, {theirs} at the parent" in detail.description


async def test_case_fault_8_a_tag_that_appears_while_ours_is_sent_is_a_conflict(tmp_path: Path) -> None:
    """After the look, before the PUT: the condition does not hold. The manifest goes alone, and the tag is looked at
    again."""
    async with two(tmp_path) as (root, child):
        up, theirs = child.keeper.parents[""].up, list[str]()
        look = up.tag

        async def overtaken(name: str, tag: str, *, ahead: bool = False) -> parent_push.RemoteTag:
            there = await look(name, tag, ahead=ahead)
            if (
                not theirs and not ahead
            ):  # the look of the one who sends, whenever the tag was asked for before
                theirs.append(await root.image("a", "fresh", number=3))
            return there

        up.tag = overtaken  # type: ignore[method-assign]
        ours = await child.image("a", "fresh", number=2)
        await until_told(child, "tag waits")
        await empty(child)
        assert tag_at(root, "a", "fresh") == theirs[0]
        assert root.store.references.manifest("a", Digest.parse(ours)) is not None
        (found,) = records.conflicts_of(child.store).values()
        assert (found.ours, found.winner) == (ours, "parent")
