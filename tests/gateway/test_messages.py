"""Messages and contents: what a child hears of, when nobody can tell it any more, and what it must never see."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any
from urllib.parse import quote

import msgspec
import pytest
from holdfast.control import command
from holdfast.gateway.message import Contents, Entry, Message, Messages
from holdfast_core import Digest, Event
from support.gateway import BASE, Tree, refused, tree
from support.serving import MEDIA_TYPE, Answer
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


def test_what_follows_a_cursor_is_told_in_order(tmp_path: Path) -> None:
    async def test(root: Tree) -> None:
        store, now, began = root.held.store, root.held.clock.now(), await heard(root)
        assert (began.messages, began.more) == ((), False)
        digest = pushed(root, "team/app", b"one", "v1", now=now, artifact_type="a/b")
        store.delete_tag("team/app", "v1", now=now + 1).result()
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

    tree(tmp_path, test)


def test_what_does_not_concern_the_child_only_moves_its_cursor(tmp_path: Path) -> None:
    async def test(root: Tree) -> None:
        began, store = await heard(root), root.held.store
        pushed(root, CANARY, b"one", "v1")
        pushed(root, f"team/app/{CANARY}", b"one", "v1")
        relayed = Event("push", "tag", "team/app", root.held.clock.now(), CANARY, registry="plantB")
        store.change_resources(lambda view: [], quiet=frozenset(), told=lambda: [relayed]).result()
        answer = await root.ask("GET", f"{BASE}/messages?after={began.cursor}")
        found = msgspec.json.decode(answer.body, type=Messages)
        assert (found.messages, found.more, CANARY in answer.body.decode()) == ((), False, False)
        assert found.cursor.endswith("-3")
        pushed(root, "team/app", b"one", "v1")
        assert [one.number for one in (await heard(root, found.cursor)).messages] == [4]

    tree(tmp_path, test)


def test_a_held_question_ends_with_the_first_message(tmp_path: Path) -> None:
    async def test(root: Tree) -> None:
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

    tree(tmp_path, test)


def test_a_question_that_nothing_ends_has_the_cursor_of_its_end(tmp_path: Path) -> None:
    async def test(root: Tree) -> None:
        began, before = await heard(root), root.held.clock.monotonic()
        asked = asyncio.ensure_future(root.ask("GET", f"{BASE}/messages?after={began.cursor}&wait=10"))
        await asyncio.sleep(0.05)
        pushed(root, CANARY, b"one", "v1")
        found = msgspec.json.decode((await root.pass_time(asked)).body, type=Messages)
        assert (found.messages, found.cursor[-2:]) == ((), "-1")
        assert 10 <= root.held.clock.monotonic() - before < 12

    tree(tmp_path, test)


async def gone(root: Tree, cursor: str) -> Answer:
    """The refusal of a cursor after which nobody can tell what happened."""
    answer = await root.ask("GET", f"{BASE}/messages?after={cursor}&wait=20")
    assert (answer.status, "GONE" in refused(answer)) == (410, True), answer
    return answer


def test_what_is_not_kept_any_more_is_410(tmp_path: Path) -> None:
    async def test(root: Tree) -> None:
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
        store.trim_events(before=0.0, keep=1).result()
        await gone(root, f"{log}-2")
        assert [one.number for one in (await heard(root, f"{log}-3")).messages] == [4]
        store.keep_events(False).result()
        away = await root.ask("GET", f"{BASE}/messages?after={log}-4")
        assert (away.status, away.headers["retry-after"]) == (503, "1")
        store.keep_events(True).result()
        await gone(root, f"{log}-4")

    tree(tmp_path, test)


@pytest.mark.parametrize(
    "cursor", ["", "x", "1", f"{'0' * 32}", f"{'0' * 32}-", f"{'0' * 32}-01", f"{'G' * 32}-1"]
)
def test_a_cursor_that_is_none_is_400_in_words(cursor: str, tmp_path: Path) -> None:
    async def test(root: Tree) -> None:
        answer = await root.ask("GET", f"{BASE}/messages?after={cursor}")
        assert (answer.status, "the cursor of an earlier answer" in refused(answer)) == (400, True)
        for most in ("0", "-1", "x", "1e3", "9" * 10):
            assert (await root.ask("GET", f"{BASE}/messages?max={most}")).status == 400, most

    tree(tmp_path, test)


def test_contents_are_every_tag_and_every_untagged_manifest(tmp_path: Path) -> None:
    async def test(root: Tree) -> None:
        await root.order(command.UpdatePermissions(name="plantA", add=("other/*",)))
        image = pushed(root, "team/app", b"image", "v2", "v1")
        signature = pushed(root, "team/app", b"signature", subject=image)
        pushed(root, CANARY, b"image", CANARY)
        away = pushed(root, "other/one", b"image", "v1")
        began = (await heard(root)).cursor
        expected = [
            Entry("other/one", str(away), "v1", MEDIA_TYPE, 5),
            Entry("team/app", str(signature), "", MEDIA_TYPE, 9, str(image)),
            Entry("team/app", str(image), "v1", MEDIA_TYPE, 5),
            Entry("team/app", str(image), "v2", MEDIA_TYPE, 5),
        ]
        for most in (1000, 2, 1):
            pages = await listed(root, most)
            assert [one for page in pages for one in page.entries] == expected
            assert {page.cursor for page in pages} == {began}
            assert all(len(page.entries) <= most for page in pages)

    tree(tmp_path, test)
