"""GET of lists: the tags of a repository, the catalog, and the history of a tag.

Tags and the catalog come in pages, by `n`, `last` and the `Link` to the next (references.md 2.7, 2.8). A page is read
from `last` on and no further than `n` entries, a bounded part at a time: entries before the page, behind it, or hidden
from the caller do not delay other requests.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Sequence
from typing import Generic, NamedTuple, TypeVar
from urllib.parse import quote

import msgspec
from holdfast_core.index.list_pages import merged
from holdfast_core.record import LockTarget, NamePage, TagMove
from holdfast_core.store import Store

from holdfast.clock import give_way
from holdfast.endpoint.content import unconfirmed
from holdfast.endpoint.node import Answer, Node
from holdfast.errors import KeeperAway, ManifestUnknown, NameUnknown, PageInvalid, ParentFailed, PathUnknown
from holdfast.keeper.api import ListAnswer
from holdfast.login.caller import Caller
from holdfast.oci import names
from holdfast.routing import RoutedRepository
from holdfast.timestamps import stamp_milliseconds
from holdfast.wire.message import Reply, Request
from holdfast.wire.query import encode_query

# 1*DIGIT; int() alone takes "1_0", " 5 " and other alphabets
_NUMBER = re.compile(r"[0-9]+")
_DIGITS = 9

#: records of each kind that are read before other requests have their turn: about 2 ms
PART = 250
#: the catalog's page without `n`, as in distribution (references.md 2.7)
CATALOG_PAGE = 100
#: the highest character: sorts behind every name
_HIGHEST = "\U0010ffff"
#: a tag list that need not be fetched from the parent
CURRENT = ListAnswer()

Entry = TypeVar("Entry")

#: Reads the entries after one, from so many records; returns them and where it stopped, None at the end.
ReadPart = Callable[[str, int], tuple[Sequence[Entry], str | None]]


class Page(NamedTuple):
    """A requested page: at most `size` entries (None: all), those after `last`."""

    size: int | None
    last: str

    def read(
        self,
        read_part: ReadPart[Entry],
        reply: Callable[[list[Entry], bool], Reply],
        weight: Callable[[Entry], int] = lambda _: 0,
        room: int = sys.maxsize,
    ) -> Answer:
        """The answer of `reply` to the page's entries and whether more follow; at once where the first part has them
        all. A page of more than one entry weighs no more than `room`. After `n=0` no more follow: a Link from it would
        lead nowhere."""
        reading = _Reading(self, read_part, weight, room)
        if reading.go_on():
            return reply(reading.entries, reading.more)
        return _read_on(reading, reply)


class _Reading(Generic[Entry]):
    """A page while it is read, part by part."""

    def __init__(
        self, page: Page, read_part: ReadPart[Entry], weight: Callable[[Entry], int], room: int
    ) -> None:
        self._size, self._read_part, self._weight, self._room = page.size, read_part, weight, room
        self._last: str | None = None if page.size == 0 else page.last
        self._limit = PART if page.size is None else min(PART, page.size + 1)
        self.entries: list[Entry] = []
        self.more = False

    def go_on(self) -> bool:
        """Read one more part; returns whether the page is complete."""
        if self._last is not None:
            entries, self._last = self._read_part(self._last, self._limit)
            self._limit = min(PART, 2 * self._limit)
            if not all(map(self._takes, entries)):
                self.more, self._last = True, None
        return self._last is None

    def _takes(self, entry: Entry) -> bool:
        self._room -= self._weight(entry)
        if len(self.entries) == self._size or (self.entries and self._room < 0):
            return False
        self.entries.append(entry)
        return True


async def _read_on(reading: _Reading[Entry], reply: Callable[[list[Entry], bool], Reply]) -> Reply:
    while True:
        await give_way()
        if reading.go_on():
            return reply(reading.entries, reading.more)


def asked_page(request: Request, limit: int) -> Page:
    """The page that a request names; `n` over `limit` is cut to it. Raises `PageInvalid`."""
    sizes = {value for name, value in request.query if name == "n"}
    last = request.parameter("last") or ""
    if not sizes:
        return Page(None, last)
    text = sizes.pop()
    if sizes or not _NUMBER.fullmatch(text):
        raise PageInvalid("n is not a whole number, or is given twice", detail=f"0 to {limit}")
    return Page(limit if len(text.lstrip("0")) > _DIGITS else min(int(text), limit), last)


def next_link(request: Request, last: str) -> tuple[str, str]:
    """The Link header to the page after `last`: the same URL with another `last`, as a path, so that it
    holds behind any proxy that keeps paths (RFC 8288 3; relative to the request's own URL)."""
    kept = tuple((name, value) for name, value in request.query if name != "last")
    target = f"{quote(request.path, safe='/:@')}?{encode_query((*kept, ('last', last)))}"
    return "Link", f'<{target}>; rel="next"'


# -- tags ----------------------------------------------------------------------------------------------


def tag_list(node: Node, request: Request) -> Answer:
    """The tags of a repository, the parent's and those that are held, in byte order (distribution-spec end-8). Waits
    for the keeper where the parent's list is due. Raises `Locked` where reading is not allowed."""
    scope = node.router.scope(request)
    page = asked_page(request, node.config.limits.page_size)
    node.references.require_read(scope.key)
    if not node.asks(scope) or _is_fresh(node, scope):
        return _listed(node, request, scope, page, CURRENT)
    return _fetched(node, request, scope, page)


def _is_fresh(node: Node, scope: RoutedRepository) -> bool:
    fetched_at = node.references.lists.tag_list_time(scope.key)
    return fetched_at is not None and 0 <= node.clock.now() - fetched_at < node.config.tags.list_ttl


async def _fetched(node: Node, request: Request, scope: RoutedRepository, page: Page) -> Reply:
    try:
        list_answer = await node.port.tags(scope.key)
        if not list_answer.stale and list_answer.unstored is None:
            node.references.lists.confirm_tag_list(scope.key, node.clock.now() - (list_answer.age or 0))
    except (ParentFailed, KeeperAway) as error:
        if not node.references.has_repository(scope.key):
            raise
        list_answer = ListAnswer.held(
            node.references.lists.tag_list_time(scope.key), node.clock.now(), error.message
        )
    reply = _listed(node, request, scope, page, list_answer)
    return reply if isinstance(reply, Reply) else await reply


def _listed(
    node: Node, request: Request, scope: RoutedRepository, page: Page, list_answer: ListAnswer
) -> Answer:
    unstored = None if list_answer.unstored is None else sorted(list_answer.unstored)
    if unstored is None and not node.references.has_repository(scope.key):
        raise NameUnknown("no such repository here")
    return page.read(
        lambda last, limit: node.references.tag_names(scope.key, last=last, limit=limit, unstored=unstored),
        lambda tags, more: _tags_reply(request, scope, list_answer, tags, more),
    )


def _tags_reply(
    request: Request, scope: RoutedRepository, list_answer: ListAnswer, tags: list[str], more: bool
) -> Reply:
    headers = [("Content-Type", "application/json")]
    if more:
        headers.append(next_link(request, tags[-1]))
    if list_answer.stale:
        headers += unconfirmed(list_answer.stale, list_answer.age)
    if scope.namespace:
        headers.append(("OCI-Namespace", scope.namespace))
    return Reply(200, headers, msgspec.json.encode({"name": _shown_name(request, scope), "tags": tags}))


def _shown_name(request: Request, scope: RoutedRepository) -> str:
    """The repository's name in the request, with the prefix behind /v2."""
    return request.route.name or scope.repository.name


# -- catalog -------------------------------------------------------------------------------------------


def catalog_list(node: Node, request: Request) -> Answer:
    """The repositories held here that the caller may pull and list the tags of (references.md 1.16), under the names
    by which they are pulled. Raises `PathUnknown` unless it is configured, because names may be confidential."""
    if not node.config.catalog:
        raise PathUnknown("this node lists no catalog")
    limit = node.config.limits.page_size
    page = asked_page(request, limit + 1)
    if page.size is None:
        page = page._replace(size=min(CATALOG_PAGE, limit))
    elif page.size > limit:
        raise PageInvalid("n is over the limit", detail=f"0 to {limit}")
    return page.read(
        lambda last, limit: _visible(node, request.caller, last, limit),
        lambda names, more: _catalog_reply(request, names, more),
    )


def _catalog_reply(request: Request, names: list[str], more: bool) -> Reply:
    headers = [("Content-Type", "application/json")]
    if more:
        headers.append(next_link(request, names[-1]))
    return Reply(200, headers, msgspec.json.encode({"repositories": names}))


def _visible(node: Node, caller: Caller, last: str, limit: int) -> NamePage:
    """The names above `last` that the caller may see. Each parent's repositories are a range of the store, sorted there
    as they are shown; `limit` of each are read."""
    parts = [_of_range(node.store, namespace, shown, last, limit) for namespace, shown in node.router.shown()]
    page = merged(parts)
    return NamePage(tuple(filter(caller.lists, page.names)), page.through)


def _of_range(store: Store, namespace: str, shown: str, last: str, limit: int) -> NamePage:
    """The names of one namespace, which are shown behind `shown`."""
    if last > shown and not last.startswith(shown):
        return NamePage((), None)
    part = _of_namespace(store, namespace, last.removeprefix(shown) if last.startswith(shown) else "", limit)
    through = None if part.through is None else shown + part.through
    return NamePage(tuple(shown + name for name in part.names), through)


def _of_namespace(store: Store, namespace: str, last: str, limit: int) -> NamePage:
    """The names of one namespace. In the store a repository of the parent without a name stands among those of the
    others, whose keys have a colon: each of them is passed over whole."""
    page = store.references.repository_names(f"{namespace}:" if namespace else "", last=last, limit=limit)
    for index, name in enumerate(page.names):
        other, colon, _ = name.partition(":")
        if colon:
            return NamePage(page.names[:index], f"{other}:{_HIGHEST}")
    return page


# -- history -------------------------------------------------------------------------------------------


def tag_history(node: Node, request: Request) -> Answer:
    """The moves of a tag, newest first: a JSON list of `{"digest", "time", "origin"}`; a digest of null is a deletion.
    The last moves are kept after the tag is deleted. Raises `ManifestUnknown` for a tag that never existed, `Locked`
    where reading is not allowed."""
    scope = node.router.scope(request)
    tag = request.route.reference
    targets = [LockTarget("tag", tag)] if names.is_tag(tag) else []
    node.references.require_read(scope.key, *targets)
    moves = node.references.tag_moves(scope.key, tag) if targets else ()
    if not moves:
        raise ManifestUnknown("no such tag here, now or before", detail=names.shown(tag))
    return Reply(200, [("Content-Type", "application/json")], msgspec.json.encode([_row(m) for m in moves]))


def _row(move: TagMove) -> dict[str, str | None]:
    digest = None if move.digest is None else str(move.digest)
    return {"digest": digest, "time": stamp_milliseconds(move.moved_at), "origin": move.origin}
