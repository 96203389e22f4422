"""What a parent has, asked before anything goes up: of a Holdfast parent by one question for many names, of any other
by a HEAD each, side by side."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import NamedTuple, Protocol

import structlog

from holdfast.clock import Clock
from holdfast.errors import ParentFailed
from holdfast.gateway.message import INQUIRY_NAMES, Known, Present, Sought
from holdfast.parent.push import Pushing, TagThere

log = structlog.get_logger()

#: a parent that knows no question for many names is asked for it again after this (seconds)
UNKNOWN_SECONDS = 3600.0
#: repositories of which it is remembered that they were logged in for
REPOSITORIES = 1024
#: an answer that is there waits at most so long for the login (seconds); what goes up then may have to go twice
LOGIN_SECONDS = 5.0


class There(NamedTuple):
    """Those of the digests that are there, and what the tags name as far as that was asked: a tag that is not in it is
    to be asked for when it is about to move."""

    digests: frozenset[str]
    tags: Mapping[str, TagThere]


class Above(Protocol):
    """Where to ask."""

    #: whether what this parent took it has: it needs not be asked for once more
    keeps: bool

    async def look(self, sought: Sought) -> There:
        """Raises ParentFailed."""

    async def close(self) -> None:
        """Ask for nothing any more."""


class Heads:
    """Any parent. Where the manifests are there nobody asks for the blobs."""

    keeps = False

    def __init__(self, up: Pushing) -> None:
        self._up = up

    async def introduced(self, name: str) -> bool:
        """Log in for pushes to a repository; what fails here is for the push itself to tell."""
        try:
            await self._up.introduce(name)
        except ParentFailed:
            return False
        return True

    async def look(self, sought: Sought) -> There:
        """See `Above`."""
        found = await self._which(sought.repository, "manifests", sought.manifests)
        if len(found) < len(sought.manifests):
            found |= await self._which(sought.repository, "blobs", sought.blobs)
        return There(found, {})

    async def _which(self, name: str, kind: str, digests: Sequence[str]) -> frozenset[str]:
        asked = (self._up.has(name, f"{kind}/{digest}") for digest in digests)
        there = await asyncio.gather(*asked)
        return frozenset(digest for digest, is_there in zip(digests, there, strict=True) if is_there)

    async def close(self) -> None:
        """See `Above`."""


#: asks a gateway: Known, None when it cannot be asked now, or what it says when it does not answer
Question = Callable[[Sequence[Sought]], Awaitable[object]]


class Inquiries:
    """A Holdfast parent. Who asks while a question is under way goes along with the next. `otherwise` is asked when the
    parent does not answer, or is too old to."""

    keeps = True

    def __init__(
        self,
        question: Question,
        is_unknown: type,
        otherwise: Heads,
        clock: Clock,
        end: Callable[[], Awaitable[None]],
    ) -> None:
        self._question, self._is_unknown, self._end = question, is_unknown, end
        self._otherwise, self._clock = otherwise, clock
        self._waiting: list[tuple[Sought, asyncio.Future[Present | None]]] = []
        self._asking: asyncio.Task[None] | None = None
        self._silent_until = 0.0
        #: by repository: HEADs find out how to log in before anything with a body goes, these questions do not
        self._logins: dict[str, asyncio.Task[None]] = {}

    async def look(self, sought: Sought) -> There:
        """See `Above`."""
        login = self._login(sought.repository)
        found = await self._asked(sought)
        await asyncio.wait([login], timeout=LOGIN_SECONDS)
        if found is None:
            return await self._otherwise.look(sought)
        said = zip((*sought.blobs, *sought.manifests), (*found.blobs, *found.manifests), strict=True)
        digests = frozenset(digest for digest, is_there in said if is_there)
        named = zip(sought.tags, found.tags, strict=True)
        return There(
            digests, {tag: TagThere(digest, f'"{digest}"' if digest else "") for tag, digest in named}
        )

    async def close(self) -> None:
        """See `Above`."""
        under_way = [*self._logins.values(), *([self._asking] if self._asking is not None else [])]
        for task in under_way:
            task.cancel()
        await asyncio.gather(*under_way, return_exceptions=True)
        await self._end()

    def _login(self, name: str) -> asyncio.Task[None]:
        """Under way, or done: what did not succeed is not remembered."""
        if (login := self._logins.get(name)) is None:
            if len(self._logins) >= REPOSITORIES:
                self._logins.clear()
            login = self._logins[name] = asyncio.create_task(self._introduce(name))
        return login

    async def _introduce(self, name: str) -> None:
        is_known = False
        try:
            is_known = await self._otherwise.introduced(name)
        except Exception:
            log.exception("no login ahead of a push", repository=name)
        finally:
            if not is_known:
                self._logins.pop(name, None)

    async def _asked(self, sought: Sought) -> Present | None:
        """The answer; None when there is none."""
        if self._clock.monotonic() < self._silent_until or _names(sought) > INQUIRY_NAMES:
            return None
        answer: asyncio.Future[Present | None] = asyncio.get_running_loop().create_future()
        self._waiting.append((sought, answer))
        if self._asking is None or self._asking.done():
            self._asking = asyncio.create_task(self._ask())
        return await answer

    async def _ask(self) -> None:
        while self._waiting:
            batch = self._batch()
            found: tuple[Present | None, ...] = (None,) * len(batch)
            try:
                found = await self._answers([sought for sought, _ in batch])
            finally:
                for (_, waiter), answer in zip(batch, found, strict=True):
                    if not waiter.done():
                        waiter.set_result(answer)

    def _batch(self) -> list[tuple[Sought, asyncio.Future[Present | None]]]:
        """The first that fit into one question."""
        count = names = 0
        for sought, _ in self._waiting:
            names += _names(sought)
            if names > INQUIRY_NAMES:
                break
            count += 1
        batch, self._waiting = self._waiting[:count], self._waiting[count:]
        return batch

    async def _answers(self, sought: Sequence[Sought]) -> tuple[Present | None, ...]:
        try:
            said = await self._question(sought)
        except Exception:
            log.exception("the parent could not be asked for many names")
            return (None,) * len(sought)
        if isinstance(said, Known) and list(map(_shape, said.present)) == list(map(_shape, sought)):
            return said.present
        if isinstance(said, self._is_unknown):
            self._silent_until = self._clock.monotonic() + UNKNOWN_SECONDS
            log.info("the parent takes no question for many names; it is asked for each")
        return (None,) * len(sought)


def _shape(row: Sought | Present) -> tuple[int, int, int]:
    return len(row.blobs), len(row.manifests), len(row.tags)


def _names(sought: Sought) -> int:
    return max(1, sum(_shape(sought)))
