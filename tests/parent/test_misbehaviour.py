"""Every misbehaviour in reliability.md, P1 to P17, that the parent client sees, row by row."""

from __future__ import annotations

import asyncio
import json

import pytest
from holdfast.errors import (
    ParentBroken,
    ParentErred,
    ParentNotFound,
    ParentThrottled,
    ParentUnreachable,
)
from holdfast.http.body import BodyPace
from holdfast.http.transport import HttpAnswer
from holdfast.oci.manifest import OCI_INDEX, OCI_MANIFEST
from holdfast.parent.client import BlobStream, Parent
from holdfast.testing.fault import RequestGate, ScriptedFault
from holdfast.testing.manual_clock import FakeClock
from holdfast.testing.random_content import digest_of
from holdfast.testing.scripted_parent import ScriptedParent
from support.parent_cases import BLOB, IMAGE, client_of, read_all, stocked

pytestmark = pytest.mark.loop("asyncio")

# ---- one row after another


async def test_429_waits_as_told_and_then_succeeds() -> None:
    async with ScriptedParent() as scripted:
        stocked(scripted)
        clock = FakeClock(share=0.5)
        scripted.script(ScriptedFault(status=429, headers=[("Retry-After", "7")]))
        async with client_of(scripted, clock) as parent:
            await parent.get_manifest("team/app", "v1")
            assert parent.counters["throttled"] == 1
        assert clock.slept == [7.5]
        assert scripted.count() == 2


@pytest.mark.parametrize(
    ("value", "told"),
    [("1000000000", 300), ("99999999999999999999", 300), ("Fri, 15 Jan 2027 08:01:40 GMT", 100)],
)
async def test_429_beyond_the_budget_is_refused_at_once_and_the_parent_left_alone(
    value: str, told: int
) -> None:
    async with ScriptedParent() as scripted:
        stocked(scripted)
        clock = FakeClock()
        scripted.script(ScriptedFault(status=429, headers=[("Retry-After", value)]))
        async with client_of(scripted, clock) as parent:
            for _ in range(10):
                with pytest.raises(ParentThrottled) as refused:
                    await parent.get_manifest("team/app", "v1")
                assert refused.value.retry_after == told
            assert scripted.count() == 1
            assert clock.slept == []
            clock.advance(told + 1)
            await parent.get_manifest("team/app", "v1")
        assert scripted.count() == 2


@pytest.mark.parametrize("status", [500, 502, 503, 504])
async def test_5xx_is_tried_five_times_with_growing_waits_and_then_left_for_30_s(status: int) -> None:
    async with ScriptedParent() as scripted:
        stocked(scripted)
        clock = FakeClock()
        scripted.script(ScriptedFault(status=status, times=-1))
        async with client_of(scripted, clock) as parent:
            with pytest.raises(ParentErred):
                await parent.get_manifest("team/app", "v1")
            assert scripted.count() == 5
            assert clock.slept == [0.5, 1.0, 2.0, 4.0]
            with pytest.raises(ParentErred) as refused:
                await parent.get_manifest("team/app", "v1")
            assert refused.value.retry_after == 30
            assert scripted.count() == 5
            assert parent.state == "degraded"
            scripted.faults.clear()
            clock.advance(31)
            await parent.get_manifest("team/app", "v1")
            assert parent.counters["retries"] == 4


async def test_one_broken_repository_does_not_stop_the_others() -> None:
    async with ScriptedParent() as scripted:
        stocked(scripted)
        scripted.script(ScriptedFault(path="/bad/", status=500, times=-1))
        async with client_of(scripted) as parent:
            with pytest.raises(ParentErred):
                await parent.get_manifest("bad/app", "v1")
            await parent.get_manifest("team/app", "v1")


async def test_5xx_twice_then_good() -> None:
    async with ScriptedParent() as scripted:
        stocked(scripted)
        scripted.script(ScriptedFault(status=503, times=2))
        async with client_of(scripted) as parent:
            await parent.get_manifest("team/app", "v1")
            assert await read_all(parent, "team/app", BLOB.digest) == BLOB.read(0, BLOB.size)
        assert scripted.count("GET", "/manifests/") == 3


