"""What does a flood cost those who are no part of it, and what of it stays in memory?

A node of one worker serves pulls and takes pushes of small blobs: alone, while a flood (`benchmarks.flood`) goes to
another node of this machine that is configured as it is, and while the same flood goes to it. The p99 beside its own
flood may be twice that beside the other's. What stands against alone is printed and has no bound: the flood's clients
and whoever answers them take the processors from those who are measured, whatever node they flood. What a node's
processes hold once the flood is over, beyond what they held before, is to be no more than a fixed sum, whatever the
flood was: it is flat.
"""

from __future__ import annotations

import re
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from holdfast.gateway.connection_string import parse

from benchmarks.case import HOLDFAST, Case, Effort, Figure, Verdict
from benchmarks.content import KB, Blob, build, generate, put_store
from benchmarks.flood import CHILD, CHILDS, CHILDS_REPOSITORY, FLOODS, PARENT
from benchmarks.images import administer, string
from benchmarks.load import Connection, p99
from benchmarks.machine import group
from benchmarks.peers import Holdfast, PeerFailed
from benchmarks.push import Pusher

RATIO_BOUND = 2.0
#: what allocators keep of a busy time, in four processes
FLAT_BYTES = 64e6
#: a flood is under way for so long before anything is measured, and over for so long before memory is (seconds): what
#: is free is given back every ten
RISE_SECONDS, SETTLE_SECONDS = 2.0, 15.0
#: blobs that are pushed: to warm up, and then in each of three measurements
WARM, PUSHED = 40, 160

CONFIGURATION = """log_level = "warning"
mode = "ReadWrite"
catalog = true
{more}

[admin]
listen = "127.0.0.1:0"

[[parent]]
name = "{name}"
url = "{url}"
insecure = true

[[parent]]
name = "unused"
url = "{url}"
insecure = true
"""
#: no fill is stored
UNSTORED = "[fills]\nreserve_bytes = 1000000000000000"


def run(place: Path, effort: Effort) -> list[Case]:
    """One case a flood."""
    content = build(place / "content", [10 * KB])
    pushed = [generate(place / "content", 20 * KB, f"push-{number}") for number in range(WARM + 3 * PUSHED)]
    return [
        flooded(place / name, name, content.blobs[10 * KB], pushed, effort) for name in (*FLOODS, *CHILDS)
    ]


def flooded(place: Path, name: str, pulled: Blob, pushed: list[Blob], effort: Effort) -> Case:
    """Two new nodes, of which one is measured: alone, beside the other's flood, beside its own, and after it."""
    place.mkdir()
    parts = [pushed[at : at + PUSHED] for at in range(WARM, len(pushed), PUSHED)]
    with ExitStack() as stack:
        other = stack.enter_context(target(place / "other", name, pulled, effort))
        own = stack.enter_context(target(place / "own", name, pulled, effort))
        node = own.node
        measure(node.url, pulled, pushed[:WARM], effort)
        alone = measure(node.url, pulled, parts[0], effort)
        other.begin()
        elsewhere = measure(node.url, pulled, parts[1], effort)
        other.end()
        other.node.stop()
        before = memory(node, "VmRSS")
        own.begin()
        beside = measure(node.url, pulled, parts[2], effort)
        highest = memory(node, "VmHWM")
        own.end()
        time.sleep(SETTLE_SECONDS)
        after = memory(node, "VmRSS")
    left = max(0, after - before)
    return Case(
        f"flood: {name.replace('_', ' ')}",
        (Figure(HOLDFAST, "bytes", (float(left),)),),
        (
            Verdict("memory that stays", float(left), FLAT_BYTES, at_least=False, unit="bytes"),
            Verdict("p99 of a pull", beside[0] / elsewhere[0], RATIO_BOUND, at_least=False),
            Verdict("p99 of a push", beside[1] / elsewhere[1], RATIO_BOUND, at_least=False),
        ),
        (
            *(
                f"p99 of a {what} alone {alone[at] * 1e3:.1f} ms, beside the flood at another node"
                f" {elsewhere[at] * 1e3:.1f} ms, beside its own {beside[at] * 1e3:.1f} ms:"
                f" {beside[at] / alone[at]:.1f}× of alone."
                for at, what in enumerate(("pull", "push"))
            ),
            f"RSS before {before / 1e6:.0f} MB, at its highest {highest / 1e6:.0f} MB, after {after / 1e6:.0f} MB.",
        ),
    )


