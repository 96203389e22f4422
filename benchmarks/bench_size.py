"""What does a large index cost: a million blobs, 100,000 tags, 10,000 repositories?

Each image has nine layers and a config of its own, all of them values in the index, so that the figures are those of
the index and not of a million files. Opening, looking up, evicting and collecting are timed in one process on the
store itself; what a node adds is in `start` and `hits`. Of an eviction two times are told: how long the writer plans
and puts it, which is processor and holds other threads of the process as well, and all of it with the syncs of journal
and index, in which other threads run. A collection is that of the keeper, beside a loop that wants a turn every 2 ms.
"""

from __future__ import annotations

import asyncio
import json
import random
import resource
import time
from collections.abc import Callable
from concurrent.futures import Future
from math import inf
from pathlib import Path
from typing import Any

from benchmarks.case import HOLDFAST, Case, Effort, Figure, Verdict

LAYERS, TAGS = 10, 10
MEDIA = "application/vnd.oci.image.manifest.v1+json"
WAITING = 2000
#: the loop beside a collection wants a turn so often
TURN_SECONDS = 0.002
LOOKUPS, EVICTIONS = 100_000, 1000
OPEN_SECONDS, LOOKUP_MICROSECONDS, EVICTION_MILLISECONDS = 1.0, 50.0, 5.0


def run(place: Path, effort: Effort) -> list[Case]:
    """Make the store once; each figure is of the same one."""
    from holdfast_core.store import Store

    repositories, root = effort.pick(10_000, 200), place / "store"
    size = (
        f"{repositories * TAGS * LAYERS:,} blobs, {repositories * TAGS:,} tags, {repositories:,} repositories"
    )
    fill(root, repositories)
    opening = []
    for _ in range(effort.rounds):
        started = time.perf_counter()
        store = Store.create_or_open(root, write=True)
        opening.append(time.perf_counter() - started)
        store.close()
    store = Store.create_or_open(root, write=True)
    opened = Case(
        f"open: {size}",
        (Figure(HOLDFAST, "s", tuple(opening)),),
        (Verdict("to open the store", max(opening), OPEN_SECONDS, at_least=False, unit="s"),),
    )
    try:
        return [opened, *_in_use(store, repositories, size)]
    finally:
        store.close()


def _in_use(store: object, repositories: int, size: str) -> list[Case]:
    """Of the open store: lookups, evictions, and a collection of the rest."""
    lookups = lookup(store, repositories)
    held = holds(store)
    evictions = evict(store, repositories)
    evicting = share_of(held, 0.99)
    held.clear()
    drop_tags(store, repositories)
    held.clear()
    collected = asyncio.run(collect(store))
    collecting = share_of(held, 0.99), max(held) * 1e3
    return [
        Case(
            f"look up a manifest: {size}",
            (Figure(HOLDFAST, "µs (median)", (lookups[0],)),),
            (Verdict("99 % of lookups", lookups[1], LOOKUP_MICROSECONDS, at_least=False, unit="µs"),),
        ),
        Case(
            f"evict an image: {size}",
            (Figure(HOLDFAST, "ms (median)", (evictions[0],)),),
            (
                Verdict(
                    "99 % of evictions, in the writer",
                    evicting,
                    EVICTION_MILLISECONDS,
                    at_least=False,
                    unit="ms",
                ),
            ),
            notes=(f"99 % with the syncs within {evictions[1]:.1f} ms",),
        ),
        Case(
            f"collect all of it: {size}",
            (Figure(HOLDFAST, "s", (collected[0],)),),
            notes=(
                f"{collected[1]:,.0f} digests, {collected[2]:.0f} MiB written, peak {collected[3]:.0f} MiB",
                f"a transaction in the writer: 99 % within {collecting[0]:.1f} ms, most {collecting[1]:.1f} ms",
                f"a turn of the loop came late by {collected[4]:.1f} ms (99 %), {collected[5]:.1f} ms (most)",
            ),
        ),
    ]


def repository(number: int) -> str:
    """The name of a repository."""
    return f"plant/{number:05d}"


def layer(number: int, tag: int, place: int) -> bytes:
    """The bytes of a layer."""
    return b"%d %d %d" % (number, tag, place)


def manifest(number: int, tag: int) -> bytes:
    """The manifest of an image."""
    from holdfast_core.digest import Digest

    bodies = (layer(number, tag, place) for place in range(LAYERS))
    rows = [{"mediaType": "layer", "digest": str(Digest.of(body)), "size": len(body)} for body in bodies]
    return json.dumps({"schemaVersion": 2, "layers": rows}).encode()


