"""Messages and contents: what a child hears of, when nobody can tell it any more, and what it must never see."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any
from urllib.parse import quote

import msgspec
import pytest
from holdfast.config import Configuration, ParentSection
from holdfast.control import command
from holdfast.endpoint.gateway import messages
from holdfast.endpoint.gateway.messages import ListingPosition, encode_position
from holdfast.gateway.protocol import Contents, ContentsEntry, Message, Messages
from holdfast.resources.model import Identity
from holdfast.resources.model import RegistryConfiguration as Received
from holdfast_core import Digest, EventRecord, Lock, LockTarget, ResourceChange
from holdfast_core import format as layout
from holdfast_core.index.list_pages import FIRST
from support.gateway import BASE, Tree, refused, tree
from support.patience import until
from support.serving import MEDIA_TYPE, Answer, Serving, serving
from support.stores import push

CANARY = "secret-canary"


def pushed(root: Tree, repository: str, body: bytes, *tags: str, **more: Any) -> Digest:
    """Push a manifest now; its digest."""
    return push(root.held.store, repository, body, *tags, **{"now": root.held.clock.now(), **more})


async def heard(root: Tree, after: str | None = None, query: str = "") -> Messages:
    """plantA's messages after a cursor; without one, the present cursor."""
    asked = "" if after is None else f"after={after}&"
    answer = await root.ask("GET", f"{BASE}/messages?{asked}{query}")
    assert answer.status == 200, answer
    return msgspec.json.decode(answer.body, type=Messages)


async def listed(root: Tree, most: int = 1000, user: str = "plantA") -> list[Contents]:
    """All pages of contents."""
    pages, after = list[Contents](), ""
    while not pages or after:
        answer = await root.ask("GET", f"{BASE}/contents?max={most}&after={quote(after)}", user=user)
        assert answer.status == 200, answer
        assert CANARY.encode() not in answer.body
        pages.append(msgspec.json.decode(answer.body, type=Contents))
        after = pages[-1].next
    return pages


async def test_what_follows_a_cursor_is_told_in_order(tmp_path: Path) -> None:
    async with tree(tmp_path) as root:
        store, now, began = root.held.store, root.held.clock.now(), await heard(root)
        assert (began.messages, began.more) == ((), False)
        digest = pushed(root, "team/app", b"one", "v1", now=now, artifact_type="a/b")
        store.references.delete_tag("team/app", "v1", now=now + 1).result()
        found = await heard(root, began.cursor)
        text = str(digest)
        assert found.messages == (
            Message(1, now, "push", "tag", "team/app", "v1", text, MEDIA_TYPE, 3, "a/b"),
            Message(2, now + 1, "delete", "tag", "team/app", "v1", text, MEDIA_TYPE, 3),
        )
        assert (await heard(root, found.cursor)).messages == ()
        part = await heard(root, began.cursor, "max=1")
        assert ([one.number for one in part.messages], part.more) == ([1], True)
        rest = await heard(root, part.cursor)
        assert ([one.number for one in rest.messages], rest.more) == ([2], False)


async def test_s52_what_does_not_concern_the_child_only_moves_its_cursor(tmp_path: Path) -> None:
    async with tree(tmp_path) as root:
        began, store = await heard(root), root.held.store
        pushed(root, CANARY, b"one", "v1")
        pushed(root, f"team/app/{CANARY}", b"one", "v1")
        relayed = EventRecord("push", "tag", "team/app", root.held.clock.now(), CANARY, registry="plantB")
        store.documents.change(lambda view: [], quiet=frozenset(), events=lambda: [relayed]).result()
        answer = await root.ask("GET", f"{BASE}/messages?after={began.cursor}")
        found = msgspec.json.decode(answer.body, type=Messages)
        assert (found.messages, found.more, CANARY in answer.body.decode()) == ((), False, False)
        assert found.cursor.endswith("-3")
        pushed(root, "team/app", b"one", "v1")
        assert [one.number for one in (await heard(root, found.cursor)).messages] == [4]


async def test_a_conflict_over_a_tag_moves_nothing_at_a_child(tmp_path: Path) -> None:
    """The tag that won is an event of its own."""
    async with tree(tmp_path) as root:
        began, store = await heard(root), root.held.store
        ours, now = str(Digest.of(b"ours")), root.held.clock.now()
        conflict = EventRecord("conflict", "tag", "team/app", now, "v1", ours, winner="parent")
        store.documents.change(lambda view: [], quiet=frozenset(), events=lambda: [conflict]).result()
        found = await heard(root, began.cursor)
        assert found.messages == ()
        assert found.cursor.endswith("-1")


