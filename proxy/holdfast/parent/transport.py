"""One request on the wire, and its answer. aiohttp carries it; every policy it has of its own is off:
redirects, cookies, decompression, environment proxies, netrc, DNS cache.

Nothing here retries. Whatever aiohttp raises leaves as one of the parent's failures, with a text of ours:
aiohttp's own texts hold URLs, and a presigned URL is a secret.
"""

from __future__ import annotations

import asyncio
import os
import socket
import ssl
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack
from functools import cached_property
from math import ceil
from typing import Any, Protocol

import aiohttp
from yarl import URL

from holdfast import config
from holdfast.clock import Clock
from holdfast.errors import (
    ConnectTimedOut,
    KnownOffline,
    ParentBroken,
    ParentFailed,
    ParentUnreachable,
    ParentUntrusted,
    TimedOut,
)
from holdfast.parent.address import AddressPolicy, CheckingResolver, Lookup
from holdfast.parent.body import Body, take_over
from holdfast.parent.caps import Caps
from holdfast.parent.pace import Pace
from holdfast.parent.retry import Deadline

READ_BYTES = 256 * 1024
#: bodies of refusals up to this size are read away, so that the connection can be used again
DISCARD_BYTES = 64 * 1024
#: a keep-alive connection is dropped before usual load balancers drop it (60 s)
KEEPALIVE_SECONDS = 50.0


class Outgoing(Protocol):
    """A body that is sent piece by piece, from its beginning each time it is asked for. Its length is in the headers of
    the request."""

    def pieces(self) -> AsyncIterator[bytes]: ...

    async def ready(self, size: int) -> None:
        """Wait until a piece of `size` bytes may go. No time-out runs meanwhile."""
        ...


Form = Mapping[str, str] | bytes | Outgoing | None


class Answer:
    """Status, headers and body of one answer. Whoever holds it must `close` it."""

    def __init__(
        self, response: aiohttp.ClientResponse, held: AsyncExitStack, clock: Clock, stall_timeout: float
    ) -> None:
        self._response, self._held, self._clock = response, held, clock
        self._stall_timeout = stall_timeout
        self._content: aiohttp.StreamReader | Body | None = None
        self._rate = 0.0
        self.status, self.url = response.status, response.url

    def header(self, name: str) -> str | None:
        """The first line of a header, or None."""
        return self._response.headers.get(name)

    def header_lines(self, name: str) -> list[str]:
        """Every line of a header."""
        return list(self._response.headers.getall(name, ()))

    @property
    def length(self) -> int | None:
        """Content-Length, or None."""
        return self._response.content_length

    def pace(self) -> Pace:
        """A fresh measure of whether the body comes fast enough."""
        return Pace(self._stall_timeout)

    async def next_bytes(self, pace: Pace) -> bytes | memoryview:
        """The next bytes of the body, b"" at its end. Raises ParentUnreachable or ParentBroken."""
        try:
            content = self._content or self._begin()
            if piece := content.read_nowait():
                pace.add(len(piece), 0.0)
                return piece
            started = self._clock.monotonic()
            try:
                async with asyncio.timeout(pace.left()):
                    piece = await content.readany()
            except TimeoutError:
                pace.add(0, pace.left())
                return await self.next_bytes(pace)
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            raise failure_of(error) from None
        pace.add(len(piece), self._clock.monotonic() - started)
        return piece

    def _begin(self) -> aiohttp.StreamReader | Body:
        self._content = body = take_over(self._response) or self._response.content
        self.narrow(self._rate)
        return body

    def narrow(self, rate: float) -> None:
        """See `lane.Narrow`. A short body stays as it is."""
        self._rate = rate
        if isinstance(self._content, Body):
            self._content.narrow(rate)

    async def body(self, limit: int) -> bytes:
        """The whole body. Raises ParentBroken when it is longer than `limit`, without reading on."""
        if (self.length or 0) > limit:
            raise ParentBroken(f"the parent's answer is over {limit} bytes")
        pace, pieces, size = self.pace(), [], 0
        while piece := await self.next_bytes(pace):
            size += len(piece)
            if size > limit:
                raise ParentBroken(f"the parent's answer is over {limit} bytes")
            pieces.append(piece)
        return b"".join(pieces)

    async def discard(self) -> None:
        """Read a short body away, or else drop the connection; then close."""
        try:
            if self.length is not None:
                await self.body(DISCARD_BYTES)
        except ParentFailed:
            pass
        finally:
            await self.close()

    async def close(self) -> None:
        """Give the connection back when the body was read to its end; otherwise end it."""
        if self._response.content.at_eof():
            self._response.release()
        else:
            self._response.close()
        await self._held.aclose()


