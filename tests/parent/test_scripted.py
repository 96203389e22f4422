"""The scripted parent itself, as an ordinary client sees it, and the fake clock."""

from __future__ import annotations

import asyncio
import hashlib
import json
import urllib.error
import urllib.request

import pytest
from holdfast.testing.fault import ScriptedFault
from holdfast.testing.manual_clock import FakeClock
from holdfast.testing.random_content import GeneratedContent
from holdfast.testing.sample import build_sample
from holdfast.testing.scripted_parent import ScriptedParent
from holdfast.testing.scripted_process import scripted_process
from support.patience import PATIENCE

pytestmark = pytest.mark.loop("asyncio")


def test_generated_bytes_are_the_same_at_any_offset() -> None:
    content = GeneratedContent(3_000_001, "x")
    whole = content.read(0, content.size)
    assert len(whole) == content.size
    assert content.digest == f"sha256:{hashlib.sha256(whole).hexdigest()}"
    for offset, length in ((0, 1), (63, 130), (1_048_575, 2), (3_000_000, 100), (3_000_001, 5)):
        assert content.read(offset, length) == whole[offset : offset + length]
    assert GeneratedContent(100, "y").read(0, 100) != whole[:100]


def test_sample_is_whole_and_the_same_each_time() -> None:
    sample = build_sample("demo")
    assert sample == build_sample("demo")
    assert sample.index in {digest for digest, _, _ in sample.manifests}
    for digest, body in sample.blobs.items():
        assert digest == f"sha256:{hashlib.sha256(body).hexdigest()}"
    known = set(sample.blobs) | {digest for digest, _, _ in sample.manifests}
    for _, _, body in sample.manifests:
        document = json.loads(body)
        children = document.get("manifests") or [document["config"], *document["layers"]]
        assert {child["digest"] for child in children} <= known


async def exchange(scripted: ScriptedParent, head: str) -> bytes:
    """Send one raw request and read to the end."""
    reader, writer = await asyncio.open_connection("127.0.0.1", scripted.port)
    writer.write(head.encode())
    try:
        return await reader.read()
    except ConnectionResetError:
        return b"reset"
    finally:
        writer.close()


GET = "GET /v2/a/blobs/{digest} HTTP/1.1\r\nHost: x\r\n\r\n"


@pytest.mark.parametrize(
    ("fault", "body"),
    [
        (ScriptedFault(cut_after=10), 10),
        (ScriptedFault(cut_after=0), 0),
        (ScriptedFault(cut_after=1000, surplus=5), 1005),
    ],
)
async def test_cuts_are_exact(fault: ScriptedFault, body: int) -> None:
    async with ScriptedParent() as scripted:
        digest = scripted.add_blob("a", GeneratedContent(2000, "cut"))
        scripted.script(fault)
        answer = await exchange(scripted, GET.format(digest=digest))
        head, _, rest = answer.partition(b"\r\n\r\n")
        assert b"Content-Length: 2000" in head
        assert len(rest) == body


async def test_drop_and_offline_answer_nothing() -> None:
    async with ScriptedParent() as scripted:
        scripted.script(ScriptedFault(drop=True), ScriptedFault(drop=True, reset=True))
        assert await exchange(scripted, GET.format(digest="x")) == b""
        assert await exchange(scripted, GET.format(digest="x")) == b"reset"
        scripted.offline = True
        assert await exchange(scripted, GET.format(digest="x")) == b"reset"
        assert scripted.count() == 2


def test_faults_are_taken_in_order_skipping_and_for_some_times() -> None:
    first, second = (
        ScriptedFault(path="/a/", skip=1, times=2, status=500),
        ScriptedFault(method="GET", times=-1, status=404),
    )
    taken = []
    for method, path in [("HEAD", "/a/"), ("HEAD", "/a/"), ("GET", "/b/"), ("GET", "/a/"), ("GET", "/a/")]:
        taken.append(next((f.status for f in (first, second) if f.takes(method, path)), 0))
    assert taken == [0, 500, 404, 500, 404]
    assert (first.taken, second.taken) == (2, 2)


async def test_the_link_is_shared_by_all_connections() -> None:
    async with ScriptedParent() as scripted:
        digest = scripted.add_blob("a", GeneratedContent(40_000, "rate"))
        scripted.pace.rate = 200_000.0
        started = asyncio.get_running_loop().time()
        head = GET.format(digest=digest).replace("\r\n\r\n", "\r\nConnection: close\r\n\r\n")
        scripted.script(ScriptedFault(cut_after=40_000, times=-1))
        await asyncio.gather(*(exchange(scripted, head) for _ in range(2)))
        # 80,000 bytes at 200,000 a second cannot pass sooner than this
        assert asyncio.get_running_loop().time() - started >= 0.35


@pytest.mark.parametrize("more", [(), ("--held",)])
def test_as_a_program(more: tuple[str, ...]) -> None:
    with scripted_process("--sample", "demo:v1", "--blob", "demo=100000:s", *more) as scripted:
        digest = scripted.hello["blobs"]["demo=100000:s"]
        assert digest == GeneratedContent(100_000, "s").digest
        with urllib.request.urlopen(f"{scripted.url}/v2/demo/blobs/{digest}", timeout=PATIENCE) as answer:
            assert hashlib.sha256(answer.read()).hexdigest() in digest
        scripted.script(ScriptedFault(path="/tags/", status=503))
        with pytest.raises(urllib.error.HTTPError) as refused:
            urllib.request.urlopen(f"{scripted.url}/v2/demo/tags/list", timeout=PATIENCE)
        refused.value.close()
        stats = scripted.stats()
        assert stats["bytes"][digest] == 100_000
        assert stats["taken"] == [1]
        assert stats["requests"]["GET /v2/demo/tags/list"] == 1
        scripted.control("settings", {"page_size": 3, "rate": 1e9, "door": {"scheme": "bearer"}})
        with pytest.raises(urllib.error.HTTPError) as unknown:
            scripted.control("settings", {"nonsense": 1})
        unknown.value.close()
        assert unknown.value.code == 400


# ---- the clock


async def test_a_jumping_clock_takes_no_time() -> None:
    clock = FakeClock(jump=True)
    await clock.sleep(3600)
    await clock.sleep(1)
    assert (clock.monotonic(), clock.slept) == (3601, [3600, 1])
    assert clock.jitter(4.0) == 4.0


async def test_a_standing_clock_wakes_in_order() -> None:
    clock, woken = FakeClock(jump=False), []

    async def sleeper(seconds: float) -> None:
        await clock.sleep(seconds)
        woken.append(seconds)

    async with asyncio.TaskGroup() as tasks:
        for seconds in (3, 1, 2):
            tasks.create_task(sleeper(seconds))
        while clock.sleepers < 3:
            await asyncio.sleep(0)
        clock.advance(2)
        while len(woken) < 2:
            await asyncio.sleep(0)
        assert woken == [1, 2]
        assert clock.sleepers == 1
        clock.step(-86_400)
        assert clock.monotonic() == 2
        clock.advance(1)
