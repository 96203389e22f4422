"""Logging in at a parent that makes it hard: a token server that hangs, and a mirror that asks for a login
and is of no use. And `namespaces`, the names of a parent that no URL and no prefix shows."""

from __future__ import annotations

import asyncio
import base64
from pathlib import Path

import pytest
from holdfast.testing.fault import ScriptedFault
from holdfast.testing.sample import build_sample
from holdfast.testing.scripted_parent import ScriptedParent
from support.node import Node, parent_toml
from support.patience import PROGRAM_PATIENCE
from support.transfer import Answer, fetch

pytestmark = pytest.mark.loop("asyncio")

NAME = "library/login"
LOGIN = '[parent.credentials]\nusername = "edge"\npassword = "secret-of-edge"\n'
TAG = f"/v2/{NAME}/manifests/latest"


async def ask(node: Node, target: str = TAG, method: str = "GET") -> Answer:
    return await asyncio.to_thread(fetch, node.url, target, method)


async def comes(node: Node, target: str) -> None:
    """Ask until it is answered: a parent on a slow machine may exceed a short time-out too."""
    async with asyncio.timeout(PROGRAM_PATIENCE):
        while (await ask(node, target)).status != 200:
            await asyncio.sleep(0.1)


def lock(parent: ScriptedParent) -> None:
    """Tokens for the node's login alone."""
    parent.door.scheme = "bearer"
    parent.door.username, parent.door.password = "edge", "secret-of-edge"


HANGS = {
    "says nothing": ScriptedFault(path="/token", times=-1, delay=3600.0),
    "stops in the middle": ScriptedFault(path="/token", times=-1, stall_after=3),
}


@pytest.mark.parametrize("hang", HANGS)
async def test_a_token_server_that_hangs_costs_a_bounded_wait(hang: str, tmp_path: Path) -> None:
    """No wait is longer than its time-out, tries are counted, and the answer says when to come back. What is
    held goes on; and once the token server answers again, so does everything else."""
    async with ScriptedParent() as parent:
        sample = parent.add_sample(NAME)
        lock(parent)
        settings = parent_toml(parent.url, answer_timeout=0.3, probe_interval=0.2) + LOGIN
        with Node(tmp_path, configuration=settings, workers=1) as node:
            await comes(node, TAG)
            parent.door.expire()
            parent.reset_counts()
            parent.script(HANGS[hang])
            missing = f"/v2/{NAME}/manifests/{sample.images['amd64']}"
            refused = await ask(node, missing)
            assert refused.status == 503
            assert int(refused.headers["retry-after"]) >= 1
            assert 1 <= parent.count("", "/token") <= 5
            held = await ask(node)
            assert (held.status, "warning" in held.headers) == (200, True)
            parent.faults.clear()
            await comes(node, missing)


def shown(parent: ScriptedParent) -> str:
    """All that a server was sent, with what Basic hides spelled out."""
    secrets = [request.header("authorization") or "" for request in parent.log]
    basic = [base64.b64decode(text[6:]).decode() for text in secrets if text.startswith("Basic ")]
    return repr([(r.path, r.query, r.headers, r.body) for r in parent.log]) + repr(basic)


MIRRORS = {
    "asks for a login, its token server errs": ScriptedFault(path="/token", times=-1, status=500),
    "asks for a login, its token server refuses": ScriptedFault(path="/token", times=-1, status=401),
    "errs": ScriptedFault(times=-1, status=503),
    "drops": ScriptedFault(times=-1, drop=True, reset=True),
}


@pytest.mark.parametrize("mirror", MIRRORS)
async def test_a_mirror_of_no_use_is_passed_over_and_learns_nothing(mirror: str, tmp_path: Path) -> None:
    """The login goes to the parent itself, once, and the pull succeeds; nothing of it went to the mirror."""
    async with ScriptedParent() as parent, ScriptedParent() as useless:
        sample = parent.add_sample(NAME)
        useless.add_sample(NAME)
        lock(parent)
        useless.door.scheme = "bearer"
        useless.script(MIRRORS[mirror])
        settings = parent_toml(parent.url, mirrors=[useless.url]) + LOGIN
        layer = sample.layers["amd64"][1]
        with Node(tmp_path, configuration=settings, workers=1) as node:
            assert (await ask(node)).status == 200
            blob = await ask(node, f"/v2/{NAME}/blobs/{layer}")
        assert (blob.status, blob.body == sample.blobs[layer]) == (200, True)
        assert useless.count("", f"/v2/{NAME}/manifests/latest") >= 1, "the mirror was asked first"
        assert useless.bytes_sent == {}
        assert parent.bytes_sent[layer] == len(sample.blobs[layer])
        assert parent.count("", "/token") == 1
        assert "secret-of-edge" in shown(parent)
        assert "edge" not in shown(useless)


async def test_a_parent_is_reached_by_each_of_its_namespaces(tmp_path: Path) -> None:
    """`parent[].namespaces`: any of them in `ns` means this parent, in any case; the answer repeats the one
    that was used; there is one entry, and a name that is not listed is nobody's."""
    async with ScriptedParent() as parent, ScriptedParent() as other:
        sample = parent.add_sample(NAME)
        others = other.add_sample(NAME, sample=build_sample("other"))
        names = ["plant.example", "plant-old.example:5000"]
        settings = parent_toml(parent.url, namespaces=names).replace("default = true\n", "")
        settings += parent_toml(other.url, "other.example").partition("\n\n")[2]
        with Node(tmp_path, configuration=settings, workers=1) as node:
            for used in ("registry.example", *names, "Plant.Example"):
                answer = await ask(node, f"{TAG}?ns={used}")
                assert (answer.status, answer.headers["docker-content-digest"]) == (200, sample.index)
                assert answer.headers["oci-namespace"] == used.lower()
            image = sample.images["amd64"]
            for used in names:
                assert (await ask(node, f"/v2/{NAME}/manifests/{image}?ns={used}")).status == 200
            assert parent.count("GET", image) == 1
            assert parent.count("GET", "manifests/latest") == 1
            unlisted = await ask(node, f"{TAG}?ns=plant.example.evil.test")
            assert (unlisted.status, b'"NAME_UNKNOWN"' in unlisted.body) == (404, True)
            assert other.log == []
            assert (await ask(node)).headers["docker-content-digest"] == others.index
