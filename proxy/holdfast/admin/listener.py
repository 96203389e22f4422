"""The admin listener: health for all, `/api/v1/` for the operator, nothing else.

Clients' routes are 404 without a challenge, so that no client sends its password to this listener.
"""

from __future__ import annotations

from collections.abc import Coroutine
from typing import TYPE_CHECKING, Any

from holdfast_core.errors import RecordDamaged

from holdfast.admin.auth import Operator, OperatorGate
from holdfast.clock import Clock
from holdfast.endpoint import probes
from holdfast.endpoint.node import Answer, Node
from holdfast.endpoint.unavailable import mended, settled
from holdfast.errors import PathUnknown, Refusal
from holdfast.wire.message import Reply, Request
from holdfast.wire.routes import Noun, check_method

if TYPE_CHECKING:
    from holdfast.admin.table import Table

PROBES = {Noun.HEALTH: probes.alive, Noun.READINESS: probes.ready}
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


class AdminApi:
    """The admin side of a node. `clients` is where its clients' listener is, `failures` as in `OperatorGate`."""

    def __init__(
        self, operator: Operator, clock: Clock, clients: tuple[str, int], failures: int = 30
    ) -> None:
        self._gate, self._clients = OperatorGate(operator, clock, failures), clients
        self._table: Table | None = None

    def answer(self, node: Node, request: Request) -> Answer:
        """The reply, or a coroutine that will have it. Raises, or the coroutine raises, what `reply_to` takes."""
        try:
            answer = self._answer(node, request)
        except Refusal as refused:
            refused.headers = (*refused.headers, *GUARDS)
            raise
        return answer if isinstance(answer, Reply) else _guarded(answer)

    def _answer(self, node: Node, request: Request) -> Answer:
        noun = request.route.noun
        if probe := PROBES.get(noun):
            check_method(request.route, request.method)
            return probe(node, request)
        if noun is not Noun.API:
            raise PathUnknown("no such endpoint on the admin listener; clients have their own")
        self._gate.admit(request)
        try:
            answer = self._loaded(node).answer(node, request, self._clients)
        except RecordDamaged as damage:
            return mended(node, request, damage, self._answer)
        return answer if isinstance(answer, Reply) else settled(node, request, answer, self._answer)

    def _loaded(self, node: Node) -> Table:
        """The operations are imported with the first authenticated request: most workers never get one."""
        if self._table is None:
            from holdfast.admin.table import Table

            self._table = Table(node.store)
        return self._table
