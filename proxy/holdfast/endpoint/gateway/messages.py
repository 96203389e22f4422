"""GET of the changes at this node for a connected registry below it: messages after a cursor, and the contents of all
that it may have, for a child that missed messages.

A cursor is `<id of the log>-<number>`. The answer is 410 when messages after it were deleted: then the child compares
the contents, and the messages after their cursor complete them. Each answer reads a bounded number of records, so that
the node's clients do not wait for a child that was disconnected for long.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Callable
from typing import NamedTuple

import msgspec
from holdfast_core.errors import RecordDamaged
from holdfast_core.index.list_pages import FIRST
from holdfast_core.record import EventRecord, LockTarget, RepositoryMember

from holdfast import errors
from holdfast.endpoint.gateway.entitled import (
    Entitled,
    Spend,
    admitted,
    check_active,
    entitled,
    json_reply,
    wait_until,
)
from holdfast.endpoint.node import Node
from holdfast.gateway.protocol import GONE, Contents, ContentsEntry, Message, Messages
from holdfast.gateway.rates import QUESTIONS
from holdfast.login.caller import TokenHolder
from holdfast.resources.model import SyncResult
from holdfast.timestamps import duration
from holdfast.wire.message import Reply, Request

READ = "message/read"
#: between two looks for a change while a request is held open (seconds)
GLANCE_SECONDS = 0.25
#: most messages, and entries, in an answer
LONGEST = 1000
#: most records that one answer reads: an event takes about 3 µs, a tag or manifest 10 µs
EVENTS_LOOKED_AT, MEMBERS_LOOKED_AT = 2000, 500
#: the cost of a tag or manifest, in events
MEMBER_COST = 3
#: Retry-After while the log does not exist yet (seconds)
RETRY_SECONDS = 1

_CURSOR = re.compile(r"([0-9a-f]{32})-(0|[1-9][0-9]{0,18})")
_COUNT = re.compile(r"[1-9][0-9]{0,8}")


class Cursor(NamedTuple):
    """A point of a log."""

    log: str
    number: int

    @property
    def text(self) -> str:
        """The cursor as it is in answers and requests."""
        return f"{self.log}-{self.number}"


class ListingPosition(NamedTuple):
    """Where a listing continues: the cursor of its first page, the repository, and the position in it."""

    cursor: str
    repository: str = ""
    at: bytes = b""


# --- messages --------------------------------------------------------------------------------------------


async def messages(node: Node, request: Request) -> Reply:
    """Messages after a cursor; with `wait` the answer is held back up to so many seconds until there is one for this
    child. Without `after`: the present cursor. Raises `ControlGone` when messages after it were deleted,
    `QueryInvalid`, and `ControlConflict` for an instance that is not the active one."""
    until, most, at = wait_until(node, request), _count(request), _requested_cursor(request)
    spend = await admitted(node, (await entitled(node, request, READ)).registry, QUESTIONS)
    while True:
        revision = node.store.documents.revision()
        caller = await entitled(node, request, READ)
        check_active(node, request, caller.registry.name)
        head = _head(node)
        if at is None:
            return json_reply(Messages(head.text))
        batch, at = _after(node, caller, at, most, spend)
        if batch or at.number < head.number:
            return json_reply(Messages(at.text, tuple(batch), at.number < head.number))
        while node.store.documents.revision() == revision and _head(node) == at:
            left = until - node.clock.monotonic()
            if left <= 0 or node.draining:
                return json_reply(Messages(at.text))
            await node.clock.sleep(min(GLANCE_SECONDS, left))
            check_active(node, request, caller.registry.name)


def _after(node: Node, caller: Entitled, at: Cursor, most: int, spend: Spend) -> tuple[list[Message], Cursor]:
    """Messages for a child after a cursor, and the cursor after the last event that was read."""
    try:
        events = node.store.events.since(at.log, at.number, EVENTS_LOOKED_AT)
    except RecordDamaged as damage:
        raise _gone(f"a record of the log cannot be read ({damage})") from damage
    if events is None:
        raise _gone("they were deleted, or the cursor is of another log")
    spend(len(events))
    life = duration(caller.registry.parent.sync_properties.message_ttl)
    if events and life is not None and events[0].at < node.clock.now() - life.total_seconds():
        raise _gone("they are older than messageTtl")
    names, batch = readable(node, caller), list[Message]()
    for event in events:
        if len(batch) == most:
            break
        at = Cursor(at.log, event.number)
        name = "" if event.registry or event.verb == "conflict" else names(event.repository)
        if name and not node.references.hides(event.repository, *_targets(event)):
            batch.append(_message(event, name))
    return batch, at


def _targets(event: EventRecord) -> list[LockTarget]:
    """The tag and the manifest of an event, each of which may be locked."""
    named = (("tag", event.tag), ("manifest", event.digest))
    return [LockTarget(kind, name) for kind, name in named if name]


def _message(event: EventRecord, name: str) -> Message:
    return Message(
        number=event.number,
        at=event.at,
        verb="delete" if event.verb == "delete" else "push",
        kind=event.kind,
        repository=name,
        tag=event.tag,
        digest=event.digest,
        media_type=event.media_type,
        size=event.size,
        artifact_type=event.artifact_type,
        subject=event.subject,
    )


def readable(node: Node, caller: Entitled) -> Callable[[str], str]:
    """A function from the store's name of a repository to the child's name of it; "" for one that the child may not
    pull. Both the child's sync token and the caller's token, if that is another, must allow it."""
    access = node.access
    token = access.catalogue.token(caller.registry.parent.sync_properties.token_id)
    own = None if token is None else access.grants_of(token)
    grants = caller.caller.grants if isinstance(caller.caller, TokenHolder) else None

    def name(key: str) -> str:
        listed = node.router.listed(key)
        if listed is None or own is None or grants is None:
            return ""
        may = own.allows(listed, "content/read") and grants.allows(listed, "content/read")
        return listed if may else ""

    return name


def _head(node: Node) -> Cursor:
    """The cursor at the end of the log. Raises `KeeperAway` while the log does not exist yet."""
    head = node.store.events.head()
    if head is None:
        raise errors.KeeperAway("changes are not logged here yet; ask again", retry_after=RETRY_SECONDS)
    return Cursor(head.log, head.last)


def _gone(why: str) -> errors.ControlGone:
    return errors.ControlGone(
        f"no messages after this cursor: {why}; compare the contents and continue from their cursor",
        detail=GONE,
    )


def _requested_cursor(request: Request) -> Cursor | None:
    text = request.parameter("after")
    if text is None:
        return None
    match = _CURSOR.fullmatch(text)
    if match is None:
        raise errors.QueryInvalid(
            f"after: found {text[:60]!r}; allowed: the cursor of an earlier answer, or none for the present one"
        )
    return Cursor(match[1], int(match[2]))


def _count(request: Request) -> int:
    text = request.parameter("max")
    if text is None:
        return LONGEST
    if not _COUNT.fullmatch(text):
        raise errors.QueryInvalid(
            f"max: found {text[:20]!r}; allowed: a whole number from 1 on, up to {LONGEST} counts"
        )
    return min(int(text), LONGEST)


# --- contents --------------------------------------------------------------------------------------------


async def contents(node: Node, request: Request) -> Reply:
    """A page of all that the child may have, for which `max` records are read. Raises `QueryInvalid`, and
    `ControlConflict` for an instance that is not the active one."""
    most, position = min(_count(request), MEMBERS_LOOKED_AT), _requested_position(request)
    caller = await entitled(node, request, READ)
    spend = await admitted(node, caller.registry, QUESTIONS)
    spend(most * MEMBER_COST)
    check_active(node, request, caller.registry.name)
    if position is None:
        position = ListingPosition(_head(node).text)
    return json_reply(_page(node, readable(node, caller), position, most))


def _page(node: Node, names: Callable[[str], str], position: ListingPosition, most: int) -> Contents:
    """The entries from a position on, for which `most` records and names of repositories are read."""
    cursor, repository, at = position
    following, entries = (
        iter(node.references.repositories(last=repository, limit=most)),
        list[ContentsEntry](),
    )
    while most > 0:
        name = names(repository) if at else ""
        if not name:  # this repository is complete, or the child may not pull it
            repository, at, most = next(following, ""), FIRST, most - 1
            if not repository:
                return Contents(cursor, tuple(entries), complete=_is_complete(node))
            continue
        part = node.references.members(repository, after=at, limit=most)
        entries += [_entry(name, member) for member in part.members]
        at, most = part.end, most - part.looked
    return Contents(cursor, tuple(entries), encode_position(ListingPosition(cursor, repository, at)))


class _Synchronised(msgspec.Struct):
    """The part of `sync.run_record.RunRecord` that is read here."""

    result: SyncResult = SyncResult()


def _is_complete(node: Node) -> bool:
    """Whether this node has no parent to synchronise with, or has synchronised all of it once."""
    if node.access.catalogue.identity() is None:
        return True
    from holdfast.sync.run_record import KIND, NAME  # imported by managed nodes alone, to save memory

    held = node.store.documents.get(KIND, NAME)
    record = _Synchronised() if held is None else msgspec.json.decode(held.body, type=_Synchronised)
    return record.result.last_successful_sync_end_time is not None


def _entry(name: str, member: RepositoryMember) -> ContentsEntry:
    return ContentsEntry(
        repository=name,
        digest=str(member.digest),
        tag=member.tag,
        media_type=member.media_type,
        size=member.size,
        subject="" if member.subject is None else str(member.subject),
    )


def encode_position(position: ListingPosition) -> str:
    """A position as `next` of an answer and `after` of the next request."""
    return base64.urlsafe_b64encode(msgspec.msgpack.encode(position)).decode().rstrip("=")


def _requested_position(request: Request) -> ListingPosition | None:
    text = request.parameter("after")
    if not text:
        return None
    try:
        raw = base64.urlsafe_b64decode(f"{text}{'=' * (-len(text) % 4)}".encode("ascii"))
        position = msgspec.msgpack.decode(raw, type=ListingPosition)
    except (ValueError, msgspec.MsgspecError):
        position = ListingPosition("")
    if not _CURSOR.fullmatch(position.cursor):
        raise errors.QueryInvalid(
            f"after: found {text[:60]!r}; allowed: `next` of an earlier page, or none for the first one"
        )
    return position
