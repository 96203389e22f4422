"""What changed at this node, for a connected registry below it: messages after a cursor, and for who missed them the
contents of all that it may have.

A cursor is `<id of the log>-<number>`. It is answered by 410 when nobody can tell what followed it: then the contents
are compared, and the messages after their cursor complete them. Each answer looks at a bounded number of records, so
that clients of the node do not wait for a child that was long away.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Callable
from typing import NamedTuple

import msgspec
from holdfast_core.errors import RecordDamaged
from holdfast_core.listing import FIRST
from holdfast_core.record import Event, Member, Target

from holdfast import errors
from holdfast.control.resource import SyncResult
from holdfast.control.rules import duration
from holdfast.endpoint.entitled import Entitled, check_active, entitled, json_reply, wait_until
from holdfast.endpoint.node import Node
from holdfast.gateway.message import GONE, Contents, Entry, Message, Messages
from holdfast.login.caller import Holder
from holdfast.wire.message import Reply, Request

READ = "message/read"
#: between looks at whether a held question has an answer (seconds)
GLANCE_SECONDS = 0.25
#: most messages, and entries, in an answer
LONGEST = 1000
#: records that one answer looks at: each about 3 µs of an event, 10 µs of a tag or manifest
EVENTS_LOOKED_AT, MEMBERS_LOOKED_AT = 2000, 500
#: between a question that comes before the log was begun, and the next (seconds)
RETRY_SECONDS = 1

_CURSOR = re.compile(r"([0-9a-f]{32})-(0|[1-9][0-9]{0,18})")
_COUNT = re.compile(r"[1-9][0-9]{0,8}")


class Cursor(NamedTuple):
    """A point of a log."""

    log: str
    number: int

    @property
    def text(self) -> str:
        """As children see it."""
        return f"{self.log}-{self.number}"


class Place(NamedTuple):
    """Where a listing goes on: the cursor of its first page, the repository, and the place in it."""

    cursor: str
    repository: str = ""
    at: bytes = b""


# --- messages --------------------------------------------------------------------------------------------


async def messages(node: Node, request: Request) -> Reply:
    """Messages after a cursor; with `wait` held back up to so many seconds until there is one for this child. Without
    `after`: the present cursor. Raises `ControlGone` when messages after it are not kept, `QueryInvalid`,
    `ControlConflict` for an instance that is not the active one."""
    until, most, at = wait_until(node, request), _count(request), _asked_cursor(request)
    while True:
        revision = node.store.control_revision()
        caller = await entitled(node, request, READ)
        check_active(node, request, caller.registry.name)
        head = _head(node)
        if at is None:
            return json_reply(Messages(head.text))
        found, at = _after(node, caller, at, most)
        if found or at.number < head.number:
            return json_reply(Messages(at.text, tuple(found), at.number < head.number))
        while node.store.control_revision() == revision and _head(node) == at:
            left = until - node.clock.monotonic()
            if left <= 0 or node.draining:
                return json_reply(Messages(at.text))
            await node.clock.sleep(min(GLANCE_SECONDS, left))
            check_active(node, request, caller.registry.name)


def _after(node: Node, caller: Entitled, at: Cursor, most: int) -> tuple[list[Message], Cursor]:
    """Messages for a child after a point, and the point that was reached."""
    try:
        events = node.store.events_since(at.log, at.number, EVENTS_LOOKED_AT)
    except RecordDamaged as damage:
        raise _gone(f"a record of the log cannot be read ({damage})") from damage
    if events is None:
        raise _gone("they are not kept any more, or the cursor is of another log")
    life = duration(caller.registry.parent.sync_properties.message_ttl)
    if events and life is not None and events[0].at < node.clock.now() - life.total_seconds():
        raise _gone("they are older than messageTtl")
    names, found = readable(node, caller), list[Message]()
    for event in events:
        if len(found) == most:
            break
        at = Cursor(at.log, event.number)
        name = "" if event.registry or event.verb == "conflict" else names(event.repository)
        if name and not node.store.hides(event.repository, *_targets(event)):
            found.append(_message(event, name))
    return found, at


def _targets(event: Event) -> list[Target]:
    """What a lock may be on, beside the repository."""
    named = (("tag", event.tag), ("manifest", event.digest))
    return [Target(kind, name) for kind, name in named if name]


def _message(event: Event, name: str) -> Message:
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
    """From the store's name of a repository to the one that the child asks for it by; "" for what it may not pull. The
    child's sync token decides, and so does the caller's, if that is another."""
    access = node.access
    token = access.catalogue.token(caller.registry.parent.sync_properties.token_id)
    own = None if token is None else access.grants_of(token)
    asks = caller.caller.grants if isinstance(caller.caller, Holder) else None

    def name(key: str) -> str:
        listed = node.router.listed(key)
        if listed is None or own is None or asks is None:
            return ""
        may = own.allows(listed, "content/read") and asks.allows(listed, "content/read")
        return listed if may else ""

    return name


def _head(node: Node) -> Cursor:
    """Where the log stands. Raises `KeeperAway` before it was begun."""
    head = node.store.event_head()
    if head is None:
        raise errors.KeeperAway("changes are not logged here yet; ask again", retry_after=RETRY_SECONDS)
    return Cursor(head.log, head.last)


def _gone(why: str) -> errors.ControlGone:
    return errors.ControlGone(
        f"no messages after this cursor: {why}; compare the contents, and go on from their cursor",
        detail=GONE,
    )


def _asked_cursor(request: Request) -> Cursor | None:
    text = request.parameter("after")
    if text is None:
        return None
    found = _CURSOR.fullmatch(text)
    if found is None:
        raise errors.QueryInvalid(
            f"after: found {text[:60]!r}; allowed: the cursor of an earlier answer, or none for the present one"
        )
    return Cursor(found[1], int(found[2]))


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
    """A page of all that the child may have; it looks at `max` records. Raises `QueryInvalid`, and `ControlConflict`
    for an instance that is not the active one."""
    most, place = min(_count(request), MEMBERS_LOOKED_AT), _asked_place(request)
    caller = await entitled(node, request, READ)
    check_active(node, request, caller.registry.name)
    if place is None:
        place = Place(_head(node).text)
    return json_reply(_page(node, readable(node, caller), place, most))


def _page(node: Node, names: Callable[[str], str], place: Place, most: int) -> Contents:
    """What there is from a place on, by looking at `most` records and names of repositories."""
    cursor, repository, at = place
    coming, found = iter(node.store.repositories(last=repository, limit=most)), list[Entry]()
    while most > 0:
        name = names(repository) if at else ""
        if not name:  # done with it, or it is not the child's
            repository, at, most = next(coming, ""), FIRST, most - 1
            if not repository:
                return Contents(cursor, tuple(found), complete=_is_complete(node))
            continue
        part = node.store.members(repository, after=at, limit=most)
        found += [_entry(name, member) for member in part.members]
        at, most = part.end, most - part.looked
    return Contents(cursor, tuple(found), written(Place(cursor, repository, at)))


class _Synchronised(msgspec.Struct):
    """The part of `replica.memory.Memory` that is looked at."""

    result: SyncResult = SyncResult()


def _is_complete(node: Node) -> bool:
    """Whether this node has nobody to bring anything from, or has brought all of it once."""
    if node.access.catalogue.identity() is None:
        return True
    from holdfast.replica.memory import KIND, NAME  # with what it needs, only where a managed node is asked

    held = node.store.resource(KIND, NAME)
    found = _Synchronised() if held is None else msgspec.json.decode(held.body, type=_Synchronised)
    return found.result.last_successful_sync_end_time is not None


def _entry(name: str, member: Member) -> Entry:
    return Entry(
        repository=name,
        digest=str(member.digest),
        tag=member.tag,
        media_type=member.media_type,
        size=member.size,
        subject="" if member.subject is None else str(member.subject),
    )


def written(place: Place) -> str:
    """A place as children carry it to the next question."""
    return base64.urlsafe_b64encode(msgspec.msgpack.encode(place)).decode().rstrip("=")


def _asked_place(request: Request) -> Place | None:
    text = request.parameter("after")
    if not text:
        return None
    try:
        raw = base64.urlsafe_b64decode(f"{text}{'=' * (-len(text) % 4)}".encode("ascii"))
        place = msgspec.msgpack.decode(raw, type=Place)
    except (ValueError, msgspec.MsgspecError):
        place = Place("")
    if not _CURSOR.fullmatch(place.cursor):
        raise errors.QueryInvalid(
            f"after: found {text[:60]!r}; allowed: `next` of an earlier page, or none for the first one"
        )
    return place
