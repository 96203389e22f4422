"""The port of a node that is killed and started again."""

from __future__ import annotations

import errno
import socket
from pathlib import Path

import pytest
from torture.machine import Machine


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
