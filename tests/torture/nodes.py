"""A whole node whose disk flips a bit while it is down."""

from __future__ import annotations

import random
import sys
from collections.abc import Iterator
from pathlib import Path

from holdfast.testing.scripted_process import scripted_process
from holdfast_core import fsck
from support.programs import run
from torture.check import check
from torture.flips import Found, strike
from torture.flows import Flow
from torture.life import configuration
from torture.load import World
from torture.machine import Machine

#: what is in the store before the bit flips
WORK = ("cold pull", "monolithic push", "manifest put")
#: a damaged chunk is an error once, and then fetched
TRIES = 3


def node_flips(place: Path, seed: str, where: str, number: int, *, parent: bool) -> Iterator[Found]:
    """So many, each on a fresh store. Without `parent` it is gone when the node starts again."""
    for n in range(number):
        chance = random.Random(f"{seed} {where} {parent} {n}")
        with scripted_process() as upper:
            machine = Machine(place / f"{n}", place / f"{n}" / "store", configuration(upper))
            with machine:
                machine.start()
                found = _one(machine, [Flow(World(), upper, name) for name in WORK], where, chance, parent)
            found.losses = [f"node {n} of seed {seed!r}: {loss}" for loss in found.losses]
            yield found


def _one(machine: Machine, flows: list[Flow], where: str, chance: random.Random, parent: bool) -> Found:
    world, found = flows[0].world, Found()
    for number, flow in enumerate(flows):
        flow.world = world
        flow.prepare(machine.url, number)
        flow.run(machine.url, number)
    assert machine.program.stop() == 0, machine.program.output()
    strike(machine.data, where, chance)
    if not parent:
        flows[0].parent.process.kill()
        flows[0].parent.process.wait(60)
    _start(machine, found)
    complaints = _complaints(machine, world)
    cached = [complaint for complaint in complaints if complaint.startswith("cached")]
    found.seen["complaints"] += len(complaints)
    named = fsck(machine.data, (1, 1)).problems
    if any("wrong bytes" in complaint for complaint in complaints):
        found.losses += complaints
    if parent and cached:
        found.losses.append(f"the parent has it, and it is not right: {cached}")
    if complaints and not named:
        found.losses.append(f"not named: {complaints}")
    return found


def _start(machine: Machine, found: Found) -> None:
    """As an operator does: one that refuses to start says what to do."""
    machine.begin(booted=False)
    if machine.comes_up():
        return
    found.seen["refused to start"] += 1
    if "holdfast rebuild" not in machine.program.output():
        found.losses.append(f"it does not start and does not say why: {machine.program.output()[-500:]}")
    run(sys.executable, "-m", "holdfast", "rebuild", "--data", machine.data)
    machine.start(booted=False)


def _complaints(machine: Machine, world: World) -> list[str]:
    """What is still not right after some tries."""
    keys = world.ledger.keys()
    allowed = {key: world.ledger.allowed(key) for key in keys}
    for _ in range(TRIES):
        world.ledger.expect(allowed)
        world.ledger.complaints.clear()
        check(world, machine.url, keys)
        if not world.ledger.complaints:
            break
    return list(world.ledger.complaints)
