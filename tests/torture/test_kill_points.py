"""A kill at every write of an operation (here: at every fifth, `make torture` has them all): the node starts again
with no hand, what was acknowledged is there, and the operation can be repeated."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import pytest
from torture.flows import FLOWS
from torture.kill import Killer, killer

#: a first start makes 512 directories one like the other, so fewer points will do
STEP, STEP_FIRST_START = 5, 200


def points(at_work: Killer, hits: Iterator[str]) -> None:
    """All of them, each without a complaint."""
    for hit in hits:
        assert at_work.world.ledger.complaints == [], f"after a kill before {hit}"
    at_work.end()
    assert at_work.world.ledger.complaints == []
    assert at_work.hits


def offset(seed: str, what: str, step: int) -> int:
    """Where the points begin: over many runs all are hit."""
    return random.Random(f"{seed} {what}").randint(1, step)


@pytest.mark.parametrize("flow", FLOWS)
def test_kills_in_an_operation(place: Path, seed: str, flow: str) -> None:
    with killer(place, flow) as at_work:
        points(at_work, at_work.points(offset(seed, flow, STEP), STEP))


def test_kills_in_a_start(place: Path, seed: str) -> None:
    with killer(place, "cold pull") as at_work:
        points(at_work, at_work.starts(offset(seed, "start", STEP), STEP))


def test_kills_in_a_first_start(place: Path, seed: str) -> None:
    with killer(place, "monolithic push") as at_work:
        points(at_work, at_work.births(offset(seed, "first start", STEP_FIRST_START), STEP_FIRST_START))
