"""Notifications: the events that they report, the patterns that select events, and the bodies that receivers get
(references.md 1.5, 1.15). The grammar of patterns is checked by `rules.is_notification`."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Iterable
from typing import Any, Literal

import msgspec
from msgspec import Struct

from holdfast.resources.model import ResourceStruct
from holdfast.resources.rules import is_notification
from holdfast.timestamps import stamp

Verb = Literal["push", "delete", "conflict"]

TYPES = {
    "push": "Microsoft.ContainerRegistry.ImagePushed",
    "delete": "Microsoft.ContainerRegistry.ImageDeleted",
    "conflict": "Holdfast.TagConflict",
}
PING = "Holdfast.Ping"
#: HTTP method that causes an event; a conflict has none
_METHODS: dict[Verb, str] = {"push": "PUT", "delete": "DELETE", "conflict": ""}
#: header with the HMAC of a webhook's body
SIGNATURE_HEADER = "X-Holdfast-Signature"


class Event(Struct, frozen=True, rename="camel", forbid_unknown_fields=True, omit_defaults=True):
    """Something that happened to an artifact of this node. `at` is wall seconds; `size` the manifest's bytes. A tag
    that was deleted alone is no event (references.md 1.15); a repository that was deleted has no digest. A
    conflict has what the tag names here and at the parent ("" nothing), and the winner."""

    id: str
    at: float
    verb: Verb
    repository: str
    digest: str
    tag: str = ""
    media_type: str = ""
    size: int = 0
    theirs: str = ""
    winner: str = ""


class Notice(ResourceStruct, frozen=True):
    """An event that a child reports to its parent. `number` is that of the child's log; `registry` the connected
    registry in which it happened, which may be further down."""

    number: int
    event: Event
    registry: str


class NotificationPattern(Struct, frozen=True):
    """One pattern taken apart. None: the section was not given. A name that ends in `/` is a prefix."""

    name: str
    tag: str | None
    digest: str | None
    action: str

    def matches(self, event: Event) -> bool:
        """Whether the pattern selects an event."""
        return (
            self.action in ("*", event.verb)
            and self._is_of(event.repository)
            and (self.tag is None or (event.tag != "" and self.tag in ("*", event.tag)))
            and (self.digest is None or self.digest in ("*", event.digest))
        )

    def _is_of(self, repository: str) -> bool:
        if self.name.endswith("/"):
            return repository.startswith(self.name)
        return self.name in ("*", repository)


def parse(text: str) -> NotificationPattern | None:
    """A pattern taken apart; None for a text outside the grammar."""
    if not is_notification(text):
        return None
    artifact, _, action = text.rpartition(":")
    named, at, digest = artifact.partition("@")
    name, colon, tag = named.partition(":")
    name = name.removesuffix("*") if name.endswith("/*") else name
    return NotificationPattern(name, tag if colon else None, digest if at else None, action)


class Notifications:
    """The patterns of one connected registry."""

    def __init__(self, patterns: Iterable[str]) -> None:
        self._patterns = [pattern for text in patterns if (pattern := parse(text)) is not None]

    def matches(self, event: Event) -> bool:
        """Whether any pattern selects an event."""
        return any(pattern.matches(event) for pattern in self._patterns)


def data_of(event: Event, registry: str) -> dict[str, Any]:
    """The original's `data`. `registry` is the connected registry's name; events of the parent itself have none."""
    size = event.size if event.digest else ""
    target = {
        "mediaType": event.media_type,
        "size": size,
        "digest": event.digest,
        "length": size,
        "repository": event.repository,
        "tag": event.tag,
    }
    data: dict[str, Any] = {
        "id": event.id,
        "timestamp": stamp(event.at),
        "action": event.verb,
        "target": {name: value for name, value in target.items() if value != ""},
    }
    if event.verb == "conflict":
        data["conflict"] = {"ours": event.digest, "theirs": event.theirs, "winner": event.winner}
    return data | ({"connectedregistry": {"name": registry}} if registry else {})


def body_of(event: Event, registry: str, topic: str) -> bytes:
    """One event as it goes up and out, in Event Grid's envelope. The same event has the same bytes each time it is
    sent, so that a receiver knows a repetition by `id`."""
    sign, name = (":", event.tag) if event.tag else ("@" if event.digest else "", event.digest)
    return msgspec.json.encode(
        {
            "id": event.id,
            "topic": topic,
            "subject": f"{event.repository}{sign}{name}",
            "eventType": TYPES[event.verb],
            "eventTime": stamp(event.at),
            "data": data_of(event, registry),
            "dataVersion": "1.0",
            "metadataVersion": "1",
        }
    )


def ping_of(id: str, at: float, topic: str) -> bytes:
    """The body that tries a webhook: the same envelope without an event."""
    return msgspec.json.encode(
        {
            "id": id,
            "topic": topic,
            "subject": "",
            "eventType": PING,
            "eventTime": stamp(at),
            "data": {"id": id, "timestamp": stamp(at), "action": "ping"},
            "dataVersion": "1.0",
            "metadataVersion": "1",
        }
    )


def plain_ping_of(id: str, at: float, host: str) -> bytes:
    """The same as the original's registry webhooks have it."""
    request = {"id": id, "host": host, "method": "POST", "useragent": ""}
    return msgspec.json.encode({"id": id, "timestamp": stamp(at), "action": "ping", "request": request})


def plain_body_of(event: Event, registry: str, host: str) -> bytes:
    """One event as the original's registry webhooks have it: `data` alone, and the `request` by which it happened. The
    client is not in the event log, so `useragent` is empty."""
    method = _METHODS[event.verb]
    request = {"id": event.id, "host": host, "method": method, "useragent": ""}
    return msgspec.json.encode(data_of(event, registry) | {"request": request})


def signature(secret: bytes, body: bytes) -> str:
    """HMAC of a webhook's body, as `SIGNATURE_HEADER` has it."""
    return "sha256=" + hmac.new(secret, body, hashlib.sha256).hexdigest()
