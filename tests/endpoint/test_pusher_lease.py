"""What a client that pushes is told of a blob that nothing names: found, as long as its manifest has time to come."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
from holdfast.config import Configuration
from holdfast_core.digest import Digest
from support.pushing import OPEN, image, running

#: of the clock of these nodes (wall seconds)
NOW = 1_800_000_000.0
HOUR = 3600.0
BODY = b"a layer"
DIGEST = str(Digest.of(BODY))
READS_ONLY = msgspec.structs.replace(OPEN, anonymous="pull")
READ_ONLY = msgspec.structs.replace(OPEN, mode="ReadOnly")


@pytest.mark.parametrize(
    ("config", "hours", "status"),
    [(OPEN, 22.9, 200), (OPEN, 23.1, 404), (READS_ONLY, 23.1, 200), (READ_ONLY, 23.1, 200)],
)
async def test_a_blob_about_to_be_collected_is_not_found_by_who_may_push(
    tmp_path: Path, config: Configuration, hours: float, status: int
) -> None:
    async with running(tmp_path) as node:
        pushed_at = NOW - hours * HOUR
        node.store.blobs.push_inline("a", Digest.parse(DIGEST), BODY, now=pushed_at).result()
    async with running(tmp_path, config) as node:
        answer = await node.ask("HEAD", f"/v2/a/blobs/{DIGEST}")
        assert answer.status == status
        assert (await node.ask("GET", f"/v2/a/blobs/{DIGEST}")).body == BODY


async def test_pushed_again_or_named_it_is_found(tmp_path: Path) -> None:
    async with running(tmp_path) as node:
        for name in ("again", "named"):
            old = NOW - 23.5 * HOUR
            node.store.blobs.push_inline(name, Digest.parse(DIGEST), BODY, now=old).result()
            assert (await node.ask("HEAD", f"/v2/{name}/blobs/{DIGEST}")).status == 404
        await node.blob("again", BODY)
        assert (await node.put("named", "v1", image(DIGEST))).status == 201
        for name in ("again", "named"):
            assert (await node.ask("HEAD", f"/v2/{name}/blobs/{DIGEST}")).status == 200
