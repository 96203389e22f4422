"""`holdfast fsck --repair`: beside a node it says so, and what is left decides its exit code."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

from holdfast_core import Store
from support.command_line import command
from support.node import Node
from support.stores import file_of, flip_bit, push_file, some_bytes

BODY = some_bytes(50_000)


def test_what_is_mended_and_what_is_left(tmp_path: Path) -> None:
    with closing(Store.create_or_open(tmp_path, write=True)) as store:
        blob = push_file(store, "r", BODY)
    log = tmp_path / "journal" / "log"
    flip_bit(log, log.stat().st_size - 20)
    assert command("fsck", "--data", str(tmp_path)).code == 1
    done = command("fsck", "--repair", "--data", str(tmp_path))
    assert (done.code, done.err) == (0, "")
    assert "1 journals written again" in done.out
    flip_bit(file_of(tmp_path, blob.digest), 7)
    done = command("fsck", "--repair", "--read-data", "--data", str(tmp_path))
    assert (done.code, done.err) == (1, "")
    assert f"{blob.digest}: chunks 0 of 1 are quarantined, in r;" in done.out


def test_not_beside_a_node_and_not_without_a_store(tmp_path: Path) -> None:
    with Node(tmp_path, "--anonymous", "push", workers=1) as node:
        done = command("fsck", "--repair", "--data", str(node.data))
    said = f"holdfast: nothing was repaired: {node.data} is written by another process\n"
    assert (done.code, done.out, done.err) == (2, "", said)
    done = command("fsck", "--repair", "--data", str(tmp_path / "none"))
    assert (done.code, done.err) == (
        2,
        f"holdfast: nothing was repaired: {tmp_path / 'none'} holds no store\n",
    )
