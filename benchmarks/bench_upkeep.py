"""Does a hit wait for upkeep? Two nodes with the same hits and the same misses beside them: one evicts an image for
each that comes, collects garbage without a pause and verifies its blob files; the other has room for everything and
does none of it.

The misses are images that a node has not seen before. The figure is the 99th percentile of the latency of a manifest
over 32 connections, in turns.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from itertools import count
from pathlib import Path

from benchmarks.case import Case, Effort, Verdict, alternate, ratio
from benchmarks.content import MB
from benchmarks.images import Images, administer, some
from benchmarks.load import fetch, wrk
from benchmarks.peers import Holdfast

QUIET, BUSY = "without upkeep", "with upkeep"
NAME, CONNECTIONS, BOUND = "bench/app", 32, 1.2
#: misses a second beside the hits; what the node that evicts may hold
MISSES, BUDGET_BYTES = 8, 48 * MB
EVICTING = f"""
log_level = "warning"
[store]
max_bytes = {BUDGET_BYTES}
[garbage_collection]
lease = "PT1S"
untagged_after = "PT1S"
cached_after = "PT1S"
[scrub]
period = 10.0
"""
ROOMY = """
log_level = "warning"
[store]
min_free = "0"
[garbage_collection]
enabled = false
[scrub]
period = 0.0
"""


def run(place: Path, effort: Effort) -> list[Case]:
    """One row."""
    turns = 2 * effort.rounds + 2
    total = int(turns * MISSES * (effort.seconds + 2))
    layers = fill(place / "parent", total)
    with ExitStack() as stack:
        root = stack.enter_context(Holdfast(place / "r", data=place / "parent"))
        nodes = {
            name: stack.enter_context(
                Holdfast(place / run, data=place / run / "data", parent=root.url, configuration=text)
            )
            for name, run, text in ((QUIET, "quiet", ROOMY), (BUSY, "busy", EVICTING))
        }
        misses = {name: iter(layers) for name in nodes}

        def one(name: str) -> float:
            node = nodes[name]
            with (
                beside(lambda: miss(node, misses[name]), 1 / MISSES),
                beside(partial(collect, node), 0.5, name == BUSY),
            ):
                return wrk(f"{node.url}/v2/{NAME}/manifests/hot", CONNECTIONS, effort.seconds).p99

        for name, node in nodes.items():
            fetch(node.url, f"/v2/{NAME}/manifests/hot")
            one(name)
        figures = alternate(effort.rounds, {name: partial(one, name) for name in nodes}, "ms (99 %)")
        evicted = total * MB > BUDGET_BYTES
    verdict = Verdict(f"of {QUIET}", ratio(figures[1], figures[0]), BOUND, at_least=False)
    notes = () if evicted else ("too few misses: nothing was evicted",)
    return [Case("hit beside eviction, collection and scrub", figures, (verdict,), notes)]


def fill(root: Path, images: int) -> list[tuple[str, str]]:
    """A parent with an image for the hits, and one of 1 MB for each miss; (tag, digest of the layer) of these."""
    store, made = Images(root), []
    store.image(NAME, "hot", [store.blob(NAME, some(1000, "hot"))])
    for number in range(images):
        layer = store.blob(NAME, some(MB, f"layer {number}"))
        store.image(NAME, f"v{number}", [layer])
        made.append((f"v{number}", layer["digest"]))
    store.close()
    return made


def miss(node: Holdfast, images: Iterator[tuple[str, str]]) -> None:
    """Pull the next image."""
    tag, layer = next(images)
    fetch(node.url, f"/v2/{NAME}/manifests/{tag}")
    fetch(node.url, f"/v2/{NAME}/blobs/{layer}")


def collect(node: Holdfast) -> None:
    """Collect what nothing names."""
    administer(node, "POST", "collection/run")


@contextmanager
def beside(step: Callable[[], object], seconds: float, wanted: bool = True) -> Iterator[None]:
    """Take a step every so many seconds meanwhile. Raises what a step raised."""
    over, failures = threading.Event(), list[BaseException]()

    def steps() -> None:
        started = time.monotonic()
        for number in count():
            if over.wait(max(0.0, started + number * seconds - time.monotonic())):
                return
            try:
                step()
            except BaseException as failure:  # noqa: BLE001
                failures.append(failure)
                return

    thread = threading.Thread(target=steps)
    if wanted:
        thread.start()
    try:
        yield
    finally:
        over.set()
        if wanted:
            thread.join()
    if failures:
        raise failures[0]


if __name__ == "__main__":
    from benchmarks.alone import main

    main(run)
