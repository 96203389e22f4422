"""The server's certificate, reloaded without a restart and without a bad pair ever going live.

`load_cert_chain` on a live context with a key that does not match leaves it broken for every later
handshake. So a fresh context is built and tried by a handshake in memory, and only
then does the server's `sni_callback` hand it to new connections.
"""

from __future__ import annotations

import hashlib
import ssl
from pathlib import Path

import structlog

from holdfast.config import Tls

log = structlog.get_logger()

# A handshake in memory needs three or four turns; more means that it will not come about.
_TURNS = 10


class Certificate:
    """The pair in `config`'s files. `context` is what the server listens with; it never changes, what it
    hands out does. With `client_ca`, a file of authorities, a client may prove a certificate of theirs, and one that
    proves another is not let in. Raises OSError or ssl.SSLError when the first pair, or the authorities, cannot be
    used."""

    def __init__(self, config: Tls, client_ca: str = "") -> None:
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
        except (OSError, ssl.SSLError) as error:
            log.error("certificate refused", file=self._config.cert, error=str(error))
            return False
        self._content = content
        log.info("certificate reloaded", file=self._config.cert)
        return True

    def _read(self) -> bytes:
        names = (self._config.cert, self._config.key, self._client_ca)
        return hashlib.sha256(b"\0".join(Path(name).read_bytes() for name in names if name)).digest()

    def _choose(self, connection: ssl.SSLObject, name: str | None, _: ssl.SSLContext) -> None:
        connection.context = self._current
        connection.sni = (name or "").lower()  # type: ignore[attr-defined]


def _context(config: Tls, client_ca: str) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    # The client knows whether its machine has instructions for AES; small ones that have none are many times faster
    # with ChaCha20, and no suite that is offered here is weak.
    context.options &= ~ssl.OP_CIPHER_SERVER_PREFERENCE
    context.set_alpn_protocols(["http/1.1"])
    context.load_cert_chain(config.cert, config.key)
    if client_ca:
        context.load_verify_locations(client_ca)
        context.verify_mode = ssl.CERT_OPTIONAL
    return context


def _tried_context(config: Tls, client_ca: str) -> ssl.SSLContext:
    """A context that has shaken hands with itself. Raises ssl.SSLError when it cannot."""
    context = _context(config, client_ca)
    client_context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    client_context.check_hostname = False
    client_context.verify_mode = ssl.CERT_NONE
    up, down = ssl.MemoryBIO(), ssl.MemoryBIO()
    sides = [client_context.wrap_bio(down, up), context.wrap_bio(up, down, server_side=True)]
    for _ in range(_TURNS):
        sides = [side for side in sides if not _shaken(side)]
        if not sides:
            return context
    raise ssl.SSLError("the certificate does not complete a handshake")


def _shaken(side: ssl.SSLObject) -> bool:
    try:
        side.do_handshake()
    except ssl.SSLWantReadError:
        return False
    return True
