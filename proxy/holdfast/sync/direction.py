"""Which way a thing goes, by mode: the direction matrix of connected-registry 3.6, as a table. The documents print
it."""

from __future__ import annotations

from enum import StrEnum
from typing import Final, NamedTuple

from holdfast.control.resource import Mode


class Way(StrEnum):
    """What happens to it."""

    DOWN = "down"
    UP = "up"
    REFUSED = "refused"
    REMOVED = "removed here"
    KEPT = "kept here"
    NEITHER = "stays where it is"


class Thing(StrEnum):
    """What may go one way or another."""

    PARENT_PUSH = "pushes and tag moves at the parent"
    PARENT_DELETE = "deletes at the parent"
    LOCAL_PUSH = "pushes and tag moves here"
    LOCAL_DELETE = "deletes here"
    LEFT_SCOPE = "a repository that left the scope"
    CONTROL = "client tokens, scope maps, configuration, log level"
    STATUS = "status, version, login server, errors, last synchronisation"
    NOTIFICATION = "notifications"
    LOCK = "image locks"
    AUDIT_LOG = "audit logs"


class Row(NamedTuple):
    """One line of the matrix."""

    read_only: Way
    read_write: Way
    remark: str = ""


MATRIX: Final[dict[Thing, Row]] = {
    Thing.PARENT_PUSH: Row(Way.DOWN, Way.DOWN),
    Thing.PARENT_DELETE: Row(Way.DOWN, Way.DOWN, "a tag may be kept here instead, and is told"),
    Thing.LOCAL_PUSH: Row(Way.REFUSED, Way.UP, "taken at once; goes up, each tag in its order"),
    Thing.LOCAL_DELETE: Row(Way.REFUSED, Way.UP, "needs `content/delete`"),
    Thing.LEFT_SCOPE: Row(Way.REMOVED, Way.KEPT, "after a grace period"),
    Thing.CONTROL: Row(Way.DOWN, Way.DOWN),
    Thing.STATUS: Row(Way.UP, Way.UP),
    Thing.NOTIFICATION: Row(Way.UP, Way.UP, "as `notificationsList` says"),
    Thing.LOCK: Row(Way.NEITHER, Way.NEITHER, "honoured where they were set"),
    Thing.AUDIT_LOG: Row(Way.NEITHER, Way.NEITHER),
}


def way(thing: Thing, mode: Mode) -> Way:
    """Where a thing goes on a node of this mode."""
    row = MATRIX[thing]
    return row.read_only if mode == "ReadOnly" else row.read_write


def markdown() -> str:
    """The matrix as `docs/sync.md` has it."""
    lines = ["| thing | ReadOnly | ReadWrite | |", "|---|---|---|---|"]
    lines += [
        f"| {thing} | {row.read_only} | {row.read_write} | {row.remark} |" for thing, row in MATRIX.items()
    ]
    return "\n".join(lines)
