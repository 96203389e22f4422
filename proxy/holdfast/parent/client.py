"""The client of one configured parent: its mirrors in order, then itself; tries again within a budget.

Every public method raises `holdfast.errors.ParentNotFound`, `ParentDenied`, `ParentThrottled`,
`ParentErred`, `ParentUnreachable` or `ParentBroken`, and nothing else of its own. `budget` is the time in
seconds an ask may take, waits and retries included; the default is for an ask that a client waits for.
Foreign-layer `urls` of manifests are never fetched (security.md S5): nothing here takes a URL.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import structlog
from holdfast_core.digest import Digest
from yarl import URL

from holdfast import config
from holdfast.clock import Clock
from holdfast.errors import ParentBroken, ParentFailed, ParentNotFound, SchemaOne, TimedOut
from holdfast.manifest import (
    MEDIA_TYPES,
    Child,
    Inspected,
    ManifestInvalid,
    essence,
    fallback_tag,
    is_digest,
    is_schema_1,
    parse,
)
from holdfast.parent import lists
from holdfast.parent.address import AddressPolicy, Lookup
from holdfast.parent.caps import Bulk
from holdfast.parent.credentials import Anonymous, login_source
from holdfast.parent.endpoint import Ask, Endpoint, base_of
from holdfast.parent.health import ABOVE_SECONDS, Fault, State, Switch, Verdict
from holdfast.parent.lane import CLOSED_SECONDS, Lane, Line
from holdfast.parent.push import Pushing
from holdfast.parent.redirect import origin
from holdfast.parent.retry import INTERACTIVE_SECONDS, Deadline, persist
from holdfast.parent.stream import BlobStream, Placement, checked_size, placement
from holdfast.parent.transport import Answer, Transport
from holdfast.sync.offline import Availability
from holdfast.sync.share import Share, Work
from holdfast.wire.names import is_repository, is_tag

SCHEMA_ONE = (
    "{image} is a schema 1 image at the parent, which is not served here;"
    " pull it with a docker older than 26 and push it again, and it is one of schema 2"
)
log = structlog.get_logger()
T = TypeVar("T")

MANIFEST_BYTES = 8 << 20
#: manifests over this size are parsed in a thread: about 0.1 s a MiB
INLINE_PARSE_BYTES = 256 * 1024
#: all of a parent's repositories may take many pages, and nobody waits for them (seconds)
LISTING_SECONDS = 120.0
COUNTERS = (
    "requests retries token_requests renewals redirects probes throttled failovers interrupted bytes"
    " mismatches"
)

#: what the parent without a name is called where it needs one
UNNAMED = "default"

__all__ = ["BlobStream", "FetchedManifest", "ManifestHead", "Parent"]


@dataclass(frozen=True, slots=True)
class ManifestHead:
    """What a HEAD said. Unverified: `digest` is None when the parent did not say one."""

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

    `counters` only grow, but `ratelimit_limit`, `_remaining` and `_window` (s), which are the parent's last
    word and absent until it has spoken. Raises ValueError for a configuration that is refused.
    """

    def __init__(
        self,
        config: config.Parent,
        clock: Clock,
        manifest_bytes: int = MANIFEST_BYTES,
        *,
        lookup: Lookup | None = None,
        line: Line | None = None,
    ) -> None:
        self.config, self.name, self.url = config, config.name, config.url
        self.counters: dict[str, int] = dict.fromkeys(COUNTERS.split(), 0)
        self._clock, self._manifest_bytes = clock, manifest_bytes
        self._line = line or Line(Share(), clock)
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
        #: whether it is there, and whether bulk work may go on
        self.availability = Availability(healths, clock.monotonic())
        self._transports = [self._transport]
        self.up = Pushing(
            self.endpoints[-1],
            clock,
            lambda: self._transport.caps,
            self._qualified,
            lambda: self.enter("push"),
        )

    def enter(self, work: Work) -> Lane:
        """A lane for one body; whoever asks for one closes it."""
        return self._line.enter(self.name or UNNAMED, work)

    def is_closed(self, work: Work) -> bool:
        """Whether a cap of 0 holds for this work now."""
        return self._line.share.is_closed(self.name or UNNAMED, work, self._clock.now())

    async def until(self, work: Work, *, closed: bool) -> None:
        """Wait until a cap of 0 holds for this work, or none does."""
        while self.is_closed(work) != closed:
            await self._clock.sleep(CLOSED_SECONDS)

    def bulk(self, work: Bulk) -> AbstractAsyncContextManager[None]:
        """Room for one body that nobody waits for (`Caps.bulk`)."""
        return self._transport.caps.bulk(work)

    @property
    def state(self) -> State:
        """The best of the endpoints' states, and the operator's word above it: offline means that nothing can be
        had."""
        return self.availability.look(self._clock.monotonic())

    @property
    def fault(self) -> Fault | None:
        """Why the parent, which is there, gives nothing."""
        return self.endpoints[-1].health.fault

    @property
    def mirror_faults(self) -> list[str]:
        """Sentences about mirrors that are there and give nothing; the parent may all the same."""
        found = [(endpoint.base, endpoint.health.fault) for endpoint in self.endpoints[:-1]]
        return [f"mirror {origin(base)} is {fault.kind}: {fault.reason}" for base, fault in found if fault]

    @property
    def outage(self) -> str:
        """Why the parent could not be reached the last time."""
        return self.endpoints[-1].health.reason

    @property
    def above(self) -> str:
        """What it said of a level above it that is away, "" for nothing."""
        health = self.endpoints[-1].health
        return health.above if self._clock.monotonic() - health.above_at < ABOVE_SECONDS else ""

    @property
    def ahead(self) -> float:
        """By how much its clock is ahead of ours (seconds)."""
        return self.endpoints[-1].health.ahead

    @property
    def verdict(self) -> Verdict:
        """The state, as it is shown: `denied` and `untrusted` beside those that say whether the parent is there."""
        state, fault = self.state, self.fault
        if fault is None or self.availability.switch == "offline":
            return state
        return "untrusted" if fault.kind == "untrusted" else state if state == "offline" else fault.kind

    def oversee(self, transport: Transport) -> None:
        """Something else speaks to this parent, and is silent when it is switched off."""
        transport.is_off = self.availability.switch == "offline"
        self._transports.append(transport)

    async def turn(self, switch: Switch) -> None:
        """The operator's word. `offline`: every connection ends, and nothing goes to this parent any more, not even a
        probe. `auto`: returns when it was asked whether it is there."""
        self.availability.turn(switch, self._clock.monotonic())
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
        """What the parent has under a tag or digest, without its bytes."""
        ask = self._manifest_ask("HEAD", name, reference)

        async def head(endpoint: Endpoint, deadline: Deadline) -> ManifestHead:
            answer = await endpoint.ask(ask, deadline)
            await answer.close()
            said = answer.header("Docker-Content-Digest")
            digest = said if said and _known_digest(said) else None
            return ManifestHead(digest, essence(answer.header("Content-Type") or ""), answer.length)

        return await self._through(head, budget)

    async def get_manifest(
        self, name: str, reference: str, *, budget: float = INTERACTIVE_SECONDS
    ) -> FetchedManifest:
        """A manifest, hashed and inspected. By digest it must hash to it; by tag it must hash to the
        parent's Docker-Content-Digest where that is given. Raises ParentBroken when it does not, or when
        it is too large or ambiguous (`holdfast.manifest`)."""
        ask = self._manifest_ask("GET", name, reference)

        async def get(endpoint: Endpoint, deadline: Deadline) -> FetchedManifest:
            answer = await endpoint.ask(ask, deadline)
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

    def _manifest_ask(self, method: str, name: str, reference: str) -> Ask:
        if not (is_tag(reference) or _known_digest(reference)):
            raise ParentNotFound("no manifest can have this reference")
        return Ask(
            method, self._qualified(name), f"manifests/{reference}", {"Accept": ", ".join(MEDIA_TYPES)}
        )

    def _verified(self, body: bytes, reference: str, said: str | None) -> str:
        """The body's digest. A header that names an unknown algorithm proves nothing and is ignored; by
        digest the header is not looked at, because the reference is the stronger word."""
        expected = reference if ":" in reference else (said or "").strip()
        if expected and not is_digest(expected):
            raise ParentBroken("the parent's Docker-Content-Digest is no digest")
        algorithm = expected.partition(":")[0] if _known_digest(expected) else "sha256"
        found = str(Digest.of(body, algorithm))
        if _known_digest(expected) and found != expected:
            self.counters["mismatches"] += 1
            log.error("manifest mismatched", parent=self.name, expected=expected, found=found)
            raise ParentBroken(f"the parent's manifest hashes to {found}, not to {expected}")
        return found

    # ---- blobs

    async def head_blob(self, name: str, digest: str, *, budget: float = INTERACTIVE_SECONDS) -> int:
        """The size of a blob in bytes."""
        ask = self._blob_ask("HEAD", name, digest)

        async def head(endpoint: Endpoint, deadline: Deadline) -> int:
            try:
                answer = await endpoint.ask(ask, deadline)
            except ParentNotFound:
                if not endpoint.quirk.confirm_head:
                    raise
                return await self._size_by_get(endpoint, ask, deadline)
            await answer.close()
            if answer.length is None:
                return await self._size_by_get(endpoint, ask, deadline)
            return checked_size(answer.length)

        return await self._through(head, budget)

    async def _size_by_get(self, endpoint: Endpoint, ask: Ask, deadline: Deadline) -> int:
        """The size from a GET of one byte, for parents whose HEAD does not tell."""
        answer = await endpoint.ask(replace(ask, method="GET", headers={"Range": "bytes=0-0"}), deadline)
        try:
            return _placed(answer, 0, 1).size
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
        be offline is not waited for. `lane` is the caller's part of the link, as long as the stream is open; without
        one it is a miss that somebody waits for.
        """
        ask = replace(self._blob_ask("GET", name, digest, _range_headers(start, end, etag)), transfer=True)

        async def open_at(endpoint: Endpoint, deadline: Deadline) -> tuple[Answer, BlobStream]:
            answer = await endpoint.ask(ask, deadline)
            try:
                place = _placed(answer, start, end)
                return answer, BlobStream(answer, place, self.counters, own)
            except ParentFailed:
                await answer.close()
                raise

        with lane or self.enter("interactive") as own:
            if self.state == "offline":
                await self._through(
                    open_at, budget
                )  # refuses, and probes when it is time, without a connection
            if own.counts:
                await own.ready()
            async with self._transport.caps.transfer():
                answer, stream = await self._through(open_at, budget)
                try:
                    yield stream
                finally:
                    await answer.close()

    def _blob_ask(self, method: str, name: str, digest: str, headers: dict[str, str] | None = None) -> Ask:
        if not _known_digest(digest):
            raise ParentNotFound("no blob can have this digest")
        return Ask(method, self._qualified(name), f"blobs/{digest}", headers or {})

    # ---- lists

    async def tags(self, name: str, *, budget: float = INTERACTIVE_SECONDS) -> list[str]:
        """Every tag of a repository, in the parent's order, each once."""
        qualified = self._qualified(name)
        return await self._through(
            lambda endpoint, deadline: lists.tags(endpoint, qualified, deadline), budget
        )

    async def catalogue(self, *, budget: float = LISTING_SECONDS) -> list[str]:
        """Every repository, as `lists.catalogue` says."""
        return await self._through(lists.catalogue, budget)

    async def referrers(
        self, name: str, digest: str, *, budget: float = INTERACTIVE_SECONDS
    ) -> list[dict[str, Any]]:
        """What refers to a digest: dicts of `media_type`, `digest`, `size`, `artifact_type`,
        `annotations`. By the API, or by the fallback tag where there is no API; [] when there is neither."""
        qualified = self._qualified(name)

        async def ask(endpoint: Endpoint, deadline: Deadline) -> list[Child]:
            try:
                found = await lists.referrers(endpoint, qualified, digest, deadline)
            except ParentNotFound:
                found = None
            return (
                await self._tagged_referrers(endpoint, qualified, digest, deadline)
                if found is None
                else found
            )

        if not _known_digest(digest):
            raise ParentNotFound("no manifest can have this digest")
        return [_row(child) for child in await self._through(ask, budget)]

    async def _tagged_referrers(
        self, endpoint: Endpoint, name: str, digest: str, deadline: Deadline
    ) -> list[Child]:
        ask = self._manifest_ask("GET", name, fallback_tag(digest))
        try:
            answer = await endpoint.ask(ask, deadline)
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
        """Ask the endpoints that are offline whether they are back, unless a pull caused that to be asked
        within the interval. Returns whether one of all is there."""
        now = self._clock.monotonic()
        due = [endpoint for endpoint in self.endpoints if endpoint.health.probe_due(now)]
        await asyncio.gather(*(endpoint.probe() for endpoint in due))
        return self.state != "offline"

    def until_probe(self) -> float:
        """Seconds until `probe` has something to ask, or to look again."""
        now = self._clock.monotonic()
        return min(endpoint.health.until_probe(now) for endpoint in self.endpoints)

    async def close(self) -> None:
        """Cancel what is under way and end every connection."""
        await asyncio.gather(*(endpoint.close() for endpoint in self.endpoints))
        await self._transport.close()

    # ---- endpoints and tries

    def _qualified(self, name: str) -> str:
        """The parent's name of a repository (Docker Hub: `library/` before single names)."""
        if not is_repository(name):
            raise ParentNotFound("no repository can have this name")
        return f"{self._project}/{name}" if self._project and "/" not in name else name

    async def _through(self, ask: Callable[[Endpoint, Deadline], Awaitable[T]], budget: float) -> T:
        """Ask the endpoints in order, and again while it may help and the budget lasts."""
        deadline = Deadline.after(self._clock, budget)
        return await persist(lambda: self._once(ask, deadline), deadline, self._may_retry)

    def _may_retry(self) -> bool:
        if self.state == "offline":
            return False
        self.counters["retries"] += 1
        return True

    async def _once(self, ask: Callable[[Endpoint, Deadline], Awaitable[T]], deadline: Deadline) -> T:
        """Each endpoint once, in order. The last one's failure counts: a mirror's 404 proves nothing, and
        neither does the absence of a mirror when the parent itself says 404."""
        left = len(self.endpoints)
        for endpoint in self.endpoints[:-1]:
            share = Deadline.after(self._clock, deadline.remaining() / left)
            left -= 1
            try:
                return await _bounded(ask(endpoint, share), share)
            except ParentFailed as failure:
                self.counters["failovers"] += 1
                log.debug("mirror passed over", mirror=origin(endpoint.base), reason=failure.message)
        return await _bounded(ask(self.endpoints[-1], deadline), deadline)


