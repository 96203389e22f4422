"""The tree of connected registries: what it does to permissions, and the rules that hold between resources
(references.md 1.4, 1.8).

Every link of the tree keeps three rules, so that they hold between any registry and any ancestor: what a registry
synchronises its parent synchronises too; its parent may relay for its gateway; below a ReadOnly registry all are. The
propagation below establishes them; `require_consistent` checks them after every command.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import msgspec

from holdfast.control.draft import AS_CLIENT, AS_SYNC, CHILD, OF_SCOPE_MAP, Context, Draft
from holdfast.errors import ControlConflict
from holdfast.resources import actions, rules
from holdfast.resources.actions import ActionParts, Grants
from holdfast.resources.model import (
    REGISTRY,
    REVISION,
    SCOPE_MAP,
    TOKEN,
    ConnectedRegistry,
    Revision,
    ScopeMap,
    Token,
    name_in,
)

#: A scope map of more tokens than this is looked at from the registries' side.
FEW_TOKENS = 1_000

# --- walking -----------------------------------------------------------------------------------------------


def parent_of(draft: Draft, registry: ConnectedRegistry) -> ConnectedRegistry | None:
    """The registry above, None below the root, and for one whose parent this managed node does not know."""
    return None if registry.parent.id is None else draft.registry(registry.parent.id)


def ancestors(draft: Draft, registry: ConnectedRegistry) -> list[ConnectedRegistry]:
    """Those above, the nearest first."""
    above_it: list[ConnectedRegistry] = []
    above = parent_of(draft, registry)
    while above is not None:
        above_it.append(above)
        above = parent_of(draft, above)
    return above_it


def children(draft: Draft, registry: ConnectedRegistry) -> list[ConnectedRegistry]:
    """Those directly below."""
    linked = map(draft.registry, draft.linked(CHILD, registry.name))
    return [child for child in linked if child is not None]


def descendants(draft: Draft, registry: ConnectedRegistry) -> list[ConnectedRegistry]:
    """All below, parents before children."""
    below, at = children(draft, registry), 0
    while at < len(below):
        below += children(draft, below[at])
        at += 1
    return below


def is_below(draft: Draft, name: str, registry: ConnectedRegistry) -> bool:
    """Whether a name is a registry below `registry`."""
    descendant = draft.registry(name)
    return descendant is not None and any(
        above.name.lower() == registry.name.lower() for above in ancestors(draft, descendant)
    )


def sync_scope(draft: Draft, registry: ConnectedRegistry) -> ScopeMap:
    """The scope map of its sync token. Raises `ControlConflict` when there is none."""
    token = draft.token(registry.parent.sync_properties.token_id)
    scope = None if token is None else draft.scope_map(token.scope_map_id)
    if scope is None:
        raise ControlConflict(
            f"the connected registry {registry.name} has no sync token with a scope map",
            field="parent.syncProperties.tokenId",
        )
    return scope


# --- propagation -------------------------------------------------------------------------------------------


def widen_ancestors(draft: Draft, registry: ConnectedRegistry) -> None:
    """Every ancestor gets what the registry's sync token may do, as far as it lacks it."""
    needed = [actions.parse(text) for text in sync_scope(draft, registry).actions]
    for above in ancestors(draft, registry):
        scope = sync_scope(draft, above)
        held = draft.grants(scope)
        lacking = [action.text for action in needed if not held.covers(action)]
        set_actions(draft, scope, actions.merged(scope.actions, lacking))


def narrow_descendants(draft: Draft, registry: ConnectedRegistry, gone: Iterable[str]) -> None:
    """Every descendant loses the actions `gone`, and what its parent does not cover any more."""
    leaving = tuple(gone)
    for below in descendants(draft, registry):
        above = parent_of(draft, below)
        assert above is not None
        scope, held = sync_scope(draft, below), draft.grants(sync_scope(draft, above))
        kept = [text for text in actions.without(scope.actions, leaving) if _is_covered(held, text)]
        set_actions(draft, scope, kept)


def _is_covered(held: Grants, text: str) -> bool:
    """Whether a descendant may keep an action. Gateways are not narrowed with repositories."""
    action = actions.parse(text)
    return action.noun == "gateway" or held.covers(action)


def remove_gateway(draft: Draft, registry: ConnectedRegistry) -> None:
    """No ancestor may relay for a registry any more."""
    for above in ancestors(draft, registry):
        scope = sync_scope(draft, above)
        set_actions(draft, scope, actions.without(scope.actions, actions.of_gateway(registry.name)))


