"""What does a crowd on one cold blob cost, at the parent and for the last of them?

40 clients ask two workers for one blob at the same moment; before, one client alone asks for another blob
of the same size. GETs are counted at the parent. The parent sends at 1 Gbit/s: a crowd waits for a link.
Over unlimited loopback the row says what the machine's own memory and processors make of 40 copies, with
server and all clients on it; it has no bound on time.
"""

from __future__ import annotations

import shutil
from pathlib import Path

from benchmarks.case import HOLDFAST, Case, Effort, Figure, Verdict
from benchmarks.content import MB
from benchmarks.link import GIGABIT, blob_requests, limited_parent
from benchmarks.load import herd
from benchmarks.machine import touch_memory
from benchmarks.peers import Holdfast

TOUCHED_BYTES = 1 << 30
CLIENTS, WORKERS = 40, 2


def run(place: Path, effort: Effort) -> list[Case]:
    """At 1 Gbit/s and without a limit."""
    size = 64 * MB
    name = f"{CLIENTS} clients on one cold 64 MB blob, {WORKERS} workers"
    timed = measure(f"{name}, parent at 1 Gbit/s", place, size, GIGABIT, effort.rounds, bound=1.5)
    return [timed, measure(f"{name}, loopback", place, size, 0.0, effort.rounds, bound=0.0)]


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


if __name__ == "__main__":
    from benchmarks.alone import main

    main(run)
