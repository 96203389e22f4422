"""Deadlines, the connection cap, back-pressure, draining and TLS over real sockets."""

from __future__ import annotations

import asyncio
import shutil
import socket
import ssl
from pathlib import Path

import msgspec
import pytest
from holdfast.config import Configuration, LimitsSection, ParentSection, TlsSection
from holdfast.server.server import default_cap
from holdfast.server.tls import ServerCertificate
from holdfast.testing.port import ScriptedFill
from holdfast.wire.exchange import Exchange
from holdfast_core.digest import Digest
from support.certificates import make_pair
from support.patience import patience, until
from support.serving import Serving, serving

BODY = b'{"schemaVersion":2}'
GET = b"GET /v2/ HTTP/1.1\r\nHost: a\r\n\r\n"
PARENT = (ParentSection(url="http://parent.test"),)


def limited(**limits: float) -> Configuration:
    return Configuration(limits=LimitsSection(**limits), parent=PARENT)  # type: ignore[arg-type]


@pytest.mark.parametrize("sent", [b"G", GET[:-2], GET + GET[:10]])
async def test_case_60_a_head_that_does_not_come_is_answered_408(tmp_path: Path, sent: bytes) -> None:
    async with serving(tmp_path, limited(head_timeout=0.2)) as node:
        client = await node.connect()
        client.send(sent)
        if sent.startswith(GET) and len(sent) > len(GET):
            assert (await client.answer()).status == 200
        answer = await client.answer()
        assert (answer.status, answer.headers["connection"]) == (408, "close")
        assert await client.ended() == b""


async def test_case_60_a_head_that_drips_has_one_deadline(tmp_path: Path) -> None:
    async with serving(tmp_path, limited(head_timeout=0.3)) as node:
        client = await node.connect()
        answer = asyncio.ensure_future(client.answer())
        for byte in GET[:-4] * 100:
            if answer.done():
                break
            client.send(bytes([byte]))
            await asyncio.sleep(0.01)
        assert (await answer).status == 408


async def test_case_60_an_idle_connection_is_closed_without_a_word(tmp_path: Path) -> None:
    async with serving(tmp_path, limited(idle_timeout=3600.0)) as node:
        silent, used = await node.connect(), await node.connect()
        assert (await used.ask("/v2/")).status == 200
        await until(lambda: len(node.server._connections) == 2)
        for connection in [*node.server._connections]:
            connection.check(node.server.loop.time() + 3601)
        assert await silent.ended() == await used.ended() == b""


async def test_an_answer_that_does_not_come_is_503_in_time(tmp_path: Path) -> None:
    async with serving(tmp_path, limited(answer_timeout=0.2)) as node:
        node.port.hang = True
        client = await node.connect()
        for target in (
            "manifests/latest",
            f"blobs/{Digest.of(b'')}",
            "tags/list",
            f"referrers/{Digest.of(b'')}",
        ):
            answer = await client.ask(f"/v2/a/{target}")
            assert answer.status == 503
            assert int(answer.headers["retry-after"]) > 0
        assert (await client.ask("/v2/")).status == 200


@pytest.mark.parametrize("warm", [False, True])
async def test_case_60_a_reader_that_stalls_is_let_go(tmp_path: Path, warm: bool) -> None:
    async with serving(tmp_path, limited(stall_timeout=3600.0)) as node:
        digest = node.put_blob("a", b"x" * 30_000_000)
        if warm:
            await node.ask(f"/v2/a/blobs/{digest}")
            await until(lambda: node.server.statistics().connections == 0)
        with socket.create_connection(node.address) as stalled:
            stalled.sendall(f"GET /v2/a/blobs/{digest} HTTP/1.1\r\nHost: a\r\n\r\n".encode())
            await until(lambda: bool(node.server._connections))
            (connection,) = node.server._connections
            await until(connection._stuck)
            # the first look finds what the kernel took when the answer began, the second finds nothing
            for later in (3601, 2 * 3601):
                connection.check(node.server.loop.time() + later)
            await until(lambda: node.server.statistics().connections == 0)
        assert any(event["event"] == "reader stalled" for event in node.logs)
        assert node.store.statistics().open_readers == 0


@pytest.mark.parametrize("warm", [False, True])
async def test_case_60_a_slow_reader_is_not_buffered_for(tmp_path: Path, warm: bool) -> None:
    async with serving(tmp_path) as node:
        body = bytes(30_000_000)
        digest = node.put_blob("a", body)
        if warm:
            await node.ask(f"/v2/a/blobs/{digest}")
            await until(lambda: node.server.statistics().connections == 0)
        client = await node.connect()
        client.reader._transport.pause_reading()  # type: ignore[attr-defined]
        client.send(f"GET /v2/a/blobs/{digest} HTTP/1.1\r\nHost: a\r\n\r\n".encode())
        await until(lambda: bool(node.server._connections))
        (connection,) = node.server._connections
        await until(connection._stuck)
        other = await node.connect()
        assert (await other.ask("/v2/")).status == 200
        assert connection._transport.get_write_buffer_size() < 1 << 20
        client.reader._transport.resume_reading()  # type: ignore[attr-defined]
        assert (await client.answer()).body == body


