from typing import Annotated

import msgspec
import pytest
from holdfast.resources.derived_fields import Requested, applied, fields_of, shared
from msgspec import UNSET, Meta, Struct


class Inner(Struct, frozen=True, kw_only=True):
    enabled: bool = True


class Model(Struct, frozen=True, kw_only=True):
    name: str
    text: Annotated[str, Requested(Annotated[str, Meta(max_length=3)])] = "a"
    inner: Inner = msgspec.field(default_factory=Inner)


@fields_of(Inner, "optional")
class InnerChange(Struct, frozen=True, kw_only=True):
    """A change."""


@fields_of(Model, "optional", without=frozenset({"name"}), nested={Inner: InnerChange})
class Change(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What changes."""

    more: int = 0


@fields_of(Model, "required")
class Shown(Struct, frozen=True, kw_only=True):
    """What is shown."""


@fields_of(Model, "default", without=frozenset({"name"}))
class New(Struct, frozen=True, kw_only=True):
    """What is created."""


def test_a_change_leaves_fields_out_and_nested_ones_too():
    change = msgspec.convert({"inner": {"enabled": False}}, Change)
    assert change.text is UNSET
    held = Model(name="n", text="long text")
    assert applied(held, change) == Model(name="n", text="long text", inner=Inner(enabled=False))
    assert applied(held, msgspec.convert({"text": "b"}, Change), frozenset({"text"})) == held


def test_a_creation_has_the_defaults_of_the_model():
    assert shared(New(), Model) == {"text": "a", "inner": Inner()}


def test_only_requests_have_the_bound_of_requests():
    for kind in (Change, New):
        with pytest.raises(msgspec.ValidationError, match="length <= 3"):
            msgspec.convert({"text": "long"}, kind)
    assert msgspec.convert({"name": "n", "text": "long"}, Model).text == "long"
    assert msgspec.convert({"name": "n", "text": "long", "inner": {}}, Shown).text == "long"


def test_an_answer_has_every_field():
    for kept in ("name", "text", "inner"):
        whole = {"name": "n", "text": "t", "inner": {}}
        whole.pop(kept)
        with pytest.raises(msgspec.ValidationError, match=kept):
            msgspec.convert(whole, Shown)


def test_the_class_keeps_name_text_and_settings():
    assert (Change.__name__, Change.__doc__, Change.__module__) == ("Change", "What changes.", __name__)
    with pytest.raises(msgspec.ValidationError, match="unknown"):
        msgspec.convert({"colour": 1}, Change)
