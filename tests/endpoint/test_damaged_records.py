"""Every record that a client's request meets, flipped: on a root and under a parent, with its copy in the journal and
without. An answer is what it was, or an error; never 200 with other bytes, never a request that is not answered."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from holdfast.config import Configuration
from holdfast_core import format as layout
from holdfast_core.digest import CHUNK_BYTES, Digest
from support.pushing import OCI_MANIFEST, OPEN, Registry, descriptor, image, pushing
from support.stores import some_bytes, without_journal

LAYER, SMALL, CONFIG = some_bytes(CHUNK_BYTES + 77), b"small layer", b'{"config":1}'
IMAGE = image(str(Digest.of(CONFIG)), str(Digest.of(SMALL)), str(Digest.of(LAYER)))
SUBJECT = Digest.of(IMAGE)
SIGNATURE = image(
    str(Digest.of(CONFIG)), subject=descriptor(str(SUBJECT), len(IMAGE), mediaType=OCI_MANIFEST)
)
PATHS = (
    "manifests/x",
    f"manifests/{SUBJECT}",
    f"manifests/{Digest.of(SIGNATURE)}",
    f"blobs/{Digest.of(CONFIG)}",
    f"blobs/{Digest.of(SMALL)}",
    f"blobs/{Digest.of(LAYER)}",
    f"referrers/{SUBJECT}",
    "tags/list",
)
#: what these requests read
TABLES = b"RLBCTHPDGAWYIUE"


async def push_all(node: Registry) -> None:
    """As a client that asks for each blob first."""
    for body in (LAYER, SMALL, CONFIG):
        digest = str(Digest.of(body))
        if (await node.ask("HEAD", f"/v2/a/blobs/{digest}")).status != 200:
            begun = await node.ask("POST", "/v2/a/blobs/uploads/", b"")
            assert begun.status == 202
            glue = "&" if "?" in begun.headers["location"] else "?"
            put = await node.ask("PUT", f"{begun.headers['location']}{glue}digest={digest}", body)
            assert put.status == 201, put
    for reference, body in (("x", IMAGE), (str(Digest.of(SIGNATURE)), SIGNATURE)):
        answer = await node.put("a", reference, body)
        assert answer.status == 201, answer


async def answers(node: Registry) -> dict[str, tuple[int, bytes]]:
    """What a client gets."""
    found = {}
    for path in PATHS:
        head = await node.ask("HEAD", f"/v2/a/{path}") if "list" not in path else None
        answer = await node.ask("GET", f"/v2/a/{path}")
        assert answer.complete, path
        assert head is None or "referrers" in path or head.status == answer.status, (path, head, answer)
        found[path] = (answer.status, answer.body)
    return found


def flip(node: Registry, table: bytes) -> list[bytes]:
    """One bit of each record of a table; their keys."""
    keys = [key for key, _ in node.store._index.scan(table)]
    with node.store._index.begin(write=True) as txn:
        for key in keys:
            value = bytearray(txn.get(key) or b"")
            value[len(value) // 2] ^= 8
            txn.put(key, bytes(value))
    return keys


def check(before: dict[str, tuple[int, bytes]], after: dict[str, tuple[int, bytes]]) -> list[str]:
    """The paths whose answers are errors now; the others are what they were."""
    wrong = [path for path in PATHS if before[path] != after[path]]
    for path in wrong:
        status, body = after[path]
        assert status in (404, 500), (path, status, body)
        assert json.loads(body)["errors"][0]["message"], path
    return wrong


@pytest.mark.parametrize("copy", [True, False], ids=["journal", "no-journal"])
@pytest.mark.parametrize("table", TABLES.decode())
async def test_case_fault_5_a_root(tmp_path: Path, table: str, copy: bool) -> None:
    async with pushing(tmp_path / "root", OPEN) as node:
        await push_all(node)
        before = await answers(node)
        assert {status for status, _ in before.values()} == {200}
        if not copy:
            without_journal(node.store)
        keys = flip(node, table.encode())
        wrong = check(before, await answers(node))
        assert not (copy and wrong)
        if wrong:
            assert all(before[path] != (200, b"") for path in wrong)
            status = json.loads((await node.ask("GET", "/readyz")).body)
            assert status["ready"]
            assert any("have no copy" in one for one in status["troubles"])
            await push_all(node)
            assert await answers(node) == before
        await node.keeper.parts.records.scrub(lambda: node.clock.sleep(0))
        assert not [key for key in keys if node.store.upkeep.is_damaged(key)]
        assert json.loads((await node.ask("GET", "/readyz")).body)["troubles"] == []


@pytest.mark.parametrize("copy", [True, False], ids=["journal", "no-journal"])
@pytest.mark.parametrize("table", TABLES.decode())
async def test_case_fault_5_cached_content(tmp_path: Path, table: str, copy: bool) -> None:
    """The parent is there: every answer is what it was, also without the journal."""
    async with pushing(tmp_path / "root", OPEN) as root:
        await push_all(root)
        async with pushing(tmp_path / "child", Configuration(), root) as child:
            await answers(child)
            before = await answers(child)
            assert {status for status, _ in before.values()} == {200}
            if not copy:
                without_journal(child.store)
            flip(child, table.encode())
            assert check(before, await answers(child)) == []
            await child.keeper.parts.records.scrub(lambda: child.clock.sleep(0.001))
            assert json.loads((await child.ask("GET", "/readyz")).body)["troubles"] == []


async def test_case_fault_5_a_tag_that_waits_for_the_parent_is_the_outbox_s(tmp_path: Path) -> None:
    """Not the parent's: that has another one under this name."""
    async with pushing(tmp_path / "root", OPEN) as root:
        await push_all(root)
        mode = Configuration(anonymous="push", mode="ReadWrite")
        async with pushing(tmp_path / "child", mode, root) as child:
            child.keeper.parts.senders[:] = child.idle_senders
            await push_all(child)
            assert (await child.put("a", "x", SIGNATURE)).status == 201
            without_journal(child.store)
            flip(child, layout.TAG)
            answer = await child.ask("GET", "/v2/a/manifests/x")
            assert (answer.status, answer.body) == (200, SIGNATURE)
            tag = child.store.references.tag("a", "x")
            assert tag is not None
            assert tag.origin == "local"
