"""Path and query of a request target: percent-decoded exactly once, and refused where decoding could
change what the path means.

A second decoder behind us would turn `%252e` into a dot; a path that holds `%2f`, `%5c`, `%00`, `..` or
`//` routes one way here and another way elsewhere. None of them occurs in a registry's paths, so all are
refused (security.md S20; RFC 3986 6.2).
"""

from __future__ import annotations

import re
from urllib.parse import quote

from holdfast.errors import PathUnknown, QueryInvalid

# RFC 3986 2.1: pct-encoded = "%" HEXDIG HEXDIG
_ESCAPE = re.compile(rb"%([0-9A-Fa-f]{2})")
_STRAY = re.compile(r"%(?![0-9A-Fa-f]{2})")
_FORBIDDEN = ("\\", "\x00", "//")

Pairs = tuple[tuple[str, str], ...]

#: pairs in one query; more is refused before any is decoded
PAIRS = 128


def split(target: str) -> tuple[str, Pairs]:
    """Path and query pairs of an origin-form target. Raises `PathUnknown` or `QueryInvalid`."""
    raw, _, query = target.partition("?")
    path = decode_path(raw)
    return path, decode_query(query) if query else ()


def decode_path(raw: str) -> str:
    """The path, decoded once and in the one spelling that routes. Raises `PathUnknown`."""
    path = raw
    if "%" in raw:
        lowered = raw.lower()
        if "%2f" in lowered or "%5c" in lowered or "%00" in lowered:
            raise PathUnknown("the path holds an escaped slash, backslash or NUL")
        path = _decode(raw, PathUnknown)
    if any(part in path for part in _FORBIDDEN):
        raise PathUnknown("the path holds an empty segment, a backslash or NUL")
    if "/." in path and not {".", ".."}.isdisjoint(path.split("/")):
        raise PathUnknown("the path holds a dot segment")
    return path


def decode_query(query: str) -> Pairs:
    """`name=value` pairs joined by `&`, in order; `+` is a space in names and values (HTML form rules)."""
    parts = query.split("&", PAIRS)
    if len(parts) > PAIRS:
        raise QueryInvalid(f"over {PAIRS} query parameters")
    return tuple(_pair(part) for part in parts if part)


def encode_query(pairs: Pairs) -> str:
    """The inverse of `decode_query`, every reserved character escaped."""
    return "&".join(f"{quote(name, safe='')}={quote(value, safe='')}" for name, value in pairs)


def _pair(part: str) -> tuple[str, str]:
    name, _, value = part.partition("=")
    return _form(name), _form(value)


def _form(text: str) -> str:
    text = text.replace("+", " ")
    return _decode(text, QueryInvalid) if "%" in text else text


def _decode(text: str, refusal: type[PathUnknown] | type[QueryInvalid]) -> str:
    if _STRAY.search(text):
        raise refusal("a percent sign is not followed by two hex digits")
    octets = _ESCAPE.sub(lambda match: bytes([int(match[1], 16)]), text.encode("ascii"))
    try:
        return octets.decode("utf-8")
    except UnicodeDecodeError:
        raise refusal("the escapes are not UTF-8") from None
