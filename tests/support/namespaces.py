"""Machines in a row, each in a network namespace of its own, and wires between neighbours that have a rate, are
counted, and can be cut.

A site reaches the one above it and the one below it, and nothing else: there is no route beyond a wire. Namespaces have
no names here. They live as long as something is in them or holds them open, and the wires with them: nothing collides.
A guard ends what is still in them when the row ends, or the tests are killed: nothing is left behind.
"""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

import pytest
from support.node import Node
from support.patience import PROGRAM_PATIENCE
from support.programs import program, run
from support.tap import Tap
from support.tree import Operator

P = ParamSpec("P")
T = TypeVar("T")

NEW_NETWORK = 0x4000_0000
HERE = "/proc/thread-self/ns/net"
#: Ethernet, IPv4, and TCP with time stamps: what each packet carries beside its payload (bytes)
HEADERS = 14 + 20 + 32
#: how long (ms) a packet may wait for its turn before the wire drops it: a router's queue
QUEUE_MS = 200
#: waits for the end of its input, then kills all that is in the namespaces of these numbers
GUARD = """
import os, signal, sys
sys.stdin.read()
for pid in filter(str.isdigit, os.listdir("/proc")):
    try:
        if str(os.stat(f"/proc/{pid}/ns/net").st_ino) in sys.argv[1:]:
            os.kill(int(pid), signal.SIGKILL)
    except OSError:
        pass
"""
libc = ctypes.CDLL(None, use_errno=True)


def check(result: int) -> None:
    """Raises OSError for a call that failed."""
    if result == -1:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def require() -> None:
    """Skip the test, with the reason, where no such row can be made."""
    if os.geteuid() != 0:
        pytest.skip(f"network namespaces need root; this is uid {os.geteuid()}")
    for name in ("ip", "tc"):
        program(name)
    try:
        with row(2):
            pass
    except (OSError, AssertionError) as refused:
        pytest.skip(f"no shaped wire between two network namespaces can be made here: {refused}")