async def test_requests_behind_a_waiting_one_are_not_read(tmp_path: Path) -> None:
    async with serving(tmp_path, limited()) as node:
        fill = node.port.fills[str(Digest.of(BODY))] = ScriptedFill(BODY)
        client = await node.connect()
        client.send(f"GET /v2/a/blobs/{Digest.of(BODY)} HTTP/1.1\r\nHost: a\r\n\r\n".encode())
        client.send(GET * 50_000)
        await until(
            lambda: bool(node.server._connections) and next(iter(node.server._connections))._read_paused
        )
        (connection,) = node.server._connections
        assert connection._exchange.waiting < 1 << 20
        fill.verify()
        assert (await client.answer()).body == BODY
        for _ in range(1000):
            assert (await client.answer()).status == 200


@pytest.mark.parametrize("reads", [True, False])
async def test_case_60_a_flood_of_requests_is_not_buffered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, reads: bool
) -> None:
    most, real = [0], Exchange.receive

    def receive(self: Exchange, data: bytes) -> None:
        real(self, data)
        most[0] = max(most[0], self.waiting)

    async with serving(tmp_path) as node:
        monkeypatch.setattr(Exchange, "receive", receive)
        node.put_manifest("a", b" " * 4000, "latest")
        ask = b"GET /v2/a/manifests/latest HTTP/1.1\r\nHost: a\r\nUser-Agent: " + b"x" * 60 + b"\r\n\r\n"
        client = await node.connect()
        if not reads:
            client.reader._transport.pause_reading()  # type: ignore[attr-defined]
        client.send(ask * 5000)
        if not reads:
            await until(lambda: bool(node.server._connections))
            (connection,) = node.server._connections
            await until(lambda: connection._write_paused and connection._read_paused)
            client.reader._transport.resume_reading()  # type: ignore[attr-defined]
        for _ in range(5000):
            assert (await client.answer()).status == 200
        # what one read of a socket gives, behind less than a head
        assert most[0] < 300_000


async def test_the_connection_cap_answers_503(tmp_path: Path) -> None:

    assert default_cap() > 0
    async with serving(tmp_path, limited(connections=4)) as node:
        held = [await node.connect() for _ in range(4)]
        for client in held:
            assert (await client.ask("/v2/")).status == 200
        late = await node.connect()
        answer = await late.answer()
        assert (answer.status, b"TOOMANYREQUESTS" in answer.body) == (503, True)
        assert int(answer.headers["retry-after"]) > 0
        assert await late.ended() == b""
        held[0].close()
        await until(lambda: node.server.statistics().connections == 3)
        assert (await node.ask("/v2/")).status == 200
        assert node.server.statistics().refused == 1


async def test_draining_lets_answers_finish_and_idle_connections_go(tmp_path: Path) -> None:
    async with serving(tmp_path, limited()) as node:
        fill = node.port.fills[str(Digest.of(BODY))] = ScriptedFill(BODY)
        idle, busy, late = await node.connect(), await node.connect(), await node.connect()
        assert (await idle.ask("/v2/")).status == 200
        busy.send(f"GET /v2/a/blobs/{Digest.of(BODY)} HTTP/1.1\r\nHost: a\r\n\r\n".encode())
        await busy.reader.readuntil(b"\r\n\r\n")
        late.send(GET[:10])
        await until(lambda: any(c._exchange.begun for c in node.server._connections))
        node.server.begin_drain()
        drained = asyncio.ensure_future(node.server.wait_drained())
        assert await idle.ended() == b""
        late.send(GET[10:])
        last = await late.answer()
        assert (last.status, last.headers["connection"]) == (200, "close")
        assert not drained.done()
        fill.verify()
        assert await busy.ended() == BODY
        for client in (idle, late, busy):
            client.close()
        async with patience():
            await drained
        assert node.node.draining


async def test_draining_ends_by_force(tmp_path: Path) -> None:
    async with serving(tmp_path, limited(drain_timeout=0.1)) as node:
        node.port.fills[str(Digest.of(BODY))] = ScriptedFill(BODY)
        client = await node.connect()
        client.send(f"GET /v2/a/blobs/{Digest.of(BODY)} HTTP/1.1\r\nHost: a\r\n\r\n".encode())
        await client.reader.readuntil(b"\r\n\r\n")
        node.server.begin_drain()
        async with patience():
            await node.server.wait_drained()
        await until(lambda: node.server.statistics().connections == 0)


# -- TLS -------------------------------------------------------------------------------------------


def tls_pair(folder: Path, name: str) -> TlsSection:
    """A pair's files as a configuration names them."""
    make_pair(folder, name)
    return TlsSection(cert=str(folder / "cert.pem"), key=str(folder / "key.pem"))


def trusting(folder: Path) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=str(folder / "cert.pem"))
    context.set_alpn_protocols(["h2", "http/1.1"])
    return context


