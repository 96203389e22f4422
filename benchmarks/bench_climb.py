"""How fast does what was pushed to a connected registry go up to its root, over a long link and over none?

The link is a relay on this machine with a round trip and a rate; a new connection costs a round trip. It counts all
requests that cross it while the images go up, also those for tokens and of the gateway's conversation. Time counts from
the first push until the root's store has every tag.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import quote

from holdfast.testing.link import Link
from holdfast.testing.sample import OCI_CONFIG, OCI_LAYER, OCI_MANIFEST
from holdfast_core.digest import Digest

from benchmarks.case import HOLDFAST, Case, Effort, Figure, Verdict
from benchmarks.images import Held, administer, ask, manifest, some, string, wait
from benchmarks.load import split
from benchmarks.peers import Holdfast

NAME = "bench/app"
ROUND_TRIP, MBIT_10 = 0.2, 10e6 / 8
SECONDS_BOUND, REQUESTS_BOUND, SHARE_BOUND, RATE_BOUND = 15.0, 12.0, 0.9, 50.0


def run(place: Path, effort: Effort) -> list[Case]:
    """All of it."""
    return [small(place / "small", effort), large(place / "large", effort), near(place / "near", effort)]


@contextmanager
def climbing(
    place: Path, round_trip: float = 0.0, rate: float = 0.0
) -> Iterator[tuple[Held, Holdfast, Link]]:
    """A root's store, a ReadWrite connected registry below it that is synchronised, and the link between."""
    root = Holdfast(place / "root", data=place / "root/data", workers=1)
    with root:
        host, port, _ = split(root.url)
        with Link(host, port, round_trip=round_trip, rate=rate) as way:
            properties = {"mode": "ReadWrite", "parent": {}, "repositories": ["bench/*"]}
            administer(root, "PUT", "connectedRegistries/plant", {"properties": properties})
            environ = {"ACR_REGISTRY_CONNECTION_STRING": string(root, "plant", f"127.0.0.1:{way.port}")}
            child = Holdfast(
                place / "plant", data=place / "plant/data", workers=1, environ=environ, anonymous="push"
            )
            with child:
                wait(lambda: administer(child, "GET", "sync")["lastSyncTime"], "the child is synchronised")
                held = Held(root)
                try:
                    yield held, child, way
                finally:
                    held.close()


def push(url: str, tag: str, layers: list[bytes]) -> str:
    """An image over the API; its digest."""
    rows = []
    for body in (json.dumps({"tag": tag}).encode(), *layers):
        digest = str(Digest.of(body))
        ask(url, "POST", f"/v2/{NAME}/blobs/uploads/?digest={quote(digest)}", 201, body)
        rows.append({"mediaType": OCI_LAYER, "digest": digest, "size": len(body)})
    body = manifest({**rows[0], "mediaType": OCI_CONFIG}, rows[1:])
    return str(
        ask(url, "PUT", f"/v2/{NAME}/manifests/{tag}", 201, body, OCI_MANIFEST)["Docker-Content-Digest"]
    )


def pushed(child: Holdfast, count: int, layers: int, size: int) -> dict[str, str]:
    """So many images at the child."""
    bodies = ([some(size, f"{number} {layer}") for layer in range(layers)] for number in range(count))
    return {f"v{number}": push(child.url, f"v{number}", body) for number, body in enumerate(bodies)}


def took(held: Held, child: Holdfast, count: int, layers: int, size: int) -> float:
    """Seconds from the first push of so many images until the root has all."""
    began = time.perf_counter()
    wanted = pushed(child, count, layers, size)
    wait(lambda: held.has(NAME, wanted), "all images at the root")
    return time.perf_counter() - began


def small(place: Path, effort: Effort) -> Case:
    """Images of five small layers over a round trip of 200 ms."""
    count = effort.pick(40, 10)
    with climbing(place, round_trip=ROUND_TRIP) as (held, child, way):
        before = len(way.heads)
        seconds = took(held, child, count, 5, 20_000)
        asked = len(way.heads) - before
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
    with climbing(place, round_trip=ROUND_TRIP, rate=MBIT_10) as (held, child, way):
        seconds = took(held, child, count, 1, size)
        sent = way.up
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
    with climbing(place) as (held, child, _):
        parent = f"parents/{administer(child, 'GET', 'parents')['value'][0]['name']}"
        administer(child, "PATCH", parent, {"switch": "offline"})
        wanted = pushed(child, count, 1, 2_000)
        began = time.perf_counter()
        administer(child, "PATCH", parent, {"switch": "auto"})
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
