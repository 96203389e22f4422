"""`$filter`: the three fields, `eq`, `and`; everything else is refused with the grammar."""

from contextlib import suppress

import pytest
from holdfast.admin.filter import Filter, read_filter
from holdfast.errors import QueryInvalid
from holdfast.resources.model import ConnectedRegistry, ParentProperties, SyncProperties
from hypothesis import given
from hypothesis import strategies as st

RIGHT = [
    ("mode eq 'ReadOnly'", Filter(mode="ReadOnly")),
    ("properties/mode eq 'readwrite'", Filter(mode="ReadWrite")),
    ("properties.connectionState eq 'Online'", Filter(state="Online")),
    ("parent.id eq '/connectedRegistries/Plant'", Filter(parent="plant")),
    ("parent/id eq 'plant'", Filter(parent="plant")),
    ("parent/id eq null", Filter(parent="")),
    ("parent.id eq ''", Filter(parent="")),
    ("  mode  eq  'ReadOnly'  and  parent.id eq 'plant' ", Filter(parent="plant", mode="ReadOnly")),
    ("parent/id eq 'it''s'", Filter(parent="it's")),
    (
        "mode eq 'ReadOnly' and connectionState eq 'Unhealthy' and parent/id eq 'a and b'",
        Filter("a and b", "ReadOnly", "Unhealthy"),
    ),
]


@pytest.mark.parametrize(("text", "wanted"), RIGHT)
def test_right(text, wanted):
    assert read_filter("$filter", text) == wanted


WRONG = [
    "",
    " ",
    "mode",
    "mode eq",
    "mode eq ReadOnly",
    "mode eq 'Other'",
    "mode ne 'ReadOnly'",
    "name eq 'plant'",
    "mode eq 'ReadOnly' or mode eq 'ReadWrite'",
    "mode eq 'ReadOnly' and",
    "mode eq 'ReadOnly' mode eq 'ReadOnly'",
    "mode eq 'ReadOnly' and mode eq 'ReadOnly'",
    "mode eq 'ReadOnly",
    "mode eq 'ReadOnly' andmode eq 'x'",
    "mode eq null",
    "(mode eq 'ReadOnly')",
]


@pytest.mark.parametrize("text", WRONG)
def test_wrong(text):
    with pytest.raises(QueryInvalid) as refused:
        read_filter("$filter", text)
    assert "allowed:" in refused.value.message


@given(st.text(alphabet="mode parent.id/eqand'RlyO ", max_size=60))
def test_never_anything_but_a_filter_or_a_refusal(text):
    with suppress(QueryInvalid):
        assert isinstance(read_filter("$filter", text), Filter)


def registry(mode="ReadOnly", parent=None):
    return ConnectedRegistry(
        name="child",
        mode=mode,
        parent=ParentProperties(sync_properties=SyncProperties(token_id="t"), id=parent),
    )


def test_what_it_takes():
    plant = registry(parent="/connectedRegistries/Plant")
    assert Filter().takes(plant)
    assert Filter(parent="plant").takes(plant)
    assert not Filter(parent="xplant").takes(plant)  # the original matches by suffix (2.4, defect c)
    assert not Filter(parent="").takes(plant)
    assert Filter(parent="").takes(registry())
    assert not Filter(mode="ReadWrite").takes(plant)
