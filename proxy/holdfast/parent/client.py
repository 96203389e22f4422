"""The client of one configured parent: its mirrors in order, then itself; retries within a budget.

Every public method raises `holdfast.errors.ParentNotFound`, `ParentDenied`, `ParentThrottled`,
`ParentErred`, `ParentUnreachable` or `ParentBroken`, and nothing else of its own. `budget` is the time in
seconds a request may take, waits and retries included; the default is for one that a client waits for.
Foreign-layer `urls` of manifests are never fetched (security.md S5): nothing here takes a URL.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, replace
from math import inf
from typing import Any, TypeVar

from holdfast_core.digest import Digest
from holdfast_core.space_format import parent_mark
from yarl import URL

from holdfast import config
from holdfast.bandwidth.caps import Bulk
from holdfast.bandwidth.lane import CLOSED_SECONDS, Lane, SharedLink
from holdfast.bandwidth.share import LinkShare, Work
from holdfast.bandwidth.transfer_pace import TransferPace
from holdfast.clock import Clock
from holdfast.errors import ParentBroken, ParentFailed, ParentNotFound, SchemaOne, TimedOut
from holdfast.http.address import AddressPolicy, Lookup
from holdfast.http.credentials import Anonymous, login_source
from holdfast.http.endpoint import Endpoint, ParentRequest, base_of
from holdfast.http.health import ABOVE_SECONDS, EndpointFault, State, Switch, Verdict
from holdfast.http.redirect import origin
from holdfast.http.retry import INTERACTIVE_SECONDS, Deadline, persist
from holdfast.http.transport import HttpAnswer, Transport
from holdfast.log import log
from holdfast.oci.manifest import (
    MEDIA_TYPES,
    ChildDescriptor,
    Inspected,
    ManifestUnreadable,
    essence,
    fallback_tag,
    is_digest,
    is_schema_1,
    parse_aside,
)
from holdfast.oci.names import is_repository, is_tag
from holdfast.parent import listings
from holdfast.parent.availability import Availability
from holdfast.parent.blob_stream import BlobStream, Placement, checked_size, is_falsely_empty, placement
from holdfast.parent.push_client import PushClient

SCHEMA_ONE = (
    "{image} is a schema 1 image at the parent, which is not served here;"
    " pull it with a docker older than 26 and push it again, and it is one of schema 2"
)
T = TypeVar("T")

MANIFEST_BYTES = 8 << 20
#: the catalogue may have many pages, and no client waits for it (seconds)
LISTING_SECONDS = 120.0
COUNTERS = (
    "requests retries token_requests renewals redirects probes throttled failovers interrupted bytes"
    " mismatches"
)

#: who answered is known to be reachable for so long (seconds)
PROVEN_SECONDS = 60.0
#: the name of the parent without a name, where one is needed
UNNAMED = "default"

__all__ = ["BlobStream", "FetchedManifest", "ManifestHead", "Parent"]


@dataclass(frozen=True, slots=True)
class ManifestHead:
    """The headers of a HEAD. Unverified: `digest` is None when the parent named none."""

    digest: str | None
    media_type: str
    size: int | None


@dataclass(frozen=True, slots=True)
class FetchedManifest:
    """A manifest that was hashed here and read the way every client reads it."""

    body: bytes
    media_type: str
    digest: str
    inspected: Inspected


class Parent:
    """One configured parent. Make it anywhere; use and close it on one event loop.

    `counters` only grow, but for `ratelimit_limit`, `_remaining` and `_window` (s), which are those of the parent's
    last answer and absent before it named any. Raises ValueError for a configuration that is refused.
    """

    def __init__(
        self,
        config: config.ParentSection,
        clock: Clock,
        manifest_bytes: int = MANIFEST_BYTES,
        *,
        lookup: Lookup | None = None,
        link: SharedLink | None = None,
    ) -> None:
        self.config, self.name, self.url = config, config.name, config.url
        #: tells it from other parents in the store
        self.mark = parent_mark(config.url)
        self.counters: dict[str, int] = dict.fromkeys(COUNTERS.split(), 0)
        self._clock, self._manifest_bytes = clock, manifest_bytes
        #: what its bodies of blobs took
        self.pace = TransferPace()
        self._link = link or SharedLink(LinkShare(), clock)
        self._transport = Transport(config, address_policy(config), clock, self.counters, lookup)
        self.endpoints = [
            Endpoint(url, config, Anonymous(), self._transport, clock, self.counters)
            for url in config.mirrors
        ]
        home, _ = base_of(config.url, insecure=config.insecure)
        source = login_source(config.credentials, str(home), clock)
        self.endpoints.append(Endpoint(config.url, config, source, self._transport, clock, self.counters))
        self._project = self.endpoints[-1].quirk.project
        healths = [endpoint.health for endpoint in self.endpoints]
        #: whether it is reachable, and whether bulk work may run
        self.availability = Availability(healths, clock.monotonic())
        self._transports = [self._transport]
        self.up = PushClient(
            self.endpoints[-1],
            clock,
            lambda: self._transport.caps,
            self._qualified,
            lambda: self.enter("push"),
        )

    def enter(self, work: Work) -> Lane:
        """A lane for one body; the caller closes it."""
        return self._link.enter(self.name or UNNAMED, work)

    def is_closed(self, work: Work) -> bool:
        """Whether a cap of 0 holds for this work now."""
        return self._link.share.is_closed(self.name or UNNAMED, work, self._clock.now())

    async def until(self, work: Work, *, closed: bool) -> None:
        """Wait until a cap of 0 holds for this work, or none does."""
        while self.is_closed(work) != closed:
            await self._clock.sleep(CLOSED_SECONDS)

    def bulk(self, work: Bulk) -> AbstractAsyncContextManager[None]:
        """Hold a place for one body that no client waits for (`Caps.bulk`)."""
        return self._transport.caps.bulk(work)

    @property
    def state(self) -> State:
        """The best of the endpoints' states, overridden by the operator's switch: offline means that no request is
        sent."""
        return self.availability.refresh(self._clock.monotonic())

    @property
    def fault(self) -> EndpointFault | None:
        """Why the parent, which is reachable, fulfils no request."""
        return self.endpoints[-1].health.fault

    @property
    def mirror_faults(self) -> list[str]:
        """Sentences about mirrors that are reachable and fulfil no request; the parent may all the same."""
        faults = [(endpoint.base, endpoint.health.fault) for endpoint in self.endpoints[:-1]]
        return [f"mirror {origin(base)} is {fault.kind}: {fault.reason}" for base, fault in faults if fault]

    @property
    def last_failure(self) -> str:
        """Why the last request did not reach the parent, "" when none failed."""
        return self.endpoints[-1].health.reason

    @property
    def upstream_outage(self) -> str:
        """The parent's message about an offline level above it, "" for none."""
        health = self.endpoints[-1].health
        return (
            health.upstream_outage
            if self._clock.monotonic() - health.upstream_outage_at < ABOVE_SECONDS
            else ""
        )

    @property
    def clock_ahead(self) -> float:
        """Seconds by which its clock is ahead of ours."""
        return self.endpoints[-1].health.clock_ahead

    @property
    def verdict(self) -> Verdict:
        """The state for operators: `denied` and `untrusted` beside those of `state`."""
        state, fault = self.state, self.fault
        if fault is None or self.availability.switch == "offline":
            return state
        return "untrusted" if fault.kind == "untrusted" else state if state == "offline" else fault.kind

    def add_transport(self, transport: Transport) -> None:
        """Switch another transport to this parent with it, and close it with it."""
        transport.is_off = self.availability.switch == "offline"
        self._transports.append(transport)

    async def set_switch(self, switch: Switch) -> None:
        """Set the operator's switch. `offline`: every connection ends, and no request is sent to this parent any more,
        not even a probe. `auto`: returns when it was probed."""
        self.availability.set_switch(switch, self._clock.monotonic())
        for transport in self._transports:
            transport.is_off = switch == "offline"
        if switch == "offline":
            await asyncio.gather(*(transport.close() for transport in self._transports))
        else:
            await self.probe()

    # ---- manifests

    async def head_manifest(
        self, name: str, reference: str, *, budget: float = INTERACTIVE_SECONDS
    ) -> ManifestHead:
        """Digest, type and size of the manifest under a tag or digest, without its bytes."""
        request = self._manifest_ask("HEAD", name, reference)

        async def head(endpoint: Endpoint, deadline: Deadline) -> ManifestHead:
            answer = await endpoint.request(request, deadline)
            await answer.close()
            header = answer.header("Docker-Content-Digest")
            digest = header if header and _known_digest(header) else None
            return ManifestHead(digest, essence(answer.header("Content-Type") or ""), answer.length)

        return await self._through(head, budget)

    async def get_manifest(
        self, name: str, reference: str, *, budget: float = INTERACTIVE_SECONDS
    ) -> FetchedManifest:
        """A manifest, hashed and inspected. By digest it must hash to it; by tag it must hash to the
        parent's Docker-Content-Digest where that is given. Raises ParentBroken when it does not, or when
        it is too large or ambiguous (`holdfast.oci.manifest`)."""
        request = self._manifest_ask("GET", name, reference)

        async def get(endpoint: Endpoint, deadline: Deadline) -> FetchedManifest:
            answer = await endpoint.request(request, deadline)
            try:
                body = await answer.body(self._manifest_bytes)
            finally:
                await answer.close()
            if is_schema_1(body, answer.header("Content-Type") or ""):
                raise SchemaOne(
                    SCHEMA_ONE.format(image=f"{name}{'@' if ':' in reference else ':'}{reference}")
                )
            digest = self._verified(body, reference, answer.header("Docker-Content-Digest"))
            inspected = await _inspect(body, answer.header("Content-Type") or "")
            return FetchedManifest(body, inspected.media_type, digest, inspected)

        return await self._through(get, budget)

    def _manifest_ask(self, method: str, name: str, reference: str) -> ParentRequest:
        if not (is_tag(reference) or _known_digest(reference)):
            raise ParentNotFound("no manifest can have this reference")
        return ParentRequest(
            method, self._qualified(name), f"manifests/{reference}", {"Accept": ", ".join(MEDIA_TYPES)}
        )

    def _verified(self, body: bytes, reference: str, header: str | None) -> str:
        """The body's digest, compared with `header`. A header of an unknown algorithm is ignored, because it proves
        nothing; by digest every header is, because the reference proves more."""
        expected = reference if ":" in reference else (header or "").strip()
        if expected and not is_digest(expected):
            raise ParentBroken("the parent's Docker-Content-Digest is no digest")
        algorithm = expected.partition(":")[0] if _known_digest(expected) else "sha256"
        actual = str(Digest.of(body, algorithm))
        if _known_digest(expected) and actual != expected:
            self.counters["mismatches"] += 1
            log.error("manifest mismatched", parent=self.name, expected=expected, actual=actual)
            raise ParentBroken(f"the parent's manifest hashes to {actual}, not to {expected}")
        return actual

    # ---- blobs

    async def head_blob(self, name: str, digest: str, *, budget: float = INTERACTIVE_SECONDS) -> int:
        """The size of a blob in bytes."""
        request = self._blob_ask("HEAD", name, digest)

        async def head(endpoint: Endpoint, deadline: Deadline) -> int:
            try:
                answer = await endpoint.request(request, deadline)
            except ParentNotFound:
                if not endpoint.quirk.confirm_head:
                    raise
                return await self._size_by_get(endpoint, request, digest, deadline)
            await answer.close()
            if answer.length is None or is_falsely_empty(digest, answer.length):
                return await self._size_by_get(endpoint, request, digest, deadline)
            return checked_size(answer.length)

        return await self._through(head, budget)

    async def _size_by_get(
        self, endpoint: Endpoint, request: ParentRequest, digest: str, deadline: Deadline
    ) -> int:
        """The size from a GET of one byte, for parents whose HEAD has no size."""
        answer = await endpoint.request(
            replace(request, method="GET", headers={"Range": "bytes=0-0"}), deadline
        )
        try:
            return _placed(answer, digest, 0, 1).size
        finally:
            await answer.close()

    @asynccontextmanager
    async def get_blob(
        self,
        name: str,
        digest: str,
        *,
        start: int = 0,
        end: int | None = None,
        etag: str = "",
        budget: float = INTERACTIVE_SECONDS,
        lane: Lane | None = None,
    ) -> AsyncIterator[BlobStream]:
        """Open a blob at [start, end) (`end` None: to its end). `etag` is the one an earlier stream gave;
        with it the parent sends the whole blob instead of a range of another one (If-Range).

        `budget` bounds the time to the answer's head, not the body, and does not count the wait for a
        connection while all of the parent's are in use (up to 300 s, in order). A parent that is known to
        be offline is refused at once. `lane` is the caller's part of the link, as long as the stream is open; without
        one it is a miss that a client waits for.
        """
        request = replace(
            self._blob_ask("GET", name, digest, _range_headers(start, end, etag)), transfer=True
        )

        async def open_at(endpoint: Endpoint, deadline: Deadline) -> tuple[HttpAnswer, BlobStream]:
            answer = await endpoint.request(request, deadline)
            try:
                place = _placed(answer, digest, start, end)
                return answer, BlobStream(answer, place, self.counters, own)
            except ParentFailed:
                await answer.close()
                raise

        with lane or self.enter("interactive") as own:
            if self.state == "offline":
                await self._through(
                    open_at, budget
                )  # refuses, and probes when it is time, without a connection
            if own.is_metered:
                await own.ready()
            async with self._transport.caps.transfer():
                answer, stream = await self._through(open_at, budget)
                try:
                    yield stream
                finally:
                    await answer.close()

    def _blob_ask(
        self, method: str, name: str, digest: str, headers: dict[str, str] | None = None
    ) -> ParentRequest:
        if not _known_digest(digest):
            raise ParentNotFound("no blob can have this digest")
        return ParentRequest(method, self._qualified(name), f"blobs/{digest}", headers or {})

    # ---- lists

    async def tags(self, name: str, *, budget: float = INTERACTIVE_SECONDS) -> list[str]:
        """Every tag of a repository, in the parent's order, each once."""
        qualified = self._qualified(name)
        return await self._through(
            lambda endpoint, deadline: listings.tags(endpoint, qualified, deadline), budget
        )

    async def catalogue(self, *, budget: float = LISTING_SECONDS) -> list[str]:
        """Every repository; see `listings.catalogue`."""
        return await self._through(listings.catalogue, budget)

    async def referrers(
        self, name: str, digest: str, *, budget: float = INTERACTIVE_SECONDS
    ) -> list[dict[str, Any]]:
        """The referrers of a digest: dicts of `media_type`, `digest`, `size`, `artifact_type`,
        `annotations`. By the API, or by the fallback tag where there is no API; [] when there is neither."""
        qualified = self._qualified(name)

        async def request(endpoint: Endpoint, deadline: Deadline) -> list[ChildDescriptor]:
            try:
                children = await listings.referrers(endpoint, qualified, digest, deadline)
            except ParentNotFound:
                children = None
            return (
                await self._tagged_referrers(endpoint, qualified, digest, deadline)
                if children is None
                else children
            )

        if not _known_digest(digest):
            raise ParentNotFound("no manifest can have this digest")
        return [_row(child) for child in await self._through(request, budget)]

    async def _tagged_referrers(
        self, endpoint: Endpoint, name: str, digest: str, deadline: Deadline
    ) -> list[ChildDescriptor]:
        request = self._manifest_ask("GET", name, fallback_tag(digest))
        try:
            answer = await endpoint.request(request, deadline)
        except ParentNotFound:
            return []
        try:
            body = await answer.body(self._manifest_bytes)
        finally:
            await answer.close()
        inspected = await _inspect(body, answer.header("Content-Type") or "")
        if not inspected.is_index:
            raise ParentBroken("the parent's referrers tag is not an index")
        return list(inspected.children)

    # ---- life

    async def probe(self) -> bool:
        """Probe the endpoints that are offline, unless a pull caused a probe within the interval. Returns whether any
        endpoint is reachable."""
        now = self._clock.monotonic()
        due = [endpoint for endpoint in self.endpoints if endpoint.health.probe_due(now)]
        await asyncio.gather(*(endpoint.probe() for endpoint in due))
        return self.state != "offline"

    @property
    def was_heard(self) -> bool:
        """Whether it can be reached as far as is known, and has answered at all since the start."""
        return self.state != "offline" and any(endpoint.heard_at > -inf for endpoint in self.endpoints)

    @property
    def is_proven(self) -> bool:
        """Whether it is known to be reachable: one of its endpoints answered lately. At the start none has."""
        heard = max(endpoint.heard_at for endpoint in self.endpoints)
        return self.state != "offline" and self._clock.monotonic() - heard < PROVEN_SECONDS

    async def prove(self) -> bool:
        """`is_proven`, after asking the endpoints when none answered lately."""
        if self.state != "offline" and not self.is_proven:
            await asyncio.gather(*(endpoint.prove() for endpoint in self.endpoints))
        return self.is_proven

    def until_probe(self) -> float:
        """Seconds until the next `probe` is due."""
        now = self._clock.monotonic()
        return min(endpoint.health.until_probe(now) for endpoint in self.endpoints)

    async def close(self) -> None:
        """Cancel probes and token requests, and end every connection."""
        await asyncio.gather(*(endpoint.close() for endpoint in self.endpoints))
        await asyncio.gather(*(transport.close() for transport in self._transports))

    # ---- endpoints and retries

    def _qualified(self, name: str) -> str:
        """The parent's name of a repository (Docker Hub: `library/` before single names)."""
        if not is_repository(name):
            raise ParentNotFound("no repository can have this name")
        return f"{self._project}/{name}" if self._project and "/" not in name else name

    async def _through(self, request: Callable[[Endpoint, Deadline], Awaitable[T]], budget: float) -> T:
        """Send a request to the endpoints in order, and again while it may help and the budget lasts."""
        deadline = Deadline.after(self._clock, budget)
        return await persist(lambda: self._once(request, deadline), deadline, self._may_retry)

    def _may_retry(self) -> bool:
        if self.state == "offline":
            return False
        self.counters["retries"] += 1
        return True

    async def _once(self, request: Callable[[Endpoint, Deadline], Awaitable[T]], deadline: Deadline) -> T:
        """Try each endpoint once, in order. The failure of the last one, the parent itself, is raised: a mirror's 404
        proves nothing."""
        left = len(self.endpoints)
        for endpoint in self.endpoints[:-1]:
            share = Deadline.after(self._clock, deadline.remaining() / left)
            left -= 1
            try:
                return await _bounded(request(endpoint, share), share)
            except ParentFailed as failure:
                self.counters["failovers"] += 1
                log.debug("mirror passed over", mirror=origin(endpoint.base), reason=failure.message)
        return await _bounded(request(self.endpoints[-1], deadline), deadline)


