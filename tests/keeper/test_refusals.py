"""A refusal is the same answer whichever process it was raised in."""

from __future__ import annotations

import pkgutil
from collections.abc import Iterator
from importlib import import_module

import holdfast.parent
import pytest
from holdfast import errors
from holdfast.http.health import Health
from holdfast.keeper.rpc.frames import failure_of, refusal_of

for found in pkgutil.iter_modules(holdfast.parent.__path__):
    import_module(f"holdfast.parent.{found.name}")


def kinds(of: type[errors.Refusal]) -> Iterator[type[errors.Refusal]]:
    """What the parent's client may raise: every kind of failure, wherever it is defined there."""
    if of.__module__.startswith(("holdfast.errors", "holdfast.parent")):
        yield of
        for kind in of.__subclasses__():
            yield from kinds(kind)


def across(error: errors.Refusal) -> errors.Refusal:
    """As it arrives at a worker."""
    frame = failure_of(1, error)
    return refusal_of(frame.kind, frame.message, frame.detail, frame.code, frame.retry_after, frame.headers)


KINDS = {kind.__name__: kind for kind in kinds(errors.Refusal)}


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
def test_a_refusal_has_the_same_status_on_the_other_side(kind: type[errors.Refusal]) -> None:
    raised = kind("why", detail="in detail", retry_after=7)
    arrived = across(raised)
    assert errors.status_and_code(arrived) == errors.status_and_code(raised)
    assert (arrived.message, arrived.detail, arrived.retry_after) == ("why", "in detail", 7)


def test_a_parent_that_is_known_to_be_away_is_503_with_a_time() -> None:
    health = Health(probe_interval=10.0)
    health.unreachable(100.0, decisive=True)
    refusal = health.refusal(104.0, "team/app")
    assert refusal is not None
    arrived = across(refusal)
    assert (errors.status_and_code(arrived)[0], arrived.retry_after) == (503, 6)
