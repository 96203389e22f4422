"""A worker and a keeper over a real socket: answers, news of fills, and a keeper that dies."""

import asyncio
import os
import socket
from contextlib import asynccontextmanager
from typing import Protocol

import msgspec
import pytest
from holdfast import errors
from holdfast.clock import SystemClock
from holdfast.fill.readers import BlobAnswer, FillFailed, FillGrown, FillMoved, FillSnapshot, FillVerified
from holdfast.keeper.api import (
    NO_CONDITION,
    Condition,
    KeeperApi,
    KeeperStatus,
    ListAnswer,
    ManifestAnswer,
)
from holdfast.keeper.rpc import remote_keeper
from holdfast.keeper.rpc.remote_keeper import RemoteKeeper
from holdfast.keeper.rpc.remote_methods import KEEPER_METHODS, derived_questions, methods_of
from holdfast.keeper.rpc.service import Service
from holdfast_core.digest import Digest
from support.patience import patience

DIGEST = "sha256:" + "1" * 64


class Reader:
    def __init__(self, fills):
        self.fills = fills

    def close(self):
        self.fills.left += 1

    def advance(self, offset):
        self.fills.posts.append(("passed", offset))

    def demand(self, offset):
        self.fills.posts.append(("waits", offset))


class FillsDouble:
    """A fill under the test's control, with the part of the `Fills` interface that the service uses."""

    def __init__(self, path, size):
        self.path, self.size, self.left, self.posts = path, size, 0, []
        self.extents, self.verified, self.listeners = [], False, []

    def subscribe(self, fill, on_change):
        self.listeners.append(on_change)
        return lambda: self.listeners.remove(on_change)

    def snapshot(self, fill):
        return FillSnapshot(self.size, ((0, self.path),), tuple(self.extents), self.verified)

    def tell(self, change):
        if isinstance(change, FillGrown):
            self.extents.append((change.start, change.end))
        for listener in list(self.listeners):
            listener(change)


class KeeperDouble:
    """Answers by method name; a value that is an exception is raised."""

    def __init__(self, fills=None, **answers):
        self.fills, self.answers, self.asked, self.hits = fills, answers, [], []

    def __getattr__(self, method):
        async def answer(*arguments):
            self.asked.append((method, *arguments))
            value = self.answers[method]
            if isinstance(value, asyncio.Event):
                await value.wait()
                value = None
            if isinstance(value, Exception):
                raise value
            return value

        return answer

    async def follow(self, fill, start, end, whole):
        self.asked.append(("follow", fill, start, end, whole))
        return Reader(self.fills)

    def seen(self, repository, digest):
        self.hits.append((repository, digest))

    def disk_refused(self):
        self.asked.append(("disk_refused",))


class StoreDouble:
    """Holds nothing unless told."""

    def __init__(self):
        self.held = None
        self.blobs = self

    def get(self, repository, digest):
        return self.held and type("Blob", (), {"size": len(self.held)})

    def open(self, blob):
        held = self.held

        class Held:
            def read(self, offset, length):
                return held[offset : offset + length]

            def close(self):
                pass

        return Held()


@asynccontextmanager
async def served(path, keeper, methods=KEEPER_METHODS):
    listener = socket.socket(socket.AF_UNIX)
    if os.path.exists(path):
        os.unlink(path)
    listener.bind(path)
    listener.listen()
    service = Service(keeper, methods)
    await service.start(listener)
    try:
        yield service
    finally:
        await service.close()


@asynccontextmanager
async def asking(path, store=None, kind=RemoteKeeper):
    port = kind.at(path, store or StoreDouble(), SystemClock())
    await port.start()
    try:
        yield port
    finally:
        await port.close()


@pytest.fixture
def path(tmp_path):
    return str(tmp_path / "keeper")


@pytest.fixture
def part(tmp_path):
    file = tmp_path / "part"
    file.write_bytes(b"0123456789" * 10)
    return str(file)


async def until(true):
    async with patience():
        while not true():
            await asyncio.sleep(0)


async def test_case_fault_2_what_a_worker_found_full_is_told_to_the_keeper(path):
    keeper = KeeperDouble()
    async with served(path, keeper), asking(path) as port:
        await until(lambda: port._link)
        port.disk_refused()
        await until(lambda: keeper.asked)
    assert keeper.asked == [("disk_refused",)]


