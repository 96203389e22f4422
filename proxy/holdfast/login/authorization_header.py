"""The Authorization header, parsed strictly.

The header has at most 8 KiB (security.md S34). Two of them in a request are refused: a proxy in front might use the
other one.
"""

from __future__ import annotations

import base64
import binascii
from typing import NamedTuple

from holdfast.wire.message import Request

#: of the header's value
LONGEST = 8 * 1024


class Basic(NamedTuple):
    """A name and a password."""

    name: str
    secret: str


class Bearer(NamedTuple):
    """A Bearer token, not verified."""

    token: str


class Unreadable(NamedTuple):
    """A header that is neither Basic nor Bearer, or is malformed."""


Credentials = Basic | Bearer | Unreadable | None
UNREADABLE = Unreadable()


def of_request(request: Request) -> Credentials:
    """Returns the credentials of a request; None without a header, and for the empty name and password that some
    clients send instead (references.md 2.14)."""
    value = request.header("authorization")
    if value is None:
        return None
    return UNREADABLE if len(request.header_lines("authorization")) > 1 else read(value)


def read(text: str) -> Credentials:
    """Returns the credentials in a header's value."""
    if len(text) > LONGEST:
        return UNREADABLE
    scheme, _, rest = text.partition(" ")
    match scheme.lower():
        case "basic":
            return _basic(rest.strip(" "))
        case "bearer":
            return Bearer(rest.strip(" "))
    return UNREADABLE


def _basic(encoded: str) -> Credentials:
    """RFC 7617 2: base64 of name, colon, password; UTF-8 here."""
    try:
        text = base64.b64decode(encoded, validate=True).decode()
    except (binascii.Error, UnicodeError, ValueError):
        return UNREADABLE
    name, colon, secret = text.partition(":")
    if not colon:
        return UNREADABLE
    return Basic(name, secret) if name or secret else None
