"""What does a node write to its disk in a day? Flash wears out by it.

Bytes are `write_bytes` of proc(5), summed over all processes of a node: pages that it made dirty for the disk, without
the file system's own journal, and with a log of warnings alone. A day is scaled: what a running node wrote while it was
measured, and 24 times what it wrote when it was ended. Then it writes what it keeps in memory for up to an hour
(docs/design.md, "Unchanged records are not written"), and no less than that.

A page that the kernel wrote out and that is used again counts again: LMDB's table of readers is such a page. So others
that sync the same file system raise the figures. TMPDIR on a file system of its own keeps them out.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from holdfast.testing.sample import OCI_INDEX
from holdfast_core.digest import Digest
from holdfast_core.store import Store

from benchmarks.case import HOLDFAST, Case, Effort, Figure
from benchmarks.content import KB
from benchmarks.images import Images, administer, some, string, wait
from benchmarks.load import fetch, split
from benchmarks.machine import group, written
from benchmarks.peers import Holdfast

NAME = "bench/app"
DAY_SECONDS, DAY_HOURS, DAY_LOOKS = 86_400, 24, 24 * 60
#: What came last is marked as on disk, and the position in the parent's log is written, after 5 s.
SETTLE_SECONDS = 15.0
#: Seldom: a question reads the store as well.
LOOK_SECONDS = 1.0
DIGESTS, HITS_A_SECOND = 100, 10
POLLING = """
log_level = "warning"
[[parent]]
url = "{url}"
insecure = true
default = true

[sync]
schedule = "* * * * *"
[[sync.repositories]]
name = "{name}"
"""


def run(place: Path, effort: Effort) -> list[Case]:
    """All of it."""
    return [*idle(place / "idle", effort), polling(place / "polling", effort), hit(place / "hit", effort)]


@dataclass(frozen=True, slots=True)
class Bytes:
    """What a node has written since it was started, and the sizes of its journal and index."""

    written: int
    journal: int = 0
    index: int = 0

    @classmethod
    def of(cls, node: Holdfast) -> Self:
        """Now."""
        sizes = (_size(node.data / "journal"), _size(node.data / "index"))
        return cls(sum(written(pid) for pid in group(node.process.pid)), *sizes)

    def __sub__(self, before: Bytes) -> Bytes:
        return Bytes(self.written - before.written, self.journal - before.journal, self.index - before.index)


def _size(place: Path) -> int:
    return sum(file.stat().st_size for file in place.iterdir())


def settle(effort: Effort, *nodes: Holdfast) -> None:
    """Until what comes once, after a start, is over: the first sweep is a minute later."""
    if not effort.quick:
        wait(
            lambda: all((node.data / "sweep").exists() for node in nodes),
            "the first sweep",
            pause=LOOK_SECONDS,
        )
    time.sleep(SETTLE_SECONDS)


def end(node: Holdfast) -> int:
    """End a node in good order; the bytes that took. A process that has ended is still there to be read until it is
    waited for, and has those of its children by then."""
    before, pid = Bytes.of(node).written, node.process.pid
    node.process.terminate()
    ended = os.WEXITED | os.WNOHANG | os.WNOWAIT
    wait(lambda: os.waitid(os.P_PID, pid, ended), "the node has ended")
    return written(pid) - before


def day(what: str, ran: Bytes, times: float, scaled: str, ending: int) -> Case:
    """The row of a node: `times` what it wrote while it ran make a day."""
    total = ran.written * times + ending * DAY_HOURS
    return Case(
        what,
        (Figure(HOLDFAST, "bytes", (total,)),),
        notes=(
            f"{ran.written:,} bytes written in {scaled} (× {times:,.0f}), {ending:,} at the end (× {DAY_HOURS});"
            f" the journal grew by {ran.journal:,}, the index by {ran.index:,}.",
        ),
    )


@contextmanager
def connected(place: Path) -> Iterator[tuple[Holdfast, Holdfast]]:
    """A root and a ReadWrite connected registry below it, synchronised."""
    with Holdfast(place / "root", data=place / "root/data", workers=2) as root:
        host, port, _ = split(root.url)
        properties = {"mode": "ReadWrite", "parent": {}, "repositories": ["bench/*"]}
        administer(root, "PUT", "connectedRegistries/plant", {"properties": properties})
        environ = {"ACR_REGISTRY_CONNECTION_STRING": string(root, "plant", f"{host}:{port}")}
        with Holdfast(place / "plant", data=place / "plant/data", workers=2, environ=environ) as child:
            wait(lambda: administer(child, "GET", "sync")["lastSyncTime"], "the child is synchronised")
            yield root, child


def idle(place: Path, effort: Effort) -> list[Case]:
    """A connected registry that nobody asks, and its root."""
    seconds = effort.pick(120, 10)  # whole minutes: a child says every minute how it is
    with connected(place) as (root, child):
        settle(effort, root, child)
        before = Bytes.of(root), Bytes.of(child)
        time.sleep(seconds)
        above, below = Bytes.of(root) - before[0], Bytes.of(child) - before[1]
        ends = end(child), end(root)
    times, scaled = DAY_SECONDS / seconds, f"{seconds} s"
    return [
        day("idle ReadWrite connected registry, bytes written a day", below, times, scaled, ends[0]),
        day("idle root of it, bytes written a day", above, times, scaled, ends[1]),
    ]


def polling(place: Path, effort: Effort) -> Case:
    """A node that looks at its parent's tags every minute and finds them as they were."""
    count, looks = effort.pick(20_000, 500), effort.pick(2, 1)
    fill(place / "root/data", count)
    with Holdfast(place / "root", data=place / "root/data", workers=1) as root:
        toml = POLLING.format(url=root.url, name=NAME)
        with Holdfast(place / "node", data=place / "node/data", workers=1, configuration=toml) as node:
            wait(lambda: looked_at(node), "the first look", pause=LOOK_SECONDS)
            look(node)  # the first finds everything new; what it began ends before the second does
            before = Bytes.of(node)
            for _ in range(looks):
                look(node)
            ran = Bytes.of(node) - before
            ending = end(node)
    what = f"{count:,} unchanged tags looked at every minute, bytes written a day"
    return day(what, ran, DAY_LOOKS / looks, f"{looks} looks", ending)