@pytest.mark.parametrize("reset", [False, True])
async def test_a_cut_body_raises_after_what_came_and_resumes_by_range(reset: bool) -> None:
    async with ScriptedParent() as scripted:
        stocked(scripted)
        scripted.script(ScriptedFault(path="/blobs/", cut_after=150_000, reset=reset))
        got = bytearray()
        async with client_of(scripted) as parent:
            async with parent.get_blob("team/app", BLOB.digest) as stream:
                etag = stream.etag
                with pytest.raises(ParentUnreachable):
                    await _collect(stream, got)
            assert len(got) <= 150_000
            async with parent.get_blob("team/app", BLOB.digest, start=len(got), etag=etag) as rest:
                assert rest.partial
                got += b"".join([p async for p in rest])
        assert bytes(got) == BLOB.read(0, BLOB.size)
        assert scripted.log[-1].header("if-range") == etag


async def test_range_ignored_is_told_not_spliced() -> None:
    async with ScriptedParent() as scripted:
        stocked(scripted)
        scripted.ranges = False
        async with (
            client_of(scripted) as parent,
            parent.get_blob("team/app", BLOB.digest, start=5000) as stream,
        ):
            assert (stream.start, stream.partial, stream.size) == (0, False, BLOB.size)


async def test_changed_etag_gives_the_whole_blob() -> None:
    async with ScriptedParent() as scripted:
        stocked(scripted)
        async with client_of(scripted) as parent:
            async with parent.get_blob("team/app", BLOB.digest) as first:
                etag = first.etag
            scripted.etags[BLOB.digest] = '"changed"'
            async with parent.get_blob("team/app", BLOB.digest, start=5000, etag=etag) as stream:
                assert (stream.start, stream.partial, stream.etag) == (0, False, '"changed"')


async def test_a_weak_etag_is_never_sent_back() -> None:
    async with ScriptedParent() as scripted:
        stocked(scripted)
        scripted.etags[BLOB.digest] = 'W/"weak"'
        async with client_of(scripted) as parent, parent.get_blob("team/app", BLOB.digest) as stream:
            assert stream.etag == ""


@pytest.mark.parametrize(
    "fault",
    [
        ScriptedFault(path="/blobs/", shift=1),
        ScriptedFault(path="/blobs/", headers=[("Content-Range", "")]),
        ScriptedFault(path="/blobs/", headers=[("Content-Range", "bytes 1000-1999/*")]),
        ScriptedFault(path="/blobs/", headers=[("Content-Range", "bytes 1000-1998/300000")]),
        ScriptedFault(path="/blobs/", headers=[("Content-Range", "bytes 0-999/300000")]),
        ScriptedFault(path="/blobs/", headers=[("Content-Range", "chunks 1000-1999/300000")]),
        ScriptedFault(path="/blobs/", status=416),
        ScriptedFault(path="/blobs/", gzip=True),
        ScriptedFault(path="/blobs/", status=204),
    ],
)
async def test_an_answer_to_another_question_is_broken(fault: ScriptedFault) -> None:
    async with ScriptedParent() as scripted:
        stocked(scripted)
        scripted.script(fault)
        async with client_of(scripted) as parent:
            with pytest.raises(ParentBroken):
                await read_all(parent, "team/app", BLOB.digest, start=1000, end=2000)
        assert scripted.count() == 1


async def test_s43_gzipped_blob_and_manifest_are_refused() -> None:
    async with ScriptedParent() as scripted:
        stocked(scripted)
        scripted.script(ScriptedFault(gzip=True, times=-1))
        async with client_of(scripted) as parent:
            with pytest.raises(ParentBroken):
                await read_all(parent, "team/app", BLOB.digest)
            with pytest.raises(ParentBroken):
                await parent.get_manifest("team/app", "v1")


async def test_more_bytes_than_announced_are_not_yielded() -> None:
    async with ScriptedParent() as scripted:
        stocked(scripted)
        scripted.script(ScriptedFault(path="/blobs/", surplus=5000))
        async with client_of(scripted) as parent:
            assert await read_all(parent, "team/app", BLOB.digest) == BLOB.read(0, BLOB.size)
            # the surplus must not be taken for the next answer either
            await parent.get_manifest("team/app", "v1")


async def test_endless_chunked_blob_is_refused_for_its_missing_length() -> None:
    async with ScriptedParent() as scripted:
        stocked(scripted)
        scripted.script(ScriptedFault(path="/blobs/", endless="body"))
        async with client_of(scripted) as parent:
            with pytest.raises(ParentBroken):
                await read_all(parent, "team/app", BLOB.digest)
            assert parent.counters["bytes"] == 0


async def test_endless_chunked_range_stops_at_what_it_announced() -> None:
    async with ScriptedParent() as scripted:
        stocked(scripted)
        scripted.script(ScriptedFault(path="/blobs/", endless="body"))
        got = bytearray()
        async with client_of(scripted) as parent:
            with pytest.raises(ParentBroken):
                await _collect_from(parent, got, start=0, end=100_000)
        assert len(got) <= 100_000


