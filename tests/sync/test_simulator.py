"""The simulator over many seeds, and proof that it finds mistakes."""

from __future__ import annotations

import os
from collections import Counter

import pytest
from sync.planted import FAULTS
from sync.simulator import Simulation
from sync.world import Broken

#: `make torture` asks for 100,000
SEEDS = int(os.environ.get("HOLDFAST_SYNC_SEEDS", "1000"))
BLOCKS = 10
HAPPENED = ("cancels", "kills", "jumps", "confirmed", "conflicts", "requested_in_time", "parked")


@pytest.mark.parametrize("block", range(BLOCKS))
def test_every_seed_keeps_the_invariants(block: int) -> None:
    seen: Counter[str] = Counter()
    for seed in range(block, SEEDS, BLOCKS):
        try:
            tally = Simulation(seed).go()
        except Broken as broken:
            raise AssertionError(f"seed {seed}: {broken} (python -m sync.simulator {seed})") from broken
        seen.update(tally.full)
        for name in ("runs", *HAPPENED):
            seen[name] += getattr(tally, name)
    print(dict(seen))
    # a simulation in which nothing happens finds nothing
    assert min(seen[name] for name in HAPPENED) > 0
    assert {"Scheduled", "Changes", "InitialSync", "RecoveryService", "ManualResync"} <= set(seen)


@pytest.mark.parametrize("fault", FAULTS)
def test_a_planted_fault_is_found(fault: str) -> None:
    for seed in range(200):
        try:
            Simulation(seed, FAULTS[fault]()).go()
        except Broken as broken:
            print(f"{fault}: seed {seed}: {broken}")
            return
    raise AssertionError(f"200 seeds did not find that it {fault}")


def test_a_seed_is_the_same_each_time() -> None:
    assert Simulation(7).go() == Simulation(7).go()
