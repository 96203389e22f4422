"""Bounds of a status report. A connected registry writes it, and each level above passes it on, so that the report of
one registry must leave room for those of the others. Texts that are too long are cut and not refused, because a node
whose report is refused loses its lease.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar, cast

import msgspec
from msgspec.structs import replace

from holdfast.resources.model import Status, StatusDetail

T = TypeVar("T")

#: of one status as JSON, and of one without its troubles (bytes)
STATUS_BYTES, LEAST_BYTES = 16 << 10, 2 << 10
#: of all that a report says of those below (bytes); a parent takes twice that (`gateway.protocol.REPORT_BYTES`)
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
#: troubles of one node, and the bytes of the field that has them: an empty one is left out of the JSON
DETAILS = 100
DETAILS_FIELD_BYTES = len(',"statusDetails":[]')
LARGEST_NUMBER = (1 << 63) - 1


def bounded(value: T, field: str = "") -> T:
    """Returns a value with every text, number and list in it cut to its bound, in known and new fields."""
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
    """Returns a status within its bounds, with the first troubles that fit into `most` bytes."""
    status = bounded(status)
    room = most - _size(replace(status, status_details=())) - DETAILS_FIELD_BYTES
    return replace(status, status_details=details_within(status.status_details, room))


def details_within(details: Sequence[StatusDetail], room: int) -> tuple[StatusDetail, ...]:
    """Returns the first troubles that fit into `room` bytes."""
    kept = list[StatusDetail]()
    for detail in bounded(tuple(details)):
        room -= _size(detail) + 1
        if room < 0:
            break
        kept.append(detail)
    return tuple(kept)


def share(registries: int) -> int:
    """Returns the bytes of a report that each of so many registries below may have."""
    return max(LEAST_BYTES, min(STATUS_BYTES, BELOW_BYTES // max(1, registries)))


def relayed(below: dict[str, Status], is_new: Callable[[str, Status], bool]) -> dict[str, Status]:
    """Returns the statuses of registries below, each within its `share`, that fit into one report, new ones first."""
    room, kept = BELOW_BYTES, dict[str, Status]()
    for name, status in sorted(below.items(), key=lambda item: not is_new(*item)):
        room -= _size({name: status})
        if room < 0:
            break
        kept[name] = status
    return kept


def _cut(text: str, most: int) -> str:
    if len(text) * 6 <= most:  # the longest that JSON makes of a character
        return text
    text = text[:most]
    while _size(text) > most + 2:
        text = text[: len(text) * 3 // 4]
    return text


def _size(value: object) -> int:
    return len(msgspec.json.encode(value))
