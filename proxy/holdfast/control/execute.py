"""One command against the control plane: a function from what is there to what changes.

It runs inside the transaction of the write. A command either leaves every rule kept or raises, and then nothing was
changed. Imports no clock, no store and no chance: `Context` brings them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import msgspec
from holdfast_core.changes.resource_rows import ResourceView
from holdfast_core.record import EventRecord, ResourceChange

from holdfast.control import (
    activation,
    notice_commands,
    registry_commands,
    scope_map_commands,
    token_commands,
)
from holdfast.control.command import (
    Activate,
    Command,
    CommandResult,
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
    RecordReport,
    Release,
    Resync,
    TakeNotices,
    UpdatePermissions,
    UpdateRegistry,
    UpdateScopeMap,
    UpdateToken,
)
from holdfast.control.draft import Context, Draft
from holdfast.control.hierarchy import count_changes, require_consistent
from holdfast.errors import ControlConflict
from holdfast.resources.actions import without
from holdfast.resources.model import (
    REGISTRY,
    SCOPE_MAP,
    TOKEN,
    ConnectedRegistry,
    ResourceStruct,
    ScopeMap,
    name_in,
)

__all__ = ["Context", "Outcome", "execute"]

_OPERATORS: dict[type, Callable[[Draft, Any, Context], CommandResult]] = {
    CreateRegistry: registry_commands.create_registry,
    UpdateRegistry: registry_commands.update_registry,
    DeleteRegistry: registry_commands.delete_registry,
    Deactivate: registry_commands.deactivate,
    Resync: registry_commands.resync,
    UpdatePermissions: registry_commands.update_permissions,
    CreateScopeMap: scope_map_commands.create_scope_map,
    UpdateScopeMap: scope_map_commands.update_scope_map,
    DeleteScopeMap: scope_map_commands.delete_scope_map,
    CreateToken: token_commands.create_token,
    UpdateToken: token_commands.update_token,
    DeleteToken: token_commands.delete_token,
    GenerateCredentials: token_commands.generate_credentials,
    DeleteCredentials: token_commands.delete_credentials,
}
_NODES: dict[type, Callable[[Draft, Any, Context], CommandResult]] = {
    Activate: activation.activate,
    Release: activation.release,
    RecordReport: activation.report,
    TakeNotices: notice_commands.take,
    Receive: activation.receive,
}


@dataclass(frozen=True, slots=True)
class Outcome:
    """What to write, what to answer, and the events for the log. A dry run writes nothing and answers the same."""

    changes: list[ResourceChange]
    result: CommandResult
    events: tuple[EventRecord, ...] = ()


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
        count_changes(draft, context)
    difference = () if isinstance(command, Receive) else difference_of(draft)
    changed = bool(difference) or any(_differs(view, row) for row in draft.changes())
    result = msgspec.structs.replace(result, changed=changed, difference=difference)
    return Outcome([] if getattr(command, "dry_run", False) else draft.changes(), result, tuple(draft.events))


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
    differences = []
    for kind in (REGISTRY, SCOPE_MAP, TOKEN):
        for name in draft.changed(kind):
            before, now = draft.before(kind, name), draft.get(kind, name)
            if before != now:
                differences.append(_difference(kind, before, now))
    return tuple(differences)


def _difference(kind: str, before: ResourceStruct | None, now: ResourceStruct | None) -> Difference:
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
    """The settings of a registry as lines, `logging.logLevel: Debug`."""
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


def _members(value: ResourceStruct | None) -> tuple[str, ...]:
    """The members that a resource lists."""
    if isinstance(value, ScopeMap):
        return value.actions
    if isinstance(value, ConnectedRegistry):
        return tuple(name_in(id) for id in value.client_token_ids)
    return ()
