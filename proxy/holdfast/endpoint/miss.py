"""What pushes and deletes change about a miss (ReadWrite under a parent)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from holdfast.endpoint.node import Node
from holdfast.errors import ParentFailed, Refusal
from holdfast.keeper.port import Kind
from holdfast.routing import Scope
from holdfast.wire.message import Request


def is_deleted(node: Node, scope: Scope, kind: Kind, name: str) -> bool:
    """Whether a client deleted it here, so that the parent's word of it does not count. A root keeps no record of
    that: nothing would bring it back."""
    return scope.has_parent and node.store.is_deleted(scope.key, kind, name)


def check_asked(node: Node, scope: Scope, kind: Kind, name: str, unknown: type[Refusal]) -> None:
    """Raises `unknown` unless the keeper is to be asked for what is not held: nobody stands behind this node,
    or it was deleted here, and the parent would bring it back."""
    if not node.asks(scope):
        raise unknown(f"no such {kind} here", detail=name)
    if is_deleted(node, scope, kind, name):
        raise unknown(f"this {kind} was deleted here", detail=name)


@contextmanager
def absent_to_pushers(node: Node, request: Request, unknown: type[Refusal]) -> Iterator[None]:
    """A parent that cannot be asked is 404 to a HEAD in ReadWrite: that is how clients ask before they push, and
    containerd and podman push only after 200 or 404. A GET still hears why (503): its client wants the bytes."""
    try:
        yield
    except ParentFailed as failure:
        if request.method != "HEAD" or node.store.mode != "ReadWrite":
            raise
        raise unknown("not held here, and the parent cannot be asked", detail=failure.message) from failure
