"""What do clients that never finish their request cost those who do, and how soon are they gone?

5,000 connections from a hundred addresses each send a byte of a header every second. Beside them 200 new connections a
second fetch a manifest, first alone and then until the last of the 5,000 was ended. They are a program of their own:
`python -m benchmarks.bench_loris URL COUNT`, which says when all are connected, and then how long the last one lasted.
"""

from __future__ import annotations

import selectors
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from benchmarks.case import HOLDFAST, Case, Effort, Figure, Verdict, ratio
from benchmarks.content import KB, build, put_store
from benchmarks.load import LoadFailed, new_request, p99, split
from benchmarks.machine import ROOT, allow_descriptors
from benchmarks.peers import Holdfast

RATE, ADDRESSES = 200.0, 100
P99_RATIO, GONE_SECONDS, PATIENCE_SECONDS = 2.0, 15.0, 120.0
CONFIGURATION = 'log_level = "warning"\n'
HASTY = "[limits]\nhead_timeout = 1.0\n"


def run(place: Path, effort: Effort) -> list[Case]:
    """Rounds of both, each time anew."""
    count, content = effort.pick(5000, 100), build(place / "content", [10 * KB])
    allow_descriptors(count + 1000)
    put_store(content, place / "store")
    target, configuration = content.manifest_target, CONFIGURATION + (HASTY if effort.quick else "")
    alone, beside, lasted = list[float](), list[float](), list[float]()
    with Holdfast(place / "node", data=place / "store", workers=1, configuration=configuration) as node:
        for _ in range(effort.rounds):
            ends = time.monotonic() + 4 * effort.seconds
            alone.append(p99(paced(node.url, target, lambda ends=ends: time.monotonic() >= ends)))  # type: ignore[misc]
            waits, seconds = attacked(node.url, target, count)
            beside.append(p99(waits))
            lasted.append(seconds)
    figures = [Figure("alone", "s", tuple(alone)), Figure(HOLDFAST, "s", tuple(beside))]
    return [
        Case(
            f"{count:,} slow-loris beside {RATE:g} requests/s: p99",
            (figures[1],),
            (
                Verdict("of alone", ratio(figures[1], figures[0]), P99_RATIO, at_least=False),
                Verdict("until all are gone", max(lasted), GONE_SECONDS, at_least=False, unit="s"),
            ),
            (f"p99 alone {figures[0].median * 1e3:.2f} ms.",),
        )
    ]


def paced(url: str, target: str, over: Callable[[], bool]) -> list[float]:
    """Seconds of each new request, at a set rate, until it is over."""
    waits, due = list[float](), time.monotonic()
    while not waits or not over():
        time.sleep(max(0.0, due - time.monotonic()))
        due = max(due + 1 / RATE, time.monotonic())
        waits.append(new_request(url, target))
    return waits


def attacked(url: str, target: str, count: int) -> tuple[list[float], float]:
    """Seconds of each new request beside the attack, and how long the last attacker lasted."""
    command = [sys.executable, "-m", "benchmarks.bench_loris", url, str(count)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as attack:
        try:
            assert attack.stdout is not None
            if attack.stdout.readline().strip() != "connected":
                raise LoadFailed("the attackers could not connect")
            waits = paced(url, target, lambda: attack.poll() is not None)
            lasted = float(attack.stdout.readline() or "nan")
        finally:
            attack.kill()
    if attack.returncode:
        raise LoadFailed(f"the attack ended with {attack.returncode}")
    return waits, lasted


def attack(url: str, count: int) -> None:
    """Connect, dribble, and see who ends it."""
    host, port, _ = split(url)
    began, lasted, due = dict[socket.socket, float](), 0.0, 0.0
    with selectors.DefaultSelector() as ready:
        for number in range(count):
            source = (f"127.0.2.{number % ADDRESSES + 1}", 0)
            one = socket.create_connection((host, port), source_address=source)
            one.sendall(b"GET /v2/ HTTP/1.1\r\nHost: node\r\nX-Slow: ")
            began[one] = time.monotonic()
            ready.register(one, selectors.EVENT_READ)
        print("connected", flush=True)
        ends = time.monotonic() + PATIENCE_SECONDS
        while began and time.monotonic() < ends:
            if time.monotonic() >= due:
                due = time.monotonic() + 1.0
                lasted = max([lasted, *(left(one, began, ready) for one in list(began) if not dribbled(one))])
            for key, _ in ready.select(0.1):
                gone = key.fileobj
                assert isinstance(gone, socket.socket)
                if ended(gone):
                    lasted = max(lasted, left(gone, began, ready))
    print(lasted if not began else PATIENCE_SECONDS, flush=True)


def dribbled(one: socket.socket) -> bool:
    """Whether a byte more could be sent."""
    try:
        one.send(b"x")
    except OSError:
        return False
    return True


def ended(one: socket.socket) -> bool:
    """Whether the server has ended the connection; an answer before that is passed over."""
    try:
        return not one.recv(65536)
    except OSError:
        return True


def left(one: socket.socket, began: dict[socket.socket, float], ready: selectors.BaseSelector) -> float:
    """Forget one that is gone; the seconds that it lasted."""
    ready.unregister(one)
    one.close()
    return time.monotonic() - began.pop(one)


if __name__ == "__main__":
    if len(sys.argv) == 3:
        attack(sys.argv[1], int(sys.argv[2]))
    else:
        from benchmarks.alone import main

        main(run)