async def test_a_held_question_ends_with_the_first_message(tmp_path: Path) -> None:
    async with tree(tmp_path) as root:
        began, before = await heard(root), root.held.clock.monotonic()
        asked = asyncio.ensure_future(root.ask("GET", f"{BASE}/messages?after={began.cursor}&wait=20"))
        await asyncio.sleep(0.05)
        pushed(root, CANARY, b"one", "v1")
        root.held.clock.advance(0.5)
        await asyncio.sleep(0.05)
        assert not asked.done()
        pushed(root, "team/app", b"one", "v1")
        found = msgspec.json.decode((await root.pass_time(asked)).body, type=Messages)
        assert [one.number for one in found.messages] == [2]
        assert root.held.clock.monotonic() - before < 5


async def test_a_question_that_nothing_ends_has_the_cursor_of_its_end(tmp_path: Path) -> None:
    async with tree(tmp_path) as root:
        began, before = await heard(root), root.held.clock.monotonic()
        asked = asyncio.ensure_future(root.ask("GET", f"{BASE}/messages?after={began.cursor}&wait=10"))
        await asyncio.sleep(0.05)
        pushed(root, CANARY, b"one", "v1")
        found = msgspec.json.decode((await root.pass_time(asked)).body, type=Messages)
        assert (found.messages, found.cursor[-2:]) == ((), "-1")
        assert 10 <= root.held.clock.monotonic() - before < 12


async def gone(root: Tree, cursor: str) -> Answer:
    """The refusal of a cursor after which nobody can tell what happened."""
    answer = await root.ask("GET", f"{BASE}/messages?after={cursor}&wait=20")
    assert (answer.status, "GONE" in refused(answer)) == (410, True), answer
    return answer


async def test_what_is_not_kept_any_more_is_410(tmp_path: Path) -> None:
    async with tree(tmp_path) as root:
        store, now = root.held.store, root.held.clock.now()
        began = (await heard(root)).cursor
        log = began.partition("-")[0]
        for number in range(4):
            pushed(root, "team/app", b"%d" % number, "v1", now=now - 2 * 86400 - 2 + number)
        assert "messageTtl" in refused(await gone(root, began))  # of 2 days
        await gone(root, f"{log}-1")
        assert [one.number for one in (await heard(root, f"{log}-2")).messages] == [3, 4]
        await gone(root, f"{log}-5")  # of the future
        await gone(root, f"{'0' * 32}-4")  # of another log
        store.events.trim(before=0.0, keep=1).result()
        await gone(root, f"{log}-2")
        assert [one.number for one in (await heard(root, f"{log}-3")).messages] == [4]
        store.events.keep(False).result()
        away = await root.ask("GET", f"{BASE}/messages?after={log}-4")
        assert (away.status, away.headers["retry-after"]) == (503, "1")
        store.events.keep(True).result()
        await gone(root, f"{log}-4")


@pytest.mark.parametrize(
    "cursor", ["", "x", "1", f"{'0' * 32}", f"{'0' * 32}-", f"{'0' * 32}-01", f"{'G' * 32}-1"]
)
async def test_a_cursor_that_is_none_is_400_in_words(cursor: str, tmp_path: Path) -> None:
    async with tree(tmp_path) as root:
        answer = await root.ask("GET", f"{BASE}/messages?after={cursor}")
        assert (answer.status, "the cursor of an earlier answer" in refused(answer)) == (400, True)
        for most in ("0", "-1", "x", "1e3", "9" * 10):
            assert (await root.ask("GET", f"{BASE}/messages?max={most}")).status == 400, most


async def test_contents_are_every_tag_and_every_untagged_manifest(tmp_path: Path) -> None:
    async with tree(tmp_path) as root:
        await root.order(command.UpdatePermissions(name="plantA", add=("other/*",)))
        image = pushed(root, "team/app", b"image", "v2", "v1")
        signature = pushed(root, "team/app", b"signature", subject=image)
        pushed(root, CANARY, b"image", CANARY)
        away = pushed(root, "other/one", b"image", "v1")
        began = (await heard(root)).cursor
        expected = [
            ContentsEntry("other/one", str(away), "v1", MEDIA_TYPE, 5),
            ContentsEntry("team/app", str(signature), "", MEDIA_TYPE, 9, str(image)),
            ContentsEntry("team/app", str(image), "v1", MEDIA_TYPE, 5),
            ContentsEntry("team/app", str(image), "v2", MEDIA_TYPE, 5),
        ]
        for most in (1000, 2, 1):
            pages = await listed(root, most)
            assert [one for page in pages for one in page.entries] == expected
            assert {page.cursor for page in pages} == {began}
            assert all(len(page.entries) <= most for page in pages)


