"""Structs that have the fields of another struct, so that a field is declared once.

A request and an answer of the API have the fields of the stored resource, with other defaults and bounds. Where a
request allows less than what is stored, the model's type says so: `Annotated[str, Requested(BoundedText)]`. What is
stored may be older than the bound, and stays readable.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Annotated, Any, Literal, NamedTuple, TypeVar, cast, get_origin

from msgspec import NODEFAULT, UNSET, Struct, UnsetType, defstruct, field
from msgspec.structs import FieldInfo, fields, replace

S = TypeVar("S", bound=Struct)

#: whether a derived field has the default of its model, can be left out without one, or must be given
Presence = Literal["default", "optional", "required"]


class Requested(NamedTuple):
    """In `Annotated[…]`: the type of the field in requests."""

    type: Any


def fields_of(
    model: type[Struct],
    presence: Presence,
    *,
    without: frozenset[str] = frozenset(),
    nested: Mapping[type[Struct], type[Struct]] | None = None,
) -> Callable[[type[S]], type[S]]:
    """Class decorator: adds the fields of `model` but for `without`. `nested` maps the structs in these fields to those
    that take their place."""

    def derive(base: type[S]) -> type[S]:
        own = {*base.__struct_fields__, *without}
        derived = [_derived(one, presence, nested or {}) for one in fields(model) if one.name not in own]
        namespace = {"__doc__": base.__doc__, "__qualname__": base.__qualname__}
        made: Any = defstruct(
            base.__name__, derived, bases=(base,), module=base.__module__, namespace=namespace, kw_only=True
        )
        return cast("type[S]", made)

    return derive


def _derived(
    info: FieldInfo, presence: Presence, nested: Mapping[type[Struct], type[Struct]]
) -> tuple[str, Any, Any]:
    if info.type in nested:
        kind = nested[info.type]
        return info.name, kind, NODEFAULT if presence == "required" else field(default_factory=kind)
    if presence == "required":
        return info.name, info.type, NODEFAULT
    kind = _requested(info.type)
    if presence == "optional":
        return info.name, kind | UnsetType, UNSET
    if info.default_factory is not NODEFAULT:
        return info.name, kind, field(default_factory=info.default_factory)
    return info.name, kind, info.default


def _requested(kind: Any) -> Any:
    notes = kind.__metadata__ if get_origin(kind) is Annotated else ()
    return next((note.type for note in notes if isinstance(note, Requested)), kind)


def shared(value: Struct, kind: type[Struct]) -> dict[str, Any]:
    """The fields of `value` that `kind` has as well."""
    return {name: getattr(value, name) for name in kind.__struct_fields__ if name in value.__struct_fields__}


def applied(held: S, request: Struct, without: frozenset[str] = frozenset()) -> S:
    """`held` with the fields that `request` sets; fields in `without`, and those that `held` does not have, are passed
    over."""
    changes = {}
    for name, value in shared(request, type(held)).items():
        if value is not UNSET and name not in without:
            changes[name] = applied(getattr(held, name), value) if isinstance(value, Struct) else value
    return replace(held, **changes)
