"""Reads documents of a newer parent without the fields that this version does not know, so that the parent may be
updated before its connected registries."""

from __future__ import annotations

from functools import lru_cache
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

import msgspec
from msgspec import Struct

T = TypeVar("T")


def read(body: bytes, kind: type[T]) -> tuple[T, bool]:
    """The document, and whether this version knows all of its fields. Raises msgspec.MsgspecError and
    RecursionError."""
    try:
        return msgspec.json.decode(body, type=kind), True
    except msgspec.ValidationError:
        return msgspec.convert(_known(kind, msgspec.json.decode(body)), kind), False


def _known(kind: Any, value: Any) -> Any:
    """A value without the fields that its type does not have."""
    outer, inner = get_origin(kind), get_args(kind)
    if isinstance(value, dict) and outer is dict:
        return {name: _known(inner[1], one) for name, one in value.items()}
    if isinstance(value, list) and outer is tuple:
        return [_known(inner[0], one) for one in value]
    if isinstance(value, dict) and (fields := _fields(kind)) is not None:
        return {name: _known(fields[name], one) for name, one in value.items() if name in fields}
    return value


@lru_cache(maxsize=64)
def _fields(kind: Any) -> dict[str, Any] | None:
    """The types of a struct's fields by their names in documents, also of `Struct | None`. None for any other type."""
    for one in (kind, *get_args(kind)):
        if isinstance(one, type) and issubclass(one, Struct):
            hints = get_type_hints(one)
            names = zip(one.__struct_encode_fields__, one.__struct_fields__, strict=True)
            return {encoded: hints[name] for encoded, name in names}
    return None
