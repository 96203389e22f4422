"""Conditions on a change (RFC 9110 13.1.1, 13.1.2). Pure."""

from __future__ import annotations

from holdfast.errors import PreconditionFailed

#: the tag or digest it is about, and the values of If-Match and If-None-Match, None without such a header
Condition = tuple[str, str | None, str | None]
NO_CONDITION: Condition = ("", None, None)


def require(condition: Condition, present: str) -> None:
    """Raises `PreconditionFailed` unless it holds where `present` is the digest that is there, "" for none."""
    _, match, none_match = condition
    if match is not None and not _names(match, present):
        raise PreconditionFailed("If-Match: that is not what is here", detail=present or "nothing is here")
    if none_match is not None and _names(none_match, present):
        raise PreconditionFailed("If-None-Match: it is here already", detail=present)


def _names(tags: str, present: str) -> bool:
    """Whether one of the entity tags is the digest: quoted or, as distribution's clients write it, bare. A weak
    one never is (RFC 9110 8.8.3.2)."""
    if not present:
        return False
    return any(tag.strip(" \t") in ("*", present, f'"{present}"') for tag in tags.split(","))