class Site:
    """One network namespace. It has a loopback of its own, so ports never collide."""

    def __init__(self, number: int) -> None:
        self.number = number
        with kept():
            check(libc.unshare(NEW_NETWORK))
            self._namespace = os.open(HERE, os.O_RDONLY | os.O_CLOEXEC)
        self.do(quiet)

    @property
    def path(self) -> str:
        """Where other processes find the namespace."""
        return f"/proc/{os.getpid()}/fd/{self._namespace}"

    @property
    def above(self) -> str:
        """Its address on the wire to the site above."""
        return f"10.77.{self.number - 1}.2"

    @property
    def below(self) -> str:
        """Its address on the wire to the site below."""
        return f"10.77.{self.number}.1"

    def do(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Call something here: sockets that it opens and programs that it starts belong to this site."""
        with kept():
            check(libc.setns(self._namespace, NEW_NETWORK))
            return work(*args, **kwargs)

    def close(self) -> None:
        """Let go of it. It ends when nothing runs in it any more."""
        os.close(self._namespace)


@contextmanager
def kept() -> Iterator[None]:
    """Back to the namespace in which this thread was."""
    here = os.open(HERE, os.O_RDONLY | os.O_CLOEXEC)
    try:
        yield
    finally:
        check(libc.setns(here, NEW_NETWORK))
        os.close(here)


def quiet() -> None:
    """Loopback works; IPv6 is off, because its own chatter would be counted."""
    off = Path("/proc/sys/net/ipv6/conf/all/disable_ipv6")
    if off.exists():
        off.write_text("1")
    ip("link", "set", "lo", "up")


def ip(*words: str) -> str:
    """ip(8)."""
    return run(program("ip"), *words)


@dataclass(frozen=True, slots=True)
class Count:
    """What crossed a wire: packets, and bytes with all headers. `down` is away from the root."""

    down_bytes: int
    down_packets: int
    up_bytes: int
    up_packets: int

    def __sub__(self, other: Count) -> Count:
        pairs = zip(self.fields, other.fields, strict=True)
        return Count(*(one - two for one, two in pairs))

    @property
    def fields(self) -> tuple[int, int, int, int]:
        """In order."""
        return self.down_bytes, self.down_packets, self.up_bytes, self.up_packets

    @property
    def raw(self) -> int:
        """Bytes both ways with Ethernet, IP and TCP headers."""
        return self.down_bytes + self.up_bytes

    @property
    def payload(self) -> int:
        """Bytes both ways without those headers: everything that HTTP costs, and what TCP sent again. A handshake
        and an acknowledgement with options carry a few bytes more than HEADERS; they count here."""
        return self.raw - HEADERS * (self.down_packets + self.up_packets)


class Wire:
    """A veth pair: `above` in the site nearer to the root, `below` in the other. `rate` is in bytes a second each way,
    behind a queue of QUEUE_MS."""

    def __init__(self, near: Site, far: Site, rate: float) -> None:
        self._near, self._far = near, far
        near.do(ip, "link", "add", "below", "type", "veth", "peer", "name", "above", "netns", far.path)
        for site, end, address in ((near, "below", near.below), (far, "above", far.above)):
            # every packet on its own: a counter must see the headers that a real wire would carry
            site.do(ip, "link", "set", end, "gso_max_segs", "1", "up")
            site.do(ip, "address", "add", f"{address}/24", "dev", end)
        self._tap = far.do(Tap, "above")
        self.shape(rate)

    def shape(self, rate: float) -> None:
        """Another rate."""
        limit = ("rate", f"{rate * 8:.0f}bit", "burst", "32kb", "latency", f"{QUEUE_MS}ms")
        for site, end in ((self._near, "below"), (self._far, "above")):
            site.do(run, program("tc"), "qdisc", "replace", "dev", end, "root", "tbf", *limit)

    def cut(self, *, unplugged: bool = False) -> None:
        """Nothing crosses any more. Packets of the site below vanish; `unplugged`, it is told at once that there is no
        way."""
        site, end = (self._far, "above") if unplugged else (self._near, "below")
        site.do(ip, "link", "set", end, "down")

    def heal(self) -> None:
        """It carries again."""
        self._near.do(ip, "link", "set", "below", "up")
        self._far.do(ip, "link", "set", "above", "up")

    def count(self) -> Count:
        """Since it was made."""
        text = self._far.do(Path("/proc/thread-self/net/dev").read_text)
        (found,) = (line.partition(":")[2].split() for line in text.splitlines() if "above:" in line)
        return Count(int(found[0]), int(found[1]), int(found[8]), int(found[9]))

    def unique(self) -> int:
        """Bytes of TCP both ways since it was made, without headers and each once: everything that HTTP costs."""
        return self._tap.unique()

    def close(self) -> None:
        """It is no longer listened to."""
        self._tap.close()


@dataclass(frozen=True, slots=True)
class Row:
    """Sites from the root on, and the wires between them."""

    sites: tuple[Site, ...]
    wires: tuple[Wire, ...]


@contextmanager
def row(length: int, rate: float = 12_500_000.0) -> Iterator[Row]:
    """So many sites in a row. Raises AssertionError or OSError where the kernel does not let us."""
    with ExitStack() as held:
        sites = []
        for number in range(length):
            sites.append(Site(number))
            held.callback(sites[-1].close)
        held.enter_context(guarded(sites))
        wires = []
        for near, far in pairwise(sites):
            wires.append(Wire(near, far, rate))
            held.callback(wires[-1].close)
        yield Row(tuple(sites), tuple(wires))


@contextmanager
def guarded(sites: Sequence[Site]) -> Iterator[None]:
    """Whatever is in them ends with this, or with this process."""
    command = [sys.executable, "-c", GUARD, *(str(os.stat(site.path).st_ino) for site in sites)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, start_new_session=True) as guard:
        try:
            yield
        finally:
            assert guard.stdin
            guard.stdin.close()
            guard.wait(PROGRAM_PATIENCE)


class SiteNode(Node):
    """A node on a site: for the site below it is at `address`, for tests at `url` from within."""

    def __init__(self, site: Site, place: Path, *flags: str, **more: Any) -> None:
        self.site = site
        super().__init__(place, *flags, **more)

    @property
    def listen(self) -> str:
        """Both neighbours reach it."""
        return f"0.0.0.0:{self.port}"

    @property
    def address(self) -> str:
        """As its children name it."""
        return f"{self.site.below}:{self.port}"

    def start(self) -> None:
        self.site.do(super().start)

    def ready(self) -> bool:
        return self.site.do(super().ready)


class SiteOperator(Operator):
    """An operator who sits at the root's site."""

    def __init__(self, root: SiteNode) -> None:
        super().__init__(root)
        self._site = root.site

    def call(self, method: str, path: str, body: object = None) -> Any:
        return self._site.do(super().call, method, path, body)