async def test_answers_come_back_typed(path):
    keeper = KeeperDouble(
        manifest=ManifestAnswer(DIGEST, 3, "away"),
        blob_size=1 << 40,
        tags=ListAnswer(1),
        referrers=ListAnswer(2, "away"),
        repair=None,
        status=KeeperStatus(True, ("full",), {"": "online"}, {"fills": 1}),
    )
    async with served(path, keeper), asking(path) as port:
        assert await port.manifest("a", "latest") == ManifestAnswer(DIGEST, 3, "away")
        assert await port.blob_size("a", DIGEST) == 1 << 40
        assert await port.tags("a") == ListAnswer(1)
        assert await port.referrers("a", DIGEST) == ListAnswer(2, "away")
        assert await port.repair("a", DIGEST, 0, 1) is None
        assert await port.status() == keeper.answers["status"]
    assert [row[0] for row in keeper.asked] == [
        "manifest", "blob_size", "tags", "referrers", "repair", "status",
    ]  # fmt: skip


class Forecast(msgspec.Struct, frozen=True, array_like=True):
    degrees: int
    rain: bool = False


class WiderApi(KeeperApi, Protocol):
    """The keeper's interface with two more questions."""

    async def forecast(self, place: str, days: tuple[int, ...], unit: str = "C") -> Forecast | None: ...

    async def change_weather(self, place: str, condition: Condition = NO_CONDITION) -> None: ...


@derived_questions(WiderApi)
class WiderRemote(RemoteKeeper, WiderApi):
    pass


async def test_a_question_is_one_method_of_the_interface(path):
    """Its name, its arguments with defaults and keywords, the types of both, and whether it may be repeated."""
    keeper = KeeperDouble(forecast=Forecast(21, True), change_weather=None)
    async with served(path, keeper, methods_of(WiderApi, {})), asking(path, kind=WiderRemote) as port:
        assert await port.forecast("Bern", (1, 2)) == Forecast(21, True)
        await port.forecast(unit="K", days=(), place="Ulm")
        await port.change_weather("Ulm")
        with pytest.raises(TypeError):
            await port.forecast("Bern")
        with pytest.raises(errors.NodeFailed):
            await port.forecast("Bern", "tomorrow")
    assert keeper.asked == [
        ("forecast", "Bern", (1, 2), "C"),
        ("forecast", "Ulm", (), "K"),
        ("change_weather", "Ulm", NO_CONDITION),
    ]


async def test_a_question_with_a_condition_is_put_to_one_keeper(path):
    methods = methods_of(WiderApi, {})
    dead, alive = KeeperDouble(change_weather=asyncio.Event()), KeeperDouble(change_weather=None)
    async with asking(path, kind=WiderRemote) as port:
        async with served(path, dead, methods):
            once = asyncio.create_task(port.change_weather("Ulm", ("v1", "*", None)))
            again = asyncio.create_task(port.change_weather("Ulm"))
            await until(lambda: len(dead.asked) == 2)
        async with served(path, alive, methods):
            await again
            with pytest.raises(errors.KeeperAway):
                await once
    assert len(alive.asked) == 1


async def test_a_refusal_arrives_as_it_was_raised(path):
    keeper = KeeperDouble(manifest=errors.ParentThrottled("busy", retry_after=7))
    async with served(path, keeper), asking(path) as port:
        with pytest.raises(errors.ParentThrottled, match="busy") as refusal:
            await port.manifest("a", "latest")
        assert refusal.value.retry_after == 7


async def test_a_fault_of_the_keeper_is_an_answer_and_tells_no_detail(path):
    keeper = KeeperDouble(manifest=ValueError("secret"))
    async with served(path, keeper), asking(path) as port:
        with pytest.raises(errors.NodeFailed) as refusal:
            await port.manifest("a", "latest")
        assert "secret" not in str(refusal.value) + refusal.value.detail


async def test_only_the_methods_of_the_port_can_be_called(path):
    keeper = KeeperDouble(close=None, status=KeeperStatus(True))
    async with served(path, keeper), asking(path) as port:
        await port._connected()
        with pytest.raises(errors.NodeFailed, match="no method"):
            await port._link.call("close")
        assert ("close",) not in keeper.asked


async def test_a_call_is_asked_again_when_the_keeper_comes_back(path):
    dead, alive = KeeperDouble(manifest=asyncio.Event()), KeeperDouble(manifest=ManifestAnswer(DIGEST))
    async with asking(path) as port:
        async with served(path, dead):
            call = asyncio.create_task(port.manifest("a", "latest"))
            await until(lambda: dead.asked)
        async with served(path, alive):
            assert await call == ManifestAnswer(DIGEST)


