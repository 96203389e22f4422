"""Carries out the actions that `gateway/agent_state.py` decides on: sends requests to the parent's gateway, stores each
answer in one transaction and logs failures. Runs in the keeper. Serving clients never waits for it: a node serves what
it holds whether its parent answers or not.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from importlib.metadata import version

import msgspec
from holdfast_core.errors import StoreError
from holdfast_core.store import Store
from msgspec.structs import replace

from holdfast import errors
from holdfast.background import rest
from holdfast.clock import Clock
from holdfast.config import Configuration, listen_address
from holdfast.control import command
from holdfast.control.catalogue import NAMESPACES, Catalogue
from holdfast.gateway.agent_state import (
    Action,
    Activated,
    AskActivation,
    BrokenOff,
    Configured,
    FetchConfiguration,
    NoAnswer,
    OtherInstanceActive,
    Outcome,
    Reported,
    Rest,
    SendReport,
    Unchanged,
)
from holdfast.gateway.full_sync import Synchronised
from holdfast.gateway.gateway_client import GatewayClient
from holdfast.gateway.identity import own_identity
from holdfast.gateway.own_registry import OwnRegistry
from holdfast.gateway.parent_settings import apply_settings
from holdfast.gateway.protocol import StatusReport
from holdfast.gateway.status_relay import StatusRelay
from holdfast.log import log
from holdfast.resources.model import (
    REGISTRY,
    Certificate,
    ConnectedRegistry,
    Identity,
    LoginServer,
    LoginTls,
    StatusDetail,
)
from holdfast.resources.model import RegistryConfiguration as Received
from holdfast.resources.report_bounds import STATUS_BYTES, bounded, details_within
from holdfast.timestamps import seconds, stamp

Control = Callable[[bytes], Awaitable[bytes]]
Troubles = Callable[[], Sequence[StatusDetail]]

#: the time of the last contact is written to the store at most this often
CONTACT_SECONDS = 3600.0


class GatewayAgent:
    """The requests of the node `own` to its parent's gateway. `control` executes a command in the keeper. A report has
    the `troubles` of the node, the state of `synchronisation` and, by `relay`, the statuses of the registries below.
    `configured` is called after a new configuration, and after this instance became active or stopped being so."""

    def __init__(
        self,
        config: Configuration,
        own: OwnRegistry,
        store: Store,
        control: Control,
        troubles: Troubles,
        clock: Clock,
        client: GatewayClient,
        relay: StatusRelay,
        synchronisation: Callable[[], Synchronised] = Synchronised,
        configured: Callable[[], None] = lambda: None,
    ) -> None:
        self._config, self._store, self._control = config, store, control
        self._catalogue = Catalogue(store)
        self._troubles, self._clock = troubles, clock
        self._own, self._state, self._client, self._relay = own, own.state, client, relay
        self._synchronisation, self._configured = synchronisation, configured
        #: whether the store has the identity of this instance
        self._is_kept = False
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Read the stored identity and configuration and start the task. Uses no network before it returns."""
        try:
            self._load()
        except StoreError as error:  # starts without them: the parent sends all of it again
            log.error("identity cannot be read", reason=str(error))
        self._task = asyncio.create_task(self._run())

    def _load(self) -> None:
        identity = own_identity(self._store) or self._own.identity
        self._own.take_up(identity)
        held = self._store.documents.get(REGISTRY, identity.name)
        if held is not None:
            registry = msgspec.json.decode(held.body, type=ConnectedRegistry)
            self._state.restore(identity.etag, registry.parent.sync_properties)
        apply_settings(self._store, identity.name)

    async def close(self) -> None:
        """Cancel the task. The lease is not released, so that the node is still the active one after a restart."""
        if self._task is not None:
            self._task.cancel()
            with suppress(asyncio.CancelledError):
                await self._task

    async def _run(self) -> None:
        while True:
            started = self._clock.monotonic()
            action = self._state.next(started, self._clock.now())
            if isinstance(action, Rest):
                await rest(self._clock, action.seconds, self._own.contact_ordered)
                continue
            outcome = await self._attempt(action)
            before = self._state.trouble
            self._state.apply(outcome, started, self._clock.monotonic())
            await self._record(outcome, before)
            if not isinstance(outcome, Unchanged | BrokenOff | Reported):
                self._configured()

    async def _attempt(self, action: Action) -> Outcome:
        """The outcome of an action; an exception becomes NoAnswer, so that the loop goes on."""
        try:
            return await self._execute(action)
        except (errors.Refusal, StoreError) as error:
            return NoAnswer(f"not kept: {error}")
        except Exception as error:
            log.exception("gateway failed", action=type(action).__name__)
            return NoAnswer(f"{type(action).__name__} failed ({type(error).__name__}); the log has more")

    async def _execute(self, action: Action) -> Outcome:
        if not self._is_kept:  # the instance id must survive a crash once the parent has it
            await self._keep(self._own.identity)
        instance, generation = self._own.identity.instance, self._state.generation
        if isinstance(action, AskActivation):
            return await self._client.activate(instance, version("holdfast"))
        if isinstance(action, SendReport):
            self._own.report_due.clear()
            return await self._client.report(self._report())
        assert isinstance(action, FetchConfiguration)
        answer = await self._fetch(instance, generation, action)
        if not isinstance(answer, tuple):
            return answer
        received, etag = answer
        await self._receive(received, etag)
        return Configured(etag, received.registry.parent.sync_properties)

    async def _fetch(
        self, instance: str, generation: int, action: FetchConfiguration
    ) -> tuple[Received, str] | Outcome:
        """The parent's answer. A request that the parent may hold open is broken off for a pending report; one that it
        answers at once is not."""
        request = self._client.configuration(instance, generation, action.etag, action.wait)
        if not action.wait:
            return await request
        answer, report = asyncio.create_task(request), asyncio.create_task(self._own.report_due.wait())
        try:
            await asyncio.wait({answer, report}, return_when=asyncio.FIRST_COMPLETED)
            if answer.done():
                return answer.result()
            self._own.report_due.clear()
            return BrokenOff()
        finally:
            answer.cancel()
            report.cancel()
            await asyncio.gather(answer, report, return_exceptions=True)

    async def _receive(self, received: Received, etag: str) -> None:
        """Store a configuration and apply it."""
        now = stamp(self._clock.now())
        names = tuple(received.namespaces)[:NAMESPACES]
        # without the etag the next version, which may know every field, fetches the configuration again
        kept = etag if received.etag else ""
        identity = replace(self._own.identity, etag=kept, last_contact=now, trouble="", namespaces=names)
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
        self._own.take_up(identity)
        self._is_kept = True

    async def _record(self, outcome: Outcome, before: str) -> None:
        """Log a change of `trouble` (`before` is its former value) and store the identity for the next start."""
        if self._state.trouble != before:
            if self._state.trouble:
                log.warning("parent's gateway", trouble=self._state.trouble, kind=type(outcome).__name__)
            else:
                log.info("parent's gateway is well again")
        elif isinstance(outcome, NoAnswer):
            log.info("parent's gateway", reason=outcome.why)
        identity = self._identity_after(outcome)
        if self._is_due(identity):
            try:
                await self._keep(identity)
            except (errors.Refusal, StoreError) as error:
                log.warning("identity not kept", reason=str(error))
            except Exception:
                log.exception("identity not kept")

    def _is_due(self, identity: Identity) -> bool:
        """Whether to write it to the store: when more than the time of contact changed, and else once an hour."""
        if replace(identity, last_contact=self._own.identity.last_contact) != self._own.identity:
            return True
        since = seconds(self._own.identity.last_contact) if self._own.identity.last_contact else 0.0
        return self._clock.now() - since >= CONTACT_SECONDS

    def _identity_after(self, outcome: Outcome) -> Identity:
        now, identity = stamp(self._clock.now()), self._own.identity
        if isinstance(outcome, Activated):
            log.info("activated", registry=identity.name, generation=outcome.generation)
            identity = replace(
                identity, activated=identity.activated or now, generation=outcome.generation, last_contact=now
            )
        elif isinstance(outcome, Reported):
            identity = replace(identity, last_contact=now)
        elif isinstance(outcome, OtherInstanceActive):
            identity = replace(identity, generation=0)
        return replace(identity, trouble=self._state.trouble)

    def _report(self) -> StatusReport:
        synchronised = self._synchronisation()
        known = synchronised.result.sync_state != "NotActivated"
        report = StatusReport(
            instance=self._own.identity.instance,
            generation=self._state.generation,
            version=version("holdfast"),
            revision=self._catalogue.number_of(self._own.identity.name),
            last_sync_time=stamp(synchronised.at) if synchronised.at else None,
            login_server=login_server(self._config, self._client.own_address),
            registry_sync_result=synchronised.result if known else None,
            syncing=synchronised.syncing,
            sync_progress=synchronised.progress,
        )
        details = details_within(self._troubles(), STATUS_BYTES)
        return replace(bounded(report), status_details=details, below=self._relay.next_report())


def login_server(config: Configuration, own: str = "") -> LoginServer:
    """The address under which clients reach this node: `login.server`, else the address of `listen`. A node that
    listens on every address reports `own`, its local address on connections to the parent."""
    host, port = listen_address(config.listen)
    if host in ("", "0.0.0.0", "::"):
        host = own.partition("%")[0]
    nowhere = port == 0 or not host
    address = "" if nowhere else f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    if not config.tls.cert:
        return LoginServer(host=config.login.server or address)
    location = config.tls.cert.rpartition("/")[0]
    tls = LoginTls(status="Enabled", certificate=Certificate(location=location))
    return LoginServer(host=config.login.server or address, tls=tls)
