"""A herd on a cold tag, then on a cold blob: the parent is asked once, and every client gets every byte."""

from __future__ import annotations

import asyncio
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from http.client import HTTPResponse
from pathlib import Path
from threading import Barrier

import pytest
from holdfast.testing.random_content import GeneratedContent
from holdfast.testing.sample import build_sample
from holdfast.testing.scripted_parent import ScriptedParent
from holdfast.testing.scripted_wire import Recorded
from support.node import Node, parent_toml
from support.transfer import connect

pytestmark = pytest.mark.loop("asyncio")

NAME = "library/herd"
CLIENTS, BLOB_BYTES, BLOCK_BYTES = 60, 6_000_000, 1 << 16
LOGIN = '[parent.credentials]\nusername = "herd"\npassword = "secret"\n'
#: before each answer of the parent (s), so that the whole herd is there before the first answer is
LATENCY = 0.3


def herd(node: Node, target: str, wanted: bytes) -> list[tuple[int, bool]]:
    """Statuses, and whether the bytes are right, of that many clients that ask at once."""
    start = Barrier(CLIENTS)

    def client(_: int) -> tuple[int, bool]:
        start.wait()
        with closing(connect(node.url)) as connection:
            connection.request("GET", target)
            answer = connection.getresponse()
            return answer.status, is_body(answer, wanted)

    with ThreadPoolExecutor(CLIENTS) as clients:
        return list(clients.map(client, range(CLIENTS)))


def is_body(answer: HTTPResponse, wanted: bytes) -> bool:
    """Whether a body is that, byte for byte; read in blocks, because so many clients read at once."""
    expected, right, offset = memoryview(wanted), True, 0
    while block := answer.read(BLOCK_BYTES):
        right &= block == expected[offset : offset + len(block)]
        offset += len(block)
    return right and offset == len(wanted)


def admitted(parent: ScriptedParent, kind: str) -> Counter[str]:
    """Requests by method that brought a token; one without is only told where to get it."""
    asked = [r for r in parent.log if f"/{kind}/" in r.path and r.header("authorization")]
    return Counter(request.method for request in asked)


def scope_of(request: Recorded) -> str:
    """The scope of a token request, GET or POST."""
    return {**request.parameters(), **request.form()}["scope"]


def token_requests(parent: ScriptedParent) -> Counter[str]:
    """How often a token was asked for, by scope."""
    return Counter(scope_of(request) for request in parent.log if request.path == "/token")


async def test_a_herd_on_a_cold_tag_and_a_cold_blob_asks_the_parent_once(tmp_path: Path) -> None:
    sample, blob = build_sample("herd"), GeneratedContent(BLOB_BYTES, "herd")
    (index,) = [body for digest, _, body in sample.manifests if digest == sample.index]
    right = [(200, True)] * CLIENTS
    async with ScriptedParent() as parent:
        parent.add_sample(NAME, sample=sample)
        digest = parent.add_blob(NAME, blob)
        parent.door.scheme, parent.latency = "bearer", LATENCY
        parent.door.username, parent.door.password = "herd", "secret"
        # who comes after the first answer, on a slow machine, finds it fresh
        settings = parent_toml(parent.url).replace("floating_ttl = 0.0", "floating_ttl = 3600.0") + LOGIN
        with Node(tmp_path, configuration=settings, workers=2) as node:
            tag = await asyncio.to_thread(herd, node, f"/v2/{NAME}/manifests/latest", index)
            assert tag == right
            manifests = admitted(parent, "manifests")
            assert manifests["HEAD"] <= 1
            assert manifests["GET"] == 1
            bytes_ = blob.read(0, BLOB_BYTES)
            assert await asyncio.to_thread(herd, node, f"/v2/{NAME}/blobs/{digest}", bytes_) == right
            assert admitted(parent, "blobs") == {"GET": 1}
            assert parent.bytes_sent == {sample.index: len(index), digest: BLOB_BYTES}
            assert token_requests(parent) == {f"repository:{NAME}:pull": 1}
            assert len(parent.log) <= 6, parent.requests
