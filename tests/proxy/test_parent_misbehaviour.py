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
from holdfast.manifest import OCI_INDEX, OCI_MANIFEST
from holdfast.parent.client import BlobStream, Parent
from holdfast.testing.clock import FakeClock
from holdfast.testing.content import digest_of
from holdfast.testing.fault import Fault, Gate
from holdfast.testing.scripted_parent import ScriptedParent
from support.parent_cases import BLOB, IMAGE, client_of, read_all, run, stocked

# ---- one row after another


def test_429_waits_as_told_and_then_succeeds() -> None:
    async def case(scripted: ScriptedParent) -> None:
        stocked(scripted)
        clock = FakeClock(share=0.5)
        scripted.script(Fault(status=429, headers=[("Retry-After", "7")]))
        async with client_of(scripted, clock) as parent:
            await parent.get_manifest("team/app", "v1")
            assert parent.counters["throttled"] == 1
        assert clock.slept == [7.5]
        assert scripted.count() == 2

    run(case)


@pytest.mark.parametrize(
    ("value", "told"),
    [("1000000000", 300), ("99999999999999999999", 300), ("Fri, 15 Jan 2027 08:01:40 GMT", 100)],
)
def test_429_beyond_the_budget_is_refused_at_once_and_the_parent_left_alone(value: str, told: int) -> None:
    async def case(scripted: ScriptedParent) -> None:
        stocked(scripted)
        clock = FakeClock()
        scripted.script(Fault(status=429, headers=[("Retry-After", value)]))
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

    run(case)


@pytest.mark.parametrize("status", [500, 502, 503, 504])
def test_5xx_is_tried_five_times_with_growing_waits_and_then_left_for_30_s(status: int) -> None:
    async def case(scripted: ScriptedParent) -> None:
        stocked(scripted)
        clock = FakeClock()
        scripted.script(Fault(status=status, times=-1))
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

    run(case)


def test_one_broken_repository_does_not_stop_the_others() -> None:
    async def case(scripted: ScriptedParent) -> None:
        stocked(scripted)
        scripted.script(Fault(path="/bad/", status=500, times=-1))
        async with client_of(scripted) as parent:
            with pytest.raises(ParentErred):
                await parent.get_manifest("bad/app", "v1")
            await parent.get_manifest("team/app", "v1")

    run(case)


def test_5xx_twice_then_good() -> None:
    async def case(scripted: ScriptedParent) -> None:
        stocked(scripted)
        scripted.script(Fault(status=503, times=2))
        async with client_of(scripted) as parent:
            await parent.get_manifest("team/app", "v1")
            assert await read_all(parent, "team/app", BLOB.digest) == BLOB.read(0, BLOB.size)
        assert scripted.count("GET", "/manifests/") == 3

    run(case)


@pytest.mark.parametrize("reset", [False, True])
def test_a_cut_body_raises_after_what_came_and_resumes_by_range(reset: bool) -> None:
    async def case(scripted: ScriptedParent) -> None:
        stocked(scripted)
        scripted.script(Fault(path="/blobs/", cut_after=150_000, reset=reset))
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

    run(case)


def test_range_ignored_is_told_not_spliced() -> None:
    async def case(scripted: ScriptedParent) -> None:
        stocked(scripted)
        scripted.ranges = False
        async with (
            client_of(scripted) as parent,
            parent.get_blob("team/app", BLOB.digest, start=5000) as stream,
        ):
            assert (stream.start, stream.partial, stream.size) == (0, False, BLOB.size)

    run(case)


def test_changed_etag_gives_the_whole_blob() -> None:
    async def case(scripted: ScriptedParent) -> None:
        stocked(scripted)
        async with client_of(scripted) as parent:
            async with parent.get_blob("team/app", BLOB.digest) as first:
                etag = first.etag
            scripted.etags[BLOB.digest] = '"changed"'
            async with parent.get_blob("team/app", BLOB.digest, start=5000, etag=etag) as stream:
                assert (stream.start, stream.partial, stream.etag) == (0, False, '"changed"')

    run(case)


def test_a_weak_etag_is_never_sent_back() -> None:
    async def case(scripted: ScriptedParent) -> None:
        stocked(scripted)
        scripted.etags[BLOB.digest] = 'W/"weak"'
        async with client_of(scripted) as parent, parent.get_blob("team/app", BLOB.digest) as stream:
            assert stream.etag == ""

    run(case)


