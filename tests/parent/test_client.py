"""Manifests and blobs through the parent client; offline, mirrors, caps and counters."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from holdfast.config import CredentialsSection
from holdfast.errors import (
    ParentDenied,
    ParentNotFound,
    ParentUnreachable,
)
from holdfast.oci.manifest import OCI_INDEX, OCI_MANIFEST
from holdfast.parent.client import Parent
from holdfast.testing.fault import RequestGate, ScriptedFault
from holdfast.testing.manual_clock import FakeClock
from holdfast.testing.scripted_parent import ScriptedParent
from support.parent_cases import BLOB, IMAGE, client_of, read_all, settings_for, stocked

pytestmark = pytest.mark.loop("asyncio")

# ---- what works


async def test_manifest_by_tag_and_digest_is_hashed_here() -> None:
    async with ScriptedParent() as scripted:
        digest = stocked(scripted)
        async with client_of(scripted) as parent:
            by_tag = await parent.get_manifest("team/app", "v1")
            by_digest = await parent.get_manifest("team/app", digest)
            head = await parent.head_manifest("team/app", "v1")
        assert (by_tag.body, by_tag.digest, by_tag.media_type) == (IMAGE, digest, OCI_MANIFEST)
        assert by_digest == by_tag
        assert (head.digest, head.media_type, head.size) == (digest, OCI_MANIFEST, len(IMAGE))
        asked = scripted.log[0]
        assert asked.header("accept-encoding") == "identity"
        assert OCI_INDEX in (asked.header("accept") or "")


async def test_sha512_manifest_is_verified_in_its_own_algorithm() -> None:
    async with ScriptedParent() as scripted:
        digest = scripted.add_manifest("a", IMAGE, OCI_MANIFEST, "v1", algorithm="sha512")
        async with client_of(scripted) as parent:
            assert (await parent.get_manifest("a", "v1")).digest == digest
            assert (await parent.get_manifest("a", digest)).digest == digest


async def test_blob_whole_range_suffixless_and_size() -> None:
    async with ScriptedParent() as scripted:
        stocked(scripted)
        body = BLOB.read(0, BLOB.size)
        async with client_of(scripted) as parent:
            assert await parent.head_blob("team/app", BLOB.digest) == BLOB.size
            assert await read_all(parent, "team/app", BLOB.digest) == body
            async with parent.get_blob("team/app", BLOB.digest, start=1000) as stream:
                assert (stream.start, stream.size, stream.partial) == (1000, BLOB.size, True)
                assert stream.etag == f'"{BLOB.digest}"'
                assert b"".join([p async for p in stream]) == body[1000:]
            assert await read_all(parent, "team/app", BLOB.digest, start=5, end=9) == body[5:9]
            assert await read_all(parent, "team/app", BLOB.digest, start=0, end=1) == body[:1]


async def test_one_connection_serves_many_asks() -> None:
    async with ScriptedParent() as scripted:
        stocked(scripted)
        async with client_of(scripted) as parent:
            for _ in range(5):
                await parent.get_manifest("team/app", "v1")
                await read_all(parent, "team/app", BLOB.digest)
                with pytest.raises(ParentNotFound):
                    await parent.get_manifest("team/app", "none")
        assert scripted.connections_made == 1


async def test_404_is_not_found_and_asked_once() -> None:
    async with ScriptedParent() as scripted:
        async with client_of(scripted) as parent:
            with pytest.raises(ParentNotFound):
                await parent.get_manifest("no/such", "v1")
            with pytest.raises(ParentNotFound):
                await parent.head_blob("no/such", BLOB.digest)
        assert scripted.count() == 2


@pytest.mark.parametrize(
    ("name", "reference"),
    [("../up", "v1"), ("a", "../../x"), ("a", "sha256:xyz"), ("A", "v1"), ("a?b", "v1"), ("a", "v1?x=y")],
)
async def test_what_no_registry_can_have_is_not_asked(name: str, reference: str) -> None:
    async with ScriptedParent() as scripted:
        async with client_of(scripted) as parent:
            with pytest.raises(ParentNotFound):
                await parent.get_manifest(name, reference)
        assert scripted.count() == 0


# ---- offline


async def test_known_offline_answers_at_once_without_the_network_and_probes_once_an_interval() -> None:
    async with ScriptedParent() as scripted:
        stocked(scripted)
        clock = FakeClock()
        async with client_of(scripted, clock, probe_interval=10.0) as parent:
            await scripted.stop()
            with pytest.raises(ParentUnreachable):
                await parent.get_manifest("team/app", "v1")
            states = [parent.state]
            asked = parent.counters["requests"]
            for _ in range(100):
                with pytest.raises(ParentUnreachable) as refused:
                    await parent.get_manifest("team/app", "v1")
                assert (refused.value.retry_after or 0) >= 1
            assert parent.counters["requests"] == asked
            clock.advance(11)
            for _ in range(100):
                with pytest.raises(ParentUnreachable):
                    await parent.get_manifest("team/app", "v1")
            await _settled(parent)
            assert parent.counters["probes"] == 1
            await scripted.start()
            assert not await parent.probe()  # a pull had it asked within the interval
            assert parent.counters["probes"] == 1
            clock.advance(11)
            assert await parent.probe()
            states.append(parent.state)
            await parent.get_manifest("team/app", "v1")
            assert [*states, parent.state] == ["offline", "degraded", "online"]


async def test_a_parent_that_swallows_packets_costs_one_connect_timeout() -> None:
    # a listener with a full backlog answers no SYN: the kernel's black hole
    async with _black_hole() as url, client_of(url, connect_timeout=0.3) as parent:
        with pytest.raises(ParentUnreachable):
            await parent.get_manifest("a", "v1")
        assert parent.counters["requests"] == 1
        assert parent.state == "offline"


# ---- mirrors, caps, counters


async def test_mirrors_are_asked_in_order_and_passed_over() -> None:
    async with ScriptedParent() as scripted:
        digest = stocked(scripted)
        async with ScriptedParent() as empty, ScriptedParent() as dead, ScriptedParent() as second:
            second.add_manifest("team/app", IMAGE, OCI_MANIFEST, "v1")
            await dead.stop()
            mirrors = (empty.url, dead.url, second.url)
            async with client_of(scripted, mirrors=mirrors) as parent:
                assert (await parent.get_manifest("team/app", "v1")).digest == digest
                assert scripted.count() == 0
                assert (empty.count(), second.count()) == (1, 1)
                assert await read_all(parent, "team/app", BLOB.digest) == BLOB.read(0, BLOB.size)
                assert scripted.count() == 1


async def test_the_parents_own_word_counts_after_the_mirrors() -> None:
    async with (
        ScriptedParent() as scripted,
        ScriptedParent() as mirror,
        client_of(scripted, mirrors=(mirror.url,)) as parent,
    ):
        with pytest.raises(ParentNotFound):
            await parent.get_manifest("a", "v1")
        await scripted.stop()
        with pytest.raises(ParentUnreachable):
            await parent.get_manifest("a", "v1")


async def test_a_mirror_is_never_given_the_credentials() -> None:
    async with ScriptedParent() as scripted:
        stocked(scripted)
        scripted.door.scheme, scripted.door.username, scripted.door.password = "basic", "u", "p"
        async with ScriptedParent() as mirror:
            mirror.door.scheme, mirror.door.username = "basic", "u"
            mirror.door.password = "p"
            login = CredentialsSection(username="u", password="p")
            async with client_of(scripted, mirrors=(mirror.url,), credentials=login) as parent:
                await parent.get_manifest("team/app", "v1")
            assert all(request.header("authorization") is None for request in mirror.log)


async def test_connections_are_capped_and_manifests_pass_transfers() -> None:
    async with ScriptedParent() as scripted:
        stocked(scripted)
        gate = RequestGate()
        scripted.script(ScriptedFault(path="/blobs/", gate=gate, times=-1))
        async with client_of(scripted, connections=4) as parent:
            reads = [asyncio.create_task(read_all(parent, "team/app", BLOB.digest)) for _ in range(12)]
            await gate.wait_arrived(3)
            await parent.get_manifest("team/app", "v1")
            assert gate.arrived == 3
            gate.release()
            bodies = await asyncio.gather(*reads)
            assert {len(body) for body in bodies} == {BLOB.size}
        assert scripted.connections_made <= 4


async def test_requests_a_second_are_spread_by_the_clock() -> None:
    async with ScriptedParent() as scripted:
        stocked(scripted)
        clock = FakeClock()
        async with client_of(scripted, clock, requests_per_second=2.0) as parent:
            for _ in range(6):
                await parent.get_manifest("team/app", "v1")
        assert clock.monotonic() == pytest.approx(2.0)


async def test_docker_hubs_limits_are_counted() -> None:
    async with ScriptedParent() as scripted:
        stocked(scripted)
        scripted.ratelimit = "76;w=21600"
        async with client_of(scripted) as parent:
            assert "ratelimit_remaining" not in parent.counters
            await parent.head_manifest("team/app", "v1")
            found = [parent.counters[f"ratelimit_{name}"] for name in ("limit", "remaining", "window")]
            assert found == [100, 76, 21600]


def test_a_parent_without_tls_needs_to_be_allowed() -> None:
    with pytest.raises(ValueError, match="insecure"):
        Parent(settings_for("http://registry.example", insecure=False), FakeClock())
    settings = settings_for("https://a.example", insecure=False, mirrors=("http://b.example",))
    with pytest.raises(ValueError, match="insecure"):
        Parent(settings, FakeClock())


async def test_a_prefix_in_the_url_is_put_before_names() -> None:
    async with ScriptedParent() as scripted:
        scripted.add_manifest("cache/team/app", IMAGE, OCI_MANIFEST, "v1")
        async with client_of(f"{scripted.url}/cache") as parent:
            await parent.get_manifest("team/app", "v1")


async def test_an_egress_proxy_is_used_when_configured_and_never_from_the_environment(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: list[str] = []

    async def lookup(host: str, port: int, family: int) -> list[str]:
        asked.append(host)
        return ["127.0.0.1"]

    async with ScriptedParent() as scripted:
        stocked(scripted)
        url = "http://registry.example"
        async with client_of(url, proxy=scripted.url, lookup=lookup) as parent:
            await parent.get_manifest("team/app", "v1")
        assert asked == []
        assert scripted.log[0].header("host") == "registry.example"
        monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
        monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
        async with client_of(scripted) as parent:
            await parent.get_manifest("team/app", "v1")


async def test_403_is_denied_and_asked_once() -> None:
    async with ScriptedParent() as scripted:
        scripted.script(ScriptedFault(status=403, times=-1))
        async with client_of(scripted) as parent:
            with pytest.raises(ParentDenied):
                await parent.get_manifest("team/app", "v1")
        assert scripted.count() == 1


# ---- support


async def _settled(parent: Parent) -> None:
    for endpoint in parent.endpoints:
        if endpoint._probing is not None:
            await endpoint._probing


@asynccontextmanager
async def _black_hole() -> AsyncIterator[str]:
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(socket.socket())
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        for _ in range(4):
            filler = stack.enter_context(socket.socket())
            filler.setblocking(False)
            filler.connect_ex(listener.getsockname())
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
