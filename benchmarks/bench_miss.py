"""What does a client pay for being the first? Cold blobs through a node, against direct from its parent.

Over loopback without a limit, where the figure is the node's own ceiling (receive, SHA-256, chunk digests, write,
send), one blob and the layers of an image at once: nobody can be faster than the transfer, nor than SHA-256 of the
bytes on one core, so the time is held against the longer of both. And from a parent at 1 Gbit/s, where the link is what
it is for: the scarce thing. Each turn has a new node with an empty store. docker-registry's own pull-through cache is
measured beside, from the same parent.
"""

from __future__ import annotations

import shutil
import statistics
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from holdfast.testing.scripted_process import ScriptedProcess
from holdfast_core.sha256 import LANES, Sha256, update_together

from benchmarks.case import DIRECT, HOLDFAST, REGISTRY, Case, Effort, Figure, Verdict, alternate, ratio
from benchmarks.content import MB
from benchmarks.link import GIGABIT, blob_requests, limited_parent, loopback_parent
from benchmarks.load import Taken, at_once
from benchmarks.machine import touch_memory
from benchmarks.peers import Holdfast, Registry, Server

TOUCHED_BYTES = 2 << 30
LAYERS = 8
PIECE_BYTES = 1 << 20
LOOPBACK_BOUND, LINK_BOUND, FIRST_BYTE_BOUND = 1.25, 1.03, 0.020
#: a subject: the bytes in memory, hashed by one thread
SHA256 = "SHA-256"


def run(place: Path, effort: Effort) -> list[Case]:
    """Both links."""
    size, layer = effort.pick(512 * MB, 64 * MB), effort.pick(64 * MB, 8 * MB)
    layers = [layer - number for number in range(LAYERS)]
    with loopback_parent(place / "loopback", size, *layers) as (parent, content):
        cases = []
        for name, sizes in (
            (f"{size // MB} MB miss, loopback", [size]),
            (f"{LAYERS} layers of {layer // MB} MB missed at once, loopback", layers),
        ):
            targets = [content.blobs[each].target for each in sizes]
            cases += compare(name, parent.url, targets, place, effort.rounds, hashed=sizes)
    with limited_parent(GIGABIT, size) as (slow, targets):
        name, rounds = f"{size // MB} MB miss, parent at 1 Gbit/s", min(effort.rounds, 3)
        timed, first = compare(name, slow.url, targets, place, rounds)
        return [*cases, replace(timed, notes=(crossed(slow, targets[0], place),)), first]


def crossed(parent: ScriptedProcess, target: str, place: Path) -> str:
    """How often each cache takes the bytes of one pull over the link."""
    shares = []
    for subject, server in ((HOLDFAST, Holdfast), (REGISTRY, Registry)):
        gets, sent = blob_requests(parent)
        (taken,) = cold(server(place / "node", data=place / "cache", parent=parent.url), target)
        more, after = blob_requests(parent)
        shares.append(f"{subject} {(after - sent) / taken.size:.2f} in {more - gets} GET")
    return f"Bytes sent by the parent, as a share of the blob: {', '.join(shares)}."


def compare(
    name: str, parent: str, targets: list[str], place: Path, rounds: int, hashed: list[int] | None = None
) -> list[Case]:
    """The time to the last byte, and how much later the first one came. `hashed`: also against SHA-256 of blobs of
    these sizes."""
    first: dict[str, list[float]] = {DIRECT: [], HOLDFAST: [], REGISTRY: []}

    def timed(subject: str, take: Callable[[], list[Taken]]) -> float:
        taken = take()
        first[subject].append(min(one.first_byte for one in taken))
        return taken[-1].seconds

    def through(server: type[Holdfast] | type[Registry]) -> list[Taken]:
        return cold(server(place / "node", data=place / "cache", parent=parent), *targets)

    at_once(parent, targets)  # the parent's own caches are warm for everybody
    subjects = {
        DIRECT: lambda: timed(DIRECT, lambda: at_once(parent, targets)),
        HOLDFAST: lambda: timed(HOLDFAST, lambda: through(Holdfast)),
        REGISTRY: lambda: timed(REGISTRY, lambda: through(Registry)),
    }
    if hashed is not None:
        subjects[SHA256] = lambda: hashing_seconds(hashed)
    figures = alternate(rounds, subjects, "s")
    starts = tuple(Figure(subject, "s", tuple(values)) for subject, values in first.items())
    later = statistics.median(a - b for a, b in zip(first[HOLDFAST], first[DIRECT], strict=True))
    alone = tuple(f"SHA-256 alone takes {f.median:.3f} s." for f in figures if f.subject == SHA256)
    wait = Verdict("later than direct", later, FIRST_BYTE_BOUND, at_least=False, unit="s")
    return [
        Case(name, figures, (against_the_possible(figures),), alone),
        Case(f"{name}: first byte", starts, (wait,)),
    ]


def against_the_possible(figures: tuple[Figure, ...]) -> Verdict:
    """The ratio to direct, or to SHA-256 where that took longer in a round."""
    named = {figure.subject: figure for figure in figures}
    if SHA256 not in named:
        return Verdict(
            "the time of direct", ratio(named[HOLDFAST], named[DIRECT]), LINK_BOUND, at_least=False
        )
    longer = tuple(map(max, named[DIRECT].values, named[SHA256].values))
    measured = ratio(named[HOLDFAST], replace(named[DIRECT], values=longer))
    return Verdict("the longer of direct and SHA-256", measured, LOOPBACK_BOUND, at_least=False)


def hashing_seconds(sizes: list[int]) -> float:
    """SHA-256 of streams of about these lengths: on one core, side by side as far as that is faster."""
    piece, taken = bytes(PIECE_BYTES), 0.0
    for first in range(0, len(sizes), LANES):
        group = sizes[first : first + LANES]
        streams = [Sha256() for _ in group]
        started = time.perf_counter()
        for _ in range(max(group) // PIECE_BYTES):
            update_together(streams, [piece] * len(streams))
        taken += time.perf_counter() - started
    return taken


def cold(server: Server, *targets: str) -> list[Taken]:
    """Requests at the same time to a server that starts with nothing, and leaves nothing."""
    data: Path = server.data  # type: ignore[attr-defined]
    touch_memory(server.place.parent, TOUCHED_BYTES)
    try:
        data.mkdir(parents=True)
        with server:
            return at_once(server.url, targets)
    finally:
        shutil.rmtree(data, ignore_errors=True)


if __name__ == "__main__":
    from benchmarks.alone import main

    main(run)