class Transport:
    """A parent's connections: to the parent itself, its mirrors, token servers and redirect targets."""

    def __init__(
        self,
        settings: config.Parent,
        policy: AddressPolicy,
        clock: Clock,
        counters: dict[str, int],
        lookup: Lookup | None = None,
    ) -> None:
        self._settings, self._policy, self._clock = settings, policy, clock
        self._counters, self._lookup = counters, lookup
        #: the operator's word: not a packet more
        self.is_off = False
        self.caps = Caps(settings.connections, settings.requests_per_second, clock)
        self._session: aiohttp.ClientSession | None = None

    async def send(
        self,
        method: str,
        url: URL,
        headers: Mapping[str, str],
        deadline: Deadline,
        *,
        form: Form = None,
        transfer: bool = False,
    ) -> Answer:
        """Send one request; returns when the answer's head is there. Redirects come back as answers. `form` is sent
        as a form, or as it is when it is bytes; an `Outgoing` may take as long as it goes on.

        `transfer`: the caller holds one of the slots for blobs; otherwise a slot for short asks is held
        until the answer is closed. Raises ParentUnreachable, ParentBroken (address policy, TLS, no HTTP),
        SlotsTaken, KnownOffline.
        """
        self._policy.check_literal(url)
        async with AsyncExitStack() as stack:
            if not transfer:
                await stack.enter_async_context(self.caps.ask(deadline.remaining()))
            await self.caps.pace(deadline.remaining())
            if self.is_off:
                wait = ceil(self._settings.probe_interval)
                raise KnownOffline("the parent is switched off by the operator", retry_after=wait)
            self._counters["requests"] += 1
            response = await self._request(method, url, headers, form, deadline)
            return Answer(response, stack.pop_all(), self._clock, self._settings.stall_timeout)

    async def _request(
        self,
        method: str,
        url: URL,
        headers: Mapping[str, str],
        form: Form,
        deadline: Deadline,
    ) -> aiohttp.ClientResponse:
        seconds = min(self._settings.answer_timeout, deadline.remaining())
        try:
            async with asyncio.timeout(seconds) as limit:
                return await self._open_session().request(
                    method,
                    url,
                    headers=headers,
                    data=form
                    if form is None or isinstance(form, Mapping | bytes)
                    else self._paced(form, limit),
                    allow_redirects=False,
                    ssl=self._tls_for(url),
                    proxy=self._settings.proxy or None,
                )
        except TimeoutError as error:
            if isinstance(error, aiohttp.ServerTimeoutError):
                raise failure_of(error) from None
            raise TimedOut(f"no answer from the parent within {seconds:g} s") from None
        except (aiohttp.ClientError, OSError, ValueError) as error:
            raise failure_of(error) from None

    async def _paced(self, body: Outgoing, limit: asyncio.Timeout) -> AsyncIterator[bytes]:
        """The pieces; with each the time begins anew, and what the kernel holds of them has as long as a stall."""
        loop = asyncio.get_running_loop()
        async for piece in body.pieces():
            limit.reschedule(None)
            await body.ready(len(piece))
            limit.reschedule(loop.time() + self._settings.answer_timeout + self._settings.stall_timeout)
            yield piece

    async def close(self) -> None:
        """End every connection."""
        if self._session is not None:
            await self._session.close()
            self._session = None

    def _open_session(self) -> aiohttp.ClientSession:
        if self._session is None:
            connector = aiohttp.TCPConnector(
                limit=0,
                use_dns_cache=False,
                resolver=CheckingResolver(self._policy, self._lookup),
                keepalive_timeout=KEEPALIVE_SECONDS,
                socket_factory=self._socket,
            )
            self._session = aiohttp.ClientSession(
                connector=connector,
                timeout=aiohttp.ClientTimeout(total=None, connect=self._settings.connect_timeout),
                cookie_jar=aiohttp.DummyCookieJar(),
                auto_decompress=False,
                trust_env=False,
                requote_redirect_url=False,
                read_bufsize=READ_BYTES,
                skip_auto_headers=("User-Agent", "Accept-Encoding", "Accept"),
            )
        return self._session

    def _socket(self, address: tuple[Any, ...]) -> socket.socket:
        """A socket that gives up when nothing it sent is acknowledged for as long as a connection attempt
        may take: a link that died under a kept connection then costs seconds, not the whole answer
        time-out (tcp(7), TCP_USER_TIMEOUT)."""
        family, kind, protocol = address[:3]
        made = socket.socket(family, kind, protocol)
        made.setblocking(False)
        made.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        if hasattr(socket, "TCP_USER_TIMEOUT"):
            milliseconds = int(self._settings.connect_timeout * 1000)
            made.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, milliseconds)
        return made

    def _tls_for(self, url: URL) -> ssl.SSLContext | bool:
        """How to check certificates; contexts are made at first use (20 ms each). The configured CA and
        `insecure` count for configured hosts; a redirect elsewhere is held to the system's authorities,
        with the configured ones beside them."""
        if url.scheme != "https":
            return True
        own = self._policy.is_configured(url.host or "", url.port)
        return self._own_tls if own else self._foreign_tls

    @cached_property
    def _own_tls(self) -> ssl.SSLContext:
        context = ssl.create_default_context(cafile=self._settings.ca or None)
        if self._settings.insecure:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        return context

    @cached_property
    def _foreign_tls(self) -> ssl.SSLContext:
        context = ssl.create_default_context()
        if self._settings.ca:
            context.load_verify_locations(self._settings.ca)
        return context