@dataclass(frozen=True, slots=True)
class Target:
    """A node, and the program that floods it."""

    node: Holdfast
    hostile: subprocess.Popen[str]
    password: str

    def begin(self) -> None:
        """Flood it; returns once the flood is under way."""
        assert self.hostile.stdin is not None
        self.hostile.stdin.write(f"{self.node.url} {self.password}\n")
        self.hostile.stdin.flush()
        time.sleep(RISE_SECONDS)
        if self.hostile.poll() is not None:
            raise PeerFailed("the flood ended by itself")

    def end(self) -> None:
        """No more of it."""
        self.hostile.kill()
        self.hostile.wait()


@contextmanager
def target(place: Path, name: str, pulled: Blob, effort: Effort) -> Iterator[Target]:
    """A new node that is going to be flooded."""
    place.mkdir()
    fill_store(place / "store", pulled, effort)
    with flood(name) as hostile:
        assert hostile.stdout is not None
        configuration = CONFIGURATION.format(
            name=PARENT,
            url=hostile.stdout.readline().strip(),
            more=UNSTORED if name == "slow_readers" else "",
        )
        data = place / "store"
        with Holdfast(place / "node", data=data, configuration=configuration, anonymous="push") as node:
            yield Target(node, hostile, child_of(node) if name in CHILDS else "")


def child_of(node: Holdfast) -> str:
    """Make the connected registry that floods; the password of its sync token."""
    properties = {"mode": "ReadOnly", "parent": {}, "repositories": [CHILDS_REPOSITORY]}
    administer(node, "PUT", f"connectedRegistries/{CHILD}", {"properties": properties})
    return parse(string(node, CHILD, node.url.partition("://")[2])).password


def fill_store(root: Path, pulled: Blob, effort: Effort) -> None:
    """What is pulled, and long lists."""
    from holdfast_core.digest import Digest
    from holdfast_core.store import Store

    from benchmarks.content import Content

    put_store(Content(b"{}", {pulled.size: pulled}), root)
    store, digest = Store.create_or_open(root, write=True), Digest.of(b"{}")
    tags = [f"v{number:06}" for number in range(effort.pick(100_000, 10_000))]
    repositories = [f"r{number:05}" for number in range(effort.pick(10_000, 1_000))]
    done = [store.references.put_tag("many", tag, digest, now=0.0) for tag in tags]
    done += [store.references.put_tag(repository, "v1", digest, now=0.0) for repository in repositories]
    for future in done:
        future.result()
    store.close()


def measure(url: str, pulled: Blob, pushed: list[Blob], effort: Effort) -> tuple[float, float]:
    """p99 of a pull and of a push (seconds), taken in turns."""
    pulls, pushes = list[float](), list[float]()
    connection, pusher = Connection(url), Pusher(url)
    rest = iter(pushed[: effort.pick(len(pushed), 40)])
    for blob in rest:
        for _ in range(5):
            pulls.append(connection.get(pulled.target).seconds)
        started = time.perf_counter()
        pusher.push(blob)
        pushes.append(time.perf_counter() - started)
    connection.close()
    pusher.close()
    return p99(pulls), p99(pushes)


def memory(node: Holdfast, line: str) -> int:
    """A line of proc(5) status in bytes, summed over the node's processes, and the files that they have in memory."""
    total, files = 0, dict[int, int]()
    for pid in group(node.process.pid):
        found = re.search(rf"(?m)^{line}:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
        total += int(found[1]) * 1024 if found else 0
        for descriptor in Path(f"/proc/{pid}/fd").iterdir():
            with suppress(OSError):
                if str(descriptor.readlink()).startswith("/memfd:"):
                    files[descriptor.stat().st_ino] = descriptor.stat().st_blocks * 512
    return total + sum(files.values())


@contextmanager
def flood(name: str) -> Iterator[subprocess.Popen[str]]:
    """The program that floods; ended at the end."""
    command = [sys.executable, "-m", "benchmarks.flood", name]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        if process.poll() is not None:
            raise PeerFailed(f"the flood {name} did not start")
        yield process
    finally:
        process.kill()
        process.wait()


if __name__ == "__main__":
    from benchmarks.alone import main

    main(run)
