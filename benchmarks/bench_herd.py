"""What does a crowd on one cold blob cost, at the parent and for the last of them?

40 clients ask two workers for one blob at the same moment; before, one client alone asks for another blob
of the same size. GETs are counted at the parent. The parent sends at 1 Gbit/s: a crowd waits for a link.
Over unlimited loopback the row says what the machine's own memory and processors make of 40 copies, with
server and all clients on it; it has no bound on time.

1,000 clients ask at once for a blob of 50 MB that is not here, and then for the same blob again. Every byte that they
get is compared with the parent's. Resident is the sum of the highest RSS of the node's processes.
"""

from __future__ import annotations

import shutil
import urllib.request
from pathlib import Path
from typing import NamedTuple

from benchmarks.bench_floods import memory
from benchmarks.case import HOLDFAST, Case, Effort, Figure, Verdict
from benchmarks.client import Question, Run, ask
from benchmarks.content import MB
from benchmarks.link import GIGABIT, blob_requests, limited_parent
from benchmarks.load import herd
from benchmarks.machine import allow_descriptors, touch_memory
from benchmarks.peers import Holdfast

TOUCHED_BYTES = 1 << 30
CLIENTS, WORKERS = 40, 2
SPREAD, RESIDENT_BYTES = 3.0, 1e9


def run(place: Path, effort: Effort) -> list[Case]:
    """At 1 Gbit/s and without a limit."""
    size = 64 * MB
    name = f"{CLIENTS} clients on one cold 64 MB blob, {WORKERS} workers"
    timed = measure(f"{name}, parent at 1 Gbit/s", place, size, GIGABIT, effort.rounds, bound=1.5)
    untimed = measure(f"{name}, loopback", place, size, 0.0, effort.rounds, bound=0.0)
    return [timed, untimed, *crowd(place, effort)]


def measure(name: str, place: Path, size: int, rate: float, rounds: int, bound: float) -> Case:
    """`bound` 0.0: only the GETs have one."""
    alone, last, gets = [], [], []
    with limited_parent(rate, size, size) as (parent, targets):
        for _ in range(rounds):
            touch_memory(place, TOUCHED_BYTES)
            with Holdfast(place / "node", data=place / "cache", workers=WORKERS, parent=parent.url) as node:
                alone.append(herd(node.url, targets[0], 1)[-1].seconds)
                before, _ = blob_requests(parent)
                last.append(herd(node.url, targets[1], CLIENTS)[-1].seconds)
                gets.append(blob_requests(parent)[0] - before)
            shutil.rmtree(place / "cache")
    verdicts = [Verdict("at the parent", max(gets), 1, at_least=False, unit="GET")]
    pairs = Figure("", "", tuple(a / b for a, b in zip(last, alone, strict=True)))
    if bound:
        verdicts.append(Verdict("one client's time, for the last", pairs.median, bound, at_least=False))
    one = Figure("", "", tuple(alone)).median
    note = f"One client alone: {one:.2f} s; {pairs.median:.2f}× for the last of {CLIENTS}."
    return Case(name, (Figure(HOLDFAST, "s", tuple(last)),), tuple(verdicts), (note,))


def crowd(place: Path, effort: Effort) -> list[Case]:
    """A miss and a hit of very many at once."""
    clients, size = effort.pick(1000, 20), effort.pick(50 * MB, 4 * MB)
    allow_descriptors(2 * clients + 1000)
    taken: dict[str, list[Crowd]] = {"miss": [], "hit": []}
    with limited_parent(0.0, size) as (parent, targets):
        body = place / "body"
        with urllib.request.urlopen(parent.url + targets[0]) as answer, body.open("wb") as file:
            shutil.copyfileobj(answer, file)
        for _ in range(min(effort.rounds, 3)):
            touch_memory(place, TOUCHED_BYTES)
            with Holdfast(place / "node", data=place / "cache", workers=WORKERS, parent=parent.url) as node:
                for seen in taken.values():
                    before, _ = blob_requests(parent)
                    run = ask(node.url, [Question(targets[0], size)], clients, 0.0, body=body)
                    gets = blob_requests(parent)[0] - before
                    seen.append(Crowd(run, gets, memory(node, "VmHWM")))
            shutil.rmtree(place / "cache")
    name = f"{clients:,} clients on one {size // MB} MB blob at once, {WORKERS} workers, loopback"
    return [
        crowd_row(f"{name}, {what}", seen, gets)
        for (what, seen), gets in zip(taken.items(), (1, 0), strict=True)
    ]


class Crowd(NamedTuple):
    """What came of one crowd: GETs at the parent, and bytes that the node's processes held at most."""

    run: Run
    gets: int
    resident: int


def crowd_row(name: str, seen: list[Crowd], gets: int) -> Case:
    """The worst of the rounds beside each bound."""
    spread = max(one.run.slowest / one.run.fastest for one in seen)
    resident = float(max(one.resident for one in seen))
    answers = sum(one.run.requests for one in seen)
    return Case(
        name,
        (Figure(HOLDFAST, "s", tuple(one.run.slowest for one in seen)),),
        (
            Verdict("the fastest's time, for the slowest", spread, SPREAD, at_least=False),
            Verdict("resident", resident, RESIDENT_BYTES, at_least=False, unit="bytes"),
            Verdict("at the parent", max(one.gets for one in seen), gets, at_least=False, unit="GET"),
        ),
        (f"All {answers:,} bodies were right, byte by byte.",),
    )


if __name__ == "__main__":
    from benchmarks.alone import main

    main(run)
