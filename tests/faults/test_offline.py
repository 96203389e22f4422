"""What clients are told about things that are not held, by a node whose parent is away or not well: through
worker and keeper, with the statuses and times that clients act on (design: the miss table)."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest
from holdfast.testing.fault import ScriptedFault
from holdfast.testing.random_content import digest_of
from holdfast.testing.scripted_parent import ScriptedParent
from support.node import Node, parent_toml
from support.transfer import Answer, fetch

pytestmark = pytest.mark.loop("asyncio")

NAME = "library/away"
MISSING = digest_of(b"not held")
ASKS = [
    ("GET", f"/v2/{NAME}/manifests/{MISSING}", "MANIFEST_UNKNOWN"),
    ("GET", f"/v2/{NAME}/blobs/{MISSING}", "BLOB_UNKNOWN"),
    ("GET", f"/v2/{NAME}/manifests/never-seen", "MANIFEST_UNKNOWN"),
    ("GET", "/v2/library/never-seen/tags/list", "NAME_UNKNOWN"),
]


async def ask(node: Node, target: str, method: str = "GET") -> Answer:
    return await asyncio.to_thread(fetch, node.url, target, method)


def code(answer: Answer) -> str:
    (error,) = json.loads(answer.body)["errors"]
    return str(error["code"])


async def test_an_offline_parent_is_503_with_a_time_and_costs_no_connection(tmp_path: Path) -> None:
    async with ScriptedParent() as parent:
        parent.add_sample(NAME)
        settings = parent_toml(parent.url, probe_interval=3600.0)
        with Node(tmp_path, configuration=settings, workers=1) as node:
            assert (await ask(node, f"/v2/{NAME}/manifests/latest")).status == 200
            parent.offline = True
            first = await ask(node, ASKS[0][1])
            assert (first.status, "retry-after" in first.headers) == (503, True)
            await known_offline(node)
            connections = parent.connections_made
            for method, target, noun in ASKS * 5:
                answer = await ask(node, target, method)
                assert (answer.status, code(answer)) == (503, noun), target
                assert 1 <= int(answer.headers["retry-after"]) <= 3600
            assert parent.connections_made == connections
            held = await ask(node, f"/v2/{NAME}/manifests/latest")
            assert (held.status, "warning" in held.headers) == (200, True)


async def known_offline(node: Node) -> None:
    """Ask until the node says that it knows."""
    for _ in range(50):
        states = json.loads((await ask(node, "/readyz")).body)["parents"]
        if set(states.values()) == {"offline"}:
            return
        await ask(node, ASKS[0][1])
    raise AssertionError("the parent never counted as offline")


async def test_a_parent_that_keeps_erring_is_502_and_left_alone(tmp_path: Path) -> None:
    """Five tries, then that repository is refused for 30 s without asking; another repository is asked."""
    async with ScriptedParent() as parent:
        other = parent.add_sample("library/other")
        parent.script(ScriptedFault(path=NAME, times=-1, status=503))
        with Node(tmp_path, configuration=parent_toml(parent.url), workers=1) as node:
            target = f"/v2/{NAME}/manifests/latest"
            assert (await ask(node, target)).status == 502
            assert parent.count("GET", NAME) == 5
            for _ in range(5):
                answer = await ask(node, target)
                assert (answer.status, code(answer)) == (502, "MANIFEST_UNKNOWN")
                assert 1 <= int(answer.headers["retry-after"]) <= 30
            assert parent.count("GET", NAME) == 5
            well = await ask(node, "/v2/library/other/manifests/latest")
            assert well.headers["docker-content-digest"] == other.index
