"""What does TLS cost a large body? 64 MB again and again over one connection, TLS 1.3, one worker each."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

from benchmarks.bench_hits import LARGE, body, field
from benchmarks.case import NGINX, Case, Effort
from benchmarks.content import build
from benchmarks.load import Connection
from benchmarks.peers import certificate


def run(place: Path, effort: Effort) -> list[Case]:
    """The row of hits over TLS."""
    content = build(place / "content", [LARGE])
    with ExitStack() as stack:
        servers = field(stack, place, content, certificate(place / "tls"))
        case = body("64 MB blob, hit, TLS", servers, content.blobs[LARGE].target, effort, [NGINX])
        ciphers = []
        for name, server in servers.items():
            connection = Connection(server.url)
            ciphers.append(f"{name} {connection.cipher.split()[0]}")
            connection.close()
    return [replace(case, notes=(*case.notes, f"Ciphers: {', '.join(ciphers)}."))]


if __name__ == "__main__":
    from benchmarks.alone import main

    main(run)
