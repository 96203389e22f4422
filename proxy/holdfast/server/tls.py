"""TLS of the server: its certificate, reloaded without a restart and without a bad pair ever going live, and the port
on which clients speak TLS.

`load_cert_chain` on a live context with a key that does not match leaves it broken for every later
handshake. So a fresh context is built and tried by a handshake in memory, and only
then does the server's `sni_callback` hand it to new connections.
"""

from __future__ import annotations

import asyncio
import hashlib
import socket
import ssl
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from holdfast.clock import Clock
from holdfast.config import ConfigInvalid, TlsSection
from holdfast.log import LogLimit, log

#: TLS handshakes take no longer (seconds; uvloop's own default is 60)
HANDSHAKE_SECONDS = 10.0
#: connections taken before others have their turn
TURN = 64
#: pause after an accept that failed for lack of descriptors or memory (seconds)
PAUSE_SECONDS = 0.1
#: the first byte of a TLS connection: the record type "handshake" (RFC 8446 5.1)
HELLO = b"\x16"
#: alerts of a client that does not trust the certificate (RFC 8446 6.2), by OpenSSL's names
DISTRUST = (
    "ALERT_UNKNOWN_CA",
    "ALERT_BAD_CERTIFICATE",
    "ALERT_CERTIFICATE_UNKNOWN",
    "ALERT_CERTIFICATE_EXPIRED",
    "ALERT_CERTIFICATE_REVOKED",
    "ALERT_UNSUPPORTED_CERTIFICATE",
)
#: a client that gives no reason: programs in Python close the connection so, and so a Holdfast below
LEFT = "the client left after it saw the certificate; it may not trust it"
NOTE = (
    "the client does not trust this node's certificate: give it the authority that signed it, or this node one for the"
    " name that the client uses, from an authority that it knows"
)

Protocol = Callable[[], asyncio.Protocol]
# a handshake in memory takes three or four steps; more means that it will not complete
_TURNS = 10


class ServerCertificate:
    """The pair in `config`'s files. `context` is what the server listens with; it never changes, what it
    hands out does. With `client_ca`, a file of authorities, a client may prove a certificate of theirs, and one that
    proves another is not let in. Raises ConfigInvalid when the first pair, or the authorities, cannot be used."""

    def __init__(self, config: TlsSection, client_ca: str = "") -> None:
        self._config, self._client_ca = config, client_ca
        self._content = self._read()
        self._current = _tried_context(config, client_ca)
        self.context = _context(config, client_ca)
        self.context.sni_callback = self._choose

    def reload(self) -> bool:
        """Take up changed files. True when the pair changed; on any failure the old one stays."""
        try:
            content = self._read()
            if content == self._content:
                return False
            self._current = _tried_context(self._config, self._client_ca)
        except ConfigInvalid as error:
            log.error("certificate refused", file=self._config.cert, error=str(error))
            return False
        self._content = content
        log.info("certificate reloaded", file=self._config.cert)
        return True

    def _read(self) -> bytes:
        files = (
            ("tls.cert", self._config.cert),
            ("tls.key", self._config.key),
            ("login.client_ca", self._client_ca),
        )
        return hashlib.sha256(b"\0".join(_content(key, file) for key, file in files if file)).digest()

    def _choose(self, connection: ssl.SSLObject, name: str | None, _: ssl.SSLContext) -> None:
        connection.context = self._current
        connection.sni = (name or "").lower()  # type: ignore[attr-defined]


def _content(key: str, file: str) -> bytes:
    try:
        return Path(file).read_bytes()
    except OSError as error:
        raise ConfigInvalid(
            f"{key}: found {file!r}, which cannot be read: {error.strerror}; allowed: a PEM file that this user may"
            " read"
        ) from None


def _context(config: TlsSection, client_ca: str) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    # The client knows whether its machine has instructions for AES; small ones that have none are many times faster
    # with ChaCha20, and no suite that is offered here is weak.
    context.options &= ~ssl.OP_CIPHER_SERVER_PREFERENCE
    context.set_alpn_protocols(["http/1.1"])
    _load(context, config)
    if client_ca:
        try:
            context.load_verify_locations(client_ca)
        except OSError:  # ssl.SSLError is one
            raise ConfigInvalid(
                f"login.client_ca: found {client_ca!r}, of which no certificate can be read; allowed: a file of PEM"
                " certificates"
            ) from None
        context.verify_mode = ssl.CERT_OPTIONAL
    return context


def _load(context: ssl.SSLContext, config: TlsSection) -> None:
    cert, key = config.cert, config.key
    if b"-----BEGIN CERTIFICATE-----" not in _content("tls.cert", cert):
        raise ConfigInvalid(
            f"tls.cert: found {cert!r}, which holds no PEM certificate; allowed: this node's certificate, then those of"
            " its issuers, each between BEGIN CERTIFICATE and END CERTIFICATE"
        )
    held = _content("tls.key", key)
    if b"ENCRYPTED" in held:  # OpenSSL would ask for its pass phrase at the terminal, and wait
        raise ConfigInvalid(
            f"tls.key: found {key!r}, which is encrypted; allowed: a key without pass phrase, which"
            " `openssl pkey -in KEY -out PLAIN` makes"
        )
    if b"PRIVATE KEY-----" not in held:
        raise ConfigInvalid(
            f"tls.key: found {key!r}, which holds no PEM private key; allowed: one between BEGIN PRIVATE KEY and END"
            " PRIVATE KEY"
        )
    try:
        context.load_cert_chain(cert, key)
    except ssl.SSLError as error:
        raise ConfigInvalid(_mismatch(config, error)) from None


