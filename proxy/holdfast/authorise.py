"""Who may do what. One table says which right a request needs; what is not in it is denied.

There is no login yet, so every caller is a stranger, and `anonymous` in the configuration says what strangers
may do. The mode of the node is looked at before this: in ReadOnly a login would not help.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Literal

from holdfast.errors import Unauthorized
from holdfast.wire.routes import Noun

#: oci-spec 4.5: the only scheme until there are tokens
CHALLENGE = ("WWW-Authenticate", 'Basic realm="holdfast"')


class Action(StrEnum):
    """A right. `PROBE` is everybody's: health says nothing that a scanner does not see."""

    PROBE = "probe"
    PULL = "pull"
    PUSH = "push"
    DELETE = "delete"
    CATALOG = "catalog"
    ATTRIBUTES = "attributes"


#: What a request needs. Uploads belong to who pushes, status and cancel with them; a mount needs the blob's
#: other repository too, which is the same right while strangers are all alike.
TABLE: dict[tuple[Noun, str], Action] = {
    **{(noun, method): Action.PROBE for noun in (Noun.HEALTH, Noun.READINESS) for method in ("GET", "HEAD")},
    **{
        (noun, method): Action.PULL
        for noun in (Noun.BASE, Noun.MANIFEST, Noun.BLOB, Noun.TAGS, Noun.REFERRERS, Noun.TAG_HISTORY)
        for method in ("GET", "HEAD")
    },
    **{(Noun.CATALOG, method): Action.CATALOG for method in ("GET", "HEAD")},
    **{(Noun.UPLOAD, method): Action.PUSH for method in ("GET", "PATCH", "PUT", "DELETE")},
    (Noun.UPLOADS, "POST"): Action.PUSH,
    (Noun.MANIFEST, "PUT"): Action.PUSH,
    (Noun.MANIFEST, "DELETE"): Action.DELETE,
    (Noun.BLOB, "DELETE"): Action.DELETE,
    (Noun.ATTRIBUTES, "GET"): Action.PULL,
    (Noun.ATTRIBUTES, "PATCH"): Action.ATTRIBUTES,
}

#: What a right allows, after "may not".
PHRASES = {
    Action.PROBE: "ask for the health",
    Action.PULL: "pull",
    Action.PUSH: "push",
    Action.DELETE: "delete",
    Action.CATALOG: "list the repositories",
    Action.ATTRIBUTES: "change attributes",
}

#: Rights that change what is here. A ReadOnly node grants none of them to anybody.
CHANGES = frozenset({Action.PUSH, Action.DELETE, Action.ATTRIBUTES})

#: What strangers may, by `anonymous`.
STRANGERS: dict[str, frozenset[Action]] = {
    "none": frozenset({Action.PROBE}),
    "pull": frozenset({Action.PROBE, Action.PULL, Action.CATALOG}),
    "push": frozenset(Action),
}


def changes(noun: Noun, method: str) -> bool:
    """Whether a request belongs to a change. What is not in the table counts as one."""
    return TABLE.get((noun, method), Action.PUSH) in CHANGES


def levels(noun: Noun, method: str) -> frozenset[str]:
    """The values of `anonymous` that allow a request; none for what is not in the table."""
    action = TABLE.get((noun, method))
    return frozenset(level for level, actions in STRANGERS.items() if action in actions)


def require(noun: Noun, method: str, anonymous: Literal["none", "pull", "push"]) -> None:
    """Raises `Unauthorized` unless a stranger may do this."""
    if anonymous not in levels(noun, method):
        raise Unauthorized(_sentence(TABLE.get((noun, method)), anonymous), headers=(CHALLENGE,))


def _sentence(action: Action | None, anonymous: str) -> str:
    if action is None:
        return "nobody may do this"
    enough = "pull" if action in STRANGERS["pull"] else "push"
    return (
        f"a caller without login may not {PHRASES[action]} here (anonymous = {anonymous});"
        f" the operator can allow it with --anonymous {enough}"
    )