async def held_open(root: Tree, cursor: str, user: str = "plantA", **more: object) -> asyncio.Future[Answer]:
    """A question that waits for a message."""
    query = "".join(f"&{name}={value}" for name, value in more.items())
    target = f"{BASE}/messages?after={cursor}&wait=20{query}"
    asked = asyncio.ensure_future(root.ask("GET", target, user=user))
    await until(lambda: root.held.clock.sleepers > 0)
    return asked


async def test_s52_a_scope_that_changes_meanwhile_counts_for_what_comes(tmp_path: Path) -> None:
    async with tree(tmp_path) as root:
        began = (await heard(root)).cursor
        pushed(root, "other/one", b"before", "v1")
        asked = await held_open(root, began)
        await root.order(command.UpdatePermissions(name="plantA", add=("other/*",), remove=("team/app",)))
        pushed(root, "team/app", b"one", CANARY)
        pushed(root, "other/one", b"after", "v1")
        answer = await root.pass_time(asked)
        found = msgspec.json.decode(answer.body, type=Messages)
        assert [(one.number, one.repository) for one in found.messages] == [(3, "other/one")]
        assert CANARY.encode() not in answer.body


async def test_who_is_not_the_active_instance_any_more_is_told_while_he_waits(tmp_path: Path) -> None:
    async with tree(tmp_path) as root:
        generation = await root.activate()
        began = (await heard(root)).cursor
        asked = await held_open(root, began, instance="first", generation=generation)
        await root.order(command.Deactivate(name="plantA"))
        answer = await root.pass_time(asked)
        assert (answer.status, "NOT_ACTIVATED" in refused(answer)) == (409, True)
        second = await root.ask("POST", f"{BASE}/activate", {"instance": "second"})
        assert second.status == 200
        for what in ("messages", "contents"):
            answer = await root.ask("GET", f"{BASE}/{what}?instance=first&generation={generation}")
            assert (answer.status, "ALREADY_ACTIVATED" in refused(answer)) == (409, True), what


@pytest.mark.parametrize("gone", ["token", "right", "registry"])
async def test_a_right_that_ends_ends_the_wait(gone: str, tmp_path: Path) -> None:
    async with tree(tmp_path) as root:
        right = "gateway/planta/message/read"
        await root.token("relay", right, "gateway/planta/message/write")
        asked = await held_open(root, (await heard(root)).cursor, "relay")
        if gone == "token":
            await root.order(command.UpdateToken(name="relay", status="disabled"))
        elif gone == "right":
            await root.order(command.UpdateScopeMap(name="relay-scope-map", remove=(right,)))
        else:
            await root.order(command.DeleteRegistry(name="plantB", cleanup=True))
            await root.order(command.DeleteRegistry(name="plantA"))
        assert (await root.pass_time(asked)).status == {"token": 401, "right": 403, "registry": 404}[gone]


async def test_s52_another_token_hears_no_more_than_it_may_pull_itself(tmp_path: Path) -> None:
    """Nor more than the registry's own, however much it may pull."""
    async with tree(tmp_path) as root:
        await root.order(command.UpdatePermissions(name="plantA", add=("other/one",)))
        await root.token("relay", "gateway/planta/message/read", "repositories/team/*/content/read")
        began = (await heard(root)).cursor
        for name in ("team/app", "team/beside", "other/one"):
            pushed(root, name, b"one", "v1")
        answer = await root.ask("GET", f"{BASE}/messages?after={began}", user="relay")
        found = msgspec.json.decode(answer.body, type=Messages)
        assert [one.repository for one in found.messages] == ["team/app"]
        entries = [one.repository for page in await listed(root, user="relay") for one in page.entries]
        assert entries == ["team/app"]


async def test_s52_what_a_lock_hides_is_neither_told_nor_listed(tmp_path: Path) -> None:
    async with tree(tmp_path) as root:
        store = root.held.store
        await root.order(command.UpdatePermissions(name="plantA", add=("shut",)))
        began = (await heard(root)).cursor
        image = pushed(root, "team/app", b"image", "v1", CANARY)
        unread = pushed(root, "team/app", b"unread")
        pushed(root, "shut", b"image", CANARY)
        for repository, target, lock in (
            ("team/app", LockTarget("tag", CANARY), Lock(list=False)),
            ("team/app", LockTarget("manifest", str(unread)), Lock(read=False)),
            ("shut", LockTarget("repository"), Lock(list=False)),
        ):
            store.references.set_lock(repository, target, lock, now=1.0).result()
        found = (await heard(root, began)).messages
        assert [(one.tag, one.digest) for one in found] == [("v1", str(image))]
        for most in (1000, 1):
            entries = [one for page in await listed(root, most) for one in page.entries]
            assert [(one.tag, one.digest) for one in entries] == [("v1", str(image))]


