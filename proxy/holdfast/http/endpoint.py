"""One base URL that takes requests: the parent itself or one of its mirrors.

A request here is: refused at once while the endpoint is offline or throttles → authorization → sent → redirects → one
renewal when the authorization was refused → the status as a success or a failure. It is never retried here; `client`
does that.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Mapping
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from math import ceil
from typing import TypeVar

from yarl import URL

from holdfast import config
from holdfast.clock import Clock
from holdfast.errors import (
    ConnectTimedOut,
    KnownOffline,
    LevelAway,
    LoginRefused,
    ParentBroken,
    ParentDenied,
    ParentErred,
    ParentFailed,
    ParentNotFound,
    ParentThrottled,
    ParentUnreachable,
    ParentUntrusted,
    RedirectRefused,
    SlotsTaken,
    StillErring,
    TimedOut,
)
from holdfast.http.authority import PULL, Authority, refuse_unwell
from holdfast.http.challenge import RealmRule
from holdfast.http.credentials import LoginSource, Secret
from holdfast.http.health import EndpointFault, Health
from holdfast.http.quirks import Quirk, quirk_of, quirk_of_service
from holdfast.http.redirect import STATUSES, Hop, headers_for, next_hop, origin, target
from holdfast.http.retry import Deadline
from holdfast.http.transport import Form, HttpAnswer, Transport
from holdfast.log import log

T = TypeVar("T")

USER_AGENT = "holdfast"
#: lists of one parent that are read at once: half of the connections kept for short requests, with the default
LISTS = 4
#: a password that was accepted so lately is right (seconds)
GOOD_SECONDS = 300.0
#: statuses that answer a read
READ = frozenset({200, 206})
#: statuses with which `/v2/` says whether the registry wants a login (distribution-spec end-1)
TEACHES = frozenset({200, 401})
#: methods that follow redirects
SAFE = frozenset({"GET", "HEAD"})
#: at a redirect's target: the signature in its URL expired
EXPIRED = frozenset({400, 401, 403, 410})


@dataclass(frozen=True, slots=True)
class ParentRequest:
    """One request. `tail` follows `/v2/<name>/`, or `/v2/` for a `name` of "". `transfer`: the caller holds a slot for
    blobs. `want`: see `Authority.header`. `accept`: statuses that are answers. A request that has a `body`, or changes
    something, follows no redirect."""

    method: str
    name: str
    tail: str
    headers: Mapping[str, str] = field(default_factory=dict)
    transfer: bool = False
    want: str = PULL
    body: Form = None
    accept: frozenset[int] = READ


class Endpoint:
    """See the module. `settings` are the parent's; `url` is this endpoint's own."""

    def __init__(
        self,
        url: str,
        settings: config.ParentSection,
        source: LoginSource,
        transport: Transport,
        clock: Clock,
        counters: dict[str, int],
    ) -> None:
        self.base, self.prefix = base_of(url, insecure=settings.insecure)
        self.quirk: Quirk = quirk_of(self.base.host or "")
        self.health = Health(settings.probe_interval)
        self._settings, self._transport = settings, transport
        self._clock, self._counters = clock, counters
        self._quiet_until = 0.0
        self._fulfilled_at = float("-inf")
        #: when it answered last, below 500 (monotonic seconds)
        self.heard_at = float("-inf")
        self._probing: asyncio.Task[bool] | None = None
        #: whether its way of login for pushes is known
        self._is_known = False
        self._learning = asyncio.Lock()
        #: each list that is being read may have tens of megabytes
        self.lists = asyncio.Semaphore(LISTS)
        listed = {origin(URL(realm)) for realm in (*settings.realms, *self.quirk.realms)}
        rule = RealmRule(origin(self.base), frozenset(listed), settings.insecure)
        self.authority = Authority(
            transport, source, rule, clock, counters, settings.answer_timeout, self._service_learnt
        )

    async def request(
        self, request: ParentRequest, deadline: Deadline, *, page: URL | None = None
    ) -> HttpAnswer:
        """An answer of a status that the request accepts, to be closed by the caller. `page` replaces the URL of the
        request (a later page of a list, an upload, same origin). Raises ParentFailed."""
        self._refuse_early(request.name)
        answer = await self._noted(
            request.name, self._authorised(request, page or self.url_of(request), deadline)
        )
        self._is_known = self._is_known or request.want != PULL
        self._fulfilled(request.name)
        return answer

    async def authorize(self, name: str, want: str, deadline: Deadline) -> None:
        """Get the authorization for `want` of a repository ahead: a request with a body that is refused without it
        crosses the link twice. Requests `/v2/` while the way of login is unknown. Raises ParentFailed."""
        self._refuse_early(name)
        try:
            async with asyncio.timeout(deadline.remaining()):
                async with self._learning:
                    if not self._is_known:
                        self._refuse_early(name)  # the request before may have found it offline
                        await self._noted(name, self._learn(deadline))
                await self._noted(name, self.authority.header(self.prefix + name, want))
        except TimeoutError:
            raise TimedOut("the login for pushes did not succeed in time") from None

    async def _learn(self, deadline: Deadline) -> None:
        headers = {"User-Agent": USER_AGENT, "Accept-Encoding": "identity"}
        url = self.base.join(URL("/v2/"))
        answer = await self._transport.send("GET", url, headers, deadline)
        lines = answer.header_lines("WWW-Authenticate")
        await answer.discard()
        self._judge(answer, Hop(url), TEACHES)
        if answer.status == 401:
            await self.authority.learn(lines)
        self._is_known = True

    def url_of(self, request: ParentRequest) -> URL:
        """The URL of a request; one without a name is about the whole registry."""
        path = f"/v2/{self.prefix}{request.name}/{request.tail}" if request.name else f"/v2/{request.tail}"
        return self.base.join(URL(path, encoded=True))

    def session_url(self, base: URL, location: str | None) -> URL:
        """The URL at which an upload goes on: at this origin, since credentials and content go there (security.md S4).
        Raises ParentBroken."""
        url = target(base, location)
        if origin(url) != origin(self.base):
            raise ParentBroken(f"the parent wants the upload at another origin, {origin(url)[:80]}: refused")
        return url

    def page_url(self, page: URL, link: str) -> URL:
        """The target of a Link header, which must stay at the page's own origin. Raises ParentBroken."""
        url = target(page, link)
        if origin(url) != origin(self.base):
            raise ParentBroken("the parent's list goes on at another origin")
        return url

    async def probe(self) -> bool:
        """Request `/v2/`; returns whether the endpoint answered below 500, also with a refusal."""
        self._counters["probes"] += 1
        before = self.health.state
        try:
            await self._ask_version()
        except ParentFailed as failure:
            self.health.reason = failure.message
            if isinstance(failure, ParentUntrusted):
                self._refused(EndpointFault("untrusted", failure.message))
            self.health.unreachable(self._clock.monotonic(), decisive=True)
            return False
        self._answered("")
        if before == "offline":
            log.info("parent returned", parent=origin(self.base))
        return True

    async def prove(self) -> None:
        """Request `/v2/` of an endpoint that does not count as offline, so that `heard_at` or its health says whether
        that is true."""
        try:
            await self._noted("", self._ask_version())
        except ParentFailed:
            return
        self._answered("")

    async def _ask_version(self) -> None:
        deadline = Deadline.after(self._clock, 2 * self._settings.connect_timeout)
        headers = {"User-Agent": USER_AGENT, "Accept-Encoding": "identity"}
        answer = await self._transport.send("GET", self.base.join(URL("/v2/")), headers, deadline)
        await answer.discard()
        if answer.status >= 500:
            raise ParentErred(f"the parent answered {answer.status}")

    async def close(self) -> None:
        """Cancel a running probe and token requests."""
        if self._probing is not None:
            self._probing.cancel()
            await asyncio.gather(self._probing, return_exceptions=True)
        await self.authority.close()

    # ---- before and after

    def _refuse_early(self, name: str) -> None:
        now = self._clock.monotonic()
        refusal = self.health.refusal(now, name)
        if refusal is not None:
            if self.health.probe_due(now):
                self._probing = asyncio.create_task(self.probe())
            raise refusal
        if now < self._quiet_until:
            wait = ceil(self._quiet_until - now)
            raise ParentThrottled("the parent asked to slow down", retry_after=wait)

    async def _noted(self, name: str, work: Awaitable[T]) -> T:
        """The result of `work`; a failure counts for the endpoint's health. Raises ParentFailed."""
        try:
            return await work
        except ParentFailed as failure:
            self._note(name, failure)
            raise

    def _note(self, name: str, failure: ParentFailed) -> None:
        """Count a failure for the endpoint's health."""
        now, before = self._clock.monotonic(), self.health.state
        if isinstance(failure, LoginRefused | ParentUntrusted):
            self._refused(
                EndpointFault("denied" if isinstance(failure, LoginRefused) else "untrusted", failure.message)
            )
        if isinstance(failure, ParentUnreachable) and not isinstance(failure, KnownOffline):
            self.health.reason = failure.message
            self.health.unreachable(now, decisive=isinstance(failure, ConnectTimedOut))
            self._proven()
        elif isinstance(failure, ParentErred) and not isinstance(failure, StillErring):
            self.health.erred(now, name)
        elif isinstance(failure, ParentNotFound):
            self._fulfilled(name)
        elif isinstance(failure, LevelAway):
            self._answered(name)
            self.health.upstream_outage, self.health.upstream_outage_at = failure.message, now
        elif isinstance(failure, ParentDenied):
            self._answered(name)
            if not isinstance(failure, LoginRefused):
                self._proven()
        elif isinstance(failure, ParentThrottled) and not isinstance(failure, SlotsTaken):
            self._counters["throttled"] += 1
            self._answered(name)
            self._quiet_until = max(self._quiet_until, now + (failure.retry_after or 0))
        if self.health.state == "offline" and before != "offline":
            log.warning("parent lost", parent=origin(self.base), reason=failure.message)

    def _refused(self, fault: EndpointFault) -> None:
        if self.health.fault is None or self.health.fault.kind != fault.kind:
            log.warning(
                "parent gives nothing", parent=origin(self.base), state=fault.kind, reason=fault.reason
            )
        self.health.refused(fault)

    def _proven(self) -> None:
        """Forget that TLS failed: it answered, or there is no connection."""
        if self.health.fault is not None and self.health.fault.kind == "untrusted":
            self.health.fault = None

    def _fulfilled(self, name: str) -> None:
        self._fulfilled_at = self.heard_at = self._clock.monotonic()
        if self.health.fault is not None:
            log.info("parent gives again", parent=origin(self.base))
        self.health.fulfilled(name)

    def _answered(self, name: str) -> None:
        self.heard_at = self._clock.monotonic()
        self.health.answered(name)

    def _service_learnt(self, service: str) -> None:
        self.quirk = quirk_of_service(service) or self.quirk

    # ---- the request

    async def _authorised(self, request: ParentRequest, url: URL, deadline: Deadline) -> HttpAnswer:
        credential = await self.authority.header(self.prefix + request.name, request.want)
        answer, hop = await self._follow(request, url, credential, deadline)
        if hop.home and self._stale(answer.status, credential):
            lines = answer.header_lines("WWW-Authenticate")
            await answer.discard()
            self._counters["renewals"] += 1
            try:
                credential = await self.authority.renew(
                    self.prefix + request.name, credential, lines, request.want
                )
            except LoginRefused as refusal:
                raise self._refusal(refusal.message) from None
            answer, hop = await self._follow(request, url, credential, deadline)
            if hop.home and self._stale(answer.status, credential):
                await answer.discard()
                words = f"the parent refused with {answer.status}, also after a new login"
                # a password is refused as such, a token perhaps for its scope
                is_login = self.authority.is_basic and answer.status == 401
                raise self._refusal(words) if is_login else ParentDenied(words)
        try:
            self._judge(answer, hop, request.accept)
        except ParentFailed:
            await answer.discard()
            raise
        return answer

    def _refusal(self, words: str) -> ParentDenied:
        """The failure of a login. One that was accepted lately is right, and not allowed to do this."""
        is_good = self.authority.is_basic and self._clock.monotonic() - self._fulfilled_at < GOOD_SECONDS
        return (ParentDenied if is_good else LoginRefused)(words)

    def _stale(self, status: int, credential: Secret | None) -> bool:
        return status == 401 or (credential is not None and status in self.quirk.stale)

    async def _follow(
        self, request: ParentRequest, url: URL, credential: Secret | None, deadline: Deadline
    ) -> tuple[HttpAnswer, Hop]:
        """Send, and follow redirects. The credential is sent as long as the origin stays."""
        headers = {"User-Agent": USER_AGENT, "Accept-Encoding": "identity", **request.headers}
        if credential is not None:
            headers["Authorization"] = credential.reveal()
        hop = Hop(url)
        while True:
            answer = await self._send(request, hop, headers, deadline)
            if hop.home:
                self._read_limits(answer)
                self._read_clock(answer)
            if answer.status not in STATUSES or request.method not in SAFE:
                return answer, hop
            self._counters["redirects"] += 1
            location = answer.header("Location")
            await answer.discard()
            hop = next_hop(hop, location)

    async def _send(
        self, request: ParentRequest, hop: Hop, headers: Mapping[str, str], deadline: Deadline
    ) -> HttpAnswer:
        try:
            return await self._transport.send(
                request.method,
                hop.url,
                headers_for(hop, headers),
                deadline,
                form=request.body,
                transfer=request.transfer,
            )
        except (ParentUnreachable, ParentUntrusted) as failure:
            if hop.home:
                raise
            # a storage host that is offline, or untrusted, says nothing about the parent itself
            raise RedirectRefused(f"at the redirect's target: {failure.message}") from None

    def _read_clock(self, answer: HttpAnswer) -> None:
        """Compare its Date (RFC 9110 6.6.1), in whole seconds, with our clock; a cached answer has an old one."""
        try:
            date = parsedate_to_datetime(answer.header("Date") or "").timestamp()
        except (ValueError, OverflowError, OSError):
            return
        if answer.header("Age") is None:
            self.health.clock_measured(date - self._clock.now())

    def _read_limits(self, answer: HttpAnswer) -> None:
        """Keep Docker Hub's `ratelimit-limit: 100;w=21600` and `ratelimit-remaining: 76;w=21600`."""
        for name in ("limit", "remaining"):
            number, _, window = (answer.header(f"ratelimit-{name}") or "").partition(";")
            self._keep_limit(name, number.strip())
            self._keep_limit("window", window.strip().removeprefix("w="))

    def _keep_limit(self, name: str, number: str) -> None:
        if number.isascii() and number.isdigit() and len(number) < 10:
            self._counters[f"ratelimit_{name}"] = int(number)

    def _judge(self, answer: HttpAnswer, hop: Hop, accept: frozenset[int]) -> None:
        """Raise the failure that a status means, if it means one."""
        status = answer.status
        if status in accept:
            if (answer.header("Content-Encoding") or "identity").strip().lower() != "identity":
                raise ParentBroken("the parent encoded the content, which changes its bytes")
            return
        refuse_unwell(answer, self._clock.now())
        if not hop.home and status in EXPIRED:
            raise RedirectRefused(f"the redirect's target refused with {status}")
        if status in (404, 410):
            raise ParentNotFound(f"the parent answered {status}")
        if status in (401, 403, 451):
            raise ParentDenied(f"the parent answered {status}")
        raise ParentBroken(f"the parent answered {status}")


def base_of(url: str, *, insecure: bool) -> tuple[URL, str]:
    """The origin of an endpoint and the prefix of every repository there (`https://host/project` → `project/`).

    Raises ValueError for http without `insecure`, user information, a query, or no host.
    """
    parsed = URL(url)
    if parsed.scheme not in ("http", "https") or not parsed.raw_host:
        raise ValueError("not an http or https URL of a host")
    if parsed.raw_user is not None or parsed.raw_query_string or parsed.raw_fragment:
        raise ValueError("a parent's URL is scheme, host, port and perhaps a path, nothing else")
    if parsed.scheme == "http" and not insecure:
        raise ValueError(f"{origin(parsed)} is not https; set insecure to allow that")
    quirk = quirk_of(parsed.host or "")
    if quirk.endpoint and parsed.is_default_port():
        parsed = parsed.with_host(quirk.endpoint)
    path = parsed.path.strip("/").removeprefix("v2").strip("/")
    return parsed.origin(), f"{path}/" if path else ""
