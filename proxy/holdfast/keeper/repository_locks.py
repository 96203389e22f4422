"""Changes of one repository go side by side; one that depends on what is there goes alone."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


class RepositoryLocks:
    """Who changes which repository now. A change that wants to be alone waits for those under way, and those
    that come after wait for it."""

    def __init__(self) -> None:
        self._beside: Counter[str] = Counter()
        self._alone: Counter[str] = Counter()
        self._going: set[str] = set()
        self._waiting: list[asyncio.Future[None]] = []

    @asynccontextmanager
    async def beside(self, repository: str) -> AsyncIterator[None]:
        """With any number of others that are not alone."""
        while self._alone[repository]:
            await self._next()
        self._beside[repository] += 1
        try:
            yield
        finally:
            self._give(self._beside, repository)

    @asynccontextmanager
    async def alone(self, repository: str) -> AsyncIterator[None]:
        """Hold the repository alone."""
        self._alone[repository] += 1
        try:
            while self._beside[repository] or repository in self._going:
                await self._next()
            self._going.add(repository)
            try:
                yield
            finally:
                self._going.discard(repository)
        finally:
            self._give(self._alone, repository)

    async def _next(self) -> None:
        """Wait until a holder is done."""
        done = asyncio.get_running_loop().create_future()
        self._waiting.append(done)
        await done

    def _give(self, held: Counter[str], repository: str) -> None:
        held[repository] -= 1
        if not held[repository]:
            del held[repository]
        waiting, self._waiting = self._waiting, []
        for done in waiting:
            if not done.done():
                done.set_result(None)
