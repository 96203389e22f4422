"""The direction of each flow between a node and its parent, by mode: the matrix of references.md 1.14 as a table. The
documents print it."""

from __future__ import annotations

from enum import StrEnum
from typing import Final, NamedTuple

from holdfast.resources.model import Mode


class Direction(StrEnum):
    """Where a flow goes."""

    DOWN = "down"
    UP = "up"
    REFUSED = "refused"
    REMOVED = "removed here"
    KEPT = "kept here"
    NEITHER = "stays where it is"


class Flow(StrEnum):
    """What can pass between a node and its parent."""

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


class DirectionRow(NamedTuple):
    """One line of the matrix."""

    read_only: Direction
    read_write: Direction
    remark: str = ""


MATRIX: Final[dict[Flow, DirectionRow]] = {
    Flow.PARENT_PUSH: DirectionRow(Direction.DOWN, Direction.DOWN),
    Flow.PARENT_DELETE: DirectionRow(
        Direction.DOWN, Direction.DOWN, "a tag may be kept here instead, and is reported"
    ),
    Flow.LOCAL_PUSH: DirectionRow(
        Direction.REFUSED, Direction.UP, "accepted at once; sent up, each tag in its order"
    ),
    Flow.LOCAL_DELETE: DirectionRow(Direction.REFUSED, Direction.UP, "needs `content/delete`"),
    Flow.LEFT_SCOPE: DirectionRow(Direction.REMOVED, Direction.KEPT, "after a grace period"),
    Flow.CONTROL: DirectionRow(Direction.DOWN, Direction.DOWN),
    Flow.STATUS: DirectionRow(Direction.UP, Direction.UP),
    Flow.NOTIFICATION: DirectionRow(Direction.UP, Direction.UP, "as `notificationsList` says"),
    Flow.LOCK: DirectionRow(Direction.NEITHER, Direction.NEITHER, "in force where they were set"),
    Flow.AUDIT_LOG: DirectionRow(Direction.NEITHER, Direction.NEITHER),
}


def direction_of(flow: Flow, mode: Mode) -> Direction:
    """Returns the direction of a flow on a node of this mode."""
    row = MATRIX[flow]
    return row.read_only if mode == "ReadOnly" else row.read_write


def markdown() -> str:
    """Returns the matrix as `docs/sync.md` has it."""
    lines = ["| flow | ReadOnly | ReadWrite | |", "|---|---|---|---|"]
    lines += [
        f"| {flow} | {row.read_only} | {row.read_write} | {row.remark} |" for flow, row in MATRIX.items()
    ]
    return "\n".join(lines)
