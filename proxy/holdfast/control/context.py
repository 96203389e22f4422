"""What a command needs besides the control plane itself: time, bounds, chance. All of it is passed in, so that to
execute a command is a function of its arguments."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from holdfast.config import Control
from holdfast.control import moment, password
from holdfast.control.draft import Draft
from holdfast.errors import ControlUnknown, PreconditionFailed
from holdfast.wire.names import shown

#: kind -> what a person calls it
NOUNS = {"connected-registry": "connected registry", "scope-map": "scope map", "token": "token"}


@dataclass(frozen=True, slots=True)
class Context:
    """`now` is wall seconds. `verifier` is that of the secret that the command brings, made beforehand because that is
    slow. `generate` makes a secret and its verifier."""

    now: float
    limits: Control = field(default_factory=Control)
    verifier: str = ""
    generate: Callable[[], tuple[str, str]] = password.generate

    @property
    def stamp(self) -> str:
        """Now, as resources have it."""
        return moment.stamp(self.now)


def unknown(kind: str, name: str) -> ControlUnknown:
    """There is no such resource."""
    return ControlUnknown(f"there is no {NOUNS[kind]} {shown(name)!r}")


def require_match(draft: Draft, kind: str, name: str, etag: str | None) -> None:
    """Refuse a command whose condition does not hold. Raises `PreconditionFailed` (RFC 9110 13.1.1)."""
    from holdfast.control.view import etag_of

    held = draft.held(kind, name)
    if etag is None or (etag == "*" and held is not None):
        return
    found = "" if held is None else etag_of(held)
    if etag != found:
        raise PreconditionFailed(
            f"the {NOUNS[kind]} {shown(name)!r} has changed: its ETag is {found or 'none'}; read it again, then decide",
            detail=found,
        )
