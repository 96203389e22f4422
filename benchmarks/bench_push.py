"""What does a push cost? Blobs to an empty root on a disk, beside docker-registry on the same disk.

Holdfast acknowledges a blob when it would survive a power cut (docs/format.md, "Write order"); docker-registry
syncs nothing before its 201. Before every turn the machine's dirty pages are written back, so that no server
pays for the turn before it. Clients send from the page cache with sendfile.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

from benchmarks.case import HOLDFAST, REGISTRY, Case, Effort, Figure, Verdict, against, alternate
from benchmarks.content import MB, Blob, generate
from benchmarks.machine import touch_memory
from benchmarks.peers import Holdfast, Registry, Server
from benchmarks.push import push_all, settle

TOUCHED_BYTES = 3 << 30
MANY, SAME = 100, 16


def run(place: Path, effort: Effort) -> list[Case]:
    """Many at once, one large one, and the same one from everybody."""
    (content := place / "content").mkdir()
    large = effort.pick(1000 * MB, 64 * MB)
    many = [generate(content, MB, f"push-{number}") for number in range(MANY)]
    rounds = min(effort.rounds, 3)
    return [
        compare(f"push {MANY} × 1 MB at once", many, 2.0, place, effort.rounds),
        compare(f"push 1 × {large // MB} MB", [generate(content, large, "push")], 1.2, place, rounds),
        same(generate(content, 16 * MB, "same"), place),
    ]


def compare(name: str, blobs: Sequence[Blob], bound: float, place: Path, rounds: int) -> Case:
    """Bytes a second until the last 201."""
    total = sum(blob.size for blob in blobs)
    figures = alternate(
        rounds,
        {
            HOLDFAST: lambda: total / into(root(place), blobs),
            REGISTRY: lambda: total / into(Registry(place / "node", data=place / "data"), blobs),
        },
        "bytes/s",
    )
    return Case(name, figures, (against(figures, (REGISTRY,), bound),))


def same(blob: Blob, place: Path) -> Case:
    """Everybody pushes the same blob at the same moment: how often it is on the disk afterwards."""
    touch_memory(place, TOUCHED_BYTES)
    server = root(place)
    server.data.mkdir()
    with server:
        took = push_all(server.url, [blob] * SAME)
        files = [
            path for path in server.data.rglob("*") if path.is_file() and path.stat().st_size == blob.size
        ]
    shutil.rmtree(server.data)
    verdict = Verdict("of its bytes on the disk", float(len(files)), 1.0, at_least=False)
    name = f"push the same {blob.size // MB} MB blob {SAME} times at once"
    return Case(name, (Figure(HOLDFAST, "s", (took,)),), (verdict,))


def root(place: Path) -> Holdfast:
    """A node without a parent that takes pushes, one worker a core."""
    return Holdfast(place / "node", data=place / "data", workers=-1, anonymous="push")


def into(server: Server, blobs: Sequence[Blob]) -> float:
    """Seconds to push the blobs into a server that starts with nothing and leaves nothing."""
    data: Path = server.data  # type: ignore[attr-defined]
    touch_memory(server.place.parent, TOUCHED_BYTES)
    settle()
    data.mkdir()
    try:
        with server:
            return push_all(server.url, blobs)
    finally:
        shutil.rmtree(data, ignore_errors=True)


if __name__ == "__main__":
    from benchmarks.alone import main

    main(run)