async def _bounded(work: Awaitable[T], deadline: Deadline) -> T:
    seconds = deadline.remaining()
    try:
        async with asyncio.timeout(seconds):
            return await work
    except TimeoutError:
        raise TimedOut(f"the parent did not answer fully within {seconds:g} s") from None


async def _inspect(body: bytes, content_type: str) -> Inspected:
    try:
        return await parse_aside(body, content_type)
    except ManifestUnreadable as error:
        raise ParentBroken(f"the parent's manifest cannot be used: {error}") from None


def _placed(answer: HttpAnswer, digest: str, start: int, end: int | None) -> Placement:
    place = placement(answer.status, answer.length, answer.header("Content-Range"), start, end)
    if is_falsely_empty(digest, place.size):
        raise ParentBroken(f"the parent says that {digest} has no bytes")
    return place


def _range_headers(start: int, end: int | None, etag: str) -> dict[str, str]:
    if start == 0 and end is None:
        return {}
    headers = {"Range": f"bytes={start}-{'' if end is None else end - 1}"}
    return headers | {"If-Range": etag} if etag else headers


def _known_digest(text: str) -> bool:
    return is_digest(text) and text.startswith(("sha256:", "sha512:"))


def _row(child: ChildDescriptor) -> dict[str, Any]:
    return {
        "media_type": child.media_type,
        "digest": child.digest,
        "size": child.size,
        "artifact_type": child.artifact_type,
        "annotations": child.annotations,
    }


def address_policy(settings: config.ParentSection) -> AddressPolicy:
    """The hosts that the operator named: the parent and its mirrors on any port, `redirects`, `realms` and
    the egress proxy as they are written. Raises ValueError."""
    hosts: list[tuple[str, int | None]] = []
    for url in (settings.url, *settings.mirrors):
        hosts.append((base_of(url, insecure=settings.insecure)[0].host or "", None))
    for text in settings.redirects:
        place = URL(f"//{text}")
        hosts.append((place.host or "", place.explicit_port))
    for text in (*settings.realms, *([settings.proxy] if settings.proxy else [])):
        hosts.append((URL(text).host or "", URL(text).port))
    return AddressPolicy(hosts)