def fill(root: Path, repositories: int) -> None:
    """Make the store, as misses would."""
    from holdfast_core.digest import Digest
    from holdfast_core.store import Store

    store = Store.create_or_open(root, write=True)
    waiting: list[Future[None]] = []
    for number in range(repositories):
        name = repository(number)
        for tag in range(TAGS):
            for place in range(LAYERS):
                body = layer(number, tag, place)
                waiting.append(store.blobs.put_inline(name, Digest.of(body), body, owned=False, now=1.0))
            body = manifest(number, tag)
            future = store.references.put_manifest(
                name, Digest.of(body), MEDIA, body, owned=False, now=1.0, tag=f"v{tag}"
            )
            waiting.append(future)
        if len(waiting) >= WAITING:
            for future in waiting:
                future.result()
            waiting.clear()
    store.close()


def timed(count: int, step: Callable[[int], object]) -> tuple[float, float]:
    """(median, 99th percentile) of a step's seconds."""
    times = []
    for number in range(count):
        started = time.perf_counter()
        step(number)
        times.append(time.perf_counter() - started)
    times.sort()
    return times[count // 2], times[count * 99 // 100]


def lookup(store: object, repositories: int) -> tuple[float, float]:
    """(median, 99 %) µs of a tag and its manifest, at random."""
    from holdfast_core.store import Store

    assert isinstance(store, Store)
    references, chance = store.references, random.Random(1)
    places = [
        (repository(chance.randrange(repositories)), f"v{chance.randrange(TAGS)}") for _ in range(LOOKUPS)
    ]

    def step(number: int) -> None:
        name, tag = places[number]
        found = references.tag(name, tag)
        assert found is not None
        assert references.manifest(name, found.digest) is not None

    median, most = timed(LOOKUPS, step)
    return median * 1e6, most * 1e6


def evict(store: object, repositories: int) -> tuple[float, float]:
    """(median, 99 %) ms of an eviction."""
    from holdfast_core.digest import Digest
    from holdfast_core.store import Store

    assert isinstance(store, Store)
    space = store.space

    def step(number: int) -> None:
        turn, at = divmod(number, repositories)
        digest = Digest.of(manifest(at, turn))
        assert space.evict(repository(at), digest, now=2.0).result().digests == LAYERS + 1

    median, most = timed(min(EVICTIONS, repositories * TAGS // 2), step)
    return median * 1e3, most * 1e3


def holds(store: object) -> list[float]:
    """The list to which each transaction adds the seconds in which the writer plans and puts it."""
    from holdfast_core.store import Store

    assert isinstance(store, Store)
    writer, times = store._access.writer(), list[float]()
    apply = writer._apply

    def timed_apply(*arguments: Any) -> Any:
        started = time.perf_counter()
        try:
            return apply(*arguments)
        finally:
            times.append(time.perf_counter() - started)

    writer._apply = timed_apply  # type: ignore[assignment,method-assign]
    return times


def share_of(times: list[float], share: float) -> float:
    """The ms within which that share of them is."""
    return sorted(times)[int(len(times) * share)] * 1e3


def drop_tags(store: object, repositories: int) -> None:
    """Every tag goes, so that nothing has a name but by its manifest."""
    from holdfast_core.store import Store

    assert isinstance(store, Store)
    waiting = []
    for number in range(repositories):
        name = repository(number)
        waiting += [store.references.drop_tag(name, tag, now=3.0) for tag in store.references.tags(name)]
    for future in waiting:
        future.result()


async def collect(store: object) -> tuple[float, int, float, float, float, float]:
    """(seconds, digests, MiB written, peak MiB of memory, ms by which a turn of the loop came late: 99 %, most) to
    collect what is left once every tag is gone."""
    from holdfast.clock import SystemClock
    from holdfast.config import CollectionSection
    from holdfast.storage.collection_rounds import Collection
    from holdfast_core.store import Store

    assert isinstance(store, Store)
    rule = CollectionSection(lease="PT1S", untagged_after="PT1S", cached_after="PT1S")
    late, gone = list[float](), 0

    async def turns() -> None:
        while True:
            wanted = time.perf_counter() + TURN_SECONDS
            await asyncio.sleep(TURN_SECONDS)
            late.append(time.perf_counter() - wanted)

    ticking = asyncio.create_task(turns())
    started, before = time.perf_counter(), bytes_written()
    while True:  # manifests first, then what they named
        one = Collection(store, rule, lambda _: inf, SystemClock(), "Ordered", is_dry=False)
        await one.run()
        report = one.report()
        assert not report.failure, report.failure
        gone += report.digests
        if not report.digests:
            break
        await asyncio.sleep(1.0)  # the lease of what was just set loose
    seconds = time.perf_counter() - started
    ticking.cancel()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    written = (bytes_written() - before) / 2**20
    return seconds, gone, written, peak, share_of(late, 0.99), max(late) * 1e3


def bytes_written() -> int:
    """Bytes that this process gave to writes. The kernel's count of what it wrote (`write_bytes`) goes by large folios,
    and is 10 times that here."""
    lines = Path("/proc/self/io").read_text().splitlines()
    return int(next(line.split()[1] for line in lines if line.startswith("wchar")))


if __name__ == "__main__":
    from benchmarks.alone import main

    main(run)
