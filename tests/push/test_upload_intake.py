"""From a body to a staging file: bounded memory, every byte in its place, whatever ends the body."""

from __future__ import annotations

import asyncio
import gc
import os
import threading
import weakref
from concurrent.futures import ThreadPoolExecutor

import pytest
from holdfast.errors import BodyBroken, ClientGone, SizeInvalid
from holdfast.push.context import PushContext
from holdfast.push.session_writer import PENDING_BYTES, StagingWriter, catch_up
from holdfast_core import ChunkHasher, Digest
from holdfast_core.blob_files.upload_files import Staging, Uploads
from holdfast_core.errors import Exhausted
from support.patience import PATIENCE
from support.stores import hashed, some_bytes

pytestmark = pytest.mark.loop("asyncio")

NAME = Uploads.name("id", "r")


async def admitted(size):
    """There is room for everything."""


class Pieces:
    """A body that a test made beforehand; an exception among the pieces is raised."""

    length = None

    def __init__(self, *pieces):
        self.pieces, self.received, self.reads = list(pieces), 0, 0

    async def read(self):
        self.reads += 1
        if not self.pieces:
            return b""
        piece = self.pieces.pop(0)
        if isinstance(piece, Exception):
            raise piece
        self.received += len(piece)
        return piece


@pytest.fixture
def staging(tmp_path):
    fd = os.open(tmp_path, os.O_RDONLY)
    uploads = Uploads(fd)
    uploads.create(NAME)
    found = uploads.open(NAME)
    yield found
    found.close()
    os.close(fd)


@pytest.fixture
def threads():
    with ThreadPoolExecutor(2) as pool:
        yield pool


def take(staging, hasher, threads, body, most=None):
    asyncio.run(
        asyncio.wait_for(StagingWriter(staging, hasher, threads, admitted).take(body, most), PATIENCE)
    )


def content(staging):
    return os.pread(staging.fd, os.fstat(staging.fd).st_size, 0)


@pytest.mark.parametrize("step", [1, 1000, 1 << 20, 3 << 20])
def test_bytes_arrive_and_are_hashed_in_order(staging, threads, step):
    body = some_bytes(min(5000 * step, (5 << 20) + 17))
    hasher = ChunkHasher()
    take(staging, hasher, threads, Pieces(*(body[at : at + step] for at in range(0, len(body), step))))
    assert content(staging) == body
    assert (hasher.digest(), hasher.table()) == hashed(body)


def test_a_hasher_that_has_not_seen_everything_is_left_behind_and_catches_up(staging, threads):
    staging.append(b"seen by another worker")
    hasher = ChunkHasher()
    take(staging, hasher, threads, Pieces(b"here"))
    assert hasher.size == 0
    asyncio.run(catch_up(hasher, staging, threads))
    assert hasher.digest() == Digest.of(b"seen by another workerhere")


def test_catching_up_over_several_jobs(staging, threads, monkeypatch):
    monkeypatch.setattr("holdfast.push.session_writer.JOB_BYTES", 1 << 20)
    body = some_bytes((3 << 20) + 5)
    staging.append(body)
    hasher = ChunkHasher("sha512")
    hasher.update(body[:1000])
    asyncio.run(catch_up(hasher, staging, threads))
    assert (hasher.digest(), hasher.table()) == hashed(body, "sha512")


@pytest.mark.parametrize("ending", [ClientGone("gone"), BodyBroken("chunk")])
@pytest.mark.parametrize("cut", [0, 1, 7])
def test_case_29_what_came_before_the_end_is_in_place(staging, threads, ending, cut):
    pieces = [b"x" * 100] * cut
    hasher = ChunkHasher()
    with pytest.raises(type(ending)):
        take(staging, hasher, threads, Pieces(*pieces, ending))
    assert content(staging) == b"x" * 100 * cut
    assert staging.size == hasher.size == 100 * cut


