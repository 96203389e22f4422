"""HEAD and GET of a blob or manifest say the same, whether it is missing, on its way in, or held
(clients take either for the other)."""

from __future__ import annotations

import asyncio
from contextlib import closing
from http.client import HTTPResponse
from pathlib import Path

import pytest
from holdfast.testing.fault import RequestGate, ScriptedFault
from holdfast.testing.random_content import GeneratedContent
from holdfast.testing.scripted_parent import ScriptedParent
from support.node import Node, parent_toml
from support.patience import PROGRAM_PATIENCE
from support.transfer import connect, fetch

pytestmark = pytest.mark.loop("asyncio")

NAME = "library/same"
BLOB = GeneratedContent(3_000_000, "same")
#: what may differ between two answers that are the same
MOMENT = {"date"}
Headers = list[tuple[str, str]]


def told(answer: HTTPResponse) -> Headers:
    """Every header line in a fixed order, without the moment."""
    lines = [(name.lower(), value) for name, value in answer.getheaders()]
    return sorted(line for line in lines if line[0] not in MOMENT)


def asked(node: Node, method: str, target: str) -> Headers:
    """The headers of one answer, its body read."""
    with closing(connect(node.url)) as connection:
        connection.request(method, target)
        answer = connection.getresponse()
        assert answer.status == 200
        answer.read()
        return told(answer)


def filling(node: Node, target: str, gate: RequestGate, loop: asyncio.AbstractEventLoop) -> Headers:
    """The headers of a GET that are here while the parent still owes the rest of the body."""
    with closing(connect(node.url)) as connection:
        connection.request("GET", target)
        answer = connection.getresponse()
        headers = told(answer)
        assert answer.read(1) == BLOB.read(0, 1)
        asyncio.run_coroutine_threadsafe(gate.wait_arrived(), loop).result(PROGRAM_PATIENCE)
        loop.call_soon_threadsafe(gate.release)
        assert answer.read() == BLOB.read(1, BLOB.size)
        return headers


async def test_a_blob_is_described_the_same_before_while_and_after_it_comes(tmp_path: Path) -> None:
    async with ScriptedParent() as parent:
        digest, gate = parent.add_blob(NAME, BLOB), RequestGate()
        loop, target = asyncio.get_running_loop(), f"/v2/{NAME}/blobs/{digest}"
        parent.script(
            ScriptedFault(method="GET", path=digest, cut_after=BLOB.size // 2),
            ScriptedFault(method="GET", path=digest, gate=gate),
        )
        with Node(tmp_path, configuration=parent_toml(parent.url)) as node:
            before = await asyncio.to_thread(asked, node, "HEAD", target)
            assert parent.count("GET", digest) == 0
            while_filling = await asyncio.to_thread(filling, node, target, gate, loop)
            assert parent.count("GET", digest) == 2
            after = [await asyncio.to_thread(asked, node, method, target) for method in ("GET", "HEAD")]
            assert parent.count("GET", digest) == 2
    names = [name for name, _ in before]
    assert len(names) == len(set(names))
    assert set(names) >= {"content-length", "content-type", "docker-content-digest", "etag"}
    assert [while_filling, *after] == [before] * 3


async def test_a_manifest_is_described_the_same_before_and_after_it_comes(tmp_path: Path) -> None:
    """By tag and by digest; the answers by tag differ in nothing either while the tag is fresh."""
    async with ScriptedParent() as parent:
        sample = parent.add_sample(NAME)
        with Node(tmp_path, configuration=parent_toml(parent.url)) as node:
            for reference in (sample.images["amd64"], "latest"):
                target = f"/v2/{NAME}/manifests/{reference}"
                answers = [
                    await asyncio.to_thread(asked, node, method, target)
                    for method in ("HEAD", "GET", "HEAD", "GET")
                ]
                assert answers == [answers[0]] * 4
                assert parent.count("GET", reference) == 1
            known = await asyncio.to_thread(fetch, node.url, f"/v2/{NAME}/manifests/{sample.index}")
            assert dict(answers[0])["etag"] == known.headers["etag"]
