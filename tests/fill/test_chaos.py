"""Many readers that come and go over a parent and a link that do everything wrong, by seed.

What must hold whatever happens: a byte that is let out is the right one, nobody hangs, a whole body that
ends is complete, and at the end nothing is left open.
"""

from __future__ import annotations

import asyncio
import random
from pathlib import Path
from typing import Any

import pytest
from holdfast.errors import Refusal
from holdfast.testing.random_content import GeneratedContent
from support.fills import BLOBS, MIB, Drain, Site, site, until

pytestmark = pytest.mark.loop("asyncio")

FAULTS: list[dict[str, Any]] = [
    {"cut_after": 700_000},
    {"cut_after": 1},
    {"cut_after": 2_000_000, "reset": True},
    {"drop": True},
    {"status": 503},
    {"stall_after": 900_000},
    {"ignore_range": True},
    {"shift": 1},
    {"headers": [("ETag", '"other"')]},
    {"headers": [("ETag", "")]},
]


#: a client that waits longer (s) hangs
HANGS = 60.0


async def client(node: Site, contents: list[GeneratedContent], chance: random.Random) -> str:
    """One client: any blob, any range, perhaps gone early."""
    content = chance.choice(contents)
    start = chance.randrange(content.size)
    shapes = [
        (0, -1, True),
        (start, -1, False),
        (start, min(content.size, start + chance.choice([1, 5000, 3 * MIB])), False),
        (-chance.randint(1, 100_000), -1, False),
    ]
    asked = chance.choice(shapes)
    body = Drain(node, content.digest, chance.choice(["demo", "other"]))
    patience = chance.choice([0.01, 0.1, HANGS, HANGS])
    try:
        async with asyncio.timeout(patience):
            got = await body.all(*asked)
    except TimeoutError:
        assert patience < HANGS, f"{asked} of {content.size} hangs"
        got = None
    except Refusal:
        got = None
    first = asked[0] if asked[0] >= 0 else max(0, content.size + asked[0])
    assert bytes(body.out) == content.read(first, len(body.out))
    if got is not None:
        assert first + len(got) == (content.size if asked[1] < 0 else asked[1])
    return "left" if got is None else "done"


@pytest.mark.parametrize("seed", range(4))
async def test_right_bytes_or_none(tmp_path: Path, seed: int) -> None:
    chance = random.Random(seed)
    policy = chance.choice(["finish", "finish_if", "park"])
    options = {"on_leave": policy, "transfers": chance.choice([2, 8]), "checkpoint_bytes": MIB}
    async with site(tmp_path, silence=0.3, **options) as node:
        sizes = [1, 70_000, 3 * MIB, 9 * MIB + 17]
        contents = [GeneratedContent(size, f"{seed}") for size in sizes]
        for content in contents:
            node.parent.add_blob("demo", content)
            node.parent.add_blob("other", content)
        for fault in chance.sample(FAULTS, 6):
            node.script(skip=chance.randrange(12), times=chance.randint(1, 3), **fault)
        ends: list[str] = []
        for _ in range(4):
            wave = (client(node, contents, chance) for _ in range(12))
            ends += await asyncio.gather(*wave)
        node.parent.faults.clear()
        assert ends.count("done") >= 12
        for content in contents:
            assert await Drain(node, content.digest).all() == content.read(0, content.size)
            await until(lambda digest=content.digest: node.held("demo", digest))  # type: ignore[misc]
        assert node.fills.counters["mismatched"] == 0
        await until(lambda: all(f.idle or f.ended for f in node.fills._by_number.values()))
    assert node.parent.count("GET", BLOBS) < 200
