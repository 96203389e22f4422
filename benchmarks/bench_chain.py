"""How soon does a client hear that its image cannot be had, when the top of a chain of nodes is gone?

A root and four nodes, each the parent of the next. The root is ended; the first miss at the lowest node finds that
out. After it each level is asked for what nobody has: the answer is 503 with the level that is away, and costs one
request a level.
"""

from __future__ import annotations

import time
from contextlib import ExitStack
from pathlib import Path

from benchmarks.case import HOLDFAST, Case, Effort, Figure, Verdict
from benchmarks.load import refusal_seconds
from benchmarks.peers import Holdfast

DEPTHS, BOUND = (2, 3, 4), 0.100
#: asks a depth, and how long the nodes may take until all know that the root is gone (s)
ASKS, KNOWN_SECONDS = 100, 30.0


def run(place: Path, effort: Effort) -> list[Case]:
    """A case for the first miss, and one a depth."""
    with ExitStack() as chain:
        root = chain.enter_context(Holdfast(place / "root", data=place / "root/data", anonymous="push"))
        nodes = [root]
        for level in range(1, max(DEPTHS) + 1):
            node = Holdfast(
                place / f"level-{level}", data=place / f"level-{level}/data", parent=nodes[-1].url
            )
            nodes.append(chain.enter_context(node))
        root.stop()
        first = missed(nodes[-1], 0)
        end = time.monotonic() + KNOWN_SECONDS
        while missed(nodes[1], 1) > BOUND and time.monotonic() < end:
            pass
        asks = effort.pick(ASKS, 20)
        found = {
            depth: tuple(missed(nodes[depth], number) for number in range(2, asks + 2)) for depth in DEPTHS
        }
    return [
        Case("503, the root of a chain of four ended just now", (Figure(HOLDFAST, "s", (first,)),)),
        *(row(depth, seconds) for depth, seconds in found.items()),
    ]


def row(depth: int, seconds: tuple[float, ...]) -> Case:
    """One depth."""
    figure = Figure(HOLDFAST, "s", seconds)
    slowest = sorted(seconds)[int(len(seconds) * 0.99) - 1]
    return Case(
        f"503 at depth {depth}, the root is known to be gone",
        (figure,),
        (
            Verdict("to the answer", figure.median, BOUND, False, "s"),
            Verdict("in 99 of 100", slowest, BOUND, False, "s"),
        ),
    )


def missed(node: Holdfast, number: int) -> float:
    """Seconds from a new connection to the whole answer. Raises LoadFailed unless it is a 503 that says when to come
    back and which level is away."""
    target = f"/v2/library/away/blobs/sha256:{number:064x}"
    return refusal_seconds(node.url, target, "Retry-After", "Holdfast-Away")


if __name__ == "__main__":
    from benchmarks.alone import main

    main(run)
