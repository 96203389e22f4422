"""Reads the body and the query of a request to the admin API. Every refusal names the field, the value found and the
values allowed."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Literal, TypeVar, Union, get_args, get_origin

import msgspec

from holdfast.admin import request_bodies as bodies
from holdfast.errors import BodyTooLarge, ControlInvalid, MediaTypeRefused, QueryInvalid
from holdfast.oci.manifest import ManifestUnreadable, decode
from holdfast.resources import registry_requests
from holdfast.wire.message import Request

#: the longest body is a scope map at 10 times the largest limit (bytes)
BODY_LIMIT = 16 << 20
#: a value is repeated in a refusal up to this length (characters)
SHOWN = 80

T = TypeVar("T")

#: Fields that the service writes; a refusal names them as read-only, not as unknown (references.md 1.1).
READ_ONLY = frozenset(
    {
        *("provisioningState", "version", "connectionState", "lastActivityTime", "activation"),
        *("lastActivitySeconds", "expectedTime"),
        *("loginServer", "statusDetails", "registrySyncResult", "lastSyncTime", "gatewayEndpoint"),
        "syncProgress",
        *("creationDate", "credentials", "type", "id", "name", "etag", "created"),
    }
)
#: Fields that are right at creation and refused in a change, and the rule.
FIXED: dict[type[Any], dict[str, str]] = {
    registry_requests.RegistryChangeProperties: {
        "mode": "the mode cannot change after creation; delete the connected registry and create it anew",
        "parent": "the parent and the sync token cannot change after creation; schedule, syncWindow and messageTtl are"
        " under properties.syncProperties",
        "repositories": "repositories change by POST …/permissions",
    },
    registry_requests.SyncChange: {"tokenId": "the sync token cannot change after creation"},
    bodies.TokenChangeProperties: {
        "actions": "actions belong to the token's scope map; change that",
        "noPasswords": "passwords change by POST and DELETE …/credentials",
    },
}


async def read_body(request: Request) -> bytes:
    """The whole body. Raises `MediaTypeRefused` and `BodyTooLarge`."""
    if request.body is None:
        return b""
    kind = (request.header("content-type") or "").partition(";")[0].strip().lower()
    if kind != "application/json":
        # a page of another site can make a browser send a form or text, never JSON (S24)
        raise MediaTypeRefused(
            f"Content-Type: found {kind[:SHOWN]!r}; allowed: application/json", detail="Content-Type"
        )
    parts = bytearray()
    while data := await request.body.read():
        parts += data
        if len(parts) > BODY_LIMIT:
            raise BodyTooLarge(f"a body over {BODY_LIMIT} bytes")
    return bytes(parts)


def read_struct(content: bytes, kind: type[T]) -> T:
    """The struct in a body. Raises `ControlInvalid`; duplicate names are refused (S40)."""
    try:
        document = decode(content)
    except ManifestUnreadable as error:
        raise ControlInvalid(f"the body is no JSON that can be used: {error}") from None
    try:
        return msgspec.convert(document, kind)
    except msgspec.ValidationError as error:
        raise _explained(str(error), document, kind) from None


def _explained(complaint: str, document: Any, kind: type[Any]) -> ControlInvalid:
    """The refusal for a msgspec error ("Expected `str`, got `int` - at `$.properties.mode`"): field, found, allowed."""
    text, _, where = complaint.partition(" - at `$")
    where = where.rstrip("`").lstrip(".")
    if unknown := re.fullmatch(r"Object contains unknown field `(.*)`", text, re.DOTALL):
        return _unknown_field(where, unknown[1], _struct_at(kind, where))
    if missing := re.fullmatch(r"Object missing required field `(.*)`", text):
        field = f"{where}.{missing[1]}" if where else missing[1]
        return ControlInvalid(f"{field}: missing; it must be given", field=field)
    allowed = _choices(kind, where) or in_words(text.replace("Expected ", "").partition(", got ")[0])
    value_text = shown(_at(document, where))
    return ControlInvalid(f"{where or 'the body'}: found {value_text}; allowed: {allowed}", field=where)


#: what msgspec calls kinds of values, and bounds
KINDS = {
    "str": "a text",
    "int": "a whole number",
    "float": "a number",
    "bool": "true or false",
    "array": "a list",
    "object": "an object",
}
BOUNDS = {">=": "at least", ">": "above", "<=": "at most", "<": "below"}


def in_words(expected: str) -> str:
    """The text for what msgspec expects, such as "`int` >= 1" or "`str | null`"."""
    unit = "entries" if expected.startswith("`array`") else "characters"
    words = re.sub(
        r"`([^`]+)`",
        lambda kinds: " or ".join(KINDS.get(one, one) for one in kinds[1].split(" | ")),
        expected,
    )
    words = re.sub(r" of length ([<>]=?) (\d+)", lambda hit: f" of {BOUNDS[hit[1]]} {hit[2]} {unit}", words)
    return re.sub(r" ([<>]=?) ", lambda hit: f", {BOUNDS[hit[1]]} ", words)


def _unknown_field(where: str, name: str, struct: type[Any] | None) -> ControlInvalid:
    name = name[:SHOWN]
    field = f"{where}.{name}" if where else name
    names = msgspec.structs.fields(struct) if struct else ()
    if struct and (rule := FIXED.get(struct, {}).get(name)):
        return ControlInvalid(f"{field}: {rule}", field=field)
    if name in READ_ONLY:
        return ControlInvalid(f"{field}: read-only; leave it out", field=field)
    allowed = ", ".join(sorted(one.encode_name for one in names)) or "nothing"
    return ControlInvalid(f"{field}: unknown; allowed here: {allowed}", field=field)


def _steps(where: str) -> list[str]:
    return re.findall(r"\[(?:\d+|\.\.\.)\]|[^.\[\]]+", where)


def _at(document: Any, where: str) -> Any:
    """The value at a path of the document; None where there is none."""
    for step in _steps(where):
        try:
            document = document[int(step[1:-1]) if step.startswith("[") else step]
        except (KeyError, IndexError, TypeError, ValueError):
            return None
    return document


def _type_at(kind: Any, where: str) -> Any:
    """The type at a path, by the structs' annotations; None when there is none."""
    for step in _steps(where):
        if step.startswith("["):
            kind = next(iter(get_args(kind)), None)
            continue
        struct = _struct_in(kind)
        fields = {one.encode_name: one.type for one in msgspec.structs.fields(struct)} if struct else {}
        kind = fields.get(step)
    return kind


