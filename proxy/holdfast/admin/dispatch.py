"""What answers on the admin listener: health to everybody, `/api/v1/` to the operator, nothing else.

Clients' routes are not there: 404, and no password is asked for, so that no client sends its own to the wrong door.
"""

from __future__ import annotations

from collections.abc import Coroutine
from typing import TYPE_CHECKING, Any

from holdfast_core.errors import RecordDamaged

from holdfast.admin.gate import Gate
from holdfast.admin.operator import Operator
from holdfast.clock import Clock
from holdfast.endpoint import health
from holdfast.endpoint.damage import mended, settled
from holdfast.endpoint.node import Answer, Node
from holdfast.errors import PathUnknown, Refusal
from holdfast.wire.message import Reply, Request
from holdfast.wire.routes import Noun, check_method

if TYPE_CHECKING:
    from holdfast.admin.table import Table

PROBES = {Noun.HEALTH: health.alive, Noun.READINESS: health.ready}
#: No browser takes an answer for a page, or shows it in one (S24, S25).
GUARDS = (
    ("X-Content-Type-Options", "nosniff"),
    ("Content-Security-Policy", "default-src 'none'; frame-ancestors 'none'"),
)


async def _guarded(answer: Coroutine[Any, Any, Reply]) -> Reply:
    try:
        reply = await answer
    except Refusal as refused:
        refused.headers = (*refused.headers, *GUARDS)
        raise
    reply.headers.extend(GUARDS)
    return reply


class Admin:
    """The admin side of a node. `clients` is where its clients' listener is, `failures` as in `Gate`."""

    def __init__(
        self, operator: Operator, clock: Clock, clients: tuple[str, int], failures: int = 30
    ) -> None:
        self._gate, self._clients = Gate(operator, clock, failures), clients
        self._table: Table | None = None

    def answer(self, node: Node, request: Request) -> Answer:
        """The reply, or a coroutine that will have it. Raises, or the coroutine raises, what `reply_to` takes."""
        try:
            found = self._answer(node, request)
        except Refusal as refused:
            refused.headers = (*refused.headers, *GUARDS)
            raise
        return found if isinstance(found, Reply) else _guarded(found)

    def _answer(self, node: Node, request: Request) -> Answer:
        noun = request.route.noun
        if probe := PROBES.get(noun):
            check_method(request.route, request.method)
            return probe(node, request)
        if noun is not Noun.API:
            raise PathUnknown("no such endpoint on the admin listener; clients have their own")
        self._gate.admit(request)
        try:
            found = self._loaded(node).answer(node, request, self._clients)
        except RecordDamaged as damage:
            return mended(node, request, damage, self._answer)
        return found if isinstance(found, Reply) else settled(node, request, found, self._answer)

    def _loaded(self, node: Node) -> Table:
        """The operations come with the first request that is let in: most workers never see one."""
        if self._table is None:
            from holdfast.admin.table import Table

            self._table = Table(node.store)
        return self._table
