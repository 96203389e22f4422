"""How much of a slow link has a pull that a client waits for, while synchronisation runs?

The parent is in a network namespace behind a router of 10 Mbit/s with a queue of 100 ms (`tc tbf`), as a line to a site
has it. The node's synchronisation fills the link; then a client asks for a cold blob. From a second later on its bytes
are counted, beside what the same pull had of the same link alone, and beside all that crossed the link: what the pull
leaves is for synchronisation. Needs root and iproute2.
"""

from __future__ import annotations

import os
import shutil
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from holdfast.testing.scripted_process import ScriptedProcess

from benchmarks.case import HOLDFAST, Case, Effort, Figure, Verdict
from benchmarks.content import MB
from benchmarks.load import PATIENCE_SECONDS, LoadFailed, split
from benchmarks.peers import Holdfast, PeerFailed

MBIT, QUEUE = 10, "100ms"
BOUND, TOGETHER_BOUND = 0.90, 0.95
#: images that synchronisation fetches at once, and how long it has the link alone before the client comes (s)
AT_ONCE, WARM_SECONDS = 4, 6.0
#: counted from so long after the question, for so long (s)
FROM_SECONDS, COUNT_SECONDS = 1.0, 6.0
BULK_BYTES, PULL_BYTES = 32 * MB, 16 * MB
NAME, BULK = "library/wanted", "library/bulk"


def run(place: Path, effort: Effort) -> list[Case]:
    """A new node each time, first without synchronisation and then with it."""
    alone: list[Crossed] = []
    beside: list[Crossed] = []
    with far_side() as (host, device), parent_at(host) as parent:
        for turn in range(min(effort.rounds, 3)):
            alone.append(pulled(place / f"alone-{turn}", parent, f"{turn}:alone", device, sync=False))
            beside.append(pulled(place / f"sync-{turn}", parent, f"{turn}:sync", device, sync=True))
    had = tuple(b.client / a.client for a, b in zip(alone, beside, strict=True))
    all_of_it = tuple(b.link / a.link for a, b in zip(alone, beside, strict=True))
    share = Verdict("of what the pull has alone", statistics.median(had), BOUND, at_least=True)
    together = Verdict(
        "of the link, with synchronisation", statistics.median(all_of_it), TOGETHER_BOUND, at_least=True
    )
    first = ", ".join(f"{b.first / a.client:.2f}" for a, b in zip(alone, beside, strict=True))
    return [
        Case(
            f"a miss on {MBIT} Mbit/s while synchronisation runs, from 1 s on",
            (Figure(HOLDFAST, "bytes/s", tuple(b.client for b in beside)),),
            (share, together),
            (f"In the first second, of what it has alone: {first}.",),
        )
    ]


class Crossed:
    """Bytes a second: of the client's body in its first second and after it, and of the link after it."""

    def __init__(self, first: float, client: float, link: float) -> None:
        self.first, self.client, self.link = first, client, link


def pulled(place: Path, parent: ScriptedProcess, seed: str, device: str, *, sync: bool) -> Crossed:
    """One pull through a new node."""
    digest = parent.control("blob", {"name": NAME, "size": PULL_BYTES, "seed": seed})["digest"]
    rows = "".join(
        f'[[sync.repositories]]\nname = "{BULK}{n}"\nplatforms = ["linux/amd64"]\n' for n in range(AT_ONCE)
    )
    table = f'[sync]\nschedule = "* * * * *"\ntransfers = {AT_ONCE}\n{rows}' if sync else ""
    place.mkdir(parents=True)
    with Holdfast(place / "node", data=place / "data", parent=parent.url, configuration=table) as node:
        time.sleep(WARM_SECONDS)
        if sync and received(device, 1.0) < 0.8 * MBIT * 125_000:
            raise LoadFailed("synchronisation does not fill the link")
        found = counted(node.url, f"/v2/{NAME}/blobs/{digest}", device)
    shutil.rmtree(place)
    return found


