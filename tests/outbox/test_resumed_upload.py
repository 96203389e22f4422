"""Uploads that were begun before: the parent has other bytes of the blob, or still reads an earlier request. And a blob
that is not here yet."""

from __future__ import annotations

import asyncio
import fcntl
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import msgspec
import pytest
from holdfast import backoff
from holdfast.outbox import blob_uploads
from holdfast.parent import push_client as parent_push
from holdfast_core.digest import Digest
from support.patience import patience
from support.pushing import OPEN, Registry, image, pushing

READ_WRITE = msgspec.structs.replace(OPEN, mode="ReadWrite")


async def empty(node: Registry) -> None:
    """Wait until nothing is left to go up."""
    async with patience():
        while node.store.references.outbox.rows():
            await asyncio.sleep(0.01)


async def refusal_of(node: Registry) -> dict[str, Any]:
    """The first line of the log that says why an entry did not go up."""
    async with patience():
        while True:
            for line in node.logs:
                if line.get("event") == "outbox entry refused":
                    return line
            await asyncio.sleep(0.01)


@asynccontextmanager
async def stopped_in_a_blob(
    place: Path, monkeypatch: pytest.MonkeyPatch, *, damaged: bool = False
) -> AsyncIterator[tuple[Registry, str, Path]]:
    """A root that has a part of a blob in an upload, whose sender has ended: the root, the digest, the upload's file.
    `damaged`: other bytes came than were sent."""
    layer = bytes(range(256)) * 400
    monkeypatch.setattr(blob_uploads, "PIECE_BYTES", 10_000)
    monkeypatch.setattr(blob_uploads, "SINGLE_BYTES", 5_000)
    async with pushing(place / "root", OPEN) as root:
        async with pushing(place / "child", READ_WRITE, root, going_up=True) as child:
            with recorded_pieces(child, stop_after=3, damaged=damaged) as sent:
                config, text = await child.blob("a", b"{}"), await child.blob("a", layer)
                assert (await child.put("a", "x", image(config, text))).status == 201
                async with patience():
                    while len(sent) < 3:
                        await asyncio.sleep(0.01)
        (file,) = (path for path in (root.data / "uploads").iterdir() if path.stat().st_size == 30_000)
        yield root, text, file


class OtherBytes:
    """Reads other bytes than those of a blob."""

    def read(self, offset: int, length: int) -> bytes:
        """So many."""
        return bytes(length)


@contextmanager
def recorded_pieces(child: Registry, *, stop_after: int = 1000, damaged: bool = False) -> Iterator[list[int]]:
    """Where the pieces of blobs that it sends begin; after so many it hangs. `damaged`: they are other bytes."""
    up = next(iter(child.keeper.parents.values())).up
    sent, piece = list[int](), up.piece

    async def recorded(*args: Any) -> parent_push.ParentUpload:
        if len(sent) == stop_after:
            await asyncio.Event().wait()
        sent.append(args[3])
        changed: list[Any] = [*args[:2], OtherBytes() if damaged else args[2], *args[3:]]
        return await piece(*changed)

    with patch.object(up, "piece", recorded):
        yield sent


async def test_an_upload_of_which_the_parent_has_other_bytes_begins_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It cannot be closed by its digest, however often it is gone on with."""
    async with stopped_in_a_blob(tmp_path, monkeypatch, damaged=True) as (root, digest, _):
        async with pushing(tmp_path / "child", READ_WRITE, root, going_up=True) as child:
            with recorded_pieces(child) as sent:
                await empty(child)
        blob = root.store.blobs.get("a", Digest.parse(digest))
        assert blob is not None
        assert sent.count(0) == 1
        assert sent[0] == 30_000


async def test_an_upload_to_which_another_request_writes_goes_on_where_it_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The request of a connection that was cut in silence, which the parent still reads from."""
    monkeypatch.setattr(backoff, "TRANSIENT", backoff.TRANSIENT._replace(base=0.05))
    async with stopped_in_a_blob(tmp_path, monkeypatch) as (root, digest, file):
        with file.open("r+b") as other:
            fcntl.flock(other, fcntl.LOCK_EX)
            async with pushing(tmp_path / "child", READ_WRITE, root, going_up=True) as child:
                with recorded_pieces(child) as sent:
                    line = await refusal_of(child)
                    assert line["kind"] == "transient"
                    fcntl.flock(other, fcntl.LOCK_UN)
                    await empty(child)
        assert root.store.blobs.get("a", Digest.parse(digest)) is not None
        assert min(sent) == 30_000


async def test_a_blob_that_is_further_up_is_waited_for_for_seconds(tmp_path: Path) -> None:
    """HEAD found it at the parent's parent, so the client left it out: a Holdfast parent says to the outbox what it
    holds itself. The blob is on its way here."""
    async with (
        pushing(tmp_path / "root", OPEN) as root,
        pushing(tmp_path / "child", READ_WRITE, root, going_up=True) as child,
    ):
        digest = await root.blob("a", b"layer")
        child.keeper.parts.images._bring = lambda *_: asyncio.sleep(0)
        assert (await child.ask("HEAD", f"/v2/a/blobs/{digest}")).status == 200
        assert (await root.ask("DELETE", f"/v2/a/blobs/{digest}")).status == 202
        body = image(await child.blob("a", b"{}"), digest)
        assert (await child.put("a", "x", body)).status == 201
        line = await refusal_of(child)
        assert (line["kind"], digest in str(line["reason"])) == ("transient", True)
