"""A process without file descriptors, or without memory: it refuses what it cannot do with 503 and a time, takes
nothing for missing and no parent for away, and works again without a restart once there are some."""

from __future__ import annotations

import json
import os
import resource
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager, suppress
from functools import partial
from http.client import HTTPConnection, HTTPException
from pathlib import Path

import pytest
import support.node
from holdfast.testing.random_content import GeneratedContent
from holdfast.testing.scripted_process import ScriptedProcess, scripted_process
from holdfast_core import fsck
from support.node import Node, parent_toml
from support.patience import PROGRAM_PATIENCE
from support.pushing import OCI_MANIFEST
from support.transfer import connect, fetch

NAME = "library/short"
SIZE = 3_000_000
BLOBS = 24
#: clients at once, and what a process may allocate beyond what it has
CLIENTS, SPARE_BYTES = 60, 8 << 20
#: file descriptors of a small machine
FEW = 96
MANIFESTS, BIG_MANIFEST_BYTES = 20, 3 << 20


@pytest.fixture
def parent() -> Iterator[ScriptedProcess]:
    with scripted_process(*(f for n in range(BLOBS) for f in ("--blob", f"{NAME}={SIZE}:{n}"))) as started:
        yield started


@contextmanager
def limited(pid: int, kind: int, limit: int) -> Iterator[None]:
    """A process that gets no more of something."""
    before = resource.prlimit(pid, kind)
    resource.prlimit(pid, kind, (limit, before[1]))
    try:
        yield
    finally:
        resource.prlimit(pid, kind, before)


def asked(client: HTTPConnection, digest: str) -> tuple[int, str | None, bytes]:
    """The answer on a connection that is open already."""
    client.request("GET", f"/v2/{NAME}/blobs/{digest}")
    answer = client.getresponse()
    return answer.status, answer.getheader("retry-after"), answer.read()


def idle(node: Node) -> HTTPConnection:
    """A connection that waits for nothing."""
    client = connect(node.url)
    client.request("GET", "/healthz")
    client.getresponse().read()
    return client


def is_put_off(answer: tuple[int, str | None, bytes]) -> bool:
    status, after, body = answer
    return (status, after, json.loads(body)["errors"][0]["code"]) == (503, "1", "TOOMANYREQUESTS")


def content(number: int) -> bytes:
    return GeneratedContent(SIZE, str(number)).read(0, SIZE)


def continued(parent: ScriptedProcess, *digests: str) -> bool:
    """Whether no blob came twice. What was under way when the only reader was put off, and its transfer stopped, comes
    again: it lay in the buffers of the connection."""
    sent = parent.stats()["bytes"]
    return sent.keys() == set(digests) and all(SIZE <= size < 2 * SIZE for size in sent.values())


def test_a_worker_without_descriptors_puts_off_and_ends_what_is_idle(
    parent: ScriptedProcess, tmp_path: Path
) -> None:
    held, cold = list(parent.hello["blobs"].values())[:2]
    with Node(tmp_path, configuration=parent_toml(parent.url), workers=1) as node:
        assert fetch(node.url, f"/v2/{NAME}/blobs/{held}").body == content(0)
        (worker,) = node.children("worker")
        with closing(idle(node)) as client, closing(idle(node)) as other:
            with limited(worker, resource.RLIMIT_NOFILE, 0):
                assert is_put_off(asked(client, held))
                assert is_put_off(asked(client, cold))
                assert other.sock is not None
                assert other.sock.recv(1) == b"", "it waited for nothing"
            assert asked(client, cold) == (200, None, content(1))
            assert asked(client, held) == (200, None, content(0))
        assert json.loads(fetch(node.url, "/readyz").body)["troubles"] == []
        assert node.children("worker") == [worker]
    assert continued(parent, held, cold)


def test_a_keeper_without_descriptors_takes_no_parent_for_away(
    parent: ScriptedProcess, tmp_path: Path
) -> None:
    held, cold = list(parent.hello["blobs"].values())[:2]
    with Node(tmp_path, configuration=parent_toml(parent.url), workers=1) as node:
        assert fetch(node.url, f"/v2/{NAME}/blobs/{held}").status == 200
        (keeper,) = node.children("keeper")
        with closing(idle(node)) as client:
            with limited(keeper, resource.RLIMIT_NOFILE, 0):
                assert is_put_off(asked(client, cold))
                assert asked(client, held) == (200, None, content(0))
                assert json.loads(fetch(node.url, "/readyz").body)["parents"] == {
                    "registry.example": "online"
                }
            assert asked(client, cold) == (200, None, content(1))
        assert node.children("keeper") == [keeper]
    assert continued(parent, held, cold)


