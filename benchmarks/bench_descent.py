"""How fast does what was pushed at a root come down to a connected registry over a long link?

The link is a relay on this machine with a round trip and a rate; a new connection costs a round trip. The child is
switched off its parent while the images are pushed at the root; time counts from its first request for content after it
was switched on until its store has every tag. Side by side is how many requests were under way on the mean, by their
round trips alone: more, where bodies take time.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from holdfast.testing.link import Link

from benchmarks.bench_climb import push
from benchmarks.case import HOLDFAST, Case, Effort, Figure, Verdict
from benchmarks.images import Held, administer, some, string, wait
from benchmarks.load import split
from benchmarks.peers import Holdfast

NAME = "bench/app"
ROUND_TRIP, MBIT_10 = 0.2, 10e6 / 8
SECONDS_BOUND, REQUESTS_BOUND, SHARE_BOUND = 6.0, 8.0, 0.9


def run(place: Path, effort: Effort) -> list[Case]:
    """All of it."""
    return [small(place / "small", effort), large(place / "large", effort)]


@contextmanager
def descending(place: Path, rate: float = 0.0) -> Iterator[tuple[Holdfast, Holdfast, Link]]:
    """A root, a connected registry below it that is synchronised, and the link between."""
    with Holdfast(place / "root", data=place / "root/data", workers=1, anonymous="push") as root:
        host, port, _ = split(root.url)
        with Link(host, port, round_trip=ROUND_TRIP, rate=rate) as way:
            properties = {"mode": "ReadOnly", "parent": {}, "repositories": ["bench/*"]}
            administer(root, "PUT", "connectedRegistries/plant", {"properties": properties})
            environ = {"ACR_REGISTRY_CONNECTION_STRING": string(root, "plant", f"127.0.0.1:{way.port}")}
            with Holdfast(place / "plant", data=place / "plant/data", workers=1, environ=environ) as child:
                wait(lambda: administer(child, "GET", "sync")["lastSyncTime"], "the child is synchronised")
                yield root, child, way


def took(root: Holdfast, child: Holdfast, way: Link, count: int, layers: int, size: int) -> tuple[float, int]:
    """Seconds until so many images are at the child, and requests for content."""
    parent = f"parents/{administer(child, 'GET', 'parents')['value'][0]['name']}"
    administer(child, "PATCH", parent, {"switch": "offline"})
    bodies = ([some(size, f"{number} {layer}") for layer in range(layers)] for number in range(count))
    wanted = {f"v{number}": push(root.url, f"v{number}", body) for number, body in enumerate(bodies)}
    held, before = Held(child), len(way.heads)
    try:
        administer(child, "PATCH", parent, {"switch": "auto"})
        wait(lambda: _begun(way, before), "the first request")
        began = time.perf_counter()
        wait(lambda: held.has(NAME, wanted), "all images at the child")
        seconds = time.perf_counter() - began
    finally:
        held.close()
    return seconds, _begun(way, before)


def _begun(way: Link, before: int) -> int:
    """Requests for content."""
    return sum(f"/v2/{NAME}/" in head.target for head in way.heads[before:])


def small(place: Path, effort: Effort) -> Case:
    """Images of five small layers over a round trip of 200 ms."""
    count = effort.pick(40, 10)
    with descending(place) as (root, child, way):
        seconds, asked = took(root, child, way, count, 5, 20_000)
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
    with descending(place, MBIT_10) as (root, child, way):
        seconds, _ = took(root, child, way, count, 1, size)
        sent = way.down
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
