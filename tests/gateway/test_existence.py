"""The question for many names: what exists here, as far as the child may pull it; and how a child asks it."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Sequence
from pathlib import Path

import msgspec
import pytest
import uvloop
from holdfast.gateway.link import Unlogged
from holdfast.gateway.message import INQUIRY_NAMES, Inquiry, Known, Present, Sought
from holdfast.keeper.above import UNKNOWN_SECONDS, Heads, Inquiries, There
from holdfast.parent.push import TagThere
from holdfast.testing.clock import FakeClock
from holdfast_core import Digest, Lock, Target
from support.gateway import BASE, Tree, refused, tree
from support.programs import PATIENCE
from support.stores import push

NONE = str(Digest.of(b"nowhere"))


def blob(root: Tree, repository: str, body: bytes) -> str:
    """Push a small blob; its digest."""
    digest = Digest.of(body)
    root.held.store.push_inline_blob(repository, digest, body, now=1.0).result()
    return str(digest)


async def known(root: Tree, *sought: Sought, generation: int, user: str = "plantA") -> tuple[Present, ...]:
    """What the root says."""
    inquiry = Inquiry(instance="first", generation=generation, sought=sought)
    answer = await root.ask("POST", f"{BASE}/exists", inquiry, user)
    assert answer.status == 200, answer
    return msgspec.json.decode(answer.body, type=Known).present


def test_case_fault_15_one_question_tells_of_many_names_in_their_order(tmp_path: Path) -> None:
    async def test(root: Tree) -> None:
        generation = await root.activate()
        held = blob(root, "team/app", b"layer")
        digest = str(push(root.held.store, "team/app", b"{}", "v1"))
        app = Sought("team/app", (NONE, held, digest), (digest, held, NONE), ("v1", "v2", "no/tag"))
        found = await known(root, app, Sought("team/app", ("nonsense",)), generation=generation)
        assert found == (
            Present((False, True, False), (True, False, False), (digest, "", "")),
            Present((False,)),
        )

    tree(tmp_path, test)


def test_s52_what_the_child_may_not_pull_is_not_there(tmp_path: Path) -> None:
    """Membership, scope and locks: not even bytes that another repository has, nor names of none."""

    async def test(root: Tree) -> None:
        generation = await root.activate()
        hidden, elsewhere = (
            blob(root, "team/other", b"layer"),
            str(push(root.held.store, "team/other", b"{}", "v1")),
        )
        locked = str(push(root.held.store, "team/app", b"locked", "v2"))
        root.held.store.set_lock("team/app", Target("manifest", locked), Lock(read=False), now=1.0).result()
        root.held.store.set_lock("team/app", Target("tag", "v2"), Lock(list=False), now=1.0).result()
        sought = [
            Sought(name, (hidden,), (elsewhere, locked), ("v1", "v2"))
            for name in ("team/other", "team/app", "../x")
        ]
        found = await known(root, *sought, generation=generation)
        assert found == (Present((False,), (False, False), ("", "")),) * 3

    tree(tmp_path, test)


def test_who_may_ask(tmp_path: Path) -> None:
    async def test(root: Tree) -> None:
        generation = await root.activate()
        await root.token("client", "repositories/team/app/content/read")
        inquiry = Inquiry(instance="first", generation=generation)
        assert (await root.ask("POST", f"{BASE}/exists", inquiry, "client")).status == 403
        other = Inquiry(instance="second", generation=generation)
        assert (await root.ask("POST", f"{BASE}/exists", other)).status == 409
        many = Inquiry(
            instance="first", generation=generation, sought=(Sought("a", ("b",) * (INQUIRY_NAMES + 1)),)
        )
        answer = await root.ask("POST", f"{BASE}/exists", many)
        assert answer.status == 400
        assert f"allowed: {INQUIRY_NAMES}" in refused(answer)

    tree(tmp_path, test)


class Otherwise(Heads):
    """Notes what is asked one by one."""

    def __init__(self) -> None:
        self.asked: list[Sought] = []

    async def look(self, sought: Sought) -> There:
        """Nothing is there."""
        self.asked.append(sought)
        return There(frozenset(), {})

    async def introduced(self, name: str) -> bool:
        """Anybody may push."""
        return True


class Gateway:
    """Answers when it is let."""

    def __init__(self, *answers: object) -> None:
        self.asked: list[int] = []
        self.let = asyncio.Event()
        self.answers = list(answers)

    async def exists(self, sought: Sequence[Sought]) -> object:
        """Everything is there, unless it is to say something else."""
        self.asked.append(len(sought))
        await self.let.wait()
        if self.answers:
            return self.answers.pop(0)
        return Known(tuple(Present((True,) * len(s.blobs), (), ("",) * len(s.tags)) for s in sought))


async def ended() -> None:
    """Nothing to end."""


def sought(number: int, names: int = 1) -> Sought:
    """Names of a repository of its own."""
    digests = tuple("sha256:" + hashlib.sha256(b"%d %d" % (number, n)).hexdigest() for n in range(names))
    return Sought(f"r{number}", digests, (), ("t",))


def test_case_fault_15_who_asks_meanwhile_goes_along_with_the_next_question() -> None:
    async def main() -> None:
        gateway, otherwise = Gateway(), Otherwise()
        above = Inquiries(gateway.exists, Unlogged, otherwise, FakeClock(), ended)
        tasks = [asyncio.create_task(above.look(sought(0)))]
        while not gateway.asked:
            await asyncio.sleep(0)
        tasks += [asyncio.create_task(above.look(sought(number))) for number in range(1, 8)]
        tasks += [asyncio.create_task(above.look(sought(9, INQUIRY_NAMES - 1)))]
        await asyncio.sleep(0)
        gateway.let.set()
        found = await asyncio.gather(*tasks)
        assert gateway.asked == [1, 7, 1]
        assert found[0] == There(frozenset(sought(0).blobs), {"t": TagThere("", "")})
        assert otherwise.asked == []
        await above.close()

    uvloop.run(main())


@pytest.mark.parametrize("said", [None, Known(), Known((Present(),)), "anything else"])
def test_what_is_no_answer_is_asked_one_by_one(said: object) -> None:
    async def main() -> None:
        gateway, otherwise = Gateway(said), Otherwise()
        gateway.let.set()
        above = Inquiries(gateway.exists, Unlogged, otherwise, FakeClock(), ended)
        assert await above.look(sought(0)) == There(frozenset(), {})
        assert otherwise.asked == [sought(0)]
        assert (await above.look(sought(1))).digests == frozenset(sought(1).blobs)
        assert gateway.asked == [1, 1]
        assert (await above.look(sought(2, INQUIRY_NAMES + 1))).digests == frozenset()
        assert gateway.asked == [1, 1]

    uvloop.run(main())


def test_a_question_that_fails_holds_nobody_up() -> None:
    async def main() -> None:
        async def broken(sought: Sequence[Sought]) -> object:
            raise ValueError("a surprise")

        otherwise = Otherwise()
        above = Inquiries(broken, Unlogged, otherwise, FakeClock(), ended)
        await asyncio.gather(*(above.look(sought(number)) for number in range(3)))
        assert len(otherwise.asked) == 3

    uvloop.run(main())


def test_a_parent_that_knows_no_such_question_is_left_alone_for_an_hour() -> None:
    async def main() -> None:
        clock, gateway, otherwise = FakeClock(), Gateway(Unlogged()), Otherwise()
        gateway.let.set()
        above = Inquiries(gateway.exists, Unlogged, otherwise, clock, ended)
        for number in range(3):
            await above.look(sought(number))
        assert gateway.asked == [1]
        clock.advance(UNKNOWN_SECONDS)
        await above.look(sought(4))
        assert gateway.asked == [1, 1]
        assert len(otherwise.asked) == 3

    uvloop.run(main())


def test_case_fault_15_an_answer_does_not_wait_for_a_login_that_hangs(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("holdfast.keeper.above.LOGIN_SECONDS", 0.0, raising=False)

    async def main() -> None:
        gateway, otherwise = Gateway(), Otherwise()
        gateway.let.set()
        otherwise.introduced = lambda name: asyncio.Event().wait()  # type: ignore[method-assign]
        above = Inquiries(gateway.exists, Unlogged, otherwise, FakeClock(), ended)
        async with asyncio.timeout(PATIENCE):
            assert (await above.look(sought(0))).digests == frozenset(sought(0).blobs)
        await above.close()

    uvloop.run(main())


def test_case_fault_15_a_login_that_fails_is_tried_again_at_the_next_question() -> None:
    async def main() -> None:
        gateway, otherwise, asked = Gateway(), Otherwise(), list[str]()
        gateway.let.set()

        async def introduced(name: str) -> bool:
            asked.append(name)
            if len(asked) == 1:
                raise ValueError("a surprise")
            return len(asked) > 2

        otherwise.introduced = introduced  # type: ignore[method-assign]
        above = Inquiries(gateway.exists, Unlogged, otherwise, FakeClock(), ended)
        for _ in range(5):
            assert (await above.look(sought(0))).digests == frozenset(sought(0).blobs)
        assert asked == ["r0"] * 3

    uvloop.run(main())
