"""A blob whose digest matched enters the store."""

from __future__ import annotations

import asyncio

import structlog
from holdfast_core.digest import Digest
from holdfast_core.errors import StoreError
from holdfast_core.part import FillPart

from holdfast.fill.means import Means

log = structlog.get_logger()


async def admit(
    means: Means, part: FillPart, first: str, repositories: set[str], digest: Digest, table: bytes
) -> bool:
    """For every repository whose parent has it, those included that join meanwhile; `first` is the one it
    was fetched for. Returns whether it is in the store: right bytes that cannot be admitted are still right
    for those who read them, so a refusal of the store is only logged."""
    store, now, linked = means.store, means.clock.now(), {first}
    try:
        await asyncio.wrap_future(store.commit_fill(part, first, digest, table, owned=False, now=now))
        while others := sorted(repositories - linked):
            linked.update(others)
            for repository in others:
                await asyncio.wrap_future(store.link_blob(repository, digest, now=now))
    except StoreError as error:
        means.counters["unadmitted"] += 1
        log.error("blob not admitted", digest=str(digest), reason=str(error))
        return False
    return True