def _struct_at(kind: Any, where: str) -> type[Any] | None:
    return _struct_in(_type_at(kind, where))


def _struct_in(kind: Any) -> type[Any] | None:
    options = get_args(kind) if get_origin(kind) is Union else (kind,)
    return next((o for o in options if isinstance(o, type) and issubclass(o, msgspec.Struct)), None)


def _choices(kind: Any, where: str) -> str:
    """The values allowed at a path, "" where any text is."""
    field_type = _type_at(kind, where)
    options = [field_type, *get_args(field_type)]
    values = [value for option in options if get_origin(option) is Literal for value in get_args(option)]
    return ", ".join(str(value) for value in values)


def shown(value: object) -> str:
    """A value as a refusal shows it: short, and never a possible password."""
    if isinstance(value, dict | list):
        return "an object" if isinstance(value, dict) else "a list"
    text = (
        "true" if value is True else "false" if value is False else "null" if value is None else repr(value)
    )
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}…"


def read_query(pairs: tuple[tuple[str, str], ...], known: Mapping[str, Any]) -> dict[str, Any]:
    """The query parameters of an operation, each by the reader in `known`. Raises `QueryInvalid`."""
    values: dict[str, Any] = {}
    for name, value in pairs:
        if name not in known:
            allowed = ", ".join(sorted(known)) or "none"
            raise QueryInvalid(
                f"{name[:SHOWN]}: unknown query parameter; allowed here: {allowed}", detail=name[:SHOWN]
            )
        if name in values:
            raise QueryInvalid(f"{name}: given twice; allowed: once", detail=name)
        values[name] = known[name](name, value)
    return values


def flag(name: str, value: str) -> bool:
    """`true` or `false`."""
    if value not in ("true", "false"):
        raise QueryInvalid(f"{name}: found {value[:SHOWN]!r}; allowed: true, false", detail=name)
    return value == "true"


def page_size(name: str, value: str) -> int:
    """1 to 1,000."""
    if not re.fullmatch(r"[0-9]{1,4}", value) or not 1 <= int(value) <= 1000:
        raise QueryInvalid(f"{name}: found {value[:SHOWN]!r}; allowed: 1 to 1000", detail=name)
    return int(value)


def number(name: str, value: str) -> int:
    """A number of an event."""
    if not re.fullmatch(r"[0-9]{1,18}", value):
        raise QueryInvalid(f"{name}: found {value[:SHOWN]!r}; allowed: a number", detail=name)
    return int(value)


def text(name: str, value: str) -> str:
    """Any text that is not empty."""
    if not value or len(value) > 512:
        raise QueryInvalid(f"{name}: found {len(value)} characters; allowed: 1 to 512", detail=name)
    return value
