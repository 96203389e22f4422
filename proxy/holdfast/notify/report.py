"""What is answered about webhooks, as JSON in camelCase."""

from __future__ import annotations

from msgspec import Struct


class Pinged(Struct, frozen=True, rename="camel", forbid_unknown_fields=True):
    """What the receiver of webhook `name` said to a ping: whether it would have taken an event, and in what words."""

    name: str
    taken: bool
    answer: str