async def test_tls_serves_and_takes_up_a_new_pair(tmp_path: Path) -> None:
    live = tmp_path / "live"
    tls = tls_pair(live, "first")
    tls_pair(tmp_path / "second", "second")
    certificate = ServerCertificate(tls)

    async def common_name(node: Serving, trust: Path) -> str:
        client = await node.connect(ssl=trusting(trust), server_hostname="node.test")
        assert (await client.ask("/v2/")).status == 200
        tls_object = client.writer.get_extra_info("ssl_object")
        assert tls_object.selected_alpn_protocol() == "http/1.1"
        return str(dict(row[0] for row in tls_object.getpeercert()["subject"])["commonName"])

    async with serving(tmp_path, tls=certificate) as node:
        data = bytes(3_000_000)
        digest = node.put_blob("a", data)
        assert await common_name(node, live) == "first"
        client = await node.connect(ssl=trusting(live), server_hostname="node.test")
        assert (await client.ask(f"/v2/a/blobs/{digest}")).body == data
        shutil.copy(tmp_path / "second" / "key.pem", live)
        node.server.reload_certificate()
        assert await common_name(node, live) == "first"
        assert any(event["event"] == "certificate refused" for event in node.logs)
        shutil.copy(tmp_path / "second" / "cert.pem", live)
        node.server.reload_certificate()
        assert await common_name(node, tmp_path / "second") == "second"
        assert (await client.ask("/v2/")).status == 200
        assert not certificate.reload()


async def test_the_client_chooses_the_cipher(tmp_path: Path) -> None:
    """TLS 1.2, because Python cannot put the suites of 1.3 into an order; OpenSSL treats both alike."""
    live = tmp_path / "live"
    certificate = ServerCertificate(tls_pair(live, "first"))
    suites = [
        "ECDHE-ECDSA-CHACHA20-POLY1305",
        "ECDHE-ECDSA-AES256-GCM-SHA384",
        "ECDHE-ECDSA-AES128-GCM-SHA256",
    ]
    async with serving(tmp_path, tls=certificate) as node:
        for first in suites:
            context = trusting(live)
            context.maximum_version = ssl.TLSVersion.TLSv1_2
            context.set_ciphers(":".join([first, *suites]))
            client = await node.connect(ssl=context, server_hostname="node.test")
            assert (await client.ask("/v2/")).status == 200
            assert client.writer.get_extra_info("ssl_object").cipher()[0] == first


async def test_case_64_http2_is_neither_offered_nor_spoken(tmp_path: Path) -> None:
    """So its floods, its lengths and its headers have nowhere to go (design: not a goal)."""
    live = tmp_path / "live"
    certificate = ServerCertificate(tls_pair(live, "first"))
    async with serving(tmp_path, tls=certificate) as node:
        context = trusting(live)
        context.set_alpn_protocols(["h2"])
        client = await node.connect(ssl=context, server_hostname="node.test")
        assert client.writer.get_extra_info("ssl_object").selected_alpn_protocol() is None
        client.send(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
        assert (await client.answer()).status == 505
        assert await client.ended() == b""
        client = await node.connect(ssl=trusting(live), server_hostname="node.test")
        upgrade = {
            "Upgrade": "h2c",
            "Connection": "Upgrade, HTTP2-Settings",
            "HTTP2_Settings": "AAMAAABkAAQAoAAA",
        }
        assert (await client.ask("/v2/", **upgrade)).status == 200
        assert (await client.ask("/v2/")).status == 200


async def test_tls_name_routes(tmp_path: Path) -> None:
    live = tmp_path / "live"
    tls = tls_pair(live, "first")
    hub = ParentSection(url="https://registry-1.docker.io", name="docker.io", hosts=("node.test",))
    other = ParentSection(url="https://quay.io", name="quay.io", default=True)
    config = Configuration(parent=(other, hub), on_miss="strict", tls=tls)
    async with serving(tmp_path, config) as node:
        node.put_manifest("docker.io:a", BODY, "latest")
        client = await node.connect(ssl=trusting(live), server_hostname="node.test")
        assert (await client.ask("/v2/a/manifests/latest", Host="10.0.0.1")).status == 200
        assert msgspec.structs.asdict(config)["tls"] is tls


async def test_a_failed_body_over_tls_ends_short(tmp_path: Path) -> None:
    live = tmp_path / "live"
    certificate = ServerCertificate(tls_pair(live, "first"))
    async with serving(tmp_path, limited(), certificate) as node:
        fill = node.port.fills[str(Digest.of(BODY))] = ScriptedFill(BODY)
        client = await node.connect(ssl=trusting(live), server_hostname="node.test")
        client.send(f"GET /v2/a/blobs/{Digest.of(BODY)} HTTP/1.1\r\nHost: a\r\n\r\n".encode())
        await client.reader.readuntil(b"\r\n\r\n")
        fill.fail(ValueError("gone"))
        assert await client.ended() == b""
