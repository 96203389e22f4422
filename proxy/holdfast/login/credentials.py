"""What a client says it is: the Authorization header, read strictly.

The header has 8 KiB at most, whatever stands in it (security.md S34). Two of them are refused: a proxy in front
might look at the other one.
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
    """A token of this node's, or so it says."""

    token: str


class Unreadable(NamedTuple):
    """Something that is neither. It is nobody's login, and no stranger's silence."""


Credentials = Basic | Bearer | Unreadable | None
UNREADABLE = Unreadable()


def of_request(request: Request) -> Credentials:
    """What a request carries; None for nothing, and for the empty name and password that some clients send for
    nothing (oci-spec 4.3)."""
    said = request.header("authorization")
    if said is None:
        return None
    return UNREADABLE if len(request.header_lines("authorization")) > 1 else read(said)


def read(text: str) -> Credentials:
    """What one header says."""
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