@pytest.mark.parametrize(
    "fault",
    [
        Fault(path="/blobs/", shift=1),
        Fault(path="/blobs/", headers=[("Content-Range", "")]),
        Fault(path="/blobs/", headers=[("Content-Range", "bytes 1000-1999/*")]),
        Fault(path="/blobs/", headers=[("Content-Range", "bytes 1000-1998/300000")]),
        Fault(path="/blobs/", headers=[("Content-Range", "bytes 0-999/300000")]),
        Fault(path="/blobs/", headers=[("Content-Range", "chunks 1000-1999/300000")]),
        Fault(path="/blobs/", status=416),
        Fault(path="/blobs/", gzip=True),
        Fault(path="/blobs/", status=204),
    ],
)
def test_an_answer_to_another_question_is_broken(fault: Fault) -> None:
    async def case(scripted: ScriptedParent) -> None:
        stocked(scripted)
        scripted.script(fault)
        async with client_of(scripted) as parent:
            with pytest.raises(ParentBroken):
                await read_all(parent, "team/app", BLOB.digest, start=1000, end=2000)
        assert scripted.count() == 1

    run(case)


def test_gzipped_blob_and_manifest_are_refused() -> None:
    async def case(scripted: ScriptedParent) -> None:
        stocked(scripted)
        scripted.script(Fault(gzip=True, times=-1))
        async with client_of(scripted) as parent:
            with pytest.raises(ParentBroken):
                await read_all(parent, "team/app", BLOB.digest)
            with pytest.raises(ParentBroken):
                await parent.get_manifest("team/app", "v1")

    run(case)


def test_more_bytes_than_announced_are_not_yielded() -> None:
    async def case(scripted: ScriptedParent) -> None:
        stocked(scripted)
        scripted.script(Fault(path="/blobs/", surplus=5000))
        async with client_of(scripted) as parent:
            assert await read_all(parent, "team/app", BLOB.digest) == BLOB.read(0, BLOB.size)
            # the surplus must not be taken for the next answer either
            await parent.get_manifest("team/app", "v1")

    run(case)


def test_endless_chunked_blob_is_refused_for_its_missing_length() -> None:
    async def case(scripted: ScriptedParent) -> None:
        stocked(scripted)
        scripted.script(Fault(path="/blobs/", endless="body"))
        async with client_of(scripted) as parent:
            with pytest.raises(ParentBroken):
                await read_all(parent, "team/app", BLOB.digest)
            assert parent.counters["bytes"] == 0

    run(case)


def test_endless_chunked_range_stops_at_what_it_announced() -> None:
    async def case(scripted: ScriptedParent) -> None:
        stocked(scripted)
        scripted.script(Fault(path="/blobs/", endless="body"))
        got = bytearray()
        async with client_of(scripted) as parent:
            with pytest.raises(ParentBroken):
                await _collect_from(parent, got, start=0, end=100_000)
        assert len(got) <= 100_000

    run(case)


@pytest.mark.parametrize("kind", ["headers", "line"])
def test_endless_headers_are_cut_off(kind: str) -> None:
    async def case(scripted: ScriptedParent) -> None:
        stocked(scripted)
        scripted.script(Fault(endless=kind))
        async with client_of(scripted) as parent:
            with pytest.raises(ParentBroken):
                await parent.get_manifest("team/app", "v1")
            await parent.get_manifest("team/app", "v1")

    run(case)


def test_endless_manifest_is_cut_off_at_the_limit() -> None:
    async def case(scripted: ScriptedParent) -> None:
        stocked(scripted)
        scripted.script(Fault(endless="body"))
        async with client_of(scripted) as parent:
            with pytest.raises(ParentBroken, match="8388608"):
                await parent.get_manifest("team/app", "v1")

    run(case)


def test_manifest_over_the_limit_is_refused_by_its_length() -> None:
    async def case(scripted: ScriptedParent) -> None:
        scripted.add_manifest("a", b" " * ((8 << 20) + 1), OCI_MANIFEST, "big")
        async with client_of(scripted) as parent:
            with pytest.raises(ParentBroken):
                await parent.get_manifest("a", "big")
            assert parent.counters["requests"] == 1

    run(case)


def test_a_manifest_of_5_mib_is_legal() -> None:
    async def case(scripted: ScriptedParent) -> None:
        document = {**json.loads(IMAGE), "annotations": {"filler": "x" * (5 << 20)}}
        scripted.add_manifest("a", json.dumps(document).encode(), OCI_MANIFEST, "big")
        async with client_of(scripted) as parent:
            assert len((await parent.get_manifest("a", "big")).body) > 5 << 20

    run(case)


def test_wrong_byte_in_a_manifest() -> None:
    async def case(scripted: ScriptedParent) -> None:
        digest = stocked(scripted)
        scripted.script(Fault(flip_at=-1, times=2))
        async with client_of(scripted) as parent:
            for reference in ("v1", digest):
                with pytest.raises(ParentBroken, match="hashes to"):
                    await parent.get_manifest("team/app", reference)
            assert parent.counters["mismatches"] == 2

    run(case)


