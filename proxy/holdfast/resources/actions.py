"""Permissions: the grammar of actions, and the matcher that a token's are compiled into (references.md 1.18).

    repositories/<repository>/content/{read,write,delete}
    repositories/<repository>/metadata/{read,write}
    gateway/<connected registry>/{config,message}/{read,write}

A repository is a name, a name followed by `/*` (everything below it), or `*` alone. Rules only add. Actions compare
without casing and keep the casing they were given in. They match repositories that do not exist yet.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import NamedTuple

from holdfast.errors import ControlInvalid
from holdfast.oci.names import is_repository, shown
from holdfast.resources.model import lowered

RIGHTS = ("content/read", "content/write", "content/delete", "metadata/read", "metadata/write")
GATEWAY_RIGHTS = ("config/read", "config/write", "message/read", "message/write")
READ_RIGHTS = frozenset({"content/read", "metadata/read"})
#: What a sync token may do with its repositories (references.md 1.18).
OF_MODE = {"ReadOnly": ("content/read", "metadata/read"), "ReadWrite": RIGHTS}

_BITS = {right: 1 << position for position, right in enumerate(RIGHTS)}
#: A gateway has 5 characters at least, as connected registries do (references.md 1.4).
_GATEWAY_NAME = re.compile(r"[a-z][a-z0-9]{4,39}")
_RULE = (
    "allowed: repositories/<repository>/{content/read,content/write,content/delete,metadata/read,metadata/write}"
    " where the repository is a name, a name and /*, or *; and"
    " gateway/<connected registry>/{config/read,config/write,message/read,message/write}"
)


class ActionParts(NamedTuple):
    """One action taken apart, in lower case. `noun` is "repositories" or "gateway"."""

    noun: str
    name: str
    right: str

    @property
    def text(self) -> str:
        """As it is written."""
        return f"{self.noun}/{self.name}/{self.right}"


@lru_cache(maxsize=8192)
def parse(text: str) -> ActionParts:
    """An action. Raises `ControlInvalid` with the grammar."""
    parts = lowered(text).split("/")
    noun, name, right = parts[0], "/".join(parts[1:-2]), "/".join(parts[-2:])
    if noun == "repositories" and right in RIGHTS and is_pattern(name):
        return ActionParts(noun, name, right)
    if noun == "gateway" and right in GATEWAY_RIGHTS and _GATEWAY_NAME.fullmatch(name):
        return ActionParts(noun, name, right)
    raise ControlInvalid(f"action {shown(text)!r} is none; {_RULE}", field="actions")


def is_pattern(text: str) -> bool:
    """Whether a text is a repository, one followed by `/*`, or `*`."""
    return text == "*" or is_repository(text.removesuffix("/*"))


def of_repository(repository: str, rights: Iterable[str]) -> list[str]:
    """The actions that give rights to a repository or pattern."""
    return [f"repositories/{repository}/{right}" for right in rights]


def of_gateway(name: str) -> list[str]:
    """The four actions of a connected registry's gateway, whose name is in lower case (references.md 1.13)."""
    return [f"gateway/{name.lower()}/{right}" for right in GATEWAY_RIGHTS]


def merged(held: Iterable[str], more: Iterable[str]) -> tuple[str, ...]:
    """`held` and those of `more` that are not among them, whatever their casing."""
    by_key = {action.lower(): action for action in reversed([*held, *more])}
    return tuple(by_key[key] for key in dict.fromkeys(action.lower() for action in [*held, *more]))


def without(held: Iterable[str], gone: Iterable[str]) -> tuple[str, ...]:
    """`held` but for those of `gone`, whatever their casing."""
    leaving = {action.lower() for action in gone}
    return tuple(action for action in held if action.lower() not in leaving)


def uncovered(held: Sequence[str], more: Sequence[str]) -> list[str]:
    """Those of `more` that grant something which neither `held` nor a pattern among `more` grants: what a pattern
    covers is no permission of its own."""
    here = Grants.of(held)
    wide = Grants.of([*held, *(text for text in more if parse(text).name.endswith("*"))])
    return [
        text for text in more if not (here if parse(text).name.endswith("*") else wide).covers(parse(text))
    ]


class Grants:
    """What a set of actions allows, compiled: a question costs as many look-ups as the repository has segments."""

    __slots__ = ("_all", "_below", "_exact", "_gateways")

    def __init__(self) -> None:
        self._all = 0
        self._exact: dict[str, int] = {}
        self._below: dict[str, int] = {}
        self._gateways: set[tuple[str, str]] = set()

    @classmethod
    def of(cls, actions: Iterable[str]) -> Grants:
        """Compile actions. One that is none grants nothing: what was stored was checked when it came in."""
        grants = cls()
        for text in actions:
            try:
                grants._take(parse(text))
            except ControlInvalid:
                continue
        return grants

    def _take(self, action: ActionParts) -> None:
        noun, name, right = action
        if noun == "gateway":
            self._gateways.add((name, right))
        elif name == "*":
            self._all |= _BITS[right]
        else:
            table = self._below if name.endswith("/*") else self._exact
            prefix = name.removesuffix("*").removesuffix("/")
            table[prefix] = table.get(prefix, 0) | _BITS[right]

    def allows(self, repository: str, right: str) -> bool:
        """Whether `right`, one of RIGHTS, is given for a repository; False for a right that is none."""
        bit = _BITS.get(right, 0)
        if self._all & bit:
            return True
        name = lowered(repository)
        return bool(self._exact.get(name, 0) & bit) or self._allows_below(name, bit)

    def _allows_below(self, name: str, bit: int) -> bool:
        """Whether a pattern above the name has the bit: "a" and "a/b" are above "a/b/c"."""
        if not self._below:
            return False
        end = name.rfind("/")
        while end > 0:
            if self._below.get(name[:end], 0) & bit:
                return True
            end = name.rfind("/", 0, end)
        return False

    def covers(self, action: ActionParts) -> bool:
        """Whether everything that an action grants is granted here by one rule."""
        noun, name, right = action
        if noun == "gateway":
            return (name, right) in self._gateways
        if not name.endswith("*"):
            return self.allows(name, right)
        bit = _BITS[right]
        return bool(self._all & bit) or (name != "*" and self._allows_below(name, bit))

    def gateway(self, name: str, right: str) -> bool:
        """Whether `right`, one of GATEWAY_RIGHTS, is given for the gateway of a connected registry."""
        return (lowered(name), right) in self._gateways

    @property
    def is_empty(self) -> bool:
        """Whether nothing at all is granted."""
        return not (self._all or self._exact or self._below or self._gateways)
