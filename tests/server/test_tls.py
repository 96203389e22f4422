"""The port that speaks TLS and the one that does not, and who knocks at the wrong one or distrusts what is shown."""

from __future__ import annotations

import asyncio
import errno
import socket
import ssl
from pathlib import Path
from typing import Any

import pytest
from holdfast.config import TlsSection
from holdfast.log import MOST, SECONDS, LogLimit
from holdfast.server import tls
from holdfast.server.tls import ServerCertificate, TlsListener
from holdfast.testing.manual_clock import FakeClock
from support.certificates import make_pair
from support.logs import captured_logs
from support.patience import until
from support.serving import Serving, serving


def pair(tmp_path: Path) -> ServerCertificate:
    place = make_pair(tmp_path / "pair", "own", authority=True)
    return ServerCertificate(TlsSection(cert=str(place / "cert.pem"), key=str(place / "key.pem")))


def trusting(tmp_path: Path) -> ssl.SSLContext:
    return ssl.create_default_context(cafile=str(tmp_path / "pair" / "cert.pem"))


def said(node: Serving, event: str) -> list[dict[str, Any]]:
    node.server.flush_access()
    return [one for one in node.logs if one["event"] == event]


async def test_case_trust_27_plain_http_on_a_tls_port_is_told_so(tmp_path: Path) -> None:
    async with serving(tmp_path, tls=pair(tmp_path)) as node:
        client = await node.connect()
        for _ in range(2):  # whatever it asks, it gets nothing else
            answer = await client.ask("/v2/a/manifests/latest", Authorization="Bearer x")
            assert (answer.status, b"ask https://" in answer.body) == (400, True)
        assert [(one["path"], one["status"]) for one in said(node, "request answered")] == [
            ("/v2/a/manifests/latest", 400)
        ] * 2
        other = await node.connect()
        other.send(b"POST /v2/a/blobs/uploads/ HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\n12345")
        assert (await other.answer("POST")).status == 400
        secure = await node.connect(ssl=trusting(tmp_path), server_hostname="node.test")
        assert (await secure.ask("/v2/")).status == 200


def hello() -> bytes:
    """The first record of a TLS client."""
    sent, received = ssl.MemoryBIO(), ssl.MemoryBIO()
    side = ssl.create_default_context().wrap_bio(received, sent, server_hostname="node.test")
    with pytest.raises(ssl.SSLWantReadError):
        side.do_handshake()
    return sent.read()


async def test_case_trust_27_tls_on_a_plain_port_leaves_a_line_that_says_so(tmp_path: Path) -> None:
    async with serving(tmp_path) as node:
        for _ in range(3):
            client = await node.connect()
            client.send(hello())
            # what Go's clients look for: "server gave HTTP response to HTTPS client"
            answer = await client.answer()
            assert (answer.status, b"ask http://" in answer.body) == (400, True)
            assert await client.ended() == b""
        (line,) = said(node, "TLS on a plain port")
        assert (line["level"], line["client"]) == ("warning", "127.0.0.1")
        assert "tls.cert" in line["note"]
        assert said(node, "request answered") == []
        node.clock.advance(SECONDS)
        client = await node.connect()
        client.send(hello())
        await client.answer()
        assert said(node, "TLS on a plain port")[1]["left_out"] == 2


def shake(address: tuple[str, int], context: ssl.SSLContext) -> None:
    """A handshake by OpenSSL itself."""
    with socket.create_connection(address, timeout=30) as connection:
        context.wrap_socket(connection, server_hostname="node.test").close()


async def test_case_trust_27_a_client_that_distrusts_the_certificate_leaves_a_line(tmp_path: Path) -> None:
    async with serving(tmp_path, tls=pair(tmp_path)) as node:
        for _ in range(3):
            with pytest.raises(ssl.SSLError):
                await asyncio.to_thread(shake, node.address, ssl.create_default_context())
        await until(lambda: bool(said(node, "handshake failed")))
        old = ssl.create_default_context()
        old.set_ciphers("NULL@SECLEVEL=0")
        old.maximum_version = ssl.TLSVersion.TLSv1_2
        with pytest.raises((ssl.SSLError, ConnectionError)):
            await asyncio.to_thread(shake, node.address, old)
        await until(lambda: len(said(node, "handshake failed")) == 2)
        distrust, cipher = said(node, "handshake failed")
        assert distrust["client"] == "127.0.0.1"
        assert "alert unknown ca" in distrust["reason"]
        assert "does not trust this node's certificate" in distrust["note"]
        assert ("note" in cipher, "cipher" in cipher["reason"]) == (False, True)
        with pytest.raises(ssl.SSLError):  # asyncio's clients close without sending their alert
            await node.connect(ssl=ssl.create_default_context(), server_hostname="node.test")
        await until(lambda: len(said(node, "handshake failed")) == 3)
        assert "it may not trust it" in said(node, "handshake failed")[2]["reason"]
        secure = await node.connect(ssl=trusting(tmp_path), server_hostname="node.test")
        assert (await secure.ask("/v2/")).status == 200


async def test_who_says_nothing_or_leaves_costs_no_connection(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tls, "HANDSHAKE_SECONDS", 0.2)
    async with serving(tmp_path, tls=pair(tmp_path)) as node:
        silent = await node.connect()
        assert await silent.ended() == b""
        half = await node.connect()
        half.send(hello()[:20])
        assert await half.ended() == b""
        (await node.connect()).close()
        assert said(node, "handshake failed") == []
        (listener,) = node.server._servers
        assert isinstance(listener, TlsListener)
        await until(lambda: not listener._begun)


class Exhausted(socket.socket):
    """A listening socket that for a while finds no descriptor for a connection."""

    failures = 1

    def accept(self) -> tuple[socket.socket, Any]:
        """See `socket.socket`."""
        if self.failures:
            self.failures -= 1
            raise OSError(errno.EMFILE, "Too many open files")
        return super().accept()


async def test_an_accept_that_failed_is_tried_again_and_logged_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    certificate = pair(tmp_path)
    monkeypatch.setattr(tls, "PAUSE_SECONDS", 0.001)
    made: list[asyncio.Protocol] = []

    def protocol() -> asyncio.Protocol:
        made.append(asyncio.Protocol())
        return made[-1]

    listener = Exhausted(socket.AF_INET, socket.SOCK_STREAM)
    listener.failures = 30
    listener.bind(("127.0.0.1", 0))
    listener.listen()
    taking = TlsListener(listener, certificate.context, protocol, protocol, 1.0, FakeClock())
    address = listener.getsockname()
    with captured_logs() as logs:
        _, writer = await asyncio.open_connection(
            *address, ssl=trusting(tmp_path), server_hostname="node.test"
        )
    assert [line["reason"] for line in logs] == ["Too many open files"]
    assert (listener.failures, len(made)) == (0, 1)
    writer.close()
    taking.close()
    taking.close()
    with pytest.raises(ConnectionRefusedError):
        await asyncio.open_connection(*address)


def test_what_strangers_make_happen_is_logged_seldom() -> None:
    clock = FakeClock()
    seldom = LogLimit(clock)
    assert [seldom.due("a"), seldom.due("a"), seldom.due("b")] == [{}, None, {"left_out": 1}]
    assert sum(seldom.due(number) is not None for number in range(1000)) == MOST - 2
    clock.advance(SECONDS)
    assert seldom.due("a") == {"left_out": 1000 - (MOST - 2)}
