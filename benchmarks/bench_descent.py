"""How fast does what was pushed at a root come down to a connected registry over a long link?

The child is switched off its parent while the images are pushed at the root; time counts from its first request for
content after it was switched on until its store has every tag. Side by side is how many requests were under way on the
mean, by their round trips alone: more, where bodies take time.
"""

from __future__ import annotations

import time
from contextlib import closing
from pathlib import Path

from holdfast.testing.link import RelayLink

from benchmarks.case import HOLDFAST, Case, Effort, Figure, Verdict
from benchmarks.images import Held, wait
from benchmarks.long_link import MBIT_10, NAME, ROUND_TRIP, SHARE_BOUND, Tree, planted, pushed

SECONDS_BOUND, REQUESTS_BOUND = 6.0, 8.0


def run(place: Path, effort: Effort) -> list[Case]:
    """All of it."""
    return [small(place / "small", effort), large(place / "large", effort)]


def took(tree: Tree, count: int, layers: int, size: int) -> tuple[float, int]:
    """Seconds until so many images are at the child, and requests for content."""
    tree.switch("offline")
    wanted = pushed(tree.root.url, count, layers, size)
    before = len(tree.way.heads)
    with closing(Held(tree.child)) as held:
        tree.switch("auto")
        wait(lambda: _begun(tree.way, before), "the first request")
        began = time.perf_counter()
        wait(lambda: held.has(NAME, wanted), "all images at the child")
        seconds = time.perf_counter() - began
    return seconds, _begun(tree.way, before)


def _begun(way: RelayLink, before: int) -> int:
    """Requests for content."""
    return sum(f"/v2/{NAME}/" in head.target for head in way.heads[before:])


def small(place: Path, effort: Effort) -> Case:
    """Images of five small layers over a round trip of 200 ms."""
    count = effort.pick(40, 10)
    with planted(place, "ReadOnly", ROUND_TRIP) as tree:
        seconds, asked = took(tree, count, 5, 20_000)
    return Case(
        f"{count} images of five layers of 20 kB come down, 200 ms",
        (Figure(HOLDFAST, "s", (seconds,)),),
        (
            Verdict("until all are there", seconds, SECONDS_BOUND, at_least=False, unit="s"),
            Verdict("requests an image", asked / count, REQUESTS_BOUND, at_least=False, unit=""),
        ),
        (f"{asked * ROUND_TRIP / seconds:.1f} requests side by side on the mean.",),
    )


def large(place: Path, effort: Effort) -> Case:
    """Images of one layer of 1 MB over 10 Mbit/s and 200 ms."""
    count, size = effort.pick(40, 10), 1_000_000
    with planted(place, "ReadOnly", ROUND_TRIP, MBIT_10) as tree:
        seconds, _ = took(tree, count, 1, size)
        sent = tree.way.down
    share = count * size / seconds / MBIT_10
    return Case(
        f"{count} images of 1 MB come down, 10 Mbit/s, 200 ms",
        (Figure(HOLDFAST, "s", (seconds,)),),
        (
            Verdict("of the link", share, SHARE_BOUND, at_least=True),
            Verdict("of the unique bytes", sent / (count * size), 1.02, at_least=False),
        ),
    )


if __name__ == "__main__":
    from benchmarks.alone import main

    main(run)
