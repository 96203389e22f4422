"""Rules about single values (references.md 1.1, 1.4, 1.5, 1.17). What compares resources is in hierarchy.py.

Every check takes the field as a request names it and raises `ControlInvalid` that says what was found, what is allowed
and, where it helps, what to do.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from datetime import timedelta

from holdfast import timestamps
from holdfast.errors import ControlConflict, ControlInvalid
from holdfast.oci.names import is_repository, is_tag, shown
from holdfast.resources import actions
from holdfast.resources.cron import CONTINUOUS, is_continuous, occurrences
from holdfast.resources.model import lowered, name_in

#: references.md 1.21
_REGISTRY = re.compile(r"[a-zA-Z][a-zA-Z0-9]{4,39}")
#: Of the resource model; a scope map may be longer, because `<token>-scope-map` is made of every token's name.
_TOKEN = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9-]{4,49}")
_SCOPE_MAP = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_-]{4,63}")
DESCRIPTION_CHARACTERS = 256
TTL = (timedelta(days=1), timedelta(days=90), "P1D to P90D")
WINDOW = (timedelta(hours=1), timedelta(days=7), "PT1H to P7D")
#: Longer texts are refused as schedules, durations and patterns.
TEXT_CHARACTERS = 512
NOTIFICATIONS = 500
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}|sha512:[0-9a-f]{128}")


def registry_name(name: str, field: str = "name") -> str:
    """A name that a connected registry may have."""
    return _name(_REGISTRY, name, field, "a letter first, then letters and digits, 5 to 40 characters")


def token_name(name: str, field: str = "name") -> str:
    """A name that a token may have."""
    return _name(_TOKEN, name, field, "letters, digits and -, 5 to 50 characters")


def scope_map_name(name: str, field: str = "name") -> str:
    """A name that an operator's scope map may have. A leading _ is the system's."""
    return _name(_SCOPE_MAP, name, field, "letters, digits, - and _ (not first), 5 to 64 characters")


def _name(pattern: re.Pattern[str], text: str, field: str, rule: str) -> str:
    if not pattern.fullmatch(text):
        raise ControlInvalid(f"{field} {shown(text)!r} is no name; allowed: {rule}", field=field)
    return text


def description(text: str) -> str:
    """A description of at most 256 characters."""
    if len(text) > DESCRIPTION_CHARACTERS:
        raise ControlInvalid(
            f"description has {len(text)} characters; allowed: {DESCRIPTION_CHARACTERS} at most",
            field="description",
        )
    return text


def repositories(names: Iterable[str], field: str = "repositories") -> tuple[str, ...]:
    """Repositories or patterns, each once, in lower case; they need not exist."""
    unique = tuple(dict.fromkeys(lowered(name) for name in names))
    for name in unique:
        if not actions.is_pattern(name):
            raise ControlInvalid(
                f"{field}: {shown(name)!r} is no repository; allowed: a name such as team/app, everything below one"
                " as team/*, or *",
                field=field,
            )
    return unique


def action_list(texts: Sequence[str], field: str = "actions") -> tuple[str, ...]:
    """Actions, each once whatever its casing, the first casing kept."""
    for text in texts:
        actions.parse(text)
    return actions.merged(texts, ())


def unambiguous(add: Iterable[str], remove: Iterable[str], what: str, field: str) -> None:
    """Refuse what is to be added and removed at once (references.md 1.4)."""
    both = sorted({name_in(t).lower() for t in add} & {name_in(t).lower() for t in remove})
    if both:
        raise ControlInvalid(f"Update ambiguity. {what} in both lists: {', '.join(both)}", field=field)


def unambiguous_patterns(
    add: Iterable[str],
    remove: Iterable[str],
    what: str = "Notifications",
    field: str = "notificationsList",
) -> None:
    """The same for texts that are no ids."""
    both = sorted({text.lower() for text in add} & {text.lower() for text in remove})
    if both:
        raise ControlInvalid(f"Update ambiguity. {what} in both lists: {', '.join(both)}", field=field)


# --- schedules and durations -------------------------------------------------------------------------------


def cron(text: str, field: str) -> str:
    """A cron expression of five fields in UTC that comes round."""
    if len(text) > TEXT_CHARACTERS or occurrences(text) is None:
        raise ControlInvalid(
            f"{field} {shown(text)!r} is no schedule; allowed: a cron expression of 5 fields (minute, hour, day,"
            " month, weekday) in UTC that names a time that exists",
            field=field,
        )
    return text


def message_ttl(text: str) -> str:
    """How long a message waits (references.md 1.4)."""
    return _duration(text, "messageTtl", *TTL)


def sync_window(text: str | None, schedule: str) -> str | None:
    """How long a scheduled connection lasts. Needed unless the schedule is every minute, and then ignored."""
    if text is not None:
        return _duration(text, "syncWindow", *WINDOW)
    if not is_continuous(schedule):
        raise ControlInvalid(
            f"syncWindow is missing; with the schedule {schedule!r} the registry is connected for a time at each"
            f" occurrence: give {WINDOW[2]}, or the schedule {CONTINUOUS!r}",
            field="syncWindow",
        )
    return None


def _duration(text: str, field: str, least: timedelta, most: timedelta, rule: str) -> str:
    length = timestamps.duration(text)
    if length is None or not least <= length <= most:
        what = "is no duration" if length is None else "is out of range"
        raise ControlInvalid(f"{field} {shown(text)!r} {what}; allowed: {rule} (ISO 8601)", field=field)
    return text


def expiry(text: str | None, now: float) -> str | None:
    """When a password ends: a time to come, or None for never."""
    if text is None:
        return None
    try:
        at = timestamps.seconds(text)
    except (ValueError, OverflowError) as error:
        raise ControlInvalid(
            f"expiry {shown(text)!r} is no time; allowed: RFC 3339 with a zone, such as 2030-01-31T00:00:00Z",
            field="expiry",
        ) from error
    if at <= now:
        raise ControlInvalid(
            f"expiry {shown(text)} is past; now it is {timestamps.stamp(now)}", field="expiry"
        )
    return timestamps.stamp(at)


# --- notifications -----------------------------------------------------------------------------------------


def notifications(patterns: Iterable[str]) -> tuple[str, ...]:
    """Patterns of the grammar below, each once (references.md 1.5).

    pattern  = artifact ":" action
    artifact = name [ ":" tag ] [ "@" digest ]
    action   = "push" | "delete" | "*"
    """
    unique = tuple(dict.fromkeys(patterns))
    if len(unique) > NOTIFICATIONS:
        raise ControlInvalid(
            f"notificationsList has {len(unique)} patterns; allowed: {NOTIFICATIONS} at most",
            field="notificationsList",
        )
    for pattern in unique:
        if not is_notification(pattern):
            raise ControlInvalid(
                f"notificationsList: {shown(pattern)!r} is no pattern; allowed: name[:tag][@digest]:action with the"
                " action push, delete, conflict or *; * for any of them, and name/* for everything below",
                field="notificationsList",
            )
    return unique


def is_notification(pattern: str) -> bool:
    """Whether a text is a pattern of events."""
    artifact, _, action = pattern.rpartition(":")
    if len(pattern) > TEXT_CHARACTERS or action not in ("push", "delete", "conflict", "*"):
        return False
    named, at, digest = artifact.partition("@")
    if at and digest != "*" and not _DIGEST.fullmatch(digest):
        return False
    name, colon, tag = named.partition(":")
    return (name == "*" or is_repository(name.removesuffix("/*"))) and (
        not colon or tag == "*" or is_tag(tag)
    )


# --- numbers -----------------------------------------------------------------------------------------------


def within_limit(number: int, limit: int, what: str, field: str, key: str) -> None:
    """Refuse more than the configuration allows; `key` names its key."""
    if number > limit:
        raise ControlConflict(
            f"{number} {what}; allowed: {limit} at most (configuration: control.{key})", field=field
        )
