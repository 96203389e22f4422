"""Scope maps that always exist and cannot be changed (references.md 1.17). They are not stored and do not
count against the limit."""

from __future__ import annotations

from holdfast.resources.actions import RIGHTS, of_repository
from holdfast.resources.model import ScopeMap


def _system(name: str, description: str, *rights: str) -> ScopeMap:
    actions = tuple(of_repository("*", rights))
    return ScopeMap(name=name, actions=actions, description=description, type="SystemDefined")


#: lower-cased name -> scope map, in the order of the names
SYSTEM_SCOPE_MAPS = {
    scope_map.name: scope_map
    for scope_map in (
        _system(
            "_repositories_admin",
            "Can perform all read, write and delete operations on the registry",
            *RIGHTS,
        ),
        _system("_repositories_pull", "Can pull any repository of the registry", "content/read"),
        _system(
            "_repositories_pull_metadata_read",
            "Can pull any repository of the registry and list its tags",
            "content/read",
            "metadata/read",
        ),
        _system(
            "_repositories_push",
            "Can push to any repository of the registry",
            "content/read",
            "content/write",
        ),
        _system(
            "_repositories_push_metadata_write",
            "Can push to any repository of the registry, list its tags and change its attributes",
            "content/read",
            "content/write",
            "metadata/read",
            "metadata/write",
        ),
    )
}
