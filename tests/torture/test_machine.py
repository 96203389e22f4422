"""What a node that is killed leaves to the next start: its port, and none of its locks."""

from __future__ import annotations

import errno
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from support.programs import wait_until
from torture.machine import Machine, group_lives


@pytest.mark.parametrize("workers", [0, 2])
def test_a_node_that_is_down_keeps_its_port(place: Path, workers: int) -> None:
    """Another program that took it meanwhile was the reason why a start failed."""
    with Machine(place, place / "store", "", workers=workers) as machine:
        machine.start()
        port = machine.port
        machine.kill()
        with socket.socket() as other:
            with pytest.raises(OSError, match="in use") as refused:
                other.bind(("127.0.0.1", port))
            assert refused.value.errno == errno.EADDRINUSE
        machine.start()
        assert machine.port == port


#: the first thread ends (exit, system call 60), another stays
HALF_DEAD = """
import ctypes, threading, time
threading.Thread(target=time.sleep, args=(600,)).start()
ctypes.CDLL(None).syscall(60, 0)
"""


def test_a_process_lives_as_long_as_a_thread_of_it() -> None:
    """What it holds is held until then: the next start was refused by the lock of one that was killed."""
    process = subprocess.Popen([sys.executable, "-c", HALF_DEAD], start_new_session=True)
    try:
        stat = Path(f"/proc/{process.pid}/stat")
        wait_until(lambda: ") Z " in stat.read_text(), "the first thread to end")
        assert group_lives(process.pid)
    finally:
        os.killpg(process.pid, signal.SIGKILL)
    wait_until(lambda: not group_lives(process.pid), "the end of all threads")
    process.wait()
