"""Commands on scope maps."""

from __future__ import annotations

import msgspec

from holdfast.control.command import CommandResult, CreateScopeMap, DeleteScopeMap, UpdateScopeMap
from holdfast.control.draft import OF_SCOPE_MAP, Context, Draft, require_match, unknown
from holdfast.errors import ControlConflict, PreconditionFailed
from holdfast.oci.names import shown
from holdfast.resources import actions, rules
from holdfast.resources.model import SCOPE_MAP, ScopeMap, name_in
from holdfast.resources.system_scope_maps import SYSTEM_SCOPE_MAPS


def create_scope_map(draft: Draft, order: CreateScopeMap, context: Context) -> CommandResult:
    """See `CreateScopeMap`."""
    name = name_in(order.name)
    _refuse_system(name)
    held = draft.scope_map(name)
    if held is not None and order.only_new:
        raise PreconditionFailed(f"the scope map {held.name} exists; update it, or take another name")
    made = make(draft, rules.scope_map_name(name), order.actions, context, description=order.description)
    if made.description != order.description:
        raise _exists(made, "description")
    return CommandResult(name=made.name)


def make(
    draft: Draft, name: str, requested: tuple[str, ...], context: Context, *, description: str = ""
) -> ScopeMap:
    """A new scope map, or the one that is there with the same actions. Raises `ControlConflict` for another."""
    given, text = rules.action_list(requested), rules.description(description)
    held = draft.scope_map(name)
    if held is not None:
        if {a.lower() for a in held.actions} != {a.lower() for a in given}:
            raise _exists(held, "actions")
        return held
    made = ScopeMap(name=name, actions=given, description=text, creation_date=context.stamp)
    draft.put(SCOPE_MAP, made)
    return made


def _exists(held: ScopeMap, field: str) -> ControlConflict:
    return ControlConflict(
        f"the scope map {held.name} exists with other {field}; update it, or take another name", field=field
    )


def update_scope_map(draft: Draft, order: UpdateScopeMap, context: Context) -> CommandResult:
    """See `UpdateScopeMap`."""
    name = name_in(order.name)
    _refuse_system(name)
    held = draft.scope_map(name)
    if held is None:
        raise unknown(SCOPE_MAP, name)
    require_match(draft, SCOPE_MAP, name, order.if_match)
    requested = _requested(held, order)
    text = held.description if order.description is None else rules.description(order.description)
    changed = msgspec.structs.replace(held, actions=requested, description=text)
    if changed != held:
        draft.put(SCOPE_MAP, changed)
    return CommandResult(name=held.name)


def _requested(held: ScopeMap, order: UpdateScopeMap) -> tuple[str, ...]:
    if order.actions is not None:
        if order.add or order.remove:
            raise ControlConflict(
                "actions replaces all of them; give either it or add and remove", field="actions"
            )
        return rules.action_list(order.actions)
    rules.unambiguous_patterns(order.add, order.remove, what="Actions", field="actions")
    kept = actions.without(held.actions, rules.action_list(order.remove))
    return actions.merged(kept, actions.uncovered(kept, rules.action_list(order.add)))


def delete_scope_map(draft: Draft, order: DeleteScopeMap, context: Context) -> CommandResult:
    """See `DeleteScopeMap`."""
    name = name_in(order.name)
    _refuse_system(name)
    held = draft.scope_map(name)
    if held is None:
        raise unknown(SCOPE_MAP, name)
    require_match(draft, SCOPE_MAP, name, order.if_match)
    users = draft.linked(OF_SCOPE_MAP, name, limit=3)
    if users:
        more = ", …" if len(users) > 2 else ""
        raise ControlConflict(
            f"the scope map {held.name} is that of the token {', '.join(users[:2])}{more}; delete the token, or give it"
            " another scope map",
            field="name",
        )
    draft.remove(SCOPE_MAP, name)
    return CommandResult(name=held.name)


def _refuse_system(name: str) -> None:
    if name.lower() in SYSTEM_SCOPE_MAPS:
        raise ControlConflict(
            f"the scope map {shown(name)} is defined by the system and cannot be changed; make one of your own",
            field="name",
        )