def test_case_19_a_body_longer_than_said_is_stopped_at_once(staging, threads):
    body = Pieces(b"12345", b"67890", b"x", *[b"never read"] * 5)
    with pytest.raises(SizeInvalid):
        take(staging, ChunkHasher(), threads, body, most=10)
    assert body.reads == 3


class Gate(Staging):
    """A staging file whose writes wait for the test."""

    opened = threading.Event()
    written = 0

    def append(self, data):
        assert self.opened.wait(PATIENCE)
        super().append(data)


def test_a_disk_that_does_not_keep_up_stops_the_client(staging, threads):
    """The memory of an upload is bounded by its own bytes, not by those that could come."""
    staging.__class__, staging.opened = Gate, threading.Event()
    body = Pieces(*[bytes(1 << 18)] * 400)

    async def run():
        task = asyncio.create_task(StagingWriter(staging, ChunkHasher(), threads, admitted).take(body, None))
        for _ in range(50):
            await asyncio.sleep(0)
        assert not task.done()
        held, reads = body.received, body.reads
        for _ in range(50):
            await asyncio.sleep(0)
        assert body.reads == reads  # nobody reads on
        staging.opened.set()
        await asyncio.wait_for(task, PATIENCE)
        return held

    assert PENDING_BYTES <= asyncio.run(run()) <= PENDING_BYTES + (1 << 18)
    assert staging.size == 400 << 18


class Full(Staging):
    """A disk that is full after 1 MiB."""

    def append(self, data):
        if self.size + len(data) > 1 << 20:
            raise Exhausted("full")
        super().append(data)


def test_case_30_a_full_disk_is_told_and_nothing_more_is_read(staging, threads):
    staging.__class__ = Full
    body = Pieces(*[bytes(1 << 18)] * 4000)
    with pytest.raises(Exhausted):
        take(staging, ChunkHasher(), threads, body)
    assert body.reads < 50
    assert staging.size <= 1 << 20


async def test_a_cancelled_intake_leaves_no_thread_in_the_file(staging, threads):
    staging.__class__, staging.opened = Gate, threading.Event()

    class Endless(Pieces):
        async def read(self):
            if self.pieces:
                return await super().read()
            return await asyncio.get_running_loop().create_future()

    task = asyncio.create_task(
        StagingWriter(staging, ChunkHasher(), threads, admitted).take(Endless(b"abc"), None)
    )
    for _ in range(5):
        await asyncio.sleep(0)
    task.cancel()
    for _ in range(5):
        await asyncio.sleep(0)
    assert not task.done()  # the write is waited for
    staging.opened.set()
    await asyncio.wait((task,), timeout=PATIENCE)
    assert task.cancelled()
    assert staging.size == 3


class Weak(Pieces):
    """A body that a weak reference can watch."""


class Breaking(Weak):
    """It breaks off at its end, by an error that it does not keep."""

    async def read(self):
        if not self.pieces:
            raise ClientGone("left")
        return await super().read()


@pytest.mark.parametrize("ends", ["writing", "body"])
def test_what_a_failed_upload_held_is_free_without_the_collector(staging, threads, monkeypatch, ends):
    """The error is kept by nobody: its trace holds every frame, and those hold the bytes."""

    def full(_data):
        raise Exhausted("no space left")

    async def push():
        body = (Breaking if ends == "body" else Weak)(b"a" * 10, b"b" * 10)
        alive.append(weakref.ref(body))
        await StagingWriter(staging, ChunkHasher(), threads, admitted).take(body, None)

    async def test():
        with pytest.raises((Exhausted, ClientGone)):
            await PushContext(threads=threads).see_through(push())
        await asyncio.sleep(0)

    alive = []
    monkeypatch.setattr(staging, "append", full)
    gc.collect()
    gc.disable()
    try:
        asyncio.run(asyncio.wait_for(test(), PATIENCE))
        assert [ref() for ref in alive] == [None]
    finally:
        gc.enable()
