"""Notices of events that a connected registry and those below it report to the parent: checked, and recorded once.

An invalid notice is refused with its whole request: a correct node of the same release sends none, and any other one
finds it and leaves it out (`notify.notices`). A notice that the child may not report, about a registry or a repository
that the operator removed meanwhile, is skipped, so that it does not delay the later ones.
"""

from __future__ import annotations

from math import isfinite

from holdfast_core.digest import Digest
from holdfast_core.errors import MalformedDigest
from holdfast_core.record import EventRecord

from holdfast.control import hierarchy
from holdfast.control.activation import directly_below, require_active
from holdfast.control.command import CommandResult, TakeNotices
from holdfast.control.draft import Context, Draft
from holdfast.errors import ControlInvalid
from holdfast.oci.names import is_repository, is_tag, shown
from holdfast.resources.actions import Grants
from holdfast.resources.model import NOTICES, ConnectedRegistry, NoticesTaken
from holdfast.resources.notification import Event, Notice

#: bounds of what a notice may hold
ID_CHARACTERS, MEDIA_TYPE_CHARACTERS, LOG_CHARACTERS = 160, 255, 64
LARGEST_NUMBER = (1 << 63) - 1
#: winners that a conflict (True) and any other event may have
WINNERS = {True: ("parent", "child", "undecided"), False: ("",)}


def take(draft: Draft, order: TakeNotices, context: Context) -> CommandResult:
    """See `TakeNotices`."""
    registry = directly_below(draft, order.name)
    require_active(registry, draft.status(registry.name), order.instance, order.generation)
    _require_right(order)
    held = draft.taken(registry.name)
    last = held.number if held is not None and held.log == order.log else 0
    new = [notice for notice in order.notices if notice.number > last]
    names = _reportable(draft, registry)
    grants = _grants(draft, registry)
    kept = [one for one in new if _is_own(one, names) and grants.allows(one.event.repository, "content/read")]
    draft.events += [_event(notice, names, context.now) for notice in kept]
    number = new[-1].number if new else last
    if new:
        draft.put(NOTICES, NoticesTaken(log=order.log, number=number), registry.name)
    return CommandResult(name=registry.name, number=number, refused=len(new) - len(kept))


def _reportable(draft: Draft, registry: ConnectedRegistry) -> dict[str, str]:
    """The registries on which it may report: itself and those below it; lower-cased name to name."""
    every = (registry, *hierarchy.descendants(draft, registry))
    return {one.name.lower(): one.name for one in every}


def _grants(draft: Draft, registry: ConnectedRegistry) -> Grants:
    """Returns the grants of its sync token, which limit the repositories that it may report on."""
    token = draft.token(registry.parent.sync_properties.token_id)
    scope = None if token is None else draft.scope_map(token.scope_map_id)
    return Grants() if scope is None else draft.grants(scope)


def _is_own(notice: Notice, names: dict[str, str]) -> bool:
    """Whether the child may report on that registry, and the event's id is one of that registry's: with the id of
    another event receivers would drop that one as a repetition."""
    registry = notice.registry.lower()
    return registry in names and notice.event.id.lower().startswith(f"{registry}/")


def _event(notice: Notice, names: dict[str, str], now: float) -> EventRecord:
    event = notice.event
    return EventRecord(
        verb=event.verb,
        kind="tag" if event.tag else "manifest" if event.digest else "repository",
        repository=event.repository,
        at=now,
        tag=event.tag,
        digest=event.digest,
        media_type=event.media_type,
        size=event.size,
        registry=names[notice.registry.lower()],
        id=event.id,
        happened=event.at,
        theirs=event.theirs,
        winner=event.winner,
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
        (
            "winner",
            event.winner,
            event.winner in WINNERS[event.verb == "conflict"],
            "the winner of a conflict",
        ),
    )
    for name, value, is_right, allowed in rules:
        if not is_right:
            raise _wrong(f"{field}.{name}", value, allowed)


def _is_plain(text: str) -> bool:
    return text.isascii() and text.isprintable()


def _is_digest(event: Event) -> bool:
    if not event.digest:
        return event.verb == "conflict" or (event.verb == "delete" and not event.tag)
    return _parses(event.digest)


def _parses(digest: str) -> bool:
    try:
        Digest.parse(digest)
    except MalformedDigest:
        return False
    return True


def _wrong(field: str, value: str, allowed: str) -> ControlInvalid:
    return ControlInvalid(f"{field}: found {shown(value)[:80]!r}; allowed: {allowed}", field=field)
