"""A blob in the middle of its way: the link is cut, the keeper is killed, the machine starts again.

Each byte crosses the link once: what the parent sent is counted and compared with the blob's size.
"""

import hashlib
import os
import signal
from contextlib import closing
from functools import partial
from http.client import HTTPConnection, HTTPResponse
from pathlib import Path

import pytest
from holdfast.testing.fault import ScriptedFault
from holdfast.testing.scripted_process import ScriptedProcess, scripted_process
from holdfast_core.digest import CHUNK_BYTES
from holdfast_core.store import Store
from support.node import Node, parent_toml, restarted
from support.programs import wait_until
from support.transfer import connect

NAME = "library/long"
MB = 1_000_000
#: What a kill costs of what had come, once the link is silent: a chunk that is not whole, one that the hash has not
#: passed, and one that waits for it.
LOST = 3 * CHUNK_BYTES


def started_pull(node: Node, digest: str) -> tuple[HTTPConnection, HTTPResponse]:
    connection = connect(node.url)
    connection.request("GET", f"/v2/{NAME}/blobs/{digest}")
    answer = connection.getresponse()
    assert answer.status == 200
    return connection, answer


def hashed(answer: HTTPResponse, already: bytes = b"") -> str:
    """The digest of a body, read in pieces."""
    found = hashlib.sha256(already)
    while piece := answer.read(1 << 20):
        found.update(piece)
    return f"sha256:{found.hexdigest()}"


def sent(parent: ScriptedProcess, digest: str) -> int:
    """Bytes of that blob that the parent put on the link."""
    return int(parent.stats()["bytes"].get(digest, 0))


def test_a_gigabyte_over_a_link_cut_every_50_megabytes(tmp_path: Path) -> None:
    with scripted_process("--blob", f"{NAME}={1000 * MB}:g") as parent:
        (digest,) = parent.hello["blobs"].values()
        parent.script(ScriptedFault(method="GET", path=digest, times=-1, cut_after=50 * MB))
        with Node(tmp_path, configuration=parent_toml(parent.url), workers=1) as node:
            connection, answer = started_pull(node, digest)
            with closing(connection), closing(answer):
                assert hashed(answer) == digest
            assert sent(parent, digest) <= 1.02 * 1000 * MB
            gets = sum(count for key, count in parent.stats()["requests"].items() if digest in key)
            assert 20 <= gets <= 25


def is_noted(node: Node, least: int) -> bool:
    """Whether a node's store would find so many bytes of its one fill again after a kill."""
    store = Store.create_or_open(node.data, write=False)
    try:
        return sum(len(state.chunks) for state in store.blobs.fills.states()) * CHUNK_BYTES >= least
    finally:
        store.close()


def whole_chunks(size: int) -> int:
    """What of so many first bytes a checkpoint can claim."""
    return size - size % CHUNK_BYTES


@pytest.mark.parametrize(
    ("what", "workers"), [("keeper", 2), ("node", 2), ("node", 0)], ids=["keeper", "node", "one process"]
)
def test_case_fault_12_two_kills_in_the_middle_of_a_blob(tmp_path: Path, what: str, workers: int) -> None:
    """The keeper's death is a pause for its clients; the node's costs them their connection. Neither costs the link
    more than three chunks, however much came since the last checkpoint."""
    size, there = 60 * MB, 20 * MB
    with scripted_process("--blob", f"{NAME}={size}:k") as parent:
        (digest,) = parent.hello["blobs"].values()
        parent.script(ScriptedFault(method="GET", path=digest, stall_after=there, times=2))
        with Node(tmp_path, configuration=parent_toml(parent.url), workers=workers) as node:
            connection, answer = started_pull(node, digest)
            first = b""
            for kill in (1, 2):
                wait_until(partial(is_noted, node, kill * (there - LOST)), "what came to be noted")
                if what == "node":
                    node.program.kill()
                    answer.close()
                    connection.close()
                    node.start()
                    connection, answer = started_pull(node, digest)
                else:
                    first += answer.read(there - LOST)
                    keepers = node.children("keeper")
                    os.kill(keepers[0], signal.SIGKILL)
                    wait_until(partial(restarted, node, "keeper", keepers), "another keeper")
            with closing(connection), closing(answer):
                assert hashed(answer, first) == digest
            wait_until(lambda: held(node, digest), "the blob is held")
            assert list((node.data / "fills").iterdir()) == []
        assert size <= sent(parent, digest) <= size + 2 * LOST


def held(node: Node, digest: str) -> bool:
    """Whether the node keeps the blob as a file."""
    return any(path.is_file() for path in (node.data / "blobs").rglob(digest.partition(":")[2]))


def test_a_fill_goes_on_after_a_restart_without_a_client(tmp_path: Path) -> None:
    """Somebody wanted all of it; that nobody waits any more is no reason to fetch it twice."""
    size, there = 40 * MB, 15 * MB
    with scripted_process("--blob", f"{NAME}={size}:r") as parent:
        (digest,) = parent.hello["blobs"].values()
        parent.script(ScriptedFault(method="GET", path=digest, stall_after=there))
        configuration = parent_toml(parent.url) + '[fills]\non_leave = "finish"\n'
        with Node(tmp_path, configuration=configuration, workers=1) as node:
            connection, answer = started_pull(node, digest)
            answer.read(there)
            answer.close()
            connection.close()
            node.restart()
            wait_until(lambda: held(node, digest), "the blob is held")
        assert sent(parent, digest) == size + there - whole_chunks(there)