def set_actions(draft: Draft, scope: ScopeMap, changed: Sequence[str]) -> None:
    """Give a scope map other actions; nothing when they are the same."""
    if scope.actions != tuple(changed):
        draft.put(SCOPE_MAP, msgspec.structs.replace(scope, actions=tuple(changed)))


# --- the rules ---------------------------------------------------------------------------------------------


def require_consistent(draft: Draft, context: Context) -> None:
    """Ask every rule between resources that the command may have broken. Raises `ControlConflict`."""
    _require_limits(draft, context)
    touched = _touched(draft, draft.changed)
    below = [child for parent in touched if _shrank(draft, parent) for child in draft.linked(CHILD, parent)]
    for name in dict.fromkeys([*touched, *below]):
        registry = draft.registry(name)
        if registry is not None:
            _require_linked(draft, registry)
            _require_clients(draft, registry)
    for name in draft.changed(TOKEN):
        _require_own_scope(draft, name)


def _shrank(draft: Draft, name: str) -> bool:
    """Whether a registry's sync token may do less than before, so that its children have to be looked at. The top of a
    tree has many, and every new registry below it makes it wider."""
    before = _sync_actions(draft.before, name)
    return before is not None and not before <= (_sync_actions(draft.get, name) or frozenset())


def _sync_actions(get: Callable[[str, str], object], name: str) -> frozenset[str] | None:
    """What a sync token may do, before the command or now; None where there is none."""
    registry = get(REGISTRY, name)
    id = registry.parent.sync_properties.token_id if isinstance(registry, ConnectedRegistry) else ""
    token = get(TOKEN, name_in(id)) if id else None
    scope = get(SCOPE_MAP, name_in(token.scope_map_id)) if isinstance(token, Token) else None
    return frozenset(action.lower() for action in scope.actions) if isinstance(scope, ScopeMap) else None


def count_changes(draft: Draft, context: Context) -> None:
    """One more revision of each configuration that the command changed. What a node has not taken over counts from the
    first change that it missed."""
    for name in _touched(draft, draft.differing):
        registry = draft.registry(name)
        if registry is None:
            draft.remove(REVISION, name)
            continue
        held, works_by = draft.revision(name), draft.status(name).revision
        is_behind = works_by not in (None, held.number)
        since = (held.since if is_behind else "") or context.stamp
        draft.put(REVISION, Revision(number=held.number + 1, since=since), registry.name)


def _touched(draft: Draft, changed: Callable[[str], list[str]]) -> list[str]:
    """Names of the registries that a change of a registry, a token or a scope map concerns."""
    names = dict.fromkeys(changed(REGISTRY))
    tokens = dict.fromkeys(changed(TOKEN))
    for scope_map in changed(SCOPE_MAP):
        few = draft.linked(OF_SCOPE_MAP, scope_map, limit=FEW_TOKENS + 1)
        if len(few) > FEW_TOKENS:
            return draft.names(REGISTRY)
        tokens |= dict.fromkeys(few)
    for token in tokens:
        names |= dict.fromkeys([*draft.linked(AS_SYNC, token), *draft.linked(AS_CLIENT, token)])
    return list(names)


def _require_linked(draft: Draft, registry: ConnectedRegistry) -> None:
    """What holds between a registry and its parent."""
    scope = sync_scope(draft, registry)
    if scope.type == "SystemDefined":
        raise ControlConflict(
            f"the sync token of {registry.name} has the scope map {scope.name}, which cannot be changed; allowed: one"
            " of its own",
            field="parent.syncProperties.tokenId",
        )
    held = draft.grants(scope)
    own = [actions.parse(text) for text in actions.of_gateway(registry.name)]
    _require_covered(held, own, f"the scope map {scope.name} of its own sync token", registry)
    above = parent_of(draft, registry)
    if above is None:
        return
    if above.mode == "ReadOnly" and registry.mode != "ReadOnly":
        raise ControlConflict(
            f"mode {registry.mode} below {above.name}, which is ReadOnly; allowed: ReadOnly", field="mode"
        )
    needed = [action for action in map(actions.parse, scope.actions) if _is_relayed(draft, registry, action)]
    parent_scope = sync_scope(draft, above)
    what = f"the scope map {parent_scope.name} of its parent {above.name}"
    _require_covered(draft.grants(parent_scope), needed, what, registry)


def _is_relayed(draft: Draft, registry: ConnectedRegistry, action: ActionParts) -> bool:
    """Whether the parent needs an action as well: those on repositories, and the gateways of the registry and of those
    below it. One of a registry that was deleted without cleanup belongs to none."""
    if action.noun == "repositories":
        return True
    return action.name == registry.name.lower() or is_below(draft, action.name, registry)


