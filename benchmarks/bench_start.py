"""How long from the command to the first answer, with 100,000 blobs held?

Half of them are inline values, half are files. The first answer is a whole blob; until then the client
tries again at once. The store was closed cleanly; the operating system has its pages.
"""

from __future__ import annotations

import time
from concurrent.futures import Future
from pathlib import Path

from benchmarks.case import HOLDFAST, Case, Effort, Figure, Verdict
from benchmarks.content import NAME
from benchmarks.load import fetch
from benchmarks.peers import Holdfast

INLINE_BYTES, FILE_BYTES = 2000, 20_000
BOUND_SECONDS = 1.0
BATCH = 2000


def run(place: Path, effort: Effort) -> list[Case]:
    """Start, ask for one blob, stop; some times over."""
    blobs = effort.pick(100_000, 5000)
    target = f"/v2/{NAME}/blobs/{fill(place / 'store', blobs)}"
    times = []
    for _ in range(effort.rounds):
        started = time.perf_counter()
        with Holdfast(place / "node", data=place / "store", at_once=True) as node:
            fetch(node.url, target)
            times.append(time.perf_counter() - started)
    figure = Figure(HOLDFAST, "s", tuple(times))
    verdict = Verdict("to the first answer", figure.median, BOUND_SECONDS, at_least=False, unit="s")
    return [Case(f"start with {blobs:,} blobs held", (figure,), (verdict,))]


def fill(root: Path, count: int) -> str:
    """Make a store of so many blobs; the digest of one that is a file."""
    from holdfast_core.digest import Digest
    from holdfast_core.store import Store

    store, digest = Store.create_or_open(root, write=True), ""
    for start in range(0, count, BATCH):
        waiting: list[Future[None]] = []
        for number in range(start, start + BATCH, 2):
            small = b"%d " % number * (INLINE_BYTES // 8)
            waiting.append(store.blobs.put_inline(NAME, Digest.of(small), small, owned=False, now=0.0))
            digest, done = put_file(store, b"%07d " % (number + 1) * (FILE_BYTES // 8))
            waiting.append(done)
        for future in waiting:
            future.result()
    store.close()
    return digest


def put_file(store: object, body: bytes) -> tuple[str, Future[None]]:
    """One blob as a file, cached, not synced."""
    from holdfast_core.digest import ChunkHasher
    from holdfast_core.store import Store

    assert isinstance(store, Store)
    hasher = ChunkHasher()
    hasher.update(body)
    digest = hasher.digest()
    part = store.blobs.fills.open_part(NAME, digest, len(body))
    part.write(0, body)
    done = store.blobs.fills.commit(part, NAME, digest, hasher.table(), owned=False, now=0.0)
    done.add_done_callback(lambda _: part.close())
    return str(digest), done


if __name__ == "__main__":
    from benchmarks.alone import main

    main(run)
