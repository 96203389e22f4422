"""How a node is, in one answer: what is wrong first, then its parents, synchronisation, outbox and disk."""

from __future__ import annotations

import asyncio
from importlib.metadata import version

import msgspec
from holdfast_core.errors import StoreError

from holdfast import errors
from holdfast.admin.documents import NodeStatusDocument, ParentStateDocument
from holdfast.admin.operation import AdminCall, reply
from holdfast.admin.operations import parents
from holdfast.endpoint.node import Node
from holdfast.gateway.identity import role
from holdfast.keeper.api import KeeperStatus
from holdfast.storage.scrubbing.scrub_report import ScrubStatus
from holdfast.sync.report import SyncReport
from holdfast.wire.message import Reply

#: a keeper that does not answer for this long counts as absent (seconds)
KEEPER_SECONDS = 5.0
NOT_THERE = (
    "the keeper does not answer: what is held is served, and nothing else; the log of the node says why"
)


async def show(call: AdminCall) -> Reply:
    """GET. Answers also when the keeper does not."""
    node = call.node
    status = await _keeper(call)
    troubles = list(status.troubles)
    counters = status.counters
    answer = NodeStatusDocument(
        health="NotReady" if not status.ready else "Troubled" if troubles else "Healthy",
        troubles=troubles,
        role=role(node.config),
        mode="ReadOnly" if node.store.mode == "ReadOnly" else "ReadWrite",
        version=version("holdfast"),
        parents=await _parents(call) if status.parents else [],
        synchronisation=await _synchronisation(call),
        outbox_entries=counters.get("outbox", 0),
        outbox_capped=counters.get("outbox.capped", 0),
        free_bytes=_free(node),
        scrub=await _scrub(call),
    )
    return reply(msgspec.to_builtins(answer))


async def _keeper(call: AdminCall) -> KeeperStatus:
    try:
        async with asyncio.timeout(KEEPER_SECONDS):
            return await call.node.port.status()
    except (errors.Refusal, TimeoutError):
        return KeeperStatus(False, (NOT_THERE,))


async def _parents(call: AdminCall) -> list[ParentStateDocument]:
    try:
        async with asyncio.timeout(KEEPER_SECONDS):
            return [parents.document(one) for one in await call.node.port.list_parents()]
    except (errors.Refusal, TimeoutError):
        return []


async def _scrub(call: AdminCall) -> ScrubStatus | None:
    try:
        async with asyncio.timeout(KEEPER_SECONDS):
            return await call.node.port.scrub()
    except (errors.Refusal, StoreError, TimeoutError):  # the reason is in the troubles
        return None


def _free(node: Node) -> int:
    """Free bytes of the disk; 0 where they cannot be read."""
    try:
        return node.store.free_bytes()
    except OSError:
        return 0


async def _synchronisation(call: AdminCall) -> SyncReport | None:
    try:
        async with asyncio.timeout(KEEPER_SECONDS):
            return await call.node.port.synchronisation()
    except (errors.Refusal, TimeoutError):  # it does not synchronise, or the reason is in the troubles
        return None