def test_a_fill_waits_for_a_descriptor(parent: ScriptedProcess, tmp_path: Path) -> None:
    """It asks its parent once it can keep what comes."""
    held, cold = list(parent.hello["blobs"].values())[:2]
    with Node(tmp_path, configuration=parent_toml(parent.url), workers=1) as node:
        assert fetch(node.url, f"/v2/{NAME}/blobs/{held}").status == 200
        (keeper,) = node.children("keeper")
        with ThreadPoolExecutor(1) as pool:
            with limited(keeper, resource.RLIMIT_NOFILE, 0):
                pulled = pool.submit(fetch, node.url, f"/v2/{NAME}/blobs/{cold}")
                node.program.wait_for("fill waits")
                assert sum(parent.stats()["requests"].values()) == 1
            assert pulled.result().body == content(1)
        assert node.children("keeper") == [keeper]
    assert parent.stats()["bytes"] == {held: SIZE, cold: SIZE}


def test_few_descriptors_and_many_clients(
    parent: ScriptedProcess, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every client that comes again has its bytes, whole, and no blob crossed the link twice."""
    digests = list(parent.hello["blobs"].values())
    monkeypatch.setattr(support.node, "COMMAND", ("prlimit", f"--nofile={FEW}:", *support.node.COMMAND))
    node = Node(tmp_path, configuration=parent_toml(parent.url), workers=1)
    with node, ThreadPoolExecutor(CLIENTS) as clients:
        children = [*node.children("keeper"), *node.children("worker")]
        wanted = [digests[number % BLOBS] for number in range(CLIENTS)]
        for number, body in enumerate(clients.map(partial(persistent, node), wanted)):
            assert body == content(number % BLOBS)
        assert [*node.children("keeper"), *node.children("worker")] == children
        assert node.stop() == 0
    assert continued(parent, *digests)
    assert fsck(node.data, (1, 1)).problems == []


def persistent(node: Node, digest: str) -> bytes:
    """A blob, for a client that comes again when it is put off, and never hears that there is none."""
    end = time.monotonic() + PROGRAM_PATIENCE
    while time.monotonic() < end:
        try:
            answer = fetch(node.url, f"/v2/{NAME}/blobs/{digest}")
        except (OSError, HTTPException):
            continue
        if answer.status == 200:
            return answer.body
        assert answer.status in (429, 503), answer
    raise AssertionError(f"{digest} cannot be had")


def test_no_memory_for_many_pulls_and_long_manifests(parent: ScriptedProcess, tmp_path: Path) -> None:
    """A process that gets no more memory refuses, or ends and is replaced; nothing wrong is served or stored."""
    digests = list(parent.hello["blobs"].values())
    settings = 'mode = "ReadWrite"\nanonymous = "push"\n' + parent_toml(parent.url)
    with Node(tmp_path, configuration=settings, workers=1) as node:
        children = [*node.children("keeper"), *node.children("worker")]
        limits = [limited(pid, resource.RLIMIT_AS, used(pid) + SPARE_BYTES) for pid in children]
        with ThreadPoolExecutor(CLIENTS) as clients, suppress(ProcessLookupError), limits[0], limits[1]:
            wanted = [f"/v2/{NAME}/blobs/{digests[number % BLOBS]}" for number in range(CLIENTS)]
            pushed = [f"/v2/app/manifests/t{number}" for number in range(MANIFESTS)]
            pushes = [clients.submit(tried, node, target, long_manifest()) for target in pushed]
            pulls = [clients.submit(tried, node, target) for target in wanted]
            for number, pull in enumerate(pulls):
                assert pull.result() in (None, content(number % BLOBS))
            for push in pushes:
                push.result()
        node.wait_ready()
        for number, digest in enumerate(digests):
            assert persistent(node, digest) == content(number)
        assert node.stop() == 0
    assert fsck(node.data, (1, 1)).problems == []


def long_manifest() -> bytes:
    """One that takes room in memory."""
    head = {"schemaVersion": 2, "mediaType": OCI_MANIFEST, "layers": []}
    return json.dumps({**head, "annotations": {"x": "y" * BIG_MANIFEST_BYTES}}).encode()


def used(pid: int) -> int:
    """Address space of a process."""
    with open(f"/proc/{pid}/statm") as file:
        return int(file.read().split()[0]) * os.sysconf("SC_PAGE_SIZE")


def tried(node: Node, target: str, body: bytes | None = None) -> bytes | None:
    """The body of a 200, None for a refusal or for a connection that broke off."""
    method, headers = "PUT" if body else "GET", {"Content-Type": OCI_MANIFEST}
    try:
        answer = fetch(node.url, target, method, headers=headers, body=body)
    except (OSError, HTTPException):
        return None
    assert answer.status in (200, 400, 429, 503), (
        answer
    )  # 400: of the manifest, once there was memory to read it
    return answer.body if answer.status == 200 else None
