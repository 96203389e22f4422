#!/usr/bin/env python3
"""Prints what each process of a node costs: processor time until it is ready, mostly imports, and resident memory then;
and the same of `holdfast --version`. `tools/processes.py [CHECKOUT …]`, each with its own `.venv`, which `make build`
makes. Checkouts take turns, so that a machine that is busy is busy for all of them; medians are printed.

A node of one worker is started, below a parent that nothing listens for, with its store in a temporary directory."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent
ROUNDS = 5
#: of a child that is ready: its first connections and timers are over by then
SETTLE_SECONDS = 1.0
SERVE = (
    *("serve", "--listen", "127.0.0.1:0", "--workers", "1"),
    *("--parent", "http://127.0.0.1:9", "--parent-insecure", "--data"),
)


class Cost(NamedTuple):
    """Of one process: processor time (ms) and resident memory (MiB), what it shares with others included."""

    process: str
    processor: float
    resident: float


def of_running(process: str, pid: int) -> Cost:
    """What it cost until now."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    ticks = int(fields[11]) + int(fields[12])
    resident = next(
        line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("VmRSS")
    )
    return Cost(process, 1000 * ticks / os.sysconf("SC_CLK_TCK"), int(resident.split()[1]) / 1024)


def of_command(checkout: Path) -> Cost:
    """`holdfast --version`, to its end."""
    process = subprocess.Popen([checkout / ".venv/bin/holdfast", "--version"], stdout=subprocess.DEVNULL)
    _, _, usage = os.wait4(process.pid, 0)
    process.returncode = 0
    return Cost("command", 1000 * (usage.ru_utime + usage.ru_stime), usage.ru_maxrss / 1024)


def of_node(checkout: Path) -> Iterator[Cost]:
    """Its supervisor, keeper and worker."""
    with tempfile.TemporaryDirectory(prefix="holdfast-") as place:
        command = [checkout / ".venv/bin/holdfast", *SERVE, place]
        node = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, cwd=place)
        try:
            children = _ready(node)
            threading.Event().wait(SETTLE_SECONDS)
            for role, pid in {"supervisor": node.pid, **children}.items():
                yield of_running(role, pid)
        finally:
            node.terminate()
            node.wait()


def _ready(node: subprocess.Popen[bytes]) -> dict[str, int]:
    """Process ids of keeper and worker, once both say that they are ready."""
    ready: dict[str, int] = {}
    assert node.stderr is not None
    for line in node.stderr:
        event = json.loads(line) if line.startswith(b"{") else {"event": ""}
        if event["event"] in ("keeper ready", "worker ready"):
            ready[event["role"]] = event["pid"]
        if len(ready) == 2:
            return ready
    raise SystemExit("the node did not start")


def main(checkouts: list[Path]) -> None:
    """Measure, and print a line for each process and checkout."""
    found: dict[tuple[str, Path], list[Cost]] = defaultdict(list)
    for _ in range(ROUNDS):
        for checkout in checkouts:
            for cost in (*of_node(checkout), of_command(checkout)):
                found[cost.process, checkout].append(cost)
    for process, checkout in sorted(found):
        costs = found[process, checkout]
        processor, resident = (
            statistics.median(column) for column in zip(*(cost[1:] for cost in costs), strict=True)
        )
        print(f"{process}, {checkout.name}: {processor:.0f} ms of processor, {resident:.1f} MiB")


if __name__ == "__main__":
    main([Path(one).resolve() for one in sys.argv[1:]] or [ROOT])