def fill(place: Path, count: int) -> None:
    """A root's store with so many tags of one empty index."""
    body = b'{"schemaVersion":2,"mediaType":"%s","manifests":[]}' % OCI_INDEX.encode()
    digest, store = Digest.of(body), Store.create_or_open(place, write=True)
    store.references.put_manifest(NAME, digest, OCI_INDEX, body, owned=True, now=0.0).result()
    for done in [store.references.put_tag(NAME, f"v{number}", digest, now=0.0) for number in range(count)]:
        done.result()
    store.close()


def looked_at(node: Holdfast) -> str:
    """When the last look ended that was complete, "" before."""
    return str(administer(node, "GET", "sync")["lastSyncTime"] or "")


def look(node: Holdfast) -> None:
    """Until the next one is complete."""
    last = looked_at(node)
    wait(lambda: looked_at(node) > last, "the next look", pause=LOOK_SECONDS)


def hit(place: Path, effort: Effort) -> Case:
    """A node that is asked for the same blobs again and again, ten times as fast as it is scaled: what it notes of a
    blob in an hour is one time, however often the blob was read."""
    seconds = effort.pick(60, 10)
    images = Images(place / "data")
    blobs = [images.blob(NAME, some(10 * KB, f"layer {number}"))["digest"] for number in range(DIGESTS)]
    images.close()
    with Holdfast(place / "node", data=place / "data", workers=2) as node:
        fetch(node.url, f"/v2/{NAME}/blobs/{blobs[0]}")
        settle(effort, node)
        before, began = Bytes.of(node), time.monotonic()
        for number in range(seconds * HITS_A_SECOND):
            fetch(node.url, f"/v2/{NAME}/blobs/{blobs[number % DIGESTS]}")
            time.sleep(max(0.0, began + number / HITS_A_SECOND - time.monotonic()))
        ran = Bytes.of(node) - before
        ending = end(node)
    what = f"1 hit/s over {DIGESTS} digests, bytes written a day"
    return day(what, ran, DAY_SECONDS / seconds, f"{seconds} s at {HITS_A_SECOND} hits/s", ending)


if __name__ == "__main__":
    from benchmarks.alone import main

    main(run)