def _mismatch(config: TlsSection, error: ssl.SSLError) -> str:
    """Why OpenSSL does not take two files each of which is what it should be."""
    pair = f"tls.cert, tls.key: found {config.cert!r} and {config.key!r}"
    if error.reason == "KEY_VALUES_MISMATCH":
        return (
            f"{pair}, which do not belong together; allowed: a certificate and the key that it was made for, the"
            " certificate of this node before those of its issuers"
        )
    reason = (error.reason or "not PEM").lower().replace("_", " ")
    return f"{pair}, which cannot be used ({reason}); make the pair anew"


def _tried_context(config: TlsSection, client_ca: str) -> ssl.SSLContext:
    """A context that has shaken hands with itself. Raises ConfigInvalid when it cannot."""
    context = _context(config, client_ca)
    client_context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    client_context.check_hostname = False
    client_context.verify_mode = ssl.CERT_NONE
    up, down = ssl.MemoryBIO(), ssl.MemoryBIO()
    sides = [client_context.wrap_bio(down, up), context.wrap_bio(up, down, server_side=True)]
    try:
        for _ in range(_TURNS):
            sides = [side for side in sides if not _shaken(side)]
            if not sides:
                return context
    except ssl.SSLError as error:
        raise ConfigInvalid(_mismatch(config, error)) from None
    raise ConfigInvalid(_mismatch(config, ssl.SSLError("the handshake does not end")))


def _shaken(side: ssl.SSLObject) -> bool:
    try:
        side.do_handshake()
    except ssl.SSLWantReadError:
        return False
    return True


class TlsListener:
    """Takes connections of `listener`, which becomes its own. `secure` makes the protocol of one that speaks TLS,
    `plain` of one that speaks something else.

    Not `create_server`, which knows neither whose handshake failed nor what came in place of one: a client that
    distrusts the certificate left no line in the log, and one that spoke plain HTTP got no answer.
    """

    def __init__(
        self,
        listener: socket.socket,
        context: ssl.SSLContext,
        secure: Protocol,
        plain: Protocol,
        shutdown_timeout: float,
        clock: Clock,
    ) -> None:
        self._loop, self._listener, self._context = asyncio.get_running_loop(), listener, context
        self._secure, self._plain, self._shutdown_timeout = secure, plain, shutdown_timeout
        self._seldom = LogLimit(clock)
        self._begun: set[asyncio.Task[None]] = set()
        self._pause: asyncio.TimerHandle | None = None
        listener.setblocking(False)
        self._listen()

    def close(self) -> None:
        """Accept no more connections. Handshakes that have begun continue."""
        if self._listener.fileno() < 0:
            return
        if self._pause is not None:
            self._pause.cancel()
        self._loop.remove_reader(self._listener.fileno())
        self._listener.close()

    def abort(self) -> None:
        """The same, and end the handshakes."""
        self.close()
        for task in self._begun:
            task.cancel()

    def _listen(self) -> None:
        self._loop.add_reader(self._listener.fileno(), self._accept)

    def _accept(self) -> None:
        for _ in range(TURN):
            try:
                connection, _ = self._listener.accept()
            except (BlockingIOError, InterruptedError, ConnectionError):
                return
            except OSError as error:
                if (more := self._seldom.due(error.errno)) is not None:
                    log.error("connection not taken", reason=error.strerror, **more)
                self._loop.remove_reader(self._listener.fileno())
                self._pause = self._loop.call_later(PAUSE_SECONDS, self._listen)
                return
            connection.setblocking(False)
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            task = self._loop.create_task(self._begin(connection))
            self._begun.add(task)
            task.add_done_callback(self._begun.discard)

    async def _begin(self, connection: socket.socket) -> None:
        """To the end of the handshake; the connection belongs to its protocol then."""
        client, first = "", b""
        try:
            client = connection.getpeername()[0]
            async with asyncio.timeout(HANDSHAKE_SECONDS):
                first = await self._first_byte(connection)
            if first == HELLO:
                await self._loop.connect_accepted_socket(
                    self._secure,
                    connection,
                    ssl=self._context,
                    ssl_handshake_timeout=HANDSHAKE_SECONDS,
                    ssl_shutdown_timeout=self._shutdown_timeout,
                )
            elif first:
                await self._loop.connect_accepted_socket(self._plain, connection)
            else:
                connection.close()
        except ssl.SSLError as error:
            self._failed(client, error.reason or "")
        except (ConnectionAbortedError, TimeoutError):  # it sent nothing, or half of the handshake
            connection.close()
        except OSError:
            connection.close()
            if first == HELLO:
                self._failed(client, LEFT)
        except asyncio.CancelledError:
            connection.close()
            raise

    async def _first_byte(self, connection: socket.socket) -> bytes:
        """The client's first bytes, which stay in the socket; b"" when it disconnected. Raises OSError."""
        while True:
            with suppress(BlockingIOError):
                return connection.recv(1, socket.MSG_PEEK)
            readable, descriptor = self._loop.create_future(), connection.fileno()
            self._loop.add_reader(descriptor, _done, readable)
            try:
                await readable
            finally:
                self._loop.remove_reader(descriptor)

    def _failed(self, client: str, reason: str) -> None:
        if (more := self._seldom.due((client, reason))) is None:
            return
        note = {"note": NOTE} if reason.endswith(DISTRUST) else {}
        log.warning(
            "handshake failed", client=client, reason=reason.lower().replace("_", " "), **note, **more
        )


def _done(readable: asyncio.Future[None]) -> None:
    if not readable.done():
        readable.set_result(None)
