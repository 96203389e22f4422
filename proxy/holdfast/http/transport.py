"""Sends one request to a parent and receives its answer. aiohttp carries it; every policy it has of its own is off:
redirects, cookies, decompression, environment proxies (`egress.py` has ours), netrc, DNS cache.

This module never retries. All errors of aiohttp become one of the parent's failures, with a text of ours: aiohttp's own
texts contain URLs, and a presigned URL is a secret.

A parent may send a few interim answers (1xx) before each answer. aiohttp takes any number of them, and keeps each until
the caller reads on, so a parent that sends nothing else would fill the memory until the time-out: here a connection
with more than `INTERIM_ANSWERS` ends.
"""

from __future__ import annotations

import asyncio
import os
import socket
import ssl
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack
from functools import cached_property, partial
from math import ceil
from typing import Any, Protocol

import aiohttp
from aiohttp.client_proto import ResponseHandler
from holdfast_core.filesystem.disk_state import SHORTAGES
from holdfast_core.filesystem.files import has_descriptors
from yarl import URL

from holdfast import config
from holdfast.bandwidth.caps import Caps
from holdfast.clock import Clock
from holdfast.errors import (
    ConnectTimedOut,
    DescriptorsTaken,
    KnownOffline,
    ParentBroken,
    ParentFailed,
    ParentUnreachable,
    ParentUntrusted,
    TimedOut,
)
from holdfast.http.address import AddressPolicy, CheckingResolver, Lookup
from holdfast.http.body import BodyPace, SocketBody, take_over
from holdfast.http.egress import NoProxy
from holdfast.http.retry import Deadline

#: before one answer; proxies send one 100 or 103, seldom two
INTERIM_ANSWERS = 8
#: what ends the head of an answer
_END = b"\r\n\r\n"
READ_BYTES = 256 * 1024
#: bodies of refusals up to this size are read and dropped, so that the connection can be used again
DISCARD_BYTES = 64 * 1024
#: the kernel takes no more of a body beyond what is on the link: bytes in its buffer cannot give way to a miss, and
#: would be counted as sent
UNSENT_BYTES = 64 * 1024
#: a keep-alive connection is dropped before usual load balancers drop it (60 s)
KEEPALIVE_SECONDS = 50.0


class InterimFlood(aiohttp.ClientError):
    """A parent sent more interim answers than allowed before one answer."""


class BoundedHandler(ResponseHandler):
    """A connection that ends with the first interim answer beyond `INTERIM_ANSWERS`."""

    _interim = 0
    _is_flooded = False

    def data_received(self, data: bytes) -> None:
        """Give the parser one head at a time where interim answers come, so that it never reads more of them than are
        allowed. The rest is copied, and a body may look like them: so one read is cut into no more pieces."""
        for _ in range(INTERIM_ANSWERS + 1):
            if self._is_flooded or not (self._interim or data.startswith((b"HTTP/1.1 1", b"HTTP/1.0 1"))):
                break
            head, end, rest = data.partition(_END)
            if not end or not rest:
                break
            super().data_received(head + end)
            data = rest
        if not self._is_flooded:
            super().data_received(data)

    def feed_data(self, data: tuple[Any, Any], size: int = 0) -> None:
        """Count the head that the parser has read."""
        code = data[0].code
        self._interim = self._interim + 1 if 100 <= code < 200 and code != 101 else 0
        if self._interim <= INTERIM_ANSWERS:
            super().feed_data(data, size)
        elif not self._is_flooded:
            self._is_flooded = True
            self.force_close()
            self.set_exception(InterimFlood(f"over {INTERIM_ANSWERS} interim answers"))


