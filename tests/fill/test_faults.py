"""What a parent and a link do wrong (reliability.md P1 to P19), and what the readers of a fill notice of it."""

from __future__ import annotations

import asyncio
from concurrent.futures import Future
from pathlib import Path

import pytest
from holdfast.errors import ParentBroken, ParentErred, ParentFailed, ParentNotFound, ParentUnreachable
from holdfast.fill.transfers import LONGEST_BACKOFF_SECONDS, TRIES, Patience
from holdfast.testing.fault import RequestGate, ScriptedFault
from holdfast.testing.manual_clock import FakeClock
from holdfast.testing.random_content import GeneratedContent, HeldContent
from holdfast_core.errors import Exhausted
from support.fills import MIB, Drain, Site, drain, site, until
from support.parent_cases import silent_when

pytestmark = pytest.mark.loop("asyncio")


async def begun(node: Site, digest: str, count: int) -> tuple[Drain, asyncio.Task[bytes]]:
    """A client that has taken `count` bytes."""
    client = Drain(node, digest)
    task = asyncio.ensure_future(client.all())
    await until(lambda: len(client.out) >= count)
    return client, task


async def test_a_link_that_is_cut_again_and_again_costs_no_byte_twice(tmp_path: Path) -> None:
    """A sixteenth of 1 GB cut every 50 MB."""
    async with site(tmp_path) as node:
        content = GeneratedContent(64 * MIB)
        digest = node.parent.add_blob("demo", content)
        fault = node.script(cut_after=3 * MIB, times=-1)
        assert await drain(node, digest) == content.read(0, content.size)
        assert fault.taken >= 21
        assert node.sent(digest) <= 1.02 * content.size
        assert node.fills.counters["received_bytes"] == content.size


async def test_resets_cost_what_the_kernel_throws_away_and_nothing_else(tmp_path: Path) -> None:
    """A reset discards what is in the receiver's socket buffer, so the parent's count says nothing here."""
    async with site(tmp_path) as node:
        content = GeneratedContent(6 * MIB)
        digest = node.parent.add_blob("demo", content)
        fault = node.script(cut_after=MIB, reset=True, times=-1)
        assert await drain(node, digest) == content.read(0, content.size)
        assert fault.taken >= 6
        assert node.fills.counters["received_bytes"] == content.size


async def test_resumption_names_the_next_byte_and_the_etag(tmp_path: Path) -> None:
    async with site(tmp_path) as node:
        content = GeneratedContent(4 * MIB)
        digest = node.parent.add_blob("demo", content)
        node.script(cut_after=MIB + 5)
        assert await drain(node, digest) == content.read(0, content.size)
        first, second = node.parent.log
        assert (first.header("range"), first.header("if-range")) == (None, None)
        assert (second.header("range"), second.header("if-range")) == (f"bytes={MIB + 5}-", f'"{digest}"')


async def test_a_cut_range_goes_on_to_its_own_end(tmp_path: Path) -> None:
    async with site(tmp_path) as node:
        content = GeneratedContent(64 * MIB)
        digest = node.parent.add_blob("demo", content)
        node.script(cut_after=1000, times=3)
        body = await drain(node, digest, 10 * MIB, 11 * MIB, whole=False)
        assert body == content.read(10 * MIB, MIB)
        assert node.ranges()[-1] == f"bytes={10 * MIB + 3000}-{11 * MIB - 1}"
        assert node.sent(digest) == MIB


def silent_after(monkeypatch: pytest.MonkeyPatch, node: Site, count: int) -> None:
    """The first transfer's silence counts, once it has brought `count` bytes; no other's does."""
    received = node.fills.counters
    silent_when(monkeypatch, lambda: node.gets() == 1 and received["received_bytes"] >= count)


