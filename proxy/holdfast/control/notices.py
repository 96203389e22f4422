"""What a connected registry tells its parent of its events, and of those below it: checked, and taken once.

A notice that cannot be is refused with the whole order: a node of the same release that keeps to the rules sends none,
and any other finds it and leaves it out (`notify.upward`). What is only not the child's to tell is passed over, so that
it holds up nothing behind it: a registry or a repository that the operator took away while the notice was on its way.
"""

from __future__ import annotations

from math import isfinite

from holdfast_core.digest import Digest
from holdfast_core.errors import DigestInvalid
from holdfast_core.record import Event

from holdfast.control import hierarchy
from holdfast.control.actions import Grants
from holdfast.control.activation import directly_below, require_active
from holdfast.control.command import Result, TakeNotices
from holdfast.control.context import Context
from holdfast.control.draft import Draft
from holdfast.control.resource import NOTICES, ConnectedRegistry, NoticesTaken
from holdfast.errors import ControlInvalid
from holdfast.gateway.message import Notice
from holdfast.sync.notification import Event as Told
from holdfast.wire.names import is_repository, is_tag, shown

#: bounds of what a notice may hold
ID_CHARACTERS, MEDIA_TYPE_CHARACTERS, LOG_CHARACTERS = 160, 255, 64
LARGEST_NUMBER = (1 << 63) - 1
#: who may have won, of a conflict (True) and of any other event
WINNERS = {True: ("parent", "child", "undecided"), False: ("",)}


def take(draft: Draft, order: TakeNotices, context: Context) -> Result:
    """See `TakeNotices`."""
    registry = directly_below(draft, order.name)
    require_active(registry, draft.status(registry.name), order.instance, order.generation)
    _require_right(order)
    held = draft.taken(registry.name)
    last = held.number if held is not None and held.log == order.log else 0
    new = [notice for notice in order.notices if notice.number > last]
    names = _speaks_for(draft, registry)
    grants = _grants(draft, registry)
    kept = [one for one in new if _is_own(one, names) and grants.allows(one.event.repository, "content/read")]
    draft.told += [_event(notice, names, context.now) for notice in kept]
    number = new[-1].number if new else last
    if new:
        draft.put(NOTICES, NoticesTaken(log=order.log, number=number), registry.name)
    return Result(name=registry.name, number=number, refused=len(new) - len(kept))


def _speaks_for(draft: Draft, registry: ConnectedRegistry) -> dict[str, str]:
    """The registries of which it may tell: itself and those below it; lower-cased name to name."""
    every = (registry, *hierarchy.descendants(draft, registry))
    return {one.name.lower(): one.name for one in every}


def _grants(draft: Draft, registry: ConnectedRegistry) -> Grants:
    """What its sync token may read: it holds nothing else that would be of concern here."""
    token = draft.token(registry.parent.sync_properties.token_id)
    scope = None if token is None else draft.scope_map(token.scope_map_id)
    return Grants() if scope is None else draft.grants(scope)


def _is_own(notice: Notice, names: dict[str, str]) -> bool:
    """Whether the child may speak for that registry, and the event's id is one of that registry's: ids of others would
    make receivers take their events for repetitions."""
    registry = notice.registry.lower()
    return registry in names and notice.event.id.lower().startswith(f"{registry}/")


def _event(notice: Notice, names: dict[str, str], now: float) -> Event:
    told = notice.event
    return Event(
        verb=told.verb,
        kind="tag" if told.tag else "manifest" if told.digest else "repository",
        repository=told.repository,
        at=now,
        tag=told.tag,
        digest=told.digest,
        media_type=told.media_type,
        size=told.size,
        registry=names[notice.registry.lower()],
        id=told.id,
        happened=told.at,
        theirs=told.theirs,
        winner=told.winner,
    )


def _require_right(order: TakeNotices) -> None:
    """Raises `ControlInvalid` that names the field."""
    if not (0 < len(order.log) <= LOG_CHARACTERS and order.log.isascii() and order.log.isalnum()):
        raise _wrong("log", order.log, f"letters and digits, at most {LOG_CHARACTERS}")
    last = 0
    for at, notice in enumerate(order.notices):
        field = f"notices[{at}]"
        if not last < notice.number <= LARGEST_NUMBER:
            raise _wrong(f"{field}.number", str(notice.number), f"a number above {last}, in order")
        last = notice.number
        _require_event(f"{field}.event", notice)


def _require_event(field: str, notice: Notice) -> None:
    event = notice.event
    rules = (
        ("id", event.id, 0 < len(event.id) <= ID_CHARACTERS and _is_plain(event.id), "printable ASCII"),
        ("at", str(event.at), isfinite(event.at) and 0 <= event.at < 1 << 40, "seconds since 1970"),
        ("repository", event.repository, is_repository(event.repository), "a repository"),
        ("tag", event.tag, not event.tag or is_tag(event.tag), "a tag, or nothing"),
        ("digest", event.digest, _is_digest(event), "a digest, or nothing where a repository was deleted"),
        (
            "mediaType",
            event.media_type,
            len(event.media_type) <= MEDIA_TYPE_CHARACTERS and _is_plain(event.media_type),
            "printable ASCII",
        ),
        ("size", str(event.size), 0 <= event.size <= LARGEST_NUMBER, "bytes"),
        ("theirs", event.theirs, not event.theirs or _parses(event.theirs), "a digest, or nothing"),
        ("winner", event.winner, event.winner in WINNERS[event.verb == "conflict"], "who won a conflict"),
    )
    for name, found, is_right, allowed in rules:
        if not is_right:
            raise _wrong(f"{field}.{name}", found, allowed)


def _is_plain(text: str) -> bool:
    return text.isascii() and text.isprintable()


def _is_digest(told: Told) -> bool:
    if not told.digest:
        return told.verb == "conflict" or (told.verb == "delete" and not told.tag)
    return _parses(told.digest)


def _parses(digest: str) -> bool:
    try:
        Digest.parse(digest)
    except DigestInvalid:
        return False
    return True


def _wrong(field: str, found: str, allowed: str) -> ControlInvalid:
    return ControlInvalid(f"{field}: found {shown(found)[:80]!r}; allowed: {allowed}", field=field)