class BoundedConnector(aiohttp.TCPConnector):
    """Makes connections of `BoundedHandler`."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        handler: type[ResponseHandler] = BoundedHandler
        self._factory = partial(handler, loop=asyncio.get_running_loop())


class Outgoing(Protocol):
    """A body that is sent piece by piece, from its beginning each time `pieces` is called. Its length is in the headers
    of the request."""

    def pieces(self) -> AsyncIterator[bytes]: ...

    async def ready(self, size: int) -> None:
        """Wait until a piece of `size` bytes may be sent. No time-out runs meanwhile."""
        ...


Form = Mapping[str, str] | bytes | Outgoing | None


class HttpAnswer:
    """Status, headers and body of one answer. Its owner must `close` it."""

    def __init__(
        self, response: aiohttp.ClientResponse, held: AsyncExitStack, clock: Clock, stall_timeout: float
    ) -> None:
        self._response, self._held, self._clock = response, held, clock
        self._stall_timeout = stall_timeout
        self._content: aiohttp.StreamReader | SocketBody | None = None
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

    def pace(self) -> BodyPace:
        """A fresh measure of whether the body comes fast enough."""
        return BodyPace(self._stall_timeout)

    async def next_bytes(self, pace: BodyPace) -> bytes | memoryview:
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

    def _begin(self) -> aiohttp.StreamReader | SocketBody:
        self._content = body = take_over(self._response) or self._response.content
        self.narrow(self._rate)
        return body

    def narrow(self, rate: float) -> None:
        """Make the window for a rate (bytes a second), 0 for no bound. A short body keeps its own."""
        self._rate = rate
        if isinstance(self._content, SocketBody):
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
        """Read and drop a short body, or else drop the connection; then close."""
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
        settings: config.ParentSection,
        policy: AddressPolicy,
        clock: Clock,
        counters: dict[str, int],
        lookup: Lookup | None = None,
    ) -> None:
        self._settings, self._policy, self._clock = settings, policy, clock
        self._counters, self._lookup = counters, lookup
        self._direct = NoProxy(settings.direct)
        #: switched off by the operator: no packet is sent
        self.is_off = False
        self.caps = Caps(settings.connections, settings.requests_per_second, clock)
        self._session: aiohttp.ClientSession | None = None
        self._last_socket: socket.socket | None = None

    @property
    def own_address(self) -> str:
        """The address of this machine towards the parent, on the connection that was made last; "" where it is
        closed."""
        try:
            if self._last_socket is None or not self._last_socket.getpeername():
                return ""
            return str(self._last_socket.getsockname()[0])
        except OSError:
            return ""

    async def send(
        self,
        method: str,
        url: URL,
        headers: Mapping[str, str],
        deadline: Deadline,
        *,
        form: Form = None,
        transfer: bool = False,
    ) -> HttpAnswer:
        """Send one request; returns when the answer's head was received. Redirects are answers. `form` is sent
        as a form, or as it is when it is bytes; an `Outgoing` may take as long as it goes on.

        `transfer`: the caller holds one of the slots for blobs; otherwise a slot for short requests is held
        until the answer is closed. Raises ParentUnreachable, ParentBroken (address policy, TLS, no HTTP),
        SlotsTaken, KnownOffline.
        """
        self._policy.check_literal(url)
        async with AsyncExitStack() as stack:
            if not transfer:
                await stack.enter_async_context(self.caps.short(deadline.remaining()))
            await self.caps.pace(deadline.remaining())
            if self.is_off:
                wait = ceil(self._settings.probe_interval)
                raise KnownOffline("the parent is switched off by the operator", retry_after=wait)
            self._counters["requests"] += 1
            response = await self._request(method, url, headers, form, deadline)
            return HttpAnswer(response, stack.pop_all(), self._clock, self._settings.stall_timeout)

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
                    proxy=self._proxy_for(url),
                )
        except TimeoutError as error:
            if isinstance(error, aiohttp.ServerTimeoutError):
                raise failure_of(error) from None
            raise TimedOut(f"no answer from the parent within {seconds:g} s") from None
        except (aiohttp.ClientError, OSError, ValueError) as error:
            raise failure_of(error) from None

    def _proxy_for(self, url: URL) -> str | None:
        if not self._settings.proxy or self._direct.covers(url.host or "", url.port):
            return None
        return self._settings.proxy

    async def _paced(self, body: Outgoing, limit: asyncio.Timeout) -> AsyncIterator[bytes]:
        """The pieces; the time-out begins anew with each, and allows a stall for those in the kernel's buffer."""
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
            connector = BoundedConnector(
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
        opened = socket.socket(family, kind, protocol)
        opened.setblocking(False)
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        if hasattr(socket, "TCP_NOTSENT_LOWAT"):
            opened.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, UNSENT_BYTES)
        if hasattr(socket, "TCP_USER_TIMEOUT"):
            milliseconds = int(self._settings.connect_timeout * 1000)
            opened.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, milliseconds)
        self._last_socket = opened
        return opened

    def _tls_for(self, url: URL) -> ssl.SSLContext | bool:
        """The TLS context for a URL; contexts are made at first use (20 ms each). The configured CA and
        `insecure` apply to configured hosts; another host is checked against the system's authorities,
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
    """An error of aiohttp as a failure of ours, without its text but the operating system's or OpenSSL's words."""
    if _is_shortage(error):
        return DescriptorsTaken("no file descriptor is left for a connection to the parent", retry_after=1)
    for kinds, failure, words in _FAILURES:
        if isinstance(error, kinds):
            status = getattr(error, "status", 0)
            return failure(words.format(tls=_tls_words(error), system=_system_words(error), status=status))
    return ParentBroken(f"the parent's answer is not usable HTTP ({type(error).__name__})")


# the first row that matches applies; aiohttp's classes inherit from several of them
_FAILURES: tuple[tuple[tuple[type[BaseException], ...], type[ParentFailed], str], ...] = (
    ((aiohttp.ConnectionTimeoutError,), ConnectTimedOut, "no connection to the parent in time"),
    ((TimeoutError,), TimedOut, "the parent did not answer in time"),
    ((aiohttp.ClientSSLError, ssl.SSLError), ParentUntrusted, "TLS with the parent failed: {tls}"),
    ((aiohttp.ClientConnectorDNSError,), ParentUnreachable, "the parent's name does not resolve"),
    ((aiohttp.ClientHttpProxyError,), ParentUnreachable, "the egress proxy refused ({status})"),
    ((aiohttp.ClientProxyConnectionError,), ParentUnreachable, "no connection to the egress proxy: {system}"),
    ((InterimFlood,), ParentBroken, f"the parent sent over {INTERIM_ANSWERS} interim answers (1xx)"),
    ((aiohttp.ClientPayloadError,), ParentUnreachable, "the parent's answer ended early"),
    (
        (aiohttp.ClientConnectionError, OSError),
        ParentUnreachable,
        "the connection to the parent failed: {system}",
    ),
)


def _is_shortage(error: BaseException) -> bool:
    """Whether it was for want of a descriptor. The resolver does not say so."""
    if isinstance(error, aiohttp.ClientConnectorDNSError):
        return not has_descriptors(1)
    return getattr(error, "errno", None) in SHORTAGES


def _system_words(error: BaseException) -> str:
    """The system's words without the address, which /readyz must not show."""
    number = getattr(error, "errno", None)
    return os.strerror(number) if isinstance(number, int) and number > 0 else "it ended without an answer"


#: frequent words of OpenSSL, with their meaning
_EXPLAINED = {"WRONG_VERSION_NUMBER": "WRONG_VERSION_NUMBER; it seems to speak http, not https"}


def _tls_words(error: BaseException) -> str:
    cause = getattr(error, "certificate_error", None) or getattr(error, "os_error", None) or error
    words = getattr(cause, "verify_message", "") or getattr(cause, "reason", "") or type(error).__name__
    return _EXPLAINED.get(words, words)
