"""Up to which size should bytes live in the index, and from which in a file of their own?

    PYTHONPATH=core:proxy:tests python benchmarks/bench_threshold.py [DIRECTORY]

For each size the same values are stored inline and as files, and this is measured:
  hit    µs to answer one from memory: lookup, open, read all, close (checked before); best of 5 rounds
  write  ms a value to commit, cached, 64 under way at once (group commit); for owned content, 8 at once
  disk   bytes on disk for each byte stored: index and journal, or index, journal and files
  old    the same after every value was dropped and stored again once: what fragmentation leaves

How to read it: inline is worth it while a hit is clearly cheaper and the disk column does not run away. A
file costs an open and a close a hit and a sync of its own a write; inline costs a second copy in the
journal, a checksum over all of it at every hit, and whole pages. Prints a table and one JSON line.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import tempfile
import time
from collections import deque
from concurrent.futures import Future
from pathlib import Path
from typing import Any

from holdfast_core import Digest, Store
from support.stores import hashed, some_bytes

SIZES = [1 << n for n in range(10, 19)]
COUNT = 128
CACHED_AT_ONCE, OWNED_AT_ONCE = 64, 8


def write_all(store: Store, bodies: list[bytes], *, owned: bool, at_once: int) -> float:
    """Seconds a value."""
    waiting: deque[Future[None]] = deque()
    begin = time.perf_counter()
    for body in bodies:
        digest, table = hashed(body)
        part = store.blobs.fills.open_part("r", digest, len(body))
        part.write(0, body)
        waiting.append(store.blobs.fills.commit(part, "r", digest, table, owned=owned, now=1.0))
        part.close()
        if len(waiting) >= at_once:
            waiting.popleft().result()
    for future in waiting:
        future.result()
    return (time.perf_counter() - begin) / len(bodies)


def hit(store: Store, digest: Digest) -> int:
    """One answer, as a worker makes it; its length."""
    blob = store.blobs.get("r", digest)
    assert blob is not None
    if blob.inline is not None:
        return len(blob.inline)
    with store.blobs.open(blob) as reader:
        data = reader.read_nowait(0, blob.size)
    assert data is not None
    return len(data)


def hit_seconds(store: Store, digests: list[Digest]) -> float:
    """Seconds a hit, everything checked and in memory."""
    for digest in digests:
        blob = store.blobs.get("r", digest)
        assert blob is not None
        with store.blobs.open(blob) as reader:
            reader.read(0, blob.size)
    rounds = []
    for _ in range(5):
        begin = time.perf_counter()
        for digest in digests:
            hit(store, digest)
        rounds.append((time.perf_counter() - begin) / len(digests))
    return min(rounds)


def disk_bytes(path: Path) -> int:
    """Blocks in use, in bytes, without the empty directories every store has."""
    return sum(f.stat().st_blocks * 512 for f in path.rglob("*") if f.is_file())


def measure(place: Path, size: int, *, inline: bool) -> dict[str, float]:
    """One row."""
    path = place / f"{size}-{inline}"
    bodies = [some_bytes(size, seed) for seed in range(COUNT)]
    digests = [Digest.of(body) for body in bodies]
    store = Store.create_or_open(path, write=True, inline_bytes=size if inline else -1)
    empty = disk_bytes(path)
    try:
        cached = write_all(store, bodies, owned=False, at_once=CACHED_AT_ONCE)
        store.upkeep.sync_cached().result()
        hit_time = hit_seconds(store, digests)
        disk = (disk_bytes(path) - empty) / (size * COUNT)
        for digest in digests:
            store.blobs.discard(digest).result()
        for file in (path / "quarantine").iterdir():
            file.unlink()
        owned = write_all(store, bodies, owned=True, at_once=OWNED_AT_ONCE)
    finally:
        store.close()
    old = (disk_bytes(path) - empty) / (size * COUNT)
    shutil.rmtree(path)
    return {
        "hit_us": hit_time * 1e6,
        "cached_ms": cached * 1e3,
        "owned_ms": owned * 1e3,
        "disk": disk,
        "old": old,
    }


def main() -> None:
    """Measure, alternating, and print."""
    results: list[dict[str, Any]] = []
    print(f"{'size':>8}  {'hit µs':^15} {'cached ms':^15} {'owned ms':^15} {'disk':^13} {'old':^13}")
    print(f"{'':>8}  " + " ".join(["inline    file "] * 3) + " inline  file  inline  file")
    with tempfile.TemporaryDirectory(dir=sys.argv[1] if len(sys.argv) > 1 else None) as place:
        for size in SIZES:
            a, b = (measure(Path(place), size, inline=inline) for inline in (True, False))
            results.append({"size": size, "inline": a, "file": b})
            pairs = [f"{a[k]:7.2f} {b[k]:7.2f}" for k in ("hit_us", "cached_ms", "owned_ms")]
            pairs += [f"{a[k]:6.2f} {b[k]:6.2f}" for k in ("disk", "old")]
            print(f"{size:8}  " + " ".join(pairs), flush=True)
    print(json.dumps({"benchmark": "threshold", "count": COUNT, "cores": os.cpu_count(), "rows": results}))


if __name__ == "__main__":
    main()