def test_drip_is_aborted() -> None:
    async def case(scripted: ScriptedParent) -> None:
        stocked(scripted)
        scripted.script(Fault(path="/blobs/", drip=40, drip_after=10))
        async with client_of(scripted, _Real(), stall_timeout=0.3) as parent:
            with pytest.raises(ParentUnreachable, match=r"bytes in 0\.3 s"):
                await read_all(parent, "team/app", BLOB.digest)
            assert parent.counters["interrupted"] == 1

    run(case)


def test_stall_is_aborted() -> None:
    async def case(scripted: ScriptedParent) -> None:
        stocked(scripted)
        scripted.script(Fault(path="/blobs/", stall_after=1000))
        async with client_of(scripted, stall_timeout=0.1) as parent:
            with pytest.raises(ParentUnreachable):
                await read_all(parent, "team/app", BLOB.digest)

    run(case)


@pytest.mark.parametrize("reset", [False, True])
def test_dropped_before_the_answer_is_tried_again(reset: bool) -> None:
    async def case(scripted: ScriptedParent) -> None:
        stocked(scripted)
        scripted.script(Fault(drop=True, reset=reset))
        async with client_of(scripted) as parent:
            await parent.get_manifest("team/app", "v1")
        assert scripted.count() == 2

    run(case)


def test_no_answer_in_time() -> None:
    async def case(scripted: ScriptedParent) -> None:
        stocked(scripted)
        gate = Gate()
        scripted.script(Fault(gate=gate, times=-1))
        async with client_of(scripted, answer_timeout=0.2) as parent:
            with pytest.raises(ParentUnreachable):
                await parent.get_manifest("team/app", "v1")
        gate.release()

    run(case)


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
def test_ambiguous_manifests_and_bombs_are_broken(body: bytes) -> None:
    async def case(scripted: ScriptedParent) -> None:
        digest = scripted.add_manifest("a", body, OCI_MANIFEST, "v1")
        async with client_of(scripted) as parent:
            for reference in ("v1", digest):
                with pytest.raises(ParentBroken):
                    await parent.get_manifest("a", reference)

    run(case)


@pytest.mark.parametrize("media_type", ["text/html", OCI_INDEX, "application/vnd.oci.image.config.v1+json"])
def test_wrong_media_type_is_broken(media_type: str) -> None:
    async def case(scripted: ScriptedParent) -> None:
        scripted.add_manifest("a", IMAGE, media_type, "v1")
        async with client_of(scripted) as parent:
            with pytest.raises(ParentBroken):
                await parent.get_manifest("a", "v1")

    run(case)


def test_head_and_get_disagree_the_hashed_get_wins() -> None:
    async def case(scripted: ScriptedParent) -> None:
        digest = stocked(scripted)
        other = digest_of(b"other")
        scripted.script(Fault(method="HEAD", headers=[("Docker-Content-Digest", other)]))
        async with client_of(scripted) as parent:
            assert (await parent.head_manifest("team/app", "v1")).digest == other
            assert (await parent.get_manifest("team/app", "v1")).digest == digest

    run(case)


@pytest.mark.parametrize("said", ["", "sha384:" + "a" * 96])
def test_no_usable_digest_header_is_no_harm(said: str) -> None:
    async def case(scripted: ScriptedParent) -> None:
        digest = stocked(scripted)
        scripted.script(Fault(headers=[("Docker-Content-Digest", said)], times=-1))
        async with client_of(scripted) as parent:
            assert (await parent.get_manifest("team/app", "v1")).digest == digest
            assert (await parent.head_manifest("team/app", "v1")).digest is None

    run(case)


def test_a_digest_header_that_lies_is_broken_by_tag() -> None:
    async def case(scripted: ScriptedParent) -> None:
        stocked(scripted)
        for said in (digest_of(b"x"), "nonsense", "sha256:../../etc"):
            scripted.script(Fault(headers=[("Docker-Content-Digest", said)]))
        async with client_of(scripted) as parent:
            for _ in range(3):
                with pytest.raises(ParentBroken):
                    await parent.get_manifest("team/app", "v1")

    run(case)


def test_flipping_tag_each_answer_is_consistent() -> None:
    async def case(scripted: ScriptedParent) -> None:
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

    run(case)


def test_foreign_layer_urls_are_never_fetched() -> None:
    async def case(scripted: ScriptedParent) -> None:
        async with ScriptedParent() as canary:
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

    run(case)


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