def failure_of(error: BaseException) -> ParentFailed:
    """aiohttp's complaint as ours, with nothing of its text but an operating system's or OpenSSL's words."""
    for kinds, failure, words in _FAILURES:
        if isinstance(error, kinds):
            return failure(words.format(tls=_tls_words(error), system=_system_words(error)))
    return ParentBroken(f"the parent's answer is not usable HTTP ({type(error).__name__})")


# the first row that matches counts; aiohttp's classes inherit from several of them
_FAILURES: tuple[tuple[tuple[type[BaseException], ...], type[ParentFailed], str], ...] = (
    ((aiohttp.ConnectionTimeoutError,), ConnectTimedOut, "no connection to the parent in time"),
    ((TimeoutError,), TimedOut, "the parent did not answer in time"),
    ((aiohttp.ClientSSLError, ssl.SSLError), ParentUntrusted, "TLS with the parent failed: {tls}"),
    ((aiohttp.ClientConnectorDNSError,), ParentUnreachable, "the parent's name does not resolve"),
    ((aiohttp.ClientHttpProxyError,), ParentUnreachable, "the egress proxy refused"),
    ((aiohttp.ClientPayloadError,), ParentUnreachable, "the parent's answer ended early"),
    (
        (aiohttp.ClientConnectionError, OSError),
        ParentUnreachable,
        "the connection to the parent failed: {system}",
    ),
)


def _system_words(error: BaseException) -> str:
    """Without the address, which is nobody's business who may look at /readyz."""
    number = getattr(error, "errno", None)
    return os.strerror(number) if isinstance(number, int) and number > 0 else "it ended without an answer"


#: OpenSSL's words for what people meet, with what they mean
_MEANT = {"WRONG_VERSION_NUMBER": "WRONG_VERSION_NUMBER; it seems to speak http, not https"}


def _tls_words(error: BaseException) -> str:
    cause = getattr(error, "certificate_error", None) or getattr(error, "os_error", None) or error
    words = getattr(cause, "verify_message", "") or getattr(cause, "reason", "") or type(error).__name__
    return _MEANT.get(words, words)
