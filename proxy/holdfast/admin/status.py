"""How a node is, in one answer: what is wrong first, then its parents, synchronisation, outbox and disk."""

from __future__ import annotations

import asyncio
from importlib.metadata import version

import msgspec

from holdfast import errors
from holdfast.admin import parents
from holdfast.admin.document import NodeStatusDocument, ParentStateDocument
from holdfast.admin.operation import Call, reply
from holdfast.endpoint.node import Node
from holdfast.keeper.port import Status
from holdfast.replica.report import SyncReport
from holdfast.role import role
from holdfast.wire.message import Reply

#: a keeper that says nothing for this long is not there (seconds)
KEEPER_SECONDS = 5.0
NOT_THERE = (
    "the keeper does not answer: what is held is served, and nothing else; the log of the node says why"
)


async def show(call: Call) -> Reply:
    """GET. Answers also when the keeper does not."""
    node = call.node
    status = await _keeper(call)
    troubles = list(status.troubles)
    counters = status.counters
    found = NodeStatusDocument(
        health="NotReady" if not status.ready else "Troubled" if troubles else "Healthy",
        troubles=troubles,
        role=role(node.config),
        mode="ReadOnly" if node.store.mode == "ReadOnly" else "ReadWrite",
        version=version("holdfast"),
        parents=await _parents(call) if status.parents else [],
        synchronisation=await _synchronisation(call),
        outbox_entries=counters.get("outbox", 0),
        free_bytes=_free(node),
    )
    return reply(msgspec.to_builtins(found))


async def _keeper(call: Call) -> Status:
    try:
        async with asyncio.timeout(KEEPER_SECONDS):
            return await call.node.port.status()
    except (errors.Refusal, TimeoutError):
        return Status(False, (NOT_THERE,))


async def _parents(call: Call) -> list[ParentStateDocument]:
    try:
        async with asyncio.timeout(KEEPER_SECONDS):
            return [parents.document_of(one) for one in await parents.reports(call)]
    except (errors.Refusal, TimeoutError):
        return []


def _free(node: Node) -> int:
    """0 where the disk does not say."""
    try:
        return node.store.free_bytes()
    except OSError:
        return 0


async def _synchronisation(call: Call) -> SyncReport | None:
    try:
        async with asyncio.timeout(KEEPER_SECONDS):
            return msgspec.json.decode(await call.node.port.synchronise("status"), type=SyncReport)
    except (errors.Refusal, TimeoutError):  # it does not synchronise, or the troubles say what is wrong
        return None
