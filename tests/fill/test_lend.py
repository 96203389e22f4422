"""A growing file may go out by sendfile: only bytes that landed, only those that the hold-back lets go."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from holdfast.endpoint.blobs import FillSource
from holdfast.fill.buffer import FillBuffer
from holdfast.fill.extents import Extents
from holdfast.fill.readers import FillGrown, FillMoved, FillSnapshot
from holdfast.keeper.rpc.fill_view import FillView
from holdfast.testing.random_content import GeneratedContent
from support.fills import MIB, drain, held_hashing, site, until

pytestmark = pytest.mark.loop("asyncio")

HOLDBACK = 64 << 10
BODY = GeneratedContent(3 * MIB).read(0, 3 * MIB)


def lent(source: FillSource, offset: int, length: int) -> bytes:
    """The bytes of a loan."""
    loan = source.lend(offset, length)
    return b"" if loan is None else os.pread(loan[0], loan[1], offset)


async def test_a_reader_lends_what_landed(tmp_path: Path) -> None:
    async with site(tmp_path) as node:
        node.script(stall_after=2 * MIB)
        digest = node.parent.add_blob("demo", BODY)
        answer = await node.fills.open("demo", digest, 0, -1, True)
        reader = await node.fills.attach(answer.fill, 0, answer.size, True)
        source = FillSource([(0, answer.size, reader)], answer.size, HOLDBACK, None)
        await until(lambda: reader.available(0) == 2 * MIB)
        assert lent(source, 0, 3 * MIB) == BODY[: 2 * MIB]
        assert lent(source, MIB + 1, 1000) == BODY[MIB + 1 : MIB + 1001]
        assert source.lend(2 * MIB, MIB) is None
        source.close()


async def test_the_tail_is_not_lent_before_the_verdict(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    verdict = held_hashing(monkeypatch)
    async with site(tmp_path) as node:
        digest = node.parent.add_blob("demo", BODY)
        answer = await node.fills.open("demo", digest, 0, -1, True)
        reader = await node.fills.attach(answer.fill, 0, answer.size, True)
        source = FillSource([(0, answer.size, reader)], answer.size, HOLDBACK, None)
        await until(lambda: reader.available(0) == answer.size)
        assert lent(source, 0, answer.size) == BODY[:-HOLDBACK]
        assert source.lend(answer.size - HOLDBACK, HOLDBACK) is None
        verdict.set()
        assert await source.read(answer.size - HOLDBACK, HOLDBACK) == BODY[-HOLDBACK:]
        source.close()
        assert await drain(node, digest) == BODY


def test_bytes_in_several_files_are_read(tmp_path: Path) -> None:
    part, more = tmp_path / "part", tmp_path / "more"
    part.write_bytes(BODY)
    more.write_bytes(BODY)
    view = FillView(FillSnapshot(len(BODY), ((0, str(part)),), (), False))
    view.change(FillGrown(0, MIB))
    loan = view.lend(1000)
    assert loan is not None
    assert os.pread(loan[0], loan[1], 5) == BODY[5:1005]
    view.change(FillMoved(MIB, str(more)))
    assert view.lend(1000) is None
    view.close()


def test_a_window_of_memory_is_not_lent() -> None:
    medium = FillBuffer(None, MIB)
    medium.move(Extents())
    assert medium.lend(1000) is None
    medium.close()
    assert medium.lend(1000) is None
