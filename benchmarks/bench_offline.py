"""How long does a client wait for the news that its image cannot be had, because the parent is away?

The parent swallows packets: a listener whose queue is full, so that the kernel answers no SYN. That is the
worst way to be away; one that refuses connections is known to be away at once. The first to ask pays one
connect time-out (5 s by default, and what comes around it); everyone after that is told at once, without a
connection, until a probe is answered. Both answers must be 503 with Retry-After.
"""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from holdfast.testing.random_content import digest_of

from benchmarks.case import HOLDFAST, Case, Effort, Figure, Verdict
from benchmarks.load import refusal_seconds
from benchmarks.peers import Holdfast

KNOWN_BOUND, UNKNOWN_BOUND = 0.010, 5.0
#: half a round trip and a scheduler's turn are not the connect time-out's fault
GRACE_SECONDS = 0.25
ASKS = 200


def run(place: Path, effort: Effort) -> list[Case]:
    """A new node a round: the first ask, and then so many more."""
    first: list[float] = []
    later: list[float] = []
    with black_hole() as parent:
        for turn in range(min(effort.rounds, 3)):
            with Holdfast(place / f"node-{turn}", data=place / f"store-{turn}", parent=parent) as node:
                first.append(refused(node.url, -1))
                asks = effort.pick(ASKS, 40)
                later += [refused(node.url, number) for number in range(asks)]
    slowest = sorted(later)[int(len(later) * 0.99)]
    unknown, known = Figure(HOLDFAST, "s", tuple(first)), Figure(HOLDFAST, "s", tuple(later))
    return [
        Case(
            "503, parent not known to be offline",
            (unknown,),
            (Verdict("to the answer", unknown.median, UNKNOWN_BOUND + GRACE_SECONDS, False, "s"),),
            ("the bound is the 5 s of connect_timeout and 0.25 s around it.",),
        ),
        Case(
            "503, parent known to be offline",
            (known,),
            (
                Verdict("to the answer", known.median, KNOWN_BOUND, False, "s"),
                Verdict("in 99 of 100", slowest, KNOWN_BOUND, False, "s"),
            ),
            (f"{len(later)} asks, each on a new connection; the slowest of all {max(later) * 1000:.1f} ms.",),
        ),
    ]


def refused(url: str, number: int) -> float:
    """Seconds from a new connection to the whole answer. Raises LoadFailed unless it is a 503 that says when
    to come back. Every other ask is for a blob, the rest for manifests; none was asked for before."""
    noun = "blobs" if number % 2 else "manifests"
    target = f"/v2/library/away/{noun}/{digest_of(str(number).encode())}"
    return refusal_seconds(url, target, "Retry-After")


@contextmanager
def black_hole() -> Iterator[str]:
    """The URL of a place that answers no SYN."""
    with ExitStack() as held:
        listener = held.enter_context(socket.socket())
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        for _ in range(4):
            filler = held.enter_context(socket.socket())
            filler.setblocking(False)
            filler.connect_ex(listener.getsockname())
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"


if __name__ == "__main__":
    from benchmarks.alone import main

    main(run)