def _require_covered(
    held: Grants, needed: Iterable[ActionParts], where: str, registry: ConnectedRegistry
) -> None:
    lacking = [action.text for action in needed if not held.covers(action)]
    if lacking:
        shown = ", ".join(lacking[:5]) + (f" and {len(lacking) - 5} more" if len(lacking) > 5 else "")
        raise ControlConflict(
            f"{where} would lack {shown}, which the connected registry {registry.name} needs; change its repositories"
            " with permissions update, which does so for the whole tree",
            field="actions",
        )


def _require_clients(draft: Draft, registry: ConnectedRegistry) -> None:
    """Client tokens exist, are no sync tokens, and only read where the registry does."""
    for id in registry.client_token_ids:
        token = draft.token(id)
        if token is None:
            raise ControlConflict(f"clientTokenIds: there is no token {name_in(id)}", field="clientTokenIds")
        if draft.is_linked(AS_SYNC, token.name):
            raise ControlConflict(
                f"clientTokenIds: {token.name} is a sync token; allowed: tokens that no registry synchronises with",
                field="clientTokenIds",
            )
        scope = draft.scope_map(token.scope_map_id)
        writes = _writes(scope) if registry.mode == "ReadOnly" and scope is not None else []
        if writes:
            raise ControlConflict(
                f"the client token {token.name} of {registry.name} has {writes[0]}; a ReadOnly registry takes tokens"
                " that only hold content/read and metadata/read",
                field="clientTokenIds",
            )


def _writes(scope: ScopeMap) -> list[str]:
    """Returns the actions on repositories that are more than reads."""
    parsed = map(actions.parse, scope.actions)
    return [a.text for a in parsed if a.noun == "repositories" and a.right not in actions.READ_RIGHTS]


def _require_own_scope(draft: Draft, name: str) -> None:
    """The scope map of a sync token has no other token: one that shared it would get gateways, and would change what
    is synchronised with what a client may do. Only a map with gateways can be one."""
    token = draft.token(name)
    scope = None if token is None else draft.scope_map(token.scope_map_id)
    if scope is None or all(actions.parse(text).noun != "gateway" for text in scope.actions):
        return
    sharers = draft.linked(OF_SCOPE_MAP, scope.name, limit=FEW_TOKENS)
    synced = next((other for other in sharers if draft.is_linked(AS_SYNC, other)), None)
    if synced is not None and len(sharers) > 1:
        raise ControlConflict(
            f"the scope map {scope.name} is that of the sync token {synced}, which shares it with no other token;"
            " make another scope map",
            field="scopeMapId",
        )


def _require_limits(draft: Draft, context: Context) -> None:
    """Raises for more than the configuration allows. A number that was above its limit before and does not grow is
    allowed: a lowered limit stops no clean-up."""
    limits = context.limits
    bounds = {
        TOKEN: (limits.tokens, "tokens", "tokens"),
        SCOPE_MAP: (limits.scope_maps, "scope maps", "scope_maps"),
        REGISTRY: (limits.connected_registries, "connected registries", "connected_registries"),
    }
    for kind, (limit, what, key) in bounds.items():
        grown = sum(
            (draft.get(kind, name) is not None) - (draft.before(kind, name) is not None)
            for name in draft.changed(kind)
        )
        if grown > 0:
            rules.within_limit(draft.count(kind), limit, what, "name", key)
    for name in draft.changed(SCOPE_MAP):
        _require_size(
            permissions(draft.before(SCOPE_MAP, name)),
            permissions(draft.get(SCOPE_MAP, name)),
            name,
            limits.permissions,
        )
    for name in draft.changed(REGISTRY):
        now, before = _clients(draft.get(REGISTRY, name)), _clients(draft.before(REGISTRY, name))
        if now > before:
            rules.within_limit(
                now, limits.client_tokens, f"client tokens of {name}", "clientTokenIds", "client_tokens"
            )


def _require_size(before: int, now: int, name: str, limit: int) -> None:
    if now > before:
        rules.within_limit(now, limit, f"permissions in the scope map {name}", "actions", "permissions")


def permissions(scope: object) -> int:
    """Returns the number of actions on repositories; those on gateways belong to the tree and do not count."""
    texts = scope.actions if isinstance(scope, ScopeMap) else ()
    return sum(1 for text in texts if text[:13].lower() == "repositories/")


def _clients(registry: object) -> int:
    return len(registry.client_token_ids) if isinstance(registry, ConnectedRegistry) else 0