async def test_a_keeper_that_stays_away_is_said_so(path, monkeypatch):
    monkeypatch.setattr(remote_keeper, "AWAY_SECONDS", 0.05)
    async with asking(path) as port:
        assert not (await port.status()).ready
        with pytest.raises(errors.KeeperAway) as refusal:
            await port.manifest("a", "latest")
        assert refusal.value.retry_after


async def test_hits_are_told_in_one_message(path):
    keeper = KeeperDouble(status=KeeperStatus(True))
    async with served(path, keeper), asking(path) as port:
        await port._connected()
        for _ in range(100):
            port.seen("a", DIGEST)
        port._send_seen()
        await port.status()
        assert keeper.hits == [("a", DIGEST)]


async def test_a_reader_is_woken_as_bytes_land(path, part):
    fills = FillsDouble(part, 100)
    keeper = KeeperDouble(fills, blob=BlobAnswer(100, 1))
    async with served(path, keeper), asking(path) as port:
        answer = await port.blob("a", DIGEST, 0, -1, True)
        readers = [await port.follow(answer.fill, 0, 100, True) for _ in range(3)]
        waits = [asyncio.create_task(reader.wait_for(0)) for reader in readers]
        verdict = asyncio.create_task(readers[0].wait_verified())
        await port.blob("a", DIGEST, 0, -1, True)
        assert not any(wait.done() for wait in waits)
        fills.tell(FillGrown(0, 40))
        assert await asyncio.gather(*waits) == [40, 40, 40]
        assert readers[1].available(40) == 40
        assert readers[1].read(35, 5) == b"56789"
        fills.tell(FillGrown(40, 100))
        assert await readers[2].wait_for(99) == 100
        assert not verdict.done()
        fills.tell(FillVerified())
        await verdict
        assert len(fills.listeners) == 1
        for reader in readers:
            reader.close()
        await until(lambda: fills.left == 3 and not fills.listeners)


async def test_a_failed_fill_fails_its_readers_beyond_what_is_there(path, part):
    fills = FillsDouble(part, 100)
    keeper = KeeperDouble(fills, blob=BlobAnswer(100, 1))
    async with served(path, keeper), asking(path) as port:
        await port.blob("a", DIGEST, 0, -1, True)
        reader = await port.follow(1, 0, 100, True)
        fills.tell(FillGrown(0, 40))
        fills.tell(FillFailed("ParentBroken", "wrong digest"))
        with pytest.raises(errors.ParentBroken, match="wrong digest"):
            await reader.wait_for(40)
        assert await reader.wait_for(0) == 40
        with pytest.raises(errors.ParentBroken):
            await reader.wait_verified()
        reader.close()


async def test_a_fill_that_moves_is_read_from_both_files(path, part, tmp_path):
    other = tmp_path / "window"
    other.write_bytes(b"x" * 100)
    fills = FillsDouble(part, 100)
    keeper = KeeperDouble(fills, blob=BlobAnswer(100, 1))
    async with served(path, keeper), asking(path) as port:
        await port.blob("a", DIGEST, 0, -1, True)
        reader = await port.follow(1, 0, 100, True)
        fills.tell(FillGrown(0, 50))
        fills.tell(FillMoved(50, str(other)))
        fills.tell(FillGrown(50, 100))
        assert await reader.wait_for(99) == 100
        assert reader.read(45, 50) == b"56789"
        assert reader.read(50, 50) == b"x" * 50
        reader.close()


@pytest.mark.parametrize("held", [False, True])
async def test_a_reader_outlives_the_keeper(path, part, held):
    """The next keeper either fills the blob anew or holds it by now; the reader goes on at its byte."""
    store = StoreDouble()
    first = KeeperDouble(FillsDouble(part, 100), blob=BlobAnswer(100, 1))
    second = KeeperDouble(FillsDouble(part, 100), blob=BlobAnswer(100, 0 if held else 1))
    second.fills.extents.append((0, 70))
    async with asking(path, store) as port:
        async with served(path, first):
            await port.blob("a", DIGEST, 0, -1, True)
            reader = await port.follow(1, 0, 100, True)
            first.fills.tell(FillGrown(0, 40))
            assert await reader.wait_for(0) == 40
            wait = asyncio.create_task(reader.wait_for(40))
            await port.blob("a", DIGEST, 0, -1, True)
        store.held = b"h" * 100 if held else None
        async with served(path, second):
            assert await wait == (100 if held else 70)
            assert second.asked[0] == ("blob", "a", DIGEST, 40, 100, True)
            assert reader.read(40, 5) == (b"hhhhh" if held else b"01234")
            reader.close()
    assert Digest.parse(DIGEST)


