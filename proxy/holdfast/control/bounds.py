"""How much of a status report is kept and handed up. A connected registry writes it, and each level above hands it on:
so whatever one of them says, its parent can still be heard. What is too long is cut and not refused, because a node
whose report is refused loses its lease.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar, cast

import msgspec
from msgspec.structs import replace

from holdfast.control.resource import Status, StatusDetail

T = TypeVar("T")

#: of one status as JSON, and of one without its troubles (bytes)
STATUS_BYTES, LEAST_BYTES = 16 << 10, 2 << 10
#: of all that a report says of those below (bytes); a parent takes twice that (`gateway.message.REPORT_BYTES`)
BELOW_BYTES = 2 << 20
#: of a text as JSON, by its field (bytes)
TEXT_BYTES = 64
LONGER_TEXT_BYTES = {
    "description": 1000,
    "host": 256,
    "location": 512,
    "instance": 130,
    "correlation_id": 130,
}
#: troubles of one node
DETAILS = 100
LARGEST_NUMBER = (1 << 63) - 1


def bounded(value: T, field: str = "") -> T:
    """The same with every text, number and list in it cut to what is kept of it; any field, also one that is new."""
    if isinstance(value, str):
        return cast(T, _cut(value, LONGER_TEXT_BYTES.get(field, TEXT_BYTES)))
    if isinstance(value, int) and not isinstance(value, bool):
        return cast(T, max(-LARGEST_NUMBER, min(value, LARGEST_NUMBER)))
    if isinstance(value, tuple):
        return cast(T, tuple(bounded(one, field) for one in value[:DETAILS]))
    if isinstance(value, msgspec.Struct):
        fields = {name: getattr(value, name) for name in value.__struct_fields__}
        return cast(T, replace(value, **{name: bounded(one, name) for name, one in fields.items()}))
    return value


def fitting(status: Status, most: int = STATUS_BYTES) -> Status:
    """A status within its bounds, with as many of its troubles, the first ones, as `most` bytes have room for."""
    status = bounded(status)
    room = max(0, most - _size(replace(status, status_details=())))
    return replace(status, status_details=details_within(status.status_details, room))


def details_within(details: Sequence[StatusDetail], room: int) -> tuple[StatusDetail, ...]:
    """The first troubles that fit."""
    found = list[StatusDetail]()
    for detail in bounded(tuple(details)):
        room -= _size(detail) + 1
        if room < 0:
            break
        found.append(detail)
    return tuple(found)


def share(registries: int) -> int:
    """How much of a report each of so many below may have (bytes)."""
    return max(LEAST_BYTES, min(STATUS_BYTES, BELOW_BYTES // max(1, registries)))


def relayed(below: dict[str, Status], is_new: Callable[[str, Status], bool]) -> dict[str, Status]:
    """What of those below, each within its `share`, goes into one report: what is new first."""
    room, found = BELOW_BYTES, dict[str, Status]()
    for name, status in sorted(below.items(), key=lambda item: not is_new(*item)):
        room -= _size({name: status})
        if room < 0:
            break
        found[name] = status
    return found


def _cut(text: str, most: int) -> str:
    if len(text) * 6 <= most:  # the longest that JSON makes of a character
        return text
    text = text[:most]
    while _size(text) > most + 2:
        text = text[: len(text) * 3 // 4]
    return text


def _size(value: object) -> int:
    return len(msgspec.json.encode(value))
