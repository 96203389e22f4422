"""Processes that stand still for a while, as on a machine that swaps or under a debugger, and go on."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest
from holdfast.testing.random_content import GeneratedContent
from holdfast.testing.scripted_process import ScriptedProcess, scripted_process
from holdfast_core import fsck
from support.node import Node, parent_toml
from support.plain_push import at, push
from support.transfer import fetch

NAME = "library/still"
SIZE = 3_000_000


@pytest.fixture
def parent() -> Iterator[ScriptedProcess]:
    with scripted_process("--blob", f"{NAME}={SIZE}:one", "--blob", f"{NAME}={SIZE}:two") as started:
        yield started


@contextmanager
def stopped(pid: int) -> Iterator[None]:
    """A process that stands still."""
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


def test_beside_a_keeper_that_stands_still_hits_are_served_and_the_rest_waits(
    parent: ScriptedProcess, tmp_path: Path
) -> None:
    held, cold = parent.hello["blobs"].values()
    settings = 'mode = "ReadWrite"\nanonymous = "push"\n' + parent_toml(parent.url)
    with Node(tmp_path, configuration=settings) as node, ThreadPoolExecutor(2) as clients:
        assert fetch(node.url, f"/v2/{NAME}/blobs/{held}").status == 200
        before = [*node.children("keeper"), *node.children("worker")]
        with stopped(before[0]):
            pulled = clients.submit(fetch, node.url, f"/v2/{NAME}/blobs/{cold}")
            pushed = clients.submit(push, node.url, "plant/app", "v1", b"pushed" * 9000)
            for _ in range(20):
                assert fetch(node.url, f"/v2/{NAME}/blobs/{held}").body == body("one")
            assert not pulled.done()
            assert not pushed.done()
        assert pulled.result().body == body("two")
        digest = pushed.result()
        assert at(node.url, "plant/app", "v1") == digest
        assert [*node.children("keeper"), *node.children("worker")] == before, "nothing writes in its place"
        assert node.stop() == 0
    assert fsck(node.data, (1, 1)).problems == []
    assert parent.stats()["bytes"] == {held: SIZE, cold: SIZE}


def test_a_worker_that_stands_still_loses_no_request(parent: ScriptedProcess, tmp_path: Path) -> None:
    held, cold = parent.hello["blobs"].values()
    with (
        Node(tmp_path, configuration=parent_toml(parent.url), workers=1) as node,
        ThreadPoolExecutor(8) as clients,
    ):
        assert fetch(node.url, f"/v2/{NAME}/blobs/{held}").status == 200
        (worker,) = node.children("worker")
        with stopped(worker):
            pulls = [
                clients.submit(fetch, node.url, f"/v2/{NAME}/blobs/{digest}") for digest in [held, cold] * 4
            ]
        assert [pull.result().body for pull in pulls] == [body("one"), body("two")] * 4
        assert node.children("worker") == [worker]
        assert json.loads(fetch(node.url, "/readyz").body)["troubles"] == []
    assert parent.stats()["bytes"] == {held: SIZE, cold: SIZE}


def body(seed: str) -> bytes:
    return GeneratedContent(SIZE, seed).read(0, SIZE)
