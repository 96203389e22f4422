"""What the parent has no longer, or is wanted no longer, goes here: no client's delete, so it leaves no tombstone,
tells no parent, and is done in every mode. What a lock protects, or was pushed here and is still to go up, stays.

Each returns why the thing stays, as a sentence, "" when it is gone or never was here, and raises StoreError for what
the store cannot do. One transaction each, on disk when it returns.
"""

from __future__ import annotations

import asyncio
from concurrent.futures import Future
from typing import TYPE_CHECKING

import structlog
from holdfast_core.digest import Digest
from holdfast_core.errors import Locked, NotHeld, Unsent

if TYPE_CHECKING:
    from holdfast.keeper.keeper import Keeper

log = structlog.get_logger()


async def remove_tag(keeper: Keeper, repository: str, tag: str) -> str:
    """The tag goes, its manifest stays."""
    gone = keeper.store.remove_tag(repository, tag, now=keeper.clock.now())
    return await _removed(gone, f"{repository}:{tag}")


async def remove_manifest(keeper: Keeper, repository: str, digest: str) -> str:
    """The manifest goes, with every tag that names it; its children and its referrers stay."""
    gone = keeper.store.remove_manifest(repository, Digest.parse(digest), now=keeper.clock.now())
    return await _removed(gone, f"{repository}@{digest}")


async def remove_repository(keeper: Keeper, repository: str) -> str:
    """All of the repository goes; when any part of it has to stay, nothing goes."""
    gone = keeper.store.remove_repository(repository, now=keeper.clock.now())
    return await _removed(gone, repository)


async def _removed(future: Future[None], what: str) -> str:
    try:
        await asyncio.wrap_future(future)
    except NotHeld:
        return ""
    except (Locked, Unsent) as error:
        log.info("kept", what=what, reason=str(error))
        return f"{what} stays: {error}"
    log.info("removed", what=what)
    return ""
