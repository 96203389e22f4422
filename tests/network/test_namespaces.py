"""The rows of sites that other tests stand on: who reaches whom, how fast, what is counted, and what is left."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.namespaces import HEADERS, Row, Site, require, row
from support.programs import wait_until

RATE = 5_000_000.0
SENT = 2_000_000


@pytest.fixture
def three() -> Iterator[Row]:
    require()
    with row(3, RATE) as made:
        yield made


def connect(site: Site, address: tuple[str, int], limit: float = 5.0) -> socket.socket:
    return site.do(socket.create_connection, address, limit)


def test_only_neighbours_reach_each_other(three: Row) -> None:
    root, middle, leaf = three.sites
    with root.do(socket.create_server, ("0.0.0.0", 0)) as listener:
        port = listener.getsockname()[1]
        connect(middle, (root.below, port)).close()
        connect(root, ("127.0.0.1", port)).close()
        with pytest.raises(OSError, match="unreachable"):
            connect(leaf, (root.below, port))
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", port), 1.0)


def test_a_wire_has_a_rate_and_counts_what_crosses_it(three: Row) -> None:
    root, middle, _ = three.sites
    with (
        root.do(socket.create_server, ("0.0.0.0", 0)) as listener,
        connect(middle, (root.below, listener.getsockname()[1])) as far,
        listener.accept()[0] as near,
    ):
        before, began = three.wires[0].count(), time.monotonic()
        sender = threading.Thread(target=near.sendall, args=(bytes(SENT),))
        sender.start()
        got = 0
        while got < SENT:
            got += len(far.recv(1 << 16))
        took = time.monotonic() - began
        sender.join()
        crossed = three.wires[0].count() - before
    assert took > 0.9 * SENT / RATE
    # what the wire dropped at its queue was sent again, and never crossed; an acknowledgement may say what is missing
    assert SENT <= crossed.payload <= SENT * 1.01
    assert crossed.raw - crossed.payload == HEADERS * (crossed.down_packets + crossed.up_packets)
    assert crossed.down_packets >= SENT / 1448
    assert three.wires[0].unique() == SENT
    assert three.wires[1].count().raw < 1000


@pytest.mark.parametrize("unplugged", [False, True])
def test_what_is_sent_again_after_a_cut_counts_once(unplugged: bool, three: Row) -> None:
    root, middle, _ = three.sites
    wire, got = three.wires[0], 0
    with (
        root.do(socket.create_server, ("0.0.0.0", 0)) as listener,
        connect(middle, (root.below, listener.getsockname()[1])) as far,
        listener.accept()[0] as near,
    ):
        sender = threading.Thread(target=near.sendall, args=(bytes(SENT),))
        sender.start()
        while got < SENT // 4:
            got += len(far.recv(1 << 16))
        wire.cut(unplugged=unplugged)
        time.sleep(0.3)
        wire.heal()
        # a kernel that has no room for what comes drops it, and it comes again
        time.sleep(1.0)
        while got < SENT:
            got += len(far.recv(1 << 16))
        sender.join()
    assert wire.unique() == SENT


@pytest.mark.parametrize("unplugged", [False, True])
def test_a_wire_is_cut_and_healed_under_an_open_connection(unplugged: bool, three: Row) -> None:
    root, middle, _ = three.sites
    wire = three.wires[0]
    with root.do(socket.create_server, ("0.0.0.0", 0)) as listener:
        address = (root.below, listener.getsockname()[1])
        with connect(middle, address) as far, listener.accept()[0] as near:
            wire.cut(unplugged=unplugged)
            near.sendall(b"while it is cut")
            far.settimeout(0.3)
            with pytest.raises(TimeoutError):
                far.recv(100)
            with pytest.raises(OSError, match="unreachable" if unplugged else "timed out"):
                connect(middle, address, 0.3)
            wire.heal()
            far.settimeout(60)
            assert far.recv(100) == b"while it is cut"


def test_nothing_is_left_when_the_tests_are_killed() -> None:
    require()
    code = """
        import subprocess, sys
        from support.namespaces import row
        with row(2) as made:
            left = made.sites[1].do(subprocess.Popen, ["sleep", "1000"], start_new_session=True)
            print(left.pid, flush=True)
            sys.stdin.read()
    """
    environ = {**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[1])}
    command = [sys.executable, "-c", textwrap.dedent(code)]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environ
    ) as tests:
        assert tests.stdout
        left = int(tests.stdout.readline())
        assert Path(f"/proc/{left}").exists()
        tests.send_signal(signal.SIGKILL)
    wait_until(lambda: not alive(left), "what they started is gone")


def alive(pid: int) -> bool:
    """Whether it runs: a child of nobody may stay as a zombie where nobody reaps."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][0] != "Z"
    except OSError:
        return False
