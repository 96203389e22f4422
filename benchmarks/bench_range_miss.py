"""How much of the link does a range on a cold blob cost? 1 MB in the middle of 512 MB, from an empty store.

Bytes are counted at the parent as it hands them to its kernel, the moment the client has its last byte;
some of them are still in socket buffers. The parent sends at 1 Gbit/s, so that what is counted is what was
asked for and not what raced ahead during the count.
"""

from __future__ import annotations

import shutil
from pathlib import Path

from benchmarks.case import HOLDFAST, Case, Effort, Figure, Verdict
from benchmarks.content import MB
from benchmarks.link import GIGABIT, blob_requests, limited_parent
from benchmarks.load import LoadFailed, fetch
from benchmarks.peers import Holdfast

BOUND_BYTES = 3 * MB


def run(place: Path, effort: Effort) -> list[Case]:
    """Bytes from the parent before the range is answered, and how long it took."""
    size = 512 * MB
    middle = size // 2
    cost, times = [], []
    with limited_parent(GIGABIT, size) as (parent, targets):
        for _ in range(min(effort.rounds, 3)):
            before = blob_requests(parent)[1]
            with Holdfast(place / "node", data=place / "cache", parent=parent.url) as node:
                taken = fetch(node.url, targets[0], f"{middle}-{middle + MB - 1}")
                cost.append(float(blob_requests(parent)[1] - before))
            shutil.rmtree(place / "cache")
            if taken.size != MB:
                raise LoadFailed(f"a range of {MB} bytes was answered with {taken.size}")
            times.append(taken.seconds)
    verdict = Verdict("from the parent", max(cost), BOUND_BYTES, at_least=False, unit="bytes")
    waited = Figure(HOLDFAST, "s", tuple(times))
    return [Case("1 MB range in the middle of a cold 512 MB blob", (waited,), (verdict,))]


if __name__ == "__main__":
    from benchmarks.alone import main

    main(run)
