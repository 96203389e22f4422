"""What does a client get of a disk that rots? Two bits are flipped in each of 500 blob files while the servers are
down, and every blob is pulled again: by Holdfast under a parent that has them, by Holdfast alone, by docker-registry.

A wrong answer is a complete 200 whose bytes are not those of the digest. These are counts: they do not depend on the
machine.
"""

from __future__ import annotations

import hashlib
import os
import random
from contextlib import ExitStack
from http.client import HTTPConnection, HTTPException
from pathlib import Path

from benchmarks.case import HOLDFAST, REGISTRY, Case, Effort, Figure, Verdict
from benchmarks.content import KB, Content, build, put_registry, put_store
from benchmarks.load import split
from benchmarks.peers import Holdfast, Registry, Server

BELOW, ALONE = f"{HOLDFAST} below a parent", f"{HOLDFAST} alone"
FLIPS = 2


def run(place: Path, effort: Effort) -> list[Case]:
    """One row: of so many blobs, how many came wrong."""
    blobs = effort.pick(500, 20)
    content = build(place / "content", range(100 * KB, 100 * KB + blobs))
    put_store(content, place / "parent")
    put_store(content, place / "alone")
    put_registry(content, place / "registry")
    unlink_shared(content)
    with ExitStack() as stack:
        root = stack.enter_context(Holdfast(place / "r", data=place / "parent"))
        with Holdfast(place / "first", data=place / "below", parent=root.url) as node:
            assert pulled(node, content)[0] == blobs
        for name in ("below", "alone", "registry"):
            flip(place / name, 100 * KB, random.Random(name))
        servers: dict[str, Server] = {
            BELOW: Holdfast(place / "b", data=place / "below", parent=root.url),
            ALONE: Holdfast(place / "a", data=place / "alone"),
            REGISTRY: Registry(place / "d", data=place / "registry"),
        }
        counts = {}
        for name, server in servers.items():
            with server:
                counts[name] = pulled(server, content)
    figures = tuple(Figure(name, "wrong", (float(wrong),)) for name, (_, wrong) in counts.items())
    verdicts = (
        Verdict("wrong answers below a parent", counts[BELOW][1], 0, at_least=False, unit=""),
        Verdict("right answers below a parent", counts[BELOW][0], blobs, at_least=True, unit=""),
        Verdict("wrong answers alone", counts[ALONE][1], 0, at_least=False, unit=""),
    )
    notes = tuple(
        f"{name}: {right} right, {wrong} wrong of {blobs}" for name, (right, wrong) in counts.items()
    )
    return [
        Case(f"{blobs * FLIPS:,} flipped bits in {blobs} blobs, each pulled again", figures, verdicts, notes)
    ]


def unlink_shared(content: Content) -> None:
    """Each store has files of its own from now on: they were hard links."""
    for blob in content.blobs.values():
        blob.path.unlink()


def flip(root: Path, least: int, chance: random.Random) -> None:
    """Flip bits of every file of at least so many bytes that lies below a folder of blobs."""
    files = (file for file in root.rglob("*") if "blobs" in file.parts and file.is_file())
    for file in files:
        if (size := file.stat().st_size) < least:
            continue
        with file.open("r+b") as opened:
            for place in chance.sample(range(size), FLIPS):
                opened.seek(place)
                (byte,) = opened.read(1)
                opened.seek(place)
                opened.write(bytes([byte ^ 1 << chance.randrange(8)]))
            opened.flush()
            os.fsync(opened.fileno())
            os.posix_fadvise(opened.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def pulled(server: Server, content: Content) -> tuple[int, int]:
    """(right, wrong) answers to a GET of every blob; a refusal and a body that is cut short are neither."""
    host, port, _ = split(server.url)
    right = wrong = 0
    for blob in content.blobs.values():
        connection = HTTPConnection(host, port, timeout=60)
        try:
            connection.request("GET", blob.target)
            answer = connection.getresponse()
            body = answer.read()
        except (OSError, HTTPException):
            continue
        finally:
            connection.close()
        if answer.status == 200:
            is_right = f"sha256:{hashlib.sha256(body).hexdigest()}" == blob.digest
            right, wrong = right + is_right, wrong + (not is_right)
    return right, wrong


if __name__ == "__main__":
    from benchmarks.alone import main

    main(run)
