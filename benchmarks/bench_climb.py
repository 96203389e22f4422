"""How fast does what was pushed to a connected registry go up to its root, over a long link and over none?

All requests that cross the link while the images go up are counted, also those for tokens and of the gateway's
conversation. Time counts from the first push until the root's store has every tag.
"""

from __future__ import annotations

import time
from contextlib import closing
from pathlib import Path

from benchmarks.case import HOLDFAST, Case, Effort, Figure, Verdict
from benchmarks.images import Held, wait
from benchmarks.long_link import MBIT_10, NAME, ROUND_TRIP, SHARE_BOUND, Tree, planted, pushed

SECONDS_BOUND, REQUESTS_BOUND, RATE_BOUND = 15.0, 12.0, 50.0


def run(place: Path, effort: Effort) -> list[Case]:
    """All of it."""
    return [small(place / "small", effort), large(place / "large", effort), near(place / "near", effort)]


def took(tree: Tree, count: int, layers: int, size: int) -> float:
    """Seconds from the first push of so many images until the root has all."""
    with closing(Held(tree.root)) as held:
        began = time.perf_counter()
        wanted = pushed(tree.child.url, count, layers, size)
        wait(lambda: held.has(NAME, wanted), "all images at the root")
        return time.perf_counter() - began


def small(place: Path, effort: Effort) -> Case:
    """Images of five small layers over a round trip of 200 ms."""
    count = effort.pick(40, 10)
    with planted(place, "ReadWrite", ROUND_TRIP) as tree:
        before = len(tree.way.heads)
        seconds = took(tree, count, 5, 20_000)
        asked = len(tree.way.heads) - before
    return Case(
        f"{count} images of five layers of 20 kB go up, 200 ms",
        (Figure(HOLDFAST, "s", (seconds,)),),
        (
            Verdict("until all are there", seconds, SECONDS_BOUND, at_least=False, unit="s"),
            Verdict("requests an image", asked / count, REQUESTS_BOUND, at_least=False, unit=""),
        ),
    )


def large(place: Path, effort: Effort) -> Case:
    """Images of one layer of 1 MB over 10 Mbit/s and 200 ms."""
    count, size = effort.pick(40, 10), 1_000_000
    with planted(place, "ReadWrite", ROUND_TRIP, MBIT_10) as tree:
        seconds = took(tree, count, 1, size)
        sent = tree.way.up
    share = count * size / seconds / MBIT_10
    return Case(
        f"{count} images of 1 MB go up, 10 Mbit/s, 200 ms",
        (Figure(HOLDFAST, "s", (seconds,)),),
        (
            Verdict("of the link", share, SHARE_BOUND, at_least=True),
            Verdict("of the unique bytes", sent / (count * size), 1.02, at_least=False),
        ),
    )


def near(place: Path, effort: Effort) -> Case:
    """Images of one small layer over loopback, from the moment when the last was pushed."""
    count = effort.pick(1000, 100)
    with planted(place, "ReadWrite") as tree, closing(Held(tree.root)) as held:
        tree.switch("offline")
        wanted = pushed(tree.child.url, count, 1, 2_000)
        began = time.perf_counter()
        tree.switch("auto")
        wait(lambda: held.has(NAME, wanted), "all images at the root")
        seconds = time.perf_counter() - began
    return Case(
        f"{count} images of 2 kB go up, loopback",
        (Figure(HOLDFAST, "images/s", (count / seconds,)),),
        (Verdict("images/s", count / seconds, RATE_BOUND, at_least=True, unit=""),),
    )


if __name__ == "__main__":
    from benchmarks.alone import main

    main(run)
