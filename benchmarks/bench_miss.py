"""What does a client pay for being the first? One cold blob through a node, against direct from its parent.

Twice: over loopback without a limit, where the link is faster than any hash, so that the figure is the
node's own ceiling (receive, SHA-256, chunk digests, write, send); and from a parent at 1 Gbit/s, where the
link is what it is for: the scarce thing. Each turn has a new node with an empty store. docker-registry's own
pull-through cache is measured beside, from the same parent.
"""

from __future__ import annotations

import shutil
import statistics
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from holdfast.testing.scripted_process import ScriptedProcess

from benchmarks.case import DIRECT, HOLDFAST, REGISTRY, Case, Effort, Figure, Verdict, alternate, ratio
from benchmarks.content import MB
from benchmarks.link import GIGABIT, blob_requests, limited_parent, loopback_parent
from benchmarks.load import Taken, fetch
from benchmarks.machine import touch_memory
from benchmarks.peers import Holdfast, Registry, Server

TOUCHED_BYTES = 2 << 30
TIME_BOUND, FIRST_BYTE_BOUND = 1.15, 0.020


def run(place: Path, effort: Effort) -> list[Case]:
    """Both links."""
    size = effort.pick(512 * MB, 64 * MB)
    with loopback_parent(place / "loopback", size) as (parent, content):
        cases = compare(
            f"{size // MB} MB miss, loopback", parent.url, content.blobs[size].target, place, effort.rounds
        )
    with limited_parent(GIGABIT, size) as (slow, targets):
        name, rounds = f"{size // MB} MB miss, parent at 1 Gbit/s", min(effort.rounds, 3)
        timed, first = compare(name, slow.url, targets[0], place, rounds)
        return [*cases, replace(timed, notes=(crossed(slow, targets[0], place),)), first]


def crossed(parent: ScriptedProcess, target: str, place: Path) -> str:
    """How often each cache takes the bytes of one pull over the link."""
    shares = []
    for subject, server in ((HOLDFAST, Holdfast), (REGISTRY, Registry)):
        gets, sent = blob_requests(parent)
        taken = cold(server(place / "node", data=place / "cache", parent=parent.url), target)
        more, after = blob_requests(parent)
        shares.append(f"{subject} {(after - sent) / taken.size:.2f} in {more - gets} GET")
    return f"Bytes sent by the parent, as a share of the blob: {', '.join(shares)}."


def compare(name: str, parent: str, target: str, place: Path, rounds: int) -> list[Case]:
    """The time to the last byte, and how much later the first one came."""
    first: dict[str, list[float]] = {DIRECT: [], HOLDFAST: [], REGISTRY: []}

    def timed(subject: str, take: Callable[[], Taken]) -> float:
        taken = take()
        first[subject].append(taken.first_byte)
        return taken.seconds

    def through(server: type[Holdfast] | type[Registry]) -> Taken:
        return cold(server(place / "node", data=place / "cache", parent=parent), target)

    fetch(parent, target)  # the parent's own caches are warm for everybody
    figures = alternate(
        rounds,
        {
            DIRECT: lambda: timed(DIRECT, lambda: fetch(parent, target)),
            HOLDFAST: lambda: timed(HOLDFAST, lambda: through(Holdfast)),
            REGISTRY: lambda: timed(REGISTRY, lambda: through(Registry)),
        },
        "s",
    )
    named = {figure.subject: figure for figure in figures}
    starts = tuple(Figure(subject, "s", tuple(values)) for subject, values in first.items())
    later = statistics.median(a - b for a, b in zip(first[HOLDFAST], first[DIRECT], strict=True))
    time = Verdict("the time of direct", ratio(named[HOLDFAST], named[DIRECT]), TIME_BOUND, at_least=False)
    wait = Verdict("later than direct", later, FIRST_BYTE_BOUND, at_least=False, unit="s")
    return [Case(name, figures, (time,)), Case(f"{name}: first byte", starts, (wait,))]


def cold(server: Server, target: str) -> Taken:
    """One request to a server that starts with nothing, and leaves nothing."""
    data: Path = server.data  # type: ignore[attr-defined]
    touch_memory(server.place.parent, TOUCHED_BYTES)
    try:
        data.mkdir(parents=True)
        with server:
            return fetch(server.url, target)
    finally:
        shutil.rmtree(data, ignore_errors=True)


if __name__ == "__main__":
    from benchmarks.alone import main

    main(run)
