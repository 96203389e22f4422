"""Scopes of access tokens, in docker's grammar, and the rights they stand for.

    repository:<name>:<action>[,<action>]*        references.md 2.13; actions as Azure's registries call them
    registry:catalog:*
    gateway:<connected registry>:<action>[,…]     this project's own, for the calls of a child

`pull` stands for what a pull is made of, the list of tags included, because clients ask `pull` for that list
(distribution: GET needs pull); a scope map still has to give `metadata/read`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import lru_cache
from typing import NamedTuple

from holdfast.errors import QueryInvalid

#: most scopes of one request (security.md S30)
SCOPES = 20
REPOSITORY, REGISTRY, GATEWAY = "repository", "registry", "gateway"
CATALOG = "catalog"

#: action -> the rights that a token with it may use; the first is the right that a caller needs to get the action
RIGHTS: dict[str, tuple[str, ...]] = {
    "pull": ("content/read", "metadata/read"),
    "push": ("content/write",),
    "delete": ("content/delete",),
    "metadata_read": ("metadata/read",),
    "metadata_write": ("metadata/write",),
}
GATEWAY_RIGHTS: dict[str, str] = {
    "config_read": "config/read",
    "config_write": "config/write",
    "message_read": "message/read",
    "message_write": "message/write",
}
#: right -> the actions of a challenge; for a push with pull as well, because clients look before they push
ASKED = {
    "content/read": "pull",
    "content/write": "pull,push",
    "content/delete": "delete",
    "metadata/read": "metadata_read",
    "metadata/write": "metadata_write",
}
_KNOWN = {REPOSITORY: tuple(RIGHTS), GATEWAY: tuple(GATEWAY_RIGHTS)}

# references.md 2.13: a type, perhaps a class in parentheses that is ignored; a name; actions, of which `*` is all.
_SCOPE = re.compile(r"([a-z0-9]+)(?:\([a-z0-9]+\))?:([!-~]+):([a-z_,*]*)")


class TokenScope(NamedTuple):
    """One resource and the requested actions, in their order."""

    type: str
    name: str
    actions: tuple[str, ...]

    @property
    def text(self) -> str:
        """Returns the scope as challenges and answers write it."""
        return f"{self.type}:{self.name}:{','.join(self.actions)}"


def parse(texts: Iterable[str]) -> tuple[TokenScope, ...]:
    """Returns the scopes of all `scope` parameters, each of which may hold several; those of one resource become one.

    A malformed scope is left out, as is any that is not granted. Raises `QueryInvalid` for more than SCOPES.
    """
    scopes = tuple([scope for text in texts for scope in text.split()])
    return _kept(scopes) if sum(map(len, scopes)) <= _KEPT_LENGTH else _read(scopes)


def _read(scopes: tuple[str, ...]) -> tuple[TokenScope, ...]:
    resources: dict[tuple[str, str], dict[str, None]] = {}
    for scope in dict.fromkeys(scopes):
        if read := _SCOPE.fullmatch(scope):
            actions = resources.setdefault((read[1], read[2]), {})
            actions.update(dict.fromkeys(action for action in read[3].split(",") if action))
    if len(resources) > SCOPES or len(scopes) > 10 * SCOPES:
        raise QueryInvalid("too many scopes in one request", detail=f"{SCOPES} at most")
    return tuple([TokenScope(type, name, tuple(actions)) for (type, name), actions in resources.items()])


# As for targets (wire.routes): few different ones are frequent, and longer ones are not cached; 1 MiB at most.
_KEPT_SCOPES, _KEPT_LENGTH = 1024, 512
_kept = lru_cache(_KEPT_SCOPES)(_read)


def expanded(scope: TokenScope) -> tuple[str, ...]:
    """Returns the actions that a scope requests, `*` as all of its type's."""
    known, requested = _KNOWN.get(scope.type, ("*",)), scope.actions
    return known if "*" in requested else tuple([action for action in known if action in requested])


def of_repository(name: str, rights: Iterable[str]) -> TokenScope:
    """Returns the scope of a challenge for rights in a repository."""
    actions = [action for right in rights for action in ASKED[right].split(",")]
    return TokenScope(REPOSITORY, name, tuple(dict.fromkeys(actions)))


WHOLE_CATALOG = TokenScope(REGISTRY, CATALOG, ("*",))