async def test_s52_a_place_that_was_made_up_shows_nothing(tmp_path: Path) -> None:
    async with tree(tmp_path) as root:
        pushed(root, CANARY, b"one", CANARY)
        cursor = (await heard(root)).cursor
        for at in (FIRST, b"t", b"m" + bytes(600), b"t" + b"\xff" * 600, b"?", b""):
            text = encode_position(ListingPosition(cursor, CANARY, at))
            answer = await root.ask("GET", f"{BASE}/contents?after={text}")
            found = msgspec.json.decode(answer.body, type=Contents)
            assert (found.entries, found.next, CANARY in answer.body.decode()) == ((), "", False)
            text = encode_position(ListingPosition(cursor, "team/app", at))
            assert (await root.ask("GET", f"{BASE}/contents?after={text}")).status == 200
        made_up = (
            encode_position(ListingPosition("x")),
            encode_position(ListingPosition("")),
            "x",
            "%C3%A9",
            "gA",
            "=",
            encode_position(ListingPosition(cursor))[:-3],
        )
        for text in made_up:
            answer = await root.ask("GET", f"{BASE}/contents?after={text}")
            assert (answer.status, "`next` of an earlier page" in refused(answer)) == (400, True), text


async def test_an_answer_looks_at_so_many_records_and_no_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Clients of the node do not wait for a child that was long away, or whose repositories are few among many."""
    monkeypatch.setattr(messages, "EVENTS_LOOKED_AT", 20)
    monkeypatch.setattr(messages, "MEMBERS_LOOKED_AT", 10)
    async with tree(tmp_path) as root:
        began = (await heard(root)).cursor
        for number in range(50):
            pushed(root, f"{CANARY}/{number}", b"one", "v1")
        pushed(root, "team/app", b"one", *(f"v{number:02}" for number in range(25)))
        told, at = list[Messages](), began
        while not told or told[-1].more:
            told.append(await heard(root, at))
            at = told[-1].cursor
        assert [len(one.messages) for one in told] == [0, 0, 10, 15]
        pages = await listed(root)
        assert [one.tag for page in pages for one in page.entries] == [f"v{n:02}" for n in range(25)]
        assert max(len(page.entries) for page in pages) == 10
        assert len(pages) == 8  # 51 repositories, an untagged look, 25 tags


async def test_an_event_that_cannot_be_read_is_410_for_who_did_not_hear_it(tmp_path: Path) -> None:
    async with tree(tmp_path) as root:
        began = (await heard(root)).cursor
        for number in range(3):
            pushed(root, "team/app", b"%d" % number, "v1")
        with root.held.store._index.begin(write=True) as txn:
            txn.put(layout.event_key(2), b"\x01damaged")
        await gone(root, began)
        log = began.partition("-")[0]
        await gone(root, f"{log}-1")
        assert [one.number for one in (await heard(root, f"{log}-2")).messages] == [3]


async def test_a_repository_of_another_parent_is_named_as_it_is_asked_for(tmp_path: Path) -> None:

    parents = (
        ParentSection(url="https://one.example", name=""),
        ParentSection(url="https://two.example", name="mirror"),
    )
    async with tree(tmp_path, parents=parents) as root:
        await root.order(command.UpdatePermissions(name="plantA", add=("mirror/app",)))
        began = (await heard(root)).cursor
        pushed(root, "mirror:app", b"one", "v1")
        pushed(root, "unknown:app", b"one", "v1")
        assert [one.repository for one in (await heard(root, began)).messages] == ["mirror/app"]
        entries = [one.repository for page in await listed(root) for one in page.entries]
        assert entries == ["mirror/app"]


def remember(held: Serving, result: dict[str, str]) -> None:
    """How the last full synchronisation of a managed node went, as its keeper writes it down."""
    document = ResourceChange("sync", "self", msgspec.json.encode({"result": result}))
    held.store.documents.change(lambda _: [document], quiet=frozenset({"sync"})).result()


async def test_contents_of_a_node_that_lacks_some_itself_say_so(tmp_path: Path) -> None:
    """A child must not take for gone what its parent has not brought yet, as after the parent lost its disk."""
    async with tree(tmp_path) as root:
        assert (await listed(root))[-1].complete
        answer = await root.ask("GET", f"{BASE}/config")
        received = msgspec.json.decode(answer.body, type=Received)
        async with serving(tmp_path / "below", Configuration()) as held:
            node = Tree(held)
            node.passwords = root.passwords
            identity = Identity(name="plantA", instance="i", activated="2026-01-01T00:00:00Z")
            await node.order(command.Receive(identity=identity, configuration=received))
            for result, complete in (
                ({}, False),
                ({"lastSuccessfulSyncEndTime": "2026-01-02T00:00:00Z"}, True),
            ):
                remember(held, result)
                said = await node.ask("GET", "/acr/gateway/v1/plantb/contents", user="plantB")
                assert msgspec.json.decode(said.body, type=Contents).complete == complete
