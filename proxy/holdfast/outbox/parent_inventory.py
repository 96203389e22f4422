"""Finds out what a parent has before anything is sent: at a Holdfast parent by one inquiry for many names, at any other
by a HEAD for each, side by side."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import NamedTuple, Protocol

from holdfast.clock import Clock
from holdfast.errors import ParentFailed
from holdfast.gateway.protocol import INQUIRY_NAMES, InquiredNames, InquiryAnswer, Present
from holdfast.log import log
from holdfast.parent.push_client import PushClient, RemoteTag

#: a parent without inquiries is tried again after this (seconds)
UNKNOWN_SECONDS = 3600.0
#: repositories whose login is remembered
REPOSITORIES = 1024
#: an answer waits at most so long for the login (seconds); after that a body may have to be sent twice
LOGIN_SECONDS = 5.0


class FoundAtParent(NamedTuple):
    """The digests that the parent has, and the tags whose state it answered: any other tag gets a HEAD when it is about
    to move."""

    digests: frozenset[str]
    tags: Mapping[str, RemoteTag]


class ParentInventory(Protocol):
    """Answers what the parent has."""

    #: whether this parent keeps all that it accepted, so that no check is needed
    keeps: bool

    async def find(self, sought: InquiredNames) -> FoundAtParent:
        """Those of the names that the parent has. Raises ParentFailed."""

    async def close(self) -> None:
        """Cancel what is running."""


class HeadInventory:
    """By HEAD, for any parent. The blobs are only looked for when a manifest is missing."""

    keeps = False

    def __init__(self, up: PushClient) -> None:
        self._up = up

    async def authorized(self, name: str) -> bool:
        """Log in for pushes to a repository; returns whether it succeeded. The push itself reports a failure."""
        try:
            await self._up.authorize(name)
        except ParentFailed:
            return False
        return True

    async def find(self, sought: InquiredNames) -> FoundAtParent:
        """See `ParentInventory`."""
        found = await self._which(sought.repository, "manifests", sought.manifests)
        if len(found) < len(sought.manifests):
            found |= await self._which(sought.repository, "blobs", sought.blobs)
        return FoundAtParent(found, {})

    async def _which(self, name: str, kind: str, digests: Sequence[str]) -> frozenset[str]:
        present = await asyncio.gather(*(self._up.has(name, f"{kind}/{digest}") for digest in digests))
        return frozenset(digest for digest, is_present in zip(digests, present, strict=True) if is_present)

    async def close(self) -> None:
        """See `ParentInventory`."""


#: sends an inquiry to a gateway; returns its InquiryAnswer, None when it cannot be sent now, or its refusal
Question = Callable[[Sequence[InquiredNames]], Awaitable[object]]


class InquiryInventory:
    """By inquiries, for a Holdfast parent. Names that come while one is running go into the next. `otherwise` is used
    when the parent does not answer, or is too old to."""

    keeps = True

    def __init__(
        self,
        question: Question,
        is_unknown: type,
        otherwise: HeadInventory,
        clock: Clock,
    ) -> None:
        self._question, self._is_unknown = question, is_unknown
        self._otherwise, self._clock = otherwise, clock
        self._waiting: list[tuple[InquiredNames, asyncio.Future[Present | None]]] = []
        self._asking: asyncio.Task[None] | None = None
        self._silent_until = 0.0
        #: by repository: HEADs find out how to log in before a body is sent, inquiries do not
        self._logins: dict[str, asyncio.Task[None]] = {}

    async def find(self, sought: InquiredNames) -> FoundAtParent:
        """See `ParentInventory`."""
        login = self._login(sought.repository)
        found = await self._answer(sought)
        await asyncio.wait([login], timeout=LOGIN_SECONDS)
        if found is None:
            return await self._otherwise.find(sought)
        answers = zip((*sought.blobs, *sought.manifests), (*found.blobs, *found.manifests), strict=True)
        digests = frozenset(digest for digest, is_present in answers if is_present)
        named = zip(sought.tags, found.tags, strict=True)
        return FoundAtParent(
            digests, {tag: RemoteTag(digest, f'"{digest}"' if digest else "") for tag, digest in named}
        )

    async def close(self) -> None:
        """See `ParentInventory`."""
        running = [*self._logins.values(), *([self._asking] if self._asking is not None else [])]
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)

    def _login(self, name: str) -> asyncio.Task[None]:
        """The login, running or done; one that failed is not remembered."""
        if (login := self._logins.get(name)) is None:
            if len(self._logins) >= REPOSITORIES:
                self._logins.clear()
            login = self._logins[name] = asyncio.create_task(self._authorize(name))
        return login

    async def _authorize(self, name: str) -> None:
        is_known = False
        try:
            is_known = await self._otherwise.authorized(name)
        except Exception:
            log.exception("no login ahead of a push", repository=name)
        finally:
            if not is_known:
                self._logins.pop(name, None)

    async def _answer(self, sought: InquiredNames) -> Present | None:
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

    def _batch(self) -> list[tuple[InquiredNames, asyncio.Future[Present | None]]]:
        """The first that fit into one inquiry."""
        count = names = 0
        for sought, _ in self._waiting:
            names += _names(sought)
            if names > INQUIRY_NAMES:
                break
            count += 1
        batch, self._waiting = self._waiting[:count], self._waiting[count:]
        return batch

    async def _answers(self, sought: Sequence[InquiredNames]) -> tuple[Present | None, ...]:
        try:
            answer = await self._question(sought)
        except Exception:
            log.exception("inquiry failed")
            return (None,) * len(sought)
        if isinstance(answer, InquiryAnswer) and list(map(_shape, answer.present)) == list(
            map(_shape, sought)
        ):
            return answer.present
        if isinstance(answer, self._is_unknown):
            self._silent_until = self._clock.monotonic() + UNKNOWN_SECONDS
            log.info("the parent takes no inquiries; each name gets a HEAD")
        return (None,) * len(sought)


def _shape(row: InquiredNames | Present) -> tuple[int, int, int]:
    return len(row.blobs), len(row.manifests), len(row.tags)


def _names(sought: InquiredNames) -> int:
    return max(1, sum(_shape(sought)))
