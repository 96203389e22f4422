"""A flipped bit anywhere: nothing wrong is served, nothing goes without a word, and what can heal heals."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
from torture.flips import PLACES, flips
from torture.life import life
from torture.nodes import node_flips

FLIPS = 12


@pytest.mark.parametrize("where", PLACES)
@pytest.mark.parametrize("parent", [False, True])
def test_a_bit_of_a_store(place: Path, seed: str, where: str, parent: bool) -> None:
    seen: Counter[str] = Counter()
    for found in flips(place, seed, where, FLIPS, parent=parent):
        assert found.losses == []
        seen += found.seen
    assert where == "index" or seen["named by fsck"] + seen["healed by the parent"] >= FLIPS


@pytest.mark.parametrize(("where", "parent"), [("blobs", True), ("index", False)])
def test_a_bit_of_a_node(place: Path, seed: str, where: str, parent: bool) -> None:
    for found in node_flips(place, seed, where, 1, parent=parent):
        assert found.losses == []


@pytest.mark.parametrize(("kind", "workers"), [("ext4", 0), ("xfs", 2)])
def test_a_full_disk_under_load(place: Path, seed: str, kind: str, workers: int) -> None:
    with life(place, f"{seed} {kind} {workers}", kind=kind, workers=workers, size=400 << 20) as lived:
        lived.fill()
        assert lived.world.ledger.complaints == []
        lived.end()
        assert lived.world.ledger.complaints == []
        assert lived.world.seen["refused while full"] > 0
