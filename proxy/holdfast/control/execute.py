"""One command against the control plane: a function from what is there to what changes.

It runs inside the transaction of the write. A command either leaves every rule kept or raises, and then nothing was
changed. Imports no clock, no store and no chance: `Context` brings them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import msgspec
from holdfast_core.record import Event, ResourceChange
from holdfast_core.resources import ResourceView

from holdfast.control import activation, notices, registries, scopes, tokens
from holdfast.control.actions import without
from holdfast.control.command import (
    Activate,
    Command,
    CreateRegistry,
    CreateScopeMap,
    CreateToken,
    Deactivate,
    DeleteCredentials,
    DeleteRegistry,
    DeleteScopeMap,
    DeleteToken,
    Difference,
    GenerateCredentials,
    Receive,
    Release,
    Report,
    Result,
    Resync,
    TakeNotices,
    UpdatePermissions,
    UpdateRegistry,
    UpdateScopeMap,
    UpdateToken,
)
from holdfast.control.context import Context
from holdfast.control.draft import Draft
from holdfast.control.hierarchy import require_consistent
from holdfast.control.resource import REGISTRY, SCOPE_MAP, TOKEN, ConnectedRegistry, ScopeMap, Wire, name_in
from holdfast.errors import ControlConflict

__all__ = ["Context", "Outcome", "execute"]

_OPERATORS: dict[type, Callable[[Draft, Any, Context], Result]] = {
    CreateRegistry: registries.create_registry,
    UpdateRegistry: registries.update_registry,
    DeleteRegistry: registries.delete_registry,
    Deactivate: registries.deactivate,
    Resync: registries.resync,
    UpdatePermissions: registries.update_permissions,
    CreateScopeMap: scopes.create_scope_map,
    UpdateScopeMap: scopes.update_scope_map,
    DeleteScopeMap: scopes.delete_scope_map,
    CreateToken: tokens.create_token,
    UpdateToken: tokens.update_token,
    DeleteToken: tokens.delete_token,
    GenerateCredentials: tokens.generate_credentials,
    DeleteCredentials: tokens.delete_credentials,
}
_NODES: dict[type, Callable[[Draft, Any, Context], Result]] = {
    Activate: activation.activate,
    Release: activation.release,
    Report: activation.report,
    TakeNotices: notices.take,
    Receive: activation.receive,
}


@dataclass(frozen=True, slots=True)
class Outcome:
    """What to write, what to answer, and what the event log is told. A dry run writes nothing and answers the same."""

    changes: list[ResourceChange]
    result: Result
    told: tuple[Event, ...] = ()


def execute(view: ResourceView, command: Command, context: Context) -> Outcome:
    """Do a command. Raises `ControlInvalid`, `ControlConflict`, `ControlUnknown` and `PreconditionFailed`, whose
    messages name the field, what was found and what is allowed."""
    draft = Draft(view)
    operator = _OPERATORS.get(type(command))
    if operator is None:
        result = _NODES[type(command)](draft, command, context)
    else:
        _refuse_managed(draft)
        result = operator(draft, command, context)
        require_consistent(draft, context)
    difference = () if isinstance(command, Receive) else difference_of(draft)
    changed = bool(difference) or any(_differs(view, row) for row in draft.changes())
    result = msgspec.structs.replace(result, changed=changed, difference=difference)
    return Outcome([] if getattr(command, "dry_run", False) else draft.changes(), result, tuple(draft.told))


def _refuse_managed(draft: Draft) -> None:
    identity = draft.identity()
    if identity is not None:
        raise ControlConflict(
            f"this node is the connected registry {identity.name}, managed by its parent; change it there"
        )


def _differs(view: ResourceView, row: ResourceChange) -> bool:
    held = view.get(row.kind, row.name)
    return (None if held is None else held.body) != row.body


def difference_of(draft: Draft) -> tuple[Difference, ...]:
    """What is another than it was, resource by resource."""
    found = []
    for kind in (REGISTRY, SCOPE_MAP, TOKEN):
        for name in draft.changed(kind):
            before, now = draft.before(kind, name), draft.get(kind, name)
            if before != now:
                found.append(_difference(kind, before, now))
    return tuple(found)


def _difference(kind: str, before: Wire | None, now: Wire | None) -> Difference:
    change = "created" if before is None else "deleted" if now is None else "changed"
    was, is_now = _members(before), _members(now)
    if isinstance(before, ConnectedRegistry) and isinstance(now, ConnectedRegistry):
        was, is_now = (*was, *_settings(before)), (*is_now, *_settings(now))
    name = str(getattr(before if now is None else now, "name", ""))
    return Difference(
        kind=kind, name=name, change=change, added=without(is_now, was), removed=without(was, is_now)
    )


#: of a connected registry: what it lists elsewhere, and what is no setting
_NO_SETTINGS = frozenset({"name", "created", "clientTokenIds", "deactivated", "resyncRequested"})


def _settings(registry: ConnectedRegistry) -> tuple[str, ...]:
    """What an operator can set, `logging.logLevel: Debug`, for a person who compares."""
    document = msgspec.to_builtins(registry)
    return tuple(_leaves({key: value for key, value in document.items() if key not in _NO_SETTINGS}))


def _leaves(value: dict[str, Any], within: str = "") -> Iterator[str]:
    for key, one in value.items():
        if isinstance(one, dict):
            yield from _leaves(one, f"{key}.")
            continue
        for item in one if isinstance(one, list | tuple) else [one]:
            if item is not None:
                yield f"{within}{key}: {str(item).lower() if isinstance(item, bool) else item}"


def _members(value: Wire | None) -> tuple[str, ...]:
    """What a resource lists, for a person who compares."""
    if isinstance(value, ScopeMap):
        return value.actions
    if isinstance(value, ConnectedRegistry):
        return tuple(name_in(id) for id in value.client_token_ids)
    return ()