async def test_a_stalled_transfer_is_taken_up_where_it_stood(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with site(tmp_path, silence=0.1) as node:
        silent_after(monkeypatch, node, MIB)
        content = GeneratedContent(4 * MIB)
        digest = node.parent.add_blob("demo", content)
        node.script(stall_after=MIB)
        assert await drain(node, digest) == content.read(0, content.size)
        assert node.ranges() == ["", f"bytes={MIB}-"]


async def test_a_dripping_transfer_is_taken_up_where_it_stood(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with site(tmp_path, silence=0.5) as node:
        silent_after(monkeypatch, node, MIB)
        content = GeneratedContent(4 * MIB)
        digest = node.parent.add_blob("demo", content)
        node.script(drip=50.0, drip_after=MIB)
        assert await drain(node, digest) == content.read(0, content.size)
        assert node.gets() == 2
        assert node.sent(digest) <= content.size + 64 * 1024


async def test_a_token_that_runs_out_in_the_middle_is_renewed_once(tmp_path: Path) -> None:
    async with site(tmp_path) as node:
        content = GeneratedContent(4 * MIB)
        digest = node.parent.add_blob("demo", content)
        node.parent.door.scheme = "bearer"
        # one GET without a token, one with; that one ends early, and its token with it
        node.script(skip=1, cut_after=MIB, expire=True)
        assert await drain(node, digest) == content.read(0, content.size)
        assert node.parent.door.made == 2
        assert node.sent(digest) == content.size


async def test_a_redirect_that_runs_out_in_the_middle_is_asked_for_again(tmp_path: Path) -> None:
    async with site(tmp_path) as node:
        content = GeneratedContent(4 * MIB)
        digest = content.digest
        node.parent.repository("demo")
        node.parent.add_blob("cdn", content)
        cdn = f"/v2/cdn/blobs/{digest}?signature="
        for number in range(4):
            place = ScriptedFault(method="GET", path="/v2/demo/", redirect=f"{cdn}{number}")
            node.parent.script(place)
        node.parent.script(
            ScriptedFault(method="GET", path="/v2/cdn/", cut_after=MIB),
            ScriptedFault(method="GET", path="/v2/cdn/", status=403),
        )
        assert await drain(node, digest) == content.read(0, content.size)
        assert node.parent.count("GET", "/v2/demo/") == 3
        assert node.sent(digest) == content.size


async def test_an_ignored_range_is_never_spliced(tmp_path: Path) -> None:
    async with site(tmp_path) as node:
        content = GeneratedContent(4 * MIB)
        digest = node.parent.add_blob("demo", content)
        node.parent.ranges = False
        node.script(cut_after=MIB)
        assert await drain(node, digest) == content.read(0, content.size)
        assert node.ranges()[:2] == ["", f"bytes={MIB}-"]
        assert node.gets() == 2  # the 200 is used: its first MiB is read and dropped
        assert node.fills.counters["unique_bytes"] == content.size


async def test_a_range_of_a_parent_that_knows_no_ranges(tmp_path: Path) -> None:
    async with site(tmp_path) as node:
        content = GeneratedContent(8 * MIB)
        digest = node.parent.add_blob("demo", content)
        node.parent.ranges = False
        body = await drain(node, digest, 2 * MIB, 3 * MIB, whole=False)
        assert body == content.read(2 * MIB, MIB)
        assert node.gets() == 1


@pytest.mark.parametrize("shift", [1, 4096])
async def test_a_wrong_content_range_is_never_spliced(tmp_path: Path, shift: int) -> None:
    async with site(tmp_path) as node:
        content = GeneratedContent(4 * MIB)
        digest = node.parent.add_blob("demo", content)
        node.script(cut_after=MIB)
        node.script(shift=shift)
        assert await drain(node, digest) == content.read(0, content.size)
        assert node.ranges() == ["", f"bytes={MIB}-", ""]
        assert node.held("demo", digest)


async def test_a_changed_etag_compares_what_came_before(tmp_path: Path) -> None:
    """Another cache node with the same bytes and another ETag: from 0, and nobody notices."""
    async with site(tmp_path) as node:
        content = GeneratedContent(4 * MIB)
        digest = node.parent.add_blob("demo", content)
        node.script(cut_after=MIB)
        resumed = RequestGate()
        node.script(gate=resumed)
        client = Drain(node, digest)
        task = asyncio.ensure_future(client.all())
        await resumed.wait_arrived()
        node.parent.etags[digest] = '"other"'
        resumed.release()
        assert await task == content.read(0, content.size)
        assert node.gets() == 2
        assert node.parent.log[-1].header("if-range") == f'"{digest}"'


async def test_a_changed_etag_over_other_bytes_ends_every_body(tmp_path: Path) -> None:
    async with site(tmp_path) as node:
        content = GeneratedContent(4 * MIB)
        digest = node.parent.add_blob("demo", content)
        node.script(cut_after=MIB, flip_at=10)
        resumed = RequestGate()
        node.script(gate=resumed)
        client = Drain(node, digest)
        task = asyncio.ensure_future(client.all())
        await resumed.wait_arrived()
        node.parent.etags[digest] = '"other"'
        resumed.release()
        with pytest.raises(ParentBroken):
            await task
        assert len(client.out) <= MIB
        await nothing_left(node, digest)
        assert await drain(node, digest) == content.read(0, content.size)


class Resized(HeldContent):
    """Served under a digest that is not its own."""

    def __init__(self, body: bytes, digest: str) -> None:
        super().__init__(body)
        self.digest = digest


async def test_a_changed_size_ends_every_body(tmp_path: Path) -> None:
    async with site(tmp_path) as node:
        content = GeneratedContent(4 * MIB)
        digest = node.parent.add_blob("demo", content)
        node.script(cut_after=MIB)
        resumed = RequestGate()
        node.script(gate=resumed)
        client = Drain(node, digest)
        task = asyncio.ensure_future(client.all())
        await resumed.wait_arrived()
        node.parent.repository("demo").blobs[digest] = Resized(content.read(0, 3 * MIB), digest)
        resumed.release()
        with pytest.raises(ParentBroken):
            await task
        await nothing_left(node, digest)


async def nothing_left(node: Site, digest: str) -> None:
    await until(lambda: not node.fills._by_number)
    assert not node.held("demo", digest)
    assert node.store.blobs.fills.states() == []
    assert node.store.statistics().open_parts == 0


@pytest.mark.parametrize("at", [0, -1])
async def test_s38_a_wrong_digest_never_completes_a_body_and_is_never_stored(tmp_path: Path, at: int) -> None:
    async with site(tmp_path) as node:
        content = GeneratedContent(3 * MIB)
        digest = node.parent.add_blob("demo", content)
        node.script(flip_at=at, times=2)
        for times in (1, 2):
            clients = [Drain(node, digest) for _ in range(3)]
            results = await asyncio.gather(*(c.all() for c in clients), return_exceptions=True)
            assert {type(r) for r in results} == {ParentBroken}
            assert max(len(c.out) for c in clients) <= content.size - (64 << 10)
            await nothing_left(node, digest)
            assert len(node.fills.troubles()) == times - 1
            assert node.gets() == times
        assert await drain(node, digest) == content.read(0, content.size)


async def test_wrong_bytes_that_nobody_saw_are_fetched_once_more(tmp_path: Path) -> None:
    async with site(tmp_path) as node:
        content = GeneratedContent(2 * MIB)
        digest = node.parent.add_blob("demo", content)
        node.script(flip_at=5, times=1)
        await node.fills.open("demo", digest, 0, -1, True)
        await until(lambda: node.held("demo", digest))
        assert node.gets() == 2
        assert node.fills.counters["mismatched"] == 1


async def test_five_tries_without_a_byte_fail_and_what_is_here_is_kept(tmp_path: Path) -> None:
    clock = FakeClock()
    async with site(tmp_path, clock=clock, on_leave="park") as node:
        content = GeneratedContent(4 * MIB)
        digest = node.parent.add_blob("demo", content)
        node.script(cut_after=2 * MIB, times=1)
        broken = node.script(cut_after=0, times=-1)
        client = Drain(node, digest)
        with pytest.raises(ParentFailed):
            await client.all()
        assert bytes(client.out) == content.read(0, 2 * MIB)
        assert broken.taken == TRIES
        broken.times = 0
        await until(lambda: all(fill.idle for fill in node.fills._by_origin.values()))
        assert await drain(node, digest) == content.read(0, content.size)
        assert node.ranges()[-1] == f"bytes={2 * MIB}-"


async def test_one_byte_at_a_time_is_progress(tmp_path: Path) -> None:
    async with site(tmp_path, clock=FakeClock()) as node:
        content = GeneratedContent(40)
        digest = node.parent.add_blob("demo", content)
        node.script(cut_after=1, times=-1)
        assert await drain(node, digest) == content.read(0, 40)
        assert node.gets() == 40


async def test_a_blob_that_vanishes_at_the_parent_fails_at_once(tmp_path: Path) -> None:
    async with site(tmp_path) as node:
        content = GeneratedContent(4 * MIB)
        digest = node.parent.add_blob("demo", content)
        node.script(cut_after=MIB)
        node.script(status=404)
        with pytest.raises(ParentNotFound):
            await drain(node, digest)
        assert node.gets() == 2


async def test_a_link_that_is_away_for_a_while_is_outlasted_without_a_reader(tmp_path: Path) -> None:
    """`finish`: the fill fails its tries, and goes on by itself when the parent is back."""
    clock = FakeClock(jump=False)
    async with site(tmp_path, clock=clock, on_leave="finish") as node:
        content = GeneratedContent(4 * MIB)
        digest = node.parent.add_blob("demo", content)
        node.script(cut_after=MIB)
        broken = node.script(status=404, times=1)
        client = Drain(node, digest)
        task = asyncio.ensure_future(client.all())
        await until(lambda: clock.sleepers > 0)
        while not task.done():
            clock.advance(1.0)
            await asyncio.sleep(0.001)
        assert isinstance(task.exception(), ParentFailed)
        assert broken.taken == 1
        await until(lambda: any(f.idle for f in node.fills._by_origin.values()))
        assert node.fills.troubles() == ["1 fill(s) wait for their parent"]
        while not node.held("demo", digest):
            clock.advance(1.0)
            await asyncio.sleep(0.001)
        assert node.sent(digest) == content.size


def test_patience_grows_to_a_limit_and_ends() -> None:
    patience, error = Patience(), ParentErred("busy", retry_after=7)
    assert patience.failed(error, 10, 10)
    assert patience.limit() < 1
    limits = []
    while patience.failed(error, 0, 10):
        limits.append(patience.limit())
    assert limits == [1.0, 2.0, 4.0, 8.0]
    assert Patience.least(error) == 7
    assert Patience.least(ParentErred("busy", retry_after=10**9)) == 300
    grown = 10
    for _ in range(20):  # others bring bytes meanwhile: no end, and no tight loop
        grown += 1
        assert patience.failed(error, 0, grown)
    assert patience.limit() == LONGEST_BACKOFF_SECONDS
    assert not patience.failed(ParentNotFound("gone"), 5, 100)


async def test_a_parent_known_to_be_away_is_not_waited_for(tmp_path: Path) -> None:
    """Half a blob is no promise: 503 at once, while the half that is here is served."""
    async with site(tmp_path, on_leave="park") as node:
        content = GeneratedContent(8 * MIB)
        digest = node.parent.add_blob("demo", content)
        await drain(node, digest, 0, 4 * MIB, whole=False)
        for endpoint in node.client.endpoints:
            endpoint.health.state = "offline"
        with pytest.raises(ParentUnreachable) as refusal:
            await drain(node, digest)
        assert refusal.value.retry_after == 10
        body = await drain(node, digest, MIB, 2 * MIB, whole=False)
        assert body == content.read(MIB, MIB)
        assert node.gets() == 1


async def test_a_store_that_takes_no_more_blobs_does_not_spoil_the_body(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with site(tmp_path) as node:
        content = GeneratedContent(2 * MIB)
        digest = node.parent.add_blob("demo", content)

        def full(*_: object, **__: object) -> Future[None]:
            refused: Future[None] = Future()
            refused.set_exception(Exhausted("the index is full"))
            return refused

        monkeypatch.setattr(node.store.blobs.fills, "commit", full)
        monkeypatch.setattr(node.store.blobs.fills, "checkpoint", full)
        assert await drain(node, digest) == content.read(0, content.size)
        await nothing_left(node, digest)
        assert list((tmp_path / "store" / "fills").iterdir()) == []
