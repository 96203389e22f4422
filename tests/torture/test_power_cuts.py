"""The power goes while clients push, delete and pull: nothing acknowledged is lost, nothing wrong is served, and
the node starts again with no hand."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

import pytest
from torture.check import go_on
from torture.client import Connection, Content
from torture.flows import LARGE
from torture.kill import killer
from torture.life import life

CUTS = 20


@pytest.mark.parametrize(("kind", "workers"), [("ext4", 0), ("ext4", 2)])
def test_power_cuts(place: Path, seed: str, kind: str, workers: int) -> None:
    with life(place, f"{seed} {kind} {workers}", kind=kind, workers=workers) as lived:
        for _ in range(CUTS // 2):
            lived.cut()
            assert lived.world.ledger.complaints == [], f"after cut {lived.cuts}"
        lived.end()
        assert lived.world.ledger.complaints == []
        assert lived.world.ledger.acknowledged >= CUTS // 2


def test_a_session_that_the_cut_left_longer_than_its_bytes(place: Path) -> None:
    """ext4 and XFS record the length of a file that grows before the last bytes are there. Of 17 sessions that
    had a length after real cuts under long uploads, 14 ended in zeros, most of them inside a written block. Here
    that is done to a file by hand. What the node says can be gone on with, or the session is gone."""
    with killer(place, "chunked push") as at_work:
        world, machine = at_work.world, at_work.machine
        with closing(Connection(machine.url)) as http:
            upload = world.uploads.begin(http, "push/zeros", Content(300_000, "zeros"))
            world.uploads.append(http, upload, 200_000)
        machine.kill()
        (staging,) = (machine.data / "uploads").iterdir()
        with staging.open("r+b") as file:
            file.seek(200_000 - 3_000)
            file.write(bytes(3_000))
        machine.start(booted=True)
        go_on(world, machine.url, lost=True)
        assert world.ledger.complaints == []
        assert world.seen.total() == 1


def test_a_push_of_bytes_that_the_cut_left_unsound_in_the_cache(place: Path) -> None:
    """A cached file may be zeros after a cut. Who pushes the same blob then has the right bytes in hand."""
    with killer(place, "cold pull") as at_work:
        at_work.flow.prepare(at_work.machine.url, 1)
        at_work.flow.run(at_work.machine.url, 1)
        content = at_work.flow.content(LARGE, 1)
        at_work.machine.kill()
        file = at_work.machine.data / "blobs" / "sha256" / content.digest[7:9] / content.digest[7:]
        file.write_bytes(bytes(content.size))
        at_work.machine.start(booted=True)
        with closing(Connection(at_work.machine.url)) as http:
            target = f"/v2/push/again/blobs/uploads/?digest={content.digest}"
            http.expect(201, "POST", target, content.bytes(), {"Content-Type": "application/octet-stream"})
            assert http.ask("GET", f"/v2/push/again/blobs/{content.digest}").body == content.bytes()


def test_a_node_that_does_not_sync_is_caught(place: Path, seed: str) -> None:
    """The same cuts, and a node that syncs its index alone: what was acknowledged is lost, and it is seen."""
    with life(place, seed, synced=False) as lived:
        while not lived.world.ledger.complaints:
            lived.cut()
            assert lived.cuts < 5
    print(*lived.world.ledger.complaints, sep="\n")