async def test_a_fill_number_of_an_old_keeper_is_never_used_at_the_new_one(path, part):
    """Numbers start over with each keeper: the same one may mean other bytes."""
    first = KeeperDouble(FillsDouble(part, 100), blob=BlobAnswer(100, 1))
    second = KeeperDouble(FillsDouble(part, 100), blob=BlobAnswer(100, 9))
    async with asking(path) as port:
        async with served(path, first):
            await port.blob("a", DIGEST, 0, -1, True)
        async with served(path, second):
            reader = await port.follow(1, 0, 100, True)
            assert second.asked == [("blob", "a", DIGEST, 0, 100, True), ("follow", 9, 0, 100, True)]
            reader.close()


async def test_a_range_reader_tells_how_far_it_has_come(path, tmp_path):
    """The planner's read-ahead, and an unstored fill's memory, follow the reader."""
    size = 4 << 20
    part = tmp_path / "part"
    part.write_bytes(bytes(size))
    fills = FillsDouble(str(part), size)
    keeper = KeeperDouble(fills, blob=BlobAnswer(size, 1))
    async with served(path, keeper), asking(path) as port:
        await port.blob("a", DIGEST, 0, -1, False)
        reader = await port.follow(1, 0, size, False)
        wait = asyncio.create_task(reader.wait_for(0))
        await until(lambda: fills.posts == [("waits", 0)])
        fills.tell(FillGrown(0, 3 << 20))
        assert await wait == 3 << 20
        for offset in range(0, 3 << 20, 1 << 19):
            reader.read(offset, 1 << 19)
        await until(lambda: len(fills.posts) == 4)
        assert fills.posts[1:] == [("passed", n << 20) for n in (1, 2, 3)]
        reader.close()


async def test_what_passed_through_memory_is_never_read_again(path, part):
    """Its pages are zeros by now: going back is a failure, not an answer."""
    fills = FillsDouble(part, 100)
    keeper = KeeperDouble(fills, blob=BlobAnswer(100, 1))
    async with served(path, keeper), asking(path) as port:
        await port.blob("a", DIGEST, 0, -1, False)
        reader = await port.follow(1, 0, 100, False)
        reader._view.in_memory = True
        fills.tell(FillGrown(0, 100))
        await reader.wait_for(0)
        reader._tell(50, waits=False)
        assert reader.available(40) == 40
        assert reader.available(50) == 100
        with pytest.raises(errors.NodeFailed):
            await reader.wait_for(40)
        reader.close()


async def test_a_handle_means_one_blob_for_ever(path, part):
    """Every keeper numbers from 1: a body that joins late must not get another blob's fill."""
    other = "sha256:" + "2" * 64
    first = KeeperDouble(FillsDouble(part, 100), blob=BlobAnswer(100, 1))
    second = KeeperDouble(FillsDouble(part, 100), blob=BlobAnswer(100, 1))
    async with asking(path) as port:
        async with served(path, first):
            old = await port.blob("a", DIGEST, 0, -1, True)
        async with served(path, second):
            new = await port.blob("a", other, 0, -1, True)
            assert old.fill != new.fill
            reader = await port.follow(old.fill, 0, 100, True)
            assert second.asked[1] == ("blob", "a", DIGEST, 0, 100, True)
            reader.close()


async def test_a_new_reader_sees_nothing_of_a_failure_that_is_over(path, part):
    fills = FillsDouble(part, 100)
    keeper = KeeperDouble(fills, blob=BlobAnswer(100, 1))
    async with served(path, keeper), asking(path) as port:
        handle = (await port.blob("a", DIGEST, 0, -1, True)).fill
        slow = await port.follow(handle, 0, 100, True)
        fills.tell(FillGrown(0, 40))
        fills.tell(FillFailed("ParentUnreachable", "away"))
        await slow.wait_for(0)
        fresh = await port.follow(handle, 0, 100, True)
        wait = asyncio.create_task(fresh.wait_for(40))
        await port.blob("a", DIGEST, 0, -1, True)
        fills.tell(FillGrown(40, 100))
        assert await wait == 100
        slow.close()
        assert fresh.read(50, 5) == b"01234"
        fresh.close()
