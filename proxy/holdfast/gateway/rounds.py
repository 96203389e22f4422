"""Carries out what `gateway/child.py` decides, in the keeper: asks the parent, keeps what it says in one transaction,
and tells what is wrong. Nothing waits for it: a node serves what it holds whether this speaks to anybody or not.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from importlib.metadata import version

import msgspec
import structlog
from holdfast_core.errors import StoreError
from holdfast_core.store import Store
from msgspec.structs import replace

from holdfast import errors
from holdfast.clock import Clock
from holdfast.config import Configuration
from holdfast.control import command
from holdfast.control.bounds import STATUS_BYTES, bounded, details_within, fitting, relayed, share
from holdfast.control.catalogue import NAMESPACES
from holdfast.control.moment import seconds, stamp
from holdfast.control.resource import (
    REGISTRY,
    Certificate,
    ConnectedRegistry,
    Identity,
    LoginServer,
    LoginTls,
    Status,
    StatusDetail,
)
from holdfast.control.resource import Configuration as Received
from holdfast.control.schedule import closed_for
from holdfast.control.states import timeless
from holdfast.gateway.child import (
    Action,
    Activate,
    Activated,
    BrokenOff,
    Child,
    Configured,
    Elsewhere,
    Failed,
    Fetch,
    Outcome,
    Report,
    Reported,
    Rest,
    Unchanged,
)
from holdfast.gateway.identity import own_identity
from holdfast.gateway.link import Link
from holdfast.gateway.message import StatusReport
from holdfast.gateway.settings import apply_settings
from holdfast.sync.full import Synchronised

log = structlog.get_logger()

Control = Callable[[bytes], Awaitable[bytes]]
Troubles = Callable[[], Sequence[StatusDetail]]

#: that the parent was heard of is written down so often
CONTACT_SECONDS = 3600.0


class Rounds:
    """The conversation of one node with its parent. `control` is the keeper's; `troubles` says what is wrong with
    the node itself."""

    def __init__(
        self,
        config: Configuration,
        name: str,
        store: Store,
        control: Control,
        troubles: Troubles,
        clock: Clock,
    ) -> None:
        self._config, self._store, self._control = config, store, control
        self._troubles, self._clock = troubles, clock
        self.identity = Identity(name=name, instance=secrets.token_hex(16))
        self.link = Link(config.parent[0], name, clock)
        self.child = Child(config.gateway.poll, clock.jitter)
        #: where synchronisation stands, for the report
        self.synchronised: Callable[[], Synchronised] = Synchronised
        #: what the registries below said last, by name
        self.statuses: Callable[[], dict[str, Status]] = dict
        #: called when the parent said something new: a configuration, or whether this instance is the active one
        self.told: Callable[[], None] = lambda: None
        self._news = asyncio.Event()
        #: what the parent was last told of those below, without its times
        self._told_below: dict[str, Status] = {}
        self._is_kept = False
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Take up what is held, and begin. Uses no network before it returns."""
        try:
            self._take_up()
        except StoreError as error:  # nothing known: the parent tells it all again
            log.error("identity cannot be read", reason=str(error))
        self._task = asyncio.create_task(self._run())

    def _take_up(self) -> None:
        self.identity = own_identity(self._store) or self.identity
        held = self._store.resource(REGISTRY, self.identity.name)
        if held is not None and self.identity.etag:
            registry = msgspec.json.decode(held.body, type=ConnectedRegistry)
            self.child.etag, self.child.sync = self.identity.etag, registry.parent.sync_properties
        apply_settings(self._store, self.identity.name)

    async def close(self) -> None:
        """Stop where it is; the lease stays, so that a restart finds its place free."""
        if self._task is not None:
            self._task.cancel()
            with suppress(asyncio.CancelledError):
                await self._task
        await self.link.close()

    def standing(self) -> tuple[str, int] | None:
        """The instance and generation with which the parent may be spoken to now; None while this is not the active
        instance, or its schedule is closed."""
        sync = self.child.sync
        if not self.child.active or sync is None or closed_for(sync, self._clock.now()) > 0:
            return None
        return self.identity.instance, self.child.generation

    def notes(self) -> list[str]:
        """Sentences for /readyz; none when the parent was well when last asked."""
        name, trouble = self.identity.name, self.child.trouble
        if trouble:
            held = "serves what it holds" if self.identity.activated else "holds nothing yet"
            return [f"connected registry {name} {held}: {trouble}"]
        if not self.identity.activated:
            return [f"connected registry {name} is not activated yet"]
        return []

    def news(self) -> None:
        """There is something to report, and it does not wait for the next report's time."""
        self._news.set()

    def heard_below(self) -> None:
        """A connected registry below said something of itself. What is new of it goes up now, so that the root knows
        of every level within seconds; that it is still there goes with the next report."""
        if _timeless(self._below()) != self._told_below:
            self._news.set()

    async def _run(self) -> None:
        while True:
            asked = self._clock.monotonic()
            action = self.child.next(asked, self._clock.now())
            if isinstance(action, Rest):
                await self._clock.sleep(action.seconds)
                continue
            outcome = await self._outcome(action)
            before = self.child.trouble
            self.child.took(outcome, asked, self._clock.monotonic())
            await self._note(outcome, before)
            if not isinstance(outcome, Unchanged | BrokenOff | Reported):
                self.told()

    async def _outcome(self, action: Action) -> Outcome:
        """What came of an action; never raises, so that no surprise ends the conversation."""
        try:
            return await self._done(action)
        except (errors.Refusal, StoreError) as error:
            return Failed(f"not kept: {error}")
        except Exception as error:
            log.exception("gateway failed", action=type(action).__name__)
            return Failed(f"{type(action).__name__} failed ({type(error).__name__}); the log has more")

    async def _done(self, action: Action) -> Outcome:
        if not self._is_kept:  # who this is must outlast a crash before the parent hears of it
            await self._keep(self.identity)
        instance, generation = self.identity.instance, self.child.generation
        if isinstance(action, Activate):
            return await self.link.activate(instance, version("holdfast"))
        if isinstance(action, Report):
            self._news.clear()
            below = self._below()
            report = self._report(relayed(below, self._is_new))
            self._told_below = _timeless(report.below) | {
                name: told
                for name, told in self._told_below.items()
                if name in below.keys() - report.below.keys()
            }
            return await self.link.report(report)
        assert isinstance(action, Fetch)
        found = await self._fetched(instance, generation, action)
        if not isinstance(found, tuple):
            return found
        await self._receive(*found)
        return Configured(found[1], found[0].registry.parent.sync_properties)

    async def _fetched(self, instance: str, generation: int, action: Fetch) -> tuple[Received, str] | Outcome:
        """The answer for a configuration; a question that is held open gives way to news. One that is not is answered,
        however much there is to tell."""
        asked = self.link.configuration(instance, generation, action.etag, action.wait)
        if not action.wait:
            return await asked
        asking, news = asyncio.create_task(asked), asyncio.create_task(self._news.wait())
        try:
            await asyncio.wait({asking, news}, return_when=asyncio.FIRST_COMPLETED)
            if asking.done():
                return asking.result()
            self._news.clear()
            return BrokenOff()
        finally:
            asking.cancel()
            news.cancel()
            await asyncio.gather(asking, news, return_exceptions=True)

    async def _receive(self, received: Received, etag: str) -> None:
        """Keep a configuration, and do at once what it says."""
        now = stamp(self._clock.now())
        names = tuple(received.namespaces)[:NAMESPACES]
        identity = replace(self.identity, etag=etag, last_contact=now, trouble="", namespaces=names)
        await self._keep(identity, received)
        apply_settings(self._store, identity.name)
        log.info(
            "configuration received",
            mode=received.registry.mode,
            tokens=len(received.tokens),
            below=len(received.below),
        )

    async def _keep(self, identity: Identity, received: Received | None = None) -> None:
        order = command.Receive(identity=identity, configuration=received)
        await self._control(msgspec.json.encode(order))
        self.identity, self._is_kept = identity, True

    async def _note(self, outcome: Outcome, before: str) -> None:
        """Log what changed, and keep what the next start wants to know."""
        if self.child.trouble != before:
            if self.child.trouble:
                log.warning("parent's gateway", trouble=self.child.trouble, kind=type(outcome).__name__)
            else:
                log.info("parent's gateway is well again")
        identity = self._identity_after(outcome)
        if self._is_news(identity):
            try:
                await self._keep(identity)
            except (errors.Refusal, StoreError) as error:
                log.warning("identity not kept", reason=str(error))
            except Exception:
                log.exception("identity not kept")

    def _is_news(self, identity: Identity) -> bool:
        """Whether it is worth a write; that the parent was heard of is once an hour."""
        if replace(identity, last_contact=self.identity.last_contact) != self.identity:
            return True
        since = seconds(self.identity.last_contact) if self.identity.last_contact else 0.0
        return self._clock.now() - since >= CONTACT_SECONDS

    def _identity_after(self, outcome: Outcome) -> Identity:
        now, identity = stamp(self._clock.now()), self.identity
        if isinstance(outcome, Activated):
            log.info("activated", registry=identity.name, generation=outcome.generation)
            identity = replace(
                identity, activated=identity.activated or now, generation=outcome.generation, last_contact=now
            )
        elif isinstance(outcome, Reported):
            identity = replace(identity, last_contact=now)
        elif isinstance(outcome, Elsewhere):
            identity = replace(identity, generation=0)
        return replace(identity, trouble=self.child.trouble)

    def _report(self, below: dict[str, Status]) -> StatusReport:
        found = self.synchronised()
        known = found.result.sync_state != "NotActivated"
        report = StatusReport(
            instance=self.identity.instance,
            generation=self.child.generation,
            version=version("holdfast"),
            last_sync_time=stamp(found.at) if found.at else None,
            login_server=login_server(self._config),
            registry_sync_result=found.result if known else None,
            syncing=found.syncing,
            sync_progress=found.progress,
        )
        details = details_within(self._troubles(), STATUS_BYTES)
        return replace(bounded(report), status_details=details, below=below)

    def _below(self) -> dict[str, Status]:
        """What the registries below said of themselves, as far as they came by here, cut to the share of each."""
        own, statuses = self.identity.name.lower(), self.statuses()
        most = share(len(statuses))
        return {name: fitting(status, most) for name, status in statuses.items() if name.lower() != own}

    def _is_new(self, name: str, status: Status) -> bool:
        return self._told_below.get(name) != timeless(status)


def _timeless(below: dict[str, Status]) -> dict[str, Status]:
    """Without what each report moves on."""
    return {name: timeless(status) for name, status in below.items()}


def login_server(config: Configuration) -> LoginServer:
    """Where clients find this node, as far as it knows itself: a node that listens on every address does not."""
    from holdfast.config_file import listen_address

    host, port = listen_address(config.listen)
    nowhere = port == 0 or host in ("", "0.0.0.0", "::")
    place = "" if nowhere else f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    if not config.tls.cert:
        return LoginServer(host=config.login.server or place)
    location = config.tls.cert.rpartition("/")[0]
    tls = LoginTls(status="Enabled", certificate=Certificate(location=location))
    return LoginServer(host=config.login.server or place, tls=tls)