@pytest.mark.parametrize("kind", ["headers", "line"])
async def test_s42_endless_headers_are_cut_off(kind: str) -> None:
    async with ScriptedParent() as scripted:
        stocked(scripted)
        scripted.script(ScriptedFault(endless=kind))
        async with client_of(scripted) as parent:
            with pytest.raises(ParentBroken):
                await parent.get_manifest("team/app", "v1")
            await parent.get_manifest("team/app", "v1")


async def test_s42_endless_manifest_is_cut_off_at_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    read, real = list[int](), HttpAnswer.next_bytes

    async def counted(self: HttpAnswer, pace: BodyPace) -> bytes | memoryview:
        piece = await real(self, pace)
        read.append(len(piece))
        return piece

    monkeypatch.setattr(HttpAnswer, "next_bytes", counted)
    async with ScriptedParent() as scripted:
        stocked(scripted)
        scripted.script(ScriptedFault(endless="body"))
        async with client_of(scripted) as parent:
            with pytest.raises(ParentBroken, match="8388608"):
                await parent.get_manifest("team/app", "v1")
        assert 8_388_608 < sum(read) < 10_000_000


async def test_manifest_over_the_limit_is_refused_by_its_length() -> None:
    async with ScriptedParent() as scripted:
        scripted.add_manifest("a", b" " * ((8 << 20) + 1), OCI_MANIFEST, "big")
        async with client_of(scripted) as parent:
            with pytest.raises(ParentBroken):
                await parent.get_manifest("a", "big")
            assert parent.counters["requests"] == 1


async def test_a_manifest_of_5_mib_is_legal() -> None:
    async with ScriptedParent() as scripted:
        document = {**json.loads(IMAGE), "annotations": {"filler": "x" * (5 << 20)}}
        scripted.add_manifest("a", json.dumps(document).encode(), OCI_MANIFEST, "big")
        async with client_of(scripted) as parent:
            assert len((await parent.get_manifest("a", "big")).body) > 5 << 20


async def test_s38_wrong_byte_in_a_manifest() -> None:
    async with ScriptedParent() as scripted:
        digest = stocked(scripted)
        scripted.script(ScriptedFault(flip_at=-1, times=2))
        async with client_of(scripted) as parent:
            for reference in ("v1", digest):
                with pytest.raises(ParentBroken, match="hashes to"):
                    await parent.get_manifest("team/app", reference)
            assert parent.counters["mismatches"] == 2


async def test_drip_is_aborted() -> None:
    async with ScriptedParent() as scripted:
        stocked(scripted)
        scripted.script(ScriptedFault(path="/blobs/", drip=40, drip_after=10))
        async with client_of(scripted, _Real(), stall_timeout=0.3) as parent:
            with pytest.raises(ParentUnreachable, match=r"bytes in 0\.3 s"):
                await read_all(parent, "team/app", BLOB.digest)
            assert parent.counters["interrupted"] == 1


async def test_stall_is_aborted() -> None:
    async with ScriptedParent() as scripted:
        stocked(scripted)
        scripted.script(ScriptedFault(path="/blobs/", stall_after=1000))
        async with client_of(scripted, stall_timeout=0.1) as parent:
            with pytest.raises(ParentUnreachable):
                await read_all(parent, "team/app", BLOB.digest)


@pytest.mark.parametrize("reset", [False, True])
async def test_dropped_before_the_answer_is_tried_again(reset: bool) -> None:
    async with ScriptedParent() as scripted:
        stocked(scripted)
        scripted.script(ScriptedFault(drop=True, reset=reset))
        async with client_of(scripted) as parent:
            await parent.get_manifest("team/app", "v1")
        assert scripted.count() == 2


async def test_no_answer_in_time() -> None:
    async with ScriptedParent() as scripted:
        stocked(scripted)
        gate = RequestGate()
        scripted.script(ScriptedFault(gate=gate, times=-1))
        async with client_of(scripted, answer_timeout=0.2) as parent:
            with pytest.raises(ParentUnreachable):
                await parent.get_manifest("team/app", "v1")
        gate.release()