async def _bounded(work: Awaitable[T], deadline: Deadline) -> T:
    seconds = deadline.remaining()
    try:
        async with asyncio.timeout(seconds):
            return await work
    except TimeoutError:
        raise TimedOut(f"the parent did not answer fully within {seconds:g} s") from None


async def _inspect(body: bytes, content_type: str) -> Inspected:
    try:
        if len(body) <= INLINE_PARSE_BYTES:
            return parse(body, content_type)
        return await asyncio.to_thread(parse, body, content_type)
    except ManifestInvalid as error:
        raise ParentBroken(f"the parent's manifest cannot be used: {error}") from None


def _placed(answer: Answer, start: int, end: int | None) -> Placement:
    return placement(answer.status, answer.length, answer.header("Content-Range"), start, end)


def _range_headers(start: int, end: int | None, etag: str) -> dict[str, str]:
    if start == 0 and end is None:
        return {}
    headers = {"Range": f"bytes={start}-{'' if end is None else end - 1}"}
    return headers | {"If-Range": etag} if etag else headers


def _known_digest(text: str) -> bool:
    return is_digest(text) and text.startswith(("sha256:", "sha512:"))


def _row(child: Child) -> dict[str, Any]:
    return {
        "media_type": child.media_type,
        "digest": child.digest,
        "size": child.size,
        "artifact_type": child.artifact_type,
        "annotations": child.annotations,
    }


def address_policy(settings: config.Parent) -> AddressPolicy:
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
