"""Commands of the nodes themselves: activation by a lease, reports, and on a managed node the parent's
configuration."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from holdfast import timestamps
from holdfast.control import hierarchy
from holdfast.control.command import Activate, CommandResult, Receive, RecordReport, Release
from holdfast.control.draft import SELF, Context, Draft, unknown
from holdfast.errors import ControlConflict, ControlInvalid
from holdfast.resources import states
from holdfast.resources.model import (
    IDENTITY,
    NOTICES,
    REGISTRY,
    REVISION,
    SCOPE_MAP,
    STATUS,
    TOKEN,
    ConnectedRegistry,
    Identity,
    Lease,
    RegistryConfiguration,
    ScopeMap,
    Status,
    StatusDetail,
    SyncResult,
    Token,
    name_in,
)
from holdfast.resources.report_bounds import fitting

LONGEST_LEASE_SECONDS = 90 * 86400.0
INSTANCE_CHARACTERS = 128


def activate(draft: Draft, order: Activate, context: Context) -> CommandResult:
    """See `Activate`."""
    registry = directly_below(draft, order.name)
    status = draft.status(registry.name)
    if not 0 < len(order.instance) <= INSTANCE_CHARACTERS:
        raise ControlInvalid(
            f"instance has {len(order.instance)} characters; allowed: 1 to {INSTANCE_CHARACTERS}",
            field="instance",
        )
    same = status.lease is not None and status.lease.instance == order.instance
    if not same and states.is_held(status.lease, context.now):
        raise already_activated()
    generation = status.generation + (not same)
    sync = status.registry_sync_result
    if sync.sync_state == "NotActivated":
        sync = SyncResult(sync_trigger="InitialSync", sync_state="Pending")
    return _renew_lease(
        draft,
        registry,
        msgspec.structs.replace(
            status,
            version=order.version or status.version,
            generation=generation,
            registry_sync_result=sync,
        ),
        order.instance,
        order.lease_seconds,
        context,
    )


def _renew_lease(
    draft: Draft, registry: ConnectedRegistry, status: Status, instance: str, seconds: float, context: Context
) -> CommandResult:
    """Renews the lease of the active instance, which has just contacted this node."""
    if not 0 < seconds <= LONGEST_LEASE_SECONDS:
        raise ControlInvalid(
            f"a lease of {seconds} s; allowed: above 0, at most {LONGEST_LEASE_SECONDS:.0f}",
            field="lease_seconds",
        )
    expires = timestamps.stamp(context.now + seconds)
    lease = Lease(instance=instance, generation=status.generation, expires=expires)
    renewed = msgspec.structs.replace(status, lease=lease, last_activity_time=context.stamp)
    draft.put(STATUS, fitting(renewed), registry.name)
    return CommandResult(name=registry.name, generation=status.generation, expires=expires)


def release(draft: Draft, order: Release, context: Context) -> CommandResult:
    """See `Release`."""
    registry = directly_below(draft, order.name)
    status = draft.status(registry.name)
    lease = status.lease
    if lease is not None and (lease.instance, lease.generation) == (order.instance, order.generation):
        draft.put(STATUS, msgspec.structs.replace(status, lease=None), registry.name)
    return CommandResult(name=registry.name)


def report(draft: Draft, order: RecordReport, context: Context) -> CommandResult:
    """See `RecordReport`."""
    registry = directly_below(draft, order.name)
    status = draft.status(registry.name)
    require_active(registry, status, order.instance, order.generation)
    _take_below(draft, registry, order.below)
    return _renew_lease(
        draft,
        registry,
        _reported(registry, status, order, context.stamp),
        order.instance,
        order.lease_seconds,
        context,
    )


def _reported(registry: ConnectedRegistry, status: Status, order: RecordReport, now: str) -> Status:
    return msgspec.structs.replace(
        status,
        version=order.version or status.version,
        revision=order.revision,
        last_sync_time=order.last_sync_time or status.last_sync_time,
        login_server=order.login_server or status.login_server,
        status_details=_since(status.status_details, order.status_details, now),
        registry_sync_result=_synced(registry, status.registry_sync_result, order.registry_sync_result),
        syncing=order.syncing,
        sync_progress=order.sync_progress,
    )


def _since(
    held: Sequence[StatusDetail], reported: Sequence[StatusDetail], now: str
) -> tuple[StatusDetail, ...]:
    """Troubles with the time of their first report, by this clock; a time that the node reports is kept."""
    known = {(detail.type, detail.code): detail.timestamp for detail in held}
    return tuple(
        detail
        if detail.timestamp
        else msgspec.structs.replace(detail, timestamp=known.get((detail.type, detail.code)) or now)
        for detail in reported
    )


def _synced(registry: ConnectedRegistry, held: SyncResult, reported: SyncResult | None) -> SyncResult:
    """Returns the state of the last full synchronisation. A report that was sent before the operator requested another
    one does not end that request. Raises `ControlInvalid` for a state that cannot follow."""
    if reported is None:
        return held
    if reported.sync_state not in states.reachable(held.sync_state):
        raise ControlInvalid(
            f"syncState {reported.sync_state} cannot follow {held.sync_state}",
            field="registrySyncResult.syncState",
        )
    return held if _is_resync_pending(registry, held, reported) else reported


def _is_resync_pending(registry: ConnectedRegistry, held: SyncResult, reported: SyncResult) -> bool:
    """Whether the resync that the operator requested has not begun by the time of the report."""
    is_pending = held.sync_state == "Pending" and held.sync_trigger == "ManualResync"
    return is_pending and (reported.last_sync_start_time or "") < registry.resync_requested


def _take_below(draft: Draft, registry: ConnectedRegistry, below: dict[str, Status]) -> None:
    """Stores a node's reports on the registries below it, and skips others."""
    if not below:
        return
    known = {one.name.lower(): one for one in hierarchy.descendants(draft, registry)}
    for name, status in below.items():
        if (one := known.get(name.lower())) is None:
            continue
        held = draft.status(one.name).registry_sync_result
        result = (
            held
            if _is_resync_pending(one, held, status.registry_sync_result)
            else status.registry_sync_result
        )
        draft.put(STATUS, fitting(msgspec.structs.replace(status, registry_sync_result=result)), name.lower())