@pytest.mark.parametrize(
    "body",
    [
        b"not json",
        b"[]",
        b"[" * 100_000,
        b'{"a":' * 5_000 + b"1" + b"}" * 5_000,
        IMAGE.replace(b'"layers"', b'"layers": [], "layers"'),
        IMAGE.replace(b'"layers"', b'"Layers": [], "layers"'),
        IMAGE.replace(b'"layers"', b'"manifests": [], "layers"'),
        IMAGE.replace(b'"schemaVersion": 2', b'"schemaVersion": 1'),
        IMAGE.replace(OCI_MANIFEST.encode(), OCI_INDEX.encode()),
        IMAGE.replace(b'"size": 2', b'"size": -1'),
        IMAGE.replace(b"sha256:", b"sha256:../"),
    ],
)
async def test_s39_s41_ambiguous_manifests_and_bombs_are_broken(body: bytes) -> None:
    async with ScriptedParent() as scripted:
        digest = scripted.add_manifest("a", body, OCI_MANIFEST, "v1")
        async with client_of(scripted) as parent:
            for reference in ("v1", digest):
                with pytest.raises(ParentBroken):
                    await parent.get_manifest("a", reference)


@pytest.mark.parametrize("media_type", ["text/html", OCI_INDEX, "application/vnd.oci.image.config.v1+json"])
async def test_s39_wrong_media_type_is_broken(media_type: str) -> None:
    async with ScriptedParent() as scripted:
        scripted.add_manifest("a", IMAGE, media_type, "v1")
        async with client_of(scripted) as parent:
            with pytest.raises(ParentBroken):
                await parent.get_manifest("a", "v1")


async def test_head_and_get_disagree_the_hashed_get_wins() -> None:
    async with ScriptedParent() as scripted:
        digest = stocked(scripted)
        other = digest_of(b"other")
        scripted.script(ScriptedFault(method="HEAD", headers=[("Docker-Content-Digest", other)]))
        async with client_of(scripted) as parent:
            assert (await parent.head_manifest("team/app", "v1")).digest == other
            assert (await parent.get_manifest("team/app", "v1")).digest == digest


@pytest.mark.parametrize("said", ["", "sha384:" + "a" * 96])
async def test_no_usable_digest_header_is_no_harm(said: str) -> None:
    async with ScriptedParent() as scripted:
        digest = stocked(scripted)
        scripted.script(ScriptedFault(headers=[("Docker-Content-Digest", said)], times=-1))
        async with client_of(scripted) as parent:
            assert (await parent.get_manifest("team/app", "v1")).digest == digest
            assert (await parent.head_manifest("team/app", "v1")).digest is None


async def test_s44_a_digest_header_that_lies_is_broken_by_tag() -> None:
    async with ScriptedParent() as scripted:
        stocked(scripted)
        for said in (digest_of(b"x"), "nonsense", "sha256:../../etc"):
            scripted.script(ScriptedFault(headers=[("Docker-Content-Digest", said)]))
        async with client_of(scripted) as parent:
            for _ in range(3):
                with pytest.raises(ParentBroken):
                    await parent.get_manifest("team/app", "v1")


async def test_flipping_tag_each_answer_is_consistent() -> None:
    async with ScriptedParent() as scripted:
        first = stocked(scripted)
        second = scripted.add_manifest("team/app", IMAGE + b"\n", OCI_MANIFEST)
        scripted.repositories["team/app"].tags["v1"] = [first, second]
        seen = set()
        async with client_of(scripted) as parent:
            for _ in range(4):
                found = await parent.get_manifest("team/app", "v1")
                assert digest_of(found.body) == found.digest
                seen.add(found.digest)
        assert seen == {first, second}


async def test_foreign_layer_urls_are_never_fetched() -> None:
    async with ScriptedParent() as scripted, ScriptedParent() as canary:
        document = json.loads(IMAGE)
        document["layers"] = [
            {
                "mediaType": "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip",
                "digest": BLOB.digest,
                "size": BLOB.size,
                "urls": [f"{canary.url}/secret"],
            }
        ]
        scripted.add_manifest("a", json.dumps(document).encode(), OCI_MANIFEST, "v1")
        async with client_of(scripted) as parent:
            found = await parent.get_manifest("a", "v1")
            assert found.inspected.children[1].urls
            with pytest.raises(ParentNotFound):
                await read_all(parent, "a", BLOB.digest)
        assert canary.connections_made == 0


# ---- support


class _Real(FakeClock):
    """Sleeps jump, but `monotonic` is the event loop's: for rules that measure real bytes."""

    def monotonic(self) -> float:
        return asyncio.get_running_loop().time()


async def _collect(stream: BlobStream, got: bytearray) -> None:
    async for piece in stream:
        got += piece


async def _collect_from(parent: Parent, got: bytearray, **options: int) -> None:
    async with parent.get_blob("team/app", BLOB.digest, start=options["start"], end=options["end"]) as stream:
        await _collect(stream, got)
