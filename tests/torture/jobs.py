"""The jobs of the full run: lives with power cuts, and operations with kills, each in a process of its own."""

from __future__ import annotations

import shutil
import tempfile
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torture.flips import PLACES, flips
from torture.flows import FLOWS
from torture.kill import killer
from torture.life import life
from torture.machine import memory
from torture.nodes import node_flips

CUTS_A_LIFE = 25
FLIPS_A_JOB = 250
#: room for what all fills of a life push; a filler takes the rest
DISK_BYTES = 1 << 30
#: a first start makes 512 directories one like the other
STEP_FIRST_START = 10
#: file system and worker processes of the lives, in turn
KINDS = (("ext4", 0), ("ext4", 2), ("ext4", 0), ("xfs", 2))


@dataclass
class Outcome:
    """What a job did and found."""

    job: str
    cuts: int = 0
    cuts_during_start: int = 0
    kills: int = 0
    flips: int = 0
    full_disks: int = 0
    acknowledged: int = 0
    compared: int = 0
    #: see `World.seen`
    seen: dict[str, int] = field(default_factory=dict)
    losses: list[str] = field(default_factory=list)


def cuts(place: Path, seed: str, kind: str, workers: int, number: int) -> Outcome:
    """One life with so many cuts."""
    with life(place, seed, kind=kind, workers=workers) as lived:
        for _ in range(number):
            lived.cut()
        lived.end()
        ledger, job = lived.world.ledger, f"power cuts, {kind}, {workers} workers"
        return Outcome(
            job,
            cuts=lived.cuts,
            cuts_during_start=lived.starts,
            acknowledged=ledger.acknowledged,
            compared=ledger.compared,
            seen=dict(lived.world.seen),
            losses=ledger.complaints,
        )


def kills(place: Path, flow: str, during: str, step: int) -> Outcome:
    """One operation, or a start after it or before it, killed at each of its writes."""
    with killer(place, flow) as at_work:
        points = {"operation": at_work.points, "start": at_work.starts, "first start": at_work.births}
        number = sum(1 for _ in points[during](1, step))
        at_work.end()
        ledger = at_work.world.ledger
        return Outcome(
            f"kills, {flow if during == 'operation' else during}",
            kills=number,
            acknowledged=ledger.acknowledged,
            compared=ledger.compared,
            seen=dict(at_work.world.seen),
            losses=ledger.complaints,
        )


def full_disks(place: Path, seed: str, kind: str, workers: int, number: int) -> Outcome:
    """One life on a small disk that so often has no room left."""
    with life(place, seed, kind=kind, workers=workers, size=DISK_BYTES) as lived:
        for _ in range(number):
            lived.fill()
        lived.end()
        ledger = lived.world.ledger
        return Outcome(
            f"full disks, {kind}, {workers} workers",
            full_disks=lived.fills,
            acknowledged=ledger.acknowledged,
            compared=ledger.compared,
            seen=dict(lived.world.seen),
            losses=ledger.complaints,
        )


def bits(place: Path, seed: str, where: str, number: int, parent: bool, nodes: bool) -> Outcome:
    """So many flipped bits, of a store or of whole nodes."""
    what = "bit flips of a node" if nodes else "bit flips"
    outcome = Outcome(f"{what}, {where}, {'' if parent else 'no '}parent")
    seen: Counter[str] = Counter()
    for found in (node_flips if nodes else flips)(place, seed, where, number, parent=parent):
        outcome.flips += 1
        seen.update(found.seen)
        outcome.losses += found.losses
    outcome.seen = dict(seen)
    return outcome


#: what to run, and its arguments but the first, which is its place
Job = tuple[Callable[..., Outcome], tuple[Any, ...]]


def run(job: Job) -> Outcome:
    """In a process of its own. A job that breaks off counts as a loss, and leaves its files."""
    work, arguments = job
    place = Path(tempfile.mkdtemp(dir=memory(), prefix="holdfast-"))
    try:
        outcome = work(place, *arguments)
    except BaseException:  # noqa: BLE001 - a skip is one, too; whatever it was is told
        return Outcome(f"{work.__name__} {arguments}", losses=[f"{place}: {traceback.format_exc()}"])
    if not outcome.losses:
        shutil.rmtree(place)
    return outcome


@dataclass(frozen=True)
class Wanted:
    """How many faults: power cuts in all, flips of a place with a parent and as many without, full disks of each
    file system."""

    cuts: int = 400
    flips: int = 1000
    full_disks: int = 20


def jobs(seed: int, wanted: Wanted) -> Iterator[Job]:
    """The long ones first."""
    yield kills, ("monolithic push", "first start", STEP_FIRST_START)
    yield kills, ("cold pull", "start", 1)
    yield from ((kills, (flow, "operation", 1)) for flow in FLOWS)
    for number, start in enumerate(range(0, wanted.cuts, CUTS_A_LIFE)):
        kind, workers = KINDS[number % len(KINDS)]
        yield cuts, (f"{seed} {number}", kind, workers, min(CUTS_A_LIFE, wanted.cuts - start))
    for kind in ("ext4", "xfs"):
        for workers, number in ((0, (wanted.full_disks + 1) // 2), (2, wanted.full_disks // 2)):
            if number:
                yield full_disks, (f"{seed} {kind} {workers}", kind, workers, number)
    for where in PLACES:
        for parent in (False, True):
            for start in range(0, wanted.flips, FLIPS_A_JOB):
                number = min(FLIPS_A_JOB, wanted.flips - start)
                yield bits, (f"{seed} {start}", where, number, parent, False)
            if wanted.flips:
                yield bits, (f"{seed} nodes", where, max(1, wanted.flips // 100), parent, True)
