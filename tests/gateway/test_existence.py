"""The question for many names: what exists here, as far as the child may pull it; and how a child asks it."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Sequence
from pathlib import Path

import msgspec
import pytest
from holdfast.gateway.gateway_client import Unlogged
from holdfast.gateway.protocol import INQUIRY_NAMES, InquiredNames, Inquiry, InquiryAnswer, Present
from holdfast.outbox.parent_inventory import UNKNOWN_SECONDS, FoundAtParent, HeadInventory, InquiryInventory
from holdfast.parent.push_client import RemoteTag
from holdfast.testing.manual_clock import FakeClock
from holdfast_core import Digest, Lock, LockTarget
from support.gateway import BASE, Tree, refused, tree
from support.patience import patience
from support.stores import push

NONE = str(Digest.of(b"nowhere"))


def blob(root: Tree, repository: str, body: bytes) -> str:
    """Push a small blob; its digest."""
    digest = Digest.of(body)
    root.held.store.blobs.push_inline(repository, digest, body, now=1.0).result()
    return str(digest)


async def known(
    root: Tree, *sought: InquiredNames, generation: int, user: str = "plantA"
) -> tuple[Present, ...]:
    """What the root says."""
    inquiry = Inquiry(instance="first", generation=generation, sought=sought)
    answer = await root.ask("POST", f"{BASE}/exists", inquiry, user)
    assert answer.status == 200, answer
    return msgspec.json.decode(answer.body, type=InquiryAnswer).present


async def test_case_fault_15_one_question_tells_of_many_names_in_their_order(tmp_path: Path) -> None:
    async with tree(tmp_path) as root:
        generation = await root.activate()
        held = blob(root, "team/app", b"layer")
        digest = str(push(root.held.store, "team/app", b"{}", "v1"))
        app = InquiredNames("team/app", (NONE, held, digest), (digest, held, NONE), ("v1", "v2", "no/tag"))
        found = await known(root, app, InquiredNames("team/app", ("nonsense",)), generation=generation)
        assert found == (
            Present((False, True, False), (True, False, False), (digest, "", "")),
            Present((False,)),
        )


async def test_s52_what_the_child_may_not_pull_is_not_there(tmp_path: Path) -> None:
    """Membership, scope and locks: not even bytes that another repository has, nor names of none."""
    async with tree(tmp_path) as root:
        generation = await root.activate()
        hidden, elsewhere = (
            blob(root, "team/other", b"layer"),
            str(push(root.held.store, "team/other", b"{}", "v1")),
        )
        locked = str(push(root.held.store, "team/app", b"locked", "v2"))
        root.held.store.references.set_lock(
            "team/app", LockTarget("manifest", locked), Lock(read=False), now=1.0
        ).result()
        root.held.store.references.set_lock(
            "team/app", LockTarget("tag", "v2"), Lock(list=False), now=1.0
        ).result()
        sought = [
            InquiredNames(name, (hidden,), (elsewhere, locked), ("v1", "v2"))
            for name in ("team/other", "team/app", "../x")
        ]
        found = await known(root, *sought, generation=generation)
        assert found == (Present((False,), (False, False), ("", "")),) * 3


async def test_who_may_ask(tmp_path: Path) -> None:
    async with tree(tmp_path) as root:
        generation = await root.activate()
        await root.token("client", "repositories/team/app/content/read")
        inquiry = Inquiry(instance="first", generation=generation)
        assert (await root.ask("POST", f"{BASE}/exists", inquiry, "client")).status == 403
        other = Inquiry(instance="second", generation=generation)
        assert (await root.ask("POST", f"{BASE}/exists", other)).status == 409
        many = Inquiry(
            instance="first",
            generation=generation,
            sought=(InquiredNames("a", ("b",) * (INQUIRY_NAMES + 1)),),
        )
        answer = await root.ask("POST", f"{BASE}/exists", many)
        assert answer.status == 400
        assert f"allowed: {INQUIRY_NAMES}" in refused(answer)


class Otherwise(HeadInventory):
    """Notes what is asked one by one."""

    def __init__(self) -> None:
        self.asked: list[InquiredNames] = []

    async def find(self, sought: InquiredNames) -> FoundAtParent:
        """Nothing is there."""
        self.asked.append(sought)
        return FoundAtParent(frozenset(), {})

    async def authorized(self, name: str) -> bool:
        """Anybody may push."""
        return True


class Gateway:
    """Answers when it is let."""

    def __init__(self, *answers: object) -> None:
        self.asked: list[int] = []
        self.let = asyncio.Event()
        self.answers = list(answers)

    async def exists(self, sought: Sequence[InquiredNames]) -> object:
        """Everything is there, unless it is to say something else."""
        self.asked.append(len(sought))
        await self.let.wait()
        if self.answers:
            return self.answers.pop(0)
        return InquiryAnswer(tuple(Present((True,) * len(s.blobs), (), ("",) * len(s.tags)) for s in sought))


def sought(number: int, names: int = 1) -> InquiredNames:
    """Names of a repository of its own."""
    digests = tuple("sha256:" + hashlib.sha256(b"%d %d" % (number, n)).hexdigest() for n in range(names))
    return InquiredNames(f"r{number}", digests, (), ("t",))


async def test_case_fault_15_who_asks_meanwhile_goes_along_with_the_next_question() -> None:
    gateway, otherwise = Gateway(), Otherwise()
    above = InquiryInventory(gateway.exists, Unlogged, otherwise, FakeClock())
    tasks = [asyncio.create_task(above.find(sought(0)))]
    while not gateway.asked:
        await asyncio.sleep(0)
    tasks += [asyncio.create_task(above.find(sought(number))) for number in range(1, 8)]
    tasks += [asyncio.create_task(above.find(sought(9, INQUIRY_NAMES - 1)))]
    await asyncio.sleep(0)
    gateway.let.set()
    found = await asyncio.gather(*tasks)
    assert gateway.asked == [1, 7, 1]
    assert found[0] == FoundAtParent(frozenset(sought(0).blobs), {"t": RemoteTag("", "")})
    assert otherwise.asked == []
    await above.close()


@pytest.mark.parametrize("said", [None, InquiryAnswer(), InquiryAnswer((Present(),)), "anything else"])
async def test_what_is_no_answer_is_asked_one_by_one(said: object) -> None:
    gateway, otherwise = Gateway(said), Otherwise()
    gateway.let.set()
    above = InquiryInventory(gateway.exists, Unlogged, otherwise, FakeClock())
    assert await above.find(sought(0)) == FoundAtParent(frozenset(), {})
    assert otherwise.asked == [sought(0)]
    assert (await above.find(sought(1))).digests == frozenset(sought(1).blobs)
    assert gateway.asked == [1, 1]
    assert (await above.find(sought(2, INQUIRY_NAMES + 1))).digests == frozenset()
    assert gateway.asked == [1, 1]


async def test_a_question_that_fails_holds_nobody_up() -> None:
    async def broken(sought: Sequence[InquiredNames]) -> object:
        raise ValueError("a surprise")

    otherwise = Otherwise()
    above = InquiryInventory(broken, Unlogged, otherwise, FakeClock())
    await asyncio.gather(*(above.find(sought(number)) for number in range(3)))
    assert len(otherwise.asked) == 3


async def test_a_parent_that_knows_no_such_question_is_left_alone_for_an_hour() -> None:
    clock, gateway, otherwise = FakeClock(), Gateway(Unlogged()), Otherwise()
    gateway.let.set()
    above = InquiryInventory(gateway.exists, Unlogged, otherwise, clock)
    for number in range(3):
        await above.find(sought(number))
    assert gateway.asked == [1]
    clock.advance(UNKNOWN_SECONDS)
    await above.find(sought(4))
    assert gateway.asked == [1, 1]
    assert len(otherwise.asked) == 3


async def test_case_fault_15_an_answer_does_not_wait_for_a_login_that_hangs(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("holdfast.outbox.parent_inventory.LOGIN_SECONDS", 0.0, raising=False)
    gateway, otherwise = Gateway(), Otherwise()
    gateway.let.set()
    otherwise.authorized = lambda name: asyncio.Event().wait()  # type: ignore[method-assign]
    above = InquiryInventory(gateway.exists, Unlogged, otherwise, FakeClock())
    async with patience():
        assert (await above.find(sought(0))).digests == frozenset(sought(0).blobs)
    await above.close()


async def test_case_fault_15_a_login_that_fails_is_tried_again_at_the_next_question() -> None:
    gateway, otherwise, asked = Gateway(), Otherwise(), list[str]()
    gateway.let.set()

    async def authorized(name: str) -> bool:
        asked.append(name)
        if len(asked) == 1:
            raise ValueError("a surprise")
        return len(asked) > 2

    otherwise.authorized = authorized  # type: ignore[method-assign]
    above = InquiryInventory(gateway.exists, Unlogged, otherwise, FakeClock())
    for _ in range(5):
        assert (await above.find(sought(0))).digests == frozenset(sought(0).blobs)
    assert asked == ["r0"] * 3
