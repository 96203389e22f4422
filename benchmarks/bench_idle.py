"""What does a node that does nothing hold in memory, alone and with 10,000 connections that do nothing either?

Alone: supervisor, keeper and two workers, after a few requests. RSS counts a shared page in every process; PSS shares
it out, and is what the machine would get back. Connections come from a hundred addresses, each has had one answer, and
all are still open at the end; what they cost is the RSS of all processes beyond that of before, without what the kernel
holds for them. A new request is a new connection, over TLS with its handshake.
"""

from __future__ import annotations

import select
import time
from pathlib import Path

from benchmarks.case import HOLDFAST, Case, Effort, Figure, Verdict
from benchmarks.content import KB, Content, build, put_store
from benchmarks.load import Connection, LoadFailed, fetch, new_request, p99
from benchmarks.machine import allow_descriptors, group, resident
from benchmarks.peers import Certificate, Holdfast, certificate

BOUND_BYTES, PLAIN_BYTES, TLS_BYTES = 150e6, 60e6, 400e6
P99_SECONDS = 0.020
SETTLE_SECONDS = 3.0
REQUESTS, NEW_REQUESTS, ADDRESSES = 40, 500, 100
CONFIGURATION = 'log_level = "warning"\n[limits]\nidle_timeout = 3600.0\n'


def run(place: Path, effort: Effort) -> list[Case]:
    """Alone, and with connections in the clear and over TLS."""
    content = build(place / "content", [10 * KB])
    put_store(content, place / "store")
    secured = certificate(place / "tls")
    return [
        alone(place, content),
        connected(place, content, effort, None, PLAIN_BYTES),
        connected(place, content, effort, secured, TLS_BYTES),
    ]


def settled(node: Holdfast, content: Content) -> list[int]:
    """The node's processes, after a few requests."""
    for _ in range(REQUESTS):
        fetch(node.url, content.manifest_target)
    time.sleep(SETTLE_SECONDS)
    return group(node.process.pid)


def alone(place: Path, content: Content) -> Case:
    """The whole group, summed and shared out."""
    with Holdfast(place / "node", data=place / "store", workers=2) as node:
        members = settled(node, content)
        rss, pss = resident(members)
    figure = Figure(HOLDFAST, "bytes", (float(rss),))
    note = f"{len(members)} processes; PSS {pss / 1e6:.0f} MB."
    verdict = Verdict("RSS, summed", float(rss), BOUND_BYTES, at_least=False, unit="bytes")
    return Case("idle, 2 workers", (figure,), (verdict,), (note,))


def connected(place: Path, content: Content, effort: Effort, tls: Certificate | None, bound: float) -> Case:
    """Connections that wait, and then new requests beside them."""
    count, target = effort.pick(10_000, 200), content.manifest_target
    allow_descriptors(count + 1000)
    store = place / "store"
    with Holdfast(place / "node", data=store, workers=2, tls=tls, configuration=CONFIGURATION) as node:
        base, _ = resident(settled(node, content))
        kept = [Connection(node.url, f"127.0.1.{number % ADDRESSES + 1}") for number in range(count)]
        for connection in kept:
            connection.get(target)
        time.sleep(SETTLE_SECONDS)
        more = resident(group(node.process.pid))[0] - base
        waited = p99([new_request(node.url, target) for _ in range(effort.pick(NEW_REQUESTS, REQUESTS))])
        ended = hung_up(kept)
        for connection in kept:
            connection.close()
    if ended:
        raise LoadFailed(f"{ended} of {count} idle connections were ended")
    return Case(
        f"{count:,} idle connections, {'TLS' if tls else 'plain'}, 2 workers",
        (Figure(HOLDFAST, "bytes", (float(more),)),),
        (
            Verdict("RSS beyond the base", float(more), bound, at_least=False, unit="bytes"),
            Verdict("99 % of new requests", waited, P99_SECONDS, at_least=False, unit="s"),
        ),
        (f"{more / count / 1e3:.1f} kB a connection.",),
    )


def hung_up(connections: list[Connection]) -> int:
    """How many of them the server has ended."""
    ends = select.poll()
    for connection in connections:
        ends.register(connection.fileno(), select.POLLRDHUP)
    return len(ends.poll(0))


if __name__ == "__main__":
    from benchmarks.alone import main

    main(run)
