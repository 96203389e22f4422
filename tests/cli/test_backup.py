"""`holdfast backup` beside a serving node, and a node on what `holdfast restore` makes of it."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from holdfast.cli.verbs.maintenance import ReadPace
from holdfast.testing.manual_clock import FakeClock
from holdfast_core import Store
from holdfast_core.recovery.backup import backup
from support.command_line import command
from support.node import Node
from support.plain_push import at, push
from support.stores import flip_bit, push_file, some_bytes
from support.transfer import fetch

LAYER = os.urandom(50_000)


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Node]:
    """A root that takes pushes from anybody, with two workers."""
    with Node(tmp_path / "root", "--anonymous", "push") as serving:
        yield serving


def test_a_node_goes_on_from_a_backup(node: Node, tmp_path: Path) -> None:
    """Same content, same operator, same uuid; nothing of what came after it, and no number given twice."""
    place, to = tmp_path / "backup", tmp_path / "again" / "data"
    digest = push(node.url, "app/web", "v1", LAYER)
    done = command("backup", str(place), "--data", str(node.data))
    assert (done.code, done.out, done.err) == (0, "1 blobs, 1 linked: no problems\n", "")
    push(node.url, "app/web", "v2", b"later")
    node.stop()
    done = command("restore", str(place), "--data", str(to))
    assert (done.code, done.out, done.err) == (0, "1 blobs, 1 linked: no problems\n", "")
    assert command("fsck", "--read-data", "--data", str(to)).code == 0
    with Node(tmp_path / "again", "--anonymous", "push") as again:
        assert at(again.url, "app/web", "v1") == digest
        assert at(again.url, "app/web", "v2") is None
        layer = json.loads(
            fetch(again.url, f"/v2/app/web/manifests/{digest}", headers={"Accept": "*/*"}).body
        )["layers"][0]["digest"]
        assert fetch(again.url, f"/v2/app/web/blobs/{layer}").body == LAYER
        push(again.url, "app/web", "v3", b"next")
    for name in ("operator.json", "token-key.pem"):
        assert (to / name).read_bytes() == (node.data / name).read_bytes()
    assert (json.loads((to / "store.json").read_text())) == json.loads((node.data / "store.json").read_text())
    assert command("fsck", "--read-data", "--data", str(to)).code == 0


def test_damage_is_named(node: Node, tmp_path: Path) -> None:
    push(node.url, "app/web", "v1", LAYER)
    (file,) = (file for file in (node.data / "blobs").glob("*/*/*") if file.is_file())
    flip_bit(file, 40_000)
    done = command("backup", str(tmp_path / "backup"), "--data", str(node.data))
    assert (done.code, done.err) == (1, "")
    assert done.out.startswith(f"sha256:{file.name}: its file hashes to sha256:")
    assert done.out.endswith("1 blobs: 1 problem\n")


def test_what_is_refused(node: Node, tmp_path: Path) -> None:
    done = command("backup", str(tmp_path / "root"), "--data", str(node.data))
    sentence = f"{tmp_path}/root is not empty and is no copy of a store; allowed: an empty directory"
    assert (done.code, done.err) == (2, f"holdfast: {sentence}\n")
    done = command("restore", str(node.data), "--data", str(tmp_path / "to"))
    sentence = f"{node.data} is no backup; allowed: what `holdfast backup` made"
    assert (done.code, done.err) == (2, f"holdfast: {sentence}\n")


def test_damage_of_the_index_is_no_wrong_request(tmp_path: Path) -> None:
    data = tmp_path / "data"
    with closing(Store.create_or_open(data, write=True)) as store:
        for number in range(100):
            push_file(store, "r", b"small %d" % number)
    index = data / "index" / "data.mdb"
    body = bytearray(index.read_bytes())
    for start in range(2 * 4096, len(body), 4096):
        body[start : start + 16] = bytes(16)
    index.write_bytes(body)
    for verb in (("backup", str(tmp_path / "to")), ("compact",), ("fsck", "--repair")):
        done = command(*verb, "--data", str(data))
        assert (done.code, "holdfast rebuild" in done.err) == (1, True), (verb, done)


def test_a_pace_is_kept_from_the_first_second_on() -> None:
    """100 MB at 10 MB a second take as long as that, but for the tenth of a second that may come at once."""
    clock, waits = FakeClock(), list[float]()

    def sleep(seconds: float) -> None:
        waits.append(seconds)
        clock.advance(seconds)

    pace = ReadPace(10, clock, sleep)
    for _ in range(100):
        pace.told(1_000_000)
    assert sum(waits) == pytest.approx(9.9)
    ReadPace(None, clock, sleep).told(1 << 40)
    assert sum(waits) == pytest.approx(9.9)


def test_a_backup_is_told_of_every_byte_that_it_read(tmp_path: Path) -> None:
    data, bodies = tmp_path / "data", [some_bytes(2_500_000, n) for n in range(3)]
    with closing(Store.create_or_open(data, write=True)) as store:
        for body in bodies:
            push_file(store, "r", body)
    told = list[int]()
    assert backup(data, tmp_path / "to", pace=told.append).problems == []
    assert sum(told) == sum(map(len, bodies))
    assert max(told) <= 1 << 20
    assert command("backup", str(tmp_path / "again"), "--rate", "100", "--data", str(data)).code == 0
    done = command("backup", str(tmp_path / "slow"), "--rate", "0", "--data", str(data))
    assert (done.code, "--rate" in done.err) == (2, True)
