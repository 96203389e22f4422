"""What a token is asked for and says it was given: scopes in docker's grammar, and the rights they stand for.

    repository:<name>:<action>[,<action>]*        oci-spec 4.2; actions as Azure's registries call them
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

#: A client that needs more asks twice (security.md S30).
SCOPES = 20
REPOSITORY, REGISTRY, GATEWAY = "repository", "registry", "gateway"
CATALOG = "catalog"

#: action -> the rights that a token with it may use; the first is what it takes to be given it.
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
#: right -> the actions that a challenge asks for. Pushes ask for pull too: clients look before they push.
ASKED = {
    "content/read": "pull",
    "content/write": "pull,push",
    "content/delete": "delete",
    "metadata/read": "metadata_read",
    "metadata/write": "metadata_write",
}
_KNOWN = {REPOSITORY: tuple(RIGHTS), GATEWAY: tuple(GATEWAY_RIGHTS)}

# oci-spec 4.2: a type, perhaps a class in parentheses that is ignored; a name; actions. `*` stands for all of them.
_SCOPE = re.compile(r"([a-z0-9]+)(?:\([a-z0-9]+\))?:([!-~]+):([a-z_,*]*)")


class Scope(NamedTuple):
    """One resource and what is asked of it, in the order given."""

    type: str
    name: str
    actions: tuple[str, ...]

    @property
    def text(self) -> str:
        """As a challenge and an answer write it."""
        return f"{self.type}:{self.name}:{','.join(self.actions)}"


def parse(texts: Iterable[str]) -> tuple[Scope, ...]:
    """The scopes of all `scope` parameters, each of which may hold several; those of one resource become one.

    What is no scope is left out, as any scope that is not granted is. Raises `QueryInvalid` for more than SCOPES.
    """
    words = tuple([word for text in texts for word in text.split()])
    return _kept(words) if sum(map(len, words)) <= _KEPT_LENGTH else _read(words)


def _read(words: tuple[str, ...]) -> tuple[Scope, ...]:
    found: dict[tuple[str, str], dict[str, None]] = {}
    for word in dict.fromkeys(words):
        if read := _SCOPE.fullmatch(word):
            actions = found.setdefault((read[1], read[2]), {})
            actions.update(dict.fromkeys(action for action in read[3].split(",") if action))
    if len(found) > SCOPES or len(words) > 10 * SCOPES:
        raise QueryInvalid("too many scopes in one question", detail=f"{SCOPES} at most")
    return tuple([Scope(type, name, tuple(actions)) for (type, name), actions in found.items()])


# As of targets (wire.routes): the same few come again and again, longer ones are not kept; 1 MiB at most.
_KEPT_SCOPES, _KEPT_LENGTH = 1024, 512
_kept = lru_cache(_KEPT_SCOPES)(_read)


def expanded(scope: Scope) -> tuple[str, ...]:
    """The actions that a scope asks for, `*` as all of its type's."""
    known, asked = _KNOWN.get(scope.type, ("*",)), scope.actions
    return known if "*" in asked else tuple([action for action in known if action in asked])


def of_repository(name: str, rights: Iterable[str]) -> Scope:
    """What a challenge asks for."""
    actions = [action for right in rights for action in ASKED[right].split(",")]
    return Scope(REPOSITORY, name, tuple(dict.fromkeys(actions)))


WHOLE_CATALOG = Scope(REGISTRY, CATALOG, ("*",))
