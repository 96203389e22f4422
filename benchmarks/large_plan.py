"""A plan over 100,000 tags in 100 repositories of which nothing is here, in a process of its own: images, processor
seconds, and the most memory (MB) that the process held, its input included.

    python -m benchmarks.large_plan
"""

from __future__ import annotations

import hashlib
import re
import time
from pathlib import Path

from holdfast.config import SyncRepositorySection
from holdfast.oci.image import Facts, ImageBlob
from holdfast.sync.plan import SyncTarget, plan
from holdfast.sync.source.selection import Rule

REPOSITORIES, TAGS = 100, 1000


class Nothing:
    """A node that holds nothing, and a parent all of whose manifests were read."""

    def __init__(self) -> None:
        self.known: dict[str, Facts] = {}

    def has(self, digest: str) -> bool:
        return False

    def linked(self, repository: str, digest: str) -> bool:
        return False

    def part(self, digest: str) -> int:
        return 0

    def tag(self, repository: str, name: str) -> str:
        return ""

    def facts(self, repository: str, digest: str) -> Facts | None:
        return self.known.get(digest)

    def referrers(self, repository: str, digest: str) -> tuple[()]:
        return ()


def digest(*words: object) -> str:
    """One of its own for the words."""
    return f"sha256:{hashlib.sha256(repr(words).encode()).hexdigest()}"


def wanted(node: Nothing) -> list[tuple[Rule, list[SyncTarget]]]:
    """Images of a config, two layers of their own, one of them shared by two tags, and three base layers."""
    base = [ImageBlob(digest("base", number), 50_000_000) for number in range(300)]
    found = []
    for r in range(REPOSITORIES):
        name, targets = f"team{r}/app", []
        for t in range(TAGS):
            layers = (ImageBlob(digest("l", r, t // 2), 1_000_000), ImageBlob(digest("k", r, t), 20_000))
            own = (ImageBlob(digest("c", r, t), 3000), *layers)
            node.known[digest(r, t)] = Facts(1500, (*own, *base[r * 2 : r * 2 + 3]))
            targets.append(SyncTarget(name, f"v{t}", digest(r, t)))
        found.append((Rule(SyncRepositorySection(name=name)), targets))
    return found


def main() -> None:
    """Plan, and print. VmHWM begins anew with a program; ru_maxrss is handed down to it."""
    node = Nothing()
    targets = wanted(node)
    began = time.process_time()
    found = plan(targets, node, node)
    took = time.process_time() - began
    high = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert high
    print(len(found.images), took, int(high[1]) / 1000)


if __name__ == "__main__":
    main()
