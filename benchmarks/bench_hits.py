"""How fast is what is held served? Manifests and small blobs by requests a second, large ones by bytes.

One worker of Holdfast and of nginx, every core for docker-registry, one client thread. Read the ratios: a
client on the same machine takes its share of every figure. Processor seconds a gigabyte are the servers'
own, and say what a figure that the client bounds cannot.
"""

from __future__ import annotations

from contextlib import ExitStack
from functools import partial
from pathlib import Path

from benchmarks.case import HOLDFAST, NGINX, REGISTRY, Case, Effort, Figure, against, alternate
from benchmarks.content import KB, MB, Content, build, put_files, put_registry, put_store
from benchmarks.load import bytes_rate, wrk
from benchmarks.peers import Certificate, Holdfast, Nginx, Registry, Server

SMALL, MIDDLE, LARGE = 10 * KB, 1 * MB, 64 * MB


def field(
    stack: ExitStack, place: Path, content: Content, tls: Certificate | None = None
) -> dict[str, Server]:
    """The three servers with the same content, running until the stack ends."""
    put_store(content, place / "store")
    put_registry(content, place / "registry")
    put_files(content, place / "files")
    servers: dict[str, Server] = {
        HOLDFAST: Holdfast(place / "h", data=place / "store", workers=1, tls=tls),
        REGISTRY: Registry(place / "r", data=place / "registry", tls=tls),
        NGINX: Nginx(place / "n", data=place / "files", tls=tls),
    }
    return {name: stack.enter_context(server) for name, server in servers.items()}


def requests(
    name: str, servers: dict[str, Server], target: str, connections: int, effort: Effort, bound: float
) -> Case:
    """Requests a second of one URL, from wrk."""

    def one(server: Server) -> float:
        return wrk(server.url + target, connections, effort.seconds).requests

    for server in servers.values():
        wrk(server.url + target, connections, 1)
    figures = alternate(effort.rounds, {n: partial(one, s) for n, s in servers.items()}, "requests/s")
    return Case(name, figures, (against(figures, [REGISTRY], bound),))


def body(name: str, servers: dict[str, Server], target: str, effort: Effort, others: list[str]) -> Case:
    """Bytes a second of one body, from the reader, with the processor time each server spent on it."""
    spent: dict[str, list[float]] = {n: [] for n in servers}

    def one(subject: str) -> float:
        server, before = servers[subject], servers[subject].processor_seconds()
        rate = bytes_rate(server.url, target, effort.seconds)
        spent[subject].append((server.processor_seconds() - before) / (rate * effort.seconds / 1e9))
        return rate

    for server in servers.values():
        bytes_rate(server.url, target, 0.0)
    figures = alternate(effort.rounds, {n: partial(one, n) for n in servers}, "bytes/s")
    costs = ", ".join(f"{n} {Figure(n, '', tuple(spent[n])).median:.2f}" for n in servers)
    return Case(
        name, figures, (against(figures, others, 1.0),), (f"Processor seconds of the server a GB: {costs}.",)
    )


def run(place: Path, effort: Effort) -> list[Case]:
    """Every row of hits in the clear."""
    content = build(place / "content", [SMALL, MIDDLE, LARGE])
    manifest = content.manifest_target
    small, middle, large = (content.blobs[size].target for size in (SMALL, MIDDLE, LARGE))
    with ExitStack() as stack:
        servers = field(stack, place, content)
        return [
            requests("manifest by digest, hit, 1 connection", servers, manifest, 1, effort, 5.0),
            requests("manifest by digest, hit, 32 connections", servers, manifest, 32, effort, 5.0),
            requests("10 kB blob, hit, 8 connections", servers, small, 8, effort, 5.0),
            requests("1 MB blob, hit, 8 connections", servers, middle, 8, effort, 2.0),
            body("64 MB blob, hit", servers, large, effort, [NGINX, REGISTRY]),
        ]


if __name__ == "__main__":
    from benchmarks.alone import main

    main(run)
