"""What does a fill cost over the plain download it is made of?

A process serves one blob with sendfile over loopback. In turn it is downloaded by aiohttp alone (bytes
counted and dropped), and filled (written, hashed twice, followed by one reader, admitted). Read the ratio:
both run in this process on this machine, alternating. One JSON line: seconds (best and median of n),
bytes a second, ratio of the medians, and the time to the first byte of each.

    python benchmarks/bench_fill.py [--size MB] [--rounds N] [--directory DIR]
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import signal
import socket
import statistics
import tempfile
import time
from pathlib import Path

import aiohttp
import uvloop
from holdfast import config
from holdfast.clock import SystemClock
from holdfast.fill.registry import FillRegistry
from holdfast.log import log
from holdfast.parent.client import Parent
from holdfast_core.store import Store

Times = tuple[float, float]


def serve(file: int, size: int, digest: str) -> tuple[int, int]:
    """A child that answers every GET with the whole file; returns its process and port."""
    listener = socket.create_server(("127.0.0.1", 0), backlog=16)
    port: int = listener.getsockname()[1]
    if child := os.fork():
        listener.close()
        return child, port
    head = f'HTTP/1.1 200 OK\r\nContent-Length: {size}\r\nETag: "{digest}"\r\n\r\n'.encode()
    while True:
        connection, _ = listener.accept()
        with connection:
            while connection.recv(65536):
                connection.sendall(head)
                at = 0
                while at < size:
                    at += os.sendfile(connection.fileno(), file, at, size - at)


async def plain(url: str) -> Times:
    """(first byte, all bytes) in seconds."""
    began = time.perf_counter()
    first = 0.0
    async with aiohttp.ClientSession() as session, session.get(url) as answer:
        async for _ in answer.content.iter_any():
            first = first or time.perf_counter() - began
    return first, time.perf_counter() - began


async def filled(url: str, digest: str, directory: Path) -> Times:
    """The same through a fill and one reader, to the moment the blob is admitted."""
    store = Store.create_or_open(directory, write=True)
    parent = Parent(config.ParentSection(url=url, insecure=True), SystemClock())
    fills = FillRegistry(store, {"": parent}.__getitem__, config.FillsSection(), SystemClock())
    await fills.start()
    began = time.perf_counter()
    answer = await fills.open("demo", digest, 0, -1, True)
    reader = await fills.attach(answer.fill, 0, answer.size, True)
    at, first = 0, 0.0
    while at < answer.size:
        there = await reader.wait_for(at)
        first = first or time.perf_counter() - began
        while at < there:
            at += len(reader.read(at, min(256 << 10, there - at)))
    await reader.wait_verified()
    took = time.perf_counter() - began
    reader.close()
    await fills.close()
    await parent.close()
    store.close()
    return first, took


def rounds(size: int, count: int, directory: Path) -> dict[str, object]:
    """Alternate, and compare."""
    log.set_level("error")
    file = os.memfd_create("blob")
    body = hashlib.shake_128(b"holdfast").digest(1 << 20)
    hasher = hashlib.sha256()
    for _ in range(size >> 20):
        os.write(file, body)
        hasher.update(body)
    digest = f"sha256:{hasher.hexdigest()}"
    child, port = serve(file, size, digest)
    url = f"http://127.0.0.1:{port}"
    seen: dict[str, list[Times]] = {"plain": [], "fill": []}
    try:
        for number in range(count):
            seen["plain"].append(uvloop.run(plain(f"{url}/v2/demo/blobs/{digest}")))
            with tempfile.TemporaryDirectory(dir=directory) as place:
                seen["fill"].append(uvloop.run(filled(url, digest, Path(place) / str(number))))
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    return report(size, seen)


def report(size: int, seen: dict[str, list[Times]]) -> dict[str, object]:
    """Figures of both."""
    rows: dict[str, object] = {"size": size}
    medians = {}
    for name, times in seen.items():
        medians[name] = statistics.median(t[1] for t in times)
        rows[name] = {
            "n": len(times),
            "best_s": round(min(t[1] for t in times), 3),
            "median_s": round(medians[name], 3),
            "MB_per_s": round(size / medians[name] / 1e6),
            "first_byte_ms": round(statistics.median(t[0] for t in times) * 1000, 2),
        }
    return {**rows, "ratio": round(medians["fill"] / medians["plain"], 2)}


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--size", type=int, default=512, help="MB (1 << 20)")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--directory", type=Path, default=None)
    asked = parser.parse_args()
    print(json.dumps(rounds(asked.size << 20, asked.rounds, asked.directory)))