def counted(url: str, target: str, device: str) -> Crossed:
    """Ask, and count while it comes."""
    host, port, _ = split(url)
    with socket.create_connection((host, port), timeout=PATIENCE_SECONDS) as client:
        client.sendall(f"GET {target} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
        asked = time.perf_counter()
        early = taken(client, asked + FROM_SECONDS)
        link = counter(device)
        began = time.perf_counter()
        came = taken(client, began + COUNT_SECONDS)
        passed = time.perf_counter() - began
        return Crossed(early / (began - asked), came / passed, (counter(device) - link) / passed)


def taken(client: socket.socket, until: float) -> int:
    """Bytes that come until then. Raises LoadFailed when they end."""
    count = 0
    while (left := until - time.perf_counter()) > 0:
        client.settimeout(max(left, 0.001))
        try:
            piece = client.recv(1 << 16)
        except TimeoutError:
            break
        if not piece:
            raise LoadFailed("the body ended before it was counted")
        count += len(piece)
    return count


def received(device: str, seconds: float) -> float:
    """Bytes a second over the link."""
    before = counter(device)
    time.sleep(seconds)
    return (counter(device) - before) / seconds


def counter(device: str) -> int:
    """Bytes that came over the link so far."""
    return int(Path(f"/sys/class/net/{device}/statistics/rx_bytes").read_text())


@contextmanager
def far_side() -> Iterator[tuple[str, str]]:
    """A namespace behind the link: its name, and this side's device. Between them is a router, whose queue is the
    link's: a sender that sees the queue itself would keep it short. Raises PeerFailed."""
    if os.geteuid() or not (shutil.which("ip") and shutil.which("tc")):
        raise PeerFailed("a shaped link needs root and iproute2 (ip, tc)")
    far, router = f"hf{os.getpid()}", f"hr{os.getpid()}"
    with ExitStack() as undo:
        for name in (far, router):
            command(f"ip netns add {name}")
            undo.callback(command, f"ip netns del {name}")
        command(f"ip link add {router} type veth peer name near netns {router}")
        command(f"ip -n {router} link add back type veth peer name out netns {far}")
        command(f"ip addr add {NEAR}/30 dev {router}")
        command(f"ip link set {router} up")
        for space, device, address in ((router, "near", GATE), (router, "back", BACK), (far, "out", HOST)):
            command(f"ip -n {space} addr add {address}/30 dev {device}")
            command(f"ip -n {space} link set {device} gso_max_segs 1 up")
        command(f"ip route add {HOST}/32 via {GATE}")
        command(f"ip -n {far} route add default via {BACK}")
        command(f"ip netns exec {router} sysctl -qw net.ipv4.ip_forward=1")
        command(f"tc -n {router} qdisc add dev near root tbf rate {MBIT}mbit burst 16kb latency {QUEUE}")
        yield far, router


NEAR, GATE, BACK, HOST = "10.213.7.1", "10.213.7.2", "10.213.7.5", "10.213.7.6"


def command(words: str) -> None:
    """Raises PeerFailed with what it complained of."""
    done = subprocess.run(words.split(), check=False, capture_output=True, text=True)
    if done.returncode:
        raise PeerFailed(f"{words}: {done.stderr.strip()}")


@contextmanager
def parent_at(namespace: str) -> Iterator[ScriptedProcess]:
    """A scripted parent in the namespace, with the images of synchronisation."""
    words = ["ip", "netns", "exec", namespace, sys.executable, "-m", "holdfast.testing.scripted_parent"]
    process = subprocess.Popen([*words, "--host", HOST], stdout=subprocess.PIPE, text=True)
    try:
        parent = ScriptedProcess(process)
        for number in range(AT_ONCE):
            parent.control("sample", {"name": f"{BULK}{number}", "layer_bytes": [1024, BULK_BYTES]})
        yield parent
    finally:
        process.terminate()
        process.wait(60)


if __name__ == "__main__":
    from benchmarks.alone import main

    main(run)