def require_active(registry: ConnectedRegistry, status: Status, instance: str, generation: int) -> None:
    """Refuses an instance that is not the active one. Raises `ControlConflict` ALREADY_ACTIVATED or NOT_ACTIVATED."""
    lease = status.lease
    if lease is None:
        raise ControlConflict(
            f"the connected registry {registry.name} is not active; activate it first",
            detail=states.NOT_ACTIVATED,
        )
    if (lease.instance, lease.generation) != (instance, generation):
        raise already_activated()


def already_activated() -> ControlConflict:
    """The original's refusal of a second instance (references.md 1.9)."""
    return ControlConflict(
        f"{states.ALREADY_ACTIVATED}: {states.ALREADY_ACTIVATED_TEXT}", detail=states.ALREADY_ACTIVATED
    )


def directly_below(draft: Draft, name: str) -> ConnectedRegistry:
    """The connected registry, when this node is its parent: another one would hold a second lease of it. Raises
    `ControlUnknown` and `ControlConflict`."""
    registry, identity = draft.registry(name), draft.identity()
    if registry is None or (identity is not None and registry.name.lower() == identity.name.lower()):
        raise unknown(REGISTRY, name_in(name))
    here = "" if identity is None else identity.name.lower()
    parent = name_in(registry.parent.id or "")
    if parent.lower() != here:
        raise ControlConflict(
            f"the parent of the connected registry {registry.name} is {parent or 'the root'}; connect there",
            field="name",
        )
    return registry


# --- on a managed node -------------------------------------------------------------------------------------


def receive(draft: Draft, order: Receive, context: Context) -> CommandResult:
    """See `Receive`."""
    draft.put(IDENTITY, order.identity, SELF)
    if order.configuration is not None:
        _require_whole(order.configuration, order.identity)
        _replace_all(draft, order.configuration)
    return CommandResult(name=order.identity.name)


def _require_whole(configuration: RegistryConfiguration, identity: Identity) -> None:
    """Refuses a configuration for another registry, or with a token whose permissions are missing. The rules of the
    tree are the root's: a node takes what its parent decided."""
    own = configuration.registry.name.lower()
    if own != identity.name.lower():
        raise ControlInvalid(
            f"the configuration is of {configuration.registry.name}, this node is {identity.name}",
            field="registry",
        )
    known = {own}
    for registry in configuration.below:
        if name_in(registry.parent.id or "").lower() not in known or registry.name.lower() in known:
            raise ControlInvalid(f"{registry.name} is not below {configuration.registry.name}", field="below")
        known.add(registry.name.lower())
    maps = {one.name.lower() for one in configuration.scope_maps}
    for token in configuration.tokens:
        scope = name_in(token.scope_map_id).lower()
        if scope not in maps and not scope.startswith("_"):
            raise ControlInvalid(f"the token {token.name} has no scope map", field="tokens")


def _replace_all(draft: Draft, configuration: RegistryConfiguration) -> None:
    registries = (configuration.registry, *configuration.below)
    for registry in configuration.below:
        _end_lease(draft, registry)
    _replace_kind(draft, REGISTRY, registries)
    _replace_kind(draft, TOKEN, configuration.tokens)
    _replace_kind(draft, SCOPE_MAP, configuration.scope_maps)
    names = {registry.name.lower() for registry in registries}
    _remove_others(draft, REVISION, set(configuration.revisions))
    for name, revision in configuration.revisions.items():
        draft.put(REVISION, revision, name)
    _remove_others(draft, STATUS, names)
    _remove_others(draft, NOTICES, names)


def _replace_kind(draft: Draft, kind: str, values: Sequence[ConnectedRegistry | Token | ScopeMap]) -> None:
    _remove_others(draft, kind, {value.name.lower() for value in values})
    for value in values:
        if draft.get(kind, value.name) != value:
            draft.put(kind, value)


def _remove_others(draft: Draft, kind: str, names: set[str]) -> None:
    for name in draft.names(kind):
        if name not in names:
            draft.remove(kind, name)


def _end_lease(draft: Draft, registry: ConnectedRegistry) -> None:
    """Ends the lease of a registry below this node that the operator deactivated."""
    held = draft.registry(registry.name)
    status = draft.status(registry.name)
    if held is not None and held.deactivated != registry.deactivated and status.lease is not None:
        draft.put(STATUS, msgspec.structs.replace(status, lease=None), registry.name)
