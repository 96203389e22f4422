"""What does a node that does nothing hold in memory? Supervisor, keeper and two workers, after a few requests.

RSS counts a shared page in every process; PSS shares it out, and is what the machine would get back.
"""

from __future__ import annotations

import time
from pathlib import Path

from benchmarks.case import HOLDFAST, Case, Effort, Figure, Verdict
from benchmarks.content import KB, build, put_store
from benchmarks.load import fetch
from benchmarks.machine import group, resident
from benchmarks.peers import Holdfast

BOUND_BYTES = 150e6
SETTLE_SECONDS = 3.0
REQUESTS = 40


def run(place: Path, effort: Effort) -> list[Case]:
    """The whole group, summed and shared out."""
    content = build(place / "content", [10 * KB])
    put_store(content, place / "store")
    with Holdfast(place / "node", data=place / "store", workers=2) as node:
        for _ in range(REQUESTS):
            fetch(node.url, content.manifest_target)
        time.sleep(SETTLE_SECONDS)
        members = group(node.process.pid)
        rss, pss = resident(members)
    figure = Figure(HOLDFAST, "bytes", (float(rss),))
    note = f"{len(members)} processes; PSS {pss / 1e6:.0f} MB."
    verdict = Verdict("RSS, summed", float(rss), BOUND_BYTES, at_least=False, unit="bytes")
    return [Case("idle, 2 workers", (figure,), (verdict,), (note,))]


if __name__ == "__main__":
    from benchmarks.alone import main

    main(run)
