"""Parents for misses: docker-registry as fast as loopback goes, and a scripted parent behind a set rate.

The scripted parent paces its bodies itself, so a link needs no rights on the machine; it counts every
request and byte it hands over. Its bodies are in memory: to compute one while it is sent took a twentieth of
the two cores that server and clients share with it here and would not share in the field.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from holdfast.testing.scripted_process import ScriptedProcess, scripted_process

from benchmarks.content import NAME, Content, build, put_registry
from benchmarks.peers import Registry, Server

GIGABIT = 1e9 / 8


@contextmanager
def loopback_parent(place: Path, *sizes: int) -> Iterator[tuple[Server, Content]]:
    """docker-registry with one blob of each size."""
    content = build(place / "content", sizes)
    put_registry(content, place / "parent")
    with Registry(place / "p", data=place / "parent") as parent:
        yield parent, content


@contextmanager
def limited_parent(rate: float, *sizes: int) -> Iterator[tuple[ScriptedProcess, list[str]]]:
    """A scripted parent with one blob of each size, at `rate` bytes a second over all connections (0 = no
    limit); the targets of the blobs."""
    wanted = [f"{NAME}={size}:{number}" for number, size in enumerate(sizes)]
    arguments = [part for blob in wanted for part in ("--blob", blob)]
    with scripted_process("--held", "--rate", str(rate), *arguments) as parent:
        digests = [parent.hello["blobs"][blob] for blob in wanted]
        yield parent, [f"/v2/{NAME}/blobs/{digest}" for digest in digests]


def blob_requests(parent: ScriptedProcess) -> tuple[int, int]:
    """GETs of blobs and bytes of bodies that the parent has seen so far."""
    seen = parent.stats()
    gets = sum(
        n for request, n in seen["requests"].items() if request.startswith("GET ") and "/blobs/" in request
    )
    return gets, sum(seen["bytes"].values())
